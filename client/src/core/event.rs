//! What the core tells its driver, and why it may say no.

use std::fmt;
use std::num::NonZeroU16;

use bytes::Bytes;
use quelea_mqtt::{DecodeError, EncodeError, QoS, ReasonCode, TopicError};
use smallvec::SmallVec;

use super::message::{Message, Token};
use super::text::Text;

/// Something happened. Every connection attempt ends with exactly one `Refused` or `Disconnected`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server accepted the connection.
    Connected {
        /// The server still has the session.
        session_present: bool,
        /// The reason code of CONNACK.
        reason: ReasonCode,
        /// What the server allows; the defaults of the standard where it said nothing.
        server: Box<Server>,
    },
    /// The server refused the connection: close the transport.
    Refused {
        /// Why; the return code of MQTT 3.x in its MQTT 5 equivalent.
        reason: ReasonCode,
        /// What the server says about it.
        detail: Box<Detail>,
    },
    /// A message for us.
    Message(Message),
    /// A publication is done: QoS 0 when its bytes were handed out, QoS 1 at PUBACK, QoS 2 at PUBCOMP (or a refusing PUBREC).
    PublishDone {
        /// Which.
        token: Token,
        /// What the server said; an error means that it did not take the message.
        reason: ReasonCode,
    },
    /// SUBACK.
    Subscribed {
        /// Which.
        token: Token,
        /// One per filter, in their order.
        reasons: SmallVec<[ReasonCode; 8]>,
    },
    /// UNSUBACK.
    Unsubscribed {
        /// Which.
        token: Token,
        /// One per filter, in their order; `SUCCESS` each for MQTT 3.x, which has none.
        reasons: SmallVec<[ReasonCode; 8]>,
    },
    /// The connection or the session ended before the answer: whether the server took it is unknown.
    Lost {
        /// Which.
        token: Token,
    },
    /// PINGRESP.
    Pong,
    /// MQTT 5 extended authentication: the server goes on; answer with [`Core::authenticate`](super::Core::authenticate).
    Auth {
        /// `CONTINUE_AUTHENTICATION`, or `SUCCESS` at the end of a re-authentication.
        reason: ReasonCode,
        /// The Authentication Data.
        data: Option<Bytes>,
    },
    /// The connection is over: write what `poll_output` still gives, then close the transport.
    Disconnected(Closed),
}

/// Who ended a connection, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The server, with DISCONNECT (MQTT 5).
    ByServer {
        /// Why.
        reason: ReasonCode,
        /// What the server says about it.
        detail: Box<Detail>,
    },
    /// We, as asked by [`Core::disconnect`](super::Core::disconnect).
    ByUs {
        /// Why.
        reason: ReasonCode,
    },
    /// We, because the server broke the protocol; it was told the reason (MQTT 5).
    Violation(Box<Violation>),
    /// We: no CONNACK in time.
    ConnectTimeout,
    /// We: silence after a PINGREQ.
    PongTimeout,
    /// The transport ended without a DISCONNECT.
    Transport,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByServer { reason, .. } => write!(f, "the server disconnected: {reason}"),
            Self::ByUs { reason } => write!(f, "disconnected as asked: {reason}"),
            Self::Violation(violation) => write!(f, "the server broke the protocol: {violation}"),
            Self::ConnectTimeout => f.write_str("the server did not answer CONNECT in time"),
            Self::PongTimeout => f.write_str("the server did not answer PINGREQ in time"),
            Self::Transport => f.write_str("the connection was lost"),
        }
    }
}

/// How the server broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What the server was told.
    pub reason: ReasonCode,
    /// What was wrong.
    pub what: Text,
}

impl Violation {
    pub(super) const fn protocol(what: &'static str) -> Self {
        Self { reason: ReasonCode::PROTOCOL_ERROR, what: Text::from_static(what) }
    }

    pub(super) const fn new(reason: ReasonCode, what: &'static str) -> Self {
        Self { reason, what: Text::from_static(what) }
    }
}

impl From<DecodeError> for Violation {
    fn from(error: DecodeError) -> Self {
        Self { reason: error.reason_code(), what: error.to_string().into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what, self.reason)
    }
}

