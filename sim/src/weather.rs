//! How QUIC is played: who uses it, how little room there is, and what the network does to datagrams.

use core::ops::Range;
use std::time::Duration;

use quelea_client::quic::EndpointSettings;
use quelea_shard::quic::{Congestion, QuicSettings};

use crate::profile::Profile;

/// The QUIC half of a run, drawn.
#[derive(Clone, Debug)]
pub(crate) struct QuicPlan {
    /// Percent of clients that come over QUIC.
    pub(crate) percent: u32,
    pub(crate) settings: QuicSettings,
    pub(crate) client: EndpointSettings,
    /// Datagrams that a client sends in one piece.
    pub(crate) segments: usize,
    /// Percent of farewells that do not wait until they are heard.
    pub(crate) hasty_percent: u32,
    /// What each look at the clock costs a shard: handshakes have a budget of time.
    pub(crate) tick: Duration,
    pub(crate) weather: Weather,
}

/// What happens to datagrams.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    /// One way. Each datagram has its own, so they overtake each other.
    pub(crate) delay_us: Range<u64>,
    pub(crate) loss_percent: u32,
    pub(crate) duplicate_percent: u32,
    pub(crate) corrupt_percent: u32,
    /// Longer datagrams vanish. A connection's path begins with this.
    pub(crate) path_bytes: usize,
    /// The paths that a connection may be led over, if they change.
    pub(crate) paths: Option<Paths>,
    /// Bytes per millisecond and direction of one client's access, if it is slow.
    pub(crate) bytes_per_ms: Option<u64>,
    /// Percent of clients whose network clears the ECN bits.
    pub(crate) bleach_percent: u32,
    /// Percent of datagrams that the kernel gives to a wrong shard.
    pub(crate) stray_percent: u32,
    /// Between two changes of a connection's address.
    pub(crate) rebind_us: Option<Range<u64>>,
    /// Between two blackholes of a connection.
    pub(crate) blackhole_us: Option<Range<u64>>,
    /// How long they last.
    pub(crate) blackhole_lasts_us: Range<u64>,
    /// Between two strangers: silent clients, noise, replays.
    pub(crate) stranger_us: Option<Range<u64>>,
}

/// Paths with another MTU each, without a word to either side.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    /// Between two changes of a connection's path.
    pub(crate) change_us: Range<u64>,
    /// The longest datagram that a path carries.
    pub(crate) bytes: Range<usize>,
}

impl QuicPlan {
    /// Draws it for the profiles that play QUIC.
    pub(crate) fn draw(profile: Profile, random: &mut fastrand::Rng) -> Option<Self> {
        let mut plan = Self::all_kinds(random);
        match profile {
            Profile::Quic => {}
            Profile::Rebinding => {
                plan.weather.rebind_us = Some(50_000..random.u64(200_000..2_000_000));
                plan.weather.loss_percent = random.u32(0..5);
                plan.weather.blackhole_us = None;
            }
            Profile::Handshakes => plan.handshakes(random),
            Profile::Paths => plan.paths(random),
            Profile::Mixed => plan.percent = 50,
            Profile::Wide => {
                plan.percent = 30;
                // By numbers of its own, so that what is drawn after it does not depend on it.
                let mut own = random.clone().fork();
                plan.weather.paths = (own.u8(0..4) == 0).then(|| Paths::draw(&mut own));
            }
            _ => return None,
        }
        Some(plan)
    }

    fn all_kinds(random: &mut fastrand::Rng) -> Self {
        let mtu = |random: &mut fastrand::Rng| [1_200, 1_452, 4_000][random.usize(0..3)];
        let connection_window = 1 << random.u32(9..15);
        let settings = QuicSettings {
            idle_timeout: Duration::from_secs(random.u64(20..60)),
            handshake_timeout: Duration::from_secs(random.u64(3..10)),
            handshakes_in_flight_retry: [0, 2, 1_000][random.usize(0..3)],
            connection_window,
            connection_window_max: connection_window << random.u32(0..4),
            windows_widened_max: 1 << random.u32(10..20),
            send_window: 1 << random.u32(10..16),
            mtu_max: mtu(random),
            keep_alive: random.bool().then(|| Duration::from_secs(random.u64(1..10))),
            congestion: if random.bool() { Congestion::NewReno } else { Congestion::Cubic },
            ..QuicSettings::default()
        };
        let client = EndpointSettings {
            idle_timeout: Duration::from_secs(random.u64(20..60)),
            receive_window: 1 << random.u32(10..17),
            send_window: 1 << random.u32(10..17),
            mtu_max: mtu(random),
            keep_alive: random.bool().then(|| Duration::from_secs(random.u64(1..10))),
            ..EndpointSettings::default()
        };
        Self {
            percent: 100,
            settings,
            client,
            segments: random.usize(1..11),
            hasty_percent: 20,
            tick: Duration::from_micros([0, 50, 200][random.usize(0..3)]),
            weather: Weather::draw(random),
        }
    }

