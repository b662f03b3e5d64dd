//! Any bytes, refused with a reason or a packet that comes back: the inputs and what must hold are those of
//! `mqtt/tests/any_bytes.rs`.
//!
//! `scripts/fuzz.sh decode 30` fuzzes it for half an hour of CPU time.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/any_bytes.rs"]
mod any_bytes;

fuzz_target!(|input: &[u8]| any_bytes::play(input));
