//! What the threads and their coordinator tell each other while a run lasts.
//!
//! ```text
//!   Ramp ── all are connected ──▶ Run ── the time is over ──▶ Drain ── all has come ──▶ Leave
//! ```
//! The coordinator alone moves the phase and sets the times, and rings every thread's doorbell when it does. Each thread alone
//! writes its [`Board`]. The numbers are relaxed: they are totals to look at, and nothing else is reached through them; the times are
//! stored before the phase that makes them true is released.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use crate::clock::Nanos;

/// Where the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Clients connect and subscribe.
    Ramp,
    /// Publishers publish.
    Run,
    /// Nothing new is published; what is late is awaited.
    Drain,
    /// Clients disconnect, threads end.
    Leave,
}

/// The one place that all threads see.
pub(crate) struct Shared {
    phase: AtomicU8,
    start: AtomicU64,
    measure_from: AtomicU64,
    measure_to: AtomicU64,
    pub(crate) boards: Box<[CachePadded<Board>]>,
    /// By publisher: one more than the largest sequence number that the first of its receivers has seen. Empty where no window needs it.
    pub(crate) seen: Box<[AtomicU64]>,
}

/// One thread's totals.
#[derive(Default)]
pub(crate) struct Board {
    /// Clients connected (and subscribed) for the first time.
    pub(crate) ready: AtomicU64,
    /// Clients that never were ready and have given up.
    pub(crate) failed: AtomicU64,
    /// Connections lost after that.
    pub(crate) lost: AtomicU64,
    /// Messages handed to the transport (QoS 0) or to the client (QoS 1, 2).
    pub(crate) published: AtomicU64,
    /// Messages that must arrive: written at QoS 0, acknowledged at QoS 1 and 2.
    pub(crate) confirmed: AtomicU64,
    /// Messages that arrived, duplicates included.
    pub(crate) arrived: AtomicU64,
    /// Different messages that arrived.
    pub(crate) received: AtomicU64,
    /// Publishers that still have something to send or to be acknowledged.
    pub(crate) busy: AtomicU64,
}

impl Shared {
    pub(crate) fn new(threads: usize, windows: usize) -> Self {
        Self {
            phase: AtomicU8::new(Phase::Ramp as u8),
            start: AtomicU64::new(0),
            measure_from: AtomicU64::new(u64::MAX),
            measure_to: AtomicU64::new(u64::MAX),
            boards: (0..threads).map(|_| CachePadded::default()).collect(),
            seen: (0..windows).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Ramp,
            1 => Phase::Run,
            2 => Phase::Drain,
            _ => Phase::Leave,
        }
    }

    /// Begins to publish at `start` and to measure at `measure_from`, until `measure_to`.
    pub(crate) fn run(&self, start: Nanos, measure_from: Nanos, measure_to: Nanos) {
        self.start.store(start, Ordering::Relaxed);
        self.measure_from.store(measure_from, Ordering::Relaxed);
        self.measure_to.store(measure_to, Ordering::Relaxed);
        self.enter(Phase::Run);
    }

    /// Ends the measurement at `now`, before its time.
    pub(crate) fn cut_short(&self, now: Nanos) {
        self.measure_to.fetch_min(now, Ordering::Relaxed);
        self.measure_from.fetch_min(now, Ordering::Relaxed);
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub(crate) fn start(&self) -> Nanos {
        self.start.load(Ordering::Relaxed)
    }

    pub(crate) fn measure_from(&self) -> Nanos {
        self.measure_from.load(Ordering::Relaxed)
    }

    pub(crate) fn measure_to(&self) -> Nanos {
        self.measure_to.load(Ordering::Relaxed)
    }

    /// The sum of one figure over all threads.
    pub(crate) fn sum(&self, figure: impl Fn(&Board) -> &AtomicU64) -> u64 {
        self.boards.iter().map(|board| figure(board).load(Ordering::Relaxed)).sum()
    }
}
