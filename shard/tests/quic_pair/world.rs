//! A little world on virtual time: one broker of several shards, plain quinn-proto clients, a network between them.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quelea_shard::quic::{
    ConnId, Handled, Path, Quic, QuicEvent, QuicKeys, QuicListenerId, QuicSettings, QuicTls, ReadEnd,
    SEGMENTS_MAX, StreamId, WriteEnd,
};
use quelea_shard::steering::Steering;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::crypto::{CryptoError, HmacKey};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, ConnectionId, ConnectionIdGenerator, DatagramEvent, Dir,
    Endpoint, EndpointConfig, Event, ReadError, TransportConfig, VarInt,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

/// One direction's delay.
pub(crate) const DELAY: Duration = Duration::from_millis(10);

/// A datagram under way.
struct Flying {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

/// Everything: broker, clients, network, time.
pub(crate) struct World {
    pub(crate) now: Instant,
    start: Instant,
    pub(crate) broker: Broker,
    pub(crate) clients: Vec<Client>,
    flying: BTreeMap<(Instant, u64), Flying>,
    launched: u64,
    /// Of 100 datagrams, how many are lost.
    pub(crate) loss_percent: u64,
    random: u64,
    /// A hash of every datagram's bytes and time.
    pub(crate) trace: u64,
}

impl World {
    pub(crate) fn new(settings: &QuicSettings, shards: usize, certificate: &Certificate) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "an Instant can be made in no other way; it never matters which"
        )]
        let start = Instant::now();
        Self {
            now: start,
            start,
            broker: Broker::new(settings, shards, certificate),
            clients: Vec::new(),
            flying: BTreeMap::new(),
            launched: 0,
            loss_percent: 0,
            random: 42,
            trace: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// Adds a client that begins to connect; runs nothing.
    pub(crate) fn client(&mut self, certificate: &Certificate) -> usize {
        self.client_with(certificate, &[b"mqtt"], |_| {})
    }

    pub(crate) fn client_with(
        &mut self,
        certificate: &Certificate,
        protocols: &[&[u8]],
        adjust: impl FnOnce(&mut TransportConfig),
    ) -> usize {
        let number = self.clients.len();
        self.clients.push(Client::new(self.now, number, certificate, protocols, adjust));
        number
    }

    /// Adds a client and runs until it is connected; returns its number and the broker's name for it.
    pub(crate) fn connect(&mut self, certificate: &Certificate) -> (usize, ConnId) {
        let number = self.client(certificate);
        self.run(Duration::from_millis(500));
        let peer = self.clients[number].address;
        let conn = self.broker.find(|event| match event {
            QuicEvent::Connected { conn, peer: from, .. } if *from == peer => Some(*conn),
            _ => None,
        });
        (number, conn.expect("the client is connected"))
    }

    /// Lets `time` pass: delivers, fires timers, in order of time.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.pump();
        while let Some(next) = self.next_instant().filter(|&next| next <= end) {
            self.now = self.now.max(next);
            self.deliver();
            self.broker.handle_timeout(self.now);
            for client in &mut self.clients {
                client.handle_timeout(self.now);
            }
            self.pump();
        }
        self.now = end;
    }

    /// Runs until `done` or for at most `limit`.
    pub(crate) fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            assert!(self.now < end, "not done after {limit:?}");
            self.run(Duration::from_millis(5));
        }
    }

    fn next_instant(&mut self) -> Option<Instant> {
        let landing = self.flying.keys().next().map(|&(at, _)| at);
        let timers = self.clients.iter_mut().filter_map(Client::poll_timeout);
        timers.chain(landing).chain(self.broker.poll_timeout()).min()
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let Flying { from, to, bytes } = entry.remove();
            if to == self.broker.address {
                self.broker.handle_datagram(self.now, from, &bytes);
            } else if let Some(client) = self.clients.iter_mut().find(|client| client.address == to) {
                client.handle_datagram(self.now, self.broker.address, &bytes);
            }
        }
    }

    /// Collects what everyone sends until all are quiet.
    pub(crate) fn pump(&mut self) {
        let mut out = Vec::new();
        self.broker.pump(self.now, &mut out);
        for client in &mut self.clients {
            client.pump(self.now, self.broker.address, &mut out);
        }
        for flying in out {
            self.launch(flying);
        }
    }

    fn launch(&mut self, flying: Flying) {
        let at = (self.now - self.start).as_nanos() as u64;
        for &byte in at.to_be_bytes().iter().chain(&flying.bytes) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if (self.random >> 33) % 100 >= self.loss_percent {
            self.launched += 1;
            self.flying.insert((self.now + DELAY, self.launched), flying);
        }
    }
}

