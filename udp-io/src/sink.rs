//! What crosses the ring's surface: names of things, datagrams in both directions, and the sink that takes
//! completions.

use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use smallvec::SmallVec;

/// A UDP socket of a ring. Numbered from 0 in the order of [`Ring::add_udp`](crate::Ring::add_udp).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UdpId(pub(crate) u32);

/// A listener of a ring. Numbered from 0 in the order of [`Ring::add_listener`](crate::Ring::add_listener);
/// never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub(crate) u32);

/// A byte stream of a ring. Holds a generation, so that the name of a door that is gone never means its
/// successor: calls with it do nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DoorId(pub(crate) u64);

impl UdpId {
    /// The socket's place in the order of adding.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl ListenerId {
    /// The listener's place in the order of adding.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl DoorId {
    pub(crate) fn new(slot: u32, generation: u32) -> DoorId {
        DoorId(u64::from(generation) << 32 | u64::from(slot))
    }

    pub(crate) fn slot(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }

    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl From<DoorId> for u64 {
    fn from(door: DoorId) -> u64 {
        door.0
    }
}

/// For layers that carry the name as a number. A number that was never a door's is as harmless as a stale
/// name.
impl From<u64> for DoorId {
    fn from(number: u64) -> DoorId {
        DoorId(number)
    }
}

/// What a door is given to write, in order. The allocations are handed back when the kernel has copied them.
pub type WriteBatch = SmallVec<[Bytes; 4]>;

/// One received datagram. Trains (GRO) have been taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The socket it came by.
    pub udp: UdpId,
    /// Its sender; never an IPv4-mapped address.
    pub peer: SocketAddr,
    /// The local address it was sent to, to be given as the source of the answer.
    pub local: Option<IpAddr>,
    /// The ECN bits of its IP header (RFC 3168), 0 to 3.
    pub ecn: Option<u8>,
    /// The UDP payload, at least one byte.
    pub bytes: &'a [u8],
}

/// Datagrams to one destination.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The socket to send by.
    pub udp: UdpId,
    /// Where to.
    pub destination: SocketAddr,
    /// The local address to send from; `None` lets the kernel choose.
    pub source: Option<IpAddr>,
    /// The ECN bits to set (RFC 3168), 0 to 3.
    pub ecn: Option<u8>,
    /// Every datagram's size but the last's, which may be shorter; `None` if `contents` is one datagram.
    pub segment_bytes: Option<usize>,
    /// The datagrams, end to end. Not empty.
    pub contents: &'a [u8],
}

/// How to close a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Finish the write in flight, send FIN, throw away what still arrives until the peer's FIN, then close.
    /// Closing earlier with unread input would reset the connection and could take the last words with it.
    /// [`Closed::Flushed`] tells the end. The caller keeps a deadline and ends a door that lingers by
    /// [`Close::Abort`].
    Flush,
    /// Close at once with RST; what is unsent is lost.
    Abort,
}

/// Why a door's input ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The peer's FIN: nothing more will be read. The door stays open for writing until it is closed by us; a
    /// `Reset` may follow.
    EndOfStream,
    /// The connection is gone, and the door's name with it. What was in flight is lost.
    Reset(io::ErrorKind),
    /// [`Close::Flush`] is done: the peer has ended its side too, or the connection is gone. So is the
    /// door's name.
    Flushed,
}

/// Takes what a [`Ring`](crate::Ring) has to tell. Called only from within [`Ring::poll`](crate::Ring::poll),
/// in no particular order between sockets and doors, in order of occurrence for each.
///
/// ```text
///            ┌───────────────────────── bytes* ─────────────────────────┐
///   opened ──┤                                                          ├── closed(EndOfStream) ──┬── close() ── silence
///            └── written (one for each write) … until close() or Reset ─┘                         └── closed(Reset)
/// ```
///
/// After [`Close::Abort`] nothing more is said of a door; after [`Close::Flush`] only `closed(Flushed)`, when
/// it is gone.
pub trait Sink {
    /// A datagram arrived.
    fn datagram(&mut self, datagram: Datagram<'_>);
    /// A connection was accepted.
    fn opened(&mut self, door: DoorId, listener: ListenerId, peer: SocketAddr, local: SocketAddr);
    /// Bytes arrived: at most `read_buffer_bytes` per door and poll.
    fn bytes(&mut self, door: DoorId, bytes: &[u8]);
    /// A door's input ended.
    fn closed(&mut self, door: DoorId, why: Closed);
    /// The write in flight has wholly been handed to the kernel: there is room for the next.
    fn written(&mut self, door: DoorId);
    /// The doorbell was rung, once or more, since the last call.
    fn doorbell(&mut self);
}
