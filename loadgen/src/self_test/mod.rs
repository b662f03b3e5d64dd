//! `self-test`: what the generator can do, and what it adds, where there is no broker at all.
//!
//! ```text
//!   for each back end:   paced pair  ─▶ latency floor, timer lateness        generator ◀──▶ mirror, over loopback TCP
//!                        rate max    ─▶ messages per second, own CPU of each
//! ```
//! Each row is a run as a user could type it, against the [`mirror`] instead of a broker. What a broker shows beyond the floor is the
//! broker's; a rate near the ceiling is the generator's.

mod mirror;
mod table;

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use quelea_udp_io::{Backend, Choice};
use serde::Serialize;

use crate::bottleneck::Cause;
use crate::cli::{Arguments, Command, SelfTestArguments};
use crate::payload::PAYLOAD_BYTES_MIN;
use crate::plan::Plan;
use crate::refusal::Refusal;
use crate::report::{HistogramReport, Report, json};
use crate::run;
use crate::schedule::Rate;

/// What the mirror takes.
const PAYLOAD_BYTES_MAX: usize = 64 << 10;

/// Of the JSON document.
const SCHEMA_VERSION: u32 = 1;

/// What was found. The field names are those of the JSON document.
#[derive(Debug, Serialize)]
pub(crate) struct SelfTest {
    version: u32,
    tool: &'static str,
    tool_version: &'static str,
    payload_bytes: usize,
    /// Ended early by a signal: rows are missing.
    interrupted: bool,
    rows: Vec<Row>,
}

/// One run against the mirror.
#[derive(Debug, Serialize)]
struct Row {
    /// `epoll` or `io_uring`.
    io: String,
    /// `floor` (paced) or `ceiling`.
    kind: &'static str,
    /// `pub` or `pair`.
    shape: &'static str,
    qos: u8,
    /// What was run, without the address.
    command: String,
    /// Messages that went through: that arrived, or, where nobody listens, that were sent.
    per_s: f64,
    /// Of a core, 0 to 1.
    cpu: f64,
    cpu_us_per_message: Option<f64>,
    /// Of the time, ready to run while another had the core.
    waited: f64,
    /// From the intended time to arrival; of paced rows.
    delivery: Option<HistogramReport>,
    /// From the intended time to the write: how late the timers were; of paced rows.
    lag: Option<HistogramReport>,
    /// Of paced rows: why figures of this machine, as it is now, are not to be trusted.
    bottleneck_causes: Vec<Cause>,
    /// Why the run is not good; empty if it is.
    reasons: Vec<String>,
}

/// One kind of row.
struct Measurement {
    kind: &'static str,
    shape: &'static str,
    qos: u8,
    options: &'static str,
}

const MEASUREMENTS: [Measurement; 5] = [
    Measurement { kind: FLOOR, shape: "pair", qos: 0, options: "" },
    Measurement { kind: FLOOR, shape: "pair", qos: 1, options: "" },
    Measurement { kind: CEILING, shape: "pub", qos: 0, options: "--rate max --window 0" },
    Measurement { kind: CEILING, shape: "pair", qos: 0, options: "--rate max --window 1000" },
    Measurement { kind: CEILING, shape: "pair", qos: 1, options: "--rate max --in-flight 1000" },
];
const FLOOR: &str = "floor";
const CEILING: &str = "ceiling";

impl SelfTest {
    /// Runs all rows, one after the other.
    ///
    /// # Errors
    /// What keeps it from being done.
    pub(crate) fn run(typed: &SelfTestArguments, interrupted: &Arc<AtomicBool>) -> Result<Self, Refusal> {
        if !(PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&typed.payload) {
            let why = format!("--payload: expected {PAYLOAD_BYTES_MIN} to {PAYLOAD_BYTES_MAX} bytes");
            return Err(Refusal::Usage(why));
        }
        let Rate::Fixed { milli_per_s } = typed.rate else {
            let why = "--rate: the paced rows need a number; the others are as fast as it goes";
            return Err(Refusal::Usage(why.into()));
        };
        let mut rows = Vec::new();
        for io in backends(typed.io).map_err(Refusal::Failure)? {
            for measurement in &MEASUREMENTS {
                if interrupted.load(Ordering::Relaxed) {
                    break;
                }
                let pace = match measurement.kind {
                    FLOOR => format!("--rate {}", milli_per_s as f64 / 1e3),
                    _ => String::new(),
                };
                rows.push(measurement.run(typed, io, &pace, interrupted).map_err(Refusal::Failure)?);
            }
        }
        Ok(Self {
            version: SCHEMA_VERSION,
            tool: env!("CARGO_PKG_NAME"),
            tool_version: env!("CARGO_PKG_VERSION"),
            payload_bytes: typed.payload,
            interrupted: interrupted.load(Ordering::Relaxed),
            rows,
        })
    }

