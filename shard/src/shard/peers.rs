//! The other shards as this one sees them: what is on its way to each, and the credit that each has given.
//!
//! Sending never fails and never waits: what has no credit, or no slot in its ring, stays here in order. What may stay
//! here is bounded by the protocols: forwards and QoS 1 and 2 deliveries by the Receive Maximum of this shard's
//! publishers, control messages by what sessions and subscriptions may have outstanding, replies by accumulation.

use std::collections::VecDeque;
use std::time::Instant;

use quelea_router::{Doorbells, ShardId};

use crate::envelope::{Accepted, Control, Deliver, Forward, Reply};
use crate::kept;

use super::work::FILTER_WORK;
use super::{Pull, Shard};

/// What is on its way to one other shard.
#[derive(Debug)]
pub(crate) struct Peer {
    deliver_out: VecDeque<Deliver>,
    deliver_credit: u32,
    forward_out: VecDeque<Forward>,
    forward_credit: u32,
    control_out: VecDeque<Control>,
    reply: Reply,
    /// Acceptances that have come and wait for their turn.
    accepted_in: VecDeque<Accepted>,
    /// The last of our announcements that it has applied.
    pub(crate) interest_acked: u64,
    /// What its queues are charged with, messages not counted.
    charged_bytes: usize,
}

impl Peer {
    pub(crate) fn new(deliver_credit: u32, forward_credit: u32) -> Self {
        Self {
            deliver_out: VecDeque::new(),
            deliver_credit,
            forward_out: VecDeque::new(),
            forward_credit,
            control_out: VecDeque::new(),
            reply: Reply::default(),
            accepted_in: VecDeque::new(),
            interest_acked: 0,
            charged_bytes: 0,
        }
    }

    /// Whether anything stays here for want of credit, of a slot or of a turn.
    fn has_waiting(&self) -> bool {
        !self.deliver_out.is_empty()
            || !self.forward_out.is_empty()
            || !self.control_out.is_empty()
            || !self.reply.accepted.is_empty()
            || self.has_replies()
    }

    /// Memory of the queues, as it is allocated. One that has grown and is empty is given back; one that is small stays, and
    /// is nobody's.
    fn held_bytes(&mut self) -> usize {
        held_by(&mut self.deliver_out)
            + held_by(&mut self.forward_out)
            + held_by(&mut self.control_out)
            + held_by(&mut self.accepted_in)
            + self.reply.accepted.capacity() * size_of::<Accepted>()
    }

    /// Publications that wait for credit.
    pub(crate) fn waiting(&self) -> usize {
        self.deliver_out.len() + self.forward_out.len()
    }

    /// Whether acceptances have come that wait for their turn.
    fn has_replies(&self) -> bool {
        !self.accepted_in.is_empty()
    }

    /// Control messages that wait for a slot.
    pub(crate) fn controls_waiting(&self) -> usize {
        self.control_out.len()
    }

    /// Whether a delivery would leave at once: QoS 0 is only sent if so.
    pub(crate) fn can_deliver(&self) -> bool {
        self.deliver_out.len() < self.deliver_credit as usize
    }

    pub(crate) fn can_forward(&self) -> bool {
        self.forward_out.len() < self.forward_credit as usize
    }
}

impl Shard {
    pub(crate) fn send_control(&mut self, to: ShardId, message: Control) {
        if to == self.id {
            self.loopback.push_back(message);
        } else {
            self.peers[to.index()].control_out.push_back(message);
        }
    }

    pub(crate) fn send_deliver(&mut self, to: ShardId, message: Deliver) {
        debug_assert_ne!(to, self.id);
        self.peers[to.index()].deliver_out.push_back(message);
    }

    pub(crate) fn send_forward(&mut self, to: ShardId, forward: Forward) {
        debug_assert_ne!(to, self.id);
        self.peers[to.index()].forward_out.push_back(forward);
    }

    /// Tells a publishing shard that its delivery is accepted, and gives the credit back.
    pub(crate) fn reply_delivered(&mut self, to: ShardId, accepted: Option<Accepted>) {
        let reply = &mut self.peers[to.index()].reply;
        reply.deliver_credit += 1;
        reply.accepted.extend(accepted);
    }

    /// Tells a publishing shard that its delivery is accepted, whose credit it has had back since it began to wait.
    pub(crate) fn reply_accepted(&mut self, to: ShardId, accepted: Accepted) {
        self.peers[to.index()].reply.accepted.push(accepted);
    }

    /// Tells a publishing shard that its forward is accepted everywhere, and gives the credit back.
    pub(crate) fn reply_forwarded(&mut self, to: ShardId, accepted: Accepted) {
        let reply = &mut self.peers[to.index()].reply;
        reply.forward_credit += 1;
        reply.accepted.push(accepted);
    }

    pub(crate) fn reply_interest(&mut self, to: ShardId, seq: u64) {
        self.peers[to.index()].reply.interest_seq = Some(seq);
    }

