//! TLS over a byte stream: rustls' unbuffered connection, with buffers of ours that exist only while they hold something.
//!
//! ```text
//!   first bytes ─► Handshaking ──(waits for its turn, goes one step)──► Open ─► close_notify, each way
//!                      │ wrong                                            │ wrong
//!                      └──────────────► an alert, then the end ◄──────────┘
//! ```
//! * A handshake costs a core as much as thousands of packets, so nothing is computed when its bytes come: they wait here
//!   (`input`), bounded by pausing the stream, until the shard has time for the next step.
//! * Afterwards records are decrypted as they come, out of a buffer that all connections of the shard share; only the
//!   beginning of an incomplete record stays here.
//! * Towards the client, what is written in one turn is sealed together, in records of 16 KiB.
//!
//! An idle connection holds rustls' state (keys, no buffers) and two empty buffers of ours:
//! `cargo run --release --example door_memory` prints the bytes.

use std::sync::Arc;

use bytes::BytesMut;
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};

/// A checked TLS configuration of a listener, shared by all shards.
#[derive(Clone, Debug)]
pub struct DoorTls(Arc<rustls::ServerConfig>);

impl DoorTls {
    /// Takes over a configuration: certificates, client authentication and session store are the caller's. Early data is
    /// turned off: it can be replayed, and MQTT has no packet that may be.
    ///
    /// # Errors
    /// If rustls refuses it; no connection of it fails to be made later.
    pub fn new(mut config: rustls::ServerConfig) -> Result<Self, rustls::Error> {
        config.max_early_data_size = 0;
        let config = Arc::new(config);
        UnbufferedServerConnection::new(Arc::clone(&config))?;
        Ok(Self(config))
    }
}

/// One connection.
pub(super) struct Tls {
    connection: UnbufferedServerConnection,
    /// Received and not yet decrypted: the handshake's next step, later the beginning of a record.
    input: BytesMut,
    /// Some of it came after the last step.
    has_news: bool,
    is_open: bool,
    peer_closed: bool,
    /// Its alert has been said, and nothing may follow.
    has_failed: bool,
}

/// How far the input went.
#[derive(Debug)]
pub(super) struct Pumped {
    used: usize,
    end: Result<(), rustls::Error>,
}

impl Tls {
    pub(super) fn new(config: &DoorTls) -> Self {
        let connection = UnbufferedServerConnection::new(Arc::clone(&config.0)).expect("it was tried before");
        Self {
            connection,
            input: BytesMut::new(),
            has_news: false,
            is_open: false,
            peer_closed: false,
            has_failed: false,
        }
    }

