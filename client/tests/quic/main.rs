//! Client connections against quinn-proto's server, in memory and on virtual time.

mod world;

use std::time::Duration;

use quelea_client::quic::{CloseWhy, EndpointSettings, Event, ReadEnd, Refused};

use crate::world::{DELAY, World};

#[test]
fn many_connections_share_an_endpoint_and_keep_their_bytes_apart() {
    let mut world = World::new(&EndpointSettings::default());
    let conns: Vec<_> = (0..100).map(|_| world.connect()).collect();
    world.run(Duration::from_secs(1));
    for (number, conn) in conns.iter().enumerate() {
        assert!(world.saw(&Event::Connected { conn: *conn }));
        assert_eq!(
            world.client.write(*conn, format!("this is {number}").as_bytes()),
            8 + number.to_string().len()
        );
    }
    world.run(Duration::from_secs(1));
    for (number, conn) in conns.iter().enumerate() {
        let mut back = Vec::new();
        assert_eq!(
            world.client.read(*conn, usize::MAX, |bytes| back.extend_from_slice(bytes)),
            ReadEnd::Blocked
        );
        assert_eq!(back, format!("this is {number}").as_bytes());
    }
    assert_eq!((world.client.connections(), world.client.counters().connected), (100, 100));
}

#[test]
fn a_write_stops_at_the_window_and_goes_on_when_there_is_room() {
    let settings = EndpointSettings { send_window: 5_000, ..EndpointSettings::default() };
    let mut world = World::new(&settings);
    let conn = world.connect();
    world.run(Duration::from_secs(1));
    let sent: Vec<u8> = (0..100_000_u32).map(|number| number as u8 ^ (number >> 8) as u8).collect();
    let mut taken = world.client.write(conn, &sent);
    assert_eq!(taken, 5_000);
    let mut back = Vec::new();
    for _ in 0..1_000 {
        world.run(DELAY);
        if world.take(&Event::Writable { conn }) {
            taken += world.client.write(conn, &sent[taken..]);
        }
        world.client.read(conn, 777, |bytes| back.extend_from_slice(bytes));
    }
    assert_eq!(taken, sent.len());
    assert!(back == sent, "{} bytes came back", back.len());
}

#[test]
fn several_datagrams_leave_together() {
    let mut world = World::new(&EndpointSettings::default());
    let conn = world.connect();
    world.run(Duration::from_secs(1));
    assert_eq!(world.client.write(conn, &[7; 10_000]), 10_000);
    world.pump();
    assert!(world.longest_train > 1, "one datagram at a time");
}

#[test]
fn loss_is_repaired_and_noticed() {
    let mut world = World::new(&EndpointSettings::default());
    world.loss_percent = 20;
    let conn = world.connect();
    world.run(Duration::from_secs(9));
    world.client.write(conn, &[9; 50_000]);
    world.client.finish(conn);
    let mut back = Vec::new();
    let mut end = ReadEnd::Blocked;
    while end == ReadEnd::Blocked {
        world.run(Duration::from_millis(100));
        end = world.client.read(conn, usize::MAX, |bytes| back.extend_from_slice(bytes));
    }
    world.run(Duration::from_secs(5));
    assert_eq!((back.len(), end), (50_000, ReadEnd::Finished));
    assert!(world.saw(&Event::Finished { conn }));
    assert!(world.client.packets_lost(conn).is_some_and(|lost| lost > 0));
}

#[test]
fn a_close_is_heard_and_its_name_goes_stale() {
    let mut world = World::new(&EndpointSettings::default());
    let conns = [world.connect(), world.connect()];
    world.run(Duration::from_secs(1));
    world.server_closes(0x87, b"not you");
    world.run(Duration::from_secs(5));
    for conn in conns {
        let why = CloseWhy::Application(0x87, b"not you".as_slice().into());
        assert!(world.saw(&Event::Closed { conn, why }));
        assert_eq!(world.client.write(conn, b"hello?"), 0);
        assert_eq!(world.client.read(conn, 10, |_| ()), ReadEnd::Gone);
    }
    assert_eq!(world.client.connections(), 0);
    let next = world.connect();
    assert!(conns.iter().all(|conn| *conn != next));
}

#[test]
fn we_close_and_the_server_hears_our_code() {
    let mut world = World::new(&EndpointSettings::default());
    let conn = world.connect();
    world.run(Duration::from_secs(1));
    world.client.close(world.now, conn, 0x82, b"malformed");
    world.run(Duration::from_secs(5));
    assert!(world.saw(&Event::Closed { conn, why: CloseWhy::LocallyClosed }));
    assert!(world.server_heard.iter().any(|heard| heard.contains("malformed")), "{:?}", world.server_heard);
    assert_eq!((world.client.connections(), world.client.poll_timeout()), (0, None));
}

#[test]
fn a_server_that_is_silent_ends_the_handshake_in_time() {
    let mut world = World::new(&EndpointSettings::default());
    world.loss_percent = 100;
    let conn = world.connect();
    world.run(Duration::from_millis(9_900));
    assert!(world.events.is_empty());
    world.run(Duration::from_millis(200));
    assert!(world.saw(&Event::Closed { conn, why: CloseWhy::HandshakeTimeout }));
}

#[test]
fn a_forgotten_connection_says_nothing_but_resets_what_the_server_still_sends() {
    let mut world = World::new(&EndpointSettings::default());
    let conn = world.connect();
    world.run(Duration::from_secs(1));
    let sent = world.client.counters().datagrams_out;
    world.client.forget(conn);
    world.run(Duration::from_secs(1));
    assert_eq!((world.client.connections(), world.client.counters().datagrams_out), (0, sent));
    assert_eq!(world.client.write(conn, b"late"), 0);
    assert!(!world.events.iter().any(|event| matches!(event, Event::Closed { .. })));
    world.server_closes(0, b"is anybody there?");
    world.run(Duration::from_secs(1));
    assert_eq!(world.client.counters().datagrams_out, sent + 1);
}

#[test]
fn a_full_endpoint_refuses() {
    let settings = EndpointSettings { connections_max: 2, ..EndpointSettings::default() };
    let mut world = World::new(&settings);
    world.connect();
    world.connect();
    assert!(matches!(world.try_connect("localhost"), Err(Refused::Full)));
    let mut world = World::new(&EndpointSettings::default());
    assert!(matches!(world.try_connect("not a name"), Err(Refused::Invalid(_))));
    assert_eq!(world.client.connections(), 0);
}

#[test]
fn a_connection_that_moves_on_purpose_uses_another_connection_id() {
    let mut world = World::new(&EndpointSettings::default());
    let conn = world.connect();
    world.run(Duration::from_secs(1));
    let before = world.last_short_cid();
    world.port = 7_777;
    world.client.handle_rebound(conn);
    world.run(Duration::from_secs(1));
    assert_ne!(world.last_short_cid(), before);
    world.client.write(conn, b"still here");
    world.run(Duration::from_secs(1));
    let mut back = Vec::new();
    world.client.read(conn, 100, |bytes| back.extend_from_slice(bytes));
    assert_eq!(back, b"still here");
}
