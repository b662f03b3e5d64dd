//! The QUIC connections of a thread: one endpoint over a UDP socket for each source address.
//!
//! A train (GSO) holds datagrams of one connection only, as the endpoint packs them: a broker that steers by connection ID gets
//! a train whole, at the shard of its first datagram.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use quelea_client::quic::crypto;
use quelea_client::quic::crypto::rustls::QuicClientConfig;
use quelea_client::quic::{CloseWhy, ConnId, Endpoint, EndpointSettings, Event, Path, ReadEnd};
use quelea_udp_io::{Datagram, Outgoing, Ring, UdpId};
use rustls::AlertDescription;

use super::carrier::Carrier;
use super::floor::Floor;
use crate::clock::Nanos;
use crate::plan::Plan;
use crate::tls::ALERT;

pub(super) struct QuicSide {
    pub(super) endpoint: Endpoint,
    crypto: Arc<dyn crypto::ClientConfig>,
    sockets: Vec<UdpId>,
    /// By slot of the connection: client, and socket.
    places: Vec<Place>,
    train: Vec<u8>,
}

#[derive(Clone, Copy, Default)]
struct Place {
    client: usize,
    socket: usize,
}

impl QuicSide {
    /// The endpoint of a thread with so many clients; its sockets go to the ring.
    pub(super) fn new(plan: &Plan, clients: usize, ring: &mut Ring) -> io::Result<Self> {
        let config = plan.tls.clone().expect("a plan over QUIC has its TLS configuration");
        let crypto = QuicClientConfig::try_from(config).map_err(io::Error::other)?;
        let any = match plan.address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let sources = if plan.sources.is_empty() { vec![any] } else { plan.sources.clone() };
        let mut sockets = Vec::with_capacity(sources.len());
        for source in sources {
            sockets.push(ring.add_udp(UdpSocket::bind(SocketAddr::new(source, 0))?)?);
        }
        let window = WINDOW_BYTES.max(4 * plan.load.payload_bytes as u64);
        let settings = EndpointSettings {
            // Those that wind down keep their place for a while.
            connections_max: 2 * clients + 64,
            handshake_timeout: plan.reach.connect_timeout,
            receive_window: u32::try_from(window).unwrap_or(u32::MAX),
            send_window: window,
            ..EndpointSettings::default()
        };
        let mut seed = [0; 32];
        // Connection IDs are secrets of a kind: not from the plan's seed.
        fastrand::fill(&mut seed);
        Ok(Self {
            endpoint: Endpoint::new(&settings, seed),
            crypto: Arc::new(crypto),
            sockets,
            places: Vec::new(),
            train: Vec::new(),
        })
    }

    /// Begins a connection for a client.
    pub(super) fn connect(
        &mut self,
        plan: &Plan,
        instant: Instant,
        client: usize,
        number: u32,
    ) -> Result<ConnId, String> {
        let crypto = Arc::clone(&self.crypto);
        let conn = self
            .endpoint
            .connect(instant, plan.address, &plan.target().host, crypto)
            .map_err(|refused| refused.to_string())?;
        let slot = conn.slot as usize;
        if self.places.len() <= slot {
            self.places.resize(slot + 1, Place::default());
        }
        self.places[slot] = Place { client, socket: number as usize % self.sockets.len() };
        Ok(conn)
    }

    pub(super) fn handle_datagram(&mut self, instant: Instant, datagram: &Datagram<'_>) {
        let from = Path { peer: datagram.peer, local: datagram.local, ecn: datagram.ecn };
        self.endpoint.handle_datagram(instant, from, BytesMut::from(datagram.bytes));
    }

    /// Hands all that is to be sent to the ring.
    pub(super) fn transmit(&mut self, instant: Instant, ring: &mut Ring) -> io::Result<()> {
        let mut queued = 0;
        while let Some(transmit) = self.endpoint.poll_transmit(instant, DATAGRAMS_PER_TRAIN, &mut self.train)
        {
            let socket = transmit.conn.map_or(0, |conn| self.places[conn.slot as usize].socket);
            ring.send(&Outgoing {
                udp: self.sockets[socket],
                destination: transmit.destination,
                source: transmit.source,
                ecn: transmit.ecn,
                segment_bytes: transmit.segment_bytes,
                contents: &self.train[..transmit.bytes],
            });
            queued += 1;
            if queued == SENDS_PER_FLUSH {
                ring.flush()?;
                queued = 0;
            }
        }
        Ok(())
    }
}

impl Floor {
    /// Acts on everything that the endpoint has to tell.
    pub(super) fn follow_quic(&mut self) {
        while let Some(event) = self.quic.as_mut().and_then(|quic| quic.endpoint.poll_event()) {
            let (Event::Connected { conn }
            | Event::Readable { conn }
            | Event::Writable { conn }
            | Event::Finished { conn }
            | Event::Stopped { conn, .. }
            | Event::Closed { conn, .. }) = event;
            let Some(local) = self.client_of_conn(conn) else { continue };
            self.mark_dirty(local);
            match event {
                Event::Connected { .. } => {
                    if let Carrier::Quic(quic) = &mut self.clients[local].carrier {
                        quic.open = true;
                    }
                }
                Event::Readable { .. } => self.read_quic(local, conn),
                Event::Writable { .. } => {}
                Event::Finished { .. } => self.close_quic(conn),
                Event::Stopped { .. } => {
                    let instant = Instant::now();
                    self.end_input(local, instant);
                }
                Event::Closed { why, .. } => self.on_quic_closed(local, &why),
            }
        }
    }

