//! Byte streams: echo, back-pressure, the ways to end, and the doorbell.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use quelea_udp_io::{Close, Closed, DoorId, Ring, RingConfig, WriteBatch};
use smallvec::smallvec;
use socket2::SockRef;

use super::{DEADLINE, Heard, default_config, poll_all, poll_until, poll_until_ring, ring, ring_with_listener};

/// A ring, a client, and the door between them.
fn connected(config: &RingConfig) -> (Ring, Heard, TcpStream, DoorId) {
    let (mut ring, listener, address) = ring_with_listener(config);
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.set_write_timeout(Some(DEADLINE)).unwrap();
    client.set_nodelay(true).unwrap();
    let mut heard = Heard::default();
    poll_until(&mut ring, &mut heard, "the connection", |heard| !heard.opened.is_empty());
    let (door, by, peer, local) = heard.opened[0];
    assert_eq!((by, peer, local), (listener, client.local_addr().unwrap(), address));
    (ring, heard, client, door)
}

fn batch(bytes: &[u8]) -> WriteBatch {
    smallvec![Bytes::copy_from_slice(bytes)]
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

#[test]
fn bytes_one_at_a_time_are_echoed_in_order() {
    let (mut ring, mut heard, mut client, door) = connected(&default_config());
    for (count, byte) in pattern(300).into_iter().enumerate() {
        client.write_all(&[byte]).unwrap();
        poll_until(&mut ring, &mut heard, "one byte", |heard| heard.bytes_of(door).len() > count);
        let echo = heard.bytes_of(door)[count];
        ring.write(door, batch(&[echo]));
        poll_until(&mut ring, &mut heard, "written", |heard| heard.written.len() > count);
        let mut answer = [0];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [byte]);
    }
    assert_eq!((ring.counters().door_bytes_in, ring.counters().door_bytes_out), (300, 300));
}

#[test]
fn the_pieces_of_a_batch_leave_in_order_and_empty_ones_do_no_harm() {
    let (mut ring, mut heard, mut client, door) = connected(&default_config());
    let expected = pattern(1000);
    let mut pieces: WriteBatch = expected.chunks(7).map(Bytes::copy_from_slice).collect();
    pieces.insert(0, Bytes::new());
    pieces.insert(70, Bytes::new());
    ring.write(door, pieces);
    assert!(heard.written.is_empty(), "write never calls back");
    poll_until(&mut ring, &mut heard, "written", |heard| heard.written == [door]);
    ring.write(door, WriteBatch::new());
    poll_until(&mut ring, &mut heard, "written again", |heard| heard.written == [door, door]);
    let mut seen = vec![0; expected.len()];
    client.read_exact(&mut seen).unwrap();
    assert_eq!(seen, expected);
}

/// `written` comes only when the kernel has all of it, which with its small buffers means that the reader has
/// most of it.
#[test]
fn a_large_write_completes_only_when_a_slow_reader_has_taken_it() {
    const LENGTH: usize = 4 << 20;
    let (mut ring, mut heard, mut client, door) = connected(&default_config());
    let expected = pattern(LENGTH);
    ring.write(door, smallvec![Bytes::from(expected.clone())]);
    poll_all(&mut ring, &mut heard);
    assert!(heard.written.is_empty(), "4 MiB do not fit into the socket buffers");
    assert_eq!(ring.counters().writes_blocked, 1);

    let mut seen = Vec::with_capacity(LENGTH);
    let mut buffer = vec![0; 16 << 10];
    while seen.len() < LENGTH {
        let count = client.read(&mut buffer).unwrap();
        seen.extend_from_slice(&buffer[..count]);
        ring.poll(Some(Duration::ZERO), &mut heard).unwrap();
        if !heard.written.is_empty() {
            assert_eq!(ring.counters().door_bytes_out, LENGTH as u64, "told before it was done");
        }
    }
    poll_until(&mut ring, &mut heard, "written", |heard| heard.written == [door]);
    assert_eq!(seen, expected);
}

#[test]
#[should_panic(expected = "a write is in flight")]
fn a_second_write_before_written_is_our_own_fault() {
    let (mut ring, _, _client, door) = connected(&default_config());
    ring.write(door, batch(b"one"));
    ring.write(door, batch(b"two"));
}

