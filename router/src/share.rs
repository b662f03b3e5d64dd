//! One `$share` group on its owner shard: who gets the next message (MQTT 5.0 §4.8.2).
//!
//! Members live on any shard. Each lends the group credit, the number of messages it can take now; the group
//! spends it, one per message. What was dispatched and is not acknowledged is remembered by the member's
//! shard, not here: an acknowledgement comes back as new credit, and when a member goes, its shard gives the
//! messages back with their sequence numbers, at which they stand in line again.
//!
//! ```text
//!             push                       next_dispatch
//!  PUBLISH ──────────► waiting, by Seq ────────────────► member's shard ──► session
//!                          ▲                                   │   ack: lend(key, 1)
//!                          └──────────── give_back ────────────┘   gone: leave(key) or
//!                           (never a QoS 2 message once sent)            set_online(key, false)
//! ```
//!
//! Next is the member with the fewest messages in flight, among equals the one that has waited longest for
//! its turn. Invariants: a message is either waiting here or was handed out once since it was last waiting; a
//! single member gets messages in the order of [`Seq`], but for those given back after later ones went out.
//! `push` is refused at the limits; `give_back` never is, for its message was accepted before: what waits is
//! bounded by the limits plus all credit ever out at one time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A group: `K` names a member, `M` is a message, `V` is what a member asked for (QoS, subscription id).
pub struct ShareGroup<K, M, V = ()> {
    limits: ShareLimits,
    members: BTreeMap<K, Member<V>>,
    /// How many of them are online: asked at every publication, so it is not counted then.
    online: usize,
    /// Members that can take a message, the next one first.
    ready: BTreeSet<Turn<K>>,
    waiting: BTreeMap<Seq, Waiting<M>>,
    bytes: usize,
    next_seq: u64,
    /// Counts dispatches and arrivals, to order those who have equally much in flight.
    turns: u64,
}

/// What a group may keep waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareLimits {
    /// Messages.
    pub messages_max: usize,
    /// Sum of the bytes given with them.
    pub bytes_max: usize,
}

/// A message's place in the group's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// The group is at its limits; the message comes back.
#[derive(Clone, PartialEq, Eq)]
pub struct ShareFull<M>(pub M);

struct Member<V> {
    options: V,
    credit: u32,
    in_flight: u32,
    online: bool,
    last_turn: u64,
}

struct Waiting<M> {
    message: M,
    bytes: usize,
}

/// The order in which members are served.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn<K> {
    in_flight: u32,
    last_turn: u64,
    key: K,
}

impl<K: Copy + Ord, M, V> ShareGroup<K, M, V> {
    /// A group without members.
    pub const fn new(limits: ShareLimits) -> Self {
        Self {
            limits,
            members: BTreeMap::new(),
            online: 0,
            ready: BTreeSet::new(),
            waiting: BTreeMap::new(),
            bytes: 0,
            next_seq: 0,
            turns: 0,
        }
    }

    /// A member joins, online, with what it can take now. If it is a member already, its options are
    /// replaced and returned, and `credit` is all that it has lent from now on.
    pub fn join(&mut self, key: K, options: V, credit: u32) -> Option<V> {
        self.unready(key);
        let last_turn = self.turn();
        let (old, in_flight, last_turn) = match self.members.remove(&key) {
            Some(old) => {
                self.online -= usize::from(old.online);
                (Some(old.options), old.in_flight, old.last_turn)
            }
            None => (None, 0, last_turn),
        };
        self.members.insert(key, Member { options, credit, in_flight, online: true, last_turn });
        self.online += 1;
        self.ready(key);
        old
    }

    /// A member leaves; its options. What it has in flight comes by [`give_back`](Self::give_back), before
    /// or after.
    pub fn leave(&mut self, key: K) -> Option<V> {
        self.unready(key);
        let member = self.members.remove(&key)?;
        self.online -= usize::from(member.online);
        Some(member.options)
    }

    /// A member can take `more_credit` messages more, as many of those it had in flight being done with.
    /// Nothing happens for who is not a member or is offline: the loan crossed with its end.
    pub fn lend(&mut self, key: K, more_credit: u32) {
        self.unready(key);
        if let Some(member) = self.members.get_mut(&key).filter(|member| member.online) {
            member.credit = member.credit.saturating_add(more_credit);
            member.in_flight = member.in_flight.saturating_sub(more_credit);
        }
        self.ready(key);
    }

