//! Several listeners of one kind, each with its address, certificate and limits.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use quelea::config::{ClientCertificates, Listener, Shards, Transport};
use quelea::secrets::{Reloaded, Secret};
use quelea_mqtt::{Connect, QoS, Version};
use rustls_pki_types::CertificateDer;

use crate::client::{Client, TcpClient, message};
use crate::quic::{QuicClient, QuicStream, client_config};
use crate::tls::{Authority, Issued};
use crate::{PATIENCE, Served, any_port, serve_with};

/// An authority, a folder for its files, and what it has issued for one listener.
struct Files {
    authority: Authority,
    directory: PathBuf,
    issued: Issued,
}

impl Files {
    fn new(directory: &Path, name: &str) -> Self {
        let directory = directory.join(name);
        std::fs::create_dir(&directory).unwrap();
        let authority = Authority::new();
        let issued = authority.issue("localhost");
        issued.write(&directory);
        Self { authority, directory, issued }
    }

    fn listener(&self, address: &str) -> Listener {
        Listener {
            certificate: Some(self.directory.join("chain.pem")),
            key: Some(self.directory.join("key.pem")),
            ..Listener::new(Transport::Quic, address.parse().unwrap())
        }
    }

    fn renew(&mut self) {
        self.issued = self.authority.issue("localhost");
        self.issued.write(&self.directory);
    }

    fn open(&self, address: SocketAddr) -> Result<QuicStream, quinn::ConnectionError> {
        QuicStream::try_open(address, client_config(self.authority.certificate.der(), None, "mqtt"))
    }

    fn client(&self, address: SocketAddr, name: &str) -> QuicClient {
        Client::introduce(self.open(address).unwrap(), Connect::new(Version::V5, name))
    }

    /// The certificate that a new client is shown.
    fn seen(&self, address: SocketAddr) -> CertificateDer<'static> {
        self.open(address).unwrap().certificate()
    }
}

/// Of MQTT 3.1.1, by a client called `c`.
const CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c";

/// The first byte of the answer.
const CONNACK: u8 = 0x20;

/// One shard, so that what a listener may have is not divided; no section listens over QUIC.
fn serve_quic(listeners: Vec<Listener>) -> Served {
    serve_with(|config| {
        config.broker.shards = Shards::Count(1);
        config.quic.listen.clear();
        config.listeners = listeners;
    })
}

#[test]
fn quic_listeners_of_both_families_have_their_own_certificate_and_maximum() {
    let directory = tempfile::tempdir().unwrap();
    let (six, four) = (Files::new(directory.path(), "six"), Files::new(directory.path(), "four"));
    let few = Listener { connections_max: Some(1), ..six.listener("[::1]:0") };
    let served = serve_quic(vec![few, four.listener("127.0.0.1:0")]);
    let addresses = served.broker.addresses(Transport::Quic);
    let [on_six, on_four] = addresses[..] else { panic!("{addresses:?}") };
    assert!(on_six.is_ipv6() && on_four.is_ipv4());

    let mut only = six.client(on_six, "only");
    only.subscribe("news", QoS::AtLeastOnce);
    assert_eq!(only.stream().certificate(), six.issued.certificate);
    let refused = six.open(on_six).err().expect("the listener has its maximum");
    assert!(matches!(&refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused:?}");
    assert_eq!(served.metric("quic_refused_listener_total", 0), 1);

    let mut others: Vec<_> = (0..3).map(|n| four.client(on_four, &format!("other {n}"))).collect();
    assert_eq!(others[0].stream().certificate(), four.issued.certificate);
    // A client that moves stays with its listener.
    others[0].stream().move_away();
    let sent = message("news", b"from the other listener", QoS::AtLeastOnce);
    others[0].publish(&sent);
    assert_eq!(only.message(), sent);
    assert_eq!(served.metric("quic_connected_total", 0), 4);
}

#[test]
fn a_reload_exchanges_what_has_changed_and_names_its_listeners() {
    let directory = tempfile::tempdir().unwrap();
    let (mut one, two) = (Files::new(directory.path(), "one"), Files::new(directory.path(), "two"));
    let listeners = vec![one.listener("127.0.0.1:0"), two.listener("127.0.0.1:0"), one.listener("[::1]:0")];
    let served = serve_quic(listeners);
    let addresses = served.broker.addresses(Transport::Quic);
    let before = one.issued.certificate.clone();
    let Reloaded { exchanged, unchanged, refused } = served.broker.reload();
    // The node's own, which the sections' listeners show, and two pairs of files.
    assert_eq!((exchanged.len(), unchanged, refused.len()), (0, 3, 0));

    one.renew();
    assert_eq!(one.seen(addresses[0]), before, "not before it is told to");
    let Reloaded { exchanged, unchanged, refused } = served.broker.reload();
    assert_eq!((exchanged.len(), unchanged, refused.len()), (1, 2, 0));
    assert_eq!(exchanged[0].listeners, ["listeners[0]", "listeners[2]"]);
    assert!(
        matches!(&exchanged[0].secret, Secret::Certificate(now) if *now.leaf() == one.issued.certificate)
    );
    for (address, files) in [(addresses[0], &one), (addresses[1], &two), (addresses[2], &one)] {
        assert_eq!(files.seen(address), files.issued.certificate);
    }

    std::fs::remove_file(one.directory.join("key.pem")).unwrap();
    let refused = served.broker.reload().refused;
    assert_eq!(refused.len(), 1, "one file, one sentence: {refused:?}");
    assert_eq!(refused[0].listeners, ["listeners[0]", "listeners[2]"]);
    assert_eq!(one.seen(addresses[2]), one.issued.certificate, "what was in use before stays");
}

#[test]
fn a_quic_listener_may_demand_certificates_of_its_clients() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::new(directory.path(), "files");
    let (ours, theirs) = (Authority::new(), Authority::new());
    let client_ca = directory.path().join("clients.pem");
    std::fs::write(&client_ca, ours.certificate.pem()).unwrap();
    let listener = Listener {
        client_certificates: ClientCertificates::Required,
        client_ca: Some(client_ca.clone()),
        ..files.listener("127.0.0.1:0")
    };
    let served = serve_quic(vec![listener, files.listener("127.0.0.1:0")]);
    let addresses = served.broker.addresses(Transport::Quic);
    let (known, stranger) = (ours.issue("known"), theirs.issue("stranger"));
    // The client's handshake is over before the broker has seen its certificate: the answer to a packet decides.
    let enters = |address, shown: Option<&Issued>| {
        let config = client_config(files.authority.certificate.der(), shown, "mqtt");
        let Ok(mut stream) = QuicStream::try_open(address, config) else { return false };
        let mut answer = [0; 1];
        stream
            .write_all(CONNECT)
            .and_then(|()| stream.read_exact(&mut answer))
            .is_ok_and(|()| answer[0] == CONNACK)
    };
    let entered = |address| [Some(&known), Some(&stranger), None].map(|shown| enters(address, shown));
    assert_eq!(entered(addresses[0]), [true, false, false], "required");
    assert_eq!(entered(addresses[1]), [true, true, true], "nobody is asked");
    assert_eq!(served.metric("quic_handshakes_failed_total", 0), 2);

    std::fs::write(&client_ca, theirs.certificate.pem()).unwrap();
    let exchanged = served.broker.reload().exchanged;
    assert!(matches!(&exchanged[0].secret, Secret::Authorities(path) if *path == client_ca));
    assert_eq!(exchanged[0].listeners, ["listeners[0]"]);
    assert_eq!(entered(addresses[0]), [false, true, false], "after the authority was exchanged");
}

