//! The words in which the QUIC half speaks to the rest of the shard.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};
use quinn_proto::{ConnectionError, VarInt};

use super::listener::QuicListenerId;

/// Names one connection for as long as it lives; a stale one finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Place in the shard's table of connections.
    pub slot: u32,
    /// How often that place had been used before.
    pub generation: u32,
}

/// A QUIC stream ID: the low bit names who opened it, the next one its direction (RFC 9000 §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

impl StreamId {
    /// Whether both sides may send on it.
    pub fn is_bidirectional(self) -> bool {
        self.0 & 2 == 0
    }

    /// Whether the client opened it.
    pub fn is_from_client(self) -> bool {
        self.0 & 1 == 0
    }

    /// Position among the streams of its kind: 0 is the first that was opened.
    pub fn index(self) -> u64 {
        self.0 >> 2
    }

    /// Whether a server may write on it.
    pub(super) fn server_sends(self) -> bool {
        self.is_bidirectional() || !self.is_from_client()
    }

    /// Whether a server may read from it.
    pub(super) fn server_receives(self) -> bool {
        self.is_bidirectional() || self.is_from_client()
    }

    pub(super) fn to_proto(self) -> quinn_proto::StreamId {
        VarInt::from_u64(self.0).expect("stream IDs are below 2^62").into()
    }

    pub(super) fn from_proto(id: quinn_proto::StreamId) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The application protocols the listener speaks, as TLS negotiated them (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// `mqtt`: MQTT packets straight on the streams.
    Mqtt,
    /// `mqttv5`: another name for the same.
    MqttV5,
}

impl Alpn {
    /// The protocol's name on the wire.
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Mqtt => b"mqtt",
            Self::MqttV5 => b"mqttv5",
        }
    }

    /// Finds the protocol by its exact name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Mqtt, Self::MqttV5].into_iter().find(|alpn| alpn.name() == name)
    }
}

/// What the shard learns from [`Quic::poll_event`](super::Quic::poll_event).
///
/// Every connection is announced by `Connected` once and ended by `Closed` once; in between come its streams' events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuicEvent {
    /// The handshake is complete: the peer holds the address it uses, and the protocol is agreed.
    Connected {
        /// The new connection.
        conn: ConnId,
        /// The protocol it speaks.
        alpn: Alpn,
        /// The peer's address.
        peer: SocketAddr,
    },
    /// The peer opened a stream; a `Readable` for it follows at once if the peer sends on it.
    StreamOpened {
        /// The connection.
        conn: ConnId,
        /// The new stream.
        stream: StreamId,
    },
    /// There are bytes, an end or a reset to read.
    Readable {
        /// The connection.
        conn: ConnId,
        /// The stream to read.
        stream: StreamId,
    },
    /// A write that was [`Blocked`](WriteEnd::Blocked) may go on.
    Writable {
        /// The connection.
        conn: ConnId,
        /// The stream to write.
        stream: StreamId,
    },
    /// The peer wants no more of this stream (STOP_SENDING). Our half has been reset with the same code, as RFC 9000
    /// §3.5 asks; what was unsent is gone.
    Stopped {
        /// The connection.
        conn: ConnId,
        /// The stream the peer stopped.
        stream: StreamId,
        /// The peer's application code.
        code: u64,
    },
    /// The peer has acknowledged everything we wrote and our end of the stream (FIN).
    Finished {
        /// The connection.
        conn: ConnId,
        /// The stream whose sending half is done.
        stream: StreamId,
    },
    /// The connection is over; its [`ConnId`] finds nothing from now on.
    Closed {
        /// The former connection.
        conn: ConnId,
        /// Who ended it and why.
        why: CloseWhy,
    },
    /// The peer sends from another address and has answered a challenge there (RFC 9000 §9.3).
    PeerMoved {
        /// The connection.
        conn: ConnId,
        /// The peer's new address.
        peer: SocketAddr,
    },
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseWhy {
    /// The peer's application closed it, with its code and reason.
    Application(u64, Bytes),
    /// A transport or TLS error (RFC 9000 §20.1), found by either side: its code and a text for people.
    Transport(u64, String),
    /// Nothing was heard for the idle timeout.
    IdleTimeout,
    /// The peer has lost the connection's state (stateless reset).
    Reset,
    /// [`Quic::close`](super::Quic::close) was called.
    LocallyClosed,
    /// The peer speaks no version that we do.
    VersionMismatch,
}

