//! `quelea-sim`: play one seed and tell its story, or many and look for one that fails.

mod request;
mod search;

use std::process::ExitCode;
use std::time::Instant;

use quelea_sim::{Failure, Play, Report, Story, run};

use request::{Request, Task, usage};

fn main() -> ExitCode {
    let request = Request::parse(std::env::args().skip(1));
    let (request, broker) = match request.and_then(|request| Ok((Broker::new(&request)?, request))) {
        Ok((broker, request)) => (request, broker),
        Err(what) => {
            eprintln!("{}\n\n{what}", usage());
            return ExitCode::from(2);
        }
    };
    // The run reports what a panic says; where it was is all that is missing.
    std::panic::set_hook(Box::new(|panic| {
        if let Some(place) = panic.location() {
            eprintln!("at {place}");
        }
    }));
    match request.task {
        Task::Help => {
            println!("{}", usage());
            ExitCode::SUCCESS
        }
        Task::Tell => tell(&request, broker),
        Task::Search { .. } | Task::Soak(_) => search::search(&request, broker),
        #[cfg(feature = "mutants")]
        Task::Mutants => mutants(),
        #[cfg(not(feature = "mutants"))]
        Task::Mutants => unreachable!("refused above"),
    }
}

/// The broker that is played: the real one, or one with a deliberate fault.
#[derive(Clone, Copy, Debug)]
struct Broker {
    #[cfg(feature = "mutants")]
    mutant: Option<quelea_shard::mutants::Mutant>,
}

impl Broker {
    #[cfg(feature = "mutants")]
    fn new(request: &Request) -> Result<Self, String> {
        let all = quelea_shard::mutants::Mutant::ALL;
        let Some(name) = &request.mutant else { return Ok(Self { mutant: None }) };
        let mutant = all.into_iter().find(|mutant| format!("{mutant:?}") == *name);
        mutant.map(|mutant| Self { mutant: Some(mutant) }).ok_or_else(|| format!("there are {all:?}"))
    }

    #[cfg(not(feature = "mutants"))]
    fn new(request: &Request) -> Result<Self, String> {
        match request.mutant.is_some() || request.task == Task::Mutants {
            true => Err("built without --features mutants".to_owned()),
            false => Ok(Self {}),
        }
    }

    fn run(self, play: Play) -> Result<Report, Failure> {
        self.perform(play, Story::Silent)
    }

    fn perform(self, play: Play, story: Story) -> Result<Report, Failure> {
        #[cfg(feature = "mutants")]
        if let Some(mutant) = self.mutant {
            return quelea_sim::run_mutant(wall_clock(), mutant, play, story);
        }
        run(wall_clock(), play, story)
    }
}

fn tell(request: &Request, broker: Broker) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for play in (0..).map_while(|number| request.play(number)) {
        println!("profile {}, seed {}", play.profile.name(), play.seed);
        match broker.perform(play, Story::Told) {
            Ok(report) => {
                report.story.iter().for_each(|line| println!("{line}"));
                show(&report.counters);
                println!("all promises kept; {} events, hash {:016x}", report.events, report.hash);
            }
            Err(failure) => {
                failure.story.iter().for_each(|line| println!("{line}"));
                show(&failure.counters);
                println!("FAILED: {}", failure.what);
                recall(&failure);
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// What the story says of the publication that the failure is about, once more.
fn recall(failure: &Failure) {
    let mut words = failure.what.split_whitespace();
    let number = words.find(|word| *word == "publication").and_then(|_| words.next());
    let Some(number) = number.and_then(|number| number.trim_end_matches(',').parse::<u64>().ok()) else {
        return;
    };
    let name = format!("publication {number} ");
    println!("what happened to publication {number}:");
    failure.story.iter().filter(|line| line.contains(&name)).for_each(|line| println!("{line}"));
}

fn show(counters: &[(&'static str, u64)]) {
    for (name, value) in counters.iter().filter(|(_, value)| *value > 0) {
        println!("  {name} {value}");
    }
}

/// Every deliberate fault must be found within so many seeds of the profiles, taken in turn.
#[cfg(feature = "mutants")]
fn mutants() -> ExitCode {
    use quelea_sim::{Profile, shrink};

    std::panic::set_hook(Box::new(|_| {}));
    let mut code = ExitCode::SUCCESS;
    for mutant in quelea_shard::mutants::Mutant::ALL {
        let broker = Broker { mutant: Some(mutant) };
        let tries = (1..=MUTANT_SEEDS_MAX).flat_map(|seed| Profile::ALL.map(|profile| (seed, profile)));
        let found = tries.enumerate().find_map(|(runs, (seed, profile))| {
            let play = Play::new(profile, seed);
            Some((runs + 1, play, broker.run(play).err()?))
        });
        let Some((runs, play, failure)) = found else {
            println!("{mutant:?}: NOT FOUND in {} runs", MUTANT_SEEDS_MAX * Profile::ALL.len() as u64);
            code = ExitCode::FAILURE;
            continue;
        };
        let shrunk = shrink(play, failure, search::SHRINK_TRIES_MAX, |smaller| broker.run(smaller).err());
        let what: String = shrunk.failure.what.chars().take(160).collect();
        println!("{mutant:?}: found by run {runs}: {what}");
        println!("    shrunk in {} attempts: {} --mutant {mutant:?}", shrunk.tries, shrunk.play);
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
