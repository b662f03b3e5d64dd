//! The words between an endpoint and its driver.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use quinn_proto::{ConnectError, ConnectionError};

/// Names one connection for as long as it lives; a stale one finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Place in the endpoint's table: small, and free to index a table of the driver's own.
    pub slot: u32,
    /// How often that place had been used before.
    pub generation: u32,
}

/// What [`Endpoint::poll_event`](super::Endpoint::poll_event) tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The handshake is complete and the stream is open: write to it.
    Connected {
        /// The connection.
        conn: ConnId,
    },
    /// There are bytes, an end or a reset to read.
    Readable {
        /// The connection.
        conn: ConnId,
    },
    /// A write that took less than it was given may go on.
    Writable {
        /// The connection.
        conn: ConnId,
    },
    /// The server has acknowledged everything that was written, and the end of our half.
    Finished {
        /// The connection.
        conn: ConnId,
    },
    /// The server wants no more of our half (STOP_SENDING), which has been reset; what was unsent is gone.
    Stopped {
        /// The connection.
        conn: ConnId,
        /// The server's application code.
        code: u64,
    },
    /// The connection is over; its name finds nothing from now on.
    Closed {
        /// The former connection.
        conn: ConnId,
        /// Who ended it and why.
        why: CloseWhy,
    },
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseWhy {
    /// The server's application closed it, with its code and reason.
    Application(u64, Bytes),
    /// A transport or TLS error (RFC 9000 §20.1), found by either side: its code and a text for people.
    Transport(u64, String),
    /// The handshake took longer than [`EndpointSettings::handshake_timeout`](super::EndpointSettings::handshake_timeout).
    HandshakeTimeout,
    /// Nothing was heard for the idle timeout.
    IdleTimeout,
    /// The server has lost the connection's state (stateless reset).
    Reset,
    /// [`Endpoint::close`](super::Endpoint::close) was called.
    LocallyClosed,
    /// The server speaks no version that we do.
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

/// Why a connection was not begun.
#[derive(Debug)]
pub enum Refused {
    /// There are as many as there may be.
    Full,
    /// The address cannot be reached, or the crypto configuration does not accept the name.
    Invalid(ConnectError),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the endpoint has its maximum of connections"),
            Self::Invalid(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Refused {}

/// How a [`read`](super::Endpoint::read) ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// All that has arrived was read; `Readable` announces more.
    Blocked,
    /// The budget was used up. No event announces what may be left: read again.
    More,
    /// The server finished the stream and all of it was read.
    Finished,
    /// The server abandoned the stream with this code; what was unread is gone.
    Reset(u64),
    /// There is no such connection, or its stream has ended before.
    Gone,
}

/// Where a datagram came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The sender.
    pub peer: SocketAddr,
    /// The address of ours that it was sent to, if the socket tells.
    pub local: Option<IpAddr>,
    /// The two ECN bits of the IP header, if the socket tells.
    pub ecn: Option<u8>,
}

/// One or more datagrams of one connection, as [`Endpoint::poll_transmit`](super::Endpoint::poll_transmit) packed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Whose they are, for a driver with several sockets; `None` for a stateless reset. The name may be stale already.
    pub conn: Option<ConnId>,
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

/// What an endpoint has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections begun.
    pub connects: u64,
    /// Handshakes completed.
    pub connected: u64,
    /// Connections that ended, for whatever reason, at whatever stage.
    pub closed: u64,
    /// Datagrams handed in.
    pub datagrams_in: u64,
    /// Bytes handed in.
    pub bytes_in: u64,
    /// Datagrams handed out.
    pub datagrams_out: u64,
    /// Bytes handed out.
    pub bytes_out: u64,
    /// Stateless resets that found their queue full.
    pub stateless_dropped: u64,
}
