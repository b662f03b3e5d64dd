//! Chapter 3.3: PUBLISH.

use std::time::Duration;

use quelea_mqtt::Version;
use quelea_shard::{Action, Completion, Permissions, Settings, Work};

use super::wire::{CONNACK_5_PRESENT, connect_5, connect_311, wire};
use crate::bed::Bed;

/// Two clients of each version subscribe to `t`: the first with QoS 2, the second with QoS 0.
fn four_subscribers(bed: &mut Bed) -> [crate::bed::Client; 4] {
    let clients =
        [bed.five(0, "five-2"), bed.five(1, "five-0"), bed.three(1, "three-2"), bed.three(0, "three-0")];
    for (client, qos) in clients.into_iter().zip([2, 0, 2, 0]) {
        bed.subscribes(client, "t", qos);
    }
    clients
}

// Covers 5.0: 3.3.1-2 3.3.1-3 4.3.1-1 4.3.2-2 4.3.3-2
// Covers 3.1.1: 3.3.1-2 3.3.1-3 4.3.1-1
#[test]
fn dup_of_a_publisher_does_not_reach_subscribers() {
    let mut bed = Bed::new(2);
    let [five, five_0, three, three_0] = four_subscribers(&mut bed);
    let publisher = bed.five(1, "p");
    // QoS 1 with DUP, QoS 2 with DUP, QoS 0.
    bed.says(publisher, "3A .. 0001't' 0007 00 'a'; 3C .. 0001't' 0008 00 'b'; 30 .. 0001't' 00 'c'");
    bed.hears(publisher, "40 .. 0007; 50 .. 0008");
    bed.hears(five, "32 .. 0001't' 0001 00 'a'; 34 .. 0001't' 0002 00 'b'; 30 .. 0001't' 00 'c'");
    bed.hears(five_0, "30 .. 0001't' 00 'a'; 30 .. 0001't' 00 'b'; 30 .. 0001't' 00 'c'");
    bed.hears(three, "32 .. 0001't' 0001 'a'; 34 .. 0001't' 0002 'b'; 30 .. 0001't' 'c'");
    bed.hears(three_0, "30 .. 0001't' 'a'; 30 .. 0001't' 'b'; 30 .. 0001't' 'c'");
}

// Covers 5.0: 3.3.1-2 3.3.1-4
// Covers 3.1.1: 3.3.1-2 3.3.1-4
#[test]
fn qos_3_and_dup_with_qos_0_end_the_connection() {
    let mut bed = Bed::new(1);
    for first in ["36", "3E", "37", "38", "39"] {
        let five = bed.five(0, "five");
        bed.says(five, &format!("{first} .. 0001't' 0001 00"));
        bed.hears_and_is_closed(five, "E0 01 81");
        let three = bed.three(0, "three");
        bed.says(three, &format!("{first} .. 0001't' 0001"));
        bed.hears_and_is_closed(three, "");
    }
}

// Covers 5.0: 3.3.1-1 3.3.1-3 4.4.0-1 4.6.0-1 4.3.2-3 4.3.3-3
// Covers 3.1.1: 3.3.1-1 3.3.1-3 4.4.0-1 4.6.0-1 4.3.2-1
#[test]
fn what_is_sent_again_has_dup_and_its_identifier_and_its_place() {
    for back_on in [0, 1] {
        let mut bed = Bed::new(2);
        let five = bed.opens(0, &connect_5("00", "five", "11 0000003C"));
        let three = bed.opens(0, &connect_311("00", "three"));
        bed.speaks(three, Version::V311);
        bed.take_bytes(five);
        bed.take_bytes(three);
        for client in [five, three] {
            bed.subscribes(client, "t", 2);
        }
        let publisher = bed.five(1, "p");
        bed.says(
            publisher,
            "32 .. 0001't' 0001 00 'a'; 34 .. 0001't' 0002 00 'b'; 32 .. 0001't' 0003 00 'c'",
        );
        bed.says(publisher, "34 .. 0001't' 0004 00 'd'");
        bed.hears(publisher, "40 .. 0001; 50 .. 0002; 40 .. 0003; 50 .. 0004");
        assert_eq!((bed.take(five).len(), bed.take(three).len()), (4, 4));
        // The third is acknowledged; nothing is sent again while the connection lasts, however long that is.
        for client in [five, three] {
            bed.says(client, "40 .. 0003");
        }
        bed.pass(Duration::from_secs(24 * 3600));
        for client in [five, three] {
            bed.hears_nothing(client);
            bed.reset(client);
        }
        let five = bed.opens(back_on, &connect_5("00", "five", "11 0000003C"));
        bed.hears(
            five,
            &format!(
                "{CONNACK_5_PRESENT}; 3A .. 0001't' 0001 00 'a'; 3C .. 0001't' 0002 00 'b'; 3C .. 0001't' 0004 00 'd'"
            ),
        );
        let three = bed.opens(back_on, &connect_311("00", "three"));
        bed.hears(
            three,
            "20 02 01 00; 3A .. 0001't' 0001 'a'; 3C .. 0001't' 0002 'b'; 3C .. 0001't' 0004 'd'",
        );
    }
}

