//! Byte streams and the layers on them: PROXY header, TLS, WebSocket, as their listener says ([`crate::door`]).
//!
//! ```text
//!   handle_door_opened ─► counted against its kind and for its network
//!   first bytes of TLS ─► counted as a handshake in flight, until it is over or the link is being closed
//!   bytes ─► layers ─┬─► MQTT bytes ─► handle_link_bytes
//!                    ├─► a handshake's next step ─► queue ─ accept_handshakes ─► layers
//!                    └─► an error ─► closing words ─► end
//!   write_streams ─► layers ─► one write
//! ```
//! One deadline holds for everything up to the answer to CONNECT: the link's own, which was set when it was opened.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Instant;

use rustls::pki_types::CertificateDer;

use crate::counters::Counters;
use crate::door::{CloseCode, DoorKind, DoorKindId, Handshake, LayerError, Layers, NetworkFull, Stage};
use crate::envelope::LinkKey;
use crate::link::{Carrier, CloseHow, DoorId, LinkState};
#[cfg(feature = "mutants")]
use crate::mutants::Mutant;
use crate::refusal::Entrance;

use super::door_kinds::KnownKind;
use super::{DoorAction, DoorEnd, Shard};

impl Shard {
    /// Makes a kind of byte stream known, before the first of it is opened: one for each listener.
    ///
    /// # Panics
    /// If there are more than 65,535.
    pub fn add_door_kind(&mut self, kind: DoorKind) -> DoorKindId {
        let id = u16::try_from(self.door_kinds.len()).expect("a listener each, and these are few");
        self.door_kinds.push(KnownKind::new(kind, self.keyed));
        DoorKindId(id)
    }

    /// A byte stream of this kind was opened by a client.
    pub fn handle_door_opened(&mut self, now: Instant, door: DoorId, peer: SocketAddr, kind: DoorKindId) {
        if !self.admits(peer, kind) {
            return self.door_actions.push_back((door, DoorAction::Abort));
        }
        let Some(key) = self.open_link(now, Carrier::Door(door), peer) else {
            if self.draining.is_none() {
                self.refusals.note(Entrance::Door(kind), peer, || SHARD_FULL.into());
            }
            return self.door_actions.push_back((door, DoorAction::Abort));
        };
        let known = &mut self.door_kinds[usize::from(kind.0)];
        known.open += 1;
        if known.kind.proxy.is_none() {
            known.enter_network(peer.ip());
        }
        let link = &mut self.links[key];
        link.kind = kind;
        link.layers = Layers::new(&known.kind).map(Box::new);
        self.doors.insert(door, key);
        self.recharge_link(key);
    }

    /// Whether another byte stream of this kind is served; counts why not.
    fn admits(&mut self, peer: SocketAddr, kind: DoorKindId) -> bool {
        let entrance = Entrance::Door(kind);
        let known = &self.door_kinds[usize::from(kind.0)];
        let kind = &known.kind;
        let counters = &mut self.counters;
        let (refused, why) = if known.open >= kind.connections_max {
            (&mut counters.doors_refused, "the listener has its maximum of connections")
        } else if kind.proxy.as_ref().is_some_and(|rules| !rules.trusts(peer.ip())) {
            (&mut counters.proxy_refused, "PROXY headers from there are not believed")
        } else if kind.proxy.is_none()
            && let Err(full) = known.judge_network(peer.ip())
        {
            network_full(full, counters)
        } else {
            return true;
        };
        *refused += 1;
        self.refusals.note(entrance, peer, || why.into());
        false
    }

    /// A PROXY header has named the client: from now on it is that one who is counted.
    fn on_named(&mut self, key: LinkKey, named: SocketAddr) -> Result<(), LayerError> {
        let link = &mut self.links[key];
        link.peer = named;
        let known = &mut self.door_kinds[usize::from(link.kind.0)];
        let layers = link.layers.as_mut().expect("a header is a layer's");
        if let Err(full) = known.judge_network(named.ip()) {
            layers.give_up();
            self.door_scratch.plain.clear();
            return Err(LayerError::Network(full));
        }
        known.enter_network(named.ip());
        layers.counts_named = true;
        Ok(())
    }

    /// The first bytes of a TLS handshake are here: from now on it is one of those in flight, if there is room for it.
    fn begin_handshake(&mut self, key: LinkKey) -> Result<(), LayerError> {
        let link = &mut self.links[key];
        let Some(layers) = link.layers.as_mut().filter(|layers| layers.begins_handshake()) else {
            return Ok(());
        };
        let known = &mut self.door_kinds[usize::from(link.kind.0)];
        let counts_in_network = known.kind.proxy.is_none() || layers.counts_named;
        let begun = if self.handshakes_in_flight >= self.settings.tls_handshakes_max {
            Err(LayerError::HandshakesFull)
        } else if counts_in_network {
            known.try_begin_handshake(link.peer.ip()).map_err(LayerError::Network)
        } else {
            Ok(())
        };
        match begun {
            Ok(()) => {
                layers.handshake = Handshake::InFlight;
                self.handshakes_in_flight += 1;
            }
            Err(_) => layers.give_up(),
        }
        begun
    }

