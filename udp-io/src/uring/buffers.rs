//! Buffers that the kernel fills: memory lent to it for as long as the ring lives, taken back one at a time.
//!
//! ```text
//!            give_back, publish                      a completion names it
//!   ours ───────────────────────► the kernel's ────────────────────────────► ours, as a Filled
//!
//!   entries   | address, length, number | … |  a power of two, a page or more, read by the kernel from its head to our tail
//!   memory    | buffer 0 | buffer 1 | … |      written by the kernel only between publish and completion
//! ```
//!
//! **What memory, owned by whom, when.** Two anonymous mappings, made here and unmapped on drop. A buffer is the
//! kernel's from the moment its entry is published until a completion names it; `lent` records which, and
//! [`BufferRing::claim`] refuses a number that was not lent. A [`Filled`] is the only way to a buffer's bytes, cannot be
//! copied, and is consumed when the buffer is given back, so the kernel and we never hold one buffer at the same time.
//! The owner ([`Kernel`](super::kernel::Kernel)) drops this only when no request is in flight, and leaks it otherwise.
#![allow(unsafe_code)]

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// The buffers of one group.
pub(super) struct BufferRing {
    group: u16,
    entries: Mapping,
    memory: Mapping,
    count: u16,
    buffer_bytes: usize,
    /// Where the next entry goes; the kernel knows of those that have been published.
    tail: u16,
    lent: Box<[bool]>,
}

/// A buffer that the kernel has filled and that is ours until it is given back.
pub(super) struct Filled {
    group: u16,
    buffer: u16,
}

impl BufferRing {
    /// `count` buffers (a power of two, up to 2^15) of `buffer_bytes` each, all lent to the kernel under `group`.
    pub(super) fn new(
        submitter: &Submitter<'_>,
        group: u16,
        count: u16,
        buffer_bytes: usize,
    ) -> io::Result<BufferRing> {
        assert!(count.is_power_of_two(), "the kernel masks indices");
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(usize::from(count) * buffer_bytes)?;
        let lent = vec![false; usize::from(count)].into_boxed_slice();
        // SAFETY: `entries` is a mapping of its own, aligned to a page and `count` entries long. It stays mapped until
        // the group is unregistered with the ring: `Kernel` drops or leaks both together.
        unsafe {
            submitter.register_buf_ring_with_flags(entries.base.as_ptr() as u64, count, group, 0)?;
        }
        let mut ring = BufferRing { group, entries, memory, count, buffer_bytes, tail: 0, lent };
        (0..count).for_each(|buffer| ring.give_back(Filled { group, buffer }));
        ring.publish();
        Ok(ring)
    }

    /// Takes the buffer that a completion names.
    pub(super) fn claim(&mut self, buffer: u16) -> Filled {
        let lent = std::mem::replace(&mut self.lent[usize::from(buffer)], false);
        assert!(lent, "the kernel filled a buffer that it did not have");
        Filled { group: self.group, buffer }
    }

    /// The first `length` bytes of a buffer.
    pub(super) fn bytes(&self, filled: &Filled, length: usize) -> &[u8] {
        assert!(filled.group == self.group && length <= self.buffer_bytes, "a buffer of another ring");
        // SAFETY: the range lies in `memory`, which was zeroed when it was mapped. A `Filled` exists only while the
        // buffer is ours: the kernel does not write to it, and neither do we while `self` is borrowed.
        unsafe {
            let start = self.memory.base.add(usize::from(filled.buffer) * self.buffer_bytes);
            std::slice::from_raw_parts(start.as_ptr(), length)
        }
    }

    /// Lends a buffer to the kernel again, from the next [`publish`](BufferRing::publish) on.
    #[allow(clippy::needless_pass_by_value)] // consumed: who has given it back can no longer read it
    pub(super) fn give_back(&mut self, filled: Filled) {
        assert_eq!(filled.group, self.group, "a buffer of another ring");
        let Filled { buffer, .. } = filled;
        let lent = std::mem::replace(&mut self.lent[usize::from(buffer)], true);
        assert!(!lent, "a buffer is given back once");
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: the entry lies in `entries`. The kernel reads entries from its head to the published tail; at most
        // `count` buffers are lent, so the entry at the tail is not among them. Only fields of this entry are written,
        // never the tail that shares entry 0.
        unsafe {
            let entry = self.entries.base.cast::<BufRingEntry>().add(index).as_mut();
            let start = self.memory.base.add(usize::from(buffer) * self.buffer_bytes);
            entry.set_addr(start.as_ptr() as u64);
            entry.set_len(self.buffer_bytes as u32);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel what has been given back.
    pub(super) fn publish(&mut self) {
        // SAFETY: `tail` points into entry 0 of the live mapping, to a u16 that the kernel reads with acquire and only
        // we write; an atomic of the same size and alignment may stand for it.
        let tail =
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.base.as_ptr().cast()).cast_mut()) };
        // Pairs with the kernel's acquire of the tail: it sees the entries that were written before.
        tail.store(self.tail, Ordering::Release);
    }
}

/// Zeroed memory of our own; pages that are never written to are never paid for.
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is owned, and reached only through its owner's `&` and `&mut`.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Mapping> {
        // SAFETY: asks for a new anonymous mapping; no memory of ours is named.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { base: NonNull::new(base.cast()).expect("mapped at an address"), bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and of this length; its owner has made sure that the kernel is done with it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
