//! Chapter 3.1: CONNECT.

use std::time::Duration;

use quelea_mqtt::Version;
use quelea_shard::{Completion, Permissions, Work};

use super::wire::{CONNACK_5, CONNACK_5_PRESENT, connect_5, connect_311, text};
use crate::bed::Bed;

// Covers 5.0: 3.1.0-1 3.14.0-1 3.2.0-1
// Covers 3.1.1: 3.1.0-1 3.2.0-1
#[test]
fn anything_before_connect_ends_the_connection_unanswered() {
    let mut bed = Bed::new(1);
    for first in [
        "00 00",
        "20 02 00 00",
        "30 .. 0001't' 00 'x'",
        "30 .. 0001't' 'x'",
        "32 .. 0001't' 0001 00 'x'",
        "40 .. 0001",
        "50 .. 0001",
        "62 .. 0001",
        "70 .. 0001",
        "82 .. 0001 00 0001't' 00",
        "82 .. 0001 0001't' 00",
        "90 .. 0001 00 00",
        "A2 .. 0001 00 0001't'",
        "B0 .. 0001",
        "C0 00",
        "D0 00",
        "E0 00",
        "E0 01 81",
        "F0 .. 18 04 15 0001'm'",
        "FF FF FF FF FF",
        "'GET / HTTP/1.1'",
    ] {
        let client = bed.opens(0, first);
        bed.hears_and_is_closed(client, "");
    }
    assert_eq!(bed.counter("connects") + bed.counter("sessions"), 0);
}

// Covers 5.0: 3.1.0-2 3.2.0-2
// Covers 3.1.1: 3.1.0-2
#[test]
fn connect_twice_ends_the_connection() {
    let mut bed = Bed::new(1);
    let five = bed.five(0, "c");
    bed.says(five, &connect_5("02", "c", ""));
    bed.hears_and_is_closed(five, "E0 01 82");
    let three = bed.three(0, "c");
    bed.says(three, &connect_311("02", "c"));
    bed.hears_and_is_closed(three, "");
    // Both in one go: the second is not looked at before the first is answered, and then refused.
    let hasty = bed.opens(0, &format!("{}; {}", connect_5("02", "c", ""), connect_5("02", "d", "")));
    bed.hears_and_is_closed(hasty, &format!("{CONNACK_5}; E0 01 82"));
}

// Covers 5.0: 3.1.2-1
// Covers 3.1.1: 3.1.2-1
#[test]
fn another_protocol_name_is_refused() {
    let mut bed = Bed::new(1);
    for name in ["0004'MQTX'", "0004'mqtt'", "0000", "0005'MQTT5'"] {
        for level in ["04", "05"] {
            let client = bed.opens(0, &format!("10 .. {name} {level} 02 0000 00 0001'a'"));
            bed.hears_and_is_closed(client, "20 .. 00 84 00");
        }
    }
    assert_eq!(bed.counter("sessions"), 0);
}

// Covers 5.0: 3.1.2-2
// Covers 3.1.1: 3.1.2-2
#[test]
fn a_version_that_we_do_not_speak_is_refused_in_words_that_it_may_know() {
    let mut bed = Bed::new(1);
    for level in ["06", "7F"] {
        let client = bed.opens(0, &format!("10 .. 0004'MQTT' {level} 02 0000 00 0001'a'"));
        bed.hears_and_is_closed(client, "20 .. 00 84 00");
    }
    for start in ["0004'MQTT' 03", "0004'MQTT' 00", "0006'MQIsdp' 04"] {
        let client = bed.opens(0, &format!("10 .. {start} 02 0000 0001'a'"));
        bed.hears_and_is_closed(client, "20 02 00 01");
    }
}

// Covers 5.0: 3.1.2-3 3.1.4-1
// Covers 3.1.1: 3.1.2-3
#[test]
fn the_reserved_connect_flag_is_looked_at() {
    let mut bed = Bed::new(1);
    let five = bed.opens(0, &connect_5("03", "a", ""));
    bed.hears_and_is_closed(five, "20 .. 00 81 00");
    let three = bed.opens(0, &connect_311("03", "a"));
    bed.hears_and_is_closed(three, "");
}