// Covers 5.0: 3.3.1-5 3.3.1-8
// Covers 3.1.1: 3.3.1-5 3.3.1-6 3.3.1-8 3.3.1-12
#[test]
fn the_last_retained_message_is_kept_and_others_leave_it_alone() {
    for shards in [1, 2, 3] {
        let mut bed = Bed::new(shards);
        let publisher = bed.three(0, "p");
        bed.says(publisher, "35 .. 0001't' 0001 'old'; 33 .. 0001't' 0002 'new'; 32 .. 0001't' 0003 'live'");
        bed.hears(publisher, "50 .. 0001; 40 .. 0002; 40 .. 0003");
        assert_eq!(bed.counter("retained"), 1);
        // With the QoS that it was published with, or the granted one if that is lower.
        let five = bed.five(shards - 1, "five");
        bed.says(five, "82 .. 0001 00 0001't' 02");
        bed.hears(five, "90 .. 0001 00 02; 33 .. 0001't' 0001 00 'new'");
        let three = bed.three(shards - 1, "three");
        bed.says(three, "82 .. 0001 0001't' 00");
        bed.hears(three, "90 .. 0001 00; 31 .. 0001't' 'new'");
        bed.says(publisher, "30 .. 0001't'");
        assert_eq!(bed.counter("retained"), 1);
    }
}

// Covers 5.0: 3.3.1-6 3.3.1-7
// Covers 3.1.1: 3.3.1-7 3.3.1-10 3.3.1-11
#[test]
fn an_empty_retained_message_is_delivered_and_deletes_what_was_there() {
    for shards in [1, 2, 3] {
        let mut bed = Bed::new(shards);
        let (five, three) = (bed.five(0, "five"), bed.three(shards - 1, "three"));
        for client in [five, three] {
            bed.subscribes(client, "t", 1);
        }
        let publisher = bed.three(shards - 1, "p");
        // QoS 0 replaces as well.
        bed.says(publisher, "33 .. 0001't' 0001 'a'; 31 .. 0001't' 'b'");
        assert_eq!(bed.counter("retained"), 1);
        bed.says(publisher, "33 .. 0001't' 0002");
        bed.hears(publisher, "40 .. 0001; 40 .. 0002");
        bed.hears(five, "32 .. 0001't' 0001 00 'a'; 30 .. 0001't' 00 'b'; 32 .. 0001't' 0002 00");
        bed.hears(three, "32 .. 0001't' 0001 'a'; 30 .. 0001't' 'b'; 32 .. 0001't' 0002");
        assert_eq!(bed.counter("retained"), 0);
        let late = bed.five(0, "late");
        bed.says(late, "82 .. 0001 00 0001't' 01");
        bed.hears(late, "90 .. 0001 00 01");
    }
}

// Covers 5.0: 3.3.1-9 3.3.1-10 3.3.1-11
#[test]
fn retain_handling_0_1_and_2_decide_about_retained_messages() {
    let mut bed = Bed::new(2);
    let publisher = bed.five(0, "p");
    bed.says(publisher, "31 .. 0003't/1' 00 'a'");
    let client = bed.five(1, "c");
    let retained = "31 .. 0003't/1' 00 'a'";
    for (what, options, sent) in [
        ("2, new", "20", false),
        ("2, again", "20", false),
        ("1, again", "10", false),
        ("0, again", "00", true),
        ("0, again", "00", true),
    ] {
        bed.says(client, &format!("82 .. 0001 00 0003't/+' {options}"));
        bed.hears(
            client,
            &if sent { format!("90 .. 0001 00 00; {retained}") } else { "90 .. 0001 00 00".into() },
        );
        assert_eq!(bed.counter("subscriptions"), 1, "{what}");
    }
    bed.says(client, "A2 .. 0002 00 0003't/+'; 82 .. 0003 00 0003't/+' 10");
    bed.hears(client, &format!("B0 .. 0002 00 00; 90 .. 0003 00 00; {retained}"));
}

