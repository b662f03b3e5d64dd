//! One client endpoint, one server that echoes, and a network between them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quelea_client::quic::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quelea_client::quic::{ConnId, Endpoint, EndpointSettings, Event, Path, Refused};
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, Dir, EndpointConfig, ServerConfig, StreamEvent, StreamId,
};
use rustls::pki_types::PrivateKeyDer;

/// One direction's delay.
pub(crate) const DELAY: Duration = Duration::from_millis(5);

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) client: Endpoint,
    crypto: Arc<QuicClientConfig>,
    server: quinn_proto::Endpoint,
    served: BTreeMap<usize, Served>,
    pub(crate) events: Vec<Event>,
    pub(crate) server_heard: Vec<String>,
    flying: BTreeMap<(Instant, u64), (bool, SocketAddr, BytesMut)>,
    launched: u64,
    pub(crate) loss_percent: u32,
    random: fastrand::Rng,
    pub(crate) longest_train: usize,
    /// Where the client's datagrams come from.
    pub(crate) port: u16,
    short_cid: Option<[u8; 8]>,
}

/// A connection at the server, and what it has yet to echo.
struct Served {
    connection: Connection,
    stream: Option<StreamId>,
    unsent: BytesMut,
    finish: bool,
}

impl World {
    pub(crate) fn new(settings: &EndpointSettings) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("a valid name");
        let certificate = certificate.self_signed(&key).expect("a certificate").der().clone();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).expect("a certificate");
        let versions = &[&rustls::version::TLS13];
        let mut client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"mqtt".to_vec()];
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .expect("key and certificate belong together");
        server.alpn_protocols = vec![b"mqtt".to_vec()];
        let server = QuicServerConfig::try_from(server).expect("the provider serves QUIC");
        let server = ServerConfig::with_crypto(Arc::new(server));
        let config = Arc::new(EndpointConfig::default());
        #[expect(clippy::disallowed_methods, reason = "an Instant can be made in no other way")]
        let now = Instant::now();
        Self {
            now,
            client: Endpoint::new(settings, [42; 32]),
            crypto: Arc::new(client.try_into().expect("the provider serves QUIC")),
            server: quinn_proto::Endpoint::new(config, Some(Arc::new(server)), true, None),
            served: BTreeMap::new(),
            events: Vec::new(),
            server_heard: Vec::new(),
            flying: BTreeMap::new(),
            launched: 0,
            loss_percent: 0,
            random: fastrand::Rng::with_seed(1),
            longest_train: 0,
            port: 5_555,
            short_cid: None,
        }
    }

    pub(crate) fn connect(&mut self) -> ConnId {
        self.try_connect("localhost").expect("there is room")
    }

    pub(crate) fn try_connect(&mut self, name: &str) -> Result<ConnId, Refused> {
        let crypto = Arc::clone(&self.crypto);
        self.client.connect(self.now, SocketAddr::from(([192, 0, 2, 1], 14_567)), name, crypto)
    }

    /// Whether an event has come.
    pub(crate) fn saw(&self, wanted: &Event) -> bool {
        self.events.contains(wanted)
    }

    /// Whether an event has come since it was last taken.
    pub(crate) fn take(&mut self, wanted: &Event) -> bool {
        let before = self.events.len();
        self.events.retain(|event| event != wanted);
        self.events.len() < before
    }

    /// The destination connection ID of the client's last datagram with a short header.
    pub(crate) fn last_short_cid(&self) -> [u8; 8] {
        self.short_cid.expect("the handshake is over")
    }

    pub(crate) fn server_closes(&mut self, code: u32, reason: &'static [u8]) {
        for served in self.served.values_mut() {
            served.connection.close(self.now, code.into(), Bytes::from_static(reason));
        }
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.pump();
        while let Some(next) = self.next_instant().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.deliver();
            self.client.handle_timeout(self.now);
            for served in self.served.values_mut() {
                if served.connection.poll_timeout().is_some_and(|at| at <= self.now) {
                    served.connection.handle_timeout(self.now);
                }
            }
            self.pump();
        }
        self.now = end;
    }

    fn next_instant(&mut self) -> Option<Instant> {
        let landing = self.flying.keys().next().map(|(at, _)| *at);
        let served = self.served.values_mut().filter_map(|served| served.connection.poll_timeout());
        served.chain(landing).chain(self.client.poll_timeout()).min()
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (up, from, bytes) = entry.remove();
            if up {
                self.serve(from, bytes);
            } else {
                self.client.handle_datagram(self.now, Path { peer: from, local: None, ecn: None }, bytes);
            }
        }
    }

    fn serve(&mut self, from: SocketAddr, bytes: BytesMut) {
        let mut answer = Vec::new();
        match self.server.handle(self.now, from, None, None, bytes, &mut answer) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let served = self.served.get_mut(&handle.0).expect("it is kept until it is drained");
                served.connection.handle_event(event);
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = self.server.accept(incoming, self.now, &mut answer, None);
                let (handle, connection) = accepted.expect("an honest client");
                let served = Served { connection, stream: None, unsent: BytesMut::new(), finish: false };
                self.served.insert(handle.0, served);
            }
            Some(DatagramEvent::Response(_)) | None => {}
        }
    }

    /// Collects what both sides send until both are quiet.
    pub(crate) fn pump(&mut self) {
        while let Some(event) = self.client.poll_event() {
            self.events.push(event);
        }
        let mut buffer = Vec::new();
        while let Some(transmit) = self.client.poll_transmit(self.now, 10, &mut buffer) {
            assert_eq!(transmit.bytes, buffer.len());
            let datagrams = buffer.chunks(transmit.segment_bytes.unwrap_or(buffer.len()));
            self.longest_train = self.longest_train.max(datagrams.len());
            for bytes in datagrams {
                if bytes[0] & 0x80 == 0 {
                    self.short_cid = bytes[1..].first_chunk().copied();
                }
                let from = SocketAddr::from(([10, 0, 0, 1], self.port));
                launch(
                    &mut self.flying,
                    &mut self.launched,
                    (self.now, self.loss_percent),
                    &mut self.random,
                    (true, from, bytes),
                );
            }
        }
        let mut drained = Vec::new();
        for (handle, served) in &mut self.served {
            served.echo(&mut self.server_heard);
            while let Some(event) = served.connection.poll_endpoint_events() {
                if event.is_drained() {
                    drained.push(*handle);
                }
                if let Some(answer) = self.server.handle_event(ConnectionHandle(*handle), event) {
                    served.connection.handle_event(answer);
                }
            }
            buffer.clear();
            while let Some(transmit) = served.connection.poll_transmit(self.now, 1, &mut buffer) {
                let from = SocketAddr::from(([192, 0, 2, 1], 14_567));
                let datagram = (false, from, &buffer[..transmit.size]);
                launch(
                    &mut self.flying,
                    &mut self.launched,
                    (self.now, self.loss_percent),
                    &mut self.random,
                    datagram,
                );
                buffer.clear();
            }
        }
        for handle in drained {
            self.served.remove(&handle);
        }
    }
}

