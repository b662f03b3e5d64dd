//! The log: one line per event on standard error, for people or for machines.
//!
//! Shards never log per message; what happens often is counted and shown at `/metrics`.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogFormat, LogLevel, LogSection};

/// Installs the log of this process, for the binary: a program that embeds the broker installs its own.
///
/// # Errors
/// A log is already installed.
pub fn install(section: &LogSection) -> Result<(), tracing::subscriber::SetGlobalDefaultError> {
    let colours =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    tracing::subscriber::set_global_default(subscriber(section, colours, std::io::stderr))
}

/// The log of `section`, written to `writer`; `colours` holds for text only.
fn subscriber<W>(section: &LogSection, colours: bool, writer: W) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt().with_max_level(level(section.level)).with_writer(writer);
    match section.format {
        LogFormat::Text => Box::new(lines.with_ansi(colours).with_target(false).finish()),
        LogFormat::Json => Box::new(lines.json().flatten_event(true).finish()),
    }
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log_of(section: &LogSection, colours: bool) -> String {
        let written = Written::default();
        let copy = written.clone();
        tracing::subscriber::with_default(subscriber(section, colours, move || copy.clone()), || {
            tracing::info!(shard = 3, "a \"quoted\" line");
            tracing::debug!("not asked for");
        });
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_one_object_per_line_with_the_fields_of_the_event() {
        let text = log_of(&LogSection { format: LogFormat::Json, level: LogLevel::Info }, true);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
        assert_eq!(line["message"], "a \"quoted\" line");
        assert_eq!(line["shard"], 3);
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn text_has_colours_only_where_they_are_wanted() {
        let section = LogSection { format: LogFormat::Text, level: LogLevel::Debug };
        let plain = log_of(&section, false);
        assert_eq!(plain.lines().count(), 2, "{plain}");
        assert!(plain.contains("INFO a \"quoted\" line shard=3"), "{plain}");
        assert!(!plain.contains('\u{1b}'));
        assert!(log_of(&section, true).contains('\u{1b}'));
    }
}
