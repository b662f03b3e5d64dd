//! MQTT in TLS.

use std::time::Duration;

use quelea_shard::door::{DoorKind, DoorKindId, DoorTls};
use quelea_shard::{DoorId, Settings};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};

use crate::bed::{
    Bed, PINGREQ, TlsClient, certificates, client_config, connect, packets, provider, publish, roots,
    server_config, subscribe, tls_kind, tls13,
};

fn with_tls(settings: Settings) -> (Bed, DoorKindId) {
    let mut bed = Bed::with(settings);
    let kind = bed.shard.add_door_kind(tls_kind());
    (bed, kind)
}

fn bed() -> (Bed, DoorKindId) {
    with_tls(Settings::default())
}

/// A client that is connected, its CONNACK taken.
fn client(bed: &mut Bed, kind: DoorKindId, id: &str) -> TlsClient {
    let mut client = TlsClient::connect(bed, kind, tls13());
    client.send(bed, &connect(id));
    assert_eq!(packets(&std::mem::take(&mut client.heard)), ["CONNACK 0x00"]);
    client
}

#[test]
fn a_client_of_either_version_connects_and_hears_itself() {
    for version in [&TLS12, &TLS13] {
        let (mut bed, kind) = bed();
        let mut client = TlsClient::connect(&mut bed, kind, client_config(version, false));
        client.send(&mut bed, &[connect("c"), subscribe("t"), publish("t", b"hello")].concat());
        assert_eq!(packets(&client.heard), ["CONNACK 0x00", "SUBACK [00]", "PUBLISH of 5 bytes"]);
        assert_eq!(bed.counter("tls_handshakes"), 1);
        assert_eq!(bed.counter("tls_handshakes_in_flight"), 0);
    }
}

#[test]
fn a_client_may_send_byte_by_byte() {
    for version in [&TLS12, &TLS13] {
        let (mut bed, kind) = bed();
        let mut client = TlsClient::open(&mut bed, kind, client_config(version, false));
        client.piece = 1;
        client.exchange(&mut bed).expect("a handshake");
        client.send(&mut bed, &[connect("c"), subscribe("t"), publish("t", &[7; 20_000])].concat());
        assert_eq!(packets(&client.heard), ["CONNACK 0x00", "SUBACK [00]", "PUBLISH of 20000 bytes"]);
    }
}

#[test]
fn connect_may_come_with_the_last_bytes_of_the_handshake() {
    let (mut bed, kind) = bed();
    let mut client = TlsClient::open(&mut bed, kind, tls13());
    // rustls keeps it back until the handshake lets it go, and then sends both at once.
    client.send(&mut bed, &connect("c"));
    assert_eq!(packets(&client.heard), ["CONNACK 0x00"]);
}

#[test]
fn large_payloads_cross_whole_both_ways() {
    let (mut bed, kind) = bed();
    let mut client = client(&mut bed, kind, "c");
    client.tls.set_buffer_limit(None);
    client.send(&mut bed, &subscribe("t"));
    client.send(&mut bed, &publish("t", &vec![9; 1_000_000]));
    assert_eq!(packets(&client.heard), ["SUBACK [00]", "PUBLISH of 1000000 bytes"]);
}

#[test]
fn keys_may_be_changed() {
    let (mut bed, kind) = bed();
    let mut client = client(&mut bed, kind, "c");
    for _ in 0..3 {
        client.tls.refresh_traffic_keys().expect("TLS 1.3");
        client.send(&mut bed, &PINGREQ);
    }
    assert_eq!(packets(&client.heard), ["PINGRESP"; 3]);
}

#[test]
fn a_second_handshake_is_shortened_by_a_ticket() {
    let (mut bed, kind) = bed();
    for version in [&TLS12, &TLS13] {
        let config = client_config(version, false);
        TlsClient::connect(&mut bed, kind, config.clone()).send(&mut bed, &connect("first"));
        let mut second = TlsClient::connect(&mut bed, kind, config);
        assert_eq!(second.tls.handshake_kind(), Some(rustls::HandshakeKind::Resumed), "{version:?}");
        second.send(&mut bed, &connect("second"));
        assert_eq!(packets(&second.heard), ["CONNACK 0x00"]);
    }
}

