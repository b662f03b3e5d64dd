//! The filters of one shard: filter → subscribers.
//!
//! The first question of every PUBLISH that reaches a shard: which of its sessions want it? Filters without a
//! wildcard are one lookup in a hash table; the others are a walk of the trie, skipped while
//! there are none.
//!
//! ```text
//!  "a/b"  ──hash──► FilterId ─┐
//!                             ├─► slab of filters: text, subscribers (key, value)
//!  "a/+"  ──trie──► FilterId ─┘
//! ```
//!
//! Invariants: a filter is in the slab exactly as long as it has a subscriber, and in exactly one of the two
//! indexes; a key stands at most once under a filter.

use std::hash::Hash;

use quelea_mqtt::{TopicFilter, TopicName};

use crate::entries::Entries;
use crate::hash::KeyedHash;
use crate::id_table::IdTable;
use crate::slab::Slab;
use crate::trie::Trie;

/// Filters with their subscribers: `K` names a subscriber, `V` is what it asked for with this filter.
pub struct FilterTrie<K, V> {
    hash: KeyedHash,
    filters: Slab<Filter<K, V>>,
    exact: IdTable,
    wildcard: Trie,
    entries: usize,
    /// Heap behind the slots of `filters`: texts and lists of subscribers.
    filter_bytes: usize,
}

struct Filter<K, V> {
    /// The text of an exact filter, which its hash table compares; the trie holds that of a wildcard filter.
    text: Box<str>,
    entries: Entries<K, V>,
}

/// The handle of a filter, stable while the filter has a subscriber and reused after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterId(pub u32);

/// What [`FilterTrie::insert`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Inserted<V> {
    /// The filter's handle.
    pub filter_id: FilterId,
    /// The filter had no subscriber before: the other shards must hear of it.
    pub filter_is_new: bool,
    /// What the key had asked for before with this filter.
    pub replaced: Option<V>,
}

/// What [`FilterTrie::remove`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Removed<V> {
    /// What the key had asked for; `None` if it was not there.
    pub value: Option<V>,
    /// That was the filter's last subscriber: the other shards may forget it.
    pub filter_is_gone: bool,
}

impl<K: Copy + Eq + Hash, V> FilterTrie<K, V> {
    /// An empty trie; `seed` keys its hashes.
    pub fn new(seed: u64) -> Self {
        Self {
            hash: KeyedHash::new(seed),
            filters: Slab::new(),
            exact: IdTable::new(),
            wildcard: Trie::new(seed),
            entries: 0,
            filter_bytes: 0,
        }
    }

    /// Subscribes `key` to `filter`, or replaces what it had asked for.
    pub fn insert(&mut self, filter: TopicFilter<'_>, key: K, value: V) -> Inserted<V> {
        let Some(id) = self.find(filter) else {
            let filter_id = FilterId(self.insert_filter(filter, Entries::One((key, value))));
            self.entries += 1;
            return Inserted { filter_id, filter_is_new: true, replaced: None };
        };
        let entries = &mut self.filters[id].entries;
        let bytes_before = entries.heap_bytes();
        let replaced = entries.insert(key, value, &self.hash);
        self.filter_bytes = self.filter_bytes - bytes_before + entries.heap_bytes();
        self.entries += usize::from(replaced.is_none());
        Inserted { filter_id: FilterId(id), filter_is_new: false, replaced }
    }

    /// Unsubscribes `key` from `filter`.
    pub fn remove(&mut self, filter: TopicFilter<'_>, key: K) -> Removed<V> {
        let Some(id) = self.find(filter) else {
            return Removed { value: None, filter_is_gone: false };
        };
        let entries = &mut self.filters[id].entries;
        let bytes_before = entries.heap_bytes();
        let Some(value) = entries.remove(&key, &self.hash) else {
            return Removed { value: None, filter_is_gone: false };
        };
        self.filter_bytes = self.filter_bytes - bytes_before + entries.heap_bytes();
        self.entries -= 1;
        let filter_is_gone = entries.is_empty();
        if filter_is_gone {
            self.remove_filter(filter, id);
        }
        Removed { value: Some(value), filter_is_gone }
    }

