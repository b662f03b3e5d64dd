//! The shapes of values: what may stand under a key, and the words for it.
//!
//! A shape knows the range that a type cannot: [`Shape::misfits`] is asked for every value of a configuration, whoever made
//! it, and [`Shape::expected`] is the second half of every refusal and a line of the reference.

use std::time::Duration;

use toml::Value;

use super::units::{self, ByteSize, MemoryMax};

/// What may stand under a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Shape {
    /// A whole number.
    Count { least: u32, most: u32 },
    /// 1, 2, 4, 8, …
    PowerOfTwo { most: u32 },
    /// A number of bytes.
    Size { least: u64, most: u64 },
    /// A time; where it may be switched off, also none.
    Time { least: Duration, most: Duration, or_none: bool },
    /// `true` or `false`.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// The number of shards.
    Shards,
    /// The memory ceiling; its share has a range of its own.
    Memory { least: u64, most: u64 },
    /// Where a section listens.
    Addresses,
    /// Where one of `[[listeners]]` listens.
    Address,
    /// A list of networks.
    Networks,
    /// A list of sites, as browsers name them.
    Sites,
    /// The path of a request.
    UrlPath,
    /// The beginning of topics.
    TopicRoot,
    /// A file of this machine.
    File,
    /// A directory of this machine.
    Directory,
}

impl Shape {
    /// What is expected, to be put behind "expected".
    pub(super) fn expected(&self) -> String {
        match self {
            Self::Count { least, most } => format!("a whole number from {least} to {most}"),
            Self::PowerOfTwo { most } => format!("a power of two from 1 to {most}"),
            Self::Size { least, most } => {
                let (least, most) = (ByteSize(*least), ByteSize(*most));
                format!("a size from \"{least}\" to \"{most}\" (units: {})", units::SIZE_UNIT_NAMES)
            }
            Self::Time { least, most, or_none } => {
                let (least, most) = (units::duration::text(*least), units::duration::text(*most));
                let none = if *or_none { ", or \"0s\"" } else { "" };
                let names = units::DURATION_UNIT_NAMES;
                format!("a duration from \"{least}\" to \"{most}\"{none} (units: {names})")
            }
            Self::Switch => "true or false".to_owned(),
            Self::Choice(words) => one_of(words, '"'),
            Self::Shards => units::SHARDS.to_owned(),
            Self::Memory { least, most } => {
                let (least, most) = (ByteSize(*least), ByteSize(*most));
                format!("a share such as \"70%\" (1% to 95%) or a size from \"{least}\" to \"{most}\"")
            }
            Self::Addresses => units::LISTEN.to_owned(),
            Self::Address => units::ADDRESS.to_owned(),
            Self::Networks => "a list of addresses, or of ranges of them such as \"10.0.0.0/8\"".to_owned(),
            Self::Sites => "a list of sites such as \"https://example.org\", or of \"*\"".to_owned(),
            Self::UrlPath => format!("a path such as \"/mqtt\", of at most {TEXT_BYTES_MAX} bytes"),
            Self::TopicRoot => {
                format!("the beginning of a topic: at most {TEXT_BYTES_MAX} bytes, no wildcards")
            }
            Self::File => "the path of a file such as \"/etc/quelea/cert.pem\"".to_owned(),
            Self::Directory => "the path of a directory such as \"/var/lib/quelea\"".to_owned(),
        }
    }

    /// What is expected of one of its parts.
    pub(super) fn expected_part(&self) -> String {
        match self {
            Self::Addresses => units::ADDRESS.to_owned(),
            Self::Networks => units::RANGE.to_owned(),
            Self::Sites => "a site such as \"https://example.org\", or \"*\"".to_owned(),
            _ => self.expected(),
        }
    }

