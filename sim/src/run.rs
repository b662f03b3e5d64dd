//! One run, from the empty stage to the checked books.

use core::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use quelea_client::{Farewell, Subscription};
use quelea_mqtt::{QoS, ReasonCode, Version};
use quelea_shard::OnFull;
use quelea_shard::counters::Counters;
use quelea_shard::quic::Quic;

use crate::actor::{Actor, Character, Echo, Role, new_core};
use crate::clock::WATCHER_EXPIRY_S;
use crate::crypto::Crypto;
use crate::cuts::Cuts;
use crate::event::Event;
use crate::limits::Limits;
use crate::oracle::Books;
use crate::profile::{Plan, Profile};
use crate::world::{Act, World};

/// Whether a run tells what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Story {
    /// It does not.
    Silent,
    /// Line by line.
    Told,
}

/// What is played: the seed draws all that the profile leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Play {
    /// What is tried.
    pub profile: Profile,
    /// Where everything random comes from.
    pub seed: u64,
    /// How QUIC's packets are protected, in profiles with QUIC.
    pub crypto: Crypto,
    /// What it goes without.
    pub cuts: Cuts,
}

impl Play {
    /// This seed of this profile, without cryptography.
    pub fn new(profile: Profile, seed: u64) -> Self {
        Self { profile, seed, crypto: Crypto::Null, cuts: Cuts::default() }
    }

    /// How much there is of each of [`Amount::ALL`](crate::cuts::Amount::ALL).
    pub(crate) fn size(&self) -> [u32; 3] {
        let (plan, _) = self.draw();
        [plan.clients as u32, plan.shards as u32, plan.storm.as_millis() as u32]
    }

    /// Whether the run is another one with these cuts: most profiles have no strangers, to begin with.
    pub(crate) fn is_changed_by(&self, cuts: Cuts) -> bool {
        let plan = |play: &Self| format!("{:?}", play.draw().0);
        plan(self) != plan(&Self { cuts, ..*self })
    }

    fn draw(&self) -> (Plan, fastrand::Rng) {
        let mut random = fastrand::Rng::with_seed(self.seed ^ (self.profile as u64 + 1) << 56);
        let mut plan = Plan::draw(self.profile, &mut random);
        // An eighth of the runs of every profile clear what is retained; the first few do not, which found faults without.
        if self.seed % 8 == 5 && self.seed > 8 {
            plan.habits.clear_percent = plan.habits.clear_percent.max(CLEAR_PERCENT);
            plan.habits.retain_percent = plan.habits.retain_percent.max(CLEAR_PERCENT);
        }
        Limits::draw(self.profile, self.seed, &mut plan);
        self.cuts.apply(&mut plan);
        if let Some(limits) = &plan.limits {
            limits.apply(&mut plan.settings);
        }
        (plan, random)
    }
}

/// A run in which every promise was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Over every byte, time and door action.
    pub hash: u64,
    /// Events of the run.
    pub events: u64,
    /// Virtual time that it took.
    pub virtual_time: Duration,
    /// The story, if it was to be told.
    pub story: Vec<String>,
    /// The broker's counters, summed over its shards; those of QUIC come once for each shard.
    pub counters: Vec<(&'static str, u64)>,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub what: String,
    /// The story, if it was to be told.
    pub story: Vec<String>,
    /// The broker's counters at the end.
    pub counters: Vec<(&'static str, u64)>,
}

/// As it is asked for on the command line.
impl fmt::Display for Play {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { profile, seed, crypto, cuts } = self;
        write!(f, "--seed {seed} --profile {} --crypto {}{cuts}", profile.name(), crypto.name())
    }
}

impl Failure {
    /// What two failures of one kind have in common: the first words of the sentence, without names and numbers.
    pub fn kind(&self) -> String {
        let words =
            self.what.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()));
        let plain = words.filter(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase()));
        plain.take(KIND_WORDS).collect::<Vec<_>>().join(" ")
    }
}

/// Plays it. `base` is the Instant that virtual time counts from; it has no influence.
///
/// # Errors
/// The first promise that was not kept; also an assertion of the broker that does not hold.
pub fn run(base: Instant, play: Play, story: Story) -> Result<Report, Failure> {
    let (plan, random) = play.draw();
    perform(base, plan, play.crypto, random, story)
}

/// Plays it on a broker with a deliberate fault.
///
/// # Errors
/// As [`run`]; here they are what is hoped for.
#[cfg(feature = "mutants")]
pub fn run_mutant(
    base: Instant,
    mutant: quelea_shard::mutants::Mutant,
    play: Play,
    story: Story,
) -> Result<Report, Failure> {
    let (mut plan, random) = play.draw();
    plan.settings.mutant = Some(mutant);
    if let Some(quic) = &mut plan.quic {
        quic.settings.mutant = Some(mutant);
    }
    perform(base, plan, play.crypto, random, story)
}