// Covers 5.0: 3.3.1-12 3.3.1-13
// Covers 3.1.1: 3.3.1-9
#[test]
fn the_retain_flag_of_live_messages_is_the_publishers_only_where_asked_for() {
    let mut bed = Bed::new(2);
    let (plain, as_published, three) = (bed.five(0, "plain"), bed.five(1, "as"), bed.three(1, "three"));
    bed.subscribes(plain, "t", 0);
    bed.subscribes(as_published, "t", 0x08);
    bed.subscribes(three, "t", 0);
    let publisher = bed.five(0, "p");
    bed.says(publisher, "31 .. 0001't' 00 'r'; 30 .. 0001't' 00 'n'");
    bed.hears(plain, "30 .. 0001't' 00 'r'; 30 .. 0001't' 00 'n'");
    bed.hears(as_published, "31 .. 0001't' 00 'r'; 30 .. 0001't' 00 'n'");
    bed.hears(three, "30 .. 0001't' 'r'; 30 .. 0001't' 'n'");
}

// Covers 5.0: 3.3.2-1 3.3.2-2 4.7.0-1 4.7.3-1
// Covers 3.1.1: 3.3.2-1 3.3.2-2 4.7.1-1 4.7.3-1
#[test]
fn a_topic_name_is_there_and_has_no_wildcards() {
    let mut bed = Bed::new(1);
    for topic in ["#", "+", "a/#", "a/+/b", "a+", "#b"] {
        let topic = super::wire::text(topic);
        let five = bed.five(0, "five");
        bed.says(five, &format!("30 .. {topic} 00 'x'"));
        bed.hears_and_is_closed(five, "E0 01 90");
        let three = bed.three(0, "three");
        bed.says(three, &format!("30 .. {topic} 'x'"));
        bed.hears_and_is_closed(three, "");
    }
    for (missing, reason) in
        [("30 00", "81"), ("30 .. 00", "81"), ("30 .. 0005'ab'", "81"), ("30 .. 0000 00", "82")]
    {
        let five = bed.five(0, "five");
        bed.says(five, missing);
        bed.hears_and_is_closed(five, &format!("E0 01 {reason}"));
    }
    let three = bed.three(0, "three");
    bed.says(three, "30 .. 0000 'x'");
    bed.hears_and_is_closed(three, "");
}

// Covers 5.0: 3.3.2-3
// Covers 3.1.1: 3.3.2-3
#[test]
fn a_delivery_names_the_topic_that_it_was_published_to() {
    let mut bed = Bed::new(2);
    let (five, three) = (bed.five(0, "five"), bed.three(1, "three"));
    bed.subscribes(five, "a/+/c", 0);
    bed.subscribes(three, "a/#", 0);
    let publisher = bed.five(0, "p");
    bed.says(publisher, "30 .. 0005'a/b/c' 00; 30 .. 0005'a/b/d' 00; 30 .. 0001'a' 00; 30 .. 0001'b' 00");
    bed.hears(five, "30 .. 0005'a/b/c' 00");
    bed.hears(three, "30 .. 0005'a/b/c'; 30 .. 0005'a/b/d'; 30 .. 0001'a'");
}

