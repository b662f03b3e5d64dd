//! The ring: one shard's sockets behind one call, [`Ring::poll`].
//!
//! It sits between the kernel and the turn. Its surface speaks of completions (a datagram came, a write has
//! been taken), not of readiness, so that an io_uring back end can stand behind the same methods; this one is
//! epoll, `recvmmsg` and `sendmmsg`.
//!
//! Invariants:
//! * The sink is called only from within `poll` and `reap`, and a call that the turn makes is never answered
//!   before the next of them.
//! * A poll hands over a bounded batch: at most [`EVENTS_MAX`] descriptors, each with one receive, one read
//!   or a few accepts.
//! * Nothing is allocated in a poll unless a connection is accepted.
//!
//! Why level-triggered: an edge obliges the reader to drain a descriptor before it may sleep, which is the
//! opposite of a bounded batch; with levels what was left over is simply ready again, at the end of epoll's
//! queue, behind its equals. The price, an `epoll_ctl` when reading is paused or a write is stuck, falls only
//! on the slow.

mod streams;

use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use libc::{EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT};
use socket2::SockRef;

use crate::config::RingConfig;
use crate::counters::Counters;
use crate::doorbell::Doorbell;
use crate::receive::ReceiveBatch;
use crate::sink::{Close, DoorId, ListenerId, Outgoing, Sink, UdpId, WriteBatch};
use crate::sys::{self, Epoll, Event, Events};
use crate::transmit::SendQueue;
use streams::Streams;

/// One shard's input and output. Used by one thread; it may be built on another.
///
/// Call, in this order, once per turn: [`poll`](Ring::poll), then any of [`send`](Ring::send),
/// [`write`](Ring::write), [`pause_read`](Ring::pause_read), [`close`](Ring::close), then
/// [`flush`](Ring::flush), and [`reap`](Ring::reap) if the turn can take answers there: what is left unreaped
/// makes the next poll return at once.
pub(crate) struct EpollRing {
    config: RingConfig,
    epoll: Epoll,
    events: Events,
    doorbell: Doorbell,
    udp: Vec<Udp>,
    batch: ReceiveBatch,
    listeners: Vec<Option<Listener>>,
    streams: Streams,
    counters: Counters,
}

struct Udp {
    socket: UdpSocket,
    queue: SendQueue,
    /// The kernel's running count of datagrams that found the receive buffer full.
    overflows: u32,
    /// What epoll watches for.
    armed: u32,
}

struct Listener {
    socket: TcpListener,
    /// Set while accepting pauses because descriptors or memory ran out.
    retry_at: Option<Instant>,
}

impl EpollRing {
    /// A ring of the given sizes, with its doorbell and nothing else.
    ///
    /// # Errors
    /// `InvalidInput` names a size that cannot work; otherwise the kernel's refusal of a descriptor.
    pub(crate) fn new(config: &RingConfig) -> io::Result<EpollRing> {
        config.check()?;
        let epoll = Epoll::new()?;
        let doorbell = Doorbell::new()?;
        // The one edge in a house of levels: every ring is an edge, so the counter need not be read to be heard again.
        epoll.add(doorbell.as_fd(), DOORBELL_TOKEN, (EPOLLIN | EPOLLET) as u32)?;
        Ok(EpollRing {
            epoll,
            events: Events::with_capacity(EVENTS_MAX),
            doorbell,
            udp: Vec::new(),
            batch: ReceiveBatch::new(config),
            listeners: Vec::new(),
            streams: Streams::new(config),
            counters: Counters::default(),
            config: config.clone(),
        })
    }

    /// Takes a bound UDP socket, for good. Sets it non-blocking and asks the kernel for everything the ring
    /// reports (trains, local address, ECN, losses); switches fragmentation off without letting the kernel's
    /// path MTU guess stand in for QUIC's probes.
    ///
    /// # Errors
    /// What the kernel says of the socket.
    pub(crate) fn add_udp(&mut self, socket: UdpSocket) -> io::Result<UdpId> {
        let index = index_of_next(self.udp.len(), SOCKETS_MAX)?;
        let is_v6 = SockRef::from(&socket).domain()? == socket2::Domain::IPV6;
        socket.set_nonblocking(true)?;
        set_udp_options(&socket, is_v6, &self.config)?;
        let gso = tries_gso(&socket, &self.config);
        let queue = SendQueue::new(self.config.send_arena_bytes, self.config.sends_queued_max, is_v6, gso);
        self.epoll.add(socket.as_fd(), u64::from(UDP_TOKEN | index), EPOLLIN as u32)?;
        self.udp.push(Udp { socket, queue, overflows: 0, armed: EPOLLIN as u32 });
        Ok(UdpId(index))
    }

