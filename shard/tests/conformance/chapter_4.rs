//! Chapters 4.1 to 4.9: state, transport, order, topics, shared subscriptions, flow control.

use std::time::Duration;

use quelea_mqtt::Version;

use super::wire::{CONNACK_5, CONNACK_5_PRESENT, connect_5, connect_311, text, wire};
use crate::bed::{Bed, Client};

// Covers 5.0: 4.1.0-1 4.1.0-2 3.1.2-23
#[test]
fn session_state_lasts_as_long_as_the_connection_and_then_for_its_interval() {
    for back_on in [0, 1] {
        let mut bed = Bed::new(2);
        let publisher = bed.five(1, "p");
        // Expiry 10 s: while connected it does not run.
        let client = bed.opens(0, &connect_5("00", "c", "11 0000000A"));
        bed.hears(client, CONNACK_5);
        bed.subscribes(client, "t", 1);
        bed.pass(Duration::from_secs(3600));
        bed.says(publisher, "32 .. 0001't' 0001 00 'a'");
        bed.hears(client, "32 .. 0001't' 0001 00 'a'");
        bed.reset(client);
        bed.pass(Duration::from_millis(9_900));
        let back = bed.opens(back_on, &connect_5("00", "c", "11 0000000A"));
        bed.hears(back, &format!("{CONNACK_5_PRESENT}; 3A .. 0001't' 0001 00 'a'"));
        bed.reset(back);
        bed.pass(Duration::from_millis(10_000));
        assert_eq!(bed.counter("sessions_expired"), 1);
        assert_eq!((bed.counter("sessions"), bed.counter("subscriptions")), (1, 0));
        let late = bed.opens(0, &connect_5("00", "c", "11 0000000A"));
        bed.hears(late, CONNACK_5);
    }
}

// Covers 5.0: 4.1.0-2
#[test]
fn without_an_interval_the_session_ends_with_the_connection() {
    let mut bed = Bed::new(1);
    for connect in [connect_5("00", "c", ""), connect_5("00", "c", "11 00000000")] {
        let client = bed.opens(0, &connect);
        bed.hears(client, CONNACK_5);
        bed.subscribes(client, "t", 1);
        bed.reset(client);
        assert_eq!(bed.counter("sessions") + bed.counter("subscriptions"), 0);
    }
    // 0xFFFFFFFF is for ever, as far as the broker grants it: a week.
    let client = bed.opens(0, &connect_5("00", "c", "11 FFFFFFFF"));
    bed.hears(client, "20 .. 00 00 10 11 00093A80 21 0020 27 00100000 22 0010");
    bed.reset(client);
    bed.pass(Duration::from_secs(7 * 24 * 3600 - 1));
    assert_eq!(bed.counter("sessions"), 1);
}

// Covers 5.0: 4.2-1 6.0.0-2
// Covers 3.1.1: 6.0.0-2 7.1.1-1
#[test]
fn how_the_stream_is_cut_makes_no_difference() {
    let script = [
        connect_5("02", "c", ""),
        "82 .. 0001 00 0001't' 01; 32 .. 0001't' 0002 00 'x'; C0 00".to_owned(),
        format!("30 .. 0001't' 00 '{}'; C0 00", "y".repeat(300)),
    ];
    let bytes = wire(&script.join(";"));
    let mut answers = Vec::new();
    for chunk in [1, 2, 3, 7, 50, bytes.len()] {
        let mut bed = Bed::new(1);
        let client = bed.open(0);
        for part in bytes.chunks(chunk) {
            bed.send(client, part);
        }
        let mut heard = bed.take(client);
        // What is said is the same; acknowledgements and deliveries may pass each other.
        heard.sort();
        assert_eq!(heard.len(), 7, "{heard:?}");
        answers.push(heard);
    }
    assert!(answers.iter().all(|heard| *heard == answers[0]));
}