#[test]
fn a_paused_door_holds_its_peer_back_and_loses_nothing() {
    let (mut ring, mut heard, client, door) = connected(&default_config());
    ring.pause_read(door);
    client.set_nonblocking(true).unwrap();
    let chunk = pattern(64 << 10);
    let mut sent = 0_u64;
    loop {
        match (&client).write(&chunk[(sent % 251) as usize..]) {
            Ok(count) => sent += count as u64,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                break;
            }
        }
        assert!(sent < 64 << 20, "the peer is not held back");
    }
    poll_all(&mut ring, &mut heard);
    assert!(heard.bytes_of(door).is_empty(), "read while paused");

    ring.resume_read(door);
    poll_until(&mut ring, &mut heard, "all of it", |heard| heard.bytes_of(door).len() as u64 >= sent);
    assert_eq!(heard.bytes_of(door).len() as u64, sent);
    assert!(heard.bytes_of(door).iter().enumerate().all(|(index, byte)| *byte == (index % 251) as u8));
}

#[test]
fn a_poll_reads_from_each_door_once_and_a_bounded_amount() {
    const LENGTH: usize = 32 << 10;
    let config = RingConfig { read_buffer_bytes: 1024, ..default_config() };
    let (mut ring, mut heard, mut first, _) = connected(&config);
    let mut second = TcpStream::connect(first.peer_addr().unwrap()).unwrap();
    poll_until(&mut ring, &mut heard, "the second", |heard| heard.opened.len() == 2);
    let doors = [heard.opened[0].0, heard.opened[1].0];
    for client in [&mut first, &mut second] {
        client.write_all(&pattern(LENGTH)).unwrap();
    }
    let deadline = std::time::Instant::now() + DEADLINE;
    while doors.iter().any(|door| heard.bytes_of(*door).len() < LENGTH) {
        assert!(std::time::Instant::now() < deadline);
        let before = doors.map(|door| heard.bytes_of(door).len());
        assert!(ring.poll(Some(Duration::from_millis(20)), &mut heard).unwrap() <= 2);
        for (door, before) in doors.iter().zip(before) {
            assert!(heard.bytes_of(*door).len() - before <= 1024);
        }
    }
}

