//! TLS as typed: whom to believe, whom to show oneself as, what to offer; and in words what came of it.

use std::sync::Arc;

use quelea_client::trust::{Identity, Trust, Use, client_config};
use rustls::ClientConfig;
use rustls::client::Resumption;

use crate::cli::Tls;
use crate::refusal::Refusal;
use crate::target::Carrier;

/// Reads the certificates; `None` if the carrier is not encrypted. No session is resumed: every connection pays for a whole handshake.
///
/// # Errors
/// Files that cannot be used, or certificates for a carrier that has none; a machine without roots, where its own are to be believed.
pub(crate) fn configuration(typed: &Tls, carrier: Carrier) -> Result<Option<Arc<ClientConfig>>, Refusal> {
    if !carrier.is_encrypted() {
        return match typed.cafile.is_some() || typed.cert.is_some() {
            // Who names certificates would believe that TLS was measured.
            true => Err(Refusal::Usage(format!(
                "{}:// has no certificates: --cafile, --cert and --key go with mqtts://, wss:// and quic://",
                carrier.scheme()
            ))),
            false => Ok(None),
        };
    }
    let trust = match (&typed.cafile, typed.insecure) {
        (_, true) => Trust::Anyone,
        (Some(path), false) => Trust::CaFile(path.clone()),
        (None, false) => Trust::System,
    };
    let identity = typed.cert.clone().zip(typed.key.clone());
    let identity = identity.map(|(certificate, key)| Identity { certificate, key });
    let used_for = if carrier == Carrier::Quic { Use::Quic } else { Use::Tcp };
    let mut config = client_config(&trust, identity.as_ref(), used_for).map_err(|error| {
        let names_files = identity.is_some() || matches!(trust, Trust::CaFile(_));
        if names_files { Refusal::Usage(error.to_string()) } else { Refusal::Failure(error.to_string()) }
    })?;
    if let Some(alpn) = &typed.alpn {
        config.alpn_protocols.clone_from(&alpn.0);
    }
    config.resumption = Resumption::disabled();
    Ok(Some(Arc::new(config)))
}

/// A sentence that says what is wrong with a certificate and what to do, in place of the library's words, which are for programmers and
/// for some mistakes differ from second to second; `None` for other reasons. `host` is the broker's, as typed.
pub(crate) fn advice(reason: &str, typed: &Tls, host: &str) -> Option<String> {
    if let Some((_, why)) = reason.split_once("invalid peer certificate: ") {
        let what = broker_is_not_believed(why, typed, host)?;
        return Some(format!("the broker's certificate {what}, or measure with --insecure"));
    }
    let (_, alert) = reason.split_once(ALERT)?;
    match (alert, &typed.cert) {
        ("CertificateRequired", None) => {
            Some("the broker demands a client certificate: give one by --cert and --key".to_owned())
        }
        (
            "AccessDenied"
            | "BadCertificate"
            | "CertificateExpired"
            | "CertificateRequired"
            | "CertificateRevoked"
            | "CertificateUnknown"
            | "DecryptError"
            | "UnknownCA"
            | "UnsupportedCertificate",
            Some(_),
        ) => Some(format!("the broker does not believe the certificate of --cert ({alert})")),
        _ => None,
    }
}

fn broker_is_not_believed(why: &str, typed: &Tls, host: &str) -> Option<String> {
    if let Some((_, names)) = why.split_once("is only valid for ") {
        // The library writes DnsName("localhost") or IpAddress(127.0.0.1).
        let names = ["DnsName(", "IpAddress(", "\"", ")"]
            .iter()
            .fold(names.to_owned(), |names, part| names.replace(part, ""));
        return Some(format!("is not for {host}, only for {names}: use that name in the URL"));
    }
    let what = match (why, &typed.cafile) {
        ("UnknownIssuer", None) => {
            "comes from no authority that this machine knows: give the right one by --cafile"
        }
        ("UnknownIssuer", Some(_)) => {
            "is neither in --cafile nor issued by an authority in it: give the file of the one that issued it"
        }
        ("BadSignature", Some(_)) => {
            "was issued by an authority of the name, but not of the key, that --cafile holds: give the file of today"
        }
        (why, _) if why.contains("CaUsedAsEndEntity") => {
            "is that of an authority (CA:TRUE), which is refused as a server's own even where --cafile holds it: make one \
             with basicConstraints=CA:FALSE"
        }
        (why, _) if why.starts_with("certificate expired") => {
            "has expired: renew it, or set this machine's clock"
        }
        (why, _) if why.starts_with("certificate not valid yet") => {
            "is not valid yet: set the clocks of both machines"
        }
        _ => return None,
    };
    Some(what.to_owned())
}

/// Before the name of an alert that the broker has sent.
pub(crate) const ALERT: &str = "received fatal alert: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_done_depends_on_what_was_typed() {
        let (none, file) = (Tls::default(), Some("a.pem".into()));
        let with_cafile = Tls { cafile: file.clone(), ..Tls::default() };
        let with_cert = Tls { cert: file.clone(), key: file, ..Tls::default() };
        let unknown = "TLS: invalid peer certificate: UnknownIssuer";
        let demanded = "QUIC: received fatal alert: CertificateRequired";
        for (reason, typed, part) in [
            (unknown, &none, "comes from no authority that this machine knows"),
            (unknown, &with_cafile, "is neither in --cafile nor issued by"),
            (demanded, &none, "give one by --cert and --key"),
            (demanded, &with_cert, "does not believe the certificate of --cert (CertificateRequired)"),
        ] {
            let sentence = advice(reason, typed, "b").expect(reason);
            assert!(sentence.contains(part), "{reason}: {sentence}");
        }
    }

    #[test]
    fn what_has_nothing_to_do_with_certificates_is_left_as_it_is() {
        for reason in [
            "TLS: received fatal alert: HandshakeFailure",
            "TLS: received fatal alert: UnknownCA",
            "connection reset by peer",
        ] {
            assert_eq!(advice(reason, &Tls::default(), "b"), None);
        }
    }
}
