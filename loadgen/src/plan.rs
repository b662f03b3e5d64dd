//! What a run is to do, checked: made from what was typed, read by every thread, changed by none.
//!
//! ```text
//!   client number    0 … subscribers - 1 │ subscribers … subscribers + publishers - 1
//!                       subscribers      │            publishers
//! ```
//! Subscribers connect first. A *receiver* is one whole book of arrivals: a subscriber, or all members of a shared
//! group together (which therefore live on one thread).

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quelea_mqtt::{QoS, TopicName, Version};

use crate::cli::{FanArguments, Half, Load, Output, Reach, Receive, Run, Timing, Topics, Whole};
use crate::clock::{Nanos, nanos_of};
use crate::payload::{PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN};
use crate::refusal::Refusal;
use crate::schedule::{Rate, Spacing};
use crate::sources::{self, PORTS_PER_SOURCE};
use crate::target::{Carrier, Target};
use crate::tls;

/// Clients of one run.
const CLIENTS_MAX: u64 = 1_000_000;
/// Paths from a publisher to a receiver, each with a book of about 100 bytes.
const PATHS_MAX: u64 = 4_000_000;
/// Processes that are watched.
const PIDS_MAX: usize = 16;

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Conn,
    Pub,
    Sub,
    Pair,
    FanOut,
    FanIn,
    Share { groups: u32, members: u32 },
}

/// What one client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Connected and silent.
    Idle,
    /// The subscriber of this number.
    Subscriber(u32),
    /// The publisher of this number.
    Publisher(u32),
}

/// One run. See the [module](self) for how clients are numbered.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    pub(crate) reach: Reach,
    pub(crate) address: SocketAddr,
    /// Of TLS and QUIC.
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
    /// Empty: the kernel chooses.
    pub(crate) sources: Vec<IpAddr>,
    /// Silent clients; 0 unless the shape is [`Shape::Conn`].
    pub(crate) idle: u32,
    pub(crate) publishers: u32,
    pub(crate) subscribers: u32,
    pub(crate) load: LoadPlan,
    pub(crate) receive_max: NonZeroU16,
    /// Highest QoS of the subscriptions.
    pub(crate) subscribe_qos: QoS,
    pub(crate) topic: String,
    pub(crate) topics: u32,
    /// Tells this run's messages from others.
    pub(crate) run: u32,
    pub(crate) warm_up: Nanos,
    pub(crate) duration: Nanos,
    pub(crate) drain: Nanos,
    pub(crate) lag_max: Nanos,
    pub(crate) json: Option<PathBuf>,
    pub(crate) pids: Vec<u32>,
    pub(crate) quiet: bool,
}

/// What is published.
#[derive(Clone, Debug)]
pub(crate) struct LoadPlan {
    pub(crate) rate: Rate,
    pub(crate) spacing: Spacing,
    pub(crate) payload_bytes: usize,
    /// Publisher `i` uses the `i mod length`th.
    pub(crate) qos: Vec<QoS>,
    pub(crate) in_flight: NonZeroU16,
    /// At [`Rate::Max`] and QoS 0: messages of one publisher under way; 0: no limit but back-pressure.
    pub(crate) window: u32,
}

impl Plan {
    /// Checks what was typed and fills in what follows from it. Resolves the broker's name.
    ///
    /// # Errors
    /// What is wrong with the usage; a name that has no address now.
    pub(crate) fn new(run: Run) -> Result<Self, Refusal> {
        let plan = match run {
            Run::Conn(typed) => {
                let timing = hold(typed.hold);
                let bare = Self::bare(Shape::Conn, typed.reach, timing, typed.output)?;
                Self { idle: typed.connections, ..bare }
            }
            Run::Pub(typed) => {
                let half = Self::half(Shape::Pub, typed.half)?;
                Self { publishers: typed.publishers, ..half }.with_load(&typed.load)?
            }
            Run::Sub(typed) => {
                let half = Self::half(Shape::Sub, typed.half)?;
                let (subscribers, subscribe_qos) = (typed.subscribers, typed.qos);
                Self { subscribers, subscribe_qos, ..half }.with_receive(&typed.receive)
            }
            Run::Pair(typed) => {
                let topics = Topics { topic: typed.topic, topics: typed.pairs };
                let whole = Self::whole(Shape::Pair, typed.whole, topics)?;
                Self { publishers: typed.pairs, subscribers: typed.pairs, ..whole }
            }
            Run::FanOut(typed) => Self::fan(Shape::FanOut, typed)?,
            Run::FanIn(typed) => Self::fan(Shape::FanIn, typed)?,
            Run::Share(typed) => {
                let (groups, members) = (typed.groups, typed.members);
                let whole = Self::whole(Shape::Share { groups, members }, typed.whole, typed.topics)?;
                Self { publishers: typed.publishers, subscribers: groups.saturating_mul(members), ..whole }
            }
        };
        plan.check().map_err(Refusal::Usage)?;
        Ok(plan)
    }

