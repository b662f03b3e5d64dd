//! The configuration: what an operator may say, and what the broker then does.
//!
//! Four layers, the later ones win, and each error names the layer that it came from:
//!
//! ```text
//!   defaults  ◄─  --config FILE  ◄─  QUELEA_SECTION__KEY  ◄─  flags (--tcp-listen …)
//!      │              │ line             │ variable               │ flag
//!      └──────────────┴──────────┬──────┴────────────────────────┘
//!                     one table ─┴─► Config ─► validate ─► the broker
//! ```
//!
//! Every key of every layer is checked by itself before it is merged, so an error in a file has a line and an error in the
//! environment a variable, and all of them are told at once. [`Config`] is also what a program fills in to start a broker inside itself: there the same
//! [`Config::validate`] runs, so no road leads around the rules (above all: beyond loopback only with
//! `allow_anonymous = true`).
//!
//! A key exists only where an operator must decide. What has one right answer is a constant in the code.

mod file;
mod keys;
mod layers;
mod listener;
mod print;
mod problem;
mod reference;
mod rules;
mod shape;
mod syntax;
mod units;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use layers::{Loaded, Override, Reading, load, read};
pub use listener::{ClientCertificates, Listener, Placed, ProxyProtocol, Transport};
pub use problem::{ConfigError, Origin, Problem};
pub use reference::reference;
pub use units::{ByteSize, MemoryMax, Shards};

/// Everything that can be set. The default serves loopback only, without any file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The process: shards, data directory, memory.
    pub broker: BrokerSection,
    /// MQTT over QUIC.
    pub quic: QuicSection,
    /// MQTT over TCP.
    pub tcp: TcpSection,
    /// MQTT over TLS, and the certificate of every listener that has none of its own.
    pub tls: TlsSection,
    /// MQTT over WebSocket.
    pub ws: WsSection,
    /// MQTT over WebSocket in TLS.
    pub wss: WssSection,
    /// More listeners, each with what is its own.
    pub listeners: Vec<Listener>,
    /// The operator's HTTP door: metrics and health.
    pub admin: AdminSection,
    /// How shards speak to the kernel.
    pub io: IoSection,
    /// Limits of the protocol: packets, queues, sessions.
    pub mqtt: MqttSection,
    /// Where and how the log is written.
    pub log: LogSection,
}

/// `[broker]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerSection {
    /// One shard per core, or a given number.
    pub shards: Shards,
    /// Keys, development certificate and lock. `None`: [`crate::state_dir::default_path`].
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "units::some_path")]
    pub data_dir: Option<PathBuf>,
    /// Keeps each shard on a core of its own, where the process may use as many cores as there are shards.
    pub pin_shards: bool,
    /// Clients connected at once, over all shards; each shard takes its part.
    #[serde(deserialize_with = "units::count")]
    pub connections_max: u32,
    /// Ceiling of all memory that peers can cause.
    pub memory_max: MemoryMax,
    /// How long a draining broker waits for its clients before it ends.
    #[serde(with = "units::duration")]
    pub drain_timeout: Duration,
}

/// `[quic]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuicSection {
    /// UDP addresses; none leaves QUIC to `[[listeners]]`.
    #[serde(with = "units::listen")]
    pub listen: Vec<SocketAddr>,
    /// Needed to listen beyond loopback: clients are not asked who they are.
    pub allow_anonymous: bool,
    /// A connection that is silent for so long is closed (RFC 9000 §10.1); of every QUIC listener.
    #[serde(with = "units::duration")]
    pub idle_timeout: Duration,
    /// Handshakes in flight, over all shards and QUIC listeners, above which new clients must prove their address (RFC 9000 §8.1.2).
    #[serde(deserialize_with = "units::count")]
    pub retry_above_handshakes: u32,
    /// Most handshakes in flight, over all shards and QUIC listeners: beyond it first packets are dropped in silence, and come
    /// again. From half of it on new clients must prove their address. `None`: for each shard as many as an eighth of its
    /// memory holds, from 64 to 4,096.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "units::some_count")]
    pub handshakes_max: Option<u32>,
}

/// `[tcp]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TcpSection {
    /// TCP addresses; none turns TCP off.
    #[serde(with = "units::listen")]
    pub listen: Vec<SocketAddr>,
    /// Needed to listen beyond loopback: clients are not asked who they are.
    pub allow_anonymous: bool,
}

