//! What each packet of a client means.

use std::time::Instant;

use quelea_mqtt::{
    Ack, AckKind, Disconnect, Packet, Publish, QoS, ReasonCode, Sender, TopicName, UserProperties, Version,
};

use crate::envelope::{LinkKey, SessionKey};
use crate::link::{CloseHow, Link, LinkState};
use crate::session::{Outgoing, PublishVerdict, Released};
use crate::witness::{Subject, Why};

use super::sessions::WillAt;
use super::{Permissions, Shard};

impl Shard {
    /// One whole packet.
    pub(super) fn handle_packet(&mut self, now: Instant, key: LinkKey, bytes: &[u8]) {
        self.counters.packets_received += 1;
        let link = &mut self.links[key];
        link.last_packet = now;
        let packet = match quelea_mqtt::decode(bytes, link.version, Sender::Client, &self.settings.packet) {
            Ok(packet) => packet,
            Err(error) => {
                if matches!(link.state, LinkState::AwaitConnect)
                    && let Some(version) = quelea_mqtt::connect_answer_version(bytes)
                {
                    link.version = version;
                    link.version_known = true;
                }
                return self.refuse_packet(now, key, error.reason_code());
            }
        };
        match (&link.state, packet) {
            (LinkState::AwaitConnect, Packet::Connect(connect)) => self.on_connect(now, key, &connect),
            (LinkState::Online(session), packet) => {
                let session = *session;
                let asked = match link.permissions {
                    Permissions::Everything => Ok(false),
                    Permissions::Ask => self.ask_permission(key, session, &packet, bytes),
                };
                let outcome = match asked {
                    Ok(false) => self.on_packet(now, key, session, packet),
                    Ok(true) => Ok(()),
                    Err(reason) => Err(reason),
                };
                if let Err(reason) = outcome {
                    self.refuse_packet(now, key, reason);
                }
            }
            // Anything before CONNECT `[MQTT-3.1.0-1]`.
            _ => self.refuse_packet(now, key, ReasonCode::PROTOCOL_ERROR),
        }
    }

    pub(super) fn on_packet(
        &mut self,
        now: Instant,
        key: LinkKey,
        session: SessionKey,
        packet: Packet<'_>,
    ) -> Result<(), ReasonCode> {
        match packet {
            Packet::Publish(publish) => {
                let counts = self.count_in_flight(key, session, &publish)?;
                self.on_publish(now, key, session, &publish, counts)
            }
            Packet::PubAck(ack) => {
                let outcome = self.sessions[session].outbound.on_puback(ack.packet_id);
                self.on_outcome(now, session, &outcome, ack.reason)
            }
            Packet::PubRec(ack) => self.on_pubrec(now, key, session, &ack),
            Packet::PubRel(ack) => self.on_pubrel(key, session, &ack),
            Packet::PubComp(ack) => {
                let outcome = self.sessions[session].outbound.on_pubcomp(ack.packet_id);
                self.on_outcome(now, session, &outcome, ReasonCode::SUCCESS)
            }
            Packet::Subscribe(subscribe) => {
                let allowed: smallvec::SmallVec<[bool; 8]> = subscribe.filters().map(|_| true).collect();
                self.on_subscribe(now, key, session, &subscribe, &allowed);
                Ok(())
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.on_unsubscribe(now, key, session, &unsubscribe);
                Ok(())
            }
            Packet::PingReq => {
                quelea_mqtt::encode_ping_resp(self.links[key].output.buffer());
                self.sent_packet(key);
                Ok(())
            }
            Packet::Disconnect(disconnect) => self.on_disconnect(now, key, session, &disconnect),
            // A second CONNECT `[MQTT-3.1.0-2]`; AUTH without an authentication method `[MQTT-4.12.0-6]`;
            // the codec refuses what only servers send.
            _ => Err(ReasonCode::PROTOCOL_ERROR),
        }
    }

    /// Counts a publication against our Receive Maximum `[MQTT-3.3.4-7]`; whether it counts. QoS 2 that is sent again on the
    /// same connection is one publication in flight, not two.
    pub(super) fn count_in_flight(
        &mut self,
        key: LinkKey,
        session: SessionKey,
        publish: &Publish<'_>,
    ) -> Result<bool, ReasonCode> {
        let Some(id) = publish.packet_id else { return Ok(false) };
        let link = &mut self.links[key];
        let counts = publish.qos < QoS::ExactlyOnce || !self.sessions[session].inbound.is_counted(id);
        link.received_in_flight = link.received_in_flight.saturating_add(u16::from(counts));
        let receive_max = self.settings.receive_max;
        let owed = link.acks.len() >= usize::from(receive_max);
        match link.version == Version::V5 && (owed || link.received_in_flight > receive_max) {
            true => Err(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED),
            false => Ok(counts),
        }
    }

