//! The filter trie against a list of filters and `TopicFilter::matches`.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use quelea_mqtt::{TopicFilter, TopicName};
use quelea_router::{FilterTrie, Inserted};

type Model = BTreeMap<(String, u16), u32>;

fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::new(text, 128).expect("a filter")
}

fn topic(text: &str) -> TopicName<'_> {
    TopicName::new(text, 128).expect("a topic")
}

fn matches(trie: &FilterTrie<u16, u32>, text: &str) -> Vec<(u16, u32)> {
    let mut found = Vec::new();
    trie.for_each_match(topic(text), |key, value| found.push((key, *value)));
    found.sort_unstable();
    found
}

fn matches_of_model(model: &Model, text: &str) -> Vec<(u16, u32)> {
    let topic = topic(text);
    let hit = model.iter().filter(|((text, _), _)| filter(text).matches(topic));
    let mut found: Vec<_> = hit.map(|((_, key), value)| (*key, *value)).collect();
    found.sort_unstable();
    found
}

fn filters_of_model(model: &Model) -> BTreeSet<&str> {
    model.keys().map(|(filter, _)| filter.as_str()).collect()
}

/// More than four literals, so that children move to the table; one too long to stand in its node.
fn literal() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        8 => prop::sample::select(vec!["a", "b", "c", "d", "e", "f", "g", "h"]),
        1 => Just(""),
        1 => Just("$SYS"),
        1 => Just("a level of more than twenty-two bytes"),
    ]
}

fn topic_text() -> impl Strategy<Value = String> {
    prop::collection::vec(literal(), 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic has at least one character", |text| !text.is_empty())
}

fn filter_text() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => literal(), 1 => Just("+")];
    (prop::collection::vec(level, 0..4), prop::option::weighted(0.3, Just("#")))
        .prop_map(|(levels, rest)| levels.into_iter().chain(rest).collect::<Vec<_>>().join("/"))
        .prop_filter("a filter has at least one character", |text| !text.is_empty())
}

#[derive(Clone, Debug)]
enum Op {
    Insert(String, u16, u32),
    Remove(String, u16),
    RemoveKnown(prop::sample::Index),
    Change(prop::sample::Index, u32),
    Match(String),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (filter_text(), 0..4u16, any::<u32>()).prop_map(|(f, k, v)| Op::Insert(f, k, v)),
        1 => (filter_text(), 0..4u16).prop_map(|(f, k)| Op::Remove(f, k)),
        3 => any::<prop::sample::Index>().prop_map(Op::RemoveKnown),
        1 => (any::<prop::sample::Index>(), any::<u32>()).prop_map(|(i, v)| Op::Change(i, v)),
        4 => topic_text().prop_map(Op::Match),
    ]
}

fn remove(trie: &mut FilterTrie<u16, u32>, model: &mut Model, text: &str, key: u16) {
    let removed = trie.remove(filter(text), key);
    let value = model.remove(&(text.to_owned(), key));
    assert_eq!(removed.value, value);
    assert_eq!(removed.filter_is_gone, value.is_some() && !filters_of_model(model).contains(text));
    assert_eq!(trie.get(filter(text), key), None);
}

fn apply(trie: &mut FilterTrie<u16, u32>, model: &mut Model, op: Op) {
    match op {
        Op::Insert(text, key, value) => {
            let filter_is_new = !filters_of_model(model).contains(text.as_str());
            let replaced = model.insert((text.clone(), key), value);
            let inserted = trie.insert(filter(&text), key, value);
            assert_eq!((inserted.filter_is_new, inserted.replaced), (filter_is_new, replaced));
            assert_eq!(trie.filter_id(filter(&text)), Some(inserted.filter_id));
            assert!(trie.entries(inserted.filter_id).any(|entry| entry == (key, &value)));
        }
        Op::Remove(text, key) => remove(trie, model, &text, key),
        Op::RemoveKnown(index) => {
            let known: Vec<_> = model.keys().cloned().collect();
            if !known.is_empty() {
                let (text, key) = index.get(&known);
                remove(trie, model, text, *key);
            }
        }
        Op::Change(index, new) => {
            let mut known: Vec<_> = model.iter_mut().collect();
            if !known.is_empty() {
                let at = index.index(known.len());
                let ((text, key), value) = &mut known[at];
                assert_eq!(trie.get(filter(text), *key), Some(&**value));
                *trie.get_mut(filter(text), *key).expect("the model has it") = new;
                **value = new;
            }
        }
        Op::Match(text) => assert_eq!(matches(trie, &text), matches_of_model(model, &text), "{text}"),
    }
    assert_eq!(trie.len_entries(), model.len());
    assert_eq!(trie.len_filters(), filters_of_model(model).len());
}

