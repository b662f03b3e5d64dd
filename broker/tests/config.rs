//! The configuration as an operator meets it: what is accepted, and the exact words of every refusal.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use quelea::broker::Broker;
use quelea::config::{
    ByteSize, Config, LogFormat, MemoryMax, Origin, Override, Shards, load, read, reference,
};

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

/// Loads `text` as a file and gives the refusal with the file's name replaced by `FILE`.
fn refusal_of_file(text: &str) -> String {
    let file = file(text);
    let error = load(Some(file.path()), [], vec![]).expect_err(text);
    error.to_string().replace(&file.path().display().to_string(), "FILE")
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn flag(flag: &str, section: &str, key: &str, text: &str) -> Override {
    let origin = Origin::Flag(flag.to_owned());
    Override { origin, section: section.to_owned(), key: key.to_owned(), text: text.to_owned() }
}

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn nothing_said_means_the_defaults_on_loopback() {
    let loaded = load(None, [], vec![]).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.config.quic.listen, addresses(&["127.0.0.1:14567"]));
    assert_eq!(loaded.config.tcp.listen, addresses(&["127.0.0.1:1883"]));
    assert_eq!(loaded.config.tls.listen, addresses(&["127.0.0.1:8883"]));
    assert_eq!(loaded.config.ws.listen, addresses(&["127.0.0.1:8083"]));
    assert_eq!(loaded.config.wss.listen, addresses(&["127.0.0.1:8084"]));
    assert_eq!(loaded.config.admin.listen, addresses(&["127.0.0.1:18083"]));
    assert_eq!(loaded.config.broker.memory_max, MemoryMax::Percent(70));
    assert!(loaded.origins.is_empty());
}

