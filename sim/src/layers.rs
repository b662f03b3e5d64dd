//! The client's half of what lies on a byte stream: PROXY header, TLS, WebSocket, as its door wants them.
//!
//! ```text
//!   MQTT ─write─► [frames: whole, in fragments, with pings between] ─► [records] ─► [header in front] ─poll_output─► stream
//!   MQTT ◄─────── [frames] ◄─────────────────────────────────────────── [records] ◄──handle_bytes── stream
//! ```
//! TLS and WebSocket are the client library's. Fragments and pings are made here: the library has no use for them, but the
//! broker must take them from others (RFC 6455 §5.4, §5.5.2). What the broker answers to pings is watched here too.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quelea_client::tls::TlsStream;
use quelea_client::websocket::WebSocketStream;

use crate::crypto::SERVER_NAME;

/// Which layers a door has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind(u8);

impl Kind {
    /// All of them; the first has no layer.
    pub(crate) const COUNT: usize = 8;

    pub(crate) const PLAIN: Self = Self(0);

    pub(crate) fn from_index(index: usize) -> Self {
        Self(index as u8)
    }

    pub(crate) fn index(self) -> usize {
        self.0.into()
    }

    pub(crate) fn is_plain(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn has_proxy(self) -> bool {
        self.0 & 1 != 0
    }

    pub(crate) fn has_tls(self) -> bool {
        self.0 & 2 != 0
    }

    pub(crate) fn has_websocket(self) -> bool {
        self.0 & 4 != 0
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let layers =
            [(self.has_proxy(), "PROXY "), (self.has_tls(), "TLS "), (self.has_websocket(), "WebSocket ")];
        layers.iter().filter(|(has, _)| *has).try_for_each(|(_, name)| f.write_str(name))?;
        f.write_str("stream")
    }
}

/// How a client splits what it writes into frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Framing {
    /// Percent of writes that are split.
    pub(crate) split_percent: u32,
    /// Percent of frames with a ping in front.
    pub(crate) ping_percent: u32,
    /// Longest frame that the broker takes.
    pub(crate) frame_bytes_max: usize,
}

/// The client's half of the layers of one byte stream.
pub(crate) struct ClientLayers {
    /// Comes first.
    header: Bytes,
    tls: Option<TlsStream>,
    websocket: Option<WebSocketStream>,
    framing: Framing,
    random: fastrand::Rng,
    /// Behind WebSocket and in front of TLS.
    framed: BytesMut,
    pings: u32,
    watch: PongWatch,
}

impl ClientLayers {
    /// The layers of a stream that begins.
    pub(crate) fn new(
        kind: Kind,
        header: Bytes,
        tls: Arc<rustls::ClientConfig>,
        framing: Framing,
        seed: u64,
    ) -> Self {
        let tls = kind.has_tls().then(|| TlsStream::new(tls, SERVER_NAME).expect("a valid configuration"));
        let websocket = kind.has_websocket().then(|| WebSocketStream::new(SERVER_NAME, PATH, seed));
        Self {
            header,
            tls,
            websocket,
            framing,
            random: fastrand::Rng::with_seed(seed),
            framed: BytesMut::new(),
            pings: 0,
            watch: PongWatch::default(),
        }
    }

    /// Without WebSocket's half: for those who have something else to say there.
    pub(crate) fn forget_websocket(&mut self) {
        self.websocket = None;
    }

    /// Takes what has come, and appends the bytes of MQTT in it to `mqtt`.
    pub(crate) fn handle_bytes(&mut self, bytes: &[u8], mqtt: &mut Vec<u8>) -> Result<(), String> {
        let mut opened = Vec::new();
        let bytes = match &mut self.tls {
            Some(tls) => {
                tls.handle_bytes(bytes, &mut opened).map_err(|error| error.to_string())?;
                &opened
            }
            None => bytes,
        };
        let Some(websocket) = &mut self.websocket else {
            mqtt.extend_from_slice(bytes);
            return Ok(());
        };
        self.watch.handle_bytes(bytes);
        websocket.handle_bytes(bytes, mqtt).map_err(|error| error.to_string())
    }

    /// Writes bytes of MQTT; `exceeds`: without regard to the longest frame that the broker takes.
    pub(crate) fn write(&mut self, mqtt: &[u8], exceeds: bool) {
        let Some(websocket) = &mut self.websocket else {
            return self.framed.extend_from_slice(mqtt);
        };
        if !websocket.is_open() {
            // What is early leaves in one frame with the broker's answer; it is a CONNECT, and short.
            return websocket.write(mqtt);
        }
        let longest = if exceeds { usize::MAX } else { self.framing.frame_bytes_max };
        let split = self.random.u32(0..100) < self.framing.split_percent;
        let mut rest = mqtt;
        let mut frames = 0;
        while !rest.is_empty() {
            let most = rest.len().min(longest);
            let cut = split && frames < FRAMES_MAX;
            let (piece, after) = rest.split_at(if cut { self.random.usize(1..=most) } else { most });
            rest = after;
            frames += 1;
            self.write_message(piece, split);
        }
    }

    /// Pings no more.
    pub(crate) fn calm(&mut self) {
        self.framing.ping_percent = 0;
    }

    /// One message: in a frame, or in several.
    fn write_message(&mut self, piece: &[u8], split: bool) {
        self.maybe_ping();
        if !split || piece.len() < 2 || self.random.bool() {
            let websocket = self.websocket.as_mut().expect("it is open");
            websocket.write(piece);
            return self.collect_frames();
        }
        let (first, second) = piece.split_at(self.random.usize(0..piece.len()));
        self.put_frame(BINARY, first);
        self.maybe_ping();
        self.put_frame(FINAL | CONTINUATION, second);
    }

