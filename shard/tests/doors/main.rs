//! Byte streams with layers: PROXY headers, TLS and WebSocket, byte by byte, on virtual time.

mod bed;
mod proxy;
mod refusals;
mod tls;
mod websocket;
