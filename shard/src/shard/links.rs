//! Connections: opened, read, paused, closed. What carries them makes no difference above this file.

use std::net::SocketAddr;
use std::time::Instant;

use quelea_mqtt::{Disconnect, PacketType, ReasonCode, Sender, Version};

use crate::envelope::LinkKey;
use crate::link::{
    AliasesIn, AliasesOut, Carrier, CloseHow, Closing, DoorId, HELD_BYTES_MAX, Input, Link, LinkState,
    OUTPUT_PAUSE_BYTES,
};
use crate::witness::{Subject, Why};

use super::sessions::WillAt;
use super::work::PACKET_WORK;
use super::{DoorAction, DoorEnd, Shard};

impl Shard {
    /// Whether a byte stream's client has a session: CONNECT was answered, and neither side has ended it.
    pub fn is_serving(&self, door: DoorId) -> bool {
        let link = self.doors.get(&door).and_then(|key| self.links.get(*key));
        link.is_some_and(|link| link.session().is_some())
    }

    /// Bytes came in.
    pub fn handle_door_bytes(&mut self, now: Instant, door: DoorId, bytes: &[u8]) {
        let Some(key) = self.doors.get(&door).copied() else { return };
        match self.links[key].layers {
            Some(_) => self.handle_layered_bytes(now, key, bytes),
            None => self.handle_link_bytes(now, key, bytes),
        }
    }

    /// The peer has ended its side, or the stream is gone.
    pub fn handle_door_closed(&mut self, now: Instant, door: DoorId, end: DoorEnd) {
        let Some(key) = self.doors.get(&door).copied() else { return };
        if end == DoorEnd::EndOfStream && (self.on_layered_end(key) || self.on_input_ended(now, key)) {
            return;
        }
        self.link_ended(now, key);
        self.doors.remove(&door);
        self.drop_link(key);
        self.door_actions.push_back((door, DoorAction::Abort));
    }

    /// The client has ended its side in order. What it sent before that still counts, and our last bytes still leave.
    /// Returns `false` if there is nothing left to wait for.
    pub(super) fn on_input_ended(&mut self, now: Instant, key: LinkKey) -> bool {
        let link = &mut self.links[key];
        if let LinkState::Closing(closing) = link.state {
            return !closing.told;
        }
        if link.is_held() || link.reading_paused || link.is_crossing() {
            link.input_ended = true;
        } else {
            self.link_ended(now, key);
            self.close_link(now, key, CloseHow::Finish);
        }
        true
    }

    /// The write in flight is with the kernel.
    pub fn handle_door_written(&mut self, now: Instant, door: DoorId) {
        let Some(key) = self.doors.get(&door).copied() else { return };
        let link = &mut self.links[key];
        let written = link.output.on_written();
        if let Some(layers) = &mut link.layers {
            layers.on_written();
        }
        self.counters.bytes_sent += written as u64;
        self.recharge_link(key);
        self.on_output_drained(now, key);
    }

    /// The carrier has taken bytes: there may be room for more, in both directions.
    pub(super) fn on_output_drained(&mut self, now: Instant, key: LinkKey) {
        let link = &mut self.links[key];
        let layers_wait = link.layers.as_ref().is_some_and(|layers| layers.has_own());
        if link.output.unsent_bytes() > 0 || link.is_closing() || layers_wait {
            self.mark_dirty(key);
        }
        let link = &self.links[key];
        if link.reading_paused && !link.is_held() && link.output.bytes() < OUTPUT_PAUSE_BYTES {
            self.resume_input(now, key);
        }
        // Only who waits for room: nearly every write completes with nothing behind it, and a listed session costs a turn.
        if let Some(key) = self.links.get(key).and_then(Link::session)
            && self.sessions[key].waits_for_room()
        {
            self.list_session(key);
        }
    }

    pub(super) fn open_link(&mut self, now: Instant, carrier: Carrier, peer: SocketAddr) -> Option<LinkKey> {
        if self.links.len() >= self.settings.links_max || self.draining.is_some() {
            self.counters.links_refused += 1;
            return None;
        }
        if self.is_full() {
            self.counters.links_refused_memory += 1;
            return None;
        }
        self.counters.links_opened += 1;
        let key = self.links.insert(Link::new(
            now,
            carrier,
            peer,
            AliasesOut::new(self.keyed),
            self.settings.barriers_max,
        ));
        self.recharge_link(key);
        self.arm_link(key);
        Some(key)
    }

