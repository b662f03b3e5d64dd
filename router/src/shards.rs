//! The names of shards, and sets of them.

use std::fmt;

/// Shards that a node may have: the width of [`ShardSet`].
pub const SHARDS_MAX: usize = 128;

/// One shard of this node, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(u16);

impl ShardId {
    /// The shard with this index, which must be below [`SHARDS_MAX`].
    pub const fn from_index(index: usize) -> Self {
        assert!(index < SHARDS_MAX);
        Self(index as u16)
    }

    /// Its index, for arrays with one element per shard.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of up to [`SHARDS_MAX`] shards: 16 bytes, copied.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ShardSet {
    /// Shard `i` is bit `i % 64` of word `i / 64`. Two words instead of a `u128`, whose alignment of 16 would
    /// pad what holds the set.
    words: [u64; SHARDS_MAX / 64],
}

impl ShardSet {
    /// No shard.
    pub const EMPTY: Self = Self { words: [0; SHARDS_MAX / 64] };

    /// No shard.
    pub const fn new() -> Self {
        Self::EMPTY
    }

    /// Adds a shard; whether it is new.
    pub const fn insert(&mut self, shard: ShardId) -> bool {
        let is_new = !self.contains(shard);
        self.words[shard.index() / 64] |= 1 << (shard.index() % 64);
        is_new
    }

    /// Takes a shard out; whether it was there.
    pub const fn remove(&mut self, shard: ShardId) -> bool {
        let was_there = self.contains(shard);
        self.words[shard.index() / 64] &= !(1 << (shard.index() % 64));
        was_there
    }

    /// Whether the shard is in the set.
    pub const fn contains(&self, shard: ShardId) -> bool {
        self.words[shard.index() / 64] >> (shard.index() % 64) & 1 == 1
    }

    /// Whether no shard is in the set.
    pub const fn is_empty(&self) -> bool {
        self.words[0] | self.words[1] == 0
    }

    /// How many shards are in the set.
    pub const fn len(&self) -> usize {
        (self.words[0].count_ones() + self.words[1].count_ones()) as usize
    }

    /// The shards of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self { words: [self.words[0] | other.words[0], self.words[1] | other.words[1]] }
    }

    /// The shards, by index.
    pub fn iter(&self) -> impl Iterator<Item = ShardId> + use<> {
        let mut words = self.words;
        std::iter::from_fn(move || {
            let at = words.iter().position(|word| *word != 0)?;
            let bit = words[at].trailing_zeros() as usize;
            words[at] &= words[at] - 1;
            Some(ShardId::from_index(at * 64 + bit))
        })
    }
}

impl FromIterator<ShardId> for ShardSet {
    fn from_iter<I: IntoIterator<Item = ShardId>>(shards: I) -> Self {
        let mut set = Self::EMPTY;
        for shard in shards {
            set.insert(shard);
        }
        set
    }
}

impl fmt::Debug for ShardSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(ShardId::index)).finish()
    }
}
