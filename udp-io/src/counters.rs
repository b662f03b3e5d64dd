//! What a ring has done and what it has dropped, by reason.

/// Counts since the ring was made. Plain numbers: the ring's thread reads them and publishes them as it
/// likes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams handed to the sink (a train counts each of its datagrams).
    pub datagrams_in: u64,
    /// Payload bytes of those.
    pub datagram_bytes_in: u64,
    /// Trains that the kernel joined (GRO).
    pub gro_trains: u64,
    /// Datagrams dropped because they were longer than a receive slot (a train loses only its cut end).
    pub datagrams_truncated: u64,
    /// Datagrams dropped because the kernel gave no usable peer address, or because they were empty.
    pub datagrams_malformed: u64,
    /// Datagrams the kernel dropped because a UDP socket's receive buffer was full. Learned with the next
    /// datagram received.
    pub datagrams_overflowed: u64,
    /// Errors of receiving other than those by ICMP.
    pub receive_errors: u64,
    /// Times that io_uring ran out of datagram buffers within one run of the kernel; what comes meanwhile waits in the
    /// socket's receive buffer.
    pub datagram_buffers_exhausted: u64,

    /// Datagrams the kernel took.
    pub datagrams_out: u64,
    /// Payload bytes of those.
    pub datagram_bytes_out: u64,
    /// Trains the kernel took in one piece (GSO).
    pub gso_trains: u64,
    /// Trains that had to be sent one datagram at a time because kernel or device refused them whole.
    pub gso_refused: u64,
    /// Times that a UDP socket had no room (the datagrams stay queued until it has).
    pub sends_blocked: u64,
    /// Datagrams dropped because the send arena was full.
    pub dropped_arena_full: u64,
    /// Datagrams dropped because the kernel had no buffers (`ENOBUFS`, `ENOMEM`).
    pub dropped_no_buffers: u64,
    /// Datagrams dropped because they exceed the interface's MTU (`EMSGSIZE`); path MTU probes end here.
    pub dropped_too_large: u64,
    /// Datagrams dropped because the destination cannot be reached from the socket (no route, firewall, wrong
    /// family).
    pub dropped_unreachable: u64,
    /// Errors that ICMP reported on a connected UDP socket (for example `ECONNREFUSED`): swallowed, a
    /// datagram is retried once.
    pub icmp_errors: u64,

    /// Doors opened.
    pub doors_opened: u64,
    /// Connections reset at once because `doors_max` doors were open.
    pub doors_refused: u64,
    /// Doors gone, for whatever reason.
    pub doors_closed: u64,
    /// Bytes read from doors and handed to the sink.
    pub door_bytes_in: u64,
    /// Bytes read from doors that are being closed, and thrown away.
    pub door_bytes_discarded: u64,
    /// Bytes read from doors by io_uring that had to wait with us, because the door was paused or had had its share of
    /// the poll; they are handed over, or discarded, later.
    pub door_bytes_held: u64,
    /// Times that io_uring ran out of stream buffers within one run of the kernel, once for each door that found none;
    /// what comes meanwhile waits in the sockets' receive buffers.
    pub stream_buffers_exhausted: u64,
    /// Bytes of doors that the kernel took.
    pub door_bytes_out: u64,
    /// Writes that did not fit into the kernel at once.
    pub writes_blocked: u64,
    /// Times that accepting failed for lack of descriptors or memory (`EMFILE`, `ENFILE`, …); accepting
    /// pauses for 100 ms.
    pub accept_exhausted: u64,
    /// Connections that died before they were accepted, and other errors of accepting.
    pub accept_errors: u64,
}
