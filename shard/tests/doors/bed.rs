//! A test bed: one shard, byte streams in memory, and clients that speak the layers below MQTT with code that is not the
//! shard's: rustls' client, frames written out by hand.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quelea_mqtt::{
    Connect, Limits, Packet, PacketId, Publish, PublishProperties, QoS, RequestedSubscription, Sender,
    Subscribe, SubscribeFilter, SubscriptionOptions, TopicName, Version,
};
use quelea_router::{MeshConfig, ShardId};
use quelea_shard::door::{DoorKind, DoorKindId, DoorTls, WebSocketRules};
use quelea_shard::{Completion, DoorAction, DoorEnd, DoorId, Permissions, Settings, Shard, ShardParts};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

/// The broker's end of one byte stream, as its driver sees it.
#[derive(Default)]
pub(crate) struct Wire {
    /// Written, and not yet read by the client.
    pub(crate) written: BytesMut,
    /// While it is stalled the kernel takes nothing; so many bytes are in flight.
    pub(crate) in_flight: VecDeque<usize>,
    pub(crate) stalled: bool,
    pub(crate) paused: bool,
    pub(crate) finished: bool,
    pub(crate) aborted: bool,
}

pub(crate) struct Bed {
    pub(crate) now: Instant,
    pub(crate) shard: Shard,
    pub(crate) wires: BTreeMap<u64, Wire>,
    /// Steps of handshakes that a turn has time for.
    pub(crate) handshakes_per_turn: usize,
    next_door: u64,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let mesh = MeshConfig {
            replies: 4,
            control: 8,
            forward: settings.forward_window as usize,
            deliver: settings.deliver_window as usize,
        };
        let mailbox = quelea_router::mesh(1, mesh).pop().expect("one shard");
        let parts =
            ShardParts { id: ShardId::from_index(0), shards: 1, node_seed: 7, seed: 0, mailbox, quic: None };
        let shard = Shard::new(settings, parts);
        Self { now: start(), shard, wires: BTreeMap::new(), handshakes_per_turn: usize::MAX, next_door: 0 }
    }

    /// Opens a byte stream of a kind.
    pub(crate) fn open(&mut self, kind: DoorKindId) -> DoorId {
        self.open_from(kind, SocketAddr::from(([127, 0, 0, 1], 40_000)))
    }

    pub(crate) fn open_from(&mut self, kind: DoorKindId, peer: SocketAddr) -> DoorId {
        self.next_door += 1;
        let door = DoorId(self.next_door);
        self.wires.insert(door.0, Wire::default());
        self.shard.handle_door_opened(self.now, door, peer, kind);
        self.run();
        door
    }

    pub(crate) fn wire(&mut self, door: DoorId) -> &mut Wire {
        self.wires.get_mut(&door.0).expect("an open stream")
    }

    /// Sends bytes, and lets everything that follows from them happen.
    pub(crate) fn send(&mut self, door: DoorId, bytes: &[u8]) {
        self.shard.handle_door_bytes(self.now, door, bytes);
        self.run();
    }

    /// The client ends its side of the stream.
    pub(crate) fn end(&mut self, door: DoorId) {
        self.shard.handle_door_closed(self.now, door, DoorEnd::EndOfStream);
        self.run();
    }

    pub(crate) fn reset(&mut self, door: DoorId) {
        self.shard.handle_door_closed(self.now, door, DoorEnd::Reset);
        self.run();
    }

    /// The kernel takes nothing from now on, or everything.
    pub(crate) fn stall(&mut self, door: DoorId, stalled: bool) {
        let wire = self.wire(door);
        wire.stalled = stalled;
        let writes = if stalled { 0 } else { std::mem::take(&mut wire.in_flight).len() };
        for _ in 0..writes {
            self.shard.handle_door_written(self.now, door);
        }
        self.run();
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.shard.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.shard.handle_timeout(self.now);
            self.run();
        }
        self.now = end;
        self.run();
    }

    /// Turns the shard until nothing moves.
    pub(crate) fn run(&mut self) {
        for _ in 0..10_000 {
            let mut moved = false;
            let mut left = self.handshakes_per_turn;
            self.shard.accept_handshakes(self.now, || match left.checked_sub(1) {
                Some(fewer) => {
                    left = fewer;
                    false
                }
                None => true,
            });
            self.shard.settle(self.now);
            while let Some(request) = self.shard.poll_request() {
                moved = true;
                let answer = Completion::Authenticated(Ok(Permissions::Everything));
                self.shard.handle_completion(self.now, request.id, answer);
            }
            while let Some((door, action)) = self.shard.poll_door() {
                moved = true;
                self.act(door, action);
            }
            if !moved {
                return;
            }
        }
        panic!("the shard does not come to rest");
    }

    fn act(&mut self, door: DoorId, action: DoorAction) {
        let wire = self.wires.get_mut(&door.0).expect("an action for an open stream");
        assert!(!wire.aborted, "{action:?} after an abort");
        match action {
            DoorAction::Write(batch) => {
                assert!(!wire.finished, "a write after the end");
                assert!(wire.in_flight.is_empty(), "two writes in flight");
                let bytes: usize = batch.iter().map(|chunk| chunk.len()).sum();
                assert!(bytes > 0, "a write of nothing");
                batch.iter().for_each(|chunk| wire.written.extend_from_slice(chunk));
                if wire.stalled {
                    wire.in_flight.push_back(bytes);
                } else {
                    self.shard.handle_door_written(self.now, door);
                }
            }
            DoorAction::Finish => wire.finished = true,
            DoorAction::Abort => wire.aborted = true,
            DoorAction::Pause => wire.paused = true,
            DoorAction::Resume => wire.paused = false,
        }
    }

    pub(crate) fn counter(&mut self, name: &str) -> u64 {
        let mut found = None;
        self.shard.counters().for_each(|figure| {
            if figure.name == name {
                found = Some(figure.value);
            }
        });
        found.expect("a figure of that name")
    }
}

