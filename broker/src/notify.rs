//! Tells the service manager how the process fares, by the protocol of `sd_notify(3)`: one datagram for each change, to the
//! socket that `$NOTIFY_SOCKET` names. Without the variable nothing is said.
//!
//! ```text
//!   starting ─► READY=1 ─┬─ SIGHUP:  RELOADING=1, MONOTONIC_USEC=… ─► READY=1
//!                        └─ SIGTERM: STOPPING=1, EXTEND_TIMEOUT_USEC=…
//! ```
//! Who does not listen does not keep the broker from serving: a message that cannot be sent is written to the log.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Speaks to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
}

/// The variable in which a service manager names its socket.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// A manager whose queue is full is waited for so long with each message.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// What an end takes beyond the drain: shards are told and heard, threads end.
const STOP_MARGIN: Duration = Duration::from_secs(15);

impl Notifier {
    /// `address` is the value of [`NOTIFY_SOCKET`]: a path, or `@` and a name of the abstract namespace.
    ///
    /// # Errors
    /// Another kind of address, or no socket to be had.
    pub fn new(address: Option<&OsStr>) -> io::Result<Self> {
        let Some(address) = address.filter(|address| !address.is_empty()) else {
            return Ok(Self::default());
        };
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(address)?,
            _ => return Err(io::Error::new(io::ErrorKind::Unsupported, "expected a path, or @ and a name")),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Self { manager: Some((socket, address)) })
    }

    /// Everything is served: who waits for this broker may start.
    pub fn tell_ready(&self) {
        self.tell("READY=1\nSTATUS=serving");
    }

    /// Files are read again; [`Self::tell_ready`] follows. The time tells a manager that this is later than its own signal.
    pub fn tell_reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading certificates again"));
    }

    /// The end has begun; clients may take `drain` to go, whatever the manager would allow by itself.
    pub fn tell_stopping(&self, drain: Duration) {
        let extended = (drain + STOP_MARGIN).as_micros();
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={extended}\nSTATUS=draining"));
    }

    fn tell(&self, state: &str) {
        let Some((socket, manager)) = &self.manager else { return };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), manager) {
            let told = state.lines().next();
            tracing::warn!(told, %error, "the service manager cannot be told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_is_told_by_a_path_and_by_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        Notifier::new(Some(path.as_os_str())).unwrap().tell_ready();
        assert_eq!(heard(&by_path), "READY=1\nSTATUS=serving");

        let name = format!("quelea-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        let notifier = Notifier::new(Some(OsStr::new(&format!("@{name}")))).unwrap();
        notifier.tell_stopping(Duration::from_secs(30));
        assert_eq!(heard(&by_name), "STOPPING=1\nEXTEND_TIMEOUT_USEC=45000000\nSTATUS=draining");
    }

    #[test]
    fn without_a_manager_nothing_is_said_and_one_that_is_gone_does_no_harm() {
        for absent in [None, Some(OsStr::new(""))] {
            assert!(Notifier::new(absent).unwrap().manager.is_none());
        }
        let directory = tempfile::tempdir().unwrap();
        Notifier::new(Some(directory.path().join("gone").as_os_str())).unwrap().tell_ready();
        assert!(Notifier::new(Some(OsStr::new("vsock:2:1"))).is_err());
    }
}
