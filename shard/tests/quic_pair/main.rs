//! The QUIC half of a shard against plain quinn-proto clients, on virtual time.

mod streams;
mod world;
