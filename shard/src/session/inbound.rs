//! The receiving half of a session: QoS 2 without duplicates.
//!
//! ```text
//!            PUBLISH(id)                       PUBREL(id)
//!   free ─────────────────► received ─────────────────────► free
//!                             │   ▲ PUBLISH(id) again: PUBREC, not published twice
//!                             └───┘
//! ```
//! PUBREL for a free id is answered PUBCOMP 0x92 `[MQTT-4.3.3-11]`.

use quelea_mqtt::PacketId;

/// Packet identifiers of QoS 2 publications that the client has not released yet: sorted, at most Receive Maximum.
#[derive(Debug, Default)]
pub struct Inbound {
    received: Vec<PacketId>,
}

/// What to do with a QoS 2 PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishVerdict {
    /// New: publish it, PUBREC when accepted.
    New,
    /// Sent again: PUBREC only.
    Duplicate,
}

impl Inbound {
    /// A QoS 2 PUBLISH came `[MQTT-4.3.3-10]`.
    pub fn on_publish(&mut self, id: PacketId) -> PublishVerdict {
        match self.received.binary_search(&id) {
            Ok(_) => PublishVerdict::Duplicate,
            Err(at) => {
                self.received.insert(at, id);
                PublishVerdict::New
            }
        }
    }

    /// PUBREL came: whether the identifier was known.
    pub fn on_pubrel(&mut self, id: PacketId) -> bool {
        self.release(id)
    }

    /// The publication was refused with PUBREC ≥ 0x80: its identifier is free again `[MQTT-4.3.3-9]`.
    pub fn on_refused(&mut self, id: PacketId) {
        self.release(id);
    }

    /// Whether this publication has been received and not yet released.
    pub fn contains(&self, id: PacketId) -> bool {
        self.received.binary_search(&id).is_ok()
    }

    /// Publications not yet released.
    pub fn len(&self) -> usize {
        self.received.len()
    }

    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    fn release(&mut self, id: PacketId) -> bool {
        match self.received.binary_search(&id) {
            Ok(at) => {
                self.received.remove(at);
                true
            }
            Err(_) => false,
        }
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
        assert!(!inbound.on_pubrel(id(1)), "free + PUBREL: unknown");
        assert_eq!(inbound.on_publish(id(1)), PublishVerdict::New);
        assert_eq!(inbound.on_publish(id(1)), PublishVerdict::Duplicate);
        assert!(inbound.on_pubrel(id(1)));
        assert_eq!(inbound.on_publish(id(1)), PublishVerdict::New, "the id is free again");
        inbound.on_refused(id(1));
        assert!(inbound.is_empty());
    }
}
