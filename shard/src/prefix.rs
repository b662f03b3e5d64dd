//! The networks that a client comes from: what counts as one party where connections are limited by their source.
//!
//! ```text
//!   address ─► Prefix: IPv4 address, IPv6 /64   one household     connections, handshakes
//!           └► Site:   IPv4 /24,     IPv6 /48   one organisation  handshakes
//! ```
//! Who has a /48 has 65,536 prefixes. Established connections of so many are charged to memory and stop at its ceiling;
//! handshakes are not, so the site is counted, too.

use std::net::IpAddr;

/// An address range that counts as one party: an IPv4 address, or an IPv6 /64, which one household gets at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Prefix(u64);

/// What one organisation may have in one piece: an IPv4 /24, the least that is routed, or an IPv6 /48 (RFC 6177 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Site(u64);

impl Prefix {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(u64::from(IPV4) << 32 | u64::from(v4.to_bits())),
            IpAddr::V6(v6) => Self((v6.to_bits() >> 64) as u64),
        }
    }

    /// The site that it is a part of.
    pub(crate) fn site(self) -> Site {
        let is_ipv4 = self.0 >> 32 == u64::from(IPV4);
        Site(self.0 & if is_ipv4 { !0xff } else { !0xffff })
    }
}

/// In place of the upper half of an IPv6 prefix: it would be multicast, from which nothing is ever sent.
const IPV4: u32 = 0xffff_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Prefix {
        Prefix::of(text.parse().expect("an address"))
    }

    #[test]
    fn a_prefix_is_an_ipv4_address_or_an_ipv6_64() {
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
    }

    #[test]
    fn a_site_is_an_ipv4_24_or_an_ipv6_48() {
        let site = |text| of(text).site();
        assert_eq!(site("192.0.2.1"), site("::ffff:192.0.2.255"));
        assert_ne!(site("192.0.2.1"), site("192.0.3.1"));
        assert_eq!(site("2001:db8:1:1::1"), site("2001:db8:1:ffff::2"));
        assert_ne!(site("2001:db8:1:1::1"), site("2001:db8:2:1::1"));
    }
}
