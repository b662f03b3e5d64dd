//! What an operator may decide about QUIC, and what follows from it for quinn-proto.
//!
//! quinn-proto's defaults suit one large download; these suit very many small sessions. Everything that a peer can
//! make us hold has its maximum here.

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::congestion::{CubicConfig, NewRenoConfig};
use quinn_proto::{IdleTimeout, MtuDiscoveryConfig, TransportConfig};

use super::listener::QuicListenerLimits;
use super::window::WindowLimits;

/// Limits and timers of the QUIC half of one shard.
#[derive(Clone, Debug)]
pub struct QuicSettings {
    /// Silence after which a connection is dropped; the smaller of ours and the peer's counts (RFC 9000 §10.1).
    pub idle_timeout: Duration,
    /// How long a handshake may last, its wait in our queue included.
    pub handshake_timeout: Duration,
    /// Handshakes queued and running above which strangers have to prove their address first (RFC 9000 §8.1.2); half of
    /// [`Self::handshakes_max`], if that is less.
    pub handshakes_in_flight_retry: usize,
    /// Handshakes queued and running at once. Beyond it the first packets of proven addresses are dropped in silence; their
    /// clients repeat them. Nobody is charged for a handshake: so many times [`HANDSHAKE_BYTES`] are beside the ceiling.
    pub handshakes_max: usize,
    /// First packets that may wait for their handshake.
    pub handshakes_queued_max: usize,
    /// Handshakes of one address prefix at a listener without a limit of its own, once for proven addresses and once for
    /// unproven ones.
    pub handshakes_per_prefix_max: usize,
    /// Handshakes with proven addresses of one site, an IPv4 /24 or an IPv6 /48, at a listener without a limit of its own.
    /// Less than [`Self::handshakes_max`], or one site could have all places by one listener. Who comes from several sites, or
    /// to several listeners, can: each place for no longer than a handshake may take.
    pub handshakes_per_site_max: usize,
    /// Connections of this shard, those in handshake and those winding down included.
    pub connections_max: usize,
    /// Connections of one address prefix at a listener without a limit of its own: an IPv4 address or an IPv6 /64.
    pub connections_per_prefix_max: usize,
    /// Bidirectional streams the peer may have open at once. With 1 the next one is granted only when the former is
    /// closed in both directions and acknowledged (OASIS MQTT over QUIC, profile `single`).
    pub streams_bidi: u32,
    /// Unidirectional streams the peer may have open at once.
    pub streams_uni: u32,
    /// Bytes the peer may have under way or unread on a new connection, over all its streams.
    pub connection_window: u32,
    /// The same for a connection that has proven that it needs more. At least [`Self::connection_window`].
    pub connection_window_max: u32,
    /// What all connections of this shard may have beyond their first windows, bytes.
    pub windows_widened_max: u64,
    /// Bytes of ours that one connection holds unsent or unacknowledged, at most [`SEND_WINDOW_MAX`]. It also bounds
    /// each stream: quinn-proto counts per connection only.
    pub send_window: u64,
    /// Bytes of further packets held for all first packets in the queue.
    pub incoming_bytes_max: u64,
    /// Largest UDP payload that path MTU discovery tries; 1200 or less turns it off.
    pub mtu_max: u16,
    /// Silence after which we send a PING ourselves, if any.
    pub keep_alive: Option<Duration>,
    /// Congestion control.
    pub congestion: Congestion,
    /// Least time between two stateless resets: few enough not to be a weapon, enough to tell every client of a
    /// restarted broker.
    pub reset_interval: Duration,
    /// The fault that this shard has.
    #[cfg(feature = "mutants")]
    pub mutant: Option<crate::mutants::Mutant>,
}

/// The congestion controllers to choose from. Not BBR: quinn-proto's takes randomness from outside the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9002 §7. The smaller one; below our send window the other has no advantage.
    NewReno,
    /// RFC 9438.
    Cubic,
}