    /// Whether the handshake is over.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether the client has said that nothing more comes from it.
    pub(super) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Bytes that wait here.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.input.len()
    }

    /// The client's certificate and what leads from it to an authority; empty without one.
    pub(super) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.connection.peer_certificates().unwrap_or_default()
    }

    /// Bytes of a handshake: kept until its next step.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        debug_assert!(!self.is_open, "an open connection decrypts at once");
        self.input.extend_from_slice(bytes);
        self.has_news |= !bytes.is_empty();
    }

    /// Whether the handshake may get further than it is.
    pub(super) fn wants_step(&self) -> bool {
        self.has_news
    }

    /// The next step of the handshake, with everything that is here; what follows its end is decrypted too.
    pub(super) fn step(
        &mut self,
        out: &mut BytesMut,
        take: &mut impl FnMut(&[u8]),
    ) -> Result<(), rustls::Error> {
        self.has_news = false;
        let mut input = core::mem::take(&mut self.input);
        let pumped = self.pump(&mut input, out, take);
        self.keep_rest(input, pumped.used);
        self.is_open |= !self.connection.is_handshaking();
        self.check(pumped.end)
    }

    /// Decrypts what has come on an open connection; nothing does behind `close_notify`. `scratch` is left empty.
    pub(super) fn decrypt(
        &mut self,
        bytes: &[u8],
        scratch: &mut Vec<u8>,
        out: &mut BytesMut,
        take: &mut impl FnMut(&[u8]),
    ) -> Result<(), rustls::Error> {
        if self.peer_closed {
            return Ok(());
        }
        if !self.input.is_empty() {
            // A record that comes in many pieces is gathered once, not copied with every piece.
            self.input.extend_from_slice(bytes);
            let mut input = core::mem::take(&mut self.input);
            let pumped = self.pump(&mut input, out, take);
            self.keep_rest(input, pumped.used);
            return self.check(pumped.end);
        }
        scratch.extend_from_slice(bytes);
        let pumped = self.pump(scratch, out, take);
        if !self.peer_closed {
            self.input.extend_from_slice(&scratch[pumped.used..]);
        }
        scratch.clear();
        self.check(pumped.end)
    }

    /// How a call that has taken input ends. rustls keeps the records of a message that comes in pieces until its last one:
    /// a peer that sends a long message of no use a byte at a time would fill memory.
    fn check(&mut self, end: Result<(), rustls::Error>) -> Result<(), rustls::Error> {
        if end.is_err() {
            // Nobody reads on behind an error.
            self.input = BytesMut::new();
        } else if self.input.len() > INPUT_BYTES_MAX {
            return Err(rustls::Error::General("a handshake message of this size is not needed".into()));
        }
        end
    }

    fn keep_rest(&mut self, mut input: BytesMut, used: usize) {
        if used < input.len() && !self.peer_closed {
            bytes::Buf::advance(&mut input, used);
            self.input = input;
        }
    }

    /// Runs rustls over `input` until it wants more. An error leaves its alert in `out`. What is not used must be at the
    /// front of the next input: rustls has decrypted in it, and remembers places in it.
    fn pump(&mut self, input: &mut [u8], out: &mut BytesMut, take: &mut impl FnMut(&[u8])) -> Pumped {
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.connection.process_tls_records(&mut input[used..]);
            let mut wants_more = false;
            let mut end = Ok(());
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        match record {
                            Ok(record) => {
                                discard += record.discard;
                                take(record.payload);
                            }
                            Err(error) => end = Err(error),
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut encoder)) => {
                    append_record(out, &mut encoder);
                }
                Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
                Ok(ConnectionState::PeerClosed) => self.peer_closed = true,
                Ok(ConnectionState::ReadEarlyData(_)) => unreachable!("early data is turned off"),
                Ok(_) => wants_more = true,
                Err(error) => end = Err(error),
            }
            used += discard;
            if end.is_err() {
                self.has_failed = true;
                self.drain_alert(&mut input[used..], out);
            }
            if wants_more || end.is_err() {
                return Pumped { used, end };
            }
        }
    }

    /// After an error rustls hands out what was to be said before it, and the alert that names it. It is not called once
    /// more: it would read on behind the error.
    fn drain_alert(&mut self, input: &mut [u8], out: &mut BytesMut) {
        while let Ok(ConnectionState::EncodeTlsData(mut encoder)) =
            self.connection.process_tls_records(input).state
        {
            let before = out.len();
            append_record(out, &mut encoder);
            if is_alert(&out[before..]) {
                return;
            }
        }
    }

    /// Seals plaintext behind what is in `out`. Fails only when the keys are used up, which takes more records than a
    /// connection lives to send, or when the connection has failed before.
    pub(super) fn encrypt(&mut self, plaintext: &[u8], out: &mut BytesMut) -> Result<(), rustls::Error> {
        self.write(out, sealed_bytes_max(plaintext.len()), |traffic, room| traffic.encrypt(plaintext, room))
    }

    /// Says that nothing more comes from us.
    pub(super) fn close(&mut self, out: &mut BytesMut) -> Result<(), rustls::Error> {
        self.write(out, HANDSHAKE_RECORD_BYTES, |traffic, room| traffic.queue_close_notify(room))
    }

    fn write(
        &mut self,
        out: &mut BytesMut,
        room_bytes: usize,
        mut what: impl FnMut(
            &mut WriteTraffic<'_, ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> Result<(), rustls::Error> {
        if self.has_failed {
            return Err(rustls::Error::EncryptError);
        }
        // What rustls itself has to say (the answer to a key update) goes first. It remembers where in the input the
        // beginning of a message lies, so it is given the same input every time.
        let mut input = core::mem::take(&mut self.input);
        let pumped =
            self.pump(&mut input, out, &mut |_| unreachable!("whole records were read as they came"));
        self.keep_rest(input, pumped.used);
        pumped.end?;
        let mut is_exhausted = false;
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) =
            self.connection.process_tls_records(&mut self.input).state
        {
            append(out, room_bytes, |room| match what(&mut traffic, room) {
                Ok(bytes) => Ok(bytes),
                Err(EncryptError::InsufficientSize(wanted)) => Err(wanted.required_size),
                Err(EncryptError::EncryptExhausted) => {
                    is_exhausted = true;
                    Ok(0)
                }
            });
        }
        if is_exhausted { Err(rustls::Error::EncryptError) } else { Ok(()) }
    }
}

/// Appends a record of rustls' own.
fn append_record(out: &mut BytesMut, encoder: &mut EncodeTlsData<'_, ServerConnectionData>) {
    append(out, HANDSHAKE_RECORD_BYTES, |room| match encoder.encode(room) {
        Ok(bytes) => Ok(bytes),
        Err(EncodeError::InsufficientSize(wanted)) => Err(wanted.required_size),
        Err(EncodeError::AlreadyEncoded) => unreachable!("it is encoded once"),
    });
}

/// Whether a record of ours is an alert. TLS 1.3 hides its kind, not its length: two bytes, their type, the tag.
fn is_alert(record: &[u8]) -> bool {
    matches!(record, [ALERT, ..] | [APPLICATION_DATA, _, _, 0, 19, ..])
}

/// Lets `write` fill room behind what is in `out`; it says how many bytes it used, or how many it needs.
fn append(out: &mut BytesMut, room_bytes: usize, mut write: impl FnMut(&mut [u8]) -> Result<usize, usize>) {
    let before = out.len();
    let mut room_bytes = room_bytes;
    loop {
        out.resize(before + room_bytes, 0);
        match write(&mut out[before..]) {
            Ok(used) => return out.truncate(before + used),
            Err(wanted) if wanted > room_bytes => room_bytes = wanted,
            Err(_) => return out.truncate(before),
        }
    }
}

/// No sealed text is longer.
fn sealed_bytes_max(plain_bytes: usize) -> usize {
    plain_bytes + plain_bytes.div_ceil(RECORD_BYTES) * RECORD_OVERHEAD_BYTES
}

impl core::fmt::Debug for Tls {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Tls").field("is_open", &self.is_open).finish_non_exhaustive()
    }
}

/// Plaintext of one record at most (RFC 8446 §5.1).
const RECORD_BYTES: usize = 1 << 14;

/// Header, explicit nonce, content type, tag: TLS 1.2 with AES-GCM has 29, TLS 1.3 has 22.
const RECORD_OVERHEAD_BYTES: usize = 32;

/// Room that is tried first for a handshake record or an alert.
const HANDSHAKE_RECORD_BYTES: usize = 1_024;

/// Unusable input that a handshake may leave lying: rustls refuses messages above 64 KiB, and a record may begin behind.
const INPUT_BYTES_MAX: usize = (64 << 10) + RECORD_BYTES + 1_024;

/// Content types of records (RFC 8446 §5.1).
const ALERT: u8 = 21;
const APPLICATION_DATA: u8 = 23;
