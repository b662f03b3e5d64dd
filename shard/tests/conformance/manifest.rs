//! `docs/conformance/`: every statement has a status, every test that it names exists and runs, every test that names a
//! statement is named by it, and the table of the README is what the manifest says.
//!
//! `CONFORMANCE=write cargo test -p quelea-shard conformance` enters the tests that claim a statement into the manifest
//! and writes the table anew.

use core::fmt::Write as _;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use super::sources::{self, Sources};

/// Versions of MQTT, and how many normative statements each has.
const STANDARDS: [(&str, usize); 2] = [("5.0", 251), ("3.1.1", 141)];

/// Cases that are known to be hard: each has its test, and none is lost from the list unnoticed.
const HARD_CASES: usize = 31;

/// This target, as the manifest names it.
const OWN_TARGET: &str = "quelea-shard::sessions::";

/// What the manifest says of one statement.
struct Statement {
    /// In our words.
    demands: String,
    status: String,
    /// Why there is no test.
    because: String,
    tests: Vec<String>,
}

/// Statements of one version, in the order of the standard.
type Manifest = Vec<(String, Statement)>;

fn folder() -> PathBuf {
    sources::root().join("docs/conformance")
}

fn read(name: &str) -> String {
    let path = folder().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// The numbers of a version's statements, in order.
fn numbers(version: &str) -> Vec<String> {
    let text = read(&format!("ids-{version}.txt"));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .flat_map(|line| {
            let (section, numbers) = line.split_once(':').expect("section: numbers");
            numbers.split_whitespace().map(move |number| format!("{section}-{number}"))
        })
        .collect()
}

fn manifest(version: &str) -> Manifest {
    let table: toml::Table = read(&format!("mqtt-{version}.toml")).parse().expect("TOML");
    let text =
        |value: &toml::Value, key| value.get(key).and_then(toml::Value::as_str).unwrap_or("").to_owned();
    table
        .iter()
        .map(|(id, entry)| {
            let tests = entry.get("tests").and_then(toml::Value::as_array).into_iter().flatten();
            let statement = Statement {
                demands: text(entry, "demands"),
                status: text(entry, "status"),
                because: text(entry, "because"),
                tests: tests.map(|test| test.as_str().expect("a name").to_owned()).collect(),
            };
            let number = id.strip_prefix("MQTT-").unwrap_or_else(|| panic!("{id} is no identifier"));
            (number.to_owned(), statement)
        })
        .collect()
}

/// Who claims what: version and number of a statement to the names of its tests.
fn claims(sources: &Sources) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut claims: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for (name, source) in sources {
        for statement in &source.covers {
            claims.entry(statement.clone()).or_default().insert(name.clone());
        }
    }
    claims
}

#[test]
fn every_statement_has_a_status_and_there_are_no_others() {
    update();
    for (version, count) in STANDARDS {
        let numbers = numbers(version);
        assert_eq!(numbers.len(), count, "MQTT {version}");
        let manifest = manifest(version);
        let listed: Vec<_> = manifest.iter().map(|(number, _)| number.clone()).collect();
        assert_eq!(
            listed, numbers,
            "MQTT {version}: the manifest has the statements of the list, in its order"
        );
        for (number, statement) in manifest {
            let Statement { demands, status, because, tests } = statement;
            assert!(!demands.is_empty(), "{version} {number}: what does it demand?");
            match &*status {
                "tested" => {
                    assert!(!tests.is_empty() && because.is_empty(), "{version} {number}: by which test?");
                }
                "not-a-server" | "by-construction" => {
                    assert!(
                        tests.is_empty() && !because.is_empty(),
                        "{version} {number}: why is there no test?"
                    );
                }
                _ => panic!("{version} {number}: {status:?} is no status"),
            }
        }
    }
}

#[test]
fn every_test_that_is_named_exists_runs_and_claims_its_statement() {
    update();
    let sources = sources::read();
    for (version, _) in STANDARDS {
        for (number, statement) in manifest(version) {
            for test in statement.tests {
                let source =
                    sources.get(&test).unwrap_or_else(|| panic!("{version} {number}: no test {test}"));
                assert!(source.runs, "{version} {number}: {test} is not run");
                let claims = source.covers.contains(&(version.to_owned(), number.clone()));
                assert!(claims, "{version} {number}: {test} does not say that it covers this");
            }
        }
    }
}

#[test]
fn every_claim_of_a_test_is_about_a_statement_and_stands_in_the_manifest() {
    update();
    let manifests: BTreeMap<_, BTreeMap<_, _>> =
        STANDARDS.iter().map(|(version, _)| (*version, manifest(version).into_iter().collect())).collect();
    for ((version, number), tests) in claims(&sources::read()) {
        let manifest = manifests.get(&*version).unwrap_or_else(|| panic!("{tests:?}: no version {version}"));
        let statement =
            manifest.get(&number).unwrap_or_else(|| panic!("{tests:?}: no statement {version} {number}"));
        let named: BTreeSet<_> = statement.tests.iter().cloned().collect();
        assert_eq!(named, tests, "{version} {number}: the manifest and the tests disagree");
    }
}

