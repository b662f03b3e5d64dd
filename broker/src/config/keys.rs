//! Every key that there is: the one table behind refusals, ranges, suggestions and the reference.
//!
//! ```text
//!                 ┌─► file, layers   what was expected there; which key was meant
//!   SECTIONS ─────┼─► rules          the range of every value
//!                 ├─► print          what holds where nothing is said
//!                 └─► reference      `quelea config`, contrib/quelea.toml
//! ```
//! The structs of [`super::Config`] say of which type a key is; a test holds their keys and these equal.

use std::time::Duration;

use super::shape::{Shape, one_of};

/// One section, in the order of the file.
pub(super) struct Section {
    pub(super) name: &'static str,
    /// A sentence for the reference.
    pub(super) purpose: &'static str,
    pub(super) keys: &'static [Key],
}

/// One key.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// A sentence for the reference.
    pub(super) purpose: &'static str,
    /// For a key without a default.
    pub(super) unset: Option<Unset>,
}

/// What there is to say about a key without a default.
pub(super) struct Unset {
    /// What holds while nothing is said.
    pub(super) meaning: &'static str,
    /// A value, as it would stand in a file.
    pub(super) example: &'static str,
}

/// The section that is a list: one for each further listener.
pub(super) const LISTENERS: &str = "listeners";

/// The section of that name.
pub(super) fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name == name)
}

/// The key at `section.key` or `listeners[3].key`.
pub(super) fn key(path: &str) -> Option<&'static Key> {
    let (table, name) = path.rsplit_once('.')?;
    let table = table.split_once('[').map_or(table, |(list, _)| list);
    section(table)?.keys.iter().find(|key| key.name == name)
}

/// What to say of a section that there is not.
pub(super) fn unknown_section(name: &str) -> String {
    let names: Vec<&str> = SECTIONS.iter().map(|section| section.name).collect();
    if let Some(meant) = nearest(name, &names) {
        return format!("unknown section `{name}`, did you mean `{meant}`?");
    }
    match sections_with(name) {
        known if known.is_empty() => format!("unknown section `{name}`, expected {}", one_of(&names, '`')),
        known => format!("is a key and stands in no section, did you mean {}?", known.join(" or ")),
    }
}

/// The key of the section that `name` is a slip of.
pub(super) fn meant(section: &Section, name: &str) -> Option<&'static str> {
    let names: Vec<&str> = section.keys.iter().map(|key| key.name).collect();
    nearest(name, &names)
}

/// What to say of a key that its section does not have: the one that was meant, if there is one like it.
pub(super) fn unknown_key(section: &Section, name: &str) -> String {
    if let Some(meant) = meant(section, name) {
        return format!("unknown key `{name}`, did you mean `{meant}`?");
    }
    let names: Vec<&str> = section.keys.iter().map(|key| key.name).collect();
    match sections_with(name) {
        known if known.is_empty() => format!("unknown key `{name}`, expected {}", one_of(&names, '`')),
        known => format!("unknown key `{name}`, did you mean {}?", known.join(" or ")),
    }
}

/// The keys of that name, with their sections.
fn sections_with(name: &str) -> Vec<String> {
    let has_it = |section: &&Section| section.keys.iter().any(|key| key.name == name);
    SECTIONS.iter().filter(has_it).map(|section| format!("`{}.{name}`", section.name)).collect()
}

/// The word that `typed` is a slip of: at most a letter in three is another, missing, added or in its neighbour's place.
fn nearest<'a>(typed: &str, words: &[&'a str]) -> Option<&'a str> {
    if typed.len() > TYPED_BYTES_MAX {
        return None;
    }
    let typed = typed.to_ascii_lowercase().replace('-', "_");
    let slips = |word: &&str| strsim::damerau_levenshtein(&typed, word);
    let best = words.iter().copied().min_by_key(slips)?;
    (slips(&best) <= (best.len() / 3).max(1)).then_some(best)
}

/// What is longer is no slip of a key; comparing takes its length in time and memory.
const TYPED_BYTES_MAX: usize = 64;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// 2³² − 1 seconds would mean "never" on the wire `[MQTT-3.1.2-23]`.
const SESSION_EXPIRY_MAX: Duration = Duration::from_secs(u32::MAX as u64 - 1);

/// The kernel's largest `TCP_KEEPIDLE`.
const TCP_KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);

const HOUR: Duration = Duration::from_secs(3_600);

const fn key_of(name: &'static str, shape: Shape, purpose: &'static str) -> Key {
    Key { name, shape, purpose, unset: None }
}

