//! CONNECT, CONNACK, keep alive, and every way in which a connection ends.

use std::time::Duration;

use crate::scripted::{CONNACK_V3, CONNACK_V5, Scripted, options, packets};
use quelea_client::{Closed, Event, Farewell, Options, Password, Publish, Refusal, Text, Will};
use quelea_mqtt::{Packet, QoS, ReasonCode, Version};

#[test]
fn connect_is_written_as_the_version_wants_it() {
    let mut v311 = Scripted::new(options(Version::V311));
    v311.core.connect(v311.now).expect("detached");
    assert_eq!(v311.sent(), [b"\x10\x0D\x00\x04MQTT\x04\x02\x00\x3C\x00\x01", &b"c"[..]].concat());

    let mut v31 = Scripted::new(options(Version::V31));
    v31.core.connect(v31.now).expect("detached");
    assert_eq!(v31.sent(), [b"\x10\x0F\x00\x06MQIsdp\x03\x02\x00\x3C\x00\x01", &b"c"[..]].concat());
}

#[test]
fn connect_of_version_5_announces_our_bounds_and_the_will() {
    let will =
        Will { delay_s: 5, ..Will::new(Publish::new("w", "gone").with_qos(QoS::AtLeastOnce).retained()) };
    let mut client = Scripted::new(Options {
        clean_start: false,
        session_expiry_s: Some(100),
        user_name: Some("u".into()),
        password: Some(Password::new("p")),
        will: Some(will),
        ..options(Version::V5)
    });
    client.core.connect(client.now).expect("detached");
    let sent = client.sent();
    let [Packet::Connect(connect)] = packets(&sent, Version::V5)[..] else { panic!("one CONNECT") };
    assert!(!connect.clean_start);
    assert_eq!(connect.session_expiry_s, Some(100));
    assert_eq!(connect.receive_max.map(|max| max.get()), Some(32));
    assert_eq!(connect.packet_bytes_max.map(|max| max.get()), Some(1 << 20));
    assert_eq!(connect.topic_alias_max, Some(16));
    assert_eq!((connect.user_name, connect.password), (Some("u"), Some(&b"p"[..])));
    let will = connect.will.expect("a will");
    assert_eq!((will.topic.as_str(), will.payload, will.delay_s), ("w", &b"gone"[..], 5));
    assert!(will.retain && will.qos == QoS::AtLeastOnce);
}

#[test]
fn a_password_is_never_printed() {
    let options = Options { password: Some(Password::new("secret")), ..options(Version::V5) };
    assert!(!format!("{options:?}").contains("secret"));
}

#[test]
fn connack_tells_what_the_server_allows() {
    let mut client = Scripted::new(options(Version::V5));
    client.core.connect(client.now).expect("detached");
    client.sent();
    // Receive Maximum 2, Maximum QoS 1, Retain Available 0, Maximum Packet Size 1000, Assigned Client Identifier "xy",
    // Server Keep Alive 10.
    client.receive(
        b"\x20\x17\x00\x00\x14\x21\x00\x02\x24\x01\x25\x00\x27\x00\x00\x03\xE8\x12\x00\x02xy\x13\x00\x0A",
    );
    let Event::Connected { session_present: false, server, .. } = client.event() else { panic!("connected") };
    assert_eq!(server.receive_max.get(), 2);
    assert_eq!(server.qos_max, QoS::AtLeastOnce);
    assert!(!server.retain_available && server.wildcard_available);
    assert_eq!(server.packet_bytes_max, Some(1000));
    assert_eq!(server.keep_alive_s, 10);
    assert_eq!(client.core.client_id(), &"xy");

    let now = client.now;
    let refused =
        |publish: &Publish, client: &mut Scripted| client.core.publish(now, publish).expect_err("refused");
    let message = Publish::new("t", "m");
    let qos2 = message.clone().with_qos(QoS::ExactlyOnce);
    assert_eq!(refused(&qos2, &mut client), Refusal::NotAllowed(ReasonCode::QOS_NOT_SUPPORTED));
    let retained = message.clone().retained();
    assert_eq!(refused(&retained, &mut client), Refusal::NotAllowed(ReasonCode::RETAIN_NOT_SUPPORTED));
    let large = Publish::new("t", vec![0; 1000]);
    assert!(matches!(refused(&large, &mut client), Refusal::TooLarge { packet_bytes_max: 1000, .. }));
    // A refused call leaves nothing behind.
    assert!(client.sent().is_empty());
}

#[test]
fn a_refusal_ends_the_attempt_with_its_reason() {
    for (version, connack, expected) in [
        (Version::V311, &b"\x20\x02\x00\x05"[..], ReasonCode::NOT_AUTHORIZED),
        (Version::V311, b"\x20\x02\x00\x02", ReasonCode::CLIENT_IDENTIFIER_NOT_VALID),
        (Version::V5, b"\x20\x03\x00\x89\x00", ReasonCode::SERVER_BUSY),
    ] {
        let mut client = Scripted::new(options(version));
        client.core.connect(client.now).expect("detached");
        client.receive(connack);
        let events = client.events();
        assert!(matches!(&events[..], [Event::Refused { reason, .. }] if *reason == expected), "{events:?}");
        assert!(!client.core.is_attached());
        // The end of the transport that follows is no second event.
        client.core.handle_closed(client.now);
        assert!(client.events().is_empty());
    }
}

