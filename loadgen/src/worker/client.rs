//! One client: a core, the bytes on their way between it and its transport, and what it is for.

use bytes::BytesMut;
use quelea_client::{Bounds, Core, Options, Password, SessionLost, Text};
use quelea_mqtt::QoS;

use super::carrier::Carrier;
use crate::clock::Nanos;
use crate::plan::{Plan, Role};

/// What a client of this thread is, by its number on this thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Idle,
    /// A member of this receiver.
    Receiver(usize),
    Publisher(usize),
}

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// To be connected at its time.
    Waiting,
    /// The transport is open, or being opened.
    Opening,
    /// Connected, and subscribed if it subscribes.
    Ready,
    /// Gone, for good.
    Ended,
}

/// Bytes that a client has been handed in one turn.
#[derive(Clone, Copy, Default)]
pub(super) struct Share {
    /// The turn of the last read.
    pub(super) turn: Option<u64>,
    pub(super) bytes: usize,
}

pub(super) struct Client {
    pub(super) core: Core,
    pub(super) number: u32,
    pub(super) part: Part,
    pub(super) stage: Stage,
    pub(super) carrier: Carrier,
    /// In the list of those that may have something to write.
    pub(super) dirty: bool,
    /// Bytes that the core did not take, because its own answers wait to be written; reading pauses meanwhile.
    pub(super) held: BytesMut,
    pub(super) paused: bool,
    pub(super) share: Share,
    /// Why the transport failed has been counted.
    pub(super) explained: bool,
    /// When it was meant to be connected.
    pub(super) meant_at: Nanos,
    /// It has been ready before.
    pub(super) was_ready: bool,
}

impl Client {
    pub(super) fn new(plan: &Plan, number: u32, part: Part) -> Self {
        let seed = plan.reach.seed.wrapping_add(number.into());
        Self {
            core: Core::new(options(plan, number), seed),
            number,
            part,
            stage: Stage::Waiting,
            carrier: Carrier::None,
            dirty: false,
            held: BytesMut::new(),
            paused: false,
            share: Share::default(),
            explained: false,
            meant_at: 0,
            was_ready: false,
        }
    }

    /// Room for one more publication of this QoS.
    pub(super) fn has_room(&self, qos: QoS) -> bool {
        match qos {
            QoS::AtMostOnce => {
                self.core.is_connected()
                    && self.core.output_bytes() < self.core.options().bounds.output_bytes_max
            }
            QoS::AtLeastOnce | QoS::ExactlyOnce => self.core.has_room(),
        }
    }

    /// A new transport.
    pub(super) fn attach(&mut self, carrier: Carrier) {
        self.carrier = carrier;
        self.stage = Stage::Opening;
        self.paused = false;
        self.explained = false;
        self.held.clear();
    }
}

fn options(plan: &Plan, number: u32) -> Options {
    let reach = &plan.reach;
    let client_id = Text::from(plan.client_id(number));
    let publisher = matches!(plan.role(number), Role::Publisher(_));
    let packet_bytes = plan.load.payload_bytes + PACKET_OVERHEAD_BYTES;
    let bounds = Bounds {
        // Someone else's messages may be of any size.
        packet_bytes_max: (packet_bytes as u32).max(1 << 20),
        receive_max: plan.receive_max,
        in_flight_max: plan.load.in_flight,
        in_flight_bytes_max: usize::from(plan.load.in_flight.get()) * packet_bytes,
        output_bytes_max: if publisher { OUTPUT_BYTES_MAX.max(packet_bytes) } else { OUTPUT_BYTES_MAX },
        ..Bounds::default()
    };
    Options {
        version: plan.version(),
        keep_alive_s: reach.keep_alive,
        user_name: reach.username.as_deref().map(Text::from),
        password: reach.password.clone().map(Password::new),
        // Sessions that shall be resumed have to outlive their connection.
        session_expiry_s: reach.reconnect.map(|_| SESSION_EXPIRY_S),
        // Counted, not punished: the generator measures brokers as they are.
        receive_max_strict: false,
        session_lost: SessionLost::Republish,
        connect_timeout: reach.connect_timeout,
        bounds,
        ..Options::new(client_id)
    }
}

/// Fixed header, topic and properties of a PUBLISH.
const PACKET_OVERHEAD_BYTES: usize = 66_000;
/// Small, so that a message of QoS 0 does not wait long behind others of its own publisher.
const OUTPUT_BYTES_MAX: usize = 64 << 10;
const SESSION_EXPIRY_S: u32 = 300;
