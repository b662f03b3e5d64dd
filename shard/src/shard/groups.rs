//! Shared subscriptions: `$share/{name}/{filter}` `[MQTT-4.8.2]`.
//!
//! A group lives on one shard, its owner by the hash of name and filter. For the rest of the broker it is a subscriber
//! of that shard. Members lend the owner credit, in batches, while their queues have room; a message that the owner assigns
//! on it is always taken, so the lane that carries it never waits. A message that its member will not deliver
//! (gone, unsubscribed, not acknowledged) comes back with its place in the group and goes to another member; a QoS 2
//! message that a client has seen stays with it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use quelea_mqtt::{QoS, SubscribeFilter};
use quelea_router::{Seq, ShardId, ShareGroup};

use crate::envelope::{Control, GroupKey, GroupTag, HoldKey, Member, SessionKey};
use crate::kept;
use crate::publication::Message;
use crate::session::{GroupPlace, LEND_MAX, Queued, Session, Subscription};
use crate::witness::{Subject, Why};

use super::interest::Barrier;
use super::peers::CONTROL_WORK;
use super::subscribe::subscription_bytes;
use super::{Group, Shard, Subscriber, accept};

impl Group {
    /// After every change: charges what is held now. A queue that has grown and is empty is given back.
    pub(super) fn recharge(&mut self) {
        kept::give_back_grown(&mut self.parked);
        let parked = kept::bytes(&self.parked);
        let held = GROUP_BYTES + 2 * self.filter.len() + self.members.held_bytes() + parked;
        if self.charge.bytes() != held {
            self.charge.recharge(held);
        }
    }
}

// ---- The owner's side.
impl Shard {
    pub(super) fn on_join(&mut self, now: Instant, member: Member, filter: Arc<str>, online: bool) {
        let key = match self.groups_by_filter.get(&filter) {
            Some(key) => *key,
            None if self.groups.len() >= self.settings.groups_max => {
                self.counters.groups_refused += 1;
                let refused = Control::Joined { session: member.session, filter, group: None };
                return self.send_control(member.shard, refused);
            }
            None => self.open_group(&filter),
        };
        let members = &mut self.groups[key].members;
        members.join(member, (), 0);
        members.set_online(member, online);
        self.groups[key].recharge();
        self.after_barrier(now, Barrier::Joined { member, filter, group: key });
    }

    fn open_group(&mut self, filter: &Arc<str>) -> GroupKey {
        let limits = quelea_router::ShareLimits {
            messages_max: self.settings.group_messages_max,
            bytes_max: self.settings.queue_bytes_max,
        };
        let charge = self.budget.charge(GROUP_BYTES + 2 * filter.len());
        let key = self.groups.insert(Group {
            filter: Arc::clone(filter),
            members: ShareGroup::new(limits),
            parked: VecDeque::new(),
            parked_armed: false,
            listed: false,
            charge,
        });
        self.groups_by_filter.insert(Arc::clone(filter), key);
        let parsed = SubscribeFilter::parse(filter, usize::MAX).expect("checked by the member's shard");
        self.add_filter(parsed.filter, Subscriber::Group(key), Subscription::EVERYTHING);
        key
    }

    pub(super) fn on_leave(&mut self, now: Instant, member: Member, filter: &Arc<str>) {
        let Some(key) = self.groups_by_filter.get(filter).copied() else { return };
        let group = &mut self.groups[key];
        group.members.leave(member);
        if group.members.is_empty() {
            self.close_group(now, key);
        } else {
            group.recharge();
            self.list_group(key);
        }
    }

    fn close_group(&mut self, now: Instant, key: GroupKey) {
        let group = self.groups.remove(key).expect("just seen");
        self.groups_by_filter.remove(&group.filter);
        let parsed = SubscribeFilter::parse(&group.filter, usize::MAX).expect("parsed when it was opened");
        self.remove_filter(parsed.filter, Subscriber::Group(key));
        self.counters.dropped_session_end += (group.members.queued() + group.parked.len()) as u64;
        for (_, hold, _) in group.parked {
            self.release_hold(now, hold);
        }
    }

    pub(super) fn on_lend(&mut self, member: Member, group: GroupKey, credit: u32) {
        if let Some(entry) = self.groups.get_mut(group) {
            entry.members.lend(member, credit);
            self.list_group(group);
        }
    }

    pub(super) fn on_presence(&mut self, member: Member, filter: &Arc<str>, online: bool) {
        if let Some(key) = self.groups_by_filter.get(filter).copied() {
            self.groups[key].members.set_online(member, online);
            self.list_group(key);
        }
    }

