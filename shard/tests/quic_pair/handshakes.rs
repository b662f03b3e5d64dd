//! Who gets in, who has to prove an address first, who is turned away.

use std::time::Duration;

use quelea_shard::quic::{Alpn, CloseWhy, QuicEvent, QuicSettings, QuicTls, TlsError};

use crate::world::{Certificate, World};

fn world_with(settings: &QuicSettings) -> (World, Certificate) {
    let certificate = Certificate::new("localhost");
    (World::new(settings, 1, &certificate), certificate)
}

#[test]
fn above_the_backlog_strangers_prove_their_address_and_get_in() {
    let settings = QuicSettings { handshakes_in_flight_retry: 3, ..QuicSettings::default() };
    let (mut world, certificate) = world_with(&settings);
    world.broker.handshakes_left = 0;
    for _ in 0..8 {
        world.client(&certificate);
    }
    world.run(Duration::from_millis(100));
    let quic = &world.broker.shards[0];
    assert_eq!((quic.counters().retries_backlog, quic.handshakes_waiting()), (5, 8), "they came back proven");
    world.broker.handshakes_left = usize::MAX;
    world.run(Duration::from_secs(1));
    assert!(world.clients.iter().all(|client| client.is_connected()));
    assert_eq!(world.broker.shards[0].connections(), 8);
}

#[test]
fn a_retry_token_counts_for_its_address_only() {
    let settings = QuicSettings { handshakes_in_flight_retry: 0, ..QuicSettings::default() };
    let (mut world, certificate) = world_with(&settings);
    let client = world.client(&certificate);
    world.run(Duration::from_millis(15));
    // The Retry is under way; the token will come back from elsewhere.
    world.clients[client].forged = Some(([10, 66, 6, 6], 666).into());
    world.run(Duration::from_secs(1));
    let counters = world.broker.shards[0].counters();
    assert_eq!((counters.retries_backlog, counters.handshakes_begun), (1, 0));
    assert!(counters.stateless_sent > 1, "INVALID_TOKEN is the answer");
}

#[test]
fn a_protocol_we_do_not_speak_fails_with_0x178_and_disturbs_nobody() {
    let (mut world, certificate) = world_with(&QuicSettings::default());
    let (_, conn) = world.connect(&certificate);
    let wrong = world.client_with(&certificate, &[b"h3"], |_| {});
    let none = world.client_with(&certificate, &[], |_| {});
    let alias = world.client_with(&certificate, &[b"mqttv5"], |_| {});
    world.run(Duration::from_secs(5));
    for client in [wrong, none] {
        let lost = world.clients[client].lost().expect("it was refused");
        assert!(lost.contains("Code::crypto(78)") || lost.contains("120"), "{lost}");
    }
    assert!(world.clients[alias].is_connected());
    let other =
        |event: &QuicEvent| matches!(event, QuicEvent::Connected { alpn: Alpn::MqttV5, .. }).then_some(());
    assert!(world.broker.find(other).is_some());
    let quic = &world.broker.shards[0];
    assert_eq!((quic.connections(), quic.counters().handshakes_failed), (2, 2));
    assert!(quic.peer(conn).is_some());
}

#[test]
fn forty_silent_handshakes_are_dropped_at_their_deadline() {
    let (mut world, certificate) = world_with(&QuicSettings::default());
    for _ in 0..40 {
        let client = world.client(&certificate);
        world.pump();
        world.clients[client].dead = true;
    }
    world.run(Duration::from_millis(9_900));
    assert_eq!(world.broker.shards[0].counters().handshakes_begun, 40);
    assert_eq!(world.broker.shards[0].counters().handshakes_expired, 0);
    world.run(Duration::from_millis(200));
    let quic = &mut world.broker.shards[0];
    assert_eq!(quic.counters().handshakes_expired, 40);
    assert_eq!((quic.is_idle(), quic.poll_timeout()), (true, None), "nothing is left of them");
    assert_eq!(world.broker.events, [], "nobody heard of them");
    let (client, _) = world.connect(&certificate);
    assert!(world.clients[client].is_connected());
}

#[test]
fn a_first_packet_that_waited_too_long_is_dropped() {
    let (mut world, certificate) = world_with(&QuicSettings::default());
    world.broker.handshakes_left = 0;
    let client = world.client(&certificate);
    world.pump();
    world.clients[client].dead = true;
    world.run(Duration::from_secs(11));
    assert_eq!(world.broker.shards[0].handshakes_waiting(), 1);
    world.broker.handshakes_left = usize::MAX;
    world.run(Duration::from_millis(10));
    let counters = world.broker.shards[0].counters();
    assert_eq!((counters.initials_expired, counters.handshakes_begun), (1, 0));
}