    /// The certificate chain with which a byte stream's client identified itself in TLS, its own first; empty without one.
    pub fn door_certificates(&self, door: DoorId) -> &[CertificateDer<'static>] {
        let link = self.doors.get(&door).and_then(|key| self.links.get(*key));
        link.and_then(|link| link.layers.as_ref()).map_or(&[], |layers| layers.peer_certificates())
    }

    /// The client of a byte stream: the one that a PROXY header has named, else the other end.
    pub fn door_peer(&self, door: DoorId) -> Option<SocketAddr> {
        Some(self.links.get(*self.doors.get(&door)?)?.peer)
    }

    /// Received bytes of a byte stream that wait in the shard: behind what holds MQTT's packets back, and in its layers.
    pub fn door_received_bytes(&self, door: DoorId) -> usize {
        let link = self.doors.get(&door).and_then(|key| self.links.get(*key));
        link.map_or(0, |link| {
            link.input.len() + link.layers.as_ref().map_or(0, |layers| layers.buffered_bytes())
        })
    }

    /// Goes on with handshakes that wait, QUIC's and TLS's in turn, for as long as the budget lasts.
    pub fn accept_handshakes(&mut self, now: Instant, mut out_of_time: impl FnMut() -> bool) {
        while self.has_handshakes() && !out_of_time() {
            // Across turns too, or a budget of one step would always go to the same half.
            self.tls_is_next = !self.tls_is_next;
            let tls_goes = self.tls_is_next && !self.handshakes.is_empty();
            if tls_goes || !self.accept_quic_handshake(now) {
                self.step_tls_handshake(now);
            }
        }
    }

    /// Whether handshakes wait for their turn: then the loop must not sleep.
    pub fn has_handshakes(&self) -> bool {
        !self.handshakes.is_empty() || self.quic.as_ref().is_some_and(|quic| quic.handshakes_waiting() > 0)
    }

    /// The next step of the handshake that has waited longest; its connection may be gone.
    fn step_tls_handshake(&mut self, now: Instant) {
        let Some(key) = self.handshakes.pop_front() else { return };
        let Some(link) = self.links.get_mut(key) else { return };
        let is_closing = link.is_closing();
        let (Some(layers), Carrier::Door(door)) = (&mut link.layers, link.carrier) else { return };
        layers.is_queued = false;
        if is_closing {
            return;
        }
        if core::mem::take(&mut layers.is_paused) {
            self.door_actions.push_back((door, DoorAction::Resume));
        }
        let before = layers.stage();
        let stepped = layers.step(&mut self.door_scratch);
        let stream_ended = layers.stream_ended;
        self.on_layers_moved(now, key, before, stepped);
        if stream_ended {
            self.handle_door_closed(now, door, DoorEnd::EndOfStream);
        }
    }

    /// Bytes came in on a stream with layers.
    pub(super) fn handle_layered_bytes(&mut self, now: Instant, key: LinkKey, bytes: &[u8]) {
        let link = &mut self.links[key];
        if link.is_closing() {
            return;
        }
        let layers = link.layers.as_mut().expect("it has layers");
        let before = layers.stage();
        let passed = layers.handle_bytes(bytes, &mut self.door_scratch);
        self.on_layers_moved(now, key, before, passed);
    }

    /// The layers have taken bytes: what follows from it for the link.
    fn on_layers_moved(
        &mut self,
        now: Instant,
        key: LinkKey,
        before: Stage,
        mut passed: Result<(), LayerError>,
    ) {
        let link = &mut self.links[key];
        let layers = link.layers.as_mut().expect("it has layers");
        if let Some(named) = layers.take_named() {
            passed = self.on_named(key, named).and(passed);
        }
        if passed.is_ok() {
            passed = self.begin_handshake(key);
        }
        self.count_progress(key, before);
        let mut plain = core::mem::take(&mut self.door_scratch.plain);
        #[cfg(feature = "mutants")]
        if self.has(Mutant::BehindHandshakeForgotten) && before != Stage::Open && self.is_open(key) {
            plain.clear();
        }
        if !plain.is_empty() {
            self.handle_link_bytes(now, key, &plain);
        }
        plain.clear();
        self.door_scratch.plain = plain;
        match passed {
            Ok(()) => self.after_layers(now, key),
            Err(error) => self.on_layer_error(now, key, error),
        }
        self.recharge_link(key);
    }

