//! The PROXY protocol, versions 1 and 2: the first bytes of a byte stream, in which a load balancer names the client.
//!
//! ```text
//!   1:  "PROXY TCP4 192.0.2.7 198.51.100.1 40000 1883\r\n"                                       at most 107 bytes
//!   2:  signature (12) │ version, command │ family │ length (2) │ addresses (12, 36) │ extensions   at most 16 + 2,048
//! ```
//! A listener either requires the header or does not know it: a client that could send one by itself could name itself
//! as it likes. What does not begin as one of the two is refused with its first wrong byte. Extensions are skipped.
//!
//! Source: `proxy-protocol.txt` of HAProxy, sections 2.1 and 2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Who may send a PROXY header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyRules {
    /// Addresses of the load balancers; empty if whoever reaches the listener is one.
    pub trusted: Vec<IpRange>,
}

impl ProxyRules {
    /// Whether a header from this address is believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.is_empty() || self.trusted.iter().any(|range| range.contains(peer))
    }
}

/// Addresses that begin alike: `192.0.2.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpRange {
    address: IpAddr,
    bits: u8,
}

impl IpRange {
    /// The addresses whose first `bits` bits are those of `address`; `None` if it has fewer.
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        (bits <= bits_max).then_some(Self { address, bits })
    }

    /// Whether the address is one of them. An IPv4 address inside an IPv6 one counts as what it stands for.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}

impl core::fmt::Display for IpRange {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// `192.0.2.0/24`, or an address alone.
impl core::str::FromStr for IpRange {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(drop)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(drop)?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        Self::new(address, bits.unwrap_or(whole)).ok_or(())
    }
}

/// The header is not one, or is longer than any that is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHeader;

/// A header that was read: its length, and the client that it names. `None` for a connection of the load balancer's own
/// (a health check) and for addresses that are not IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Bytes of the stream that it takes.
    pub bytes: usize,
    /// The client.
    pub client: Option<SocketAddr>,
}

/// Reads the header at the front of a stream; `None` while there is more to come.
///
/// # Errors
/// [`BadHeader`].
pub fn parse_proxy_header(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadHeader> {
    let begins = |what: &[u8]| bytes.iter().zip(what).all(|(byte, wanted)| byte == wanted);
    if begins(SIGNATURE) {
        parse_binary(bytes)
    } else if begins(WORD) {
        parse_text(bytes)
    } else {
        Err(BadHeader)
    }
}

fn parse_text(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadHeader> {
    let head = &bytes[..bytes.len().min(TEXT_BYTES_MAX)];
    let Some(end) = head.windows(2).position(|pair| pair == b"\r\n") else {
        return if head.len() == TEXT_BYTES_MAX { Err(BadHeader) } else { Ok(None) };
    };
    let line = core::str::from_utf8(&head[WORD.len()..end]).map_err(|_| BadHeader)?;
    let header = |client| Some(ProxyHeader { bytes: end + 2, client });
    // Whatever follows UNKNOWN is to be ignored.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(header(None));
    }
    let words: Vec<&str> = line.split(' ').collect();
    let &[family, source, destination, source_port, destination_port] = &words[..] else {
        return Err(BadHeader);
    };
    let address = |text: &str| -> Result<IpAddr, BadHeader> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| BadHeader),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| BadHeader),
            _ => Err(BadHeader),
        }
    };
    let port = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u16>().map_err(|_| BadHeader),
        false => Err(BadHeader),
    };
    address(destination)?;
    port(destination_port)?;
    Ok(header(Some(SocketAddr::new(address(source)?.to_canonical(), port(source_port)?))))
}

fn parse_binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadHeader> {
    let Some(fixed) = bytes.first_chunk::<FIXED_BYTES>() else { return Ok(None) };
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if command >> 4 != 2 || command & 0x0f > PROXY || length > REST_BYTES_MAX {
        return Err(BadHeader);
    }
    let Some(rest) = bytes[FIXED_BYTES..].get(..length) else { return Ok(None) };
    let header = |client| Ok(Some(ProxyHeader { bytes: FIXED_BYTES + length, client }));
    if command & 0x0f == LOCAL {
        return header(None);
    }
    match family {
        TCP4 => {
            let addresses = rest.first_chunk::<12>().ok_or(BadHeader)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *addresses;
            header(Some(SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])))))
        }
        TCP6 => {
            let addresses = rest.first_chunk::<36>().ok_or(BadHeader)?;
            let source: [u8; 16] = addresses[..16].try_into().expect("16 of 36 bytes");
            let port = u16::from_be_bytes([addresses[32], addresses[33]]);
            header(Some(SocketAddr::new(IpAddr::from(source).to_canonical(), port)))
        }
        // Unspecified, datagrams, local sockets: a receiver takes the connection for what it is.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => header(None),
        _ => Err(BadHeader),
    }
}

