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
use crate::report::Report;
use crate::self_test::SelfTest;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FAILED: u8 = 1;
const REFUSED: u8 = 2;
/// As shells say it of a process that a signal has ended.
const INTERRUPTED_AGAIN: i32 = 130;

fn main() -> ExitCode {
    let interrupted = match catch_signals() {
        Ok(interrupted) => interrupted,
        Err(error) => return refuse(&format!("cannot catch signals: {error}"), FAILED),
    };
    match Arguments::parse().command {
        Command::Run(run) => load(*run, &interrupted),
        Command::SelfTest(typed) => test_ourselves(&typed, &interrupted),
    }
}

fn load(typed: Run, interrupted: &Arc<AtomicBool>) -> ExitCode {
    let plan = match Plan::new(typed) {
        Ok(plan) => plan,
        Err(error) => return refuse(&error, REFUSED),
    };
    if let Err(error) = allow_descriptors(&plan) {
        return refuse(&error, REFUSED);
    }
    let findings = match run::run(plan, interrupted) {
        Ok(findings) => findings,
        Err(error) => return refuse(&error, FAILED),
    };
    let report = Report::new(&findings);
    match show(&report, &findings.plan) {
        Ok(()) => ExitCode::from(report.outcome.exit_code),
        Err(error) => refuse(&error, FAILED),
    }
}

fn test_ourselves(typed: &SelfTestArguments, interrupted: &Arc<AtomicBool>) -> ExitCode {
    let test = match SelfTest::run(typed, interrupted) {
        Ok(test) => test,
        Err(error) => return refuse(&error, REFUSED),
    };
    match test.show(typed.json.as_deref()) {
        Ok(()) => ExitCode::from(if test.is_ok() { 0 } else { FAILED }),
        Err(error) => refuse(&error, FAILED),
    }
}

/// Writes the table, the document, or both; the warning goes to standard error where the table does not.
fn show(report: &Report, plan: &Plan) -> Result<(), String> {
    let to_stdout = plan.json.as_deref().is_some_and(report::json::is_stdout);
    if let Some(path) = &plan.json {
        report::json::write(report, path).map_err(|error| format!("--json {}: {error}", path.display()))?;
    }
    if to_stdout {
        report::table::banner(report).iter().for_each(|banner| eprintln!("{banner}"));
        return Ok(());
    }
    let stdout = std::io::stdout();
    let text = report::table::render(report, text::has_colours(stdout.is_terminal()));
    stdout.lock().write_all(text.as_bytes()).map_err(|error| format!("cannot write the report: {error}"))
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
fn allow_descriptors(plan: &Plan) -> Result<(), String> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What was refused shows in the next look.
    let _ = setrlimit(Resource::Nofile, limit);
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let needed = plan.descriptors();
    if needed > allowed {
        return Err(format!(
            "{needed} open files are needed, {allowed} are allowed: raise the limit (ulimit -n)"
        ));
    }
    Ok(())
}

fn refuse(why: &str, code: u8) -> ExitCode {
    eprintln!("quelea-load: {why}");
    ExitCode::from(code)
}
