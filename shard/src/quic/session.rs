//! One connection's TLS, for as long as it needs any: our `crypto::Session` over rustls.
//!
//! ```text
//! handshake ── Finished from the client, tickets written ──▶ established
//! TLS object, 4 KB                                           protocol, exporter value, certificates, next secrets
//! ```
//!
//! rustls keeps its whole state machine, buffers and record layer after the handshake, none of which QUIC uses again.
//! So the object is dropped as soon as it has nothing more to say; what may still be asked is taken out before. Keys
//! of the next key phase are derived when the first packet of that phase appears, not in advance: most connections
//! never see one, and a stranger can force the derivation at most once per phase. Together this saves 3.5 KB of the
//! 17.6 KB of an idle connection.

use std::any::Any;
use std::io::Cursor;
use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use quinn_proto::crypto::{
    CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::pki_types::CertificateDer;
use rustls::quic::{Connection, KeyChange, Secrets, ServerConnection};

use super::event::Alpn;
use super::tls::QuicTls;

/// The session of one connection.
pub(super) struct TlsSession {
    shared: Arc<QuicTls>,
    /// Gone once the handshake is over and the tickets are out.
    tls: Option<Box<Connection>>,
    phase: Option<NextPhase>,
    alpn: Option<Alpn>,
    certificates: Option<Box<[CertificateDer<'static>]>>,
    channel_binding: [u8; CHANNEL_BINDING_BYTES],
}

/// What [`Session::handshake_data`] returns for a connection of this listener.
#[derive(Clone, Copy, Debug)]
pub struct Negotiated {
    /// The protocol that the connection speaks.
    pub alpn: Alpn,
}

impl TlsSession {
    pub(super) fn new(shared: Arc<QuicTls>, tls: ServerConnection) -> Self {
        Self {
            shared,
            tls: Some(Box::new(tls.into())),
            phase: None,
            alpn: None,
            certificates: None,
            channel_binding: [0; CHANNEL_BINDING_BYTES],
        }
    }

    /// Drops the TLS object if it has done its work, after taking out what outlives it.
    fn retire_tls(&mut self) {
        let finished = |tls: &mut Box<Connection>| !tls.is_handshaking();
        let Some(tls) = self.tls.take_if(finished) else { return };
        self.alpn = tls.alpn_protocol().and_then(Alpn::from_name);
        self.certificates =
            tls.peer_certificates().map(|chain| chain.iter().map(|c| c.clone().into_owned()).collect());
        tls.export_keying_material(&mut self.channel_binding, CHANNEL_BINDING_LABEL, Some(&[]))
            .expect("the handshake is complete and 32 bytes are within the exporter's limit");
    }
}

impl Session for TlsSession {
    fn initial_keys(&self, cid: &ConnectionId, side: Side) -> Keys {
        self.shared.initial_keys_of(cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let alpn = self.alpn.or_else(|| self.tls.as_ref()?.alpn_protocol().and_then(Alpn::from_name))?;
        Some(Box::new(Negotiated { alpn }))
    }

    /// The client's certificate chain as `Vec<CertificateDer>`, its own certificate first.
    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.certificates.as_ref().map(|chain| -> Box<dyn Any> { Box::new(chain.to_vec()) })
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    fn read_handshake(&mut self, message: &[u8]) -> Result<bool, TransportError> {
        let Some(tls) = self.tls.as_mut() else {
            // No client may send a TLS message after its Finished in QUIC (RFC 9001 §4.4, §6).
            let code = TransportErrorCode::crypto(ALERT_UNEXPECTED_MESSAGE);
            return Err(error(code, "TLS message after the handshake".into()));
        };
        tls.read_hs(message).map_err(|cause| {
            let code = tls.alert().map_or(TransportErrorCode::PROTOCOL_VIOLATION, |alert| {
                TransportErrorCode::crypto(alert.into())
            });
            error(code, cause.to_string())
        })?;
        Ok(false)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(raw) = self.tls.as_ref().and_then(|tls| tls.quic_transport_parameters()) else {
            return Ok(None);
        };
        Ok(Some(TransportParameters::read(Side::Server, &mut Cursor::new(raw))?))
    }

    fn write_handshake(&mut self, message: &mut Vec<u8>) -> Option<Keys> {
        let tls = self.tls.as_mut()?;
        let change = tls.write_hs(message);
        if change.is_none() && message.is_empty() {
            self.retire_tls();
        }
        let keys = match change? {
            KeyChange::Handshake { keys } => keys,
            KeyChange::OneRtt { keys, next } => {
                self.phase = Some(NextPhase::first(&*keys.local.packet, next));
                keys
            }
        };
        Some(Keys {
            header: KeyPair { local: Box::new(keys.local.header), remote: Box::new(keys.remote.header) },
            packet: KeyPair { local: Box::new(keys.local.packet), remote: Box::new(keys.remote.packet) },
        })
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.phase.as_mut().map(NextPhase::begin)
    }

    fn is_valid_retry(&self, _: &ConnectionId, _: &[u8], _: &[u8]) -> bool {
        // Only servers send Retry.
        false
    }

    /// Answers for one exporter only, `EXPORTER-Channel-Binding` without a context (RFC 9266), which outlives TLS.
    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let known = label == CHANNEL_BINDING_LABEL && context.is_empty() && self.tls.is_none();
        if !known || output.len() != CHANNEL_BINDING_BYTES {
            return Err(ExportKeyingMaterialError);
        }
        output.copy_from_slice(&self.channel_binding);
        Ok(())
    }
}

fn error(code: TransportErrorCode, reason: String) -> TransportError {
    TransportError { code, frame: None, reason }
}

/// Hands out the keys of one key phase after another (RFC 9001 §6).
struct NextPhase {
    secrets: Arc<SharedSecrets>,
    latest: Option<Arc<LazyKeys>>,
    limits: Limits,
}

/// How often a key may be used; the same in every phase (RFC 9001 §6.6).
#[derive(Clone, Copy)]
struct Limits {
    tag_bytes: usize,
    confidentiality: u64,
    integrity: u64,
}

impl NextPhase {
    fn first(present: &dyn rustls::quic::PacketKey, secrets: Secrets) -> Self {
        let limits = Limits {
            tag_bytes: present.tag_len(),
            confidentiality: present.confidentiality_limit(),
            integrity: present.integrity_limit(),
        };
        Self { secrets: Arc::new(SharedSecrets::new(secrets)), latest: None, limits }
    }

    fn begin(&mut self) -> KeyPair<Box<dyn PacketKey>> {
        // The secrets form a chain: a phase has to be derived before the one after it.
        if let Some(latest) = &self.latest {
            latest.pair();
        }
        let keys = Arc::new(LazyKeys {
            secrets: Arc::clone(&self.secrets),
            pair: OnceLock::new(),
            limits: self.limits,
        });
        self.latest = Some(Arc::clone(&keys));
        KeyPair { local: Box::new(LocalKey(Arc::clone(&keys))), remote: Box::new(RemoteKey(keys)) }
    }
}

/// The secrets of the phases to come.
///
/// rustls steps them through `&mut`, while quinn-proto uses keys through `&` and wants them `Sync`; hence the lock. It
/// is taken once per key phase, by the one shard that owns the connection, and nobody ever waits for it.
#[expect(clippy::disallowed_types, reason = "never shared between threads: see the type's comment")]
struct SharedSecrets(std::sync::Mutex<Secrets>);

impl SharedSecrets {
    #[expect(clippy::disallowed_types, reason = "as above")]
    fn new(secrets: Secrets) -> Self {
        Self(std::sync::Mutex::new(secrets))
    }

    fn derive(&self) -> DerivedKeys {
        let keys = self.0.lock().expect("nothing panics while it holds the secrets").next_packet_keys();
        DerivedKeys { local: keys.local, remote: keys.remote }
    }
}

struct DerivedKeys {
    local: Box<dyn rustls::quic::PacketKey>,
    remote: Box<dyn rustls::quic::PacketKey>,
}

/// Both keys of one phase, derived on first use.
struct LazyKeys {
    secrets: Arc<SharedSecrets>,
    pair: OnceLock<DerivedKeys>,
    limits: Limits,
}

impl LazyKeys {
    fn pair(&self) -> &DerivedKeys {
        self.pair.get_or_init(|| self.secrets.derive())
    }
}

/// Seals what we send in its phase.
struct LocalKey(Arc<LazyKeys>);

/// Opens what the peer sends in its phase.
struct RemoteKey(Arc<LazyKeys>);

/// Either direction: rustls' key does the work, quinn-proto's adapter for boxed keys knows the packet's layout.
macro_rules! lazy_packet_key {
    ($key:ident, $direction:ident) => {
        impl PacketKey for $key {
            fn encrypt(&self, packet: u64, buffer: &mut [u8], header_bytes: usize) {
                PacketKey::encrypt(&self.0.pair().$direction, packet, buffer, header_bytes);
            }

            fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
                PacketKey::decrypt(&self.0.pair().$direction, packet, header, payload)
            }

            fn tag_len(&self) -> usize {
                self.0.limits.tag_bytes
            }

            fn confidentiality_limit(&self) -> u64 {
                self.0.limits.confidentiality
            }

            fn integrity_limit(&self) -> u64 {
                self.0.limits.integrity
            }
        }
    };
}

lazy_packet_key!(LocalKey, local);
lazy_packet_key!(RemoteKey, remote);

/// TLS alert `unexpected_message` (RFC 8446 §6).
const ALERT_UNEXPECTED_MESSAGE: u8 = 10;

/// The one exporter value that is kept: it binds an authentication exchange to this connection (RFC 9266 §2).
const CHANNEL_BINDING_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
const CHANNEL_BINDING_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::quic::{ClientConnection, Version};

    use super::*;

    /// Shakes hands without a network; returns the server's present key and both sides' secrets of the next phases.
    fn shake_hands() -> (Box<dyn rustls::quic::PacketKey>, Secrets, Secrets) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let parameters = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("a valid name");
        let certificate = parameters.self_signed(&key).expect("a certificate").der().clone();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = &[&rustls::version::TLS13];
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).expect("a certificate");
        let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .expect("key and certificate belong together");
        let name = "localhost".try_into().expect("a name");
        let client = ClientConnection::new(Arc::new(client), Version::V1, name, Vec::new()).expect("valid");
        let server = ServerConnection::new(Arc::new(server), Version::V1, Vec::new()).expect("valid");
        let mut ends = [Connection::from(client), Connection::from(server)];
        let mut secrets = [None, None];
        let mut present = None;
        while ends.iter().any(|end| end.is_handshaking()) || secrets.iter().any(Option::is_none) {
            for side in 0..2 {
                let mut message = Vec::new();
                if let Some(KeyChange::OneRtt { keys, next }) = ends[side].write_hs(&mut message) {
                    secrets[side] = Some(next);
                    present = Some(keys.local.packet);
                }
                ends[1 - side].read_hs(&message).expect("both are honest");
            }
        }
        let [client, server] = secrets.map(|secrets| secrets.expect("the handshake is complete"));
        (present.expect("either side's will do"), client, server)
    }

    /// Whether the server's key opens what the client's has sealed.
    fn opens(server: &dyn PacketKey, client: &dyn rustls::quic::PacketKey) -> bool {
        let mut payload = *b"payload";
        let tag = client.encrypt_in_place(3, b"header", &mut payload).expect("sealed");
        let mut packet = BytesMut::from(&payload[..]);
        packet.extend_from_slice(tag.as_ref());
        server.decrypt(3, b"header", &mut packet).is_ok() && packet[..] == b"payload"[..]
    }

    #[test]
    fn phases_keep_their_keys_in_whatever_order_they_are_used_first() {
        let (present, mut client, server) = shake_hands();
        let theirs = [
            client.next_packet_keys().local,
            client.next_packet_keys().local,
            client.next_packet_keys().local,
        ];
        let mut phases = NextPhase::first(&*present, server);
        let ours = [phases.begin().remote, phases.begin().remote, phases.begin().remote];
        for phase in [2, 0, 1] {
            for (other, key) in theirs.iter().enumerate() {
                assert_eq!(opens(&*ours[phase], &**key), phase == other, "{phase}, {other}");
            }
        }
    }
}
