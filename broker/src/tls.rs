//! The TLS configuration of QUIC listeners: one for all shards and for the life of the process.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::ServerSessionMemoryCache;

use crate::certificate::{CurrentCertificate, provider};

/// ALPN of MQTT over QUIC: the OASIS name first, then the one that clients in the field use.
pub const PROTOCOLS: [&[u8]; 2] = [b"mqtt", b"mqttv5"];

/// Sessions that can be resumed, over all shards. A ticket is taken out of the store when it is used; one that has been
/// pushed out costs its client a full handshake, nothing more. About 1 KiB each.
const SESSIONS_MAX: usize = 16_384;

/// Tickets sent after a handshake: a client that reconnects uses one and gets another.
const TICKETS: usize = 1;

/// TLS 1.3 with the certificate of the moment: what `certificate` is exchanged for is seen by the next handshake.
///
/// # Errors
/// The provider lacks TLS 1.3.
pub fn server_config(certificate: Arc<CurrentCertificate>) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificate);
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
    config.send_tls13_tickets = TICKETS;
    Ok(config)
}
