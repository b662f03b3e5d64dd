//! The io_uring back end: a shard's sockets as standing requests, one system call per turn.
//!
//! ```text
//!   add_udp, add_listener ──► multishot receive, multishot accept ┐
//!   a door opens ──────────► multishot read into shared buffers   ├─ stand in the kernel until cancelled
//!   the doorbell ──────────► multishot poll of its eventfd        ┘
//!
//!   poll:  sends, writes, re-armed requests ──one enter, which waits──► completions ──► the sink, a bounded batch
//! ```
//!
//! It sits where the epoll back end sits and keeps the same promises (see `ring.rs`). Its own invariants:
//! * A completion is taken from the kernel at once, but handed over only as far as a batch goes: at most
//!   [`COMPLETIONS_MAX`], of which `datagrams_per_receive` per UDP socket. What is left over waits in a bounded list,
//!   and the next poll does not sleep.
//! * What a request names stays alive until its end; `kernel.rs` and `streams.rs` say how.
//! * Running out of receive buffers ends a multishot request: it is counted, and armed again by the same poll, which has
//!   given buffers back. The kernel's socket buffers hold what comes meanwhile.

mod buffers;
mod door;
mod kernel;
mod lease;
mod setup;
mod streams;
mod token;
mod transmit;

use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::config::RingConfig;
use crate::counters::Counters;
use crate::doorbell::Doorbell;
use crate::receive::{Arrived, count_error};
use crate::ring::{
    ACCEPT_PAUSE, index_of_next, is_exhausted, is_of_one_connection, set_udp_options, tries_gso,
};
use crate::sink::{Close, DoorId, ListenerId, Outgoing, Sink, UdpId, WriteBatch};
use kernel::{Kernel, RECEIVE_HEADER_BYTES, SENDS_MAX};
use streams::Streams;
use token::{Completion, Kind, Token};
use transmit::Outbox;

pub(crate) use setup::Mode;

/// One shard's input and output over io_uring.
pub(crate) struct UringRing {
    // Declared first, dropped first: requests end before the sockets that they name are closed.
    kernel: Kernel,
    config: RingConfig,
    doorbell: Doorbell,
    /// Bells of other rings that were rung from here, by the slot of the request.
    bells: Vec<Doorbell>,
    udp: Vec<Udp>,
    listeners: Vec<Option<Listener>>,
    streams: Streams,
    counters: Counters,
}

struct Udp {
    socket: UdpSocket,
    outbox: Outbox,
    /// The kernel's running count of datagrams that found the receive buffer full.
    overflows: u32,
    /// A request waits for room to send.
    watches_room: bool,
}

struct Listener {
    socket: TcpListener,
    /// Set while accepting pauses because descriptors or memory ran out.
    retry_at: Option<Instant>,
}

impl UringRing {
    /// See [`Ring::new`](crate::Ring::new).
    pub(crate) fn new(config: &RingConfig) -> io::Result<UringRing> {
        let (mut kernel, _) = Kernel::new(FILES_MAX, config.deferred_task_work)?;
        let doorbell = Doorbell::new()?.with_ring(Arc::new(kernel.duplicate()?));
        kernel.register_file(COUNTER_FILE, doorbell.as_fd())?;
        kernel.watch_counter(COUNTER_FILE, Token::new(Kind::Counter, 0));
        Ok(UringRing {
            kernel,
            doorbell,
            bells: Vec::new(),
            udp: Vec::new(),
            listeners: Vec::new(),
            streams: Streams::new(config),
            counters: Counters::default(),
            config: config.clone(),
        })
    }

    pub(crate) fn add_udp(&mut self, socket: UdpSocket) -> io::Result<UdpId> {
        let index = index_of_next(self.udp.len(), UDP_MAX)?;
        let is_v6 = SockRef::from(&socket).domain()? == socket2::Domain::IPV6;
        set_udp_options(&socket, is_v6, &self.config)?;
        let gso = tries_gso(&socket, &self.config);
        let outbox = Outbox::new(self.config.send_arena_bytes, self.config.sends_queued_max, is_v6, gso);
        let count = self.config.datagram_buffers as u16;
        self.kernel.provide_datagram_buffers(count, self.config.receive_buffer_bytes)?;
        self.kernel.register_file(udp_file(index), socket.as_fd())?;
        self.kernel.arm_receive(udp_file(index), Token::new(Kind::Receive, index));
        self.udp.push(Udp { socket, outbox, overflows: 0, watches_room: false });
        Ok(UdpId(index))
    }

