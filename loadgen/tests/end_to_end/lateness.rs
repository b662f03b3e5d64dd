//! What is late: a broker that stalls pays for everything that was delayed, and a generator that is late says so.

use std::time::Duration;

use super::broker::Mosquitto;
use super::fake::{Deed, broker};
use super::proxy::{Trouble, proxy};
use super::{Run, UnderWay, run, under_way};

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

/// Kinds of causes that the warning named.
fn causes(run: &Run) -> Vec<&str> {
    let causes = run.json["bottleneck_causes"].as_array().expect("a list");
    assert!(causes.iter().all(|cause| cause["text"].is_string()));
    causes.iter().map(|cause| cause["kind"].as_str().expect("a word")).collect()
}

#[test]
fn a_generator_that_stood_still_says_so() {
    // With a window of one message all but the first of those that are late find it full: that is still not the broker's fault.
    for (qos, window) in [(0, ""), (1, "--in-flight 1")] {
        let url = broker(|_| Deed::Deliver);
        // The bound is so high that no machine passes it by being slow.
        let words =
            format!("pair {url} --qos {qos} {window} --rate 200 --duration 3s --warm-up 0s --lag-max 100ms");
        let load = under_way(&words);
        stand_still(&load);
        let run = load.finish("a run that stood still");
        run.assert_good();
        assert_eq!(run.json["bottleneck"], true, "{words}: {:#}", run.without_encodings());
        assert!(causes(&run).contains(&"lag"), "{words}: {:?}", causes(&run));
        assert!(run.stderr.contains("WARNING: the load generator was the bottleneck: "), "{}", run.stderr);
        assert_eq!(run.count(qos, "received"), 600, "late is not lost");
    }
}

/// Stops a run for 600 ms at least, as long as another one lasts from beginning to end: of 600 messages in three seconds 120 are late.
fn stand_still(load: &UnderWay) {
    load.signal("STOP");
    let other = run(&format!("pair {} --rate 10 --duration 600ms --warm-up 0s", broker(|_| Deed::Deliver)));
    load.signal("CONT");
    other.assert_good();
}

#[test]
fn a_subscriber_that_stood_still_says_so() {
    // By default the other one, where the kernel allows it.
    for io in ["epoll", "auto"] {
        let url = broker(|_| Deed::Deliver);
        // It publishes nothing that could be late: what shows is that it came too late to read.
        let load = under_way(&format!("sub {url} --io {io} --duration 4s --warm-up 0s --lag-max 100ms"));
        load.signal("STOP");
        let publisher = run(&format!("pub {url} --rate 400 --duration 600ms --warm-up 0s"));
        load.signal("CONT");
        publisher.assert_good();
        let run = load.finish("a subscriber that stood still");
        run.assert_good();
        assert_eq!(run.count(0, "received"), 240);
        assert!(causes(&run).contains(&"turn"), "{io}: {:?} {:#}", causes(&run), run.without_encodings());
    }
}

#[test]
fn what_left_after_the_window_is_no_rate_of_it() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    // About half a second of messages, then nothing goes up until after the window.
    let url = proxy(mosquitto.port(), 10_000, Trouble::Stall(Duration::from_secs(1)));
    let run = run(&format!("pair {url} --rate 200 --qos 1 --in-flight 1 --duration 1s --warm-up 0s"));
    run.assert_good();
    assert_eq!(run.figure("/window/published"), 200, "all that was meant for it left, later");
    assert!(run.figure("/window/left") <= 150, "{}", run.figure("/window/left"));
    assert_eq!(run.json["window"]["left_per_s"], run.json["window"]["left"].as_f64().expect("a figure"));
}

#[test]
fn a_broker_that_stood_still_is_not_the_generators_fault() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let url = proxy(mosquitto.port(), 10_000, Trouble::Stall(Duration::from_millis(600)));
    // A tenth of all messages or more leave late, and none of them because of us.
    let words =
        format!("pair {url} --rate 100 --qos 1 --in-flight 1 --duration 3s --warm-up 0s --lag-max 300ms");
    let run = run(&words);
    run.assert_good();
    assert!(run.count(1, "held_back") >= 30, "{}", run.count(1, "held_back"));
    assert!(run.figure("/latency/delivery/0/histogram/p99_ns") >= 400 * MS);
    assert!(run.figure("/generator/lag/p99_ns") < 300 * MS);
    // A machine may have no core to spare: then it says so, whatever the broker does.
    let ours: Vec<_> = causes(&run).into_iter().filter(|kind| *kind != "waited").collect();
    assert_eq!(ours, [""; 0], "{:#}", run.without_encodings());
}

#[test]
fn what_never_left_fails_the_run() {
    let words = format!(
        "pub {} --publishers 4 --rate 50M --duration 500ms --warm-up 0s --drain 0s",
        broker(|_| Deed::Deliver)
    );
    let run = run(&words);
    // 25 million messages in half a second are beyond every machine.
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
    // 4,000 on a machine that keeps up; on one that does not, what was late in the warm-up arrives in the window.
    assert!(broker["arrived"].as_u64().is_some_and(|arrived| (1..=8_000).contains(&arrived)), "{broker}");
    assert!(broker["cpu_us_per_delivery"].as_f64().is_some_and(|us| us > 0.0), "{broker}");
    assert!(broker["resident_to"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{broker}");
    // On a machine with nothing else to do it goes to sleep after each message; on a busy one it has to make room before.
    let switches = ["voluntary_switches", "involuntary_switches"].map(|name| broker[name].as_u64());
    assert!(
        switches[0].zip(switches[1]).is_some_and(|(slept, made_room)| slept + made_room > 100),
        "{broker}"
    );
    assert_eq!(run.json["brokers"][1]["pid"], std::process::id());
}
