//! The book of sequence numbers on the path from one publisher to one subscriber: what came, twice, out of order, or not.
//!
//! ```text
//!   0            forgotten          gap         gap            next
//!   |── settled ─────|── received ──|···|── r ──|··|── received ──|  not seen yet
//! ```
//! A path in good order costs no memory but its counters: only gaps are kept, at most [`GAPS_MAX`] of them (24 KiB). Beyond
//! that the oldest gap is forgotten: its numbers stay lost, and if one of them does come it is counted as `unplaced`, for the book no
//! longer knows whether it is late or a duplicate. The counts never claim more than the book knows.

use std::collections::VecDeque;

/// Gaps that one path remembers.
pub(crate) const GAPS_MAX: usize = 1024;

/// What a sequence number was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Not seen before, and later than all that were.
    New,
    /// Not seen before, but a later one was: out of order.
    Disordered,
    /// Seen before.
    Duplicate,
    /// From a part of the book that was forgotten.
    Unplaced,
}

/// One path.
#[derive(Debug, Default)]
pub(crate) struct Path {
    /// One more than the largest number seen.
    next: u64,
    /// Numbers below are no longer told apart.
    forgotten: u64,
    gaps: VecDeque<Gap>,
    pub(crate) counts: Counts,
}

/// What happened on a path, or on many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Different messages received.
    pub(crate) received: u64,
    /// Messages received again.
    pub(crate) duplicated: u64,
    /// Of `received`, those that came after a later one.
    pub(crate) disordered: u64,
    /// Messages of which the book no longer knows whether they are late or duplicates.
    pub(crate) unplaced: u64,
}

/// Numbers that have not come, from `start` to before `end`.
#[derive(Clone, Copy, Debug)]
struct Gap {
    start: u64,
    end: u64,
}

impl Path {
    /// A path whose first number is `first`: a subscriber that comes in the middle of a run misses nothing before.
    pub(crate) fn beginning_at(first: u64) -> Self {
        Self { next: first, forgotten: first, ..Self::default() }
    }

    /// Notes a message.
    pub(crate) fn note(&mut self, sequence: u64) -> Arrival {
        let arrival = self.place(sequence);
        match arrival {
            Arrival::New => self.counts.received += 1,
            Arrival::Disordered => {
                self.counts.received += 1;
                self.counts.disordered += 1;
            }
            Arrival::Duplicate => self.counts.duplicated += 1,
            Arrival::Unplaced => self.counts.unplaced += 1,
        }
        arrival
    }

    /// Numbers between the first and the largest seen that have not come.
    pub(crate) fn span(&self, first: u64) -> u64 {
        self.next - first
    }

    fn place(&mut self, sequence: u64) -> Arrival {
        if sequence >= self.next {
            if sequence > self.next {
                self.remember(Gap { start: self.next, end: sequence });
            }
            // The largest number of all can only be a forged one; the book stays right below it.
            self.next = sequence.saturating_add(1);
            return Arrival::New;
        }
        if sequence < self.forgotten {
            return Arrival::Unplaced;
        }
        let index = self.gaps.partition_point(|gap| gap.end <= sequence);
        match self.gaps.get(index).copied() {
            Some(gap) if gap.start <= sequence => {
                self.fill(index, gap, sequence);
                Arrival::Disordered
            }
            _ => Arrival::Duplicate,
        }
    }

    fn remember(&mut self, gap: Gap) {
        if self.gaps.len() == GAPS_MAX {
            self.forget_oldest();
        }
        self.gaps.push_back(gap);
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.gaps.pop_front() {
            self.forgotten = oldest.end;
        }
    }

