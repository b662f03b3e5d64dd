//! MQTT in WebSocket, with frames written out by hand.

use std::sync::Arc;
use std::time::Duration;

use quelea_shard::door::{DoorKind, DoorKindId, WebSocketRules};
use quelea_shard::{DoorId, Order, Settings};

use crate::bed::{
    Bed, PINGREQ, TlsClient, connect, packets, publish, subscribe, tls_kind, tls13, websocket_kind,
};

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The last frame of its message.
const LAST: u8 = 0x80;

const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

fn bed() -> (Bed, DoorKindId) {
    let mut bed = Bed::new();
    let kind = bed.shard.add_door_kind(websocket_kind());
    (bed, kind)
}

/// A masked frame in its shortest form.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        middle @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn binary(payload: &[u8]) -> Vec<u8> {
    frame(LAST | BINARY, payload)
}

/// Opens a WebSocket.
fn open(bed: &mut Bed, kind: DoorKindId) -> DoorId {
    let door = bed.open(kind);
    bed.send(door, REQUEST);
    let response = bed.wire(door).written.split();
    assert!(response.starts_with(b"HTTP/1.1 101 "), "{}", response.escape_ascii());
    assert!(response.ends_with(b"\r\n\r\n"), "nothing follows yet");
    door
}

/// Opens a WebSocket and connects an MQTT client.
fn client(bed: &mut Bed, kind: DoorKindId, id: &str) -> DoorId {
    let door = open(bed, kind);
    bed.send(door, &binary(&connect(id)));
    assert_eq!(packets(&heard(bed, door).0), ["CONNACK 0x00"]);
    door
}

/// What the broker has sent: the bytes of MQTT, and its control frames.
fn heard(bed: &mut Bed, door: DoorId) -> (Vec<u8>, Vec<(u8, Vec<u8>)>) {
    let written = bed.wire(door).written.split();
    read_frames(&written)
}

fn read_frames(mut rest: &[u8]) -> (Vec<u8>, Vec<(u8, Vec<u8>)>) {
    let (mut mqtt, mut control) = (Vec::new(), Vec::new());
    while let [first, length, after @ ..] = rest {
        assert_eq!(length & 0x80, 0, "a server's frame is not masked");
        let (length, after) = match length {
            126 => (usize::from(u16::from_be_bytes([after[0], after[1]])), &after[2..]),
            127 => (u64::from_be_bytes(after[..8].try_into().expect("eight")) as usize, &after[8..]),
            short => (usize::from(*short), after),
        };
        let (payload, behind) = after.split_at(length);
        rest = behind;
        match first & 0x0f {
            BINARY => mqtt.extend_from_slice(payload),
            other => control.push((other, payload.to_vec())),
        }
        assert_eq!(first & 0xf0, LAST, "whole messages without extensions");
    }
    (mqtt, control)
}

/// The close frame that ends the connection, and that it is its end.
fn closed_with(bed: &mut Bed, door: DoorId) -> u16 {
    let (mqtt, control) = heard(bed, door);
    assert!(mqtt.is_empty(), "{:?}", packets(&mqtt));
    let [(CLOSE, code)] = &control[..] else { panic!("{control:?}") };
    assert!(bed.wire(door).finished);
    u16::from_be_bytes(code[..].try_into().expect("a code without a reason"))
}

// Covers 5.0: 6.0.0-1
// Covers 3.1.1: 6.0.0-1
#[test]
fn a_client_connects_and_hears_itself() {
    let (mut bed, kind) = bed();
    let door = client(&mut bed, kind, "c");
    bed.send(door, &[binary(&subscribe("t")), binary(&publish("t", b"hello"))].concat());
    assert_eq!(packets(&heard(&mut bed, door).0), ["SUBACK [00]", "PUBLISH of 5 bytes"]);
    assert_eq!(bed.counter("websockets_opened"), 1);
}

// Covers 5.0: 6.0.0-2
// Covers 3.1.1: 6.0.0-2
#[test]
fn packets_may_lie_across_frames_and_frames_may_hold_several() {
    let (mut bed, kind) = bed();
    let door = client(&mut bed, kind, "c");
    let packets_sent = [subscribe("t"), publish("t", &[5; 300])].concat();
    // All in one frame, then each byte in a frame of its own, then in frames and messages that split anywhere.
    bed.send(door, &binary(&packets_sent));
    packets_sent.iter().for_each(|byte| bed.send(door, &binary(&[*byte])));
    for piece in packets_sent.chunks(77) {
        let (front, back) = piece.split_at(piece.len() / 2);
        let message =
            [frame(BINARY, front), frame(CONTINUATION, b""), frame(LAST | CONTINUATION, back)].concat();
        bed.send(door, &message);
    }
    let expected = ["SUBACK [00]", "PUBLISH of 300 bytes"];
    assert_eq!(packets(&heard(&mut bed, door).0), expected.repeat(3));
}

