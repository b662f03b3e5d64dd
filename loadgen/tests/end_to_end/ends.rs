//! How runs end: refused, failed, cut, interrupted.

use std::process::Command;

use super::broker::Mosquitto;
use super::fake::{Deed, broker};
use super::proxy::{Trouble, proxy};
use super::{refused, run, under_way};

#[test]
fn wrong_usage_is_refused_with_2() {
    for words in [
        "",
        "pair",
        "pair http://127.0.0.1",
        "pair mqtt://127.0.0.1 --qos 3",
        "pair mqtt://127.0.0.1 --payload 23",
        "pair mqtts://127.0.0.1 --cafile /no/such/file",
        "conn mqtt://127.0.0.1 -n 40k",
        "conn mqtt://127.0.0.1 --io kqueue",
        "self-test --rate max",
        "self-test --payload 1MiB",
        "conn mqtt://127.0.0.1 --bind ::1",
        "conn mqtt://127.0.0.1 --cafile /no/such/file",
    ] {
        let (code, stderr) = refused(words);
        assert_eq!(code, 2, "{words}: {stderr}");
        assert!(!stderr.is_empty(), "{words}");
    }
}

#[test]
fn what_cannot_be_done_here_and_now_is_refused_with_1() {
    for (words, told) in [
        // Two dots: a name that no resolver has to be asked for.
        ("conn mqtt://no..host", "no..host: "),
        ("conn mqtt://127.0.0.1:1 --pid 4294967295", "--pid 4294967295: "),
    ] {
        let (code, stderr) = refused(words);
        assert_eq!(code, 1, "{words}: {stderr}");
        assert!(stderr.contains(told), "{words}: {stderr}");
    }
    let program = env!("CARGO_BIN_EXE_quelea-load");
    let few = format!("ulimit -n 40; exec {program} conn mqtt://127.0.0.1:1 -n 100");
    let output = Command::new("sh").args(["-c", &few]).output().expect("a shell");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("140 open files are needed, 40 are allowed"));
}

#[test]
fn a_document_that_cannot_be_written_fails_the_run_and_costs_nobody_the_table() {
    let words = "conn mqtt://127.0.0.1:1 -n 1 --quiet --json /no/such/directory/run.json";
    let program = env!("CARGO_BIN_EXE_quelea-load");
    let output = Command::new(program).args(words.split_whitespace()).output().expect("the binary is built");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--json /no/such/directory/run.json: "));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 of 1 clients could not connect"));
}

#[test]
fn nobody_there_is_a_failure_with_its_reason() {
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
    let run = run(&format!("pair mqtt://127.0.0.1:{port} --pairs 2"));
    assert_eq!(run.code, 1);
    assert!(run.reasons().contains("4 of 4 clients could not connect"), "{}", run.reasons());
    let errors = run.json["connections"]["errors"].to_string();
    assert!(errors.contains("refused"), "{errors}");
}

#[test]
fn a_lost_connection_stays_lost_and_fails_the_run() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let url = proxy(mosquitto.port(), 10_000, Trouble::Cut);
    let run = run(&format!("pair {url} --rate 200 --qos 1 --duration 2s --warm-up 0s --drain 1s"));
    assert_eq!(run.figure("/connections/lost"), 1);
    assert_eq!(run.figure("/connections/reconnected"), 0);
    assert_eq!(run.code, 1);
    assert!(run.reasons().contains("1 connections were lost"), "{}", run.reasons());
}

#[test]
fn with_reconnect_a_session_goes_on_and_loses_nothing() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    for version in ["5", "3.1.1"] {
        let url = proxy(mosquitto.port(), 10_000, Trouble::Cut);
        let run = run(&format!(
            "pair {url} --mqtt {version} --rate 200 --qos 1 --duration 2s --warm-up 0s --reconnect 100ms"
        ));
        assert_eq!((run.figure("/connections/lost"), run.figure("/connections/reconnected")), (1, 1));
        assert_eq!(run.count(1, "confirmed"), 400, "{:#}", run.without_encodings());
        assert_eq!(run.count(1, "lost"), 0);
        run.assert_good();
    }
}

#[test]
fn a_broker_that_dies_is_reported() {
    let Some(mut mosquitto) = Mosquitto::start() else { return };
    let url = mosquitto.url();
    let load = under_way(&format!(
        "fan-out {url} --subscribers 5 --rate 100 --duration 20s --warm-up 0s --drain 200ms"
    ));
    mosquitto.kill();
    load.signal("INT");
    let run = load.finish("a run whose broker dies");
    assert_eq!(run.figure("/connections/lost"), 6, "{:#}", run.without_encodings());
    assert_eq!(run.code, 1);
}

#[test]
fn a_signal_ends_the_run_early_and_the_report_is_still_made() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let load = under_way(&format!("pair {} --rate 100 --qos 1 --duration 1h --warm-up 0s", mosquitto.url()));
    load.signal("INT");
    let run = load.finish("a run that is interrupted");
    assert_eq!(run.json["outcome"]["interrupted"], true);
    assert!((90..3000).contains(&run.count(1, "received")), "{}", run.count(1, "received"));
    assert_eq!(run.count(1, "lost"), 0);
    run.assert_good();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    // Nothing comes, and it is waited for: the first signal alone would take an hour.
    let load = under_way(&format!(
        "pair {} --rate 100 --qos 1 --duration 1h --warm-up 0s --drain 1h",
        broker(|_| Deed::Lose)
    ));
    load.signal("INT");
    load.signal("INT");
    let output = load.child.wait_with_output().expect("our own child");
    assert_eq!(output.status.code(), Some(130));
    assert!(output.stdout.is_empty(), "there is a report");
}

#[test]
fn connections_are_held() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let words = format!(
        "conn {} -n 50 --connect-rate 1k --hold 300ms --bind 127.0.0.2-127.0.0.4 --threads 2",
        mosquitto.url()
    );
    let run = run(&words);
    run.assert_good();
    assert_eq!(run.figure("/connections/ready"), 50);
    assert_eq!(run.figure("/connections/connect/count"), 50);
    assert!(!run.json["connections"]["connect"]["hdr"].as_str().expect("an encoding").is_empty());
}
