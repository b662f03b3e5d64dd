//! Our QoS 1 and 2 publications from PUBLISH to PUBACK or PUBCOMP. Session state: it outlives the connection.
//!
//! ```text
//!            PUBLISH sent
//!   QoS 1 ──▶ Published1 ── PUBACK ────────────────────────▶ done
//!   QoS 2 ──▶ Published2 ── PUBREC ok ──▶ Released ─ PUBCOMP ▶ done
//!                        └─ PUBREC error ───────────────────▶ done
//! ```
//! After a reconnect with the session present everything is sent again in its order: PUBLISH with DUP, PUBREL as it was
//! `[MQTT-4.4.0-1]`. What has not been sent again yet waits in `resend`, so that the server's Receive Maximum holds then too.

use std::collections::VecDeque;
use std::time::Instant;

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use hashbrown::HashMap;
use quelea_mqtt::{PacketId, QoS, ReasonCode};

use super::event::Violation;
use super::message::{Publish, Token};

/// Packets by identifier; the order of iteration repeats from the seed.
pub(super) type ById<T> = HashMap<PacketId, T, SeedableRandomState>;

/// An empty map with the caller's seed.
pub(super) fn by_id<T>(seed: u64) -> ById<T> {
    HashMap::with_hasher(SeedableRandomState::with_seed(seed, SharedSeed::global_fixed()))
}

/// The window of unacknowledged publications; at most `Bounds::in_flight_max` of them.
pub(super) struct InFlight {
    entries: ById<Entry>,
    /// Identifiers that are still to be sent on this connection, in order. A subset of `entries`.
    resend: VecDeque<PacketId>,
    /// The sum of `Kept::bytes`.
    kept_bytes: usize,
    next_order: u64,
    next_id: u16,
}

struct Entry {
    token: Token,
    /// The order of PUBLISH, then that of PUBREC.
    order: u64,
    state: State,
}

enum State {
    /// QoS 1, waits for PUBACK.
    Published1(Kept),
    /// QoS 2, waits for PUBREC.
    Published2(Kept),
    /// QoS 2, waits for PUBCOMP.
    Released,
}

/// A publication kept until the server has it.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) publish: Publish,
    /// When it was first sent: the time spent here is taken off its expiry.
    pub(super) since: Instant,
    /// It went out on an earlier connection of this session.
    pub(super) dup: bool,
    bytes: usize,
}

/// What an acknowledgement led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acked {
    /// The publication is done.
    Done(Token),
    /// Send PUBREL.
    Release,
    /// Nobody waits for this identifier.
    Stray,
}

/// What to send next of what an earlier connection left.
pub(super) enum Resend {
    /// PUBLISH.
    Publish(PacketId, Kept),
    /// PUBREL.
    Release(PacketId),
}

