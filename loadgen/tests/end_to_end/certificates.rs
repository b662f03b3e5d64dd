//! Certificates, those of brokers and those that clients show: believed, refused, and why.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use tempfile::TempDir;

use super::door::{over_quic, over_tcp};
use super::{Run, run};

/// An authority of this name, whose own certificate is for localhost, too.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    own: Issued,
}

/// A certificate and its key.
struct Issued {
    certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut parameters = localhost();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = Issued::new(|key| parameters.self_signed(key));
        let key = KeyPair::from_pem(&own.key.serialize_pem()).expect("our own");
        Self { issuer: Issuer::new(parameters, key), own }
    }

    fn issue(&self, parameters: &CertificateParams) -> Issued {
        Issued::new(|key| parameters.signed_by(key, &self.issuer))
    }
}

impl Issued {
    fn new(make: impl FnOnce(&KeyPair) -> Result<rcgen::Certificate, rcgen::Error>) -> Self {
        let key = KeyPair::generate().expect("a key");
        let made = make(&key).expect("a certificate");
        Self { certificate: made.der().clone(), pem: made.pem(), key }
    }

    /// The words that name its files, which are written.
    fn shown(&self, directory: &Path, name: &str) -> String {
        let [certificate, key] = ["pem", "key"].map(|ending| directory.join(format!("{name}.{ending}")));
        fs::write(&certificate, &self.pem).expect("written");
        fs::write(&key, self.key.serialize_pem()).expect("written");
        format!("--cert {} --key {}", certificate.display(), key.display())
    }
}

fn localhost() -> CertificateParams {
    CertificateParams::new(["localhost".to_owned()]).expect("a name")
}

/// A server that shows `shown`, and demands of its clients a certificate of `clients`, if there are any.
fn server(
    shown: &Issued,
    clients: Option<&Authority>,
    version: &'static SupportedProtocolVersion,
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(shown.key.serialize_der()));
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])
        .expect("a version of the provider's");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.own.certificate.clone()).expect("an authority");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("one root"))
        }
    };
    builder.with_single_cert(vec![shown.certificate.clone()], key).expect("the key of the certificate")
}

/// The one error of a run in which nobody was let in.
#[track_caller]
fn refusal(run: &Run, clients: u64) -> String {
    assert_eq!(run.code, 1, "{:#}", run.without_encodings());
    assert_eq!((run.figure("/connections/failed"), run.figure("/connections/ready")), (clients, 0));
    assert_eq!(run.figure("/connections/lost"), 0, "who was never let in is not lost");
    assert!(run.reasons().contains(&format!("{clients} of {clients} clients could not connect")));
    assert_eq!(run.figure("/connections/errors/0/count"), clients, "{}", run.json["connections"]["errors"]);
    run.json["connections"]["errors"][0]["reason"].as_str().expect("a sentence").to_owned()
}

const CONN: &str = "--bind 127.0.0.1 --mqtt 3.1.1 -n 3 --connect-rate 1k --hold 100ms";

#[test]
fn a_broker_that_demands_a_certificate_is_shown_one() {
    let (brokers, clients, others) =
        (Authority::new("brokers"), Authority::new("clients"), Authority::new("others"));
    let broker = brokers.issue(&localhost());
    let files = tempfile::tempdir().expect("a directory");
    let known = clients.issue(&localhost()).shown(files.path(), "known");
    let stranger = others.issue(&localhost()).shown(files.path(), "stranger");
    let demanding = |version| server(&broker, Some(&clients), version);
    for url in [
        format!("mqtts://localhost:{}", over_tcp(demanding(&version::TLS13))),
        format!("quic://localhost:{}", over_quic(demanding(&version::TLS13))),
    ] {
        let conn = |shown: &str| run(&format!("conn {url} {CONN} --insecure {shown}"));
        let entered = conn(&known);
        entered.assert_good();
        assert_eq!(entered.figure("/connections/ready"), 3);
        assert_eq!(
            refusal(&conn(""), 3),
            "the broker demands a client certificate: give one by --cert and --key"
        );
        let why = refusal(&conn(&stranger), 3);
        assert!(why.starts_with("the broker does not believe the certificate of --cert ("), "{why}");
    }
    // TLS 1.2 has no alert of its own for it.
    let url = format!("mqtts://localhost:{}", over_tcp(demanding(&version::TLS12)));
    run(&format!("conn {url} {CONN} --insecure {known}")).assert_good();
    refusal(&run(&format!("conn {url} {CONN} --insecure")), 3);
}

#[test]
fn a_certificate_that_is_not_believed_is_told_in_a_sentence() {
    let (ours, others) = (Authority::new("ours"), Authority::new("others"));
    // Of the same name, with another key: as a certificate that was made anew.
    let former = Authority::new("ours");
    let (mut expired, mut early) = (localhost(), localhost());
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    early.not_before = rcgen::date_time_ymd(3000, 1, 1);
    let files = tempfile::tempdir().expect("a directory");
    let cafile = files.path().join("ca.pem");
    fs::write(&cafile, &ours.own.pem).expect("written");
    for (host, shown, told) in [
        ("localhost", &ours.own, "the broker's certificate is that of an authority (CA:TRUE)"),
        ("localhost", &others.issue(&localhost()), "the broker's certificate is neither in --cafile nor"),
        (
            "localhost",
            &former.issue(&localhost()),
            "the broker's certificate was issued by an authority of the name",
        ),
        ("localhost", &ours.issue(&expired), "the broker's certificate has expired"),
        ("localhost", &ours.issue(&early), "the broker's certificate is not valid yet"),
        (
            "127.0.0.1",
            &ours.issue(&localhost()),
            "the broker's certificate is not for 127.0.0.1, only for localhost",
        ),
    ] {
        for url in [
            format!("mqtts://{host}:{}", over_tcp(server(shown, None, &version::TLS13))),
            format!("quic://{host}:{}", over_quic(server(shown, None, &version::TLS13))),
        ] {
            let why = refusal(&run(&format!("conn {url} {CONN} --cafile {}", cafile.display())), 3);
            assert!(why.starts_with(told), "{why}");
            assert!(why.ends_with(", or measure with --insecure"), "{why}");
        }
    }
}

#[test]
fn files_that_cannot_be_used_are_wrong_usage() {
    let (files, authority) = (tempfile::tempdir().expect("a directory"), Authority::new("clients"));
    let [one, another] = ["one", "another"].map(|name| {
        let _ = authority.issue(&localhost()).shown(files.path(), name);
        files.path().join(name).display().to_string()
    });
    let missing = path(&files, "missing");
    for (words, told) in [
        (format!("--cert {one}.pem"), "--key"),
        (format!("--key {one}.key"), "--cert"),
        (format!("--cert {missing} --key {one}.key"), "missing: "),
        (format!("--cert {one}.pem --key {missing}"), "missing: "),
        (format!("--cert {one}.key --key {one}.key"), "one.key: no certificate in this file"),
        (format!("--cert {one}.pem --key {one}.pem"), "one.pem: no private key in this file"),
        (format!("--cert {one}.pem --key {another}.key"), "another.key: this is not the key of "),
    ] {
        let (code, stderr) = super::refused(&format!("conn mqtts://127.0.0.1 --insecure {words}"));
        assert_eq!(code, 2, "{words}: {stderr}");
        assert!(stderr.contains(told), "{words}: {stderr}");
    }
}

fn path(files: &TempDir, name: &str) -> String {
    files.path().join(name).display().to_string()
}
