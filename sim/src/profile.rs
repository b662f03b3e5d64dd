//! What kind of storm a run is: who is there, what they do, how hostile the network is, and how little room there is.
//!
//! A profile names what is tried; the seed draws the rest. Every rule of "Publish across shards" has the profile that
//! presses on it most.

use core::ops::Range;
use std::time::Duration;

use quelea_router::MeshConfig;
use quelea_shard::{OnFull, OnSlow, Settings};

use crate::doors::DoorPlan;
use crate::limits::Limits;
use crate::weather::QuicPlan;

/// What a run tries. A seed draws by the profile's place as well: what is new stands behind what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// Clients that publish to each other, with small queues: nobody may lock up.
    Mutual,
    /// Rings of capacity 1, windows of 1: every lane is always full.
    Tiny,
    /// Persistent sessions that move between shards under traffic, and are taken over.
    Moving,
    /// Retained values that change while subscribers come.
    Retained,
    /// Shared groups whose members leave with unacknowledged messages.
    Groups,
    /// Sessions without clients, small offline queues, sessions that expire.
    Offline,
    /// Subscribers that stop reading or acknowledge late.
    Slow,
    /// Clients that die, with and without Will Delay.
    Wills,
    /// All of that, over byte streams.
    Streams,
    /// Clients over QUIC on a hostile network.
    Quic,
    /// Clients over QUIC whose addresses change.
    Rebinding,
    /// Strangers and storms of connects, with limits that are reached.
    Handshakes,
    /// All of it.
    Mixed,
    /// Byte streams through TLS, WebSocket and PROXY headers, and callers who never become clients.
    Doors,
    /// Several filters in each SUBSCRIBE and UNSUBSCRIBE.
    Filters,
    /// The machine is suspended and goes on later: the clock jumps.
    Jumps,
    /// Everything at once, on 1 to 16 shards with rings from 1.
    Wide,
    /// Limits so small that they are reached.
    Limits,
    /// Clients over QUIC whose paths carry shorter or longer datagrams from one moment to the next.
    Paths,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Mutual,
        Self::Tiny,
        Self::Moving,
        Self::Retained,
        Self::Groups,
        Self::Offline,
        Self::Slow,
        Self::Wills,
        Self::Streams,
        Self::Quic,
        Self::Rebinding,
        Self::Handshakes,
        Self::Mixed,
        Self::Doors,
        Self::Filters,
        Self::Jumps,
        Self::Wide,
        Self::Limits,
        Self::Paths,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mutual => "mutual",
            Self::Tiny => "tiny",
            Self::Moving => "moving",
            Self::Retained => "retained",
            Self::Groups => "groups",
            Self::Offline => "offline",
            Self::Slow => "slow",
            Self::Wills => "wills",
            Self::Streams => "streams",
            Self::Quic => "quic",
            Self::Rebinding => "rebinding",
            Self::Paths => "paths",
            Self::Handshakes => "handshakes",
            Self::Mixed => "mixed",
            Self::Doors => "doors",
            Self::Filters => "filters",
            Self::Jumps => "jumps",
            Self::Wide => "wide",
            Self::Limits => "limits",
        }
    }

    /// The profile of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }
}

/// One run, drawn.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) shards: usize,
    /// Clients beside the watcher and the probe.
    pub(crate) clients: usize,
    pub(crate) settings: Settings,
    pub(crate) mesh: MeshConfig,
    pub(crate) storm: Duration,
    pub(crate) wire: Wire,
    pub(crate) habits: Habits,
    /// How QUIC is played, if it is.
    pub(crate) quic: Option<QuicPlan>,
    /// How layered doors are played, if they are.
    pub(crate) doors: Option<DoorPlan>,
    /// Between two jumps of the broker's clock.
    pub(crate) jump_us: Option<Range<u64>>,
    /// Limits that are reached, if they are played.
    pub(crate) limits: Option<Limits>,
}

