//! Reads the layers, checks each by itself, lays them over one another and remembers who said what.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::de::DeTable;
use toml::{Table, Value};

use super::{Config, ConfigError, Origin, Problem, rules};

/// A configuration with the origin of every key that is not a default.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// `section.key` → who said it.
    pub origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// What is wrong with a file that the configuration names, told with the place that names it; `None` if none does.
    #[must_use]
    pub fn problem_of_file(&self, path: &Path, what: &str) -> Option<Problem> {
        let tls = &self.config.tls;
        let node = [("tls.certificate".to_owned(), &tls.certificate), ("tls.key".to_owned(), &tls.key)];
        let listeners = self.config.listeners.iter().enumerate().flat_map(|(index, listener)| {
            let key = |name: &str| format!("listeners[{index}].{name}");
            [
                (key("certificate"), &listener.certificate),
                (key("key"), &listener.key),
                (key("client_ca"), &listener.client_ca),
            ]
        });
        let (key, _) = node.into_iter().chain(listeners).find(|(_, named)| named.as_deref() == Some(path))?;
        let what = format!("{}: {what}", path.display());
        Some(Problem { origin: origin_of(&self.origins, &key), key: Some(key), what })
    }
}

/// One value given outside the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The variable or flag.
    pub origin: Origin,
    /// `section`.
    pub section: String,
    /// `key`.
    pub key: String,
    /// The value as typed.
    pub text: String,
}

/// Prefix of the variables that are read.
const PREFIX: &str = "QUELEA_";

/// Largest configuration file that is read: far above any honest one, far below harm.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Loads `file` (if any), then the variables of `environment`, then `flags`, and applies the rules to the result.
///
/// # Errors
/// The first key of a layer that cannot be read, or all rules that the whole breaks.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    flags: Vec<Override>,
) -> Result<Loaded, ConfigError> {
    let mut layers = Layers { table: Table::new(), origins: BTreeMap::new() };
    if let Some(path) = file {
        layers.lay_file(path, &read_file(path)?)?;
    }
    for over in environment_overrides(environment)?.into_iter().chain(flags) {
        layers.lay_override(over)?;
    }
    layers.finish()
}

struct Layers {
    table: Table,
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    fn lay_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let origin = |line: usize| Origin::File { path: path.to_owned(), line };
        let keys = keys_of(text);
        if let Err(error) = toml::from_str::<Config>(text) {
            let span = error.span().unwrap_or(0..0);
            let key = keys.iter().rev().find(|key| key.holds(&span)).map(|key| key.name.clone());
            let line = if error.span().is_some() { line_of(text, span.start) } else { 0 };
            return Err(Problem { origin: origin(line), key, what: sentence(error.message()) }.into());
        }
        self.table = text.parse().map_err(|error: toml::de::Error| Problem {
            origin: origin(0),
            key: None,
            what: sentence(error.message()),
        })?;
        let said = keys.into_iter().map(|key| (key.name, origin(line_of(text, key.span.start))));
        self.origins.extend(said);
        Ok(())
    }

    fn lay_override(&mut self, over: Override) -> Result<(), ConfigError> {
        let name = format!("{}.{}", over.section, over.key);
        let value = readable(&over).map_err(|message| Problem {
            origin: over.origin.clone(),
            key: Some(name.clone()),
            what: sentence(&message),
        })?;
        self.origins.insert(name, over.origin);
        let section = self.table.entry(over.section).or_insert_with(|| Value::Table(Table::new()));
        let section = section.as_table_mut().expect("the file's layer was read as sections");
        section.insert(over.key, value);
        Ok(())
    }

    fn finish(self) -> Result<Loaded, ConfigError> {
        let config = Config::deserialize(self.table).expect("every layer was read by itself");
        let origins = self.origins;
        let problem = |broken: rules::Broken| Problem {
            origin: origin_of(&origins, &broken.key),
            key: Some(broken.key),
            what: broken.what,
        };
        let problems: Vec<_> = rules::broken(&config).into_iter().map(problem).collect();
        if problems.is_empty() { Ok(Loaded { config, origins }) } else { Err(ConfigError { problems }) }
    }
}

/// Who said a key; for one that nobody said, who said the listener that it is missing in.
fn origin_of(origins: &BTreeMap<String, Origin>, key: &str) -> Origin {
    let table =
        || key.rsplit_once('.').and_then(|(table, _)| origins.get(table)).filter(|_| key.contains('['));
    origins.get(key).or_else(table).cloned().unwrap_or(Origin::Program)
}

