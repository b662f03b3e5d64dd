//! Cases that brokers get wrong for years, by name. Those that a chapter's test covers as it stands are listed with
//! them in `docs/conformance/hard-cases.toml`.

use std::time::Duration;

use quelea_mqtt::Version;
use quelea_shard::Settings;

use super::wire::{CONNACK_5, CONNACK_5_PRESENT, connect_5, connect_311, text, wire};
use crate::bed::{Bed, Client};

/// A QoS 2 and a QoS 1 publication by turns, each released as soon as it may be.
fn publishes(bed: &mut Bed, publisher: Client, payloads: core::ops::RangeInclusive<u16>) {
    for n in payloads {
        let first = if n % 2 == 0 { "34" } else { "32" };
        bed.says(publisher, &format!("{first} .. 0001't' {n:04X} 00 {n:04X}"));
        bed.says(publisher, &format!("62 .. {n:04X}"));
    }
}

// Covers 5.0: 3.3.4-7 3.3.4-9 4.9.0-1 4.9.0-2
#[test]
fn receive_maximum_holds_in_both_directions_across_a_reconnect() {
    let settings = Settings { receive_max: 2, ..Settings::default() };
    let connack = |present| format!("20 .. {present} 00 0B 21 0002 27 00100000 22 0010");
    for back_on in [0, 1] {
        let mut bed = Bed::with(2, &settings);
        // Towards the client: 3 at a time, then 1, then 5.
        let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF 21 0003"));
        bed.hears(client, &connack("00"));
        bed.subscribes(client, "t", 2);
        let publisher = bed.five_told(1, "p", &connack("00"));
        publishes(&mut bed, publisher, 1..=8);
        assert_eq!(bed.take(client).len(), 3);
        bed.reset(client);
        let client = bed.opens(back_on, &connect_5("00", "c", "11 0000FFFF 21 0001"));
        bed.hears(client, &format!("{}; 3A .. 0001't' 0001 00 0001", connack("01")));
        bed.says(client, "40 .. 0001");
        bed.hears(client, "3C .. 0001't' 0002 00 0002");
        bed.says(client, "50 .. 0002");
        bed.hears(client, "62 .. 0002");
        bed.reset(client);
        // What was released no longer counts on a new connection: five more, the third of them again.
        let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF 21 0005"));
        let five = "3A .. 0001't' 0003 00 0003; 34 .. 0001't' 0004 00 0004; 32 .. 0001't' 0005 00 0005; \
                    34 .. 0001't' 0006 00 0006; 32 .. 0001't' 0007 00 0007";
        bed.hears(client, &format!("{}; 62 .. 0002; {five}", connack("01")));
        // It gives nothing back either.
        bed.says(client, "70 .. 0002");
        bed.hears_nothing(client);
        bed.says(client, "40 .. 0003");
        bed.hears(client, "34 .. 0001't' 0008 00 0008");

        // Towards us: two at a time, counted anew on each connection.
        let client = bed.opens(0, &connect_5("00", "q", "11 0000FFFF"));
        bed.hears(client, &connack("00"));
        bed.says(client, "34 .. 0001'u' 0001 00; 34 .. 0001'u' 0002 00");
        bed.hears(client, "50 .. 0001 10; 50 .. 0002 10");
        bed.reset(client);
        let client = bed.opens(back_on, &connect_5("00", "q", "11 0000FFFF"));
        bed.hears(client, &connack("01"));
        bed.says(client, "3C .. 0001'u' 0001 00; 3C .. 0001'u' 0002 00");
        bed.hears(client, "50 .. 0001; 50 .. 0002");
        bed.says(client, "62 .. 0001");
        bed.hears(client, "70 .. 0001");
        bed.says(client, "34 .. 0001'u' 0003 00");
        bed.hears(client, "50 .. 0003 10");
        bed.says(client, "34 .. 0001'u' 0004 00");
        bed.hears_and_is_closed(client, "E0 01 93");
    }
}

