//! The development certificate: P-256, self-signed, for this machine, a year long.
//!
//! Key and certificate lie in one file that is replaced as a whole, so they always belong together. Beside it lies a
//! public copy of the certificate, for clients to trust (`--cafile`).

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};

use super::{Certificate, CertificateError, parse_chain, parse_key};
use crate::state_dir::StateDir;

/// Key and certificate, PEM, 0600.
const SECRET_FILE: &str = "development.pem";
/// The certificate alone, PEM.
pub const PUBLIC_FILE: &str = "development.crt.pem";

/// A year from its making.
const LIFE: Duration = Duration::from_secs(365 * DAY);
/// In its last month it is replaced.
const RENEW_WITHIN: Duration = Duration::from_secs(30 * DAY);
/// A client's clock may be behind ours.
const CLOCK_SKEW: Duration = Duration::from_secs(DAY);
const DAY: u64 = 24 * 60 * 60;

/// The certificate in the data directory, or a new one where there is none that lasts another 30 days.
pub(super) fn load_or_make(state: &StateDir, now: SystemTime) -> Result<Certificate, CertificateError> {
    let path = state.path().join(SECRET_FILE);
    let error = |what: String| CertificateError { path: path.clone(), what };
    match std::fs::read(&path) {
        Ok(pem) => match parse(&pem) {
            Ok(found) if !found.expires_within(RENEW_WITHIN, now) => return Ok(found),
            Ok(_) => tracing::info!(path = %path.display(), "renewing the development certificate"),
            Err(what) => {
                tracing::warn!(path = %path.display(), what, "replacing a damaged development certificate");
            }
        },
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {}
        Err(refused) => return Err(error(refused.to_string())),
    }
    let made = make(now).map_err(|refused| error(refused.to_string()))?;
    let refused = |refused: crate::state_dir::StateError| error(refused.to_string());
    state
        .write_secret(SECRET_FILE, format!("{}{}", made.key_pem, made.certificate_pem).as_bytes())
        .map_err(refused)?;
    state.write_secret(PUBLIC_FILE, made.certificate_pem.as_bytes()).map_err(refused)?;
    parse(format!("{}{}", made.key_pem, made.certificate_pem).as_bytes()).map_err(error)
}

fn parse(pem: &[u8]) -> Result<Certificate, String> {
    Certificate::new(parse_chain(pem)?, parse_key(pem)?)
}

struct Made {
    key_pem: String,
    certificate_pem: String,
}

fn make(now: SystemTime) -> Result<Made, rcgen::Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = parameters(now)?.self_signed(&key)?;
    Ok(Made { key_pem: key.serialize_pem(), certificate_pem: certificate.pem() })
}

fn parameters(now: SystemTime) -> Result<CertificateParams, rcgen::Error> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    let uname = rustix::system::uname();
    names.extend(uname.nodename().to_str().ok().filter(|name| is_dns_name(name)).map(str::to_owned));
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, "quelea development");
    parameters.not_before = (now - CLOCK_SKEW).into();
    parameters.not_after = (now + LIFE).into();
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(parameters)
}

fn is_dns_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    name != "localhost" && !name.is_empty() && name.chars().all(allowed)
}
