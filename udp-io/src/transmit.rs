//! Sending datagrams: a queue in an arena, flushed by `sendmmsg`, trains cut by the kernel (GSO).
//!
//! ```text
//! arena    | train 0 (up to 64 datagrams to one peer) | single | train 2 | … used | free … |
//! queued   |  name, control messages, range           | …
//!             ^ cursor: entry and offset of the next byte the kernel has not taken
//! ```
//!
//! The arena belongs to this queue alone; the kernel reads it only within `sendmmsg` and copies. When the
//! socket has no room, what is queued stays, and what comes after finds less and less room until it is
//! dropped and counted: QUIC sends again.

use std::io;
use std::os::fd::BorrowedFd;

use crate::address::Name;
use crate::control::OutgoingControl;
use crate::counters::Counters;
use crate::sink::Outgoing;
use crate::sys::{self, BATCH_MAX, Packet};

pub(crate) struct SendQueue {
    arena: Box<[u8]>,
    used: usize,
    queued: Vec<Queued>,
    queued_max: usize,
    cursor: Cursor,
    is_v6: bool,
    gso: bool,
    /// The socket said `EAGAIN` and has not been writable since.
    blocked: bool,
}

/// One train or single datagram.
struct Queued {
    name: Name,
    control: OutgoingControl,
    start: usize,
    length: usize,
    segment_bytes: usize,
    /// The kernel refused it as a train: it is sent one datagram at a time.
    singly: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Cursor {
    entry: usize,
    offset: usize,
}

/// A piece that one header carries: part of an entry.
#[derive(Clone, Copy)]
struct Piece {
    datagrams: usize,
    bytes: usize,
}

impl Queued {
    fn is_train(&self) -> bool {
        self.length > self.segment_bytes
    }

