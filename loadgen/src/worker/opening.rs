//! Connections, from the time at which they are meant to begin to the decision what becomes of a client that has lost its own.
//!
//! ```text
//!   Waiting ── its time ──▶ Opening ── CONNACK, SUBACK ──▶ Ready
//!      ▲                       │ refused, timed out          │ lost
//!      └──── --reconnect ──────┴──────────┬──────────────────┘
//!                                         └── else ──▶ Ended
//! ```

use std::cmp::Reverse;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use quelea_udp_io::{Close, Ring};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::carrier::{Carrier, Layers, Quic, Stream};
use super::client::Stage;
use super::floor::Floor;
use crate::clock::{Nanos, SECOND, nanos_of};
use crate::shared::Phase;

impl Floor {
    /// Every client gets its time: the ramp is open loop, too.
    pub(super) fn begin_ramp(&mut self, ramp_at: Nanos) {
        let per_s = self.plan.reach.connect_rate;
        for (local, client) in self.clients.iter_mut().enumerate() {
            client.meant_at = ramp_at + (f64::from(client.number) * SECOND as f64 / per_s) as u64;
            self.opens.push(Reverse((client.meant_at, local)));
        }
    }

    /// Opens the connections whose time has come.
    pub(super) fn open_due(&mut self, now: Nanos, ring: &mut Ring) {
        while let Some(Reverse((at, local))) = self.opens.peek().copied() {
            if at > now {
                return;
            }
            self.opens.pop();
            if let Err(error) = self.open(local, ring) {
                self.links.errors.note(&error);
                self.on_gone(local, now);
            }
        }
    }

    fn open(&mut self, local: usize, ring: &mut Ring) -> Result<(), String> {
        self.drop_carrier(local, ring);
        let instant = Instant::now();
        let number = self.clients[local].number;
        let carrier = match &mut self.quic {
            Some(quic) => Carrier::Quic(Quic::new(quic.connect(&self.plan, instant, local, number)?)),
            None => {
                let sources = &self.plan.sources;
                let source = sources.get(number as usize % sources.len().max(1));
                let layers = Layers::new(&self.plan, number)?;
                let stream = connect(self.plan.address, source.map(|ip| SocketAddr::new(*ip, 0)));
                let door =
                    stream.and_then(|stream| ring.add_stream(stream)).map_err(|error| words(&error))?;
                self.by_door.insert(door.into(), local);
                Carrier::Stream(Stream::new(door, layers))
            }
        };
        let client = &mut self.clients[local];
        client.attach(carrier);
        client.core.connect(instant).map_err(|refusal| refusal.to_string())?;
        self.arm_timer(local);
        self.mark_dirty(local);
        Ok(())
    }

    /// Ends what is left of an earlier connection.
    fn drop_carrier(&mut self, local: usize, ring: &mut Ring) {
        match std::mem::replace(&mut self.clients[local].carrier, Carrier::None) {
            Carrier::None => {}
            Carrier::Stream(stream) => {
                ring.close(stream.door, Close::Abort);
                self.forget_door(stream.door);
            }
            Carrier::Quic(quic) => self.close_quic(quic.conn),
        }
    }

    /// A client's connection, or its attempt, is over.
    pub(super) fn on_gone(&mut self, local: usize, now: Nanos) {
        let leaving = self.phase == Phase::Leave;
        let client = &mut self.clients[local];
        let was_open = client.stage != Stage::Ended;
        if !was_open {
            return;
        }
        if client.was_ready && client.stage == Stage::Ready && !leaving {
            self.links.lost += 1;
        }
        match self.plan.reach.reconnect {
            Some(after) if !leaving => {
                client.stage = Stage::Waiting;
                client.meant_at = now + nanos_of(after);
                // The first attempt may have failed before there was a session.
                client.core.set_clean_start(!client.was_ready);
                self.opens.push(Reverse((client.meant_at, local)));
            }
            _ => {
                client.stage = Stage::Ended;
                if !client.was_ready && !leaving {
                    self.links.failed += 1;
                }
                self.give_up(local);
            }
        }
    }
}

fn words(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::AddrNotAvailable {
        return "no local port is left: give more addresses by --bind".to_owned();
    }
    error.to_string()
}

/// Begins to connect.
fn connect(to: SocketAddr, from: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(from) = from {
        socket.bind(&SockAddr::from(from))?;
    }
    match socket.connect(&SockAddr::from(to)) {
        Ok(()) => {}
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}
