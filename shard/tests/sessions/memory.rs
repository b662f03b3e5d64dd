//! What a client can make the broker hold is charged as what it takes, and given back when it is not needed any more.

use core::num::NonZeroU16;
use std::time::Duration;

use quelea_mqtt::{
    AckKind, Connect, Publish, QoS, RequestedSubscription, RetainHandling, Subscribe, SubscribeFilter,
    SubscriptionOptions,
};
use quelea_router::ShardId;
use quelea_shard::{DoorId, Settings};

use crate::bed::{Bed, Client, id, publication, v5, v311};
use crate::resume::{persistent, resumed};

/// Bytes charged on all shards.
fn charged(bed: &mut Bed) -> u64 {
    bed.counter("memory_bytes")
}

/// Sends a PUBLISH of QoS 0 in pieces, as a socket brings it, with one byte of the next packet behind it.
fn send_in_pieces(bed: &mut Bed, client: Client, payload_bytes: usize) {
    let mut bytes = bytes::BytesMut::new();
    publication("nobody", &"x".repeat(payload_bytes), QoS::AtMostOnce, 0)
        .encode(bed.version(client), &mut bytes)
        .expect("encodes");
    bytes.extend_from_slice(&[0x30]);
    for piece in bytes.chunks(4_096) {
        bed.send(client, piece);
    }
}

#[test]
fn the_first_byte_of_a_packet_does_not_keep_the_buffer_of_the_one_before() {
    let mut bed = Bed::new(1);
    let client = bed.client(0, "c");
    let before = charged(&mut bed);
    send_in_pieces(&mut bed, client, 500_000);
    let after = charged(&mut bed);
    assert!(after < before + 1_000, "{before} bytes, then {after}");
    // The byte is not lost: the rest of its packet comes.
    bed.send(client, &[0x04, 0x00, 0x01, b't', 0x00]);
    bed.send(client, &[0xC0, 0x00]);
    assert_eq!(bed.take(client), ["PINGRESP"]);
}

#[test]
fn a_receive_buffer_is_charged_as_it_was_allocated() {
    let mut bed = Bed::new(1);
    let client = bed.client(0, "c");
    let before = charged(&mut bed);
    // The beginning of a PUBLISH of 1,000,000 bytes: a buffer that grows by doubling.
    bed.send(client, &[0x30, 0xC0, 0x84, 0x3D, 0x00, 0x01, b't', 0x00]);
    for _ in 0..130 {
        bed.send(client, &[b'x'; 1_000]);
    }
    let held = charged(&mut bed) - before;
    assert!((130_000..=270_000).contains(&held), "{held}");
    bed.reset(client);
    assert_eq!(charged(&mut bed), 0);
}

#[test]
fn an_output_buffer_that_has_grown_is_charged_and_given_back_when_it_is_empty() {
    let mut bed = Bed::new(1);
    let client = bed.client(0, "c");
    let before = charged(&mut bed);
    bed.stall(client, true);
    for _ in 0..20 {
        bed.send(client, &[0xC0, 0x00].repeat(5_000));
    }
    let grown = charged(&mut bed);
    assert!(grown >= before + 200_000, "{before} bytes, then {grown}");
    bed.stall(client, false);
    assert_eq!(bed.take(client).len(), 100_000);
    let after = charged(&mut bed);
    assert!(after <= before + 16 * 1024, "{before} bytes, then {after}");
}

/// Sets a topic alias with a publication of QoS 0.
fn set_alias(bed: &mut Bed, client: Client, topic: &str, alias: u16) {
    let mut packet = publication(topic, "", QoS::AtMostOnce, 0);
    packet.properties.topic_alias = NonZeroU16::new(alias);
    bed.publish(client, &packet);
}

