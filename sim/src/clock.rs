//! The broker's clock, which jumps: its machine is suspended and goes on after seconds or hours. All shards have one clock;
//! clients and the network have another, that of the run. The oracle judges by the broker's.
//!
//! What a jump may cost is what time may cost: deadlines have passed, connections are given up, sessions and messages have
//! expired. What was acknowledged to who is still there is not lost, and everything settles.

use std::time::{Duration, Instant};

use crate::event::Event;
use crate::node::Thread;
use crate::world::{Act, World};

impl World {
    /// What the broker's clock shows.
    pub(crate) fn broker_now(&self) -> Instant {
        self.now + self.skew
    }

    /// When the run comes to what is a time to the broker.
    pub(crate) fn until_broker_shows(&self, time: Instant) -> Instant {
        time.checked_sub(self.skew).unwrap_or(self.now)
    }

    /// CONNACK comes to a client: its session may have expired if the clock has jumped far enough since the CONNECT before.
    pub(crate) fn note_jumps(&mut self, actor: usize) {
        let player = &mut self.actors[actor];
        // CONNACK may have lain unread while the clock went on.
        let jumped = self.skew - std::mem::replace(&mut player.skew, player.skew_at_connect);
        if !jumped.is_zero()
            && jumped + RUN_LASTS >= Duration::from_secs(player.character.session_expiry_s.into())
        {
            self.oracle.on_may_expire(actor);
        }
    }

    /// Whether everyone has been heard from since the clock jumped: who was silent before it has lost that much of its keep
    /// alive.
    pub(crate) fn is_jump_settled(&self) -> bool {
        let silence =
            Duration::from_secs(self.plan.habits.keep_alive_s.into()) * 3 / 2 + Duration::from_secs(1);
        self.jumped_at.is_none_or(|at| self.now >= at + silence)
    }

    /// The first jump is due.
    pub(crate) fn expect_jumps(&mut self) {
        if let Some(pause) = self.plan.jump_us.clone() {
            let at = self.now + self.micros(pause);
            self.events.push(at, Event::Jump);
        }
    }

    /// The clock jumps, and the next jump is due.
    pub(crate) fn jump(&mut self) {
        if self.phase != Act::Storm {
            return;
        }
        let by = match self.random.u8(0..4) {
            0 => Duration::from_millis(self.random.u64(1..1_000)),
            1 => Duration::from_secs(self.random.u64(1..30)),
            2 => Duration::from_secs(self.random.u64(30..600)),
            _ => Duration::from_secs(self.random.u64(600..30_000)),
        };
        self.skew = (self.skew + by).min(SKEW_MAX);
        self.jumped_at = Some(self.now);
        self.tell(|| format!("the broker's clock jumps by {by:?}"));
        // Whatever they slept until may have passed.
        for shard in 0..self.nodes.len() {
            if self.nodes[shard].thread == Thread::Asleep {
                self.ring(shard);
            }
        }
        self.expect_jumps();
    }
}

/// All jumps together stay below [`WATCHER_EXPIRY_S`].
const SKEW_MAX: Duration = Duration::from_secs(500_000);

/// How long the session of the watcher lives where the clock jumps: a Will that nobody sees cannot be judged.
pub(crate) const WATCHER_EXPIRY_S: u32 = 600_000;

/// No run takes longer by its own clock.
const RUN_LASTS: Duration = Duration::from_secs(300);