impl Key {
    /// Without a default.
    const fn unset(self, meaning: &'static str, example: &'static str) -> Self {
        Self { unset: Some(Unset { meaning, example }), ..self }
    }
}

const fn count(least: u32, most: u32) -> Shape {
    Shape::Count { least, most }
}

const fn size(least: u64, most: u64) -> Shape {
    Shape::Size { least, most }
}

const fn time(least: Duration, most: Duration) -> Shape {
    Shape::Time { least, most, or_none: false }
}

const ALLOW_ANONYMOUS: Key = key_of(
    "allow_anonymous",
    Shape::Switch,
    "Needed to listen beyond loopback: clients are not asked who they are.",
);

const ORIGINS: Key =
    key_of("origins", Shape::Sites, "Sites whose pages may open a WebSocket; \"*\" for all.")
        .unset("on loopback the pages of this machine, beyond it none", "[\"https://example.org\"]");

/// Every section with its keys.
pub(super) const SECTIONS: &[Section] = &[
    Section {
        name: "broker",
        purpose: "The process: shards, data directory, memory.",
        keys: &[
            key_of("shards", Shape::Shards, "Threads that serve; \"auto\": one per core."),
            key_of("data_dir", Shape::Directory, "Where keys, development certificate and lock lie.").unset(
                "$STATE_DIRECTORY, else $XDG_STATE_HOME/quelea, else ~/.local/state/quelea",
                "\"/var/lib/quelea\"",
            ),
            key_of(
                "pin_shards",
                Shape::Switch,
                "Keeps each shard on a core of its own, where there are enough.",
            ),
            key_of("connections_max", count(1, 16_000_000), "Clients connected at once, over all shards."),
            key_of(
                "memory_max",
                Shape::Memory { least: 64 * MIB, most: 1 << 50 },
                "Ceiling of all memory that peers can cause; a share is of RAM, or of the cgroup's limit.",
            ),
            key_of(
                "drain_timeout",
                time(Duration::ZERO, HOUR),
                "How long a broker that ends waits for its clients to go.",
            ),
        ],
    },
    Section {
        name: "quic",
        purpose: "MQTT over QUIC, and what holds for every QUIC listener.",
        keys: &[
            key_of("listen", Shape::Addresses, "UDP addresses."),
            ALLOW_ANONYMOUS,
            key_of(
                "idle_timeout",
                time(Duration::from_secs(5), HOUR),
                "A connection that is silent for so long is closed.",
            ),
            key_of(
                "retry_above_handshakes",
                count(0, 1_000_000),
                "Handshakes in flight, over all shards, above which new clients must prove their address.",
            ),
            key_of(
                "handshakes_max",
                count(1, 1_000_000),
                "Handshakes in flight, over all shards, beyond which first packets get no answer.",
            )
            .unset("what an eighth of each shard's memory holds, from 64 to 4096 a shard", "8192"),
        ],
    },
    Section {
        name: "tcp",
        purpose: "MQTT over TCP.",
        keys: &[key_of("listen", Shape::Addresses, "TCP addresses."), ALLOW_ANONYMOUS],
    },
    Section {
        name: "tls",
        purpose: "MQTT over TLS, and the certificate of every listener that has none of its own.",
        keys: &[
            key_of("listen", Shape::Addresses, "TCP addresses."),
            ALLOW_ANONYMOUS,
            key_of("certificate", Shape::File, "PEM chain, the broker's own certificate first.")
                .unset("a development certificate is made in the data directory", "\"/etc/quelea/cert.pem\""),
            key_of("key", Shape::File, "PEM private key of that certificate, without a passphrase.")
                .unset("that of the development certificate", "\"/etc/quelea/key.pem\""),
        ],
    },
    Section { name: "ws", purpose: "MQTT over WebSocket.", keys: WEBSOCKET_KEYS },
    Section { name: "wss", purpose: "MQTT over WebSocket in TLS.", keys: WEBSOCKET_KEYS },
    Section {
        name: LISTENERS,
        purpose: "A further listener, with what is its own; as many of these sections as there are listeners.",
        keys: LISTENER_KEYS,
    },
    Section {
        name: "admin",
        purpose: "The operator's HTTP door: /metrics and /healthz.",
        keys: &[
            key_of("listen", Shape::Addresses, "TCP addresses."),
            key_of(
                "allow_anonymous",
                Shape::Switch,
                "Needed to listen beyond loopback: whoever reaches the address can read the metrics.",
            ),
        ],
    },
    Section {
        name: "io",
        purpose: "How shards speak to the kernel.",
        keys: &[
            key_of(
                "backend",
                Shape::Choice(&["auto", "io_uring", "epoll"]),
                "\"auto\": io_uring where the kernel allows it, else epoll.",
            ),
            key_of(
                "datagram_buffers",
                Shape::PowerOfTwo { most: 32_768 },
                "io_uring: received datagrams, or trains of them, that may wait for one shard (each up to 64 KiB).",
            ),
            key_of(
                "stream_buffers",
                Shape::PowerOfTwo { most: 32_768 },
                "io_uring: buffers into which one shard's TCP connections are read.",
            ),
            key_of("stream_buffer_size", size(256, 32 * KIB), "io_uring: size of each of those."),
            key_of(
                "tcp_keepalive",
                Shape::Time { least: Duration::from_secs(4), most: TCP_KEEPALIVE_MAX, or_none: true },
                "Silence after which the kernel asks a TCP client whether it is there; \"0s\": never.",
            ),
        ],
    },
    Section { name: "mqtt", purpose: "Limits of the protocol: packets, queues, sessions.", keys: MQTT_KEYS },
    Section {
        name: "log",
        purpose: "The log, on standard error.",
        keys: &[
            key_of(
                "format",
                Shape::Choice(&["text", "json"]),
                "Lines for people, or a JSON object per line.",
            ),
            key_of(
                "level",
                Shape::Choice(&["error", "warn", "info", "debug", "trace"]),
                "The least severe level that is written.",
            ),
        ],
    },
];

