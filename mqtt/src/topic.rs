//! Topic names and topic filters: text that is valid by construction.
//!
//! A [`TopicName`] is what a message is published to, a [`TopicFilter`] what a subscriber asks for, a
//! [`SubscribeFilter`] a filter as it stands in SUBSCRIBE, where `$share/group/filter` names a group. Whoever holds one
//! of them need not check it again: it is 1 to 65,535 bytes of UTF-8 without U+0000, its wildcards stand where they
//! may (or nowhere), and it has no more levels than the limit that was given when it was made.
//!
//! Topics are compared byte by byte: neither case nor Unicode normalisation is touched (`[MQTT-4.7.3-4]`).

use core::fmt;

use crate::ReasonCode;

/// The longest text that MQTT can carry, in bytes (`[MQTT-1.5.4-1]`, §1.5.4).
const TEXT_BYTES_MAX: usize = 65_535;

/// Why a text is not a topic name or filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TopicError {
    /// No character at all (`[MQTT-4.7.3-1]`).
    Empty,
    /// More than 65,535 bytes (`[MQTT-4.7.3-3]`).
    TooLong,
    /// More levels than this receiver takes.
    TooManyLevels,
    /// Holds U+0000 (`[MQTT-4.7.3-2]`).
    Nul,
    /// A topic name with `+` or `#` (`[MQTT-3.3.2-2]`).
    Wildcard,
    /// A filter whose `#` is not the whole last level or whose `+` is not a whole level (`[MQTT-4.7.1-1]`, `-2`).
    WildcardPosition,
    /// `$share/` without a name of its own, or without a filter after it (`[MQTT-4.8.2-1]`, `-2`).
    ShareName,
}

impl TopicError {
    /// The reason code for the peer when the text was a topic **name**.
    ///
    /// Text with U+0000 is malformed wherever it stands (`[MQTT-1.5.4-2]`).
    pub const fn name_reason_code(self) -> ReasonCode {
        match self {
            Self::Nul => ReasonCode::MALFORMED_PACKET,
            _ => ReasonCode::TOPIC_NAME_INVALID,
        }
    }

    /// The reason code for the peer when the text was a topic **filter** (one entry of SUBACK or UNSUBACK).
    pub const fn filter_reason_code(self) -> ReasonCode {
        match self {
            Self::Nul => ReasonCode::MALFORMED_PACKET,
            _ => ReasonCode::TOPIC_FILTER_INVALID,
        }
    }

    /// The reason code for the peer: a wildcard can only be wrong in a name, its position and the share name only in a
    /// filter; the other faults are told as those of a filter, where the answer goes into SUBACK.
    pub const fn reason_code(self) -> ReasonCode {
        match self {
            Self::Wildcard => self.name_reason_code(),
            _ => self.filter_reason_code(),
        }
    }

    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Empty => "must have at least one character",
            Self::TooLong => "must not be longer than 65,535 bytes",
            Self::TooManyLevels => "has more levels than allowed here",
            Self::Nul => "must not contain U+0000",
            Self::Wildcard => "must not contain `+` or `#`",
            Self::WildcardPosition => "`+` must be a whole level and `#` the whole last level",
            Self::ShareName => "`$share/` must be followed by a name without wildcards, `/` and a filter",
        }
    }
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

impl core::error::Error for TopicError {}

/// The name of a topic: what a message is published to.
///
/// ```
/// use quelea_mqtt::{TopicError, TopicName};
/// assert_eq!(TopicName::new("home//door", 128)?.levels().collect::<Vec<_>>(), ["home", "", "door"]);
/// assert_eq!(TopicName::new("home/+", 128), Err(TopicError::Wildcard));
/// # Ok::<(), TopicError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName<'a>(&'a str);

impl<'a> TopicName<'a> {
    /// Checks a text; `levels_max` bounds the levels (`/` plus one).
    ///
    /// # Errors
    /// [`TopicError`], never `WildcardPosition` or `ShareName`.
    #[inline]
    pub fn new(text: &'a str, levels_max: usize) -> Result<Self, TopicError> {
        check_text(text, levels_max)?;
        if has_nul_or_wildcard(text.as_bytes()) { Err(name_fault(text)) } else { Ok(Self(text)) }
    }