    /// What `key` asked for with `filter`.
    pub fn get(&self, filter: TopicFilter<'_>, key: K) -> Option<&V> {
        let id = self.find(filter)?;
        self.filters[id].entries.get(&key, &self.hash)
    }

    /// What `key` asked for with `filter`, to change it.
    pub fn get_mut(&mut self, filter: TopicFilter<'_>, key: K) -> Option<&mut V> {
        let id = self.find(filter)?;
        self.filters[id].entries.get_mut(&key, &self.hash)
    }

    /// Calls `f` with every (filter, key) whose filter matches `topic`; a key that matches by several filters
    /// comes several times. The order is fixed by the order of past calls. Returned is the work that it was: nodes
    /// visited and entries found.
    #[inline]
    pub fn for_each_match(&self, topic: TopicName<'_>, mut f: impl FnMut(K, &V)) -> usize {
        let mut found = 0;
        if let Some(id) = self.find_exact(topic.as_str()) {
            found += self.for_each_entry(id, &mut f);
        }
        let visited =
            self.wildcard.for_each_match(topic.as_str(), |id| found += self.for_each_entry(id, &mut f));
        visited + found
    }

    /// The handle of `filter`, if anyone subscribes to it.
    pub fn filter_id(&self, filter: TopicFilter<'_>) -> Option<FilterId> {
        self.find(filter).map(FilterId)
    }

    /// The subscribers of one filter; empty for a handle that is not in use.
    pub fn entries(&self, id: FilterId) -> impl Iterator<Item = (K, &V)> {
        let entries = self.filters.get(id.0).map_or(&[][..], |filter| filter.entries.as_slice());
        entries.iter().map(|(key, value)| (*key, value))
    }

    /// Filters with a subscriber.
    pub fn len_filters(&self) -> usize {
        self.filters.len()
    }

    /// Pairs of filter and subscriber.
    pub fn len_entries(&self) -> usize {
        self.entries
    }

    /// Bytes of heap in use, without the allocator's own overhead.
    pub fn bytes(&self) -> usize {
        self.filters.bytes() + self.exact.bytes() + self.wildcard.bytes() + self.filter_bytes
    }

    #[inline]
    fn for_each_entry(&self, id: u32, f: &mut impl FnMut(K, &V)) -> usize {
        let entries = self.filters[id].entries.as_slice();
        for (key, value) in entries {
            f(*key, value);
        }
        entries.len()
    }

    fn find(&self, filter: TopicFilter<'_>) -> Option<u32> {
        if filter.has_wildcard() {
            self.wildcard.get(filter.as_str())
        } else {
            self.find_exact(filter.as_str())
        }
    }

    #[inline]
    fn find_exact(&self, text: &str) -> Option<u32> {
        if self.exact.is_empty() {
            return None;
        }
        self.exact.find(self.hash.text(text.as_bytes()), |id| *self.filters[id].text == *text)
    }

    fn insert_filter(&mut self, filter: TopicFilter<'_>, entries: Entries<K, V>) -> u32 {
        if filter.has_wildcard() {
            let id = self.filters.insert(Filter { text: "".into(), entries });
            self.wildcard.set(filter.as_str(), id);
            return id;
        }
        let text: Box<str> = filter.as_str().into();
        self.filter_bytes += text.len();
        let id = self.filters.insert(Filter { text, entries });
        self.exact.insert(self.hash.text(filter.as_str().as_bytes()), id);
        id
    }

    fn remove_filter(&mut self, filter: TopicFilter<'_>, id: u32) {
        if filter.has_wildcard() {
            let removed = self.wildcard.remove(filter.as_str());
            assert_eq!(removed, Some(id));
        } else {
            self.exact.remove(self.hash.text(filter.as_str().as_bytes()), id);
        }
        let gone = self.filters.remove(id);
        self.filter_bytes -= gone.text.len() + gone.entries.heap_bytes();
    }
}
