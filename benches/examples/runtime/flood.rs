//! Bursts of datagrams from one ring to another, both on this thread.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use quelea_udp_io::{Closed, Datagram, DoorId, ListenerId, Outgoing, Ring, Sink};

use crate::{Candidate, cpu_time, pin, ring_config};

const BURST: usize = 512;
const BURSTS: usize = 400;
const DATAGRAM_BYTES: usize = 1200;

/// What is measured of a burst.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// Datagrams that are sent in one train.
    train: usize,
    is_send: bool,
}

pub(crate) const PARTS: [Part; 4] = [
    Part { train: 32, is_send: true },
    Part { train: 32, is_send: false },
    Part { train: 1, is_send: true },
    Part { train: 1, is_send: false },
];

impl Part {
    pub(crate) fn name(self) -> &'static str {
        match (self.train > 1, self.is_send) {
            (true, true) => "flood in trains of 32, send",
            (true, false) => "flood in trains of 32, receive",
            (false, true) => "flood singly, send",
            (false, false) => "flood singly, receive",
        }
    }
}

#[derive(Default)]
struct Counted {
    datagrams: usize,
}

impl Sink for Counted {
    fn datagram(&mut self, datagram: Datagram<'_>) {
        assert_eq!(datagram.bytes.len(), DATAGRAM_BYTES);
        self.datagrams += 1;
    }

    fn opened(&mut self, _: DoorId, _: ListenerId, _: SocketAddr, _: SocketAddr) {}
    fn bytes(&mut self, _: DoorId, _: &[u8]) {}
    fn closed(&mut self, _: DoorId, _: Closed) {}
    fn written(&mut self, _: DoorId) {}
    fn doorbell(&mut self) {}
}

/// CPU time of sending, or of receiving, per datagram, in ns.
pub(crate) fn trial(candidate: Candidate, part: Part) -> f64 {
    let Candidate::Ring(backend) = candidate else { unreachable!("rings only") };
    pin(0);
    let ring = || {
        let mut ring = Ring::new(&ring_config(backend)).expect("a ring");
        let udp = ring.add_udp(UdpSocket::bind("127.0.0.1:0").expect("a socket")).expect("a ring's socket");
        (ring, udp)
    };
    let (mut sender, udp) = ring();
    let (mut receiver, to) = ring();
    let destination = receiver.udp_address(to).expect("bound");
    let contents = vec![0x5a; part.train * DATAGRAM_BYTES];
    let segment_bytes = (part.train > 1).then_some(DATAGRAM_BYTES);
    let mut heard = Counted::default();
    let (mut sending, mut receiving) = (Duration::ZERO, Duration::ZERO);
    for burst in 1..=BURSTS {
        let began = cpu_time();
        for _ in 0..BURST / part.train {
            let contents = &contents;
            sender.send(&Outgoing { udp, destination, source: None, ecn: None, segment_bytes, contents });
        }
        sender.flush().expect("flushed");
        let sent = cpu_time();
        while heard.datagrams < burst * BURST {
            receiver.poll(Some(Duration::from_secs(10)), &mut heard).expect("polled");
        }
        sending += sent - began;
        receiving += cpu_time() - sent;
    }
    let spent = if part.is_send { sending } else { receiving };
    spent.as_secs_f64() * 1e9 / (BURST * BURSTS) as f64
}
