//! The submission and completion queues, and everything that is lent to the kernel through them.
//!
//! ```text
//!   arm_*, watch, write, cancel ──► submission queue ─┐
//!   datagrams of this call ─────────────────────────► enter ──► kernel
//!   next ◄── arrived, written ◄── completion queue ◄────┘         │ fills
//!                        datagram buffers, stream buffers ◄───────┘
//! ```
//!
//! **What memory, owned by whom, when.** Three kinds of memory are lent:
//! * received contents: the buffers of `buffers.rs`, the kernel's until a completion names one;
//! * writes to doors: the leases of `lease.rs`, the kernel's until their completion;
//! * datagrams to send: borrowed by [`Kernel::enter`] for the length of the call. They are sent with `MSG_DONTWAIT`, with
//!   which a request is finished, one way or the other, within the system call that submits it: it neither waits for the
//!   socket nor moves to another thread. `enter` returns only when the kernel has taken every entry of the queue.
//!
//! The headers and vectors of the last kind, and the template of multishot receive, lie in boxes that live as long as
//! the ring. On drop all requests are cancelled and their ends awaited before any of this is freed; if that cannot be
//! done (the ring is dropped by a thread that may not enter it) the memory is leaked rather than freed.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::mem::{ManuallyDrop, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use libc::{c_void, iovec, msghdr};

use super::buffers::BufferRing;
use super::lease::{Leases, Offer};
use super::setup::{self, COMPLETIONS, Mode};
use super::token::{Completion, Kind, Token};
use crate::address::NAME_BYTES_MAX;
use crate::control::INCOMING_BYTES_MAX;
use crate::sys::Packet;

/// A ring of the kernel's, with what is lent through it.
pub(super) struct Kernel {
    ring: IoUring,
    /// Set by the first enter, which makes its thread the ring's.
    is_enabled: bool,
    /// Requests whose end the kernel owes us.
    in_flight: usize,
    arrived: VecDeque<Completion>,
    /// Writes that have succeeded, at least in part: told apart, because they can be told sooner.
    written: VecDeque<Completion>,
    /// What became of each datagram of the last enter: 0, or why it was refused.
    outcomes: Vec<i32>,
    /// What could not be submitted between enters: the next one returns it.
    failure: Option<io::Error>,
    /// A write has been queued since the last enter.
    has_queued_writes: bool,
    /// Descriptors that queued requests may still name: closed when the queue has been taken.
    closing: Vec<OwnedFd>,
    lent: ManuallyDrop<Lent>,
}

/// Freed only when no request is in flight.
struct Lent {
    datagrams: Option<BufferRing>,
    streams: Option<BufferRing>,
    writes: Leases,
    /// The sizes of name and control messages that each received datagram has room for.
    template: Box<msghdr>,
    headers: Box<[msghdr]>,
    vectors: Box<[iovec]>,
}

// SAFETY: the pointers in `template`, `headers` and `vectors` are followed by the kernel alone, and only within `enter`.
unsafe impl Send for Lent {}

impl Kernel {
    /// A ring, not yet bound to a thread. `files_max` sockets can be registered. Deferred work runs when completions are asked
    /// for, if it `may_defer` and the kernel can.
    pub(super) fn new(files_max: u32, may_defer: bool) -> io::Result<(Kernel, Mode)> {
        let (ring, mode) = setup::make_ring(may_defer)?;
        ring.submitter().register_files_sparse(files_max)?;
        // SAFETY: all fields are integers and pointers, for which zero is a valid value.
        let mut template: Box<msghdr> = Box::new(unsafe { zeroed() });
        template.msg_namelen = NAME_BYTES_MAX as _;
        template.msg_controllen = INCOMING_BYTES_MAX as _;
        // SAFETY: as above.
        let headers = (0..SENDS_MAX).map(|_| unsafe { zeroed() }).collect();
        let vectors = vec![iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; SENDS_MAX];
        let lent = Lent {
            datagrams: None,
            streams: None,
            writes: Leases::new(),
            template,
            headers,
            vectors: vectors.into_boxed_slice(),
        };
        let kernel = Kernel {
            ring,
            is_enabled: false,
            in_flight: 0,
            arrived: VecDeque::with_capacity(ARRIVED_MAX),
            written: VecDeque::new(),
            outcomes: Vec::with_capacity(SENDS_MAX),
            failure: None,
            has_queued_writes: false,
            closing: Vec::new(),
            lent: ManuallyDrop::new(lent),
        };
        Ok((kernel, mode))
    }

