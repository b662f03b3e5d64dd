//! Ends that bring about other ends: long chains of them, and what a refusal means when its connection ends first.

use std::num::NonZeroU16;

use quelea_mqtt::{Connect, Disconnect, Publish, QoS, ReasonCode, Version};
use quelea_router::ShardId;
use quelea_shard::Settings;

use crate::bed::{Bed, Client, publication, v5, v311};

fn retained<'a>(topic: &'a str, qos: QoS, n: u16) -> Publish<'a> {
    Publish { retain: true, ..publication(topic, "retained", qos, n) }
}

/// A subscriber of `t` that has taken one message and has another one waiting: there is no room for a third.
fn full(bed: &mut Bed) -> Client {
    let slow = bed.connect(0, &Connect { receive_max: NonZeroU16::new(1), ..v5("slow") });
    bed.sub(slow, 1, "t", QoS::AtLeastOnce);
    let filler = bed.client(0, "filler");
    for n in 1..=2 {
        bed.publish(filler, &publication("t", "x", QoS::AtLeastOnce, n));
    }
    assert_eq!(bed.take(filler).len(), 2);
    slow
}

/// No room for a retained message on a new topic.
fn full_store(bed: &mut Bed, topics: &[&str]) {
    let keeper = bed.client(0, "keeper");
    for (n, topic) in topics.iter().enumerate() {
        bed.publish(keeper, &retained(topic, QoS::AtLeastOnce, n as u16 + 1));
    }
    assert_eq!(bed.counter("retained"), topics.len() as u64);
}

fn tight() -> Settings {
    Settings { queue_messages_max: 1, retained_messages_max: 1, ..Settings::default() }
}

fn resumed(version: Version) -> Connect<'static> {
    Connect {
        clean_start: false,
        keep_alive_s: 0,
        session_expiry_s: (version == Version::V5).then_some(3_600),
        ..Connect::new(version, "x")
    }
}

/// A client comes, publishes, and goes; behind those of its connections that are gone with something not accepted.
fn come_and_go(bed: &mut Bed) -> Vec<String> {
    let client = bed.connect(0, &resumed(Version::V311));
    let said = bed.take(client);
    if said == ["CONNACK 0x00 present=1"] {
        bed.publish(client, &publication("z", "", QoS::AtLeastOnce, 1));
        bed.disconnect(client, &Disconnect::default());
    }
    said
}

#[test]
fn a_long_chain_of_former_connections_is_let_go_one_by_one() {
    let mut bed = Bed::with(1, &Settings { formers_max: usize::MAX, ..tight() });
    let slow = full(&mut bed);
    let first = bed.connect(0, &resumed(Version::V311));
    bed.publish(first, &publication("t", "y", QoS::AtLeastOnce, 1));
    bed.disconnect(first, &Disconnect::default());
    for _ in 0..5_000 {
        assert_eq!(come_and_go(&mut bed), ["CONNACK 0x00 present=1"]);
    }
    assert_eq!(bed.counter("links"), 2 + 5_001);
    bed.reset(slow);
    assert_eq!((bed.counter("links"), bed.counter("tickets")), (1, 0));
}

#[test]
fn a_client_that_comes_and_goes_too_fast_has_to_wait() {
    let mut bed = Bed::with(1, &tight());
    let slow = full(&mut bed);
    let first = bed.connect(0, &resumed(Version::V311));
    bed.publish(first, &publication("t", "y", QoS::AtLeastOnce, 1));
    bed.disconnect(first, &Disconnect::default());
    for _ in 1..Settings::default().formers_max {
        assert_eq!(come_and_go(&mut bed), ["CONNACK 0x00 present=1"]);
    }
    for _ in 0..3 {
        assert_eq!(come_and_go(&mut bed), ["CONNACK 0x88 present=0"], "server unavailable, as 3.1.1 says it");
    }
    assert_eq!(bed.counter("connects_refused"), 3);
    bed.reset(slow);
    assert_eq!(come_and_go(&mut bed), ["CONNACK 0x00 present=1"]);
    assert_eq!((bed.counter("links"), bed.counter("sessions")), (1, 2));
}

