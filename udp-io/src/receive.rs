//! Receiving datagrams: `recvmmsg` into an arena, trains taken apart.
//!
//! ```text
//! arena   | slot 0: up to receive_buffer_bytes | slot 1 | … | slot datagrams_per_receive - 1 |
//! slots   |  name, control, length             | …
//! ```
//!
//! One batch serves all UDP sockets of a ring, because what it holds is handed to the sink before the next
//! call.

use std::io;
use std::os::fd::BorrowedFd;

use crate::address::decode_name;
use crate::config::RingConfig;
use crate::control::IncomingControl;
use crate::counters::Counters;
use crate::sink::{Datagram, Sink, UdpId};
use crate::sys::{self, Slot};

pub(crate) struct ReceiveBatch {
    arena: Box<[u8]>,
    slot_bytes: usize,
    slots: Box<[Slot]>,
    /// Slots that are offered to the kernel next time: few while little comes, as each costs preparation.
    offered: usize,
}

impl ReceiveBatch {
    pub(crate) fn new(config: &RingConfig) -> ReceiveBatch {
        let slots = (0..config.datagrams_per_receive).map(|_| Slot::EMPTY).collect();
        let arena = vec![0; config.datagrams_per_receive * config.receive_buffer_bytes].into_boxed_slice();
        let offered = OFFERED_MIN.min(config.datagrams_per_receive);
        ReceiveBatch { arena, slot_bytes: config.receive_buffer_bytes, slots, offered }
    }

    /// Takes one batch from the socket and hands it to the sink. `overflows` is the kernel's running count of
    /// datagrams that this socket had no room for. Returns how many datagrams were handed over.
    pub(crate) fn receive(
        &mut self,
        udp: UdpId,
        socket: BorrowedFd<'_>,
        overflows: &mut u32,
        counters: &mut Counters,
        sink: &mut impl Sink,
    ) -> usize {
        let slots = &mut self.slots[..self.offered];
        let received = match sys::receive_batch(socket, &mut self.arena, self.slot_bytes, slots) {
            Ok(received) => received,
            // Level-triggered: what remains, or came meanwhile, is reported by the next poll.
            Err(error) => {
                count_error(&error, counters);
                return 0;
            }
        };
        // What did not fit is reported by the next poll, which finds twice the room.
        self.offered = (received * 2).clamp(OFFERED_MIN.min(self.slots.len()), self.slots.len());
        let mut handed = 0;
        for (slot, contents) in self.slots[..received].iter().zip(self.arena.chunks_exact(self.slot_bytes)) {
            let arrived = Arrived {
                udp,
                name: slot.name(),
                control: slot.control(),
                contents: &contents[..slot.length],
                is_truncated: slot.truncated,
            };
            handed += arrived.hand_over(overflows, counters, sink);
        }
        handed
    }
}

/// One datagram or train as the kernel hands it over, by whatever call.
pub(crate) struct Arrived<'a> {
    pub(crate) udp: UdpId,
    pub(crate) name: &'a [u8],
    pub(crate) control: &'a [u8],
    pub(crate) contents: &'a [u8],
    /// It was longer than its slot.
    pub(crate) is_truncated: bool,
}

impl Arrived<'_> {
    /// Hands the datagram, or the datagrams of the train, to the sink; returns how many. `overflows` is the kernel's
    /// running count of datagrams that this socket had no room for.
    pub(crate) fn hand_over(
        &self,
        overflows: &mut u32,
        counters: &mut Counters,
        sink: &mut impl Sink,
    ) -> usize {
        let control = IncomingControl::decode(self.control);
        if let Some(count) = control.overflows {
            counters.datagrams_overflowed += u64::from(count.wrapping_sub(*overflows));
            *overflows = count;
        }
        self.split(&control, counters, sink)
    }

    fn split(&self, control: &IncomingControl, counters: &mut Counters, sink: &mut impl Sink) -> usize {
        let (udp, contents) = (self.udp, self.contents);
        let Some(peer) = decode_name(self.name).filter(|_| !contents.is_empty()) else {
            counters.datagrams_malformed += 1;
            return 0;
        };
        let segment_bytes = control.segment_bytes.unwrap_or(contents.len());
        // A slot that was too short has cut its last datagram: the whole ones before it are good.
        let whole = if !self.is_truncated {
            contents
        } else {
            counters.datagrams_truncated += 1;
            let is_train = control.segment_bytes.is_some();
            &contents[..if is_train { contents.len() / segment_bytes * segment_bytes } else { 0 }]
        };
        if whole.len() > segment_bytes {
            counters.gro_trains += 1;
        }
        let mut handed = 0;
        for bytes in whole.chunks(segment_bytes) {
            sink.datagram(Datagram { udp, peer, local: control.local, ecn: control.ecn, bytes });
            handed += 1;
        }
        counters.datagrams_in += handed as u64;
        counters.datagram_bytes_in += whole.len() as u64;
        handed
    }
}

pub(crate) fn count_error(error: &io::Error, counters: &mut Counters) {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR) => {}
        Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EPROTO | libc::EMSGSIZE) => {
            counters.icmp_errors += 1;
        }
        _ => counters.receive_errors += 1,
    }
}

/// Slots that are offered when little comes.
const OFFERED_MIN: usize = 4;
