//! The broker's core: one core's sessions and connections, without I/O.
#![forbid(unsafe_code)]

pub mod quic;
pub mod steering;