#[test]
fn topic_aliases_are_charged_and_limited_in_bytes() {
    let settings = Settings { topic_alias_bytes_max: 10_000, ..Settings::default() };
    let mut bed = Bed::with(1, &settings);
    let client = bed.client(0, "c");
    let before = charged(&mut bed);
    set_alias(&mut bed, client, &"t".repeat(6_000), 1);
    let after = charged(&mut bed);
    assert!(after >= before + 6_000, "{before} bytes, then {after}");
    // Set anew, it does not count twice; another one is too much.
    set_alias(&mut bed, client, &"u".repeat(9_000), 1);
    assert_eq!(bed.take(client), Vec::<String>::new());
    bed.stall(client, true);
    set_alias(&mut bed, client, &"v".repeat(1_001), 2);
    assert_eq!(bed.take(client), ["DISCONNECT 0x97"]);
    assert_eq!(bed.counter("topic_aliases_exceeded"), 1);
    let closing = charged(&mut bed);
    assert!(closing < before, "the connection that is ending remembers none: {before} bytes, then {closing}");
    bed.stall(client, false);
    bed.pass(Duration::from_secs(20));
    assert_eq!(charged(&mut bed), 0);
}

#[test]
fn towards_a_client_topics_get_aliases_while_their_bytes_allow() {
    let settings = Settings { topic_alias_bytes_max: 10_000, ..Settings::default() };
    let mut bed = Bed::with(1, &settings);
    let reader = bed.connect(0, &Connect { topic_alias_max: Some(16), ..v5("r") });
    bed.sub(reader, 1, "#", QoS::AtMostOnce);
    bed.take(reader);
    let writer = bed.client(0, "w");
    let before = charged(&mut bed);
    for letter in ["a", "b", "a", "b"] {
        bed.publish(writer, &publication(&letter.repeat(6_000), "", QoS::AtMostOnce, 0));
    }
    let heard = bed.take_bytes(reader).len();
    assert!((18_000..19_000).contains(&heard), "the first has an alias, the second has none: {heard} bytes");
    let after = charged(&mut bed);
    assert!(after >= before + 6_000, "{before} bytes, then {after}");
}

#[test]
fn a_client_identifier_is_limited() {
    let mut bed = Bed::new(1);
    let longest = "c".repeat(1_024);
    let client = bed.connect(0, &v5(&longest));
    assert_eq!(bed.take(client), ["CONNACK 0x00 present=0"]);
    let longer = "c".repeat(1_025);
    let client = bed.connect(0, &v5(&longer));
    assert_eq!(bed.take(client), ["CONNACK 0x85 present=0"]);
    let client = bed.connect(0, &v311(&longer, true));
    assert_eq!(bed.take_bytes(client)[..], [0x20, 0x02, 0x00, 0x02]);
    assert_eq!((bed.counter("connects_refused"), bed.counter("sessions")), (2, 1));
}

#[test]
fn connections_sessions_and_their_homes_are_charged_until_they_end() {
    for shards in [1, 2, 3] {
        let mut bed = Bed::new(shards);
        let stranger = bed.open(0);
        let link = charged(&mut bed);
        assert!(link > 500, "a connection that says nothing costs {link} bytes");
        bed.reset(stranger);
        assert_eq!(charged(&mut bed), 0);
        let long = "c".repeat(1_000);
        let client = bed.connect(0, &persistent(&long));
        bed.reset(client);
        let offline = charged(&mut bed);
        assert!(offline >= 2_000 + 500, "session and home remember the identifier: {offline} bytes");
        // It moves, and costs the same there.
        let client = bed.connect(shards - 1, &resumed(&long));
        assert_eq!(bed.take(client), ["CONNACK 0x00 present=1"]);
        bed.reset(client);
        assert_eq!(charged(&mut bed), offline, "{shards} shards");
        bed.pass(Duration::from_secs(8 * 24 * 3600));
        assert_eq!(charged(&mut bed), 0, "{shards} shards");
    }
}

#[test]
fn every_queue_is_charged_with_its_entries() {
    for shards in [1, 2] {
        let mut bed = Bed::new(shards);
        let publisher = bed.client(0, "p");
        for n in 0..10 {
            let name = format!("s{n}");
            let client = bed.connect(0, &persistent(&name));
            bed.sub(client, 1, "t", QoS::AtLeastOnce);
            bed.reset(client);
        }
        let before = charged(&mut bed);
        for n in 1..=100 {
            bed.publish(publisher, &publication("t", "x", QoS::AtLeastOnce, n));
        }
        let queued = charged(&mut bed) - before;
        assert!(queued >= 10 * 100 * 64, "10 queues with 100 entries each: {queued} bytes");
        // One comes back on another shard, and its queue with it; the others expire.
        let client = bed.connect(shards - 1, &resumed("s3"));
        bed.pass(Duration::from_secs(8 * 24 * 3600));
        bed.reset(client);
        bed.reset(publisher);
        bed.pass(Duration::from_secs(8 * 24 * 3600));
        assert_eq!(charged(&mut bed), 0, "{shards} shards");
    }
}

