//! The exchanges of QoS 1 and 2: quotas, retransmissions and identifiers, over reconnects.

use std::time::Duration;

use quelea_shard::Settings;

use super::publishes;
use crate::bed::{Bed, Client};
use crate::conformance::wire::{CONNACK_5, CONNACK_5_PRESENT, connect_5, wire};

// Covers 5.0: 3.3.4-7 3.3.4-9 4.9.0-1 4.9.0-2
#[test]
fn receive_maximum_holds_in_both_directions_across_a_reconnect() {
    let settings = Settings { receive_max: 2, ..Settings::default() };
    let connack = |present| format!("20 .. {present} 00 0B 21 0002 27 00100000 22 0010");
    for back_on in [0, 1] {
        let mut bed = Bed::with(2, &settings);
        // Towards the client: 3 at a time, then 1, then 5.
        let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF 21 0003"));
        bed.hears(client, &connack("00"));
        bed.subscribes(client, "t", 2);
        let publisher = bed.five_told(1, "p", &connack("00"));
        publishes(&mut bed, publisher, 1..=8);
        assert_eq!(bed.take(client).len(), 3);
        bed.reset(client);
        let client = bed.opens(back_on, &connect_5("00", "c", "11 0000FFFF 21 0001"));
        bed.hears(client, &format!("{}; 3A .. 0001't' 0001 00 0001", connack("01")));
        bed.says(client, "40 .. 0001");
        bed.hears(client, "3C .. 0001't' 0002 00 0002");
        bed.says(client, "50 .. 0002");
        bed.hears(client, "62 .. 0002");
        bed.reset(client);
        // What was released no longer counts on a new connection: five more, the third of them again.
        let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF 21 0005"));
        let five = "3A .. 0001't' 0003 00 0003; 34 .. 0001't' 0004 00 0004; 32 .. 0001't' 0005 00 0005; \
                    34 .. 0001't' 0006 00 0006; 32 .. 0001't' 0007 00 0007";
        bed.hears(client, &format!("{}; 62 .. 0002; {five}", connack("01")));
        // It gives nothing back either.
        bed.says(client, "70 .. 0002");
        bed.hears_nothing(client);
        bed.says(client, "40 .. 0003");
        bed.hears(client, "34 .. 0001't' 0008 00 0008");

        // Towards us: two at a time, counted anew on each connection.
        let client = bed.opens(0, &connect_5("00", "q", "11 0000FFFF"));
        bed.hears(client, &connack("00"));
        bed.says(client, "34 .. 0001'u' 0001 00; 34 .. 0001'u' 0002 00");
        bed.hears(client, "50 .. 0001 10; 50 .. 0002 10");
        bed.reset(client);
        let client = bed.opens(back_on, &connect_5("00", "q", "11 0000FFFF"));
        bed.hears(client, &connack("01"));
        bed.says(client, "3C .. 0001'u' 0001 00; 3C .. 0001'u' 0002 00");
        bed.hears(client, "50 .. 0001; 50 .. 0002");
        bed.says(client, "62 .. 0001");
        bed.hears(client, "70 .. 0001");
        bed.says(client, "34 .. 0001'u' 0003 00");
        bed.hears(client, "50 .. 0003 10");
        bed.says(client, "34 .. 0001'u' 0004 00");
        bed.hears_and_is_closed(client, "E0 01 93");
    }
}

// Covers 5.0: 3.3.4-7 4.3.3-10
#[test]
fn a_qos_2_publication_that_is_sent_again_counts_once_against_receive_maximum() {
    let settings = Settings { receive_max: 2, ..Settings::default() };
    for back_on in [0, 1] {
        let mut bed = Bed::with(2, &settings);
        let watcher = bed.three(1, "w");
        bed.subscribes(watcher, "t", 0);
        let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF"));
        bed.take_bytes(client);
        // Again and again on one connection, as only clients before 5.0 should: answered each time, published once.
        for first in ["34", "3C", "3C", "3C", "3C"] {
            bed.says(client, &format!("{first} .. 0001't' 0001 00"));
            bed.hears(client, "50 .. 0001");
        }
        bed.hears(watcher, "30 .. 0001't'");
        bed.says(client, "34 .. 0001't' 0002 00");
        bed.hears(client, "50 .. 0002");
        bed.reset(client);
        // What is released from an earlier connection makes no room on this one.
        let client = bed.opens(back_on, &connect_5("00", "c", "11 0000FFFF"));
        bed.take_bytes(client);
        bed.says(client, "62 .. 0001; 34 .. 0001't' 0003 00");
        bed.says(client, "62 .. 0002; 34 .. 0001't' 0004 00");
        bed.hears(client, "70 .. 0001; 50 .. 0003; 70 .. 0002; 50 .. 0004");
        bed.says(client, "34 .. 0001't' 0005 00");
        bed.hears_and_is_closed(client, "E0 01 93");
        // It was not taken: when it comes again, it is new.
        bed.take_bytes(watcher);
        let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF"));
        bed.take_bytes(client);
        bed.says(client, "3C .. 0001't' 0005 00");
        bed.hears(client, "50 .. 0005");
        bed.hears(watcher, "30 .. 0001't'");
    }
}

