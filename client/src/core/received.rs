//! What the server sends: one `on_` per packet.
//!
//! A packet either changes the core and is answered, or is a [`Violation`], after which the connection is over.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quelea_mqtt::{
    self as mqtt, Ack, AckKind, ConnAck, Disconnect, Packet, PacketId, PacketType, QoS, ReasonCode, Sender,
    SubAck, Version, decode,
};

use super::event::{Closed, Detail, Event, Server, Violation};
use super::frames::Frame;
use super::in_flight::Acked;
use super::inbound::{Allowed, Arrival, Due};
use super::message::{Message, properties_of};
use super::options::{Acks, SessionLost};
use super::requests::RequestKind;
use super::text::Text;
use super::{Core, Link, Pulse};

impl Core {
    /// Takes what the transport delivered. Returns how many bytes were taken: fewer than all only when events or output are at
    /// their bound; drain them, then hand in the rest. What comes after the end of the connection is taken and ignored.
    #[must_use = "what was not taken must be handed in again"]
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) -> usize {
        if let Link::Connected(pulse) = &mut self.link {
            pulse.last_received = now;
        }
        let mut rest = bytes;
        while self.is_attached() && !rest.is_empty() {
            if !self.has_output_room() {
                break;
            }
            let step = match self.frames.next(&mut rest, &self.limits) {
                Ok(None) => break,
                Ok(Some(frame)) => self.on_frame(now, frame),
                Err(error) => Err(error.into()),
            };
            if let Err(violation) = step {
                self.on_violation(now, violation);
            }
        }
        let taken = if self.is_attached() { bytes.len() - rest.len() } else { bytes.len() };
        self.counters.bytes_in += taken as u64;
        taken
    }

    fn on_frame(&mut self, now: Instant, frame: Frame<'_>) -> Result<(), Violation> {
        self.counters.packets_in += 1;
        let first = frame.as_slice().first().copied();
        if first.and_then(PacketType::from_first_byte) == Some(PacketType::Publish) {
            let packet = frame.into_bytes();
            return match self.decode(&packet)? {
                Packet::Publish(publish) => self.on_publish(now, &packet, &publish),
                _ => unreachable!("the packet type is in the first byte"),
            };
        }
        // The packet borrows from the frame, not from the core.
        let packet = self.decode(frame.as_slice())?;
        self.on_packet(now, packet)
    }

    fn decode<'a>(&self, packet: &'a [u8]) -> Result<Packet<'a>, Violation> {
        decode(packet, self.options.version, Sender::Server, &self.limits).map_err(Violation::from)
    }

    fn on_packet(&mut self, now: Instant, packet: Packet<'_>) -> Result<(), Violation> {
        if !self.is_connected() {
            return match packet {
                Packet::ConnAck(connack) => self.on_connack(now, &connack),
                Packet::Auth(auth) => self.on_auth(&auth),
                _ => Err(Violation::protocol("a packet before CONNACK")),
            };
        }
        match packet {
            Packet::PubAck(ack) => {
                let acked = self.in_flight.on_puback(ack.packet_id)?;
                self.on_acked(now, ack, acked);
                Ok(())
            }
            Packet::PubRec(ack) => {
                let acked = self.in_flight.on_pubrec(ack.packet_id, ack.reason)?;
                if acked == Acked::Stray && !ack.reason.is_error() {
                    // The server holds on to the identifier until it is released (§4.3.3).
                    self.send_pubrel(now, ack.packet_id, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
                }
                self.on_acked(now, ack, acked);
                Ok(())
            }
            Packet::PubComp(ack) => {
                let acked = self.in_flight.on_pubcomp(ack.packet_id)?;
                self.on_acked(now, ack, acked);
                Ok(())
            }
            Packet::PubRel(ack) => {
                let reason = self.inbound.on_pubrel(ack.packet_id)?;
                if reason != ReasonCode::SUCCESS {
                    self.counters.strays_in += 1;
                }
                self.send_ack(now, AckKind::PubComp, ack.packet_id, reason);
                Ok(())
            }
            Packet::SubAck(suback) => self.on_suback(RequestKind::Subscribe, &suback),
            Packet::UnsubAck(suback) => self.on_suback(RequestKind::Unsubscribe, &suback),
            Packet::PingResp => {
                self.on_pong();
                Ok(())
            }
            Packet::Disconnect(disconnect) => {
                self.on_disconnect(now, &disconnect);
                Ok(())
            }
            Packet::Auth(auth) => self.on_auth(&auth),
            Packet::ConnAck(_) => Err(Violation::protocol("a second CONNACK")),
            Packet::Publish(_) => unreachable!("PUBLISH takes its own way"),
            Packet::Connect(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) | Packet::PingReq => {
                Err(Violation::protocol("a packet that only clients send"))
            }
        }
    }

    fn on_connack(&mut self, now: Instant, connack: &ConnAck<'_>) -> Result<(), Violation> {
        let (reason, session_present) = (connack.reason, connack.session_present);
        let server = server_of(connack, self.options.keep_alive_s);
        if reason.is_error() {
            self.detach();
            self.events.push_back(Event::Refused { reason, detail: Box::new(server.detail) });
            return Ok(());
        }
        if session_present && self.options.clean_start {
            // [MQTT-3.2.2-2]
            return Err(Violation::protocol("a session is present after a clean start"));
        }
        if let Some(assigned) = &server.assigned_client_id {
            self.client_id = assigned.clone();
        }
        let ping_every = match server.keep_alive_s {
            0 => None,
            seconds => Some(Duration::from_secs(seconds.into())),
        };
        // The server counts the keep alive from CONNECT, and its CONNACK may have taken long.
        let Link::Connecting { since } = self.link else {
            unreachable!("the caller has seen that it is connecting")
        };
        self.link =
            Link::Connected(Pulse { last_sent: since, last_received: now, ping_every, pong_since: None });
        self.server = server.clone();
        self.events.push_back(Event::Connected { session_present, reason, server: Box::new(server) });
        self.on_session(session_present);
        self.resend(now);
        Ok(())
    }

    /// What to do with the session that this core holds.
    fn on_session(&mut self, present: bool) {
        if present {
            self.in_flight.resume();
            return;
        }
        self.inbound.on_session_lost();
        let lost = match self.options.session_lost {
            SessionLost::Republish => self.in_flight.republish(),
            SessionLost::Report => self.in_flight.give_up(),
        };
        self.events.extend(lost.into_iter().map(|token| Event::Lost { token }));
    }

    fn on_publish(
        &mut self,
        now: Instant,
        packet: &Bytes,
        publish: &mqtt::Publish<'_>,
    ) -> Result<(), Violation> {
        if !self.is_connected() {
            return Err(Violation::protocol("a packet before CONNACK"));
        }
        // The alias counts also where the message turns out to be known.
        let topic = self.topic_of(packet, publish)?;
        let mut message = message_of(packet, publish, topic);
        let Some(packet_id) = publish.packet_id else {
            self.events.push_back(Event::Message(message));
            return Ok(());
        };
        let arrival = self.inbound.on_publish(packet_id, publish.qos, publish.dup, self.allowed())?;
        if self.options.version == Version::V5
            && self.inbound.unfinished() > self.options.bounds.receive_max.get()
        {
            self.counters.excess_in += 1;
        }
        match arrival {
            Arrival::Held(token) => {
                message.ack = Some(token);
                self.events.push_back(Event::Message(message));
            }
            Arrival::New => {
                self.events.push_back(Event::Message(message));
                self.send_ack(now, first_ack(publish.qos), packet_id, ReasonCode::SUCCESS);
            }
            Arrival::Known { repeat } => {
                self.counters.duplicates_in += 1;
                if repeat {
                    self.send_ack(now, AckKind::PubRec, packet_id, ReasonCode::SUCCESS);
                }
                // It may have been acknowledged between two connections, and waited for its place.
                self.send_due_acks(now);
            }
        }
        Ok(())
    }

    fn topic_of(&mut self, packet: &Bytes, publish: &mqtt::Publish<'_>) -> Result<Text, Violation> {
        let topic = publish.topic.map(|topic| topic.as_str());
        match (publish.properties.topic_alias, topic) {
            (Some(alias), topic) => self.inbound.on_alias(alias, topic, self.options.bounds.topic_alias_max),
            (None, Some(topic)) => Ok(Text::part_of(packet, topic)),
            (None, None) => Err(Violation::protocol("neither topic nor alias")),
        }
    }

    fn allowed(&self) -> Allowed {
        // MQTT 3.x cannot announce one: there the bound is the number of packet identifiers.
        let is_announced = self.options.version == Version::V5 && self.options.receive_max_strict;
        let receive_max = if is_announced { self.options.bounds.receive_max } else { PacketId::MAX };
        Allowed { receive_max, manual: self.options.acks == Acks::Manual }
    }

    fn on_acked(&mut self, now: Instant, ack: Ack<'_>, acked: Acked) {
        match acked {
            Acked::Done(token) => {
                self.events.push_back(Event::PublishDone { token, reason: ack.reason });
            }
            Acked::Release => self.send_pubrel(now, ack.packet_id, ReasonCode::SUCCESS),
            Acked::Stray => self.counters.strays_in += 1,
        }
        self.resend(now);
    }

    fn on_suback(&mut self, kind: RequestKind, suback: &SubAck<'_>) -> Result<(), Violation> {
        let Some(request) = self.requests.take(suback.packet_id, kind) else {
            self.counters.strays_in += 1;
            return Ok(());
        };
        let token = request.token;
        if kind == RequestKind::Unsubscribe && self.options.version != Version::V5 {
            let reasons = std::iter::repeat_n(ReasonCode::SUCCESS, request.filters).collect();
            self.events.push_back(Event::Unsubscribed { token, reasons });
            return Ok(());
        }
        let reasons: smallvec::SmallVec<[ReasonCode; 8]> = suback.reason_codes().collect();
        if reasons.len() != request.filters {
            // [MQTT-3.8.4-6], [MQTT-3.11.3-2]. The request is answered, but nobody knows how.
            self.events.push_back(Event::Lost { token });
            return Err(Violation::protocol("not as many reasons as there were filters"));
        }
        self.events.push_back(match kind {
            RequestKind::Subscribe => Event::Subscribed { token, reasons },
            RequestKind::Unsubscribe => Event::Unsubscribed { token, reasons },
        });
        Ok(())
    }

    fn on_pong(&mut self) {
        let Link::Connected(pulse) = &mut self.link else { return };
        if pulse.pong_since.take().is_some() {
            self.events.push_back(Event::Pong);
        } else {
            self.counters.strays_in += 1;
        }
    }

    fn on_disconnect(&mut self, now: Instant, disconnect: &Disconnect<'_>) {
        let detail = Detail {
            reason_string: disconnect.reason_string.map(Text::copied),
            server_reference: disconnect.server_reference.map(Text::copied),
            user_properties: copied_pairs(&disconnect.user_properties),
        };
        let closed = Closed::ByServer { reason: disconnect.reason, detail: Box::new(detail) };
        self.close(now, closed, None);
    }

    fn on_auth(&mut self, auth: &mqtt::Auth<'_>) -> Result<(), Violation> {
        let method = self.options.authentication.as_ref().map(|ours| ours.method.as_str());
        if method.is_none() || auth.method.is_some() && auth.method != method {
            return Err(Violation::protocol("AUTH with a method that was not asked for"));
        }
        let data = auth.data.map(Bytes::copy_from_slice);
        self.events.push_back(Event::Auth { reason: auth.reason, data });
        Ok(())
    }

    /// Sends the acknowledgements whose turn has come.
    pub(super) fn send_due_acks(&mut self, now: Instant) {
        while let Some(due) = self.inbound.take_due() {
            let (kind, packet_id) = match due {
                Due::PubAck(packet_id) => (AckKind::PubAck, packet_id),
                Due::PubRec(packet_id) => (AckKind::PubRec, packet_id),
            };
            self.send_ack(now, kind, packet_id, ReasonCode::SUCCESS);
        }
    }

    pub(super) fn send_pubrel(&mut self, now: Instant, packet_id: PacketId, reason: ReasonCode) {
        self.send_ack(now, AckKind::PubRel, packet_id, reason);
    }

    fn send_ack(&mut self, now: Instant, kind: AckKind, packet_id: PacketId, reason: ReasonCode) {
        let written = Ack::new(packet_id, reason).encode(kind, self.options.version, &mut self.output);
        assert!(written.is_ok(), "an acknowledgement without properties is always expressible");
        self.note_sent(now);
    }
}

