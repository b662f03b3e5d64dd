//! The report for people: aligned tables.

use std::fmt::Write;

use super::{HistogramReport, Report};
use crate::text::{bytes, count, latency};

/// The report in lines, with the warning first if there is one; `colours` as the stream allows.
pub(crate) fn render(report: &Report, colours: bool) -> String {
    let mut text = String::new();
    heading(report, &mut text);
    warnings(report, colours, &mut text);
    connections(report, &mut text);
    counts(report, &mut text);
    latencies(report, &mut text);
    generator(report, &mut text);
    brokers(report, &mut text);
    outcome(report, colours, &mut text);
    text
}

/// The banner that nobody may overlook.
pub(crate) fn banner(report: &Report) -> Option<String> {
    if !report.bottleneck {
        return None;
    }
    let causes: Vec<_> = report.bottleneck_causes.iter().map(|cause| cause.text.as_str()).collect();
    Some(format!("WARNING: the load generator was the bottleneck: {}", causes.join("; ")))
}

fn heading(report: &Report, text: &mut String) {
    let asked = &report.configuration;
    let _ = write!(text, "{} {}, MQTT {}", report.command, asked.url, asked.mqtt);
    if asked.publishers > 0 {
        let rate = asked.rate_per_s.map_or("max".to_owned(), |rate| format!("{rate}/s {}", asked.arrivals));
        let qos: Vec<_> = asked.qos.iter().map(ToString::to_string).collect();
        let _ = write!(text, ", {rate}, QoS {}, {} B", qos.join("+"), asked.payload_bytes);
    }
    for (number, what) in
        [(asked.publishers, "publishers"), (asked.subscribers, "subscribers"), (asked.groups, "groups")]
    {
        if number > 0 {
            let _ = write!(text, ", {} {what}", count(number.into()));
        }
    }
    let threads = if asked.threads == 1 { "thread" } else { "threads" };
    let mut backends: Vec<_> = report.generator.threads.iter().map(|thread| thread.io.as_str()).collect();
    backends.dedup();
    let _ = writeln!(text, ", {} {threads} on {}\n", asked.threads, backends.join(" and "));
}

fn warnings(report: &Report, colours: bool, text: &mut String) {
    if let Some(banner) = banner(report) {
        let (on, off) = if colours { ("\x1b[1;33m", "\x1b[0m") } else { ("", "") };
        let _ = writeln!(text, "{on}{banner}{off}\n");
    }
    if !report.latency.open_loop && !report.latency.delivery.is_empty() {
        text.push_str("NOTE: --rate max is a closed loop: these latencies are not open loop, compare throughput only\n\n");
    }
}

fn connections(report: &Report, text: &mut String) {
    let links = &report.connections;
    let mut rows =
        vec![row(["connections", "asked", "ready", "failed", "lost", "again", "p50", "p99", "max"])];
    rows.push(
        [String::new()]
            .into_iter()
            .chain([links.asked, links.ready, links.failed, links.lost, links.reconnected].map(count))
            .chain([links.connect.p50_ns, links.connect.p99_ns, links.connect.max_ns].map(latency))
            .collect(),
    );
    table(&rows, text);
    for error in &links.errors {
        let _ = writeln!(text, "  {} × {}", count(error.count), error.reason);
    }
    text.push('\n');
}

fn counts(report: &Report, text: &mut String) {
    if report.counts.is_empty() {
        return;
    }
    let heads = [
        "messages",
        "published",
        "confirmed",
        "expected",
        "received",
        "lost",
        "duplicated",
        "disordered",
        "held back",
        "unsent",
        "refused",
        "unanswered",
    ];
    let mut rows = vec![row(heads)];
    for level in &report.counts {
        let disordered = level.disordered.map_or("-".to_owned(), count);
        rows.push(vec![
            format!("QoS {}", level.qos),
            count(level.published),
            count(level.confirmed),
            count(level.expected),
            count(level.received),
            count(level.lost),
            count(level.duplicated),
            disordered,
            count(level.held_back),
            count(level.unsent),
            count(level.refused),
            count(level.unanswered),
        ]);
    }
    table(&rows, text);
    for (number, what) in [
        (report.counts.iter().map(|level| level.unplaced).sum(), "too late to be told from duplicates"),
        (report.foreign, "not of this run"),
    ] {
        if number > 0 {
            let _ = writeln!(text, "  {} messages {what}", count(number));
        }
    }
    let window = &report.window;
    let _ = writeln!(
        text,
        "\nmeasured {:.2} s: published {}/s, received {}/s; then waited {:.2} s for late messages\n",
        window.seconds,
        count(window.left_per_s.round() as u64),
        count(window.arrived_per_s.round() as u64),
        window.drained_s
    );
}

