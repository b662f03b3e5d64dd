//! The table of byte streams: slots with generations, and the small state of each.
//!
//! ```text
//!              peer's FIN                      close(Flush), nothing in flight
//!   open ───────────────────► input ended ───────────────────────────────────► flushed (reported) ─► gone
//!    │ │                                                                         ▲
//!    │ └── close(Flush) ──► flushing ──── write taken, our FIN sent ──► lingering ┘ peer's FIN or RST
//!    └──── RST, an error, close(Abort) from any state ──────────────────────────► gone
//! ```
//!
//! A door costs about 40 bytes here while it is idle; a write that the kernel does not take at once is boxed
//! beside it.

use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Buf, Bytes};
use libc::{EPOLLIN, EPOLLOUT};
use socket2::{SockRef, TcpKeepalive};

use crate::config::RingConfig;
use crate::sink::{DoorId, WriteBatch};

/// Doors by name.
pub(crate) struct Doors<D> {
    slots: Vec<Slot<D>>,
    free: Vec<u32>,
    doors_max: usize,
}

struct Slot<D> {
    generation: u32,
    door: Option<D>,
}

/// What every door's socket is told when it is opened, over either back end.
pub(crate) struct DoorSockets {
    send_buffer: Option<usize>,
    receive_buffer: Option<usize>,
    keepalive: Option<Duration>,
}

/// One byte stream.
pub(crate) struct Door {
    pub(crate) stream: TcpStream,
    /// What the kernel has not taken yet of the write in flight.
    pub(crate) unwritten: Option<Box<Unwritten>>,
    /// From `write` until `written` is reported.
    pub(crate) write_in_flight: bool,
    /// The kernel has taken the write; the report is due.
    pub(crate) written_due: bool,
    /// The connection failed in a call that may not report; the report is due.
    pub(crate) failed: Option<io::ErrorKind>,
    /// The door is in the ring's list of due reports.
    pub(crate) in_due_list: bool,
    pub(crate) paused: bool,
    /// The peer's FIN has been read.
    pub(crate) input_ended: bool,
    /// `close(Flush)` was called: nothing but its end is reported, and input is thrown away.
    pub(crate) closing: bool,
    /// Both sides have ended; the report is due, and the door goes with it.
    pub(crate) flushed: bool,
    /// What epoll watches for.
    pub(crate) armed: u32,
}

/// The rest of a batch.
pub(crate) struct Unwritten {
    batch: WriteBatch,
    next: usize,
}

/// How far a write came.
pub(crate) enum Progress {
    Done,
    Blocked,
}

impl<D> Doors<D> {
    pub(crate) fn new(doors_max: usize) -> Doors<D> {
        Doors { slots: Vec::new(), free: Vec::new(), doors_max }
    }

    /// True if `doors_max` doors are open.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.doors_max
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, door: D) -> DoorId {
        assert!(!self.is_full(), "no door beyond doors_max");
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, door: None });
            (self.slots.len() - 1) as u32
        });
        let entry = &mut self.slots[slot as usize];
        entry.door = Some(door);
        DoorId::new(slot, entry.generation)
    }

    /// The door of that name, unless it is gone.
    pub(crate) fn get(&mut self, id: DoorId) -> Option<&mut D> {
        let slot = self.slots.get_mut(id.slot()).filter(|slot| slot.generation == id.generation())?;
        slot.door.as_mut()
    }

    /// Takes the door out; its name is stale from now on.
    pub(crate) fn remove(&mut self, id: DoorId) -> Option<D> {
        let slot = self.slots.get_mut(id.slot()).filter(|slot| slot.generation == id.generation())?;
        let door = slot.door.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.slot() as u32);
        Some(door)
    }
}

impl DoorSockets {
    pub(crate) fn new(config: &RingConfig) -> DoorSockets {
        DoorSockets {
            send_buffer: config.door_send_buffer,
            receive_buffer: config.door_receive_buffer,
            keepalive: config.door_keepalive,
        }
    }