// Covers 5.0: 4.6.0-5 4.6.0-6
// Covers 3.1.1: 4.6.0-5 4.6.0-6
#[test]
fn messages_of_one_client_on_one_topic_keep_their_order() {
    for (shards, subscriber) in [(1, 0), (2, 0), (2, 1), (3, 2)] {
        let mut bed = Bed::new(shards);
        let clients = [
            bed.five(subscriber, "0"),
            bed.three(subscriber, "1"),
            bed.five_with(subscriber, "2", "21 0003"),
        ];
        for client in clients {
            bed.subscribes(client, "t", 1);
        }
        let publisher = bed.five(0, "p");
        // Plain and retained by turns: the latter go by another shard.
        for n in 1..=60_u16 {
            let first = if n % 5 == 0 { "33" } else { "32" };
            bed.says(publisher, &format!("{first} .. 0001't' {n:04X} 00 {n:04X}"));
        }
        for client in clients {
            let mut payloads = Vec::new();
            bed.acknowledge_all_into(client, &mut payloads);
            let order: Vec<u16> = payloads.iter().map(|p| u16::from_be_bytes([p[0], p[1]])).collect();
            assert_eq!(order, (1..=60).collect::<Vec<_>>());
        }
    }
}

// Covers 5.0: 4.7.0-1 4.7.1-1 4.7.1-2 4.7.3-1
// Covers 3.1.1: 4.7.1-1 4.7.1-2 4.7.1-3 4.7.3-1
#[test]
fn wildcards_stand_where_they_may() {
    let mut bed = Bed::new(1);
    let (five, three) = (bed.five(0, "five"), bed.three(0, "three"));
    for (filter, legal) in [
        ("#", true),
        ("/#", true),
        ("a/#", true),
        ("+", true),
        ("+/+", true),
        ("/+", true),
        ("a/+/#", true),
        ("+/a/#", true),
        ("", false),
        ("a#", false),
        ("a/#/b", false),
        ("#/a", false),
        ("##", false),
        ("a+", false),
        ("+a", false),
        ("a/b+/c", false),
        ("++", false),
    ] {
        bed.says(five, &format!("82 .. 0001 00 {} 00", text(filter)));
        bed.hears(five, if legal { "90 .. 0001 00 00" } else { "90 .. 0001 00 8F" });
        bed.says(three, &format!("82 .. 0001 {} 00", text(filter)));
        bed.hears(three, if legal { "90 .. 0001 00" } else { "90 .. 0001 80" });
    }
}

// Covers 5.0: 4.7.2-1
// Covers 3.1.1: 4.7.2-1
#[test]
fn topics_that_begin_with_a_dollar_are_not_for_leading_wildcards() {
    let mut bed = Bed::new(2);
    let (all, plus, dollar) = (bed.five(0, "all"), bed.three(1, "plus"), bed.three(0, "dollar"));
    bed.subscribes(all, "#", 0);
    bed.subscribes(plus, "+/x", 0);
    bed.subscribes(dollar, "$own/+", 0);
    let publisher = bed.five(1, "p");
    bed.says(publisher, "31 .. 0006'$own/x' 00 'x'");
    bed.hears_nothing(all);
    bed.hears_nothing(plus);
    bed.hears(dollar, "30 .. 0006'$own/x' 'x'");
    // Retained, the same.
    bed.says(all, "82 .. 0001 00 0001'#' 00; 82 .. 0002 00 0003'+/x' 00");
    bed.hears(all, "90 .. 0001 00 00; 90 .. 0002 00 00");
    bed.says(all, "82 .. 0003 00 0006'$own/#' 00");
    bed.hears(all, "90 .. 0003 00 00; 31 .. 0006'$own/x' 00 'x'");
}