/// How hostile network and machine are.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    /// One way.
    pub(crate) delay_us: Range<u64>,
    /// Percent of writes that are cut to pieces, down to single bytes.
    pub(crate) cut_percent: u32,
    /// Until the kernel has taken a write.
    pub(crate) write_us: Range<u64>,
    /// What a turn takes.
    pub(crate) turn_us: Range<u64>,
    /// Percent of turns after which the shard's thread does not run for a while.
    pub(crate) preempt_percent: u32,
    pub(crate) preempt_us: Range<u64>,
    /// From a bell to the turn that it causes.
    pub(crate) wake_us: Range<u64>,
    /// Inputs that one turn takes in.
    pub(crate) batch: usize,
}

/// What clients do. Weights are relative to each other; percentages are of the thing they stand behind.
#[derive(Clone, Debug)]
pub(crate) struct Habits {
    pub(crate) act_us: Range<u64>,
    pub(crate) publish: u32,
    pub(crate) subscribe: u32,
    pub(crate) unsubscribe: u32,
    pub(crate) leave: u32,
    pub(crate) crash: u32,
    pub(crate) vanish: u32,
    pub(crate) supplant: u32,
    pub(crate) stall: u32,
    pub(crate) burst: usize,
    /// Filters of one SUBSCRIBE or UNSUBSCRIBE.
    pub(crate) filters_max: usize,
    pub(crate) topics: usize,
    pub(crate) qos_weights: [u32; 3],
    pub(crate) retain_percent: u32,
    pub(crate) clear_percent: u32,
    pub(crate) large_percent: u32,
    pub(crate) expiry_percent: u32,
    pub(crate) persistent_percent: u32,
    pub(crate) clean_percent: u32,
    pub(crate) wander_percent: u32,
    pub(crate) v3_percent: u32,
    pub(crate) will_percent: u32,
    pub(crate) will_delay_percent: u32,
    pub(crate) share_percent: u32,
    pub(crate) wildcard_percent: u32,
    pub(crate) slow_ack_percent: u32,
    pub(crate) away_us: Range<u64>,
    pub(crate) stall_us: Range<u64>,
    pub(crate) session_expiry_s: u32,
    pub(crate) receive_max: Range<u16>,
    pub(crate) keep_alive_s: u16,
}

impl Plan {
    /// Draws a run.
    pub(crate) fn draw(profile: Profile, random: &mut fastrand::Rng) -> Self {
        let mut plan = Self::calm_weather(random);
        match profile {
            Profile::Mutual => plan.mutual(random),
            Profile::Tiny => plan.tiny(random),
            Profile::Moving => plan.moving(random),
            Profile::Retained => plan.retained(random),
            Profile::Groups => plan.groups(random),
            Profile::Offline => plan.offline(random),
            Profile::Slow => plan.slow(random),
            Profile::Wills => plan.wills(random),
            Profile::Streams | Profile::Mixed => plan.all_of_it(random),
            Profile::Quic => plan.quic(random),
            Profile::Rebinding => plan.rebinding(random),
            Profile::Paths => plan.paths(random),
            Profile::Handshakes => plan.handshakes(random),
            Profile::Doors => plan.doors(random),
            Profile::Filters => plan.filters(random),
            Profile::Jumps => plan.jumps(random),
            Profile::Wide => plan.wide(random),
            Profile::Limits => plan.limits(random),
        }
        plan.quic = QuicPlan::draw(profile, random);
        plan
    }

    /// What each look at the clock costs a shard.
    pub(crate) fn tick(&self) -> Duration {
        let quic = self.quic.as_ref().map_or(Duration::ZERO, |quic| quic.tick);
        self.doors.as_ref().map_or(quic, |doors| doors.tick.max(quic))
    }

    /// For so long a byte stream may be there that does not come to CONNECT.
    pub(crate) fn patience(&self) -> Duration {
        self.settings.connect_timeout + self.settings.close_deadline + Duration::from_secs(3)
    }

