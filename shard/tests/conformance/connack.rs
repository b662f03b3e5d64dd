//! Chapter 3.2: CONNACK.

use quelea_mqtt::QoS;
use quelea_shard::{Completion, Settings};

use super::wire::{CONNACK_5, CONNACK_5_PRESENT, connect_5, connect_311};
use crate::bed::Bed;

// Covers 5.0: 3.2.2-1 3.2.2-3
// Covers 3.1.1: 3.2.2-2
#[test]
fn the_flags_hold_session_present_and_nothing_else() {
    let mut bed = Bed::new(1);
    for (connack, connack_3) in [(CONNACK_5, "20 02 00 00"), (CONNACK_5_PRESENT, "20 02 01 00")] {
        let five = bed.opens(0, &connect_5("00", "5", "11 0000003C"));
        bed.hears(five, connack);
        let three = bed.opens(0, &connect_311("00", "3"));
        bed.hears(three, connack_3);
    }
    // 3.1 has no such flag.
    for _ in 0..2 {
        let old = bed.opens(0, "10 .. 0006'MQIsdp' 03 00 0000 0001'1'");
        bed.hears(old, "20 02 00 00");
    }
}

// Covers 5.0: 3.2.2-8 3.2.2-6 3.2.2-7
// Covers 3.1.1: 3.2.2-5
#[test]
fn a_refusal_has_a_reason_code_of_connack() {
    use quelea_mqtt::ReasonCode as R;
    /// A policy per reason: they are plain functions.
    macro_rules! refusals {
        ($($reason:ident => $five:literal, $three:literal;)+) => {
            [$((
                (|_| Completion::Authenticated(Err(R::$reason))) as fn(&_) -> _, $five, $three,
            )),+]
        };
    }
    for (policy, five, three) in refusals! {
        BAD_USER_NAME_OR_PASSWORD => "86", "04";
        NOT_AUTHORIZED => "87", "05";
        SERVER_UNAVAILABLE => "88", "03";
        SERVER_BUSY => "89", "03";
        CLIENT_IDENTIFIER_NOT_VALID => "85", "02";
    } {
        let mut bed = Bed::new(1);
        bed.policy = policy;
        let client = bed.opens(0, &connect_5("02", "a", ""));
        bed.hears_and_is_closed(client, &format!("20 .. 00 {five} 00"));
        let client = bed.opens(0, &connect_311("02", "a"));
        bed.hears_and_is_closed(client, &format!("20 02 00 {three}"));
    }
}

// Covers 5.0: 3.2.2-9 3.2.2-10 3.2.2-12
#[test]
fn a_broker_with_a_lower_maximum_qos_says_so_and_takes_every_subscription() {
    for (qos_max, told) in [(QoS::AtMostOnce, 0_u8), (QoS::AtLeastOnce, 1)] {
        let settings = Settings { qos_max, ..Settings::default() };
        let mut bed = Bed::with(1, &settings);
        let client = bed.opens(0, &connect_5("02", "a", ""));
        bed.hears(client, &format!("20 .. 00 00 0D 21 0020 24 {told:02X} 27 00100000 22 0010"));
        for asked in 0..=2_u8 {
            bed.says(client, &format!("82 .. 0001 00 0001't' {asked:02X}"));
            bed.hears(client, &format!("90 .. 0001 00 {:02X}", asked.min(told)));
        }
        bed.says(client, "34 .. 0001't' 0001 00");
        bed.hears_and_is_closed(client, "E0 01 9B");
        // A Will above it.
        let client = bed.opens(0, "10 .. 0004'MQTT' 05 16 0000 00 0001'a' 00 0001'w' 0001'x'");
        bed.hears_and_is_closed(client, "20 .. 00 9B 00");
    }
}

// Covers 5.0: 3.2.2-22
#[test]
fn without_a_server_keep_alive_the_clients_counts_and_otherwise_ours() {
    use std::time::Duration;
    let settings = Settings { keep_alive_max_s: Some(10), ..Settings::default() };
    let mut bed = Bed::with(1, &settings);
    let short = bed.opens(0, "10 .. 0004'MQTT' 05 02 0004 00 0001'a'");
    bed.hears(short, CONNACK_5);
    let long = bed.opens(0, "10 .. 0004'MQTT' 05 02 0064 00 0001'b'");
    bed.hears(long, "20 .. 00 00 0E 21 0020 27 00100000 22 0010 13 000A");
    bed.pass(Duration::from_millis(6_100));
    bed.hears_and_is_closed(short, "E0 01 8D");
    bed.pass(Duration::from_millis(9_000));
    bed.hears_and_is_closed(long, "E0 01 8D");
}

// Covers 5.0: 3.1.2-24
#[test]
fn a_client_that_has_no_room_for_connack_is_not_sent_one() {
    let mut bed = Bed::new(1);
    let response = Settings { response_root: Some("r".repeat(100).into()), ..Settings::default() };
    // CONNACK is 16 bytes long; a refusal is 5; less than that is nothing to say anything in.
    for (bytes, heard) in [(16, CONNACK_5), (15, "20 .. 00 95 00"), (5, "20 .. 00 95 00"), (4, ""), (1, "")] {
        let client = bed.opens(0, &connect_5("02", "a", &format!("27 {bytes:08X}")));
        bed.hears(client, heard);
        assert_eq!(bed.is_closed(client), bytes < 16, "{bytes}");
        bed.reset(client);
    }
    // What was asked for, and is too long, is left out.
    let mut bed = Bed::with(1, &response);
    let client = bed.opens(0, &connect_5("02", "a", "27 00000010 19 01"));
    bed.hears(client, CONNACK_5);
    // Other refusals as well.
    let client = bed.opens(0, &connect_5("02", "a", "27 00000004 15 0001'm'"));
    bed.hears_and_is_closed(client, "");
    let client = bed.opens(0, &connect_5("02", "a", "27 00000005 15 0001'm'"));
    bed.hears_and_is_closed(client, "20 .. 00 8C 00");
}

// Covers 5.0: 3.1.2-24
#[test]
fn an_answer_that_the_client_has_no_room_for_ends_the_connection_with_a_reason() {
    let mut bed = Bed::new(2);
    // Room for 12 filters in SUBACK, which is then 5 + 12 bytes long.
    let client = bed.five_with(0, "a", "27 00000011");
    let filters = |n: usize, rest: &str| format!("0001't'{rest}").repeat(n);
    bed.says(client, &format!("82 .. 0001 00 {}", filters(12, "00")));
    bed.hears(client, &format!("90 .. 0001 00 {}", "00".repeat(12)));
    bed.says(client, &format!("A2 .. 0002 00 {}", filters(12, "")));
    bed.hears(client, &format!("B0 .. 0002 00 00 {}", "11".repeat(11)));
    bed.says(client, &format!("82 .. 0003 00 {}", filters(13, "00")));
    bed.hears_and_is_closed(client, "E0 01 95");
    let client = bed.five_with(0, "a", "27 00000011");
    bed.says(client, &format!("A2 .. 0002 00 {}", filters(13, "")));
    bed.hears_and_is_closed(client, "E0 01 95");
}
