//! What lies between the bytes of a byte stream and those of MQTT: layers, stacked as the listener says.
//!
//! ```text
//!   stream ─► [PROXY header] ─► [TLS] ─► [HTTP upgrade, WebSocket frames] ─► MQTT
//!   stream ◄──────────────────  [TLS] ◄─ [WebSocket frames]              ◄── MQTT
//! ```
//! A plain TCP connection has none of them and pays nothing. Each layer is a machine without I/O and clock: bytes go in,
//! and come out on the other side. Invariants:
//!
//! * Nothing is gathered: what has come in leaves on the other side in the same call, but for what cannot be understood
//!   yet (a header, a record, the head of a frame), and that is bounded. So the limits of MQTT hold here too.
//! * One write is in flight at most, and one turn's output is one write. What waits for it waits as MQTT bytes, where
//!   fairness and drops are decided.
//! * A buffer exists only while it holds something.
//! * The closing words (close frame, `close_notify`) leave once, behind everything else.

mod frames;
mod proxy;
mod tls;
mod upgrade;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use rustls::pki_types::CertificateDer;

use crate::link::{Output, WriteBatch};

pub use frames::CloseCode;
pub use proxy::{BadHeader, IpRange, ProxyHeader, ProxyRules, parse_proxy_header};
pub use tls::DoorTls;
pub use upgrade::{Origins, WebSocketRules};

use frames::Frames;
use tls::Tls;
use upgrade::{Answer, Upgrade};

/// What is spoken on the byte streams of a listener.
#[derive(Clone, Debug)]
pub struct DoorKind {
    /// A PROXY header comes first.
    pub proxy: Option<ProxyRules>,
    /// Then TLS.
    pub tls: Option<DoorTls>,
    /// Then WebSocket.
    pub websocket: Option<Arc<WebSocketRules>>,
    /// Byte streams of this kind that one shard serves at once.
    pub connections_max: usize,
    /// The same of one network, an IPv4 address or an IPv6 /64: that of the client whom a PROXY header has named, where one
    /// comes first.
    pub connections_per_prefix_max: usize,
    /// TLS handshakes of one network in flight, or one network could have all that a shard takes.
    pub handshakes_per_prefix_max: usize,
    /// The same of one site: an IPv4 /24 or an IPv6 /48, of which the network is a part.
    pub handshakes_per_site_max: usize,
}

impl DoorKind {
    /// MQTT as it is, over TCP.
    pub const PLAIN: Self = Self {
        proxy: None,
        tls: None,
        websocket: None,
        connections_max: usize::MAX,
        connections_per_prefix_max: usize::MAX,
        handshakes_per_prefix_max: usize::MAX,
        handshakes_per_site_max: usize::MAX,
    };

    fn is_plain(&self) -> bool {
        self.proxy.is_none() && self.tls.is_none() && self.websocket.is_none()
    }
}

/// Names a [`DoorKind`] that a shard knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DoorKindId(pub(crate) u16);

impl DoorKindId {
    /// [`DoorKind::PLAIN`], which every shard knows.
    pub const PLAIN: Self = Self(0);
}

/// Where a byte stream stands on its way to MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    ProxyHeader,
    TlsHandshake,
    Upgrade,
    Open,
}

/// Why the layers of a byte stream give it up. What the client is told lies with what is to be written.
#[derive(Clone, Debug)]
pub(crate) enum LayerError {
    Proxy,
    Tls {
        in_handshake: bool,
        why: rustls::Error,
    },
    /// Not said by a layer: the network of the client has its maximum.
    Network(NetworkFull),
    /// Not said by a layer: the shard has its maximum of handshakes in flight.
    HandshakesFull,
    Upgrade,
    WebSocket,
}

/// How the TLS handshake of a byte stream is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// Nothing of it has come: whoever only opens a connection takes nobody's place.
    Awaited,
    /// It is one of those in flight, of which there is a maximum.
    InFlight,
    /// It was one of them, or there is none.
    Over,
}

/// Of what a network has its maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetworkFull {
    Connections,
    Handshakes,
    /// The handshakes are those of its site.
    SiteHandshakes,
}

/// Buffers that all byte streams of a shard share; empty between two calls.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// The MQTT bytes of this call.
    pub(crate) plain: Vec<u8>,
    records: Vec<u8>,
    batch: BytesMut,
}