// Covers 5.0: 3.3.2-4 3.3.2-15 3.3.2-16 3.3.2-17 3.3.2-18 3.3.2-20
#[test]
fn properties_of_a_publication_are_forwarded_as_they_came() {
    let mut bed = Bed::new(2);
    let client = bed.five(1, "c");
    bed.subscribes(client, "#", 1);
    let three = bed.three(0, "three");
    bed.subscribes(three, "#", 0);
    let publisher = bed.five(0, "p");
    for property in [
        "01 00",
        "01 01",
        "03 0000",
        "03 0009'text/html'",
        "08 0005'a/b/c'",
        "09 0000",
        "09 0004 00FF0102",
        "26 0000 0000",
        "26 0001'k' 0001'v' 26 0001'a' 0001'b' 26 0001'k' 0001'v' 26 0001'k' 0001'w'",
        "26 0003 EFBBBF 0001'v'",
    ] {
        let publish = format!("0001't' {:02X} {property} 'x'", wire(property).len());
        bed.says(publisher, &format!("30 .. {publish}"));
        bed.hears(client, &format!("30 .. {publish}"));
        bed.hears(three, "30 .. 0001't' 'x'");
    }
}

// Covers 5.0: 3.3.2-13 3.3.2-14 3.3.2-19
#[test]
fn response_topic_and_content_type_are_text_and_the_former_a_topic_name() {
    let mut bed = Bed::new(1);
    for (property, reason) in [
        ("08 0001 FF", "81"),
        ("08 0001 00", "81"),
        ("08 0003'a/+'", "82"),
        ("08 0001'#'", "82"),
        ("08 0000", "82"),
        ("03 0001 FF", "81"),
        ("03 0001 00", "81"),
    ] {
        let client = bed.five(0, "c");
        bed.says(client, &format!("30 .. 0001't' {:02X} {property} 'x'", wire(property).len()));
        bed.hears_and_is_closed(client, &format!("E0 01 {reason}"));
    }
}

// Covers 5.0: 3.3.2-5 3.3.2-6
#[test]
fn message_expiry_is_counted_down_in_the_forwarded_property() {
    for back_on in [0, 1] {
        let mut bed = Bed::new(2);
        let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF"));
        bed.take_bytes(client);
        bed.subscribes(client, "t", 1);
        bed.reset(client);
        let publisher = bed.five(1, "p");
        bed.says(publisher, "32 .. 0001't' 0001 05 02 0000000A 'a'; 32 .. 0001't' 0002 05 02 00000064 'b'");
        bed.says(publisher, "32 .. 0001't' 0003 00 'c'");
        bed.pass(Duration::from_secs(10));
        let back = bed.opens(back_on, &connect_5("00", "c", "11 0000FFFF"));
        bed.hears(
            back,
            &format!("{CONNACK_5_PRESENT}; 32 .. 0001't' 0001 05 02 0000005A 'b'; 32 .. 0001't' 0002 00 'c'"),
        );
        assert_eq!(bed.counter("expired"), 1);
        // At once, nothing is lost of it.
        bed.says(publisher, "30 .. 0001't' 05 02 00000001 'd'");
        bed.hears(back, "30 .. 0001't' 05 02 00000001 'd'");
    }
}

// Covers 5.0: 3.3.2-5 3.3.2-6
#[test]
fn message_expiry_counts_for_retained_messages() {
    let mut bed = Bed::new(2);
    let publisher = bed.five(0, "p");
    bed.says(publisher, "31 .. 0003't/1' 05 02 0000000A 'a'; 31 .. 0003't/2' 05 02 00000064 'b'");
    bed.says(publisher, "31 .. 0004'$t/3' 05 02 0000000A 'c'");
    assert_eq!(bed.counter("retained"), 3);
    bed.pass(Duration::from_secs(40));
    let client = bed.five(1, "c");
    bed.says(client, "82 .. 0001 00 0003't/#' 00; 82 .. 0002 00 0004'$t/#' 00");
    bed.hears(client, "90 .. 0001 00 00; 90 .. 0002 00 00; 31 .. 0003't/2' 05 02 0000003C 'b'");
    assert_eq!(bed.counter("retained"), 1, "what has expired leaves the store");
}

