//! Chapters 3.12 to 3.15, 4.12 and 4.13: PINGREQ, DISCONNECT, AUTH, errors, and how connections end.

use quelea_shard::{Order, Settings};
use std::time::Duration;

use super::wire::{CONNACK_5, connect_5, connect_311};
use crate::bed::Bed;

// Covers 5.0: 3.12.4-1
// Covers 3.1.1: 3.12.4-1
#[test]
fn pingreq_is_answered() {
    let mut bed = Bed::new(1);
    for client in [bed.five(0, "five"), bed.three(0, "three")] {
        bed.says(client, "C0 00; C0 00");
        bed.hears(client, "D0 00; D0 00");
    }
}

// Covers 5.0: 3.14.2-1 3.14.2-2
#[test]
fn our_disconnects_have_reason_codes_of_their_kind_and_nothing_else() {
    let settings = Settings { receive_max: 1, ..Settings::default() };
    for (fault, reason) in [
        ("00 00", "81"),
        ("C0 01 00", "81"),
        ("20 02 00 00", "82"),
        ("30 .. 0001'+' 00", "90"),
        ("34 .. 0001't' 0001 00; 34 .. 0001't' 0002 00", "93"),
        ("30 .. 0001't' 03 23 0000", "94"),
        ("30 FF FF FF 7F", "95"),
        // A CONNECT in a version that we do not speak: 0x84 is not a reason of DISCONNECT.
        ("10 .. 0004'MQTT' 07 02 0000 00 0001'a'", "82"),
    ] {
        let mut bed = Bed::with(1, &settings);
        let client = bed.opens(0, &connect_5("00", "c", "11 0000003C"));
        bed.take_bytes(client);
        bed.says(client, fault);
        let heard = bed.take_bytes(client);
        let expected = super::wire::wire(&format!("E0 01 {reason}"));
        assert!(heard.ends_with(&expected), "{fault}: {heard:02x?}");
        assert!(bed.is_closed(client));
    }
}

// Covers 5.0: 3.14.2-1
#[test]
fn a_reason_code_that_is_not_a_clients_ends_the_connection_as_a_fault() {
    let mut bed = Bed::new(1);
    for reason in ["01", "10", "84", "8E", "FF"] {
        let client = bed.five(0, "c");
        bed.says(client, &format!("E0 01 {reason}"));
        bed.hears_and_is_closed(client, "E0 01 82");
    }
}

// Covers 5.0: 3.14.4-1 3.14.4-2
// Covers 3.1.1: 3.14.4-2
#[test]
fn after_disconnect_nothing_is_said_and_nothing_is_listened_to() {
    let mut bed = Bed::new(2);
    let watcher = bed.five(0, "w");
    bed.subscribes(watcher, "#", 0);
    for (client, none) in [(bed.five(1, "five"), "00"), (bed.three(1, "three"), "")] {
        bed.subscribes(client, "t", 0);
        // Theirs: what is behind it is ignored, and we close if they do not.
        bed.says(client, &format!("E0 00; 30 .. 0001't' {none} 'x'; C0 00"));
        bed.hears_and_is_closed(client, "");
        bed.says(client, "C0 00");
        bed.hears_nothing(client);
        bed.hears_nothing(watcher);
    }
    // Ours: whatever there is to send, DISCONNECT is the last.
    let client = bed.five(1, "c");
    bed.subscribes(client, "t", 1);
    bed.stall(client, true);
    bed.says(watcher, "30 .. 0001't' 00 'x'");
    bed.says(client, "C1 00");
    bed.says(watcher, "30 .. 0001't' 00 'y'");
    bed.stall(client, false);
    bed.hears_and_is_closed(client, "30 .. 0001't' 00 'x'; E0 01 81");
}

// Covers 5.0: 3.14.4-2 4.13.2-1
#[test]
fn shutting_down_is_told_and_closes() {
    let mut bed = Bed::new(1);
    let (five, three, early) = (bed.five(0, "five"), bed.three(0, "three"), bed.open(0));
    let deadline = bed.now + Duration::from_secs(5);
    bed.shards[0].handle_order(bed.now, Order::Drain { deadline });
    bed.run();
    bed.hears_and_is_closed(five, "E0 01 8B");
    bed.hears_and_is_closed(three, "");
    bed.hears_and_is_closed(early, "");
}

