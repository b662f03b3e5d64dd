//! The network between clients and shards: what is written arrives late, in pieces, or not at all.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use quelea_shard::{DoorEnd, DoorId};

use crate::actor::Role;
use crate::event::Event;
use crate::node::Input;
use crate::pipe::{Chunk, Door, KERNEL_BYTES, Pipe, PipeId};
use crate::trace::Kind;
use crate::world::{Cut, World};

impl World {
    /// A client opens a connection to a shard and sends CONNECT.
    pub(crate) fn open(&mut self, actor: usize, shard: usize) {
        let how = match self.actors[actor].character.quic {
            true => {
                self.open_line(actor, shard);
                format!("QUIC connection {}", self.lines.len() - 1)
            }
            false => {
                self.open_pipe(actor, shard);
                format!("stream {}", self.pipes.len() - 1)
            }
        };
        let player = &mut self.actors[actor];
        player.connections += 1;
        player.skew_at_connect = self.skew;
        player.was_connected = false;
        player.fresh = false;
        let clean = player.core.options().clean_start;
        let persistent = player.character.persistent;
        player.core.connect(self.now).expect("the core is detached and its options are sound");
        let start = if clean { ", with a clean start" } else { "" };
        self.tell(|| format!("client {actor} connects to shard {shard} by {how}{start}"));
        self.oracle.on_connect(actor, self.broker_now(), clean, persistent);
        self.drain_client(actor);
    }

    fn open_pipe(&mut self, actor: usize, shard: usize) {
        let id = PipeId(self.pipes.len());
        let mut pipe = Pipe::new(self.now, Some(actor), shard);
        let delay = self.micros(self.plan.wire.delay_us.clone());
        pipe.up.last_arrival = self.now + delay;
        self.pipes.push(pipe);
        self.events.push(self.now + delay, Event::Opened { pipe: id });
        self.actors[actor].pipe = Some(id);
        if self.actors[actor].character.role == Role::Player {
            self.draw_door(id);
            self.begin_layers(id);
        }
    }