    pub(crate) fn set_up(&self, stream: &TcpStream) -> io::Result<()> {
        // The turn joins small packets itself; the kernel must not hold back what it is given.
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        if let Some(bytes) = self.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(idle) = self.keepalive {
            let probes =
                TcpKeepalive::new().with_time(idle).with_interval(idle / PROBES).with_retries(PROBES);
            socket.set_tcp_keepalive(&probes)?;
        }
        Ok(())
    }
}

impl Door {
    pub(crate) fn new(stream: TcpStream) -> Door {
        Door {
            stream,
            unwritten: None,
            write_in_flight: false,
            written_due: false,
            failed: None,
            in_due_list: false,
            paused: false,
            input_ended: false,
            closing: false,
            flushed: false,
            armed: EPOLLIN as u32,
        }
    }

    /// What epoll should watch for. Level-triggered, so a paused door must not ask for input. A closing door
    /// always reads, or a peer that is stuck in writing would never come to read our last words.
    pub(crate) fn interest(&self) -> u32 {
        let reads = !self.input_ended && (!self.paused || self.closing);
        let writes = self.unwritten.is_some();
        (if reads { EPOLLIN as u32 } else { 0 }) | (if writes { EPOLLOUT as u32 } else { 0 })
    }
}

impl Unwritten {
    pub(crate) fn new(batch: WriteBatch) -> Unwritten {
        Unwritten { batch, next: 0 }
    }

    /// Hands bytes to the kernel until it has all or has no more room. Returns how many bytes went over and
    /// how far it came.
    pub(crate) fn write_to(&mut self, stream: &TcpStream) -> io::Result<(u64, Progress)> {
        let mut total = 0;
        loop {
            let rest = &self.batch[self.next..];
            if rest.is_empty() {
                return Ok((total, Progress::Done));
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let (mut count, mut wanted) = (0, 0);
            for (slice, bytes) in slices.iter_mut().zip(rest) {
                *slice = IoSlice::new(bytes);
                count += 1;
                wanted += bytes.len();
            }
            let slices = &slices[..count];
            let written = match SockRef::from(stream).send_vectored_with_flags(slices, libc::MSG_NOSIGNAL) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok((total, Progress::Blocked));
                }
                Err(error) => return Err(error),
            };
            total += written as u64;
            self.advance(written);
            // A short write means that the kernel is full: waiting for EPOLLOUT saves a call that would only
            // say so.
            if written < wanted {
                return Ok((total, Progress::Blocked));
            }
        }
    }

    /// Lets go of what has been written.
    fn advance(&mut self, mut written: usize) {
        while let Some(bytes) = self.batch.get_mut(self.next) {
            if written < bytes.len() {
                bytes.advance(written);
                return;
            }
            written -= bytes.len();
            *bytes = Bytes::new();
            self.next += 1;
        }
    }
}

/// Slices that one call hands to the kernel (`UIO_FASTIOV` is 8; the kernel allows 1,024).
const SLICES_MAX: usize = 64;

/// Questions without an answer after which a peer is gone.
const PROBES: u32 = 4;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_kernel_asks_for_peers_that_have_fallen_silent() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let told = |config: &RingConfig| {
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, _) = listener.accept().unwrap();
            DoorSockets::new(config).set_up(&stream).unwrap();
            let socket = SockRef::from(&stream);
            socket.keepalive().unwrap().then(|| {
                let [idle, interval] = [socket.tcp_keepalive_time(), socket.tcp_keepalive_interval()];
                (
                    idle.unwrap().as_secs(),
                    interval.unwrap().as_secs(),
                    socket.tcp_keepalive_retries().unwrap(),
                )
            })
        };
        assert_eq!(told(&RingConfig::default()), Some((60, 15, 4)));
        let of = |keepalive| RingConfig { door_keepalive: keepalive, ..RingConfig::default() };
        assert_eq!(told(&of(Some(Duration::from_secs(4)))), Some((4, 1, 4)));
        assert_eq!(told(&of(None)), None);
    }
}