fn read_file(path: &Path) -> Result<String, Problem> {
    let problem =
        |what: String| Problem { origin: Origin::File { path: path.to_owned(), line: 0 }, key: None, what };
    let length = std::fs::metadata(path).map_err(|error| problem(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(problem(format!("{length} bytes are too many, expected at most {FILE_BYTES_MAX}")));
    }
    std::fs::read_to_string(path).map_err(|error| problem(error.to_string()))
}

/// `QUELEA_TCP__LISTEN` → `tcp.listen`, in the order of the names. A variable without `__` is not ours: Kubernetes gives
/// every container `QUELEA_SERVICE_HOST` and its like when a service is called quelea.
fn environment_overrides(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<Override>, ConfigError> {
    let mut overrides = Vec::new();
    for (name, value) in environment {
        let Some(name) = name.to_str() else { continue };
        let Some((section, key)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once("__")) else {
            continue;
        };
        let origin = Origin::Environment(name.to_owned());
        let Ok(text) = value.into_string() else {
            let what = "the value is not UTF-8".to_owned();
            return Err(Problem { origin, key: None, what }.into());
        };
        let (section, key) = (section.to_ascii_lowercase(), key.to_ascii_lowercase());
        overrides.push(Override { origin, section, key, text });
    }
    overrides.sort_by(|a, b| (&a.section, &a.key).cmp(&(&b.section, &b.key)));
    Ok(overrides)
}

/// The value of an override as the key wants it: `4` may be a number, `0.0.0.0:1883` must be a string. What a TOML
/// file would hold is tried first, then the bare text.
fn readable(over: &Override) -> Result<Value, String> {
    let refused = match literal(&over.text) {
        Some(value) => match try_alone(over, value.clone()) {
            Ok(()) => return Ok(value),
            Err(message) => Some(message),
        },
        None => None,
    };
    let text = Value::String(over.text.clone());
    match try_alone(over, text.clone()) {
        Ok(()) => Ok(text),
        Err(message) => Err(refused.unwrap_or(message)),
    }
}

/// A number, truth value, list or quoted string; text that merely looks like a date is text.
fn literal(text: &str) -> Option<Value> {
    let value = toml::from_str::<Table>(&format!("value = {text}")).ok()?.remove("value")?;
    (!value.is_datetime()).then_some(value)
}

fn try_alone(over: &Override, value: Value) -> Result<(), String> {
    let section = Table::from_iter([(over.key.clone(), value)]);
    let table = Table::from_iter([(over.section.clone(), Value::Table(section))]);
    Config::deserialize(table).map(drop).map_err(|error| error.message().to_owned())
}

/// A key of the file and the bytes from its name to the end of its value.
struct Key {
    name: String,
    span: Range<usize>,
}

impl Key {
    fn holds(&self, span: &Range<usize>) -> bool {
        self.span.start <= span.start && span.start < self.span.end
    }
}

/// The keys of a file, sections before what they hold; none if the file is not TOML.
fn keys_of(text: &str) -> Vec<Key> {
    let Ok(table) = DeTable::parse(text) else { return Vec::new() };
    let mut keys = Vec::new();
    for (section, held) in table.get_ref() {
        let whole = section.span().start..held.span().end.max(section.span().end);
        keys.push(Key { name: section.get_ref().to_string(), span: whole });
        if let Some(table) = held.get_ref().as_table() {
            push_keys(&mut keys, section.get_ref(), table);
        }
        for (index, item) in held.get_ref().as_array().into_iter().flat_map(|array| array.iter()).enumerate()
        {
            let Some(table) = item.get_ref().as_table() else { continue };
            let name = format!("{}[{index}]", section.get_ref());
            let last = table.iter().map(|(_, value)| value.span().end).max();
            let end = last.unwrap_or(0).max(item.span().end);
            keys.push(Key { name: name.clone(), span: item.span().start..end });
            push_keys(&mut keys, &name, table);
        }
    }
    keys
}

fn push_keys(keys: &mut Vec<Key>, section: &str, held: &DeTable<'_>) {
    for (key, value) in held {
        let name = format!("{section}.{}", key.get_ref());
        keys.push(Key { name, span: key.span().start..value.span().end });
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// One line, in the operator's words: serde's "field" is our "key".
fn sentence(message: &str) -> String {
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
    fn only_variables_with_a_section_are_ours() {
        let environment =
            [("QUELEA_SERVICE_HOST", "10.0.0.1"), ("QUELEA_TCP__LISTEN", "x"), ("PATH", "/bin")];
        let found = environment_overrides(environment.map(|(n, v)| (n.into(), v.into()))).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].section.as_str(), found[0].key.as_str()), ("tcp", "listen"));
    }

    #[test]
    fn lines_are_counted_from_one() {
        assert_eq!(line_of("a\nb\nc", 0), 1);
        assert_eq!(line_of("a\nb\nc", 2), 2);
        assert_eq!(line_of("a\nb\nc", 99), 3);
    }
}
