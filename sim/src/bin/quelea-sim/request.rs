//! What was asked for on the command line.

use std::time::Duration;

use quelea_sim::{Crypto, Cuts, Part, Play, Profile};

const USAGE: &str = "\
The whole broker, many shards and clients, on a hostile network; seeded and repeatable.

  quelea-sim --seed N          play one seed and tell what happens
  quelea-sim --seeds A..B      play many; the first that fails is shrunk, and ends the search
  quelea-sim --soak TIME       play fresh seeds for so long (90s, 30m, 8h), and say where to go on
      --from N                 the first of them (default 0)
  quelea-sim --mutants         seed faults into the broker's rules and count the runs until each is found
                               (needs a build with --features mutants)

      --profile P,Q            in these profiles instead of in all of them
      --in-turn                each seed in one of the profiles instead of in all of them
      --crypto C               of QUIC: null (the default) or tls
      --jobs N                 play so many runs at a time (default 1); the results are the same
      --without X,Y            without these faults and kinds of behaviour
      --at-most clients=N,shards=N,storm-ms=N
      --mutant M               with this fault in the broker's rules (needs --features mutants)
Exit codes: 0 all promises kept, 1 one was not, 2 usage.";

/// How the tool is asked for things, with the names of all profiles and of all that a run may go without.
pub(crate) fn usage() -> String {
    let profiles = Profile::ALL.map(Profile::name).join(" ");
    let parts: Vec<_> = Part::ALL.iter().map(|part| part.name()).collect();
    format!("{USAGE}\n\nP: {profiles}\nX: {}", parts.join(" "))
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Say how the tool is used.
    Help,
    /// Tell one seed.
    Tell,
    /// Play until this seed.
    Search { end: u64 },
    /// Play for so long.
    Soak(Duration),
    /// Play the mutants.
    Mutants,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) task: Task,
    pub(crate) first: u64,
    pub(crate) profiles: Vec<Profile>,
    pub(crate) crypto: Crypto,
    /// Each seed in one profile, taken in turn, instead of in all of them.
    pub(crate) in_turn: bool,
    pub(crate) jobs: usize,
    pub(crate) cuts: Cuts,
    /// The name of a deliberate fault.
    pub(crate) mutant: Option<String>,
}

