//! Chapters 3.8 to 3.11: SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK.

use quelea_shard::Settings;

use super::wire::{text, wire};
use crate::bed::Bed;

// Covers 5.0: 3.8.3-1 3.10.3-1
// Covers 3.1.1: 3.8.3-1 3.10.3-1
#[test]
fn filters_are_text() {
    let mut bed = Bed::new(1);
    for filter in ["0001 FF", "0003 EDA080", "0001 00", "0003'a' 00 'b'"] {
        for (five, three) in [("82 .. 0001 00", "82 .. 0001"), ("A2 .. 0001 00", "A2 .. 0001")] {
            let options = if five.starts_with('8') { "00" } else { "" };
            let client = bed.five(0, "five");
            bed.says(client, &format!("{five} {filter} {options}"));
            bed.hears_and_is_closed(client, "E0 01 81");
            let client = bed.three(0, "three");
            bed.says(client, &format!("{three} {filter} {options}"));
            bed.hears_and_is_closed(client, "");
        }
    }
    assert_eq!(bed.counter("subscriptions"), 0);
}

// Covers 5.0: 3.8.3-2 3.10.3-2
// Covers 3.1.1: 3.8.3-3 3.10.3-2
#[test]
fn a_packet_without_a_filter_ends_the_connection() {
    let mut bed = Bed::new(1);
    for (five, three) in [("82 .. 0001 00", "82 .. 0001"), ("A2 .. 0001 00", "A2 .. 0001")] {
        let client = bed.five(0, "five");
        bed.says(client, five);
        bed.hears_and_is_closed(client, "E0 01 82");
        let client = bed.three(0, "three");
        bed.says(client, three);
        bed.hears_and_is_closed(client, "");
    }
}

// Covers 5.0: 3.8.3-5
// Covers 3.1.1: 3.8.3-4
#[test]
fn reserved_bits_of_the_options_and_qos_3_end_the_connection() {
    let mut bed = Bed::new(1);
    for (options, reason) in [("40", "81"), ("80", "81"), ("C2", "81"), ("30", "82"), ("03", "82")] {
        let client = bed.five(0, "five");
        bed.says(client, &format!("82 .. 0001 00 0001'a' 00 0001't' {options}"));
        bed.hears_and_is_closed(client, &format!("E0 01 {reason}"));
    }
    for options in ["03", "04", "08", "10", "20", "40", "80"] {
        let client = bed.three(0, "three");
        bed.says(client, &format!("82 .. 0001 0001'a' 00 0001't' {options}"));
        bed.hears_and_is_closed(client, "");
    }
    assert_eq!(bed.counter("subscriptions"), 0, "nothing of such a packet is done");
}

// Covers 5.0: 3.8.3-3
#[test]
fn no_local_keeps_a_clients_own_messages_from_it() {
    for other in [0, 1] {
        let mut bed = Bed::new(2);
        let client = bed.five(0, "c");
        bed.subscribes(client, "t", 0x04);
        bed.subscribes(client, "u", 0);
        bed.says(client, "30 .. 0001't' 00 'own'; 31 .. 0001't' 00 'own'; 30 .. 0001'u' 00 'own'");
        bed.hears(client, "30 .. 0001'u' 00 'own'");
        let other = bed.five(other, "o");
        bed.says(other, "30 .. 0001't' 00 'theirs'");
        bed.hears(client, "30 .. 0001't' 00 'theirs'");
        // It is about this subscription alone.
        bed.says(client, "82 .. 0001 00 0001'+' 01");
        bed.take_bytes(client);
        bed.says(client, "32 .. 0001't' 0007 00 'own'");
        bed.hears(client, "40 .. 0007; 32 .. 0001't' 0001 00 'own'");
    }
}

// Covers 5.0: 3.8.3-4
#[test]
fn no_local_on_a_shared_subscription_ends_the_connection() {
    let mut bed = Bed::new(1);
    for options in ["04", "05", "0C"] {
        let client = bed.five(0, "c");
        bed.says(client, &format!("82 .. 0001 00 {} {options}", text("$share/g/t")));
        bed.hears_and_is_closed(client, "E0 01 82");
    }
    assert_eq!(bed.counter("groups"), 0);
}

// Covers 5.0: 3.8.4-3
// Covers 3.1.1: 3.8.4-3
#[test]
fn a_subscription_to_the_same_filter_replaces_the_one_there_was() {
    let mut bed = Bed::new(2);
    let publisher = bed.five(1, "p");
    let five = bed.five(0, "five");
    bed.says(five, "82 .. 0001 02 0B 01 0001't' 00");
    bed.says(five, "82 .. 0002 02 0B 02 0001't' 01; 82 .. 0003 00 0002'tt' 00");
    bed.hears(five, "90 .. 0001 00 00; 90 .. 0002 00 01; 90 .. 0003 00 00");
    let three = bed.three(0, "three");
    bed.says(three, "82 .. 0001 0001't' 00; 82 .. 0002 0001't' 01");
    bed.hears(three, "90 .. 0001 00; 90 .. 0002 01");
    assert_eq!(bed.counter("subscriptions"), 3);
    bed.says(publisher, "34 .. 0001't' 0001 00 'x'");
    bed.hears(five, "32 .. 0001't' 0001 02 0B 02 'x'");
    bed.hears(three, "32 .. 0001't' 0001 'x'");
    bed.says(five, "82 .. 0004 00 0001't' 00");
    bed.hears(five, "90 .. 0004 00 00");
    bed.says(publisher, "32 .. 0001't' 0002 00 'y'");
    bed.hears(five, "30 .. 0001't' 00 'y'");
}

