//! The configuration as an operator meets it: what is accepted, and the exact words of every refusal.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use quelea::config::{ByteSize, Config, LogFormat, MemoryMax, Origin, Override, Shards, load};

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
            "FILE:2: mqtt.packt_max: unknown key `packt_max`, expected one of `packet_max`, `receive_maximum`, `topic_alias_maximum`, `topic_alias_bytes_max`, `client_id_bytes_max`, `topic_levels_max`, `subscriptions_max`, `former_connections_max`, `connect_timeout`, `session_expiry_max`, `queue_messages_max`, `queue_bytes_max`, `on_full`, `full_deadline`, `on_slow`, `response_root`",
        ),
        (
            "\n\n[mqt]\n",
            "FILE:3: mqt: unknown key `mqt`, expected one of `broker`, `quic`, `tcp`, `tls`, `ws`, `wss`, `listeners`, `admin`, `io`, `mqtt`, `log`",
        ),
        (
            "[mqtt]\npacket_max = 12",
            "FILE:2: mqtt.packet_max: invalid type: integer `12`, expected a size such as \"64KiB\" (units: B, kB, MB, GB, KiB, MiB, GiB)",
        ),
        (
            "[mqtt]\n# a comment\npacket_max = \"12 parsecs\"",
            "FILE:3: mqtt.packet_max: invalid value: string \"12 parsecs\", expected a size such as \"64KiB\" (units: B, kB, MB, GB, KiB, MiB, GiB)",
        ),
        (
            "[mqtt]\nconnect_timeout = \"10\"",
            "FILE:2: mqtt.connect_timeout: invalid value: string \"10\", expected a duration such as \"10s\" (units: ms, s, m, h, d)",
        ),
        (
            "[mqtt]\nfull_deadline = \"0s\"",
            "FILE:2: mqtt.full_deadline: 0s is out of range, expected 0.1s to 3600s",
        ),
        (
            "[mqtt]\nreceive_maximum = -1",
            "FILE:2: mqtt.receive_maximum: invalid value: integer `-1`, expected a whole number from 0 to 4294967295",
        ),
        (
            "[mqtt]\nreceive_maximum = 0\n\nqueue_messages_max = 0",
            "FILE:2: mqtt.receive_maximum: 0 is out of range, expected 1 to 65535\nFILE:4: mqtt.queue_messages_max: 0 is out of range, expected 1 to 1000000",
        ),
        (
            "[mqtt]\ntopic_levels_max = 129\nsubscriptions_max = 0\n\nformer_connections_max = 1001",
            "FILE:2: mqtt.topic_levels_max: 129 is out of range, expected 1 to 128\nFILE:3: mqtt.subscriptions_max: 0 is out of range, expected 1 to 100000\nFILE:5: mqtt.former_connections_max: 1001 is out of range, expected 1 to 1000",
        ),
        (
            "[mqtt]\npacket_max = \"1GiB\"",
            "FILE:2: mqtt.packet_max: 1GiB is out of range, expected 1KiB to 255MiB",
        ),
        (
            "[quic]\nidle_timeout = \"1ms\"",
            "FILE:2: quic.idle_timeout: 0.001s is out of range, expected 5s to 3600s",
        ),
        (
            "[quic]\nhandshakes_max = 0",
            "FILE:2: quic.handshakes_max: 0 is out of range, expected 1 to 1000000",
        ),
        (
            "[io]\nbackend = \"kqueue\"",
            "FILE:2: io.backend: unknown variant `kqueue`, expected one of `auto`, `io_uring`, `epoll`",
        ),
        (
            "[io]\ndatagram_buffers = 100\nstream_buffers = 65536",
            "FILE:2: io.datagram_buffers: 100 is not possible, expected a power of two from 1 to 32768\nFILE:3: io.stream_buffers: 65536 is not possible, expected a power of two from 1 to 32768",
        ),
        (
            "[io]\ntcp_keepalive = \"3s\"",
            "FILE:2: io.tcp_keepalive: 3s is out of range, expected 4s to 32767s",
        ),
        (
            "[broker]\nconnections_max = 0",
            "FILE:2: broker.connections_max: 0 is out of range, expected 1 to 16000000",
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
            "FILE:2: broker.shards: invalid value: integer `0`, expected \"auto\" or a number from 1 to 128",
        ),
        (
            "[broker]\nshards = \"all\"",
            "FILE:2: broker.shards: invalid value: string \"all\", expected \"auto\" or a number from 1 to 128",
        ),
        (
            "[broker]\nmemory_max = \"100%\"",
            "FILE:2: broker.memory_max: invalid value: string \"100%\", expected a share such as \"70%\" (1% to 95%) or a size such as \"2GiB\"",
        ),
        (
            "[tcp]\nlisten = \"localhost:1883\"",
            "FILE:2: tcp.listen: invalid value: string \"localhost:1883\", expected an address with a port such as \"127.0.0.1:1883\" or \"[::]:1883\", a list of them, or \"\" for none",
        ),
        (
            "[tcp]\nlisten = [\n  \"127.0.0.1:1883\",\n  \"1883\",\n]",
            "FILE:4: tcp.listen: invalid value: string \"1883\", expected an address with a port such as \"127.0.0.1:1883\" or \"[::]:1883\", a list of them, or \"\" for none",
        ),
        (
            "[tcp]\nallow_anonymous = \"yes\"",
            "FILE:2: tcp.allow_anonymous: invalid type: string \"yes\", expected a boolean",
        ),
        ("[log]\nformat = \"xml\"", "FILE:2: log.format: unknown variant `xml`, expected `text` or `json`"),
        (
            "[mqtt]\non_full = \"block\"",
            "FILE:2: mqtt.on_full: unknown variant `block`, expected one of `drop_oldest`, `drop_new`, `end_session`",
        ),
        ("tcp = 3", "FILE:1: tcp: invalid type: integer `3`, expected a section"),
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
        ("[tcp]\nlisten = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"", "FILE:3: duplicate key"),
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
            "environment variable QUELEA_MQTT__PACKET_MAX: mqtt.packet_max: invalid type: integer `12`, expected a size such as \"64KiB\" (units: B, kB, MB, GB, KiB, MiB, GiB)",
        ),
        (
            "QUELEA_MQTT__RECEIVE_MAXIMUM",
            "many",
            "environment variable QUELEA_MQTT__RECEIVE_MAXIMUM: mqtt.receive_maximum: invalid type: string \"many\", expected a whole number from 0 to 4294967295",
        ),
        (
            "QUELEA_MQTT__RECEIVE_MAXIMUM",
            "70000",
            "environment variable QUELEA_MQTT__RECEIVE_MAXIMUM: mqtt.receive_maximum: 70000 is out of range, expected 1 to 65535",
        ),
        (
            "QUELEA_LOG__COLOUR",
            "red",
            "environment variable QUELEA_LOG__COLOUR: log.colour: unknown key `colour`, expected `format` or `level`",
        ),
        (
            "QUELEA_LOGS__LEVEL",
            "info",
            "environment variable QUELEA_LOGS__LEVEL: logs.level: unknown key `logs`, expected one of `broker`, `quic`, `tcp`, `tls`, `ws`, `wss`, `listeners`, `admin`, `io`, `mqtt`, `log`",
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
        ("type = \"tcp\"", "FILE:4: listeners[1]: missing key `listen`"),
        (
            "type = \"udp\"\nlisten = \"127.0.0.1:2\"",
            "FILE:5: listeners[1].type: unknown variant `udp`, expected one of `tcp`, `tls`, `ws`, `wss`, `quic`",
        ),
        (
            "type = \"tcp\"\nlisten = \"2\"",
            "FILE:6: listeners[1].listen: invalid value: string \"2\", expected an address with a port such as \"127.0.0.1:1883\" or \"[::]:1883\"",
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
            "FILE:7: listeners[1].path: \"mqtt\" is not a path such as \"/mqtt\"",
        ),
        (
            "type = \"ws\"\nlisten = \"127.0.0.1:2\"\norigins = [\"example.org\"]",
            "FILE:7: listeners[1].origins: \"example.org\" is not a site such as \"https://example.org\", or \"*\"",
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
            "FILE:7: listeners[1].proxy_trusted: invalid value: string \"10.0.0.0/33\", expected an address or a range of them such as \"10.0.0.0/8\"",
        ),
        (
            "type = \"tcp\"\nlisten = \"127.0.0.1:2\"\nconnections_max = 0",
            "FILE:7: listeners[1].connections_max: 0 is out of range, expected 1 to 16000000",
        ),
        (
            "type = \"tcp\"\nlisten = \"127.0.0.1:2\"\nconnections_per_network_max = 0",
            "FILE:7: listeners[1].connections_per_network_max: 0 is out of range, expected 1 to 16000000",
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
    let variables = [("QUELEA_MQTT__RESPONSE_ROOT", "a/+"), ("QUELEA_TCP__LISTN", "1")];
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
            "FILE:28 listeners[2].listen",
            "environment variable QUELEA_TCP__LISTN tcp.listn",
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
    ];
    for (text, expected) in cases {
        let refusal = refusal_of_file(text);
        assert!(refusal.starts_with(&format!("{expected}: ")) && refusal.lines().count() == 1, "{refusal}");
    }
}