#[test]
fn everything_may_come_byte_by_byte() {
    let (mut bed, kind) = bed();
    let door = bed.open(kind);
    let mut sent = REQUEST.to_vec();
    for payload in [connect("c"), subscribe("t"), publish("t", &[5; 70_000])] {
        sent.extend(binary(&payload));
    }
    sent.extend(frame(LAST | PING, b"are you there"));
    sent.iter().for_each(|byte| bed.send(door, &[*byte]));
    let written = bed.wire(door).written.split();
    let end = written.windows(4).position(|four| four == b"\r\n\r\n").expect("a response") + 4;
    let (mqtt, control) = read_frames(&written[end..]);
    assert_eq!(packets(&mqtt), ["CONNACK 0x00", "SUBACK [00]", "PUBLISH of 70000 bytes"]);
    assert_eq!(control, [(PONG, b"are you there".to_vec())]);
}

#[test]
fn frames_may_follow_the_request_at_once() {
    let (mut bed, kind) = bed();
    let door = bed.open(kind);
    bed.send(door, &[REQUEST, &binary(&connect("c"))].concat());
    let written = bed.wire(door).written.split();
    let end = written.windows(4).position(|four| four == b"\r\n\r\n").expect("a response") + 4;
    assert_eq!(packets(&read_frames(&written[end..]).0), ["CONNACK 0x00"]);
}

#[test]
fn a_ping_behind_the_request_is_answered_behind_the_response() {
    let (mut bed, kind) = bed();
    let door = bed.open(kind);
    bed.send(door, &[REQUEST, &frame(LAST | PING, b"early")].concat());
    let written = bed.wire(door).written.split();
    assert!(written.starts_with(b"HTTP/1.1 101"));
    let end = written.windows(4).position(|four| four == b"\r\n\r\n").expect("a response") + 4;
    assert_eq!(read_frames(&written[end..]).1, [(PONG, b"early".to_vec())]);
}

#[test]
fn a_request_that_ends_in_bare_line_feeds_is_refused() {
    let (mut bed, kind) = bed();
    let door = bed.open(kind);
    let request = String::from_utf8(REQUEST.to_vec()).expect("text").replace("\r\n", "\n");
    bed.send(door, &[request.as_bytes(), b"\r\n\r\n"].concat());
    assert!(bed.wire(door).written.split().starts_with(b"HTTP/1.1 400"));
}

#[test]
fn a_ping_is_answered_within_a_message() {
    let (mut bed, kind) = bed();
    let door = client(&mut bed, kind, "c");
    bed.send(door, &frame(BINARY, &PINGREQ[..1]));
    bed.send(door, &frame(LAST | PING, b"x"));
    bed.send(door, &frame(LAST | PONG, b"nobody asked"));
    assert_eq!(heard(&mut bed, door), (Vec::new(), vec![(PONG, b"x".to_vec())]));
    bed.send(door, &frame(LAST | CONTINUATION, &PINGREQ[1..]));
    assert_eq!(packets(&heard(&mut bed, door).0), ["PINGRESP"]);
}

#[test]
fn of_many_pings_the_last_is_answered() {
    let (mut bed, kind) = bed();
    let door = client(&mut bed, kind, "c");
    bed.stall(door, true);
    bed.send(door, &binary(&PINGREQ));
    for number in 0..10_000u32 {
        bed.send(door, &frame(LAST | PING, &number.to_be_bytes()));
    }
    bed.stall(door, false);
    let (mqtt, control) = heard(&mut bed, door);
    assert_eq!(packets(&mqtt), ["PINGRESP"]);
    assert_eq!(control, [(PONG, 9_999u32.to_be_bytes().to_vec())]);
}

