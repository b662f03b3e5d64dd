//! Reads a configuration file key by key, so that one mistake does not hide the next.
//!
//! ```text
//!   text ─► document ─┬─ a line that is not TOML ─► a problem; the document goes on without it, unless it is torn
//!                     └─ each key alone ─┬─ readable ─► the layer
//!                                        └─ not      ─► a problem with line and key; the layer goes on without it
//! ```
//! A listener needs `type` and `listen`: where one of them cannot be told from the file, something stands in its place that
//! no rule speaks of, so that what else is wrong with the listener is told, and the others keep their numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use toml::de::{DeString, DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::keys::{self, Key, LISTENERS, Section};
use super::shape::shown;
use super::syntax::{self, LineStarts, Mended};
use super::value::{Held, faults, impossible, plain};
use super::{Origin, Problem};

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
    /// Whether so much cannot be read that no rule can be applied.
    pub(super) is_torn: bool,
}

/// Largest configuration file that is read: far above any honest one, far below harm.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the file at `path`; never fails, but may have nothing but problems.
pub(super) fn read(path: &Path) -> FileLayer {
    match contents(path) {
        Ok(text) => parse(path, &text),
        Err((line, what)) => {
            let origin = Origin::File { path: path.to_owned(), line };
            let problems = vec![Problem { origin, key: None, what }];
            FileLayer { problems, is_torn: true, ..FileLayer::default() }
        }
    }
}

/// The text, or the line and the reason.
fn contents(path: &Path) -> Result<String, (usize, String)> {
    let refused = |error: std::io::Error| (0, error.to_string());
    let length = std::fs::metadata(path).map_err(refused)?.len();
    if length > FILE_BYTES_MAX {
        return Err((0, format!("{length} bytes are too many, expected at most {FILE_BYTES_MAX}")));
    }
    let bytes = std::fs::read(path).map_err(refused)?;
    String::from_utf8(bytes).map_err(|error| {
        let readable = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = readable.iter().filter(|byte| **byte == b'\n').count() + 1;
        (line, "is not text in UTF-8".to_owned())
    })
}

fn parse(path: &Path, text: &str) -> FileLayer {
    let Mended { text, slips, is_torn } = syntax::mend(text);
    let starts = LineStarts::of(&text);
    let mut reader = Reader { path, starts, layer: FileLayer { is_torn, ..FileLayer::default() } };
    for slip in slips {
        if let Some(key) = slip.key.clone().filter(|_| !slip.has_value) {
            reader.layer.unread.insert(key);
        }
        let origin = reader.origin(slip.line);
        reader.layer.problems.push(Problem { origin, key: slip.key, what: slip.what });
    }
    if !is_torn {
        let (document, _) = DeTable::parse_recoverable(&text);
        reader.document(document.get_ref());
    }
    reader.layer
}

struct Reader<'a> {
    path: &'a Path,
    starts: LineStarts,
    layer: FileLayer,
}

type Named<'a> = Spanned<DeString<'a>>;