    pub(crate) fn add_listener(&mut self, listener: TcpListener) -> io::Result<ListenerId> {
        let index = index_of_next(self.listeners.len(), LISTENERS_MAX)?;
        self.streams.provide_buffers(&mut self.kernel)?;
        self.kernel.register_file(listener_file(index), listener.as_fd())?;
        self.kernel.arm_accept(listener_file(index), Token::new(Kind::Accept, index));
        self.listeners.push(Some(Listener { socket: listener, retry_at: None }));
        Ok(ListenerId(index))
    }

    pub(crate) fn remove_listener(&mut self, listener: ListenerId) {
        let Some(entry) = self.listeners.get_mut(listener.index()) else { return };
        let Some(listening) = entry.take() else { return };
        // The standing request holds the socket open: shutting it down ends the request, and the listening at once.
        // An error means that it does not listen any more.
        let _ = SockRef::from(&listening.socket).shutdown(std::net::Shutdown::Both);
        self.kernel.forget_file(listener_file(listener.0));
        self.kernel.close_later(listening.socket.into());
    }

    /// See [`Ring::add_stream`](crate::Ring::add_stream).
    pub(crate) fn add_stream(&mut self, stream: TcpStream) -> io::Result<DoorId> {
        self.streams.provide_buffers(&mut self.kernel)?;
        self.streams.add(&mut self.kernel, stream, &mut self.counters)
    }

    pub(crate) fn doorbell(&self) -> Doorbell {
        self.doorbell.clone()
    }

