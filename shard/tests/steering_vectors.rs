//! The steering rule against the vectors that the kernel's program is tested with.
//!
//! `udp-io` has its own copy of the rule, as neither crate may know the other; the vectors keep them equal.

use quelea_shard::steering::Steering;

const VECTORS: &str = include_str!("steering_vectors.txt");

fn bytes_of<const N: usize>(hex: &str) -> [u8; N] {
    assert_eq!(hex.len(), 2 * N, "{hex}");
    std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex digits"))
}

#[test]
fn the_rule_gives_the_published_shards() {
    let lines = VECTORS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut count = 0;
    for line in lines {
        let mut fields = line.split(' ');
        let mut field = || fields.next().expect("key, shards, cid, shard");
        let (key, shards, cid, shard) = (field(), field(), field(), field());
        let steering = Steering::new(bytes_of(key), shards.parse().expect("a number"));
        assert_eq!(steering.shard_of_cid(bytes_of(cid)).to_string(), shard, "{line}");
        count += 1;
    }
    assert!(count >= 64, "{count} vectors");
}

#[test]
fn both_crates_have_the_same_vectors() {
    let theirs = concat!(env!("CARGO_MANIFEST_DIR"), "/../udp-io/tests/steering_vectors.txt");
    // Absent only where the crate is built outside of its workspace.
    if let Ok(theirs) = std::fs::read_to_string(theirs) {
        assert_eq!(VECTORS, theirs);
    }
}
