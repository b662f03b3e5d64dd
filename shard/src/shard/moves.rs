//! A persistent session moves to the shard that its client has connected to.
//!
//! ```text
//!  home ──Yield──► old ──MoveBegin(filters)──► new ── Interest, then Cut ──► every shard P
//!                   ▲                           ▲                              │
//!                   └── deliver lane: … Mark ───┼──────────────────────────────┤
//!                                               └─── deliver lane: Mark … ─────┘
//!  old, marked by all ──MoveEnd(session)──► new, marked by all ──Settled──► home
//! ```
//! Every publishing shard P cuts at one point of its own time: what it sent before the mark counts on the old path, what
//! it sends after it on the new one. Both paths are FIFO, so each message reaches the session once and in order, and the
//! new owner puts what the old one held in front of what it has collected.

use std::sync::Arc;
use std::time::Instant;

use quelea_mqtt::{ReasonCode, SubscribeFilter};
use quelea_router::{ShardId, ShardSet};

use crate::envelope::{Control, Deliver, Identity, LinkKey, Member, SessionKey};
use crate::session::{Presence, Session, Subscription};
use crate::witness::{Subject, Why};

use super::{Shard, Subscriber, sessions};

impl Shard {
    /// From the home shard: another shard's client starts clean; what is here ends.
    pub(super) fn on_release(&mut self, now: Instant, home: ShardId, identity: Arc<Identity>) {
        if let Some(key) = self.session_living(&identity) {
            if let Some(link) = self.sessions[key].link() {
                self.counters.takeovers += 1;
                self.disconnect(now, link, ReasonCode::SESSION_TAKEN_OVER);
            }
            self.end_session(now, key);
        }
        self.send_control(home, Control::Released { identity });
    }

    /// From the home shard: hand the session over.
    pub(super) fn on_yield(
        &mut self,
        now: Instant,
        identity: &Arc<Identity>,
        next: Arc<Identity>,
        to: ShardId,
        link: LinkKey,
    ) {
        if let Some(key) = self.session_living(identity)
            && let Some(own) = self.sessions[key].link()
        {
            self.counters.takeovers += 1;
            self.disconnect(now, own, ReasonCode::SESSION_TAKEN_OVER);
        }
        // It may have ended just now, with its connection.
        let Some(key) = self.session_living(identity) else {
            let home = self.home_of(&identity.client_id);
            return self.send_control(home, Control::Released { identity: Arc::clone(identity) });
        };
        self.counters.sessions_moved += 1;
        let session = &mut self.sessions[key];
        let leaving = Presence::Leaving { to, next: Arc::clone(&next), marked: ShardSet::default() };
        session.presence = leaving;
        let subscriptions =
            session.subscriptions.iter().map(|(text, how)| (Arc::clone(text), *how)).collect();
        self.send_control(to, Control::MoveBegin { next, link, subscriptions });
    }

    fn session_living(&self, identity: &Identity) -> Option<SessionKey> {
        let key = self.session_of(&identity.client_id)?;
        (self.sessions[key].identity.epoch == identity.epoch).then_some(key)
    }

    /// From the old owner: subscribe to all this, then have both paths marked.
    pub(super) fn on_move_begin(
        &mut self,
        now: Instant,
        old: ShardId,
        next: &Arc<Identity>,
        link: LinkKey,
        subscriptions: Vec<(Arc<str>, Subscription)>,
    ) {
        let marked = ShardSet::default();
        #[cfg(feature = "mutants")]
        let marked = match self.settings.mutant {
            Some(crate::mutants::Mutant::MarkIgnored) => (0..self.shards).fold(marked, |mut all, index| {
                all.insert(ShardId::from_index(index));
                all
            }),
            _ => marked,
        };
        let presence = Presence::Arriving { link, marked };
        let key = self.open_session(next, presence);
        self.sessions_arriving += 1;
        // Only what outlives its connection moves; for how long is in what follows.
        self.sessions[key].expiry_s = None;
        for (text, how) in subscriptions {
            self.subscribe_arriving(key, &text, how);
            self.budget.recharge(0, super::subscribe::subscription_bytes(&text));
            self.sessions[key].subscriptions.insert(text, how);
        }
        // The announcement must be on its way before the cut.
        self.announce();
        for to in self.others() {
            let cut = Control::Cut { identity: Arc::clone(next), old };
            self.send_control(to, cut);
        }
        self.send_deliver(old, Deliver::Mark { identity: Arc::clone(next) });
        self.on_mark(now, self.id, next);
    }

    fn subscribe_arriving(&mut self, key: SessionKey, text: &Arc<str>, how: Subscription) {
        let parsed = SubscribeFilter::parse(text, usize::MAX).expect("checked when it was subscribed to");
        let Some(group) = parsed.group else {
            self.add_filter(parsed.filter, Subscriber::Session(key), how);
            return;
        };
        self.counters.subscriptions += 1;
        let owner = quelea_router::group_owner(group, parsed.filter, self.node_seed, self.shards);
        self.sessions[key].memberships.join(text, owner);
        let member = Member { shard: self.id, session: key };
        self.send_control(owner, Control::Join { member, filter: Arc::clone(text), online: false });
    }

