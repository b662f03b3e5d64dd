//! What goes out: events for the sessions, datagrams for the network.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use quinn_proto::{ConnectionError, Dir, Event, StreamEvent};

use super::Quic;
use super::event::{CloseWhy, QuicEvent, StreamId, Transmit, words_of};
use super::listener::QuicListenerId;
use super::session::Negotiated;
use super::table::{Entry, Stage};

/// An answer that belongs to no connection.
pub(super) struct Stateless {
    listener: QuicListenerId,
    destination: SocketAddr,
    source: Option<IpAddr>,
    bytes: Box<[u8]>,
}

impl Quic {
    /// Takes the next event. quinn-proto's own queues are read only here, one event at a time.
    pub fn poll_event(&mut self) -> Option<QuicEvent> {
        while let Some(&slot) = self.ready.front() {
            if let Some(event) = self.next_event(slot) {
                return Some(event);
            }
            self.ready.pop_front();
            if let Some(entry) = self.table.get_mut(slot) {
                entry.ready = false;
                if entry.drained {
                    self.free(slot);
                }
            }
        }
        None
    }

    /// Writes the next datagrams into `buffer`, whose former contents are lost, and says where they go. Answers
    /// without a connection come first, then connections in turn, up to [`SEGMENTS_MAX`] datagrams each.
    pub fn poll_transmit(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<Transmit> {
        buffer.clear();
        let transmit = self.next_stateless(buffer).or_else(|| self.next_transmit(now, buffer))?;
        let segments = transmit.segment_bytes.map_or(1, |bytes| transmit.bytes.div_ceil(bytes));
        self.counters.datagrams_out += segments as u64;
        self.counters.bytes_out += transmit.bytes as u64;
        Some(transmit)
    }

    fn next_stateless(&mut self, buffer: &mut Vec<u8>) -> Option<Transmit> {
        let answer = self.stateless.pop_front()?;
        buffer.extend_from_slice(&answer.bytes);
        Some(Transmit {
            listener: answer.listener,
            destination: answer.destination,
            source: answer.source,
            ecn: None,
            segment_bytes: None,
            bytes: answer.bytes.len(),
        })
    }

    fn next_transmit(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<Transmit> {
        while let Some(slot) = self.dirty.pop_front() {
            let Some(entry) = self.table.get_mut(slot) else { continue };
            if let Some(transmit) = entry.connection.poll_transmit(now, SEGMENTS_MAX, buffer) {
                self.dirty.push_back(slot);
                return Some(Transmit::from_proto(entry.guest.listener, &transmit));
            }
            entry.dirty = false;
            self.settle(slot);
            self.on_sent(slot);
            self.arm_timer(now, slot);
        }
        None
    }

    /// Sending may end a connection too: its packet numbers or its keys can be used up.
    fn on_sent(&mut self, slot: u32) {
        let Some(entry) = self.table.get_mut(slot) else { return };
        if entry.drained || entry.connection.is_closed() && entry.stage != Stage::Lingering {
            self.mark_ready(slot);
        }
    }

    /// Queues the answer that quinn-proto has written into `scratch`.
    pub(super) fn push_stateless(&mut self, listener: QuicListenerId, answer: &quinn_proto::Transmit) {
        if self.stateless.len() >= STATELESS_MAX {
            self.counters.stateless_dropped += 1;
            return;
        }
        self.counters.stateless_sent += 1;
        self.stateless.push_back(Stateless {
            listener,
            destination: answer.destination,
            source: answer.src_ip,
            bytes: self.scratch[..answer.size].into(),
        });
    }

    /// The next event of one connection, or `None` when it has no more.
    fn next_event(&mut self, slot: u32) -> Option<QuicEvent> {
        let conn = self.table.name(slot);
        loop {
            let entry = self.table.get_mut(slot)?;
            match entry.poll_step()? {
                Step::Connected(alpn) => {
                    entry.stage = Stage::Open(alpn);
                    let (guest, peer) = (entry.guest, entry.peer);
                    self.admission.on_connected(guest);
                    self.counters.connected += 1;
                    self.established += 1;
                    return Some(QuicEvent::Connected { conn, alpn, peer });
                }
                Step::Failed(error) => {
                    entry.stage = Stage::Lingering;
                    let (guest, peer) = (entry.guest, entry.connection.remote_address());
                    self.admission.on_handshake_failed(guest);
                    self.counters.handshakes_failed += 1;
                    self.note_refusal(guest.listener, peer, || words_of(&error).into());
                }
                Step::Lost(why) => {
                    entry.stage = Stage::Lingering;
                    let guest = entry.guest;
                    let path = entry.connection.stats().path;
                    self.admission.on_closed(guest);
                    self.counters.closed += 1;
                    self.counters.packets_lost += path.lost_packets;
                    self.counters.mtu_black_holes += path.black_holes_detected;
                    self.established -= 1;
                    return Some(QuicEvent::Closed { conn, why });
                }
                Step::Moved => {
                    self.counters.peers_moved += 1;
                    return Some(QuicEvent::PeerMoved { conn, peer: entry.peer });
                }
                Step::Opened(stream) => return Some(QuicEvent::StreamOpened { conn, stream }),
                Step::Readable(stream) => return Some(QuicEvent::Readable { conn, stream }),
                Step::Stopped(stream, code) => {
                    // The reset that answers has to be sent.
                    self.mark_dirty(slot);
                    return Some(QuicEvent::Stopped { conn, stream, code });
                }
                Step::Writable(stream) => return Some(QuicEvent::Writable { conn, stream }),
                Step::Finished(stream) => return Some(QuicEvent::Finished { conn, stream }),
            }
        }
    }
}

/// One event of a connection that does not know its name.
enum Step {
    Connected(super::Alpn),
    /// Before it was connected.
    Failed(ConnectionError),
    Lost(CloseWhy),
    Moved,
    Opened(StreamId),
    Readable(StreamId),
    Writable(StreamId),
    Stopped(StreamId, u64),
    Finished(StreamId),
}

impl Entry {
    fn poll_step(&mut self) -> Option<Step> {
        if self.stage == Stage::Lingering {
            // The shard has been told; what is left concerns nobody.
            while self.connection.poll().is_some() {}
            return None;
        }
        if std::mem::take(&mut self.closed_here) {
            return Some(Step::Lost(CloseWhy::LocallyClosed));
        }
        if std::mem::take(&mut self.moved) {
            return Some(Step::Moved);
        }
        if let Some(stream) = self.readable.take() {
            return Some(Step::Readable(stream));
        }
        loop {
            if let Some(stream) = self.accept_stream() {
                self.readable = stream.server_receives().then_some(stream);
                return Some(Step::Opened(stream));
            }
            match self.connection.poll()? {
                Event::Connected => return Some(Step::Connected(self.negotiated())),
                Event::ConnectionLost { reason } if matches!(self.stage, Stage::Handshaking { .. }) => {
                    return Some(Step::Failed(reason));
                }
                Event::ConnectionLost { reason } => return Some(Step::Lost(CloseWhy::from_proto(reason))),
                Event::Stream(StreamEvent::Opened { dir }) => self.opened[dir as usize] = true,
                Event::Stream(StreamEvent::Readable { id }) => {
                    return Some(Step::Readable(StreamId::from_proto(id)));
                }
                Event::Stream(StreamEvent::Writable { id }) => {
                    return Some(Step::Writable(StreamId::from_proto(id)));
                }
                Event::Stream(StreamEvent::Finished { id }) => {
                    return Some(Step::Finished(StreamId::from_proto(id)));
                }
                Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                    // Fails if we have reset it ourselves, which is as good.
                    let _ = self.connection.send_stream(id).reset(error_code);
                    return Some(Step::Stopped(StreamId::from_proto(id), error_code.into_inner()));
                }
                // We open no streams and use no datagrams; the handshake's data are taken at `Connected`.
                Event::Stream(StreamEvent::Available { .. })
                | Event::HandshakeDataReady
                | Event::DatagramReceived
                | Event::DatagramsUnblocked => {}
            }
        }
    }

    fn accept_stream(&mut self) -> Option<StreamId> {
        for dir in [Dir::Bi, Dir::Uni] {
            if !self.opened[dir as usize] {
                continue;
            }
            if let Some(id) = self.connection.streams().accept(dir) {
                self.accepted[dir as usize] += 1;
                return Some(StreamId::from_proto(id));
            }
            self.opened[dir as usize] = false;
        }
        None
    }

    fn negotiated(&self) -> super::Alpn {
        let negotiated = self.connection.crypto_session().handshake_data();
        let negotiated = negotiated.and_then(|any| any.downcast::<Negotiated>().ok());
        negotiated.expect("no handshake completes without a protocol that the listener lists").alpn
    }
}

/// Most datagrams of one connection per turn in the round; UDP GSO takes them in one call.
pub const SEGMENTS_MAX: usize = 10;

/// Most answers that wait without a connection: enough for a turn's burst of first packets.
const STATELESS_MAX: usize = 1_024;