    /// Takes a listener and starts to accept.
    ///
    /// # Errors
    /// What the kernel says of the socket.
    pub(crate) fn add_listener(&mut self, listener: TcpListener) -> io::Result<ListenerId> {
        let index = index_of_next(self.listeners.len(), SOCKETS_MAX)?;
        listener.set_nonblocking(true)?;
        self.epoll.add(listener.as_fd(), u64::from(LISTENER_TOKEN | index), EPOLLIN as u32)?;
        self.listeners.push(Some(Listener { socket: listener, retry_at: None }));
        Ok(ListenerId(index))
    }

    /// Stops to accept and closes the listener; connections that wait in its backlog are reset. Its doors
    /// stay open. Does nothing for a listener that was removed before.
    pub(crate) fn remove_listener(&mut self, listener: ListenerId) {
        // Closing the last descriptor of a socket takes it out of the epoll set.
        if let Some(listener) = self.listeners.get_mut(listener.index()) {
            *listener = None;
        }
    }

    /// Takes a TCP stream that we opened ourselves, for good, and makes it a door. The stream may still be connecting (a
    /// non-blocking `connect` that answered `EINPROGRESS`): a write then begins when the connection stands, and a connection
    /// that fails ends with [`Closed::Reset`](crate::Closed::Reset). [`Sink::opened`] is not called.
    ///
    /// # Errors
    /// `QuotaExceeded` if `doors_max` doors are open; otherwise what the kernel says of the socket.
    pub(crate) fn add_stream(&mut self, stream: TcpStream) -> io::Result<DoorId> {
        self.streams.add(&self.epoll, stream, &mut self.counters)
    }

    /// A handle that wakes [`poll`](Ring::poll) from any thread.
    #[must_use]
    pub(crate) fn doorbell(&self) -> Doorbell {
        self.doorbell.clone()
    }

    /// What was done and what was dropped so far.
    #[must_use]
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Doors open now, those that are being closed included.
    #[must_use]
    pub(crate) fn doors_open(&self) -> usize {
        self.streams.open()
    }

    /// The address that a UDP socket is bound to.
    ///
    /// # Errors
    /// What the kernel says of the socket.
    ///
    /// # Panics
    /// If `udp` is of another ring.
    pub(crate) fn udp_address(&self, udp: UdpId) -> io::Result<std::net::SocketAddr> {
        self.udp[udp.index()].socket.local_addr()
    }

    /// Waits at most `wait` (`None`: for ever; zero: not at all) and hands one bounded batch of input to
    /// `sink`. Sends first what is queued. May return early with nothing: a signal, a socket that became
    /// writable, an accept pause that ended.
    ///
    /// Returns how many times the sink was called.
    ///
    /// # Errors
    /// Only those of waiting itself, which mean that the ring is broken. What happens to a socket goes to the
    /// sink or is counted.
    pub(crate) fn poll(&mut self, wait: Option<Duration>, sink: &mut impl Sink) -> io::Result<usize> {
        self.flush()?;
        // Also when there is no time to wait: a busy ring must come back to accepting, too.
        let wait = self.end_accept_pauses(wait)?;
        let mut handed = self.streams.report_due(EVENTS_MAX, true, &mut self.counters, sink);
        let wait = if handed > 0 || self.streams.has_due() { Some(Duration::ZERO) } else { wait };
        let ready = self.epoll.wait(&mut self.events, wait)?;
        for index in 0..ready {
            let event = self.events.get(index);
            handed += self.on_event(event, sink)?;
        }
        Ok(handed)
    }

    /// Hands over what calls since the last poll have completed already, mostly writes that the kernel took at
    /// once. Neither waits nor calls the kernel. Returns how many times the sink was called.
    ///
    /// Without it a completed write would wait for the next poll, which then could not sleep: every write would
    /// cost a second system call.
    pub(crate) fn reap(&mut self, sink: &mut impl Sink) -> usize {
        self.streams.report_due(EVENTS_MAX, false, &mut self.counters, sink)
    }

