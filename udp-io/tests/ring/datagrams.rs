//! Datagrams: both families, trains, ECN, local addresses, limits and refusals.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use quelea_udp_io::{Outgoing, Ring, RingConfig, UdpId};
use socket2::{Domain, Socket, Type};

use super::{Heard, default_config, poll_all, poll_until, poll_until_ring, ring_on};

fn to(udp: UdpId, destination: SocketAddr, contents: &[u8]) -> Outgoing<'_> {
    Outgoing { udp, destination, source: None, ecn: None, segment_bytes: None, contents }
}

/// `count` datagrams of `segment_bytes`, each filled with its number; the last is shortened to `last_bytes`.
fn train(count: usize, segment_bytes: usize, last_bytes: usize) -> Vec<u8> {
    let mut contents: Vec<u8> = (0..count).flat_map(|number| vec![number as u8; segment_bytes]).collect();
    contents.truncate((count - 1) * segment_bytes + last_bytes);
    contents
}

fn train_arrives_split(ip: &str, config: &RingConfig) -> (Ring, Ring) {
    let (mut sender, udp, from) = ring_on(ip, config);
    let (mut receiver, _, to) = ring_on(ip, config);
    let contents = train(10, 1200, 700);
    let transmit = Outgoing {
        udp,
        destination: to,
        source: None,
        ecn: Some(2),
        segment_bytes: Some(1200),
        contents: &contents,
    };
    sender.send(&transmit);
    assert_eq!(sender.counters().datagrams_out, 0, "nothing leaves before flush");
    sender.flush().unwrap();
    assert_eq!(sender.counters().datagrams_out, 10);

    let mut heard = Heard::default();
    poll_until(&mut receiver, &mut heard, "10 datagrams", |heard| heard.datagrams.len() >= 10);
    poll_all(&mut receiver, &mut heard);
    assert_eq!(heard.datagrams.len(), 10);
    for (sent, seen) in contents.chunks(1200).zip(&heard.datagrams) {
        assert_eq!(seen.bytes, sent);
        assert_eq!((seen.peer, seen.local, seen.ecn), (from, Some(to.ip()), Some(2)));
    }
    assert_eq!(receiver.counters().datagrams_in, 10);
    assert_eq!(receiver.counters().datagram_bytes_in, contents.len() as u64);
    (sender, receiver)
}

#[test]
fn a_train_over_ipv4_leaves_whole_and_is_handed_over_split() {
    let (sender, receiver) = train_arrives_split("127.0.0.1", &default_config());
    assert_eq!((sender.counters().gso_trains, receiver.counters().gro_trains), (1, 1));
}

#[test]
fn a_train_over_ipv6_leaves_whole_and_is_handed_over_split() {
    let (sender, receiver) = train_arrives_split("::1", &default_config());
    assert_eq!((sender.counters().gso_trains, receiver.counters().gro_trains), (1, 1));
}

#[test]
fn a_train_without_kernel_support_arrives_all_the_same() {
    let config = RingConfig { gso: false, gro: false, ..default_config() };
    let (sender, receiver) = train_arrives_split("127.0.0.1", &config);
    assert_eq!((sender.counters().gso_trains, receiver.counters().gro_trains), (0, 0));
}

/// The kernel refuses to cut trains on a socket that sends without checksums: the same way as a device that
/// cannot.
#[test]
fn a_train_that_the_kernel_refuses_is_sent_one_by_one() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sender = Ring::new(&default_config()).unwrap();
    let no_checksums = socket.try_clone().unwrap();
    let udp = sender.add_udp(socket).unwrap();
    set_no_checksums(&no_checksums);
    let (mut receiver, _, destination) = ring_on("127.0.0.1", &default_config());

    let contents = train(5, 1000, 1000);
    sender.send(&Outgoing { segment_bytes: Some(1000), ..to(udp, destination, &contents) });
    sender.flush().unwrap();
    assert_eq!((sender.counters().gso_refused, sender.counters().datagrams_out), (1, 5));
    let mut heard = Heard::default();
    poll_until(&mut receiver, &mut heard, "5 datagrams", |heard| heard.datagrams.len() >= 5);
    let seen: Vec<u8> = heard.datagrams.iter().flat_map(|datagram| datagram.bytes.clone()).collect();
    assert_eq!(seen, contents);
}

