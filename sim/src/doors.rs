//! Byte streams that come through layers: TLS, WebSocket and PROXY headers between the client core and the pipe.
//!
//! ```text
//!  core ──► ClientLayers ──► [mishap: silent, reset, cut, a changed bit] ──► pipe ──► the shard's layers ──► MQTT
//!  core ◄── ClientLayers ◄──────────────────────────────────────────────── pipe ◄── the shard's layers ◄──
//! ```
//! What is held against the broker beside what MQTT promises: layers never fail but by what the client did to them; a
//! stream that the broker ends in order ends with the closing words of every layer; CONNECT is understood, pings are answered; the
//! client is whom the PROXY header names; a door that is full is not read.

use core::ops::Range;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quelea_shard::door::{DoorKind, DoorKindId, Origins, ProxyRules, WebSocketRules};
use quelea_shard::{DoorId, Shard, Work};

use crate::crypto::{DoorClients, doors_of};
use crate::event::Event;
use crate::layers::{ClientLayers, Framing, Kind, PATH, proxy_header};
use crate::node::Effect;
use crate::pipe::{Chunk, Door, PipeId};
use crate::world::{Cut, World};

/// The doors' half of a run, drawn.
#[derive(Clone, Debug)]
pub(crate) struct DoorPlan {
    /// Percent of byte streams that come through layers.
    pub(crate) percent: u32,
    /// Percent of those to which something happens.
    pub(crate) mishap_percent: u32,
    /// Percent of ends without the layers' closing words.
    pub(crate) abrupt_percent: u32,
    /// Percent of writes that mind no limit.
    pub(crate) exceeds_percent: u32,
    pub(crate) framing: Framing,
    /// Streams of one kind that one shard serves.
    pub(crate) connections_max: usize,
    /// The same of one network. All clients that no header names are of one.
    pub(crate) per_prefix_max: usize,
    /// What each look at the clock costs a shard: handshakes have a budget of time.
    pub(crate) tick: Duration,
    /// Between two callers who never say CONNECT.
    pub(crate) caller_us: Option<Range<u64>>,
}

impl DoorPlan {
    pub(crate) fn draw(clients: usize, random: &mut fastrand::Rng) -> Self {
        let framing = Framing {
            split_percent: random.u32(0..60),
            ping_percent: random.u32(0..30),
            frame_bytes_max: 1 << random.u32(8..20),
        };
        Self {
            percent: 85,
            mishap_percent: random.u32(0..25),
            abrupt_percent: random.u32(0..100),
            exceeds_percent: random.u32(0..3),
            framing,
            connections_max: random.usize(clients + 1..4 * clients + 8),
            per_prefix_max: random.usize(clients + 1..3 * clients + 8),
            tick: Duration::from_micros([0, 50, 200][random.usize(0..3)]),
            caller_us: (random.u8(0..4) > 0).then(|| 5_000..random.u64(10_000..300_000)),
        }
    }

    /// Nothing goes wrong any more.
    fn calm(&mut self) {
        self.mishap_percent = 0;
        self.exceeds_percent = 0;
        self.framing.ping_percent = 0;
        self.caller_us = None;
    }
}

/// What all streams through doors have in common.
pub(crate) struct Doors {
    clients: DoorClients,
    kinds: Vec<DoorKind>,
    /// The shards' names for them, the same in each.
    ids: Vec<DoorKindId>,
    /// Nothing goes wrong with what begins after it.
    calm_since: Option<Instant>,
}

impl Doors {
    pub(crate) fn new(plan: &DoorPlan, random: &mut fastrand::Rng) -> Self {
        let (clients, tls) = doors_of(random.u64(..));
        let trusted = vec!["10.0.0.0/8".parse().expect("a range")];
        let websocket = Arc::new(WebSocketRules {
            path: PATH.into(),
            origins: Origins::Any,
            frame_bytes_max: plan.framing.frame_bytes_max as u64,
        });
        let kinds = (0..Kind::COUNT).map(|index| {
            let kind = Kind::from_index(index);
            DoorKind {
                proxy: kind.has_proxy().then(|| ProxyRules { trusted: trusted.clone() }),
                tls: kind.has_tls().then(|| tls.clone()),
                websocket: kind.has_websocket().then(|| Arc::clone(&websocket)),
                connections_max: if kind.is_plain() { usize::MAX } else { plan.connections_max },
                connections_per_prefix_max: if kind.is_plain() { usize::MAX } else { plan.per_prefix_max },
                handshakes_per_prefix_max: usize::MAX,
                handshakes_per_site_max: usize::MAX,
            }
        });
        Self { clients, kinds: kinds.collect(), ids: Vec::new(), calm_since: None }
    }

