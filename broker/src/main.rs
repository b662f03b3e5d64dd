//! The `quelea` binary.

fn main() {}
