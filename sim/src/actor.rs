//! One client of the run: a client core, the connection that it has, and what it waits for.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use quelea_client::{AckToken, Acks, Bounds, Core, Options, Publish, SessionLost, Text, Token, Will};
use quelea_mqtt::{QoS, ReasonCode, Version};

use crate::line::LineId;
use crate::oracle::PubId;
use crate::pipe::PipeId;

/// What a client is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Sees every Will; nothing bad happens to it.
    Watcher,
    /// Reads at the end what is retained.
    Probe,
    /// Does as its habits are.
    Player,
}

/// A request that is not answered.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// SUBSCRIBE: the oracle's numbers of its filters.
    Subscribe(Vec<usize>),
    /// UNSUBSCRIBE: the filters, and the oracle's numbers of them.
    Unsubscribe(Vec<(Text, usize)>),
}

/// What stays the same over all cores of one client.
#[derive(Clone, Debug)]
pub(crate) struct Character {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) version: Version,
    pub(crate) persistent: bool,
    pub(crate) session_expiry_s: u32,
    pub(crate) keep_alive_s: u16,
    /// The largest packet that it takes, if it says so.
    pub(crate) packet_bytes_max: Option<u32>,
    pub(crate) receive_max: u16,
    pub(crate) in_flight_max: u16,
    pub(crate) slow_acks: bool,
    pub(crate) wants_will: bool,
    pub(crate) will_delay_s: u32,
    /// Comes over QUIC.
    pub(crate) quic: bool,
}

/// One client.
pub(crate) struct Actor {
    pub(crate) character: Character,
    pub(crate) core: Core,
    pub(crate) pipe: Option<PipeId>,
    pub(crate) line: Option<LineId>,
    /// The shard of the present or last connection.
    pub(crate) shard: usize,
    pub(crate) connections: u32,
    /// CONNACK was seen on the present connection.
    pub(crate) was_connected: bool,
    /// When the last connection on which CONNACK was seen ended, by the broker's clock.
    pub(crate) parted_at: Option<Instant>,
    /// Nobody has connected with this core yet.
    pub(crate) fresh: bool,
    pub(crate) will: Option<PubId>,
    /// Why CONNECT was refused last, until it is not.
    pub(crate) refused: Option<ReasonCode>,
    /// How often it has come back since all faults ended.
    pub(crate) returns: u32,
    pub(crate) requests: BTreeMap<Token, Asked>,
    pub(crate) publishing: BTreeMap<Token, PubId>,
    pub(crate) acks: VecDeque<(Instant, AckToken)>,
    pub(crate) stalled: bool,
    pub(crate) armed: Option<Instant>,
    /// When its byte stream was last reset.
    pub(crate) reset_at: Option<Instant>,
    pub(crate) next_subscription_id: u32,
    /// What the probe has found.
    pub(crate) found: BTreeMap<Text, PubId>,
    pub(crate) echo: Echo,
    /// How far the broker's clock was ahead at the last CONNECT that was answered.
    pub(crate) skew: Duration,
    /// The same at the last CONNECT.
    pub(crate) skew_at_connect: Duration,
}

/// Exchanges of PINGREQ and PINGRESP that show that nothing is under way on an ordered stream. Two: one PINGREQ of the
/// core's own may be under way already.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Echo {
    /// The first of them was asked for at this time.
    pub(crate) since: Option<Instant>,
    pub(crate) asked: u32,
    pub(crate) answered: u32,
}

impl Actor {
    pub(crate) fn new(character: Character, core: Core) -> Self {
        Self {
            character,
            core,
            pipe: None,
            line: None,
            shard: 0,
            connections: 0,
            was_connected: false,
            parted_at: None,
            fresh: true,
            will: None,
            refused: None,
            returns: 0,
            requests: BTreeMap::new(),
            publishing: BTreeMap::new(),
            acks: VecDeque::new(),
            stalled: false,
            armed: None,
            reset_at: None,
            next_subscription_id: 1,
            found: BTreeMap::new(),
            echo: Echo::default(),
            skew: Duration::ZERO,
            skew_at_connect: Duration::ZERO,
        }
    }

    /// Nothing of this client is on its way any more, as far as it knows.
    pub(crate) fn is_idle(&self) -> bool {
        self.core.is_connected()
            && self.core.in_flight() == 0
            && self.requests.is_empty()
            && self.acks.is_empty()
            && !self.stalled
    }
}

/// A core for a new session.
pub(crate) fn new_core(character: &Character, clean_start: bool, will: Option<Publish>, seed: u64) -> Core {
    let v5 = character.version == Version::V5;
    let will = will.map(|publish| Will { publish, delay_s: if v5 { character.will_delay_s } else { 0 } });
    let options = Options {
        version: character.version,
        clean_start,
        keep_alive_s: character.keep_alive_s,
        will,
        session_expiry_s: (v5 && character.persistent).then_some(character.session_expiry_s),
        acks: Acks::Manual,
        session_lost: SessionLost::Report,
        connect_timeout: Duration::from_secs(10),
        bounds: Bounds {
            receive_max: NonZeroU16::new(character.receive_max).expect("drawn from 1"),
            in_flight_max: NonZeroU16::new(character.in_flight_max).expect("drawn from 1"),
            packet_bytes_max: character.packet_bytes_max.unwrap_or(Bounds::default().packet_bytes_max),
            ..Bounds::default()
        },
        ..Options::new(character.name.as_str())
    };
    Core::new(options, seed)
}

/// The Will of a client.
pub(crate) fn will_publish(topic: &str, payload: Vec<u8>) -> Publish {
    Publish::new(topic, payload).with_qos(QoS::ExactlyOnce)
}