    fn maybe_ping(&mut self) {
        if self.random.u32(0..100) < self.framing.ping_percent {
            self.pings += 1;
            let mut payload = vec![0; self.random.usize(4..=CONTROL_BYTES_MAX)];
            payload[..4].copy_from_slice(&self.pings.to_be_bytes());
            self.put_frame(FINAL | PING, &payload);
        }
    }

    fn put_frame(&mut self, first: u8, payload: &[u8]) {
        let key: [u8; 4] = self.random.u32(..).to_ne_bytes();
        self.framed.extend_from_slice(&[first]);
        match payload.len() {
            length @ 0..126 => self.framed.extend_from_slice(&[MASKED | length as u8]),
            length @ 126..65_536 => {
                self.framed.extend_from_slice(&[MASKED | 126]);
                self.framed.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                self.framed.extend_from_slice(&[MASKED | 127]);
                self.framed.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        self.framed.extend_from_slice(&key);
        self.framed.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    }

    fn collect_frames(&mut self) {
        while let Some(frames) = self.websocket.as_mut().and_then(WebSocketStream::poll_output) {
            self.framed.extend_from_slice(&frames);
        }
    }

    /// Says of each layer that nothing more comes, or not of each.
    pub(crate) fn say_goodbye(&mut self, close: bool, close_notify: bool) {
        if let Some(websocket) = &mut self.websocket
            && close
        {
            websocket.close(1000);
        }
        self.collect_frames();
        if let Some(tls) = &mut self.tls {
            tls.write(&self.framed.split());
            if close_notify {
                tls.finish();
            }
        }
    }

    /// Bytes for the stream.
    pub(crate) fn poll_output(&mut self) -> Option<Bytes> {
        self.collect_frames();
        let mut output = BytesMut::from(&std::mem::take(&mut self.header)[..]);
        match &mut self.tls {
            Some(tls) => {
                if !self.framed.is_empty() {
                    tls.write(&self.framed.split());
                }
                while let Some(records) = tls.poll_output() {
                    output.extend_from_slice(&records);
                }
            }
            None => output.extend_from_slice(&self.framed.split()),
        }
        (!output.is_empty()).then(|| output.freeze())
    }

    /// What the broker has not said although it has ended the stream in order.
    pub(crate) fn missing_words(&self) -> Option<&'static str> {
        if self.tls.as_ref().is_some_and(|tls| !tls.is_ended()) {
            return Some("close_notify");
        }
        self.websocket.as_ref().is_some_and(|websocket| !websocket.is_ended()).then_some("a close frame")
    }

    /// Whether the last ping was answered.
    pub(crate) fn is_ponged(&self) -> bool {
        self.watch.last == self.pings
    }
}

/// Reads the broker's frames beside the client library, which has no use for pongs.
#[derive(Debug, Default)]
struct PongWatch {
    /// The response's head is over.
    open: bool,
    /// The end of the head so far, or the frame that comes in, as far as it is of interest.
    partial: Vec<u8>,
    /// Of a frame's payload.
    left: u64,
    /// The ping that was answered last.
    last: u32,
}

impl PongWatch {
    fn handle_bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.on_byte(*byte);
        }
    }

    fn on_byte(&mut self, byte: u8) {
        if self.open && self.left > 0 && self.partial.len() >= KEPT {
            self.left -= 1;
        } else {
            self.partial.push(byte);
            if !self.open {
                self.open = self.partial.ends_with(b"\r\n\r\n");
                if self.open {
                    self.partial.clear();
                }
                return;
            }
            match self.head() {
                None => return,
                Some((head, length)) if self.partial.len() == head => self.left = length,
                Some(_) => self.left -= 1,
            }
        }
        if self.left == 0 {
            self.on_frame();
        }
    }

    /// Length of the head and of the payload, when they are known.
    fn head(&self) -> Option<(usize, u64)> {
        let (head, length) = match (*self.partial.get(1)?, self.partial.get(2..)?) {
            (126, length) => (4, u16::from_be_bytes(*length.first_chunk()?).into()),
            (127, length) => (10, u64::from_be_bytes(*length.first_chunk()?)),
            (length, _) => (2, length.into()),
        };
        Some((head, length))
    }

    fn on_frame(&mut self) {
        // Pongs have short heads.
        if self.partial[0] == FINAL | PONG
            && let Some(number) = self.partial.get(2..6)
        {
            self.last = u32::from_be_bytes(number.try_into().expect("four bytes"));
        }
        self.partial.clear();
    }
}

/// What stands in front of a stream that comes through a load balancer, for a client of this address.
pub(crate) fn proxy_header(client: SocketAddr, binary: bool, extension: usize) -> Vec<u8> {
    let SocketAddr::V4(client) = client else { unreachable!("clients of the run have IPv4 addresses") };
    if !binary {
        return format!("PROXY TCP4 {} 192.0.2.1 {} 8883\r\n", client.ip(), client.port()).into_bytes();
    }
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend_from_slice(&((12 + extension) as u16).to_be_bytes());
    header.extend_from_slice(&client.ip().octets());
    header.extend_from_slice(&[192, 0, 2, 1]);
    header.extend_from_slice(&client.port().to_be_bytes());
    header.extend_from_slice(&8_883_u16.to_be_bytes());
    header.resize(header.len() + extension, 0x5A);
    header
}

/// Of the door's WebSockets.
pub(crate) const PATH: &str = "/mqtt";

/// Enough of a frame to know a pong.
const KEPT: usize = 14;
/// More pieces of one write would only cost time.
const FRAMES_MAX: usize = 16;
const CONTROL_BYTES_MAX: usize = 125;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const PING: u8 = 9;
const PONG: u8 = 10;
