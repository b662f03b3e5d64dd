//! Reads a configuration file key by key, so that one mistake does not hide the next.
//!
//! ```text
//!   text ─► document ─┬─ not TOML ─► every place where it is not
//!                     └─ each key alone ─┬─ readable ─► the layer
//!                                        └─ not      ─► a problem with line and key; the layer goes on without it
//! ```
//! A listener needs `type` and `listen`: one of which neither can be told from the file keeps its place in the list, so that
//! the others keep their numbers, on an address that no rule speaks of.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::de::{DeString, DeTable, DeValue, Deserializer};
use toml::{Spanned, Table, Value};

use super::{Config, Origin, Problem};

/// What a file says, as far as it can be read.
#[derive(Default)]
pub(super) struct FileLayer {
    /// The keys that can be read.
    pub(super) table: Table,
    /// Where each key stands, readable or not.
    pub(super) origins: BTreeMap<String, Origin>,
    /// What cannot be read.
    pub(super) problems: Vec<Problem>,
    /// The keys, sections and listeners of those problems.
    pub(super) unread: BTreeSet<String>,
}

/// Largest configuration file that is read: far above any honest one, far below harm.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the file at `path`; never fails, but may have nothing but problems.
pub(super) fn read(path: &Path) -> FileLayer {
    match contents(path) {
        Ok(text) => parse(path, &text),
        Err(what) => {
            let origin = Origin::File { path: path.to_owned(), line: 0 };
            FileLayer { problems: vec![Problem { origin, key: None, what }], ..FileLayer::default() }
        }
    }
}

