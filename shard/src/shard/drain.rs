//! The end of a shard's service: every client is told to go, in pieces, so that those who still wait for something are
//! served between them.
//!
//! ```text
//!  serving ──drain──► told when served ──3/4 of the time──► all told ──deadline──► cut off
//! ```
//! Each arrow begins a walk over the table of connections that does a part of it in every turn; a later one takes the place
//! of an earlier one and does its work, too. No connection comes while the shard drains, so a walk meets all that stay.

use std::time::Instant;

use quelea_mqtt::ReasonCode;

use crate::envelope::{LinkKey, SessionKey};
use crate::link::{CloseHow, LinkState};
use crate::quic::Quic;

use super::Shard;

/// How far a draining shard is.
#[derive(Debug)]
pub(crate) struct Draining {
    /// When those are told to go who have not taken what waits for them.
    farewell_at: Option<Instant>,
    /// When those are cut off who are still here.
    abort_at: Option<Instant>,
    walk: Option<Walk>,
}

/// A walk over the table of connections.
#[derive(Clone, Copy, Debug)]
struct Walk {
    parting: Parting,
    /// Slots before this one are done.
    next: u32,
}

/// What is done to each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parting {
    /// It is told to go when what waits for it is written; at once, if it has no session.
    WhenServed,
    /// It is told to go.
    Now,
    /// It is cut off.
    Abort,
}

impl Draining {
    /// When `handle_timeout` has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.farewell_at.or(self.abort_at)
    }

    /// Whether another turn has something to do.
    pub(super) fn is_walking(&self) -> bool {
        self.walk.is_some()
    }
}

impl Walk {
    fn begin(parting: Parting) -> Option<Self> {
        Some(Self { parting, next: 0 })
    }
}

impl Shard {
    /// Tells every client to go `[MQTT5 4.13]`, Server shutting down: when what waits for it is written, at the latest when
    /// three quarters of the time are over, so that the rest of it is for last bytes.
    pub(super) fn drain(&mut self, now: Instant, deadline: Instant) {
        let farewell = now + deadline.saturating_duration_since(now) * 3 / 4;
        let walk = Walk::begin(Parting::WhenServed);
        self.draining = Some(Draining { farewell_at: Some(farewell), abort_at: Some(deadline), walk });
        if let Some(quic) = &mut self.quic {
            quic.refuse_new(true);
        }
    }

    /// While the shard drains: its time is over, or nearly so.
    pub(super) fn on_drain_timer(&mut self, now: Instant) {
        let Some(draining) = &mut self.draining else { return };
        if draining.farewell_at.is_some_and(|at| at <= now) {
            draining.farewell_at = None;
            draining.walk = Walk::begin(Parting::Now);
        }
        if draining.abort_at.is_some_and(|at| at <= now) {
            draining.abort_at = None;
            draining.walk = Walk::begin(Parting::Abort);
        }
    }

    /// Parts from some more connections.
    pub(super) fn walk_to_part(&mut self, now: Instant) {
        let Some(mut walk) = self.draining.as_mut().and_then(|draining| draining.walk.take()) else { return };
        let until = self.work + PARTING_WORK;
        while self.work < until && walk.next < self.links.end() {
            self.work += SLOT_WORK;
            let key = self.links.key_at(walk.next);
            walk.next += 1;
            if let Some(key) = key {
                self.work += LINK_WORK;
                self.part_from(now, key, walk.parting);
            }
        }
        if walk.next < self.links.end()
            && let Some(draining) = &mut self.draining
        {
            draining.walk = Some(walk);
        }
    }

    fn part_from(&mut self, now: Instant, key: LinkKey, parting: Parting) {
        let session = match self.links[key].state {
            LinkState::Online(session) => Some(session),
            // Its carrier has gone.
            LinkState::Gone => return,
            _ => None,
        };
        if let Some(session) = session {
            self.forget_will(session);
        }
        match (parting, session) {
            (Parting::Abort, _) => {
                self.link_ended(now, key);
                self.abort_link(now, key, CloseHow::Finish);
            }
            (Parting::WhenServed, Some(session)) => self.list_session(session),
            (Parting::Now, Some(_)) => self.disconnect(now, key, ReasonCode::SERVER_SHUTTING_DOWN),
            (_, None) if self.links[key].is_closing() => {}
            (_, None) => self.close_link(now, key, CloseHow::Finish),
        }
    }

    /// The Will of a client whose server goes is not the news that its author meant.
    fn forget_will(&mut self, key: SessionKey) {
        self.sessions[key].will = None;
    }

    /// While the shard drains: the session's client goes as soon as nothing waits for it.
    pub(super) fn part_if_served(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get(key) else { return };
        if session.link().is_some() && session.outbound.is_idle() && session.parked.is_empty() {
            self.forget_will(key);
            self.disconnect_session(now, key, ReasonCode::SERVER_SHUTTING_DOWN);
        }
    }

    /// Whether a drained shard has nothing left to say to anyone.
    pub fn is_drained(&self) -> bool {
        self.draining.is_some() && self.links.is_empty() && self.quic.as_ref().is_none_or(Quic::is_idle)
    }
}

/// Connections that are parted from in one turn: about five hundred, whose last bytes are written in it as well.
const PARTING_WORK: u64 = 16_384;

/// A connection parted from: its DISCONNECT, its session's end, its last write.
const LINK_WORK: u64 = 32;

/// A slot looked at.
const SLOT_WORK: u64 = 1;
