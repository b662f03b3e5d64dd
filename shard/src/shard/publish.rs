//! The publishers' side: from a PUBLISH to its acknowledgement.
//!
//! ```text
//!  PUBLISH ─► retained? ──no──► fan out ─► this shard's subscribers
//!                │                  └────► every interested shard ─► its subscribers ─► Accepted
//!                └─yes─► the topic's owner ─► store ─► fan out from there
//! ```
//! A ticket counts who has not accepted yet; the last one lets the PUBACK or PUBREC leave. Retained publications go by
//! their topic's owner so that subscribers and the store see them in one order; a connection that mixes the two roads
//! waits at the crossing until the other road is empty, so its own order holds as well. A client that comes back while
//! publications of its former connection are on the road waits behind them in the same way.

use std::time::Instant;

use quelea_mqtt::{PacketId, QoS, ReasonCode, Version};
use quelea_router::ShardId;

use crate::envelope::{Accepted, Deliver, Forward, LinkKey, SessionKey, TicketKey};
use crate::kept;
use crate::link::{Deferred, Link, LinkState, Road};
#[cfg(feature = "mutants")]
use crate::mutants::Mutant;
use crate::publication::Message;
use crate::witness::{Subject, Why};

use super::accept::Acceptance;
use super::work::PACKET_WORK;
use super::{Origin, Shard, Then};

/// A client's publication that is accepted everywhere, or refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settled {
    link: LinkKey,
    ack: Option<u64>,
    reason: ReasonCode,
}

impl Shard {
    /// A client's publication; `ack` is its place among the connection's acknowledgements.
    pub(super) fn publish_from(&mut self, now: Instant, key: LinkKey, message: &Message, ack: Option<u64>) {
        let road = self.road_of(message);
        let limits = self.limits;
        let link = &mut self.links[key];
        if !link.deferred.is_empty() || link.must_wait_for(road) {
            // QoS 1 and 2 are bounded by what may be unacknowledged; QoS 0 by a queue's limit.
            if ack.is_none() && link.defers_too_much(&limits) {
                self.counters.dropped_qos0_deferred += 1;
                self.tell_loss(Subject::Everybody, Why::Qos0Deferred, message);
            } else {
                self.crossing_links += usize::from(link.deferred.is_empty());
                link.deferred.push_back(Deferred { message: Message::clone(message), ack });
            }
            return;
        }
        self.publish_on(now, key, message, ack, road);
    }

    fn publish_on(&mut self, now: Instant, key: LinkKey, message: &Message, ack: Option<u64>, road: Road) {
        #[cfg(feature = "mutants")]
        let ack = match self.settings.mutant {
            Some(Mutant::AckBeforeAcceptance) => self.acknowledge_too_early(now, key, ack),
            _ => ack,
        };
        let link = &mut self.links[key];
        if link.enter_road(road, ack.is_none(), self.settings.qos0_unaccepted_max) {
            self.throttled_links += 1;
            self.counters.publishers_throttled += 1;
        }
        let settled = self.publish(now, message, Origin::Link { link: key, ack });
        if let Some(reason) = settled {
            self.publication_settled(now, key, ack, reason);
        }
    }

    #[cfg(feature = "mutants")]
    fn acknowledge_too_early(&mut self, now: Instant, key: LinkKey, ack: Option<u64>) -> Option<u64> {
        if let Some(number) = ack {
            self.links[key].acks.settle(number, ReasonCode::SUCCESS);
            self.send_acks(now, key);
        }
        None
    }

    fn road_of(&self, message: &Message) -> Road {
        let by_owner = message.retain && self.owner_of_topic(message.image.topic().as_str()) != self.id;
        if by_owner { Road::Owner } else { Road::Direct }
    }

    /// Publishes. `Some` if everybody has it (or never will) already; otherwise `origin` is told later.
    pub(super) fn publish(&mut self, now: Instant, message: &Message, origin: Origin) -> Option<ReasonCode> {
        if message.retain {
            let owner = self.owner_of_topic(message.image.topic().as_str());
            #[cfg(feature = "mutants")]
            if owner != self.id && self.settings.mutant == Some(Mutant::RetainedFannedOutByPublisher) {
                self.forward(owner, message, Origin::Nobody);
                return self.fan_out(now, message, origin, ReasonCode::NO_MATCHING_SUBSCRIBERS);
            }
            if owner != self.id {
                return self.forward(owner, message, origin);
            }
            return self.publish_retained(now, message, origin);
        }
        self.fan_out(now, message, origin, ReasonCode::NO_MATCHING_SUBSCRIBERS)
    }

