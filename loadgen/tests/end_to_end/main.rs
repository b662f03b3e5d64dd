//! The generator as its users run it: the binary against mosquitto, against brokers of the tests that lose, repeat and delay
//! what they are told to, and against nobody.

mod broker;
mod certificates;
mod counts;
mod door;
mod ends;
mod fake;
mod lateness;
mod proxy;
mod self_test;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};

use serde_json::Value;

/// A run of the binary that has ended.
struct Run {
    code: i32,
    json: Value,
    stderr: String,
}

/// The binary with these words, without progress, and its document on standard output.
fn command(words: &str) -> Command {
    let mut command = loud_command(words);
    // A self-test shows no progress in any case.
    if !words.starts_with("self-test") {
        command.arg("--quiet");
    }
    command
}

/// The same with progress on standard error.
fn loud_command(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quelea-load"));
    command.args(words.split_whitespace()).args(["--json", "-"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(words: &str) -> Run {
    finish(command(words).spawn().expect("the binary is built"), words)
}

fn finish(child: Child, words: &str) -> Run {
    let output = child.wait_with_output().expect("our own child");
    let stderr = String::from_utf8(output.stderr).expect("text");
    Run::new(output.status, &output.stdout, stderr, words)
}

/// A command line that makes no report: its exit code, and what it says.
fn refused(words: &str) -> (i32, String) {
    let output = command(words).output().expect("the binary is built");
    assert!(output.stdout.is_empty(), "{words}: there is a report");
    (output.status.code().expect("it ended by itself"), String::from_utf8(output.stderr).expect("text"))
}

/// A run that lasts while a test does something else.
struct UnderWay {
    child: Child,
    /// Takes what it says from its first second on: whoever writes into a full pipe stands still.
    stderr: JoinHandle<String>,
}

/// A run that has shown its first second.
fn under_way(words: &str) -> UnderWay {
    let mut child = loud_command(words).spawn().expect("the binary is built");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("published") {
        line.clear();
        assert!(stderr.read_line(&mut line).expect("text") > 0, "{words}: it ended before its first second");
    }
    let rest = move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).expect("text");
        text
    };
    UnderWay { child, stderr: thread::spawn(rest) }
}

impl UnderWay {
    fn signal(&self, name: &str) {
        let (signal, pid) = (format!("-{name}"), self.child.id().to_string());
        let sent = Command::new("kill").args([signal, pid]).status().expect("kill is there");
        assert!(sent.success());
    }

    fn finish(self, words: &str) -> Run {
        let output = self.child.wait_with_output().expect("our own child");
        let stderr = self.stderr.join().expect("a reader that ends with its pipe");
        Run::new(output.status, &output.stdout, stderr, words)
    }
}

impl Run {
    fn new(status: ExitStatus, stdout: &[u8], stderr: String, words: &str) -> Self {
        let json = serde_json::from_slice(stdout)
            .unwrap_or_else(|error| panic!("{words}: no document ({error}): {stderr}"));
        Self { code: status.code().expect("it ended by itself"), json, stderr }
    }

    /// The figure at `pointer` (RFC 6901).
    fn figure(&self, pointer: &str) -> u64 {
        let value = self.json.pointer(pointer).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("no figure {pointer} in {:#}", self.without_encodings()))
    }

    /// A figure of the counts of one QoS.
    fn count(&self, qos: u64, name: &str) -> u64 {
        let levels = self.json["counts"].as_array().expect("a list");
        let level = levels.iter().find(|level| level["qos"] == qos).expect("counts of that QoS");
        level[name].as_u64().unwrap_or_else(|| panic!("no {name} in {level}"))
    }

    fn reasons(&self) -> String {
        self.json["outcome"]["reasons"].to_string()
    }

    #[track_caller]
    fn assert_good(&self) {
        assert_eq!(self.code, 0, "{} {:#}", self.stderr, self.without_encodings());
        assert_eq!(self.json["outcome"]["ok"], true);
    }

    fn without_encodings(&self) -> Value {
        fn strip(value: &mut Value) {
            match value {
                Value::Object(members) => {
                    members.remove("hdr");
                    members.values_mut().for_each(strip);
                }
                Value::Array(items) => items.iter_mut().for_each(strip),
                _ => {}
            }
        }
        let mut json = self.json.clone();
        strip(&mut json);
        json
    }
}