impl CloseWhy {
    pub(super) fn from_proto(error: ConnectionError) -> Self {
        match error {
            ConnectionError::VersionMismatch => Self::VersionMismatch,
            ConnectionError::TransportError(error) => Self::Transport(error.code.into(), error.reason),
            ConnectionError::ConnectionClosed(close) => {
                let reason = String::from_utf8_lossy(&close.reason).into_owned();
                Self::Transport(close.error_code.into(), reason)
            }
            ConnectionError::ApplicationClosed(close) => {
                Self::Application(close.error_code.into_inner(), close.reason)
            }
            ConnectionError::Reset => Self::Reset,
            ConnectionError::TimedOut => Self::IdleTimeout,
            ConnectionError::LocallyClosed | ConnectionError::CidsExhausted => Self::LocallyClosed,
        }
    }
}

/// Why a handshake came to nothing, in words: the peer's, if it has said so itself.
pub(super) fn words_of(error: &ConnectionError) -> String {
    let (who, code, reason) = match error {
        ConnectionError::TransportError(ours) => ("", ours.code, ours.reason.as_str().into()),
        ConnectionError::ConnectionClosed(theirs) => {
            ("the client says: ", theirs.error_code, String::from_utf8_lossy(&theirs.reason))
        }
        other => return other.to_string(),
    };
    if reason.is_empty() { format!("{who}{code}") } else { format!("{who}{reason}") }
}

/// How a [`read`](super::Quic::read) ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// All that has arrived was read; `Readable` announces more.
    Blocked,
    /// The budget was used up. No event announces what may be left: read again.
    More,
    /// The peer finished the stream and all of it was read.
    Finished,
    /// The peer abandoned the stream with this code; what was unread is gone.
    Reset(u64),
    /// There is no such stream (any more).
    Gone,
}

/// How a [`write`](super::Quic::write) ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteEnd {
    /// Everything was taken.
    All,
    /// A window is full; `Writable` follows when there is room for the rest.
    Blocked,
    /// The peer wants no more of this stream; the code is its own.
    Stopped(u64),
    /// There is no such stream (any more).
    Gone,
}

/// Where a datagram came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The listener it came to.
    pub listener: QuicListenerId,
    /// The sender.
    pub peer: SocketAddr,
    /// The address of ours it was sent to, if the socket tells.
    pub local: Option<IpAddr>,
    /// The two ECN bits of the IP header, if the socket tells.
    pub ecn: Option<u8>,
}

/// What became of a datagram.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a foreign datagram has to be forwarded to its shard"]
pub enum Handled {
    /// It was ours.
    Here,
    /// Its connection ID names another shard: forward it there, unchanged, or drop it and count.
    Foreign(usize, BytesMut),
}

/// One or more datagrams to one peer, as [`Quic::poll_transmit`](super::Quic::poll_transmit) packed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The listener to send from.
    pub listener: QuicListenerId,
    /// The receiver.
    pub destination: SocketAddr,
    /// The address of ours to send from, if known.
    pub source: Option<IpAddr>,
    /// The two ECN bits to set.
    pub ecn: Option<u8>,
    /// Length of every datagram but the last, where there are several; `None` for a single one.
    pub segment_bytes: Option<usize>,
    /// Length of them all.
    pub bytes: usize,
}

impl Transmit {
    pub(super) fn from_proto(listener: QuicListenerId, transmit: &quinn_proto::Transmit) -> Self {
        Self {
            listener,
            destination: transmit.destination,
            source: transmit.src_ip,
            ecn: transmit.ecn.map(|ecn| ecn as u8),
            segment_bytes: transmit.segment_size,
            bytes: transmit.size,
        }
    }
}