    /// A descriptor by which other rings name this one. It may outlive the ring.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        // SAFETY: the ring owns the descriptor and is borrowed for as long as this one is looked at.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }.try_clone_to_owned()
    }

    /// Makes the buffers for datagrams, unless there are some.
    pub(super) fn provide_datagram_buffers(&mut self, count: u16, contents_bytes: usize) -> io::Result<()> {
        if self.lent.datagrams.is_none() {
            let bytes = RECEIVE_HEADER_BYTES + NAME_BYTES_MAX + INCOMING_BYTES_MAX + contents_bytes;
            let ring = BufferRing::new(&self.ring.submitter(), DATAGRAM_GROUP, count, bytes)?;
            self.lent.datagrams = Some(ring);
        }
        Ok(())
    }

    /// Makes the buffers for byte streams, unless there are some.
    pub(super) fn provide_stream_buffers(&mut self, count: u16, bytes: usize) -> io::Result<()> {
        if self.lent.streams.is_none() {
            let ring = BufferRing::new(&self.ring.submitter(), STREAM_GROUP, count, bytes)?;
            self.lent.streams = Some(ring);
        }
        Ok(())
    }

    /// Registers a socket under a number, which spares each request the look-up of its descriptor.
    pub(super) fn register_file(&mut self, file: u32, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.ring.submitter().register_files_update(file, &[fd.as_raw_fd()]).map(drop)
    }

    /// Lets go of a registered socket.
    pub(super) fn forget_file(&mut self, file: u32) {
        // The number is one that was registered: there is nothing to refuse.
        let _ = self.ring.submitter().register_files_update(file, &[-1]);
    }

    /// Receives datagrams from a registered socket until it is cancelled or buffers run out.
    pub(super) fn arm_receive(&mut self, file: u32, token: Token) {
        let template = &raw const *self.lent.template;
        self.push(opcode::RecvMsgMulti::new(Fixed(file), template, DATAGRAM_GROUP).build(), token);
    }

    /// Accepts connections from a registered listener until it is cancelled or descriptors run out.
    pub(super) fn arm_accept(&mut self, file: u32, token: Token) {
        self.push(opcode::AcceptMulti::new(Fixed(file)).flags(libc::SOCK_CLOEXEC).build(), token);
    }

    /// Reads from a stream into the stream buffers: for good, or (`once`) one buffer.
    pub(super) fn arm_read(&mut self, stream: BorrowedFd<'_>, once: bool, token: Token) {
        let fd = Fd(stream.as_raw_fd());
        let entry = if once {
            let entry = opcode::Recv::new(fd, std::ptr::null_mut(), 0).buf_group(STREAM_GROUP).build();
            entry.flags(Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(fd, STREAM_GROUP).build()
        };
        self.push(entry, token);
    }

    /// Waits once until a registered socket has room to send.
    pub(super) fn watch_room(&mut self, file: u32, token: Token) {
        self.push(opcode::PollAdd::new(Fixed(file), libc::POLLOUT as u32).build(), token);
    }

    /// Tells when a stream has broken or is shut in both directions, until it is cancelled.
    pub(super) fn watch_hangup(&mut self, stream: BorrowedFd<'_>, token: Token) {
        // An empty mask: errors and hang-ups are always reported. So is the peer's FIN, which lasts: only a request that
        // goes on can look behind it.
        self.push(opcode::PollAdd::new(Fd(stream.as_raw_fd()), 0).multi(true).build(), token);
    }

    /// Tells each time that a registered counter is added to.
    pub(super) fn watch_counter(&mut self, file: u32, token: Token) {
        self.push(opcode::PollAdd::new(Fixed(file), libc::POLLIN as u32).multi(true).build(), token);
    }

    /// Asks for the end of another request, which that request tells itself.
    pub(super) fn cancel(&mut self, of: Token) {
        let entry = opcode::AsyncCancel::new(of.encode()).build().flags(Flags::SKIP_SUCCESS);
        self.push(entry, Token { kind: Kind::Cancel, ..of });
    }

    /// Has a completion with `told` appear in another ring. Tells `token` only if that fails.
    pub(super) fn tell_ring(&mut self, ring: BorrowedFd<'_>, told: Token, token: Token) {
        let entry = opcode::MsgRingData::new(Fd(ring.as_raw_fd()), 0, told.encode(), None).build();
        self.push(entry.flags(Flags::SKIP_SUCCESS), token);
    }

    /// The writes to doors.
    pub(super) fn writes(&mut self) -> &mut Leases {
        &mut self.lent.writes
    }

    /// Writes what a lease has left: what there is room for now, or (`waits`) all of it, however long that takes.
    pub(super) fn write(&mut self, stream: BorrowedFd<'_>, lease: u32, waits: bool) {
        let fd = Fd(stream.as_raw_fd());
        let flags = libc::MSG_NOSIGNAL | if waits { libc::MSG_WAITALL } else { libc::MSG_DONTWAIT };
        let entry = match self.lent.writes.get(lease).offer() {
            Offer::Plain(start, length) => opcode::Send::new(fd, start, length).flags(flags).build(),
            Offer::Vectored(header) => opcode::SendMsg::new(fd, header).flags(flags as u32).build(),
        };
        self.push(entry, Token::new(Kind::Write, lease));
        self.has_queued_writes = true;
    }

    /// Closes a descriptor as soon as no queued request can name it any more.
    pub(super) fn close_later(&mut self, fd: OwnedFd) {
        self.closing.push(fd);
    }

    /// Whether requests wait to be submitted.
    pub(super) fn has_queued(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Whether writes to doors are among the requests that wait to be submitted.
    pub(super) fn has_queued_writes(&self) -> bool {
        self.has_queued_writes
    }

    /// Takes the next write that has succeeded.
    pub(super) fn next_written(&mut self) -> Option<Completion> {
        self.written.pop_front()
    }

    /// The next completion of any other kind, without taking it.
    pub(super) fn peek(&self) -> Option<Completion> {
        self.arrived.front().copied()
    }

    /// Takes the next completion. What it says of leases is true from now on.
    pub(super) fn next(&mut self) -> Option<Completion> {
        self.arrived.pop_front()
    }

    /// Hands the contents of a filled datagram buffer to `take`, and the buffer back to the kernel.
    pub(super) fn take_datagram<R>(
        &mut self,
        buffer: u16,
        length: usize,
        take: impl FnOnce(&[u8]) -> R,
    ) -> R {
        let ring = self.lent.datagrams.as_mut().expect("who receives has buffers");
        take_from(ring, buffer, length, take)
    }

    /// Hands the contents of a filled stream buffer to `take`, and the buffer back to the kernel.
    pub(super) fn take_bytes<R>(&mut self, buffer: u16, length: usize, take: impl FnOnce(&[u8]) -> R) -> R {
        let ring = self.lent.streams.as_mut().expect("who reads has buffers");
        take_from(ring, buffer, length, take)
    }

    /// Submits everything, `sends` (of registered sockets, at most [`SENDS_MAX`]) included, then waits for a completion
    /// for at most `wait` (`None`: for ever; zero: not at all). All `sends` are over when it returns; what became of them
    /// is in [`outcomes`](Kernel::outcomes).
    ///
    /// # Errors
    /// The ring is broken, or this is not its thread.
    pub(super) fn enter<'a>(
        &mut self,
        sends: impl Iterator<Item = (u32, Packet<'a>)>,
        wait: Option<Duration>,
    ) -> io::Result<()> {
        self.enable()?;
        self.outcomes.clear();
        for (index, (file, packet)) in sends.enumerate() {
            assert!(index < SENDS_MAX, "more datagrams than headers");
            self.outcomes.push(0);
            self.stage(index, file, packet);
        }
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        self.submit(wait)?;
        self.closing.clear();
        self.has_queued_writes = false;
        Ok(())
    }

    /// What became of the datagrams of the last [`enter`](Kernel::enter), in their order: 0 if sent, else the error.
    pub(super) fn outcomes(&self) -> &[i32] {
        &self.outcomes
    }

    fn enable(&mut self) -> io::Result<()> {
        if !self.is_enabled {
            self.ring.submitter().register_enable_rings()?;
            self.is_enabled = true;
        }
        Ok(())
    }

    fn stage(&mut self, index: usize, file: u32, packet: Packet<'_>) {
        let lent = &mut *self.lent;
        let vector = &mut lent.vectors[index];
        vector.iov_base = packet.contents.as_ptr().cast_mut().cast::<c_void>();
        vector.iov_len = packet.contents.len();
        let header = &mut lent.headers[index];
        header.msg_name = packet.name.as_ptr().cast_mut().cast::<c_void>();
        header.msg_namelen = packet.name.len() as _;
        header.msg_iov = &raw mut *vector;
        header.msg_iovlen = 1;
        header.msg_control = packet.control.as_ptr().cast_mut().cast::<c_void>();
        header.msg_controllen = packet.control.len() as _;
        let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32;
        let entry = opcode::SendMsg::new(Fixed(file), &raw const *header).flags(flags).build();
        self.push(entry.flags(Flags::SKIP_SUCCESS), Token::new(Kind::Datagram, index as u32));
    }

    /// Queues a request; submits what is queued if there is no room.
    fn push(&mut self, entry: Entry, token: Token) {
        let entry = entry.user_data(token.encode());
        self.in_flight += usize::from(token.owes_an_end());
        loop {
            // SAFETY: what the entry points to is the template, a lease or a header and a datagram of the call that is
            // being made: all live until the request is over, as the head of this file argues. The descriptor is
            // registered, or stays open until the queue has been taken (`close_later`).
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            let submitted = self.enable().and_then(|()| self.submit(Some(Duration::ZERO)));
            if let Err(error) = submitted {
                self.in_flight -= usize::from(token.owes_an_end());
                self.failure = Some(error);
                return;
            }
        }
    }

    /// Enters the kernel until it has taken the whole queue, and nothing that it has to say is left with it.
    fn submit(&mut self, mut wait: Option<Duration>) -> io::Result<()> {
        let lent = &mut *self.lent;
        lent.datagrams.iter_mut().chain(&mut lent.streams).for_each(BufferRing::publish);
        for _ in 0..ATTEMPTS_MAX {
            if !self.arrived.is_empty() || !self.written.is_empty() {
                wait = Some(Duration::ZERO);
            }
            let entered = self.enter_once(wait);
            self.reap();
            match entered {
                // Busy: completions found no room and had to be reaped first; again: memory was short.
                Err(error) if !is_passing(&error) => return Err(error),
                _ => {}
            }
            // What overflowed the completion queue may tell of these very requests.
            let queue = self.ring.submission();
            if queue.is_empty() && !queue.cq_overflow() {
                return Ok(());
            }
            wait = Some(Duration::ZERO);
        }
        Err(io::Error::new(io::ErrorKind::WouldBlock, "the kernel does not take requests"))
    }

    fn enter_once(&mut self, wait: Option<Duration>) -> io::Result<()> {
        if wait != Some(Duration::ZERO) {
            let submitter = self.ring.submitter();
            let time = wait.map(|wait| Timespec::new().sec(wait.as_secs()).nsec(wait.subsec_nanos()));
            let arguments = SubmitArgs::new();
            return match &time {
                Some(time) => submitter.submit_with_args(1, &arguments.timespec(time)).map(drop),
                None => submitter.submit_and_wait(1).map(drop),
            };
        }
        let queue = self.ring.submission();
        let (queued, overflows) = (queue.len() as u32, queue.cq_overflow());
        // Deferred work brings completions: not more than there is room for.
        let brings_more = overflows || (queue.taskrun() && self.arrived.len() < ARRIVED_MAX / 2);
        drop(queue);
        if queued == 0 && !brings_more {
            return Ok(());
        }
        let flags = if brings_more { ENTER_GETEVENTS } else { 0 };
        // SAFETY: no argument is given; the queue's entries were pushed as `push` argues.
        unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, 0, flags, None) }.map(drop)
    }

    /// Moves what has come to where it is looked for.
    fn reap(&mut self) {
        for entry in self.ring.completion() {
            let token = Token::decode(entry.user_data());
            let completion = Completion::new(token, entry.result(), entry.flags());
            if token.owes_an_end() && !completion.has_more() {
                self.in_flight -= 1;
            }
            match token.kind {
                Kind::Datagram => {
                    self.outcomes[token.slot as usize] = -completion.result;
                }
                Kind::Cancel => {}
                Kind::Write => {
                    self.lent.writes.on_completion(token.slot);
                    // A failure keeps its place behind what was read before.
                    let list = if completion.result >= 0 { &mut self.written } else { &mut self.arrived };
                    list.push_back(completion);
                }
                _ => self.arrived.push_back(completion),
            }
        }
    }

    /// Cancels everything and awaits the ends. Returns whether the kernel holds nothing of ours any more.
    fn quiesce(&mut self) -> bool {
        if !self.is_enabled {
            // Nothing was ever submitted.
            return true;
        }
        for _ in 0..QUIESCE_ATTEMPTS {
            if self.in_flight == 0 && self.ring.submission().is_empty() {
                return true;
            }
            let entry = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
            self.push(entry, Token::new(Kind::Cancel, 0));
            if self.failure.is_some() || self.submit(Some(QUIESCE_WAIT)).is_err() {
                return false;
            }
            self.drop_arrived();
        }
        false
    }

    /// Nobody will look at what has arrived: closes the connections among it.
    fn drop_arrived(&mut self) {
        while let Some(completion) = self.arrived.pop_front() {
            drop(accepted(&completion));
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.drop_arrived();
        let is_quiet = self.quiesce();
        self.drop_arrived();
        // Doorbells may keep the ring's file alive: it must not keep our sockets.
        let _ = self.ring.submitter().unregister_files();
        if is_quiet {
            for group in [DATAGRAM_GROUP, STREAM_GROUP] {
                // Refused if there is no such group.
                let _ = self.ring.submitter().unregister_buf_ring(group);
            }
            // SAFETY: dropped once, here. No request is in flight and the buffers are unregistered: the kernel has no
            // pointer to any of it.
            unsafe { ManuallyDrop::drop(&mut self.lent) };
        }
    }
}