#[test]
fn a_fin_ends_the_input_and_leaves_the_output_open() {
    let (mut ring, mut heard, mut client, door) = connected(&default_config());
    client.write_all(b"last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    poll_until(&mut ring, &mut heard, "the end", |heard| !heard.closed.is_empty());
    assert_eq!(heard.bytes_of(door), b"last words");
    assert_eq!(heard.closed, [(door, Closed::EndOfStream)]);
    assert_eq!(
        ring.poll(Some(Duration::from_millis(1)), &mut heard).unwrap(),
        0,
        "an ended input does not spin"
    );

    ring.write(door, batch(b"answer"));
    poll_until(&mut ring, &mut heard, "written", |heard| heard.written == [door]);
    ring.close(door, Close::Flush);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
    poll_until(&mut ring, &mut heard, "the end of the door", |heard| heard.closed.len() == 2);
    assert_eq!(heard.closed_as(door), [Closed::EndOfStream, Closed::Flushed]);
    assert_eq!(ring.doors_open(), 0, "both sides have finished");
}

#[test]
fn a_reset_is_told_from_a_fin_also_while_paused() {
    for paused in [false, true] {
        let (mut ring, mut heard, client, door) = connected(&default_config());
        if paused {
            ring.pause_read(door);
        }
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        poll_until(&mut ring, &mut heard, "the reset", |heard| !heard.closed.is_empty());
        assert_eq!(
            heard.closed,
            [(door, Closed::Reset(std::io::ErrorKind::ConnectionReset))],
            "paused: {paused}"
        );
        assert_eq!((ring.doors_open(), ring.counters().doors_closed), (0, 1));
    }
}

#[test]
fn a_reset_after_a_fin_is_told() {
    let (mut ring, mut heard, client, door) = connected(&default_config());
    client.shutdown(Shutdown::Write).unwrap();
    poll_until(&mut ring, &mut heard, "the end", |heard| !heard.closed.is_empty());
    // Closing with unread input sends RST.
    ring.write(door, batch(b"unread"));
    poll_until(&mut ring, &mut heard, "written", |heard| heard.written == [door]);
    drop(client);
    poll_until(&mut ring, &mut heard, "the reset", |heard| heard.closed.len() == 2);
    assert!(
        matches!(heard.closed_as(door)[..], [Closed::EndOfStream, Closed::Reset(_)]),
        "{:?}",
        heard.closed
    );
}

#[test]
fn a_write_to_a_connection_that_is_gone_is_told_in_the_next_poll() {
    let (mut ring, mut heard, client, door) = connected(&default_config());
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    ring.write(door, batch(b"to nobody"));
    assert!(heard.closed.is_empty());
    poll_until(&mut ring, &mut heard, "the reset", |heard| !heard.closed.is_empty());
    poll_all(&mut ring, &mut heard);
    assert!(matches!(heard.closed_as(door)[..], [Closed::Reset(_)]));
    // The name is stale now, and the write in flight with it.
    ring.write(door, batch(b"to nobody"));
    poll_all(&mut ring, &mut heard);
    assert_eq!((heard.closed.len(), ring.doors_open()), (1, 0));
}

#[test]
fn what_had_arrived_before_a_write_failed_is_heard_before_the_end() {
    let config = RingConfig { read_buffer_bytes: 4_096, ..default_config() };
    for length in [5, 20_000] {
        let (mut ring, mut heard, mut client, door) = connected(&config);
        // Loopback keeps the order: where the reset is known, what was sent before it lies in the receive buffer.
        let sent = pattern(length);
        client.write_all(&sent).unwrap();
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        ring.write(door, batch(b"to nobody"));
        ring.submit().unwrap();
        ring.reap(&mut heard);
        poll_until(&mut ring, &mut heard, "the reset", |heard| !heard.closed.is_empty());
        poll_all(&mut ring, &mut heard);
        assert!(matches!(heard.closed_as(door)[..], [Closed::Reset(_)]), "{:?}", heard.closed);
        assert_eq!(heard.bytes_of(door).len(), length);
        assert!(heard.bytes_of(door) == sent && heard.written.is_empty());
        assert_eq!(ring.doors_open(), 0);
    }
}

#[test]
fn flush_delivers_all_that_was_in_flight_before_the_fin() {
    const LENGTH: usize = 1 << 20;
    let (mut ring, mut heard, mut client, door) = connected(&default_config());
    let expected = pattern(LENGTH);
    ring.write(door, smallvec![Bytes::from(expected.clone())]);
    ring.close(door, Close::Flush);
    // Input that nobody will read must not turn the close into a reset.
    client.write_all(b"still talking").unwrap();
    let reader = thread::spawn(move || {
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).unwrap();
        seen
    });
    poll_until_ring(&mut ring, &mut heard, "the end of the door", |ring| ring.doors_open() == 0);
    assert_eq!(reader.join().unwrap(), expected);
    assert_eq!(ring.counters().door_bytes_discarded, 13);
    assert!(heard.written.is_empty() && heard.bytes.is_empty(), "silence after close");
    assert_eq!(heard.closed, [(door, Closed::Flushed)], "but for its end");
}

#[test]
fn a_write_that_was_taken_is_not_told_after_close() {
    let (mut ring, mut heard, mut client, door) = connected(&default_config());
    ring.write(door, batch(b"goodbye"));
    ring.close(door, Close::Flush);
    let reader = thread::spawn(move || {
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).unwrap();
        seen
    });
    poll_until(&mut ring, &mut heard, "the end of the door", |heard| !heard.closed.is_empty());
    assert_eq!(reader.join().unwrap(), b"goodbye");
    assert_eq!((heard.closed_as(door), ring.doors_open()), (vec![Closed::Flushed], 0));
    assert!(heard.written.is_empty());
}

