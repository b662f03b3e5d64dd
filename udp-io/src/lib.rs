//! The ring: datagrams, byte streams and the doorbell of one shard.
//!
//! ```text
//!            kernel                             this crate                             the turn (shard)
//!   UDP group, steered by CID ──trains, GRO──► Ring::poll ──Sink::datagram──────────► QUIC endpoint
//!                             ◄──trains, GSO── Ring::flush ◄──Ring::send──────────────
//!   TCP connections (doors)   ───────────────► Ring::poll ──Sink::bytes──────────────► byte streams
//!                             ◄─────────────── Ring::flush ◄──Ring::write─────────────
//!   doorbell                  ───────────────► Ring::poll ──Sink::doorbell───────────► mailboxes
//! ```
//!
//! A thread that serves a shard owns one [`Ring`] and nothing else of the operating system. Bytes come up
//! through a [`Sink`]; what the shard wants to say goes down by the ring's methods; nothing calls back in
//! between. The surface speaks of completions; io_uring or epoll stands behind it ([`Backend`], [`Choice`]).
//!
//! [`Steering`] is the rule by which connection IDs choose shards; [`bind_udp_group`] puts it into the
//! kernel.
//!
//! All memory is allocated when the ring is made or a door is opened, within the sizes of [`RingConfig`];
//! what does not fit is held back in the kernel (streams) or dropped and counted in [`Counters`] (datagrams).
//! Linux only; `unsafe` is in `sys.rs` and, for what is lent to io_uring, in three files of `uring/`.

#[cfg(not(target_os = "linux"))]
compile_error!("quelea-udp-io speaks to the Linux kernel only");

mod address;
mod choice;
mod config;
mod control;
mod counters;
mod doorbell;
mod doors;
mod either;
mod filter;
mod group;
mod owner;
mod receive;
mod ring;
mod sink;
mod steer;
mod sys;
mod transmit;
mod uring;

pub use choice::{Backend, Choice};
pub use config::RingConfig;
pub use counters::Counters;
pub use doorbell::Doorbell;
pub use either::Ring;
pub use group::{BindError, SocketBuffers, bind_tcp_group, bind_udp_group};
pub use sink::{Close, Closed, Datagram, DoorId, ListenerId, Outgoing, Sink, UdpId, WriteBatch};
pub use steer::{DATAGRAM_BYTES_MIN, Steering};