#[allow(unsafe_code)]
fn set_no_checksums(socket: &UdpSocket) {
    use std::os::fd::AsRawFd;
    let one: libc::c_int = 1;
    let value = std::ptr::from_ref(&one).cast();
    // SAFETY: the option value points to a live integer of the given size for the length of the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, value, 4) };
    assert_eq!(result, 0);
}

#[test]
fn more_than_the_kernel_cuts_at_once_is_sent_in_several_trains() {
    let (mut sender, udp, _) = ring_on("127.0.0.1", &default_config());
    let (mut receiver, _, destination) = ring_on("127.0.0.1", &default_config());
    let contents = train(150, 100, 30);
    sender.send(&Outgoing { segment_bytes: Some(100), ..to(udp, destination, &contents) });
    sender.flush().unwrap();
    assert_eq!(sender.counters().gso_trains, 3);
    let mut heard = Heard::default();
    poll_until(&mut receiver, &mut heard, "150 datagrams", |heard| heard.datagrams.len() >= 150);
    let seen: Vec<u8> = heard.datagrams.iter().flat_map(|datagram| datagram.bytes.clone()).collect();
    assert_eq!(seen, contents);
}

#[test]
fn every_ecn_mark_is_seen_in_both_families() {
    for ip in ["127.0.0.1", "::1"] {
        let (mut sender, udp, _) = ring_on(ip, &default_config());
        let (mut receiver, _, destination) = ring_on(ip, &default_config());
        for ecn in 0..4 {
            sender.send(&Outgoing { ecn: Some(ecn), ..to(udp, destination, &[ecn]) });
        }
        sender.flush().unwrap();
        let mut heard = Heard::default();
        poll_until(&mut receiver, &mut heard, "4 datagrams", |heard| heard.datagrams.len() >= 4);
        let seen: Vec<_> = heard.datagrams.iter().map(|datagram| (datagram.bytes[0], datagram.ecn)).collect();
        assert_eq!(seen, [(0, Some(0)), (1, Some(1)), (2, Some(2)), (3, Some(3))], "{ip}");
    }
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    let (mut server, udp, bound) = ring_on("0.0.0.0", &default_config());
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(crate::DEADLINE)).unwrap();
    let asked = SocketAddr::from(([127, 0, 0, 2], bound.port()));
    client.send_to(b"question", asked).unwrap();

    let mut heard = Heard::default();
    poll_until(&mut server, &mut heard, "the question", |heard| !heard.datagrams.is_empty());
    let question = &heard.datagrams[0];
    assert_eq!(question.local, Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))));
    server.send(&Outgoing { source: question.local, ..to(udp, question.peer, b"answer") });
    server.flush().unwrap();
    let mut buffer = [0; 16];
    let (length, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (b"answer".as_slice(), asked));
}

/// Between binding a group and the start of its rings, clients of the last run go on sending.
#[test]
fn what_came_before_the_ring_is_reported_like_the_rest() {
    for ip in ["127.0.0.1", "::1"] {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let (mut sender, udp, from) = ring_on(ip, &default_config());
        sender.send(&Outgoing { ecn: Some(1), ..to(udp, address, b"early") });
        sender.flush().unwrap();
        let mut receiver = Ring::new(&default_config()).unwrap();
        receiver.add_udp(socket).unwrap();
        let mut heard = Heard::default();
        poll_until(&mut receiver, &mut heard, "the early one", |heard| !heard.datagrams.is_empty());
        let early = &heard.datagrams[0];
        assert_eq!((early.peer, early.local, early.ecn), (from, Some(address.ip()), Some(1)));
    }
}

