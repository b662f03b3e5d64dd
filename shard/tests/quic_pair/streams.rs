//! Streams: bytes both ways, their ends, and the windows that hold them back.

use std::time::Duration;

use quelea_shard::quic::{Alpn, QuicEvent, QuicSettings, ReadEnd, StreamId, WriteEnd};
use quinn_proto::{Dir, Event, StreamEvent, VarInt};

use crate::world::{Certificate, ClientRead, World};

const STREAM_0: StreamId = StreamId(0);

fn world() -> (World, Certificate) {
    let certificate = Certificate::new("localhost");
    (World::new(&QuicSettings::default(), 1, &certificate), certificate)
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

/// A megabyte in which no two places look alike.
fn megabyte() -> Vec<u8> {
    (0..1u32 << 18).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_be_bytes()).collect()
}

/// Sends a megabyte from client to broker and back, through windows of 16 KiB at first; returns the virtual time it took.
fn echo_a_megabyte(world: &mut World, certificate: &Certificate) -> Duration {
    world.broker.echo = true;
    let (client, conn) = world.connect(certificate);
    let stream = world.clients[client].open();
    let sent = megabyte();
    let (mut at, mut back, begun, mut finished) = (0, Vec::new(), world.now, false);
    world.run_until(Duration::from_secs(120), |world| {
        let client = &mut world.clients[client];
        at += client.write(stream, &sent[at..]);
        if at == sent.len() && !finished {
            client.finish(stream);
            finished = true;
        }
        client.read(stream, &mut back) == ClientRead::Finished
    });
    assert!(back == sent, "{} bytes came back, or in the wrong order", back.len());
    assert!(world.broker.longest_train > 1, "several datagrams left in one call");
    let blocked = |event: &QuicEvent| matches!(event, QuicEvent::Writable { .. }).then_some(());
    assert!(world.broker.find(blocked).is_some(), "the broker's writes were held back");
    assert_eq!(world.broker.unsent(0, conn, STREAM_0), 0);
    world.now - begun
}

#[test]
fn a_megabyte_passes_through_small_windows() {
    let (mut world, certificate) = world();
    echo_a_megabyte(&mut world, &certificate);
}

// Covers 5.0: 4.2-1
// Covers 3.1.1: 7.1.1-1
#[test]
fn a_megabyte_passes_in_spite_of_five_percent_loss() {
    let (mut lossless, certificate) = world();
    let smooth = echo_a_megabyte(&mut lossless, &certificate);
    let mut lossy = World::new(&QuicSettings::default(), 1, &certificate);
    lossy.loss_percent = 5;
    let rough = echo_a_megabyte(&mut lossy, &certificate);
    assert!(rough > smooth, "losses were felt: {rough:?} against {smooth:?}");
}

#[test]
fn writes_stop_at_the_send_window_and_go_on_when_the_peer_reads() {
    let (mut world, certificate) = world();
    let (client, conn) = world.connect(&certificate);
    let stream = world.clients[client].open();
    world.clients[client].write(stream, b"x");
    world.run(Duration::from_millis(100));
    assert_eq!(world.broker.shards[0].writable_bytes(conn, STREAM_0), 32 * 1024);
    let sent = megabyte();
    world.broker.write(0, conn, STREAM_0, &sent);
    assert_eq!(world.broker.unsent(0, conn, STREAM_0), sent.len() - 32 * 1024);
    assert_eq!(world.broker.shards[0].writable_bytes(conn, STREAM_0), 0);
    let mut back = Vec::new();
    world.run_until(Duration::from_secs(60), |world| {
        world.clients[client].read(stream, &mut back);
        back.len() == sent.len()
    });
    assert!(back == sent, "in order");
}

#[test]
fn reading_obeys_its_budget_and_holds_the_peer_back() {
    let (mut world, certificate) = world();
    world.broker.reading = false;
    let (client, conn) = world.connect(&certificate);
    let stream = world.clients[client].open();
    let sent = megabyte();
    let mut at = world.clients[client].write(stream, &sent);
    world.run(Duration::from_secs(1));
    at += world.clients[client].write(stream, &sent[at..]);
    assert_eq!(at, 16 * 1024, "the connection's first window");
    let now = world.now;
    let quic = &mut world.broker.shards[0];
    let mut received = Vec::new();
    let end = quic.read(now, conn, STREAM_0, 10_000, |bytes| received.extend_from_slice(bytes));
    assert_eq!((end, received.len()), (ReadEnd::More, 10_000));
    let end = quic.read(now, conn, STREAM_0, 1 << 20, |bytes| received.extend_from_slice(bytes));
    assert_eq!((end, received.len()), (ReadEnd::Blocked, 16 * 1024));
    world.run(Duration::from_millis(100));
    let more = world.clients[client].write(stream, &sent[at..]);
    assert_eq!(
        more,
        2 * 16 * 1024,
        "room was returned, and more of it: the window was full within a round trip"
    );
    assert!(received == sent[..16 * 1024]);
}

