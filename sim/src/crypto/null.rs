//! QUIC without cryptography: a handshake that carries the transport parameters, and packets with a checksum, so that what
//! the network has changed is not taken for what was sent.
//!
//! ```text
//! client                                   server
//!   HELLO parameters            ────────▶                         Initial
//!                               ◀────────  SHARE                  Initial        both: handshake keys
//!                               ◀────────  FINISHED parameters    Handshake      both: 1-RTT keys
//!   FINISHED                    ────────▶                         Handshake
//! ```
//! The checksum is keyed by what both sides have sent, so packets of one connection or key phase are not good for another.
//! Nothing is secret.

use std::any::Any;
use std::hash::{BuildHasher, Hasher};
use std::io::Cursor;
use std::sync::Arc;

use bytes::BytesMut;
use foldhash::quality::FixedState;
use quelea_shard::quic::{Alpn, Negotiated};
use quinn_proto::crypto::{
    ClientConfig, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig,
    Session, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError, TransportErrorCode};

/// Both configurations.
pub(super) struct Null;

impl ClientConfig for Null {
    fn start_session(
        self: Arc<Self>,
        _version: u32,
        _server_name: &str,
        parameters: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        Ok(Box::new(NullSession::new(Side::Client, parameters)))
    }
}

impl ServerConfig for Null {
    fn initial_keys(&self, _version: u32, cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        Ok(keys(checksum(INITIAL, &[cid]), Side::Server))
    }

    fn retry_tag(&self, _version: u32, cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        retry_tag(cid, &[packet])
    }

    fn start_session(self: Arc<Self>, _version: u32, parameters: &TransportParameters) -> Box<dyn Session> {
        Box::new(NullSession::new(Side::Server, parameters))
    }
}

/// What has yet to be done, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    SendHello,
    AwaitHello,
    SendShare,
    AwaitShare,
    TakeHandshakeKeys,
    SendServerFinished,
    AwaitServerFinished,
    SendClientFinished,
    AwaitClientFinished,
    Done,
}

/// One side of one handshake.
struct NullSession {
    side: Side,
    stage: Stage,
    /// Our parameters, encoded.
    own: Vec<u8>,
    peer: Option<TransportParameters>,
    /// Of a message that is not complete.
    input: Vec<u8>,
    /// Checksum over what both have sent.
    secret: u64,
}

impl NullSession {
    fn new(side: Side, parameters: &TransportParameters) -> Self {
        let mut own = Vec::new();
        parameters.write(&mut own);
        let stage = if side.is_client() { Stage::SendHello } else { Stage::AwaitHello };
        Self { side, stage, own, peer: None, input: Vec::new(), secret: 0 }
    }

    fn on_message(&mut self, kind: u8, body: &[u8]) -> Result<(), TransportError> {
        self.stage = match (self.stage, kind) {
            (Stage::AwaitHello, HELLO) => {
                self.peer = Some(TransportParameters::read(self.side, &mut Cursor::new(body))?);
                self.secret = checksum(self.secret, &[body]);
                Stage::SendShare
            }
            (Stage::AwaitShare, SHARE) => {
                self.secret = checksum(checksum(0, &[&self.own]), &[body]);
                Stage::TakeHandshakeKeys
            }
            (Stage::AwaitServerFinished, FINISHED) => {
                let parameters = &body[..body.len().saturating_sub(CERTIFICATE_BYTES)];
                self.peer = Some(TransportParameters::read(self.side, &mut Cursor::new(parameters))?);
                Stage::SendClientFinished
            }
            (Stage::AwaitClientFinished, FINISHED) => Stage::Done,
            (stage, kind) => {
                let reason = format!("message {kind} at {stage:?}");
                return Err(TransportError {
                    code: TransportErrorCode::PROTOCOL_VIOLATION,
                    frame: None,
                    reason,
                });
            }
        };
        Ok(())
    }

    fn handshake_keys(&self) -> Keys {
        keys(checksum(self.secret, &[b"handshake"]), self.side)
    }

    fn traffic_keys(&self) -> Keys {
        keys(checksum(self.secret, &[b"traffic"]), self.side)
    }
}

