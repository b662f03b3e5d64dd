//! CONNACK.

use crate::*;
use DecodeErrorKind::*;

#[test]
fn flags_and_return_codes_of_3_x() {
    assert_refused(&[
        ("reserved flag", S311, 0x20, b"\x02\0", ReservedBits, MALFORMED),
        ("reserved flag", S311, 0x20, b"\x80\0", ReservedBits, MALFORMED),
        ("session present in 3.1", S31, 0x20, b"\x01\0", ReservedBits, MALFORMED),
        ("return code 6", S311, 0x20, b"\0\x06", ReasonNotAllowed, PROTOCOL),
        ("reason code of 5.0", S311, 0x20, b"\0\x87", ReasonNotAllowed, PROTOCOL),
        ("session present with refusal", S311, 0x20, b"\x01\x05", Forbidden, PROTOCOL),
        ("no return code", S311, 0x20, b"\0", Truncated, MALFORMED),
        ("nothing", S31, 0x20, b"", Truncated, MALFORMED),
        ("one byte more", S311, 0x20, b"\0\0\0", TrailingBytes, MALFORMED),
    ]);
    for (code, reason) in [
        (0, ReasonCode::SUCCESS),
        (1, ReasonCode::UNSUPPORTED_PROTOCOL_VERSION),
        (2, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID),
        (3, ReasonCode::SERVER_UNAVAILABLE),
        (4, ReasonCode::BAD_USER_NAME_OR_PASSWORD),
        (5, ReasonCode::NOT_AUTHORIZED),
    ] {
        let packet = framed(0x20, &[0, code]);
        for version in [Version::V31, Version::V311] {
            let connack = decode(&packet, version, Sender::Server, &Limits::default());
            assert_eq!(connack, Ok(Packet::ConnAck(ConnAck { reason, ..ConnAck::default() })));
        }
        assert_eq!(reason.to_connack_v3(), code);
    }
}

// Covers 5.0: 3.2.2-8
#[test]
fn reasons_of_5_0() {
    let legal = [
        0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99,
        0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
    ];
    for code in 0..=255 {
        let body = [0, code, 0];
        if legal.contains(&code) {
            assert_accepted(&[("legal", S5, 0x20, &body)]);
        } else {
            assert_refused(&[("not for CONNACK", S5, 0x20, &body, ReasonNotAllowed, PROTOCOL)]);
        }
    }
}

#[test]
fn properties() {
    let cases: [(&str, &[u8], DecodeErrorKind, ReasonCode); 24] = [
        ("no property length", b"\0\0", Truncated, MALFORMED),
        ("session present with refusal", b"\x01\x87\0", Forbidden, PROTOCOL),
        ("reserved flag", b"\x02\0\0", ReservedBits, MALFORMED),
        ("receive maximum 0", b"\0\0\x03\x21\0\0", Zero, PROTOCOL),
        ("maximum QoS 2", b"\0\0\x02\x24\x02", Forbidden, PROTOCOL),
        ("retain available 2", b"\0\0\x02\x25\x02", Forbidden, PROTOCOL),
        ("maximum packet size 0", b"\0\0\x05\x27\0\0\0\0", Zero, PROTOCOL),
        ("wildcard available 2", b"\0\0\x02\x28\x02", Forbidden, PROTOCOL),
        ("identifiers available 2", b"\0\0\x02\x29\x02", Forbidden, PROTOCOL),
        ("shared available 2", b"\0\0\x02\x2A\x02", Forbidden, PROTOCOL),
        ("data without method", b"\0\0\x03\x16\0\0", Missing, PROTOCOL),
        ("request problem information", b"\0\0\x02\x17\x01", PropertyNotAllowed, MALFORMED),
        ("topic alias", b"\0\0\x03\x23\0\x01", PropertyNotAllowed, MALFORMED),
        ("will delay", b"\0\0\x05\x18\0\0\0\0", PropertyNotAllowed, MALFORMED),
        ("assigned identifier twice", b"\0\0\x08\x12\0\x01a\x12\0\x01b", DuplicateProperty, PROTOCOL),
        ("reason string twice", b"\0\0\x06\x1F\0\0\x1F\0\0", DuplicateProperty, PROTOCOL),
        ("server keep alive twice", b"\0\0\x06\x13\0\x01\x13\0\x01", DuplicateProperty, PROTOCOL),
        ("response information twice", b"\0\0\x06\x1A\0\0\x1A\0\0", DuplicateProperty, PROTOCOL),
        ("server reference twice", b"\0\0\x06\x1C\0\0\x1C\0\0", DuplicateProperty, PROTOCOL),
        ("maximum QoS twice", b"\0\0\x04\x24\x01\x24\x01", DuplicateProperty, PROTOCOL),
        ("retain available twice", b"\0\0\x04\x25\x01\x25\x01", DuplicateProperty, PROTOCOL),
        ("reason string with NUL", b"\0\0\x04\x1F\0\x01\0", Nul, MALFORMED),
        ("section longer than the packet", b"\0\0\x09\x1F\0\x01", Truncated, MALFORMED),
        ("one byte more", b"\0\0\0\0", TrailingBytes, MALFORMED),
    ];
    for (what, body, kind, reason) in cases {
        assert_refused(&[(what, S5, 0x20, body, kind, reason)]);
    }
    assert_accepted(&[
        ("without properties", S5, 0x20, b"\0\0\0"),
        (
            "with all of them",
            S5,
            0x20,
            b"\x01\0\x3C\x11\0\0\0\x01\x21\0\x01\x24\x01\x25\0\x27\0\0\0\x01\x12\0\x01a\x22\0\x01\x1F\0\x01r\
              \x28\0\x29\0\x2A\0\x13\0\x01\x1A\0\x01i\x1C\0\x01s\x15\0\x01m\x16\0\x01d\x26\0\x01k\0\x01v",
        ),
    ]);
}
