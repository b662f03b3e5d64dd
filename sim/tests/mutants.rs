//! A deliberate fault, from the run that finds it to a small run that shows it. Played with `--features mutants`, as all
//! mutants are (`docs/simulator.md`).

use std::time::Instant;

use quelea_shard::mutants::Mutant;
use quelea_sim::{Failure, Part, Play, Profile, Story, run_mutant, shrink};

#[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
fn fails(play: Play, story: Story) -> Option<Failure> {
    run_mutant(Instant::now(), Mutant::FullPeerDropped, play, story).err()
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
