//! A broker inside a program: [`Broker::start`] takes a configuration and gives a [`RunningBroker`].
//!
//! ```text
//!   Config ─► validate ─► data directory ─► certificate ─► sockets ─► admin ─► threads ─► RunningBroker
//!                                                                                             │ reload, metrics
//!                                                                          drain_and_stop ◄───┘
//! ```
//! What can fail fails before the first thread runs; whatever was acquired by then is given back.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use quelea_router::{ShardId, SleepFlags, mesh};
use quelea_shard::ShardParts;
use quelea_shard::quic::{Quic, QuicKeys, QuicListenerId, QuicSettings};
use quelea_udp_io::{Choice, Doorbell, RingConfig};

use crate::admin::{Admin, AdminError, Board, Node, Phase, Shown};
use crate::certificate::{Certificate, CertificateError, Source};
use crate::config::{Config, ConfigError, Listener, Placed, Shards, Transport};
use crate::driver::DriverParts;
use crate::entrances::{Entrances, QuicEntrance, check_files, entrances};
use crate::listeners::{Bound, ListenError, ServedListener, Service, SocketError, bind};
use crate::secrets::{Reloaded, Secrets};
use crate::shard_thread::{Names, ShardThreads, ThreadParts, cores_for, order_channel};
use crate::sizing::{self, Scale};
use crate::state_dir::{StateDir, StateError, default_path};
use crate::{figures, limits, memory};

/// Starts brokers.
#[derive(Debug)]
pub struct Broker;

/// A broker that serves. Dropping it ends it at once; [`RunningBroker::drain_and_stop`] says good-bye first.
pub struct RunningBroker {
    // Declared first, dropped first: no shard runs when its admin door and its data directory go.
    threads: ShardThreads,
    admin: Admin,
    shown: Arc<Shown>,
    served: Vec<ServedListener>,
    secrets: Secrets,
    state: StateDir,
    config: Config,
    shards: usize,
}

/// Why a broker does not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration breaks a rule.
    Config(ConfigError),
    /// The data directory cannot be used.
    State(StateError),
    /// The certificate cannot be used.
    Certificate(CertificateError),
    /// An address cannot be served.
    Listen(ListenError),
    /// TLS cannot be set up with this certificate.
    Tls(String),
    /// The kernel refused something else.
    Io {
        /// What was being done.
        what: &'static str,
        /// What it said.
        error: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::State(error) => error.fmt(f),
            Self::Certificate(error) => write!(f, "certificate: {error}"),
            Self::Listen(error) => error.fmt(f),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Io { what, error } => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl StartError {
    /// Whether the operator's configuration is to blame, the files that it names included (exit code 2), and not the
    /// state of the machine (exit code 1).
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Certificate(_) | Self::State(StateError::NoDirectory))
    }
}

impl Broker {
    /// Binds everything that `config` lists and serves it on threads of its own. Port 0 stands for any free port.
    ///
    /// Raises the limit of open files of the process. A shard that breaks an assertion ends the process.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind then but files in the data directory.
    pub fn start(config: Config) -> Result<RunningBroker, StartError> {
        config.validate().map_err(StartError::Config)?;
        note_few_files(&config, limits::raise_open_files());
        let shards = shards_of(&config);
        let state = StateDir::open(&data_dir(&config)?).map_err(StartError::State)?;
        let listeners = config.placed_listeners();
        let mut secrets = Secrets::load(&config, &listeners, &state)?;
        note_doubtful_certificates(&listeners, &secrets);
        let scale = Scale { shards, memory_bytes: memory::ceiling(config.broker.memory_max) };
        let entrances = entrances(&config, &listeners, scale, &mut secrets, &state)?;
        let keys = node_keys(&state)?;
        let bound = bind(&listeners, shards, &ring_config(&config, scale)?, keys.quic.steering_key);
        let bound = bound.map_err(|error| match error {
            SocketError::Listen(error) => StartError::Listen(error),
            SocketError::Ring(error) => StartError::Io { what: "set up sockets", error },
        })?;
        let board = Arc::new(Board::new(figures::descriptors(), shards, Instant::now()));
        let node = Node {
            started: SystemTime::now(),
            memory_ceiling_bytes: scale.memory_bytes,
            certificates: secrets.certificates(),
        };
        let shown = Arc::new(Shown { board: Arc::clone(&board), node });
        let admin = start_admin(&config, &shown)?;
        let served = bound.served.clone();
        let plan = Plan { config: &config, scale, keys, entrances, board };
        let threads = plan.start_threads(bound)?;
        shown.board.set_publisher(threads.publisher());
        Ok(RunningBroker { threads, admin, shown, served, secrets, state, config, shards })
    }

