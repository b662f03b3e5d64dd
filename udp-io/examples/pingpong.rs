//! What a datagram costs in CPU time, alone and in trains: two rings on one thread throw bursts to and fro
//! over loopback.
//!
//! ```text
//! cargo run --release -p quelea-udp-io --example pingpong -- [datagram bytes] [datagrams in all]
//! ```
//!
//! On loopback the sender pays for the kernel's receive path as well, in the soft interrupt that its call
//! runs into.
#![allow(unsafe_code)]

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use quelea_udp_io::{Closed, Datagram, DoorId, ListenerId, Outgoing, Ring, RingConfig, Sink, UdpId};

/// Counts what arrives.
#[derive(Default)]
struct Tally {
    datagrams: usize,
}

impl Sink for Tally {
    fn datagram(&mut self, datagram: Datagram<'_>) {
        std::hint::black_box(datagram.bytes[0]);
        self.datagrams += 1;
    }
    fn opened(&mut self, _: DoorId, _: ListenerId, _: SocketAddr, _: SocketAddr) {}
    fn bytes(&mut self, _: DoorId, _: &[u8]) {}
    fn closed(&mut self, _: DoorId, _: Closed) {}
    fn written(&mut self, _: DoorId) {}
    fn doorbell(&mut self) {}
}

struct Side {
    ring: Ring,
    udp: UdpId,
    address: SocketAddr,
    tally: Tally,
    send_ns: u64,
    receive_ns: u64,
}

/// The shape of a burst.
#[derive(Clone, Copy)]
struct Shape {
    datagram_bytes: usize,
    train: usize,
    trains: usize,
}

impl Side {
    fn new(config: &RingConfig) -> io::Result<Side> {
        let mut ring = Ring::new(config)?;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let address = socket.local_addr()?;
        let udp = ring.add_udp(socket)?;
        Ok(Side { ring, udp, address, tally: Tally::default(), send_ns: 0, receive_ns: 0 })
    }

    fn send(&mut self, destination: SocketAddr, shape: Shape, contents: &[u8]) -> io::Result<()> {
        let start = thread_cpu_ns();
        for _ in 0..shape.trains {
            self.ring.send(&Outgoing {
                udp: self.udp,
                destination,
                source: Some(self.address.ip()),
                ecn: Some(2),
                segment_bytes: Some(shape.datagram_bytes),
                contents,
            });
        }
        self.ring.flush()?;
        self.send_ns += thread_cpu_ns() - start;
        Ok(())
    }

    fn receive(&mut self, datagrams: usize) -> io::Result<()> {
        let start = thread_cpu_ns();
        self.tally.datagrams = 0;
        while self.tally.datagrams < datagrams {
            if self.ring.poll(Some(Duration::from_secs(1)), &mut self.tally)? == 0 {
                return Err(io::Error::other(format!("datagrams were lost: {:?}", self.ring.counters())));
            }
        }
        self.receive_ns += thread_cpu_ns() - start;
        Ok(())
    }
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>().expect("a number"));
    let datagram_bytes = arguments.next().unwrap_or(1200);
    let total = arguments.next().unwrap_or(1_000_000);
    println!("{datagram_bytes}-byte datagrams, CPU ns per datagram, one thread");
    println!("{:<24}{:>8}{:>10}", "", "send", "receive");
    let offload = RingConfig::default();
    let plain = RingConfig { gso: false, gro: false, ..RingConfig::default() };
    measure("singles, no GSO/GRO", &plain, Shape { datagram_bytes, train: 1, trains: BURST }, total)?;
    measure(
        "trains of 10, no GSO/GRO",
        &plain,
        Shape { datagram_bytes, train: 10, trains: BURST / 10 },
        total,
    )?;
    measure("singles", &offload, Shape { datagram_bytes, train: 1, trains: BURST }, total)?;
    for train in [2, 4, 10, 16, 32, 50] {
        let shape = Shape { datagram_bytes, train, trains: BURST / train };
        measure(&format!("trains of {train}"), &offload, shape, total)?;
    }
    Ok(())
}

fn measure(name: &str, config: &RingConfig, shape: Shape, total: usize) -> io::Result<()> {
    let (mut ping, mut pong) = (Side::new(config)?, Side::new(config)?);
    let contents = vec![0x5a; shape.datagram_bytes * shape.train];
    let burst = shape.train * shape.trains;
    let rounds = total.div_ceil(2 * burst);
    for round in 0..=rounds {
        if round == 1 {
            // The first round has touched the memory and is left out.
            for side in [&mut ping, &mut pong] {
                (side.send_ns, side.receive_ns) = (0, 0);
            }
        }
        ping.send(pong.address, shape, &contents)?;
        pong.receive(burst)?;
        pong.send(ping.address, shape, &contents)?;
        ping.receive(burst)?;
    }
    let datagrams = (2 * burst * rounds) as u64;
    let (send, receive) = (ping.send_ns + pong.send_ns, ping.receive_ns + pong.receive_ns);
    println!("{name:<24}{:>8}{:>10}", send / datagrams, receive / datagrams);
    Ok(())
}

/// CPU time of this thread, kernel time included.
fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is live and writable for the length of the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "the thread's own clock can be read");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Datagrams per burst: their buffers (about 2.3 KiB each) fit into a receive buffer of the kernel's usual
/// limit, 208 KiB doubled.
const BURST: usize = 160;