// Covers 5.0: 3.1.4-1 3.1.2-9 3.1.2-11 3.1.2-12 3.1.2-13 3.1.2-16 3.1.2-17 3.1.2-18 3.1.2-19 3.1.3-1 3.1.3-3 3.2.2-8
// Covers 3.1.1: 3.1.4-1 3.1.2-9 3.1.2-11 3.1.2-13 3.1.2-14 3.1.2-15 3.1.2-18 3.1.2-19 3.1.2-20 3.1.2-21 3.1.2-22
// Covers 3.1.1: 3.1.3-1 3.1.3-3 3.2.2-6
#[test]
fn a_connect_that_is_not_formed_as_it_must_be_ends_the_connection() {
    let mut bed = Bed::new(1);
    for (what, flags, payload_5, payload_311) in [
        ("no client identifier", "02", "", ""),
        ("half a client identifier", "02", "0002'a'", "0002'a'"),
        ("Will Flag without a Will", "06", "0001'a'", "0001'a'"),
        ("a Will without its payload", "06", "0001'a' 00 0001'w'", "0001'a' 0001'w'"),
        ("a Will without the flag", "02", "0001'a' 00 0001'w' 0001'x'", "0001'a' 0001'w' 0001'x'"),
        ("Will QoS 1 without a Will", "0A", "0001'a'", "0001'a'"),
        ("Will QoS 2 without a Will", "12", "0001'a'", "0001'a'"),
        ("Will Retain without a Will", "22", "0001'a'", "0001'a'"),
        ("Will QoS 3", "1E", "0001'a' 00 0001'w' 0001'x'", "0001'a' 0001'w' 0001'x'"),
        ("User Name Flag without a user name", "82", "0001'a'", "0001'a'"),
        ("a user name without the flag", "02", "0001'a' 0001'u'", "0001'a' 0001'u'"),
        ("Password Flag without a password", "C2", "0001'a' 0001'u'", "0001'a' 0001'u'"),
        ("a password without the flag", "82", "0001'a' 0001'u' 0001'p'", "0001'a' 0001'u' 0001'p'"),
        (
            "the user name before the Will",
            "86",
            "0001'a' 0004'user' 00 0001'w' 0001'x'",
            "0001'a' 0004'user' 0001'w'",
        ),
    ] {
        let five = bed.opens(0, &format!("10 .. 0004'MQTT' 05 {flags} 0000 00 {payload_5}"));
        bed.hears_and_is_closed(five, "20 .. 00 81 00");
        let three = bed.opens(0, &format!("10 .. 0004'MQTT' 04 {flags} 0000 {payload_311}"));
        // 3.1.1 has no return code for this.
        bed.hears_and_is_closed(three, "");
        assert_eq!(bed.counter("sessions") + bed.counter("connects"), 0, "{what}");
    }
    // A password without a user name: in 5.0 only.
    let three = bed.opens(0, "10 .. 0004'MQTT' 04 42 0000 0001'a' 0001'p'");
    bed.hears_and_is_closed(three, "");
    let five = bed.opens(0, "10 .. 0004'MQTT' 05 42 0000 00 0001'a' 0001'p'");
    bed.hears(five, CONNACK_5);
}

/// What the authenticator was asked.
fn asks_for_what_the_connect_said(work: &Work) -> Completion {
    let Work::Authenticate { client_id, user_name, password, will_topic, .. } = work else {
        panic!("{work:?}");
    };
    assert_eq!(
        (&**client_id, user_name.as_deref(), password.as_deref()),
        ("id", Some("user"), Some(&b"\xFF\0pw"[..]))
    );
    assert_eq!(will_topic.as_deref(), Some("will"));
    Completion::Authenticated(Ok(Permissions::Everything))
}

