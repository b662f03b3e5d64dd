//! The certificates that clients see: loaded from files, or made for development, and exchanged while running.
//!
//! ```text
//!   tls.certificate, tls.key ──load──►┐
//!                                     ├─► Certificate ─► ArcSwap ─► each new handshake
//!   data directory ──load or make────►┘        ▲
//!                                 SIGHUP: loaded anew; an invalid one changes nothing
//! ```
//!
//! A handshake reads the current certificate through [`ArcSwap`], without a lock; connections that exist keep theirs.

mod authority;
mod development;
mod validity;
mod words;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::InconsistentKeys;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::state_dir::StateDir;

pub use authority::CurrentAuthorities;
pub use development::PUBLIC_FILE as DEVELOPMENT_PUBLIC_FILE;

/// Where a certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// PEM files of the operator.
    Files {
        /// Chain, leaf first.
        certificate: PathBuf,
        /// Private key of the leaf.
        key: PathBuf,
    },
    /// Made by the broker in its data directory, for a year, renewed in its last 30 days.
    Development,
}

/// A certificate that matches its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    fingerprint: [u8; 32],
    not_after: SystemTime,
}

/// Why a certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.what)
    }
}

impl std::error::Error for CertificateError {}

impl Certificate {
    /// Loads a chain and its key, both PEM, and checks that they belong together.
    ///
    /// # Errors
    /// A file that cannot be read, holds no PEM of its kind, or a key of another certificate.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let chain = read(certificate, parse_chain)?;
        let key = read(key, parse_key)?;
        Self::new(chain, key).map_err(|what| CertificateError { path: certificate.to_owned(), what })
    }

    /// Everything that is wrong with the two files, or with the one of them that there is, not only the first.
    #[must_use]
    pub fn problems_of_files(
        certificate: Option<&Path>,
        key: Option<&Path>,
        now: SystemTime,
    ) -> Vec<CertificateError> {
        let chain = certificate.map(|path| (path, read(path, parse_chain)));
        let key = key.map(|path| read(path, parse_key));
        let mut problems = Vec::new();
        let chain = chain.and_then(|(path, chain)| Some((path, kept(chain, &mut problems)?)));
        let key = key.and_then(|key| kept(key, &mut problems));
        let Some((path, chain)) = chain else { return problems };
        let mut note = |what: String| problems.push(CertificateError { path: path.to_owned(), what });
        match Leaf::of(&chain) {
            Ok(leaf) if leaf.not_after <= now => note("has expired".to_owned()),
            Ok(_) => {}
            Err(what) => note(what),
        }
        if let Some(key) = key {
            Self::new(chain, key).err().into_iter().for_each(note);
        }
        problems.dedup();
        problems
    }

    /// Loads `source`; a development certificate is made or renewed where needed, as of `now`.
    ///
    /// # Errors
    /// As [`Self::from_files`]; for development also what the data directory refuses.
    pub fn load(source: &Source, state: &StateDir, now: SystemTime) -> Result<Self, CertificateError> {
        match source {
            Source::Files { certificate, key } => Self::from_files(certificate, key),
            Source::Development => development::load_or_make(state, now),
        }
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: Arc<dyn SigningKey>) -> Result<Self, String> {
        let Leaf { fingerprint, not_after } = Leaf::of(&chain)?;
        let count = chain.len();
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            // A key that does not tell its public half is believed.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err("does not belong to the private key: expected the certificate of that key first"
                    .to_owned());
            }
            Err(error) => return Err(words::of_certificate(&error, 1, count)),
        }
        Ok(Self { key: Arc::new(key), fingerprint, not_after })
    }

    /// SHA-256 of the leaf, as `openssl x509 -fingerprint -sha256` prints it: `AB:CD:…`.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let pairs: Vec<String> = self.fingerprint.iter().map(|byte| format!("{byte:02X}")).collect();
        pairs.join(":")
    }

    /// End of the leaf's validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The leaf in DER.
    #[must_use]
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.key.cert[0]
    }

    /// Whether it is the same chain: then the key is the same, too.
    #[must_use]
    pub fn has_chain_of(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }

    /// Whether its validity ends within `within` after `now`.
    #[must_use]
    pub fn expires_within(&self, within: Duration, now: SystemTime) -> bool {
        self.not_after <= now + within
    }
}

/// What we read ourselves out of the first certificate of a chain.
struct Leaf {
    fingerprint: [u8; 32],
    not_after: SystemTime,
}

impl Leaf {
    fn of(chain: &[CertificateDer<'static>]) -> Result<Self, String> {
        let leaf = chain.first().ok_or("holds no certificate")?;
        let damaged = || words::of_certificate(&rustls::CertificateError::BadEncoding.into(), 1, chain.len());
        let not_after = validity::not_after(leaf).ok_or_else(damaged)?;
        Ok(Self { fingerprint: sha256(leaf), not_after })
    }
}

/// The certificate in use, exchanged while handshakes run.
#[derive(Debug)]
pub struct CurrentCertificate {
    source: Source,
    current: ArcSwap<Certificate>,
}

impl CurrentCertificate {
    /// Loads `source` for the first time.
    ///
    /// # Errors
    /// As [`Certificate::load`].
    pub fn load(source: Source, state: &StateDir, now: SystemTime) -> Result<Self, CertificateError> {
        let first = Certificate::load(&source, state, now)?;
        Ok(Self { source, current: ArcSwap::from_pointee(first) })
    }

    /// Loads the source anew. Handshakes that begin afterwards see the new certificate; on an error they go on with the
    /// old one.
    ///
    /// # Errors
    /// As [`Certificate::load`]; also when the new one has expired and the old one has not.
    pub fn reload(&self, state: &StateDir, now: SystemTime) -> Result<Arc<Certificate>, CertificateError> {
        let new = Certificate::load(&self.source, state, now)?;
        if new.expires_within(Duration::ZERO, now) && !self.get().expires_within(Duration::ZERO, now) {
            let path = match &self.source {
                Source::Files { certificate, .. } => certificate.clone(),
                Source::Development => state.path().to_owned(),
            };
            return Err(CertificateError { path, what: "has expired".to_owned() });
        }
        let new = Arc::new(new);
        self.current.store(Arc::clone(&new));
        Ok(new)
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The certificate in use.
    #[must_use]
    pub fn get(&self) -> Arc<Certificate> {
        self.current.load_full()
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().key))
    }
}

/// The cryptography of every TLS handshake.
pub(crate) fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

/// Reads a file and takes out of it what is wanted.
fn read<T>(path: &Path, parse: fn(&[u8]) -> Result<T, String>) -> Result<T, CertificateError> {
    let contents = std::fs::read(path).map_err(|error| words::of_io(&error));
    let parsed = contents.and_then(|contents| parse(&contents));
    parsed.map_err(|what| CertificateError { path: path.to_owned(), what })
}

fn parse_chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| words::of_pem(&error, words::CERTIFICATE, pem))?;
    if chain.is_empty() {
        return Err(words::of_missing(words::CERTIFICATE, pem));
    }
    Ok(chain)
}

fn parse_key(pem: &[u8]) -> Result<Arc<dyn SigningKey>, String> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls_pki_types::pem::Error::NoItemsFound => words::of_missing(words::KEY, pem),
        other => words::of_pem(&other, words::KEY, pem),
    })?;
    provider().key_provider.load_private_key(key).map_err(|_| words::of_key())
}

/// The value; its error goes to the others.
fn kept<T>(result: Result<T, CertificateError>, problems: &mut Vec<CertificateError>) -> Option<T> {
    result.map_err(|error| problems.push(error)).ok()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
