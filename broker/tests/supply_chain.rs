//! What we build on: licences, sources and bans of `deny.toml`, checked on every test run from the lock file alone.
//!
//! `cargo deny check` says more (advisories, yanked versions) where it is installed and its database can be reached; this
//! needs nothing but cargo.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every package of the lock file, ours included.
fn packages() -> Vec<Value> {
    let arguments = ["metadata", "--format-version", "1", "--offline", "--locked"];
    let output =
        Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

fn deny() -> toml::Table {
    std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml").parse().expect("TOML")
}

fn strings<'a>(values: &'a toml::Value) -> BTreeSet<&'a str> {
    values.as_array().expect("a list").iter().filter_map(toml::Value::as_str).collect()
}

/// Whether an SPDX expression can be met with the allowed licences. `A/B` is the old way to write `A OR B`.
fn is_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    let meets = |part: &str| part.split(" AND ").all(|licence| allowed.contains(licence.trim()));
    expression.split(" OR ").any(meets)
}

#[test]
fn licences_are_those_that_we_allow() {
    let deny = deny();
    let allowed = strings(&deny["licenses"]["allow"]);
    let exceptions = deny["licenses"]["exceptions"].as_array().expect("a list");
    let excepted: BTreeSet<_> = exceptions.iter().filter_map(|e| e["name"].as_str()).collect();
    let refused: Vec<_> = packages()
        .iter()
        .filter(|package| !excepted.contains(package["name"].as_str().expect("a name")))
        .filter(|package| !is_allowed(package["license"].as_str().unwrap_or("none stated"), &allowed))
        .map(|package| format!("{} ({})", package["name"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn every_package_comes_from_the_one_registry_or_from_here() {
    let deny = deny();
    let registries = strings(&deny["sources"]["allow-registry"]);
    for package in packages() {
        let Some(source) = package["source"].as_str() else { continue };
        let registry = source.strip_prefix("registry+").unwrap_or(source);
        assert!(registries.contains(registry), "{}: {source}", package["name"]);
    }
}

#[test]
fn what_is_banned_is_not_there_or_only_where_it_may_be() {
    let packages = packages();
    for ban in deny()["bans"]["deny"].as_array().expect("a list") {
        let name = ban["name"].as_str().expect("a name");
        let wrappers = ban.get("wrappers").map(strings).unwrap_or_default();
        let depends = |package: &&Value| {
            package["dependencies"]
                .as_array()
                .expect("a list")
                .iter()
                .any(|dependency| dependency["name"] == name)
        };
        for package in packages.iter().filter(depends) {
            let user = package["name"].as_str().expect("a name");
            let ours = package["source"].is_null();
            assert!(!ours || wrappers.contains(user), "{user} uses {name}, which is banned");
        }
        let present = packages.iter().any(|package| package["name"] == name);
        assert!(!present || !wrappers.is_empty(), "{name} is in the lock file, and banned");
    }
}

#[test]
fn the_reading_of_licences_is_right() {
    let allowed = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
    for good in [
        "MIT",
        "MIT/GPL-2.0",
        "GPL-2.0 OR MIT",
        "ISC AND MIT",
        "(MIT OR X) AND ISC",
        "Apache-2.0 WITH LLVM-exception OR X",
    ] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in ["GPL-2.0", "MIT AND GPL-2.0", "Apache-2.0", ""] {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}