/// `[ws]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WsSection {
    /// TCP addresses on which WebSockets are opened; none turns it off.
    #[serde(with = "units::listen")]
    pub listen: Vec<SocketAddr>,
    /// Needed to listen beyond loopback: clients are not asked who they are.
    pub allow_anonymous: bool,
    /// The path of the request that opens one.
    pub path: String,
    /// Sites whose pages may open one (`"https://example.org"`, `"*"` for all). `None`: on loopback those that this
    /// machine serves, beyond it none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origins: Option<Vec<String>>,
}

/// `[wss]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WssSection {
    /// TCP addresses on which WebSockets in TLS are opened; none turns it off.
    #[serde(with = "units::listen")]
    pub listen: Vec<SocketAddr>,
    /// Needed to listen beyond loopback: clients are not asked who they are.
    pub allow_anonymous: bool,
    /// The path of the request that opens one.
    pub path: String,
    /// Sites whose pages may open one (`"https://example.org"`, `"*"` for all). `None`: on loopback those that this
    /// machine serves, beyond it none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origins: Option<Vec<String>>,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSection {
    /// HTTP addresses of `/metrics` and `/healthz`; none turns them off.
    #[serde(with = "units::listen")]
    pub listen: Vec<SocketAddr>,
    /// Needed to listen beyond loopback: whoever reaches the address can read the metrics.
    pub allow_anonymous: bool,
}

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSection {
    /// TCP addresses on which TLS is spoken; none turns it off.
    #[serde(with = "units::listen")]
    pub listen: Vec<SocketAddr>,
    /// Needed to listen beyond loopback: clients are not asked who they are.
    pub allow_anonymous: bool,
    /// PEM chain, leaf first. `None`: a development certificate is made and renewed in the data directory.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "units::some_path")]
    pub certificate: Option<PathBuf>,
    /// PEM private key of the certificate.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "units::some_path")]
    pub key: Option<PathBuf>,
}

/// `[io]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IoSection {
    /// Which of the kernel's interfaces carries the sockets.
    pub backend: IoBackend,
    /// io_uring: received datagrams, or trains of them, that may wait for one shard (each up to 64 KiB). A power of two.
    #[serde(deserialize_with = "units::count")]
    pub datagram_buffers: u32,
    /// io_uring: buffers into which one shard's TCP connections are read. A power of two.
    #[serde(deserialize_with = "units::count")]
    pub stream_buffers: u32,
    /// io_uring: size of each of those.
    pub stream_buffer_size: ByteSize,
    /// How long a TCP connection may be silent before the kernel asks its client four times, a quarter of this apart, whether
    /// it is there: one that has vanished ends after twice this, whatever its keep alive. 0: never asked.
    #[serde(with = "units::duration")]
    pub tcp_keepalive: Duration,
}

/// What carries the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoBackend {
    /// io_uring where the kernel allows it, else epoll; the log says which and why.
    #[default]
    Auto,
    /// io_uring, or no start.
    IoUring,
    /// epoll.
    Epoll,
}

/// `[mqtt]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttSection {
    /// Largest packet taken from a client; told in CONNACK `[MQTT-3.2.2-15]`. By default a payload of 1 MiB and 64 KiB
    /// for all in front of it: packet head, topic, properties.
    pub packet_max: ByteSize,
    /// QoS 1 and 2 publications that a client may have in flight towards the broker.
    #[serde(deserialize_with = "units::count")]
    pub receive_maximum: u32,
    /// Topic aliases that a client may set towards the broker.
    #[serde(deserialize_with = "units::count")]
    pub topic_alias_maximum: u32,
    /// Bytes of topics with an alias that the broker remembers for one connection, in each direction.
    pub topic_alias_bytes_max: ByteSize,
    /// Longest client identifier, in bytes: at least what MQTT demands.
    #[serde(deserialize_with = "units::count")]
    pub client_id_bytes_max: u32,
    /// Levels of a topic name or filter.
    #[serde(deserialize_with = "units::count")]
    pub topic_levels_max: u32,
    /// Subscriptions of one session; more are refused, in MQTT 5 with 0x97 (quota exceeded).
    #[serde(deserialize_with = "units::count")]
    pub subscriptions_max: u32,
    /// Connections of one session that are gone while what they have published waits for a subscriber: with so many, its
    /// client is refused with 0x89 (server busy) until there are fewer.
    #[serde(deserialize_with = "units::count")]
    pub former_connections_max: u32,
    /// Time from the transport's opening to a whole CONNECT.
    #[serde(with = "units::duration")]
    pub connect_timeout: Duration,
    /// Longest life of a session without a client.
    #[serde(with = "units::duration")]
    pub session_expiry_max: Duration,
    /// Messages that wait for one session.
    #[serde(deserialize_with = "units::count")]
    pub queue_messages_max: u32,
    /// Bytes that wait for one session.
    pub queue_bytes_max: ByteSize,
    /// Who pays when the queue of a session without a client is full.
    pub on_full: OnFull,
    /// How long a connected subscriber whose queue is full may keep its publishers waiting.
    #[serde(with = "units::duration")]
    pub full_deadline: Duration,
    /// Who pays when a connected subscriber has kept its publishers waiting for too long.
    pub on_slow: OnSlow,
    /// Root of the response topics that MQTT 5 clients are told when they ask: each gets `ROOT/CLIENT-ID`. Empty: none.
    pub response_root: String,
}

