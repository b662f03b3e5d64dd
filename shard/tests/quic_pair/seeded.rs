//! The same seed, the same datagrams: with a deterministic TLS provider everything repeats.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use quelea_shard::quic::QuicSettings;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup,
};
use rustls::{Error, NamedGroup};

use crate::world::{Certificate, ClientRead, World};

/// Random numbers by a seed and a count of draws: no lock, and nothing between two worlds.
#[derive(Debug)]
struct Seeded {
    seed: u64,
    draws: AtomicU64,
}

impl Seeded {
    fn draw(&self, bytes: &mut [u8]) {
        let draw = self.draws.fetch_add(1, Ordering::Relaxed);
        StdRng::seed_from_u64(self.seed ^ draw << 20).fill_bytes(bytes);
    }
}

impl SecureRandom for Seeded {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        self.draw(bytes);
        Ok(())
    }
}

impl SupportedKxGroup for Seeded {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut secret = [0; 32];
        self.draw(&mut secret);
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

fn provider(seed: u64) -> Arc<CryptoProvider> {
    let seeded = || &*Box::leak(Box::new(Seeded { seed, draws: AtomicU64::new(0) }));
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.secure_random = seeded();
    provider.kx_groups = vec![seeded()];
    Arc::new(provider)
}

/// Some clients, some loss, some Retries, one that moves: the hash of all datagrams and their times.
fn story(certificate: &mut Certificate, seed: u64) -> u64 {
    certificate.provider = provider(seed);
    let settings = QuicSettings {
        handshakes_in_flight_retry: 3,
        connection_window: 64 * 1024,
        ..QuicSettings::default()
    };
    let mut world = World::new(&settings, 4, certificate);
    world.loss_percent = 5;
    world.broker.echo = true;
    for _ in 0..10 {
        world.client(certificate);
    }
    world.run(Duration::from_secs(20));
    let streams: Vec<_> = world.clients.iter_mut().map(|client| client.open()).collect();
    for (client, &stream) in world.clients.iter_mut().zip(&streams) {
        client.write(stream, &[7; 20_000]);
        client.finish(stream);
    }
    world.run(Duration::from_millis(50));
    world.clients[3].rebind(1_234);
    let mut back = vec![Vec::new(); 10];
    world.run_until(Duration::from_secs(60), |world| {
        let clients = world.clients.iter_mut().zip(&streams).zip(&mut back);
        clients.filter(|((client, _), _)| client.lost().is_none()).fold(
            true,
            |done, ((client, &stream), back)| {
                let end = client.read(stream, back);
                done & matches!(end, ClientRead::Finished | ClientRead::Gone)
            },
        )
    });
    assert!(back.iter().all(|bytes| bytes.len() == 20_000));
    world.trace
}

#[test]
fn a_seed_repeats_every_datagram_and_another_does_not() {
    let mut certificate = Certificate::new("localhost");
    let first = story(&mut certificate, 1);
    assert_eq!(story(&mut certificate, 1), first);
    assert_ne!(story(&mut certificate, 2), first);
}