#[test]
fn a_prefix_has_its_own_maximum_of_connections() {
    let settings = QuicSettings { connections_per_prefix_max: 2, ..QuicSettings::default() };
    let (mut world, certificate) = world_with(&settings);
    let clients: Vec<usize> = (0..4).map(|_| world.client(&certificate)).collect();
    // Three share an address, the fourth is a stranger.
    for (port, &client) in clients[..3].iter().enumerate() {
        world.clients[client].rebind(6_000 + port as u16);
    }
    world.run(Duration::from_secs(2));
    let refused: Vec<_> = clients.iter().filter(|&&client| world.clients[client].lost().is_some()).collect();
    assert_eq!(refused, [&clients[2]]);
    assert_eq!(world.broker.shards[0].counters().refused_prefix, 1);
    // A place becomes free with a connection's end.
    let now = world.now;
    world.clients[clients[0]].close(now, 0, b"");
    world.run(Duration::from_secs(5));
    let late = world.client(&certificate);
    world.clients[late].rebind(6_009);
    world.run(Duration::from_secs(1));
    assert!(world.clients[late].is_connected());
}

#[test]
fn handshakes_of_a_prefix_beyond_its_maximum_need_a_proven_address() {
    let settings = QuicSettings { handshakes_per_prefix_max: 2, ..QuicSettings::default() };
    let (mut world, certificate) = world_with(&settings);
    world.broker.handshakes_left = 0;
    for port in 0..6 {
        let client = world.client(&certificate);
        world.clients[client].rebind(7_000 + port);
    }
    world.run(Duration::from_millis(100));
    let quic = &world.broker.shards[0];
    let counters = quic.counters();
    assert_eq!((counters.retries_prefix, counters.initials_prefix_full), (4, 2));
    assert_eq!(quic.handshakes_waiting(), 4, "two unproven, two proven");
    // The others repeat themselves and get in, too.
    world.broker.handshakes_left = usize::MAX;
    world.run(Duration::from_secs(5));
    assert_eq!(world.broker.shards[0].connections(), 6);
}

#[test]
fn a_site_cannot_have_all_handshakes_by_its_many_prefixes() {
    let settings =
        QuicSettings { handshakes_in_flight_retry: 0, handshakes_per_site_max: 2, ..QuicSettings::default() };
    let (mut world, certificate) = world_with(&settings);
    world.broker.handshakes_left = 0;
    for household in 1..=6 {
        let client = world.client(&certificate);
        world.clients[client].address = ([0x2001, 0xdb8, 1, household, 0, 0, 0, 1], 5_000).into();
    }
    let neighbour = world.client(&certificate);
    world.clients[neighbour].address = ([0x2001, 0xdb8, 2, 1, 0, 0, 0, 1], 5_000).into();
    world.run(Duration::from_millis(100));
    let quic = &world.broker.shards[0];
    assert_eq!((quic.counters().initials_site_full, quic.counters().initials_prefix_full), (4, 0));
    assert_eq!(quic.handshakes_waiting(), 3, "two of the site, and the neighbour");
    // The others repeat themselves and get in, too.
    world.broker.handshakes_left = usize::MAX;
    world.run(Duration::from_secs(5));
    assert!(world.clients.iter().all(|client| client.is_connected()));
}

#[test]
fn at_the_maximum_of_handshakes_who_is_proven_waits_in_silence_and_gets_in() {
    let settings =
        QuicSettings { handshakes_in_flight_retry: 0, handshakes_max: 3, ..QuicSettings::default() };
    let (mut world, certificate) = world_with(&settings);
    for network in 0..3 {
        let client = world.client(&certificate);
        world.clients[client].address = ([10, 66, network, 1], 5_000).into();
    }
    // Retry, the first packet again with its token, and then nothing more.
    world.run(Duration::from_millis(35));
    world.clients.iter_mut().for_each(|client| client.dead = true);
    world.run(Duration::from_secs(5));
    assert_eq!(world.broker.shards[0].counters().handshakes_begun, 3);
    let late = world.client(&certificate);
    world.run(Duration::from_secs(4));
    let counters = world.broker.shards[0].counters();
    assert_eq!((counters.retries_backlog, counters.handshakes_begun, counters.connected), (4, 3, 0));
    assert!(counters.initials_handshakes_full >= 2, "as often as it has repeated itself");
    assert_eq!(world.clients[late].lost(), None, "it has not been sent away");
    world.run(Duration::from_secs(6));
    assert!(world.clients[late].is_connected());
    assert_eq!(world.broker.shards[0].counters().handshakes_expired, 3);
}

