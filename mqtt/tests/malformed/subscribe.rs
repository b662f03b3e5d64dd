//! SUBSCRIBE and UNSUBSCRIBE.

use crate::*;
use DecodeErrorKind::*;

// Covers 5.0: 2.2.1-3 3.8.3-1 3.8.3-2 3.10.3-1 3.10.3-2
// Covers 3.1.1: 2.3.1-1 3.8.3-1 3.8.3-3 3.8.3-4 3.10.3-1 3.10.3-2
#[test]
fn payload_and_packet_identifier() {
    for from in [C31, C311] {
        assert_refused(&[
            ("packet identifier 0", from, 0x82, b"\0\0\0\x01a\0", Zero, PROTOCOL),
            ("no filter", from, 0x82, b"\0\x01", Missing, PROTOCOL),
            ("no options", from, 0x82, b"\0\x01\0\x01a", Truncated, MALFORMED),
            ("filter cut off", from, 0x82, b"\0\x01\0\x03a", Truncated, MALFORMED),
            ("second filter cut off", from, 0x82, b"\0\x01\0\x01a\0\0", Truncated, MALFORMED),
            ("not UTF-8", from, 0x82, b"\0\x01\0\x01\xFF\0", NotUtf8, MALFORMED),
            ("NUL", from, 0x82, b"\0\x01\0\x03a\0b\0", Nul, MALFORMED),
            ("QoS 3", from, 0x82, b"\0\x01\0\x01a\x03", Forbidden, PROTOCOL),
            ("no local in 3.x", from, 0x82, b"\0\x01\0\x01a\x04", ReservedBits, MALFORMED),
            ("retain handling in 3.x", from, 0x82, b"\0\x01\0\x01a\x10", ReservedBits, MALFORMED),
            ("reserved bit", from, 0x82, b"\0\x01\0\x01a\x80", ReservedBits, MALFORMED),
            ("packet identifier 0, unsubscribe", from, 0xA2, b"\0\0\0\x01a", Zero, PROTOCOL),
            ("no filter, unsubscribe", from, 0xA2, b"\0\x01", Missing, PROTOCOL),
            ("filter cut off, unsubscribe", from, 0xA2, b"\0\x01\0\x03a", Truncated, MALFORMED),
            ("one byte more, unsubscribe", from, 0xA2, b"\0\x01\0\x01a\0", Truncated, MALFORMED),
            ("NUL, unsubscribe", from, 0xA2, b"\0\x01\0\x01\0", Nul, MALFORMED),
        ]);
    }
    assert_refused(&[
        ("packet identifier 0, 5.0", C5, 0x82, b"\0\0\0\0\x01a\0", Zero, PROTOCOL),
        ("no filter, 5.0", C5, 0x82, b"\0\x01\0", Missing, PROTOCOL),
        ("no property length, 5.0", C5, 0x82, b"\0\x01", Truncated, MALFORMED),
        ("no filter, unsubscribe 5.0", C5, 0xA2, b"\0\x01\0", Missing, PROTOCOL),
        ("no property length, unsubscribe 5.0", C5, 0xA2, b"\0\x01", Truncated, MALFORMED),
    ]);
}

// Covers 5.0: 3.8.3-5
#[test]
fn options_of_5_0() {
    for byte in 0..=255_u8 {
        let body = [0, 1, 0, 0, 1, b'a', byte];
        let refusal = match byte {
            byte if byte & 0xC0 != 0 => Some((ReservedBits, MALFORMED)),
            byte if byte & 0x30 == 0x30 => Some((Forbidden, PROTOCOL)),
            byte if byte & 0x03 == 0x03 => Some((Forbidden, PROTOCOL)),
            _ => None,
        };
        match refusal {
            Some((kind, reason)) => assert_refused(&[("options", C5, 0x82, &body, kind, reason)]),
            None => {
                let packet = framed(0x82, &body);
                let decoded = decode(&packet, Version::V5, Sender::Client, &Limits::default());
                let Ok(Packet::Subscribe(subscribe)) = decoded else { panic!("{decoded:?}") };
                let options: Vec<_> = subscribe.filters().map(|entry| entry.options.as_u8()).collect();
                assert_eq!(options, [byte]);
            }
        }
    }
}

// Covers 5.0: 3.8.3-4
#[test]
fn no_local_is_not_for_shared_subscriptions() {
    assert_refused(&[
        ("shared", C5, 0x82, b"\0\x01\0\0\x0A$share/g/a\x04", Forbidden, PROTOCOL),
        ("shared, second", C5, 0x82, b"\0\x01\0\0\x01a\x04\0\x0A$share/g/a\x05", Forbidden, PROTOCOL),
        ("shared, badly", C5, 0x82, b"\0\x01\0\0\x08$share/g\x04", Forbidden, PROTOCOL),
    ]);
    assert_accepted(&[
        ("not shared", C5, 0x82, b"\0\x01\0\0\x0A$shore/g/a\x04"),
        ("not no local", C5, 0x82, b"\0\x01\0\0\x0A$share/g/a\x01"),
    ]);
}

