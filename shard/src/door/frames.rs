//! WebSocket frames: from masked bytes to the bytes of MQTT, and back.
//!
//! ```text
//!        ┌───────────────────────────────────────────────┐
//!        ▼                                               │
//!   Head (2..14 bytes) ──data──► Payload (unmasked as it comes, handed on at once)
//!        ▲     └────────control──► Control (at most 125 bytes, gathered) ──► pong, close
//!        └───────────────────────────────────────────────┘
//! ```
//! MQTT is a stream of bytes in frames whose borders mean nothing `[MQTT-6.0.0-2]`: nothing is gathered, neither a frame
//! nor a message, so a connection holds the head of a frame and nothing else. Of several pings only the last is answered
//! (RFC 6455 §5.5.3), so a flood of them costs one pong per turn.
//!
//! Source: RFC 6455 §5. `docs/decisions/0007-layers-of-a-byte-stream.md` says why these are ours.

use bytes::{BufMut, BytesMut};

/// Why a WebSocket is closed (RFC 6455 §7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// All is done.
    pub const NORMAL: Self = Self(1000);
    /// The broker shuts down.
    pub const GOING_AWAY: Self = Self(1001);
    /// Wrong frames, or MQTT packets that break the rules.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// A text frame `[MQTT-6.0.0-1]`.
    pub const UNSUPPORTED: Self = Self(1003);
    /// The reason of a close is not UTF-8.
    pub const INVALID: Self = Self(1007);
    /// The client did something that it may not.
    pub const POLICY: Self = Self(1008);
    /// A frame longer than the limit.
    pub const TOO_BIG: Self = Self(1009);
}

/// The receiving half and what it owes the client.
#[derive(Debug)]
pub(super) struct Frames {
    frame_bytes_max: u64,
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: u8,
    state: State,
    /// A data message has begun and not ended: only its continuation may follow.
    in_message: bool,
    /// The payload of the control frame that comes in.
    control: Vec<u8>,
    /// The last ping's payload, to be sent back.
    pong: Option<Vec<u8>>,
    /// The client's close, to be sent back.
    closed: Option<CloseCode>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Head,
    Data { left: u64, mask: Mask },
    Control { opcode: u8, left: u64, mask: Mask },
}

#[derive(Clone, Copy, Debug)]
struct Mask {
    key: [u8; 4],
    at: usize,
}

impl Mask {
    /// Appends `bytes` without their mask.
    fn lift(&mut self, bytes: &[u8], into: &mut Vec<u8>) {
        let at = self.at;
        // Turned so that it begins with the byte that is due, the key fits each group of four.
        let key = [self.key[at & 3], self.key[(at + 1) & 3], self.key[(at + 2) & 3], self.key[(at + 3) & 3]];
        let before = into.len();
        into.extend_from_slice(bytes);
        let word = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
        let (words, rest) = into[before..].as_chunks_mut::<8>();
        for chunk in words {
            *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
        }
        for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
            *byte ^= key;
        }
        self.at = (at + bytes.len()) & 3;
    }
}

/// The head of a frame.
struct Head {
    opcode: u8,
    is_last: bool,
    length: u64,
    mask: Mask,
}

impl Frames {
    pub(super) fn new(frame_bytes_max: u64) -> Self {
        Self {
            frame_bytes_max,
            head: [0; HEAD_BYTES_MAX],
            head_bytes: 0,
            state: State::Head,
            in_message: false,
            control: Vec::new(),
            pong: None,
            closed: None,
        }
    }

    /// The code with which the client has closed.
    pub(super) fn closed(&self) -> Option<CloseCode> {
        self.closed
    }

    /// The pong that is due.
    pub(super) fn take_pong(&mut self) -> Option<Vec<u8>> {
        self.pong.take()
    }

    pub(super) fn owes_pong(&self) -> bool {
        self.pong.is_some()
    }

    pub(super) fn buffered_bytes(&self) -> usize {
        self.control.len() + self.pong.as_ref().map_or(0, Vec::len)
    }