// Covers 5.0: 3.15.2-1 4.12.0-6 4.12.0-7
#[test]
fn auth_without_a_method_in_connect_ends_the_connection() {
    let mut bed = Bed::new(1);
    for auth in
        ["F0 .. 18 04 15 0001'm'", "F0 .. 19 04 15 0001'm'", "F0 .. 19 00", "F0 00", "F0 .. 00 04 15 0001'm'"]
    {
        // The CONNACK of `five` has no method in it.
        let client = bed.five(0, "c");
        bed.says(client, auth);
        bed.hears_and_is_closed(client, "E0 01 82");
    }
    // 3.1.1 does not know the packet at all.
    let client = bed.three(0, "c");
    bed.says(client, "F0 .. 18 04 15 0001'm'");
    bed.hears_and_is_closed(client, "");
}

// Covers 5.0: 4.12.0-1 4.12.0-4
#[test]
fn an_authentication_method_that_we_do_not_have_is_refused() {
    let mut bed = Bed::new(1);
    for properties in ["15 0005'SCRAM'", "15 0001'm' 16 0002 00FF"] {
        let client = bed.opens(0, &connect_5("02", "c", properties));
        bed.hears_and_is_closed(client, "20 .. 00 8C 00");
        // Whatever it says behind that is too late.
        bed.says(client, "F0 .. 18 04 15 0001'm'");
        bed.hears_nothing(client);
    }
    assert_eq!(bed.counter("sessions"), 0);
}

// Covers 5.0: 4.13.1-1
// Covers 3.1.1: 4.8.0-1
#[test]
fn a_fault_costs_the_connection_that_it_came_on_and_no_other() {
    let mut bed = Bed::new(2);
    let (five, three) = (bed.five(1, "bystander-5"), bed.three(1, "bystander-3"));
    for (fault_5, reason, fault_3) in [
        ("00 00", "81", "00 00"),
        ("C0 01 00", "81", "C0 01 00"),
        ("30 80 80 80 80 01", "81", "30 80 80 80 80 01"),
        ("30 .. 0002't'", "81", "30 .. 0002't'"),
        ("82 .. 0001 00 0001't'", "81", "82 .. 0001 0001't'"),
        ("32 .. 0001't' 0000 00", "82", "32 .. 0001't' 0000"),
        ("40 .. 0001 92", "82", "40 .. 0001 00"),
        ("D0 00", "82", "D0 00"),
        ("30 FF FF FF 7F", "95", "30 FF FF FF 7F"),
        ("30 .. 0001't' 02 01 02", "82", "31 .. 0001'#'"),
    ] {
        for (connect, fault, heard) in [
            (connect_5("02", "bad", ""), fault_5, format!("{CONNACK_5}; E0 01 {reason}")),
            (connect_311("02", "bad"), fault_3, "20 02 00 00".to_owned()),
        ] {
            let client = bed.opens(0, &format!("{connect}; {fault}"));
            bed.hears_and_is_closed(client, &heard);
        }
    }
    bed.is_well(five);
    bed.is_well(three);
    assert_eq!(bed.counter("sessions"), 2);
}

// Covers 3.1.1: 4.8.0-2
#[test]
fn a_transient_error_ends_the_connection_of_a_client_that_cannot_be_told() {
    // No memory for anything.
    let settings = Settings { memory_bytes_max: 26_000, ..Settings::default() };
    let mut bed = Bed::with(1, &settings);
    let (three, bystander) = (bed.three(0, "c"), bed.three(0, "b"));
    let payload = "x".repeat(18_000);
    bed.says(three, &format!("31 .. 0001't' '{payload}'"));
    bed.says(three, "33 .. 0001'u' 0001 'x'");
    bed.hears(three, "40 .. 0001");
    let fill = "y".repeat(6_000);
    bed.says(three, &format!("33 .. 0001't' 0001 '{payload}{fill}'"));
    bed.take_bytes(three);
    bed.says(three, "32 .. 0001'v' 0002 'x'");
    bed.hears_and_is_closed(three, "");
    bed.is_well(bystander);
}
