//! Hash functions for what clients can choose: keyed, seeded, and the same on every run with the same seed.

use core::hash::{BuildHasher, Hasher};

use siphasher::sip::SipHasher13;

/// SipHash-1-3 under a key: for client identifiers and topics, where a peer chooses what is hashed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed {
    k0: u64,
    k1: u64,
}

impl Keyed {
    /// A hasher family for one purpose: `domain` keeps purposes apart under one seed.
    pub(crate) fn new(seed: u64, domain: u64) -> Self {
        Self { k0: seed, k1: domain }
    }

    /// The hash of one string.
    pub(crate) fn hash_str(&self, text: &str) -> u64 {
        let mut hasher = self.build_hasher();
        hasher.write(text.as_bytes());
        hasher.finish()
    }
}

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.k0, self.k1)
    }
}

/// A map whose keys a peer can choose.
pub(crate) type KeyedMap<K, V> = hashbrown::HashMap<K, V, Keyed>;

/// A map whose keys are our own.
pub(crate) type OwnMap<K, V> = hashbrown::HashMap<K, V, foldhash::fast::FixedState>;
