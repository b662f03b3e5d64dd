//! Whether the generator itself was what was measured. It then says so, loudly: figures of a run whose generator was late are not
//! the broker's.

use serde::Serialize;

use crate::clock::{Nanos, SECOND};
use crate::run::Findings;
use crate::text::latency;
use crate::worker::Effort;

/// A thread that uses more of a core than this has no reserve for a burst.
const CPU_SHARE_MAX: f64 = 0.85;
/// A thread that waits for a core longer than this shares it with someone.
const WAIT_SHARE_MAX: f64 = 0.10;
/// Reads that fill the whole buffer mean that bytes lie unread in the kernel.
const FULL_READS_SHARE_MAX: f64 = 0.05;
/// More datagrams than this, dropped by our own sockets, make QUIC repeat and wait.
const DROPPED_SHARE_MAX: f64 = 0.001;
/// Shares of less time than this mean nothing.
const WINDOW_MIN: Nanos = SECOND / 10;
/// Fewer measurements than this say nothing about a 99th percentile.
const COUNT_MIN: u64 = 100;

/// Why the generator was the bottleneck.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Cause {
    /// `cpu`, `waited`, `lag`, `turn`, `unread` or `dropped`.
    pub(crate) kind: &'static str,
    /// The thread, if it is one thread's doing.
    pub(crate) thread: Option<usize>,
    /// A share from 0 to 1, or nanoseconds.
    pub(crate) value: f64,
    pub(crate) bound: f64,
    pub(crate) text: String,
}

pub(crate) fn causes(findings: &Findings) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (thread, effort) in findings.efforts.iter().enumerate() {
        causes.extend(of_thread(thread, effort));
    }
    let bound = findings.plan.lag_max;
    let record = &findings.record;
    if record.lag.len() >= COUNT_MIN {
        let late = record.lag.value_at_quantile(0.99);
        causes.extend(above("lag", late, bound, "messages left late (99th percentile)"));
    }
    if record.turn.len() >= COUNT_MIN {
        let long = record.turn.value_at_quantile(0.99);
        causes.extend(above("turn", long, bound, "received bytes waited unread (99th percentile)"));
    }
    causes
}

fn above(kind: &'static str, value: Nanos, bound: Nanos, what: &str) -> Option<Cause> {
    let text = format!("{what}: {}, bound {}", latency(value), latency(bound));
    (value > bound).then_some(Cause { kind, thread: None, value: value as f64, bound: bound as f64, text })
}

fn of_thread(thread: usize, effort: &Effort) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut check = |kind, part: u64, whole: u64, bound: f64, words: [&str; 2]| {
        let value = part as f64 / whole.max(1) as f64;
        if value > bound {
            let (percent, [before, after]) = (100.0 * value, words);
            let decimals = if bound < 0.01 { 1 } else { 0 };
            let (bound_percent, text) = (100.0 * bound, format!("thread {thread} {before}"));
            let text = format!("{text} {percent:.decimals$} % {after}, bound {bound_percent:.decimals$} %");
            causes.push(Cause { kind, thread: Some(thread), value, bound, text });
        }
    };
    if effort.wall >= WINDOW_MIN {
        check("cpu", effort.cpu, effort.wall, CPU_SHARE_MAX, ["used", "of its core"]);
        let waited = effort.waited.unwrap_or(0);
        check("waited", waited, effort.wall, WAIT_SHARE_MAX, ["was kept waiting for a core", "of the time"]);
    }
    if effort.reads >= COUNT_MIN {
        check(
            "unread",
            effort.full_reads,
            effort.reads,
            FULL_READS_SHARE_MAX,
            ["left bytes unread in", "of its reads"],
        );
    }
    if effort.datagrams >= COUNT_MIN {
        let words = ["had no room for", "of its datagrams"];
        check("dropped", effort.dropped, effort.datagrams, DROPPED_SHARE_MAX, words);
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(effort: &Effort) -> Vec<&'static str> {
        of_thread(0, effort).iter().map(|cause| cause.kind).collect()
    }

    #[test]
    fn a_thread_with_reserves_is_none() {
        let effort = Effort {
            wall: 10 * SECOND,
            cpu: 8 * SECOND,
            waited: Some(SECOND / 2),
            reads: 1000,
            full_reads: 10,
            datagrams: 10_000,
            dropped: 9,
        };
        assert_eq!(of_thread(0, &effort), []);
        assert_eq!(of_thread(0, &Effort::default()), []);
    }

    #[test]
    fn each_bound_is_checked() {
        let wall = 10 * SECOND;
        assert_eq!(kinds(&Effort { wall, cpu: 9 * SECOND, ..Effort::default() }), ["cpu"]);
        assert_eq!(kinds(&Effort { wall, waited: Some(2 * SECOND), ..Effort::default() }), ["waited"]);
        assert_eq!(kinds(&Effort { wall, reads: 1000, full_reads: 100, ..Effort::default() }), ["unread"]);
        assert_eq!(kinds(&Effort { wall, datagrams: 1000, dropped: 2, ..Effort::default() }), ["dropped"]);
        assert_eq!(kinds(&Effort { wall, reads: 10, full_reads: 10, ..Effort::default() }), [""; 0]);
        assert_eq!(kinds(&Effort { wall: 1000, cpu: 1000, ..Effort::default() }), [""; 0]);
    }

    #[test]
    fn the_warning_is_a_sentence() {
        let effort = Effort { wall: 10 * SECOND, cpu: 9 * SECOND, ..Effort::default() };
        assert_eq!(of_thread(3, &effort)[0].text, "thread 3 used 90 % of its core, bound 85 %");
    }

    #[test]
    fn lateness_names_its_bound() {
        let cause = above("lag", 2 * SECOND, SECOND, "messages left late").unwrap();
        assert_eq!(cause.text, "messages left late: 2.00 s, bound 1.00 s");
        assert_eq!(above("lag", SECOND, SECOND, "messages left late"), None);
    }
}
