//! Nothing is allocated in steady state: not by receiving, not by sending, not by streams.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quelea_udp_io::{
    Backend, Closed, Datagram, DoorId, ListenerId, Outgoing, Ring, RingConfig, Sink, UdpId, WriteBatch,
};

/// Counts the calling thread's allocations; the memory itself is the system allocator's.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system allocator unchanged; counting touches a thread-local number
// that needs no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are the system allocator's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Default)]
struct Tally {
    datagrams: usize,
    peer: Option<SocketAddr>,
    door: Option<DoorId>,
    bytes: usize,
    written: usize,
}

impl Sink for Tally {
    fn datagram(&mut self, datagram: Datagram<'_>) {
        self.datagrams += 1;
        self.peer = Some(datagram.peer);
    }

    fn opened(&mut self, door: DoorId, _: ListenerId, _: SocketAddr, _: SocketAddr) {
        self.door = Some(door);
    }

    fn bytes(&mut self, _: DoorId, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    fn closed(&mut self, door: DoorId, why: Closed) {
        panic!("{door:?} was closed: {why:?}");
    }

    fn written(&mut self, _: DoorId) {
        self.written += 1;
    }

    fn doorbell(&mut self) {}
}

struct Scene {
    ring: Ring,
    udp: UdpId,
    tally: Tally,
    peer: UdpSocket,
    client: TcpStream,
    answer: Bytes,
    trains: Vec<u8>,
}

impl Scene {
    fn new(backend: Backend) -> Scene {
        let mut ring = Ring::new(&RingConfig { backend, ..RingConfig::default() }).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.connect(socket.local_addr().unwrap()).unwrap();
        peer.set_read_timeout(Some(DEADLINE)).unwrap();
        let udp = ring.add_udp(socket).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        ring.add_listener(listener).unwrap();
        let (answer, trains) = (Bytes::from_static(b"answer"), vec![7; 20 * 300]);
        Scene { ring, udp, tally: Tally::default(), peer, client, answer, trains }
    }

    fn poll_until(&mut self, done: impl Fn(&Tally) -> bool) {
        let start = Instant::now();
        while !done(&self.tally) {
            assert!(start.elapsed() < DEADLINE, "never came");
            self.ring.poll(Some(Duration::from_millis(20)), &mut self.tally).unwrap();
        }
    }

    /// A turn of everything: datagrams in, a train out, bytes in, bytes out, reading paused and resumed.
    fn round(&mut self, number: usize) {
        let mut buffer = [0; 1500];
        self.peer.send(&[1; 100]).unwrap();
        self.peer.send(&[2; 100]).unwrap();
        self.client.write_all(b"question").unwrap();
        self.poll_until(|tally| {
            tally.datagrams >= 2 * number && tally.bytes >= 8 * number && tally.door.is_some()
        });
        self.ring.send(&Outgoing {
            udp: self.udp,
            destination: self.tally.peer.unwrap(),
            source: Some("127.0.0.1".parse().unwrap()),
            ecn: Some(2),
            segment_bytes: Some(300),
            contents: &self.trains,
        });
        let door = self.tally.door.unwrap();
        self.ring.pause_read(door);
        self.ring.write(door, WriteBatch::from_iter([self.answer.clone()]));
        self.ring.flush().unwrap();
        self.ring.resume_read(door);
        self.poll_until(|tally| tally.written >= number);
        for _ in 0..20 {
            assert_eq!(self.peer.recv(&mut buffer).unwrap(), 300);
        }
        self.client.read_exact(&mut buffer[..6]).unwrap();
    }
}

#[test]
fn a_ring_over_epoll_in_steady_state_allocates_nothing() {
    allocates_nothing(Backend::Epoll);
}

/// Where the kernel forbids io_uring this is the test above.
#[test]
fn a_ring_over_io_uring_in_steady_state_allocates_nothing() {
    allocates_nothing(Backend::Auto);
}

fn allocates_nothing(backend: Backend) {
    let mut scene = Scene::new(backend);
    for number in 1..=3 {
        scene.round(number);
    }
    let before = ALLOCATIONS.get();
    assert!(before > 0, "the counter counts");
    for number in 4..=200 {
        scene.round(number);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}

const DEADLINE: Duration = Duration::from_secs(20);