// Covers 5.0: 6.0.0-1
// Covers 3.1.1: 6.0.0-1
#[test]
fn each_wrong_frame_has_its_close_code() {
    let mut unmasked = binary(&PINGREQ);
    unmasked[1] &= 0x7f;
    let cases: [(&str, Vec<u8>, u16); 17] = [
        ("unmasked", unmasked, 1002),
        ("text", frame(LAST | TEXT, b"hello"), 1003),
        ("a reserved bit", frame(LAST | 0x40 | BINARY, b""), 1002),
        ("opcode 3", frame(LAST | 3, b""), 1002),
        ("opcode 11", frame(LAST | 11, b""), 1002),
        ("a continuation of nothing", frame(LAST | CONTINUATION, b""), 1002),
        ("a message in a message", [frame(BINARY, b""), frame(LAST | BINARY, b"")].concat(), 1002),
        ("text in a message", [frame(BINARY, b""), frame(LAST | TEXT, b"")].concat(), 1002),
        ("a ping of 126 bytes", frame(LAST | PING, &[0; 126]), 1002),
        ("a ping in pieces", frame(PING, b""), 1002),
        ("a length of 125 in two bytes", vec![LAST | BINARY, 0xfe, 0, 125], 1002),
        ("a length of 65,535 in eight", vec![LAST | BINARY, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], 1002),
        ("a length of 2^63", vec![LAST | BINARY, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], 1002),
        ("a frame too long", vec![LAST | BINARY, 0xff, 0, 0, 0, 0, 1, 0, 0, 1, 1, 2, 3, 4], 1009),
        ("half a close code", frame(LAST | CLOSE, &[3]), 1002),
        ("a close code that is none", frame(LAST | CLOSE, &1005u16.to_be_bytes()), 1002),
        ("a reason that is not UTF-8", frame(LAST | CLOSE, &[0x03, 0xe8, 0xff]), 1007),
    ];
    let count = cases.len() as u64;
    let (mut bed, kind) = bed();
    for (what, bytes, code) in cases {
        let door = client(&mut bed, kind, "c");
        bed.send(door, &bytes);
        // What comes behind it is not read.
        bed.send(door, &binary(&PINGREQ));
        assert_eq!(closed_with(&mut bed, door), code, "{what}");
        bed.end(door);
    }
    assert_eq!((bed.counter("websocket_errors"), bed.counter("links")), (count, 0));
}

#[test]
fn a_limit_of_frames_is_the_listeners() {
    let mut bed = Bed::new();
    let rules = WebSocketRules { frame_bytes_max: 1_000, ..WebSocketRules::default() };
    let kind = bed.shard.add_door_kind(DoorKind { websocket: Some(Arc::new(rules)), ..DoorKind::PLAIN });
    let door = client(&mut bed, kind, "c");
    bed.send(door, &binary(&publish("t", &[0; 990])));
    assert!(!bed.wire(door).finished);
    bed.send(door, &binary(&[0; 1_001]));
    assert_eq!(closed_with(&mut bed, door), 1009);
}

#[test]
fn a_close_is_sent_back_and_ends_the_connection() {
    for (payload, code) in [(&b""[..], 1000), (&[0x03, 0xe9, b'b', b'y', b'e'], 1001), (&[0x0f, 0xa0], 4000)]
    {
        let (mut bed, kind) = bed();
        let door = client(&mut bed, kind, "c");
        bed.send(door, &[frame(LAST | CLOSE, payload), binary(&PINGREQ)].concat());
        assert_eq!(closed_with(&mut bed, door), code);
        bed.end(door);
        assert_eq!((bed.counter("websocket_errors"), bed.counter("links")), (0, 0));
    }
}

#[test]
fn packets_in_front_of_a_close_count() {
    let (mut bed, kind) = bed();
    let listener = client(&mut bed, kind, "l");
    bed.send(listener, &binary(&subscribe("t")));
    heard(&mut bed, listener);
    let door = open(&mut bed, kind);
    let sent = [binary(&connect("c")), binary(&publish("t", b"last words")), frame(LAST | CLOSE, b"")];
    bed.send(door, &sent.concat());
    assert_eq!(packets(&heard(&mut bed, listener).0), ["PUBLISH of 10 bytes"]);
    assert!(bed.wire(door).finished);
}

#[test]
fn mqtts_endings_have_their_close_codes() {
    let (mut bed, kind) = bed();
    let refused = open(&mut bed, kind);
    bed.send(refused, &binary(&[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 9, 2, 0, 0, 0, 0]));
    let (mqtt, control) = heard(&mut bed, refused);
    assert_eq!((mqtt[0], control), (0x20, vec![(CLOSE, 1000u16.to_be_bytes().to_vec())]));

    let malformed = client(&mut bed, kind, "m");
    bed.send(malformed, &binary(&[0x00, 0]));
    let (mqtt, control) = heard(&mut bed, malformed);
    assert_eq!(packets(&mqtt), ["DISCONNECT 0x81"]);
    assert_eq!(control, [(CLOSE, 1002u16.to_be_bytes().to_vec())]);

    let leaving = client(&mut bed, kind, "l");
    bed.send(leaving, &binary(&[0xe0, 0]));
    assert_eq!(closed_with(&mut bed, leaving), 1000);

    let staying = client(&mut bed, kind, "s");
    let deadline = bed.now + Duration::from_secs(5);
    bed.shard.handle_order(bed.now, Order::Drain { deadline });
    bed.run();
    let (mqtt, control) = heard(&mut bed, staying);
    assert_eq!(packets(&mqtt), ["DISCONNECT 0x8b"]);
    assert_eq!(control, [(CLOSE, 1001u16.to_be_bytes().to_vec())]);
}

