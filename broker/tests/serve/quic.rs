//! MQTT over QUIC, with quinn as the client.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quelea::config::Transport;
use quelea_mqtt::{Connect, QoS, ReasonCode, Version};
use quinn::crypto::rustls::QuicClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::client::{Client, message};
use crate::tls::Issued;
use crate::{PATIENCE, Served, any_port, serve, serve_with};

/// One QUIC connection and its first stream, driven by a thread of its own.
pub(crate) struct QuicStream {
    runtime: Runtime,
    endpoint: quinn::Endpoint,
    connection: quinn::Connection,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
}

pub(crate) type QuicClient = Client<QuicStream>;

impl QuicStream {
    fn open(address: SocketAddr, trusted: &CertificateDer<'static>, alpn: &str) -> Self {
        Self::try_open(address, client_config(trusted, None, alpn)).unwrap()
    }

    /// The error is the broker's, or the client's own of its certificate.
    pub(crate) fn try_open(
        address: SocketAddr,
        config: quinn::ClientConfig,
    ) -> Result<Self, quinn::ConnectionError> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (endpoint, connection, (send, receive)) = runtime.block_on(async {
            let unspecified = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let mut endpoint = quinn::Endpoint::client(unspecified.parse().unwrap()).unwrap();
            endpoint.set_default_client_config(config);
            let connecting = endpoint.connect(address, "localhost").unwrap();
            let connection = timeout(PATIENCE, connecting).await.unwrap()?;
            let stream = connection.open_bi().await?;
            Ok::<_, quinn::ConnectionError>((endpoint, connection, stream))
        })?;
        Ok(Self { runtime, endpoint, connection, send, receive })
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        let chain = self.connection.peer_identity().unwrap();
        chain.downcast::<Vec<CertificateDer<'static>>>().unwrap()[0].clone()
    }

    /// Goes on from another port, as after a change of network.
    pub(crate) fn move_away(&self) {
        let _inside = self.runtime.enter();
        self.endpoint.rebind(UdpSocket::bind(any_port()).unwrap()).unwrap();
    }

    /// Why the broker has closed the connection.
    pub(crate) fn closed(&self) -> quinn::ConnectionError {
        self.runtime.block_on(async { timeout(PATIENCE, self.connection.closed()).await.unwrap() })
    }
}

/// A client that trusts one certificate, and may show another.
pub(crate) fn client_config(
    trusted: &CertificateDer<'static>,
    shown: Option<&Issued>,
    alpn: &str,
) -> quinn::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let tls = tls.with_root_certificates(roots);
    let mut tls = match shown {
        Some(issued) => {
            let key = PrivateKeyDer::try_from(issued.key.clone()).unwrap();
            tls.with_client_auth_cert(vec![issued.certificate.clone()], key).unwrap()
        }
        None => tls.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

impl Read for QuicStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Self { runtime, receive, .. } = self;
        let read = runtime.block_on(async { timeout(PATIENCE, receive.read(into)).await });
        Ok(read?.map_err(io::Error::other)?.unwrap_or(0))
    }
}

impl Write for QuicStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self { runtime, send, .. } = self;
        let written = runtime.block_on(async { timeout(PATIENCE, send.write(bytes)).await });
        written?.map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Served {
    fn quic(&self, alpn: &str) -> QuicStream {
        let trusted = self.broker.certificate().unwrap().leaf().clone().into_owned();
        QuicStream::open(self.broker.addresses(Transport::Quic)[0], &trusted, alpn)
    }

    pub(crate) fn quic_client(&self, name: &str) -> QuicClient {
        Client::introduce(self.quic("mqtt"), Connect::new(Version::V5, name))
    }
}

#[test]
fn quic_and_tcp_clients_hear_one_another() {
    let served = serve();
    for alpn in ["mqtt", "mqttv5"] {
        let mut over_quic = Client::introduce(served.quic(alpn), Connect::new(Version::V5, "over quic"));
        over_quic.subscribe("to/quic", QoS::ExactlyOnce);
        let mut over_tcp = served.client("over tcp");
        over_tcp.subscribe("to/tcp", QoS::ExactlyOnce);
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let (there, back) = (message("to/tcp", b"there", qos), message("to/quic", b"back", qos));
            over_quic.publish(&there);
            assert_eq!(over_tcp.message(), there);
            over_tcp.publish(&back);
            assert_eq!(over_quic.message(), back);
        }
        over_quic.disconnect();
        over_tcp.disconnect();
    }
}