    /// Tells a shard of its doors.
    pub(crate) fn introduce(&mut self, shard: &mut Shard) {
        self.ids = self.kinds.iter().map(|kind| shard.add_door_kind(kind.clone())).collect();
    }
}

/// What happens to a stream when so many bytes were sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mishap {
    /// Nothing leaves any more, and the client is still there.
    Mute(usize),
    /// The client resets it.
    Reset(usize),
    /// The client ends it, without a word.
    End(usize),
    /// A bit of that byte is changed on the way.
    Flip(usize),
}

/// The layers of a pipe.
pub(crate) struct Through {
    pub(crate) kind: Kind,
    pub(crate) layers: ClientLayers,
    /// Whom the PROXY header names.
    named: SocketAddr,
    pub(crate) mishap: Option<Mishap>,
    /// The broker has read CONNECT.
    understood: bool,
    /// The client has left in order and listens to what the broker says last.
    parting: bool,
    /// Nothing leaves any more.
    mute: bool,
    /// What is sent from here on may not be understood.
    tampered: bool,
}

impl Through {
    /// The broker may not hear what the client says last.
    pub(crate) fn is_unheard(&self) -> bool {
        self.mute || self.tampered
    }
}

// ---- Clients.
impl World {
    /// Draws the layers of a client's stream.
    pub(crate) fn draw_door(&mut self, id: PipeId) {
        let Some(plan) = self.plan.doors.clone() else { return };
        if !self.percent(plan.percent) {
            return;
        }
        let kind = Kind::from_index(self.random.usize(1..Kind::COUNT));
        let mut through = self.new_layers(kind, plan.framing);
        if self.percent(plan.mishap_percent) {
            through.mishap = Some(self.draw_mishap(kind));
        }
        self.pipes[id.0].kind = kind;
        self.pipes[id.0].through = Some(Box::new(through));
    }

    pub(crate) fn new_layers(&mut self, kind: Kind, framing: Framing) -> Through {
        let doors = self.doors.as_ref().expect("doors are played");
        let tls = doors.clients.any(&mut self.random);
        let named = SocketAddr::from(([198, 51, 100, self.random.u8(..)], self.random.u16(1_024..u16::MAX)));
        let header = match kind.has_proxy() {
            true => proxy_header(named, self.random.bool(), self.random.usize(0..64)),
            false => Vec::new(),
        };
        let layers = ClientLayers::new(kind, header.into(), tls, framing, self.random.u64(..));
        Through {
            kind,
            layers,
            named,
            mishap: None,
            understood: false,
            parting: false,
            mute: false,
            tampered: false,
        }
    }

    /// Half of them in the middle of the handshakes, half of them later.
    fn draw_mishap(&mut self, kind: Kind) -> Mishap {
        let at = if self.random.bool() { self.random.usize(0..900) } else { self.random.usize(0..8_000) };
        match self.random.u8(0..4) {
            0 => Mishap::Mute(at),
            1 => Mishap::Reset(at),
            2 => Mishap::End(at),
            // Without TLS nobody could tell the change from what was meant.
            _ if kind.has_tls() => Mishap::Flip(PROXY_BYTES_MAX + at),
            _ => Mishap::Mute(at),
        }
    }

    /// The first words of the layers leave with the connection.
    pub(crate) fn begin_layers(&mut self, id: PipeId) {
        if let Some(through) = &self.pipes[id.0].through {
            let kind = through.kind;
            let mishap = through.mishap;
            self.tell(|| match mishap {
                Some(mishap) => format!("stream {} is a {kind}, and there will be {mishap:?}", id.0),
                None => format!("stream {} is a {kind}", id.0),
            });
            self.flush_layers(id);
        }
    }

    /// A client core has written.
    pub(crate) fn write_layers(&mut self, id: PipeId, bytes: &Bytes) {
        let plan = self.plan.doors.as_ref().expect("doors are played");
        let (percent, longest) = (plan.exceeds_percent, plan.framing.frame_bytes_max);
        let exceeds = bytes.len() > longest && self.percent(percent);
        let through = self.pipes[id.0].through.as_mut().expect("it has layers");
        through.tampered |= exceeds && through.kind.has_websocket();
        through.layers.write(bytes, exceeds);
        self.flush_layers(id);
    }

    /// What the layers want sent is sent, as far as its mishap lets it.
    pub(crate) fn flush_layers(&mut self, id: PipeId) {
        loop {
            let sent = self.pipes[id.0].sent_bytes;
            let Some(through) = &mut self.pipes[id.0].through else { return };
            let Some(bytes) = through.layers.poll_output() else { return };
            if through.mute {
                continue;
            }
            let mut bytes = bytes;
            match through.mishap {
                Some(Mishap::Mute(at) | Mishap::Reset(at) | Mishap::End(at)) if at < sent + bytes.len() => {
                    bytes.truncate(at - sent.min(at));
                    through.mute = true;
                    self.events.push(self.now, Event::Mishap { pipe: id });
                }
                Some(Mishap::Flip(at)) if (sent..sent + bytes.len()).contains(&at) => {
                    through.tampered = true;
                    let mut changed = bytes.to_vec();
                    changed[at - sent] ^= 1 << self.random.u8(0..8);
                    bytes = changed.into();
                    self.tell(|| format!("a bit of stream {} is changed", id.0));
                }
                _ => {}
            }
            if !bytes.is_empty() {
                self.send_up(id, &bytes);
            }
        }
    }

