//! How much a peer may send unread: little at first, more for a connection that proves that it needs it.
//!
//! Credit once granted cannot be taken back, so a million connections start with what an idle one needs. A connection
//! that reads half of its window within two round trips is held back by it, and gets twice as much, up to a maximum and
//! up to what all connections of the shard may have beyond their first window; one that has become slow gives half of it
//! back (quinn-proto then withholds new credit until the debt is paid, RFC 9000 §4.1 allows no other way).
//!
//! Streams have no window of their own below the largest: quinn-proto cannot widen theirs, and the connection's holds
//! for all of them.

use std::time::{Duration, Instant};

/// What one connection has been granted, and how it uses it.
#[derive(Debug)]
pub(super) struct Window {
    bytes: u32,
    read_bytes: u32,
    since: Option<Instant>,
}

/// Bytes of all connections of a shard beyond their first windows.
#[derive(Debug, Default)]
pub(super) struct Widened {
    pub(super) bytes: u64,
}

/// What windows there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowLimits {
    pub(super) first: u32,
    pub(super) max: u32,
    pub(super) widened_max: u64,
}

impl Window {
    pub(super) fn new(limits: &WindowLimits) -> Self {
        Self { bytes: limits.first, read_bytes: 0, since: None }
    }

    /// Bytes granted.
    pub(super) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The connection has read `bytes`. Returns its new window, if that changes.
    pub(super) fn on_read(
        &mut self,
        now: Instant,
        rtt: Duration,
        bytes: usize,
        limits: &WindowLimits,
        widened: &mut Widened,
    ) -> Option<u32> {
        let since = *self.since.get_or_insert(now);
        self.read_bytes = self.read_bytes.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        let over = now.saturating_duration_since(since) > (2 * rtt).max(PERIOD_MIN);
        let before = self.bytes;
        if !over && self.read_bytes >= self.bytes / 2 {
            let more = self.bytes.min(limits.max - self.bytes);
            if more == 0 || widened.bytes + u64::from(more) > limits.widened_max {
                return None;
            }
            self.bytes += more;
            widened.bytes += u64::from(more);
        } else if over && self.read_bytes < self.bytes / 4 && self.bytes > limits.first {
            let less = (self.bytes / 2).min(self.bytes - limits.first);
            self.bytes -= less;
            widened.bytes -= u64::from(less);
        } else if !over {
            return None;
        }
        (self.read_bytes, self.since) = (0, Some(now));
        (self.bytes != before).then_some(self.bytes)
    }

    /// The connection has ended.
    pub(super) fn give_back(&self, limits: &WindowLimits, widened: &mut Widened) {
        widened.bytes -= u64::from(self.bytes - limits.first);
    }
}

/// Round trips are counted as if they took at least this long: turns are not much shorter.
const PERIOD_MIN: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: WindowLimits = WindowLimits { first: 1_000, max: 5_000, widened_max: 6_000 };
    const RTT: Duration = Duration::from_millis(10);

    /// Time zero of a test; the tests' only reading of a clock, never compared with another one.
    fn zero() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "an Instant can be made in no other way")]
        Instant::now()
    }

    struct Reader {
        window: Window,
        now: Instant,
    }

    impl Reader {
        fn new(now: Instant) -> Self {
            Self { window: Window::new(&LIMITS), now }
        }

        fn read(&mut self, after: Duration, bytes: usize, widened: &mut Widened) -> Option<u32> {
            self.now += after;
            self.window.on_read(self.now, RTT, bytes, &LIMITS, widened)
        }
    }

    #[test]
    fn who_uses_it_gets_more_up_to_the_maximum() {
        let (mut widened, mut reader) = (Widened::default(), Reader::new(zero()));
        assert_eq!(reader.read(RTT, 499, &mut widened), None, "not half of it yet");
        assert_eq!(reader.read(RTT, 1, &mut widened), Some(2_000), "two round trips are not over");
        assert_eq!(reader.read(RTT, 1_000, &mut widened), Some(4_000));
        assert_eq!(reader.read(RTT, 2_000, &mut widened), Some(5_000), "no more than the maximum");
        assert_eq!(reader.read(RTT, 5_000, &mut widened), None);
        assert_eq!(widened.bytes, 4_000);
        reader.window.give_back(&LIMITS, &mut widened);
        assert_eq!(widened.bytes, 0);
    }

    #[test]
    fn who_is_slow_keeps_what_he_has_or_gives_back() {
        let (mut widened, mut reader) = (Widened::default(), Reader::new(zero()));
        assert_eq!(reader.read(RTT, 0, &mut widened), None);
        assert_eq!(reader.read(3 * RTT, 10_000, &mut widened), None, "not within two round trips");
        assert_eq!(reader.read(RTT, 500, &mut widened), Some(2_000));
        assert_eq!(reader.read(3 * RTT, 499, &mut widened), Some(1_000), "less than a quarter");
        assert_eq!(reader.read(3 * RTT, 1, &mut widened), None, "never below the first");
        assert_eq!(widened.bytes, 0);
    }

    #[test]
    fn all_together_have_a_maximum() {
        let (mut widened, now) = (Widened::default(), zero());
        let (mut one, mut other) = (Reader::new(now), Reader::new(now));
        for bytes in [500, 1_000, 2_000] {
            assert!(one.read(Duration::ZERO, bytes, &mut widened).is_some());
        }
        assert_eq!(other.read(Duration::ZERO, 500, &mut widened), Some(2_000));
        assert_eq!(other.read(Duration::ZERO, 1_000, &mut widened), None, "4,000 + 1,000 + 2,000 > 6,000");
        one.window.give_back(&LIMITS, &mut widened);
        assert_eq!(other.read(Duration::ZERO, 1_000, &mut widened), Some(4_000), "there is room again");
    }
}