#[test]
fn a_file_sets_every_kind_of_value() {
    let file = file(
        r#"
        [broker]
        shards = 4
        memory_max = "2GiB"
        drain_timeout = "1m"
        [quic]
        listen = ["[::1]:14567", "127.0.0.1:14567"]
        [tcp]
        listen = "0.0.0.0:1883"
        allow_anonymous = true
        [mqtt]
        packet_max = "64KiB"
        receive_maximum = 100
        [log]
        format = "json"
        "#,
    );
    let config = load(Some(file.path()), [], vec![]).unwrap().config;
    assert_eq!(config.broker.shards, Shards::Count(4));
    assert_eq!(config.broker.memory_max, MemoryMax::Bytes(ByteSize(2 << 30)));
    assert_eq!(config.broker.drain_timeout, Duration::from_secs(60));
    assert_eq!(config.quic.listen, addresses(&["[::1]:14567", "127.0.0.1:14567"]));
    assert_eq!(config.tcp.listen, addresses(&["0.0.0.0:1883"]));
    assert_eq!(config.mqtt.packet_max, ByteSize(65_536));
    assert_eq!(config.mqtt.receive_maximum, 100);
    assert_eq!(config.mqtt.topic_alias_maximum, 16);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn refusals_of_a_file_name_line_key_and_what_was_expected() {
    let cases = [
        (
            "[mqtt]\npackt_max = \"1MiB\"",
            "FILE:2: mqtt.packt_max: unknown key `packt_max`, did you mean `packet_max`?",
        ),
        ("\n\n[mqt]\n", "FILE:3: mqt: unknown section `mqt`, did you mean `mqtt`?"),
        (
            "[mqtt]\npacket_max = 12",
            "FILE:2: mqtt.packet_max: 12 is not possible, expected a size from \"1KiB\" to \"255MiB\" (units: B, kB, MB, GB, KiB, MiB, GiB)",
        ),
        (
            "[mqtt]\n# a comment\npacket_max = \"12 parsecs\"",
            "FILE:3: mqtt.packet_max: \"12 parsecs\" is not possible, expected a size from \"1KiB\" to \"255MiB\" (units: B, kB, MB, GB, KiB, MiB, GiB)",
        ),
        (
            "[mqtt]\nconnect_timeout = \"10\"",
            "FILE:2: mqtt.connect_timeout: \"10\" is not possible, expected a duration from \"1s\" to \"10m\" (units: ms, s, m, h, d)",
        ),
        (
            "[mqtt]\nfull_deadline = \"0s\"",
            "FILE:2: mqtt.full_deadline: \"0s\" is not possible, expected a duration from \"100ms\" to \"1h\" (units: ms, s, m, h, d)",
        ),
        (
            "[mqtt]\nreceive_maximum = -1",
            "FILE:2: mqtt.receive_maximum: -1 is not possible, expected a whole number from 1 to 65535",
        ),
        (
            "[mqtt]\nreceive_maximum = 0\n\nqueue_messages_max = 0",
            "FILE:2: mqtt.receive_maximum: 0 is not possible, expected a whole number from 1 to 65535\nFILE:4: mqtt.queue_messages_max: 0 is not possible, expected a whole number from 1 to 1000000",
        ),
        (
            "[mqtt]\ntopic_levels_max = 129\nsubscriptions_max = 0\n\nformer_connections_max = 1001",
            "FILE:2: mqtt.topic_levels_max: 129 is not possible, expected a whole number from 1 to 128\nFILE:3: mqtt.subscriptions_max: 0 is not possible, expected a whole number from 1 to 100000\nFILE:5: mqtt.former_connections_max: 1001 is not possible, expected a whole number from 1 to 1000",
        ),
        (
            "[mqtt]\npacket_max = \"1GiB\"",
            "FILE:2: mqtt.packet_max: \"1GiB\" is not possible, expected a size from \"1KiB\" to \"255MiB\" (units: B, kB, MB, GB, KiB, MiB, GiB)",
        ),
        (
            "[quic]\nidle_timeout = \"1ms\"",
            "FILE:2: quic.idle_timeout: \"1ms\" is not possible, expected a duration from \"5s\" to \"1h\" (units: ms, s, m, h, d)",
        ),
        (
            "[quic]\nhandshakes_max = 0",
            "FILE:2: quic.handshakes_max: 0 is not possible, expected a whole number from 1 to 1000000",
        ),
        (
            "[io]\nbackend = \"kqueue\"",
            "FILE:2: io.backend: \"kqueue\" is not possible, expected one of \"auto\", \"io_uring\", \"epoll\"",
        ),
        (
            "[io]\ndatagram_buffers = 100\nstream_buffers = 65536",
            "FILE:2: io.datagram_buffers: 100 is not possible, expected a power of two from 1 to 32768\nFILE:3: io.stream_buffers: 65536 is not possible, expected a power of two from 1 to 32768",
        ),
        (
            "[io]\ntcp_keepalive = \"3s\"",
            "FILE:2: io.tcp_keepalive: \"3s\" is not possible, expected a duration from \"4s\" to \"32767s\", or \"0s\" (units: ms, s, m, h, d)",
        ),
        (
            "[broker]\nconnections_max = 0",
            "FILE:2: broker.connections_max: 0 is not possible, expected a whole number from 1 to 16000000",
        ),
        (
            "[quic]\nlisten = [\"[::1]:1\", \"127.0.0.1:1\", \"127.0.0.1:2\", \"127.0.0.1:1\"]",
            "FILE:2: quic.listen: 127.0.0.1:1 is listed twice",
        ),
        (
            "[tcp]\nallow_anonymous = true\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:0\", \"127.0.0.1:0\", \"0.0.0.0:1\", \"[::]:1\"]",
            "FILE:3: tcp.listen: 0.0.0.0:1 and 127.0.0.1:1 cannot both be served",
        ),
        (
            "[tcp]\nlisten = \"127.0.0.1:14567\"\n[admin]\nlisten = \"127.0.0.1:8883\"",
            "FILE:4: admin.listen: 127.0.0.1:8883 is the address of tls.listen, too (a default)",
        ),
        (
            "[broker]\nshards = 0",
            "FILE:2: broker.shards: 0 is not possible, expected \"auto\" or a number from 1 to 128",
        ),
        (
            "[broker]\nshards = \"all\"",
            "FILE:2: broker.shards: \"all\" is not possible, expected \"auto\" or a number from 1 to 128",
        ),
        (
            "[broker]\nmemory_max = \"100%\"",
            "FILE:2: broker.memory_max: \"100%\" is not possible, expected a share such as \"70%\" (1% to 95%) or a size from \"64MiB\" to \"1048576GiB\"",
        ),
        (
            "[tcp]\nlisten = \"localhost:1883\"",
            "FILE:2: tcp.listen: \"localhost:1883\" is not possible, expected an address with a port such as \"127.0.0.1:1883\" or \"[::]:1883\", a list of them, or \"\" for none",
        ),
        (
            "[tcp]\nlisten = [\n  \"127.0.0.1:1883\",\n  \"1883\",\n]",
            "FILE:4: tcp.listen: \"1883\" is not possible, expected an address with a port such as \"127.0.0.1:1883\" or \"[::]:1883\"",
        ),
        (
            "[tcp]\nallow_anonymous = \"yes\"",
            "FILE:2: tcp.allow_anonymous: \"yes\" is not possible, expected true or false",
        ),
        (
            "[log]\nformat = \"xml\"",
            "FILE:2: log.format: \"xml\" is not possible, expected \"text\" or \"json\"",
        ),
        (
            "[mqtt]\non_full = \"block\"",
            "FILE:2: mqtt.on_full: \"block\" is not possible, expected one of \"drop_oldest\", \"drop_new\", \"end_session\"",
        ),
        ("tcp = 3", "FILE:1: tcp: 3 is not possible, expected a section"),
        (
            "[tls]\ncertificate = \"a.pem\"",
            "FILE:2: tls.certificate: needs tls.key, the private key of this certificate",
        ),
        (
            "[tls]\nkey = \"a.pem\"",
            "FILE:2: tls.key: needs tls.certificate, the certificate of this private key",
        ),
        (
            "tcp = { listen = [] }\ntls = { listen = [] }\nws = { listen = [] }\nwss = { listen = [] }\nquic = { listen = [] }",
            "FILE:1: tcp.listen: no address to listen on, here or elsewhere: no client could connect",
        ),
        (
            "[tcp]\nlisten = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"",
            "FILE:3: tcp.listen: this key stands twice, expected once (first in line 2)",
        ),
        ("[tcp\n", "FILE:1: unclosed table, expected `]`"),
    ];
    for (text, expected) in cases {
        assert_eq!(refusal_of_file(text), expected, "for {text}");
    }
}

#[test]
fn beyond_loopback_only_with_allow_anonymous_in_so_many_words() {
    let refused =
        "can be reached from other machines, and clients are not asked who they are; if that is meant, set";
    for (section, address) in [
        ("tcp", "0.0.0.0:1883"),
        ("tcp", "[::]:1883"),
        ("quic", "192.0.2.1:14567"),
        ("tls", "0.0.0.0:8883"),
        ("ws", "[::]:8083"),
        ("wss", "192.0.2.1:8084"),
        ("admin", "[2001:db8::1]:18083"),
        ("tcp", "[::ffff:192.0.2.1]:1883"),
    ] {
        let text = format!("[{section}]\nlisten = \"{address}\"");
        let expected = format!(
            "FILE:2: {section}.listen: {address} {refused} {section}.allow_anonymous = true, else listen on 127.0.0.1"
        );
        assert_eq!(refusal_of_file(&text), expected);
        let allowed = file(&format!("{text}\nallow_anonymous = true"));
        load(Some(allowed.path()), [], vec![]).unwrap();
    }
    for address in ["127.0.0.1:0", "127.8.9.1:5", "[::1]:0", "[::ffff:127.0.0.1]:1"] {
        let local = file(&format!("[tcp]\nlisten = \"{address}\""));
        load(Some(local.path()), [], vec![]).unwrap();
    }
}

#[test]
fn allowing_one_listener_does_not_allow_another() {
    let text = "[tcp]\nallow_anonymous = true\n[quic]\nlisten = \"0.0.0.0:14567\"";
    assert!(refusal_of_file(text).starts_with("FILE:4: quic.listen: 0.0.0.0:14567 can be reached"));
}

#[test]
fn a_program_that_embeds_the_broker_meets_the_same_rule() {
    let mut config = Config::default();
    config.tcp.listen = addresses(&["0.0.0.0:0"]);
    let refusal = config.validate().unwrap_err().to_string();
    assert!(refusal.starts_with("configuration: tcp.listen: 0.0.0.0:0 can be reached"), "{refusal}");
    config.tcp.allow_anonymous = true;
    config.validate().unwrap();
}

#[test]
fn the_environment_wins_over_the_file_and_a_flag_over_both() {
    let file = file("[tcp]\nlisten = \"127.0.0.1:1\"\n[mqtt]\nreceive_maximum = 5\ntopic_alias_maximum = 6");
    let environment = environment(&[
        ("QUELEA_TCP__LISTEN", "127.0.0.1:2,[::1]:2"),
        ("QUELEA_MQTT__RECEIVE_MAXIMUM", "7"),
        ("QUELEA_BROKER__SHARDS", "3"),
        ("QUELEA_IO__BACKEND", "epoll"),
        ("QUELEA_QUIC__LISTEN", ""),
        ("QUELEA_PORT_1883_TCP_ADDR", "10.0.0.1"),
    ]);
    let flags = vec![flag("--tcp-listen", "tcp", "listen", "127.0.0.1:3")];
    let loaded = load(Some(file.path()), environment, flags).unwrap();
    assert_eq!(loaded.config.tcp.listen, addresses(&["127.0.0.1:3"]));
    assert_eq!(loaded.config.quic.listen, []);
    assert_eq!(loaded.config.mqtt.receive_maximum, 7);
    assert_eq!(loaded.config.mqtt.topic_alias_maximum, 6);
    assert_eq!(loaded.config.broker.shards, Shards::Count(3));
    assert_eq!(loaded.origins["tcp.listen"], Origin::Flag("--tcp-listen".into()));
    assert_eq!(loaded.origins["broker.shards"], Origin::Environment("QUELEA_BROKER__SHARDS".into()));
    let line = Origin::File { path: file.path().to_owned(), line: 5 };
    assert_eq!(loaded.origins["mqtt.topic_alias_maximum"], line);
}

#[test]
fn refusals_of_the_environment_name_the_variable() {
    let cases = [
        (
            "QUELEA_MQTT__PACKET_MAX",
            "12",
            "environment variable QUELEA_MQTT__PACKET_MAX: mqtt.packet_max: 12 is not possible, expected a size from \"1KiB\" to \"255MiB\" (units: B, kB, MB, GB, KiB, MiB, GiB)",
        ),
        (
            "QUELEA_MQTT__RECEIVE_MAXIMUM",
            "many",
            "environment variable QUELEA_MQTT__RECEIVE_MAXIMUM: mqtt.receive_maximum: \"many\" is not possible, expected a whole number from 1 to 65535",
        ),
        (
            "QUELEA_MQTT__RECEIVE_MAXIMUM",
            "70000",
            "environment variable QUELEA_MQTT__RECEIVE_MAXIMUM: mqtt.receive_maximum: 70000 is not possible, expected a whole number from 1 to 65535",
        ),
        (
            "QUELEA_LOG__COLOUR",
            "red",
            "environment variable QUELEA_LOG__COLOUR: log.colour: unknown key `colour`, expected `format` or `level`",
        ),
        (
            "QUELEA_LOGS__LEVEL",
            "info",
            "environment variable QUELEA_LOGS__LEVEL: logs.level: unknown section `logs`, did you mean `log`?",
        ),
    ];
    for (name, value, expected) in cases {
        let error = load(None, environment(&[(name, value)]), vec![]).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let error = load(None, environment(&[("QUELEA_TCP__LISTEN", "0.0.0.0:1883")]), vec![]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("environment variable QUELEA_TCP__LISTEN: tcp.listen: 0.0.0.0:1883 can be")
    );
}

#[test]
fn text_that_looks_like_a_number_is_still_text_where_text_is_wanted() {
    let environment = environment(&[("QUELEA_BROKER__DATA_DIR", "2026"), ("QUELEA_BROKER__SHARDS", "auto")]);
    let config = load(None, environment, vec![]).unwrap().config;
    assert_eq!(config.broker.data_dir.as_deref(), Some(Path::new("2026")));
    assert_eq!(config.broker.shards, Shards::Auto);
}

#[test]
fn tcp_clients_may_go_unasked() {
    let file = file("[io]\ntcp_keepalive = \"0s\"");
    assert_eq!(load(Some(file.path()), [], vec![]).unwrap().config.io.tcp_keepalive, Duration::ZERO);
    assert_eq!(Config::default().io.tcp_keepalive, Duration::from_secs(60));
}

#[test]
fn a_missing_file_is_named() {
    let error = load(Some(Path::new("/nonexistent/quelea.toml")), [], vec![]).unwrap_err();
    assert_eq!(error.to_string(), "/nonexistent/quelea.toml: No such file or directory (os error 2)");
}

#[test]
fn the_printed_configuration_reads_back_as_itself_and_names_its_origins() {
    let given = file("[tcp]\nlisten = [\"127.0.0.1:1\", \"[::1]:1\"]\n[broker]\ndata_dir = \"/a \\\"b\\\"\"");
    let environment =
        environment(&[("QUELEA_MQTT__SESSION_EXPIRY_MAX", "90s"), ("QUELEA_BROKER__SHARDS", "2")]);
    let loaded = load(Some(given.path()), environment, vec![]).unwrap();
    let printed = loaded.to_toml();
    let name = given.path().display();
    assert!(printed.contains(&format!("listen = [\"127.0.0.1:1\", \"[::1]:1\"]  # {name}:2\n")), "{printed}");
    assert!(printed.contains("shards = 2  # environment variable QUELEA_BROKER__SHARDS\n"), "{printed}");
    assert!(printed.contains("packet_max = \"1088KiB\"\n"), "{printed}");
    assert!(printed.contains("# certificate is unset"), "{printed}");
    assert!(printed.contains("# handshakes_max is unset: what an eighth"), "{printed}");
    let read_back = file(&printed);
    assert_eq!(load(Some(read_back.path()), [], vec![]).unwrap().config, loaded.config);
}

#[test]
fn the_readme_names_every_limit_that_can_be_set() {
    let readme = include_str!("../../README.md");
    let printed = load(None, [], vec![]).unwrap().to_toml();
    let mut section = "";
    let mut named = 0;
    for line in printed.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        }
        let line = line.trim_start_matches("# ");
        let Some((key, _)) = line.split_once(" = ").or_else(|| line.split_once(" is unset")) else {
            continue;
        };
        // Where something listens is not a limit; those sections stand in the examples.
        if ["quic", "mqtt"].contains(&section) && !["listen", "allow_anonymous"].contains(&key) {
            assert!(readme.contains(&format!("`{section}.{key}`")), "{section}.{key}");
            named += 1;
        }
    }
    assert!(named > 15, "only {named} in {printed}");
}

