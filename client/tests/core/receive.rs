//! The server's messages: acknowledgements, duplicates, aliases, and packets in pieces.

use std::num::NonZeroU16;

use crate::scripted::{CONNACK_V3, CONNACK_V3_PRESENT, CONNACK_V5, Scripted, options};
use quelea_client::{AckToken, Acks, Bounds, Closed, Event, Message, Options, Refusal};
use quelea_mqtt::{QoS, ReasonCode, Version};

fn messages(client: &mut Scripted) -> Vec<Message> {
    client
        .events()
        .into_iter()
        .map(|event| match event {
            Event::Message(message) => message,
            other => panic!("a message was expected, not {other:?}"),
        })
        .collect()
}

fn payloads(client: &mut Scripted) -> Vec<String> {
    messages(client).iter().map(|message| String::from_utf8_lossy(&message.payload).into_owned()).collect()
}

fn manual(version: Version) -> Options {
    Options { acks: Acks::Manual, ..options(version) }
}

fn acks(client: &mut Scripted) -> Vec<AckToken> {
    messages(client).iter().map(|message| message.ack.expect("to be acknowledged")).collect()
}

#[test]
fn a_message_carries_all_that_its_packet_says() {
    let mut client = Scripted::connected(options(Version::V5), CONNACK_V5);
    // DUP, QoS 1, retain; topic "a/b", id 7; format 1, expiry 5, content type "x", subscription ids 3 and 200, user pair k=v.
    let head = b"\x3B\x21\x00\x03a/b\x00\x07\x17";
    let properties = b"\x01\x01\x02\x00\x00\x00\x05\x03\x00\x01x\x0B\x03\x0B\xC8\x01\x26\x00\x01k\x00\x01v";
    client.receive(&[&head[..], properties, b"hi"].concat());
    let [message] = &messages(&mut client)[..] else { panic!("one message") };
    assert_eq!(message.topic, "a/b");
    assert_eq!(&message.payload[..], b"hi");
    assert!(message.dup && message.retain && message.qos == QoS::AtLeastOnce);
    assert_eq!(message.packet_id.map(NonZeroU16::get), Some(7));
    assert_eq!(message.subscription_ids[..], [3, 200]);
    let properties = message.properties();
    assert_eq!(properties.payload_is_utf8, Some(true));
    assert_eq!(properties.message_expiry_s, Some(5));
    assert_eq!(properties.content_type.as_deref(), Some("x"));
    assert_eq!(properties.user_properties, [("k".into(), "v".into())]);
    assert_eq!(&client.sent()[..], b"\x40\x02\x00\x07");
}

#[test]
fn qos_2_is_one_event_however_often_it_comes() {
    let mut client = Scripted::connected(options(Version::V311), CONNACK_V3);
    client.receive(b"\x34\x06\x00\x01t\x00\x05m");
    assert_eq!(&client.sent()[..], b"\x50\x02\x00\x05");
    client.receive(b"\x3C\x06\x00\x01t\x00\x05m");
    assert_eq!(&client.sent()[..], b"\x50\x02\x00\x05");
    client.receive(b"\x62\x02\x00\x05");
    assert_eq!(&client.sent()[..], b"\x70\x02\x00\x05");
    assert_eq!(payloads(&mut client), ["m"]);
    assert_eq!(client.core.counters().duplicates_in, 1);
    // Released, the identifier names a new message.
    client.receive(b"\x34\x06\x00\x01t\x00\x05n");
    assert_eq!(payloads(&mut client), ["n"]);
}

#[test]
fn qos_2_identifiers_outlive_the_connection_if_the_session_does() {
    let options = Options { clean_start: false, ..options(Version::V311) };
    for (connack, expected) in [(CONNACK_V3_PRESENT, &[][..]), (CONNACK_V3, &["m"][..])] {
        let mut client = Scripted::connected(options.clone(), CONNACK_V3);
        client.receive(b"\x34\x06\x00\x01t\x00\x05m");
        client.core.handle_closed(client.now);
        client.events();
        client.reconnect(connack);
        client.receive(b"\x3C\x06\x00\x01t\x00\x05m");
        assert_eq!(payloads(&mut client), expected);
        client.receive(b"\x62\x02\x00\x05");
        assert_eq!(&client.sent()[..], b"\x50\x02\x00\x05\x70\x02\x00\x05");
    }
}

#[test]
fn an_unknown_pubrel_is_completed_with_a_reason() {
    let mut v5 = Scripted::connected(options(Version::V5), CONNACK_V5);
    v5.receive(b"\x62\x02\x00\x09");
    assert_eq!(&v5.sent()[..], b"\x70\x03\x00\x09\x92");
    let mut v3 = Scripted::connected(options(Version::V311), CONNACK_V3);
    v3.receive(b"\x62\x02\x00\x09");
    assert_eq!(&v3.sent()[..], b"\x70\x02\x00\x09");
}

