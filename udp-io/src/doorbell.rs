//! The doorbell: an eventfd by which another thread wakes a ring that waits in `poll`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::sys;

/// Wakes a ring. Cheap to clone; may outlive the ring, and then rings in an empty house.
#[derive(Clone, Debug)]
pub struct Doorbell {
    counter: Arc<File>,
    /// The io_uring that waits for it, by which other rings ring more cheaply.
    ring: Option<Arc<OwnedFd>>,
}

impl Doorbell {
    pub(crate) fn new() -> io::Result<Doorbell> {
        Ok(Doorbell { counter: Arc::new(File::from(sys::event_counter()?)), ring: None })
    }

    pub(crate) fn with_ring(self, ring: Arc<OwnedFd>) -> Doorbell {
        Doorbell { ring: Some(ring), ..self }
    }

    pub(crate) fn ring_name(&self) -> Option<&Arc<OwnedFd>> {
        self.ring.as_ref()
    }

    /// Makes the ring's current or next wait return, and its sink hear [`doorbell`](crate::Sink::doorbell)
    /// once, however often it is rung before. Costs a system call (about 250 ns, and 9 µs on each side if the
    /// ring sleeps): ring once per batch, and only who sleeps. A thread that has a ring of its own rings by
    /// [`Ring::ring_bell`](crate::Ring::ring_bell).
    pub fn ring(&self) {
        // Fails only when the counter is full, 2^64 rings from now: writing to our own eventfd meets no other
        // error.
        let _ = (&*self.counter).write(&1_u64.to_ne_bytes());
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.counter.as_fd()
    }
}
