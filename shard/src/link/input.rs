//! What has come from a client and waits: the beginning of a packet, or packets that are held.
//!
//! Nothing comes here on the usual way: packets are taken out of the bytes as they came, and only a rest is kept.
//! Invariant: it holds no more memory than a constant times what waits in it, and says how much it holds.

use bytes::{Buf, BytesMut};

/// Bytes that have come and wait: of a packet that is not complete, or behind packets that are held.
#[derive(Debug, Default)]
pub(crate) struct Input {
    bytes: BytesMut,
    /// Bytes in front of them that were taken out, but are part of the same allocation.
    taken_bytes: usize,
}

impl Input {
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes bytes out at the front. A rest that is no longer than what was taken moves into an allocation of its own, or
    /// one byte would keep that of the largest packet; so a byte is copied for one that was taken at most.
    pub(crate) fn take_front(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
        self.taken_bytes += bytes;
        if self.bytes.len() <= self.taken_bytes {
            *self = Self { bytes: BytesMut::from(&self.bytes[..]), taken_bytes: 0 };
        }
    }

    /// Memory that it holds.
    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes.capacity() + self.taken_bytes
    }
}
