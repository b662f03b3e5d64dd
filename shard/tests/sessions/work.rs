//! What peers can make long is done in pieces, counted in units of work: between them everybody else has a turn.

use core::num::NonZeroU16;
use std::time::Duration;

use bytes::BytesMut;
use quelea_mqtt::{
    Connect, Publish, QoS, RequestedSubscription, Subscribe, SubscribeFilter, SubscriptionOptions, TopicName,
    Will,
};
use quelea_router::ShardId;
use quelea_shard::{DoorId, Order, Settings, Shard};

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

/// Clients with a Will, each of which has one message in flight and one waiting.
fn busy_clients(bed: &mut Bed, count: usize) -> Vec<Client> {
    let will = Will::new(TopicName::new("will", 8).expect("a topic"), b"gone", QoS::AtMostOnce, false);
    let clients: Vec<_> = (0..count)
        .map(|n| {
            let name = format!("c{n}");
            let client =
                bed.connect(0, &Connect { receive_max: NonZeroU16::new(1), will: Some(will), ..v5(&name) });
            bed.sub(client, 1, "t", QoS::AtLeastOnce);
            client
        })
        .collect();
    let publisher = bed.client(0, "p");
    for n in 1..=2 {
        bed.publish(publisher, &publication("t", "x", QoS::AtLeastOnce, n));
    }
    bed.reset(publisher);
    for client in &clients {
        assert_eq!(bed.take(*client).len(), 3, "CONNACK, SUBACK, PUBLISH");
    }
    clients
}

/// Lets so much time pass, without a turn.
fn wait(bed: &mut Bed, time: Duration) {
    bed.now += time;
    let now = bed.now;
    bed.shards[0].handle_timeout(now);
}

fn drain(bed: &mut Bed) {
    let deadline = bed.now + Duration::from_secs(8);
    bed.shards[0].handle_order(bed.now, Order::Drain { deadline });
}

#[test]
fn a_draining_shard_tells_a_part_of_its_clients_in_every_turn() {
    const COUNT: usize = 2_000;
    let mut bed = Bed::new(1);
    let will = Will::new(TopicName::new("will", 8).expect("a topic"), b"gone", QoS::AtMostOnce, false);
    let clients: Vec<_> =
        (0..COUNT).map(|n| bed.connect(0, &Connect { will: Some(will), ..v5(&format!("c{n}")) })).collect();
    // The last to be told: whatever it asks meanwhile is answered.
    let other = bed.client(0, "other");
    drain(&mut bed);
    let mut left = bed.counter("sessions_connected");
    assert_eq!(left, COUNT as u64 + 1, "an order is not a turn");
    hand_in(&mut bed, other, &[0xc0, 0]);
    bed.turn(0);
    assert_eq!(bed.take(other), ["PINGRESP"]);
    let mut turns = 1;
    while bed.counter("sessions_connected") > 0 {
        let connected = bed.counter("sessions_connected");
        assert!(connected < left && left - connected < 600, "{left}, then {connected}");
        left = connected;
        bed.turn(0);
        turns += 1;
    }
    assert!(turns >= 4, "{turns}");
    bed.run();
    for client in clients {
        assert_eq!(bed.take(client), ["CONNACK 0x00 present=0", "DISCONNECT 0x8b"]);
    }
    assert!(bed.shards[0].is_drained());
    assert_eq!((bed.counter("wills_published"), bed.counter("memory_bytes")), (0, 0));
}

#[test]
fn who_has_not_taken_everything_is_told_and_then_cut_off_in_pieces() {
    const COUNT: u64 = 1_500;
    let mut bed = Bed::new(1);
    let clients = busy_clients(&mut bed, COUNT as usize);
    drain(&mut bed);
    bed.run();
    assert_eq!(bed.counter("sessions_connected"), COUNT, "messages wait for all of them");
    for client in &clients[..1_000] {
        bed.stall(*client, true);
    }
    // Three quarters of the time are over.
    wait(&mut bed, Duration::from_secs(6));
    bed.turn(0);
    let told = COUNT - bed.counter("sessions_connected");
    assert!((1..600).contains(&told), "{told} in one turn");
    bed.run();
    assert_eq!((bed.counter("sessions_connected"), bed.counter("links")), (0, 1_000));
    for client in &clients[1_000..] {
        assert_eq!(bed.take(*client), ["DISCONNECT 0x8b"]);
    }
    // The rest of it, too: those who do not take their last bytes are cut off.
    wait(&mut bed, Duration::from_secs(2));
    bed.turn(0);
    let links = bed.counter("links");
    assert!((400..1_000).contains(&links), "{links} left after one turn");
    bed.run();
    assert!(bed.shards[0].is_drained());
    assert_eq!(Shard::poll_timeout(&mut bed.shards[0]).filter(|due| *due <= bed.now), None);
    assert_eq!((bed.counter("wills_published"), bed.counter("memory_bytes")), (0, 0));
}

