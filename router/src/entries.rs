//! The subscribers of one filter.
//!
//! Most filters have one subscriber and some have a million, so the list has three shapes: one in place, a
//! short vector that is searched, and a vector with an index by key. All three read as a slice, which is what a
//! fan-out walks. Order is that of insertion, except that the last takes the place of a removed one.

use std::hash::Hash;

use crate::hash::KeyedHash;
use crate::id_table::IdTable;

pub(crate) enum Entries<K, V> {
    One((K, V)),
    Listed(Vec<(K, V)>),
    Indexed(Box<Indexed<K, V>>),
}

pub(crate) struct Indexed<K, V> {
    list: Vec<(K, V)>,
    /// Positions in `list`, by key.
    positions: IdTable,
}

impl<K: Copy + Eq + Hash, V> Entries<K, V> {
    #[inline]
    pub(crate) fn as_slice(&self) -> &[(K, V)] {
        match self {
            Self::One(entry) => std::slice::from_ref(entry),
            Self::Listed(list) => list,
            Self::Indexed(indexed) => &indexed.list,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [(K, V)] {
        match self {
            Self::One(entry) => std::slice::from_mut(entry),
            Self::Listed(list) => list,
            Self::Indexed(indexed) => &mut indexed.list,
        }
    }

    fn position(&self, key: &K, hash: &KeyedHash) -> Option<usize> {
        if let Self::Indexed(indexed) = self {
            let found = indexed.positions.find(hash.key(key), |at| indexed.list[at as usize].0 == *key);
            return found.map(|at| at as usize);
        }
        self.as_slice().iter().position(|entry| entry.0 == *key)
    }

    pub(crate) fn get(&self, key: &K, hash: &KeyedHash) -> Option<&V> {
        let at = self.position(key, hash)?;
        Some(&self.as_slice()[at].1)
    }

    pub(crate) fn get_mut(&mut self, key: &K, hash: &KeyedHash) -> Option<&mut V> {
        let at = self.position(key, hash)?;
        Some(&mut self.as_mut_slice()[at].1)
    }

    /// Adds `key` or replaces its value, which is then returned.
    pub(crate) fn insert(&mut self, key: K, value: V, hash: &KeyedHash) -> Option<V> {
        if let Some(old) = self.get_mut(&key, hash) {
            return Some(std::mem::replace(old, value));
        }
        if let Self::Indexed(indexed) = self {
            assert!(indexed.list.len() < crate::slab::HANDLES_MAX);
            indexed.positions.insert(hash.key(&key), indexed.list.len() as u32);
            indexed.list.push((key, value));
            return None;
        }
        let mut list = match std::mem::replace(self, Self::Listed(Vec::new())) {
            Self::One(entry) => vec![entry],
            Self::Listed(list) => list,
            Self::Indexed(_) => unreachable!("returned above"),
        };
        list.push((key, value));
        *self = if list.len() > LISTED_MAX { Self::index(list, hash) } else { Self::Listed(list) };
        None
    }

    /// Removes `key`. The caller drops the whole when it [`is_empty`](Self::is_empty).
    pub(crate) fn remove(&mut self, key: &K, hash: &KeyedHash) -> Option<V> {
        let at = self.position(key, hash)?;
        let mut list = match self {
            Self::One(_) => match std::mem::replace(self, Self::Listed(Vec::new())) {
                Self::One((_, value)) => return Some(value),
                Self::Listed(_) | Self::Indexed(_) => unreachable!("it was one"),
            },
            Self::Listed(list) => std::mem::take(list),
            Self::Indexed(indexed) => {
                indexed.forget(at, hash);
                if indexed.list.len() > LISTED_MAX / 2 {
                    return Some(indexed.swap_remove(at));
                }
                std::mem::take(&mut indexed.list)
            }
        };
        let (_, value) = list.swap_remove(at);
        *self = match list.len() {
            1 => Self::One(list.remove(0)),
            _ => {
                list.shrink_to(list.len() * 2);
                Self::Listed(list)
            }
        };
        Some(value)
    }

    fn index(list: Vec<(K, V)>, hash: &KeyedHash) -> Self {
        let mut positions = IdTable::new();
        for (at, (key, _)) in (0u32..).zip(&list) {
            positions.insert(hash.key(key), at);
        }
        Self::Indexed(Box::new(Indexed { list, positions }))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Listed(list) => list.capacity() * size_of::<(K, V)>(),
            Self::Indexed(indexed) => {
                size_of::<Indexed<K, V>>()
                    + indexed.list.capacity() * size_of::<(K, V)>()
                    + indexed.positions.bytes()
            }
        }
    }
}

impl<K: Copy + Eq + Hash, V> Indexed<K, V> {
    /// Takes the entry at `at` out of the index and gives its place to the last entry.
    fn forget(&mut self, at: usize, hash: &KeyedHash) {
        let last = self.list.len() - 1;
        self.positions.remove(hash.key(&self.list[at].0), at as u32);
        if at != last {
            self.positions.replace(hash.key(&self.list[last].0), last as u32, at as u32);
        }
    }

    fn swap_remove(&mut self, at: usize) -> V {
        let (_, value) = self.list.swap_remove(at);
        if self.list.len() * 4 < self.list.capacity() {
            self.list.shrink_to(self.list.len() * 2);
        }
        value
    }
}

/// Up to this many a search of the list beats the index.
const LISTED_MAX: usize = 16;