type Flying = BTreeMap<(Instant, u64), (bool, SocketAddr, BytesMut)>;

fn launch(
    flying: &mut Flying,
    launched: &mut u64,
    (now, loss_percent): (Instant, u32),
    random: &mut fastrand::Rng,
    (up, from, bytes): (bool, SocketAddr, &[u8]),
) {
    *launched += 1;
    if random.u32(0..100) >= loss_percent {
        flying.insert((now + DELAY, *launched), (up, from, BytesMut::from(bytes)));
    }
}

impl Served {
    fn echo(&mut self, heard: &mut Vec<String>) {
        while let Some(event) = self.connection.poll() {
            match event {
                quinn_proto::Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => {
                    self.stream = self.connection.streams().accept(Dir::Bi);
                }
                quinn_proto::Event::ConnectionLost { reason } => heard.push(format!("{reason}")),
                _ => {}
            }
        }
        let Some(stream) = self.stream else { return };
        if let Ok(mut chunks) = self.connection.recv_stream(stream).read(true) {
            loop {
                match chunks.next(usize::MAX) {
                    Ok(Some(chunk)) => self.unsent.extend_from_slice(&chunk.bytes),
                    Ok(None) => {
                        self.finish = true;
                        break;
                    }
                    Err(_) => break,
                }
            }
            let _ = chunks.finalize();
        }
        while !self.unsent.is_empty() {
            let Ok(taken) = self.connection.send_stream(stream).write(&self.unsent) else { return };
            let _ = self.unsent.split_to(taken);
        }
        if std::mem::take(&mut self.finish) {
            let _ = self.connection.send_stream(stream).finish();
        }
    }
}
