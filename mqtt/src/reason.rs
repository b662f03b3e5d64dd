//! Reason codes (MQTT 5.0 §2.4) and their shadow in the return codes of 3.1 and 3.1.1.

use core::fmt;

/// A reason code of MQTT 5.0 §2.4: below 0x80 success, from 0x80 on failure.
///
/// ```
/// use quelea_mqtt::ReasonCode;
/// assert_eq!(ReasonCode::SESSION_TAKEN_OVER.to_string(), "0x8E session taken over");
/// assert!(ReasonCode::SESSION_TAKEN_OVER.is_error());
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReasonCode(u8);

impl ReasonCode {
    /// Also normal disconnection and granted QoS 0.
    pub const SUCCESS: Self = Self(0x00);
    /// DISCONNECT: close normally, without the will.
    pub const NORMAL_DISCONNECTION: Self = Self(0x00);
    /// SUBACK: granted, at most QoS 0.
    pub const GRANTED_QOS_0: Self = Self(0x00);
    /// SUBACK: granted, at most QoS 1.
    pub const GRANTED_QOS_1: Self = Self(0x01);
    /// SUBACK: granted, at most QoS 2.
    pub const GRANTED_QOS_2: Self = Self(0x02);
    /// DISCONNECT: close, and publish the will.
    pub const DISCONNECT_WITH_WILL: Self = Self(0x04);
    /// PUBACK, PUBREC: accepted, but nobody has subscribed.
    pub const NO_MATCHING_SUBSCRIBERS: Self = Self(0x10);
    /// UNSUBACK: there was nothing to remove.
    pub const NO_SUBSCRIPTION_EXISTED: Self = Self(0x11);
    /// AUTH: one more step.
    pub const CONTINUE_AUTHENTICATION: Self = Self(0x18);
    /// AUTH: the client starts again.
    pub const REAUTHENTICATE: Self = Self(0x19);
    /// The sender does not want to say why, or no other code fits.
    pub const UNSPECIFIED_ERROR: Self = Self(0x80);
    /// The packet cannot be parsed.
    pub const MALFORMED_PACKET: Self = Self(0x81);
    /// The packet parses but holds what the protocol forbids.
    pub const PROTOCOL_ERROR: Self = Self(0x82);
    /// Valid, but this receiver does not take it.
    pub const IMPLEMENTATION_SPECIFIC_ERROR: Self = Self(0x83);
    /// CONNACK: name and level of the protocol are not known.
    pub const UNSUPPORTED_PROTOCOL_VERSION: Self = Self(0x84);
    /// CONNACK: valid text, but not allowed as a client identifier.
    pub const CLIENT_IDENTIFIER_NOT_VALID: Self = Self(0x85);
    /// CONNACK: the credentials are not accepted.
    pub const BAD_USER_NAME_OR_PASSWORD: Self = Self(0x86);
    /// The client may not do this.
    pub const NOT_AUTHORIZED: Self = Self(0x87);
    /// CONNACK: the server is not available.
    pub const SERVER_UNAVAILABLE: Self = Self(0x88);
    /// Try again later.
    pub const SERVER_BUSY: Self = Self(0x89);
    /// CONNACK: banned by an operator.
    pub const BANNED: Self = Self(0x8A);
    /// DISCONNECT: the server goes away.
    pub const SERVER_SHUTTING_DOWN: Self = Self(0x8B);
    /// Not supported, or not the one in use.
    pub const BAD_AUTHENTICATION_METHOD: Self = Self(0x8C);
    /// DISCONNECT: nothing came for 1.5 times the keep alive.
    pub const KEEP_ALIVE_TIMEOUT: Self = Self(0x8D);
    /// DISCONNECT: another connection uses this client identifier.
    pub const SESSION_TAKEN_OVER: Self = Self(0x8E);
    /// The filter is not accepted.
    pub const TOPIC_FILTER_INVALID: Self = Self(0x8F);
    /// The topic name is not accepted.
    pub const TOPIC_NAME_INVALID: Self = Self(0x90);
    /// The session states of the two sides differ.
    pub const PACKET_IDENTIFIER_IN_USE: Self = Self(0x91);
    /// Normal during recovery, a fault otherwise.
    pub const PACKET_IDENTIFIER_NOT_FOUND: Self = Self(0x92);
    /// More QoS 1 and 2 messages in flight than allowed.
    pub const RECEIVE_MAXIMUM_EXCEEDED: Self = Self(0x93);
    /// Zero, above the maximum, or never defined.
    pub const TOPIC_ALIAS_INVALID: Self = Self(0x94);
    /// Larger than the receiver's maximum packet size.
    pub const PACKET_TOO_LARGE: Self = Self(0x95);
    /// Too many messages for the time.
    pub const MESSAGE_RATE_TOO_HIGH: Self = Self(0x96);
    /// A limit of the receiver is reached.
    pub const QUOTA_EXCEEDED: Self = Self(0x97);
    /// Closed by an operator.
    pub const ADMINISTRATIVE_ACTION: Self = Self(0x98);
    /// The payload is not what its format indicator says.
    pub const PAYLOAD_FORMAT_INVALID: Self = Self(0x99);
    /// The server keeps no retained messages.
    pub const RETAIN_NOT_SUPPORTED: Self = Self(0x9A);
    /// Higher than the maximum QoS of CONNACK.
    pub const QOS_NOT_SUPPORTED: Self = Self(0x9B);
    /// For the time being.
    pub const USE_ANOTHER_SERVER: Self = Self(0x9C);
    /// For good.
    pub const SERVER_MOVED: Self = Self(0x9D);
    /// The server has none.
    pub const SHARED_SUBSCRIPTIONS_NOT_SUPPORTED: Self = Self(0x9E);
    /// Connections come too fast.
    pub const CONNECTION_RATE_EXCEEDED: Self = Self(0x9F);
    /// The connection has lasted as long as it may.
    pub const MAXIMUM_CONNECT_TIME: Self = Self(0xA0);
    /// The server has none.
    pub const SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED: Self = Self(0xA1);
    /// The server has none.
    pub const WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED: Self = Self(0xA2);