impl Session for NullSession {
    fn initial_keys(&self, cid: &ConnectionId, side: Side) -> Keys {
        keys(checksum(INITIAL, &[cid]), side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.peer.map(|_| -> Box<dyn Any> { Box::new(Negotiated { alpn: Alpn::Mqtt }) })
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        match self.side {
            Side::Client => self.stage < Stage::SendClientFinished,
            Side::Server => self.stage < Stage::Done,
        }
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        self.input.extend_from_slice(bytes);
        while let Some((head, rest)) = self.input.split_first_chunk::<3>() {
            let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
            let Some(body) = rest.get(..length) else { break };
            let (kind, body) = (head[0], body.to_vec());
            self.input.drain(..3 + length);
            self.on_message(kind, &body)?;
        }
        Ok(false)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        Ok(self.peer)
    }

    fn write_handshake(&mut self, out: &mut Vec<u8>) -> Option<Keys> {
        match self.stage {
            Stage::SendHello => {
                message(out, HELLO, &[&self.own]);
                self.stage = Stage::AwaitShare;
                None
            }
            Stage::SendShare => {
                let share = checksum(self.secret, &[&self.own]).to_be_bytes();
                self.secret = checksum(self.secret, &[&share]);
                message(out, SHARE, &[&share]);
                self.stage = Stage::SendServerFinished;
                Some(self.handshake_keys())
            }
            Stage::TakeHandshakeKeys => {
                self.stage = Stage::AwaitServerFinished;
                Some(self.handshake_keys())
            }
            Stage::SendServerFinished => {
                message(out, FINISHED, &[&self.own, &[0; CERTIFICATE_BYTES]]);
                self.stage = Stage::AwaitClientFinished;
                Some(self.traffic_keys())
            }
            Stage::SendClientFinished => {
                message(out, FINISHED, &[]);
                self.stage = Stage::Done;
                Some(self.traffic_keys())
            }
            Stage::AwaitHello
            | Stage::AwaitShare
            | Stage::AwaitServerFinished
            | Stage::AwaitClientFinished
            | Stage::Done => None,
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.secret = checksum(self.secret, &[b"update"]);
        Some(self.traffic_keys().packet)
    }

    fn is_valid_retry(&self, cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let Some(end) = payload.len().checked_sub(16) else { return false };
        retry_tag(cid, &[header, &payload[..end]]) == payload[end..]
    }

    fn export_keying_material(
        &self,
        _output: &mut [u8],
        _label: &[u8],
        _context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError)
    }
}

fn message(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind);
    out.extend_from_slice(&u16::try_from(length).expect("our messages are short").to_be_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn checksum(seed: u64, parts: &[&[u8]]) -> u64 {
    let mut hasher = FixedState::with_seed(seed).build_hasher();
    parts.iter().for_each(|part| hasher.write(part));
    hasher.finish()
}

fn retry_tag(cid: &ConnectionId, parts: &[&[u8]]) -> [u8; 16] {
    let mut bytes = cid.to_vec();
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    let half = checksum(0, &[&bytes]).to_be_bytes();
    let mut tag = [0; 16];
    tag[..8].copy_from_slice(&half);
    tag[8..].copy_from_slice(&half);
    tag
}

fn keys(secret: u64, side: Side) -> Keys {
    let (local, remote) = match side {
        Side::Client => (secret, !secret),
        Side::Server => (!secret, secret),
    };
    Keys {
        header: KeyPair { local: Box::new(NullHeader), remote: Box::new(NullHeader) },
        packet: KeyPair { local: Box::new(Checksum(local)), remote: Box::new(Checksum(remote)) },
    }
}

/// Leaves headers as they are.
struct NullHeader;

impl HeaderKey for NullHeader {
    fn decrypt(&self, _: usize, _: &mut [u8]) {}

    fn encrypt(&self, _: usize, _: &mut [u8]) {}

    fn sample_size(&self) -> usize {
        0
    }
}

/// Leaves payloads as they are and puts a checksum behind them.
struct Checksum(u64);

impl Checksum {
    fn tag(&self, packet: u64, header: &[u8], payload: &[u8]) -> [u8; TAG_BYTES] {
        checksum(self.0, &[&packet.to_be_bytes(), header, payload]).to_be_bytes()
    }
}

impl PacketKey for Checksum {
    fn encrypt(&self, packet: u64, buffer: &mut [u8], header_bytes: usize) {
        let (header, rest) = buffer.split_at_mut(header_bytes);
        let (payload, tag) = rest.split_at_mut(rest.len() - TAG_BYTES);
        tag.copy_from_slice(&self.tag(packet, header, payload));
    }

    fn decrypt(&self, packet: u64, header: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        let end = payload.len().checked_sub(TAG_BYTES).ok_or(CryptoError)?;
        if payload[end..] != self.tag(packet, header, &payload[..end]) {
            return Err(CryptoError);
        }
        payload.truncate(end);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        TAG_BYTES
    }

    fn confidentiality_limit(&self) -> u64 {
        u64::MAX
    }

    fn integrity_limit(&self) -> u64 {
        u64::MAX
    }
}

const HELLO: u8 = 1;
const SHARE: u8 = 2;
const FINISHED: u8 = 3;

/// Stands for a certificate and its signature, so that the server's first flight is about as long as a real one.
const CERTIFICATE_BYTES: usize = 600;

const TAG_BYTES: usize = 8;

/// Where the checksums of a connection's first packets begin.
const INITIAL: u64 = 0x5155_4943;
