//! Packets that must be refused, each with its class and reason code, and their legal neighbours.
//!
//! The body of every packet is written out byte by byte, inner lengths included; only the fixed header's remaining
//! length is put before it, so that a packet is wrong in the one place that its name says.

mod acks;
mod connack;
mod connect;
mod disconnect_auth;
mod fixed_header;
mod publish;
mod suback;
mod subscribe;

use quelea_mqtt::*;

/// Type and flags, then the body with its length before it.
fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut len = body.len();
    loop {
        let low = (len & 0x7F) as u8;
        len >>= 7;
        packet.push(if len > 0 { low | 0x80 } else { low });
        if len == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

/// A version and a side, for tables.
#[derive(Clone, Copy)]
struct From(Version, Sender);

const C31: From = From(Version::V31, Sender::Client);
const C311: From = From(Version::V311, Sender::Client);
const C5: From = From(Version::V5, Sender::Client);
const S31: From = From(Version::V31, Sender::Server);
const S311: From = From(Version::V311, Sender::Server);
const S5: From = From(Version::V5, Sender::Server);

/// A refusal: what is wrong, who sends it, its bytes, its class, its reason code.
type Row<'a> = (&'a str, From, u8, &'a [u8], DecodeErrorKind, ReasonCode);

#[track_caller]
fn assert_refused(rows: &[Row<'_>]) {
    for &(what, From(version, sender), first, body, kind, reason) in rows {
        let packet = framed(first, body);
        match decode(&packet, version, sender, &Limits::default()) {
            Ok(packet) => panic!("{what}: accepted as {packet:?}"),
            Err(error) => {
                assert_eq!((error.kind(), error.reason_code()), (kind, reason), "{what}: {error}");
            }
        }
    }
}

#[track_caller]
fn assert_accepted(rows: &[(&str, From, u8, &[u8])]) {
    for &(what, From(version, sender), first, body) in rows {
        let packet = framed(first, body);
        if let Err(error) = decode(&packet, version, sender, &Limits::default()) {
            panic!("{what}: {error}");
        }
    }
}

const MALFORMED: ReasonCode = ReasonCode::MALFORMED_PACKET;
const PROTOCOL: ReasonCode = ReasonCode::PROTOCOL_ERROR;