const WORD: &[u8] = b"PROXY ";
/// The longest line there can be, its end included.
const TEXT_BYTES_MAX: usize = 107;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED_BYTES: usize = 16;
/// Addresses and extensions. A certificate's names and a unique identifier come to a few hundred bytes.
const REST_BYTES_MAX: usize = 2_048;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend_from_slice(&[0x20 | command, family]);
        bytes.extend_from_slice(&(rest.len() as u16).to_be_bytes());
        bytes.extend_from_slice(rest);
        bytes
    }

    fn v4_addresses() -> Vec<u8> {
        vec![192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0x07, 0x5b]
    }

    /// Reads a whole header with something behind it, and sees that no shorter piece of it is taken for whole or wrong.
    fn client(header: &[u8]) -> Option<SocketAddr> {
        for end in 0..header.len() {
            assert_eq!(parse_proxy_header(&header[..end]), Ok(None), "the first {end} bytes");
        }
        let stream = [header, b"\x10\x00"].concat();
        let found = parse_proxy_header(&stream).expect("a header").expect("whole");
        assert_eq!(found.bytes, header.len());
        found.client
    }

    #[test]
    fn the_client_is_named_in_both_versions_and_families() {
        let v4 = Some("192.0.2.7:40000".parse().unwrap());
        assert_eq!(client(b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 1883\r\n"), v4);
        assert_eq!(client(&v2(1, 0x11, &v4_addresses())), v4);
        let extended = [v4_addresses(), vec![0x04, 0, 1, 0]].concat();
        assert_eq!(client(&v2(1, 0x11, &extended)), v4);

        let v6 = Some("[2001:db8::7]:40000".parse().unwrap());
        assert_eq!(client(b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 1883\r\n"), v6);
        let ip = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets().to_vec();
        let addresses = [ip("2001:db8::7"), ip("2001:db8::1"), vec![0x9c, 0x40, 0x07, 0x5b]].concat();
        assert_eq!(client(&v2(1, 0x21, &addresses)), v6);
    }

    #[test]
    fn a_health_check_and_an_unknown_client_keep_the_address_of_the_connection() {
        assert_eq!(client(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(client(b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n"), None);
        assert_eq!(client(&v2(0, 0, b"")), None);
        assert_eq!(client(&v2(0, 0x11, &v4_addresses())), None);
        assert_eq!(client(&v2(1, 0, b"")), None);
        assert_eq!(client(&v2(1, 0x31, &[0; 216])), None);
    }

    #[test]
    fn what_is_not_a_header_is_refused() {
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 120], b"\r\n"].concat();
        let texts: [&[u8]; 13] = [
            b"\x10",
            b"GET / HTTP/1.1\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 1883 \r\n",
            b"PROXY TCP4  192.0.2.7 198.51.100.1 40000 1883\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 65536\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 +4000 1883\r\n",
            b"PROXY TCP4 2001:db8::7 2001:db8::1 40000 1883\r\n",
            b"PROXY TCP6 192.0.2.7 198.51.100.1 40000 1883\r\n",
            b"PROXY TCP5 192.0.2.7 198.51.100.1 40000 1883\r\n",
            b"PROXY TCP4 192.0.2.256 198.51.100.1 40000 1883\r\n",
            b"PROXY\tTCP4",
            &long,
        ];
        for text in texts {
            assert_eq!(parse_proxy_header(text), Err(BadHeader), "{}", text.escape_ascii());
        }
        let mut version_1 = v2(1, 0x11, &v4_addresses());
        version_1[12] = 0x11;
        let binaries = [
            version_1,
            v2(2, 0x11, &v4_addresses()),
            v2(1, 0x11, &v4_addresses()[..11]),
            v2(1, 0x21, &[0; 35]),
            v2(1, 0x41, &v4_addresses()),
            v2(1, 0x11, &[0; REST_BYTES_MAX + 1]),
        ];
        for binary in binaries {
            assert_eq!(parse_proxy_header(&binary), Err(BadHeader), "{binary:02x?}");
        }
    }

    #[test]
    fn only_load_balancers_that_are_listed_are_believed() {
        let rules = ProxyRules {
            trusted: ["10.1.0.0/16", "192.0.2.7", "2001:db8::/32"].map(|text| text.parse().unwrap()).into(),
        };
        for believed in ["10.1.255.3", "192.0.2.7", "::ffff:192.0.2.7", "2001:db8:9::1"] {
            assert!(rules.trusts(believed.parse().unwrap()), "{believed}");
        }
        for stranger in ["10.2.0.1", "192.0.2.8", "2001:db9::1", "::1"] {
            assert!(!rules.trusts(stranger.parse().unwrap()), "{stranger}");
        }
        assert!(ProxyRules::default().trusts("203.0.113.1".parse().unwrap()));
        for wrong in ["10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "::/129", ""] {
            assert_eq!(wrong.parse::<IpRange>(), Err(()), "{wrong}");
        }
        assert!("0.0.0.0/0".parse::<IpRange>().unwrap().contains("203.0.113.1".parse().unwrap()));
    }
}
