//! What carries datagrams between clients and the broker's socket group: late, twice, changed, or not at all.
//!
//! ```text
//!  line ──► weather (blackhole, MTU, loss, slow access, delay, corruption, duplication) ──► steering ──► a shard's inbox
//!  line ◄── weather ◄───────────────────────────────────────────────────────────────────── Driver::transmit
//! ```
//! Steering is the kernel's: the keyed hash of the connection ID, the sender's address for what is too short. Sometimes the
//! kernel errs (a train of segments that mixes connections arrives whole); the shards must put that right, and may have
//! nothing else to put right.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use quelea_client::quic;
use quelea_shard::quic::{Path, QuicListenerId, Transmit};

use crate::crypto::Handshakes;
use crate::event::Event;
use crate::line::{LineId, Way};
use crate::node::Input;
use crate::trace::Kind;
use crate::world::World;

/// A datagram under way.
#[derive(Clone, Debug)]
pub(crate) struct Flying {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) ecn: Option<u8>,
    pub(crate) bytes: BytesMut,
}

/// What all datagrams have in common.
pub(crate) struct Network {
    pub(crate) handshakes: Handshakes,
    /// Who listens where.
    pub(crate) addresses: BTreeMap<SocketAddr, LineId>,
    /// Addresses given out.
    pub(crate) hosts: u32,
    /// The last ones that clients sent, for those who replay them.
    pub(crate) overheard: VecDeque<BytesMut>,
    /// Datagrams that the kernel gave to a wrong shard.
    pub(crate) strays: u64,
}

impl Network {
    pub(crate) fn new(handshakes: Handshakes) -> Self {
        Self { handshakes, addresses: BTreeMap::new(), hosts: 0, overheard: VecDeque::new(), strays: 0 }
    }
}

impl World {
    pub(crate) fn network(&mut self) -> &mut Network {
        self.network.as_mut().expect("only profiles with QUIC send datagrams")
    }

    /// A client sends a datagram.
    pub(crate) fn launch_up(&mut self, id: LineId, ecn: Option<u8>, bytes: &[u8]) {
        let from = self.lines[id.0].address;
        let flying = Flying { from, to: BROKER, ecn, bytes: BytesMut::from(bytes) };
        if self.plan.quic.as_ref().is_some_and(|quic| quic.weather.stranger_us.is_some()) {
            let overheard = &mut self.network().overheard;
            overheard.push_back(flying.bytes.clone());
            if overheard.len() > OVERHEARD {
                overheard.pop_front();
            }
        }
        self.launch(Way::Up, Some(id), flying);
    }

    /// A shard sends datagrams.
    pub(crate) fn launch_down(&mut self, transmit: &Transmit, contents: &[u8]) {
        let to = transmit.destination;
        let line = self.network().addresses.get(&to).copied();
        for bytes in contents.chunks(transmit.segment_bytes.unwrap_or(contents.len())) {
            let flying = Flying { from: BROKER, to, ecn: transmit.ecn, bytes: BytesMut::from(bytes) };
            self.launch(Way::Down, line, flying);
        }
    }

    pub(crate) fn launch(&mut self, way: Way, line: Option<LineId>, mut flying: Flying) {
        let at = self.at();
        let kind = if way == Way::Up { Kind::Up } else { Kind::Down };
        let place = line.map_or(u64::MAX, |id| id.0 as u64);
        self.trace.bytes(at, kind, place, &flying.bytes);
        let weather = self.plan.quic.as_ref().expect("QUIC is played").weather.clone();
        let mut queued = Duration::ZERO;
        let mut path_bytes = weather.path_bytes;
        if let Some(id) = line {
            let now = self.now;
            let line = &mut self.lines[id.0];
            path_bytes = line.path_bytes;
            if line.bleached {
                flying.ecn = flying.ecn.map(|_| 0);
            }
            let access = line.access(way);
            if access.dark_until > now {
                return;
            }
            if let Some(rate) = weather.bytes_per_ms {
                let passes = Duration::from_micros(flying.bytes.len() as u64 * 1_000 / rate);
                access.free_at = access.free_at.max(now) + passes;
                queued = access.free_at - now;
                if queued > ACCESS_QUEUE {
                    access.free_at -= passes;
                    return;
                }
            }
        }
        if flying.bytes.len() > path_bytes || self.percent(weather.loss_percent) {
            return;
        }
        let delay = queued + self.micros(weather.delay_us.clone());
        if self.percent(weather.duplicate_percent) {
            // Now and then a copy comes very late.
            let again = match self.random.u8(0..4) {
                0 => self.micros(100_000..3_000_000),
                _ => queued + self.micros(weather.delay_us.clone()),
            };
            self.events.push(self.now + again, Event::Landed(Box::new(flying.clone())));
        }
        if self.percent(weather.corrupt_percent) {
            self.corrupt(&mut flying.bytes);
        }
        self.events.push(self.now + delay, Event::Landed(Box::new(flying)));
    }

    fn corrupt(&mut self, bytes: &mut BytesMut) {
        let at = self.random.usize(0..bytes.len());
        match self.random.u8(0..4) {
            0 => bytes.truncate(at),
            _ => bytes[at] ^= 1 << self.random.u8(0..8),
        }
    }

    /// A datagram arrives.
    pub(crate) fn landed(&mut self, flying: Flying) {
        if flying.to == BROKER {
            return self.steer(flying);
        }
        let now = self.now;
        let Some(id) = self.network().addresses.get(&flying.to).copied() else { return };
        let line = &mut self.lines[id.0];
        match &mut line.patience {
            Some(0) => return self.hang_up(id),
            Some(left) => *left -= 1,
            None => {}
        }
        let Some(endpoint) = &mut line.endpoint else { return };
        let from = quic::Path { peer: flying.from, local: None, ecn: flying.ecn };
        endpoint.handle_datagram(now, from, flying.bytes);
        self.touch_line(id);
    }

    /// The kernel chooses the socket.
    fn steer(&mut self, flying: Flying) {
        let shards = self.nodes.len();
        let by_address = flying.from.port() as usize % shards;
        let by_id = self.network().handshakes.steering.shard_of_datagram(&flying.bytes);
        #[cfg(feature = "mutants")]
        let by_id = match self.plan.settings.mutant {
            Some(quelea_shard::mutants::Mutant::SteeredByAddress) => None,
            _ => by_id,
        };
        let mut shard = by_id.unwrap_or(by_address);
        let stray = self.plan.quic.as_ref().expect("QUIC is played").weather.stray_percent;
        if by_id.is_some() && shards > 1 && self.percent(stray) {
            shard = (shard + self.random.usize(1..shards)) % shards;
            self.network().strays += 1;
        }
        let (listener, peer) = (QuicListenerId::FIRST, flying.from);
        let path = Path { listener, peer, local: Some(BROKER.ip()), ecn: flying.ecn };
        self.input(shard, Input::Datagram(path, flying.bytes));
    }

    /// An address that nobody has had: of a client, always from its own prefix.
    pub(crate) fn new_address(&mut self, prefix: u8) -> SocketAddr {
        let network = self.network();
        network.hosts += 1;
        let port = 10_000 + (network.hosts % 50_000) as u16;
        SocketAddr::from(([10, 0, prefix, 1], port))
    }
}

/// Where the broker listens.
pub(crate) const BROKER: SocketAddr =
    SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 14_567);

/// What waits in front of a slow access before it overflows.
const ACCESS_QUEUE: Duration = Duration::from_millis(300);

/// Datagrams that a replaying stranger chooses from.
const OVERHEARD: usize = 16;