// Covers 5.0: 3.1.2-9 3.1.2-17 3.1.2-19 3.1.3-1 3.1.3-3
// Covers 3.1.1: 3.1.2-9 3.1.2-19 3.1.2-21 3.1.3-1 3.1.3-3
#[test]
fn the_fields_of_the_payload_are_read_in_their_order() {
    let mut bed = Bed::new(1);
    bed.policy = asks_for_what_the_connect_said;
    let rest = "0002'ww' 0004'user' 0004 FF00'pw'";
    let five =
        bed.opens(0, &format!("10 .. 0004'MQTT' 05 C6 0000 00 0002'id' 05 18 00000000 0004'will' {rest}"));
    bed.hears(five, CONNACK_5);
    let three = bed.opens(0, &format!("10 .. 0004'MQTT' 04 C6 0000 0002'id' 0004'will' {rest}"));
    bed.hears(three, "20 02 00 00");
}

// Covers 5.0: 3.1.2-4 3.1.2-5 3.1.2-6 3.1.2-23 3.1.3-2 3.1.4-4 3.2.2-2 3.2.2-3 4.5.0-1
#[test]
fn clean_start_decides_whether_the_session_goes_on() {
    for (first, second) in [(0, 0), (0, 1), (1, 0)] {
        let mut bed = Bed::new(2);
        let publisher = bed.five(1, "p");
        // No session: Clean Start 0 begins one.
        let one = bed.opens(first, &connect_5("00", "s", "11 0000003C"));
        bed.hears(one, CONNACK_5);
        bed.subscribes(one, "t", 1);
        bed.reset(one);
        bed.says(publisher, "32 .. 0001't' 0001 00 'a'");
        bed.hears(publisher, "40 .. 0001");
        // A session: Clean Start 0 goes on with it; another identifier has no part in it.
        let other = bed.opens(second, &connect_5("00", "S", "11 0000003C"));
        bed.hears(other, CONNACK_5);
        let two = bed.opens(second, &connect_5("00", "s", "11 0000003C"));
        bed.hears(two, &format!("{CONNACK_5_PRESENT}; 32 .. 0001't' 0001 00 'a'"));
        bed.reset(two);
        // Clean Start 1 begins a new one: neither the message nor the subscription is left.
        let three = bed.opens(first, &connect_5("02", "s", "11 0000003C"));
        bed.hears(three, CONNACK_5);
        bed.says(publisher, "32 .. 0001't' 0001 00 'b'");
        bed.hears(publisher, "40 .. 0001 10");
        bed.hears_nothing(three);
    }
}

// Covers 3.1.1: 3.1.2-4 3.1.2-5 3.1.2-6 3.1.3-2 3.1.4-3 3.1.4-4 3.2.2-1 3.2.2-2 3.2.2-3 4.1.0-1 4.1.0-2 4.5.0-1
#[test]
fn clean_session_decides_whether_the_session_goes_on() {
    for (first, second) in [(0, 0), (0, 1), (1, 0)] {
        let mut bed = Bed::new(2);
        let publisher = bed.three(1, "p");
        let one = bed.opens(first, &connect_311("00", "s"));
        bed.speaks(one, Version::V311);
        bed.hears(one, "20 02 00 00");
        bed.subscribes(one, "t", 1);
        // However long the connection lasts and the client stays away, the session stays.
        bed.pass(Duration::from_secs(24 * 3600));
        bed.reset(one);
        bed.says(publisher, "32 .. 0001't' 0001 'a'; 34 .. 0001't' 0002 'b'; 30 .. 0001't' 'c'");
        bed.pass(Duration::from_secs(24 * 3600));
        let two = bed.opens(second, &connect_311("00", "s"));
        bed.hears(two, "20 02 01 00; 32 .. 0001't' 0001 'a'; 32 .. 0001't' 0002 'b'");
        bed.reset(two);
        // Clean Session 1 discards it, and leaves nothing behind.
        let three = bed.opens(first, &connect_311("02", "s"));
        bed.speaks(three, Version::V311);
        bed.hears(three, "20 02 00 00");
        bed.subscribes(three, "t", 1);
        bed.reset(three);
        bed.says(publisher, "32 .. 0001't' 0001 'd'");
        let four = bed.opens(second, &connect_311("00", "s"));
        bed.hears(four, "20 02 00 00");
        assert_eq!(bed.counter("subscriptions"), 0);
    }
}

