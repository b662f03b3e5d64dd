//! The QUIC half of a shard: datagrams in, streams out, and back; no sockets, no clock, nothing of MQTT.
//!
//! ```text
//!           handle_datagram ─▶ endpoint ─┬▶ connection ─▶ poll_event ─▶ sessions
//!                                        └▶ queue of first packets ─ accept_handshakes ─▶ connection
//!           handle_timeout  ─▶ wheel ─────▶ connection
//! sessions: read write finish reset stop close ─▶ connection ─▶ poll_transmit ─▶ datagrams
//! ```
//!
//! A shell over quinn-proto. What it adds: connections lie in a table of exact size with stale-proof names, timers in
//! a lazy wheel, connection IDs name their shard ([`steering`](crate::steering)), first packets wait in a bounded
//! queue with limits per address prefix, TLS objects are dropped after the handshake, and only connections that
//! something happened to are looked at.
//!
//! Invariants:
//! * Every `Connected` is followed by exactly one `Closed`, and the name finds nothing after it.
//! * A connection is in the list `dirty` whenever it may have something to send, in `ready` whenever it may have
//!   events, in the wheel when it is not dirty and has a deadline.
//! * Given the seed and a TLS provider that is deterministic, outputs are a function of the inputs.

mod admission;
mod cids;
mod counters;
mod event;
mod input;
mod keys;
mod listener;
mod output;
mod session;
mod settings;
mod streams;
mod table;
mod tls;
mod wheel;
mod window;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{
    ConnectionHandle, Endpoint, EndpointConfig, EndpointEvent, NoneTokenLog, ServerConfig, TransportConfig,
    ValidationTokenConfig, VarInt, crypto,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustls::pki_types::CertificateDer;

pub use counters::QuicCounters;
pub use event::{Alpn, CloseWhy, ConnId, Handled, Path, QuicEvent, ReadEnd, StreamId, Transmit, WriteEnd};
pub use listener::{QuicListenerId, QuicListenerLimits};
pub use output::SEGMENTS_MAX;
pub use session::Negotiated;
pub use settings::{Congestion, HANDSHAKE_BYTES, QuicKeys, QuicSettings, SEND_WINDOW_MAX, STREAMS_MAX};
pub use tls::{QuicTls, TlsError};

use crate::refusal::{Refusal, Refusals};
use crate::steering::Steering;
use admission::Admission;
use keys::{ResetKey, TokenClock, TokenKey};
use output::Stateless;
use table::{Stage, Table};
use wheel::Wheel;
use window::{Widened, WindowLimits};

/// The QUIC endpoint of one shard and its connections.
///
/// * *Inputs* take the time: [`handle_datagram`](Self::handle_datagram), [`accept_handshakes`](Self::accept_handshakes)
///   and [`handle_timeout`](Self::handle_timeout), which is due at [`poll_timeout`](Self::poll_timeout).
/// * *Events*: after any input, call [`poll_event`](Self::poll_event) until it returns `None`, and act on each with
///   [`read`](Self::read), [`write`](Self::write), [`finish`](Self::finish), [`reset`](Self::reset),
///   [`stop`](Self::stop), [`close`](Self::close).
/// * *Outputs*: then call [`poll_transmit`](Self::poll_transmit) until it returns `None`. It also arms the timers, so
///   sleep until `poll_timeout` only when [`is_idle`](Self::is_idle).
pub struct Quic {
    endpoint: Endpoint,
    /// What handshakes are made from, by listener; the first is the endpoint's own.
    listeners: Vec<Arc<ServerConfig>>,
    table: Table,
    wheel: Wheel,
    admission: Admission,
    /// Connections that may have events.
    ready: VecDeque<u32>,
    /// Connections that may have something to send.
    dirty: VecDeque<u32>,
    /// Answers that belong to no connection.
    stateless: VecDeque<Stateless>,
    steering: Steering,
    shard: usize,
    settings: QuicSettings,
    transport: Arc<TransportConfig>,
    token_key: Arc<TokenKey>,
    clock: TokenClock,
    established: usize,
    windows: WindowLimits,
    widened: Widened,
    /// Where quinn-proto writes stateless answers.
    scratch: Vec<u8>,
    counters: QuicCounters,
    refusals: Refusals,
}

impl Quic {
    /// Makes shard number `shard` of `shards`, with a first listener that has no limits of its own. All randomness comes from `seed`, which must differ between shards and
    /// be secret: connection IDs follow from it.
    ///
    /// `tls` is a [`QuicTls`]. Only a simulator has another, whose sessions tell what they negotiated as [`Negotiated`].
    ///
    /// # Panics
    /// If `shard` is not below `shards`, or a setting is out of its range.
    pub fn new<C: crypto::ServerConfig + 'static>(
        settings: &QuicSettings,
        keys: &QuicKeys,
        tls: Arc<C>,
        shard: usize,
        shards: usize,
        seed: [u8; 32],
    ) -> Self {
        assert!(shard < shards, "shard {shard} of {shards}");
        let steering = Steering::new(keys.steering_key, shards);
        let mut random = StdRng::from_seed(seed);
        let (mut endpoint_seed, mut cid_seed) = ([0; 32], [0; 32]);
        random.fill_bytes(&mut endpoint_seed);
        random.fill_bytes(&mut cid_seed);

        let mut config = EndpointConfig::new(Arc::new(ResetKey::new(&keys.reset_key)));
        let named = (steering, shard);
        #[cfg(feature = "mutants")]
        let named = match settings.mutant {
            Some(crate::mutants::Mutant::ConnectionIdsUnsteered) => (Steering::new(keys.steering_key, 1), 0),
            _ => named,
        };
        config
            .cid_generator(move || Box::new(cids::SteeredCids::new(cid_seed, named.0, named.1)))
            .supported_versions(vec![tls::VERSION_1])
            .min_reset_interval(settings.reset_interval)
            .rng_seed(Some(endpoint_seed));
        let mut quic = Self {
            endpoint: Endpoint::new(Arc::new(config), None, true, None),
            listeners: Vec::new(),
            table: Table::new(),
            wheel: Wheel::new(),
            admission: Admission::new(random.next_u64()),
            ready: VecDeque::new(),
            dirty: VecDeque::new(),
            stateless: VecDeque::new(),
            steering,
            shard,
            settings: settings.clone(),
            transport: Arc::new(settings.transport()),
            token_key: Arc::new(TokenKey::new(&keys.token_key)),
            clock: TokenClock::default(),
            established: 0,
            windows: settings.windows(),
            widened: Widened::default(),
            scratch: Vec::new(),
            counters: QuicCounters::default(),
            refusals: Refusals::default(),
        };
        let first = quic.add_listener(tls);
        debug_assert_eq!(first, QuicListenerId::FIRST);
        quic.endpoint.set_server_config(quic.listeners.first().cloned());
        quic
    }

