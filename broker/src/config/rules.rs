//! The rules that types cannot say: ranges, keys that need each other, and who may be listened to.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{ByteSize, ClientCertificates, Config, Listener, MemoryMax, Placed, ProxyProtocol};

/// A broken rule: the key under which the operator finds it, and the sentence.
pub(super) struct Broken {
    pub(super) key: String,
    pub(super) what: String,
    /// Another key that the sentence ends with, where there is one.
    pub(super) other: Option<String>,
    /// Keys without which nothing can be said: where one of them could not be read, the rule may not be broken at all.
    pub(super) needs: Vec<String>,
}

/// Every rule that `config` breaks, in the order of the sections.
pub(super) fn broken(config: &Config) -> Vec<Broken> {
    let mut rules = Rules { broken: Vec::new() };
    rules.node(config);
    rules.transports(config);
    rules.listeners(config);
    rules.addresses(config);
    rules.io(config);
    rules.protocol(config);
    rules.broken
}

struct Rules {
    broken: Vec<Broken>,
}

impl Rules {
    fn node(&mut self, config: &Config) {
        if let MemoryMax::Bytes(bytes) = config.broker.memory_max {
            self.size("broker.memory_max", bytes, 64 * MIB..=1 << 50);
        }
        self.number("broker.connections_max", config.broker.connections_max, 1..=16_000_000);
        self.duration("broker.drain_timeout", config.broker.drain_timeout, Duration::ZERO..=HOUR);
        self.pair("tls", config.tls.certificate.is_some(), config.tls.key.is_some());
    }

    fn transports(&mut self, config: &Config) {
        for address in &config.admin.listen {
            self.reach("admin", *address, config.admin.allow_anonymous);
        }
        self.duration("quic.idle_timeout", config.quic.idle_timeout, Duration::from_secs(5)..=HOUR);
        self.number("quic.retry_above_handshakes", config.quic.retry_above_handshakes, 0..=1_000_000);
        if let Some(handshakes_max) = config.quic.handshakes_max {
            self.number("quic.handshakes_max", handshakes_max, 1..=1_000_000);
        }
        if config.placed_listeners().is_empty() {
            let sections = ["quic.listen", "tls.listen", "ws.listen", "wss.listen"];
            self.refuse("tcp.listen", "no address to listen on, here or elsewhere: no client could connect")
                .needs(sections.map(str::to_owned).into());
        }
    }

    fn listeners(&mut self, config: &Config) {
        for placed in config.placed_listeners() {
            let (section, listener) = (placed.name(), &placed.listener);
            // Whoever must show a certificate is asked who they are.
            let is_open = listener.client_certificates != ClientCertificates::Required;
            self.reach(section, listener.listen, listener.allow_anonymous || !is_open);
            let counts = [
                ("connections_max", listener.connections_max),
                ("connections_per_network_max", listener.connections_per_network_max),
                ("handshakes_per_network_max", listener.handshakes_per_network_max),
                ("handshakes_per_site_max", listener.handshakes_per_site_max),
            ];
            for (key, count) in counts {
                if let Some(count) = count {
                    self.number(&format!("{section}.{key}"), count, 1..=16_000_000);
                }
            }
            self.tls_keys(section, listener);
            self.websocket_keys(section, listener);
            self.proxy_keys(section, listener);
        }
    }

    fn proxy_keys(&mut self, section: &str, listener: &Listener) {
        let is_required = listener.proxy_protocol == ProxyProtocol::Required;
        let protocol = format!("{section}.proxy_protocol");
        if is_required && listener.transport.is_quic() {
            self.refuse(&protocol, "has a meaning on byte streams: type tcp, tls, ws or wss");
            return;
        }
        if !listener.proxy_trusted.is_empty() && !is_required {
            let what = "needs proxy_protocol = \"required\": nobody is asked for a header";
            self.refuse(&format!("{section}.proxy_trusted"), what).needs(vec![protocol]);
            return;
        }
        if is_required && listener.proxy_trusted.is_empty() && !listener.is_local() {
            let what =
                "needs the networks whose headers are believed: beyond loopback anybody could send one";
            self.refuse(&format!("{section}.proxy_trusted"), what);
        }
    }