// Covers 5.0: 3.3.2-7 3.3.2-12
#[test]
fn topic_aliases_of_a_client_are_taken_up_to_our_maximum_and_end_with_the_connection() {
    let mut bed = Bed::new(1);
    let watcher = bed.five(0, "w");
    bed.subscribes(watcher, "#", 0);
    let client = bed.opens(0, &connect_5("00", "c", "11 0000003C"));
    bed.take_bytes(client);
    for alias in 1..=16 {
        bed.says(client, &format!("30 .. 0003't{alias:02}' 03 23 {alias:04X} 'a'"));
        bed.says(client, &format!("30 .. 0000 03 23 {alias:04X} 'b'"));
        bed.hears(watcher, &format!("30 .. 0003't{alias:02}' 00 'a'; 30 .. 0003't{alias:02}' 00 'b'"));
    }
    // Set anew.
    bed.says(client, "30 .. 0003'new' 03 23 0001; 30 .. 0000 03 23 0001 'c'");
    bed.hears(watcher, "30 .. 0003'new' 00; 30 .. 0003'new' 00 'c'");
    // The session goes on, the aliases do not.
    bed.reset(client);
    let back = bed.opens(0, &connect_5("00", "c", "11 0000003C"));
    bed.hears(back, CONNACK_5_PRESENT);
    bed.says(back, "30 .. 0000 03 23 0001 'd'");
    bed.hears_and_is_closed(back, "E0 01 82");
    bed.hears_nothing(watcher);
}

// Covers 5.0: 3.3.2-8 3.3.2-9
#[test]
fn a_topic_alias_of_0_or_above_our_maximum_ends_the_connection() {
    let mut bed = Bed::new(1);
    for alias in ["0000", "0011", "FFFF"] {
        for topic in ["0001't'", "0000"] {
            let client = bed.five(0, "c");
            bed.says(client, &format!("30 .. {topic} 03 23 {alias}"));
            bed.hears_and_is_closed(client, "E0 01 94");
        }
    }
}

// Covers 5.0: 3.1.2-26 3.1.2-27 3.3.2-8 3.3.2-11
#[test]
fn topic_aliases_towards_a_client_stay_within_its_maximum() {
    let mut bed = Bed::new(2);
    let publisher = bed.five(0, "p");
    for (properties, first_two) in [
        ("", "30 .. 0001'a' 00; 30 .. 0001'b' 00; 30 .. 0001'a' 00; 30 .. 0001'b' 00"),
        ("22 0000", "30 .. 0001'a' 00; 30 .. 0001'b' 00; 30 .. 0001'a' 00; 30 .. 0001'b' 00"),
        ("22 0001", "30 .. 0001'a' 03 23 0001; 30 .. 0001'b' 00; 30 .. 0000 03 23 0001; 30 .. 0001'b' 00"),
        (
            "22 0002",
            "30 .. 0001'a' 03 23 0001; 30 .. 0001'b' 03 23 0002; 30 .. 0000 03 23 0001; 30 .. 0000 03 23 0002",
        ),
    ] {
        // Each connection begins without aliases.
        for _ in 0..2 {
            let client = bed.five_with(1, "c", properties);
            bed.subscribes(client, "+", 0);
            bed.says(publisher, "30 .. 0001'a' 00; 30 .. 0001'b' 00; 30 .. 0001'a' 00; 30 .. 0001'b' 00");
            bed.hears(client, first_two);
            bed.reset(client);
        }
    }
}

// Covers 5.0: 3.3.4-1 4.3.2-4 4.3.3-8 4.3.3-11
// Covers 3.1.1: 3.3.4-1 4.3.2-2
#[test]
fn a_publish_is_answered_as_its_qos_says() {
    let mut bed = Bed::new(2);
    for (client, none, nobody) in [(bed.five(0, "five"), "00", "10"), (bed.three(1, "three"), "", "")] {
        bed.says(client, &format!("30 .. 0001't' {none} 'x'"));
        bed.hears_nothing(client);
        bed.says(client, &format!("32 .. 0001't' 0001 {none} 'x'"));
        bed.hears(client, &format!("40 .. 0001 {nobody}"));
        bed.says(client, &format!("34 .. 0001't' 0002 {none} 'x'"));
        bed.hears(client, &format!("50 .. 0002 {nobody}"));
        bed.says(client, "62 .. 0002");
        bed.hears(client, "70 .. 0002");
    }
}

