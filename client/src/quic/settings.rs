//! Limits and timers of client connections. quinn-proto's defaults suit one large download; these suit very many small
//! sessions, each on one stream.

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::congestion::NewRenoConfig;
use quinn_proto::{IdleTimeout, MtuDiscoveryConfig, TransportConfig};

/// What holds for every connection of an endpoint.
#[derive(Clone, Debug)]
pub struct EndpointSettings {
    /// Connections at once, those in handshake and those that wind down included; below 2^32.
    pub connections_max: usize,
    /// How long a handshake may last.
    pub handshake_timeout: Duration,
    /// Silence after which a connection is dropped; the smaller of ours and the server's counts (RFC 9000 §10.1).
    pub idle_timeout: Duration,
    /// Silence after which a PING is sent, if any. MQTT's own keep alive serves as well.
    pub keep_alive: Option<Duration>,
    /// Bytes that the server may have under way or unread.
    pub receive_window: u32,
    /// Bytes of ours that are held unsent or unacknowledged.
    pub send_window: u64,
    /// Largest UDP payload that path MTU discovery tries; 1200 or less turns it off.
    pub mtu_max: u16,
}

impl Default for EndpointSettings {
    fn default() -> Self {
        Self {
            connections_max: 1 << 20,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            keep_alive: None,
            receive_window: 64 * 1024,
            send_window: 64 * 1024,
            mtu_max: 1_452,
        }
    }
}

impl EndpointSettings {
    pub(super) fn transport(&self) -> TransportConfig {
        assert!(u32::try_from(self.connections_max).is_ok(), "connections_max is below 2^32");
        let idle = IdleTimeout::try_from(self.idle_timeout).expect("idle_timeout is below 2^62 ms");
        let mut transport = TransportConfig::default();
        transport
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(self.keep_alive)
            // The server may open none; and quinn-proto keeps a place for each that it may.
            .max_concurrent_bidi_streams(0_u32.into())
            .max_concurrent_uni_streams(0_u32.into())
            .stream_receive_window(self.receive_window.into())
            .receive_window(self.receive_window.into())
            .send_window(self.send_window)
            .datagram_receive_buffer_size(None)
            .datagram_send_buffer_size(0)
            .mtu_discovery_config(self.mtu_discovery())
            // NewReno holds less state than the default, and not BBR: its randomness comes from outside the seed.
            .congestion_controller_factory(Arc::new(NewRenoConfig::default()))
            .allow_spin(false);
        transport
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