    /// Whether every run was good. What the machine did to the figures is no failure: it is what the test is to find out.
    pub(crate) fn is_ok(&self) -> bool {
        self.rows.iter().all(|row| row.reasons.is_empty())
    }

    /// Writes the table, the document, or both.
    ///
    /// # Errors
    /// What keeps it from being written.
    pub(crate) fn show(&self, path: Option<&Path>) -> Result<(), String> {
        if let Some(path) = path {
            let failed = |error: std::io::Error| format!("--json {}: {error}", path.display());
            let mut text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
            text.push(b'\n');
            if json::is_stdout(path) {
                return std::io::stdout().lock().write_all(&text).map_err(failed);
            }
            File::create(path).and_then(|mut file| file.write_all(&text)).map_err(failed)?;
        }
        let text = table::render(self);
        std::io::stdout().lock().write_all(text.as_bytes()).map_err(|error| format!("cannot write: {error}"))
    }
}

/// The back ends to test: all that work here, or the one that was asked for.
fn backends(wanted: Backend) -> Result<Vec<Backend>, String> {
    if wanted != Backend::Auto {
        Choice::of(wanted).map_err(|error| error.to_string())?;
        return Ok(vec![wanted]);
    }
    let io_uring = Choice::of(Backend::IoUring).ok().map(|choice| choice.backend);
    Ok([Backend::Epoll].into_iter().chain(io_uring).collect())
}

impl Measurement {
    fn run(
        &self,
        typed: &SelfTestArguments,
        io: Backend,
        pace: &str,
        interrupted: &Arc<AtomicBool>,
    ) -> Result<Row, String> {
        let connections = if self.shape == "pair" { 2 } else { 1 };
        let address = mirror::start(connections).map_err(|error| format!("cannot listen: {error}"))?;
        let command = format!(
            "{} --io {io} --qos {} --payload {} --duration {}ms --warm-up {WARM_UP} {pace} {}",
            self.shape,
            self.qos,
            typed.payload,
            typed.duration.as_millis(),
            self.options,
        );
        let findings = run::run(plan(&command, address)?, interrupted)?;
        let report = Report::new(&findings);
        let is_paced = self.kind == FLOOR;
        let per_s =
            if self.shape == "pub" { report.window.published_per_s } else { report.window.arrived_per_s };
        let cpu = report.generator.threads.iter().map(|thread| thread.cpu).sum::<f64>();
        Ok(Row {
            io: io.to_string(),
            kind: self.kind,
            shape: self.shape,
            qos: self.qos,
            command,
            per_s,
            cpu,
            cpu_us_per_message: (per_s > 0.0).then(|| cpu * 1e6 / per_s),
            waited: report.generator.threads.iter().filter_map(|thread| thread.waited).sum(),
            delivery: report.latency.delivery.into_iter().next().map(|of| of.histogram).filter(|_| is_paced),
            lag: is_paced.then_some(report.generator.lag),
            bottleneck_causes: if is_paced { report.bottleneck_causes } else { Vec::new() },
            reasons: report.outcome.reasons,
        })
    }
}

fn plan(command: &str, address: SocketAddr) -> Result<Plan, String> {
    let url = format!("mqtt://{address}");
    let words = ["quelea-load"].into_iter().chain(command.split_whitespace());
    // The mirror serves one client of each kind, which has nothing to be kept alive for.
    let words = words.chain([url.as_str(), "--quiet", "--keep-alive", "0", "--drain", "2s"]);
    match Arguments::try_parse_from(words).map_err(|error| error.to_string())?.command {
        Command::Run(run) => Plan::new(*run).map_err(|refusal| refusal.to_string()),
        Command::SelfTest(_) => Err("a self-test of a self-test".into()),
    }
}

const WARM_UP: &str = "300ms";
