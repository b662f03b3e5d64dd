//! Clients over QUIC: their processes' turns, and the bytes between client core and stream.
//!
//! ```text
//!  core ──poll_output──► unsent ──write──► endpoint ──► network
//!  core ◄─handle_bytes── (unread while the client stalls) ◄──read── endpoint ◄── network
//! ```
//! A connection whose client core is done with it goes on *leaving*: its last bytes and its end are delivered, what the
//! broker still says is read by nobody, and it is closed when both sides have ended, or at a deadline.

use std::time::Duration;

use bytes::{Buf, Bytes};
use quelea_client::quic::{CloseWhy, Endpoint, Event as Told, ReadEnd};

use crate::crypto::SERVER_NAME;
use crate::event::Event;
use crate::line::{Line, LineId, Way};
use crate::network::BROKER;
use crate::trace::Kind;
use crate::world::{Act, Cut, World};

impl World {
    /// A client begins a QUIC connection to a shard.
    pub(crate) fn open_line(&mut self, actor: usize, shard: usize) {
        let id = self.new_line(Some(actor), shard, actor as u8);
        self.actors[actor].line = Some(id);
        self.lines[id.0].ends_by_broker = self.ends_by_broker();
        self.enter_faults(id);
    }

    pub(crate) fn new_line(&mut self, actor: Option<usize>, shard: usize, prefix: u8) -> LineId {
        let mut seed = [0; 32];
        self.random.fill(&mut seed);
        let aim = self.random.u64(..);
        let plan = self.plan.quic.as_ref().expect("QUIC is played");
        let (settings, bleach) = (plan.client.clone(), plan.weather.bleach_percent);
        let path_bytes = plan.weather.path_bytes;
        let network = self.network.as_ref().expect("QUIC is played");
        let mut endpoint = Endpoint::new(&settings, seed);
        endpoint.set_initial_cids(network.handshakes.aimed_at(shard, aim));
        let crypto = std::sync::Arc::clone(&network.handshakes.client);
        let conn = endpoint.connect(self.now, BROKER, SERVER_NAME, crypto).expect("a valid target");
        let id = LineId(self.lines.len());
        let mut line = Line::new(self.now, actor, endpoint, conn);
        line.address = self.new_address(prefix);
        line.bleached = self.percent(bleach);
        line.path_bytes = path_bytes;
        self.network().addresses.insert(line.address, id);
        self.lines.push(line);
        self.touch_line(id);
        id
    }

    /// The process behind a connection gets a turn, now.
    pub(crate) fn touch_line(&mut self, id: LineId) {
        let line = &mut self.lines[id.0];
        if line.armed != Some(self.now) {
            line.armed = Some(self.now);
            self.events.push(self.now, Event::Line { line: id });
        }
    }

    pub(crate) fn line_turn(&mut self, id: LineId) {
        let now = self.now;
        let line = &mut self.lines[id.0];
        if line.armed.is_some_and(|armed| armed <= now) {
            line.armed = None;
        }
        let Some(endpoint) = &mut line.endpoint else { return };
        endpoint.handle_timeout(now);
        while let Some(event) = self.endpoint(id).and_then(Endpoint::poll_event) {
            self.on_line_event(id, event);
        }
        self.transmit_line(id);
        let Some(endpoint) = self.endpoint(id) else { return };
        if endpoint.connections() == 0 {
            return self.hang_up(id);
        }
        let Some(due) = endpoint.poll_timeout() else { return };
        let line = &mut self.lines[id.0];
        if line.armed.is_none_or(|armed| due < armed) {
            line.armed = Some(due.max(now));
            self.events.push(due.max(now), Event::Line { line: id });
        }
    }

    fn endpoint(&mut self, id: LineId) -> Option<&mut Endpoint> {
        self.lines[id.0].endpoint.as_mut()
    }

    fn transmit_line(&mut self, id: LineId) {
        let segments = self.plan.quic.as_ref().expect("QUIC is played").segments;
        let now = self.now;
        let mut buffer = Vec::new();
        while let Some(transmit) =
            self.endpoint(id).and_then(|endpoint| endpoint.poll_transmit(now, segments, &mut buffer))
        {
            for bytes in buffer.chunks(transmit.segment_bytes.unwrap_or(buffer.len())) {
                self.launch_up(id, transmit.ecn, bytes);
            }
        }
    }

