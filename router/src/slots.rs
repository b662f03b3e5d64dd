//! A table with keys that are never taken for another's: slots in chunks, each with the generation of its value.
//!
//! ```text
//!  key = (slot, generation)          slots  [ 0: value, 17 ] [ 1: free ] [ 2: value, 12 ] …
//! ```
//!
//! Generations are counted for the table, not for the slot, so a free slot remembers nothing and its memory can go
//! back. A key is mistaken for another only after exactly 2^32 - 1 insertions, and if the same slot was given out.
//! Where connections and sessions live: the slots are of exact size and never move, so a table of a million is
//! neither copied when it grows nor half empty when it has grown.

use core::marker::PhantomData;
use core::num::NonZeroU32;

use crate::slab::Slab;

/// What names a value of a [`Slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId {
    slot: u32,
    generation: NonZeroU32,
}

/// A key of one kind of table, so that keys of different tables are different types.
pub trait SlotKey: Copy {
    /// The key of a place.
    fn from_slot(id: SlotId) -> Self;
    /// The place of a key.
    fn slot(self) -> SlotId;
}

/// The table.
#[derive(Debug)]
pub struct Slots<K, T> {
    slab: Slab<Entry<T>>,
    next: NonZeroU32,
    key: PhantomData<fn(K) -> K>,
}

#[derive(Debug)]
struct Entry<T> {
    generation: NonZeroU32,
    value: T,
}

impl<K: SlotKey, T> Slots<K, T> {
    /// An empty table, without memory.
    pub const fn new() -> Self {
        Self { slab: Slab::new(), next: NonZeroU32::MIN, key: PhantomData }
    }

    /// Enters a value.
    pub fn insert(&mut self, value: T) -> K {
        let generation = self.next;
        self.next = generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let slot = self.slab.insert(Entry { generation, value });
        K::from_slot(SlotId { slot, generation })
    }

    /// Takes a value out, unless it is gone.
    pub fn remove(&mut self, key: K) -> Option<T> {
        self.get(key)?;
        let entry = self.slab.take(key.slot().slot);
        // Not at once: what comes and goes by the packet would ask the allocator each time.
        let end = self.slab.end();
        if end > Slab::<Entry<T>>::CHUNK && self.slab.len() < end / 4 {
            self.slab.drop_tail();
        }
        Some(entry.value)
    }

    /// The value, unless it is gone.
    #[inline]
    pub fn get(&self, key: K) -> Option<&T> {
        let id = key.slot();
        let entry = self.slab.get(id.slot)?;
        (entry.generation == id.generation).then_some(&entry.value)
    }

    /// The value, unless it is gone.
    #[inline]
    pub fn get_mut(&mut self, key: K) -> Option<&mut T> {
        let id = key.slot();
        let entry = self.slab.get_mut(id.slot)?;
        (entry.generation == id.generation).then_some(&mut entry.value)
    }

    /// Whether the value is there.
    pub fn contains_key(&self, key: K) -> bool {
        self.get(key).is_some()
    }

    /// All keys, in the order of their slots.
    pub fn keys(&self) -> impl Iterator<Item = K> {
        let ids = self.slab.iter().map(|(slot, entry)| SlotId { slot, generation: entry.generation });
        ids.map(K::from_slot)
    }

    /// The key of the value in a slot, unless that is free: for a walk in pieces, from 0 to [`Slots::end`], over a table
    /// that changes meanwhile. Whatever lives from its beginning to its end is met once.
    pub fn key_at(&self, slot: u32) -> Option<K> {
        let entry = self.slab.get(slot)?;
        Some(K::from_slot(SlotId { slot, generation: entry.generation }))
    }

    /// Behind the last slot, free ones counted.
    pub fn end(&self) -> u32 {
        self.slab.end() as u32
    }

    /// All values, in the order of their slots.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.slab.iter().map(|(_, entry)| &entry.value)
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that the table holds, without what its values point to.
    pub fn bytes(&self) -> usize {
        self.slab.bytes()
    }
}

impl<K: SlotKey, T> Default for Slots<K, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: SlotKey, T> core::ops::Index<K> for Slots<K, T> {
    type Output = T;

