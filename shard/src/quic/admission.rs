//! Who may start a handshake: the queue of first packets, and how many connections each address prefix has.
//!
//! A handshake costs a core 150 µs and a first packet costs its sender nothing, so first packets only wait here
//! until the turn has time for them. What is too much is answered as cheaply as possible, in this order:
//!
//! ```text
//! draining, memory at its ceiling, or too many connections (in all, of the listener, of the prefix)
//!                                                            ─▶ refused: CONNECTION_REFUSED tells the client
//! queue full                                                 ─▶ silence: the client will repeat itself
//! backlog, or too many of the prefix, address unproven       ─▶ Retry: nothing is kept, strangers must come back
//! too many of the prefix, address proven                     ─▶ silence
//! ```
//!
//! Proven and unproven handshakes are counted apart, so that forged senders cannot lock out the real ones. Every listener
//! counts its own: who fills one takes nothing from another.

use std::collections::VecDeque;
use std::time::Instant;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use quinn_proto::Incoming;

use super::listener::{QuicListenerId, QuicListenerLimits};
use super::settings::QuicSettings;
use crate::prefix::Prefix;

/// The queue and the counts.
pub(super) struct Admission {
    queue: VecDeque<Waiting>,
    listeners: Vec<Listener>,
    prefixes: HashMap<(QuicListenerId, Prefix), Guests, FixedState>,
    handshaking: usize,
    draining: bool,
    memory_is_full: bool,
}

/// A first packet and when it came.
pub(super) struct Waiting {
    pub(super) incoming: Incoming,
    pub(super) arrived: Instant,
    pub(super) guest: Guest,
}

/// What a listener takes and has.
struct Listener {
    limits: QuicListenerLimits,
    /// First packets in the queue, handshakes and connections.
    guests: usize,
}

/// On whose account a handshake or connection goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    pub(super) listener: QuicListenerId,
    prefix: Prefix,
    proven: bool,
}

/// What one prefix has.
#[derive(Default)]
struct Guests {
    handshakes_proven: u32,
    handshakes_unproven: u32,
    connections: u32,
}

impl Guests {
    fn handshakes(&mut self, proven: bool) -> &mut u32 {
        if proven { &mut self.handshakes_proven } else { &mut self.handshakes_unproven }
    }

    fn total(&self) -> usize {
        (self.connections + self.handshakes_proven + self.handshakes_unproven) as usize
    }
}

/// What to do with a first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    RefuseDraining,
    RefuseMemory,
    RefuseConnections,
    RefuseListener,
    RefusePrefix,
    RetryBacklog,
    RetryPrefix,
    IgnoreQueueFull,
    IgnorePrefixFull,
}

impl Admission {
    pub(super) fn new(hash_seed: u64) -> Self {
        Self {
            queue: VecDeque::new(),
            listeners: Vec::new(),
            prefixes: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            handshaking: 0,
            draining: false,
            memory_is_full: false,
        }
    }

    /// Begins to count for the next listener.
    pub(super) fn add_listener(&mut self, limits: QuicListenerLimits) -> QuicListenerId {
        self.listeners.push(Listener { limits, guests: 0 });
        QuicListenerId::from_index(self.listeners.len() - 1)
    }

    /// Holds a listener to other limits; who is in stays.
    pub(super) fn limit(&mut self, listener: QuicListenerId, limits: QuicListenerLimits) {
        self.listeners[listener.index()].limits = limits;
    }

    /// Refuse everyone from now on, or stop doing so.
    pub(super) fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// Whether everyone is refused for lack of memory.
    pub(super) fn set_memory_is_full(&mut self, is_full: bool) {
        self.memory_is_full = is_full;
    }

    /// First packets that wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Decides on a first packet; `live` counts the connections of the table.
    pub(super) fn judge(&self, settings: &QuicSettings, live: usize, guest: Guest) -> Verdict {
        if self.draining {
            return Verdict::RefuseDraining;
        }
        if self.memory_is_full {
            return Verdict::RefuseMemory;
        }
        if live + self.queue.len() >= settings.connections_max {
            return Verdict::RefuseConnections;
        }
        let Listener { limits, guests } = &self.listeners[guest.listener.index()];
        if *guests >= limits.connections_max {
            return Verdict::RefuseListener;
        }
        let theirs = self.prefixes.get(&guest.account());
        if theirs.is_some_and(|guests| guests.total() >= limits.connections_per_prefix_max) {
            return Verdict::RefusePrefix;
        }
        if self.queue.len() >= settings.handshakes_queued_max {
            return Verdict::IgnoreQueueFull;
        }
        if !guest.proven && self.queue.len() + self.handshaking >= settings.handshakes_in_flight_retry {
            return Verdict::RetryBacklog;
        }
        let running = theirs.map_or(0, |guests| match guest.proven {
            true => guests.handshakes_proven,
            false => guests.handshakes_unproven,
        });
        match (running as usize >= limits.handshakes_per_prefix_max, guest.proven) {
            (false, _) => Verdict::Wait,
            (true, true) => Verdict::IgnorePrefixFull,
            (true, false) => Verdict::RetryPrefix,
        }
    }

    /// Queues a first packet that was told to wait.
    pub(super) fn push(&mut self, waiting: Waiting) {
        self.listeners[waiting.guest.listener.index()].guests += 1;
        let guests = self.prefixes.entry(waiting.guest.account()).or_default();
        *guests.handshakes(waiting.guest.proven) += 1;
        self.queue.push_back(waiting);
    }

    /// Takes the oldest first packet; its handshake begins, or [`on_handshake_failed`](Self::on_handshake_failed).
    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.queue.pop_front()?;
        self.handshaking += 1;
        Some(waiting)
    }

    /// A handshake taken from the queue became a connection.
    pub(super) fn on_connected(&mut self, guest: Guest) {
        self.handshaking -= 1;
        let guests = self.prefixes.get_mut(&guest.account()).expect("it was counted when it was queued");
        *guests.handshakes(guest.proven) -= 1;
        guests.connections += 1;
    }

    /// A handshake taken from the queue came to nothing.
    pub(super) fn on_handshake_failed(&mut self, guest: Guest) {
        self.handshaking -= 1;
        self.release(guest, |guests| *guests.handshakes(guest.proven) -= 1);
    }

    /// A connection ended.
    pub(super) fn on_closed(&mut self, guest: Guest) {
        self.release(guest, |guests| guests.connections -= 1);
    }

    fn release(&mut self, guest: Guest, one: impl FnOnce(&mut Guests)) {
        self.listeners[guest.listener.index()].guests -= 1;
        let guests = self.prefixes.get_mut(&guest.account()).expect("it was counted when it was queued");
        one(guests);
        if guests.total() == 0 {
            self.prefixes.remove(&guest.account());
        }
    }
}

impl Guest {
    pub(super) fn of(incoming: &Incoming, listener: QuicListenerId) -> Self {
        Self {
            listener,
            prefix: Prefix::of(incoming.remote_address().ip()),
            proven: incoming.remote_address_validated(),
        }
    }

    fn account(self) -> (QuicListenerId, Prefix) {
        (self.listener, self.prefix)
    }
}
