//! The coordinator: starts the threads, leads them through the phases, watches the brokers, and puts together what they found.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use quelea_mqtt::QoS;
use quelea_udp_io::{Backend, Doorbell};

use crate::clock::{Clock, Nanos, SECOND};
use crate::kernel::KernelMemory;
use crate::plan::{Plan, Shape};
use crate::progress::Progress;
use crate::record::{Latencies, Record};
use crate::series::Series;
use crate::shared::{Phase, Shared};
use crate::watched::{Usage, Watched};
use crate::worker::{Effort, Lines, Links, Outcome, PathResult, PublisherCounts, Second, Worker};

/// All that a run has found.
pub(crate) struct Findings {
    pub(crate) plan: Arc<Plan>,
    pub(crate) began: SystemTime,
    /// From the first connection to the last that became ready.
    pub(crate) ramp: Nanos,
    /// The measured window as it really was.
    pub(crate) measured: Nanos,
    /// How long late messages were awaited.
    pub(crate) drained: Nanos,
    pub(crate) interrupted: bool,
    /// Why there was no load at all.
    pub(crate) failure: Option<String>,
    pub(crate) record: Record,
    pub(crate) publishers: Vec<(u32, QoS, PublisherCounts)>,
    pub(crate) receivers: Vec<(u32, Vec<PathResult>)>,
    pub(crate) links: Links,
    /// By thread.
    pub(crate) efforts: Vec<Effort>,
    /// What each thread's ring stood on.
    pub(crate) backends: Vec<Backend>,
    pub(crate) series: Series,
    pub(crate) brokers: Vec<BrokerFindings>,
    /// The kernel's memory before the first connection and at the end of the measured window.
    pub(crate) kernel: (KernelMemory, KernelMemory),
}

/// One watched process.
pub(crate) struct BrokerFindings {
    pub(crate) watched: Watched,
    /// Before the first connection.
    pub(crate) before: Usage,
    /// At the ends of the measured window; `None` if the process was gone.
    pub(crate) from: Option<Usage>,
    pub(crate) to: Option<Usage>,
    /// Messages that arrived between those two readings.
    pub(crate) arrived: u64,
}

/// Runs the plan.
///
/// # Errors
/// What keeps it from beginning, in words for people.
pub(crate) fn run(plan: Plan, interrupted: &Arc<AtomicBool>) -> Result<Findings, String> {
    let watched = plan.pids.iter().map(|pid| Watched::new(*pid)).collect::<Result<Vec<_>, _>>()?;
    let mut brokers = Vec::new();
    for watched in watched {
        let before = watched.usage().map_err(|error| format!("--pid {}: {error}", watched.pid))?;
        brokers.push(BrokerFindings { watched, before, from: None, to: None, arrived: 0 });
    }
    let coordinator = Coordinator::start(Arc::new(plan), Arc::clone(interrupted), brokers)?;
    coordinator.lead()
}

struct Coordinator {
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    clock: Clock,
    interrupted: Arc<AtomicBool>,
    threads: Vec<JoinHandle<std::io::Result<Outcome>>>,
    bells: Vec<Doorbell>,
    seconds: Vec<Receiver<Second>>,
    emptied: Vec<Sender<Latencies>>,
    series: Series,
    progress: Progress,
    brokers: Vec<BrokerFindings>,
    kernel: (KernelMemory, KernelMemory),
    began: SystemTime,
    ramp_at: Nanos,
}

impl Coordinator {
    fn start(
        plan: Arc<Plan>,
        interrupted: Arc<AtomicBool>,
        brokers: Vec<BrokerFindings>,
    ) -> Result<Self, String> {
        let threads = usize::from(plan.reach.threads);
        let has_window = !plan.is_open_loop() && plan.load.window > 0 && plan.copies() > 0;
        let windows = if has_window { plan.publishers as usize } else { 0 };
        let shared = Arc::new(Shared::new(threads, windows));
        let clock = Clock::new();
        let mut started = Self {
            progress: Progress::new(&plan),
            series: Series::new(threads),
            shared,
            clock,
            interrupted,
            threads: Vec::new(),
            bells: Vec::new(),
            seconds: Vec::new(),
            emptied: Vec::new(),
            brokers,
            kernel: (KernelMemory::now(), KernelMemory::default()),
            began: SystemTime::now(),
            ramp_at: clock.now(),
            plan,
        };
        let workers = (0..threads).map(|index| started.worker(index)).collect::<Result<Vec<_>, _>>()?;
        warm_up_tls(&started.plan)?;
        started.ramp_at = clock.now() + LEAD;
        for (index, worker) in workers.into_iter().enumerate() {
            let ramp_at = started.ramp_at;
            let thread = std::thread::Builder::new().name(format!("load-{index}"));
            let handle = thread.spawn(move || worker.run(ramp_at));
            started.threads.push(handle.map_err(|error| format!("cannot start a thread: {error}"))?);
        }
        Ok(started)
    }

