//! One MQTT connection: bytes of one ordered stream each way, whatever carries them, and the state that ends with it.
//!
//! ```text
//!  opened ─► AwaitConnect ─CONNECT─► Authenticating ─allowed─► Claiming ─granted─► Online ─► Closing ─► (gone)
//!               │ timeout                 │ denied                │ refused          │ error, DISCONNECT, …
//!               └────────────► Closing ◄──┴───────────────────────┴──────────────────┘
//! ```
//! While it is authenticating or claiming, packets are held in the receive buffer, bounded by pausing the transport.
//! What is to be written waits in an [`Output`], which knows nothing of the rest.

mod aliases;
mod input;
mod output;

use core::time::Duration;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quelea_mqtt::{Limits, Packet, PacketId, PacketType, QoS, ReasonCode, Sender, Version};

use crate::door::{DoorKindId, Layers};
use crate::envelope::{LinkKey, SessionKey};
use crate::kept;
use crate::publication::Message;
use crate::quic::{ConnId, StreamId};
use crate::session::OutboundLimits;
use crate::shard::Permissions;

pub(crate) use aliases::{AliasLimits, AliasesIn, AliasesOut};
pub(crate) use input::Input;
pub use output::WriteBatch;
pub(crate) use output::{JOIN_BYTES_MAX, OUTPUT_HIGH_BYTES, OUTPUT_PAUSE_BYTES, Output};

/// A byte stream of the driver's (TCP and what lies on it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DoorId(pub u64);

/// What carries a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// A byte stream of the driver's.
    Door(DoorId),
    /// A bidirectional QUIC stream, opened by the client.
    Stream(ConnId, StreamId),
}

/// Where the connection stands.
#[derive(Debug)]
pub(crate) enum LinkState {
    /// Nothing but a CONNECT is allowed.
    AwaitConnect,
    /// The credentials are being checked.
    Authenticating(Box<Connecting>),
    /// The home shard has been asked for the session.
    Claiming(Box<Connecting>),
    /// Serving a session.
    Online(SessionKey),
    /// The last bytes are on their way; nothing more is read.
    Closing(Closing),
    /// The carrier is gone. What it has published waits for the other road, or for its acceptance.
    Gone,
}

/// A CONNECT that is not answered yet.
#[derive(Debug)]
pub(crate) struct Connecting {
    pub(crate) client_id: Arc<str>,
    pub(crate) assigned: bool,
    pub(crate) clean_start: bool,
    pub(crate) expiry_s: Option<u32>,
    pub(crate) expiry_capped: bool,
    pub(crate) will: Option<crate::session::PendingWill>,
    pub(crate) keep_alive_s: u16,
    pub(crate) keep_alive_imposed: bool,
    pub(crate) receive_max: u16,
    pub(crate) wants_response_topic: bool,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closing {
    /// Abort when this passes.
    pub(crate) deadline: Instant,
    /// After the last bytes: what the carrier is told.
    pub(crate) how: CloseHow,
    /// The last bytes had their one transmission before a reset.
    pub(crate) said: bool,
    /// The carrier has been told; its own end is awaited.
    pub(crate) told: bool,
}

/// What a carrier is told at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseHow {
    /// End of stream after the last byte.
    Finish,
    /// QUIC: reset and stop with this code, as soon as the last bytes had their chance. TCP: end of stream.
    Reset(u64),
}

/// A publication of this connection that awaits its acknowledgement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingAck {
    pub(crate) id: PacketId,
    pub(crate) qos: QoS,
    pub(crate) outcome: Option<ReasonCode>,
}

/// A packet whose permission was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) packet: Bytes,
    /// It is a publication that counts against our Receive Maximum.
    pub(crate) counts: bool,
}

/// Acknowledgements leave in the order of the PUBLISH packets `[MQTT-4.6.0-2]`, `[MQTT-4.6.0-3]`.
#[derive(Debug, Default)]
pub(crate) struct AckQueue {
    waiting: VecDeque<PendingAck>,
    first: u64,
}

impl AckQueue {
    /// Remembers a PUBLISH; the number settles it.
    pub(crate) fn push(&mut self, id: PacketId, qos: QoS) -> u64 {
        self.waiting.push_back(PendingAck { id, qos, outcome: None });
        self.first + self.waiting.len() as u64 - 1
    }

    /// The publication is accepted, or refused: then the identifier is returned, if it is of QoS 2.
    pub(crate) fn settle(&mut self, number: u64, outcome: ReasonCode) -> Option<PacketId> {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let entry = at.and_then(|at| self.waiting.get_mut(at)).expect("settled once, and before it left");
        entry.outcome = Some(outcome);
        (outcome.is_error() && entry.qos == QoS::ExactlyOnce).then_some(entry.id)
    }

