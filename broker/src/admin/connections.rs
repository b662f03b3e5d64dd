//! A listener that holds a bounded number of connections, each for a bounded time.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// What clients of the door may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Scrapers come one at a time; a handful of dashboards and probes must fit beside them.
    pub(super) connections_max: usize,
    /// Far longer than one scrape takes, and short enough that silent connections cannot keep the door shut.
    pub(super) life_max: Duration,
}

/// The bounds of the running broker.
pub(super) const BOUNDS: Bounds = Bounds { connections_max: 32, life_max: Duration::from_secs(10) };

/// Pause after a failed accept: the usual cause, no free descriptor, does not pass by asking again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct BoundedListener {
    listener: TcpListener,
    free: Arc<Semaphore>,
    life_max: Duration,
}

impl BoundedListener {
    /// Takes a non-blocking listener; must be called inside a runtime.
    pub(super) fn new(listener: std::net::TcpListener, bounds: Bounds) -> io::Result<Self> {
        let free = Arc::new(Semaphore::new(bounds.connections_max));
        Ok(Self { listener: TcpListener::from_std(listener)?, free, life_max: bounds.life_max })
    }
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        let permit = Arc::clone(&self.free).acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let life = Box::pin(tokio::time::sleep(self.life_max));
                    return (BoundedStream { stream, life, _permit: permit }, peer);
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when its time is over and gives its place back when it is dropped.
pub(super) struct BoundedStream {
    stream: TcpStream,
    life: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl BoundedStream {
    /// The stream, while it may live.
    fn poll_alive(&mut self, cx: &mut Context<'_>) -> Result<Pin<&mut TcpStream>, io::Error> {
        match self.life.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_alive(cx)?.poll_read(cx, into)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_alive(cx)?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_alive(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_alive(cx)?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silent_connections_hold_the_door_only_for_their_time() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            let bounds = Bounds { connections_max: 1, life_max: Duration::from_millis(20) };
            let mut listener = BoundedListener::new(listener, bounds).unwrap();
            let _silent = TcpStream::connect(address).await.unwrap();
            let _waiting = TcpStream::connect(address).await.unwrap();
            let (mut first, _) = listener.accept().await;
            let second = tokio::spawn(async move { listener.accept().await.1 });
            let mut bytes = [0; 8];
            let mut into = ReadBuf::new(&mut bytes);
            let ended = std::future::poll_fn(|cx| Pin::new(&mut first).poll_read(cx, &mut into)).await;
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert!(!second.is_finished(), "the place is taken until the stream is dropped");
            drop(first);
            second.await.unwrap();
        });
    }
}
