//! Prints the effective configuration as a file that can be read back.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::{Loaded, keys, rules};

impl Loaded {
    /// The effective configuration in TOML: every key, and beside each that is not a default who said it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let table = rules::plain(&self.config);
        let mut out = format!("# Effective configuration of quelea {}.\n", env!("CARGO_PKG_VERSION"));
        for (section, held) in &table {
            match held {
                Value::Table(held) => {
                    let _ = writeln!(out, "\n[{section}]");
                    self.print_keys(&mut out, section, held);
                }
                Value::Array(items) => {
                    for (index, item) in items.iter().filter_map(Value::as_table).enumerate() {
                        let _ = writeln!(out, "\n[[{section}]]");
                        self.print_keys(&mut out, &format!("{section}[{index}]"), item);
                    }
                }
                _ => unreachable!("a configuration consists of sections"),
            }
        }
        out
    }

    fn print_keys(&self, out: &mut String, section: &str, held: &Table) {
        for (key, value) in held {
            let _ = match self.origins.get(&format!("{section}.{key}")) {
                // A path may hold a line break; a comment may not.
                Some(origin) => {
                    writeln!(out, "{key} = {value}  # {}", origin.to_string().replace(char::is_control, " "))
                }
                None => writeln!(out, "{key} = {value}"),
            };
        }
        // Of keys without a default a comment, so that the printed file shows every key.
        for key in keys::section(section).map_or(&[][..], |section| section.keys) {
            if let Some(unset) = key.unset.as_ref().filter(|_| !held.contains_key(key.name)) {
                let _ = writeln!(out, "# {} is unset: {}", key.name, unset.meaning);
            }
        }
    }
}
