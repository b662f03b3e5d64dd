//! The first two to five bytes.

use crate::*;
use DecodeErrorKind::*;

#[track_caller]
fn refused(bytes: &[u8], sender: Sender, limits: &Limits) -> (DecodeErrorKind, ReasonCode) {
    let peeked = peek_frame(bytes, sender, limits).expect_err("must be refused");
    let decoded = decode(bytes, Version::V5, sender, limits).expect_err("must be refused");
    assert_eq!(peeked, decoded, "both look at the fixed header with the same eyes");
    (peeked.kind(), peeked.reason_code())
}

#[test]
fn type_0_is_reserved() {
    for flags in 0..16 {
        assert_eq!(refused(&[flags, 0], Sender::Client, &Limits::default()), (ReservedPacketType, MALFORMED));
    }
}

// Covers 5.0: 2.1.3-1 3.3.1-2 3.3.1-4 3.6.1-1 3.8.1-1 3.10.1-1 3.15.1-1
// Covers 3.1.1: 2.2.2-1 3.3.1-2 3.3.1-4 3.6.1-1 3.8.1-1 3.10.1-1 3.14.1-1
#[test]
fn every_flag_but_the_prescribed_ones_is_refused_at_the_first_byte() {
    for first in 0x10..=0xFF_u8 {
        let legal = match first >> 4 {
            // PUBLISH: QoS 3 and DUP with QoS 0 are not.
            3 => !matches!(first & 0x0F, 0x06 | 0x07 | 0x08 | 0x09 | 0x0E | 0x0F),
            // DUP is for 3.1, which only `decode` knows.
            6 | 8 | 10 => matches!(first & 0x0F, 0x02 | 0x0A),
            _ => first & 0x0F == 0,
        };
        let from_client = !matches!(first >> 4, 2 | 9 | 11 | 13);
        let sender = if from_client { Sender::Client } else { Sender::Server };
        let seen = peek_frame(&[first], sender, &Limits::default());
        match seen {
            Ok(frame) => assert!(legal && frame.is_none(), "{first:#04x}"),
            Err(error) => {
                assert!(!legal, "{first:#04x}: {error}");
                assert_eq!((error.kind(), error.reason_code()), (Flags, MALFORMED));
            }
        }
    }
}

#[test]
fn dup_on_pubrel_subscribe_and_unsubscribe_is_for_3_1_only() {
    let packets: [(u8, &[u8]); 3] = [(0x6A, b"\0\x01"), (0x8A, b"\0\x01\0\x01a\0"), (0xAA, b"\0\x01\0\x01a")];
    for (first, body) in packets {
        assert_accepted(&[("DUP", C31, first, body)]);
        assert_refused(&[
            ("DUP in 3.1.1", C311, first, body, Flags, MALFORMED),
            ("DUP in 5.0", C5, first, body, Flags, MALFORMED),
        ]);
    }
}

#[test]
fn what_the_other_side_never_sends_is_a_protocol_error() {
    for first in [0x20, 0x90, 0xB0, 0xD0] {
        assert_eq!(refused(&[first], Sender::Client, &Limits::default()), (WrongSender, PROTOCOL));
    }
    for first in [0x10, 0x82, 0xA2, 0xC0] {
        assert_eq!(refused(&[first], Sender::Server, &Limits::default()), (WrongSender, PROTOCOL));
    }
}

// Covers 5.0: 1.5.5-1
#[test]
fn a_length_has_at_most_four_bytes_and_no_more_than_it_needs() {
    let limits = Limits { packet_bytes_max: u32::MAX, ..Limits::default() };
    assert_eq!(refused(b"\x30\x80\x80\x80\x80\x01", Sender::Client, &limits), (VarIntTooLong, MALFORMED));
    assert_eq!(refused(b"\x30\xFF\xFF\xFF\xFF", Sender::Client, &limits), (VarIntTooLong, MALFORMED));
    for padded in [&b"\xC0\x80\0"[..], b"\x30\x85\0\0\x01ahi", b"\xC0\x80\x80\0", b"\xC0\x80\x80\x80\0"] {
        assert_eq!(refused(padded, Sender::Client, &limits), (VarIntNotMinimal, MALFORMED));
    }
    let longest =
        peek_frame(b"\x30\xFF\xFF\xFF\x7F", Sender::Client, &limits).expect("legal").expect("measured");
    assert_eq!((longest.header_bytes, longest.packet_bytes), (5, 5 + PACKET_BYTES_MAX as usize));
}

#[test]
fn a_length_over_the_limit_is_refused_before_the_body_comes() {
    let limits = Limits { packet_bytes_max: 1000, ..Limits::default() };
    // 3 bytes of fixed header and 998 more make 1,001.
    let error = (PacketTooLarge, ReasonCode::PACKET_TOO_LARGE);
    assert_eq!(refused(b"\x30\xE6\x07", Sender::Client, &limits), error);
    assert!(
        matches!(peek_frame(b"\x30\xE5\x07", Sender::Client, &limits), Ok(Some(frame)) if frame.packet_bytes == 1000)
    );
    assert_eq!(refused(b"\x30\xFF\xFF\xFF\x7F", Sender::Client, &Limits::default()), error);
}

#[test]
fn decode_wants_exactly_one_packet() {
    let limits = Limits::default();
    for (bytes, kind) in [
        (&b""[..], Truncated),
        (b"\xC0", Truncated),
        (b"\x30\x05\0", Truncated),
        (b"\xC0\0\xC0", TrailingBytes),
    ] {
        let error = decode(bytes, Version::V5, Sender::Client, &limits).expect_err("not one packet");
        assert_eq!((error.kind(), error.reason_code()), (kind, MALFORMED), "{bytes:02x?}");
    }
}

#[test]
fn a_ping_has_no_body() {
    assert_refused(&[
        ("PINGREQ", C311, 0xC0, b"\0", TrailingBytes, MALFORMED),
        ("PINGRESP", S5, 0xD0, b"\0", TrailingBytes, MALFORMED),
    ]);
    assert_accepted(&[("PINGREQ", C5, 0xC0, b""), ("PINGRESP", S31, 0xD0, b"")]);
}
