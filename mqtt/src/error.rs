//! Refusals: what was wrong with bytes that came, and what cannot be put into bytes.

use core::fmt;

use crate::frame::PacketType;
use crate::{ReasonCode, TopicError};

/// Why bytes are not a packet that the protocol allows: the peer's fault, never ours.
///
/// It prints as `PUBLISH, packet identifier: must not be 0 (0x82 protocol error)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    kind: DecodeErrorKind,
    packet: Option<PacketType>,
    field: &'static str,
}

/// The classes of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DecodeErrorKind {
    /// Type 0 in the fixed header.
    ReservedPacketType,
    /// Flags of the fixed header that the standard reserves (`[MQTT-2.1.3-1]`), or QoS 3, or DUP with QoS 0.
    Flags,
    /// A variable byte integer of more than four bytes.
    VarIntTooLong,
    /// A variable byte integer with more bytes than its value needs (`[MQTT-1.5.5-1]`).
    VarIntNotMinimal,
    /// Longer than [`Limits::packet_bytes_max`](crate::Limits::packet_bytes_max).
    PacketTooLarge,
    /// A packet that the other side never sends, such as a CONNACK from a client.
    WrongSender,
    /// A packet that this version of the protocol does not have.
    NotInVersion,
    /// The field reaches past the end of the packet.
    Truncated,
    /// Bytes after the last field.
    TrailingBytes,
    /// Text that is not well-formed UTF-8, surrogates included (`[MQTT-1.5.4-1]`).
    NotUtf8,
    /// Text that holds U+0000 (`[MQTT-1.5.4-2]`).
    Nul,
    /// Protocol name and level are not those of 3.1, 3.1.1 or 5.0 (`[MQTT-3.1.2-1]`, `-2`).
    UnsupportedProtocol,
    /// Reserved bits that are not 0.
    ReservedBits,
    /// A value that the standard does not allow in this field and calls malformed.
    Malformed,
    /// A value that the standard does not allow in this field and calls a protocol error.
    Forbidden,
    /// Zero where a number from 1 on must stand.
    Zero,
    /// A topic alias of 0 (`[MQTT-3.3.2-8]`).
    TopicAliasZero,
    /// A property identifier that the standard does not know.
    UnknownProperty,
    /// A property that this packet may not have (§2.2.2.2).
    PropertyNotAllowed,
    /// A property that may be there once is there twice.
    DuplicateProperty,
    /// Something that must be there is not.
    Missing,
    /// A reason code that this packet, or this sender of it, may not use.
    ReasonNotAllowed,
    /// The topic name cannot be one.
    Topic(TopicError),
    /// The response topic cannot be a topic name (`[MQTT-3.3.2-14]`).
    ResponseTopic(TopicError),
    /// More user properties or filters than [`Limits`](crate::Limits) allows.
    TooMany,
}

