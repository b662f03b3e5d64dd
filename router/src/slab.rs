//! Slots with stable `u32` handles; freed slots are used again.
//!
//! ```text
//!  handle  0 ..        511 | 512 ..     1023 | 1024 ..
//!  chunks  [ value, free, ] [ value, value, ] [ value ]      free: 1
//! ```
//!
//! The slots stand in chunks, so that growing to a million neither copies what is there (a pause of
//! milliseconds on the packet path) nor leaves half of the memory empty. Memory goes back from the end: vacant
//! slots there are dropped at once, and with them their chunks. A handle is stable for as long as its value
//! lives, and may name another value after that; [`Slots`](crate::Slots) has keys that do not.

#[derive(Debug)]
pub(crate) struct Slab<T> {
    /// All full but the last; none empty.
    chunks: Vec<Vec<Option<T>>>,
    /// Vacant slots. May name slots behind the end: these are skipped when they come up, which is sound
    /// because the end only moves up when this list is empty.
    free: Vec<u32>,
    live: usize,
}

impl<T> Slab<T> {
    /// Slots of a chunk.
    pub(crate) const CHUNK: usize = {
        let slots = CHUNK_BYTES / size_of::<Option<T>>();
        if slots < 16 {
            16
        } else if slots > 512 {
            512
        } else {
            slots
        }
    };

    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), live: 0 }
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.live += 1;
        while let Some(id) = self.free.pop() {
            if let Some(slot) = self.slot_mut(id) {
                assert!(slot.is_none(), "the free list names slot {id}, which is in use");
                *slot = Some(value);
                return id;
            }
        }
        self.push(value)
    }

    /// Takes out the value of a live handle.
    pub(crate) fn remove(&mut self, id: u32) -> T {
        let value = self.take(id);
        self.drop_tail();
        value
    }

    /// Takes out the value of a live handle and keeps the memory: [`Slab::drop_tail`] gives it back.
    pub(crate) fn take(&mut self, id: u32) -> T {
        let Some(value) = self.slot_mut(id).and_then(Option::take) else {
            unreachable!("slot {id} is vacant");
        };
        self.live -= 1;
        self.free.push(id);
        value
    }

    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        self.chunks.get(id as usize / Self::CHUNK)?.get(id as usize % Self::CHUNK)?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.slot_mut(id)?.as_mut()
    }

    /// Live handles with their values, in the order of the handles.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let slots = self.chunks.iter().flatten().enumerate();
        slots.filter_map(|(id, slot)| Some((id as u32, slot.as_ref()?)))
    }

    pub(crate) fn len(&self) -> usize {
        self.live
    }

    pub(crate) fn bytes(&self) -> usize {
        let slots: usize = self.chunks.iter().map(Vec::capacity).sum();
        slots * size_of::<Option<T>>()
            + self.chunks.capacity() * size_of::<Vec<Option<T>>>()
            + self.free.capacity() * size_of::<u32>()
    }

    fn push(&mut self, value: T) -> u32 {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == Self::CHUNK) {
            // The first chunk grows with its content, for the many slabs that stay small.
            let slots = if self.chunks.is_empty() { 0 } else { Self::CHUNK };
            self.chunks.push(Vec::with_capacity(slots));
        }
        let id = self.end();
        assert!(id < HANDLES_MAX, "more than {HANDLES_MAX} slots");
        let Some(chunk) = self.chunks.last_mut() else { unreachable!("pushed above") };
        chunk.push(Some(value));
        id as u32
    }

    /// Slots, vacant ones counted.
    pub(crate) fn end(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * Self::CHUNK + last.len())
    }

    /// Gives back the memory of the vacant slots at the end.
    pub(crate) fn drop_tail(&mut self) {
        if self.live == 0 {
            *self = Self::new();
            return;
        }
        while let Some(chunk) = self.chunks.last_mut() {
            while matches!(chunk.last(), Some(None)) {
                chunk.pop();
            }
            if !chunk.is_empty() {
                break;
            }
            self.chunks.pop();
        }
        let end = self.end();
        if self.free.len() > Self::CHUNK && self.free.len() > 2 * end {
            self.free.retain(|id| (*id as usize) < end);
            self.free.shrink_to_fit();
        }
    }

    #[inline]
    fn slot_mut(&mut self, id: u32) -> Option<&mut Option<T>> {
        self.chunks.get_mut(id as usize / Self::CHUNK)?.get_mut(id as usize % Self::CHUNK)
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, id: u32) -> &T {
        match &self.chunks[id as usize / Self::CHUNK][id as usize % Self::CHUNK] {
            Some(value) => value,
            None => unreachable!("slot {id} is vacant"),
        }
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut T {
        match &mut self.chunks[id as usize / Self::CHUNK][id as usize % Self::CHUNK] {
            Some(value) => value,
            None => unreachable!("slot {id} is vacant"),
        }
    }
}

/// Bytes of a chunk, at most: an allocator serves them from its heap and rounds them up by little.
const CHUNK_BYTES: usize = 32 * 1024;
/// The numbers above are left to the marks that a user of the slab wants (`NONE` and the like).
pub(crate) const HANDLES_MAX: usize = u32::MAX as usize - 1024;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Grows over several chunks and shrinks again, several times.
        #[test]
        fn behaves_as_a_map(waves in prop::collection::vec((0..2_000usize, 0..2_000usize, any::<u64>()), 1..6)) {
            let (mut slab, mut model) = (Slab::new(), BTreeMap::new());
            let mut ids = Vec::new();
            for (inserts, removes, seed) in waves {
                for value in 0..inserts {
                    let id = slab.insert(value);
                    prop_assert!(model.insert(id, value).is_none());
                    ids.push(id);
                }
                for step in 0..removes.min(ids.len()) as u64 {
                    let at = seed.wrapping_mul(step | 1) % ids.len() as u64;
                    let id = ids.swap_remove(at as usize);
                    prop_assert_eq!(Some(slab.remove(id)), model.remove(&id));
                }
                prop_assert_eq!(slab.len(), model.len());
                for id in 0..slab.end() as u32 + 1 {
                    prop_assert_eq!(slab.get(id), model.get(&id));
                }
                let end = model.keys().next_back().map_or(0, |id| *id as usize + 1);
                prop_assert_eq!(slab.end(), end);
            }
            for id in model.into_keys() {
                slab.remove(id);
            }
            prop_assert_eq!(slab.bytes(), 0);
        }
    }
}