/// A socket of both families sees IPv4 peers under mapped addresses; nothing above the ring does.
#[test]
fn mapped_addresses_are_normalised_and_answered() {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
    socket.set_only_v6(false).unwrap();
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into()).unwrap();
    let mut server = Ring::new(&default_config()).unwrap();
    let udp = server.add_udp(socket.into()).unwrap();
    let port = server.udp_address(udp).unwrap().port();
    let (mut client, client_udp, client_address) = ring_on("127.0.0.1", &default_config());

    let asked = SocketAddr::from(([127, 0, 0, 3], port));
    client.send(&Outgoing { ecn: Some(1), ..to(client_udp, asked, b"question") });
    client.flush().unwrap();
    let mut heard = Heard::default();
    poll_until(&mut server, &mut heard, "the question", |heard| !heard.datagrams.is_empty());
    let question = &heard.datagrams[0];
    assert_eq!((question.peer, question.local, question.ecn), (client_address, Some(asked.ip()), Some(1)));

    server.send(&Outgoing { source: question.local, ecn: Some(2), ..to(udp, question.peer, b"answer") });
    server.flush().unwrap();
    let mut heard = Heard::default();
    poll_until(&mut client, &mut heard, "the answer", |heard| !heard.datagrams.is_empty());
    assert_eq!((heard.datagrams[0].peer, heard.datagrams[0].ecn), (asked, Some(2)));
}

#[test]
fn a_batch_is_bounded_and_the_rest_comes_with_the_next() {
    let config = RingConfig { datagrams_per_receive: 8, gro: false, ..default_config() };
    let (mut receiver, _, address) = ring_on("127.0.0.1", &config);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..20_u8 {
        client.send_to(&[number], address).unwrap();
    }
    let mut heard = Heard::default();
    let handed: Vec<usize> =
        (0..4).map(|_| receiver.poll(Some(Duration::ZERO), &mut heard).unwrap()).collect();
    assert!(handed.iter().all(|handed| *handed <= 8) && handed[0] > 0, "{handed:?}");
    assert_eq!((handed.iter().sum(), handed[3]), (20, 0), "{handed:?}");
    assert!(heard.datagrams.iter().map(|datagram| datagram.bytes[0]).eq(0..20));
}

#[test]
fn a_datagram_longer_than_its_slot_is_dropped_and_counted() {
    let config = RingConfig { receive_buffer_bytes: 1500, gro: false, ..default_config() };
    let (mut receiver, _, address) = ring_on("127.0.0.1", &config);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(&[1; 1501], address).unwrap();
    client.send_to(&[], address).unwrap();
    client.send_to(&[2; 1500], address).unwrap();
    let mut heard = Heard::default();
    poll_until(&mut receiver, &mut heard, "the one that fits", |heard| !heard.datagrams.is_empty());
    assert_eq!(heard.datagrams.len(), 1);
    assert_eq!(heard.datagrams[0].bytes, [2; 1500]);
    assert_eq!((receiver.counters().datagrams_truncated, receiver.counters().datagrams_malformed), (1, 1));
}

#[test]
fn a_train_longer_than_its_slot_loses_only_its_end() {
    let config = RingConfig { receive_buffer_bytes: 2500, ..default_config() };
    let (mut receiver, _, destination) = ring_on("127.0.0.1", &config);
    let (mut sender, udp, _) = ring_on("127.0.0.1", &default_config());
    let contents = train(4, 1000, 1000);
    sender.send(&Outgoing { segment_bytes: Some(1000), ..to(udp, destination, &contents) });
    sender.flush().unwrap();
    let mut heard = Heard::default();
    poll_until(&mut receiver, &mut heard, "what fits", |heard| !heard.datagrams.is_empty());
    let seen: Vec<_> = heard.datagrams.iter().map(|datagram| datagram.bytes.as_slice()).collect();
    assert_eq!(seen, [&contents[..1000], &contents[1000..2000]]);
    assert_eq!(receiver.counters().datagrams_truncated, 1);
}

