//! The broker's counters against what happened.

use std::collections::BTreeSet;
use std::time::Instant;

use quelea_mqtt::QoS;
use quelea_shard::counters::Counters;
use quelea_shard::witness::Why;

use super::{Oracle, Subscription};

/// What the broker has counted, summed over its shards.
#[derive(Clone, Debug)]
pub(crate) struct Books {
    pub(crate) counters: Counters,
}

impl Oracle {
    /// All is quiet: nothing waits, so the books must close.
    pub(super) fn judge_books(&mut self, watcher: usize, books: &Books) {
        let verdicts = [
            self.judge_matched(&books.counters),
            self.judge_losses(&books.counters),
            self.judge_received(&books.counters),
            self.judge_sent(&books.counters),
            self.judge_wills_published(watcher, &books.counters),
        ];
        if let Some(wrong) = verdicts.into_iter().flatten().next() {
            self.accuse(format!("the books: {wrong}: {:?}", books.counters));
        }
    }

    /// Each loss that was counted was told, and the other way round.
    fn judge_losses(&self, c: &Counters) -> Option<String> {
        let exact = [
            (Why::Qos0Full, c.dropped_qos0_full),
            (Why::Qos0Credit, c.dropped_qos0_credit),
            (Why::Qos0Memory, c.dropped_qos0_memory),
            (Why::Qos0Refused, c.dropped_qos0_refused),
            (Why::Qos0Group, c.dropped_qos0_group),
            (Why::OfflineFull, c.dropped_offline_full),
            (Why::Slow, c.dropped_slow),
            (Why::GroupFull, c.dropped_group_full),
            (Why::TooLarge, c.dropped_too_large),
            (Why::Expired, c.expired),
            (Why::Refused, c.dropped_refused),
            (Why::RetainedFull, c.retained_refused),
        ];
        // Those that went with a connection are counted only.
        let at_most =
            [(Why::Qos0Offline, c.dropped_qos0_offline), (Why::Qos0Deferred, c.dropped_qos0_deferred)];
        let wrong = |(why, counted, right): (Why, u64, bool)| {
            (!right)
                .then(|| format!("{counted} losses counted as {why:?}, {} happened", self.losses.told(why)))
        };
        let exact = exact.map(|(why, counted)| (why, counted, self.losses.told(why) == counted));
        let at_most = at_most.map(|(why, counted)| (why, counted, self.losses.told(why) <= counted));
        exact.into_iter().chain(at_most).find_map(wrong)
    }

    /// What was acknowledged or came to somebody was received; nothing was received more often than it was sent. QoS 2 is no
    /// exception: what waits behind others when its connection ends is given up, and is new when it is sent again.
    fn judge_received(&self, c: &Counters) -> Option<String> {
        let (mut least, mut most) = (0, 0);
        for (index, publication) in self.publications.iter().enumerate() {
            if publication.will.is_none() {
                least += u64::from(publication.done.is_some() || self.first_seen[index].is_some());
                most += u64::from(1 + self.repeats[index] * u32::from(publication.qos > QoS::AtMostOnce));
            }
        }
        let right = (least..=most).contains(&c.publishes_received);
        (!right).then(|| format!("{least} to {most} publications were received, as clients see it"))
    }

    /// What came to clients was sent, and what was sent came, or may have been lost with a connection.
    fn judge_sent(&self, c: &Counters) -> Option<String> {
        let came = self.first_deliveries;
        let most = came + self.lost_with_connections() + c.group_given_back;
        let right = (came..=most).contains(&c.publishes_sent);
        (!right).then(|| {
            format!(
                "{came} to {most} messages came to clients for the first time, or were lost with a connection"
            )
        })
    }

    /// How many messages may have been sent for the first time and not have come: to a client whose present connection is
    /// younger than they may be. What its session has seen is not among them. It is a bound and not a number, because nobody
    /// sees what was written to a connection that ended before its client read it; without such connections it is 0.
    fn lost_with_connections(&self) -> u64 {
        let mut lost = 0;
        let mut counted: BTreeSet<(usize, u32, usize)> = BTreeSet::new();
        for sub in &self.subscriptions {
            let client = &self.clients[sub.actor];
            if client.connecting.is_none() {
                continue;
            }
            // Until CONNACK the broker may still write to the connection before.
            let before = |sent: Instant| client.connected.is_none_or(|connected| sent < connected);
            if before(sub.sent) && !sub.is_shared() {
                // What is retained comes once more for each subscription.
                lost += sub.matches.iter().filter(|matches| **matches).count() as u64;
            }
            for (index, publication) in self.publications.iter().enumerate() {
                let possible =
                    before(publication.sent) && self.may_have_matched_one(sub, self.topic_of[index], index);
                if !possible || !sub.is_shared() && !counted.insert((sub.actor, sub.session, index)) {
                    continue;
                }
                let came =
                    if sub.is_shared() { 0 } else { self.seen(sub.actor, sub.session, index).live_first };
                lost += u64::from(self.firings_or_copies(index).saturating_sub(came));
            }
        }
        lost
    }

    fn firings_or_copies(&self, index: usize) -> u32 {
        self.publications[index].will.map_or(self.copies(index), |firings| firings.must + firings.may)
    }

    /// The watcher has seen all Wills, or it was said why not.
    fn judge_wills_published(&self, watcher: usize, c: &Counters) -> Option<String> {
        let session = self.clients[watcher].session;
        let wills = (0..self.publications.len()).filter(|index| self.publications[*index].will.is_some());
        let came: u64 = wills.map(|index| u64::from(self.seen(watcher, session, index).live)).sum();
        let lost = self.losses.of_sessions().filter(|(actor, _)| *actor == watcher).count() as u64;
        let right = (came..=came + lost).contains(&c.wills_published);
        (!right).then(|| format!("{came} Wills were seen, {lost} were lost"))
    }

    /// Messages matched = sent + dropped + expired, now that none waits. What a member of a shared group has given back is sent
    /// or dropped once more: that often at most more has gone than was matched.
    fn judge_matched(&self, c: &Counters) -> Option<String> {
        let gone = c.publishes_sent
            + c.dropped_qos0_full
            + c.dropped_qos0_offline
            + c.dropped_qos0_memory
            + c.dropped_qos0_group
            + c.dropped_offline_full
            + c.dropped_slow
            + c.dropped_group_full
            + c.dropped_too_large
            + c.dropped_session_end
            + c.expired;
        let matched = c.messages_matched;
        let wrong = match self.subscriptions.iter().any(Subscription::is_shared) {
            true => matched > gone || matched + c.group_given_back < gone,
            false => matched != gone || c.group_given_back > 0,
        };
        wrong.then(|| format!("{matched} messages matched, {gone} sent, dropped or expired"))
    }
}