impl Default for QuicSettings {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(120),
            handshake_timeout: Duration::from_secs(10),
            handshakes_in_flight_retry: 1_000,
            // A core begins 1,000 to 6,000 handshakes in a second; an honest one is over in a round trip or two.
            handshakes_max: 4_096,
            handshakes_queued_max: 4_096,
            handshakes_per_prefix_max: 1_024,
            handshakes_per_site_max: 1_024,
            connections_max: 1 << 20,
            connections_per_prefix_max: 1 << 16,
            streams_bidi: 1,
            streams_uni: 0,
            connection_window: 16 * 1024,
            connection_window_max: 256 * 1024,
            windows_widened_max: 64 << 20,
            send_window: 32 * 1024,
            incoming_bytes_max: 8 << 20,
            mtu_max: 1_452,
            keep_alive: None,
            congestion: Congestion::NewReno,
            reset_interval: Duration::from_millis(1),
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

impl QuicSettings {
    /// The transport parameters and limits of every connection.
    ///
    /// # Panics
    /// If a value is out of its documented range: settings are ours.
    pub(super) fn transport(&self) -> TransportConfig {
        assert!(self.send_window <= SEND_WINDOW_MAX, "send_window {} > {SEND_WINDOW_MAX}", self.send_window);
        assert!(self.connection_window <= self.connection_window_max, "the first window is the smallest");
        assert!(self.streams_bidi <= STREAMS_MAX && self.streams_uni <= STREAMS_MAX, "too many streams");
        let idle = IdleTimeout::try_from(self.idle_timeout).expect("idle_timeout is below 2^62 ms");
        let mut transport = TransportConfig::default();
        transport
            .max_idle_timeout(Some(idle))
            .max_concurrent_bidi_streams(self.streams_bidi.into())
            .max_concurrent_uni_streams(self.streams_uni.into())
            .stream_receive_window(self.connection_window_max.into())
            .receive_window(self.connection_window.into())
            .send_window(self.send_window)
            .crypto_buffer_size(CRYPTO_BYTES_MAX)
            .datagram_receive_buffer_size(None)
            .datagram_send_buffer_size(0)
            .keep_alive_interval(self.keep_alive)
            .mtu_discovery_config(self.mtu_discovery())
            // The spin bit shows an observer the round trip time and gives nothing back.
            .allow_spin(false);
        match self.congestion {
            Congestion::NewReno => {
                transport.congestion_controller_factory(Arc::new(NewRenoConfig::default()))
            }
            Congestion::Cubic => transport.congestion_controller_factory(Arc::new(CubicConfig::default())),
        };
        transport
    }

    /// What a listener takes that has no limits of its own.
    #[must_use]
    pub fn listener_limits(&self) -> QuicListenerLimits {
        QuicListenerLimits {
            connections_max: self.connections_max,
            connections_per_prefix_max: self.connections_per_prefix_max,
            handshakes_per_prefix_max: self.handshakes_per_prefix_max,
            handshakes_per_site_max: self.handshakes_per_site_max,
        }
    }

    pub(super) fn windows(&self) -> WindowLimits {
        WindowLimits {
            first: self.connection_window,
            max: self.connection_window_max,
            widened_max: self.windows_widened_max,
        }
    }

    fn mtu_discovery(&self) -> Option<MtuDiscoveryConfig> {
        (self.mtu_max > 1_200).then(|| {
            let mut discovery = MtuDiscoveryConfig::default();
            // The largest is tried first and is what nearly every path carries: one probe instead of four. Where it is lost,
            // one step between the two ends follows.
            discovery.upper_bound(self.mtu_max).minimum_change((self.mtu_max - 1_200) / 2 + 1);
            discovery
        })
    }
}

/// Secrets that all shards share. The broker keeps them in its data directory, so that after a restart it can tell
/// the clients of the old process at once that their connections are gone.
#[derive(Clone)]
pub struct QuicKeys {
    /// Signs stateless reset tokens (RFC 9000 §10.3).
    pub reset_key: [u8; 64],
    /// Seals the tokens in Retry packets.
    pub token_key: [u8; 64],
    /// Key of [`Steering`](crate::steering::Steering).
    pub steering_key: [u8; 16],
}

/// Most that `send_window` may be: what is beyond waits with the session, where it can still be dropped or reordered.
pub const SEND_WINDOW_MAX: u64 = 64 * 1024;

/// Most streams of a kind: quinn-proto sets up a place for each when a connection begins.
pub const STREAMS_MAX: u32 = 64;

/// What a handshake under way may cost, until it is over or its time is: 21.2 KB of ours with a client that falls silent behind
/// its first packet (`cargo run --release --example quic_memory`), 8 KiB of one that sends the rest out of order,
/// and an allowance for what aws-lc allocates itself.
pub const HANDSHAKE_BYTES: usize = 40 * 1024;

/// Handshake bytes held out of order: room for a client's certificate chain and a post-quantum key share.
const CRYPTO_BYTES_MAX: usize = 8 * 1024;
