//! Who may start a handshake: the queue of first packets, and how many connections each address prefix and site has.
//!
//! A handshake costs a core 150 µs and a first packet costs its sender nothing, so first packets only wait here
//! until the turn has time for them. What is too much is answered as cheaply as possible, in this order:
//!
//! ```text
//! draining, memory at its ceiling, or too many connections (in all, of the listener, of the prefix)
//!                                                            ─▶ refused: CONNECTION_REFUSED tells the client
//! queue full                                                 ─▶ silence: the client will repeat itself
//! backlog, or too many of the prefix, address unproven       ─▶ Retry: nothing is kept, strangers must come back
//! too many in all, of the prefix or of the site, address proven
//!                                                            ─▶ silence
//! ```
//!
//! Silence is what a client with a proven address survives best: it repeats its first packet after a second, with the same
//! token, and finds a place as soon as there is one; refused, it would have to begin anew, by its own clock.
//!
//! Proven and unproven handshakes are counted apart, so that forged senders cannot lock out the real ones: of all places
//! they get half at most. Every listener counts its own prefixes and sites: who fills one takes nothing from another.

use std::collections::VecDeque;
use std::time::Instant;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use quinn_proto::Incoming;

use super::listener::{QuicListenerId, QuicListenerLimits};
use super::settings::QuicSettings;
use crate::prefix::{Prefix, Site};

/// The queue and the counts.
pub(super) struct Admission {
    queue: VecDeque<Waiting>,
    listeners: Vec<Listener>,
    prefixes: HashMap<(QuicListenerId, Prefix), Guests, FixedState>,
    /// Handshakes with proven addresses, those in the queue included.
    sites: HashMap<(QuicListenerId, Site), u32, FixedState>,
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
    IgnoreHandshakesFull,
    IgnorePrefixFull,
    IgnoreSiteFull,
}

