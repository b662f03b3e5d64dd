//! The two kinds of cryptography that QUIC is played with, both functions of the seed, and the one of TLS over byte streams.

mod doors;
mod null;
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quelea_client::quic::crypto::ClientConfig;
use quelea_shard::quic::{Quic, QuicKeys, QuicSettings, QuicTls};
use quelea_shard::steering::Steering;
use quinn_proto::ConnectionId;

pub(crate) use doors::{DoorClients, doors_of};
use null::Null;

/// How QUIC's packets are protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Crypto {
    /// A handshake of three messages and a checksum for each packet: most of the time goes to the broker.
    #[default]
    Null,
    /// The real rustls, all of whose randomness comes from the seed.
    Tls,
}

impl Crypto {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Tls => "tls",
        }
    }

    /// The one of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Null, Self::Tls].into_iter().find(|crypto| crypto.name() == name)
    }
}

/// The name that the broker's certificate is for.
pub(crate) const SERVER_NAME: &str = "localhost";

/// What both sides of one run shake hands with.
pub(crate) struct Handshakes {
    pub(crate) client: Arc<dyn ClientConfig>,
    server: Server,
    keys: QuicKeys,
    pub(crate) steering: Steering,
}

enum Server {
    Null(Arc<Null>),
    Tls(Arc<QuicTls>),
}

impl Handshakes {
    pub(crate) fn new(crypto: Crypto, shards: usize, random: &mut fastrand::Rng) -> Self {
        let mut keys = QuicKeys { reset_key: [0; 64], token_key: [0; 64], steering_key: [0; 16] };
        random.fill(&mut keys.reset_key);
        random.fill(&mut keys.token_key);
        random.fill(&mut keys.steering_key);
        let steering = Steering::new(keys.steering_key, shards);
        let seed = random.u64(..);
        let (client, server): (Arc<dyn ClientConfig>, Server) = match crypto {
            Crypto::Null => (Arc::new(Null), Server::Null(Arc::new(Null))),
            Crypto::Tls => {
                let (client, server) = tls::both_sides(seed);
                (client, Server::Tls(server))
            }
        };
        Self { client, server, keys, steering }
    }

    /// The QUIC half of one shard.
    pub(crate) fn shard(&self, settings: &QuicSettings, shard: usize, seed: [u8; 32]) -> Quic {
        let shards = self.steering.shards();
        match &self.server {
            Server::Null(null) => Quic::new(settings, &self.keys, Arc::clone(null), shard, shards, seed),
            Server::Tls(tls) => Quic::new(settings, &self.keys, Arc::clone(tls), shard, shards, seed),
        }
    }

    /// First connection IDs that lead to this shard.
    pub(crate) fn aimed_at(&self, shard: usize, seed: u64) -> Arc<dyn Fn() -> ConnectionId + Send + Sync> {
        let steering = self.steering;
        let draws = AtomicU64::new(seed);
        Arc::new(move || {
            loop {
                let draw = draws.fetch_add(1, Ordering::Relaxed);
                let mut random = fastrand::Rng::with_seed(draw);
                let mut cid = [0; 12];
                random.fill(&mut cid);
                let first = *cid.first_chunk().expect("it has twelve bytes");
                if steering.shard_of_cid(first) == shard {
                    return ConnectionId::new(&cid);
                }
            }
        })
    }
}