    /// A reason code from its byte, whether the standard knows it or not.
    pub const fn from_u8(code: u8) -> Self {
        Self(code)
    }

    /// The byte on the wire.
    pub const fn as_u8(self) -> u8 {
        self.0
    }

    /// True from 0x80 on: the operation failed.
    pub const fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// The name in MQTT 5.0 §2.4, in lower case; `unknown reason` for a byte that the standard does not list.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0x00 => "success",
            0x01 => "granted QoS 1",
            0x02 => "granted QoS 2",
            0x04 => "disconnect with will message",
            0x10 => "no matching subscribers",
            0x11 => "no subscription existed",
            0x18 => "continue authentication",
            0x19 => "re-authenticate",
            0x80 => "unspecified error",
            0x81 => "malformed packet",
            0x82 => "protocol error",
            0x83 => "implementation specific error",
            0x84 => "unsupported protocol version",
            0x85 => "client identifier not valid",
            0x86 => "bad user name or password",
            0x87 => "not authorized",
            0x88 => "server unavailable",
            0x89 => "server busy",
            0x8A => "banned",
            0x8B => "server shutting down",
            0x8C => "bad authentication method",
            0x8D => "keep alive timeout",
            0x8E => "session taken over",
            0x8F => "topic filter invalid",
            0x90 => "topic name invalid",
            0x91 => "packet identifier in use",
            0x92 => "packet identifier not found",
            0x93 => "receive maximum exceeded",
            0x94 => "topic alias invalid",
            0x95 => "packet too large",
            0x96 => "message rate too high",
            0x97 => "quota exceeded",
            0x98 => "administrative action",
            0x99 => "payload format invalid",
            0x9A => "retain not supported",
            0x9B => "QoS not supported",
            0x9C => "use another server",
            0x9D => "server moved",
            0x9E => "shared subscriptions not supported",
            0x9F => "connection rate exceeded",
            0xA0 => "maximum connect time",
            0xA1 => "subscription identifiers not supported",
            0xA2 => "wildcard subscriptions not supported",
            _ => "unknown reason",
        }
    }

    /// The return code of a 3.1 or 3.1.1 CONNACK (0 to 5, MQTT 3.1.1 §3.2.2.3) that says this reason best.
    ///
    /// A reason that lies in the server's state becomes 3 (server unavailable); any other that 3.1.1 has no word for
    /// becomes 5 (not authorized).
    pub const fn to_connack_v3(self) -> u8 {
        match self {
            Self(code) if code < 0x80 => 0,
            Self::UNSUPPORTED_PROTOCOL_VERSION => 1,
            Self::CLIENT_IDENTIFIER_NOT_VALID => 2,
            Self::SERVER_UNAVAILABLE
            | Self::SERVER_BUSY
            | Self::SERVER_SHUTTING_DOWN
            | Self::QUOTA_EXCEEDED
            | Self::USE_ANOTHER_SERVER
            | Self::SERVER_MOVED
            | Self::CONNECTION_RATE_EXCEEDED
            | Self::UNSPECIFIED_ERROR
            | Self::IMPLEMENTATION_SPECIFIC_ERROR => 3,
            Self::BAD_USER_NAME_OR_PASSWORD => 4,
            _ => 5,
        }
    }

    /// The reason for a return code of a 3.1 or 3.1.1 CONNACK; 6 and above are reserved (`None`).
    pub const fn from_connack_v3(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::SUCCESS),
            1 => Some(Self::UNSUPPORTED_PROTOCOL_VERSION),
            2 => Some(Self::CLIENT_IDENTIFIER_NOT_VALID),
            3 => Some(Self::SERVER_UNAVAILABLE),
            4 => Some(Self::BAD_USER_NAME_OR_PASSWORD),
            5 => Some(Self::NOT_AUTHORIZED),
            _ => None,
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:02X} {}", self.0, self.name())
    }
}

impl fmt::Debug for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
