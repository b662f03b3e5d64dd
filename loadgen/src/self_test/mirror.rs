//! The other end of a self-test: it answers what a client must have answered and hands every message on as it came. It is no
//! broker: it knows one publisher, one subscriber, no topics, and of MQTT the borders of packets.
//!
//! ```text
//!   publisher ── PUBLISH … ──▶ read ──┬── the same bytes ──▶ subscriber, or nobody
//!             ◀── PUBACK … (QoS 1) ───┘
//! ```
//! A thread for each connection, with blocking calls, so that what it costs is as little as the kernel allows. What a client sends
//! that is no such packet ends its connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::thread;

/// Serves so many connections, one run of the generator, and returns its address.
///
/// # Errors
/// The kernel's refusal of a socket or of a thread.
pub(super) fn start(connections: usize) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let accept = move || {
        let subscriber = Arc::new(OnceLock::new());
        for stream in listener.incoming().take(connections).map_while(Result::ok) {
            let subscriber = Arc::clone(&subscriber);
            // A connection without a thread is closed, and the run tells of it.
            let _ = thread::Builder::new().name("mirror".into()).spawn(move || serve(stream, &subscriber));
        }
    };
    thread::Builder::new().name("mirror".into()).spawn(accept)?;
    Ok(address)
}

/// Serves one connection until the client has left. Whatever goes wrong on it shows in the run's own report.
fn serve(stream: TcpStream, subscriber: &OnceLock<TcpStream>) {
    let _ = stream.set_nodelay(true);
    let mut mirror = Connection { stream, answers: Vec::new(), onward: 0..0 };
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    while let Ok(count @ 1..) = mirror.stream.read(&mut buffer[filled..]) {
        filled += count;
        let Ok(taken) = mirror.take(&buffer[..filled], subscriber) else { return };
        buffer.copy_within(taken..filled, 0);
        filled -= taken;
    }
}

struct Connection {
    stream: TcpStream,
    answers: Vec<u8>,
    /// PUBLISH packets of this read, to be handed on.
    onward: Range<usize>,
}

impl Connection {
    /// Deals with all whole packets, and returns how many bytes they were.
    fn take(&mut self, bytes: &[u8], subscriber: &OnceLock<TcpStream>) -> io::Result<usize> {
        let mut at = 0;
        self.onward = 0..0;
        while let Some(packet) = Packet::first_of(&bytes[at..])? {
            let end = at + packet.bytes;
            let body = &bytes[at + packet.head_bytes..end];
            match packet.first >> 4 {
                CONNECT => self.answers.extend([0x20, 3, 0, 0, 0]),
                SUBSCRIBE => {
                    let [high, low, .., options] = body else { return Err(malformed()) };
                    self.answers.extend([0x90, 4, *high, *low, 0, options & 3]);
                    let _ = subscriber.set(self.stream.try_clone()?);
                }
                PUBLISH => {
                    self.onward.start = if self.onward.is_empty() { at } else { self.onward.start };
                    self.onward.end = end;
                    if packet.first & 0b110 != 0 {
                        let [high, low] = packet_id(body).ok_or_else(malformed)?;
                        self.answers.extend([0x40, 2, high, low]);
                    }
                }
                PUBACK => {}
                PINGREQ => self.answers.extend([0xd0, 0]),
                _ => return Err(ErrorKind::ConnectionAborted.into()),
            }
            at = end;
        }
        if let (Some(mut subscriber), false) = (subscriber.get(), self.onward.is_empty()) {
            subscriber.write_all(&bytes[self.onward.clone()])?;
        }
        self.stream.write_all(&self.answers)?;
        self.answers.clear();
        Ok(at)
    }
}

/// The packet identifier of a PUBLISH above QoS 0, behind its topic.
fn packet_id(body: &[u8]) -> Option<[u8; 2]> {
    let (topic_bytes, rest) = body.split_first_chunk::<2>()?;
    rest.get(usize::from(u16::from_be_bytes(*topic_bytes))..)?.first_chunk::<2>().copied()
}

/// The fixed header of a packet `[MQTT 2.1.1]`.
#[derive(Debug, PartialEq, Eq)]
struct Packet {
    first: u8,
    head_bytes: usize,
    /// Head included.
    bytes: usize,
}

impl Packet {
    /// `None` while it has not wholly arrived.
    fn first_of(bytes: &[u8]) -> io::Result<Option<Self>> {
        let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
        let mut length = 0;
        for (index, byte) in rest.iter().take(LENGTH_BYTES_MAX).enumerate() {
            length |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                let packet = Self { first: *first, head_bytes: index + 2, bytes: index + 2 + length };
                return match packet.bytes {
                    size if size > BUFFER_BYTES => Err(malformed()),
                    size if size > bytes.len() => Ok(None),
                    _ => Ok(Some(packet)),
                };
            }
        }
        if rest.len() < LENGTH_BYTES_MAX { Ok(None) } else { Err(malformed()) }
    }
}

fn malformed() -> io::Error {
    ErrorKind::InvalidData.into()
}

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const SUBSCRIBE: u8 = 8;
const PINGREQ: u8 = 12;
/// `[MQTT 1.5.5]`: a Variable Byte Integer.
const LENGTH_BYTES_MAX: usize = 4;
/// Room for many packets, and for the largest one: `--payload` is bounded by it.
const BUFFER_BYTES: usize = super::PAYLOAD_BYTES_MAX + (256 << 10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_told_apart_wherever_they_are_cut() {
        let bytes = [0x30, 3, 0, 0, 7, 0xd0, 0];
        for cut in 0..5 {
            assert_eq!(Packet::first_of(&bytes[..cut]).unwrap(), None);
        }
        let packet = Packet { first: 0x30, head_bytes: 2, bytes: 5 };
        assert_eq!(Packet::first_of(&bytes).unwrap(), Some(packet));
        assert!(Packet::first_of(&[0x30, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(Packet::first_of(&[0x30, 0xff, 0xff, 0xff, 0x7f]).is_err(), "larger than the buffer");
    }

    #[test]
    fn what_is_published_comes_out_as_it_went_in_and_is_acknowledged() {
        let address = start(2).unwrap();
        let connect = |hello: &[u8], answer_bytes: usize| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(hello).unwrap();
            let mut answer = vec![0; answer_bytes];
            stream.read_exact(&mut answer).unwrap();
            (stream, answer)
        };
        let (mut subscriber, answer) = connect(&[0x10, 0, 0x82, 7, 0, 9, 0, 0, 1, b't', 1], 11);
        assert_eq!(answer, [0x20, 3, 0, 0, 0, 0x90, 4, 0, 9, 0, 1]);
        let (mut publisher, _) = connect(&[0x10, 0], 5);
        let messages = [[0x32, 6, 0, 1, b't', 0, 1, 0], [0x32, 6, 0, 1, b't', 0, 2, 0]];
        publisher.write_all(&messages.concat()).unwrap();
        let mut bytes = [0; 16];
        subscriber.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, *messages.concat());
        let mut acknowledged = [0; 8];
        publisher.read_exact(&mut acknowledged).unwrap();
        assert_eq!(acknowledged, [0x40, 2, 0, 1, 0x40, 2, 0, 2]);
        publisher.write_all(&[0xe0, 0]).unwrap();
        assert_eq!(publisher.read(&mut bytes).unwrap(), 0, "it leaves when told to");
    }
}
