//! The TLS side of the listener: what a new connection's handshake is made from.

use std::fmt;
use std::sync::Arc;

use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::crypto::{Keys, ServerConfig, Session, UnsupportedVersion};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side};

use super::event::Alpn;
use super::session::TlsSession;

/// A checked server configuration, shared by all shards; replaced as a whole when certificates change.
///
/// rustls' part is the caller's: certificates, client authentication, ticket and session store. 0-RTT is turned off.
pub struct QuicTls {
    config: Arc<rustls::ServerConfig>,
    /// Knows the parts of QUIC's cryptography that have nothing to do with a session: Initial keys and Retry tags.
    stateless: Arc<QuicServerConfig>,
}

impl QuicTls {
    /// Checks `config` and takes it over.
    ///
    /// # Errors
    /// If its protocols are not ones that [`Alpn`] knows, or its provider lacks what QUIC needs.
    pub fn new(mut config: rustls::ServerConfig) -> Result<Arc<Self>, TlsError> {
        if config.alpn_protocols.is_empty() {
            return Err(TlsError::NoProtocol);
        }
        if let Some(name) = config.alpn_protocols.iter().find(|name| Alpn::from_name(name).is_none()) {
            return Err(TlsError::UnknownProtocol(String::from_utf8_lossy(name).into_owned()));
        }
        config.max_early_data_size = 0;
        let config = Arc::new(config);
        let stateless =
            QuicServerConfig::try_from(Arc::clone(&config)).map_err(|_| TlsError::NoInitialCipher)?;
        // A trial session: rustls refuses a configuration without TLS 1.3 here, and never later.
        rustls::quic::ServerConnection::new(Arc::clone(&config), rustls::quic::Version::V1, Vec::new())
            .map_err(TlsError::Config)?;
        Ok(Arc::new(Self { config, stateless: Arc::new(stateless) }))
    }

    /// The keys of a connection's first packets, which follow from the client's first connection ID.
    pub(super) fn initial_keys_of(&self, cid: &ConnectionId, side: Side) -> Keys {
        debug_assert!(side.is_server(), "this is the server's half");
        ServerConfig::initial_keys(&*self.stateless, VERSION_1, cid).expect("version 1 is supported")
    }
}

impl ServerConfig for QuicTls {
    fn initial_keys(&self, version: u32, cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.stateless.initial_keys(version, cid)
    }

    fn retry_tag(&self, version: u32, cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.stateless.retry_tag(version, cid, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, parameters: &TransportParameters) -> Box<dyn Session> {
        debug_assert_eq!(version, VERSION_1, "the endpoint offers no other");
        let mut encoded = Vec::new();
        parameters.write(&mut encoded);
        let connection =
            rustls::quic::ServerConnection::new(Arc::clone(&self.config), rustls::quic::Version::V1, encoded)
                .expect("a session like this one was made when the configuration was checked");
        Box::new(TlsSession::new(self, connection))
    }
}

/// Why a TLS configuration does not serve this listener.
#[derive(Debug)]
pub enum TlsError {
    /// No application protocol is listed; rustls would then refuse every client that offers one.
    NoProtocol,
    /// A protocol is listed that this listener does not speak.
    UnknownProtocol(String),
    /// The provider has no AES-128-GCM-SHA256 for QUIC, in which all Initial packets are sealed (RFC 9001 §5.2).
    NoInitialCipher,
    /// rustls refused it.
    Config(rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProtocol => f.write_str("the TLS configuration lists no application protocol"),
            Self::UnknownProtocol(name) => write!(f, "unknown application protocol `{name}`"),
            Self::NoInitialCipher => f.write_str("the TLS provider cannot protect QUIC's Initial packets"),
            Self::Config(error) => write!(f, "the TLS configuration does not suit QUIC: {error}"),
        }
    }
}

impl std::error::Error for TlsError {}

/// QUIC version 1 (RFC 9000 §15), the only one offered.
pub(super) const VERSION_1: u32 = 1;