#[test]
fn a_full_queue_is_silent_and_the_shards_maximum_is_not() {
    let settings = QuicSettings { handshakes_queued_max: 3, connections_max: 5, ..QuicSettings::default() };
    let (mut world, certificate) = world_with(&settings);
    world.broker.handshakes_left = 0;
    for _ in 0..7 {
        world.client(&certificate);
    }
    world.run(Duration::from_millis(100));
    assert_eq!(world.broker.shards[0].handshakes_waiting(), 3);
    assert!(world.clients.iter().all(|client| client.datagrams_in == 0));
    world.broker.handshakes_left = usize::MAX;
    world.run(Duration::from_secs(10));
    let quic = &world.broker.shards[0];
    assert_eq!(quic.connections(), 5);
    assert!(quic.counters().refused_connections >= 2, "two clients, each as often as it had repeated itself");
    let lost = world.clients.iter().filter_map(|client| client.lost());
    assert_eq!(lost.filter(|why| why.contains("CONNECTION_REFUSED")).count(), 2);
}

#[test]
fn a_draining_broker_refuses_and_keeps_what_it_has() {
    let (mut world, certificate) = world_with(&QuicSettings::default());
    let (old, _) = world.connect(&certificate);
    world.broker.shards[0].refuse_new(true);
    let late = world.client(&certificate);
    world.run(Duration::from_secs(2));
    assert!(world.clients[late].lost().expect("refused").contains("CONNECTION_REFUSED"));
    assert_eq!(world.clients[old].lost(), None);
    assert_eq!(world.broker.shards[0].counters().refused_draining, 1);
    world.broker.shards[0].refuse_new(false);
    world.connect(&certificate);
}

#[test]
fn a_broker_without_memory_refuses_and_keeps_what_it_has() {
    let (mut world, certificate) = world_with(&QuicSettings::default());
    let (old, _) = world.connect(&certificate);
    world.broker.shards[0].set_memory_is_full(true);
    let late = world.client(&certificate);
    world.run(Duration::from_secs(2));
    assert!(world.clients[late].lost().expect("refused").contains("CONNECTION_REFUSED"));
    assert_eq!(world.clients[old].lost(), None);
    assert_eq!(world.broker.shards[0].counters().refused_memory, 1);
    world.broker.shards[0].set_memory_is_full(false);
    world.connect(&certificate);
}

#[test]
fn new_certificates_serve_new_connections_and_leave_old_ones_alone() {
    let (mut world, old) = world_with(&QuicSettings::default());
    world.broker.echo = true;
    let (client, _) = world.connect(&old);
    let new = Certificate::new("localhost");
    world.broker.shards[0].set_tls(new.server());
    let behind = world.client(&old);
    let (ahead, _) = world.connect(&new);
    assert!(world.clients[ahead].is_connected());
    assert!(world.clients[behind].lost().expect("it trusts the old one only").contains("certificate"));
    let failed = world.broker.shards[0].counters().handshakes_failed;
    assert_eq!(failed, 1);
    let stream = world.clients[client].open();
    world.clients[client].write(stream, b"still here");
    world.run(Duration::from_millis(100));
    let mut back = Vec::new();
    world.clients[client].read(stream, &mut back);
    assert_eq!(back, b"still here");
}

#[test]
fn a_client_that_gives_up_in_its_handshake_is_not_announced() {
    let (mut world, certificate) = world_with(&QuicSettings::default());
    let client = world.client(&certificate);
    world.run(Duration::from_millis(15));
    let now = world.now;
    world.clients[client].close(now, 7, b"");
    world.run(Duration::from_secs(12));
    let closed = |event: &QuicEvent| match event {
        QuicEvent::Closed { why, .. } => Some(why.clone()),
        _ => None,
    };
    assert_eq!(world.broker.find(closed), None::<CloseWhy>);
    assert_eq!(world.broker.shards[0].connections(), 0);
    assert!(world.broker.shards[0].is_idle());
}

