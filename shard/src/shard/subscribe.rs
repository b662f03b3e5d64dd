//! SUBSCRIBE and UNSUBSCRIBE: change the session and the trie, wait for the other shards, answer, then fetch what is
//! retained.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use quelea_mqtt::{
    PacketId, ReasonCode, RequestedSubscription, RetainHandling, SubAck, SubAckKind, Subscribe,
    SubscribeFilter, Unsubscribe, UserProperties, Version,
};
use quelea_router::{ShardId, ShardSet};
use smallvec::SmallVec;

use crate::envelope::{Control, LinkKey, Member, SessionKey};
use crate::publication::{Budget, Charge};
use crate::session::{Replay, Session, Subscription};

use super::interest::Barrier;
use super::work::FILTER_WORK;
use super::{Shard, Subscriber};

/// A SUBACK or UNSUBACK that waits.
#[derive(Debug)]
pub(crate) struct PendingAnswer {
    kind: SubAckKind,
    id: PacketId,
    reasons: SmallVec<[u8; 4]>,
    /// Shared groups whose owners have not answered: the filter and its places among the reasons.
    joins: BTreeMap<Arc<str>, SmallVec<[u16; 1]>>,
    replays: Vec<Replay>,
    /// What all this is charged with, until the answer has left or its connection has gone.
    charge: Option<Charge>,
}

impl PendingAnswer {
    fn new(kind: SubAckKind, id: PacketId) -> Self {
        Self { kind, id, reasons: SmallVec::new(), joins: BTreeMap::new(), replays: Vec::new(), charge: None }
    }

    /// Charges this budget with what will not grow any more.
    fn charge_to(&mut self, budget: &Budget) {
        let reasons = if self.reasons.spilled() { self.reasons.capacity() } else { 0 };
        let replays = self.replays.capacity() * size_of::<Replay>();
        self.charge = Some(budget.charge(ANSWER_BYTES + reasons + replays + self.joins.len() * JOIN_BYTES));
    }
}

impl Shard {
    /// `allowed` holds a verdict per filter; filters beyond its end are denied.
    pub(super) fn on_subscribe(
        &mut self,
        now: Instant,
        key: LinkKey,
        session: SessionKey,
        packet: &Subscribe<'_>,
        allowed: &[bool],
    ) {
        let mut answer = PendingAnswer::new(SubAckKind::SubAck, packet.packet_id);
        for (at, requested) in packet.filters().enumerate() {
            self.work += FILTER_WORK;
            let reason = match allowed.get(at) {
                Some(false) | None => {
                    self.counters.denied += 1;
                    ReasonCode::NOT_AUTHORIZED
                }
                Some(true) => self.subscribe_one(session, &requested, packet.subscription_id, &mut answer),
            };
            let reason = if self.links[key].version == Version::V5 || !reason.is_error() {
                reason.as_u8()
            } else {
                SUBACK_FAILURE_V3
            };
            answer.reasons.push(reason);
        }
        answer.charge_to(&self.budget);
        self.links[key].barriers += 1;
        if answer.joins.is_empty() {
            self.after_barrier(now, Barrier::Answer { link: key, answer });
        } else {
            self.links[key].joining.push(answer);
        }
    }

    fn subscribe_one(
        &mut self,
        key: SessionKey,
        requested: &RequestedSubscription<'_>,
        id: Option<core::num::NonZeroU32>,
        answer: &mut PendingAnswer,
    ) -> ReasonCode {
        let filter = match &requested.topic {
            Ok(filter) => *filter,
            Err(error) => return error.reason_code(),
        };
        let mut options = requested.options;
        options.qos = options.qos.min(self.settings.qos_max);
        let subscription = Subscription { options, id };
        let session = &mut self.sessions[key];
        let text: Arc<str> = filter.as_str().into();
        let is_new = !session.subscriptions.contains_key(&text);
        if is_new && session.subscriptions.len() >= self.settings.subscriptions_max {
            self.counters.subscriptions_refused += 1;
            return ReasonCode::QUOTA_EXCEEDED;
        }
        if is_new {
            if self.budget.used_bytes() >= self.settings.memory_bytes_max {
                self.counters.subscriptions_refused_memory += 1;
                return ReasonCode::QUOTA_EXCEEDED;
            }
            self.budget.recharge(0, subscription_bytes(&text));
        }
        session.subscriptions.insert(Arc::clone(&text), subscription);
        if let Some(group) = filter.group {
            self.join_group(key, group, filter, &text, is_new, answer);
        } else {
            self.add_filter(filter.filter, Subscriber::Session(key), subscription);
            self.plan_replay(key, filter, text, subscription, is_new, answer);
        }
        granted(options.qos)
    }

