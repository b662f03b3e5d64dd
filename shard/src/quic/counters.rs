//! What the QUIC half has counted since it started: nothing is refused or dropped without a number here.

/// Counts of one shard; they only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuicCounters {
    /// Datagrams handed in.
    pub datagrams_in: u64,
    /// Datagrams handed out.
    pub datagrams_out: u64,
    /// Bytes handed in.
    pub bytes_in: u64,
    /// Bytes handed out.
    pub bytes_out: u64,
    /// Datagrams that named another shard.
    pub datagrams_foreign: u64,
    /// Datagrams dropped because their connection belongs to another listener.
    pub datagrams_misplaced: u64,
    /// Answers without a connection: version negotiation, Retry, refusals and stateless resets.
    pub stateless_sent: u64,
    /// Such answers that found their queue full.
    pub stateless_dropped: u64,
    /// First packets of would-be connections.
    pub initials: u64,
    /// Of those: answered by a Retry because of the backlog.
    pub retries_backlog: u64,
    /// Of those: answered by a Retry because their prefix had too many unproven handshakes.
    pub retries_prefix: u64,
    /// Of those: dropped in silence, the queue being full.
    pub initials_queue_full: u64,
    /// Of those: dropped in silence in spite of proven addresses, the shard having its maximum of handshakes under way.
    pub initials_handshakes_full: u64,
    /// Of those: dropped in silence, their prefix having too many handshakes in spite of proven addresses.
    pub initials_prefix_full: u64,
    /// Of those: dropped in silence, their site having too many handshakes in spite of proven addresses.
    pub initials_site_full: u64,
    /// Of those: refused while draining.
    pub refused_draining: u64,
    /// Of those: refused because memory is at its ceiling.
    pub refused_memory: u64,
    /// Of those: refused at the connections' maximum.
    pub refused_connections: u64,
    /// Of those: refused at the maximum of their listener.
    pub refused_listener: u64,
    /// Of those: refused at the maximum of their prefix.
    pub refused_prefix: u64,
    /// Of those: dropped because they had waited longer than a handshake may last.
    pub initials_expired: u64,
    /// Handshakes begun.
    pub handshakes_begun: u64,
    /// Handshakes that failed: TLS or transport errors, no common protocol, the peer gave up.
    pub handshakes_failed: u64,
    /// Handshakes dropped at their deadline.
    pub handshakes_expired: u64,
    /// Connections established.
    pub connected: u64,
    /// Connections ended, for whatever reason, after they were established.
    pub closed: u64,
    /// Peers that moved to another address and proved it.
    pub peers_moved: u64,
    /// Packets found lost (RFC 9002 §6.1), of connections that have ended.
    pub packets_lost: u64,
    /// Times that large packets alone were lost and the path's MTU was taken back (RFC 8899 §4.3), of connections that
    /// have ended.
    pub mtu_black_holes: u64,
}