    fn worker(&mut self, index: usize) -> Result<Worker, String> {
        let (seconds_in, seconds_out) = bounded(SECONDS_QUEUED_MAX);
        let (emptied_in, emptied_out) = bounded(SECONDS_QUEUED_MAX);
        self.seconds.push(seconds_out);
        self.emptied.push(emptied_in);
        let lines = Lines { seconds: seconds_in, emptied: emptied_out };
        let worker = Worker::new(&self.plan, &self.shared, self.clock, index, lines)
            .map_err(|error| format!("cannot set up a thread's ring: {error}"))?;
        self.bells.push(worker.doorbell());
        Ok(worker)
    }

    fn lead(mut self) -> Result<Findings, String> {
        let failure = self.await_ramp();
        let ramp = self.clock.now().saturating_sub(self.ramp_at);
        let (mut measured, mut drained) = (0, 0);
        if failure.is_none() && !self.is_interrupted() {
            measured = self.load();
            let drain_at = self.clock.now();
            self.drain();
            drained = self.clock.now() - drain_at;
        }
        // A run that never began must not look as if it had all the time in the world.
        self.shared.cut_short(self.clock.now());
        self.enter(Phase::Leave);
        self.finish(Spans { ramp, measured, drained }, failure)
    }

    /// Waits until every client is ready or has failed. Returns why there can be no load.
    fn await_ramp(&mut self) -> Option<String> {
        let clients = u64::from(self.plan.clients());
        let ramp = (f64::from(self.plan.clients()) / self.plan.reach.connect_rate * SECOND as f64) as u64;
        let patience = ramp + crate::clock::nanos_of(self.plan.reach.connect_timeout) + RAMP_PATIENCE;
        loop {
            let ready = self.shared.sum(|board| &board.ready);
            let failed = self.shared.sum(|board| &board.failed);
            let over = self.clock.now().saturating_sub(self.ramp_at) > patience;
            if ready == clients || self.is_interrupted() {
                return None;
            }
            if ready + failed == clients || over || self.is_stopped() {
                let is_answer = self.plan.shape == Shape::Conn && ready > 0;
                let sentence = format!("{} of {clients} clients could not connect", clients - ready);
                return (!is_answer).then_some(sentence);
            }
            self.progress.ramp(ready, failed, clients);
            self.pause();
        }
    }

    /// Begins the load, and ends it when its time is over. Returns how long was measured.
    fn load(&mut self) -> Nanos {
        let start = self.clock.now() + LEAD;
        let from = start + self.plan.warm_up;
        let to = from + self.plan.duration;
        self.shared.run(start, from, to);
        self.ring_all();
        self.wait_until(from);
        self.read_brokers(|broker, usage, arrived| {
            broker.from = usage;
            broker.arrived = arrived;
        });
        self.wait_until(to);
        self.read_brokers(|broker, usage, arrived| {
            broker.to = usage;
            broker.arrived = arrived - broker.arrived;
        });
        self.kernel.1 = KernelMemory::now();
        let now = self.clock.now();
        if now < to {
            self.shared.cut_short(now);
        }
        now.min(to).saturating_sub(from)
    }

    /// Waits for what is late: until all that must arrive has, or the limit is reached.
    fn drain(&mut self) {
        self.enter(Phase::Drain);
        if matches!(self.plan.shape, Shape::Conn | Shape::Sub) {
            return;
        }
        let limit = self.clock.now() + self.plan.drain;
        let (mut arrived, mut quiet_since) = (0, self.clock.now());
        loop {
            let now = self.clock.now();
            let seen = self.shared.sum(|board| &board.arrived);
            if seen != arrived {
                (arrived, quiet_since) = (seen, now);
            }
            if self.has_all_come() {
                // Whatever comes now is a duplicate, and shall be counted.
                self.wait_until(now + SETTLE);
                return;
            }
            let is_lossy = self.plan.load.qos.iter().all(|qos| *qos == QoS::AtMostOnce);
            let is_quiet = is_lossy && !self.is_busy() && now - quiet_since > QUIET;
            if now >= limit || is_quiet || self.is_stopped() {
                return;
            }
            self.collect();
            std::thread::sleep(DRAIN_LOOK);
        }
    }

    fn is_busy(&self) -> bool {
        self.shared.sum(|board| &board.busy) > 0
    }