impl Reader<'_> {
    fn document(&mut self, document: &DeTable<'_>) {
        for (name, held) in document {
            self.found(name.get_ref(), name.span());
            if self.layer.unread.contains(name.get_ref().as_ref()) {
                continue;
            }
            match keys::section(name.get_ref()) {
                Some(section) => self.section(section, name, held),
                None => {
                    self.unread(name.get_ref(), keys::unknown_section(name.get_ref()), name.span());
                }
            }
        }
    }

    /// A section in the brackets that it has, or in others: then what is in them is read all the same.
    fn section(&mut self, section: &'static Section, name: &Named<'_>, held: &Held<'_>) {
        let is_list = section.name == LISTENERS;
        match held.get_ref() {
            DeValue::Table(keys) if !is_list => self.keys(section, keys),
            DeValue::Array(items) if is_list => {
                for (index, item) in items.iter().enumerate() {
                    self.listener(section, index, item);
                }
            }
            DeValue::Table(_) => {
                let what = "a list is expected: [[listeners]], with two brackets, for each".to_owned();
                self.problem(section.name, what, name.span());
                self.listener(section, 0, held);
            }
            DeValue::Array(items) if !items.is_empty() && items.iter().all(is_table) => {
                let what = format!("stands once, expected [{}] with one bracket", section.name);
                self.unread(section.name, what, name.span());
                for keys in items.iter().filter_map(|item| item.get_ref().as_table()) {
                    self.keys(section, keys);
                }
            }
            _ => {
                let expected = if is_list { "sections [[listeners]]" } else { "a section" };
                let what = impossible(&shown(&plain(held)), expected);
                self.unread(section.name, what, name.span());
            }
        }
    }

    fn keys(&mut self, section: &'static Section, keys: &DeTable<'_>) {
        let readable = self.readable(section, section.name, keys);
        self.layer.table.insert(section.name.to_owned(), Value::Table(readable));
    }

    fn listener(&mut self, section: &'static Section, index: usize, item: &Held<'_>) {
        let place = format!("{LISTENERS}[{index}]");
        self.found(&place, item.span());
        let mut readable = Table::new();
        if let DeValue::Table(keys) = item.get_ref() {
            readable = self.readable(section, &place, keys);
            self.listener_wants(section, &place, item, keys);
        } else {
            let what = impossible(&shown(&plain(item)), "a section [[listeners]]");
            self.unread(&place, what, item.span());
        }
        for (name, stand_in) in STAND_INS {
            readable.entry(name).or_insert_with(|| Value::String(stand_in.to_owned()));
        }
        let list = self.layer.table.entry(LISTENERS).or_insert_with(|| Value::Array(Vec::new()));
        list.as_array_mut().expect("nothing else was entered").push(Value::Table(readable));
    }

    /// Says which of the keys is missing that every listener has.
    fn listener_wants(
        &mut self,
        section: &'static Section,
        place: &str,
        item: &Held<'_>,
        keys: &DeTable<'_>,
    ) {
        for key in section.keys.iter().filter(|key| STAND_INS.iter().any(|(name, _)| *name == key.name)) {
            let path = format!("{place}.{}", key.name);
            if !has(keys, key.name) && self.layer.unread.insert(path) {
                let what = format!("missing key `{}`, expected {}", key.name, key.shape.expected());
                self.problem(place, what, item.span());
            }
        }
    }

    /// The keys of `section`, which stands at `place`, as far as they can be read.
    fn readable(&mut self, section: &'static Section, place: &str, keys: &DeTable<'_>) -> Table {
        let mut readable = Table::new();
        for (name, value) in keys {
            let path = format!("{place}.{}", name.get_ref());
            self.found(&path, name.span());
            if self.layer.unread.contains(&path) {
                continue;
            }
            match section.keys.iter().find(|key| key.name == name.get_ref()) {
                Some(key) if self.is_in_order(section, key, &path, value) => {
                    readable.insert(key.name.to_owned(), plain(value));
                }
                Some(_) => {}
                None => {
                    self.unread(&path, keys::unknown_key(section, name.get_ref()), name.span());
                    // Unless it is there, too, the key that was meant has been said and could not be read.
                    let meant = keys::meant(section, name.get_ref());
                    if let Some(meant) = meant.filter(|meant| !has(keys, meant)) {
                        self.layer.unread.insert(format!("{place}.{meant}"));
                    }
                }
            }
        }
        readable
    }

    /// Tells every part of the value that cannot be read.
    fn is_in_order(&mut self, section: &Section, key: &Key, path: &str, value: &Held<'_>) -> bool {
        let faults = faults(section.name, key, value);
        let is_in_order = faults.is_empty();
        for fault in faults {
            self.unread(path, fault.what, fault.span);
        }
        is_in_order
    }

    fn found(&mut self, name: &str, span: Range<usize>) {
        let origin = self.origin(self.starts.line_of(span.start));
        self.layer.origins.insert(name.to_owned(), origin);
    }

    fn unread(&mut self, name: &str, what: String, span: Range<usize>) {
        self.layer.unread.insert(name.to_owned());
        self.problem(name, what, span);
    }

    fn problem(&mut self, name: &str, what: String, span: Range<usize>) {
        let origin = self.origin(self.starts.line_of(span.start));
        self.layer.problems.push(Problem { origin, key: Some(name.to_owned()), what });
    }

    fn origin(&self, line: usize) -> Origin {
        Origin::File { path: self.path.to_owned(), line }
    }
}

/// In place of what cannot be read: the type that may have every key, and any port of loopback, which nothing forbids.
const STAND_INS: [(&str, &str); 2] = [("type", "wss"), ("listen", "127.0.0.1:0")];

fn has(keys: &DeTable<'_>, wanted: &str) -> bool {
    keys.keys().any(|name| name.get_ref() == wanted)
}

fn is_table(held: &Held<'_>) -> bool {
    held.get_ref().is_table()
}
