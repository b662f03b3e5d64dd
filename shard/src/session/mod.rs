//! A session: what the broker remembers of one client, connected or not.
//!
//! A plain value. It knows neither its connection nor the router: it is given packets and messages and answers with
//! small verdicts that the shard carries out, so it can move between shards as it is.
//!
//! ```text
//!            CONNECT                    connection lost, or DISCONNECT with an expiry
//!  (none) ───────────► Online ◄──────────────────────────────► Offline ──► (expired)
//!                        │  CONNECT                               │
//!                        └──────────── Yield ─► Leaving ◄─────────┘
//!   Arriving ─► MoveEnd ─► Online / Offline     (the same session, on another shard)
//! ```

mod inbound;
mod memberships;
mod outbound;
mod parked;
mod replays;

pub use inbound::{Inbound, PublishVerdict, Released};
pub use memberships::{GroupPlace, Membership, Memberships};
pub use outbound::{Discard, Offer, Outbound, OutboundLimits, OutboundSink, Outgoing, Queued};
pub use parked::{Parked, ParkedQueue};
pub use replays::{Replay, Replays};

use core::num::NonZeroU32;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use quelea_mqtt::{QoS, RetainHandling, SubscriptionOptions, Version};
use quelea_router::{ShardId, ShardSet};

use crate::envelope::{HoldKey, Identity, LinkKey, Match};
use crate::publication::{Budget, Charge, Message, Publication, PublisherId};

/// One subscription as the session remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Options of the SUBSCRIBE that made it.
    pub options: SubscriptionOptions,
    /// Its Subscription Identifier.
    pub id: Option<NonZeroU32>,
}

impl Subscription {
    /// What a shared group asks of the publishers' side: everything; each member then has its own options.
    pub(crate) const EVERYTHING: Self = Self {
        options: SubscriptionOptions {
            qos: QoS::ExactlyOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::DoNotSend,
        },
        id: None,
    };
}

/// Where the session stands.
#[derive(Debug)]
pub enum Presence {
    /// A client is connected.
    Online {
        /// Its connection.
        link: LinkKey,
    },
    /// Nobody is connected.
    Offline {
        /// When the session ends by itself; `None` = never.
        expires: Option<Instant>,
    },
    /// It is moving here: messages are taken from the shards that have marked the new path.
    Arriving {
        /// The connection that waits for it.
        link: LinkKey,
        /// Shards that have marked.
        marked: ShardSet,
    },
    /// It is moving away: messages are taken from the shards that have not marked the old path yet.
    Leaving {
        /// Where it goes.
        to: ShardId,
        /// The life that it will have there.
        next: Arc<Identity>,
        /// Shards that have marked.
        marked: ShardSet,
    },
}

/// A Will that is not published yet.
#[derive(Debug)]
pub struct PendingWill {
    /// The message; its expiry starts when it is published.
    pub publication: Publication,
    /// Will Delay Interval, seconds.
    pub delay_s: u32,
    /// Message Expiry Interval, seconds.
    pub message_expiry_s: Option<u32>,
    /// When it is to be published, once the connection is gone.
    pub due: Option<Instant>,
}

/// What the broker remembers of one client.
#[derive(Debug)]
pub struct Session {
    /// Client identifier and life.
    pub identity: Arc<Identity>,
    /// Its hash, for No Local.
    pub publisher: PublisherId,
    /// Protocol version of its last connection.
    pub version: Version,
    /// Session Expiry Interval: `Some(0)` ends with the connection, `None` never.
    pub expiry_s: Option<u32>,
    /// Connected or not, moving or not.
    pub presence: Presence,
    /// Filter text → subscription.
    pub subscriptions: BTreeMap<Arc<str>, Subscription>,
    /// Shared groups it belongs to.
    pub memberships: Memberships,
    /// Messages on their way to the client.
    pub outbound: Outbound,
    /// QoS 2 publications received and not yet released.
    pub inbound: Inbound,
    /// Publications that wait for room, in order: while there are any, later ones wait behind them. QoS 0 stands in front
    /// only: it comes to wait where nothing else does.
    pub parked: ParkedQueue,
    /// The Will of the present or last connection.
    pub will: Option<PendingWill>,
    /// Retained messages still to be fetched.
    pub replays: Replays,
    /// What the old owner held, while this one still waits for shards to mark the new path.
    pub arrived: Option<Box<Session>>,
    /// Publications that have come by the new path before all shards have marked it: whoever published them waits, lest
    /// he goes on by a shard that still uses the old path.
    pub unmarked: Vec<HoldKey>,
    /// The last connection that is gone while publications of it are not accepted yet.
    pub former: Option<LinkKey>,
    /// How many such connections there are, each behind the one before it.
    pub(crate) formers: usize,
    /// A pull is on its way; its answer comes through the deliver lane.
    pub pulling: bool,
    /// The publication that was last matched with this session, and its place in the matcher's list.
    pub(crate) stamp: (u64, u32),
    /// The timer's entry that is in force.
    pub(crate) armed: Option<Instant>,
    /// A timer looks after what is parked.
    pub(crate) parked_armed: bool,
    /// What had left the queue when publishers of QoS 0 began to wait, or when their patience was last renewed.
    pub(crate) left_before: u64,
    /// It was too slow for them: until then nobody waits.
    pub(crate) too_slow_until: Option<Instant>,
    /// Its connection has been told that publications wait for room in its queue.
    pub(crate) waited_for: bool,
    /// In the shard's list of sessions with something to send.
    pub(crate) listed: bool,
    /// What the session is charged with, beside its queues and subscriptions.
    charge: Option<Charge>,
}

