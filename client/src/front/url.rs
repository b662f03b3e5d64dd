//! Where the server is: `mqtt://host[:1883]` over TCP, `quic://host[:14567]` over QUIC.

use std::net::{IpAddr, Ipv6Addr};

use super::error::UrlError;

/// The way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    Tcp,
    Quic,
}

/// A server's address as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) carrier: Carrier,
    /// A name or an address, IPv6 without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, UrlError> {
        let (carrier, port_by_default, rest) = match url.split_once("://") {
            Some(("mqtt" | "tcp", rest)) => (Carrier::Tcp, TCP_PORT, rest),
            Some(("quic" | "mqtt-quic", rest)) => (Carrier::Quic, QUIC_PORT, rest),
            _ => return Err(UrlError::Scheme),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(UrlError::Path);
        }
        if authority.contains('@') {
            return Err(UrlError::Credentials);
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            None => port_by_default,
            Some(text) => text.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Port)?,
        };
        Ok(Self { carrier, host: host.to_owned(), port })
    }

    /// The address, if the host is one rather than a name.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), UrlError> {
    if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']').ok_or(UrlError::Host)?;
        host.parse::<Ipv6Addr>().map_err(|_| UrlError::Host)?;
        return match rest {
            "" => Ok((host, None)),
            _ => Ok((host, Some(rest.strip_prefix(':').ok_or(UrlError::Port)?))),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || !host.chars().all(is_host) {
        return Err(UrlError::Host);
    }
    Ok((host, port))
}

/// The registered port of MQTT.
const TCP_PORT: u16 = 1883;
/// The port that MQTT over QUIC uses by custom.
const QUIC_PORT: u16 = 14567;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let target = |carrier, host: &str, port| Ok(Target { carrier, host: host.into(), port });
        assert_eq!(Target::parse("mqtt://broker.example"), target(Carrier::Tcp, "broker.example", 1883));
        assert_eq!(Target::parse("quic://10.0.0.1:99/"), target(Carrier::Quic, "10.0.0.1", 99));
        assert_eq!(Target::parse("quic://[::1]"), target(Carrier::Quic, "::1", 14567));
        assert_eq!(Target::parse("mqtt://[fe80::1]:1884"), target(Carrier::Tcp, "fe80::1", 1884));
    }

    #[test]
    fn urls_are_refused_with_their_fault() {
        for (url, fault) in [
            ("broker", UrlError::Scheme),
            ("http://broker", UrlError::Scheme),
            ("mqtt://", UrlError::Host),
            ("mqtt://a b", UrlError::Host),
            ("mqtt://[1.2.3.4]", UrlError::Host),
            ("mqtt://[::1", UrlError::Host),
            ("mqtt://a:0", UrlError::Port),
            ("mqtt://a:65536", UrlError::Port),
            ("mqtt://[::1]1883", UrlError::Port),
            ("mqtt://user@a", UrlError::Credentials),
            ("mqtt://a/topic", UrlError::Path),
        ] {
            assert_eq!(Target::parse(url), Err(fault), "{url}");
        }
    }
}
