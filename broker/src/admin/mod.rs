//! The operator's door: `/metrics` and `/healthz` over HTTP, on one side thread with a runtime of its own.
//!
//! ```text
//!   shard 0 ──publish──► Board ─┐
//!   shard 1 ──publish──► Board ─┼─► GET /metrics, GET /healthz     (one thread; no shard ever waits for it)
//!   process ─────────► Node  ───┘
//! ```
//!
//! A shard stores its counters into the [`Board`] now and then, and whenever a scrape asks for it: what is shown is of
//! this moment, unless a shard is stuck; then its last values are shown. Connections are limited in number and
//! in life, and each serves one request: neither a forgotten nor a hostile client can hold the door.

mod board;
mod connections;
mod metrics;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use quelea_udp_io::{BindError, bind_tcp_group};
use tokio::sync::oneshot;

pub use board::{Board, Descriptor, Kind, Phase};
pub use metrics::Node;

use connections::{BOUNDS, BoundedListener};

/// What the door shows.
#[derive(Debug)]
pub struct Shown {
    /// Counters of the shards, their heartbeats and the broker's phase.
    pub board: Arc<Board>,
    /// What concerns the whole process.
    pub node: Node,
}

/// The running side thread. Dropping it ends the thread.
#[derive(Debug)]
pub struct Admin {
    addresses: Vec<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Why the door stays shut.
#[derive(Debug)]
pub enum AdminError {
    /// An address cannot be bound.
    Bind(BindError),
    /// The thread cannot be started.
    Thread(io::Error),
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "cannot start the admin thread: {error}"),
        }
    }
}

impl std::error::Error for AdminError {}

impl Shown {
    /// All metrics of this moment as OpenMetrics text. Blocks for a fraction of a second at most.
    #[must_use]
    pub fn text(self: &Arc<Self>) -> String {
        self.board.refresh();
        metrics::encode(self).expect("a string takes everything")
    }
}

impl Admin {
    /// Binds `addresses` (port 0: any) and serves them on a new thread; with no address there is no thread.
    ///
    /// # Errors
    /// The first address that cannot be bound.
    pub fn start(addresses: &[SocketAddr], shown: Arc<Shown>) -> Result<Self, AdminError> {
        let mut listeners = Vec::with_capacity(addresses.len());
        for &address in addresses {
            listeners.push(bind(address)?);
        }
        if listeners.is_empty() {
            return Ok(Self { addresses: Vec::new(), stop: None, thread: None });
        }
        let bound = listeners.iter().map(|(_, address)| *address).collect();
        let (stop, stopped) = oneshot::channel();
        let serve = move || serve(listeners, &shown, stopped);
        let thread = std::thread::Builder::new().name("quelea-admin".to_owned()).spawn(serve);
        let thread = thread.map_err(AdminError::Thread)?;
        Ok(Self { addresses: bound, stop: Some(stop), thread: Some(thread) })
    }

    /// The addresses served, with their real ports.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The thread may have ended by itself; then there is nobody to tell.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the admin thread panicked");
        }
    }
}

fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), AdminError> {
    let mut group = bind_tcp_group(address, 1, BACKLOG).map_err(AdminError::Bind)?;
    let listener = group.pop().expect("a group of one");
    let set_up = |step| move |source| AdminError::Bind(BindError::Refused { addr: address, step, source });
    listener.set_nonblocking(true).map_err(set_up("set up"))?;
    let bound = listener.local_addr().map_err(set_up("read back"))?;
    Ok((listener, bound))
}

/// The thread: a runtime that lives until `stopped`; what is still being answered then is dropped with it.
fn serve(listeners: Vec<(TcpListener, SocketAddr)>, shown: &Arc<Shown>, stopped: oneshot::Receiver<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "no admin address is served"),
    };
    runtime.block_on(async {
        for (listener, address) in listeners {
            match BoundedListener::new(listener, BOUNDS) {
                Ok(listener) => {
                    let app = app(Arc::clone(shown));
                    drop(tokio::spawn(async move { axum::serve(listener, app).await }));
                }
                Err(error) => tracing::error!(%error, %address, "this admin address is not served"),
            }
        }
        // Both outcomes mean the end: told to, or the owner is gone.
        let _ = stopped.await;
    });
}

fn app(shown: Arc<Shown>) -> Router {
    let routes = Router::new().route("/metrics", get(metrics)).route("/healthz", get(healthz));
    routes.fallback(unknown).with_state(shown)
}

async fn metrics(State(shown): State<Arc<Shown>>) -> impl IntoResponse {
    // On a thread of its own: the health check is answered while a scrape waits for a stuck shard. There are never more
    // than there may be connections.
    match tokio::task::spawn_blocking(move || shown.text()).await {
        Ok(text) => answer(StatusCode::OK, metrics::CONTENT_TYPE, text),
        Err(why) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{why}\n")),
    }
}

async fn healthz(State(shown): State<Arc<Shown>>) -> impl IntoResponse {
    match shown.board.health(Instant::now()) {
        Ok(()) => answer(StatusCode::OK, TEXT, "ok\n".to_owned()),
        Err(why) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
    }
}

async fn unknown() -> impl IntoResponse {
    answer(StatusCode::NOT_FOUND, TEXT, "expected /metrics or /healthz\n".to_owned())
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> impl IntoResponse {
    (status, [(header::CONTENT_TYPE, content_type), (header::CONNECTION, "close")], body)
}

/// Connections that wait to be accepted: as many as are served at once.
const BACKLOG: u32 = 32;

const TEXT: &str = "text/plain; charset=utf-8";
