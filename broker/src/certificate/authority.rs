//! The authorities that vouch for clients: loaded from a file, exchanged while running.
//!
//! rustls asks one verifier for the life of a listener; this one hands the question on to that of the moment, which a
//! reload replaces as a whole. Listeners that name the same file share it, whether they demand certificates or not.
//! Clients are not told the authorities' names: they show what they have.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use super::{CertificateError, parse_chain, provider, read, words};

/// The authorities of one file.
#[derive(Debug)]
pub struct CurrentAuthorities {
    path: PathBuf,
    current: ArcSwap<Authorities>,
}

#[derive(Debug)]
struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl CurrentAuthorities {
    /// Loads a PEM file of authorities.
    ///
    /// # Errors
    /// A file that cannot be read, or holds no certificate that can be an authority.
    pub fn load(path: &Path) -> Result<Self, CertificateError> {
        let current = ArcSwap::from_pointee(Authorities::load(path)?);
        Ok(Self { path: path.to_owned(), current })
    }

    /// Loads the file anew, for handshakes from now on; on an error they go on with the old one. Returns whether the file
    /// holds others than before.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn reload(&self) -> Result<bool, CertificateError> {
        let new = Authorities::load(&self.path)?;
        let has_changed = new.certificates != self.current.load().certificates;
        if has_changed {
            self.current.store(Arc::new(new));
        }
        Ok(has_changed)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What rustls asks. If it is mandatory, a client without a certificate is refused.
    #[must_use]
    pub fn verifier(self: &Arc<Self>, is_mandatory: bool) -> Arc<dyn ClientCertVerifier> {
        Arc::new(Verifier { authorities: Arc::clone(self), is_mandatory })
    }
}

impl Authorities {
    fn load(path: &Path) -> Result<Self, CertificateError> {
        let error = |what: String| CertificateError { path: path.to_owned(), what };
        let certificates = read(path, parse_chain)?;
        let mut roots = RootCertStore::empty();
        for (index, authority) in certificates.iter().enumerate() {
            let refused = |said| error(words::of_certificate(&said, index + 1, certificates.len()));
            roots.add(authority.clone()).map_err(refused)?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider()));
        // Who must show one is decided above it.
        let verifier =
            builder.allow_unauthenticated().build().map_err(|refused| error(refused.to_string()))?;
        Ok(Self { certificates, verifier })
    }
}

/// The authorities of the moment, as one listener asks them.
#[derive(Debug)]
struct Verifier {
    authorities: Arc<CurrentAuthorities>,
    is_mandatory: bool,
}

impl ClientCertVerifier for Verifier {
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
        self.authorities.current.load().verifier.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.current.load().verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.current.load().verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.current.load().verifier.supported_verify_schemes()
    }
}
