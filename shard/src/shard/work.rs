//! Work, counted: how much a turn does of what peers can make long.
//!
//! A shard reads no clock, so it measures by what it does: a node of a trie visited, a subscriber found, a topic looked
//! at is a unit, about 50 ns. [`Shard::work`] only grows; a phase of the turn notes where it began and leaves what is
//! beyond its budget where it is (in its lane, its queue, its connection's buffer), and the turn comes again at once
//! ([`Shard::has_unfinished`]). The last piece may go beyond a budget, and of every queue one piece is done in every turn:
//! so nothing stands still, and nobody waits for more than a round of the others' pieces.
//!
//! ```text
//!  packets 65,536, of one connection 8,192 at a time   lanes 16,384 each, replies too   timers 16,384
//!  sessions that send 32,768   pulls 16,384   filters of ended sessions 16,384     connections that had their share 65,536
//!  connections that a draining shard parts from 16,384
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use quelea_mqtt::SubscribeFilter;

use crate::envelope::{Control, LinkKey, Member, SessionKey};
use crate::session::{Memberships, Subscription};

use super::subscribe::subscription_bytes;
use super::{Shard, Subscriber};

/// The filters of a session that is gone. Its key names nobody any more, so what still stands in the routing under it
/// does nothing; it is taken out a few at a time, and charged until then.
#[derive(Debug)]
pub(crate) struct Departed {
    key: SessionKey,
    subscriptions: std::collections::BTreeMap<Arc<str>, Subscription>,
    memberships: Memberships,
}

impl Shard {
    /// Takes all of a session's filters out of the routing, those beyond a few by and by, and gives back what belongs to
    /// groups. The session is to be removed.
    pub(super) fn unsubscribe_all(&mut self, key: SessionKey) {
        let session = &mut self.sessions[key];
        let subscriptions = core::mem::take(&mut session.subscriptions);
        if subscriptions.is_empty() {
            return;
        }
        let memberships = core::mem::take(&mut session.memberships);
        if !memberships.is_empty() {
            let back = session.outbound.take_unfinished_group_messages(|_| true);
            self.give_back(back);
        }
        self.departed.push_back(Departed { key, subscriptions, memberships });
        self.forget_departed(FILTERS_AT_ONCE * FILTER_WORK);
    }

    /// Goes on with the filters of sessions that are gone.
    pub(super) fn forget_departed(&mut self, budget: u64) {
        let until = self.work + budget;
        while self.work < until
            && let Some(departed) = self.departed.front_mut()
        {
            let Some((text, _)) = departed.subscriptions.pop_first() else {
                self.departed.pop_front();
                continue;
            };
            let key = departed.key;
            let membership = departed.memberships.leave(&text);
            self.work += FILTER_WORK;
            self.budget.recharge(subscription_bytes(&text), 0);
            if let Some(membership) = membership {
                self.counters.subscriptions -= 1;
                let member = Member { shard: self.id, session: key };
                self.send_control(membership.owner, Control::Leave { member, filter: text });
                continue;
            }
            let parsed =
                SubscribeFilter::parse(&text, usize::MAX).expect("checked when it was subscribed to");
            self.remove_filter(parsed.filter, Subscriber::Session(key));
        }
    }

    /// Keeps a connection's further packets back until its next turn: it has had its share, or all have.
    pub(super) fn yield_link(&mut self, key: LinkKey) {
        let link = &mut self.links[key];
        debug_assert!(!link.yielded, "a connection that has yielded takes no packets");
        link.yielded = true;
        self.yielded_links.push_back(key);
        self.counters.links_yielded += 1;
    }

    /// Goes on with connections that had their share, the one that has waited longest first, one at least.
    pub(super) fn resume_yielded(&mut self, now: Instant) {
        self.grant_input();
        for _ in 0..self.yielded_links.len() {
            if self.work >= self.input_until {
                return;
            }
            let Some(key) = self.yielded_links.pop_front() else { return };
            let Some(link) = self.links.get_mut(key) else { continue };
            link.yielded = false;
            if !link.deferred.is_empty() {
                self.publish_deferred(now, key);
            }
            if self.links.contains_key(key) {
                self.resume_input(now, key);
            }
        }
    }

    /// The next input phase begins.
    pub(super) fn grant_input(&mut self) {
        self.input_until = self.work + INPUT_WORK;
    }

    /// How far this call may go with one connection's packets.
    pub(super) fn input_share(&self) -> u64 {
        self.input_until.min(self.work + LINK_WORK)
    }
}

/// Connections whose packets wait for their share of the work.
pub(crate) type Yielded = VecDeque<LinkKey>;

/// Packets of one turn, all connections together: some milliseconds.
const INPUT_WORK: u64 = 65_536;

/// Packets of one connection before others have their turn.
const LINK_WORK: u64 = 8_192;

/// A packet of any kind, beside what it brings about.
pub(super) const PACKET_WORK: u64 = 8;

/// A filter subscribed to, or taken out: its text, its nodes, the other shards' interest.
pub(super) const FILTER_WORK: u64 = 20;

/// Filters of a session that ends which are taken out at once: nearly every session has fewer.
const FILTERS_AT_ONCE: u64 = 256;

/// Filters of ended sessions in one turn.
pub(super) const DEPARTED_WORK: u64 = 16_384;
