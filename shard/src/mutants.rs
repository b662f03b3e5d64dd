//! Deliberate faults in the rules of "Publish across shards", for the simulator to find. Compiled only with the feature
//! `mutants`, which nothing but the simulator's own proof asks for; a normal build has neither the faults nor the switch.

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// SUBACK leaves before the other shards know the filter.
    SubackBeforeBarrier,
    /// PUBACK and PUBREC leave before every interested shard has accepted the message.
    AckBeforeAcceptance,
    /// A QoS 1 or 2 delivery to a shard without credit is dropped, as QoS 0 is.
    FullPeerDropped,
    /// A session that moves takes messages on its new path from the first moment, not from the mark.
    MarkIgnored,
    /// A retained publication is fanned out by its publisher's shard instead of the owner of its topic.
    RetainedFannedOutByPublisher,
    /// What a member of a shared group leaves unacknowledged is not given back.
    GroupMessagesKept,
    /// A client that comes back is sent everything at once, whatever its Receive Maximum is.
    QuotaForgotten,
    /// The kernel steers datagrams by their sender's address: the simulator's kernel has this fault, not the shard.
    SteeredByAddress,
    /// Connection IDs are drawn without regard to the shard that they name.
    ConnectionIdsUnsteered,
    /// What a full QUIC window does not take is dropped.
    DroppedAtFullWindow,
    /// A QUIC handshake that was not finished in time counts for ever.
    HandshakesNotGivenBack,
    /// A delivery to a full shard is dropped, and the books are cooked: a slow subscriber is blamed.
    LossHidden,
    /// A Will is published at once, whatever its delay.
    WillDelayForgotten,
    /// What has expired in a queue is sent.
    ExpiryForgotten,
    /// MQTT bytes in the piece that ends a byte stream's handshakes are forgotten.
    BehindHandshakeForgotten,
    /// A byte stream with layers is read on when what waits behind it is full.
    FullDoorRead,
    /// The layers end without their closing words.
    ClosingWordsForgotten,
    /// A TLS handshake that was not finished in time counts for ever.
    DoorHandshakesNotGivenBack,
    /// A filter whose last subscriber of a shard went is not announced again when another comes.
    InterestNotAnnouncedAgain,
    /// Packet identifiers go around after eight, those in flight as well.
    IdentifierUsedEarly,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::SubackBeforeBarrier,
        Self::AckBeforeAcceptance,
        Self::FullPeerDropped,
        Self::MarkIgnored,
        Self::RetainedFannedOutByPublisher,
        Self::GroupMessagesKept,
        Self::QuotaForgotten,
        Self::SteeredByAddress,
        Self::ConnectionIdsUnsteered,
        Self::DroppedAtFullWindow,
        Self::HandshakesNotGivenBack,
        Self::LossHidden,
        Self::WillDelayForgotten,
        Self::ExpiryForgotten,
        Self::BehindHandshakeForgotten,
        Self::FullDoorRead,
        Self::ClosingWordsForgotten,
        Self::DoorHandshakesNotGivenBack,
        Self::InterestNotAnnouncedAgain,
        Self::IdentifierUsedEarly,
    ];
}
