//! The sending half of a session: what waits, what is in flight, and what the client still allows.
//!
//! ```text
//!   offer ─► queue (QoS 1, 2) ─┐ quota, room                PUBACK / PUBCOMP
//!                              ├──────────► in flight ─────────────────────► gone
//!   offer ─► transient (QoS 0) ┘                │ PUBREC
//!                 │ room                        └──► release: PUBREL sent, waits for PUBCOMP
//!                 └──► written, gone
//! ```
//! Invariants: packet identifiers in flight are unique; `in flight` is in the order of first sending, behind what is
//! released in the order of its PUBRECs, so a resumed connection repeats it in that order `[MQTT-4.6.0-1]`; at most
//! `quota` QoS 1 and 2 PUBLISH packets are outstanding on a connection `[MQTT-3.3.4-9]`; everything that waits is bounded by [`OutboundLimits`].

use std::collections::VecDeque;
use std::time::Instant;

use quelea_mqtt::{PacketId, QoS};

use crate::envelope::{GroupTag, SubscriptionIdList};
use crate::kept;
use crate::publication::{Budget, Charge, Message};

/// A message on its way to one client.
#[derive(Clone, Debug)]
pub struct Queued {
    /// The publication.
    pub message: Message,
    /// The QoS it is delivered with.
    pub qos: QoS,
    /// The RETAIN flag it is delivered with.
    pub retain: bool,
    /// Subscription identifiers to send along.
    pub subscription_ids: SubscriptionIdList,
    /// The shared group to give it back to if this client does not acknowledge it.
    pub group: Option<GroupTag>,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct OutboundLimits {
    /// Messages.
    pub messages_max: usize,
    /// Bytes; the first message is always taken.
    pub bytes_max: usize,
    /// The fault that this shard has.
    #[cfg(feature = "mutants")]
    pub mutant: Option<crate::mutants::Mutant>,
}

/// The verdict on an offered message.
#[derive(Debug)]
pub enum Offer {
    /// It waits, or is as good as sent.
    Taken,
    /// There is no room: the message comes back.
    Full(Queued),
}

/// A QoS 1 or 2 delivery that the client has not finished.
#[derive(Debug)]
struct Inflight {
    id: PacketId,
    state: InflightState,
    /// Counts against the client's Receive Maximum on this connection.
    charged: bool,
}

#[derive(Debug)]
enum InflightState {
    /// PUBLISH sent; PUBACK or PUBREC is due.
    Published(Queued),
    /// PUBREC received, PUBREL sent; PUBCOMP is due.
    Released,
}

/// What a packet from the client meant for a delivery.
#[derive(Debug)]
pub enum Outgoing {
    /// The delivery is complete (or refused by the client).
    Complete(Option<Queued>),
    /// PUBREL is to be sent.
    Release,
    /// No delivery has this identifier.
    Unknown,
    /// The delivery is of the other QoS: a protocol error of the client.
    WrongQoS,
}

/// The connection as the sending half sees it.
pub trait OutboundSink {
    /// Whether another packet may be written now.
    fn has_room(&self) -> bool;
    /// Whether the client takes a packet of this size `[MQTT-3.1.2-24]`.
    fn fits(&self, queued: &Queued) -> bool;
    /// Writes a PUBLISH.
    fn publish(&mut self, queued: &Queued, id: Option<PacketId>, dup: bool);
    /// Writes a PUBREL.
    fn release(&mut self, id: PacketId);
    /// The message expired, or is larger than the client takes: it goes no further.
    fn discarded(&mut self, queued: Queued, why: Discard);
}

/// Why a queued message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// Its Message Expiry Interval has passed.
    Expired,
    /// It is larger than the client's Maximum Packet Size.
    TooLarge,
}

