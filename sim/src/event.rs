//! The queue of everything that is going to happen, by virtual time; what is due at one time happens as it was entered.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

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
    /// A QUIC connection is led over another path.
    Reroute { line: LineId },
    /// A QUIC connection is cut off for a while.
    Blackhole { line: LineId },
    /// Somebody who is no client sends something.
    Stranger,
    /// What was to happen to a byte stream behind so many bytes happens.
    Mishap { pipe: PipeId },
    /// Somebody who is no client opens a byte stream.
    Call,
    /// Such a caller says something.
    Says { pipe: PipeId },
    /// Such a caller must be gone.
    CallOverdue { pipe: PipeId },
    /// The broker's clock jumps.
    Jump,
    /// The director looks at the stage.
    Look,
}

/// Events by time, then by order of entry.
///
/// ```text
///   heap of keys   [ time in ns, 64 bits | order of entry, 32 | place, 32 ]
///                                                               │
///   waiting        [ event ][ event ][ free ][ event ] ◄────────┘
/// ```
/// What is moved about in the heap is small and compared as one number; the events stay where they are.
pub(crate) struct Events {
    base: Instant,
    keys: BinaryHeap<Reverse<u128>>,
    waiting: Vec<Option<Event>>,
    free: Vec<u32>,
    entered: u32,
}

impl Events {
    pub(crate) fn new(base: Instant) -> Self {
        Self { base, keys: BinaryHeap::new(), waiting: Vec::new(), free: Vec::new(), entered: 0 }
    }

    pub(crate) fn push(&mut self, at: Instant, event: Event) {
        self.entered = self.entered.checked_add(1).expect("no run has so many events");
        let place = self.free.pop().unwrap_or_else(|| {
            self.waiting.push(None);
            u32::try_from(self.waiting.len() - 1).expect("fewer than were ever entered")
        });
        self.waiting[place as usize] = Some(event);
        let nanos = (at - self.base).as_nanos();
        self.keys.push(Reverse(nanos << 64 | u128::from(self.entered) << 32 | u128::from(place)));
    }

    pub(crate) fn pop(&mut self) -> Option<(Instant, Event)> {
        let Reverse(key) = self.keys.pop()?;
        let place = key as u32;
        self.free.push(place);
        let event = self.waiting[place as usize].take().expect("each key has its event");
        Some((self.base + Duration::from_nanos((key >> 64) as u64), event))
    }

    /// Events entered so far.
    pub(crate) fn entered(&self) -> u64 {
        self.entered.into()
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Events};
    use std::time::{Duration, Instant};

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
    fn events_come_by_time_and_then_by_entry() {
        let base = Instant::now();
        let mut events = Events::new(base);
        let at = |ms| base + Duration::from_millis(ms);
        for (actor, ms) in [(0, 5), (1, 3), (2, 5), (3, 0), (4, 3)] {
            events.push(at(ms), Event::Act { actor });
        }
        let mut popped = Vec::new();
        while let Some((when, event)) = events.pop() {
            let Event::Act { actor } = event else { panic!("another event: {event:?}") };
            popped.push((when, actor));
            if actor == 1 {
                events.push(at(4), Event::Act { actor: 5 });
            }
        }
        assert_eq!(popped, [(at(0), 3), (at(3), 1), (at(3), 4), (at(4), 5), (at(5), 0), (at(5), 2)]);
        assert_eq!(events.entered(), 6);
    }
}
