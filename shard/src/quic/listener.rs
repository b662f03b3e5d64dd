//! The listeners of a shard: what a client finds depends on the address that it came to.
//!
//! ```text
//!   datagram ─ Path::listener ─┬─ first packet ─► the listener's limits ─► handshake with its TLS configuration
//!                              └─ of a connection ─► must be the connection's own listener
//!   answer ─ Transmit::listener ─► the listener's socket
//! ```
//! There is one endpoint for all of them: connection IDs, reset tokens and Retry tokens are the node's and do not tell
//! listeners apart, so a datagram is steered and forwarded without regard to where it came in. A connection belongs to
//! the listener of its first packet for as long as it lives. A datagram of it that comes by another is dropped and
//! counted: no client of QUIC version 1 may change the address that it sends to (RFC 9000 §9), and what one listener
//! demands must not be met at another.

/// Names a listener: the same one on all shards of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QuicListenerId(u16);

impl QuicListenerId {
    /// The one that every endpoint has.
    pub const FIRST: Self = Self(0);

    /// The listener that was added at this place, counted from 0.
    ///
    /// # Panics
    /// Above 65,535.
    #[must_use]
    pub fn from_index(index: usize) -> Self {
        Self(u16::try_from(index).expect("a listener has a socket, and these are few"))
    }

    /// Its place.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What one listener takes, on one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuicListenerLimits {
    /// Connections, first packets in the queue and handshakes included.
    pub connections_max: usize,
    /// The same of one address prefix: an IPv4 address or an IPv6 /64.
    pub connections_per_prefix_max: usize,
    /// Handshakes of one address prefix, once for proven addresses and once for unproven ones.
    pub handshakes_per_prefix_max: usize,
    /// Handshakes with proven addresses of one site: an IPv4 /24 or an IPv6 /48, of which the prefix is a part.
    pub handshakes_per_site_max: usize,
}
