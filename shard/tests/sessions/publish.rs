//! PUBLISH in both directions: QoS, order, overlap, aliases, limits.

use core::num::NonZeroU16;
use core::num::NonZeroU32;
use std::time::Duration;

use quelea_mqtt::{AckKind, Connect, Publish, PublishProperties, QoS, SubscriptionOptions};

use crate::bed::{Bed, publication, v5};

// Covers 5.0: 3.8.4-8 3.3.4-1
#[test]
fn every_pair_of_qos_meets_at_the_lower_one() {
    for shards in [1, 2, 3] {
        let mut bed = Bed::new(shards);
        let publisher = bed.client(0, "p");
        let subscriber = bed.client(shards - 1, "s");
        let all = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
        for granted in all {
            bed.sub(subscriber, 1, "t", granted);
            assert_eq!(bed.take(subscriber), [format!("SUBACK 1 [{:02x}]", granted as u8)]);
            for published in all {
                bed.publish(publisher, &publication("t", "x", published, 7));
                let got = bed.take(subscriber).concat();
                let qos = published.min(granted) as u8;
                assert!(got.starts_with(&format!("PUBLISH t q{qos}")), "{published:?} to {granted:?}: {got}");
                let n = got
                    .split("id")
                    .nth(1)
                    .map_or(0, |rest| rest.split(' ').next().expect("an id").parse().expect("a number"));
                match qos {
                    1 => bed.ack(subscriber, AckKind::PubAck, n),
                    2 => {
                        bed.ack(subscriber, AckKind::PubRec, n);
                        assert_eq!(bed.take(subscriber), [format!("PUBREL {n} 0x00")]);
                        bed.ack(subscriber, AckKind::PubComp, n);
                    }
                    _ => {}
                }
                match published {
                    QoS::AtMostOnce => assert_eq!(bed.take(publisher), Vec::<String>::new()),
                    QoS::AtLeastOnce => assert_eq!(bed.take(publisher), ["PUBACK 7 0x00"]),
                    QoS::ExactlyOnce => {
                        assert_eq!(bed.take(publisher), ["PUBREC 7 0x00"]);
                        bed.ack(publisher, AckKind::PubRel, 7);
                        assert_eq!(bed.take(publisher), ["PUBCOMP 7 0x00"]);
                    }
                }
            }
        }
        assert_eq!(bed.counter("tickets"), 0);
        bed.reset(publisher);
        bed.reset(subscriber);
        assert_eq!(bed.counter("memory_bytes"), 0, "{shards} shards");
    }
}

#[test]
fn a_repeated_qos_2_publication_is_published_once() {
    let mut bed = Bed::new(2);
    let publisher = bed.client(0, "p");
    let subscriber = bed.client(1, "s");
    bed.sub(subscriber, 1, "t", QoS::AtMostOnce);
    bed.take(subscriber);
    bed.publish(publisher, &publication("t", "x", QoS::ExactlyOnce, 3));
    bed.publish(publisher, &Publish { dup: true, ..publication("t", "x", QoS::ExactlyOnce, 3) });
    assert_eq!(bed.take(publisher), ["PUBREC 3 0x00", "PUBREC 3 0x00"]);
    assert_eq!(bed.take(subscriber), ["PUBLISH t q0 'x'"]);
    bed.ack(publisher, AckKind::PubRel, 3);
    bed.ack(publisher, AckKind::PubRel, 3);
    assert_eq!(bed.take(publisher), ["PUBCOMP 3 0x00", "PUBCOMP 3 0x92"]);
}