#[test]
fn what_the_kernel_had_no_room_for_is_counted_as_lost() {
    let config = RingConfig { socket_receive_buffer: 4096, gro: false, ..default_config() };
    let (mut receiver, _, address) = ring_on("127.0.0.1", &config);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..200 {
        client.send_to(&[7; 1200], address).unwrap();
    }
    let mut heard = Heard::default();
    poll_until(&mut receiver, &mut heard, "what fits", |heard| !heard.datagrams.is_empty());
    poll_all(&mut receiver, &mut heard);
    let received = heard.datagrams.len() as u64;
    // The kernel tells its count with a datagram that comes later.
    client.send_to(&[8], address).unwrap();
    poll_until(&mut receiver, &mut heard, "the last", |heard| heard.datagrams.last().unwrap().bytes == [8]);
    // It repeats its count with every datagram: told again is not lost again.
    client.send_to(&[9], address).unwrap();
    poll_until(&mut receiver, &mut heard, "one more", |heard| heard.datagrams.last().unwrap().bytes == [9]);
    assert!(received < 200, "a buffer of 4 KiB held everything");
    assert_eq!(receiver.counters().datagrams_overflowed, 200 - received);
}

#[test]
fn a_full_arena_sends_first_and_then_drops_and_counts() {
    let config = RingConfig { sends_queued_max: 4, ..default_config() };
    let (mut sender, udp, _) = ring_on("127.0.0.1", &config);
    let (mut receiver, _, destination) = ring_on("127.0.0.1", &default_config());
    for number in 0..9_u8 {
        sender.send(&to(udp, destination, &[number]));
    }
    // Two times four were flushed to make room; one waits.
    assert_eq!(sender.counters().datagrams_out, 8);
    sender.flush().unwrap();
    let mut heard = Heard::default();
    poll_until(&mut receiver, &mut heard, "9 datagrams", |heard| heard.datagrams.len() >= 9);
    assert!(heard.datagrams.iter().map(|datagram| datagram.bytes[0]).eq(0..9));

    let too_much = vec![0; sender_arena_bytes() + 1];
    sender.send(&to(udp, destination, &too_much));
    assert_eq!(sender.counters().dropped_arena_full, 1);
}

fn sender_arena_bytes() -> usize {
    default_config().send_arena_bytes
}

#[test]
fn refusals_of_the_kernel_are_counted_and_do_not_hold_up_what_follows() {
    let (mut sender, udp, _) = ring_on("127.0.0.1", &default_config());
    let (mut receiver, _, destination) = ring_on("127.0.0.1", &default_config());
    // Longer than UDP can carry; to a family that the socket cannot reach; from an address that is not ours.
    sender.send(&to(udp, destination, &[0; 66_000]));
    sender.send(&to(udp, "[::1]:9".parse().unwrap(), b"x"));
    sender.send(&Outgoing { source: Some("192.0.2.1".parse().unwrap()), ..to(udp, destination, b"x") });
    sender.send(&to(udp, destination, b"good"));
    sender.flush().unwrap();
    let mut heard = Heard::default();
    poll_until(&mut receiver, &mut heard, "the good one", |heard| !heard.datagrams.is_empty());
    assert_eq!(heard.datagrams[0].bytes, b"good");
    let counters = sender.counters();
    assert_eq!((counters.dropped_too_large, counters.dropped_unreachable, counters.datagrams_out), (1, 2, 1));
}

/// On a connected socket the kernel reports ICMP errors of earlier datagrams.
#[test]
fn a_refused_peer_is_counted_and_the_socket_lives_on() {
    // An address of its own, so that no test beside this one takes the port while it is free.
    let peer = UdpSocket::bind("127.0.0.77:0").unwrap();
    let peer_address = peer.local_addr().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let own_address = socket.local_addr().unwrap();
    socket.connect(peer_address).unwrap();
    let mut ring = Ring::new(&default_config()).unwrap();
    let udp = ring.add_udp(socket).unwrap();

    drop(peer);
    let mut heard = Heard::default();
    ring.send(&to(udp, peer_address, b"to nobody"));
    ring.flush().unwrap();
    ring.send(&to(udp, peer_address, b"tried twice"));
    ring.flush().unwrap();
    poll_until_ring(&mut ring, &mut heard, "the refusal", |ring| ring.counters().icmp_errors > 0);

    let peer = UdpSocket::bind(peer_address).unwrap();
    peer.send_to(b"back again", own_address).unwrap();
    poll_until(&mut ring, &mut heard, "the peer that is back", |heard| !heard.datagrams.is_empty());
    assert_eq!(heard.datagrams[0].bytes, b"back again");
}

