//! The core on tokio: an async client over TCP and QUIC.
//!
//! ```text
//!   Client ── publish, subscribe, disconnect ──▶ Driver (one task) ── bytes ──▶ Transport (TCP, QUIC)
//!   Subscription ◀── bounded queue ── Routes ◀──── Core ◀──────────── bytes ────────┘
//! ```
//! [`Client::connect`] opens the connection and leaves a task behind that owns it. A [`Client`] is a handle to that task: clone it
//! freely; when the last one and the last [`Subscription`] are dropped, the task disconnects and ends.
//!
//! ```no_run
//! use quelea_client::{Options, Publish, front::{Backoff, Client, ClientOptions, Trust}};
//! use quelea_mqtt::QoS;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let options = ClientOptions {
//!     trust: Trust::CaFile("/etc/quelea/ca.pem".into()),
//!     reconnect: Some(Backoff::default()),
//!     ..ClientOptions::from(Options::new("kitchen"))
//! };
//! let client = Client::connect("quic://broker.example:14567", options).await?;
//! let mut lamps = client.subscribe("lamp/+/set", QoS::AtLeastOnce).await?;
//! while let Some(message) = lamps.recv().await {
//!     client.publish(Publish::new(format!("{}/done", message.topic), message.payload)).await?;
//! }
//! # Ok(())
//! # }
//! ```

mod backoff;
mod client;
mod driver;
mod error;
mod routes;
mod subscription;
mod transport;
mod url;

pub use self::backoff::Backoff;
pub use self::client::{Client, ClientOptions, State};
pub use self::error::{Error, UrlError};
pub use self::subscription::Subscription;
pub use crate::trust::{Fingerprint, Trust};
