//! One thread of the load: a ring, its clients, and the turn that serves them.
//!
//! ```text
//!   Ring::poll ──bytes──▶ Floor (Sink) ─▶ core ─▶ events ─▶ books, histograms
//!      ▲                                               │
//!      │   open what is due · timers · publish what is due · write what is dirty
//!      └────────────────────────── one turn ───────────┘
//! ```
//! The clock is read when bytes come up, when the work of a turn begins and when its writes are done. A turn never waits for
//! anything; the one wait is in `poll`, until the earliest of all that has a time.

mod carrier;
mod client;
mod floor;
mod input;
mod load;
mod opening;
mod output;
mod publisher;
mod quic;
mod receiver;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver as Incoming, Sender};
use quelea_udp_io::{Backend, Doorbell, Ring, RingConfig};

use crate::clock::{Clock, Nanos, SECOND, thread_cpu};
use crate::errors::Errors;
use crate::plan::Plan;
use crate::record::{Latencies, Record, latencies};
use crate::shared::{Phase, Shared};
use crate::target::Carrier as Scheme;

pub(crate) use publisher::PublisherCounts;
pub(crate) use receiver::PathResult;

use floor::Floor;
use quic::QuicSide;

/// One second of one thread.
pub(crate) struct Second {
    /// Since the start of the load.
    pub(crate) number: u64,
    pub(crate) published: u64,
    pub(crate) confirmed: u64,
    pub(crate) received: u64,
    /// Of what arrived in it; to be handed back for use by a later second.
    pub(crate) delivery: Latencies,
}

/// What a thread has to say when it ends.
pub(crate) struct Outcome {
    pub(crate) record: Record,
    /// By publisher of this thread: its number and QoS.
    pub(crate) publishers: Vec<(u32, quelea_mqtt::QoS, PublisherCounts)>,
    /// By receiver of this thread: its number and its paths.
    pub(crate) receivers: Vec<(u32, Vec<PathResult>)>,
    pub(crate) links: Links,
    /// What the ring stood on.
    pub(crate) io: Backend,
    pub(crate) effort: Effort,
}

/// Connections of one thread, or of all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links {
    pub(crate) ready: u64,
    pub(crate) failed: u64,
    pub(crate) lost: u64,
    pub(crate) reconnected: u64,
    /// Messages that were none of this run's.
    pub(crate) foreign: u64,
    /// Messages that came before their time: sent by the clock of another machine.
    pub(crate) ahead: u64,
    /// Messages that a subscriber got although one more than its Receive Maximum was unacknowledged.
    pub(crate) excess: u64,
    /// Windows of `--rate max` that stalled for a second and were opened again.
    pub(crate) windows_forgiven: u64,
    /// Arrivals within the measured window, by the clock.
    pub(crate) arrived_in_window: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) errors: Errors,
}

impl Links {
    pub(crate) fn add(&mut self, other: &Self) {
        self.ready += other.ready;
        self.failed += other.failed;
        self.lost += other.lost;
        self.reconnected += other.reconnected;
        self.foreign += other.foreign;
        self.ahead += other.ahead;
        self.excess += other.excess;
        self.windows_forgiven += other.windows_forgiven;
        self.arrived_in_window += other.arrived_in_window;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.errors.add(&other.errors);
    }
}

/// What the thread itself spent within the measured window.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Effort {
    pub(crate) wall: Nanos,
    pub(crate) cpu: Nanos,
    /// Ready to run, but another had the core. `None` where the kernel does not say.
    pub(crate) waited: Option<Nanos>,
    /// Reads that filled the whole buffer: more was waiting.
    pub(crate) full_reads: u64,
    pub(crate) reads: u64,
    /// Datagrams that came in and went out.
    pub(crate) datagrams: u64,
    /// Datagrams that our own sockets and buffers had no room for, which QUIC then repeats.
    pub(crate) dropped: u64,
}

/// The ends of a thread's channels.
pub(crate) struct Lines {
    pub(crate) seconds: Sender<Second>,
    /// Histograms that have been read.
    pub(crate) emptied: Incoming<Latencies>,
}

/// A thread's ring, made before it starts so that errors are known and the bell is at hand.
pub(crate) struct Worker {
    ring: Ring,
    floor: Floor,
    lines: Lines,
    effort: EffortMeter,
}

/// Readings at the ends of the measured window.
#[derive(Default)]
struct EffortMeter {
    from: Option<Reading>,
    to: Option<Reading>,
}

#[derive(Clone, Copy)]
struct Reading {
    wall: Nanos,
    cpu: Nanos,
    waited: Option<Nanos>,
    reads: u64,
    full_reads: u64,
    datagrams: u64,
    dropped: u64,
}

impl Worker {
    /// Thread `index` of the plan, with its clients, none of them connected.
    ///
    /// # Errors
    /// The kernel's refusal of a ring.
    pub(crate) fn new(
        plan: &Arc<Plan>,
        shared: &Arc<Shared>,
        clock: Clock,
        index: usize,
        lines: Lines,
    ) -> io::Result<Self> {
        let mut floor = Floor::new(plan, shared, clock, index);
        let config = RingConfig {
            backend: plan.reach.io,
            doors_max: floor.clients.len() + DOORS_LINGERING_MAX,
            read_buffer_bytes: READ_BUFFER_BYTES,
            ..RingConfig::default()
        };
        let mut ring = Ring::new(&config)?;
        if plan.target().carrier == Scheme::Quic {
            floor.quic = Some(QuicSide::new(plan, floor.clients.len(), &mut ring)?);
        }
        Ok(Self { ring, floor, lines, effort: EffortMeter::default() })
    }

