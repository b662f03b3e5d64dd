//! Who may start a handshake: the queue of first packets, and how many connections each address prefix has.
//!
//! A handshake costs a core 150 µs and a first packet costs its sender nothing, so first packets only wait here
//! until the turn has time for them. What is too much is answered as cheaply as possible, in this order:
//!
//! ```text
//! draining, or too many connections (in all, of the prefix)  ─▶ refused: CONNECTION_REFUSED tells the client
//! queue full                                                 ─▶ silence: the client will repeat itself
//! backlog, or too many of the prefix, address unproven       ─▶ Retry: nothing is kept, strangers must come back
//! too many of the prefix, address proven                     ─▶ silence
//! ```
//!
//! Proven and unproven handshakes are counted apart, so that forged senders cannot lock out the real ones.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use quinn_proto::Incoming;

use super::settings::QuicSettings;

/// The queue and the counts.
pub(super) struct Admission {
    queue: VecDeque<Waiting>,
    prefixes: HashMap<Prefix, Guests, FixedState>,
    handshaking: usize,
    draining: bool,
}

/// A first packet and when it came.
pub(super) struct Waiting {
    pub(super) incoming: Incoming,
    pub(super) arrived: Instant,
    pub(super) guest: Guest,
}

/// An address range that counts as one party: an IPv4 address, or an IPv6 /64, which one household gets at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Prefix(u64);

impl Prefix {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            // The upper half would be an IPv6 multicast prefix, from which nothing is ever sent.
            IpAddr::V4(v4) => Self(0xffff_ffff << 32 | u64::from(v4.to_bits())),
            IpAddr::V6(v6) => Self((v6.to_bits() >> 64) as u64),
        }
    }
}

/// On whose account a handshake or connection goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    prefix: Prefix,
    proven: bool,
}

/// What one prefix has.
#[derive(Default)]
struct Guests {
    handshakes_proven: usize,
    handshakes_unproven: usize,
    connections: usize,
}

impl Guests {
    fn handshakes(&mut self, proven: bool) -> &mut usize {
        if proven { &mut self.handshakes_proven } else { &mut self.handshakes_unproven }
    }

    fn total(&self) -> usize {
        self.connections + self.handshakes_proven + self.handshakes_unproven
    }
}

/// What to do with a first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Wait,
    RefuseDraining,
    RefuseConnections,
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
            prefixes: HashMap::with_hasher(FixedState::with_seed(hash_seed)),
            handshaking: 0,
            draining: false,
        }
    }

    /// Refuse everyone from now on, or stop doing so.
    pub(super) fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
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
        if live + self.queue.len() >= settings.connections_max {
            return Verdict::RefuseConnections;
        }
        let theirs = self.prefixes.get(&guest.prefix);
        if theirs.is_some_and(|guests| guests.total() >= settings.connections_per_prefix_max) {
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
        match (running >= settings.handshakes_per_prefix_max, guest.proven) {
            (false, _) => Verdict::Wait,
            (true, true) => Verdict::IgnorePrefixFull,
            (true, false) => Verdict::RetryPrefix,
        }
    }

    /// Queues a first packet that was told to wait.
    pub(super) fn push(&mut self, waiting: Waiting) {
        let guests = self.prefixes.entry(waiting.guest.prefix).or_default();
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
        let guests = self.prefixes.get_mut(&guest.prefix).expect("it was counted when it was queued");
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
        let guests = self.prefixes.get_mut(&guest.prefix).expect("it was counted when it was queued");
        one(guests);
        if guests.total() == 0 {
            self.prefixes.remove(&guest.prefix);
        }
    }
}

impl Guest {
    pub(super) fn of(incoming: &Incoming) -> Self {
        Self {
            prefix: Prefix::of(incoming.remote_address().ip()),
            proven: incoming.remote_address_validated(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_an_ipv4_address_or_an_ipv6_64() {
        let of = |text: &str| Prefix::of(text.parse().expect("an address"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
    }
}