    fn on_event(&mut self, event: Event, sink: &mut impl Sink) -> io::Result<usize> {
        let low = event.token as u32;
        match low & KIND_MASK {
            UDP_TOKEN => self.on_udp(low & !KIND_MASK, event.flags, sink),
            LISTENER_TOKEN => self.on_acceptable(low & !KIND_MASK, sink),
            DOORBELL_KIND => {
                sink.doorbell();
                Ok(1)
            }
            _ => {
                self.streams.on_event(&self.epoll, DoorId(event.token), event.flags, &mut self.counters, sink)
            }
        }
    }

    fn on_udp(&mut self, index: u32, flags: u32, sink: &mut impl Sink) -> io::Result<usize> {
        let udp = &mut self.udp[index as usize];
        if flags & EPOLLOUT as u32 != 0 {
            udp.queue.unblock();
            flush_udp(&self.epoll, index, udp, &mut self.counters)?;
        }
        // A pending ICMP error is reported as EPOLLERR and consumed by receiving.
        if flags & (EPOLLIN | EPOLLERR | EPOLLHUP) as u32 == 0 {
            return Ok(0);
        }
        let socket = udp.socket.as_fd();
        Ok(self.batch.receive(UdpId(index), socket, &mut udp.overflows, &mut self.counters, sink))
    }

    /// Queues datagrams to one destination: a train if `segment_bytes` is given. Copies them into the send
    /// arena; if neither the arena nor the kernel has room they are dropped and counted, for QUIC sends
    /// again.
    ///
    /// # Panics
    /// If `contents` is empty, `segment_bytes` is 0, or `udp` is of another ring.
    pub(crate) fn send(&mut self, transmit: &Outgoing<'_>) {
        let udp = &mut self.udp[transmit.udp.index()];
        udp.queue.push(udp.socket.as_fd(), transmit, &mut self.counters);
    }

    /// Hands what is queued to the kernel. What a full socket does not take stays queued and is sent when
    /// there is room.
    ///
    /// # Errors
    /// Only if the kernel refuses to watch a socket, which means that the ring is broken.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        for (index, udp) in self.udp.iter_mut().enumerate() {
            if !udp.queue.is_empty() {
                flush_udp(&self.epoll, index as u32, udp, &mut self.counters)?;
            }
        }
        Ok(())
    }

    /// See [`Ring::submit`](crate::Ring::submit). Waiting submits nothing here, so this is all of it.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        self.flush()
    }

    /// Starts to write a batch to a door. [`Sink::written`] tells, in a later poll or reap, when the kernel has
    /// all of it. Does nothing if the door is gone or closing.
    ///
    /// # Panics
    /// If a write is in flight on this door: there is one at a time, so that what waits, waits where fairness
    /// can be decided.
    pub(crate) fn write(&mut self, door: DoorId, data: WriteBatch) {
        self.streams.write(&self.epoll, door, data, &mut self.counters);
    }

    /// See [`Ring::pause_read`](crate::Ring::pause_read), [`Ring::resume_read`](crate::Ring::resume_read).
    pub(crate) fn set_paused(&mut self, door: DoorId, paused: bool) {
        self.streams.set_paused(&self.epoll, door, paused);
    }

    /// Closes a door; nothing more is said of it than the end of a [`Close::Flush`]. Its name stays good for
    /// [`Close::Abort`], to end one that lingers. Does nothing if the door is gone.
    pub(crate) fn close(&mut self, door: DoorId, how: Close) {
        self.streams.close(&self.epoll, door, how, &mut self.counters);
    }

    fn on_acceptable(&mut self, index: u32, sink: &mut impl Sink) -> io::Result<usize> {
        let Some(Some(listener)) = self.listeners.get_mut(index as usize) else { return Ok(0) };
        let mut handed = 0;
        for _ in 0..ACCEPTS_MAX {
            match listener.socket.accept() {
                Ok((stream, peer)) => {
                    handed += self.streams.open_door(
                        &self.epoll,
                        stream,
                        ListenerId(index),
                        peer,
                        &mut self.counters,
                        sink,
                    );
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if is_of_one_connection(&error) => self.counters.accept_errors += 1,
                // Level-triggered: without a pause the listener would be ready again at once, and fail again.
                Err(error) => {
                    let counter = if is_exhausted(&error) {
                        &mut self.counters.accept_exhausted
                    } else {
                        &mut self.counters.accept_errors
                    };
                    *counter += 1;
                    self.epoll.modify(listener.socket.as_fd(), u64::from(LISTENER_TOKEN | index), 0)?;
                    listener.retry_at = Some(Instant::now() + ACCEPT_PAUSE);
                    break;
                }
            }
        }
        Ok(handed)
    }

    /// Ends accept pauses that are over, and shortens the wait to the end of the next.
    fn end_accept_pauses(&mut self, wait: Option<Duration>) -> io::Result<Option<Duration>> {
        let mut bounded = wait;
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let Some(listener) = listener else { continue };
            let Some(retry_at) = listener.retry_at else { continue };
            let pause = retry_at.saturating_duration_since(Instant::now());
            if pause.is_zero() {
                listener.retry_at = None;
                let token = u64::from(LISTENER_TOKEN | index as u32);
                self.epoll.modify(listener.socket.as_fd(), token, EPOLLIN as u32)?;
            } else {
                bounded = Some(bounded.map_or(pause, |wait| wait.min(pause)));
            }
        }
        Ok(bounded)
    }
}