#[test]
fn acceptances_that_come_together_are_taken_in_a_few_in_every_turn() {
    const COUNT: u16 = 6_000;
    let settings = Settings { receive_max: COUNT, queue_messages_max: 1, ..Settings::default() };
    let mut bed = Bed::with(2, &settings);
    let full = bed.connect(0, &Connect { receive_max: NonZeroU16::new(1), ..v5("full") });
    bed.sub(full, 1, "t", QoS::AtLeastOnce);
    let publisher = bed.client(1, "p");
    let mut bytes = BytesMut::new();
    for n in 1..=COUNT {
        bytes.extend_from_slice(&encoded(&bed, publisher, &publication("t", "", QoS::AtLeastOnce, n)));
    }
    bed.send(publisher, &bytes);
    assert_eq!(bed.take(publisher).len(), 2, "one is in flight, one waits in the queue");
    let other = bed.client(1, "other");
    // The session goes, and with it what all those publications wait for.
    bed.shards[0].handle_door_closed(bed.now, DoorId(full.door), quelea_shard::DoorEnd::Reset);
    bed.turn(0);
    hand_in(&mut bed, other, &[0xc0, 0]);
    bed.turn(1);
    assert_eq!(bed.take(other), ["PINGRESP"]);
    let (first, left) = (bed.take(publisher), bed.counter("tickets"));
    assert!(!first.is_empty() && left > 0, "{} in one turn, {left} left", first.len());
    assert!(bed.shards[1].has_unfinished());
    bed.run();
    let acks = [first, bed.take(publisher)].concat();
    let expected: Vec<_> = (3..=COUNT).map(|n| format!("PUBACK {n} 0x00")).collect();
    assert_eq!(acks, expected, "all of them, in order");
    assert_eq!(bed.counter("tickets"), 0);
}

#[test]
fn what_waited_for_the_other_road_goes_a_few_in_every_turn_and_in_order() {
    const COUNT: u16 = 300;
    let settings = Settings { receive_max: 2 * COUNT, ..Settings::default() };
    let mut bed = Bed::with(2, &settings);
    let greedy = bed.client(0, "greedy");
    subscribe(&mut bed, greedy, &overlapping(10));
    let publisher = bed.client(0, "p");
    let elsewhere = (0..)
        .map(|n| format!("r{n}"))
        .find(|topic| quelea_router::partition(topic, 7, 2) == ShardId::from_index(1))
        .expect("half of them are");
    let retained = Publish { retain: true, ..publication(&elsewhere, "x", QoS::AtLeastOnce, COUNT + 1) };
    let mut bytes = encoded(&bed, publisher, &retained);
    let topic = ["a"; 10].join("/");
    for n in 1..=COUNT {
        let payload = n.to_string();
        bytes.extend_from_slice(&encoded(
            &bed,
            publisher,
            &publication(&topic, &payload, QoS::AtLeastOnce, n),
        ));
    }
    hand_in(&mut bed, publisher, &bytes);
    let mut most = 0;
    let mut busy = true;
    while busy {
        let before = bed.counter("work_units");
        busy = bed.turn(0);
        most = most.max(bed.counter("work_units") - before);
        busy |= bed.turn(1);
    }
    assert!(most > 8_000 && most < TURN_WORK_MAX, "{most} units in a turn");
    let payloads: Vec<_> = (1..=COUNT).map(|n| format!("PUBLISH {topic} q0 '{n}'")).collect();
    assert_eq!(bed.take(greedy), payloads);
    assert_eq!(bed.take(publisher).len(), usize::from(COUNT) + 1);
}

#[test]
fn sessions_with_something_to_send_do_so_a_few_in_every_turn_and_in_order() {
    const COUNT: usize = 5_000;
    let mut bed = Bed::new(1);
    let subscribers: Vec<_> = (0..COUNT)
        .map(|n| {
            let client = bed.client(0, &format!("s{n}"));
            bed.sub(client, 1, "t", QoS::AtLeastOnce);
            bed.take_bytes(client);
            client
        })
        .collect();
    let publisher = bed.client(0, "p");
    let other = bed.client(0, "other");
    for n in 1..=2 {
        let packet = encoded(&bed, publisher, &publication("t", &n.to_string(), QoS::AtLeastOnce, n));
        hand_in(&mut bed, publisher, &packet);
    }
    let before = bed.counter("publishes_sent");
    bed.turn(0);
    let sent = bed.counter("publishes_sent") - before;
    assert!((1_000..4_000).contains(&sent), "{sent} in one turn");
    assert!(bed.shards[0].has_unfinished());
    // What comes while the others wait for their turn goes behind what they wait for, and nobody else waits for them.
    let packet = encoded(&bed, publisher, &publication("t", "3", QoS::AtLeastOnce, 3));
    hand_in(&mut bed, publisher, &packet);
    hand_in(&mut bed, other, &[0xc0, 0]);
    bed.turn(0);
    assert_eq!(bed.take(other), ["PINGRESP"]);
    bed.run();
    assert_eq!(bed.take(publisher), ["PUBACK 1 0x00", "PUBACK 2 0x00", "PUBACK 3 0x00"]);
    for client in subscribers {
        let said = bed.take(client);
        assert_eq!(said, ["PUBLISH t q1 id1 '1'", "PUBLISH t q1 id2 '2'", "PUBLISH t q1 id3 '3'"]);
    }
}