    /// Everything that is wrong with the files that `config` names: certificates, keys, authorities. Serves nothing and
    /// writes nothing; [`Config::validate`] says the rest.
    #[must_use]
    pub fn check_files(config: &Config) -> Vec<CertificateError> {
        check_files(config, SystemTime::now())
    }
}

impl RunningBroker {
    /// Where MQTT is served, with real ports: the listeners of the sections first.
    #[must_use]
    pub fn listeners(&self) -> &[ServedListener] {
        &self.served
    }

    /// Where one transport is served, with real ports.
    #[must_use]
    pub fn addresses(&self, transport: Transport) -> Vec<SocketAddr> {
        let served = self.served.iter().filter(|served| served.transport == transport);
        served.map(|served| served.address).collect()
    }

    /// Where `/metrics` and `/healthz` are served, with real ports.
    #[must_use]
    pub fn admin_addresses(&self) -> &[SocketAddr] {
        self.admin.addresses()
    }

    /// How many shards run.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// The certificate of every listener without one of its own; `None` if there is no such.
    #[must_use]
    pub fn certificate(&self) -> Option<Arc<Certificate>> {
        self.secrets.own().map(|current| current.get())
    }

    /// SHA-256 of that certificate, as `AB:CD:…`.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        self.certificate().map(|certificate| certificate.fingerprint())
    }

    /// Where keys, lock and development certificate lie.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.state.path()
    }

    /// The configuration that is served.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Loads every listener's certificate and authorities anew, for handshakes from now on. Each by itself: what cannot be
    /// used changes nothing.
    #[must_use = "some may not have been usable"]
    pub fn reload(&self) -> Reloaded {
        self.secrets.reload(&self.state)
    }

    /// What `/metrics` shows, with counters of this moment.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.shown.text()
    }

    /// Refuses new clients, sends those that are there away with reason code 0x8B (server shutting down) once what waits for
    /// them is written, waits until they have gone, at most for `broker.drain_timeout`, and ends. Returns whether all had gone by then.
    #[must_use = "clients may have been cut off"]
    pub fn drain_and_stop(self) -> bool {
        self.shown.board.set_phase(Phase::Draining);
        let deadline = Instant::now() + self.config.broker.drain_timeout;
        self.threads.drain(deadline);
        Instant::now() < deadline
    }
}

impl fmt::Debug for RunningBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RunningBroker");
        shown.field("shards", &self.shards).field("served", &self.served);
        shown.finish_non_exhaustive()
    }
}

/// Secrets of this run and of the node.
struct NodeKeys {
    quic: QuicKeys,
    /// Equal on all shards.
    node_seed: u64,
}

/// What all threads are made from.
struct Plan<'a> {
    config: &'a Config,
    scale: Scale,
    keys: NodeKeys,
    entrances: Entrances,
    board: Arc<Board>,
}

impl Plan<'_> {
    fn start_threads(self, bound: Bound) -> Result<ShardThreads, StartError> {
        let shards = self.scale.shards;
        let settings = sizing::shard_settings(self.config, self.scale);
        let quic_settings = sizing::quic_settings(self.config, self.scale);
        let mailboxes = mesh(shards, sizing::mesh_config(&settings));
        let bells: Arc<[Doorbell]> = bound.shards.iter().map(|shard| shard.ring.doorbell()).collect();
        let names = names_of(&bound.served);
        let sleep = SleepFlags::new(shards);
        let cores = if self.config.broker.pin_shards { cores_for(shards) } else { Vec::new() };
        let mut threads = ShardThreads::new();
        for (index, (sockets, mailbox)) in bound.shards.into_iter().zip(mailboxes).enumerate() {
            let quic = self.quic(index, &quic_settings)?;
            let shard = ShardParts {
                id: ShardId::from_index(index),
                shards,
                node_seed: self.keys.node_seed,
                seed: u64::from_ne_bytes(random()?),
                mailbox,
                quic,
            };
            let (send_order, orders) = order_channel();
            let driver = DriverParts {
                ring: sockets.ring,
                udp: sockets.udp,
                listeners: sockets.listeners,
                bells: Arc::clone(&bells),
                orders,
            };
            let parts = ThreadParts {
                settings: settings.clone(),
                shard,
                kinds: self.entrances.doors.clone(),
                names: names.clone(),
                driver,
                sleep: sleep.clone(),
                board: Arc::clone(&self.board),
                core: cores.get(index).copied(),
            };
            let started = threads.spawn(send_order, parts);
            started.map_err(|error| StartError::Io { what: "start a thread", error })?;
        }
        Ok(threads)
    }

    /// The QUIC half of a shard, with every listener; `None` without one.
    fn quic(&self, index: usize, settings: &QuicSettings) -> Result<Option<Quic>, StartError> {
        let Some((first, others)) = self.entrances.quic.split_first() else { return Ok(None) };
        let tls = Arc::clone(&first.tls);
        let mut quic = Quic::new(settings, &self.keys.quic, tls, index, self.scale.shards, random()?);
        quic.limit_listener(QuicListenerId::FIRST, first.limits);
        for QuicEntrance { tls, limits } in others {
            let listener = quic.add_listener(Arc::clone(tls));
            quic.limit_listener(listener, *limits);
        }
        Ok(Some(quic))
    }
}

