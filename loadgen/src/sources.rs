//! The addresses that connections come from (`--bind`): with one address there are about 28,000 connections to one port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Connections that one source address can have to one port, with the kernel's usual range (`ip_local_port_range`).
pub(crate) const PORTS_PER_SOURCE: usize = 28_000;

/// Addresses that one list may name.
const SOURCES_MAX: u64 = 4096;

/// A list as typed: addresses, ranges `127.0.0.1-127.0.0.9` and networks `127.0.1.0/28`, with commas between.
pub(crate) fn parse(list: &str) -> Result<Vec<IpAddr>, String> {
    let mut sources = Vec::new();
    for item in list.split(',').map(str::trim) {
        let (first, count) = range(item)?;
        if sources.len() as u64 + count > SOURCES_MAX {
            return Err(format!("more than {SOURCES_MAX} addresses"));
        }
        sources.extend((0..count).map(|offset| nth(first, offset)));
    }
    let is_v4 = sources.first().is_some_and(IpAddr::is_ipv4);
    if sources.iter().any(|source| source.is_ipv4() != is_v4) {
        return Err("IPv4 and IPv6 addresses in one list".into());
    }
    Ok(sources)
}

/// The first address of an item, and how many there are.
fn range(item: &str) -> Result<(IpAddr, u64), String> {
    let address = |text: &str| text.parse::<IpAddr>().map_err(|_| format!("{text:?} is not an IP address"));
    if let Some((network, bits)) = item.split_once('/') {
        let first = address(network)?;
        let width: u32 = if first.is_ipv4() { 32 } else { 128 };
        let bits: u32 = bits
            .parse()
            .ok()
            .filter(|bits| *bits <= width)
            .ok_or_else(|| format!("{item:?}: a prefix has at most {width} bits"))?;
        let count = 1_u64.checked_shl(width - bits).filter(|count| *count <= SOURCES_MAX);
        return Ok((first, count.ok_or_else(|| format!("{item:?} has more than {SOURCES_MAX} addresses"))?));
    }
    if let Some((first, last)) = item.split_once('-') {
        let (first, last) = (address(first)?, address(last)?);
        let distance = number(last).checked_sub(number(first)).filter(|_| first.is_ipv4() == last.is_ipv4());
        let distance = distance.ok_or_else(|| format!("{item:?} is no range"))?;
        return Ok((first, u64::try_from(distance).unwrap_or(u64::MAX).saturating_add(1)));
    }
    Ok((address(item)?, 1))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn nth(first: IpAddr, offset: u64) -> IpAddr {
    match first {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).wrapping_add(offset as u32)).into(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).wrapping_add(offset.into())).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &str) -> Vec<String> {
        parse(list).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lists_ranges_and_networks() {
        assert_eq!(texts("127.0.0.1, 127.0.0.3"), ["127.0.0.1", "127.0.0.3"]);
        assert_eq!(texts("127.0.0.254-127.0.1.1"), ["127.0.0.254", "127.0.0.255", "127.0.1.0", "127.0.1.1"]);
        assert_eq!(texts("10.0.0.4/30"), ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"]);
        assert_eq!(texts("fd00::1-fd00::2"), ["fd00::1", "fd00::2"]);
        assert_eq!(parse("127.0.0.0/20").unwrap().len(), 4096);
    }

    #[test]
    fn wrong_lists_are_refused() {
        for wrong in [
            "",
            "localhost",
            "127.0.0.0/8",
            "127.0.0.0/33",
            "::/0",
            "127.0.0.9-127.0.0.1",
            "127.0.0.1-::1",
            "127.0.0.1,::1",
            "127.0.0.0/20,10.0.0.1",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
