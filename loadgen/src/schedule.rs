//! When each message is meant to be sent. Open loop: the times depend on the rate alone, never on what the broker does.
//!
//! With a fixed rate R over P publishers, message `k` of publisher `i` is due at `start + (k·P + i) / R`: the publishers take
//! turns, so together they send evenly. The times are computed, not added up: they do not drift, however long the run.
//! With Poisson arrivals the gaps of each publisher are exponential with the mean P / R.

use fastrand::Rng;

use crate::clock::Nanos;

/// Messages per second, all publishers together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rate {
    /// So many thousandths of a message per second.
    Fixed { milli_per_s: u64 },
    /// As fast as acknowledgements and back-pressure let us: not open loop.
    Max,
}

/// How the times follow from the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spacing {
    Even,
    Poisson,
}

/// The intended times of one publisher.
pub(crate) struct Schedule {
    start: Nanos,
    kind: Kind,
}

enum Kind {
    Even {
        number: u64,
        stride: u64,
        milli_per_s: u64,
    },
    Poisson {
        offset: f64,
        mean: f64,
        rng: Rng,
    },
    /// Always due.
    Max,
}

/// One publisher among all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) index: u32,
    pub(crate) of: u32,
}

impl Schedule {
    /// The times of the publisher at `place`, the first one at or after `start`.
    pub(crate) fn new(rate: Rate, spacing: Spacing, place: Place, seed: u64, start: Nanos) -> Self {
        assert!(place.index < place.of, "a publisher of this run");
        let kind = match (rate, spacing) {
            (Rate::Max, _) => Kind::Max,
            (Rate::Fixed { milli_per_s }, Spacing::Even) => {
                Kind::Even { number: place.index.into(), stride: place.of.into(), milli_per_s }
            }
            (Rate::Fixed { milli_per_s }, Spacing::Poisson) => {
                // Every publisher draws numbers of its own.
                let mut rng = Rng::with_seed(seed ^ (u64::from(place.index) + 1).wrapping_mul(SPREAD));
                let mean = f64::from(place.of) * MILLI_NANOS as f64 / milli_per_s as f64;
                Kind::Poisson { offset: exponential(&mut rng, mean), mean, rng }
            }
        };
        Self { start, kind }
    }

    /// When the next message is due; `now` if the rate is [`Rate::Max`].
    pub(crate) fn next(&self, now: Nanos) -> Nanos {
        match &self.kind {
            Kind::Even { number, milli_per_s, .. } => {
                let offset = u128::from(*number) * u128::from(MILLI_NANOS) / u128::from(*milli_per_s);
                self.start.saturating_add(u64::try_from(offset).unwrap_or(u64::MAX))
            }
            Kind::Poisson { offset, .. } => self.start.saturating_add(*offset as u64),
            Kind::Max => now,
        }
    }

    /// The message that was due next has been sent.
    pub(crate) fn advance(&mut self) {
        match &mut self.kind {
            Kind::Even { number, stride, .. } => *number += *stride,
            Kind::Poisson { offset, mean, rng } => *offset += exponential(rng, *mean),
            Kind::Max => {}
        }
    }
}

fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    // In (0, 1], whose logarithm is finite.
    -mean * (1.0 - rng.f64()).ln()
}

/// Nanoseconds of a second, times the thousandths in which rates are given.
const MILLI_NANOS: u64 = 1_000_000_000_000;
/// Spreads neighbouring numbers over all seeds (the golden ratio, in 64 bits).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    fn times(schedule: &mut Schedule, count: usize) -> Vec<Nanos> {
        (0..count)
            .map(|_| {
                let at = schedule.next(0);
                schedule.advance();
                at
            })
            .collect()
    }

    fn schedules(milli_per_s: u64, spacing: Spacing, of: u32) -> Vec<Schedule> {
        let rate = Rate::Fixed { milli_per_s };
        (0..of).map(|index| Schedule::new(rate, spacing, Place { index, of }, 42, SECOND)).collect()
    }

    #[test]
    fn publishers_take_turns() {
        let mut all: Vec<Nanos> =
            schedules(10_000, Spacing::Even, 4).iter_mut().flat_map(|schedule| times(schedule, 5)).collect();
        all.sort_unstable();
        let expected: Vec<Nanos> = (0..20).map(|k| SECOND + k * SECOND / 10).collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn an_hour_at_a_rate_that_divides_nothing_ends_on_time() {
        let mut schedule = schedules(333_333, Spacing::Even, 1).remove(0);
        for _ in 0..3600 * 333 {
            schedule.advance();
        }
        // 1,198,800 messages at 333.333 per second.
        let exact = SECOND as f64 * (1.0 + 1_198_800.0 / 333.333);
        assert!((schedule.next(0) as f64 - exact).abs() < 1_000.0, "{} {exact}", schedule.next(0));
    }

    #[test]
    fn less_than_one_message_per_second_is_a_rate() {
        let mut schedule = schedules(100, Spacing::Even, 1).remove(0);
        assert_eq!(times(&mut schedule, 3), [SECOND, 11 * SECOND, 21 * SECOND]);
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let mut schedule = schedules(1_000_000, Spacing::Poisson, 1).remove(0);
        let times = times(&mut schedule, 100_001);
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean / 1e6 - 1.0).abs() < 0.02, "mean {mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "deviation {}", variance.sqrt());
    }

    #[test]
    fn poisson_publishers_differ_and_a_seed_repeats() {
        let two = || schedules(1_000_000, Spacing::Poisson, 2);
        let first: Vec<_> = two().iter_mut().map(|schedule| times(schedule, 10)).collect();
        let again: Vec<_> = two().iter_mut().map(|schedule| times(schedule, 10)).collect();
        assert_eq!(first, again);
        assert_ne!(first[0], first[1]);
    }

    #[test]
    fn at_the_maximum_it_is_always_due() {
        let place = Place { index: 0, of: 1 };
        let mut schedule = Schedule::new(Rate::Max, Spacing::Even, place, 0, SECOND);
        assert_eq!(schedule.next(5), 5);
        schedule.advance();
        assert_eq!(schedule.next(6), 6);
    }
}