// Covers 5.0: 3.3.4-7 4.3.3-10
#[test]
fn a_qos_2_publication_that_is_sent_again_counts_once_against_receive_maximum() {
    let settings = Settings { receive_max: 2, ..Settings::default() };
    for back_on in [0, 1] {
        let mut bed = Bed::with(2, &settings);
        let watcher = bed.three(1, "w");
        bed.subscribes(watcher, "t", 0);
        let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF"));
        bed.take_bytes(client);
        // Again and again on one connection, as only clients before 5.0 should: answered each time, published once.
        for first in ["34", "3C", "3C", "3C", "3C"] {
            bed.says(client, &format!("{first} .. 0001't' 0001 00"));
            bed.hears(client, "50 .. 0001");
        }
        bed.hears(watcher, "30 .. 0001't'");
        bed.says(client, "34 .. 0001't' 0002 00");
        bed.hears(client, "50 .. 0002");
        bed.reset(client);
        // What is released from an earlier connection makes no room on this one.
        let client = bed.opens(back_on, &connect_5("00", "c", "11 0000FFFF"));
        bed.take_bytes(client);
        bed.says(client, "62 .. 0001; 34 .. 0001't' 0003 00");
        bed.says(client, "62 .. 0002; 34 .. 0001't' 0004 00");
        bed.hears(client, "70 .. 0001; 50 .. 0003; 70 .. 0002; 50 .. 0004");
        bed.says(client, "34 .. 0001't' 0005 00");
        bed.hears_and_is_closed(client, "E0 01 93");
        // It was not taken: when it comes again, it is new.
        bed.take_bytes(watcher);
        let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF"));
        bed.take_bytes(client);
        bed.says(client, "3C .. 0001't' 0005 00");
        bed.hears(client, "50 .. 0005");
        bed.hears(watcher, "30 .. 0001't'");
    }
}

// Covers 5.0: 4.3.3-5 4.3.3-6 4.3.3-10 4.4.0-1
#[test]
fn qos_2_replay_after_resume_is_without_a_duplicate_and_without_a_loss() {
    // The publisher's connection is lost before PUBREC, before PUBREL, before PUBCOMP (each unread), or not at all; the
    // subscriber's at the same places of its exchange. Both come back on either shard.
    for lost in 0..4 {
        for reader_lost in 0..4 {
            for back_on in [0, 1] {
                let mut bed = Bed::new(2);
                let reader = bed.opens(0, &connect_5("00", "r", "11 0000FFFF"));
                bed.hears(reader, CONNACK_5);
                bed.subscribes(reader, "t", 2);
                let publisher = bed.opens(0, &connect_5("00", "p", "11 0000FFFF"));
                bed.hears(publisher, CONNACK_5);
                let mut publisher = Some(publisher);
                let again = |bed: &mut Bed, client: &mut Option<Client>, id: &str| {
                    bed.reset(client.take().expect("connected"));
                    let back = bed.opens(back_on, &connect_5("00", id, "11 0000FFFF"));
                    *client = Some(back);
                    back
                };
                bed.says(publisher.expect("connected"), "34 .. 0001't' 0001 00 'x'");
                if lost == 1 {
                    let back = again(&mut bed, &mut publisher, "p");
                    bed.hears(back, CONNACK_5_PRESENT);
                    bed.says(back, "3C .. 0001't' 0001 00 'x'");
                }
                bed.hears(publisher.expect("connected"), "50 .. 0001");
                if lost == 2 {
                    let back = again(&mut bed, &mut publisher, "p");
                    bed.hears(back, CONNACK_5_PRESENT);
                }
                bed.says(publisher.expect("connected"), "62 .. 0001");
                if lost == 3 {
                    let back = again(&mut bed, &mut publisher, "p");
                    bed.hears(back, CONNACK_5_PRESENT);
                    bed.says(back, "62 .. 0001");
                    // It was released already.
                    bed.hears(back, "70 .. 0001 92");
                } else {
                    bed.hears(publisher.expect("connected"), "70 .. 0001");
                }

                let mut reader = Some(reader);
                let mut first = "34";
                if reader_lost == 1 {
                    bed.take_bytes(reader.expect("connected"));
                    let back = again(&mut bed, &mut reader, "r");
                    bed.hears(back, &format!("{CONNACK_5_PRESENT}; 3C .. 0001't' 0001 00 'x'"));
                    first = "";
                }
                if !first.is_empty() {
                    bed.hears(reader.expect("connected"), &format!("{first} .. 0001't' 0001 00 'x'"));
                }
                for lost_here in [2, 3] {
                    bed.says(reader.expect("connected"), "50 .. 0001");
                    bed.hears(reader.expect("connected"), "62 .. 0001");
                    if reader_lost == lost_here {
                        let back = again(&mut bed, &mut reader, "r");
                        bed.hears(back, &format!("{CONNACK_5_PRESENT}; 62 .. 0001"));
                    }
                }
                bed.says(reader.expect("connected"), "70 .. 0001");
                // Once more, to see that nothing is left on either side.
                let back = again(&mut bed, &mut reader, "r");
                bed.hears(back, CONNACK_5_PRESENT);
                bed.says(publisher.expect("connected"), "34 .. 0001't' 0001 00 'y'");
                bed.hears(publisher.expect("connected"), "50 .. 0001");
                let heard = bed.take(back);
                assert_eq!(heard.len(), 1, "{lost} {reader_lost} {heard:?}");
                assert!(heard[0].ends_with("'y'") && !heard[0].contains("dup"), "{heard:?}");
            }
        }
    }
}

