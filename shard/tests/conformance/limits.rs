//! Limits that a client meets: what it sees of them, in which order they come, and that they end.

use std::time::Duration;

use quelea_mqtt::Version;
use quelea_shard::{OnSlow, Settings};

use super::wire::{CONNACK_5, CONNACK_5_PRESENT, connect_5, connect_311, wire};
use crate::bed::{Bed, Client};

/// A subscriber of `slow`, QoS 1, that takes one message at a time.
#[track_caller]
fn slow_subscriber(bed: &mut Bed) -> Client {
    let slow = bed.five_with(0, "slow", "21 0001");
    bed.subscribes(slow, "slow", 1);
    slow
}

/// MQTT 3 cannot be told a Receive Maximum: with so many publications unacknowledged, reading from the client pauses.
#[test]
fn reading_from_a_client_of_3_1_1_pauses_at_the_maximum_of_unacknowledged_publications() {
    let settings = Settings {
        queue_messages_max: 1,
        unacked_max: 3,
        full_deadline: Duration::from_secs(3600),
        ..Settings::default()
    };
    for shards in [1, 2] {
        let mut bed = Bed::with(shards, &settings);
        let slow = slow_subscriber(&mut bed);
        let client = bed.opens(shards - 1, "10 .. 0004'MQTT' 04 02 000A 0001'c'");
        bed.speaks(client, Version::V311);
        bed.hears(client, "20 02 00 00");
        // One in flight, one in the queue: acknowledged. Three wait, and are the maximum.
        for n in 1..=5 {
            bed.says(client, &format!("32 .. 0004'slow' {n:04X} {n:02X}"));
        }
        bed.hears(client, "40 .. 0001; 40 .. 0002");
        // What is behind them is not looked at, whatever it is: not even PINGREQ, although Keep Alive is 10 s.
        bed.says(client, "C0 00; 32 .. 0004'slow' 0006 06; 34 .. 0005'quick' 0007; 82 .. 0008 0001't' 00");
        bed.hears_nothing(client);
        bed.pass(Duration::from_secs(100));
        bed.hears_nothing(client);
        assert!(!bed.is_closed(client), "it is not the client that is silent");
        // A little is held in memory, then the transport is told to hold the rest.
        assert!(!bed.wires[&client].paused);
        let large = "x".repeat(40_000);
        bed.says(client, &format!("30 .. 0005'quick' '{large}'; 30 .. 0005'quick' '{large}'"));
        assert!(bed.wires[&client].paused);
        // Other publishers are served meanwhile.
        let other = bed.three(shards - 1, "o");
        bed.says(other, "32 .. 0005'quick' 0001");
        bed.hears(other, "40 .. 0001");
        // Each acknowledgement of the subscriber lets one in, and with it what is behind it.
        bed.hears(slow, "32 .. 0004'slow' 0001 00 01");
        bed.says(slow, "40 .. 0001");
        bed.hears(client, "40 .. 0003; D0 00");
        bed.acknowledge_all(slow);
        let heard = bed.take(client);
        let acks: Vec<_> = heard.iter().filter(|line| !line.starts_with("SUBACK")).collect();
        assert_eq!(acks, ["PUBACK 4 0x00", "PUBACK 5 0x00", "PUBACK 6 0x00", "PUBREC 7 0x00"]);
        assert_eq!(heard.len(), 5, "and SUBACK {heard:?}");
        assert!(!bed.wires[&client].paused);
        bed.is_well(client);
        assert_eq!(bed.counter("parked") + bed.counter("tickets"), 0);
    }
}

/// Clients of whom little may wait, and the slow are cut.
fn short_queues() -> Settings {
    let on_slow = OnSlow::Disconnect;
    Settings { queue_messages_max: 1, inflight_max: 1, unacked_max: 2, on_slow, ..Settings::default() }
}

/// A publisher that waits for its own queue is read on: its acknowledgements lie behind its publications.
#[test]
fn a_client_of_3_1_1_that_publishes_to_itself_does_not_wait_for_itself() {
    for (publish, filter) in [("32", "c"), ("32", "$share/g/c"), ("34", "c"), ("34", "$share/g/c")] {
        for shards in [1, 2] {
            let settings = Settings { group_messages_max: 1, ..short_queues() };
            let mut bed = Bed::with(shards, &settings);
            let client = bed.three(0, "c");
            bed.subscribes(client, filter, 1);
            let mut heard = Vec::new();
            for n in 1..=20 {
                bed.says(client, &format!("{publish} .. 0001'c' {n:04X} {n:02X}"));
                heard.extend(bed.take(client));
                if heard.iter().any(|line| *line == format!("PUBREC {n} 0x00")) {
                    bed.says(client, &format!("62 .. {n:04X}"));
                }
            }
            bed.says(client, "C0 00");
            heard.extend(bed.take(client));
            assert!(heard.iter().any(|line| line == "PINGRESP"), "{heard:?}");
            assert!(heard.iter().any(|line| line.starts_with("PUBLISH c q1 id1")), "{heard:?}");
            bed.says(client, "40 .. 0001");
            let mut payloads = Vec::new();
            bed.acknowledge_all_into(client, &mut payloads);
            bed.is_well(client);
            assert_eq!(bed.counter("parked") + bed.counter("tickets"), 0);
            assert_eq!(bed.counter("dropped_slow") + bed.counter("slow_disconnects"), 0);
            assert_eq!(bed.counter("publishes_sent"), 20, "each once");
        }
    }
}

