//! Groups of sockets that share a port, one per shard.
//!
//! A second process of the same user could join a `SO_REUSEPORT` group unnoticed and take a share of its
//! packets. So the first member is bound *without* the option, which the kernel refuses if anyone else,
//! sharing or not, holds the port; then the option is set on the bound socket, and the others join. There is
//! no probe and no gap between probe and bind. A process that starts later with the option set can still
//! join: the broker's lock on its data directory is what keeps a second broker out.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::owner::{Transport, port_owner};
use crate::steer::Steering;

/// Buffer sizes of UDP sockets, set before they receive. The kernel caps them at `net.core.{w,r}mem_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketBuffers {
    /// `SO_SNDBUF`, in bytes.
    pub send_bytes: usize,
    /// `SO_RCVBUF`, in bytes.
    pub receive_bytes: usize,
}

impl Default for SocketBuffers {
    fn default() -> SocketBuffers {
        let config = crate::RingConfig::default();
        SocketBuffers { send_bytes: config.socket_send_buffer, receive_bytes: config.socket_receive_buffer }
    }
}

/// Why a group could not be bound.
#[derive(Debug)]
pub enum BindError {
    /// Someone holds the port.
    InUse {
        /// The address asked for.
        addr: SocketAddr,
        /// Who seems to hold it, as `name (pid 123)`; `None` if that is not ours to see.
        owner: Option<String>,
    },
    /// The kernel refused for another reason.
    Refused {
        /// The address asked for.
        addr: SocketAddr,
        /// What was being done.
        step: &'static str,
        /// The kernel's reason: for example `AddrNotAvailable`, or `PermissionDenied` below port 1024.
        source: io::Error,
    },
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::InUse { addr, owner: Some(owner) } => write!(f, "{addr} is in use by {owner}"),
            BindError::InUse { addr, owner: None } => write!(f, "{addr} is in use by another process"),
            BindError::Refused { addr, step, source } => write!(f, "cannot {step} {addr}: {source}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BindError::InUse { .. } => None,
            BindError::Refused { source, .. } => Some(source),
        }
    }
}

/// Binds one UDP socket per shard to `addr`, the socket of shard `i` at index `i`, steered by connection ID
/// from the first packet on. Port 0 lets the kernel choose one port for all. IPv6 sockets carry IPv6 only. Do
/// not close one member alone: the kernel would renumber the others.
///
/// # Errors
/// [`BindError`]: the port is held by someone else, or the kernel refuses.
///
/// # Panics
/// If `steering` is for another number of shards.
pub fn bind_udp_group(
    addr: SocketAddr,
    shards: usize,
    steering: &Steering,
    buffers: SocketBuffers,
) -> Result<Vec<UdpSocket>, BindError> {
    assert_eq!(steering.shards(), shards, "the steering rule is for another group");
    let prepare = |is_first: bool| {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_send_buffer_size(buffers.send_bytes)?;
        socket.set_recv_buffer_size(buffers.receive_bytes)?;
        if is_first && shards > 1 {
            // The kernel takes the program only from a socket that shares its port; binding alone comes
            // after.
            socket.set_reuse_port(true)?;
            steering.attach(&socket)?;
            socket.set_reuse_port(false)?;
        }
        Ok(socket)
    };
    let sockets = bind_group(addr, shards, Transport::Udp, prepare, |_| Ok(()))?;
    Ok(sockets.into_iter().map(UdpSocket::from).collect())
}

/// Binds one TCP listener per shard to `addr`; the kernel spreads connections over them by the hash of the
/// addresses. Port 0 lets the kernel choose one port for all. `backlog` connections may wait per listener
/// (capped at `net.core.somaxconn`).
///
/// # Errors
/// [`BindError`]: the port is held by someone else, or the kernel refuses.
///
/// # Panics
/// If `shards` is 0.
pub fn bind_tcp_group(addr: SocketAddr, shards: usize, backlog: u32) -> Result<Vec<TcpListener>, BindError> {
    assert!(shards > 0, "a group has members");
    let prepare = |_| {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for the connections of the last run to time out; listeners still exclude
        // each other.
        socket.set_reuse_address(true)?;
        Ok(socket)
    };
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    let sockets = bind_group(addr, shards, Transport::Tcp, prepare, |socket| socket.listen(backlog))?;
    Ok(sockets.into_iter().map(TcpListener::from).collect())
}

/// Binds the first socket alone, opens the port to the others, and binds them in index order.
fn bind_group(
    addr: SocketAddr,
    shards: usize,
    transport: Transport,
    prepare: impl Fn(bool) -> io::Result<Socket>,
    open: impl Fn(&Socket) -> io::Result<()>,
) -> Result<Vec<Socket>, BindError> {
    let refused = |step, source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { addr, owner: port_owner(transport, addr.port()) },
        _ => BindError::Refused { addr, step, source },
    };
    let mut shared_addr = SockAddr::from(addr);
    let mut sockets: Vec<Socket> = Vec::with_capacity(shards);
    for index in 0..shards {
        let is_first = index == 0;
        let socket = prepare(is_first).map_err(|error| refused("set up a socket for", error))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true).map_err(|error| refused("set up a socket for", error))?;
        }
        if !is_first {
            socket.set_reuse_port(true).map_err(|error| refused("share", error))?;
        }
        socket.bind(&shared_addr).map_err(|error| refused("bind", error))?;
        if is_first {
            shared_addr = socket.local_addr().map_err(|error| refused("read back", error))?;
            if shards > 1 {
                socket.set_reuse_port(true).map_err(|error| refused("share", error))?;
            }
        }
        open(&socket).map_err(|error| refused("listen on", error))?;
        sockets.push(socket);
    }
    Ok(sockets)
}