#[test]
fn overlapping_subscriptions_give_one_copy_with_all_identifiers_and_the_highest_qos() {
    let mut bed = Bed::new(2);
    let client = bed.client(0, "s");
    bed.sub_with(client, 1, "a/+", SubscriptionOptions::with_qos(QoS::AtMostOnce), Some(11));
    bed.sub_with(client, 2, "a/#", SubscriptionOptions::with_qos(QoS::AtLeastOnce), Some(12));
    bed.sub_with(client, 3, "a/b", SubscriptionOptions::with_qos(QoS::AtMostOnce), None);
    bed.take(client);
    let publisher = bed.client(1, "p");
    bed.publish(publisher, &publication("a/b", "x", QoS::ExactlyOnce, 1));
    let got = bed.take(client);
    assert_eq!(got.len(), 1, "{got:?}");
    assert!(got[0].starts_with("PUBLISH a/b q1 id1"), "{got:?}");
    assert!(got[0].contains("sub11") && got[0].contains("sub12"), "{got:?}");
}

#[test]
fn no_local_holds_across_reconnects_and_shards() {
    let mut bed = Bed::new(2);
    let client = bed.client(0, "s");
    let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::with_qos(QoS::AtMostOnce) };
    bed.sub_with(client, 1, "t", options, None);
    bed.take(client);
    bed.publish(client, &publication("t", "own", QoS::AtMostOnce, 0));
    assert_eq!(bed.take(client), Vec::<String>::new());
    let other = bed.client(1, "o");
    bed.publish(other, &publication("t", "theirs", QoS::AtMostOnce, 0));
    assert_eq!(bed.take(client), ["PUBLISH t q0 'theirs'"]);
}

#[test]
fn aliases_of_a_publisher_are_resolved_and_bounded() {
    let mut bed = Bed::new(1);
    let client = bed.client(0, "p");
    bed.sub(client, 1, "#", QoS::AtMostOnce);
    bed.take(client);
    let alias = |n| PublishProperties { topic_alias: NonZeroU16::new(n), ..PublishProperties::default() };
    bed.publish(
        client,
        &Publish { properties: alias(1), ..publication("long/topic", "1", QoS::AtMostOnce, 0) },
    );
    bed.publish(
        client,
        &Publish { properties: alias(1), topic: None, ..publication("x", "2", QoS::AtMostOnce, 0) },
    );
    assert_eq!(bed.take(client), ["PUBLISH long/topic q0 '1'", "PUBLISH long/topic q0 '2'"]);
    bed.publish(client, &Publish { properties: alias(17), ..publication("t", "3", QoS::AtMostOnce, 0) });
    assert_eq!(bed.take(client), ["DISCONNECT 0x94"]);
}

#[test]
fn aliases_are_used_towards_a_client_that_allows_them() {
    let mut bed = Bed::new(1);
    let client = bed.connect(0, &Connect { topic_alias_max: Some(1), ..v5("s") });
    bed.sub(client, 1, "#", QoS::AtMostOnce);
    bed.take(client);
    let publisher = bed.client(0, "p");
    for topic in ["a", "a", "b"] {
        bed.publish(publisher, &publication(topic, "x", QoS::AtMostOnce, 0));
    }
    assert_eq!(bed.take(client), ["PUBLISH a q0 alias1 'x'", "PUBLISH  q0 alias1 'x'", "PUBLISH b q0 'x'"]);
}

#[test]
fn a_client_gets_no_more_than_its_receive_maximum() {
    let mut bed = Bed::new(2);
    let client = bed.connect(1, &Connect { receive_max: NonZeroU16::new(2), ..v5("s") });
    bed.sub(client, 1, "t", QoS::AtLeastOnce);
    bed.take(client);
    let publisher = bed.client(0, "p");
    for n in 1..=4 {
        bed.publish(publisher, &publication("t", &n.to_string(), QoS::AtLeastOnce, n));
    }
    assert_eq!(bed.take(client), ["PUBLISH t q1 id1 '1'", "PUBLISH t q1 id2 '2'"]);
    bed.ack(client, AckKind::PubAck, 2);
    assert_eq!(bed.take(client), ["PUBLISH t q1 id3 '3'"]);
    bed.ack(client, AckKind::PubAck, 1);
    assert_eq!(bed.take(client), ["PUBLISH t q1 id4 '4'"]);
}

