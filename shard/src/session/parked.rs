//! Publications that wait for room in a session, in order.
//!
//! Each holds back whoever published it, so how many there may be is a matter of the publishers' Receive Maximum; what an
//! entry takes is charged here, as it is allocated. The messages are charged by themselves.

use std::collections::VecDeque;
use std::time::Instant;

use quelea_mqtt::QoS;

use crate::envelope::HoldKey;
use crate::kept;
use crate::publication::{Budget, Charge};

use super::outbound::{Queued, ids_bytes};

/// A publication that waits for room in this session, with the acceptance that depends on it.
#[derive(Debug)]
pub struct Parked {
    /// The message.
    pub queued: Queued,
    /// Whoever waits; nobody for a retained message that was asked for.
    pub hold: Option<HoldKey>,
    /// When it began to wait.
    pub since: Instant,
    /// When the subscriber has to pay; for QoS 0, when it has to have kept up.
    pub deadline: Instant,
}

impl Parked {
    /// Whether it is of QoS 0.
    pub fn is_transient(&self) -> bool {
        self.queued.qos == QoS::AtMostOnce
    }
}

/// All of one session.
#[derive(Debug, Default)]
pub struct ParkedQueue {
    entries: VecDeque<Parked>,
    /// Heap of subscription identifiers that do not fit into their entry.
    ids_bytes: usize,
    charge: Option<Charge>,
}

impl ParkedQueue {
    /// Charges this budget from now on, and no other.
    pub(crate) fn charge_to(&mut self, budget: &Budget) {
        self.charge = Some(budget.charge(self.held_bytes()));
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The one that has waited longest.
    pub fn front(&self) -> Option<&Parked> {
        self.entries.front()
    }

    /// All, the one that has waited longest first.
    pub fn iter(&self) -> impl Iterator<Item = &Parked> {
        self.entries.iter()
    }

    /// The one that came last.
    pub fn back(&self) -> Option<&Parked> {
        self.entries.back()
    }

    /// The first may wait until then.
    pub fn renew_front(&mut self, deadline: Instant) {
        if let Some(first) = self.entries.front_mut() {
            first.deadline = deadline;
        }
    }

    /// One more waits, behind the others.
    pub fn push_back(&mut self, parked: Parked) {
        self.ids_bytes += ids_bytes(&parked.queued);
        self.entries.push_back(parked);
        self.recharge();
    }

    /// The one that was taken out finds no room yet.
    pub fn push_front(&mut self, parked: Parked) {
        self.ids_bytes += ids_bytes(&parked.queued);
        self.entries.push_front(parked);
        self.recharge();
    }

    /// Takes out the one that has waited longest.
    pub fn pop_front(&mut self) -> Option<Parked> {
        let parked = self.entries.pop_front()?;
        self.ids_bytes -= ids_bytes(&parked.queued);
        self.recharge();
        Some(parked)
    }

    fn held_bytes(&self) -> usize {
        kept::bytes(&self.entries) + self.ids_bytes
    }

    /// After every change: charges what is held now. A queue that has grown and is empty is given back.
    fn recharge(&mut self) {
        kept::give_back_grown(&mut self.entries);
        let held = self.held_bytes();
        if let Some(charge) = &mut self.charge
            && charge.bytes() != held
        {
            charge.recharge(held);
        }
    }
}
