//! Deliberate faults (`docs/simulator.md`): each is found, and one is followed from the run that finds it to a small run that
//! shows it. Needs `--features mutants`; `scripts/test.sh` asks for it.

use std::time::Instant;

use quelea_shard::mutants::Mutant;
use quelea_sim::{Failure, Part, Play, Profile, Story, run_mutant, shrink};

#[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
fn fails_with(mutant: Mutant, play: Play, story: Story) -> Option<Failure> {
    run_mutant(Instant::now(), mutant, play, story).err()
}

fn fails(play: Play, story: Story) -> Option<Failure> {
    fails_with(Mutant::FullPeerDropped, play, story)
}

/// A profile that presses on the rule that is broken. `--mutants` knows nothing of this and plays all in turn.
fn presses_on(mutant: Mutant) -> Profile {
    match mutant {
        Mutant::SubackBeforeBarrier => Profile::Streams,
        Mutant::AckBeforeAcceptance => Profile::Filters,
        Mutant::FullPeerDropped | Mutant::LossHidden | Mutant::InterestNotAnnouncedAgain => Profile::Tiny,
        Mutant::MarkIgnored | Mutant::QuotaForgotten | Mutant::IdentifierUsedEarly => Profile::Moving,
        Mutant::RetainedFannedOutByPublisher => Profile::Retained,
        Mutant::GroupMessagesKept => Profile::Groups,
        Mutant::SteeredByAddress | Mutant::DroppedAtFullWindow => Profile::Quic,
        Mutant::ConnectionIdsUnsteered => Profile::Mixed,
        Mutant::HandshakesNotGivenBack => Profile::Handshakes,
        Mutant::WillDelayForgotten => Profile::Wills,
        Mutant::ExpiryForgotten => Profile::Offline,
        Mutant::BehindHandshakeForgotten
        | Mutant::FullDoorRead
        | Mutant::ClosingWordsForgotten
        | Mutant::DoorHandshakesNotGivenBack => Profile::Doors,
    }
}

/// Several times what the hardest to find needs.
const SEEDS_MAX: u64 = 100;

#[test]
fn every_fault_is_found_by_a_profile_that_presses_on_it() {
    for mutant in Mutant::ALL {
        let profile = presses_on(mutant);
        let finds = |seed| fails_with(mutant, Play::new(profile, seed), Story::Silent).is_some();
        assert!((1..=SEEDS_MAX).any(finds), "{mutant:?} survives {SEEDS_MAX} seeds of {}", profile.name());
    }
}

#[test]
fn a_failure_is_shrunk_to_a_run_that_fails_in_the_same_way() {
    let play = Play::new(Profile::Tiny, 1);
    let failure = fails(play, Story::Silent).expect("the profile that presses on full lanes finds it");
    let shrunk = shrink(play, failure.clone(), 500, |smaller| fails(smaller, Story::Silent));
    assert_eq!(shrunk.failure.kind(), failure.kind());

    let (whole, small) = (fails(play, Story::Told), fails(shrunk.play, Story::Told));
    let (whole, small) = (whole.expect("it repeats"), small.expect("it repeats, too"));
    assert_eq!(small.what, shrunk.failure.what);
    assert!(
        small.story.len() * 5 < whole.story.len(),
        "{} of {} lines",
        small.story.len(),
        whole.story.len()
    );

    // What has nothing to do with full lanes is gone.
    for part in [Part::Wills, Part::Retained, Part::Groups, Part::Unsubscribes] {
        assert!(shrunk.play.cuts.lacks(part), "{part:?}: {}", shrunk.play);
    }
}
