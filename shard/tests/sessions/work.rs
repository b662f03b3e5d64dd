//! What peers can make long is done in pieces, counted in units of work: between them everybody else has a turn.

use std::time::Duration;

use bytes::BytesMut;
use quelea_mqtt::{
    Connect, Publish, QoS, RequestedSubscription, Subscribe, SubscribeFilter, SubscriptionOptions,
};
use quelea_shard::DoorId;

use crate::bed::{Bed, Client, id, publication, v5};

/// More than any turn may do: its phases, each with its last piece.
const TURN_WORK_MAX: u64 = 200_000;

fn subscribe(bed: &mut Bed, client: Client, filters: &[String]) {
    for chunk in filters.chunks(1_000) {
        let wanted: Vec<_> = chunk
            .iter()
            .map(|filter| {
                let filter = SubscribeFilter::parse(filter, 128).expect("a filter");
                RequestedSubscription::new(filter, SubscriptionOptions::with_qos(QoS::AtMostOnce))
            })
            .collect();
        bed.subscribe(client, &Subscribe::new(id(1), &wanted));
    }
    bed.take_bytes(client);
}

/// Gives bytes to the shard without a turn.
fn hand_in(bed: &mut Bed, client: Client, bytes: &[u8]) {
    bed.shards[client.shard].handle_door_bytes(bed.now, DoorId(client.door), bytes);
}

fn encoded(bed: &Bed, client: Client, publish: &Publish<'_>) -> BytesMut {
    let mut bytes = BytesMut::new();
    publish.encode(bed.version(client), &mut bytes).expect("encodes");
    bytes
}

/// Every filter of so many levels of which each is `a` or `+`.
fn overlapping(levels: u32) -> Vec<String> {
    let filter = |choice: u32| {
        let levels: Vec<_> = (0..levels).map(|at| if choice >> at & 1 == 1 { "+" } else { "a" }).collect();
        levels.join("/")
    };
    (0..1 << levels).map(filter).collect()
}

#[test]
fn publications_that_match_much_leave_room_for_others_in_every_turn() {
    let mut bed = Bed::new(1);
    let greedy = bed.client(0, "greedy");
    subscribe(&mut bed, greedy, &overlapping(10));
    let publisher = bed.client(0, "p");
    let other = bed.client(0, "other");
    let packet = encoded(&bed, publisher, &publication(&["a"; 10].join("/"), "", QoS::AtMostOnce, 0));
    let before = bed.counter("work_units");
    hand_in(&mut bed, publisher, &packet.repeat(500));
    hand_in(&mut bed, other, &[0xc0, 0]);
    bed.turn(0);
    assert_eq!(bed.take(other), ["PINGRESP"]);
    let work = bed.counter("work_units") - before;
    assert!(work < TURN_WORK_MAX, "{work} units in a turn");
    assert!(bed.counter("links_yielded") > 0);
    bed.run();
    assert!(bed.counter("work_units") - before > 500 * 3_000, "it was more than a turn's work");
    assert_eq!(bed.take(greedy).len(), 500, "nothing is lost, and nothing comes twice");
}

#[test]
fn a_client_whose_packets_wait_may_end_its_stream_behind_them() {
    let mut bed = Bed::new(1);
    let greedy = bed.client(0, "greedy");
    subscribe(&mut bed, greedy, &overlapping(10));
    let publisher = bed.client(0, "p");
    let packet = encoded(&bed, publisher, &publication(&["a"; 10].join("/"), "", QoS::AtMostOnce, 0));
    let mut bytes = packet.repeat(100);
    bytes.extend_from_slice(&[0xe0, 0]);
    bed.send_and_end(publisher, &bytes);
    assert!(bed.is_closed(publisher));
    assert_eq!(bed.take(greedy).len(), 100);
}

