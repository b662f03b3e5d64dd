//! The QUIC half of very many clients on few sockets (feature `quic-core`): datagrams and the time go in, datagrams and
//! events come out. No socket, no clock, no thread; the load generator drives it over real sockets, the simulator over
//! virtual ones.
//!
//! ```text
//!  handle_datagram ─▶ endpoint ─▶ connection ─▶ poll_event ─▶ Connected, Readable, Writable, Finished, Stopped, Closed
//!  handle_timeout  ─▶ timers ───▶ connection                        │
//!                                     ▲                             ▼
//!  poll_transmit ◀─ list of dirty ────┴──────── connect  write  read  finish  reset  close  forget
//! ```
//! Each connection carries one bidirectional stream, opened by us as soon as the handshake is complete: MQTT's control
//! stream in the single stream profile. What flows on it is the caller's, usually a [`Core`](crate::Core) per connection.
//!
//! **The driver's contract.** After any input or call: [`Endpoint::poll_event`] until `None`, acting on each event; then
//! [`Endpoint::poll_transmit`] until `None`, which also arms the timers; then sleep until [`Endpoint::poll_timeout`].
//!
//! Invariants:
//! * Every `connect` that succeeds is followed by exactly one `Closed`, unless the connection is forgotten; its name finds
//!   nothing afterwards.
//! * A connection is in `dirty` whenever it may have something to send, in `ready` whenever it may have events, and has a
//!   timer when it is not dirty and has a deadline.
//! * Given the seed and a crypto configuration that is deterministic, outputs are a function of the inputs.