#[test]
fn who_cannot_be_told_of_a_refusal_is_cut_at_once_and_whoever_waits_for_it_goes_on() {
    const CLIENTS: usize = 2_000;
    let settings = Settings { inflight_max: 1, ..tight() };
    let mut bed = Bed::with(1, &settings);
    full_store(&mut bed, &["keep"]);
    let topics: Vec<String> = (0..CLIENTS).map(|n| format!("t/{n}")).collect();
    let filler = bed.client(0, "filler");
    let mut clients = Vec::new();
    for (n, topic) in topics.iter().enumerate() {
        let client = bed.connect(0, &v311(&format!("c{n}"), true));
        bed.sub(client, 1, topic, QoS::AtLeastOnce);
        for id in 1..=2 {
            bed.publish(filler, &publication(topic, "x", QoS::AtLeastOnce, id));
        }
        clients.push(client);
    }
    for (client, next) in clients.iter().zip(&topics[1..]) {
        // It waits for the next one's subscriber.
        bed.publish(*client, &publication(next, "x", QoS::AtLeastOnce, 1));
        assert!(!bed.is_closed(*client));
    }
    for client in clients[..CLIENTS - 1].iter().rev() {
        // What is refused and cannot be told in 3.1.1 does not wait for its turn behind the other.
        bed.publish(*client, &retained("new", QoS::AtLeastOnce, 2));
        assert!(bed.is_closed(*client));
    }
    bed.reset(clients[CLIENTS - 1]);
    assert_eq!((bed.counter("parked"), bed.counter("tickets"), bed.counter("links")), (0, 0, 2));
}

#[test]
fn what_was_refused_before_its_connection_ended_is_no_duplicate_afterwards() {
    for version in [Version::V5, Version::V311] {
        let mut bed = Bed::with(1, &tight());
        full_store(&mut bed, &["keep"]);
        let slow = full(&mut bed);
        let first = bed.connect(0, &resumed(version));
        bed.publish(first, &publication("t", "y", QoS::AtLeastOnce, 1));
        // Refused, and its PUBREC waits behind the PUBACK of the first.
        bed.publish(first, &retained("new", QoS::ExactlyOnce, 2));
        assert_eq!(bed.take(first).len(), 1, "CONNACK");
        bed.reset(first);
        bed.reset(slow);
        let second = bed.connect(0, &resumed(version));
        bed.take(second);
        bed.publish(second, &Publish { dup: true, ..retained("new", QoS::ExactlyOnce, 2) });
        refused_again(&mut bed, second, version);
    }
}

#[test]
fn what_is_refused_after_its_connection_ended_is_refused_for_the_repetition_too() {
    for version in [Version::V5, Version::V311] {
        let mut bed = Bed::with(2, &tight());
        let far = |topic: &&str| quelea_router::partition(topic, 7, 2) == ShardId::from_index(1);
        let mut topics = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"].into_iter().filter(far);
        let (kept, new) = (topics.next().expect("some"), topics.next().expect("some"));
        full_store(&mut bed, &[kept]);
        let slow = full(&mut bed);
        let first = bed.connect(0, &resumed(version));
        bed.publish(first, &publication("t", "y", QoS::AtLeastOnce, 1));
        // By way of its owner, when the first is accepted.
        bed.publish(first, &retained(new, QoS::ExactlyOnce, 2));
        bed.disconnect(first, &Disconnect::new(ReasonCode::NORMAL_DISCONNECTION));
        let second = bed.connect(0, &resumed(version));
        bed.publish(second, &Publish { dup: true, ..retained(new, QoS::ExactlyOnce, 2) });
        assert_eq!(bed.take(second), ["CONNACK 0x00 present=1"]);
        bed.reset(slow);
        refused_again(&mut bed, second, version);
    }
}

/// In MQTT 5 a client hears that its publication is refused; in 3.1.1 it is cut before it takes a PUBREC for a promise.
fn refused_again(bed: &mut Bed, client: Client, version: Version) {
    let refused = if version == Version::V5 { vec!["PUBREC 2 0x97"] } else { vec![] };
    assert_eq!(
        (bed.take(client), bed.is_closed(client)),
        (refused.iter().map(ToString::to_string).collect(), version < Version::V5)
    );
    assert_eq!(bed.counter("retained"), 1);
}
