//! One shard's thread: the shard, the real turn, and a driver that writes down what the shard wants done.
//!
//! The turn's two halves are called apart. After the first the thread sleeps, with its flag raised as on a real machine,
//! and only input, a bell or its timer lets it go on; a bell that is not rung leaves it asleep, and the run finds out.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quelea_router::{ShardSet, SleepFlags};
use quelea_shard::door::DoorKindId;
use quelea_shard::quic::{Path, Transmit};
use quelea_shard::turn::{Driver, Turn};
use quelea_shard::{Completion, DoorAction, DoorEnd, DoorId, Request, RequestId, Shard};

use crate::pipe::Chunk;

/// What waits at a shard's ring.
#[derive(Debug)]
pub(crate) enum Input {
    Opened(DoorId, SocketAddr, DoorKindId),
    Bytes(DoorId, Bytes),
    Closed(DoorId, DoorEnd),
    Written(DoorId),
    Completed(RequestId, Completion),
    Datagram(Path, BytesMut),
}

/// What a turn wanted done.
#[derive(Debug)]
pub(crate) enum Effect {
    Door(DoorId, DoorAction),
    Transmit(Transmit, Vec<u8>),
    Request(Request),
    Wake(ShardSet),
    /// So many bytes were read, by a session or by nobody.
    Read {
        door: DoorId,
        bytes: usize,
        serving: bool,
    },
}

/// Where a shard's thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thread {
    /// A turn is entered in the queue.
    Due(Instant),
    /// Asleep until input, a bell, or this time (entered in the queue).
    Asleep,
}

/// One shard and its thread.
pub(crate) struct Node {
    pub(crate) shard: Shard,
    turn: Turn,
    pub(crate) inbox: VecDeque<Input>,
    pub(crate) thread: Thread,
    /// Turns so far.
    pub(crate) turns: u64,
    /// What each look at the clock costs.
    tick: Duration,
    /// The memory of the last turn's effects.
    spare: Vec<Effect>,
}

impl Node {
    pub(crate) fn new(shard: Shard, now: Instant, tick: Duration) -> Self {
        let inbox = VecDeque::new();
        Self { shard, turn: Turn::new(), inbox, thread: Thread::Due(now), turns: 0, tick, spare: Vec::new() }
    }

    /// The half of a turn in which everything is done: what is to be done about it, and when it was over.
    pub(crate) fn go_on(&mut self, now: Instant, sleep: &SleepFlags, batch: usize) -> (Vec<Effect>, Instant) {
        self.turns += 1;
        let effects = std::mem::take(&mut self.spare);
        let mut ring = Ring { now, tick: self.tick, inbox: &mut self.inbox, batch, effects };
        ring.receive(&mut self.shard, Some(now));
        self.turn.after_wait(&mut self.shard, &mut ring, sleep);
        (ring.effects, ring.now)
    }

    /// Takes back what was not looked at yet of a byte stream, into `held`: bytes, and their end.
    pub(crate) fn take_back(&mut self, from: DoorId, held: &mut VecDeque<Chunk>) {
        for input in std::mem::take(&mut self.inbox) {
            match input {
                Input::Bytes(door, bytes) if door == from => held.push_back(Chunk::Bytes(bytes)),
                Input::Closed(door, DoorEnd::EndOfStream) if door == from => {
                    held.push_back(Chunk::EndOfStream);
                }
                input => self.inbox.push_back(input),
            }
        }
    }

    /// Takes back what held a turn's effects.
    pub(crate) fn keep(&mut self, effects: Vec<Effect>) {
        debug_assert!(effects.is_empty(), "they were carried out");
        self.spare = effects;
    }

    /// The half before the wait: until when the thread would sleep.
    pub(crate) fn lie_down(&mut self, now: Instant, sleep: &SleepFlags) -> Option<Instant> {
        self.turn.before_wait(&mut self.shard, now, sleep)
    }
}

/// The driver of one turn.
struct Ring<'a> {
    now: Instant,
    tick: Duration,
    inbox: &'a mut VecDeque<Input>,
    batch: usize,
    effects: Vec<Effect>,
}

impl Driver for Ring<'_> {
    fn now(&mut self) -> Instant {
        let now = self.now;
        self.now += self.tick;
        now
    }

    fn receive(&mut self, shard: &mut Shard, _until: Option<Instant>) {
        let now = self.now;
        for _ in 0..self.batch {
            let Some(input) = self.inbox.pop_front() else { return };
            match input {
                Input::Opened(door, peer, kind) => shard.handle_door_opened(now, door, peer, kind),
                Input::Bytes(door, bytes) => {
                    let serving = shard.is_serving(door);
                    self.effects.push(Effect::Read { door, bytes: bytes.len(), serving });
                    shard.handle_door_bytes(now, door, &bytes);
                }
                Input::Closed(door, end) => shard.handle_door_closed(now, door, end),
                Input::Written(door) => shard.handle_door_written(now, door),
                Input::Datagram(from, bytes) => shard.handle_datagram(now, from, bytes),
                Input::Completed(request, completion) => shard.handle_completion(now, request, completion),
            }
        }
    }

    fn transmit(&mut self, transmit: &Transmit, contents: &[u8]) {
        self.effects.push(Effect::Transmit(*transmit, contents.to_vec()));
    }

    fn door(&mut self, door: DoorId, action: DoorAction) {
        self.effects.push(Effect::Door(door, action));
    }

    fn request(&mut self, request: Request) {
        self.effects.push(Effect::Request(request));
    }

    fn submit(&mut self, _shard: &mut Shard) {}

    fn wake(&mut self, shards: ShardSet) {
        self.effects.push(Effect::Wake(shards));
    }
}
