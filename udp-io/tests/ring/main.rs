//! The ring through its public surface, on loopback, with ports that the kernel chooses.
//!
//! What a ring promises is tested on both back ends by the same tests, on io_uring also the way of kernels before 6.1. Where the kernel forbids io_uring its half runs
//! on epoll and says so, unless `QUELEA_TEST_IO_URING=required`: then it fails.

mod choice;
mod groups;
mod steering;

/// The tests of what a ring promises, on one back end.
macro_rules! on {
    ($module:ident, $backend:expr, $deferred:expr) => {
        #[path = "."]
        #[allow(clippy::duplicate_mod)] // that is the point
        mod $module {
            mod datagrams;
            mod descriptors;
            mod doors;

            use super::*;

            fn default_config() -> RingConfig {
                let backend = tested($backend);
                RingConfig { backend, deferred_task_work: $deferred, ..RingConfig::default() }
            }

            fn ring() -> Ring {
                Ring::new(&default_config()).unwrap()
            }
        }
    };
}

on!(epoll, Backend::Epoll, true);
on!(io_uring, Backend::IoUring, true);
on!(io_uring_before_6_1, Backend::IoUring, false);

/// The back end to test on instead of `wanted`, which the kernel may forbid.
fn tested(wanted: Backend) -> Backend {
    match Choice::of(wanted) {
        Ok(choice) => choice.backend,
        Err(error) => {
            let is_required = std::env::var("QUELEA_TEST_IO_URING").is_ok_and(|said| said == "required");
            assert!(!is_required, "{error}");
            println!("{error}: tested on epoll instead");
            Backend::Epoll
        }
    }
}

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use quelea_udp_io::{Backend, Choice, Closed, Datagram, DoorId, ListenerId, Ring, RingConfig, Sink, UdpId};

/// All that a ring has told.
#[derive(Default)]
struct Heard {
    datagrams: Vec<HeardDatagram>,
    opened: Vec<(DoorId, ListenerId, SocketAddr, SocketAddr)>,
    bytes: BTreeMap<DoorId, Vec<u8>>,
    closed: Vec<(DoorId, Closed)>,
    written: Vec<DoorId>,
    doorbells: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct HeardDatagram {
    udp: UdpId,
    peer: SocketAddr,
    local: Option<IpAddr>,
    ecn: Option<u8>,
    bytes: Vec<u8>,
}

impl Heard {
    fn bytes_of(&self, door: DoorId) -> &[u8] {
        self.bytes.get(&door).map_or(&[], Vec::as_slice)
    }

    fn closed_as(&self, door: DoorId) -> Vec<Closed> {
        self.closed.iter().filter(|(closed, _)| *closed == door).map(|(_, why)| *why).collect()
    }
}

impl Sink for Heard {
    fn datagram(&mut self, d: Datagram<'_>) {
        let bytes = d.bytes.to_vec();
        self.datagrams.push(HeardDatagram { udp: d.udp, peer: d.peer, local: d.local, ecn: d.ecn, bytes });
    }

    fn opened(&mut self, door: DoorId, listener: ListenerId, peer: SocketAddr, local: SocketAddr) {
        self.opened.push((door, listener, peer, local));
    }

    fn bytes(&mut self, door: DoorId, bytes: &[u8]) {
        self.bytes.entry(door).or_default().extend_from_slice(bytes);
    }

    fn closed(&mut self, door: DoorId, why: Closed) {
        self.closed.push((door, why));
    }

    fn written(&mut self, door: DoorId) {
        self.written.push(door);
    }

    fn doorbell(&mut self) {
        self.doorbells += 1;
    }
}

/// A ring with one UDP socket bound to `ip`.
fn ring_on(ip: &str, config: &RingConfig) -> (Ring, UdpId, SocketAddr) {
    let mut ring = Ring::new(config).unwrap();
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let udp = ring.add_udp(socket).unwrap();
    (ring, udp, address)
}

/// A ring with one listener on loopback.
fn ring_with_listener(config: &RingConfig) -> (Ring, ListenerId, SocketAddr) {
    let mut ring = Ring::new(config).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let listener = ring.add_listener(socket).unwrap();
    (ring, listener, address)
}

/// Polls until `done`, or fails saying what was awaited.
fn poll_until(ring: &mut Ring, heard: &mut Heard, awaited: &str, mut done: impl FnMut(&Heard) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done(heard) {
        assert!(Instant::now() < deadline, "never came: {awaited}; counters: {:?}", ring.counters());
        ring.poll(Some(Duration::from_millis(20)), heard).unwrap();
    }
}

/// Polls until the ring's own state is `done`, or fails saying what was awaited.
fn poll_until_ring(ring: &mut Ring, heard: &mut Heard, awaited: &str, done: impl Fn(&Ring) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done(ring) {
        assert!(Instant::now() < deadline, "never came: {awaited}; counters: {:?}", ring.counters());
        ring.poll(Some(Duration::from_millis(20)), heard).unwrap();
    }
}

/// Polls until a poll finds nothing to do.
fn poll_all(ring: &mut Ring, heard: &mut Heard) {
    while ring.poll(Some(Duration::ZERO), heard).unwrap() > 0 {}
}

/// Generous: the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(20);
