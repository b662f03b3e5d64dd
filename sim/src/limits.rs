//! Limits of the broker and of clients that are drawn so small that they are reached: refusals with their reasons, messages
//! that are dropped, and clients that get on when there is room again.
//!
//! They come from a stream of random numbers of their own, so that a run in which none is drawn is the run that it would be
//! without this module. Who is refused and that none is exceeded is judged here, where clients and shards are; what follows for
//! messages in `oracle/limits.rs`.

use core::fmt;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quelea_mqtt::{QoS, ReasonCode, Version};
use quelea_shard::Settings;
use quelea_shard::witness::{LENT_MAX, PULLED_MAX};

use crate::actor::{Character, Role};
use crate::profile::{Plan, Profile};
use crate::world::{Act, World};

/// Which are small, and how small.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: Option<usize>,
    pub(crate) queue_bytes: Option<usize>,
    pub(crate) group_messages: Option<usize>,
    pub(crate) groups: Option<usize>,
    pub(crate) subscriptions: Option<usize>,
    pub(crate) retained_messages: Option<usize>,
    pub(crate) retained_bytes: Option<usize>,
    pub(crate) sessions: Option<usize>,
    pub(crate) qos: Option<QoS>,
    /// Percent of the clients of MQTT 5 that name a Maximum Packet Size.
    pub(crate) packet_percent: u32,
    /// Percent of the retained publications that expire.
    pub(crate) mortal_percent: u32,
    /// Percent of the messages at QoS 1 that clients refuse.
    pub(crate) refuse_percent: u32,
}

/// What may be drawn.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Memory,
    QueueBytes,
    GroupMessages,
    Groups,
    Subscriptions,
    RetainedMessages,
    RetainedBytes,
    Sessions,
    QoS,
    PacketBytes,
    RetainedExpiry,
    Refusals,
}

impl Limits {
    /// Draws them for a run of this seed, if it has any.
    pub(crate) fn draw(profile: Profile, seed: u64, plan: &mut Plan) {
        let mut random = fastrand::Rng::with_seed(seed ^ (profile as u64 + 1) << 56 ^ STREAM);
        let kinds = match profile {
            Profile::Limits => random.usize(2..5),
            Profile::Wide if random.u32(0..100) < WIDE_PERCENT => random.usize(1..3),
            _ => return,
        };
        let mut limits = Self::default();
        for kind in random.choose_multiple(KINDS.iter().copied(), kinds) {
            // Everything at once has neither calm enough clients nor room enough for a ceiling, with QUIC and TLS.
            match (profile, kind) {
                (Profile::Wide, Kind::Memory) => {}
                _ => limits.tighten(kind, plan, &mut random),
            }
            if profile == Profile::Limits {
                kind.press(plan);
            }
        }
        plan.limits = Some(limits);
    }

    fn tighten(&mut self, kind: Kind, plan: &Plan, random: &mut fastrand::Rng) {
        match kind {
            Kind::Memory => {
                let all = (plan.clients + 2) * MEMORY_PER_CLIENT;
                let bytes = all + random.usize(0..all);
                self.memory_bytes = Some(bytes);
                // What is retained may stay for ever, and would leave no room for anything else.
                self.retained_bytes = Some(self.retained_bytes.unwrap_or(bytes / 8));
            }
            Kind::QueueBytes => self.queue_bytes = Some(random.usize(500..30_000)),
            Kind::GroupMessages => self.group_messages = Some(random.usize(1..8)),
            Kind::Groups => self.groups = Some(random.usize(1..4)),
            Kind::Subscriptions => self.subscriptions = Some(random.usize(1..6)),
            Kind::RetainedMessages => self.retained_messages = Some(random.usize(1..4)),
            Kind::RetainedBytes => self.retained_bytes = Some(random.usize(400..4_000)),
            // Room for everybody, if they go where there is some.
            Kind::Sessions => {
                self.sessions = Some((plan.clients + 2).div_ceil(plan.shards) + random.usize(0..2));
            }
            Kind::QoS => self.qos = Some([QoS::AtMostOnce, QoS::AtLeastOnce][random.usize(0..2)]),
            Kind::PacketBytes => self.packet_percent = 60,
            Kind::RetainedExpiry => self.mortal_percent = 50,
            Kind::Refusals => self.refuse_percent = 10,
        }
    }