    fn forward(&mut self, owner: ShardId, message: &Message, origin: Origin) -> Option<ReasonCode> {
        if may_drop(message, origin) && !self.peers[owner.index()].can_forward() {
            self.counters.dropped_qos0_credit += 1;
            self.tell_loss(Subject::Everybody, Why::Qos0Credit, message);
            return Some(ReasonCode::SUCCESS);
        }
        let ticket = self.tickets.open(origin, 1, ReasonCode::NO_MATCHING_SUBSCRIBERS);
        self.send_forward(owner, Forward { ticket, message: Message::clone(message) });
        None
    }

    /// A retained publication of another shard's client: this shard owns its topic.
    pub(super) fn on_forward(&mut self, now: Instant, from: ShardId, forward: Forward) {
        let Forward { ticket, message } = forward;
        #[cfg(feature = "mutants")]
        if self.settings.mutant == Some(Mutant::RetainedFannedOutByPublisher) {
            let reason = self.store_retained(now, &message);
            return self.reply_forwarded(from, Accepted { ticket, reason });
        }
        if let Some(reason) = self.publish_retained(now, &message, Origin::Forward { from, ticket }) {
            self.reply_forwarded(from, Accepted { ticket, reason });
        }
    }

    /// Stores and fans out: this shard owns the topic. What cannot be stored is refused as a whole: nobody has seen a
    /// value that the next subscriber would not get.
    fn publish_retained(&mut self, now: Instant, message: &Message, origin: Origin) -> Option<ReasonCode> {
        let stored = self.store_retained(now, message);
        if stored.is_error() {
            return Some(stored);
        }
        self.fan_out(now, message, origin, stored)
    }

    /// To this shard's subscribers and to every interested shard: at most one envelope each.
    fn fan_out(
        &mut self,
        now: Instant,
        message: &Message,
        origin: Origin,
        reason: ReasonCode,
    ) -> Option<ReasonCode> {
        let topic = message.image.topic();
        let (mut others, visited) = self.interest.shards_and_work(topic);
        self.work += visited as u64;
        others.remove(self.id);
        let acceptance = self.accept(now, self.id, message, topic);
        let (reason, hold) = match acceptance {
            Acceptance::Settled(own) => (worse(reason, own), None),
            Acceptance::Waiting(hold) => (worse(reason, ReasonCode::SUCCESS), Some(hold)),
        };
        if others.is_empty() && hold.is_none() {
            return Some(reason);
        }
        let ticket = self.tickets.open(origin, u32::from(hold.is_some()), reason);
        if let Some(hold) = hold {
            self.hold_for(hold, Then::Ticket(ticket));
        }
        let mut sent = 0;
        for to in others.iter() {
            let may_drop = may_drop(message, origin);
            #[cfg(feature = "mutants")]
            let may_drop = may_drop || self.settings.mutant == Some(Mutant::FullPeerDropped);
            #[cfg(feature = "mutants")]
            if self.settings.mutant == Some(Mutant::LossHidden) && !self.peers[to.index()].can_deliver() {
                self.counters.messages_matched += 1;
                self.counters.dropped_slow += 1;
                continue;
            }
            if may_drop && !self.peers[to.index()].can_deliver() {
                self.counters.dropped_qos0_credit += 1;
                self.tell_loss(Subject::Everybody, Why::Qos0Credit, message);
                continue;
            }
            sent += 1;
            self.send_deliver(to, Deliver::Publish { ticket, message: Message::clone(message) });
        }
        self.tickets.await_more(ticket, sent).map(|(_, reason)| reason)
    }

