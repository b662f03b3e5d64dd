//! Certificates: made, kept, renewed, loaded, exchanged and refused.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quelea::certificate::{
    Certificate, CurrentAuthorities, CurrentCertificate, DEVELOPMENT_PUBLIC_FILE, Source,
};
use quelea::state_dir::StateDir;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + 20_800 * DAY
}

fn state() -> (tempfile::TempDir, StateDir) {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path()).unwrap();
    (directory, state)
}

/// Writes a certificate that is valid until `not_after` with its key, and gives both paths.
fn write_pair(directory: &Path, name: &str, not_after: SystemTime) -> (PathBuf, PathBuf) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec!["broker.example".to_owned()]).unwrap();
    parameters.not_after = not_after.into();
    let certificate = parameters.self_signed(&key).unwrap();
    let paths = (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
    std::fs::write(&paths.0, certificate.pem()).unwrap();
    std::fs::write(&paths.1, key.serialize_pem()).unwrap();
    paths
}

fn files(paths: &(PathBuf, PathBuf)) -> Source {
    Source::Files { certificate: paths.0.clone(), key: paths.1.clone() }
}

#[test]
fn a_development_certificate_lasts_a_year_and_is_kept() {
    let (directory, state) = state();
    let made = Certificate::load(&Source::Development, &state, now()).unwrap();
    assert_eq!(made.not_after(), now() + 365 * DAY);
    let kept = Certificate::load(&Source::Development, &state, now() + 334 * DAY).unwrap();
    assert_eq!(kept.fingerprint(), made.fingerprint());
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
    }
}

#[test]
fn a_development_certificate_is_renewed_in_its_last_30_days() {
    let (_directory, state) = state();
    let made = Certificate::load(&Source::Development, &state, now()).unwrap();
    let renewed = Certificate::load(&Source::Development, &state, now() + 336 * DAY).unwrap();
    assert_ne!(renewed.fingerprint(), made.fingerprint());
    assert_eq!(renewed.not_after(), now() + (336 + 365) * DAY);
}

#[test]
fn a_damaged_development_certificate_is_replaced() {
    let (directory, state) = state();
    let made = Certificate::load(&Source::Development, &state, now()).unwrap();
    std::fs::write(directory.path().join("development.pem"), "not PEM").unwrap();
    let replaced = Certificate::load(&Source::Development, &state, now()).unwrap();
    assert_ne!(replaced.fingerprint(), made.fingerprint());
}

#[test]
fn the_public_copy_is_the_certificate_without_its_key() {
    let (directory, state) = state();
    let made = Certificate::load(&Source::Development, &state, now()).unwrap();
    let public = std::fs::read_to_string(directory.path().join(DEVELOPMENT_PUBLIC_FILE)).unwrap();
    assert!(!public.contains("PRIVATE"), "{public}");
    use rustls_pki_types::pem::PemObject;
    let leaf = rustls_pki_types::CertificateDer::from_pem_slice(public.as_bytes()).unwrap();
    assert_eq!(&leaf, made.leaf());
}

#[test]
fn a_fingerprint_is_the_sha_256_of_the_leaf_in_openssl_s_form() {
    let (_directory, state) = state();
    let made = Certificate::load(&Source::Development, &state, now()).unwrap();
    let fingerprint = made.fingerprint();
    let bytes: Vec<u8> = fingerprint.split(':').map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
    let expected = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, made.leaf());
    assert_eq!(bytes, expected.as_ref());
    assert_eq!(fingerprint, fingerprint.to_uppercase());
}

#[test]
fn a_reload_brings_the_new_certificate() {
    let (directory, state) = state();
    let paths = write_pair(directory.path(), "a", now() + 100 * DAY);
    let current = CurrentCertificate::load(files(&paths), &state, now()).unwrap();
    let before = current.get().fingerprint();
    write_pair(directory.path(), "a", now() + 200 * DAY);
    let reloaded = current.reload(&state, now()).unwrap();
    assert_ne!(reloaded.fingerprint(), before);
    assert_eq!(current.get().fingerprint(), reloaded.fingerprint());
    assert_eq!(current.get().not_after(), now() + 200 * DAY);
}

/// It is a mistake to whoever checks the files; a broker that starts serves it, or a restart would take the broker away.
#[test]
fn a_certificate_that_has_expired_is_a_mistake_and_is_served() {
    let (directory, state) = state();
    let paths = write_pair(directory.path(), "a", now() - DAY);
    let found = Certificate::problems_of_files(Some(&paths.0), Some(&paths.1), now());
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, [format!("{}: has expired", paths.0.display())]);
    assert!(Certificate::problems_of_files(Some(&paths.0), Some(&paths.1), now() - 2 * DAY).is_empty());
    assert!(CurrentCertificate::load(files(&paths), &state, now()).is_ok());
}

