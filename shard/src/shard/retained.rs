//! Retained messages: this shard's partition of them, and the cursors by which its subscribers are served.
//!
//! A subscriber pulls: a few messages at a time from one partition after another, while its queue has room, so that a
//! filter over a million topics never bursts. What is asked for reserves no places: it comes in the lane of the live
//! messages, which would wait behind each other for ever. So a queue may grow beyond its limit by one pull. What it pulls travels in the same lane as the live publications of
//! that partition, so no older value can arrive behind a newer one.

use std::sync::Arc;
use std::time::Instant;

use quelea_mqtt::{QoS, ReasonCode, TopicFilter};
use quelea_router::{ShardId, WalkBudget};

use crate::envelope::{Control, Deliver, Match, SessionKey};
use crate::publication::Message;
use crate::session::{Parked, Presence, Session};
use crate::witness::{Subject, Why};

use super::{Shard, accept};

/// A session that asks for retained messages. There is one at most for each session of each shard.
#[derive(Debug)]
pub(crate) struct Pull {
    pub(crate) from: ShardId,
    pub(crate) session: SessionKey,
    pub(crate) filter: Arc<str>,
    pub(crate) after: Option<Box<str>>,
    pub(crate) messages_max: u16,
}

impl Shard {
    /// Sets or clears a retained message `[MQTT-3.3.1-5]`, `[MQTT-3.3.1-6]`. Returns what its publisher is told, unless
    /// subscribers make it a success.
    pub(super) fn store_retained(&mut self, now: Instant, message: &Message) -> ReasonCode {
        let topic = message.image.topic();
        if message.image.payload_bytes() == 0 {
            self.retained.remove(topic);
            return ReasonCode::NO_MATCHING_SUBSCRIBERS;
        }
        if self.is_full() && self.retained.get(topic).is_none() {
            return self.refuse_retained(message);
        }
        match self.retained.set(topic, Arc::clone(message), message.bytes()) {
            Ok(_) => {
                if message.expires.is_some() {
                    self.arm_retained_sweep(now);
                }
                ReasonCode::NO_MATCHING_SUBSCRIBERS
            }
            Err(_) => self.refuse_retained(message),
        }
    }

    fn refuse_retained(&mut self, message: &Message) -> ReasonCode {
        self.counters.retained_refused += 1;
        self.tell_loss(Subject::Everybody, Why::RetainedFull, message);
        ReasonCode::QUOTA_EXCEEDED
    }

    /// Answers pulls, as many as the turn has work for; one at least. The others wait for the next turn.
    pub(super) fn serve_pulls(&mut self, now: Instant) {
        let until = self.work + PULLS_WORK;
        while self.work < until
            && let Some(pull) = self.pulls.pop_front()
        {
            self.serve_pull(now, pull);
        }
    }

    /// A session asks for the next few messages of this partition.
    fn serve_pull(&mut self, now: Instant, pull: Pull) {
        let Pull { from, session, filter, after, messages_max } = pull;
        let filter = TopicFilter::new(&filter, usize::MAX).expect("checked when it was subscribed to");
        let mut found: Vec<Message> = Vec::with_capacity(usize::from(messages_max));
        let mut budget = PULL_BUDGET;
        let after = self.retained.walk(filter, after.as_deref(), &mut budget, |_, message| {
            if !message.is_expired(now) {
                found.push(Arc::clone(message));
            }
            found.len() < usize::from(messages_max)
        });
        let WalkBudget { steps, bytes } = budget;
        self.work += 1 + (PULL_BUDGET.steps - steps + (PULL_BUDGET.bytes - bytes) / BYTES_PER_WORK) as u64;
        if from == self.id {
            for message in found {
                self.on_retained(now, session, &message);
            }
            return self.on_retained_end(now, session, after);
        }
        for message in found {
            self.send_deliver(from, Deliver::Retained { session, message });
        }
        self.send_deliver(from, Deliver::RetainedEnd { session, after });
    }

