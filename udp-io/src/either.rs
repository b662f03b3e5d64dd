//! The ring: one shard's sockets behind one call, [`Ring::poll`], on whichever back end works.
//!
//! It sits between the kernel and the turn. Its surface speaks of completions (a datagram came, a write has been taken),
//! not of readiness; `ring.rs` (epoll) and `uring.rs` (io_uring) stand behind it with the same promises and the same
//! tests. The choice is made once, when the ring is made; each call then takes one well-predicted branch.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::choice::{self, Backend};
use crate::config::RingConfig;
use crate::counters::Counters;
use crate::doorbell::Doorbell;
use crate::ring::EpollRing;
use crate::sink::{Close, DoorId, ListenerId, Outgoing, Sink, UdpId, WriteBatch};
use crate::uring::UringRing;

/// One shard's input and output. Used by one thread; it may be built on another: the first call of
/// [`poll`](Ring::poll) or [`flush`](Ring::flush) decides which it is. A ring that is dropped on a third thread may leak
/// what it had lent to the kernel.
///
/// Call, in this order, once per turn: [`poll`](Ring::poll), then any of [`send`](Ring::send), [`write`](Ring::write),
/// [`pause_read`](Ring::pause_read), [`close`](Ring::close), then [`submit`](Ring::submit) (or [`flush`](Ring::flush), if
/// the next poll does not follow at once), and [`reap`](Ring::reap) if the turn can take answers there: what is left
/// unreaped makes the next poll return at once.
///
/// Invariants:
/// * The sink is called only from within `poll` and `reap`, and a call that the turn makes is never answered before the
///   next of them.
/// * A poll hands over a bounded batch.
/// * Nothing is allocated in a poll in steady state.
pub struct Ring {
    backend: Either,
}

enum Either {
    Epoll(Box<EpollRing>),
    Uring(Box<UringRing>),
}

/// The same call on whichever back end it is.
macro_rules! on_either {
    ($ring:expr, $back_end:ident => $call:expr) => {
        match $ring {
            Either::Epoll($back_end) => $call,
            Either::Uring($back_end) => $call,
        }
    };
}

impl Ring {
    /// A ring of the given sizes, with its doorbell and nothing else.
    ///
    /// # Errors
    /// `InvalidInput` names a size that cannot work; otherwise the kernel's refusal of a descriptor, or of io_uring
    /// where it is forced.
    pub fn new(config: &RingConfig) -> io::Result<Ring> {
        config.check()?;
        let epoll = || EpollRing::new(config).map(|ring| Either::Epoll(Box::new(ring)));
        let backend = match config.backend {
            Backend::Epoll => epoll()?,
            Backend::IoUring => {
                let ring = UringRing::new(config).map_err(|error| choice::refusal(&error))?;
                Either::Uring(Box::new(ring))
            }
            Backend::Auto => match UringRing::new(config) {
                Ok(ring) => Either::Uring(Box::new(ring)),
                Err(_) => epoll()?,
            },
        };
        Ok(Ring { backend })
    }

    /// The back end; never `Auto`.
    #[must_use]
    pub fn backend(&self) -> Backend {
        match self.backend {
            Either::Epoll(_) => Backend::Epoll,
            Either::Uring(_) => Backend::IoUring,
        }
    }

    /// Takes a bound UDP socket, for good. Asks the kernel for everything the ring reports (trains, local address, ECN,
    /// losses); switches fragmentation off without letting the kernel's path MTU guess stand in for QUIC's probes.
    ///
    /// # Errors
    /// What the kernel says of the socket.
    pub fn add_udp(&mut self, socket: UdpSocket) -> io::Result<UdpId> {
        on_either!(&mut self.backend, ring => ring.add_udp(socket))
    }

    /// Takes a listener and starts to accept.
    ///
    /// # Errors
    /// What the kernel says of the socket.
    pub fn add_listener(&mut self, listener: TcpListener) -> io::Result<ListenerId> {
        on_either!(&mut self.backend, ring => ring.add_listener(listener))
    }

    /// Stops to accept and closes the listener; connections that wait in its backlog are reset. Its doors stay open.
    /// Does nothing for a listener that was removed before.
    pub fn remove_listener(&mut self, listener: ListenerId) {
        on_either!(&mut self.backend, ring => ring.remove_listener(listener));
    }

    /// Takes a TCP stream that we opened ourselves, for good, and makes it a door. The stream may still be connecting (a
    /// non-blocking `connect` that answered `EINPROGRESS`): a write then begins when the connection stands, and a connection
    /// that fails ends with [`Closed::Reset`](crate::Closed::Reset). [`Sink::opened`] is not called.
    ///
    /// # Errors
    /// `QuotaExceeded` if `doors_max` doors are open; otherwise what the kernel says of the socket.
    pub fn add_stream(&mut self, stream: TcpStream) -> io::Result<DoorId> {
        on_either!(&mut self.backend, ring => ring.add_stream(stream))
    }