/// What happens to a message for an offline session whose queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// The oldest waiting message makes room.
    #[default]
    DropOldest,
    /// The new message is dropped.
    DropNew,
    /// The session ends: what it holds is dropped and its client starts anew.
    EndSession,
}

/// What happens to a connected subscriber that stays full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnSlow {
    /// DISCONNECT with 0x97 (quota exceeded).
    #[default]
    Disconnect,
    /// The oldest waiting message makes room.
    DropOldest,
    /// The messages that waited are dropped.
    DropNew,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// Lines for people or for machines.
    pub format: LogFormat,
    /// The least severe level that is written.
    pub level: LogLevel,
}

/// Shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people, coloured on a terminal unless `NO_COLOR` is set.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// The broker cannot do something it promised.
    Error,
    /// Something an operator should look at.
    Warn,
    /// Start, stop, reload.
    #[default]
    Info,
    /// Decisions, for a bug report.
    Debug,
    /// Everything.
    Trace,
}

impl Default for BrokerSection {
    fn default() -> Self {
        Self {
            shards: Shards::Auto,
            data_dir: None,
            pin_shards: true,
            connections_max: 1_000_000,
            memory_max: MemoryMax::Percent(70),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for QuicSection {
    fn default() -> Self {
        Self {
            listen: vec![loopback(14567)],
            allow_anonymous: false,
            idle_timeout: Duration::from_secs(120),
            retry_above_handshakes: 1_000,
            handshakes_max: None,
        }
    }
}

impl Default for TcpSection {
    fn default() -> Self {
        Self { listen: vec![loopback(1883)], allow_anonymous: false }
    }
}

impl Default for TlsSection {
    fn default() -> Self {
        Self { listen: vec![loopback(8883)], allow_anonymous: false, certificate: None, key: None }
    }
}

impl Default for WsSection {
    fn default() -> Self {
        let path = listener::PATH.to_owned();
        Self { listen: vec![loopback(8083)], allow_anonymous: false, path, origins: None }
    }
}

impl Default for WssSection {
    fn default() -> Self {
        let path = listener::PATH.to_owned();
        Self { listen: vec![loopback(8084)], allow_anonymous: false, path, origins: None }
    }
}

impl Default for AdminSection {
    fn default() -> Self {
        Self { listen: vec![loopback(18083)], allow_anonymous: false }
    }
}

impl Default for IoSection {
    fn default() -> Self {
        Self {
            backend: IoBackend::Auto,
            datagram_buffers: 32,
            stream_buffers: 256,
            stream_buffer_size: ByteSize(4 << 10),
            tcp_keepalive: Duration::from_secs(60),
        }
    }
}

impl Default for MqttSection {
    fn default() -> Self {
        Self {
            packet_max: ByteSize((1 << 20) + (64 << 10)),
            receive_maximum: 32,
            topic_alias_maximum: 16,
            topic_alias_bytes_max: ByteSize(64 << 10),
            client_id_bytes_max: 1_024,
            topic_levels_max: 128,
            subscriptions_max: 10_000,
            former_connections_max: 16,
            connect_timeout: Duration::from_secs(10),
            session_expiry_max: Duration::from_secs(7 * 24 * 60 * 60),
            queue_messages_max: 1_000,
            queue_bytes_max: ByteSize(1 << 20),
            on_full: OnFull::DropOldest,
            full_deadline: Duration::from_secs(10),
            on_slow: OnSlow::Disconnect,
            response_root: String::new(),
        }
    }
}

impl Config {
    /// Checks what types cannot say: ranges, keys that need each other, and the rule for addresses beyond loopback.
    ///
    /// # Errors
    /// Every broken rule at once; their origin is the program that filled the configuration in.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let broken = rules::broken(self);
        if broken.is_empty() {
            return Ok(());
        }
        let problem = |b: rules::Broken| Problem { origin: Origin::Program, key: Some(b.key), what: b.what };
        Err(ConfigError { problems: broken.into_iter().map(problem).collect() })
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
