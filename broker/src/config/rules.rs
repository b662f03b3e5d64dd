//! The rules that types cannot say: the ranges of [`keys`], keys that need each other, and who may be listened to.

use std::net::SocketAddr;

use toml::{Table, Value};

use super::value::impossible;
use super::{ClientCertificates, Config, Listener, Placed, ProxyProtocol, keys};

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
    rules.ranges(config);
    rules.pair("tls", config.tls.certificate.is_some(), config.tls.key.is_some());
    rules.doors(config);
    rules.listeners(config);
    rules.addresses(config);
    rules.broken
}

struct Rules {
    broken: Vec<Broken>,
}

impl Rules {
    /// Every value against the range of its key.
    fn ranges(&mut self, config: &Config) {
        for (section, held) in plain(config) {
            match held {
                Value::Table(held) => self.ranges_of(&section, &held),
                held => {
                    let items = held.as_array().into_iter().flatten().filter_map(Value::as_table);
                    for (index, item) in items.enumerate() {
                        self.ranges_of(&format!("{section}[{index}]"), item);
                    }
                }
            }
        }
    }

    fn ranges_of(&mut self, section: &str, held: &Table) {
        for (name, value) in held {
            let path = format!("{section}.{name}");
            let shape = keys::key(&path).expect("the table has every key of the configuration").shape;
            for found in shape.misfits(value) {
                self.refuse(&path, &impossible(&found, &shape.expected_part()));
            }
        }
    }

    /// The operator's door, and that there is one for clients.
    fn doors(&mut self, config: &Config) {
        for address in &config.admin.listen {
            self.reach("admin", *address, config.admin.allow_anonymous);
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
                let types = [key, *other].map(|key| key.replace(".listen", ".type"));
                let broken = self.refuse(key, &what);
                broken.other = Some((*other).to_owned());
                broken.needs = types.into();
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
        if listener.transport.has_websocket() {
            return;
        }
        let given = [("path", listener.path.is_some()), ("origins", listener.origins.is_some())];
        for (key, _) in given.iter().filter(|(_, given)| *given) {
            let what = "has a meaning where WebSocket is spoken: type ws or wss";
            self.refuse(&format!("{section}.{key}"), what);
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

/// The configuration as tables of plain values, as it would stand in a file.
pub(super) fn plain(config: &Config) -> Table {
    Table::try_from(config).expect("a configuration consists of tables of plain values")
}

/// Whether the kernel would refuse the second of two sockets: the port is the same, and so is the address, or one of the
/// two stands for all of its family. Port 0 is a port of its own each time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (one, other) = (a.ip(), b.ip());
    let is_shared = one == other || one.is_unspecified() || other.is_unspecified();
    a.port() != 0 && a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && is_shared
}

/// An IPv4 address inside an IPv6 one counts as what it stands for.
fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Sockets that a ring of a shard has places for.
const UDP_MAX: usize = 64;
const STREAMS_MAX: usize = 256;
