//! A shared group against a model: nothing lost, nothing twice, fair, in order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use quelea_router::{Seq, ShareGroup, ShareLimits};

const LIMITS: ShareLimits = ShareLimits { messages_max: 20, bytes_max: 1_000 };

#[derive(Clone, Debug)]
enum Op {
    Push(usize),
    Dispatch,
    DispatchAll,
    Join(u8, u32),
    Leave(u8),
    Ack(u8),
    Widen(u8, u32),
    Offline(u8),
    Online(u8, u32),
    DropOldest,
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..5u8;
    prop_oneof![
        8 => (0..120usize).prop_map(Op::Push),
        6 => Just(Op::Dispatch),
        1 => Just(Op::DispatchAll),
        2 => (key.clone(), 0..4u32).prop_map(|(key, credit)| Op::Join(key, credit)),
        1 => key.clone().prop_map(Op::Leave),
        6 => key.clone().prop_map(Op::Ack),
        1 => (key.clone(), 0..4u32).prop_map(|(key, credit)| Op::Widen(key, credit)),
        1 => key.clone().prop_map(Op::Offline),
        1 => (key, 0..4u32).prop_map(|(key, credit)| Op::Online(key, credit)),
        1 => Just(Op::DropOldest),
    ]
}

#[derive(Default)]
struct ModelMember {
    online: bool,
    credit: u32,
    /// What the group counts, and the messages themselves (on the member's shard).
    in_flight: u32,
    unacked: BTreeMap<Seq, Message>,
    last_turn: u64,
}

/// (identity, bytes)
type Message = (u64, usize);

struct Run {
    group: ShareGroup<u8, Message, &'static str>,
    members: BTreeMap<u8, ModelMember>,
    waiting: BTreeMap<Seq, Message>,
    accepted: u64,
    ended: BTreeSet<u64>,
    turns: u64,
}

impl Run {
    fn new() -> Self {
        Self {
            group: ShareGroup::new(LIMITS),
            members: BTreeMap::new(),
            waiting: BTreeMap::new(),
            accepted: 0,
            ended: BTreeSet::new(),
            turns: 0,
        }
    }

    fn push(&mut self, bytes: usize) {
        let message = (self.accepted, bytes);
        let waiting_bytes: usize = self.waiting.values().map(|(_, bytes)| bytes).sum();
        let fits = self.waiting.len() < LIMITS.messages_max && waiting_bytes + bytes <= LIMITS.bytes_max;
        match self.group.push(message, bytes) {
            Ok(seq) => {
                assert!(fits);
                self.accepted += 1;
                self.waiting.insert(seq, message);
            }
            Err(full) => assert!(!fits && full.0 == message),
        }
    }

    fn dispatch(&mut self) -> bool {
        let ready = self.members.iter().filter(|(_, member)| member.online && member.credit > 0);
        let best = ready.map(|(key, member)| (member.in_flight, member.last_turn, *key)).min();
        let Some((key, seq, message)) = self.group.next_dispatch() else {
            assert!(best.is_none() || self.waiting.is_empty(), "someone could take a message");
            return false;
        };
        assert_eq!(Some(key), best.map(|best| best.2), "fewest in flight, longest without a turn");
        assert_eq!(self.waiting.pop_first(), Some((seq, message)), "the oldest goes first, unchanged");
        self.turns += 1;
        let member = self.members.get_mut(&key).expect("a member");
        (member.credit, member.in_flight, member.last_turn) =
            (member.credit - 1, member.in_flight + 1, self.turns);
        assert!(member.unacked.insert(seq, message).is_none());
        true
    }

    fn give_back(&mut self, unacked: BTreeMap<Seq, Message>) {
        // From the newest, the order that is hardest to get right.
        for (seq, message) in unacked.into_iter().rev() {
            self.group.give_back(seq, message, message.1);
            self.waiting.insert(seq, message);
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Push(bytes) => self.push(bytes),
            Op::Dispatch => {
                self.dispatch();
            }
            Op::DispatchAll => while self.dispatch() {},
            Op::Join(key, credit) => {
                self.turns += 1;
                let turn = self.turns;
                let is_new = !self.members.contains_key(&key);
                assert_eq!(self.group.join(key, "options", credit).is_none(), is_new);
                let member = self.members.entry(key).or_default();
                (member.online, member.credit) = (true, credit);
                if is_new {
                    member.last_turn = turn;
                }
            }
            Op::Leave(key) => {
                let member = self.members.remove(&key);
                assert_eq!(self.group.leave(key).is_some(), member.is_some());
                self.give_back(member.unwrap_or_default().unacked);
            }
            Op::Ack(key) => {
                let Some(member) = self.members.get_mut(&key).filter(|member| member.online) else { return };
                let Some((_, (id, _))) = member.unacked.pop_first() else { return };
                assert!(self.ended.insert(id), "message {id} was acknowledged twice");
                self.lend(key, 1);
            }
            Op::Widen(key, credit) => self.lend(key, credit),
            Op::Offline(key) => {
                self.group.set_online(key, false);
                let Some(member) = self.members.get_mut(&key).filter(|member| member.online) else { return };
                (member.online, member.credit, member.in_flight) = (false, 0, 0);
                let unacked = std::mem::take(&mut member.unacked);
                self.give_back(unacked);
            }
            Op::Online(key, credit) => {
                self.group.set_online(key, true);
                let Some(member) = self.members.get_mut(&key).filter(|member| !member.online) else { return };
                (member.online, member.credit, member.in_flight) = (true, 0, 0);
                self.lend(key, credit);
            }
            Op::DropOldest => {
                let oldest = self.waiting.pop_first().map(|(_, message)| message);
                assert_eq!(self.group.drop_oldest(), oldest);
                self.ended.extend(oldest.map(|(id, _)| id));
            }
        }
    }