/// Of WebSocket, in TLS or not.
const WEBSOCKET_KEYS: &[Key] = &[
    key_of("listen", Shape::Addresses, "TCP addresses."),
    ALLOW_ANONYMOUS,
    key_of("path", Shape::UrlPath, "Path of the request that opens a WebSocket."),
    ORIGINS,
];

const LISTENER_KEYS: &[Key] = &[
    key_of("type", Shape::Choice(&["tcp", "tls", "ws", "wss", "quic"]), "What is spoken there."),
    key_of("listen", Shape::Address, "Its address: UDP for QUIC, else TCP."),
    key_of(
        "allow_anonymous",
        Shape::Switch,
        "Needed to listen beyond loopback, unless every client must show a certificate.",
    ),
    key_of("connections_max", count(1, 16_000_000), "Clients connected at once, over all shards.")
        .unset("as many as the node has", "10000"),
    key_of(
        "connections_per_network_max",
        count(1, 16_000_000),
        "The same from one network: an IPv4 address or an IPv6 /64.",
    )
    .unset("65536 for each shard", "100"),
    key_of(
        "handshakes_per_network_max",
        count(1, 16_000_000),
        "TLS handshakes at once from one network: an IPv4 address or an IPv6 /64.",
    )
    .unset("1024 for each shard", "50"),
    key_of(
        "handshakes_per_site_max",
        count(1, 16_000_000),
        "TLS handshakes at once from one site: an IPv4 /24 or an IPv6 /48.",
    )
    .unset("over QUIC a quarter of what a shard takes, over TLS 1024 for each shard", "200"),
    key_of("certificate", Shape::File, "PEM chain, the broker's own certificate first.")
        .unset("that of [tls]", "\"/etc/quelea/cert.pem\""),
    key_of("key", Shape::File, "PEM private key of that certificate, without a passphrase.")
        .unset("that of [tls]", "\"/etc/quelea/key.pem\""),
    key_of(
        "client_certificates",
        Shape::Choice(&["off", "optional", "required"]),
        "Whether clients show a certificate in TLS.",
    ),
    key_of("client_ca", Shape::File, "PEM file of the authorities that vouch for them.")
        .unset("needed where clients show certificates", "\"/etc/quelea/clients.pem\""),
    key_of(
        "proxy_protocol",
        Shape::Choice(&["off", "required"]),
        "Whether a load balancer's PROXY header, version 1 or 2, comes first.",
    ),
    key_of("proxy_trusted", Shape::Networks, "Whose headers are believed.")
        .unset("on loopback whoever reaches the listener; needed beyond it", "[\"10.0.0.0/8\"]"),
    key_of("path", Shape::UrlPath, "Path of the request that opens a WebSocket.").unset("/mqtt", "\"/mqtt\""),
    ORIGINS,
];

