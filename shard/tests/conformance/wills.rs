//! Chapter 3.1, the Will: when it is published, and how.

use std::time::Duration;

use super::wire::{CONNACK_5, CONNACK_5_PRESENT};
use crate::bed::{Bed, Client};

/// An MQTT 5 client with a Will `will` → `gone`: Connect Flags, Session Expiry Interval, Will Delay Interval.
#[track_caller]
fn with_will(bed: &mut Bed, shard: usize, flags: &str, expiry_s: u32, delay_s: u32) -> Client {
    bed.opens(
        shard,
        &format!(
            "10 .. 0004'MQTT' 05 {flags} 0000 05 11 {expiry_s:08X} 0001'a' 05 18 {delay_s:08X} 0004'will' 0004'gone'"
        ),
    )
}

fn watcher(bed: &mut Bed) -> Client {
    let client = bed.five(0, "w");
    bed.subscribes(client, "#", 2);
    client
}

const GONE: &str = "30 .. 0004'will' 00 'gone'";

// Covers 5.0: 3.1.2-7 3.1.2-8 3.1.2-14
// Covers 3.1.1: 3.1.2-8 3.1.2-16
#[test]
fn a_will_is_published_when_the_connection_is_lost() {
    let mut bed = Bed::new(2);
    let watcher = watcher(&mut bed);
    let five = with_will(&mut bed, 1, "06", 0, 0);
    bed.hears(five, CONNACK_5);
    bed.hears_nothing(watcher);
    bed.reset(five);
    bed.hears(watcher, GONE);
    // Cut off by us for a fault of its own.
    let five = with_will(&mut bed, 1, "06", 0, 0);
    bed.says(five, "00 00");
    bed.hears(watcher, GONE);
    // With the QoS that it asks for, and not retained.
    for (flags, first) in [("0E", "32"), ("16", "34")] {
        let three = bed.opens(1, &format!("10 .. 0004'MQTT' 04 {flags} 0000 0001'b' 0004'will' 0004'gone'"));
        bed.hears(three, "20 02 00 00");
        bed.send_and_end(three, &[]);
        let id = if first == "32" { "0001" } else { "0002" };
        bed.hears(watcher, &format!("{first} .. 0004'will' {id} 00 'gone'"));
    }
    assert_eq!(bed.counter("retained"), 0);
    assert_eq!(bed.counter("wills_published"), 4);
}

// Covers 5.0: 3.1.2-15
// Covers 3.1.1: 3.1.2-17
#[test]
fn a_will_with_retain_is_published_as_a_retained_message() {
    for connect in [
        "10 .. 0004'MQTT' 05 2E 0000 00 0001'a' 00 0004'will' 0004'gone'",
        "10 .. 0004'MQTT' 04 2E 0000 0001'a' 0004'will' 0004'gone'",
    ] {
        let mut bed = Bed::new(2);
        let client = bed.opens(1, connect);
        bed.reset(client);
        assert_eq!(bed.counter("retained"), 1);
        let late = bed.five(0, "late");
        bed.says(late, "82 .. 0001 00 0004'will' 01");
        bed.hears(late, "90 .. 0001 00 01; 33 .. 0004'will' 0001 00 'gone'");
    }
}

// Covers 5.0: 3.1.2-8 3.1.2-10 3.14.4-3
// Covers 3.1.1: 3.1.2-8 3.1.2-10 3.14.4-3
#[test]
fn disconnect_discards_the_will() {
    let mut bed = Bed::new(2);
    let watcher = watcher(&mut bed);
    for goodbye in ["E0 00", "E0 01 00", "E0 02 00 00"] {
        let five = with_will(&mut bed, 1, "06", 3600, 0);
        bed.says(five, goodbye);
        bed.pass(Duration::from_secs(4000));
        bed.hears_nothing(watcher);
    }
    let three = bed.opens(1, "10 .. 0004'MQTT' 04 06 0000 0001'b' 0004'will' 0004'gone'");
    bed.says(three, "E0 00");
    bed.hears_nothing(watcher);
    // A DISCONNECT with another reason does not, whether it asks for the Will or tells of a fault.
    for goodbye in ["E0 01 04", "E0 01 80"] {
        let five = with_will(&mut bed, 1, "06", 0, 0);
        bed.says(five, goodbye);
        bed.hears(watcher, GONE);
    }
    assert_eq!(bed.counter("wills_published"), 2);
}

