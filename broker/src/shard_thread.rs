//! The threads: one per shard, pinned to a core of its own where that is possible, turning until told to stop.
//!
//! ```text
//!   ShardThreads ──orders, bell──► thread 0: Turn::run ─► publish counters ─► drained? stop? ─┐
//!        │                              ▲─────────────────────────────────────────────────────┘
//!        └────────orders, bell──► thread 1: …
//! ```
//! A shard that panics has broken an assertion of ours: its sessions cannot be trusted and its neighbours would wait
//! for it for ever, so the process is stopped.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use quelea_router::SleepFlags;
use quelea_shard::door::{DoorKind, DoorKindId};
use quelea_shard::turn::Turn;
use quelea_shard::{Entrance, Settings, Shard, ShardParts};
use quelea_udp_io::Doorbell;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::admin::Board;
use crate::driver::{DriverParts, RingDriver, ShardOrder};
use crate::figures;

/// What one thread is made of.
pub(crate) struct ThreadParts {
    pub(crate) settings: Settings,
    pub(crate) shard: ShardParts,
    /// What is spoken on each listener for byte streams.
    pub(crate) kinds: Vec<DoorKind>,
    pub(crate) names: Names,
    pub(crate) driver: DriverParts,
    pub(crate) sleep: SleepFlags,
    pub(crate) board: Arc<Board>,
    /// The core to stay on.
    pub(crate) core: Option<usize>,
}

/// What the log calls the listeners, in the order in which the shard has them.
#[derive(Clone)]
pub(crate) struct Names {
    pub(crate) quic: Arc<[String]>,
    pub(crate) doors: Arc<[String]>,
}

/// The running threads. Dropping them ends them at once.
pub(crate) struct ShardThreads {
    handles: Vec<ShardHandle>,
}

struct ShardHandle {
    line: Line,
    thread: Option<JoinHandle<()>>,
}

/// The way to tell a shard something, from any thread.
#[derive(Clone)]
struct Line {
    orders: Sender<ShardOrder>,
    bell: Doorbell,
}

/// Orders that may wait for one shard; it takes them at every wake.
const ORDERS_MAX: usize = 16;

/// A shard looks at its orders within a turn. One that does not for so long is stuck, and the health check says so.
const ORDER_TIMEOUT: Duration = Duration::from_secs(5);

/// A reader of the counters waits so long for those of this moment: hundreds of turns of a busy shard.
const PUBLISH_TIMEOUT: Duration = Duration::from_millis(250);

/// Time between two publications of the counters that nobody asks for: they are the shard's heartbeat.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two looks at who was refused: each shard writes at most two lines in it, one for byte streams and one for
/// QUIC. The counters tell how many there were.
const REFUSALS_INTERVAL: Duration = Duration::from_secs(1);

/// Letters of a reason that are written; where a client has given it, it may be as long as a packet.
const REASON_CHARS_MAX: usize = 200;

/// The channel by which a shard gets its orders.
pub(crate) fn order_channel() -> (Sender<ShardOrder>, Receiver<ShardOrder>) {
    bounded(ORDERS_MAX)
}

impl ShardThreads {
    pub(crate) fn new() -> Self {
        Self { handles: Vec::new() }
    }

    /// Starts the next shard's thread.
    pub(crate) fn spawn(&mut self, orders: Sender<ShardOrder>, parts: ThreadParts) -> io::Result<()> {
        let index = parts.shard.id.index();
        let bell = parts.driver.bells[index].clone();
        let run = move || {
            let _guard = StopProcess;
            ShardThread::new(parts).run();
        };
        let thread = std::thread::Builder::new().name(format!("quelea-{index}")).spawn(run)?;
        self.handles.push(ShardHandle { line: Line { orders, bell }, thread: Some(thread) });
        Ok(())
    }

    /// What has every shard publish its counters, and waits until they have. A shard that is stuck, or has more orders
    /// waiting than it takes, keeps nobody: what it has published last stays.
    pub(crate) fn publisher(&self) -> impl Fn() + Send + Sync + use<> {
        let lines: Vec<Line> = self.handles.iter().map(|handle| handle.line.clone()).collect();
        move || {
            let (done, all) = bounded(lines.len());
            let told = lines.iter().filter(|line| line.try_tell(ShardOrder::Publish(done.clone()))).count();
            wait_for(&all, told, Instant::now() + PUBLISH_TIMEOUT);
        }
    }

    /// Sends the clients away and waits until they have gone, or the deadline has passed and they are cut off.
    pub(crate) fn drain(&self, deadline: Instant) {
        let (done, all) = bounded(self.handles.len());
        let told = self.tell(|| ShardOrder::Drain { deadline, done: done.clone() });
        wait_for(&all, told, deadline + ORDER_TIMEOUT);
    }

    /// Tells every shard; returns how many could be told.
    fn tell(&self, order: impl Fn() -> ShardOrder) -> usize {
        let told = self.handles.iter().filter(|handle| handle.line.tell(order()));
        told.count()
    }
}

