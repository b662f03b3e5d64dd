//! Who wants what: this shard's filters announced to all, theirs remembered, and the barrier behind a SUBACK.
//!
//! A filter is announced when its first subscriber of this shard comes and withdrawn when its last one goes. Changes are
//! collected for a turn and leave as one numbered announcement to everyone; shards acknowledge by number. A SUBACK
//! leaves when every shard has acknowledged the number under which its filters went out, so whoever has seen it
//! misses no later publication, wherever published.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use quelea_mqtt::TopicFilter;
use quelea_router::ShardId;

use crate::envelope::{Control, GroupKey, InterestChange, LinkKey, Member};
use crate::session::Subscription;

#[cfg(feature = "mutants")]
use crate::mutants::Mutant;

use super::subscribe::PendingAnswer;
use super::{Shard, Subscriber};

/// Changes not announced yet, and who waits for which announcement.
#[derive(Debug, Default)]
pub(crate) struct Announcements {
    pending: Vec<InterestChange>,
    seq: u64,
    waiting: VecDeque<(u64, Barrier)>,
    /// Filters that were ever announced.
    #[cfg(feature = "mutants")]
    ever: std::collections::BTreeSet<Box<str>>,
}

impl Announcements {
    /// Whether changes wait for the end of the turn.
    pub(crate) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether somebody waits for an acknowledgement.
    pub(crate) fn are_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }
}

/// What happens when every shard knows the filters.
#[derive(Debug)]
pub(crate) enum Barrier {
    /// SUBACK or UNSUBACK leaves.
    Answer { link: LinkKey, answer: PendingAnswer },
    /// A member hears that it has joined.
    Joined { member: Member, filter: Arc<str>, group: GroupKey },
}

impl Shard {
    /// Adds a subscriber to this shard's trie. Returns whether it replaced an older subscription to the same filter.
    pub(super) fn add_filter(&mut self, filter: TopicFilter<'_>, who: Subscriber, how: Subscription) -> bool {
        let inserted = self.trie.insert(filter, who, how);
        if inserted.filter_is_new {
            self.change_interest(filter, true);
        }
        if inserted.replaced.is_none() {
            self.counters.subscriptions += 1;
        }
        inserted.replaced.is_some()
    }

    /// Removes a subscriber. Returns whether it was there.
    pub(super) fn remove_filter(&mut self, filter: TopicFilter<'_>, who: Subscriber) -> bool {
        let removed = self.trie.remove(filter, who);
        if removed.filter_is_gone {
            self.change_interest(filter, false);
        }
        if removed.value.is_some() {
            self.counters.subscriptions -= 1;
        }
        removed.value.is_some()
    }

    fn change_interest(&mut self, filter: TopicFilter<'_>, wanted: bool) {
        #[cfg(feature = "mutants")]
        if self.settings.mutant == Some(Mutant::InterestNotAnnouncedAgain)
            && wanted
            && !self.announcements.ever.insert(filter.as_str().into())
        {
            return;
        }
        if self.shards > 1 {
            self.announcements.pending.push(InterestChange { filter: filter.as_str().into(), wanted });
        }
    }

    /// Lets something happen when every shard has applied all changes up to now; at once if they have.
    pub(super) fn after_barrier(&mut self, now: Instant, barrier: Barrier) {
        let Announcements { pending, seq, waiting, .. } = &mut self.announcements;
        let needed = *seq + u64::from(!pending.is_empty());
        #[cfg(feature = "mutants")]
        let needed = match self.settings.mutant {
            Some(Mutant::SubackBeforeBarrier) => 0,
            _ => needed,
        };
        waiting.push_back((needed, barrier));
        self.barriers_passed(now);
    }

    /// Sends the turn's changes to everyone.
    pub(super) fn announce(&mut self) {
        if self.announcements.pending.is_empty() {
            return;
        }
        self.announcements.seq += 1;
        let seq = self.announcements.seq;
        let changes: Arc<[InterestChange]> = self.announcements.pending.drain(..).collect();
        for to in self.others() {
            self.send_control(to, Control::Interest { seq, changes: Arc::clone(&changes) });
        }
    }

    /// Another shard's announcement.
    pub(super) fn on_interest(&mut self, from: ShardId, seq: u64, changes: &[InterestChange]) {
        for change in changes {
            let filter =
                TopicFilter::new(&change.filter, usize::MAX).expect("checked by the shard that announces");
            if change.wanted {
                self.interest.add(from, filter);
            } else {
                self.interest.remove(from, filter);
            }
        }
        self.reply_interest(from, seq);
    }

    /// Lets happen what waited for announcements that everyone has applied.
    pub(super) fn barriers_passed(&mut self, now: Instant) {
        let own = self.id.index();
        let others = self.peers.iter().enumerate().filter(|(index, _)| *index != own);
        let acked = others.map(|(_, peer)| peer.interest_acked).min().unwrap_or(u64::MAX);
        while let Some((needed, _)) = self.announcements.waiting.front()
            && *needed <= acked
        {
            let (_, barrier) = self.announcements.waiting.pop_front().expect("just seen");
            match barrier {
                Barrier::Answer { link, answer } => self.send_answer(now, link, answer),
                Barrier::Joined { member, filter, group } => {
                    let joined = Control::Joined { session: member.session, filter, group: Some(group) };
                    self.send_control(member.shard, joined);
                }
            }
        }
    }
}
