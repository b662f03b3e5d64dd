//! PUBLISH.

use crate::*;
use DecodeErrorKind::*;

// Covers 5.0: 2.2.1-2 2.2.1-3 3.3.1-4
// Covers 3.1.1: 2.3.1-1 2.3.1-5 3.3.1-4
#[test]
fn packet_identifier_and_flags() {
    for from in [C31, C311, S311] {
        assert_refused(&[
            ("packet identifier 0", from, 0x32, b"\0\x01t\0\0", Zero, PROTOCOL),
            ("packet identifier 0, QoS 2", from, 0x34, b"\0\x01t\0\0", Zero, PROTOCOL),
            ("no packet identifier", from, 0x32, b"\0\x01t", Truncated, MALFORMED),
            ("half a packet identifier", from, 0x32, b"\0\x01t\0", Truncated, MALFORMED),
            ("QoS 3", from, 0x36, b"\0\x01t\0\x01", Flags, MALFORMED),
            ("DUP with QoS 0", from, 0x38, b"\0\x01t", Flags, MALFORMED),
        ]);
    }
    assert_refused(&[
        ("packet identifier 0, 5.0", C5, 0x32, b"\0\x01t\0\0\0", Zero, PROTOCOL),
        ("QoS 3, 5.0", C5, 0x3E, b"\0\x01t\0\x01\0", Flags, MALFORMED),
        ("DUP with QoS 0, 5.0", S5, 0x39, b"\0\x01t\0", Flags, MALFORMED),
    ]);
    assert_accepted(&[
        ("QoS 0 has no packet identifier: these are its payload", C311, 0x30, b"\0\x01t\0\0"),
        ("no payload", C311, 0x31, b"\0\x01t"),
        ("everything set", C5, 0x3D, b"\0\x01t\xFF\xFF\0"),
    ]);
}

// Covers 5.0: 3.3.2-1 3.3.2-2 4.7.3-1 4.7.3-2
// Covers 3.1.1: 3.3.2-1 3.3.2-2 4.7.3-1 4.7.3-2
#[test]
fn the_topic_is_a_topic_name() {
    let name = ReasonCode::TOPIC_NAME_INVALID;
    for from in [C31, C311, S311] {
        assert_refused(&[
            ("nothing", from, 0x30, b"", Truncated, MALFORMED),
            ("half a length", from, 0x30, b"\0", Truncated, MALFORMED),
            ("cut off", from, 0x30, b"\0\x03ab", Truncated, MALFORMED),
            ("empty", from, 0x30, b"\0\0", Topic(TopicError::Empty), name),
            ("plus", from, 0x30, b"\0\x03a/+", Topic(TopicError::Wildcard), name),
            ("hash", from, 0x30, b"\0\x01#", Topic(TopicError::Wildcard), name),
            ("hash inside", from, 0x30, b"\0\x09long/t#ic", Topic(TopicError::Wildcard), name),
            ("NUL", from, 0x30, b"\0\x03a\0b", Topic(TopicError::Nul), MALFORMED),
            ("surrogate", from, 0x30, b"\0\x03\xED\xA0\x80", NotUtf8, MALFORMED),
            ("not UTF-8", from, 0x30, b"\0\x02\xC3\x28", NotUtf8, MALFORMED),
        ]);
    }
    assert_refused(&[
        ("plus, 5.0", C5, 0x30, b"\0\x03a/+\0", Topic(TopicError::Wildcard), name),
        ("NUL, 5.0", C5, 0x30, b"\0\x01\0\0", Topic(TopicError::Nul), MALFORMED),
        ("empty without alias", C5, 0x30, b"\0\0\0", Missing, PROTOCOL),
        ("empty with other properties", C5, 0x30, b"\0\0\x02\x01\x01", Missing, PROTOCOL),
        ("a hash and an alias", C5, 0x30, b"\0\x01#\x03\x23\0\x01", Topic(TopicError::Wildcard), name),
    ]);
    let packet = framed(0x30, b"\0\x04\xEF\xBB\xBFa");
    let decoded = decode(&packet, Version::V311, Sender::Client, &Limits::default());
    let Ok(Packet::Publish(publish)) = decoded else { panic!("{decoded:?}") };
    assert_eq!(publish.topic.map(TopicName::as_str), Some("\u{FEFF}a"));
}

#[test]
fn levels_are_limited() {
    let topic = "/".repeat(128);
    let packet = framed(0x30, &[b"\0\x80", topic.as_bytes()].concat());
    let error = decode(&packet, Version::V311, Sender::Client, &Limits::default()).expect_err("129 levels");
    assert_eq!(error.kind(), Topic(TopicError::TooManyLevels));
    assert_eq!(error.reason_code(), ReasonCode::TOPIC_NAME_INVALID);
    let packet = framed(0x30, &[b"\0\x7F", &topic.as_bytes()[..127]].concat());
    assert!(decode(&packet, Version::V311, Sender::Client, &Limits::default()).is_ok(), "128 levels");
}