#[test]
fn a_publisher_beyond_our_receive_maximum_is_disconnected() {
    let settings = quelea_shard::Settings { receive_max: 2, ..Default::default() };
    let mut bed = Bed::with(1, &settings);
    let client = bed.client(0, "p");
    for n in 1..=3 {
        bed.publish(client, &publication("t", "x", QoS::ExactlyOnce, n));
    }
    assert_eq!(bed.take(client), ["PUBREC 1 0x10", "PUBREC 2 0x10", "DISCONNECT 0x93"]);
}

#[test]
fn a_message_larger_than_the_subscriber_takes_is_dropped_for_it_alone() {
    let mut bed = Bed::new(1);
    let small = bed.connect(0, &Connect { packet_bytes_max: NonZeroU32::new(30), ..v5("small") });
    let large = bed.client(0, "large");
    for client in [small, large] {
        bed.sub(client, 1, "t", QoS::AtLeastOnce);
        bed.take(client);
    }
    let publisher = bed.client(0, "p");
    let payload = "x".repeat(30);
    bed.publish(publisher, &publication("t", &payload, QoS::AtLeastOnce, 1));
    bed.publish(publisher, &publication("t", "y", QoS::AtLeastOnce, 2));
    assert_eq!(bed.take(small), ["PUBLISH t q1 id1 'y'"]);
    assert_eq!(bed.take(large).len(), 2);
    assert_eq!(bed.counter("dropped_too_large"), 1);
}

#[test]
fn message_expiry_is_counted_down_and_then_final() {
    let mut bed = Bed::new(2);
    let connect = Connect { session_expiry_s: Some(1000), ..v5("s") };
    let client = bed.connect(1, &connect);
    bed.sub(client, 1, "t", QoS::AtLeastOnce);
    bed.reset(client);
    let publisher = bed.client(0, "p");
    for (n, expiry) in [(1, 10), (2, 100)] {
        let properties = PublishProperties { message_expiry_s: Some(expiry), ..PublishProperties::default() };
        bed.publish(publisher, &Publish { properties, ..publication("t", "x", QoS::AtLeastOnce, n) });
    }
    bed.pass(Duration::from_secs(40));
    let back = bed.connect(1, &Connect { clean_start: false, ..connect });
    assert_eq!(bed.take(back), ["CONNACK 0x00 present=1", "PUBLISH t q1 id1 expiry60 'x'"]);
    assert_eq!(bed.counter("expired"), 1);
}

#[test]
fn the_brokers_own_topics_are_not_for_clients() {
    let mut bed = Bed::new(1);
    let client = bed.client(0, "p");
    bed.sub(client, 1, "$SYS/#", QoS::AtMostOnce);
    bed.take(client);
    bed.publish(client, &publication("$SYS/load", "x", QoS::AtLeastOnce, 1));
    assert_eq!(bed.take(client), ["PUBACK 1 0x87"]);
}

#[test]
fn malformed_packets_cost_their_own_connection_only() {
    let mut bed = Bed::new(2);
    let bystander = bed.client(1, "b");
    for (bytes, code) in [
        (&[0x36, 0x04, 0x00, 0x01, b't', 0x00][..], "DISCONNECT 0x81"),
        (&[0x32, 0x06, 0x00, 0x01, b't', 0x00, 0x00, 0x00], "DISCONNECT 0x82"),
        (&[0x30, 0xFF, 0xFF, 0xFF, 0xFF], "DISCONNECT 0x81"),
        (&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], "DISCONNECT 0x95"),
        (&[0x20, 0x02, 0x00, 0x00], "DISCONNECT 0x82"),
    ] {
        let client = bed.client(0, "bad");
        bed.send(client, bytes);
        let said = bed.take(client);
        assert!(said.len() == 1 && said[0].starts_with("DISCONNECT"), "{bytes:02x?}: {said:?}");
        assert_eq!(said, [code], "{bytes:02x?}");
        assert!(bed.is_closed(client));
    }
    bed.send(bystander, &[0xC0, 0x00]);
    assert_eq!(bed.take(bystander), ["PINGRESP"]);
}
