//! The binary: banner, signals, exit codes.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use quelea_mqtt::ReasonCode;
use quelea_udp_io::{Backend, Choice};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use crate::PATIENCE;
use crate::client::TcpClient;

/// A running `quelea`, ended with the value.
struct Process {
    child: Child,
    out: Receiver<String>,
    log: Receiver<String>,
}

fn quelea(directory: &Path, arguments: &[&str]) -> Process {
    quelea_in(directory, arguments, &[])
}

fn quelea_in(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quelea"));
    command.args(arguments).arg("--data-dir").arg(directory).env_clear();
    command.envs(environment.iter().copied());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let out = lines(child.stdout.take().unwrap());
    let log = lines(child.stderr.take().unwrap());
    Process { child, out, log }
}

const ANY_PORTS: [&str; 14] = [
    "--tls-listen",
    "127.0.0.1:0",
    "--ws-listen",
    "127.0.0.1:0",
    "--wss-listen",
    "127.0.0.1:0",
    "--tcp-listen",
    "127.0.0.1:0",
    "--quic-listen",
    "127.0.0.1:0",
    "--admin-listen",
    "127.0.0.1:0",
    "--shards",
    "2",
];

const NO_OTHER: [&str; 10] =
    ["--quic-listen", "", "--tls-listen", "", "--ws-listen", "", "--wss-listen", "", "--admin-listen", ""];

/// Lines as they come; the channel closes with the pipe.
fn lines(pipe: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}

/// The next line that contains `what`.
fn line_with(lines: &Receiver<String>, what: &str) -> String {
    loop {
        let line =
            lines.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("no line with {what}: {error}"));
        if line.contains(what) {
            return line;
        }
    }
}

impl Process {
    /// The address in the banner's line of that name.
    fn address(&self, name: &str) -> SocketAddr {
        let line = line_with(&self.out, name);
        line.trim().strip_prefix(name).unwrap().split_whitespace().next().unwrap().parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end; gives the status and what the log still had to say.
    fn end(mut self) -> (ExitStatus, Vec<String>) {
        let mut said = Vec::new();
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) => said.push(line),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(timeout) => panic!("it does not end: {timeout}, {said:?}"),
            }
        }
        // The pipe is closed: the process has ended or is about to.
        (self.child.wait().unwrap(), said)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only for a process that has ended, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn the_banner_names_addresses_certificate_and_a_command() {
    let directory = directory();
    let process = quelea(directory.path(), &ANY_PORTS);
    assert!(line_with(&process.out, "serves with").starts_with("quelea "));
    let quic = process.address("MQTT over QUIC");
    let tcp = process.address("MQTT over TCP");
    assert!(quic.port() != 0 && tcp.port() != 0);
    assert_ne!(process.address("MQTT over TLS").port(), 0);
    for scheme in ["ws", "wss"] {
        let line = line_with(&process.out, &format!("{scheme}://127.0.0.1:"));
        assert!(line.ends_with("/mqtt"), "{line}");
    }
    line_with(&process.out, "/metrics");
    let directory_line = line_with(&process.out, "Data directory");
    assert!(directory_line.ends_with(directory.path().to_str().unwrap()), "{directory_line}");
    let certificate = line_with(&process.out, "Certificate");
    let fingerprint = certificate.split_whitespace().last().unwrap();
    assert_eq!(fingerprint.split(':').count(), 32, "{certificate}");
    let command = line_with(&process.out, "Try");
    assert!(command.ends_with(&format!("mosquitto_sub -p {} -t '#' -v", tcp.port())), "{command}");
}

#[test]
fn one_line_of_the_log_says_which_back_end_and_why() {
    let directory = directory();
    let process = quelea_in(directory.path(), &ANY_PORTS, &[("QUELEA_IO__BACKEND", "epoll")]);
    let line = line_with(&process.log, "input and output");
    assert!(line.contains("backend=epoll") && line.contains("it was asked for"), "{line}");
    drop(process);

    let process = quelea(directory.path(), &ANY_PORTS);
    let line = line_with(&process.log, "input and output");
    let is_allowed = Choice::of(Backend::IoUring).is_ok();
    let expected = if is_allowed { "backend=io_uring" } else { "backend=epoll" };
    assert!(line.contains(expected) && line.contains("why="), "{line}");
}