const LISTENERS: &str = r#"
[ws]
path = "/socket"
[[listeners]]
type = "wss"
listen = "0.0.0.0:443"
allow_anonymous = true
connections_max = 1000
certificate = "chain.pem"
key = "key.pem"
origins = ["https://example.org"]
[[listeners]]
type = "tls"
listen = "[::]:8885"
client_certificates = "required"
client_ca = "clients.pem"
proxy_protocol = "required"
proxy_trusted = ["10.0.0.0/8", "2001:db8::1"]
"#;

#[test]
fn listeners_of_every_kind_stand_beside_those_of_the_sections() {
    let given = file(LISTENERS);
    let loaded = load(Some(given.path()), [], vec![]).unwrap();
    let all = loaded.config.placed_listeners();
    let places = all.iter().map(|placed| {
        let listener = &placed.listener;
        format!("{} {} {}", placed.key, listener.transport.name(), listener.listen)
    });
    assert_eq!(
        places.collect::<Vec<_>>(),
        [
            "quic.listen quic 127.0.0.1:14567",
            "tcp.listen tcp 127.0.0.1:1883",
            "tls.listen tls 127.0.0.1:8883",
            "ws.listen ws 127.0.0.1:8083",
            "wss.listen wss 127.0.0.1:8084",
            "listeners[0].listen wss 0.0.0.0:443",
            "listeners[1].listen tls [::]:8885",
        ]
    );
    assert_eq!((all[3].listener.path(), all[4].listener.path()), ("/socket", "/mqtt"));
    assert_eq!(all[5].listener.connections_max, Some(1_000));
    assert_eq!(all[6].listener.proxy_trusted.len(), 2);
    let read_back = file(&loaded.to_toml());
    assert_eq!(load(Some(read_back.path()), [], vec![]).unwrap().config, loaded.config);
}

