//! The kernel's door: every system call that the standard library and `socket2` do not wrap. All `unsafe` of
//! this crate is here.
//!
//! **What memory, owned by whom, when.** All memory lent to the kernel is borrowed by a function of this file
//! for the length of one synchronous call: the headers, vectors and events lie on its stack or in a slice it
//! holds by `&mut`; names, control messages and contents in slices it holds by reference. The call returns
//! before the borrow ends and the kernel keeps no pointer behind it, so there is never a second writer.
//! Nothing here is stored, which is why the ring can move between threads before it starts. Descriptors are
//! owned by `OwnedFd`s (or the standard library's sockets) and only borrowed here.
//!
//! Why `libc` and not `rustix`: `recvmmsg` with control messages is not wrapped there, and that is most of
//! this file.
#![allow(unsafe_code)]
// The widths of `msghdr`'s fields differ between C libraries: a cast that is idle here is needed there.
#![allow(clippy::unnecessary_cast)]

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use libc::{c_int, c_void};

use crate::address::NAME_BYTES_MAX;
use crate::control::INCOMING_BYTES_MAX;

/// The most headers that one `recvmmsg` or `sendmmsg` carries. They are laid out on the stack anew for each
/// call (5 KiB), which is cheap beside the 0.7 to 2.5 µs that the kernel takes per datagram, and leaves no
/// self-referential memory behind.
pub(crate) const BATCH_MAX: usize = 64;

/// Sets an integer socket option.
pub(crate) fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the option value points to a live `c_int` of the given length, read during the call only.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, ptr::from_ref(&value).cast::<c_void>(), length)
    };
    check(result).map(drop)
}

/// Attaches a classic BPF program that picks the socket of a `SO_REUSEPORT` group.
pub(crate) fn attach_reuseport_filter(
    socket: BorrowedFd<'_>,
    program: &[libc::sock_filter],
) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: `program` points to `length` live instructions; the kernel copies them during the call and does
    // not write to them.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            ptr::from_ref(&program).cast::<c_void>(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    check(result).map(drop)
}