/// The broker: its shards, and an application that reads everything and may echo it.
pub(crate) struct Broker {
    pub(crate) shards: Vec<Quic>,
    pub(crate) address: SocketAddr,
    steering: Steering,
    /// Deliver everything to this shard first, as if the kernel's program were missing.
    pub(crate) all_to: Option<usize>,
    /// Handshakes that may begin; counted down.
    pub(crate) handshakes_left: usize,
    /// Write back what is read, and finish what is finished.
    pub(crate) echo: bool,
    /// Read what arrives.
    pub(crate) reading: bool,
    pub(crate) events: Vec<(usize, QuicEvent)>,
    pub(crate) received: BTreeMap<(ConnId, StreamId), Vec<u8>>,
    pub(crate) ends: BTreeMap<(ConnId, StreamId), ReadEnd>,
    unsent: BTreeMap<(usize, ConnId, StreamId), Unsent>,
    pub(crate) forwarded: usize,
    /// The listener that a client's datagrams come to; the first for one that is not named.
    pub(crate) comes_to: BTreeMap<SocketAddr, QuicListenerId>,
    /// The listener by which a client was answered last.
    pub(crate) answered_by: BTreeMap<SocketAddr, QuicListenerId>,
    /// Most datagrams in one transmit.
    pub(crate) longest_train: usize,
}

#[derive(Default)]
struct Unsent {
    bytes: BytesMut,
    finish: bool,
}

/// The keys of every broker here.
pub(crate) fn keys() -> QuicKeys {
    QuicKeys { reset_key: [1; 64], token_key: [2; 64], steering_key: *b"steering of test" }
}

impl Broker {
    fn new(settings: &QuicSettings, shards: usize, certificate: &Certificate) -> Self {
        let tls = certificate.server();
        let shard = |i| Quic::new(settings, &keys(), Arc::clone(&tls), i, shards, [i as u8 + 7; 32]);
        Self {
            shards: (0..shards).map(shard).collect(),
            address: SocketAddr::from(([192, 0, 2, 1], 14_567)),
            steering: Steering::new(keys().steering_key, shards),
            all_to: None,
            handshakes_left: usize::MAX,
            echo: false,
            reading: true,
            events: Vec::new(),
            received: BTreeMap::new(),
            ends: BTreeMap::new(),
            unsent: BTreeMap::new(),
            forwarded: 0,
            comes_to: BTreeMap::new(),
            answered_by: BTreeMap::new(),
            longest_train: 0,
        }
    }

    pub(crate) fn handle_datagram(&mut self, now: Instant, peer: SocketAddr, bytes: &[u8]) {
        let first = self.all_to.or_else(|| self.steering.shard_of_datagram(bytes)).unwrap_or(0);
        let listener = self.comes_to.get(&peer).copied().unwrap_or(QuicListenerId::FIRST);
        let from = Path { listener, peer, local: None, ecn: None };
        let Handled::Foreign(owner, bytes) =
            self.shards[first].handle_datagram(now, from, BytesMut::from(bytes))
        else {
            return;
        };
        self.forwarded += 1;
        assert_eq!(self.shards[owner].handle_datagram(now, from, bytes), Handled::Here, "forwarded once");
    }

