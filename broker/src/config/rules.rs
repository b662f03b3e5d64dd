//! The rules that types cannot say: ranges, keys that need each other, and who may be listened to.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{ByteSize, ClientCertificates, Config, Listener, MemoryMax, ProxyProtocol};

/// A broken rule: the key under which the operator finds it, and the sentence.
pub(super) struct Broken {
    pub(super) key: String,
    pub(super) what: String,
}

/// Every rule that `config` breaks, in the order of the sections.
pub(super) fn broken(config: &Config) -> Vec<Broken> {
    let mut rules = Rules { broken: Vec::new() };
    rules.node(config);
    rules.transports(config);
    rules.listeners(config);
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
        self.reach("quic", &config.quic.listen, config.quic.allow_anonymous);
        self.reach("admin", &config.admin.listen, config.admin.allow_anonymous);
        self.overlap(&config.quic.listen);
        self.duration("quic.idle_timeout", config.quic.idle_timeout, Duration::from_secs(5)..=HOUR);
        self.number("quic.retry_above_handshakes", config.quic.retry_above_handshakes, 0..=1_000_000);
        if config.quic.listen.is_empty() && config.placed_listeners().is_empty() {
            self.refuse("tcp.listen", "no address to listen on, here or elsewhere: no client could connect");
        }
    }

    fn listeners(&mut self, config: &Config) {
        for placed in config.placed_listeners() {
            let section = placed.key.strip_suffix(".listen").unwrap_or(&placed.key).to_owned();
            let listener = &placed.listener;
            // Whoever must show a certificate is asked who they are.
            let is_open = listener.client_certificates != ClientCertificates::Required;
            self.reach(&section, &[listener.listen], listener.allow_anonymous || !is_open);
            if let Some(count) = listener.connections_max {
                self.number(&format!("{section}.connections_max"), count, 1..=16_000_000);
            }
            self.tls_keys(&section, listener);
            self.websocket_keys(&section, listener);
            if !listener.proxy_trusted.is_empty() && listener.proxy_protocol == ProxyProtocol::Off {
                let what = "needs proxy_protocol = \"required\": nobody is asked for a header";
                self.refuse(&format!("{section}.proxy_trusted"), what);
            }
            let believes_all =
                listener.proxy_protocol == ProxyProtocol::Required && listener.proxy_trusted.is_empty();
            if believes_all && !listener.is_local() {
                let what =
                    "needs the networks whose headers are believed: beyond loopback anybody could send one";
                self.refuse(&format!("{section}.proxy_trusted"), what);
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
            ];
            for (key, _) in given.iter().filter(|(_, given)| *given) {
                self.refuse(
                    &format!("{section}.{key}"),
                    "has a meaning where TLS is spoken: type tls or wss",
                );
            }
            return;
        }
        self.pair(section, listener.certificate.is_some(), listener.key.is_some());
        if asks && !has_ca {
            let what = "needs client_ca, the file of the authorities that vouch for clients";
            self.refuse(&format!("{section}.client_certificates"), what);
        }
        if has_ca && !asks {
            let what = "needs client_certificates = \"optional\" or \"required\": nobody is asked for one";
            self.refuse(&format!("{section}.client_ca"), what);
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
            self.refuse(&format!("{section}.certificate"), &what);
        }
        if key && !certificate {
            let what = format!("needs {section}.certificate, the certificate of this private key");
            self.refuse(&format!("{section}.key"), &what);
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
    }

    fn protocol(&mut self, config: &Config) {
        let mqtt = &config.mqtt;
        self.size("mqtt.packet_max", mqtt.packet_max, KIB..=255 * MIB);
        self.number("mqtt.receive_maximum", mqtt.receive_maximum, 1..=65_535);
        self.number("mqtt.topic_alias_maximum", mqtt.topic_alias_maximum, 0..=65_535);
        self.number("mqtt.topic_levels_max", mqtt.topic_levels_max, 1..=128);
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
    fn reach(&mut self, section: &str, listen: &[SocketAddr], allow_anonymous: bool) {
        let Some(address) = listen.iter().find(|address| !is_loopback(address)) else { return };
        if allow_anonymous {
            return;
        }
        let what = format!(
            "{address} can be reached from other machines, and clients are not asked who they are; \
             if that is meant, set {section}.allow_anonymous = true, else listen on 127.0.0.1"
        );
        self.refuse(&format!("{section}.listen"), &what);
    }

    /// A QUIC datagram leaves by the socket that its connection's came by, which is found by its family and IP address.
    fn overlap(&mut self, listen: &[SocketAddr]) {
        for (index, address) in listen.iter().enumerate() {
            let overlaps = |earlier: &&SocketAddr| {
                let (a, b) = (earlier.ip(), address.ip());
                a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified())
            };
            if let Some(earlier) = listen[..index].iter().find(overlaps) {
                let what = format!("{address} and {earlier} share an IP address, expected one port for each");
                return self.refuse("quic.listen", &what);
            }
        }
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

    fn refuse(&mut self, key: &str, what: &str) {
        self.broken.push(Broken { key: key.to_owned(), what: what.to_owned() });
    }
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

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOUR: Duration = Duration::from_secs(3_600);
/// 2³² − 1 seconds would mean "never" on the wire `[MQTT-3.1.2-23]`.
const SESSION_EXPIRY_MAX: Duration = Duration::from_secs(u32::MAX as u64 - 1);