impl Admission {
    pub(super) fn new(hash_seed: u64) -> Self {
        Self {
            queue: VecDeque::new(),
            listeners: Vec::new(),
            prefixes: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            sites: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
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
        match guest.proven {
            true => self.judge_proven(settings, limits, guest),
            false => self.judge_unproven(settings, limits, guest),
        }
    }

    fn judge_unproven(&self, settings: &QuicSettings, limits: &QuicListenerLimits, guest: Guest) -> Verdict {
        let retry_above = settings.handshakes_in_flight_retry.min(settings.handshakes_max / 2);
        if self.under_way() >= retry_above {
            return Verdict::RetryBacklog;
        }
        let theirs = self.prefixes.get(&guest.account()).map_or(0, |guests| guests.handshakes_unproven);
        if theirs as usize >= limits.handshakes_per_prefix_max {
            return Verdict::RetryPrefix;
        }
        Verdict::Wait
    }

    fn judge_proven(&self, settings: &QuicSettings, limits: &QuicListenerLimits, guest: Guest) -> Verdict {
        if self.under_way() >= settings.handshakes_max {
            return Verdict::IgnoreHandshakesFull;
        }
        let theirs = self.prefixes.get(&guest.account()).map_or(0, |guests| guests.handshakes_proven);
        if theirs as usize >= limits.handshakes_per_prefix_max {
            return Verdict::IgnorePrefixFull;
        }
        let of_site = self.sites.get(&guest.site_account()).copied().unwrap_or(0);
        if of_site as usize >= limits.handshakes_per_site_max {
            return Verdict::IgnoreSiteFull;
        }
        Verdict::Wait
    }

    /// Handshakes that wait or run.
    fn under_way(&self) -> usize {
        self.queue.len() + self.handshaking
    }

    /// Queues a first packet that was told to wait.
    pub(super) fn push(&mut self, waiting: Waiting) {
        self.enter(waiting.guest);
        self.queue.push_back(waiting);
    }

    fn enter(&mut self, guest: Guest) {
        self.listeners[guest.listener.index()].guests += 1;
        let guests = self.prefixes.entry(guest.account()).or_default();
        *guests.handshakes(guest.proven) += 1;
        if guest.proven {
            *self.sites.entry(guest.site_account()).or_default() += 1;
        }
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
        self.leave_site(guest);
    }

    /// A handshake taken from the queue came to nothing.
    pub(super) fn on_handshake_failed(&mut self, guest: Guest) {
        self.handshaking -= 1;
        self.release(guest, |guests| *guests.handshakes(guest.proven) -= 1);
        self.leave_site(guest);
    }

    /// A connection ended.
    pub(super) fn on_closed(&mut self, guest: Guest) {
        self.release(guest, |guests| guests.connections -= 1);
    }

    /// A handshake is over: its site has a place again.
    fn leave_site(&mut self, guest: Guest) {
        if !guest.proven {
            return;
        }
        let handshakes =
            self.sites.get_mut(&guest.site_account()).expect("it was counted when it was queued");
        *handshakes -= 1;
        if *handshakes == 0 {
            self.sites.remove(&guest.site_account());
        }
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

    fn site_account(self) -> (QuicListenerId, Site) {
        (self.listener, self.prefix.site())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: QuicListenerId = QuicListenerId::FIRST;

    fn admission(settings: &QuicSettings, listeners: usize) -> Admission {
        let mut admission = Admission::new(1);
        for _ in 0..listeners {
            admission.add_listener(settings.listener_limits());
        }
        admission
    }

    fn guest(address: &str, proven: bool) -> Guest {
        let prefix = Prefix::of(address.parse().expect("an address"));
        Guest { listener: FIRST, prefix, proven }
    }

    fn proven(address: &str) -> Guest {
        guest(address, true)
    }

    /// A first packet comes and its handshake begins, if it may.
    fn arrives(admission: &mut Admission, settings: &QuicSettings, guest: Guest) -> Verdict {
        let verdict = admission.judge(settings, 0, guest);
        if verdict == Verdict::Wait {
            admission.enter(guest);
            admission.handshaking += 1;
        }
        verdict
    }

    #[test]
    fn the_networks_of_a_site_have_one_maximum_of_proven_handshakes() {
        let settings = QuicSettings { handshakes_per_site_max: 4, ..QuicSettings::default() };
        let mut admission = admission(&settings, 2);
        let household = |n: u16| proven(&format!("2001:db8:1:{n:x}::1"));
        for n in 1..=4 {
            assert_eq!(arrives(&mut admission, &settings, household(n)), Verdict::Wait);
        }
        let fifth = household(0xffff);
        assert_eq!(admission.judge(&settings, 0, fifth), Verdict::IgnoreSiteFull);
        assert_eq!(
            admission.judge(&settings, 0, guest("2001:db8:1:5::1", false)),
            Verdict::Wait,
            "not proven"
        );
        assert_eq!(admission.judge(&settings, 0, proven("2001:db8:2:1::1")), Verdict::Wait, "a neighbour");
        let elsewhere = Guest { listener: QuicListenerId::from_index(1), ..fifth };
        assert_eq!(admission.judge(&settings, 0, elsewhere), Verdict::Wait, "another listener");

        admission.on_connected(household(1));
        assert_eq!(arrives(&mut admission, &settings, fifth), Verdict::Wait, "connections do not count");
        assert_eq!(admission.judge(&settings, 0, household(5)), Verdict::IgnoreSiteFull);
        admission.on_handshake_failed(household(2));
        assert_eq!(arrives(&mut admission, &settings, household(5)), Verdict::Wait);
        for n in [3, 4, 5, 0xffff] {
            admission.on_handshake_failed(household(n));
        }
        admission.on_closed(household(1));
        assert!(
            admission.sites.is_empty() && admission.prefixes.is_empty(),
            "nothing is kept of who is gone"
        );
        assert_eq!(admission.under_way(), 0);
    }

    #[test]
    fn an_ipv4_site_is_a_24() {
        let settings = QuicSettings { handshakes_per_site_max: 1, ..QuicSettings::default() };
        let mut admission = admission(&settings, 1);
        assert_eq!(arrives(&mut admission, &settings, proven("192.0.2.1")), Verdict::Wait);
        assert_eq!(admission.judge(&settings, 0, proven("192.0.2.255")), Verdict::IgnoreSiteFull);
        assert_eq!(admission.judge(&settings, 0, proven("192.0.3.1")), Verdict::Wait);
    }

    #[test]
    fn handshakes_have_a_maximum_of_which_strangers_get_half() {
        let settings = QuicSettings { handshakes_max: 6, ..QuicSettings::default() };
        let mut admission = admission(&settings, 1);
        let stranger = |n: u8| guest(&format!("10.{n}.0.1"), false);
        for n in 0..3 {
            assert_eq!(arrives(&mut admission, &settings, stranger(n)), Verdict::Wait);
        }
        assert_eq!(admission.judge(&settings, 0, stranger(3)), Verdict::RetryBacklog);
        for n in 3..6 {
            let same_but_proven = Guest { proven: true, ..stranger(n) };
            assert_eq!(arrives(&mut admission, &settings, same_but_proven), Verdict::Wait);
        }
        assert_eq!(admission.judge(&settings, 0, proven("10.6.0.1")), Verdict::IgnoreHandshakesFull);
        assert_eq!(admission.judge(&settings, 0, stranger(6)), Verdict::RetryBacklog);
        admission.on_handshake_failed(stranger(0));
        assert_eq!(admission.judge(&settings, 0, proven("10.6.0.1")), Verdict::Wait);
    }
}