/// The layers of one byte stream.
#[derive(Debug)]
pub(crate) struct Layers {
    /// The beginning of the header that is awaited.
    proxy: Option<Vec<u8>>,
    tls: Option<Box<Tls>>,
    websocket: Option<Box<WebSocket>>,
    /// Whom the PROXY header has named.
    named: Option<SocketAddr>,
    /// The one that it has named is counted for its network.
    pub(crate) counts_named: bool,
    /// Bytes of the layers' own for the stream: handshake, alerts.
    own: BytesMut,
    is_writing: bool,
    /// The handshake's next step waits for its turn.
    pub(crate) is_queued: bool,
    /// How its TLS handshake is counted.
    pub(crate) handshake: Handshake,
    /// Reading pauses until then.
    pub(crate) is_paused: bool,
    /// The stream has ended behind the bytes that wait.
    pub(crate) stream_ended: bool,
    has_failed: bool,
    said_goodbye: bool,
}

/// The WebSocket layer.
#[derive(Debug)]
struct WebSocket {
    state: WebSocketState,
    /// The response to the request: before everything else.
    response: Vec<u8>,
    /// Bytes of its own: a refusal, a close.
    own: BytesMut,
}

#[derive(Debug)]
enum WebSocketState {
    Upgrading(Upgrade),
    Open(Frames),
    /// Refused, or closed by an error: nothing more is understood.
    Failed,
}

impl Layers {
    /// The layers of a kind; `None` if it has none.
    pub(crate) fn new(kind: &DoorKind) -> Option<Self> {
        if kind.is_plain() {
            return None;
        }
        let websocket = kind.websocket.as_ref().map(|rules| {
            let state = WebSocketState::Upgrading(Upgrade::new(Arc::clone(rules)));
            Box::new(WebSocket { state, response: Vec::new(), own: BytesMut::new() })
        });
        Some(Self {
            proxy: kind.proxy.as_ref().map(|_| Vec::new()),
            tls: kind.tls.as_ref().map(|tls| Box::new(Tls::new(tls))),
            websocket,
            named: None,
            counts_named: false,
            own: BytesMut::new(),
            is_writing: false,
            is_queued: false,
            handshake: if kind.tls.is_some() { Handshake::Awaited } else { Handshake::Over },
            is_paused: false,
            stream_ended: false,
            has_failed: false,
            said_goodbye: false,
        })
    }

    pub(crate) fn stage(&self) -> Stage {
        if self.proxy.is_some() {
            Stage::ProxyHeader
        } else if self.tls.as_ref().is_some_and(|tls| !tls.is_open()) {
            Stage::TlsHandshake
        } else if self.websocket.as_ref().is_some_and(|ws| !matches!(ws.state, WebSocketState::Open(_))) {
            Stage::Upgrade
        } else {
            Stage::Open
        }
    }

    pub(crate) fn is_websocket(&self) -> bool {
        self.websocket.is_some()
    }

    /// Whether the handshake has something to go on with.
    pub(crate) fn wants_step(&self) -> bool {
        !self.has_failed
            && self.proxy.is_none()
            && self.tls.as_ref().is_some_and(|tls| !tls.is_open() && tls.wants_step())
    }

    /// Whether the first bytes of a TLS handshake are here, and it is not counted.
    pub(crate) fn begins_handshake(&self) -> bool {
        self.handshake == Handshake::Awaited && self.tls.as_ref().is_some_and(|tls| tls.buffered_bytes() > 0)
    }

    /// Whether so much waits for the handshake's next step that reading should pause.
    pub(crate) fn is_full(&self) -> bool {
        self.wants_step() && self.buffered_bytes() > HANDSHAKE_PAUSE_BYTES
    }

