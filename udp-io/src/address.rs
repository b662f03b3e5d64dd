//! Socket addresses as the kernel writes them (`struct sockaddr_in`, `struct sockaddr_in6`), as plain bytes.
//!
//! ```text
//! sockaddr_in    family u16 · port u16 be · address 4 · zero 8                      16 bytes
//! sockaddr_in6   family u16 · port u16 be · flowinfo 4 · address 16 · scope u32     28 bytes
//! ```
//!
//! IPv4-mapped IPv6 addresses never leave this crate: a peer is the same whether it came over a dual-stack
//! socket or not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Room for either form.
pub(crate) const NAME_BYTES_MAX: usize = 28;
const NAME_V4_BYTES: usize = 16;

/// A socket address for the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    bytes: [u8; NAME_BYTES_MAX],
    length: u8,
}

impl Name {
    /// The name of `destination` for a socket of the given family; `None` if an IPv4 socket is asked to reach
    /// an IPv6 address.
    pub(crate) fn for_socket(is_v6: bool, destination: SocketAddr) -> Option<Name> {
        match (is_v6, destination.ip().to_canonical()) {
            (false, IpAddr::V4(ip)) => Some(Name::v4(ip, destination.port())),
            (false, IpAddr::V6(_)) => None,
            (true, IpAddr::V4(ip)) => Some(Name::v6(ip.to_ipv6_mapped(), destination.port(), 0)),
            (true, IpAddr::V6(ip)) => {
                let scope_id = if let SocketAddr::V6(v6) = destination { v6.scope_id() } else { 0 };
                Some(Name::v6(ip, destination.port(), scope_id))
            }
        }
    }

    fn v4(ip: Ipv4Addr, port: u16) -> Name {
        let mut bytes = [0; NAME_BYTES_MAX];
        bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[4..8].copy_from_slice(&ip.octets());
        Name { bytes, length: NAME_V4_BYTES as u8 }
    }

    fn v6(ip: Ipv6Addr, port: u16, scope_id: u32) -> Name {
        let mut bytes = [0; NAME_BYTES_MAX];
        bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[8..24].copy_from_slice(&ip.octets());
        bytes[24..28].copy_from_slice(&scope_id.to_ne_bytes());
        Name { bytes, length: NAME_BYTES_MAX as u8 }
    }

    /// No address: for tests on sockets that have none.
    #[cfg(test)]
    pub(crate) const NONE: Name = Name { bytes: [0; NAME_BYTES_MAX], length: 0 };

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Reads a name that the kernel wrote; `None` if it is of a family we never asked for.
pub(crate) fn decode_name(name: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*name.first_chunk()?));
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    if family == libc::AF_INET {
        let octets: [u8; 4] = *name.get(4..)?.first_chunk()?;
        return Some(SocketAddr::new(IpAddr::from(octets), port));
    }
    if family != libc::AF_INET6 {
        return None;
    }
    let octets: [u8; 16] = *name.get(8..)?.first_chunk()?;
    let scope_id = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
    // The flow label is left out: it may change from packet to packet and would make one peer look like many.
    Some(canonical(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(octets), port, 0, scope_id))))
}

/// The address with an IPv4-mapped form turned back into IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V4(ip), address.port()),
        IpAddr::V6(_) => address,
    }
}
