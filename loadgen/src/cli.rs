//! The command line as typed. What the program needs of it is made by [`Plan::new`](crate::plan::Plan::new).

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{Args, Parser, Subcommand};
use quelea_mqtt::{QoS, Version};
use quelea_udp_io::Backend;

use crate::schedule::Rate;
use crate::target::Target;
use crate::units::{self, Alpn};

/// An open-loop load generator for MQTT brokers.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "quelea-load",
    version,
    long_about = "An open-loop load generator for MQTT brokers.\n\n\
        Every message has an intended time, and latency is counted from that time: a broker that stalls is charged for all \
        that was delayed, not only for what was under way. Loss, duplicates and disorder are counted by sequence numbers.",
    after_help = AFTER_HELP,
    max_term_width = 100
)]
pub(crate) struct Arguments {
    /// What to do
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  quelea-load pair mqtt://127.0.0.1 --pairs 50 --rate 5k --qos 1
  quelea-load fan-out quic://127.0.0.1 --subscribers 50 --rate 400 --insecure --pid $(pidof quelea)
  quelea-load conn mqtts://broker.example --connections 10k --connect-rate 500 --cafile ca.pem
  quelea-load self-test

Exit codes: 0 the run is good; 1 it is not, or could not be made here and now (an unknown host, a --pid that is not there);
2 wrong usage, files of certificates that cannot be used included.
Ctrl-C ends a run early and still prints its summary; a second one ends at once.";

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Run(Box<Run>),
    /// Measures the generator itself, without a broker: its ceiling, its latency floor, its timers
    #[command(after_help = SELF_TEST_HELP)]
    SelfTest(SelfTestArguments),
}

/// The commands that make one run of load.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Run {
    /// Connects clients at a rate and holds them
    #[command(after_help = CONN_HELP)]
    Conn(ConnArguments),
    /// Publishes; someone else subscribes
    #[command(after_help = PUB_HELP)]
    Pub(PubArguments),
    /// Subscribes to what `quelea-load pub` publishes
    #[command(after_help = SUB_HELP)]
    Sub(SubArguments),
    /// Publishers and subscribers in pairs, each with a topic of its own
    #[command(after_help = PAIR_HELP)]
    Pair(PairArguments),
    /// Few publishers, many subscribers, each of whom gets everything
    #[command(
        after_help = FAN_OUT_HELP,
        mut_arg("publishers", |arg| arg.required(false).default_value("1")),
        mut_arg("subscribers", |arg| arg.required(false).default_value("50"))
    )]
    FanOut(FanArguments),
    /// Many publishers, few subscribers, each of whom gets everything
    #[command(
        after_help = FAN_IN_HELP,
        mut_arg("publishers", |arg| arg.required(false).default_value("50")),
        mut_arg("subscribers", |arg| arg.required(false).default_value("1"))
    )]
    FanIn(FanArguments),
    /// Publishers, and groups whose members share a subscription
    #[command(after_help = SHARE_HELP)]
    Share(ShareArguments),
}

const CONN_HELP: &str = "\
Examples:
  quelea-load conn mqtt://127.0.0.1 --connections 1000 --connect-rate 200 --hold 30s --pid 4711
  quelea-load conn mqtt://127.0.0.1 --connections 100k --connect-rate 5k --bind 127.0.0.0/29 --threads 2
  quelea-load conn quic://broker.example --cafile ca.pem --cert client.pem --key client-key.pem";
const PUB_HELP: &str = "\
Examples:
  quelea-load pub mqtt://127.0.0.1 --publishers 10 --rate 1k --qos 1
  quelea-load pub mqtt://127.0.0.1 --topic t --topics 100 --rate 5k --poisson --duration 1m";
const SUB_HELP: &str = "\
Examples:
  quelea-load sub mqtt://127.0.0.1 --subscribers 2 --qos 1 --duration 30s
  quelea-load sub mqtt://127.0.0.1 --topic t --topics 100";
const PAIR_HELP: &str = "\
Examples:
  quelea-load pair mqtt://127.0.0.1 --pairs 50 --rate 5k --qos 0,1 --duration 30s --json run.json
  quelea-load pair quic://127.0.0.1 --insecure --pairs 1 --rate max --window 1000";
const FAN_OUT_HELP: &str = "\
Examples:
  quelea-load fan-out mqtt://127.0.0.1 --subscribers 50 --rate 400
  quelea-load fan-out wss://127.0.0.1 --cafile ca.pem --publishers 5 --topics 5 --subscribers 100 --rate 1k";
const FAN_IN_HELP: &str = "\
Examples:
  quelea-load fan-in mqtt://127.0.0.1 --publishers 50 --rate 5k --qos 1 --mqtt 3.1.1";
const SHARE_HELP: &str = "\
Examples:
  quelea-load share mqtt://127.0.0.1 --publishers 10 --members 4 --groups 2 --rate 5k --qos 1";
const SELF_TEST_HELP: &str = "\
Examples:
  quelea-load self-test
  quelea-load self-test --io epoll --duration 10s --rate 5k --json self-test.json";

