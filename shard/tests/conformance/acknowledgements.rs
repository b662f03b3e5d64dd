//! Chapters 3.4 to 3.7 and 4.3: PUBACK, PUBREC, PUBREL, PUBCOMP, and the exchanges that they make.

use std::time::Duration;

use quelea_mqtt::Version;

use super::wire::{CONNACK_5, CONNACK_5_PRESENT, connect_5, connect_311};
use crate::bed::Bed;

// Covers 5.0: 3.4.2-1 3.5.2-1 3.7.2-1
#[test]
fn our_acknowledgements_have_reason_codes_of_their_kind() {
    let mut bed = Bed::new(1);
    let client = bed.five(0, "c");
    // Nobody subscribes; somebody does; not allowed.
    bed.says(client, "32 .. 0001't' 0001 00; 34 .. 0001't' 0002 00");
    bed.hears(client, "40 .. 0001 10; 50 .. 0002 10");
    bed.subscribes(client, "t", 0);
    bed.says(client, "32 .. 0001't' 0003 00; 34 .. 0001't' 0004 00");
    // Its own messages come at QoS 0, each in front of the acknowledgement.
    bed.hears(client, "30 .. 0001't' 00; 40 .. 0003; 30 .. 0001't' 00; 50 .. 0004");
    bed.says(client, "32 .. 0004'$SYS' 0005 00; 34 .. 0004'$SYS' 0006 00");
    bed.hears(client, "40 .. 0005 87; 50 .. 0006 87");
    bed.says(client, "62 .. 0002; 62 .. 0002");
    bed.hears(client, "70 .. 0002; 70 .. 0002 92");
}

// Covers 5.0: 3.4.2-1 3.5.2-1 3.6.2-1 3.7.2-1
#[test]
fn a_reason_code_of_another_kind_ends_the_connection() {
    let mut bed = Bed::new(1);
    for packet in
        ["40 .. 0001 01", "40 .. 0001 92", "50 .. 0001 18", "50 .. 0001 92", "62 .. 0001 10", "70 .. 0001 80"]
    {
        let client = bed.five(0, "c");
        bed.says(client, packet);
        bed.hears_and_is_closed(client, "E0 01 82");
    }
}

// Covers 5.0: 3.6.2-1 4.3.3-4
#[test]
fn pubrec_is_answered_with_pubrel_and_pubrec_for_nothing_with_a_reason() {
    let mut bed = Bed::new(1);
    let client = bed.five(0, "c");
    bed.subscribes(client, "t", 2);
    bed.says(client, "34 .. 0001't' 0007 00");
    bed.hears(client, "50 .. 0007; 34 .. 0001't' 0001 00");
    for reason in ["", "00"] {
        bed.says(client, &format!("50 .. 0001 {reason}"));
        bed.hears(client, "62 .. 0001");
    }
    bed.says(client, "50 .. 0009");
    bed.hears(client, "62 .. 0009 92");
    bed.says(client, "70 .. 0001");
    bed.hears_nothing(client);
    // Refused with an identifier that we do not know: there is nothing to release.
    bed.says(client, "50 .. 0009 80");
    bed.hears_nothing(client);
    bed.is_well(client);
}

// Covers 5.0: 4.3.2-5
// Covers 3.1.1: 4.3.2-2
#[test]
fn after_puback_the_same_identifier_is_a_new_message_whatever_dup_says() {
    let mut bed = Bed::new(2);
    let watcher = bed.three(0, "w");
    bed.subscribes(watcher, "t", 0);
    for (client, none) in [(bed.five(1, "five"), "00"), (bed.three(1, "three"), "")] {
        for first in ["32", "3A", "3A"] {
            bed.says(client, &format!("{first} .. 0001't' 0001 {none} 'x'"));
            bed.hears(client, "40 .. 0001");
            bed.hears(watcher, "30 .. 0001't' 'x'");
        }
    }
}

