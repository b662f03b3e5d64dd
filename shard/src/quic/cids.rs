//! Draws our connection IDs: eight random bytes whose keyed hash names this shard.
//!
//! They are drawn again until the hash agrees, as often as there are shards on average, and stay indistinguishable
//! from random for whoever lacks the key: nothing correlates the IDs of one connection (RFC 9000 §5.1).

use std::time::Duration;

use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::steering::Steering;

/// The generator of one shard.
pub(super) struct SteeredCids {
    random: StdRng,
    steering: Steering,
    shard: usize,
}

impl SteeredCids {
    pub(super) fn new(seed: [u8; 32], steering: Steering, shard: usize) -> Self {
        Self { random: StdRng::from_seed(seed), steering, shard }
    }
}

impl ConnectionIdGenerator for SteeredCids {
    fn generate_cid(&mut self) -> ConnectionId {
        loop {
            let mut cid = [0; CID_BYTES];
            self.random.fill_bytes(&mut cid);
            if self.steering.shard_of_cid(cid) == self.shard {
                return ConnectionId::new(&cid);
            }
        }
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        let cid = <[u8; CID_BYTES]>::try_from(&cid[..]).map_err(|_| InvalidCid)?;
        (self.steering.shard_of_cid(cid) == self.shard).then_some(()).ok_or(InvalidCid)
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// What the steering rule reads.
const CID_BYTES: usize = 8;