// Covers 5.0: 4.3.3-11 3.7.2-1
#[test]
fn pubrel_with_an_unknown_identifier_is_completed() {
    let mut bed = Bed::new(1);
    let (five, three) = (bed.five(0, "five"), bed.three(0, "three"));
    bed.says(five, "62 .. 1234; 62 .. 1234 92");
    bed.hears(five, "70 .. 1234 92; 70 .. 1234 92");
    bed.says(three, "62 .. 1234");
    bed.hears(three, "70 .. 1234");
    // And what the client may say to a PUBREL of ours that it does not know.
    bed.says(five, "70 .. 0001 92; 40 .. 0001; 50 .. 0001 92; 50 .. 0001");
    bed.hears_and_is_closed(five, "E0 01 82");
    let five = bed.five(0, "five");
    bed.says(five, "70 .. 0001 92; 40 .. 0001; 50 .. 0001");
    bed.hears(five, "62 .. 0001 92");
    bed.says(three, "70 .. 0001; 40 .. 0001; 50 .. 0001");
    bed.hears(three, "62 .. 0001");
}

// Covers 5.0: 3.3.1-1 3.3.1-3
#[test]
fn dup_is_set_on_a_retransmission_of_the_same_identifier_and_on_nothing_else() {
    for back_on in [0, 1] {
        let mut bed = Bed::new(2);
        let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF 21 0001"));
        bed.hears(client, CONNACK_5);
        bed.subscribes(client, "t", 1);
        let publisher = bed.five(1, "p");
        bed.says(publisher, "3A .. 0001't' 0001 00 'a'; 3A .. 0001't' 0002 00 'b'");
        bed.hears(client, "32 .. 0001't' 0001 00 'a'");
        bed.reset(client);
        // The second was never sent: it is new when it comes.
        let back = bed.opens(back_on, &connect_5("00", "c", "11 0000FFFF 21 0002"));
        bed.hears(
            back,
            &format!("{CONNACK_5_PRESENT}; 3A .. 0001't' 0001 00 'a'; 32 .. 0001't' 0002 00 'b'"),
        );
        // After its PUBACK the identifier belongs to another message.
        bed.says(back, "40 .. 0001; 40 .. 0002");
        bed.reset(back);
        let back = bed.opens(0, &connect_5("00", "c", "11 0000FFFF"));
        bed.hears(back, CONNACK_5_PRESENT);
        bed.says(publisher, "3A .. 0001't' 0003 00 'c'");
        bed.hears(back, "32 .. 0001't' 0003 00 'c'");
    }
}

