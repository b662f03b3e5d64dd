//! A mosquitto of one test, on ports that were free, with a listener of each kind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use tempfile::TempDir;

/// A running mosquitto; killed when dropped.
pub(crate) struct Mosquitto {
    child: Child,
    directory: TempDir,
    ports: [u16; 4],
}

impl Mosquitto {
    /// `None`, and a line that says so, where mosquitto is not installed.
    pub(crate) fn start() -> Option<Self> {
        for _ in 0..5 {
            let directory = tempfile::tempdir().expect("a directory");
            let ports = free_ports();
            let config = configuration(&directory, ports);
            let Some(mut child) = spawn(&config) else {
                println!("skipped: mosquitto is not installed");
                return None;
            };
            let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
            let running = lines.by_ref().map_while(Result::ok).any(|line| line.ends_with("running"));
            if running {
                // Whoever writes into a full pipe stands still.
                thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
                return Some(Self { child, directory, ports });
            }
            // Its log ended: somebody took a port meanwhile.
            child.wait().expect("our own child");
        }
        panic!("mosquitto does not start");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn port(&self) -> u16 {
        self.ports[0]
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.ports[0])
    }

    /// Its URL for each way to reach it, with what makes its certificate believed.
    pub(crate) fn doors(&self) -> [String; 4] {
        let [tcp, tls, web_socket, secure] = self.ports;
        let cafile = self.directory.path().join("cert.pem");
        let cafile = cafile.display();
        [
            format!("mqtt://127.0.0.1:{tcp}"),
            format!("mqtts://localhost:{tls} --bind 127.0.0.1 --cafile {cafile}"),
            format!("ws://127.0.0.1:{web_socket}"),
            format!("wss://127.0.0.1:{secure} --insecure"),
        ]
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

fn configuration(directory: &TempDir, [tcp, tls, web_socket, secure]: [u16; 4]) -> PathBuf {
    let path = |name: &str| directory.path().join(name);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(path("cert.pem"), made.cert.pem()).expect("written");
    fs::write(path("key.pem"), made.signing_key.serialize_pem()).expect("written");
    let certificate =
        format!("certfile {}\nkeyfile {}\n", path("cert.pem").display(), path("key.pem").display());
    let config = format!(
        "allow_anonymous true\npersistence false\nmax_queued_messages 0\n\
         user {}\n\
         listener {tcp} 127.0.0.1\n\
         listener {tls} 127.0.0.1\n{certificate}\
         listener {web_socket} 127.0.0.1\nprotocol websockets\n\
         listener {secure} 127.0.0.1\nprotocol websockets\n{certificate}",
        user()
    );
    fs::write(path("mosquitto.conf"), config).expect("written");
    path("mosquitto.conf")
}

/// Started by root it would take another user's name, who may not read our directory.
fn user() -> String {
    std::env::var("USER").unwrap_or_else(|_| "root".into())
}

/// `None` where there is no mosquitto. Debian keeps it where users do not look.
fn spawn(config: &PathBuf) -> Option<Child> {
    for program in ["mosquitto", "/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"] {
        let spawned = Command::new(program)
            .arg("-v")
            .arg("-c")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        match spawned {
            Ok(child) => return Some(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => panic!("{program} cannot be started: {error}"),
        }
    }
    None
}

/// Held at once, so that they differ.
fn free_ports() -> [u16; 4] {
    let listeners = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("bound").port())
}