/// The sending half.
#[derive(Debug, Default)]
pub struct Outbound {
    /// QoS 1 and 2, each with its number of arrival.
    queue: VecDeque<(u64, Queued)>,
    /// QoS 0, each with its number of arrival.
    transient: VecDeque<(u64, Queued)>,
    arrivals: u64,
    inflight_bytes: usize,
    waiting_bytes: usize,
    inflight: VecDeque<Inflight>,
    /// Entries of `inflight` before this one were sent, or sent again, on this connection.
    resent: usize,
    last_id: u16,
    quota: u16,
    /// The fault of the shard that it is on.
    #[cfg(feature = "mutants")]
    mutant: Option<crate::mutants::Mutant>,
    /// Heap of subscription identifiers that do not fit into their entry.
    ids_bytes: usize,
    /// What the tables above are charged with; messages are charged by themselves, once.
    charge: Option<Charge>,
}

impl Outbound {
    /// Charges this budget with the tables from now on, and no other.
    pub(crate) fn charge_to(&mut self, budget: &Budget) {
        self.charge = Some(budget.charge(self.held_bytes()));
    }

    /// Memory of the tables, messages not included: as it is allocated, so that it changes rarely.
    fn held_bytes(&self) -> usize {
        kept::bytes(&self.queue) + kept::bytes(&self.transient) + kept::bytes(&self.inflight) + self.ids_bytes
    }

    /// After every change: charges what is held now. Tables that have grown and are empty are given back.
    fn recharge(&mut self) {
        let mut held = self.held_bytes();
        if held > kept::KEPT_BYTES_MAX {
            kept::give_back_grown(&mut self.queue);
            kept::give_back_grown(&mut self.transient);
            kept::give_back_grown(&mut self.inflight);
            held = self.held_bytes();
        }
        if let Some(charge) = &mut self.charge
            && charge.bytes() != held
        {
            charge.recharge(held);
        }
    }

    /// A client has connected: everything in flight is to be sent again, at most `quota` at a time.
    pub fn on_connected(&mut self, quota: u16) {
        self.quota = quota;
        self.resent = 0;
        for entry in &mut self.inflight {
            entry.charged = false;
        }
    }

    /// The client has gone: QoS 0 messages go with it. Returns them to be counted.
    pub fn on_disconnected(&mut self) -> usize {
        self.quota = 0;
        self.resent = 0;
        let dropped = self.transient.len();
        for (_, queued) in core::mem::take(&mut self.transient) {
            self.waiting_bytes -= bytes(&queued);
            self.ids_bytes -= ids_bytes(&queued);
        }
        self.recharge();
        dropped
    }

    /// Offers a message; it waits here if there is room.
    pub fn offer(&mut self, queued: Queued, limits: &OutboundLimits) -> Offer {
        if self.room(limits) == 0 || !self.has_bytes_for(&queued, limits) {
            return Offer::Full(queued);
        }
        self.push(queued);
        Offer::Taken
    }

    /// Takes a message that was asked for, whether there is room or not: whoever asks, asks for few.
    pub fn push_taken(&mut self, queued: Queued) {
        self.push(queued);
    }

    /// Places that are not taken.
    pub fn room(&self, limits: &OutboundLimits) -> usize {
        limits.messages_max.saturating_sub(self.waiting())
    }

    fn has_bytes_for(&self, queued: &Queued, limits: &OutboundLimits) -> bool {
        self.waiting() == 0 || self.waiting_bytes + bytes(queued) <= limits.bytes_max
    }

    fn push(&mut self, queued: Queued) {
        self.waiting_bytes += bytes(&queued);
        self.ids_bytes += ids_bytes(&queued);
        self.arrivals += 1;
        match queued.qos {
            QoS::AtMostOnce => self.transient.push_back((self.arrivals, queued)),
            _ => self.queue.push_back((self.arrivals, queued)),
        }
        self.recharge();
    }

    /// Makes room by dropping the oldest waiting message, QoS 0 first.
    pub fn drop_oldest(&mut self) -> Option<Queued> {
        let (_, dropped) = self.transient.pop_front().or_else(|| self.queue.pop_front())?;
        self.waiting_bytes -= bytes(&dropped);
        self.ids_bytes -= ids_bytes(&dropped);
        self.recharge();
        Some(dropped)
    }

