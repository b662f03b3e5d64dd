//! Time: nanoseconds of `CLOCK_MONOTONIC`, which every process of one machine reads alike.
//!
//! Payloads carry such a time, so a publisher and a subscriber may be two processes. `Instant` is the same clock without its
//! numbers; one pair of readings taken at the start translates between the two.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since this machine started.
pub(crate) type Nanos = u64;

/// Nanoseconds of one second.
pub(crate) const SECOND: Nanos = 1_000_000_000;

/// Translates between `Instant` and [`Nanos`]; all copies agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    instant: Instant,
    nanos: Nanos,
}

impl Clock {
    /// A translation that is wrong by at most the time between two readings, some tens of nanoseconds.
    pub(crate) fn new() -> Self {
        Self { instant: Instant::now(), nanos: read(ClockId::Monotonic) }
    }

    pub(crate) fn now(&self) -> Nanos {
        self.nanos_at(Instant::now())
    }

    pub(crate) fn nanos_at(&self, instant: Instant) -> Nanos {
        match instant.checked_duration_since(self.instant) {
            Some(after) => self.nanos + nanos_of(after),
            None => self.nanos.saturating_sub(nanos_of(self.instant - instant)),
        }
    }
}

/// CPU time of the calling thread.
pub(crate) fn thread_cpu() -> Nanos {
    read(ClockId::ThreadCPUTime)
}

/// A duration as a number; 584 years and more are the largest one.
pub(crate) fn nanos_of(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn read(clock: ClockId) -> Nanos {
    let time = clock_gettime(clock);
    // Neither clock is ever negative.
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_before_and_after_the_start_are_translated() {
        let clock = Clock { instant: Instant::now(), nanos: 5 * SECOND };
        assert_eq!(clock.nanos_at(clock.instant + Duration::from_millis(1)), 5_001_000_000);
        assert_eq!(clock.nanos_at(clock.instant - Duration::from_millis(1)), 4_999_000_000);
    }

    #[test]
    fn two_clocks_of_one_machine_agree() {
        let (first, second) = (Clock::new(), Clock::new());
        let instant = Instant::now();
        assert!(first.nanos_at(instant).abs_diff(second.nanos_at(instant)) < SECOND / 100);
    }
}