#[test]
fn refusals_of_a_listener_name_its_line_its_number_and_its_key() {
    let head = "[[listeners]]\ntype = \"tcp\"\nlisten = \"127.0.0.1:1\"\n[[listeners]]\n";
    let cases = [
        (
            "type = \"tcp\"",
            "FILE:4: listeners[1]: missing key `listen`, expected an address with a port such as \"127.0.0.1:1883\" or \"[::]:1883\"",
        ),
        (
            "type = \"udp\"\nlisten = \"127.0.0.1:2\"",
            "FILE:5: listeners[1].type: \"udp\" is not possible, expected one of \"tcp\", \"tls\", \"ws\", \"wss\", \"quic\"",
        ),
        (
            "type = \"tcp\"\nlisten = \"2\"",
            "FILE:6: listeners[1].listen: \"2\" is not possible, expected an address with a port such as \"127.0.0.1:1883\" or \"[::]:1883\"",
        ),
        (
            "type = \"tcp\"\nlisten = \"0.0.0.0:2\"",
            "FILE:6: listeners[1].listen: 0.0.0.0:2 can be reached from other machines, and clients are not asked who they are; if that is meant, set listeners[1].allow_anonymous = true, else listen on 127.0.0.1",
        ),
        (
            "type = \"ws\"\nlisten = \"127.0.0.1:2\"\nkey = \"a\"",
            "FILE:7: listeners[1].key: has a meaning where TLS is spoken: type tls, wss or quic",
        ),
        (
            "type = \"tls\"\nlisten = \"127.0.0.1:2\"\nkey = \"a\"",
            "FILE:7: listeners[1].key: needs listeners[1].certificate, the certificate of this private key",
        ),
        (
            "type = \"tls\"\nlisten = \"127.0.0.1:2\"\nclient_certificates = \"required\"",
            "FILE:7: listeners[1].client_certificates: needs client_ca, the file of the authorities that vouch for clients",
        ),
        (
            "type = \"tls\"\nlisten = \"127.0.0.1:2\"\nclient_ca = \"a\"",
            "FILE:7: listeners[1].client_ca: needs client_certificates = \"optional\" or \"required\": nobody is asked for one",
        ),
        (
            "type = \"tls\"\nlisten = \"127.0.0.1:2\"\npath = \"/\"",
            "FILE:7: listeners[1].path: has a meaning where WebSocket is spoken: type ws or wss",
        ),
        (
            "type = \"ws\"\nlisten = \"127.0.0.1:2\"\npath = \"mqtt\"",
            "FILE:7: listeners[1].path: \"mqtt\" is not possible, expected a path such as \"/mqtt\", of at most 1024 bytes",
        ),
        (
            "type = \"ws\"\nlisten = \"127.0.0.1:2\"\norigins = [\"example.org\"]",
            "FILE:7: listeners[1].origins: \"example.org\" is not possible, expected a site such as \"https://example.org\", or \"*\"",
        ),
        (
            "type = \"tcp\"\nlisten = \"127.0.0.1:2\"\nproxy_trusted = [\"10.0.0.0/8\"]",
            "FILE:7: listeners[1].proxy_trusted: needs proxy_protocol = \"required\": nobody is asked for a header",
        ),
        (
            "type = \"tcp\"\nlisten = \"0.0.0.0:2\"\nallow_anonymous = true\nproxy_protocol = \"required\"",
            "FILE:4: listeners[1].proxy_trusted: needs the networks whose headers are believed: beyond loopback anybody could send one",
        ),
        (
            "type = \"tcp\"\nlisten = \"127.0.0.1:2\"\nproxy_trusted = [\"10.0.0.0/33\"]",
            "FILE:7: listeners[1].proxy_trusted: \"10.0.0.0/33\" is not possible, expected an address or a range of them such as \"10.0.0.0/8\"",
        ),
        (
            "type = \"tcp\"\nlisten = \"127.0.0.1:2\"\nconnections_max = 0",
            "FILE:7: listeners[1].connections_max: 0 is not possible, expected a whole number from 1 to 16000000",
        ),
        (
            "type = \"tcp\"\nlisten = \"127.0.0.1:2\"\nconnections_per_network_max = 0",
            "FILE:7: listeners[1].connections_per_network_max: 0 is not possible, expected a whole number from 1 to 16000000",
        ),
        (
            "type = \"ws\"\nlisten = \"127.0.0.1:2\"\nhandshakes_per_network_max = 9",
            "FILE:7: listeners[1].handshakes_per_network_max: has a meaning where TLS is spoken: type tls, wss or quic",
        ),
        (
            "type = \"quic\"\nlisten = \"127.0.0.1:2\"\nproxy_protocol = \"required\"",
            "FILE:7: listeners[1].proxy_protocol: has a meaning on byte streams: type tcp, tls, ws or wss",
        ),
        (
            "type = \"quic\"\nlisten = \"127.0.0.1:2\"\npath = \"/\"",
            "FILE:7: listeners[1].path: has a meaning where WebSocket is spoken: type ws or wss",
        ),
        (
            "type = \"quic\"\nlisten = \"127.0.0.1:2\"\ncertificate = \"a\"",
            "FILE:7: listeners[1].certificate: needs listeners[1].key, the private key of this certificate",
        ),
        (
            "type = \"ws\"\nlisten = \"127.0.0.1:1\"",
            "FILE:6: listeners[1].listen: 127.0.0.1:1 is the address of listeners[0].listen, too (FILE:3)",
        ),
        (
            "type = \"tls\"\nlisten = \"0.0.0.0:1\"\nallow_anonymous = true",
            "FILE:6: listeners[1].listen: 0.0.0.0:1 cannot be served beside 127.0.0.1:1 of listeners[0].listen (FILE:3)",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(refusal_of_file(&format!("{head}{text}")), expected, "for {text}");
    }
}

#[test]
fn udp_and_tcp_may_have_one_address_and_so_may_the_families() {
    let text =
        "[quic]\nlisten = [\"127.0.0.1:1\", \"[::1]:1\"]\n[tcp]\nlisten = [\"127.0.0.1:1\", \"[::1]:1\"]";
    assert_eq!(load(Some(file(text).path()), [], vec![]).unwrap().config.placed_listeners().len(), 7);
}

#[test]
fn there_are_places_for_so_many_listeners() {
    let list = |count: usize| vec!["\"127.0.0.1:0\""; count].join(", ");
    for (section, most, what) in [("quic", 64, "64 QUIC"), ("tcp", 253, "256 other")] {
        load(Some(file(&format!("[{section}]\nlisten = [{}]", list(most))).path()), [], vec![]).unwrap();
        let refusal = refusal_of_file(&format!("[{section}]\nlisten = [{}]", list(most + 1)));
        assert!(refusal.ends_with(&format!("one too many: there may be {what} listeners")), "{refusal}");
    }
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let text = r#"
[quic]
idle_timeout = "1ms"
port = 14567

[tls]
certificate = 3
key = "key.pem"

[mqtt]
packet_max = "much"
receive_maximum = 0

[moqtt]

[[listeners]]
type = "quic"
connections_max = 0
client_ca = "a.pem"

[[listeners]]
type = "udp"
listen = "1883"
path = "mqtt"

[[listeners]]
type = "tcp"
listen = "127.0.0.1:1883"
"#;
    let file = file(text);
    let variables = [("QUELEA_MQTT__RESPONSE_ROOT", "a/+"), ("QUELEA_LOG__LEVL", "info")];
    let flags = vec![flag("--shards", "broker", "shards", "many")];
    let error = load(Some(file.path()), environment(&variables), flags).unwrap_err();
    let error = error.to_string().replace(&file.path().display().to_string(), "FILE");
    let places = error.lines().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" "));
    assert_eq!(
        places.collect::<Vec<_>>(),
        [
            "FILE:3 quic.idle_timeout",
            "FILE:4 quic.port",
            "FILE:7 tls.certificate",
            "FILE:11 mqtt.packet_max",
            "FILE:12 mqtt.receive_maximum",
            "FILE:14 moqtt",
            "FILE:16 listeners[0]",
            "FILE:18 listeners[0].connections_max",
            "FILE:19 listeners[0].client_ca",
            "FILE:22 listeners[1].type",
            "FILE:23 listeners[1].listen",
            "FILE:24 listeners[1].path",
            "FILE:28 listeners[2].listen",
            "environment variable QUELEA_LOG__LEVL log.levl",
            "environment variable QUELEA_MQTT__RESPONSE_ROOT mqtt.response_root",
            "flag --shards broker.shards",
        ],
        "{error}"
    );
}

