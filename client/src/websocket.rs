//! MQTT over a WebSocket, the client's side, without I/O (feature `websocket-core`; RFC 6455, MQTT 5.0 §6).
//!
//! ```text
//!            the answer is right                 CLOSE, either way
//!   Opening ─────────────────────▶ Open ───────────────────────────▶ Closed
//!
//!   handle_bytes ──▶ frames ──▶ bytes of MQTT, appended to the caller's buffer
//!   write ─────────▶ one binary frame, masked ──▶ poll_output
//! ```
//! MQTT is a stream of bytes here: packets may span frames and frames may hold many packets `[MQTT-6.0.0-2]`, so payloads are handed
//! on as they come and no frame is ever held. What is written before the connection is open leaves when it is.
//!
//! Invariants: nothing is sent unmasked (RFC 6455 §5.1); the answer to a PING replaces one that was not sent yet (§5.5.3), so
//! a server cannot make the output grow; after a CLOSE nothing but its answer is sent.

use std::fmt;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use fastrand::Rng;

/// One WebSocket connection that carries MQTT.
pub struct WebSocketStream {
    state: State,
    random: Rng,
    /// What the server must answer to our key.
    accept: String,
    /// The head of the answer, or the header of a frame, as far as it has come.
    partial: Vec<u8>,
    frame: Option<Frame>,
    /// A message in several frames is under way.
    fragmented: bool,
    /// Frames to be sent.
    output: BytesMut,
    /// Bytes of MQTT that wait for the connection to open.
    early: BytesMut,
    /// The answer to the latest PING.
    pong: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    Open,
    Closed,
}

/// The frame whose payload is coming in.
struct Frame {
    opcode: u8,
    left: u64,
    /// Of a control frame, at most 125 bytes.
    control: Vec<u8>,
}

/// The server broke the protocol, or does not speak MQTT over WebSocket here. A CLOSE that says so may be in the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketError(String);

impl fmt::Display for WebSocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebSocket: {}", self.0)
    }
}

impl std::error::Error for WebSocketError {}

