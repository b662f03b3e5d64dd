//! What a client asks of its server at CONNECT, and the bounds of its own memory.

use std::fmt;
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use quelea_mqtt::Version;

use super::message::{Properties, Publish};
use super::text::Text;

/// How a client introduces itself, and what it allows itself and its server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The version of the protocol spoken.
    pub version: Version,
    /// The client identifier; empty asks the server for one (MQTT 3.1.1 only together with `clean_start`, `[MQTT-3.1.3-7]`).
    pub client_id: Text,
    /// Begin a new session (MQTT 3.x: Clean Session, which also ends the session with the connection).
    pub clean_start: bool,
    /// The longest silence from us in seconds; a PINGREQ breaks it. 0: no limit.
    pub keep_alive_s: u16,
    /// The user name.
    pub user_name: Option<Text>,
    /// The password.
    pub password: Option<Password>,
    /// What the server publishes for us if the connection ends without a normal DISCONNECT.
    pub will: Option<Will>,
    /// MQTT 5: how long the server keeps the session after the connection, in seconds. `None`: not sent, which means 0.
    pub session_expiry_s: Option<u32>,
    /// MQTT 5: ask for Response Information in CONNACK.
    pub request_response_information: Option<bool>,
    /// MQTT 5: allow reason strings and user properties on every packet.
    pub request_problem_information: Option<bool>,
    /// MQTT 5: user properties of CONNECT.
    pub user_properties: Vec<(Text, Text)>,
    /// MQTT 5: name of an extended authentication and its first data; see [`Event::Auth`](super::Event::Auth).
    pub authentication: Option<Authentication>,
    /// Who acknowledges a received message.
    pub acks: Acks,
    /// MQTT 5: more unacknowledged messages than our Receive Maximum end the connection with 0x93. If false they are only counted:
    /// mosquitto 2.0.11 is one server that sends them to a client slow to acknowledge.
    pub receive_max_strict: bool,
    /// What becomes of unacknowledged publications when the server no longer has the session.
    pub session_lost: SessionLost,
    /// How long to wait for CONNACK.
    pub connect_timeout: Duration,
    /// How long the server may be silent after a PINGREQ.
    pub pong_timeout: Duration,
    /// The limits of queues, tables and packets.
    pub bounds: Bounds,
}

impl Options {
    /// A client of MQTT 5.0 with a clean start, a keep alive of 60 s and everything else at its default.
    pub fn new(client_id: impl Into<Text>) -> Self {
        Self {
            version: Version::V5,
            client_id: client_id.into(),
            clean_start: true,
            keep_alive_s: 60,
            user_name: None,
            password: None,
            will: None,
            session_expiry_s: None,
            request_response_information: None,
            request_problem_information: None,
            user_properties: Vec::new(),
            authentication: None,
            acks: Acks::Automatic,
            receive_max_strict: true,
            session_lost: SessionLost::Republish,
            connect_timeout: Duration::from_secs(10),
            pong_timeout: Duration::from_secs(10),
            bounds: Bounds::default(),
        }
    }
}

/// Limits of one client. With the defaults a client that nobody drains holds at most about 10 MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The largest packet accepted from the server, in bytes with its fixed header; announced in MQTT 5. At least 16.
    pub packet_bytes_max: u32,
    /// QoS 1 and 2 messages that the server may have unacknowledged; announced in MQTT 5.
    pub receive_max: NonZeroU16,
    /// Topic aliases that the server may define; announced in MQTT 5.
    pub topic_alias_max: u16,
    /// Levels of a topic name or filter.
    pub topic_levels_max: usize,
    /// Our own unacknowledged QoS 1 and 2 messages; the server's Receive Maximum may lower it.
    pub in_flight_max: NonZeroU16,
    /// Bytes of topic and payload kept for retransmission. One message is always allowed.
    pub in_flight_bytes_max: usize,
    /// SUBSCRIBE and UNSUBSCRIBE packets that wait for their answer.
    pub requests_max: usize,
    /// Events that wait for `poll_event`; at this number `handle_bytes` takes nothing more.
    pub events_max: usize,
    /// Bytes that wait for `poll_output`; at this number new work is refused and `handle_bytes` takes nothing more.
    pub output_bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            packet_bytes_max: 1 << 20,
            receive_max: NonZeroU16::new(32).expect("not zero"),
            topic_alias_max: 16,
            topic_levels_max: 128,
            in_flight_max: NonZeroU16::new(64).expect("not zero"),
            in_flight_bytes_max: 8 << 20,
            requests_max: 32,
            events_max: 1024,
            output_bytes_max: 256 << 10,
        }
    }
}

/// Who sends PUBACK and PUBREC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// The core, as soon as the message is in its event queue.
    Automatic,
    /// The application, with [`Core::ack`](super::Core::ack). Acknowledgements leave in the order of the messages `[MQTT-4.6.0-2]`,
    /// so one withheld holds back the later ones.
    Manual,
}

/// What becomes of unacknowledged publications when CONNACK says that there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionLost {
    /// Publish them again as new messages: at least once, so a QoS 2 message may arrive twice. One whose PUBREC was received is
    /// not repeated but reported as [`Event::Lost`](super::Event::Lost).
    Republish,
    /// Report each as [`Event::Lost`](super::Event::Lost).
    Report,
}

/// A password; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Bytes);

impl Password {
    /// A password of any bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

/// MQTT 5 extended authentication (§4.12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// The Authentication Method.
    pub method: Text,
    /// The Authentication Data of CONNECT.
    pub data: Option<Bytes>,
}

/// The message that the server publishes when we are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Topic, payload, QoS, retain and properties, as in a publication of our own.
    pub publish: Publish,
    /// MQTT 5: seconds between the end of the connection and the will.
    pub delay_s: u32,
}

impl Will {
    /// A will that is published at once.
    pub fn new(publish: Publish) -> Self {
        Self { publish, delay_s: 0 }
    }

    pub(super) fn properties(&self) -> &Properties {
        self.publish.properties()
    }
}
