//! Whatever clients say, nothing breaks and nothing is left: the inputs and what must hold are those of
//! `shard/tests/sessions/script.rs`.
//!
//! `scripts/fuzz.sh session 30` fuzzes it for half an hour of CPU time.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// Shards in one thread, byte streams in memory, a clock that stands still.
#[path = "../../tests/sessions/bed.rs"]
#[allow(dead_code, reason = "the session tests need more of it")]
mod bed;
#[path = "../../tests/sessions/script.rs"]
mod script;

fuzz_target!(|input: &[u8]| script::play(input));
