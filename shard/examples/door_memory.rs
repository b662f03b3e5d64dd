//! What an idle byte stream costs: `cargo run --release -p quelea-shard --example door_memory [connections]`.
//!
//! Opens that many connections of each kind in one process, without a network: TCP, TLS 1.3, TLS 1.2, WebSocket and
//! WebSocket in TLS 1.3. Each connects as an MQTT client, pings once and falls silent; then the shard's live heap is
//! printed by connection. Only what is allocated and freed inside the shard's calls is counted; aws-lc's own C heap is
//! not in it.

#![allow(clippy::disallowed_methods)]

mod live_heap;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bytes::BytesMut;
use quelea_mqtt::{Connect, Version};
use quelea_router::{MeshConfig, ShardId};
use quelea_shard::door::{DoorKind, DoorKindId, DoorTls, WebSocketRules};
use quelea_shard::{Completion, DoorAction, DoorId, Permissions, Settings, Shard, ShardParts};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion};

use live_heap::{BLOCKS, BYTES, counted};

fn main() {
    let connections = std::env::args().nth(1).map_or(2_000, |text| text.parse().expect("a number"));
    let (certificate, tls) = certificate_and_tls();
    let websocket = Some(Arc::new(WebSocketRules::default()));
    let kinds = [
        ("TCP", DoorKind::PLAIN, None),
        ("WebSocket", DoorKind { websocket: websocket.clone(), ..DoorKind::PLAIN }, None),
        ("TLS 1.3", DoorKind { tls: Some(tls.clone()), ..DoorKind::PLAIN }, Some(&rustls::version::TLS13)),
        ("TLS 1.2", DoorKind { tls: Some(tls.clone()), ..DoorKind::PLAIN }, Some(&rustls::version::TLS12)),
        (
            "WebSocket in TLS 1.3",
            DoorKind { tls: Some(tls), websocket, ..DoorKind::PLAIN },
            Some(&rustls::version::TLS13),
        ),
    ];
    for (name, kind, version) in kinds {
        let client = version.map(|version| client_config(&certificate, version));
        measure(name, kind, client.as_ref(), connections);
    }
}

fn measure(name: &str, kind: DoorKind, client: Option<&Arc<ClientConfig>>, connections: u64) {
    BYTES.store(0, Relaxed);
    BLOCKS.store(0, Relaxed);
    let is_websocket = kind.websocket.is_some();
    let mut bench = Bench::new();
    let kind = bench.shard.add_door_kind(kind);
    let mut clients = Vec::new();
    for number in 0..connections {
        let mut tls = client.map(|config| {
            let name = ServerName::try_from("localhost").expect("a name");
            ClientConnection::new(Arc::clone(config), name).expect("a client")
        });
        let door = DoorId(number);
        bench.open(door, kind);
        bench.exchange(door, &mut tls, &[]);
        let mut connect = BytesMut::new();
        let packet = Connect { keep_alive_s: 0, ..Connect::new(Version::V5, "idle") };
        let id = format!("idle-{number}");
        Connect { client_id: &id, ..packet }.encode(Version::V5, &mut connect).expect("encodes");
        if is_websocket {
            bench.exchange(door, &mut tls, REQUEST);
        }
        for packet in [&connect[..], &[0xc0, 0]] {
            let framed = if is_websocket { frame(packet) } else { packet.to_vec() };
            bench.exchange(door, &mut tls, &framed);
        }
        clients.push(tls);
    }
    let (bytes, blocks) = (BYTES.load(Relaxed), BLOCKS.load(Relaxed));
    let each = connections as isize;
    println!("{name:<22} {:>6} bytes in {:>3} blocks", bytes / each, blocks / each);
}

/// A shard and what it has written.
struct Bench {
    now: Instant,
    shard: Shard,
}

impl Bench {
    fn new() -> Self {
        let settings = Settings::default();
        let mesh = MeshConfig { replies: 4, control: 8, forward: 256, deliver: 1_024 };
        let mailbox = quelea_router::mesh(1, mesh).pop().expect("one shard");
        let parts =
            ShardParts { id: ShardId::from_index(0), shards: 1, node_seed: 7, seed: 0, mailbox, quic: None };
        Self { now: Instant::now(), shard: Shard::new(settings, parts) }
    }

    fn open(&mut self, door: DoorId, kind: DoorKindId) {
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        counted(|| self.shard.handle_door_opened(self.now, door, peer, kind));
    }

    /// Carries bytes both ways until there are no more.
    fn exchange(&mut self, door: DoorId, tls: &mut Option<ClientConnection>, bytes: &[u8]) {
        let Some(tls) = tls else {
            self.send(door, bytes);
            return;
        };
        tls.writer().write_all(bytes).expect("room");
        while tls.wants_write() {
            let mut out = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut out).expect("memory");
            }
            let written = self.send(door, &out);
            let mut rest = &written[..];
            while !rest.is_empty() {
                tls.read_tls(&mut rest).expect("memory");
                let state = tls.process_new_packets().expect("records");
                let mut plain = vec![0; state.plaintext_bytes_to_read()];
                tls.reader().read_exact(&mut plain).expect("as many as announced");
            }
        }
    }

    fn send(&mut self, door: DoorId, bytes: &[u8]) -> Vec<u8> {
        let mut written = Vec::with_capacity(1 << 16);
        counted(|| {
            self.shard.handle_door_bytes(self.now, door, bytes);
            loop {
                let mut moved = false;
                self.shard.accept_handshakes(self.now, || false);
                self.shard.settle(self.now);
                while let Some(request) = self.shard.poll_request() {
                    let answer = Completion::Authenticated(Ok(Permissions::Everything));
                    self.shard.handle_completion(self.now, request.id, answer);
                    moved = true;
                }
                while let Some((door, action)) = self.shard.poll_door() {
                    moved = true;
                    if let DoorAction::Write(batch) = action {
                        batch.iter().for_each(|chunk| written.extend_from_slice(chunk));
                        drop(batch);
                        self.shard.handle_door_written(self.now, door);
                    }
                }
                if !moved {
                    return;
                }
            }
        });
        written
    }
}

const REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

/// A binary frame whose mask changes nothing.
fn frame(payload: &[u8]) -> Vec<u8> {
    [&[0x82, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

fn certificate_and_tls() -> (CertificateDer<'static>, DoorTls) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().expect("versions").with_no_client_auth();
    let mut config = builder.with_single_cert(vec![made.cert.der().clone()], key).expect("a pair");
    // What can be resumed is the node's memory, not the connection's.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    (made.cert.der().clone(), DoorTls::new(config).expect("a configuration"))
}

fn client_config(
    certificate: &CertificateDer<'static>,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[version]).expect("a version");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}
