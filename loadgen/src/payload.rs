//! The head of every payload: who published it, its number, and when it was meant to be sent.
//!
//! ```text
//!  0        4         8          16               24
//!  | run    | publisher | sequence | intended time | filler … |      all big-endian
//! ```
//! `run` tells this run's messages from others on the same topic (a retained message of yesterday).

use bytes::{BufMut, Bytes, BytesMut};

use crate::clock::Nanos;

/// Bytes of the head: no payload is shorter.
pub(crate) const PAYLOAD_BYTES_MIN: usize = 24;

/// The longest payload that the options allow: the largest packet of the standard is 256 MiB, brokers allow far less.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// What the head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) run: u32,
    pub(crate) publisher: u32,
    pub(crate) sequence: u64,
    pub(crate) intended: Nanos,
}

impl Stamp {
    /// The head of a payload; `None` if it is too short to be one of ours.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let head: &[u8; PAYLOAD_BYTES_MIN] = payload.first_chunk()?;
        let (run, rest) = head.split_first_chunk::<4>()?;
        let (publisher, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (intended, _) = rest.split_first_chunk::<8>()?;
        Some(Self {
            run: u32::from_be_bytes(*run),
            publisher: u32::from_be_bytes(*publisher),
            sequence: u64::from_be_bytes(*sequence),
            intended: u64::from_be_bytes(*intended),
        })
    }
}

/// Makes payloads, many out of one allocation.
pub(crate) struct Payloads {
    arena: BytesMut,
    bytes: usize,
}

impl Payloads {
    /// Payloads of `bytes` each, at least [`PAYLOAD_BYTES_MIN`].
    pub(crate) fn new(bytes: usize) -> Self {
        assert!((PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&bytes), "checked with the options");
        Self { arena: BytesMut::new(), bytes }
    }

    pub(crate) fn write(&mut self, stamp: &Stamp) -> Bytes {
        if self.arena.capacity() < self.bytes {
            self.arena.reserve(self.bytes.max(ARENA_BYTES));
        }
        self.arena.put_u32(stamp.run);
        self.arena.put_u32(stamp.publisher);
        self.arena.put_u64(stamp.sequence);
        self.arena.put_u64(stamp.intended);
        self.arena.put_bytes(FILLER, self.bytes - PAYLOAD_BYTES_MIN);
        self.arena.split().freeze()
    }
}

/// A message that waits for its acknowledgement holds on to its arena, so arenas stay small.
const ARENA_BYTES: usize = 16 << 10;
const FILLER: u8 = b'q';

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut payloads = Payloads::new(64);
        for sequence in 0..1000 {
            let stamp = Stamp { run: 7, publisher: u32::MAX, sequence, intended: u64::MAX - sequence };
            let payload = payloads.write(&stamp);
            assert_eq!(payload.len(), 64);
            assert_eq!(Stamp::read(&payload), Some(stamp));
        }
    }

    #[test]
    fn the_smallest_payload_is_its_head() {
        let stamp = Stamp { run: 1, publisher: 2, sequence: 3, intended: 4 };
        let payload = Payloads::new(PAYLOAD_BYTES_MIN).write(&stamp);
        assert_eq!(payload.len(), PAYLOAD_BYTES_MIN);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert_eq!(Stamp::read(&payload[1..]), None);
    }
}