    /// One of those that a publication waited for has it.
    pub(super) fn ticket_accepted(&mut self, now: Instant, key: TicketKey, reason: ReasonCode) {
        let Some((origin, reason)) = self.tickets.on_accepted(key, reason) else { return };
        match origin {
            Origin::Link { link, ack } => self.settle_in_turn(now, Settled { link, ack, reason }),
            Origin::Forward { from, ticket } => self.reply_forwarded(from, Accepted { ticket, reason }),
            Origin::Nobody => {}
        }
    }

    /// One publication's end may bring about another's: its client is cut, what waited for that client's session goes, and
    /// whoever published that may be next. Those come one after the other, not one inside the other: of such ends there may
    /// be as many as there are clients.
    fn settle_in_turn(&mut self, now: Instant, first: Settled) {
        if self.is_settling {
            return self.settled.push_back(first);
        }
        self.is_settling = true;
        let mut next = Some(first);
        while let Some(Settled { link, ack, reason }) = next {
            self.publication_settled(now, link, ack, reason);
            next = self.settled.pop_front();
        }
        self.is_settling = false;
    }

    /// A client's publication is accepted everywhere: its acknowledgement may leave, and perhaps the road is free.
    fn publication_settled(&mut self, now: Instant, key: LinkKey, ack: Option<u64>, reason: ReasonCode) {
        // The connection may have gone meanwhile: then the client repeats what it has not seen acknowledged.
        let Some(link) = self.links.get_mut(key) else { return };
        let has_followers = link.has_followers();
        if link.leave_road(ack.is_none(), self.settings.qos0_unaccepted_max) {
            self.throttled_links -= 1;
            self.relieved_links.push(key);
        }
        if let Some(number) = ack {
            self.acknowledge(now, key, number, reason);
        }
        if has_followers {
            self.publish_deferred(now, key);
        }
    }

    /// Enters what a publication's acknowledgement is to say, and lets it leave when its turn comes. Who cannot be told that
    /// there is no room would take any acknowledgement for a promise and is cut: at once, for the publication comes again,
    /// behind what follows it here if that were accepted meanwhile.
    pub(super) fn acknowledge(&mut self, now: Instant, key: LinkKey, number: u64, reason: ReasonCode) {
        self.settle_ack(key, number, reason);
        let link = &self.links[key];
        if reason == ReasonCode::QUOTA_EXCEEDED && link.version < Version::V5 && link.session().is_some() {
            self.disconnect(now, key, reason);
        } else {
            self.send_acks(now, key);
        }
    }

    /// Enters what a publication's acknowledgement is to say. If that is a refusal of QoS 2, its identifier is free from now
    /// on: the connection may end before the PUBREC leaves, and what its client sends again is a new publication then.
    pub(super) fn settle_ack(&mut self, key: LinkKey, number: u64, reason: ReasonCode) {
        if let Some(id) = self.links[key].acks.settle(number, reason) {
            self.forget_refused(key, id, reason);
        }
    }

    /// A repetition that has come by a later connection meanwhile was taken for one of a received publication: it is refused
    /// as that was.
    #[cold]
    fn forget_refused(&mut self, key: LinkKey, id: PacketId, reason: ReasonCode) {
        let link = &self.links[key];
        let mut next = link.next;
        let Some(session) = link.session().or(link.former) else { return };
        if let Some(session) = self.sessions.get_mut(session) {
            session.inbound.on_refused(id);
            session.recharge();
        }
        while let Some(link) = next.and_then(|next| self.links.get_mut(next)) {
            link.acks.refuse_repeated(id, reason);
            next = link.next;
        }
    }

    /// A connection is over for its session. If that lives on, what it publishes next waits for what is still here.
    pub(super) fn part_from_session(&mut self, key: LinkKey, session_key: SessionKey) {
        let link = &mut self.links[key];
        link.state = LinkState::AwaitConnect;
        let session = &mut self.sessions[session_key];
        if session.is_persistent() && link.has_unsettled() {
            link.former = Some(session_key);
            self.parted_links += 1;
            session.former = Some(key);
            session.formers += 1;
        }
    }

