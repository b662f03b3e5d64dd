//! What is counted: nothing too much, nothing too little.

use std::process::Command;

use super::broker::Mosquitto;
use super::fake::{Deed, broker};
use super::{command, finish, run};

const SHORT: &str = "--duration 1s --warm-up 200ms";

#[test]
fn every_door_counts_exactly_at_every_qos() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    for door in mosquitto.doors() {
        let run = run(&format!("pair {door} --pairs 6 --rate 600 --qos 0,1,2 {SHORT}"));
        run.assert_good();
        for qos in 0..3 {
            // 1.2 s of a third of the rate.
            assert_eq!(run.count(qos, "published"), 240, "{door}");
            for name in ["confirmed", "expected", "received"] {
                assert_eq!(run.count(qos, name), 240, "{door}: {name} of QoS {qos}");
            }
            for name in ["lost", "duplicated", "disordered", "unplaced", "refused", "unsent"] {
                assert_eq!(run.count(qos, name), 0, "{door}: {name} of QoS {qos}");
            }
        }
        assert_eq!(run.figure("/window/published"), 600);
        assert_eq!(run.figure("/connections/ready"), 12);
        assert_eq!(run.figure("/latency/delivery/2/histogram/count"), 200, "warm-up is not measured");
        assert_eq!(run.figure("/latency/acknowledgement/0/qos"), 1);
    }
}

#[test]
fn both_back_ends_count_the_same() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    for io in ["epoll", "io_uring"] {
        if io == "io_uring" && !has_io_uring() {
            println!("skipped: the kernel allows no io_uring here");
            return;
        }
        for door in mosquitto.doors() {
            let run = run(&format!(
                "fan-out {door} --io {io} --publishers 3 --subscribers 3 --rate 300 --qos 0,1,2 {SHORT}"
            ));
            run.assert_good();
            assert_eq!(run.json["generator"]["threads"][0]["io"], io);
            for qos in 0..3 {
                assert_eq!(
                    (run.count(qos, "expected"), run.count(qos, "received")),
                    (360, 360),
                    "{io} {door}"
                );
            }
        }
        // More than the buffers of a turn hold, and messages larger than any of them.
        let words = "pair {} --rate 200 --payload 200KiB --qos 1 --duration 500ms --warm-up 0s";
        let run = run(&format!("{} --io {io}", words.replace("{}", &mosquitto.url())));
        run.assert_good();
        assert_eq!(run.count(1, "received"), 100, "{io}");
    }
}

/// Asked of the generator itself, which says why not.
fn has_io_uring() -> bool {
    let mut command = command("conn mqtt://127.0.0.1:1 -n 1 --connect-rate 1k --hold 0s --io io_uring");
    let output = command.output().expect("the binary is built");
    let stderr = String::from_utf8(output.stderr).expect("text");
    !stderr.contains("io_uring cannot be used")
}

#[test]
fn every_shape_expects_what_it_must() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    for (words, copies) in [
        ("fan-out {} --subscribers 10 --rate 100", 10),
        ("fan-out {} --publishers 4 --topics 2 --subscribers 3 --rate 100 --threads 2", 3),
        ("fan-in {} --publishers 10 --rate 100 --mqtt 3.1.1 --poisson", 1),
        ("share {} --publishers 5 --members 3 --groups 2 --rate 100 --threads 2", 2),
    ] {
        let words = words.replace("{}", &mosquitto.url());
        let run = run(&format!("{words} --qos 1 {SHORT}"));
        run.assert_good();
        let confirmed = run.count(1, "confirmed");
        assert!((90..=150).contains(&confirmed), "{words}: {confirmed}");
        assert_eq!(run.count(1, "expected"), confirmed * copies, "{words}");
        assert_eq!(run.count(1, "received"), confirmed * copies, "{words}");
        let disordered = &run.json["counts"][0]["disordered"];
        assert_eq!(disordered.is_null(), words.starts_with("share"), "{words}");
    }
}

