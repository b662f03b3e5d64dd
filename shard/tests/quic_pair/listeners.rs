//! Several listeners of one shard: each with its certificate and its limits, and nobody slips from one to another.

use std::time::Duration;

use quelea_shard::Entrance;
use quelea_shard::quic::{QuicEvent, QuicListenerId, QuicListenerLimits, QuicSettings};

use crate::world::{Certificate, World};

/// A broker of `shards` shards with a second listener that has a certificate of its own.
struct TwoListeners {
    world: World,
    first: Certificate,
    second: Certificate,
    listener: QuicListenerId,
}

fn two_listeners(shards: usize) -> TwoListeners {
    let (first, second) = (Certificate::new("localhost"), Certificate::new("localhost"));
    let mut world = World::new(&QuicSettings::default(), shards, &first);
    let tls = second.server();
    let added = world.broker.shards.iter_mut().map(|shard| shard.add_listener(tls.clone())).max();
    TwoListeners { world, first, second, listener: added.expect("there are shards") }
}

impl TwoListeners {
    /// A client that trusts `certificate` and comes to `listener`.
    fn client_at(&mut self, listener: QuicListenerId, certificate: &Certificate) -> usize {
        let client = self.world.client(certificate);
        self.comes_to(client, listener);
        client
    }

    fn comes_to(&mut self, client: usize, listener: QuicListenerId) {
        let address = self.world.clients[client].address;
        self.world.broker.comes_to.insert(address, listener);
    }

    fn limit(&mut self, limits: QuicListenerLimits) {
        for shard in &mut self.world.broker.shards {
            shard.limit_listener(self.listener, limits);
        }
    }

    /// Sends `text` and gives what comes back.
    fn echo(&mut self, client: usize, text: &[u8]) -> Vec<u8> {
        let stream = self.world.clients[client].open();
        self.world.clients[client].write(stream, text);
        self.world.run(Duration::from_secs(1));
        let mut back = Vec::new();
        self.world.clients[client].read(stream, &mut back);
        back
    }
}

#[test]
fn each_listener_shows_its_certificate_and_answers_by_its_own_socket() {
    let mut two = two_listeners(2);
    two.world.broker.echo = true;
    // As if the kernel steered nothing: what is another shard's is forwarded, and must keep its listener.
    two.world.broker.all_to = Some(0);
    let (first, second) = (two.first.clone(), two.second.clone());
    let at_first: Vec<usize> = (0..4).map(|_| two.client_at(QuicListenerId::FIRST, &first)).collect();
    let at_second: Vec<usize> = (0..4).map(|_| two.client_at(two.listener, &second)).collect();
    let deceived = two.client_at(two.listener, &first);
    two.world.run(Duration::from_secs(2));
    assert!(two.world.broker.forwarded > 0, "some belong to the other shard");
    for (clients, listener) in [(at_first, QuicListenerId::FIRST), (at_second, two.listener)] {
        for client in clients {
            assert_eq!(two.echo(client, b"hello"), b"hello");
            let address = two.world.clients[client].address;
            assert_eq!(two.world.broker.answered_by[&address], listener);
        }
    }
    assert!(two.world.clients[deceived].lost().expect("another certificate").contains("certificate"));
}

#[test]
fn a_listener_at_its_maximum_refuses_and_the_other_does_not_notice() {
    let mut two = two_listeners(1);
    let limits = QuicSettings::default().listener_limits();
    two.limit(QuicListenerLimits { connections_max: 2, ..limits });
    let (first, second) = (two.first.clone(), two.second.clone());
    let clients: Vec<usize> = (0..3).map(|_| two.client_at(two.listener, &second)).collect();
    two.world.run(Duration::from_secs(1));
    let refused: Vec<_> =
        clients.iter().filter(|&&client| two.world.clients[client].lost().is_some()).collect();
    assert_eq!(refused, [&clients[2]]);
    assert!(two.world.clients[clients[2]].lost().expect("refused").contains("CONNECTION_REFUSED"));
    let address = two.world.clients[clients[2]].address;
    assert_eq!(two.world.broker.answered_by[&address], two.listener, "it is told by the socket it came to");

    let quic = &mut two.world.broker.shards[0];
    assert_eq!((quic.counters().refused_listener, quic.counters().refused_connections), (1, 0));
    let refusal = quic.take_refusal().expect("one was refused");
    assert_eq!((refusal.entrance, refusal.peer, refusal.others), (Entrance::Quic(two.listener), address, 0));
    assert_eq!(refusal.why, "the listener has its maximum of connections");
    assert_eq!(quic.take_refusal(), None);

    for _ in 0..4 {
        two.world.connect(&first);
    }
    // A place becomes free with a connection's end.
    let now = two.world.now;
    two.world.clients[clients[0]].close(now, 0, b"");
    two.world.run(Duration::from_secs(1));
    let late = two.client_at(two.listener, &second);
    two.world.run(Duration::from_secs(1));
    assert!(two.world.clients[late].is_connected());
}

