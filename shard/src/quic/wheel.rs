//! Timers of the connections: a hierarchical wheel with one entry per connection, re-armed lazily.
//!
//! ```text
//! level 0: 256 slots of 1 ms    level 1: 256 of 256 ms    level 2: 256 of 65.5 s    level 3: 256 of 4.66 h
//! ```
//!
//! An entry lies on the lowest level on which its tick and the present one differ, so everything on a level comes
//! before anything on the next, and the earliest entry is found by looking at four bitmaps. Entries are linked by
//! index: no allocation but the array of nodes.
//!
//! *Lazy*: [`arm_earlier`](Wheel::arm_earlier) moves an entry only when its deadline comes nearer. An idle timeout
//! that every packet pushes back therefore costs nothing; when the stale entry fires, its owner looks at the true
//! deadline and arms again.
//!
//! Invariants: a linked entry's tick is later than `current`; a deadline never fires early, and late by at most two
//! ticks.

use std::time::{Duration, Instant};

/// The wheel: entries are named by small numbers, here the slots of the table of connections.
pub(crate) struct Wheel {
    /// The time of tick 0: the first one this wheel heard of.
    base: Option<Instant>,
    /// All entries up to this tick have fired.
    current: u64,
    nodes: Vec<Node>,
    heads: Box<[u32; PLACES]>,
    occupied: [[u64; 4]; LEVELS],
}

#[derive(Clone, Copy)]
struct Node {
    tick: u64,
    next: u32,
    prev: u32,
    /// Where the entry is linked: a slot of a level, [`DUE`] or [`NOWHERE`].
    place: u16,
}

impl Wheel {
    pub(crate) fn new() -> Self {
        Self {
            base: None,
            current: 0,
            nodes: Vec::new(),
            heads: Box::new([NONE; PLACES]),
            occupied: [[0; 4]; LEVELS],
        }
    }

    /// Arms `entry` for `deadline`, unless it is armed for an earlier time already.
    pub(crate) fn arm_earlier(&mut self, now: Instant, entry: u32, deadline: Instant) {
        let base = *self.base.get_or_insert(now);
        let after = deadline.saturating_duration_since(base);
        let tick = whole_ticks(after) + u64::from(!after.subsec_nanos().is_multiple_of(NANOS_PER_TICK));
        let tick = tick.clamp(self.current + 1, self.current + TICKS_MAX);
        if self.nodes.len() <= entry as usize {
            self.nodes.resize(entry as usize + 1, Node { tick: 0, next: NONE, prev: NONE, place: NOWHERE });
        }
        let node = self.nodes[entry as usize];
        if node.place != NOWHERE {
            if node.tick <= tick {
                return;
            }
            self.unlink(entry);
        }
        self.nodes[entry as usize].tick = tick;
        self.link(entry);
    }

    /// Forgets `entry`.
    pub(crate) fn disarm(&mut self, entry: u32) {
        if self.nodes.get(entry as usize).is_some_and(|node| node.place != NOWHERE) {
            self.unlink(entry);
        }
    }

    /// Takes one entry whose time has come.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<u32> {
        let base = self.base?;
        let target = whole_ticks(now.saturating_duration_since(base));
        while self.heads[DUE as usize] == NONE {
            let Some((tick, place)) = self.next_place().filter(|&(tick, _)| tick <= target) else {
                self.current = self.current.max(target);
                return None;
            };
            self.current = tick;
            self.cascade(place);
        }
        let entry = self.heads[DUE as usize];
        self.unlink(entry);
        Some(entry)
    }

    /// When to look again: never later than the earliest entry, sometimes earlier (a slot of an upper level begins).
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let base = self.base?;
        let tick = if self.heads[DUE as usize] == NONE { self.next_place()?.0 } else { self.current };
        Some(base + Duration::from_millis(tick))
    }

    /// Spreads the entries of a slot whose time begins: due ones to the list of due ones, others one level down.
    fn cascade(&mut self, place: u16) {
        while self.heads[place as usize] != NONE {
            let entry = self.heads[place as usize];
            self.unlink(entry);
            self.link(entry);
        }
    }

    /// The earliest occupied slot and the tick it begins at.
    fn next_place(&self) -> Option<(u64, u16)> {
        (0..LEVELS).find_map(|level| {
            let shift = level as u32 * BITS;
            let present = self.current >> shift;
            let mut round = present >> BITS;
            let mut slot = next_set(&self.occupied[level], present as u8 as usize + 1);
            if slot.is_none() && level == LEVELS - 1 {
                // Only the top level wraps: what lies at or below the present slot belongs to the next round.
                round += 1;
                slot = next_set(&self.occupied[level], 0);
            }
            let slot = slot?;
            Some(((round << BITS | u64::from(slot)) << shift, place_of(level, slot)))
        })
    }

    fn link(&mut self, entry: u32) {
        let tick = self.nodes[entry as usize].tick;
        let place = if tick <= self.current {
            DUE
        } else {
            let level = (((tick ^ self.current).ilog2() / BITS) as usize).min(LEVELS - 1);
            let slot = (tick >> (level as u32 * BITS)) as u8;
            self.occupied[level][usize::from(slot >> 6)] |= 1 << (slot & 63);
            place_of(level, slot)
        };
        let head = std::mem::replace(&mut self.heads[place as usize], entry);
        if head != NONE {
            self.nodes[head as usize].prev = entry;
        }
        let node = &mut self.nodes[entry as usize];
        (node.next, node.prev, node.place) = (head, NONE, place);
    }

    fn unlink(&mut self, entry: u32) {
        let Node { next, prev, place, .. } = self.nodes[entry as usize];
        if next != NONE {
            self.nodes[next as usize].prev = prev;
        }
        if prev != NONE {
            self.nodes[prev as usize].next = next;
        } else {
            self.heads[place as usize] = next;
            if next == NONE && place < DUE {
                let (level, slot) = (usize::from(place >> 8), place as u8);
                self.occupied[level][usize::from(slot >> 6)] &= !(1 << (slot & 63));
            }
        }
        self.nodes[entry as usize].place = NOWHERE;
    }
}