    /// For text that has been a `TopicName` before.
    pub(crate) const fn from_checked(text: &'a str) -> Self {
        Self(text)
    }

    /// The whole text.
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// The levels, in order; an empty level is a level.
    pub fn levels(self) -> core::str::Split<'a, char> {
        self.0.split('/')
    }

    /// True for a topic that begins with `$`, which no filter that begins with a wildcard matches (`[MQTT-4.7.2-1]`).
    pub fn is_dollar(self) -> bool {
        self.0.starts_with('$')
    }
}

/// A topic filter, without any `$share/group/` before it.
///
/// ```
/// use quelea_mqtt::{TopicError, TopicFilter, TopicName};
/// let filter = TopicFilter::new("home/+/#", 128)?;
/// assert!(filter.has_wildcard());
/// assert!(filter.matches(TopicName::new("home/kitchen", 128)?)); // `#` takes its parent too
/// assert!(!TopicFilter::new("#", 128)?.matches(TopicName::new("$SYS/load", 128)?));
/// # Ok::<(), TopicError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter<'a>(&'a str);

impl<'a> TopicFilter<'a> {
    /// Checks a text; `levels_max` bounds the levels (`/` plus one).
    ///
    /// # Errors
    /// [`TopicError`], never `Wildcard` or `ShareName`.
    pub fn new(text: &'a str, levels_max: usize) -> Result<Self, TopicError> {
        check_text(text, levels_max)?;
        if !has_nul_or_wildcard(text.as_bytes()) {
            return Ok(Self(text));
        }
        if text.as_bytes().contains(&0) {
            return Err(TopicError::Nul);
        }
        check_wildcards(text)?;
        Ok(Self(text))
    }

    /// The whole text.
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// The levels, in order; an empty level is a level, `+` and `#` are levels of their own.
    pub fn levels(self) -> core::str::Split<'a, char> {
        self.0.split('/')
    }

    /// True if a level is `+` or `#`; a filter without them matches one topic, its own text.
    pub fn has_wildcard(self) -> bool {
        self.0.bytes().any(is_wildcard)
    }

    /// True if a message on `topic` is for this filter (MQTT 5.0 §4.7).
    pub fn matches(self, topic: TopicName<'_>) -> bool {
        if topic.is_dollar() && self.0.starts_with(['+', '#']) {
            return false;
        }
        let mut names = topic.levels();
        for wanted in self.levels() {
            if wanted == "#" {
                return true;
            }
            match names.next() {
                Some(name) if wanted == "+" || wanted == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

/// A filter as it stands in SUBSCRIBE and UNSUBSCRIBE: `filter` or `$share/group/filter` (MQTT 5.0 §4.8.2).
///
/// The form is recognised in every version of the protocol: brokers offer shared subscriptions to 3.1.1 clients too.
///
/// ```
/// use quelea_mqtt::{SubscribeFilter, TopicError};
/// let shared = SubscribeFilter::parse("$share/workers/jobs/#", 128)?;
/// assert_eq!((shared.group, shared.filter.as_str()), (Some("workers"), "jobs/#"));
/// assert_eq!(SubscribeFilter::parse("$share/workers", 128), Err(TopicError::ShareName));
/// # Ok::<(), TopicError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SubscribeFilter<'a> {
    text: &'a str,
    /// The share name, if the subscription is a shared one.
    pub group: Option<&'a str>,
    /// The filter proper.
    pub filter: TopicFilter<'a>,
}

impl<'a> SubscribeFilter<'a> {
    /// Takes a text apart and checks it; `levels_max` bounds the levels of the filter proper.
    ///
    /// # Errors
    /// [`TopicError`], never `Wildcard`.
    pub fn parse(text: &'a str, levels_max: usize) -> Result<Self, TopicError> {
        let Some(shared) = text.strip_prefix(SHARE_PREFIX) else {
            return Ok(Self { text, group: None, filter: TopicFilter::new(text, levels_max)? });
        };
        if text.len() > TEXT_BYTES_MAX {
            return Err(TopicError::TooLong);
        }
        let (group, filter) = shared.split_once('/').ok_or(TopicError::ShareName)?;
        if group.is_empty() || filter.is_empty() || group.bytes().any(is_wildcard) {
            return Err(TopicError::ShareName);
        }
        if group.as_bytes().contains(&0) {
            return Err(TopicError::Nul);
        }
        Ok(Self { text, group: Some(group), filter: TopicFilter::new(filter, levels_max)? })
    }

    /// The whole text, `$share/group/` included.
    pub const fn as_str(&self) -> &'a str {
        self.text
    }

    /// True for `$share/group/filter`.
    pub const fn is_shared(&self) -> bool {
        self.group.is_some()
    }
}

/// True if a text asks for a shared subscription, well-formed or not.
pub(crate) fn asks_to_share(text: &str) -> bool {
    text.starts_with(SHARE_PREFIX)
}

/// Length and number of levels; what the characters are is checked by the callers.
#[inline]
fn check_text(text: &str, levels_max: usize) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(TopicError::TooLong);
    }
    // A text shorter than the limit cannot have more levels than the limit: the usual topic is not counted at all.
    if text.len() >= levels_max && text.bytes().filter(|&byte| byte == b'/').count() >= levels_max {
        return Err(TopicError::TooManyLevels);
    }
    Ok(())
}