#[test]
fn a_network_has_a_maximum_at_each_listener() {
    let served = serve_with(|config| {
        config.broker.shards = Shards::Count(1);
        config.listeners = vec![Listener {
            connections_per_network_max: Some(2),
            ..Listener::new(Transport::Tcp, any_port())
        }];
    });
    let addresses = served.broker.addresses(Transport::Tcp);
    let open: Vec<_> = (0..2).map(|n| TcpClient::tcp(addresses[1], &format!("client {n}"))).collect();
    let mut third = TcpStream::connect(addresses[1]).unwrap();
    third.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(!matches!(third.read(&mut [0; 1]), Ok(1)), "closed without a word");
    assert_eq!(served.metric("doors_refused_prefix_total", 0), 1);
    served.client("by the other listener").disconnect();
    open.into_iter().for_each(Client::disconnect);
    // The broker hears of the end a little later than the client.
    let deadline = Instant::now() + PATIENCE;
    while served.metric("links", 0) > 0 {
        assert!(Instant::now() < deadline, "the connections do not end");
    }
    TcpClient::tcp(addresses[1], "after them").disconnect();
}

#[test]
fn a_site_has_a_maximum_of_handshakes_at_each_listener() {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::new(directory.path(), "files");
    let listener = Listener {
        transport: Transport::Tls,
        handshakes_per_site_max: Some(1),
        ..files.listener("127.0.0.1:0")
    };
    let served = serve_with(|config| {
        config.broker.shards = Shards::Count(1);
        config.listeners = vec![listener];
    });
    let addresses = served.broker.addresses(Transport::Tls);
    let begin = |address| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The head of a record: a handshake that goes no further.
        stream.write_all(&[22, 3, 1]).unwrap();
        stream
    };
    let in_flight = |wanted| {
        let deadline = Instant::now() + PATIENCE;
        while served.metric("tls_handshakes_in_flight", 0) != wanted {
            assert!(Instant::now() < deadline, "not {wanted} handshakes");
        }
    };
    let _first = begin(addresses[1]);
    in_flight(1);
    let mut second = begin(addresses[1]);
    assert!(!matches!(second.read(&mut [0; 1]), Ok(1)), "closed without a word");
    assert_eq!(served.metric("tls_handshakes_refused_site_total", 0), 1);
    let _by_the_other_listener = begin(addresses[0]);
    in_flight(2);
}