/// The order first, the bell second: who hears the bell finds the order.
impl Line {
    fn tell(&self, order: ShardOrder) -> bool {
        let sent = self.orders.send_timeout(order, ORDER_TIMEOUT).is_ok();
        self.bell.ring();
        sent
    }

    fn try_tell(&self, order: ShardOrder) -> bool {
        let sent = self.orders.try_send(order).is_ok();
        self.bell.ring();
        sent
    }
}

impl Drop for ShardThreads {
    fn drop(&mut self) {
        self.tell(|| ShardOrder::Stop);
        for handle in &mut self.handles {
            if let Some(thread) = handle.thread.take() {
                // A thread that panicked has ended the process.
                let _ = thread.join();
            }
        }
    }
}

fn wait_for(answers: &Receiver<()>, count: usize, deadline: Instant) {
    for _ in 0..count {
        if answers.recv_deadline(deadline).is_err() {
            return;
        }
    }
}

struct ShardThread {
    shard: Shard,
    driver: RingDriver,
    sleep: SleepFlags,
    board: Arc<Board>,
    values: Vec<u64>,
    /// What the shard calls the listeners for byte streams.
    kinds: Vec<DoorKindId>,
    names: Names,
    refusals_at: Instant,
}

impl ShardThread {
    /// Made on its own thread, so that the shard's memory lies near its core.
    fn new(parts: ThreadParts) -> Self {
        if let Some(core) = parts.core {
            pin(core);
        }
        let mut shard = Shard::new(parts.settings, parts.shard);
        let kinds: Vec<DoorKindId> = parts.kinds.into_iter().map(|kind| shard.add_door_kind(kind)).collect();
        let now = Instant::now();
        Self {
            shard,
            driver: RingDriver::new(parts.driver, kinds.clone(), now),
            kinds,
            names: parts.names,
            refusals_at: now,
            sleep: parts.sleep,
            board: parts.board,
            values: Vec::new(),
        }
    }

    fn run(mut self) {
        let mut turn = Turn::new();
        while !self.driver.asked.stop {
            turn.run(&mut self.shard, &mut self.driver, &self.sleep);
            self.after_turn();
        }
        self.publish(Instant::now());
    }

    fn after_turn(&mut self) {
        let now = Instant::now();
        if now >= self.refusals_at {
            self.tell_refusals(now);
        }
        if now >= self.driver.awake_by || !self.driver.asked.published.is_empty() {
            self.publish(now);
        }
        for done in self.driver.asked.published.drain(..) {
            // Who asked may have given up.
            let _ = done.send(());
        }
        // A drained shard keeps turning until all are: the others may still need its part of the routes.
        if self.driver.asked.drained.is_some() && self.shard.is_drained() {
            let done = self.driver.asked.drained.take().expect("just seen");
            let _ = done.send(());
        }
    }

    /// Writes down who was not let in, and why: the first since the last line of its kind.
    fn tell_refusals(&mut self, now: Instant) {
        while let Some(refusal) = self.shard.take_refusal() {
            self.refusals_at = now + REFUSALS_INTERVAL;
            let name = match refusal.entrance {
                Entrance::Quic(listener) => self.names.quic.get(listener.index()),
                Entrance::Door(kind) => {
                    self.kinds.iter().position(|known| *known == kind).and_then(|at| self.names.doors.get(at))
                }
            };
            let why = readable(&refusal.why);
            let (peer, others) = (refusal.peer, refusal.others);
            tracing::info!(listener = name, %peer, why, others, "a client was refused");
        }
    }

    fn publish(&mut self, now: Instant) {
        figures::read(&mut self.shard, self.driver.ring(), &mut self.values);
        self.board.publish(self.shard.id().index(), now, &self.values);
        self.driver.awake_by = now + PUBLISH_INTERVAL;
    }
}

/// One line of bounded length, whatever a client has put into it.
fn readable(reason: &str) -> String {
    let letters = reason.chars().take(REASON_CHARS_MAX);
    letters.map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter }).collect()
}

/// Ends the process when a shard panics; the message has been printed by then.
struct StopProcess;

impl Drop for StopProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a shard has broken an assertion: stopping");
            std::process::abort();
        }
    }
}

/// A core for each of `shards` shards; none where there are too few, or where a quota of processor time rather than a
/// set of cores limits the process: then the cores are shared with others, and the scheduler knows better.
pub(crate) fn cores_for(shards: usize) -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(None) else { return Vec::new() };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    let usable = std::thread::available_parallelism().map_or(0, usize::from);
    if shards <= cores.len() && usable >= cores.len() { cores } else { Vec::new() }
}

fn pin(core: usize) {
    let mut only = CpuSet::new();
    only.set(core);
    if let Err(error) = sched_setaffinity(None, &only) {
        tracing::warn!(core, %error, "a shard is not pinned to its core");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        assert_eq!(readable("peer sent no certificates"), "peer sent no certificates");
        assert_eq!(readable("a\nb\x1b[1m"), "a\u{fffd}b\u{fffd}[1m");
        assert_eq!(readable(&"é".repeat(1_000)).chars().count(), REASON_CHARS_MAX);
    }
}
