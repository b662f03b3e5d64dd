//! Connection IDs from a seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quinn_proto::{ConnectionId, ConnectionIdGenerator};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Random connection IDs of eight bytes, a function of the seed.
#[derive(Debug)]
pub struct SeededCids(StdRng);

impl SeededCids {
    /// A generator; equal seeds give equal sequences.
    pub fn new(seed: [u8; 32]) -> Self {
        Self(StdRng::from_seed(seed))
    }
}

impl ConnectionIdGenerator for SeededCids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut cid = [0; CID_BYTES];
        self.0.fill_bytes(&mut cid);
        ConnectionId::new(&cid)
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// First destinations (RFC 9000 §7.2): quinn-proto asks through `&`, so each draw is a function of the seed and of a count.
pub(super) fn initial_cids(seed: [u8; 32]) -> Arc<dyn Fn() -> ConnectionId + Send + Sync> {
    let draws = AtomicU64::new(0);
    Arc::new(move || {
        let mut seed = seed;
        // One endpoint belongs to one thread; the count only has to be its own.
        let draw = draws.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        seed.iter_mut().zip(draw).for_each(|(byte, count)| *byte ^= count);
        SeededCids::new(seed).generate_cid()
    })
}

/// RFC 9000 §7.2 demands at least as many of a first destination.
const CID_BYTES: usize = 8;