#[test]
fn publisher_and_subscriber_may_be_two_processes() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let url = mosquitto.url();
    let words = format!("sub {url} --topics 3 --qos 1 --duration 3s --warm-up 0s --run 7");
    let subscriber = command(&words).spawn().expect("the binary is built");
    let publisher = run(&format!(
        "pub {url} --topics 3 --publishers 3 --rate 300 --qos 1 --run 7 --duration 1500ms --warm-up 0s"
    ));
    let stranger = run(&format!("pub {url} --topics 3 --rate 100 --run 8 --duration 100ms --warm-up 0s"));
    publisher.assert_good();
    stranger.assert_good();
    let subscriber = finish(subscriber, &words);
    subscriber.assert_good();
    let received = subscriber.count(1, "received");
    // It may have come late, or have ended early, but within what it saw nothing is missing.
    assert!(received > 0 && received <= 450, "{received}");
    assert_eq!(subscriber.count(1, "expected"), received);
    // What came before the subscriber's window began, or after its end, is counted and not measured.
    let measured = subscriber.figure("/latency/delivery/0/histogram/count");
    assert!(measured > 0 && measured <= received, "{measured} of {received}");
    assert!(subscriber.figure("/latency/delivery/0/histogram/p50_ns") < 1_000_000_000);
}

#[test]
fn loss_repetition_and_disorder_are_found_one_by_one() {
    // Of each hundred: four lost, three repeated, two late.
    let url = broker(|number| match number % 100 {
        10 | 20 | 30 | 31 => Deed::Lose,
        40 | 50 | 60 => Deed::Repeat,
        70 | 80 => Deed::Delay,
        _ => Deed::Deliver,
    });
    let run = run(&format!("pair {url} --rate 1k --duration 1s --warm-up 0s --drain 1s"));
    assert_eq!(run.count(0, "expected"), 1000);
    assert_eq!(run.count(0, "received"), 960);
    assert_eq!(run.count(0, "lost"), 40);
    assert_eq!(run.count(0, "duplicated"), 30);
    assert_eq!(run.count(0, "disordered"), 20);
    assert_eq!(run.code, 0, "QoS 0 may be lost: {}", run.reasons());
    assert_eq!(run.figure("/latency/delivery/0/histogram/count"), 960);
    assert_eq!(run.figure("/latency/delivery/0/missing"), 40, "no percentile knows of them");
}

#[test]
fn what_never_came_is_said_beside_the_percentiles() {
    let url = broker(|number| if number < 40 { Deed::Lose } else { Deed::Deliver });
    let words = format!("pair {url} --rate 500 --duration 500ms --warm-up 0s --drain 300ms --quiet");
    let program = env!("CARGO_BIN_EXE_quelea-load");
    let output = Command::new(program).args(words.split_whitespace()).output().expect("the binary is built");
    let table = String::from_utf8(output.stdout).expect("text");
    assert!(table.contains("  delivery, QoS 0: 40 of 250 never came, and are in no percentile\n"), "{table}");
}

#[test]
fn what_was_never_answered_fails_the_run() {
    let url = broker(|number| if number == 249 { Deed::Silence } else { Deed::Deliver });
    let run = run(&format!("pair {url} --rate 500 --qos 1 --duration 500ms --warm-up 0s --drain 300ms"));
    assert_eq!(
        (run.count(1, "published"), run.count(1, "confirmed"), run.count(1, "received")),
        (250, 249, 250)
    );
    assert_eq!((run.count(1, "unanswered"), run.count(1, "lost")), (1, 0));
    assert_eq!(run.figure("/latency/acknowledgement/0/missing"), 1);
    assert_eq!(run.code, 1);
    assert!(run.reasons().contains("1 publications of QoS 1 were never answered"), "{}", run.reasons());
}

#[test]
fn a_clock_that_is_not_ours_measures_nothing() {
    let url = broker(|number| if number % 10 == 0 { Deed::Early } else { Deed::Deliver });
    let run = run(&format!("pair {url} --rate 500 --duration 500ms --warm-up 0s"));
    assert_eq!((run.count(0, "received"), run.count(0, "lost")), (250, 0));
    assert_eq!(run.figure("/latency/delivery/0/histogram/count"), 225);
    assert_eq!(run.code, 1);
    assert!(run.reasons().contains("25 messages came before their time"), "{}", run.reasons());
}

#[test]
fn what_was_acknowledged_and_never_came_fails_the_run() {
    let url = broker(|number| if number == 77 { Deed::Lose } else { Deed::Deliver });
    let run = run(&format!("pair {url} --rate 500 --qos 1 --duration 500ms --warm-up 0s --drain 300ms"));
    assert_eq!((run.count(1, "confirmed"), run.count(1, "received"), run.count(1, "lost")), (250, 249, 1));
    assert_eq!(run.code, 1);
    assert!(run.reasons().contains("1 messages of QoS 1 were lost"), "{}", run.reasons());
}
