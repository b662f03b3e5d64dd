//! Control messages: what travels beside a datagram between us and the kernel (ECN, local address, segment
//! size, losses).
//!
//! They are built and read as bytes in the kernel's layout, so that no pointer arithmetic is needed:
//!
//! ```text
//! | length: usize (header and payload) | level: i32 | kind: i32 | payload … | padding to a multiple of usize |
//! ```

use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libc::c_int;

const ALIGNMENT: usize = size_of::<usize>();
const HEADER_BYTES: usize = size_of::<usize>() + 2 * size_of::<c_int>();
/// `in6_pktinfo` (20), traffic class (4) and segment size (2), each with header and padding: 40 + 24 + 24.
const OUTGOING_BYTES_MAX: usize = 88;
/// `in6_pktinfo`, traffic class, type of service, segment size and loss count: 40 + 4 × 24, rounded up.
pub(crate) const INCOMING_BYTES_MAX: usize = 160;

/// The control messages of one outgoing datagram or train.
#[derive(Clone, Copy)]
pub(crate) struct OutgoingControl {
    bytes: [u8; OUTGOING_BYTES_MAX],
    length: u8,
    /// The segment size is written last, so that the same bytes serve a single datagram when it is left off.
    single_length: u8,
}

impl OutgoingControl {
    /// Messages for a datagram to `destination` (its family decides the messages' level, also on a dual-stack
    /// socket).
    pub(crate) fn new(
        destination: IpAddr,
        source: Option<IpAddr>,
        ecn: u8,
        segment_bytes: Option<u16>,
    ) -> OutgoingControl {
        let mut control = OutgoingControl { bytes: [0; OUTGOING_BYTES_MAX], length: 0, single_length: 0 };
        let traffic_class = c_int::from(ecn & ECN_MASK).to_ne_bytes();
        match destination.to_canonical() {
            IpAddr::V4(_) => {
                if let Some(IpAddr::V4(ip)) = source.map(|ip| ip.to_canonical()) {
                    // struct in_pktinfo: interface index, address to send from, address in the header (not
                    // read on sending).
                    let mut packet_info = [0; 12];
                    packet_info[4..8].copy_from_slice(&ip.octets());
                    control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &packet_info);
                }
                if ecn & ECN_MASK != 0 {
                    control.push(libc::IPPROTO_IP, libc::IP_TOS, &traffic_class);
                }
            }
            IpAddr::V6(_) => {
                if let Some(IpAddr::V6(ip)) = source.map(|ip| ip.to_canonical()) {
                    // struct in6_pktinfo: address to send from, interface index.
                    let mut packet_info = [0; 20];
                    packet_info[..16].copy_from_slice(&ip.octets());
                    control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &packet_info);
                }
                if ecn & ECN_MASK != 0 {
                    control.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &traffic_class);
                }
            }
        }
        control.single_length = control.length;
        if let Some(segment_bytes) = segment_bytes {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment_bytes.to_ne_bytes());
        }
        control
    }

    fn push(&mut self, level: c_int, kind: c_int, payload: &[u8]) {
        let start = usize::from(self.length);
        let length = HEADER_BYTES + payload.len();
        let message = &mut self.bytes[start..start + length.next_multiple_of(ALIGNMENT)];
        let (header, rest) = message.split_at_mut(HEADER_BYTES);
        let (length_field, kind_fields) = header.split_at_mut(size_of::<usize>());
        length_field.copy_from_slice(&length.to_ne_bytes());
        kind_fields[..4].copy_from_slice(&level.to_ne_bytes());
        kind_fields[4..].copy_from_slice(&kind.to_ne_bytes());
        rest[..payload.len()].copy_from_slice(payload);
        self.length += message.len() as u8;
    }

    /// With the segment size: the kernel cuts the contents into a train.
    pub(crate) fn train(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Without the segment size: the contents are one datagram.
    pub(crate) fn single(&self) -> &[u8] {
        &self.bytes[..usize::from(self.single_length)]
    }
}

/// What the kernel told us about a received datagram or train.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct IncomingControl {
    /// The local address it was sent to.
    pub(crate) local: Option<IpAddr>,
    /// The two ECN bits of the IP header.
    pub(crate) ecn: Option<u8>,
    /// The size of every datagram of a train but the last.
    pub(crate) segment_bytes: Option<usize>,
    /// Datagrams that the socket has dropped for lack of room since it was opened, modulo 2^32.
    pub(crate) overflows: Option<u32>,
}

impl IncomingControl {
    /// Reads the messages; one that is unknown or too short is passed over.
    pub(crate) fn decode(mut control: &[u8]) -> IncomingControl {
        let mut seen = IncomingControl::default();
        while let Some((level, kind, payload, rest)) = next_message(control) {
            seen.take(level, kind, payload);
            control = rest;
        }
        seen
    }

