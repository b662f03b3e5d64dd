//! Which shard owns what: a keyed hash of the name, modulo the number of shards.
//!
//! All shards compute the same answer from the same seed, so nobody has to be asked. SipHash-2-4, because the
//! names are chosen by peers and the answer shows in latency: whoever could aim at one shard could drown it.

use std::hash::Hasher;

use quelea_mqtt::TopicFilter;
use siphasher::sip::SipHasher24;

use crate::shards::{SHARDS_MAX, ShardId};

/// The shard that keeps the retained message of `topic`.
///
/// `shards` is the number of shards, 1 to [`SHARDS_MAX`]; `seed` must be equal on all of them.
pub fn partition(topic: &str, seed: u64, shards: usize) -> ShardId {
    place(Kind::RetainedTopic, &[topic], seed, shards)
}

/// The shard that owns the group `$share/group/filter`. The same group name over another filter is another
/// group (MQTT 5.0 §4.8.2).
pub fn group_owner(group: &str, filter: TopicFilter<'_>, seed: u64, shards: usize) -> ShardId {
    place(Kind::ShareGroup, &[group, filter.as_str()], seed, shards)
}

/// The home shard of a client id, which puts its CONNECTs in order.
pub fn home(client_id: &str, seed: u64, shards: usize) -> ShardId {
    place(Kind::ClientId, &[client_id], seed, shards)
}

/// Keeps the placements independent: a client named like a topic does not share its shard by design.
#[derive(Clone, Copy)]
enum Kind {
    RetainedTopic = 1,
    ShareGroup = 2,
    ClientId = 3,
}

fn place(kind: Kind, parts: &[&str], seed: u64, shards: usize) -> ShardId {
    assert!((1..=SHARDS_MAX).contains(&shards), "{shards} shards, 1 to {SHARDS_MAX} are possible");
    let mut hasher = SipHasher24::new_with_keys(seed, kind as u64);
    for part in parts {
        hasher.write(part.as_bytes());
        // No part holds U+0000, so that parts cannot run into each other.
        hasher.write(&[0]);
    }
    ShardId::from_index((hasher.finish() % shards as u64) as usize)
}
