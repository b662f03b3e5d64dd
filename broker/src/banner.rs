//! What the binary prints when it serves: what listens where, whose certificate, and a command to try.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::SystemTime;

use crate::broker::RunningBroker;
use crate::certificate::DEVELOPMENT_PUBLIC_FILE;
use crate::config::Transport;
use crate::listeners::Service;

/// The text, several lines.
#[must_use]
pub fn banner(broker: &RunningBroker) -> String {
    let (version, shards) = (env!("CARGO_PKG_VERSION"), broker.shards());
    let plural = if shards == 1 { "" } else { "s" };
    let mut text = format!("quelea {version} serves with {shards} shard{plural}\n");
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<15} {value}");
    };
    for served in broker.listeners() {
        let address = match served.transport {
            Transport::Quic => format!("{} (UDP, ALPN mqtt)", served.address),
            Transport::Tcp | Transport::Tls => served.address.to_string(),
            Transport::Ws | Transport::Wss => {
                format!("{}://{}{}", served.transport.name(), served.address, served.path)
            }
        };
        line(Service::Mqtt(served.transport).name(), &address);
    }
    for address in broker.admin_addresses() {
        line("Metrics", &format!("http://{address}/metrics"));
    }
    line("Data directory", &broker.data_dir().display().to_string());
    if let Some(certificate) = broker.certificate() {
        line("Certificate", &format!("SHA-256 {}", certificate.fingerprint()));
        let days = days_until(certificate.not_after());
        if broker.config().tls.certificate.is_none() {
            let file = broker.data_dir().join(DEVELOPMENT_PUBLIC_FILE);
            line("", &format!("for development, valid for {days} days; clients trust {}", file.display()));
        } else {
            line("", &format!("valid for {days} days"));
        }
    }
    if let Some(address) = broker.addresses(Transport::Tcp).first() {
        line("Try", &try_command(*address));
    }
    text
}

/// Whole days, 0 for a certificate that has expired.
fn days_until(end: SystemTime) -> u64 {
    end.duration_since(SystemTime::now()).map_or(0, |left| left.as_secs() / (24 * 60 * 60))
}

/// A command that sees every message. mosquitto's default host is localhost.
fn try_command(address: SocketAddr) -> String {
    let host = match address.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST | Ipv4Addr::UNSPECIFIED) => String::new(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => " -h ::1".to_owned(),
        other => format!(" -h {other}"),
    };
    format!("mosquitto_sub{host} -p {} -t '#' -v", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_reaches_the_address() {
        let cases = [
            ("127.0.0.1:1883", "mosquitto_sub -p 1883 -t '#' -v"),
            ("0.0.0.0:1", "mosquitto_sub -p 1 -t '#' -v"),
            ("[::]:2", "mosquitto_sub -h ::1 -p 2 -t '#' -v"),
            ("10.0.0.7:1883", "mosquitto_sub -h 10.0.0.7 -p 1883 -t '#' -v"),
        ];
        for (address, command) in cases {
            assert_eq!(try_command(address.parse().unwrap()), command);
        }
    }
}
