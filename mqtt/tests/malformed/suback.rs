//! SUBACK and UNSUBACK.

use crate::*;
use DecodeErrorKind::*;

// Covers 3.1.1: 3.9.3-2
#[test]
fn in_3_x() {
    for from in [S31, S311] {
        assert_refused(&[
            ("packet identifier 0", from, 0x90, b"\0\0\0", Zero, PROTOCOL),
            ("no return code", from, 0x90, b"\0\x01", Missing, PROTOCOL),
            ("return code 3", from, 0x90, b"\0\x01\x03", ReasonNotAllowed, PROTOCOL),
            ("second return code 0x87", from, 0x90, b"\0\x01\0\x87", ReasonNotAllowed, PROTOCOL),
            ("packet identifier 0, UNSUBACK", from, 0xB0, b"\0\0", Zero, PROTOCOL),
            ("UNSUBACK with a reason", from, 0xB0, b"\0\x01\0", TrailingBytes, MALFORMED),
            ("UNSUBACK cut off", from, 0xB0, b"\0", Truncated, MALFORMED),
        ]);
        assert_accepted(&[
            ("all codes", from, 0x90, b"\0\x01\0\x01\x02\x80"),
            ("UNSUBACK", from, 0xB0, b"\0\x01"),
        ]);
    }
}

// Covers 5.0: 3.9.3-2 3.11.3-2
#[test]
fn reasons_of_5_0() {
    let legal: [(u8, &[u8]); 2] = [
        (0x90, &[0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2]),
        (0xB0, &[0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]),
    ];
    for (first, legal) in legal {
        for code in 0..=255 {
            let body = [0, 1, 0, 0, code];
            if legal.contains(&code) {
                assert_accepted(&[("legal", S5, first, &body)]);
            } else {
                assert_refused(&[("not for it", S5, first, &body, ReasonNotAllowed, PROTOCOL)]);
            }
        }
    }
}

#[test]
fn properties_of_5_0() {
    for first in [0x90, 0xB0] {
        assert_refused(&[
            ("packet identifier 0", S5, first, b"\0\0\0\0", Zero, PROTOCOL),
            ("no property length", S5, first, b"\0\x01", Truncated, MALFORMED),
            ("no reason", S5, first, b"\0\x01\0", Missing, PROTOCOL),
            ("reason string twice", S5, first, b"\0\x01\x06\x1F\0\0\x1F\0\0\0", DuplicateProperty, PROTOCOL),
            ("subscription identifier", S5, first, b"\0\x01\x02\x0B\x01\0", PropertyNotAllowed, MALFORMED),
            ("server reference", S5, first, b"\0\x01\x03\x1C\0\0\0", PropertyNotAllowed, MALFORMED),
            ("unknown", S5, first, b"\0\x01\x01\x07\0", UnknownProperty, MALFORMED),
            ("NUL", S5, first, b"\0\x01\x04\x1F\0\x01\0\0", Nul, MALFORMED),
        ]);
        assert_accepted(&[("all there is", S5, first, b"\0\x01\x0B\x1F\0\x01r\x26\0\x01k\0\x01v\0\x80")]);
    }
}
