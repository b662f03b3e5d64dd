//! Subscriptions have a maximum, and who meets it is told and counted.

use std::time::Duration;

use quelea_mqtt::{Disconnect, QoS};
use quelea_shard::Settings;

use crate::bed::{Bed, Client, publication, v5, v311};
use crate::resume::{persistent, resumed};

/// Subscribes with QoS 1 and gives the answer.
fn answer(bed: &mut Bed, client: Client, filter: &str) -> String {
    bed.sub(client, 7, filter, QoS::AtLeastOnce);
    bed.take(client).pop().expect("SUBACK")
}

#[test]
fn a_session_has_a_maximum_of_subscriptions_and_is_told_in_the_words_of_its_version() {
    for shards in [1, 2] {
        let mut bed = Bed::with(shards, &Settings { subscriptions_max: 2, ..Settings::default() });
        for (client, refused) in [(v5("five"), "SUBACK 7 [97]"), (v311("three", true), "SUBACK 7 [80]")] {
            let client = bed.connect(shards - 1, &client);
            bed.take(client);
            for filter in ["a", "$share/group/b"] {
                assert_eq!(answer(&mut bed, client, filter), "SUBACK 7 [01]");
            }
            for filter in ["c", "$share/group/c"] {
                assert_eq!(answer(&mut bed, client, filter), refused);
            }
            assert_eq!(answer(&mut bed, client, "a"), "SUBACK 7 [01]", "it replaces what is there");
            bed.unsub(client, 8, "a");
            bed.take(client);
            assert_eq!(answer(&mut bed, client, "c"), "SUBACK 7 [01]", "a place is free again");
            bed.publish(client, &publication("c", "heard", QoS::AtMostOnce, 0));
            assert_eq!(bed.take(client), ["PUBLISH c q0 'heard'"]);
        }
        assert_eq!(bed.counter("subscriptions_refused"), 4);
        assert_eq!((bed.counter("subscriptions_refused_memory"), bed.counter("groups_refused")), (0, 0));
    }
}

#[test]
fn a_session_that_comes_back_on_another_shard_brings_its_subscriptions_to_the_count() {
    let mut bed = Bed::with(2, &Settings { subscriptions_max: 1, ..Settings::default() });
    let client = bed.connect(0, &persistent("c"));
    bed.take(client);
    assert_eq!(answer(&mut bed, client, "a"), "SUBACK 7 [01]");
    bed.disconnect(client, &Disconnect::default());
    let back = bed.connect(1, &resumed("c"));
    bed.pass(Duration::from_millis(1));
    assert_eq!(bed.take(back), ["CONNACK 0x00 present=1"]);
    assert_eq!(answer(&mut bed, back, "b"), "SUBACK 7 [97]");
    assert_eq!(bed.counter("subscriptions_refused"), 1);
}

#[test]
fn at_the_ceiling_and_at_the_maximum_of_groups_subscriptions_are_refused_and_counted_apart() {
    let mut bed = Bed::with(1, &Settings { groups_max: 1, ..Settings::default() });
    let client = bed.client(0, "c");
    assert_eq!(answer(&mut bed, client, "$share/g/a"), "SUBACK 7 [01]");
    assert_eq!(answer(&mut bed, client, "$share/g/b"), "SUBACK 7 [97]");
    assert_eq!((bed.counter("groups_refused"), bed.counter("subscriptions_refused")), (1, 0));

    let mut bed = Bed::with(1, &Settings { memory_bytes_max: 20_000, ..Settings::default() });
    let client = bed.client(0, "c");
    let letters = ["a", "b", "c", "d"].map(|letter| letter.repeat(5_000));
    let answers: Vec<_> = letters.iter().map(|filter| answer(&mut bed, client, filter)).collect();
    assert_eq!((&*answers[0], &*answers[3]), ("SUBACK 7 [01]", "SUBACK 7 [97]"));
    assert!(bed.counter("subscriptions_refused_memory") > 0);
}