    /// Whether its values are lists, of parts that are right or wrong by themselves.
    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::Addresses | Self::Networks | Self::Sites)
    }

    /// What in a readable value is beyond the range, each in the operator's words.
    pub(super) fn misfits(&self, value: &Value) -> Vec<String> {
        let parts = match value {
            Value::Array(items) if self.is_list() => items.as_slice(),
            single => std::slice::from_ref(single),
        };
        parts.iter().filter(|part| !self.fits(part)).map(shown).collect()
    }

    /// Whether one part is within the range. What has no range, or has it in its type, fits.
    fn fits(&self, part: &Value) -> bool {
        let number = part.as_integer();
        let text = part.as_str().unwrap_or_default();
        match *self {
            Self::Count { least, most } => {
                number.is_some_and(|number| (i64::from(least)..=i64::from(most)).contains(&number))
            }
            Self::PowerOfTwo { most } => {
                let number = number.and_then(|number| u32::try_from(number).ok());
                number.is_some_and(|number| number.is_power_of_two() && number <= most)
            }
            Self::Size { least, most } => {
                ByteSize::parse(text).is_some_and(|size| (least..=most).contains(&size.0))
            }
            Self::Time { least, most, or_none } => units::duration::parse(text)
                .is_some_and(|time| (least..=most).contains(&time) || (or_none && time.is_zero())),
            Self::Memory { least, most } => match MemoryMax::parse(text) {
                Some(MemoryMax::Bytes(size)) => (least..=most).contains(&size.0),
                share => share.is_some(),
            },
            Self::Sites => is_site(text),
            Self::UrlPath => is_url_path(text),
            Self::TopicRoot => text.len() <= TEXT_BYTES_MAX && !text.contains(['+', '#', '\0']),
            Self::File | Self::Directory => !text.is_empty(),
            Self::Shards => number.is_none_or(|number| (1..=units::SHARDS_MAX).contains(&number)),
            Self::Switch | Self::Choice(_) | Self::Addresses | Self::Address | Self::Networks => true,
        }
    }
}

/// A value in the operator's words: as it would stand in a file, cut short where it is long.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a section".to_owned(),
        Value::String(text) => {
            // A basic string, in one line whatever is in it.
            let quoted = format!("\"{}\"", text.replace('"', "\\\"").replace(char::is_control, " "));
            shortened(&quoted)
        }
        value => shortened(&value.to_string()),
    }
}

/// Cut short where it is long.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// "`a`", "`a` or `b`", "one of `a`, `b`, `c`", each word between two of `mark`.
pub(super) fn one_of(words: &[&str], mark: char) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{mark}{word}{mark}")).collect();
    match quoted.as_slice() {
        [one, other] => format!("{one} or {other}"),
        [one] => one.clone(),
        many => format!("one of {}", many.join(", ")),
    }
}

/// `https://example.org:8443`, without a path; `null` is nobody's, and `*` everybody's.
fn is_site(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_host = |host: &str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#*@,".contains(&byte))
    };
    text == "*" || host.is_some_and(is_host)
}

fn is_url_path(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'?' && byte != b'#';
    text.starts_with('/') && text.len() <= TEXT_BYTES_MAX && text.bytes().all(is_plain)
}

/// Of a path and of a root of topics.
const TEXT_BYTES_MAX: usize = 1_024;

/// Of a value in a refusal: enough to find it in a line.
const SHOWN_CHARS_MAX: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_cut_short() {
        let value = Value::String("é".repeat(1_000));
        assert_eq!(shown(&value).chars().count(), SHOWN_CHARS_MAX + 1);
        assert_eq!(shown(&Value::String("a\nb".to_owned())).lines().count(), 1);
    }

    #[test]
    fn each_part_of_a_list_is_told_by_itself() {
        let list =
            Value::Array(["http://a", "b", "*", "c"].map(|text| Value::String(text.to_owned())).into());
        assert_eq!(Shape::Sites.misfits(&list), ["\"b\"", "\"c\""]);
    }

    #[test]
    fn a_range_has_both_its_ends() {
        let count = Shape::Count { least: 2, most: 4 };
        let fits = (1..=5).filter(|number| count.misfits(&Value::Integer(*number)).is_empty());
        assert_eq!(fits.collect::<Vec<_>>(), [2, 3, 4]);
        let size = Shape::Size { least: 2, most: 4 };
        let time = |or_none| {
            let (least, most) = (Duration::from_millis(2), Duration::from_millis(4));
            Shape::Time { least, most, or_none }
        };
        for (shape, unit, fitting) in
            [(size, "B", &[2, 3, 4][..]), (time(false), "ms", &[2, 3, 4]), (time(true), "ms", &[0, 2, 3, 4])]
        {
            let fits = |number: &u32| shape.misfits(&Value::String(format!("{number}{unit}"))).is_empty();
            assert_eq!((0..=5).filter(fits).collect::<Vec<_>>(), fitting);
        }
    }
}
