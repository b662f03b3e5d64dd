//! CONNECT.

use crate::*;
use DecodeErrorKind::*;

fn connect(packet: &[u8]) -> Connect<'_> {
    match decode(packet, Version::V5, Sender::Client, &Limits::default()) {
        Ok(Packet::Connect(connect)) => connect,
        other => panic!("{other:?}"),
    }
}

// Covers 5.0: 3.1.2-1 3.1.2-2
// Covers 3.1.1: 3.1.2-1 3.1.2-2
#[test]
fn protocol_name_and_level_go_together() {
    let unsupported = (UnsupportedProtocol, ReasonCode::UNSUPPORTED_PROTOCOL_VERSION);
    let bodies: [(&[u8], Option<Version>); 12] = [
        (b"\0\x04MQTT\x06\x02\0\0\0\0\0", Some(Version::V5)),
        (b"\0\x04MQTT\x7F\x02\0\0\0\0\0", Some(Version::V5)),
        (b"\0\x04MQTT\x03\x02\0\0\0\0", Some(Version::V311)),
        (b"\0\x04MQTT\0\x02\0\0\0\0", Some(Version::V311)),
        (b"\0\x04MQTT\x84\x02\0\0\0\0", Some(Version::V311)),
        (b"\0\x04MQTT\xFF\x02\0\0\0\0", Some(Version::V311)),
        (b"\0\x06MQIsdp\x04\x02\0\0\0\0", Some(Version::V311)),
        (b"\0\x06MQIsdp\x83\x02\0\0\0\0", Some(Version::V311)),
        (b"\0\x04mqtt\x04\x02\0\0\0\0", None),
        (b"\0\x04MQTX\x05\x02\0\0\0\0\0", None),
        (b"\0\x05MQTT5\x05\x02\0\0\0\0\0", None),
        (b"\0\0\x04\x02\0\0\0\0", None),
    ];
    for (body, answer) in bodies {
        let packet = framed(0x10, body);
        let error =
            decode(&packet, Version::V5, Sender::Client, &Limits::default()).expect_err("unsupported");
        assert_eq!((error.kind(), error.reason_code()), unsupported, "{body:02x?}");
        assert_eq!(connect_answer_version(&packet), answer, "{body:02x?}");
    }
    assert_eq!(ReasonCode::UNSUPPORTED_PROTOCOL_VERSION.to_connack_v3(), 1);
}

#[test]
fn a_refused_connect_is_answered_in_its_own_version() {
    for (body, version) in [
        (&b"\0\x06MQIsdp\x03\x03"[..], Version::V31),
        (b"\0\x04MQTT\x04\x03", Version::V311),
        (b"\0\x04MQTT\x05\x03", Version::V5),
    ] {
        assert_eq!(connect_answer_version(&framed(0x10, body)), Some(version));
    }
    for body in [&b""[..], b"\0", b"\0\x04", b"\0\x04MQT", b"\0\x04MQTT"] {
        assert_eq!(connect_answer_version(&framed(0x10, body)), None);
    }
    for first in [0x00, 0x11, 0x30, 0x3D, 0x82, 0xC0, 0xE0, 0xF0] {
        assert_eq!(
            connect_answer_version(&framed(first, b"\0\x04MQTT\x05\x02\0\0\0\0\0")),
            None,
            "{first:#04x}"
        );
    }
    assert_eq!(connect_answer_version(b""), None);
    assert_eq!(connect_answer_version(b"\x10\xFF\xFF\xFF\xFF\xFF"), None);
}

