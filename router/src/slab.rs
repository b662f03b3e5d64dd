//! A vector of slots with stable `u32` handles; freed slots are used again.
//!
//! Memory goes back as the tail becomes free: vacant slots at the end are dropped at once and the vector
//! shrinks when it is mostly empty. A handle is stable for as long as its value lives.

pub(crate) struct Slab<T> {
    slots: Vec<Option<T>>,
    /// Vacant slots. May name slots behind the end of `slots`: these are skipped when they come up, which is
    /// sound because `slots` only grows by a push when this list is empty.
    free: Vec<u32>,
    live: usize,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), live: 0 }
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.live += 1;
        while let Some(id) = self.free.pop() {
            if let Some(slot) = self.slots.get_mut(id as usize) {
                assert!(slot.is_none(), "the free list names slot {id}, which is in use");
                *slot = Some(value);
                return id;
            }
        }
        let id = self.slots.len();
        assert!(id < HANDLES_MAX, "more than {HANDLES_MAX} slots");
        self.slots.push(Some(value));
        id as u32
    }

    /// Takes out the value of a live handle.
    pub(crate) fn remove(&mut self, id: u32) -> T {
        let Some(value) = self.slots[id as usize].take() else { unreachable!("slot {id} is vacant") };
        self.live -= 1;
        self.free.push(id);
        self.drop_tail();
        value
    }

    fn drop_tail(&mut self) {
        while matches!(self.slots.last(), Some(None)) {
            self.slots.pop();
        }
        if self.slots.capacity() > SHRINK_ABOVE && self.slots.len() * 4 < self.slots.capacity() {
            self.slots.shrink_to(self.slots.len() * 2);
            let end = self.slots.len();
            self.free.retain(|id| (*id as usize) < end);
            self.free.shrink_to_fit();
        }
        if self.live == 0 {
            *self = Self::new();
        }
    }

    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        self.slots.get(id as usize)?.as_ref()
    }

    /// Live values with their handles, by handle.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots.iter().zip(0u32..).filter_map(|(slot, id)| slot.as_ref().map(|value| (id, value)))
    }

    pub(crate) fn len(&self) -> usize {
        self.live
    }

    pub(crate) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Option<T>>() + self.free.capacity() * size_of::<u32>()
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, id: u32) -> &T {
        match &self.slots[id as usize] {
            Some(value) => value,
            None => unreachable!("slot {id} is vacant"),
        }
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut T {
        match &mut self.slots[id as usize] {
            Some(value) => value,
            None => unreachable!("slot {id} is vacant"),
        }
    }
}

/// The numbers above are left to the marks that a user of the slab wants (`NONE` and the like).
pub(crate) const HANDLES_MAX: usize = u32::MAX as usize - 1024;
/// Below this many slots shrinking is not worth the copy.
const SHRINK_ABOVE: usize = 64;