    fn lend(&mut self, key: u8, credit: u32) {
        self.group.lend(key, credit);
        if let Some(member) = self.members.get_mut(&key).filter(|member| member.online) {
            member.credit += credit;
            member.in_flight = member.in_flight.saturating_sub(credit);
        }
    }

    fn check(&self) {
        assert_eq!(self.group.queued(), self.waiting.len());
        assert_eq!(self.group.bytes(), self.waiting.values().map(|(_, bytes)| bytes).sum::<usize>());
        assert!(self.group.members().map(|(key, _)| key).eq(self.members.keys().copied()));
        assert_eq!(self.group.is_empty(), self.members.is_empty());
        assert_eq!(self.group.online(), self.members.values().filter(|member| member.online).count());
        assert_eq!(self.group.has_online(), self.members.values().any(|member| member.online));
        // Everything accepted is in exactly one place.
        let mut places: Vec<u64> = self.ended.iter().copied().collect();
        places.extend(self.waiting.values().map(|(id, _)| *id));
        places.extend(self.members.values().flat_map(|member| member.unacked.values()).map(|(id, _)| *id));
        places.sort_unstable();
        assert!(places.into_iter().eq(0..self.accepted));
    }
}

proptest! {
    #[test]
    fn loses_nothing_and_hands_out_nothing_twice(ops in prop::collection::vec(op(), 1..400)) {
        let mut run = Run::new();
        for op in &ops {
            run.apply(op);
            run.check();
        }
        // Whatever is left goes to one member, in order, when there is nobody else.
        for key in 0..5 {
            run.apply(&Op::Leave(key));
        }
        run.apply(&Op::Join(9, u32::MAX));
        run.apply(&Op::DispatchAll);
        run.check();
        prop_assert_eq!((run.group.queued(), run.group.bytes()), (0, 0));
    }
}

fn group(credits: &[u32]) -> ShareGroup<u8, u32> {
    let mut group = ShareGroup::new(LIMITS);
    for (key, credit) in (0..).zip(credits) {
        assert_eq!(group.join(key, (), *credit), None);
    }
    group
}

fn dispatch_all(group: &mut ShareGroup<u8, u32>) -> Vec<(u8, u32)> {
    std::iter::from_fn(|| group.next_dispatch()).map(|(key, _, message)| (key, message)).collect()
}

#[test]
fn equals_take_turns() {
    let mut group = group(&[9, 9, 9]);
    for message in 0..6 {
        group.push(message, 0).expect("there is room");
        let (key, _, _) = group.next_dispatch().expect("someone has credit");
        // Done at once, so that all are equal again.
        group.lend(key, 1);
        assert_eq!(u32::from(key), message % 3);
    }
}

#[test]
fn the_slow_member_gets_less() {
    let mut group = group(&[9, 9]);
    for message in 0..4 {
        group.push(message, 0).expect("there is room");
    }
    assert_eq!(dispatch_all(&mut group), [(0, 0), (1, 1), (0, 2), (1, 3)]);
    group.lend(1, 2);
    for message in 4..6 {
        group.push(message, 0).expect("there is room");
    }
    assert_eq!(dispatch_all(&mut group), [(1, 4), (1, 5)]);
}

#[test]
fn without_credit_messages_wait_and_keep_their_order() {
    let mut group = group(&[1]);
    let seqs: Vec<_> = (0..3).map(|message| group.push(message, 10).expect("there is room")).collect();
    assert!(seqs.is_sorted());
    assert_eq!(dispatch_all(&mut group), [(0, 0)]);
    assert_eq!((group.queued(), group.bytes()), (2, 20));
    // The first message comes back and stands before the others again.
    group.set_online(0, false);
    group.give_back(seqs[0], 0, 10);
    assert_eq!(dispatch_all(&mut group), []);
    group.set_online(0, true);
    assert_eq!(dispatch_all(&mut group), [], "who is back lends anew");
    group.lend(0, 3);
    assert_eq!(dispatch_all(&mut group), [(0, 0), (0, 1), (0, 2)]);
}

#[test]
fn a_full_group_takes_back_but_takes_nothing_new() {
    let mut group = group(&[1]);
    let first = group.push(0, 0).expect("there is room");
    assert_eq!(dispatch_all(&mut group), [(0, 0)]);
    for message in 1..=20 {
        group.push(message, 0).expect("there is room");
    }
    assert_eq!(group.push(21, 0).expect_err("twenty wait").0, 21);
    group.leave(0);
    group.give_back(first, 0, 0);
    assert_eq!(group.queued(), 21);
    assert_eq!(group.drop_oldest(), Some(0));
}

#[test]
fn above_the_limit_of_bytes_even_an_empty_message_waits_outside() {
    let mut group = group(&[1]);
    let first = group.push(0, 600).expect("there is room");
    assert_eq!(dispatch_all(&mut group), [(0, 0)]);
    group.push(1, 600).expect("there is room");
    group.give_back(first, 0, 600);
    assert_eq!(group.bytes(), 1_200);
    assert_eq!(group.push(2, 0).expect_err("more waits than may").0, 2);
}

#[test]
#[should_panic(expected = "was never in this group")]
fn a_message_of_another_group_is_our_own_fault() {
    group(&[1]).give_back(Seq(0), 0, 0);
}
