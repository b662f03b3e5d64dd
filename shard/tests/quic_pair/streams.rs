//! Streams: bytes both ways, their ends, and the windows that hold them back.

use std::time::Duration;

use quelea_shard::quic::{Alpn, QuicEvent, QuicSettings, ReadEnd, StreamId};

use crate::world::{Certificate, ClientRead, World};

const STREAM_0: StreamId = StreamId(0);

fn world() -> (World, Certificate) {
    let certificate = Certificate::new("localhost");
    (World::with_tls(&QuicSettings::default(), 1, &certificate), certificate)
}

#[test]
fn a_handshake_is_announced_once_with_its_protocol() {
    let (mut world, certificate) = world();
    let (client, conn) = world.connect(&certificate);
    assert!(world.clients[client].is_connected());
    let expected = QuicEvent::Connected { conn, alpn: Alpn::Mqtt, peer: world.clients[client].address };
    assert_eq!(world.broker.events, [(0, expected)]);
    let quic = &world.broker.shards[0];
    assert_eq!((quic.connections(), quic.alpn(conn)), (1, Some(&b"mqtt"[..])));
    assert_eq!(quic.peer(conn), Some(world.clients[client].address));
}

#[test]
fn bytes_and_ends_are_echoed_both_ways() {
    let (mut world, certificate) = world();
    world.broker.echo = true;
    let (client, conn) = world.connect(&certificate);
    let stream = world.clients[client].open();
    assert_eq!(world.clients[client].write(stream, b"hello"), 5);
    world.run(Duration::from_millis(100));
    let mut back = Vec::new();
    assert_eq!(world.clients[client].read(stream, &mut back), ClientRead::Open);
    world.clients[client].write(stream, b", world");
    world.clients[client].finish(stream);
    world.run(Duration::from_millis(200));
    assert_eq!(world.clients[client].read(stream, &mut back), ClientRead::Finished);
    assert_eq!(back, b"hello, world");
    assert_eq!(world.broker.ends[&(conn, STREAM_0)], ReadEnd::Finished);
    let opened = QuicEvent::StreamOpened { conn, stream: STREAM_0 };
    assert!(world.broker.events.contains(&(0, opened)));
    assert!(world.broker.events.contains(&(0, QuicEvent::Finished { conn, stream: STREAM_0 })));
}