#[test]
fn an_invalid_certificate_is_refused_on_reload_and_the_old_one_stays() {
    let (directory, state) = state();
    let paths = write_pair(directory.path(), "a", now() + 100 * DAY);
    let other = write_pair(directory.path(), "b", now() + 100 * DAY);
    let current = CurrentCertificate::load(files(&paths), &state, now()).unwrap();
    let before = current.get().fingerprint();
    let (certificate, key) = (std::fs::read(&paths.0).unwrap(), std::fs::read(&paths.1).unwrap());
    let expired = write_pair(directory.path(), "c", now() - DAY);
    let read = |path: &Path| std::fs::read(path).unwrap();
    let cases: [(&str, Vec<u8>, Vec<u8>, &str); 6] = [
        (
            "no certificate",
            b"".to_vec(),
            key.clone(),
            "a.crt: is empty, expected -----BEGIN CERTIFICATE-----",
        ),
        (
            "a key for a certificate",
            key.clone(),
            key.clone(),
            "a.crt: holds a private key but no certificate, expected -----BEGIN CERTIFICATE-----",
        ),
        (
            "no key",
            certificate.clone(),
            b"".to_vec(),
            "a.key: is empty, expected -----BEGIN PRIVATE KEY-----",
        ),
        ("another's key", certificate.clone(), read(&other.1), "a.crt: does not belong to the private key"),
        (
            "cut PEM",
            certificate[..certificate.len() / 2].to_vec(),
            key.clone(),
            "a.crt: is not PEM: it ends before its line -----END CERTIFICATE-----",
        ),
        ("expired", read(&expired.0), read(&expired.1), "a.crt: has expired"),
    ];
    for (case, new_certificate, new_key, expected) in cases {
        std::fs::write(&paths.0, new_certificate).unwrap();
        std::fs::write(&paths.1, new_key).unwrap();
        let refusal = current.reload(&state, now()).expect_err(case).to_string();
        let shown = refusal.replace(&format!("{}/", directory.path().display()), "");
        assert!(shown.starts_with(expected), "{case}: {shown}");
        assert_eq!(current.get().fingerprint(), before, "{case}");
    }
    std::fs::remove_file(&paths.1).unwrap();
    assert!(current.reload(&state, now()).unwrap_err().to_string().contains("a.key: No such file"));
    assert_eq!(current.get().fingerprint(), before);
}

/// Runs a TLS handshake in memory and gives the certificate that the client was shown.
fn handshake(server: &Arc<rustls::ServerConfig>) -> rustls_pki_types::CertificateDer<'static> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider));
    let client = client.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let any = Arc::new(AnyCertificate(provider));
    let mut client = client.dangerous().with_custom_certificate_verifier(any).with_no_client_auth();
    client.alpn_protocols = vec![b"mqtt".to_vec()];
    let name = "localhost".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = rustls::ServerConnection::new(Arc::clone(server)).unwrap();
    while client.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets().unwrap();
    }
    assert_eq!(client.alpn_protocol(), Some(&b"mqtt"[..]));
    client.peer_certificates().unwrap()[0].clone().into_owned()
}

#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls_pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[test]
fn handshakes_after_a_reload_see_the_new_certificate() {
    let (directory, state) = state();
    let paths = write_pair(directory.path(), "a", now() + 100 * DAY);
    let current = Arc::new(CurrentCertificate::load(files(&paths), &state, now()).unwrap());
    let server = Arc::new(quelea::tls::server_config(Arc::clone(&current), None).unwrap());
    let first = handshake(&server);
    assert_eq!(&first, current.get().leaf());
    write_pair(directory.path(), "a", now() + 100 * DAY);
    current.reload(&state, now()).unwrap();
    let second = handshake(&server);
    assert_ne!(second, first);
    assert_eq!(&second, current.get().leaf());
}

fn pem(marker: &str, base64: &str) -> String {
    format!("-----BEGIN {marker}-----\n{base64}\n-----END {marker}-----\n")
}

/// A certificate of version 1: without the field that says which version it is.
fn of_version_1(der: &[u8]) -> Vec<u8> {
    let version: &[u8] = &[0xa0, 0x03, 0x02, 0x01, 0x02];
    assert!(der[..2] == [0x30, 0x82] && der[4..6] == [0x30, 0x82] && der[8..].starts_with(version));
    let shorter = |length: &[u8]| (u16::from_be_bytes([length[0], length[1]]) - 5).to_be_bytes();
    [&[0x30, 0x82][..], &shorter(&der[2..4]), &[0x30, 0x82], &shorter(&der[6..8]), &der[13..]].concat()
}

