//! The whole broker on a hostile, seeded network: shards, clients, clock and wires in one thread.
//!
//! ```text
//!   actors (client core + behaviour) ──bytes──► pipes ──► nodes (shard + the real turn) ──► mailboxes ─► nodes
//!        │      ▲                                 ▲ delays, chunks, stalls, resets            │ sleep, wake
//!        ▼      └───────────────bytes─────────────┴────────────────────────────────────────────┘
//!      oracle: what was promised to whom, and whether it was kept
//! ```
//! Everything that happens is an event in one queue, ordered by virtual time; everything random is drawn from the seed. A
//! run is a value: the same seed and profile give the same bytes at the same times, and the same hash over all of them.
//!
//! A run has four acts. *Set-up*: a watcher subscribes to all Wills. *Storm*: clients do what their profile says, and the
//! network is hostile. *Calm*: faults end, clients come back and the broker has a bounded time to settle everything that
//! it owes. *Curtain*: a probe reads what is retained, every session ends, and the books are checked.
#![forbid(unsafe_code)]

mod actor;
mod behaviour;
mod callers;
mod cast;
mod clock;
mod crypto;
mod cuts;
mod doors;
mod event;
mod filters;
mod layers;
mod limits;
mod line;
mod lines;
mod network;
mod node;
mod oracle;
mod pipe;
mod profile;
mod run;
mod shrink;
mod strangers;
mod told;
mod trace;
mod weather;
mod wires;
mod world;

pub use crypto::Crypto;
pub use cuts::{Amount, Cuts, Part};
pub use profile::Profile;
#[cfg(feature = "mutants")]
pub use run::run_mutant;
pub use run::{Failure, Play, Report, Story, run};
pub use shrink::{Shrunk, shrink};
