//! CONNECT, CONNACK, keep alive, the end of a connection.

use std::time::Duration;

use bytes::BytesMut;
use quelea_mqtt::{Connect, Disconnect, QoS, ReasonCode, TopicName, Version, Will};

use crate::bed::{Bed, publication, v5, v311};

#[test]
fn a_client_connects_and_is_answered() {
    let mut bed = Bed::new(1);
    let client = bed.connect(0, &v5("a"));
    assert_eq!(bed.take(client), ["CONNACK 0x00 present=0"]);
    bed.send(client, &[0xC0, 0x00]);
    assert_eq!(bed.take(client), ["PINGRESP"]);
}

#[test]
fn anything_before_connect_ends_the_connection_unanswered() {
    let mut bed = Bed::new(1);
    let client = bed.open(0);
    bed.send(client, &[0xC0, 0x00]);
    assert_eq!(bed.take(client), Vec::<String>::new());
    assert!(bed.is_closed(client));
}

#[test]
fn a_second_connect_is_a_protocol_error() {
    let mut bed = Bed::new(1);
    let client = bed.client(0, "a");
    let mut bytes = BytesMut::new();
    v5("a").encode(Version::V5, &mut bytes).expect("encodes");
    bed.send(client, &bytes);
    assert_eq!(bed.take(client), ["DISCONNECT 0x82"]);
    assert!(bed.is_closed(client));
}

// Covers 5.0: 3.2.0-1
#[test]
fn packets_sent_behind_a_connect_wait_for_its_answer() {
    let mut bed = Bed::new(2);
    let client = bed.open(1);
    let mut bytes = BytesMut::new();
    v5("early").encode(Version::V5, &mut bytes).expect("encodes");
    publication("t", "x", QoS::AtLeastOnce, 1).encode(Version::V5, &mut bytes).expect("encodes");
    bytes.extend_from_slice(&[0xC0, 0x00]);
    bed.send(client, &bytes);
    assert_eq!(bed.take(client), ["CONNACK 0x00 present=0", "PUBACK 1 0x10", "PINGRESP"]);
}

// Covers 5.0: 4.2-1 6.0.0-2
#[test]
fn one_byte_at_a_time_is_as_good_as_all_at_once() {
    let mut bed = Bed::new(1);
    let client = bed.open(0);
    let mut bytes = BytesMut::new();
    v5("slow").encode(Version::V5, &mut bytes).expect("encodes");
    publication("t", "x", QoS::ExactlyOnce, 9).encode(Version::V5, &mut bytes).expect("encodes");
    for byte in bytes {
        bed.send(client, &[byte]);
    }
    assert_eq!(bed.take(client), ["CONNACK 0x00 present=0", "PUBREC 9 0x10"]);
}

#[test]
fn an_empty_client_identifier_is_assigned_in_5_and_refused_in_3_with_a_session() {
    let mut bed = Bed::new(1);
    let five = bed.connect(0, &v5(""));
    assert_eq!(bed.take(five), ["CONNACK 0x00 present=0"]);
    let clean = bed.connect(0, &v311("", true));
    assert_eq!(bed.take(clean), ["CONNACK 0x00 present=0"]);
    let persistent = bed.connect(0, &v311("", false));
    assert!(bed.take(persistent)[0].starts_with("CONNACK 0x85"), "identifier rejected");
    assert!(bed.is_closed(persistent));
}

#[test]
fn an_authentication_method_is_refused() {
    let mut bed = Bed::new(1);
    let client = bed.connect(0, &Connect { authentication_method: Some("SCRAM"), ..v5("a") });
    assert_eq!(bed.take(client), ["CONNACK 0x8c present=0"]);
}

#[test]
fn a_connection_without_connect_ends_after_the_timeout() {
    let mut bed = Bed::new(1);
    let client = bed.open(0);
    bed.pass(Duration::from_secs(9));
    assert!(!bed.is_closed(client));
    bed.pass(Duration::from_secs(2));
    assert!(bed.is_closed(client));
    assert_eq!(bed.counter("connect_timeouts"), 1);
}

#[test]
fn silence_for_one_and_a_half_keep_alives_ends_the_connection() {
    let mut bed = Bed::new(1);
    let client = bed.connect(0, &Connect { keep_alive_s: 10, ..v5("a") });
    bed.take(client);
    bed.pass(Duration::from_secs(14));
    bed.send(client, &[0xC0, 0x00]);
    bed.pass(Duration::from_secs(14));
    assert_eq!(bed.take(client), ["PINGRESP"]);
    bed.pass(Duration::from_secs(2));
    assert_eq!(bed.take(client), ["DISCONNECT 0x8d"]);
}

