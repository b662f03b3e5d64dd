//! The retained store against a sorted map, with walks that rest while the store changes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use quelea_mqtt::{TopicFilter, TopicName};
use quelea_router::retained::ENTRY_BYTES;
use quelea_router::{RetainedFull, RetainedLimits, RetainedStore, WalkBudget, partition};

const ROOMY: RetainedLimits = RetainedLimits { messages_max: 1_000_000, bytes_max: usize::MAX };

fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::new(text, 128).expect("a filter")
}

fn topic(text: &str) -> TopicName<'_> {
    TopicName::new(text, 128).expect("a topic")
}

fn store(topics: impl IntoIterator<Item = impl AsRef<str>>) -> RetainedStore<u32> {
    let mut store = RetainedStore::new(ROOMY);
    for (message, text) in (0..).zip(topics) {
        store.set(topic(text.as_ref()), message, 0).expect("there is room");
    }
    store
}

/// All topics of a walk that is not interrupted.
fn walk_all(store: &RetainedStore<u32>, text: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let rest = store.walk(filter(text), None, &mut WalkBudget::steps(usize::MAX), |topic, _| {
        seen.push(topic.as_str().to_owned());
        true
    });
    assert_eq!(rest, None);
    seen
}

/// `!` sorts before `/`: topics must be ordered by level all the same.
const LEVELS: &[&str] = &["a", "a!", "b", "", "$s", "aa", "%", "\u{1}"];

fn topic_text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(LEVELS), 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic has at least one character", |text| !text.is_empty())
}

fn filter_text() -> impl Strategy<Value = String> {
    let level = prop_oneof![2 => prop::sample::select(LEVELS), 1 => Just("+")];
    (prop::collection::vec(level, 0..4), prop::option::weighted(0.4, Just("#")))
        .prop_map(|(levels, rest)| levels.into_iter().chain(rest).collect::<Vec<_>>().join("/"))
        .prop_filter("a filter has at least one character", |text| !text.is_empty())
}

fn levels(text: &str) -> Vec<&str> {
    text.split('/').collect()
}

/// What happens to the store between two calls of a walk.
#[derive(Clone, Debug)]
struct Change {
    text: String,
    message: Option<u32>,
    steps_max: usize,
    /// The visit that ends the call.
    visits_max: usize,
}

fn change() -> impl Strategy<Value = Change> {
    (topic_text(), prop::option::of(any::<u32>()), 1..6usize, 1..4usize)
        .prop_map(|(text, message, steps_max, visits_max)| Change { text, message, steps_max, visits_max })
}