#[test]
fn sigterm_drains_and_exits_with_0() {
    let directory = directory();
    let process = quelea(directory.path(), &ANY_PORTS);
    let mut client = TcpClient::tcp(process.address("MQTT over TCP"), "client");
    process.signal(Signal::TERM);
    assert_eq!(client.dismissed(), ReasonCode::SERVER_SHUTTING_DOWN);
    drop(client);
    let (status, log) = process.end();
    assert_eq!(status.code(), Some(0), "{log:?}");
}

#[test]
fn a_second_signal_stops_at_once_with_1() {
    let directory = directory();
    let process = quelea(directory.path(), &ANY_PORTS);
    let mut stubborn = TcpClient::tcp(process.address("MQTT over TCP"), "stubborn");
    process.signal(Signal::INT);
    assert_eq!(stubborn.dismissed(), ReasonCode::SERVER_SHUTTING_DOWN);
    // What follows at once is the same wish; what comes later is another.
    loop {
        process.signal(Signal::INT);
        let line = process.log.recv_timeout(Duration::from_millis(50));
        if line.is_ok_and(|line| line.contains("stopped before all clients had gone")) {
            break;
        }
    }
    let (status, log) = process.end();
    assert_eq!(status.code(), Some(1), "{log:?}");
    drop(stubborn);
}

#[test]
fn sighup_says_once_what_was_exchanged_and_for_whom() {
    let directory = directory();
    let (certificate, key) = (directory.path().join("chain.pem"), directory.path().join("key.pem"));
    let write = || {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    };
    write();
    let listener = |transport: &str| {
        let pair = format!("certificate = {certificate:?}\nkey = {key:?}");
        format!("[[listeners]]\ntype = \"{transport}\"\nlisten = \"127.0.0.1:0\"\n{pair}\n")
    };
    let file = directory.path().join("quelea.toml");
    std::fs::write(&file, listener("quic") + &listener("tls")).unwrap();
    let process = quelea(directory.path(), &[&["--config", file.to_str().unwrap()][..], &ANY_PORTS].concat());
    line_with(&process.log, "serving");

    process.signal(Signal::HUP);
    let line = line_with(&process.log, "certificates and authorities read again");
    assert!(line.contains("exchanged=0 unchanged=2 refused=0"), "{line}");

    write();
    process.signal(Signal::HUP);
    let line = line_with(&process.log, "certificate exchanged");
    assert!(line.contains("listeners=\"listeners[0], listeners[1]\""), "{line}");
    let line = process.log.recv_timeout(PATIENCE).unwrap();
    assert!(line.contains("exchanged=1 unchanged=1 refused=0"), "said once: {line}");

    std::fs::write(&key, "no key").unwrap();
    process.signal(Signal::HUP);
    let line = line_with(&process.log, "what was in use before stays");
    assert!(line.contains("listeners[0], listeners[1]") && line.contains("key.pem"), "{line}");
    let line = process.log.recv_timeout(PATIENCE).unwrap();
    assert!(line.contains("exchanged=0 unchanged=1 refused=1"), "said once: {line}");
    process.signal(Signal::TERM);
    assert_eq!(process.end().0.code(), Some(0));
}

/// As systemd would hear it: one datagram for each change of state, in order.
#[test]
fn a_service_manager_is_told_of_start_reload_and_end() {
    let directory = directory();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).unwrap();
        std::str::from_utf8(&buffer[..length]).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("QUELEA_BROKER__DRAIN_TIMEOUT", "2m")];
    let process = quelea_in(directory.path(), &ANY_PORTS, &environment);
    assert_eq!(heard()[0], "READY=1");
    // It is true: a client is served.
    TcpClient::tcp(process.address("MQTT over TCP"), "client").disconnect();

    let before = clock_gettime(ClockId::Monotonic);
    process.signal(Signal::HUP);
    let reloading = heard();
    assert_eq!(reloading[0], "RELOADING=1");
    let micros = reloading[1].strip_prefix("MONOTONIC_USEC=").unwrap().parse::<i64>().unwrap();
    assert!(micros >= before.tv_sec * 1_000_000 + before.tv_nsec / 1_000, "{micros}");
    assert!(micros <= (clock_gettime(ClockId::Monotonic).tv_sec + 1) * 1_000_000, "{micros}");
    assert_eq!(heard()[0], "READY=1");

    process.signal(Signal::TERM);
    assert_eq!(heard()[..2], ["STOPPING=1", "EXTEND_TIMEOUT_USEC=135000000"]);
    assert_eq!(process.end().0.code(), Some(0));
}

