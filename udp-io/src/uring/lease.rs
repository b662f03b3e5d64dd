//! Writes to doors: what the kernel reads from until it says that it is done.
//!
//! ```text
//!   lend ──► ours ──push──► the kernel's ──completion──► ours ──┬─ all written ──► end
//!             ▲                                                 └─ some is left ─┐
//!             └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! **What memory, owned by whom, when.** A lease holds the pieces of one write and the vectors that point to them, in a
//! box that does not move. While it is the kernel's nothing of it is touched, freed or lent again: every way to it
//! asserts that it is ours. The door may go meanwhile; the lease stays until its completion.
#![allow(unsafe_code)]

use std::ptr;

use bytes::{Buf, Bytes};
use libc::{iovec, msghdr};

use crate::sink::{DoorId, WriteBatch};

/// All writes of a ring, at most one for each door.
pub(super) struct Leases {
    #[allow(clippy::vec_box)]
    // the kernel has pointers into a lease, which may not move when the table grows
    slots: Vec<Box<Lease>>,
    free: Vec<u32>,
}

/// One write.
pub(super) struct Lease {
    pub(super) door: DoorId,
    batch: WriteBatch,
    next: usize,
    /// What the kernel was last given, in bytes.
    offered: usize,
    with_kernel: bool,
    vectors: [iovec; SLICES_MAX],
    header: msghdr,
}

// SAFETY: the pointers in `vectors` and `header` point into this box and to what `batch` owns; they are followed by the
// kernel alone, between push and completion.
unsafe impl Send for Lease {}

/// What one request is to write.
pub(super) enum Offer {
    /// One piece: address and length.
    Plain(*const u8, u32),
    /// Several.
    Vectored(*const msghdr),
}

impl Leases {
    pub(super) fn new() -> Leases {
        Leases { slots: Vec::new(), free: Vec::new() }
    }

    /// Takes a batch over, to be written to `door`.
    pub(super) fn lend(&mut self, door: DoorId, batch: WriteBatch) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Box::new(Lease::empty()));
            (self.slots.len() - 1) as u32
        });
        let lease = &mut self.slots[slot as usize];
        (lease.door, lease.batch, lease.next) = (door, batch, 0);
        lease.skip_empty();
        slot
    }

    /// The lease, which must be ours.
    pub(super) fn get(&mut self, slot: u32) -> &mut Lease {
        let lease = &mut self.slots[slot as usize];
        assert!(!lease.with_kernel, "the kernel has it");
        lease
    }

    /// The kernel is done with what it was offered.
    pub(super) fn on_completion(&mut self, slot: u32) {
        let with_kernel = std::mem::replace(&mut self.slots[slot as usize].with_kernel, false);
        assert!(with_kernel, "a completion for a lease that was ours");
    }

    /// Lets go of what is left of it.
    pub(super) fn end(&mut self, slot: u32) {
        self.get(slot).batch = WriteBatch::new();
        self.free.push(slot);
    }
}

impl Lease {
    fn empty() -> Lease {
        let vector = iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Lease {
            door: DoorId(0),
            batch: WriteBatch::new(),
            next: 0,
            offered: 0,
            with_kernel: false,
            vectors: [vector; SLICES_MAX],
            // SAFETY: all fields are integers and pointers, for which zero is a valid value.
            header: unsafe { std::mem::zeroed() },
        }
    }

    /// All has been written.
    pub(super) fn is_done(&self) -> bool {
        self.next == self.batch.len()
    }

    /// Bytes of the last offer, taken or not.
    pub(super) fn offered(&self) -> usize {
        self.offered
    }

    /// Gives the rest to the kernel, at most [`SLICES_MAX`] pieces of it.
    pub(super) fn offer(&mut self) -> Offer {
        assert!(!self.with_kernel && !self.is_done(), "there is something to write, and it is ours");
        self.with_kernel = true;
        let rest = &self.batch[self.next..];
        if let [only] = rest {
            let length = u32::try_from(only.len()).unwrap_or(u32::MAX);
            self.offered = length as usize;
            return Offer::Plain(only.as_ptr(), length);
        }
        (self.offered, self.header.msg_iovlen) = (0, 0);
        for (vector, bytes) in self.vectors.iter_mut().zip(rest) {
            *vector = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            self.offered += bytes.len();
            self.header.msg_iovlen += 1;
        }
        self.header.msg_iov = self.vectors.as_mut_ptr();
        Offer::Vectored(&raw const self.header)
    }

    /// Lets go of what has been written.
    pub(super) fn advance(&mut self, mut written: usize) {
        while let Some(bytes) = self.batch.get_mut(self.next) {
            if written < bytes.len() {
                bytes.advance(written);
                break;
            }
            written -= bytes.len();
            *bytes = Bytes::new();
            self.next += 1;
        }
    }

    fn skip_empty(&mut self) {
        self.advance(0);
    }
}

/// Pieces that one request carries; a batch of more is written by several.
const SLICES_MAX: usize = 16;