/// It is read on because it may have acknowledged something. If it has not, it pays as any slow subscriber does, after thirty
/// times the deadline: nobody else waits.
#[test]
fn a_client_of_3_1_1_that_publishes_to_itself_and_acknowledges_nothing_is_cut() {
    let mut bed = Bed::with(1, &short_queues());
    let client = bed.three(0, "c");
    bed.subscribes(client, "c", 1);
    for n in 1..=20 {
        bed.says(client, &format!("32 .. 0001'c' {n:04X}"));
    }
    assert_eq!(bed.counter("parked"), 18);
    bed.pass(Duration::from_secs(290));
    assert!(!bed.is_closed(client));
    bed.pass(Duration::from_secs(20));
    assert!(bed.is_closed(client));
    assert_eq!((bed.counter("slow_disconnects"), bed.counter("parked")), (1, 0));
}

/// Its acknowledgements may take longer than the deadline to arrive, behind publications that do: nobody else is delayed. Who
/// delays others as well pays.
#[test]
fn a_client_may_keep_its_own_publications_waiting_and_no_others() {
    for delays_another in [false, true] {
        let mut bed = Bed::with(1, &short_queues());
        let client = bed.three(0, "c");
        bed.subscribes(client, "c", 1);
        for n in 1..=4 {
            bed.says(client, &format!("32 .. 0001'c' {n:04X}"));
        }
        let other = bed.three(0, "o");
        bed.pass(Duration::from_secs(6));
        if delays_another {
            bed.says(other, "32 .. 0001'c' 0001");
        }
        bed.pass(Duration::from_secs(9));
        assert!(!bed.is_closed(client));
        // The other has waited for the deadline of 10 s, and no longer.
        bed.pass(Duration::from_secs(2));
        assert_eq!(bed.is_closed(client), delays_another);
        assert_eq!(bed.counter("slow_disconnects"), u64::from(delays_another));
        if !delays_another {
            bed.acknowledge_all(client);
            bed.is_well(client);
            assert_eq!((bed.counter("parked"), bed.counter("publishes_sent")), (0, 4));
        }
    }
}

/// Acknowledgements of deliveries lie behind the pause as well: of two clients that publish to each other, neither waits
/// behind it for the other.
#[test]
fn two_clients_of_3_1_1_at_their_maximum_towards_each_other_come_free_at_once() {
    let mut bed = Bed::with(2, &short_queues());
    let clients = [bed.three(0, "a"), bed.three(1, "b")];
    bed.subscribes(clients[0], "a", 1);
    bed.subscribes(clients[1], "b", 1);
    for n in 1..=6 {
        bed.says(clients[0], &format!("32 .. 0001'b' {n:04X}"));
        bed.says(clients[1], &format!("32 .. 0001'a' {n:04X}"));
    }
    for client in clients {
        // Behind publications more than two of which wait.
        bed.says(client, "40 .. 0001; C0 00");
        assert!(bed.take(client).iter().any(|line| line == "PINGRESP"));
        bed.says(client, "40 .. 0002");
    }
    for _ in 1..=6 {
        for client in clients {
            bed.acknowledge_all(client);
        }
    }
    for client in clients {
        bed.is_well(client);
    }
    assert_eq!(bed.counter("parked") + bed.counter("tickets"), 0);
    assert_eq!(bed.counter("publishes_sent"), 12, "nothing is lost");
}

/// Memory for about 100 kB of messages, beside what the clients of the test cost themselves.
const LITTLE: usize = 116_000;

fn little_memory() -> Settings {
    Settings { memory_bytes_max: LITTLE, queue_messages_max: 8, ..Settings::default() }
}