    fn handle_timeout(&mut self, now: Instant) {
        for shard in &mut self.shards {
            if shard.poll_timeout().is_some_and(|at| at <= now) {
                shard.handle_timeout(now);
            }
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.shards.iter_mut().filter_map(Quic::poll_timeout).min()
    }

    fn pump(&mut self, now: Instant, out: &mut Vec<Flying>) {
        for number in 0..self.shards.len() {
            let left = &mut self.handshakes_left;
            self.shards[number].accept_handshakes(now, || {
                let out_of_time = *left == 0;
                *left = left.saturating_sub(1);
                out_of_time
            });
            while let Some(event) = self.shards[number].poll_event() {
                self.on_event(now, number, &event);
                self.events.push((number, event));
            }
            let mut buffer = Vec::new();
            while let Some(transmit) = self.shards[number].poll_transmit(now, &mut buffer) {
                assert_eq!(transmit.bytes, buffer.len());
                self.answered_by.insert(transmit.destination, transmit.listener);
                let datagrams = buffer.chunks(transmit.segment_bytes.unwrap_or(buffer.len()));
                assert!(datagrams.len() <= SEGMENTS_MAX);
                self.longest_train = self.longest_train.max(datagrams.len());
                for bytes in datagrams {
                    out.push(Flying { from: self.address, to: transmit.destination, bytes: bytes.to_vec() });
                }
            }
        }
    }

    fn on_event(&mut self, now: Instant, number: usize, event: &QuicEvent) {
        match *event {
            QuicEvent::Readable { conn, stream } if self.reading => self.read(now, number, conn, stream),
            QuicEvent::Writable { conn, stream } => self.flush(number, conn, stream),
            _ => {}
        }
    }

    /// Reads a stream to the end of what is there; echoes if told to.
    pub(crate) fn read(&mut self, now: Instant, number: usize, conn: ConnId, stream: StreamId) {
        let quic = &mut self.shards[number];
        let received = self.received.entry((conn, stream)).or_default();
        let unsent = self.unsent.entry((number, conn, stream)).or_default();
        let end = loop {
            let before = received.len();
            let end = quic.read(now, conn, stream, 1_000, |bytes| received.extend_from_slice(bytes));
            if self.echo {
                unsent.bytes.extend_from_slice(&received[before..]);
            }
            if end != ReadEnd::More {
                break end;
            }
        };
        unsent.finish |= self.echo && end == ReadEnd::Finished;
        self.ends.insert((conn, stream), end);
        self.flush(number, conn, stream);
    }

    /// Queues bytes on a stream and writes what fits.
    pub(crate) fn write(&mut self, number: usize, conn: ConnId, stream: StreamId, bytes: &[u8]) {
        self.unsent.entry((number, conn, stream)).or_default().bytes.extend_from_slice(bytes);
        self.flush(number, conn, stream);
    }

    /// Bytes that wait for room on a stream.
    pub(crate) fn unsent(&self, number: usize, conn: ConnId, stream: StreamId) -> usize {
        self.unsent.get(&(number, conn, stream)).map_or(0, |unsent| unsent.bytes.len())
    }

    fn flush(&mut self, number: usize, conn: ConnId, stream: StreamId) {
        let Some(unsent) = self.unsent.get_mut(&(number, conn, stream)) else { return };
        let mut bytes = std::mem::take(&mut unsent.bytes).freeze();
        let end = self.shards[number].write(conn, stream, &mut bytes);
        unsent.bytes = BytesMut::from(bytes);
        if end == WriteEnd::All && std::mem::take(&mut unsent.finish) {
            self.shards[number].finish(conn, stream);
        }
    }

    pub(crate) fn find<T>(&self, wanted: impl FnMut(&QuicEvent) -> Option<T>) -> Option<T> {
        self.events.iter().map(|(_, event)| event).find_map(wanted)
    }

    /// The shard that announced the connection from `peer`; names are a shard's own.
    pub(crate) fn shard_of(&self, peer: SocketAddr) -> usize {
        let here = |event: &QuicEvent| matches!(event, QuicEvent::Connected { peer: p, .. } if *p == peer);
        self.events.iter().find(|(_, event)| here(event)).expect("it is connected").0
    }
}

/// One client endpoint with one connection, as quinn-proto comes.
pub(crate) struct Client {
    endpoint: Endpoint,
    handle: ConnectionHandle,
    pub(crate) connection: Connection,
    pub(crate) address: SocketAddr,
    /// What its datagrams claim as their origin, if it is not `address`.
    pub(crate) forged: Option<SocketAddr>,
    pub(crate) events: VecDeque<Event>,
    /// Answer nothing any more.
    pub(crate) dead: bool,
    pub(crate) datagrams_in: usize,
    pub(crate) datagrams_out: usize,
}

impl Client {
    fn new(
        now: Instant,
        number: usize,
        certificate: &Certificate,
        protocols: &[&[u8]],
        adjust: impl FnOnce(&mut TransportConfig),
    ) -> Self {
        let address = SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 5_000));
        let seed = [number as u8; 32];
        let mut config = EndpointConfig::new(Arc::new(NoResets));
        config.rng_seed(Some(seed)).cid_generator(move || Box::new(SeededCids(StdRng::from_seed(seed))));
        let mut endpoint = Endpoint::new(Arc::new(config), None, true, None);
        let mut transport = TransportConfig::default();
        transport.max_idle_timeout(None);
        adjust(&mut transport);
        let mut client = ClientConfig::new(certificate.client(protocols));
        client.transport_config(Arc::new(transport));
        client.initial_dst_cid_provider(Arc::new(move || initial_cid(number)));
        let server = SocketAddr::from(([192, 0, 2, 1], 14_567));
        let (handle, connection) =
            endpoint.connect(now, client, server, "localhost").expect("a valid target");
        Self {
            endpoint,
            handle,
            connection,
            address,
            forged: None,
            events: VecDeque::new(),
            dead: false,
            datagrams_in: 0,
            datagrams_out: 0,
        }
    }

    fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        if self.dead {
            return;
        }
        self.datagrams_in += 1;
        let mut answer = Vec::new();
        match self.endpoint.handle(now, from, None, None, BytesMut::from(bytes), &mut answer) {
            Some(DatagramEvent::ConnectionEvent(_, event)) => self.connection.handle_event(event),
            Some(_) => panic!("a client with one connection gets nothing else"),
            None => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if !self.dead && self.connection.poll_timeout().is_some_and(|at| at <= now) {
            self.connection.handle_timeout(now);
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        if self.dead { None } else { self.connection.poll_timeout() }
    }

    fn pump(&mut self, now: Instant, to: SocketAddr, out: &mut Vec<Flying>) {
        if self.dead {
            return;
        }
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(answer) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(answer);
            }
        }
        while let Some(event) = self.connection.poll() {
            self.events.push_back(event);
        }
        let mut buffer = Vec::new();
        while let Some(transmit) = self.connection.poll_transmit(now, 1, &mut buffer) {
            self.datagrams_out += 1;
            let from = self.forged.unwrap_or(self.address);
            out.push(Flying { from, to, bytes: buffer[..transmit.size].to_vec() });
            buffer.clear();
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Connected))
    }

    /// Why the connection was lost, if it was.
    pub(crate) fn lost(&self) -> Option<String> {
        self.events.iter().find_map(|event| match event {
            Event::ConnectionLost { reason } => Some(format!("{reason:?}")),
            _ => None,
        })
    }

    pub(crate) fn open(&mut self) -> quinn_proto::StreamId {
        self.connection.streams().open(Dir::Bi).expect("the broker grants a stream")
    }

    /// Writes as much as the windows allow; returns how much.
    pub(crate) fn write(&mut self, stream: quinn_proto::StreamId, bytes: &[u8]) -> usize {
        let mut chunks = [Bytes::copy_from_slice(bytes)];
        match self.connection.send_stream(stream).write_chunks(&mut chunks) {
            Ok(written) => written.bytes,
            Err(_) => 0,
        }
    }

    pub(crate) fn finish(&mut self, stream: quinn_proto::StreamId) {
        self.connection.send_stream(stream).finish().expect("the stream is open");
    }

    /// Reads what is there into `into`; whether the stream goes on, is finished, or was reset with a code.
    pub(crate) fn read(&mut self, stream: quinn_proto::StreamId, into: &mut Vec<u8>) -> ClientRead {
        let mut receiving = self.connection.recv_stream(stream);
        let Ok(mut chunks) = receiving.read(true) else { return ClientRead::Gone };
        loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => into.extend_from_slice(&chunk.bytes),
                Ok(None) => return ClientRead::Finished,
                Err(ReadError::Blocked) => return ClientRead::Open,
                Err(ReadError::Reset(code)) => return ClientRead::Reset(code.into_inner()),
            }
        }
    }

    pub(crate) fn close(&mut self, now: Instant, code: u32, reason: &'static [u8]) {
        self.connection.close(now, VarInt::from_u32(code), Bytes::from_static(reason));
    }

    /// From now on at another address.
    pub(crate) fn rebind(&mut self, port: u16) {
        self.address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9)), port);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientRead {
    Open,
    Finished,
    Reset(u64),
    Gone,
}