// Covers 5.0: 3.8.4-4
// Covers 3.1.1: 3.8.4-3
#[test]
fn replacing_a_subscription_loses_nothing_and_brings_the_retained_messages_again() {
    let mut bed = Bed::new(2);
    let publisher = bed.five(1, "p");
    bed.says(publisher, "31 .. 0001't' 00 'r'");
    let client = bed.three(0, "c");
    bed.says(client, "82 .. 0001 0001't' 01");
    bed.hears(client, "90 .. 0001 01; 31 .. 0001't' 'r'");
    // Replaced again and again while messages come, on both shards, in whatever turn.
    let mut payloads = Vec::new();
    for n in 1..=50 {
        let publish = wire(&format!("32 .. 0001't' {n:04X} 00 {n:02X}"));
        let again = wire(&format!("82 .. {n:04X} 0001't' 01"));
        use quelea_shard::DoorId;
        bed.shards[1].handle_door_bytes(bed.now, DoorId(publisher.door), &publish);
        bed.shards[0].handle_door_bytes(bed.now, DoorId(client.door), &again);
        bed.run();
        bed.acknowledge_all_into(client, &mut payloads);
    }
    let live: Vec<u8> =
        payloads.iter().filter(|payload| payload.len() == 1 && payload[0] != b'r').map(|p| p[0]).collect();
    assert_eq!(live, (1..=50).collect::<Vec<u8>>());
    assert_eq!(payloads.iter().filter(|payload| payload[..] == *b"r").count(), 50);
}

// Covers 5.0: 3.8.4-5 3.8.4-6 3.8.4-7 3.9.3-1
// Covers 3.1.1: 3.8.4-4 3.8.4-5 3.9.3-1
#[test]
fn several_filters_in_one_packet_are_answered_in_their_order() {
    let mut bed = Bed::new(2);
    let publisher = bed.five(1, "p");
    bed.says(publisher, "31 .. 0001'a' 00 'r'");
    let five = bed.five(0, "five");
    bed.says(five, "82 .. 0001 00 0001'a' 02 0002'b#' 00 0001'c' 01 0001'a' 00 000A'$share/g/d' 01");
    let heard = bed.take(five);
    assert_eq!(heard[0], "SUBACK 1 [02, 8f, 01, 00, 01]", "{heard:?}");
    // As if they had come one after the other: the last for `a` counts.
    assert!(heard[1..].iter().all(|line| line == "PUBLISH a q0 retain 'r'"), "{heard:?}");
    let three = bed.three(1, "three");
    bed.says(three, "82 .. 0001 0001'd' 02 0002'b#' 00 0001'c' 01 0001'd' 00");
    bed.hears(three, "90 .. 0001 02 80 01 00");
    bed.says(publisher, "34 .. 0001'a' 0001 00; 34 .. 0001'c' 0002 00");
    bed.hears(five, "30 .. 0001'a' 00; 32 .. 0001'c' 0001 00");
    bed.hears(three, "32 .. 0001'c' 0001");
}

// Covers 5.0: 3.8.4-7 3.9.3-2
// Covers 3.1.1: 3.8.4-5 3.9.3-2
#[test]
fn a_failed_subscription_is_told_in_the_words_of_its_version() {
    let settings = Settings { subscriptions_max: 1, groups_max: 0, ..Settings::default() };
    let mut bed = Bed::with(2, &settings);
    let five = bed.five(0, "five");
    bed.says(
        five,
        "82 .. 0001 00 000A'$share/g/t' 01 0001't' 01 0001'u' 01 0000 01 0002'#a' 01 0007'$share/' 01",
    );
    bed.hears(five, "90 .. 0001 00 97 97 97 8F 8F 8F");
    bed.says(five, "82 .. 0002 00 0001't' 01 0001'u' 01");
    bed.hears(five, "90 .. 0002 00 01 97");
    let three = bed.three(1, "three");
    bed.says(three, "82 .. 0001 0001't' 01 0001'u' 01 0000 01 0002'#a' 01 0002'a+' 01");
    bed.hears(three, "90 .. 0001 01 80 80 80 80");
    bed.is_well(five);
}

