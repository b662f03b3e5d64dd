//! What a session and a connection remember, and what they do not.

use std::time::Duration;

use quelea_mqtt::Version;

use crate::bed::Bed;
use crate::conformance::wire::{CONNACK_5, CONNACK_5_PRESENT, connect_5, connect_311, text};

// Covers 5.0: 3.1.2-5 3.1.4-3
// Covers 3.1.1: 3.1.2-4 3.1.4-2
#[test]
fn a_session_is_taken_over_by_a_client_with_another_protocol_version() {
    for other in [0, 1] {
        let mut bed = Bed::new(2);
        let publisher = bed.five(1, "p");
        let five = bed.opens(0, &connect_5("00", "c", "11 0000FFFF 21 0002"));
        bed.hears(five, CONNACK_5);
        bed.says(five, "82 .. 0001 02 0B 07 0001't' 0A");
        bed.hears(five, "90 .. 0001 00 02");
        let properties = "0E 02 000000FF 03 0001'c' 09 0002 00FF";
        bed.says(publisher, &format!("35 .. 0001't' 0001 {properties} 'a'"));
        bed.says(publisher, "32 .. 0001't' 0002 00 'b'; 32 .. 0001't' 0003 00 'c'");
        assert_eq!(bed.take(five).len(), 2);
        // 3.1.1: what is in flight comes again without properties, and what waited behind Receive Maximum.
        let three = bed.opens(other, &connect_311("00", "c"));
        bed.speaks(three, Version::V311);
        bed.hears_and_is_closed(five, "E0 01 8E");
        bed.hears(
            three,
            "20 02 01 00; 3D .. 0001't' 0001 'a'; 3A .. 0001't' 0002 'b'; 32 .. 0001't' 0003 'c'",
        );
        bed.says(three, "50 .. 0001; 40 .. 0002");
        bed.hears(three, "62 .. 0001");
        // 3.1: no Session Present, the same session.
        let old = bed.opens(0, "10 .. 0006'MQIsdp' 03 00 0000 0001'c'");
        bed.hears_and_is_closed(three, "");
        bed.hears(old, "20 02 00 00; 62 .. 0001; 3A .. 0001't' 0003 'c'");
        bed.says(old, "70 .. 0001; 40 .. 0003");
        // And back: the subscription still has its identifier and its options.
        let five = bed.opens(other, &connect_5("00", "c", "11 0000FFFF"));
        bed.hears_and_is_closed(old, "");
        bed.hears(five, CONNACK_5_PRESENT);
        bed.says(publisher, &format!("33 .. 0001't' 0004 {properties} 'd'"));
        let heard = bed.take(five);
        assert_eq!(heard, ["PUBLISH t q1 id4 retain sub7 expiry255 'd'"]);
    }
}

// Covers 5.0: 3.3.2-7
#[test]
fn topic_aliases_are_reset_on_a_reconnect() {
    for back_on in [0, 1] {
        let mut bed = Bed::new(2);
        let publisher = bed.five(1, "p");
        // Ours towards the client: set anew, also for what is sent again.
        let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF 22 0005"));
        bed.hears(client, CONNACK_5);
        bed.subscribes(client, "#", 1);
        bed.says(publisher, "32 .. 0001'a' 0001 00; 32 .. 0001'b' 0002 00; 32 .. 0001'b' 0003 00");
        bed.hears(
            client,
            "32 .. 0001'a' 0001 03 23 0001; 32 .. 0001'b' 0002 03 23 0002; 32 .. 0000 0003 03 23 0002",
        );
        bed.says(client, "40 .. 0001");
        bed.reset(client);
        let client = bed.opens(back_on, &connect_5("00", "c", "11 0000FFFF 22 0005"));
        let again = "3A .. 0001'b' 0002 03 23 0001; 3A .. 0000 0003 03 23 0001";
        bed.hears(client, &format!("{CONNACK_5_PRESENT}; {again}"));
        bed.reset(client);
        // And none where the next connection allows none.
        let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF"));
        bed.hears(client, &format!("{CONNACK_5_PRESENT}; 3A .. 0001'b' 0002 00; 3A .. 0001'b' 0003 00"));
        // Theirs.
        bed.says(client, "30 .. 0001'x' 03 23 0003");
        bed.reset(client);
        let client = bed.opens(back_on, &connect_5("00", "c", "11 0000FFFF"));
        bed.says(client, "30 .. 0000 03 23 0003");
        assert_eq!(bed.take(client).last().map(String::as_str), Some("DISCONNECT 0x82"));
    }
}

