//! QUIC connections as carriers: single stream, profile `single` of the OASIS committee note.
//!
//! A connection is a link from its handshake on; the client's first bidirectional stream carries it. When that stream
//! has ended in both directions, the connection is closed with code 0.

use std::time::Instant;

use bytes::BytesMut;

use quelea_router::ShardId;

use crate::envelope::{Control, LinkKey};
use crate::link::{Carrier, CloseHow, LinkState};
use crate::quic::{ConnId, Handled, Path, Quic, QuicEvent, ReadEnd, StreamId, Transmit, WriteEnd};

use super::Shard;
use super::drain::Draining;

impl Shard {
    /// A datagram came to this shard's socket. One whose connection is another shard's is forwarded, unless too many
    /// are on their way there already: datagrams may be lost.
    pub fn handle_datagram(&mut self, now: Instant, from: Path, bytes: BytesMut) {
        let Some(quic) = &mut self.quic else { return };
        let Handled::Foreign(index, bytes) = quic.handle_datagram(now, from, bytes) else { return };
        let owner = ShardId::from_index(index);
        if self.peers[index].controls_waiting() >= STRAYS_MAX {
            self.counters.datagrams_forward_dropped += 1;
        } else {
            self.counters.datagrams_forwarded += 1;
            self.send_control(owner, Control::Stray { from, bytes });
        }
    }

    /// A datagram that another shard's socket got.
    pub(super) fn on_stray(&mut self, now: Instant, from: Path, bytes: BytesMut) {
        if let Some(quic) = &mut self.quic
            && let Handled::Foreign(..) = quic.handle_datagram(now, from, bytes)
        {
            self.counters.datagrams_forward_dropped += 1;
        }
    }

    /// Takes one QUIC handshake out of its queue; `false` if none waits.
    pub(super) fn accept_quic_handshake(&mut self, now: Instant) -> bool {
        let Some(quic) = &mut self.quic else { return false };
        let mut accepted = false;
        quic.accept_handshakes(now, || core::mem::replace(&mut accepted, true));
        accepted
    }

