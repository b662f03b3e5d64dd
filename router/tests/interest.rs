//! Interest against a map from filter to a set of shards.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quelea_mqtt::{TopicFilter, TopicName};
use quelea_router::{Interest, ShardId, ShardSet};

fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::new(text, 128).expect("a filter")
}

fn topic(text: &str) -> TopicName<'_> {
    TopicName::new(text, 128).expect("a topic")
}

fn shard(index: usize) -> ShardId {
    ShardId::from_index(index)
}

fn text(levels: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(levels), 1..4).prop_map(|levels| levels.join("/"))
}

#[derive(Clone, Debug)]
enum Op {
    /// Announce the filter, or take it back if it is announced.
    Flip(usize, String),
    Publish(String),
}

fn op() -> impl Strategy<Value = Op> {
    let filter = (text(&["a", "b", "c", "d", "e", "+", "$x"]), any::<bool>())
        .prop_map(|(text, all)| if all { format!("{text}/#") } else { text });
    // Shards on both sides of a word of the set.
    let shard = prop::sample::select(vec![0usize, 1, 2, 63, 64, 127]);
    prop_oneof![
        12 => (shard, filter).prop_map(|(shard, filter)| Op::Flip(shard, filter)),
        6 => text(&["a", "b", "c", "d", "e", "$x"]).prop_map(Op::Publish),
    ]
}

proptest! {
    #[test]
    fn behaves_as_a_map_of_sets(seed: u64, ops in prop::collection::vec(op(), 1..300)) {
        let mut interest = Interest::new(seed);
        let empty_bytes = interest.bytes();
        let mut model: BTreeMap<String, ShardSet> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Flip(at, text) => {
                    let shards = model.entry(text.clone()).or_default();
                    if shards.insert(shard(at)) {
                        interest.add(shard(at), filter(&text));
                    } else {
                        shards.remove(shard(at));
                        prop_assert!(interest.remove(shard(at), filter(&text)));
                        prop_assert!(!interest.remove(shard(at), filter(&text)));
                    }
                }
                Op::Publish(text) => {
                    let hits = model.iter().filter(|(own, _)| filter(own).matches(topic(&text)));
                    let expected = hits.fold(ShardSet::EMPTY, |all, (_, shards)| all.union(*shards));
                    prop_assert_eq!(interest.shards(topic(&text)), expected, "{}", text);
                }
            }
            model.retain(|_, shards| !shards.is_empty());
            prop_assert_eq!(interest.len_filters(), model.len());
        }
        for (text, shards) in model {
            for shard in shards.iter() {
                prop_assert!(interest.remove(shard, filter(&text)));
            }
        }
        prop_assert_eq!(interest.bytes(), empty_bytes);
    }

    #[test]
    fn a_set_of_shards_is_a_set(indexes in prop::collection::vec((0..128usize, any::<bool>()), 0..200)) {
        let (mut set, mut model) = (ShardSet::new(), std::collections::BTreeSet::new());
        for (index, insert) in indexes {
            if insert {
                prop_assert_eq!(set.insert(shard(index)), model.insert(index));
            } else {
                prop_assert_eq!(set.remove(shard(index)), model.remove(&index));
            }
            prop_assert_eq!((set.len(), set.is_empty()), (model.len(), model.is_empty()));
        }
        prop_assert!(set.iter().map(ShardId::index).eq(model.iter().copied()));
        prop_assert_eq!(set.iter().collect::<ShardSet>(), set);
        prop_assert!((0..128).all(|index| set.contains(shard(index)) == model.contains(&index)));
    }
}

/// A second announcement of one fingerprint by one shard is what a collision of two filters looks like.
#[test]
fn a_collision_of_fingerprints_loses_no_interest() {
    for text in ["a/b", "a/+", "+/b/#", "#"] {
        let name = topic("a/b");
        let mut interest = Interest::new(1);
        let empty_bytes = interest.bytes();
        for _ in 0..3 {
            interest.add(shard(4), filter(text));
        }
        interest.add(shard(5), filter(text));
        let both: ShardSet = [shard(4), shard(5)].into_iter().collect();
        for _ in 0..2 {
            assert!(interest.remove(shard(4), filter(text)));
            assert_eq!(interest.shards(name), both);
        }
        assert!(interest.remove(shard(4), filter(text)));
        assert_eq!(interest.shards(name), [shard(5)].into_iter().collect());
        assert!(!interest.remove(shard(4), filter(text)));
        assert!(interest.remove(shard(5), filter(text)));
        assert_eq!(interest.bytes(), empty_bytes);
    }
}

#[test]
fn an_exact_filter_costs_few_bytes() {
    let mut interest = Interest::new(1);
    for i in 0..100_000 {
        interest.add(shard(i % 15), filter(&format!("site/{}/device/{i}/state", i % 50)));
    }
    let bytes = interest.bytes() as f64 / 100_000.0;
    assert!(bytes < 30.0, "{bytes} bytes per filter");
}

#[test]
fn ten_thousand_wildcard_filters_match_each_its_own_and_leave_nothing() {
    let mut interest = Interest::new(1);
    let texts: Vec<_> = (0..10_000).map(|i| format!("site/{}/+/device/{i}/#", i % 50)).collect();
    for (i, text) in texts.iter().enumerate() {
        interest.add(shard(i % 128), filter(text));
    }
    for (i, text) in texts.iter().enumerate() {
        let name = text.replace(['+', '#'], "x");
        assert_eq!(interest.shards(topic(&name)), [shard(i % 128)].into_iter().collect());
        assert!(interest.shards(topic(&name.replace("device", "other"))).is_empty());
    }
    let full_bytes = interest.bytes();
    for (i, text) in texts.iter().enumerate().skip(100) {
        assert!(interest.remove(shard(i % 128), filter(text)));
    }
    assert!(interest.bytes() * 8 < full_bytes, "{} of {full_bytes} bytes left", interest.bytes());
    for (i, text) in texts.iter().enumerate().take(100) {
        assert!(interest.remove(shard(i % 128), filter(text)));
    }
    assert_eq!(interest.bytes(), 0);
}
