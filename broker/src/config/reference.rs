//! The reference: a file with every section and every key, made of the table that the parser uses and of the defaults.

use std::fmt::Write as _;
use std::net::{Ipv6Addr, SocketAddr};

use toml::{Table, Value};

use super::keys::{Key, LISTENERS, SECTIONS, Section};
use super::{Config, Listener, Transport, rules};

const HEAD: &str = "\
# Every setting of quelea: what it is for, what it may be, and its default. `quelea config` prints this file.
#
# A line that begins with `#` and a name is a setting with its default, or, where it has none, with an example. Take the
# `#` away to set it. What is not set follows the defaults of the version that runs. Check the file before it is used:
#
#     quelea check --config quelea.toml
";

/// A configuration file that sets nothing and shows everything: each key in a comment, with its purpose, what it may be, and
/// its default.
#[must_use]
pub fn reference() -> String {
    let mut out = HEAD.to_owned();
    let config = Config { listeners: vec![example()], ..Config::default() };
    let defaults = rules::plain(&config);
    for section in SECTIONS {
        let held = match &defaults[section.name] {
            Value::Table(held) => held,
            list => list[0].as_table().expect("a listener is a table"),
        };
        print_section(&mut out, section, held);
    }
    out
}

/// A listener has no defaults for its type and address.
fn example() -> Listener {
    Listener::new(Transport::Tls, SocketAddr::from((Ipv6Addr::LOCALHOST, 8_885)))
}

fn print_section(out: &mut String, section: &Section, defaults: &Table) {
    let header = match section.name {
        // Unlike a section it would be something, even without a key.
        LISTENERS => format!("#[[{LISTENERS}]]"),
        name => format!("[{name}]"),
    };
    let _ = writeln!(out, "\n\n# {}\n{header}", section.purpose);
    for key in section.keys {
        print_key(out, key, defaults);
    }
}

fn print_key(out: &mut String, key: &Key, defaults: &Table) {
    let Key { name, purpose, .. } = key;
    let expected = capitalised(&key.shape.expected());
    let (value, unset) = match (&key.unset, defaults.get(*name)) {
        (Some(unset), _) => (unset.example.to_owned(), format!("; unset: {}", unset.meaning)),
        (None, Some(value)) => (value.to_string(), String::new()),
        (None, None) => unreachable!("{name} has neither a default nor a word for being unset"),
    };
    let _ = writeln!(out, "\n# {purpose}\n# {expected}{unset}.\n#{name} = {value}");
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