mod cids;
mod drive;
mod event;
mod settings;
mod stream;
mod table;
mod timers;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::hmac;
use bytes::Bytes;
use quinn_proto::{
    ClientConfig, ConnectError, ConnectionHandle, ConnectionId, EndpointConfig, EndpointEvent,
    NoneTokenStore, TransportConfig, VarInt,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// quinn-proto's interface to TLS: [`Endpoint::connect`] takes a [`crypto::ClientConfig`], for example
/// [`crypto::rustls::QuicClientConfig`] made from a `rustls::ClientConfig` with ALPN `mqtt`.
pub use quinn_proto::crypto;

pub use cids::SeededCids;
pub use event::{CloseWhy, ConnId, Counters, Event, Path, ReadEnd, Refused, Transmit};
pub use settings::EndpointSettings;

use table::{Entry, Stage, Table};
use timers::Timers;

/// Very many client connections. See the [module](self) for the order of calls.
///
/// *Inputs* take the time: [`handle_datagram`](Self::handle_datagram), [`handle_timeout`](Self::handle_timeout); *calls*
/// are [`connect`](Self::connect) and what follows it; *outputs* are the three `poll_` methods.
pub struct Endpoint {
    endpoint: quinn_proto::Endpoint,
    settings: EndpointSettings,
    transport: Arc<TransportConfig>,
    initial_cids: Arc<dyn Fn() -> ConnectionId + Send + Sync>,
    table: Table,
    timers: Timers,
    /// Connections that may have events.
    ready: VecDeque<u32>,
    /// Connections that may have something to send.
    dirty: VecDeque<u32>,
    /// Answers that belong to no connection: stateless resets.
    stateless: VecDeque<Stateless>,
    /// Where quinn-proto writes them.
    scratch: Vec<u8>,
    counters: Counters,
}

struct Stateless {
    destination: SocketAddr,
    source: Option<IpAddr>,
    bytes: Box<[u8]>,
}

impl Endpoint {
    /// An endpoint without connections. All randomness follows from `seed`: connection IDs, ours and the first ones that
    /// we make up for servers, reset tokens, padding. Outside of a simulation it must be secret.
    ///
    /// # Panics
    /// If a setting is out of its documented range.
    pub fn new(settings: &EndpointSettings, seed: [u8; 32]) -> Self {
        let mut random = StdRng::from_seed(seed);
        let mut draw = || {
            let mut bytes = [0; 32];
            random.fill_bytes(&mut bytes);
            bytes
        };
        let (own_seed, cid_seed, reset_key, initial_seed) = (draw(), draw(), draw(), draw());
        let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &reset_key)));
        config
            .cid_generator(move || Box::new(SeededCids::new(cid_seed)))
            .supported_versions(vec![VERSION_1])
            .rng_seed(Some(own_seed));
        Self {
            endpoint: quinn_proto::Endpoint::new(Arc::new(config), None, true, None),
            settings: settings.clone(),
            transport: Arc::new(settings.transport()),
            initial_cids: cids::initial_cids(initial_seed),
            table: Table::default(),
            timers: Timers::default(),
            ready: VecDeque::new(),
            dirty: VecDeque::new(),
            stateless: VecDeque::new(),
            scratch: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Draws the first destination connection ID of each connection, at least 8 bytes, from elsewhere: whoever knows how
    /// the server spreads them chooses the server's shard.
    pub fn set_initial_cids(&mut self, draw: Arc<dyn Fn() -> ConnectionId + Send + Sync>) {
        self.initial_cids = draw;
    }

    /// Begins a connection. `Connected` or `Closed` follows.
    ///
    /// # Errors
    /// If there are [`EndpointSettings::connections_max`] already, or quinn-proto or the crypto configuration refuses
    /// address or name.
    pub fn connect(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        server_name: &str,
        crypto: Arc<dyn crypto::ClientConfig>,
    ) -> Result<ConnId, Refused> {
        if self.table.live() >= self.settings.connections_max {
            return Err(Refused::Full);
        }
        let mut config = ClientConfig::new(crypto);
        config
            .transport_config(Arc::clone(&self.transport))
            .token_store(Arc::new(NoneTokenStore))
            .initial_dst_cid_provider(Arc::clone(&self.initial_cids));
        let (handle, connection) =
            self.endpoint.connect(now, config, remote, server_name).map_err(|error| match error {
                ConnectError::CidsExhausted => Refused::Full,
                error => Refused::Invalid(error),
            })?;
        let slot = slot_of(handle);
        let until = now + self.settings.handshake_timeout;
        self.table.insert(slot, Entry::new(connection, until));
        self.counters.connects += 1;
        self.mark_ready(slot);
        self.mark_dirty(slot);
        Ok(self.table.name(slot))
    }

    /// Closes a connection with an application code and a reason for people. What is unsent is lost: who wants it
    /// delivered calls [`finish`](Self::finish) first and waits for `Finished`. `Closed` follows.
    ///
    /// # Panics
    /// If `code` is 2^62 or above.
    pub fn close(&mut self, now: Instant, conn: ConnId, code: u64, reason: &[u8]) {
        let Some(entry) = self.table.open_mut(conn) else { return };
        // A connection that has ended by itself tells its own story.
        if entry.connection.is_closed() {
            return;
        }
        entry.connection.close(now, code_of(code), Bytes::copy_from_slice(reason));
        entry.ended = Some(CloseWhy::LocallyClosed);
        self.mark_ready(conn.slot);
        self.mark_dirty(conn.slot);
    }

    /// Drops a connection as a crash does: nothing is sent, nothing is told.
    pub fn forget(&mut self, conn: ConnId) {
        if let Some(entry) = self.table.open_mut(conn) {
            entry.stage = Stage::Lingering;
            entry.drained = true;
            self.mark_ready(conn.slot);
        }
    }

    /// The address that a connection's datagrams leave from has changed, and we know it: another of the server's
    /// connection IDs is used from now on, and a datagram is sent at once (RFC 9000 §9.2, §9.5).
    pub fn handle_rebound(&mut self, conn: ConnId) {
        if let Some(entry) = self.table.open_mut(conn) {
            entry.connection.local_address_changed();
            self.mark_dirty(conn.slot);
        }
    }

    /// Connections, those in handshake and those that wind down included.
    pub fn connections(&self) -> usize {
        self.table.live()
    }

    /// What has been counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Packets that a connection has found lost so far; `None` for one that is gone.
    pub fn packets_lost(&self, conn: ConnId) -> Option<u64> {
        Some(self.table.open(conn)?.connection.stats().path.lost_packets)
    }

    fn mark_ready(&mut self, slot: u32) {
        if let Some(entry) = self.table.get_mut(slot)
            && !std::mem::replace(&mut entry.ready, true)
        {
            self.ready.push_back(slot);
        }
    }

    fn mark_dirty(&mut self, slot: u32) {
        if let Some(entry) = self.table.get_mut(slot)
            && !std::mem::replace(&mut entry.dirty, true)
        {
            self.dirty.push_back(slot);
        }
    }

    /// Frees the slot of a connection that has nothing more to say, here and in quinn-proto.
    fn free(&mut self, slot: u32) {
        let entry = self.table.remove(slot).expect("a slot is freed once");
        debug_assert_eq!(entry.stage, Stage::Lingering, "its end has been told");
        self.timers.disarm(slot);
        self.endpoint.handle_event(handle_of(slot), EndpointEvent::drained());
    }
}

fn handle_of(slot: u32) -> ConnectionHandle {
    ConnectionHandle(slot as usize)
}

fn slot_of(handle: ConnectionHandle) -> u32 {
    u32::try_from(handle.0).expect("connections_max keeps handles small")
}

fn code_of(code: u64) -> VarInt {
    VarInt::from_u64(code).expect("application codes are below 2^62 (RFC 9000 §20.2)")
}

/// QUIC version 1 (RFC 9000 §15).
const VERSION_1: u32 = 1;