proptest! {
    #[test]
    fn behaves_as_a_list_of_filters(seed: u64, ops in prop::collection::vec(op(), 1..300)) {
        let (mut trie, mut model) = (FilterTrie::new(seed), Model::new());
        let empty_bytes = trie.bytes();
        for op in ops {
            apply(&mut trie, &mut model, op);
        }
        for (text, key) in model.clone().into_keys() {
            remove(&mut trie, &mut model, &text, key);
        }
        prop_assert_eq!(trie.bytes(), empty_bytes);
    }

    #[test]
    fn many_subscribers_of_one_filter(
        seed: u64,
        ops in prop::collection::vec((prop::bool::weighted(0.6), 0..60u16, any::<u32>()), 1..300),
    ) {
        for text in ["exact", "+/wild"] {
            let (mut trie, mut model) = (FilterTrie::new(seed), Model::new());
            for (insert, key, value) in ops.clone() {
                if insert {
                    apply(&mut trie, &mut model, Op::Insert(text.to_owned(), key, value));
                } else {
                    remove(&mut trie, &mut model, text, key);
                }
                let name = text.replace('+', "a");
                prop_assert_eq!(matches(&trie, &name), matches_of_model(&model, &name));
            }
        }
    }
}

// Covers 5.0: 4.7.2-1 4.7.3-4
// Covers 3.1.1: 4.7.2-1 4.7.3-4
#[test]
fn the_tables_of_the_standard() {
    // MQTT 5.0 §4.7.1 and §4.7.2, row by row: filter, topics that match, topics that do not.
    let rows: &[(&str, &[&str], &[&str])] = &[
        ("sport/tennis/player1/#", &["sport/tennis/player1", "sport/tennis/player1/ranking"], &["sport"]),
        ("sport/#", &["sport", "sport/", "sport/a/b"], &["sports", "/sport"]),
        ("sport/+", &["sport/", "sport/a"], &["sport", "sport/a/b"]),
        ("+/tennis/#", &["a/tennis", "/tennis/x"], &["tennis", "a/b/tennis"]),
        ("+/+", &["/finance"], &["finance", "$SYS/a"]),
        ("/+", &["/finance"], &["finance"]),
        ("#", &["a", "/"], &["$SYS", "$SYS/monitor"]),
        ("+/monitor/Clients", &["a/monitor/Clients"], &["$SYS/monitor/Clients"]),
        ("$SYS/#", &["$SYS", "$SYS/monitor"], &["SYS/monitor"]),
        ("$SYS/monitor/+", &["$SYS/monitor/Clients"], &["$SYS/monitor"]),
    ];
    for (text, hits, misses) in rows {
        let mut trie = FilterTrie::new(1);
        let Inserted { filter_is_new, .. } = trie.insert(filter(text), 7, 1);
        assert!(filter_is_new);
        for hit in *hits {
            assert_eq!(matches(&trie, hit), [(7, 1)], "{text} matches {hit}");
        }
        for miss in *misses {
            assert_eq!(matches(&trie, miss), [], "{text} does not match {miss}");
        }
    }
}

#[test]
fn a_key_comes_once_for_each_of_its_filters() {
    let mut trie = FilterTrie::new(2);
    for (value, text) in (0u32..).zip(["a/b", "a/+", "+/b", "+/+", "a/#", "#", "a/b/#", "c"]) {
        trie.insert(filter(text), 1, value);
    }
    assert_eq!(matches(&trie, "a/b"), [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6)]);
}

