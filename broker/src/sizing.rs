//! From the configuration, which speaks of the node, to the limits of one shard.
//!
//! What the node may have as a whole (memory, connections, handshakes) is divided by the number of shards, rounded up;
//! what one packet, session or connection may have is the same everywhere. What is not configurable keeps the default
//! of the crate that owns it, where the reason for its size stands.

use quelea_mqtt::Limits;
use quelea_router::MeshConfig;
use quelea_shard::quic::{HANDSHAKE_BYTES, QuicListenerLimits, QuicSettings};
use quelea_shard::{OnFull, OnSlow, Settings};
use quelea_udp_io::{Backend, RingConfig};

use crate::config::{self, Config, IoBackend, Listener};

/// What is divided: the node's memory among its shards.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) shards: usize,
    /// What peers may cause on the whole node.
    pub(crate) memory_bytes: u64,
}

impl Scale {
    fn shard_memory_bytes(self) -> usize {
        usize::try_from(self.memory_bytes).unwrap_or(usize::MAX) / self.shards
    }

    fn part(self, count: u32) -> usize {
        (count as usize).div_ceil(self.shards)
    }
}

/// The limits of one shard.
pub(crate) fn shard_settings(config: &Config, scale: Scale) -> Settings {
    let mqtt = &config.mqtt;
    let defaults = Settings::default();
    let memory_bytes_max = scale.shard_memory_bytes();
    let links_max = scale.part(config.broker.connections_max);
    Settings {
        packet: Limits {
            packet_bytes_max: saturated(mqtt.packet_max.0),
            topic_levels_max: mqtt.topic_levels_max as usize,
            ..defaults.packet
        },
        links_max,
        // Persistent sessions outlive their connections; as many again may be offline.
        sessions_max: links_max * 2,
        subscriptions_max: mqtt.subscriptions_max as usize,
        formers_max: mqtt.former_connections_max as usize,
        queue_messages_max: mqtt.queue_messages_max as usize,
        queue_bytes_max: usize::try_from(mqtt.queue_bytes_max.0).unwrap_or(usize::MAX),
        receive_max: saturated_u16(mqtt.receive_maximum),
        topic_alias_max: saturated_u16(mqtt.topic_alias_maximum),
        topic_alias_bytes_max: usize::try_from(mqtt.topic_alias_bytes_max.0).unwrap_or(usize::MAX),
        client_id_bytes_max: mqtt.client_id_bytes_max as usize,
        session_expiry_max: mqtt.session_expiry_max,
        connect_timeout: mqtt.connect_timeout,
        full_deadline: mqtt.full_deadline,
        on_slow: match mqtt.on_slow {
            config::OnSlow::Disconnect => OnSlow::Disconnect,
            config::OnSlow::DropOldest => OnSlow::DropOldest,
            config::OnSlow::DropNew => OnSlow::DropNew,
        },
        on_full: match mqtt.on_full {
            config::OnFull::DropOldest => OnFull::DropOldest,
            config::OnFull::DropNew => OnFull::DropNew,
            config::OnFull::EndSession => OnFull::EndSession,
        },
        response_root: (!mqtt.response_root.is_empty()).then(|| mqtt.response_root.as_str().into()),
        // Retained messages stay until they are replaced: they may not take what live traffic needs.
        retained_bytes_max: memory_bytes_max / 2,
        memory_bytes_max,
        ..defaults
    }
}

/// The limits of the QUIC half of one shard.
pub(crate) fn quic_settings(config: &Config, scale: Scale) -> QuicSettings {
    let handshakes_max = match config.quic.handshakes_max {
        Some(count) => scale.part(count),
        None => handshakes_max(scale),
    };
    QuicSettings {
        idle_timeout: config.quic.idle_timeout,
        handshakes_in_flight_retry: scale.part(config.quic.retry_above_handshakes),
        handshakes_max,
        // One site cannot have all of them at one listener.
        handshakes_per_site_max: handshakes_max.div_ceil(SITE_SHARE),
        connections_max: scale.part(config.broker.connections_max),
        ..QuicSettings::default()
    }
}

/// Handshakes under way that the memory of a shard allows beside its ceiling.
fn handshakes_max(scale: Scale) -> usize {
    let affordable = scale.shard_memory_bytes() / HANDSHAKES_SHARE / HANDSHAKE_BYTES;
    affordable.clamp(HANDSHAKES_LEAST, QuicSettings::default().handshakes_max)
}

/// What a listener takes on one shard; on byte streams the same words mean the same.
pub(crate) fn listener_limits(config: &Config, listener: &Listener, scale: Scale) -> QuicListenerLimits {
    let part = |count: u32| scale.part(count);
    let defaults = match listener.transport.is_quic() {
        true => quic_settings(config, scale).listener_limits(),
        false => QuicSettings {
            connections_max: scale.part(config.broker.connections_max),
            ..QuicSettings::default()
        }
        .listener_limits(),
    };
    let handshakes_of_network = listener.handshakes_per_network_max.map(part);
    // A network that may have more by the operator's word is not held to less as part of its site.
    let handshakes_of_site = defaults.handshakes_per_site_max.max(handshakes_of_network.unwrap_or(0));
    QuicListenerLimits {
        connections_max: listener.connections_max.map_or(defaults.connections_max, part),
        connections_per_prefix_max: listener
            .connections_per_network_max
            .map_or(defaults.connections_per_prefix_max, part),
        handshakes_per_prefix_max: handshakes_of_network.unwrap_or(defaults.handshakes_per_prefix_max),
        handshakes_per_site_max: listener.handshakes_per_site_max.map_or(handshakes_of_site, part),
    }
}

