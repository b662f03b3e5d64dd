//! The server's QoS 1 and 2 messages from PUBLISH to their last acknowledgement, and its topic aliases.
//!
//! ```text
//!                        ack()            turn has come
//!   QoS 1 ──▶ Held ─────────▶ Acked ─────── PUBACK ──▶ gone
//!   QoS 2 ──▶ Held ─────────▶ Acked ─────── PUBREC ──▶ Received ─ PUBREL ▶ PUBCOMP, gone
//! ```
//! With automatic acknowledgement a QoS 1 message never gets here and a QoS 2 message begins at `Received`. The identifiers of QoS 2
//! messages are session state: they outlive the connection, so that a repeated PUBLISH is recognised `[MQTT-4.3.3-10]`.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use quelea_mqtt::{PacketId, QoS, ReasonCode};

use super::event::Violation;
use super::in_flight::{ById, by_id};
use super::message::AckToken;
use super::text::Text;

/// What is received and not finished. At most one entry per packet identifier, and at most Receive Maximum of one connection.
pub(super) struct Inbound {
    entries: ById<Entry>,
    /// What waits for the application on this connection, in the order of arrival.
    order: VecDeque<PacketId>,
    aliases: Vec<Option<Text>>,
    next_serial: u64,
    /// Which connection this is.
    epoch: u32,
    /// Messages of this connection that the server counts against our Receive Maximum.
    unfinished: u16,
}

struct Entry {
    serial: u64,
    qos: QoS,
    epoch: u32,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Held,
    Acked,
    Received,
}

/// What to do with a PUBLISH of QoS 1 or 2.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// New: hand it on; the application acknowledges it.
    Held(AckToken),
    /// New: hand it on, and acknowledge it.
    New,
    /// Known already: no event. PUBREC if it was sent before.
    Known {
        /// Repeat the PUBREC now.
        repeat: bool,
    },
}

/// An acknowledgement whose turn has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    PubAck(PacketId),
    PubRec(PacketId),
}