// Covers 5.0: 4.3.3-8 4.3.3-10 4.3.3-11 4.3.3-12
// Covers 3.1.1: 4.3.3-2
#[test]
fn qos_2_is_published_once_until_it_is_released() {
    let mut bed = Bed::new(2);
    let watcher = bed.three(0, "w");
    bed.subscribes(watcher, "t", 0);
    for (client, none) in [(bed.five(1, "five"), "00"), (bed.three(1, "three"), "")] {
        for round in 0..2 {
            bed.says(client, &format!("34 .. 0001't' 0001 {none} 'x'"));
            bed.hears(client, "50 .. 0001");
            bed.hears(watcher, "30 .. 0001't' 'x'");
            for first in ["3C", "34"] {
                bed.says(client, &format!("{first} .. 0001't' 0001 {none} 'x'"));
                bed.hears(client, "50 .. 0001");
                bed.hears_nothing(watcher);
            }
            bed.says(client, "62 .. 0001");
            bed.hears(client, "70 .. 0001");
            assert_eq!(bed.counter("protocol_errors"), 0, "round {round}");
        }
    }
}

// Covers 5.0: 4.3.3-9
#[test]
fn a_refused_qos_2_message_leaves_its_identifier_free() {
    let mut bed = Bed::new(1);
    let client = bed.five(0, "c");
    bed.subscribes(client, "t", 0);
    bed.says(client, "34 .. 0004'$SYS' 0001 00 'x'");
    bed.hears(client, "50 .. 0001 87");
    // The same identifier: another message, published like any.
    bed.says(client, "34 .. 0001't' 0001 00 'y'");
    bed.hears(client, "30 .. 0001't' 00 'y'; 50 .. 0001");
    bed.says(client, "62 .. 0001");
    bed.hears(client, "70 .. 0001");
}

// Covers 5.0: 4.3.3-4 4.3.3-5 4.3.3-6 4.4.0-1
// Covers 3.1.1: 4.3.3-1 4.4.0-1
#[test]
fn what_was_released_is_released_again_and_not_published_again() {
    for back_on in [0, 1] {
        let mut bed = Bed::new(2);
        let five = bed.opens(0, &connect_5("00", "five", "11 0000003C"));
        bed.hears(five, CONNACK_5);
        let three = bed.opens(0, &connect_311("00", "three"));
        bed.hears(three, "20 02 00 00");
        bed.speaks(three, Version::V311);
        for client in [five, three] {
            bed.subscribes(client, "t", 2);
        }
        let publisher = bed.five(1, "p");
        bed.says(publisher, "34 .. 0001't' 0001 00 'x'");
        bed.hears(five, "34 .. 0001't' 0001 00 'x'");
        bed.hears(three, "34 .. 0001't' 0001 'x'");
        for client in [five, three] {
            bed.says(client, "50 .. 0001");
            bed.hears(client, "62 .. 0001");
            bed.reset(client);
        }
        // Twice: it stays unacknowledged until PUBCOMP.
        for _ in 0..2 {
            let five = bed.opens(back_on, &connect_5("00", "five", "11 0000003C"));
            bed.hears(five, &format!("{CONNACK_5_PRESENT}; 62 .. 0001"));
            bed.reset(five);
            let three = bed.opens(back_on, &connect_311("00", "three"));
            bed.hears(three, "20 02 01 00; 62 .. 0001");
            bed.reset(three);
        }
        let five = bed.opens(0, &connect_5("00", "five", "11 0000003C"));
        bed.says(five, "70 .. 0001");
        bed.reset(five);
        let five = bed.opens(1, &connect_5("00", "five", "11 0000003C"));
        bed.hears(five, CONNACK_5_PRESENT);
    }
}

// Covers 5.0: 4.3.3-7
#[test]
fn what_was_sent_does_not_expire() {
    let mut bed = Bed::new(2);
    let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF"));
    bed.hears(client, CONNACK_5);
    bed.subscribes(client, "t", 2);
    let publisher = bed.five(1, "p");
    bed.says(publisher, "34 .. 0001't' 0001 05 02 0000000A 'x'");
    bed.hears(client, "34 .. 0001't' 0001 05 02 0000000A 'x'");
    bed.reset(client);
    bed.pass(Duration::from_secs(100));
    let back = bed.opens(1, &connect_5("00", "c", "11 0000FFFF"));
    // An interval of 0 would be none; 1 is the least there is.
    bed.hears(back, &format!("{CONNACK_5_PRESENT}; 3C .. 0001't' 0001 05 02 00000001 'x'"));
    bed.says(back, "50 .. 0001");
    bed.hears(back, "62 .. 0001");
}

