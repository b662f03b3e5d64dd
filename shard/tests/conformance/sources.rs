//! The tests of our crates as their sources have them: where each stands, whether it runs, what it claims to cover.
//!
//! A small reader of formatted Rust, not a parser: it follows `mod`, knows inline modules by their indentation, and takes
//! `#[test]` and the comments above it. For the target that it is part of, the test harness itself confirms what it found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A test as its source has it.
#[derive(Debug)]
pub(crate) struct Source {
    /// From the repository's root.
    pub(crate) file: String,
    /// Neither ignored nor compiled conditionally.
    pub(crate) runs: bool,
    /// Statements that it claims to cover: version and number.
    pub(crate) covers: Vec<(String, String)>,
}

/// Tests by name: `package::target::path`, where the target is `lib` or a file or folder in `tests/`.
pub(crate) type Sources = BTreeMap<String, Source>;

/// Folders and names of the packages whose tests may be named.
const PACKAGES: [(&str, &str); 5] = [
    ("mqtt", "quelea-mqtt"),
    ("router", "quelea-router"),
    ("shard", "quelea-shard"),
    ("broker", "quelea"),
    ("client", "quelea-client"),
];

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the shard is a folder of the repository")
        .to_owned()
}

/// Reads every test of every package.
pub(crate) fn read() -> Sources {
    let mut sources = Sources::new();
    for (folder, package) in PACKAGES {
        let folder = root().join(folder);
        read_target(&mut sources, &folder.join("src/lib.rs"), &format!("{package}::lib"));
        for entry in std::fs::read_dir(folder.join("tests")).into_iter().flatten() {
            let path = entry.expect("a folder that can be read").path();
            let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
            let target = format!("{package}::{name}");
            match path.is_dir() {
                true if path.join("main.rs").is_file() => {
                    read_target(&mut sources, &path.join("main.rs"), &target);
                }
                false if path.extension().is_some_and(|ending| ending == "rs") => {
                    read_target(&mut sources, &path, &target);
                }
                _ => {}
            }
        }
    }
    sources
}

fn read_target(sources: &mut Sources, file: &Path, target: &str) {
    if file.is_file() {
        let children = file.parent().expect("a file in a folder").to_owned();
        Reader { sources, file, children, module: target.to_owned(), runs: true }.read();
    }
}

struct Reader<'a> {
    sources: &'a mut Sources,
    file: &'a Path,
    /// Where `mod name;` looks for its file.
    children: PathBuf,
    module: String,
    runs: bool,
}

/// What stands above an item.
#[derive(Default)]
struct Above {
    is_test: bool,
    is_conditional: bool,
    covers: Vec<(String, String)>,
    path: Option<String>,
}

impl Reader<'_> {
    fn read(mut self) {
        let text =
            std::fs::read_to_string(self.file).unwrap_or_else(|error| panic!("{:?}: {error}", self.file));
        let mut inline: Vec<(usize, String)> = Vec::new();
        let mut above = Above::default();
        for line in text.lines() {
            let item = line.trim_start();
            let indent = line.len() - item.len();
            if let Some(claim) = item.strip_prefix("// Covers ") {
                above.covers.extend(self.claims(claim));
            } else if item.starts_with("#[") {
                above.is_test |= item == "#[test]" || item.starts_with("#[tokio::test");
                above.is_conditional |= item.starts_with("#[ignore") || item.starts_with("#[cfg(feature");
                if let Some(path) = item.strip_prefix("#[path = \"") {
                    above.path = path.split('"').next().map(str::to_owned);
                }
            } else if item.starts_with("//") || item.is_empty() {
                continue;
            } else {
                let above = core::mem::take(&mut above);
                if inline.last().is_some_and(|(at, _)| *at == indent && item == "}") {
                    inline.pop();
                } else if let Some(name) = name_after(item, "mod ") {
                    match item.ends_with('{') {
                        true => inline.push((indent, name.to_owned())),
                        false => self.read_child(name, above),
                    }
                } else if let Some(name) = name_after(item, "fn ") {
                    self.enter(&inline, name, above);
                }
            }
        }
    }

    /// `5.0: 3.1.2-4 3.1.2-6`
    fn claims(&self, claim: &str) -> Vec<(String, String)> {
        let (version, numbers) = claim.split_once(": ").unwrap_or_else(|| panic!("{:?}: {claim}", self.file));
        numbers.split_whitespace().map(|number| (version.to_owned(), number.to_owned())).collect()
    }

    fn enter(&mut self, inline: &[(usize, String)], name: &str, above: Above) {
        assert!(
            above.is_test || above.covers.is_empty(),
            "{name} in {:?} covers something and is no test",
            self.file
        );
        if above.is_test {
            let modules: String = inline.iter().map(|(_, module)| format!("::{module}")).collect();
            let file = self.file.canonicalize().expect("a file that was read");
            let file = file.strip_prefix(root().canonicalize().expect("our root")).expect("a file of ours");
            let source = Source {
                file: file.to_str().expect("UTF-8").to_owned(),
                runs: self.runs && !above.is_conditional,
                covers: above.covers,
            };
            self.sources.insert(format!("{}{modules}::{name}", self.module), source);
        }
    }

    fn read_child(&mut self, name: &str, above: Above) {
        let places = match above.path {
            Some(path) => vec![self.file.parent().expect("a file in a folder").join(path)],
            None => vec![self.children.join(format!("{name}.rs")), self.children.join(name).join("mod.rs")],
        };
        let file = places.iter().find(|place| place.is_file());
        let file = file.unwrap_or_else(|| panic!("mod {name} of {:?} is nowhere", self.file));
        let children = match file.ends_with("mod.rs") {
            true => file.parent().expect("a file in a folder").to_owned(),
            false => file.with_extension(""),
        };
        let (module, runs) = (format!("{}::{name}", self.module), self.runs && !above.is_conditional);
        Reader { sources: &mut *self.sources, file, children, module, runs }.read();
    }
}

/// The name behind a keyword that may have `pub`, `async` and the like in front of it.
fn name_after<'a>(item: &'a str, keyword: &str) -> Option<&'a str> {
    let words = item.split_once(keyword)?;
    let plain =
        words.0.split_whitespace().all(|word| word == "async" || word == "const" || word.starts_with("pub"));
    let end = words.1.find(|char: char| !char.is_alphanumeric() && char != '_').unwrap_or(words.1.len());
    (plain && end > 0).then(|| &words.1[..end])
}
