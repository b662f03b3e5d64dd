//! The mesh: order within a lane, room, bells; and two threads that may sleep, but not through a bell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use proptest::prelude::*;
use quelea_router::{Doorbells, Mail, Mailbox, MeshConfig, ShardId, Sleep, SleepFlags, mesh};

type TestMailbox = Mailbox<u64, u64, u64, u64>;

const NARROW: MeshConfig = MeshConfig { replies: 1, control: 1, forward: 1, deliver: 1 };

fn shard(index: usize) -> ShardId {
    ShardId::from_index(index)
}

fn try_send(mailbox: &mut TestMailbox, lane: usize, to: ShardId, message: u64) -> Result<(), u64> {
    match lane {
        0 => mailbox.try_send_reply(to, message),
        1 => mailbox.try_send_control(to, message),
        2 => mailbox.try_send_forward(to, message),
        _ => mailbox.try_send_deliver(to, message),
    }
}

fn recv(mailbox: &mut TestMailbox, lane: usize, from: ShardId) -> Option<u64> {
    match lane {
        0 => mailbox.recv_reply(from),
        1 => mailbox.recv_control(from),
        2 => mailbox.recv_forward(from),
        _ => mailbox.recv_deliver(from),
    }
}

fn peek(mailbox: &TestMailbox, lane: usize, from: ShardId) -> Option<u64> {
    match lane {
        0 => mailbox.peek_reply(from),
        1 => mailbox.peek_control(from),
        2 => mailbox.peek_forward(from),
        _ => mailbox.peek_deliver(from),
    }
    .copied()
}

fn slots_free(mailbox: &TestMailbox, lane: usize, to: ShardId) -> usize {
    match lane {
        0 => mailbox.slots_free_reply(to),
        1 => mailbox.slots_free_control(to),
        2 => mailbox.slots_free_forward(to),
        _ => mailbox.slots_free_deliver(to),
    }
}

fn slots_used(mailbox: &TestMailbox, lane: usize, from: ShardId) -> usize {
    match lane {
        0 => mailbox.slots_used_reply(from),
        1 => mailbox.slots_used_control(from),
        2 => mailbox.slots_used_forward(from),
        _ => mailbox.slots_used_deliver(from),
    }
}

proptest! {
    #[test]
    fn behaves_as_a_queue_per_pair_and_lane(
        ops in prop::collection::vec((any::<bool>(), 0..3usize, 0..3usize, 0..4usize), 1..400),
    ) {
        let capacities = [1, 2, 3, 4];
        let config = MeshConfig { replies: 1, control: 2, forward: 3, deliver: 4 };
        let mut mailboxes: Vec<TestMailbox> = mesh(3, config);
        let mut queues = vec![std::collections::VecDeque::new(); 3 * 3 * 4];
        let mut bells = [Doorbells::default(); 3];
        for (message, (send, a, b, lane)) in (0u64..).zip(ops) {
            if a == b {
                // The bells of one shard, now and then.
                prop_assert_eq!(mailboxes[a].take_doorbells(), std::mem::take(&mut bells[a]));
                continue;
            }
            let queue = &mut queues[(a * 3 + b) * 4 + lane];
            if send {
                let sent = try_send(&mut mailboxes[a], lane, shard(b), message);
                if queue.len() == capacities[lane] {
                    prop_assert_eq!(sent, Err(message));
                } else {
                    prop_assert_eq!(sent, Ok(()));
                    queue.push_back(message);
                    let bells = &mut bells[a];
                    let bells = if lane == 0 { &mut bells.replies } else { &mut bells.requests };
                    bells.insert(shard(b));
                }
            } else {
                prop_assert_eq!(peek(&mailboxes[b], lane, shard(a)), queue.front().copied());
                prop_assert_eq!(recv(&mut mailboxes[b], lane, shard(a)), queue.pop_front());
            }
            let used = queue.len();
            prop_assert_eq!(slots_used(&mailboxes[b], lane, shard(a)), used);
            prop_assert_eq!(slots_free(&mailboxes[a], lane, shard(b)), capacities[lane] - used);
            let waits = (0..3).any(|from| (0..4).any(|lane| !queues[(from * 3 + b) * 4 + lane].is_empty()));
            prop_assert_eq!(mailboxes[b].has_incoming(), waits);
        }
    }
}

