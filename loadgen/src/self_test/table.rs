//! The self-test for people.

use std::fmt::Write;

use super::{CEILING, FLOOR, Row, SelfTest};
use crate::report::HistogramReport;
use crate::report::table::{row, table};
use crate::text::{count, latency};

/// A thread that used less of its core than this was not what set the ceiling.
const BUSY_SHARE_MIN: f64 = 0.85;

pub(super) fn render(test: &SelfTest) -> String {
    let mut text = format!(
        "The generator against itself: one thread, TCP over loopback, {} bytes, no broker in between\n\n",
        test.payload_bytes
    );
    floors(test, &mut text);
    ceilings(test, &mut text);
    verdict(test, &mut text);
    text
}

fn rows_of<'a>(test: &'a SelfTest, kind: &'static str) -> impl Iterator<Item = &'a Row> {
    test.rows.iter().filter(move |row| row.kind == kind)
}

fn name(row: &Row) -> String {
    format!("{}, {} QoS {}", row.io, row.shape, row.qos)
}

fn floors(test: &SelfTest, text: &mut String) {
    let mut rows = vec![row(["latency floor", "messages/s", "p50", "p99", "p99.9", "max", "own CPU"])];
    let mut lags = vec![row(["timer lateness", "messages/s", "p50", "p99", "p99.9", "max", "own CPU"])];
    for measured in rows_of(test, FLOOR) {
        for (rows, histogram) in [(&mut rows, &measured.delivery), (&mut lags, &measured.lag)] {
            let none = HistogramReport::default();
            let figures = histogram.as_ref().unwrap_or(&none);
            let quantiles = [figures.p50_ns, figures.p99_ns, figures.p99_9_ns, figures.max_ns].map(latency);
            let mut cells = vec![name(measured), rate(measured)];
            cells.extend(quantiles);
            cells.push(share(measured));
            rows.push(cells);
        }
    }
    for rows in [rows, lags] {
        table(&rows, text);
        text.push('\n');
    }
}

fn ceilings(test: &SelfTest, text: &mut String) {
    let mut rows = vec![row(["ceiling", "messages/s", "own CPU", "per message", "set by"])];
    for measured in rows_of(test, CEILING) {
        rows.push(vec![
            name(measured),
            rate(measured),
            share(measured),
            measured.cpu_us_per_message.map_or("-".to_owned(), |us| format!("{us:.2} µs")),
            limit(measured).to_owned(),
        ]);
    }
    table(&rows, text);
    text.push('\n');
}

/// What kept it from going faster.
fn limit(row: &Row) -> &'static str {
    match row {
        row if row.cpu > BUSY_SHARE_MIN => "the generator",
        row if row.cpu + row.waited > BUSY_SHARE_MIN => "others on its core",
        _ => "the other end",
    }
}

fn rate(row: &Row) -> String {
    count(row.per_s.round() as u64)
}

fn share(row: &Row) -> String {
    format!("{:.0} %", row.cpu * 100.0)
}

fn verdict(test: &SelfTest, text: &mut String) {
    for measured in &test.rows {
        for reason in &measured.reasons {
            let _ = writeln!(text, "FAILED: {}: {reason}", name(measured));
        }
        for cause in &measured.bottleneck_causes {
            let _ = writeln!(text, "WARNING: {}: {}", name(measured), cause.text);
        }
    }
    if test.interrupted {
        text.push_str("interrupted: rows are missing\n");
    }
    let worst = rows_of(test, FLOOR).filter_map(|row| Some(row.delivery.as_ref()?.p99_ns)).max();
    if let Some(worst) = worst {
        let _ = writeln!(
            text,
            "On this machine, as it is now, a p99 below {} is the generator's own; one that is much above is the broker's.",
            latency(worst)
        );
    }
}