    /// A stream has come to its mishap.
    pub(crate) fn mishap(&mut self, id: PipeId) {
        let pipe = &self.pipes[id.0];
        let Some(actor) = pipe.actor.filter(|actor| self.actors[*actor].pipe == Some(id)) else { return };
        match pipe.through.as_ref().and_then(|through| through.mishap) {
            Some(Mishap::Reset(_)) => self.cut(actor, Cut::Reset),
            Some(Mishap::End(_)) => {
                self.tell(|| format!("the stream of client {actor} ends without a word"));
                self.actors[actor].pipe = None;
                self.end_up(id);
                self.actors[actor].core.handle_closed(self.now);
                self.drain_client(actor);
            }
            _ => self.tell(|| format!("nothing of stream {} leaves any more", id.0)),
        }
    }

    /// A client core is done with its stream: the layers' closing words, as far as it minds them, then the end.
    pub(crate) fn end_layers(&mut self, id: PipeId) {
        let Some(plan) = &self.plan.doors else { return };
        let abrupt = plan.abrupt_percent;
        let (close, close_notify) = (!self.percent(abrupt), !self.percent(abrupt));
        let Some(through) = &mut self.pipes[id.0].through else { return };
        through.layers.say_goodbye(close, close_notify);
        let pipe = &mut self.pipes[id.0];
        // What lies unread is read by nobody, and without it TLS cannot go on.
        let listens =
            pipe.unread.is_empty() && pipe.actor.is_some_and(|actor| self.actors[actor].was_connected);
        let through = pipe.through.as_mut().expect("just seen");
        through.parting = listens && !through.is_unheard();
        self.flush_layers(id);
    }

    /// The client's side says nothing more.
    pub(crate) fn end_up(&mut self, id: PipeId) {
        self.pipes[id.0].client_ended = true;
        self.push_up(id, Chunk::EndOfStream);
        self.skip_unread(id);
    }

    /// Bytes have come to a client: those of MQTT in them.
    pub(crate) fn unwrap_layers(&mut self, actor: usize, id: PipeId, bytes: Bytes) -> Bytes {
        let Some(through) = &mut self.pipes[id.0].through else { return bytes };
        let mut mqtt = Vec::new();
        let taken = through.layers.handle_bytes(&bytes, &mut mqtt);
        let unheard = through.is_unheard();
        self.flush_layers(id);
        if let Err(what) = taken {
            self.tell(|| format!("the layers of client {actor} fail: {what}"));
            if !unheard {
                self.oracle.accuse(format!("the layers of client {actor}'s stream fail: {what}"));
            }
            self.cut(actor, Cut::Reset);
        }
        mqtt.into()
    }

    /// The broker has ended a client's stream in order.
    pub(crate) fn judge_end(&mut self, actor: usize, id: PipeId) {
        let pipe = &self.pipes[id.0];
        let Some(through) = &pipe.through else { return };
        let is_calm =
            self.doors.as_ref().and_then(|doors| doors.calm_since).is_some_and(|calm| pipe.began >= calm);
        if is_calm && !through.understood {
            let kind = through.kind;
            self.oracle
                .accuse(format!("client {actor} has said CONNECT on a {kind}, and was not understood"));
        } else if self.actors[actor].was_connected
            && !through.tampered
            && let Some(words) = through.layers.missing_words()
        {
            let kind = through.kind;
            self.oracle.accuse(format!("a {kind} of client {actor} has ended without {words}"));
        }
    }

    /// Something comes to a client that has left.
    pub(crate) fn hear_parting(&mut self, actor: usize, id: PipeId, chunk: &Chunk) {
        let Some(through) = self.pipes[id.0].through.as_mut().filter(|through| through.parting) else {
            return;
        };
        let what = match chunk {
            Chunk::Bytes(bytes) => through.layers.handle_bytes(bytes, &mut Vec::new()).err(),
            Chunk::EndOfStream => through.layers.missing_words().map(|words| format!("there is no {words}")),
            Chunk::Reset => None,
        };
        if let Some(what) = what {
            let kind = through.kind;
            self.oracle.accuse(format!(
                "client {actor} has left in order, and the end of its {kind} is wrong: {what}"
            ));
        }
    }

