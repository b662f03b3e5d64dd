//! The least that a broker of QoS 1 can do: the bound that Quelea's cost per message is measured against.
//!
//! It makes the same system calls on the same ring as a shard and knows nothing of MQTT but where a packet ends: a PUBLISH
//! goes, as it is, to whoever subscribed to exactly its topic, and is acknowledged at once. No sessions, no limits, no errors.
//!
//! ```sh
//! cargo run --release -p quelea-udp-io --example relay -- 127.0.0.1:1885 epoll
//! quelea-load pair mqtt://127.0.0.1:1885 --mqtt 3.1.1 --pairs 50 --rate 4k --qos 1 --pid "$(pidof relay)"
//! ```

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};

use bytes::{BufMut, BytesMut};
use quelea_udp_io::{Backend, Close, Closed, Datagram, DoorId, ListenerId, Ring, RingConfig, Sink};
use smallvec::smallvec;

/// One connection.
#[derive(Default)]
struct Line {
    input: BytesMut,
    output: BytesMut,
    writing: bool,
}

#[derive(Default)]
struct Relay {
    lines: HashMap<DoorId, Line>,
    subscribers: HashMap<Vec<u8>, DoorId>,
    dirty: Vec<DoorId>,
    gone: Vec<DoorId>,
}

impl Relay {
    fn say(&mut self, door: DoorId, packet: &[u8]) {
        if let Some(line) = self.lines.get_mut(&door) {
            line.output.put_slice(packet);
            self.dirty.push(door);
        }
    }

    fn on_packet(&mut self, from: DoorId, packet: &[u8], head: usize) {
        let body = &packet[head..];
        match packet[0] >> 4 {
            1 => self.say(from, &[0x20, 2, 0, 0]),
            3 => {
                let topic_end = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                if packet[0] & 0x06 != 0 {
                    self.say(from, &[0x40, 2, body[topic_end], body[topic_end + 1]]);
                }
                if let Some(to) = self.subscribers.get(&body[2..topic_end]).copied() {
                    self.say(to, packet);
                }
            }
            8 => {
                let topic_end = 4 + usize::from(u16::from_be_bytes([body[2], body[3]]));
                self.subscribers.insert(body[4..topic_end].to_vec(), from);
                self.say(from, &[0x90, 3, body[0], body[1], 1]);
            }
            12 => self.say(from, &[0xd0, 0]),
            _ => {}
        }
    }

    /// One write for each connection with something to say, as a shard's turn does it.
    fn write(&mut self, ring: &mut Ring) {
        for door in self.dirty.drain(..) {
            let Some(line) = self.lines.get_mut(&door) else { continue };
            if !line.writing && !line.output.is_empty() {
                line.writing = true;
                ring.write(door, smallvec![line.output.split().freeze()]);
            }
        }
        for door in self.gone.drain(..) {
            self.lines.remove(&door);
            ring.close(door, Close::Abort);
        }
    }
}

/// Where the packet at the front of `bytes` has its body, and where it ends.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let head = index + 2;
            return (head + length <= bytes.len()).then_some((head, head + length));
        }
    }
    None
}

impl Sink for Relay {
    fn datagram(&mut self, _datagram: Datagram<'_>) {}

    fn opened(&mut self, door: DoorId, _listener: ListenerId, _peer: SocketAddr, _local: SocketAddr) {
        self.lines.insert(door, Line::default());
    }

    fn bytes(&mut self, door: DoorId, bytes: &[u8]) {
        let Some(line) = self.lines.get_mut(&door) else { return };
        let mut input = std::mem::take(&mut line.input);
        input.put_slice(bytes);
        while let Some((head, end)) = frame(&input) {
            let packet = input.split_to(end);
            self.on_packet(door, &packet, head);
        }
        if let Some(line) = self.lines.get_mut(&door) {
            line.input = input;
        }
    }

    fn closed(&mut self, door: DoorId, _why: Closed) {
        self.gone.push(door);
    }

    fn written(&mut self, door: DoorId) {
        if let Some(line) = self.lines.get_mut(&door) {
            line.writing = false;
            self.dirty.push(door);
        }
    }

    fn doorbell(&mut self) {}
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:1885".to_owned());
    let backend = match arguments.next().as_deref() {
        Some("epoll") => Backend::Epoll,
        Some("io_uring") => Backend::IoUring,
        _ => Backend::Auto,
    };
    let mut ring = Ring::new(&RingConfig { backend, ..RingConfig::default() })?;
    ring.add_listener(TcpListener::bind(address)?)?;
    let mut relay = Relay::default();
    loop {
        ring.poll(None, &mut relay)?;
        // What is written at once is told at once, and there may be more to write.
        while !relay.dirty.is_empty() || !relay.gone.is_empty() {
            relay.write(&mut ring);
            ring.submit()?;
            ring.reap(&mut relay);
        }
    }
}
