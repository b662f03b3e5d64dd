//! PUBACK, PUBREC, PUBREL, PUBCOMP.

use crate::*;
use DecodeErrorKind::*;

const FIRSTS: [u8; 4] = [0x40, 0x50, 0x62, 0x70];

#[test]
fn the_packet_identifier_is_all_there_is_in_3_x() {
    for first in FIRSTS {
        for from in [C31, C311, S31, S311] {
            assert_refused(&[
                ("packet identifier 0", from, first, b"\0\0", Zero, PROTOCOL),
                ("half a packet identifier", from, first, b"\x01", Truncated, MALFORMED),
                ("nothing", from, first, b"", Truncated, MALFORMED),
                ("a reason", from, first, b"\0\x01\0", TrailingBytes, MALFORMED),
            ]);
            assert_accepted(&[("whole", from, first, b"\xFF\xFF")]);
        }
    }
}

// Covers 5.0: 3.4.2-1 3.5.2-1 3.6.2-1 3.7.2-1
#[test]
fn reasons_of_5_0() {
    for first in FIRSTS {
        for (from, client) in [(C5, true), (S5, false)] {
            let legal: &[u8] = match first {
                0x40 | 0x50 if client => &[0, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
                0x40 | 0x50 => &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
                _ => &[0, 0x92],
            };
            for code in 0..=255 {
                let bodies: [&[u8]; 2] = [&[0, 1, code], &[0, 1, code, 0]];
                for body in bodies {
                    if legal.contains(&code) {
                        assert_accepted(&[("legal", from, first, body)]);
                    } else {
                        assert_refused(&[("not for it", from, first, body, ReasonNotAllowed, PROTOCOL)]);
                    }
                }
            }
        }
    }
}

#[test]
fn properties_of_5_0() {
    for first in FIRSTS {
        for from in [C5, S5] {
            assert_refused(&[
                ("packet identifier 0", from, first, b"\0\0", Zero, PROTOCOL),
                ("packet identifier 0 and more", from, first, b"\0\0\0\0", Zero, PROTOCOL),
                ("nothing", from, first, b"", Truncated, MALFORMED),
                ("one byte more", from, first, b"\0\x01\0\0\0", TrailingBytes, MALFORMED),
                ("section too long", from, first, b"\0\x01\0\x01", Truncated, MALFORMED),
                (
                    "reason string twice",
                    from,
                    first,
                    b"\0\x01\0\x06\x1F\0\0\x1F\0\0",
                    DuplicateProperty,
                    PROTOCOL,
                ),
                ("topic alias", from, first, b"\0\x01\0\x03\x23\0\x01", PropertyNotAllowed, MALFORMED),
                ("server reference", from, first, b"\0\x01\0\x03\x1C\0\0", PropertyNotAllowed, MALFORMED),
                ("unknown property", from, first, b"\0\x01\0\x01\x2B", UnknownProperty, MALFORMED),
                ("reason string not UTF-8", from, first, b"\0\x01\0\x04\x1F\0\x01\xFF", NotUtf8, MALFORMED),
                ("padded length", from, first, b"\0\x01\0\x80\0", VarIntNotMinimal, MALFORMED),
            ]);
            assert_accepted(&[
                ("bare", from, first, b"\0\x01"),
                ("reason only", from, first, b"\0\x01\0"),
                ("empty section", from, first, b"\0\x01\0\0"),
                ("all there is", from, first, b"\0\x01\0\x0B\x1F\0\x01r\x26\0\x01k\0\x01v"),
            ]);
        }
    }
}
