//! The QUIC half of a shard against plain quinn-proto clients, on virtual time.

mod endings;
mod handshakes;
mod listeners;
mod seeded;
mod shards;
mod streams;
mod world;
