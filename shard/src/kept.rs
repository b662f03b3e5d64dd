//! What a queue keeps when it is empty.
//!
//! A queue keeps what it has once allocated. One that has grown because a client did not read, or because another shard was
//! behind, would keep it for as long as its connection lives, and so would a million others. So whoever is charged with a
//! queue has what has grown given back as soon as it is empty; what is small stays, for the next packets to use without
//! asking the allocator.

use std::collections::VecDeque;

/// Gives the memory of a queue back, if it is empty and has grown.
pub(crate) fn give_back_grown<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() && queue.capacity() > KEPT_BYTES_MAX / size_of::<T>() {
        *queue = VecDeque::new();
    }
}

/// Bytes that a queue holds, as they are allocated: so they change rarely.
pub(crate) fn bytes<T>(queue: &VecDeque<T>) -> usize {
    queue.capacity() * size_of::<T>()
}

/// An empty queue keeps no more: some dozens of entries of any kind.
pub(crate) const KEPT_BYTES_MAX: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_grown_goes_back_when_it_is_empty() {
        let mut queue: VecDeque<u64> = (0..1_000).collect();
        give_back_grown(&mut queue);
        assert_eq!(queue.len(), 1_000);
        assert!(bytes(&queue) >= 8_000);
        queue.drain(..999);
        give_back_grown(&mut queue);
        assert_eq!(queue.len(), 1);
        queue.clear();
        give_back_grown(&mut queue);
        assert_eq!(bytes(&queue), 0);
    }

    #[test]
    fn what_is_small_stays() {
        let mut queue: VecDeque<u64> = VecDeque::with_capacity(100);
        give_back_grown(&mut queue);
        assert_eq!(bytes(&queue), 800);
    }
}
