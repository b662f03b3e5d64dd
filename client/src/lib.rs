//! An MQTT client for 3.1, 3.1.1 and 5.0: a core without I/O, and (feature `tokio`, on by default) a front that carries it over TCP and QUIC.
//!
//! [`Core`] is a plain state machine: bytes and the time go in, bytes and events come out. The simulator and the load generator
//! drive it directly, with `default-features = false`; whoever wants a client to call from async code takes the front. Very many
//! cores over QUIC share a `quic::Endpoint` (feature `quic-core`), which does no I/O either.
//!
//! ```
//! use std::time::Instant;
//! use quelea_client::{Core, Event, Options, Publish};
//!
//! # fn on_the_wire(now: Instant) -> Result<(), quelea_client::Refusal> {
//! let mut core = Core::new(Options::new("sensor-7"), 42);
//! core.connect(now)?;
//! let connect = core.poll_output().expect("CONNECT, to be written to the transport");
//! assert_eq!(connect[0], 0x10);
//! // What the server sends is handed in; here its CONNACK.
//! assert_eq!(core.handle_bytes(now, &[0x20, 0x03, 0x00, 0x00, 0x00]), 5);
//! assert!(matches!(core.poll_event(), Some(Event::Connected { session_present: false, .. })));
//! let token = core.publish(now, &Publish::new("temperature", "21.5"))?;
//! core.poll_output().expect("PUBLISH");
//! assert!(matches!(core.poll_event(), Some(Event::PublishDone { token: done, .. }) if done == token));
//! # Ok(())
//! # }
//! # on_the_wire(Instant::now()).unwrap();
//! ```
//!
#![cfg_attr(feature = "tokio", doc = "With the front ([`front::Client`]):")]
#![cfg_attr(feature = "tokio", doc = "```no_run")]
#![cfg_attr(feature = "tokio", doc = "use quelea_client::{Options, Publish, front::Client};")]
#![cfg_attr(feature = "tokio", doc = "use quelea_mqtt::QoS;")]
#![cfg_attr(feature = "tokio", doc = "")]
#![cfg_attr(feature = "tokio", doc = "# async fn tour() -> Result<(), quelea_client::front::Error> {")]
#![cfg_attr(
    feature = "tokio",
    doc = "let client = Client::connect(\"mqtt://localhost:1883\", Options::new(\"me\")).await?;"
)]
#![cfg_attr(feature = "tokio", doc = "let mut news = client.subscribe(\"news/#\", QoS::AtLeastOnce).await?;")]
#![cfg_attr(
    feature = "tokio",
    doc = "client.publish(Publish::new(\"news/today\", \"rain\").with_qos(QoS::AtLeastOnce)).await?;"
)]
#![cfg_attr(feature = "tokio", doc = "let message = news.recv().await.expect(\"connected\");")]
#![cfg_attr(feature = "tokio", doc = "assert_eq!(message.topic, \"news/today\");")]
#![cfg_attr(feature = "tokio", doc = "client.disconnect().await?;")]
#![cfg_attr(feature = "tokio", doc = "# Ok(()) }")]
#![cfg_attr(feature = "tokio", doc = "```")]
#![forbid(unsafe_code)]

pub mod core;
#[cfg(feature = "tokio")]
pub mod front;
#[cfg(feature = "quic-core")]
pub mod quic;
#[cfg(feature = "tls-core")]
pub mod tls;
#[cfg(feature = "tls-core")]
pub mod trust;
#[cfg(feature = "websocket-core")]
pub mod websocket;

pub use crate::core::*;
