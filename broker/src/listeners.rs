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
use std::thread;
use std::time::{Duration, Instant};

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
    let patience_ends = Instant::now() + PATIENCE;
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
            let bind = || bind_udp_group(listener.listen, shards, &steering, SocketBuffers::default());
            let group = patiently(patience_ends, bind).map_err(refused)?;
            let address = group[0].local_addr()?;
            for (shard, socket) in bound.shards.iter_mut().zip(group) {
                shard.udp.push(shard.ring.add_udp(socket)?);
            }
            address
        } else {
            let bind = || bind_tcp_group(listener.listen, shards, BACKLOG);
            let group = patiently(patience_ends, bind).map_err(refused)?;
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

/// Binds, and again while the sockets are in use and no process has them: io_uring lets those of a process that was killed
/// go some tenths of a second after it.
fn patiently<T>(until: Instant, bind: impl Fn() -> Result<T, BindError>) -> Result<T, BindError> {
    loop {
        match bind() {
            Err(BindError::InUse { owner: None, .. }) if Instant::now() < until => thread::sleep(PAUSE),
            bound => return bound,
        }
    }
}

/// How long a start waits in all for sockets that a dead process leaves behind, and how long between two attempts.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);

/// Connections that may wait for one shard to accept them: a turn accepts 32, so this is a burst of some milliseconds.
/// The kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4_096;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn sockets_that_no_process_has_are_waited_for_and_others_are_not() {
        let in_use = |owner: Option<&str>| BindError::InUse {
            addr: ([127, 0, 0, 1], 1883).into(),
            owner: owner.map(str::to_owned),
        };
        let attempts = Cell::new(0);
        let third = || {
            attempts.set(attempts.get() + 1);
            if attempts.get() < 3 { Err(in_use(None)) } else { Ok(()) }
        };
        assert!(patiently(Instant::now() + Duration::from_secs(60), third).is_ok());
        assert_eq!(attempts.get(), 3);

        let attempts = Cell::new(0);
        let never = |owner| {
            attempts.set(attempts.get() + 1);
            Err::<(), _>(in_use(owner))
        };
        assert!(patiently(Instant::now() + Duration::from_secs(60), || never(Some("mosquitto"))).is_err());
        assert!(patiently(Instant::now(), || never(None)).is_err());
        assert_eq!(attempts.get(), 2, "one each");
    }
}
