//! Who is not let in: the maximum of a network, and what the log learns of every refusal.

use std::net::SocketAddr;

use quelea_shard::door::{DoorKind, DoorKindId, ProxyRules};
use quelea_shard::{DoorId, Entrance, Settings};

use crate::bed::{Bed, TlsClient, connect, packets, provider, tls_kind, tls13, websocket_kind};

/// A bed and a kind that takes `per_network` connections of a network.
fn bed(per_network: usize, kind: DoorKind) -> (Bed, DoorKindId) {
    let mut bed = Bed::new();
    let kind = bed.shard.add_door_kind(DoorKind { connections_per_prefix_max: per_network, ..kind });
    (bed, kind)
}

fn open(bed: &mut Bed, kind: DoorKindId, peer: &str) -> DoorId {
    bed.open_from(kind, peer.parse().expect("an address"))
}

fn is_refused(bed: &mut Bed, door: DoorId) -> bool {
    bed.wire(door).aborted
}

fn header(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 198.51.100.1 40000 1883\r\n").into_bytes()
}

/// Why the first of those was refused that came since the last, and who it was.
fn refusal(bed: &mut Bed, kind: DoorKindId) -> (SocketAddr, String) {
    let refusal = bed.shard.take_refusal().expect("one was refused");
    assert_eq!(refusal.entrance, Entrance::Door(kind));
    (refusal.peer, refusal.why.into_owned())
}

#[test]
fn a_network_has_its_maximum_and_gets_a_place_back_with_every_end() {
    let (mut bed, kind) = bed(2, DoorKind::PLAIN);
    let first = open(&mut bed, kind, "192.0.2.1:1");
    let second = open(&mut bed, kind, "192.0.2.1:2");
    let third = open(&mut bed, kind, "192.0.2.1:3");
    assert_eq!([first, second, third].map(|door| is_refused(&mut bed, door)), [false, false, true]);
    let neighbour = open(&mut bed, kind, "192.0.2.2:1");
    let mapped = open(&mut bed, kind, "[::ffff:192.0.2.1]:4");
    assert_eq!([neighbour, mapped].map(|door| is_refused(&mut bed, door)), [false, true]);
    assert_eq!((bed.counter("doors_refused_prefix"), bed.counter("doors_refused")), (2, 0));

    bed.send(second, &connect("c"));
    bed.reset(second);
    let late = open(&mut bed, kind, "192.0.2.1:5");
    assert!(!is_refused(&mut bed, late));
    let one_too_many = open(&mut bed, kind, "192.0.2.1:6");
    assert!(is_refused(&mut bed, one_too_many));
}

#[test]
fn an_ipv6_household_is_one_network() {
    let (mut bed, kind) = bed(1, DoorKind::PLAIN);
    let doors = ["[2001:db8:0:1::1]:1", "[2001:db8:0:1:ffff::2]:1", "[2001:db8:0:2::1]:1"]
        .map(|peer| open(&mut bed, kind, peer));
    assert_eq!(doors.map(|door| is_refused(&mut bed, door)), [false, true, false]);
}

#[test]
fn one_listeners_maximum_is_not_anothers() {
    let (mut bed, few) = bed(1, DoorKind::PLAIN);
    let more = bed.shard.add_door_kind(DoorKind { connections_per_prefix_max: 2, ..DoorKind::PLAIN });
    let doors = [few, more, more, more, DoorKindId::PLAIN].map(|kind| open(&mut bed, kind, "192.0.2.1:1"));
    assert_eq!(doors.map(|door| is_refused(&mut bed, door)), [false, false, false, true, false]);
}

#[test]
fn behind_a_load_balancer_it_is_the_named_client_that_counts() {
    let (mut bed, kind) = bed(1, DoorKind { proxy: Some(ProxyRules::default()), ..DoorKind::PLAIN });
    let enter = |bed: &mut Bed, client: &str, id: &str| {
        let door = open(bed, kind, "10.0.0.1:1");
        bed.send(door, &[header(client), connect(id)].concat());
        (door, packets(&bed.wire(door).written.split()))
    };
    let (first, answer) = enter(&mut bed, "192.0.2.1", "a");
    assert_eq!(answer, ["CONNACK 0x00"]);
    assert_eq!(enter(&mut bed, "192.0.2.2", "b").1, ["CONNACK 0x00"]);
    let (refused, answer) = enter(&mut bed, "192.0.2.1", "c");
    assert!(answer.is_empty() && bed.wire(refused).aborted, "closed without a word: {answer:?}");
    assert_eq!((bed.counter("doors_refused_prefix"), bed.counter("connects")), (1, 2));
    let (peer, why) = refusal(&mut bed, kind);
    assert_eq!(
        (peer.to_string().as_str(), &*why),
        ("192.0.2.1:40000", "its network has its maximum of connections")
    );
    // The one that was refused takes no place with it when it goes.
    bed.end(refused);
    assert!(enter(&mut bed, "192.0.2.1", "d").1.is_empty());
    bed.reset(first);
    assert_eq!(enter(&mut bed, "192.0.2.1", "e").1, ["CONNACK 0x00"]);
}

