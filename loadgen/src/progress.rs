//! What is seen while a run lasts: one line on standard error that is written anew, or, where nobody looks, a line per second.

use std::io::{IsTerminal, Write};

use crate::plan::Plan;
use crate::series::SeriesSecond;
use crate::text::{count, latency};

pub(crate) struct Progress {
    style: Style,
    /// The last text of the ramp, so that the same is not said twice.
    last: String,
    has_latency: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Quiet,
    /// A line for each change.
    Lines,
    /// One line, written over.
    Live {
        dim: bool,
    },
}

impl Progress {
    pub(crate) fn new(plan: &Plan) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let style = match (plan.quiet, is_terminal) {
            (true, _) => Style::Quiet,
            (false, false) => Style::Lines,
            (false, true) => Style::Live { dim: crate::text::has_colours(is_terminal) },
        };
        Self { style, last: String::new(), has_latency: plan.subscribers > 0 }
    }

    pub(crate) fn ramp(&mut self, ready: u64, failed: u64, clients: u64) {
        // Where lines stay, tenths of the ramp are enough.
        let shown = if self.style == Style::Lines { ready * 10 / clients * clients / 10 } else { ready };
        if self.style == Style::Lines && shown == 0 {
            return;
        }
        let failed = if failed > 0 { format!(", {} failed", count(failed)) } else { String::new() };
        self.show(format!("connecting: {} of {} ready{failed}", count(shown), count(clients)));
    }

    pub(crate) fn second(&mut self, second: &SeriesSecond, lost: u64) {
        let mut text = format!("{:>4} s  published {}/s", second.number + 1, count(second.published));
        if self.has_latency {
            text += &format!(
                "  received {}/s  p50 {}  p99 {}  max {}",
                count(second.received),
                latency(second.p50),
                latency(second.p99),
                latency(second.max)
            );
        }
        if lost > 0 {
            text += &format!("  {} connections lost", count(lost));
        }
        self.show(text);
    }

    /// Leaves the screen to others.
    pub(crate) fn end(&mut self) {
        if let Style::Live { .. } = self.style {
            write("\r\x1b[K");
        }
    }

    fn show(&mut self, text: String) {
        if text == self.last {
            return;
        }
        match self.style {
            Style::Quiet => {}
            Style::Lines => write(&format!("{text}\n")),
            Style::Live { dim: true } => write(&format!("\r\x1b[K\x1b[2m{text}\x1b[0m")),
            Style::Live { dim: false } => write(&format!("\r\x1b[K{text}")),
        }
        self.last = text;
    }
}

/// Nobody may be reading; the run does not depend on it.
fn write(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}
