//! What an idle connection costs, and a handshake under way: `cargo run --release -p quelea-shard --example quic_memory [connections]`.
//!
//! Connects that many quinn-proto clients in one process, without a network, lets each send 40 bytes on a stream and
//! get 40 back, waits three seconds of virtual time, and prints the broker's live heap by connection. Only what is
//! allocated and freed inside the broker's calls is counted. Then as many clients again send their first packet and fall
//! silent. aws-lc's own C heap is not in it; the resident set of
//! broker and clients together is printed for that.

#![allow(clippy::disallowed_methods)]

mod live_heap;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quelea_shard::quic::{
    Congestion, Handled, Path, Quic, QuicEvent, QuicKeys, QuicListenerId, QuicSettings, QuicTls,
};
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ClientConfig, Connection, DatagramEvent, Dir, Endpoint, EndpointConfig, StreamId, TransportConfig,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use live_heap::{BLOCKS, BYTES, counted};

/// The broker's address; every client has its own.
const BROKER: ([u8; 4], u16) = ([192, 0, 2, 1], 14_567);

/// The one broker shard, and clients of one endpoint.
struct Pair {
    now: Instant,
    quic: Quic,
    endpoint: Endpoint,
    config: ClientConfig,
    clients: Vec<(Connection, SocketAddr)>,
}

impl Pair {
    /// Runs `f` on the broker and counts what it allocates.
    fn on_broker<T>(&mut self, f: impl FnOnce(&mut Quic, Instant) -> T) -> T {
        counted(|| f(&mut self.quic, self.now))
    }

    /// One client from the first packet to the last acknowledgement.
    fn establish(&mut self) {
        let number = self.connect();
        self.exchange(number);
        let client = &mut self.clients[number].0;
        let stream = client.streams().open(Dir::Bi).expect("one stream is granted");
        client.send_stream(stream).write(&[0x10; 40]).expect("there is room");
        self.exchange(number);
        assert_eq!(self.read(number, stream), 40);
        for _ in 0..4 {
            self.now += Duration::from_millis(30);
            self.clients[number].0.handle_timeout(self.now);
            self.exchange(number);
        }
    }

    /// One more client, which has not sent anything.
    fn connect(&mut self) -> usize {
        let number = self.clients.len();
        let [.., a, b, c] = number.to_be_bytes();
        let address = SocketAddr::from(([10, a, b, c], 5_000));
        let target = SocketAddr::from(BROKER);
        let (handle, connection) = self
            .endpoint
            .connect(self.now, self.config.clone(), target, "localhost")
            .expect("a valid target");
        assert_eq!(handle.0, number, "clients are never removed");
        self.clients.push((connection, address));
        number
    }

    /// One client that sends its first packet and nothing more.
    fn begin(&mut self) {
        let number = self.connect();
        self.drive_client(number);
        self.drive_broker(number);
    }

    fn read(&mut self, client: usize, stream: StreamId) -> usize {
        let mut receiving = self.clients[client].0.recv_stream(stream);
        let mut chunks = receiving.read(true).expect("the stream is open");
        let mut bytes = 0;
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            bytes += chunk.bytes.len();
        }
        bytes
    }

    /// Carries datagrams between one client and the broker until both are quiet.
    fn exchange(&mut self, number: usize) {
        loop {
            let quiet = !self.drive_client(number) & !self.drive_broker(number);
            if quiet {
                return;
            }
        }
    }

    fn drive_client(&mut self, number: usize) -> bool {
        let mut buffer = Vec::new();
        let mut any = false;
        loop {
            let (client, address) = &mut self.clients[number];
            let peer = *address;
            while let Some(event) = client.poll_endpoint_events() {
                if let Some(answer) = self.endpoint.handle_event(quinn_proto::ConnectionHandle(number), event)
                {
                    client.handle_event(answer);
                }
            }
            while client.poll().is_some() {}
            buffer.clear();
            let Some(transmit) = client.poll_transmit(self.now, 1, &mut buffer) else { return any };
            any = true;
            self.on_broker(|quic, now| {
                let from = Path { listener: QuicListenerId::FIRST, peer, local: None, ecn: None };
                let handled = quic.handle_datagram(now, from, BytesMut::from(&buffer[..transmit.size]));
                assert_eq!(handled, Handled::Here);
            });
        }
    }

    fn drive_broker(&mut self, number: usize) -> bool {
        let mut buffer = Vec::with_capacity(16 * 1024);
        let mut any = false;
        self.on_broker(|quic, now| {
            quic.handle_timeout(now);
            quic.accept_handshakes(now, || false);
            while let Some(event) = quic.poll_event() {
                if let QuicEvent::Readable { conn, stream } = event {
                    let mut read = 0;
                    quic.read(now, conn, stream, 1 << 16, |bytes| read += bytes.len());
                    quic.write(conn, stream, &mut Bytes::copy_from_slice(&vec![0x20; read]));
                }
            }
        });
        while let Some(transmit) = self.on_broker(|quic, now| quic.poll_transmit(now, &mut buffer)) {
            any = true;
            for datagram in buffer.chunks(transmit.segment_bytes.unwrap_or(buffer.len())) {
                let data = BytesMut::from(datagram);
                let from = SocketAddr::from(BROKER);
                let event = self.endpoint.handle(self.now, from, None, None, data, &mut Vec::new());
                if let Some(DatagramEvent::ConnectionEvent(handle, event)) = event {
                    self.clients[handle.0].0.handle_event(event);
                }
            }
        }
        // Datagrams may be for another client whose timer ran out; it is asked when its turn comes.
        any && number < self.clients.len()
    }
}

