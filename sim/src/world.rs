//! The stage: clock, events, wires, shards and clients. Everything that happens goes through [`World::step`].

use std::time::{Duration, Instant};

use quelea_router::{ShardId, ShardSet, SleepFlags, mesh};
use quelea_shard::witness::{Loser, Loss, Why};
use quelea_shard::{Completion, DoorAction, Permissions, Shard, ShardParts};

use crate::actor::Actor;
use crate::crypto::{Crypto, Handshakes};
use crate::doors::Doors;
use crate::event::{Event, Events};
use crate::line::Line;
use crate::network::Network;
use crate::node::{Effect, Input, Node, Thread};
use crate::oracle::Oracle;
use crate::pipe::{Chunk, Door, Pipe, PipeId};
use crate::profile::Plan;
use crate::trace::{Kind, Trace};

/// Which act is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    SetUp,
    Storm,
    Calm,
    Curtain,
}

/// How a client loses its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The broker is told, soon; the end of what was sent may be lost.
    Reset,
    /// The broker is told nothing.
    Vanish,
}

/// Everything there is.
pub(crate) struct World {
    base: Instant,
    pub(crate) now: Instant,
    /// How far the broker's clock is ahead.
    pub(crate) skew: Duration,
    /// When it jumped last.
    pub(crate) jumped_at: Option<Instant>,
    pub(crate) events: Events,
    pub(crate) random: fastrand::Rng,
    pub(crate) plan: Plan,
    pub(crate) phase: Act,
    pub(crate) nodes: Vec<Node>,
    sleep: SleepFlags,
    pub(crate) pipes: Vec<Pipe>,
    pub(crate) lines: Vec<Line>,
    /// Carries datagrams, if QUIC is played.
    pub(crate) network: Option<Network>,
    /// The layered doors, if they are played.
    pub(crate) doors: Option<Doors>,
    pub(crate) actors: Vec<Actor>,
    pub(crate) oracle: Oracle,
    pub(crate) trace: Trace,
    /// When a client last saw a message.
    pub(crate) last_delivery: Instant,
}

impl World {
    pub(crate) fn new(
        base: Instant,
        plan: Plan,
        crypto: Crypto,
        mut random: fastrand::Rng,
        tells: bool,
    ) -> Self {
        let node_seed = random.u64(..);
        let mailboxes = mesh(plan.shards, plan.mesh);
        let handshakes = plan.quic.as_ref().map(|_| Handshakes::new(crypto, plan.shards, &mut random));
        let mut doors = plan.doors.as_ref().map(|plan| Doors::new(plan, &mut random));
        let tick = plan.tick();
        let mut events = Events::new(base);
        let nodes = mailboxes.into_iter().enumerate().map(|(index, mailbox)| {
            let parts = ShardParts {
                id: ShardId::from_index(index),
                shards: plan.shards,
                node_seed,
                seed: random.u64(..),
                mailbox,
                quic: plan.quic.as_ref().zip(handshakes.as_ref()).map(|(quic, handshakes)| {
                    let mut seed = [0; 32];
                    random.fill(&mut seed);
                    handshakes.shard(&quic.settings, index, seed)
                }),
            };
            events.push(base, Event::Turn { shard: index, turns: 0 });
            let mut shard = Shard::new(plan.settings.clone(), parts);
            if let Some(doors) = &mut doors {
                doors.introduce(&mut shard);
            }
            Node::new(shard, base, tick)
        });
        let nodes: Vec<Node> = nodes.collect();
        Self {
            base,
            now: base,
            skew: Duration::ZERO,
            jumped_at: None,
            events,
            random,
            sleep: SleepFlags::new(plan.shards),
            oracle: Oracle::new(plan.clients + 2, plan.limits.clone().unwrap_or_default()),
            plan,
            phase: Act::SetUp,
            nodes,
            pipes: Vec::new(),
            lines: Vec::new(),
            network: handshakes.map(Network::new),
            doors,
            actors: Vec::new(),
            trace: Trace::new(tells),
            last_delivery: base,
        }
    }

