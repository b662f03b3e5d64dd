//! The byte stream below a client: TCP, or one bidirectional stream of a QUIC connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::error::Error;
use super::url::{Carrier, Target};
use crate::trust::{Trust, Use, client_config};

/// An open byte stream in two halves.
pub(super) struct Transport {
    pub(super) reader: Box<dyn AsyncRead + Send + Unpin>,
    pub(super) writer: Box<dyn AsyncWrite + Send + Unpin>,
    quic: Option<Quic>,
}

struct Quic {
    endpoint: quinn::Endpoint,
    connection: quinn::Connection,
}

/// How to get there.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) target: Target,
    pub(super) trust: Trust,
    /// The name that the server's certificate must have, if it is not the host.
    pub(super) server_name: Option<String>,
}

impl Transport {
    pub(super) async fn open(route: &Route) -> Result<Self, Error> {
        match route.target.carrier {
            Carrier::Tcp => Self::open_tcp(&route.target).await,
            Carrier::Quic => Self::open_quic(route).await,
        }
    }

    async fn open_tcp(target: &Target) -> Result<Self, Error> {
        let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
        // The core joins what belongs together: waiting for more would only delay.
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(Self { reader: Box::new(reader), writer: Box::new(writer), quic: None })
    }

    async fn open_quic(route: &Route) -> Result<Self, Error> {
        let trust = route.trust.clone();
        let tls = tokio::task::spawn_blocking(move || client_config(&trust, None, Use::Quic))
            .await
            .map_err(|error| Error::Tls(error.to_string().into()))?
            .map_err(|error| Error::Tls(error.to_string().into()))?;
        let config = quic_config(tls)?;
        let target = &route.target;
        let server_name = route.server_name.as_deref().unwrap_or(&target.host);
        let mut last = Error::Quic(format!("{}: the name has no address", target.host).into());
        for address in addresses(target).await? {
            match connect_quic(address, server_name, config.clone()).await {
                Ok(transport) => return Ok(transport),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Ends our half, waits until the server has ended its own, and closes: what was written before is delivered.
    pub(super) async fn finish(mut self) {
        let farewell = async {
            self.writer.shutdown().await?;
            let mut ignored = [0; 4096];
            while self.reader.read(&mut ignored).await? > 0 {}
            Ok::<(), std::io::Error>(())
        };
        // The end of the stream, the end of the connection and silence are all the same to who leaves.
        match timeout(FAREWELL_MAX, farewell).await {
            Ok(Ok(()) | Err(_)) | Err(_) => {}
        }
        self.close().await;
    }

    /// Closes at once; what was not yet delivered is lost.
    pub(super) async fn close(self) {
        let Some(quic) = self.quic else { return };
        quic.connection.close(0_u32.into(), b"");
        // The last packet must leave before its socket does.
        match timeout(CLOSE_MAX, quic.endpoint.wait_idle()).await {
            Ok(()) | Err(_) => {}
        }
    }
}

async fn addresses(target: &Target) -> Result<Vec<SocketAddr>, Error> {
    if let Some(ip) = target.ip() {
        return Ok(vec![SocketAddr::new(ip, target.port)]);
    }
    Ok(lookup_host((target.host.as_str(), target.port)).await?.take(ADDRESSES_MAX).collect())
}

async fn connect_quic(
    address: SocketAddr,
    server_name: &str,
    config: quinn::ClientConfig,
) -> Result<Transport, Error> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let endpoint = quinn::Endpoint::client(SocketAddr::new(any, 0))?;
    let connecting = endpoint
        .connect_with(config, address, server_name)
        .map_err(|error| Error::Quic(error.to_string().into()))?;
    let connection =
        timeout(HANDSHAKE_MAX, connecting).await.map_err(|_| quic_error(&"no answer in time"))?;
    let connection = connection.map_err(|error| quic_error(&error))?;
    let (writer, reader) = connection.open_bi().await.map_err(|error| quic_error(&error))?;
    let quic = Some(Quic { endpoint, connection });
    Ok(Transport { reader: Box::new(reader), writer: Box::new(writer), quic })
}

fn quic_error(error: &dyn std::fmt::Display) -> Error {
    Error::Quic(error.to_string().into())
}

fn quic_config(tls: rustls::ClientConfig) -> Result<quinn::ClientConfig, Error> {
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| Error::Tls(error.to_string().into()))?;
    let mut transport = quinn::TransportConfig::default();
    transport.max_idle_timeout(Some(IDLE_MAX.try_into().expect("a constant within the range of a varint")));
    // Also where MQTT's own keep alive is off: a silent path is closed by the middle boxes on it.
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    // One stream, ours: the server may open none, and send no datagrams.
    transport.max_concurrent_bidi_streams(0_u32.into());
    transport.max_concurrent_uni_streams(0_u32.into());
    transport.datagram_receive_buffer_size(None);
    transport.stream_receive_window(STREAM_WINDOW_BYTES.into());
    transport.receive_window(STREAM_WINDOW_BYTES.into());
    transport.send_window(SEND_WINDOW_BYTES);
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// How long the server may take to end its half of the stream (the Committee Note recommends this).
const FAREWELL_MAX: Duration = Duration::from_secs(10);
/// How long a closing QUIC connection may linger so that its last packet is not lost.
const CLOSE_MAX: Duration = Duration::from_secs(1);
/// How long a QUIC handshake may take (the Committee Note recommends this).
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Silence after which a QUIC connection is given up; above every usual MQTT keep alive.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// Silence that a QUIC PING breaks.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// What the server may send ahead of our reading.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// What we keep until it is acknowledged.
const SEND_WINDOW_BYTES: u64 = 1 << 20;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