#[test]
fn what_a_network_has_at_one_listener_does_not_count_at_the_other() {
    let mut two = two_listeners(1);
    let limits = QuicSettings::default().listener_limits();
    two.limit(QuicListenerLimits { connections_per_prefix_max: 1, ..limits });
    let (first, second) = (two.first.clone(), two.second.clone());
    let listener = two.listener;
    let mut enters = |listener, certificate, port| {
        let client = two.world.client(certificate);
        two.world.clients[client].rebind(port);
        two.comes_to(client, listener);
        two.world.run(Duration::from_secs(1));
        two.world.clients[client].is_connected()
    };
    assert!(enters(listener, &second, 6_001));
    assert!(!enters(listener, &second, 6_002), "the same address again");
    assert!(enters(QuicListenerId::FIRST, &first, 6_003));
    assert!(enters(QuicListenerId::FIRST, &first, 6_004));
    assert_eq!(two.world.broker.shards[0].counters().refused_prefix, 1);
}

#[test]
fn a_connection_cannot_be_used_by_way_of_another_listener() {
    let mut two = two_listeners(1);
    two.world.broker.echo = true;
    let first = two.first.clone();
    let (client, _) = two.world.connect(&first);
    two.comes_to(client, two.listener);
    assert_eq!(two.echo(client, b"by the back door"), b"");
    assert!(two.world.broker.shards[0].counters().datagrams_misplaced > 0);
    two.comes_to(client, QuicListenerId::FIRST);
    two.world.run(Duration::from_secs(5));
    assert_eq!(two.world.clients[client].lost(), None);
    let served = |event: &QuicEvent| matches!(event, QuicEvent::StreamOpened { .. }).then_some(());
    assert_eq!(two.world.broker.find(served), Some(()), "repeated where it belongs, it is heard");
}

#[test]
fn a_connection_of_a_broker_that_has_restarted_is_reset_by_the_listener_it_came_to() {
    let mut two = two_listeners(1);
    let second = two.second.clone();
    let client = two.client_at(two.listener, &second);
    two.world.run(Duration::from_secs(1));
    assert!(two.world.clients[client].is_connected());
    let address = two.world.clients[client].address;

    let restarted = two_listeners(1);
    two.world.broker = restarted.world.broker;
    two.comes_to(client, two.listener);
    let stream = two.world.clients[client].open();
    two.world.clients[client].write(stream, &[7; 200]);
    two.world.run(Duration::from_secs(1));
    assert_eq!(two.world.clients[client].lost().as_deref(), Some("Reset"));
    assert_eq!(two.world.broker.answered_by[&address], two.listener);
}

#[test]
fn a_handshake_that_fails_says_who_failed_and_why() {
    let mut two = two_listeners(1);
    let (first, second) = (two.first.clone(), two.second.clone());
    let tls = second.server_that_asks(&second);
    let asks = two.world.broker.shards[0].add_listener(tls);
    let nameless = two.client_at(asks, &second);
    two.world.run(Duration::from_secs(1));
    let refusal = two.world.broker.shards[0].take_refusal().expect("it shows no certificate");
    assert_eq!((refusal.entrance, refusal.peer), (Entrance::Quic(asks), two.world.clients[nameless].address));
    assert_eq!(refusal.why, "peer sent no certificates");

    let distrustful = two.client_at(two.listener, &first);
    two.world.run(Duration::from_secs(1));
    let refusal = two.world.broker.shards[0].take_refusal().expect("it does not trust the certificate");
    assert_eq!(refusal.peer, two.world.clients[distrustful].address);
    assert!(refusal.why.starts_with("the client says: "), "{}", refusal.why);
    assert!(refusal.why.contains("certificate"), "{}", refusal.why);
}
