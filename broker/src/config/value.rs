//! Whether a value can be read under its key, and which of its parts cannot.
//!
//! One key is read at a time, by the same structs that the broker is configured with: what they take here they take in the
//! whole document, too.

use std::ops::Range;

use serde::Deserialize;
use toml::de::{DeArray, DeString, DeTable, DeValue, Deserializer};
use toml::{Spanned, Table, Value};

use super::Config;
use super::keys::{Key, LISTENERS};
use super::shape::{Shape, shown};

/// A value with its place in the text.
pub(super) type Held<'a> = Spanned<DeValue<'a>>;

/// A part of a value that cannot be read.
pub(super) struct Fault {
    /// Where it stands in the text.
    pub(super) span: Range<usize>,
    /// What was found and what was expected.
    pub(super) what: String,
}

/// Everything in `value` that cannot be read under `key` of `section`; nothing if it can be.
pub(super) fn faults(section: &str, key: &Key, value: &Held<'_>) -> Vec<Fault> {
    if is_readable(section, key, value) {
        return Vec::new();
    }
    let wrong = parts(key.shape, value).into_iter().filter(|part| !is_readable(section, key, &part.alone));
    let faults: Vec<Fault> =
        wrong.map(|part| fault(part.span, &part.shown, &key.shape.expected_part())).collect();
    match faults.is_empty() {
        true => vec![fault(value.span(), &shown(&plain(value)), &key.shape.expected())],
        false => faults,
    }
}

/// The refusal of what was found.
pub(super) fn impossible(found: &str, expected: &str) -> String {
    format!("{found} is not possible, expected {expected}")
}

/// The value without its place.
pub(super) fn plain(value: &Held<'_>) -> Value {
    let document = DeTable::from_iter([(named("value"), value.clone())]);
    let mut table = Table::deserialize(Deserializer::from(Spanned::new(0..0, document)))
        .expect("every value of a document is a plain one");
    table.remove("value").expect("it was put there")
}

fn fault(span: Range<usize>, found: &str, expected: &str) -> Fault {
    Fault { span, what: impossible(found, expected) }
}

/// One item of a list or of a text with commas, as it could stand under the key by itself.
struct Part<'a> {
    alone: Held<'a>,
    shown: String,
    span: Range<usize>,
}

fn parts<'a>(shape: Shape, value: &Held<'a>) -> Vec<Part<'a>> {
    match value.get_ref() {
        DeValue::Array(items) if shape.is_list() => {
            let part = |item: &Held<'a>| Part {
                alone: Spanned::new(item.span(), DeValue::Array(DeArray::from_iter([item.clone()]))),
                shown: shown(&plain(item)),
                span: item.span(),
            };
            items.iter().map(part).collect()
        }
        DeValue::String(text) if shape == Shape::Addresses && text.contains(',') => {
            let part = |text: &str| {
                let text = Value::String(text.trim().to_owned());
                let owned = DeString::Owned(text.as_str().unwrap_or_default().to_owned());
                let alone = Spanned::new(value.span(), DeValue::String(owned));
                Part { alone, shown: shown(&text), span: value.span() }
            };
            text.split(',').map(part).collect()
        }
        _ => Vec::new(),
    }
}

fn is_readable(section: &str, key: &Key, value: &Held<'_>) -> bool {
    let mut keys = DeTable::from_iter([(named(key.name), value.clone())]);
    let held = if section == LISTENERS {
        // Those that every listener needs; which stand there does not matter.
        for (name, text) in [("type", "tcp"), ("listen", "127.0.0.1:0")] {
            let stand_in = Spanned::new(0..0, DeValue::String(DeString::Borrowed(text)));
            keys.entry(named(name)).or_insert(stand_in);
        }
        let item = Spanned::new(0..0, DeValue::Table(keys));
        DeValue::Array(DeArray::from_iter([item]))
    } else {
        DeValue::Table(keys)
    };
    let document = DeTable::from_iter([(named(section), Spanned::new(0..0, held))]);
    Config::deserialize(Deserializer::from(Spanned::new(0..0, document))).is_ok()
}

fn named(name: &str) -> Spanned<DeString<'_>> {
    Spanned::new(0..0, DeString::Borrowed(name))
}
