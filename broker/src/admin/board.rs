//! Where shards leave their counters for others to read.
//!
//! Each shard has a row of its own, in its own allocation, and is its only writer; readers see every value whole, though
//! not all values of one moment. Relaxed stores suffice: no value of the board guards another.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

/// Whether a value only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Grows until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One column of the board. Neighbours of one name are one metric, told apart by their label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Name, without the `quelea_` in front and the `_total` behind.
    pub name: &'static str,
    /// One sentence without a full stop.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// A label beside the shard's, such as `("reason", "queue_full")`.
    pub label: Option<(&'static str, &'static str)>,
}

/// What the broker as a whole is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Clients are welcome.
    Serving,
    /// Clients are sent away; the process ends soon.
    Draining,
}

/// The values of all shards.
pub struct Board {
    descriptors: Box<[Descriptor]>,
    rows: Box<[Row]>,
    phase: AtomicU8,
    since: Instant,
    /// Has the shards publish; set once they run.
    publisher: OnceLock<Publisher>,
}

/// Has all shards publish now, and returns when they have, or after a time that a reader can spare.
type Publisher = Box<dyn Fn() + Send + Sync>;

#[derive(Debug)]
struct Row {
    /// Milliseconds from `Board::since` to the last publication.
    beat_ms: CachePadded<AtomicU64>,
    values: Box<[AtomicU64]>,
}

/// A shard publishes at least every second; one that has not for so long is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(10);

impl Board {
    /// A board of zeros. `now` is the shards' first heartbeat.
    #[must_use]
    pub fn new(descriptors: impl Into<Box<[Descriptor]>>, shards: usize, now: Instant) -> Self {
        let descriptors = descriptors.into();
        let row = |_| Row {
            beat_ms: CachePadded::new(AtomicU64::new(0)),
            values: descriptors.iter().map(|_| AtomicU64::new(0)).collect(),
        };
        let phase = AtomicU8::new(Phase::Serving as u8);
        let rows = (0..shards).map(row).collect();
        Self { descriptors, rows, phase, since: now, publisher: OnceLock::new() }
    }

    /// From now on, [`Board::refresh`] calls this: it has all shards publish, and waits for them, but not for long.
    ///
    /// # Panics
    /// It has been set before.
    pub fn set_publisher(&self, publisher: impl Fn() + Send + Sync + 'static) {
        assert!(self.publisher.set(Box::new(publisher)).is_ok(), "a board has one publisher");
    }

    /// Brings the values up to this moment, as far as the shards answer. Blocks for a fraction of a second at most.
    pub fn refresh(&self) {
        if let Some(publisher) = self.publisher.get() {
            publisher();
        }
    }

    /// Stores a shard's values, in the order of the descriptors, and its heartbeat.
    ///
    /// # Panics
    /// `shard` or the number of values is not what the board was made for.
    pub fn publish(&self, shard: usize, now: Instant, values: &[u64]) {
        let row = &self.rows[shard];
        assert_eq!(values.len(), row.values.len(), "a value for every descriptor");
        for (slot, value) in row.values.iter().zip(values) {
            slot.store(*value, Ordering::Relaxed);
        }
        let beat = now.saturating_duration_since(self.since).as_millis();
        row.beat_ms.store(u64::try_from(beat).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Tells the readers what the broker is doing.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Whether clients are served, or why not.
    ///
    /// # Errors
    /// A sentence: the broker drains, or a shard has been silent for too long.
    pub fn health(&self, now: Instant) -> Result<(), String> {
        if self.phase.load(Ordering::Relaxed) == Phase::Draining as u8 {
            return Err("draining".to_owned());
        }
        for (shard, row) in self.rows.iter().enumerate() {
            let beat = self.since + Duration::from_millis(row.beat_ms.load(Ordering::Relaxed));
            let silent = now.saturating_duration_since(beat);
            if silent > SILENCE_MAX {
                return Err(format!("shard {shard} has been silent for {} s", silent.as_secs()));
            }
        }
        Ok(())
    }

    /// The columns with their numbers, neighbours of one name together.
    pub(super) fn columns(&self) -> impl Iterator<Item = (usize, &Descriptor)> {
        self.descriptors.iter().enumerate()
    }

    /// Values of one column, shard by shard.
    pub(super) fn values(&self, column: usize) -> impl Iterator<Item = u64> {
        self.rows.iter().map(move |row| row.values[column].load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Board");
        shown.field("shards", &self.rows.len()).field("columns", &self.descriptors.len());
        shown.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[Descriptor] =
        &[Descriptor { name: "turns", help: "Turns", kind: Kind::Counter, label: None }];

    #[test]
    fn a_board_is_healthy_while_every_shard_beats() {
        let start = Instant::now();
        let board = Board::new(ONE, 2, start);
        assert_eq!(board.health(start + Duration::from_secs(10)), Ok(()));
        board.publish(0, start + Duration::from_secs(9), &[1]);
        let why = board.health(start + Duration::from_secs(12));
        assert_eq!(why, Err("shard 1 has been silent for 12 s".to_owned()));
        board.publish(1, start + Duration::from_secs(12), &[1]);
        assert_eq!(board.health(start + Duration::from_secs(12)), Ok(()));
    }

    #[test]
    fn a_draining_broker_is_not_healthy() {
        let start = Instant::now();
        let board = Board::new(ONE, 1, start);
        board.set_phase(Phase::Draining);
        assert_eq!(board.health(start), Err("draining".to_owned()));
    }

    #[test]
    #[should_panic(expected = "a value for every descriptor")]
    fn a_publication_of_the_wrong_length_is_our_fault() {
        Board::new(ONE, 1, Instant::now()).publish(0, Instant::now(), &[]);
    }
}