    /// One number of a gap has come: the gap shrinks, vanishes or falls apart.
    fn fill(&mut self, index: usize, gap: Gap, sequence: u64) {
        let (before, after) =
            (Gap { start: gap.start, end: sequence }, Gap { start: sequence + 1, end: gap.end });
        match (before.start < before.end, after.start < after.end) {
            (false, false) => {
                self.gaps.remove(index);
            }
            (true, false) => self.gaps[index] = before,
            (false, true) => self.gaps[index] = after,
            (true, true) => {
                self.gaps[index] = before;
                self.gaps.insert(index + 1, after);
                if self.gaps.len() > GAPS_MAX {
                    self.forget_oldest();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn noted(path: &mut Path, numbers: impl IntoIterator<Item = u64>) -> Vec<Arrival> {
        numbers.into_iter().map(|number| path.note(number)).collect()
    }

    #[test]
    fn good_order_costs_nothing() {
        let mut path = Path::default();
        noted(&mut path, 0..1000);
        assert_eq!(path.counts, Counts { received: 1000, ..Counts::default() });
        assert_eq!((path.gaps.len(), path.gaps.capacity()), (0, 0));
    }

    #[test]
    fn late_twice_and_never() {
        let mut path = Path::default();
        let arrivals = noted(&mut path, [0, 1, 5, 3, 3, 2, 5, 6]);
        use Arrival::{Disordered, Duplicate, New};
        assert_eq!(arrivals, [New, New, New, Disordered, Duplicate, Disordered, Duplicate, New]);
        assert_eq!(path.counts, Counts { received: 6, duplicated: 2, disordered: 2, unplaced: 0 });
        // 4 never came.
        assert_eq!(path.span(0) - path.counts.received, 1);
    }

    #[test]
    fn what_is_missing_from_the_beginning_is_missed() {
        let mut path = Path::default();
        noted(&mut path, [3, 4]);
        assert_eq!(path.span(0) - path.counts.received, 3);
        let mut late_comer = Path::beginning_at(3);
        noted(&mut late_comer, [3, 4]);
        assert_eq!(late_comer.span(3) - late_comer.counts.received, 0);
    }

    #[test]
    fn beyond_its_bound_the_book_forgets_and_says_so() {
        let mut path = Path::default();
        // Every second number is lost: one gap more than fits.
        noted(&mut path, (0..=GAPS_MAX as u64 + 1).map(|number| number * 2));
        assert_eq!(path.gaps.len(), GAPS_MAX);
        assert_eq!(path.note(1), Arrival::Unplaced);
        assert_eq!(path.note(0), Arrival::Unplaced, "it came, but nobody remembers");
        assert_eq!(path.note(3), Arrival::Disordered);
        assert_eq!(path.note(4), Arrival::Duplicate);
        let lost = path.span(0) - path.counts.received;
        assert_eq!(lost, GAPS_MAX as u64, "1 is lost although it was seen: too late to be told from a copy");
    }

    #[test]
    fn splitting_gaps_stays_within_the_bound() {
        let mut path = Path::default();
        path.note(1_000_000);
        noted(&mut path, (0..5000).map(|number| number * 3 + 1));
        assert!(path.gaps.len() <= GAPS_MAX);
        assert_eq!(path.counts.received + path.counts.unplaced, 5001);
    }

    /// Against a set that remembers everything, on random sequences in which nothing is forgotten.
    #[test]
    fn it_agrees_with_a_set() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let (mut path, mut seen) = (Path::default(), BTreeSet::new());
            for _ in 0..500 {
                let number = rng.u64(0..400);
                let largest = seen.last().copied();
                let expected = match (seen.insert(number), largest) {
                    (false, _) => Arrival::Duplicate,
                    (true, Some(largest)) if number < largest => Arrival::Disordered,
                    (true, _) => Arrival::New,
                };
                assert_eq!(path.note(number), expected);
            }
            assert_eq!(path.counts.received, seen.len() as u64);
            let missing: u64 = path.gaps.iter().map(|gap| gap.end - gap.start).sum();
            assert_eq!(missing, path.span(0) - path.counts.received);
        }
    }

    #[test]
    fn the_largest_number_does_no_harm() {
        let mut path = Path::default();
        assert_eq!(path.note(u64::MAX), Arrival::New);
        assert_eq!(path.note(0), Arrival::Disordered);
        assert_eq!(path.note(0), Arrival::Duplicate);
    }
}
