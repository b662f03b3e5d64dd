//! What can go wrong between an application and its server.

use std::fmt;
use std::io;
use std::sync::Arc;

use quelea_mqtt::ReasonCode;

use crate::core::{Closed, Detail, Refusal};

/// An error of the front.
#[derive(Clone, Debug)]
pub enum Error {
    /// The URL cannot be used.
    Url(UrlError),
    /// The server could not be reached, or the connection broke.
    Io(Arc<io::Error>),
    /// TLS could not be set up: certificates that cannot be read, a host name that is none.
    Tls(Arc<str>),
    /// The QUIC connection failed, the check of the server's certificate included.
    Quic(Arc<str>),
    /// The server refused the connection.
    Refused {
        /// Why.
        reason: ReasonCode,
        /// What the server says about it.
        detail: Box<Detail>,
    },
    /// The client itself refused: a topic that is none, a packet larger than the server accepts.
    Client(Refusal),
    /// The server did not take the message, or granted none of the filters.
    NotGranted(ReasonCode),
    /// There is a subscription with this filter already.
    AlreadySubscribed,
    /// The connection or the session ended before the answer: whether the server took it is unknown.
    Lost,
    /// The client is closed.
    Closed(Closed),
}

/// Why a URL cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// Neither `mqtt://` nor `quic://`.
    Scheme,
    /// No host, or one that is not written as a host.
    Host,
    /// A port that is none.
    Port,
    /// User and password belong into the options.
    Credentials,
    /// A path, a query or a fragment, which MQTT has no use for.
    Path,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheme => "a URL begins with mqtt:// or quic://",
            Self::Host => "the URL has no usable host",
            Self::Port => "the port of the URL is not a number from 1 to 65535",
            Self::Credentials => "user name and password belong into the options, not into the URL",
            Self::Path => "the URL has a path: only scheme, host and port are used",
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(error) => write!(f, "{error}"),
            Self::Io(error) => write!(f, "{error}"),
            Self::Tls(what) => write!(f, "TLS: {what}"),
            Self::Quic(what) => write!(f, "QUIC: {what}"),
            Self::Refused { reason, detail } => {
                write!(f, "the server refused the connection: {reason}")?;
                detail.reason_string.as_ref().map_or(Ok(()), |text| write!(f, " ({text})"))
            }
            Self::Client(refusal) => write!(f, "{refusal}"),
            Self::NotGranted(reason) => write!(f, "the server did not grant it: {reason}"),
            Self::AlreadySubscribed => f.write_str("there is a subscription with this filter already"),
            Self::Lost => f.write_str("the connection ended before the answer"),
            Self::Closed(closed) => write!(f, "the client is closed: {closed}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Client(refusal)
    }
}

impl From<UrlError> for Error {
    fn from(error: UrlError) -> Self {
        Self::Url(error)
    }
}
