//! `quelea-sim`: play one seed and tell its story, or many and look for one that fails.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use quelea_sim::{Crypto, Play, Profile, Story, run};

const USAGE: &str = "\
The whole broker, many shards and clients, on a hostile network; seeded and repeatable.

  quelea-sim --seed N [--profile P] [--crypto C]       play one seed and tell what happens
  quelea-sim --seeds A..B [--profile P] [--crypto C]   play many, stop at the first that fails
      --in-turn                                        each seed in one of the profiles instead of in all of them
  quelea-sim --mutants                                 seed faults into the broker's rules and count the runs until each
                                                       is found (needs a build with --features mutants)

Profiles, without one all of them: mutual tiny moving retained groups offline slow wills streams (byte streams only),
  quic rebinding handshakes (QUIC only), mixed (both). Several may be given, with commas between them.
Crypto, for QUIC: null (the default) or tls.
Exit codes: 0 all promises kept, 1 one was not, 2 usage.";

struct Request {
    seeds: core::ops::Range<u64>,
    profiles: Vec<Profile>,
    crypto: Crypto,
    /// Each seed in one profile, taken in turn, instead of in all of them.
    in_turn: bool,
    story: Story,
}

impl Request {
    fn profiles_of(&self, seed: u64) -> &[Profile] {
        if !self.in_turn {
            return &self.profiles;
        }
        let at = (seed % self.profiles.len() as u64) as usize;
        &self.profiles[at..=at]
    }
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
    let profiles = Profile::ALL.to_vec();
    let crypto = Crypto::default();
    let mut request = Request { seeds: 0..0, profiles, crypto, in_turn: false, story: Story::Silent };
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
            "--profile" => {
                request.profiles =
                    args.next()?.split(',').map(Profile::from_name).collect::<Option<Vec<_>>>()?;
            }
            "--in-turn" => request.in_turn = true,
            "--crypto" => request.crypto = Crypto::from_name(&args.next()?)?,
            _ => return None,
        }
    }
    (!request.seeds.is_empty()).then_some(request)
}

fn tell(request: &Request) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for profile in request.profiles_of(request.seeds.start) {
        println!("profile {}, seed {}", profile.name(), request.seeds.start);
        let play = Play { profile: *profile, seed: request.seeds.start, crypto: request.crypto };
        match run(wall_clock(), play, Story::Told) {
            Ok(report) => {
                report.story.iter().for_each(|line| println!("{line}"));
                show(&report.counters);
                println!("all promises kept; {} events, hash {:016x}", report.events, report.hash);
            }
            Err(failure) => {
                failure.story.iter().for_each(|line| println!("{line}"));
                show(&failure.counters);
                println!("FAILED: {}", failure.what);
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn show(counters: &[(&'static str, u64)]) {
    for (name, value) in counters.iter().filter(|(_, value)| *value > 0) {
        println!("  {name} {value}");
    }
}

fn search(request: &Request) -> ExitCode {
    let mut search =
        Search { began: wall_clock(), runs: 0, virtual_time: Duration::ZERO, events: 0, hash: 0 };
    let mut shown = search.began;
    for seed in request.seeds.clone() {
        for profile in request.profiles_of(seed) {
            let play = Play { profile: *profile, seed, crypto: request.crypto };
            match run(search.began, play, Story::Silent) {
                Ok(report) => search.add(&report),
                Err(failure) => {
                    let (name, crypto) = (profile.name(), request.crypto.name());
                    println!("profile {name}, seed {seed}: {}", failure.what);
                    println!("replay: quelea-sim --seed {seed} --profile {name} --crypto {crypto}");
                    return ExitCode::FAILURE;
                }
            }
        }
        if shown.elapsed() > Duration::from_secs(5) {
            shown = wall_clock();
            eprintln!(
                "seed {seed}: {} (go on with --seeds {}..{})",
                search.pace(),
                seed + 1,
                request.seeds.end
            );
        }
    }
    println!("all promises kept: {}, {} events", search.pace(), search.events);
    println!("hash of all runs: {:016x}", search.hash);
    ExitCode::SUCCESS
}

/// What a search has done so far.
struct Search {
    began: Instant,
    runs: u64,
    virtual_time: Duration,
    events: u64,
    hash: u64,
}

impl Search {
    fn add(&mut self, report: &quelea_sim::Report) {
        self.runs += 1;
        self.virtual_time += report.virtual_time;
        self.events += report.events;
        self.hash = (self.hash.rotate_left(5) ^ report.hash).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    }

    fn pace(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64().max(1e-9);
        let hours = self.virtual_time.as_secs_f64() / 3_600.0;
        format!(
            "{} runs, {:.0} per second, {hours:.1} virtual hours, {:.4} per second",
            self.runs,
            self.runs as f64 / seconds,
            hours / seconds
        )
    }
}

/// Every deliberate fault must be found within so many seeds of the profiles, taken in turn.
#[cfg(feature = "mutants")]
fn mutants() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for mutant in quelea_shard::mutants::Mutant::ALL {
        let tries = (1..=MUTANT_SEEDS_MAX).flat_map(|seed| Profile::ALL.map(|profile| (seed, profile)));
        let found = tries.enumerate().find_map(|(runs, (seed, profile))| {
            let play = Play::new(profile, seed);
            let failure = quelea_sim::run_mutant(wall_clock(), mutant, play).err()?;
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

/// The command line tool measures itself; the simulated world never asks.
#[expect(clippy::disallowed_methods, reason = "the base of virtual time, and the pace of the tool")]
fn wall_clock() -> Instant {
    Instant::now()
}
