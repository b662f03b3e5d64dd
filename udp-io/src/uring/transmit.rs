//! Sending datagrams: a queue in an arena, submitted with everything else, trains cut by the kernel (GSO).
//!
//! ```text
//!   push ──► queued ──packets──► Kernel::enter ──outcomes──► settle ──┬─ sent, or dropped and counted: gone
//!              ▲                                                      └─ no room, an error of ICMP, a train refused ─┐
//!              └─────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The arena belongs to this queue; the kernel reads it only within `enter`. Unlike `sendmmsg`, which stops at the first
//! refusal, each datagram or train of a batch has its own outcome, so what stays may have holes behind it: UDP promises
//! no order, and QUIC needs none.

use crate::address::Name;
use crate::control::OutgoingControl;
use crate::counters::Counters;
use crate::sink::Outgoing;
use crate::sys::Packet;
use crate::transmit::{is_icmp, train_bytes_max};

pub(super) struct Outbox {
    arena: Box<[u8]>,
    used: usize,
    queued: Vec<Queued>,
    queued_max: usize,
    is_v6: bool,
    gso: bool,
    /// Some train is to be sent one datagram at a time.
    has_singles: bool,
    /// The socket said `EAGAIN` and has not been writable since.
    is_blocked: bool,
}

/// One train or single datagram.
struct Queued {
    name: Name,
    control: OutgoingControl,
    start: usize,
    length: usize,
    segment_bytes: usize,
    /// A bit for each datagram that has not been sent or dropped; a train has at most 64.
    left: u64,
    /// The kernel refused it as a train: it is sent one datagram at a time.
    singly: bool,
    /// An error of ICMP about an earlier datagram met it: it is tried once more.
    retried: bool,
}

/// What one request carries of an entry.
struct Piece {
    mask: u64,
    start: usize,
    bytes: usize,
}

impl Queued {
    fn pieces(&self, gso: bool) -> impl Iterator<Item = Piece> + use<> {
        let (start, length, segment_bytes, left) = (self.start, self.length, self.segment_bytes, self.left);
        let is_whole = gso && !self.singly;
        let whole = is_whole.then_some(Piece { mask: left, start, bytes: length });
        let count = if is_whole { 0 } else { length.div_ceil(segment_bytes) };
        let singles = (0..count).filter(move |index| left >> index & 1 == 1).map(move |index| {
            let offset = index * segment_bytes;
            Piece { mask: 1 << index, start: start + offset, bytes: segment_bytes.min(length - offset) }
        });
        whole.into_iter().chain(singles)
    }
}

impl Outbox {
    pub(super) fn new(arena_bytes: usize, queued_max: usize, is_v6: bool, gso: bool) -> Outbox {
        Outbox {
            arena: vec![0; arena_bytes].into_boxed_slice(),
            used: 0,
            queued: Vec::with_capacity(queued_max),
            queued_max,
            is_v6,
            gso,
            has_singles: false,
            is_blocked: false,
        }
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// The socket has room again.
    pub(super) fn unblock(&mut self) {
        self.is_blocked = false;
    }

    /// Whether something is queued that may be sent now.
    pub(super) fn is_ready(&self) -> bool {
        !self.is_blocked && !self.queued.is_empty()
    }

    /// The most requests that sending all of it takes.
    pub(super) fn requests_max(&self) -> usize {
        let for_each = if self.gso && !self.has_singles { 1 } else { u64::BITS as usize };
        if self.is_blocked { 0 } else { self.queued.len() * for_each }
    }

    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.queued.len() < self.queued_max && self.arena.len() - self.used >= bytes
    }

    /// The name of a destination for this socket; `None` (counted) if it cannot reach it.
    pub(super) fn name_of(&self, transmit: &Outgoing<'_>, counters: &mut Counters) -> Option<Name> {
        let name = Name::for_socket(self.is_v6, transmit.destination);
        if name.is_none() {
            counters.dropped_unreachable += datagrams(transmit.contents.len(), segment_bytes(transmit));
        }
        name
    }

    /// Queues one train or single datagram of `transmit`, for which there is room.
    pub(super) fn push(&mut self, name: Name, transmit: &Outgoing<'_>, train: &[u8]) {
        let segment_bytes = segment_bytes(transmit);
        let segment = (train.len() > segment_bytes).then_some(segment_bytes as u16);
        let ecn = transmit.ecn.unwrap_or(0);
        let control = OutgoingControl::new(transmit.destination.ip(), transmit.source, ecn, segment);
        let (start, length) = (self.used, train.len());
        self.arena[start..start + length].copy_from_slice(train);
        self.used += length;
        let left = u64::MAX >> (64 - datagrams(length, segment_bytes));
        let (singly, retried) = (false, false);
        self.queued.push(Queued { name, control, start, length, segment_bytes, left, singly, retried });
    }