    /// The next acknowledgement that may leave.
    pub(crate) fn pop_settled(&mut self) -> Option<(PacketId, QoS, ReasonCode)> {
        let Some(front) = self.waiting.front() else {
            kept::give_back_grown(&mut self.waiting);
            return None;
        };
        let settled = (front.id, front.qos, front.outcome?);
        self.waiting.pop_front();
        self.first += 1;
        Some(settled)
    }

    /// What was accepted as a repetition of a publication that is refused now, is refused with it.
    pub(crate) fn refuse_repeated(&mut self, id: PacketId, reason: ReasonCode) {
        let repeated = |entry: &&mut PendingAck| {
            entry.id == id && entry.qos == QoS::ExactlyOnce && entry.outcome.is_some()
        };
        for entry in self.waiting.iter_mut().filter(repeated) {
            entry.outcome = Some(reason);
        }
    }

    /// The packet identifier behind a number of QoS 2 whose acknowledgement has not left.
    pub(crate) fn id_of(&self, number: u64) -> Option<PacketId> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.waiting.get(at).filter(|entry| entry.qos == QoS::ExactlyOnce).map(|entry| entry.id)
    }

    /// Memory that they take.
    fn held_bytes(&self) -> usize {
        kept::bytes(&self.waiting)
    }

    /// Acknowledgements that are still to leave.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// What a search among them is worth: in nearly every queue nothing.
    pub(crate) fn search_work(&self) -> u64 {
        self.waiting.len() as u64 / SEARCHED_PER_WORK
    }

    /// Whether an acknowledgement of this identifier is still to leave.
    pub(crate) fn contains(&self, id: PacketId) -> bool {
        self.waiting.iter().any(|entry| entry.id == id)
    }
}

/// The road that a publication takes: publications of one connection on one topic may not overtake each other,
/// so a connection changes roads only when the old one is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Road {
    /// To every interested shard.
    Direct,
    /// To the owner of the retained topic, who sends it on.
    Owner,
}

/// A publication that waits for the other road to be empty.
#[derive(Debug)]
pub(crate) struct Deferred {
    pub(crate) message: Message,
    pub(crate) ack: Option<u64>,
}

/// One MQTT connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) carrier: Carrier,
    /// What is spoken on its byte stream below MQTT.
    pub(crate) kind: DoorKindId,
    /// The machines for it; `None` where MQTT is spoken as it is.
    pub(crate) layers: Option<Box<Layers>>,
    pub(crate) peer: SocketAddr,
    pub(crate) state: LinkState,
    pub(crate) version: Version,
    /// Whether a CONNECT has set `version`: before that no packet can be sent.
    pub(crate) version_known: bool,
    pub(crate) opened: Instant,
    pub(crate) last_packet: Instant,
    /// One and a half times the keep alive `[MQTT-3.1.2-22]`.
    pub(crate) silence_max: Option<Duration>,
    pub(crate) armed: Option<Instant>,
    /// Bytes of a packet that is not complete, and everything behind it while packets are held.
    pub(crate) input: Input,
    pub(crate) reading_paused: bool,
    /// It has had its share of the turn's work: its packets wait for its next.
    pub(crate) yielded: bool,
    /// The client has ended its side, and packets in front of that are still held.
    pub(crate) input_ended: bool,
    pub(crate) output: Output,
    pub(crate) dirty: bool,
    /// What the client may do.
    pub(crate) permissions: Permissions,
    /// The packet that waits for permission.
    pub(crate) asked: Option<Asked>,
    /// Bytes of this connection's buffers that are charged to the shard's budget.
    pub(crate) charged_bytes: usize,
    /// The client's Maximum Packet Size.
    pub(crate) packet_bytes_max: u32,
    /// Reason strings and user properties are welcome on every packet `[MQTT-3.1.2-29]`.
    pub(crate) problem_information: bool,
    pub(crate) aliases_in: AliasesIn,
    pub(crate) aliases_out: AliasesOut,
    pub(crate) acks: AckQueue,
    /// Acknowledgements that may be owed before reading pauses: before MQTT 5 a client cannot be told a Receive Maximum.
    pub(crate) acks_max: usize,
    /// Its session waits for what the client acknowledges, and others perhaps for the session: those acknowledgements may lie
    /// behind publications, so these are read on.
    pub(crate) reads_on: bool,
    /// QoS 1 and 2 PUBLISH packets of this connection that the client may not yet forget `[MQTT-3.3.4-7]`.
    pub(crate) received_in_flight: u16,
    pub(crate) road: Road,
    pub(crate) on_road: u32,
    /// Those of them of QoS 0.
    pub(crate) on_road_once: u32,
    /// So many of QoS 0 that reading waits for their acceptance.
    pub(crate) throttled: bool,
    /// The session that this connection had, while publications of it are not accepted and the session lives on.
    pub(crate) former: Option<SessionKey>,
    /// The session's next connection on this shard: its publications wait behind those of this one.
    pub(crate) next: Option<LinkKey>,
    /// Publications wait until those of the session's former connection are accepted.
    pub(crate) behind_former: bool,
    pub(crate) deferred: VecDeque<Deferred>,
    /// SUBSCRIBE and UNSUBSCRIBE packets whose answers wait for other shards.
    pub(crate) barriers: usize,
    /// How many of them before later packets are held.
    pub(crate) barriers_max: usize,
    /// Those of them that wait for the owners of shared groups.
    pub(crate) joining: Vec<crate::shard::PendingAnswer>,
}