    /// The broker has them.
    pub(crate) fn apply(&self, settings: &mut Settings) {
        let pairs = [
            (self.memory_bytes, &mut settings.memory_bytes_max),
            (self.queue_bytes, &mut settings.queue_bytes_max),
            (self.group_messages, &mut settings.group_messages_max),
            (self.groups, &mut settings.groups_max),
            (self.subscriptions, &mut settings.subscriptions_max),
            (self.retained_messages, &mut settings.retained_messages_max),
            (self.retained_bytes, &mut settings.retained_bytes_max),
            (self.sessions, &mut settings.sessions_max),
        ];
        for (limit, setting) in pairs {
            *setting = limit.unwrap_or(*setting);
        }
        settings.qos_max = self.qos.unwrap_or(settings.qos_max);
    }

    /// Whether a publication may be refused for lack of room.
    pub(crate) fn may_refuse(&self, retain: bool) -> bool {
        let store = self.retained_messages.is_some() || self.retained_bytes.is_some();
        self.memory_bytes.is_some() || retain && store
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = [
            ("bytes of memory", self.memory_bytes),
            ("bytes of a queue", self.queue_bytes),
            ("messages of a group", self.group_messages),
            ("groups", self.groups),
            ("subscriptions", self.subscriptions),
            ("retained messages", self.retained_messages),
            ("bytes of retained messages", self.retained_bytes),
            ("sessions", self.sessions),
            ("QoS", self.qos.map(|qos| usize::from(qos.as_u8()))),
        ];
        let shares = [
            ("of clients name a Maximum Packet Size", self.packet_percent),
            ("of retained messages expire", self.mortal_percent),
            ("of messages are refused", self.refuse_percent),
        ];
        let limits = limits.into_iter().filter_map(|(what, most)| Some(format!("{} {what}", most?)));
        let shares = shares
            .into_iter()
            .filter(|(_, share)| *share > 0)
            .map(|(what, share)| format!("{share} % {what}"));
        f.write_str(&limits.chain(shares).collect::<Vec<_>>().join(", "))
    }
}

impl Kind {
    /// Clients do what reaches it.
    fn press(self, plan: &mut Plan) {
        let habits = &mut plan.habits;
        match self {
            Self::Memory => {
                habits.large_percent = 30;
                habits.burst = 6;
                habits.stall = habits.stall.max(3);
                habits.session_expiry_s = 2;
            }
            Self::QueueBytes => {
                habits.large_percent = 20;
                habits.stall = habits.stall.max(3);
            }
            Self::GroupMessages => {
                habits.share_percent = 60;
                habits.v3_percent = 10;
                habits.slow_ack_percent = 60;
                habits.burst = 8;
                habits.leave = 6;
            }
            Self::Groups => {
                habits.share_percent = 50;
                habits.v3_percent = 10;
            }
            Self::Subscriptions => habits.subscribe = 20,
            Self::RetainedMessages | Self::RetainedBytes => {
                habits.retain_percent = 40;
                habits.clear_percent = 15;
                habits.topics = 10;
            }
            Self::Sessions => {
                plan.shards = plan.shards.max(2);
                habits.persistent_percent = 70;
                habits.leave = 6;
                habits.clean_percent = 30;
            }
            Self::QoS => {}
            Self::PacketBytes => habits.large_percent = 30,
            Self::RetainedExpiry => {
                habits.retain_percent = 40;
                habits.v3_percent = 10;
            }
            Self::Refusals => habits.v3_percent = 10,
        }
    }
}

impl World {
    fn limits(&self) -> Limits {
        self.plan.limits.clone().unwrap_or_default()
    }

    /// The highest QoS that clients publish at: they have heard what the broker takes.
    pub(crate) fn qos_max(&self) -> QoS {
        self.plan.limits.as_ref().and_then(|limits| limits.qos).unwrap_or(QoS::ExactlyOnce)
    }

    pub(crate) fn mortal_percent(&self) -> u32 {
        self.plan.limits.as_ref().map_or(0, |limits| limits.mortal_percent)
    }

    /// Some clients take no large packets. While memory is at its ceiling nobody is let in: what waits for a session without
    /// a client is given back when that expires, so sessions do, soon.
    pub(crate) fn limit_character(&mut self, character: &mut Character) {
        let limits = self.limits();
        if character.role == Role::Player && limits.memory_bytes.is_some() {
            character.persistent &= character.version == Version::V5;
        }
        let percent = limits.packet_percent;
        if character.role == Role::Player && character.version == Version::V5 && self.percent(percent) {
            character.packet_bytes_max = Some(self.random.u32(100..3_000));
        }
    }

