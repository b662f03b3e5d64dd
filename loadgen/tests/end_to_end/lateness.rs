//! What is late: a broker that stalls pays for everything that was delayed, and a generator that is late says so.

use std::io::Read;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use super::broker::Mosquitto;
use super::proxy::{Trouble, proxy};
use super::run;

const MS: u64 = 1_000_000;

#[test]
fn one_stall_is_charged_for_every_message_that_it_delayed() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    // CONNECT, SUBSCRIBE and about a second of messages; then nothing goes up for 300 ms.
    let url = proxy(mosquitto.port(), 20_000, Trouble::Stall(Duration::from_millis(300)));
    let run = run(&format!("pair {url} --rate 200 --qos 1 --duration 3s --warm-up 0s"));
    run.assert_good();
    assert_eq!(run.count(1, "received"), 600);
    // 60 of 600 messages were meant to leave during the stall, and waited 150 ms on average. A clock that starts when a message
    // is written, by a publisher that waits for the one before, would have seen one in 600.
    let at = |quantile: &str| run.figure(&format!("/latency/delivery/0/histogram/{quantile}_ns"));
    assert!(at("max") >= 290 * MS, "{}", at("max"));
    assert!(at("p99") >= 240 * MS, "{}", at("p99"));
    assert!(at("p50") < 150 * MS, "{}", at("p50"));
    let acknowledged = run.figure("/latency/acknowledgement/0/histogram/p99_ns");
    assert!(acknowledged >= 240 * MS, "{acknowledged}");
}

#[test]
fn a_full_window_delays_and_is_charged_to_the_broker() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let url = proxy(mosquitto.port(), 20_000, Trouble::Stall(Duration::from_millis(300)));
    let run = run(&format!("pair {url} --rate 200 --qos 1 --in-flight 1 --duration 3s --warm-up 0s"));
    run.assert_good();
    assert_eq!(run.count(1, "received"), 600);
    let p99 = run.figure("/latency/delivery/0/histogram/p99_ns");
    assert!(p99 >= 240 * MS, "{p99}");
    assert!(run.count(1, "held_back") >= 40, "{}", run.count(1, "held_back"));
}

/// A broker that says yes to everything and throws it away.
fn abyss() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("mqtt://{}", listener.local_addr().expect("bound"));
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 20];
                let mut is_connected = false;
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                    if !std::mem::replace(&mut is_connected, true) {
                        let _ = std::io::Write::write_all(&mut stream, &[0x20, 2, 0, 0]);
                    }
                }
            });
        }
    });
    url
}

#[test]
fn a_generator_that_cannot_keep_up_says_so() {
    let words = format!(
        "pub {} --mqtt 3.1.1 --publishers 4 --rate 50M --duration 1s --warm-up 0s --drain 0s",
        abyss()
    );
    let run = run(&words);
    assert_eq!(run.json["bottleneck"], true, "{:#}", run.without_encodings());
    let causes = run.json["bottleneck_causes"].as_array().expect("a list");
    assert!(!causes.is_empty() && causes.iter().all(|cause| cause["text"].is_string()));
    assert!(run.stderr.contains("WARNING: the load generator was the bottleneck: "), "{}", run.stderr);
    // It also never got round to most of what it was meant to send, which is no good run.
    assert!(run.count(0, "unsent") > 1_000_000);
    assert_eq!(run.code, 1);
}

#[test]
fn a_closed_loop_says_that_it_is_one() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    for words in ["--qos 0", "--qos 0 --window 0 --payload 1KiB", "--qos 1 --in-flight 8"] {
        let run =
            run(&format!("pair {} --rate max --duration 500ms --warm-up 100ms {words}", mosquitto.url()));
        assert_eq!(run.json["latency"]["open_loop"], false);
        assert!(run.figure("/window/published") > 500, "{words}");
        assert_eq!(run.figure("/counts/0/unsent"), 0, "{words}: nothing was promised");
    }
}

#[test]
fn processes_are_watched() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let pid = mosquitto.pid();
    let run = run(&format!(
        "pair {} --rate 2k --duration 2s --pid {pid} --pid {}",
        mosquitto.url(),
        std::process::id()
    ));
    run.assert_good();
    let broker = &run.json["brokers"][0];
    assert_eq!((&broker["pid"], &broker["name"]), (&pid.into(), &"mosquitto".into()));
    assert!(broker["arrived"].as_u64().is_some_and(|arrived| (3500..4500).contains(&arrived)), "{broker}");
    assert!(broker["cpu_us_per_delivery"].as_f64().is_some_and(|us| us > 0.0), "{broker}");
    assert!(broker["resident_to"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{broker}");
    assert!(broker["voluntary_switches"].as_u64().is_some_and(|count| count > 100), "{broker}");
    assert_eq!(run.json["brokers"][1]["pid"], std::process::id());
}
