//! Certificates: made, kept, renewed, loaded, exchanged and refused.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use quelea::certificate::{Certificate, CurrentCertificate, DEVELOPMENT_PUBLIC_FILE, Source};
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
            "a.crt: holds no certificate, expected -----BEGIN CERTIFICATE-----",
        ),
        (
            "a key for a certificate",
            key.clone(),
            key.clone(),
            "a.crt: holds no certificate, expected -----BEGIN CERTIFICATE-----",
        ),
        (
            "no key",
            certificate.clone(),
            b"".to_vec(),
            "a.key: holds no private key, expected -----BEGIN PRIVATE KEY-----",
        ),
        ("another's key", certificate.clone(), read(&other.1), "a.crt: does not belong to the private key"),
        ("cut PEM", certificate[..certificate.len() / 2].to_vec(), key.clone(), "a.crt: is not PEM: "),
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
