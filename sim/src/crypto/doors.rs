//! TLS over byte streams: the real rustls on both sides, 1.2 and 1.3, all of whose randomness comes from the seed. Clients
//! remember their sessions and take them up again, as real ones do.

use std::sync::Arc;

use quelea_shard::door::DoorTls;
use rustls::RootCertStore;

use super::tls::{StoppedClock, certificate, provider};

/// What clients over TLS begin with.
pub(crate) struct DoorClients {
    /// One that speaks 1.3, one that speaks 1.2 only, one that cuts what it writes into short records.
    configs: [Arc<rustls::ClientConfig>; 3],
}

impl DoorClients {
    /// One of them.
    pub(crate) fn any(&self, random: &mut fastrand::Rng) -> Arc<rustls::ClientConfig> {
        Arc::clone(&self.configs[random.usize(0..self.configs.len())])
    }
}

/// What clients and the broker of one run shake hands with over byte streams.
pub(crate) fn doors_of(seed: u64) -> (DoorClients, DoorTls) {
    let provider = provider(seed);
    let (certificate, key) = certificate();
    let builder = || {
        let builder =
            rustls::ServerConfig::builder_with_details(Arc::clone(&provider), Arc::new(StoppedClock));
        builder.with_safe_default_protocol_versions().expect("1.2 and 1.3")
    };
    let server = builder().with_no_client_auth().with_single_cert(vec![certificate.clone()], key);
    let server = DoorTls::new(server.expect("key and certificate belong together"));
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let roots = Arc::new(roots);
    let client = |versions: &[&'static rustls::SupportedProtocolVersion], record_bytes: Option<usize>| {
        let builder =
            rustls::ClientConfig::builder_with_details(Arc::clone(&provider), Arc::new(StoppedClock));
        let builder = builder.with_protocol_versions(versions).expect("served by the provider");
        let mut config = builder.with_root_certificates(Arc::clone(&roots)).with_no_client_auth();
        config.max_fragment_size = record_bytes;
        Arc::new(config)
    };
    let configs = [
        client(&[&rustls::version::TLS13], None),
        client(&[&rustls::version::TLS12], None),
        client(&[&rustls::version::TLS13, &rustls::version::TLS12], Some(RECORD_BYTES)),
    ];
    (DoorClients { configs }, server.expect("a valid configuration"))
}

/// Short enough that a small packet takes several records.
const RECORD_BYTES: usize = 64;
