//! The command line, in two steps: what was typed ([`Arguments`]), then what the program is to do ([`Errand`]).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::{ConfigError, Loaded, Origin, Override, Reading, load, read};

/// An MQTT broker whose first transport is QUIC.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(
    name = "quelea",
    version,
    long_about = "An MQTT broker whose first transport is QUIC.\n\n\
        Without any option it serves MQTT on 127.0.0.1: over QUIC on port 14567, TCP on 1883, TLS on 8883, \
        WebSocket on 8083, and WebSocket in TLS on 8084.",
    after_help = EXAMPLES,
    max_term_width = 100
)]
pub struct Arguments {
    /// Reads settings from a TOML file
    #[arg(long, short, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// Prints the effective settings, with the origin of each that is not a default, and ends
    #[arg(long)]
    pub print_config: bool,

    /// Serves MQTT over QUIC on this UDP address ("" for none)
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub quic_listen: Option<String>,

    /// Serves MQTT over TCP on this address ("" for none)
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub tcp_listen: Option<String>,

    /// Serves MQTT over TLS on this address ("" for none)
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub tls_listen: Option<String>,

    /// Serves MQTT over WebSocket on this address ("" for none)
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub ws_listen: Option<String>,

    /// Serves MQTT over WebSocket in TLS on this address ("" for none)
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub wss_listen: Option<String>,

    /// Serves /metrics and /healthz over HTTP on this address ("" for none)
    #[arg(long, value_name = "ADDRESS", global = true)]
    pub admin_listen: Option<String>,

    /// Keeps keys, certificate and lock in this directory
    #[arg(long, value_name = "DIRECTORY", global = true)]
    pub data_dir: Option<String>,

    /// Runs so many shards ("auto": one per core)
    #[arg(long, value_name = "NUMBER", global = true)]
    pub shards: Option<String>,

    /// Writes the log as "text" or "json"
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<String>,

    /// Writes the log from this level on: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", global = true)]
    pub log_level: Option<String>,

    /// What to do instead of serving
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Checks the settings and the files that they name, and ends
    Check,
    /// Prints a file with every setting, what it may be and its default, and ends
    Config,
}

/// What the program is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Errand {
    /// Serve until told to stop.
    Serve(Loaded),
    /// Say what keeps it from serving, if anything does.
    Check(Reading),
    /// Print the effective settings.
    PrintConfig(Loaded),
    /// Print every setting there is, with its default.
    PrintReference,
}

const EXAMPLES: &str = "\
Examples:
  quelea                                       serve this machine
  quelea --config quelea.toml                  serve as the file says
  quelea check --config quelea.toml            check the file, serve nothing
  quelea config > quelea.toml                  write down what can be set, to begin with
  quelea --print-config                        show what is set, and who said it
  QUELEA_LOG__LEVEL=debug quelea               set [log] level by the environment
  QUELEA_TCP__ALLOW_ANONYMOUS=true quelea --tcp-listen 0.0.0.0:1883
                                               serve a network, without passwords

Settings: defaults, then FILE, then QUELEA_SECTION__KEY, then options; the later wins.
Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration.
Signals: SIGTERM and SIGINT drain and end, SIGHUP loads the certificates anew.";

impl Arguments {
    /// Turns what was typed into what is to be done, with the environment's settings.
    ///
    /// # Errors
    /// Whatever is wrong with file, environment or options; its words name which.
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Errand, ConfigError> {
        let (file, overrides) = (self.config.as_deref(), self.overrides());
        match self.command {
            Some(Command::Check) => return Ok(Errand::Check(read(file, environment, overrides))),
            Some(Command::Config) => return Ok(Errand::PrintReference),
            None => {}
        }
        let loaded = load(file, environment, overrides)?;
        Ok(if self.print_config { Errand::PrintConfig(loaded) } else { Errand::Serve(loaded) })
    }

    fn overrides(&self) -> Vec<Override> {
        let options = [
            ("--quic-listen", "quic", "listen", &self.quic_listen),
            ("--tcp-listen", "tcp", "listen", &self.tcp_listen),
            ("--tls-listen", "tls", "listen", &self.tls_listen),
            ("--ws-listen", "ws", "listen", &self.ws_listen),
            ("--wss-listen", "wss", "listen", &self.wss_listen),
            ("--admin-listen", "admin", "listen", &self.admin_listen),
            ("--data-dir", "broker", "data_dir", &self.data_dir),
            ("--shards", "broker", "shards", &self.shards),
            ("--log-format", "log", "format", &self.log_format),
            ("--log-level", "log", "level", &self.log_level),
        ];
        let typed = options.into_iter().filter_map(|(flag, section, key, text)| {
            let origin = Origin::Flag(flag.to_owned());
            let text = text.clone()?;
            Some(Override { origin, section: section.to_owned(), key: key.to_owned(), text })
        });
        typed.collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn resolve(words: &[&str]) -> Result<Errand, ConfigError> {
        let words = ["quelea"].iter().chain(words);
        Arguments::try_parse_from(words).unwrap().resolve([])
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_may_stand_before_and_after_the_command() {
        for words in [["--tcp-listen", "127.0.0.1:9", "check"], ["check", "--tcp-listen", "127.0.0.1:9"]] {
            let Ok(Errand::Check(reading)) = resolve(&words) else { panic!("{words:?}") };
            assert_eq!(reading.problems, []);
            assert_eq!(reading.loaded.config.tcp.listen, ["127.0.0.1:9".parse().unwrap()]);
        }
    }

    #[test]
    fn without_a_command_it_serves_or_prints() {
        assert!(matches!(resolve(&[]), Ok(Errand::Serve(_))));
        assert!(matches!(resolve(&["--print-config"]), Ok(Errand::PrintConfig(_))));
    }

    #[test]
    fn what_can_be_set_is_shown_whatever_is_set() {
        assert_eq!(resolve(&["config", "--shards", "many"]), Ok(Errand::PrintReference));
    }

    #[test]
    fn a_wrong_option_is_refused_by_its_name() {
        let refusal = resolve(&["--shards", "many"]).unwrap_err().to_string();
        let expected = "flag --shards: broker.shards: \"many\" is not possible, \
                        expected \"auto\" or a number from 1 to 128";
        assert_eq!(refusal, expected);
    }
}