fn perform(
    base: Instant,
    plan: Plan,
    crypto: Crypto,
    random: fastrand::Rng,
    story: Story,
) -> Result<Report, Failure> {
    let mut world = World::new(base, plan, crypto, random, story == Story::Told);
    let played = catch_unwind(AssertUnwindSafe(|| world.play()));
    let outcome = match played {
        Ok(outcome) => outcome,
        Err(panic) => Err(format!("an assertion does not hold: {}", said(&*panic))),
    };
    let told = world.trace.take_story();
    match outcome {
        Ok(()) => Ok(Report {
            hash: world.trace.hash(),
            events: world.events.entered(),
            virtual_time: world.at(),
            story: told,
            counters: world.books(),
        }),
        Err(what) => Err(Failure { what, story: told, counters: world.books() }),
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

impl World {
    fn play(&mut self) -> Result<(), String> {
        self.set_up()?;
        self.storm()?;
        self.calm()?;
        self.outlive_retained()?;
        self.curtain()
    }

    fn verdict(&self) -> Result<(), String> {
        match self.oracle.verdict() {
            None => Ok(()),
            Some(what) => Err(format!("{what} (at {:?})", self.at())),
        }
    }

    /// Lets things happen until `done`, looking every few milliseconds; an error after `bound`.
    pub(crate) fn until(
        &mut self,
        bound: Duration,
        what: &str,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), String> {
        let end = self.now + bound;
        self.events.push(self.now, Event::Look);
        loop {
            if self.step().is_some() {
                if done(self) {
                    return self.verdict();
                }
                if self.now >= end {
                    return Err(format!("{what} took more than {bound:?}: {}", self.complaint()));
                }
                self.events.push(self.now + LOOK, Event::Look);
            }
            self.verdict()?;
        }
    }

    fn set_up(&mut self) -> Result<(), String> {
        let clients = self.plan.clients;
        for index in 0..clients + 2 {
            let role = match index {
                WATCHER => Role::Watcher,
                _ if index == clients + 1 => Role::Probe,
                _ => Role::Player,
            };
            let mut character = self.character(index, role);
            self.limit_character(&mut character);
            let core = new_core(&character, true, None, 0);
            self.actors.push(Actor::new(character, core));
            self.renew(index, true);
        }
        self.introduce();
        let shard = self.random.usize(0..self.nodes.len());
        self.open(WATCHER, shard);
        self.until(SETTLE, "the watcher's CONNECT", |world| world.actors[WATCHER].core.is_connected())?;
        self.subscribe_to(WATCHER, vec![Subscription::new("will/#", QoS::ExactlyOnce)]);
        self.drain_client(WATCHER);
        self.until(SETTLE, "the watcher's SUBSCRIBE", |world| world.actors[WATCHER].is_idle())
    }

    fn character(&mut self, index: usize, role: Role) -> Character {
        let habits = self.plan.habits.clone();
        let player = role == Role::Player;
        let wants_will = player && self.percent(habits.will_percent);
        Character {
            name: format!("client-{index}"),
            role,
            version: if player && self.percent(habits.v3_percent) { Version::V311 } else { Version::V5 },
            persistent: role == Role::Watcher || player && self.percent(habits.persistent_percent),
            session_expiry_s: match role {
                Role::Player => habits.session_expiry_s,
                _ if self.plan.jump_us.is_some() => WATCHER_EXPIRY_S,
                _ => 3_600,
            },
            // The watcher stays where the clock jumps: what it misses while it is away may be dropped.
            keep_alive_s: if !player && self.plan.jump_us.is_some() { 0 } else { habits.keep_alive_s },
            packet_bytes_max: None,
            receive_max: if player { self.random.u16(habits.receive_max) } else { 100 },
            in_flight_max: self.random.u16(1..32),
            slow_acks: player && self.percent(habits.slow_ack_percent),
            wants_will,
            will_delay_s: if self.percent(habits.will_delay_percent) { self.random.u32(1..4) } else { 0 },
            quic: player && self.plan.quic.as_ref().map(|quic| quic.percent).is_some_and(|p| self.percent(p)),
        }
    }

    fn storm(&mut self) -> Result<(), String> {
        self.phase = Act::Storm;
        self.tell(|| "the storm begins".to_owned());
        for actor in 0..=self.plan.clients {
            let begin = Duration::from_micros(self.random.u64(0..100_000));
            self.events.push(self.now + begin, Event::Act { actor });
        }
        self.expect_strangers();
        self.expect_callers();
        self.expect_jumps();
        let end = self.now + self.plan.storm;
        self.until(self.plan.storm + LOOK, "the storm", |world| world.now >= end)
    }

    /// No faults from here on: the broker has a bounded time to do all that it owes.
    fn calm(&mut self) -> Result<(), String> {
        self.phase = Act::Calm;
        self.tell(|| "calm".to_owned());
        self.plan.wire.calm();
        self.clear_up();
        self.calm_doors();
        let began = self.now;
        let bound = if self.network.is_some() { CALM_QUIC } else { CALM };
        let result = self.until(bound, "settling", |world| {
            let quiet_since = world.last_delivery.max(began) + QUIET;
            world.now >= quiet_since && world.owes_nothing() && world.is_echoed(quiet_since)
        });
        self.tell(|| "all is quiet".to_owned());
        self.judge_pongs();
        result
    }

    fn owes_nothing(&mut self) -> bool {
        let clients = self.plan.clients;
        self.actors[..=clients].iter().all(Actor::is_idle)
            && !self.is_anybody_mute()
            && !self.is_anybody_leaving()
            && self.is_jump_settled()
            && self.nodes.iter_mut().all(|node| {
                let counters = node.shard.counters();
                counters.tickets == 0 && counters.parked == 0 && counters.waiting_credit == 0
            })
    }

    /// Whether nothing is under way to any client over QUIC since then. Repeating a lost packet takes longer than the
    /// longest way of a message, so silence alone says nothing: each client is asked to ping.
    fn is_echoed(&mut self, quiet_since: Instant) -> bool {
        let now = self.now;
        let mut all = true;
        for actor in 0..=self.plan.clients {
            let player = &mut self.actors[actor];
            if player.line.is_none() {
                continue;
            }
            let Echo { since, asked, answered } = player.echo;
            if since.is_none_or(|since| since < quiet_since) {
                player.echo = Echo { since: Some(now), asked: 1, answered: 0 };
            } else if answered >= 2 {
                continue;
            } else if answered == asked {
                player.echo.asked += 1;
            } else {
                all = false;
                continue;
            }
            all = false;
            // Refused while too much waits to be written: then something is under way, and it is asked again.
            if player.core.ping(now).is_err() {
                player.echo = Echo::default();
            }
            self.drain_client(actor);
        }
        all
    }

    /// Who or what is not done.
    fn complaint(&mut self) -> String {
        let waiting: Vec<String> = self
            .actors
            .iter()
            .enumerate()
            .filter(|(_, actor)| !actor.is_idle() && actor.character.role != Role::Probe)
            .map(|(index, actor)| {
                format!(
                    "client {index} on shard {} (connected {}, in flight {}, requests {})",
                    actor.shard,
                    actor.core.is_connected(),
                    actor.core.in_flight(),
                    actor.requests.len()
                )
            })
            .collect();
        let shards: Vec<String> = self
            .nodes
            .iter_mut()
            .enumerate()
            .map(|(index, node)| {
                let c = node.shard.counters().clone();
                format!(
                    "shard {index}: {:?}, sessions {}, tickets {}, parked {}, waiting for credit {}",
                    node.thread, c.sessions, c.tickets, c.parked, c.waiting_credit
                )
            })
            .collect();
        format!("{}; {}", waiting.join(", "), shards.join("; "))
    }

    fn curtain(&mut self) -> Result<(), String> {
        self.phase = Act::Curtain;
        let probe = self.plan.clients + 1;
        self.open(probe, 0);
        self.until(SETTLE, "the probe's CONNECT", |world| {
            world.try_elsewhere(probe);
            world.actors[probe].core.is_connected()
        })?;
        self.subscribe_to(probe, vec![Subscription::new("#", QoS::AtLeastOnce)]);
        self.drain_client(probe);
        let asked = self.now;
        self.until(SETTLE, "the probe's SUBSCRIBE", |world| {
            let quiet = world.now >= world.last_delivery.max(asked) + QUIET;
            quiet && world.actors[probe].is_idle()
        })?;
        let found = std::mem::take(&mut self.actors[probe].found);
        let books = Books { counters: self.sum() };
        self.oracle.settle(WATCHER, &books, &found);
        self.verdict()?;
        self.everyone_leaves()?;
        self.check_strays()?;
        let sum = self.sum();
        let retained: usize = found.keys().map(|topic| topic.len() + RETAINED_ENTRY_BYTES).sum();
        let charged = sum.retained_bytes.saturating_sub(retained as u64);
        let possible = self.oracle.bytes_retained(&found);
        let right = sum.memory_bytes == charged && possible.contains(&charged);
        if sum.retained as usize != found.len() || !right {
            return Err(format!(
                "memory is not given back: {} bytes are charged, {charged} of them for {} retained messages (a probe found {}, \
                 of {possible:?} bytes)",
                sum.memory_bytes,
                sum.retained,
                found.len()
            ));
        }
        Ok(())
    }

    /// All sessions end: those that would outlive their connection by a farewell, or by a clean start.
    fn everyone_leaves(&mut self) -> Result<(), String> {
        for actor in 0..self.actors.len() {
            let character = &mut self.actors[actor].character;
            let v5 = character.version == Version::V5;
            let expiry = (v5 && character.persistent).then_some(0);
            let again = !v5 && character.persistent;
            character.persistent = false;
            let farewell = Farewell { reason: ReasonCode::NORMAL_DISCONNECTION, session_expiry_s: expiry };
            self.actors[actor].core.disconnect(self.now, farewell).map_err(|refusal| refusal.to_string())?;
            self.drain_client(actor);
            if again {
                self.renew(actor, true);
                let shard = self.actors[actor].shard;
                self.open(actor, shard);
                self.until(SETTLE, "a clean start", |world| {
                    // Limits that strangers and vanished connections have used up may still refuse it.
                    if !world.actors[actor].core.is_attached() {
                        world.open(actor, shard);
                    }
                    world.actors[actor].core.is_connected()
                })?;
                let farewell = Farewell::from(ReasonCode::NORMAL_DISCONNECTION);
                self.actors[actor]
                    .core
                    .disconnect(self.now, farewell)
                    .map_err(|refusal| refusal.to_string())?;
                self.drain_client(actor);
            }
        }
        self.until(SETTLE, "the end of all sessions", |world| {
            let sum = world.sum();
            let quic = world.nodes.iter().filter_map(|node| node.shard.quic());
            let connections: usize = quic.map(Quic::connections).sum();
            let sessions = sum.sessions + sum.groups + sum.subscriptions;
            sessions == 0 && sum.links == 0 && connections == 0 && sum.tls_handshakes_in_flight == 0
        })
    }

    /// What the kernel steers rightly is not forwarded.
    fn check_strays(&mut self) -> Result<(), String> {
        let sum = self.sum();
        let forwarded = sum.datagrams_forwarded + sum.datagrams_forward_dropped;
        match &self.network {
            Some(network) if network.strays != forwarded => Err(format!(
                "{forwarded} datagrams were forwarded to another shard, and {} had gone astray",
                network.strays
            )),
            _ => Ok(()),
        }
    }

    fn sum(&mut self) -> Counters {
        let mut sum = Counters::default();
        for node in &mut self.nodes {
            sum.add(node.shard.counters());
        }
        sum
    }

    fn books(&mut self) -> Vec<(&'static str, u64)> {
        let mut books = Vec::new();
        self.sum().for_each(|figure| books.push((figure.name, figure.value)));
        let quic = self.nodes.iter().filter_map(|node| node.shard.quic()).map(Quic::counters);
        for c in quic {
            let ignored = c.initials_queue_full
                + c.initials_handshakes_full
                + c.initials_prefix_full
                + c.initials_site_full;
            books.extend([
                ("quic_datagrams_in", c.datagrams_in),
                ("quic_datagrams_out", c.datagrams_out),
                ("quic_stateless_sent", c.stateless_sent),
                ("quic_initials", c.initials),
                ("quic_retries", c.retries_backlog + c.retries_prefix),
                ("quic_initials_ignored", ignored),
                ("quic_refused", c.refused_connections + c.refused_prefix),
                ("quic_handshakes_failed", c.handshakes_failed + c.handshakes_expired + c.initials_expired),
                ("quic_connected", c.connected),
                ("quic_peers_moved", c.peers_moved),
                ("quic_mtu_black_holes", c.mtu_black_holes),
            ]);
        }
        books
    }

    /// Whether sessions may be gone although their client did not ask for it.
    pub(crate) fn sessions_are_mortal(&self) -> bool {
        self.plan.settings.on_full == OnFull::EndSession || self.plan.habits.session_expiry_s < 100
    }
}

/// Enough to tell promises from each other; what follows are the circumstances.
const KIND_WORDS: usize = 6;

/// Of publications that are retained, and of those that clear what is.
const CLEAR_PERCENT: u32 = 25;

/// The client that sees every Will.
pub(crate) const WATCHER: usize = 0;

/// Between two looks of the director.
const LOOK: Duration = Duration::from_millis(50);

/// No message for so long, and nothing owed: the run is quiet. Longer than the pause between two attempts to connect, and
/// than the longest way of a message from shard to shard.
const QUIET: Duration = Duration::from_millis(700);

/// The broker must have settled by then: keep alive of vanished clients, deadlines of full queues, Will Delay.
const CALM: Duration = Duration::from_secs(60);

/// The same where QUIC repeats what was lost, after pauses that have grown in a blackhole, and where connections that
/// vanished count against limits until they time out.
const CALM_QUIC: Duration = Duration::from_secs(150);

/// For one exchange on a calm network.
const SETTLE: Duration = Duration::from_secs(30);

/// What the store of retained messages charges beside message and topic.
const RETAINED_ENTRY_BYTES: usize = 64;