    /// Received bytes: packets are taken out of them as they are, without a copy, unless one is incomplete.
    pub(super) fn handle_link_bytes(&mut self, now: Instant, key: LinkKey, bytes: &[u8]) {
        self.counters.bytes_received += bytes.len() as u64;
        let link = &mut self.links[key];
        if link.is_closing() {
            return;
        }
        if link.input.is_empty() && !link.is_held() && !link.reading_paused {
            let taken = self.take_packets(now, key, bytes);
            let Some(link) = self.links.get_mut(key) else { return };
            if !link.is_closing() {
                link.input.extend(&bytes[taken..]);
            }
        } else {
            link.input.extend(bytes);
            self.take_buffered(now, key);
        }
        self.pause_if_full(key);
        self.recharge_link(key);
        self.shed_large(now, key);
    }

    /// With memory at its ceiling nobody may fill a large buffer: who is in the middle of a large packet is cut, with 0x97
    /// if it can be told. Pausing would leave it with what it has, and the ceiling would stay where it is. What is held
    /// back here is not its fault, and bounded by pausing.
    fn shed_large(&mut self, now: Instant, key: LinkKey) {
        if !self.is_full() {
            return;
        }
        let Some(link) = self.links.get(key) else { return };
        if link.is_held() || link.is_crossing() || link.received_bytes() <= SHED_BYTES {
            return;
        }
        match link.state {
            LinkState::AwaitConnect => {
                self.counters.connects_refused += 1;
                self.close_link(now, key, CloseHow::Finish);
            }
            LinkState::Online(_) if !link.reading_paused => {
                self.counters.links_shed_memory += 1;
                self.disconnect(now, key, ReasonCode::QUOTA_EXCEEDED);
            }
            _ => {}
        }
    }

    /// Charges the shard's budget with what a connection's buffers hold now; over QUIC with the connection itself and the
    /// credit that it was granted, too.
    pub(super) fn recharge_link(&mut self, key: LinkKey) {
        if let Some(link) = self.links.get_mut(key) {
            link.output.shrink();
            let mut held = link.held_bytes();
            if let (Carrier::Stream(conn, _), Some(quic)) = (link.carrier, &self.quic) {
                held += quic.charged_bytes(conn);
            }
            if held != link.charged_bytes {
                self.budget.recharge(core::mem::replace(&mut link.charged_bytes, held), held);
            }
        }
    }

    /// Forgets a connection whose carrier is gone, and gives back what it was charged with. What it has published and
    /// waits for the other road still counts, in its order, and what its client publishes next comes behind what is on
    /// the road: until that is accepted the link stays without a carrier. It counts against `links_max` until then.
    pub(super) fn drop_link(&mut self, key: LinkKey) -> Option<Link> {
        self.leave_door_kind(key);
        let link = self.links.get_mut(key)?;
        if !link.deferred.is_empty() || link.former.is_some() {
            link.input = Input::default();
            link.output.clear();
            link.state = LinkState::Gone;
            self.recharge_link(key);
            return None;
        }
        let link = self.links.remove(key)?;
        self.throttled_links -= usize::from(link.throttled);
        self.budget.recharge(link.charged_bytes, 0);
        Some(link)
    }

    /// Takes complete packets out of the receive buffer, unless they are held.
    fn take_buffered(&mut self, now: Instant, key: LinkKey) {
        let link = &mut self.links[key];
        if link.is_held() || link.input.is_empty() {
            return;
        }
        let mut input = core::mem::take(&mut link.input);
        let taken = self.take_packets(now, key, input.as_slice());
        let Some(link) = self.links.get_mut(key) else { return };
        debug_assert!(link.input.is_empty());
        if !link.is_closing() && taken < input.len() {
            input.take_front(taken);
            link.input = input;
        }
    }