    /// How many messages have left the queues, whichever way.
    pub(crate) fn left(&self) -> u64 {
        self.arrivals - self.waiting() as u64
    }

    /// Messages waiting.
    pub fn waiting(&self) -> usize {
        self.queue.len() + self.transient.len()
    }

    /// Bytes waiting.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Whether more waits than two queues may hold.
    pub(crate) fn is_over_twice(&self, limits: &OutboundLimits) -> bool {
        let waiting = self.waiting();
        waiting > limits.messages_max.saturating_mul(2)
            || waiting > 1 && self.waiting_bytes > limits.bytes_max.saturating_mul(2)
    }

    /// Deliveries that the client has not finished.
    pub fn in_flight(&self) -> usize {
        self.inflight.len()
    }

    /// Sends what the connection and the client's Receive Maximum allow: first what is sent again, then what waits, in
    /// the order of its arrival. QoS 0 passes QoS 1 and 2 only while the client's quota is used up.
    pub fn pump(&mut self, now: Instant, limits: &OutboundLimits, sink: &mut impl OutboundSink) {
        #[cfg(feature = "mutants")]
        {
            self.mutant = limits.mutant;
        }
        self.pump_resend(sink);
        self.pump_new(now, limits, sink);
        self.recharge();
    }

    fn pump_new(&mut self, now: Instant, limits: &OutboundLimits, sink: &mut impl OutboundSink) {
        while sink.has_room() {
            let acknowledged =
                self.queue.front().filter(|_| self.may_send_acknowledged(limits)).map(|(n, _)| *n);
            let transient = self.transient.front().map(|(n, _)| *n);
            match (acknowledged, transient) {
                (None, None) => return,
                (Some(older), Some(newer)) if newer < older => self.send_transient(now, sink),
                (Some(_), _) => self.send_acknowledged(now, sink),
                (None, Some(_)) => self.send_transient(now, sink),
            }
        }
    }

    /// What is sent again goes first: a new message may not overtake it `[MQTT-4.6.0-1]`. What a client leaves
    /// unfinished is bounded in number and in bytes.
    fn may_send_acknowledged(&self, limits: &OutboundLimits) -> bool {
        self.resent == self.inflight.len()
            && self.quota > 0
            && self.inflight.len() < INFLIGHT_ENTRIES_MAX
            && (self.inflight_bytes == 0 || self.inflight_bytes < limits.bytes_max)
    }

    fn pump_resend(&mut self, sink: &mut impl OutboundSink) {
        while self.resent < self.inflight.len() && sink.has_room() {
            let entry = &mut self.inflight[self.resent];
            match &entry.state {
                InflightState::Released => sink.release(entry.id),
                // The client may have come back with a smaller Maximum Packet Size.
                InflightState::Published(queued) if !sink.fits(queued) => {
                    if let Some(queued) = self.remove(self.resent) {
                        sink.discarded(queued, Discard::TooLarge);
                    }
                    continue;
                }
                InflightState::Published(_) if self.quota == 0 => return,
                InflightState::Published(queued) => {
                    self.quota -= 1;
                    entry.charged = true;
                    sink.publish(queued, Some(entry.id), true);
                }
            }
            self.resent += 1;
        }
    }

    fn send_acknowledged(&mut self, now: Instant, sink: &mut impl OutboundSink) {
        let Some((_, queued)) = self.queue.pop_front() else { return };
        let Some(queued) = self.sendable(now, sink, queued) else { return };
        let id = self.free_id();
        self.quota -= 1;
        sink.publish(&queued, Some(id), false);
        // Once a client has seen a QoS 2 message of a group, nobody else may `[MQTT-4.8.2-5]`.
        let group = queued.group.filter(|_| queued.qos == QoS::AtLeastOnce);
        self.inflight_bytes += bytes(&queued);
        let state = InflightState::Published(Queued { group, ..queued });
        self.inflight.push_back(Inflight { id, state, charged: true });
        self.resent += 1;
    }