#[test]
fn one_turn_writes_one_record_of_many_packets() {
    let (mut bed, kind) = bed();
    let mut client = client(&mut bed, kind, "c");
    let records = |bed: &mut Bed, door: DoorId| {
        let written = bed.wire(door).written.clone();
        let mut rest = &written[..];
        let mut records = 0;
        while let [_, _, _, high, low, after @ ..] = rest {
            rest = &after[usize::from(u16::from_be_bytes([*high, *low]))..];
            records += 1;
        }
        records
    };
    std::io::Write::write_all(&mut client.tls.writer(), &PINGREQ.repeat(100)).expect("room");
    let mut out = Vec::new();
    client.tls.write_tls(&mut out).expect("memory");
    bed.send(client.door, &out);
    assert_eq!(records(&mut bed, client.door), 1);
    client.exchange(&mut bed).expect("records");
    assert_eq!(packets(&client.heard).len(), 100);
}

#[test]
fn a_write_is_bounded_and_the_rest_waits_as_mqtt() {
    let (mut bed, kind) = bed();
    let mut subscriber = client(&mut bed, kind, "s");
    subscriber.send(&mut bed, &subscribe("t"));
    subscriber.heard.clear();
    let mut publisher = client(&mut bed, kind, "p");
    publisher.tls.set_buffer_limit(None);

    bed.stall(subscriber.door, true);
    publisher.send(&mut bed, &publish("t", &vec![1; 500_000]));
    let in_flight: usize = bed.wire(subscriber.door).in_flight.iter().sum();
    assert!((60_000..70_000).contains(&in_flight), "{in_flight} bytes in one write");
    bed.stall(subscriber.door, false);
    subscriber.exchange(&mut bed).expect("records");
    assert_eq!(packets(&subscriber.heard), ["PUBLISH of 500000 bytes"]);
}

#[test]
fn a_client_that_does_not_read_is_not_read() {
    let (mut bed, kind) = bed();
    let mut client = client(&mut bed, kind, "c");
    client.tls.set_buffer_limit(None);
    bed.stall(client.door, true);
    let flood = PINGREQ.repeat(4_096);
    let mut sent = 0;
    while !bed.wire(client.door).paused {
        sent += flood.len();
        assert!(sent < 4 << 20, "{sent} bytes were taken");
        client.send(&mut bed, &flood);
    }
    bed.stall(client.door, false);
    client.exchange(&mut bed).expect("records");
    assert!(!bed.wire(client.door).paused);
    assert_eq!(packets(&client.heard).len(), sent / PINGREQ.len());
}

#[test]
fn a_refusal_is_heard_before_the_end() {
    for version in [&TLS12, &TLS13] {
        let (mut bed, kind) = bed();
        let mut client = TlsClient::connect(&mut bed, kind, client_config(version, false));
        // Version 9 of the protocol.
        client.send(&mut bed, &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 9, 2, 0, 0, 0, 0]);
        assert_eq!(client.heard[0], 0x20, "a CONNACK");
        assert!(client.ended, "close_notify follows it");
        assert!(bed.wire(client.door).finished);
        bed.end(client.door);
        assert_eq!(bed.counter("links"), 0);
        assert_eq!(bed.counter("tls_truncated"), 0);
    }
}

#[test]
fn close_notify_ends_the_connection_in_order() {
    let (mut bed, kind) = bed();
    let mut client = client(&mut bed, kind, "c");
    client.tls.send_close_notify();
    client.send(&mut bed, b"");
    assert!(client.ended && bed.wire(client.door).finished);
    // What comes behind it is not MQTT, and is not kept.
    bed.send(client.door, &[0x17; 4_096]);
    bed.end(client.door);
    assert_eq!((bed.counter("tls_truncated"), bed.counter("links")), (0, 0));
}