    fn take_packets(&mut self, now: Instant, key: LinkKey, bytes: &[u8]) -> usize {
        let mut taken = 0;
        let until = self.input_share();
        while let Some(link) = self.links.get(key) {
            if link.is_closing() || link.is_held() || link.output.bytes() > OUTPUT_PAUSE_BYTES {
                break;
            }
            let rest = &bytes[taken..];
            if rest.is_empty() {
                break;
            }
            let limits = self.settings.packet;
            match quelea_mqtt::peek_frame(rest, Sender::Client, &limits) {
                // It would end the connection under what waits; and no client waits for an answer to it.
                Ok(Some(frame))
                    if frame.packet_type() == Some(PacketType::Disconnect) && link.is_crossing() =>
                {
                    break;
                }
                Ok(Some(frame)) if frame.packet_bytes <= rest.len() => {
                    if self.work >= until {
                        self.yield_link(key);
                        break;
                    }
                    taken += frame.packet_bytes;
                    self.work += PACKET_WORK;
                    self.handle_packet(now, key, &rest[..frame.packet_bytes]);
                }
                Ok(_) => break,
                Err(error) => {
                    self.refuse_packet(now, key, error.reason_code());
                    break;
                }
            }
        }
        taken
    }

    fn pause_if_full(&mut self, key: LinkKey) {
        let Some(link) = self.links.get_mut(key) else { return };
        let held = (link.is_held() || link.is_crossing()) && link.input.len() > HELD_BYTES_MAX;
        // A QUIC stream is paused for nothing, and keeps what is not read.
        let held_in_stream = link.throttled && matches!(link.carrier, Carrier::Stream(..));
        let stuck = link.output.bytes() > OUTPUT_PAUSE_BYTES || held_in_stream;
        #[cfg(feature = "mutants")]
        if self.settings.mutant == Some(crate::mutants::Mutant::FullDoorRead) && link.layers.is_some() {
            return;
        }
        if !link.reading_paused && (held || stuck) && !link.is_closing() {
            link.reading_paused = true;
            if let Carrier::Door(door) = link.carrier {
                self.door_actions.push_back((door, DoorAction::Pause));
            }
        }
    }

    /// What kept packets back is over: go on with those that are here, then with the carrier.
    pub(super) fn resume_input(&mut self, now: Instant, key: LinkKey) {
        self.take_buffered(now, key);
        let Some(link) = self.links.get_mut(key) else { return };
        if link.is_closing() || link.is_held() {
            return;
        }
        if link.output.bytes() > OUTPUT_PAUSE_BYTES {
            return self.pause_if_full(key);
        }
        if link.input_ended && !link.is_crossing() {
            self.link_ended(now, key);
            return self.close_link(now, key, CloseHow::Finish);
        }
        if core::mem::take(&mut link.reading_paused) {
            match link.carrier {
                Carrier::Door(door) => self.door_actions.push_back((door, DoorAction::Resume)),
                Carrier::Stream(conn, stream) => self.read_stream(now, conn, stream),
            }
        }
    }

    /// Goes on with connections that owed too many acknowledgements.
    pub(super) fn resume_relieved(&mut self, now: Instant) {
        let mut listed = core::mem::take(&mut self.relieved_links);
        for key in listed.drain(..) {
            if self.links.get(key).is_some_and(|link| link.session().is_some() && !link.is_held()) {
                self.resume_input(now, key);
            }
        }
        super::output::keep_memory(&mut self.relieved_links, listed);
    }

    /// The peer broke the rules `[MQTT-4.13.1-1]`: it alone pays.
    pub(super) fn refuse_packet(&mut self, now: Instant, key: LinkKey, reason: ReasonCode) {
        match reason {
            ReasonCode::MALFORMED_PACKET => self.counters.malformed += 1,
            ReasonCode::QUOTA_EXCEEDED => self.counters.topic_aliases_exceeded += 1,
            _ => self.counters.protocol_errors += 1,
        }
        let link = &self.links[key];
        match &link.state {
            // In 3.x a CONNECT that is not well formed is not answered `[MQTT 3.1.1: MQTT-3.1.4-1]`.
            LinkState::AwaitConnect
                if (link.version_known && link.version == Version::V5)
                    || reason == ReasonCode::UNSUPPORTED_PROTOCOL_VERSION =>
            {
                self.refuse_connect(now, key, reason);
            }
            // Nothing may be said before CONNACK `[MQTT-4.13.2-1]`.
            LinkState::AwaitConnect | LinkState::Authenticating(_) | LinkState::Claiming(_) => {
                self.close_link(now, key, CloseHow::Reset(quic_code(reason)));
            }
            LinkState::Online(_) => {
                // A second CONNECT in a version that we do not speak: DISCONNECT knows no such reason `[MQTT-3.14.2-1]`.
                let reason = match reason {
                    ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => ReasonCode::PROTOCOL_ERROR,
                    reason => reason,
                };
                self.disconnect_how(now, key, reason, CloseHow::Reset(quic_code(reason)));
            }
            LinkState::Closing(_) | LinkState::Gone => {}
        }
    }

