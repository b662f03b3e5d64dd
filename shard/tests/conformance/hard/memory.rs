//! The largest topics, and packets that are larger than any: what they cost while they come.

use crate::bed::Bed;
use crate::conformance::wire::{text, wire};
use crate::heap;

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

/// A fixed header that announces the largest packet there is, 268,435,460 bytes with it.
fn largest(first: &str) -> String {
    format!("{first} FF FF FF 7F")
}

/// What a connection may cost while it is refused: its tables, its answer, and nothing for the packet.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

#[test]
fn packets_of_268_mb_are_refused_by_their_announced_length() {
    let mut bed = Bed::new(1);
    // 1 MiB is the limit here; five bytes of fixed header are all that ever comes of such a packet, at once or one by one.
    for first in ["30", "32", "34", "82", "A2", "F0", "E0", "62", "40"] {
        for (client, answer) in [(bed.five(0, "five"), "E0 01 95"), (bed.three(0, "three"), "")] {
            let peak = heap::peak_bytes(|| bed.says(client, &largest(first)));
            bed.hears_and_is_closed(client, answer);
            assert!(peak < REFUSAL_BYTES_MAX, "{first}: {peak} bytes");
        }
        let client = bed.five(0, "five");
        let peak = heap::peak_bytes(|| {
            let bytes = wire(&largest(first));
            for byte in &bytes[..4] {
                bed.send(client, &[*byte]);
                assert!(!bed.is_closed(client), "{first}: its length is not complete");
            }
            bed.send(client, &bytes[4..]);
        });
        bed.hears_and_is_closed(client, "E0 01 95");
        assert!(peak < REFUSAL_BYTES_MAX, "{first}: {peak} bytes");
    }
    assert_eq!(bed.counter("memory_bytes"), 0);
}

#[test]
fn packets_of_268_mb_are_refused_before_connect_too() {
    let mut bed = Bed::new(1);
    // CONNECT, with its first words or without, and what may not come first at all.
    let hello = format!("{} 0004'MQTT' 05 02", largest("10"));
    for text in [largest("10"), hello, largest("30"), largest("82"), largest("F0")] {
        let client = bed.open(0);
        let peak = heap::peak_bytes(|| bed.says(client, &text));
        bed.hears_and_is_closed(client, "");
        assert!(peak < REFUSAL_BYTES_MAX, "{text}: {peak} bytes");
    }
    let client = bed.open(0);
    for byte in [0x10, 0xFF, 0xFF, 0xFF] {
        bed.send(client, &[byte]);
        assert!(!bed.is_closed(client), "its length is not complete");
    }
    bed.send(client, &[0x7F]);
    bed.hears_and_is_closed(client, "");
    assert_eq!(bed.counter("memory_bytes"), 0);
}

/// One byte above the limit, and the limit itself: the former is refused before any of its body comes, the latter costs
/// nothing before.
#[test]
fn memory_is_taken_for_what_has_come_of_a_packet_and_not_for_what_it_announces() {
    let mut bed = Bed::new(1);
    let body = [wire("0001't' 00"), vec![b'x'; 0x0F_FFFC - 4]].concat();
    for first in ["10", "30"] {
        let opens = |bed: &mut Bed| if first == "10" { bed.open(0) } else { bed.five(0, "five") };
        let client = opens(&mut bed);
        bed.says(client, &format!("{first} FD FF 3F"));
        bed.hears_and_is_closed(client, if first == "10" { "" } else { "E0 01 95" });
        let client = opens(&mut bed);
        let peak = heap::peak_bytes(|| bed.says(client, &format!("{first} FC FF 3F")));
        assert!(!bed.is_closed(client), "{first}: as large as it may be");
        assert!(peak < REFUSAL_BYTES_MAX, "{first}: {peak} bytes");
        // So that a packet's memory is known to be seen: half of one that does come.
        let peak = heap::peak_bytes(|| bed.send(client, &body[..body.len() / 2]));
        assert!(peak >= body.len() / 2, "{first}: {peak} bytes");
        if first == "30" {
            bed.send(client, &body[body.len() / 2..]);
            bed.is_well(client);
        }
    }
}
