//! Subscribers that do not keep up, and what their publishers see of it.

use std::time::Duration;

use quelea_mqtt::{AckKind, Connect, QoS};
use quelea_shard::{OnSlow, Settings};

use crate::bed::{Bed, Client, publication, v5};

fn tight(on_slow: OnSlow) -> Settings {
    Settings { queue_messages_max: 3, on_slow, deliver_window: 2, ..Settings::default() }
}

#[test]
fn a_full_subscriber_holds_back_its_publisher_and_nobody_else() {
    for shards in [1, 2] {
        let mut bed = Bed::with(shards, &tight(OnSlow::Disconnect));
        let slow = bed.connect(0, &Connect { receive_max: core::num::NonZeroU16::new(1), ..v5("slow") });
        bed.sub(slow, 1, "t", QoS::AtLeastOnce);
        let publisher = bed.client(shards - 1, "p");
        for n in 1..=6 {
            bed.publish(publisher, &publication("t", &n.to_string(), QoS::AtLeastOnce, n));
        }
        // One in flight, three waiting; the fifth waits for room, the sixth behind it.
        assert_eq!(bed.take(publisher).len(), 4, "{shards} shards");
        let other = bed.client(shards - 1, "o");
        bed.publish(other, &publication("elsewhere", "x", QoS::AtLeastOnce, 1));
        assert_eq!(bed.take(other), ["PUBACK 1 0x10"]);
        bed.send(publisher, &[0xC0, 0x00]);
        assert_eq!(bed.take(publisher), ["PINGRESP"]);
        bed.ack(slow, AckKind::PubAck, 1);
        assert_eq!(bed.take(publisher), ["PUBACK 5 0x00"]);
        for n in 2..=5 {
            bed.ack(slow, AckKind::PubAck, n);
        }
        assert_eq!(bed.take(publisher), ["PUBACK 6 0x00"]);
        let got = bed.take(slow);
        assert_eq!(got.len(), 2 + 6, "{got:?}");
    }
}

#[test]
fn after_the_deadline_the_subscriber_pays() {
    for (on_slow, counter) in [
        (OnSlow::Disconnect, "slow_disconnects"),
        (OnSlow::DropOldest, "dropped_slow"),
        (OnSlow::DropNew, "dropped_slow"),
    ] {
        let mut bed = Bed::with(2, &tight(on_slow));
        let slow = bed.connect(0, &Connect { receive_max: core::num::NonZeroU16::new(1), ..v5("slow") });
        bed.sub(slow, 1, "t", QoS::AtLeastOnce);
        bed.take(slow);
        let publisher = bed.client(1, "p");
        for n in 1..=6 {
            bed.publish(publisher, &publication("t", &n.to_string(), QoS::AtLeastOnce, n));
        }
        assert_eq!(bed.take(publisher).len(), 4);
        bed.pass(Duration::from_secs(9));
        assert_eq!(bed.take(publisher).len(), 0);
        bed.pass(Duration::from_secs(2));
        assert_eq!(bed.take(publisher), ["PUBACK 5 0x00", "PUBACK 6 0x00"], "{on_slow:?}");
        assert!(bed.counter(counter) > 0, "{on_slow:?}");
        let said = bed.take(slow);
        assert_eq!(
            said.last().is_some_and(|line| line == "DISCONNECT 0x97"),
            on_slow == OnSlow::Disconnect,
            "{said:?}"
        );
    }
}

#[test]
fn two_that_publish_to_each_other_with_full_queues_do_not_lock_up() {
    let settings =
        Settings { queue_messages_max: 1, deliver_window: 1, forward_window: 1, ..Settings::default() };
    let mesh = quelea_router::MeshConfig { replies: 1, control: 1, forward: 1, deliver: 1 };
    let mut bed = Bed::with_mesh(2, &settings, mesh);
    let clients = [bed.client(0, "a"), bed.client(1, "b")];
    for (client, filter) in clients.iter().zip(["to/a", "to/b"]) {
        bed.sub(*client, 1, filter, QoS::AtLeastOnce);
        bed.take(*client);
        bed.stall(*client, true);
    }
    for n in 1..=30 {
        bed.publish(clients[0], &publication("to/b", "x", QoS::AtLeastOnce, n));
        bed.publish(clients[1], &publication("to/a", "x", QoS::AtLeastOnce, n));
    }
    let mut done = [0, 0];
    for _ in 0..200 {
        for (index, client) in clients.iter().enumerate() {
            bed.stall(*client, false);
            for line in bed.take(*client) {
                match line.split_once("id") {
                    Some((_, rest)) => {
                        let id = rest.split(' ').next().expect("an id").parse().expect("a number");
                        bed.ack(*client, AckKind::PubAck, id);
                    }
                    None => done[index] += 1,
                }
            }
        }
    }
    assert_eq!(done, [30, 30], "every publication of both is acknowledged");
    assert_eq!(bed.counter("parked") + bed.counter("tickets") + bed.counter("waiting_credit"), 0);
}

