//! The small words that every packet uses: protocol version, quality of service, packet identifier.

use core::fmt;

/// A packet identifier, 1 to 65,535 (`[MQTT-2.2.1-3]`, `[MQTT-2.2.1-4]`; zero cannot be expressed).
pub type PacketId = core::num::NonZeroU16;

/// A version of the protocol; the number is the protocol level in CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Version {
    /// MQTT 3.1 (protocol name `MQIsdp`).
    V31 = 3,
    /// MQTT 3.1.1, OASIS standard of 29 October 2014.
    V311 = 4,
    /// MQTT 5.0, OASIS standard of 7 March 2019.
    V5 = 5,
}

impl Version {
    /// The protocol name that CONNECT carries in this version (`[MQTT-3.1.2-1]`).
    pub const fn name(self) -> &'static str {
        match self {
            Self::V31 => "MQIsdp",
            Self::V311 | Self::V5 => "MQTT",
        }
    }

    /// The protocol level that CONNECT carries: 3, 4 or 5.
    pub const fn level(self) -> u8 {
        self as u8
    }

    /// The version that a pair of protocol name and level stands for, if it is one that we speak.
    ///
    /// Only the documented pairs count: mosquitto's private bridge bit (`level | 0x80`) is refused, after which its
    /// bridges connect again as ordinary clients.
    pub const fn from_name_and_level(name: &[u8], level: u8) -> Option<Self> {
        match (name, level) {
            (b"MQIsdp", 3) => Some(Self::V31),
            (b"MQTT", 4) => Some(Self::V311),
            (b"MQTT", 5) => Some(Self::V5),
            _ => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V31 => "MQTT 3.1",
            Self::V311 => "MQTT 3.1.1",
            Self::V5 => "MQTT 5.0",
        })
    }
}

/// Quality of service: how often a message arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0: sent once, never acknowledged.
    #[default]
    AtMostOnce = 0,
    /// QoS 1: sent until PUBACK.
    AtLeastOnce = 1,
    /// QoS 2: PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

impl QoS {
    /// The level for its number on the wire; 3 and above are none.
    pub const fn from_u8(level: u8) -> Option<Self> {
        match level {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }

    /// The number on the wire: 0, 1 or 2.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for QoS {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QoS {}", self.as_u8())
    }
}