#[test]
fn a_stream_that_ends_without_close_notify_is_counted() {
    let (mut bed, kind) = bed();
    let client = client(&mut bed, kind, "c");
    bed.end(client.door);
    assert_eq!(bed.counter("tls_truncated"), 1);
    assert!(bed.wire(client.door).finished);
    bed.reset(client.door);
    assert_eq!(bed.counter("links"), 0);
}

#[test]
fn what_is_not_tls_gets_an_alert_and_the_end() {
    let (mut bed, kind) = bed();
    let door = bed.open(kind);
    bed.send(door, &connect("not a ClientHello"));
    assert_eq!(bed.wire(door).written[0], 21, "an alert");
    assert!(bed.wire(door).finished);
    assert_eq!((bed.counter("tls_handshakes_failed"), bed.counter("tls_handshakes_in_flight")), (1, 0));
}

#[test]
fn a_damaged_record_gets_an_alert_and_the_end() {
    let (mut bed, kind) = bed();
    let mut client = client(&mut bed, kind, "c");
    bed.send(client.door, &[0x17, 3, 3, 0, 32].iter().copied().chain([0; 32]).collect::<Vec<u8>>());
    let alert = client.exchange(&mut bed);
    assert!(matches!(alert, Err(rustls::Error::AlertReceived(_))), "{alert:?}");
    assert!(bed.wire(client.door).finished);
    assert_eq!(bed.counter("tls_errors"), 1);
}

/// Nobody reads on behind a wrong record, so what came with it is not kept until the client has heard the alert.
#[test]
fn a_connection_that_has_failed_keeps_nothing_of_what_came() {
    let (mut bed, kind) = bed();
    let client = client(&mut bed, kind, "c");
    bed.stall(client.door, true);
    let damaged = [&[0x17, 3, 3, 0, 32][..], &[0; 32], &[0; 40_000]].concat();
    bed.send(client.door, &damaged);
    assert_eq!(bed.counter("tls_errors"), 1);
    assert!(!bed.wire(client.door).finished, "the alert is still under way");
    assert_eq!(bed.shard.door_received_bytes(client.door), 0);
}

/// Handshakes with wrong bytes in them, cut at random: some alert or silence comes, and the shard stays whole.
#[test]
fn damaged_handshakes_harm_nobody() {
    let (mut bed, kind) = bed();
    let mut random = fastrand::Rng::with_seed(5);
    let mut completed = 0;
    for _ in 0..600 {
        let version = if random.bool() { &TLS12 } else { &TLS13 };
        let mut client = TlsClient::open(&mut bed, kind, client_config(version, false));
        for _ in 0..4 {
            let mut out = Vec::new();
            while client.tls.wants_write() {
                client.tls.write_tls(&mut out).expect("memory");
            }
            if !out.is_empty() && random.u8(..) < 180 {
                let at = random.usize(..out.len());
                match random.u8(..3) {
                    0 => out[at] ^= 1 << random.u8(..8),
                    1 => out.truncate(at),
                    _ => out.insert(at, random.u8(..)),
                }
            }
            while !out.is_empty() {
                let rest = out.split_off(random.usize(1..=out.len()));
                bed.send(client.door, &out);
                out = rest;
            }
            let written = bed.wire(client.door).written.split();
            if client.tls.read_tls(&mut &written[..]).is_err() || client.tls.process_new_packets().is_err() {
                break;
            }
        }
        completed += usize::from(!client.tls.is_handshaking());
        bed.reset(client.door);
    }
    assert!((20..500).contains(&completed), "{completed} of 600 came through");
    assert_eq!((bed.counter("links"), bed.counter("tls_handshakes_in_flight")), (0, 0));
}