    fn take(&mut self, level: c_int, kind: c_int, payload: &[u8]) {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // The second word is the address to answer from, the third the one in the header, which may
                // be a broadcast's. A datagram that was queued before the option was set has only the latter.
                let words = payload.get(4..).and_then(|rest| rest.first_chunk::<8>());
                self.local = words.map(|&[a, b, c, d, e, f, g, h]| {
                    let answer_from = Ipv4Addr::new(a, b, c, d);
                    IpAddr::V4(if answer_from.is_unspecified() {
                        Ipv4Addr::new(e, f, g, h)
                    } else {
                        answer_from
                    })
                });
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let octets = payload.first_chunk::<16>();
                self.local = octets.map(|octets| IpAddr::V6(Ipv6Addr::from(*octets)).to_canonical());
            }
            (libc::IPPROTO_IP, libc::IP_TOS) => self.ecn = payload.first().map(|tos| tos & ECN_MASK),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                self.ecn = integer(payload).map(|class| class as u8 & ECN_MASK);
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                self.segment_bytes =
                    integer(payload).and_then(|bytes| usize::try_from(bytes).ok()).filter(|&bytes| bytes > 0);
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                self.overflows = integer(payload).map(|count| count as u32);
            }
            _ => {}
        }
    }
}

fn integer(payload: &[u8]) -> Option<c_int> {
    payload.first_chunk().map(|bytes| c_int::from_ne_bytes(*bytes))
}

/// Splits off the first message: level, kind, payload and what follows it.
fn next_message(control: &[u8]) -> Option<(c_int, c_int, &[u8], &[u8])> {
    let length = usize::from_ne_bytes(*control.first_chunk()?);
    let level = c_int::from_ne_bytes(*control.get(size_of::<usize>()..)?.first_chunk()?);
    let kind = c_int::from_ne_bytes(*control.get(size_of::<usize>() + size_of::<c_int>()..)?.first_chunk()?);
    let payload = control.get(HEADER_BYTES..length)?;
    let rest = control.get(length.checked_next_multiple_of(ALIGNMENT)?..).unwrap_or_default();
    Some((level, kind, payload, rest))
}

/// RFC 3168 §5: the two low bits of the traffic class.
const ECN_MASK: u8 = 0b11;

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds what the kernel would write.
    fn message(level: c_int, kind: c_int, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (HEADER_BYTES + payload.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0xee);
        bytes
    }

    #[test]
    fn every_message_is_read_and_unknown_ones_are_passed_over() {
        let mut control = message(99, 99, &[1, 2, 3]);
        control.extend(message(
            libc::IPPROTO_IP,
            libc::IP_PKTINFO,
            &[0, 0, 0, 1, 127, 0, 0, 2, 127, 0, 0, 3],
        ));
        control.extend(message(libc::IPPROTO_IP, libc::IP_TOS, &[0xb9]));
        control.extend(message(libc::SOL_UDP, libc::UDP_GRO, &1200_i32.to_ne_bytes()));
        control.extend(message(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &7_u32.to_ne_bytes()));
        let expected = IncomingControl {
            local: Some(IpAddr::from([127, 0, 0, 2])),
            ecn: Some(1),
            segment_bytes: Some(1200),
            overflows: Some(7),
        };
        assert_eq!(IncomingControl::decode(&control), expected);
    }

    #[test]
    fn a_mapped_local_address_is_given_as_ipv4() {
        let mut payload = "::ffff:10.1.2.3".parse::<Ipv6Addr>().unwrap().octets().to_vec();
        payload.extend([0; 4]);
        let control = message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &payload);
        assert_eq!(IncomingControl::decode(&control).local, Some(IpAddr::from([10, 1, 2, 3])));
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        let mut control = message(libc::IPPROTO_IP, libc::IP_TOS, &[2]);
        for length in [0, 1, HEADER_BYTES - 1, 4096, usize::MAX] {
            control[..size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(IncomingControl::decode(&control), IncomingControl::default(), "length {length}");
        }
        assert_eq!(IncomingControl::decode(&control[..5]), IncomingControl::default());
    }

    #[test]
    fn what_is_sent_fits_and_single_leaves_off_the_segment_size() {
        let ip = IpAddr::from(Ipv6Addr::LOCALHOST);
        let control = OutgoingControl::new(ip, Some(ip), 2, Some(1200));
        assert_eq!(control.train().len(), OUTGOING_BYTES_MAX);
        let seen = IncomingControl::decode(control.single());
        assert_eq!((seen.local, seen.ecn), (Some(ip), Some(2)));
        assert_eq!(control.train().len() - control.single().len(), 24);
        assert!(OutgoingControl::new(ip, None, 0, None).train().is_empty());
    }
}
