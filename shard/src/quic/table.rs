//! The table of connections: slots of exact size in pages that never move.
//!
//! ```text
//! pages ─▶ [ slot 0 .. slot 31 ] [ slot 32 .. slot 63 ] ...      slot = generation + (connection | nothing)
//! ```
//!
//! A connection is 6 KB in one piece: a growing vector would copy gigabytes, and a box each would be rounded up to
//! the allocator's size class. The slot number is quinn-proto's connection handle, so no map lies between the two;
//! for that, a slot is emptied and the endpoint told in one step (`Quic::free`).

use std::net::SocketAddr;
use std::time::Instant;

use quinn_proto::Connection;

use super::admission::Guest;
use super::event::{Alpn, ConnId, StreamId};
use super::window::Window;

/// One connection and what we keep beside it.
pub(super) struct Entry {
    pub(super) connection: Connection,
    /// The peer's address, proven; quinn-proto's own may be one that is still being challenged.
    pub(super) peer: SocketAddr,
    /// A change of address under challenge.
    pub(super) moving: Option<Moving>,
    /// Who it is counted for, and the listener that it belongs to.
    pub(super) guest: Guest,
    pub(super) stage: Stage,
    /// We closed the connection and have not said so yet.
    pub(super) closed_here: bool,
    /// The peer has moved and we have not said so yet.
    pub(super) moved: bool,
    /// A stream that was just announced; its first bytes bring no event of their own.
    pub(super) readable: Option<StreamId>,
    /// What the peer may send unread.
    pub(super) window: Window,
    /// The last write found no room.
    pub(super) blocked: bool,
    /// Streams may have been opened that the shard has not heard of, by direction: bidirectional, unidirectional.
    pub(super) opened: [bool; 2],
    /// Streams that the client has opened and the shard was told of, by direction.
    pub(super) accepted: [u64; 2],
    /// In the list of connections that may have events.
    pub(super) ready: bool,
    /// In the list of connections that may have something to send.
    pub(super) dirty: bool,
    /// The connection has fallen silent for good: free the slot once its events are out.
    pub(super) drained: bool,
}

/// How far a connection has come.
///
/// ```text
/// Handshaking ──Connected──▶ Open ──Closed──▶ Lingering ──drained──▶ (free)
///      └──────────── failed, expired ────────────▲
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nobody above knows of it yet.
    Handshaking { until: Instant },
    /// Announced by `Connected`.
    Open(Alpn),
    /// Over for the shard; it still repeats its CONNECTION_CLOSE to a peer that missed it (RFC 9000 §10.2).
    Lingering,
}

/// A new address and how many challenges had been answered before it proved itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moving {
    pub(super) to: SocketAddr,
    pub(super) answers_before: u64,
}

/// All connections of a shard.
pub(super) struct Table {
    pages: Vec<Box<[Slot]>>,
    live: usize,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    entry: Option<Entry>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self { pages: Vec::new(), live: 0 }
    }

    /// Slots in use, whatever their stage.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Fills an empty slot.
    pub(super) fn insert(&mut self, slot: u32, entry: Entry) {
        let (page, at) = split(slot);
        while self.pages.len() <= page {
            self.pages.push((0..PAGE_SLOTS).map(|_| Slot::default()).collect());
        }
        let slot = &mut self.pages[page][at];
        assert!(slot.entry.is_none(), "quinn-proto gave out a handle that is in use");
        slot.entry = Some(entry);
        self.live += 1;
    }

    /// Empties a slot; names for its connection go stale.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Entry> {
        let (page, at) = split(slot);
        let slot = self.pages.get_mut(page)?.get_mut(at)?;
        let entry = slot.entry.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.live -= 1;
        Some(entry)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        let (page, at) = split(slot);
        self.pages.get_mut(page)?[at].entry.as_mut()
    }

    /// The name of the connection in `slot`.
    pub(super) fn name(&self, slot: u32) -> ConnId {
        let (page, at) = split(slot);
        ConnId { slot, generation: self.pages[page][at].generation }
    }

    /// Finds an open connection by name.
    pub(super) fn open(&self, conn: ConnId) -> Option<&Entry> {
        let (page, at) = split(conn.slot);
        let slot = &self.pages.get(page)?[at];
        let entry = slot.entry.as_ref().filter(|_| slot.generation == conn.generation)?;
        matches!(entry.stage, Stage::Open(_)).then_some(entry)
    }

    /// Finds an open connection by name.
    pub(super) fn open_mut(&mut self, conn: ConnId) -> Option<&mut Entry> {
        self.open(conn)?;
        self.get_mut(conn.slot)
    }
}

fn split(slot: u32) -> (usize, usize) {
    (slot as usize / PAGE_SLOTS, slot as usize % PAGE_SLOTS)
}

/// 32 slots are 200 KB: few enough that a small broker stays small, and above the size that allocators round up.
const PAGE_SLOTS: usize = 32;

/// What a connection takes in the table.
pub(super) const SLOT_BYTES: usize = size_of::<Slot>();