#[test]
fn a_client_that_does_not_read_is_not_read() {
    let (mut bed, kind) = bed();
    let door = client(&mut bed, kind, "c");
    bed.stall(door, true);
    let flood = binary(&PINGREQ).repeat(4_096);
    let mut sent = 0;
    while !bed.wire(door).paused {
        sent += 4_096;
        assert!(sent < 1 << 20, "{sent} packets were taken");
        bed.send(door, &flood);
    }
    bed.stall(door, false);
    assert!(!bed.wire(door).paused);
    assert_eq!(packets(&heard(&mut bed, door).0).len(), sent);
}

#[test]
fn one_turn_writes_one_frame_of_many_packets() {
    let (mut bed, kind) = bed();
    let door = client(&mut bed, kind, "c");
    bed.send(door, &binary(&PINGREQ.repeat(100)));
    assert_eq!(bed.wire(door).written.len(), 4 + 200, "one head, a hundred answers");
}

#[test]
fn large_payloads_cross_whole_both_ways() {
    let (mut bed, kind) = bed();
    let door = client(&mut bed, kind, "c");
    bed.send(door, &binary(&subscribe("t")));
    bed.send(door, &binary(&publish("t", &vec![3; 1_000_000])));
    assert_eq!(packets(&heard(&mut bed, door).0), ["SUBACK [00]", "PUBLISH of 1000000 bytes"]);
}

#[test]
fn a_refused_request_is_answered_and_ended() {
    let (mut bed, kind) = bed();
    let door = bed.open(kind);
    bed.send(door, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let response = bed.wire(door).written.split();
    assert!(response.starts_with(b"HTTP/1.1 404 Not Found\r\n"), "{}", response.escape_ascii());
    assert!(bed.wire(door).finished);
    assert_eq!(bed.counter("websockets_refused"), 1);
}

#[test]
fn a_request_that_does_not_end_is_ended_at_the_deadline() {
    let (mut bed, kind) = bed();
    let door = bed.open(kind);
    bed.send(door, &REQUEST[..REQUEST.len() - 1]);
    bed.pass(Settings::default().connect_timeout);
    assert!(bed.wire(door).finished && bed.wire(door).written.is_empty());
    assert_eq!(bed.counter("layer_timeouts"), 1);
}

#[test]
fn a_stream_that_ends_without_a_close_is_the_end_of_the_connection() {
    let (mut bed, kind) = bed();
    let door = client(&mut bed, kind, "c");
    bed.end(door);
    assert_eq!(closed_with(&mut bed, door), 1000);
    bed.end(door);
    assert_eq!(bed.counter("links"), 0);
}

// Covers 5.0: 6.0.0-1 6.0.0-2
// Covers 3.1.1: 6.0.0-1 6.0.0-2
#[test]
fn websocket_lies_in_tls() {
    let mut bed = Bed::new();
    let kind = bed.shard.add_door_kind(DoorKind { websocket: websocket_kind().websocket, ..tls_kind() });
    for piece in [usize::MAX, 1] {
        let mut client = TlsClient::connect(&mut bed, kind, tls13());
        client.piece = piece;
        client.send(&mut bed, REQUEST);
        assert!(std::mem::take(&mut client.heard).starts_with(b"HTTP/1.1 101 "));
        let sent = [binary(&connect("c")), binary(&subscribe("t")), binary(&publish("t", &[1; 30_000]))];
        client.send(&mut bed, &sent.concat());
        client.send(&mut bed, &frame(LAST | PING, b"x"));
        let (mqtt, control) = read_frames(&std::mem::take(&mut client.heard));
        assert_eq!(packets(&mqtt), ["CONNACK 0x00", "SUBACK [00]", "PUBLISH of 30000 bytes"]);
        assert_eq!(control, [(PONG, b"x".to_vec())]);
        client.send(&mut bed, &frame(LAST | TEXT, b"hello"));
        assert_eq!(read_frames(&client.heard).1, [(CLOSE, 1003u16.to_be_bytes().to_vec())]);
        assert!(client.ended && bed.wire(client.door).finished, "close frame, close_notify, end");
        bed.end(client.door);
    }
    assert_eq!(bed.counter("links"), 0);
}

#[test]
fn a_refusal_in_tls_is_heard() {
    let mut bed = Bed::new();
    let kind = bed.shard.add_door_kind(DoorKind { websocket: websocket_kind().websocket, ..tls_kind() });
    let mut client = TlsClient::connect(&mut bed, kind, tls13());
    client.send(&mut bed, b"POST /mqtt HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(client.heard.starts_with(b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\n"));
    assert!(client.ended && bed.wire(client.door).finished);
}
