//! Chapter 1.5: text and integers.

use super::wire::{connect_5, text};
use crate::bed::Bed;

/// A topic of three bytes as clients of 5.0 and 3.1.1 would publish to it: whoever does so is cut off, 5.0 with a reason.
#[track_caller]
fn ends_the_connection(topic: &str) {
    let mut bed = Bed::new(1);
    let five = bed.five(0, "five");
    bed.says(five, &format!("30 .. 0003 {topic} 00 'x'"));
    bed.hears_and_is_closed(five, "E0 01 81");
    let three = bed.three(0, "three");
    bed.says(three, &format!("30 .. 0003 {topic} 'x'"));
    bed.hears_and_is_closed(three, "");
    assert_eq!(bed.counter("malformed"), 2);
}

// Covers 5.0: 1.5.4-1
// Covers 3.1.1: 1.5.3-1
#[test]
fn text_that_is_not_well_formed_ends_the_connection() {
    ends_the_connection("FF 'ab'");
    ends_the_connection("C3 28 'a'");
    ends_the_connection("E2 82 'a'");
    // Surrogates: U+D800 and U+DFFF.
    ends_the_connection("ED A0 80");
    ends_the_connection("ED BF BF");
    // A slash in two bytes.
    ends_the_connection("C0 AF 'a'");
}

// Covers 5.0: 1.5.4-2 4.7.3-2
// Covers 3.1.1: 1.5.3-2 4.7.3-2
#[test]
fn u_0000_in_text_ends_the_connection() {
    ends_the_connection("'a' 00 'b'");
    ends_the_connection("00 00 00");
    let mut bed = Bed::new(1);
    let client = bed.five(0, "c");
    bed.says(client, "82 .. 0001 00 0003 'a' 00 'b' 00");
    bed.hears_and_is_closed(client, "E0 01 81");
    let client = bed.five(0, "c");
    bed.says(client, "A2 .. 0001 00 0001 00");
    bed.hears_and_is_closed(client, "E0 01 81");
}

// Covers 5.0: 1.5.4-3 4.7.3-4
// Covers 3.1.1: 1.5.3-3 4.7.3-4
#[test]
fn a_byte_order_mark_is_a_character_like_any_other() {
    let mut bed = Bed::new(2);
    let (all, without, with) = (bed.three(0, "all"), bed.five(1, "without"), bed.five(0, "with"));
    bed.subscribes(all, "#", 0);
    bed.subscribes(without, "a", 0);
    bed.subscribes(with, "\u{FEFF}a", 0);
    let publisher = bed.five(1, "p");
    bed.says(publisher, "30 .. 0004 EFBBBF 'a' 00 EFBBBF 'x'");
    bed.hears(all, "30 .. 0004 EFBBBF 'a' EFBBBF 'x'");
    bed.hears_nothing(without);
    bed.hears(with, "30 .. 0004 EFBBBF 'a' 00 EFBBBF 'x'");
}

// Covers 5.0: 1.5.5-1
#[test]
fn a_variable_byte_integer_has_no_byte_more_than_it_needs() {
    let mut bed = Bed::new(1);
    // Remaining Length, property length, Subscription Identifier.
    for padded in ["C0 80 00", "30 .. 0001't' 80 00", "82 .. 0001 03 0B 81 00 0001't' 00"] {
        let client = bed.five(0, "c");
        bed.says(client, padded);
        bed.hears_and_is_closed(client, "E0 01 81");
    }
    let publisher = bed.five(0, "p");
    for (id, bytes) in [
        (127, "7F"),
        (128, "80 01"),
        (16_383, "FF 7F"),
        (16_384, "80 80 01"),
        (2_097_151, "FF FF 7F"),
        (2_097_152, "80 80 80 01"),
        (268_435_455, "FF FF FF 7F"),
    ] {
        let client = bed.five(0, "c");
        let length = 1 + bytes.split(' ').count();
        bed.says(client, &format!("82 .. 0001 {length:02X} 0B {bytes} 0001't' 00"));
        bed.hears(client, "90 .. 0001 00 00");
        bed.says(publisher, "30 .. 0001't' 00 'x'");
        bed.hears(client, &format!("30 .. 0001't' {length:02X} 0B {bytes} 'x'"));
        bed.says(client, "E0 00");
        assert!(bed.is_closed(client), "{id}");
    }
    // Our own Remaining Length: 127 bytes need one byte, 128 two.
    let client = bed.five(0, "c");
    bed.subscribes(client, "t", 0);
    for (payload, length) in [(123, "7F"), (124, "80 01"), (16_379, "FF 7F"), (16_380, "80 80 01")] {
        let payload = "x".repeat(payload);
        bed.says(publisher, &format!("30 .. 0001't' 00 '{payload}'"));
        bed.hears(client, &format!("30 {length} 0001't' 00 '{payload}'"));
    }
}

// Covers 5.0: 1.5.7-1
#[test]
fn both_halves_of_a_user_property_are_text() {
    let mut bed = Bed::new(1);
    for pair in
        ["0001 FF 0001'v'", "0001'k' 0001 FF", "0001 00 0001'v'", "0001'k' 0001 00", "0001'k' 0003 EDA080"]
    {
        let client = bed.five(0, "c");
        let bytes = super::wire::wire(pair).len() + 1;
        bed.says(client, &format!("30 .. 0001't' {bytes:02X} 26 {pair} 'x'"));
        bed.hears_and_is_closed(client, "E0 01 81");
    }
    let client = bed.opens(0, &connect_5("02", "c", &format!("26 {} 0001 FF", text("k"))));
    bed.hears_and_is_closed(client, "20 .. 00 81 00");
}