/// What the reader of sources takes for the tests of this target are those that the harness would run.
#[test]
fn the_harness_knows_the_same_tests() {
    let own = std::env::current_exe().expect("this program");
    let listed = |arguments: &[&str]| -> BTreeSet<String> {
        let output = Command::new(&own).args(arguments).output().expect("this program lists its tests");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
    };
    let all = listed(&["--list", "--format", "terse"]);
    let ignored = listed(&["--list", "--format", "terse", "--ignored"]);
    let run: BTreeSet<_> = all.difference(&ignored).cloned().collect();
    let found: BTreeSet<_> = sources::read()
        .into_iter()
        .filter(|(_, source)| source.runs)
        .filter_map(|(name, _)| name.strip_prefix(OWN_TARGET).map(str::to_owned))
        .collect();
    assert!(found.len() > 100, "{found:?}");
    assert_eq!(found, run);
}

#[test]
fn the_cases_known_to_be_hard_have_their_tests() {
    let table: toml::Table = read("hard-cases.toml").parse().expect("TOML");
    let sources = sources::read();
    assert_eq!(table.len(), HARD_CASES);
    for (test, case) in &table {
        let test = format!("{OWN_TARGET}conformance::{test}");
        assert!(case.as_str().is_some_and(|case| !case.is_empty()), "{test}: what is the case?");
        assert!(sources.get(&test).is_some_and(|source| source.runs), "no test {test} is run");
    }
}

#[test]
fn the_table_is_what_the_manifest_says() {
    update();
    assert!(read("README.md") == readme(), "docs/conformance/README.md is stale: {UPDATE}");
}

const UPDATE: &str = "CONFORMANCE=write cargo test -p quelea-shard conformance";

/// Brings manifest and table up to date, when asked to.
#[allow(clippy::disallowed_methods, reason = "a tool that is asked for in the environment")]
fn update() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    if !std::env::var("CONFORMANCE").is_ok_and(|value| value == "write") {
        return;
    }
    ONCE.call_once(|| {
        let claims = claims(&sources::read());
        for (version, _) in STANDARDS {
            let text = rewritten(&read(&format!("mqtt-{version}.toml")), version, &claims);
            std::fs::write(folder().join(format!("mqtt-{version}.toml")), text).expect("written");
        }
        std::fs::write(folder().join("README.md"), readme()).expect("written");
    });
}

/// The manifest with its lists of tests replaced by those that claim to be there; everything else as it is.
fn rewritten(text: &str, version: &str, claims: &BTreeMap<(String, String), BTreeSet<String>>) -> String {
    let (mut new, mut in_tests) = (String::new(), false);
    for line in text.lines() {
        if line.starts_with("tests = [") {
            in_tests = !line.ends_with(']');
        } else if in_tests {
            in_tests = line != "]";
        } else {
            new += line;
            new += "\n";
        }
    }
    let mut out = String::new();
    let mut blocks = new.split("[\"MQTT-");
    out += blocks.next().unwrap_or("");
    for block in blocks {
        let number = block.split('"').next().expect("a number").to_owned();
        let _ = writeln!(out, "[\"MQTT-{}", block.trim_end());
        if let Some(tests) = claims.get(&(version.to_owned(), number)) {
            out += "tests = [\n";
            tests.iter().for_each(|test| _ = writeln!(out, "  \"{test}\","));
            out += "]\n";
        }
        out += "\n";
    }
    out.truncate(out.trim_end().len());
    out + "\n"
}

/// The README: what stands in `about.md`, then the tables.
fn readme() -> String {
    let sources = sources::read();
    let link = |test: &str| {
        let name = test.rsplit("::").next().expect("a name");
        let file = sources.get(test).map_or("", |source| &source.file);
        format!("[{name}](../../{file})")
    };
    let mut out = read("about.md");
    out += "\n## How many\n\n| | statements | tested | by construction | not for a server |\n|---|---|---|---|---|\n";
    for (version, count) in STANDARDS {
        let manifest = manifest(version);
        let with = |status| manifest.iter().filter(|(_, s)| s.status == status).count();
        let (tested, built, other) = (with("tested"), with("by-construction"), with("not-a-server"));
        let _ = writeln!(out, "| MQTT {version} | {count} | {tested} | {built} | {other} |");
    }
    out += "\n## Known to be hard\n\n| Case | Test |\n|---|---|\n";
    let hard: toml::Table = read("hard-cases.toml").parse().expect("TOML");
    for (test, case) in &hard {
        let case = case.as_str().unwrap_or("");
        let _ = writeln!(out, "| {case} | {} |", link(&format!("{OWN_TARGET}conformance::{test}")));
    }
    for (version, _) in STANDARDS {
        let _ = writeln!(
            out,
            "\n## MQTT {version}\n\n| Statement | What it demands | Status | |\n|---|---|---|---|"
        );
        for (number, statement) in manifest(version) {
            let Statement { demands, status, because, tests } = statement;
            let tests: Vec<_> = tests.iter().map(|test| link(test)).collect();
            let last = if tests.is_empty() { because } else { tests.join(", ") };
            let _ = writeln!(out, "| {number} | {demands} | {} | {last} |", status.replace('-', " "));
        }
    }
    out
}
