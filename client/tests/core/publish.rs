//! Our publications: QoS 0, 1 and 2, the window, and what survives a reconnect.

use std::num::NonZeroU16;
use std::time::Duration;

use crate::scripted::{
    CONNACK_V3, CONNACK_V3_PRESENT, CONNACK_V5, CONNACK_V5_PRESENT, Scripted, options, packets,
};
use quelea_client::{Bounds, Core, Event, Options, Properties, Publish, Refusal, SessionLost, Text, Token};
use quelea_mqtt::{Packet, QoS, ReasonCode, Version};

const OK: ReasonCode = ReasonCode::SUCCESS;

fn message(payload: &'static str, qos: QoS) -> Publish {
    Publish::new(Text::from_static("t"), payload).with_qos(qos)
}

fn publish(client: &mut Scripted, payload: &'static str, qos: QoS) -> Token {
    client.core.publish(client.now, &message(payload, qos)).expect("room")
}

/// Options of a client that resumes its session.
fn resuming(version: Version) -> Options {
    Options {
        clean_start: false,
        session_expiry_s: (version == Version::V5).then_some(600),
        ..options(version)
    }
}

#[test]
fn qos_0_is_done_when_its_bytes_are_handed_out() {
    let mut client = Scripted::connected(options(Version::V311), CONNACK_V3);
    let token = publish(&mut client, "m", QoS::AtMostOnce);
    assert!(client.events().is_empty());
    assert_eq!(&client.sent()[..], b"\x30\x04\x00\x01tm");
    assert_eq!(client.events(), [Event::PublishDone { token, reason: OK }]);
}

#[test]
fn qos_1_is_done_at_puback() {
    let mut client = Scripted::connected(options(Version::V311), CONNACK_V3);
    let token = publish(&mut client, "m", QoS::AtLeastOnce);
    assert_eq!(&client.sent()[..], b"\x32\x06\x00\x01t\x00\x01m");
    assert!(client.events().is_empty());
    client.receive(b"\x40\x02\x00\x01");
    assert_eq!(client.events(), [Event::PublishDone { token, reason: OK }]);
    assert_eq!(client.core.in_flight(), 0);
}

#[test]
fn qos_2_is_done_at_pubcomp() {
    let mut client = Scripted::connected(options(Version::V5), CONNACK_V5);
    let token = publish(&mut client, "m", QoS::ExactlyOnce);
    assert_eq!(&client.sent()[..], b"\x34\x07\x00\x01t\x00\x01\x00m");
    client.receive(b"\x50\x02\x00\x01");
    assert_eq!(&client.sent()[..], b"\x62\x02\x00\x01");
    assert!(client.events().is_empty());
    client.receive(b"\x70\x02\x00\x01");
    assert_eq!(client.events(), [Event::PublishDone { token, reason: OK }]);
}

#[test]
fn a_repeated_pubrec_is_released_again() {
    let mut client = Scripted::connected(options(Version::V5), CONNACK_V5);
    publish(&mut client, "m", QoS::ExactlyOnce);
    client.sent();
    client.receive(b"\x50\x02\x00\x01\x50\x02\x00\x01");
    assert_eq!(&client.sent()[..], b"\x62\x02\x00\x01\x62\x02\x00\x01");
    assert_eq!(client.core.counters().strays_in, 0);
}

#[test]
fn a_refusing_puback_or_pubrec_ends_the_publication() {
    let mut client = Scripted::connected(options(Version::V5), CONNACK_V5);
    let one = publish(&mut client, "m", QoS::AtLeastOnce);
    let two = publish(&mut client, "m", QoS::ExactlyOnce);
    client.sent();
    client.receive(b"\x40\x03\x00\x01\x97\x50\x03\x00\x02\x87");
    let done = |token, reason| Event::PublishDone { token, reason };
    let expected = [done(one, ReasonCode::QUOTA_EXCEEDED), done(two, ReasonCode::NOT_AUTHORIZED)];
    assert_eq!(client.events(), expected);
    assert!(client.sent().is_empty(), "a refused message is not released");
}

#[test]
fn properties_are_written() {
    let mut client = Scripted::connected(options(Version::V5), CONNACK_V5);
    let properties = Properties {
        payload_is_utf8: Some(true),
        message_expiry_s: Some(9),
        response_topic: Some("answer/here".into()),
        correlation_data: Some("42".into()),
        content_type: Some("text".into()),
        user_properties: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
    };
    let message = Publish::new("t", "m").with_properties(properties);
    client.core.publish(client.now, &message).expect("room");
    let sent = client.sent();
    let [Packet::Publish(read)] = packets(&sent, Version::V5)[..] else { panic!("one PUBLISH") };
    assert_eq!(read.properties.message_expiry_s, Some(9));
    assert_eq!(read.properties.response_topic.map(|topic| topic.as_str()), Some("answer/here"));
    assert_eq!(read.properties.user_properties.iter().collect::<Vec<_>>(), [("a", "1"), ("a", "2")]);
}

