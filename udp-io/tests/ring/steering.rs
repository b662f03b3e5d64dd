//! Steering: the rule against its published vectors, and the kernel against the rule.

use std::net::{SocketAddr, UdpSocket};

use quelea_udp_io::{DATAGRAM_BYTES_MIN, Ring, RingConfig, SocketBuffers, Steering, bind_udp_group};

use super::{Heard, poll_until};

const KEY: [u8; 16] = *b"steering by cid!";
const VECTORS: &str = include_str!("../steering_vectors.txt");

fn bytes_of<const N: usize>(hex: &str) -> [u8; N] {
    assert_eq!(hex.len(), 2 * N, "{hex}");
    std::array::from_fn(|index| u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap())
}

/// A small generator with a fixed seed: the tests need variety, not secrecy.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn long_header(cid: [u8; 8], length: usize) -> Vec<u8> {
    let mut packet = vec![0xc3, 0, 0, 0, 1, 8];
    packet.extend(cid);
    packet.resize(length, 0x5a);
    packet
}

fn short_header(cid: [u8; 8], length: usize) -> Vec<u8> {
    let mut packet = vec![0x43];
    packet.extend(cid);
    packet.resize(length, 0x5a);
    packet
}

#[test]
fn the_rule_agrees_with_its_vectors() {
    let mut checked = 0;
    for line in VECTORS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [key, shards, cid, shard] = fields[..] else { panic!("four fields: {line}") };
        let steering = Steering::new(bytes_of(key), shards.parse().unwrap());
        assert_eq!(steering.shard_of_cid(bytes_of(cid)), shard.parse::<usize>().unwrap(), "{line}");
        checked += 1;
    }
    assert!(checked >= 64, "{checked} vectors");
}

#[test]
fn both_headers_lead_to_their_connection_id_and_short_datagrams_to_none() {
    let steering = Steering::new(KEY, 16);
    let cid = [1, 2, 3, 4, 5, 6, 7, 8];
    let expected = Some(steering.shard_of_cid(cid));
    assert_eq!(steering.shard_of_datagram(&long_header(cid, DATAGRAM_BYTES_MIN)), expected);
    assert_eq!(steering.shard_of_datagram(&short_header(cid, DATAGRAM_BYTES_MIN)), expected);
    assert_eq!(steering.shard_of_datagram(&long_header(cid, 1200)), expected);
    for length in 0..DATAGRAM_BYTES_MIN {
        assert_eq!(steering.shard_of_datagram(&short_header(cid, 20)[..length]), None);
    }
}

#[test]
fn the_rule_spreads_evenly_also_over_counting_connection_ids() {
    let steering = Steering::new(KEY, 4);
    let mut counts = [0_u32; 4];
    for number in 0..40_000_u64 {
        counts[steering.shard_of_cid(number.to_be_bytes())] += 1;
    }
    assert!(counts.iter().all(|count| (9_500..=10_500).contains(count)), "{counts:?}");
}

/// Rings over a group of four, in index order.
fn group(ip: &str) -> (Vec<Ring>, Steering, SocketAddr) {
    let steering = Steering::new(KEY, 4);
    let addr = SocketAddr::new(ip.parse().unwrap(), 0);
    let sockets = bind_udp_group(addr, 4, &steering, SocketBuffers::default()).unwrap();
    let addr = sockets[0].local_addr().unwrap();
    let rings = sockets
        .into_iter()
        .map(|socket| {
            let mut ring = Ring::new(&RingConfig { gro: false, ..RingConfig::default() }).unwrap();
            ring.add_udp(socket).unwrap();
            ring
        })
        .collect();
    (rings, steering, addr)
}

fn kernel_agrees(ip: &str) {
    let (mut rings, steering, addr) = group(ip);
    let mut numbers = Numbers(0x5eed);
    let mut expected = [0_usize; 4];
    for count in 0..400 {
        let cid = numbers.next().to_be_bytes();
        let length = DATAGRAM_BYTES_MIN + (numbers.next() % 200) as usize;
        let packet = if count % 2 == 0 { long_header(cid, length) } else { short_header(cid, length) };
        expected[steering.shard_of_datagram(&packet).unwrap()] += 1;
        // A new socket for each, so that the source port changes as it does behind a NAT.
        UdpSocket::bind((ip, 0)).unwrap().send_to(&packet, addr).unwrap();
    }
    for (shard, ring) in rings.iter_mut().enumerate() {
        let mut heard = Heard::default();
        let wanted = expected[shard];
        assert!(wanted > 0, "no vector for shard {shard}");
        poll_until(ring, &mut heard, "its share", |heard| heard.datagrams.len() >= wanted);
        for datagram in &heard.datagrams {
            assert_eq!(steering.shard_of_datagram(&datagram.bytes), Some(shard), "{ip}");
        }
        assert_eq!(heard.datagrams.len(), wanted);
    }
}

#[test]
fn the_kernel_steers_as_the_rule_says_over_ipv4() {
    kernel_agrees("127.0.0.1");
}

#[test]
fn the_kernel_steers_as_the_rule_says_over_ipv6() {
    kernel_agrees("::1");
}

#[test]
fn one_peer_with_many_connections_is_steered_by_connection() {
    let (mut rings, steering, addr) = group("127.0.0.1");
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..64_u64 {
        let packet = short_header(number.to_be_bytes(), 40);
        let shard = steering.shard_of_datagram(&packet).unwrap();
        client.send_to(&packet, addr).unwrap();
        let mut heard = Heard::default();
        poll_until(&mut rings[shard], &mut heard, "the packet", |heard| heard.datagrams.len() == 1);
        assert_eq!(heard.datagrams[0].bytes, packet);
    }
}

#[test]
fn packets_too_short_to_steer_fall_back_to_their_addresses() {
    let (mut rings, _, addr) = group("127.0.0.1");
    let mut heard: Vec<Heard> = (0..4).map(|_| Heard::default()).collect();
    let total = 200;
    for count in 0..total {
        let packet = vec![0xc0; 1 + count % (DATAGRAM_BYTES_MIN - 1)];
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&packet, addr).unwrap();
    }
    let deadline = std::time::Instant::now() + super::DEADLINE;
    while heard.iter().map(|heard| heard.datagrams.len()).sum::<usize>() < total {
        assert!(std::time::Instant::now() < deadline, "short packets were lost");
        for (ring, heard) in rings.iter_mut().zip(&mut heard) {
            ring.poll(Some(std::time::Duration::from_millis(1)), heard).unwrap();
        }
    }
    let spread: Vec<usize> = heard.iter().map(|heard| heard.datagrams.len()).collect();
    assert!(spread.iter().all(|count| *count > 0), "spread by address: {spread:?}");
}
