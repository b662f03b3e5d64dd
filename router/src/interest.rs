//! What the other shards want: filter → the shards that have a subscriber for it.
//!
//! Every shard holds a copy, kept by announcements: a shard announces a filter when it gets its first
//! subscriber and takes the announcement back with its last. A PUBLISH is matched here once and goes to each
//! shard of the result in one envelope, however many subscribers wait there.
//!
//! No text is kept: an exact filter is a 64-bit keyed fingerprint (12 bytes with its shards), a wildcard filter
//! a path of fingerprints in a trie. Two filters with one fingerprint can at worst cause an envelope that its
//! receiver finds no subscriber for; so that one of them can go without taking the other's interest with it, a
//! shard's second announcement of a fingerprint is counted.
//!
//! A million filters on sixteen shards are fifteen million entries, so one is kept small: its shards are a
//! single number, a shard's own or, when several shards share the filter, that of a set kept aside.

use hashbrown::HashTable;
use quelea_mqtt::{TopicFilter, TopicName};

use crate::hash::KeyedHash;
use crate::paths::Paths;
use crate::shards::{SHARDS_MAX, ShardId, ShardSet};
use crate::slab::Slab;

/// The interest of the other shards.
pub struct Interest {
    hash: KeyedHash,
    exact: HashTable<Exact>,
    /// Second and further announcements of a fingerprint by one shard: true collisions, so nearly always empty.
    again: HashTable<Again>,
    wildcard: Paths,
    sets: Sets,
}

/// A fingerprint in two halves, so that the entry is not padded to 16 bytes.
#[derive(Clone, Copy)]
struct Exact {
    fingerprint: [u32; 2],
    shards: Shards,
}

struct Again {
    fingerprint: u64,
    shard: ShardId,
    count: u32,
}

/// One shard (below [`SHARDS_MAX`]) or the handle of a set in [`Sets`] (from there on). Never an empty set.
#[derive(Clone, Copy)]
struct Shards(u32);

/// The sets of two and more shards.
struct Sets(Slab<ShardSet>);

impl Interest {
    /// Nobody wants anything. `seed` keys the fingerprints.
    pub fn new(seed: u64) -> Self {
        Self {
            hash: KeyedHash::new(seed),
            exact: HashTable::new(),
            again: HashTable::new(),
            wildcard: Paths::new(seed),
            sets: Sets(Slab::new()),
        }
    }

    /// `shard` announces `filter`. It must have taken back an earlier announcement of the same filter.
    pub fn add(&mut self, shard: ShardId, filter: TopicFilter<'_>) {
        let fingerprint = self.fingerprint(filter);
        let Some(shards) = self.get(filter, fingerprint) else {
            return self.set(filter, fingerprint, Shards::one(shard));
        };
        if self.sets.get(shards).contains(shard) {
            return self.count_again(shard, fingerprint);
        }
        let shards = self.sets.with(shards, shard);
        self.set(filter, fingerprint, shards);
    }

    /// `shard` takes back its announcement of `filter`; whether there was one.
    pub fn remove(&mut self, shard: ShardId, filter: TopicFilter<'_>) -> bool {
        let fingerprint = self.fingerprint(filter);
        if self.forget_again(shard, fingerprint) {
            return true;
        }
        let shards = self.get(filter, fingerprint);
        let Some(shards) = shards.filter(|shards| self.sets.get(*shards).contains(shard)) else {
            return false;
        };
        match self.sets.without(shards, shard) {
            Some(shards) => self.set(filter, fingerprint, shards),
            None => self.forget(filter, fingerprint),
        }
        true
    }

    /// The shards that announced a filter which matches `topic`; with a fingerprint's collision, seldom enough,
    /// a shard too many, never one too few.
    pub fn shards(&self, topic: TopicName<'_>) -> ShardSet {
        self.shards_and_work(topic).0
    }

    /// The same, and how many nodes were visited for it.
    #[inline]
    pub fn shards_and_work(&self, topic: TopicName<'_>) -> (ShardSet, usize) {
        let mut shards = ShardSet::EMPTY;
        if !self.exact.is_empty() {
            let fingerprint = self.hash.text(topic.as_str().as_bytes());
            if let Some(exact) = self.exact.find(fingerprint, |exact| exact.fingerprint() == fingerprint) {
                shards = self.sets.get(exact.shards);
            }
        }
        let visited = self
            .wildcard
            .for_each_match(topic.as_str(), |id| shards = shards.union(self.sets.get(Shards(id))));
        (shards, visited)
    }

    /// Filters that someone announced, fingerprints that are equal counted once.
    pub fn len_filters(&self) -> usize {
        self.exact.len() + self.wildcard.len()
    }

    /// Bytes of heap in use, without the allocator's own overhead.
    pub fn bytes(&self) -> usize {
        self.exact.allocation_size()
            + self.again.allocation_size()
            + self.wildcard.bytes()
            + self.sets.0.bytes()
    }