// Covers 5.0: 3.3.4-2 3.3.4-3 3.3.4-4
// Covers 3.1.1: 3.3.5-1
#[test]
fn overlapping_subscriptions_give_one_copy_with_the_highest_qos_and_all_identifiers() {
    let mut bed = Bed::new(2);
    let (five, three) = (bed.five(0, "five"), bed.three(0, "three"));
    bed.says(
        five,
        "82 .. 0001 02 0B 01 0003'a/+' 00; 82 .. 0002 02 0B 02 0003'a/#' 02; 82 .. 0003 00 0003'a/b' 01",
    );
    bed.hears(five, "90 .. 0001 00 00; 90 .. 0002 00 02; 90 .. 0003 00 01");
    bed.says(three, "82 .. 0001 0003'a/+' 00 0003'a/#' 02 0003'a/b' 01");
    bed.hears(three, "90 .. 0001 00 02 01");
    let publisher = bed.five(1, "p");
    bed.says(publisher, "34 .. 0003'a/b' 0001 00 'x'");
    let heard = bed.take(five);
    assert_eq!(heard.len(), 1, "{heard:?}");
    // The order of the identifiers means nothing.
    let one = "PUBLISH a/b q2 id1 sub1 sub2 'x'";
    assert!(heard[0] == one || heard[0] == "PUBLISH a/b q2 id1 sub2 sub1 'x'", "{heard:?}");
    bed.hears(three, "34 .. 0003'a/b' 0001 'x'");
    bed.says(publisher, "32 .. 0001'a' 0002 00 'y'");
    bed.hears(five, "32 .. 0001'a' 0002 02 0B 02 'y'");
}

// Covers 5.0: 3.3.4-6
#[test]
fn a_subscription_identifier_in_a_clients_publish_ends_the_connection() {
    let mut bed = Bed::new(1);
    let client = bed.five(0, "c");
    bed.says(client, "30 .. 0001't' 02 0B 01");
    bed.hears_and_is_closed(client, "E0 01 82");
}

// Covers 5.0: 3.3.4-7
#[test]
fn a_publisher_beyond_receive_maximum_is_cut_off() {
    let settings = Settings { receive_max: 2, ..Settings::default() };
    let mut bed = Bed::with(2, &settings);
    let client = bed.opens(0, &connect_5("02", "c", ""));
    bed.take_bytes(client);
    // PUBCOMP, PUBACK and a PUBREC with an error give it back.
    for n in 1..=5 {
        bed.says(client, &format!("34 .. 0001't' {n:04X} 00; 62 .. {n:04X}; 32 .. 0001't' 0064 00"));
        bed.says(client, "34 .. 0004'$SYS' 0064 00");
    }
    bed.take_bytes(client);
    bed.says(client, "34 .. 0001't' 0001 00; 34 .. 0001't' 0002 00; 30 .. 0001't' 00");
    bed.hears(client, "50 .. 0001 10; 50 .. 0002 10");
    bed.says(client, "32 .. 0001't' 0003 00");
    bed.hears_and_is_closed(client, "E0 01 93");
}

/// Nobody may publish to `no`.
fn no_is_forbidden(work: &Work) -> Completion {
    match work {
        Work::Authenticate { .. } => Completion::Authenticated(Ok(Permissions::Ask)),
        Work::Authorize { action: Action::Publish { topic, .. }, .. } => {
            Completion::Authorized(vec![&**topic != "no"])
        }
        Work::Authorize { action: Action::Subscribe { filters }, .. } => {
            Completion::Authorized(vec![true; filters.len()])
        }
    }
}

// Covers 3.1.1: 3.3.5-2
#[test]
fn a_publish_that_is_not_allowed_is_acknowledged_and_goes_nowhere() {
    let mut bed = Bed::new(2);
    bed.policy = no_is_forbidden;
    let watcher = bed.three(0, "w");
    bed.subscribes(watcher, "#", 2);
    let client = bed.three(1, "c");
    bed.says(client, "30 .. 0002'no' 'x'; 33 .. 0002'no' 0001 'x'; 35 .. 0002'no' 0002 'x'; 62 .. 0002");
    bed.hears(client, "40 .. 0001; 50 .. 0002; 70 .. 0002");
    bed.hears_nothing(watcher);
    assert_eq!((bed.counter("denied"), bed.counter("retained")), (3, 0));
    let five = bed.five(1, "five");
    bed.says(five, "32 .. 0002'no' 0001 00 'x'; 34 .. 0002'no' 0002 00 'x'; 32 .. 0003'yes' 0003 00 'x'");
    bed.hears(five, "40 .. 0001 87; 50 .. 0002 87; 40 .. 0003");
}