/// A subscriber that has stopped to read while a hundred publications of 50 kB came for it.
fn flooded(shards: usize) -> (Bed, Client, Client) {
    let settings = Settings { qos0_unaccepted_max: 8, ..tight(OnSlow::Disconnect) };
    let mut bed = Bed::with(shards, &settings);
    let slow = bed.client(0, "slow");
    bed.sub(slow, 1, "t", QoS::AtMostOnce);
    bed.take(slow);
    bed.stall(slow, true);
    let publisher = bed.client(shards - 1, "p");
    let payload = "x".repeat(50_000);
    for _ in 0..100 {
        bed.publish(publisher, &publication("t", &payload, QoS::AtMostOnce, 0));
    }
    (bed, slow, publisher)
}

#[test]
fn qos_0_is_dropped_and_counted_never_queued_without_end() {
    for shards in [1, 2] {
        let (mut bed, slow, publisher) = flooded(shards);
        bed.pass(Settings::default().qos0_patience);
        bed.stall(slow, false);
        let got = bed.take(slow).len() as u64;
        assert_eq!(got + bed.counter("dropped_qos0_full"), 100);
        assert!(got < 20, "{got} of 50 kB were held for a client that reads nothing");
        bed.send(publisher, &[0xC0, 0x00]);
        assert_eq!(bed.take(publisher), ["PINGRESP"]);
    }
}

#[test]
fn a_publisher_of_qos_0_waits_for_a_full_subscriber_and_nobody_else_does() {
    for shards in [1, 2] {
        let (mut bed, slow, publisher) = flooded(shards);
        assert_eq!(bed.counter("dropped_qos0_full"), 0);
        assert_eq!(bed.counter("parked"), 8, "what a connection may have unaccepted");
        bed.send(publisher, &[0xC0, 0x00]);
        assert_eq!(bed.take(publisher), [""; 0], "what it says next stays unread");
        let (other, watcher) = (bed.client(shards - 1, "o"), bed.client(0, "w"));
        bed.sub(watcher, 1, "u", QoS::AtMostOnce);
        bed.take(watcher);
        bed.publish(other, &publication("u", "x", QoS::AtMostOnce, 0));
        assert_eq!(bed.take(watcher).len(), 1);
        bed.stall(slow, false);
        assert_eq!(bed.take(slow).len(), 100);
        assert_eq!(bed.take(publisher), ["PINGRESP"]);
        assert_eq!(bed.counter("parked") + bed.counter("tickets") + bed.counter("dropped_qos0_full"), 0);
    }
}

#[test]
fn nobody_waits_again_soon_for_a_subscriber_that_was_too_slow() {
    let Settings { qos0_patience, qos0_rest, .. } = Settings::default();
    let (mut bed, slow, publisher) = flooded(1);
    bed.pass(qos0_patience);
    let dropped = bed.counter("dropped_qos0_full");
    bed.publish(publisher, &publication("t", "late", QoS::AtMostOnce, 0));
    assert_eq!((bed.counter("dropped_qos0_full"), bed.counter("parked")), (dropped + 1, 0));
    bed.pass(qos0_rest);
    bed.publish(publisher, &publication("t", "again", QoS::AtMostOnce, 0));
    assert_eq!((bed.counter("dropped_qos0_full"), bed.counter("parked")), (dropped + 1, 1), "another chance");
    bed.stall(slow, false);
    assert!(bed.take(slow).last().is_some_and(|last| last.contains("again")));
}

#[test]
fn a_subscriber_that_takes_a_queue_in_time_is_waited_for() {
    for (writes, keeps_up) in [(3, true), (1, false)] {
        let (mut bed, slow, _publisher) = flooded(1);
        for _ in 0..10 {
            // The first patience has begun when the queue was full; each further one is judged by what left meanwhile.
            for _ in 0..writes {
                bed.take_one_write(slow);
            }
            bed.pass(Settings::default().qos0_patience);
        }
        assert_eq!(bed.counter("dropped_qos0_full") == 0, keeps_up, "{writes} writes");
        bed.stall(slow, false);
        let got = bed.take(slow).len() as u64;
        assert_eq!(got + bed.counter("dropped_qos0_full"), 100);
    }
}

#[test]
fn a_full_subscriber_of_qos_0_that_leaves_takes_what_waited_with_it() {
    for shards in [1, 2] {
        let (mut bed, slow, publisher) = flooded(shards);
        bed.reset(slow);
        assert_eq!(bed.counter("parked") + bed.counter("tickets"), 0);
        bed.send(publisher, &[0xC0, 0x00]);
        assert_eq!(bed.take(publisher), ["PINGRESP"]);
    }
}

