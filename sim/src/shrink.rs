//! Makes a failing run smaller: fewer clients, fewer shards, a shorter storm, without faults and kinds of behaviour that it
//! does not need, as long as it fails in the same way.
//!
//! Greedy: each cut that still fails stays, and rounds are played until one brings nothing. A run that was cut draws other
//! random numbers from then on, so a cut that is not to be had may be had beside another; the next round tries it again.

use crate::cuts::{Amount, Cuts, Part};
use crate::run::{Failure, Play};

/// The smallest run that was found.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// Its cuts make it replayable.
    pub play: Play,
    /// How it fails.
    pub failure: Failure,
    /// Runs that were tried.
    pub tries: u32,
}

/// Shrinks `play`, which fails with `failure`. `fails` plays a smaller one and says how it fails; it is asked
/// `tries_max` times at most.
pub fn shrink(
    play: Play,
    failure: Failure,
    tries_max: u32,
    mut fails: impl FnMut(Play) -> Option<Failure>,
) -> Shrunk {
    let kind = failure.kind();
    let mut best = Shrunk { play, failure, tries: 0 };
    loop {
        let before = best.play.cuts;
        for cut in Cut::all() {
            // As long as the same cut makes it smaller: half of the clients, and half of those.
            while let Some(cuts) = cut.of(best.play) {
                if best.tries == tries_max {
                    return best;
                }
                best.tries += 1;
                let smaller = Play { cuts, ..best.play };
                let Some(failure) = fails(smaller).filter(|failure| failure.kind() == kind) else { break };
                best = Shrunk { play: smaller, failure, ..best };
            }
        }
        if best.play.cuts == before {
            return best;
        }
    }
}

/// One way of making a run smaller.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Half(Amount),
    OneLess(Amount),
    Without(Part),
}

impl Cut {
    /// What cuts most comes first.
    fn all() -> impl Iterator<Item = Self> {
        let halves = Amount::ALL.map(Self::Half);
        let parts = Part::ALL.iter().copied().map(Self::Without);
        let single = [Amount::Clients, Amount::Shards].map(Self::OneLess);
        halves.into_iter().chain(parts).chain(single)
    }

    /// The cuts of this run and this one, if it makes a difference.
    fn of(self, play: Play) -> Option<Cuts> {
        let size = play.size();
        let (amount, most) = match self {
            Self::Without(part) => {
                let cuts = play.cuts.without(part);
                return play.is_changed_by(cuts).then_some(cuts);
            }
            Self::Half(amount) => (amount, size[amount as usize] / 2),
            Self::OneLess(amount) => (amount, size[amount as usize].saturating_sub(1)),
        };
        (most > 0).then(|| play.cuts.at_most(amount, most))
    }
}

#[cfg(test)]
mod tests {
    use super::{Shrunk, shrink};
    use crate::cuts::{Amount, Part};
    use crate::run::{Failure, Play};
    use crate::{Crypto, Profile};

    fn failure(what: &str) -> Failure {
        Failure { what: what.to_owned(), story: Vec::new(), counters: Vec::new() }
    }

    fn shrunk(tries_max: u32, fails: impl FnMut(Play) -> Option<Failure>) -> Shrunk {
        let play = Play { crypto: Crypto::Null, ..Play::new(Profile::Mixed, 5) };
        shrink(play, failure("client 3 is lost at 12"), tries_max, fails)
    }

    #[test]
    fn what_is_not_needed_goes_and_what_is_needed_stays() {
        let found = shrunk(1_000, |play| {
            let needed = play.size()[Amount::Clients as usize] >= 2
                && !play.cuts.lacks(Part::Crashes)
                && !play.cuts.lacks(Part::QoS2);
            needed.then(|| failure("client 7 is lost at 3"))
        });
        assert_eq!(found.play.size(), [2, 1, 1]);
        for part in Part::ALL {
            let needed = matches!(part, Part::Crashes | Part::QoS2);
            let more = found.play.cuts.without(*part);
            assert_eq!(found.play.is_changed_by(more), needed, "{part:?}");
        }
        assert_eq!(found.failure.what, "client 7 is lost at 3");
    }

    #[test]
    fn another_kind_of_failure_is_not_taken_for_the_same() {
        let found = shrunk(1_000, |_| Some(failure("shard 1 is asleep")));
        assert_eq!(found.play.cuts, Play::new(Profile::Mixed, 5).cuts);
        assert_eq!(found.failure.what, "client 3 is lost at 12");
    }

    #[test]
    fn it_gives_up_after_so_many_tries() {
        let mut tries = 0;
        let found = shrunk(7, |_| {
            tries += 1;
            Some(failure("client 1 is lost at 2"))
        });
        assert_eq!((tries, found.tries), (7, 7));
    }
}
