//! From a session's queue to the carrier: encode what the connection has room for, join it, hand it over.

use std::time::Instant;

use quelea_mqtt::{Ack, AckKind, AliasUse, Delivery, PacketId, QoS, ReasonCode, UserProperties, Version};

use crate::counters::Counters;
use crate::envelope::{LinkKey, Match, SessionKey};
use crate::link::{Carrier, CloseHow, DoorId, JOIN_BYTES_MAX, Link, LinkState};
use crate::publication::Publication;
use crate::session::{Discard, OutboundSink, Queued};
use crate::witness::Why;

use super::work::PACKET_WORK;
use super::{DoorAction, Shard};

impl Shard {
    /// Lets the listed sessions send, the one that was listed first before the others. What is beyond the turn's work stays
    /// listed: its datagrams and writes would keep all other clients waiting.
    pub(super) fn pump_sessions(&mut self, now: Instant) {
        let until = self.work + PUMP_WORK;
        for _ in 0..self.ready_sessions.len() {
            if self.work >= until {
                return;
            }
            let Some(key) = self.ready_sessions.pop_front() else { return };
            let Some(session) = self.sessions.get_mut(key) else { continue };
            session.listed = false;
            let sent = self.counters.packets_sent;
            self.pump_session(now, key);
            self.unpark(now, key);
            self.advance_replay(key);
            self.lend(key);
            self.judge_reading(key);
            if self.draining.is_some() {
                self.part_if_served(now, key);
            }
            self.work += SESSION_WORK + PACKET_WORK * (self.counters.packets_sent - sent);
        }
    }

    /// Sends what a session may send, as far as its connection has room.
    pub(super) fn pump_session(&mut self, now: Instant, key: SessionKey) {
        #[cfg(feature = "mutants")]
        let mutant = self.settings.mutant;
        let Self { sessions, links, counters, limits, .. } = self;
        let session = &mut sessions[key];
        let Some(link_key) = session.link() else { return };
        if !session.outbound.has_work() {
            return;
        }
        let link = &mut links[link_key];
        let mut sink = LinkSink::new(now, link, counters);
        #[cfg(feature = "mutants")]
        let now = match mutant {
            Some(crate::mutants::Mutant::ExpiryForgotten) => now - core::time::Duration::from_secs(10),
            _ => now,
        };
        session.outbound.pump(now, limits, &mut sink);
        #[cfg(feature = "witness")]
        let lost = core::mem::take(&mut sink.lost);
        if sink.wrote {
            self.mark_dirty(link_key);
        }
        #[cfg(feature = "witness")]
        for (queued, why) in lost {
            self.tell_loss_on(link_key, why.into(), &queued.message);
        }
    }

    /// Writes a QoS 0 publication straight to the connection, if that has room: nothing waits before it.
    pub(super) fn write_once(
        &mut self,
        now: Instant,
        key: LinkKey,
        message: &Publication,
        how: &Match,
    ) -> bool {
        let Self { links, counters, .. } = self;
        let mut sink = LinkSink::new(now, &mut links[key], counters);
        if !sink.has_room() {
            return false;
        }
        let Match { qos, retain, subscription_ids } = how;
        let parcel = Parcel { message, qos: *qos, retain: *retain, subscription_ids };
        if message.is_expired(now) {
            sink.counters.expired += 1;
            self.tell_loss_on(key, Why::Expired, message);
        } else if sink.takes(&parcel) {
            sink.write(&parcel, None, false);
            self.mark_dirty(key);
        } else {
            sink.counters.dropped_too_large += 1;
            self.tell_loss_on(key, Why::TooLarge, message);
        }
        true
    }

