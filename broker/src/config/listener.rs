//! Listeners: the short form, a section with addresses, and the long one, `[[listeners]]`, in which each
//! has everything of its own. [`Config::placed_listeners`] gives both in the long form.

use std::net::SocketAddr;
use std::path::PathBuf;

use quelea_shard::door::IpRange;
use serde::{Deserialize, Serialize};

use super::{Config, units};

/// What carries MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// A byte stream, as it is.
    Tcp,
    /// TLS on a byte stream.
    Tls,
    /// WebSocket on a byte stream.
    Ws,
    /// WebSocket in TLS.
    Wss,
    /// QUIC.
    Quic,
}

impl Transport {
    /// Whether it has TLS, as QUIC always does.
    #[must_use]
    pub fn has_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss | Self::Quic)
    }

    /// Whether it is QUIC: datagrams, not a byte stream.
    #[must_use]
    pub fn is_quic(self) -> bool {
        self == Self::Quic
    }

    /// Whether it has WebSocket.
    #[must_use]
    pub fn has_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    /// As in `type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Quic => "quic",
        }
    }
}

/// Whether clients show a certificate in TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not asked.
    #[default]
    Off,
    /// They are asked; one that is shown must be good.
    Optional,
    /// Without a good one there is no connection.
    Required,
}

/// Whether a PROXY header comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// It is not known.
    #[default]
    Off,
    /// It must be there, in version 1 or 2.
    Required,
}

/// One of `[[listeners]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// What is spoken there.
    #[serde(rename = "type")]
    pub transport: Transport,
    /// Its address: UDP for QUIC, else TCP.
    #[serde(with = "units::address")]
    pub listen: SocketAddr,
    /// Needed to listen beyond loopback, unless every client must show a certificate.
    #[serde(default)]
    pub allow_anonymous: bool,
    /// Connections at once, over all shards; `None`: as many as the node has.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "units::some_count")]
    pub connections_max: Option<u32>,
    /// The same from one network: an IPv4 address or an IPv6 /64. `None`: 65,536 for each shard.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "units::some_count")]
    pub connections_per_network_max: Option<u32>,
    /// TLS handshakes at once from one network, over all shards; over QUIC once for clients that have proven their address,
    /// and once for those that have not, who then are asked to. `None`: 1,024 for each shard.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "units::some_count")]
    pub handshakes_per_network_max: Option<u32>,
    /// The same of one site, an IPv4 /24 or an IPv6 /48, over all its networks; over QUIC of clients that have proven their
    /// address. `None`: a quarter of what each shard takes in all (1,024 where memory is not small), or
    /// [`handshakes_per_network_max`](Self::handshakes_per_network_max) where that is more.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "units::some_count")]
    pub handshakes_per_site_max: Option<u32>,
    /// PEM chain, leaf first. `None`: that of `[tls]`.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "units::some_path")]
    pub certificate: Option<PathBuf>,
    /// PEM private key of the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "units::some_path")]
    pub key: Option<PathBuf>,
    /// Whether clients show a certificate.
    #[serde(default)]
    pub client_certificates: ClientCertificates,
    /// PEM file of the authorities that vouch for them.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "units::some_path")]
    pub client_ca: Option<PathBuf>,
    /// Whether a PROXY header comes first.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
    /// Who may send one; empty: whoever reaches the listener.
    #[serde(default, with = "units::ranges", skip_serializing_if = "Vec::is_empty")]
    pub proxy_trusted: Vec<IpRange>,
    /// The path of the request that opens a WebSocket; `None`: `/mqtt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Sites whose pages may open one; `None`: on loopback those that this machine serves, beyond it none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origins: Option<Vec<String>>,
}

impl Listener {
    /// A listener with nothing of its own.
    #[must_use]
    pub fn new(transport: Transport, listen: SocketAddr) -> Self {
        Self {
            transport,
            listen,
            allow_anonymous: false,
            connections_max: None,
            connections_per_network_max: None,
            handshakes_per_network_max: None,
            handshakes_per_site_max: None,
            certificate: None,
            key: None,
            client_certificates: ClientCertificates::Off,
            client_ca: None,
            proxy_protocol: ProxyProtocol::Off,
            proxy_trusted: Vec::new(),
            path: None,
            origins: None,
        }
    }

    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }

    /// The path of its WebSockets.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.as_deref().unwrap_or(PATH)
    }
}

/// A listener and the key under which the operator finds its address.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// `tls.listen`, `listeners[2].listen`.
    pub key: String,
    /// The listener.
    pub listener: Listener,
}

impl Placed {
    /// What it is called in the log: `tls`, `listeners[2]`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.key.strip_suffix(".listen").unwrap_or(&self.key)
    }
}

impl Config {
    /// Every listener for clients, those of the sections first.
    #[must_use]
    pub fn placed_listeners(&self) -> Vec<Placed> {
        let short = |transport: Transport, listen: &[SocketAddr], allow_anonymous| {
            let placed = |address: &SocketAddr| Placed {
                key: format!("{}.listen", transport.name()),
                listener: Listener { allow_anonymous, ..Listener::new(transport, *address) },
            };
            listen.iter().map(placed).collect::<Vec<_>>()
        };
        let mut all = short(Transport::Quic, &self.quic.listen, self.quic.allow_anonymous);
        all.extend(short(Transport::Tcp, &self.tcp.listen, self.tcp.allow_anonymous));
        all.extend(short(Transport::Tls, &self.tls.listen, self.tls.allow_anonymous));
        let mut websockets = short(Transport::Ws, &self.ws.listen, self.ws.allow_anonymous);
        for placed in &mut websockets {
            placed.listener.path = Some(self.ws.path.clone());
            placed.listener.origins.clone_from(&self.ws.origins);
        }
        all.append(&mut websockets);
        let mut websockets = short(Transport::Wss, &self.wss.listen, self.wss.allow_anonymous);
        for placed in &mut websockets {
            placed.listener.path = Some(self.wss.path.clone());
            placed.listener.origins.clone_from(&self.wss.origins);
        }
        all.append(&mut websockets);
        all.extend(self.listeners.iter().enumerate().map(|(index, listener)| Placed {
            key: format!("listeners[{index}].listen"),
            listener: listener.clone(),
        }));
        all
    }
}

/// The path that clients try when nothing else is said.
pub(super) const PATH: &str = "/mqtt";