// Covers 5.0: 4.3.3-5 4.3.3-6 4.3.3-10 4.4.0-1
#[test]
fn qos_2_replay_after_resume_is_without_a_duplicate_and_without_a_loss() {
    // The publisher's connection is lost before PUBREC, before PUBREL, before PUBCOMP (each unread), or not at all; the
    // subscriber's at the same places of its exchange. Both come back on either shard.
    for lost in 0..4 {
        for reader_lost in 0..4 {
            for back_on in [0, 1] {
                let mut bed = Bed::new(2);
                let reader = bed.opens(0, &connect_5("00", "r", "11 0000FFFF"));
                bed.hears(reader, CONNACK_5);
                bed.subscribes(reader, "t", 2);
                let publisher = bed.opens(0, &connect_5("00", "p", "11 0000FFFF"));
                bed.hears(publisher, CONNACK_5);
                let mut publisher = Some(publisher);
                let again = |bed: &mut Bed, client: &mut Option<Client>, id: &str| {
                    bed.reset(client.take().expect("connected"));
                    let back = bed.opens(back_on, &connect_5("00", id, "11 0000FFFF"));
                    *client = Some(back);
                    back
                };
                bed.says(publisher.expect("connected"), "34 .. 0001't' 0001 00 'x'");
                if lost == 1 {
                    let back = again(&mut bed, &mut publisher, "p");
                    bed.hears(back, CONNACK_5_PRESENT);
                    bed.says(back, "3C .. 0001't' 0001 00 'x'");
                }
                bed.hears(publisher.expect("connected"), "50 .. 0001");
                if lost == 2 {
                    let back = again(&mut bed, &mut publisher, "p");
                    bed.hears(back, CONNACK_5_PRESENT);
                }
                bed.says(publisher.expect("connected"), "62 .. 0001");
                if lost == 3 {
                    let back = again(&mut bed, &mut publisher, "p");
                    bed.hears(back, CONNACK_5_PRESENT);
                    bed.says(back, "62 .. 0001");
                    // It was released already.
                    bed.hears(back, "70 .. 0001 92");
                } else {
                    bed.hears(publisher.expect("connected"), "70 .. 0001");
                }

                let mut reader = Some(reader);
                let mut first = "34";
                if reader_lost == 1 {
                    bed.take_bytes(reader.expect("connected"));
                    let back = again(&mut bed, &mut reader, "r");
                    bed.hears(back, &format!("{CONNACK_5_PRESENT}; 3C .. 0001't' 0001 00 'x'"));
                    first = "";
                }
                if !first.is_empty() {
                    bed.hears(reader.expect("connected"), &format!("{first} .. 0001't' 0001 00 'x'"));
                }
                for lost_here in [2, 3] {
                    bed.says(reader.expect("connected"), "50 .. 0001");
                    bed.hears(reader.expect("connected"), "62 .. 0001");
                    if reader_lost == lost_here {
                        let back = again(&mut bed, &mut reader, "r");
                        bed.hears(back, &format!("{CONNACK_5_PRESENT}; 62 .. 0001"));
                    }
                }
                bed.says(reader.expect("connected"), "70 .. 0001");
                // Once more, to see that nothing is left on either side.
                let back = again(&mut bed, &mut reader, "r");
                bed.hears(back, CONNACK_5_PRESENT);
                bed.says(publisher.expect("connected"), "34 .. 0001't' 0001 00 'y'");
                bed.hears(publisher.expect("connected"), "50 .. 0001");
                let heard = bed.take(back);
                assert_eq!(heard.len(), 1, "{lost} {reader_lost} {heard:?}");
                assert!(heard[0].ends_with("'y'") && !heard[0].contains("dup"), "{heard:?}");
            }
        }
    }
}

