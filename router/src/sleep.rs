//! Who sleeps, and how deeply: one flag per shard, so that a sender rings the bell (a system call, and a wake of some
//! ten microseconds on each side) only where it is needed.
//!
//! ```text
//!  receiver, about to wait                 sender, at the end of its turn
//!  1. go_to_sleep: flag = how deeply       1. push into the ring
//!  2. ──── fence SeqCst ────               2. ──── fence SeqCst ────   (in must_wake)
//!  3. has_incoming? look at the rings      3. flag asks to be woken for such mail?
//!     yes: stay_awake   no: wait              yes: take it down, ring the bell
//! ```
//!
//! Only the receiver knows whether it waits for a reply, so it says so when it lies down: replies alone do not disturb
//! a [`Sleep::Deep`] sleeper, which finds them when something else wakes it.
//!
//! A wake is lost only if the receiver misses the push *and* the sender misses the flag. The two fences have
//! an order. If the receiver's comes first, its flag, written before it, is seen by the sender's load behind
//! the other fence; if the sender's comes first, its push is seen by the receiver's look at the rings. A bell
//! that is rung for nobody (the receiver was just about to look) is harmless.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering, fence};

use crossbeam_utils::CachePadded;

use crate::shards::{SHARDS_MAX, ShardId};

/// How deeply a shard sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// It waits for nobody's reply: they can lie until it wakes for something else.
    Deep,
    /// Whatever comes is to wake it.
    Light,
}

/// What a shard has sent to another in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mail {
    /// Nothing but replies.
    Replies,
    /// Something that the other does not expect.
    Requests,
}

/// The flags of all shards; a clone shares them.
#[derive(Clone)]
pub struct SleepFlags {
    sleeping: Arc<[CachePadded<AtomicU8>]>,
}

// What a flag says, in the order of how little it takes to wake its shard.
const AWAKE: u8 = 0;
const DEEP: u8 = 1;
const LIGHT: u8 = 2;

impl SleepFlags {
    /// Everyone is awake.
    pub fn new(shards: usize) -> Self {
        assert!((1..=SHARDS_MAX).contains(&shards));
        Self { sleeping: (0..shards).map(|_| CachePadded::new(AtomicU8::new(AWAKE))).collect() }
    }

    /// `shard` is about to wait for its bell. It must then look at its mailbox once more
    /// ([`Mailbox::has_incoming`](crate::Mailbox::has_incoming)), and not wait if there is something.
    pub fn go_to_sleep(&self, shard: ShardId, sleep: Sleep) {
        let flag = match sleep {
            Sleep::Deep => DEEP,
            Sleep::Light => LIGHT,
        };
        self.sleeping[shard.index()].store(flag, Ordering::Relaxed);
        // Pairs with the fence in `must_wake`.
        fence(Ordering::SeqCst);
    }

    /// `shard` is awake: it found something, or its timer or a socket woke it.
    pub fn stay_awake(&self, shard: ShardId) {
        self.sleeping[shard.index()].store(AWAKE, Ordering::Relaxed);
    }

    /// Whether the caller, who has put something into `shard`'s mailbox, must ring its bell. Of several
    /// senders one is told to.
    pub fn must_wake(&self, shard: ShardId, mail: Mail) -> bool {
        // Pairs with the fence in `go_to_sleep`; orders the push (a release store of the ring's tail) before
        // the load of the flag, which release alone does not.
        fence(Ordering::SeqCst);
        let flag = &self.sleeping[shard.index()];
        let enough = match mail {
            Mail::Replies => LIGHT,
            Mail::Requests => DEEP,
        };
        // The load first keeps the line shared while nobody sleeps. What the flag has become meanwhile does not
        // matter: a bell that is rung for less than was asked for is as harmless as one for nobody.
        flag.load(Ordering::Relaxed) >= enough && flag.swap(AWAKE, Ordering::Relaxed) != AWAKE
    }
}

impl fmt::Debug for SleepFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sleeping = self.sleeping.iter().map(|flag| flag.load(Ordering::Relaxed));
        f.debug_list().entries(sleeping).finish()
    }
}
