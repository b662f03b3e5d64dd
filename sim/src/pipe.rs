//! A byte stream between a client and a shard: ordered, late, in pieces, and sometimes cut.
//!
//! ```text
//!  client ──► up (in flight, FIFO) ──► [held while the door is paused] ──► the node's inbox
//!  client ◄── [unread while the client stalls] ◄── down (in flight, FIFO) ◄── DoorAction::Write
//! ```
//! A write is complete ("with the kernel") while no more than [`KERNEL_BYTES`] wait between broker and client, so a
//! client that does not read withholds completions, as a full socket buffer does.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use crate::callers::Caller;
use crate::doors::Through;
use crate::layers::Kind;
use crate::oracle::PubId;

/// One byte stream of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PipeId(pub(crate) usize);

/// A piece of a byte stream.
#[derive(Clone, Debug)]
pub(crate) enum Chunk {
    Bytes(Bytes),
    EndOfStream,
    Reset,
}

/// One direction: what is in flight.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) chunks: VecDeque<Chunk>,
    /// No chunk arrives before the one in front of it.
    pub(crate) last_arrival: Instant,
}

/// What the broker's side of a byte stream has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Open,
    /// The shard has ended its side.
    Finished,
    /// The shard has dropped it, or never had it.
    Gone,
}

/// One byte stream.
pub(crate) struct Pipe {
    /// Whose it is; nobody's for a caller.
    pub(crate) actor: Option<usize>,
    /// When it was begun.
    pub(crate) began: Instant,
    /// Which door it leads to, and the client's half of its layers.
    pub(crate) kind: Kind,
    pub(crate) through: Option<Box<Through>>,
    pub(crate) caller: Option<Box<Caller>>,
    pub(crate) shard: usize,
    pub(crate) up: Flow,
    pub(crate) down: Flow,
    pub(crate) door: Door,
    /// The broker has heard of it.
    pub(crate) opened: bool,
    pub(crate) paused: bool,
    /// Arrived at the broker while the door was paused.
    pub(crate) held: VecDeque<Chunk>,
    /// The client has dropped it; what still comes is read by nobody.
    pub(crate) abandoned: bool,
    /// The client has said its last: end of stream, or a reset.
    pub(crate) client_ended: bool,
    /// Arrived at a client that does not read.
    pub(crate) unread: VecDeque<Chunk>,
    /// Written and not read.
    pub(crate) down_bytes: usize,
    /// A write of the shard is not complete.
    pub(crate) writing: bool,
    /// Its completion waits for the client to read.
    pub(crate) write_waits: bool,
    /// Bytes that the client has sent, and those that the shard has read.
    pub(crate) sent_bytes: usize,
    pub(crate) read_bytes: usize,
    /// The client has said goodbye, up to this byte. Its Will may fire only if the broker does not hear that.
    pub(crate) farewell: Option<(PubId, usize)>,
}

impl Pipe {
    pub(crate) fn new(now: Instant, actor: Option<usize>, shard: usize) -> Self {
        let flow = || Flow { chunks: VecDeque::new(), last_arrival: now };
        Self {
            actor,
            began: now,
            kind: Kind::PLAIN,
            through: None,
            caller: None,
            shard,
            up: flow(),
            down: flow(),
            door: Door::Open,
            opened: false,
            paused: false,
            held: VecDeque::new(),
            abandoned: false,
            client_ended: false,
            unread: VecDeque::new(),
            down_bytes: 0,
            writing: false,
            write_waits: false,
            sent_bytes: 0,
            read_bytes: 0,
            farewell: None,
        }
    }

    /// The broker may not understand what was sent last.
    pub(crate) fn is_unheard(&self) -> bool {
        self.through.as_ref().is_some_and(|through| through.is_unheard())
    }
}

/// What fits between a broker and a client that does not read.
pub(crate) const KERNEL_BYTES: usize = 8 * 1024;
