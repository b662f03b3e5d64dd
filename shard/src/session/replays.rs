//! Retained messages that a session is still to fetch: for each new subscription one replay, in the order of their
//! SUBACKs.
//!
//! The first is being read. A session may have as many as subscriptions, so one is found by its filter, not by a
//! search; of a filter there is one at most that counts. What is being read and no longer wanted stays in front until
//! its answer is in.

use std::collections::BTreeMap;
use std::sync::Arc;

use quelea_router::ShardSet;

use super::Subscription;

/// A subscription whose retained messages are still being fetched, in chunks, partition after partition.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The filter.
    pub filter: Arc<str>,
    /// How its messages are delivered.
    pub subscription: Subscription,
    /// Partitions not yet complete; the lowest is being read.
    pub partitions: ShardSet,
    /// Strictly after this topic in the partition being read.
    pub after: Option<Box<str>>,
    /// Unsubscribed meanwhile: what is still on its way is ignored.
    pub cancelled: bool,
}

/// The replays of one session.
#[derive(Debug, Default)]
pub struct Replays {
    in_order: BTreeMap<u64, Replay>,
    /// Those that are not cancelled.
    by_filter: BTreeMap<Arc<str>, u64>,
    next: u64,
}

impl Replays {
    /// Whether nothing is to be fetched.
    pub fn is_empty(&self) -> bool {
        self.in_order.is_empty()
    }

    /// Memory that they take, with the topic up to which the first is read. Their filters are the session's.
    pub(crate) fn held_bytes(&self) -> usize {
        let read = self.front().and_then(|replay| replay.after.as_deref()).map_or(0, str::len);
        self.in_order.len() * ENTRY_BYTES + self.by_filter.len() * FILTER_ENTRY_BYTES + read
    }

    /// The one that is being read.
    pub fn front(&self) -> Option<&Replay> {
        self.in_order.first_key_value().map(|(_, replay)| replay)
    }

    /// The same, to go on with it.
    pub fn front_mut(&mut self) -> Option<&mut Replay> {
        self.in_order.first_entry().map(|entry| entry.into_mut())
    }

    /// Takes out the one that is being read.
    pub fn pop_front(&mut self) -> Option<Replay> {
        let (number, replay) = self.in_order.pop_first()?;
        if self.by_filter.get(&replay.filter) == Some(&number) {
            self.by_filter.remove(&replay.filter);
        }
        Some(replay)
    }

    /// Appends one, which begins anew what an older one of the same filter has not finished. `pulling`: an answer to
    /// the first is on its way.
    pub fn push(&mut self, replay: Replay, pulling: bool) {
        self.cancel(&replay.filter, pulling);
        self.by_filter.insert(Arc::clone(&replay.filter), self.next);
        self.in_order.insert(self.next, replay);
        self.next += 1;
    }

    /// What is still to be fetched for a filter comes under another subscription.
    pub fn replace_subscription(&mut self, filter: &str, subscription: Subscription) {
        if let Some(number) = self.by_filter.get(filter) {
            let replay = self.in_order.get_mut(number).expect("found by its filter");
            replay.subscription = subscription;
        }
    }

    /// What is still to be fetched for a filter is not wanted any more.
    pub fn cancel(&mut self, filter: &str, pulling: bool) {
        let Some(number) = self.by_filter.remove(filter) else { return };
        match self.in_order.first_entry() {
            Some(mut first) if pulling && *first.key() == number => first.get_mut().cancelled = true,
            _ => {
                self.in_order.remove(&number);
            }
        }
    }
}

/// An entry of a tree whose nodes are half full, as those are that grow at their end.
const ENTRY_BYTES: usize = 2 * size_of::<(u64, Replay)>();

/// The same, by its filter.
const FILTER_ENTRY_BYTES: usize = 2 * size_of::<(Arc<str>, u64)>();

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(filter: &str) -> Replay {
        Replay {
            filter: filter.into(),
            subscription: Subscription::EVERYTHING,
            partitions: ShardSet::default(),
            after: None,
            cancelled: false,
        }
    }

    #[test]
    fn of_a_filter_there_is_one_that_counts() {
        let mut replays = Replays::default();
        for filter in ["a", "b", "a", "a"] {
            replays.push(replay(filter), false);
        }
        let order = [replays.pop_front(), replays.pop_front()].map(|replay| replay.expect("two").filter);
        assert_eq!(order.map(|filter| filter.to_string()), ["b", "a"]);
        assert!(replays.is_empty());
    }

    #[test]
    fn what_is_being_read_stays_in_front_until_its_answer_is_in() {
        let mut replays = Replays::default();
        replays.push(replay("a"), false);
        replays.cancel("a", true);
        replays.push(replay("a"), true);
        assert!(replays.pop_front().expect("the one being read").cancelled);
        assert!(!replays.front().expect("the new one").cancelled);
        replays.cancel("a", false);
        assert!(replays.is_empty());
    }
}