    fn calm_weather(random: &mut fastrand::Rng) -> Self {
        let settings = Settings {
            full_deadline: Duration::from_secs(2),
            close_deadline: Duration::from_secs(2),
            receive_max: random.u16(2..32),
            inflight_max: random.u16(1..32),
            deliver_window: random.u32(2..64),
            forward_window: random.u32(2..64),
            witness: true,
            ..Settings::default()
        };
        let ring = |random: &mut fastrand::Rng| 1 << random.u32(1..7);
        let mesh = MeshConfig {
            replies: ring(random),
            control: ring(random),
            forward: ring(random),
            deliver: ring(random),
        };
        Self {
            shards: random.usize(2..5),
            clients: random.usize(3..9),
            settings,
            mesh,
            storm: Duration::from_millis(random.u64(1_000..6_000)),
            wire: Wire::draw(random),
            habits: Habits::draw(random),
            quic: None,
            doors: None,
            jump_us: None,
            limits: None,
        }
    }

    fn mutual(&mut self, random: &mut fastrand::Rng) {
        self.settings.queue_messages_max = random.usize(1..12);
        self.settings.deliver_window = random.u32(1..8);
        self.settings.receive_max = random.u16(1..8);
        self.habits.topics = 2;
        self.habits.publish = 60;
        self.habits.burst = 8;
        self.habits.wildcard_percent = 60;
        self.habits.stall = 1;
        self.habits.crash = 1;
    }

    fn tiny(&mut self, random: &mut fastrand::Rng) {
        self.shards = random.usize(2..9);
        self.mesh = MeshConfig { replies: 1, control: 1, forward: 1, deliver: 1 };
        self.settings.deliver_window = 1;
        self.settings.forward_window = 1;
        self.settings.receive_max = random.u16(1..4);
        self.settings.inflight_max = random.u16(1..3);
        self.habits.retain_percent = 20;
        self.habits.share_percent = 15;
        self.wire.preempt_percent = 5;
    }

    fn moving(&mut self, random: &mut fastrand::Rng) {
        self.habits.persistent_percent = 90;
        self.habits.clean_percent = random.u32(0..30);
        self.habits.wander_percent = 90;
        self.habits.crash = 6;
        self.habits.leave = 4;
        self.habits.supplant = 6;
        self.habits.away_us = 0..200_000;
        self.habits.retain_percent = random.u32(0..10);
        self.wire.preempt_percent = random.u32(0..10);
        self.settings.deliver_window = random.u32(1..8);
    }

    fn retained(&mut self, random: &mut fastrand::Rng) {
        self.habits.retain_percent = 80;
        self.habits.clear_percent = random.u32(0..20);
        self.habits.subscribe = 25;
        self.habits.unsubscribe = 10;
        self.habits.topics = random.usize(2..12);
        self.habits.qos_weights = [1, 5, 5];
        self.settings.forward_window = random.u32(1..8);
        self.wire.preempt_percent = random.u32(0..10);
    }

    fn groups(&mut self, random: &mut fastrand::Rng) {
        self.habits.share_percent = 70;
        self.habits.slow_ack_percent = 60;
        self.habits.crash = 4;
        self.habits.leave = 3;
        self.habits.unsubscribe = 5;
        self.habits.supplant = 3;
        self.habits.v3_percent = 10;
        self.wire.preempt_percent = random.u32(0..8);
    }

    fn offline(&mut self, random: &mut fastrand::Rng) {
        self.habits.persistent_percent = 80;
        self.habits.away_us = 100_000..4_000_000;
        self.habits.leave = 6;
        self.habits.crash = 4;
        self.habits.expiry_percent = random.u32(0..30);
        self.habits.session_expiry_s = if random.bool() { 1 } else { 3_600 };
        self.settings.queue_messages_max = random.usize(1..40);
        self.settings.on_full = match random.u8(0..3) {
            0 => OnFull::DropOldest,
            1 => OnFull::DropNew,
            _ => OnFull::EndSession,
        };
    }

    fn slow(&mut self, random: &mut fastrand::Rng) {
        self.habits.stall = 6;
        self.habits.stall_us = 100_000..8_000_000;
        self.habits.slow_ack_percent = 40;
        self.habits.large_percent = 30;
        self.habits.burst = 6;
        self.settings.queue_messages_max = random.usize(1..30);
        self.settings.on_slow = match random.u8(0..3) {
            0 => OnSlow::Disconnect,
            1 => OnSlow::DropOldest,
            _ => OnSlow::DropNew,
        };
    }

