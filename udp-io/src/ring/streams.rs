//! The ring's byte streams: accepting, reading, writing, closing. See `doors.rs` for the states of a door.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use libc::{EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT};
use socket2::SockRef;

use crate::address::canonical;
use crate::config::RingConfig;
use crate::counters::Counters;
use crate::doors::{Door, DoorSockets, Doors, Progress, Unwritten};
use crate::sink::{Close, Closed, DoorId, ListenerId, Sink, WriteBatch};
use crate::sys::Epoll;

pub(super) struct Streams {
    doors: Doors<Door>,
    /// Doors with a report that a call other than `poll` left behind. Each door is in it at most once; names
    /// may be stale.
    due: VecDeque<DoorId>,
    read_buffer: Box<[u8]>,
    sockets: DoorSockets,
}

impl Streams {
    pub(super) fn new(config: &RingConfig) -> Streams {
        Streams {
            doors: Doors::new(config.doors_max),
            due: VecDeque::new(),
            read_buffer: vec![0; config.read_buffer_bytes].into_boxed_slice(),
            sockets: DoorSockets::new(config),
        }
    }

    pub(super) fn open(&self) -> usize {
        self.doors.len()
    }

    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Makes an accepted connection a door; beyond `doors_max` it is reset at once, so that its peer need not
    /// wait to know.
    pub(super) fn open_door(
        &mut self,
        epoll: &Epoll,
        stream: TcpStream,
        listener: ListenerId,
        peer: SocketAddr,
        counters: &mut Counters,
        sink: &mut impl Sink,
    ) -> usize {
        if self.doors.is_full() {
            counters.doors_refused += 1;
            reset(&stream);
            return 0;
        }
        let Ok(local) = self.set_up(&stream) else {
            counters.accept_errors += 1;
            return 0;
        };
        let id = self.doors.insert(Door::new(stream));
        let Some(door) = self.doors.get(id) else { unreachable!("just inserted") };
        if epoll.add(door.stream.as_fd(), id.0, door.armed).is_err() {
            counters.accept_errors += 1;
            self.doors.remove(id).iter().for_each(|door| reset(&door.stream));
            return 0;
        }
        counters.doors_opened += 1;
        sink.opened(id, listener, canonical(peer), canonical(local));
        1
    }

