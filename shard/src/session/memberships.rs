//! The shared groups of one session: which it belongs to, and what it has lent to each.
//!
//! ```text
//!  join ──► by_filter: owner, no group ──on_joined──► loans[(owner, group)] ──┐
//!                                                        │ on_assigned: -1    │ in `low`: a new loan is due
//!                                                        └────────────────────┴──► renew: filled up again
//! ```
//! A session may have ten thousand of them, so nothing that happens to one looks at the others: what the owner says
//! names a filter, what it assigns names a group, and loans that are to be renewed are in a set of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quelea_router::ShardId;

use crate::envelope::GroupKey;

/// The shared groups that a session belongs to, by filter (`$share/…`, whole).
#[derive(Debug, Default)]
pub struct Memberships {
    by_filter: BTreeMap<Arc<str>, Membership>,
    loans: BTreeMap<GroupPlace, Loan>,
    /// Loans of which something was used since they were renewed.
    low: BTreeSet<GroupPlace>,
}

/// A group, by its owner and the owner's name for it.
pub type GroupPlace = (ShardId, GroupKey);

/// Membership in one shared group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The group's owner.
    pub owner: ShardId,
    /// The group, once the owner has answered.
    pub group: Option<GroupKey>,
}

impl Membership {
    /// The group's place, once the owner has answered.
    pub fn place(&self) -> Option<GroupPlace> {
        self.group.map(|group| (self.owner, group))
    }
}

/// Messages that an owner may still send without asking.
#[derive(Debug)]
struct Loan {
    filter: Arc<str>,
    messages: u32,
}

impl Memberships {
    /// How many there are, joined or about to be.
    pub fn len(&self) -> usize {
        self.by_filter.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_filter.is_empty()
    }

    /// The membership of a filter.
    pub fn get(&self, filter: &str) -> Option<Membership> {
        self.by_filter.get(filter).copied()
    }

    /// All filters with their memberships.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, Membership)> {
        self.by_filter.iter().map(|(filter, membership)| (filter, *membership))
    }

    /// The owner has been asked; nothing changes for who is a member, or has asked already.
    pub fn join(&mut self, filter: &Arc<str>, owner: ShardId) {
        self.by_filter.entry(Arc::clone(filter)).or_insert(Membership { owner, group: None });
    }

    /// The owner has said which group it is. What was lent to an earlier one, which is gone, was never taken.
    pub fn on_joined(&mut self, filter: &str, group: GroupKey) {
        let Some((filter, membership)) = self.by_filter.get_key_value(filter) else { return };
        if membership.group == Some(group) {
            return;
        }
        let (filter, membership) = (Arc::clone(filter), *membership);
        self.forget_loan(membership);
        let joined = Membership { group: Some(group), ..membership };
        self.by_filter.insert(Arc::clone(&filter), joined);
        self.loans.insert((joined.owner, group), Loan { filter, messages: 0 });
        self.low.insert((joined.owner, group));
    }

    /// The session leaves a group.
    pub fn leave(&mut self, filter: &str) -> Option<Membership> {
        let membership = self.by_filter.remove(filter)?;
        self.forget_loan(membership);
        Some(membership)
    }

    fn forget_loan(&mut self, membership: Membership) {
        if let Some(place) = membership.place() {
            self.loans.remove(&place);
            self.low.remove(&place);
        }
    }

    /// The owner has used one message of what was lent: the filter of its group. `None` if nothing was.
    pub fn on_assigned(&mut self, place: GroupPlace) -> Option<&Arc<str>> {
        let loan = self.loans.get_mut(&place)?;
        loan.messages = loan.messages.checked_sub(1)?;
        self.low.insert(place);
        Some(&loan.filter)
    }

    /// Nothing is lent any more: the owners have been told so.
    pub fn end_loans(&mut self) {
        for loan in self.loans.values_mut() {
            loan.messages = 0;
        }
        self.low = self.loans.keys().copied().collect();
    }

    /// Fills up those loans to `share` of which at least half is used, and tells how much more each is.
    pub fn renew(&mut self, share: u32, mut lend: impl FnMut(GroupPlace, u32)) {
        while let Some(place) = self.low.pop_first() {
            let loan = self.loans.get_mut(&place).expect("a loan leaves the set when it ends");
            if loan.messages <= share / 2 {
                lend(place, share - loan.messages);
                loan.messages = share;
            }
        }
    }

    /// Whether a renewal would find anything to look at.
    pub fn is_low(&self) -> bool {
        !self.low.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(n: u32) -> (Arc<str>, GroupPlace) {
        let mut slots = quelea_router::Slots::<GroupKey, ()>::new();
        let key = (0..=n).map(|_| slots.insert(())).last().expect("one at least");
        (format!("$share/g/{n}").into(), (ShardId::from_index(0), key))
    }

    #[test]
    fn a_renewal_looks_at_the_loans_that_were_used_only() {
        let mut memberships = Memberships::default();
        let groups: Vec<_> = (0..100).map(place).collect();
        for (filter, (owner, group)) in &groups {
            memberships.join(filter, *owner);
            memberships.on_joined(filter, *group);
        }
        assert_eq!(memberships.low.len(), 100);
        memberships.renew(4, |_, credit| assert_eq!(credit, 4));
        assert!(!memberships.is_low());
        let (filter, used) = &groups[7];
        assert_eq!(memberships.on_assigned(*used), Some(filter));
        assert_eq!(memberships.low.len(), 1, "one is looked at, not a hundred");
        memberships.renew(4, |_, _| panic!("more than half is left"));
        assert_eq!(memberships.on_assigned(*used), Some(filter));
        let mut lent = Vec::new();
        memberships.renew(4, |place, credit| lent.push((place, credit)));
        assert_eq!(lent, [(*used, 2)]);
    }

    #[test]
    fn what_was_lent_ends_with_the_membership() {
        let mut memberships = Memberships::default();
        let (filter, used) = place(0);
        memberships.join(&filter, used.0);
        assert_eq!(memberships.on_assigned(used), None, "the owner has not answered");
        memberships.on_joined(&filter, used.1);
        assert_eq!(memberships.on_assigned(used), None, "nothing is lent");
        memberships.renew(2, |_, _| {});
        assert_eq!(memberships.leave(&filter).and_then(|left| left.place()), Some(used));
        assert_eq!(memberships.on_assigned(used), None);
        assert!(memberships.is_empty() && !memberships.is_low());
    }
}