#[test]
fn an_unknown_version_is_answered_with_ours() {
    let (mut world, _) = world_with(&QuicSettings::default());
    let mut packet = vec![0xc0, 0x6b, 0x33, 0x43, 0xcf, 8];
    packet.extend_from_slice(b"destinat\x06source");
    packet.resize(1_200, 0);
    let peer = ([10, 1, 1, 1], 99).into();
    world.broker.handle_datagram(world.now, peer, &packet);
    let mut buffer = Vec::new();
    let answer = world.broker.shards[0].poll_transmit(world.now, &mut buffer).expect("an answer");
    assert_eq!((answer.destination, answer.bytes), (peer, buffer.len()));
    assert_eq!(buffer[1..5], [0; 4], "version negotiation");
    assert!(buffer.ends_with(&[0, 0, 0, 1]));
    // A short one is not worth an answer that would be longer.
    world.broker.handle_datagram(world.now, peer, &packet[..600]);
    assert_eq!(world.broker.shards[0].poll_transmit(world.now, &mut buffer), None);
}

#[test]
fn noise_does_nothing() {
    let (mut world, certificate) = world_with(&QuicSettings::default());
    let (client, _) = world.connect(&certificate);
    let mut random = 1u64;
    for length in 0..1_500usize {
        let noise: Vec<u8> = (0..length)
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 56) as u8
            })
            .collect();
        world.broker.handle_datagram(world.now, world.clients[client].address, &noise);
    }
    world.run(Duration::from_secs(1));
    assert_eq!(world.broker.shards[0].connections(), 1);
    assert_eq!(world.clients[client].lost(), None);
}

#[test]
fn a_configuration_without_a_known_protocol_is_refused() {
    let certificate = Certificate::new("localhost");
    let none = QuicTls::new(certificate.server_config(&[])).err();
    assert!(matches!(none, Some(TlsError::NoProtocol)), "{none:?}");
    let unknown = QuicTls::new(certificate.server_config(&[b"mqtt", b"h3"])).err();
    assert!(matches!(&unknown, Some(TlsError::UnknownProtocol(name)) if name == "h3"), "{unknown:?}");
}

#[test]
fn a_clients_certificate_is_asked_for_checked_and_kept() {
    let (mut world, mut certificate) = world_with(&QuicSettings::default());
    world.broker.shards[0].set_tls(certificate.server_that_asks(&certificate));
    let without = world.client(&certificate);
    world.run(Duration::from_secs(1));
    assert!(world.clients[without].lost().expect("it shows none").contains("certificate"));
    certificate.shown_by_clients = true;
    let (_, conn) = world.connect(&certificate);
    assert_eq!(world.broker.shards[0].peer_certificates(conn), [certificate.der]);
}

#[test]
fn a_flood_of_first_packets_fills_nothing_but_the_counters() {
    let settings = QuicSettings {
        handshakes_in_flight_retry: 20,
        handshakes_queued_max: 50,
        handshakes_per_prefix_max: 10,
        ..QuicSettings::default()
    };
    let (mut world, certificate) = world_with(&settings);
    let (old, _) = world.connect(&certificate);
    world.broker.handshakes_left = 0;
    for number in 0..500 {
        let client = world.client(&certificate);
        // Forged, half of them in the name of one victim; nobody there will answer.
        let address =
            if number % 2 == 0 { [10, 66, 6, 6] } else { [10, 77, (number >> 8) as u8, number as u8] };
        world.clients[client].forged = Some((address, 1_024 + number).into());
        world.pump();
        world.clients[client].dead = true;
    }
    world.run(Duration::from_millis(100));
    let counters = *world.broker.shards[0].counters();
    assert_eq!(world.broker.shards[0].handshakes_waiting(), 20);
    assert_eq!(counters.retries_backlog + counters.retries_prefix, 480);
    // The victim itself gets in, and who was there before is served.
    world.broker.handshakes_left = usize::MAX;
    let victim = world.client(&certificate);
    world.clients[victim].address = ([10, 66, 6, 6], 9).into();
    world.run(Duration::from_secs(12));
    assert!(world.clients[victim].is_connected());
    assert_eq!(world.clients[old].lost(), None);
    let quic = &world.broker.shards[0];
    assert_eq!((quic.connections(), quic.counters().handshakes_expired), (2, 20));
    assert!(quic.is_idle());
}