#[test]
fn a_handshake_that_does_not_end_is_ended_at_the_deadline() {
    let (mut bed, kind) = bed();
    let door = bed.open(kind);
    bed.send(door, &[22, 3, 1, 1]);
    bed.pass(Settings::default().connect_timeout - Duration::from_millis(1));
    assert!(!bed.wire(door).finished);
    bed.pass(Duration::from_millis(1));
    assert!(bed.wire(door).finished);
    assert_eq!(bed.counter("layer_timeouts"), 1);
    assert_eq!(bed.counter("tls_handshakes_in_flight"), 0, "though its client has not gone");
    bed.reset(door);
    assert_eq!((bed.counter("links"), bed.counter("tls_handshakes_in_flight")), (0, 0));
}

#[test]
fn handshakes_in_flight_have_a_maximum() {
    let (mut bed, kind) = with_tls(Settings { tls_handshakes_max: 2, ..Settings::default() });
    // Who says nothing takes nobody's place.
    let silent = [bed.open(kind), bed.open(kind), bed.open(kind)];
    assert_eq!(bed.counter("tls_handshakes_in_flight"), 0);
    let begun = [bed.open(kind), bed.open(kind), bed.open(kind)];
    for door in begun {
        bed.send(door, &[22, 3, 1]);
    }
    assert_eq!(begun.map(|door| bed.wire(door).aborted), [false, false, true]);
    assert_eq!((bed.counter("tls_handshakes_refused"), bed.counter("tls_handshakes_in_flight")), (1, 2));
    // One that fails makes room, though its client does not go, and so does one that is done.
    bed.send(begun[0], b"not TLS");
    assert_eq!(bed.counter("tls_handshakes_in_flight"), 1);
    for _ in 0..2 {
        TlsClient::connect(&mut bed, kind, tls13());
    }
    assert_eq!((bed.counter("tls_handshakes_refused"), bed.counter("tls_handshakes_in_flight")), (1, 1));
    assert_eq!(silent.map(|door| bed.wire(door).finished), [false; 3]);
}

#[test]
fn handshakes_wait_for_their_turn_in_the_order_of_their_coming() {
    let (mut bed, kind) = bed();
    let mut clients: Vec<_> = (0..3).map(|_| TlsClient::open(&mut bed, kind, tls13())).collect();
    bed.handshakes_per_turn = 0;
    for client in &mut clients {
        client.exchange(&mut bed).expect("silence");
        assert!(client.tls.is_handshaking());
    }
    assert!(bed.shard.has_handshakes());
    for answered in 1..=3 {
        let mut once = false;
        bed.shard.accept_handshakes(bed.now, || std::mem::replace(&mut once, true));
        bed.run();
        let heard = clients.iter().map(|client| !bed.wires[&client.door.0].written.is_empty());
        assert_eq!(heard.collect::<Vec<_>>(), [answered > 0, answered > 1, answered > 2]);
    }
    assert!(!bed.shard.has_handshakes());
}

#[test]
fn a_stream_that_ends_while_its_handshake_waits_is_heard_out() {
    let (mut bed, kind) = bed();
    let mut client = TlsClient::open(&mut bed, kind, tls13());
    let mut hello = Vec::new();
    client.tls.write_tls(&mut hello).expect("memory");
    bed.send(client.door, &hello);
    let written = bed.wire(client.door).written.split();
    client.tls.read_tls(&mut &written[..]).expect("memory");
    client.tls.process_new_packets().expect("the server's flight");
    // Finished, CONNECT and the end in one batch.
    std::io::Write::write_all(&mut client.tls.writer(), &connect("c")).expect("room");
    client.tls.send_close_notify();
    let mut rest = Vec::new();
    while client.tls.wants_write() {
        client.tls.write_tls(&mut rest).expect("memory");
    }
    bed.handshakes_per_turn = 0;
    bed.send(client.door, &rest);
    bed.end(client.door);
    assert_eq!(bed.counter("connects"), 0);
    bed.handshakes_per_turn = 1;
    bed.run();
    assert_eq!((bed.counter("connects"), bed.counter("tls_truncated")), (1, 0));
    client.exchange(&mut bed).expect("records");
    assert_eq!(packets(&client.heard), ["CONNACK 0x00"]);
    assert!(bed.wire(client.door).finished);
}