    pub(crate) fn opened(&mut self, id: PipeId) {
        let pipe = &mut self.pipes[id.0];
        pipe.opened = true;
        let ours = pipe.actor.map(|actor| SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), actor as u16)));
        let peer = ours.or(pipe.caller.as_ref().map(|caller| caller.address)).expect("somebody's");
        let shard = pipe.shard;
        let kind = self.door_kind(id);
        self.input(shard, Input::Opened(DoorId(id.0 as u64), peer, kind));
    }

    /// Pieces of what is written: often one, sometimes down to single bytes.
    pub(crate) fn pieces(&mut self, bytes: &Bytes) -> Vec<Bytes> {
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

    pub(crate) fn send_up(&mut self, id: PipeId, bytes: &Bytes) {
        let at = self.at();
        self.trace.bytes(at, Kind::ToServer, id.0 as u64, bytes);
        self.pipes[id.0].sent_bytes += bytes.len();
        for piece in self.pieces(bytes) {
            self.push_up(id, Chunk::Bytes(piece));
        }
    }

    pub(crate) fn push_up(&mut self, id: PipeId, chunk: Chunk) {
        let delay = self.micros(self.plan.wire.delay_us.clone());
        let flow = &mut self.pipes[id.0].up;
        let arrival = flow.last_arrival.max(self.now + delay);
        flow.last_arrival = arrival;
        flow.chunks.push_back(chunk);
        self.events.push(arrival, Event::ToServer { pipe: id });
    }

    pub(crate) fn send_down(&mut self, id: PipeId, chunk: Chunk) {
        let delay = self.micros(self.plan.wire.delay_us.clone());
        let flow = &mut self.pipes[id.0].down;
        let arrival = flow.last_arrival.max(self.now + delay);
        flow.last_arrival = arrival;
        flow.chunks.push_back(chunk);
        self.events.push(arrival, Event::ToClient { pipe: id });
    }

    pub(crate) fn write_down(&mut self, id: PipeId, bytes: &Bytes) {
        let pipe = &mut self.pipes[id.0];
        assert!(!pipe.writing, "one write at a time");
        pipe.writing = true;
        pipe.down_bytes += bytes.len();
        for piece in self.pieces(bytes) {
            self.send_down(id, Chunk::Bytes(piece));
        }
        self.complete_write(id);
    }

    /// The write in flight is complete soon, unless too much is unread.
    pub(crate) fn complete_write(&mut self, id: PipeId) {
        let pipe = &mut self.pipes[id.0];
        pipe.write_waits = pipe.down_bytes > KERNEL_BYTES;
        if !pipe.write_waits {
            let delay = self.micros(self.plan.wire.write_us.clone());
            self.events.push(self.now + delay, Event::Written { pipe: id });
        }
    }

    pub(crate) fn written(&mut self, id: PipeId) {
        let pipe = &mut self.pipes[id.0];
        pipe.writing = false;
        let shard = pipe.shard;
        if pipe.door != Door::Gone {
            self.input(shard, Input::Written(DoorId(id.0 as u64)));
        }
    }

    pub(crate) fn arrive_at_server(&mut self, id: PipeId) {
        let pipe = &mut self.pipes[id.0];
        // What was cut off from a stream that was reset had an event, too.
        let Some(chunk) = pipe.up.chunks.pop_front() else { return };
        if pipe.paused && !matches!(chunk, Chunk::Reset) {
            pipe.held.push_back(chunk);
            return;
        }
        self.hand_to_server(id, chunk);
    }

    pub(crate) fn hand_to_server(&mut self, id: PipeId, chunk: Chunk) {
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

    pub(crate) fn arrive_at_client(&mut self, id: PipeId) {
        let pipe = &mut self.pipes[id.0];
        let chunk = pipe.down.chunks.pop_front().expect("an event for each chunk");
        let Some(actor) = pipe.actor else { return self.hand_to_caller(id, chunk) };
        if self.actors[actor].pipe != Some(id) {
            self.hear_parting(actor, id, &chunk);
            let pipe = &self.pipes[id.0];
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
    pub(crate) fn read(&mut self, id: PipeId, bytes: usize) {
        let pipe = &mut self.pipes[id.0];
        pipe.down_bytes -= bytes;
        if pipe.write_waits {
            self.complete_write(id);
        }
    }

    pub(crate) fn unstall(&mut self, actor: usize) {
        self.actors[actor].stalled = false;
        if let Some(line) = self.actors[actor].line
            && self.lines[line.0].readable
        {
            self.read_line(line);
        }
        let Some(id) = self.actors[actor].pipe else { return };
        while self.actors[actor].pipe == Some(id)
            && let Some(chunk) = self.pipes[id.0].unread.pop_front()
        {
            self.hand_to_client(actor, id, chunk);
        }
    }

    pub(crate) fn hand_to_client(&mut self, actor: usize, id: PipeId, chunk: Chunk) {
        match chunk {
            Chunk::Bytes(bytes) => {
                let at = self.at();
                self.trace.bytes(at, Kind::ToClient, id.0 as u64, &bytes);
                self.read(id, bytes.len());
                let bytes = self.unwrap_layers(actor, id, bytes);
                let mut taken = 0;
                while taken < bytes.len() {
                    taken += self.actors[actor].core.handle_bytes(self.now, &bytes[taken..]);
                    self.drain_client(actor);
                }
            }
            Chunk::EndOfStream | Chunk::Reset => {
                self.tell(|| format!("the broker has ended the connection of client {actor} ({chunk:?})"));
                if matches!(chunk, Chunk::EndOfStream) {
                    self.judge_end(actor, id);
                }
                self.actors[actor].core.handle_closed(self.now);
                self.drain_client(actor);
            }
        }
    }

    /// A client's connection fails.
    pub(crate) fn cut(&mut self, actor: usize, how: Cut) {
        if let Some(line) = self.actors[actor].line.take() {
            self.tell(|| format!("the QUIC connection of client {actor} fails: {how:?}"));
            self.cut_line(line, how);
            self.actors[actor].core.handle_closed(self.now);
            return self.drain_client(actor);
        }
        let Some(id) = self.actors[actor].pipe.take() else { return };
        self.tell(|| format!("the connection of client {actor} fails: {how:?}"));
        let pipe = &mut self.pipes[id.0];
        pipe.abandoned = true;
        if how == Cut::Reset {
            self.actors[actor].reset_at = Some(self.now);
            pipe.client_ended = true;
            let keep = self.random.usize(0..=pipe.up.chunks.len());
            pipe.up.chunks.truncate(keep);
            self.push_up(id, Chunk::Reset);
        }
        self.actors[actor].core.handle_closed(self.now);
        self.drain_client(actor);
    }
}
