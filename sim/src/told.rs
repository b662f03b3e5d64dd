//! What client cores tell: carried out on their connections, and handed to the oracle.

use std::time::Duration;

use bytes::Bytes;
use quelea_client::{Closed, Event as Told};
use quelea_mqtt::{QoS, ReasonCode, Version};

use crate::actor::{Asked, Echo, Role};
use crate::event::Event;
use crate::line::Parting;
use crate::oracle::Delayed;
use crate::pipe::{Chunk, PipeId};
use crate::world::{Act, World};

impl World {
    /// Carries out what a client core wants after any change.
    pub(crate) fn drain_client(&mut self, actor: usize) {
        loop {
            let takes = self.takes_output(actor);
            let output = takes.then(|| self.actors[actor].core.poll_output()).flatten();
            if let Some(bytes) = &output {
                let bytes = self.refuse_some(actor, bytes);
                self.write(actor, &bytes);
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
            self.end_layers(id);
            self.end_up(id);
        }
        let player = &mut self.actors[actor];
        if !player.core.is_attached()
            && let Some(id) = player.line.take()
        {
            if let Some(rest) = player.core.poll_output() {
                self.write_line(id, &rest);
            }
            self.leave_line(id);
        }
        self.arm_client(actor);
    }

    /// What a QUIC stream has no room for stays in the client core, whose window is bounded.
    pub(crate) fn takes_output(&self, actor: usize) -> bool {
        self.actors[actor].line.is_none_or(|id| self.lines[id.0].unsent.is_empty())
    }

    fn write(&mut self, actor: usize, bytes: &Bytes) {
        if let Some(id) = self.actors[actor].pipe {
            match self.pipes[id.0].through {
                Some(_) => self.write_layers(id, bytes),
                None => self.send_up(id, bytes),
            }
        } else if let Some(id) = self.actors[actor].line {
            self.write_line(id, bytes);
        }
    }

    pub(crate) fn skip_unread(&mut self, id: PipeId) {
        for chunk in std::mem::take(&mut self.pipes[id.0].unread) {
            if let Chunk::Bytes(bytes) = chunk {
                self.read(id, bytes.len());
            }
        }
    }

    pub(crate) fn arm_client(&mut self, actor: usize) {
        let player = &mut self.actors[actor];
        let Some(due) = player.core.poll_timeout() else { return };
        if player.armed.is_none_or(|armed| due < armed) {
            player.armed = Some(due);
            self.events.push(due.max(self.now), Event::ClientTimer { actor });
        }
    }

    pub(crate) fn client_timer(&mut self, actor: usize) {
        self.actors[actor].armed = None;
        self.actors[actor].core.handle_timeout(self.now);
        self.drain_client(actor);
    }

    pub(crate) fn on_told(&mut self, actor: usize, event: Told) {
        match event {
            Told::Connected { session_present, .. } => {
                let session = if session_present { "its session is there" } else { "to a new session" };
                self.tell(|| format!("client {actor} is connected, {session}"));
                let player = &mut self.actors[actor];
                player.was_connected = true;
                player.refused = None;
                player.echo = Echo::default();
                player.core.set_clean_start(!player.character.persistent);
                self.note_jumps(actor);
                self.oracle.on_connected(actor, self.broker_now(), session_present);
                self.judge_let_in(actor);
                self.judge_named(actor);
            }
            Told::Refused { reason, .. } => {
                self.tell(|| format!("client {actor} is refused: {reason}"));
                self.lost_connection(actor, false);
                self.judge_kept_out(actor, reason);
            }
            Told::Message(message) => self.on_message(actor, &message),
            Told::PublishDone { token, reason } => {
                let Some(id) = self.actors[actor].publishing.remove(&token) else { return };
                if self.oracle.publication(id).qos > QoS::AtMostOnce {
                    self.tell(|| format!("publication {} of client {actor} is done: {reason}", id.0));
                    self.oracle.on_publish_done(id, self.broker_now(), reason);
                    self.oracle.judge_publish_reason(id, reason);
                }
            }
            Told::Subscribed { token, reasons } => {
                let Some(Asked::Subscribe(numbers)) = self.actors[actor].requests.remove(&token) else {
                    return;
                };
                for (number, reason) in numbers.into_iter().zip(reasons) {
                    self.tell(|| format!("client {actor} is subscribed ({number}): {reason}"));
                    self.oracle.on_suback(number, self.broker_now(), reason);
                }
            }
            Told::Unsubscribed { token, reasons, .. } => {
                let Some(Asked::Unsubscribe(filters)) = self.actors[actor].requests.remove(&token) else {
                    return;
                };
                self.on_unsubscribed(actor, &filters, &reasons);
            }
            Told::Lost { token } => {
                self.actors[actor].requests.remove(&token);
                if let Some(id) = self.actors[actor].publishing.remove(&token) {
                    self.oracle.on_repeated(id);
                }
            }
            Told::Disconnected(closed) => self.on_disconnected(actor, &closed),
            Told::Pong => self.actors[actor].echo.answered += 1,
            Told::Auth { .. } => {}
        }
    }

    pub(crate) fn on_disconnected(&mut self, actor: usize, closed: &Closed) {
        self.tell(|| format!("client {actor} is disconnected: {closed}"));
        if let Closed::Violation(violation) = closed {
            self.oracle.accuse(format!("client {actor}: the broker broke the protocol: {violation}"));
        }
        let farewell =
            matches!(closed, Closed::ByUs { reason } if *reason == ReasonCode::NORMAL_DISCONNECTION);
        self.lost_connection(actor, farewell);
    }

    pub(crate) fn lost_connection(&mut self, actor: usize, farewell: bool) {
        let at = self.broker_now();
        let player = &mut self.actors[actor];
        if player.was_connected {
            player.parted_at = Some(at);
        }
        let unsure: Vec<_> = player.publishing.values().copied().collect();
        let (will, connected) = (player.will, player.was_connected);
        let character = &player.character;
        let delay_s = if character.version == Version::V5 { character.will_delay_s } else { 0 };
        let session_s = if character.persistent { character.session_expiry_s } else { 0 };
        let delay = Duration::from_secs(delay_s.min(session_s).into());
        let heard_within = match player.reset_at == Some(self.now) {
            true => RESET_HEARD_WITHIN,
            false => Duration::from_secs(character.keep_alive_s.into()) * 3 / 2 + KEEP_ALIVE_SLACK,
        };
        if farewell && let Some(pipe) = player.pipe {
            let pipe = &mut self.pipes[pipe.0];
            pipe.farewell = will.map(|will| (will, pipe.sent_bytes));
        }
        if farewell && let Some(line) = self.actors[actor].line {
            let line = &mut self.lines[line.0];
            let ends_by_broker = line.ends_by_broker;
            line.parting = will.map(|will| Parting { will, ends_by_broker });
        }
        for id in unsure {
            self.oracle.on_repeated(id);
        }
        let Some(will) = will else { return };
        if connected && !farewell && delay > Duration::ZERO && self.plan.jump_us.is_some() {
            // The broker may hear of it before or after a jump.
            self.oracle.on_will(will, false, 1);
        } else if connected && !farewell && delay > Duration::ZERO {
            let (lost, heard_by) = (self.now, self.now + heard_within);
            self.oracle.on_delayed_will(actor, Delayed { will, lost, heard_by, delay, tried: None });
        } else {
            self.oracle.on_will(will, connected && !farewell, 1);
        }
    }

    pub(crate) fn on_message(&mut self, actor: usize, message: &quelea_client::Message) {
        self.last_delivery = self.now;
        let id = self.oracle.on_message(actor, self.broker_now(), message);
        self.tell(|| {
            let what = id.map_or("a publication".to_owned(), |id| format!("publication {}", id.0));
            let dup = if message.dup { ", DUP" } else { "" };
            let retain = if message.retain { ", RETAIN" } else { "" };
            let (topic, qos) = (&message.topic, message.qos.as_u8());
            format!("client {actor} gets {what} on {topic} at QoS {qos}{dup}{retain}")
        });
        if self.actors[actor].character.role == Role::Probe
            && let Some(id) = id
            && !message.payload.is_empty()
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

    pub(crate) fn send_acks(&mut self, actor: usize) {
        self.ack_due(actor);
        self.drain_client(actor);
    }

    pub(crate) fn ack_due(&mut self, actor: usize) {
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

/// A reset overtakes nothing that was sent before it, and a shard that does not run for a while reads it late.
const RESET_HEARD_WITHIN: Duration = Duration::from_secs(1);

/// Until a shard has read the last bytes, and until its timer has run out.
const KEEP_ALIVE_SLACK: Duration = Duration::from_secs(2);
