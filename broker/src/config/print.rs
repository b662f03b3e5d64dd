//! Prints the effective configuration as a file that can be read back.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::Loaded;

/// Keys without a default: printed as a comment while unset, so that the printed file shows every key.
const UNSET: [(&str, &str, &str); 5] = [
    ("quic", "handshakes_max", "unset: what an eighth of each shard's memory holds, from 64 to 4096 a shard"),
    ("tls", "certificate", "unset: a development certificate is made in the data directory"),
    ("tls", "key", "unset"),
    ("ws", "origins", "unset: pages of this machine may connect on loopback, none beyond"),
    ("wss", "origins", "unset: pages of this machine may connect on loopback, none beyond"),
];

impl Loaded {
    /// The effective configuration in TOML: every key, and beside each that is not a default who said it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let table =
            Table::try_from(&self.config).expect("a configuration consists of tables of plain values");
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
        for (_, key, comment) in
            UNSET.iter().filter(|(of, key, _)| *of == section && !held.contains_key(*key))
        {
            let _ = writeln!(out, "# {key} is {comment}");
        }
    }
}