#[test]
fn manual_acknowledgements_leave_in_the_order_of_the_messages() {
    let mut client = Scripted::connected(manual(Version::V311), CONNACK_V3);
    client.receive(b"\x32\x06\x00\x01t\x00\x01a\x34\x06\x00\x01t\x00\x02b\x32\x06\x00\x01t\x00\x03c");
    let acks = acks(&mut client);
    client.core.ack(client.now, acks[2]).expect("waiting");
    client.core.ack(client.now, acks[1]).expect("waiting");
    assert!(client.sent().is_empty());
    client.core.ack(client.now, acks[0]).expect("waiting");
    assert_eq!(&client.sent()[..], b"\x40\x02\x00\x01\x50\x02\x00\x02\x40\x02\x00\x03");
    assert_eq!(client.core.ack(client.now, acks[0]), Err(Refusal::Stale));
}

#[test]
fn a_token_of_an_earlier_message_with_the_same_identifier_is_stale() {
    let mut client = Scripted::connected(manual(Version::V311), CONNACK_V3);
    client.receive(b"\x32\x06\x00\x01t\x00\x01a");
    let first = acks(&mut client)[0];
    client.core.ack(client.now, first).expect("waiting");
    client.receive(b"\x32\x06\x00\x01t\x00\x01b");
    assert_eq!(client.core.ack(client.now, first), Err(Refusal::Stale));
}

#[test]
fn qos_1_that_was_not_acknowledged_comes_again_after_a_reconnect() {
    let mut client = Scripted::connected(Options { clean_start: false, ..manual(Version::V311) }, CONNACK_V3);
    client.receive(b"\x32\x06\x00\x01t\x00\x01a");
    let before = acks(&mut client)[0];
    client.core.handle_closed(client.now);
    client.events();
    client.reconnect(CONNACK_V3_PRESENT);
    assert_eq!(client.core.ack(client.now, before), Err(Refusal::Stale));
    client.receive(b"\x3A\x06\x00\x01t\x00\x01a");
    let again = acks(&mut client)[0];
    client.core.ack(client.now, again).expect("waiting");
    assert_eq!(&client.sent()[..], b"\x40\x02\x00\x01");
}

#[test]
fn qos_2_may_be_acknowledged_between_two_connections() {
    let mut client = Scripted::connected(Options { clean_start: false, ..manual(Version::V311) }, CONNACK_V3);
    client.receive(b"\x34\x06\x00\x01t\x00\x01a\x34\x06\x00\x01t\x00\x02b");
    let acks = acks(&mut client);
    client.core.handle_closed(client.now);
    client.events();
    client.core.ack(client.now, acks[1]).expect("still waiting");
    client.reconnect(CONNACK_V3_PRESENT);
    client.receive(b"\x3C\x06\x00\x01t\x00\x01a\x3C\x06\x00\x01t\x00\x02b");
    assert!(client.events().is_empty(), "neither is a second event");
    assert!(client.sent().is_empty(), "the first still waits for the application");
    client.core.ack(client.now, acks[0]).expect("still waiting");
    assert_eq!(&client.sent()[..], b"\x50\x02\x00\x01\x50\x02\x00\x02");
}