impl Link {
    pub(crate) fn new(
        now: Instant,
        carrier: Carrier,
        peer: SocketAddr,
        aliases: AliasesOut,
        barriers_max: usize,
    ) -> Self {
        Self {
            carrier,
            kind: DoorKindId::PLAIN,
            layers: None,
            peer,
            state: LinkState::AwaitConnect,
            version: Version::V5,
            version_known: false,
            opened: now,
            last_packet: now,
            silence_max: None,
            armed: None,
            input: Input::default(),
            reading_paused: false,
            yielded: false,
            input_ended: false,
            output: Output::default(),
            dirty: false,
            permissions: Permissions::Ask,
            asked: None,
            charged_bytes: 0,
            packet_bytes_max: u32::MAX,
            problem_information: true,
            aliases_in: AliasesIn::default(),
            aliases_out: aliases,
            acks: AckQueue::default(),
            acks_max: usize::MAX,
            reads_on: false,
            received_in_flight: 0,
            road: Road::Direct,
            on_road: 0,
            on_road_once: 0,
            throttled: false,
            former: None,
            next: None,
            behind_former: false,
            deferred: VecDeque::new(),
            barriers: 0,
            barriers_max,
            joining: Vec::new(),
        }
    }

    /// Whether received packets are kept back until the connection's turn, until an answer of another shard or of a side
    /// thread is in, or until fewer publications wait for their acceptance, fewer subscriptions for the other shards, or for the other road.
    ///
    /// The last only while nothing of QoS 1 or 2 is open: then nothing that this connection waits for can wait for a
    /// full session, and an acknowledgement that lies behind cannot be what a full session waits for. Publications of QoS 0
    /// do wait for full sessions, but only for [`crate::Settings::qos0_patience`].
    pub(crate) fn is_held(&self) -> bool {
        self.asked.is_some()
            || self.yielded
            || matches!(self.state, LinkState::Authenticating(_) | LinkState::Claiming(_))
            || self.owes_too_much()
            || self.throttled
            || self.barriers >= self.barriers_max
            || (self.deferred.len() >= DEFERRED_HOLD && self.is_crossing())
    }

    /// Whether so many acknowledgements are owed that reading waits.
    fn owes_too_much(&self) -> bool {
        let max = if self.reads_on { self.acks_max.max(PACKET_IDS) } else { self.acks_max };
        self.acks.len() >= max
    }

    /// Its session has begun or ceased to wait for the client's acknowledgements. Returns whether that lets reading go on.
    pub(crate) fn read_on(&mut self, reads_on: bool) -> bool {
        let was_held = self.owes_too_much();
        self.reads_on = reads_on;
        was_held && !self.owes_too_much()
    }

    /// Whether the client has said DISCONNECT (with 0x00) behind packets that are still held: its Will is not to be
    /// published, even if the connection ends before the packet's turn `[MQTT-3.14.4-3]`.
    pub(crate) fn holds_farewell(&self, limits: &Limits) -> bool {
        let mut rest = self.input.as_slice();
        while let Ok(Some(frame)) = quelea_mqtt::peek_frame(rest, Sender::Client, limits)
            && let Some((packet, after)) = rest.split_at_checked(frame.packet_bytes)
        {
            if frame.packet_type() == Some(PacketType::Disconnect) {
                let decoded = quelea_mqtt::decode(packet, self.version, Sender::Client, limits);
                return matches!(decoded, Ok(Packet::Disconnect(said)) if said.reason == ReasonCode::NORMAL_DISCONNECTION);
            }
            rest = after;
        }
        false
    }

    /// Whether as much waits for a road as a queue may hold. Asked for QoS 0 only, so no more than that is summed.
    pub(crate) fn defers_too_much(&self, limits: &OutboundLimits) -> bool {
        let bytes = || self.deferred.iter().map(|deferred| deferred.message.bytes()).sum::<usize>();
        self.deferred.len() >= limits.messages_max || bytes() >= limits.bytes_max
    }

