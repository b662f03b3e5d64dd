//! The authorities that vouch for clients: loaded from a file, exchanged while running.
//!
//! rustls asks one verifier for the life of a listener; this one hands the question on to that of the moment, which a
//! reload replaces as a whole. Clients are not told the authorities' names: they show what they have.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use super::{CertificateError, parse_chain, provider};

/// The authorities of one listener.
#[derive(Debug)]
pub struct CurrentAuthorities {
    path: PathBuf,
    is_mandatory: bool,
    current: ArcSwap<Verifier>,
}

#[derive(Debug)]
struct Verifier(Arc<dyn ClientCertVerifier>);

impl CurrentAuthorities {
    /// Loads a PEM file of authorities. If it is mandatory, a client without a certificate is refused.
    ///
    /// # Errors
    /// A file that cannot be read, or holds no certificate that can be an authority.
    pub fn load(path: &Path, is_mandatory: bool) -> Result<Self, CertificateError> {
        let current = ArcSwap::from_pointee(Verifier(verifier(path)?));
        Ok(Self { path: path.to_owned(), is_mandatory, current })
    }

    /// Loads the file anew, for handshakes from now on; on an error they go on with the old one.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn reload(&self) -> Result<(), CertificateError> {
        self.current.store(Arc::new(Verifier(verifier(&self.path)?)));
        Ok(())
    }
}

fn verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, CertificateError> {
    let error = |what: String| CertificateError { path: path.to_owned(), what };
    let pem = std::fs::read(path).map_err(|refused| error(refused.to_string()))?;
    let mut roots = RootCertStore::empty();
    for authority in parse_chain(&pem).map_err(error)? {
        roots.add(authority).map_err(|refused| error(refused.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider()));
    // Who must show one is decided above it.
    builder.allow_unauthenticated().build().map_err(|refused| error(refused.to_string()))
}

impl ClientCertVerifier for CurrentAuthorities {
    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.current.load().0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.current.load().0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.current.load().0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current.load().0.supported_verify_schemes()
    }
}
