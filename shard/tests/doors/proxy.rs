//! PROXY headers in front of everything else.

use std::net::SocketAddr;

use quelea_shard::door::{DoorKind, DoorKindId, ProxyRules};
use quelea_shard::{DoorId, Settings};

use crate::bed::{Bed, TlsClient, connect, packets, tls_kind, tls13};

const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 1883\r\n";

fn bed(kind: DoorKind) -> (Bed, DoorKindId) {
    let mut bed = Bed::new();
    let kind = bed.shard.add_door_kind(DoorKind { proxy: Some(ProxyRules::default()), ..kind });
    (bed, kind)
}

fn heard(bed: &mut Bed, door: DoorId) -> Vec<String> {
    packets(&bed.wire(door).written.split())
}

fn address(text: &str) -> Option<SocketAddr> {
    Some(text.parse().expect("an address"))
}

#[test]
fn the_client_is_the_one_that_the_header_names() {
    let (mut bed, kind) = bed(DoorKind::PLAIN);
    let stream = [HEADER, &connect("c")].concat();
    for piece in [stream.len(), 1, HEADER.len(), HEADER.len() + 1] {
        let door = bed.open(kind);
        assert_eq!(bed.shard.door_peer(door), address("127.0.0.1:40000"));
        stream.chunks(piece).for_each(|piece| bed.send(door, piece));
        assert_eq!(bed.shard.door_peer(door), address("192.0.2.7:40000"));
        assert_eq!(heard(&mut bed, door), ["CONNACK 0x00"]);
    }
}

#[test]
fn a_health_check_keeps_its_address() {
    let (mut bed, kind) = bed(DoorKind::PLAIN);
    let door = bed.open(kind);
    bed.send(door, b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00");
    assert_eq!(bed.shard.door_peer(door), address("127.0.0.1:40000"));
    bed.end(door);
    assert_eq!((bed.counter("proxy_refused"), bed.counter("links")), (0, 1));
    assert!(bed.wire(door).finished);
}

#[test]
fn tls_follows_the_header() {
    let (mut bed, kind) = bed(tls_kind());
    let mut client = TlsClient::open(&mut bed, kind, tls13());
    bed.send(client.door, HEADER);
    client.send(&mut bed, &connect("c"));
    assert_eq!(packets(&client.heard), ["CONNACK 0x00"]);
    assert_eq!(bed.shard.door_peer(client.door), address("192.0.2.7:40000"));
    assert_eq!(bed.counter("tls_handshakes"), 1);
}

#[test]
fn a_client_without_a_header_is_closed_without_a_word() {
    let (mut bed, kind) = bed(DoorKind::PLAIN);
    let door = bed.open(kind);
    bed.send(door, &connect("c"));
    assert!(bed.wire(door).finished && bed.wire(door).written.is_empty());
    assert_eq!((bed.counter("proxy_refused"), bed.counter("connects")), (1, 0));
}

#[test]
fn strangers_are_not_let_in() {
    let mut bed = Bed::new();
    let rules = ProxyRules { trusted: vec!["10.0.0.0/8".parse().expect("a range")] };
    let kind = bed.shard.add_door_kind(DoorKind { proxy: Some(rules), ..DoorKind::PLAIN });
    let stranger = bed.open_from(kind, "192.0.2.9:1".parse().expect("an address"));
    assert!(bed.wire(stranger).aborted);
    assert_eq!(bed.counter("proxy_refused"), 1);
    let known = bed.open_from(kind, "10.9.9.9:1".parse().expect("an address"));
    bed.send(known, &[HEADER, &connect("c")].concat());
    assert_eq!(heard(&mut bed, known), ["CONNACK 0x00"]);
}

#[test]
fn a_header_that_does_not_end_is_ended_at_the_deadline() {
    let (mut bed, kind) = bed(DoorKind::PLAIN);
    let door = bed.open(kind);
    bed.send(door, &HEADER[..10]);
    bed.pass(Settings::default().connect_timeout);
    assert!(bed.wire(door).finished);
    assert_eq!(bed.counter("layer_timeouts"), 1);
}