#[test]
fn what_is_wrong_with_a_file_is_said_in_words_that_can_be_acted_on() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let path = directory.path().join("file");
    let cases: [(Vec<u8>, &str, &str); 14] = [
        (
            b" \n".into(),
            "is empty, expected -----BEGIN CERTIFICATE-----",
            "is empty, expected -----BEGIN PRIVATE KEY-----",
        ),
        (
            b"hello".into(),
            "holds no certificate, expected -----BEGIN CERTIFICATE-----",
            "holds no private key, expected -----BEGIN PRIVATE KEY-----",
        ),
        (
            made.cert.der().to_vec(),
            "is in DER, expected PEM, -----BEGIN CERTIFICATE----- (openssl x509 -inform der -in FILE -out NEW)",
            "is in DER, expected PEM, -----BEGIN PRIVATE KEY----- (openssl pkey -inform der -in FILE -out NEW)",
        ),
        (
            key.clone().into(),
            "holds a private key but no certificate, expected -----BEGIN CERTIFICATE-----",
            "",
        ),
        (
            chain.clone().into(),
            "",
            "holds a certificate but no private key, expected -----BEGIN PRIVATE KEY-----",
        ),
        (
            pem("ENCRYPTED PRIVATE KEY", "AAAA").into(),
            "holds an encrypted private key but no certificate, expected -----BEGIN CERTIFICATE-----",
            "its private key is encrypted, expected one without a passphrase (openssl pkey -in FILE -out NEW)",
        ),
        (
            pem("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA").into(),
            "holds an encrypted private key but no certificate, expected -----BEGIN CERTIFICATE-----",
            "its private key is encrypted, expected one without a passphrase (openssl pkey -in FILE -out NEW)",
        ),
        (
            pem("CERTIFICATE REQUEST", "AAAA").into(),
            "holds a request for a certificate but no certificate, expected -----BEGIN CERTIFICATE-----",
            "holds a request for a certificate but no private key, expected -----BEGIN PRIVATE KEY-----",
        ),
        (
            pem("CERTIFICATE", "AA=AA*").into(),
            "is not PEM: between its BEGIN and END is something that is not base64; expected the whole certificate as it was issued",
            "",
        ),
        (
            pem("PRIVATE KEY", "AA=AA*").into(),
            "",
            "is not PEM: between its BEGIN and END is something that is not base64; expected the whole private key as it was issued",
        ),
        (
            b"-----BEGIN CERTIFICATE---\nAAAA\n".into(),
            "is not PEM: its line `-----BEGIN CERTIFICATE---` is not whole, expected -----BEGIN CERTIFICATE-----",
            "is not PEM: its line `-----BEGIN CERTIFICATE---` is not whole, expected -----BEGIN PRIVATE KEY-----",
        ),
        (pem("CERTIFICATE", "AAAA").into(), "its certificate is damaged, expected X.509", ""),
        (
            (pem("CERTIFICATE", "AAAA") + &chain).into(),
            "certificate 1 of 2 in it is damaged, expected X.509",
            "",
        ),
        (
            pem("PRIVATE KEY", "AAAA").into(),
            "",
            "its private key cannot be used: expected RSA of at least 2048 bits, ECDSA (P-256, P-384, P-521) or Ed25519",
        ),
    ];
    let said = |problems: Vec<quelea::certificate::CertificateError>| -> Vec<String> {
        assert!(problems.iter().all(|problem| problem.path == path));
        problems.into_iter().map(|problem| problem.what).collect()
    };
    let one = |what: &str| if what.is_empty() { vec![] } else { vec![what.to_owned()] };
    for (contents, of_chain, of_key) in cases {
        std::fs::write(&path, &contents).unwrap();
        let shown = String::from_utf8_lossy(&contents);
        // What a case does not speak of is the other half of the pair.
        if !of_chain.is_empty() || shown == chain {
            let problems = Certificate::problems_of_files(Some(&path), None, SystemTime::now());
            assert_eq!(said(problems), one(of_chain), "chain: {shown}");
        }
        if !of_key.is_empty() || shown == key {
            let problems = Certificate::problems_of_files(None, Some(&path), SystemTime::now());
            assert_eq!(said(problems), one(of_key), "key: {shown}");
        }
    }
}

#[test]
fn a_certificate_that_tls_does_not_take_is_counted_in_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let authorities = directory.path().join("authorities.pem");
    std::fs::write(&authorities, made.cert.pem() + &pem("CERTIFICATE", "AAAA")).unwrap();
    let refusal = CurrentAuthorities::load(&authorities).unwrap_err();
    assert_eq!(refusal.what, "certificate 2 of 2 in it is damaged, expected X.509");
    let absent = CurrentAuthorities::load(&directory.path().join("absent")).unwrap_err();
    assert_eq!(absent.what, "No such file or directory (os error 2)");

    let (chain, key) = (directory.path().join("v1.crt"), directory.path().join("v1.key"));
    // Long enough that its lengths keep their form when five bytes are taken away.
    let made = rcgen::generate_simple_self_signed([format!("{}.example", "a".repeat(60))]).unwrap();
    let old = pem_of(&of_version_1(made.cert.der()));
    std::fs::write(&chain, &old).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let problems = Certificate::problems_of_files(Some(&chain), Some(&key), SystemTime::now());
    let said: Vec<_> = problems.iter().map(|problem| problem.what.as_str()).collect();
    assert_eq!(said, ["its certificate is X.509 of version 1 or 2, expected version 3"]);
}

fn pem_of(der: &[u8]) -> String {
    use base64::Engine;
    pem("CERTIFICATE", &base64::engine::general_purpose::STANDARD.encode(der))
}