/// Sends what is queued, and watches for room while some is left.
fn flush_udp(epoll: &Epoll, index: u32, udp: &mut Udp, counters: &mut Counters) -> io::Result<()> {
    udp.queue.flush(udp.socket.as_fd(), counters);
    let wanted = EPOLLIN as u32 | if udp.queue.is_blocked() { EPOLLOUT as u32 } else { 0 };
    if wanted != udp.armed {
        epoll.modify(udp.socket.as_fd(), u64::from(UDP_TOKEN | index), wanted)?;
        udp.armed = wanted;
    }
    Ok(())
}

pub(crate) fn set_udp_options(socket: &UdpSocket, is_v6: bool, config: &RingConfig) -> io::Result<()> {
    let fd: BorrowedFd<'_> = socket.as_fd();
    SockRef::from(socket).set_send_buffer_size(config.socket_send_buffer)?;
    SockRef::from(socket).set_recv_buffer_size(config.socket_receive_buffer)?;
    if is_v6 {
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        sys::set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
    } else {
        sys::set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
    }
    // Also on an IPv6 socket, which may carry IPv4 under mapped addresses.
    sys::set_option(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
    sys::set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
    sys::set_option(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
    if config.gro {
        // Kernels before 5.0 do not join trains; datagrams then come one by one.
        let _ = sys::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
    }
    Ok(())
}

/// Whether trains may be sent in one piece.
pub(crate) fn tries_gso(socket: &UdpSocket, config: &RingConfig) -> bool {
    // Asking for no segmentation by default is harmless, and refused by kernels that have none (before 4.18).
    config.gso && sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok()
}

pub(crate) fn index_of_next(length: usize, max: usize) -> io::Result<u32> {
    if length >= max {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "more sockets than a ring can name"));
    }
    Ok(length as u32)
}

/// Errors of `accept` for lack of descriptors or memory.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Errors of `accept` that speak of a connection that died in the backlog (accept(2), "Error handling"), or
/// of a signal.
pub(crate) fn is_of_one_connection(error: &io::Error) -> bool {
    use libc::{
        ECONNABORTED, EHOSTDOWN, EHOSTUNREACH, EINTR, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT, EPERM,
        EPROTO,
    };
    matches!(
        error.raw_os_error(),
        Some(
            ECONNABORTED
                | EINTR
                | EPROTO
                | EPERM
                | ENETDOWN
                | ENOPROTOOPT
                | EHOSTDOWN
                | ENONET
                | EHOSTUNREACH
                | ENETUNREACH
        )
    )
}

// Tokens: the low 32 bits of a door's name are its slot, below 2^24; what is not a door has its kind in the
// top bits.
const KIND_MASK: u32 = 0xc000_0000;
const UDP_TOKEN: u32 = 0x4000_0000;
const LISTENER_TOKEN: u32 = 0x8000_0000;
const DOORBELL_KIND: u32 = 0xc000_0000;
const DOORBELL_TOKEN: u64 = DOORBELL_KIND as u64;
/// UDP sockets, and listeners ever added: an operator's handful.
const SOCKETS_MAX: usize = 1 << 16;
/// Descriptors served per poll; further ones are at the head of epoll's queue for the next.
const EVENTS_MAX: usize = 256;
/// Connections accepted from one listener per poll.
const ACCEPTS_MAX: usize = 32;
/// How long a listener rests when descriptors have run out: long enough to cost nothing, short enough for a
/// client to wait.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
