//! The byte streams of the io_uring back end: accepted, read, written and closed by standing requests.
//!
//! ```text
//!              pause_read, or too much is held
//!   reading ─────────────────────────────────────► cancelling ──the request's end──► idle (a hang-up is watched for)
//!      ▲                                                                              │
//!      └─────────────────────── resume_read, and what was held has been handed over ──┘
//! ```
//!
//! Reading is one multishot request per door, so bytes may arrive that the sink is not to hear yet: beyond a poll's
//! share, or between a pause and the end of the request. They are *held*: copied out of the shared buffers, so that one
//! door never keeps the others' buffers, and handed over before anything that follows. Held bytes are bounded: a door
//! that holds a poll's share stops reading, and what one run of the kernel can still bring is 32 buffers, or the
//! socket's receive buffer; where all doors together hold `held_bytes_max`, doors read one buffer at a time.
//!
//! A door's descriptor is named by queued requests until the queue has been taken, and kept open by standing requests
//! until they end. So closing a descriptor ends nothing by itself: an abort disconnects the socket, which sends RST at
//! once and ends whatever stands on it, and the descriptor is closed after the queue has been taken. Completions that
//! come later carry a name that is stale and only give their buffers back.

mod reading;

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use socket2::SockRef;

use super::door::{Door, Reading};
use super::kernel::Kernel;
use super::token::{Completion, Kind, Token};
use crate::address::canonical;
use crate::config::RingConfig;
use crate::counters::Counters;
use crate::doors::{DoorSockets, Doors};
use crate::sink::{Close, Closed, DoorId, ListenerId, Sink, WriteBatch};
use crate::sys;

pub(super) struct Streams {
    doors: Doors<Door>,
    /// Doors with something to report that no completion will bring. Each door is in it at most once; names may be
    /// stale.
    due: VecDeque<DoorId>,
    /// Bytes held for all doors.
    held_bytes: usize,
    held_bytes_max: usize,
    /// What one door may hand over per poll.
    share_bytes: usize,
    /// Counts polls, to know a door's share of this one.
    poll: u32,
    buffers: u16,
    buffer_bytes: usize,
    sockets: DoorSockets,
}

impl Streams {
    pub(super) fn new(config: &RingConfig) -> Streams {
        Streams {
            doors: Doors::new(config.doors_max),
            due: VecDeque::new(),
            held_bytes: 0,
            held_bytes_max: config.held_bytes_max,
            share_bytes: config.read_buffer_bytes,
            poll: 0,
            buffers: config.stream_buffers as u16,
            buffer_bytes: config.stream_buffer_bytes.min(config.read_buffer_bytes),
            sockets: DoorSockets::new(config),
        }
    }

    pub(super) fn provide_buffers(&self, kernel: &mut Kernel) -> io::Result<()> {
        kernel.provide_stream_buffers(self.buffers, self.buffer_bytes)
    }

    pub(super) fn open(&self) -> usize {
        self.doors.len()
    }

    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Makes an accepted connection a door; beyond `doors_max` it is reset at once, so that its peer need not wait to
    /// know.
    pub(super) fn open_door(
        &mut self,
        kernel: &mut Kernel,
        stream: OwnedFd,
        listener: ListenerId,
        counters: &mut Counters,
        sink: &mut impl Sink,
    ) -> usize {
        if self.doors.is_full() {
            counters.doors_refused += 1;
            reset(&stream);
            return 0;
        }
        let stream = TcpStream::from(stream);
        let addresses = || Ok((stream.peer_addr()?, stream.local_addr()?));
        let Ok((peer, local)) = self.sockets.set_up(&stream).and_then(|()| addresses()) else {
            counters.accept_errors += 1;
            return 0;
        };
        let id = self.insert(kernel, stream, counters);
        sink.opened(id, listener, canonical(peer), canonical(local));
        1
    }

