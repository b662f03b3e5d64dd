//! The house rules that a program can check: who may import whom, where `unsafe` may stand, what the pure crates promise.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who may import which of our crates, for running and for building (the table of docs/ARCHITECTURE.md).
const EDGES: [(&str, &[&str]); 9] = [
    ("quelea-mqtt", &[]),
    ("quelea-udp-io", &[]),
    ("quelea-router", &["quelea-mqtt"]),
    ("quelea-shard", &["quelea-router", "quelea-mqtt"]),
    ("quelea-client", &["quelea-mqtt"]),
    ("quelea", &["quelea-shard", "quelea-router", "quelea-mqtt", "quelea-udp-io"]),
    ("quelea-load", &["quelea-client", "quelea-mqtt", "quelea-udp-io"]),
    ("quelea-sim", &["quelea-shard", "quelea-client", "quelea-router", "quelea-mqtt"]),
    ("quelea-benches", ANYTHING),
];

/// Tests may import what the crate under test talks to; nobody may import the benches.
const ANYTHING: &[&str] = &[
    "quelea-mqtt",
    "quelea-udp-io",
    "quelea-router",
    "quelea-shard",
    "quelea-client",
    "quelea",
    "quelea-load",
    "quelea-sim",
];

/// No I/O, no clock, no threads, no `unsafe`.
const PURE: [&str; 4] = ["mqtt", "router", "shard", "sim"];

/// The only crate that speaks to the kernel by itself.
const UNSAFE_ALLOWED: &str = "udp-io";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files of ours with one of these endings, as (path from the root, text). Generated and fetched folders are left out.
fn files(endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            let is_ours =
                !["target", "node_modules", "artifacts", "corpus", "__pycache__"].contains(&name.as_str());
            if entry.file_type().unwrap().is_dir() {
                if is_ours && (!name.starts_with('.') || name == ".ci") {
                    folders.push(path);
                }
            } else if entry.file_type().unwrap().is_file()
                && endings.iter().any(|ending| name.ends_with(ending))
                && let Ok(text) = fs::read_to_string(&path)
            {
                found.push((path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    found
}

fn metadata() -> serde_json::Value {
    let arguments = ["metadata", "--no-deps", "--format-version", "1", "--offline"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Edges between our crates as (from, to, is for tests only).
fn edges(metadata: &serde_json::Value) -> BTreeSet<(String, String, bool)> {
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeSet<&str> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    let mut edges = BTreeSet::new();
    for package in packages {
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap();
            if names.contains(name) {
                let from = package["name"].as_str().unwrap().to_owned();
                edges.insert((from, name.to_owned(), dependency["kind"] == "dev"));
            }
        }
    }
    edges
}

#[test]
fn crates_import_only_whom_the_architecture_lets_them() {
    let metadata = metadata();
    let table: BTreeMap<_, _> = EDGES.into_iter().collect();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        assert!(
            table.contains_key(name),
            "{name} is not in the table: add it there and to docs/ARCHITECTURE.md"
        );
    }
    let found = edges(&metadata);
    assert!(
        found.contains(&("quelea".to_owned(), "quelea-shard".to_owned(), false)),
        "no edges found: {found:?}"
    );
    for (from, to, is_for_tests) in found {
        let allowed = if is_for_tests { ANYTHING } else { table[from.as_str()] };
        assert!(allowed.contains(&to.as_str()), "{from} may not import {to}");
    }
}

#[test]
fn pure_crates_forbid_unsafe_and_link_the_lint_lists() {
    let lists = fs::canonicalize(root().join("scripts/pure-crate.clippy.toml")).unwrap();
    for folder in PURE {
        let lib = fs::read_to_string(root().join(folder).join("src/lib.rs")).unwrap();
        let forbids = lib.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]");
        assert!(forbids, "{folder}/src/lib.rs lacks #![forbid(unsafe_code)]");
        let link = root().join(folder).join("clippy.toml");
        let target = fs::canonicalize(&link).unwrap_or_else(|error| panic!("{}: {error}", link.display()));
        assert_eq!(target, lists, "{folder}/clippy.toml links elsewhere");
    }
    let client = fs::read_to_string(root().join("client/src/lib.rs")).unwrap();
    assert!(
        client.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]"),
        "client/src/lib.rs lacks the attribute"
    );
}

#[test]
fn unsafe_stands_only_where_the_kernel_is_met() {
    let mut found = Vec::new();
    let mut files_with_unsafe = BTreeSet::new();
    for (path, text) in files(&[".rs"]) {
        for line in lines_with_unsafe(&text) {
            if path.starts_with(&format!("{UNSAFE_ALLOWED}/")) {
                files_with_unsafe.insert(path.clone());
            } else if !is_counting_allocator(&path) {
                found.push(format!("{path}:{line}"));
            }
        }
    }
    assert!(found.is_empty(), "unsafe outside {UNSAFE_ALLOWED}: {found:#?}");
    assert!(files_with_unsafe.len() <= 8, "unsafe has spread over {files_with_unsafe:?}");
}

/// A global allocator that counts cannot be written without `unsafe`; measuring programs may have one, products not.
fn is_counting_allocator(path: &str) -> bool {
    let tests = ["/tests/allocation.rs", "/tests/heap/mod.rs"];
    path.starts_with("benches/")
        || path.contains("/examples/")
        || tests.iter().any(|test| path.ends_with(test))
}

/// Numbers of the lines in which `unsafe` stands as code: not in comments, strings or names such as `unsafe_code`.
fn lines_with_unsafe(text: &str) -> Vec<usize> {
    let code = without_comments_and_strings(text);
    let is_part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    let has_word = |line: &str| line.split(|c| !is_part_of_name(c)).any(|word| word == "unsafe");
    code.lines().enumerate().filter(|(_, line)| has_word(line)).map(|(index, _)| index + 1).collect()
}

/// Blanks comments, strings and characters out, line breaks stay. `'` opens a character only where it closes it again
/// (otherwise it is a lifetime).
fn without_comments_and_strings(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => end_of_line(&chars, at),
            ('/', Some('*')) => end_of_block_comment(&chars, at),
            ('r', Some('"' | '#')) if at == 0 || !chars[at - 1].is_alphanumeric() => {
                end_of_raw_string(&chars, at)
            }
            ('"', _) => end_of_quoted(&chars, at, '"'),
            ('\'', Some('\\')) => end_of_quoted(&chars, at, '\''),
            ('\'', _) if chars.get(at + 2) == Some(&'\'') => at + 3,
            _ => {
                code.push(chars[at]);
                at += 1;
                continue;
            }
        };
        code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    code
}