    /// A client was refused: what it asked for too much of it does without. One of MQTT 3 that the broker disconnects again
    /// and again cannot be told why, and gives up what it has not got rid of, and with it its session.
    pub(crate) fn learn_from_refusal(&mut self, actor: usize) {
        if self.plan.limits.is_none() {
            return;
        }
        let takes_wills = self.qos_max() == QoS::ExactlyOnce;
        let calm = self.phase == Act::Calm;
        let player = &mut self.actors[actor];
        player.returns += u32::from(calm);
        let old = player.character.version != Version::V5;
        if old && player.returns > RETURNS_MAX {
            player.character.persistent = false;
        }
        let why = player.refused;
        let for_its_will = why == Some(ReasonCode::QOS_NOT_SUPPORTED) || old && why.is_some();
        if for_its_will && !takes_wills && player.will.is_some() {
            player.character.wants_will = false;
            self.renew(actor, true);
        }
    }

    /// Another shard may have room.
    pub(crate) fn look_for_room(&mut self, actor: usize) {
        if self.plan.limits.is_some() && self.actors[actor].connections > 0 {
            self.actors[actor].shard = self.random.usize(0..self.nodes.len());
        }
    }

    /// The same for a client that does nothing of its own accord.
    pub(crate) fn try_elsewhere(&mut self, actor: usize) {
        if self.plan.limits.is_some() && !self.actors[actor].core.is_attached() {
            let shard = self.random.usize(0..self.nodes.len());
            self.open(actor, shard);
        }
    }

    /// What is retained and expires has expired, and the broker has had the time to notice; so have sessions whose messages fill
    /// memory, and there is room for the probe.
    pub(crate) fn outlive_retained(&mut self) -> Result<(), String> {
        if self.mortal_percent() == 0 && self.limits().memory_bytes.is_none() {
            return Ok(());
        }
        let end = self.now + RETAINED_LASTS;
        self.until(2 * RETAINED_LASTS, "the end of what is retained", |world| world.now >= end)
    }

    /// A client refuses some of the messages at QoS 1 that it gets: PUBACK with a reason instead of one without.
    pub(crate) fn refuse_some(&mut self, actor: usize, bytes: &Bytes) -> Bytes {
        let percent = self.plan.limits.as_ref().map_or(0, |limits| limits.refuse_percent);
        let character = &self.actors[actor].character;
        if percent == 0 || character.role != Role::Player || character.version != Version::V5 {
            return bytes.clone();
        }
        let mut said = BytesMut::with_capacity(bytes.len());
        let mut rest = &bytes[..];
        while let Some((packet, after)) = split_packet(rest) {
            match packet {
                [PUBACK, 2, id @ ..] if self.percent(percent) => {
                    said.put_slice(&[PUBACK, 3]);
                    said.put_slice(id);
                    said.put_u8(ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR.as_u8());
                }
                packet => said.put_slice(packet),
            }
            rest = after;
        }
        said.put_slice(rest);
        said.freeze()
    }

    /// CONNACK refuses.
    pub(crate) fn judge_kept_out(&mut self, actor: usize, reason: ReasonCode) {
        let limits = self.limits();
        let player = &mut self.actors[actor];
        player.refused = Some(reason);
        let full = limits.sessions.is_some() || limits.memory_bytes.is_some();
        let too_high = limits.qos.is_some() && player.will.is_some();
        let right = match reason {
            ReasonCode::SERVER_BUSY => true,
            // What is left of all these reasons before MQTT 5.
            ReasonCode::SERVER_UNAVAILABLE => player.character.version != Version::V5,
            ReasonCode::NOT_AUTHORIZED => player.character.version != Version::V5 && too_high,
            ReasonCode::QUOTA_EXCEEDED => full,
            ReasonCode::QOS_NOT_SUPPORTED => too_high,
            _ => false,
        };
        if !right {
            self.oracle.accuse(format!("client {actor} is refused for no reason: {reason}"));
        }
    }

