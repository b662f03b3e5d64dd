//! From a session's queue to the carrier: encode what the connection has room for, join it, hand it over.

use std::time::Instant;

use quelea_mqtt::{Ack, AckKind, AliasUse, Delivery, PacketId, QoS, ReasonCode, UserProperties, Version};

use crate::counters::Counters;
use crate::envelope::{LinkKey, SessionKey};
use crate::link::{Carrier, CloseHow, DoorId, JOIN_BYTES_MAX, Link, LinkState};
use crate::session::{Discard, OutboundSink, Queued};

use super::{DoorAction, Shard};

impl Shard {
    /// Lets every listed session send.
    pub(super) fn pump_sessions(&mut self, now: Instant) {
        for key in core::mem::take(&mut self.ready_sessions) {
            if let Some(session) = self.sessions.get_mut(key) {
                session.listed = false;
                self.pump_session(now, key);
                self.unpark(now, key);
                self.advance_replay(key);
                self.lend(key);
            }
        }
    }

    /// Sends what a session may send, as far as its connection has room.
    pub(super) fn pump_session(&mut self, now: Instant, key: SessionKey) {
        let Self { sessions, links, counters, limits, .. } = self;
        let session = &mut sessions[key];
        let Some(link_key) = session.link() else { return };
        if !session.outbound.has_work() {
            return;
        }
        let link = &mut links[link_key];
        let mut sink = LinkSink { link, counters, now, wrote: false };
        session.outbound.pump(now, limits, &mut sink);
        if sink.wrote {
            self.mark_dirty(link_key);
        }
    }

    /// Gives byte streams and QUIC streams what is to be written, and ends those that are done.
    pub(super) fn write_streams(&mut self, now: Instant) {
        for key in core::mem::take(&mut self.dirty_links) {
            let Some(link) = self.links.get_mut(key) else { continue };
            link.dirty = false;
            match link.carrier {
                Carrier::Door(door) => self.write_door(key, door),
                Carrier::Stream(conn, stream) => self.write_stream(now, key, conn, stream),
            }
            self.recharge_link(key);
        }
    }

    fn write_door(&mut self, key: LinkKey, door: DoorId) {
        let link = &mut self.links[key];
        if link.layers.is_some() {
            return self.write_layered_door(key, door);
        }
        if let Some(batch) = link.output.take_batch() {
            self.door_actions.push_back((door, DoorAction::Write(batch)));
        }
        let link = &mut self.links[key];
        if let LinkState::Closing(closing) = &mut link.state
            && !closing.told
            && link.output.bytes() == 0
        {
            closing.told = true;
            self.door_actions.push_back((door, DoorAction::Finish));
        }
    }

    /// The next thing that a byte stream is to do.
    pub fn poll_door(&mut self) -> Option<(DoorId, DoorAction)> {
        self.door_actions.pop_front()
    }

    /// What a closing connection's carrier is told, once its last bytes have left.
    pub(super) fn close_how(&self, key: LinkKey) -> Option<CloseHow> {
        match self.links[key].state {
            LinkState::Closing(closing) if !closing.told => Some(closing.how),
            _ => None,
        }
    }
}

/// A connection, as its session's sending half sees it.
struct LinkSink<'a> {
    link: &'a mut Link,
    counters: &'a mut Counters,
    now: Instant,
    wrote: bool,
}

impl LinkSink<'_> {
    fn delivery<'q>(&self, queued: &'q Queued, id: Option<PacketId>, dup: bool) -> Delivery<'q> {
        Delivery {
            version: self.link.version,
            qos: queued.qos,
            dup,
            retain: queued.retain,
            packet_id: id,
            message_expiry_s: queued.message.expiry_left_s(self.now),
            subscription_ids: &queued.subscription_ids,
            topic_alias: None,
        }
    }

    /// An alias for the topic, if the client allows another and the packet that sets it fits.
    fn alias(&mut self, queued: &Queued) -> Option<AliasUse> {
        if self.link.version != Version::V5 || self.link.packet_bytes_max < u32::MAX {
            return None;
        }
        let (alias, is_new) = self.link.aliases_out.alias(&queued.message.image.topic_bytes())?;
        Some(if is_new { AliasUse::Define(alias) } else { AliasUse::Use(alias) })
    }
}

impl OutboundSink for LinkSink<'_> {
    fn has_room(&self) -> bool {
        self.link.has_room()
    }

    fn fits(&self, queued: &Queued) -> bool {
        let max = self.link.packet_bytes_max;
        if max == u32::MAX {
            return true;
        }
        let id = (queued.qos > QoS::AtMostOnce).then_some(PacketId::MIN);
        queued.message.image.encoded_bytes(&self.delivery(queued, id, false)) <= max as usize
    }

    fn publish(&mut self, queued: &Queued, id: Option<PacketId>, dup: bool) {
        let topic_alias = self.alias(queued);
        let delivery = Delivery { topic_alias, ..self.delivery(queued, id, dup) };
        let image = &queued.message.image;
        if image.payload_bytes() <= JOIN_BYTES_MAX {
            image.encode(&delivery, self.link.output.buffer());
        } else {
            image.encode_head(&delivery, self.link.output.buffer());
            self.link.output.push_shared(image.payload());
        }
        if dup {
            self.counters.publishes_resent += 1;
        } else {
            self.counters.publishes_sent += 1;
        }
        self.counters.packets_sent += 1;
        self.wrote = true;
    }

    fn release(&mut self, id: PacketId) {
        let ack = Ack {
            packet_id: id,
            reason: ReasonCode::SUCCESS,
            reason_string: None,
            user_properties: UserProperties::default(),
        };
        ack.encode(AckKind::PubRel, self.link.version, self.link.output.buffer())
            .expect("a PUBREL of known size");
        self.counters.packets_sent += 1;
        self.wrote = true;
    }

    fn discarded(&mut self, _queued: Queued, why: Discard) {
        match why {
            Discard::Expired => self.counters.expired += 1,
            Discard::TooLarge => self.counters.dropped_too_large += 1,
        }
    }
}
