//! From the configuration, which speaks of the node, to the limits of one shard.
//!
//! What the node may have as a whole (memory, connections, handshakes) is divided by the number of shards, rounded up;
//! what one packet, session or connection may have is the same everywhere. What is not configurable keeps the default
//! of the crate that owns it, where the reason for its size stands.

use quelea_mqtt::Limits;
use quelea_router::MeshConfig;
use quelea_shard::quic::{QuicListenerLimits, QuicSettings};
use quelea_shard::{OnFull, OnSlow, Settings};
use quelea_udp_io::{Backend, RingConfig};

use crate::config::{self, Config, IoBackend, Listener};

/// The limits of one of `shards` shards, where peers may cause `memory_bytes` on the whole node.
pub(crate) fn shard_settings(config: &Config, shards: usize, memory_bytes: u64) -> Settings {
    let mqtt = &config.mqtt;
    let defaults = Settings::default();
    let memory_bytes_max = usize::try_from(memory_bytes).unwrap_or(usize::MAX) / shards;
    let links_max = connections_max(config, shards);
    Settings {
        packet: Limits {
            packet_bytes_max: saturated(mqtt.packet_max.0),
            topic_levels_max: mqtt.topic_levels_max as usize,
            ..defaults.packet
        },
        links_max,
        // Persistent sessions outlive their connections; as many again may be offline.
        sessions_max: links_max * 2,
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

/// The limits of the QUIC half of one of `shards` shards.
pub(crate) fn quic_settings(config: &Config, shards: usize) -> QuicSettings {
    let retry_above = config.quic.retry_above_handshakes as usize;
    QuicSettings {
        idle_timeout: config.quic.idle_timeout,
        handshakes_in_flight_retry: retry_above.div_ceil(shards),
        connections_max: connections_max(config, shards),
        ..QuicSettings::default()
    }
}

/// What a listener takes on one of `shards` shards; on byte streams the same words mean the same.
pub(crate) fn listener_limits(config: &Config, listener: &Listener, shards: usize) -> QuicListenerLimits {
    let part = |count: u32| (count as usize).div_ceil(shards);
    let defaults = quic_settings(config, shards).listener_limits();
    QuicListenerLimits {
        connections_max: listener.connections_max.map_or(defaults.connections_max, part),
        connections_per_prefix_max: listener
            .connections_per_network_max
            .map_or(defaults.connections_per_prefix_max, part),
        handshakes_per_prefix_max: listener
            .handshakes_per_network_max
            .map_or(defaults.handshakes_per_prefix_max, part),
    }
}

/// The sizes of the ring of one of `shards` shards.
pub(crate) fn ring_config(config: &Config, shards: usize) -> RingConfig {
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
        doors_max: connections_max(config, shards),
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

fn connections_max(config: &Config, shards: usize) -> usize {
    (config.broker.connections_max as usize).div_ceil(shards)
}

fn saturated(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn saturated_u16(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_node_has_is_divided_and_what_one_client_has_is_not() {
        let mut config = Config::default();
        config.broker.connections_max = 10;
        config.quic.retry_above_handshakes = 7;
        config.mqtt.queue_messages_max = 5;
        config.mqtt.full_deadline = core::time::Duration::from_secs(3);
        let settings = shard_settings(&config, 4, 4_000);
        assert_eq!((settings.memory_bytes_max, settings.retained_bytes_max), (1_000, 500));
        assert_eq!((settings.links_max, settings.sessions_max, settings.queue_messages_max), (3, 6, 5));
        assert_eq!(settings.full_deadline, config.mqtt.full_deadline);
        let quic = quic_settings(&config, 4);
        assert_eq!((quic.connections_max, quic.handshakes_in_flight_retry), (3, 2));
        assert_eq!(ring_config(&config, 4).doors_max, 3);
        // What an operator is told is what the ring would take by itself.
        let ring = RingConfig { doors_max: 3, ..RingConfig::default() };
        assert_eq!(ring_config(&config, 4), ring);
        let mesh = mesh_config(&settings);
        assert!(mesh.deliver >= settings.deliver_window as usize);
        assert!(mesh.forward >= settings.forward_window as usize);
    }
}
