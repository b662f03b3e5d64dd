//! Where a file is not TOML, in the operator's words.
//!
//! A mistake within one line takes only the key of that line away: the line is blanked, the rest is read again, and what else
//! is wrong is told with it. A mistake in a `[section]` line, or in a value of several lines, tears the file: nothing can be said
//! of what follows.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue, Error};

use super::keys;
use super::shape::shortened;
use super::value::Held;

/// A text without the lines that are not TOML.
pub(super) struct Mended {
    /// As long as the original, so that every place in it is the same.
    pub(super) text: String,
    /// What was not TOML, and what stands twice: one for each line.
    pub(super) slips: Vec<Slip>,
    /// Whether what else the text says cannot be relied on.
    pub(super) is_torn: bool,
}

/// One line that is not TOML.
pub(super) struct Slip {
    /// From 1; 0 where it is not known.
    pub(super) line: usize,
    /// The key that it takes away, or stands under.
    pub(super) key: Option<String>,
    /// What was found and what was expected.
    pub(super) what: String,
    /// Whether the key has a value all the same, which comes from another line.
    pub(super) has_value: bool,
}

/// The parser may give up at a mistake, so the next one may be seen only when it is mended: a file with more than so many is no
/// longer read to its end.
const MENDS_MAX: usize = 100;

/// Blanks the lines that are not TOML, and says what is wrong with them.
pub(super) fn mend(text: &str) -> Mended {
    let mut mended = Mended { text: text.to_owned(), slips: Vec::new(), is_torn: false };
    let lines = Lines::of(text);
    // Blanking moves no line.
    let starts = LineStarts::of(text);
    for _ in 0..MENDS_MAX {
        let current = mended.text.clone();
        let (document, errors) = DeTable::parse_recoverable(&current);
        let errors = by_line(&starts, &errors);
        let is_last = errors.values().all(|error| is_duplicate(error));
        for (line, error) in errors {
            match (lines.number(line), is_duplicate(error)) {
                (Some(at), true) if is_last => mended.slips.push(lines.duplicate(at, text, error)),
                // Told when all else is mended.
                (Some(_), true) => {}
                (Some(at), false) => {
                    let long_value = long_value(&current, document.get_ref(), error);
                    mended.is_torn |= at.is_header || long_value.is_some();
                    mended.slips.push(match long_value {
                        Some(key) => Slip { line, key: Some(key), what: sentence(error), has_value: false },
                        None => at.slip(error),
                    });
                    mended.blank(at);
                }
                (None, _) => {
                    mended.is_torn = true;
                    mended.slips.push(Slip { line, key: None, what: sentence(error), has_value: false });
                }
            }
        }
        if is_last || mended.is_torn {
            return mended;
        }
    }
    mended.is_torn = true;
    mended
}

impl Mended {
    fn blank(&mut self, line: &Line<'_>) {
        let blanks = " ".repeat(line.end - line.start);
        self.text.replace_range(line.start..line.end, &blanks);
    }
}

/// The first of each line: what follows on the same line follows from it.
fn by_line<'a>(starts: &LineStarts, errors: &'a [Error]) -> BTreeMap<usize, &'a Error> {
    let mut by_line = BTreeMap::new();
    for error in errors {
        let line = error.span().map_or(0, |span| starts.line_of(span.start));
        by_line.entry(line).or_insert(error);
    }
    by_line
}

fn is_duplicate(error: &Error) -> bool {
    error.message() == "duplicate key"
}

/// Where the lines of a text begin.
pub(super) struct LineStarts {
    starts: Vec<usize>,
}

impl LineStarts {
    pub(super) fn of(text: &str) -> Self {
        let behind_breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { starts: std::iter::once(0).chain(behind_breaks).collect() }
    }

    /// The line of the byte at `offset`, from 1.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }
}

/// What the lines of a file are about, as far as can be seen line by line.
struct Lines<'a> {
    lines: Vec<Line<'a>>,
    /// Where each key and section stands first.
    first: BTreeMap<String, usize>,
}

