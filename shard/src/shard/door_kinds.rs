//! A listener's kind of byte stream, and what each network and each site has of it: connections, TLS handshakes in flight.

use std::net::IpAddr;

use crate::door::{DoorKind, NetworkFull};
use crate::hash::{Keyed, KeyedMap};
use crate::prefix::{Prefix, Site};

/// A kind of byte stream, and how many there are.
pub(crate) struct KnownKind {
    pub(super) kind: DoorKind,
    pub(super) open: usize,
    /// What each network has; nobody counts without a maximum.
    networks: Option<KeyedMap<Prefix, Guests>>,
    /// TLS handshakes in flight of each site; the same.
    sites: Option<KeyedMap<Site, u32>>,
}

/// What one network has.
#[derive(Default)]
struct Guests {
    connections: u32,
    /// Those of them whose TLS handshake is in flight.
    handshakes: u32,
}

impl KnownKind {
    pub(crate) fn new(kind: DoorKind, keyed: Keyed) -> Self {
        let least = kind.connections_per_prefix_max.min(kind.handshakes_per_prefix_max);
        let networks = (least < usize::MAX).then(|| KeyedMap::with_hasher(keyed));
        let sites = (kind.handshakes_per_site_max < usize::MAX).then(|| KeyedMap::with_hasher(keyed));
        Self { kind, open: 0, networks, sites }
    }

    fn guests(&self, peer: IpAddr) -> Option<&Guests> {
        self.networks.as_ref()?.get(&Prefix::of(peer))
    }

    /// What keeps another connection from this address's network out, if anything does.
    pub(super) fn judge_network(&self, peer: IpAddr) -> Result<(), NetworkFull> {
        let is_full = |guests: &Guests| guests.connections as usize >= self.kind.connections_per_prefix_max;
        if self.guests(peer).is_some_and(is_full) { Err(NetworkFull::Connections) } else { Ok(()) }
    }

    /// Begins a handshake of one that has entered, unless its network or its site has its maximum.
    pub(super) fn try_begin_handshake(&mut self, peer: IpAddr) -> Result<(), NetworkFull> {
        let prefix = Prefix::of(peer);
        let guests = self
            .networks
            .as_mut()
            .map(|networks| networks.get_mut(&prefix).expect("it was counted when it came"));
        if guests
            .as_ref()
            .is_some_and(|guests| guests.handshakes as usize >= self.kind.handshakes_per_prefix_max)
        {
            return Err(NetworkFull::Handshakes);
        }
        if let Some(sites) = &mut self.sites {
            let of_site = sites.get(&prefix.site()).copied().unwrap_or(0);
            if of_site as usize >= self.kind.handshakes_per_site_max {
                return Err(NetworkFull::SiteHandshakes);
            }
            sites.insert(prefix.site(), of_site + 1);
        }
        if let Some(guests) = guests {
            guests.handshakes += 1;
        }
        Ok(())
    }

    pub(super) fn enter_network(&mut self, peer: IpAddr) {
        if let Some(networks) = &mut self.networks {
            networks.entry(Prefix::of(peer)).or_default().connections += 1;
        }
    }

    /// A handshake of one that has entered is over.
    pub(super) fn end_handshake(&mut self, peer: IpAddr) {
        if let Some(networks) = &mut self.networks {
            let guests = networks.get_mut(&Prefix::of(peer)).expect("it was counted when it came");
            guests.handshakes -= 1;
        }
        if let Some(sites) = &mut self.sites {
            let site = Prefix::of(peer).site();
            let of_site = sites.get_mut(&site).expect("it was counted when it began");
            *of_site -= 1;
            if *of_site == 0 {
                sites.remove(&site);
            }
        }
    }

    /// One that has entered goes, its handshake being over.
    pub(super) fn leave_network(&mut self, peer: IpAddr) {
        let Some(networks) = &mut self.networks else { return };
        let guests = networks.get_mut(&Prefix::of(peer)).expect("it was counted when it came");
        guests.connections -= 1;
        if guests.connections == 0 {
            debug_assert_eq!(guests.handshakes, 0, "a handshake ends before its connection leaves");
            networks.remove(&Prefix::of(peer));
        }
    }
}