// Covers 5.0: 4.3.3-13
#[test]
fn the_exchange_goes_on_although_the_message_has_expired() {
    let mut bed = Bed::new(2);
    let slow = bed.opens(0, &connect_5("00", "slow", "11 0000FFFF"));
    bed.hears(slow, CONNACK_5);
    bed.subscribes(slow, "t", 2);
    bed.reset(slow);
    let publisher = bed.five(1, "p");
    bed.says(publisher, "34 .. 0001't' 0001 05 02 00000001 'x'");
    bed.hears(publisher, "50 .. 0001");
    bed.pass(Duration::from_secs(10));
    bed.says(publisher, "3C .. 0001't' 0001 05 02 00000001 'x'; 62 .. 0001");
    bed.hears(publisher, "50 .. 0001; 70 .. 0001");
    let back = bed.opens(0, &connect_5("00", "slow", "11 0000FFFF"));
    bed.hears(back, CONNACK_5_PRESENT);
}

// Covers 5.0: 4.4.0-2
#[test]
fn an_acknowledgement_with_an_error_is_an_acknowledgement() {
    let mut bed = Bed::new(2);
    let client = bed.opens(0, &connect_5("00", "c", "11 0000FFFF"));
    bed.hears(client, CONNACK_5);
    bed.subscribes(client, "t", 2);
    let publisher = bed.five(1, "p");
    bed.says(publisher, "32 .. 0001't' 0001 00 'a'; 34 .. 0001't' 0002 00 'b'; 32 .. 0001't' 0003 00 'c'");
    assert_eq!(bed.take(client).len(), 3);
    bed.says(client, "40 .. 0001 80; 50 .. 0002 97");
    bed.hears_nothing(client);
    bed.reset(client);
    let back = bed.opens(1, &connect_5("00", "c", "11 0000FFFF"));
    bed.hears(back, &format!("{CONNACK_5_PRESENT}; 3A .. 0001't' 0003 00 'c'"));
}

// Covers 5.0: 4.6.0-2 4.6.0-3
// Covers 3.1.1: 4.6.0-2 4.6.0-3
#[test]
fn acknowledgements_come_in_the_order_of_their_publishes() {
    let settings = quelea_shard::Settings { queue_messages_max: 1, ..Default::default() };
    for shards in [1, 2] {
        let mut bed = Bed::with(shards, &settings);
        // Takes one message at a time.
        let slow = bed.five_with(0, "slow", "21 0001");
        bed.subscribes(slow, "slow", 1);
        for (client, none, nobody) in
            [(bed.five(0, "five"), "00", "10"), (bed.three(shards - 1, "three"), "", "")]
        {
            // Two fit (in flight, in the queue), the third waits, and with it all that are behind it.
            for id in 1..=3 {
                bed.says(client, &format!("32 .. 0004'slow' {id:04X} {none}"));
            }
            bed.says(client, &format!("34 .. 0005'quick' 0009 {none}; 32 .. 0005'quick' 0004 {none}"));
            bed.hears(client, "40 .. 0001; 40 .. 0002");
            let behind = format!("40 .. 0003; 50 .. 0009 {nobody}; 40 .. 0004 {nobody}");
            bed.acknowledge_all(slow);
            bed.hears(client, &behind);
        }
    }
}

// Covers 5.0: 4.6.0-4
// Covers 3.1.1: 4.6.0-4 4.6.0-6
#[test]
fn releases_come_in_the_order_of_their_pubrecs_also_when_they_are_sent_again() {
    for back_on in [0, 1] {
        let mut bed = Bed::new(2);
        let client = bed.opens(0, &connect_311("00", "c"));
        bed.hears(client, "20 02 00 00");
        bed.speaks(client, Version::V311);
        bed.subscribes(client, "t", 2);
        let publisher = bed.five(1, "p");
        for id in 1..=4 {
            bed.says(publisher, &format!("34 .. 0001't' {id:04X} 00 'x'"));
        }
        assert_eq!(bed.take(client).len(), 4);
        bed.says(client, "50 .. 0003; 50 .. 0001; 50 .. 0004");
        bed.hears(client, "62 .. 0003; 62 .. 0001; 62 .. 0004");
        bed.reset(client);
        let back = bed.opens(back_on, &connect_311("00", "c"));
        bed.hears(back, "20 02 01 00; 62 .. 0003; 62 .. 0001; 62 .. 0004; 3C .. 0001't' 0002 'x'");
        bed.says(back, "70 .. 0001; 50 .. 0002");
        bed.hears(back, "62 .. 0002");
        bed.reset(back);
        let back = bed.opens(0, &connect_311("00", "c"));
        bed.hears(back, "20 02 01 00; 62 .. 0003; 62 .. 0004; 62 .. 0002");
    }
}
