//! The subscribers' side of a publication: match it, offer it to every session and group, and say when all have it.
//!
//! A session without room makes the publication wait here, in order, holding its acceptance; after
//! [`crate::Settings::full_deadline`] the subscriber pays. QoS 0 waits only for a subscriber that keeps up
//! ([`crate::Settings::qos0_patience`]).

use std::time::Instant;

use quelea_mqtt::{QoS, ReasonCode, TopicName};
use quelea_router::{FilterTrie, ShardId, Slots};

use crate::envelope::{Accepted, Deliver, GroupKey, HoldKey, Match, SessionKey, SubscriptionIdList};
use crate::publication::Message;
use crate::session::{Offer, Parked, Presence, Queued, Session, Subscription};
use crate::settings::{OnFull, OnSlow};
use crate::witness::{Subject, Why};

use super::{Hold, Shard, Subscriber, Then};

/// The subscribers of one publication, each once, with all its matching subscriptions merged `[MQTT-3.3.4-2]`.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    list: Vec<(Subscriber, Match)>,
    serial: u64,
}

impl Matcher {
    /// Fills the list, and tells how much work that was. Merging needs no search: each session remembers its place in the list of the last publication.
    fn collect(
        &mut self,
        trie: &FilterTrie<Subscriber, Subscription>,
        sessions: &mut Slots<SessionKey, Session>,
        from: ShardId,
        message: &Message,
        topic: TopicName<'_>,
    ) -> usize {
        self.serial += 1;
        let (serial, list) = (self.serial, &mut self.list);
        debug_assert!(list.is_empty());
        trie.for_each_match(topic, |subscriber, subscription| match subscriber {
            Subscriber::Group(_) => {
                list.push((
                    subscriber,
                    Match { qos: message.qos, retain: false, subscription_ids: SubscriptionIdList::new() },
                ));
            }
            Subscriber::Session(key) => {
                let Some(session) = sessions.get_mut(key) else { return };
                if subscription.options.no_local && session.publisher == message.publisher
                    || !session.takes_from(from)
                {
                    return;
                }
                if session.stamp.0 == serial {
                    merge(&mut list[session.stamp.1 as usize].1, message, subscription);
                } else {
                    session.stamp = (serial, list.len() as u32);
                    list.push((subscriber, how(message, subscription)));
                }
            }
        })
    }
}

/// How one subscription wants one publication.
pub(super) fn how(message: &Message, subscription: &Subscription) -> Match {
    Match {
        qos: message.qos.min(subscription.options.qos),
        retain: message.retain && subscription.options.retain_as_published,
        subscription_ids: subscription.id.iter().map(|id| id.get()).collect(),
    }
}

/// One more of a subscriber's subscriptions matches. In place: one client may have thousands that do.
fn merge(into: &mut Match, message: &Message, subscription: &Subscription) {
    into.qos = into.qos.max(message.qos.min(subscription.options.qos));
    into.retain |= message.retain && subscription.options.retain_as_published;
    if let Some(id) = subscription.id {
        into.subscription_ids.push(id.get());
    }
}

/// What became of a publication on this shard, as far as it is known.
#[derive(Debug)]
pub(super) enum Acceptance {
    /// Every subscriber has it, or there is none.
    Settled(ReasonCode),
    /// Some have no room yet; whoever waits is to be entered into the hold.
    Waiting(HoldKey),
}