/// Breaks a TCP connection off: the peer gets RST at once, and whatever waits on the socket ends.
pub(crate) fn disconnect(stream: BorrowedFd<'_>) -> io::Result<()> {
    let family = libc::AF_UNSPEC as libc::sa_family_t;
    let nobody = libc::sockaddr { sa_family: family, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the address is live and of the given length; it is read during the call only.
    let result = unsafe { libc::connect(stream.as_raw_fd(), &raw const nobody, length) };
    check(result).map(drop)
}

/// Opens a non-blocking event counter.
pub(crate) fn event_counter() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: `fd` was just opened and is owned by no one else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An epoll instance.
pub(crate) struct Epoll {
    fd: OwnedFd,
    /// False once the kernel has said that it lacks `epoll_pwait2` (before Linux 5.11): timeouts are then
    /// whole milliseconds.
    fine_timeouts: bool,
}

/// Readiness, as handed out by [`Epoll::wait`].
#[derive(Clone, Copy)]
pub(crate) struct Event {
    pub(crate) token: u64,
    pub(crate) flags: u32,
}

/// Room for the events of one wait.
pub(crate) struct Events {
    room: Box<[libc::epoll_event]>,
}

/// `struct __kernel_timespec`: 64-bit on every architecture.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

impl Events {
    pub(crate) fn with_capacity(events_max: usize) -> Events {
        Events { room: vec![libc::epoll_event { events: 0, u64: 0 }; events_max].into_boxed_slice() }
    }

    /// The event at `index`, which is below the count that the last wait returned.
    pub(crate) fn get(&self, index: usize) -> Event {
        let event = self.room[index];
        Event { token: event.u64, flags: event.events }
    }
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: takes no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` was just opened and is owned by no one else.
        Ok(Epoll { fd: unsafe { OwnedFd::from_raw_fd(fd) }, fine_timeouts: true })
    }

    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64, flags: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, flags)
    }

    pub(crate) fn modify(&self, fd: BorrowedFd<'_>, token: u64, flags: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, flags)
    }

    fn control(&self, operation: c_int, fd: BorrowedFd<'_>, token: u64, flags: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: flags, u64: token };
        // SAFETY: `event` is live during the call, which reads it.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd.as_raw_fd(), &mut event) })
            .map(drop)
    }

    /// Waits for readiness, at most `timeout` (`None`: for ever). An interrupting signal counts as nothing
    /// ready.
    pub(crate) fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<usize> {
        let result = if self.fine_timeouts {
            self.wait_fine(events, timeout)
        } else {
            self.wait_coarse(events, timeout)
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) if self.fine_timeouts && error.raw_os_error() == Some(libc::ENOSYS) => {
                self.fine_timeouts = false;
                self.wait(events, timeout)
            }
            result => result,
        }
    }

    fn wait_fine(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<usize> {
        let timeout = timeout.map(|timeout| KernelTimespec {
            seconds: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::from(timeout.subsec_nanos()),
        });
        let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: `events.room` is writable for as many events as are named and held by `&mut`; `timeout` is
        // null or points to a live value; no signal mask is given.
        let result = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                events.room.as_mut_ptr(),
                events.room.len() as c_int,
                timeout,
                ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        check(result as c_int).map(|count| count as usize)
    }

    fn wait_coarse(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<usize> {
        // Rounded up: waking too early would make the caller spin until the millisecond is over.
        let timeout_ms = timeout.map_or(-1, |timeout| {
            c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX)
        });
        let room = events.room.len() as c_int;
        // SAFETY: `events.room` is writable for `room` events and held by `&mut` during the call.
        let result =
            unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events.room.as_mut_ptr(), room, timeout_ms) };
        check(result).map(|count| count as usize)
    }
}

/// What the kernel wrote beside one received datagram or train.
pub(crate) struct Slot {
    name: [u8; NAME_BYTES_MAX],
    control: [u8; INCOMING_BYTES_MAX],
    name_length: usize,
    control_length: usize,
    /// Bytes written to the slot's part of the arena.
    pub(crate) length: usize,
    /// True if the datagram was longer than the slot.
    pub(crate) truncated: bool,
}

impl Slot {
    pub(crate) const EMPTY: Slot = Slot {
        name: [0; NAME_BYTES_MAX],
        control: [0; INCOMING_BYTES_MAX],
        name_length: 0,
        control_length: 0,
        length: 0,
        truncated: false,
    };

    pub(crate) fn name(&self) -> &[u8] {
        &self.name[..self.name_length]
    }

    pub(crate) fn control(&self) -> &[u8] {
        &self.control[..self.control_length]
    }
}

/// Receives at most one datagram or train per slot, into the part of `arena` of the same index and
/// `slot_bytes` length. Does not wait. Returns how many slots were filled.
pub(crate) fn receive_batch(
    socket: BorrowedFd<'_>,
    arena: &mut [u8],
    slot_bytes: usize,
    slots: &mut [Slot],
) -> io::Result<usize> {
    let count = slots.len();
    assert!(count <= BATCH_MAX && count * slot_bytes <= arena.len(), "a slot without memory");
    let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH_MAX];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH_MAX];
    let chunks = arena.chunks_exact_mut(slot_bytes);
    let places = headers.iter_mut().zip(&mut vectors);
    for ((header, vector), (contents, slot)) in places.zip(chunks.zip(slots.iter_mut())) {
        let contents = (contents.as_mut_ptr().cast::<c_void>(), slot_bytes);
        let name = (slot.name.as_mut_ptr().cast::<c_void>(), NAME_BYTES_MAX);
        let control = (slot.control.as_mut_ptr().cast::<c_void>(), INCOMING_BYTES_MAX);
        header.write(message(vector, contents, name, control));
    }
    // SAFETY: the first `count` headers are written and point to names, control room and vectors that are live,
    // writable and disjoint (each header has its own slot and its own chunk of the arena, both held by `&mut`),
    // with their true lengths; the kernel is told of no other header.
    let result = unsafe {
        let flags = libc::MSG_DONTWAIT as _;
        libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr().cast(), count as u32, flags, ptr::null_mut())
    };
    let received = check(result)? as usize;
    for (header, slot) in headers.iter().zip(slots.iter_mut()).take(received) {
        // SAFETY: `received` is at most `count`, and that many headers were written above.
        let header = unsafe { header.assume_init_ref() };
        slot.length = header.msg_len as usize;
        slot.name_length = (header.msg_hdr.msg_namelen as usize).min(NAME_BYTES_MAX);
        slot.control_length = (header.msg_hdr.msg_controllen as usize).min(INCOMING_BYTES_MAX);
        slot.truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
    }
    Ok(received)
}

/// One datagram or train on its way to the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) control: &'a [u8],
    pub(crate) contents: &'a [u8],
}

impl Packet<'_> {
    pub(crate) const EMPTY: Packet<'static> = Packet { name: &[], control: &[], contents: &[] };
}

/// Sends the packets in order, as many as the kernel takes without waiting. An error speaks of the first
/// packet.
pub(crate) fn send_batch(socket: BorrowedFd<'_>, packets: &[Packet<'_>]) -> io::Result<usize> {
    let count = packets.len();
    assert!(count <= BATCH_MAX, "more packets than headers");
    let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH_MAX];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH_MAX];
    for ((header, vector), packet) in headers.iter_mut().zip(&mut vectors).zip(packets) {
        header.write(message(vector, part(packet.contents), part(packet.name), part(packet.control)));
    }
    // SAFETY: the first `count` headers are written and point to live slices with their true lengths; sending reads
    // them and writes only `msg_len` of the headers, which this function owns; the kernel is told of no other header.
    let result = unsafe {
        let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _;
        libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr().cast(), count as u32, flags)
    };
    check(result).map(|sent| sent as usize)
}

/// Where memory begins, and its bytes.
type Part = (*mut c_void, usize);

/// Memory that is only read: sendmsg(2) takes the same structures as recvmsg(2).
fn part(bytes: &[u8]) -> Part {
    let start = if bytes.is_empty() { ptr::null_mut() } else { bytes.as_ptr().cast_mut().cast::<c_void>() };
    (start, bytes.len())
}

/// A header of one message. Only the headers of a call are written, not all that there is room for: at a message per
/// wake that would be 5 KiB of cold memory for every call.
fn message(
    vector: &mut MaybeUninit<libc::iovec>,
    contents: Part,
    name: Part,
    control: Part,
) -> libc::mmsghdr {
    let vector = vector.write(libc::iovec { iov_base: contents.0, iov_len: contents.1 });
    // SAFETY: all fields are integers and pointers, for which zero is a valid value.
    let mut message: libc::mmsghdr = unsafe { zeroed() };
    let header = &mut message.msg_hdr;
    (header.msg_name, header.msg_namelen) = (name.0, name.1 as libc::socklen_t);
    (header.msg_iov, header.msg_iovlen) = (vector, 1);
    (header.msg_control, header.msg_controllen) = (control.0, control.1 as _);
    message
}

/// Turns the kernel's -1 into the error it left behind.
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
