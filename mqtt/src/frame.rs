//! The fixed header: where a packet ends, and whether it may come at all.
//!
//! This is the first look at received bytes. It refuses what the first bytes already show to be wrong, above all a
//! length over the limit, before a single byte of the body has to be kept.

use core::fmt;

use crate::error::{DecodeError, DecodeErrorKind};
use crate::version::Version;

/// The largest remaining length that four bytes can say (MQTT 5.0 §1.5.5).
pub const PACKET_BYTES_MAX: u32 = 268_435_455;

/// What a receiver takes; everything above is refused with a reason code before anything is allocated for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole packet, its fixed header included (refused with 0x95).
    pub packet_bytes_max: u32,
    /// Levels of a topic name or filter (refused with 0x90, or 0x8F in SUBACK).
    pub topic_levels_max: usize,
    /// User properties of one property section (refused with 0x97).
    pub user_properties_max: usize,
    /// Filters of one SUBSCRIBE or UNSUBSCRIBE (refused with 0x97).
    pub filters_max: usize,
}

impl Default for Limits {
    /// 1 MiB, 128 levels, 64 user properties, 1,024 filters.
    ///
    /// The packet and the levels are the broker's published defaults. 64 user properties are several times what tracing
    /// and routing headers use; 1,024 filters are more than clients send at once, and a SUBACK for them fits in 2 KiB.
    fn default() -> Self {
        Self { packet_bytes_max: 1 << 20, topic_levels_max: 128, user_properties_max: 64, filters_max: 1024 }
    }
}

/// Who sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    /// A client: this is a server's view.
    Client,
    /// A server: this is a client's view.
    Server,
}

impl Sender {
    /// The side's bit in [`MAY_START`].
    const fn bit(self) -> u8 {
        match self {
            Self::Client => 1,
            Self::Server => 2,
        }
    }
}

/// The fixed header of a packet whose length is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes of the fixed header: 2 to 5.
    pub header_bytes: usize,
    /// Bytes of the whole packet, fixed header included; at most [`Limits::packet_bytes_max`].
    pub packet_bytes: usize,
    /// The first byte: type and flags.
    pub first: u8,
}

impl Frame {
    /// The type of the packet.
    pub const fn packet_type(&self) -> Option<PacketType> {
        PacketType::from_first_byte(self.first)
    }
}

/// The type of a control packet; the number is the upper half of its first byte (MQTT 5.0 §2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PacketType {
    /// The client's first packet.
    Connect = 1,
    /// The server's first packet.
    ConnAck = 2,
    /// A message.
    Publish = 3,
    /// QoS 1: the message is accepted.
    PubAck = 4,
    /// QoS 2, second step.
    PubRec = 5,
    /// QoS 2, third step.
    PubRel = 6,
    /// QoS 2, last step.
    PubComp = 7,
    /// Filters to subscribe to.
    Subscribe = 8,
    /// The answer to SUBSCRIBE.
    SubAck = 9,
    /// Filters to drop.
    Unsubscribe = 10,
    /// The answer to UNSUBSCRIBE.
    UnsubAck = 11,
    /// Are you there?
    PingReq = 12,
    /// Yes.
    PingResp = 13,
    /// The last packet.
    Disconnect = 14,
    /// A step of enhanced authentication, MQTT 5.0 only.
    Auth = 15,
}