// Covers 5.0: 4.7.2-1
// Covers 3.1.1: 4.7.2-1
#[test]
fn a_subscription_to_everything_does_not_see_sys() {
    let mut bed = Bed::new(2);
    let all = bed.five(0, "all");
    bed.says(all, "82 .. 0001 00 0001'#' 02 0003'+/#' 02 000A'$share/g/#' 02");
    bed.hears(all, "90 .. 0001 00 02 02 02");
    let client = bed.five(1, "c");
    // Our own topics cannot be spoken on, with or without an alias, and not by a Will either.
    bed.says(client, "32 .. 0006'$SYS/x' 0001 00; 30 .. 0004'$SYS' 03 23 0001; 31 .. 0000 03 23 0001");
    bed.hears(client, "40 .. 0001 87");
    let will = bed.opens(0, &format!("10 .. 0004'MQTT' 05 06 0000 00 0001'w' 00 {} 0000", text("$SYS/x")));
    bed.hears_and_is_closed(will, "20 .. 00 87 00");
    bed.says(client, "30 .. 0005'$SYSx' 00; 30 .. 0002'$x' 00");
    bed.hears_nothing(all);
    assert_eq!((bed.counter("denied"), bed.counter("retained")), (3, 0));
}

// Covers 5.0: 3.10.4-2 3.10.4-3
// Covers 3.1.1: 3.10.4-2 3.10.4-3
#[test]
fn unsubscribe_during_delivery() {
    for shards in [1, 2] {
        let mut bed = Bed::new(shards);
        let client = bed.five_with(0, "c", "21 0001");
        bed.subscribes(client, "t", 1);
        bed.subscribes(client, "u", 1);
        let publisher = bed.five(shards - 1, "p");
        for n in 1..=4 {
            let topic = if n % 2 == 0 { 'u' } else { 't' };
            bed.says(publisher, &format!("32 .. 0001'{topic}' {n:04X} 00 {n:02X}"));
        }
        // One is on its way, three wait; then the subscription goes.
        bed.hears(client, "32 .. 0001't' 0001 00 01");
        bed.says(client, "A2 .. 0001 00 0001't'");
        bed.hears(client, "B0 .. 0001 00 00");
        bed.says(publisher, "32 .. 0001't' 0005 00 05; 32 .. 0001'u' 0006 00 06");
        // What is on its way is completed; what was queued before may still come; what came later does not.
        let mut payloads = Vec::new();
        bed.says(client, "40 .. 0001");
        bed.acknowledge_all_into(client, &mut payloads);
        let got: Vec<u8> = payloads.iter().map(|payload| payload[0]).collect();
        assert_eq!(got, [2, 3, 4, 6]);
        bed.is_well(client);
    }
}

// Covers 5.0: 3.1.2-22
// Covers 3.1.1: 3.1.2-24
#[test]
fn keep_alive_0_is_no_keep_alive() {
    let mut bed = Bed::new(1);
    let clients = [bed.five(0, "five"), bed.three(0, "three")];
    bed.pass(Duration::from_secs(365 * 24 * 3600));
    for client in clients {
        bed.is_well(client);
    }
    assert_eq!(bed.counter("keep_alive_timeouts"), 0);
}

// Covers 5.0: 4.12.0-7 4.12.1-2
#[test]
fn re_authentication_ends_a_connection_that_was_not_authenticated_by_a_method() {
    let mut bed = Bed::new(2);
    let watcher = bed.five(0, "w");
    bed.subscribes(watcher, "will", 0);
    for auth in ["F0 .. 19 04 15 0001'm'", "F0 .. 19 08 15 0001'm' 16 0001'd'"] {
        let client = bed.opens(1, "10 .. 0004'MQTT' 05 06 0000 00 0001'a' 00 0004'will' 0001'x'");
        bed.hears(client, CONNACK_5);
        bed.says(client, auth);
        bed.hears_and_is_closed(client, "E0 01 82");
        // It has failed, so its Will is published.
        bed.hears(watcher, "30 .. 0004'will' 00 'x'");
    }
}