/// A client's TLS, on a stream of the bed.
pub(crate) struct TlsClient {
    pub(crate) door: DoorId,
    pub(crate) tls: rustls::ClientConnection,
    /// What the broker has said in it.
    pub(crate) heard: Vec<u8>,
    /// The broker has said that nothing more comes.
    pub(crate) ended: bool,
    /// How many bytes leave at once.
    pub(crate) piece: usize,
}

impl TlsClient {
    pub(crate) fn open(bed: &mut Bed, kind: DoorKindId, config: rustls::ClientConfig) -> Self {
        let door = bed.open(kind);
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
        Self { door, tls, heard: Vec::new(), ended: false, piece: usize::MAX }
    }

    /// Opens one and completes its handshake.
    pub(crate) fn connect(bed: &mut Bed, kind: DoorKindId, config: rustls::ClientConfig) -> Self {
        let mut client = Self::open(bed, kind, config);
        client.exchange(bed).expect("a handshake");
        assert!(!client.tls.is_handshaking());
        client
    }

    pub(crate) fn send(&mut self, bed: &mut Bed, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).expect("room");
        self.exchange(bed).expect("records");
    }

    /// Carries bytes both ways until there are no more.
    pub(crate) fn exchange(&mut self, bed: &mut Bed) -> Result<(), rustls::Error> {
        loop {
            let mut out = Vec::new();
            while self.tls.wants_write() {
                self.tls.write_tls(&mut out).expect("memory");
            }
            let is_quiet = out.is_empty();
            let closed = bed.wire(self.door).aborted;
            if !closed {
                out.chunks(self.piece.min(out.len().max(1))).for_each(|piece| bed.send(self.door, piece));
            }
            let written = bed.wire(self.door).written.split();
            if is_quiet && written.is_empty() {
                return Ok(());
            }
            self.read(&written)?;
        }
    }

    fn read(&mut self, mut written: &[u8]) -> Result<(), rustls::Error> {
        while !written.is_empty() {
            self.tls.read_tls(&mut written).expect("memory");
            let state = self.tls.process_new_packets()?;
            self.ended |= state.peer_has_closed();
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            self.tls.reader().read_exact(&mut plain).expect("as many as announced");
            self.heard.extend_from_slice(&plain);
        }
        Ok(())
    }
}

/// Certificates of the bed: an authority, a server of it, a client of it.
pub(crate) struct Certificates {
    pub(crate) authority: CertificateDer<'static>,
    pub(crate) server: CertificateDer<'static>,
    pub(crate) client: CertificateDer<'static>,
    server_key: Vec<u8>,
    client_key: Vec<u8>,
}

pub(crate) fn certificates() -> &'static Certificates {
    static MADE: OnceLock<Certificates> = OnceLock::new();
    MADE.get_or_init(|| {
        let authority_key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = parameters.self_signed(&authority_key).expect("a certificate");
        let issuer = rcgen::Issuer::new(parameters, authority_key);
        let issue = |name: &str| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
            let made = parameters.signed_by(&key, &issuer).expect("a certificate");
            (made.der().clone(), key.serialize_der())
        };
        let (server, server_key) = issue("localhost");
        let (client, client_key) = issue("sensor");
        Certificates { authority: authority.der().clone(), server, client, server_key, client_key }
    })
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