#[test]
fn every_shard_reaches_every_other_and_not_itself() {
    let mut mailboxes: Vec<TestMailbox> = mesh(5, NARROW);
    for (a, mailbox) in mailboxes.iter_mut().enumerate() {
        assert_eq!((mailbox.shard(), mailbox.shards()), (shard(a), 5));
        let peers: Vec<_> = mailbox.peers().collect();
        assert_eq!(peers.len(), 4);
        for b in peers {
            mailbox.try_send_forward(b, (a * 10 + b.index()) as u64).expect("a slot is free");
        }
    }
    for (b, mailbox) in mailboxes.iter_mut().enumerate() {
        assert_eq!(mailbox.recv_forward(shard(b)), None);
        for a in (0..5).filter(|a| *a != b) {
            assert_eq!(mailbox.recv_forward(shard(a)), Some((a * 10 + b) as u64));
        }
    }
}

#[test]
#[should_panic(expected = "no ring to 0")]
fn a_message_to_oneself_is_our_own_fault() {
    let mut mailboxes: Vec<TestMailbox> = mesh(2, NARROW);
    let _ = mailboxes[0].try_send_control(shard(0), 1);
}

#[test]
fn what_nobody_took_is_dropped_with_the_mesh() {
    let message = Arc::new(());
    let mut mailboxes: Vec<Mailbox<(), (), Arc<()>, ()>> = mesh(2, NARROW);
    mailboxes[0].try_send_forward(shard(1), message.clone()).expect("a slot is free");
    drop(mailboxes);
    assert_eq!(Arc::strong_count(&message), 1);
}

#[test]
fn of_several_senders_one_rings() {
    let flags = SleepFlags::new(2);
    assert!(!flags.must_wake(shard(1), Mail::Requests), "who is awake needs no bell");
    flags.go_to_sleep(shard(1), Sleep::Light);
    assert!(!flags.must_wake(shard(0), Mail::Requests));
    assert!(flags.clone().must_wake(shard(1), Mail::Requests));
    assert!(!flags.must_wake(shard(1), Mail::Requests));
    flags.go_to_sleep(shard(1), Sleep::Light);
    flags.stay_awake(shard(1));
    assert!(!flags.must_wake(shard(1), Mail::Requests));
}

#[test]
fn replies_wake_who_waits_for_them_and_requests_wake_everyone() {
    let flags = SleepFlags::new(2);
    flags.go_to_sleep(shard(1), Sleep::Deep);
    assert!(!flags.must_wake(shard(1), Mail::Replies));
    assert!(flags.must_wake(shard(1), Mail::Requests), "still asleep");
    flags.go_to_sleep(shard(1), Sleep::Light);
    assert!(flags.must_wake(shard(1), Mail::Replies));
}

#[test]
fn doorbells_know_who_got_what() {
    let mut mailboxes: Vec<TestMailbox> = mesh(4, NARROW);
    let flags = SleepFlags::new(4);
    (1..4).for_each(|peer| flags.go_to_sleep(shard(peer), Sleep::Deep));
    let sender = &mut mailboxes[0];
    (1..4).for_each(|peer| sender.try_send_reply(shard(peer), 1).expect("a slot is free"));
    sender.try_send_control(shard(2), 1).expect("a slot is free");
    sender.urge(shard(3));
    let bells: Vec<ShardId> = sender.take_doorbells().to_ring(&flags).iter().collect();
    assert_eq!(bells, [shard(2), shard(3)], "1 has replies alone; the lane to 3 is full");
    assert!(sender.take_doorbells().is_empty());
}

/// One shard's thread: its mailbox, its bell and the bells of all.
struct Shard {
    mailbox: TestMailbox,
    flags: SleepFlags,
    bell: Receiver<()>,
    bells: Vec<SyncSender<()>>,
}

impl Shard {
    /// A bell keeps one ring, as an eventfd does.
    fn ring(&mut self) {
        for peer in self.mailbox.take_doorbells().to_ring(&self.flags).iter() {
            let _ = self.bells[peer.index()].try_send(());
        }
    }

    fn wait(&self) {
        self.flags.go_to_sleep(self.mailbox.shard(), Sleep::Light);
        if !self.mailbox.has_incoming() {
            // Nobody sleeps for long here: a minute means that a wake was lost.
            self.bell.recv_timeout(Duration::from_secs(60)).expect("a bell rings for what was sent");
        }
        self.flags.stay_awake(self.mailbox.shard());
    }
}

