//! What an operator may set about a shard: every limit of the core, in one place, with its default.
//!
//! A shard never reads a file or the environment; the broker turns its configuration into this value once, at start.

use core::time::Duration;

use quelea_mqtt::{Limits, QoS};

/// What happens to a message for an offline session whose queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// The oldest waiting message makes room for the new one.
    DropOldest,
    /// The new message is dropped.
    DropNew,
    /// The session ends: what it holds is dropped and its client starts anew.
    EndSession,
}

/// What happens to a connected subscriber whose queue stayed full for [`Settings::full_deadline`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnSlow {
    /// DISCONNECT with 0x97 (quota exceeded); a persistent session stays, offline.
    Disconnect,
    /// The oldest waiting message makes room.
    DropOldest,
    /// The messages that waited are dropped.
    DropNew,
}

/// The limits and habits of one shard.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Limits of the codec: packet size, topic levels, counts inside a packet.
    pub packet: Limits,
    /// Connections (byte streams and QUIC streams) that this shard serves at once.
    pub links_max: usize,
    /// TLS handshakes of byte streams in flight at once; more are refused. One costs about 10 KiB until it is done.
    pub tls_handshakes_max: usize,
    /// Sessions, connected or not, that this shard keeps.
    pub sessions_max: usize,
    /// Subscriptions of one session; more are refused with 0x97.
    pub subscriptions_max: usize,
    /// SUBSCRIBE and UNSUBSCRIBE packets of one connection whose answer is still on its way through the other
    /// shards; beyond it, its later packets wait.
    pub barriers_max: usize,
    /// Messages that may wait in one session.
    pub queue_messages_max: usize,
    /// Bytes that may wait in one session; one message is always taken, however large.
    pub queue_bytes_max: usize,
    /// Receive Maximum announced to clients: their QoS 1 and 2 publications in flight.
    pub receive_max: u16,
    /// The same for clients before MQTT 5, which cannot be told: with so many unacknowledged, reading from them pauses, unless
    /// publications wait for their own session: then they are read on, for their acknowledgements lie behind.
    /// Their acknowledgements wait with the rest then, so this is far above what they keep in flight in normal running.
    pub unacked_max: usize,
    /// QoS 0 publications of one connection that are not accepted everywhere yet: with so many, reading from it pauses
    /// until half of them are. At least 1.
    pub qos0_unaccepted_max: u32,
    /// Publishers of QoS 0 wait for a connected subscriber whose queue is full as long as it takes a whole queue in this
    /// time. One that does not loses QoS 0 without anybody's waiting, for [`Self::qos0_rest`]. Longer than a turn under
    /// overload, or our own slowness would be taken for the subscriber's.
    pub qos0_patience: Duration,
    /// How long nobody waits for a subscriber that was too slow.
    pub qos0_rest: Duration,
    /// QoS 1 and 2 deliveries in flight to one client, whatever larger Receive Maximum it announces.
    pub inflight_max: u16,
    /// Topic Alias Maximum announced to clients.
    pub topic_alias_max: u16,
    /// Topic aliases used towards a client that allows them.
    pub topic_alias_out_max: u16,
    /// Bytes of topics with an alias that one connection may have remembered, in each direction. A client that sets more is
    /// disconnected with 0x97; towards a client, further topics go without an alias.
    pub topic_alias_bytes_max: usize,
    /// Longest client identifier taken `[MQTT-3.1.3-5]`; a longer one is refused with 0x85. It is kept as long as the session.
    pub client_id_bytes_max: usize,
    /// Longest session expiry granted.
    pub session_expiry_max: Duration,
    /// Highest QoS served.
    pub qos_max: QoS,
    /// Time from the transport's opening to a complete CONNECT.
    pub connect_timeout: Duration,
    /// Keep alive imposed on clients that ask for none or for a longer one, in seconds; `None` leaves it to them.
    pub keep_alive_max_s: Option<u16>,
    /// Root of the response topics told to MQTT 5 clients that ask `[MQTT5 4.10]`: each gets `root/client-id`.
    pub response_root: Option<Box<str>>,
    /// How long a publisher waits for a full subscriber before the subscriber pays.
    pub full_deadline: Duration,
    /// Who pays when a connected subscriber stays full.
    pub on_slow: OnSlow,
    /// Who pays when an offline session is full.
    pub on_full: OnFull,
    /// Time for a closing connection to take its last bytes.
    pub close_deadline: Duration,
    /// Retained messages of this shard's partition.
    pub retained_messages_max: usize,
    /// Bytes of retained messages of this shard's partition.
    pub retained_bytes_max: usize,
    /// Messages waiting in one shared group.
    pub group_messages_max: usize,
    /// Shared groups owned by this shard.
    pub groups_max: usize,
    /// CONNECTs that may wait for one client identifier.
    pub claims_max: usize,
    /// Connections of one session that are gone while what they have published is not accepted yet: with so many, its
    /// client hears 0x89 (server busy) until some of that is, or until [`Self::full_deadline`] has passed.
    pub formers_max: usize,
    /// Bytes that this shard may hold on behalf of its peers (its part of the node's ceiling).
    pub memory_bytes_max: usize,
    /// Deliveries in flight to one other shard: the credit that it grants.
    pub deliver_window: u32,
    /// Publications in flight to the owner of retained topics.
    pub forward_window: u32,
    /// Messages that go no further are told with [`Shard::poll_loss`](crate::Shard::poll_loss).
    #[cfg(feature = "witness")]
    pub witness: bool,
    /// The fault that this shard has.
    #[cfg(feature = "mutants")]
    pub mutant: Option<crate::mutants::Mutant>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            packet: Limits::default(),
            links_max: 1 << 20,
            tls_handshakes_max: 4_096,
            sessions_max: 1 << 21,
            subscriptions_max: 10_000,
            barriers_max: 16,
            queue_messages_max: 1_000,
            queue_bytes_max: 1 << 20,
            receive_max: 32,
            unacked_max: 1_000,
            qos0_unaccepted_max: 256,
            qos0_patience: Duration::from_millis(100),
            qos0_rest: Duration::from_secs(2),
            inflight_max: 256,
            topic_alias_max: 16,
            topic_alias_out_max: 16,
            topic_alias_bytes_max: 64 << 10,
            client_id_bytes_max: 1_024,
            session_expiry_max: Duration::from_secs(7 * 24 * 3600),
            qos_max: QoS::ExactlyOnce,
            connect_timeout: Duration::from_secs(10),
            keep_alive_max_s: None,
            response_root: None,
            full_deadline: Duration::from_secs(10),
            on_slow: OnSlow::Disconnect,
            on_full: OnFull::DropOldest,
            close_deadline: Duration::from_secs(10),
            retained_messages_max: 1_000_000,
            retained_bytes_max: 1 << 30,
            group_messages_max: 1_000,
            groups_max: 65_536,
            claims_max: 8,
            formers_max: 16,
            memory_bytes_max: 1 << 30,
            deliver_window: 1_024,
            forward_window: 256,
            #[cfg(feature = "witness")]
            witness: false,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

impl Settings {
    /// What a client may have remembered of topics with an alias.
    pub(crate) fn aliases_in(&self) -> crate::link::AliasLimits {
        crate::link::AliasLimits { max: self.topic_alias_max, bytes_max: self.topic_alias_bytes_max }
    }
}