    fn send_transient(&mut self, now: Instant, sink: &mut impl OutboundSink) {
        let Some((_, queued)) = self.transient.pop_front() else { return };
        if let Some(queued) = self.sendable(now, sink, queued) {
            self.ids_bytes -= ids_bytes(&queued);
            sink.publish(&queued, None, false);
        }
    }

    /// A message that has left its queue, unless it may not be sent any more.
    fn sendable(&mut self, now: Instant, sink: &mut impl OutboundSink, queued: Queued) -> Option<Queued> {
        self.waiting_bytes -= bytes(&queued);
        let why = if queued.message.is_expired(now) {
            Discard::Expired
        } else if !sink.fits(&queued) {
            Discard::TooLarge
        } else {
            return Some(queued);
        };
        self.ids_bytes -= ids_bytes(&queued);
        sink.discarded(queued, why);
        None
    }

    /// Whether nothing waits, nor is to be sent again: what comes now may be written past the queues.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting() == 0 && self.resent == self.inflight.len()
    }

    /// Whether anything could be sent if there were room.
    pub fn has_work(&self) -> bool {
        self.resent < self.inflight.len()
            || !self.transient.is_empty()
            || (!self.queue.is_empty() && self.quota > 0)
    }

    /// Identifiers count up and skip those in flight: an identifier is reused as late as possible.
    fn free_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            #[cfg(feature = "mutants")]
            if self.mutant == Some(crate::mutants::Mutant::IdentifierUsedEarly) {
                self.last_id = (self.last_id - 1) % 8 + 1;
                return PacketId::new(self.last_id).expect("counted from 1");
            }
            let id = PacketId::new(self.last_id).expect("counted from 1");
            // At most INFLIGHT_ENTRIES_MAX entries, far below 65,535: the loop ends, and the scan is short.
            if !self.inflight.iter().any(|entry| entry.id == id) {
                return id;
            }
        }
    }

    /// PUBACK: a QoS 1 delivery is complete.
    pub fn on_puback(&mut self, id: PacketId) -> Outgoing {
        let Some(at) = self.position(id) else { return Outgoing::Unknown };
        match &self.inflight[at].state {
            InflightState::Published(queued) if queued.qos == QoS::AtLeastOnce => {
                Outgoing::Complete(self.remove(at))
            }
            _ => Outgoing::WrongQoS,
        }
    }

    /// PUBREC: a QoS 2 delivery is the client's now, or refused by it.
    pub fn on_pubrec(&mut self, id: PacketId, refused: bool) -> Outgoing {
        let Some(at) = self.position(id) else { return Outgoing::Unknown };
        match &self.inflight[at].state {
            InflightState::Published(queued) if queued.qos != QoS::ExactlyOnce => Outgoing::WrongQoS,
            _ if refused => Outgoing::Complete(self.remove(at)),
            InflightState::Released => Outgoing::Release,
            InflightState::Published(_) => {
                self.release(at);
                Outgoing::Release
            }
        }
    }

    /// The released stand in front, in the order of their PUBRECs: so their PUBRELs are sent again in that order too
    /// `[MQTT-4.6.0-4]`.
    fn release(&mut self, at: usize) {
        let entry = self.inflight.remove(at).expect("position of an entry");
        if let InflightState::Published(queued) = &entry.state {
            self.inflight_bytes -= bytes(queued);
            self.ids_bytes -= ids_bytes(queued);
        }
        let to =
            self.inflight.iter().take_while(|entry| matches!(entry.state, InflightState::Released)).count();
        self.inflight.insert(to, Inflight { state: InflightState::Released, ..entry });
        if to < self.resent && self.resent <= at {
            // It has not been sent again yet on this connection, and need not be: its PUBREL leaves now.
            self.resent += 1;
        }
        self.recharge();
    }

    /// PUBCOMP: a QoS 2 delivery is complete.
    pub fn on_pubcomp(&mut self, id: PacketId) -> Outgoing {
        let Some(at) = self.position(id) else { return Outgoing::Unknown };
        match &self.inflight[at].state {
            InflightState::Released => Outgoing::Complete(self.remove(at)),
            InflightState::Published(_) => Outgoing::WrongQoS,
        }
    }

    fn position(&self, id: PacketId) -> Option<usize> {
        self.inflight.iter().position(|entry| entry.id == id)
    }

    fn remove(&mut self, at: usize) -> Option<Queued> {
        let entry = self.inflight.remove(at).expect("position of an entry");
        if at < self.resent {
            self.resent -= 1;
        }
        if entry.charged {
            self.quota += 1;
        }
        let queued = match entry.state {
            InflightState::Published(queued) => {
                self.inflight_bytes -= bytes(&queued);
                self.ids_bytes -= ids_bytes(&queued);
                Some(queued)
            }
            InflightState::Released => None,
        };
        self.recharge();
        queued
    }

    /// Takes out every message that a client who has gone leaves unfinished of its shared groups: they go back to their
    /// group. A QoS 2 message that the client has seen stays.
    pub fn take_unfinished_group_messages(&mut self, of: impl Fn(&GroupTag) -> bool) -> Vec<Queued> {
        let mut taken = Vec::new();
        let mut at = 0;
        while at < self.inflight.len() {
            match &self.inflight[at].state {
                InflightState::Published(queued) if queued.group.as_ref().is_some_and(&of) => {
                    taken.extend(self.remove(at));
                }
                _ => at += 1,
            }
        }
        taken.extend(self.take_waiting_group_messages(of));
        taken
    }

    /// Takes out every message of its shared groups that was not sent yet. What was sent to a client that is still there
    /// is completed with it `[MQTT-3.10.4-3]`.
    pub fn take_waiting_group_messages(&mut self, of: impl Fn(&GroupTag) -> bool) -> Vec<Queued> {
        let mut taken = Vec::new();
        let theirs = |queued: &Queued| queued.group.as_ref().is_some_and(&of);
        for queue in [&mut self.queue, &mut self.transient] {
            let (back, kept): (Vec<_>, Vec<_>) = queue.drain(..).partition(|(_, queued)| theirs(queued));
            let back = back.into_iter().map(|(_, queued)| queued);
            taken.extend(back.inspect(|queued| {
                self.waiting_bytes -= bytes(queued);
                self.ids_bytes -= ids_bytes(queued);
            }));
            queue.extend(kept);
        }
        self.recharge();
        taken
    }

    /// Appends what another half of the same session collected after this one.
    pub fn append(&mut self, later: Self) {
        assert!(later.inflight.is_empty(), "only one half of a session has ever been connected");
        let (mut acknowledged, mut transient) =
            (later.queue.into_iter().peekable(), later.transient.into_iter().peekable());
        loop {
            let next = match (acknowledged.peek(), transient.peek()) {
                (Some((a, _)), Some((t, _))) if t < a => transient.next(),
                (Some(_), _) => acknowledged.next(),
                (None, _) => transient.next(),
            };
            let Some((_, queued)) = next else { return };
            self.push(queued);
        }
    }

    /// Messages in flight that the client has not acknowledged, by PUBACK or PUBREC, for the counters of a session that ends.
    pub fn unacknowledged(&self) -> usize {
        self.inflight.iter().filter(|entry| matches!(entry.state, InflightState::Published(_))).count()
    }
}

/// Deliveries that a client may leave unfinished, over all its connections: beyond this nothing new is sent to it. Far
/// above any Receive Maximum that we honour, far below the number of packet identifiers.
const INFLIGHT_ENTRIES_MAX: usize = 1_024;

/// What an entry counts against the queue's limit in bytes: the message, and identifiers that take memory of their own.
/// All of them have to be sent `[MQTT-3.3.4-3]`, so thousands in one delivery are the session's to pay.
fn bytes(queued: &Queued) -> usize {
    queued.message.bytes() + ids_bytes(queued)
}

/// Heap of subscription identifiers that do not fit into their entry.
pub(super) fn ids_bytes(queued: &Queued) -> usize {
    match queued.subscription_ids.spilled() {
        true => queued.subscription_ids.capacity() * size_of::<u32>(),
        false => 0,
    }
}