    /// Takes in what other shards have sent, at most `per_lane_max` from each lane of each, and fewer if they are much
    /// work: the rest stays in its lane.
    /// Returns whether anything came.
    pub fn handle_envelopes(&mut self, now: Instant, per_lane_max: usize) -> bool {
        let mut any = false;
        for from in self.others() {
            any |= self.take_replies(now, from, per_lane_max);
            any |= self.take_controls(now, from, per_lane_max);
            any |= self.take_forwards(now, from, per_lane_max);
            any |= self.take_deliveries(now, from, per_lane_max);
        }
        any
    }

    /// A reply may carry as many acceptances as publications were on their way: what is beyond the turn's work is kept, and
    /// later replies wait behind it.
    fn take_replies(&mut self, now: Instant, from: ShardId, max: usize) -> bool {
        let mut taken = 0;
        let until = self.work + LANE_WORK;
        let mut any = false;
        if self.peers[from.index()].has_replies() {
            any = true;
            self.replies_left -= 1;
            let left = core::mem::take(&mut self.peers[from.index()].accepted_in);
            self.take_accepted(now, from, until, left);
        }
        while taken < max
            && self.work < until
            && let Some(reply) = self.mailbox.recv_reply(from)
        {
            taken += 1;
            any = true;
            self.work += REPLY_WORK;
            let peer = &mut self.peers[from.index()];
            peer.deliver_credit += reply.deliver_credit;
            peer.forward_credit += reply.forward_credit;
            if let Some(seq) = reply.interest_seq {
                peer.interest_acked = seq;
                self.barriers_passed(now);
            }
            self.take_accepted(now, from, until, VecDeque::from(reply.accepted));
        }
        any
    }

    /// Takes the acceptances of one reply, one at least, and keeps what is beyond the turn's work.
    fn take_accepted(&mut self, now: Instant, from: ShardId, until: u64, mut reply: VecDeque<Accepted>) {
        while let Some(accepted) = reply.pop_front() {
            self.work += REPLY_WORK;
            self.ticket_accepted(now, accepted.ticket, accepted.reason);
            if self.work >= until && !reply.is_empty() {
                self.replies_left += 1;
                self.peers[from.index()].accepted_in = reply;
                return;
            }
        }
    }

    fn take_controls(&mut self, now: Instant, from: ShardId, max: usize) -> bool {
        let mut taken = 0;
        let until = self.work + LANE_WORK;
        while taken < max
            && self.work < until
            && let Some(message) = self.mailbox.recv_control(from)
        {
            taken += 1;
            self.on_control(now, from, message);
        }
        taken > 0
    }

    fn take_forwards(&mut self, now: Instant, from: ShardId, max: usize) -> bool {
        let mut taken = 0;
        let until = self.work + LANE_WORK;
        while taken < max
            && self.work < until
            && let Some(forward) = self.mailbox.recv_forward(from)
        {
            taken += 1;
            self.on_forward(now, from, forward);
        }
        taken > 0
    }

    fn take_deliveries(&mut self, now: Instant, from: ShardId, max: usize) -> bool {
        let mut taken = 0;
        let until = self.work + LANE_WORK;
        while taken < max
            && self.work < until
            && let Some(delivery) = self.mailbox.recv_deliver(from)
        {
            taken += 1;
            self.on_deliver(now, from, delivery);
        }
        taken > 0
    }

    /// Puts what is on its way into the rings, as far as there is credit and room.
    /// Returns who got what, and whether something had to stay (then the turn must not sleep for long).
    pub fn flush_envelopes(&mut self) -> (Doorbells, bool) {
        let mut stuck = false;
        for to in self.others() {
            if self.flush_peer(to) {
                self.mailbox.urge(to);
                stuck = true;
            }
            self.recharge_peer(to);
        }
        self.recharge_own();
        (self.mailbox.take_doorbells(), stuck)
    }

    /// What waits for this shard's own turn, or for others' acceptance, is there because of clients, whichever they are.
    fn recharge_own(&mut self) {
        if self.loopback.is_empty() && self.tickets.is_empty() && self.own_charged_bytes == 0 {
            return;
        }
        let held = held_by(&mut self.loopback) + self.tickets.held_bytes();
        if held != self.own_charged_bytes {
            self.budget.recharge(core::mem::replace(&mut self.own_charged_bytes, held), held);
        }
    }

    /// The same for what waits for another shard. Where nothing waits, no queue is longer than its ring.
    fn recharge_peer(&mut self, to: ShardId) {
        let peer = &mut self.peers[to.index()];
        if !peer.has_waiting() && peer.charged_bytes == 0 {
            return;
        }
        let held = peer.held_bytes();
        if held != peer.charged_bytes {
            self.budget.recharge(core::mem::replace(&mut peer.charged_bytes, held), held);
        }
    }

