//! A process that runs out of descriptors: accepting pauses, nothing spins, and it goes on when some are free
//! again.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use quelea_udp_io::Close;

use super::{DEADLINE, Heard, default_config, poll_until, poll_until_ring, ring_with_listener};

/// Runs the server below in a process that may have few descriptors, and connects more clients than it can
/// take.
#[test]
fn a_ring_without_descriptors_pauses_and_recovers() {
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut server = Command::new("sh")
        .args(["-c", "ulimit -n 32 && exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(format!("{module}::serves_clients"))
        .env(CLIENTS, CLIENT_COUNT.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address: SocketAddr = lines
        .find_map(|line| line.strip_prefix("serving ").map(|address| address.parse().unwrap()))
        .expect("the server's address");
    let clients: Vec<TcpStream> = (0..CLIENT_COUNT).map(|_| TcpStream::connect(address).unwrap()).collect();
    let told: Vec<String> = lines.collect();
    assert!(told.iter().any(|line| line == "exhausted and recovered"), "{told:#?}");
    assert!(server.wait().unwrap().success(), "{told:#?}");
    assert_eq!(clients.len(), CLIENT_COUNT);
}

/// The other half of the test above. Without its variable in the environment it serves one client of its own,
/// unhindered.
#[test]
fn serves_clients() {
    let (mut ring, _, address) = ring_with_listener(&default_config());
    let mut heard = Heard::default();
    let Some(clients) = std::env::var_os(CLIENTS) else {
        let _client = TcpStream::connect(address).unwrap();
        poll_until(&mut ring, &mut heard, "the client", |heard| heard.opened.len() == 1);
        assert_eq!(ring.counters().accept_exhausted, 0);
        return;
    };
    let clients: usize = clients.to_str().unwrap().parse().unwrap();
    println!("\nserving {address}");
    std::io::stdout().flush().unwrap();
    poll_until_ring(&mut ring, &mut heard, "the end of descriptors", |ring| {
        ring.counters().accept_exhausted > 0
    });

    // Three more pauses: each poll must last until one is over, or find a client that came meanwhile.
    let (start, opened) = (Instant::now(), heard.opened.len());
    let mut polls = 0;
    while ring.counters().accept_exhausted < 4 {
        ring.poll(Some(DEADLINE), &mut heard).unwrap();
        polls += 1;
    }
    assert_eq!(heard.opened.len(), opened, "there was no room");
    assert!(polls <= 8, "{polls} polls for 3 pauses");
    assert!(start.elapsed() >= Duration::from_millis(200));

    // Every client is served in the end, one out for one in.
    let mut closed = 0;
    while heard.opened.len() < clients {
        assert!(start.elapsed() < DEADLINE, "{} of {clients}: {:?}", heard.opened.len(), ring.counters());
        for (door, ..) in &heard.opened[closed..] {
            ring.close(*door, Close::Abort);
        }
        closed = heard.opened.len();
        ring.poll(Some(Duration::from_millis(20)), &mut heard).unwrap();
    }
    println!("exhausted and recovered");
}

const CLIENTS: &str = "QUELEA_TEST_CLIENTS";
const CLIENT_COUNT: usize = 48;