impl Inbound {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            entries: by_id(seed),
            order: VecDeque::new(),
            aliases: Vec::new(),
            next_serial: 0,
            epoch: 0,
            unfinished: 0,
        }
    }

    /// A connection is over, a new one begins: aliases and QoS 1 are forgotten, QoS 2 is not.
    pub(super) fn on_new_connection(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        self.unfinished = 0;
        self.order.clear();
        self.aliases = Vec::new();
        self.entries.retain(|_, entry| entry.qos == QoS::ExactlyOnce);
    }

    /// The server has no session: its identifiers start anew.
    pub(super) fn on_session_lost(&mut self) {
        self.entries.clear();
    }

    /// A PUBLISH of QoS 1 or 2. `dup` is the packet's flag.
    pub(super) fn on_publish(
        &mut self,
        packet_id: PacketId,
        qos: QoS,
        dup: bool,
        allowed: Allowed,
    ) -> Result<Arrival, Violation> {
        if let Some(known) = self.entries.get(&packet_id) {
            if known.qos != qos {
                return Err(Violation::protocol("PUBLISH with a packet identifier in use"));
            }
            return if qos == QoS::ExactlyOnce {
                self.on_known(packet_id, allowed)
            } else if dup {
                Ok(Arrival::Known { repeat: false })
            } else {
                Err(Violation::protocol("PUBLISH with a packet identifier in use"))
            };
        }
        if !allowed.manual && qos == QoS::AtLeastOnce {
            return Ok(Arrival::New);
        }
        self.count_unfinished(allowed)?;
        let serial = self.next_serial;
        self.next_serial += 1;
        let state = if allowed.manual { State::Held } else { State::Received };
        self.entries.insert(packet_id, Entry { serial, qos, epoch: self.epoch, state });
        if allowed.manual {
            self.order.push_back(packet_id);
            return Ok(Arrival::Held(AckToken { packet_id, serial }));
        }
        Ok(Arrival::New)
    }

    /// A QoS 2 message comes again: it is never a second event.
    fn on_known(&mut self, packet_id: PacketId, allowed: Allowed) -> Result<Arrival, Violation> {
        let entry = self.entries.get_mut(&packet_id).expect("looked up by the caller");
        if entry.epoch == self.epoch {
            return Ok(Arrival::Known { repeat: entry.state == State::Received });
        }
        entry.epoch = self.epoch;
        if entry.state == State::Received {
            self.count_unfinished(allowed)?;
            return Ok(Arrival::Known { repeat: true });
        }
        // The application still has it, or its acknowledgement was never sent: it takes its place in the new order.
        self.order.push_back(packet_id);
        self.count_unfinished(allowed)?;
        Ok(Arrival::Known { repeat: false })
    }

    fn count_unfinished(&mut self, allowed: Allowed) -> Result<(), Violation> {
        if self.unfinished >= allowed.receive_max.get() {
            return Err(Violation::new(
                ReasonCode::RECEIVE_MAXIMUM_EXCEEDED,
                "more unacknowledged messages than our Receive Maximum",
            ));
        }
        self.unfinished += 1;
        Ok(())
    }

    /// Messages of this connection that the server counts against our Receive Maximum.
    pub(super) fn unfinished(&self) -> u16 {
        self.unfinished
    }

    /// The application has dealt with a message. False: it does not wait (any more).
    pub(super) fn ack(&mut self, token: AckToken) -> bool {
        match self.entries.get_mut(&token.packet_id) {
            Some(entry) if entry.serial == token.serial && entry.state == State::Held => {
                entry.state = State::Acked;
                true
            }
            _ => false,
        }
    }

    /// The next acknowledgement whose turn has come.
    pub(super) fn take_due(&mut self) -> Option<Due> {
        let packet_id = *self.order.front()?;
        let entry = self.entries.get_mut(&packet_id).expect("what is in order is unfinished");
        if entry.state != State::Acked {
            return None;
        }
        self.order.pop_front();
        if entry.qos == QoS::ExactlyOnce {
            entry.state = State::Received;
            return Some(Due::PubRec(packet_id));
        }
        self.entries.remove(&packet_id);
        self.unfinished -= 1;
        Some(Due::PubAck(packet_id))
    }

    /// PUBREL. The reason for the PUBCOMP.
    pub(super) fn on_pubrel(&mut self, packet_id: PacketId) -> Result<ReasonCode, Violation> {
        let Some(entry) = self.entries.get(&packet_id) else {
            return Ok(ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
        };
        if entry.state != State::Received {
            return Err(Violation::protocol("PUBREL before PUBREC"));
        }
        if entry.epoch == self.epoch {
            self.unfinished -= 1;
        }
        self.entries.remove(&packet_id);
        Ok(ReasonCode::SUCCESS)
    }

    /// The topic of a PUBLISH whose name may be an alias, or may define one.
    pub(super) fn on_alias(
        &mut self,
        alias: NonZeroU16,
        topic: Option<&str>,
        alias_max: u16,
    ) -> Result<Text, Violation> {
        if alias.get() > alias_max {
            return Err(Violation::new(ReasonCode::TOPIC_ALIAS_INVALID, "a topic alias above our maximum"));
        }
        let index = usize::from(alias.get()) - 1;
        let Some(topic) = topic else {
            return self
                .aliases
                .get(index)
                .cloned()
                .flatten()
                .ok_or(Violation::protocol("a topic alias that was never defined"));
        };
        if self.aliases.len() <= index {
            self.aliases.resize(index + 1, None);
        }
        // Copied: a slice would keep the packet that defined the alias in memory.
        let topic = Text::copied(topic);
        self.aliases[index] = Some(topic.clone());
        Ok(topic)
    }
}

/// What the client allows its server.
#[derive(Clone, Copy)]
pub(super) struct Allowed {
    pub(super) receive_max: NonZeroU16,
    /// The application acknowledges.
    pub(super) manual: bool,
}
