//! How runs end: refused, failed, cut, interrupted.

use std::process::{Command, Stdio};

use super::broker::Mosquitto;
use super::proxy::{Trouble, proxy};
use super::{run, under_way};

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
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_quelea-load"))
            .args(words.split_whitespace())
            .stdin(Stdio::null())
            .output()
            .expect("the binary is built");
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{words}");
    }
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
