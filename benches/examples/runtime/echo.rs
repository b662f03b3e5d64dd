//! 100 TCP connections with 64 bytes under way on each.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use glommio::{LocalExecutorBuilder, Placement};
use quelea_udp_io::{Backend, Close, Closed, Datagram, DoorId, ListenerId, Ring, Sink};
use smallvec::smallvec;

use crate::{Candidate, cpu_time, pin, ring_config};

const CONNECTIONS: usize = 100;
const ECHOES: u32 = 200_000;
const MESSAGE: [u8; 64] = [7; 64];

/// CPU time of the serving thread per echo, in µs.
pub(crate) fn trial(candidate: Candidate) -> f64 {
    let (tell, told) = channel();
    let server = thread::spawn(move || match candidate {
        Candidate::Ring(backend) => serve_ring(backend, &tell),
        Candidate::Glommio => serve_glommio(tell),
    });
    let echoes = speak(told.recv().expect("the server's address"));
    server.join().expect("the server ends").as_secs_f64() * 1e6 / f64::from(echoes)
}

/// What one poll has heard.
#[derive(Default)]
struct Heard {
    bytes: Vec<(DoorId, Bytes)>,
    opened: usize,
    ended: Vec<DoorId>,
    gone: usize,
}

impl Sink for Heard {
    fn bytes(&mut self, door: DoorId, bytes: &[u8]) {
        self.bytes.push((door, Bytes::copy_from_slice(bytes)));
    }

    fn opened(&mut self, _: DoorId, _: ListenerId, _: SocketAddr, _: SocketAddr) {
        self.opened += 1;
    }

    fn closed(&mut self, door: DoorId, why: Closed) {
        match why {
            Closed::EndOfStream => self.ended.push(door),
            Closed::Flushed | Closed::Reset(_) => self.gone += 1,
        }
    }

    fn datagram(&mut self, _: Datagram<'_>) {}
    fn written(&mut self, _: DoorId) {}
    fn doorbell(&mut self) {}
}

/// The same client for every server: a ring on epoll. Returns how many echoes came.
fn speak(server: SocketAddr) -> u32 {
    pin(1);
    let mut ring = Ring::new(&ring_config(Backend::Epoll)).expect("a ring");
    let message = Bytes::from_static(&MESSAGE);
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(server).expect("connected");
        let door = ring.add_stream(stream).expect("a door");
        ring.write(door, smallvec![message.clone()]);
    }
    let mut heard = Heard::default();
    let mut bytes_heard = 0;
    while bytes_heard < ECHOES as usize * MESSAGE.len() {
        ring.reap(&mut heard);
        ring.poll(Some(Duration::from_secs(10)), &mut heard).expect("polled");
        for (door, bytes) in heard.bytes.drain(..) {
            assert_eq!(bytes.len(), MESSAGE.len(), "a message in pieces over loopback");
            bytes_heard += bytes.len();
            ring.write(door, smallvec![message.clone()]);
        }
    }
    u32::try_from(bytes_heard / MESSAGE.len()).expect("as many as asked for, and a few")
}

fn serve_ring(backend: Backend, tell: &Sender<SocketAddr>) -> Duration {
    pin(0);
    let mut ring = Ring::new(&ring_config(backend)).expect("a ring");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    tell.send(listener.local_addr().expect("bound")).expect("the client waits");
    ring.add_listener(listener).expect("a listener of the ring");
    let mut heard = Heard::default();
    while heard.opened < CONNECTIONS {
        ring.poll(None, &mut heard).expect("polled");
    }
    let began = cpu_time();
    while heard.gone < CONNECTIONS {
        for (door, bytes) in heard.bytes.drain(..) {
            ring.write(door, smallvec![bytes]);
        }
        for door in heard.ended.drain(..) {
            ring.close(door, Close::Flush);
        }
        ring.flush().expect("flushed");
        // The last connection may end here: no wait is for ever.
        ring.reap(&mut heard);
        ring.poll(Some(Duration::from_millis(100)), &mut heard).expect("polled");
    }
    cpu_time() - began
}

fn serve_glommio(tell: Sender<SocketAddr>) -> Duration {
    let builder = LocalExecutorBuilder::new(Placement::Fixed(0)).spin_before_park(Duration::ZERO);
    let executor = builder.spawn(move || async move {
        let listener = glommio::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        tell.send(listener.local_addr().expect("bound")).expect("the client waits");
        let mut tasks = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = listener.accept().await.expect("accepted");
            stream.set_nodelay(true).expect("set");
            tasks.push(glommio::spawn_local(async move {
                let mut buffer = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..length]).await.is_err() {
                        return;
                    }
                }
            }));
        }
        let began = cpu_time();
        for task in tasks {
            task.await;
        }
        cpu_time() - began
    });
    executor.expect("an executor").join().expect("it ends")
}