    /// Virtual time since the beginning.
    pub(crate) fn at(&self) -> Duration {
        self.now - self.base
    }

    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        self.trace.tell(self.now - self.base, line);
    }

    /// The next event happens. Returns it if it is the director's.
    pub(crate) fn step(&mut self) -> Option<Event> {
        let (at, event) = self.events.pop().expect("there is always something to come");
        debug_assert!(at >= self.now);
        self.now = at;
        match event {
            Event::Turn { shard, turns } => self.turn(shard, turns),
            Event::Opened { pipe } => self.opened(pipe),
            Event::ToServer { pipe } => self.arrive_at_server(pipe),
            Event::ToClient { pipe } => self.arrive_at_client(pipe),
            Event::Written { pipe } => self.written(pipe),
            Event::Authenticated { shard, request } => {
                self.input(
                    shard,
                    Input::Completed(request, Completion::Authenticated(Ok(Permissions::Everything))),
                );
            }
            Event::Act { actor } => self.act(actor),
            Event::ClientTimer { actor } => self.client_timer(actor),
            Event::Acks { actor } => self.send_acks(actor),
            Event::Unstall { actor } => self.unstall(actor),
            Event::Landed(flying) => self.landed(*flying),
            Event::Line { line } => self.line_turn(line),
            Event::LineLeft { line } => self.close_line(line),
            Event::Rebind { line } => self.rebind(line),
            Event::Reroute { line } => self.reroute(line),
            Event::Blackhole { line } => self.blackhole(line),
            Event::Stranger => self.stranger(),
            Event::Mishap { pipe } => self.mishap(pipe),
            Event::Call => self.call(),
            Event::Says { pipe } => self.says(pipe),
            Event::CallOverdue { pipe } => self.call_overdue(pipe),
            Event::Jump => self.jump(),
            Event::Look => return Some(event),
        }
        None
    }

    pub(crate) fn micros(&mut self, range: core::ops::Range<u64>) -> Duration {
        Duration::from_nanos(self.random.u64(range.start * 1_000..range.end * 1_000))
    }
}

// ---- Shards.
impl World {
    fn turn(&mut self, shard: usize, turns: u64) {
        let now = self.broker_now();
        let node = &mut self.nodes[shard];
        if node.turns != turns {
            return;
        }
        self.trace.mark(self.now - self.base, Kind::Turn, shard as u64, turns);
        let (mut effects, over) = node.go_on(now, &self.sleep, self.plan.wire.batch);
        let read = self.read_from(&effects);
        for effect in effects.drain(..) {
            self.on_effect(shard, effect);
        }
        read.into_iter().for_each(|pipe| self.judge_pressure(pipe));
        let node = &mut self.nodes[shard];
        node.keep(effects);
        let until = node.lie_down(over, &self.sleep);
        while let Some(loss) = self.nodes[shard].shard.poll_loss() {
            self.lost(&loss);
        }
        let node = &mut self.nodes[shard];
        let turns = node.turns;
        if self.plan.limits.is_some() {
            self.judge_fill(shard);
        }
        let node = &mut self.nodes[shard];
        let awake = !node.inbox.is_empty() || until.is_some_and(|until| until <= over);
        let preempted = self.percent(self.plan.wire.preempt_percent);
        let mut took = (over - now) + self.micros(self.plan.wire.turn_us.clone());
        if preempted {
            took += self.micros(self.plan.wire.preempt_us.clone());
        }
        if awake || preempted {
            self.due(shard, self.now + took);
            return;
        }
        self.nodes[shard].thread = Thread::Asleep;
        if let Some(until) = until {
            let until = self.until_broker_shows(until);
            self.events.push(until.max(self.now + took), Event::Turn { shard, turns });
        }
    }

    fn due(&mut self, shard: usize, at: Instant) {
        let node = &mut self.nodes[shard];
        node.thread = Thread::Due(at);
        let turns = node.turns;
        self.events.push(at, Event::Turn { shard, turns });
    }