impl Session {
    /// A session without any state.
    pub fn new(
        identity: Arc<Identity>,
        publisher: PublisherId,
        version: Version,
        presence: Presence,
    ) -> Self {
        Self {
            identity,
            publisher,
            version,
            expiry_s: Some(0),
            presence,
            subscriptions: BTreeMap::new(),
            memberships: Memberships::default(),
            outbound: Outbound::default(),
            inbound: Inbound::default(),
            parked: ParkedQueue::default(),
            will: None,
            replays: Replays::default(),
            arrived: None,
            unmarked: Vec::new(),
            former: None,
            formers: 0,
            pulling: false,
            stamp: (0, 0),
            armed: None,
            parked_armed: false,
            left_before: 0,
            too_slow_until: None,
            waited_for: false,
            listed: false,
            charge: None,
        }
    }

    /// Charges this budget with the session and its queues, as long as it lives.
    pub(crate) fn charge_to(&mut self, budget: &Budget) {
        self.charge = Some(budget.charge(self.held_bytes()));
        self.outbound.charge_to(budget);
        self.parked.charge_to(budget);
    }

    /// Memory of the session itself and of its tables, those not counted that charge themselves.
    fn held_bytes(&self) -> usize {
        size_of::<Self>()
            + self.identity.client_id.len()
            + SESSION_BYTES
            + self.inbound.held_bytes()
            + self.replays.held_bytes()
            + self.unmarked.capacity() * size_of::<HoldKey>()
    }

    /// After a change of what the client has not released, of what is still to be fetched for it, or of who waits for its
    /// move: charges what is held now.
    pub(crate) fn recharge(&mut self) {
        let held = self.held_bytes();
        if let Some(charge) = &mut self.charge
            && charge.bytes() != held
        {
            charge.recharge(held);
        }
    }

    /// The connection, if a client is connected.
    pub fn link(&self) -> Option<LinkKey> {
        match self.presence {
            Presence::Online { link } => Some(link),
            _ => None,
        }
    }

    /// Whether a message from `publisher`'s shard counts for this session here: while it moves, each shard's messages
    /// count on one side of the mark only.
    pub fn takes_from(&self, publisher: ShardId) -> bool {
        match &self.presence {
            Presence::Online { .. } | Presence::Offline { .. } => true,
            Presence::Arriving { marked, .. } => marked.contains(publisher),
            Presence::Leaving { marked, .. } => !marked.contains(publisher),
        }
    }

    /// Messages that it keeps for its client: those that wait, and those that the client has not acknowledged.
    pub(crate) fn held(&self) -> usize {
        self.parked.len() + self.outbound.waiting() + self.outbound.unacknowledged()
    }

    /// Whether room in the connection's output would let anything go on: what waits to be sent, to be queued, to be
    /// fetched, or to be asked of a group's owner.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.outbound.has_work()
            || !self.parked.is_empty()
            || !self.replays.is_empty()
            || self.memberships.is_low()
    }

    /// Whether publications, here or in its shared groups, wait for room in its queue.
    pub(crate) fn is_waited_for(&self, limits: &OutboundLimits) -> bool {
        !self.parked.is_empty() || (self.memberships.is_low() && !self.has_room_to_lend(limits))
    }

    /// Whether its shared groups may be lent credit.
    pub(crate) fn has_room_to_lend(&self, limits: &OutboundLimits) -> bool {
        self.outbound.room(limits) > 0 && self.outbound.waiting() <= LEND_MAX as usize
    }

    /// Whether it is on its way between two shards.
    pub fn is_moving(&self) -> bool {
        matches!(self.presence, Presence::Arriving { .. } | Presence::Leaving { .. })
    }

    /// Whether the session outlives its connection.
    pub fn is_persistent(&self) -> bool {
        self.expiry_s != Some(0)
    }

    /// The queue entry for one matching publication.
    pub fn entry(message: &Message, how: &Match) -> Queued {
        Queued {
            message: Arc::clone(message),
            qos: how.qos,
            retain: how.retain,
            subscription_ids: how.subscription_ids.clone(),
            group: None,
        }
    }
}

/// Messages that a group's owner may send to one member without asking: a batch, small beside a queue.
pub(crate) const LEND_MAX: u32 = 16;

/// A session beside itself and its client identifier: its entry in the table of identifiers, its life, its timer.
const SESSION_BYTES: usize = 160;