impl DecodeErrorKind {
    /// The reason code that CONNACK or DISCONNECT tells the peer.
    pub const fn reason_code(self) -> ReasonCode {
        match self {
            Self::ReservedPacketType
            | Self::Flags
            | Self::VarIntTooLong
            | Self::VarIntNotMinimal
            | Self::Truncated
            | Self::TrailingBytes
            | Self::NotUtf8
            | Self::Nul
            | Self::ReservedBits
            | Self::Malformed
            | Self::UnknownProperty
            | Self::PropertyNotAllowed => ReasonCode::MALFORMED_PACKET,
            Self::WrongSender
            | Self::NotInVersion
            | Self::Forbidden
            | Self::Zero
            | Self::DuplicateProperty
            | Self::Missing
            | Self::ReasonNotAllowed => ReasonCode::PROTOCOL_ERROR,
            Self::PacketTooLarge => ReasonCode::PACKET_TOO_LARGE,
            Self::UnsupportedProtocol => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
            Self::TopicAliasZero => ReasonCode::TOPIC_ALIAS_INVALID,
            Self::Topic(error) => error.name_reason_code(),
            Self::ResponseTopic(TopicError::TooManyLevels) => ReasonCode::TOPIC_NAME_INVALID,
            Self::ResponseTopic(TopicError::Nul) => ReasonCode::MALFORMED_PACKET,
            Self::ResponseTopic(_) => ReasonCode::PROTOCOL_ERROR,
            Self::TooMany => ReasonCode::QUOTA_EXCEEDED,
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::ReservedPacketType => "packet type 0 is reserved",
            Self::Flags => "the flags are not those of this packet",
            Self::VarIntTooLong => "a variable byte integer has at most 4 bytes",
            Self::VarIntNotMinimal => "a variable byte integer must use as few bytes as it can",
            Self::PacketTooLarge => "the packet is larger than allowed here",
            Self::WrongSender => "this side never sends such a packet",
            Self::NotInVersion => "this version of the protocol has no such packet",
            Self::Truncated => "ends before the field does",
            Self::TrailingBytes => "bytes are left over at the end",
            Self::NotUtf8 => "must be well-formed UTF-8",
            Self::Nul => "must not contain U+0000",
            Self::UnsupportedProtocol => "must be `MQIsdp` 3, `MQTT` 4 or `MQTT` 5",
            Self::ReservedBits => "reserved bits must be 0",
            Self::Malformed | Self::Forbidden => "has a value that is not allowed",
            Self::Zero | Self::TopicAliasZero => "must not be 0",
            Self::UnknownProperty => "is not a property of MQTT 5.0",
            Self::PropertyNotAllowed => "is not a property of this packet",
            Self::DuplicateProperty => "must not be there twice",
            Self::Missing => "must be there",
            Self::ReasonNotAllowed => "is not a reason that this sender may give here",
            Self::Topic(error) | Self::ResponseTopic(error) => error.describe(),
            Self::TooMany => "more of them than allowed here",
        }
    }
}

impl DecodeError {
    #[cold]
    pub(crate) const fn new(kind: DecodeErrorKind, packet: PacketType, field: &'static str) -> Self {
        Self { kind, packet: Some(packet), field }
    }

    /// A refusal before the packet's type is known.
    #[cold]
    pub(crate) const fn without_type(kind: DecodeErrorKind, field: &'static str) -> Self {
        Self { kind, packet: None, field }
    }

    /// The class of the refusal.
    pub const fn kind(&self) -> DecodeErrorKind {
        self.kind
    }

    /// The reason code for the peer: of CONNACK if the packet was the CONNECT, of DISCONNECT otherwise.
    pub const fn reason_code(&self) -> ReasonCode {
        self.kind.reason_code()
    }

    /// The packet that was refused; `None` if its first byte names none.
    pub const fn packet_type(&self) -> Option<PacketType> {
        self.packet
    }

    /// The field that was refused, as the standard calls it, in lower case.
    pub const fn field(&self) -> &'static str {
        self.field
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(packet) = self.packet {
            write!(f, "{packet}, ")?;
        }
        write!(f, "{}: {} ({})", self.field, self.kind.describe(), self.reason_code())
    }
}

impl core::error::Error for DecodeError {}

/// Why a packet cannot be written; nothing has been written then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The packet would have more than 268,435,455 bytes after its fixed header (§2.1.4).
    PacketTooLarge,
    /// A text or binary field has more than 65,535 bytes.
    FieldTooLong(&'static str),
    /// The version of the protocol has no way to say this, and leaving it out would change what is said.
    NotInVersion(&'static str),
    /// The field has a value that the protocol does not allow, and that its type could not exclude.
    Invalid(&'static str),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PacketTooLarge => f.write_str("the packet is longer than 268,435,455 bytes"),
            Self::FieldTooLong(field) => write!(f, "{field}: longer than 65,535 bytes"),
            Self::NotInVersion(field) => write!(f, "{field}: this version of the protocol cannot say it"),
            Self::Invalid(field) => write!(f, "{field}: not a value that the protocol allows"),
        }
    }
}

impl core::error::Error for EncodeError {}
