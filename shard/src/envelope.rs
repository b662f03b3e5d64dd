//! What shards say to each other: immutable messages in four lanes per ordered pair of shards.
//!
//! | lane | carries | bound | waits for |
//! |---|---|---|---|
//! | reply | acceptance of publications, credit given back, interest acknowledged | one envelope per turn, accumulated | nothing |
//! | control | interest, sessions, groups, cursors | what the protocols may have outstanding | nothing |
//! | forward | retained publications to the owner of their topic | `forward_window` | their acceptance by every session, at most a deadline |
//! | deliver | publications to their subscribers, and the marks that cut a moving session's paths | `deliver_window` | nothing |
//!
//! The last column is why nothing can lock up: every inbox is drained whatever its shard is waiting for, and a delivery
//! that finds a session full gives its credit back and waits with the session, not in the lane.

use std::sync::Arc;

use bytes::BytesMut;
use quelea_mqtt::{QoS, ReasonCode};
use quelea_router::{Seq, ShardId, SlotId, SlotKey};
use smallvec::SmallVec;

use crate::publication::Message;
use crate::quic::Path;
use crate::session::{Session, Subscription};

/// Keys of one shard's tables, each a type of its own.
macro_rules! slot_keys {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(SlotId);

        impl SlotKey for $name {
            fn from_slot(id: SlotId) -> Self {
                Self(id)
            }

            fn slot(self) -> SlotId {
                self.0
            }
        }
    )*};
}

slot_keys! {
    /// An MQTT connection of one shard.
    LinkKey;
    /// A session of one shard.
    SessionKey;
    /// A publication that its publisher's shard has not yet seen accepted by everyone.
    TicketKey;
    /// A shared group of its owner shard.
    GroupKey;
    /// A publication that sessions of this shard have no room for yet.
    HoldKey;
}

/// The reply lane: everything that accumulated since the last one.
#[derive(Debug, Default)]
pub struct Reply {
    /// Deliver envelopes that hold no credit any more.
    pub deliver_credit: u32,
    /// Forward envelopes that hold no credit any more.
    pub forward_credit: u32,
    /// Publications that are now in every session of the sender that wanted them.
    pub accepted: Vec<Accepted>,
    /// The last interest announcement that the sender has applied, if that changed.
    pub interest_seq: Option<u64>,
}

impl Reply {
    /// Whether there is anything to say.
    pub fn is_empty(&self) -> bool {
        self.deliver_credit == 0
            && self.forward_credit == 0
            && self.accepted.is_empty()
            && self.interest_seq.is_none()
    }
}

/// One publication accepted by one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The publishing shard's ticket.
    pub ticket: TicketKey,
    /// `SUCCESS`, `NO_MATCHING_SUBSCRIBERS`, or why it was not kept.
    pub reason: ReasonCode,
}

/// The forward lane: a retained publication on its way to the owner of its topic.
#[derive(Debug)]
pub struct Forward {
    /// Closed by an [`Accepted`] of the owner.
    pub ticket: TicketKey,
    /// The publication.
    pub message: Message,
}

/// The deliver lane.
#[derive(Debug)]
pub enum Deliver {
    /// A publication for whoever subscribed on the receiving shard.
    Publish {
        /// Closed by an [`Accepted`] of the receiver.
        ticket: TicketKey,
        /// The publication.
        message: Message,
    },
    /// One retained message for one session that pulls.
    Retained {
        /// The session, on the receiving shard.
        session: SessionKey,
        /// The message.
        message: Message,
    },
    /// The end of one pull.
    RetainedEnd {
        /// The session, on the receiving shard.
        session: SessionKey,
        /// Topic to resume after; `None` when this partition has no more.
        after: Option<Box<str>>,
    },
    /// From here on, the sender's publications reach a moving session on its new path only.
    Mark {
        /// Which session, and which of its lives.
        identity: Arc<Identity>,
    },
}

/// A session across shards: its client identifier and the number of its present life.
///
/// The home shard counts lives; whatever speaks of an older one comes too late and is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The client identifier.
    pub client_id: Arc<str>,
    /// Counted up by the home shard at every CONNECT that it orders.
    pub epoch: u64,
}

/// A change of what a shard wants to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterestChange {
    /// The filter, without any `$share` prefix.
    pub filter: Arc<str>,
    /// Wanted, or no longer wanted.
    pub wanted: bool,
}

/// A subscriber's shard and its session there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The shard that serves the session.
    pub shard: ShardId,
    /// The session.
    pub session: SessionKey,
}

/// A claim of a connecting client on its session.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The client identifier.
    pub client_id: Arc<str>,
    /// Clean Start: whatever exists is dropped.
    pub clean_start: bool,
    /// The connection that asks, on the shard that asks.
    pub link: LinkKey,
}