#[test]
fn no_connack_in_time_ends_the_attempt() {
    let mut client = Scripted::new(options(Version::V5));
    client.core.connect(client.now).expect("detached");
    client.advance(Duration::from_secs(9));
    client.core.handle_timeout(client.now);
    assert!(client.events().is_empty());
    client.advance_to_timer();
    assert_eq!(client.events(), [Event::Disconnected(Closed::ConnectTimeout)]);
    assert_eq!(client.core.poll_timeout(), None);
}

#[test]
fn silence_is_broken_by_a_ping_and_a_pong_keeps_the_connection() {
    let mut client = Scripted::connected(options(Version::V311), CONNACK_V3);
    client.advance(Duration::from_secs(30));
    client.core.publish(client.now, &Publish::new("t", "m")).expect("room");
    client.sent();
    client.events();
    // What was sent counts: the next ping is due 60 s after it.
    assert_eq!(client.core.poll_timeout(), Some(client.now + Duration::from_secs(60)));
    client.advance_to_timer();
    assert_eq!(&client.sent()[..], b"\xC0\x00");
    client.receive(b"\xD0\x00");
    assert_eq!(client.events(), [Event::Pong]);
    assert_eq!(client.core.poll_timeout(), Some(client.now + Duration::from_secs(60)));
}

#[test]
fn a_server_that_answers_no_ping_is_given_up() {
    let mut client = Scripted::connected(options(Version::V5), CONNACK_V5);
    client.advance_to_timer();
    assert_eq!(&client.sent()[..], b"\xC0\x00");
    // A part of a packet shows that it lives.
    client.advance(Duration::from_secs(9));
    client.receive(b"\x30");
    assert_eq!(client.core.poll_timeout(), Some(client.now + Duration::from_secs(10)));
    client.advance_to_timer();
    assert_eq!(client.events(), [Event::Disconnected(Closed::PongTimeout)]);
    // Without a DISCONNECT the server publishes the will.
    assert!(client.sent().is_empty());
}

#[test]
fn keep_alive_of_zero_never_pings() {
    let client = Scripted::connected(Options { keep_alive_s: 0, ..options(Version::V311) }, CONNACK_V3);
    assert_eq!(client.core.poll_timeout(), None);
}

#[test]
fn one_ping_at_a_time_and_a_pong_that_nobody_asked_for_is_counted() {
    let mut client = Scripted::connected(options(Version::V311), CONNACK_V3);
    client.core.ping(client.now).expect("connected");
    assert_eq!(client.core.ping(client.now), Err(Refusal::Full));
    client.receive(b"\xD0\x00\xD0\x00");
    assert_eq!(client.events(), [Event::Pong]);
    assert_eq!(client.core.counters().strays_in, 1);
}

#[test]
fn leaving_writes_a_disconnect_after_what_was_published() {
    let mut client = Scripted::connected(options(Version::V311), CONNACK_V3);
    let token = client.core.publish(client.now, &Publish::new("t", "m")).expect("room");
    client.core.disconnect(client.now, ReasonCode::NORMAL_DISCONNECTION).expect("connected");
    assert_eq!(&client.sent()[..], b"\x30\x04\x00\x01tm\xE0\x00");
    let by_us = Event::Disconnected(Closed::ByUs { reason: ReasonCode::NORMAL_DISCONNECTION });
    assert_eq!(client.events(), [by_us, Event::PublishDone { token, reason: ReasonCode::SUCCESS }]);
    assert_eq!(client.core.publish(client.now, &Publish::new("t", "m")), Err(Refusal::NotConnected));
}

#[test]
fn a_disconnect_that_keeps_the_will() {
    let mut v5 = Scripted::connected(options(Version::V5), CONNACK_V5);
    v5.core.disconnect(v5.now, ReasonCode::DISCONNECT_WITH_WILL).expect("connected");
    assert_eq!(&v5.sent()[..2], b"\xE0\x01");
    // MQTT 3.x has no such DISCONNECT: the transport just ends.
    let mut v3 = Scripted::connected(options(Version::V311), CONNACK_V3);
    v3.core.disconnect(v3.now, ReasonCode::DISCONNECT_WITH_WILL).expect("connected");
    assert!(v3.sent().is_empty());
}

