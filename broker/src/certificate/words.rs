//! What is wrong with a PEM file, in words that an operator can act on: what is there, and what was expected instead.

use std::io;

use rustls_pki_types::pem;

/// A file that cannot be read.
pub(super) fn of_io(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let user = rustix::process::geteuid().as_raw();
            format!("{error}: expected a file that the broker's user (uid {user}) may read")
        }
        _ => error.to_string(),
    }
}

/// A file without a certificate: `kind` is what was looked for.
pub(super) fn of_missing(kind: Kind, contents: &[u8]) -> String {
    let Kind { name, marker, .. } = kind;
    let found = found_instead(contents);
    match found {
        // To take the passphrase away is the only way: the broker asks nobody.
        Some(Found::Encrypted) if kind == KEY => {
            "its private key is encrypted, expected one without a passphrase \
             (openssl pkey -in FILE -out NEW)"
                .to_owned()
        }
        Some(Found::Der) => format!(
            "is in DER, expected PEM, -----BEGIN {marker}----- (openssl {} -inform der -in FILE -out NEW)",
            kind.openssl
        ),
        Some(Found::Nothing) => format!("is empty, expected -----BEGIN {marker}-----"),
        Some(found) => format!("holds {} but no {name}, expected -----BEGIN {marker}-----", found.name()),
        None => format!("holds no {name}, expected -----BEGIN {marker}-----"),
    }
}

/// PEM that is broken.
pub(super) fn of_pem(error: &pem::Error, kind: Kind, contents: &[u8]) -> String {
    // What a passphrase protects has lines of its own in front of its base64.
    if found_instead(contents) == Some(Found::Encrypted) {
        return of_missing(kind, contents);
    }
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            // The marker is the name alone.
            format!(
                "is not PEM: it ends before its line -----END {}-----",
                String::from_utf8_lossy(end_marker)
            )
        }
        pem::Error::IllegalSectionStart { line } => format!(
            "is not PEM: its line `{}` is not whole, expected -----BEGIN {}-----",
            String::from_utf8_lossy(line).trim(),
            kind.marker
        ),
        pem::Error::Base64Decode(_) => format!(
            "is not PEM: between its BEGIN and END is something that is not base64; expected the whole {} as it was issued",
            kind.name
        ),
        other => format!("is not PEM: {other}"),
    }
}

/// A certificate that TLS does not take; `number` counts those of the file from 1.
pub(super) fn of_certificate(error: &rustls::Error, number: usize, count: usize) -> String {
    let which = match count {
        1 => "its certificate".to_owned(),
        _ => format!("certificate {number} of {count} in it"),
    };
    // Where rustls hands on what its verifier said, the last word is the name of that: `Other(OtherError(BadDer))`.
    let said = error.to_string();
    match said.split(['(', ')', ' ']).rfind(|word| !word.is_empty()).unwrap_or_default() {
        "BadEncoding" => format!("{which} is damaged, expected X.509"),
        "UnsupportedCertVersion" => format!("{which} is X.509 of version 1 or 2, expected version 3"),
        other => format!("{which} cannot be used: {}; expected X.509 of version 3", words(other)),
    }
}

/// A private key that TLS does not take.
pub(super) fn of_key() -> String {
    "its private key cannot be used: expected RSA of at least 2048 bits, ECDSA (P-256, P-384, P-521) or Ed25519".to_owned()
}

/// What is looked for in a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    name: &'static str,
    marker: &'static str,
    openssl: &'static str,
}

/// A chain of certificates.
pub(super) const CERTIFICATE: Kind = Kind { name: "certificate", marker: "CERTIFICATE", openssl: "x509" };
/// A private key.
pub(super) const KEY: Kind = Kind { name: "private key", marker: "PRIVATE KEY", openssl: "pkey" };

/// What stands in a file in place of what was looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Der,
    Encrypted,
    Key,
    Request,
    Trusted,
    Certificate,
}

impl Found {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Der => "DER",
            Self::Encrypted => "an encrypted private key",
            Self::Key => "a private key",
            Self::Request => "a request for a certificate",
            Self::Trusted => "OpenSSL's own form of a certificate",
            Self::Certificate => "a certificate",
        }
    }
}

fn found_instead(contents: &[u8]) -> Option<Found> {
    let text = String::from_utf8_lossy(contents);
    let marks = [
        ("ENCRYPTED", Found::Encrypted),
        ("PRIVATE KEY-----", Found::Key),
        ("-----BEGIN CERTIFICATE REQUEST-----", Found::Request),
        ("-----BEGIN NEW CERTIFICATE REQUEST-----", Found::Request),
        ("-----BEGIN TRUSTED CERTIFICATE-----", Found::Trusted),
        ("-----BEGIN CERTIFICATE-----", Found::Certificate),
    ];
    if text.trim().is_empty() {
        return Some(Found::Nothing);
    }
    // A sequence of more than 127 bytes, as every certificate and key is.
    if contents.starts_with(&[0x30, 0x82]) || contents.starts_with(&[0x30, 0x81]) {
        return Some(Found::Der);
    }
    marks.iter().find(|(mark, _)| text.contains(mark)).map(|(_, found)| *found)
}

/// `UnsupportedCertVersion` as "unsupported cert version".
fn words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_variants_become_words() {
        assert_eq!(words("UnsupportedCriticalExtension"), "unsupported critical extension");
        assert_eq!(words("algorithm"), "algorithm");
    }
}