#[cold]
fn name_fault(text: &str) -> TopicError {
    if text.as_bytes().contains(&0) { TopicError::Nul } else { TopicError::Wildcard }
}

/// `#` only as the whole last level, `+` only as a whole level.
fn check_wildcards(text: &str) -> Result<(), TopicError> {
    let mut levels = text.split('/').peekable();
    while let Some(level) = levels.next() {
        let alone = level.len() == 1;
        let bad_plus = level.contains('+') && !alone;
        let bad_hash = level.contains('#') && !(alone && levels.peek().is_none());
        if bad_plus || bad_hash {
            return Err(TopicError::WildcardPosition);
        }
    }
    Ok(())
}

const fn is_wildcard(byte: u8) -> bool {
    matches!(byte, b'+' | b'#')
}

/// True if a byte is 0, `+` or `#`, eight bytes at a time.
///
/// None of the three is part of a longer UTF-8 sequence, so bytes may be searched instead of characters.
#[inline]
fn has_nul_or_wildcard(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut found = 0;
    for word in words {
        found |= zeroes_nul_or_wildcard(u64::from_le_bytes(*word));
    }
    if rest.is_empty() {
        return found != 0;
    }
    // The tail is read as the last eight bytes of the text, if there are eight; looking twice at some does not matter.
    match bytes.last_chunk::<8>() {
        Some(tail) => found | zeroes_nul_or_wildcard(u64::from_le_bytes(*tail)) != 0,
        None => rest.iter().any(|&byte| byte == 0 || is_wildcard(byte)),
    }
}

/// Non-zero if one of the eight bytes is 0, `+` or `#`.
///
/// `(x - 0x01…) & !x & 0x80…` marks the zero bytes of `x`; a borrow may mark a byte above a zero byte as well, which
/// does not change whether there is one. `+` and `#` differ in one bit, so that one search finds both.
const fn zeroes_nul_or_wildcard(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const DIFFERENT: u8 = b'+' ^ b'#';
    const _: () = assert!(DIFFERENT.is_power_of_two());
    const fn zeroes(x: u64) -> u64 {
        x.wrapping_sub(ONES) & !x & (ONES << 7)
    }
    zeroes(word) | zeroes((word | (ONES * DIFFERENT as u64)) ^ (ONES * (b'#' | DIFFERENT) as u64))
}

/// What a shared subscription begins with (`[MQTT-4.8.2-1]`).
const SHARE_PREFIX: &str = "$share/";

macro_rules! shows_as_its_text {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
    )*};
}
shows_as_its_text! { TopicName TopicFilter SubscribeFilter }
