//! What a wake costs: our own loop on io_uring and on epoll beside glommio, by CPU time of the serving thread.
//!
//! ```text
//!   client, core 1 ◄── loopback ──► server, core 0: our ring (io_uring, epoll) or glommio
//! ```
//!
//! * ping-pong: one datagram of 32 bytes there and back, one after the other: every round is a sleep and a wake;
//! * echo: 100 TCP connections with 64 bytes under way on each: the server is never idle for long;
//! * flood: bursts of 512 datagrams of 1,200 bytes from one ring to another on one thread, in trains (GSO, GRO) and
//!   singly; sending over loopback includes the kernel's receive path.
//!
//! Trials of all candidates are interleaved, so that what else the machine does falls on all alike; figures are medians.
//! `runtime [TRIALS] [--only ping-pong|echo|flood] [--datagram-buffers N]` prints a table and, as its last line,
//! everything as JSON.

mod echo;
mod flood;
mod ping_pong;

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::Duration;

use quelea_udp_io::{Backend, Choice, RingConfig};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Candidate {
    Ring(Backend),
    Glommio,
}

impl Candidate {
    fn name(self) -> String {
        match self {
            Candidate::Ring(backend) => format!("own loop, {backend}"),
            Candidate::Glommio => "glommio 0.9".to_owned(),
        }
    }
}

/// Said on the command line; otherwise the ring's default.
static DATAGRAM_BUFFERS: OnceLock<usize> = OnceLock::new();

/// The configuration of a ring that is measured.
fn ring_config(backend: Backend) -> RingConfig {
    let config = RingConfig { backend, ..RingConfig::default() };
    let datagram_buffers = DATAGRAM_BUFFERS.get().copied().unwrap_or(config.datagram_buffers);
    RingConfig { datagram_buffers, ..config }
}

/// CPU time that the calling thread has used.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("below a second"))
}

/// Keeps the calling thread on one core, where there are so many.
fn pin(core: usize) {
    if let Some(core) = core_affinity::get_core_ids().unwrap_or_default().get(core) {
        core_affinity::set_for_current(*core);
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// One row of the table and of the JSON.
struct Figure {
    of: &'static str,
    candidate: String,
    unit: &'static str,
    trials: Vec<f64>,
}

impl Figure {
    fn json(&self) -> Value {
        let median = median(&self.trials);
        json!({ "of": self.of, "candidate": self.candidate, "unit": self.unit, "median": median, "trials": self.trials })
    }

    fn line(&self) -> String {
        let mut line = format!("| {} | {} | {:.2} |", self.of, self.candidate, median(&self.trials));
        let sorted = |pick: fn(f64, f64) -> f64| self.trials.iter().copied().reduce(pick).unwrap_or_default();
        let _ = write!(line, " {:.2} to {:.2} | {} |", sorted(f64::min), sorted(f64::max), self.unit);
        line
    }
}

/// Runs `trial` for each candidate in turn, `trials` times over.
fn interleaved(
    of: &'static str,
    unit: &'static str,
    candidates: &[Candidate],
    trials: usize,
    trial: impl Fn(Candidate) -> f64,
) -> Vec<Figure> {
    let figure = |candidate: &Candidate| Figure { of, candidate: candidate.name(), unit, trials: Vec::new() };
    let mut figures: Vec<Figure> = candidates.iter().map(figure).collect();
    for _ in 0..trials {
        for (figure, candidate) in figures.iter_mut().zip(candidates) {
            figure.trials.push(trial(*candidate));
        }
    }
    figures
}

fn main() {
    let mut trials = 5;
    let mut only = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--only" => only = arguments.next(),
            "--datagram-buffers" => {
                let count = arguments.next().and_then(|count| count.parse().ok()).expect("a power of two");
                DATAGRAM_BUFFERS.set(count).expect("said once");
            }
            number => trials = number.parse().expect("TRIALS, or --only and a part"),
        }
    }
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let mut rings = vec![Candidate::Ring(Backend::Epoll)];
    match Choice::of(Backend::IoUring) {
        Ok(_) => rings.insert(0, Candidate::Ring(Backend::IoUring)),
        Err(error) => println!("{error}: left out"),
    }
    let mut all = rings.clone();
    if Choice::of(Backend::IoUring).is_ok() {
        all.push(Candidate::Glommio);
    }
    let mut figures = Vec::new();
    if wanted("ping-pong") {
        let unit = "µs of CPU per round";
        figures.extend(interleaved("UDP ping-pong", unit, &all, trials, ping_pong::trial));
    }
    if wanted("echo") {
        figures.extend(interleaved("TCP echo", "µs of CPU per echo", &all, trials, echo::trial));
    }
    if wanted("flood") {
        for part in flood::PARTS {
            let unit = "ns of CPU per datagram";
            let trial = |candidate| flood::trial(candidate, part);
            figures.extend(interleaved(part.name(), unit, &rings, trials, trial));
        }
    }
    println!("| what | who | median | range | unit |\n|---|---|---|---|---|");
    figures.iter().for_each(|figure| println!("{}", figure.line()));
    println!("{}", json!(figures.iter().map(Figure::json).collect::<Vec<_>>()));
}
