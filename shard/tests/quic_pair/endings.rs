//! How connections end, and what is left of them.

use std::time::Duration;

use bytes::Bytes;
use quelea_shard::quic::{CloseWhy, ConnId, QuicEvent, QuicSettings, ReadEnd, StreamId, WriteEnd};

use crate::world::{Certificate, World};

fn connected() -> (World, usize, ConnId) {
    let certificate = Certificate::new("localhost");
    let mut world = World::new(&QuicSettings::default(), 1, &certificate);
    let (client, conn) = world.connect(&certificate);
    (world, client, conn)
}

/// Why the broker's connections were closed, in order.
fn closings(world: &World) -> Vec<CloseWhy> {
    let closing = |(_, event): &(usize, QuicEvent)| match event {
        QuicEvent::Closed { why, .. } => Some(why.clone()),
        _ => None,
    };
    world.broker.events.iter().filter_map(closing).collect()
}

#[test]
fn the_peers_close_arrives_with_code_and_reason() {
    let (mut world, client, _) = connected();
    let now = world.now;
    world.clients[client].close(now, 0x38e, b"taken over");
    world.run(Duration::from_secs(5));
    assert_eq!(closings(&world), [CloseWhy::Application(0x38e, Bytes::from_static(b"taken over"))]);
    assert_eq!(world.broker.shards[0].connections(), 0);
}

#[test]
fn our_close_reaches_the_peer_with_code_and_reason() {
    let (mut world, client, conn) = connected();
    let now = world.now;
    world.broker.shards[0].close(now, conn, 0x98, b"kicked");
    // A second close, or one of a stale name, does nothing.
    world.broker.shards[0].close(now, conn, 1, b"");
    world.run(Duration::from_secs(5));
    world.broker.shards[0].close(now, conn, 2, b"");
    world.run(Duration::from_secs(5));
    let lost = world.clients[client].lost().expect("it heard of it");
    assert!(lost.contains("ApplicationClosed") && lost.contains("152") && lost.contains("kicked"), "{lost}");
    assert_eq!(closings(&world), [CloseWhy::LocallyClosed]);
}

#[test]
fn silence_ends_a_connection_after_the_idle_timeout() {
    let (mut world, client, _) = connected();
    world.clients[client].dead = true;
    world.run(Duration::from_secs(119));
    assert_eq!(closings(&world), []);
    world.run(Duration::from_secs(2));
    assert_eq!(closings(&world), [CloseWhy::IdleTimeout]);
}

#[test]
fn a_stale_name_finds_nothing_even_when_its_slot_is_used_again() {
    let certificate = Certificate::new("localhost");
    let mut world = World::new(&QuicSettings::default(), 1, &certificate);
    let (client, first) = world.connect(&certificate);
    let now = world.now;
    world.clients[client].close(now, 0, b"");
    world.run(Duration::from_secs(5));
    let (_, second) = world.connect(&certificate);
    assert_eq!((first.slot, first.generation + 1), (second.slot, second.generation));
    let quic = &mut world.broker.shards[0];
    let mut bytes = Bytes::from_static(b"for somebody else");
    assert_eq!(quic.write(first, StreamId(0), &mut bytes), WriteEnd::Gone);
    assert_eq!(quic.read(now, first, StreamId(0), 100, |_| {}), ReadEnd::Gone);
    assert_eq!((quic.peer(first), quic.alpn(first), quic.charged_bytes(first)), (None, None, 0));
    quic.close(world.now, first, 0, b"");
    world.run(Duration::from_secs(1));
    assert_eq!(world.broker.shards[0].connections(), 1);
}

#[test]
fn everything_is_forgotten_after_the_last_connection() {
    let (mut world, client, _) = connected();
    let now = world.now;
    world.clients[client].close(now, 0, b"");
    world.run(Duration::from_secs(10));
    let quic = &mut world.broker.shards[0];
    assert!(quic.is_idle());
    assert_eq!(quic.poll_timeout(), None, "no timer is left");
    let counters = quic.counters();
    assert_eq!((counters.handshakes_begun, counters.connected, counters.closed), (1, 1, 1));
}

#[test]
fn a_restarted_broker_resets_the_connections_of_the_old_one() {
    let certificate = Certificate::new("localhost");
    let mut world = World::new(&QuicSettings::default(), 2, &certificate);
    let clients =
        [world.connect(&certificate).0, world.connect(&certificate).0, world.connect(&certificate).0];
    // The keys stay, the memory is lost.
    world.broker = World::new(&QuicSettings::default(), 2, &certificate).broker;
    for client in clients {
        let stream = world.clients[client].open();
        world.clients[client].write(stream, &[0; 100]);
    }
    world.run(Duration::from_secs(1));
    for client in clients {
        assert_eq!(world.clients[client].lost().as_deref(), Some("Reset"));
    }
}

#[test]
fn last_words_are_read_before_the_end_is_told() {
    let (mut world, client, conn) = connected();
    let stream = world.clients[client].open();
    world.clients[client].write(stream, b"DISCONNECT");
    world.clients[client].finish(stream);
    world.pump();
    let now = world.now;
    world.clients[client].close(now, 0, b"");
    world.run(Duration::from_secs(1));
    assert_eq!(world.broker.received[&(conn, StreamId(0))], b"DISCONNECT");
    assert_eq!(world.broker.ends[&(conn, StreamId(0))], ReadEnd::Finished);
    assert_eq!(closings(&world), [CloseWhy::Application(0, Bytes::new())]);
}