    /// A run without clients.
    fn bare(shape: Shape, reach: Reach, timing: Timing, output: Output) -> Result<Self, Refusal> {
        let sources = match &reach.bind {
            Some(list) => sources::parse(list).map_err(|error| Refusal::Usage(format!("--bind: {error}")))?,
            None => Vec::new(),
        };
        let address = reach.target.resolve(sources.first().copied())?;
        let tls = tls::configuration(&reach.tls, reach.target.carrier)?;
        Ok(Self {
            shape,
            address,
            tls,
            sources,
            idle: 0,
            publishers: 0,
            subscribers: 0,
            load: LoadPlan {
                rate: Rate::Fixed { milli_per_s: 1000 },
                spacing: Spacing::Even,
                payload_bytes: PAYLOAD_BYTES_MIN,
                qos: vec![QoS::AtMostOnce],
                in_flight: NonZeroU16::MIN,
                window: 0,
            },
            receive_max: NonZeroU16::MAX,
            subscribe_qos: QoS::AtMostOnce,
            topic: String::new(),
            topics: 1,
            run: fastrand::u32(1..),
            warm_up: nanos_of(timing.warm_up),
            duration: nanos_of(timing.duration),
            drain: nanos_of(timing.drain),
            lag_max: nanos_of(timing.lag_max),
            json: output.json,
            pids: output.pid,
            quiet: output.quiet,
            reach,
        })
    }

    fn half(shape: Shape, half: Half) -> Result<Self, Refusal> {
        let bare = Self::bare(shape, half.reach, half.timing, half.output)?;
        Ok(Self { run: half.run, ..bare }.with_topics(half.topics))
    }

    fn whole(shape: Shape, whole: Whole, topics: Topics) -> Result<Self, Refusal> {
        let bare = Self::bare(shape, whole.reach, whole.timing, whole.output)?;
        Ok(bare.with_load(&whole.load)?.with_receive(&whole.receive).with_topics(topics))
    }

    fn fan(shape: Shape, typed: FanArguments) -> Result<Self, Refusal> {
        let whole = Self::whole(shape, typed.whole, typed.topics)?;
        Ok(Self { publishers: typed.publishers, subscribers: typed.subscribers, ..whole })
    }

    fn with_load(mut self, load: &Load) -> Result<Self, Refusal> {
        if !(PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&load.payload) {
            let why = format!("--payload: expected {PAYLOAD_BYTES_MIN} to {PAYLOAD_BYTES_MAX} bytes");
            return Err(Refusal::Usage(why));
        }
        if load.poisson && load.rate == Rate::Max {
            return Err(Refusal::Usage("--poisson needs a --rate other than max".into()));
        }
        self.subscribe_qos = load.qos.iter().copied().max().unwrap_or_default();
        self.load = LoadPlan {
            rate: load.rate,
            spacing: if load.poisson { Spacing::Poisson } else { Spacing::Even },
            payload_bytes: load.payload,
            qos: load.qos.clone(),
            in_flight: NonZeroU16::new(load.in_flight).expect("at least 1 by the definition of the option"),
            window: load.window,
        };
        Ok(self)
    }

    fn with_receive(mut self, receive: &Receive) -> Self {
        self.receive_max =
            NonZeroU16::new(receive.receive_max).expect("at least 1 by the definition of the option");
        self
    }

    fn with_topics(self, topics: Topics) -> Self {
        Self { topic: topics.topic, topics: topics.topics, ..self }
    }

    fn check(&self) -> Result<(), String> {
        let clients = u64::from(self.idle) + u64::from(self.publishers) + u64::from(self.subscribers);
        if clients > CLIENTS_MAX {
            return Err(format!("{clients} clients: at most {CLIENTS_MAX}"));
        }
        let per_source = clients.div_ceil(self.sources.len().max(1) as u64);
        if self.reach.target.carrier != Carrier::Quic && per_source > PORTS_PER_SOURCE as u64 {
            return Err(format!(
                "{per_source} connections from one address: there are about {PORTS_PER_SOURCE} ports; give more addresses by \
                 --bind (on loopback for example 127.0.0.1-127.0.0.9)"
            ));
        }
        let paths = u64::from(self.publishers) * u64::from(self.receivers());
        if self.shape != Shape::Pair && paths > PATHS_MAX {
            return Err(format!("{paths} paths from a publisher to a receiver: at most {PATHS_MAX}"));
        }
        if self.pids.len() > PIDS_MAX {
            return Err(format!("--pid: at most {PIDS_MAX} processes"));
        }
        if self.duration == 0 && self.shape != Shape::Conn {
            return Err("--duration: at least 1ms".into());
        }
        if self.publishers > 0 || self.subscribers > 0 {
            TopicName::new(&self.topic_of(0), TOPIC_LEVELS_MAX)
                .map_err(|error| format!("--topic: {error}"))?;
        }
        Ok(())
    }