// Covers 5.0: 4.7.3-4
// Covers 3.1.1: 4.7.3-4
#[test]
fn topics_are_compared_byte_by_byte() {
    let mut bed = Bed::new(2);
    let client = bed.five(0, "c");
    // Case, composed and decomposed letters, empty levels, blanks: all different.
    for filter in ["ACCOUNTS", "\u{e9}", "/finance", "a//b", " a"] {
        bed.subscribes(client, filter, 0);
    }
    let publisher = bed.five(1, "p");
    for topic in ["accounts", "e\u{301}", "finance", "a/b", "a", "Accounts", "/finance/", "a///b", " a "] {
        bed.says(publisher, &format!("30 .. {} 00", text(topic)));
        bed.hears_nothing(client);
    }
    for topic in ["ACCOUNTS", "\u{e9}", "/finance", "a//b", " a"] {
        bed.says(publisher, &format!("30 .. {} 00", text(topic)));
        bed.hears(client, &format!("30 .. {} 00", text(topic)));
    }
}

// Covers 5.0: 4.8.2-1 4.8.2-2
#[test]
fn a_shared_filter_has_a_name_and_a_filter() {
    let mut bed = Bed::new(2);
    let client = bed.five(0, "c");
    for filter in [
        "$share/",
        "$share/g",
        "$share//t",
        "$share/g+/t",
        "$share/#/t",
        "$share/g/",
        "$share/+/t",
        "$share/g/a#",
    ] {
        bed.says(client, &format!("82 .. 0001 00 {} 01", text(filter)));
        bed.hears(client, "90 .. 0001 00 8F");
    }
    assert_eq!(bed.counter("groups"), 0);
    for filter in ["$share/g/t", "$share/g//", "$share/g/#", "$share/ü/+/t"] {
        bed.says(client, &format!("82 .. 0001 00 {} 01", text(filter)));
        bed.hears(client, "90 .. 0001 00 01");
    }
    assert_eq!(bed.counter("groups"), 4);
    // Not shared, only similar.
    bed.subscribes(client, "$shared/g/t", 0);
    assert_eq!(bed.counter("groups"), 4);
}

/// A member of `$share/g/t` with this QoS.
#[track_caller]
fn member(bed: &mut Bed, client: Client, qos: u8) {
    bed.subscribes(client, "$share/g/t", qos);
}

// Covers 5.0: 4.8.2-3
#[test]
fn each_member_gets_the_qos_that_was_granted_to_it() {
    let mut bed = Bed::new(2);
    let members = [bed.five(0, "0"), bed.five(1, "1"), bed.five(0, "2")];
    for (client, qos) in members.into_iter().zip(0..) {
        member(&mut bed, client, qos);
    }
    let publisher = bed.five(1, "p");
    for n in 1..=12 {
        bed.says(publisher, &format!("34 .. 0001't' {n:04X} 00 {n:02X}"));
        bed.says(publisher, &format!("62 .. {n:04X}"));
    }
    let mut sum = 0;
    for (client, qos) in members.into_iter().zip(0..) {
        let heard = bed.take(client);
        assert!(heard.iter().all(|line| line.contains(&format!(" q{qos}"))), "{heard:?}");
        assert!(!heard.is_empty());
        sum += heard.len();
    }
    assert_eq!(sum, 12);
}

// Covers 5.0: 4.8.2-4 4.8.2-5
#[test]
fn a_qos_2_message_that_a_member_has_seen_is_its_own() {
    for (back_on, returns) in [(0, true), (1, true), (0, false)] {
        let mut bed = Bed::new(2);
        let first = bed.opens(0, &connect_5("00", "a", "11 0000000A"));
        bed.hears(first, CONNACK_5);
        member(&mut bed, first, 2);
        let publisher = bed.five(1, "p");
        bed.says(publisher, "34 .. 0001't' 0001 00 'x'");
        bed.hears(first, "34 .. 0001't' 0001 00 'x'");
        let second = bed.five(1, "b");
        member(&mut bed, second, 2);
        bed.reset(first);
        bed.hears_nothing(second);
        if returns {
            let back = bed.opens(back_on, &connect_5("00", "a", "11 0000000A"));
            bed.hears(back, &format!("{CONNACK_5_PRESENT}; 3C .. 0001't' 0001 00 'x'"));
            bed.says(back, "50 .. 0001");
            bed.hears(back, "62 .. 0001");
        } else {
            bed.pass(Duration::from_secs(60));
            assert_eq!(bed.counter("sessions_expired"), 1);
        }
        bed.hears_nothing(second);
    }
}