/// The order of defence: withhold PUBACKs (a full subscriber, memory or not); at the ceiling drop QoS 0, refuse QoS 1 and
/// 2, retained messages and CONNECTs with 0x97. Whoever is connected stays, and all is as before when memory is free.
#[test]
fn at_the_memory_ceiling_work_is_refused_in_order_and_the_broker_lives() {
    let mut bed = Bed::with(1, &little_memory());
    let slow = slow_subscriber(&mut bed);
    let watcher = bed.five(0, "w");
    bed.subscribes(watcher, "#", 0);
    let publisher = bed.five(0, "p");
    let payload = "x".repeat(8_000);
    // First: PUBACKs are withheld. One in flight, eight in the queue, the tenth and eleventh wait; memory is not full.
    for n in 1..=11 {
        bed.says(publisher, &format!("32 .. 0004'slow' {n:04X} 00 '{payload}'"));
    }
    assert_eq!(bed.take(publisher).len(), 9);
    assert_eq!(bed.take(watcher).len(), 11);
    bed.says(publisher, "30 .. 0001't' 00; 32 .. 0001't' 0020 00; 33 .. 0001'r' 0021 00 'r'");
    bed.hears_nothing(publisher);
    assert_eq!(bed.take(watcher).len(), 3);
    assert_eq!((bed.counter("publishes_refused"), bed.counter("retained")), (0, 1));
    // Then the ceiling is reached.
    let other = bed.five(0, "o");
    let three = bed.three(0, "three");
    let (late_five, late_three) = (bed.open(0), bed.open(0));
    for n in 12..=13 {
        bed.says(publisher, &format!("32 .. 0004'slow' {n:04X} 00 '{payload}'"));
    }
    bed.hears_nothing(publisher);
    assert!(bed.counter("memory_bytes") >= LITTLE as u64);
    // The last of them has reached it: its QoS 0 copies are dropped already.
    assert_eq!((bed.take(watcher).len(), bed.counter("dropped_qos0_memory")), (1, 1));
    let held = bed.counter("memory_bytes");
    // QoS 0: dropped and counted. QoS 1 and 2: 0x97. Retained: 0x97, whatever its QoS makes it say.
    bed.says(other, "30 .. 0001't' 00 'x'");
    bed.hears_nothing(other);
    bed.says(other, "32 .. 0001't' 0002 00 'x'; 34 .. 0001't' 0003 00 'x'; 33 .. 0003'new' 0004 00 'x'");
    bed.hears(other, "40 .. 0002 97; 50 .. 0003 97; 40 .. 0004 97");
    assert_eq!((bed.counter("dropped_qos0_refused"), bed.counter("publishes_refused")), (1, 3));
    assert_eq!(bed.counter("dropped_qos0_memory"), 1, "what reaches no queue was matched with none");
    bed.hears_nothing(watcher);
    // Who cannot be told is cut off before it takes an acknowledgement for a promise.
    bed.says(three, "32 .. 0001't' 0001 'x'");
    bed.hears_and_is_closed(three, "");
    // New work of other kinds.
    bed.says(other, "82 .. 0005 00 0003'new' 00");
    bed.hears(other, "90 .. 0005 00 97");
    bed.says(late_five, &connect_5("02", "late", ""));
    bed.hears_and_is_closed(late_five, "20 .. 00 97 00");
    bed.says(late_three, &connect_311("02", "late"));
    bed.hears_and_is_closed(late_three, "20 02 00 03");
    let refused = bed.open(0);
    bed.run();
    bed.hears_and_is_closed(refused, "");
    assert_eq!(bed.counter("links_refused_memory"), 1);
    // None of it has cost memory, and everybody is still there.
    assert!(bed.counter("memory_bytes") <= held);
    for client in [slow, watcher, publisher, other] {
        bed.says(client, "C0 00");
        assert!(bed.take_bytes(client).ends_with(&wire("D0 00")));
    }
    // The slow one reads: what was withheld comes, and all is as it was.
    bed.says(slow, "40 .. 0001");
    bed.acknowledge_all(slow);
    let acks = "40 .. 000A; 40 .. 000B; 40 .. 0020; 40 .. 0021";
    bed.hears(publisher, &format!("{acks}; 40 .. 000C; 40 .. 000D"));
    assert!(bed.counter("memory_bytes") < LITTLE as u64);
    bed.says(other, "32 .. 0001't' 0002 00 'x'; 33 .. 0003'new' 0004 00 'x'");
    bed.hears(other, "40 .. 0002; 40 .. 0004");
    let late = bed.opens(0, &connect_5("02", "late", ""));
    bed.hears(late, CONNACK_5);
}

