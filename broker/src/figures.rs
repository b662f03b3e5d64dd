//! The columns of the board: what a shard, its QUIC half and its ring count, under the names that operators see.
//!
//! ```text
//!   Shard::counters ──────────────────► quelea_<name>
//!   Quic::counters, connections ──────► quelea_quic_<name>
//!   Ring::counters, doors_open ───────► quelea_io_<name>
//! ```
//! A field that is added to one of those structures does not compile here until it has a name and a sentence.

use quelea_shard::Shard;
use quelea_shard::counters::{Counters, Kind as ShardKind};
use quelea_shard::quic::{Quic, QuicCounters};
use quelea_udp_io::{Counters as RingCounters, Ring};

use crate::admin::{Descriptor, Kind};

/// The columns, in the order in which [`read`] gives their values.
pub(crate) fn descriptors() -> Vec<Descriptor> {
    let mut columns = Vec::new();
    Counters::default().for_each(|figure| {
        let kind = match figure.kind {
            ShardKind::Counter => Kind::Counter,
            ShardKind::Gauge => Kind::Gauge,
        };
        let help = figure.help.trim().trim_end_matches('.');
        columns.push(Descriptor { name: figure.name, help, kind, label: None });
    });
    let own = QUIC_GAUGES.iter().map(|&(name, help)| (name, help, Kind::Gauge));
    let own = own.chain(QUIC.iter().map(|&(name, help)| (name, help, Kind::Counter)));
    let own = own.chain(RING_GAUGES.iter().map(|&(name, help)| (name, help, Kind::Gauge)));
    let own = own.chain(RING.iter().map(|&(name, help)| (name, help, Kind::Counter)));
    columns.extend(own.map(|(name, help, kind)| Descriptor { name, help, kind, label: None }));
    columns
}

/// The values of this moment, into `values`, whose former contents are lost.
pub(crate) fn read(shard: &mut Shard, ring: &Ring, values: &mut Vec<u64>) {
    values.clear();
    shard.counters().for_each(|figure| values.push(figure.value));
    match shard.quic() {
        Some(quic) => {
            values.extend(quic_gauges(quic));
            values.extend(quic_values(quic.counters()));
        }
        None => values.extend([0; QUIC_GAUGES.len() + QUIC.len()]),
    }
    values.push(ring.doors_open() as u64);
    values.extend(ring_values(ring.counters()));
}

const QUIC_GAUGES: [(&str, &str); 2] = [
    ("quic_connections", "QUIC connections established now"),
    ("quic_handshakes_waiting", "First packets that wait for their handshake"),
];

fn quic_gauges(quic: &Quic) -> [u64; QUIC_GAUGES.len()] {
    [quic.connections() as u64, quic.handshakes_waiting() as u64]
}

const RING_GAUGES: [(&str, &str); 1] =
    [("io_doors", "TCP connections open now, those being closed included")];

macro_rules! columns {
    ($list:ident, $values:ident, $source:ident { $($field:ident: $name:literal, $help:literal;)+ }) => {
        const $list: [(&str, &str); [$($name),+].len()] = [$(($name, $help)),+];

        fn $values(counters: &$source) -> [u64; $list.len()] {
            let $source { $($field),+ } = counters;
            [$(*$field),+]
        }
    };
}

columns! { QUIC, quic_values, QuicCounters {
    datagrams_in: "quic_datagrams_in", "QUIC datagrams handed to the shard";
    datagrams_out: "quic_datagrams_out", "QUIC datagrams made by the shard";
    bytes_in: "quic_bytes_in", "Bytes of QUIC datagrams handed to the shard";
    bytes_out: "quic_bytes_out", "Bytes of QUIC datagrams made by the shard";
    datagrams_foreign: "quic_datagrams_foreign", "Datagrams whose connection is another shard's";
    datagrams_misplaced: "quic_datagrams_misplaced", "Datagrams dropped: their connection belongs to another listener";
    stateless_sent: "quic_stateless_sent", "Answers without a connection: version negotiation, Retry, refusal, reset";
    stateless_dropped: "quic_stateless_dropped", "Answers without a connection that found their queue full";
    initials: "quic_initials", "First packets of would-be connections";
    retries_backlog: "quic_retries_backlog", "First packets answered by a Retry because of the backlog";
    retries_prefix: "quic_retries_prefix", "First packets answered by a Retry because of their address prefix";
    initials_queue_full: "quic_initials_queue_full", "First packets dropped because their queue was full";
    initials_handshakes_full: "quic_initials_handshakes_full", "First packets dropped at the maximum of handshakes under way";
    initials_prefix_full: "quic_initials_prefix_full", "First packets dropped because of their address prefix";
    initials_site_full: "quic_initials_site_full", "First packets dropped because of their site (IPv4 /24, IPv6 /48)";
    refused_draining: "quic_refused_draining", "Connections refused while draining";
    refused_memory: "quic_refused_memory", "Connections refused because memory is at its ceiling";
    refused_connections: "quic_refused_connections", "Connections refused at the maximum";
    refused_listener: "quic_refused_listener", "Connections refused at the maximum of their listener";
    refused_prefix: "quic_refused_prefix", "Connections refused at the maximum of their address prefix";
    initials_expired: "quic_initials_expired", "First packets that waited longer than a handshake may last";
    handshakes_begun: "quic_handshakes_begun", "Handshakes begun";
    handshakes_failed: "quic_handshakes_failed", "Handshakes that failed";
    handshakes_expired: "quic_handshakes_expired", "Handshakes dropped at their deadline";
    connected: "quic_connected", "Connections established";
    closed: "quic_closed", "Connections ended after they were established";
    peers_moved: "quic_peers_moved", "Clients that moved to another address and proved it";
    packets_lost: "quic_packets_lost", "Packets found lost, of connections that have ended";
    mtu_black_holes: "quic_mtu_black_holes", "Times that a path's MTU was taken back, of connections that have ended";
}}