impl Shard {
    /// Hands a publication to this shard's subscribers; `from` is the shard that fanned it out. The topic is the message's:
    /// reading it costs, and the caller needs it as well.
    pub(super) fn accept(
        &mut self,
        now: Instant,
        from: ShardId,
        message: &Message,
        topic: TopicName<'_>,
    ) -> Acceptance {
        let mut matcher = core::mem::take(&mut self.matcher);
        let found = matcher.collect(&self.trie, &mut self.sessions, from, message, topic);
        self.work += (found + OFFER_WORK * matcher.list.len()) as u64;
        let reason = match matcher.list.is_empty() {
            true => ReasonCode::NO_MATCHING_SUBSCRIBERS,
            false => ReasonCode::SUCCESS,
        };
        let mut hold = None;
        for (subscriber, how) in matcher.list.drain(..) {
            match subscriber {
                Subscriber::Session(key) => {
                    match how.qos {
                        QoS::AtMostOnce => self.offer_once(now, key, message, &how, &mut hold),
                        _ => self.offer(now, key, Session::entry(message, &how), &mut hold),
                    }
                    if self.sessions_arriving > 0 {
                        self.hold_until_marked(key, how.qos, &mut hold);
                    }
                }
                Subscriber::Group(key) => {
                    self.offer_to_group(now, key, message, &mut hold);
                    self.groups[key].recharge();
                }
            }
        }
        self.matcher = matcher;
        match hold {
            None => Acceptance::Settled(reason),
            Some(hold) => Acceptance::Waiting(hold),
        }
    }

    /// An envelope of the deliver lane.
    pub(super) fn on_deliver(&mut self, now: Instant, from: ShardId, delivery: Deliver) {
        self.counters.envelopes_received += 1;
        match delivery {
            Deliver::Publish { ticket, message } => {
                match self.accept(now, from, &message, message.image.topic()) {
                    Acceptance::Settled(reason) => {
                        self.reply_delivered(from, Some(Accepted { ticket, reason }));
                    }
                    Acceptance::Waiting(hold) => {
                        // It waits with its session now, not in the lane: others may use the credit.
                        self.reply_delivered(from, None);
                        self.hold_for(hold, Then::Peer { from, ticket });
                    }
                }
            }
            Deliver::Retained { session, message } => {
                self.on_retained(now, session, &message);
                self.reply_delivered(from, None);
            }
            Deliver::RetainedEnd { session, after } => {
                self.on_retained_end(now, session, after);
                self.reply_delivered(from, None);
            }
            Deliver::Mark { identity } => {
                self.on_mark(now, from, &identity);
                self.reply_delivered(from, None);
            }
        }
    }

    /// Enters who is told when the last subscriber has taken it.
    pub(super) fn hold_for(&mut self, hold: HoldKey, then: Then) {
        self.holds[hold].then = Some(then);
    }

    fn offer(&mut self, now: Instant, key: SessionKey, queued: Queued, hold: &mut Option<HoldKey>) {
        debug_assert!(queued.qos > QoS::AtMostOnce, "QoS 0 waits for nobody");
        self.counters.messages_matched += 1;
        let session = &mut self.sessions[key];
        let connected = match session.presence {
            Presence::Online { .. } => true,
            // It arrives when what its own client has published before is accepted: that cannot wait for its arrival.
            Presence::Arriving { .. } => queued.message.publisher != session.publisher,
            Presence::Offline { .. } | Presence::Leaving { .. } => false,
        };
        if session.parked.is_empty() {
            match session.outbound.offer(queued, &self.limits) {
                Offer::Taken => self.list_session(key),
                Offer::Full(queued) if connected => self.offer_again(now, key, queued, hold),
                Offer::Full(queued) => self.offer_offline(key, queued),
            }
        } else if connected {
            self.park(now, key, queued, hold);
        } else {
            self.offer_offline(key, queued);
        }
    }

