//! Quelea: an MQTT broker whose first transport is QUIC.
//!
//! This crate is the outermost room of the house: configuration, files, certificates, signals, threads and the operator's
//! HTTP door. The broker's work happens in `quelea-shard`; the kernel is met in `quelea-udp-io`. The same crate is the
//! `quelea` binary and a library that starts a broker inside a program.

#![forbid(unsafe_code)]

pub mod admin;
pub mod banner;
pub mod broker;
pub mod certificate;
pub mod cli;
pub mod config;
mod driver;
mod entrances;
mod figures;
pub mod limits;
pub mod listeners;
pub mod logging;
pub mod memory;
pub mod notify;
pub mod secrets;
mod shard_thread;
mod sizing;
pub mod state_dir;
pub mod tls;
