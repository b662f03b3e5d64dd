//! The turn: the loop that drives one shard, generic over what does the I/O.
//!
//! ```text
//!  sleep, unless there is work ─► receive a batch ─► handshakes ─► mailboxes ─► timers ─► settle ─► transmit ─► flush, wake
//!     ▲                                                                                                          │
//!     └──────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//! The order matters. Input goes before timers, because an acknowledgement may disarm one. Handshakes have a budget of
//! time, not of packets: 256 of them would be 38 ms. The clock is read again before timers and transmission. Mailboxes
//! are flushed after transmission, with one wake per sleeping peer and turn.
//!
//! Sleep and wake: a shard raises its flag, looks into its mailboxes once more, and only then waits; a sender puts its
//! message in the ring, then looks at the flag. Whatever the order, one of the two sees the other
//! ([`quelea_router::SleepFlags`]). A wake costs many times what a small message does, so a shard says how deeply it
//! sleeps: while nobody waits for what others answer (QoS 0, credit), their replies wait for its next wake.

use core::time::Duration;
use std::time::Instant;

use quelea_router::{ShardSet, Sleep, SleepFlags};

use crate::link::DoorId;
use crate::quic::Transmit;
use crate::shard::{DoorAction, Request, Shard};

/// What a turn needs of the world: a clock, sockets, and something to wait on.
pub trait Driver {
    /// The time.
    fn now(&mut self) -> Instant;

    /// Hands at most one batch of input to the shard; if there is none, waits for it until then (`None`: for as long as
    /// it takes; a time that has passed: not at all). A wake by another shard ends the wait.
    fn receive(&mut self, shard: &mut Shard, until: Option<Instant>);

    /// Sends datagrams.
    fn transmit(&mut self, transmit: &Transmit, contents: &[u8]);

    /// Does something to a byte stream.
    fn door(&mut self, door: DoorId, action: DoorAction);

    /// Has a side thread do something.
    fn request(&mut self, request: Request);

    /// Everything of this turn has been handed over: submit it. What is complete at once (a write that the kernel has
    /// taken) may be told to the shard here, so that it need not keep the next [`Driver::receive`] from waiting.
    fn submit(&mut self, shard: &mut Shard);

    /// Rings the doorbells of these shards.
    fn wake(&mut self, shards: ShardSet);
}

/// What a turn keeps from one to the next.
#[derive(Debug, Default)]
pub struct Turn {
    buffer: Vec<u8>,
    busy: bool,
}

impl Turn {
    /// A loop that has not turned yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One turn: [`Turn::before_wait`], the wait, [`Turn::after_wait`].
    pub fn run<D: Driver>(&mut self, shard: &mut Shard, driver: &mut D, sleep: &SleepFlags) {
        let until = self.before_wait(shard, driver.now(), sleep);
        driver.receive(shard, until);
        self.after_wait(shard, driver, sleep);
    }

    /// The half before the wait: until when [`Driver::receive`] may sleep. Apart from the other half for a driver that
    /// cannot wait inside a call because it runs all shards in one thread.
    pub fn before_wait(&mut self, shard: &mut Shard, now: Instant, sleep: &SleepFlags) -> Option<Instant> {
        let due = shard.poll_timeout();
        if self.busy || due.is_some_and(|due| due <= now) {
            return Some(now);
        }
        let depth = if shard.awaits_replies() { Sleep::Light } else { Sleep::Deep };
        sleep.go_to_sleep(shard.id(), depth);
        if shard.has_envelopes() {
            return Some(now);
        }
        if depth == Sleep::Deep && shard.has_open_tickets() {
            let look = now + UNAWAITED_REPLIES_REST;
            return Some(due.map_or(look, |due| due.min(look)));
        }
        due
    }

    /// The half after the wait, in which everything is done.
    pub fn after_wait<D: Driver>(&mut self, shard: &mut Shard, driver: &mut D, sleep: &SleepFlags) {
        sleep.stay_awake(shard.id());

        let began = driver.now();
        shard.accept_handshakes(began, || driver.now().saturating_duration_since(began) > HANDSHAKE_BUDGET);
        shard.handle_envelopes(began, ENVELOPES_PER_LANE);

        let now = driver.now();
        if shard.poll_timeout().is_some_and(|due| due <= now) {
            shard.handle_timeout(now);
        }
        shard.settle(now);
        self.transmit(shard, driver, now);

        let (sent, stuck) = shard.flush_envelopes();
        let bells = sent.to_ring(sleep);
        if !bells.is_empty() {
            driver.wake(bells);
        }
        self.busy = stuck || shard.has_unfinished() || shard.has_handshakes();
    }

    /// One pass over what is dirty: byte streams first, they are cheap; then datagrams, packed per connection.
    fn transmit<D: Driver>(&mut self, shard: &mut Shard, driver: &mut D, now: Instant) {
        while let Some((door, action)) = shard.poll_door() {
            driver.door(door, action);
        }
        loop {
            self.buffer.clear();
            let Some(transmit) = shard.poll_transmit(now, &mut self.buffer) else { break };
            driver.transmit(&transmit, &self.buffer[..transmit.bytes]);
        }
        while let Some(request) = shard.poll_request() {
            driver.request(request);
        }
        driver.submit(shard);
    }
}

/// Handshakes may take this much of a turn: a few of them.
const HANDSHAKE_BUDGET: Duration = Duration::from_micros(500);

/// Replies for which nobody waits (credit, acceptances of QoS 0) lie in the mailbox for so long at most: rare enough to cost
/// nothing, and short for a ticket that keeps memory.
const UNAWAITED_REPLIES_REST: Duration = Duration::from_millis(20);

/// Envelopes taken from each lane of each peer in one turn.
const ENVELOPES_PER_LANE: usize = 256;
