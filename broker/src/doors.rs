//! From the configuration's listeners to what the shards are told of them: kinds of doors, with their certificates.
//!
//! ```text
//!   listeners ─► certificate: their own, or the node's ─┐
//!            └─► authorities of their clients ──────────┴─► TLS configuration ─► DoorKind, one per listener
//! ```
//! A kind is made once and shared by all shards; a reload exchanges what lies inside.

use std::sync::Arc;
use std::time::SystemTime;

use quelea_shard::door::{DoorKind, DoorTls, Origins, ProxyRules, WebSocketRules};

use crate::broker::StartError;
use crate::certificate::{Certificate, CertificateError, CurrentAuthorities, CurrentCertificate, Source};
use crate::config::{ClientCertificates, Config, Listener, Placed, ProxyProtocol};
use crate::state_dir::StateDir;
use crate::tls;

/// Everything that a reload reads again.
pub(crate) struct Secrets {
    /// The node's own, in front, if anything shows it; then those of single listeners.
    certificates: Vec<Arc<CurrentCertificate>>,
    authorities: Vec<Arc<CurrentAuthorities>>,
    has_own: bool,
}

/// What a reload has brought.
#[derive(Debug, Default)]
pub struct Reloaded {
    /// The certificates in use now that were loaded anew.
    pub certificates: Vec<Arc<Certificate>>,
    /// Files that cannot be used: what was in use before stays.
    pub refused: Vec<CertificateError>,
}

impl Secrets {
    /// Loads the node's certificate, if a listener shows it.
    pub(crate) fn load(config: &Config, streams: &[Placed], state: &StateDir) -> Result<Self, StartError> {
        let shows_it =
            |placed: &Placed| placed.listener.transport.has_tls() && placed.listener.certificate.is_none();
        let has_own = !config.quic.listen.is_empty() || streams.iter().any(shows_it);
        let mut secrets = Self { certificates: Vec::new(), authorities: Vec::new(), has_own };
        if has_own {
            secrets.certificate(source_of(config), state)?;
        }
        Ok(secrets)
    }

    /// The node's certificate.
    pub(crate) fn own(&self) -> Option<&Arc<CurrentCertificate>> {
        self.certificates.first().filter(|_| self.has_own)
    }

    pub(crate) fn certificates(&self) -> &[Arc<CurrentCertificate>] {
        &self.certificates
    }

    pub(crate) fn reload(&self, state: &StateDir) -> Reloaded {
        let mut reloaded = Reloaded::default();
        for current in &self.certificates {
            match current.reload(state, SystemTime::now()) {
                Ok(certificate) => reloaded.certificates.push(certificate),
                Err(error) => reloaded.refused.push(error),
            }
        }
        let authorities = self.authorities.iter().map(|current| current.reload());
        reloaded.refused.extend(authorities.filter_map(Result::err));
        reloaded
    }

    /// The kinds of doors of all listeners, in their order, for each of `shards` shards.
    pub(crate) fn door_kinds(
        &mut self,
        config: &Config,
        streams: &[Placed],
        state: &StateDir,
        shards: usize,
    ) -> Result<Vec<DoorKind>, StartError> {
        let kinds = streams.iter().map(|placed| {
            let listener = &placed.listener;
            let tls = match listener.transport.has_tls() {
                true => Some(self.door_tls(config, listener, state)?),
                false => None,
            };
            let connections_max = listener.connections_max.unwrap_or(config.broker.connections_max);
            Ok(DoorKind {
                proxy: (listener.proxy_protocol == ProxyProtocol::Required)
                    .then(|| ProxyRules { trusted: listener.proxy_trusted.clone() }),
                tls,
                websocket: listener
                    .transport
                    .has_websocket()
                    .then(|| Arc::new(websocket_rules(config, listener))),
                connections_max: (connections_max as usize).div_ceil(shards),
            })
        });
        kinds.collect()
    }

    fn door_tls(
        &mut self,
        config: &Config,
        listener: &Listener,
        state: &StateDir,
    ) -> Result<DoorTls, StartError> {
        let certificate = self.certificate(listener_source(config, listener), state)?;
        let clients = match (listener.client_certificates, &listener.client_ca) {
            (ClientCertificates::Off, _) | (_, None) => None,
            (wanted, Some(path)) => {
                let is_mandatory = wanted == ClientCertificates::Required;
                let current =
                    CurrentAuthorities::load(path, is_mandatory).map_err(StartError::Certificate)?;
                let current = Arc::new(current);
                self.authorities.push(Arc::clone(&current));
                Some(current as _)
            }
        };
        // The name of the protocol that TLS carries: MQTT itself, or HTTP on its way to WebSocket.
        let protocol: &[u8] = if listener.transport.has_websocket() { b"http/1.1" } else { b"mqtt" };
        let made = tls::stream_config(certificate, clients, protocol).and_then(DoorTls::new);
        made.map_err(|error| StartError::Tls(error.to_string()))
    }

    /// One certificate for all listeners that name the same files.
    fn certificate(
        &mut self,
        source: Source,
        state: &StateDir,
    ) -> Result<Arc<CurrentCertificate>, StartError> {
        if let Some(known) = self.certificates.iter().find(|known| *known.source() == source) {
            return Ok(Arc::clone(known));
        }
        let loaded = CurrentCertificate::load(source, state, SystemTime::now());
        let loaded = Arc::new(loaded.map_err(StartError::Certificate)?);
        self.certificates.push(Arc::clone(&loaded));
        Ok(loaded)
    }
}

/// Checks the files that the listeners name.
pub(crate) fn check_files(config: &Config) -> Result<(), CertificateError> {
    let listeners = config.placed_listeners().into_iter().map(|placed| placed.listener);
    let listeners: Vec<Listener> = listeners.filter(|listener| listener.transport.has_tls()).collect();
    let sources = listeners.iter().map(|listener| listener_source(config, listener));
    for source in sources.chain([source_of(config)]) {
        if let Source::Files { certificate, key } = source {
            Certificate::from_files(&certificate, &key)?;
        }
    }
    for path in listeners.iter().filter_map(|listener| listener.client_ca.as_ref()) {
        CurrentAuthorities::load(path, true)?;
    }
    Ok(())
}

/// The node's certificate.
fn source_of(config: &Config) -> Source {
    match (&config.tls.certificate, &config.tls.key) {
        (Some(certificate), Some(key)) => {
            Source::Files { certificate: certificate.clone(), key: key.clone() }
        }
        // One without the other breaks a rule of the configuration.
        _ => Source::Development,
    }
}

fn listener_source(config: &Config, listener: &Listener) -> Source {
    match (&listener.certificate, &listener.key) {
        (Some(certificate), Some(key)) => {
            Source::Files { certificate: certificate.clone(), key: key.clone() }
        }
        _ => source_of(config),
    }
}

fn websocket_rules(config: &Config, listener: &Listener) -> WebSocketRules {
    let origins = match &listener.origins {
        Some(listed) if listed.iter().any(|origin| origin == "*") => Origins::Any,
        Some(listed) => Origins::Listed(listed.iter().map(|origin| origin.as_str().into()).collect()),
        None if listener.is_local() => Origins::Any,
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