// Covers 5.0: 4.8.2-6
#[test]
fn what_a_member_refuses_goes_to_nobody_else() {
    let mut bed = Bed::new(2);
    let (first, publisher) = (bed.five(0, "a"), bed.five(1, "p"));
    member(&mut bed, first, 2);
    bed.says(publisher, "32 .. 0001't' 0001 00 'x'; 34 .. 0001't' 0002 00 'y'");
    bed.hears(first, "32 .. 0001't' 0001 00 'x'; 34 .. 0001't' 0002 00 'y'");
    let second = bed.five(1, "b");
    member(&mut bed, second, 2);
    bed.says(first, "40 .. 0001 80; 50 .. 0002 97");
    bed.hears_nothing(first);
    bed.reset(first);
    bed.pass(Duration::from_secs(60));
    bed.hears_nothing(second);
    assert_eq!(bed.counter("group_given_back"), 0);
}

// Covers 5.0: 3.3.4-9 4.9.0-1 4.9.0-2
#[test]
fn the_broker_keeps_to_the_clients_receive_maximum() {
    for max in [1, 2, 5] {
        let mut bed = Bed::new(2);
        let client = bed.five_with(0, "c", &format!("21 {max:04X}"));
        bed.subscribes(client, "t", 2);
        let publisher = bed.five(1, "p");
        for n in 1..=10 {
            let packet = if n % 2 == 0 { "34" } else { "32" };
            bed.says(publisher, &format!("{packet} .. 0001't' {n:04X} 00"));
            bed.says(publisher, &format!("62 .. {n:04X}"));
        }
        assert_eq!(bed.take(client).len(), max);
        // PUBACK, PUBCOMP and a PUBREC that refuses give one back each; a PUBREC that takes does not.
        let mut open = max;
        for n in 1..=10 {
            match n {
                n if n % 2 == 1 => bed.says(client, &format!("40 .. {n:04X}")),
                4 => bed.says(client, "50 .. 0004 80"),
                n => {
                    bed.says(client, &format!("50 .. {n:04X}"));
                    bed.hears(client, &format!("62 .. {n:04X}"));
                    bed.says(client, &format!("70 .. {n:04X}"));
                }
            }
            open += 1;
            assert_eq!(bed.take(client).len(), usize::from(open <= 10), "after {n} of {max}");
        }
    }
    // 0 is no maximum.
    let mut bed = Bed::new(1);
    let client = bed.opens(0, &connect_5("02", "c", "21 0000"));
    bed.hears_and_is_closed(client, "20 .. 00 82 00");
}

// Covers 5.0: 3.3.4-10 4.9.0-3
#[test]
fn with_the_quota_used_up_everything_but_qos_1_and_2_goes_on() {
    let mut bed = Bed::new(2);
    let client = bed.five_with(0, "c", "21 0001");
    bed.subscribes(client, "t", 2);
    let publisher = bed.five(1, "p");
    bed.says(publisher, "34 .. 0001't' 0001 00 'a'; 32 .. 0001't' 0002 00 'b'; 30 .. 0001't' 00 'c'");
    bed.hears(client, "34 .. 0001't' 0001 00 'a'; 30 .. 0001't' 00 'c'");
    bed.says(client, "C0 00; 32 .. 0001'u' 0007 00; 34 .. 0001'u' 0008 00; 62 .. 0008; 50 .. 0001");
    bed.hears(client, "D0 00; 40 .. 0007 10; 50 .. 0008 10; 70 .. 0008; 62 .. 0001");
    bed.says(client, "82 .. 0009 00 0001'v' 00; A2 .. 000A 00 0001'v'");
    bed.hears(client, "90 .. 0009 00 00; B0 .. 000A 00 00");
    bed.says(client, "70 .. 0001");
    bed.hears(client, "32 .. 0001't' 0002 00 'b'");
}