// Covers 5.0: 3.1.2-10
// Covers 3.1.1: 3.1.2-10
#[test]
fn a_will_is_published_once() {
    let mut bed = Bed::new(2);
    let watcher = watcher(&mut bed);
    let five = with_will(&mut bed, 1, "04", 3600, 0);
    bed.reset(five);
    bed.hears(watcher, GONE);
    // The session goes on without it: neither the next connection's end nor its own brings it back.
    let back = bed.opens(1, "10 .. 0004'MQTT' 05 00 0000 05 11 0000003C 0001'a'");
    bed.hears(back, CONNACK_5_PRESENT);
    bed.reset(back);
    bed.pass(Duration::from_secs(100));
    bed.hears_nothing(watcher);
    let three = bed.opens(0, "10 .. 0004'MQTT' 04 04 0000 0001'b' 0004'will' 0004'gone'");
    bed.reset(three);
    bed.hears(watcher, GONE);
    let back = bed.opens(0, "10 .. 0004'MQTT' 04 00 0000 0001'b'");
    bed.hears(back, "20 02 01 00");
    bed.reset(back);
    bed.hears_nothing(watcher);
}

// Covers 3.1.1: 3.1.2-12
#[test]
fn without_a_will_none_is_published() {
    let mut bed = Bed::new(1);
    let watcher = watcher(&mut bed);
    let three = bed.three(0, "c");
    bed.reset(three);
    bed.pass(Duration::from_secs(100));
    bed.hears_nothing(watcher);
    assert_eq!(bed.counter("wills_published"), 0);
}

// Covers 5.0: 3.1.2-8 3.1.3-9
#[test]
fn will_delay_against_session_expiry_and_against_a_reconnect() {
    for back_on in [0, 1] {
        let mut bed = Bed::new(2);
        let watcher = watcher(&mut bed);
        // The client returns in time: nothing is sent, then or later.
        let client = with_will(&mut bed, 1, "04", 100, 30);
        bed.reset(client);
        bed.pass(Duration::from_secs(29));
        let back = bed.opens(back_on, "10 .. 0004'MQTT' 05 00 0000 05 11 00000064 0001'a'");
        bed.hears(back, CONNACK_5_PRESENT);
        bed.pass(Duration::from_secs(60));
        bed.hears_nothing(watcher);
        // It does not: the Will goes out when the delay is over.
        bed.reset(back);
        let client = with_will(&mut bed, back_on, "04", 100, 30);
        bed.reset(client);
        bed.pass(Duration::from_secs(29));
        bed.hears_nothing(watcher);
        bed.pass(Duration::from_secs(1));
        bed.hears(watcher, GONE);
        // The session ends before the delay: the Will goes out then.
        let client = with_will(&mut bed, back_on, "04", 10, 30);
        bed.reset(client);
        bed.pass(Duration::from_secs(9));
        bed.hears_nothing(watcher);
        bed.pass(Duration::from_secs(1));
        bed.hears(watcher, GONE);
        assert_eq!(bed.counter("sessions"), 1);
    }
}

// Covers 5.0: 3.1.2-8 3.1.3-9
#[test]
fn a_take_over_publishes_the_will_unless_the_session_goes_on_within_the_delay() {
    for other in [0, 1] {
        for (delay_s, flags, published) in
            [(0, "00", true), (0, "02", true), (30, "00", false), (30, "02", true)]
        {
            let mut bed = Bed::new(2);
            let watcher = watcher(&mut bed);
            let first = with_will(&mut bed, 0, "06", 100, delay_s);
            bed.hears(first, CONNACK_5);
            let second =
                bed.opens(other, &format!("10 .. 0004'MQTT' 05 {flags} 0000 05 11 00000064 0001'a'"));
            bed.hears(second, if flags == "02" { CONNACK_5 } else { CONNACK_5_PRESENT });
            bed.hears_and_is_closed(first, "E0 01 8E");
            bed.pass(Duration::from_secs(60));
            bed.hears(watcher, if published { GONE } else { "" });
        }
    }
}

// Covers 5.0: 3.1.3-10 3.3.2-18
#[test]
fn a_will_keeps_its_properties_and_their_order() {
    let mut bed = Bed::new(2);
    let watcher = watcher(&mut bed);
    let pairs = "26 0001'z' 0001'1' 26 0001'a' 0001'2' 26 0001'z' 0001'1' 26 0001'b' 0001'3'";
    let own = "01 01 02 0000003C 03 0001'c' 08 0001'r' 09 0002 00FF";
    let client = bed.opens(
        1,
        &format!("10 .. 0004'MQTT' 05 06 0000 00 0001'a' 35 18 00000000 {own} {pairs} 0004'will' 0004'gone'"),
    );
    bed.hears(client, CONNACK_5);
    bed.pass(Duration::from_secs(100));
    bed.reset(client);
    // Its expiry begins when it is published.
    let heard = bed.take_bytes(watcher);
    let tail = super::wire::wire(&format!("{pairs} 'gone'"));
    assert!(heard.ends_with(&tail), "{heard:02x?}");
    for property in ["01 01", "02 0000003C", "03 0001'c'", "08 0001'r'", "09 0002 00FF"] {
        let property = super::wire::wire(property);
        assert!(heard.windows(property.len()).any(|bytes| bytes == property), "{heard:02x?}");
    }
}
