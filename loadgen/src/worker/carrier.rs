//! What carries a client's bytes: a door with the layers that lie on it, or a QUIC connection.
//!
//! ```text
//!   Core ─▶ WebSocket ─▶ TLS ─▶ door          Core ─▶ stream of a QUIC connection
//! ```

use bytes::Bytes;
use quelea_client::quic::ConnId;
use quelea_client::tls::TlsStream;
use quelea_client::websocket::WebSocketStream;
use quelea_udp_io::{DoorId, WriteBatch};

use crate::plan::Plan;
use crate::target::Carrier as Scheme;

pub(super) enum Carrier {
    None,
    Stream(Stream),
    Quic(Quic),
}

/// A door and its layers.
pub(super) struct Stream {
    pub(super) door: DoorId,
    pub(super) layers: Layers,
    /// A write is in flight on the door.
    pub(super) writing: bool,
    /// The layers have said goodbye.
    pub(super) finished: bool,
}

/// A QUIC connection and what its stream has not taken yet.
pub(super) struct Quic {
    pub(super) conn: ConnId,
    pub(super) open: bool,
    pub(super) unsent: Bytes,
    /// Our half has been ended.
    pub(super) finished: bool,
}

impl Carrier {
    pub(super) fn is_door(&self, door: DoorId) -> bool {
        matches!(self, Self::Stream(stream) if stream.door == door)
    }

    pub(super) fn is_conn(&self, conn: ConnId) -> bool {
        matches!(self, Self::Quic(quic) if quic.conn == conn)
    }
}

impl Stream {
    pub(super) fn new(door: DoorId, layers: Layers) -> Self {
        Self { door, layers, writing: false, finished: false }
    }
}

impl Quic {
    pub(super) fn new(conn: ConnId) -> Self {
        Self { conn, open: false, unsent: Bytes::new(), finished: false }
    }
}

/// What lies between MQTT and TCP.
#[derive(Default)]
pub(super) struct Layers {
    tls: Option<Box<TlsStream>>,
    web_socket: Option<Box<WebSocketStream>>,
}

impl Layers {
    /// The layers that the URL names, for the client of this number.
    ///
    /// # Errors
    /// The host's name cannot be used for TLS.
    pub(super) fn new(plan: &Plan, client: u32) -> Result<Self, String> {
        let target = plan.target();
        let tls = match (&plan.tls, target.carrier) {
            (Some(config), Scheme::Tls | Scheme::SecureWebSocket) => {
                let stream =
                    TlsStream::new(config.clone(), &target.host).map_err(|error| error.to_string())?;
                Some(Box::new(stream))
            }
            _ => None,
        };
        let web_socket = target.carrier.is_web_socket().then(|| {
            let seed = plan.reach.seed ^ u64::from(client) << 32;
            Box::new(WebSocketStream::new(&target.authority(), &target.path, seed))
        });
        Ok(Self { tls, web_socket })
    }

    /// Bytes go through as they are.
    pub(super) fn is_empty(&self) -> bool {
        self.tls.is_none() && self.web_socket.is_none()
    }

    /// Takes what came from the door and appends the bytes of MQTT in it to `mqtt`. `between` is scratch.
    ///
    /// # Errors
    /// A layer cannot go on, in words for people.
    pub(super) fn take(
        &mut self,
        wire: &[u8],
        between: &mut Vec<u8>,
        mqtt: &mut Vec<u8>,
    ) -> Result<(), String> {
        match (&mut self.tls, &mut self.web_socket) {
            (None, None) => mqtt.extend_from_slice(wire),
            (Some(tls), None) => tls.handle_bytes(wire, mqtt).map_err(|error| error.to_string())?,
            (None, Some(web_socket)) => {
                web_socket.handle_bytes(wire, mqtt).map_err(|error| error.to_string())?;
            }
            (Some(tls), Some(web_socket)) => {
                between.clear();
                tls.handle_bytes(wire, between).map_err(|error| error.to_string())?;
                web_socket.handle_bytes(between, mqtt).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// The broker has ended a layer: nothing more will come.
    pub(super) fn is_ended(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_ended())
            || self.web_socket.as_ref().is_some_and(|web_socket| web_socket.is_ended())
    }

    /// Hands bytes of MQTT down, and puts what is to be written to the door into `batch`.
    pub(super) fn write(&mut self, mqtt: Option<Bytes>, batch: &mut WriteBatch) {
        let mut bytes = mqtt;
        if let Some(web_socket) = &mut self.web_socket {
            bytes.iter().for_each(|bytes| web_socket.write(bytes));
            bytes = web_socket.poll_output();
        }
        if let Some(tls) = &mut self.tls {
            bytes.iter().for_each(|bytes| tls.write(bytes));
            bytes = tls.poll_output();
        }
        batch.extend(bytes);
    }

    /// Says goodbye on every layer.
    pub(super) fn finish(&mut self, batch: &mut WriteBatch) {
        if let Some(web_socket) = &mut self.web_socket {
            web_socket.close(CLOSE_NORMAL);
        }
        self.write(None, batch);
        if let Some(tls) = &mut self.tls {
            tls.finish();
            batch.extend(tls.poll_output());
        }
    }
}

/// RFC 6455 §7.4.1.
const CLOSE_NORMAL: u16 = 1000;
