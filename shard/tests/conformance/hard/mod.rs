//! Cases that brokers get wrong for years, by name. Those that a chapter's test covers as it stands are listed with
//! them in `docs/conformance/hard-cases.toml`.

mod exchanges;
mod memory;
mod sessions;
mod shared;

use crate::bed::{Bed, Client};

/// A QoS 2 and a QoS 1 publication by turns, each released as soon as it may be.
fn publishes(bed: &mut Bed, publisher: Client, payloads: core::ops::RangeInclusive<u16>) {
    for n in payloads {
        let first = if n % 2 == 0 { "34" } else { "32" };
        bed.says(publisher, &format!("{first} .. 0001't' {n:04X} 00 {n:04X}"));
        bed.says(publisher, &format!("62 .. {n:04X}"));
    }
}