#[test]
fn an_alias_may_stand_for_the_topic() {
    let packet = framed(0x30, b"\0\0\x03\x23\0\x07hi");
    let decoded = decode(&packet, Version::V5, Sender::Client, &Limits::default());
    let Ok(Packet::Publish(publish)) = decoded else { panic!("{decoded:?}") };
    assert_eq!((publish.topic, publish.payload), (None, &b"hi"[..]));
    assert_eq!(publish.properties.topic_alias.map(|alias| alias.get()), Some(7));
}

#[test]
fn three_subscription_identifiers_do_not_leak_into_the_payload() {
    let packet = framed(0x30, b"\0\x01t\x09\x0B\x01\x0B\x80\x01\x0B\xFF\xFF\x7Fhi");
    let decoded = decode(&packet, Version::V5, Sender::Server, &Limits::default());
    let Ok(Packet::Publish(publish)) = decoded else { panic!("{decoded:?}") };
    assert_eq!(publish.properties.subscription_ids.iter().collect::<Vec<_>>(), [1, 128, 2_097_151]);
    assert_eq!(publish.payload, b"hi");
}

// Covers 5.0: 1.5.7-1 3.3.2-8 3.3.2-13 3.3.2-14 3.3.2-19 3.3.4-6
#[test]
fn properties() {
    let cases: [(&str, From, &[u8], DecodeErrorKind, ReasonCode); 29] = [
        ("topic alias 0", C5, b"\x23\0\0", TopicAliasZero, ReasonCode::TOPIC_ALIAS_INVALID),
        ("topic alias 0 from a server", S5, b"\x23\0\0", TopicAliasZero, ReasonCode::TOPIC_ALIAS_INVALID),
        ("topic alias twice", C5, b"\x23\0\x01\x23\0\x01", DuplicateProperty, PROTOCOL),
        ("payload format 2", C5, b"\x01\x02", Forbidden, PROTOCOL),
        ("payload format twice", C5, b"\x01\0\x01\0", DuplicateProperty, PROTOCOL),
        ("message expiry twice", C5, b"\x02\0\0\0\x01\x02\0\0\0\x01", DuplicateProperty, PROTOCOL),
        ("content type twice", C5, b"\x03\0\0\x03\0\0", DuplicateProperty, PROTOCOL),
        ("response topic twice", C5, b"\x08\0\x01r\x08\0\x01r", DuplicateProperty, PROTOCOL),
        ("correlation data twice", C5, b"\x09\0\0\x09\0\0", DuplicateProperty, PROTOCOL),
        ("subscription identifier from a client", C5, b"\x0B\x01", Forbidden, PROTOCOL),
        ("subscription identifier 0", S5, b"\x0B\0", Zero, PROTOCOL),
        ("subscription identifier of five bytes", S5, b"\x0B\x80\x80\x80\x80\x01", VarIntTooLong, MALFORMED),
        ("subscription identifier padded", S5, b"\x0B\x81\0", VarIntNotMinimal, MALFORMED),
        ("response topic with plus", C5, b"\x08\0\x03a/+", ResponseTopic(TopicError::Wildcard), PROTOCOL),
        ("response topic with hash", S5, b"\x08\0\x01#", ResponseTopic(TopicError::Wildcard), PROTOCOL),
        ("response topic empty", C5, b"\x08\0\0", ResponseTopic(TopicError::Empty), PROTOCOL),
        ("response topic not UTF-8", C5, b"\x08\0\x01\xFF", NotUtf8, MALFORMED),
        ("content type with NUL", C5, b"\x03\0\x01\0", Nul, MALFORMED),
        ("user property not UTF-8", C5, b"\x26\0\x01\xFF\0\0", NotUtf8, MALFORMED),
        ("reason string", C5, b"\x1F\0\0", PropertyNotAllowed, MALFORMED),
        ("session expiry", C5, b"\x11\0\0\0\0", PropertyNotAllowed, MALFORMED),
        ("will delay", C5, b"\x18\0\0\0\0", PropertyNotAllowed, MALFORMED),
        ("receive maximum", C5, b"\x21\0\x01", PropertyNotAllowed, MALFORMED),
        ("authentication method", C5, b"\x15\0\0", PropertyNotAllowed, MALFORMED),
        ("unknown", C5, b"\x7F", UnknownProperty, MALFORMED),
        ("unknown, 5", C5, b"\x05\0", UnknownProperty, MALFORMED),
        ("message expiry cut off", C5, b"\x02\0\0\0", Truncated, MALFORMED),
        ("correlation data cut off", C5, b"\x09\0\x09abc", Truncated, MALFORMED),
        ("an identifier and nothing", C5, b"\x01", Truncated, MALFORMED),
    ];
    for (what, from, section, kind, reason) in cases {
        let body = [b"\0\x01t", &[section.len() as u8][..], section, b"payload"].concat();
        assert_refused(&[(what, from, 0x30, &body, kind, reason)]);
    }
    assert_refused(&[
        ("no property length", C5, 0x30, b"\0\x01t", Truncated, MALFORMED),
        ("property length over the end", C5, 0x30, b"\0\x01t\x05\x01\x01", Truncated, MALFORMED),
        ("property length padded", C5, 0x30, b"\0\x01t\x80\0", VarIntNotMinimal, MALFORMED),
        ("property length of five bytes", C5, 0x30, b"\0\x01t\x80\x80\x80\x80\x01", VarIntTooLong, MALFORMED),
    ]);
}