    /// The next piece to send, at `offset` within this entry.
    fn piece(&self, gso: bool, offset: usize) -> Piece {
        let rest = self.length - offset;
        let bytes = if gso && !self.singly { rest } else { rest.min(self.segment_bytes) };
        Piece { datagrams: bytes.div_ceil(self.segment_bytes), bytes }
    }
}

impl SendQueue {
    pub(crate) fn new(arena_bytes: usize, queued_max: usize, is_v6: bool, gso: bool) -> SendQueue {
        SendQueue {
            arena: vec![0; arena_bytes].into_boxed_slice(),
            used: 0,
            queued: Vec::with_capacity(queued_max),
            queued_max,
            cursor: Cursor::default(),
            is_v6,
            gso,
            blocked: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The socket has room again.
    pub(crate) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Queues datagrams, cut into trains of what the kernel takes at once.
    pub(crate) fn push(&mut self, socket: BorrowedFd<'_>, transmit: &Outgoing<'_>, counters: &mut Counters) {
        let contents = transmit.contents;
        let segment_bytes = transmit.segment_bytes.unwrap_or(contents.len());
        assert!(!contents.is_empty() && segment_bytes > 0, "nothing to send");
        let Some(name) = Name::for_socket(self.is_v6, transmit.destination) else {
            counters.dropped_unreachable += contents.len().div_ceil(segment_bytes) as u64;
            return;
        };
        for train in contents.chunks(train_bytes_max(segment_bytes)) {
            if !self.has_room(train.len()) {
                self.flush(socket, counters);
            }
            if !self.has_room(train.len()) {
                counters.dropped_arena_full += train.len().div_ceil(segment_bytes) as u64;
                continue;
            }
            let segment = (train.len() > segment_bytes).then_some(segment_bytes as u16);
            let ecn = transmit.ecn.unwrap_or(0);
            let control = OutgoingControl::new(transmit.destination.ip(), transmit.source, ecn, segment);
            let (start, length) = (self.used, train.len());
            self.arena[start..start + length].copy_from_slice(train);
            self.used += length;
            self.queued.push(Queued { name, control, start, length, segment_bytes, singly: false });
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.queued.len() < self.queued_max && self.arena.len() - self.used >= bytes
    }

    /// Sends what is queued until the kernel has no more room. Cheap when nothing is queued or the socket is
    /// known to be full.
    pub(crate) fn flush(&mut self, socket: BorrowedFd<'_>, counters: &mut Counters) {
        // An error of ICMP is about an earlier datagram, so the one that met it is tried again, once.
        let mut retried = None;
        while !self.blocked && self.cursor.entry < self.queued.len() {
            match self.send_some(socket, counters) {
                Ok(()) => {}
                Err(error) if error.raw_os_error().is_some_and(is_icmp) => {
                    counters.icmp_errors += 1;
                    if retried.replace(self.cursor) == Some(self.cursor) {
                        counters.dropped_unreachable += self.skip_piece();
                    }
                }
                Err(error) => self.on_send_error(&error, counters),
            }
        }
        self.compact();
    }

    /// One `sendmmsg` from the cursor on.
    fn send_some(&mut self, socket: BorrowedFd<'_>, counters: &mut Counters) -> io::Result<()> {
        let mut packets = [Packet::EMPTY; BATCH_MAX];
        let mut pieces = [Piece { datagrams: 0, bytes: 0 }; BATCH_MAX];
        let (mut count, mut cursor) = (0, self.cursor);
        while count < BATCH_MAX && cursor.entry < self.queued.len() {
            let entry = &self.queued[cursor.entry];
            let piece = entry.piece(self.gso, cursor.offset);
            let start = entry.start + cursor.offset;
            packets[count] = Packet {
                name: entry.name.as_bytes(),
                control: if piece.datagrams > 1 { entry.control.train() } else { entry.control.single() },
                contents: &self.arena[start..start + piece.bytes],
            };
            pieces[count] = piece;
            count += 1;
            cursor = advance(cursor, entry, piece);
        }
        let sent = sys::send_batch(socket, &packets[..count])?;
        for piece in &pieces[..sent] {
            counters.datagrams_out += piece.datagrams as u64;
            counters.datagram_bytes_out += piece.bytes as u64;
            counters.gso_trains += u64::from(piece.datagrams > 1);
            self.cursor = advance(self.cursor, &self.queued[self.cursor.entry], *piece);
        }
        Ok(())
    }

    /// The kernel refused the piece at the cursor.
    fn on_send_error(&mut self, error: &io::Error, counters: &mut Counters) {
        let entry = &mut self.queued[self.cursor.entry];
        let was_train = self.gso && !entry.singly && entry.is_train();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EAGAIN) => {
                counters.sends_blocked += 1;
                self.blocked = true;
            }
            // The device cannot finish checksums, so it cannot cut trains: never again on this socket.
            Some(libc::EIO) if was_train => {
                counters.gso_refused += 1;
                self.gso = false;
            }
            // This train's shape is not liked (older kernels: segments above the MTU): its datagrams may be.
            Some(libc::EINVAL) if was_train => {
                counters.gso_refused += 1;
                entry.singly = true;
            }
            Some(libc::EMSGSIZE) => counters.dropped_too_large += self.skip_piece(),
            Some(libc::ENOBUFS | libc::ENOMEM) => counters.dropped_no_buffers += self.skip_piece(),
            _ => counters.dropped_unreachable += self.skip_piece(),
        }
    }

    /// Drops the piece at the cursor and returns how many datagrams it held.
    fn skip_piece(&mut self) -> u64 {
        let entry = &self.queued[self.cursor.entry];
        let piece = entry.piece(self.gso, self.cursor.offset);
        self.cursor = advance(self.cursor, entry, piece);
        piece.datagrams as u64
    }

    /// Moves what the kernel has not taken to the front of the arena.
    fn compact(&mut self) {
        let sent_bytes = match self.queued.get(self.cursor.entry) {
            None => self.used,
            Some(_) if self.cursor.entry == 0 => return,
            Some(entry) => entry.start,
        };
        self.arena.copy_within(sent_bytes..self.used, 0);
        self.used -= sent_bytes;
        self.queued.drain(..self.cursor.entry);
        for entry in &mut self.queued {
            entry.start -= sent_bytes;
        }
        self.cursor.entry = 0;
    }
}

fn advance(cursor: Cursor, entry: &Queued, piece: Piece) -> Cursor {
    let offset = cursor.offset + piece.bytes;
    if offset < entry.length {
        Cursor { offset, ..cursor }
    } else {
        Cursor { entry: cursor.entry + 1, offset: 0 }
    }
}

/// Errors that arrived by ICMP and wait on the socket for the next call.
pub(crate) fn is_icmp(error: i32) -> bool {
    matches!(error, libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::EPROTO)
}

/// Bytes of the longest train of such datagrams that the kernel takes at once.
pub(crate) fn train_bytes_max(segment_bytes: usize) -> usize {
    (TRAIN_BYTES_MAX / segment_bytes).clamp(1, TRAIN_DATAGRAMS_MAX) * segment_bytes
}

/// `UDP_MAX_SEGMENTS` of the kernels before 6.9 (later ones take 128).
const TRAIN_DATAGRAMS_MAX: usize = 64;
/// The longest UDP payload over IPv4: 65,535 less 20 of IP header and 8 of UDP header.
const TRAIN_BYTES_MAX: usize = 65_507;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::sink::UdpId;