#[test]
fn what_follows_from_a_mistake_is_not_another() {
    let cases = [
        // The certificate is there, its key is only unreadable.
        ("[tls]\ncertificate = \"a.pem\"\nkey = 3", "FILE:3: tls.key"),
        // It may be that this is allowed.
        ("[tcp]\nlisten = \"0.0.0.0:1\"\nallow_anonymous = \"yes\"", "FILE:3: tcp.allow_anonymous"),
        (
            "[quic]\nlisten = 3\n[[listeners]]\ntype = \"quic\"\nlisten = \"127.0.0.1:14567\"",
            "FILE:2: quic.listen",
        ),
        ("[tcp\nlisten = 3\n", "FILE:1"),
        // They are there, under other names.
        ("[tcp]\nlisten = \"0.0.0.0:1\"\nallow_annonymous = true", "FILE:3: tcp.allow_annonymous"),
        ("[[listeners]]\ntyp = \"tls\"\nlisten = \"127.0.0.1:1\"", "FILE:2: listeners[0].typ"),
        // This is not TOML, so it is not known what it allows.
        ("[tcp]\nlisten = \"0.0.0.0:1\"\nallow_anonymous = yes", "FILE:3: tcp.allow_anonymous"),
        ("[tls]\ncertificate = \"a.pem\"\nkey = b.pem", "FILE:3: tls.key"),
    ];
    for (text, expected) in cases {
        let refusal = refusal_of_file(text);
        assert!(refusal.starts_with(&format!("{expected}: ")) && refusal.lines().count() == 1, "{refusal}");
    }
}

