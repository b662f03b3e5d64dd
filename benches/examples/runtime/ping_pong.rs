//! One datagram there and back, round after round.

use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use quelea_udp_io::{Backend, Closed, Datagram, DoorId, ListenerId, Outgoing, Ring, Sink, UdpId};

use crate::{Candidate, cpu_time, pin, ring_config};

const ROUNDS: u32 = 20_000;

/// CPU time of the serving thread per round, in µs.
pub(crate) fn trial(candidate: Candidate) -> f64 {
    let (tell, told) = channel();
    let server = thread::spawn(move || match candidate {
        Candidate::Ring(backend) => serve_ring(backend, &tell),
        Candidate::Glommio => serve_glommio(tell),
    });
    play(told.recv().expect("the server's address"));
    server.join().expect("the server ends").as_secs_f64() * 1e6 / f64::from(ROUNDS)
}

/// A datagram of one byte ends the game.
fn play(server: SocketAddr) {
    pin(1);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(server).expect("loopback");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let mut buffer = [0; 64];
    for _ in 0..ROUNDS {
        socket.send(&[1; 32]).expect("sent");
        assert_eq!(socket.recv(&mut buffer).expect("an answer"), 32);
    }
    socket.send(&[0]).expect("sent");
}

/// What one poll has heard, to be sent back.
#[derive(Default)]
struct Heard {
    datagrams: Vec<(UdpId, SocketAddr, [u8; 32])>,
    is_over: bool,
}

impl Sink for Heard {
    fn datagram(&mut self, datagram: Datagram<'_>) {
        match datagram.bytes.try_into() {
            Ok(contents) => self.datagrams.push((datagram.udp, datagram.peer, contents)),
            Err(_) => self.is_over = true,
        }
    }

    fn opened(&mut self, _: DoorId, _: ListenerId, _: SocketAddr, _: SocketAddr) {}
    fn bytes(&mut self, _: DoorId, _: &[u8]) {}
    fn closed(&mut self, _: DoorId, _: Closed) {}
    fn written(&mut self, _: DoorId) {}
    fn doorbell(&mut self) {}
}

fn serve_ring(backend: Backend, tell: &Sender<SocketAddr>) -> Duration {
    pin(0);
    let mut ring = Ring::new(&ring_config(backend)).expect("a ring");
    let udp = ring.add_udp(UdpSocket::bind("127.0.0.1:0").expect("a socket")).expect("a socket of the ring");
    tell.send(ring.udp_address(udp).expect("bound")).expect("the client waits");
    let mut heard = Heard::default();
    let began = cpu_time();
    while !heard.is_over {
        ring.poll(None, &mut heard).expect("polled");
        for (udp, destination, contents) in heard.datagrams.drain(..) {
            let contents = &contents;
            ring.send(&Outgoing { udp, destination, source: None, ecn: None, segment_bytes: None, contents });
        }
    }
    cpu_time() - began
}

fn serve_glommio(tell: Sender<SocketAddr>) -> Duration {
    let builder = LocalExecutorBuilder::new(Placement::Fixed(0)).spin_before_park(Duration::ZERO);
    let executor = builder.spawn(move || async move {
        let socket = glommio::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        tell.send(socket.local_addr().expect("bound")).expect("the client waits");
        let mut buffer = [0; 64];
        let began = cpu_time();
        loop {
            let (length, peer) = socket.recv_from(&mut buffer).await.expect("received");
            if length == 1 {
                return cpu_time() - began;
            }
            socket.send_to(&buffer[..length], peer).await.expect("sent");
        }
    });
    executor.expect("an executor").join().expect("it ends")
}