    /// Serves one more listener, without limits of its own. All shards of a node add them in one order: a datagram that
    /// is forwarded names its listener by its place.
    pub fn add_listener<C: crypto::ServerConfig + 'static>(&mut self, tls: Arc<C>) -> QuicListenerId {
        self.listeners.push(self.server_config(tls));
        self.admission.add_listener(self.settings.listener_limits())
    }

    /// Holds a listener to limits of its own; who is in stays in.
    ///
    /// # Panics
    /// If there is no such listener.
    pub fn limit_listener(&mut self, listener: QuicListenerId, limits: QuicListenerLimits) {
        self.admission.limit(listener, limits);
    }

    /// Serves new connections of the first listener with other certificates; those that exist keep theirs.
    pub fn set_tls<C: crypto::ServerConfig + 'static>(&mut self, tls: Arc<C>) {
        self.listeners[0] = self.server_config(tls);
        self.endpoint.set_server_config(self.listeners.first().cloned());
    }

    fn server_config<C: crypto::ServerConfig + 'static>(&self, tls: Arc<C>) -> Arc<ServerConfig> {
        // No NEW_TOKEN frames: they would need a log of used tokens that all shards share.
        let mut validation = ValidationTokenConfig::default();
        validation.sent(0).log(Arc::new(NoneTokenLog));
        let mut config = ServerConfig::new(tls, self.token_key.clone());
        config
            .validation_token_config(validation)
            .transport_config(Arc::clone(&self.transport))
            .max_incoming(self.settings.handshakes_queued_max)
            .incoming_buffer_size(INCOMING_BYTES_MAX)
            .incoming_buffer_size_total(self.settings.incoming_bytes_max)
            .time_source(self.clock.source());
        Arc::new(config)
    }

    /// Refuses new connections from now on (`true`), or accepts them again. Connections that exist, and handshakes
    /// that wait, go on.
    pub fn refuse_new(&mut self, refuse: bool) {
        self.admission.set_draining(refuse);
    }

    /// Closes a connection with an application code and a reason for people, which reach the peer if the network
    /// lets them. What is unsent is lost: a close that must be heard finishes its stream first and waits for
    /// `Finished`. `Closed` with [`CloseWhy::LocallyClosed`] follows.
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
        entry.closed_here = true;
        self.mark_ready(conn.slot);
        self.mark_dirty(conn.slot);
    }

    /// The peer's address: the one it has proven last.
    pub fn peer(&self, conn: ConnId) -> Option<SocketAddr> {
        Some(self.table.open(conn)?.peer)
    }

    /// The name of the protocol the connection speaks.
    pub fn alpn(&self, conn: ConnId) -> Option<&'static [u8]> {
        match self.table.open(conn)?.stage {
            Stage::Open(alpn) => Some(alpn.name()),
            Stage::Handshaking { .. } | Stage::Lingering => None,
        }
    }

    /// The certificate chain with which the client identified itself, its own certificate first; empty without one.
    pub fn peer_certificates(&self, conn: ConnId) -> Vec<CertificateDer<'static>> {
        let identity = self.table.open(conn).and_then(|e| e.connection.crypto_session().peer_identity());
        identity.and_then(|chain| chain.downcast().ok()).map_or(Vec::new(), |chain| *chain)
    }

    /// The value that binds an authentication exchange to this connection: `EXPORTER-Channel-Binding` (RFC 9266).
    pub fn channel_binding(&self, conn: ConnId) -> Option<[u8; 32]> {
        let mut value = [0; 32];
        let session = self.table.open(conn)?.connection.crypto_session();
        session.export_keying_material(&mut value, b"EXPORTER-Channel-Binding", b"").ok()?;
        Some(value)
    }

    /// Refuse everyone who is not connected yet while memory is at its ceiling.
    pub fn set_memory_is_full(&mut self, is_full: bool) {
        self.admission.set_memory_is_full(is_full);
    }

    /// Established connections.
    pub fn connections(&self) -> usize {
        self.established
    }

    /// First packets that wait for [`accept_handshakes`](Self::accept_handshakes).
    pub fn handshakes_waiting(&self) -> usize {
        self.admission.waiting()
    }

    /// What has been counted.
    pub fn counters(&self) -> &QuicCounters {
        &self.counters
    }

    /// The first client that was refused since this was last asked.
    pub fn take_refusal(&mut self) -> Option<Refusal> {
        self.refusals.take()
    }

    /// What this connection may cost, in bytes: its state, what the peer may send unread, and what we hold unsent or
    /// unacknowledged if that fills its window. 0 for one that is gone.
    pub fn charged_bytes(&self, conn: ConnId) -> usize {
        let Some(entry) = self.table.open(conn) else { return 0 };
        let unsent = if entry.blocked { self.settings.send_window as usize } else { 0 };
        table::SLOT_BYTES + HEAP_BYTES + entry.window.bytes() as usize + unsent
    }

    /// Whether there is nothing to do until the next input or timeout: no events, no datagrams, no handshakes waiting.
    pub fn is_idle(&self) -> bool {
        self.ready.is_empty()
            && self.dirty.is_empty()
            && self.stateless.is_empty()
            && self.admission.waiting() == 0
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

    /// Arms a connection's timer, if it comes earlier than the one armed.
    fn arm_timer(&mut self, now: Instant, slot: u32) {
        let Some(entry) = self.table.get_mut(slot) else { return };
        let mut deadline = entry.connection.poll_timeout();
        if let Stage::Handshaking { until } = entry.stage {
            deadline = Some(deadline.map_or(until, |other| other.min(until)));
        }
        if let Some(deadline) = deadline {
            self.wheel.arm_earlier(now, slot, deadline);
        }
    }

    /// Frees the slot of a connection that has nothing more to say, here and in quinn-proto.
    fn free(&mut self, slot: u32) {
        let entry = self.table.remove(slot).expect("a slot is freed once");
        entry.window.give_back(&self.windows, &mut self.widened);
        debug_assert_eq!(entry.stage, Stage::Lingering, "its end has been told");
        self.wheel.disarm(slot);
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

/// Packets held for one first packet until its handshake begins: a ClientHello that fills several, not more.
const INCOMING_BYTES_MAX: u64 = 8 * 1024;

/// Heap of an idle connection beside its slot: 6.8 KB of ours (`cargo run --release --example quic_memory`), and an
/// allowance for the keys that aws-lc allocates itself.
const HEAP_BYTES: usize = 10 * 1024;