    /// A handle that wakes [`poll`](Ring::poll) from any thread.
    #[must_use]
    pub fn doorbell(&self) -> Doorbell {
        on_either!(&self.backend, ring => ring.doorbell())
    }

    /// Rings another ring's bell, at the latest with the next [`flush`](Ring::flush) or [`poll`](Ring::poll): between
    /// two io_urings it travels with everything else that is submitted (`IORING_OP_MSG_RING`), otherwise it is
    /// [`Doorbell::ring`].
    pub fn ring_bell(&mut self, bell: &Doorbell) {
        match &mut self.backend {
            Either::Epoll(_) => bell.ring(),
            Either::Uring(ring) => ring.ring_bell(bell),
        }
    }

    /// What was done and what was dropped so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        on_either!(&self.backend, ring => ring.counters())
    }

    /// Doors open now, those that are being closed included.
    #[must_use]
    pub fn doors_open(&self) -> usize {
        on_either!(&self.backend, ring => ring.doors_open())
    }

    /// The address that a UDP socket is bound to.
    ///
    /// # Errors
    /// What the kernel says of the socket.
    ///
    /// # Panics
    /// If `udp` is of another ring.
    pub fn udp_address(&self, udp: UdpId) -> io::Result<SocketAddr> {
        on_either!(&self.backend, ring => ring.udp_address(udp))
    }

    /// Waits at most `wait` (`None`: for ever; zero: not at all) and hands one bounded batch of input to `sink`. Sends
    /// first what is queued. May return early with nothing: a signal, a socket that became writable, an accept pause
    /// that ended.
    ///
    /// Returns how many times the sink was called.
    ///
    /// # Errors
    /// Only those of waiting itself, which mean that the ring is broken. What happens to a socket goes to the sink or is
    /// counted.
    pub fn poll(&mut self, wait: Option<Duration>, sink: &mut impl Sink) -> io::Result<usize> {
        on_either!(&mut self.backend, ring => ring.poll(wait, sink))
    }

    /// Hands over what calls since the last poll have completed already, mostly writes that the kernel took at once with the
    /// last [`flush`](Ring::flush). Neither waits nor calls the kernel. Returns how many times the sink was called.
    ///
    /// Without it a completed write would wait for the next poll, which then could not sleep: every write would cost a
    /// second system call.
    pub fn reap(&mut self, sink: &mut impl Sink) -> usize {
        on_either!(&mut self.backend, ring => ring.reap(sink))
    }

    /// Queues datagrams to one destination: a train if `segment_bytes` is given. Copies them into the send arena; if
    /// neither the arena nor the kernel has room they are dropped and counted, for QUIC sends again.
    ///
    /// # Panics
    /// If `contents` is empty, `segment_bytes` is 0, or `udp` is of another ring.
    pub fn send(&mut self, transmit: &Outgoing<'_>) {
        on_either!(&mut self.backend, ring => ring.send(transmit));
    }

    /// Hands what is queued to the kernel. What a full socket does not take stays queued and is sent when there is room.
    ///
    /// # Errors
    /// Only if the kernel refuses to watch a socket or to take requests, which means that the ring is broken.
    pub fn flush(&mut self) -> io::Result<()> {
        on_either!(&mut self.backend, ring => ring.flush())
    }

    /// [`flush`](Ring::flush) for a turn that polls next: hands over at once what brings answers to [`reap`](Ring::reap), and
    /// may leave the rest to that poll, where on io_uring it costs no system call of its own.
    ///
    /// # Errors
    /// As [`flush`](Ring::flush).
    pub fn submit(&mut self) -> io::Result<()> {
        on_either!(&mut self.backend, ring => ring.submit())
    }

    /// Starts to write a batch to a door; it is on its way after the next [`flush`](Ring::flush) or
    /// [`poll`](Ring::poll). [`Sink::written`] tells, in a later poll or reap, when the kernel has all of it. Does nothing if
    /// the door is gone or closing.
    ///
    /// # Panics
    /// If a write is in flight on this door: there is one at a time, so that what waits, waits where fairness can be
    /// decided.
    pub fn write(&mut self, door: DoorId, data: WriteBatch) {
        on_either!(&mut self.backend, ring => ring.write(door, data));
    }

    /// Stops to read from a door: the kernel's buffer fills and the peer is held back. Does nothing if the door is gone.
    pub fn pause_read(&mut self, door: DoorId) {
        on_either!(&mut self.backend, ring => ring.set_paused(door, true));
    }

    /// Reads from a door again. Does nothing if the door is gone.
    pub fn resume_read(&mut self, door: DoorId) {
        on_either!(&mut self.backend, ring => ring.set_paused(door, false));
    }

    /// Closes a door; nothing more is said of it than the end of a [`Close::Flush`]. Its name stays good for
    /// [`Close::Abort`], to end one that lingers. Does nothing if the door is gone.
    pub fn close(&mut self, door: DoorId, how: Close) {
        on_either!(&mut self.backend, ring => ring.close(door, how));
    }
}
