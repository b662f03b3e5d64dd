//! Where the broker is, as typed: `mqtt://host[:1883]` and its four relatives.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use crate::refusal::Refusal;

/// The way to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Tcp,
    Tls,
    WebSocket,
    SecureWebSocket,
    Quic,
}

impl Carrier {
    fn of(scheme: &str) -> Option<Self> {
        Some(match scheme {
            "mqtt" | "tcp" => Self::Tcp,
            "mqtts" | "ssl" => Self::Tls,
            "ws" => Self::WebSocket,
            "wss" => Self::SecureWebSocket,
            "quic" | "mqtt-quic" => Self::Quic,
            _ => return None,
        })
    }

    pub(crate) fn is_encrypted(self) -> bool {
        matches!(self, Self::Tls | Self::SecureWebSocket | Self::Quic)
    }

    fn port(self) -> u16 {
        match self {
            Self::Tcp => 1883,
            Self::Tls => 8883,
            Self::WebSocket => 8083,
            Self::SecureWebSocket => 8084,
            Self::Quic => 14567,
        }
    }

    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "mqtt",
            Self::Tls => "mqtts",
            Self::WebSocket => "ws",
            Self::SecureWebSocket => "wss",
            Self::Quic => "quic",
        }
    }

    pub(crate) fn is_web_socket(self) -> bool {
        matches!(self, Self::WebSocket | Self::SecureWebSocket)
    }
}

/// A broker's address as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) carrier: Carrier,
    /// A name or an address, IPv6 without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Of the WebSocket's request; `/mqtt` if none was typed.
    pub(crate) path: String,
}

impl Target {
    /// Reads a URL.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) =
            url.split_once("://").ok_or("expected mqtt://, mqtts://, ws://, wss:// or quic://")?;
        let carrier = Carrier::of(scheme)
            .ok_or_else(|| format!("{scheme}: expected mqtt, mqtts, ws, wss or quic before ://"))?;
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let path = match path {
            "" | "/" => "/mqtt",
            path if carrier.is_web_socket() => path,
            _ => return Err(format!("{}:// takes no path", carrier.scheme())),
        };
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a path has no blanks and no control characters".into());
        }
        if authority.contains('@') {
            return Err("user name and password are given by --username and --password".into());
        }
        let (host, port) = split_port(authority).ok_or("expected a host after ://")?;
        let port = match port {
            None => carrier.port(),
            Some(text) => text
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| format!("{text:?}: expected a port from 1 to 65535"))?,
        };
        Ok(Self { carrier, host: host.to_owned(), port, path: path.to_owned() })
    }

    /// Host and port, as HTTP wants them.
    pub(crate) fn authority(&self) -> String {
        match self.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]:{}", self.port),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }

    /// The first address of the host that has the family of `source`, if there is one.
    ///
    /// # Errors
    /// There is none: the words' fault where the host was typed as an address, else that of who knows its names.
    pub(crate) fn resolve(&self, source: Option<IpAddr>) -> Result<SocketAddr, Refusal> {
        let is_address = self.host.parse::<IpAddr>().is_ok();
        let refusal = if is_address { Refusal::Usage } else { Refusal::Failure };
        let found = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(|error| refusal(format!("{}: {error}", self.host)))?;
        let fits = |address: &SocketAddr| source.is_none_or(|source| source.is_ipv4() == address.is_ipv4());
        found.into_iter().find(fits).ok_or_else(|| {
            refusal(match source {
                Some(_) => format!("{} has no address of the family of --bind", self.host),
                None => format!("{} has no address", self.host),
            })
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.carrier.is_web_socket() { self.path.as_str() } else { "" };
        write!(f, "{}://{}{path}", self.carrier.scheme(), self.authority())
    }
}

fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return match rest {
            "" => Some((host, None)),
            _ => Some((host, Some(rest.strip_prefix(':')?))),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (!host.is_empty() && host.chars().all(is_host)).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_written() {
        for (url, text) in [
            ("mqtt://broker.example", "mqtt://broker.example:1883"),
            ("mqtts://10.0.0.1", "mqtts://10.0.0.1:8883"),
            ("ws://[::1]", "ws://[::1]:8083/mqtt"),
            ("wss://b:443/a/b?c", "wss://b:443/a/b?c"),
            ("quic://localhost/", "quic://localhost:14567"),
        ] {
            assert_eq!(Target::parse(url).unwrap().to_string(), text);
        }
    }

    #[test]
    fn urls_are_refused() {
        for url in [
            "broker",
            "http://b",
            "mqtt://",
            "mqtt://a b",
            "mqtt://[1.2.3.4]",
            "mqtt://[::1",
            "mqtt://a:0",
            "mqtt://a:65536",
            "mqtt://[::1]1883",
            "mqtt://user@a",
            "mqtt://a/topic",
            "ws://a/b c",
        ] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn the_family_of_the_source_chooses() {
        let target = Target::parse("mqtt://127.0.0.1").unwrap();
        assert_eq!(target.resolve(None).unwrap(), "127.0.0.1:1883".parse().unwrap());
        let error = target.resolve(Some("::1".parse().unwrap())).unwrap_err();
        assert!(matches!(&error, Refusal::Usage(why) if why.contains("--bind")), "{error}");
        let error = Target::parse("mqtt://no..host").unwrap().resolve(None).unwrap_err();
        assert!(matches!(&error, Refusal::Failure(why) if why.contains("no..host")), "{error}");
    }
}