proptest! {
    #[test]
    fn a_walk_visits_what_a_scan_finds(
        topics in prop::collection::vec(topic_text(), 0..200),
        wanted in filter_text(),
    ) {
        let store = store(&topics);
        let mut expected: Vec<_> =
            topics.iter().filter(|text| filter(&wanted).matches(topic(text))).cloned().collect();
        expected.sort_by(|a, b| levels(a).cmp(&levels(b)));
        expected.dedup();
        prop_assert_eq!(walk_all(&store, &wanted), expected);
    }

    #[test]
    fn an_interrupted_walk_misses_nothing_that_stays(
        topics in prop::collection::btree_set(topic_text(), 0..60),
        wanted in filter_text(),
        changes in prop::collection::vec(change(), 1..40),
    ) {
        let mut store = store(&topics);
        let mut model: BTreeMap<String, u32> = topics.iter().cloned().zip(0..).collect();
        // Never touched by a change, so that the walk must visit it exactly once.
        let touched: BTreeSet<_> = changes.iter().map(|change| change.text.clone()).collect();
        let stays: BTreeSet<_> = topics
            .difference(&touched)
            .filter(|text| filter(&wanted).matches(topic(text)))
            .cloned()
            .collect();
        let mut seen: Vec<String> = Vec::new();
        let mut after: Option<Box<str>> = None;
        for change in changes.iter().cycle() {
            let mut visits = 0;
            let next = store.walk(filter(&wanted), after.as_deref(), &mut WalkBudget::steps(change.steps_max), |topic, message| {
                assert!(filter(&wanted).matches(topic));
                assert_eq!(model.get(topic.as_str()), Some(message));
                seen.push(topic.as_str().to_owned());
                visits += 1;
                visits < change.visits_max
            });
            assert!(visits <= change.steps_max.min(change.visits_max));
            let Some(next) = next else { break };
            if let Some(after) = &after {
                prop_assert!(levels(after) < levels(&next), "{} does not move on from {}", next, after);
            }
            after = Some(next);
            match change.message {
                Some(message) => {
                    let old = store.set(topic(&change.text), message, 0).expect("there is room");
                    prop_assert_eq!(old, model.insert(change.text.clone(), message));
                }
                None => prop_assert_eq!(store.remove(topic(&change.text)), model.remove(&change.text)),
            }
        }
        prop_assert!(seen.windows(2).all(|pair| levels(&pair[0]) < levels(&pair[1])), "in order: {:?}", seen);
        let seen: BTreeSet<_> = seen.into_iter().collect();
        prop_assert!(stays.is_subset(&seen), "missed: {:?}", stays.difference(&seen));
    }

    #[test]
    fn counts_and_charges_what_it_holds(
        ops in prop::collection::vec((topic_text(), prop::option::of(0..500usize)), 1..200),
    ) {
        let limits = RetainedLimits { messages_max: 20, bytes_max: 4_000 };
        let mut store = RetainedStore::new(limits);
        let mut model: BTreeMap<String, usize> = BTreeMap::new();
        let charge = |model: &BTreeMap<String, usize>| -> usize {
            model.iter().map(|(text, bytes)| text.len() + bytes + ENTRY_BYTES).sum()
        };
        for (text, bytes) in ops {
            let Some(bytes) = bytes else {
                prop_assert_eq!(store.remove(topic(&text)), model.remove(&text));
                continue;
            };
            let mut grown = model.clone();
            let old = grown.insert(text.clone(), bytes);
            let expected = if grown.len() > limits.messages_max {
                Err(RetainedFull::Messages)
            } else if charge(&grown) > limits.bytes_max {
                Err(RetainedFull::Bytes)
            } else {
                model = grown;
                Ok(old)
            };
            prop_assert_eq!(store.set(topic(&text), bytes, bytes), expected);
            prop_assert_eq!(store.get(topic(&text)), model.get(&text));
            prop_assert_eq!((store.len(), store.bytes()), (model.len(), charge(&model)));
        }
        for text in model.keys() {
            prop_assert!(store.remove(topic(text)).is_some());
        }
        prop_assert!(store.is_empty() && store.bytes() == 0);
    }
}

/// Topics that a walk looks at, counted by taking one step at a time.
fn steps(store: &RetainedStore<u32>, text: &str) -> usize {
    let (mut steps, mut after) = (0, None);
    loop {
        after = store.walk(filter(text), after.as_deref(), &mut WalkBudget::steps(1), |_, _| true);
        if after.is_none() {
            return steps;
        }
        steps += 1;
    }
}

#[test]
fn a_walk_jumps_over_what_cannot_match() {
    let topics = (0..100)
        .flat_map(|site| (0..100).map(move |device| format!("site/{site:03}/device{device:03}/state")));
    let store = store(topics.chain(["$SYS/a".into(), "$SYS/b".into()]));
    // One subtree of a hundred, and the topic behind it that tells the end.
    assert!(steps(&store, "site/042/#") <= 101);
    // Per site one that matches and one that leads on.
    assert!(steps(&store, "site/+/device050/state") <= 3 * 100 + 2);
    assert_eq!(walk_all(&store, "site/+/device050/state").len(), 100);
    assert!(steps(&store, "site/+/nothing") <= 2 * 100 + 2);
    assert!(steps(&store, "nothing/#") <= 1);
    // The first topic that begins with `$` is looked at, not the others.
    assert_eq!(walk_all(&store, "#").len(), 10_000);
    assert_eq!(steps(&store, "#"), 10_001);
}

#[test]
fn a_call_is_bounded_even_where_nothing_matches() {
    let store = store((0..10_000).map(|i| format!("{i:05}/a")));
    let mut after = None;
    for _ in 0..100 {
        after = store.walk(filter("+/b"), after.as_deref(), &mut WalkBudget::steps(10), |_, _| {
            unreachable!("nothing matches")
        });
        assert!(after.is_some());
    }
    assert_eq!(after.as_deref(), Some("00999/a"));
}