// Covers 5.0: 3.8.4-8
// Covers 3.1.1: 3.8.4-6
#[test]
fn a_message_comes_with_the_lower_qos() {
    for shards in [1, 2] {
        let mut bed = Bed::new(shards);
        let (five, three) = (bed.five(0, "five"), bed.three(shards - 1, "three"));
        let publisher = bed.five(shards - 1, "p");
        let mut next = 0;
        for granted in 0..=2 {
            bed.subscribes(five, "t", granted);
            bed.subscribes(three, "t", granted);
            for (published, packet) in
                ["30 .. 0001't' 00", "32 .. 0001't' 0001 00", "34 .. 0001't' 0001 00"].iter().enumerate()
            {
                bed.says(publisher, packet);
                if published == 2 {
                    bed.says(publisher, "62 .. 0001");
                }
                let first = ["30", "32", "34"][published.min(usize::from(granted))];
                let id = if first == "30" {
                    String::new()
                } else {
                    next += 1;
                    format!("{next:04X}")
                };
                bed.hears(five, &format!("{first} .. 0001't' {id} 00"));
                bed.hears(three, &format!("{first} .. 0001't' {id}"));
            }
        }
    }
}

// Covers 5.0: 3.10.4-1 4.7.3-4
// Covers 3.1.1: 3.10.4-1 4.7.3-4
#[test]
fn unsubscribe_compares_character_by_character() {
    let mut bed = Bed::new(2);
    let (five, three) = (bed.five(0, "five"), bed.three(1, "three"));
    bed.subscribes(five, "a/+", 0);
    bed.subscribes(three, "a/+", 0);
    // Equal in meaning, in case or to the eye, but not equal.
    for other in ["a/#", "A/+", "a/b", "/a/+", "a/+/", "$share/g/a/+", "\u{61}\u{301}/+"] {
        bed.says(five, &format!("A2 .. 0001 00 {}", text(other)));
        bed.hears(five, "B0 .. 0001 00 11");
        bed.says(three, &format!("A2 .. 0001 {}", text(other)));
        bed.hears(three, "B0 .. 0001");
    }
    bed.says(five, "30 .. 0003'a/b' 00 'x'");
    bed.hears(five, "30 .. 0003'a/b' 00 'x'");
    bed.hears(three, "30 .. 0003'a/b' 'x'");
    bed.says(five, "A2 .. 0002 00 0003'a/+'");
    bed.hears(five, "B0 .. 0002 00 00");
    bed.says(three, "A2 .. 0002 0003'a/+'");
    bed.hears(three, "B0 .. 0002");
    assert_eq!(bed.counter("subscriptions"), 0);
}

// Covers 5.0: 3.10.4-2 3.10.4-3
// Covers 3.1.1: 3.10.4-2 3.10.4-3
#[test]
fn unsubscribe_ends_what_is_to_come_and_completes_what_has_begun() {
    let mut bed = Bed::new(2);
    let publisher = bed.five(1, "p");
    for (client, none) in [(bed.five(0, "five"), "00"), (bed.three(0, "three"), "")] {
        bed.subscribes(client, "t", 2);
        bed.says(
            publisher,
            "32 .. 0001't' 0001 00 'a'; 34 .. 0001't' 0002 00 'b'; 34 .. 0001't' 0003 00 'c'",
        );
        bed.says(publisher, "62 .. 0002; 62 .. 0003");
        assert_eq!(bed.take(client).len(), 3);
        bed.says(client, "50 .. 0003");
        bed.hears(client, "62 .. 0003");
        bed.says(client, &format!("A2 .. 0009 {none} 0001't'"));
        assert_eq!(bed.take(client).len(), 1);
        bed.says(publisher, "32 .. 0001't' 0004 00 'd'");
        bed.hears_nothing(client);
        bed.says(client, "40 .. 0001; 50 .. 0002; 70 .. 0003");
        bed.hears(client, "62 .. 0002");
        bed.says(client, "70 .. 0002");
        bed.hears_nothing(client);
        bed.says(client, "E0 00");
    }
    bed.take_bytes(publisher);
    bed.says(publisher, "E0 00");
    assert_eq!(bed.counter("memory_bytes"), 0);
}

// Covers 5.0: 3.10.4-6 3.11.3-1 3.11.3-2
// Covers 3.1.1: 3.10.4-6
#[test]
fn several_filters_of_unsubscribe_are_answered_in_their_order() {
    let mut bed = Bed::new(2);
    let five = bed.five(0, "five");
    bed.says(five, "82 .. 0001 00 0001'a' 00 0001'b' 00; 82 .. 0002 00 000A'$share/g/c' 00");
    bed.hears(five, "90 .. 0001 00 00 00; 90 .. 0002 00 00");
    bed.says(five, "A2 .. 0003 00 0001'x' 0001'b' 000A'$share/g/c' 0002'a#' 0001'b' 0001'a'");
    bed.hears(five, "B0 .. 0003 00 11 00 00 8F 11 00");
    let three = bed.three(1, "three");
    bed.says(three, "82 .. 0001 0001'a' 00 0001'b' 00; A2 .. 0002 0001'x' 0001'b' 0001'a'");
    bed.hears(three, "90 .. 0001 00 00; B0 .. 0002");
    assert_eq!(bed.counter("subscriptions") + bed.counter("groups"), 0);
}
