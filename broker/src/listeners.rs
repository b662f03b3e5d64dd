//! The sockets that clients connect to: bound for all shards by one thread, in index order, before any shard runs.
//!
//! ```text
//!   quic.listen A ─► socket 0, socket 1, …      shard 0: a ring with socket 0 of A, socket 0 of B, listener 0 of C
//!   quic.listen B ─► socket 0, socket 1, …  ─►  shard 1: a ring with socket 1 of A, …
//!   tcp.listen  C ─► listener 0, listener 1, …
//! ```

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use quelea_udp_io::{
    BindError, ListenerId, Ring, RingConfig, SocketBuffers, Steering, UdpId, bind_tcp_group, bind_udp_group,
};

use crate::config::Config;

/// What is served on an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// MQTT over QUIC.
    Quic,
    /// MQTT over TCP.
    Tcp,
    /// Metrics and health over HTTP.
    Admin,
}

/// An address that cannot be served, with what the operator can do about it.
#[derive(Debug)]
pub struct ListenError {
    /// What was to be served there.
    pub service: Service,
    /// The address and the reason.
    pub error: BindError,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, section) = match self.service {
            Service::Quic => ("MQTT over QUIC", "quic"),
            Service::Tcp => ("MQTT over TCP", "tcp"),
            Service::Admin => ("metrics", "admin"),
        };
        write!(f, "cannot serve {name}: {}; choose another address with --{section}-listen", self.error)?;
        write!(f, " ({section}.listen in a file), or \"\" for none")
    }
}

impl std::error::Error for ListenError {}

/// One shard's ring with its sockets.
pub(crate) struct ShardSockets {
    pub(crate) ring: Ring,
    /// With the address that each is bound to.
    pub(crate) udp: Vec<(UdpId, IpAddr)>,
    pub(crate) listeners: Vec<ListenerId>,
}

/// Everything that is bound.
pub(crate) struct Bound {
    pub(crate) shards: Vec<ShardSockets>,
    /// With their real ports.
    pub(crate) quic: Vec<SocketAddr>,
    pub(crate) tcp: Vec<SocketAddr>,
}

/// Why the sockets are not to be had.
#[derive(Debug)]
pub(crate) enum SocketError {
    Listen(ListenError),
    Ring(io::Error),
}

impl From<io::Error> for SocketError {
    fn from(error: io::Error) -> Self {
        Self::Ring(error)
    }
}

/// Binds what `config` lists, for `shards` shards.
pub(crate) fn bind(
    config: &Config,
    shards: usize,
    sizes: &RingConfig,
    steering_key: [u8; 16],
) -> Result<Bound, SocketError> {
    let steering = Steering::new(steering_key, shards);
    let mut bound = Bound { shards: Vec::with_capacity(shards), quic: Vec::new(), tcp: Vec::new() };
    for _ in 0..shards {
        let ring = Ring::new(sizes)?;
        bound.shards.push(ShardSockets { ring, udp: Vec::new(), listeners: Vec::new() });
    }
    let refused = |service| move |error| SocketError::Listen(ListenError { service, error });
    for &address in &config.quic.listen {
        let group = bind_udp_group(address, shards, &steering, SocketBuffers::default());
        let group = group.map_err(refused(Service::Quic))?;
        bound.quic.push(group[0].local_addr()?);
        for (shard, socket) in bound.shards.iter_mut().zip(group) {
            shard.udp.push((shard.ring.add_udp(socket)?, address.ip()));
        }
    }
    for &address in &config.tcp.listen {
        let group = bind_tcp_group(address, shards, BACKLOG).map_err(refused(Service::Tcp))?;
        bound.tcp.push(group[0].local_addr()?);
        for (shard, listener) in bound.shards.iter_mut().zip(group) {
            shard.listeners.push(shard.ring.add_listener(listener)?);
        }
    }
    Ok(bound)
}

/// Connections that may wait for one shard to accept them: a turn accepts 32, so this is a burst of some milliseconds.
/// The kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4_096;