    fn on_line_event(&mut self, id: LineId, event: Told) {
        match event {
            Told::Connected { .. } => {
                self.lines[id.0].connected = true;
                self.tell(|| format!("QUIC connection {} is made", id.0));
                self.flush_line(id);
            }
            Told::Readable { .. } => self.read_line(id),
            Told::Writable { .. } => {
                self.flush_line(id);
                if let Some(actor) = self.owner(id) {
                    self.drain_client(actor);
                }
                if !self.lines[id.0].unheard.is_empty() {
                    self.read_line(id);
                }
            }
            Told::Finished { .. } => {
                self.lines[id.0].finished = true;
                self.part(id);
            }
            Told::Stopped { .. } => self.line_lost(id),
            Told::Closed { why, .. } => {
                self.tell(|| format!("QUIC connection {} has ended: {why:?}", id.0));
                if let CloseWhy::Transport(code, text) = &why
                    && ![CONNECTION_REFUSED, INVALID_TOKEN, NO_VIABLE_PATH].contains(code)
                    && text != FORGED_RETRY
                    && !(*code == FLOW_CONTROL_ERROR && self.lines[id.0].reset)
                {
                    self.oracle.accuse(format!("QUIC connection {}: error {code}, {text}", id.0));
                }
                self.line_lost(id);
            }
        }
    }

    /// The client that uses a connection; not one that has left it.
    fn owner(&self, id: LineId) -> Option<usize> {
        self.lines[id.0].actor.filter(|actor| self.actors[*actor].line == Some(id))
    }

    /// The broker has ended a connection or its stream.
    fn line_lost(&mut self, id: LineId) {
        if let Some(actor) = self.owner(id) {
            self.actors[actor].core.handle_closed(self.now);
            self.drain_client(actor);
        }
    }

    /// A client core has written.
    pub(crate) fn write_line(&mut self, id: LineId, bytes: &Bytes) {
        let at = self.at();
        self.trace.bytes(at, Kind::ToServer, LINES + id.0 as u64, bytes);
        self.lines[id.0].unsent.extend_from_slice(bytes);
        self.flush_line(id);
    }

    /// Hands the stream what fits.
    fn flush_line(&mut self, id: LineId) {
        let line = &mut self.lines[id.0];
        let Some(endpoint) = line.endpoint.as_mut().filter(|_| line.connected) else { return };
        let taken = endpoint.write(line.conn, &line.unsent);
        line.unsent.advance(taken);
        if line.leaving && line.unsent.is_empty() {
            endpoint.finish(line.conn);
        }
        self.touch_line(id);
    }

    /// Reads what has come, unless the client does not.
    pub(crate) fn read_line(&mut self, id: LineId) {
        loop {
            let owner = self.owner(id);
            if owner.is_some_and(|actor| self.actors[actor].stalled) {
                self.lines[id.0].readable = true;
                return;
            }
            if let Some(actor) = owner {
                let unheard = std::mem::take(&mut self.lines[id.0].unheard);
                self.hand_over(actor, id, &unheard);
            }
            let line = &mut self.lines[id.0];
            line.readable = !line.unheard.is_empty();
            if line.readable {
                return;
            }
            let Some(endpoint) = &mut line.endpoint else { return };
            let mut bytes = Vec::new();
            let end = endpoint.read(line.conn, READ_BYTES, |chunk| bytes.extend_from_slice(chunk));
            if let Some(actor) = owner {
                self.hand_over(actor, id, &bytes);
            }
            self.touch_line(id);
            match end {
                ReadEnd::More => {}
                ReadEnd::Blocked => return,
                ReadEnd::Finished => {
                    self.lines[id.0].server_ended = true;
                    self.line_lost(id);
                    return self.part(id);
                }
                ReadEnd::Reset(_) | ReadEnd::Gone => {
                    self.line_lost(id);
                    return self.close_line(id);
                }
            }
        }
    }

    fn hand_over(&mut self, actor: usize, id: LineId, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let at = self.at();
        self.trace.bytes(at, Kind::ToClient, LINES + id.0 as u64, bytes);
        let mut taken = 0;
        while taken < bytes.len() && self.actors[actor].line == Some(id) {
            let took = self.actors[actor].core.handle_bytes(self.now, &bytes[taken..]);
            taken += took;
            self.drain_client(actor);
            if took == 0 && !self.takes_output(actor) {
                // It hears no more until what it has to say is taken.
                return self.lines[id.0].unheard.extend_from_slice(&bytes[taken..]);
            }
        }
    }