    /// Appends the MQTT bytes in `bytes` to `plain`. What comes behind a close is thrown away.
    pub(super) fn handle_bytes(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) -> Result<(), CloseCode> {
        while !bytes.is_empty() && self.closed.is_none() {
            match &mut self.state {
                State::Head => {
                    self.head[usize::from(self.head_bytes)] = bytes[0];
                    self.head_bytes += 1;
                    bytes = &bytes[1..];
                    self.on_head_byte()?;
                }
                State::Data { left, mask } => {
                    let (now, later) = split(bytes, *left);
                    mask.lift(now, plain);
                    *left -= now.len() as u64;
                    bytes = later;
                    if *left == 0 {
                        self.state = State::Head;
                    }
                }
                State::Control { opcode, left, mask } => {
                    let (now, later) = split(bytes, *left);
                    mask.lift(now, &mut self.control);
                    *left -= now.len() as u64;
                    bytes = later;
                    if *left == 0 {
                        let opcode = *opcode;
                        self.on_control(opcode)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Begins the frame when its head is whole; refuses it as soon as it is known to be wrong.
    fn on_head_byte(&mut self) -> Result<(), CloseCode> {
        let head = &self.head[..usize::from(self.head_bytes)];
        let opcode = head[0] & 0x0f;
        let is_last = head[0] & 0x80 != 0;
        if head.len() == 1 {
            return self.check_first_byte(head[0]);
        }
        if head[1] & 0x80 == 0 {
            return Err(CloseCode::PROTOCOL_ERROR);
        }
        if opcode & CONTROL != 0 && head[1] & 0x7f > 125 {
            return Err(CloseCode::PROTOCOL_ERROR);
        }
        let Some(Head { opcode, is_last, length, mask }) = parse_head(head, opcode, is_last)? else {
            return Ok(());
        };
        self.head_bytes = 0;
        if length > self.frame_bytes_max {
            return Err(CloseCode::TOO_BIG);
        }
        if opcode & CONTROL != 0 {
            self.control.clear();
            self.state = State::Control { opcode, left: length, mask };
            return if length == 0 { self.on_control(opcode) } else { Ok(()) };
        }
        self.in_message = !is_last;
        if length > 0 {
            self.state = State::Data { left: length, mask };
        }
        Ok(())
    }

    fn check_first_byte(&self, byte: u8) -> Result<(), CloseCode> {
        if byte & 0x70 != 0 {
            // No extension was agreed upon.
            return Err(CloseCode::PROTOCOL_ERROR);
        }
        let is_last = byte & 0x80 != 0;
        let fits = match byte & 0x0f {
            CONTINUATION => self.in_message,
            BINARY => !self.in_message,
            TEXT if !self.in_message => return Err(CloseCode::UNSUPPORTED),
            CLOSE | PING | PONG => is_last,
            _ => false,
        };
        if fits { Ok(()) } else { Err(CloseCode::PROTOCOL_ERROR) }
    }

    fn on_control(&mut self, opcode: u8) -> Result<(), CloseCode> {
        self.state = State::Head;
        let payload = core::mem::take(&mut self.control);
        match opcode {
            PING => self.pong = Some(payload),
            CLOSE => self.closed = Some(close_code_of(&payload)?),
            // A pong that nobody asked for (RFC 6455 §5.5.3).
            _ => {}
        }
        Ok(())
    }
}

fn split(bytes: &[u8], left: u64) -> (&[u8], &[u8]) {
    let now = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    bytes.split_at(now)
}

/// The head of a frame, `None` while bytes of it are missing.
fn parse_head(head: &[u8], opcode: u8, is_last: bool) -> Result<Option<Head>, CloseCode> {
    let (length, mask_at) = match head[1] & 0x7f {
        126 => {
            let Some(bytes) = head.get(2..4) else { return Ok(None) };
            let length = u64::from(u16::from_be_bytes([bytes[0], bytes[1]]));
            (if length > 125 { Some(length) } else { None }, 4)
        }
        127 => {
            let Some(bytes) = head.get(2..10) else { return Ok(None) };
            let length = u64::from_be_bytes(bytes.try_into().expect("eight of them"));
            (if length > 0xffff && length >> 63 == 0 { Some(length) } else { None }, 10)
        }
        short => (Some(u64::from(short)), 2),
    };
    // The shortest form must be used, and the highest bit is not (RFC 6455 §5.2).
    let length = length.ok_or(CloseCode::PROTOCOL_ERROR)?;
    let Some(key) = head.get(mask_at..mask_at + 4) else { return Ok(None) };
    let mask = Mask { key: key.try_into().expect("four of them"), at: 0 };
    Ok(Some(Head { opcode, is_last, length, mask }))
}

/// The code that a close carries, to be sent back.
fn close_code_of(payload: &[u8]) -> Result<CloseCode, CloseCode> {
    match payload {
        [] => Ok(CloseCode::NORMAL),
        [_] => Err(CloseCode::PROTOCOL_ERROR),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            // Others stand for what happens without a frame, or for nothing (RFC 6455 §7.4).
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(CloseCode::PROTOCOL_ERROR);
            }
            match core::str::from_utf8(reason) {
                Ok(_) => Ok(CloseCode(code)),
                Err(_) => Err(CloseCode::INVALID),
            }
        }
    }
}

/// Appends the head of a binary frame of ours with so many bytes in it.
pub(super) fn put_data_head(length: usize, out: &mut BytesMut) {
    out.put_u8(0x80 | BINARY);
    match length {
        0..=125 => out.put_u8(length as u8),
        126..=0xffff => {
            out.put_u8(126);
            out.put_u16(length as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
}

/// Appends a pong with the payload of a ping.
pub(super) fn put_pong(payload: &[u8], out: &mut BytesMut) {
    out.put_u8(0x80 | PONG);
    out.put_u8(payload.len() as u8);
    out.put_slice(payload);
}

/// Appends a close.
pub(super) fn put_close(code: CloseCode, out: &mut BytesMut) {
    out.put_slice(&[0x80 | CLOSE, 2]);
    out.put_u16(code.0);
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// Set in the opcodes of control frames.
const CONTROL: u8 = 8;

const HEAD_BYTES_MAX: usize = 14;
