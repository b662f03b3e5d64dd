//! The rules of publishing across shards.

use quelea_mqtt::{AckKind, Disconnect, Publish, QoS, Version};
use quelea_shard::{DoorEnd, DoorId, Settings};

use crate::bed::{Bed, publication, v5};

#[test]
fn one_envelope_per_shard_however_many_subscribers() {
    let mut bed = Bed::new(3);
    for n in 0..30 {
        let client = bed.client(n % 3, &format!("s{n}"));
        bed.sub(client, 1, "t", QoS::AtMostOnce);
    }
    let before = bed.counter("envelopes_sent");
    let publisher = bed.client(0, "p");
    bed.publish(publisher, &publication("t", "x", QoS::AtLeastOnce, 1));
    assert_eq!(bed.counter("envelopes_sent") - before, 2);
    assert_eq!(bed.counter("publishes_sent"), 30);
}

#[test]
fn a_suback_means_that_every_shard_knows() {
    let mut bed = Bed::new(4);
    let subscriber = bed.client(3, "s");
    for (n, filter) in ["a", "a/+", "a/#", "+/b"].into_iter().enumerate() {
        bed.sub(subscriber, n as u16 + 1, filter, QoS::AtMostOnce);
    }
    assert_eq!(bed.take(subscriber).len(), 4);
    for shard in 0..4 {
        let publisher = bed.client(shard, &format!("p{shard}"));
        bed.publish(publisher, &publication("a/b", "x", QoS::AtLeastOnce, 1));
        assert_eq!(bed.take(publisher), ["PUBACK 1 0x00"]);
        assert_eq!(bed.take(subscriber), ["PUBLISH a/b q0 'x'"]);
    }
}

#[test]
fn interest_ends_with_the_last_subscriber() {
    let mut bed = Bed::new(2);
    let one = bed.client(0, "1");
    let two = bed.client(0, "2");
    for client in [one, two] {
        bed.sub(client, 1, "t/#", QoS::AtMostOnce);
    }
    let publisher = bed.client(1, "p");
    let publish = publication("t/x", "x", QoS::AtLeastOnce, 1);
    bed.unsub(one, 2, "t/#");
    bed.publish(publisher, &publish);
    assert_eq!(bed.take(publisher), ["PUBACK 1 0x00"]);
    bed.reset(two);
    bed.publish(publisher, &publish);
    assert_eq!(bed.take(publisher), ["PUBACK 1 0x10"]);
}

// Covers 5.0: 4.6.0-2 4.6.0-3
#[test]
fn acknowledgements_leave_in_the_order_of_the_publications() {
    let settings = Settings { queue_messages_max: 1, deliver_window: 1, ..Settings::default() };
    let mut bed = Bed::with(2, &settings);
    let slow = bed.client(1, "slow");
    bed.sub(slow, 1, "slow", QoS::AtLeastOnce);
    bed.take(slow);
    bed.stall(slow, true);
    let publisher = bed.client(0, "p");
    let payload = "x".repeat(70_000);
    for n in 1..=4 {
        bed.publish(publisher, &publication("slow", &payload, QoS::AtLeastOnce, n));
    }
    bed.publish(publisher, &publication("quick", "x", QoS::AtLeastOnce, 5));
    bed.publish(publisher, &publication("quick", "x", QoS::ExactlyOnce, 6));
    let early = bed.take(publisher);
    assert!(!early.iter().any(|line| line.contains(" 5 ") || line.contains(" 6 ")), "{early:?}");
    let mut acks = early;
    for _ in 0..10 {
        bed.stall(slow, false);
        for line in bed.take(slow) {
            let id = line.split("id").nth(1).and_then(|rest| rest.split(' ').next()).expect("an id");
            bed.ack(slow, AckKind::PubAck, id.parse().expect("a number"));
        }
        acks.extend(bed.take(publisher));
    }
    let expected = [
        "PUBACK 1 0x00",
        "PUBACK 2 0x00",
        "PUBACK 3 0x00",
        "PUBACK 4 0x00",
        "PUBACK 5 0x10",
        "PUBREC 6 0x10",
    ];
    assert_eq!(acks, expected);
}

#[test]
fn a_burst_of_retained_qos_0_across_both_roads_loses_nothing() {
    let mut bed = Bed::new(2);
    let publisher = bed.client(0, "p");
    // More than may be deferred.
    let mut bytes = retained_burst(3_000);
    quelea_mqtt::encode_ping_req(&mut bytes);
    bed.send(publisher, &bytes);
    assert_eq!(bed.counter("retained"), 3_000);
    assert_eq!(bed.counter("dropped_qos0_deferred"), 0);
    assert_eq!(bed.take(publisher), ["PINGRESP"], "what was held back is read in the end");
}

#[test]
fn a_client_that_says_its_last_words_and_goes_is_heard() {
    // Fewer than hold the publisher back, and more.
    for (n, burst) in [2, 20, 63, 64, 65, 500].into_iter().enumerate() {
        let mut bed = Bed::new(2);
        let watcher = bed.client(1, "w");
        bed.sub(watcher, 1, "will", QoS::AtMostOnce);
        bed.take(watcher);
        let will = quelea_mqtt::TopicName::new("will", 8).expect("a topic");
        let will = quelea_mqtt::Will::new(will, b"gone", QoS::AtMostOnce, false);
        let publisher = bed.connect(n % 2, &quelea_mqtt::Connect { will: Some(will), ..v5("p") });
        let mut bytes = retained_burst(burst);
        Disconnect::default().encode(bed.version(publisher), &mut bytes).expect("encodes");
        // Both before any shard has turned: the end overtakes what waits for the other shard.
        bed.shards[publisher.shard].handle_door_bytes(bed.now, DoorId(publisher.door), &bytes);
        bed.shards[publisher.shard].handle_door_closed(bed.now, DoorId(publisher.door), DoorEnd::EndOfStream);
        bed.run();
        assert_eq!(bed.counter("retained"), burst);
        assert!(bed.is_closed(publisher));
        assert_eq!(bed.take(watcher), [""; 0], "it said DISCONNECT");
    }
}

/// QoS 0, retained, each to a topic of its own. Topics fall on either shard as their hash wills: about half of these
/// change the road.
fn retained_burst(count: u64) -> bytes::BytesMut {
    let mut bytes = bytes::BytesMut::new();
    for n in 0..count {
        let topic = format!("t/{n}");
        let publish = Publish { retain: true, ..publication(&topic, "x", QoS::AtMostOnce, 0) };
        publish.encode(Version::V5, &mut bytes).expect("encodes");
    }
    bytes
}