/// The client's own connection IDs, from a seed.
struct SeededCids(StdRng);

impl ConnectionIdGenerator for SeededCids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut cid = [0; 8];
        self.0.fill_bytes(&mut cid);
        ConnectionId::new(&cid)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The first destination a client makes up: eight random bytes by its number.
pub(crate) fn initial_cid(number: usize) -> ConnectionId {
    SeededCids(StdRng::seed_from_u64(number as u64)).generate_cid()
}

/// The clients' reset tokens; no test lets a client forget its connection.
struct NoResets;

impl HmacKey for NoResets {
    fn sign(&self, _: &[u8], signature: &mut [u8]) {
        signature.fill(0);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, _: &[u8], _: &[u8]) -> Result<(), CryptoError> {
        Err(CryptoError)
    }
}

/// A self-signed certificate and its key, and the provider that both sides use with it.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) der: CertificateDer<'static>,
    key: Vec<u8>,
    pub(crate) provider: Arc<CryptoProvider>,
    /// Clients that trust this certificate show it as their own, too.
    pub(crate) shown_by_clients: bool,
}

impl Certificate {
    pub(crate) fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a valid name");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Self { der: certificate.der().clone(), key: key.serialize_der(), provider, shown_by_clients: false }
    }

    pub(crate) fn server(&self) -> Arc<QuicTls> {
        QuicTls::new(self.server_config(&[b"mqtt", b"mqttv5"])).expect("a valid configuration")
    }

    pub(crate) fn server_config(&self, protocols: &[&[u8]]) -> rustls::ServerConfig {
        let key = PrivateKeyDer::Pkcs8(self.key.clone().into());
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], key)
            .expect("key and certificate belong together");
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        config
    }

    /// Serves only clients that show a certificate signed by `authority`.
    pub(crate) fn server_that_asks(&self, authority: &Certificate) -> Arc<QuicTls> {
        let provider = Arc::clone(&self.provider);
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots()), provider);
        let key = PrivateKeyDer::Pkcs8(self.key.clone().into());
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(verifier.build().expect("a root"))
            .with_single_cert(vec![self.der.clone()], key)
            .expect("key and certificate belong together");
        config.alpn_protocols = vec![b"mqtt".to_vec()];
        QuicTls::new(config).expect("a valid configuration")
    }

    fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der.clone()).expect("a certificate");
        roots
    }

    fn client(&self, protocols: &[&[u8]]) -> Arc<QuicClientConfig> {
        let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(self.roots());
        let mut config = if self.shown_by_clients {
            let key = PrivateKeyDer::Pkcs8(self.key.clone().into());
            config
                .with_client_auth_cert(vec![self.der.clone()], key)
                .expect("key and certificate belong together")
        } else {
            config.with_no_client_auth()
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Arc::new(QuicClientConfig::try_from(config).expect("the provider serves QUIC"))
    }
}
