//! Retained messages: set, replaced, cleared, and served to those who subscribe.

use std::time::Duration;

use quelea_mqtt::{Publish, PublishProperties, QoS, RetainHandling, SubscriptionOptions};

use crate::bed::{Bed, publication};

fn retained<'a>(topic: &'a str, payload: &'a str) -> Publish<'a> {
    Publish { retain: true, ..publication(topic, payload, QoS::AtLeastOnce, 1) }
}

#[test]
fn a_subscriber_gets_the_last_value_of_every_topic_on_every_shard() {
    for shards in [1, 2, 4] {
        let mut bed = Bed::new(shards);
        let publisher = bed.client(0, "p");
        for n in 0..100 {
            bed.publish(publisher, &retained(&format!("r/{n}"), "old"));
            bed.publish(publisher, &retained(&format!("r/{n}"), "new"));
        }
        bed.publish(publisher, &retained("r/50", ""));
        assert_eq!(bed.counter("retained"), 99);
        let subscriber = bed.client(shards - 1, "s");
        bed.sub(subscriber, 1, "r/#", QoS::AtMostOnce);
        let got = bed.take(subscriber);
        assert_eq!(got.len(), 100, "{shards} shards");
        assert_eq!(got[0], "SUBACK 1 [00]");
        assert!(got[1..].iter().all(|line| line.ends_with("q0 retain 'new'")), "{got:?}");
        bed.sub(subscriber, 2, "r/7", QoS::AtMostOnce);
        assert_eq!(bed.take(subscriber), ["SUBACK 2 [00]", "PUBLISH r/7 q0 retain 'new'"]);
    }
}

#[test]
fn retain_handling_and_retain_as_published() {
    let mut bed = Bed::new(2);
    let publisher = bed.client(0, "p");
    bed.publish(publisher, &retained("r", "x"));
    let subscriber = bed.client(1, "s");
    let with = |retain_handling, retain_as_published| SubscriptionOptions {
        retain_handling,
        retain_as_published,
        ..SubscriptionOptions::with_qos(QoS::AtMostOnce)
    };
    bed.sub_with(subscriber, 1, "r", with(RetainHandling::DoNotSend, false), None);
    assert_eq!(bed.take(subscriber), ["SUBACK 1 [00]"]);
    bed.sub_with(subscriber, 2, "r", with(RetainHandling::SendIfNew, false), None);
    assert_eq!(bed.take(subscriber), ["SUBACK 2 [00]"]);
    bed.unsub(subscriber, 3, "r");
    bed.sub_with(subscriber, 4, "r", with(RetainHandling::SendIfNew, false), None);
    assert_eq!(bed.take(subscriber), ["UNSUBACK 3 [00]", "SUBACK 4 [00]", "PUBLISH r q0 retain 'x'"]);
    bed.publish(publisher, &retained("r", "y"));
    bed.sub_with(subscriber, 5, "r", with(RetainHandling::SendAtSubscribe, true), None);
    assert_eq!(bed.take(subscriber), ["PUBLISH r q0 'y'", "SUBACK 5 [00]", "PUBLISH r q0 retain 'y'"]);
    bed.publish(publisher, &retained("r", "z"));
    assert_eq!(bed.take(subscriber), ["PUBLISH r q0 retain 'z'"]);
}

#[test]
fn a_slow_reader_is_served_at_its_own_pace() {
    let mut bed = Bed::new(2);
    let publisher = bed.client(0, "p");
    let payload = "x".repeat(3_000);
    for n in 0..500 {
        bed.publish(publisher, &retained(&format!("r/{n}"), &payload));
    }
    let subscriber = bed.client(1, "s");
    bed.stall(subscriber, true);
    bed.sub(subscriber, 1, "r/#", QoS::AtLeastOnce);
    let first = bed.take(subscriber).len();
    assert!(first < 50, "a burst of {first}");
    let mut got = first;
    for _ in 0..2_000 {
        bed.stall(subscriber, false);
        bed.stall(subscriber, true);
        let lines = bed.take(subscriber);
        got += lines.len();
        for line in lines {
            let id =
                line.split("id").nth(1).and_then(|rest| rest.split(' ').next()).expect("a QoS 1 message");
            bed.ack(subscriber, quelea_mqtt::AckKind::PubAck, id.parse().expect("a number"));
        }
    }
    assert_eq!(got, 501 - usize::from(first == 0));
}

#[test]
fn retained_messages_expire() {
    let mut bed = Bed::new(2);
    let publisher = bed.client(0, "p");
    let properties = PublishProperties { message_expiry_s: Some(5), ..PublishProperties::default() };
    bed.publish(publisher, &Publish { properties, ..retained("r", "x") });
    bed.pass(Duration::from_secs(10));
    let subscriber = bed.client(1, "s");
    bed.sub(subscriber, 1, "r", QoS::AtMostOnce);
    assert_eq!(bed.take(subscriber), ["SUBACK 1 [00]"]);
    assert_eq!(bed.counter("retained"), 0);
    assert_eq!(bed.counter("retained_expired"), 1);
}

#[test]
fn a_full_store_says_so() {
    let settings = quelea_shard::Settings { retained_messages_max: 1, ..Default::default() };
    let mut bed = Bed::with(1, &settings);
    let publisher = bed.client(0, "p");
    bed.publish(publisher, &retained("a", "x"));
    bed.publish(publisher, &retained("b", "x"));
    assert_eq!(bed.take(publisher), ["PUBACK 1 0x10", "PUBACK 1 0x97"]);
    assert_eq!(bed.counter("retained_refused"), 1);
}

// Covers 5.0: 4.6.0-5 4.6.0-6
#[test]
fn a_publisher_that_mixes_retained_and_not_keeps_its_order() {
    let mut bed = Bed::new(4);
    let subscriber = bed.client(3, "s");
    bed.sub(subscriber, 1, "#", QoS::AtLeastOnce);
    bed.take(subscriber);
    let publisher = bed.client(0, "p");
    let mut bytes = bytes::BytesMut::new();
    for n in 1..=20u16 {
        let text = n.to_string();
        let publish = Publish { retain: n % 3 == 0, ..publication("x/y", &text, QoS::AtLeastOnce, n) };
        publish.encode(quelea_mqtt::Version::V5, &mut bytes).expect("encodes");
    }
    bed.send(publisher, &bytes);
    let got: Vec<_> = bed
        .take(subscriber)
        .iter()
        .map(|line| line.split('\'').nth(1).expect("a payload").to_owned())
        .collect();
    let expected: Vec<_> = (1..=20).map(|n| n.to_string()).collect();
    assert_eq!(got, expected);
    let acks: Vec<_> = (1..=20).map(|n| format!("PUBACK {n} 0x00")).collect();
    assert_eq!(bed.take(publisher), acks);
}