    /// A publication that matches the group's filter.
    pub(super) fn offer_to_group(
        &mut self,
        now: Instant,
        key: GroupKey,
        message: &Message,
        hold: &mut Option<HoldKey>,
    ) {
        self.counters.messages_matched += 1;
        let group = &mut self.groups[key];
        let nobody = !group.members.has_online();
        if message.qos == QoS::AtMostOnce {
            if nobody || group.members.push(Arc::clone(message), message.bytes()).is_err() {
                self.counters.dropped_qos0_group += 1;
                self.tell_loss(Subject::Group(key), Why::Qos0Group, message);
                return;
            }
            return self.list_group(key);
        }
        if group.parked.is_empty() && group.members.push(Arc::clone(message), message.bytes()).is_ok() {
            return self.list_group(key);
        }
        if nobody {
            // As for an offline session: the oldest makes room.
            if let Some(oldest) = group.members.drop_oldest() {
                self.counters.dropped_group_full += 1;
                self.tell_loss(Subject::Group(key), Why::GroupFull, &oldest);
            }
            if self.groups[key].members.push(Arc::clone(message), message.bytes()).is_err() {
                self.counters.dropped_group_full += 1;
                self.tell_loss(Subject::Group(key), Why::GroupFull, message);
            }
            return;
        }
        let deadline = now + self.settings.full_deadline;
        let hold = self.hold_one_more(hold);
        self.groups[key].parked.push_back((Arc::clone(message), hold, deadline));
        self.arm_parked_group(key);
        self.list_group(key);
    }

    pub(super) fn on_give_back(&mut self, key: GroupKey, seq: Seq, message: Message) {
        self.counters.group_given_back += 1;
        match self.groups.get_mut(key) {
            Some(group) => {
                let bytes = message.bytes();
                group.members.give_back(seq, message, bytes);
                group.recharge();
                self.list_group(key);
            }
            None => self.counters.dropped_session_end += 1,
        }
    }

    /// Assigns what members can take.
    pub(super) fn pump_groups(&mut self, now: Instant) {
        for key in core::mem::take(&mut self.ready_groups) {
            if let Some(group) = self.groups.get_mut(key) {
                group.listed = false;
                self.pump_group(now, key);
            }
        }
    }

    fn pump_group(&mut self, now: Instant, key: GroupKey) {
        self.assign_what_waits(now, key);
        self.groups[key].recharge();
    }

    fn assign_what_waits(&mut self, now: Instant, key: GroupKey) {
        loop {
            while let Some((member, seq, message)) = self.groups[key].members.next_dispatch() {
                if message.is_expired(now) {
                    self.counters.expired += 1;
                    self.tell_loss(Subject::Group(key), Why::Expired, &message);
                    self.groups[key].members.lend(member, 1);
                    continue;
                }
                let assign = Control::Assign { session: member.session, group: key, seq, message };
                self.send_control(member.shard, assign);
            }
            let group = &mut self.groups[key];
            let Some((message, hold, deadline)) = group.parked.pop_front() else { return };
            if group.members.push(Arc::clone(&message), message.bytes()).is_err() {
                group.parked.push_front((message, hold, deadline));
                return;
            }
            self.release_hold(now, hold);
        }
    }

    /// A group has been full for the whole deadline: its oldest message goes.
    pub(super) fn on_group_deadline(&mut self, now: Instant, key: GroupKey) {
        if let Some(group) = self.groups.get_mut(key) {
            group.parked_armed = false;
        }
        while let Some(group) = self.groups.get_mut(key)
            && group.parked.front().is_some_and(|(_, _, deadline)| *deadline <= now)
        {
            if let Some(oldest) = group.members.drop_oldest() {
                self.counters.dropped_group_full += 1;
                self.tell_loss(Subject::Group(key), Why::GroupFull, &oldest);
            }
            self.pump_group(now, key);
        }
        self.arm_parked_group(key);
    }
}

