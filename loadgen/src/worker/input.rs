//! What comes up: bytes from the ring into the cores, and what the cores say of them.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Instant;

use quelea_client::{Event, Message, Subscribe, Text, Token};
use quelea_mqtt::{QoS, ReasonCode};
use quelea_udp_io::{Closed, Datagram, DoorId, ListenerId, Sink};

use super::READ_BUFFER_BYTES;
use super::carrier::Carrier;
use super::client::{Part, Share, Stage};
use super::floor::Floor;
use crate::book::Arrival;
use crate::clock::Nanos;
use crate::payload::Stamp;
use crate::plan::{Role, Shape};
use crate::shared::Phase;
use crate::tls;

impl Sink for Floor {
    fn datagram(&mut self, datagram: Datagram<'_>) {
        let instant = self.note_input();
        self.reads.in_turn += 1;
        self.reads.all += 1;
        if let Some(quic) = &mut self.quic {
            quic.handle_datagram(instant, &datagram);
        }
    }

    fn opened(&mut self, _: DoorId, _: ListenerId, _: SocketAddr, _: SocketAddr) {}

    fn bytes(&mut self, door: DoorId, bytes: &[u8]) {
        let instant = self.note_input();
        let Some(local) = self.client_of(door) else { return };
        self.note_read(local, bytes.len());
        let Carrier::Stream(stream) = &mut self.clients[local].carrier else { return };
        if stream.layers.is_empty() {
            self.take(local, instant, bytes);
        } else {
            let (mut plain, mut between) =
                (std::mem::take(&mut self.plain), std::mem::take(&mut self.between));
            plain.clear();
            let result = stream.layers.take(bytes, &mut between, &mut plain);
            let ended = stream.layers.is_ended();
            self.take(local, instant, &plain);
            (self.plain, self.between) = (plain, between);
            if let Err(error) = &result {
                self.note_transport_error(local, error);
            }
            if ended || result.is_err() {
                self.end_input(local, instant);
            }
        }
        self.mark_dirty(local);
    }

    fn closed(&mut self, door: DoorId, why: Closed) {
        let instant = self.note_input();
        let local = match why {
            // The name stays good until our own side is closed, too.
            Closed::EndOfStream => self.client_of(door),
            Closed::Reset(_) | Closed::Flushed => self.forget_door(door),
        };
        // Old doors of clients that have been connected again are nobody's.
        let Some(local) = local.filter(|local| self.clients[*local].carrier.is_door(door)) else { return };
        if let Closed::Reset(kind) = why
            && self.clients[local].core.is_attached()
        {
            self.note_transport_error(local, &kind.to_string());
        }
        if why != Closed::EndOfStream {
            self.clients[local].carrier = Carrier::None;
        }
        self.end_input(local, instant);
    }

    fn written(&mut self, door: DoorId) {
        let Some(local) = self.client_of(door) else { return };
        if let Carrier::Stream(stream) = &mut self.clients[local].carrier
            && stream.door == door
        {
            stream.writing = false;
            self.mark_dirty(local);
        }
    }

    fn doorbell(&mut self) {}
}

impl Floor {
    fn note_input(&mut self) -> Instant {
        let instant = Instant::now();
        if self.input_at.is_none() {
            self.input_at = Some(self.clock.nanos_at(instant));
        }
        instant
    }

    /// A door is one read in a turn, in however many pieces io_uring brings it.
    fn note_read(&mut self, local: usize, bytes: usize) {
        let share = &mut self.clients[local].share;
        if share.turn != Some(self.turn) {
            *share = Share { turn: Some(self.turn), bytes: 0 };
            self.reads.in_turn += 1;
            self.reads.all += 1;
        }
        let was_full = share.bytes >= READ_BUFFER_BYTES;
        share.bytes += bytes;
        self.reads.full += u64::from(!was_full && share.bytes >= READ_BUFFER_BYTES);
    }

    /// Hands bytes of MQTT to a client, behind those that it holds.
    fn take(&mut self, local: usize, instant: Instant, bytes: &[u8]) {
        // After a pause one more read may have been under way.
        let taken = if self.clients[local].held.is_empty() { self.feed(local, instant, bytes) } else { 0 };
        self.clients[local].held.extend_from_slice(&bytes[taken..]);
    }

    /// Nothing more will come from the broker.
    pub(super) fn end_input(&mut self, local: usize, instant: Instant) {
        self.clients[local].core.handle_closed(instant);
        self.drain_events(local, instant, self.clock.nanos_at(instant));
        self.mark_dirty(local);
    }

    /// Counts why a transport has failed, once for each connection.
    pub(super) fn note_transport_error(&mut self, local: usize, reason: &str) {
        if self.phase != Phase::Leave && !std::mem::replace(&mut self.clients[local].explained, true) {
            let advice = tls::advice(reason, &self.plan.reach.tls, &self.plan.target().host);
            self.links.errors.note(advice.as_deref().unwrap_or(reason));
        }
    }

    /// Hands bytes to a core, and deals with what it says. Returns how many it took: fewer only while its own answers have no
    /// room.
    pub(super) fn feed(&mut self, local: usize, instant: Instant, bytes: &[u8]) -> usize {
        let now = self.clock.nanos_at(instant);
        let mut taken = 0;
        while taken < bytes.len() {
            let step = self.clients[local].core.handle_bytes(instant, &bytes[taken..]);
            self.drain_events(local, instant, now);
            taken += step;
            if step == 0 {
                break;
            }
        }
        taken
    }