    /// A client core is done with its connection: the last bytes are written, then the end of the stream.
    pub(crate) fn leave_line(&mut self, id: LineId) {
        self.lines[id.0].leaving = true;
        let hasty = self.plan.quic.as_ref().expect("QUIC is played").hasty_percent;
        if !self.lines[id.0].connected || self.phase == Act::Storm && self.percent(hasty) {
            return self.close_line(id);
        }
        self.flush_line(id);
        self.events.push(self.now + PARTING, Event::LineLeft { line: id });
        if std::mem::take(&mut self.lines[id.0].readable) {
            self.read_line(id);
        }
    }

    /// Whether a connection that its client has given up is still there: its CONNECT, repeated after long pauses, may reach
    /// the broker yet and take the session over.
    pub(crate) fn is_anybody_leaving(&self) -> bool {
        self.lines.iter().any(|line| line.leaving && line.actor.is_some() && line.endpoint.is_some())
    }

    /// Closes a connection that is being left, when both sides have ended.
    fn part(&mut self, id: LineId) {
        let line = &mut self.lines[id.0];
        if !line.leaving || !line.server_ended || !line.finished {
            return;
        }
        let parting = line.parting.take();
        if let Some(parting) = parting
            && parting.ends_by_broker == self.ends_by_broker()
        {
            self.oracle.on_will(parting.will, false, -1);
        }
        self.close_line(id);
    }

    /// How often the broker has ended a connection, or a session under it, for reasons of its own.
    pub(crate) fn ends_by_broker(&mut self) -> u64 {
        let sum = |node: &mut crate::node::Node| {
            let c = node.shard.counters();
            c.keep_alive_timeouts + c.takeovers + c.slow_disconnects + c.dropped_session_end
        };
        self.nodes.iter_mut().map(sum).sum()
    }

    pub(crate) fn close_line(&mut self, id: LineId) {
        let now = self.now;
        let line = &mut self.lines[id.0];
        if let Some(endpoint) = &mut line.endpoint {
            endpoint.close(now, line.conn, 0, b"");
            self.touch_line(id);
        }
    }

    /// Nobody is at this address any more.
    pub(crate) fn hang_up(&mut self, id: LineId) {
        let line = &mut self.lines[id.0];
        line.endpoint = None;
        let address = line.address;
        self.network().addresses.remove(&address);
    }

    /// A client's QUIC connection fails.
    pub(crate) fn cut_line(&mut self, id: LineId, how: Cut) {
        let now = self.now;
        let choice = self.random.u8(0..3);
        let line = &mut self.lines[id.0];
        line.leaving = true;
        line.unsent.clear();
        let Some(endpoint) = &mut line.endpoint else { return };
        match (how, choice) {
            (Cut::Reset, 0) => {
                line.reset = true;
                endpoint.reset(line.conn, 7);
                endpoint.stop(line.conn, 7);
                self.events.push(now + PARTING, Event::LineLeft { line: id });
            }
            (Cut::Reset, _) => endpoint.close(now, line.conn, 7, b"crash"),
            // The machine is still there and resets what it knows nothing of.
            (Cut::Vanish, 0) => endpoint.forget(line.conn),
            (Cut::Vanish, _) => return self.hang_up(id),
        }
        self.touch_line(id);
    }
}

// ---- Faults that come and go.
impl World {
    fn enter_faults(&mut self, id: LineId) {
        let weather = self.plan.quic.as_ref().expect("QUIC is played").weather.clone();
        if let Some(pause) = weather.rebind_us {
            let at = self.now + self.micros(pause);
            self.events.push(at, Event::Rebind { line: id });
        }
        if let Some(pause) = weather.blackhole_us {
            let at = self.now + self.micros(pause);
            self.events.push(at, Event::Blackhole { line: id });
        }
        if let Some(paths) = weather.paths {
            let at = self.now + self.micros(paths.change_us);
            self.events.push(at, Event::Reroute { line: id });
        }
    }

