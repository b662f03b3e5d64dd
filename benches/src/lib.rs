//! Benchmarks beside other people's stacks.
