//! The network that a client comes from: what counts as one party where connections are limited by their source.

use std::net::IpAddr;

/// An address range that counts as one party: an IPv4 address, or an IPv6 /64, which one household gets at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Prefix(u64);

impl Prefix {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            // The upper half would be an IPv6 multicast prefix, from which nothing is ever sent.
            IpAddr::V4(v4) => Self(0xffff_ffff << 32 | u64::from(v4.to_bits())),
            IpAddr::V6(v6) => Self((v6.to_bits() >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_an_ipv4_address_or_an_ipv6_64() {
        let of = |text: &str| Prefix::of(text.parse().expect("an address"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
    }
}
