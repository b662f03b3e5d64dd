//! The stage: clock, events, wires, shards and clients. Everything that happens goes through [`World::step`].

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quelea_client::{Closed, Event as Told};
use quelea_mqtt::{QoS, ReasonCode};
use quelea_router::{ShardId, ShardSet, SleepFlags, mesh};
use quelea_shard::{Completion, DoorAction, DoorEnd, DoorId, Permissions, Shard, ShardParts};

use crate::actor::{Actor, Asked, Role};
use crate::event::{Event, Events};
use crate::node::{Effect, Input, Node, Thread};
use crate::oracle::Oracle;
use crate::pipe::{Chunk, Door, KERNEL_BYTES, Pipe, PipeId};
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
    pub(crate) events: Events,
    pub(crate) random: fastrand::Rng,
    pub(crate) plan: Plan,
    pub(crate) phase: Act,
    pub(crate) nodes: Vec<Node>,
    sleep: SleepFlags,
    pub(crate) pipes: Vec<Pipe>,
    pub(crate) actors: Vec<Actor>,
    pub(crate) oracle: Oracle,
    pub(crate) trace: Trace,
    /// When a client last saw a message.
    pub(crate) last_delivery: Instant,
}

impl World {
    pub(crate) fn new(base: Instant, plan: Plan, mut random: fastrand::Rng, tells: bool) -> Self {
        let node_seed = random.u64(..);
        let mailboxes = mesh(plan.shards, plan.mesh);
        let mut events = Events::default();
        let nodes = mailboxes.into_iter().enumerate().map(|(index, mailbox)| {
            let parts = ShardParts {
                id: ShardId::from_index(index),
                shards: plan.shards,
                node_seed,
                seed: random.u64(..),
                mailbox,
                quic: None,
            };
            events.push(base, Event::Turn { shard: index, turns: 0 });
            Node::new(Shard::new(plan.settings.clone(), parts), base)
        });
        let nodes: Vec<Node> = nodes.collect();
        Self {
            base,
            now: base,
            events,
            random,
            sleep: SleepFlags::new(plan.shards),
            oracle: Oracle::new(plan.clients + 2),
            plan,
            phase: Act::SetUp,
            nodes,
            pipes: Vec::new(),
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
            Event::ToServer { pipe } => self.deliver_to_server(pipe),
            Event::ToClient { pipe } => self.deliver_to_client(pipe),
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
            Event::Look => return Some(event),
        }
        None
    }

    fn micros(&mut self, range: core::ops::Range<u64>) -> Duration {
        Duration::from_nanos(self.random.u64(range.start * 1_000..range.end * 1_000))
    }
}

