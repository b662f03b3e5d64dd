//! Several shards behind one port, and clients that change their address.

use std::time::Duration;

use quelea_shard::quic::{QuicEvent, QuicSettings};

use crate::world::{Certificate, World};

fn world(shards: usize) -> (World, Certificate) {
    let certificate = Certificate::new("localhost");
    (World::new(&QuicSettings::default(), shards, &certificate), certificate)
}

#[test]
fn connection_ids_keep_clients_on_the_shard_of_their_first_one() {
    let (mut world, certificate) = world(4);
    let mut used = [0; 4];
    for _ in 0..16 {
        let (client, _) = world.connect(&certificate);
        used[world.broker.shard_of(world.clients[client].address)] += 1;
    }
    assert!(used.iter().all(|&n| n > 0), "{used:?}");
    assert_eq!(world.broker.forwarded, 0, "the rule alone sends everything to its owner");
    assert!(world.broker.shards.iter().all(|quic| quic.counters().datagrams_foreign == 0));
}

#[test]
fn a_shard_may_be_moved_to_its_thread() {
    fn is_send<T: Send>() {}
    is_send::<quelea_shard::quic::Quic>();
}

#[test]
fn strays_are_handed_to_their_owner() {
    let (mut world, certificate) = world(2);
    // As if the kernel knew nothing of connection IDs.
    world.broker.all_to = Some(0);
    world.broker.echo = true;
    let clients: Vec<_> = (0..8).map(|_| world.connect(&certificate).0).collect();
    for &client in &clients {
        let stream = world.clients[client].open();
        world.clients[client].write(stream, b"ping");
        world.run(Duration::from_millis(100));
        let mut back = Vec::new();
        world.clients[client].read(stream, &mut back);
        assert_eq!(back, b"ping");
    }
    let on_1 = world.clients.iter().filter(|client| world.broker.shard_of(client.address) == 1).count();
    assert!((1..8).contains(&on_1), "{on_1} of 8");
    assert!(world.broker.forwarded > on_1 * 4);
    assert_eq!(world.broker.shards[0].counters().datagrams_foreign as usize, world.broker.forwarded);
}

#[test]
fn a_retry_leads_back_to_the_same_shard() {
    let certificate = Certificate::new("localhost");
    let settings = QuicSettings { handshakes_in_flight_retry: 0, ..QuicSettings::default() };
    let mut world = World::new(&settings, 4, &certificate);
    for _ in 0..8 {
        world.connect(&certificate);
    }
    for quic in &world.broker.shards {
        assert_eq!(quic.counters().retries_backlog, quic.counters().connected);
    }
}

#[test]
fn a_peer_that_moves_keeps_its_connection_and_is_believed_once_it_answers() {
    let (mut world, certificate) = world(4);
    world.broker.echo = true;
    let (client, conn) = world.connect(&certificate);
    let shard = world.broker.shard_of(world.clients[client].address);
    let stream = world.clients[client].open();
    world.clients[client].write(stream, b"here");
    world.run(Duration::from_millis(200));
    let home = world.clients[client].address;
    for port in [7_001, 7_002] {
        world.clients[client].rebind(port);
        let away = world.clients[client].address;
        world.clients[client].write(stream, b" and there");
        // The first packet from there has arrived, but no answer to a challenge.
        world.run(Duration::from_millis(12));
        assert_ne!(world.broker.shards[shard].peer(conn), Some(away));
        world.run(Duration::from_secs(1));
        assert_eq!(world.broker.shards[shard].peer(conn), Some(away));
        assert!(world.broker.events.contains(&(shard, QuicEvent::PeerMoved { conn, peer: away })));
    }
    let mut back = Vec::new();
    world.clients[client].read(stream, &mut back);
    assert_eq!(back, b"here and there and there");
    assert_ne!(world.clients[client].address, home);
    let quic = &world.broker.shards[shard];
    assert_eq!((quic.counters().peers_moved, quic.connections()), (2, 1));
    assert_eq!(world.broker.forwarded, 0, "without a hop between shards");
}

#[test]
fn a_forged_address_is_not_believed() {
    let (mut world, certificate) = world(1);
    let (client, conn) = world.connect(&certificate);
    let home = world.clients[client].address;
    let stream = world.clients[client].open();
    // One packet seems to come from elsewhere; nobody answers there.
    world.clients[client].forged = Some(([10, 66, 6, 6], 9).into());
    world.clients[client].write(stream, b"relayed");
    world.pump();
    world.clients[client].forged = None;
    world.run(Duration::from_secs(10));
    assert_eq!(world.broker.shards[0].peer(conn), Some(home));
    assert_eq!(world.broker.shards[0].counters().peers_moved, 0);
}
