//! The `quelea-load` binary: open-loop load for MQTT brokers.
//!
//! ```text
//!   arguments ─▶ Plan ─▶ Coordinator ──┬── thread 0: ring, clients, schedules, books, histograms
//!                             │        └── thread 1: …
//!                             ▼
//!                          Findings ─▶ Report ─▶ table, JSON, exit code
//! ```
//! Each thread owns its connections and all that is measured on them; threads share counters to look at ([`shared`]) and
//! nothing else. What is measured, and how, is written in `docs/load-generator.md`.

#![forbid(unsafe_code)]

mod book;
mod bottleneck;
mod cli;
mod clock;
mod errors;
mod kernel;
mod payload;
mod plan;
mod progress;
mod record;
mod refusal;
mod report;
mod run;
mod schedule;
mod self_test;
mod series;
mod shared;
mod sources;
mod target;
mod text;
mod tls;
mod units;
mod watched;
mod worker;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::{Arguments, Command, Run, SelfTestArguments};
use crate::plan::Plan;
use crate::refusal::Refusal;
use crate::report::Report;
use crate::self_test::SelfTest;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As shells say it of a process that a signal has ended.
const INTERRUPTED_AGAIN: i32 = 130;

fn main() -> ExitCode {
    let interrupted = match catch_signals() {
        Ok(interrupted) => interrupted,
        Err(error) => return refuse(&Refusal::Failure(format!("cannot catch signals: {error}"))),
    };
    let done = match Arguments::parse().command {
        Command::Run(run) => load(*run, &interrupted),
        Command::SelfTest(typed) => test_ourselves(&typed, &interrupted),
    };
    done.unwrap_or_else(|refusal| refuse(&refusal))
}

fn load(typed: Run, interrupted: &Arc<AtomicBool>) -> Result<ExitCode, Refusal> {
    let plan = Plan::new(typed)?;
    allow_descriptors(&plan)?;
    let findings = run::run(plan, interrupted).map_err(Refusal::Failure)?;
    let report = Report::new(&findings);
    show(&report, &findings.plan).map_err(Refusal::Failure)?;
    Ok(ExitCode::from(report.outcome.exit_code))
}

fn test_ourselves(typed: &SelfTestArguments, interrupted: &Arc<AtomicBool>) -> Result<ExitCode, Refusal> {
    let test = SelfTest::run(typed, interrupted)?;
    test.show(typed.json.as_deref()).map_err(Refusal::Failure)?;
    Ok(ExitCode::from(if test.is_ok() { 0 } else { refusal::FAILED }))
}

/// Writes the table, the document, or both; the warning goes to standard error where the table does not. A document that cannot be
/// written costs nobody the table.
fn show(report: &Report, plan: &Plan) -> Result<(), String> {
    let document = plan.json.as_deref().map_or(Ok(()), |path| {
        report::json::write(report, path).map_err(|error| format!("--json {}: {error}", path.display()))
    });
    if plan.json.as_deref().is_some_and(report::json::is_stdout) {
        report::table::banner(report).iter().for_each(|banner| eprintln!("{banner}"));
        return document;
    }
    let stdout = std::io::stdout();
    let text = report::table::render(report, text::has_colours(stdout.is_terminal()));
    let table = stdout.lock().write_all(text.as_bytes());
    document.and(table.map_err(|error| format!("cannot write the report: {error}")))
}

/// The first signal ends the run early, the second one at once.
fn catch_signals() -> std::io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(
            signal,
            INTERRUPTED_AGAIN,
            Arc::clone(&interrupted),
        )?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

/// Raises the limit of open files as far as we may, and refuses what cannot fit.
fn allow_descriptors(plan: &Plan) -> Result<(), Refusal> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What was refused shows in the next look.
    let _ = setrlimit(Resource::Nofile, limit);
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let needed = plan.descriptors();
    if needed > allowed {
        return Err(Refusal::Failure(format!(
            "{needed} open files are needed, {allowed} are allowed: raise the limit (ulimit -n)"
        )));
    }
    Ok(())
}

fn refuse(refusal: &Refusal) -> ExitCode {
    eprintln!("quelea-load: {refusal}");
    refusal.exit_code()
}