// ---- The member's side.
impl Shard {
    /// The owner has answered a join.
    pub(super) fn on_joined(
        &mut self,
        now: Instant,
        key: SessionKey,
        filter: &Arc<str>,
        group: Option<GroupKey>,
    ) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        match group {
            Some(group) => session.memberships.on_joined(filter, group),
            None if session.memberships.leave(filter).is_some() => {
                session.subscriptions.remove(filter);
                self.counters.subscriptions -= 1;
                self.budget.recharge(subscription_bytes(filter), 0);
            }
            None => {}
        }
        self.joined_answer(now, key, filter, group.is_some());
        // What it lends to the group it lends when the turn is settled, to all groups that it has joined by then.
        self.list_session(key);
    }

    /// Lends owners what this session can take, in batches. What is lent reserves no places: a group that is silent would
    /// keep them from everybody else. So a queue may grow beyond its limit by what is lent: a message for each group,
    /// or half of the limit, whichever is more.
    pub(super) fn lend(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.link().is_none() || !session.memberships.is_low() {
            return;
        }
        if !session.has_room_to_lend(&self.limits) {
            return;
        }
        let member = Member { shard: self.id, session: key };
        let share = self.limits.messages_max / 2 / session.memberships.len();
        let share = share.clamp(1, LEND_MAX as usize) as u32;
        let mut lends = Vec::new();
        session.memberships.renew(share, |(owner, group), credit| {
            lends.push((owner, Control::Lend { member, group, credit }));
        });
        for (owner, lend) in lends {
            self.send_control(owner, lend);
        }
    }

    /// The owner has chosen a session of this shard.
    pub(super) fn on_assign(
        &mut self,
        owner: ShardId,
        key: SessionKey,
        group: GroupKey,
        seq: Seq,
        message: Message,
    ) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.link().is_some()) else {
            return self.send_control(owner, Control::GiveBack { group, seq, message });
        };
        let Some(filter) = session.memberships.on_assigned((owner, group)) else {
            return self.send_control(owner, Control::GiveBack { group, seq, message });
        };
        let subscription = session.subscriptions[filter];
        let how = accept::how(&message, &subscription);
        let tag = GroupTag { owner, group, seq };
        session.outbound.push_taken(Queued { group: Some(tag), ..Session::entry(&message, &how) });
        self.list_session(key);
    }

    /// The client has gone: its groups look for somebody else.
    pub(super) fn leave_groups_for_now(&mut self, key: SessionKey) {
        let session = &mut self.sessions[key];
        let member = Member { shard: self.id, session: key };
        session.memberships.end_loans();
        let told: Vec<_> =
            session.memberships.iter().map(|(filter, m)| (m.owner, Arc::clone(filter))).collect();
        let back = session.outbound.take_unfinished_group_messages(|_| true);
        #[cfg(feature = "mutants")]
        let back = match self.settings.mutant {
            Some(crate::mutants::Mutant::GroupMessagesKept) => Vec::new(),
            _ => back,
        };
        self.work += CONTROL_WORK * (told.len() + back.len()) as u64;
        for (owner, filter) in told {
            self.send_control(owner, Control::Presence { member, filter, online: false });
        }
        self.give_back(back);
    }

    /// The client is back.
    pub(super) fn return_to_groups(&mut self, key: SessionKey) {
        let member = Member { shard: self.id, session: key };
        let memberships = &self.sessions[key].memberships;
        let told: Vec<_> = memberships.iter().map(|(filter, m)| (m.owner, Arc::clone(filter))).collect();
        self.work += CONTROL_WORK * told.len() as u64;
        for (owner, filter) in told {
            self.send_control(owner, Control::Presence { member, filter, online: true });
        }
        self.lend(key);
    }

    /// The session leaves some of its groups for good, in one pass over what waits for it, however many they are.
    pub(super) fn leave_groups(&mut self, key: SessionKey, filters: &[Arc<str>]) {
        if filters.is_empty() {
            return;
        }
        let session = &mut self.sessions[key];
        let mut left: BTreeSet<GroupPlace> = BTreeSet::new();
        let mut told = Vec::with_capacity(filters.len());
        for filter in filters {
            let membership = session.memberships.leave(filter).expect("a member from its subscription on");
            left.extend(membership.place());
            told.push((membership.owner, Arc::clone(filter)));
        }
        let of = |tag: &GroupTag| left.contains(&(tag.owner, tag.group));
        let back = match session.link() {
            Some(_) => session.outbound.take_waiting_group_messages(of),
            None => session.outbound.take_unfinished_group_messages(of),
        };
        let member = Member { shard: self.id, session: key };
        self.list_session(key);
        self.give_back(back);
        for (owner, filter) in told {
            self.send_control(owner, Control::Leave { member, filter });
        }
    }

    /// Messages of groups that this session will not deliver.
    pub(super) fn give_back(&mut self, messages: Vec<Queued>) {
        for queued in messages {
            let tag = queued.group.expect("taken out by its tag");
            let back = Control::GiveBack { group: tag.group, seq: tag.seq, message: queued.message };
            self.send_control(tag.owner, back);
        }
    }
}

/// A group beside its tables: itself, its entries in the routing and among the filters of groups.
const GROUP_BYTES: usize = size_of::<Group>() + 256;
