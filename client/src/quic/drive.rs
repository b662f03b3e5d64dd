//! Input and output of an endpoint: datagrams, timeouts, events.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use quinn_proto::{DatagramEvent, Dir, EcnCodepoint, StreamEvent};

use super::event::{CloseWhy, ConnId, Event, Path, Transmit};
use super::table::{Entry, Stage};
use super::{Endpoint, Stateless, handle_of, slot_of};

impl Endpoint {
    /// Takes one UDP payload.
    pub fn handle_datagram(&mut self, now: Instant, from: Path, bytes: BytesMut) {
        self.counters.datagrams_in += 1;
        self.counters.bytes_in += bytes.len() as u64;
        self.scratch.clear();
        let ecn = from.ecn.and_then(EcnCodepoint::from_bits);
        match self.endpoint.handle(now, from.peer, from.local, ecn, bytes, &mut self.scratch) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let slot = slot_of(handle);
                let entry =
                    self.table.get_mut(slot).expect("quinn-proto knows connections of the table only");
                entry.connection.handle_event(event);
                self.on_input(slot);
            }
            // Nobody can connect to an endpoint without a server's configuration.
            Some(DatagramEvent::NewConnection(incoming)) => self.endpoint.ignore(incoming),
            Some(DatagramEvent::Response(answer)) => self.push_stateless(&answer),
            None => {}
        }
    }

    /// Lets every deadline up to `now` pass. Harmless when there is none.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(slot) = self.timers.pop_due(now) {
            let Some(entry) = self.table.get_mut(slot) else { continue };
            match entry.stage {
                Stage::Handshaking { until } if until <= now && !entry.connection.is_closed() => {
                    entry.connection.close(now, super::code_of(0), Bytes::new());
                    entry.ended = Some(CloseWhy::HandshakeTimeout);
                }
                _ if entry.connection.poll_timeout().is_some_and(|deadline| deadline <= now) => {
                    entry.connection.handle_timeout(now);
                }
                _ => {
                    self.arm(slot);
                    continue;
                }
            }
            self.on_input(slot);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due, or a little earlier. True only when
    /// [`poll_transmit`](Self::poll_transmit) has nothing left.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Takes the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        while let Some(&slot) = self.ready.front() {
            if let Some(event) = self.next_event(slot) {
                return Some(event);
            }
            self.ready.pop_front();
            let Some(entry) = self.table.get_mut(slot) else { continue };
            entry.ready = false;
            if entry.drained {
                self.free(slot);
            }
        }
        None
    }

    /// Writes the next datagrams, all of one connection and at most `datagrams_max` of them, into `buffer`, whose former
    /// contents are lost, and says where they go.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        datagrams_max: usize,
        buffer: &mut Vec<u8>,
    ) -> Option<Transmit> {
        buffer.clear();
        let transmit =
            self.next_stateless(buffer).or_else(|| self.next_transmit(now, datagrams_max, buffer))?;
        let datagrams = transmit.segment_bytes.map_or(1, |bytes| transmit.bytes.div_ceil(bytes));
        self.counters.datagrams_out += datagrams as u64;
        self.counters.bytes_out += transmit.bytes as u64;
        Some(transmit)
    }

    fn next_stateless(&mut self, buffer: &mut Vec<u8>) -> Option<Transmit> {
        let answer = self.stateless.pop_front()?;
        buffer.extend_from_slice(&answer.bytes);
        Some(Transmit {
            conn: None,
            destination: answer.destination,
            source: answer.source,
            ecn: None,
            segment_bytes: None,
            bytes: answer.bytes.len(),
        })
    }

    fn next_transmit(
        &mut self,
        now: Instant,
        datagrams_max: usize,
        buffer: &mut Vec<u8>,
    ) -> Option<Transmit> {
        while let Some(slot) = self.dirty.pop_front() {
            let Some(entry) = self.table.get_mut(slot) else { continue };
            if let Some(transmit) = entry.connection.poll_transmit(now, datagrams_max, buffer) {
                self.dirty.push_back(slot);
                return Some(Transmit {
                    conn: Some(self.table.name(slot)),
                    destination: transmit.destination,
                    source: transmit.src_ip,
                    ecn: transmit.ecn.map(|ecn| ecn as u8),
                    segment_bytes: transmit.segment_size,
                    bytes: transmit.size,
                });
            }
            entry.dirty = false;
            self.settle(slot);
            // Sending may end a connection too: its packet numbers or its keys can be used up.
            let entry = self.table.get_mut(slot).expect("settling frees nothing");
            if entry.drained || entry.connection.is_closed() && entry.stage != Stage::Lingering {
                self.mark_ready(slot);
            }
            self.arm(slot);
        }
        None
    }

    fn push_stateless(&mut self, answer: &quinn_proto::Transmit) {
        if self.stateless.len() >= STATELESS_MAX {
            self.counters.stateless_dropped += 1;
            return;
        }
        self.stateless.push_back(Stateless {
            destination: answer.destination,
            source: answer.src_ip,
            bytes: self.scratch[..answer.size].into(),
        });
    }

    fn arm(&mut self, slot: u32) {
        if let Some(deadline) = self.table.get_mut(slot).and_then(Entry::deadline) {
            self.timers.arm_earlier(slot, deadline);
        }
    }

    /// After a connection was given anything.
    fn on_input(&mut self, slot: u32) {
        self.settle(slot);
        self.mark_ready(slot);
        self.mark_dirty(slot);
    }

    /// Exchanges what a connection and quinn-proto's endpoint have to tell each other: IDs, reset tokens, the end.
    fn settle(&mut self, slot: u32) {
        let Some(entry) = self.table.get_mut(slot) else { return };
        while let Some(event) = entry.connection.poll_endpoint_events() {
            if event.is_drained() {
                // The endpoint hears of it when the slot is freed: until then the handle must not be given out again.
                entry.drained = true;
            } else if let Some(answer) = self.endpoint.handle_event(handle_of(slot), event) {
                entry.connection.handle_event(answer);
            }
        }
    }

    fn next_event(&mut self, slot: u32) -> Option<Event> {
        let conn = self.table.name(slot);
        let entry = self.table.get_mut(slot)?;
        let event = entry.poll_event(conn)?;
        match event {
            Event::Connected { .. } => self.counters.connected += 1,
            Event::Closed { .. } => self.counters.closed += 1,
            // The reset that answers has to be sent.
            Event::Stopped { .. } => self.mark_dirty(slot),
            Event::Readable { .. } | Event::Writable { .. } | Event::Finished { .. } => {}
        }
        Some(event)
    }
}