    /// QoS 0: written if nothing waits before it, taken if there is room; else its publisher waits for a subscriber that
    /// keeps up, and for others it is dropped and counted.
    fn offer_once(
        &mut self,
        now: Instant,
        key: SessionKey,
        message: &Message,
        how: &Match,
        hold: &mut Option<HoldKey>,
    ) {
        self.counters.messages_matched += 1;
        if self.is_full() {
            self.counters.dropped_qos0_memory += 1;
            self.tell_loss(Subject::Session(key), Why::Qos0Memory, message);
            return;
        }
        let session = &mut self.sessions[key];
        if !matches!(session.presence, Presence::Online { .. } | Presence::Arriving { .. }) {
            self.counters.dropped_qos0_offline += 1;
            self.tell_loss(Subject::Session(key), Why::Qos0Offline, message);
            return;
        }
        // The queue may be empty before those that wait for room are in it: messages of a group are taken back.
        let others_wait = session.parked.front().is_some_and(Parked::is_transient);
        if let Some(link) = session.link()
            && !others_wait
            && session.outbound.is_idle()
            && self.write_once(now, link, message, how)
        {
            return;
        }
        let session = &mut self.sessions[key];
        let queued = Session::entry(message, how);
        if others_wait {
            return self.park_once(now, key, queued, hold);
        }
        match session.outbound.offer(queued, &self.limits) {
            Offer::Taken => self.list_session(key),
            Offer::Full(queued) => {
                self.pump_session(now, key);
                let Some(session) = self.sessions.get_mut(key) else { return };
                match session.outbound.offer(queued, &self.limits) {
                    Offer::Taken => self.list_session(key),
                    Offer::Full(queued) => self.park_once(now, key, queued, hold),
                }
            }
        }
    }

    /// QoS 0 to a full session. It never waits behind QoS 1 and 2, which wait for much longer.
    fn park_once(&mut self, now: Instant, key: SessionKey, queued: Queued, hold: &mut Option<HoldKey>) {
        let session = &mut self.sessions[key];
        let waits_for_acks = session.parked.back().is_some_and(|last| !last.is_transient());
        let is_slow = session.too_slow_until.is_some_and(|until| now < until);
        if waits_for_acks || is_slow || session.link().is_none() {
            return self.drop_once(key, &queued);
        }
        if session.parked.is_empty() {
            session.left_before = session.outbound.left();
        }
        let hold = self.hold_one_more(hold);
        let deadline = now + self.settings.qos0_patience;
        self.sessions[key].parked.push_back(Parked { queued, hold: Some(hold), since: now, deadline });
        self.arm_parked(key);
    }

    fn drop_once(&mut self, key: SessionKey, queued: &Queued) {
        self.counters.dropped_qos0_full += 1;
        self.tell_loss(Subject::Session(key), Why::Qos0Full, &queued.message);
    }

    /// Publishers of QoS 0 have waited for a subscriber for as long as they do before they look. If it has taken as much as
    /// its full queue holds, it keeps up; if not, what has waited is dropped, and for a while nobody waits.
    fn judge_pace(&mut self, now: Instant, key: SessionKey) {
        let session = &mut self.sessions[key];
        let left = session.outbound.left();
        if left - session.left_before >= session.outbound.waiting() as u64 {
            session.left_before = left;
            return session.parked.renew_front(now + self.settings.qos0_patience);
        }
        session.too_slow_until = Some(now + self.settings.qos0_rest);
        while let Some(session) = self.sessions.get_mut(key)
            && session.parked.front().is_some_and(Parked::is_transient)
        {
            let parked = session.parked.pop_front().expect("just seen");
            match parked.hold {
                Some(hold) => {
                    self.drop_once(key, &parked.queued);
                    self.release_hold(now, hold);
                }
                // A retained message that was asked for: of those there are few.
                None => session.outbound.push_taken(parked.queued),
            }
        }
    }

    /// The queue is full: perhaps only because nothing was sent yet in this turn.
    fn offer_again(&mut self, now: Instant, key: SessionKey, queued: Queued, hold: &mut Option<HoldKey>) {
        self.pump_session(now, key);
        match self.sessions[key].outbound.offer(queued, &self.limits) {
            Offer::Taken => self.list_session(key),
            Offer::Full(queued) => self.park(now, key, queued, hold),
        }
    }

    fn park(&mut self, now: Instant, key: SessionKey, queued: Queued, hold: &mut Option<HoldKey>) {
        let hold = self.hold_one_more(hold);
        let deadline = now + self.settings.full_deadline;
        self.sessions[key].parked.push_back(Parked { queued, hold: Some(hold), since: now, deadline });
        self.arm_parked(key);
        self.judge_reading(key);
    }