impl PacketType {
    /// The type that a first byte names; type 0 is reserved.
    #[inline]
    pub const fn from_first_byte(first: u8) -> Option<Self> {
        Some(match first >> 4 {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The name in the standard: `PUBLISH`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubAck => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::UnsubAck => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }

    /// True if `sender` may send packets of this type, in whatever version.
    const fn may_come_from(self, sender: Sender) -> bool {
        match self {
            Self::Connect | Self::Subscribe | Self::Unsubscribe | Self::PingReq => {
                matches!(sender, Sender::Client)
            }
            Self::ConnAck | Self::SubAck | Self::UnsubAck | Self::PingResp => {
                matches!(sender, Sender::Server)
            }
            _ => true,
        }
    }

    /// The first byte of a packet of this type; PUBLISH adds its flags.
    pub(crate) const fn first_byte(self) -> u8 {
        let flags = match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        };
        (self as u8) << 4 | flags
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Looks at the start of received bytes: how long is the packet that begins there?
///
/// `Ok(None)` means that more bytes are needed to say; at most five are. A [`Frame`] says nothing about whether the
/// packet's body has arrived: compare [`Frame::packet_bytes`] with what there is.
///
/// # Errors
/// As early as the bytes show it: a reserved type or flags, a packet that `sender` never sends, a remaining length of
/// five bytes or not minimal, a packet over [`Limits::packet_bytes_max`].
#[inline]
pub fn peek_frame(buf: &[u8], sender: Sender, limits: &Limits) -> Result<Option<Frame>, DecodeError> {
    let Some(&first) = buf.first() else { return Ok(None) };
    if MAY_START[first as usize] & sender.bit() == 0 {
        return Err(first_byte_refusal(first));
    }
    let Some(&low) = buf.get(1) else { return Ok(None) };
    let (header_bytes, remaining) = if low < 0x80 {
        (2, usize::from(low))
    } else {
        match long_remaining_length(buf)? {
            Some(header) => header,
            None => return Ok(None),
        }
    };
    let packet_bytes = header_bytes + remaining;
    if packet_bytes > limits.packet_bytes_max as usize {
        return Err(length_refusal(first, DecodeErrorKind::PacketTooLarge));
    }
    Ok(Some(Frame { header_bytes, packet_bytes, first }))
}

/// Bytes of the fixed header and the remaining length, if that has two to four bytes.
fn long_remaining_length(buf: &[u8]) -> Result<Option<(usize, usize)>, DecodeError> {
    let mut remaining = 0;
    for at in 1..=4 {
        let Some(&byte) = buf.get(at) else { return Ok(None) };
        remaining |= usize::from(byte & 0x7F) << (7 * (at - 1));
        if byte == 0 && at > 1 {
            return Err(length_refusal(buf[0], DecodeErrorKind::VarIntNotMinimal));
        }
        if byte < 0x80 {
            return Ok(Some((at + 1, remaining)));
        }
    }
    Err(length_refusal(buf[0], DecodeErrorKind::VarIntTooLong))
}

#[cold]
fn length_refusal(first: u8, kind: DecodeErrorKind) -> DecodeError {
    match PacketType::from_first_byte(first) {
        Some(packet_type) => DecodeError::new(kind, packet_type, "remaining length"),
        None => DecodeError::without_type(kind, "remaining length"),
    }
}

/// Why no packet of this sender starts with `first`: type, flags or direction, in this order.
#[cold]
fn first_byte_refusal(first: u8) -> DecodeError {
    let Some(packet_type) = PacketType::from_first_byte(first) else {
        return DecodeError::without_type(DecodeErrorKind::ReservedPacketType, "packet type");
    };
    if has_legal_flags(packet_type, first) {
        DecodeError::new(DecodeErrorKind::WrongSender, packet_type, "packet type")
    } else {
        DecodeError::new(DecodeErrorKind::Flags, packet_type, "fixed header")
    }
}

const fn has_legal_flags(packet_type: PacketType, first: u8) -> bool {
    let flags = first & 0x0F;
    match packet_type {
        // No QoS 3; `[MQTT-3.3.1-2]`: no DUP with QoS 0.
        PacketType::Publish => flags & 0b0110 != 0b0110 && flags & 0b1110 != 0b1000,
        // MQTT 3.1 lets these three be sent again with DUP; `decode` knows the version and refuses it elsewhere.
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => flags & 0b0111 == 0b0010,
        _ => flags == 0,
    }
}

/// For every first byte, who may send a packet that starts with it: the [`Sender::bit`]s.
const MAY_START: [u8; 256] = {
    let mut table = [0; 256];
    let mut first = 0;
    while first < 256 {
        if let Some(packet_type) = PacketType::from_first_byte(first as u8)
            && has_legal_flags(packet_type, first as u8)
        {
            let client = if packet_type.may_come_from(Sender::Client) { Sender::Client.bit() } else { 0 };
            let server = if packet_type.may_come_from(Sender::Server) { Sender::Server.bit() } else { 0 };
            table[first] = client | server;
        }
        first += 1;
    }
    table
};

/// The version in which a CONNECT that [`decode`](crate::decode) refused should be answered with a CONNACK.
///
/// `packet` is the whole packet. A supported pair of name and level is its own answer; any other level under the name
/// `MQTT` that is above 5 is answered in the shape of 5.0 (0x84), any other in that of 3.1.1 (return code 1, MQTT 3.1.1
/// §3.1.2.2). `None` means that not even the level can be read, or that the name is none of MQTT's: close without an
/// answer (`[MQTT-3.1.2-1]`). So it is for a packet of another type, whatever its bytes look like.
pub fn connect_answer_version(packet: &[u8]) -> Option<Version> {
    if *packet.first()? != PacketType::Connect.first_byte() {
        return None;
    }
    let length_end = packet.iter().skip(1).take(4).position(|byte| *byte < 0x80)?;
    let body = packet.get(length_end + 2..)?;
    let (&[high, low], rest) = body.split_first_chunk::<2>()?;
    let name = rest.get(..usize::from(u16::from_be_bytes([high, low])))?;
    let level = *rest.get(name.len())?;
    match Version::from_name_and_level(name, level) {
        Some(version) => Some(version),
        None if name == b"MQTT" && (6..0x80).contains(&level) => Some(Version::V5),
        None if name == b"MQTT" || name == b"MQIsdp" => Some(Version::V311),
        None => None,
    }
}
