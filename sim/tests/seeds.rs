//! A few seeds of every profile, the seeds that once failed, and the promise that a run repeats to the last byte.

use std::collections::BTreeMap;
use std::time::Instant;

use quelea_sim::{Crypto, Cuts, Part, Play, Profile, Report, Story, run};

/// Virtual time counts from here; which moment it is has no influence.
#[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
fn base() -> Instant {
    Instant::now()
}

fn play(profile: Profile, seed: u64) -> Report {
    play_with(Crypto::Null, profile, seed)
}

fn play_with(crypto: Crypto, profile: Profile, seed: u64) -> Report {
    play_this(Play { crypto, ..Play::new(profile, seed) })
}

fn play_this(play: Play) -> Report {
    let Play { profile, seed, crypto, cuts, .. } = play;
    match run(base(), play, Story::Silent) {
        Ok(report) => report,
        Err(failure) => panic!(
            "{} (replay: cargo run -p quelea-sim -- --seed {seed} --profile {} --crypto {}{cuts})",
            failure.what,
            profile.name(),
            crypto.name()
        ),
    }
}

fn play_some(profile: Profile) {
    for seed in SEEDS {
        play(profile, seed);
    }
}

#[test]
fn mutual_publishers_with_full_queues_do_not_lock_up() {
    play_some(Profile::Mutual);
}

#[test]
fn rings_of_capacity_one_are_enough() {
    play_some(Profile::Tiny);
}

#[test]
fn sessions_that_move_lose_nothing() {
    play_some(Profile::Moving);
}

#[test]
fn retained_values_never_go_back() {
    play_some(Profile::Retained);
}

#[test]
fn shared_groups_survive_their_members() {
    play_some(Profile::Groups);
}

#[test]
fn offline_sessions_lose_only_what_is_counted() {
    play_some(Profile::Offline);
}

#[test]
fn slow_subscribers_cost_only_what_is_counted() {
    play_some(Profile::Slow);
}

#[test]
fn wills_fire_when_they_must() {
    play_some(Profile::Wills);
}

#[test]
fn all_of_it_over_byte_streams() {
    play_some(Profile::Streams);
}

#[test]
fn quic_survives_a_hostile_network() {
    play_some(Profile::Quic);
}

#[test]
fn clients_whose_addresses_change_lose_nothing() {
    play_some(Profile::Rebinding);
}

#[test]
fn clients_whose_paths_narrow_lose_nothing() {
    play_some(Profile::Paths);
}

#[test]
fn paths_narrow_and_the_broker_finds_out() {
    let counters = (1..40).flat_map(|seed| play(Profile::Paths, seed).counters);
    let found: u64 = counters.filter(|(name, _)| *name == "quic_mtu_black_holes").map(|(_, n)| n).sum();
    assert!(found > 0);
}

#[test]
fn strangers_cost_the_clients_nothing() {
    play_some(Profile::Handshakes);
}

#[test]
fn all_of_it_together() {
    play_some(Profile::Mixed);
}

#[test]
fn layered_doors_change_nothing() {
    play_some(Profile::Doors);
}

#[test]
fn several_filters_in_a_packet_are_as_many_subscriptions() {
    play_some(Profile::Filters);
}

#[test]
fn a_clock_that_jumps_loses_nothing_that_was_acknowledged() {
    play_some(Profile::Jumps);
}

#[test]
fn sixteen_shards_with_rings_of_one_are_a_broker_too() {
    play_some(Profile::Wide);
}

#[test]
fn the_doors_are_abused() {
    let mut sums = BTreeMap::new();
    for seed in SEEDS {
        for (name, value) in play(Profile::Doors, seed).counters {
            *sums.entry(name).or_insert(0) += value;
        }
    }
    let wanted = [
        "tls_handshakes",
        "tls_handshakes_failed",
        "tls_errors",
        "tls_truncated",
        "websockets_opened",
        "websockets_refused",
        "tls_handshakes_refused",
        "proxy_refused",
        "layer_timeouts",
    ];
    for name in wanted {
        assert!(sums[name] > 0, "{name}: {sums:?}");
    }
}

#[test]
fn small_limits_are_reached_and_cost_only_what_is_counted() {
    let mut sums = BTreeMap::new();
    for seed in LIMITS_SEEDS {
        for (name, value) in play(Profile::Limits, seed).counters {
            *sums.entry(name).or_insert(0) += value;
        }
    }
    let wanted = [
        "dropped_qos0_memory",
        "dropped_qos0_refused",
        "publishes_refused",
        "subscriptions_refused_memory",
        "links_refused_memory",
        "links_shed_memory",
        "dropped_qos0_full",
        "dropped_offline_full",
        "dropped_qos0_group",
        "dropped_group_full",
        "groups_refused",
        "subscriptions_refused",
        "retained_refused",
        "retained_expired",
        "connects_refused",
        "dropped_too_large",
        "dropped_refused",
        "expired",
    ];
    for name in wanted {
        assert!(sums[name] > 0, "{name}: {sums:?}");
    }
}

#[test]
fn the_real_tls_is_played_too() {
    for profile in QUIC {
        play_with(Crypto::Tls, profile, 1);
    }
}

