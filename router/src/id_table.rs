//! A hash table of `u32` handles whose keys live elsewhere.
//!
//! Beside each handle the table keeps 32 bits of its hash: a lookup goes to the keys only for a true match
//! (one wrong visit in four thousand million), and growing reads nothing but the table itself, so that the
//! table of a million filters doubles in milliseconds instead of visiting a million texts in memory.

use hashbrown::HashTable;

#[derive(Clone, Copy)]
struct Slot {
    tag: u32,
    id: u32,
}

#[derive(Default)]
pub(crate) struct IdTable {
    slots: HashTable<Slot>,
}

impl IdTable {
    pub(crate) const fn new() -> Self {
        Self { slots: HashTable::new() }
    }

    /// The handle under `hash` that `is_it` recognises.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = tag(hash);
        self.slots.find(spread(tag), |slot| slot.tag == tag && is_it(slot.id)).map(|slot| slot.id)
    }

    /// Adds a handle that is not in the table.
    pub(crate) fn insert(&mut self, hash: u64, id: u32) {
        let tag = tag(hash);
        self.slots.insert_unique(spread(tag), Slot { tag, id }, |slot| spread(slot.tag));
    }

    /// Takes a handle out; it must be in the table under this hash.
    pub(crate) fn remove(&mut self, hash: u64, id: u32) {
        let tag = tag(hash);
        let found = self.slots.find_entry(spread(tag), |slot| slot.id == id);
        let Ok(entry) = found else { unreachable!("handle {id} is not in the table under its hash") };
        entry.remove();
        if self.slots.capacity() > SHRINK_ABOVE && self.slots.len() * 8 < self.slots.capacity() {
            self.slots.shrink_to(self.slots.len() * 2, |slot| spread(slot.tag));
        } else if self.slots.is_empty() {
            self.slots = HashTable::new();
        }
    }

    /// Writes another handle in the place of `from`, under the same hash.
    pub(crate) fn replace(&mut self, hash: u64, from: u32, to: u32) {
        let tag = tag(hash);
        let slot = self.slots.find_mut(spread(tag), |slot| slot.id == from);
        let Some(slot) = slot else { unreachable!("handle {from} is not in the table under its hash") };
        slot.id = to;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.slots.allocation_size()
    }
}

#[inline]
fn tag(hash: u64) -> u32 {
    // The low half; the quality variant of the hash leaves no half weaker.
    hash as u32
}

/// hashbrown picks the bucket by the low bits and compares the top seven: the product moves all of the tag
/// into the top while the low bits keep their own spread.
#[inline]
fn spread(tag: u32) -> u64 {
    u64::from(tag).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Below this many slots shrinking is not worth the copy.
const SHRINK_ABOVE: usize = 64;