    /// Something rings at a sleeping thread.
    pub(crate) fn ring(&mut self, shard: usize) {
        if self.nodes[shard].thread == Thread::Asleep {
            let wake = self.micros(self.plan.wire.wake_us.clone());
            self.due(shard, self.now + wake);
        }
    }

    pub(crate) fn input(&mut self, shard: usize, input: Input) {
        self.nodes[shard].inbox.push_back(input);
        self.ring(shard);
    }

    fn lost(&mut self, loss: &Loss) {
        let id = self.oracle.on_loss(loss);
        if let (Why::TooLarge, Loser::Session(client), Some(id)) = (loss.why, &loss.whose, id) {
            let whose = self.actors.iter().find(|actor| actor.character.name == **client);
            let packet_bytes_max = whose.and_then(|actor| actor.character.packet_bytes_max);
            self.oracle.judge_too_large(id, packet_bytes_max);
        }
        self.tell(|| {
            let what = id.map_or("a message".to_owned(), |id| format!("publication {}", id.0));
            let why = loss.why;
            match &loss.whose {
                Loser::Session(client) => {
                    format!("the broker drops {what} for {}: {why}", client.replace('-', " "))
                }
                Loser::Group(filter) => format!("the broker drops {what} for {filter}: {why}"),
                Loser::Everybody => format!("the broker drops {what} for everybody on a shard: {why}"),
            }
        });
    }

    fn on_effect(&mut self, shard: usize, effect: Effect) {
        match effect {
            Effect::Wake(shards) => self.bells(shards),
            Effect::Transmit(transmit, contents) => self.launch_down(&transmit, &contents),
            Effect::Request(request) => {
                self.on_connect_read(shard, &request.work);
                let delay = self.micros(1..2_000);
                self.events.push(self.now + delay, Event::Authenticated { shard, request: request.id });
            }
            Effect::Read { door, bytes, serving } => self.heard(PipeId(door.0 as usize), bytes, serving),
            Effect::Door(door, action) => self.on_door(PipeId(door.0 as usize), action),
        }
    }

    /// A shard has read bytes of a client.
    fn heard(&mut self, id: PipeId, bytes: usize, serving: bool) {
        let pipe = &mut self.pipes[id.0];
        pipe.read_bytes += bytes;
        // It has read DISCONNECT before it could end the connection itself.
        if serving
            && let Some((will, end)) = pipe.farewell
            && pipe.read_bytes >= end
            && !pipe.is_unheard()
        {
            pipe.farewell = None;
            self.oracle.on_will(will, false, -1);
        }
    }

    fn bells(&mut self, shards: ShardSet) {
        for shard in shards.iter() {
            self.ring(shard.index());
        }
    }

    fn on_door(&mut self, id: PipeId, action: DoorAction) {
        let at = self.at();
        match action {
            DoorAction::Write(batch) => {
                let bytes = batch.concat();
                self.trace.bytes(at, Kind::Door, id.0 as u64, &bytes);
                self.write_down(id, &bytes.into());
            }
            DoorAction::Pause => {
                self.trace.mark(at, Kind::Door, id.0 as u64, 1);
                self.pipes[id.0].paused = true;
                self.take_back(id);
            }
            DoorAction::Resume => {
                self.trace.mark(at, Kind::Door, id.0 as u64, 2);
                let pipe = &mut self.pipes[id.0];
                pipe.paused = false;
                for chunk in std::mem::take(&mut pipe.held) {
                    self.hand_to_server(id, chunk);
                }
            }
            DoorAction::Finish => {
                self.trace.mark(at, Kind::Door, id.0 as u64, 3);
                self.pipes[id.0].door = Door::Finished;
                self.send_down(id, Chunk::EndOfStream);
            }
            DoorAction::Abort => {
                self.trace.mark(at, Kind::Door, id.0 as u64, 4);
                self.pipes[id.0].door = Door::Gone;
                self.send_down(id, Chunk::Reset);
            }
        }
    }
}