    fn join_group(
        &mut self,
        key: SessionKey,
        group: &str,
        filter: SubscribeFilter<'_>,
        text: &Arc<str>,
        is_new: bool,
        answer: &mut PendingAnswer,
    ) {
        if is_new {
            self.counters.subscriptions += 1;
        }
        let session = &mut self.sessions[key];
        if session.memberships.get(text).is_some_and(|membership| membership.group.is_some()) {
            return;
        }
        let owner = quelea_router::group_owner(group, filter.filter, self.node_seed, self.shards);
        session.memberships.join(text, owner);
        answer.joins.entry(Arc::clone(text)).or_default().push(answer.reasons.len() as u16);
        let member = Member { shard: self.id, session: key };
        self.send_control(owner, Control::Join { member, filter: Arc::clone(text), online: true });
    }

    /// Retained messages are fetched after the SUBACK, if the subscription wants them `[MQTT-3.3.1-9]` ff.
    fn plan_replay(
        &mut self,
        key: SessionKey,
        filter: SubscribeFilter<'_>,
        text: Arc<str>,
        subscription: Subscription,
        is_new: bool,
        answer: &mut PendingAnswer,
    ) {
        // What the older subscription has still to fetch comes under the new one: replacing it loses nothing.
        self.sessions[key].replays.replace_subscription(&text, subscription);
        let wanted = match subscription.options.retain_handling {
            RetainHandling::SendAtSubscribe => true,
            RetainHandling::SendIfNew => is_new,
            RetainHandling::DoNotSend => false,
        };
        if !wanted {
            return;
        }
        self.cancel_replay(key, &text);
        let mut partitions = ShardSet::default();
        if filter.filter.has_wildcard() {
            for index in 0..self.shards {
                partitions.insert(ShardId::from_index(index));
            }
        } else {
            partitions.insert(self.owner_of_topic(filter.filter.as_str()));
        }
        answer.replays.push(Replay { filter: text, subscription, partitions, after: None, cancelled: false });
    }

    fn cancel_replay(&mut self, key: SessionKey, filter: &str) {
        let session = &mut self.sessions[key];
        session.replays.cancel(filter, session.pulling);
        session.recharge();
    }

    /// The owner of a shared group has answered: one thing less to wait for.
    pub(super) fn joined_answer(&mut self, now: Instant, key: SessionKey, filter: &Arc<str>, granted: bool) {
        let Some(link_key) = self.sessions.get(key).and_then(Session::link) else { return };
        let link = &mut self.links[link_key];
        let refused = match link.version {
            Version::V5 => ReasonCode::QUOTA_EXCEEDED.as_u8(),
            _ => SUBACK_FAILURE_V3,
        };
        for answer in &mut link.joining {
            let places = answer.joins.remove(filter).unwrap_or_default();
            for at in places.iter().filter(|_| !granted) {
                answer.reasons[usize::from(*at)] = refused;
            }
        }
        let complete: Vec<_> = link.joining.extract_if(.., |answer| answer.joins.is_empty()).collect();
        for answer in complete {
            self.after_barrier(now, Barrier::Answer { link: link_key, answer });
        }
    }

