//! The broker's counters against what happened.

use quelea_mqtt::QoS;
use quelea_shard::counters::Counters;
use quelea_shard::witness::Why;

use super::Oracle;

/// What the broker has counted, summed over its shards, and whether some of its messages are in shared groups.
#[derive(Clone, Debug)]
pub(crate) struct Books {
    pub(crate) counters: Counters,
    pub(crate) groups: bool,
}

impl Oracle {
    /// All is quiet: nothing waits, so the books must close.
    pub(super) fn judge_books(&mut self, watcher: usize, books: &Books) {
        let verdicts = [
            matched(books),
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

    /// What was acknowledged was received; what was sent once was not received twice.
    fn judge_received(&self, c: &Counters) -> Option<String> {
        let sent = || self.publications.iter().filter(|publication| publication.will.is_none());
        let done = sent().filter(|publication| publication.done.is_some()).count() as u64;
        let repeated = sent().any(|publication| publication.repeated && publication.qos > QoS::AtMostOnce);
        let most = if repeated { u64::MAX } else { sent().count() as u64 };
        let right = (done..=most).contains(&c.publishes_received);
        (!right).then(|| format!("{done} to {most} publications were received, as clients see it"))
    }

    /// What came to clients was sent.
    fn judge_sent(&self, c: &Counters) -> Option<String> {
        let came = self.first_deliveries;
        (came > c.publishes_sent).then(|| format!("{came} messages came to clients for the first time"))
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
}

/// Messages matched = sent + dropped + expired, now that none waits. Messages of shared groups may be sent to one member and
/// then to another, so with groups the books say less.
fn matched(books: &Books) -> Option<String> {
    let c = &books.counters;
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
    let right =
        c.messages_matched == gone || books.groups && c.messages_matched <= gone + c.dropped_session_end;
    (!right).then(|| format!("{} messages matched, {gone} sent, dropped or expired", c.messages_matched))
}
