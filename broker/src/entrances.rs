//! From the configuration's listeners to what the shards are told of them: kinds of doors and QUIC listeners, with their
//! certificates and limits.
//!
//! ```text
//!   listeners ─► certificate: their own, or the node's ─┐                      ┌─► DoorKind, one per listener
//!            └─► authorities of their clients ──────────┴─► TLS configuration ─┴─► QuicEntrance, one per listener
//! ```
//! Each is made once and shared by all shards; a reload exchanges what lies inside.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use quelea_shard::door::{DoorKind, DoorTls, Origins, ProxyRules, WebSocketRules};
use quelea_shard::quic::{QuicListenerLimits, QuicTls};
use rustls::server::danger::ClientCertVerifier;

use crate::broker::StartError;
use crate::certificate::{Certificate, CertificateError, CurrentAuthorities, Source};
use crate::config::{ClientCertificates, Config, Listener, Placed, ProxyProtocol};
use crate::secrets::Secrets;
use crate::sizing::{self, Scale};
use crate::state_dir::StateDir;
use crate::tls;

/// What the shards are told, in the order of the configuration.
#[derive(Clone, Default)]
pub(crate) struct Entrances {
    pub(crate) quic: Vec<QuicEntrance>,
    pub(crate) doors: Vec<DoorKind>,
}

/// One QUIC listener, as every shard has it.
#[derive(Clone)]
pub(crate) struct QuicEntrance {
    pub(crate) tls: Arc<QuicTls>,
    pub(crate) limits: QuicListenerLimits,
}

/// The entrances of each shard; loads into `secrets` what they show and whom they believe.
pub(crate) fn entrances(
    config: &Config,
    listeners: &[Placed],
    scale: Scale,
    secrets: &mut Secrets,
    state: &StateDir,
) -> Result<Entrances, StartError> {
    let mut made = Entrances::default();
    // The addresses of one section are one listener to a client that comes back: they share its session.
    let mut sections: BTreeMap<&str, Arc<QuicTls>> = BTreeMap::new();
    for placed in listeners {
        let listener = &placed.listener;
        if !listener.transport.is_quic() {
            made.doors.push(door_kind(config, placed, scale, secrets, state)?);
            continue;
        }
        let tls = match sections.get(placed.name()) {
            Some(known) => Arc::clone(known),
            None => quic_tls(config, placed, secrets, state)?,
        };
        sections.insert(placed.name(), Arc::clone(&tls));
        made.quic.push(QuicEntrance { tls, limits: sizing::listener_limits(config, listener, scale) });
    }
    Ok(made)
}

fn door_kind(
    config: &Config,
    placed: &Placed,
    scale: Scale,
    secrets: &mut Secrets,
    state: &StateDir,
) -> Result<DoorKind, StartError> {
    let listener = &placed.listener;
    let tls = match listener.transport.has_tls() {
        true => Some(door_tls(config, placed, secrets, state)?),
        false => None,
    };
    let limits = sizing::listener_limits(config, listener, scale);
    Ok(DoorKind {
        proxy: (listener.proxy_protocol == ProxyProtocol::Required)
            .then(|| ProxyRules { trusted: listener.proxy_trusted.clone() }),
        tls,
        websocket: listener.transport.has_websocket().then(|| Arc::new(websocket_rules(config, listener))),
        connections_max: limits.connections_max,
        connections_per_prefix_max: limits.connections_per_prefix_max,
        handshakes_per_prefix_max: limits.handshakes_per_prefix_max,
        handshakes_per_site_max: limits.handshakes_per_site_max,
    })
}

fn door_tls(
    config: &Config,
    placed: &Placed,
    secrets: &mut Secrets,
    state: &StateDir,
) -> Result<DoorTls, StartError> {
    let certificate = secrets.certificate(placed.name(), source_of(config, Some(&placed.listener)), state)?;
    let clients = verifier(placed, secrets)?;
    // The name of the protocol that TLS carries: MQTT itself, or HTTP on its way to WebSocket.
    let protocol: &[u8] = if placed.listener.transport.has_websocket() { b"http/1.1" } else { b"mqtt" };
    let made = tls::stream_config(certificate, clients, protocol).and_then(DoorTls::new);
    made.map_err(|error| StartError::Tls(error.to_string()))
}

fn quic_tls(
    config: &Config,
    placed: &Placed,
    secrets: &mut Secrets,
    state: &StateDir,
) -> Result<Arc<QuicTls>, StartError> {
    let certificate = secrets.certificate(placed.name(), source_of(config, Some(&placed.listener)), state)?;
    let clients = verifier(placed, secrets)?;
    let made =
        tls::server_config(certificate, clients).map_err(|error| StartError::Tls(error.to_string()))?;
    QuicTls::new(made).map_err(|error| StartError::Tls(error.to_string()))
}

/// Who vouches for the clients of a listener; `None` if nobody is asked.
fn verifier(
    placed: &Placed,
    secrets: &mut Secrets,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, StartError> {
    match (placed.listener.client_certificates, &placed.listener.client_ca) {
        (ClientCertificates::Off, _) | (_, None) => Ok(None),
        (wanted, Some(path)) => {
            let authorities = secrets.authorities(placed.name(), path)?;
            Ok(Some(authorities.verifier(wanted == ClientCertificates::Required)))
        }
    }
}

/// Every file that the node and its TLS listeners name and that cannot be used, each once.
pub(crate) fn check_files(config: &Config, now: SystemTime) -> Vec<CertificateError> {
    let listeners = config.placed_listeners().into_iter().map(|placed| placed.listener);
    let listeners: Vec<Listener> = listeners.filter(|listener| listener.transport.has_tls()).collect();
    let mut pairs = vec![(&config.tls.certificate, &config.tls.key)];
    pairs.extend(listeners.iter().map(|listener| (&listener.certificate, &listener.key)));
    let mut wrong = Vec::new();
    let mut note = |error: CertificateError| {
        if !wrong.contains(&error) {
            wrong.push(error);
        }
    };
    for (certificate, key) in pairs {
        let problems = Certificate::problems_of_files(certificate.as_deref(), key.as_deref(), now);
        problems.into_iter().for_each(&mut note);
    }
    for path in listeners.iter().filter_map(|listener| listener.client_ca.as_ref()) {
        CurrentAuthorities::load(path).err().into_iter().for_each(&mut note);
    }
    wrong
}

/// Where a listener's certificate comes from; that of the node for one without its own, and for none.
pub(crate) fn source_of(config: &Config, listener: Option<&Listener>) -> Source {
    let own = listener.and_then(|listener| listener.certificate.as_ref().zip(listener.key.as_ref()));
    match own.or_else(|| config.tls.certificate.as_ref().zip(config.tls.key.as_ref())) {
        Some((certificate, key)) => Source::Files { certificate: certificate.clone(), key: key.clone() },
        // One without the other breaks a rule of the configuration.
        None => Source::Development,
    }
}

fn websocket_rules(config: &Config, listener: &Listener) -> WebSocketRules {
    let origins = match &listener.origins {
        Some(listed) if listed.iter().any(|origin| origin == "*") => Origins::Any,
        Some(listed) => Origins::Listed(listed.iter().map(|origin| origin.as_str().into()).collect()),
        None if listener.is_local() => Origins::Loopback,
        None => Origins::Listed(Vec::new()),
    };
    let defaults = WebSocketRules::default();
    WebSocketRules {
        path: listener.path().into(),
        origins,
        // A client may put its largest packet, and others, into one frame.
        frame_bytes_max: defaults.frame_bytes_max.max(2 * config.mqtt.packet_max.0),
    }
}