// Covers 5.0: 4.3.3-11 3.7.2-1
#[test]
fn pubrel_with_an_unknown_identifier_is_completed() {
    let mut bed = Bed::new(1);
    let (five, three) = (bed.five(0, "five"), bed.three(0, "three"));
    bed.says(five, "62 .. 1234; 62 .. 1234 92");
    bed.hears(five, "70 .. 1234 92; 70 .. 1234 92");
    bed.says(three, "62 .. 1234");
    bed.hears(three, "70 .. 1234");
    // And what the client may say to a PUBREL of ours that it does not know.
    bed.says(five, "70 .. 0001 92; 40 .. 0001; 50 .. 0001 92; 50 .. 0001");
    bed.hears_and_is_closed(five, "E0 01 82");
    let five = bed.five(0, "five");
    bed.says(five, "70 .. 0001 92; 40 .. 0001; 50 .. 0001");
    bed.hears(five, "62 .. 0001 92");
    bed.says(three, "70 .. 0001; 40 .. 0001; 50 .. 0001");
    bed.hears(three, "62 .. 0001");
}

// Covers 5.0: 3.3.1-1 3.3.1-3
#[test]
fn dup_is_set_on_a_retransmission_of_the_same_identifier_and_on_nothing_else() {
    for back_on in [0, 1] {
        let mut bed = Bed::new(2);
        let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF 21 0001"));
        bed.hears(client, CONNACK_5);
        bed.subscribes(client, "t", 1);
        let publisher = bed.five(1, "p");
        bed.says(publisher, "3A .. 0001't' 0001 00 'a'; 3A .. 0001't' 0002 00 'b'");
        bed.hears(client, "32 .. 0001't' 0001 00 'a'");
        bed.reset(client);
        // The second was never sent: it is new when it comes.
        let back = bed.opens(back_on, &connect_5("00", "c", "11 0000FFFF 21 0002"));
        bed.hears(
            back,
            &format!("{CONNACK_5_PRESENT}; 3A .. 0001't' 0001 00 'a'; 32 .. 0001't' 0002 00 'b'"),
        );
        // After its PUBACK the identifier belongs to another message.
        bed.says(back, "40 .. 0001; 40 .. 0002");
        bed.reset(back);
        let back = bed.opens(0, &connect_5("00", "c", "11 0000FFFF"));
        bed.hears(back, CONNACK_5_PRESENT);
        bed.says(publisher, "3A .. 0001't' 0003 00 'c'");
        bed.hears(back, "32 .. 0001't' 0003 00 'c'");
    }
}

/// Deliveries with identifiers out of what a client has received.
fn identifiers(heard: &[String]) -> Vec<u16> {
    let ids = heard.iter().filter_map(|line| line.split(" id").nth(1));
    ids.map(|rest| rest.split(' ').next().and_then(|id| id.parse().ok()).expect("a number")).collect()
}

// Covers 5.0: 2.2.1-4
// Covers 3.1.1: 2.3.1-4
#[test]
fn packet_identifiers_exhausted() {
    let settings = Settings {
        inflight_max: u16::MAX,
        queue_messages_max: 100,
        receive_max: u16::MAX,
        full_deadline: Duration::from_secs(3600),
        ..Settings::default()
    };
    let mut bed = Bed::with(1, &settings);
    let client = bed.opens(0, &connect_5("02", "c", ""));
    bed.take_bytes(client);
    bed.subscribes(client, "t", 1);
    let publisher = bed.opens(0, &connect_5("02", "p", ""));
    bed.take_bytes(publisher);
    // Nothing is acknowledged: long before the identifiers end, the broker waits.
    let batch: String = (1..=1_200).map(|n| format!("32 .. 0001't' {n:04X} 00;")).collect();
    bed.says(publisher, &batch);
    let open = identifiers(&bed.take(client));
    assert_eq!(open, (1..=1_024).collect::<Vec<_>>());
    assert_eq!(bed.take(publisher).len(), 1_024 + 100, "the others have no room and are not acknowledged");
    // One stays open while all the others go around: 65,535 is followed by 1, and the identifier that is open is left out.
    let acks: String = (1..=1_024).filter(|id| *id != 7).map(|id| format!("40 .. {id:04X};")).collect();
    bed.says(client, &acks);
    let batch: String = (1..=1_000).map(|n| format!("32 .. 0001't' {n:04X} 00;")).collect();
    let batch = wire(&batch);
    let (mut last, mut laps) = (1_024, 0);
    while laps < 2 {
        bed.send(publisher, &batch);
        loop {
            let ids = identifiers(&bed.take(client));
            if ids.is_empty() {
                break;
            }
            for id in &ids {
                let next = match last {
                    u16::MAX => 1,
                    6 => 8,
                    _ => last + 1,
                };
                assert_eq!(*id, next, "after {last}, in lap {laps}");
                laps += u32::from(last == u16::MAX);
                last = next;
            }
            let acks: Vec<u8> = ids.iter().flat_map(|id| [0x40, 2, (id >> 8) as u8, *id as u8]).collect();
            bed.send(client, &acks);
        }
    }
    bed.take_bytes(publisher);
    bed.acknowledge_all(client);
    bed.says(client, "40 .. 0007");
    bed.is_well(client);
}