/// The control lane.
#[derive(Debug)]
pub enum Control {
    /// Filters that the sender wants, or no longer wants, to be sent.
    Interest {
        /// Counts the sender's announcements; acknowledged by [`Reply::interest_seq`].
        seq: u64,
        /// In the order in which they happened.
        changes: Arc<[InterestChange]>,
    },
    /// To the home shard: a client asks for its session.
    Claim(Claim),
    /// From the home shard: the session is the asker's now.
    Granted {
        /// The asking connection.
        link: LinkKey,
        /// The session's new life.
        identity: Arc<Identity>,
        /// The asker's shard already holds the session and is to take it over.
        resume: bool,
    },
    /// From the home shard: too many are asking for this client identifier.
    ClaimRefused {
        /// The asking connection.
        link: LinkKey,
    },
    /// From the home shard to the owner: end this session, another client starts clean.
    Release {
        /// The session's life that ends.
        identity: Arc<Identity>,
    },
    /// From the owner to the home shard: it is gone.
    Released {
        /// The session's life that ended.
        identity: Arc<Identity>,
    },
    /// From the home shard to the owner: hand the session to another shard.
    Yield {
        /// The session's present life.
        identity: Arc<Identity>,
        /// Its next one.
        next: Arc<Identity>,
        /// Where it goes.
        to: ShardId,
        /// The connection that asked.
        link: LinkKey,
    },
    /// From the old owner to the new one: subscribe to all this, then cut the paths.
    MoveBegin {
        /// The session's next life.
        next: Arc<Identity>,
        /// The connection that asked.
        link: LinkKey,
        /// Its subscriptions, by their whole filter.
        subscriptions: Vec<(Arc<str>, Subscription)>,
    },
    /// From the new owner to everyone: mark both paths now.
    Cut {
        /// The session's next life.
        identity: Arc<Identity>,
        /// The shard that it leaves.
        old: ShardId,
    },
    /// From the old owner to the new one: what the session held.
    MoveEnd {
        /// The session's next life.
        next: Arc<Identity>,
        /// The session as a value.
        session: Box<Session>,
    },
    /// To the home shard: the session is settled in its new life, the next claim may be served.
    Settled {
        /// The session's present life.
        identity: Arc<Identity>,
    },
    /// To the home shard: the session ended by itself.
    Ended {
        /// The life that ended.
        identity: Arc<Identity>,
    },
    /// To the owner of retained topics: send this session the next few.
    Pull {
        /// The session that asks, on the asking shard.
        session: SessionKey,
        /// What it subscribed to.
        filter: Arc<str>,
        /// Strictly after this topic.
        after: Option<Box<str>>,
        /// At most so many.
        messages_max: u16,
    },
    /// To a group's owner: a member joins.
    Join {
        /// The member.
        member: Member,
        /// The whole filter, `$share/…`.
        filter: Arc<str>,
        /// Member's client can take messages now.
        online: bool,
    },
    /// From a group's owner: the member is in and every shard knows the group.
    Joined {
        /// The member's session.
        session: SessionKey,
        /// The whole filter.
        filter: Arc<str>,
        /// The group, for what follows; `None` when the owner has no room for another group.
        group: Option<GroupKey>,
    },
    /// To a group's owner: the member leaves.
    Leave {
        /// The member.
        member: Member,
        /// The whole filter (the group's key may not be known yet).
        filter: Arc<str>,
    },
    /// To a group's owner: the member can take so many more messages.
    Lend {
        /// The member.
        member: Member,
        /// The group.
        group: GroupKey,
        /// More messages than it was lent before.
        credit: u32,
    },
    /// To a group's owner: the member's client is away (what it was lent is void) or back.
    Presence {
        /// The member.
        member: Member,
        /// The whole filter.
        filter: Arc<str>,
        /// Whether the client is connected.
        online: bool,
    },
    /// From a group's owner: a message for this member.
    Assign {
        /// The member's session.
        session: SessionKey,
        /// The group.
        group: GroupKey,
        /// The message's place in the group.
        seq: Seq,
        /// The message.
        message: Message,
    },
    /// A datagram that came to the wrong shard's socket.
    Stray {
        /// Where it came from.
        from: Path,
        /// The datagram.
        bytes: BytesMut,
    },
    /// To a group's owner: this member will not deliver it.
    GiveBack {
        /// The group.
        group: GroupKey,
        /// The message's place in the group.
        seq: Seq,
        /// The message.
        message: Message,
    },
}

/// Where a shared group's message came from, kept beside it until the client has acknowledged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupTag {
    /// The group's owner shard.
    pub owner: ShardId,
    /// The group there.
    pub group: GroupKey,
    /// The message's place in the group.
    pub seq: Seq,
}

/// Subscription identifiers of one delivery: nearly always none or one.
pub type SubscriptionIdList = SmallVec<[u32; 2]>;

/// How one subscriber gets one publication, over all its subscriptions that match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The lower of the publication's QoS and the highest that the subscriber asked for `[MQTT-3.8.4-8]`.
    pub qos: QoS,
    /// The RETAIN flag that it sees.
    pub retain: bool,
    /// The identifiers of all its matching subscriptions `[MQTT-3.3.4-3]`.
    pub subscription_ids: SubscriptionIdList,
}