    /// Whether publications of this connection are not accepted yet.
    pub(crate) fn has_unsettled(&self) -> bool {
        self.on_road > 0 || !self.deferred.is_empty()
    }

    /// A publication is on its way by `road`. Of QoS 0 there may be `once_max`, for no Receive Maximum bounds them: what stays
    /// behind waits with its client. Returns whether reading pauses now.
    pub(crate) fn enter_road(&mut self, road: Road, is_once: bool, once_max: u32) -> bool {
        self.road = road;
        self.on_road += 1;
        if !is_once {
            return false;
        }
        self.on_road_once += 1;
        self.on_road_once >= once_max && !core::mem::replace(&mut self.throttled, true)
    }

    /// One of them is accepted. Returns whether reading goes on: when half of them are, so that it does not stop again at the
    /// next packet.
    pub(crate) fn leave_road(&mut self, is_once: bool, once_max: u32) -> bool {
        self.on_road -= 1;
        if !is_once {
            return false;
        }
        self.on_road_once -= 1;
        self.on_road_once <= once_max / 2 && core::mem::take(&mut self.throttled)
    }

    /// Whether anything may go on when a publication is accepted: one that waits for another road, the session's next
    /// connection, or packets that were kept back. None of that is so for nearly every publication.
    pub(crate) fn has_followers(&self) -> bool {
        !self.deferred.is_empty()
            || self.former.is_some()
            || self.input_ended
            || !self.input.is_empty()
            || matches!(self.state, LinkState::Gone)
    }

    /// Whether a publication by `road` has to wait until what went before it is accepted.
    pub(crate) fn must_wait_for(&self, road: Road) -> bool {
        self.behind_former || (self.road != road && self.on_road > 0)
    }

    /// Whether publications wait for the other road, all of QoS 0: what ends the connection in order waits behind them.
    pub(crate) fn is_crossing(&self) -> bool {
        !self.deferred.is_empty() && self.acks.len() == 0
    }

    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.state, LinkState::Closing(_) | LinkState::Gone)
    }

    pub(crate) fn session(&self) -> Option<SessionKey> {
        match self.state {
            LinkState::Online(session) => Some(session),
            _ => None,
        }
    }

    /// When something is to be done if nothing comes.
    pub(crate) fn deadline(&self, connect_timeout: Duration) -> Option<Instant> {
        match &self.state {
            LinkState::Closing(closing) => Some(closing.deadline),
            // What it waits for has deadlines of its own.
            LinkState::Gone => None,
            LinkState::Online(_) => self.silence_max.map(|silence| self.last_packet + silence),
            _ => Some(self.opened + connect_timeout),
        }
    }

    /// Memory that this connection holds on behalf of its client.
    pub(crate) fn held_bytes(&self) -> usize {
        let layers = self.layers.as_ref().map_or(0, |layers| LAYERS_BYTES + layers.buffered_bytes());
        self.input.held_bytes()
            + self.output.held_bytes()
            + self.asked.as_ref().map_or(0, |asked| asked.packet.len())
            + layers
            + self.aliases_in.held_bytes()
            + self.aliases_out.held_bytes()
            + kept::bytes(&self.deferred)
            + self.acks.held_bytes()
            + LINK_BYTES
    }

    /// Bytes that have come and wait for more, or for their turn.
    pub(crate) fn received_bytes(&self) -> usize {
        let layers = self.layers.as_ref().map_or(0, |layers| layers.buffered_bytes());
        self.input.len() + layers
    }

    /// Whether another publication may be written now.
    pub(crate) fn has_room(&self) -> bool {
        self.output.bytes() < OUTPUT_HIGH_BYTES
    }
}

/// Publications of QoS 0 that wait for the other road: from here on the publisher is held back instead of losing some.
/// A crossing costs one round between two shards, however many wait behind it.
const DEFERRED_HOLD: usize = 64;

/// Acknowledgements looked at while a node of the trie is visited.
const SEARCHED_PER_WORK: u64 = 64;

/// Packet identifiers of one client: it has no more publications than that in flight.
const PACKET_IDS: usize = 65_535;

/// What a connection costs beside its buffers: itself, its timers, and its entries in tables that have room to grow.
const LINK_BYTES: usize = size_of::<Link>() + 256;

/// The layers of a byte stream beside their buffers: TLS, which is the largest (`cargo run -p quelea-shard --example
/// door_memory`).
const LAYERS_BYTES: usize = 2_560;

/// Packets held while a CONNECT is being answered: beyond this, reading pauses.
pub(crate) const HELD_BYTES_MAX: usize = 64 * 1024;
