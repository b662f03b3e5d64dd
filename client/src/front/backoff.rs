//! How long to wait before the next attempt to connect: full jitter.
//!
//! The wait is drawn evenly between nothing and a ceiling that doubles with each failure, so that the clients of a server that
//! comes back do not all knock at once.

use std::time::Duration;

/// Reconnecting with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The ceiling of the first wait.
    pub first: Duration,
    /// The ceiling of all waits.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), max: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// The wait before attempt `failures` (0: the first after the connection was lost).
    pub(super) fn wait(&self, failures: u32, rng: &mut fastrand::Rng) -> Duration {
        self.ceiling(failures).mul_f64(rng.f64())
    }

    fn ceiling(&self, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures).and_then(|factor| self.first.checked_mul(factor));
        doubled.map_or(self.max, |ceiling| ceiling.min(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        let backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(10) };
        let ceilings: Vec<u64> = [0, 1, 2, 3, 4, 31, 32, 1000].map(|n| backoff.ceiling(n).as_secs()).into();
        assert_eq!(ceilings, [1, 2, 4, 8, 10, 10, 10, 10]);
    }

    #[test]
    fn waits_are_spread_below_the_ceiling() {
        let mut rng = fastrand::Rng::with_seed(1);
        let backoff = Backoff::default();
        let waits: Vec<Duration> = (0..100).map(|_| backoff.wait(3, &mut rng)).collect();
        assert!(waits.iter().all(|wait| *wait < Duration::from_secs(8)));
        assert!(waits.iter().any(|wait| *wait < Duration::from_secs(2)));
        assert!(waits.iter().any(|wait| *wait > Duration::from_secs(6)));
    }
}