#[test]
fn a_door_that_lingers_is_ended_by_abort() {
    let (mut ring, mut heard, mut client, door) = connected(&default_config());
    ring.close(door, Close::Flush);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0, "our FIN");
    poll_all(&mut ring, &mut heard);
    assert_eq!(ring.doors_open(), 1, "the peer has not finished");
    ring.close(door, Close::Abort);
    assert_eq!(ring.doors_open(), 0);
    assert!(heard.closed.is_empty());
}

#[test]
fn abort_resets_the_peer() {
    let (mut ring, _, mut client, door) = connected(&default_config());
    ring.close(door, Close::Abort);
    assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(ring.doors_open(), 0);
}

#[test]
fn a_stale_name_harms_no_successor() {
    let (mut ring, mut heard, client, old) = connected(&default_config());
    let address = client.peer_addr().unwrap();
    ring.close(old, Close::Abort);
    let mut successor = TcpStream::connect(address).unwrap();
    successor.set_read_timeout(Some(DEADLINE)).unwrap();
    poll_until(&mut ring, &mut heard, "the successor", |heard| heard.opened.len() == 2);
    let new = heard.opened[1].0;
    assert_ne!(old, new);
    for stale in [old, DoorId::from(u64::MAX), DoorId::from(0xc000_0000)] {
        ring.write(stale, batch(b"wrong"));
        ring.pause_read(stale);
        ring.close(stale, Close::Abort);
    }
    assert_eq!(DoorId::from(u64::from(new)), new);
    successor.write_all(b"hello").unwrap();
    poll_until(&mut ring, &mut heard, "hello", |heard| heard.bytes_of(new) == b"hello");
    ring.write(new, batch(b"right"));
    ring.flush().unwrap();
    let mut answer = [0; 5];
    successor.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"right");
}

#[test]
fn beyond_doors_max_a_connection_is_reset_and_counted() {
    let config = RingConfig { doors_max: 1, ..default_config() };
    let (mut ring, mut heard, first, door) = connected(&config);
    let address = first.peer_addr().unwrap();
    let mut second = TcpStream::connect(address).unwrap();
    second.set_read_timeout(Some(DEADLINE)).unwrap();
    poll_until_ring(&mut ring, &mut heard, "the refusal", |ring| ring.counters().doors_refused > 0);
    assert_eq!(second.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    ring.close(door, Close::Abort);
    let _third = TcpStream::connect(address).unwrap();
    poll_until(&mut ring, &mut heard, "the third", |heard| heard.opened.len() == 2);
}

#[test]
fn a_removed_listener_accepts_no_more_and_its_doors_stay() {
    let (mut ring, mut heard, mut client, door) = connected(&default_config());
    let listener = heard.opened[0].1;
    ring.remove_listener(listener);
    ring.remove_listener(listener);
    let refused = TcpStream::connect(client.peer_addr().unwrap()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    client.write_all(b"still here").unwrap();
    poll_until(&mut ring, &mut heard, "bytes", |heard| heard.bytes_of(door) == b"still here");
}

#[test]
fn a_write_that_is_complete_is_reaped_and_the_next_poll_sleeps() {
    let (mut ring, mut heard, _client, door) = connected(&default_config());
    ring.write(door, batch(b"taken at once"));
    ring.submit().unwrap();
    assert_eq!(ring.reap(&mut heard), 1);
    assert_eq!(heard.written, [door]);
    assert_eq!(ring.reap(&mut heard), 0, "told once");
    let (start, wait) = (std::time::Instant::now(), Duration::from_millis(5));
    assert_eq!(ring.poll(Some(wait), &mut heard).unwrap(), 0);
    assert!(start.elapsed() >= wait, "nothing is due, so it waits");
}

#[test]
fn the_doorbell_wakes_a_ring_from_another_thread() {
    let mut ring = ring();
    let mut heard = Heard::default();
    let doorbell = ring.doorbell();
    let ringer = thread::spawn(move || doorbell.ring());
    // Waits for ever: only the bell can end it.
    assert_eq!(ring.poll(None, &mut heard).unwrap(), 1);
    ringer.join().unwrap();
    assert_eq!(heard.doorbells, 1);

    let doorbell = ring.doorbell();
    doorbell.ring();
    doorbell.ring();
    assert_eq!(ring.poll(None, &mut heard).unwrap(), 1, "rung twice, heard once");
    assert_eq!(ring.poll(Some(Duration::ZERO), &mut heard).unwrap(), 0, "and then silent");
    assert_eq!(heard.doorbells, 2);
}

#[test]
fn a_wait_ends_when_it_should_and_not_before() {
    let mut ring = ring();
    let wait = Duration::from_micros(1500);
    let start = std::time::Instant::now();
    assert_eq!(ring.poll(Some(wait), &mut Heard::default()).unwrap(), 0);
    assert!(start.elapsed() >= wait);
}

/// A non-blocking connect towards `to`, as it stands at once.
fn connecting(to: std::net::SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    if let Err(error) = socket.connect(&to.into()) {
        assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS));
    }
    socket.into()
}

