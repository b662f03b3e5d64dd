//! An MQTT client for 3.1, 3.1.1 and 5.0: a core without I/O, and (feature `tokio`, on by default) a front that carries it over TCP and QUIC.
//!
//! [`Core`] is a plain state machine: bytes and the time go in, bytes and events come out. The simulator and the load generator
//! drive it directly, with `default-features = false`; whoever wants a client to call from async code takes the front.
#![forbid(unsafe_code)]

pub mod core;

pub use crate::core::*;