// ---- Shards.
impl World {
    fn turn(&mut self, shard: usize, turns: u64) {
        let node = &mut self.nodes[shard];
        if node.turns != turns {
            return;
        }
        self.trace.mark(self.now - self.base, Kind::Turn, shard as u64, turns);
        let effects = node.go_on(self.now, &self.sleep, self.plan.wire.batch);
        for effect in effects {
            self.on_effect(shard, effect);
        }
        let node = &mut self.nodes[shard];
        let until = node.lie_down(self.now, &self.sleep);
        let turns = node.turns;
        let awake = !node.inbox.is_empty() || until.is_some_and(|until| until <= self.now);
        let preempted = self.percent(self.plan.wire.preempt_percent);
        let mut took = self.micros(self.plan.wire.turn_us.clone());
        if preempted {
            took += self.micros(self.plan.wire.preempt_us.clone());
        }
        if awake || preempted {
            self.due(shard, self.now + took);
            return;
        }
        self.nodes[shard].thread = Thread::Asleep;
        if let Some(until) = until {
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
    fn ring(&mut self, shard: usize) {
        if self.nodes[shard].thread == Thread::Asleep {
            let wake = self.micros(self.plan.wire.wake_us.clone());
            self.due(shard, self.now + wake);
        }
    }

    fn input(&mut self, shard: usize, input: Input) {
        self.nodes[shard].inbox.push_back(input);
        self.ring(shard);
    }

    fn on_effect(&mut self, shard: usize, effect: Effect) {
        match effect {
            Effect::Wake(shards) => self.bells(shards),
            Effect::Request(request) => {
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
                let bytes: Vec<u8> = batch.iter().flat_map(|bytes| bytes.iter().copied()).collect();
                self.trace.bytes(at, Kind::Door, id.0 as u64, &bytes);
                self.write_down(id, &bytes.into());
            }
            DoorAction::Pause => {
                self.trace.mark(at, Kind::Door, id.0 as u64, 1);
                self.pipes[id.0].paused = true;
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

// ---- Wires.
impl World {
    /// A client opens a connection to a shard and sends CONNECT.
    pub(crate) fn open(&mut self, actor: usize, shard: usize) {
        let id = PipeId(self.pipes.len());
        let mut pipe = Pipe::new(self.now, actor, shard);
        let delay = self.micros(self.plan.wire.delay_us.clone());
        pipe.up.last_arrival = self.now + delay;
        self.pipes.push(pipe);
        self.events.push(self.now + delay, Event::Opened { pipe: id });

        let player = &mut self.actors[actor];
        player.pipe = Some(id);
        player.connections += 1;
        player.was_connected = false;
        player.fresh = false;
        let clean = player.core.options().clean_start;
        let persistent = player.character.persistent;
        player.core.connect(self.now).expect("the core is detached and its options are sound");
        self.tell(|| format!("client {actor} connects to shard {shard}, clean {clean} (stream {})", id.0));
        self.oracle.on_connect(actor, self.now, clean, persistent);
        self.drain_client(actor);
    }

    fn opened(&mut self, id: PipeId) {
        let pipe = &mut self.pipes[id.0];
        pipe.opened = true;
        let peer = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), pipe.actor as u16));
        let shard = pipe.shard;
        self.input(shard, Input::Opened(DoorId(id.0 as u64), peer));
    }

    /// Pieces of what is written: often one, sometimes down to single bytes.
    fn pieces(&mut self, bytes: &Bytes) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        let mut rest = bytes.clone();
        let cut = self.percent(self.plan.wire.cut_percent);
        while cut && rest.len() > 1 && pieces.len() < 16 {
            let most = if self.random.bool() { rest.len() } else { rest.len().min(4) };
            let piece = rest.split_to(self.random.usize(1..=most));
            pieces.push(piece);
        }
        if !rest.is_empty() {
            pieces.push(rest);
        }
        pieces
    }

    fn send_up(&mut self, id: PipeId, bytes: &Bytes) {
        self.trace.bytes(self.now - self.base, Kind::ToServer, id.0 as u64, bytes);
        self.pipes[id.0].sent_bytes += bytes.len();
        for piece in self.pieces(bytes) {
            self.push_up(id, Chunk::Bytes(piece));
        }
    }

    fn push_up(&mut self, id: PipeId, chunk: Chunk) {
        let delay = self.micros(self.plan.wire.delay_us.clone());
        let flow = &mut self.pipes[id.0].up;
        let arrival = flow.last_arrival.max(self.now + delay);
        flow.last_arrival = arrival;
        flow.chunks.push_back(chunk);
        self.events.push(arrival, Event::ToServer { pipe: id });
    }

    fn send_down(&mut self, id: PipeId, chunk: Chunk) {
        let delay = self.micros(self.plan.wire.delay_us.clone());
        let flow = &mut self.pipes[id.0].down;
        let arrival = flow.last_arrival.max(self.now + delay);
        flow.last_arrival = arrival;
        flow.chunks.push_back(chunk);
        self.events.push(arrival, Event::ToClient { pipe: id });
    }

    fn write_down(&mut self, id: PipeId, bytes: &Bytes) {
        let pipe = &mut self.pipes[id.0];
        debug_assert!(!pipe.writing, "one write at a time");
        pipe.writing = true;
        pipe.down_bytes += bytes.len();
        for piece in self.pieces(bytes) {
            self.send_down(id, Chunk::Bytes(piece));
        }
        self.complete_write(id);
    }

    /// The write in flight is complete soon, unless too much is unread.
    fn complete_write(&mut self, id: PipeId) {
        let pipe = &mut self.pipes[id.0];
        pipe.write_waits = pipe.down_bytes > KERNEL_BYTES;
        if !pipe.write_waits {
            let delay = self.micros(self.plan.wire.write_us.clone());
            self.events.push(self.now + delay, Event::Written { pipe: id });
        }
    }

    fn written(&mut self, id: PipeId) {
        let pipe = &mut self.pipes[id.0];
        pipe.writing = false;
        let shard = pipe.shard;
        if pipe.door != Door::Gone {
            self.input(shard, Input::Written(DoorId(id.0 as u64)));
        }
    }

    fn deliver_to_server(&mut self, id: PipeId) {
        let pipe = &mut self.pipes[id.0];
        // What was cut off from a stream that was reset had an event, too.
        let Some(chunk) = pipe.up.chunks.pop_front() else { return };
        if pipe.paused && !matches!(chunk, Chunk::Reset) {
            pipe.held.push_back(chunk);
            return;
        }
        self.hand_to_server(id, chunk);
    }

    fn hand_to_server(&mut self, id: PipeId, chunk: Chunk) {
        let pipe = &mut self.pipes[id.0];
        let (shard, door) = (pipe.shard, DoorId(id.0 as u64));
        if pipe.door == Door::Gone {
            return;
        }
        let input = match chunk {
            Chunk::Bytes(bytes) => Input::Bytes(door, bytes),
            Chunk::EndOfStream => Input::Closed(door, DoorEnd::EndOfStream),
            Chunk::Reset => Input::Closed(door, DoorEnd::Reset),
        };
        self.input(shard, input);
    }

    fn deliver_to_client(&mut self, id: PipeId) {
        let pipe = &mut self.pipes[id.0];
        let chunk = pipe.down.chunks.pop_front().expect("an event for each chunk");
        let actor = pipe.actor;
        if self.actors[actor].pipe != Some(id) {
            let silent = pipe.abandoned && !pipe.client_ended;
            if let Chunk::Bytes(bytes) = &chunk
                && !silent
            {
                self.read(id, bytes.len());
            }
        } else if self.actors[actor].stalled {
            pipe.unread.push_back(chunk);
        } else {
            self.hand_to_client(actor, id, chunk);
        }
    }

    /// Bytes have left the kernel on the client's side.
    fn read(&mut self, id: PipeId, bytes: usize) {
        let pipe = &mut self.pipes[id.0];
        pipe.down_bytes -= bytes;
        if pipe.write_waits {
            self.complete_write(id);
        }
    }

    fn unstall(&mut self, actor: usize) {
        self.actors[actor].stalled = false;
        let Some(id) = self.actors[actor].pipe else { return };
        while self.actors[actor].pipe == Some(id)
            && let Some(chunk) = self.pipes[id.0].unread.pop_front()
        {
            self.hand_to_client(actor, id, chunk);
        }
    }

    fn hand_to_client(&mut self, actor: usize, id: PipeId, chunk: Chunk) {
        match chunk {
            Chunk::Bytes(bytes) => {
                self.trace.bytes(self.now - self.base, Kind::ToClient, id.0 as u64, &bytes);
                self.read(id, bytes.len());
                let mut taken = 0;
                while taken < bytes.len() {
                    taken += self.actors[actor].core.handle_bytes(self.now, &bytes[taken..]);
                    self.drain_client(actor);
                }
            }
            Chunk::EndOfStream | Chunk::Reset => {
                self.tell(|| format!("the broker has ended the connection of client {actor} ({chunk:?})"));
                self.actors[actor].core.handle_closed(self.now);
                self.drain_client(actor);
            }
        }
    }

    /// A client's connection fails.
    pub(crate) fn cut(&mut self, actor: usize, how: Cut) {
        let Some(id) = self.actors[actor].pipe.take() else { return };
        self.tell(|| format!("the connection of client {actor} fails: {how:?}"));
        let pipe = &mut self.pipes[id.0];
        pipe.abandoned = true;
        if how == Cut::Reset {
            pipe.client_ended = true;
            let keep = self.random.usize(0..=pipe.up.chunks.len());
            pipe.up.chunks.truncate(keep);
            self.push_up(id, Chunk::Reset);
        }
        self.actors[actor].core.handle_closed(self.now);
        self.drain_client(actor);
    }
}

// ---- Clients.
impl World {
    /// Carries out what a client core wants after any change.
    pub(crate) fn drain_client(&mut self, actor: usize) {
        loop {
            let output = self.actors[actor].core.poll_output();
            if let Some(bytes) = &output
                && let Some(id) = self.actors[actor].pipe
            {
                self.send_up(id, bytes);
            }
            let event = self.actors[actor].core.poll_event();
            if output.is_none() && event.is_none() {
                break;
            }
            if let Some(event) = event {
                self.on_told(actor, event);
            }
        }
        let player = &mut self.actors[actor];
        if !player.core.is_attached()
            && let Some(id) = player.pipe.take()
        {
            self.pipes[id.0].client_ended = true;
            self.push_up(id, Chunk::EndOfStream);
            self.skip_unread(id);
        }
        self.arm_client(actor);
    }

    fn skip_unread(&mut self, id: PipeId) {
        for chunk in std::mem::take(&mut self.pipes[id.0].unread) {
            if let Chunk::Bytes(bytes) = chunk {
                self.read(id, bytes.len());
            }
        }
    }

    fn arm_client(&mut self, actor: usize) {
        let player = &mut self.actors[actor];
        let Some(due) = player.core.poll_timeout() else { return };
        if player.armed.is_none_or(|armed| due < armed) {
            player.armed = Some(due);
            self.events.push(due.max(self.now), Event::ClientTimer { actor });
        }
    }

    fn client_timer(&mut self, actor: usize) {
        self.actors[actor].armed = None;
        self.actors[actor].core.handle_timeout(self.now);
        self.drain_client(actor);
    }

    fn on_told(&mut self, actor: usize, event: Told) {
        match event {
            Told::Connected { session_present, .. } => {
                self.tell(|| format!("client {actor} is connected, session present {session_present}"));
                let player = &mut self.actors[actor];
                player.was_connected = true;
                player.core.set_clean_start(!player.character.persistent);
                self.oracle.on_connected(actor, self.now, session_present);
            }
            Told::Refused { reason, .. } => {
                self.tell(|| format!("client {actor} is refused: {reason}"));
                self.lost_connection(actor, false);
            }
            Told::Message(message) => self.on_message(actor, &message),
            Told::PublishDone { token, reason } => {
                let Some(id) = self.actors[actor].publishing.remove(&token) else { return };
                if self.oracle.publication(id).qos > QoS::AtMostOnce {
                    self.tell(|| format!("publication {} of client {actor} is done: {reason}", id.0));
                    self.oracle.on_publish_done(id, self.now, reason);
                }
            }
            Told::Subscribed { token, reasons } => {
                let Some(Asked::Subscribe(numbers)) = self.actors[actor].requests.remove(&token) else {
                    return;
                };
                for (number, reason) in numbers.into_iter().zip(reasons) {
                    self.tell(|| format!("client {actor} is subscribed ({number}): {reason}"));
                    self.oracle.on_suback(number, self.now, reason);
                }
            }
            Told::Unsubscribed { token, .. } => {
                let Some(Asked::Unsubscribe(filter, number)) = self.actors[actor].requests.remove(&token)
                else {
                    return;
                };
                self.tell(|| format!("client {actor} is unsubscribed from {filter}"));
                self.oracle.on_unsuback(actor, &filter, number, self.now);
            }
            Told::Lost { token } => {
                self.actors[actor].requests.remove(&token);
                if let Some(id) = self.actors[actor].publishing.remove(&token) {
                    self.oracle.on_repeated(id);
                }
            }
            Told::Disconnected(closed) => self.on_disconnected(actor, &closed),
            Told::Pong | Told::Auth { .. } => {}
        }
    }

    fn on_disconnected(&mut self, actor: usize, closed: &Closed) {
        self.tell(|| format!("client {actor} is disconnected: {closed}"));
        if let Closed::Violation(violation) = closed {
            self.oracle.accuse(format!("client {actor}: the broker broke the protocol: {violation}"));
        }
        let farewell =
            matches!(closed, Closed::ByUs { reason } if *reason == ReasonCode::NORMAL_DISCONNECTION);
        self.lost_connection(actor, farewell);
    }

    fn lost_connection(&mut self, actor: usize, farewell: bool) {
        let player = &mut self.actors[actor];
        let unsure: Vec<_> = player.publishing.values().copied().collect();
        let (will, connected) = (player.will, player.was_connected);
        let delayed = player.character.will_delay_s > 0;
        if farewell && let Some(pipe) = player.pipe {
            let pipe = &mut self.pipes[pipe.0];
            pipe.farewell = will.map(|will| (will, pipe.sent_bytes));
        }
        for id in unsure {
            self.oracle.on_repeated(id);
        }
        if let Some(will) = will {
            self.oracle.on_will(will, connected && !farewell && !delayed, 1);
        }
    }

    fn on_message(&mut self, actor: usize, message: &quelea_client::Message) {
        self.last_delivery = self.now;
        let id = self.oracle.on_message(actor, self.now, message);
        self.tell(|| {
            format!(
                "client {actor} gets {} on {}, {:?}, dup {}, retain {}",
                id.map_or("something".to_owned(), |id| format!("publication {}", id.0)),
                message.topic,
                message.qos,
                message.dup,
                message.retain
            )
        });
        if self.actors[actor].character.role == Role::Probe
            && let Some(id) = id
        {
            self.actors[actor].found.insert(message.topic.clone(), id);
        }
        let Some(token) = message.ack else { return };
        let late = self.actors[actor].character.slow_acks && self.phase == Act::Storm;
        let delay = if late { self.micros(0..300_000) } else { Duration::ZERO };
        let due = self.now + delay;
        let due = self.actors[actor].acks.back().map_or(due, |(last, _)| due.max(*last));
        self.actors[actor].acks.push_back((due, token));
        if due > self.now {
            self.events.push(due, Event::Acks { actor });
        } else {
            self.ack_due(actor);
        }
    }

    fn send_acks(&mut self, actor: usize) {
        self.ack_due(actor);
        self.drain_client(actor);
    }

    fn ack_due(&mut self, actor: usize) {
        let now = self.now;
        let player = &mut self.actors[actor];
        while let Some((due, token)) = player.acks.front().copied()
            && due <= now
        {
            player.acks.pop_front();
            // Stale if a QoS 1 message's connection was lost: the broker delivers it again. One of QoS 2 stays ours.
            let _ = player.core.ack(now, token);
        }
    }
}