#[test]
fn a_stream_of_our_own_is_written_to_before_it_is_connected() {
    let mut ring = ring();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let door = ring.add_stream(connecting(listener.local_addr().unwrap())).unwrap();
    ring.write(door, batch(b"hello"));
    let mut heard = Heard::default();
    poll_until(&mut ring, &mut heard, "written", |heard| heard.written == [door]);
    let (mut peer, _) = listener.accept().unwrap();
    let mut seen = [0; 5];
    peer.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hello");
    peer.write_all(b"world").unwrap();
    poll_until(&mut ring, &mut heard, "the answer", |heard| heard.bytes_of(door) == b"world");
    assert!(heard.opened.is_empty(), "only accepted doors are announced");
}

#[test]
fn a_stream_of_our_own_that_nobody_accepts_ends_with_a_reset() {
    let mut ring = ring();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let door = ring.add_stream(connecting(nobody)).unwrap();
    ring.write(door, batch(b"hello"));
    let mut heard = Heard::default();
    poll_until(&mut ring, &mut heard, "the refusal", |heard| !heard.closed.is_empty());
    assert_eq!(heard.closed_as(door), [Closed::Reset(std::io::ErrorKind::ConnectionRefused)]);
    assert_eq!(ring.doors_open(), 0);
}

#[test]
fn a_stream_beyond_doors_max_is_refused() {
    let mut ring = Ring::new(&RingConfig { doors_max: 0, ..default_config() }).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refusal = ring.add_stream(connecting(listener.local_addr().unwrap())).unwrap_err();
    assert_eq!(refusal.kind(), std::io::ErrorKind::QuotaExceeded);
}

#[test]
fn a_ring_is_built_on_one_thread_and_used_on_another() {
    let (mut ring, listener, address) = ring_with_listener(&default_config());
    let doorbell = ring.doorbell();
    let user = thread::spawn(move || {
        let mut heard = Heard::default();
        poll_until(&mut ring, &mut heard, "the client", |heard| !heard.opened.is_empty());
        let door = heard.opened[0].0;
        poll_until(&mut ring, &mut heard, "bytes", |heard| heard.bytes_of(door) == b"hello");
        assert_eq!(heard.opened[0].1, listener);
        poll_until(&mut ring, &mut heard, "the bell", |heard| heard.doorbells > 0);
    });
    TcpStream::connect(address).unwrap().write_all(b"hello").unwrap();
    doorbell.ring();
    user.join().unwrap();
}

/// Both while the other ring's thread has not come so far as to listen, and while it waits.
#[test]
fn a_ring_rings_anothers_bell() {
    let mut near = ring();
    let mut far = ring();
    let bell = far.doorbell();
    near.ring_bell(&bell);
    near.flush().unwrap();
    near.poll(Some(Duration::ZERO), &mut Heard::default()).unwrap();
    let (first, has_heard) = std::sync::mpsc::channel();
    let listens = thread::spawn(move || {
        let mut heard = Heard::default();
        poll_until(&mut far, &mut heard, "the first bell", |heard| heard.doorbells == 1);
        first.send(()).unwrap();
        // For ever: only the bell can end it.
        assert_eq!(far.poll(None, &mut heard).unwrap(), 1);
        assert_eq!(heard.doorbells, 2);
        assert_eq!(far.poll(Some(Duration::ZERO), &mut heard).unwrap(), 0);
    });
    has_heard.recv_timeout(DEADLINE).unwrap();
    near.ring_bell(&bell);
    near.flush().unwrap();
    listens.join().unwrap();
}

