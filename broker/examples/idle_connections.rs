//! What idle connections cost a running broker: resident memory, and CPU time of the handshakes.
//!
//! `cargo run -p quelea --example idle_connections -- --tcp 127.0.0.1:1883 --pid PID --connections 10000`
//! `cargo run -p quelea --example idle_connections -- --quic 127.0.0.1:14567 --certificate DATA/development.crt.pem --pid PID`
//!
//! Connects MQTT 5 clients until so many have their CONNACK, waits until the broker is quiet, and prints what `/proc` says of
//! the broker's process before and after. A hundred clients that come and go before the first reading warm it up: code
//! pages, arenas and tables that are paid once are no cost of a connection. Needs as many open files as connections for TCP.

use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Parser};
use quelea_mqtt::{Connect, Version};
use quinn::crypto::rustls::QuicClientConfig;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::runtime::Runtime;

type Failure = Box<dyn Error + Send + Sync>;

/// Holds idle MQTT connections and prints what they cost the broker.
#[derive(Parser)]
#[command(group(ArgGroup::new("transport").required(true)))]
struct Arguments {
    /// Connect over TCP to this address
    #[arg(long, group = "transport")]
    tcp: Option<SocketAddr>,
    /// Connect over QUIC to this address
    #[arg(long, group = "transport", requires = "certificate")]
    quic: Option<SocketAddr>,
    /// The broker's certificate, for QUIC (its development certificate is in its data directory)
    #[arg(long)]
    certificate: Option<PathBuf>,
    /// Offer TLS_AES_128_GCM_SHA256 only; rustls clients otherwise prefer AES-256 with SHA-384
    #[arg(long)]
    aes128: bool,
    /// The broker's process
    #[arg(long)]
    pid: u32,
    /// Connections to hold
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Handshakes at once
    #[arg(long, default_value_t = 32)]
    parallel: usize,
    /// Seconds of silence before the memory is read
    #[arg(long, default_value_t = 5)]
    quiet_s: u64,
}

/// What `/proc` says of the broker.
struct Reading {
    rss_bytes: u64,
    cpu: Duration,
}

impl Reading {
    fn of(pid: u32) -> Result<Self, Failure> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        let rss_kib: u64 = rss.trim().trim_end_matches(" kB").parse()?;
        // `/proc/PID/stat` counts in ticks of 10 ms; the scheduler's own account, per thread, in nanoseconds.
        let mut cpu_ns = 0;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let account = fs::read_to_string(thread?.path().join("schedstat"))?;
            cpu_ns += account.split(' ').next().ok_or("an empty schedstat")?.parse::<u64>()?;
        }
        Ok(Self { rss_bytes: rss_kib * 1024, cpu: Duration::from_nanos(cpu_ns) })
    }
}

/// The connections that are open, and how to open one more.
trait Clients: Sync {
    type Held: Send;
    fn connect(&self, number: usize) -> Result<Self::Held, Failure>;
}

struct Tcp(SocketAddr);

impl Clients for Tcp {
    type Held = TcpStream;

    fn connect(&self, number: usize) -> Result<TcpStream, Failure> {
        let mut stream = TcpStream::connect(self.0)?;
        stream.set_nodelay(true)?;
        stream.write_all(&connect_packet(number)?)?;
        let mut header = [0; 2];
        stream.read_exact(&mut header)?;
        let mut body = vec![0; connack_bytes(header)?];
        stream.read_exact(&mut body)?;
        check_reason(&body)?;
        Ok(stream)
    }
}

struct Quic {
    runtime: Runtime,
    /// Several, as one socket would be one flow to the kernel.
    endpoints: Vec<quinn::Endpoint>,
    address: SocketAddr,
}

impl Quic {
    fn new(address: SocketAddr, certificate: &PathBuf, aes128: bool) -> Result<Self, Failure> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate)?)?;
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        if aes128 {
            let wanted = rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
            provider.cipher_suites.retain(|offered| offered.suite() == wanted);
        }
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![b"mqtt".to_vec()];
        // A full handshake each time: resuming would be cheaper for the broker.
        tls.resumption = rustls::client::Resumption::disabled();
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let inside = runtime.enter();
        let unspecified = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let mut endpoints = Vec::new();
        for _ in 0..ENDPOINTS {
            let mut endpoint = quinn::Endpoint::client(unspecified.parse()?)?;
            endpoint.set_default_client_config(config.clone());
            endpoints.push(endpoint);
        }
        drop(inside);
        Ok(Self { runtime, endpoints, address })
    }
}

