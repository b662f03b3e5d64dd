//! The normative statements of MQTT 5.0 and 3.1.1, tested through the shard's surface: bytes in, bytes out, on a clock
//! that the test moves. One file per chapter; packets are written out (see [`wire`]).
//!
//! A test says what it proves in comments above `#[test]`:
//!
//! ```text
//! // Covers 5.0: 3.1.2-4 3.1.2-6
//! // Covers 3.1.1: 3.1.2-6
//! ```
//! [`manifest`] holds these claims against `docs/conformance/`, in both directions.

mod acknowledgements;
mod chapter_1;
mod chapter_2;
mod chapter_4;
mod connack;
mod connect;
mod endings;
mod hard;
mod limits;
mod manifest;
mod publish;
mod sources;
mod subscribe;
mod wills;
mod wire;