// Covers 3.1.1: 3.1.2-7
#[test]
fn retained_messages_outlive_the_session_of_their_publisher() {
    let mut bed = Bed::new(2);
    let publisher = bed.three(0, "p");
    bed.says(publisher, "33 .. 0001't' 0001 'x'");
    bed.hears(publisher, "40 .. 0001");
    bed.says(publisher, "E0 00");
    assert_eq!(bed.counter("sessions"), 0);
    let again = bed.three(1, "p");
    bed.says(again, "82 .. 0001 0001't' 00");
    bed.hears(again, "90 .. 0001 00; 31 .. 0001't' 'x'");
}

// Covers 5.0: 3.1.2-22
// Covers 3.1.1: 3.1.2-24
#[test]
fn silence_for_one_and_a_half_keep_alives_ends_the_connection_as_if_the_network_had_failed() {
    let mut bed = Bed::new(1);
    let watcher = bed.five(0, "w");
    bed.subscribes(watcher, "will", 0);
    // Keep Alive 10 s, with a Will.
    let five = bed.opens(0, "10 .. 0004'MQTT' 05 06 000A 00 0004'five' 00 0004'will' 0001'5'");
    let three = bed.opens(0, "10 .. 0004'MQTT' 04 06 000A 0005'three' 0004'will' 0001'3'");
    bed.hears(five, CONNACK_5);
    bed.hears(three, "20 02 00 00");
    // Any packet counts, not only PINGREQ.
    bed.pass(Duration::from_millis(14_900));
    bed.says(five, "30 .. 0001'x' 00");
    bed.says(three, "C0 00");
    bed.hears(three, "D0 00");
    bed.pass(Duration::from_millis(14_900));
    bed.hears_nothing(watcher);
    assert!(!bed.is_closed(five) && !bed.is_closed(three));
    bed.pass(Duration::from_millis(200));
    bed.hears_and_is_closed(five, "E0 01 8D");
    bed.hears_and_is_closed(three, "");
    bed.hears(watcher, "30 .. 0004'will' 00 '5'; 30 .. 0004'will' 00 '3'");
    assert_eq!(bed.counter("keep_alive_timeouts"), 2);
}

// Covers 5.0: 3.1.3-4 3.1.3-11 3.1.3-12
// Covers 3.1.1: 3.1.3-4 3.1.3-10 3.1.3-11
#[test]
fn identifier_will_topic_and_user_name_are_text() {
    let mut bed = Bed::new(1);
    for (flags, five, three) in [
        ("02", "0001 FF", "0001 FF"),
        ("02", "0003'a' 00'b'", "0003'a' 00'b'"),
        ("06", "0001'a' 00 0003 EDA080 0001'x'", "0001'a' 0003 EDA080 0001'x'"),
        ("06", "0001'a' 00 0001 00 0001'x'", "0001'a' 0001 00 0001'x'"),
        ("82", "0001'a' 0001 FF", "0001'a' 0001 FF"),
        ("82", "0001'a' 0001 00", "0001'a' 0001 00"),
    ] {
        let client = bed.opens(0, &format!("10 .. 0004'MQTT' 05 {flags} 0000 00 {five}"));
        bed.hears_and_is_closed(client, "20 .. 00 81 00");
        let client = bed.opens(0, &format!("10 .. 0004'MQTT' 04 {flags} 0000 {three}"));
        bed.hears_and_is_closed(client, "");
    }
}