    /// Rings another ring's bell with the next enter.
    pub(crate) fn ring_bell(&mut self, bell: &Doorbell) {
        let Some(ring) = bell.ring_name() else { return bell.ring() };
        let known =
            self.bells.iter().position(|known| known.ring_name().is_some_and(|name| Arc::ptr_eq(name, ring)));
        let slot = known.unwrap_or_else(|| {
            self.bells.push(bell.clone());
            self.bells.len() - 1
        });
        self.kernel.tell_ring(ring.as_fd(), Token::new(Kind::Rung, 0), Token::new(Kind::Bell, slot as u32));
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn doors_open(&self) -> usize {
        self.streams.open()
    }

    pub(crate) fn udp_address(&self, udp: UdpId) -> io::Result<std::net::SocketAddr> {
        self.udp[udp.index()].socket.local_addr()
    }

    pub(crate) fn poll(&mut self, wait: Option<Duration>, sink: &mut impl Sink) -> io::Result<usize> {
        let wait = self.end_accept_pauses(wait);
        let mut handed = self.streams.report_due(&mut self.kernel, COMPLETIONS_MAX, &mut self.counters, sink);
        let must_not_wait = handed > 0 || self.streams.has_due();
        self.enter(if must_not_wait { Some(Duration::ZERO) } else { wait })?;
        handed += self.reap(sink);
        let mut received = [0_usize; UDP_MAX];
        let mut rung = false;
        for _ in 0..COMPLETIONS_MAX {
            let Some(completion) = self.kernel.peek() else { break };
            let token = completion.token;
            if token.kind == Kind::Receive {
                let count = &mut received[token.slot as usize];
                if *count == self.config.datagrams_per_receive {
                    break;
                }
                *count += 1;
            }
            self.kernel.next();
            rung |= self.on_bell(&completion);
            handed += self.on_completion(&completion, sink);
        }
        if rung {
            sink.doorbell();
            handed += 1;
        }
        Ok(handed)
    }

    /// See [`Ring::reap`](crate::Ring::reap).
    pub(crate) fn reap(&mut self, sink: &mut impl Sink) -> usize {
        let mut handed = 0;
        // Bounded: there is one write per door.
        while let Some(completion) = self.kernel.next_written() {
            handed += self.streams.on_completion(&mut self.kernel, &completion, &mut self.counters, sink);
        }
        handed
    }

    /// Whether the doorbell was rung.
    fn on_bell(&mut self, completion: &Completion) -> bool {
        match completion.token.kind {
            Kind::Rung => true,
            Kind::Counter => {
                if !completion.has_more() {
                    self.kernel.watch_counter(COUNTER_FILE, completion.token);
                }
                completion.error().is_none()
            }
            _ => false,
        }
    }

    fn on_completion(&mut self, completion: &Completion, sink: &mut impl Sink) -> usize {
        let Token { kind, slot, .. } = completion.token;
        match kind {
            Kind::Receive => self.on_received(completion, sink),
            Kind::Room => {
                self.udp[slot as usize].watches_room = false;
                self.udp[slot as usize].outbox.unblock();
                0
            }
            Kind::Accept => self.on_accepted(completion, sink),
            // The other ring's thread has not started yet, or has ended: its eventfd takes the ring.
            Kind::Bell => {
                self.bells[slot as usize].ring();
                0
            }
            Kind::Read | Kind::Hangup | Kind::Write => {
                self.streams.on_completion(&mut self.kernel, completion, &mut self.counters, sink)
            }
            Kind::Rung | Kind::Counter | Kind::Datagram | Kind::Cancel => 0,
        }
    }

    fn on_received(&mut self, completion: &Completion, sink: &mut impl Sink) -> usize {
        let index = completion.token.slot;
        let Udp { overflows, .. } = &mut self.udp[index as usize];
        let counters = &mut self.counters;
        let mut handed = 0;
        if let Some(buffer) = completion.buffer() {
            let length = usize::try_from(completion.result).unwrap_or(0);
            handed = self.kernel.take_datagram(buffer, length, |bytes| {
                arrived(UdpId(index), bytes).map_or(0, |arrived| arrived.hand_over(overflows, counters, sink))
            });
        }
        match completion.error() {
            None | Some(libc::ECANCELED) => {}
            Some(libc::ENOBUFS) => counters.datagram_buffers_exhausted += 1,
            Some(error) => count_error(&io::Error::from_raw_os_error(error), counters),
        }
        if !completion.has_more() {
            self.kernel.arm_receive(udp_file(index), completion.token);
        }
        handed
    }

    fn on_accepted(&mut self, completion: &Completion, sink: &mut impl Sink) -> usize {
        let index = completion.token.slot;
        let stream = kernel::accepted(completion);
        let Some(Some(listener)) = self.listeners.get_mut(index as usize) else {
            // The listener has gone; so does what it accepted last.
            stream.into_iter().for_each(|stream| streams::reset(&stream));
            return 0;
        };
        let mut rests = false;
        if let Some(error) = completion.error().map(io::Error::from_raw_os_error) {
            rests = !is_of_one_connection(&error);
            let is_exhausted = is_exhausted(&error);
            let counters = &mut self.counters;
            *(if is_exhausted { &mut counters.accept_exhausted } else { &mut counters.accept_errors }) += 1;
        }
        if rests {
            listener.retry_at = Some(Instant::now() + ACCEPT_PAUSE);
        } else if !completion.has_more() {
            self.kernel.arm_accept(listener_file(index), completion.token);
        }
        let Some(stream) = stream else { return 0 };
        self.streams.open_door(&mut self.kernel, stream, ListenerId(index), &mut self.counters, sink)
    }

    /// See [`Ring::send`](crate::Ring::send).
    pub(crate) fn send(&mut self, transmit: &Outgoing<'_>) {
        let index = transmit.udp.index();
        let trains = transmit::trains(transmit);
        let Some(name) = self.udp[index].outbox.name_of(transmit, &mut self.counters) else { return };
        for train in trains {
            if !self.udp[index].outbox.has_room(train.len()) {
                self.make_room();
            }
            let outbox = &mut self.udp[index].outbox;
            if outbox.has_room(train.len()) {
                outbox.push(name, transmit, train);
            } else {
                let segment_bytes = transmit::segment_bytes(transmit);
                self.counters.dropped_arena_full += transmit::datagrams(train.len(), segment_bytes);
            }
        }
    }

    fn make_room(&mut self) {
        // An error means that the ring is broken: the next poll meets it again and tells.
        let _ = self.flush();
    }

    /// See [`Ring::flush`](crate::Ring::flush).
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.kernel.has_queued() || self.udp.iter().any(|udp| udp.outbox.is_ready()) {
            self.enter(Some(Duration::ZERO))?;
        }
        Ok(())
    }

