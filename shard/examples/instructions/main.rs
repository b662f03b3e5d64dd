//! Work for `scripts/instructions.sh`, which counts its instructions: `instructions SCENARIO` prepares one, warms it up, and
//! plays it in rounds under a function of its own name, so that a profiler can count these rounds and nothing else.
//! `instructions` alone prints, a line each, the scenarios and how many messages their counted rounds carry.
//!
//! The shards are the real ones, turned by the real turn; the driver hands bytes in, counts the bytes that come out, and
//! completes every write at once. Everything random has a fixed seed.

// The counted function's name is fixed for the profiler.
#![allow(unsafe_code, clippy::disallowed_methods)]

mod house;

use std::hint::black_box;

use bytes::BytesMut;
use quelea_mqtt::{Delivery, Limits, PublishImage, QoS, Sender, TopicFilter, TopicName, Version};
use quelea_router::FilterTrie;

use house::{House, publication};

/// A prepared piece of work, to be repeated.
type Round = Box<dyn FnMut()>;

/// What is counted, and how many messages one round carries.
struct Scenario {
    name: &'static str,
    messages: usize,
    prepare: fn() -> Round,
}

const SCENARIOS: &[Scenario] = &[
    Scenario { name: "decode_publish_v5", messages: 1, prepare: decode },
    Scenario { name: "encode_publish_v5", messages: 1, prepare: encode },
    Scenario { name: "match_topic", messages: 100, prepare: match_topics },
    Scenario { name: "fan_out_1_to_50_qos0", messages: FAN, prepare: fan_out },
    Scenario { name: "pairs_qos0", messages: PAIRS, prepare: || pairs(QoS::AtMostOnce) },
    Scenario { name: "pairs_qos1", messages: PAIRS, prepare: || pairs(QoS::AtLeastOnce) },
    Scenario { name: "flood_1_to_1_qos0", messages: FLOOD, prepare: flood },
    Scenario { name: "across_shards_qos0", messages: FLOOD, prepare: || across(QoS::AtMostOnce) },
    Scenario { name: "across_shards_qos1", messages: 1, prepare: || across(QoS::AtLeastOnce) },
    Scenario { name: "connect_disconnect", messages: 1, prepare: connections },
];

const FAN: usize = 50;
const PAIRS: usize = 50;
const FLOOD: usize = 20;
/// Rounds before counting: tables and buffers have their size by then.
const WARM_UP: usize = 50;
const ROUNDS: usize = 50;

fn main() {
    let Some(name) = std::env::args().nth(1) else {
        SCENARIOS.iter().for_each(|scenario| println!("{} {}", scenario.name, scenario.messages * ROUNDS));
        return;
    };
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).expect("a scenario by this name");
    let mut round = (scenario.prepare)();
    (0..WARM_UP).for_each(|_| round());
    quelea_counted_rounds(&mut round);
}

/// What is counted: from the entry of this function to its end.
#[unsafe(no_mangle)]
#[inline(never)]
fn quelea_counted_rounds(round: &mut Round) {
    (0..ROUNDS).for_each(|_| round());
}

/// A PUBLISH with a topic of 20 bytes and 64 of payload.
fn decode() -> Round {
    let bytes = publication(Version::V5, "sensors/cellar/probe", QoS::AtLeastOnce, &[7; 64]);
    let limits = Limits::default();
    Box::new(move || {
        let frame = quelea_mqtt::peek_frame(black_box(&bytes), Sender::Client, &limits);
        let frame = frame.expect("a frame").expect("a whole packet");
        let packet = quelea_mqtt::decode(&bytes[..frame.packet_bytes], Version::V5, Sender::Client, &limits);
        black_box(packet.expect("decodes"));
    })
}

/// The same to a receiver.
fn encode() -> Round {
    let bytes = publication(Version::V5, "sensors/cellar/probe", QoS::AtLeastOnce, &[7; 64]);
    let packet =
        quelea_mqtt::decode(&bytes, Version::V5, Sender::Client, &Limits::default()).expect("decodes");
    let quelea_mqtt::Packet::Publish(publish) = packet else { unreachable!("it is one") };
    let image = PublishImage::from_publish(&publish, publish.topic.expect("it has one"));
    let mut out = BytesMut::with_capacity(1024);
    Box::new(move || {
        let delivery = Delivery {
            version: Version::V5,
            qos: QoS::AtLeastOnce,
            dup: false,
            retain: false,
            packet_id: Some(quelea_mqtt::PacketId::MIN),
            message_expiry_s: None,
            subscription_ids: &[],
            topic_alias: None,
        };
        out.clear();
        black_box(&image).encode(&delivery, &mut out);
        black_box(&out);
    })
}

