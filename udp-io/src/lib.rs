//! The ring: datagrams, byte streams and the doorbell of one shard.