    pub(super) fn drain_events(&mut self, local: usize, instant: Instant, now: Nanos) {
        while let Some(event) = self.clients[local].core.poll_event() {
            match event {
                Event::Message(message) => self.on_message(local, now, &message),
                Event::PublishDone { token, reason } => self.on_publish_done(local, now, token, reason),
                Event::Connected { session_present, .. } => {
                    self.on_connected(local, instant, now, session_present);
                }
                Event::Subscribed { reasons, .. } => match reasons.iter().find(|reason| reason.is_error()) {
                    None => self.on_ready(local),
                    Some(reason) => {
                        self.links.errors.note(&format!("subscription refused: {reason}"));
                        // Without its subscription the client is of no use.
                        let _ =
                            self.clients[local].core.disconnect(instant, ReasonCode::NORMAL_DISCONNECTION);
                    }
                },
                Event::Refused { reason, .. } => {
                    self.links.errors.note(&format!("connection refused: {reason}"));
                    self.on_gone(local, now);
                }
                Event::Disconnected(closed) => {
                    self.note_transport_error(local, &closed.to_string());
                    self.on_gone(local, now);
                }
                Event::Lost { token } => self.on_publication_lost(local, token),
                Event::Unsubscribed { .. } | Event::Pong | Event::Auth { .. } => {}
            }
        }
    }

    fn on_connected(&mut self, local: usize, instant: Instant, now: Nanos, session_present: bool) {
        let client = &mut self.clients[local];
        self.record.connect.saturating_record(now.saturating_sub(client.meant_at).max(1));
        let Role::Subscriber(subscriber) = self.plan.role(client.number) else {
            self.on_ready(local);
            return;
        };
        if session_present {
            self.on_ready(local);
            return;
        }
        let filter = Text::from(self.plan.filter_of(subscriber));
        if let Err(refusal) = client.core.subscribe(instant, &Subscribe::new(filter, self.plan.subscribe_qos))
        {
            self.links.errors.note(&format!("cannot subscribe: {refusal}"));
            let _ = self.clients[local].core.disconnect(instant, ReasonCode::NORMAL_DISCONNECTION);
        }
        self.mark_dirty(local);
    }

    fn on_ready(&mut self, local: usize) {
        let client = &mut self.clients[local];
        client.stage = Stage::Ready;
        if std::mem::replace(&mut client.was_ready, true) {
            self.links.reconnected += 1;
        } else {
            self.links.ready += 1;
        }
        self.free(local);
    }

    fn on_message(&mut self, local: usize, now: Nanos, message: &Message) {
        let Part::Receiver(place) = self.clients[local].part else { return };
        let Some(stamp) = Stamp::read(&message.payload) else {
            self.links.foreign += 1;
            return;
        };
        let receiver = &mut self.receivers[place];
        let Some(arrival) = receiver.note(&stamp, message.qos) else { return };
        self.totals.arrived += 1;
        if self.window.contains(now) {
            self.links.arrived_in_window += 1;
        }
        // A duplicate has been measured when it came first.
        if !matches!(arrival, Arrival::New | Arrival::Disordered) {
            return;
        }
        self.totals.received += 1;
        self.note_latency(now, stamp.intended, message.qos);
        // One receiver speaks for all that a publisher has.
        if let Some(seen) = self.shared.seen.get(stamp.publisher as usize)
            && (self.plan.shape == Shape::Pair || self.receivers[place].number == 0)
        {
            seen.fetch_max(stamp.sequence + 1, Ordering::Release);
        }
    }

    fn note_latency(&mut self, now: Nanos, intended: Nanos, qos: QoS) {
        if intended > now + CLOCKS_APART_MAX {
            self.links.ahead += 1;
            return;
        }
        let latency = now.saturating_sub(intended).max(1);
        self.second.delivery.saturating_record(latency);
        let is_measured = if self.plan.publishers == 0 {
            // Nobody of this run publishes: what arrives in the window is measured.
            self.window.contains(now)
        } else {
            self.window.contains(intended)
        };
        if is_measured {
            self.record.delivery.record(qos, latency);
        }
    }

    fn on_publish_done(&mut self, local: usize, now: Nanos, token: Token, reason: ReasonCode) {
        let Part::Publisher(place) = self.clients[local].part else { return };
        let publisher = &mut self.publishers[place];
        if publisher.qos == QoS::AtMostOnce {
            publisher.counts.confirmed += 1;
            self.totals.confirmed += 1;
            return;
        }
        let intended = publisher.take(token);
        if reason.is_error() {
            publisher.counts.refused += 1;
            self.links.errors.note(&format!("publication refused: {reason}"));
        } else {
            publisher.counts.confirmed += 1;
            self.totals.confirmed += 1;
        }
        if let Some(intended) = intended.filter(|intended| self.window.contains(*intended)) {
            self.record.acknowledgement.record(publisher.qos, now.saturating_sub(intended));
        }
        self.free(local);
    }

    /// The connection or the session ended before the answer: nobody knows whether the message was taken, so it need not
    /// arrive.
    fn on_publication_lost(&mut self, local: usize, token: Token) {
        if let Part::Publisher(place) = self.clients[local].part {
            self.publishers[place].take(token);
        }
    }
}

/// Two processes of one machine read the same clock, each with a translation that is some tens of nanoseconds wrong.
const CLOCKS_APART_MAX: Nanos = 1_000_000;