    #[cfg(feature = "mutants")]
    fn has(&self, mutant: Mutant) -> bool {
        self.settings.mutant == Some(mutant)
    }

    #[cfg(feature = "mutants")]
    fn is_open(&self, key: LinkKey) -> bool {
        self.links[key].layers.as_ref().is_some_and(|layers| layers.stage() == Stage::Open)
    }

    /// Counts a handshake and an upgrade that are over.
    fn count_progress(&mut self, key: LinkKey, before: Stage) {
        let layers = self.links[key].layers.as_ref().expect("it has layers");
        let after = layers.stage();
        if matches!(after, Stage::Upgrade | Stage::Open) && self.end_handshake(key) {
            self.counters.tls_handshakes += 1;
        }
        let layers = self.links[key].layers.as_ref().expect("it has layers");
        if layers.is_websocket() && before != Stage::Open && after == Stage::Open {
            self.counters.websockets_opened += 1;
        }
    }

    /// The TLS handshake of a byte stream is no longer in flight; `false` if it was not.
    fn end_handshake(&mut self, key: LinkKey) -> bool {
        let link = &mut self.links[key];
        let Some(layers) = &mut link.layers else { return false };
        if core::mem::replace(&mut layers.handshake, Handshake::Over) != Handshake::InFlight {
            return false;
        }
        self.handshakes_in_flight -= 1;
        let known = &mut self.door_kinds[usize::from(link.kind.0)];
        if known.kind.proxy.is_none() || layers.counts_named {
            known.end_handshake(link.peer.ip());
        }
        true
    }

    fn after_layers(&mut self, now: Instant, key: LinkKey) {
        let Some(link) = self.links.get_mut(key) else { return };
        let (Some(layers), Carrier::Door(door)) = (&mut link.layers, link.carrier) else { return };
        if layers.wants_step() && !core::mem::replace(&mut layers.is_queued, true) {
            self.handshakes.push_back(key);
        }
        if layers.is_full() && !core::mem::replace(&mut layers.is_paused, true) {
            self.door_actions.push_back((door, DoorAction::Pause));
        }
        let (has_own, peer_closed) = (layers.has_own(), layers.peer_closed());
        if has_own {
            self.mark_dirty(key);
        }
        if peer_closed {
            self.on_input_ended(now, key);
        }
    }

    /// The client broke the rules of a layer: what that layer has to say about it leaves, and nothing of MQTT.
    fn on_layer_error(&mut self, now: Instant, key: LinkKey, error: LayerError) {
        let counter = match error {
            LayerError::Proxy => &mut self.counters.proxy_refused,
            LayerError::Network(full) => network_full(full, &mut self.counters).0,
            LayerError::HandshakesFull => &mut self.counters.tls_handshakes_refused,
            LayerError::Tls { in_handshake: true, .. } => &mut self.counters.tls_handshakes_failed,
            LayerError::Tls { in_handshake: false, .. } => &mut self.counters.tls_errors,
            LayerError::Upgrade => &mut self.counters.websockets_refused,
            LayerError::WebSocket => &mut self.counters.websocket_errors,
        };
        *counter += 1;
        let is_refused = matches!(error, LayerError::HandshakesFull | LayerError::Network(_));
        let Some(link) = self.links.get(key) else { return };
        if let Some(why) = refusal_of(error) {
            self.refusals.note(Entrance::Door(link.kind), link.peer, || why);
        }
        self.end_handshake(key);
        let link = &mut self.links[key];
        link.output.clear();
        if link.is_closing() {
            return;
        }
        self.link_ended(now, key);
        if is_refused {
            // There is nothing to say, and no room for one who takes his time to go.
            self.abort_link(now, key, CloseHow::Finish);
        } else {
            self.close_link(now, key, CloseHow::Finish);
        }
    }

    /// The client's end of the stream came. `true` if it lies behind bytes that still wait for the handshake.
    pub(super) fn on_layered_end(&mut self, key: LinkKey) -> bool {
        let link = &mut self.links[key];
        let is_closing = link.is_closing();
        let Some(layers) = &mut link.layers else { return false };
        if layers.is_queued && !is_closing {
            layers.stream_ended = true;
            return true;
        }
        if layers.would_truncate() && !is_closing {
            self.counters.tls_truncated += 1;
        }
        false
    }

    /// A byte stream is being closed: the place of its handshake is free, however long its client takes to go.
    pub(super) fn give_back_handshake(&mut self, key: LinkKey) {
        #[cfg(feature = "mutants")]
        if self.has(Mutant::DoorHandshakesNotGivenBack) {
            return;
        }
        self.end_handshake(key);
    }