    pub(crate) fn clients(&self) -> u32 {
        self.idle + self.subscribers + self.publishers
    }

    /// Open files that the run needs: sockets, and a handful for each thread.
    pub(crate) fn descriptors(&self) -> u64 {
        u64::from(self.clients()) + 8 * u64::from(self.reach.threads) + 32
    }

    pub(crate) fn role(&self, client: u32) -> Role {
        match client {
            client if client < self.subscribers => Role::Subscriber(client),
            client if client < self.subscribers + self.publishers => {
                Role::Publisher(client - self.subscribers)
            }
            _ => Role::Idle,
        }
    }

    /// The thread that a client lives on. Pairs stay together, and so do the members of a group.
    pub(crate) fn thread_of(&self, client: u32) -> usize {
        let threads = u32::from(self.reach.threads);
        let spread = match (self.shape, self.role(client)) {
            (Shape::Pair, Role::Publisher(number) | Role::Subscriber(number)) => number,
            (Shape::Share { members, .. }, Role::Subscriber(number)) => number / members,
            (Shape::Share { groups, .. }, Role::Publisher(number)) => groups + number,
            _ => client,
        };
        (spread % threads) as usize
    }

    /// The identifier of a client, unique in this run and among runs.
    pub(crate) fn client_id(&self, client: u32) -> String {
        let (kind, number) = match self.role(client) {
            Role::Idle => ('c', client),
            Role::Subscriber(number) => ('s', number),
            Role::Publisher(number) => ('p', number),
        };
        format!("{}-{:x}-{kind}{number}", self.reach.client_id, self.run)
    }

    pub(crate) fn topic_of(&self, publisher: u32) -> String {
        match (self.shape, self.topics) {
            (Shape::Pair, _) => format!("{}/{publisher}", self.topic),
            (_, 1) => self.topic.clone(),
            (_, topics) => format!("{}/{}", self.topic, publisher % topics),
        }
    }

    pub(crate) fn filter_of(&self, subscriber: u32) -> String {
        let filter = match (self.shape, self.topics) {
            (Shape::Pair, _) => format!("{}/{subscriber}", self.topic),
            (_, 1) => self.topic.clone(),
            _ => format!("{}/+", self.topic),
        };
        match self.shape {
            Shape::Share { members, .. } => format!("$share/g{}/{filter}", subscriber / members),
            _ => filter,
        }
    }

    pub(crate) fn qos_of(&self, publisher: u32) -> QoS {
        self.load.qos[publisher as usize % self.load.qos.len()]
    }

    /// Books of arrivals.
    pub(crate) fn receivers(&self) -> u32 {
        match self.shape {
            Shape::Share { groups, .. } => groups,
            _ => self.subscribers,
        }
    }

    /// The receiver that a subscriber belongs to.
    pub(crate) fn receiver_of(&self, subscriber: u32) -> u32 {
        match self.shape {
            Shape::Share { members, .. } => subscriber / members,
            _ => subscriber,
        }
    }

    /// The publishers whose messages a receiver must get; `None` if they are not of this run (`sub`).
    pub(crate) fn publishers_of(&self, receiver: u32) -> Option<Range<u32>> {
        match self.shape {
            Shape::Sub => None,
            Shape::Pair => Some(receiver..receiver + 1),
            _ => Some(0..self.publishers),
        }
    }

    /// How many receivers must get each message.
    pub(crate) fn copies(&self) -> u32 {
        match self.shape {
            Shape::Conn | Shape::Pub | Shape::Sub => 0,
            Shape::Pair => 1,
            Shape::FanOut | Shape::FanIn | Shape::Share { .. } => self.receivers(),
        }
    }

    /// Messages arrive by one connection, in the order of their publisher `[MQTT-4.6.0-6]`. Between the members of a group there is
    /// no order.
    pub(crate) fn is_ordered(&self) -> bool {
        !matches!(self.shape, Shape::Share { .. })
    }

    pub(crate) fn is_open_loop(&self) -> bool {
        self.load.rate != Rate::Max
    }

    pub(crate) fn command(&self) -> &'static str {
        match self.shape {
            Shape::Conn => "conn",
            Shape::Pub => "pub",
            Shape::Sub => "sub",
            Shape::Pair => "pair",
            Shape::FanOut => "fan-out",
            Shape::FanIn => "fan-in",
            Shape::Share { .. } => "share",
        }
    }

    pub(crate) fn version(&self) -> Version {
        self.reach.mqtt
    }

    pub(crate) fn target(&self) -> &Target {
        &self.reach.target
    }
}