    /// The next datagrams to send; they lie at the front of `buffer`.
    pub fn poll_transmit(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<Transmit> {
        self.quic.as_mut()?.poll_transmit(now, buffer)
    }

    /// Acts on everything that the QUIC half has to tell.
    pub(super) fn quic_events(&mut self, now: Instant) {
        while let Some(event) = self.quic.as_mut().and_then(Quic::poll_event) {
            self.on_quic_event(now, &event);
        }
    }

    fn on_quic_event(&mut self, now: Instant, event: &QuicEvent) {
        match *event {
            QuicEvent::Connected { conn, peer, .. } => {
                match self.open_link(now, Carrier::Stream(conn, CONTROL), peer) {
                    Some(key) => {
                        self.streams.insert(conn, key);
                    }
                    None => self.close_quic(now, conn, SERVER_BUSY_CODE),
                }
            }
            // What has come on it is announced by itself.
            QuicEvent::StreamOpened { .. } => {}
            QuicEvent::Readable { conn, stream } => self.read_stream(now, conn, stream),
            QuicEvent::Writable { conn, .. } => {
                if let Some(key) = self.streams.get(&conn).copied() {
                    self.mark_dirty(key);
                }
            }
            QuicEvent::Stopped { conn, stream, .. } => self.on_stream_lost(now, conn, stream),
            QuicEvent::Finished { conn, stream } => self.on_stream_finished(now, conn, stream),
            QuicEvent::Closed { conn, .. } => {
                if let Some(key) = self.streams.remove(&conn) {
                    self.link_ended(now, key);
                    self.drop_link(key);
                }
            }
            QuicEvent::PeerMoved { conn, peer } => {
                if let Some(key) = self.streams.get(&conn) {
                    self.links[*key].peer = peer;
                }
            }
        }
    }

    fn close_quic(&mut self, now: Instant, conn: ConnId, code: u64) {
        if let Some(quic) = &mut self.quic {
            quic.close(now, conn, code, b"");
        }
    }

    /// Reads what has come on a stream, unless reading is paused: then flow control holds the client back.
    pub(super) fn read_stream(&mut self, now: Instant, conn: ConnId, stream: StreamId) {
        let Some(key) = self.streams.get(&conn).copied() else { return };
        loop {
            let Some(link) = self.links.get(key) else { return };
            if link.reading_paused || link.carrier != Carrier::Stream(conn, stream) {
                return;
            }
            let mut scratch = core::mem::take(&mut self.scratch);
            scratch.clear();
            let quic = self.quic.as_mut().expect("the connection is its");
            let end = quic.read(now, conn, stream, READ_BYTES, |bytes| scratch.extend_from_slice(bytes));
            if !scratch.is_empty() {
                self.handle_link_bytes(now, key, &scratch);
            }
            self.scratch = scratch;
            match end {
                ReadEnd::More => {}
                ReadEnd::Blocked => return,
                ReadEnd::Finished => return self.on_stream_end(now, key),
                ReadEnd::Gone
                    if self.links.get(key).is_none_or(|link| link.is_closing() || link.input_ended) =>
                {
                    return;
                }
                ReadEnd::Reset(_) | ReadEnd::Gone => return self.on_stream_lost(now, conn, stream),
            }
        }
    }

    /// The client has ended its side: without a DISCONNECT its Will goes out; our side ends too.
    fn on_stream_end(&mut self, now: Instant, key: LinkKey) {
        if self.links.contains_key(key) {
            self.on_input_ended(now, key);
        }
    }

    /// The stream was reset or stopped: the MQTT connection is lost, and with it the reason for the QUIC connection.
    fn on_stream_lost(&mut self, now: Instant, conn: ConnId, stream: StreamId) {
        let Some(key) = self.streams.get(&conn).copied() else { return };
        if self.links[key].carrier != Carrier::Stream(conn, stream) {
            return;
        }
        let code = match self.links[key].state {
            LinkState::Closing(closing) => match closing.how {
                CloseHow::Finish => 0,
                CloseHow::Reset(code) => code,
            },
            _ => 0,
        };
        self.link_ended(now, key);
        self.streams.remove(&conn);
        self.drop_link(key);
        self.close_quic(now, conn, code);
    }

    /// The client has acknowledged our last byte and our end of the stream.
    fn on_stream_finished(&mut self, now: Instant, conn: ConnId, stream: StreamId) {
        let Some(key) = self.streams.get(&conn).copied() else { return };
        let link = &self.links[key];
        if link.is_closing() && link.carrier == Carrier::Stream(conn, stream) {
            self.streams.remove(&conn);
            self.drop_link(key);
            self.close_quic(now, conn, 0);
        }
    }

    /// Hands a stream as much as it takes; then, if the connection is closing, ends it.
    pub(super) fn write_stream(&mut self, now: Instant, key: LinkKey, conn: ConnId, stream: StreamId) {
        if let Some(how) = self.close_how(key)
            && !self.quic.as_ref().expect("the connection is its").is_opened(conn, stream)
        {
            return self.close_unopened(now, key, conn, how);
        }
        #[cfg(feature = "mutants")]
        let mutant = self.settings.mutant;
        let Self { links, quic, counters, .. } = self;
        let quic = quic.as_mut().expect("the connection is its");
        let link = &mut links[key];
        let mut taken = 0;
        while let Some(mut chunk) = link.output.take_chunk() {
            let before = chunk.len();
            let end = quic.write(conn, stream, &mut chunk);
            taken += before - chunk.len();
            match end {
                WriteEnd::All => {}
                #[cfg(feature = "mutants")]
                WriteEnd::Blocked if mutant == Some(crate::mutants::Mutant::DroppedAtFullWindow) => break,
                WriteEnd::Blocked => {
                    link.output.put_back(chunk);
                    break;
                }
                WriteEnd::Stopped(_) | WriteEnd::Gone => link.output.clear(),
            }
        }
        counters.bytes_sent += taken as u64;
        self.recharge_link(key);
        let link = &self.links[key];
        let waiting = link.output.unsent_bytes() > 0;
        match self.close_how(key) {
            Some(CloseHow::Reset(code)) => self.reset_after_last_bytes(key, conn, stream, code),
            Some(CloseHow::Finish) if !waiting => {
                self.told(key);
                self.quic.as_mut().expect("the connection is its").finish(conn, stream);
            }
            _ if taken > 0 => self.on_stream_room(now, key),
            _ => {}
        }
    }

    /// The client has not opened its stream, so there is none to end.
    fn close_unopened(&mut self, now: Instant, key: LinkKey, conn: ConnId, how: CloseHow) {
        self.streams.remove(&conn);
        self.drop_link(key);
        let code = match how {
            CloseHow::Finish => 0,
            CloseHow::Reset(code) => code,
        };
        self.close_quic(now, conn, code);
    }

    fn on_stream_room(&mut self, now: Instant, key: LinkKey) {
        let link = &self.links[key];
        if link.reading_paused && !link.is_held() && link.output.unsent_bytes() == 0 {
            self.resume_input(now, key);
        }
        if let Some(session) = self.links.get(key).and_then(crate::link::Link::session)
            && self.sessions[session].outbound.has_work()
            && self.links[key].has_room()
        {
            self.list_session(session);
        }
    }

    /// A reset discards what quinn-proto has not sent: the DISCONNECT in front of it gets one transmission first.
    fn reset_after_last_bytes(&mut self, key: LinkKey, conn: ConnId, stream: StreamId, code: u64) {
        let LinkState::Closing(closing) = &mut self.links[key].state else { return };
        if !core::mem::replace(&mut closing.said, true) {
            return self.mark_dirty(key);
        }
        closing.told = true;
        let quic = self.quic.as_mut().expect("the connection is its");
        quic.reset(conn, stream, code);
        quic.stop(conn, stream, code);
    }

    fn told(&mut self, key: LinkKey) {
        if let LinkState::Closing(closing) = &mut self.links[key].state {
            closing.told = true;
        }
    }

    /// Whether something is left that another round of `settle` is to do.
    pub fn has_unfinished(&self) -> bool {
        !self.dirty_links.is_empty()
            || !self.relieved_links.is_empty()
            || !self.yielded_links.is_empty()
            || !self.pulls.is_empty()
            || !self.departed.is_empty()
            || self.draining.as_ref().is_some_and(Draining::is_walking)
            || self.replies_left > 0
            || !self.ready_sessions.is_empty()
            || !self.ready_groups.is_empty()
            || !self.doomed_sessions.is_empty()
            || !self.door_actions.is_empty()
            || !self.requests.is_empty()
            || self.announcements.is_pending()
            || !self.loopback.is_empty()
    }
}

/// The client's first bidirectional stream (RFC 9000 §2.1).
const CONTROL: StreamId = StreamId(0);

/// Datagrams that may be on their way to their own shard.
const STRAYS_MAX: usize = 64;

/// Bytes read from a stream at once.
const READ_BYTES: usize = 16 * 1024;

/// 0x300 + Server busy.
const SERVER_BUSY_CODE: u64 = 0x389;
