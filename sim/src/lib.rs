//! The whole broker on a hostile, seeded network.
#![forbid(unsafe_code)]