#[test]
fn a_wrong_type_does_not_hide_the_other_mistakes_of_its_listener() {
    let text = r#"
[[listeners]]
type = "udp"
listen = "0.0.0.0:8885"
connections_max = 0
certificate = "/nonexistent/chain.pem"
client_certificates = "required!"
client_ca = "/nonexistent/clients.pem"
proxy_trusted = ["10.0.0.0/33", "10.0.0.0/8", "all"]
path = "mqtt"
origins = ["example.org", "https://example.org", 3]
paths = "mqtt"

[[listeners]]
listen = "0.0.0.0:8886"
"#;
    let expected = [
        "FILE:3: listeners[0].type: \"udp\" is not possible, expected one of \"tcp\", \"tls\", \"ws\", \"wss\", \"quic\"",
        "FILE:5: listeners[0].connections_max: 0 is not possible, expected a whole number from 1 to 16000000",
        "FILE:6: listeners[0].certificate: needs listeners[0].key, the private key of this certificate",
        "FILE:7: listeners[0].client_certificates: \"required!\" is not possible, expected one of \"off\", \"optional\", \"required\"",
        "FILE:9: listeners[0].proxy_trusted: \"10.0.0.0/33\" is not possible, expected an address or a range of them such as \"10.0.0.0/8\"",
        "FILE:9: listeners[0].proxy_trusted: \"all\" is not possible, expected an address or a range of them such as \"10.0.0.0/8\"",
        "FILE:10: listeners[0].path: \"mqtt\" is not possible, expected a path such as \"/mqtt\", of at most 1024 bytes",
        "FILE:11: listeners[0].origins: 3 is not possible, expected a site such as \"https://example.org\", or \"*\"",
        "FILE:12: listeners[0].paths: unknown key `paths`, did you mean `path`?",
        "FILE:14: listeners[1]: missing key `type`, expected one of \"tcp\", \"tls\", \"ws\", \"wss\", \"quic\"",
        "FILE:15: listeners[1].listen: 0.0.0.0:8886 can be reached from other machines, and clients are not asked who they are; if that is meant, set listeners[1].allow_anonymous = true, else listen on 127.0.0.1",
    ];
    assert_eq!(refusal_of_file(text).lines().collect::<Vec<_>>(), expected);

    let file = file(text);
    let config = read(Some(file.path()), [], vec![]).loaded.config;
    let paths = Broker::check_files(&config).into_iter().map(|error| error.path.display().to_string());
    assert_eq!(paths.collect::<Vec<_>>(), ["/nonexistent/chain.pem", "/nonexistent/clients.pem"]);
}

#[test]
fn every_item_of_a_list_is_told_with_its_line() {
    let address = "an address with a port such as \"127.0.0.1:1883\" or \"[::]:1883\"";
    let text =
        "[tcp]\nlisten = [\n  \"1883\",\n  \"127.0.0.1:1\",\n  2,\n]\n[quic]\nlisten = \"a, 127.0.0.1:2,b\"";
    let expected = [
        format!("FILE:3: tcp.listen: \"1883\" is not possible, expected {address}"),
        format!("FILE:5: tcp.listen: 2 is not possible, expected {address}"),
        format!("FILE:8: quic.listen: \"a\" is not possible, expected {address}"),
        format!("FILE:8: quic.listen: \"b\" is not possible, expected {address}"),
    ];
    assert_eq!(refusal_of_file(text).lines().collect::<Vec<_>>(), expected);
    let error = load(None, environment(&[("QUELEA_TCP__LISTEN", "[\"1\", \"2\"]")]), vec![]).unwrap_err();
    assert_eq!(error.problems.len(), 2, "{error}");
    let both = [("QUELEA_TCP__LISTEN", "0.0.0.0:1"), ("QUELEA_TCP__ALLOW_ANONIMOUS", "true")];
    let error = load(None, environment(&both), vec![]).unwrap_err().to_string();
    assert!(error.contains("did you mean `allow_anonymous`?") && error.lines().count() == 1, "{error}");
    let text = "[ws]\norigins = [\"a\", \"https://b\", \"c/\"]";
    assert_eq!(refusal_of_file(text).matches("expected a site such as").count(), 2);
}

#[test]
fn a_wrong_type_is_told_what_its_key_expects() {
    let cases = [
        ("on_slow = 3", "3 is not possible, expected one of \"disconnect\", \"drop_oldest\", \"drop_new\""),
        (
            "on_slow = [3]",
            "a list is not possible, expected one of \"disconnect\", \"drop_oldest\", \"drop_new\"",
        ),
        ("on_slow.disconnect = 1", "a section is not possible, expected one of \"disconnect\""),
        ("receive_maximum = \"32\"", "\"32\" is not possible, expected a whole number from 1 to 65535"),
        ("receive_maximum = 1.5", "1.5 is not possible, expected a whole number from 1 to 65535"),
        ("queue_bytes_max = 1024", "1024 is not possible, expected a size from \"1KiB\" to \"1GiB\""),
        (
            "session_expiry_max = true",
            "true is not possible, expected a duration from \"0s\" to \"4294967294s\"",
        ),
    ];
    for (line, expected) in cases {
        let refusal = refusal_of_file(&format!("[mqtt]\n{line}"));
        let (place, said) = refusal.split_once(": ").and_then(|(_, rest)| rest.split_once(": ")).unwrap();
        assert!(place.starts_with("mqtt.") && said.starts_with(expected), "{refusal}");
    }
    let long = refusal_of_file(&format!("[mqtt]\non_slow = \"{}\"", "x".repeat(10_000)));
    assert!(long.len() < 300, "{} bytes", long.len());
}