fn message_of(packet: &Bytes, publish: &mqtt::Publish<'_>, topic: Text) -> Message {
    Message {
        topic,
        payload: packet.slice_ref(publish.payload),
        qos: publish.qos,
        retain: publish.retain,
        dup: publish.dup,
        packet_id: publish.packet_id,
        ack: None,
        subscription_ids: publish.properties.subscription_ids.iter().collect(),
        properties: properties_of(packet, publish),
    }
}

fn first_ack(qos: QoS) -> AckKind {
    if qos == QoS::ExactlyOnce { AckKind::PubRec } else { AckKind::PubAck }
}

fn copied_pairs(from: &mqtt::UserProperties<'_>) -> Vec<(Text, Text)> {
    from.iter().map(|(name, value)| (Text::copied(name), Text::copied(value))).collect()
}

/// What a CONNACK says, with the standard's defaults for what it does not say.
fn server_of(connack: &ConnAck<'_>, keep_alive_asked_s: u16) -> Server {
    let from = &connack.properties;
    let default = Server::new(keep_alive_asked_s);
    Server {
        receive_max: from.receive_max.unwrap_or(default.receive_max),
        qos_max: from.maximum_qos.unwrap_or(default.qos_max),
        retain_available: from.retain_available.unwrap_or(true),
        packet_bytes_max: from.packet_bytes_max.map(std::num::NonZeroU32::get),
        topic_alias_max: from.topic_alias_max.unwrap_or(0),
        wildcard_available: from.wildcard_subscription_available.unwrap_or(true),
        subscription_ids_available: from.subscription_ids_available.unwrap_or(true),
        shared_available: from.shared_subscription_available.unwrap_or(true),
        keep_alive_s: from.server_keep_alive_s.unwrap_or(keep_alive_asked_s),
        session_expiry_s: from.session_expiry_s,
        assigned_client_id: from.assigned_client_id.map(Text::copied),
        response_information: from.response_information.map(Text::copied),
        authentication_data: from.authentication_data.map(Bytes::copy_from_slice),
        detail: Detail {
            reason_string: from.reason_string.map(Text::copied),
            server_reference: from.server_reference.map(Text::copied),
            user_properties: copied_pairs(&from.user_properties),
        },
    }
}