    /// Makes a stream of our own a door.
    pub(super) fn add(
        &mut self,
        kernel: &mut Kernel,
        stream: TcpStream,
        counters: &mut Counters,
    ) -> io::Result<DoorId> {
        if self.doors.is_full() {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "doors_max doors are open"));
        }
        self.sockets.set_up(&stream)?;
        Ok(self.insert(kernel, stream, counters))
    }

    fn insert(&mut self, kernel: &mut Kernel, stream: TcpStream, counters: &mut Counters) -> DoorId {
        let id = self.doors.insert(Door::new(stream));
        counters.doors_opened += 1;
        self.arm(kernel, id);
        id
    }

    /// Begins a poll: reports what calls between polls have left behind and what is held, at most `reports_max` doors.
    pub(super) fn report_due(
        &mut self,
        kernel: &mut Kernel,
        reports_max: usize,
        counters: &mut Counters,
        sink: &mut impl Sink,
    ) -> usize {
        self.poll = self.poll.wrapping_add(1);
        let mut handed = 0;
        for _ in 0..self.due.len().min(reports_max) {
            let Some(id) = self.due.pop_front() else { break };
            let Some(door) = self.doors.get(id) else { continue };
            door.in_due_list = false;
            if let Some(kind) = door.failed {
                handed += self.fail(kernel, id, kind, counters, sink);
            } else if door.flushed {
                self.remove(kernel, id, counters);
                sink.closed(id, Closed::Flushed);
                handed += 1;
            } else {
                if std::mem::take(&mut door.written_due) && !door.closing {
                    sink.written(id);
                    handed += 1;
                }
                handed += self.hand_over_held(id, counters, sink);
                handed += self.report_end(kernel, id, counters, sink);
                self.arm(kernel, id);
            }
        }
        handed
    }

    pub(super) fn on_completion(
        &mut self,
        kernel: &mut Kernel,
        completion: &Completion,
        counters: &mut Counters,
        sink: &mut impl Sink,
    ) -> usize {
        let token = completion.token;
        match token.kind {
            Kind::Read => self.on_read(kernel, completion, counters, sink),
            Kind::Hangup => self.on_hangup(kernel, completion, counters, sink),
            Kind::Write => self.on_written(kernel, completion, counters, sink),
            _ => unreachable!("a completion of no door"),
        }
    }

    pub(super) fn write(&mut self, kernel: &mut Kernel, id: DoorId, data: WriteBatch) {
        let takes_it = |door: &&mut Door| !door.closing && door.failed.is_none() && door.broken.is_none();
        let Some(door) = self.doors.get(id).filter(takes_it) else { return };
        assert!(door.write.is_none() && !door.written_due, "a write is in flight on this door");
        if data.iter().all(|bytes| bytes.is_empty()) {
            door.written_due = true;
            self.make_due(id);
            return;
        }
        let lease = kernel.writes().lend(id, data);
        door.write = Some(lease);
        kernel.write(door.stream.as_fd(), lease, false);
    }

    fn on_written(
        &mut self,
        kernel: &mut Kernel,
        completion: &Completion,
        counters: &mut Counters,
        sink: &mut impl Sink,
    ) -> usize {
        let slot = completion.token.slot;
        let lease = kernel.writes().get(slot);
        let id = lease.door;
        let offered = lease.offered();
        let Some(door) = self.doors.get(id).filter(|door| door.failed.is_none()) else {
            kernel.writes().end(slot);
            return 0;
        };
        let written = match completion.error() {
            None => completion.result as usize,
            Some(libc::EAGAIN | libc::EINTR) => 0,
            Some(error) => {
                kernel.writes().end(slot);
                let kind = io::Error::from_raw_os_error(error).kind();
                let is_reading = door.reading == Reading::Armed || door.held.is_some();
                if is_reading && door.may_hand_over() && !door.closing && !door.input_ended {
                    // What has arrived before the connection broke still counts. Nothing comes after it.
                    door.write = None;
                    door.broken = Some(kind);
                    // The end of the reading request tells when that is all, also of a connection that lives on.
                    let _ = door.stream.shutdown(Shutdown::Both);
                    self.make_due(id);
                    return 0;
                }
                return self.fail(kernel, id, kind, counters, sink);
            }
        };
        counters.door_bytes_out += written as u64;
        lease.advance(written);
        if !lease.is_done() {
            // Short of what was offered: the kernel is full, and waits for room by itself with the rest.
            let waits = written < offered;
            counters.writes_blocked += u64::from(waits);
            kernel.write(door.stream.as_fd(), slot, waits);
            return 0;
        }
        kernel.writes().end(slot);
        door.write = None;
        if door.closing {
            self.finish(id);
            return 0;
        }
        sink.written(id);
        1
    }

    pub(super) fn set_paused(&mut self, kernel: &mut Kernel, id: DoorId, paused: bool) {
        let Some(door) = self.doors.get(id) else { return };
        door.paused = paused;
        if !paused && (door.held.is_some() || door.ended.is_some()) {
            self.make_due(id);
        }
        self.arm(kernel, id);
    }

    pub(super) fn close(&mut self, kernel: &mut Kernel, id: DoorId, how: Close, counters: &mut Counters) {
        let Some(door) = self.doors.get(id) else { return };
        if how == Close::Abort {
            reset(&door.stream);
            // Sends RST and ends all that stands on the socket. Refused only for a connection that is gone already.
            let _ = sys::disconnect(door.stream.as_fd());
            self.remove(kernel, id, counters);
            return;
        }
        if door.closing {
            return;
        }
        door.closing = true;
        if door.held.is_some() || door.ended.is_some() {
            self.make_due(id);
        }
        // A failure that waits to be reported is the end, too.
        let Some(door) = self.doors.get(id) else { return };
        if door.write.is_none() && door.failed.is_none() {
            self.finish(id);
        }
        self.arm(kernel, id);
    }

    /// All is written: sends FIN, and lets the door linger until the peer's.
    fn finish(&mut self, id: DoorId) {
        let Some(door) = self.doors.get(id) else { return };
        // An error means that the connection is gone already.
        if door.stream.shutdown(Shutdown::Write).is_err() || door.input_ended {
            self.end_flush(id);
        }
    }

    /// The peer's FIN on a door under [`Close::Flush`]: the end, unless last words are still on their way out.
    fn end_flush(&mut self, id: DoorId) {
        let Some(door) = self.doors.get(id).filter(|door| door.write.is_none()) else { return };
        door.flushed = true;
        self.make_due(id);
    }

    /// The connection is gone.
    fn fail(
        &mut self,
        kernel: &mut Kernel,
        id: DoorId,
        kind: io::ErrorKind,
        counters: &mut Counters,
        sink: &mut impl Sink,
    ) -> usize {
        let Some(is_closing) = self.remove(kernel, id, counters) else { return 0 };
        sink.closed(id, if is_closing { Closed::Flushed } else { Closed::Reset(kind) });
        1
    }

    /// Takes a door out of the table; returns whether it was closing. What stands on its socket ends with the
    /// connection, and is cancelled for the case that it does not.
    fn remove(&mut self, kernel: &mut Kernel, id: DoorId, counters: &mut Counters) -> Option<bool> {
        let door = self.doors.remove(id)?;
        counters.doors_closed += 1;
        self.held_bytes -= door.held_bytes();
        if door.reading == Reading::Armed {
            kernel.cancel(Token::of_door(Kind::Read, id));
        }
        if door.watches_hangup {
            kernel.cancel(Token::of_door(Kind::Hangup, id));
        }
        kernel.close_later(door.stream.into());
        Some(door.closing)
    }

    fn make_due(&mut self, id: DoorId) {
        let Some(door) = self.doors.get(id) else { return };
        if !std::mem::replace(&mut door.in_due_list, true) {
            self.due.push_back(id);
        }
    }

    /// Has the kernel read, or not, as the door's state wants it.
    fn arm(&mut self, kernel: &mut Kernel, id: DoorId) {
        let share_bytes = self.share_bytes;
        let once = self.held_bytes >= self.held_bytes_max;
        let Some(door) = self.doors.get(id).filter(|door| !door.is_over()) else { return };
        let has_ended = door.input_ended || door.ended.is_some();
        let reads = !has_ended && door.may_hand_over() && door.held_bytes() < share_bytes;
        match door.reading {
            Reading::Idle if reads => {
                kernel.arm_read(door.stream.as_fd(), once, Token::of_door(Kind::Read, id));
                door.reading = Reading::Armed;
            }
            Reading::Armed if !reads => {
                kernel.cancel(Token::of_door(Kind::Read, id));
                door.reading = Reading::Cancelling;
            }
            _ => {}
        }
        if !reads && !std::mem::replace(&mut door.watches_hangup, true) {
            kernel.watch_hangup(door.stream.as_fd(), Token::of_door(Kind::Hangup, id));
        }
    }
}

/// Makes closing send RST.
pub(super) fn reset(stream: &impl AsFd) {
    // Refused only for a connection that is gone already, which is as good.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