    /// CONNACK does not.
    pub(crate) fn judge_let_in(&mut self, actor: usize) {
        let taken = self.qos_max();
        if taken < QoS::ExactlyOnce && self.actors[actor].will.is_some() {
            self.oracle.accuse(format!("client {actor} is let in with a Will at QoS 2, over {taken:?}"));
        }
    }

    /// After a turn: no limit is exceeded by more than is said in `docs/simulator.md`.
    pub(crate) fn judge_fill(&mut self, shard: usize) {
        let settings = &self.plan.settings;
        let habits = &self.plan.habits;
        let clients = self.actors.len();
        let moves: u64 = self.nodes.iter_mut().map(|node| node.shard.counters().sessions_moved).sum();
        let node = &mut self.nodes[shard];
        let fill = node.shard.fill();
        let c = node.shard.counters();
        let (replays, groups) = (habits.retain_percent > 0, habits.share_percent > 0);
        // What a session asked for comes whether there is room or not: one pull, and what its groups were lent. What was
        // collected for one that moved, too.
        let moved = if moves > 0 { (settings.queue_messages_max, settings.queue_bytes_max) } else { (0, 0) };
        let taken = if replays { PULLED_MAX } else { 0 }
            + if groups { LENT_MAX.max(settings.queue_messages_max / 2) } else { 0 };
        let back = LENT_MAX * clients * usize::from(groups);
        // A session that moves finds its place taken, and takes another.
        let arriving = (c.links - c.sessions_connected + moves) as usize;
        let figures = [
            ("messages of a queue", fill.queue_messages, settings.queue_messages_max + moved.0 + taken),
            (
                "bytes of a queue",
                fill.queue_bytes,
                settings.queue_bytes_max + moved.1 + taken * MESSAGE_BYTES_MAX,
            ),
            ("messages of a group", fill.group_messages, settings.group_messages_max + back),
            ("bytes of a group", fill.group_bytes, settings.queue_bytes_max + back * MESSAGE_BYTES_MAX),
            ("subscriptions of a session", fill.subscriptions, settings.subscriptions_max),
            ("groups", c.groups as usize, settings.groups_max),
            ("retained messages", c.retained as usize, settings.retained_messages_max),
            ("bytes of retained messages", c.retained_bytes as usize, settings.retained_bytes_max),
            ("sessions", c.sessions as usize, settings.sessions_max + arriving),
            ("bytes of memory", c.memory_bytes as usize, settings.memory_bytes_max + clients * MEMORY_SLACK),
        ];
        if let Some((what, is, most)) = figures.into_iter().find(|(_, is, most)| is > most) {
            self.oracle.accuse(format!(
                "a limit is exceeded: shard {shard} has {is} {what}, and {most} are the most"
            ));
        }
    }
}

/// The first packet of what a client says, and the rest; nothing of what is not whole.
fn split_packet(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0;
    for at in 1..=4 {
        let byte = *bytes.get(at)?;
        length |= usize::from(byte & 0x7F) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            return bytes.split_at_checked(1 + at + length);
        }
    }
    None
}

const KINDS: [Kind; 12] = [
    Kind::Memory,
    Kind::QueueBytes,
    Kind::GroupMessages,
    Kind::Groups,
    Kind::Subscriptions,
    Kind::RetainedMessages,
    Kind::RetainedBytes,
    Kind::Sessions,
    Kind::QoS,
    Kind::PacketBytes,
    Kind::RetainedExpiry,
    Kind::Refusals,
];

/// Apart from the stream that everything else is drawn from.
const STREAM: u64 = 0x6C69_6D69_7473;

/// Runs of `wide` with limits.
const WIDE_PERCENT: u32 = 25;

/// First byte of a PUBACK.
const PUBACK: u8 = 0x40;

/// What a connected client with a few subscriptions is charged with, at most, while little waits for it.
const MEMORY_PER_CLIENT: usize = 8 * 1024;

/// Above its ceiling a shard may be charged so much for each client: what was on its way when the ceiling was reached, a
/// packet that is not whole (up to 16 KiB, then its client is cut) and one that is written.
const MEMORY_SLACK: usize = 32 * 1024;

/// The largest message, with what a queue is charged for it.
const MESSAGE_BYTES_MAX: usize = 21_000;

/// So often a client of MQTT 3 comes back with what it could not publish.
const RETURNS_MAX: u32 = 5;

/// Longer than anything retained that expires, and than the broker takes to look at all of it.
const RETAINED_LASTS: Duration = Duration::from_secs(7);
