//! `quelea-sim`: play one seed and tell its story, or many and look for one that fails.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use quelea_sim::{Profile, Story, run};

const USAGE: &str = "\
The whole broker, many shards and clients, on a hostile network; seeded and repeatable.

  quelea-sim --seed N [--profile P]       play one seed and tell what happens
  quelea-sim --seeds A..B [--profile P]   play many, stop at the first that fails

Profiles: mutual tiny moving retained groups offline slow wills mixed; without one, all of them.
Exit codes: 0 all promises kept, 1 one was not, 2 usage.";

struct Request {
    seeds: core::ops::Range<u64>,
    profiles: Vec<Profile>,
    story: Story,
}

fn main() -> ExitCode {
    let Some(request) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    // The run reports what a panic says; where it was is all that is missing.
    std::panic::set_hook(Box::new(|panic| {
        if let Some(place) = panic.location() {
            eprintln!("at {place}");
        }
    }));
    match request.story {
        Story::Told => tell(&request),
        Story::Silent => search(&request),
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Option<Request> {
    let mut request = Request { seeds: 0..0, profiles: Profile::ALL.to_vec(), story: Story::Silent };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seed" => {
                let seed = args.next()?.parse().ok()?;
                request.seeds = seed..seed + 1;
                request.story = Story::Told;
            }
            "--seeds" => {
                let range = args.next()?;
                let (first, end) = range.split_once("..")?;
                request.seeds = first.parse().ok()?..end.parse().ok()?;
            }
            "--profile" => request.profiles = vec![Profile::from_name(&args.next()?)?],
            _ => return None,
        }
    }
    (!request.seeds.is_empty()).then_some(request)
}

fn tell(request: &Request) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for profile in &request.profiles {
        println!("profile {}, seed {}", profile.name(), request.seeds.start);
        match run(wall_clock(), *profile, request.seeds.start, Story::Told) {
            Ok(report) => {
                report.story.iter().for_each(|line| println!("{line}"));
                for (name, value) in report.counters.iter().filter(|(_, value)| *value > 0) {
                    println!("  {name} {value}");
                }
                println!("all promises kept; {} events, hash {:016x}", report.events, report.hash);
            }
            Err(failure) => {
                failure.story.iter().for_each(|line| println!("{line}"));
                println!("FAILED: {}", failure.what);
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn search(request: &Request) -> ExitCode {
    let began = wall_clock();
    let mut shown = began;
    let (mut runs, mut virtual_time, mut events) = (0_u64, Duration::ZERO, 0_u64);
    for seed in request.seeds.clone() {
        for profile in &request.profiles {
            match run(began, *profile, seed, Story::Silent) {
                Ok(report) => {
                    runs += 1;
                    virtual_time += report.virtual_time;
                    events += report.events;
                }
                Err(failure) => {
                    println!("profile {}, seed {seed}: {}", profile.name(), failure.what);
                    println!("replay: quelea-sim --seed {seed} --profile {}", profile.name());
                    return ExitCode::FAILURE;
                }
            }
        }
        if shown.elapsed() > Duration::from_secs(5) {
            shown = wall_clock();
            eprintln!("seed {seed}: {}", pace(runs, virtual_time, began.elapsed()));
        }
    }
    println!("all promises kept: {}, {events} events", pace(runs, virtual_time, began.elapsed()));
    ExitCode::SUCCESS
}

fn pace(runs: u64, virtual_time: Duration, took: Duration) -> String {
    let seconds = took.as_secs_f64().max(1e-9);
    format!(
        "{runs} runs, {:.0} per second, {:.1} virtual hours per hour",
        runs as f64 / seconds,
        virtual_time.as_secs_f64() / seconds
    )
}

/// The command line tool measures itself; the simulated world never asks.
#[expect(clippy::disallowed_methods, reason = "the base of virtual time, and the pace of the tool")]
fn wall_clock() -> Instant {
    Instant::now()
}