/// A client before MQTT 5 is cut at once, whatever acknowledgement comes before: what it has sent behind the refused
/// publication may not be accepted before that comes again.
#[test]
fn who_cannot_be_told_of_full_memory_is_cut_while_an_earlier_acknowledgement_waits() {
    let mut bed = Bed::with(1, &little_memory());
    slow_subscriber(&mut bed);
    let publisher = bed.five(0, "p");
    let three = bed.three(0, "three");
    let payload = "x".repeat(8_000);
    for n in 1..=16 {
        bed.says(publisher, &format!("32 .. 0004'slow' {n:04X} 00 '{payload}'"));
        if n == 9 {
            bed.says(three, "32 .. 0004'slow' 0001 'x'");
        }
    }
    bed.hears_nothing(three);
    assert!(bed.counter("memory_bytes") >= LITTLE as u64);
    let refused = bed.counter("publishes_refused");
    bed.says(three, "32 .. 0001't' 0002 'x'");
    bed.hears_and_is_closed(three, "");
    assert_eq!(bed.counter("publishes_refused"), refused + 1);
}

/// Who has a session takes no place, so its client always comes back to it.
#[test]
fn at_the_maximum_of_sessions_who_has_one_is_let_in() {
    let mut bed = Bed::with(1, &Settings { sessions_max: 1, ..Settings::default() });
    let kept = bed.five_with(0, "kept", "11 0000003C");
    bed.says(kept, "E0 00");
    let late = bed.opens(0, &connect_5("02", "late", ""));
    bed.hears_and_is_closed(late, "20 .. 00 97 00");
    let again = bed.opens(0, &connect_5("00", "kept", "11 0000003C"));
    bed.hears(again, CONNACK_5_PRESENT);
    assert_eq!((bed.counter("sessions"), bed.counter("connects_refused")), (1, 1));
}

/// What a stranger sends counts as well: nobody fills memory with half a CONNECT.
#[test]
fn at_the_memory_ceiling_a_stranger_may_not_fill_a_large_buffer() {
    let mut bed = Bed::with(1, &Settings { memory_bytes_max: 70_000, ..Settings::default() });
    // A CONNECT of 1 MB, of which 60 kB, then 90 kB have come.
    let stranger = bed.opens(0, "10 C0 84 3D 0004'MQTT' 05 02 0000 00");
    bed.send(stranger, &[b'x'; 60_000]);
    assert!(!bed.is_closed(stranger));
    assert!(bed.counter("memory_bytes") >= 60_000);
    bed.send(stranger, &[b'x'; 30_000]);
    bed.hears_and_is_closed(stranger, "");
    assert_eq!((bed.counter("memory_bytes"), bed.counter("connects_refused")), (0, 1));
}

/// How long publishers wait is a setting.
#[test]
fn the_deadline_of_a_full_subscriber_is_as_long_as_it_is_set() {
    for deadline_s in [1, 3, 60] {
        let settings = Settings {
            queue_messages_max: 1,
            full_deadline: Duration::from_secs(deadline_s),
            ..Settings::default()
        };
        let mut bed = Bed::with(2, &settings);
        let slow = slow_subscriber(&mut bed);
        let publisher = bed.five(1, "p");
        for n in 1..=3 {
            bed.says(publisher, &format!("32 .. 0004'slow' {n:04X} 00"));
        }
        bed.hears(publisher, "40 .. 0001; 40 .. 0002");
        bed.pass(Duration::from_millis(deadline_s * 1_000 - 1));
        bed.hears_nothing(publisher);
        bed.pass(Duration::from_millis(1));
        // The subscriber pays, and its publishers are free.
        bed.hears(publisher, "40 .. 0003");
        bed.hears_and_is_closed(slow, "32 .. 0004'slow' 0001 00; E0 01 97");
        assert_eq!(bed.counter("slow_disconnects"), 1);
    }
}

/// The same for a shared group whose members take nothing: its oldest message goes, counted.
#[test]
fn a_full_group_waits_as_long_as_it_is_set() {
    let settings = Settings {
        queue_messages_max: 1,
        group_messages_max: 1,
        full_deadline: Duration::from_secs(2),
        ..Settings::default()
    };
    let mut bed = Bed::with(1, &settings);
    let slow = bed.five_with(0, "slow", "21 0001");
    bed.subscribes(slow, "$share/g/t", 1);
    let publisher = bed.five(0, "p");
    for n in 1..=6 {
        bed.says(publisher, &format!("32 .. 0001't' {n:04X} 00 {n:02X}"));
    }
    let at_once = bed.take(publisher).len();
    assert!(at_once < 6, "{at_once}");
    bed.pass(Duration::from_millis(1_999));
    bed.hears_nothing(publisher);
    bed.pass(Duration::from_millis(1));
    assert_eq!(at_once + bed.take(publisher).len(), 6);
    let mut payloads = Vec::new();
    bed.acknowledge_all_into(slow, &mut payloads);
    assert_eq!(payloads.len() as u64 + bed.counter("dropped_group_full"), 6);
}
