//! A mosquitto of one test, on a port that was free.

use std::future::Future;
use std::process::Stdio;
use std::time::Duration;

use quelea_client::front::{Client, ClientOptions};
use quelea_client::{Options, Text};
use quelea_mqtt::Version;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// A running mosquitto; killed when dropped.
pub(crate) struct Broker {
    pub(crate) port: u16,
    _child: Child,
}

impl Broker {
    /// `None`, and a line that says so, where mosquitto is not installed.
    pub(crate) async fn start() -> Option<Self> {
        for _ in 0..5 {
            let port = free_port().await;
            let Some(mut child) = spawn(port) else {
                println!("skipped: mosquitto is not installed");
                return None;
            };
            let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
            while let Some(line) = lines.next_line().await.expect("mosquitto's log") {
                if line.ends_with("running") {
                    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                    return Some(Self { port, _child: child });
                }
            }
            // Its log ended: somebody took the port meanwhile.
        }
        panic!("mosquitto does not start");
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn client(&self, options: impl Into<ClientOptions>) -> Client {
        Client::connect(&self.url(), options).await.expect("connected")
    }
}

/// `None` where there is no mosquitto. Debian keeps it where users do not look.
fn spawn(port: u16) -> Option<Child> {
    for program in ["mosquitto", "/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"] {
        let spawned = Command::new(program)
            .args(["-v", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        match spawned {
            Ok(child) => return Some(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => panic!("{program} cannot be started: {error}"),
        }
    }
    None
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// Options of a client with this identifier.
pub(crate) fn options(version: Version, client_id: &str) -> Options {
    Options { version, ..Options::new(Text::from(client_id)) }
}

/// No test hangs.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("within 30 s")
}