    /// Says DISCONNECT with a reason (MQTT 5; earlier versions have no word for it) and ends the connection.
    pub(super) fn disconnect(&mut self, now: Instant, key: LinkKey, reason: ReasonCode) {
        let v5 = self.links[key].version == Version::V5;
        let taken_over = reason == ReasonCode::SESSION_TAKEN_OVER;
        let how = match !v5 && taken_over {
            true => CloseHow::Reset(quic_code(reason)),
            false => CloseHow::Finish,
        };
        self.disconnect_how(now, key, reason, how);
    }

    fn disconnect_how(&mut self, now: Instant, key: LinkKey, reason: ReasonCode, how: CloseHow) {
        let link = &mut self.links[key];
        if link.version == Version::V5 && link.session().is_some() {
            let packet = Disconnect { reason, ..Disconnect::default() };
            packet.encode(link.version, link.output.buffer()).expect("a DISCONNECT of known size");
            self.sent_packet(key);
        }
        self.link_ended(now, key);
        self.close_link(now, key, how);
    }

    /// The connection is over as far as its session is concerned.
    pub(super) fn link_ended(&mut self, now: Instant, key: LinkKey) {
        self.forget_publications(key);
        if let Some(session) = self.links[key].session() {
            let will = match self.links[key].holds_farewell(&self.settings.packet) {
                true => WillAt::Never,
                false => WillAt::AfterDelay,
            };
            self.part_from_session(key, session);
            self.detach(now, session, will);
        }
    }

    /// The session ends under its connection.
    pub(super) fn forget_session_of(&mut self, now: Instant, key: LinkKey) {
        self.forget_publications(key);
        self.links[key].state = LinkState::AwaitConnect;
        self.close_link(now, key, CloseHow::Finish);
    }

    /// Publications that waited for another road were not accepted: the client will repeat them, as new ones.
    pub(super) fn forget_publications(&mut self, key: LinkKey) {
        let link = &mut self.links[key];
        let Some(session) = link.session() else { return };
        self.crossing_links -= usize::from(!link.deferred.is_empty());
        let mut refused = Vec::new();
        for deferred in core::mem::take(&mut link.deferred) {
            let Some(number) = deferred.ack else {
                self.counters.dropped_qos0_deferred += 1;
                self.tell_loss(Subject::Everybody, Why::Qos0Deferred, &deferred.message);
                continue;
            };
            refused.extend(self.links[key].acks.id_of(number));
        }
        if let Some(session) = self.sessions.get_mut(session) {
            session.inbound.on_all_refused(refused);
            session.recharge();
        }
    }

    /// Lets the last bytes leave, then ends the carrier; aborts at the deadline.
    pub(super) fn close_link(&mut self, now: Instant, key: LinkKey, how: CloseHow) {
        let link = &mut self.links[key];
        link.input = Input::default();
        link.aliases_in = AliasesIn::default();
        link.joining.clear();
        let deadline = now + self.settings.close_deadline;
        link.state = LinkState::Closing(Closing { deadline, how, said: false, told: false });
        self.give_back_handshake(key);
        self.mark_dirty(key);
        self.arm_link(key);
    }

    /// Puts a connection on the list of those with something to write.
    pub(super) fn mark_dirty(&mut self, key: LinkKey) {
        let link = &mut self.links[key];
        if !link.dirty {
            link.dirty = true;
            self.dirty_links.push(key);
        }
    }

    /// Counts a packet that was just encoded, and has it written.
    pub(super) fn sent_packet(&mut self, key: LinkKey) {
        self.counters.packets_sent += 1;
        self.mark_dirty(key);
    }
}

/// With memory at its ceiling, a packet that is not complete may have so many bytes here.
const SHED_BYTES: usize = 16 * 1024;

/// QUIC's error code for an MQTT reason on ALPN `mqtt`: OASIS committee note, section 6.7.
fn quic_code(reason: ReasonCode) -> u64 {
    0x300 + u64::from(reason.as_u8())
}