    /// CONNACK was seen: the broker knows whom it serves.
    pub(crate) fn judge_named(&mut self, actor: usize) {
        let Some(id) = self.actors[actor].pipe else { return };
        let pipe = &self.pipes[id.0];
        let Some(through) = pipe.through.as_ref().filter(|through| through.kind.has_proxy()) else { return };
        let known = self.nodes[pipe.shard].shard.door_peer(DoorId(id.0 as u64));
        let named = through.named;
        if pipe.door == Door::Open && known.is_some_and(|known| known != named) {
            self.oracle.accuse(format!("client {actor} was named {named}, and the broker knows {known:?}"));
        }
    }

    /// A shard has read somebody's CONNECT.
    pub(crate) fn on_connect_read(&mut self, shard: usize, work: &Work) {
        let Work::Authenticate { client_id, .. } = work else { return };
        let actor = self.actors.iter().find(|actor| *actor.character.name == **client_id);
        let Some(id) = actor.and_then(|actor| actor.pipe) else { return };
        let pipe = &mut self.pipes[id.0];
        if let Some(through) = pipe.through.as_mut().filter(|_| pipe.shard == shard) {
            through.understood = true;
        }
    }

    /// The streams that a turn has read from, if that is of interest.
    pub(crate) fn read_from(&self, effects: &[Effect]) -> Vec<PipeId> {
        let read = effects.iter().filter_map(|effect| match effect {
            Effect::Read { door, .. } => Some(PipeId(door.0 as usize)),
            _ => None,
        });
        if self.doors.is_some() { read.collect() } else { Vec::new() }
    }

    /// After a turn that has read from it: a door that is full is paused.
    pub(crate) fn judge_pressure(&mut self, id: PipeId) {
        let pipe = &self.pipes[id.0];
        if pipe.through.is_none() || pipe.paused || pipe.door != Door::Open {
            return;
        }
        let held = self.nodes[pipe.shard].shard.door_received_bytes(DoorId(id.0 as u64));
        if held > RECEIVED_BYTES_MAX {
            self.oracle
                .accuse(format!("{held} bytes wait behind stream {}, which is read all the same", id.0));
        }
    }

    /// The last ping of everyone who is still there was answered.
    pub(crate) fn judge_pongs(&mut self) {
        for actor in 0..self.actors.len() {
            let Some(id) = self.actors[actor].pipe else { continue };
            let Some(through) = &self.pipes[id.0].through else { continue };
            if !through.is_unheard() && !through.layers.is_ponged() {
                self.oracle.accuse(format!("a WebSocket ping of client {actor} was not answered"));
            }
        }
    }

    /// Nothing goes wrong at doors from now on. Who went silent stays so until somebody loses patience; a stream of which
    /// nobody knows what was understood is given up.
    pub(crate) fn calm_doors(&mut self) {
        let Some(plan) = &mut self.plan.doors else { return };
        plan.calm();
        let doors = self.doors.as_mut().expect("they are planned");
        doors.calm_since = Some(self.now);
        for through in self.pipes.iter_mut().filter_map(|pipe| pipe.through.as_mut()) {
            through.layers.calm();
            through.mishap = None;
        }
        for actor in 0..self.actors.len() {
            let through = self.actors[actor].pipe.and_then(|id| self.pipes[id.0].through.as_ref());
            if through.is_some_and(|through| through.tampered) {
                self.cut(actor, Cut::Reset);
            }
        }
    }

    /// Whether what some client says does not leave.
    pub(crate) fn is_anybody_mute(&self) -> bool {
        let through = |id: PipeId| self.pipes[id.0].through.as_ref();
        self.actors.iter().filter_map(|actor| actor.pipe.and_then(through)).any(|through| through.mute)
    }
}

impl World {
    /// What a kind of door is called at the shards.
    pub(crate) fn door_kind(&self, id: PipeId) -> DoorKindId {
        let kind = self.pipes[id.0].kind;
        match &self.doors {
            Some(doors) if !kind.is_plain() => doors.ids[kind.index()],
            _ => DoorKindId::PLAIN,
        }
    }

    /// A door was paused: what its shard has not looked at yet stays with the kernel, as on a real machine.
    pub(crate) fn take_back(&mut self, id: PipeId) {
        if self.plan.doors.is_none() {
            return;
        }
        let pipe = &mut self.pipes[id.0];
        self.nodes[pipe.shard].take_back(DoorId(id.0 as u64), &mut pipe.held);
    }
}

/// A header with the longest extension that is drawn.
const PROXY_BYTES_MAX: usize = 107;

/// What may lie behind a door before it is paused: what is held for MQTT (64 KiB), an incomplete packet (20 KiB), what
/// one batch of input brings.
const RECEIVED_BYTES_MAX: usize = 128 << 10;