#[test]
fn identifiers_of_many_subscriptions_count_as_bytes_of_the_queue() {
    let settings = Settings { queue_bytes_max: 10_000, ..Settings::default() };
    let mut bed = Bed::with(1, &settings);
    let client = bed.connect(0, &persistent("s"));
    let filters =
        ["+/+/+", "a/+/+", "+/b/+", "+/+/c", "a/b/+", "a/+/c", "+/b/c", "a/b/c", "a/#", "a/b/#", "#"];
    for (n, filter) in (1..).zip(filters) {
        bed.sub_with(client, n, filter, SubscriptionOptions::with_qos(QoS::AtLeastOnce), Some(n.into()));
    }
    bed.reset(client);
    let publisher = bed.client(0, "p");
    for n in 1..=100 {
        bed.publish(publisher, &publication("a/b/c", "", QoS::AtLeastOnce, n));
    }
    // Without their identifiers (at least 44 bytes) 59 messages of 167 bytes would have found room.
    let dropped = bed.counter("dropped_offline_full");
    assert!((50..60).contains(&dropped), "{dropped}");
}

#[test]
fn at_the_memory_ceiling_nobody_new_is_let_in_and_a_large_packet_is_cut() {
    let mut bed = Bed::with(1, &Settings { memory_bytes_max: 100_000, ..Settings::default() });
    let (five, bystander) = (bed.client(0, "five"), bed.client(0, "bystander"));
    let three = bed.connect(0, &v311("three", true));
    bed.take(three);
    // Three packets of 1,000,000 bytes, none complete.
    let head = [0x30, 0xC0, 0x84, 0x3D, 0x00, 0x01, b't', 0x00];
    let part = [&head[..], &[b'x'; 15_000]].concat();
    for client in [five, three, bystander] {
        bed.send(client, &part);
    }
    assert!(charged(&mut bed) < 100_000);
    bed.send(five, &[b'x'; 60_000]);
    assert_eq!(bed.take(five), ["DISCONNECT 0x97"], "it has filled memory itself");
    // Its buffer is free again; now something else is full.
    let filler = bed.client(0, "filler");
    bed.sub(filler, 1, "t", QoS::AtLeastOnce);
    bed.take(filler);
    bed.stall(filler, true);
    let publisher = bed.client(0, "p");
    let payload = "x".repeat(30_000);
    for n in 1..=3 {
        bed.publish(publisher, &publication("t", &payload, QoS::AtLeastOnce, n));
    }
    assert!(charged(&mut bed) >= 100_000);
    let late = bed.open(0);
    bed.run();
    assert!(bed.is_closed(late));
    assert_eq!(bed.counter("links_refused_memory"), 1);
    // Who holds little stays, who goes on with a large packet does not.
    bed.send(three, &[b'x'; 5_000]);
    assert!(bed.is_closed(three));
    bed.send(bystander, b"x");
    assert!(!bed.is_closed(bystander));
    assert_eq!(bed.counter("links_shed_memory"), 2);
    bed.stall(filler, false);
    for n in 1..=3 {
        bed.ack(filler, AckKind::PubAck, n);
    }
    bed.client(0, "late");
}

/// A client whose queue is full: one message is in flight, one waits.
fn full(bed: &mut Bed, name: &str) -> Client {
    let client = bed.connect(0, &Connect { receive_max: NonZeroU16::new(1), ..v5(name) });
    bed.sub(client, 1, "t", QoS::AtLeastOnce);
    client
}

#[test]
fn publications_that_wait_for_room_are_charged_with_an_entry_for_each_session() {
    let settings = Settings { queue_messages_max: 1, receive_max: 200, ..Settings::default() };
    for shards in [1, 2] {
        let mut bed = Bed::with(shards, &settings);
        let clients: Vec<_> = (0..20).map(|n| full(&mut bed, &format!("s{n}"))).collect();
        let publisher = bed.client(shards - 1, "p");
        for n in 1..=2 {
            bed.publish(publisher, &publication("t", "x", QoS::AtLeastOnce, n));
        }
        let before = charged(&mut bed);
        for n in 3..=102 {
            bed.publish(publisher, &publication("t", "x", QoS::AtLeastOnce, n));
        }
        assert_eq!(bed.counter("parked"), 20 * 100);
        let parked = charged(&mut bed) - before;
        assert!(parked >= 20 * 100 * 64, "20 sessions for which 100 publications wait: {parked} bytes");
        for client in clients {
            bed.reset(client);
        }
        assert_eq!((bed.counter("parked"), bed.counter("tickets")), (0, 0));
        let after = charged(&mut bed);
        assert!(after < before, "{before} bytes with the sessions, then {after}");
        bed.reset(publisher);
        assert_eq!(charged(&mut bed), 0, "{shards} shards");
    }
}

