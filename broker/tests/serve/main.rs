//! The whole broker, in process and as a binary, with clients over real loopback sockets.
//!
//! Every wait is bounded by [`PATIENCE`]; ports are chosen by the kernel.

mod back_ends;
mod client;
mod listeners;
mod process;
mod quic;
mod tcp;
mod tls;

use std::net::SocketAddr;
use std::time::Duration;

use quelea::broker::{Broker, RunningBroker};
use quelea::config::{Config, Shards, Transport};
use tempfile::TempDir;

use client::TcpClient;

/// Far longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker with its data directory.
struct Served {
    broker: RunningBroker,
    directory: TempDir,
}

/// Two shards on loopback, any ports, no admin door.
fn config(directory: &TempDir) -> Config {
    let mut config = Config::default();
    config.broker.data_dir = Some(directory.path().to_owned());
    config.broker.shards = Shards::Count(2);
    config.quic.listen = vec![any_port()];
    config.tcp.listen = vec![any_port()];
    config.tls.listen = vec![any_port()];
    config.ws.listen = vec![any_port()];
    config.wss.listen = vec![any_port()];
    config.admin.listen = Vec::new();
    config
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn serve() -> Served {
    serve_with(|_| {})
}

fn serve_with(change: impl FnOnce(&mut Config)) -> Served {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(&directory);
    change(&mut config);
    Served { broker: Broker::start(config).unwrap(), directory }
}

impl Served {
    fn tcp(&self) -> SocketAddr {
        self.broker.addresses(Transport::Tcp)[0]
    }

    fn client(&self, name: &str) -> TcpClient {
        TcpClient::tcp(self.tcp(), name)
    }

    /// A client whose connection the kernel has given to `shard`: the others are sent away again.
    fn client_on(&self, shard: usize, name: &str) -> TcpClient {
        // Each attempt hits with probability 1/2.
        for _ in 0..100 {
            let before = self.metric("links_opened_total", shard);
            let client = self.client(name);
            if self.metric("links_opened_total", shard) > before {
                return client;
            }
            client.disconnect();
        }
        panic!("no connection reached shard {shard}");
    }

    /// A value of this moment.
    fn metric(&self, name: &str, shard: usize) -> u64 {
        let text = self.broker.metrics();
        let series = format!("quelea_{name}{{shard=\"{shard}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&series));
        value.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
    }
}