#[test]
fn a_call_is_bounded_by_the_bytes_of_what_it_looks_at() {
    let long = "p".repeat(60_000);
    let store = store((0..100).map(|i| format!("{long}{i:04}")));
    let (mut after, mut calls, mut steps) = (None, 0, 0);
    loop {
        let mut budget = WalkBudget { steps: 1_000, bytes: 100_000 };
        after =
            store.walk(filter("+/x"), after.as_deref(), &mut budget, |_, _| unreachable!("nothing matches"));
        let looked_at = 1_000 - budget.steps;
        assert!(looked_at <= 2, "{looked_at} topics of 60 KB");
        (calls, steps) = (calls + 1, steps + looked_at);
        if after.is_none() {
            break;
        }
    }
    // The last topic uses up a budget, too: one more call sees that nothing is left.
    assert_eq!((calls, steps), (51, 100));
    // A topic that is longer than the budget is looked at all the same.
    let mut budget = WalkBudget { steps: 1_000, bytes: 1 };
    let after = store.walk(filter("#"), None, &mut budget, |_, _| true);
    assert_eq!((after.map(|after| after.len()), budget), (Some(60_004), WalkBudget { steps: 999, bytes: 0 }));
}

#[test]
fn the_message_that_ends_a_call_counts_as_visited() {
    let store = store(["a", "b"]);
    let after = store.walk(filter("#"), None, &mut WalkBudget::steps(10), |_, _| false);
    assert_eq!(after.as_deref(), Some("a"));
    let mut seen = Vec::new();
    let after = store.walk(filter("#"), after.as_deref(), &mut WalkBudget::steps(10), |topic, _| {
        seen.push(topic.as_str().to_owned());
        true
    });
    assert_eq!((seen, after), (vec!["b".to_owned()], None));
}

#[test]
fn a_walk_over_everything_leaves_nothing_out() {
    let topics = ["$SYS/a", "$x", "a", "a/b", "b"];
    let store = store(topics);
    for steps in 1..=6 {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            after = store.walk_all(after.as_deref(), WalkBudget::steps(steps), |topic, _| {
                seen.push(topic.as_str().to_owned());
            });
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen, topics, "{steps} at a time");
    }
}

#[test]
fn a_refused_message_leaves_the_old_one() {
    let mut store = RetainedStore::new(RetainedLimits { messages_max: 1, bytes_max: ENTRY_BYTES + 11 });
    assert_eq!(store.set(topic("a"), 1, 10), Ok(None));
    assert_eq!(store.set(topic("a"), 2, 11), Err(RetainedFull::Bytes));
    assert_eq!(store.set(topic("b"), 3, 0), Err(RetainedFull::Messages));
    assert_eq!(store.get(topic("a")), Some(&1));
    assert_eq!(store.set(topic("a"), 4, 3), Ok(Some(1)));
}

#[test]
fn topics_are_spread_evenly_and_the_same_everywhere() {
    let mut counts = [0usize; 16];
    for i in 0..16_000 {
        let text = format!("site/device{i}");
        let shard = partition(&text, 9, 16);
        assert_eq!(shard, partition(&text, 9, 16));
        counts[shard.index()] += 1;
    }
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    assert!((0..100).any(|i| partition(&format!("{i}"), 1, 16) != partition(&format!("{i}"), 2, 16)));
}

#[test]
fn a_group_is_named_by_its_name_and_its_filter() {
    use quelea_router::{group_owner, home};
    let owner = |group: &str, text: &str| group_owner(group, filter(text), 3, 128);
    let differ = |a: &dyn Fn(usize) -> quelea_router::ShardId,
                  b: &dyn Fn(usize) -> quelea_router::ShardId| {
        (0..50).filter(|i| a(*i) != b(*i)).count() > 40
    };
    assert!(differ(&|i| owner(&format!("g{i}"), "a"), &|i| owner(&format!("g{i}"), "b")));
    assert!(differ(&|i| owner("g", &format!("a{i}")), &|i| owner("h", &format!("a{i}"))));
    // Name and filter do not run into each other.
    assert!(differ(&|i| owner(&format!("g{i}"), "ab"), &|i| owner(&format!("g{i}a"), "b")));
    // Equal names of different kinds are placed independently.
    assert!(differ(&|i| home(&format!("x{i}"), 3, 128), &|i| partition(&format!("x{i}"), 3, 128)));
}