    /// A retained message that a session of this shard has pulled.
    pub(super) fn on_retained(&mut self, now: Instant, key: SessionKey, message: &Message) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let replay = session.replays.front().expect("a pull is answered before its replay goes");
        let own = replay.subscription.options.no_local && session.publisher == message.publisher;
        if own || replay.cancelled {
            return;
        }
        let how = Match { retain: true, ..accept::how(message, &replay.subscription) };
        let queued = Session::entry(message, &how);
        self.counters.messages_matched += 1;
        if queued.qos == QoS::AtMostOnce && !matches!(session.presence, Presence::Online { .. }) {
            self.counters.dropped_qos0_offline += 1;
            self.tell_loss(Subject::Session(key), Why::Qos0Offline, message);
            return;
        }
        // Live messages that wait already are older than this one. QoS 0 does not wait behind others.
        let is_transient = queued.qos == QoS::AtMostOnce;
        if session.parked.back().is_none_or(|last| is_transient && !last.is_transient()) {
            session.outbound.push_taken(queued);
            self.list_session(key);
        } else {
            let rest = if is_transient { self.settings.qos0_patience } else { self.settings.full_deadline };
            session.parked.push_back(Parked { queued, hold: None, since: now, deadline: now + rest });
            self.arm_parked(key);
        }
    }

    /// One pull is complete: the next, from where it ended.
    pub(super) fn on_retained_end(&mut self, now: Instant, key: SessionKey, after: Option<Box<str>>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.pulling = false;
        let replay = session.replays.front_mut().expect("a pull is answered before its replay goes");
        replay.after = after;
        if replay.after.is_none()
            && let Some(done) = replay.partitions.iter().next()
        {
            replay.partitions.remove(done);
        }
        if replay.partitions.is_empty() || replay.cancelled {
            session.replays.pop_front();
        }
        session.recharge();
        self.list_session(key);
        self.advance_replay(key);
        self.finish_move_if_marked(now, key);
    }

    /// Asks for the next few retained messages, if the session has one to fetch, and room for it.
    pub(super) fn advance_replay(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.pulling || session.link().is_none() || !session.parked.is_empty() {
            return;
        }
        let Some(replay) = session.replays.front() else { return };
        let room = session.outbound.room(&self.limits);
        if room == 0 || session.outbound.waiting() >= PULL_MESSAGES_MAX {
            return;
        }
        let messages = room.min(PULL_MESSAGES_MAX);
        let partition = replay.partitions.iter().next().expect("a replay without partitions is gone");
        let pull = Control::Pull {
            session: key,
            filter: Arc::clone(&replay.filter),
            after: replay.after.clone(),
            messages_max: messages as u16,
        };
        session.pulling = true;
        self.send_control(partition, pull);
    }

    /// Expired retained messages are looked for a few at a time, once a second, while there are any that can expire.
    pub(super) fn sweep_retained(&mut self, now: Instant) {
        let mut expired: Vec<Box<str>> = Vec::new();
        let mut mortal = core::mem::take(&mut self.retained_mortal);
        let after = self.retained_sweep.take();
        // Not by a filter: none matches the topics that begin with `$` together with the others.
        self.retained_sweep = self.retained.walk_all(after.as_deref(), SWEEP_BUDGET, |topic, message| {
            mortal |= message.expires.is_some();
            if message.is_expired(now) {
                expired.push(topic.as_str().into());
            }
        });
        for topic in &expired {
            let topic = quelea_mqtt::TopicName::new(topic, usize::MAX).expect("was stored");
            self.retained.remove(topic);
            self.counters.retained_expired += 1;
        }
        // A pass over all topics may take several sweeps; it ends the sweeping if it met nothing that can expire.
        let pass_goes_on = self.retained_sweep.is_some();
        self.retained_mortal = mortal && pass_goes_on;
        self.retained_sweep_at = (mortal || pass_goes_on).then_some(now + SWEEP_INTERVAL);
    }

    fn arm_retained_sweep(&mut self, now: Instant) {
        self.retained_sweep_at.get_or_insert(now + SWEEP_INTERVAL);
    }
}

/// Retained messages fetched at once: enough to keep a connection busy, small beside a queue.
pub(crate) const PULL_MESSAGES_MAX: usize = 32;

/// What is looked at for one pull: some tens of microseconds, a hundred where topics are long.
const PULL_BUDGET: WalkBudget = WalkBudget { steps: 1_000, bytes: 64 * 1024 };

/// Pulls of one turn, all sessions and shards together: about a millisecond.
const PULLS_WORK: u64 = 16_384;

/// Bytes of topics that are as much work as one topic looked at.
const BYTES_PER_WORK: usize = 32;

/// What is looked at in one sweep.
const SWEEP_BUDGET: WalkBudget = WalkBudget { steps: 1_000, bytes: 256 * 1024 };

/// Between sweeps: a message that nobody may see any more can wait for its memory.
const SWEEP_INTERVAL: core::time::Duration = core::time::Duration::from_secs(1);
