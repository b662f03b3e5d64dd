//! The queue of everything that is going to happen, by virtual time; what is due at one time happens as it was entered.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Instant;

use quelea_shard::RequestId;

use crate::line::LineId;
use crate::network::Flying;
use crate::pipe::PipeId;

/// Something that happens at a time.
#[derive(Debug)]
pub(crate) enum Event {
    /// A shard's thread goes on: its number of turns tells whether it still sleeps the sleep that was meant.
    Turn { shard: usize, turns: u64 },
    /// A client's connection reaches the broker.
    Opened { pipe: PipeId },
    /// The next chunk of a byte stream arrives at the broker.
    ToServer { pipe: PipeId },
    /// The next chunk of a byte stream arrives at the client.
    ToClient { pipe: PipeId },
    /// The kernel has taken a write.
    Written { pipe: PipeId },
    /// A side thread has checked a password.
    Authenticated { shard: usize, request: RequestId },
    /// A client does what comes to its mind.
    Act { actor: usize },
    /// A client's timer.
    ClientTimer { actor: usize },
    /// A client acknowledges what it has thought about.
    Acks { actor: usize },
    /// A client reads again.
    Unstall { actor: usize },
    /// A datagram arrives.
    Landed(Box<Flying>),
    /// The process behind a QUIC connection gets a turn.
    Line { line: LineId },
    /// A client waits no longer for the end of a QUIC connection that it has left.
    LineLeft { line: LineId },
    /// The address of a QUIC connection changes.
    Rebind { line: LineId },
    /// A QUIC connection is cut off for a while.
    Blackhole { line: LineId },
    /// Somebody who is no client sends something.
    Stranger,
    /// The director looks at the stage.
    Look,
}

/// Events by time, then by order of entry.
#[derive(Default)]
pub(crate) struct Events {
    heap: BinaryHeap<Entry>,
    entered: u64,
}

struct Entry {
    at: Instant,
    order: u64,
    event: Event,
}

impl Events {
    pub(crate) fn push(&mut self, at: Instant, event: Event) {
        self.entered += 1;
        self.heap.push(Entry { at, order: self.entered, event });
    }

    pub(crate) fn pop(&mut self) -> Option<(Instant, Event)> {
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }

    /// Events entered so far.
    pub(crate) fn entered(&self) -> u64 {
        self.entered
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