    /// A client before MQTT 5 that is owed many acknowledgements is not read, unless its own session is full: whoever waits
    /// for that waits for acknowledgements which this client may have sent behind its publications. It may be the client
    /// itself, or the client that it waits for.
    pub(super) fn judge_reading(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let is_waited_for = session.is_waited_for(&self.limits);
        if is_waited_for != core::mem::replace(&mut session.waited_for, is_waited_for)
            && let Some(link) = session.link()
            && self.links[link].read_on(is_waited_for)
        {
            self.relieved_links.push(link);
        }
    }

    /// The session is moving here, and some shards still use the old path: a publisher that changes shards (a retained
    /// publication after a plain one) must not go on by one of them before this publication is known to be in front.
    /// QoS 1 and 2 are bounded by what their publishers may have in flight; of QoS 0, what is over a queue's limit is lost
    /// anyway.
    fn hold_until_marked(&mut self, key: SessionKey, qos: QoS, hold: &mut Option<HoldKey>) {
        let (shards, messages_max) = (self.shards, self.limits.messages_max);
        let unmarked = |session: &Session| match &session.presence {
            Presence::Arriving { marked, .. } if marked.len() < shards => {
                qos > QoS::AtMostOnce || session.unmarked.len() < messages_max
            }
            _ => false,
        };
        if self.sessions.get(key).is_some_and(unmarked) {
            let hold = self.hold_one_more(hold);
            let session = &mut self.sessions[key];
            session.unmarked.push(hold);
            session.recharge();
        }
    }

    /// One more subscriber has no room: the publication's hold, made at the first one.
    pub(super) fn hold_one_more(&mut self, hold: &mut Option<HoldKey>) -> HoldKey {
        let key = *hold.get_or_insert_with(|| {
            self.holds.insert(Hold { waiting: 0, then: None, reason: ReasonCode::SUCCESS })
        });
        self.holds[key].waiting += 1;
        key
    }

    /// One of the subscribers that had no room has taken it, or has paid.
    pub(super) fn release_hold(&mut self, now: Instant, key: HoldKey) {
        let hold = &mut self.holds[key];
        hold.waiting -= 1;
        if hold.waiting > 0 {
            return;
        }
        let hold = self.holds.remove(key).expect("just seen");
        match hold.then.expect("entered when the publication was offered") {
            Then::Ticket(ticket) => self.ticket_accepted(now, ticket, hold.reason),
            Then::Peer { from, ticket } => {
                self.reply_accepted(from, Accepted { ticket, reason: hold.reason });
            }
        }
    }

    /// The queue of a session without a client is full: the operator's choice who pays.
    pub(super) fn offer_offline(&mut self, key: SessionKey, queued: Queued) {
        let mut offered = queued;
        loop {
            let session = &mut self.sessions[key];
            match session.outbound.offer(offered, &self.limits) {
                Offer::Taken => return,
                Offer::Full(back) => offered = back,
            }
            let oldest = match self.settings.on_full {
                OnFull::DropOldest => session.outbound.drop_oldest(),
                OnFull::DropNew | OnFull::EndSession => None,
            };
            self.counters.dropped_offline_full += 1;
            if let Some(oldest) = oldest {
                self.tell_loss(Subject::Session(key), Why::OfflineFull, &oldest.message);
                continue;
            }
            // Another shard has its part of a session that moves: it cannot end here.
            if self.settings.on_full == OnFull::EndSession && !session.is_moving() {
                // Not here: a publication is being handed to many, and this session may be among them again.
                self.doomed_sessions.push(key);
            }
            return self.tell_loss(Subject::Session(key), Why::OfflineFull, &offered.message);
        }
    }

    /// There may be room again: those who waited go first, in order.
    pub(super) fn unpark(&mut self, now: Instant, key: SessionKey) {
        while let Some(session) = self.sessions.get_mut(key)
            && !session.parked.is_empty()
            && let Some(parked) = session.parked.pop_front()
        {
            match session.outbound.offer(parked.queued, &self.limits) {
                Offer::Taken => {
                    self.list_session(key);
                    self.release_parked(now, parked.hold);
                }
                Offer::Full(queued) => {
                    session.parked.push_front(Parked { queued, ..parked });
                    return;
                }
            }
        }
    }

