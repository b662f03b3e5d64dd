//! Ways to a broker that a test can break: a TCP door that cuts, a QUIC door, and a door with a script behind it.

use std::net::SocketAddr;
use std::sync::Arc;

use quelea_client::front::Fingerprint;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional, join};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A listener on a free port.
pub(crate) async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("mqtt://{}", listener.local_addr().expect("bound"));
    (listener, url)
}

/// Passes connections on to a broker until it cuts them.
pub(crate) struct TcpDoor {
    pub(crate) url: String,
    cuts: watch::Sender<u32>,
}

impl TcpDoor {
    pub(crate) async fn open(broker_port: u16) -> Self {
        let (listener, url) = listen().await;
        let (cuts, cut) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut cut = cut.clone();
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let mut broker =
                        TcpStream::connect(("127.0.0.1", broker_port)).await.expect("the broker");
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut broker) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { url, cuts }
    }

    /// Ends all connections there are.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

/// MQTT over QUIC, one stream, in front of a broker that speaks TCP.
pub(crate) struct QuicDoor {
    pub(crate) address: SocketAddr,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) certificate_pem: String,
    endpoint: quinn::Endpoint,
}

impl QuicDoor {
    pub(crate) fn open(broker_port: u16, alpn: &[u8]) -> Self {
        let CertifiedKey { cert, signing_key } = generate(&["localhost"]);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key.into())
            .expect("the key of the certificate");
        tls.alpn_protocols = vec![alpn.to_vec()];
        let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).expect("TLS 1.3");
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint =
            quinn::Endpoint::server(config, "127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let door = Self {
            address: endpoint.local_addr().expect("bound"),
            fingerprint: Fingerprint::of(cert.der()),
            certificate_pem: cert.pem(),
            endpoint,
        };
        let endpoint = door.endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                tokio::spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    let Ok((send, recv)) = connection.accept_bi().await else { return };
                    let mut broker =
                        TcpStream::connect(("127.0.0.1", broker_port)).await.expect("the broker");
                    let mut stream = join(recv, send);
                    // Ends when both have ended; the client closes the connection.
                    let _ = copy_bidirectional(&mut stream, &mut broker).await;
                    connection.closed().await;
                });
            }
        });
        door
    }

    pub(crate) fn url(&self) -> String {
        format!("quic://localhost:{}", self.address.port())
    }
}

fn generate(names: &[&str]) -> CertifiedKey<KeyPair> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    generate_simple_self_signed(names).expect("a certificate")
}

/// Accepts a connection, reads its CONNECT and answers.
pub(crate) async fn accept(listener: &TcpListener, connack: &[u8]) -> TcpStream {
    let (mut stream, _) = listener.accept().await.expect("a connection");
    assert_eq!(packet(&mut stream).await[0], 0x10, "CONNECT comes first");
    stream.write_all(connack).await.expect("open");
    stream
}

/// The next packet; its remaining length must fit one byte.
pub(crate) async fn packet(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.expect("a packet");
    assert!(head[1] < 0x80, "a short packet was expected");
    let mut packet = head.to_vec();
    packet.resize(2 + usize::from(head[1]), 0);
    stream.read_exact(&mut packet[2..]).await.expect("a whole packet");
    packet
}