    /// The publications of a former connection are accepted: the session may go, or those of its next connection, which is
    /// returned.
    fn former_settled(&mut self, now: Instant, key: LinkKey, session_key: SessionKey) -> Option<LinkKey> {
        let next = self.links[key].next.filter(|next| self.links.contains_key(*next));
        if let Some(next) = next {
            self.links[next].behind_former = false;
            self.send_acks(now, next);
        }
        if let Some(session) = self.sessions.get_mut(session_key) {
            session.formers -= 1;
            if session.former == Some(key) {
                session.former = None;
                self.finish_move_if_marked(now, session_key);
            }
        }
        next
    }

    /// A road may be free: what waits for it goes, and then what the session's next connections have published behind it.
    pub(super) fn publish_deferred(&mut self, now: Instant, key: LinkKey) {
        let mut next = Some(key);
        while let Some(key) = next {
            next = self.publish_deferred_of(now, key);
        }
    }

    /// The same for one connection. Returns the one that was behind it, if that waits for it no longer.
    fn publish_deferred_of(&mut self, now: Instant, key: LinkKey) -> Option<LinkKey> {
        let was_held = self.links.get(key).is_some_and(Link::is_held);
        self.publish_until_crossing(now, key);
        kept::give_back_grown(&mut self.links.get_mut(key)?.deferred);
        self.recharge_link(key);
        let link = self.links.get_mut(key)?;
        let mut next = None;
        if !link.has_unsettled()
            && let Some(session) = link.former.take()
        {
            self.parted_links -= 1;
            next = self.former_settled(now, key, session);
        }
        let Some(link) = self.links.get(key) else { return next };
        if matches!(link.state, LinkState::Gone) && link.deferred.is_empty() && link.former.is_none() {
            self.drop_link(key);
            return next;
        }
        let has_crossed = link.deferred.is_empty() && (link.input_ended || !link.input.is_empty());
        if (was_held && !link.is_held()) || has_crossed {
            self.relieved_links.push(key);
        }
        next
    }

    /// Publishes what was deferred, up to the first that has to wait for the other road again, or that is beyond the
    /// connection's share of the work: then it goes on in its next turn, and what is deferred stays in front of what comes.
    fn publish_until_crossing(&mut self, now: Instant, key: LinkKey) {
        let until = self.input_share();
        while let Some(link) = self.links.get(key)
            && let Some(next) = link.deferred.front()
        {
            let road = self.road_of(&next.message);
            if link.must_wait_for(road) {
                return;
            }
            // Not `publish_on`: settling at once would come back here for every message of a long queue.
            let link = &mut self.links[key];
            let next = link.deferred.pop_front().expect("just seen");
            self.crossing_links -= usize::from(link.deferred.is_empty());
            if link.enter_road(road, next.ack.is_none(), self.settings.qos0_unaccepted_max) {
                self.throttled_links += 1;
                self.counters.publishers_throttled += 1;
            }
            let origin = Origin::Link { link: key, ack: next.ack };
            if let Some(reason) = self.publish(now, &next.message, origin) {
                let link = &mut self.links[key];
                if link.leave_road(next.ack.is_none(), self.settings.qos0_unaccepted_max) {
                    self.throttled_links -= 1;
                    self.relieved_links.push(key);
                }
                if let Some(number) = next.ack {
                    self.acknowledge(now, key, number, reason);
                }
            }
            self.work += PACKET_WORK;
            if self.work >= until {
                return self.yield_deferred(key);
            }
        }
    }

    fn yield_deferred(&mut self, key: LinkKey) {
        if self.links.get(key).is_some_and(|link| !link.deferred.is_empty() && !link.yielded) {
            self.yield_link(key);
        }
    }
}

/// Whether a publication is dropped where another shard has no credit. A connection's wait there: it is read only as far
/// as they are accepted. Wills have nobody who could be held back.
fn may_drop(message: &Message, origin: Origin) -> bool {
    message.qos == QoS::AtMostOnce && matches!(origin, Origin::Nobody)
}

/// The reason code that a publisher sees: an error over success, success over "no matching subscribers".
pub(super) fn worse(a: ReasonCode, b: ReasonCode) -> ReasonCode {
    if a.is_error() {
        a
    } else if b.is_error() {
        b
    } else if a == ReasonCode::SUCCESS || b == ReasonCode::SUCCESS {
        ReasonCode::SUCCESS
    } else {
        a
    }
}