impl Entry {
    fn poll_event(&mut self, conn: ConnId) -> Option<Event> {
        if self.stage == Stage::Lingering {
            // The driver has been told; what is left concerns nobody.
            while self.connection.poll().is_some() {}
            return None;
        }
        if let Some(why) = self.ended.take() {
            self.stage = Stage::Lingering;
            return Some(Event::Closed { conn, why });
        }
        loop {
            match self.connection.poll()? {
                quinn_proto::Event::ConnectionLost { reason } => {
                    self.stage = Stage::Lingering;
                    return Some(Event::Closed { conn, why: CloseWhy::from_proto(reason) });
                }
                // The server grants the stream with the handshake, or later.
                quinn_proto::Event::Connected | quinn_proto::Event::Stream(StreamEvent::Available { .. }) => {
                    if matches!(self.stage, Stage::Handshaking { .. })
                        && !self.connection.is_handshaking()
                        && let Some(stream) = self.connection.streams().open(Dir::Bi)
                    {
                        self.stage = Stage::Open(stream);
                        return Some(Event::Connected { conn });
                    }
                }
                quinn_proto::Event::Stream(StreamEvent::Readable { .. }) => {
                    return Some(Event::Readable { conn });
                }
                quinn_proto::Event::Stream(StreamEvent::Writable { .. }) => {
                    return Some(Event::Writable { conn });
                }
                quinn_proto::Event::Stream(StreamEvent::Finished { .. }) => {
                    return Some(Event::Finished { conn });
                }
                quinn_proto::Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                    // Fails if we have reset it ourselves, which is as good.
                    let _ = self.connection.send_stream(id).reset(error_code);
                    return Some(Event::Stopped { conn, code: error_code.into_inner() });
                }
                // The server may open no stream and send no datagram.
                quinn_proto::Event::Stream(StreamEvent::Opened { .. })
                | quinn_proto::Event::HandshakeDataReady
                | quinn_proto::Event::DatagramReceived
                | quinn_proto::Event::DatagramsUnblocked => {}
            }
        }
    }
}

/// Most stateless resets that wait to be sent.
const STATELESS_MAX: usize = 256;
