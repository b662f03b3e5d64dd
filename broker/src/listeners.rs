//! The sockets that clients connect to: bound for all shards by one thread, in index order, before any shard runs.
//!
//! ```text
//!   QUIC listener A ─► socket 0, socket 1, …      shard 0: a ring with socket 0 of A, socket 0 of B, listener 0 of C
//!   QUIC listener B ─► socket 0, socket 1, …  ─►  shard 1: a ring with socket 1 of A, …
//!   TCP  listener C ─► listener 0, listener 1, …
//! ```

use std::fmt;
use std::io;
use std::net::SocketAddr;

use quelea_udp_io::{
    BindError, ListenerId, Ring, RingConfig, SocketBuffers, Steering, UdpId, bind_tcp_group, bind_udp_group,
};

use crate::config::{Placed, Transport};

/// What is served on an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// MQTT.
    Mqtt(Transport),
    /// Metrics and health over HTTP.
    Admin,
}

impl Service {
    /// What it is called in sentences and in the banner.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mqtt(Transport::Quic) => "MQTT over QUIC",
            Self::Mqtt(Transport::Tcp) => "MQTT over TCP",
            Self::Mqtt(Transport::Tls) => "MQTT over TLS",
            Self::Mqtt(Transport::Ws) => "MQTT over WS",
            Self::Mqtt(Transport::Wss) => "MQTT over WSS",
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
    /// In the order of the configuration's QUIC listeners.
    pub(crate) udp: Vec<UdpId>,
    /// In the order of its other listeners.
    pub(crate) listeners: Vec<ListenerId>,
}

/// Everything that is bound.
pub(crate) struct Bound {
    pub(crate) shards: Vec<ShardSockets>,
    pub(crate) served: Vec<ServedListener>,
}

/// A listener that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedListener {
    /// What it is called: its section, or its place in `[[listeners]]`.
    pub name: String,
    /// What is spoken there.
    pub transport: Transport,
    /// Its address, with its real port.
    pub address: SocketAddr,
    /// The path of its WebSockets; empty where none are spoken.
    pub path: String,
}

/// As the log names it: `listeners[2] (quic [::]:14568)`.
impl fmt::Display for ServedListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.name, self.transport.name(), self.address)
    }
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

/// Binds every listener, for `shards` shards.
pub(crate) fn bind(
    listeners: &[Placed],
    shards: usize,
    sizes: &RingConfig,
    steering_key: [u8; 16],
) -> Result<Bound, SocketError> {
    let steering = Steering::new(steering_key, shards);
    let mut bound = Bound { shards: Vec::with_capacity(shards), served: Vec::new() };
    for _ in 0..shards {
        let ring = Ring::new(sizes)?;
        bound.shards.push(ShardSockets { ring, udp: Vec::new(), listeners: Vec::new() });
    }
    for placed in listeners {
        let Placed { key, listener } = placed;
        let transport = listener.transport;
        let refused = |error| {
            SocketError::Listen(ListenError { service: Service::Mqtt(transport), key: key.clone(), error })
        };
        let address = if transport.is_quic() {
            let group = bind_udp_group(listener.listen, shards, &steering, SocketBuffers::default());
            let group = group.map_err(refused)?;
            let address = group[0].local_addr()?;
            for (shard, socket) in bound.shards.iter_mut().zip(group) {
                shard.udp.push(shard.ring.add_udp(socket)?);
            }
            address
        } else {
            let group = bind_tcp_group(listener.listen, shards, BACKLOG).map_err(refused)?;
            let address = group[0].local_addr()?;
            for (shard, socket) in bound.shards.iter_mut().zip(group) {
                shard.listeners.push(shard.ring.add_listener(socket)?);
            }
            address
        };
        let path = if transport.has_websocket() { listener.path() } else { "" };
        let (name, path) = (placed.name().to_owned(), path.to_owned());
        bound.served.push(ServedListener { name, transport, address, path });
    }
    Ok(bound)
}

/// Connections that may wait for one shard to accept them: a turn accepts 32, so this is a burst of some milliseconds.
/// The kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4_096;