    /// Makes a stream of our own a door.
    pub(super) fn add(
        &mut self,
        epoll: &Epoll,
        stream: TcpStream,
        counters: &mut Counters,
    ) -> io::Result<DoorId> {
        if self.doors.is_full() {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "doors_max doors are open"));
        }
        self.set_up(&stream)?;
        let id = self.doors.insert(Door::new(stream));
        let Some(door) = self.doors.get(id) else { unreachable!("just inserted") };
        if let Err(error) = epoll.add(door.stream.as_fd(), id.0, door.armed) {
            self.doors.remove(id);
            return Err(error);
        }
        counters.doors_opened += 1;
        Ok(id)
    }

    fn set_up(&self, stream: &TcpStream) -> io::Result<SocketAddr> {
        stream.set_nonblocking(true)?;
        self.sockets.set_up(stream)?;
        stream.local_addr()
    }

    /// Reports what calls between polls have left behind, at most `reports_max`. Before it tells of a connection that failed
    /// in a write it reads what has arrived before, unless it `may_read` not.
    pub(super) fn report_due(
        &mut self,
        reports_max: usize,
        may_read: bool,
        counters: &mut Counters,
        sink: &mut impl Sink,
    ) -> usize {
        let mut handed = 0;
        for _ in 0..self.due.len().min(reports_max) {
            let Some(id) = self.due.pop_front() else { break };
            let Some(door) = self.doors.get(id) else { continue };
            door.in_due_list = false;
            if let Some(kind) = door.failed {
                if door.interest() & EPOLLIN as u32 == 0 || door.closing {
                    handed += self.fail(id, kind, counters, sink);
                } else if may_read {
                    handed += self.read_last(id, kind, counters, sink);
                } else {
                    self.make_due(id);
                }
            } else if door.flushed {
                self.remove(id, counters);
                sink.closed(id, Closed::Flushed);
                handed += 1;
            } else if door.written_due && !door.closing {
                handed += report_written(id, door, sink);
            }
        }
        handed
    }

    pub(super) fn on_event(
        &mut self,
        epoll: &Epoll,
        id: DoorId,
        flags: u32,
        counters: &mut Counters,
        sink: &mut impl Sink,
    ) -> io::Result<usize> {
        // The door may have gone earlier in the same batch of events, or its end may already wait to be reported.
        let Some(door) = self.doors.get(id).filter(|door| door.failed.is_none() && !door.flushed) else {
            return Ok(0);
        };
        let broken = flags & (EPOLLERR | EPOLLHUP) as u32 != 0;
        let mut handed = 0;
        // Who reads learns of a broken connection behind what has arrived before; a failed write would cut that off.
        if door.unwritten.is_some() && !broken && flags & EPOLLOUT as u32 != 0 {
            handed += self.continue_write(id, counters, sink);
        }
        let Some(door) = self.doors.get(id) else { return Ok(handed) };
        let reads = door.interest() & EPOLLIN as u32 != 0;
        if reads && (broken || flags & EPOLLIN as u32 != 0) {
            handed += self.read(id, counters, sink);
        } else if broken && !reads {
            // With reading paused or ended only a dead connection hangs up: levels would repeat it without
            // end.
            let error = door.stream.take_error().ok().flatten();
            handed += self.fail(
                id,
                error.map_or(io::ErrorKind::ConnectionReset, |error| error.kind()),
                counters,
                sink,
            );
        }
        self.arm(epoll, id);
        Ok(handed)
    }

    /// Reads once from a door: who has more to say waits until all others had their turn.
    fn read(&mut self, id: DoorId, counters: &mut Counters, sink: &mut impl Sink) -> usize {
        let Some(door) = self.doors.get(id) else { return 0 };
        match (&door.stream).read(&mut self.read_buffer) {
            Ok(0) => {
                door.input_ended = true;
                if door.closing {
                    self.end_flush(id);
                    return 0;
                }
                sink.closed(id, Closed::EndOfStream);
                1
            }
            Ok(count) if door.closing => {
                counters.door_bytes_discarded += count as u64;
                0
            }
            Ok(count) => {
                counters.door_bytes_in += count as u64;
                sink.bytes(id, &self.read_buffer[..count]);
                1
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => self.fail(id, error.kind(), counters, sink),
        }
    }

    /// Reads once from a connection that has failed in a write; when nothing is left, tells of the failure.
    fn read_last(
        &mut self,
        id: DoorId,
        kind: io::ErrorKind,
        counters: &mut Counters,
        sink: &mut impl Sink,
    ) -> usize {
        let Some(door) = self.doors.get(id) else { return 0 };
        match (&door.stream).read(&mut self.read_buffer) {
            Ok(count) if count > 0 => {
                counters.door_bytes_in += count as u64;
                self.make_due(id);
                sink.bytes(id, &self.read_buffer[..count]);
                1
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.make_due(id);
                0
            }
            _ => self.fail(id, kind, counters, sink),
        }
    }

    /// The peer's FIN on a door under [`Close::Flush`]: the end, unless last words are still on their way
    /// out.
    fn end_flush(&mut self, id: DoorId) {
        let Some(door) = self.doors.get(id).filter(|door| door.unwritten.is_none()) else { return };
        door.flushed = true;
        self.make_due(id);
    }

    pub(super) fn write(&mut self, epoll: &Epoll, id: DoorId, data: WriteBatch, counters: &mut Counters) {
        let Some(door) = self.doors.get(id).filter(|door| !door.closing && door.failed.is_none()) else {
            return;
        };
        assert!(!door.write_in_flight, "a write is in flight on this door");
        door.write_in_flight = true;
        let mut unwritten = Unwritten::new(data);
        match unwritten.write_to(&door.stream) {
            Ok((bytes, Progress::Done)) => {
                counters.door_bytes_out += bytes;
                door.written_due = true;
                self.make_due(id);
            }
            Ok((bytes, Progress::Blocked)) => {
                counters.door_bytes_out += bytes;
                counters.writes_blocked += 1;
                door.unwritten = Some(Box::new(unwritten));
                self.arm(epoll, id);
            }
            Err(error) => {
                door.failed = Some(error.kind());
                self.make_due(id);
            }
        }
    }

    /// There may be room for what was left of a write.
    fn continue_write(&mut self, id: DoorId, counters: &mut Counters, sink: &mut impl Sink) -> usize {
        let Some(door) = self.doors.get(id) else { return 0 };
        let Some(unwritten) = door.unwritten.as_mut() else { return 0 };
        match unwritten.write_to(&door.stream) {
            Ok((bytes, Progress::Blocked)) => {
                counters.door_bytes_out += bytes;
                0
            }
            Ok((bytes, Progress::Done)) => {
                counters.door_bytes_out += bytes;
                door.unwritten = None;
                if door.closing {
                    self.finish(id);
                    return 0;
                }
                report_written(id, door, sink)
            }
            Err(error) => {
                door.unwritten = None;
                door.failed = Some(error.kind());
                self.make_due(id);
                0
            }
        }
    }

    pub(super) fn set_paused(&mut self, epoll: &Epoll, id: DoorId, paused: bool) {
        if let Some(door) = self.doors.get(id) {
            door.paused = paused;
            self.arm(epoll, id);
        }
    }

    pub(super) fn close(&mut self, epoll: &Epoll, id: DoorId, how: Close, counters: &mut Counters) {
        let Some(door) = self.doors.get(id) else { return };
        if how == Close::Abort {
            reset(&door.stream);
            self.remove(id, counters);
            return;
        }
        if door.closing {
            return;
        }
        door.closing = true;
        // A failure that waits to be reported is the end, too.
        if door.unwritten.is_none() && door.failed.is_none() {
            self.finish(id);
        }
        self.arm(epoll, id);
    }

    /// All is written: sends FIN, and lets the door linger until the peer's.
    fn finish(&mut self, id: DoorId) {
        let Some(door) = self.doors.get(id) else { return };
        // An error means that the connection is gone already.
        if door.stream.shutdown(Shutdown::Write).is_err() || door.input_ended {
            self.end_flush(id);
        }
    }

    /// The connection is gone.
    fn fail(
        &mut self,
        id: DoorId,
        kind: io::ErrorKind,
        counters: &mut Counters,
        sink: &mut impl Sink,
    ) -> usize {
        let Some(door) = self.remove(id, counters) else { return 0 };
        sink.closed(id, if door.closing { Closed::Flushed } else { Closed::Reset(kind) });
        1
    }

    fn remove(&mut self, id: DoorId, counters: &mut Counters) -> Option<Door> {
        let door = self.doors.remove(id)?;
        counters.doors_closed += 1;
        Some(door)
    }

    fn make_due(&mut self, id: DoorId) {
        let Some(door) = self.doors.get(id) else { return };
        if !std::mem::replace(&mut door.in_due_list, true) {
            self.due.push_back(id);
        }
    }

    /// Tells epoll what to watch for, if that has changed.
    fn arm(&mut self, epoll: &Epoll, id: DoorId) {
        let Some(door) = self.doors.get(id) else { return };
        let wanted = door.interest();
        if wanted == door.armed {
            return;
        }
        // For a descriptor that is in the set, the kernel has no reason to refuse a change.
        epoll.modify(door.stream.as_fd(), id.0, wanted).expect("a door is in the epoll set for life");
        door.armed = wanted;
    }
}

fn report_written(id: DoorId, door: &mut Door, sink: &mut impl Sink) -> usize {
    door.write_in_flight = false;
    door.written_due = false;
    sink.written(id);
    1
}

/// Makes closing send RST.
fn reset(stream: &TcpStream) {
    // Refused only for a connection that is gone already, which is as good.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
