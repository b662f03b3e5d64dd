//! The operator's door: `/metrics` and `/healthz` over HTTP, on one side thread with a runtime of its own.
//!
//! ```text
//!   shard 0 ──publish──► Board ─┐
//!   shard 1 ──publish──► Board ─┼─► GET /metrics, GET /healthz     (one thread; no shard ever waits for it)
//!   process ─────────► Node  ───┘
//! ```
//!
//! A shard stores its counters into the [`Board`] now and then; a scrape reads them. Connections are limited in number and
//! in life, and each serves one request: neither a forgotten nor a hostile client can hold the door.

mod board;
mod connections;
mod metrics;

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

/// An address that cannot be served.
#[derive(Debug)]
pub struct AdminError {
    /// The address.
    pub address: SocketAddr,
    /// What the kernel said.
    pub error: io::Error,
}

impl Admin {
    /// Binds `addresses` (port 0: any) and serves them on a new thread; with no address there is no thread.
    ///
    /// # Errors
    /// The first address that cannot be bound.
    pub fn start(addresses: &[SocketAddr], shown: Arc<Shown>) -> Result<Self, AdminError> {
        let mut listeners = Vec::with_capacity(addresses.len());
        for &address in addresses {
            listeners.push(bind(address).map_err(|error| AdminError { address, error })?);
        }
        let Some((_, first)) = listeners.first() else {
            return Ok(Self { addresses: Vec::new(), stop: None, thread: None });
        };
        let first = *first;
        let bound = listeners.iter().map(|(_, address)| *address).collect();
        let (stop, stopped) = oneshot::channel();
        let serve = move || serve(listeners, &shown, stopped);
        let thread = std::thread::Builder::new().name("quelea-admin".to_owned()).spawn(serve);
        let thread = thread.map_err(|error| AdminError { address: first, error })?;
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

fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
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
    match metrics::encode(&shown) {
        Ok(text) => answer(StatusCode::OK, metrics::CONTENT_TYPE, text),
        Err(std::fmt::Error) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "cannot encode\n".to_owned()),
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

const TEXT: &str = "text/plain; charset=utf-8";
