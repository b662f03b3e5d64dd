//! Reads the layers, checks each by itself, lays them over one another and remembers who said what.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use serde::Deserialize;
use toml::de::{DeString, DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::file::{self, FileLayer};
use super::keys::{self, LISTENERS};
use super::value::{faults, plain};
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
    let file = file.map(file::read).unwrap_or_default();
    let mut layers = Layers { file };
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

/// The file, with what is laid over it.
struct Layers {
    file: FileLayer,
}

impl Layers {
    fn lay_override(&mut self, over: Override) {
        let name = format!("{}.{}", over.section, over.key);
        let value = match readable(&over) {
            Ok(value) => value,
            Err(refusals) => {
                self.file.unread.insert(name.clone());
                let section = keys::section(&over.section);
                let meant = section.and_then(|section| keys::meant(section, &over.key));
                let meant = meant.map(|meant| format!("{}.{meant}", over.section));
                // Unless it has been said, too, the key that was meant could not be read.
                self.file.unread.extend(meant.filter(|meant| !self.file.origins.contains_key(meant)));
                let problem = |what| Problem { origin: over.origin.clone(), key: Some(name.clone()), what };
                return self.file.problems.extend(refusals.into_iter().map(problem));
            }
        };
        self.file.unread.remove(&name);
        self.file.origins.insert(name, over.origin);
        let section = self.file.table.entry(over.section).or_insert_with(|| Value::Table(Table::new()));
        let section =
            section.as_table_mut().expect("no value is readable under a name that is not a section's");
        section.insert(over.key, value);
    }

    fn finish(mut self) -> Reading {
        let config = Config::deserialize(self.file.table.clone()).expect("every key was read by itself");
        let broken = if self.file.is_torn { Vec::new() } else { rules::broken(&config) };
        for broken in broken {
            let mut concerned = broken.needs.iter().chain(&broken.other).chain([&broken.key]);
            let says_nothing = concerned.any(|key| self.is_unread(key));
            drop(concerned);
            let problem = self.problem(broken);
            if !says_nothing && !self.file.problems.contains(&problem) {
                self.file.problems.push(problem);
            }
        }
        let FileLayer { mut problems, origins, .. } = self.file;
        problems.sort_by_key(|problem| match &problem.origin {
            Origin::File { line, .. } => (0, *line),
            Origin::Environment(_) => (1, 0),
            Origin::Flag(_) => (2, 0),
            Origin::Program => (3, 0),
        });
        Reading { loaded: Loaded { config, origins }, problems }
    }

    fn is_unread(&self, key: &str) -> bool {
        let table = key.rsplit_once('.').map_or(key, |(table, _)| table);
        self.file.unread.contains(key) || self.file.unread.contains(table)
    }

    fn problem(&self, broken: rules::Broken) -> Problem {
        let mut what = broken.what;
        if let Some(other) = broken.other.filter(|other| *other != broken.key) {
            match origin_of(&self.file.origins, &other) {
                Origin::Program => what.push_str(" (a default)"),
                origin => what.push_str(&format!(" ({origin})")),
            }
        }
        Problem { origin: origin_of(&self.file.origins, &broken.key), key: Some(broken.key), what }
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
                self.file.problems.push(Problem { origin, key: None, what });
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
fn readable(over: &Override) -> Result<Value, Vec<String>> {
    let section = keys::section(&over.section).ok_or_else(|| vec![keys::unknown_section(&over.section)])?;
    if section.name == LISTENERS {
        return Err(vec!["a list can only be said in a file, expected [[listeners]] there".to_owned()]);
    }
    let key = section.keys.iter().find(|key| key.name == over.key);
    let key = key.ok_or_else(|| vec![keys::unknown_key(section, &over.key)])?;
    let assignment = format!("value = {}", over.text);
    let text = Spanned::new(0..0, DeValue::String(DeString::Borrowed(&over.text)));
    let mut refused = None;
    for value in literal(&assignment).into_iter().chain([text]) {
        let faults = faults(section.name, key, &value);
        if faults.is_empty() {
            return Ok(plain(&value));
        }
        refused.get_or_insert_with(|| faults.into_iter().map(|fault| fault.what).collect());
    }
    Err(refused.expect("the text was tried"))
}

/// A number, truth value, list or quoted string; text that merely looks like a date is text.
fn literal(assignment: &str) -> Option<Spanned<DeValue<'_>>> {
    let value = DeTable::parse(assignment).ok()?.into_inner().remove("value")?;
    (!matches!(value.get_ref(), DeValue::Datetime(_))).then_some(value)
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