    /// See [`Ring::submit`](crate::Ring::submit): only writes to doors are answered at once.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        if self.kernel.has_queued_writes() { self.flush() } else { Ok(()) }
    }

    /// Submits everything that is queued, then waits.
    fn enter(&mut self, mut wait: Option<Duration>) -> io::Result<()> {
        loop {
            let requests: usize = self.udp.iter().map(|udp| udp.outbox.requests_max()).sum();
            let all_fit = requests <= SENDS_MAX;
            let sends = self.udp.iter().zip(0..).flat_map(|(udp, index)| udp.outbox.packets(udp_file(index)));
            let wait_now = if all_fit { wait } else { Some(Duration::ZERO) };
            self.kernel.enter(sends.take(SENDS_MAX), wait_now)?;
            let mut outcomes = self.kernel.outcomes().iter().copied();
            for udp in &mut self.udp {
                udp.outbox.settle(&mut outcomes, &mut self.counters);
            }
            self.watch_blocked();
            if all_fit {
                // What was refused is tried again, but time has been waited for.
                wait = Some(Duration::ZERO);
                if !self.udp.iter().any(|udp| udp.outbox.is_ready()) {
                    return Ok(());
                }
            }
        }
    }

    fn watch_blocked(&mut self) {
        for (udp, index) in self.udp.iter_mut().zip(0..) {
            if udp.outbox.is_blocked() && !std::mem::replace(&mut udp.watches_room, true) {
                self.kernel.watch_room(udp_file(index), Token::new(Kind::Room, index));
            }
        }
    }

    /// See [`Ring::write`](crate::Ring::write).
    pub(crate) fn write(&mut self, door: DoorId, data: WriteBatch) {
        self.streams.write(&mut self.kernel, door, data);
    }

    /// See [`Ring::pause_read`](crate::Ring::pause_read), [`Ring::resume_read`](crate::Ring::resume_read).
    pub(crate) fn set_paused(&mut self, door: DoorId, paused: bool) {
        self.streams.set_paused(&mut self.kernel, door, paused);
    }

    /// See [`Ring::close`](crate::Ring::close).
    pub(crate) fn close(&mut self, door: DoorId, how: Close) {
        self.streams.close(&mut self.kernel, door, how, &mut self.counters);
    }

    /// Ends accept pauses that are over, and shortens the wait to the end of the next.
    fn end_accept_pauses(&mut self, mut wait: Option<Duration>) -> Option<Duration> {
        if self.listeners.iter().flatten().all(|listener| listener.retry_at.is_none()) {
            return wait;
        }
        let now = Instant::now();
        for (listener, index) in self.listeners.iter_mut().zip(0..) {
            let Some(listener) = listener else { continue };
            let Some(retry_at) = listener.retry_at else { continue };
            if retry_at > now {
                let rest = retry_at - now;
                wait = Some(wait.map_or(rest, |wait| wait.min(rest)));
            } else {
                listener.retry_at = None;
                self.kernel.arm_accept(listener_file(index), Token::new(Kind::Accept, index));
            }
        }
        wait
    }
}

/// Takes apart what multishot receive writes: sizes and flags, then name, control messages and contents, each where the
/// template's sizes put it.
fn arrived(udp: UdpId, bytes: &[u8]) -> Option<Arrived<'_>> {
    let word = |index: usize| {
        let word = bytes.get(4 * index..)?.first_chunk::<4>()?;
        Some(u32::from_ne_bytes(*word) as usize)
    };
    let (name_bytes, control_bytes, flags) = (word(0)?, word(1)?, word(3)?);
    let rest = bytes.get(RECEIVE_HEADER_BYTES..)?;
    let (name, rest) = rest.split_at_checked(crate::address::NAME_BYTES_MAX)?;
    let (control, contents) = rest.split_at_checked(crate::control::INCOMING_BYTES_MAX)?;
    Some(Arrived {
        udp,
        name: &name[..name_bytes.min(name.len())],
        control: &control[..control_bytes.min(control.len())],
        contents,
        is_truncated: flags & libc::MSG_TRUNC as usize != 0,
    })
}

/// Why io_uring cannot be used here, if it cannot.
pub(crate) fn probe() -> io::Result<Mode> {
    Kernel::new(FILES_MAX, true).map(|(_, mode)| mode)
}

// Registered files: the doorbell's counter, then UDP sockets, then listeners. Doors are named by their descriptors:
// most of what they do is one standing request, and a table for all of them would cost more than it spares. Together they
// fit into the submission queue, so that a ring can be filled before its thread is known.
const COUNTER_FILE: u32 = 0;
const UDP_MAX: usize = 64;
const LISTENERS_MAX: usize = 256;
const FILES_MAX: u32 = 1 + UDP_MAX as u32 + LISTENERS_MAX as u32;

fn udp_file(index: u32) -> u32 {
    COUNTER_FILE + 1 + index
}

fn listener_file(index: u32) -> u32 {
    COUNTER_FILE + 1 + UDP_MAX as u32 + index
}

/// Completions handed over per poll.
const COMPLETIONS_MAX: usize = 256;
