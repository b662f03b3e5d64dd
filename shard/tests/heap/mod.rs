//! A global allocator that counts, for tests that say what something costs: per thread, so that tests beside each other
//! do not count each other's. The memory itself is the system allocator's.
#![allow(unsafe_code, reason = "an allocator is unsafe by nature")]
#![allow(dead_code, reason = "each of the tests that share it uses a part")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    /// Below zero where a thread gives back what another one has taken.
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<isize> = const { Cell::new(0) };
}

/// How often this thread has asked for memory.
pub(crate) fn calls() -> u64 {
    CALLS.get()
}

/// The most bytes that this thread has held during this, above what it held before.
pub(crate) fn peak_bytes(during: impl FnOnce()) -> usize {
    let before = LIVE_BYTES.get();
    PEAK_BYTES.set(before);
    during();
    usize::try_from(PEAK_BYTES.get() - before).expect("the peak is what was there before, or above it")
}

fn count(taken_bytes: usize) {
    CALLS.set(CALLS.get() + 1);
    let live = LIVE_BYTES.get() + taken_bytes as isize;
    LIVE_BYTES.set(live);
    PEAK_BYTES.set(PEAK_BYTES.get().max(live));
}

fn count_back(bytes: usize) {
    LIVE_BYTES.set(LIVE_BYTES.get() - bytes as isize);
}

// SAFETY: every call is passed on to the system allocator unchanged; counting touches thread-local numbers that need no
// allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are the system allocator's conditions.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count_back(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    /// A block that is moved stands twice for a moment, and is counted so.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes);
        count_back(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}
