//! Doors of the tests' own that are encrypted, over TCP and over QUIC: behind them CONNECT is answered, and nothing else.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use quinn::crypto::rustls::QuicServerConfig;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Of MQTT 3.1.1.
const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

/// Serves until the test ends. Returns its port.
pub(crate) fn over_tcp(config: ServerConfig) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let config = Arc::new(config);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(Arc::clone(&config)).expect("a whole configuration");
            thread::spawn(move || serve(StreamOwned::new(connection, stream)));
        }
    });
    port
}

fn serve(mut tls: StreamOwned<ServerConnection, TcpStream>) {
    let mut bytes = [0; 1024];
    match tls.read(&mut bytes) {
        Ok(0) => {}
        Ok(_) => {
            // The client leaves when it likes.
            let _ = tls.write_all(&CONNACK);
            while tls.read(&mut bytes).is_ok_and(|read| read > 0) {}
        }
        Err(_) => {
            // An alert has been sent. To close with bytes unread would be a reset, which overtakes it.
            let _ = tls.sock.shutdown(Shutdown::Write);
            while tls.sock.read(&mut bytes).is_ok_and(|read| read > 0) {}
        }
    }
}

/// The same over QUIC, one stream.
pub(crate) fn over_quic(mut config: ServerConfig) -> u16 {
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    let crypto = QuicServerConfig::try_from(config).expect("TLS 1.3");
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let (tell, told) = channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let any = "127.0.0.1:0".parse().expect("an address");
            let endpoint = quinn::Endpoint::server(config, any).expect("a free port");
            tell.send(endpoint.local_addr().expect("bound").port()).expect("somebody waits for it");
            while let Some(incoming) = endpoint.accept().await {
                tokio::spawn(answer(incoming));
            }
        });
    });
    told.recv().expect("a port")
}

async fn answer(incoming: quinn::Incoming) {
    let Ok(connection) = incoming.await else { return };
    let Ok((mut send, mut recv)) = connection.accept_bi().await else { return };
    let mut bytes = [0; 1024];
    if let Ok(Some(_)) = recv.read(&mut bytes).await {
        // The client leaves when it likes.
        let _ = send.write_all(&CONNACK).await;
        while let Ok(Some(_)) = recv.read(&mut bytes).await {}
        let _ = send.finish();
    }
    connection.closed().await;
}
