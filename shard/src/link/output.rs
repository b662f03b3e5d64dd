//! What is on its way to a client: small packets joined, large payloads by reference, and what the carrier has not
//! confirmed yet.
//!
//! ```text
//!   packets ─► small (joined) ─┐ seal                    ┌─ take_batch ─► in flight ─ on_written ─► (gone)
//!   payloads above 4 KiB ──────┴─► chunks, in order ─────┤
//!                                                        └─ take_chunk ─► the rest is put back
//! ```
//! Invariants: bytes leave in the order in which they came; one batch is in flight at most, and nothing is taken while it
//! is. The queue itself has no maximum: whoever writes asks first whether there is room (`OUTPUT_HIGH_BYTES`), and what
//! the client makes us answer stops when reading from it pauses (`OUTPUT_PAUSE_BYTES`).

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

/// Bytes on their way to the client.
#[derive(Debug, Default)]
pub(crate) struct Output {
    small: BytesMut,
    /// The allocation that `small` is the rest of, as far as it was seen.
    small_allocated: usize,
    chunks: VecDeque<Bytes>,
    chunks_bytes: usize,
    in_flight_bytes: usize,
}

/// What a carrier is given to write: in order, without gaps.
pub type WriteBatch = SmallVec<[Bytes; 4]>;

impl Output {
    /// Where small packets are encoded: they leave joined.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.small
    }

    /// Appends a large payload by reference.
    pub(crate) fn push_shared(&mut self, payload: Bytes) {
        self.seal();
        self.chunks_bytes += payload.len();
        self.chunks.push_back(payload);
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.small_allocated = self.small_allocated.max(self.small.capacity());
            self.chunks_bytes += self.small.len();
            self.chunks.push_back(self.small.split().freeze());
        }
    }

    /// Everything not yet taken by the transport.
    pub(crate) fn bytes(&self) -> usize {
        self.unsent_bytes() + self.in_flight_bytes
    }

    pub(crate) fn unsent_bytes(&self) -> usize {
        self.chunks_bytes + self.small.len()
    }

    pub(crate) fn is_writing(&self) -> bool {
        self.in_flight_bytes > 0
    }

    /// Takes a batch for a completion-shaped carrier; nothing more until [`Output::on_written`].
    pub(crate) fn take_batch(&mut self) -> Option<WriteBatch> {
        if self.is_writing() {
            return None;
        }
        self.seal();
        let batch: WriteBatch = self.chunks.drain(..self.chunks.len().min(BATCH_CHUNKS)).collect();
        let bytes = batch.iter().map(Bytes::len).sum::<usize>();
        self.chunks_bytes -= bytes;
        self.in_flight_bytes = bytes;
        (bytes > 0).then_some(batch)
    }

    /// The same with a limit, for a carrier that copies what it is given.
    pub(crate) fn take_batch_up_to(&mut self, bytes_max: usize) -> Option<WriteBatch> {
        if self.is_writing() {
            return None;
        }
        let mut batch = WriteBatch::new();
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(mut chunk) = self.take_chunk()
        {
            if chunk.len() > bytes_max - bytes {
                self.put_back(chunk.split_off(bytes_max - bytes));
            }
            bytes += chunk.len();
            batch.push(chunk);
        }
        self.in_flight_bytes = bytes;
        (bytes > 0).then_some(batch)
    }

    /// The batch is with the kernel.
    pub(crate) fn on_written(&mut self) -> usize {
        core::mem::take(&mut self.in_flight_bytes)
    }

    /// Takes the next chunk for a carrier that takes what it can at once.
    pub(crate) fn take_chunk(&mut self) -> Option<Bytes> {
        self.seal();
        let chunk = self.chunks.pop_front()?;
        self.chunks_bytes -= chunk.len();
        Some(chunk)
    }

    /// Gives back what the carrier did not take.
    pub(crate) fn put_back(&mut self, rest: Bytes) {
        self.chunks_bytes += rest.len();
        self.chunks.push_front(rest);
    }

    /// Forgets what was not sent.
    pub(crate) fn clear(&mut self) {
        self.small = BytesMut::new();
        self.small_allocated = 0;
        self.chunks.clear();
        self.chunks_bytes = 0;
    }

    /// When everything has left: gives back a buffer that is larger than what is worth keeping for the next packets.
    pub(crate) fn shrink(&mut self) {
        if self.small_allocated > SMALL_KEPT_BYTES_MAX && self.bytes() == 0 {
            self.small = BytesMut::new();
            self.small_allocated = 0;
        }
    }

    /// Memory that it holds.
    pub(crate) fn held_bytes(&self) -> usize {
        self.chunks_bytes + self.in_flight_bytes + self.small_allocated.max(self.small.capacity())
    }
}

/// Chunks of one gathered write.
const BATCH_CHUNKS: usize = 4;

/// An output buffer of this size is kept when everything has left: small packets are joined in it without asking the
/// allocator. One that has grown beyond, because its client did not read, is given back.
const SMALL_KEPT_BYTES_MAX: usize = 16 * 1024;

/// Above this many unsent bytes, publications wait in the session, where they can be bounded and dropped.
pub(crate) const OUTPUT_HIGH_BYTES: usize = 64 * 1024;

/// Above this many unsent bytes (answers to what the client itself sends), reading from it pauses.
pub(crate) const OUTPUT_PAUSE_BYTES: usize = 256 * 1024;

/// Payloads up to this size are copied behind their header and joined with other packets; larger ones go by reference.
pub(crate) const JOIN_BYTES_MAX: usize = 4 * 1024;