    fn wills(&mut self, random: &mut fastrand::Rng) {
        self.habits.will_percent = 95;
        self.habits.will_delay_percent = random.u32(0..50);
        self.habits.crash = 8;
        self.habits.vanish = 4;
        self.habits.leave = 6;
        self.habits.supplant = 6;
        self.habits.clean_percent = 30;
    }

    fn all_of_it(&mut self, random: &mut fastrand::Rng) {
        self.shards = random.usize(1..9);
        self.clients = random.usize(2..14);
        self.habits.retain_percent = random.u32(0..40);
        self.habits.share_percent = random.u32(0..40);
        self.habits.persistent_percent = random.u32(20..90);
        self.habits.crash = random.u32(0..6);
        self.habits.vanish = random.u32(0..3);
        self.habits.supplant = random.u32(0..6);
        self.habits.stall = random.u32(0..4);
        self.habits.will_percent = random.u32(0..60);
        self.habits.slow_ack_percent = random.u32(0..50);
        self.wire.preempt_percent = random.u32(0..10);
        self.settings.queue_messages_max = 1 << random.u32(1..10);
        self.settings.deliver_window = 1 << random.u32(0..6);
    }
}

impl Plan {
    fn quic(&mut self, random: &mut fastrand::Rng) {
        self.habits.persistent_percent = random.u32(20..90);
        self.habits.crash = random.u32(0..4);
        self.habits.vanish = random.u32(0..3);
        self.habits.leave = random.u32(0..4);
        self.habits.supplant = random.u32(0..4);
        self.habits.stall = random.u32(0..4);
        self.habits.large_percent = random.u32(0..40);
        self.habits.will_percent = random.u32(0..60);
        self.habits.slow_ack_percent = random.u32(0..40);
        self.habits.burst = random.usize(1..8);
        self.wire.preempt_percent = random.u32(0..6);
    }

    fn rebinding(&mut self, random: &mut fastrand::Rng) {
        self.habits.persistent_percent = random.u32(50..100);
        self.habits.crash = 0;
        self.habits.supplant = 0;
        self.habits.qos_weights = [1, 6, 6];
        self.habits.large_percent = random.u32(0..20);
        self.habits.burst = random.usize(1..6);
    }

    fn paths(&mut self, random: &mut fastrand::Rng) {
        self.habits.persistent_percent = random.u32(20..90);
        self.habits.crash = random.u32(0..3);
        self.habits.large_percent = random.u32(20..80);
        self.habits.burst = random.usize(2..10);
        self.habits.stall = random.u32(0..3);
    }

    fn handshakes(&mut self, random: &mut fastrand::Rng) {
        self.habits.crash = 6;
        self.habits.vanish = random.u32(0..4);
        self.habits.leave = 8;
        self.habits.supplant = 6;
        self.habits.away_us = 0..random.u64(10_000..300_000);
        self.habits.persistent_percent = random.u32(0..100);
        self.settings.connect_timeout = Duration::from_secs(random.u64(2..10));
    }
}

impl Plan {
    fn doors(&mut self, random: &mut fastrand::Rng) {
        self.all_of_it(random);
        self.settings.connect_timeout = Duration::from_millis(random.u64(1_000..10_000));
        self.settings.close_deadline = Duration::from_millis(random.u64(200..3_000));
        if random.u8(0..3) == 0 {
            self.settings.tls_handshakes_max = random.usize(1..6);
        }
        if random.u8(0..3) == 0 {
            // Publishers whose acknowledgements are late, with more to say than their doors take. Not at QoS 2, of which
            // nobody before MQTT 5 may have more unreleased than that.
            self.habits.qos_weights = [3, 5, 0];
            self.settings.full_deadline = Duration::from_millis(random.u64(100..600));
            self.settings.unacked_max = random.usize(1..4);
            self.habits.v3_percent = 80;
            self.habits.large_percent = 60;
            self.habits.burst = 16;
            self.habits.stall = 4;
        }
        self.wire.cut_percent = random.u32(0..80);
        self.doors = Some(DoorPlan::draw(self.clients, random));
    }