    fn has_all_come(&self) -> bool {
        let expected = self.shared.sum(|board| &board.confirmed) * u64::from(self.plan.copies());
        !self.is_busy() && self.shared.sum(|board| &board.received) >= expected
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// A thread that ended by itself has a broken ring, or has panicked.
    fn is_stopped(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    fn wait_until(&mut self, time: Nanos) {
        let was_interrupted = self.is_interrupted();
        while !self.is_stopped() && (was_interrupted || !self.is_interrupted()) {
            let now = self.clock.now();
            if now >= time {
                return;
            }
            self.collect();
            std::thread::sleep(LOOK.min(Duration::from_nanos(time - now)));
        }
    }

    fn pause(&mut self) {
        self.collect();
        std::thread::sleep(LOOK);
    }

    /// Takes the seconds that are over, and shows where the run is.
    fn collect(&mut self) {
        for (seconds, emptied) in self.seconds.iter().zip(&self.emptied) {
            while let Ok(mut second) = seconds.try_recv() {
                self.series.add(&second);
                second.delivery.reset();
                // A thread that has enough of them needs no more.
                let _ = emptied.try_send(second.delivery);
            }
        }
        if let Some(second) = self.series.newest_unseen() {
            self.progress.second(second, self.shared.sum(|board| &board.lost));
        }
    }

    fn read_brokers(&mut self, store: impl Fn(&mut BrokerFindings, Option<Usage>, u64)) {
        let arrived = self.shared.sum(|board| &board.arrived);
        for broker in &mut self.brokers {
            let usage = broker.watched.usage().ok();
            store(broker, usage, arrived);
        }
    }

    fn enter(&self, phase: Phase) {
        self.shared.enter(phase);
        self.ring_all();
    }

    fn ring_all(&self) {
        self.bells.iter().for_each(Doorbell::ring);
    }

    fn finish(mut self, spans: Spans, failure: Option<String>) -> Result<Findings, String> {
        let interrupted = self.is_interrupted();
        let mut findings = Findings {
            plan: Arc::clone(&self.plan),
            began: self.began,
            ramp: spans.ramp,
            measured: spans.measured,
            drained: spans.drained,
            interrupted,
            failure,
            record: Record::new(),
            publishers: Vec::new(),
            receivers: Vec::new(),
            links: Links::default(),
            efforts: Vec::new(),
            backends: Vec::new(),
            series: Series::new(0),
            brokers: Vec::new(),
            kernel: self.kernel,
        };
        for thread in std::mem::take(&mut self.threads) {
            let outcome = thread.join().map_err(|_| "a thread of the load panicked".to_owned())?;
            findings.add(outcome.map_err(|error| format!("a thread's ring broke: {error}"))?);
        }
        self.collect();
        self.progress.end();
        self.series.finish();
        findings.publishers.sort_unstable_by_key(|(number, ..)| *number);
        findings.receivers.sort_unstable_by_key(|(number, _)| *number);
        findings.series = self.series;
        findings.brokers = self.brokers;
        Ok(findings)
    }
}

/// The first random number of a process costs the TLS library a tenth of a second or two, for entropy: not at the expense of the
/// first connection.
fn warm_up_tls(plan: &Plan) -> Result<(), String> {
    let Some(config) = &plan.tls else { return Ok(()) };
    let filled = config.crypto_provider().secure_random.fill(&mut [0; 32]);
    filled.map_err(|_| "the TLS library has no random numbers".to_owned())
}

/// How long the phases took.
#[derive(Clone, Copy)]
struct Spans {
    ramp: Nanos,
    measured: Nanos,
    drained: Nanos,
}

impl Findings {
    fn add(&mut self, outcome: Outcome) {
        self.record.merge(&outcome.record);
        self.publishers.extend(outcome.publishers);
        self.receivers.extend(outcome.receivers);
        self.links.add(&outcome.links);
        self.efforts.push(outcome.effort);
        self.backends.push(outcome.io);
    }
}

/// Seconds that wait for the coordinator, per thread.
const SECONDS_QUEUED_MAX: usize = 4;
/// How often the coordinator looks up.
const LOOK: Duration = Duration::from_millis(50);
const DRAIN_LOOK: Duration = Duration::from_millis(5);
/// Between the order to begin and the first message: every thread has heard it by then.
const LEAD: Nanos = SECOND / 20;
/// How long duplicates are awaited when everything has come.
const SETTLE: Nanos = SECOND / 5;
/// At QoS 0 nothing comes any more after so long a silence.
const QUIET: Nanos = 2 * SECOND;
/// Beyond the time of the ramp itself and one connection's.
const RAMP_PATIENCE: Nanos = 5 * SECOND;
