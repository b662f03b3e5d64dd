//! The TLS configurations of listeners, QUIC's and those on byte streams: each for all shards and for the life of the
//! process. Certificates and authorities are exchanged inside them.
//!
//! Where clients are asked for a certificate no session is resumed. A resumption takes the certificate's word of the
//! handshake before (RFC 8446 §2.2), and rustls does not ask the verifier again: a client whose authority a reload has
//! taken away, or whose certificate has expired, would come in for ever, with each ticket for the next.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache};

use crate::certificate::{CurrentCertificate, provider};

/// ALPN of MQTT over QUIC: the OASIS name first, then the one that clients in the field use.
pub const PROTOCOLS: [&[u8]; 2] = [b"mqtt", b"mqttv5"];

/// Sessions of one QUIC listener that can be resumed, over all shards. A ticket is taken out of the store when it is used; one that has been
/// pushed out costs its client a full handshake, nothing more. About 1 KiB each.
const SESSIONS_MAX: usize = 16_384;

/// Tickets sent after a handshake: a client that reconnects uses one and gets another.
const TICKETS: usize = 1;

/// Sessions of one listener on byte streams that can be resumed. Each listener, QUIC's too, has its own: a session that was made where
/// nobody is asked for a certificate must not open the door where one is required.
const STREAM_SESSIONS_MAX: usize = 4_096;

/// TLS 1.3 for QUIC with the certificate of the moment: what `certificate` is exchanged for is seen by the next handshake.
///
/// # Errors
/// The provider lacks TLS 1.3.
pub fn server_config(
    certificate: Arc<CurrentCertificate>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let resumes = clients.is_none();
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    resume(&mut config, resumes, SESSIONS_MAX);
    Ok(config)
}

/// TLS 1.2 and 1.3 for byte streams; `protocol` is the name by which ALPN knows what is inside. A client that names none
/// is taken at its word that it speaks MQTT; one that names others is refused (RFC 7301 §3.2).
///
/// # Errors
/// The provider lacks a version.
pub fn stream_config(
    certificate: Arc<CurrentCertificate>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    protocol: &[u8],
) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(provider()));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let resumes = clients.is_none();
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![protocol.to_vec()];
    resume(&mut config, resumes, STREAM_SESSIONS_MAX);
    Ok(config)
}

/// Lets sessions be resumed, as many as are kept, or none.
fn resume(config: &mut ServerConfig, resumes: bool, sessions_max: usize) {
    if resumes {
        config.session_storage = ServerSessionMemoryCache::new(sessions_max);
        config.send_tls13_tickets = TICKETS;
    } else {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
}