    /// The network leads a connection over another path, which carries shorter or longer datagrams. Neither side is told.
    pub(crate) fn reroute(&mut self, id: LineId) {
        let paths = self.plan.quic.as_ref().and_then(|plan| plan.weather.paths.clone());
        let Some(paths) = paths.filter(|_| self.lines[id.0].endpoint.is_some()) else { return };
        let path_bytes = self.random.usize(paths.bytes);
        self.lines[id.0].path_bytes = path_bytes;
        self.tell(|| format!("the path of QUIC connection {} carries {path_bytes} bytes now", id.0));
        let at = self.now + self.micros(paths.change_us);
        self.events.push(at, Event::Reroute { line: id });
    }

    /// A connection's address changes: another port of the same host, or another host. Some clients know.
    pub(crate) fn rebind(&mut self, id: LineId) {
        let pause = self.plan.quic.as_ref().and_then(|plan| plan.weather.rebind_us.clone());
        let Some(pause) = pause else { return };
        let Some(actor) = self.lines[id.0].actor.filter(|_| self.lines[id.0].endpoint.is_some()) else {
            return;
        };
        let prefix = if self.random.bool() { actor as u8 } else { 100 + actor as u8 };
        let address = self.new_address(prefix);
        let knows = self.random.bool();
        // Now and then the old address still leads to the client.
        let forgotten = self.percent(70);
        let line = &mut self.lines[id.0];
        let former = std::mem::replace(&mut line.address, address);
        let conn = line.conn;
        if knows && let Some(endpoint) = &mut line.endpoint {
            endpoint.handle_rebound(conn);
        }
        self.tell(|| format!("QUIC connection {} comes from {address} now", id.0));
        let network = self.network();
        network.addresses.insert(address, id);
        if forgotten {
            network.addresses.remove(&former);
        }
        self.touch_line(id);
        let at = self.now + self.micros(pause);
        self.events.push(at, Event::Rebind { line: id });
    }

    /// Nothing passes for a while, in one direction or in both.
    pub(crate) fn blackhole(&mut self, id: LineId) {
        let weather = self.plan.quic.as_ref().expect("QUIC is played").weather.clone();
        let Some(pause) = weather.blackhole_us else { return };
        if self.lines[id.0].endpoint.is_none() {
            return;
        }
        let until = self.now + self.micros(weather.blackhole_lasts_us);
        let ways: &[Way] = match self.random.u8(0..3) {
            0 => &[Way::Up],
            1 => &[Way::Down],
            _ => &[Way::Up, Way::Down],
        };
        ways.iter().for_each(|way| self.lines[id.0].access(*way).dark_until = until);
        self.tell(|| format!("nothing of QUIC connection {} passes {ways:?}", id.0));
        let at = until + self.micros(pause);
        self.events.push(at, Event::Blackhole { line: id });
    }

    /// The network is good from now on.
    pub(crate) fn clear_up(&mut self) {
        let now = self.now;
        let Some(plan) = &mut self.plan.quic else { return };
        plan.weather.calm();
        for line in &mut self.lines {
            for way in [Way::Up, Way::Down] {
                let access = line.access(way);
                access.dark_until = access.dark_until.min(now);
                access.free_at = access.free_at.min(now);
            }
        }
    }
}

/// Where the numbers of QUIC connections begin in the trace, beside those of byte streams.
pub(crate) const LINES: u64 = 1 << 32;

/// How long a client waits for the end of the broker's half (the committee note recommends it).
const PARTING: Duration = Duration::from_secs(10);

/// Read at once.
const READ_BYTES: usize = 4 * 1024;

/// Transport errors that a network may cause (RFC 9000 §20.1).
const CONNECTION_REFUSED: u64 = 0x02;
/// What quinn-proto's server answers now and then to a RESET_STREAM of quinn-proto's client: the connection is given up
/// anyway. See `docs/simulator.md`.
const FLOW_CONTROL_ERROR: u64 = 0x03;
/// A Retry's token is good for one address only.
const INVALID_TOKEN: u64 = 0x0B;
const NO_VIABLE_PATH: u64 = 0x10;
/// What quinn-proto says of a Retry that reaches a server. It closes a handshake for it, although anybody could have sent
/// it: here, the bit that was changed on the way was that of the packet's type.
const FORGED_RETRY: &str = "client sent Retry";
