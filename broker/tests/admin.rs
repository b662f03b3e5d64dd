//! The operator's door over a real loopback socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use quelea::admin::{Admin, Board, Descriptor, Kind, Node, Phase, Shown};

const COLUMNS: &[Descriptor] = &[
    Descriptor { name: "connections", help: "Connections open", kind: Kind::Gauge, label: None },
    dropped("queue_full"),
    dropped("expired"),
];

const fn dropped(reason: &'static str) -> Descriptor {
    let label = Some(("reason", reason));
    Descriptor { name: "messages_dropped", help: "Messages not delivered", kind: Kind::Counter, label }
}

fn start(shards: usize) -> (Admin, Arc<Board>) {
    let board = Arc::new(Board::new(COLUMNS, shards, Instant::now()));
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let node = Node { started, memory_ceiling_bytes: 4_096, certificates: Vec::new() };
    let shown = Arc::new(Shown { board: Arc::clone(&board), node });
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    (Admin::start(&[any], shown).unwrap(), board)
}

/// One request; gives the status line and the body.
fn get(admin: &Admin, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(admin.addresses()[0]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[test]
fn metrics_show_each_shard_with_its_labels() {
    let (admin, board) = start(2);
    board.publish(0, Instant::now(), &[3, 7, 0]);
    board.publish(1, Instant::now(), &[5, 0, 9]);
    let (status, body) = get(&admin, "/metrics");
    assert_eq!(status, "HTTP/1.1 200 OK");
    let expected = "\
# HELP quelea_connections Connections open
# TYPE quelea_connections gauge
quelea_connections{shard=\"0\"} 3
quelea_connections{shard=\"1\"} 5
# HELP quelea_messages_dropped Messages not delivered
# TYPE quelea_messages_dropped counter
quelea_messages_dropped_total{shard=\"0\",reason=\"queue_full\"} 7
quelea_messages_dropped_total{shard=\"1\",reason=\"queue_full\"} 0
quelea_messages_dropped_total{shard=\"0\",reason=\"expired\"} 0
quelea_messages_dropped_total{shard=\"1\",reason=\"expired\"} 9
# EOF
";
    assert!(body.ends_with(expected), "{body}");
    assert!(body.contains("quelea_start_time_seconds 1700000000\n"), "{body}");
    assert!(body.contains("quelea_memory_ceiling_bytes 4096\n"), "{body}");
    let resident = body.lines().find_map(|line| line.strip_prefix("quelea_memory_resident_bytes ")).unwrap();
    assert!(resident.parse::<u64>().unwrap() > 100_000, "{resident}");
}

#[test]
fn healthz_follows_the_phase() {
    let (admin, board) = start(1);
    assert_eq!(get(&admin, "/healthz"), ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
    board.set_phase(Phase::Draining);
    let (status, body) = get(&admin, "/healthz");
    assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 503 Service Unavailable", "draining\n"));
}

#[test]
fn other_paths_are_told_what_there_is() {
    let (admin, _) = start(1);
    let (status, body) = get(&admin, "/");
    assert_eq!(
        (status.as_str(), body.as_str()),
        ("HTTP/1.1 404 Not Found", "expected /metrics or /healthz\n")
    );
}

#[test]
fn an_address_in_use_is_named() {
    let (admin, board) = start(1);
    let node = Node { started: SystemTime::UNIX_EPOCH, memory_ceiling_bytes: 0, certificates: Vec::new() };
    let taken = admin.addresses()[0];
    let error = Admin::start(&[taken], Arc::new(Shown { board, node })).unwrap_err();
    assert!(error.to_string().starts_with(&format!("{taken} is in use by ")), "{error}");
    assert!(error.to_string().contains(&format!("(pid {})", std::process::id())), "{error}");
}

#[test]
fn a_dropped_door_is_shut() {
    let (admin, _) = start(1);
    let address = admin.addresses()[0];
    drop(admin);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_scrape_asks_for_values_of_its_moment() {
    let (admin, board) = start(1);
    let shard = Arc::downgrade(&board);
    board.set_publisher(move || {
        if let Some(board) = shard.upgrade() {
            board.publish(0, Instant::now(), &[42, 0, 0]);
        }
    });
    let (_, body) = get(&admin, "/metrics");
    assert!(body.contains("quelea_connections{shard=\"0\"} 42\n"), "{body}");
}
