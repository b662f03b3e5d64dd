//! The sizes of a ring: every buffer and table it will ever own.

use std::io;
use std::time::Duration;

use crate::choice::Backend;
use crate::sys::BATCH_MAX;

/// The sizes of one [`Ring`](crate::Ring). `Default` suits a broker's shard; each field says what it costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Which back end. Default `Auto`.
    pub backend: Backend,
    /// Datagrams (or trains, with GRO) taken from one UDP socket per [`poll`](crate::Ring::poll), 1 to 64.
    /// Default 32.
    pub datagrams_per_receive: usize,
    /// Bytes per received datagram or train. A train may reach 64 KiB, and a shorter slot cuts it: keep 64
    /// KiB while `gro` is on. Pages never written to are never paid for. Default 65,536.
    pub receive_buffer_bytes: usize,
    /// io_uring only: datagrams or trains that the kernel may receive ahead of us, for all UDP sockets of the ring
    /// together: a power of two from 1 to 32,768, each of `receive_buffer_bytes` and 204 bytes of head. When they are
    /// used up the sockets' receive buffers hold the rest. Default 32 (2 MiB of addresses; of a buffer that never holds
    /// a train one page is paid for).
    pub datagram_buffers: usize,
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
    /// How long a door may be silent before the kernel asks its peer whether it is there (`SO_KEEPALIVE`, `TCP_KEEPIDLE`). It
    /// asks four times, a quarter of this apart (`TCP_KEEPINTVL`, `TCP_KEEPCNT`), so the door of a peer that has vanished ends
    /// after twice this; whole seconds, at least 4. `None`: never, and a peer that vanishes while nothing is sent to it stays.
    /// Default 60 s.
    pub door_keepalive: Option<Duration>,
    /// The most that is handed over from one door per poll; epoll reads it through one buffer shared by all doors.
    /// Default 32 KiB.
    pub read_buffer_bytes: usize,
    /// io_uring only: buffers that the kernel reads into, for all doors of the ring together: a power of two from 1 to
    /// 32,768. When they are used up the doors' receive buffers hold the rest. Default 256.
    pub stream_buffers: usize,
    /// io_uring only: bytes of each of those, at most `read_buffer_bytes`. Default 4 KiB (1 MiB with the above).
    pub stream_buffer_bytes: usize,
    /// io_uring only: bytes held for all doors together (see [`Counters::door_bytes_held`](crate::Counters)) above which
    /// each door is read one buffer at a time. A door holds at most `read_buffer_bytes` and what one run of the kernel
    /// brings (its receive buffer, or 32 buffers), so the ring holds no more than this, one run of the kernel, and one
    /// buffer per door. Default 4 MiB.
    pub held_bytes_max: usize,
    /// io_uring only: run deferred work when completions are asked for (`DEFER_TASKRUN`), where the kernel can (Linux 6.1).
    /// Off only to measure and to test what older kernels do. Default true.
    pub deferred_task_work: bool,
    /// Send trains in one call (`UDP_SEGMENT`) where the kernel can. Off only to measure. Default true.
    pub gso: bool,
    /// Receive trains in one call (`UDP_GRO`) where the kernel can. Off only to measure. Default true.
    pub gro: bool,
}

impl Default for RingConfig {
    fn default() -> RingConfig {
        RingConfig {
            backend: Backend::Auto,
            datagrams_per_receive: 32,
            receive_buffer_bytes: 64 << 10,
            datagram_buffers: 32,
            send_arena_bytes: 1 << 20,
            sends_queued_max: 1024,
            socket_send_buffer: 2 << 20,
            socket_receive_buffer: 4 << 20,
            doors_max: 1 << 16,
            door_send_buffer: Some(64 << 10),
            door_receive_buffer: Some(64 << 10),
            door_keepalive: Some(Duration::from_secs(60)),
            read_buffer_bytes: 32 << 10,
            stream_buffers: 256,
            stream_buffer_bytes: 4 << 10,
            held_bytes_max: 4 << 20,
            deferred_task_work: true,
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
        let is_count = |count: usize| count.is_power_of_two() && count <= BUFFERS_MAX;
        if !is_count(self.datagram_buffers) || !is_count(self.stream_buffers) {
            return refuse("datagram_buffers and stream_buffers must be powers of two up to 32,768");
        }
        if self.stream_buffer_bytes == 0 {
            return refuse("stream_buffer_bytes must not be 0");
        }
        if self.door_keepalive.is_some_and(|idle| !(KEEPALIVE_MIN..=KEEPALIVE_MAX).contains(&idle)) {
            return refuse("door_keepalive must be between 4 and 32,767 seconds");
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
/// Entries of a ring of provided buffers (`io_uring_register_buf_ring(3)`).
const BUFFERS_MAX: usize = 1 << 15;
/// A quarter of it is a second, the kernel's least.
const KEEPALIVE_MIN: Duration = Duration::from_secs(4);
/// The kernel's most (`MAX_TCP_KEEPIDLE`).
const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);
/// The upper half of the 32-bit slots names what is not a door.
const DOORS_MAX: usize = 1 << 24;