#[test]
fn each_address_answers_for_itself() {
    let served = serve_with(|config| {
        // Two of them share an IP address.
        let addresses = ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.2:0", "[::1]:0"];
        config.quic.listen = addresses.map(|address| address.parse().unwrap()).into();
    });
    let trusted = served.broker.certificate().unwrap().leaf().clone().into_owned();
    let mut watcher = served.client("watcher");
    watcher.subscribe("hello", QoS::AtLeastOnce);
    for address in served.broker.addresses(Transport::Quic) {
        let stream = QuicStream::open(address, &trusted, "mqtt");
        let mut client = Client::introduce(stream, Connect::new(Version::V5, "client"));
        let sent = message("hello", address.to_string().as_bytes(), QoS::AtLeastOnce);
        client.publish(&sent);
        assert_eq!(watcher.message(), sent);
    }
}

#[test]
fn many_connections_spread_over_the_shards_and_stay_with_theirs() {
    let served = serve();
    let mut clients: Vec<_> = (0..16).map(|n| served.quic_client(&format!("client {n}"))).collect();
    clients.iter_mut().for_each(|client| client.subscribe("all", QoS::AtLeastOnce));
    let sent = message("all", b"to everyone", QoS::AtLeastOnce);
    served.quic_client("publisher").publish(&sent);
    clients.iter_mut().for_each(|client| assert_eq!(client.message(), sent));
    for shard in [0, 1] {
        assert!(served.metric("quic_connected_total", shard) > 0, "shard {shard} serves nobody");
        assert_eq!(served.metric("quic_datagrams_foreign_total", shard), 0);
    }
}

#[test]
fn a_client_that_moves_to_another_port_keeps_its_connection() {
    let served = serve();
    let mut client = served.quic_client("mover");
    client.subscribe("echo", QoS::AtMostOnce);
    for round in 0..4_u8 {
        client.stream().move_away();
        let sent = message("echo", &[round], QoS::AtMostOnce);
        client.publish(&sent);
        assert_eq!(client.message(), sent);
    }
    let strays: u64 = [0, 1].map(|shard| served.metric("quic_datagrams_foreign_total", shard)).iter().sum();
    assert_eq!(strays, 0, "the kernel found the shard by the connection ID");
    let connected: u64 = [0, 1].map(|shard| served.metric("quic_connected_total", shard)).iter().sum();
    assert_eq!(connected, 1);
}

#[test]
fn draining_says_disconnect_and_closes_with_code_0() {
    let served = serve();
    let mut client = served.quic_client("client");
    let drained = std::thread::spawn(move || served.broker.drain_and_stop());
    assert_eq!(client.dismissed(), ReasonCode::SERVER_SHUTTING_DOWN);
    match client.stream().closed() {
        quinn::ConnectionError::ApplicationClosed(close) => assert_eq!(close.error_code.into_inner(), 0),
        other => panic!("{other:?}"),
    }
    assert!(drained.join().unwrap());
}

#[test]
fn a_reload_changes_the_certificate_of_new_connections_only() {
    let files = tempfile::tempdir().unwrap();
    let (certificate, key) = (files.path().join("chain.pem"), files.path().join("key.pem"));
    let write = || {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        made.cert.der().clone()
    };
    let first = write();
    let served = serve_with(|config| {
        config.tls.certificate = Some(certificate.clone());
        config.tls.key = Some(key.clone());
    });
    let mut early = served.quic_client("early");
    early.subscribe("news", QoS::AtLeastOnce);
    assert_eq!(early.stream().certificate(), first);

    std::fs::write(&key, "no key").unwrap();
    let refusal = served.broker.reload().refused[0].to_string();
    assert!(refusal.contains("key.pem"), "{refusal}");
    assert_eq!(served.quic("mqtt").certificate(), first, "an invalid one changes nothing");

    let second = write();
    assert!(served.broker.reload().refused.is_empty());
    let mut late = served.quic_client("late");
    assert_eq!(late.stream().certificate(), second);
    let sent = message("news", b"renewed", QoS::AtLeastOnce);
    late.publish(&sent);
    assert_eq!(early.message(), sent, "the connection of before goes on");
}