#[test]
fn sizes_that_cannot_work_are_refused_with_a_reason() {
    let bad = [
        RingConfig { datagrams_per_receive: 0, ..default_config() },
        RingConfig { datagrams_per_receive: 65, ..default_config() },
        RingConfig { receive_buffer_bytes: 1199, ..default_config() },
        RingConfig { send_arena_bytes: 1000, ..default_config() },
        RingConfig { read_buffer_bytes: 0, ..default_config() },
        RingConfig { doors_max: usize::MAX, ..default_config() },
    ];
    for config in bad {
        let error = Ring::new(&config).err().expect("refused");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{config:?}: {error}");
    }
}

#[test]
fn every_datagram_is_heard_with_a_single_buffer() {
    let config = RingConfig { datagram_buffers: 1, ..default_config() };
    let (mut receiver, _, address) = ring_on("127.0.0.1", &config);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..50_u8 {
        client.send_to(&[number], address).unwrap();
    }
    let mut heard = Heard::default();
    poll_until(&mut receiver, &mut heard, "50 datagrams", |heard| heard.datagrams.len() >= 50);
    assert!(heard.datagrams.iter().map(|datagram| datagram.bytes[0]).eq(0..50));
    let is_uring = receiver.backend() == quelea_udp_io::Backend::IoUring;
    assert_eq!(receiver.counters().datagram_buffers_exhausted > 0, is_uring);
    assert_eq!(receiver.counters().receive_errors, 0);
}

/// More than one submission carries, to peers of both kinds, in one flush.
#[test]
fn a_thousand_datagrams_leave_in_one_flush() {
    let (mut sender, udp, _) = ring_on("127.0.0.1", &default_config());
    let (mut receiver, _, destination) = ring_on("127.0.0.1", &default_config());
    for number in 0..1000_u16 {
        sender.send(&to(udp, destination, &number.to_ne_bytes()));
    }
    sender.flush().unwrap();
    assert_eq!(sender.counters().datagrams_out, 1000);
    let mut heard = Heard::default();
    poll_until(&mut receiver, &mut heard, "1,000 datagrams", |heard| heard.datagrams.len() >= 1000);
    let seen = heard.datagrams.iter().map(|datagram| u16::from_ne_bytes(datagram.bytes[..].try_into().unwrap()));
    assert!(seen.eq(0..1000));
}

#[test]
fn several_sockets_of_a_ring_keep_their_datagrams_apart() {
    let mut ring = Ring::new(&default_config()).unwrap();
    let sockets: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<SocketAddr> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
    let ids: Vec<UdpId> = sockets.into_iter().map(|socket| ring.add_udp(socket).unwrap()).collect();
    // Each sends to the next, one of them to nowhere in between.
    for (index, id) in ids.iter().enumerate() {
        ring.send(&Outgoing { source: Some("192.0.2.1".parse().unwrap()), ..to(*id, addresses[0], b"x") });
        ring.send(&to(*id, addresses[(index + 1) % 3], &[index as u8]));
    }
    ring.flush().unwrap();
    assert_eq!((ring.counters().datagrams_out, ring.counters().dropped_unreachable), (3, 3));
    let mut heard = Heard::default();
    poll_until(&mut ring, &mut heard, "3 datagrams", |heard| heard.datagrams.len() >= 3);
    for datagram in &heard.datagrams {
        let from = usize::from(datagram.bytes[0]);
        assert_eq!((datagram.peer, datagram.udp), (addresses[from], ids[(from + 1) % 3]));
    }
}

#[test]
fn what_is_submitted_has_left_with_the_next_poll() {
    let (mut sender, udp, _) = ring_on("127.0.0.1", &default_config());
    let (mut receiver, _, destination) = ring_on("127.0.0.1", &default_config());
    sender.send(&to(udp, destination, b"there"));
    sender.submit().unwrap();
    assert_eq!(sender.poll(Some(Duration::ZERO), &mut Heard::default()).unwrap(), 0);
    assert_eq!(sender.counters().datagrams_out, 1);
    let mut heard = Heard::default();
    poll_until(&mut receiver, &mut heard, "the datagram", |heard| !heard.datagrams.is_empty());
    assert_eq!(heard.datagrams[0].bytes, b"there");
}
