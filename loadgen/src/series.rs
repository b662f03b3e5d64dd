//! The run second by second, put together from all threads.

use std::collections::BTreeMap;

use crate::record::{Latencies, add, latencies};
use crate::worker::Second;

/// One second of the whole run. Latencies in nanoseconds, of what arrived in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SeriesSecond {
    /// Since the start of the load, warm-up included.
    pub(crate) number: u64,
    pub(crate) published: u64,
    pub(crate) confirmed: u64,
    pub(crate) received: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
}

pub(crate) struct Series {
    threads: usize,
    /// Seconds of which not every thread has told, at most [`PENDING_MAX`].
    pending: BTreeMap<u64, Pending>,
    seconds: Vec<SeriesSecond>,
    seen: usize,
}

struct Pending {
    told: usize,
    sum: SeriesSecond,
    delivery: Latencies,
}

impl Series {
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads, pending: BTreeMap::new(), seconds: Vec::new(), seen: 0 }
    }

    pub(crate) fn add(&mut self, second: &Second) {
        if self.seconds.last().is_some_and(|last| last.number >= second.number) {
            // A thread that stood still for so long tells of what is settled.
            return;
        }
        let pending = self.pending.entry(second.number).or_insert_with(|| Pending {
            told: 0,
            sum: SeriesSecond { number: second.number, ..SeriesSecond::default() },
            delivery: latencies(),
        });
        pending.told += 1;
        pending.sum.published += second.published;
        pending.sum.confirmed += second.confirmed;
        pending.sum.received += second.received;
        add(&mut pending.delivery, &second.delivery);
        while self.pending.first_key_value().is_some_and(|(_, first)| first.told == self.threads)
            || self.pending.len() > PENDING_MAX
        {
            self.settle_first();
        }
    }

    /// Nobody tells any more.
    pub(crate) fn finish(&mut self) {
        while !self.pending.is_empty() {
            self.settle_first();
        }
    }

    /// The newest second, unless it has been asked for before.
    pub(crate) fn newest_unseen(&mut self) -> Option<&SeriesSecond> {
        if self.seen == self.seconds.len() {
            return None;
        }
        self.seen = self.seconds.len();
        self.seconds.last()
    }

    pub(crate) fn seconds(&self) -> &[SeriesSecond] {
        &self.seconds
    }

    fn settle_first(&mut self) {
        let Some((_, mut first)) = self.pending.pop_first() else { return };
        if !first.delivery.is_empty() {
            first.sum.p50 = first.delivery.value_at_quantile(0.5);
            first.sum.p99 = first.delivery.value_at_quantile(0.99);
            first.sum.max = first.delivery.max();
        }
        self.seconds.push(first.sum);
    }
}

/// A thread that is later than this is not waited for.
const PENDING_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn second(number: u64, received: u64) -> Second {
        let mut delivery = latencies();
        (0..received).for_each(|_| delivery.saturating_record(1000));
        Second { number, published: 0, confirmed: 0, received, delivery }
    }

    #[test]
    fn seconds_are_told_when_all_threads_have() {
        let mut series = Series::new(2);
        series.add(&second(0, 1));
        assert!(series.newest_unseen().is_none());
        series.add(&second(0, 2));
        let newest = *series.newest_unseen().unwrap();
        assert_eq!((newest.number, newest.received, newest.p50), (0, 3, 1000));
        assert!(series.newest_unseen().is_none());
    }

    #[test]
    fn a_thread_that_stands_still_is_not_awaited() {
        let mut series = Series::new(2);
        (0..10).for_each(|number| series.add(&second(number, 1)));
        series.add(&second(0, 1));
        series.finish();
        assert_eq!(series.seconds().len(), 10);
        assert!(series.seconds().iter().all(|second| second.received == 1));
    }
}