fn latencies(report: &Report, text: &mut String) {
    let mut rows = vec![row(["latency", "count", "min", "p50", "p90", "p99", "p99.9", "p99.99", "max"])];
    let mut notes = String::new();
    let kinds = [
        ("delivery", "came", &report.latency.delivery),
        ("acknowledged", "were", &report.latency.acknowledgement),
    ];
    for (kind, verb, levels) in kinds {
        for level in levels {
            let name = format!("{kind}, QoS {}", level.qos);
            if let Some(missing @ 1..) = level.missing {
                let (missing, all) = (count(missing), count(missing + level.histogram.count));
                let _ =
                    writeln!(notes, "  {name}: {missing} of {all} never {verb}, and are in no percentile");
            }
            rows.push(histogram_row(name, &level.histogram));
        }
    }
    if rows.len() > 1 {
        table(&rows, text);
        text.push_str(&notes);
        text.push('\n');
    }
}

fn generator(report: &Report, text: &mut String) {
    let ours = &report.generator;
    let mut rows = vec![row(["generator", "count", "min", "p50", "p90", "p99", "p99.9", "p99.99", "max"])];
    for (name, histogram) in [("schedule lag", &ours.lag), ("turn", &ours.turn)] {
        if histogram.count > 0 {
            rows.push(histogram_row(name.to_owned(), histogram));
        }
    }
    if rows.len() > 1 {
        table(&rows, text);
    }
    let cpu: Vec<_> = ours.threads.iter().map(|thread| format!("{:.0} %", thread.cpu * 100.0)).collect();
    let waited: Vec<_> =
        ours.threads.iter().filter_map(|one| Some(format!("{:.1} %", one.waited? * 100.0))).collect();
    let _ = write!(text, "own threads: CPU {}", cpu.join(", "));
    if !waited.is_empty() {
        let _ = write!(text, "; waited for a core {}", waited.join(", "));
    }
    text.push_str("\n\n");
}

fn brokers(report: &Report, text: &mut String) {
    if report.brokers.is_empty() {
        return;
    }
    let heads = [
        "broker",
        "pid",
        "CPU",
        "user",
        "system",
        "per delivery",
        "memory before",
        "at the end",
        "per connection",
        "sleeps",
        "preempted",
    ];
    let mut rows = vec![row(heads)];
    for broker in &report.brokers {
        rows.push(vec![
            broker.name.clone(),
            broker.pid.to_string(),
            format!("{:.1} %", broker.cpu * 100.0),
            format!("{:.2} s", broker.cpu_user_s),
            format!("{:.2} s", broker.cpu_system_s),
            broker.cpu_us_per_delivery.map_or("-".to_owned(), |us| format!("{us:.2} µs")),
            bytes(broker.resident_before),
            bytes(broker.resident_to),
            broker.resident_per_connection.map_or("-".to_owned(), |each| bytes(each as u64)),
            count(broker.voluntary_switches),
            count(broker.involuntary_switches),
        ]);
    }
    table(&rows, text);
    if report.configuration.publishers == 0 {
        connecting(report, text);
    }
    text.push('\n');
}

/// What connections alone have cost.
fn connecting(report: &Report, text: &mut String) {
    for broker in &report.brokers {
        if let Some(us) = broker.cpu_us_per_connection {
            let _ = writeln!(
                text,
                "  {}: {us:.0} µs of CPU for each connection until the load began",
                broker.name
            );
        }
    }
    if let (Some(slab), Some(buffers)) =
        (report.kernel.slab_per_connection, report.kernel.buffers_per_connection)
    {
        // Less than before: something else of the machine has been freed.
        let figure = |each: f64| bytes(each.max(0.0) as u64);
        let (slab, buffers) = (figure(slab), figure(buffers));
        let _ = writeln!(
            text,
            "  kernel, whole machine: {slab} of slabs and {buffers} of socket buffers for each connection"
        );
    }
}

fn outcome(report: &Report, colours: bool, text: &mut String) {
    let (on, off) = if colours { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    if report.outcome.interrupted {
        text.push_str("interrupted: the figures are those until then\n");
    }
    if report.outcome.ok {
        text.push_str("ok\n");
    } else {
        let _ = writeln!(text, "{on}FAILED: {}{off}", report.outcome.reasons.join("; "));
    }
}

fn histogram_row(name: String, histogram: &HistogramReport) -> Vec<String> {
    let figures = [
        histogram.min_ns,
        histogram.p50_ns,
        histogram.p90_ns,
        histogram.p99_ns,
        histogram.p99_9_ns,
        histogram.p99_99_ns,
        histogram.max_ns,
    ];
    [name, count(histogram.count)].into_iter().chain(figures.map(latency)).collect()
}

pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

/// Writes rows of equal length: the first column to the left, the others to the right.
pub(crate) fn table(rows: &[Vec<String>], text: &mut String) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if column == 0 {
                let _ = write!(line, "{cell:<width$}");
            } else {
                let _ = write!(line, "  {cell:>width$}");
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut text = String::new();
        table(&[row(["a", "bb", "c"]), row(["long", "1", "µµµ"])], &mut text);
        assert_eq!(text, "a     bb    c\nlong   1  µµµ\n");
    }
}