fn pair() -> Pair {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["localhost".into()])
        .and_then(|p| p.self_signed(&key))
        .expect("signed");
    let der = certificate.der().clone();
    let settings = QuicSettings {
        idle_timeout: Duration::from_secs(86_400),
        handshakes_in_flight_retry: usize::MAX,
        handshakes_max: usize::MAX,
        ..QuicSettings::default()
    };
    assert_eq!(settings.congestion, Congestion::NewReno);
    let keys = QuicKeys { reset_key: [1; 64], token_key: [2; 64], steering_key: [3; 16] };
    let tls = QuicTls::new(server_tls(der.clone(), key.serialize_der())).expect("a valid configuration");
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(None);
    let mut config = ClientConfig::new(client_tls(der));
    config.transport_config(Arc::new(transport));
    Pair {
        now: Instant::now(),
        quic: Quic::new(&settings, &keys, tls, 0, 1, [4; 32]),
        endpoint: Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None),
        config,
        clients: Vec::new(),
    }
}

fn server_tls(certificate: CertificateDer<'static>, key: Vec<u8>) -> rustls::ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.into()))
        .expect("key and certificate belong together");
    tls.alpn_protocols = vec![b"mqtt".to_vec()];
    tls
}

fn client_tls(certificate: CertificateDer<'static>) -> Arc<QuicClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).expect("a certificate");
    let mut tls =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
    tls.alpn_protocols = vec![b"mqtt".to_vec()];
    Arc::new(QuicClientConfig::try_from(tls).expect("the provider serves QUIC"))
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4_096
}

fn main() {
    let wanted: usize = std::env::args().nth(1).map_or(2_000, |text| text.parse().expect("a number"));
    let mut pair = pair();
    // What is made once - pages of the table, caches, the session store - is not a connection's.
    for _ in 0..256 {
        pair.establish();
    }
    let (bytes, blocks, resident) = (BYTES.load(Relaxed), BLOCKS.load(Relaxed), resident_bytes());
    let begun = Instant::now();
    for _ in 0..wanted {
        pair.establish();
    }
    let each = begun.elapsed() / wanted as u32;
    pair.now += Duration::from_secs(3);
    for number in 0..pair.clients.len() {
        let now = pair.now;
        pair.clients[number].0.handle_timeout(now);
        pair.exchange(number);
    }
    assert_eq!(pair.quic.connections(), wanted + 256);
    println!(
        "{wanted} idle connections: {} B and {} blocks each on the broker's heap; resident, broker and client: {} B; \
         {each:?} per pair",
        (BYTES.load(Relaxed) - bytes) / wanted as isize,
        (BLOCKS.load(Relaxed) - blocks) / wanted as isize,
        (resident_bytes() - resident) / wanted,
    );
    let (bytes, blocks) = (BYTES.load(Relaxed), BLOCKS.load(Relaxed));
    for _ in 0..wanted {
        pair.begin();
    }
    assert_eq!(pair.quic.counters().handshakes_begun as usize, 2 * wanted + 256);
    println!(
        "{wanted} handshakes under way: {} B and {} blocks each",
        (BYTES.load(Relaxed) - bytes) / wanted as isize,
        (BLOCKS.load(Relaxed) - blocks) / wanted as isize,
    );
}