#[test]
fn the_key_that_was_meant_is_named() {
    let cases = [
        (
            "[mqtt]\nrecieve_maximum = 3",
            "mqtt.recieve_maximum: unknown key `recieve_maximum`, did you mean `receive_maximum`?",
        ),
        (
            "[mqtt]\npacket-max = \"1MiB\"",
            "mqtt.packet-max: unknown key `packet-max`, did you mean `packet_max`?",
        ),
        (
            "[tcp]\nidle_timeout = \"9s\"",
            "tcp.idle_timeout: unknown key `idle_timeout`, did you mean `quic.idle_timeout`?",
        ),
        (
            "[tcp]\npath = \"/\"",
            "tcp.path: unknown key `path`, did you mean `ws.path` or `wss.path` or `listeners.path`?",
        ),
        ("[tcp]\nport = 1883", "tcp.port: unknown key `port`, expected `listen` or `allow_anonymous`"),
        (
            "[websocket]\n",
            "websocket: unknown section `websocket`, expected one of `broker`, `quic`, `tcp`, `tls`, `ws`, `wss`, `listeners`, `admin`, `io`, `mqtt`, `log`",
        ),
        ("shards = 3", "shards: is a key and stands in no section, did you mean `broker.shards`?"),
    ];
    for (text, expected) in cases {
        let refusal = refusal_of_file(text);
        assert_eq!(refusal.split_once(": ").unwrap().1, expected);
    }
}

#[test]
fn a_line_that_is_not_toml_does_not_hide_the_others() {
    let text = "\
[tcp]
listen = 127.0.0.1:1883 # quotes are missing
allow_anonymous: true

[mqtt]
packet_max = 12
on_slow = drop_new
receive_maximum =
receive_maximum = 0
packet_max = \"1MiB\"

[quic]
listen = \"0.0.0.0:14567\"
allow_anonymous = yes

[mqtt]
[log]
level = \"loud\"
";
    let refusal = refusal_of_file(text);
    let address = "an address with a port such as \"127.0.0.1:1883\" or \"[::]:1883\", a list of them, or \"\" for none";
    let choices = "one of \"disconnect\", \"drop_oldest\", \"drop_new\"";
    let number = "a whole number from 1 to 65535";
    let size = "a size from \"1KiB\" to \"255MiB\" (units: B, kB, MB, GB, KiB, MiB, GiB)";
    assert_eq!(
        refusal.lines().collect::<Vec<_>>(),
        [
            format!("FILE:2: tcp.listen: 127.0.0.1:1883 cannot be read, expected {address}"),
            "FILE:3: tcp.allow_anonymous: has no value, expected `=` and true or false".to_owned(),
            format!("FILE:6: mqtt.packet_max: 12 is not possible, expected {size}"),
            format!("FILE:7: mqtt.on_slow: drop_new cannot be read, expected {choices}"),
            format!("FILE:8: mqtt.receive_maximum: has no value, expected {number}"),
            "FILE:10: mqtt.packet_max: this key stands twice, expected once (first in line 6)".to_owned(),
            "FILE:14: quic.allow_anonymous: yes cannot be read, expected true or false".to_owned(),
            "FILE:16: mqtt: this section stands twice, expected once (first in line 5)".to_owned(),
            "FILE:18: log.level: \"loud\" is not possible, expected one of \"error\", \"warn\", \"info\", \"debug\", \"trace\"".to_owned(),
        ]
    );
}

/// Nothing is said of what may have been swallowed, or stands in a section that cannot be told.
#[test]
fn a_torn_file_is_told_its_tear_and_no_more() {
    for (text, line) in [
        ("[tcp\nlisten = 3\n", 1),
        ("[mqtt]\non_slow = 3\n[tcp] listen = 3\n", 3),
        ("[tcp]\nlisten = [\"127.0.0.1:1\",\nallow_anonymous = 3\n", 3),
        ("[mqtt]\non_slow = 3\nx = [\n  1,\n  y,\n]\n", 5),
    ] {
        let variables = environment(&[("QUELEA_QUIC__LISTEN", "0.0.0.0:1")]);
        let file = file(text);
        let problems = load(Some(file.path()), variables, vec![]).unwrap_err().problems;
        let torn = Origin::File { path: file.path().to_owned(), line };
        assert!(problems.iter().all(|problem| problem.origin == torn), "{text}: {problems:?}");
    }
    let latin = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(latin.path(), b"[tcp]\n# K\xf6ln\n").unwrap();
    let refusal = load(Some(latin.path()), [], vec![]).unwrap_err().to_string();
    assert!(refusal.ends_with(":2: is not text in UTF-8"), "{refusal}");
}

#[test]
fn sections_in_the_wrong_brackets_are_read_all_the_same() {
    let text =
        "[listeners]\ntype = \"tpc\"\nlisten = \"127.0.0.1:1\"\n[[mqtt]]\non_slow = 3\n[[log]]\nlevel = 1\n";
    let refusal = refusal_of_file(text);
    let choices = "expected one of \"disconnect\", \"drop_oldest\", \"drop_new\"";
    assert_eq!(
        refusal.lines().collect::<Vec<_>>(),
        [
            "FILE:1: listeners: a list is expected: [[listeners]], with two brackets, for each",
            "FILE:2: listeners[0].type: \"tpc\" is not possible, expected one of \"tcp\", \"tls\", \"ws\", \"wss\", \"quic\"",
            "FILE:4: mqtt: stands once, expected [mqtt] with one bracket",
            &format!("FILE:5: mqtt.on_slow: 3 is not possible, {choices}"),
            "FILE:6: log: stands once, expected [log] with one bracket",
            "FILE:7: log.level: 1 is not possible, expected one of \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
        ]
    );
    assert_eq!(
        refusal_of_file("listeners = 3\ntcp = [3]"),
        "FILE:1: listeners: 3 is not possible, expected sections [[listeners]]\nFILE:2: tcp: a list is not possible, expected a section"
    );
    let error =
        load(None, environment(&[("QUELEA_LISTENERS__TYPE", "tcp")]), vec![]).unwrap_err().to_string();
    assert!(error.ends_with("a list can only be said in a file, expected [[listeners]] there"), "{error}");
}