    pub(super) fn on_unsubscribe(
        &mut self,
        now: Instant,
        key: LinkKey,
        session: SessionKey,
        packet: &Unsubscribe<'_>,
    ) {
        let mut answer = PendingAnswer::new(SubAckKind::UnsubAck, packet.packet_id);
        let mut groups = Vec::new();
        for (text, filter) in packet.filters() {
            self.work += FILTER_WORK;
            let reason = match filter {
                Err(error) => error.reason_code(),
                Ok(filter) => self.unsubscribe_one(session, text.into(), filter, &mut groups),
            };
            answer.reasons.push(reason.as_u8());
        }
        answer.charge_to(&self.budget);
        self.leave_groups(session, &groups);
        self.links[key].barriers += 1;
        self.after_barrier(now, Barrier::Answer { link: key, answer });
    }

    fn unsubscribe_one(
        &mut self,
        key: SessionKey,
        text: Arc<str>,
        filter: SubscribeFilter<'_>,
        groups: &mut Vec<Arc<str>>,
    ) -> ReasonCode {
        if self.sessions[key].subscriptions.remove(&text).is_none() {
            return ReasonCode::NO_SUBSCRIPTION_EXISTED;
        }
        self.budget.recharge(subscription_bytes(&text), 0);
        if filter.group.is_some() {
            self.counters.subscriptions -= 1;
            groups.push(text);
        } else {
            self.cancel_replay(key, &text);
            self.remove_filter(filter.filter, Subscriber::Session(key));
        }
        ReasonCode::SUCCESS
    }

    /// Every shard knows: the answer leaves, and what is retained may follow it.
    pub(super) fn send_answer(&mut self, now: Instant, key: LinkKey, answer: PendingAnswer) {
        let Some(link) = self.links.get_mut(key) else { return };
        link.barriers -= 1;
        self.relieved_links.push(key);
        let Some(session) = link.session() else { return };
        let packet = SubAck {
            packet_id: answer.id,
            reasons: &answer.reasons,
            reason_string: None,
            user_properties: UserProperties::default(),
        };
        let version = link.version;
        if packet.encoded_bytes(answer.kind, version) > link.packet_bytes_max as usize {
            // More filters than the client has room for answers to `[MQTT-3.1.2-24]`.
            return self.disconnect(now, key, ReasonCode::PACKET_TOO_LARGE);
        }
        packet
            .encode(answer.kind, version, link.output.buffer())
            .expect("a byte per filter of a packet that fitted");
        self.sent_packet(key);
        let Session { replays, subscriptions, pulling, .. } = &mut self.sessions[session];
        for mut replay in answer.replays {
            // Meanwhile it may have been replaced, or given up.
            if let Some(subscription) = subscriptions.get(&replay.filter) {
                replay.subscription = *subscription;
                replays.push(replay, *pulling);
            }
        }
        self.sessions[session].recharge();
        self.advance_replay(session);
    }
}

fn granted(qos: quelea_mqtt::QoS) -> ReasonCode {
    match qos {
        quelea_mqtt::QoS::AtMostOnce => ReasonCode::GRANTED_QOS_0,
        quelea_mqtt::QoS::AtLeastOnce => ReasonCode::GRANTED_QOS_1,
        quelea_mqtt::QoS::ExactlyOnce => ReasonCode::GRANTED_QOS_2,
    }
}

/// What a subscription is charged with: its text in the session and in the trie, and the entries around it.
pub(super) fn subscription_bytes(filter: &str) -> usize {
    2 * filter.len() + SUBSCRIPTION_BYTES
}

/// A subscription beside its text: map and trie entries, the interest of the other shards.
const SUBSCRIPTION_BYTES: usize = 256;

/// An answer that waits: its entry among those that do, in a list that has room to grow.
const ANSWER_BYTES: usize = 2 * size_of::<PendingAnswer>() + 64;

/// A shared group whose owner has not answered: an entry of a tree whose nodes may be half full.
const JOIN_BYTES: usize = 2 * size_of::<(Arc<str>, SmallVec<[u16; 1]>)>();

/// MQTT 3.1.1 knows one failure `[MQTT-3.9.3-2]`.
const SUBACK_FAILURE_V3: u8 = 0x80;
