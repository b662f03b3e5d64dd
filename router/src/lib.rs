//! Who gets what: filters, interest of other shards, shared groups, retained messages, mailboxes.
//!
//! Plain structures without protocol, I/O, clock or threads; a shard owns one of each and reaches it by
//! `&mut`. On the road of a PUBLISH they are asked in this order:
//!
//! ```text
//!             publishing shard                              │        interested shard
//!                                                           │
//!  PUBLISH ──► Interest::shards(topic) ─► which shards ──────┼─► Mailbox::recv_forward
//!          └─► FilterTrie::for_each_match ─► local sessions  │     └─► FilterTrie::for_each_match ─► sessions
//!          └─► partition(topic) ─► which shard retains ──────┼─► RetainedStore::set
//!                                                           │   ShareGroup (on group_owner(..)) ─► members
//! ```
//!
//! | module | holds | grows with |
//! |---|---|---|
//! | [`filter`] | filter → local subscribers | subscriptions of this shard |
//! | [`interest`] | filter → shards that have a subscriber | subscriptions of the other shards |
//! | [`retained`] | topic → last retained message | this shard's part of the retained messages, to its limits |
//! | [`share`] | one `$share` group: members and waiting messages | the group, to its limits |
//! | [`mailbox`] | rings between each ordered pair of shards | fixed at start |
//! | [`slots`] | values under keys that are never mistaken: where a shard keeps connections and sessions | their number |
//! | [`placement`] | which shard owns a topic, a group, a client id | nothing |
//!
//! Filters are bounded by the sessions that hold them (a session's subscriptions are limited where sessions
//! are), so [`filter`] and [`interest`] count what they use (`bytes()`) and refuse nothing; the rest carry
//! their limits. Nothing here depends on iteration order of a hash map, so a run repeats from its seed.
#![forbid(unsafe_code)]

mod entries;
mod hash;
mod id_table;
mod paths;
mod slab;
mod trie;

pub mod filter;
pub mod interest;
pub mod mailbox;
pub mod placement;
pub mod retained;
pub mod shards;
pub mod share;
pub mod sleep;
pub mod slots;

pub use filter::{FilterId, FilterTrie, Inserted, Removed};
pub use interest::Interest;
pub use mailbox::{Doorbells, Mailbox, MeshConfig, mesh};
pub use placement::{group_owner, home, partition};
pub use retained::{RetainedFull, RetainedLimits, RetainedStore, WalkBudget};
pub use shards::{SHARDS_MAX, ShardId, ShardSet};
pub use share::{Seq, ShareFull, ShareGroup, ShareLimits};
pub use sleep::{Mail, Sleep, SleepFlags};
pub use slots::{SlotId, SlotKey, Slots};