    #[inline]
    fn index(&self, key: K) -> &T {
        self.get(key).expect("a key of a live value")
    }
}

impl<K: SlotKey, T> core::ops::IndexMut<K> for Slots<K, T> {
    #[inline]
    fn index_mut(&mut self, key: K) -> &mut T {
        self.get_mut(key).expect("a key of a live value")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl SlotKey for SlotId {
        fn from_slot(id: SlotId) -> Self {
            id
        }

        fn slot(self) -> SlotId {
            self
        }
    }

    proptest! {
        /// Grows over several chunks, shrinks and grows again; no key of a value that is gone finds another.
        #[test]
        fn behaves_as_a_map(waves in prop::collection::vec((0..1_500usize, 0..1_500usize, any::<u64>()), 1..6)) {
            let mut slots = Slots::<SlotId, [u64; 8]>::new();
            let (mut live, mut gone, mut keys) = (BTreeMap::new(), Vec::new(), Vec::new());
            for (inserts, removes, seed) in waves {
                for value in 0..inserts as u64 {
                    let key = slots.insert([value; 8]);
                    prop_assert!(live.insert(key, value).is_none());
                    keys.push(key);
                }
                for step in 0..removes.min(keys.len()) as u64 {
                    let at = seed.wrapping_mul(step | 1) % keys.len() as u64;
                    let key = keys.swap_remove(at as usize);
                    prop_assert_eq!(slots.remove(key).map(|value| value[0]), live.remove(&key));
                    gone.push(key);
                }
                prop_assert_eq!(slots.len(), live.len());
                prop_assert!(live.iter().all(|(key, value)| slots[*key][0] == *value));
                prop_assert!(gone.iter().all(|key| slots.get(*key).is_none() && !slots.contains_key(*key)));
                prop_assert_eq!(slots.keys().collect::<Vec<_>>(), live.keys().copied().collect::<Vec<_>>());
            }
            prop_assert!(gone.into_iter().all(|key| slots.remove(key).is_none()));
        }
    }

    #[test]
    fn one_value_that_comes_and_goes_keeps_its_memory() {
        let mut slots = Slots::<SlotId, u64>::new();
        let key = slots.insert(0);
        let bytes = slots.bytes();
        slots.remove(key);
        assert_eq!(slots.bytes(), bytes + 4 * size_of::<u32>(), "the free list holds one");
        let again = slots.insert(1);
        assert_eq!(slots.bytes(), bytes + 4 * size_of::<u32>());
        assert_ne!(key, again);
        assert_eq!((slots.get(key), slots.get(again)), (None, Some(&1)));
    }

    #[test]
    fn a_walk_in_pieces_meets_what_stays_once() {
        let mut slots = Slots::<SlotId, u32>::new();
        let keys: Vec<SlotId> = (0..100).map(|value| slots.insert(value)).collect();
        let (mut met, mut next) = (Vec::new(), 0);
        while next < slots.end() {
            met.extend(slots.key_at(next));
            next += 1;
            // Behind the walk and in front of it something goes; behind it something comes, where there was a place.
            if next == 50 {
                for key in [keys[10], keys[60], keys[99]] {
                    slots.remove(key);
                }
                slots.insert(100);
            }
        }
        let gone = [60, 99];
        let stayed = keys.iter().enumerate().filter(|(at, _)| !gone.contains(at)).map(|(_, key)| *key);
        let met_of_old: Vec<SlotId> = met.into_iter().filter(|key| keys.contains(key)).collect();
        assert_eq!(met_of_old, stayed.collect::<Vec<_>>());
        assert_eq!(slots.key_at(slots.end()), None);
    }

    #[test]
    fn a_table_that_has_emptied_gives_its_memory_back() {
        let mut slots = Slots::<SlotId, [u64; 64]>::new();
        let keys: Vec<SlotId> = (0..10_000).map(|_| slots.insert([0; 64])).collect();
        assert!(slots.bytes() < 10_100 * 528, "{} bytes", slots.bytes());
        for key in keys {
            slots.remove(key);
        }
        assert!(slots.bytes() < 64 * 1024, "{} bytes", slots.bytes());
    }
}