#[test]
fn shared_groups_are_charged_with_their_queues() {
    let settings =
        Settings { group_messages_max: 50, queue_messages_max: 1, receive_max: 200, ..Settings::default() };
    for shards in [1, 2] {
        let mut bed = Bed::with(shards, &settings);
        // One message in flight, and one of one group that waits behind it, so nothing is lent to the others.
        let member = bed.connect(0, &Connect { receive_max: NonZeroU16::new(1), ..v5("m") });
        for n in 0..20 {
            bed.sub(member, n + 1, &format!("$share/g{n}/t"), QoS::AtLeastOnce);
        }
        let publisher = bed.client(shards - 1, "p");
        let before = charged(&mut bed);
        let (mut queued, mut parked) = (0, 0);
        for n in 1..=200 {
            bed.publish(publisher, &publication("t", "x", QoS::AtLeastOnce, n));
            match n {
                60 => queued = charged(&mut bed) - before,
                200 => parked = charged(&mut bed) - before - queued,
                _ => {}
            }
        }
        assert!(queued >= 60 * 170 + 20 * 50 * 32, "20 queues of 50 messages: {queued} bytes");
        assert!(parked >= 140 * 170 + 20 * 120 * 24, "20 groups for which 140 wait: {parked} bytes");
        bed.reset(member);
        bed.reset(publisher);
        assert_eq!((bed.counter("groups"), charged(&mut bed)), (0, 0), "{shards} shards");
    }
}

/// Hands a publication of QoS 1 to a shard without a turn of any other.
fn publish_alone(bed: &mut Bed, publisher: Client, n: u16) {
    let mut bytes = bytes::BytesMut::new();
    publication("t", "x", QoS::AtLeastOnce, n).encode(bed.version(publisher), &mut bytes).expect("encodes");
    bed.shards[publisher.shard].handle_door_bytes(bed.now, DoorId(publisher.door), &bytes);
    bed.turn(publisher.shard);
}

/// What `count` publications that wait somewhere cost beside themselves. The third tells what one costs: for it no queue
/// grows.
fn waiting_cost(bed: &mut Bed, publisher: Client, count: u16) -> u64 {
    publish_alone(bed, publisher, 1);
    publish_alone(bed, publisher, 2);
    let two = charged(bed);
    publish_alone(bed, publisher, 3);
    let one = charged(bed) - two;
    for n in 4..=count {
        publish_alone(bed, publisher, n);
    }
    charged(bed) - two - one * u64::from(count - 2)
}

#[test]
fn publications_that_wait_for_another_road_are_charged_with_their_entries() {
    let mut bed = Bed::with(2, &Settings { receive_max: 1_000, ..Settings::default() });
    let publisher = bed.client(0, "p");
    let elsewhere = (0..)
        .map(|n| format!("r{n}"))
        .find(|topic| quelea_router::partition(topic, 7, 2) == ShardId::from_index(1))
        .expect("half of them are");
    let retained = Publish { retain: true, ..publication(&elsewhere, "x", QoS::AtLeastOnce, 1_000) };
    let mut bytes = bytes::BytesMut::new();
    retained.encode(bed.version(publisher), &mut bytes).expect("encodes");
    bed.shards[0].handle_door_bytes(bed.now, DoorId(publisher.door), &bytes);
    let cost = waiting_cost(&mut bed, publisher, 500);
    assert!(cost >= 500 * 16, "500 entries: {cost} bytes");
    bed.run();
    assert_eq!(bed.take(publisher).len(), 501);
    bed.publish(publisher, &Publish { retain: true, ..publication(&elsewhere, "", QoS::AtLeastOnce, 1) });
    bed.reset(publisher);
    assert_eq!(charged(&mut bed), 0);
}

