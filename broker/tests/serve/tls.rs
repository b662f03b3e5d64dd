//! TLS on sockets: the certificates that clients see and show. What is spoken inside is tested in `quelea-shard`.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quelea::config::{ClientCertificates, Listener, ProxyProtocol, Transport};
use quelea::secrets::Reloaded;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion,
    version,
};

use crate::{PATIENCE, Served, any_port, serve_with};

/// An authority, and what it has issued.
pub(crate) struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub(crate) certificate: rcgen::Certificate,
}

pub(crate) struct Issued {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: Vec<u8>,
    pem: String,
    key_pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap();
        Self { issuer: rcgen::Issuer::new(parameters, key), certificate }
    }

    pub(crate) fn issue(&self, name: &str) -> Issued {
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let made = made.signed_by(&key, &self.issuer).unwrap();
        let (certificate, pem) = (made.der().clone(), made.pem());
        Issued { certificate, key: key.serialize_der(), pem, key_pem: key.serialize_pem() }
    }
}

impl Issued {
    /// The files that a listener names: chain, key.
    pub(crate) fn write(&self, directory: &Path) -> (PathBuf, PathBuf) {
        let files = (directory.join("chain.pem"), directory.join("key.pem"));
        std::fs::write(&files.0, &self.pem).unwrap();
        std::fs::write(&files.1, &self.key_pem).unwrap();
        files
    }
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Opens a connection and completes its handshake; `first` is sent in front of it.
fn connect(
    address: SocketAddr,
    trusted: &CertificateDer<'_>,
    shown: Option<&Issued>,
    first: &[u8],
) -> std::io::Result<Tls> {
    connect_as(&client(trusted, shown, rustls::ALL_VERSIONS), address, first)
}

/// A client that trusts one certificate, and may show another; it keeps its sessions for resumption.
fn client(
    trusted: &CertificateDer<'_>,
    shown: Option<&Issued>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone().into_owned()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    Arc::new(match shown {
        Some(issued) => {
            let key = PrivateKeyDer::try_from(issued.key.clone()).unwrap();
            builder.with_client_auth_cert(vec![issued.certificate.clone()], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    })
}

fn connect_as(config: &Arc<ClientConfig>, address: SocketAddr, first: &[u8]) -> std::io::Result<Tls> {
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(first)?;
    let mut tls = StreamOwned::new(connection, stream);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    Ok(tls)
}

/// A ping before CONNECT breaks the rules: the broker ends the connection, in order and without a word.
fn is_served(mut tls: Tls) -> bool {
    tls.write_all(&[0xc0, 0]).and_then(|()| tls.read(&mut [0; 1])).is_ok_and(|bytes| bytes == 0)
}

#[test]
fn a_listener_shows_its_own_certificate_and_a_reload_brings_the_next() {
    let (authority, files) = (Authority::new(), tempfile::tempdir().unwrap());
    let root = authority.certificate.der().clone();
    let first = authority.issue("localhost");
    let (certificate, key) = first.write(files.path());
    let served = serve_with(|config| {
        config.tls.listen = vec![any_port()];
        config.listeners = vec![Listener {
            certificate: Some(certificate.clone()),
            key: Some(key.clone()),
            ..Listener::new(Transport::Tls, any_port())
        }];
    });
    let addresses = served.broker.addresses(Transport::Tls);
    let [of_the_node, own] = addresses[..] else { panic!("{addresses:?}") };
    let seen = |tls: &Tls| tls.conn.peer_certificates().unwrap()[0].clone();

    let trusted = served.broker.certificate().unwrap();
    assert_eq!(seen(&connect(of_the_node, trusted.leaf(), None, b"").unwrap()), *trusted.leaf());
    assert_eq!(seen(&connect(own, &root, None, b"").unwrap()), first.certificate);

    std::fs::write(&certificate, "no certificate").unwrap();
    let reloaded = served.broker.reload();
    let Reloaded { exchanged, unchanged, refused } = reloaded;
    assert_eq!((exchanged.len(), unchanged, refused.len()), (0, 1, 1));
    assert_eq!(refused[0].listeners, ["listeners[0]"]);
    assert_eq!(seen(&connect(own, &root, None, b"").unwrap()), first.certificate, "the old one stays");

    let second = authority.issue("localhost");
    second.write(files.path());
    assert!(served.broker.reload().refused.is_empty());
    assert_eq!(seen(&connect(own, &root, None, b"").unwrap()), second.certificate);
}

/// Listeners that ask nobody, behind them one that demands a certificate of this authority, and one that would like to see it.
fn serve_asking(client_ca: &Path, asking_nobody: Vec<SocketAddr>) -> Served {
    let asking = |client_certificates| Listener {
        client_certificates,
        client_ca: Some(client_ca.to_owned()),
        ..Listener::new(Transport::Tls, any_port())
    };
    serve_with(|config| {
        config.tls.listen = asking_nobody;
        config.listeners = vec![asking(ClientCertificates::Required), asking(ClientCertificates::Optional)];
    })
}

#[test]
fn clients_show_a_certificate_of_an_authority_that_can_be_exchanged() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let files = tempfile::tempdir().unwrap();
    let client_ca = files.path().join("clients.pem");
    std::fs::write(&client_ca, ours.certificate.pem()).unwrap();
    let served = serve_asking(&client_ca, vec![]);
    let trusted = served.broker.certificate().unwrap();
    let addresses = served.broker.addresses(Transport::Tls);
    let (known, stranger) = (ours.issue("known"), theirs.issue("stranger"));
    let enters = |address: SocketAddr, shown: Option<&Issued>| {
        connect(address, trusted.leaf(), shown, b"").is_ok_and(is_served)
    };
    let entered = |address| [Some(&known), Some(&stranger), None].map(|shown| enters(address, shown));
    assert_eq!(entered(addresses[0]), [true, false, false], "required");
    assert_eq!(entered(addresses[1]), [true, false, true], "optional");

    std::fs::write(&client_ca, theirs.certificate.pem()).unwrap();
    assert!(served.broker.reload().refused.is_empty());
    assert_eq!(entered(addresses[0]), [false, true, false], "after the authority was exchanged");
}

#[test]
fn a_session_is_resumed_only_where_no_certificate_is_asked_for() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let files = tempfile::tempdir().unwrap();
    let client_ca = files.path().join("clients.pem");
    std::fs::write(&client_ca, ours.certificate.pem()).unwrap();
    let served = serve_asking(&client_ca, vec![any_port()]);
    let trusted = served.broker.certificate().unwrap();
    let addresses = served.broker.addresses(Transport::Tls);
    let known = ours.issue("known");
    // Reading to the end of the connection brings the ticket, where there is one.
    let enters = |client: &Arc<ClientConfig>, address: SocketAddr| {
        let tls = connect_as(client, address, b"").ok()?;
        let kind = tls.conn.handshake_kind().unwrap();
        is_served(tls).then_some(kind)
    };
    let versions: [&'static SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    let clients = versions.map(|version| {
        addresses.iter().map(|_| client(trusted.leaf(), Some(&known), &[version])).collect::<Vec<_>>()
    });
    let (full, resumed) = (Some(HandshakeKind::Full), Some(HandshakeKind::Resumed));
    for of_a_version in &clients {
        let entered = || -> Vec<_> {
            of_a_version.iter().zip(&addresses).map(|(client, address)| enters(client, *address)).collect()
        };
        assert_eq!(entered(), [full, full, full]);
        assert_eq!(entered(), [resumed, full, full], "nobody is asked; required; optional");
    }