/// What the kernel has read already when the pause comes must neither be told nor be lost.
#[test]
fn a_door_that_is_paused_amid_a_stream_is_silent_until_it_is_resumed() {
    const LENGTH: usize = 48 << 10;
    let config = RingConfig { read_buffer_bytes: 2048, stream_buffer_bytes: 1024, ..default_config() };
    let (mut ring, mut heard, mut client, door) = connected(&config);
    let expected = pattern(LENGTH);
    client.write_all(&expected).unwrap();
    let mut pauses = 0;
    while heard.bytes_of(door).len() < LENGTH {
        let before = heard.bytes_of(door).len();
        poll_until(&mut ring, &mut heard, "more", |heard| heard.bytes_of(door).len() > before);
        ring.pause_read(door);
        let told = heard.bytes_of(door).len();
        poll_all(&mut ring, &mut heard);
        assert_eq!(ring.poll(Some(Duration::from_millis(1)), &mut heard).unwrap(), 0, "it sleeps");
        assert_eq!(heard.bytes_of(door).len(), told, "told while paused");
        ring.resume_read(door);
        pauses += 1;
    }
    assert_eq!(heard.bytes_of(door), expected);
    assert!(pauses >= LENGTH / 2048, "{pauses} pauses");
    assert_eq!(ring.counters().door_bytes_in, LENGTH as u64);
}

#[test]
fn a_peers_fin_waits_behind_what_a_paused_door_has_not_told() {
    let config = RingConfig { read_buffer_bytes: 1024, ..default_config() };
    let (mut ring, mut heard, mut client, door) = connected(&config);
    let expected = pattern(8 << 10);
    client.write_all(&expected).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    poll_until(&mut ring, &mut heard, "some", |heard| !heard.bytes_of(door).is_empty());
    ring.pause_read(door);
    poll_all(&mut ring, &mut heard);
    assert!(heard.closed.is_empty() && heard.bytes_of(door).len() < expected.len());
    ring.resume_read(door);
    poll_until(&mut ring, &mut heard, "the end", |heard| !heard.closed.is_empty());
    assert_eq!(heard.bytes_of(door), expected, "all of it before the end");
    assert_eq!(heard.closed, [(door, Closed::EndOfStream)]);
}

#[test]
fn a_flush_amid_a_stream_throws_the_rest_away() {
    let config = RingConfig { read_buffer_bytes: 1024, ..default_config() };
    let (mut ring, mut heard, mut client, door) = connected(&config);
    client.write_all(&pattern(8 << 10)).unwrap();
    poll_until(&mut ring, &mut heard, "some", |heard| !heard.bytes_of(door).is_empty());
    let told = heard.bytes_of(door).len();
    ring.close(door, Close::Flush);
    client.shutdown(Shutdown::Write).unwrap();
    poll_until(&mut ring, &mut heard, "the end", |heard| !heard.closed.is_empty());
    assert_eq!((heard.bytes_of(door).len(), heard.closed_as(door)), (told, vec![Closed::Flushed]));
    assert_eq!(ring.counters().door_bytes_discarded, (8 << 10) - told as u64);
}

/// More doors speak at once than there are buffers.
#[test]
fn every_door_is_heard_with_a_single_stream_buffer() {
    const CLIENTS: usize = 24;
    let config = RingConfig { stream_buffers: 1, ..default_config() };
    let (mut ring, mut heard, first, _) = connected(&config);
    let address = first.peer_addr().unwrap();
    let mut clients = vec![first];
    clients.extend((1..CLIENTS).map(|_| TcpStream::connect(address).unwrap()));
    poll_until(&mut ring, &mut heard, "every client", |heard| heard.opened.len() == CLIENTS);
    let expected = pattern(10_000);
    for client in &mut clients {
        client.write_all(&expected).unwrap();
    }
    let all = |heard: &Heard| {
        heard.opened.iter().all(|(door, ..)| heard.bytes_of(*door).len() >= expected.len())
    };
    poll_until(&mut ring, &mut heard, "all bytes", all);
    assert!(heard.opened.iter().all(|(door, ..)| heard.bytes_of(*door) == expected));
    let is_uring = ring.backend() == quelea_udp_io::Backend::IoUring;
    assert_eq!(ring.counters().stream_buffers_exhausted > 0, is_uring);
}