// Covers 5.0: 3.1.2-5 3.1.4-3
// Covers 3.1.1: 3.1.2-4 3.1.4-2
#[test]
fn a_session_is_taken_over_by_a_client_with_another_protocol_version() {
    for other in [0, 1] {
        let mut bed = Bed::new(2);
        let publisher = bed.five(1, "p");
        let five = bed.opens(0, &connect_5("00", "c", "11 0000FFFF 21 0002"));
        bed.hears(five, CONNACK_5);
        bed.says(five, "82 .. 0001 02 0B 07 0001't' 0A");
        bed.hears(five, "90 .. 0001 00 02");
        let properties = "0E 02 000000FF 03 0001'c' 09 0002 00FF";
        bed.says(publisher, &format!("35 .. 0001't' 0001 {properties} 'a'"));
        bed.says(publisher, "32 .. 0001't' 0002 00 'b'; 32 .. 0001't' 0003 00 'c'");
        assert_eq!(bed.take(five).len(), 2);
        // 3.1.1: what is in flight comes again without properties, and what waited behind Receive Maximum.
        let three = bed.opens(other, &connect_311("00", "c"));
        bed.speaks(three, Version::V311);
        bed.hears_and_is_closed(five, "E0 01 8E");
        bed.hears(
            three,
            "20 02 01 00; 3D .. 0001't' 0001 'a'; 3A .. 0001't' 0002 'b'; 32 .. 0001't' 0003 'c'",
        );
        bed.says(three, "50 .. 0001; 40 .. 0002");
        bed.hears(three, "62 .. 0001");
        // 3.1: no Session Present, the same session.
        let old = bed.opens(0, "10 .. 0006'MQIsdp' 03 00 0000 0001'c'");
        bed.hears_and_is_closed(three, "");
        bed.hears(old, "20 02 00 00; 62 .. 0001; 3A .. 0001't' 0003 'c'");
        bed.says(old, "70 .. 0001; 40 .. 0003");
        // And back: the subscription still has its identifier and its options.
        let five = bed.opens(other, &connect_5("00", "c", "11 0000FFFF"));
        bed.hears_and_is_closed(old, "");
        bed.hears(five, CONNACK_5_PRESENT);
        bed.says(publisher, &format!("33 .. 0001't' 0004 {properties} 'd'"));
        let heard = bed.take(five);
        assert_eq!(heard, ["PUBLISH t q1 id4 retain sub7 expiry255 'd'"]);
    }
}

// Covers 5.0: 3.3.2-7
#[test]
fn topic_aliases_are_reset_on_a_reconnect() {
    for back_on in [0, 1] {
        let mut bed = Bed::new(2);
        let publisher = bed.five(1, "p");
        // Ours towards the client: set anew, also for what is sent again.
        let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF 22 0005"));
        bed.hears(client, CONNACK_5);
        bed.subscribes(client, "#", 1);
        bed.says(publisher, "32 .. 0001'a' 0001 00; 32 .. 0001'b' 0002 00; 32 .. 0001'b' 0003 00");
        bed.hears(
            client,
            "32 .. 0001'a' 0001 03 23 0001; 32 .. 0001'b' 0002 03 23 0002; 32 .. 0000 0003 03 23 0002",
        );
        bed.says(client, "40 .. 0001");
        bed.reset(client);
        let client = bed.opens(back_on, &connect_5("00", "c", "11 0000FFFF 22 0005"));
        let again = "3A .. 0001'b' 0002 03 23 0001; 3A .. 0000 0003 03 23 0001";
        bed.hears(client, &format!("{CONNACK_5_PRESENT}; {again}"));
        bed.reset(client);
        // And none where the next connection allows none.
        let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF"));
        bed.hears(client, &format!("{CONNACK_5_PRESENT}; 3A .. 0001'b' 0002 00; 3A .. 0001'b' 0003 00"));
        // Theirs.
        bed.says(client, "30 .. 0001'x' 03 23 0003");
        bed.reset(client);
        let client = bed.opens(back_on, &connect_5("00", "c", "11 0000FFFF"));
        bed.says(client, "30 .. 0000 03 23 0003");
        assert_eq!(bed.take(client).last().map(String::as_str), Some("DISCONNECT 0x82"));
    }
}

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
            // Whatever has been seen once is not seen by anybody else, however long it takes.
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

// Covers 5.0: 4.7.2-1
// Covers 3.1.1: 4.7.2-1
#[test]
fn a_subscription_to_everything_does_not_see_sys() {
    let mut bed = Bed::new(2);
    let all = bed.five(0, "all");
    bed.says(all, "82 .. 0001 00 0001'#' 02 0003'+/#' 02 000A'$share/g/#' 02");
    bed.hears(all, "90 .. 0001 00 02 02 02");
    let client = bed.five(1, "c");
    // Our own topics cannot be spoken on, with or without an alias, and not by a Will either.
    bed.says(client, "32 .. 0006'$SYS/x' 0001 00; 30 .. 0004'$SYS' 03 23 0001; 31 .. 0000 03 23 0001");
    bed.hears(client, "40 .. 0001 87");
    let will = bed.opens(0, &format!("10 .. 0004'MQTT' 05 06 0000 00 0001'w' 00 {} 0000", text("$SYS/x")));
    bed.hears_and_is_closed(will, "20 .. 00 87 00");
    bed.says(client, "30 .. 0005'$SYSx' 00; 30 .. 0002'$x' 00");
    bed.hears_nothing(all);
    assert_eq!((bed.counter("denied"), bed.counter("retained")), (3, 0));
}

