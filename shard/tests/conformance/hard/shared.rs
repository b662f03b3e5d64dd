//! Shared subscriptions and members that are away, leave, or are slow.

use std::time::Duration;

use quelea_shard::Settings;

use super::publishes;
use crate::bed::{Bed, Client};
use crate::conformance::wire::{CONNACK_5, CONNACK_5_PRESENT, connect_5, text};

/// A client with a session and a place in `$share/g/t`, QoS 2.
#[track_caller]
fn member(bed: &mut Bed, shard: usize, id: &str, properties: &str) -> Client {
    let client = bed.opens(shard, &connect_5("00", id, &format!("11 0000000A {properties}")));
    bed.hears(client, CONNACK_5);
    bed.subscribes(client, "$share/g/t", 2);
    client
}

#[test]
fn a_shared_subscription_with_no_member_online_keeps_what_comes() {
    for back_on in [0, 1] {
        let settings = Settings { group_messages_max: 3, ..Settings::default() };
        let mut bed = Bed::with(2, &settings);
        let client = member(&mut bed, 0, "a", "");
        bed.reset(client);
        let publisher = bed.five(1, "p");
        // Five, of which the group has room for three: the oldest make room, counted; QoS 0 is not kept at all.
        for n in 1..=5 {
            bed.says(publisher, &format!("32 .. 0001't' {n:04X} 00 {n:02X}; 30 .. 0001't' 00"));
            bed.hears(publisher, &format!("40 .. {n:04X}"));
        }
        assert_eq!((bed.counter("dropped_group_full"), bed.counter("dropped_qos0_group")), (2, 5));
        let back = bed.opens(back_on, &connect_5("00", "a", "11 0000000A"));
        let three = "32 .. 0001't' 0001 00 03; 32 .. 0001't' 0002 00 04; 32 .. 0001't' 0003 00 05";
        bed.hears(back, &format!("{CONNACK_5_PRESENT}; {three}"));
        // The last session goes, and the group with it.
        bed.reset(back);
        bed.pass(Duration::from_secs(11));
        assert_eq!((bed.counter("groups"), bed.counter("subscriptions")), (0, 0));
        bed.says(publisher, "32 .. 0001't' 0009 00");
        bed.hears(publisher, "40 .. 0009 10");
    }
}

// Covers 5.0: 4.8.2-4 4.8.2-5
#[test]
fn a_member_that_leaves_with_unacknowledged_messages_gives_back_qos_1_and_keeps_qos_2() {
    for leaves in ["reset", "DISCONNECT", "UNSUBSCRIBE"] {
        for shards in [1, 2, 3] {
            let mut bed = Bed::new(shards);
            let first = member(&mut bed, 0, "a", "21 0004");
            let publisher = bed.five(shards - 1, "p");
            publishes(&mut bed, publisher, 1..=6);
            // 1 to 4 are with the first member, two of each QoS; 5 and 6 wait for its quota.
            assert_eq!(bed.take(first).len(), 4);
            bed.says(first, "40 .. 0001");
            assert_eq!(bed.take(first).len(), 1);
            let second = member(&mut bed, shards - 1, "b", "");
            match leaves {
                "reset" => bed.reset(first),
                "DISCONNECT" => bed.says(first, "E0 00"),
                _ => {
                    bed.says(first, &format!("A2 .. 0001 00 {}", text("$share/g/t")));
                    bed.hears(first, "B0 .. 0001 00 00");
                }
            }
            let mut payloads = Vec::new();
            bed.acknowledge_all_into(second, &mut payloads);
            let got: Vec<u8> = payloads.iter().map(|payload| payload[1]).collect();
            if leaves == "UNSUBSCRIBE" {
                // What has begun with a client that is still there is completed with it.
                assert_eq!(got, [6]);
                bed.says(first, "40 .. 0003; 40 .. 0005; 50 .. 0002; 50 .. 0004; 70 .. 0002; 70 .. 0004");
                bed.hears(first, "62 .. 0002; 62 .. 0004");
            } else {
                assert_eq!(got, [3, 5, 6], "{leaves} {shards}");
                let back = bed.opens(shards - 1, &connect_5("00", "a", "11 0000000A"));
                bed.hears(
                    back,
                    &format!("{CONNACK_5_PRESENT}; 3C .. 0001't' 0002 00 0002; 3C .. 0001't' 0004 00 0004"),
                );
            }
            // Whatever has been seen once is not seen by anybody else while its session lives (and after it: chapter 4).
            bed.pass(Duration::from_secs(60));
            bed.hears_nothing(second);
        }
    }
}

#[test]
fn a_slow_member_of_a_shared_subscription_does_not_hold_up_the_others() {
    for shards in [1, 2] {
        let mut bed = Bed::new(shards);
        // One at a time, and it never acknowledges.
        let slow = member(&mut bed, 0, "slow", "21 0001");
        let quick = member(&mut bed, shards - 1, "quick", "");
        let publisher = bed.five(shards - 1, "p");
        let mut payloads = Vec::new();
        for n in 1..=200_u16 {
            bed.says(publisher, &format!("32 .. 0001't' {:04X} 00 {n:04X}", n % 30 + 1));
            bed.hears(publisher, &format!("40 .. {:04X}", n % 30 + 1));
            bed.acknowledge_all_into(quick, &mut payloads);
        }
        // What was handed to the slow one comes back when it goes.
        assert_eq!(bed.take(slow).len(), 1);
        assert!(payloads.len() >= 150, "{} of 200", payloads.len());
        bed.reset(slow);
        bed.acknowledge_all_into(quick, &mut payloads);
        let mut got: Vec<u16> = payloads.iter().map(|p| u16::from_be_bytes([p[0], p[1]])).collect();
        got.sort_unstable();
        assert_eq!(got, (1..=200).collect::<Vec<_>>());
    }
}
