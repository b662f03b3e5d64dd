//! `quelea-sim`: play one seed and tell its story, or many and look for one that fails.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use quelea_sim::{Profile, Story, run};

const USAGE: &str = "\
The whole broker, many shards and clients, on a hostile network; seeded and repeatable.

  quelea-sim --seed N [--profile P]       play one seed and tell what happens
  quelea-sim --seeds A..B [--profile P]   play many, stop at the first that fails
  quelea-sim --mutants                    seed faults into the broker's rules and count the runs until each is found
                                          (needs a build with --features mutants)

Profiles: mutual tiny moving retained groups offline slow wills mixed; without one, all of them.
Exit codes: 0 all promises kept, 1 one was not, 2 usage.";

struct Request {
    seeds: core::ops::Range<u64>,
    profiles: Vec<Profile>,
    story: Story,
}

fn main() -> ExitCode {
    #[cfg(feature = "mutants")]
    if std::env::args().nth(1).as_deref() == Some("--mutants") {
        std::panic::set_hook(Box::new(|_| {}));
        return mutants();
    }
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

/// Every deliberate fault must be found within so many seeds of the profiles, taken in turn.
#[cfg(feature = "mutants")]
fn mutants() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for mutant in quelea_shard::mutants::Mutant::ALL {
        let tries = (1..=MUTANT_SEEDS_MAX).flat_map(|seed| Profile::ALL.map(|profile| (seed, profile)));
        let found = tries.enumerate().find_map(|(runs, (seed, profile))| {
            let failure = quelea_sim::run_mutant(wall_clock(), mutant, profile, seed).err()?;
            Some((runs + 1, seed, profile, failure.what))
        });
        match found {
            Some((runs, seed, profile, what)) => {
                let what: String = what.chars().take(160).collect();
                println!("{mutant:?}: found by run {runs} (profile {}, seed {seed}): {what}", profile.name());
            }
            None => {
                println!("{mutant:?}: NOT FOUND in {} runs", MUTANT_SEEDS_MAX * Profile::ALL.len() as u64);
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

#[cfg(feature = "mutants")]
const MUTANT_SEEDS_MAX: u64 = 200;

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