#[test]
fn publications_that_wait_for_another_shards_credit_are_charged_with_their_entries() {
    let settings = Settings { deliver_window: 1, receive_max: 1_000, ..Settings::default() };
    let mut bed = Bed::with(2, &settings);
    let subscriber = bed.client(1, "s");
    bed.sub(subscriber, 1, "t", QoS::AtMostOnce);
    let publisher = bed.client(0, "p");
    let cost = waiting_cost(&mut bed, publisher, 500);
    assert_eq!(bed.counter("waiting_credit"), 499);
    assert!(cost >= 500 * 24, "499 entries: {cost} bytes");
    bed.run();
    assert_eq!(bed.take(publisher).len(), 500);
    bed.reset(publisher);
    bed.reset(subscriber);
    assert_eq!(charged(&mut bed), 0);
}

/// A SUBSCRIBE to `count` filters with a wildcard.
fn subscribe_many(bed: &mut Bed, client: Client, count: usize, handling: RetainHandling) {
    let filters: Vec<_> = (0..count).map(|n| format!("{n}/+")).collect();
    let options =
        SubscriptionOptions { retain_handling: handling, ..SubscriptionOptions::with_qos(QoS::AtMostOnce) };
    let wanted: Vec<_> = filters
        .iter()
        .map(|filter| {
            RequestedSubscription::new(SubscribeFilter::parse(filter, 8).expect("a filter"), options)
        })
        .collect();
    let mut bytes = bytes::BytesMut::new();
    Subscribe::new(id(1), &wanted).encode(bed.version(client), &mut bytes).expect("encodes");
    bed.shards[client.shard].handle_door_bytes(bed.now, DoorId(client.door), &bytes);
    bed.turn(client.shard);
}

#[test]
fn answers_that_wait_for_other_shards_are_charged() {
    let mut bed = Bed::new(2);
    let client = bed.client(0, "c");
    subscribe_many(&mut bed, client, 1_000, RetainHandling::SendAtSubscribe);
    let first = charged(&mut bed);
    // The same filters again: nothing is new but the answer that waits.
    for _ in 0..5 {
        subscribe_many(&mut bed, client, 1_000, RetainHandling::SendAtSubscribe);
    }
    let waiting = charged(&mut bed) - first;
    assert!(waiting >= 5 * 1_000 * 64, "5 answers of 1,000 filters each: {waiting} bytes");
    bed.run();
    assert_eq!(bed.take(client).len(), 6);
    bed.reset(client);
    assert_eq!(charged(&mut bed), 0);
}

#[test]
fn what_a_session_is_still_to_fetch_is_charged() {
    let mut bed = Bed::with(1, &Settings { queue_messages_max: 1, ..Settings::default() });
    let client = full(&mut bed, "c");
    let publisher = bed.client(0, "p");
    for n in 1..=2 {
        bed.publish(publisher, &publication("t", "x", QoS::AtLeastOnce, n));
    }
    subscribe_many(&mut bed, client, 1_000, RetainHandling::DoNotSend);
    bed.run();
    let before = charged(&mut bed);
    subscribe_many(&mut bed, client, 1_000, RetainHandling::SendAtSubscribe);
    bed.run();
    let planned = charged(&mut bed) - before;
    assert!(planned >= 1_000 * 64, "1,000 filters to be fetched: {planned} bytes");
    bed.ack(client, AckKind::PubAck, 1);
    bed.ack(client, AckKind::PubAck, 2);
    let fetched = charged(&mut bed);
    assert!(fetched <= before, "{before} bytes before, {fetched} when all is fetched");
    bed.reset(client);
    bed.reset(publisher);
    assert_eq!(charged(&mut bed), 0);
}

#[test]
fn identifiers_that_a_client_does_not_release_are_charged() {
    let mut bed = Bed::new(1);
    let client = bed.connect(0, &v311("c", true));
    let before = charged(&mut bed);
    for n in 1..=1_000 {
        bed.publish(client, &publication("t", "x", QoS::ExactlyOnce, n));
    }
    bed.take(client);
    let held = charged(&mut bed) - before;
    assert!(held >= 4_000, "1,000 identifiers: {held} bytes");
    bed.reset(client);
    assert_eq!(charged(&mut bed), 0);
}