    /// Loopback takes every UDP datagram at once. A pair of Unix sockets holds back as a full device does,
    /// and its datagrams need no name.
    struct Held {
        queue: SendQueue,
        near: UnixDatagram,
        far: UnixDatagram,
        counters: Counters,
    }

    impl Held {
        fn new(queued_max: usize) -> Held {
            let (near, far) = UnixDatagram::pair().unwrap();
            far.set_nonblocking(true).unwrap();
            let queue = SendQueue::new(1 << 16, queued_max, false, true);
            Held { queue, near, far, counters: Counters::default() }
        }

        fn push(&mut self, number: u32) {
            let contents = number.to_be_bytes();
            let destination = "127.0.0.1:9".parse().unwrap();
            let transmit = Outgoing {
                udp: UdpId(0),
                destination,
                source: None,
                ecn: None,
                segment_bytes: None,
                contents: &contents,
            };
            self.queue.push(self.near.as_fd(), &transmit, &mut self.counters);
            if let Some(entry) = self.queue.queued.last_mut() {
                entry.name = Name::NONE;
            }
        }

        fn flush(&mut self) {
            self.queue.flush(self.near.as_fd(), &mut self.counters);
        }

        fn take(&self, taken: &mut Vec<u32>) {
            let mut buffer = [0; 4];
            while self.far.recv(&mut buffer).is_ok() {
                taken.push(u32::from_be_bytes(buffer));
            }
        }
    }

    #[test]
    fn a_full_socket_keeps_the_queue_in_order_until_it_has_room() {
        let mut held = Held::new(10_000);
        (0..5_000).for_each(|number| held.push(number));
        held.flush();
        assert!(held.queue.is_blocked() && !held.queue.is_empty());
        let mut taken = Vec::new();
        let mut rounds = 0;
        while !held.queue.is_empty() {
            held.take(&mut taken);
            let sent = held.counters.datagrams_out;
            held.flush();
            assert_eq!(held.counters.datagrams_out, sent, "not before the socket says so");
            held.queue.unblock();
            held.flush();
            rounds += 1;
        }
        held.take(&mut taken);
        assert!(taken.into_iter().eq(0..5_000));
        assert!(rounds > 1 && held.counters.sends_blocked >= rounds);
        assert_eq!((held.counters.datagrams_out, held.queue.used), (5_000, 0));
    }

    #[test]
    fn behind_a_full_socket_the_newest_are_dropped_and_counted() {
        let mut held = Held::new(100);
        (0..5_000).for_each(|number| held.push(number));
        held.flush();
        let dropped = held.counters.dropped_arena_full;
        assert_eq!(held.queue.queued.len(), 100);
        assert_eq!(held.counters.datagrams_out + 100 + dropped, 5_000);
        let mut taken = Vec::new();
        while !held.queue.is_empty() {
            held.take(&mut taken);
            held.queue.unblock();
            held.flush();
        }
        held.take(&mut taken);
        assert!(taken.into_iter().eq(0..5_000 - dropped as u32), "the oldest, in order");
    }
}