#[test]
fn a_topic_of_a_hundred_and_twenty_eight_levels_with_wildcards_at_each() {
    let mut trie = FilterTrie::new(3);
    let name = vec!["a"; 128].join("/");
    for at in 0..128 {
        let mut levels = vec!["a"; 128];
        levels[at] = "+";
        trie.insert(filter(&levels.join("/")), at as u16, 0);
        levels.truncate(at);
        levels.push("#");
        trie.insert(filter(&levels.join("/")), at as u16, 1);
    }
    let expected: Vec<_> = (0..128).flat_map(|at| [(at, 0), (at, 1)]).collect();
    assert_eq!(matches(&trie, &name), expected);
    assert_eq!(matches(&trie, &format!("b{}", &name[1..])), [(0, 0), (0, 1)]);
}

#[test]
fn ten_thousand_filters_leave_no_memory_behind() {
    let mut trie = FilterTrie::new(4);
    let empty_bytes = trie.bytes();
    let texts: Vec<_> = (0..10_000u32)
        .map(|i| match i % 4 {
            0 => format!("site/{}/device/{i}/state", i % 50),
            1 => format!("site/{}/device/{i}/+", i % 50),
            2 => format!("site/{}/device/{i}/#", i % 50),
            _ => format!("+/a level of more than twenty-two bytes {i}"),
        })
        .collect();
    for text in &texts {
        trie.insert(filter(text), 1, 1);
    }
    let full_bytes = trie.bytes();
    assert!(full_bytes > 10_000 * 50);
    for text in &texts[100..] {
        assert!(trie.remove(filter(text), 1).filter_is_gone);
    }
    // The hundred that are left were inserted first, so what is behind them has gone back.
    assert!(trie.bytes() * 10 < full_bytes, "{} of {full_bytes} bytes left", trie.bytes());
    for text in &texts[..100] {
        assert!(trie.remove(filter(text), 1).filter_is_gone);
    }
    assert_eq!(trie.bytes(), empty_bytes);
}

#[test]
fn handles_are_stable_and_die_with_their_filter() {
    let mut trie = FilterTrie::new(5);
    let first = trie.insert(filter("a/+"), 1, 10).filter_id;
    trie.insert(filter("b"), 1, 20);
    assert_eq!(trie.insert(filter("a/+"), 2, 11).filter_id, first);
    assert_eq!(trie.entries(first).collect::<Vec<_>>(), [(1, &10), (2, &11)]);
    trie.remove(filter("a/+"), 1);
    assert_eq!(trie.filter_id(filter("a/+")), Some(first));
    trie.remove(filter("a/+"), 2);
    assert_eq!(trie.filter_id(filter("a/+")), None);
    assert_eq!(trie.entries(first).count(), 0);
}

/// So many texts and edges that some (about ten pairs of each) have equal hashes in the 32 bits that are kept.
#[test]
fn equal_hashes_are_told_apart() {
    const PARENTS: u32 = 60_000;
    const CHILDREN: u32 = 5;
    let mut trie = FilterTrie::new(6);
    let texts = |at| {
        let (parent, child) = (at / CHILDREN, at % CHILDREN);
        [format!("{parent}/{child}/+"), format!("{parent}/{child}")]
    };
    for at in 0..PARENTS * CHILDREN {
        for (kind, text) in (0..).zip(texts(at)) {
            assert!(trie.insert(filter(&text), kind, at).filter_is_new, "{text}");
        }
    }
    for at in 0..PARENTS * CHILDREN {
        let [wild, exact] = texts(at);
        assert_eq!(matches(&trie, &wild.replace('+', "x")), [(0, at)]);
        assert_eq!(matches(&trie, &exact), [(1, at)]);
    }
}

#[test]
fn matching_says_how_much_work_it_was() {
    let mut trie = FilterTrie::new(1);
    // All filters of eight levels, each `a` or `+`: 256 match, all but one by a tree of 510 nodes.
    for choice in 0..256_u32 {
        let levels: Vec<_> = (0..8).map(|at| if choice >> at & 1 == 1 { "+" } else { "a" }).collect();
        trie.insert(TopicFilter::new(&levels.join("/"), usize::MAX).expect("a filter"), choice, ());
    }
    let topic = TopicName::new("a/a/a/a/a/a/a/a", usize::MAX).expect("a topic");
    let mut matches = 0;
    assert_eq!(trie.for_each_match(topic, |_, ()| matches += 1), 256 + 510);
    assert_eq!(matches, 256);
}