// Covers 5.0: 3.1.3-5
// Covers 3.1.1: 3.1.3-5
#[test]
fn every_plain_identifier_of_1_to_23_bytes_is_taken() {
    const LETTERS: &str = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut bed = Bed::new(2);
    for length in 1..=23 {
        for start in [0, 13, 39] {
            let id = &LETTERS[start..start + length];
            for (connect, connack) in
                [(connect_5("02", id, ""), CONNACK_5), (connect_311("02", id), "20 02 00 00")]
            {
                let client = bed.opens(length % 2, &connect);
                bed.hears(client, connack);
                bed.reset(client);
            }
        }
    }
    // And more than we have to.
    let long = bed.opens(0, &connect_5("02", &"ü/+# ".repeat(170), ""));
    bed.hears(long, CONNACK_5);
}

// Covers 5.0: 3.1.3-6 3.1.3-7 3.2.2-16
#[test]
fn an_empty_identifier_is_replaced_by_one_of_its_own_that_is_told() {
    let mut bed = Bed::new(2);
    let mut assigned = Vec::new();
    for n in 0..10 {
        let client = bed.opens(n % 2, &connect_5("02", "", "11 0000003C"));
        let said = bed.take_bytes(client);
        let start = super::wire::wire("20 38 00 00 35 21 0020 27 00100000 12 0027");
        assert_eq!(said[..start.len()], start[..], "{said:02x?}");
        let id = String::from_utf8(said[start.len()..start.len() + 39].to_vec()).expect("text");
        assert!(id.starts_with("quelea-") && !assigned.contains(&id), "{id}");
        assigned.push(id);
        bed.reset(client);
    }
    // It is as good as a given one: its session is there for whoever names it.
    let back = bed.opens(0, &connect_5("00", &assigned[3], "11 0000003C"));
    bed.hears(back, CONNACK_5_PRESENT);
}

// Covers 3.1.1: 3.1.3-6
#[test]
fn an_empty_identifier_with_clean_session_is_a_session_of_its_own() {
    let mut bed = Bed::new(2);
    let clients: Vec<_> = (0..4).map(|n| bed.three(n % 2, "")).collect();
    assert_eq!(bed.counter("sessions"), 4);
    for client in clients {
        bed.is_well(client);
    }
}

// Covers 5.0: 3.1.3-8
// Covers 3.1.1: 3.1.3-8 3.1.3-9 3.2.2-4 3.2.2-5
#[test]
fn a_rejected_identifier_is_told_so() {
    let mut bed = Bed::new(1);
    let three = bed.opens(0, &connect_311("00", ""));
    bed.hears_and_is_closed(three, "20 02 00 02");
    // 5.0 takes whatever is text; an operator may not.
    bed.policy = |_| Completion::Authenticated(Err(quelea_mqtt::ReasonCode::CLIENT_IDENTIFIER_NOT_VALID));
    let five = bed.opens(0, &connect_5("02", "a", ""));
    bed.hears_and_is_closed(five, "20 .. 00 85 00");
    let three = bed.opens(0, &connect_311("02", "a"));
    bed.hears_and_is_closed(three, "20 02 00 02");
}

// Covers 5.0: 3.1.4-2 3.1.4-6 3.2.2-6 3.2.2-7 4.13.2-1
// Covers 3.1.1: 3.1.4-5 3.2.2-4 3.2.2-5
#[test]
fn who_may_not_connect_is_cut_off_and_not_listened_to() {
    let mut bed = Bed::new(2);
    let watcher = bed.five(0, "w");
    bed.subscribes(watcher, "#", 0);
    // A session is there, but its client is not let in any more.
    let client = bed.opens(0, &connect_5("00", "a", "11 0000003C"));
    bed.hears(client, CONNACK_5);
    bed.reset(client);
    bed.policy = |_| Completion::Authenticated(Err(quelea_mqtt::ReasonCode::BAD_USER_NAME_OR_PASSWORD));
    let behind = "30 .. 0001't' 00 'x'; 82 .. 0001 00 0001't' 00; C0 00";
    let five = bed.opens(1, &format!("{}; {behind}", connect_5("00", "a", "")));
    bed.hears_and_is_closed(five, "20 .. 00 86 00");
    bed.says(five, behind);
    bed.hears_nothing(five);
    let behind = "30 .. 0001't' 'x'; 82 .. 0001 0001't' 00; C0 00";
    let three = bed.opens(1, &format!("{}; {behind}", connect_311("00", "a")));
    bed.hears_and_is_closed(three, "20 02 00 04");
    bed.hears_nothing(watcher);
}