impl Request {
    /// Reads the command line; an error says what is wrong with it.
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut request = Self {
            task: Task::Tell,
            first: 0,
            profiles: Profile::ALL.to_vec(),
            crypto: Crypto::default(),
            in_turn: false,
            jobs: 1,
            cuts: Cuts::default(),
            mutant: None,
        };
        let mut task = None;
        while let Some(flag) = args.next() {
            match flag.as_str() {
                "--in-turn" => request.in_turn = true,
                "--mutants" => task = Some(Task::Mutants),
                "--help" | "-h" => task = Some(Task::Help),
                _ => {
                    let value = args.next().ok_or_else(|| format!("{flag}: what?"))?;
                    let read = request.take(&flag, &value, &mut task);
                    read.ok_or_else(|| format!("{flag} {value}: not understood"))?;
                }
            }
        }
        request.task = task.ok_or("one of --seed, --seeds, --soak and --mutants is needed")?;
        Ok(request)
    }

    fn take(&mut self, flag: &str, value: &str, task: &mut Option<Task>) -> Option<()> {
        match flag {
            "--seed" => {
                self.first = value.parse().ok()?;
                *task = Some(Task::Tell);
            }
            "--seeds" => {
                let (first, end) = value.split_once("..")?;
                let (first, end) = (first.parse().ok()?, end.parse().ok()?);
                self.first = first;
                *task = (first < end).then_some(Task::Search { end });
                return task.map(|_| ());
            }
            "--soak" => *task = Some(Task::Soak(duration(value)?)),
            "--from" => self.first = value.parse().ok()?,
            "--profile" => {
                self.profiles = value.split(',').map(Profile::from_name).collect::<Option<_>>()?;
            }
            "--crypto" => self.crypto = Crypto::from_name(value)?,
            "--jobs" => self.jobs = value.parse().ok().filter(|jobs| (1..=JOBS_MAX).contains(jobs))?,
            "--without" => self.cuts = self.cuts.parse_without(value)?,
            "--at-most" => self.cuts = self.cuts.parse_at_most(value)?,
            "--mutant" => self.mutant = Some(value.to_owned()),
            _ => return None,
        }
        Some(())
    }

    /// Runs of one seed.
    pub(crate) fn runs_per_seed(&self) -> u64 {
        if self.in_turn { 1 } else { self.profiles.len() as u64 }
    }

    /// The run of this number, counted from the first.
    pub(crate) fn play(&self, number: u64) -> Option<Play> {
        let seed = self.first.checked_add(number / self.runs_per_seed())?;
        let beyond = match self.task {
            Task::Tell => seed > self.first,
            Task::Search { end } => seed >= end,
            Task::Soak(_) | Task::Mutants | Task::Help => false,
        };
        let profiles = self.profiles.len() as u64;
        let profile = if self.in_turn { seed % profiles } else { number % profiles };
        let play =
            Play { crypto: self.crypto, cuts: self.cuts, ..Play::new(self.profiles[profile as usize], seed) };
        (!beyond).then_some(play)
    }

    /// What a search of other seeds is asked for with, beside the seeds.
    pub(crate) fn options(&self) -> String {
        let mut options = String::new();
        if self.profiles != Profile::ALL {
            let names: Vec<_> = self.profiles.iter().map(|profile| profile.name()).collect();
            options += &format!(" --profile {}", names.join(","));
        }
        if self.in_turn {
            options += " --in-turn";
        }
        if self.crypto != Crypto::default() {
            options += &format!(" --crypto {}", self.crypto.name());
        }
        if self.jobs > 1 {
            options += &format!(" --jobs {}", self.jobs);
        }
        options += &self.cuts.to_string();
        options + &self.mutant_option()
    }

    /// How the fault is asked for, if one is.
    pub(crate) fn mutant_option(&self) -> String {
        self.mutant.as_ref().map(|mutant| format!(" --mutant {mutant}")).unwrap_or_default()
    }
}

/// Seconds, minutes or hours.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return None,
    };
    Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(seconds)?))
}

/// Each job is a thread that holds one world.
const JOBS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::{Request, Task};
    use quelea_sim::Profile;
    use std::time::Duration;

    fn parse(line: &str) -> Result<Request, String> {
        Request::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn every_task_is_understood() {
        let tasks = [
            ("--seed 7", Task::Tell),
            ("--seeds 3..9", Task::Search { end: 9 }),
            ("--soak 30m --from 5", Task::Soak(Duration::from_secs(1_800))),
            ("--mutants", Task::Mutants),
            ("--help", Task::Help),
        ];
        for (line, task) in tasks {
            assert_eq!(parse(line).map(|request| request.task), Ok(task), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "",
            "--seeds 9..3",
            "--seeds 3",
            "--seed",
            "--soak 30",
            "--soak m",
            "--jobs 0",
            "--with x",
            "--seed x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn each_seed_is_played_in_all_profiles_or_in_one() {
        let all = parse("--seeds 3..5 --profile tiny,quic").expect("a search");
        let plays = |request: &Request| {
            let plays = (0..).map_while(|number| request.play(number));
            plays.map(|play| (play.seed, play.profile)).collect::<Vec<_>>()
        };
        let (tiny, quic) = (Profile::Tiny, Profile::Quic);
        assert_eq!(plays(&all), [(3, tiny), (3, quic), (4, tiny), (4, quic)]);
        let in_turn = parse("--seeds 3..6 --profile tiny,quic --in-turn").expect("a search");
        assert_eq!(plays(&in_turn), [(3, quic), (4, tiny), (5, quic)]);
    }

    #[test]
    fn the_options_of_a_search_are_those_that_it_was_asked_for_with() {
        for options in
            ["", " --profile tiny,quic --in-turn --crypto tls --jobs 2 --without wills --at-most clients=2"]
        {
            assert_eq!(parse(&format!("--soak 1s{options}")).expect("a soak").options(), options);
        }
    }
}
