//! Publications of this shard that others have still to accept.
//!
//! A ticket counts who has not accepted yet. Those behind which somebody waits are counted apart: while there are none,
//! replies of other shards need not wake this one.

use quelea_mqtt::ReasonCode;
use quelea_router::Slots;

use crate::envelope::TicketKey;

use super::Origin;
use super::publish::worse;

/// One publication.
struct Ticket {
    origin: Origin,
    waiting: u32,
    reason: ReasonCode,
}

impl Ticket {
    /// Whether its last acceptance lets something happen at once: an acknowledgement, here or on the shard that sent it.
    fn is_awaited(&self) -> bool {
        match self.origin {
            Origin::Link { ack, .. } => ack.is_some(),
            Origin::Forward { .. } => true,
            Origin::Nobody => false,
        }
    }
}

/// All of them.
#[derive(Default)]
pub(crate) struct Tickets {
    open: Slots<TicketKey, Ticket>,
    awaited: usize,
}

impl Tickets {
    /// Opens a ticket for `waiting` acceptances; `reason` is what is known already.
    pub(super) fn open(&mut self, origin: Origin, waiting: u32, reason: ReasonCode) -> TicketKey {
        let ticket = Ticket { origin, waiting, reason };
        self.awaited += usize::from(ticket.is_awaited());
        self.open.insert(ticket)
    }

    /// So many more have to accept. Closes the ticket if nobody has to.
    pub(super) fn await_more(&mut self, key: TicketKey, more: u32) -> Option<(Origin, ReasonCode)> {
        let ticket = &mut self.open[key];
        ticket.waiting += more;
        (ticket.waiting == 0).then(|| self.close(key))
    }

    /// One has accepted. Closes the ticket if it was the last.
    pub(super) fn on_accepted(&mut self, key: TicketKey, reason: ReasonCode) -> Option<(Origin, ReasonCode)> {
        let ticket = self.open.get_mut(key).expect("an acceptance names an open ticket");
        ticket.reason = worse(ticket.reason, reason);
        ticket.waiting -= 1;
        (ticket.waiting == 0).then(|| self.close(key))
    }

    fn close(&mut self, key: TicketKey) -> (Origin, ReasonCode) {
        let ticket = self.open.remove(key).expect("just seen");
        self.awaited -= usize::from(ticket.is_awaited());
        (ticket.origin, ticket.reason)
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Memory that they take, as it is allocated; what is left when all are closed is small, and nobody's.
    pub(super) fn held_bytes(&self) -> usize {
        if self.is_empty() { 0 } else { self.open.bytes() }
    }

    /// Whether any is open.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether somebody waits for one of them.
    pub(super) fn are_awaited(&self) -> bool {
        self.awaited > 0
    }
}
