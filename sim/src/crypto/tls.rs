//! The real rustls, repeatable: a provider whose random numbers and X25519 keys come from the seed, an Ed25519 certificate
//! (its signatures need no random numbers), and a clock that stands still.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use quelea_client::quic::crypto::ClientConfig;
use quelea_client::quic::crypto::rustls::QuicClientConfig;
use quelea_shard::quic::QuicTls;
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{Error, NamedGroup, RootCertStore};

/// What clients and the broker of one run shake hands with.
pub(super) fn both_sides(seed: u64) -> (Arc<dyn ClientConfig>, Arc<QuicTls>) {
    let provider = provider(seed);
    let (certificate, key) = certificate();
    (client(&provider, certificate.clone()), server(&provider, certificate, key))
}

/// A provider whose random numbers come from the seed, as long as this thread plays this run.
pub(super) fn provider(seed: u64) -> Arc<CryptoProvider> {
    STATE.set(seed);
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.secure_random = &Seeded;
    provider.kx_groups = vec![&Seeded];
    Arc::new(provider)
}

fn client(provider: &Arc<CryptoProvider>, certificate: CertificateDer<'static>) -> Arc<dyn ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let mut config = rustls::ClientConfig::builder_with_details(Arc::clone(provider), Arc::new(StoppedClock))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    Arc::new(QuicClientConfig::try_from(config).expect("the provider serves QUIC"))
}

fn server(
    provider: &Arc<CryptoProvider>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Arc<QuicTls> {
    let mut config = rustls::ServerConfig::builder_with_details(Arc::clone(provider), Arc::new(StoppedClock))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("key and certificate belong together");
    config.alpn_protocols = vec![b"mqtt".to_vec(), b"mqttv5".to_vec()];
    QuicTls::new(config).expect("a valid configuration")
}

/// The same certificate in every run.
pub(super) fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let pkcs8 = PrivatePkcs8KeyDer::from([&ED25519_PKCS8[..], &[7; 32]].concat());
    let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ED25519);
    let key = key.expect("any 32 bytes are a key");
    let parameters = rcgen::CertificateParams::new(vec![super::SERVER_NAME.to_owned()]);
    let certificate = parameters.expect("a valid name").self_signed(&key).expect("a certificate");
    (certificate.der().clone(), PrivateKeyDer::Pkcs8(pkcs8))
}

thread_local! {
    /// rustls wants sources of random numbers that live as long as the process: they serve the run that this thread plays.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

#[derive(Debug)]
struct Seeded;

impl Seeded {
    fn draw(bytes: &mut [u8]) {
        let mut random = fastrand::Rng::with_seed(STATE.get());
        random.fill(bytes);
        STATE.set(random.u64(..));
    }
}

impl SecureRandom for Seeded {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        Self::draw(bytes);
        Ok(())
    }
}

impl SupportedKxGroup for Seeded {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut secret = [0; 32];
        Self::draw(&mut secret);
        let private = PrivateKey::from_private_key(&X25519, &secret).expect("any 32 bytes are a key");
        let public = private.compute_public_key().expect("a key has a public half").as_ref().to_vec();
        Ok(Box::new(Exchange { private, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    private: PrivateKey,
    public: Vec<u8>,
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let failed = Error::General("key exchange".into());
        agree(&self.private, UnparsedPublicKey::new(&X25519, peer), failed, |secret| {
            Ok(SharedSecret::from(secret))
        })
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

#[derive(Debug)]
pub(super) struct StoppedClock;

impl TimeProvider for StoppedClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000)))
    }
}

/// What stands before the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410 §7).
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2E, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