impl WebSocketStream {
    /// A connection that begins: its request for `path` at `host` (with its port) is in the output.
    ///
    /// `seed` makes the key and the masks. Masks protect servers in between from bytes that someone else chose: who carries
    /// such bytes seeds from the system's randomness.
    ///
    /// # Panics
    /// If `host` or `path` hold blanks or control characters, which would end the line.
    pub fn new(host: &str, path: &str, seed: u64) -> Self {
        let is_token = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(is_token(host) && is_token(path), "host and path are parts of a URL");
        let mut random = Rng::with_seed(seed);
        let mut nonce = [0; 16];
        random.fill(&mut nonce);
        let key = STANDARD.encode(nonce);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
        );
        Self {
            state: State::Opening,
            random,
            accept: accept_of(&key),
            partial: Vec::new(),
            frame: None,
            fragmented: false,
            output: BytesMut::from(request.as_bytes()),
            early: BytesMut::new(),
            pong: None,
        }
    }

    /// Takes what has arrived, and appends the bytes of MQTT in it to `mqtt`. After the end of the connection it takes and
    /// ignores everything.
    ///
    /// # Errors
    /// The connection is over; see [`WebSocketError`].
    pub fn handle_bytes(&mut self, bytes: &[u8], mqtt: &mut Vec<u8>) -> Result<(), WebSocketError> {
        let result = self.take(bytes, mqtt);
        if result.is_err() {
            self.close(CLOSE_PROTOCOL_ERROR);
            self.state = State::Closed;
        }
        result
    }

    /// The connection is open, and has not ended.
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// The server has closed the connection, or we have.
    pub fn is_ended(&self) -> bool {
        self.state == State::Closed
    }

    /// Writes bytes of MQTT as one frame. After the end of the connection they are dropped.
    pub fn write(&mut self, mqtt: &[u8]) {
        match self.state {
            State::Opening => self.early.extend_from_slice(mqtt),
            State::Open => self.write_frame(BINARY, mqtt),
            State::Closed => {}
        }
    }

    /// Closes the connection with a code of RFC 6455 §7.4.1; 1000 is the normal one.
    pub fn close(&mut self, code: u16) {
        if self.state == State::Open {
            self.write_frame(CLOSE, &code.to_be_bytes());
            self.state = State::Closed;
        }
    }

    /// Bytes that wait to be sent, joined.
    pub fn poll_output(&mut self) -> Option<Bytes> {
        if let Some(payload) = self.pong.take() {
            self.write_frame(PONG, &payload);
        }
        (!self.output.is_empty()).then(|| self.output.split().freeze())
    }

    fn take(&mut self, mut bytes: &[u8], mqtt: &mut Vec<u8>) -> Result<(), WebSocketError> {
        if self.state == State::Opening {
            bytes = self.on_answer(bytes)?;
        }
        while self.state == State::Open {
            if self.frame.is_none() {
                self.on_header(&mut bytes)?;
            }
            let Some(frame) = &mut self.frame else { break };
            let count = usize::try_from(frame.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (payload, rest) = bytes.split_at(count);
            bytes = rest;
            frame.left -= count as u64;
            let is_control = frame.opcode >= CLOSE;
            if is_control {
                frame.control.extend_from_slice(payload);
            } else {
                mqtt.extend_from_slice(payload);
            }
            if frame.left > 0 {
                break;
            }
            if let Some(frame) = self.frame.take().filter(|_| is_control) {
                self.on_control(frame);
            }
        }
        Ok(())
    }

    /// Collects the answer to our request; returns what comes after it.
    fn on_answer<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], WebSocketError> {
        let before = self.partial.len();
        self.partial.extend_from_slice(bytes);
        let from = before.saturating_sub(HEAD_END.len() - 1);
        let end = self.partial[from..].windows(HEAD_END.len()).position(|window| window == HEAD_END);
        let Some(end) = end.map(|end| from + end + HEAD_END.len()) else {
            return if self.partial.len() > HEAD_BYTES_MAX {
                Err(wrong("an answer without an end"))
            } else {
                Ok(&[])
            };
        };
        let head = std::mem::take(&mut self.partial);
        let head = std::str::from_utf8(&head[..end]).map_err(|_| wrong("an answer that is no text"))?;
        check_answer(head, &self.accept)?;
        self.state = State::Open;
        if !self.early.is_empty() {
            let early = self.early.split();
            self.write_frame(BINARY, &early);
        }
        Ok(&bytes[end - before..])
    }

    /// Collects the header of the next frame (RFC 6455 §5.2).
    fn on_header(&mut self, bytes: &mut &[u8]) -> Result<(), WebSocketError> {
        loop {
            let needed = header_bytes(&self.partial);
            if self.partial.len() == needed {
                break;
            }
            let count = (needed - self.partial.len()).min(bytes.len());
            if count == 0 {
                return Ok(());
            }
            let (part, rest) = bytes.split_at(count);
            self.partial.extend_from_slice(part);
            *bytes = rest;
        }
        let frame = self.frame_of_header()?;
        self.partial.clear();
        self.frame = Some(frame);
        Ok(())
    }

    fn frame_of_header(&mut self) -> Result<Frame, WebSocketError> {
        let (first, second) = (self.partial[0], self.partial[1]);
        let (is_final, opcode) = (first & FINAL != 0, first & OPCODE_MASK);
        if first & RESERVED != 0 {
            return Err(wrong("reserved bits"));
        }
        if second & MASKED != 0 {
            return Err(wrong("a masked frame from a server"));
        }
        let left = match (second & LENGTH_MASK, &self.partial[2..]) {
            (LENGTH_IN_2, length) => u64::from(u16::from_be_bytes(length.try_into().expect("two bytes"))),
            (LENGTH_IN_8, length) => u64::from_be_bytes(length.try_into().expect("eight bytes")),
            (length, _) => length.into(),
        };
        match opcode {
            CONTINUATION if self.fragmented => self.fragmented = !is_final,
            BINARY if !self.fragmented => self.fragmented = !is_final,
            CLOSE | PING | PONG if is_final && left <= CONTROL_BYTES_MAX => {}
            CONTINUATION | BINARY => return Err(wrong("fragments out of order")),
            // [MQTT-6.0.0-1]
            TEXT => return Err(wrong("a text frame")),
            _ => return Err(wrong("an unknown or malformed frame")),
        }
        Ok(Frame { opcode, left, control: Vec::new() })
    }

    fn on_control(&mut self, frame: Frame) {
        match frame.opcode {
            PING => self.pong = Some(frame.control),
            CLOSE => {
                self.pong = None;
                self.write_frame(CLOSE, &frame.control[..frame.control.len().min(2)]);
                self.state = State::Closed;
            }
            // A PONG that nobody asked for (§5.5.3).
            _ => {}
        }
    }

    fn write_frame(&mut self, opcode: u8, payload: &[u8]) {
        self.output.reserve(payload.len() + HEADER_BYTES_MAX);
        self.output.extend_from_slice(&[FINAL | opcode]);
        match payload.len() {
            length @ 0..126 => self.output.extend_from_slice(&[MASKED | length as u8]),
            length @ 126..65_536 => {
                self.output.extend_from_slice(&[MASKED | LENGTH_IN_2]);
                self.output.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                self.output.extend_from_slice(&[MASKED | LENGTH_IN_8]);
                self.output.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        let key = self.random.u32(..).to_ne_bytes();
        self.output.extend_from_slice(&key);
        let start = self.output.len();
        self.output.extend_from_slice(payload);
        mask(&mut self.output[start..], key);
    }
}

/// Masks, or unmasks (RFC 6455 §5.3).
fn mask(bytes: &mut [u8], key: [u8; 4]) {
    let mut words = bytes.chunks_exact_mut(4);
    for word in &mut words {
        word.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
    }
    words.into_remainder().iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
}

/// How long a header is, as far as what has come of it tells.
fn header_bytes(partial: &[u8]) -> usize {
    match partial.get(1).map(|second| second & LENGTH_MASK) {
        Some(LENGTH_IN_2) => 4,
        Some(LENGTH_IN_8) => 10,
        _ => 2,
    }
}

/// Checks the head of the answer (RFC 6455 §4.1, `[MQTT-6.0.0-4]`).
fn check_answer(head: &str, accept: &str) -> Result<(), WebSocketError> {
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let mut words = status.split(' ');
    if !words.next().is_some_and(|version| version.starts_with("HTTP/1.")) || words.next() != Some("101") {
        return Err(WebSocketError(format!("the server answered {status:?}")));
    }
    let headers: Vec<_> = lines.filter_map(|line| line.split_once(':')).collect();
    let values = |wanted: &str| {
        let of_name = headers.iter().filter(move |(name, _)| name.trim().eq_ignore_ascii_case(wanted));
        of_name.flat_map(|(_, value)| value.split(',').map(str::trim)).collect::<Vec<_>>()
    };
    let has = |name: &str, wanted: &str| values(name).iter().any(|value| value.eq_ignore_ascii_case(wanted));
    if !has("upgrade", "websocket") || !has("connection", "upgrade") {
        return Err(wrong("the server did not upgrade"));
    }
    if values("sec-websocket-accept") != [accept] {
        return Err(wrong("the server did not understand our key"));
    }
    if values("sec-websocket-protocol") != [SUBPROTOCOL] {
        return Err(wrong("the server did not choose the subprotocol mqtt"));
    }
    if !values("sec-websocket-extensions").is_empty() {
        return Err(wrong("an extension that nobody asked for"));
    }
    Ok(())
}

/// What proves that the server has understood `key` (RFC 6455 §4.2.2).
fn accept_of(key: &str) -> String {
    let joined = format!("{key}{GUID}");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, joined.as_bytes()))
}