#[test]
fn sessions_that_expire_together_go_a_few_in_every_turn() {
    let mut bed = Bed::new(1);
    for n in 0..20 {
        let name = format!("s{n}");
        let client = bed.connect(0, &Connect { session_expiry_s: Some(10), ..v5(&name) });
        let filters: Vec<_> = (0..2_000).map(|filter| format!("{n}/{filter}/+/x")).collect();
        subscribe(&mut bed, client, &filters);
        bed.reset(client);
    }
    let other = bed.client(0, "other");
    bed.now += Duration::from_secs(11);
    let now = bed.now;
    let before = bed.counter("work_units");
    bed.shards[0].handle_timeout(now);
    hand_in(&mut bed, other, &[0xc0, 0]);
    bed.turn(0);
    assert_eq!(bed.take(other), ["PINGRESP"]);
    let work = bed.counter("work_units") - before;
    assert!(work < TURN_WORK_MAX, "{work} units in a turn");
    assert!(bed.counter("sessions_expired") < 20);
    assert!(bed.shards[0].poll_timeout().is_some_and(|due| due <= now), "the others are due at once");
    bed.pass(Duration::from_secs(1));
    assert_eq!(bed.counter("sessions_expired"), 20);
    assert_eq!(bed.counter("subscriptions"), 0);
    bed.reset(other);
    assert_eq!(bed.counter("memory_bytes"), 0);
}

#[test]
fn the_filters_of_a_session_that_ends_go_by_and_by_and_match_nobody_meanwhile() {
    let mut bed = Bed::new(1);
    let leaver = bed.client(0, "leaver");
    let filters: Vec<_> =
        (0..5_000).map(|n| if n % 2 == 0 { format!("{n}/+") } else { format!("$share/g/{n}") }).collect();
    subscribe(&mut bed, leaver, &filters);
    assert_eq!(bed.counter("subscriptions"), 7_500, "each group's own is counted, too");
    let publisher = bed.client(0, "p");
    let packet = encoded(&bed, publisher, &publication("4998/x", "", QoS::AtLeastOnce, 1));
    let before = bed.counter("work_units");
    hand_in(&mut bed, leaver, &[0xe0, 0]);
    hand_in(&mut bed, publisher, &packet);
    bed.turn(0);
    let work = bed.counter("work_units") - before;
    assert!(work < TURN_WORK_MAX, "{work} units in a turn");
    assert!(bed.counter("subscriptions") > 0 && bed.counter("sessions") == 1);
    assert_eq!(bed.take(publisher), ["PUBACK 1 0x10"]);
    bed.run();
    assert_eq!((bed.counter("subscriptions"), bed.counter("groups")), (0, 0));
    bed.reset(publisher);
    assert_eq!(bed.counter("memory_bytes"), 0);
}

#[test]
fn walks_over_long_retained_topics_take_a_few_topics_of_every_turn() {
    let mut bed = Bed::new(1);
    let publisher = bed.client(0, "p");
    let long = "p".repeat(60_000);
    for n in 0..50 {
        let topic = format!("{long}{n:02}");
        bed.publish(publisher, &Publish { retain: true, ..publication(&topic, "x", QoS::AtMostOnce, 0) });
    }
    let clients: Vec<_> = (0..40).map(|n| bed.client(0, &format!("c{n}"))).collect();
    let other = bed.client(0, "other");
    let before = bed.counter("work_units");
    for client in &clients {
        hand_in(&mut bed, *client, b"\x82\x09\0\x01\0\0\x03+/x\0");
    }
    hand_in(&mut bed, other, &[0xc0, 0]);
    for _ in 0..3 {
        let before = bed.counter("work_units");
        bed.turn(0);
        let work = bed.counter("work_units") - before;
        assert!(work < 40_000, "{work} units in a turn");
    }
    assert_eq!(bed.take(other), ["PINGRESP"]);
    bed.run();
    let work = bed.counter("work_units") - before;
    assert!(work > 40 * 50 * 1_000, "{work} units: every client's walk has looked at every topic");
    bed.sub(other, 1, "#", QoS::AtMostOnce);
    assert_eq!(bed.take(other).len(), 51);
}