#[test]
fn an_illegal_topic_is_refused() {
    let mut client = Scripted::connected(options(Version::V311), CONNACK_V3);
    for topic in ["", "a/#", "+"] {
        let refusal = client.core.publish(client.now, &Publish::new(topic, "m")).expect_err("illegal");
        assert!(matches!(refusal, Refusal::Topic(_)), "{topic:?}");
    }
    assert!(client.sent().is_empty());
}

#[test]
fn the_servers_receive_maximum_is_back_pressure() {
    let mut client = Scripted::connected(options(Version::V5), b"\x20\x06\x00\x00\x03\x21\x00\x02");
    publish(&mut client, "a", QoS::AtLeastOnce);
    publish(&mut client, "b", QoS::ExactlyOnce);
    let third = message("c", QoS::AtLeastOnce);
    assert_eq!(client.core.publish(client.now, &third), Err(Refusal::Full));
    assert!(!client.core.has_room());
    // QoS 0 is not counted.
    publish(&mut client, "d", QoS::AtMostOnce);
    // PUBREC does not free a place, PUBACK does.
    client.receive(b"\x50\x02\x00\x02");
    assert_eq!(client.core.publish(client.now, &third), Err(Refusal::Full));
    client.receive(b"\x40\x02\x00\x01");
    client.core.publish(client.now, &third).expect("a place is free");
}

#[test]
fn the_window_is_bounded_by_number_and_by_bytes() {
    let in_flight_max = NonZeroU16::new(3).expect("not zero");
    let bounds = Bounds { in_flight_max, in_flight_bytes_max: 10, ..Bounds::default() };
    let mut client = Scripted::connected(Options { bounds, ..options(Version::V311) }, CONNACK_V3);
    let large = Publish::new("t", vec![0; 100]).with_qos(QoS::AtLeastOnce);
    client.core.publish(client.now, &large).expect("one is always allowed");
    assert_eq!(client.core.publish(client.now, &large), Err(Refusal::Full));
    client.receive(b"\x40\x02\x00\x01");
    for _ in 0..3 {
        publish(&mut client, "m", QoS::AtLeastOnce);
    }
    assert_eq!(client.core.publish(client.now, &message("m", QoS::AtLeastOnce)), Err(Refusal::Full));
}