#[test]
fn what_does_not_start_is_not_told_to_be_ready() {
    let directory = directory();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let arguments = [&["--tcp-listen", &address][..], &NO_OTHER].concat();
    let process = quelea_in(directory.path(), &arguments, &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    assert_eq!(process.end().0.code(), Some(1));
    assert_eq!(manager.recv(&mut [0; 64]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn the_log_says_why_a_handshake_was_refused_where_and_whose_it_was() {
    let directory = directory();
    let process = quelea(directory.path(), &ANY_PORTS);
    let quic = process.address("MQTT over QUIC");
    let tls = process.address("MQTT over TLS");
    let mut stream = std::net::TcpStream::connect(tls).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let peer = stream.local_addr().unwrap();
    let line = line_with(&process.log, "a client was refused");
    for part in [&format!("listener=\"tls (tls {tls})\""), &format!("peer={peer}"), "InvalidContentType"] {
        assert!(line.contains(part), "{part} in {line}");
    }

    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let config = crate::quic::client_config(stranger.cert.der(), None, "mqtt");
    assert!(crate::quic::QuicStream::try_open(quic, config).is_err());
    let line = line_with(&process.log, "a client was refused");
    for part in [&format!("listener=\"quic (quic {quic})\""), "the client says: ", "others=0"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn a_second_broker_on_the_port_exits_with_1_and_names_the_flag() {
    let (directory, other) = (directory(), directory());
    let first = quelea(directory.path(), &ANY_PORTS);
    let taken = first.address("MQTT over TCP").to_string();
    let second = quelea(other.path(), &[&["--tcp-listen", &taken][..], &NO_OTHER].concat());
    let pid = first.child.id();
    let (status, log) = second.end();
    assert_eq!(status.code(), Some(1), "{log:?}");
    let expected = format!(
        "quelea: cannot serve MQTT over TCP: {taken} is in use by quelea (pid {pid}); choose another address \
         with --tcp-listen (tcp.listen in a file), or \"\" for none"
    );
    assert_eq!(log.last(), Some(&expected));
}

#[test]
fn check_reads_the_certificate_files_too() {
    let directory = directory();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (directory.path().join("chain.pem"), directory.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    let file = directory.path().join("quelea.toml");
    let text = format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}\n");
    std::fs::write(&file, &text).unwrap();
    let arguments = ["check", "--config", file.to_str().unwrap()];

    let (status, log) = quelea(directory.path(), &arguments).end();
    assert_eq!(status.code(), Some(2));
    let place = format!("quelea: {}:3: tls.key: {}: No such file", file.display(), key.display());
    assert!(log[0].starts_with(&place), "{log:?}");

    // Mistakes of the configuration and of the files are told together, and a file that is named twice once.
    let missing = directory.path().join("clients.pem");
    let listener = format!(
        "[[listeners]]\ntype = \"quic\"\nlisten = \"127.0.0.1:1\"\nconnections_max = 0\n\
         client_certificates = \"required\"\nclient_ca = {missing:?}\n"
    );
    std::fs::write(&file, format!("{text}{listener}")).unwrap();
    std::fs::write(&certificate, "no certificate").unwrap();
    let (status, log) = quelea(directory.path(), &arguments).end();
    assert_eq!(status.code(), Some(2));
    let places =
        ["7: listeners[0].connections_max", "2: tls.certificate", "3: tls.key", "9: listeners[0].client_ca"];
    assert_eq!(log.len(), places.len(), "{log:?}");
    for (line, place) in log.iter().zip(places) {
        assert!(line.starts_with(&format!("quelea: {}:{place}: ", file.display())), "{line}");
    }

    std::fs::write(&file, text).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let process = quelea(directory.path(), &arguments);
    line_with(&process.out, "The configuration is valid.");
    assert_eq!(process.end().0.code(), Some(0));
}

#[test]
fn wrong_usage_exits_with_2() {
    let directory = directory();
    for arguments in [&["--shards", "many"][..], &["--no-such-flag"], &["--config", "no/such/file"]] {
        let (status, log) = quelea(directory.path(), arguments).end();
        assert_eq!(status.code(), Some(2), "{log:?}");
        assert!(!log.is_empty());
    }
}