    /// Gives byte streams and QUIC streams what is to be written, and ends those that are done.
    pub(super) fn write_streams(&mut self, now: Instant) {
        let mut listed = core::mem::take(&mut self.dirty_links);
        for key in listed.drain(..) {
            let Some(link) = self.links.get_mut(key) else { continue };
            link.dirty = false;
            match link.carrier {
                Carrier::Door(door) => self.write_door(key, door),
                Carrier::Stream(conn, stream) => self.write_stream(now, key, conn, stream),
            }
            self.recharge_link(key);
        }
        keep_memory(&mut self.dirty_links, listed);
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

/// Sessions that send in one turn: some thousand packets.
const PUMP_WORK: u64 = 32_768;

/// A session looked at.
const SESSION_WORK: u64 = 8;

/// Gives a list that was taken to be worked off its memory back; what was listed meanwhile stays.
pub(super) fn keep_memory<T>(list: &mut Vec<T>, mut worked_off: Vec<T>) {
    worked_off.append(list);
    *list = worked_off;
}

/// A connection, as its session's sending half sees it.
struct LinkSink<'a> {
    link: &'a mut Link,
    counters: &'a mut Counters,
    now: Instant,
    wrote: bool,
    /// What it was given and may not send.
    #[cfg(feature = "witness")]
    lost: Vec<(Queued, Discard)>,
}

/// One publication as one client gets it.
#[derive(Clone, Copy)]
struct Parcel<'a> {
    message: &'a Publication,
    qos: QoS,
    retain: bool,
    subscription_ids: &'a [u32],
}

impl<'a> Parcel<'a> {
    fn of(queued: &'a Queued) -> Self {
        let Queued { message, qos, retain, subscription_ids, .. } = queued;
        Self { message, qos: *qos, retain: *retain, subscription_ids }
    }
}

impl<'a> LinkSink<'a> {
    fn new(now: Instant, link: &'a mut Link, counters: &'a mut Counters) -> Self {
        Self {
            link,
            counters,
            now,
            wrote: false,
            #[cfg(feature = "witness")]
            lost: Vec::new(),
        }
    }

    fn delivery<'p>(&self, parcel: &Parcel<'p>, id: Option<PacketId>, dup: bool) -> Delivery<'p> {
        Delivery {
            version: self.link.version,
            qos: parcel.qos,
            dup,
            retain: parcel.retain,
            packet_id: id,
            message_expiry_s: parcel.message.expiry_left_s(self.now),
            subscription_ids: parcel.subscription_ids,
            topic_alias: None,
        }
    }

    /// An alias for the topic, if the client allows another and the packet that sets it fits.
    fn alias(&mut self, message: &Publication) -> Option<AliasUse> {
        if self.link.version != Version::V5 || self.link.packet_bytes_max < u32::MAX {
            return None;
        }
        let (alias, is_new) = self.link.aliases_out.alias(message.image.topic_bytes())?;
        Some(if is_new { AliasUse::Define(alias) } else { AliasUse::Use(alias) })
    }

    fn takes(&self, parcel: &Parcel<'_>) -> bool {
        let max = self.link.packet_bytes_max;
        if max == u32::MAX {
            return true;
        }
        let id = (parcel.qos > QoS::AtMostOnce).then_some(PacketId::MIN);
        parcel.message.image.encoded_bytes(&self.delivery(parcel, id, false)) <= max as usize
    }

    fn write(&mut self, parcel: &Parcel<'_>, id: Option<PacketId>, dup: bool) {
        let topic_alias = self.alias(parcel.message);
        let delivery = Delivery { topic_alias, ..self.delivery(parcel, id, dup) };
        let image = &parcel.message.image;
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
}

impl OutboundSink for LinkSink<'_> {
    fn has_room(&self) -> bool {
        self.link.has_room()
    }

    fn fits(&self, queued: &Queued) -> bool {
        self.takes(&Parcel::of(queued))
    }

    fn publish(&mut self, queued: &Queued, id: Option<PacketId>, dup: bool) {
        self.write(&Parcel::of(queued), id, dup);
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

    fn discarded(&mut self, queued: Queued, why: Discard) {
        #[cfg(feature = "witness")]
        self.lost.push((queued, why));
        #[cfg(not(feature = "witness"))]
        drop(queued);
        match why {
            Discard::Expired => self.counters.expired += 1,
            Discard::TooLarge => self.counters.dropped_too_large += 1,
        }
    }
}