#[test]
fn properties() {
    let cases: [(&str, u8, &[u8], DecodeErrorKind, ReasonCode); 12] = [
        ("subscription identifier 0", 0x82, b"\x0B\0", Zero, PROTOCOL),
        ("over 268,435,455", 0x82, b"\x0B\xFF\xFF\xFF\xFF\x01", VarIntTooLong, MALFORMED),
        ("padded", 0x82, b"\x0B\x80\0", VarIntNotMinimal, MALFORMED),
        ("twice", 0x82, b"\x0B\x01\x0B\x02", DuplicateProperty, PROTOCOL),
        ("cut off", 0x82, b"\x0B\x80", Truncated, MALFORMED),
        ("reason string", 0x82, b"\x1F\0\0", PropertyNotAllowed, MALFORMED),
        ("topic alias", 0x82, b"\x23\0\x01", PropertyNotAllowed, MALFORMED),
        ("message expiry", 0x82, b"\x02\0\0\0\x01", PropertyNotAllowed, MALFORMED),
        ("unknown", 0x82, b"\x2C", UnknownProperty, MALFORMED),
        ("identifier in unsubscribe", 0xA2, b"\x0B\x01", PropertyNotAllowed, MALFORMED),
        ("reason string in unsubscribe", 0xA2, b"\x1F\0\0", PropertyNotAllowed, MALFORMED),
        ("unknown in unsubscribe", 0xA2, b"\x06", UnknownProperty, MALFORMED),
    ];
    for (what, first, section, kind, reason) in cases {
        let options: &[u8] = if first == 0x82 { b"\0" } else { b"" };
        let body = [b"\0\x01", &[section.len() as u8][..], section, b"\0\x01a", options].concat();
        assert_refused(&[(what, C5, first, &body, kind, reason)]);
    }
    assert_accepted(&[
        ("identifier 1", C5, 0x82, b"\0\x01\x02\x0B\x01\0\x01a\0"),
        ("identifier 268,435,455", C5, 0x82, b"\0\x01\x05\x0B\xFF\xFF\xFF\x7F\0\x01a\0"),
        ("user properties", C5, 0x82, b"\0\x01\x0E\x26\0\x01k\0\x01v\x26\0\x01k\0\x01v\0\x01a\0"),
        ("user property, unsubscribe", C5, 0xA2, b"\0\x01\x07\x26\0\x01k\0\x01v\0\x01a"),
    ]);
}

// Covers 5.0: 4.7.1-1 4.7.1-2 4.7.3-1 4.8.2-1 4.8.2-2
// Covers 3.1.1: 4.7.1-2 4.7.1-3 4.7.3-1
#[test]
fn filters_are_judged_one_by_one() {
    let filters: [(&str, Option<TopicError>); 16] = [
        ("#", None),
        ("+", None),
        ("a/+/b/#", None),
        ("/", None),
        ("$SYS/#", None),
        ("$share", None),
        ("$sharex/g/a", None),
        ("$share/g//", None),
        ("", Some(TopicError::Empty)),
        ("a#", Some(TopicError::WildcardPosition)),
        ("#/a", Some(TopicError::WildcardPosition)),
        ("a+/b", Some(TopicError::WildcardPosition)),
        ("$share/", Some(TopicError::ShareName)),
        ("$share//a", Some(TopicError::ShareName)),
        ("$share/g+/a", Some(TopicError::ShareName)),
        ("$share/g/", Some(TopicError::ShareName)),
    ];
    let mut subscribe = b"\0\x01\0".to_vec();
    let mut unsubscribe = subscribe.clone();
    for (text, _) in filters {
        let text = [&[0, text.len() as u8][..], text.as_bytes()].concat();
        subscribe.extend_from_slice(&text);
        subscribe.push(1);
        unsubscribe.extend_from_slice(&text);
    }
    let expected: Vec<_> = filters.iter().map(|&(text, error)| (text, error)).collect();

    let packet = framed(0x82, &subscribe);
    let decoded = decode(&packet, Version::V5, Sender::Client, &Limits::default());
    let Ok(Packet::Subscribe(subscribe)) = decoded else { panic!("{decoded:?}") };
    assert_eq!(subscribe.filters_len(), 16);
    assert_eq!(subscribe.filters().map(|entry| (entry.raw, entry.topic.err())).collect::<Vec<_>>(), expected);

    let packet = framed(0xA2, &unsubscribe);
    let decoded = decode(&packet, Version::V5, Sender::Client, &Limits::default());
    let Ok(Packet::Unsubscribe(unsubscribe)) = decoded else { panic!("{decoded:?}") };
    assert_eq!(unsubscribe.filters_len(), 16);
    assert_eq!(unsubscribe.filters().map(|(raw, topic)| (raw, topic.err())).collect::<Vec<_>>(), expected);

    for (_, error) in filters {
        let reason = error.map(TopicError::filter_reason_code);
        assert_eq!(reason, error.map(|_| ReasonCode::TOPIC_FILTER_INVALID));
    }
}

#[test]
fn the_number_of_filters_is_limited() {
    let limits = Limits { filters_max: 3, ..Limits::default() };
    for (first, entry) in [(0x82, &b"\0\x01a\0"[..]), (0xA2, b"\0\x01a")] {
        let three = framed(first, &[b"\0\x01\0", &entry.repeat(3)[..]].concat());
        assert!(decode(&three, Version::V5, Sender::Client, &limits).is_ok());
        let four = framed(first, &[b"\0\x01\0", &entry.repeat(4)[..]].concat());
        let error = decode(&four, Version::V5, Sender::Client, &limits).expect_err("four filters");
        assert_eq!((error.kind(), error.reason_code()), (TooMany, ReasonCode::QUOTA_EXCEEDED));
    }
}
