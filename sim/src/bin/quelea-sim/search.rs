//! Many runs: counted, paced, hashed; the first that fails ends the search and is shrunk.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use quelea_sim::{Failure, Play, Report, shrink};

use crate::request::{Request, Task};
use crate::{Broker, wall_clock};

type Outcome = Result<Report, Failure>;

/// Plays what is asked for. The last line of a search without failure is the hash of all runs.
pub(crate) fn search(request: &Request, broker: Broker) -> ExitCode {
    let mut search = Search::new(request.runs_per_seed());
    let mut failed = None;
    in_order(request, broker, |number, play, outcome| {
        match outcome {
            Ok(report) => search.add(&report),
            Err(failure) => {
                failed = Some((play, failure));
                return ControlFlow::Break(());
            }
        }
        let whole = (number + 1).is_multiple_of(search.runs_per_seed);
        if whole {
            search.next = play.seed + 1;
            search.show_progress(request);
        }
        match request.task {
            Task::Soak(time) if whole && search.began.elapsed() >= time => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    if let Some((play, failure)) = failed {
        report_failure(play, failure, request, broker);
        return ExitCode::FAILURE;
    }
    println!("all promises kept: {}, {} events", search.pace(), search.events);
    if let Task::Soak(_) = request.task {
        println!("go on with {}", search.go_on(request));
    }
    println!("hash of all runs: {:016x}", search.hash);
    ExitCode::SUCCESS
}

/// Plays on as many threads as there are jobs, each its share of the runs in turn, and hands out the outcomes in the order
/// of the runs: what is seen does not depend on the number of threads.
fn in_order(request: &Request, broker: Broker, mut see: impl FnMut(u64, Play, Outcome) -> ControlFlow<()>) {
    let jobs = request.jobs;
    thread::scope(|scope| {
        let lane = |job: usize| -> Receiver<(Play, Outcome)> {
            let (outcomes, lane) = sync_channel(RUNS_AHEAD_MAX);
            scope.spawn(move || {
                for number in (job as u64..).step_by(jobs) {
                    let Some(play) = request.play(number) else { return };
                    // Nobody listens once the search has ended.
                    if outcomes.send((play, broker.run(play))).is_err() {
                        return;
                    }
                }
            });
            lane
        };
        let lanes: Vec<_> = (0..jobs).map(lane).collect();
        for number in 0.. {
            let Ok((play, outcome)) = lanes[(number % jobs as u64) as usize].recv() else { return };
            if see(number, play, outcome).is_break() {
                return;
            }
        }
    });
}

fn report_failure(play: Play, failure: Failure, request: &Request, broker: Broker) {
    println!("profile {}, seed {}: {}", play.profile.name(), play.seed, failure.what);
    println!("replay: quelea-sim {play}{}", request.mutant_option());
    // Each attempt that fails by an assertion would say where.
    std::panic::set_hook(Box::new(|_| {}));
    let (mut tries, mut shown) = (0, wall_clock());
    let shrunk = shrink(play, failure, SHRINK_TRIES_MAX, |smaller| {
        tries += 1;
        if shown.elapsed() > SHOW {
            shown = wall_clock();
            eprintln!("shrinking: attempt {tries} of at most {SHRINK_TRIES_MAX}:{}", smaller.cuts);
        }
        broker.run(smaller).err()
    });
    if shrunk.play == play {
        println!("nothing smaller fails in the same way ({} attempts)", shrunk.tries);
        return;
    }
    println!("shrunk in {} attempts: {}", shrunk.tries, shrunk.failure.what);
    println!("replay: quelea-sim {}{}", shrunk.play, request.mutant_option());
}

/// What a search has done so far.
struct Search {
    began: Instant,
    shown: Instant,
    /// The first seed that was not played in all its profiles.
    next: u64,
    runs: u64,
    runs_per_seed: u64,
    virtual_time: Duration,
    events: u64,
    hash: u64,
}

impl Search {
    fn new(runs_per_seed: u64) -> Self {
        let now = wall_clock();
        Self {
            began: now,
            shown: now,
            next: 0,
            runs: 0,
            runs_per_seed,
            virtual_time: Duration::ZERO,
            events: 0,
            hash: 0,
        }
    }

    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.virtual_time += report.virtual_time;
        self.events += report.events;
        self.hash = (self.hash.rotate_left(5) ^ report.hash).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    }

    fn show_progress(&mut self, request: &Request) {
        if self.shown.elapsed() > SHOW {
            self.shown = wall_clock();
            eprintln!("seed {}: {} (go on with {})", self.next - 1, self.pace(), self.go_on(request));
        }
    }

    /// The command that plays what is left.
    fn go_on(&self, request: &Request) -> String {
        let (next, options) = (self.next, request.options());
        match request.task {
            Task::Search { end } => format!("--seeds {next}..{end}{options}"),
            Task::Soak(time) => format!("--soak {}s --from {next}{options}", time.as_secs()),
            Task::Tell | Task::Mutants | Task::Help => unreachable!("these are no searches"),
        }
    }

    fn pace(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64().max(1e-9);
        let hours = self.virtual_time.as_secs_f64() / 3_600.0;
        let seeds = self.runs as f64 / self.runs_per_seed as f64;
        format!(
            "{} runs, {:.1} seeds per second, {hours:.1} virtual hours, {:.4} per second",
            self.runs,
            seeds / seconds,
            hours / seconds
        )
    }
}

/// Outcomes of one thread that wait to be seen, while another thread plays a run that takes longer.
const RUNS_AHEAD_MAX: usize = 64;

/// Between two lines of progress.
const SHOW: Duration = Duration::from_secs(5);

/// Enough for some rounds over all cuts; at twenty runs per second, half a minute.
pub(crate) const SHRINK_TRIES_MAX: u32 = 500;
