//! Chapter 2: fixed header, packet identifiers, properties.

use crate::bed::Bed;

/// Packets of a client whose fixed header has a reserved flag that is not as prescribed; the bodies are in order.
const WRONG_FLAGS: [(&str, &str, &str); 13] = [
    ("PUBACK", "41 .. 0001", "41 .. 0001"),
    ("PUBACK", "48 .. 0001", "48 .. 0001"),
    ("PUBREC", "52 .. 0001", "52 .. 0001"),
    ("PUBREL", "60 .. 0001", "60 .. 0001"),
    ("PUBREL", "63 .. 0001", "63 .. 0001"),
    ("PUBCOMP", "72 .. 0001", "72 .. 0001"),
    ("SUBSCRIBE", "80 .. 0001 00 0001't' 00", "80 .. 0001 0001't' 00"),
    ("SUBSCRIBE", "8A .. 0001 00 0001't' 00", "8A .. 0001 0001't' 00"),
    ("UNSUBSCRIBE", "A0 .. 0001 00 0001't'", "A0 .. 0001 0001't'"),
    ("UNSUBSCRIBE", "A3 .. 0001 00 0001't'", "A3 .. 0001 0001't'"),
    ("PINGREQ", "C1 00", "C1 00"),
    ("DISCONNECT", "E1 00", "E1 00"),
    ("AUTH", "F1 .. 18 04 15 0001'm'", "F1 .. 18 04 15 0001'm'"),
];

// Covers 5.0: 2.1.3-1 3.6.1-1 3.8.1-1 3.10.1-1 3.14.1-1 3.15.1-1
// Covers 3.1.1: 2.2.2-1 2.2.2-2 3.6.1-1 3.8.1-1 3.10.1-1 3.14.1-1
#[test]
fn reserved_flags_of_the_fixed_header_end_the_connection() {
    let mut bed = Bed::new(1);
    for (packet, five, three) in WRONG_FLAGS {
        let client = bed.five(0, "five");
        bed.says(client, five);
        bed.hears_and_is_closed(client, "E0 01 81");
        let client = bed.three(0, "three");
        bed.says(client, three);
        bed.hears_and_is_closed(client, "");
        assert_eq!(bed.counter("sessions"), 0, "{packet}");
    }
    for first in ["11", "1F"] {
        let client = bed.opens(0, &format!("{first} .. 0004'MQTT' 05 02 0000 00 0001'a'"));
        bed.hears_and_is_closed(client, "");
    }
}

// Covers 5.0: 2.2.1-2
// Covers 3.1.1: 2.3.1-5
#[test]
fn a_qos_0_publish_has_no_packet_identifier() {
    let mut bed = Bed::new(1);
    let (five, three) = (bed.five(0, "five"), bed.three(0, "three"));
    for client in [five, three] {
        bed.subscribes(client, "t", 2);
    }
    // What looks like one is payload, on the way in and on the way out.
    bed.says(five, "30 .. 0001't' 00 0007'x'");
    bed.hears(five, "30 .. 0001't' 00 0007'x'");
    bed.hears(three, "30 .. 0001't' 0007'x'");
    bed.says(three, "30 .. 0001't' 0007'y'");
    bed.hears(five, "30 .. 0001't' 00 0007'y'");
    bed.hears(three, "30 .. 0001't' 0007'y'");
}

// Covers 5.0: 2.2.1-3
// Covers 3.1.1: 2.3.1-1
#[test]
fn packet_identifier_0_ends_the_connection() {
    let mut bed = Bed::new(1);
    for packet in
        ["32 .. 0001't' 0000 'x'", "34 .. 0001't' 0000", "82 .. 0000 0001't' 00", "A2 .. 0000 0001't'"]
    {
        let client = bed.three(0, "c");
        bed.says(client, packet);
        bed.hears_and_is_closed(client, "");
    }
    for packet in ["32 .. 0001't' 0000 00", "34 .. 0001't' 0000 00", "82 .. 0000 00 0001't' 00", "40 .. 0000"]
    {
        let client = bed.five(0, "c");
        bed.says(client, packet);
        bed.hears_and_is_closed(client, "E0 01 82");
    }
}