#[test]
fn a_publisher_that_leaves_while_it_waits_counts_no_more() {
    for shards in [1, 2] {
        let (mut bed, slow, publisher) = flooded(shards);
        bed.reset(publisher);
        bed.stall(slow, false);
        // What was unaccepted when it left was published; what was unread went with its connection.
        let got = bed.take(slow).len();
        assert!((8..100).contains(&got), "{got}");
        assert_eq!(bed.counter("parked") + bed.counter("tickets"), 0);
        // The next one of the same name is read as any other.
        let publisher = bed.client(shards - 1, "p");
        bed.publish(publisher, &publication("t", "next", QoS::AtMostOnce, 0));
        assert_eq!(bed.take(slow).len(), 1);
    }
}

/// An MQTT 5 subscriber of `t` that takes one message at a time, and a publisher that has sent it five.
fn behind(shards: usize, expiry_s: u32) -> (Bed, Client) {
    let mut bed = Bed::new(shards);
    let receive_max = core::num::NonZeroU16::new(1);
    let slow = bed.connect(0, &Connect { receive_max, session_expiry_s: Some(expiry_s), ..v5("slow") });
    bed.sub(slow, 1, "t", QoS::AtLeastOnce);
    bed.take(slow);
    let publisher = bed.client(shards - 1, "p");
    for n in 1..=5 {
        bed.publish(publisher, &publication("t", &n.to_string(), QoS::AtLeastOnce, n));
    }
    assert_eq!(bed.take(publisher).len(), 5);
    assert_eq!(bed.take(slow), ["PUBLISH t q1 id1 '1'"]);
    (bed, slow)
}

fn drain(bed: &mut Bed) {
    let deadline = bed.now + Duration::from_secs(8);
    for shard in &mut bed.shards {
        shard.handle_order(bed.now, quelea_shard::Order::Drain { deadline });
    }
    bed.run();
}

#[test]
fn a_drain_waits_until_acknowledged_messages_are_written() {
    for shards in [1, 2] {
        let (mut bed, slow) = behind(shards, 100);
        drain(&mut bed);
        for n in 1..=3 {
            assert_eq!(bed.take(slow), [""; 0]);
            assert_eq!(bed.counter("held_while_draining"), 6 - n);
            bed.ack(slow, AckKind::PubAck, n as u16);
            assert_eq!(bed.take(slow), [format!("PUBLISH t q1 id{0} '{0}'", n + 1)]);
        }
        bed.ack(slow, AckKind::PubAck, 4);
        assert_eq!(bed.take(slow), ["PUBLISH t q1 id5 '5'", "DISCONNECT 0x8b"]);
        bed.run();
        assert!(bed.shards.iter().all(quelea_shard::Shard::is_drained));
        assert_eq!(bed.counter("held_while_draining"), 1, "what was not acknowledged");
    }
}

#[test]
fn a_drain_does_not_wait_for_ever_and_counts_what_is_left() {
    for expiry_s in [0, 100] {
        let (mut bed, slow) = behind(1, expiry_s);
        drain(&mut bed);
        bed.pass(Duration::from_secs(5));
        assert_eq!(bed.take(slow), [""; 0]);
        bed.pass(Duration::from_secs(1));
        assert_eq!(bed.take(slow), ["DISCONNECT 0x8b"]);
        assert!(bed.shards[0].is_drained());
        let ended = (bed.counter("dropped_session_end"), bed.counter("unacknowledged_session_end"));
        match expiry_s {
            0 => assert_eq!((ended, bed.counter("held_while_draining")), ((4, 1), 0)),
            _ => assert_eq!((ended, bed.counter("held_while_draining")), ((0, 0), 5)),
        }
    }
}

#[test]
fn what_a_subscriber_refuses_or_leaves_unacknowledged_is_counted() {
    let mut bed = Bed::new(1);
    let subscriber = bed.client(0, "s");
    bed.sub(subscriber, 1, "t", QoS::ExactlyOnce);
    let publisher = bed.client(0, "p");
    for (n, qos) in
        [(1, QoS::AtLeastOnce), (2, QoS::ExactlyOnce), (3, QoS::AtLeastOnce), (4, QoS::ExactlyOnce)]
    {
        bed.publish(publisher, &publication("t", "x", qos, n));
    }
    bed.send(subscriber, &[0x40, 3, 0, 1, 0x83]);
    bed.send(subscriber, &[0x50, 3, 0, 2, 0x97]);
    assert_eq!(bed.counter("dropped_refused"), 2);
    bed.ack(subscriber, AckKind::PubRec, 4);
    bed.reset(subscriber);
    assert_eq!(bed.counter("unacknowledged_session_end"), 1, "the third; of the fourth only PUBCOMP was due");
    assert_eq!(bed.counter("dropped_refused"), 2);
}