    /// A connected session has been full for the whole deadline.
    pub(super) fn on_park_deadline(&mut self, now: Instant, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.parked_armed = false;
            self.make_slow_pay(now, key);
            self.judge_reading(key);
            self.arm_parked(key);
        }
    }

    /// Whether all that has waited for the whole deadline are publications of the client whose session is full: nobody else
    /// is delayed. Its acknowledgements take as long as what lies before them on a slow link; cut, it would come back, and
    /// send and wait for the same again. A client that acknowledges nothing is cut in the end.
    fn delays_only_itself(&self, now: Instant, key: SessionKey) -> bool {
        let session = &self.sessions[key];
        let is_own = |parked: &Parked| {
            let may_wait = self.settings.full_deadline * OWN_DEADLINES;
            parked.queued.message.publisher == session.publisher && now < parked.since + may_wait
        };
        let mut due = session.parked.iter().filter(|parked| parked.deadline <= now);
        session.link().is_some() && due.all(is_own)
    }

    fn make_slow_pay(&mut self, now: Instant, key: SessionKey) {
        while let Some(session) = self.sessions.get_mut(key)
            && let Some(first) = session.parked.front().filter(|parked| parked.deadline <= now)
        {
            if first.is_transient() {
                self.judge_pace(now, key);
                continue;
            }
            if self.delays_only_itself(now, key) {
                let latest = now + self.settings.full_deadline;
                let session = &mut self.sessions[key];
                // Whoever else waits behind it waits no longer than before.
                let others = session
                    .parked
                    .iter()
                    .filter(|parked| parked.queued.message.publisher != session.publisher);
                let deadline =
                    others.map(|parked| parked.deadline).min().map_or(latest, |first| first.min(latest));
                session.parked.renew_front(deadline);
                continue;
            }
            let session = &mut self.sessions[key];
            let oldest = match self.settings.on_slow {
                OnSlow::Disconnect if session.link().is_some() => {
                    self.counters.slow_disconnects += 1;
                    return self.disconnect_session(now, key, ReasonCode::QUOTA_EXCEEDED);
                }
                // Between two shards there is no client to disconnect: its queue pays as if it were offline.
                OnSlow::Disconnect => return self.resolve_parked(now, key),
                OnSlow::DropOldest => session.outbound.drop_oldest(),
                OnSlow::DropNew => None,
            };
            self.counters.dropped_slow += 1;
            if let Some(oldest) = oldest {
                self.tell_loss(Subject::Session(key), Why::Slow, &oldest.message);
                self.unpark(now, key);
            } else {
                let parked = session.parked.pop_front().expect("just seen");
                self.tell_loss(Subject::Session(key), Why::Slow, &parked.queued.message);
                self.release_parked(now, parked.hold);
            }
        }
    }

    /// A parked message has gone, one way or the other.
    pub(super) fn release_parked(&mut self, now: Instant, hold: Option<HoldKey>) {
        if let Some(hold) = hold {
            self.release_hold(now, hold);
        }
    }

    /// Puts a session on the list of those with something to send.
    pub(super) fn list_session(&mut self, key: SessionKey) {
        let session = &mut self.sessions[key];
        if !session.listed {
            session.listed = true;
            self.ready_sessions.push_back(key);
        }
    }

    pub(super) fn list_group(&mut self, key: GroupKey) {
        let group = &mut self.groups[key];
        if !group.listed {
            group.listed = true;
            self.ready_groups.push(key);
        }
    }
}

/// To offer a publication to one subscriber, as much work as so many nodes of the trie visited.
pub(super) const OFFER_WORK: usize = 8;

/// So many times the deadline a client may keep its own publications waiting: five minutes by default.
const OWN_DEADLINES: u32 = 30;