/// What a server says with a refusal (MQTT 5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// A sentence for people.
    pub reason_string: Option<Text>,
    /// Another server to use.
    pub server_reference: Option<Text>,
    /// User properties.
    pub user_properties: Vec<(Text, Text)>,
}

/// What a server allows, from its CONNACK; for MQTT 3.x and for what is absent, the defaults of the standard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Unacknowledged QoS 1 and 2 messages it accepts.
    pub receive_max: NonZeroU16,
    /// The highest QoS it accepts.
    pub qos_max: QoS,
    /// It keeps retained messages.
    pub retain_available: bool,
    /// The largest packet it accepts, in bytes; `None`: no limit but the protocol's.
    pub packet_bytes_max: Option<u32>,
    /// Topic aliases it accepts.
    pub topic_alias_max: u16,
    /// Wildcards are supported.
    pub wildcard_available: bool,
    /// Subscription identifiers are supported.
    pub subscription_ids_available: bool,
    /// Shared subscriptions are supported.
    pub shared_available: bool,
    /// The keep alive in force, in seconds.
    pub keep_alive_s: u16,
    /// How long it keeps the session, in seconds, if it changed what we asked for.
    pub session_expiry_s: Option<u32>,
    /// The client identifier that it assigned.
    pub assigned_client_id: Option<Text>,
    /// The basis for response topics.
    pub response_information: Option<Text>,
    /// The Authentication Data of CONNACK.
    pub authentication_data: Option<Bytes>,
    /// Reason string, server reference, user properties.
    pub detail: Detail,
}

impl Server {
    /// What holds until a CONNACK says otherwise.
    pub(super) fn new(keep_alive_s: u16) -> Self {
        Self {
            receive_max: NonZeroU16::MAX,
            qos_max: QoS::ExactlyOnce,
            retain_available: true,
            packet_bytes_max: None,
            topic_alias_max: 0,
            wildcard_available: true,
            subscription_ids_available: true,
            shared_available: true,
            keep_alive_s,
            session_expiry_s: None,
            assigned_client_id: None,
            response_information: None,
            authentication_data: None,
            detail: Detail::default(),
        }
    }
}

/// Why a call was refused. Nothing was sent and nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A bound is reached: drain output and events, wait for acknowledgements, try again.
    Full,
    /// There is no connection.
    NotConnected,
    /// There is a connection already.
    AlreadyConnected,
    /// The message of this token is no longer waiting for an acknowledgement.
    Stale,
    /// No filter was given.
    Empty,
    /// The topic name or filter is not legal.
    Topic(TopicError),
    /// The packet is larger than the server accepts.
    TooLarge {
        /// The packet, in bytes.
        packet_bytes: usize,
        /// The server's maximum, in bytes.
        packet_bytes_max: u32,
    },
    /// The server (or the version of the protocol) does not allow it.
    NotAllowed(ReasonCode),
    /// The packet cannot be written in this version of the protocol.
    Encode(EncodeError),
}

impl Refusal {
    /// The reason code that says the same.
    pub fn reason_code(&self) -> ReasonCode {
        match self {
            Self::Full => ReasonCode::QUOTA_EXCEEDED,
            Self::TooLarge { .. } => ReasonCode::PACKET_TOO_LARGE,
            Self::NotAllowed(reason) => *reason,
            Self::Topic(error) => error.reason_code(),
            Self::Stale => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            Self::NotConnected | Self::AlreadyConnected | Self::Empty | Self::Encode(_) => {
                ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => {
                f.write_str("the client's queues are full: try again when something is acknowledged")
            }
            Self::NotConnected => f.write_str("not connected"),
            Self::AlreadyConnected => f.write_str("already connected"),
            Self::Stale => f.write_str("the message no longer waits for an acknowledgement"),
            Self::Empty => f.write_str("no topic filter given"),
            Self::Topic(error) => write!(f, "{error}"),
            Self::TooLarge { packet_bytes, packet_bytes_max } => {
                write!(f, "a packet of {packet_bytes} bytes: the server accepts {packet_bytes_max}")
            }
            Self::NotAllowed(reason) => write!(f, "not allowed: {reason}"),
            Self::Encode(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<TopicError> for Refusal {
    fn from(error: TopicError) -> Self {
        Self::Topic(error)
    }
}

impl From<EncodeError> for Refusal {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}