#[test]
fn handshakes_of_a_network_in_flight_have_a_maximum_and_other_networks_go_on() {
    let mut bed = Bed::new();
    let kind = bed.shard.add_door_kind(DoorKind { handshakes_per_prefix_max: 1, ..tls_kind() });
    let [begun, refused] = [bed.open(kind), bed.open(kind)];
    bed.send(begun, &[22, 3, 1]);
    bed.send(refused, &[22, 3, 1]);
    assert!(bed.wire(refused).aborted);
    assert_eq!(refusal(&mut bed, kind).1, "its network has its maximum of TLS handshakes in flight");
    assert_eq!((bed.counter("tls_handshakes_refused_prefix"), bed.counter("doors_refused_prefix")), (1, 0));
    let neighbour = open(&mut bed, kind, "192.0.2.1:1");
    bed.send(neighbour, &[22, 3, 1]);
    assert!(!bed.wire(neighbour).finished);
    // One that ends, fails or completes makes room for the next.
    bed.reset(begun);
    let noise = bed.open(kind);
    bed.send(noise, b"GET / HTTP/1.1\r\n\r\n");
    for id in ["a", "b"] {
        let mut client = TlsClient::connect(&mut bed, kind, tls13());
        client.send(&mut bed, &connect(id));
        assert_eq!(packets(&client.heard), ["CONNACK 0x00"]);
    }
    assert_eq!(bed.counter("tls_handshakes_in_flight"), 1, "the neighbour's");
}

#[test]
fn handshakes_of_a_site_in_flight_have_a_maximum_over_all_its_networks() {
    let mut bed = Bed::new();
    let kind = bed.shard.add_door_kind(DoorKind { handshakes_per_site_max: 2, ..tls_kind() });
    let mut begin = |peer: &str| {
        let door = open(&mut bed, kind, peer);
        bed.send(door, &[22, 3, 1]);
        (door, is_refused(&mut bed, door))
    };
    let households = ["[2001:db8:1:1::1]:1", "[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1"].map(&mut begin);
    assert_eq!(households.map(|(_, refused)| refused), [false, false, true]);
    assert!(!begin("[2001:db8:2:1::1]:1").1, "a neighbour");
    assert_eq!(refusal(&mut bed, kind).1, "its site has its maximum of TLS handshakes in flight");
    assert_eq!((bed.counter("tls_handshakes_refused_site"), bed.counter("tls_handshakes_in_flight")), (1, 3));
    // One that ends makes room for the next.
    bed.reset(households[0].0);
    let late = open(&mut bed, kind, "[2001:db8:1:4::1]:1");
    bed.send(late, &[22, 3, 1]);
    assert!(!is_refused(&mut bed, late));
}

#[test]
fn of_many_refusals_the_first_is_told_and_the_others_are_counted() {
    let (mut bed, kind) = bed(1, DoorKind::PLAIN);
    for port in 1..=5 {
        bed.open_from(kind, SocketAddr::from(([192, 0, 2, 1], port)));
    }
    let refusal = bed.shard.take_refusal().expect("four were refused");
    assert_eq!((refusal.peer.port(), refusal.others), (2, 3));
    assert_eq!(bed.shard.take_refusal(), None);
}

#[test]
fn a_failed_handshake_says_whose_words_they_are() {
    let (mut bed, kind) = bed(usize::MAX, tls_kind());
    let noise = bed.open(kind);
    bed.send(noise, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(refusal(&mut bed, kind).1, "received corrupt message of type InvalidContentType");

    // A client that trusts nobody we know says so in an alert.
    let trusts_nobody = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut stranger = TlsClient::open(&mut bed, kind, trusts_nobody);
    assert!(stranger.exchange(&mut bed).is_err());
    assert_eq!(bed.shard.take_refusal(), None, "it has not told yet");
    stranger.exchange(&mut bed).expect("the alert alone");
    let why = refusal(&mut bed, kind).1;
    assert!(why.starts_with("received fatal alert: "), "{why}");
}

#[test]
fn a_maximum_a_wrong_request_and_silence_have_their_words() {
    let (mut bed, kind) = bed(usize::MAX, websocket_kind());
    let door = bed.open(kind);
    bed.send(door, b"GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(refusal(&mut bed, kind).1, "its request does not open a WebSocket here");
    bed.open(kind);
    bed.pass(Settings::default().connect_timeout);
    assert_eq!(refusal(&mut bed, kind).1, "its request for a WebSocket did not come in time");

    let full = bed.shard.add_door_kind(DoorKind { connections_max: 1, ..tls_kind() });
    let _first = TlsClient::connect(&mut bed, full, tls13());
    bed.open(full);
    assert_eq!(refusal(&mut bed, full).1, "the listener has its maximum of connections");
}