pub(crate) fn roots() -> Arc<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificates().authority.clone()).expect("an authority");
    Arc::new(roots)
}

/// A server's configuration, with or without a question for the client's certificate.
pub(crate) fn server_config(
    verifier: Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>,
) -> rustls::ServerConfig {
    let builder = rustls::ServerConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let made = certificates();
    let key = PrivateKeyDer::try_from(made.server_key.clone()).expect("a key");
    builder.with_single_cert(vec![made.server.clone()], key).expect("a certificate with its key")
}

/// A client of one version; with its certificate, if it shows one.
pub(crate) fn client_config(
    version: &'static rustls::SupportedProtocolVersion,
    shows: bool,
) -> rustls::ClientConfig {
    let builder = rustls::ClientConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(&[version]).expect("a version");
    let builder = builder.with_root_certificates(roots());
    if !shows {
        return builder.with_no_client_auth();
    }
    let made = certificates();
    let key = PrivateKeyDer::try_from(made.client_key.clone()).expect("a key");
    builder.with_client_auth_cert(vec![made.client.clone()], key).expect("a certificate with its key")
}

pub(crate) fn tls13() -> rustls::ClientConfig {
    client_config(&rustls::version::TLS13, false)
}

/// A kind with TLS alone.
pub(crate) fn tls_kind() -> DoorKind {
    DoorKind { tls: Some(DoorTls::new(server_config(None)).expect("a configuration")), ..DoorKind::PLAIN }
}

/// A kind with WebSocket alone.
pub(crate) fn websocket_kind() -> DoorKind {
    DoorKind { websocket: Some(Arc::new(WebSocketRules::default())), ..DoorKind::PLAIN }
}

/// The one place where these tests read a clock: a base to count from.
#[allow(clippy::disallowed_methods)]
fn start() -> Instant {
    Instant::now()
}

pub(crate) fn connect(id: &str) -> Vec<u8> {
    let packet = Connect { clean_start: true, keep_alive_s: 0, ..Connect::new(Version::V5, id) };
    let mut bytes = BytesMut::new();
    packet.encode(Version::V5, &mut bytes).expect("encodes");
    bytes.to_vec()
}

pub(crate) fn subscribe(filter: &str) -> Vec<u8> {
    let filter = SubscribeFilter::parse(filter, 128).expect("a filter");
    let wanted = [RequestedSubscription::new(filter, SubscriptionOptions::with_qos(QoS::AtMostOnce))];
    let mut bytes = BytesMut::new();
    Subscribe::new(PacketId::MIN, &wanted).encode(Version::V5, &mut bytes).expect("encodes");
    bytes.to_vec()
}

pub(crate) fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let packet = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(TopicName::new(topic, 128).expect("a topic")),
        packet_id: None,
        payload,
        properties: PublishProperties::default(),
    };
    let mut bytes = BytesMut::new();
    packet.encode(Version::V5, &mut bytes).expect("encodes");
    bytes.to_vec()
}

pub(crate) const PINGREQ: [u8; 2] = [0xc0, 0];

/// MQTT packets, a line each; whole ones only.
pub(crate) fn packets(bytes: &[u8]) -> Vec<String> {
    let limits = Limits { packet_bytes_max: 268_435_455, ..Limits::default() };
    let mut rest = bytes;
    let mut lines = Vec::new();
    while !rest.is_empty() {
        let frame =
            quelea_mqtt::peek_frame(rest, Sender::Server, &limits).expect("frames").expect("whole packets");
        let packet = quelea_mqtt::decode(&rest[..frame.packet_bytes], Version::V5, Sender::Server, &limits);
        lines.push(match packet.expect("decodes") {
            Packet::ConnAck(packet) => format!("CONNACK {:#04x}", packet.reason.as_u8()),
            Packet::SubAck(packet) => format!("SUBACK {:02x?}", packet.reasons),
            Packet::Publish(packet) => format!("PUBLISH of {} bytes", packet.payload.len()),
            Packet::PingResp => "PINGRESP".to_owned(),
            Packet::Disconnect(packet) => format!("DISCONNECT {:#04x}", packet.reason.as_u8()),
            other => format!("{other:?}"),
        });
        rest = &rest[frame.packet_bytes..];
    }
    lines
}