    /// What is to be sent, in order, for the registered socket `file`.
    pub(super) fn packets(&self, file: u32) -> impl Iterator<Item = (u32, Packet<'_>)> {
        let entries = if self.is_blocked { &[] } else { &self.queued[..] };
        entries.iter().flat_map(move |entry| {
            entry.pieces(self.gso).map(move |piece| {
                let is_train = piece.bytes > entry.segment_bytes;
                let packet = Packet {
                    name: entry.name.as_bytes(),
                    control: if is_train { entry.control.train() } else { entry.control.single() },
                    contents: &self.arena[piece.start..piece.start + piece.bytes],
                };
                (file, packet)
            })
        })
    }

    /// Takes the outcomes of the packets that were submitted, as many as there were, and lets go of what is over.
    pub(super) fn settle(&mut self, outcomes: &mut impl Iterator<Item = i32>, counters: &mut Counters) {
        if self.is_blocked || self.queued.is_empty() {
            return;
        }
        let gso = self.gso;
        let mut queued = std::mem::take(&mut self.queued);
        'entries: for entry in &mut queued {
            for piece in entry.pieces(gso) {
                let Some(error) = outcomes.next() else { break 'entries };
                self.on_outcome(entry, &piece, error, counters);
            }
        }
        self.compact(&mut queued);
        self.queued = queued;
    }

    fn on_outcome(&mut self, entry: &mut Queued, piece: &Piece, error: i32, counters: &mut Counters) {
        let count = u64::from(piece.mask.count_ones());
        let is_train = piece.bytes > entry.segment_bytes;
        let dropped = match error {
            0 => {
                counters.datagrams_out += count;
                counters.datagram_bytes_out += piece.bytes as u64;
                counters.gso_trains += u64::from(is_train);
                entry.left &= !piece.mask;
                return;
            }
            libc::EAGAIN => {
                counters.sends_blocked += u64::from(!self.is_blocked);
                self.is_blocked = true;
                return;
            }
            libc::EINTR => return,
            // The device cannot finish checksums, so it cannot cut trains: never again on this socket.
            libc::EIO if is_train => {
                counters.gso_refused += 1;
                self.gso = false;
                return;
            }
            // This train's shape is not liked (older kernels: segments above the MTU): its datagrams may be.
            libc::EINVAL if is_train => {
                counters.gso_refused += 1;
                (entry.singly, self.has_singles) = (true, true);
                return;
            }
            // It is about an earlier datagram, so the one that met it is tried again, once.
            error if is_icmp(error) => {
                counters.icmp_errors += 1;
                if !std::mem::replace(&mut entry.retried, true) {
                    return;
                }
                &mut counters.dropped_unreachable
            }
            libc::EMSGSIZE => &mut counters.dropped_too_large,
            libc::ENOBUFS | libc::ENOMEM => &mut counters.dropped_no_buffers,
            _ => &mut counters.dropped_unreachable,
        };
        *dropped += count;
        entry.left &= !piece.mask;
    }

    /// Moves what is left to the front of the arena.
    fn compact(&mut self, queued: &mut Vec<Queued>) {
        self.used = 0;
        let mut has_singles = false;
        queued.retain_mut(|entry| {
            if entry.left == 0 {
                return false;
            }
            self.arena.copy_within(entry.start..entry.start + entry.length, self.used);
            entry.start = self.used;
            self.used += entry.length;
            has_singles |= entry.singly;
            true
        });
        self.has_singles = has_singles;
    }
}

/// `contents` cut into what the kernel takes at once.
pub(super) fn trains<'a>(transmit: &Outgoing<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let segment_bytes = segment_bytes(transmit);
    assert!(!transmit.contents.is_empty() && segment_bytes > 0, "nothing to send");
    transmit.contents.chunks(train_bytes_max(segment_bytes))
}

pub(super) fn segment_bytes(transmit: &Outgoing<'_>) -> usize {
    transmit.segment_bytes.unwrap_or(transmit.contents.len())
}

