//! MQTT over TCP, within and across shards; draining; addresses.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use quelea::broker::Broker;
use quelea::config::Shards;
use quelea_mqtt::{QoS, ReasonCode};

use crate::client::{Message, TcpClient, message};
use crate::{PATIENCE, config, serve, serve_with};

const EVERY_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[test]
fn messages_of_every_qos_arrive_within_and_across_shards() {
    let served = serve();
    for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut subscriber = served.client_on(to, "subscriber");
        subscriber.subscribe("house/+/door", QoS::ExactlyOnce);
        let mut publisher = served.client_on(from, "publisher");
        for qos in EVERY_QOS {
            let sent = message("house/north/door", format!("{from} to {to}, {qos}").as_bytes(), qos);
            publisher.publish(&sent);
            assert_eq!(subscriber.message(), sent);
        }
        publisher.disconnect();
        subscriber.disconnect();
    }
    assert_eq!([0, 1].map(|shard| served.metric("publishes_received_total", shard)), [6, 6]);
    assert_eq!([0, 1].map(|shard| served.metric("publishes_sent_total", shard)), [6, 6]);
}

#[test]
fn a_large_message_crosses_shards_whole() {
    let served = serve();
    let mut subscriber = served.client_on(0, "subscriber");
    subscriber.subscribe("large", QoS::AtLeastOnce);
    let mut publisher = served.client_on(1, "publisher");
    let payload: Vec<u8> = (0..900_000_u32).map(|n| (n % 251) as u8).collect();
    let sent = message("large", &payload, QoS::AtLeastOnce);
    publisher.publish(&sent);
    assert_eq!(subscriber.message(), sent);
}

#[test]
fn a_retained_message_waits_for_subscribers_on_every_shard() {
    let served = serve();
    let retained = Message { retain: true, ..message("state/valve", b"open", QoS::AtLeastOnce) };
    served.client("publisher").publish(&retained);
    for shard in [0, 1] {
        let mut late = served.client_on(shard, "late");
        late.subscribe("state/#", QoS::AtLeastOnce);
        assert_eq!(late.message(), retained);
    }
}

#[test]
fn a_will_is_published_when_its_client_is_lost_and_not_when_it_leaves() {
    let served = serve();
    let mut watcher = served.client("watcher");
    watcher.subscribe("gone/+", QoS::AtLeastOnce);
    let leaving = TcpClient::tcp_with_will(served.tcp(), "leaving", "gone/leaving", b"never said");
    leaving.disconnect();
    let lost = TcpClient::tcp_with_will(served.tcp(), "lost", "gone/lost", b"help");
    drop(lost);
    assert_eq!(watcher.message(), message("gone/lost", b"help", QoS::AtLeastOnce));
}

#[test]
fn draining_tells_every_client_to_go_and_waits_for_them() {
    let served = serve();
    let (mut one, mut other) = (served.client_on(0, "one"), served.client_on(1, "other"));
    let address = served.tcp();
    let drained = thread::spawn(move || served.broker.drain_and_stop());
    assert_eq!(one.dismissed(), ReasonCode::SERVER_SHUTTING_DOWN);
    assert_eq!(other.dismissed(), ReasonCode::SERVER_SHUTTING_DOWN);
    drop((one, other));
    assert!(drained.join().unwrap(), "all have gone by themselves");
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_client_that_does_not_go_is_cut_off_at_the_deadline() {
    let served = serve_with(|config| config.broker.drain_timeout = Duration::from_millis(100));
    let mut stubborn = served.client("stubborn");
    assert!(!served.broker.drain_and_stop());
    assert_eq!(stubborn.dismissed(), ReasonCode::SERVER_SHUTTING_DOWN);
    let error = stubborn.stream().write(b"still here").unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
}

#[test]
fn an_idle_broker_drains_at_once() {
    assert!(serve().broker.drain_and_stop());
}

#[test]
fn clients_beyond_the_maximum_are_turned_away() {
    let served = serve_with(|config| {
        config.broker.shards = Shards::Count(1);
        config.broker.connections_max = 2;
    });
    let kept = [served.client("one"), served.client("two")];
    // The reset may come before the third one has so much as connected.
    let third = TcpStream::connect_timeout(&served.tcp(), PATIENCE).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read(&mut [0; 1])
    });
    assert_eq!(third.unwrap_err().kind(), ErrorKind::ConnectionReset);
    drop(kept);
}

#[test]
fn a_client_that_ends_its_side_is_answered_by_an_end_and_leaves_nothing_behind() {
    let served = serve();
    let mut client = served.client("half");
    client.stream().shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    client.stream().read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"", "an end, not a reset, and nothing before it");
    // The shard has seen to the connection's end before it publishes.
    let doors = [0, 1].map(|shard| served.metric("io_doors", shard) + served.metric("links", shard));
    assert_eq!(doors, [0, 0]);
}

#[test]
fn an_address_in_use_is_named_with_its_owner_and_the_flag() {
    let served = serve();
    let directory = tempfile::tempdir().unwrap();
    let mut second = config(&directory);
    second.quic.listen = Vec::new();
    second.tcp.listen = vec![served.tcp()];
    let refusal = Broker::start(second.clone()).unwrap_err();
    assert!(!refusal.is_configuration());
    let text = refusal.to_string();
    let expected = format!("cannot serve MQTT over TCP: {} is in use by ", served.tcp());
    assert!(text.starts_with(&expected), "{text}");
    assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
    assert!(text.contains("--tcp-listen"), "{text}");
    // What it had taken by then has been given back, and so has what the first one holds when it ends.
    drop(served);
    Broker::start(second).unwrap();
}

#[test]
fn a_data_directory_serves_one_broker_at_a_time_and_keeps_its_certificate() {
    let served = serve();
    let second = config(&served.directory);
    let refusal = Broker::start(second.clone()).unwrap_err().to_string();
    assert!(refusal.contains("in use by another broker"), "{refusal}");
    let fingerprint = served.broker.fingerprint().unwrap();
    drop(served.broker);
    assert_eq!(Broker::start(second).unwrap().fingerprint(), Some(fingerprint));
}
