//! What a shard has counted: plain numbers, owned by the shard, read by whoever drives it.
//!
//! Names follow Prometheus: `quelea_<name>_total` for counters, `quelea_<name>` for gauges.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ident,)+) => {
        /// Counters and gauges of one shard.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Counters {
            /// Adds another shard's figures: the node's are the sums.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }

            /// Every figure with its name, its help text and its kind, in a fixed order.
            pub fn for_each(&self, mut visit: impl FnMut(Figure)) {
                $(visit(Figure {
                    name: stringify!($name),
                    help: concat!($($doc),+),
                    kind: Kind::$kind,
                    value: self.$name,
                });)+
            }
        }
    };
}

/// One figure of [`Counters`].
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Name without prefix and suffix.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Its value.
    pub value: u64,
}

/// How a figure changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

counters! {
    #[doc = "Connections open now."]
    links: Gauge,
    #[doc = "Nodes visited, subscribers found, topics looked at: what turns are measured by."]
    work_units: Counter,
    #[doc = "Times that packets of a connection waited because it, or the turn, had done much work."]
    links_yielded: Counter,
    #[doc = "Sessions kept now, connected or not."]
    sessions: Gauge,
    #[doc = "Sessions with a client connected now."]
    sessions_connected: Gauge,
    #[doc = "Subscriptions of this shard's sessions."]
    subscriptions: Gauge,
    #[doc = "Retained messages in this shard's partition."]
    retained: Gauge,
    #[doc = "Bytes of retained messages in this shard's partition."]
    retained_bytes: Gauge,
    #[doc = "Shared groups owned by this shard."]
    groups: Gauge,
    #[doc = "Bytes held on behalf of peers."]
    memory_bytes: Gauge,
    #[doc = "Publications waiting for a full subscriber of this shard."]
    parked: Gauge,
    #[doc = "Publications of this shard's clients not yet accepted everywhere."]
    tickets: Gauge,
    #[doc = "Publications waiting for another shard's credit."]
    waiting_credit: Gauge,
    #[doc = "Connections opened."]
    links_opened: Counter,
    #[doc = "Connections refused because the shard has its maximum."]
    links_refused: Counter,
    #[doc = "Byte streams refused because their listener has its maximum."]
    doors_refused: Counter,
    #[doc = "Byte streams refused because their address prefix has its maximum at their listener."]
    doors_refused_prefix: Counter,
    #[doc = "Byte streams closed because their PROXY header was malformed, or its sender is not trusted."]
    proxy_refused: Counter,
    #[doc = "TLS handshakes in flight on byte streams."]
    tls_handshakes_in_flight: Gauge,
    #[doc = "TLS handshakes completed on byte streams."]
    tls_handshakes: Counter,
    #[doc = "TLS handshakes that failed on byte streams."]
    tls_handshakes_failed: Counter,
    #[doc = "Byte streams refused because too many TLS handshakes are in flight."]
    tls_handshakes_refused: Counter,
    #[doc = "Byte streams refused because their address prefix has too many TLS handshakes in flight at their listener."]
    tls_handshakes_refused_prefix: Counter,
    #[doc = "Byte streams refused because their site (IPv4 /24, IPv6 /48) has too many TLS handshakes in flight at their listener."]
    tls_handshakes_refused_site: Counter,
    #[doc = "TLS connections closed for a record that could not be read."]
    tls_errors: Counter,
    #[doc = "TLS connections whose stream ended without close_notify."]
    tls_truncated: Counter,
    #[doc = "WebSockets opened."]
    websockets_opened: Counter,
    #[doc = "Requests refused by a WebSocket listener."]
    websockets_refused: Counter,
    #[doc = "WebSockets closed for a wrong frame."]
    websocket_errors: Counter,
    #[doc = "Byte streams closed because PROXY header, TLS handshake or WebSocket request did not come in time."]
    layer_timeouts: Counter,
    #[doc = "CONNECTs accepted."]
    connects: Counter,
    #[doc = "CONNECTs refused."]
    connects_refused: Counter,
    #[doc = "Connections closed because no CONNECT came in time."]
    connect_timeouts: Counter,
    #[doc = "Connections closed because the client was silent for one and a half keep alive intervals."]
    keep_alive_timeouts: Counter,
    #[doc = "Connections closed because their topic aliases stood for more bytes than one may remember."]
    topic_aliases_exceeded: Counter,
    #[doc = "Connections refused because memory is at its ceiling."]
    links_refused_memory: Counter,
    #[doc = "Connections closed in the middle of a large packet because memory is at its ceiling."]
    links_shed_memory: Counter,
    #[doc = "Connections closed because their session was taken over."]
    takeovers: Counter,
    #[doc = "Sessions moved to another shard."]
    sessions_moved: Counter,
    #[doc = "Sessions ended because they expired."]
    sessions_expired: Counter,
    #[doc = "Connections closed for a malformed packet."]
    malformed: Counter,
    #[doc = "Connections closed for a protocol error."]
    protocol_errors: Counter,
    #[doc = "MQTT packets received."]
    packets_received: Counter,
    #[doc = "MQTT packets sent."]
    packets_sent: Counter,
    #[doc = "MQTT bytes received."]
    bytes_received: Counter,
    #[doc = "MQTT bytes handed to the transport."]
    bytes_sent: Counter,
    #[doc = "PUBLISH packets received, without repetitions of QoS 2."]
    publishes_received: Counter,
    #[doc = "Times that reading from a publisher paused until its QoS 0 publications were accepted."]
    publishers_throttled: Counter,
    #[doc = "Wills published."]
    wills_published: Counter,
    #[doc = "PUBLISH packets sent for the first time."]
    publishes_sent: Counter,
    #[doc = "PUBLISH packets sent again after a reconnect."]
    publishes_resent: Counter,
    #[doc = "Messages matched with a session: delivered, dropped, expired or still waiting."]
    messages_matched: Counter,
    #[doc = "Messages dropped: QoS 0 to a session with a full queue."]
    dropped_qos0_full: Counter,
    #[doc = "Publications dropped: QoS 0 behind a retained one on its way to another shard."]
    dropped_qos0_deferred: Counter,
    #[doc = "Messages dropped: QoS 0 to a session without a client."]
    dropped_qos0_offline: Counter,
    #[doc = "Messages dropped: QoS 0 without credit of the subscriber's shard."]
    dropped_qos0_credit: Counter,
    #[doc = "Messages dropped: QoS 0 because memory is at its ceiling."]
    dropped_qos0_memory: Counter,
    #[doc = "Publications dropped: QoS 0 that came while memory was at its ceiling."]
    dropped_qos0_refused: Counter,
    #[doc = "Messages dropped: QoS 0 to a shared group without room."]
    dropped_qos0_group: Counter,
    #[doc = "Messages dropped: queue of an offline session full."]
    dropped_offline_full: Counter,
    #[doc = "Messages dropped: a connected subscriber stayed full until the deadline."]
    dropped_slow: Counter,
    #[doc = "Messages dropped: shared group full."]
    dropped_group_full: Counter,
    #[doc = "Messages dropped: larger than the subscriber's Maximum Packet Size."]
    dropped_too_large: Counter,
    #[doc = "Messages dropped: their session ended."]
    dropped_session_end: Counter,
    #[doc = "Messages sent whose session ended before the client had acknowledged them."]
    unacknowledged_session_end: Counter,
    #[doc = "Messages that a subscriber has refused with PUBACK or PUBREC of 0x80 or above."]
    dropped_refused: Counter,
    #[doc = "Messages that sessions and shared groups hold while the node drains: they end with it."]
    held_while_draining: Gauge,
    #[doc = "Messages expired before they were sent."]
    expired: Counter,
    #[doc = "QoS 1 and 2 publications refused because memory is at its ceiling."]
    publishes_refused: Counter,
    #[doc = "Subscriptions refused because their session has its maximum."]
    subscriptions_refused: Counter,
    #[doc = "Subscriptions refused because memory is at its ceiling."]
    subscriptions_refused_memory: Counter,
    #[doc = "Shared subscriptions refused because the shard that owns their group has its maximum of groups."]
    groups_refused: Counter,
    #[doc = "Publications and subscriptions denied."]
    denied: Counter,
    #[doc = "Retained messages refused because the partition is full."]
    retained_refused: Counter,
    #[doc = "Retained messages removed because they expired."]
    retained_expired: Counter,
    #[doc = "Subscribers disconnected because they stayed full."]
    slow_disconnects: Counter,
    #[doc = "Publications sent to other shards."]
    envelopes_sent: Counter,
    #[doc = "Publications received from other shards."]
    envelopes_received: Counter,
    #[doc = "Datagrams of another shard's connections, forwarded to it."]
    datagrams_forwarded: Counter,
    #[doc = "Datagrams for another shard's connections dropped because its inbox was full."]
    datagrams_forward_dropped: Counter,
    #[doc = "Messages of shared groups given back by a member."]
    group_given_back: Counter,
}
