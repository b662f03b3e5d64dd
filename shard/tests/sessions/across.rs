//! The rules of publishing across shards.

use quelea_mqtt::{AckKind, QoS};
use quelea_shard::Settings;

use crate::bed::{Bed, publication};

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
    // Topics fall on either shard as their hash wills: about half of these change the road. More than may be deferred.
    let burst = 3_000;
    let mut bytes = bytes::BytesMut::new();
    for n in 0..burst {
        let topic = format!("t/{n}");
        let publish = quelea_mqtt::Publish { retain: true, ..publication(&topic, "x", QoS::AtMostOnce, 0) };
        publish.encode(bed.version(publisher), &mut bytes).expect("encodes");
    }
    quelea_mqtt::encode_ping_req(&mut bytes);
    bed.send(publisher, &bytes);
    assert_eq!(bed.counter("retained"), burst);
    assert_eq!(bed.counter("dropped_qos0_deferred"), 0);
    assert_eq!(bed.take(publisher), ["PINGRESP"], "what was held back is read in the end");
}