impl InFlight {
    pub(super) fn new(seed: u64) -> Self {
        Self { entries: by_id(seed), resend: VecDeque::new(), kept_bytes: 0, next_order: 0, next_id: 1 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// How many are out on this connection: what counts against the server's Receive Maximum.
    pub(super) fn sent(&self) -> usize {
        self.entries.len() - self.resend.len()
    }

    /// Older publications go first: nothing new may be sent while this holds.
    pub(super) fn is_resending(&self) -> bool {
        !self.resend.is_empty()
    }

    /// A packet identifier that nothing uses. `taken` says whether a request does. There is always one, because window and
    /// requests together are bounded far below 65,535.
    pub(super) fn free_id(&mut self, taken: impl Fn(PacketId) -> bool) -> Option<PacketId> {
        for _ in 0..=u16::MAX {
            let id = PacketId::new(self.next_id);
            self.next_id = self.next_id.wrapping_add(1);
            if let Some(id) = id
                && !self.entries.contains_key(&id)
                && !taken(id)
            {
                return Some(id);
            }
        }
        None
    }

    /// A PUBLISH of QoS 1 or 2 was sent.
    pub(super) fn insert(&mut self, now: Instant, packet_id: PacketId, token: Token, publish: Publish) {
        let qos = publish.qos;
        let bytes = publish.kept_bytes();
        let kept = Kept { publish, since: now, dup: false, bytes };
        let state = match qos {
            QoS::AtMostOnce => unreachable!("QoS 0 is not acknowledged"),
            QoS::AtLeastOnce => State::Published1(kept),
            QoS::ExactlyOnce => State::Published2(kept),
        };
        self.kept_bytes += bytes;
        let order = self.take_order();
        let before = self.entries.insert(packet_id, Entry { token, order, state });
        assert!(before.is_none(), "a packet identifier was used twice");
    }

    pub(super) fn on_puback(&mut self, packet_id: PacketId) -> Result<Acked, Violation> {
        match self.entries.get(&packet_id).map(|entry| &entry.state) {
            None => Ok(Acked::Stray),
            Some(State::Published1(_)) => Ok(self.finish(packet_id)),
            Some(_) => Err(Violation::protocol("PUBACK for a QoS 2 message")),
        }
    }

    pub(super) fn on_pubrec(&mut self, packet_id: PacketId, reason: ReasonCode) -> Result<Acked, Violation> {
        let order = self.next_order;
        let Some(entry) = self.entries.get_mut(&packet_id) else { return Ok(Acked::Stray) };
        match &entry.state {
            State::Published1(_) => Err(Violation::protocol("PUBREC for a QoS 1 message")),
            State::Released => Ok(Acked::Release),
            State::Published2(_) if reason.is_error() => Ok(self.finish(packet_id)),
            State::Published2(kept) => {
                // From here on the server owns the message: only the identifier is kept [MQTT-4.3.3-6].
                self.kept_bytes -= kept.bytes;
                entry.state = State::Released;
                entry.order = order;
                self.next_order += 1;
                Ok(Acked::Release)
            }
        }
    }

    pub(super) fn on_pubcomp(&mut self, packet_id: PacketId) -> Result<Acked, Violation> {
        match self.entries.get(&packet_id).map(|entry| &entry.state) {
            None => Ok(Acked::Stray),
            Some(State::Released) => Ok(self.finish(packet_id)),
            Some(_) => Err(Violation::protocol("PUBCOMP for a message that was not released")),
        }
    }

    /// A new connection of the same session: all of it is to be sent again, in order.
    pub(super) fn resume(&mut self) {
        for entry in self.entries.values_mut() {
            if let State::Published1(kept) | State::Published2(kept) = &mut entry.state {
                kept.dup = true;
            }
        }
        self.resend_all();
    }

    /// The server has no session: what it never confirmed is to be sent as new, what it had confirmed is lost track of.
    pub(super) fn republish(&mut self) -> Vec<Token> {
        let lost = self.take_where(|state| matches!(state, State::Released));
        for entry in self.entries.values_mut() {
            if let State::Published1(kept) | State::Published2(kept) = &mut entry.state {
                kept.dup = false;
            }
        }
        self.resend_all();
        lost
    }

    /// The server has no session: gives up everything, in order.
    pub(super) fn give_up(&mut self) -> Vec<Token> {
        self.resend.clear();
        self.take_where(|_| true)
    }

    /// The next packet of an earlier connection that is to be sent again; it counts as sent from now on.
    pub(super) fn take_resend(&mut self) -> Option<Resend> {
        let packet_id = self.resend.pop_front()?;
        let entry = self.entries.get(&packet_id).expect("what is to be sent again is in flight");
        Some(match &entry.state {
            State::Published1(kept) | State::Published2(kept) => Resend::Publish(packet_id, kept.clone()),
            State::Released => Resend::Release(packet_id),
        })
    }

    /// Drops one that this server cannot be given.
    pub(super) fn refuse(&mut self, packet_id: PacketId) -> Option<Token> {
        match self.finish(packet_id) {
            Acked::Done(token) => Some(token),
            Acked::Release | Acked::Stray => None,
        }
    }

    fn finish(&mut self, packet_id: PacketId) -> Acked {
        let Some(entry) = self.entries.remove(&packet_id) else { return Acked::Stray };
        if let State::Published1(kept) | State::Published2(kept) = &entry.state {
            self.kept_bytes -= kept.bytes;
        }
        // An acknowledgement may come before the repeated packet: then there is nothing to repeat.
        if !self.resend.is_empty() {
            self.resend.retain(|id| *id != packet_id);
        }
        Acked::Done(entry.token)
    }

    fn resend_all(&mut self) {
        let mut all: Vec<(u64, PacketId)> =
            self.entries.iter().map(|(id, entry)| (entry.order, *id)).collect();
        all.sort_unstable();
        self.resend = all.into_iter().map(|(_, id)| id).collect();
    }

    fn take_where(&mut self, unwanted: impl Fn(&State) -> bool) -> Vec<Token> {
        let mut all: Vec<(u64, PacketId)> = self
            .entries
            .iter()
            .filter(|(_, entry)| unwanted(&entry.state))
            .map(|(id, entry)| (entry.order, *id))
            .collect();
        all.sort_unstable();
        all.into_iter().filter_map(|(_, id)| self.refuse(id)).collect()
    }

    fn take_order(&mut self) -> u64 {
        let order = self.next_order;
        self.next_order += 1;
        order
    }
}