/// `conn`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConnArguments {
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// Clients to connect
    #[arg(long, short = 'n', default_value = "100", value_parser = units::count)]
    pub(crate) connections: u32,
    /// How long to hold them when all are connected
    #[arg(long, default_value = "10s", value_parser = units::duration)]
    pub(crate) hold: Duration,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `pub`.
#[derive(Clone, Debug, Args)]
pub(crate) struct PubArguments {
    /// Publishing clients
    #[arg(long, short = 'p', default_value = "1", value_parser = units::count)]
    pub(crate) publishers: u32,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) half: Half,
}

/// `sub`.
#[derive(Clone, Debug, Args)]
pub(crate) struct SubArguments {
    /// Subscribing clients
    #[arg(long, short = 's', default_value = "1", value_parser = units::count)]
    pub(crate) subscribers: u32,
    #[command(flatten)]
    pub(crate) receive: Receive,
    /// Highest QoS of the subscription
    #[arg(long, short = 'q', default_value = "0", value_parser = units::qos)]
    pub(crate) qos: QoS,
    #[command(flatten)]
    pub(crate) half: Half,
}

/// `pair`.
#[derive(Clone, Debug, Args)]
pub(crate) struct PairArguments {
    /// Pairs of a publisher and a subscriber
    #[arg(long, short = 'n', default_value = "1", value_parser = units::count)]
    pub(crate) pairs: u32,
    /// Beginning of the topics
    #[arg(long, default_value = "quelea-load", value_name = "TOPIC")]
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) whole: Whole,
}

/// `fan-out` and `fan-in`, which differ in their defaults.
#[derive(Clone, Debug, Args)]
pub(crate) struct FanArguments {
    /// Publishing clients
    #[arg(long, short = 'p', value_parser = units::count)]
    pub(crate) publishers: u32,
    /// Subscribing clients
    #[arg(long, short = 's', value_parser = units::count)]
    pub(crate) subscribers: u32,
    #[command(flatten)]
    pub(crate) topics: Topics,
    #[command(flatten)]
    pub(crate) whole: Whole,
}

/// `share`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ShareArguments {
    /// Publishing clients
    #[arg(long, short = 'p', default_value = "10", value_parser = units::count)]
    pub(crate) publishers: u32,
    /// Members of each group
    #[arg(long, short = 'm', default_value = "4", value_parser = units::count)]
    pub(crate) members: u32,
    /// Groups; each gets every message once
    #[arg(long, short = 'g', default_value = "1", value_parser = units::count)]
    pub(crate) groups: u32,
    #[command(flatten)]
    pub(crate) topics: Topics,
    #[command(flatten)]
    pub(crate) whole: Whole,
}

/// `self-test`.
#[derive(Clone, Debug, Args)]
pub(crate) struct SelfTestArguments {
    /// Back end to test; auto: each that works here
    #[arg(long, default_value = "auto", value_name = "BACK_END", value_parser = units::backend)]
    pub(crate) io: Backend,
    /// How long to measure, for each row
    #[arg(long, short = 'd', default_value = "2s", value_name = "TIME", value_parser = units::duration)]
    pub(crate) duration: Duration,
    /// Messages per second of the rows that are paced
    #[arg(long, short = 'r', default_value = "1k", value_parser = units::rate)]
    pub(crate) rate: Rate,
    /// Bytes of each payload, at least 24
    #[arg(long, default_value = "64", value_name = "BYTES", value_parser = units::bytes)]
    pub(crate) payload: usize,
    /// Writes the figures as JSON ("-": to standard output, instead of the table)
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// Runs that publish and subscribe.
#[derive(Clone, Debug, Args)]
pub(crate) struct Whole {
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) receive: Receive,
    #[command(flatten)]
    pub(crate) timing: Timing,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Runs whose other half is another process.
#[derive(Clone, Debug, Args)]
pub(crate) struct Half {
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) topics: Topics,
    /// Number that tells this run's messages from others; the same for `pub` and `sub`
    #[arg(long, default_value_t = 0)]
    pub(crate) run: u32,
    #[command(flatten)]
    pub(crate) timing: Timing,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// How the broker is reached.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connections")]
pub(crate) struct Reach {
    /// mqtt://HOST[:PORT], mqtts://, ws://HOST[:PORT][/PATH], wss:// or quic://
    #[arg(value_name = "URL", value_parser = Target::parse, help_heading = Resettable::Reset)]
    pub(crate) target: Target,
    /// Version of MQTT: 5 or 3.1.1
    #[arg(long, default_value = "5", value_name = "VERSION", value_parser = units::version)]
    pub(crate) mqtt: Version,
    /// Threads that make the load, each with connections of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,
    /// Source addresses: a list of addresses, ranges (127.0.0.1-127.0.0.9) and networks (127.0.1.0/28)
    #[arg(long, value_name = "LIST")]
    pub(crate) bind: Option<String>,
    /// Back end that carries the load: epoll, io_uring, or auto for io_uring where the kernel allows it
    #[arg(long, default_value = "auto", value_name = "BACK_END", value_parser = units::backend)]
    pub(crate) io: Backend,
    /// Connections opened per second
    #[arg(long, default_value = "500", value_name = "PER_S", value_parser = units::connect_rate)]
    pub(crate) connect_rate: f64,
    /// Longest time from the transport's opening to CONNACK
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = units::duration)]
    pub(crate) connect_timeout: Duration,
    /// Connects lost clients again after this time, and resumes their sessions (default: a lost connection stays lost)
    #[arg(long, value_name = "TIME", value_parser = units::duration, num_args = 0..=1, default_missing_value = "1s")]
    pub(crate) reconnect: Option<Duration>,
    /// User name
    #[arg(long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// Password
    #[arg(long, requires = "username")]
    pub(crate) password: Option<String>,
    /// Beginning of the client identifiers
    #[arg(long, default_value = "ql", value_name = "TEXT")]
    pub(crate) client_id: String,
    /// Keep alive in seconds, 0 for none
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub(crate) keep_alive: u16,
    /// Seed of random arrivals and of hash maps
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) tls: Tls,
}

