//! The `quelea` binary: what was typed becomes an errand, the errand an exit code.
//!
//! ```text
//!   arguments ─► Errand ─► Check, PrintConfig, PrintReference ─► 0 or 2
//!                    └───► Serve ─► banner, READY ─► signals ─┬─ SIGHUP: reload the certificates
//!                                                             ├─ SIGTERM, SIGINT: drain ─► 0
//!                                                             └─ a second one: stop now ─► 1
//! ```

use std::io::Write;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use quelea::broker::{Broker, RunningBroker, StartError};
use quelea::certificate::CertificateError;
use quelea::cli::{Arguments, Errand};
use quelea::config::{Config, ConfigError, Loaded, Origin, Problem, Reading, Transport, reference};
use quelea::notify::{NOTIFY_SOCKET, Notifier};
use quelea::secrets::{Exchanged, Refused, Reloaded, Secret};
use quelea::{banner, logging};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FAILED: u8 = 1;
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    let errand = match Arguments::parse().resolve(std::env::vars_os()) {
        Ok(errand) => errand,
        Err(error) => return refuse(&error.to_string(), REFUSED),
    };
    match errand {
        Errand::PrintConfig(loaded) => print(&loaded.to_toml()),
        Errand::PrintReference => print(&reference()),
        Errand::Check(reading) => check(reading),
        Errand::Serve(loaded) => serve(&loaded),
    }
}

/// Tells all that is wrong, in the configuration and in the files that it names.
fn check(reading: Reading) -> ExitCode {
    let Reading { loaded, mut problems } = reading;
    problems.extend(Broker::check_files(&loaded.config).iter().map(|error| problem_of(error, &loaded)));
    if problems.is_empty() {
        return print("The configuration is valid.\n");
    }
    refuse(&ConfigError { problems }.to_string(), REFUSED)
}

/// An error in words; one of a file that the configuration names with the place that names it.
fn told(error: &StartError, loaded: &Loaded) -> String {
    match error {
        StartError::Certificate(error) => problem_of(error, loaded).to_string(),
        _ => error.to_string(),
    }
}

fn problem_of(error: &CertificateError, loaded: &Loaded) -> Problem {
    let named = loaded.problem_of_file(&error.path, &error.what);
    // Nobody has named the development certificate: it lies in the data directory.
    named.unwrap_or_else(|| Problem {
        origin: Origin::Program,
        key: None,
        what: format!("certificate: {error}"),
    })
}

fn serve(loaded: &Loaded) -> ExitCode {
    let config: Config = loaded.config.clone();
    logging::install(&config.log).expect("the first log of this process");
    // Caught from now on: a signal during the start is not lost, it is served after it.
    let signals = match Signals::new([SIGTERM, SIGINT, SIGHUP]) {
        Ok(signals) => signals,
        Err(error) => return refuse(&format!("cannot catch signals: {error}"), FAILED),
    };
    let broker = match Broker::start(config) {
        Ok(broker) => broker,
        Err(error) => return refuse(&told(&error, loaded), exit_code(&error)),
    };
    // Nobody may be reading; serving does not depend on it.
    let _ = print(&banner::banner(&broker));
    let addresses = |transport| broker.addresses(transport);
    tracing::info!(
        quic = ?addresses(Transport::Quic),
        tcp = ?addresses(Transport::Tcp),
        tls = ?addresses(Transport::Tls),
        ws = ?addresses(Transport::Ws),
        wss = ?addresses(Transport::Wss),
        "serving"
    );
    let notifier = notifier();
    notifier.tell_ready();
    obey(signals, broker, &notifier)
}

/// The way to the service manager; one that cannot be reached does not keep the broker from serving.
fn notifier() -> Notifier {
    let address = std::env::var_os(NOTIFY_SOCKET);
    Notifier::new(address.as_deref()).unwrap_or_else(|error| {
        tracing::warn!(address = ?address, %error, "the service manager cannot be told");
        Notifier::default()
    })
}

fn exit_code(error: &StartError) -> u8 {
    if error.is_configuration() { REFUSED } else { FAILED }
}

/// Serves until told to stop.
fn obey(mut signals: Signals, broker: RunningBroker, notifier: &Notifier) -> ExitCode {
    loop {
        for signal in signals.wait() {
            if signal != SIGHUP {
                notifier.tell_stopping(broker.config().broker.drain_timeout);
                return drain(signals, broker);
            }
            notifier.tell_reloading();
            reload(&broker);
            notifier.tell_ready();
        }
    }
}

fn reload(broker: &RunningBroker) {
    let reloaded = broker.reload();
    for Exchanged { listeners, secret } in &reloaded.exchanged {
        let listeners = listeners.join(", ");
        match secret {
            Secret::Certificate(certificate) => {
                tracing::info!(listeners, fingerprint = certificate.fingerprint(), "certificate exchanged");
            }
            Secret::Authorities(file) => {
                tracing::info!(listeners, file = %file.display(), "authorities of clients exchanged");
            }
        }
    }
    for Refused { listeners, error } in &reloaded.refused {
        let listeners = listeners.join(", ");
        tracing::error!(listeners, %error, "cannot be loaded anew: what was in use before stays");
    }
    let Reloaded { exchanged, unchanged, refused } = reloaded;
    let (exchanged, refused) = (exchanged.len(), refused.len());
    tracing::info!(exchanged, unchanged, refused, "certificates and authorities read again");
}

/// Drains on a thread of its own, so that a second signal is heard.
fn drain(mut signals: Signals, broker: RunningBroker) -> ExitCode {
    tracing::info!(timeout = ?broker.config().broker.drain_timeout, "draining");
    let handle = signals.handle();
    let draining = thread::spawn(move || {
        let all_gone = broker.drain_and_stop();
        handle.close();
        all_gone
    });
    let began = Instant::now();
    if signals.forever().any(|signal| signal != SIGHUP && began.elapsed() > REPEATED_WITHIN) {
        tracing::warn!("stopped before all clients had gone");
        return ExitCode::from(FAILED);
    }
    match draining.join() {
        Ok(true) => tracing::info!("stopped, all clients have gone"),
        Ok(false) => tracing::warn!("stopped, the last clients were cut off at the deadline"),
        Err(_) => return ExitCode::from(FAILED),
    }
    ExitCode::SUCCESS
}

/// Shells and timeout(1) signal a process and then its group: that is one wish, said twice.
const REPEATED_WITHIN: Duration = Duration::from_millis(300);

fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

fn refuse(why: &str, code: u8) -> ExitCode {
    for line in why.lines() {
        eprintln!("quelea: {line}");
    }
    ExitCode::from(code)
}