    std::fs::write(&client_ca, theirs.certificate.pem()).unwrap();
    assert!(served.broker.reload().refused.is_empty());
    for of_a_version in &clients {
        for (client, address) in of_a_version.iter().zip(&addresses).skip(1) {
            assert_eq!(enters(client, *address), None, "a client of an authority that has gone");
        }
    }
}

#[test]
fn a_listener_has_its_own_maximum_and_asks_for_its_own_header() {
    let served = serve_with(|config| {
        config.listeners = vec![Listener {
            connections_max: Some(2),
            proxy_protocol: ProxyProtocol::Required,
            ..Listener::new(Transport::Tls, any_port())
        }];
    });
    let trusted = served.broker.certificate().unwrap();
    let address = served.broker.addresses(Transport::Tls)[1];
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 8883\r\n";
    let refused = connect(address, trusted.leaf(), None, b"").unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{refused}");
    // One for each shard, wherever the kernel sends them: of many at once, at most two are let in.
    let open: Vec<Tls> =
        (0..12).filter_map(|_| connect(address, trusted.leaf(), None, header).ok()).collect();
    assert!((1..=2).contains(&open.len()), "{} are in", open.len());
    assert!([0, 1].map(|shard| served.metric("doors_refused_total", shard)).iter().sum::<u64>() >= 10);
    assert!(open.into_iter().all(is_served));
}