// Covers 5.0: 3.1.2-3 3.1.2-11 3.1.2-12 3.1.2-13
// Covers 3.1.1: 3.1.2-3 3.1.2-13 3.1.2-14 3.1.2-15 3.1.2-22
#[test]
fn connect_flags() {
    assert_refused(&[
        ("reserved flag, 3.1", C311, 0x10, b"\0\x06MQIsdp\x03\x03\0\0\0\x01a", ReservedBits, MALFORMED),
        ("reserved flag, 3.1.1", C311, 0x10, b"\0\x04MQTT\x04\x03\0\0\0\x01a", ReservedBits, MALFORMED),
        ("reserved flag, 5.0", C5, 0x10, b"\0\x04MQTT\x05\x03\0\0\0\0\x01a", ReservedBits, MALFORMED),
        ("will QoS 1 without will", C311, 0x10, b"\0\x04MQTT\x04\x0A\0\0\0\x01a", Malformed, MALFORMED),
        ("will QoS 2 without will", C5, 0x10, b"\0\x04MQTT\x05\x12\0\0\0\0\x01a", Malformed, MALFORMED),
        ("will retain without will", C311, 0x10, b"\0\x04MQTT\x04\x22\0\0\0\x01a", Malformed, MALFORMED),
        ("will retain without will, 5.0", C5, 0x10, b"\0\x04MQTT\x05\x22\0\0\0\0\x01a", Malformed, MALFORMED),
        ("will QoS 3", C311, 0x10, b"\0\x04MQTT\x04\x1E\0\0\0\x01a\0\x01t\0\0", Malformed, MALFORMED),
        ("will QoS 3, 5.0", C5, 0x10, b"\0\x04MQTT\x05\x1E\0\0\0\0\x01a\0\0\x01t\0\0", Malformed, MALFORMED),
        ("password alone, 3.1", C31, 0x10, b"\0\x06MQIsdp\x03\x42\0\0\0\x01a\0\x01p", Malformed, MALFORMED),
        ("password alone, 3.1.1", C311, 0x10, b"\0\x04MQTT\x04\x42\0\0\0\x01a\0\x01p", Malformed, MALFORMED),
    ]);
    assert_accepted(&[("password alone, 5.0", C5, 0x10, b"\0\x04MQTT\x05\x42\0\0\0\0\x01a\0\x01p")]);
}

