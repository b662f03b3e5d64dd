//! TLS over a byte stream, without the stream (feature `tls-core`): the client's half of rustls between two buffers.
//!
//! ```text
//!   handle_bytes ──▶ records ──▶ plain text, appended to the caller's buffer
//!   write ─────────▶ records ──▶ poll_output
//! ```
//! What is written before the handshake is complete waits inside and leaves with it, so a driver need not know that there is
//! one. The driver hands on what it is given and drains [`TlsStream::poll_output`] after each call; it bounds what it writes
//! before that.

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// One TLS connection.
pub struct TlsStream {
    connection: ClientConnection,
    ended: bool,
}

/// The connection cannot go on. An alert that says so may be in the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError(String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS: {}", self.0)
    }
}

impl std::error::Error for TlsError {}

impl TlsStream {
    /// A connection that begins: its first words are in the output. `server_name` is the host's name or address, as its
    /// certificate must say.
    ///
    /// # Errors
    /// The name is none, or the configuration cannot be used.
    pub fn new(config: Arc<ClientConfig>, server_name: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(server_name.to_owned()).map_err(|error| error_of(&error))?;
        let mut connection = ClientConnection::new(config, name).map_err(|error| error_of(&error))?;
        // The driver bounds what it writes; a limit here would cut it off in the middle.
        connection.set_buffer_limit(None);
        Ok(Self { connection, ended: false })
    }

    /// Takes what has arrived, and appends what it says to `plain`.
    ///
    /// # Errors
    /// The server broke the protocol, or its certificate is not believed.
    pub fn handle_bytes(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) -> Result<(), TlsError> {
        while !bytes.is_empty() && !self.ended {
            self.connection.read_tls(&mut bytes).map_err(|error| error_of(&error))?;
            let state = self.connection.process_new_packets().map_err(|error| error_of(&error))?;
            let (length, wanted) = (plain.len(), state.plaintext_bytes_to_read());
            plain.resize(length + wanted, 0);
            if wanted > 0 {
                self.connection
                    .reader()
                    .read_exact(&mut plain[length..])
                    .map_err(|error| error_of(&error))?;
            }
            self.ended = state.peer_has_closed();
        }
        Ok(())
    }

    /// The server has said that nothing more will come (`close_notify`); without it, the end of the stream may be an attack.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Writes all of `plain`; it leaves with the next outputs.
    pub fn write(&mut self, plain: &[u8]) {
        // Without a limit the buffer takes everything.
        let written = self.connection.writer().write_all(plain);
        assert!(written.is_ok(), "a buffer without a limit takes all");
    }

    /// Says that nothing more will come (`close_notify`).
    pub fn finish(&mut self) {
        self.connection.send_close_notify();
    }

    /// Records that wait to be sent, joined.
    pub fn poll_output(&mut self) -> Option<Bytes> {
        if !self.connection.wants_write() {
            return None;
        }
        let mut output = Vec::new();
        while self.connection.wants_write() {
            let written = self.connection.write_tls(&mut output);
            assert!(written.is_ok(), "memory takes all bytes");
        }
        Some(output.into())
    }
}

fn error_of(error: &dyn fmt::Display) -> TlsError {
    TlsError(error.to_string())
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{ServerConfig, ServerConnection};

    use super::*;
    use crate::trust::{Fingerprint, Trust, Use, client_config};

    /// A server for `localhost`, and the fingerprint of its certificate.
    fn server() -> (ServerConnection, Fingerprint) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let fingerprint = Fingerprint::of(made.cert.der());
        let config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .unwrap();
        (ServerConnection::new(Arc::new(config)).unwrap(), fingerprint)
    }

    fn client(trust: &Trust) -> TlsStream {
        TlsStream::new(Arc::new(client_config(trust, None, Use::Tcp).unwrap()), "localhost").unwrap()
    }

    /// Carries bytes both ways, `step` at a time, until both are silent. Returns what each has read.
    fn talk(
        client: &mut TlsStream,
        server: &mut ServerConnection,
        step: usize,
    ) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
        let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
        loop {
            let mut quiet = true;
            while let Some(output) = client.poll_output() {
                quiet = false;
                for mut piece in output.chunks(step) {
                    while !piece.is_empty() {
                        server.read_tls(&mut piece).unwrap();
                    }
                    // A server that was told of an error is content to end.
                    let _ = server.process_new_packets();
                    let _ = server.reader().read_to_end(&mut to_server);
                }
            }
            while server.wants_write() {
                quiet = false;
                let mut output = Vec::new();
                server.write_tls(&mut output).unwrap();
                for piece in output.chunks(step) {
                    client.handle_bytes(piece, &mut to_client)?;
                }
            }
            if quiet {
                return Ok((to_client, to_server));
            }
        }
    }

    #[test]
    fn what_is_written_early_leaves_with_the_handshake() {
        for step in [1, 7, 100_000] {
            let (mut server, fingerprint) = server();
            let mut client = client(&Trust::Fingerprint(fingerprint));
            client.write(b"hello");
            server.writer().write_all(&[7; 50_000]).unwrap();
            let (to_client, to_server) = talk(&mut client, &mut server, step).unwrap();
            assert_eq!((to_client.len(), to_server.as_slice()), (50_000, b"hello".as_slice()));
        }
    }

    #[test]
    fn ends_are_told() {
        let (mut server, _) = server();
        let mut client = client(&Trust::Anyone);
        talk(&mut client, &mut server, 1000).unwrap();
        assert!(!client.is_ended());
        server.send_close_notify();
        talk(&mut client, &mut server, 1000).unwrap();
        assert!(client.is_ended());
        client.write(b"last words");
        client.finish();
        let (_, to_server) = talk(&mut client, &mut server, 1000).unwrap();
        assert_eq!(to_server, b"last words");
    }

    #[test]
    fn a_certificate_that_is_not_believed_is_named() {
        let (mut server, _) = server();
        let mut client = client(&Trust::Fingerprint(Fingerprint::of(b"another")));
        let error = talk(&mut client, &mut server, 1000).unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
        assert!(client.poll_output().is_some(), "the server is told by an alert");
    }

    #[test]
    fn noise_is_an_error() {
        let mut client = client(&Trust::Anyone);
        assert!(client.handle_bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n", &mut Vec::new()).is_err());
    }
}