    /// The client whose connection this is now.
    fn client_of_conn(&self, conn: ConnId) -> Option<usize> {
        let place = self.quic.as_ref()?.places.get(conn.slot as usize)?;
        self.clients.get(place.client).filter(|client| client.carrier.is_conn(conn)).map(|_| place.client)
    }

    /// Reads what has arrived, unless the client still holds what it could not take.
    pub(super) fn read_quic(&mut self, local: usize, conn: ConnId) {
        let mut bytes = std::mem::take(&mut self.plain);
        while self.clients[local].held.is_empty() {
            let Some(quic) = &mut self.quic else { break };
            bytes.clear();
            let end = quic.endpoint.read(conn, READ_BYTES_MAX, |chunk| bytes.extend_from_slice(chunk));
            let instant = Instant::now();
            let taken = self.feed(local, instant, &bytes);
            self.clients[local].held.extend_from_slice(&bytes[taken..]);
            match end {
                ReadEnd::More => {}
                ReadEnd::Blocked | ReadEnd::Gone => break,
                ReadEnd::Finished | ReadEnd::Reset(_) => {
                    self.end_input(local, instant);
                    break;
                }
            }
        }
        self.plain = bytes;
    }

    /// Everything is said and acknowledged.
    pub(super) fn close_quic(&mut self, conn: ConnId) {
        if let Some(quic) = &mut self.quic {
            quic.endpoint.close(Instant::now(), conn, 0, b"");
        }
    }

    fn on_quic_closed(&mut self, local: usize, why: &CloseWhy) {
        let client = &mut self.clients[local];
        let was_open = matches!(&client.carrier, Carrier::Quic(quic) if quic.open);
        client.carrier = Carrier::None;
        if client.core.is_attached() {
            self.note_transport_error(local, &format!("QUIC: {}", words(why, was_open)));
        }
        let instant = Instant::now();
        self.end_input(local, instant);
    }

    /// Writes what a client has to say to its stream. Returns false if there was nothing.
    pub(super) fn write_quic(&mut self, local: usize) -> bool {
        let (Some(side), client) = (&mut self.quic, &mut self.clients[local]) else { return false };
        let Carrier::Quic(quic) = &mut client.carrier else { return false };
        let mut wrote = false;
        while quic.open {
            if quic.unsent.is_empty() {
                let Some(output) = client.core.poll_output() else { break };
                quic.unsent = output;
                wrote = true;
            }
            let taken = side.endpoint.write(quic.conn, &quic.unsent);
            quic.unsent = quic.unsent.slice(taken..);
            if !quic.unsent.is_empty() {
                // `Writable` follows.
                return wrote;
            }
        }
        if !client.core.is_attached() && !std::mem::replace(&mut quic.finished, true) {
            if quic.open {
                side.endpoint.finish(quic.conn);
            } else {
                side.endpoint.close(Instant::now(), quic.conn, 0, b"");
            }
        }
        wrote
    }

    pub(super) fn transmit(&mut self, ring: &mut Ring) -> io::Result<()> {
        match &mut self.quic {
            Some(quic) => quic.transmit(Instant::now(), ring),
            None => Ok(()),
        }
    }

    pub(super) fn quic_wake(&self) -> Option<Nanos> {
        let at = self.quic.as_ref()?.endpoint.poll_timeout()?;
        Some(self.clock.nanos_at(at))
    }
}

fn words(why: &CloseWhy, was_open: bool) -> String {
    match why {
        // Our own half of the handshake was done: it is the broker that does not like ours.
        CloseWhy::Transport(code, _) if was_open && code >> 8 == CRYPTO_ERRORS => {
            format!("{ALERT}{:?}", AlertDescription::from(*code as u8))
        }
        CloseWhy::Application(code, reason) => {
            format!("closed by the broker with {code} {}", String::from_utf8_lossy(reason))
        }
        CloseWhy::Transport(code, text) => format!("error {code:#x} {text}"),
        CloseWhy::HandshakeTimeout => "the handshake timed out".into(),
        CloseWhy::IdleTimeout => "nothing was heard for the idle timeout".into(),
        CloseWhy::Reset => "the broker has lost the connection's state".into(),
        CloseWhy::LocallyClosed => "closed by us".into(),
        CloseWhy::VersionMismatch => "no common version".into(),
    }
}

/// RFC 9000 §20.1: 0x01 before the number of an alert.
const CRYPTO_ERRORS: u64 = 0x01;
/// Credit in each direction; larger messages get room for four.
const WINDOW_BYTES: u64 = 256 << 10;
const READ_BYTES_MAX: usize = 64 << 10;
const DATAGRAMS_PER_TRAIN: usize = 16;
/// Trains handed to the ring before they are handed on to the kernel: well below what the ring has room for.
const SENDS_PER_FLUSH: usize = 48;