fn contents(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("{length} bytes are too many, expected at most {FILE_BYTES_MAX}"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

fn parse(path: &Path, text: &str) -> FileLayer {
    let mut reader = Reader { path, text, layer: FileLayer::default() };
    let (document, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        reader.document(document.get_ref());
    } else {
        for error in errors {
            reader.syntax(&error);
        }
    }
    reader.layer
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    layer: FileLayer,
}

type Named<'a> = Spanned<DeString<'a>>;
type Held<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    fn document(&mut self, document: &DeTable<'_>) {
        for (section, held) in document {
            let name = section.get_ref().as_ref();
            self.found(name, section.span());
            let refused = match held.get_ref() {
                DeValue::Table(keys) => match refusal(one(section, empty_table(held))) {
                    None => {
                        self.section(section, keys);
                        continue;
                    }
                    some => some,
                },
                DeValue::Array(items) if name == LISTENERS => {
                    for (index, item) in items.iter().enumerate() {
                        self.listener(section, index, item);
                    }
                    continue;
                }
                _ => None,
            };
            let refused = refused.or_else(|| refusal(one(section, held.clone())));
            let error = refused.expect("the configuration consists of sections and listeners");
            self.unreadable(name, &error, section.span());
        }
    }

    fn section(&mut self, section: &Named<'_>, keys: &DeTable<'_>) {
        let mut readable = Table::new();
        for (key, value) in keys {
            let name = format!("{}.{}", section.get_ref(), key.get_ref());
            self.found(&name, key.span());
            match refusal(one(section, table_of([(key.clone(), value.clone())]))) {
                Some(error) => self.unreadable(&name, &error, key.span()),
                None => drop(readable.insert(key.get_ref().to_string(), plain(key, value))),
            }
        }
        self.layer.table.insert(section.get_ref().to_string(), Value::Table(readable));
    }

    fn listener(&mut self, section: &Named<'_>, index: usize, item: &Held<'_>) {
        let name = format!("{LISTENERS}[{index}]");
        self.found(&name, item.span());
        let mut readable = Table::new();
        if let DeValue::Table(keys) = item.get_ref() {
            self.listener_keys(section, &name, keys, &mut readable);
            self.listener_wants(section, &name, item, keys);
        } else if let Some(error) = refusal(list_of(section, item.clone())) {
            self.unreadable(&name, &error, item.span());
        }
        if !readable.contains_key(TYPE) {
            readable = Table::from_iter([(TYPE.to_owned(), Value::String(ANY_TYPE.to_owned()))]);
        }
        readable.entry(LISTEN).or_insert_with(|| Value::String(ANY_ADDRESS.to_owned()));
        let list = self.layer.table.entry(LISTENERS).or_insert_with(|| Value::Array(Vec::new()));
        list.as_array_mut().expect("nothing else was entered").push(Value::Table(readable));
    }

    /// Each key beside a `type` and a `listen` that are in order.
    fn listener_keys(
        &mut self,
        section: &Named<'_>,
        listener: &str,
        keys: &DeTable<'_>,
        readable: &mut Table,
    ) {
        for (key, value) in keys {
            let name = format!("{listener}.{}", key.get_ref());
            self.found(&name, key.span());
            let others = stand_ins().into_iter().filter(|(other, _)| other.get_ref() != key.get_ref());
            let item = table_of(others.chain([(key.clone(), value.clone())]));
            match refusal(list_of(section, item)) {
                Some(error) => self.unreadable(&name, &error, key.span()),
                None => drop(readable.insert(key.get_ref().to_string(), plain(key, value))),
            }
        }
    }

    /// Says which of the keys is missing that every listener has.
    fn listener_wants(&mut self, section: &Named<'_>, name: &str, item: &Held<'_>, keys: &DeTable<'_>) {
        for (wanted, _) in stand_ins() {
            if keys.keys().any(|key| key.get_ref() == wanted.get_ref()) {
                continue;
            }
            let others = stand_ins().into_iter().filter(|(other, _)| other.get_ref() != wanted.get_ref());
            let error = refusal(list_of(section, table_of(others))).expect("it is missing");
            self.layer.unread.insert(format!("{name}.{}", wanted.get_ref()));
            self.problem_at(name, &error, item.span());
        }
    }

    fn found(&mut self, name: &str, span: Range<usize>) {
        let origin = self.origin(self.line_of(span.start));
        self.layer.origins.insert(name.to_owned(), origin);
    }

    /// A value that cannot be read: its own line if the error knows it, else that of its key.
    fn unreadable(&mut self, name: &str, error: &toml::de::Error, key: Range<usize>) {
        let span = error.span().filter(|span| *span != (0..0)).unwrap_or(key);
        self.layer.unread.insert(name.to_owned());
        self.problem_at(name, error, span);
    }

    fn problem_at(&mut self, name: &str, error: &toml::de::Error, span: Range<usize>) {
        let origin = self.origin(self.line_of(span.start));
        let (key, what) = (Some(name.to_owned()), sentence(error.message()));
        self.layer.problems.push(Problem { origin, key, what });
    }

    /// One for each line: what follows on the same line follows from it.
    fn syntax(&mut self, error: &toml::de::Error) {
        let line = error.span().map_or(0, |span| self.line_of(span.start));
        let origin = self.origin(line);
        if self.layer.problems.iter().all(|known| known.origin != origin) {
            self.layer.problems.push(Problem { origin, key: None, what: sentence(error.message()) });
        }
    }

    fn origin(&self, line: usize) -> Origin {
        Origin::File { path: self.path.to_owned(), line }
    }

    fn line_of(&self, offset: usize) -> usize {
        line_of(self.text, offset)
    }
}

const LISTENERS: &str = "listeners";
const TYPE: &str = "type";
const LISTEN: &str = "listen";

/// In place of what cannot be read: any port of loopback, which nothing forbids.
const ANY_TYPE: &str = "tcp";
const ANY_ADDRESS: &str = "127.0.0.1:0";

fn stand_ins() -> [(Named<'static>, Held<'static>); 2] {
    [(TYPE, ANY_TYPE), (LISTEN, ANY_ADDRESS)].map(|(key, text)| {
        let key = Spanned::new(0..0, DeString::Borrowed(key));
        (key, Spanned::new(0..0, DeValue::String(DeString::Borrowed(text))))
    })
}

/// What the configuration has against a document.
fn refusal(document: DeTable<'_>) -> Option<toml::de::Error> {
    Config::deserialize(Deserializer::from(Spanned::new(0..0, document))).err()
}

fn one<'a>(section: &Named<'a>, held: Held<'a>) -> DeTable<'a> {
    DeTable::from_iter([(section.clone(), held)])
}

fn list_of<'a>(section: &Named<'a>, item: Held<'a>) -> DeTable<'a> {
    let list = toml::de::DeArray::from_iter([item]);
    one(section, Spanned::new(0..0, DeValue::Array(list)))
}

fn table_of<'a>(keys: impl IntoIterator<Item = (Named<'a>, Held<'a>)>) -> Held<'a> {
    Spanned::new(0..0, DeValue::Table(DeTable::from_iter(keys)))
}

fn empty_table<'a>(held: &Held<'a>) -> Held<'a> {
    Spanned::new(held.span(), DeValue::Table(DeTable::new()))
}

/// The value without its place.
fn plain(key: &Named<'_>, value: &Held<'_>) -> Value {
    let document = DeTable::from_iter([(key.clone(), value.clone())]);
    let mut table = Table::deserialize(Deserializer::from(Spanned::new(0..0, document)))
        .expect("every value of a document is a plain one");
    table.remove(key.get_ref().as_ref()).expect("it was put there")
}

/// From 1.
fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// One line, in the operator's words: serde's "field" is our "key".
pub(super) fn sentence(message: &str) -> String {
    let line = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    if let Some((found, _)) = line.split_once("expected struct ") {
        return format!("{found}expected a section");
    }
    let line = line.replace("unknown field", "unknown key").replace("duplicate field", "duplicate key");
    line.replace("missing field", "missing key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_from_one() {
        assert_eq!(line_of("a\nb\nc", 0), 1);
        assert_eq!(line_of("a\nb\nc", 2), 2);
        assert_eq!(line_of("a\nb\nc", 99), 3);
    }
}