#[test]
fn a_session_expiry_cannot_be_raised_from_zero() {
    let mut client = Scripted::connected(options(Version::V5), CONNACK_V5);
    let farewell = Farewell { reason: ReasonCode::NORMAL_DISCONNECTION, session_expiry_s: Some(10) };
    let refusal = client.core.disconnect(client.now, farewell);
    assert_eq!(refusal, Err(Refusal::NotAllowed(ReasonCode::PROTOCOL_ERROR)));
    let refusal = client.core.disconnect(client.now, ReasonCode::SESSION_TAKEN_OVER);
    assert_eq!(refusal, Err(Refusal::NotAllowed(ReasonCode::SESSION_TAKEN_OVER)));
    assert!(client.core.is_connected());
}

#[test]
fn the_server_disconnects_with_a_reason() {
    let mut client = Scripted::connected(options(Version::V5), CONNACK_V5);
    client.receive(b"\xE0\x02\x8E\x00");
    let events = client.events();
    let [Event::Disconnected(Closed::ByServer { reason, .. })] = &events[..] else { panic!("{events:?}") };
    assert_eq!(*reason, ReasonCode::SESSION_TAKEN_OVER);
    assert!(client.sent().is_empty());
}

#[test]
fn what_the_server_does_wrong_ends_the_connection_and_is_told_in_version_5() {
    let wrong: [(&[u8], ReasonCode); 9] = [
        (b"\x20\x03\x00\x00\x00", ReasonCode::PROTOCOL_ERROR), // a second CONNACK
        (b"\xC0\x00", ReasonCode::PROTOCOL_ERROR),             // PINGREQ
        (b"\x00\x00", ReasonCode::MALFORMED_PACKET),           // reserved type
        (b"\x36\x06\x00\x01t\x00\x01\x00", ReasonCode::MALFORMED_PACKET), // QoS 3
        (b"\x30\xFF\xFF\xFF\x7F", ReasonCode::PACKET_TOO_LARGE), // 256 MiB announced
        (b"\x30\x04\x00\x01#\x00", ReasonCode::TOPIC_NAME_INVALID), // a wildcard in a name
        (b"\x30\x06\x00\x00\x03\x23\x00\x01", ReasonCode::PROTOCOL_ERROR), // an alias never defined
        (b"\x30\x07\x00\x01t\x03\x23\x00\x11", ReasonCode::TOPIC_ALIAS_INVALID), // alias 17 of 16
        (b"\xF0\x02\x18\x00", ReasonCode::PROTOCOL_ERROR),     // AUTH without a method agreed on
    ];
    for (bytes, expected) in wrong {
        let mut client = Scripted::connected(options(Version::V5), CONNACK_V5);
        client.receive(bytes);
        let events = client.events();
        let [Event::Disconnected(Closed::Violation(violation))] = &events[..] else { panic!("{events:?}") };
        assert_eq!(violation.reason, expected, "{bytes:02X?}: {violation}");
        assert_eq!(&client.sent()[..3], [0xE0, 0x01, expected.as_u8()], "{bytes:02X?}");
        // What comes after is taken and ignored.
        client.receive(b"\x30\x04\x00\x01tm");
        assert!(client.events().is_empty());
    }
}

#[test]
fn version_3_has_no_words_for_a_violation() {
    let mut client = Scripted::connected(options(Version::V311), CONNACK_V3);
    client.receive(b"\xC0\x00");
    assert!(matches!(client.event(), Event::Disconnected(Closed::Violation(_))));
    assert!(client.sent().is_empty());
}

#[test]
fn nothing_but_connack_may_come_first() {
    for bytes in [&b"\x30\x05\x00\x01t\x00m"[..], b"\xD0\x00", b"\xE0\x02\x89\x00"] {
        let mut client = Scripted::new(options(Version::V5));
        client.core.connect(client.now).expect("detached");
        client.receive(bytes);
        assert!(matches!(client.event(), Event::Disconnected(Closed::Violation(_))));
    }
}

#[test]
fn a_session_after_a_clean_start_is_a_violation() {
    let mut client = Scripted::new(options(Version::V311));
    client.core.connect(client.now).expect("detached");
    client.receive(b"\x20\x02\x01\x00");
    assert!(matches!(client.event(), Event::Disconnected(Closed::Violation(_))));
}

#[test]
fn the_end_of_the_transport_is_reported_once() {
    let mut client = Scripted::connected(options(Version::V311), CONNACK_V3);
    let token = client.core.publish(client.now, &Publish::new("t", "m")).expect("room");
    client.core.handle_closed(client.now);
    assert_eq!(client.events(), [Event::Lost { token }, Event::Disconnected(Closed::Transport)]);
    client.core.handle_closed(client.now);
    assert!(client.events().is_empty() && client.sent().is_empty());
}

#[test]
fn options_that_cannot_be_expressed_are_refused_before_a_byte_is_written() {
    let mut client =
        Scripted::new(Options { client_id: Text::from("x".repeat(70_000)), ..options(Version::V5) });
    assert!(matches!(client.core.connect(client.now), Err(Refusal::Encode(_))));
    assert!(client.sent().is_empty() && !client.core.is_attached());
}
