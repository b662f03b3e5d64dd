//! Sessions through the shard's surface: bytes in, bytes out, on a clock that the test moves.

mod across;
mod authorize;
mod bed;
mod chains;
#[path = "../conformance/mod.rs"]
mod conformance;
mod connect;
#[path = "../heap/mod.rs"]
mod heap;
mod memory;
mod publish;
mod resume;
mod retained;
mod script;
mod share;
mod slow;
mod subscribe;
mod work;