fn end_of_line(chars: &[char], from: usize) -> usize {
    chars[from..].iter().position(|c| *c == '\n').map_or(chars.len(), |length| from + length)
}

fn end_of_block_comment(chars: &[char], from: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = from;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

/// `r"…"`, `r#"…"#`; a raw name such as `r#type` ends after its `#`.
fn end_of_raw_string(chars: &[char], from: usize) -> usize {
    let hashes = chars[from + 1..].iter().take_while(|c| **c == '#').count();
    let open = from + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return open;
    }
    let closes = |at: &usize| {
        chars[*at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    (open + 1..chars.len()).find(closes).map_or(chars.len(), |at| at + 1 + hashes)
}

fn end_of_quoted(chars: &[char], from: usize, quote: char) -> usize {
    let mut at = from + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

#[test]
fn the_search_for_unsafe_sees_code_and_only_code() {
    let text = "\
#![forbid(unsafe_code)]
// unsafe in a comment
/* unsafe /* nested */ unsafe */
let s = \"unsafe \\\" unsafe\"; let r = r#\"unsafe\"#;
let c = '\"'; unsafe { call() }
fn f<'a>(x: &'a str) { unsafe fn g() {} }
let q = '\\''; let raw = r#unsafe_name;
";
    assert_eq!(lines_with_unsafe(text), [5, 6]);
}

#[test]
fn nothing_is_left_to_do_and_no_machine_is_named() {
    // Spelled in parts, or this file would find itself.
    let banned: Vec<String> =
        [("to", "do!("), ("unimple", "mented!("), ("/ro", "ot/"), ("/wo", "rk/"), ("/ho", "me/")]
            .into_iter()
            .map(|(a, b)| format!("{a}{b}"))
            .collect();
    let mut found = Vec::new();
    for (path, text) in files(&[".rs", ".toml", ".md", ".sh", ".py", ".js", ".json", ".yml", "run"]) {
        for (index, line) in text.lines().enumerate() {
            let is_banned = |word: &&String| names_it(line, word);
            found.extend(banned.iter().find(is_banned).map(|word| format!("{path}:{}: {word}", index + 1)));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Whether `word` stands in `line` by itself: a path may not be the tail of a longer one (`target/etc/x`).
fn names_it(line: &str, word: &str) -> bool {
    let stands_alone =
        |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~$}".contains(c));
    line.match_indices(word).any(|(at, _)| stands_alone(at))
}