// Covers 5.0: 3.1.2-24 3.1.2-25
#[test]
fn a_message_larger_than_a_subscribers_maximum_packet_size_is_dropped_for_it_and_counted() {
    let mut bed = Bed::new(2);
    // 20 bytes: QoS 0 with 14 bytes of payload fits exactly, QoS 1 with 12.
    let client = bed.five_with(0, "c", "27 00000014 21 0001");
    bed.subscribes(client, "t", 1);
    let large = bed.three(1, "large");
    bed.subscribes(large, "t", 0);
    let publisher = bed.five(1, "p");
    bed.says(publisher, "30 .. 0001't' 00 '12345678901234'; 30 .. 0001't' 00 '123456789012345'");
    bed.hears(client, "30 .. 0001't' 00 '12345678901234'");
    bed.says(publisher, "32 .. 0001't' 0001 00 '1234567890123'; 32 .. 0001't' 0002 00 '123456789012'");
    bed.hears(publisher, "40 .. 0001; 40 .. 0002");
    // It takes neither an identifier nor the quota.
    bed.hears(client, "32 .. 0001't' 0001 00 '123456789012'");
    assert_eq!((bed.counter("dropped_too_large"), bed.take(large).len()), (2, 4));
    bed.is_well(client);
}

// Covers 3.1.1: 4.3.1-1
#[test]
fn qos_0_is_never_sent_again() {
    let mut bed = Bed::new(2);
    let client = bed.opens(0, &connect_311("00", "c"));
    bed.hears(client, "20 02 00 00");
    bed.speaks(client, Version::V311);
    bed.subscribes(client, "t", 0);
    let publisher = bed.five(1, "p");
    bed.says(publisher, "32 .. 0001't' 0001 00 'x'");
    bed.hears(client, "30 .. 0001't' 'x'");
    bed.reset(client);
    let back = bed.opens(0, &connect_311("00", "c"));
    bed.hears(back, "20 02 01 00");
}

// Covers 5.0: 3.1.2-24 3.1.2-25
#[test]
fn a_client_that_comes_back_with_a_smaller_maximum_packet_size_is_not_sent_what_was_on_its_way() {
    for back_on in [0, 1] {
        let mut bed = Bed::new(2);
        let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF"));
        bed.hears(client, CONNACK_5);
        bed.subscribes(client, "t", 2);
        let publisher = bed.five(1, "p");
        bed.says(publisher, "32 .. 0001't' 0001 00 '12345678901234567890'; 34 .. 0001't' 0002 00 'b'");
        assert_eq!(bed.take(client).len(), 2);
        bed.reset(client);
        bed.says(publisher, "34 .. 0001't' 0003 00 '12345678901234567890'; 32 .. 0001't' 0004 00 'd'");
        let back = bed.opens(back_on, &connect_5("00", "c", "11 0000FFFF 27 00000014"));
        bed.hears(
            back,
            &format!("{CONNACK_5_PRESENT}; 3C .. 0001't' 0002 00 'b'; 32 .. 0001't' 0003 00 'd'"),
        );
        assert_eq!(bed.counter("dropped_too_large"), 2);
    }
}

#[test]
fn a_shared_subscription_gets_no_retained_messages() {
    let mut bed = Bed::new(2);
    let publisher = bed.five(1, "p");
    bed.says(publisher, "31 .. 0001't' 00 'old'");
    let client = bed.five(0, "c");
    bed.says(client, &format!("82 .. 0001 00 {} 00", text("$share/g/t")));
    bed.hears(client, "90 .. 0001 00 00");
    bed.says(publisher, "31 .. 0001't' 00 'new'");
    bed.hears(client, "30 .. 0001't' 00 'new'");
}