    fn flush_peer(&mut self, to: ShardId) -> bool {
        let Self { mailbox, peers, .. } = self;
        let peer = &mut peers[to.index()];
        let mut stuck = false;
        if !peer.reply.is_empty()
            && let Err(reply) = mailbox.try_send_reply(to, core::mem::take(&mut peer.reply))
        {
            peer.reply = reply;
            stuck = true;
        }
        while let Some(message) = peer.control_out.pop_front() {
            if let Err(message) = mailbox.try_send_control(to, message) {
                peer.control_out.push_front(message);
                stuck = true;
                break;
            }
        }
        while peer.forward_credit > 0
            && let Some(forward) = peer.forward_out.pop_front()
        {
            if let Err(forward) = mailbox.try_send_forward(to, forward) {
                peer.forward_out.push_front(forward);
                stuck = true;
                break;
            }
            peer.forward_credit -= 1;
        }
        while peer.deliver_credit > 0
            && let Some(delivery) = peer.deliver_out.pop_front()
        {
            if let Err(delivery) = mailbox.try_send_deliver(to, delivery) {
                peer.deliver_out.push_front(delivery);
                stuck = true;
                break;
            }
            peer.deliver_credit -= 1;
            self.counters.envelopes_sent += 1;
        }
        stuck
    }

    /// Whether a reply of another shard would let something go on here. If not, replies are read when something else
    /// wakes the shard, at the latest [`Shard::has_open_tickets`] has it look.
    pub fn awaits_replies(&self) -> bool {
        self.tickets.are_awaited()
            || self.crossing_links > 0
            || self.parted_links > 0
            || self.throttled_links > 0
            || self.announcements.are_awaited()
            || self.peers.iter().any(|peer| peer.waiting() > 0)
    }

    /// Whether replies are still to come, awaited or not.
    pub fn has_open_tickets(&self) -> bool {
        !self.tickets.is_empty()
    }

    /// Whether another shard has sent something that is not taken in yet.
    pub fn has_envelopes(&self) -> bool {
        self.mailbox.has_incoming()
    }

    /// Control messages to ourselves: those that are here now, as far as the turn has work for them. What they bring
    /// forth waits for the next round.
    pub(crate) fn drain_loopback(&mut self, now: Instant) {
        let until = self.work + LANE_WORK;
        for _ in 0..self.loopback.len() {
            if self.work >= until {
                return;
            }
            let Some(message) = self.loopback.pop_front() else { return };
            self.on_control(now, self.id, message);
        }
    }

    fn on_control(&mut self, now: Instant, from: ShardId, message: Control) {
        self.work += match &message {
            Control::Interest { changes, .. } => FILTER_WORK * changes.len() as u64,
            Control::MoveBegin { subscriptions, .. } => FILTER_WORK * (1 + subscriptions.len() as u64),
            Control::Join { .. } | Control::Leave { .. } => FILTER_WORK,
            _ => CONTROL_WORK,
        };
        match message {
            Control::Interest { seq, changes } => self.on_interest(from, seq, &changes),
            Control::Claim(claim) => self.on_claim(from, claim),
            Control::Granted { link, identity, resume } => self.on_granted(now, link, identity, resume),
            Control::ClaimRefused { link } => self.on_claim_refused(now, link),
            Control::Release { identity } => self.on_release(now, from, identity),
            Control::Released { identity } => self.on_released(&identity),
            Control::Yield { identity, next, to, link } => self.on_yield(now, &identity, next, to, link),
            Control::MoveBegin { next, link, subscriptions } => {
                self.on_move_begin(now, from, &next, link, subscriptions);
            }
            Control::Cut { identity, old } => self.on_cut(now, from, identity, old),
            Control::MoveEnd { next, session } => self.on_move_end(now, &next, session),
            Control::Settled { identity } => self.on_settled(&identity),
            Control::Ended { identity } => self.on_ended(&identity),
            Control::Pull { session, filter, after, messages_max } => {
                self.pulls.push_back(Pull { from, session, filter, after, messages_max });
            }
            Control::Join { member, filter, online } => self.on_join(now, member, filter, online),
            Control::Joined { session, filter, group } => self.on_joined(now, session, &filter, group),
            Control::Leave { member, filter } => self.on_leave(now, member, &filter),
            Control::Lend { member, group, credit } => self.on_lend(member, group, credit),
            Control::Presence { member, filter, online } => self.on_presence(member, &filter, online),
            Control::Assign { session, group, seq, message } => {
                self.on_assign(from, session, group, seq, message);
            }
            Control::Stray { from, bytes } => self.on_stray(now, from, bytes),
            Control::GiveBack { group, seq, message } => self.on_give_back(group, seq, message),
        }
    }
}

/// Work taken in from one lane of one shard in one turn; its last message may go beyond it.
const LANE_WORK: u64 = 16_384;

fn held_by<T>(queue: &mut VecDeque<T>) -> usize {
    kept::give_back_grown(queue);
    if queue.is_empty() { 0 } else { kept::bytes(queue) }
}

/// An acceptance, or a reply beside those in it.
const REPLY_WORK: u64 = 4;

/// A control message, as much work as so many nodes of the trie visited.
pub(super) const CONTROL_WORK: u64 = 4;
