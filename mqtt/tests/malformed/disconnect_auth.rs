//! DISCONNECT and AUTH.

use crate::*;
use DecodeErrorKind::*;

#[test]
fn disconnect_of_3_x_is_two_bytes_from_a_client() {
    for from in [C31, C311] {
        assert_refused(&[("a reason", from, 0xE0, b"\0", TrailingBytes, MALFORMED)]);
        assert_accepted(&[("whole", from, 0xE0, b"")]);
    }
    for from in [S31, S311] {
        assert_refused(&[("from a server", from, 0xE0, b"", WrongSender, PROTOCOL)]);
    }
}

#[test]
fn the_short_disconnects_of_5_0() {
    for from in [C5, S5] {
        assert_accepted(&[
            ("nothing", from, 0xE0, b""),
            ("a reason", from, 0xE0, b"\x81"),
            ("a reason and no properties", from, 0xE0, b"\x81\0"),
        ]);
    }
}

// Covers 5.0: 3.14.2-1
#[test]
fn disconnect_reasons() {
    let both = [0, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
    let server =
        [0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2];
    for code in 0..=255 {
        for (from, legal) in
            [(C5, both.contains(&code) || code == 0x04), (S5, both.contains(&code) || server.contains(&code))]
        {
            if legal {
                assert_accepted(&[("legal", from, 0xE0, &[code])]);
            } else {
                assert_refused(&[("not for it", from, 0xE0, &[code], ReasonNotAllowed, PROTOCOL)]);
            }
        }
    }
}

// Covers 5.0: 3.14.2-2
#[test]
fn disconnect_properties() {
    for from in [C5, S5] {
        assert_refused(&[
            ("section too long", from, 0xE0, b"\0\x05", Truncated, MALFORMED),
            ("one byte more", from, 0xE0, b"\0\0\0", TrailingBytes, MALFORMED),
            ("reason string twice", from, 0xE0, b"\0\x06\x1F\0\0\x1F\0\0", DuplicateProperty, PROTOCOL),
            ("server reference twice", from, 0xE0, b"\0\x06\x1C\0\0\x1C\0\0", DuplicateProperty, PROTOCOL),
            ("topic alias", from, 0xE0, b"\0\x03\x23\0\x01", PropertyNotAllowed, MALFORMED),
            ("receive maximum", from, 0xE0, b"\0\x03\x21\0\x01", PropertyNotAllowed, MALFORMED),
            ("unknown", from, 0xE0, b"\0\x01\x14", UnknownProperty, MALFORMED),
        ]);
        assert_accepted(&[("text", from, 0xE0, b"\0\x0F\x1F\0\x01r\x1C\0\x01s\x26\0\x01k\0\x01v")]);
    }
    assert_refused(&[
        ("session expiry from a server", S5, 0xE0, b"\0\x05\x11\0\0\0\x01", Forbidden, PROTOCOL),
        (
            "session expiry twice",
            C5,
            0xE0,
            b"\0\x0A\x11\0\0\0\x01\x11\0\0\0\x01",
            DuplicateProperty,
            PROTOCOL,
        ),
    ]);
    assert_accepted(&[("session expiry", C5, 0xE0, b"\0\x05\x11\0\0\0\x01")]);
}

#[test]
fn auth_is_of_5_0_only() {
    for from in [C31, C311, S31, S311] {
        assert_refused(&[("AUTH", from, 0xF0, b"\x18\x04\x15\0\x01m", NotInVersion, PROTOCOL)]);
    }
}

// Covers 5.0: 3.15.2-1
#[test]
fn auth_reasons() {
    for code in 0..=255 {
        for (from, legal) in [(C5, [0x18, 0x19]), (S5, [0, 0x18])] {
            let body = [code, 4, 0x15, 0, 1, b'm'];
            if legal.contains(&code) {
                assert_accepted(&[("legal", from, 0xF0, &body)]);
            } else {
                assert_refused(&[("not for it", from, 0xF0, &body, ReasonNotAllowed, PROTOCOL)]);
            }
        }
    }
    assert_accepted(&[("success without a body", S5, 0xF0, b"")]);
    assert_refused(&[("success from a client", C5, 0xF0, b"", ReasonNotAllowed, PROTOCOL)]);
}

#[test]
fn auth_properties() {
    assert_refused(&[
        ("no property length", C5, 0xF0, b"\x18", Truncated, MALFORMED),
        ("no method", C5, 0xF0, b"\x18\0", Missing, PROTOCOL),
        ("data without method", C5, 0xF0, b"\x18\x03\x16\0\0", Missing, PROTOCOL),
        ("method twice", C5, 0xF0, b"\x18\x06\x15\0\0\x15\0\0", DuplicateProperty, PROTOCOL),
        ("data twice", C5, 0xF0, b"\x18\x0A\x15\0\x01m\x16\0\0\x16\0\0", DuplicateProperty, PROTOCOL),
        (
            "reason string twice",
            C5,
            0xF0,
            b"\x18\x0A\x15\0\x01m\x1F\0\0\x1F\0\0",
            DuplicateProperty,
            PROTOCOL,
        ),
        ("server reference", C5, 0xF0, b"\x18\x07\x15\0\x01m\x1C\0\0", PropertyNotAllowed, MALFORMED),
        ("unknown", C5, 0xF0, b"\x18\x01\x0A", UnknownProperty, MALFORMED),
        ("method with NUL", C5, 0xF0, b"\x18\x04\x15\0\x01\0", Nul, MALFORMED),
        ("one byte more", C5, 0xF0, b"\x18\x04\x15\0\x01m\0", TrailingBytes, MALFORMED),
    ]);
    let packet = framed(0xF0, b"\x18\x13\x15\0\x01m\x16\0\x01\xFF\x1F\0\x01r\x26\0\x01k\0\x01v");
    let decoded = decode(&packet, Version::V5, Sender::Client, &Limits::default());
    let Ok(Packet::Auth(auth)) = decoded else { panic!("{decoded:?}") };
    assert_eq!(
        (auth.reason, auth.method, auth.data),
        (ReasonCode::CONTINUE_AUTHENTICATION, Some("m"), Some(&b"\xFF"[..]))
    );
    assert_eq!((auth.reason_string, auth.user_properties.len()), (Some("r"), 1));
}