#[test]
fn a_peers_reset_and_stop_arrive_with_their_codes() {
    let (mut world, certificate) = world();
    let (client, conn) = world.connect(&certificate);
    let stream = world.clients[client].open();
    world.clients[client].write(stream, b"half a packet");
    world.run(Duration::from_millis(100));
    let connection = &mut world.clients[client].connection;
    connection.send_stream(stream).reset(VarInt::from_u32(0x381)).expect("open");
    connection.recv_stream(stream).stop(VarInt::from_u32(0x38e)).expect("open");
    world.run(Duration::from_millis(200));
    assert_eq!(world.broker.ends[&(conn, STREAM_0)], ReadEnd::Reset(0x381));
    let stopped = QuicEvent::Stopped { conn, stream: STREAM_0, code: 0x38e };
    assert!(world.broker.events.contains(&(0, stopped)));
    let mut more = bytes::Bytes::from_static(b"too late");
    assert_eq!(world.broker.shards[0].write(conn, STREAM_0, &mut more), WriteEnd::Gone);
    // Both halves are gone, so the next stream is granted: the stop was answered by a reset.
    assert!(world.clients[client].connection.streams().open(Dir::Bi).is_some());
}

#[test]
fn our_reset_and_stop_reach_the_peer_with_their_codes() {
    let (mut world, certificate) = world();
    let (client, conn) = world.connect(&certificate);
    let stream = world.clients[client].open();
    world.clients[client].write(stream, b"malformed");
    world.run(Duration::from_millis(100));
    world.broker.shards[0].reset(conn, STREAM_0, 0x381);
    world.broker.shards[0].stop(conn, STREAM_0, 0x382);
    world.run(Duration::from_millis(200));
    let client = &mut world.clients[client];
    assert_eq!(client.read(stream, &mut Vec::new()), ClientRead::Reset(0x381));
    let stopped = Event::Stream(StreamEvent::Stopped { id: stream, error_code: VarInt::from_u32(0x382) });
    assert!(client.events.iter().any(|event| format!("{event:?}") == format!("{stopped:?}")));
}

#[test]
fn the_next_stream_is_granted_when_the_former_is_closed_on_both_sides() {
    let (mut world, certificate) = world();
    let (client, conn) = world.connect(&certificate);
    let stream = world.clients[client].open();
    world.clients[client].write(stream, b"DISCONNECT");
    world.clients[client].finish(stream);
    world.run(Duration::from_millis(500));
    let second = |world: &mut World| world.clients[client].connection.streams().open(Dir::Bi);
    assert_eq!(second(&mut world), None, "our half is open still");
    world.broker.shards[0].finish(conn, STREAM_0);
    world.run(Duration::from_millis(5));
    assert_eq!(second(&mut world), None, "our end is not acknowledged yet");
    world.run(Duration::from_millis(500));
    assert_eq!(second(&mut world).map(u64::from), Some(4));
}

#[test]
fn more_streams_are_granted_on_request() {
    let (mut world, certificate) = world();
    let (client, conn) = world.connect(&certificate);
    world.clients[client].open();
    assert!(world.clients[client].connection.streams().open(Dir::Bi).is_none());
    world.broker.shards[0].set_streams_bidi(conn, 3);
    world.run(Duration::from_millis(100));
    let streams: Vec<_> =
        std::iter::from_fn(|| world.clients[client].connection.streams().open(Dir::Bi)).collect();
    assert_eq!(streams.len(), 2);
    // The last stream speaks first: all three are announced, in order.
    world.clients[client].write(streams[1], b"8");
    world.run(Duration::from_millis(100));
    let opened = |event: &(usize, QuicEvent)| match event.1 {
        QuicEvent::StreamOpened { stream, .. } => Some(stream.0),
        _ => None,
    };
    assert_eq!(world.broker.events.iter().filter_map(opened).collect::<Vec<_>>(), [0, 4, 8]);
    assert_eq!(world.broker.received[&(conn, StreamId(8))], b"8");
}

#[test]
fn tls_is_dropped_and_both_sides_know_the_same_channel_binding() {
    let (mut world, certificate) = world();
    let (client, conn) = world.connect(&certificate);
    let mut theirs = [0; 32];
    let session = world.clients[client].connection.crypto_session();
    session.export_keying_material(&mut theirs, b"EXPORTER-Channel-Binding", b"").expect("TLS is there");
    // Our session answers only once it has let go of TLS.
    assert_eq!(world.broker.shards[0].channel_binding(conn), Some(theirs));
    assert!(world.broker.shards[0].peer_certificates(conn).is_empty());
}

#[test]
fn keys_are_updated_again_and_again_without_tls() {
    let (mut world, certificate) = world();
    world.broker.echo = true;
    let (client, _) = world.connect(&certificate);
    let stream = world.clients[client].open();
    let mut back = Vec::new();
    for round in 0..6u8 {
        world.clients[client].connection.force_key_update();
        world.clients[client].write(stream, &[round; 100]);
        // Longer than the old keys are kept.
        world.run(Duration::from_secs(2));
        assert_eq!(world.clients[client].read(stream, &mut back), ClientRead::Open);
        assert_eq!(back.len(), 100 * (usize::from(round) + 1), "round {round}");
    }
    assert_eq!(world.broker.shards[0].counters().closed, 0);
}