// Covers 5.0: 3.1.2-9 3.1.2-16 3.1.2-17 3.1.2-18 3.1.2-19 3.1.3-3
// Covers 3.1.1: 3.1.2-9 3.1.2-11 3.1.2-18 3.1.2-19 3.1.2-20 3.1.2-21 3.1.3-3
#[test]
fn what_the_flags_announce_must_be_there_and_nothing_else() {
    assert_refused(&[
        ("no body", C311, 0x10, b"", Truncated, MALFORMED),
        ("only the name", C311, 0x10, b"\0\x04MQTT", Truncated, MALFORMED),
        ("name longer than the packet", C311, 0x10, b"\0\x40MQTT", Truncated, MALFORMED),
        ("no flags", C311, 0x10, b"\0\x04MQTT\x04", Truncated, MALFORMED),
        ("half a keep alive", C311, 0x10, b"\0\x04MQTT\x04\x02\0", Truncated, MALFORMED),
        ("no client identifier", C311, 0x10, b"\0\x04MQTT\x04\x02\0\0", Truncated, MALFORMED),
        ("client identifier cut off", C311, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\x02a", Truncated, MALFORMED),
        ("no will topic", C311, 0x10, b"\0\x04MQTT\x04\x06\0\0\0\x01a", Truncated, MALFORMED),
        ("no will payload", C311, 0x10, b"\0\x04MQTT\x04\x06\0\0\0\x01a\0\x01t", Truncated, MALFORMED),
        ("no user name", C311, 0x10, b"\0\x04MQTT\x04\x82\0\0\0\x01a", Truncated, MALFORMED),
        ("no password", C311, 0x10, b"\0\x04MQTT\x04\xC2\0\0\0\x01a\0\x01u", Truncated, MALFORMED),
        ("no user name, 5.0", C5, 0x10, b"\0\x04MQTT\x05\x82\0\0\0\0\x01a", Truncated, MALFORMED),
        ("one byte more", C311, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01a!", TrailingBytes, MALFORMED),
        (
            "user name not announced",
            C311,
            0x10,
            b"\0\x04MQTT\x04\x02\0\0\0\x01a\0\x01u",
            TrailingBytes,
            MALFORMED,
        ),
        ("half a user name, 3.1", C31, 0x10, b"\0\x06MQIsdp\x03\x82\0\0\0\x01a\0", Truncated, MALFORMED),
        ("no property length", C5, 0x10, b"\0\x04MQTT\x05\x02\0\0", Truncated, MALFORMED),
    ]);
}

#[test]
fn in_3_1_the_length_overrules_the_flags_for_credentials() {
    let packet = framed(0x10, b"\0\x06MQIsdp\x03\xC2\0\0\0\x01a");
    assert_eq!((connect(&packet).user_name, connect(&packet).password), (None, None));
    let packet = framed(0x10, b"\0\x06MQIsdp\x03\xC2\0\0\0\x01a\0\x01u");
    assert_eq!((connect(&packet).user_name, connect(&packet).password), (Some("u"), None));
}

// Covers 5.0: 1.5.4-1 1.5.4-2 1.5.4-3 3.1.3-4 3.1.3-12
// Covers 3.1.1: 1.5.3-1 1.5.3-2 1.5.3-3 3.1.3-4 3.1.3-11
#[test]
fn text_is_well_formed_utf_8_without_nul() {
    assert_refused(&[
        ("NUL in client identifier", C311, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\x03a\0b", Nul, MALFORMED),
        ("surrogate", C311, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\x03\xED\xA0\x80", NotUtf8, MALFORMED),
        ("second surrogate", C5, 0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\x03\xED\xBF\xBF", NotUtf8, MALFORMED),
        ("overlong", C311, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\x02\xC0\xAF", NotUtf8, MALFORMED),
        ("overlong NUL", C311, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\x02\xC0\x80", NotUtf8, MALFORMED),
        ("above U+10FFFF", C311, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\x04\xF4\x90\x80\x80", NotUtf8, MALFORMED),
        ("half a character", C311, 0x10, b"\0\x04MQTT\x04\x02\0\0\0\x01\xC3", NotUtf8, MALFORMED),
        ("user name", C311, 0x10, b"\0\x04MQTT\x04\x82\0\0\0\x01a\0\x01\xFF", NotUtf8, MALFORMED),
        ("NUL in user name", C311, 0x10, b"\0\x04MQTT\x04\x82\0\0\0\x01a\0\x01\0", Nul, MALFORMED),
    ]);
    let packet = framed(0x10, b"\0\x04MQTT\x04\x02\0\0\0\x06\xEF\xBB\xBF\x01\x7Fx");
    assert_eq!(connect(&packet).client_id, "\u{FEFF}\u{1}\u{7F}x");
}

#[test]
fn the_password_is_binary() {
    let packet = framed(0x10, b"\0\x04MQTT\x04\xC2\0\0\0\x01a\0\x01u\0\x03\xFF\0\xFE");
    assert_eq!(connect(&packet).password, Some(&b"\xFF\0\xFE"[..]));
}

#[test]
fn client_identifiers_of_any_length_decode_and_the_session_decides() {
    // Empty without a clean session: the server answers 0x85 (or 2), so the packet has to come through.
    let packet = framed(0x10, b"\0\x04MQTT\x04\0\0\0\0\0");
    assert_eq!((connect(&packet).client_id, connect(&packet).clean_start), ("", false));
    let packet = framed(0x10, b"\0\x06MQIsdp\x03\x02\0\0\0\0");
    assert_eq!(connect(&packet).client_id, "");
    for (head, len) in [(&b"\0\x06MQIsdp\x03\x02\0\0"[..], 24_u16), (b"\0\x04MQTT\x04\x02\0\0", 65_535)] {
        let id = "x".repeat(usize::from(len));
        let packet = framed(0x10, &[head, &len.to_be_bytes(), id.as_bytes()].concat());
        assert_eq!(connect(&packet).client_id, id);
    }
}

// Covers 5.0: 3.1.3-11
// Covers 3.1.1: 3.1.3-10
#[test]
fn the_will_topic_is_a_topic_name() {
    let name = ReasonCode::TOPIC_NAME_INVALID;
    assert_refused(&[
        ("empty", C311, 0x10, b"\0\x04MQTT\x04\x06\0\0\0\x01a\0\0\0\0", Topic(TopicError::Empty), name),
        ("plus", C311, 0x10, b"\0\x04MQTT\x04\x06\0\0\0\x01a\0\x01+\0\0", Topic(TopicError::Wildcard), name),
        (
            "hash",
            C5,
            0x10,
            b"\0\x04MQTT\x05\x06\0\0\0\0\x01a\0\0\x03a/#\0\0",
            Topic(TopicError::Wildcard),
            name,
        ),
        (
            "NUL",
            C5,
            0x10,
            b"\0\x04MQTT\x05\x06\0\0\0\0\x01a\0\0\x01\0\0\0",
            Topic(TopicError::Nul),
            MALFORMED,
        ),
        ("not UTF-8", C311, 0x10, b"\0\x04MQTT\x04\x06\0\0\0\x01a\0\x01\xFF\0\0", NotUtf8, MALFORMED),
    ]);
}

/// A CONNECT of 5.0 with a property section and the client identifier `a`.
fn with_properties(section: &[u8]) -> Vec<u8> {
    [b"\0\x04MQTT\x05\x02\0\0", &[section.len() as u8][..], section, b"\0\x01a"].concat()
}

#[test]
fn properties() {
    let cases: [(&str, &[u8], DecodeErrorKind, ReasonCode); 28] = [
        ("request problem information 2", b"\x17\x02", Forbidden, PROTOCOL),
        ("request response information 2", b"\x19\x02", Forbidden, PROTOCOL),
        ("receive maximum 0", b"\x21\0\0", Zero, PROTOCOL),
        ("maximum packet size 0", b"\x27\0\0\0\0", Zero, PROTOCOL),
        ("session expiry twice", b"\x11\0\0\0\x01\x11\0\0\0\x01", DuplicateProperty, PROTOCOL),
        ("receive maximum twice", b"\x21\0\x01\x21\0\x01", DuplicateProperty, PROTOCOL),
        ("maximum packet size twice", b"\x27\0\0\0\x01\x27\0\0\0\x01", DuplicateProperty, PROTOCOL),
        ("topic alias maximum twice", b"\x22\0\0\x22\0\0", DuplicateProperty, PROTOCOL),
        ("request problem information twice", b"\x17\x01\x17\x01", DuplicateProperty, PROTOCOL),
        ("request response information twice", b"\x19\0\x19\0", DuplicateProperty, PROTOCOL),
        ("authentication method twice", b"\x15\0\x01m\x15\0\x01m", DuplicateProperty, PROTOCOL),
        ("authentication data twice", b"\x15\0\x01m\x16\0\0\x16\0\0", DuplicateProperty, PROTOCOL),
        ("authentication data without method", b"\x16\0\x01d", Missing, PROTOCOL),
        ("topic alias", b"\x23\0\x01", PropertyNotAllowed, MALFORMED),
        ("will delay outside the will", b"\x18\0\0\0\x01", PropertyNotAllowed, MALFORMED),
        ("payload format", b"\x01\x01", PropertyNotAllowed, MALFORMED),
        ("subscription identifier", b"\x0B\x01", PropertyNotAllowed, MALFORMED),
        ("reason string", b"\x1F\0\0", PropertyNotAllowed, MALFORMED),
        ("server keep alive", b"\x13\0\x01", PropertyNotAllowed, MALFORMED),
        ("maximum QoS", b"\x24\x01", PropertyNotAllowed, MALFORMED),
        ("identifier 0", b"\0\0", UnknownProperty, MALFORMED),
        ("identifier 4", b"\x04\0", UnknownProperty, MALFORMED),
        ("identifier 43", b"\x2B\0", UnknownProperty, MALFORMED),
        ("identifier of two bytes", b"\x91\0\0\0\0\x01", UnknownProperty, MALFORMED),
        ("session expiry cut off by the section", b"\x11\0\0\0", Truncated, MALFORMED),
        ("text cut off by the section", b"\x15\0\x05met", Truncated, MALFORMED),
        ("key without value", b"\x26\0\x01k", Truncated, MALFORMED),
        ("user property with NUL", b"\x26\0\x01k\0\x01\0", Nul, MALFORMED),
    ];
    for (what, section, kind, reason) in cases {
        assert_refused(&[(what, C5, 0x10, &with_properties(section), kind, reason)]);
    }
}

// Covers 5.0: 1.5.5-1
#[test]
fn the_property_length_is_minimal_and_within_the_packet() {
    assert_refused(&[
        ("too long", C5, 0x10, b"\0\x04MQTT\x05\x02\0\0\x40\0\x01a", Truncated, MALFORMED),
        ("padded", C5, 0x10, b"\0\x04MQTT\x05\x02\0\0\x80\0\0\x01a", VarIntNotMinimal, MALFORMED),
        (
            "five bytes",
            C5,
            0x10,
            b"\0\x04MQTT\x05\x02\0\0\x80\x80\x80\x80\x01\0\x01a",
            VarIntTooLong,
            MALFORMED,
        ),
        ("cut off", C5, 0x10, b"\0\x04MQTT\x05\x02\0\0\x80", Truncated, MALFORMED),
    ]);
}

#[test]
fn every_property_there_is() {
    let packet = framed(
        0x10,
        &with_properties(
            b"\x11\xFF\xFF\xFF\xFF\x21\0\x14\x27\0\0\x10\0\x22\0\x0A\x19\x01\x17\0\x15\0\x01m\x16\0\x02\xFF\0\
              \x26\0\x01k\0\x01v\x26\0\x01k\0\x01w",
        ),
    );
    let connect = connect(&packet);
    assert_eq!(connect.session_expiry_s, Some(u32::MAX));
    assert_eq!(connect.receive_max.map(|max| max.get()), Some(20));
    assert_eq!(connect.packet_bytes_max.map(|max| max.get()), Some(4096));
    assert_eq!(connect.topic_alias_max, Some(10));
    assert_eq!(connect.request_response_information, Some(true));
    assert_eq!(connect.request_problem_information, Some(false));
    assert_eq!(
        (connect.authentication_method, connect.authentication_data),
        (Some("m"), Some(&b"\xFF\0"[..]))
    );
    assert_eq!(connect.user_properties.iter().collect::<Vec<_>>(), [("k", "v"), ("k", "w")]);
}

/// A CONNECT of 5.0 with a will (QoS 1, retain, topic `t`, payload `p`) and its property section.
fn with_will_properties(section: &[u8]) -> Vec<u8> {
    [b"\0\x04MQTT\x05\x2E\0\0\0\0\x01a", &[section.len() as u8][..], section, b"\0\x01t\0\x01p"].concat()
}

#[test]
fn will_properties() {
    let cases: [(&str, &[u8], DecodeErrorKind, ReasonCode); 14] = [
        ("payload format 2", b"\x01\x02", Forbidden, PROTOCOL),
        ("payload format twice", b"\x01\x01\x01\x01", DuplicateProperty, PROTOCOL),
        ("will delay twice", b"\x18\0\0\0\0\x18\0\0\0\0", DuplicateProperty, PROTOCOL),
        ("message expiry twice", b"\x02\0\0\0\0\x02\0\0\0\0", DuplicateProperty, PROTOCOL),
        ("content type twice", b"\x03\0\0\x03\0\0", DuplicateProperty, PROTOCOL),
        ("response topic twice", b"\x08\0\x01r\x08\0\x01r", DuplicateProperty, PROTOCOL),
        ("correlation data twice", b"\x09\0\0\x09\0\0", DuplicateProperty, PROTOCOL),
        ("response topic with wildcard", b"\x08\0\x01#", ResponseTopic(TopicError::Wildcard), PROTOCOL),
        ("empty response topic", b"\x08\0\0", ResponseTopic(TopicError::Empty), PROTOCOL),
        ("response topic with NUL", b"\x08\0\x01\0", ResponseTopic(TopicError::Nul), MALFORMED),
        ("topic alias", b"\x23\0\x01", PropertyNotAllowed, MALFORMED),
        ("subscription identifier", b"\x0B\x01", PropertyNotAllowed, MALFORMED),
        ("session expiry", b"\x11\0\0\0\0", PropertyNotAllowed, MALFORMED),
        ("content type not UTF-8", b"\x03\0\x01\xFF", NotUtf8, MALFORMED),
    ];
    for (what, section, kind, reason) in cases {
        assert_refused(&[(what, C5, 0x10, &with_will_properties(section), kind, reason)]);
    }
    let section =
        b"\x18\0\0\0\x05\x01\x01\x02\0\0\0\x3C\x03\0\x01c\x08\0\x01r\x09\0\x01\xFF\x26\0\x01k\0\x01v";
    let packet = framed(0x10, &with_will_properties(section));
    let will = connect(&packet).will.expect("a will");
    assert_eq!(
        (will.topic.as_str(), will.payload, will.qos, will.retain),
        ("t", &b"p"[..], QoS::AtLeastOnce, true)
    );
    assert_eq!((will.delay_s, will.message_expiry_s, will.payload_is_utf8), (5, Some(60), Some(true)));
    assert_eq!((will.content_type, will.correlation_data), (Some("c"), Some(&b"\xFF"[..])));
    assert_eq!(will.response_topic.map(TopicName::as_str), Some("r"));
    assert_eq!(will.user_properties.len(), 1);
}

#[test]
fn too_many_user_properties_are_a_quota_and_not_a_fault() {
    let limits = Limits { user_properties_max: 2, ..Limits::default() };
    let packet = framed(0x10, &with_properties(&b"\x26\0\0\0\0".repeat(3)));
    let error = decode(&packet, Version::V5, Sender::Client, &limits).expect_err("three");
    assert_eq!((error.kind(), error.reason_code()), (TooMany, ReasonCode::QUOTA_EXCEEDED));
    let packet = framed(0x10, &with_properties(&b"\x26\0\0\0\0".repeat(2)));
    assert!(decode(&packet, Version::V5, Sender::Client, &limits).is_ok());
}