#[test]
fn a_will_goes_out_when_the_connection_is_lost_and_not_after_disconnect() {
    let mut bed = Bed::new(2);
    let watcher = bed.client(0, "watcher");
    bed.sub(watcher, 1, "will/#", QoS::AtLeastOnce);
    bed.take(watcher);
    let will = Will::new(TopicName::new("will/a", 8).expect("a topic"), b"gone", QoS::AtLeastOnce, false);
    let lost = bed.connect(1, &Connect { will: Some(will), ..v5("a") });
    bed.reset(lost);
    assert_eq!(bed.take(watcher), ["PUBLISH will/a q1 id1 'gone'"]);
    let polite = bed.connect(1, &Connect { will: Some(will), ..v5("a") });
    bed.disconnect(polite, &Disconnect::new(ReasonCode::NORMAL_DISCONNECTION));
    assert_eq!(bed.take(watcher), Vec::<String>::new());
    let with_will = bed.connect(1, &Connect { will: Some(will), ..v5("a") });
    bed.disconnect(with_will, &Disconnect::new(ReasonCode::from_u8(0x04)));
    assert_eq!(bed.take(watcher), ["PUBLISH will/a q1 id2 'gone'"]);
}

#[test]
fn a_will_waits_for_its_delay_and_is_forgotten_when_the_client_returns() {
    let mut bed = Bed::new(2);
    let watcher = bed.client(0, "watcher");
    bed.sub(watcher, 1, "will/#", QoS::AtMostOnce);
    bed.take(watcher);
    let topic = TopicName::new("will/a", 8).expect("a topic");
    let will = Will { delay_s: 30, ..Will::new(topic, b"gone", QoS::AtMostOnce, false) };
    let connect = Connect { will: Some(will), session_expiry_s: Some(100), ..v5("a") };
    let first = bed.connect(1, &connect);
    bed.reset(first);
    bed.pass(Duration::from_secs(29));
    let second = bed.connect(1, &Connect { clean_start: false, ..connect });
    bed.reset(second);
    bed.pass(Duration::from_secs(29));
    assert_eq!(bed.take(watcher), Vec::<String>::new());
    bed.pass(Duration::from_secs(2));
    assert_eq!(bed.take(watcher), ["PUBLISH will/a q0 'gone'"]);
}

#[test]
fn the_end_of_a_session_does_not_wait_for_the_will_delay() {
    let mut bed = Bed::new(1);
    let watcher = bed.client(0, "watcher");
    bed.sub(watcher, 1, "will/#", QoS::AtMostOnce);
    bed.take(watcher);
    let topic = TopicName::new("will/a", 8).expect("a topic");
    let will = Will { delay_s: 3600, ..Will::new(topic, b"gone", QoS::AtMostOnce, false) };
    let lost = bed.connect(0, &Connect { will: Some(will), session_expiry_s: Some(10), ..v5("a") });
    bed.reset(lost);
    bed.pass(Duration::from_secs(11));
    assert_eq!(bed.take(watcher), ["PUBLISH will/a q0 'gone'"]);
    assert_eq!(bed.counter("sessions_expired"), 1);
}

#[test]
fn draining_tells_everyone_and_lets_nobody_in() {
    let mut bed = Bed::new(2);
    let client = bed.client(1, "a");
    let deadline = bed.now + Duration::from_secs(5);
    for shard in &mut bed.shards {
        shard.handle_order(bed.now, quelea_shard::Order::Drain { deadline });
    }
    bed.run();
    assert_eq!(bed.take(client), ["DISCONNECT 0x8b"]);
    let late = bed.open(0);
    bed.run();
    assert!(bed.is_closed(late));
    bed.run();
    assert!(bed.shards.iter().all(quelea_shard::Shard::is_drained));
}

#[test]
fn a_session_that_is_not_persistent_survives_no_take_over_on_its_shard() {
    let mut bed = Bed::new(2);
    let connect = Connect { clean_start: false, ..v5("c") };
    let first = bed.connect(0, &connect);
    let second = bed.connect(0, &connect);
    assert_eq!(bed.take(first), ["CONNACK 0x00 present=0", "DISCONNECT 0x8e"]);
    assert_eq!(bed.take(second), ["CONNACK 0x00 present=0"]);
    // The home shard still knows the second one: another CONNECT elsewhere takes it over.
    let third = bed.connect(1, &v5("c"));
    assert_eq!(bed.take(second), ["DISCONNECT 0x8e"]);
    assert_eq!(bed.take(third), ["CONNACK 0x00 present=0"]);
    assert_eq!(bed.counter("sessions"), 1);
}