#[test]
fn more_than_our_receive_maximum_is_a_violation() {
    let bounds = Bounds { receive_max: NonZeroU16::new(2).expect("not zero"), ..Bounds::default() };
    let mut client = Scripted::connected(Options { bounds, ..manual(Version::V5) }, CONNACK_V5);
    client.receive(b"\x32\x07\x00\x01t\x00\x01\x00a\x34\x07\x00\x01t\x00\x02\x00b");
    let acks = acks(&mut client);
    client.core.ack(client.now, acks[0]).expect("waiting");
    client.receive(b"\x32\x07\x00\x01t\x00\x03\x00c");
    assert_eq!(payloads(&mut client), ["c"]);
    client.receive(b"\x32\x07\x00\x01t\x00\x04\x00d");
    let events = client.events();
    let [Event::Disconnected(Closed::Violation(violation))] = &events[..] else { panic!("{events:?}") };
    assert_eq!(violation.reason, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
}

#[test]
fn an_excess_is_only_counted_if_so_asked() {
    let bounds = Bounds { receive_max: NonZeroU16::MIN, ..Bounds::default() };
    let lenient = Options { bounds, receive_max_strict: false, ..manual(Version::V5) };
    let mut client = Scripted::connected(lenient, CONNACK_V5);
    client.receive(b"\x32\x07\x00\x01t\x00\x01\x00a\x32\x07\x00\x01t\x00\x02\x00b");
    assert_eq!(payloads(&mut client), ["a", "b"]);
    assert_eq!(client.core.counters().excess_in, 1);
}

#[test]
fn an_identifier_in_use_is_a_violation_unless_it_is_a_duplicate() {
    let mut client = Scripted::connected(manual(Version::V311), CONNACK_V3);
    client.receive(b"\x32\x06\x00\x01t\x00\x01a\x3A\x06\x00\x01t\x00\x01a");
    assert_eq!(payloads(&mut client), ["a"]);
    client.receive(b"\x32\x06\x00\x01t\x00\x01b");
    assert!(matches!(client.event(), Event::Disconnected(Closed::Violation(_))));
}

#[test]
fn an_alias_stands_for_its_topic_until_it_is_defined_anew_and_ends_with_the_connection() {
    let mut client = Scripted::connected(options(Version::V5), CONNACK_V5);
    client.receive(b"\x30\x07\x00\x01t\x03\x23\x00\x02\x30\x06\x00\x00\x03\x23\x00\x02");
    client.receive(b"\x30\x07\x00\x01u\x03\x23\x00\x02\x30\x06\x00\x00\x03\x23\x00\x02");
    let topics: Vec<String> = messages(&mut client).iter().map(|message| message.topic.to_string()).collect();
    assert_eq!(topics, ["t", "t", "u", "u"]);
    client.core.handle_closed(client.now);
    client.events();
    client.reconnect(CONNACK_V5);
    client.receive(b"\x30\x06\x00\x00\x03\x23\x00\x02");
    assert!(matches!(client.event(), Event::Disconnected(Closed::Violation(_))));
}

#[test]
fn packets_may_come_in_any_pieces() {
    let mut stream = Vec::new();
    for round in 0..5_u8 {
        stream.extend_from_slice(b"\x30\x04\x00\x01tm");
        let body = vec![round; 300];
        stream.extend_from_slice(&[0x32, 0xB1, 0x02, 0x00, 0x01, b't', 0x00, round + 1]);
        stream.extend_from_slice(&body);
    }
    let whole = {
        let mut client = Scripted::connected(options(Version::V311), CONNACK_V3);
        client.receive(&stream);
        (client.events(), client.sent())
    };
    assert_eq!(whole.0.len(), 10);
    for piece_bytes in [1, 2, 3, 5, 7, 100, 301, 311, 312] {
        let mut client = Scripted::connected(options(Version::V311), CONNACK_V3);
        for piece in stream.chunks(piece_bytes) {
            client.receive(piece);
        }
        assert_eq!((client.events(), client.sent()), whole, "pieces of {piece_bytes}");
    }
}

#[test]
fn a_full_event_queue_takes_no_more_bytes() {
    let bounds = Bounds { events_max: 3, ..Bounds::default() };
    let mut client = Scripted::connected(Options { bounds, ..options(Version::V311) }, CONNACK_V3);
    let stream = b"\x30\x04\x00\x01tm".repeat(10);
    let mut seen = 0;
    let mut rest = &stream[..];
    while !rest.is_empty() {
        let taken = client.core.handle_bytes(client.now, rest);
        assert_eq!(taken, rest.len().min(18));
        rest = &rest[taken..];
        let events = client.events();
        assert!(events.len() <= 3);
        seen += events.len();
    }
    assert_eq!(seen, 10);
}

#[test]
fn acknowledgements_that_nobody_writes_stop_the_reading() {
    let bounds = Bounds { output_bytes_max: 8, ..Bounds::default() };
    let mut client = Scripted::connected(Options { bounds, ..options(Version::V311) }, CONNACK_V3);
    let stream = b"\x62\x02\x00\x01".repeat(10);
    assert_eq!(client.core.handle_bytes(client.now, &stream), 8);
    assert_eq!(client.core.output_bytes(), 8);
    client.sent();
    assert_eq!(client.core.handle_bytes(client.now, &stream[8..]), 8);
}

#[test]
fn a_packet_above_our_maximum_is_refused_by_its_length_alone() {
    let bounds = Bounds { packet_bytes_max: 100, ..Bounds::default() };
    let mut client = Scripted::connected(Options { bounds, ..options(Version::V5) }, CONNACK_V5);
    client.receive(b"\x30\x63");
    let events = client.events();
    let [Event::Disconnected(Closed::Violation(violation))] = &events[..] else { panic!("{events:?}") };
    assert_eq!(violation.reason, ReasonCode::PACKET_TOO_LARGE);
}