struct Line<'a> {
    number: usize,
    /// Its first byte and that of its end, in the text.
    start: usize,
    end: usize,
    is_header: bool,
    /// `tcp.listen`, or `tcp` in its header.
    name: Option<String>,
    /// What stands behind the `=`.
    value: Option<&'a str>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let (mut section, mut listeners) = (String::new(), 0_usize);
        let mut all = Self { lines: Vec::new(), first: BTreeMap::new() };
        let mut start = 0;
        for (index, whole) in text.split_inclusive('\n').enumerate() {
            let end = start + whole.trim_end_matches(['\n', '\r']).len();
            let line = whole.trim();
            let is_header = line.starts_with('[');
            let mut read = Line { number: index + 1, start, end, is_header, name: None, value: None };
            start += whole.len();
            if read.is_header {
                let name = line.trim_start_matches('[').split(']').next().unwrap_or_default().trim();
                section = name.to_owned();
                if line.starts_with("[[") {
                    section = format!("{name}[{listeners}]");
                    listeners += 1;
                }
                read.name = Some(section.clone());
            } else {
                let (key, value) = match line.split_once('=') {
                    Some((key, value)) => (key.trim(), Some(without_comment(value))),
                    None => (line.split(|c: char| !is_of_key(c)).next().unwrap_or_default(), None),
                };
                if !key.is_empty() && key.chars().all(|c| is_of_key(c) || c == '.') {
                    let prefix = if section.is_empty() { String::new() } else { format!("{section}.") };
                    read.name = Some(format!("{prefix}{key}"));
                    read.value = value;
                }
            }
            if let Some(name) = &read.name {
                all.first.entry(name.clone()).or_insert(read.number);
            }
            all.lines.push(read);
        }
        all
    }

    fn number(&self, line: usize) -> Option<&Line<'a>> {
        self.lines.get(line.checked_sub(1)?)
    }

    /// A key or a section that was said before.
    fn duplicate(&self, at: &Line<'a>, text: &str, error: &Error) -> Slip {
        let said = error.span().and_then(|span| text.get(span)).unwrap_or_default();
        let name = at.name.clone().map(|name| match name.rsplit('.').next() == Some(said) || at.is_header {
            true => name,
            // Inside of `tcp = { … }`.
            false => format!("{name}.{said}"),
        });
        let first = name.as_ref().and_then(|name| self.first.get(name)).filter(|line| **line < at.number);
        let before = first.map_or_else(String::new, |line| format!(" (first in line {line})"));
        let what = match at.is_header {
            true => format!("this section stands twice, expected once{before}"),
            false => format!("this key stands twice, expected once{before}"),
        };
        Slip { line: at.number, key: name, what, has_value: true }
    }
}

impl Line<'_> {
    fn slip(&self, error: &Error) -> Slip {
        let known = self.name.as_deref().and_then(keys::key);
        let what = match (known, self.value) {
            (Some(key), Some("")) => format!("has no value, expected {}", key.shape.expected()),
            (Some(key), Some(value)) => {
                format!("{} cannot be read, expected {}", shortened(value), key.shape.expected())
            }
            (Some(key), None) => format!("has no value, expected `=` and {}", key.shape.expected()),
            (None, _) => sentence(error),
        };
        let key = self.name.clone().filter(|_| !self.is_header);
        Slip { line: self.number, key, what, has_value: false }
    }
}

fn is_of_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// Where there is no quote, a `#` begins a comment.
fn without_comment(value: &str) -> &str {
    let has_quote = value.contains(['"', '\'']);
    if has_quote { value.trim() } else { value.split('#').next().unwrap_or_default().trim() }
}

/// The key of the value around the mistake, if that goes over several lines and so may have swallowed other keys.
fn long_value(text: &str, document: &DeTable<'_>, error: &Error) -> Option<String> {
    let at = error.span()?.start;
    let mut held: Vec<(String, &Held<'_>)> =
        document.iter().map(|(name, value)| (name.get_ref().to_string(), value)).collect();
    while let Some((path, value)) = held.pop() {
        let span = value.span();
        let is_there = span.start <= at && at <= span.end;
        if is_there && text.get(span).is_some_and(|text| text.contains('\n')) {
            return Some(path);
        }
        match value.get_ref() {
            DeValue::Table(keys) => {
                let named = keys.iter().map(|(name, value)| (format!("{path}.{}", name.get_ref()), value));
                held.extend(named);
            }
            DeValue::Array(items) => {
                let numbered = items.iter().enumerate();
                held.extend(numbered.map(|(index, item)| (format!("{path}[{index}]"), item)));
            }
            _ => {}
        }
    }
    None
}

/// The parser's own words, in one line.
fn sentence(error: &Error) -> String {
    let lines = error.message().lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_from_one() {
        let starts = LineStarts::of("a\nb\n\nc");
        let lines = [0, 1, 2, 3, 4, 5, 99].map(|offset| starts.line_of(offset));
        assert_eq!(lines, [1, 1, 2, 2, 3, 4, 4]);
    }

    #[test]
    fn every_line_knows_its_key() {
        let text = "broker.shards = 1\n[tcp] # here\n listen = 1 # one\n[[listeners]]\ntype: 3\n[[listeners]]\npath=\"#\"\n";
        let lines = Lines::of(text);
        let shown = lines.lines.iter().map(|line| (line.name.as_deref().unwrap_or("-"), line.value));
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [
                ("broker.shards", Some("1")),
                ("tcp", None),
                ("tcp.listen", Some("1")),
                ("listeners[0]", None),
                ("listeners[0].type", None),
                ("listeners[1]", None),
                ("listeners[1].path", Some("\"#\"")),
            ]
        );
    }
}