fn wrong(what: &str) -> WebSocketError {
    WebSocketError(what.to_owned())
}

const SUBPROTOCOL: &str = "mqtt";
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const HEAD_END: &[u8] = b"\r\n\r\n";
/// The head of an answer that is longer than this is none.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Two bytes, eight of length, four of the mask.
const HEADER_BYTES_MAX: usize = 14;
const CONTROL_BYTES_MAX: u64 = 125;
const CLOSE_PROTOCOL_ERROR: u16 = 1002;

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE_MASK: u8 = 0x0f;
const MASKED: u8 = 0x80;
const LENGTH_MASK: u8 = 0x7f;
const LENGTH_IN_2: u8 = 126;
const LENGTH_IN_8: u8 = 127;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 5;

    fn answer(stream: &WebSocketStream) -> String {
        let accept = &stream.accept;
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        )
    }

    fn open() -> WebSocketStream {
        let mut stream = WebSocketStream::new("broker:8083", "/mqtt", SEED);
        let request = stream.poll_output().unwrap();
        assert!(request.starts_with(b"GET /mqtt HTTP/1.1\r\nHost: broker:8083\r\n"));
        let answer = answer(&stream);
        stream.handle_bytes(answer.as_bytes(), &mut Vec::new()).unwrap();
        assert!(stream.is_open());
        stream
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..126 => frame.push(length as u8),
            length @ 126..65_536 => {
                frame.push(126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        frame
    }

    /// Takes one of our frames apart: its first byte and its payload.
    fn unmasked(frame: &[u8]) -> (u8, Vec<u8>) {
        assert_eq!(frame[1] & MASKED, MASKED);
        let (start, length) = match frame[1] & LENGTH_MASK {
            126 => (4, usize::from(u16::from_be_bytes([frame[2], frame[3]]))),
            127 => (10, u64::from_be_bytes(frame[2..10].try_into().unwrap()) as usize),
            length => (2, length.into()),
        };
        let key = frame[start..start + 4].try_into().unwrap();
        let mut payload = frame[start + 4..].to_vec();
        assert_eq!(payload.len(), length);
        mask(&mut payload, key);
        (frame[0], payload)
    }

    #[test]
    fn the_key_of_the_standard_is_understood() {
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_written_early_leaves_when_it_is_open() {
        let mut stream = WebSocketStream::new("b", "/", SEED);
        stream.poll_output();
        stream.write(b"con");
        stream.write(b"nect");
        assert_eq!(stream.poll_output(), None);
        let answer = answer(&stream);
        for byte in answer.as_bytes() {
            stream.handle_bytes(&[*byte], &mut Vec::new()).unwrap();
        }
        assert_eq!(unmasked(&stream.poll_output().unwrap()), (0x82, b"connect".to_vec()));
    }

    #[test]
    fn frames_of_every_length_go_both_ways_in_any_pieces() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 200_000] {
            let payload: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
            let mut stream = open();
            stream.write(&payload);
            assert_eq!(unmasked(&stream.poll_output().unwrap()), (0x82, payload.clone()));
            for step in [1, 3, 4096, 1 << 20] {
                let mut mqtt = Vec::new();
                for piece in frame(0x82, &payload).chunks(step) {
                    stream.handle_bytes(piece, &mut mqtt).unwrap();
                }
                assert_eq!(mqtt, payload);
            }
        }
    }

    #[test]
    fn fragments_are_joined_and_pings_answered_in_between() {
        let mut stream = open();
        let mut bytes = frame(0x02, b"ab");
        bytes.extend(frame(0x89, b"first"));
        bytes.extend(frame(0x00, b"cd"));
        bytes.extend(frame(0x89, b"second"));
        bytes.extend(frame(0x80, b"e"));
        bytes.extend(frame(0x82, b"f"));
        let mut mqtt = Vec::new();
        stream.handle_bytes(&bytes, &mut mqtt).unwrap();
        assert_eq!(mqtt, b"abcdef");
        assert_eq!(unmasked(&stream.poll_output().unwrap()), (0x8a, b"second".to_vec()));
        assert_eq!(stream.poll_output(), None);
    }

    #[test]
    fn a_close_is_answered_and_ends_everything() {
        let mut stream = open();
        let mut bytes = frame(0x88, &[3, 232, b'b', b'y', b'e']);
        bytes.extend(frame(0x82, b"late"));
        let mut mqtt = Vec::new();
        stream.handle_bytes(&bytes, &mut mqtt).unwrap();
        assert!(stream.is_ended() && mqtt.is_empty());
        assert_eq!(unmasked(&stream.poll_output().unwrap()), (0x88, vec![3, 232]));
        stream.write(b"lost");
        stream.close(1000);
        assert_eq!(stream.poll_output(), None);
    }

    #[test]
    fn we_may_close_first() {
        let mut stream = open();
        stream.close(1000);
        assert_eq!(unmasked(&stream.poll_output().unwrap()), (0x88, vec![3, 232]));
        assert!(stream.is_ended());
    }

    #[test]
    fn what_breaks_the_protocol_is_refused_and_told() {
        let cases: [&[u8]; 9] = [
            &[0xc2, 0],                // reserved bit
            &[0x82, 0x80, 0, 0, 0, 0], // masked
            &[0x81, 0],                // text
            &[0x80, 0],                // continuation of nothing
            &[0x02, 0, 0x82, 0],       // a new message within a message
            &[0x09, 0],                // a fragmented ping
            &[0x89, 126, 0, 126],      // a long ping
            &[0x83, 0],                // unknown data
            &[0x8b, 0],                // unknown control
        ];
        for bytes in cases {
            let mut stream = open();
            assert!(stream.handle_bytes(bytes, &mut Vec::new()).is_err(), "{bytes:x?}");
            assert_eq!(unmasked(&stream.poll_output().unwrap()), (0x88, vec![3, 234]), "{bytes:x?}");
        }
    }

    #[test]
    fn wrong_answers_are_refused() {
        let right = answer(&WebSocketStream::new("b", "/", SEED));
        for (from, to) in [
            ("101 Switching Protocols", "404 Not Found"),
            ("HTTP/1.1", "SPDY/3"),
            ("upgrade: WebSocket", "upgrade: h2c"),
            ("keep-alive, Upgrade", "keep-alive"),
            ("Accept: ", "Accept: x"),
            ("Protocol: mqtt", "Protocol: mqttv3.1"),
            ("Sec-WebSocket-Protocol: mqtt\r\n", ""),
            ("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
        ] {
            let wrong = right.replacen(from, to, 1);
            assert_ne!(wrong, right);
            let mut stream = WebSocketStream::new("b", "/", SEED);
            assert!(stream.handle_bytes(wrong.as_bytes(), &mut Vec::new()).is_err(), "{wrong}");
        }
        let mut stream = WebSocketStream::new("b", "/", SEED);
        assert!(stream.handle_bytes(&vec![b'x'; HEAD_BYTES_MAX + 1], &mut Vec::new()).is_err());
    }
}