    /// Every address has one listener, and a shard has places for so many.
    fn addresses(&mut self, config: &Config) {
        let listeners = config.placed_listeners();
        let admin = config.admin.listen.iter().map(|address| ("admin.listen", *address, false));
        let all = listeners
            .iter()
            .map(|Placed { key, listener }| (key.as_str(), listener.listen, listener.transport.is_quic()));
        let all: Vec<_> = all.chain(admin).collect();
        for (index, &(key, address, is_udp)) in all.iter().enumerate() {
            let earlier = all[..index].iter();
            let mut taken =
                earlier.filter(|(_, other, is_udp_too)| is_udp == *is_udp_too && overlap(address, *other));
            if let Some((other, there, _)) = taken.next() {
                let what = match (key == *other, address == *there) {
                    (true, true) => format!("{address} is listed twice"),
                    (true, false) => format!("{address} and {there} cannot both be served"),
                    (false, true) => format!("{address} is the address of {other}, too"),
                    (false, false) => format!("{address} cannot be served beside {there} of {other}"),
                };
                self.refuse(key, &what).other = Some((*other).to_owned());
            }
        }
        for (is_udp, most, what) in [(true, UDP_MAX, "QUIC"), (false, STREAMS_MAX, "other")] {
            let mut kind = listeners.iter().filter(|placed| placed.listener.transport.is_quic() == is_udp);
            if let Some(Placed { key, .. }) = kind.nth(most) {
                self.refuse(key, &format!("one too many: there may be {most} {what} listeners"));
            }
        }
    }

    fn tls_keys(&mut self, section: &str, listener: &Listener) {
        let has_ca = listener.client_ca.is_some();
        let asks = listener.client_certificates != ClientCertificates::Off;
        if !listener.transport.has_tls() {
            let given = [
                ("certificate", listener.certificate.is_some()),
                ("key", listener.key.is_some()),
                ("client_certificates", asks),
                ("client_ca", has_ca),
                ("handshakes_per_network_max", listener.handshakes_per_network_max.is_some()),
                ("handshakes_per_site_max", listener.handshakes_per_site_max.is_some()),
            ];
            for (key, _) in given.iter().filter(|(_, given)| *given) {
                self.refuse(
                    &format!("{section}.{key}"),
                    "has a meaning where TLS is spoken: type tls, wss or quic",
                );
            }
            return;
        }
        self.pair(section, listener.certificate.is_some(), listener.key.is_some());
        if asks && !has_ca {
            let what = "needs client_ca, the file of the authorities that vouch for clients";
            self.refuse(&format!("{section}.client_certificates"), what)
                .needs(vec![format!("{section}.client_ca")]);
        }
        if has_ca && !asks {
            let what = "needs client_certificates = \"optional\" or \"required\": nobody is asked for one";
            self.refuse(&format!("{section}.client_ca"), what)
                .needs(vec![format!("{section}.client_certificates")]);
        }
    }

    fn websocket_keys(&mut self, section: &str, listener: &Listener) {
        if !listener.transport.has_websocket() {
            let given = [("path", listener.path.is_some()), ("origins", listener.origins.is_some())];
            for (key, _) in given.iter().filter(|(_, given)| *given) {
                let what = "has a meaning where WebSocket is spoken: type ws or wss";
                self.refuse(&format!("{section}.{key}"), what);
            }
            return;
        }
        let path = listener.path();
        let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'?' && byte != b'#';
        if !path.starts_with('/') || path.len() > 1_024 || !path.bytes().all(is_plain) {
            let what = format!("{path:?} is not a path such as \"/mqtt\"");
            self.refuse(&format!("{section}.path"), &what);
        }
        for origin in listener.origins.iter().flatten().filter(|origin| !is_origin(origin)) {
            let what = format!("{origin:?} is not a site such as \"https://example.org\", or \"*\"");
            self.refuse(&format!("{section}.origins"), &what);
        }
    }

    /// A certificate and its key come together.
    fn pair(&mut self, section: &str, certificate: bool, key: bool) {
        if certificate && !key {
            let what = format!("needs {section}.key, the private key of this certificate");
            self.refuse(&format!("{section}.certificate"), &what).needs(vec![format!("{section}.key")]);
        }
        if key && !certificate {
            let what = format!("needs {section}.certificate, the certificate of this private key");
            self.refuse(&format!("{section}.key"), &what).needs(vec![format!("{section}.certificate")]);
        }
    }

    fn io(&mut self, config: &Config) {
        let io = &config.io;
        let counts = [("io.datagram_buffers", io.datagram_buffers), ("io.stream_buffers", io.stream_buffers)];
        for (key, count) in counts {
            if !count.is_power_of_two() || count > 32_768 {
                self.refuse(
                    key,
                    &format!("{count} is not possible, expected a power of two from 1 to 32768"),
                );
            }
        }
        self.size("io.stream_buffer_size", io.stream_buffer_size, 256..=32 * KIB);
        if !io.tcp_keepalive.is_zero() {
            let tcp_keepalive = Duration::from_secs(4)..=Duration::from_secs(32_767);
            self.duration("io.tcp_keepalive", io.tcp_keepalive, tcp_keepalive);
        }
    }