fn names_of(served: &[ServedListener]) -> Names {
    let names = |is_quic: bool| {
        let served = served.iter().filter(|served| served.transport.is_quic() == is_quic);
        served.map(ToString::to_string).collect()
    };
    Names { quic: names(true), doors: names(false) }
}

fn shards_of(config: &Config) -> usize {
    match config.broker.shards {
        Shards::Count(count) => count,
        Shards::Auto => {
            std::thread::available_parallelism().map_or(1, usize::from).min(quelea_router::SHARDS_MAX)
        }
    }
}

/// The sizes of a shard's ring, on the back end that works here: chosen once, so that all shards have the same.
fn ring_config(config: &Config, scale: Scale) -> Result<RingConfig, StartError> {
    let mut sizes = sizing::ring_config(config, scale);
    let what = "use the kernel interface that io.backend asks for";
    let choice = Choice::of(sizes.backend).map_err(|error| StartError::Io { what, error })?;
    tracing::info!(backend = %choice.backend, why = choice.why, "input and output");
    sizes.backend = choice.backend;
    Ok(sizes)
}

fn data_dir(config: &Config) -> Result<PathBuf, StartError> {
    match &config.broker.data_dir {
        Some(path) => Ok(path.clone()),
        None => default_path(|name| std::env::var_os(name)).map_err(StartError::State),
    }
}

/// Reset and token keys outlive the process, so that a restarted broker can reset the connections of the one before;
/// the steering key and the seeds are new in every run.
fn node_keys(state: &StateDir) -> Result<NodeKeys, StartError> {
    let kept = state.keys().map_err(StartError::State)?;
    let quic = QuicKeys { reset_key: kept.reset_key, token_key: kept.token_key, steering_key: random()? };
    Ok(NodeKeys { quic, node_seed: u64::from_ne_bytes(random()?) })
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], StartError> {
    let mut bytes = [0; BYTES];
    let refused = |error| StartError::Io { what: "get random bytes", error: io::Error::other(error) };
    getrandom::fill(&mut bytes).map_err(refused)?;
    Ok(bytes)
}

fn start_admin(config: &Config, shown: &Arc<Shown>) -> Result<Admin, StartError> {
    Admin::start(&config.admin.listen, Arc::clone(shown)).map_err(|error| match error {
        AdminError::Bind(error) => {
            StartError::Listen(ListenError { service: Service::Admin, key: "admin.listen".to_owned(), error })
        }
        AdminError::Thread(error) => StartError::Io { what: "start the admin thread", error },
    })
}

/// Certificates that clients will not believe are served all the same: a restart must not take the broker away.
fn note_doubtful_certificates(listeners: &[Placed], secrets: &Secrets) {
    for current in secrets.certificates() {
        if current.get().expires_within(Duration::ZERO, SystemTime::now()) {
            tracing::warn!(fingerprint = current.get().fingerprint(), "this certificate has expired");
        }
        let is_development = matches!(current.source(), Source::Development);
        let is_served = |placed: &&Placed| {
            let Listener { transport, certificate, listen, .. } = &placed.listener;
            transport.has_tls() && certificate.is_none() && !listen.ip().to_canonical().is_loopback()
        };
        if let Some(placed) = listeners.iter().filter(|_| is_development).find(is_served) {
            let listener = placed.name();
            tracing::warn!(
                listener,
                "the development certificate is served beyond loopback: no client knows it"
            );
        }
    }
}

/// Clients beyond the limit of open files would wait in the kernel without a word.
fn note_few_files(config: &Config, files: Option<u64>) {
    let wanted = u64::from(config.broker.connections_max);
    let has_streams = config.placed_listeners().iter().any(|placed| !placed.listener.transport.is_quic());
    if let Some(files) = files.filter(|files| *files < wanted && has_streams) {
        tracing::info!(
            open_files_max = files,
            connections_max = wanted,
            "the kernel lets this process have fewer TCP clients than configured"
        );
    }
}