#[test]
fn a_listener_of_unknown_type_clashes_with_nobody() {
    let text = "[[listeners]]\ntype = \"udp\"\nlisten = \"127.0.0.1:1883\"\n[[listeners]]\ntype = \"quic\"\nlisten = \"127.0.0.1:1883\"";
    let refusal = refusal_of_file(text);
    assert!(refusal.starts_with("FILE:2: listeners[0].type: ") && refusal.lines().count() == 1, "{refusal}");
}

/// The settings of a file that are comments, as they are once their `#` is taken away.
fn uncommented(text: &str) -> String {
    let is_setting = |rest: &str| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    let lines =
        text.lines().map(|line| line.strip_prefix('#').filter(|rest| is_setting(rest)).unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_reference_in_the_repository_is_the_one_that_is_printed() {
    let committed = include_str!("../../contrib/quelea.toml");
    assert!(committed == reference(), "out of date: cargo run -p quelea -- config > contrib/quelea.toml");
}

#[test]
fn the_reference_sets_nothing_as_it_is() {
    let file = file(&reference());
    assert_eq!(load(Some(file.path()), [], vec![]).unwrap().config, Config::default());
}

#[test]
fn the_reference_shows_every_key_with_its_default() {
    let text = reference();
    let shown: toml::Table = toml::from_str(&uncommented(&text)).unwrap();
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    assert_eq!(shown.keys().collect::<Vec<_>>(), defaults.keys().collect::<Vec<_>>());
    let mut without_default = Vec::new();
    for (section, keys) in &shown {
        // A listener has a type and an address of its own and takes the rest from elsewhere.
        let Some(keys) = keys.as_table() else { continue };
        let defaults = defaults[section].as_table().unwrap();
        assert!(defaults.keys().all(|key| keys.contains_key(key)), "[{section}] lacks one of {defaults}");
        for (key, value) in keys {
            match defaults.get(key) {
                Some(default) => assert_eq!(value, default, "{section}.{key}"),
                None => without_default.push(format!("{section}.{key}")),
            }
        }
    }
    let expected =
        ["broker.data_dir", "quic.handshakes_max", "tls.certificate", "tls.key", "ws.origins", "wss.origins"];
    assert_eq!(without_default, expected);
    assert_eq!(
        text.matches("; unset: ").count(),
        expected.len() + shown["listeners"][0].as_table().unwrap().len() - 5
    );
}

/// What is shown as an example can be set: every line is readable, and what the rules still miss are files and each other.
#[test]
fn every_example_of_the_reference_can_be_read() {
    let file = file(&uncommented(&reference()));
    let reading = read(Some(file.path()), [], vec![]);
    let said: Vec<_> = reading.problems.iter().map(|problem| problem.what.as_str()).collect();
    let of_other_types =
        |what: &&str| !what.starts_with("has a meaning where") && !what.starts_with("needs ");
    assert_eq!(said.iter().filter(|what| of_other_types(what)).count(), 0, "{said:?}");
    assert_eq!(reading.loaded.config.listeners.len(), 1);
    assert_eq!(reading.loaded.config.quic.handshakes_max, Some(8_192));
}

/// The whole table at once: no key takes what is no value of any, and each says what it takes.
#[test]
fn every_key_refuses_what_it_cannot_be_and_says_what_it_expects() {
    let text = uncommented(&reference());
    let wrong: Vec<String> = text
        .lines()
        .map(|line| match line.split_once(" = ") {
            Some((key, _)) if !line.starts_with('#') => format!("{key} = 2026-01-01"),
            _ => line.to_owned(),
        })
        .collect();
    let mistakes = wrong.iter().filter(|line| line.ends_with(" = 2026-01-01")).count();
    let file = file(&wrong.join("\n"));
    let problems = load(Some(file.path()), [], vec![]).unwrap_err().problems;
    assert_eq!(problems.len(), mistakes);
    for problem in problems {
        let Origin::File { line, .. } = problem.origin else { panic!("{problem}") };
        let (key, _) = wrong[line - 1].split_once(" = ").unwrap();
        assert!(problem.key.as_ref().is_some_and(|path| path.ends_with(&format!(".{key}"))), "{problem}");
        // The comment above the setting in the reference says the same.
        let expected = problem.what.strip_prefix("2026-01-01 is not possible, expected ").unwrap();
        let comment = wrong[line - 2].trim_start_matches("# ").to_lowercase();
        assert!(comment.starts_with(&expected.to_lowercase()), "{comment}: {problem}");
    }
    assert!(mistakes > 60, "{mistakes}");
}

/// Whatever is damaged: something is told of its line or of none, and nothing of lines that are not there.
#[test]
fn no_damaged_letter_ends_the_check_or_is_told_elsewhere() {
    let whole = uncommented(&reference());
    let file = file("");
    let lines = whole.lines().count();
    let mut refused = 0;
    for (at, _) in whole.char_indices().step_by(67) {
        for junk in ["", "\"", "[", "=", "\n", "\u{e9}"] {
            let Some(rest) = whole.get(at + 1..) else { continue };
            let damaged = format!("{}{junk}{rest}", &whole[..at]);
            std::fs::write(file.path(), &damaged).unwrap();
            let problems = read(Some(file.path()), [], vec![]).problems;
            refused += usize::from(!problems.is_empty());
            for problem in problems {
                let Origin::File { line, .. } = problem.origin else { panic!("{problem}") };
                assert!((1..=lines + 1).contains(&line), "{problem} in {damaged}");
                assert!(problem.to_string().lines().count() == 1, "{problem:?}");
            }
        }
    }
    assert!(refused > 200, "{refused}");
}
