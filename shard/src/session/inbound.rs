//! The receiving half of a session: QoS 2 without duplicates.
//!
//! ```text
//!            PUBLISH(id)                       PUBREL(id)
//!   free ─────────────────► received ─────────────────────► free
//!                             │   ▲ PUBLISH(id) again: PUBREC, not published twice
//!                             └───┘
//! ```
//! PUBREL for a free id is answered PUBCOMP 0x92 `[MQTT-4.3.3-11]`.

use std::collections::VecDeque;

use quelea_mqtt::PacketId;

use crate::kept;

/// Packet identifiers of QoS 2 publications that the client has not released yet: sorted, at most Receive Maximum.
#[derive(Debug, Default)]
pub struct Inbound {
    received: VecDeque<Received>,
}

#[derive(Clone, Copy, Debug)]
struct Received {
    id: PacketId,
    /// Received, or received again, on this connection: counts against its Receive Maximum.
    counted: bool,
}

/// What to do with a QoS 2 PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishVerdict {
    /// New: publish it, PUBREC when accepted.
    New,
    /// Sent again: PUBREC only.
    Duplicate,
}

/// What a PUBREL has released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// Nothing has this identifier.
    Unknown,
    /// A publication of an earlier connection that was not sent again on this one.
    Earlier,
    /// A publication of this connection.
    Counted,
}

impl Inbound {
    /// A client has connected: nothing counts against its Receive Maximum yet.
    pub fn on_connected(&mut self) {
        self.received.iter_mut().for_each(|received| received.counted = false);
    }

    /// Whether a PUBLISH with this identifier counts already, so that another one is no more in flight.
    pub fn is_counted(&self, id: PacketId) -> bool {
        self.position(id).is_ok_and(|at| self.received[at].counted)
    }

    /// A QoS 2 PUBLISH came `[MQTT-4.3.3-10]`.
    pub fn on_publish(&mut self, id: PacketId) -> PublishVerdict {
        match self.position(id) {
            Ok(at) => {
                self.received[at].counted = true;
                PublishVerdict::Duplicate
            }
            Err(at) => {
                self.received.insert(at, Received { id, counted: true });
                PublishVerdict::New
            }
        }
    }

    /// PUBREL came.
    pub fn on_pubrel(&mut self, id: PacketId) -> Released {
        match self.release(id) {
            None => Released::Unknown,
            Some(Received { counted: true, .. }) => Released::Counted,
            Some(_) => Released::Earlier,
        }
    }

    /// The publication was refused with PUBREC ≥ 0x80: its identifier is free again `[MQTT-4.3.3-9]`.
    pub fn on_refused(&mut self, id: PacketId) {
        self.release(id);
    }

    /// The same for many at once, which one by one would move the rest for each.
    pub(crate) fn on_all_refused(&mut self, mut ids: Vec<PacketId>) {
        ids.sort_unstable();
        self.received.retain(|received| ids.binary_search(&received.id).is_err());
        kept::give_back_grown(&mut self.received);
    }

    /// Whether this publication has been received and not yet released.
    pub fn contains(&self, id: PacketId) -> bool {
        self.position(id).is_ok()
    }

    /// Publications not yet released.
    pub fn len(&self) -> usize {
        self.received.len()
    }

    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    /// Memory that they take.
    pub(crate) fn held_bytes(&self) -> usize {
        kept::bytes(&self.received)
    }

    fn position(&self, id: PacketId) -> Result<usize, usize> {
        self.received.binary_search_by_key(&id, |received| received.id)
    }

    fn release(&mut self, id: PacketId) -> Option<Received> {
        let released = self.position(id).ok().and_then(|at| self.received.remove(at));
        kept::give_back_grown(&mut self.received);
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> PacketId {
        PacketId::new(n).expect("not zero")
    }

    #[test]
    fn every_state_and_event() {
        let mut inbound = Inbound::default();
        assert_eq!(inbound.on_pubrel(id(1)), Released::Unknown);
        assert_eq!(inbound.on_publish(id(1)), PublishVerdict::New);
        assert_eq!(inbound.on_publish(id(1)), PublishVerdict::Duplicate);
        assert_eq!(inbound.on_pubrel(id(1)), Released::Counted);
        assert_eq!(inbound.on_publish(id(1)), PublishVerdict::New, "the id is free again");
        inbound.on_refused(id(1));
        assert!(inbound.is_empty());
    }

    #[test]
    fn many_are_refused_at_once_and_the_others_stay() {
        let mut inbound = Inbound::default();
        for n in (1..=10_000).rev() {
            assert_eq!(inbound.on_publish(id(n)), PublishVerdict::New);
        }
        inbound.on_all_refused((1..=10_000).filter(|n| n % 3 > 0).map(id).rev().collect());
        assert_eq!(inbound.len(), 3_333);
        assert!((1..=10_000).all(|n| inbound.contains(id(n)) == (n % 3 == 0)));
        assert!(inbound.held_bytes() > 10_000);
        inbound.on_all_refused((1..=10_000).map(id).collect());
        assert_eq!(inbound.held_bytes(), 0, "an empty table that had grown holds nothing");
    }

    #[test]
    fn what_was_received_counts_on_its_connection() {
        let mut inbound = Inbound::default();
        for n in [1, 2] {
            assert!(!inbound.is_counted(id(n)));
            inbound.on_publish(id(n));
            assert!(inbound.is_counted(id(n)));
        }
        inbound.on_connected();
        assert!(!inbound.is_counted(id(1)) && inbound.contains(id(1)));
        inbound.on_publish(id(1));
        assert_eq!(
            (inbound.on_pubrel(id(1)), inbound.on_pubrel(id(2))),
            (Released::Counted, Released::Earlier)
        );
    }
}
