//! Groups that share a port.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};

use quelea_udp_io::{BindError, Ring, RingConfig, SocketBuffers, Steering, bind_tcp_group, bind_udp_group};
use socket2::{Domain, SockRef, Socket, Type};

use super::Heard;

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn udp_group(addr: SocketAddr, shards: usize) -> Result<Vec<UdpSocket>, BindError> {
    bind_udp_group(addr, shards, &Steering::new([7; 16], shards), SocketBuffers::default())
}

#[test]
fn all_members_share_the_port_that_the_kernel_chose() {
    for addr in ["127.0.0.1:0", "[::1]:0"] {
        let addr: SocketAddr = addr.parse().unwrap();
        let udp: Vec<_> =
            udp_group(addr, 4).unwrap().iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert!(udp[0].port() != 0 && udp.iter().all(|other| *other == udp[0]), "{udp:?}");
        let tcp: Vec<_> =
            bind_tcp_group(addr, 3, 64).unwrap().iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert!(tcp.len() == 3 && tcp.iter().all(|other| *other == tcp[0]), "{tcp:?}");
    }
}

#[test]
fn ipv6_members_carry_ipv6_only() {
    let members = udp_group("[::]:0".parse().unwrap(), 2).unwrap();
    assert!(members.iter().all(|member| SockRef::from(member).only_v6().unwrap()));
}

/// The holder is a group of the same user with the option set: joining it would be allowed, and must not
/// happen.
#[test]
fn a_group_does_not_join_another_one() {
    for shards in [1, 3] {
        let held = udp_group(loopback(0), 2).unwrap();
        let addr = held[0].local_addr().unwrap();
        let error = udp_group(addr, shards).unwrap_err();
        let BindError::InUse { addr: named, owner: Some(owner) } = error else { panic!("{error}") };
        assert_eq!(named, addr);
        assert!(owner.contains(&format!("pid {}", std::process::id())), "{owner}");

        let held = bind_tcp_group(loopback(0), 2, 16).unwrap();
        let error = bind_tcp_group(held[0].local_addr().unwrap(), shards, 16).unwrap_err();
        assert!(matches!(error, BindError::InUse { owner: Some(_), .. }), "{error}");
    }
}

#[test]
fn one_shard_alone_lets_no_one_join() {
    let alone = udp_group(loopback(0), 1).unwrap();
    let joiner = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    joiner.set_reuse_port(true).unwrap();
    let error = joiner.bind(&alone[0].local_addr().unwrap().into()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

/// Runs this test binary again as another process that holds a port.
#[test]
fn a_port_in_use_names_its_owner() {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "groups::holds_a_port_until_its_input_ends", "--nocapture"])
        .env(HOLDER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let port: u16 = lines
        .find_map(|line| line.unwrap().split_once("holding ")?.1.parse().ok())
        .expect("the port it holds");
    let error = udp_group(loopback(port), 2).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("127.0.0.1:{port} is in use by ")), "{text}");
    assert!(text.contains(&format!("(pid {})", holder.id())), "{text}");
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    udp_group(loopback(port), 2).expect("free again");
}

/// The other half of the test above; without its variable in the environment it checks that a lone socket can
/// be had.
#[test]
fn holds_a_port_until_its_input_ends() {
    let socket = UdpSocket::bind(loopback(0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    assert_ne!(port, 0);
    if std::env::var_os(HOLDER).is_some() {
        println!("\nholding {port}");
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    }
}

const HOLDER: &str = "QUELEA_TEST_HOLDS_A_PORT";

#[test]
fn an_address_that_is_not_ours_is_refused_with_the_step() {
    let error = udp_group("192.0.2.1:0".parse().unwrap(), 2).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("cannot bind 192.0.2.1:0: "), "{text}");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn connections_reach_every_listener_of_a_group() {
    let listeners = bind_tcp_group(loopback(0), 2, 64).unwrap();
    let address = listeners[0].local_addr().unwrap();
    let mut rings: Vec<Ring> = listeners.into_iter().map(ring_of).collect();
    let clients: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
    let deadline = std::time::Instant::now() + super::DEADLINE;
    let opened = |rings: &[Ring]| rings.iter().map(|ring| ring.counters().doors_opened).collect::<Vec<_>>();
    while opened(&rings).iter().sum::<u64>() < clients.len() as u64 {
        assert!(std::time::Instant::now() < deadline, "connections were lost: {:?}", opened(&rings));
        for ring in &mut rings {
            ring.poll(Some(std::time::Duration::from_millis(1)), &mut Heard::default()).unwrap();
        }
    }
    assert!(opened(&rings).iter().all(|count| *count > 0), "{:?}", opened(&rings));
}

fn ring_of(listener: TcpListener) -> Ring {
    let mut ring = Ring::new(&RingConfig::default()).unwrap();
    ring.add_listener(listener).unwrap();
    ring
}
