//! The table of connections: slots of exact size in pages that never move, because a connection is 6 KB in one piece.
//!
//! The slot number is quinn-proto's connection handle, so no map lies between the two; for that, a slot is emptied and
//! quinn-proto told in one step ([`Endpoint::free`](super::Endpoint)).

use std::time::Instant;

use quinn_proto::{Connection, StreamId};

use super::event::{CloseWhy, ConnId};

/// One connection and what is kept beside it.
pub(super) struct Entry {
    pub(super) connection: Connection,
    pub(super) stage: Stage,
    /// Ended by us, which has not been told.
    pub(super) ended: Option<CloseWhy>,
    /// In the list of connections that may have events.
    pub(super) ready: bool,
    /// In the list of connections that may have something to send.
    pub(super) dirty: bool,
    /// It has fallen silent for good: free the slot.
    pub(super) drained: bool,
}

/// How far a connection has come.
///
/// ```text
/// Handshaking ──stream open──▶ Open ──Closed──▶ Lingering ──drained──▶ (free)
///      └─────────────── failed, timeout ───────────▲
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The handshake goes on, or the server has not granted a stream.
    Handshaking { until: Instant },
    /// Announced by `Connected`.
    Open(StreamId),
    /// Over for the driver; it still repeats its CONNECTION_CLOSE to a server that missed it (RFC 9000 §10.2).
    Lingering,
}

impl Entry {
    pub(super) fn new(connection: Connection, until: Instant) -> Self {
        let stage = Stage::Handshaking { until };
        Self { connection, stage, ended: None, ready: false, dirty: false, drained: false }
    }

    /// The next time at which something is to be done.
    pub(super) fn deadline(&mut self) -> Option<Instant> {
        let deadline = self.connection.poll_timeout();
        match self.stage {
            // A handshake that has failed has no deadline any more, even if that has not been told.
            Stage::Handshaking { until } if !self.connection.is_closed() => {
                Some(deadline.map_or(until, |deadline| deadline.min(until)))
            }
            Stage::Handshaking { .. } | Stage::Open(_) | Stage::Lingering => deadline,
        }
    }
}

/// All connections of an endpoint.
#[derive(Default)]
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

    /// Finds a connection that has not ended by its name.
    pub(super) fn open(&self, conn: ConnId) -> Option<&Entry> {
        let (page, at) = split(conn.slot);
        let slot = &self.pages.get(page)?[at];
        let entry = slot.entry.as_ref().filter(|_| slot.generation == conn.generation)?;
        (entry.stage != Stage::Lingering).then_some(entry)
    }

    /// Finds a connection that has not ended by its name.
    pub(super) fn open_mut(&mut self, conn: ConnId) -> Option<&mut Entry> {
        self.open(conn)?;
        self.get_mut(conn.slot)
    }
}

fn split(slot: u32) -> (usize, usize) {
    (slot as usize / PAGE_SLOTS, slot as usize % PAGE_SLOTS)
}

/// 32 slots are 200 KB: few enough for a small test, and above the size that allocators round up.
const PAGE_SLOTS: usize = 32;