// Covers 5.0: 2.2.1-4 4.3.2-1 4.3.3-1
// Covers 3.1.1: 2.3.1-4
#[test]
fn the_broker_gives_every_delivery_an_identifier_of_its_own() {
    let mut bed = Bed::new(2);
    let publisher = bed.five(0, "p");
    for client in [bed.five(1, "five"), bed.three(1, "three")] {
        bed.subscribes(client, "t", 2);
        let none = if bed.version(client) == quelea_mqtt::Version::V5 { "00" } else { "" };
        bed.says(
            publisher,
            "32 .. 0001't' 0001 00 'a'; 34 .. 0001't' 0002 00 'b'; 32 .. 0001't' 0003 00 'c'",
        );
        bed.says(publisher, "62 .. 0002");
        let expected = format!(
            "32 .. 0001't' 0001 {none} 'a'; 34 .. 0001't' 0002 {none} 'b'; 32 .. 0001't' 0003 {none} 'c'"
        );
        bed.hears(client, &expected);
        // Identifier 1 is free again; 2 and 3 are not, and the next ones differ from all that are open.
        bed.says(client, "40 .. 0001");
        bed.says(publisher, "32 .. 0001't' 0001 00 'd'; 32 .. 0001't' 0003 00 'e'");
        bed.hears(client, &format!("32 .. 0001't' 0004 {none} 'd'; 32 .. 0001't' 0005 {none} 'e'"));
        bed.says(client, "E0 00");
    }
}

// Covers 5.0: 2.2.1-5
// Covers 3.1.1: 2.3.1-6
#[test]
fn acknowledgements_carry_the_identifier_of_their_publish() {
    let mut bed = Bed::new(2);
    let (five, three) = (bed.five(0, "five"), bed.three(1, "three"));
    for (client, none, nobody) in [(five, "00", "10"), (three, "", "")] {
        bed.says(client, &format!("32 .. 0001't' ABCD {none}"));
        bed.hears(client, &format!("40 .. ABCD {nobody}"));
        bed.says(client, &format!("34 .. 0001't' FFFF {none}"));
        bed.hears(client, &format!("50 .. FFFF {nobody}"));
        bed.says(client, "62 .. FFFF");
        bed.hears(client, "70 .. FFFF");
    }
    for client in [five, three] {
        bed.subscribes(client, "t", 2);
    }
    bed.says(five, "34 .. 0001't' 0042 00");
    bed.hears(five, "34 .. 0001't' 0001 00; 50 .. 0042");
    bed.hears(three, "34 .. 0001't' 0001");
    for client in [five, three] {
        bed.says(client, "50 .. 0001");
        bed.hears(client, "62 .. 0001");
    }
}

// Covers 5.0: 2.2.1-6 3.8.4-1 3.8.4-2 3.10.4-4 3.10.4-5
// Covers 3.1.1: 2.3.1-7 3.8.4-1 3.8.4-2 3.10.4-4 3.10.4-5
#[test]
fn suback_and_unsuback_carry_the_identifier_of_what_they_answer() {
    let mut bed = Bed::new(2);
    let (five, three) = (bed.five(0, "five"), bed.three(1, "three"));
    bed.says(five, "82 .. ABCD 00 0001't' 01");
    bed.hears(five, "90 .. ABCD 00 01");
    bed.says(five, "A2 .. DCBA 00 0001't'");
    bed.hears(five, "B0 .. DCBA 00 00");
    bed.says(five, "A2 .. FFFF 00 0001't'");
    bed.hears(five, "B0 .. FFFF 00 11");
    bed.says(three, "82 .. ABCD 0001't' 01");
    bed.hears(three, "90 .. ABCD 01");
    bed.says(three, "A2 .. DCBA 0001't'");
    bed.hears(three, "B0 .. DCBA");
    // Nothing to delete: answered all the same.
    bed.says(three, "A2 .. FFFF 0001't'");
    bed.hears(three, "B0 .. FFFF");
}

// Covers 5.0: 2.2.2-1
#[test]
fn no_properties_are_a_property_length_of_zero() {
    let mut bed = Bed::new(1);
    let client = bed.five(0, "c");
    bed.says(client, "82 .. 0001 00 0001't' 01");
    bed.hears(client, "90 .. 0001 00 01");
    bed.says(client, "32 .. 0001't' 0001 00 'x'");
    bed.hears(client, "40 .. 0001; 32 .. 0001't' 0001 00 'x'");
    bed.says(client, "A2 .. 0001 00 0001't'");
    bed.hears(client, "B0 .. 0001 00 00");
    let refused = bed.opens(0, "10 .. 0004'MQTT' 05 02 0000 03 15 0000 0001'a'");
    bed.hears(refused, "20 .. 00 8C 00");
    // Without it the packet is malformed.
    bed.says(client, "82 .. 0001");
    bed.hears_and_is_closed(client, "E0 01 81");
}