    /// A member's session lost its connection, or has one again. Offline ends all its credit and its account
    /// of messages in flight, which its shard gives back (those of QoS 2 it keeps); once online it lends anew.
    pub fn set_online(&mut self, key: K, online: bool) {
        self.unready(key);
        if let Some(member) = self.members.get_mut(&key).filter(|member| member.online != online) {
            member.online = online;
            member.credit = 0;
            member.in_flight = 0;
            match online {
                true => self.online += 1,
                false => self.online -= 1,
            }
        }
        self.ready(key);
    }

    /// A new message for the group. `bytes` is what it costs while it waits.
    ///
    /// # Errors
    /// [`ShareFull`] if a limit would be exceeded; see [`drop_oldest`](Self::drop_oldest).
    pub fn push(&mut self, message: M, bytes: usize) -> Result<Seq, ShareFull<M>> {
        let bytes_after = self.bytes.saturating_add(bytes);
        // The first is always taken, however large: there is nothing whose going would make room for it.
        let is_full = self.waiting.len() >= self.limits.messages_max || bytes_after > self.limits.bytes_max;
        if is_full && !self.waiting.is_empty() {
            return Err(ShareFull(message));
        }
        let seq = Seq(self.next_seq);
        self.next_seq += 1;
        self.wait(seq, message, bytes);
        Ok(seq)
    }

    /// A message that was dispatched and not acknowledged is in line again, at its old place.
    pub fn give_back(&mut self, seq: Seq, message: M, bytes: usize) {
        assert!(seq.0 < self.next_seq, "message {} was never in this group", seq.0);
        self.wait(seq, message, bytes);
    }

    /// The next message and who gets it, as long as one waits and someone has credit.
    pub fn next_dispatch(&mut self) -> Option<(K, Seq, M)> {
        let key = self.ready.first()?.key;
        let (seq, message) = self.pop()?;
        self.unready(key);
        let last_turn = self.turn();
        let Some(member) = self.members.get_mut(&key) else { unreachable!("who is ready is a member") };
        member.credit -= 1;
        member.in_flight = member.in_flight.saturating_add(1);
        member.last_turn = last_turn;
        self.ready(key);
        Some((key, seq, message))
    }

    /// Takes out the message that has waited longest, for a policy that prefers new ones; the caller counts it.
    pub fn drop_oldest(&mut self) -> Option<M> {
        self.pop().map(|(_, message)| message)
    }

    /// What a member asked for.
    pub fn options(&self, key: K) -> Option<&V> {
        self.members.get(&key).map(|member| &member.options)
    }

    /// The members, in the order of their keys.
    pub fn members(&self) -> impl ExactSizeIterator<Item = (K, &V)> {
        self.members.iter().map(|(key, member)| (*key, &member.options))
    }

    /// Members whose client is connected. A number that is kept, however many members there are.
    pub fn online(&self) -> usize {
        self.online
    }

    /// Whether any member's client is connected.
    pub fn has_online(&self) -> bool {
        self.online > 0
    }

    /// Whether nobody is a member: the group can go, and what waits in it with it.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Messages waiting.
    pub fn queued(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes waiting.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory of the group's own tables: what its messages and options point to is not counted. The tables are trees,
    /// whose nodes may be half empty.
    pub fn held_bytes(&self) -> usize {
        let member = size_of::<(K, Member<V>)>() + size_of::<Turn<K>>();
        2 * (self.members.len() * member + self.waiting.len() * size_of::<(Seq, Waiting<M>)>())
    }

    fn wait(&mut self, seq: Seq, message: M, bytes: usize) {
        let before = self.waiting.insert(seq, Waiting { message, bytes });
        assert!(before.is_none(), "message {} waits already", seq.0);
        self.bytes += bytes;
    }

    fn pop(&mut self) -> Option<(Seq, M)> {
        let (seq, waiting) = self.waiting.pop_first()?;
        self.bytes -= waiting.bytes;
        Some((seq, waiting.message))
    }

    fn turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    /// Takes a member out of the line, before anything that decides its place changes.
    fn unready(&mut self, key: K) {
        if let Some(member) = self.members.get(&key) {
            self.ready.remove(&member.place(key));
        }
    }

    /// Puts a member in line if it can take a message.
    fn ready(&mut self, key: K) {
        if let Some(member) = self.members.get(&key).filter(|member| member.online && member.credit > 0) {
            self.ready.insert(member.place(key));
        }
    }
}

impl<V> Member<V> {
    fn place<K>(&self, key: K) -> Turn<K> {
        Turn { in_flight: self.in_flight, last_turn: self.last_turn, key }
    }
}

impl<M> fmt::Debug for ShareFull<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShareFull")
    }
}

impl<M> fmt::Display for ShareFull<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the queue of the shared subscription is full")
    }
}
