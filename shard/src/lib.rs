//! The broker's core: one core's sessions and connections, without I/O.
//!
//! Each core of the machine owns one [`Shard`]: a plain state machine into which bytes, datagrams and time go, and out of
//! which writes, datagrams and requests come. It opens no socket, reads no clock and starts no thread, so the simulator
//! runs it as it is. Shards talk only by the immutable messages of [`envelope`], in four lanes per pair.
//!
//! ```text
//!   bytes ─► links ─► packets ─► sessions ─► publish ─► accept ─► sessions ─► output ─► bytes
//!                                               │          ▲
//!                                               ▼          │
//!                                         other shards' mailboxes
//! ```
//! [`turn`] is the loop that drives a shard, generic over what does the I/O.
#![forbid(unsafe_code)]

pub mod counters;
pub mod door;
pub mod envelope;
mod hash;
mod kept;
mod link;
#[cfg(feature = "mutants")]
pub mod mutants;
mod prefix;
pub mod publication;
pub mod quic;
mod refusal;
pub mod session;
mod settings;
mod shard;
pub mod steering;
pub mod turn;
pub mod witness;

pub use link::{Carrier, DoorId, WriteBatch};
pub use refusal::{Entrance, Refusal};
pub use settings::{OnFull, OnSlow, Settings};
pub use shard::{
    Action, Completion, DoorAction, DoorEnd, Order, Permissions, Request, RequestId, Shard, ShardMailbox,
    ShardParts, Work,
};