    fn filters(&mut self, random: &mut fastrand::Rng) {
        self.all_of_it(random);
        self.habits.filters_max = random.usize(2..12);
        self.habits.topics = random.usize(2..10);
        self.habits.subscribe = 16;
        self.habits.unsubscribe = 8;
        self.settings.barriers_max = random.usize(1..8);
    }

    fn jumps(&mut self, random: &mut fastrand::Rng) {
        self.all_of_it(random);
        self.habits.will_delay_percent = random.u32(0..30);
        self.habits.expiry_percent = random.u32(0..20);
        self.habits.session_expiry_s = [1, 60, 3_600][random.usize(0..3)];
        self.jump_us = Some(20_000..random.u64(200_000..3_000_000));
        if random.bool() {
            self.doors = Some(DoorPlan::draw(self.clients, random));
        }
    }

    /// A broker of a few shards and a network that leaves clients the time to fill it.
    fn limits(&mut self, random: &mut fastrand::Rng) {
        self.all_of_it(random);
        self.shards = random.usize(1..4);
        self.clients = random.usize(4..12);
        self.habits.crash = random.u32(0..3);
        self.habits.vanish = random.u32(0..2);
        self.habits.supplant = random.u32(0..2);
        self.habits.leave = random.u32(0..3);
        self.habits.subscribe = 12;
        self.wire.preempt_percent = random.u32(0..3);
    }

    /// Everything at once.
    fn wide(&mut self, random: &mut fastrand::Rng) {
        self.doors(random);
        self.shards = random.usize(1..17);
        let ring = |random: &mut fastrand::Rng| 1 << random.u32(0..7);
        self.mesh = MeshConfig {
            replies: ring(random),
            control: ring(random),
            forward: ring(random),
            deliver: ring(random),
        };
        self.settings.deliver_window = 1 << random.u32(0..7);
        self.settings.forward_window = 1 << random.u32(0..7);
        self.habits.filters_max = random.usize(1..8);
        self.habits.session_expiry_s = if random.u8(0..3) == 0 { 1 } else { 3_600 };
        self.jump_us = (random.u8(0..3) == 0).then(|| 200_000..random.u64(500_000..5_000_000));
    }
}

impl Wire {
    fn draw(random: &mut fastrand::Rng) -> Self {
        let near = random.bool();
        Self {
            delay_us: if near { 5..200 } else { 1_000..30_000 },
            cut_percent: random.u32(0..30),
            write_us: 1..2_000,
            turn_us: 5..60,
            preempt_percent: random.u32(0..3),
            preempt_us: 1_000..30_000,
            wake_us: 2..60,
            batch: random.usize(1..64),
        }
    }

    /// A network without faults, and a near one: what is left over is worked off within the bound whatever windows are.
    pub(crate) fn calm(&mut self) {
        self.preempt_percent = 0;
        self.delay_us = 5..200;
    }
}

impl Habits {
    fn draw(random: &mut fastrand::Rng) -> Self {
        Self {
            act_us: 2_000..random.u64(20_000..120_000),
            publish: 40,
            subscribe: 8,
            unsubscribe: 3,
            leave: 1,
            crash: 1,
            vanish: 0,
            supplant: 1,
            stall: 0,
            burst: 3,
            filters_max: 1,
            topics: random.usize(2..7),
            qos_weights: [2, 5, 5],
            retain_percent: random.u32(0..10),
            clear_percent: 0,
            large_percent: random.u32(0..5),
            expiry_percent: 0,
            persistent_percent: random.u32(0..100),
            clean_percent: random.u32(0..30),
            wander_percent: 50,
            v3_percent: 25,
            will_percent: 20,
            will_delay_percent: 0,
            share_percent: 0,
            wildcard_percent: 40,
            slow_ack_percent: random.u32(0..30),
            away_us: 0..500_000,
            stall_us: 10_000..1_000_000,
            session_expiry_s: 3_600,
            receive_max: 1..20,
            keep_alive_s: 8,
        }
    }
}
