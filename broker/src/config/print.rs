//! Prints the effective configuration as a file that can be read back.

use std::fmt::Write as _;

use toml::Table;

use super::Loaded;

/// Keys without a default: printed as a comment while unset, so that the printed file shows every key.
const UNSET: [(&str, &str, &str); 2] = [
    ("tls", "certificate", "unset: a development certificate is made in the data directory"),
    ("tls", "key", "unset"),
];

impl Loaded {
    /// The effective configuration in TOML: every key, and beside each that is not a default who said it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let table =
            Table::try_from(&self.config).expect("a configuration consists of tables of plain values");
        let mut out = format!("# Effective configuration of quelea {}.\n", env!("CARGO_PKG_VERSION"));
        for (section, held) in &table {
            let _ = writeln!(out, "\n[{section}]");
            for (key, value) in held.as_table().into_iter().flatten() {
                let _ = match self.origins.get(&format!("{section}.{key}")) {
                    // A path may hold a line break; a comment may not.
                    Some(origin) => writeln!(
                        out,
                        "{key} = {value}  # {}",
                        origin.to_string().replace(char::is_control, " ")
                    ),
                    None => writeln!(out, "{key} = {value}"),
                };
            }
            for (_, key, comment) in unset(section, held) {
                let _ = writeln!(out, "# {key} is {comment}");
            }
        }
        out
    }
}

fn unset<'a>(
    section: &'a str,
    held: &'a toml::Value,
) -> impl Iterator<Item = &'static (&'static str, &'static str, &'static str)> + 'a {
    UNSET.iter().filter(move |(of, key, _)| *of == section && held.get(key).is_none())
}