// Covers 5.0: 3.1.4-3
// Covers 3.1.1: 3.1.4-2
#[test]
fn the_second_connection_of_a_client_ends_the_first() {
    for other in [0, 1] {
        let mut bed = Bed::new(2);
        let five = bed.five(0, "c");
        let three = bed.three(other, "c");
        bed.hears_and_is_closed(five, "E0 01 8E");
        let again = bed.five(0, "c");
        bed.hears_and_is_closed(three, "");
        bed.is_well(again);
        assert_eq!(bed.counter("takeovers"), 2);
        assert_eq!(bed.counter("sessions"), 1);
    }
}

// Covers 5.0: 3.1.4-5 3.2.0-1 3.2.0-2
// Covers 3.1.1: 3.1.4-4 3.2.0-1
#[test]
fn connack_is_the_first_packet_and_the_only_one_of_its_kind() {
    for shards in [1, 3] {
        let mut bed = Bed::new(shards);
        // A session full of messages: they come behind CONNACK.
        let five = bed.opens(0, &connect_5("00", "s", "11 0000003C"));
        bed.hears(five, CONNACK_5);
        bed.subscribes(five, "t", 1);
        bed.reset(five);
        let publisher = bed.five(0, "p");
        bed.says(publisher, "32 .. 0001't' 0001 00 'a'");
        let behind = "C0 00; 82 .. 0001 00 0001'u' 00";
        let back = bed.opens(shards - 1, &format!("{}; {behind}", connect_5("00", "s", "11 0000003C")));
        let heard = bed.take(back);
        assert_eq!((&*heard[0], heard.len()), ("CONNACK 0x00 present=1", 4), "{heard:?}");
        assert_eq!(heard.iter().filter(|line| line.starts_with("CONNACK")).count(), 1, "{heard:?}");
        bed.pass(Duration::from_secs(100));
        bed.hears_nothing(back);
    }
}

// Covers 5.0: 3.1.2-28
#[test]
fn response_information_is_for_those_who_ask() {
    let settings = quelea_shard::Settings { response_root: Some("answers".into()), ..Default::default() };
    let mut bed = Bed::with(1, &settings);
    for (asks, told) in [("19 01", true), ("19 00", false), ("", false)] {
        let client = bed.opens(0, &connect_5("02", "a", asks));
        match told {
            true => {
                let topic = text("answers/a");
                bed.hears(client, &format!("20 .. 00 00 17 21 0020 27 00100000 22 0010 1A {topic}"));
            }
            false => bed.hears(client, CONNACK_5),
        }
        bed.reset(client);
    }
}

// Covers 5.0: 3.1.2-29
#[test]
fn without_request_for_problem_information_reasons_come_as_codes_alone() {
    let mut bed = Bed::new(1);
    let client = bed.five_with(0, "c", "17 00");
    bed.says(client, "82 .. 0001 00 0002'a#' 00; A2 .. 0002 00 0001'x'; 32 .. 0001't' 0003 00");
    bed.hears(client, "90 .. 0001 00 8F; B0 .. 0002 00 11; 40 .. 0003 10");
    bed.says(client, "62 .. 0009; 32 .. 0004'$SYS' 0004 00; 34 .. 0004'$SYS' 0005 00");
    bed.hears(client, "70 .. 0009 92; 40 .. 0004 87; 50 .. 0005 87");
    // User Properties of a PUBLISH are the publisher's and come along.
    bed.subscribes(client, "t", 0);
    bed.says(client, "30 .. 0001't' 07 26 0001'k' 0001'v' 'x'");
    bed.hears(client, "30 .. 0001't' 07 26 0001'k' 0001'v' 'x'");
}