    /// Paths that change while there is much to send.
    fn paths(&mut self, random: &mut fastrand::Rng) {
        let mtu_max = [1_452, 4_000][random.usize(0..2)];
        self.settings.mtu_max = mtu_max;
        self.client.mtu_max = mtu_max;
        self.settings.send_window = 1 << random.u32(14..17);
        self.client.send_window = 1 << random.u32(14..17);
        self.weather.path_bytes = usize::from(mtu_max);
        self.weather.loss_percent = random.u32(0..5);
        self.weather.corrupt_percent = 0;
        self.weather.blackhole_us = None;
        self.weather.paths = Some(Paths::draw(random));
    }

    /// Strangers, storms of connects, and limits that are reached.
    fn handshakes(&mut self, random: &mut fastrand::Rng) {
        self.settings.handshakes_in_flight_retry = random.usize(0..4);
        self.settings.handshakes_queued_max = random.usize(1..16);
        self.settings.handshakes_per_prefix_max = random.usize(1..4);
        self.settings.connections_max = random.usize(16..64);
        self.settings.connections_per_prefix_max = random.usize(4..16);
        // Not drawn, so that the seeds of before play the same weather.
        self.settings.handshakes_max = self.settings.connections_max / 2;
        self.settings.handshakes_per_site_max = 2 * self.settings.handshakes_per_prefix_max;
        self.weather.stranger_us = Some(1_000..random.u64(5_000..100_000));
        self.weather.blackhole_us = None;
        self.tick = Duration::from_micros(200);
    }
}

impl Paths {
    fn draw(random: &mut fastrand::Rng) -> Self {
        let widest = [1_300, 1_500, 4_100][random.usize(0..3)];
        Self { change_us: 50_000..random.u64(200_000..3_000_000), bytes: 1_200..widest }
    }
}

impl Weather {
    fn draw(random: &mut fastrand::Rng) -> Self {
        let near = random.bool();
        let sometimes = |random: &mut fastrand::Rng, percent: Range<u32>| match random.bool() {
            true => random.u32(percent),
            false => 0,
        };
        Self {
            delay_us: if near { 50..500 } else { 2_000..random.u64(5_000..60_000) },
            loss_percent: sometimes(random, 1..25),
            duplicate_percent: sometimes(random, 1..10),
            corrupt_percent: sometimes(random, 1..10),
            path_bytes: random.usize(1_200..1_500),
            paths: None,
            bytes_per_ms: (random.u8(0..4) == 0).then(|| random.u64(20..2_000)),
            bleach_percent: 30,
            stray_percent: sometimes(random, 1..20),
            rebind_us: (random.u8(0..3) == 0).then_some(200_000..4_000_000),
            blackhole_us: (random.u8(0..3) == 0).then_some(500_000..4_000_000),
            blackhole_lasts_us: 10_000..random.u64(100_000..10_000_000),
            stranger_us: (random.u8(0..3) == 0).then_some(20_000..200_000),
        }
    }

    /// A network without faults, and a near one.
    pub(crate) fn calm(&mut self) {
        *self = Self {
            delay_us: 50..500,
            loss_percent: 0,
            duplicate_percent: 0,
            corrupt_percent: 0,
            bytes_per_ms: None,
            stray_percent: 0,
            rebind_us: None,
            blackhole_us: None,
            stranger_us: None,
            // A connection keeps the path that it has.
            paths: None,
            ..self.clone()
        };
    }
}