const MQTT_KEYS: &[Key] = &[
    key_of("packet_max", size(KIB, 255 * MIB), "Largest packet taken from a client."),
    key_of("receive_maximum", count(1, 65_535), "QoS 1 and 2 publications that a client may have in flight."),
    key_of("topic_alias_maximum", count(0, 65_535), "Topic aliases that a client may set."),
    key_of(
        "topic_alias_bytes_max",
        size(KIB, 16 * MIB),
        "Bytes of topics with an alias that are remembered for one connection, in each direction.",
    ),
    key_of("client_id_bytes_max", count(23, 65_535), "Longest client identifier, in bytes."),
    key_of("topic_levels_max", count(1, 128), "Levels of a topic name or filter."),
    key_of("subscriptions_max", count(1, 100_000), "Subscriptions of one session."),
    key_of(
        "former_connections_max",
        count(1, 1_000),
        "Connections of one session that are gone while what they have published waits for a subscriber.",
    ),
    key_of(
        "connect_timeout",
        time(Duration::from_secs(1), Duration::from_secs(600)),
        "From the transport's opening to a whole CONNECT.",
    ),
    key_of(
        "session_expiry_max",
        time(Duration::ZERO, SESSION_EXPIRY_MAX),
        "Longest life of a session without a client.",
    ),
    key_of("queue_messages_max", count(1, 1_000_000), "Messages that wait for one session."),
    key_of("queue_bytes_max", size(KIB, GIB), "Bytes that wait for one session."),
    key_of(
        "on_full",
        Shape::Choice(&["drop_oldest", "drop_new", "end_session"]),
        "Who pays when the queue of a session without a client is full.",
    ),
    key_of(
        "full_deadline",
        // Not zero: a queue is emptied between two turns at best.
        time(Duration::from_millis(100), HOUR),
        "How long a connected subscriber whose queue is full may keep its publishers waiting.",
    ),
    key_of("on_slow", Shape::Choice(&["disconnect", "drop_oldest", "drop_new"]), "Who pays then."),
    key_of(
        "response_root",
        Shape::TopicRoot,
        "Root of the response topics that MQTT 5 clients are told when they ask: ROOT/CLIENT-ID; \"\": none.",
    ),
];

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use toml::{Table, Value};

    use super::super::Config;
    use super::*;

    /// The words in backticks of what serde says when it does not know `name`: all that it knows.
    fn known_beside(table: Table) -> Vec<String> {
        let refusal = Config::deserialize(table).unwrap_err().message().to_owned();
        let (_, known) = refusal.split_once("expected ").unwrap_or_else(|| panic!("{refusal}"));
        known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    fn document(section: &str, keys: Table) -> Table {
        let held = match section {
            LISTENERS => {
                let needed = [("type", "tcp"), ("listen", "127.0.0.1:0")];
                let needed =
                    needed.map(|(name, text)| (name.to_owned(), Value::String(text.to_owned()))).into_iter();
                let needed = needed.filter(|(name, _)| !keys.contains_key(name)).collect::<Table>();
                Value::Array(vec![Value::Table(needed.into_iter().chain(keys).collect())])
            }
            _ => Value::Table(keys),
        };
        Table::from_iter([(section.to_owned(), held)])
    }

    #[test]
    fn the_table_has_the_keys_that_the_parser_knows_in_its_order() {
        let unknown = || Table::from_iter([("?".to_owned(), Value::Integer(0))]);
        let names: Vec<&str> = SECTIONS.iter().map(|section| section.name).collect();
        assert_eq!(known_beside(unknown()), names);
        for section in SECTIONS {
            let names: Vec<&str> = section.keys.iter().map(|key| key.name).collect();
            assert_eq!(known_beside(document(section.name, unknown())), names, "{}", section.name);
        }
    }

    #[test]
    fn the_choices_are_those_that_the_parser_knows() {
        let mut choices = 0;
        for (section, key) in
            SECTIONS.iter().flat_map(|section| section.keys.iter().map(move |key| (section, key)))
        {
            let Shape::Choice(words) = key.shape else { continue };
            let wrong = Table::from_iter([(key.name.to_owned(), Value::String("?".to_owned()))]);
            assert_eq!(known_beside(document(section.name, wrong)), words, "{}.{}", section.name, key.name);
            choices += 1;
        }
        assert_eq!(choices, 8);
    }

    #[test]
    fn a_slip_finds_the_word_and_another_word_does_not() {
        let words: Vec<&str> = MQTT_KEYS.iter().map(|key| key.name).collect();
        for (typed, meant) in [
            ("packt_max", Some("packet_max")),
            ("on_solw", Some("on_slow")),
            ("Queue-Messages-Max", Some("queue_messages_max")),
            ("receive_max", Some("receive_maximum")),
            ("max_inflight_messages", None),
            ("x", None),
        ] {
            assert_eq!(nearest(typed, &words), meant, "{typed}");
        }
    }
}