// Covers 5.0: 3.10.4-2 3.10.4-3
// Covers 3.1.1: 3.10.4-2 3.10.4-3
#[test]
fn unsubscribe_during_delivery() {
    for shards in [1, 2] {
        let mut bed = Bed::new(shards);
        let client = bed.five_with(0, "c", "21 0001");
        bed.subscribes(client, "t", 1);
        bed.subscribes(client, "u", 1);
        let publisher = bed.five(shards - 1, "p");
        for n in 1..=4 {
            let topic = if n % 2 == 0 { 'u' } else { 't' };
            bed.says(publisher, &format!("32 .. 0001'{topic}' {n:04X} 00 {n:02X}"));
        }
        // One is on its way, three wait; then the subscription goes.
        bed.hears(client, "32 .. 0001't' 0001 00 01");
        bed.says(client, "A2 .. 0001 00 0001't'");
        bed.hears(client, "B0 .. 0001 00 00");
        bed.says(publisher, "32 .. 0001't' 0005 00 05; 32 .. 0001'u' 0006 00 06");
        // What is on its way is completed; what was queued before may still come; what came later does not.
        let mut payloads = Vec::new();
        bed.says(client, "40 .. 0001");
        bed.acknowledge_all_into(client, &mut payloads);
        let got: Vec<u8> = payloads.iter().map(|payload| payload[0]).collect();
        assert_eq!(got, [2, 3, 4, 6]);
        bed.is_well(client);
    }
}

/// Deliveries with identifiers out of what a client has received.
fn identifiers(heard: &[String]) -> Vec<u16> {
    let ids = heard.iter().filter_map(|line| line.split(" id").nth(1));
    ids.map(|rest| rest.split(' ').next().and_then(|id| id.parse().ok()).expect("a number")).collect()
}

// Covers 5.0: 2.2.1-4
// Covers 3.1.1: 2.3.1-4
#[test]
fn packet_identifiers_exhausted() {
    let settings = Settings {
        inflight_max: u16::MAX,
        queue_messages_max: 100,
        receive_max: u16::MAX,
        full_deadline: Duration::from_secs(3600),
        ..Settings::default()
    };
    let mut bed = Bed::with(1, &settings);
    let client = bed.opens(0, &connect_5("02", "c", ""));
    bed.take_bytes(client);
    bed.subscribes(client, "t", 1);
    let publisher = bed.opens(0, &connect_5("02", "p", ""));
    bed.take_bytes(publisher);
    // Nothing is acknowledged: long before the identifiers end, the broker waits.
    let batch: String = (1..=1_200).map(|n| format!("32 .. 0001't' {n:04X} 00;")).collect();
    bed.says(publisher, &batch);
    let open = identifiers(&bed.take(client));
    assert_eq!(open, (1..=1_024).collect::<Vec<_>>());
    assert_eq!(bed.take(publisher).len(), 1_024 + 100, "the others have no room and are not acknowledged");
    // One stays open while all the others go around: its identifier is never given to another.
    let acks: String = (1..=1_024).filter(|id| *id != 7).map(|id| format!("40 .. {id:04X};")).collect();
    bed.says(client, &acks);
    let mut last = 1_200_u32;
    let batch: String = (1..=1_000).map(|n| format!("32 .. 0001't' {n:04X} 00;")).collect();
    let batch = wire(&batch);
    while last < 70_000 {
        loop {
            let ids = identifiers(&bed.take(client));
            if ids.is_empty() {
                break;
            }
            assert!(!ids.contains(&7) && !ids.contains(&0));
            let acks: Vec<u8> = ids.iter().flat_map(|id| [0x40, 2, (id >> 8) as u8, *id as u8]).collect();
            bed.send(client, &acks);
        }
        bed.send(publisher, &batch);
        last += 1_000;
    }
    bed.take_bytes(publisher);
    bed.acknowledge_all(client);
    bed.says(client, "40 .. 0007");
    bed.is_well(client);
}

// Covers 5.0: 3.1.2-22
// Covers 3.1.1: 3.1.2-24
#[test]
fn keep_alive_0_is_no_keep_alive() {
    let mut bed = Bed::new(1);
    let clients = [bed.five(0, "five"), bed.three(0, "three")];
    bed.pass(Duration::from_secs(365 * 24 * 3600));
    for client in clients {
        bed.is_well(client);
    }
    assert_eq!(bed.counter("keep_alive_timeouts"), 0);
}