impl Clients for Quic {
    type Held = (quinn::Connection, quinn::SendStream, quinn::RecvStream);

    fn connect(&self, number: usize) -> Result<Self::Held, Failure> {
        self.runtime.block_on(async {
            let endpoint = &self.endpoints[number % self.endpoints.len()];
            let connection = endpoint.connect(self.address, "localhost")?.await?;
            let (mut send, mut receive) = connection.open_bi().await?;
            send.write_all(&connect_packet(number)?).await?;
            let mut header = [0; 2];
            receive.read_exact(&mut header).await?;
            let mut body = vec![0; connack_bytes(header)?];
            receive.read_exact(&mut body).await?;
            check_reason(&body)?;
            Ok((connection, send, receive))
        })
    }
}

fn connect_packet(number: usize) -> Result<Vec<u8>, Failure> {
    let mut packet = bytes::BytesMut::new();
    let name = format!("idle-{number:08}");
    let connect = Connect { keep_alive_s: 0, ..Connect::new(Version::V5, &name) };
    quelea_mqtt::Packet::Connect(connect).encode(Version::V5, &mut packet)?;
    Ok(packet.to_vec())
}

/// The length of the rest of a CONNACK, which is short enough for a length of one byte.
fn connack_bytes(header: [u8; 2]) -> Result<usize, Failure> {
    match header {
        [0x20, length] if length < 0x80 => Ok(length.into()),
        other => Err(format!("{other:02x?} begins no short CONNACK").into()),
    }
}

fn check_reason(body: &[u8]) -> Result<(), Failure> {
    match body {
        [_, 0, ..] => Ok(()),
        _ => Err(format!("refused: {body:02x?}").into()),
    }
}

/// Opens connections `from..to`, some at once.
fn open<C: Clients>(clients: &C, from: usize, to: usize, parallel: usize) -> Result<Vec<C::Held>, Failure> {
    let next = AtomicUsize::new(from);
    let worker = || -> Result<Vec<C::Held>, Failure> {
        let mut held = Vec::new();
        loop {
            let number = next.fetch_add(1, Relaxed);
            if number >= to {
                return Ok(held);
            }
            held.push(clients.connect(number)?);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..parallel).map(|_| scope.spawn(worker)).collect();
        let mut held = Vec::new();
        for worker in workers {
            held.append(&mut worker.join().expect("a worker returns its errors")?);
        }
        Ok(held)
    })
}

fn measure<C: Clients>(clients: &C, arguments: &Arguments) -> Result<(), Failure> {
    let quiet = Duration::from_secs(arguments.quiet_s);
    drop(open(clients, 0, WARM_UP, arguments.parallel)?);
    thread::sleep(quiet);

    let before = Reading::of(arguments.pid)?;
    let began = Instant::now();
    let held = open(clients, WARM_UP, WARM_UP + arguments.connections, arguments.parallel)?;
    let took = began.elapsed();
    thread::sleep(quiet);
    let after = Reading::of(arguments.pid)?;
    thread::sleep(quiet);
    let idle = Reading::of(arguments.pid)?;

    let count = arguments.connections as f64;
    let grown = after.rss_bytes.saturating_sub(before.rss_bytes) as f64;
    println!("connections          {}", arguments.connections);
    println!("broker RSS           {} -> {} KiB", before.rss_bytes / 1024, after.rss_bytes / 1024);
    println!("per connection       {:.0} bytes", grown / count);
    println!("opened per second    {:.0} ({:.1} s)", count / took.as_secs_f64(), took.as_secs_f64());
    let connecting = after.cpu.saturating_sub(before.cpu);
    println!("broker CPU           {:.0} us per connection", connecting.as_secs_f64() * 1e6 / count);
    let idling = idle.cpu.saturating_sub(after.cpu).as_secs_f64() / quiet.as_secs_f64().max(1.0);
    println!("broker CPU, all idle {:.1} ms per second", idling * 1e3);
    drop(held);
    Ok(())
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let _ = quelea::limits::raise_open_files();
    match (arguments.tcp, arguments.quic, &arguments.certificate) {
        (Some(address), _, _) => measure(&Tcp(address), &arguments),
        (_, Some(address), Some(certificate)) => {
            measure(&Quic::new(address, certificate, arguments.aes128)?, &arguments)
        }
        _ => unreachable!("clap asks for one of them, and for a certificate with QUIC"),
    }
}

/// Connections before the first reading.
const WARM_UP: usize = 100;

/// Client sockets for QUIC.
const ENDPOINTS: usize = 8;
