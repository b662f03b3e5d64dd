//! Reads the layers, checks each by itself, lays them over one another and remembers who said what.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use serde::Deserialize;
use toml::{Table, Value};

use super::file::{self, FileLayer, sentence};
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

/// What the layers say as far as it can be read, and everything that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// What can be read; the default in place of what cannot.
    pub loaded: Loaded,
    /// What is wrong, in the order of the layers and of their lines.
    pub problems: Vec<Problem>,
}

/// Reads `file` (if any), then the variables of `environment`, then `flags`, and applies the rules to the result.
#[must_use]
pub fn read(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    flags: Vec<Override>,
) -> Reading {
    let FileLayer { table, origins, problems, unread } = file.map(file::read).unwrap_or_default();
    let mut layers = Layers { table, origins, problems, unread };
    let variables = layers.environment_overrides(environment);
    for over in variables.into_iter().chain(flags) {
        layers.lay_override(over);
    }
    layers.finish()
}

/// [`read`], for who needs a configuration that is in order.
///
/// # Errors
/// Everything that is wrong.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    flags: Vec<Override>,
) -> Result<Loaded, ConfigError> {
    let Reading { loaded, problems } = read(file, environment, flags);
    if problems.is_empty() { Ok(loaded) } else { Err(ConfigError { problems }) }
}

struct Layers {
    table: Table,
    origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
    /// Keys, sections and listeners that were said and could not be read: no rule is applied to what stands for them.
    unread: BTreeSet<String>,
}

impl Layers {
    fn lay_override(&mut self, over: Override) {
        let name = format!("{}.{}", over.section, over.key);
        let value = match readable(&over) {
            Ok(value) => value,
            Err(message) => {
                self.unread.insert(name.clone());
                let what = sentence(&message);
                return self.problems.push(Problem { origin: over.origin, key: Some(name), what });
            }
        };
        self.unread.remove(&name);
        self.origins.insert(name, over.origin);
        let section = self.table.entry(over.section).or_insert_with(|| Value::Table(Table::new()));
        let section =
            section.as_table_mut().expect("no value is readable under a name that is not a section's");
        section.insert(over.key, value);
    }

    fn finish(mut self) -> Reading {
        let config = Config::deserialize(self.table.clone()).expect("every key was read by itself");
        for broken in rules::broken(&config) {
            let mut concerned = broken.needs.iter().chain(&broken.other).chain([&broken.key]);
            let says_nothing = concerned.any(|key| self.is_unread(key));
            drop(concerned);
            if !says_nothing {
                let problem = self.problem(broken);
                self.problems.push(problem);
            }
        }
        let mut problems = self.problems;
        problems.sort_by_key(|problem| match &problem.origin {
            Origin::File { line, .. } => (0, *line),
            Origin::Environment(_) => (1, 0),
            Origin::Flag(_) => (2, 0),
            Origin::Program => (3, 0),
        });
        Reading { loaded: Loaded { config, origins: self.origins }, problems }
    }

    fn is_unread(&self, key: &str) -> bool {
        let table = key.rsplit_once('.').map_or(key, |(table, _)| table);
        self.unread.contains(key) || self.unread.contains(table)
    }

    fn problem(&self, broken: rules::Broken) -> Problem {
        let mut what = broken.what;
        if let Some(other) = broken.other.filter(|other| *other != broken.key) {
            match origin_of(&self.origins, &other) {
                Origin::Program => what.push_str(" (a default)"),
                origin => what.push_str(&format!(" ({origin})")),
            }
        }
        Problem { origin: origin_of(&self.origins, &broken.key), key: Some(broken.key), what }
    }

    /// `QUELEA_TCP__LISTEN` → `tcp.listen`, in the order of the names. A variable without `__` is not ours: Kubernetes gives
    /// every container `QUELEA_SERVICE_HOST` and its like when a service is called quelea.
    fn environment_overrides(
        &mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Vec<Override> {
        let mut overrides = Vec::new();
        for (name, value) in environment {
            let Some(name) = name.to_str() else { continue };
            let Some((section, key)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once("__"))
            else {
                continue;
            };
            let origin = Origin::Environment(name.to_owned());
            let Ok(text) = value.into_string() else {
                let what = "the value is not UTF-8".to_owned();
                self.problems.push(Problem { origin, key: None, what });
                continue;
            };
            let (section, key) = (section.to_ascii_lowercase(), key.to_ascii_lowercase());
            overrides.push(Override { origin, section, key, text });
        }
        overrides.sort_by(|a, b| (&a.section, &a.key).cmp(&(&b.section, &b.key)));
        overrides
    }
}

/// Who said a key; for one that nobody said, who said the listener that it is missing in.
fn origin_of(origins: &BTreeMap<String, Origin>, key: &str) -> Origin {
    let table =
        || key.rsplit_once('.').and_then(|(table, _)| origins.get(table)).filter(|_| key.contains('['));
    origins.get(key).or_else(table).cloned().unwrap_or(Origin::Program)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_with_a_section_are_ours() {
        let environment =
            [("QUELEA_SERVICE_HOST", "10.0.0.1"), ("QUELEA_TCP__LISTEN", "127.0.0.1:1"), ("PATH", "/bin")];
        let reading = read(None, environment.map(|(name, value)| (name.into(), value.into())), Vec::new());
        assert_eq!(reading.problems, []);
        assert_eq!(reading.loaded.origins.keys().collect::<Vec<_>>(), ["tcp.listen"]);
    }
}