// Covers 5.0: 4.7.3-3
// Covers 3.1.1: 4.7.3-3
#[test]
fn topics_of_65_535_bytes() {
    let mut bed = Bed::new(2);
    let topic = "ü".repeat(32_767) + "x";
    let named = text(&topic);
    let (five, three, all) =
        (bed.five_with(0, "five", "22 0001"), bed.three(1, "three"), bed.three(0, "all"));
    bed.subscribes(five, &topic, 1);
    bed.subscribes(three, &topic, 0);
    bed.subscribes(all, "#", 0);
    let shared = bed.five(1, "shared");
    bed.subscribes(shared, &("$share/g/".to_owned() + &"y".repeat(65_526)), 0);
    let publisher = bed.five(1, "p");
    for n in 1..=2 {
        bed.says(publisher, &format!("33 .. {named} {n:04X} 00 'x'"));
        bed.hears(publisher, &format!("40 .. {n:04X}"));
        let (name, alias) = if n == 1 { (&*named, "03 23 0001") } else { ("0000", "03 23 0001") };
        bed.hears(five, &format!("32 .. {name} {n:04X} {alias} 'x'"));
        bed.hears(three, &format!("30 .. {named} 'x'"));
        bed.hears(all, &format!("30 .. {named} 'x'"));
    }
    bed.says(publisher, &format!("30 .. {} 00 'y'", text(&"y".repeat(65_526))));
    bed.hears(shared, &format!("30 .. {} 00 'y'", text(&"y".repeat(65_526))));
    // Kept, found again, and gone.
    bed.says(five, &format!("82 .. 0001 00 {named} 00"));
    bed.hears(five, "90 .. 0001 00 00; 31 .. 0000 03 23 0001 'x'");
    bed.says(publisher, &format!("31 .. {named} 00"));
    bed.says(five, &format!("A2 .. 0001 00 {named}"));
    assert_eq!(bed.counter("retained"), 0);
    // More cannot be said: two bytes of length. Levels have a limit of their own.
    bed.says(publisher, &format!("32 .. {} 0009 00", text(&"/".repeat(127))));
    bed.hears(publisher, "40 .. 0009");
    bed.says(publisher, &format!("32 .. {} 0009 00", text(&"/".repeat(128))));
    bed.hears_and_is_closed(publisher, "E0 01 90");
}

#[test]
fn packets_of_268_mb_are_refused_by_their_announced_length() {
    let mut bed = Bed::new(1);
    // 1 MiB is the limit here; five bytes of fixed header are all that is ever held of such a packet.
    for first in ["30", "32", "34", "82", "A2", "F0", "E0", "62", "40"] {
        let five = bed.five(0, "five");
        bed.says(five, &format!("{first} FF FF FF 7F"));
        bed.hears_and_is_closed(five, "E0 01 95");
        let three = bed.three(0, "three");
        bed.says(three, &format!("{first} FF FF FF 7F"));
        bed.hears_and_is_closed(three, "");
    }
    let stranger = bed.opens(0, "10 FF FF FF 7F");
    bed.hears_and_is_closed(stranger, "");
    assert_eq!(bed.counter("memory_bytes"), 0);
    // One byte above the limit, and the limit itself: the former is refused before any of its body comes.
    let five = bed.five(0, "five");
    bed.says(five, "30 FD FF 3F");
    bed.hears_and_is_closed(five, "E0 01 95");
    let five = bed.five(0, "five");
    bed.says(five, "30 FC FF 3F");
    assert!(!bed.is_closed(five));
    bed.send(five, &[wire("0001't' 00"), vec![b'x'; 0x0F_FFFC - 4]].concat());
    bed.is_well(five);
}

// Covers 5.0: 4.12.0-7 4.12.1-2
#[test]
fn re_authentication_ends_a_connection_that_was_not_authenticated_by_a_method() {
    let mut bed = Bed::new(2);
    let watcher = bed.five(0, "w");
    bed.subscribes(watcher, "will", 0);
    for auth in ["F0 .. 19 04 15 0001'm'", "F0 .. 19 08 15 0001'm' 16 0001'd'"] {
        let client = bed.opens(1, "10 .. 0004'MQTT' 05 06 0000 00 0001'a' 00 0004'will' 0001'x'");
        bed.hears(client, CONNACK_5);
        bed.says(client, auth);
        bed.hears_and_is_closed(client, "E0 01 82");
        // It has failed, so its Will is published.
        bed.hears(watcher, "30 .. 0004'will' 00 'x'");
    }
}