fn take_from<R>(ring: &mut BufferRing, buffer: u16, length: usize, take: impl FnOnce(&[u8]) -> R) -> R {
    let filled = ring.claim(buffer);
    let result = take(ring.bytes(&filled, length));
    ring.give_back(filled);
    result
}

/// The connection that a completion of [`Kind::Accept`] brings.
pub(super) fn accepted(completion: &Completion) -> Option<OwnedFd> {
    let is_one = completion.token.kind == Kind::Accept && completion.result >= 0;
    // SAFETY: the kernel has just opened this descriptor for us and told no one else; each completion is taken once.
    is_one.then(|| unsafe { OwnedFd::from_raw_fd(completion.result) })
}

/// Errors that mean: reap completions, then try again; and the ordinary ends of a wait.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN))
}

/// Bytes before name, control messages and contents in a received datagram's buffer (`struct io_uring_recvmsg_out`).
pub(super) const RECEIVE_HEADER_BYTES: usize = 16;
/// Datagrams and trains that one enter submits: measured best between 64 and 256, by what is spared per system call.
pub(super) const SENDS_MAX: usize = 256;
/// Completions that wait to be looked at: what the queue holds, twice.
const ARRIVED_MAX: usize = 2 * COMPLETIONS as usize;
/// How often the kernel is asked to take the queue before the ring counts as broken.
const ATTEMPTS_MAX: usize = 1000;
const QUIESCE_ATTEMPTS: usize = 100;
const QUIESCE_WAIT: Duration = Duration::from_millis(10);
const DATAGRAM_GROUP: u16 = 0;
const STREAM_GROUP: u16 = 1;
/// `IORING_ENTER_GETEVENTS` of `include/uapi/linux/io_uring.h`.
const ENTER_GETEVENTS: u32 = 1;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;

    use bytes::Bytes;
    use smallvec::smallvec;

    use super::*;
    use crate::sink::DoorId;

    /// A kernel with one request of every kind standing; `None` where io_uring is forbidden, which is said.
    fn busy() -> Option<(Kernel, Vec<OwnedFd>)> {
        let (mut kernel, _) = match Kernel::new(4, true) {
            Ok(made) => made,
            Err(error) => {
                println!("{error}: not tested");
                return None;
            }
        };
        kernel.provide_datagram_buffers(2, 1500).unwrap();
        kernel.provide_stream_buffers(2, 512).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        far.write_all(b"some bytes").unwrap();
        kernel.register_file(0, udp.as_fd()).unwrap();
        kernel.register_file(1, listener.as_fd()).unwrap();
        kernel.arm_receive(0, Token::new(Kind::Receive, 0));
        kernel.arm_accept(1, Token::new(Kind::Accept, 1));
        kernel.arm_read(near.as_fd(), false, Token::new(Kind::Read, 2));
        kernel.watch_hangup(near.as_fd(), Token::new(Kind::Hangup, 2));
        let more_than_fits = Bytes::from(vec![7; 16 << 20]);
        let lease = kernel.writes().lend(DoorId(2), smallvec![more_than_fits]);
        kernel.write(near.as_fd(), lease, true);
        kernel.enter(std::iter::empty(), Some(Duration::ZERO)).unwrap();
        Some((kernel, vec![udp.into(), listener.into(), near.into(), far.into()]))
    }

    #[test]
    fn everything_lent_comes_back_before_it_is_freed() {
        let Some((mut kernel, _sockets)) = busy() else { return };
        assert!(kernel.in_flight >= 5, "{}", kernel.in_flight);
        assert!(kernel.quiesce());
        assert_eq!(kernel.in_flight, 0);
    }

    /// The kernel lets only one thread enter: what it still has is leaked, not freed under its hands.
    #[test]
    fn a_thread_that_may_not_enter_does_not_free() {
        let Some((mut kernel, _sockets)) = busy() else { return };
        std::thread::spawn(move || {
            assert!(!kernel.quiesce());
            assert!(kernel.in_flight > 0);
        })
        .join()
        .unwrap();
    }

    #[test]
    #[should_panic(expected = "the kernel has it")]
    fn a_lease_is_not_touched_while_the_kernel_has_it() {
        let Some((mut kernel, _sockets)) = busy() else { panic!("the kernel has it") };
        kernel.writes().get(0);
    }
}