    /// The client's certificate chain, its own first; empty without one.
    pub(crate) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.tls.as_ref().map_or(&[], |tls| tls.peer_certificates())
    }

    /// Whom the PROXY header has named, once.
    pub(crate) fn take_named(&mut self) -> Option<SocketAddr> {
        self.named.take()
    }

    /// Whether the client has ended the connection in order, in the words of a layer: its `close_notify`, its close frame.
    pub(crate) fn peer_closed(&self) -> bool {
        let frames = self.websocket.as_ref().and_then(|ws| ws.frames());
        self.tls.as_ref().is_some_and(|tls| tls.peer_closed())
            || frames.is_some_and(|frames| frames.closed().is_some())
    }

    /// Whether the end of the stream cuts something off: TLS says good-bye first.
    pub(crate) fn would_truncate(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_open() && !tls.peer_closed())
    }

    /// Bytes that are kept here on behalf of the client.
    pub(crate) fn buffered_bytes(&self) -> usize {
        let websocket = self.websocket.as_ref().map_or(0, |ws| ws.buffered_bytes());
        let tls = self.tls.as_ref().map_or(0, |tls| tls.buffered_bytes());
        self.proxy.as_ref().map_or(0, Vec::len) + tls + websocket + self.own.len()
    }

    /// Received bytes: those of MQTT in them are appended to `scratch.plain`.
    pub(crate) fn handle_bytes(&mut self, bytes: &[u8], scratch: &mut Scratch) -> Result<(), LayerError> {
        if self.has_failed {
            return Ok(());
        }
        let passed = self.pass_proxy(bytes, scratch);
        self.note(passed)
    }

    /// The next step of the handshake.
    pub(crate) fn step(&mut self, scratch: &mut Scratch) -> Result<(), LayerError> {
        let Self { tls, websocket, own, .. } = self;
        let Some(tls) = tls.as_mut().filter(|tls| !tls.is_open()) else { return Ok(()) };
        let mut websocket_end = Ok(());
        let stepped = tls.step(own, &mut |bytes| {
            if websocket_end.is_ok() {
                websocket_end = pass_websocket(websocket, bytes, &mut scratch.plain);
            }
        });
        let passed = stepped.map_err(|why| LayerError::Tls { in_handshake: true, why }).and(websocket_end);
        self.note(passed)
    }

    fn note(&mut self, passed: Result<(), LayerError>) -> Result<(), LayerError> {
        self.has_failed |= passed.is_err();
        passed
    }

    fn pass_proxy(&mut self, bytes: &[u8], scratch: &mut Scratch) -> Result<(), LayerError> {
        let Some(mut received) = self.proxy.take() else { return self.pass_tls(bytes, scratch) };
        let before = received.len();
        received.extend_from_slice(bytes);
        match parse_proxy_header(&received) {
            Err(BadHeader) => Err(LayerError::Proxy),
            Ok(None) => {
                self.proxy = Some(received);
                Ok(())
            }
            Ok(Some(header)) => {
                self.named = header.client;
                self.pass_tls(&bytes[header.bytes - before..], scratch)
            }
        }
    }

    fn pass_tls(&mut self, bytes: &[u8], scratch: &mut Scratch) -> Result<(), LayerError> {
        let Self { tls, websocket, own, .. } = self;
        let Scratch { plain, records, .. } = scratch;
        let Some(tls) = tls else { return pass_websocket(websocket, bytes, plain) };
        if !tls.is_open() {
            tls.keep(bytes);
            return Ok(());
        }
        let mut websocket_end = Ok(());
        let decrypted = tls.decrypt(bytes, records, own, &mut |bytes| {
            if websocket_end.is_ok() {
                websocket_end = pass_websocket(websocket, bytes, plain);
            }
        });
        decrypted.map_err(|why| LayerError::Tls { in_handshake: false, why }).and(websocket_end)
    }

    /// Whether the layers have something to write that is not MQTT's.
    pub(crate) fn has_own(&self) -> bool {
        !self.own.is_empty()
            || self.websocket.as_ref().is_some_and(|ws| {
                !ws.own.is_empty()
                    || !ws.response.is_empty()
                    || ws.frames().is_some_and(|frames| frames.owes_pong())
            })
    }

    /// Nothing more is understood.
    pub(crate) fn give_up(&mut self) {
        self.has_failed = true;
    }

    /// Whether all that was to be written is with the kernel.
    pub(crate) fn is_flushed(&self) -> bool {
        !self.is_writing && !self.has_own()
    }

    /// The write in flight is with the kernel.
    pub(crate) fn on_written(&mut self) {
        self.is_writing = false;
    }

    /// Queues the closing words of every layer, behind what waits already. MQTT has nothing more to say.
    pub(crate) fn say_goodbye(&mut self, code: CloseCode) {
        if core::mem::replace(&mut self.said_goodbye, true) {
            return;
        }
        if let Some(ws) = &mut self.websocket
            && let WebSocketState::Open(frames) = &ws.state
        {
            frames::put_close(frames.closed().unwrap_or(code), &mut ws.own);
        }
        if let Some(tls) = &mut self.tls
            && tls.is_open()
        {
            // The pong that may be due goes first; an error means that there is nobody to say it to.
            let mut words = BytesMut::new();
            if let Some(ws) = &mut self.websocket {
                ws.take_own(&mut words);
            }
            if !words.is_empty() {
                let _ = tls.encrypt(&words, &mut self.own);
            }
            let _ = tls.close(&mut self.own);
        }
    }

    /// The next write: what the layers have to say themselves, then as much of MQTT's output as one write takes. `None`
    /// while one is in flight, or when there is nothing.
    pub(crate) fn take_batch(&mut self, output: &mut Output, scratch: &mut Scratch) -> Option<WriteBatch> {
        if self.is_writing {
            return None;
        }
        let is_open = self.stage() == Stage::Open && !self.has_failed && !self.said_goodbye;
        let batch = match self.tls.as_ref().is_some_and(|tls| tls.is_open()) {
            true => self.sealed_batch(output, is_open, scratch),
            false => self.open_batch(output, is_open),
        };
        self.is_writing = !batch.is_empty();
        self.is_writing.then_some(batch)
    }

    /// Without TLS, or before its handshake is over: large payloads go by reference.
    fn open_batch(&mut self, output: &mut Output, is_open: bool) -> WriteBatch {
        let mut head = core::mem::take(&mut self.own);
        if let Some(ws) = self.websocket.as_mut().filter(|_| self.tls.is_none()) {
            ws.take_own(&mut head);
        }
        let mqtt = is_open.then(|| output.take_batch()).flatten().unwrap_or_default();
        if !mqtt.is_empty() && self.websocket.is_some() {
            frames::put_data_head(mqtt.iter().map(bytes::Bytes::len).sum(), &mut head);
        }
        if head.is_empty() {
            return mqtt;
        }
        core::iter::once(head.freeze()).chain(mqtt).collect()
    }

    /// Everything of one write is sealed together, so that small packets share records.
    fn sealed_batch(&mut self, output: &mut Output, is_open: bool, scratch: &mut Scratch) -> WriteBatch {
        let plain = &mut scratch.batch;
        let mut sealed = core::mem::take(&mut self.own);
        if let Some(ws) = &mut self.websocket {
            ws.take_own(plain);
        }
        let mqtt = is_open.then(|| output.take_batch_up_to(SEALED_BYTES_MAX)).flatten().unwrap_or_default();
        if !mqtt.is_empty() && self.websocket.is_some() {
            frames::put_data_head(mqtt.iter().map(bytes::Bytes::len).sum(), plain);
        }
        mqtt.iter().for_each(|chunk| plain.put_slice(chunk));
        let tls = self.tls.as_mut().expect("it is open");
        if !plain.is_empty() && tls.encrypt(plain, &mut sealed).is_err() {
            self.has_failed = true;
        }
        plain.clear();
        if sealed.is_empty() { WriteBatch::new() } else { WriteBatch::from_iter([sealed.freeze()]) }
    }
}

