//! The broker on each back end by force: bytes, datagrams, shards that wake one another, and the end. Where the kernel
//! forbids io_uring its tests say so and pass.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use quelea::broker::Broker;
use quelea::config::{Config, IoBackend, Transport};
use quelea_mqtt::{QoS, ReasonCode};
use quelea_udp_io::{Backend, Choice};

use crate::client::message;
use crate::{PATIENCE, Served, config, serve_with};

/// A broker on `backend`; `None` where the kernel forbids it.
fn serve_on(backend: IoBackend) -> Option<Served> {
    serve_on_with(backend, |_| {})
}

fn serve_on_with(backend: IoBackend, change: impl FnOnce(&mut Config)) -> Option<Served> {
    if backend == IoBackend::IoUring
        && let Err(error) = Choice::of(Backend::IoUring)
    {
        // Set before a release: then a kernel that forbids io_uring is no excuse (docs/release-checklist.md).
        assert!(std::env::var_os("QUELEA_TEST_IO_URING").is_none(), "io_uring is required: {error}");
        println!("{error}: not tested");
        return None;
    }
    Some(serve_with(|config| {
        config.io.backend = backend;
        change(config);
    }))
}

fn messages_cross_shards_and_transports(backend: IoBackend) {
    let Some(served) = serve_on(backend) else { return };
    let mut near = served.client_on(0, "near");
    let mut far = served.client_on(1, "far");
    let mut over_quic = served.quic_client("over quic");
    near.subscribe("near", QoS::ExactlyOnce);
    far.subscribe("far", QoS::ExactlyOnce);
    over_quic.subscribe("quic", QoS::ExactlyOnce);
    let large: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    for payload in [&b"small"[..], &large] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let [to_near, to_far, to_quic] =
                ["near", "far", "quic"].map(|topic| message(topic, payload, qos));
            near.publish(&to_far);
            assert_eq!(far.message(), to_far);
            far.publish(&to_quic);
            assert_eq!(over_quic.message(), to_quic);
            over_quic.publish(&to_near);
            assert_eq!(near.message(), to_near);
        }
    }
}

fn draining_dismisses_every_client(backend: IoBackend) {
    let Some(served) = serve_on(backend) else { return };
    let mut clients = [served.client_on(0, "one"), served.client_on(1, "other")];
    let drained = thread::spawn(move || served.broker.drain_and_stop());
    for client in &mut clients {
        assert_eq!(client.dismissed(), ReasonCode::SERVER_SHUTTING_DOWN);
    }
    drop(clients);
    assert!(drained.join().unwrap(), "all had gone in time");
}

/// When the kernel will ask the client of a connection between these ports of loopback whether it is there; `None` if it never
/// will. `/proc/net/tcp` has one timer of each socket; while that is another, something is still to be acknowledged.
fn asked_in(broker: SocketAddr, client: SocketAddr) -> Option<Duration> {
    let ports = [format!(":{:04X}", broker.port()), format!(":{:04X}", client.port())];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let mut lines = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let socket = lines.find(|of| of[1].ends_with(&ports[0]) && of[2].ends_with(&ports[1]));
        match socket.expect("the broker's end is open")[5].split_once(':').unwrap() {
            ("00", _) => return None,
            // In hundredths of a second.
            ("02", ticks) => {
                return Some(Duration::from_millis(u64::from_str_radix(ticks, 16).unwrap() * 10));
            }
            _ => assert!(Instant::now() < deadline, "nothing else is going on: {sockets}"),
        }
    }
}

fn silent_clients_are_asked_as_the_operator_says(backend: IoBackend) {
    for seconds in [0, 1_000] {
        let given = Duration::from_secs(seconds);
        let Some(served) = serve_on_with(backend, |config| config.io.tcp_keepalive = given) else { return };
        // It has had an answer: the broker has set the socket up.
        let mut client = served.client("silent");
        let stream: &mut TcpStream = client.stream();
        let asked = asked_in(stream.peer_addr().unwrap(), stream.local_addr().unwrap());
        match asked {
            None => assert_eq!(seconds, 0),
            Some(asked) => assert!(given / 2 < asked && asked <= given, "{asked:?} of {given:?}"),
        }
        client.disconnect();
    }
}

#[test]
fn messages_cross_shards_and_transports_over_epoll() {
    messages_cross_shards_and_transports(IoBackend::Epoll);
}

#[test]
fn messages_cross_shards_and_transports_over_io_uring() {
    messages_cross_shards_and_transports(IoBackend::IoUring);
}

#[test]
fn draining_dismisses_every_client_over_epoll() {
    draining_dismisses_every_client(IoBackend::Epoll);
}

#[test]
fn draining_dismisses_every_client_over_io_uring() {
    draining_dismisses_every_client(IoBackend::IoUring);
}

/// A broker that has gone has let go of its ports, standing requests or not.
#[test]
fn ports_are_free_again_when_a_broker_has_stopped() {
    for backend in [IoBackend::Epoll, IoBackend::IoUring] {
        let Some(served) = serve_on(backend) else { continue };
        let (tcp, quic) = (served.tcp(), served.broker.addresses(Transport::Quic)[0]);
        let _client = served.client("client");
        drop(served);
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(&directory);
        config.tcp.listen = vec![tcp];
        config.quic.listen = vec![quic];
        assert!(Broker::start(config).is_ok(), "{backend:?}");
    }
}

#[test]
fn epoll_asks_silent_clients_as_the_operator_says() {
    silent_clients_are_asked_as_the_operator_says(IoBackend::Epoll);
}

#[test]
fn io_uring_asks_silent_clients_as_the_operator_says() {
    silent_clients_are_asked_as_the_operator_says(IoBackend::IoUring);
}
