//! The core through its public surface: scripted peers, packets written out byte by byte, virtual time.

mod anything;
mod broken;
mod connect;
mod publish;
mod receive;
mod scripted;
mod subscribe;