#[test]
fn a_reconnect_repeats_publish_with_dup_and_pubrel_in_order() {
    for (version, connack, present) in
        [(Version::V311, CONNACK_V3, CONNACK_V3_PRESENT), (Version::V5, CONNACK_V5, CONNACK_V5_PRESENT)]
    {
        let mut client = Scripted::connected(resuming(version), connack);
        let tokens = ["a", "b", "c", "d"].map(|payload| {
            publish(&mut client, payload, if payload == "c" { QoS::AtLeastOnce } else { QoS::ExactlyOnce })
        });
        // "d" and "b" are received by the server, in this order; "a" and "c" are not.
        client.receive(b"\x50\x02\x00\x04\x50\x02\x00\x02");
        client.sent();
        client.core.handle_closed(client.now);
        client.events();

        client.reconnect(present);
        let sent = client.sent();
        let shown: Vec<String> = packets(&sent, version).iter().map(show).collect();
        assert_eq!(shown, ["PUBLISH 1 dup a", "PUBLISH 3 dup c", "PUBREL 4", "PUBREL 2"]);
        client.receive(b"\x50\x02\x00\x01\x40\x02\x00\x03\x70\x02\x00\x04\x70\x02\x00\x02\x70\x02\x00\x01");
        let done: Vec<Token> = client
            .events()
            .into_iter()
            .map(|event| match event {
                Event::PublishDone { token, reason: OK } => token,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(done, [tokens[2], tokens[3], tokens[1], tokens[0]]);
        assert_eq!(client.core.counters().resent, 2);
    }
}

fn show(packet: &Packet<'_>) -> String {
    match packet {
        Packet::Publish(publish) => {
            let dup = if publish.dup { "dup" } else { "new" };
            let payload = std::str::from_utf8(publish.payload).expect("text");
            format!("PUBLISH {} {dup} {payload}", publish.packet_id.expect("QoS 1 or 2"))
        }
        Packet::PubRel(ack) => format!("PUBREL {}", ack.packet_id),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_smaller_receive_maximum_holds_also_for_what_is_repeated() {
    let mut client = Scripted::connected(resuming(Version::V5), CONNACK_V5);
    for payload in ["a", "b", "c"] {
        publish(&mut client, payload, QoS::AtLeastOnce);
    }
    client.core.handle_closed(client.now);
    client.events();
    client.reconnect(b"\x20\x06\x01\x00\x03\x21\x00\x01");
    for (id, payload) in [(1, "a"), (2, "b"), (3, "c")] {
        let sent = client.sent();
        let shown: Vec<String> = packets(&sent, Version::V5).iter().map(show).collect();
        assert_eq!(shown, [format!("PUBLISH {id} dup {payload}")]);
        // Nothing new overtakes what is repeated.
        assert_eq!(client.core.publish(client.now, &message("x", QoS::AtLeastOnce)), Err(Refusal::Full));
        client.receive(&[0x40, 0x02, 0x00, id]);
    }
    publish(&mut client, "x", QoS::AtLeastOnce);
}

#[test]
fn a_lost_session_is_published_again_as_new() {
    let mut client = Scripted::connected(resuming(Version::V5), CONNACK_V5);
    let received = publish(&mut client, "a", QoS::ExactlyOnce);
    let open = publish(&mut client, "b", QoS::ExactlyOnce);
    client.receive(b"\x50\x02\x00\x01");
    client.core.handle_closed(client.now);
    client.events();
    client.sent();
    client.reconnect(CONNACK_V5);
    // What the server had received is not repeated: nobody knows whether it was delivered.
    assert_eq!(client.events(), [Event::Lost { token: received }]);
    let sent = client.sent();
    assert_eq!(packets(&sent, Version::V5).iter().map(show).collect::<Vec<_>>(), ["PUBLISH 2 new b"]);
    client.receive(b"\x50\x02\x00\x02\x70\x02\x00\x02");
    assert_eq!(client.events(), [Event::PublishDone { token: open, reason: OK }]);
}

#[test]
fn a_lost_session_is_reported_if_so_asked() {
    let options = Options { session_lost: SessionLost::Report, ..resuming(Version::V311) };
    let mut client = Scripted::connected(options, CONNACK_V3);
    let one = publish(&mut client, "a", QoS::AtLeastOnce);
    let two = publish(&mut client, "b", QoS::ExactlyOnce);
    client.core.handle_closed(client.now);
    client.events();
    client.reconnect(CONNACK_V3);
    assert_eq!(client.events(), [Event::Lost { token: one }, Event::Lost { token: two }]);
    assert!(client.sent().is_empty());
    assert_eq!(client.core.in_flight(), 0);
}

#[test]
fn the_time_spent_with_us_is_taken_off_the_expiry() {
    let mut client = Scripted::connected(resuming(Version::V5), CONNACK_V5);
    let properties = Properties { message_expiry_s: Some(60), ..Properties::default() };
    let message = message("m", QoS::AtLeastOnce).with_properties(properties);
    client.core.publish(client.now, &message).expect("room");
    client.core.handle_closed(client.now);
    client.events();
    client.advance(Duration::from_secs(25));
    client.reconnect(CONNACK_V5_PRESENT);
    let sent = client.sent();
    let [Packet::Publish(read)] = packets(&sent, Version::V5)[..] else { panic!("one PUBLISH") };
    assert_eq!(read.properties.message_expiry_s, Some(35));
}

#[test]
fn acknowledgements_of_the_wrong_kind_are_violations_and_strays_are_counted() {
    for wrong in [&b"\x50\x02\x00\x01"[..], b"\x70\x02\x00\x01"] {
        let mut client = Scripted::connected(options(Version::V311), CONNACK_V3);
        publish(&mut client, "m", QoS::AtLeastOnce);
        client.receive(wrong);
        assert!(matches!(client.event(), Event::Disconnected(_)));
    }
    let mut client = Scripted::connected(options(Version::V5), CONNACK_V5);
    client.receive(b"\x40\x02\x00\x09\x70\x02\x00\x09\x50\x02\x00\x09");
    assert_eq!(client.core.counters().strays_in, 3);
    // A stray PUBREC is released all the same, with a reason.
    assert_eq!(&client.sent()[..], b"\x62\x03\x00\x09\x92");
    assert!(client.core.is_connected());
}

#[test]
fn packet_identifiers_in_use_are_skipped() {
    let mut client = Scripted::connected(options(Version::V311), CONNACK_V3);
    let held = publish(&mut client, "held", QoS::AtLeastOnce);
    client.sent();
    for round in 0..70_000_u32 {
        publish(&mut client, "m", QoS::AtLeastOnce);
        let sent = client.sent();
        let [Packet::Publish(read)] = packets(&sent, Version::V311)[..] else { panic!("one PUBLISH") };
        let id = read.packet_id.expect("QoS 1").get();
        assert_ne!(id, 1, "round {round}");
        client.receive(&[0x40, 0x02, (id >> 8) as u8, id as u8]);
        client.events();
    }
    client.receive(b"\x40\x02\x00\x01");
    assert_eq!(client.events(), [Event::PublishDone { token: held, reason: OK }]);
}

#[test]
fn equal_seeds_and_inputs_give_equal_outputs() {
    let run = |seed| {
        let mut client =
            Scripted { core: Core::new(resuming(Version::V5), seed), now: crate::scripted::beginning() };
        client.reconnect(CONNACK_V5);
        for payload in ["a", "b", "c", "d", "e"] {
            publish(&mut client, payload, QoS::ExactlyOnce);
        }
        client.core.handle_closed(client.now);
        client.events();
        client.reconnect(CONNACK_V5_PRESENT);
        client.sent()
    };
    assert_eq!(run(1), run(1));
    assert_eq!(run(1), run(2), "the order on the wire depends on no seed");
}
