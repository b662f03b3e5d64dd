//! The sizes of a ring: every buffer and table it will ever own.

use std::io;

use crate::sys::BATCH_MAX;

/// The sizes of one [`Ring`](crate::Ring). `Default` suits a broker's shard; each field says what it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Datagrams (or trains, with GRO) taken from one UDP socket per [`poll`](crate::Ring::poll), 1 to 64.
    /// Default 32.
    pub datagrams_per_receive: usize,
    /// Bytes per received datagram or train. A train may reach 64 KiB, and a shorter slot cuts it: keep 64
    /// KiB while `gro` is on. Pages never written to are never paid for. Default 65,536.
    pub receive_buffer_bytes: usize,
    /// Bytes that may wait to be sent, per UDP socket; what finds no room is dropped and counted. Default 1
    /// MiB.
    pub send_arena_bytes: usize,
    /// Trains and single datagrams that may wait to be sent, per UDP socket (about 150 bytes each). Default
    /// 1,024.
    pub sends_queued_max: usize,
    /// `SO_SNDBUF` of UDP sockets, in bytes; the kernel caps it at `net.core.wmem_max`. Default 2 MiB.
    pub socket_send_buffer: usize,
    /// `SO_RCVBUF` of UDP sockets, in bytes; the kernel caps it at `net.core.rmem_max`. Default 4 MiB.
    pub socket_receive_buffer: usize,
    /// Doors open at once; a connection beyond is accepted and reset at once, so that its peer knows. Default
    /// 65,536.
    pub doors_max: usize,
    /// `SO_SNDBUF` of doors, in bytes (the kernel doubles it); `None` leaves the kernel's growing default.
    /// Default 64 KiB.
    pub door_send_buffer: Option<usize>,
    /// `SO_RCVBUF` of doors, in bytes (the kernel doubles it); `None` leaves the kernel's growing default.
    /// Default 64 KiB.
    pub door_receive_buffer: Option<usize>,
    /// The most that is read from one door per poll, through one buffer shared by all doors. Default 32 KiB.
    pub read_buffer_bytes: usize,
    /// Send trains in one call (`UDP_SEGMENT`) where the kernel can. Off only to measure. Default true.
    pub gso: bool,
    /// Receive trains in one call (`UDP_GRO`) where the kernel can. Off only to measure. Default true.
    pub gro: bool,
}

impl Default for RingConfig {
    fn default() -> RingConfig {
        RingConfig {
            datagrams_per_receive: 32,
            receive_buffer_bytes: 64 << 10,
            send_arena_bytes: 1 << 20,
            sends_queued_max: 1024,
            socket_send_buffer: 2 << 20,
            socket_receive_buffer: 4 << 20,
            doors_max: 1 << 16,
            door_send_buffer: Some(64 << 10),
            door_receive_buffer: Some(64 << 10),
            read_buffer_bytes: 32 << 10,
            gso: true,
            gro: true,
        }
    }
}

impl RingConfig {
    /// Refuses sizes that no ring could work with.
    pub(crate) fn check(&self) -> io::Result<()> {
        let refuse = |reason| Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        if !(1..=BATCH_MAX).contains(&self.datagrams_per_receive) {
            return refuse("datagrams_per_receive must be between 1 and 64");
        }
        if !(DATAGRAM_BYTES_MIN..=DATAGRAM_BYTES_MAX).contains(&self.receive_buffer_bytes) {
            return refuse("receive_buffer_bytes must be between 1,200 and 65,536");
        }
        if !(DATAGRAM_BYTES_MAX..=ARENA_BYTES_MAX).contains(&self.send_arena_bytes) {
            return refuse("send_arena_bytes must be between 65,536 and 1 GiB");
        }
        if self.sends_queued_max == 0 || self.read_buffer_bytes == 0 {
            return refuse("sends_queued_max and read_buffer_bytes must not be 0");
        }
        if self.doors_max > DOORS_MAX {
            return refuse("doors_max must not be above 16,777,216");
        }
        Ok(())
    }
}

/// RFC 9000 §14: every path carries datagrams of this size, and Initials are at least this long.
const DATAGRAM_BYTES_MIN: usize = 1200;
const DATAGRAM_BYTES_MAX: usize = 1 << 16;
const ARENA_BYTES_MAX: usize = 1 << 30;
/// The upper half of the 32-bit slots names what is not a door.
const DOORS_MAX: usize = 1 << 24;