    fn fingerprint(&self, filter: TopicFilter<'_>) -> u64 {
        if filter.has_wildcard() {
            self.wildcard.fingerprint(filter.as_str())
        } else {
            self.hash.text(filter.as_str().as_bytes())
        }
    }

    fn get(&self, filter: TopicFilter<'_>, fingerprint: u64) -> Option<Shards> {
        if filter.has_wildcard() {
            return self.wildcard.get(filter.as_str()).map(Shards);
        }
        let exact = self.exact.find(fingerprint, |exact| exact.fingerprint() == fingerprint);
        exact.map(|exact| exact.shards)
    }

    fn set(&mut self, filter: TopicFilter<'_>, fingerprint: u64, shards: Shards) {
        if filter.has_wildcard() {
            return self.wildcard.set(filter.as_str(), shards.0);
        }
        match self.exact.find_mut(fingerprint, |exact| exact.fingerprint() == fingerprint) {
            Some(exact) => exact.shards = shards,
            None => {
                let exact = Exact::new(fingerprint, shards);
                self.exact.insert_unique(fingerprint, exact, Exact::fingerprint);
            }
        }
    }

    /// Nobody wants `filter` any more.
    fn forget(&mut self, filter: TopicFilter<'_>, fingerprint: u64) {
        if filter.has_wildcard() {
            self.wildcard.remove(filter.as_str());
            return;
        }
        let found = self.exact.find_entry(fingerprint, |exact| exact.fingerprint() == fingerprint);
        let Ok(entry) = found else { unreachable!("it was there to lose its last shard") };
        entry.remove();
        if self.exact.is_empty() {
            self.exact = HashTable::new();
        } else if self.exact.capacity() > SHRINK_ABOVE && self.exact.len() * 8 < self.exact.capacity() {
            self.exact.shrink_to(self.exact.len() * 2, Exact::fingerprint);
        }
    }

    fn count_again(&mut self, shard: ShardId, fingerprint: u64) {
        let found = self.again.find_mut(fingerprint, |again| again.is(shard, fingerprint));
        if let Some(again) = found {
            again.count += 1;
            return;
        }
        let again = Again { fingerprint, shard, count: 1 };
        self.again.insert_unique(fingerprint, again, |again| again.fingerprint);
    }

    /// Takes back a second or further announcement, if there is one.
    fn forget_again(&mut self, shard: ShardId, fingerprint: u64) -> bool {
        let found = self.again.find_entry(fingerprint, |again| again.is(shard, fingerprint));
        let Ok(mut entry) = found else { return false };
        entry.get_mut().count -= 1;
        if entry.get().count == 0 {
            entry.remove();
            if self.again.is_empty() {
                self.again = HashTable::new();
            }
        }
        true
    }
}

impl Exact {
    fn new(fingerprint: u64, shards: Shards) -> Self {
        Self { fingerprint: [fingerprint as u32, (fingerprint >> 32) as u32], shards }
    }

    #[inline]
    fn fingerprint(&self) -> u64 {
        u64::from(self.fingerprint[0]) | u64::from(self.fingerprint[1]) << 32
    }
}

impl Again {
    fn is(&self, shard: ShardId, fingerprint: u64) -> bool {
        self.shard == shard && self.fingerprint == fingerprint
    }
}

impl Shards {
    fn one(shard: ShardId) -> Self {
        Self(shard.index() as u32)
    }
}

impl Sets {
    #[inline]
    fn get(&self, shards: Shards) -> ShardSet {
        match shards.0.checked_sub(SHARDS_MAX as u32) {
            Some(id) => self.0[id],
            None => ShardSet::from_iter([ShardId::from_index(shards.0 as usize)]),
        }
    }

    fn with(&mut self, shards: Shards, shard: ShardId) -> Shards {
        let mut set = self.get(shards);
        if !set.insert(shard) {
            return shards;
        }
        self.store(shards, set)
    }

    /// `None` if nobody is left.
    fn without(&mut self, shards: Shards, shard: ShardId) -> Option<Shards> {
        let mut set = self.get(shards);
        if !set.remove(shard) {
            return Some(shards);
        }
        if set.is_empty() {
            return None;
        }
        Some(self.store(shards, set))
    }

    /// Writes `set`, which is not empty, in the place of `old`.
    fn store(&mut self, old: Shards, set: ShardSet) -> Shards {
        let old = old.0.checked_sub(SHARDS_MAX as u32);
        let mut shards = set.iter();
        match (shards.next(), shards.next(), old) {
            (Some(one), None, _) => {
                if let Some(id) = old {
                    self.0.remove(id);
                }
                Shards::one(one)
            }
            (_, _, Some(id)) => {
                self.0[id] = set;
                Shards(id + SHARDS_MAX as u32)
            }
            (_, _, None) => Shards(self.0.insert(set) + SHARDS_MAX as u32),
        }
    }
}

const SHRINK_ABOVE: usize = 64;

const _: () = assert!(size_of::<Exact>() == 12);