/// The sizes of the ring of one shard.
pub(crate) fn ring_config(config: &Config, scale: Scale) -> RingConfig {
    let io = &config.io;
    RingConfig {
        backend: match io.backend {
            IoBackend::Auto => Backend::Auto,
            IoBackend::IoUring => Backend::IoUring,
            IoBackend::Epoll => Backend::Epoll,
        },
        datagram_buffers: io.datagram_buffers as usize,
        stream_buffers: io.stream_buffers as usize,
        stream_buffer_bytes: saturated(io.stream_buffer_size.0) as usize,
        doors_max: scale.part(config.broker.connections_max),
        door_keepalive: (!io.tcp_keepalive.is_zero()).then_some(io.tcp_keepalive),
        ..RingConfig::default()
    }
}

/// The mailboxes between shards: credit that has been granted always finds its slot.
pub(crate) fn mesh_config(settings: &Settings) -> MeshConfig {
    MeshConfig {
        replies: 64,
        control: 1_024,
        forward: settings.forward_window as usize,
        deliver: settings.deliver_window as usize,
    }
}

fn saturated(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn saturated_u16(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// The part of a shard's memory that handshakes may cost: an eighth.
const HANDSHAKES_SHARE: usize = 8;

/// The part of them that one site may have at a listener: a quarter, which is what one network may have where memory is
/// not small.
const SITE_SHARE: usize = 4;

/// However small the memory: fewer would make clients wait that come together.
const HANDSHAKES_LEAST: usize = 64;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Transport;

    const FOUR: Scale = Scale { shards: 4, memory_bytes: 4_000 };

    #[test]
    fn handshakes_are_as_many_as_an_eighth_of_the_memory_holds_or_as_the_operator_says() {
        let mut config = Config::default();
        let of = |config: &Config, memory_bytes| {
            let quic = quic_settings(config, Scale { shards: 4, memory_bytes });
            (quic.handshakes_max, quic.handshakes_per_site_max)
        };
        assert_eq!(of(&config, 4 << 20), (64, 16), "the least");
        assert_eq!(of(&config, 4 * 8 * 100 * HANDSHAKE_BYTES as u64), (100, 25));
        assert_eq!(of(&config, 64 << 30), (4_096, 1_024), "the most");
        config.quic.handshakes_max = Some(10_001);
        assert_eq!(of(&config, 4 << 20), (2_501, 626));
    }

    #[test]
    fn a_site_is_held_to_a_quarter_of_all_handshakes_unless_the_operator_says_more() {
        let mut config = Config::default();
        config.quic.handshakes_max = Some(400);
        let quic = Listener::new(Transport::Quic, ([127, 0, 0, 1], 0).into());
        let of = |listener: &Listener| {
            let limits = listener_limits(&config, listener, FOUR);
            (limits.handshakes_per_prefix_max, limits.handshakes_per_site_max)
        };
        assert_eq!(of(&quic), (1_024, 25));
        assert_eq!(of(&Listener { transport: Transport::Tls, ..quic.clone() }), (1_024, 1_024));
        assert_eq!(of(&Listener { handshakes_per_network_max: Some(360), ..quic.clone() }), (90, 90));
        let both =
            Listener { handshakes_per_network_max: Some(360), handshakes_per_site_max: Some(8), ..quic };
        assert_eq!(of(&both), (90, 2));
    }

    #[test]
    fn what_the_node_has_is_divided_and_what_one_client_has_is_not() {
        let mut config = Config::default();
        config.broker.connections_max = 10;
        config.quic.retry_above_handshakes = 7;
        config.mqtt.queue_messages_max = 5;
        config.mqtt.subscriptions_max = 11;
        config.mqtt.former_connections_max = 12;
        config.mqtt.full_deadline = Duration::from_secs(3);
        let settings = shard_settings(&config, FOUR);
        assert_eq!((settings.memory_bytes_max, settings.retained_bytes_max), (1_000, 500));
        assert_eq!((settings.links_max, settings.sessions_max, settings.queue_messages_max), (3, 6, 5));
        assert_eq!((settings.subscriptions_max, settings.formers_max), (11, 12));
        assert_eq!(settings.full_deadline, config.mqtt.full_deadline);
        let quic = quic_settings(&config, FOUR);
        assert_eq!((quic.connections_max, quic.handshakes_in_flight_retry), (3, 2));
        assert_eq!(ring_config(&config, FOUR).doors_max, 3);
        // What an operator is told is what the ring would take by itself.
        let ring = RingConfig { doors_max: 3, ..RingConfig::default() };
        assert_eq!(ring_config(&config, FOUR), ring);
        config.io.tcp_keepalive = Duration::from_secs(7);
        assert_eq!(ring_config(&config, FOUR).door_keepalive, Some(Duration::from_secs(7)));
        config.io.tcp_keepalive = Duration::ZERO;
        assert_eq!(ring_config(&config, FOUR).door_keepalive, None);
        let mesh = mesh_config(&settings);
        assert!(mesh.deliver >= settings.deliver_window as usize);
        assert!(mesh.forward >= settings.forward_window as usize);
    }
}