impl WebSocket {
    fn frames(&self) -> Option<&Frames> {
        match &self.state {
            WebSocketState::Open(frames) => Some(frames),
            _ => None,
        }
    }

    fn buffered_bytes(&self) -> usize {
        let state = match &self.state {
            WebSocketState::Upgrading(upgrade) => upgrade.buffered_bytes(),
            WebSocketState::Open(frames) => frames.buffered_bytes(),
            WebSocketState::Failed => 0,
        };
        state + self.response.len() + self.own.len()
    }

    /// Moves what this layer has to say behind what is in `out`: a pong goes behind the response and in front of a close.
    fn take_own(&mut self, out: &mut BytesMut) {
        out.put_slice(&core::mem::take(&mut self.response));
        if let WebSocketState::Open(frames) = &mut self.state
            && let Some(payload) = frames.take_pong()
        {
            frames::put_pong(&payload, out);
        }
        out.put_slice(&core::mem::take(&mut self.own));
    }

    fn handle_bytes(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) -> Result<(), LayerError> {
        if let WebSocketState::Upgrading(upgrade) = &mut self.state {
            match upgrade.handle_bytes(bytes) {
                Answer::Wait => return Ok(()),
                Answer::Refuse { response } => {
                    self.own.put_slice(&response);
                    self.state = WebSocketState::Failed;
                    return Err(LayerError::Upgrade);
                }
                Answer::Accept { response, used } => {
                    self.response = response;
                    self.state = WebSocketState::Open(Frames::new(upgrade.rules().frame_bytes_max));
                    bytes = &bytes[used..];
                }
            }
        }
        let WebSocketState::Open(frames) = &mut self.state else { return Ok(()) };
        frames.handle_bytes(bytes, plain).map_err(|code| {
            frames::put_close(code, &mut self.own);
            self.state = WebSocketState::Failed;
            LayerError::WebSocket
        })
    }
}

fn pass_websocket(
    websocket: &mut Option<Box<WebSocket>>,
    bytes: &[u8],
    plain: &mut Vec<u8>,
) -> Result<(), LayerError> {
    match websocket {
        Some(websocket) => websocket.handle_bytes(bytes, plain),
        None => {
            plain.extend_from_slice(bytes);
            Ok(())
        }
    }
}

/// MQTT bytes sealed in one write: what the kernel's send buffer of a connection takes (64 KiB).
const SEALED_BYTES_MAX: usize = 64 << 10;

/// With more than a full record waiting for its turn, the stream is not read.
const HANDSHAKE_PAUSE_BYTES: usize = 16 << 10;
