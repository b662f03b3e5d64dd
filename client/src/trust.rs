//! Which server certificate is believed, and which one the client shows, for QUIC and for TLS over TCP (feature `tls-core`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::aws_lc_rs::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Whom to believe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// The roots of this machine.
    #[default]
    System,
    /// The certificates of a PEM file, and no others.
    CaFile(PathBuf),
    /// Exactly the certificate with this fingerprint, whatever its name, issuer and dates say.
    Fingerprint(Fingerprint),
    /// Whatever certificate the server shows: for tests and measurements. Who listens in between is believed, too.
    Anyone,
}

/// Who the client is, to servers that ask for a certificate: two PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The client's certificate first, then those that lead to an authority that the server knows.
    pub certificate: PathBuf,
    /// The key of the first certificate, not encrypted.
    pub key: PathBuf,
}

/// Where TLS is used, which decides on its versions and its application protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// QUIC: TLS 1.3 with ALPN `mqtt`.
    Quic,
    /// MQTT or WebSocket over TCP: TLS 1.2 and 1.3 without ALPN, which brokers need not know.
    Tcp,
}

/// TLS cannot be set up: certificates that cannot be read, a machine without roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustError(String);

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TrustError {}

/// The SHA-256 of a certificate in DER.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// From its 32 bytes.
    pub const fn new(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }

    /// The fingerprint of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Self {
        let hash = digest(&SHA256, certificate);
        Self(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// From 64 hexadecimal digits; colons between them are ignored, as `openssl x509 -fingerprint -sha256` prints them.
    pub fn parse(text: &str) -> Option<Self> {
        let mut digits = text.chars().filter(|c| *c != ':').map(|c| c.to_digit(16));
        let mut bytes = [0; 32];
        for byte in &mut bytes {
            let (high, low) = (digits.next()??, digits.next()??);
            *byte = (high * 16 + low) as u8;
        }
        digits.next().is_none().then_some(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// A configuration for [`Use`]; without an `identity` servers that ask for a certificate are told that there is none. Reads files:
/// call it where that may block.
///
/// # Errors
/// No root certificate was found, a file cannot be read, or the key is not that of the certificate.
pub fn client_config(
    trust: &Trust,
    identity: Option<&Identity>,
    used_for: Use,
) -> Result<ClientConfig, TrustError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions: &[_] = match used_for {
        Use::Quic => &[&rustls::version::TLS13],
        Use::Tcp => &[&rustls::version::TLS13, &rustls::version::TLS12],
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| TrustError(error.to_string()))?;
    let pinned = |to| Arc::new(Pinned { to, provider });
    let builder = match trust {
        Trust::System => builder.with_root_certificates(system_roots()?),
        Trust::CaFile(path) => builder.with_root_certificates(roots_of(path)?),
        Trust::Fingerprint(to) => builder.dangerous().with_custom_certificate_verifier(pinned(Some(*to))),
        Trust::Anyone => builder.dangerous().with_custom_certificate_verifier(pinned(None)),
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = certificates_of(&identity.certificate)?;
            builder
                .with_client_auth_cert(chain, key_of(&identity.key)?)
                .map_err(|error| not_ours(identity, &error))?
        }
    };
    if used_for == Use::Quic {
        config.alpn_protocols = vec![ALPN.to_vec()];
    }
    Ok(config)
}

fn system_roots() -> Result<RootCertStore, TrustError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Machines carry roots that no library reads; one usable root is enough to go on.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(TrustError(
            "this machine has no root certificates: give a CA file or a fingerprint".into(),
        ));
    }
    Ok(roots)
}

fn roots_of(path: &Path) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_of(path)? {
        roots.add(certificate).map_err(|error| fault(path, &error))?;
    }
    Ok(roots)
}

/// At least one.
fn certificates_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let found = CertificateDer::pem_file_iter(path).map_err(|error| fault(path, &error))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| fault(path, &error))?;
    if found.is_empty() {
        return Err(fault(path, &"no certificate in this file"));
    }
    Ok(found)
}

fn key_of(path: &Path) -> Result<PrivateKeyDer<'static>, TrustError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        pem::Error::NoItemsFound => fault(path, &"no private key in this file, or an encrypted one"),
        error => fault(path, &error),
    })
}

fn not_ours(identity: &Identity, error: &rustls::Error) -> TrustError {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            let what = format!("this is not the key of {}", identity.certificate.display());
            fault(&identity.key, &what)
        }
        error => fault(&identity.certificate, error),
    }
}

fn fault(path: &Path, what: &dyn fmt::Display) -> TrustError {
    TrustError(format!("{}: {what}", path.display()))
}

/// Believes one certificate, or any. That the server holds its key is checked as always.
#[derive(Debug)]
struct Pinned {
    to: Option<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.to.is_none_or(|fingerprint| Fingerprint::of(end_entity) == fingerprint) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// MQTT over QUIC, one stream.
const ALPN: &[u8] = b"mqtt";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_they_are_written() {
        let fingerprint = Fingerprint::of(b"certificate");
        let text = fingerprint.to_string();
        assert_eq!(Fingerprint::parse(&text), Some(fingerprint));
        assert_eq!(Fingerprint::parse(&text.replace(':', "").to_lowercase()), Some(fingerprint));
        assert_eq!(Fingerprint::parse(&text[1..]), None);
        assert_eq!(Fingerprint::parse(&format!("{text}0")), None);
        assert_eq!(Fingerprint::parse("zz"), None);
    }

    #[test]
    fn a_ca_file_that_cannot_be_used_is_named() {
        let error =
            client_config(&Trust::CaFile("/no/such/file.pem".into()), None, Use::Quic).expect_err("no file");
        assert!(error.to_string().contains("/no/such/file.pem"), "{error}");
    }
}