fn shards(config: MeshConfig) -> [Shard; 2] {
    let flags = SleepFlags::new(2);
    let (bells, ears): (Vec<_>, Vec<_>) = (0..2).map(|_| sync_channel(1)).unzip();
    let mut parts = mesh(2, config).into_iter().zip(ears).map(|(mailbox, bell)| Shard {
        mailbox,
        flags: flags.clone(),
        bell,
        bells: bells.clone(),
    });
    std::array::from_fn(|_| parts.next().expect("two shards"))
}

/// Answers every message on the lane of replies with its double.
fn serve(mut shard: Shard, peer: ShardId, messages: u64) {
    let mut answered = 0;
    while answered < messages {
        while let Some(message) = shard.mailbox.recv_forward(peer) {
            assert_eq!(message, answered, "in order");
            shard.mailbox.try_send_reply(peer, message * 2).expect("its slot is reserved");
            answered += 1;
        }
        shard.ring();
        if answered < messages {
            shard.wait();
        }
    }
}

/// Sends with no more unanswered than the replies have room.
fn ask(mut shard: Shard, peer: ShardId, messages: u64, window: u64) {
    let (mut sent, mut answered) = (0, 0);
    while answered < messages {
        while let Some(reply) = shard.mailbox.recv_reply(peer) {
            assert_eq!(reply, answered * 2, "in order");
            answered += 1;
        }
        while sent < messages
            && sent - answered < window
            && shard.mailbox.try_send_forward(peer, sent).is_ok()
        {
            sent += 1;
        }
        shard.ring();
        if answered < messages {
            shard.wait();
        }
    }
}

/// Both sides sleep whenever they have nothing to do; a lost wake ends in the time-out of [`Shard::wait`].
fn two_threads(capacity: usize, messages: u64) {
    let config = MeshConfig { replies: capacity, forward: capacity, ..NARROW };
    let [first, second] = shards(config);
    std::thread::scope(|scope| {
        scope.spawn(|| serve(second, shard(0), messages));
        scope.spawn(|| ask(first, shard(1), messages, capacity as u64));
    });
}

#[test]
fn two_threads_with_one_slot_lose_no_message_and_no_wake() {
    two_threads(1, 50_000);
}

#[test]
fn two_threads_with_many_slots_lose_no_message_and_no_wake() {
    two_threads(64, 500_000);
}

/// Lets two threads go on at the same moment, as closely as they can.
#[derive(Default)]
struct Gate(AtomicU64);

impl Gate {
    fn pass(&self) {
        let arrived = self.0.fetch_add(1, Ordering::AcqRel) + 1;
        let both = arrived.next_multiple_of(2);
        let mut spins = 0u32;
        while self.0.load(Ordering::Acquire) < both {
            spins += 1;
            if spins.is_multiple_of(1_000) {
                std::thread::yield_now();
            }
        }
    }
}

/// The two fences alone: one thread goes to sleep while the other sends. Either the first sees the message or
/// the second sees the flag.
#[test]
fn a_message_and_a_nap_do_not_miss_each_other() {
    const ROUNDS: u64 = 100_000;
    // All pairs of small delays, as the two are never through the gate at quite the same time.
    let delay = |steps: u64| (0..steps % 32).for_each(|_| std::hint::spin_loop());
    let flags = SleepFlags::new(2);
    let (gate, saw) = (Gate::default(), AtomicBool::new(false));
    let mut missed = 0;
    let mut mailboxes = mesh(2, NARROW).into_iter();
    let mut sender: TestMailbox = mailboxes.next().expect("two shards");
    let mut sleeper = mailboxes.next().expect("two shards");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                gate.pass();
                delay(round);
                flags.go_to_sleep(shard(1), Sleep::Light);
                saw.store(sleeper.has_incoming(), Ordering::Relaxed);
                gate.pass();
                gate.pass();
                flags.stay_awake(shard(1));
                assert!(sleeper.recv_reply(shard(0)).is_some());
            }
        });
        for round in 0..ROUNDS {
            gate.pass();
            delay(round / 32);
            sender.try_send_reply(shard(1), round).expect("it was taken");
            let woke = flags.must_wake(shard(1), Mail::Replies);
            gate.pass();
            missed += u64::from(!saw.load(Ordering::Relaxed) && !woke);
            gate.pass();
        }
    });
    assert_eq!(missed, 0, "of {ROUNDS} messages so many wait for ever");
}