pub(super) fn datagrams(bytes: usize, segment_bytes: usize) -> u64 {
    bytes.div_ceil(segment_bytes) as u64
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use super::*;
    use crate::sink::UdpId;
    use crate::uring::kernel::{Kernel, SENDS_MAX};

    /// Loopback takes every UDP datagram at once. A pair of Unix sockets holds back as a full device does, and its
    /// datagrams need no name.
    struct Held {
        kernel: Kernel,
        outbox: Outbox,
        _near: UnixDatagram,
        far: UnixDatagram,
        counters: Counters,
    }

    fn outgoing(contents: &[u8], segment_bytes: Option<usize>) -> Outgoing<'_> {
        let destination = SocketAddr::from(([127, 0, 0, 1], 9));
        Outgoing { udp: UdpId(0), destination, source: None, ecn: None, segment_bytes, contents }
    }

    impl Held {
        /// `None` where io_uring is forbidden, which is said.
        fn new(queued_max: usize) -> Option<Held> {
            let mut kernel = match Kernel::new(1, true) {
                Ok((kernel, _)) => kernel,
                Err(error) => {
                    println!("{error}: not tested");
                    return None;
                }
            };
            let (near, far) = UnixDatagram::pair().unwrap();
            far.set_nonblocking(true).unwrap();
            kernel.register_file(0, near.as_fd()).unwrap();
            let outbox = Outbox::new(1 << 16, queued_max, false, true);
            Some(Held { kernel, outbox, _near: near, far, counters: Counters::default() })
        }

        fn push(&mut self, number: u32) {
            let contents = number.to_be_bytes();
            self.outbox.push(Name::NONE, &outgoing(&contents, None), &contents);
        }

        fn flush(&mut self) {
            while self.outbox.is_ready() {
                let sends = self.outbox.packets(0).take(SENDS_MAX);
                self.kernel.enter(sends, Some(Duration::ZERO)).unwrap();
                let mut outcomes = self.kernel.outcomes().iter().copied();
                self.outbox.settle(&mut outcomes, &mut self.counters);
            }
        }

        fn take(&self, taken: &mut Vec<u32>) {
            let mut buffer = [0; 4];
            while self.far.recv(&mut buffer).is_ok() {
                taken.push(u32::from_be_bytes(buffer));
            }
        }
    }

    #[test]
    fn a_full_socket_keeps_the_queue_until_it_has_room() {
        let Some(mut held) = Held::new(10_000) else { return };
        (0..5_000).for_each(|number| held.push(number));
        held.flush();
        assert!(held.outbox.is_blocked() && !held.outbox.queued.is_empty());
        let mut taken = Vec::new();
        let mut rounds = 0;
        while !held.outbox.queued.is_empty() {
            held.take(&mut taken);
            let sent = held.counters.datagrams_out;
            held.flush();
            assert_eq!(held.counters.datagrams_out, sent, "not before the socket says so");
            held.outbox.unblock();
            held.flush();
            rounds += 1;
        }
        held.take(&mut taken);
        assert!(taken.into_iter().eq(0..5_000));
        assert!(rounds > 1 && held.counters.sends_blocked >= rounds);
        assert_eq!((held.counters.datagrams_out, held.outbox.used), (5_000, 0));
    }

    #[test]
    fn a_refused_train_is_sent_singly_and_what_fails_of_it_is_tried_again_alone() {
        let mut outbox = Outbox::new(1 << 16, 8, false, true);
        let mut counters = Counters::default();
        let contents = [1, 1, 2, 2, 3];
        outbox.push(Name::NONE, &outgoing(&contents, Some(2)), &contents);
        let lengths = |outbox: &Outbox| -> Vec<Vec<u8>> {
            outbox.packets(0).map(|(_, packet)| packet.contents.to_vec()).collect()
        };
        assert_eq!(lengths(&outbox), [contents.to_vec()]);
        outbox.settle(&mut [libc::EINVAL].into_iter(), &mut counters);
        assert_eq!((counters.gso_refused, outbox.requests_max()), (1, 64));
        assert_eq!(lengths(&outbox), [vec![1, 1], vec![2, 2], vec![3]]);
        outbox.settle(&mut [0, libc::ECONNREFUSED, libc::EMSGSIZE].into_iter(), &mut counters);
        assert_eq!((counters.datagrams_out, counters.icmp_errors, counters.dropped_too_large), (1, 1, 1));
        assert_eq!(lengths(&outbox), [vec![2, 2]]);
        // An error of ICMP is forgiven once.
        outbox.settle(&mut [libc::ECONNREFUSED].into_iter(), &mut counters);
        assert_eq!((counters.dropped_unreachable, outbox.queued.len(), outbox.used), (1, 0, 0));
        assert_eq!(outbox.requests_max(), 0);
    }

    #[test]
    fn what_was_not_submitted_stays_in_place() {
        let mut outbox = Outbox::new(1 << 16, 8, false, true);
        let mut counters = Counters::default();
        for number in 0..4_u8 {
            outbox.push(Name::NONE, &outgoing(&[number], None), &[number]);
        }
        outbox.settle(&mut [0, libc::EAGAIN].into_iter(), &mut counters);
        assert!(outbox.is_blocked() && outbox.packets(0).next().is_none());
        outbox.unblock();
        let left: Vec<u8> = outbox.packets(0).map(|(_, packet)| packet.contents[0]).collect();
        assert_eq!(left, [1, 2, 3]);
    }
}