    /// `counts` is what [`Self::count_in_flight`] said of it.
    pub(super) fn on_publish(
        &mut self,
        now: Instant,
        key: LinkKey,
        session: SessionKey,
        publish: &Publish<'_>,
        counts: bool,
    ) -> Result<(), ReasonCode> {
        if publish.qos > self.settings.qos_max {
            return Err(ReasonCode::QOS_NOT_SUPPORTED);
        }
        let link = &mut self.links[key];
        let alias_topic;
        let topic = match (publish.topic, publish.properties.topic_alias) {
            (Some(topic), None) => topic,
            (Some(topic), Some(alias)) => {
                link.aliases_in.learn(alias.get(), topic.as_str(), self.settings.aliases_in())?;
                topic
            }
            (None, Some(alias)) => {
                alias_topic = known_alias(link, alias.get(), self.settings.topic_alias_max)?;
                TopicName::new(&alias_topic, usize::MAX).map_err(|_| ReasonCode::TOPIC_ALIAS_INVALID)?
            }
            (None, None) => return Err(ReasonCode::PROTOCOL_ERROR),
        };
        let reserved = super::connect::is_brokers_own(topic.as_str());
        let publisher = self.sessions[session].publisher;
        if publish.qos == QoS::ExactlyOnce && counts {
            let inbound = &self.sessions[session].inbound;
            let is_new = publish.packet_id.is_some_and(|id| !inbound.contains(id));
            // Those for which it waits itself are not what it holds.
            if is_new && inbound.len() >= self.settings.unacked_max + self.links[key].acks.len() {
                // Received in earlier connections and never released: a client that only takes.
                return Err(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
            }
        }
        match (publish.qos, publish.packet_id) {
            (QoS::ExactlyOnce, Some(id))
                if self.sessions[session].inbound.on_publish(id) == PublishVerdict::Duplicate =>
            {
                // The first copy's PUBREC may still be on its way through the other shards; then it answers for both.
                self.work += self.links[key].acks.search_work();
                if !self.links[key].acks.contains(id) {
                    let number = self.links[key].acks.push(id, QoS::ExactlyOnce);
                    self.links[key].acks.settle(number, ReasonCode::SUCCESS);
                    self.send_acks(now, key);
                }
                return Ok(());
            }
            (QoS::ExactlyOnce, _) => self.sessions[session].recharge(),
            _ => {}
        }
        self.counters.publishes_received += 1;
        if reserved {
            // The broker's own topics are not for clients.
            self.deny_publish(now, key, publish, counts);
            return Ok(());
        }
        let ack = publish.packet_id.map(|id| self.links[key].acks.push(id, publish.qos));
        if self.is_full() {
            return self.refuse_for_memory(now, key, publish, ack);
        }
        let message = self.spares.publication(now, publish, topic, publisher, &self.budget);
        self.publish_from(now, key, &message, ack);
        self.spares.give(message);
        Ok(())
    }

    /// Lets every acknowledgement leave that is settled and has nothing unsettled in front of it.
    pub(super) fn send_acks(&mut self, now: Instant, key: LinkKey) {
        let Some(link) = self.links.get_mut(key) else { return };
        if link.session().is_none() {
            return;
        }
        // A duplicate of what a former connection has sent is acknowledged when that is accepted.
        if link.behind_former {
            return;
        }
        let mut sent = false;
        while let Some((id, qos, reason)) = link.acks.pop_settled() {
            let kind = match qos {
                QoS::ExactlyOnce => AckKind::PubRec,
                _ => AckKind::PubAck,
            };
            if qos == QoS::AtLeastOnce || reason.is_error() {
                link.received_in_flight = link.received_in_flight.saturating_sub(1);
            }
            if reason == ReasonCode::QUOTA_EXCEEDED && link.version < Version::V5 {
                // A repetition of what a former connection is refused: it cannot be told here either.
                return self.disconnect(now, key, reason);
            }
            write_ack(link, kind, id, reason);
            self.counters.packets_sent += 1;
            sent = true;
        }
        if sent {
            if link.acks_max < usize::MAX && (link.reading_paused || !link.input.is_empty()) {
                self.relieved_links.push(key);
            }
            self.mark_dirty(key);
        }
    }

    /// Memory is at its ceiling: QoS 0 is dropped; a publisher that can be told hears 0x97; one that cannot is cut before
    /// it takes our acknowledgement for a promise.
    fn refuse_for_memory(
        &mut self,
        now: Instant,
        key: LinkKey,
        publish: &Publish<'_>,
        ack: Option<u64>,
    ) -> Result<(), ReasonCode> {
        let Some(number) = ack else {
            self.counters.dropped_qos0_refused += 1;
            self.tell_refused(Why::Qos0Refused, publish);
            return Ok(());
        };
        debug_assert!(publish.qos > QoS::AtMostOnce);
        self.counters.publishes_refused += 1;
        self.acknowledge(now, key, number, ReasonCode::QUOTA_EXCEEDED);
        Ok(())
    }

    fn on_pubrel(&mut self, key: LinkKey, session: SessionKey, ack: &Ack<'_>) -> Result<(), ReasonCode> {
        self.work += self.links[key].acks.search_work();
        if self.links[key].acks.contains(ack.packet_id) {
            // Released before our PUBREC: not what a client may do `[MQTT-4.3.3-4]`.
            return Err(ReasonCode::PROTOCOL_ERROR);
        }
        let session = &mut self.sessions[session];
        let released = session.inbound.on_pubrel(ack.packet_id);
        if session.inbound.is_empty() {
            session.recharge();
        }
        let reason = match released {
            Released::Unknown => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            Released::Earlier | Released::Counted => ReasonCode::SUCCESS,
        };
        let link = &mut self.links[key];
        link.received_in_flight =
            link.received_in_flight.saturating_sub(u16::from(released == Released::Counted));
        write_ack(&mut self.links[key], AckKind::PubComp, ack.packet_id, reason);
        self.sent_packet(key);
        Ok(())
    }

    fn on_pubrec(
        &mut self,
        now: Instant,
        key: LinkKey,
        session: SessionKey,
        ack: &Ack<'_>,
    ) -> Result<(), ReasonCode> {
        let outcome = self.sessions[session].outbound.on_pubrec(ack.packet_id, ack.reason.is_error());
        let reason = match outcome {
            Outgoing::Release => ReasonCode::SUCCESS,
            Outgoing::Unknown if !ack.reason.is_error() => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            _ => return self.on_outcome(now, session, &outcome, ack.reason),
        };
        write_ack(&mut self.links[key], AckKind::PubRel, ack.packet_id, reason);
        self.sent_packet(key);
        Ok(())
    }

    fn on_outcome(
        &mut self,
        now: Instant,
        session: SessionKey,
        outcome: &Outgoing,
        said: ReasonCode,
    ) -> Result<(), ReasonCode> {
        match outcome {
            // An identifier that we do not know is what a client sends again after a lost connection.
            Outgoing::Unknown | Outgoing::Release => Ok(()),
            Outgoing::WrongQoS => Err(ReasonCode::PROTOCOL_ERROR),
            Outgoing::Complete(message) => {
                if let Some(refused) = message.as_ref().filter(|_| said.is_error()) {
                    self.counters.dropped_refused += 1;
                    self.tell_loss(Subject::Session(session), Why::Refused, &refused.message);
                }
                self.list_session(session);
                self.unpark(now, session);
                Ok(())
            }
        }
    }

    fn on_disconnect(
        &mut self,
        now: Instant,
        key: LinkKey,
        session: SessionKey,
        packet: &Disconnect<'_>,
    ) -> Result<(), ReasonCode> {
        if let Some(expiry_s) = packet.session_expiry_s {
            self.change_expiry(session, expiry_s)?;
        }
        let will = match packet.reason {
            ReasonCode::NORMAL_DISCONNECTION => WillAt::Never,
            _ => WillAt::AfterDelay,
        };
        // What waits for another road was sent before the DISCONNECT: it goes on, without an acknowledgement.
        self.part_from_session(key, session);
        self.detach(now, session, will);
        self.close_link(now, key, CloseHow::Finish);
        Ok(())
    }
}

fn write_ack(link: &mut Link, kind: AckKind, packet_id: quelea_mqtt::PacketId, reason: ReasonCode) {
    let ack = Ack { packet_id, reason, reason_string: None, user_properties: UserProperties::default() };
    ack.encode(kind, link.version, link.output.buffer()).expect("an acknowledgement of known size");
}

/// An alias without a topic: one that this connection has set.
fn known_alias(link: &Link, alias: u16, max: u16) -> Result<Box<str>, ReasonCode> {
    if alias > max {
        return Err(ReasonCode::TOPIC_ALIAS_INVALID);
    }
    // A gap in what the client has set is its error, not a wrong number `[MQTT-3.3.2-7]`.
    link.aliases_in.topic(alias).map(Into::into).ok_or(ReasonCode::PROTOCOL_ERROR)
}