#[test]
fn reading_pauses_while_much_waits_for_a_handshake() {
    let (mut bed, kind) = bed();
    bed.handshakes_per_turn = 0;
    let door = bed.open(kind);
    // The beginning of a ClientHello of 32 KiB in a record of full size.
    let record: Vec<u8> = [22, 3, 1, 0x40, 0, 1, 0, 0x80, 0].into_iter().chain([0; 0x3ffc]).collect();
    bed.send(door, &record);
    assert!(bed.wire(door).paused);
    bed.handshakes_per_turn = 1;
    bed.run();
    assert!(!bed.wire(door).paused);
}

#[test]
fn a_required_certificate_is_asked_for_and_can_be_read() {
    for version in [&TLS12, &TLS13] {
        let mut bed = Bed::new();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots(), provider()).build().expect("a verifier");
        let tls = DoorTls::new(server_config(Some(verifier))).expect("a configuration");
        let kind = bed.shard.add_door_kind(DoorKind { tls: Some(tls), ..DoorKind::PLAIN });

        let mut known = TlsClient::connect(&mut bed, kind, client_config(version, true));
        known.send(&mut bed, &connect("known"));
        assert_eq!(packets(&known.heard), ["CONNACK 0x00"]);
        assert_eq!(bed.shard.door_certificates(known.door), [certificates().client.clone()]);

        let mut stranger = TlsClient::open(&mut bed, kind, client_config(version, false));
        let refused = stranger.exchange(&mut bed);
        assert!(matches!(refused, Err(rustls::Error::AlertReceived(_))), "{refused:?}");
        assert!(bed.wire(stranger.door).finished);
        assert_eq!(bed.counter("tls_handshakes_failed"), 1);
    }
}

#[test]
fn an_optional_certificate_may_be_missing() {
    let mut bed = Bed::new();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(), provider());
    let verifier = verifier.allow_unauthenticated().build().expect("a verifier");
    let tls = DoorTls::new(server_config(Some(verifier))).expect("a configuration");
    let kind = bed.shard.add_door_kind(DoorKind { tls: Some(tls), ..DoorKind::PLAIN });
    let anonymous = client(&mut bed, kind, "c");
    assert!(bed.shard.door_certificates(anonymous.door).is_empty());
}

#[test]
fn a_kind_has_a_maximum_of_its_own() {
    let mut bed = Bed::new();
    let few = bed.shard.add_door_kind(DoorKind { connections_max: 1, ..tls_kind() });
    let many = bed.shard.add_door_kind(tls_kind());
    let mut first = TlsClient::connect(&mut bed, few, tls13());
    let second = bed.open(few);
    assert!(bed.wire(second).aborted);
    assert_eq!(bed.counter("doors_refused"), 1);
    client(&mut bed, many, "elsewhere");
    first.send(&mut bed, &connect("c"));
    bed.reset(first.door);
    client(&mut bed, few, "after it");
    assert_eq!(bed.counter("doors_refused"), 1);
}

#[test]
fn a_drained_broker_says_so_in_every_layer() {
    let (mut bed, kind) = bed();
    let mut client = client(&mut bed, kind, "c");
    let waiting = bed.open(kind);
    let deadline = bed.now + Duration::from_secs(5);
    bed.shard.handle_order(bed.now, quelea_shard::Order::Drain { deadline });
    bed.run();
    client.exchange(&mut bed).expect("records");
    assert_eq!(packets(&client.heard), ["DISCONNECT 0x8b"]);
    assert!(client.ended && bed.wire(client.door).finished && bed.wire(waiting).finished);
}