/// Ten thousand filters of one to eight levels, every third with a wildcard; a hundred topics.
fn match_topics() -> Round {
    let mut random = fastrand::Rng::with_seed(7);
    let mut path = |wild: bool| {
        let levels = random.usize(1..=8);
        let mut text: Vec<String> = (0..levels).map(|_| format!("level-{}", random.u32(0..8))).collect();
        if wild {
            let at = random.usize(0..levels);
            text[at] = if at + 1 == levels { "#".into() } else { "+".into() };
        }
        text.join("/")
    };
    let mut trie = FilterTrie::new(7);
    for number in 0..10_000u32 {
        let text = path(number % 3 == 0);
        trie.insert(TopicFilter::new(&text, 8).expect("a filter"), number, ());
    }
    let topics: Vec<String> = (0..100).map(|_| path(false)).collect();
    Box::new(move || {
        for topic in &topics {
            let topic = TopicName::new(topic, 8).expect("a topic");
            trie.for_each_match(topic, |key, ()| {
                black_box(key);
            });
        }
    })
}

/// One publication to fifty subscribers of one shard, a turn each.
fn fan_out() -> Round {
    let mut house = House::new(1);
    for door in 0..FAN as u64 {
        house.connect(0, door);
        house.subscribe(0, door, "news", QoS::AtMostOnce);
    }
    house.connect(0, 1_000);
    let packet = publication(Version::V311, "news", QoS::AtMostOnce, &[7; 64]);
    Box::new(move || {
        house.bytes(0, 1_000, &packet);
        house.run();
    })
}

/// Fifty publishers, each with a subscriber of its own: a message from each within a turn, acknowledged in the next.
fn pairs(qos: QoS) -> Round {
    let mut house = House::new(1);
    let mut packets = Vec::new();
    for pair in 0..PAIRS as u64 {
        let topic = format!("pair/{pair}");
        house.connect(0, pair);
        house.connect(0, 1_000 + pair);
        house.subscribe(0, pair, &topic, qos);
        packets.push(publication(Version::V311, &topic, qos, &[7; 64]));
    }
    let mut number = 0;
    Box::new(move || {
        number += 1;
        for (pair, packet) in (0..).zip(&packets) {
            house.bytes(0, 1_000 + pair, packet);
        }
        house.run();
        if qos == QoS::AtLeastOnce {
            (0..PAIRS as u64).for_each(|pair| house.acknowledge(0, pair, number));
            house.run();
        }
    })
}

/// Twenty messages in one read, from one publisher to one subscriber.
fn flood() -> Round {
    let mut house = House::new(1);
    house.connect(0, 1);
    house.subscribe(0, 1, "flood", QoS::AtMostOnce);
    house.connect(0, 2);
    let packets = publication(Version::V311, "flood", QoS::AtMostOnce, &[7; 64]).repeat(FLOOD);
    Box::new(move || {
        house.bytes(0, 2, &packets);
        house.run();
    })
}

/// From a publisher of one shard to a subscriber of another: a flood at QoS 0, one message at QoS 1.
fn across(qos: QoS) -> Round {
    let mut house = House::new(2);
    house.connect(0, 1);
    house.subscribe(0, 1, "across", qos);
    house.connect(1, 2);
    let packet = publication(Version::V311, "across", qos, &[7; 64]);
    let packets = packet.repeat(if qos == QoS::AtMostOnce { FLOOD } else { 1 });
    let mut number = 0;
    Box::new(move || {
        number += 1;
        house.bytes(1, 2, &packets);
        house.run();
        if qos == QoS::AtLeastOnce {
            house.acknowledge(0, 1, number);
            house.run();
        }
    })
}

/// A client that comes, and goes with a DISCONNECT.
fn connections() -> Round {
    let mut house = House::new(1);
    Box::new(move || {
        house.connect(0, 1);
        house.disconnect(0, 1);
    })
}