    pub(crate) fn doorbell(&self) -> Doorbell {
        self.ring.doorbell()
    }

    /// Runs until the coordinator says leave.
    ///
    /// # Errors
    /// Only those of a broken ring.
    pub(crate) fn run(mut self, ramp_at: Nanos) -> io::Result<Outcome> {
        // Without it the kernel lets every sleep of an ordinary thread last up to 50 µs longer.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        self.floor.begin_ramp(ramp_at);
        let mut leave_at = None;
        loop {
            let now = self.floor.clock.now();
            // What became due in the last turn is part of the last turn.
            let wake = self.floor.next_wake(now).max(now);
            let wait = Duration::from_nanos(wake.saturating_sub(now));
            self.floor.input_at = None;
            self.ring.poll(Some(wait), &mut self.floor)?;
            if self.floor.input_at.is_none() && self.floor.clock.now() > wake + OVERSLEPT {
                // The kernel tells of the time first. What is there by now has come while we were kept from waking.
                self.ring.poll(Some(Duration::ZERO), &mut self.floor)?;
            }
            self.floor.note_wake(wake);
            self.turn()?;
            if self.floor.phase == Phase::Leave {
                let leave_at = *leave_at.get_or_insert(now + FAREWELL);
                if self.floor.has_left() || now >= leave_at {
                    break;
                }
            }
        }
        Ok(self.finish())
    }

    fn turn(&mut self) -> io::Result<()> {
        let now = self.floor.clock.now();
        self.floor.follow_quic();
        self.floor.follow_phase(now);
        self.measure_effort(now);
        self.floor.open_due(now, &mut self.ring);
        self.floor.fire_timers(now);
        self.floor.publish_due(now);
        // A timer may have ended connections, and a write may free a publisher.
        self.floor.follow_quic();
        self.floor.write_dirty(&mut self.ring);
        self.floor.transmit(&mut self.ring)?;
        self.ring.flush()?;
        let done = self.floor.clock.now();
        self.floor.note_turn(done);
        self.tick(done);
        self.floor.publish_board();
        Ok(())
    }

    /// Hands a second that is over to the coordinator.
    fn tick(&mut self, now: Nanos) {
        let Some(number) = self.floor.second_over(now) else { return };
        let empty = self.lines.emptied.try_recv().unwrap_or_else(|_| latencies());
        let second = self.floor.take_second(number, empty);
        // A coordinator that is behind loses seconds of the series, never messages of the result.
        let _ = self.lines.seconds.try_send(second);
    }

    fn measure_effort(&mut self, now: Nanos) {
        if self.floor.phase < Phase::Run {
            return;
        }
        let window = self.floor.window;
        if self.effort.from.is_none() && now >= window.from {
            self.effort.from = Some(self.reading(now));
        }
        if self.effort.to.is_none() && now >= window.to {
            self.effort.to = Some(self.reading(now));
        }
    }

    fn reading(&self, wall: Nanos) -> Reading {
        let (counters, reads) = (self.ring.counters(), &self.floor.reads);
        Reading {
            wall,
            cpu: thread_cpu(),
            waited: runqueue_wait(),
            reads: reads.all,
            full_reads: reads.full,
            datagrams: counters.datagrams_in + counters.datagrams_out,
            dropped: counters.datagrams_overflowed
                + counters.dropped_arena_full
                + counters.dropped_no_buffers,
        }
    }

    fn finish(self) -> Outcome {
        let counters = self.ring.counters().clone();
        let mut outcome = self.floor.finish(self.ring.backend());
        outcome.links.bytes_in += counters.door_bytes_in + counters.datagram_bytes_in;
        outcome.links.bytes_out += counters.door_bytes_out + counters.datagram_bytes_out;
        if let (Some(from), Some(to)) = (self.effort.from, self.effort.to) {
            outcome.effort = Effort {
                wall: to.wall - from.wall,
                cpu: to.cpu - from.cpu,
                waited: to.waited.zip(from.waited).map(|(to, from)| to - from),
                reads: to.reads - from.reads,
                full_reads: to.full_reads - from.full_reads,
                datagrams: to.datagrams - from.datagrams,
                dropped: to.dropped - from.dropped,
            };
        }
        outcome
    }
}

/// How long this thread was ready to run without running (`/proc`, second field of `schedstat`).
fn runqueue_wait() -> Option<Nanos> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

/// Doors that are being closed while their client is connected again.
const DOORS_LINGERING_MAX: usize = 4096;
/// Timers are later than this only where a thread is not given its core.
const OVERSLEPT: Nanos = SECOND / 1000;
const READ_BUFFER_BYTES: usize = 64 << 10;
/// How long clients that have said goodbye wait for the broker to close.
const FAREWELL: Nanos = 2 * SECOND;