fn place_of(level: usize, slot: u8) -> u16 {
    (level as u16) << 8 | u16::from(slot)
}

/// The lowest set bit at `from` or above, of 256.
fn next_set(bits: &[u64; 4], from: usize) -> Option<u8> {
    (from / 64..4).find_map(|word| {
        let mask = if word == from / 64 { u64::MAX << (from % 64) } else { u64::MAX };
        let found = bits[word] & mask;
        (found != 0).then(|| (word * 64) as u8 + found.trailing_zeros() as u8)
    })
}

fn whole_ticks(time: Duration) -> u64 {
    time.as_secs() * 1_000 + u64::from(time.subsec_nanos() / NANOS_PER_TICK)
}

const LEVELS: usize = 4;
const BITS: u32 = 8;
/// One millisecond: finer than any QUIC timer needs (RFC 9002 §6.1.2 takes it as the granularity).
const NANOS_PER_TICK: u32 = 1_000_000;
/// Farthest deadline, half of the wheel's 49 days so that the top level's wrap is unambiguous; a later one fires
/// early, finds its owner's true deadline in the future and is armed again.
const TICKS_MAX: u64 = 1 << 31;
/// The slots of all levels and the list of due entries.
const PLACES: usize = LEVELS * 256 + 1;
const DUE: u16 = (LEVELS * 256) as u16;
const NOWHERE: u16 = u16::MAX;
const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    /// Time zero of a test; the tests' only reading of a clock, never compared with another one.
    fn zero() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "an Instant can be made in no other way")]
        Instant::now()
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Runs until `entry` fires, jumping from deadline to deadline; returns the time since `t0`.
    fn fires_at(wheel: &mut Wheel, t0: Instant, entry: u32) -> Duration {
        loop {
            let now = wheel.next_deadline().expect("something is armed");
            if wheel.pop_expired(now) == Some(entry) {
                return now - t0;
            }
        }
    }

    #[test]
    fn deadlines_on_every_level_fire_in_time_and_never_early() {
        let t0 = zero();
        for wait in [1, 2, 255, 256, 257, 65_535, 65_536, 120_000, 16_777_215, 16_777_216, 2_000_000_000] {
            let mut wheel = Wheel::new();
            wheel.arm_earlier(t0, 0, t0 + ms(wait) + Duration::from_micros(300));
            assert_eq!(fires_at(&mut wheel, t0, 0), ms(wait + 1), "{wait} ms");
            assert_eq!(wheel.next_deadline(), None);
        }
    }

    #[test]
    fn only_an_earlier_deadline_moves_an_entry() {
        let t0 = zero();
        let mut wheel = Wheel::new();
        wheel.arm_earlier(t0, 3, t0 + ms(50));
        wheel.arm_earlier(t0, 3, t0 + ms(90));
        wheel.arm_earlier(t0, 4, t0 + ms(60));
        wheel.arm_earlier(t0, 4, t0 + ms(20));
        assert_eq!(fires_at(&mut wheel, t0, 4), ms(20));
        assert_eq!(fires_at(&mut wheel, t0, 3), ms(50));
    }

    #[test]
    fn a_disarmed_entry_stays_silent() {
        let t0 = zero();
        let mut wheel = Wheel::new();
        for entry in 0..3 {
            wheel.arm_earlier(t0, entry, t0 + ms(10));
        }
        wheel.disarm(1);
        let mut fired: Vec<u32> = std::iter::from_fn(|| wheel.pop_expired(t0 + ms(500))).collect();
        fired.sort_unstable();
        assert_eq!(fired, [0, 2]);
    }

    #[test]
    fn agrees_with_a_sorted_map_over_months() {
        let t0 = zero();
        let mut random = 7u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut wheel = Wheel::new();
        let mut model = std::collections::BTreeMap::new();
        let mut now = 0u64;
        for round in 0..20_000u64 {
            let entry = draw(64) as u32;
            let wait = 1 + draw([10, 300, 70_000, 20_000_000, 1_000_000_000][(round % 5) as usize]);
            wheel.arm_earlier(t0 + ms(now), entry, t0 + ms(now + wait));
            let armed = model.entry(entry).or_insert(now + wait);
            *armed = (*armed).min(now + wait);
            if round % 3 == 0 {
                now += draw([5, 400, 90_000, 40_000_000][(round % 4) as usize]);
                let mut fired: Vec<u32> = std::iter::from_fn(|| wheel.pop_expired(t0 + ms(now))).collect();
                fired.sort_unstable();
                let due: Vec<u32> = model.extract_if(.., |_, tick| *tick <= now).map(|(e, _)| e).collect();
                assert_eq!(fired, due, "round {round}, {now} ms");
            }
        }
        assert!(now > 1 << 33, "the top level has wrapped: {now} ms");
    }
}
