//! The sockets that clients connect to: bound for all shards by one thread, in index order, before any shard runs.
//!
//! ```text
//!   quic.listen A ─► socket 0, socket 1, …      shard 0: a ring with socket 0 of A, socket 0 of B, listener 0 of C
//!   quic.listen B ─► socket 0, socket 1, …  ─►  shard 1: a ring with socket 1 of A, …
//!   listener    C ─► listener 0, listener 1, …
//! ```

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use quelea_udp_io::{
    BindError, ListenerId, Ring, RingConfig, SocketBuffers, Steering, UdpId, bind_tcp_group, bind_udp_group,
};

use crate::config::{Config, Placed, Transport};

/// What is served on an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// MQTT over QUIC.
    Quic,
    /// MQTT over a byte stream.
    Stream(Transport),
    /// Metrics and health over HTTP.
    Admin,
}

impl Service {
    /// What it is called in sentences and in the banner.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Quic => "MQTT over QUIC",
            Self::Stream(Transport::Tcp) => "MQTT over TCP",
            Self::Stream(Transport::Tls) => "MQTT over TLS",
            Self::Stream(Transport::Ws) => "MQTT over WS",
            Self::Stream(Transport::Wss) => "MQTT over WSS",
            Self::Admin => "metrics",
        }
    }
}

/// An address that cannot be served, with what the operator can do about it.
#[derive(Debug)]
pub struct ListenError {
    /// What was to be served there.
    pub service: Service,
    /// The key that holds the address.
    pub key: String,
    /// The address and the reason.
    pub error: BindError,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, key, error } = self;
        write!(f, "cannot serve {}: {error}; choose another address with ", service.name())?;
        match key.strip_suffix(".listen").filter(|section| !section.contains('[')) {
            Some(section) => write!(f, "--{section}-listen ({key} in a file), or \"\" for none"),
            None => write!(f, "{key}"),
        }
    }
}

impl std::error::Error for ListenError {}

/// One shard's ring with its sockets.
pub(crate) struct ShardSockets {
    pub(crate) ring: Ring,
    /// With the address that each is bound to.
    pub(crate) udp: Vec<(UdpId, IpAddr)>,
    /// In the order of the configuration's listeners.
    pub(crate) listeners: Vec<ListenerId>,
}

/// Everything that is bound.
pub(crate) struct Bound {
    pub(crate) shards: Vec<ShardSockets>,
    /// With their real ports.
    pub(crate) quic: Vec<SocketAddr>,
    pub(crate) streams: Vec<ServedListener>,
}

/// A listener that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedListener {
    /// What is spoken there.
    pub transport: Transport,
    /// Its address, with its real port.
    pub address: SocketAddr,
    /// The path of its WebSockets; empty where none are spoken.
    pub path: String,
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
    streams: &[Placed],
    shards: usize,
    sizes: &RingConfig,
    steering_key: [u8; 16],
) -> Result<Bound, SocketError> {
    let steering = Steering::new(steering_key, shards);
    let mut bound = Bound { shards: Vec::with_capacity(shards), quic: Vec::new(), streams: Vec::new() };
    for _ in 0..shards {
        let ring = Ring::new(sizes)?;
        bound.shards.push(ShardSockets { ring, udp: Vec::new(), listeners: Vec::new() });
    }
    let refused = |service, key: &str| {
        let key = key.to_owned();
        move |error| SocketError::Listen(ListenError { service, key, error })
    };
    for &address in &config.quic.listen {
        let group = bind_udp_group(address, shards, &steering, SocketBuffers::default());
        let group = group.map_err(refused(Service::Quic, "quic.listen"))?;
        bound.quic.push(group[0].local_addr()?);
        for (shard, socket) in bound.shards.iter_mut().zip(group) {
            shard.udp.push((shard.ring.add_udp(socket)?, address.ip()));
        }
    }
    for Placed { key, listener } in streams {
        let group = bind_tcp_group(listener.listen, shards, BACKLOG);
        let group = group.map_err(refused(Service::Stream(listener.transport), key))?;
        let path = if listener.transport.has_websocket() { listener.path() } else { "" };
        bound.streams.push(ServedListener {
            transport: listener.transport,
            address: group[0].local_addr()?,
            path: path.to_owned(),
        });
        for (shard, listener) in bound.shards.iter_mut().zip(group) {
            shard.listeners.push(shard.ring.add_listener(listener)?);
        }
    }
    Ok(bound)
}

/// Connections that may wait for one shard to accept them: a turn accepts 32, so this is a burst of some milliseconds.
/// The kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4_096;
