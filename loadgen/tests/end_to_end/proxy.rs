//! A proxy between the generator and a broker: it stalls once, or cuts once, when so many bytes have gone up.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// What the proxy does, once, to the connection that carries the deciding byte.
#[derive(Clone, Copy)]
pub(crate) enum Trouble {
    /// Nothing goes up for so long.
    Stall(Duration),
    /// The connection is reset on both sides.
    Cut,
}

/// Carries bytes to `127.0.0.1:port`; after `bytes` of them towards the broker, over all connections, there is trouble. Returns
/// its URL.
pub(crate) fn proxy(port: u16, bytes: usize, trouble: Trouble) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("mqtt://{}", listener.local_addr().expect("bound"));
    let left = Arc::new(AtomicUsize::new(bytes));
    let done = Arc::new(AtomicBool::new(false));
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(broker) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            client.set_nodelay(true).expect("a TCP stream");
            broker.set_nodelay(true).expect("a TCP stream");
            let (client_out, broker_out) =
                (client.try_clone().expect("a handle"), broker.try_clone().expect("a handle"));
            let (left, done) = (Arc::clone(&left), Arc::clone(&done));
            thread::spawn(move || {
                carry(client, broker_out, |count| {
                    let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                        Some(left.saturating_sub(count))
                    });
                    let is_due =
                        before.is_ok_and(|left| left <= count) && !done.swap(true, Ordering::Relaxed);
                    match trouble {
                        Trouble::Stall(time) if is_due => {
                            thread::sleep(time);
                            true
                        }
                        Trouble::Cut if is_due => false,
                        _ => true,
                    }
                });
            });
            thread::spawn(move || carry(broker, client_out, |_| true));
        }
    });
    url
}

/// Carries bytes one way until an end, or until `lets_pass` says no.
fn carry(mut from: TcpStream, mut to: TcpStream, mut lets_pass: impl FnMut(usize) -> bool) {
    let mut buffer = [0; 16 << 10];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 || !lets_pass(count) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Either side may be gone already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
