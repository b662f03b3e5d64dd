//! The generator against itself.

use super::{Run, run};

fn backends(run: &Run) -> Vec<String> {
    let rows = run.json["rows"].as_array().expect("a list");
    let mut names: Vec<_> = rows.iter().map(|row| row["io"].as_str().expect("a word").to_owned()).collect();
    names.dedup();
    names
}

#[test]
fn it_measures_itself_on_every_back_end() {
    let run = run_self_test("--duration 1s --rate 500");
    let backends = backends(&run);
    assert_eq!(backends[0], "epoll");
    let rows = run.json["rows"].as_array().expect("a list");
    assert_eq!(rows.len(), 5 * backends.len());
    for row in rows {
        assert_eq!(row["reasons"], serde_json::json!([]), "{row}");
        let per_s = row["per_s"].as_f64().expect("a figure");
        let (delivery, lag) = (&row["delivery"]["count"], &row["lag"]["count"]);
        if row["kind"] == "floor" {
            // Those that were meant to leave in the window, whenever they came.
            assert_eq!(delivery.as_u64(), Some(500), "{row}");
            // On a machine without a core to spare the window may have held some back.
            assert!(lag.as_u64().is_some_and(|count| (1..=500).contains(&count)), "{row}");
        } else {
            assert!(per_s > 0.0 && delivery.is_null() && lag.is_null(), "{row}");
            assert!(row["cpu_us_per_message"].as_f64().is_some_and(|us| us > 0.0), "{row}");
        }
    }
}

#[test]
fn one_back_end_may_be_asked_for() {
    let run = run_self_test("--duration 100ms --io epoll --payload 1KiB");
    assert_eq!(backends(&run), ["epoll"]);
    assert_eq!(run.json["payload_bytes"], 1024);
}

fn run_self_test(options: &str) -> Run {
    let run = run(&format!("self-test {options}"));
    assert_eq!(run.code, 0, "{:#}", run.without_encodings());
    run
}