    /// A byte stream leaves its kind: it has ended, or never was more than a handshake.
    pub(super) fn leave_door_kind(&mut self, key: LinkKey) {
        let Some(link) = self.links.get_mut(key) else { return };
        if matches!(link.state, LinkState::Gone) || !matches!(link.carrier, Carrier::Door(_)) {
            return;
        }
        #[cfg(feature = "mutants")]
        if self.has(Mutant::DoorHandshakesNotGivenBack) {
            return;
        }
        self.end_handshake(key);
        let link = &mut self.links[key];
        let known = &mut self.door_kinds[usize::from(link.kind.0)];
        known.open -= 1;
        let counts_named = link.layers.take().is_some_and(|layers| layers.counts_named);
        if known.kind.proxy.is_none() || counts_named {
            known.leave_network(link.peer.ip());
        }
    }

    /// No CONNECT came in time: counts those that did not even come to MQTT.
    pub(super) fn count_layer_timeout(&mut self, key: LinkKey) {
        let link = &self.links[key];
        let why = match link.layers.as_ref().map_or(Stage::Open, |layers| layers.stage()) {
            Stage::Open => return,
            Stage::ProxyHeader => "its PROXY header did not come in time",
            Stage::TlsHandshake => "its TLS handshake was not complete in time",
            Stage::Upgrade => "its request for a WebSocket did not come in time",
        };
        self.counters.layer_timeouts += 1;
        self.refusals.note(Entrance::Door(link.kind), link.peer, || why.into());
    }

    /// Gives a byte stream with layers its next write, and ends it when all is said.
    pub(super) fn write_layered_door(&mut self, key: LinkKey, door: DoorId) {
        let link = &mut self.links[key];
        let layers = link.layers.as_mut().expect("it has layers");
        if let LinkState::Closing(closing) = &link.state
            && !closing.told
            && link.output.unsent_bytes() == 0
        {
            #[cfg(feature = "mutants")]
            let silent = self.settings.mutant == Some(Mutant::ClosingWordsForgotten);
            #[cfg(not(feature = "mutants"))]
            let silent = false;
            if !silent {
                layers.say_goodbye(close_code(closing.how, self.draining.is_some()));
            }
        }
        if let Some(batch) = layers.take_batch(&mut link.output, &mut self.door_scratch) {
            self.door_actions.push_back((door, DoorAction::Write(batch)));
        }
        if let LinkState::Closing(closing) = &mut link.state
            && !closing.told
            && link.output.bytes() == 0
            && layers.is_flushed()
        {
            closing.told = true;
            self.door_actions.push_back((door, DoorAction::Finish));
        }
    }
}

/// What the log says of a client that was not let in; `None` for one that had been.
fn refusal_of(error: LayerError) -> Option<Cow<'static, str>> {
    match error {
        LayerError::Proxy => Some("its PROXY header is malformed".into()),
        LayerError::Network(NetworkFull::Connections) => Some(CONNECTIONS_FULL.into()),
        LayerError::Network(NetworkFull::Handshakes) => Some(HANDSHAKES_FULL.into()),
        LayerError::Network(NetworkFull::SiteHandshakes) => Some(SITE_FULL.into()),
        LayerError::HandshakesFull => Some("too many TLS handshakes are in flight".into()),
        LayerError::Tls { in_handshake: true, why } => Some(why.to_string().into()),
        LayerError::Upgrade => Some("its request does not open a WebSocket here".into()),
        LayerError::Tls { in_handshake: false, .. } | LayerError::WebSocket => None,
    }
}

/// What a WebSocket's close frame says of the end.
fn close_code(how: CloseHow, draining: bool) -> CloseCode {
    match how {
        CloseHow::Finish if draining => CloseCode::GOING_AWAY,
        CloseHow::Finish => CloseCode::NORMAL,
        // 0x300 and the reason: Malformed Packet, Protocol Error.
        CloseHow::Reset(0x381 | 0x382) => CloseCode::PROTOCOL_ERROR,
        CloseHow::Reset(_) => CloseCode::POLICY,
    }
}

/// How it is counted, and what the log says, that a network has its maximum.
fn network_full(full: NetworkFull, counters: &mut Counters) -> (&mut u64, &'static str) {
    match full {
        NetworkFull::Connections => (&mut counters.doors_refused_prefix, CONNECTIONS_FULL),
        NetworkFull::Handshakes => (&mut counters.tls_handshakes_refused_prefix, HANDSHAKES_FULL),
        NetworkFull::SiteHandshakes => (&mut counters.tls_handshakes_refused_site, SITE_FULL),
    }
}

/// What the log says at the maximum of a network, and of the shard.
const CONNECTIONS_FULL: &str = "its network has its maximum of connections";
const HANDSHAKES_FULL: &str = "its network has its maximum of TLS handshakes in flight";
const SITE_FULL: &str = "its site has its maximum of TLS handshakes in flight";
const SHARD_FULL: &str = "the shard has its maximum of connections";