    /// From the new owner: this shard's publications change paths here.
    pub(super) fn on_cut(&mut self, now: Instant, new: ShardId, identity: Arc<Identity>, old: ShardId) {
        if old == self.id {
            self.on_mark(now, self.id, &identity);
        } else {
            self.send_deliver(old, Deliver::Mark { identity: Arc::clone(&identity) });
        }
        self.send_deliver(new, Deliver::Mark { identity });
    }

    /// `from` has changed paths.
    pub(super) fn on_mark(&mut self, now: Instant, from: ShardId, identity: &Arc<Identity>) {
        let Some(key) = self.session_of(&identity.client_id) else { return };
        let session = &mut self.sessions[key];
        match &mut session.presence {
            Presence::Arriving { marked, .. } if session.identity.epoch == identity.epoch => {
                marked.insert(from);
                self.finish_arrival_if_marked(now, key);
            }
            Presence::Leaving { marked, next, .. } if next.epoch == identity.epoch => {
                marked.insert(from);
                self.finish_move_if_marked(now, key);
            }
            _ => unreachable!("the home shard lets a session settle before it moves again"),
        }
    }

    /// All have marked the old path, no retained messages are on their way to it, and what its client has published here
    /// is accepted, so that nothing published on the new shard overtakes it: the session may go.
    pub(super) fn finish_move_if_marked(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get(key) else { return };
        let Presence::Leaving { to, next, marked } = &session.presence else { return };
        if marked.len() < self.shards || session.pulling || session.former.is_some() {
            return;
        }
        let (to, next) = (*to, Arc::clone(next));
        self.unsubscribe_all(key);
        let mut left = core::mem::take(&mut self.sessions[key].parked);
        let mut held = Vec::with_capacity(left.len());
        while let Some(parked) = left.pop_front() {
            self.counters.dropped_offline_full += 1;
            self.tell_loss(Subject::Session(key), Why::OfflineFull, &parked.queued.message);
            held.push(parked.hold);
        }
        let session = self.sessions.remove(key).expect("just seen");
        self.by_client.remove(&session.identity.client_id);
        for hold in held {
            self.release_parked(now, hold);
        }
        self.send_control(to, Control::MoveEnd { next, session: Box::new(session) });
    }

    /// From the old owner: what the session held. It may be quicker than the marks of the others, which wait for credit;
    /// until all are here, what comes before a mark still counts on the old path.
    pub(super) fn on_move_end(&mut self, now: Instant, next: &Arc<Identity>, value: Box<Session>) {
        let key = self.session_of(&next.client_id).expect("a session arrives before it has arrived");
        self.sessions[key].arrived = Some(value);
        self.finish_arrival_if_marked(now, key);
    }

    /// All have marked the new path and the old owner has let go: what it held goes in front of what was collected here.
    fn finish_arrival_if_marked(&mut self, now: Instant, key: SessionKey) {
        let shards = self.shards;
        let arriving = &mut self.sessions[key];
        let Presence::Arriving { link, marked } = &arriving.presence else { return };
        let link = *link;
        if marked.len() < shards {
            return;
        }
        // Whatever waits for these goes by marked paths only.
        for hold in core::mem::take(&mut arriving.unmarked) {
            self.release_hold(now, hold);
        }
        let arriving = &mut self.sessions[key];
        arriving.recharge();
        let Some(value) = arriving.arrived.take() else { return };
        self.sessions_arriving -= 1;
        let collected = core::mem::replace(&mut arriving.outbound, value.outbound);
        arriving.outbound.charge_to(&self.budget);
        arriving.outbound.append(collected);
        arriving.inbound = value.inbound;
        arriving.version = value.version;
        arriving.expiry_s = value.expiry_s;
        arriving.will = value.will;
        arriving.replays = value.replays;
        arriving.recharge();
        arriving.presence = Presence::Offline { expires: sessions::expiry(now, value.expiry_s) };
        let identity = Arc::clone(&arriving.identity);
        self.shorten_arrived(key);
        self.send_control(self.home_of(&identity.client_id), Control::Settled { identity });
        if self.is_claiming(link) {
            self.connected(now, link, key, true);
        } else {
            self.counters.dropped_qos0_offline += self.sessions[key].outbound.on_disconnected() as u64;
            self.resolve_parked(now, key);
            self.arm_session(key);
        }
    }

    /// What the session held and what was collected for it were within the limits, each by itself. More than both together
    /// has come by several moves, between which the client read nothing: a queue of any length, if it were kept.
    fn shorten_arrived(&mut self, key: SessionKey) {
        while let Some(session) = self.sessions.get_mut(key)
            && session.outbound.is_over_twice(&self.limits)
            && let Some(oldest) = session.outbound.drop_oldest()
        {
            self.counters.dropped_offline_full += 1;
            self.tell_loss(Subject::Session(key), Why::OfflineFull, &oldest.message);
        }
    }
}