/// A run that only holds connections: nothing is late in it.
fn hold(duration: Duration) -> Timing {
    Timing { duration, warm_up: Duration::ZERO, drain: Duration::ZERO, lag_max: Duration::from_secs(1) }
}

/// As many as the client's core takes.
const TOPIC_LEVELS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use clap::Parser;
    use quelea_mqtt::TopicFilter;

    use super::*;
    use crate::cli::{Arguments, Command};

    fn plan(line: &str) -> Result<Plan, String> {
        let words = std::iter::once("quelea-load").chain(line.split_whitespace());
        match Arguments::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Run(run) => Plan::new(*run).map_err(|refusal| refusal.to_string()),
            Command::SelfTest(_) => panic!("{line} makes no plan"),
        }
    }

    #[test]
    fn every_filter_matches_the_topics_that_its_receiver_expects() {
        for line in [
            "pair mqtt://127.0.0.1 --pairs 3",
            "fan-out mqtt://127.0.0.1 --publishers 2 --subscribers 3",
            "fan-out mqtt://127.0.0.1 --publishers 5 --topics 2",
            "fan-in mqtt://127.0.0.1 --publishers 4",
            "share mqtt://127.0.0.1 --topics 3 --groups 2 --members 2",
        ] {
            let plan = plan(line).unwrap();
            for subscriber in 0..plan.subscribers {
                let filter = plan.filter_of(subscriber);
                let filter = filter
                    .strip_prefix("$share/")
                    .map_or(filter.as_str(), |rest| rest.split_once('/').expect("a group").1);
                let parsed = TopicFilter::new(filter, TOPIC_LEVELS_MAX).unwrap();
                for publisher in plan.publishers_of(plan.receiver_of(subscriber)).unwrap() {
                    let topic = plan.topic_of(publisher);
                    let name = TopicName::new(&topic, TOPIC_LEVELS_MAX).unwrap();
                    assert!(parsed.matches(name), "{line}: {filter} {topic}");
                }
            }
        }
    }

    #[test]
    fn pairs_and_groups_stay_on_their_thread() {
        let pairs = plan("pair mqtt://127.0.0.1 --pairs 5 --threads 2").unwrap();
        for number in 0..5 {
            assert_eq!(pairs.thread_of(number), pairs.thread_of(5 + number));
        }
        let groups = plan("share mqtt://127.0.0.1 --groups 2 --members 3 --threads 2").unwrap();
        let threads: Vec<_> = (0..6).map(|member| groups.thread_of(member)).collect();
        assert_eq!(threads, [0, 0, 0, 1, 1, 1]);
    }

    #[test]
    fn protocols_are_offered_as_the_transport_wants_or_as_typed() {
        let offered = |line: &str| plan(line).unwrap().tls.expect("it is encrypted").alpn_protocols.clone();
        assert_eq!(offered("pair quic://127.0.0.1 --insecure"), [b"mqtt"]);
        assert_eq!(offered("pair mqtts://127.0.0.1 --insecure"), [[0_u8; 0]; 0]);
        assert_eq!(
            offered("conn quic://127.0.0.1 --insecure --alpn MQTT-next,mqtt"),
            [&b"MQTT-next"[..], b"mqtt"]
        );
    }

    #[test]
    fn roles_follow_the_numbers() {
        let plan = plan("fan-in mqtt://127.0.0.1 --publishers 2 --subscribers 1").unwrap();
        let roles: Vec<_> = (0..plan.clients()).map(|client| plan.role(client)).collect();
        assert_eq!(roles, [Role::Subscriber(0), Role::Publisher(0), Role::Publisher(1)]);
        assert_eq!((plan.copies(), plan.receivers()), (1, 1));
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_its_reason() {
        for (line, reason) in [
            ("pair mqtt://127.0.0.1 --payload 23", "--payload"),
            ("pair mqtt://127.0.0.1 --rate max --poisson", "--poisson"),
            ("conn mqtt://127.0.0.1 -n 30000", "--bind"),
            ("conn mqtt://127.0.0.1 --bind ::1", "--bind"),
            ("pub mqtt://127.0.0.1 --topic a/#", "--topic"),
            ("fan-in mqtt://127.0.0.1 -p 9k -s 9k", "paths"),
            ("share mqtt://127.0.0.1 -m 1M -g 1M", "clients"),
            ("pair mqtt://127.0.0.1 --duration 0s", "--duration"),
            ("conn mqtt://127.0.0.1 --cafile ca.pem", "mqtts://"),
            ("conn ws://127.0.0.1 --cert a.pem --key b.pem", "wss://"),
        ] {
            let error = plan(line).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
