//! One timer per connection: a binary heap that knows where each connection stands in it.
//!
//! Timers are lazy: a deadline that moves later is not moved here, it is looked at when it fires. So a connection is in the
//! heap at most once, and a packet that only puts off the idle timeout costs nothing.

use std::time::Instant;

/// The earliest deadlines of all connections.
#[derive(Default)]
pub(super) struct Timers {
    heap: Vec<(Instant, u32)>,
    /// By slot: where it stands in the heap.
    place: Vec<Option<usize>>,
}

impl Timers {
    /// Arms a timer unless it is armed for an earlier time.
    pub(super) fn arm_earlier(&mut self, slot: u32, at: Instant) {
        if self.place.len() <= slot as usize {
            self.place.resize(slot as usize + 1, None);
        }
        match self.place[slot as usize] {
            Some(place) if self.heap[place].0 <= at => {}
            Some(place) => {
                self.heap[place].0 = at;
                self.sift_up(place);
            }
            None => {
                self.heap.push((at, slot));
                self.place[slot as usize] = Some(self.heap.len() - 1);
                self.sift_up(self.heap.len() - 1);
            }
        }
    }

    /// Forgets a timer.
    pub(super) fn disarm(&mut self, slot: u32) {
        let Some(place) = self.place.get_mut(slot as usize).and_then(Option::take) else { return };
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            self.note(place);
            self.sift_up(place);
            self.sift_down(place);
        }
    }

    /// The first deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.first().map(|(at, _)| *at)
    }

    /// Takes the first timer if it is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let slot = self.heap.first().filter(|(at, _)| *at <= now)?.1;
        self.disarm(slot);
        Some(slot)
    }

    fn note(&mut self, place: usize) {
        self.place[self.heap[place].1 as usize] = Some(place);
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        self.note(one);
        self.note(other);
    }

    fn sift_up(&mut self, mut place: usize) {
        while place > 0 && self.heap[place] < self.heap[(place - 1) / 2] {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let children = 2 * place + 1..(2 * place + 3).min(self.heap.len());
            let Some(least) = children.min_by_key(|child| self.heap[*child]) else { return };
            if self.heap[place] <= self.heap[least] {
                return;
            }
            self.swap(place, least);
            place = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    #[test]
    fn timers_fire_in_order_and_once_whatever_was_done_to_them() {
        #[expect(clippy::disallowed_methods, reason = "an Instant can be made in no other way")]
        let base = Instant::now();
        let mut random = fastrand::Rng::with_seed(7);
        let mut timers = Timers::default();
        let mut model = BTreeMap::new();
        for _ in 0..20_000 {
            let slot = random.u32(0..200);
            let at = base + Duration::from_millis(random.u64(0..1_000));
            match random.u8(0..8) {
                0 => {
                    timers.disarm(slot);
                    model.remove(&slot);
                }
                1 => {
                    let first = model.values().min().copied();
                    assert_eq!(timers.next(), first);
                    let Some(first) = first else { continue };
                    assert_eq!(timers.pop_due(first - Duration::from_nanos(1)), None);
                    let fired = timers.pop_due(first).expect("it is due");
                    assert_eq!(model.remove(&fired), Some(first));
                }
                _ => {
                    timers.arm_earlier(slot, at);
                    let armed = model.entry(slot).or_insert(at);
                    *armed = at.min(*armed);
                }
            }
        }
    }
}