/// What TLS believes, shows and offers.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "TLS and QUIC")]
pub(crate) struct Tls {
    /// Believes the certificates of this PEM file only
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(crate) cafile: Option<PathBuf>,
    /// Believes any certificate
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Shows this certificate to a broker that asks for one; behind it in the PEM file those that lead to its authority
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// The key of --cert: a PEM file, not encrypted
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// Application protocols offered, with commas between (default: mqtt over quic://, none over TCP)
    #[arg(long, value_name = "LIST", value_parser = units::alpn)]
    pub(crate) alpn: Option<Alpn>,
}

/// What is published.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct Load {
    /// Messages per second, all publishers together (20k, 0.5), or max: as fast as it goes, not open loop
    #[arg(long, short = 'r', default_value = "100", value_parser = units::rate)]
    pub(crate) rate: Rate,
    /// Draws the gaps between messages from an exponential distribution
    #[arg(long)]
    pub(crate) poisson: bool,
    /// QoS of publications and subscriptions; with a list (0,1,2) the publishers take turns
    #[arg(long, short = 'q', default_value = "0", value_delimiter = ',', value_parser = units::qos)]
    pub(crate) qos: Vec<QoS>,
    /// Bytes of each payload, at least 24
    #[arg(long, default_value = "64", value_name = "BYTES", value_parser = units::bytes)]
    pub(crate) payload: usize,
    /// Unacknowledged QoS 1 and 2 messages of one publisher; the broker's Receive Maximum may lower it
    #[arg(long, default_value_t = 64, value_name = "MESSAGES", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) in_flight: u16,
    /// With --rate max at QoS 0: messages of one publisher that have not reached a subscriber; 0 for no such window
    #[arg(long, default_value_t = 1000, value_name = "MESSAGES")]
    pub(crate) window: u32,
}

/// How messages are taken.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct Receive {
    /// QoS 1 and 2 messages that the broker may have unacknowledged with one subscriber (MQTT 5)
    #[arg(long, default_value_t = 256, value_name = "MESSAGES", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) receive_max: u16,
}

/// Where messages go.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct Topics {
    /// The topic, or its beginning if there are several
    #[arg(long, default_value = "quelea-load", value_name = "TOPIC")]
    pub(crate) topic: String,
    /// Topics TOPIC/0, TOPIC/1, …; publishers take turns, subscribers take TOPIC/+
    #[arg(long, default_value = "1", value_name = "NUMBER", value_parser = units::count)]
    pub(crate) topics: u32,
}

/// How long everything takes.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Time")]
pub(crate) struct Timing {
    /// How long to measure
    #[arg(long, short = 'd', default_value = "10s", value_name = "TIME", value_parser = units::duration)]
    pub(crate) duration: Duration,
    /// Load before the measurement; it is counted for loss, not for latency and CPU
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = units::duration)]
    pub(crate) warm_up: Duration,
    /// Longest wait for late messages at the end
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = units::duration)]
    pub(crate) drain: Duration,
    /// Warns when the generator itself is late by more than this at the 99th percentile
    #[arg(long, default_value = "1ms", value_name = "TIME", value_parser = units::duration)]
    pub(crate) lag_max: Duration,
}

/// What is reported, and about whom.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Report")]
pub(crate) struct Output {
    /// Writes the report as JSON ("-": to standard output, instead of the table)
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Process of the broker, whose CPU, memory and context switches are read; may be given several times
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Vec<u32>,
    /// Shows no progress
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_that_parse() {
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<_> =
                help.lines().filter_map(|line| line.trim().strip_prefix("quelea-load ")).collect();
            assert!(!examples.is_empty(), "{} has no example", command.get_name());
            for example in examples {
                let words = std::iter::once("quelea-load").chain(example.split_whitespace());
                let parsed = Arguments::try_parse_from(words);
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            }
        }
    }
}
