//! How values are written in a configuration: sizes, durations, addresses, counts.
//!
//! Each parser refuses with one sentence of what it expected; serde puts it behind what was found. Every value prints in
//! the form that it is read in, so `--print-config` can be read back.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use quelea_shard::door::IpRange;
use serde::de::{self, Deserializer, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A number of bytes, written `"64KiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// How many shards run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shards {
    /// One for each core that the process may use.
    Auto,
    /// So many, 1 to 128.
    Count(usize),
}

/// The memory ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryMax {
    /// Percent of the machine's memory, or of the cgroup's limit where that is lower.
    Percent(u8),
    /// So many bytes.
    Bytes(ByteSize),
}

/// The units of sizes, for sentences.
pub(super) const SIZE_UNIT_NAMES: &str = "B, kB, MB, GB, KiB, MiB, GiB";
/// The units of durations, for sentences.
pub(super) const DURATION_UNIT_NAMES: &str = "ms, s, m, h, d";

const SIZE: &str = "a size such as \"64KiB\" (units: B, kB, MB, GB, KiB, MiB, GiB)";
const DURATION: &str = "a duration such as \"10s\" (units: ms, s, m, h, d)";
/// What sections listen on.
pub(super) const LISTEN: &str =
    "an address with a port such as \"127.0.0.1:1883\" or \"[::]:1883\", a list of them, or \"\" for none";
/// What one listener listens on.
pub(super) const ADDRESS: &str = "an address with a port such as \"127.0.0.1:1883\" or \"[::]:1883\"";
/// What a PROXY header is believed from.
pub(super) const RANGE: &str = "an address or a range of them such as \"10.0.0.0/8\"";
/// How many shards.
pub(super) const SHARDS: &str = "\"auto\" or a number from 1 to 128";
const MEMORY: &str = "a share such as \"70%\" (1% to 95%) or a size such as \"2GiB\"";
const COUNT: &str = "a whole number from 0 to 4294967295";

/// A set of shards is a bit set of this width.
pub(super) const SHARDS_MAX: i64 = 128;

/// Largest unit first: printing takes the first that divides the value.
const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

/// Units of time in milliseconds, largest first. `ms` stands before `m` and `s` when parsing: see [`split_unit`].
const DURATION_UNITS_MS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// `"64KiB"` → (64, `"KiB"`): the digits, then the unit; nothing else is let through.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(unit_at);
    Some((digits.parse().ok()?, unit.strip_prefix(' ').unwrap_or(unit)))
}

fn parse_with_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

fn print_with_units(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| value.is_multiple_of(*factor) && value >= *factor;
    match units.iter().find(fits) {
        Some((name, factor)) => format!("{}{name}", value / factor),
        None => format!("0{}", units[units.len() - 1].0),
    }
}

impl ByteSize {
    pub(super) fn parse(text: &str) -> Option<Self> {
        parse_with_units(text, &SIZE_UNITS).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print_with_units(self.0, &SIZE_UNITS))
    }
}

impl fmt::Display for MemoryMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => bytes.fmt(f),
        }
    }
}

impl MemoryMax {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(percent) => {
                percent.parse().ok().filter(|percent| (1..=95).contains(percent)).map(Self::Percent)
            }
            None => ByteSize::parse(text).map(Self::Bytes),
        }
    }
}

/// Reads a value that is written as one string.
struct Text<T> {
    expected: &'static str,
    parse: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self.expected))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text { expected: SIZE, parse: Self::parse })
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MemoryMax {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text { expected: MEMORY, parse: Self::parse })
    }
}

impl Serialize for MemoryMax {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Shards {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShardsVisitor)
    }
}

impl Serialize for Shards {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Count(count) => serializer.serialize_u64(*count as u64),
        }
    }
}

struct ShardsVisitor;

impl Visitor<'_> for ShardsVisitor {
    type Value = Shards;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHARDS)
    }

    fn visit_i64<E: de::Error>(self, count: i64) -> Result<Shards, E> {
        match usize::try_from(count) {
            Ok(shards) if (1..=SHARDS_MAX).contains(&count) => Ok(Shards::Count(shards)),
            _ => Err(E::invalid_value(Unexpected::Signed(count), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Shards, E> {
        if text != "auto" {
            return Err(E::invalid_value(Unexpected::Str(text), &self));
        }
        Ok(Shards::Auto)
    }
}

/// A [`Duration`], written `"10s"`.
pub(super) mod duration {
    use super::*;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        deserializer.deserialize_str(Text { expected: DURATION, parse })
    }

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&text(*value))
    }

    pub(in crate::config) fn parse(text: &str) -> Option<Duration> {
        parse_with_units(text, &DURATION_UNITS_MS).map(Duration::from_millis)
    }

    /// As it is written in a file.
    pub(in crate::config) fn text(value: Duration) -> String {
        match u64::try_from(value.as_millis()).unwrap_or(u64::MAX) {
            0 => "0s".to_owned(),
            ms => print_with_units(ms, &DURATION_UNITS_MS),
        }
    }
}

/// Addresses to listen on: one string (commas allowed, so that a variable or a flag can carry several) or a list.
pub(super) mod listen {
    use super::*;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<SocketAddr>, D::Error> {
        deserializer.deserialize_any(ListenVisitor)
    }

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &[SocketAddr],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(value.iter().map(ToString::to_string))
    }
}

/// One address.
pub(super) mod address {
    use super::*;

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SocketAddr, D::Error> {
        deserializer.deserialize_str(Text { expected: ADDRESS, parse: |text: &str| text.trim().parse().ok() })
    }

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &SocketAddr,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }
}

/// Ranges of addresses.
pub(super) mod ranges {
    use super::*;

    /// One of a list; read by itself so that an error has the line of its own item.
    struct Item(IpRange);

    impl<'de> Deserialize<'de> for Item {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let parse = |text: &str| text.trim().parse().ok().map(Self);
            deserializer.deserialize_str(Text { expected: RANGE, parse })
        }
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<IpRange>, D::Error> {
        let items = Vec::<Item>::deserialize(deserializer)?;
        Ok(items.into_iter().map(|Item(range)| range).collect())
    }

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &[IpRange],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(value.iter().map(ToString::to_string))
    }
}

struct ListenVisitor;

/// One address of a list; read by itself so that an error has the line of its own item.
struct Address(SocketAddr);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parse = |text: &str| text.trim().parse().ok().map(Self);
        deserializer.deserialize_str(Text { expected: LISTEN, parse })
    }
}

impl<'de> Visitor<'de> for ListenVisitor {
    type Value = Vec<SocketAddr>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(LISTEN)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let one =
            |part: &str| part.trim().parse().map_err(|_| E::invalid_value(Unexpected::Str(part), &self));
        text.split(',').map(one).collect()
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut addresses = Vec::new();
        while let Some(Address(address)) = items.next_element()? {
            addresses.push(address);
        }
        Ok(addresses)
    }
}

/// A count whose range is checked later, with the range in the sentence.
pub(super) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    deserializer.deserialize_i64(CountVisitor)
}

/// A count that need not be given.
pub(super) fn some_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    count(deserializer).map(Some)
}

/// A path, for a person: what is not UTF-8 in it is replaced, as a file of settings could not hold it.
pub(super) fn some_path<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(serializer)
}

struct CountVisitor;

impl Visitor<'_> for CountVisitor {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(COUNT)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<u32, E> {
        u32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_and_decimal_units() {
        let cases = [("1B", 1), ("64KiB", 65_536), ("1 MiB", 1 << 20), ("2GiB", 2 << 30), ("5MB", 5_000_000)];
        for (text, bytes) in cases {
            assert_eq!(ByteSize::parse(text), Some(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn sizes_without_a_known_unit_or_beyond_64_bits_are_refused() {
        for text in
            ["", "12", "KiB", "1.5MiB", "-1B", "1KIB", "1  MiB", "99999999999999999999B", "99999999999999GiB"]
        {
            assert_eq!(ByteSize::parse(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_print_in_the_form_that_they_are_read_in() {
        for bytes in [0, 1, 1_000, 1_024, 65_537, 1 << 20, 3_000_000, 5 << 30, u64::MAX] {
            assert_eq!(ByteSize::parse(&ByteSize(bytes).to_string()), Some(ByteSize(bytes)));
        }
        assert_eq!(ByteSize(1 << 20).to_string(), "1MiB");
    }

    #[test]
    fn durations_print_in_the_form_that_they_are_read_in() {
        for (ms, text) in [(0, "0ms"), (1, "1ms"), (10_000, "10s"), (90_000, "90s"), (604_800_000, "7d")] {
            assert_eq!(print_with_units(ms, &DURATION_UNITS_MS), text);
            assert_eq!(parse_with_units(text, &DURATION_UNITS_MS), Some(ms));
        }
    }

    #[test]
    fn shares_of_memory_stay_between_1_and_95_percent() {
        assert_eq!(MemoryMax::parse("70%"), Some(MemoryMax::Percent(70)));
        assert_eq!(MemoryMax::parse("2GiB"), Some(MemoryMax::Bytes(ByteSize(2 << 30))));
        for text in ["0%", "96%", "%", "70", "70 %%"] {
            assert_eq!(MemoryMax::parse(text), None, "{text}");
        }
    }
}