/// Where all doors together hold more than they may, each is read one buffer at a time, and still whole.
#[test]
fn doors_that_hold_too_much_are_read_slowly_and_lose_nothing() {
    const LENGTH: usize = 64 << 10;
    let config = RingConfig { read_buffer_bytes: 512, held_bytes_max: 0, ..default_config() };
    let (mut ring, mut heard, mut client, door) = connected(&config);
    let expected = pattern(LENGTH);
    client.write_all(&expected).unwrap();
    poll_until(&mut ring, &mut heard, "all of it", |heard| heard.bytes_of(door).len() >= LENGTH);
    assert_eq!(heard.bytes_of(door), expected);
    assert_eq!(ring.counters().door_bytes_held, 0, "one buffer at a time is never too much");
}

#[test]
fn a_ring_that_goes_takes_its_sockets_with_it() {
    let (mut ring, mut heard, client, blocked) = connected(&default_config());
    let address = client.peer_addr().unwrap();
    let paused = TcpStream::connect(address).unwrap();
    poll_until(&mut ring, &mut heard, "the second", |heard| heard.opened.len() == 2);
    // A write that nobody takes, a door that nobody reads, and a bell that outlives its ring.
    ring.write(blocked, smallvec![Bytes::from(pattern(8 << 20))]);
    ring.pause_read(heard.opened[1].0);
    poll_all(&mut ring, &mut heard);
    ring.write(heard.opened[1].0, batch(b"queued, never submitted"));
    let bell = ring.doorbell();
    drop(ring);
    for mut client in [client, paused] {
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut rest = Vec::new();
        if let Err(error) = client.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
    bell.ring();
    let successor = std::net::TcpListener::bind(address);
    assert!(successor.is_ok(), "the port is free: {successor:?}");
}

/// Many doors in all states at once, opened and closed in every way.
#[test]
fn doors_that_come_and_go_leave_nothing_behind() {
    let (mut ring, _, address) = ring_with_listener(&default_config());
    let mut heard = Heard::default();
    for round in 0..40_usize {
        let clients: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
        let opened = heard.opened.len();
        poll_until(&mut ring, &mut heard, "all", |heard| heard.opened.len() == opened + 8);
        let doors: Vec<DoorId> = heard.opened[opened..].iter().map(|(door, ..)| *door).collect();
        for (index, (door, mut client)) in doors.iter().zip(&clients).enumerate() {
            client.write_all(b"something").unwrap();
            if (index + round) % 2 == 0 {
                ring.pause_read(*door);
            }
            if (index + round) % 3 == 0 {
                ring.write(*door, batch(b"answer"));
            }
            match (index + round) % 5 {
                0 => ring.close(*door, Close::Abort),
                1 => ring.close(*door, Close::Flush),
                2 => SockRef::from(client).set_linger(Some(Duration::ZERO)).unwrap(),
                _ => {}
            }
        }
        ring.poll(Some(Duration::ZERO), &mut heard).unwrap();
        drop(clients);
        for door in doors {
            ring.resume_read(door);
        }
        ring.poll(Some(Duration::ZERO), &mut heard).unwrap();
        for (door, why) in std::mem::take(&mut heard.closed) {
            if why == Closed::EndOfStream {
                ring.close(door, Close::Flush);
            }
        }
    }
    let deadline = std::time::Instant::now() + DEADLINE;
    while ring.doors_open() > 0 {
        assert!(std::time::Instant::now() < deadline, "{} doors stay", ring.doors_open());
        ring.poll(Some(Duration::from_millis(5)), &mut heard).unwrap();
        for (door, _) in std::mem::take(&mut heard.closed) {
            ring.close(door, Close::Flush);
        }
    }
    assert_eq!((ring.counters().doors_opened, ring.counters().doors_closed), (320, 320));
}
