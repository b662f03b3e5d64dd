//! The unit in contrib/systemd fits the broker that it starts: its arguments, signals, exit codes, files, limits and calls.

use clap::Parser;
use quelea::cli::{Arguments, Errand};
use quelea::config::Config;

const UNIT: &str = include_str!("../../contrib/systemd/quelea.service");

/// Every value of a directive, in order.
fn values(directive: &str) -> Vec<&'static str> {
    let lines = UNIT.lines().filter_map(|line| line.split_once('='));
    lines.filter(|(name, _)| *name == directive).map(|(_, value)| value).collect()
}

fn value(directive: &str) -> &'static str {
    let values = values(directive);
    assert_eq!(values.len(), 1, "{directive}: {values:?}");
    values[0]
}

#[test]
fn it_starts_the_broker_with_arguments_that_exist() {
    let mut words = value("ExecStart").split(' ');
    assert_eq!(words.next(), Some("/usr/bin/quelea"));
    let arguments =
        Arguments::try_parse_from([&["quelea"][..], &words.collect::<Vec<_>>()].concat()).unwrap();
    let file = arguments.config.clone().unwrap();
    assert_eq!(
        file.parent(),
        Some(std::path::Path::new("/etc").join(value("ConfigurationDirectory")).as_path())
    );
    // The reference, which is what gets installed there, is no other errand.
    let arguments = Arguments { config: None, ..arguments };
    assert!(matches!(arguments.resolve([]), Ok(Errand::Serve(_))));
}

#[test]
fn the_data_directory_is_the_one_that_systemd_makes() {
    let made = format!("/var/lib/{}", value("StateDirectory"));
    let environment = |name: &str| (name == "STATE_DIRECTORY").then(|| made.clone().into());
    assert_eq!(quelea::state_dir::default_path(environment).unwrap(), std::path::Path::new(&made));
    assert_eq!(value("StateDirectoryMode"), "0700");
}

#[test]
fn it_waits_for_ready_reloads_by_sighup_and_leaves_mistakes_alone() {
    assert_eq!(value("Type"), "notify");
    assert_eq!(value("ExecReload"), "/bin/kill -HUP $MAINPID");
    assert_eq!((value("Restart"), value("RestartPreventExitStatus")), ("on-failure", "2"));
    assert_eq!(value("StartLimitIntervalSec"), "0", "an address may come late");
}

#[test]
fn a_drain_ends_before_systemd_loses_patience() {
    let patience: u64 = value("TimeoutStopSec").strip_suffix('s').unwrap().parse().unwrap();
    // What an order to a shard, and its thread's end, may take on top.
    assert!(patience >= Config::default().broker.drain_timeout.as_secs() + 10, "{patience}");
    assert_eq!(value("KillSignal"), "SIGTERM");
}

#[test]
fn as_many_files_may_be_open_as_there_are_clients() {
    let files: u32 = value("LimitNOFILE").parse().unwrap();
    assert!(files > Config::default().broker.connections_max);
}

#[test]
fn no_capability_is_given_because_none_is_needed() {
    for directive in ["CapabilityBoundingSet", "AmbientCapabilities"] {
        assert_eq!(value(directive), "", "{directive}");
    }
    let config = Config::default();
    let clients = config.placed_listeners().into_iter().map(|placed| placed.listener.listen);
    for address in clients.chain(config.admin.listen) {
        assert!(address.port() >= 1_024, "{address}");
    }
}

#[test]
fn the_sandbox_leaves_the_broker_what_it_uses() {
    let filters = values("SystemCallFilter");
    let (denied, allowed): (Vec<_>, Vec<_>) = filters.into_iter().partition(|filter| filter.starts_with('~'));
    let allowed: Vec<&str> = allowed.iter().flat_map(|filter| filter.split(' ')).collect();
    for call in ["@system-service", "io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(allowed.contains(&call), "{call} in {allowed:?}");
    }
    // Nothing else is taken out again: @resources has sched_setaffinity, @aio has io_uring.
    assert_eq!(denied, ["~@privileged"]);
    // The share of memory is read from /proc/meminfo.
    assert_eq!(values("ProcSubset"), [""; 0]);
    let families: Vec<_> = value("RestrictAddressFamilies").split(' ').collect();
    assert_eq!(families, ["AF_INET", "AF_INET6", "AF_UNIX"]);
}

#[test]
fn its_user_is_the_one_that_is_made() {
    let made = include_str!("../../contrib/systemd/quelea.sysusers");
    let line = made.lines().find(|line| !line.starts_with('#')).unwrap();
    assert!(line.starts_with(&format!("u {} ", value("User"))), "{line}");
    assert!(line.ends_with(&format!(" /var/lib/{}", value("StateDirectory"))), "{line}");
    assert_eq!(value("User"), value("Group"));
}