#[test]
fn seeds_that_found_a_fault_once() {
    let cuts = |profile, seed| match profile {
        Profile::Wide if FOUND_IN_NARROWER_WIDE.contains(&seed) => {
            Cuts::default().without(Part::Paths).without(Part::Limits)
        }
        _ => Cuts::default(),
    };
    let play =
        |crypto, (profile, seed)| Play { crypto, cuts: cuts(profile, seed), ..Play::new(profile, seed) };
    let null = FOUND.map(|found| play(Crypto::Null, found));
    let tls = FOUND_WITH_TLS.map(|found| play(Crypto::Tls, found));
    null.into_iter().chain(tls).for_each(|one| {
        play_this(one);
    });
}

#[test]
fn a_seed_repeats_to_the_last_byte_and_another_differs() {
    for profile in Profile::ALL {
        let once = play(profile, 7);
        assert_eq!(once, play(profile, 7), "{}", profile.name());
        assert_ne!(once.hash, play(profile, 8).hash, "{}", profile.name());
    }
}

#[test]
fn with_the_real_tls_a_seed_repeats_too() {
    for profile in QUIC {
        // Not every run of `wide` has a client that speaks TLS: one that has.
        let mut runs = (7..27).map(|seed| (seed, play_with(Crypto::Tls, profile, seed)));
        let found = runs.find(|(seed, once)| once.hash != play(profile, *seed).hash);
        let (seed, once) = found.unwrap_or_else(|| panic!("{}: no run has TLS in it", profile.name()));
        assert_eq!(once, play_with(Crypto::Tls, profile, seed), "{}", profile.name());
        assert_ne!(once.hash, play_with(Crypto::Tls, profile, seed + 1).hash, "{}", profile.name());
    }
}

#[test]
fn the_network_is_hostile() {
    let mut sums = BTreeMap::new();
    for profile in QUIC {
        for seed in SEEDS {
            for (name, value) in play(profile, seed).counters {
                *sums.entry(name).or_insert(0) += value;
            }
        }
    }
    let wanted = [
        "datagrams_forwarded",
        "quic_retries",
        "quic_initials_ignored",
        "quic_refused",
        "quic_handshakes_failed",
        "quic_peers_moved",
        "quic_stateless_sent",
    ];
    for name in wanted {
        assert!(sums[name] > 0, "{name}: {sums:?}");
    }
}

#[test]
fn a_run_does_something() {
    let report = play(Profile::Streams, 3);
    for name in ["connects", "publishes_received", "publishes_sent", "envelopes_received"] {
        let figure = report.counters.iter().find(|(figure, _)| *figure == name);
        assert!(figure.is_some_and(|(_, value)| *value > 0), "{name}: {figure:?}");
    }
}

/// The profiles with clients over QUIC.
const QUIC: [Profile; 6] =
    [Profile::Quic, Profile::Rebinding, Profile::Paths, Profile::Handshakes, Profile::Mixed, Profile::Wide];

/// Of every profile: small, so that the test takes seconds. Thousands are played by the command line tool.
const SEEDS: std::ops::Range<u64> = 1..6;

/// So many of `limits` that each limit is drawn.
const LIMITS_SEEDS: std::ops::Range<u64> = 0..40;

/// Each of these failed before the broker, the oracle or the run was mended; what was wrong is in the log of the commits
/// that name them. What is upstream's is under "Known limits" in `docs/simulator.md`.
const FOUND: [(Profile, u64); 37] = [
    (Profile::Limits, 41),
    (Profile::Limits, 84),
    (Profile::Limits, 160),
    (Profile::Limits, 162),
    (Profile::Handshakes, 33_090),
    (Profile::Limits, 4_043),
    (Profile::Limits, 1_622),
    (Profile::Limits, 2_236),
    (Profile::Wide, 78_862),
    (Profile::Jumps, 67_624),
    (Profile::Moving, 28_732),
    (Profile::Jumps, 17_474),
    (Profile::Wide, 6_289),
    (Profile::Wide, 7_054),
    (Profile::Doors, 88),
    (Profile::Tiny, 3_524),
    (Profile::Mutual, 9),
    (Profile::Slow, 0),
    (Profile::Quic, 20),
    (Profile::Handshakes, 1),
    (Profile::Mixed, 23),
    (Profile::Slow, 306),
    (Profile::Streams, 131),
    (Profile::Moving, 1),
    (Profile::Mutual, 2),
    (Profile::Slow, 5),
    (Profile::Groups, 9),
    (Profile::Retained, 3),
    (Profile::Retained, 11),
    (Profile::Slow, 39),
    (Profile::Streams, 22),
    (Profile::Streams, 9),
    (Profile::Streams, 42),
    (Profile::Mutual, 152),
    (Profile::Tiny, 1),
    (Profile::Streams, 528),
    (Profile::Quic, 1_226),
];

/// The same, with the real TLS.
const FOUND_WITH_TLS: [(Profile, u64); 4] =
    [(Profile::Wide, 3_821), (Profile::Handshakes, 4_562), (Profile::Wide, 6_249), (Profile::Quic, 91)];

/// Those of them that were found when `wide` drew neither limits nor paths.
const FOUND_IN_NARROWER_WIDE: [u64; 4] = [78_862, 6_289, 7_054, 6_249];