#[test]
fn what_was_sent_before_the_end_of_the_stream_counts() {
    let mut bed = Bed::new(1);
    bed.policy = |work| match work {
        quelea_shard::Work::Authenticate { .. } => {
            quelea_shard::Completion::Authenticated(Ok(quelea_shard::Permissions::Ask))
        }
        quelea_shard::Work::Authorize { .. } => quelea_shard::Completion::Authorized(vec![true]),
    };
    let watcher = bed.client(0, "w");
    bed.sub(watcher, 1, "#", QoS::AtMostOnce);
    bed.take(watcher);
    let will = Will::new(TopicName::new("will", 8).expect("a topic"), b"gone", QoS::AtMostOnce, false);
    let client = bed.connect(0, &Connect { will: Some(will), ..v5("c") });
    let mut bytes = BytesMut::new();
    publication("t", "last", QoS::AtMostOnce, 0).encode(Version::V5, &mut bytes).expect("encodes");
    Disconnect::new(ReasonCode::NORMAL_DISCONNECTION).encode(Version::V5, &mut bytes).expect("encodes");
    bed.send_and_end(client, &bytes);
    assert_eq!(bed.take(watcher), ["PUBLISH t q0 'last'"], "and no Will");
}

#[test]
fn a_client_that_asks_is_told_its_response_topic() {
    let settings = quelea_shard::Settings { response_root: Some("answers".into()), ..Default::default() };
    let mut bed = Bed::with(1, &settings);
    for (asked, told) in [(Some(true), Some("answers/a")), (Some(false), None), (None, None)] {
        let client = bed.connect(0, &Connect { request_response_information: asked, ..v5("a") });
        let said = bed.take_bytes(client);
        let limits = quelea_mqtt::Limits::default();
        let packet =
            quelea_mqtt::decode(&said, Version::V5, quelea_mqtt::Sender::Server, &limits).expect("decodes");
        let quelea_mqtt::Packet::ConnAck(connack) = packet else { panic!("{packet:?}") };
        assert_eq!(connack.properties.response_information, told);
        bed.reset(client);
    }
}

#[test]
fn what_comes_before_connect_is_no_connect_whatever_it_looks_like() {
    // A PUBLISH to the topic `MQTT`, whose property section of five bytes passes for the level of MQTT 5, and whose topic
    // alias is 0.
    let publish = [0x30, 0x0C, 0, 4, b'M', b'Q', b'T', b'T', 5, 0x23, 0, 0, 1, 0];
    for first in (0..=255).filter(|first| first >> 4 != 1) {
        let mut bed = Bed::new(1);
        let mut packet = publish;
        packet[0] = first;
        let stranger = bed.open(0);
        bed.send(stranger, &packet);
        assert!(bed.is_closed(stranger), "{first:#04x}");
        assert_eq!(bed.take(stranger), [""; 0], "{first:#04x}: nothing may be said before CONNACK");
        bed.client(0, "next");
    }
}

#[test]
fn an_authenticator_may_refuse_with_any_reason() {
    for (refusal, said) in
        [(|_: &_| refused(0x94), "0x80"), (|_: &_| refused(0), "0x80"), (|_: &_| refused(0x8B), "0x88")]
            as [(fn(&quelea_shard::Work) -> quelea_shard::Completion, &str); 3]
    {
        let mut bed = Bed::new(1);
        bed.policy = refusal;
        let client = bed.connect(0, &v5("a"));
        assert_eq!(bed.take(client), [format!("CONNACK {said} present=0")]);
        assert!(bed.is_closed(client));
    }
}

fn refused(code: u8) -> quelea_shard::Completion {
    quelea_shard::Completion::Authenticated(Err(ReasonCode::from_u8(code)))
}

#[test]
fn an_identifier_that_makes_no_topic_gets_no_response_topic() {
    let settings = quelea_shard::Settings {
        response_root: Some("answers".into()),
        client_id_bytes_max: 65_535,
        ..Default::default()
    };
    for id in ["i".repeat(65_535), "i".repeat(65_528), "a/+".into(), "#".into()] {
        let mut bed = Bed::with(1, &settings);
        let client = bed.connect(0, &Connect { request_response_information: Some(true), ..v5(&id) });
        let said = bed.take_bytes(client);
        let limits = quelea_mqtt::Limits::default();
        let packet = quelea_mqtt::decode(&said, Version::V5, quelea_mqtt::Sender::Server, &limits);
        let Ok(quelea_mqtt::Packet::ConnAck(connack)) = packet else { panic!("{packet:?}") };
        assert_eq!((connack.reason, connack.properties.response_information), (ReasonCode::SUCCESS, None));
    }
}