    fn protocol(&mut self, config: &Config) {
        let mqtt = &config.mqtt;
        self.size("mqtt.packet_max", mqtt.packet_max, KIB..=255 * MIB);
        self.number("mqtt.receive_maximum", mqtt.receive_maximum, 1..=65_535);
        self.number("mqtt.topic_alias_maximum", mqtt.topic_alias_maximum, 0..=65_535);
        self.size("mqtt.topic_alias_bytes_max", mqtt.topic_alias_bytes_max, KIB..=16 * MIB);
        self.number("mqtt.client_id_bytes_max", mqtt.client_id_bytes_max, 23..=65_535);
        self.number("mqtt.topic_levels_max", mqtt.topic_levels_max, 1..=128);
        self.number("mqtt.subscriptions_max", mqtt.subscriptions_max, 1..=100_000);
        self.number("mqtt.former_connections_max", mqtt.former_connections_max, 1..=1_000);
        let connect_timeout = Duration::from_secs(1)..=Duration::from_secs(600);
        self.duration("mqtt.connect_timeout", mqtt.connect_timeout, connect_timeout);
        self.duration(
            "mqtt.session_expiry_max",
            mqtt.session_expiry_max,
            Duration::ZERO..=SESSION_EXPIRY_MAX,
        );
        self.number("mqtt.queue_messages_max", mqtt.queue_messages_max, 1..=1_000_000);
        self.size("mqtt.queue_bytes_max", mqtt.queue_bytes_max, KIB..=GIB);
        // Not zero: a queue is emptied between two turns at best.
        let full_deadline = Duration::from_millis(100)..=HOUR;
        self.duration("mqtt.full_deadline", mqtt.full_deadline, full_deadline);
        if mqtt.response_root.len() > 1_024 || mqtt.response_root.contains(['+', '#', '\0']) {
            self.refuse(
                "mqtt.response_root",
                "expected the beginning of a topic: at most 1,024 bytes, no wildcards",
            );
        }
    }

    /// Nobody is asked for a name or a password yet: whoever opens the broker to a network must say that this is meant.
    fn reach(&mut self, section: &str, address: SocketAddr, allow_anonymous: bool) {
        if allow_anonymous || is_loopback(&address) {
            return;
        }
        let what = format!(
            "{address} can be reached from other machines, and clients are not asked who they are; \
             if that is meant, set {section}.allow_anonymous = true, else listen on 127.0.0.1"
        );
        let needs = ["allow_anonymous", "client_certificates"].map(|key| format!("{section}.{key}"));
        self.refuse(&format!("{section}.listen"), &what).needs(needs.into());
    }

    fn number(&mut self, key: &str, value: u32, range: RangeInclusive<u32>) {
        if !range.contains(&value) {
            self.out_of_range(key, &value, range.start(), range.end());
        }
    }

    fn size(&mut self, key: &str, value: ByteSize, range: RangeInclusive<u64>) {
        if !range.contains(&value.0) {
            self.out_of_range(key, &value, &ByteSize(*range.start()), &ByteSize(*range.end()));
        }
    }

    fn duration(&mut self, key: &str, value: Duration, range: RangeInclusive<Duration>) {
        if !range.contains(&value) {
            let text = |duration: &Duration| format!("{}s", duration.as_secs_f64());
            self.out_of_range(key, &text(&value), &text(range.start()), &text(range.end()));
        }
    }

    fn out_of_range(&mut self, key: &str, value: &dyn Display, least: &dyn Display, most: &dyn Display) {
        self.refuse(key, &format!("{value} is out of range, expected {least} to {most}"));
    }

    fn refuse(&mut self, key: &str, what: &str) -> &mut Broken {
        let broken = Broken { key: key.to_owned(), what: what.to_owned(), other: None, needs: Vec::new() };
        self.broken.push(broken);
        self.broken.last_mut().expect("just pushed")
    }
}

impl Broken {
    fn needs(&mut self, keys: Vec<String>) {
        self.needs = keys;
    }
}

/// Whether the kernel would refuse the second of two sockets: the port is the same, and so is the address, or one of the
/// two stands for all of its family. Port 0 is a port of its own each time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (one, other) = (a.ip(), b.ip());
    let is_shared = one == other || one.is_unspecified() || other.is_unspecified();
    a.port() != 0 && a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && is_shared
}

/// `https://example.org:8443`, without a path; `null` is nobody's, and `*` everybody's.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_host = |host: &str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#*@,".contains(&byte))
    };
    text == "*" || host.is_some_and(is_host)
}

/// An IPv4 address inside an IPv6 one counts as what it stands for.
fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Sockets that a ring of a shard has places for.
const UDP_MAX: usize = 64;
const STREAMS_MAX: usize = 256;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOUR: Duration = Duration::from_secs(3_600);
/// 2³² − 1 seconds would mean "never" on the wire `[MQTT-3.1.2-23]`.
const SESSION_EXPIRY_MAX: Duration = Duration::from_secs(u32::MAX as u64 - 1);