columns! { RING, ring_values, RingCounters {
    datagrams_in: "io_datagrams_in", "UDP datagrams received";
    datagram_bytes_in: "io_datagram_bytes_in", "Payload bytes of UDP datagrams received";
    gro_trains: "io_gro_trains", "Trains of datagrams that the kernel joined (GRO)";
    datagrams_truncated: "io_datagrams_truncated", "Datagrams dropped because they were too long";
    datagrams_malformed: "io_datagrams_malformed", "Datagrams dropped because they were empty or without a sender";
    datagrams_overflowed: "io_datagrams_overflowed", "Datagrams that the kernel dropped: receive buffer full";
    receive_errors: "io_receive_errors", "Errors of receiving datagrams";
    datagram_buffers_exhausted: "io_datagram_buffers_exhausted", "Times that io_uring ran out of datagram buffers";
    datagrams_out: "io_datagrams_out", "UDP datagrams sent";
    datagram_bytes_out: "io_datagram_bytes_out", "Payload bytes of UDP datagrams sent";
    gso_trains: "io_gso_trains", "Trains of datagrams sent in one piece (GSO)";
    gso_refused: "io_gso_refused", "Trains that had to be sent one datagram at a time";
    sends_blocked: "io_sends_blocked", "Times that a UDP socket had no room";
    dropped_arena_full: "io_dropped_arena_full", "Datagrams dropped because the send buffer was full";
    dropped_no_buffers: "io_dropped_no_buffers", "Datagrams dropped because the kernel had no buffers";
    dropped_too_large: "io_dropped_too_large", "Datagrams dropped because they exceed the MTU, path probes included";
    dropped_unreachable: "io_dropped_unreachable", "Datagrams dropped because there is no way to their receiver";
    icmp_errors: "io_icmp_errors", "ICMP errors reported on UDP sockets";
    doors_opened: "io_doors_opened", "TCP connections accepted";
    doors_refused: "io_doors_refused", "TCP connections reset at once at the maximum";
    doors_closed: "io_doors_closed", "TCP connections gone";
    door_bytes_in: "io_door_bytes_in", "Bytes read from TCP connections";
    door_bytes_discarded: "io_door_bytes_discarded", "Bytes read from closing TCP connections, thrown away";
    door_bytes_held: "io_door_bytes_held", "Bytes read from TCP connections that had to wait for their turn";
    stream_buffers_exhausted: "io_stream_buffers_exhausted", "Times that io_uring had no buffer for a TCP connection";
    door_bytes_out: "io_door_bytes_out", "Bytes written to TCP connections";
    writes_blocked: "io_writes_blocked", "Writes that did not fit into a TCP connection at once";
    accept_exhausted: "io_accept_exhausted", "Times that accepting failed for lack of descriptors or memory";
    accept_errors: "io_accept_errors", "TCP connections that died before they were accepted";
}}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_column_has_a_name_of_its_own_and_a_sentence_without_a_full_stop() {
        let columns = descriptors();
        let names: BTreeSet<_> = columns.iter().map(|column| column.name).collect();
        assert_eq!(names.len(), columns.len());
        for column in columns {
            let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(column.name.chars().all(is_plain), "{}", column.name);
            assert!(!column.help.is_empty() && !column.help.ends_with('.'), "{}", column.help);
        }
    }
}
