//! One core's share of the broker: its connections, its sessions, and its part of what all shards keep together.
//!
//! A plain state machine. Methods come in three kinds, called in this order:
//!
//! 1. **`handle_*`** take input, with `now` first: bytes, datagrams, ends, completions, orders, other shards' envelopes
//!    (`handle_envelopes`), the passing of time. They change state and queue effects; they never block and never fail.
//! 2. **[`Shard::settle`]**, once after any number of inputs: sends what sessions may send, announces interest, closes
//!    what has ended. It is the only place where queued work becomes output.
//! 3. **`poll_*`** hand out what is queued, until they return `None`: writes for byte streams, datagrams, requests to
//!    side threads, envelopes (`flush_envelopes`), and the next time at which `handle_timeout` wants to be called.
//!
//! [`crate::turn`] calls them in this order for every driver, real or simulated.

mod accept;
mod authorize;
mod connect;
mod door_kinds;
mod doors;
mod drain;
mod groups;
mod homes;
mod interest;
mod links;
mod moves;
mod output;
mod packets;
mod peers;
mod publish;
mod quic_links;
mod retained;
mod sessions;
mod subscribe;
mod tickets;
mod timers;
mod work;

use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use quelea_router::{FilterTrie, Interest, Mailbox, RetainedStore, ShardId, ShareGroup, Slots};

use crate::counters::Counters;
use crate::envelope::{
    Control, Deliver, Forward, GroupKey, HoldKey, LinkKey, Member, Reply, SessionKey, TicketKey,
};
use crate::hash::{Keyed, KeyedMap, OwnMap};
use crate::link::{DoorId, Link, WriteBatch};
use crate::publication::{Budget, Charge, Message, Spares};
use crate::quic::{ConnId, Quic, QuicTls};
use crate::refusal::{Refusal, Refusals};
use crate::session::{OutboundLimits, Session};
use crate::settings::Settings;

use tickets::Tickets;

pub(crate) use accept::Matcher;
pub(crate) use homes::Home;
pub(crate) use peers::Peer;
#[cfg(feature = "witness")]
pub(crate) use retained::PULL_MESSAGES_MAX;
pub(crate) use retained::Pull;
pub(crate) use subscribe::PendingAnswer;

/// This shard's end of the mesh.
pub type ShardMailbox = Mailbox<Reply, Control, Forward, Deliver>;

/// What makes one shard of a node: its place, its secrets, its mailbox.
pub struct ShardParts {
    /// Its place.
    pub id: ShardId,
    /// How many there are.
    pub shards: usize,
    /// Equal on all shards: keys the hashes that say who owns a topic, a group, a client identifier.
    pub node_seed: u64,
    /// This shard's own: everything random that it does.
    pub seed: u64,
    /// Its end of the mesh.
    pub mailbox: ShardMailbox,
    /// Its QUIC half; `None` where no QUIC listener is configured.
    pub quic: Option<Quic>,
}

/// What the shard wants done with a byte stream.
#[derive(Debug, PartialEq, Eq)]
pub enum DoorAction {
    /// Write this; `handle_door_written` when all of it is with the kernel. One at a time per door.
    Write(WriteBatch),
    /// Send no more input from it until `Resume`.
    Pause,
    /// Go on.
    Resume,
    /// Everything is written: end the stream, and say when the peer has ended its side.
    Finish,
    /// Drop it at once.
    Abort,
}

/// How a byte stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorEnd {
    /// The peer ended its side in order.
    EndOfStream,
    /// Reset, or an error.
    Reset,
}

/// An operator's order.
pub enum Order {
    /// Take no new connections, tell every client to go (0x8B) once what waits for it is written, be done by the deadline.
    Drain {
        /// What is still open then is aborted.
        deadline: Instant,
    },
    /// Use this certificate for connections that come to the first QUIC listener from now on.
    Tls(Arc<QuicTls>),
}

/// Work for a side thread.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// To be named by the completion.
    pub id: RequestId,
    /// The work.
    pub work: Work,
}

/// Names one request: the connection that waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub(crate) LinkKey);

/// What a side thread can do.
#[derive(Debug, PartialEq, Eq)]
pub enum Work {
    /// Check who is connecting.
    Authenticate {
        /// The client identifier, given or assigned.
        client_id: Arc<str>,
        /// User name, if any.
        user_name: Option<Box<str>>,
        /// Password, if any.
        password: Option<Box<[u8]>>,
        /// Topic of its Will, if it brings one.
        will_topic: Option<Box<str>>,
        /// Where it comes from.
        peer: SocketAddr,
    },
    /// Check what a client may do. Asked only of clients whose permissions are [`Permissions::Ask`]; the connection's
    /// later packets wait for the answer.
    Authorize {
        /// The client identifier.
        client_id: Arc<str>,
        /// What it wants.
        action: Action,
    },
}

/// What a client wants to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Publish to a topic.
    Publish {
        /// The topic, aliases resolved.
        topic: Box<str>,
        /// Whether the message is to be retained.
        retain: bool,
    },
    /// Subscribe to filters, each to be allowed or denied.
    Subscribe {
        /// The filters as they were asked for, `$share/…` included.
        filters: Vec<Box<str>>,
    },
}

/// What a client that may connect may do then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permissions {
    /// Whatever it wants.
    Everything,
    /// Each publication and subscription is asked for.
    Ask,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Whether the client may connect, and what it may do then; a refusal carries its reason code.
    Authenticated(Result<Permissions, quelea_mqtt::ReasonCode>),
    /// Whether it may do what it asked for: one verdict for a publication, one per filter for a subscription.
    Authorized(Vec<bool>),
}

/// Who subscribed: an entry of the shard's filter trie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subscriber {
    /// A session of this shard.
    Session(SessionKey),
    /// A shared group that this shard owns.
    Group(GroupKey),
}

/// A shared group on its owner.
pub(crate) struct Group {
    pub(crate) filter: Arc<str>,
    pub(crate) members: ShareGroup<Member, Message>,
    pub(crate) parked: VecDeque<(Message, HoldKey, Instant)>,
    pub(crate) parked_armed: bool,
    pub(crate) listed: bool,
    /// What the group and its tables are charged with; messages are charged by themselves.
    pub(crate) charge: Charge,
}

/// Who is told when a publication is accepted everywhere.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// A connection of this shard; the number settles its acknowledgement.
    Link { link: LinkKey, ack: Option<u64> },
    /// The shard that forwarded a retained publication to us.
    Forward { from: ShardId, ticket: TicketKey },
    /// Nobody: a Will.
    Nobody,
}

/// A publication that some sessions of this shard have no room for yet.
pub(crate) struct Hold {
    pub(crate) waiting: u32,
    /// Entered as soon as the publication has been offered to everyone.
    pub(crate) then: Option<Then>,
    pub(crate) reason: quelea_mqtt::ReasonCode,
}

/// Who is told when they all have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    /// A publication of this shard.
    Ticket(TicketKey),
    /// A publication of another shard, and its credit.
    Peer { from: ShardId, ticket: TicketKey },
}

/// One core's share of the broker.
pub struct Shard {
    pub(crate) settings: Settings,
    pub(crate) limits: OutboundLimits,
    pub(crate) id: ShardId,
    pub(crate) shards: usize,
    pub(crate) node_seed: u64,
    pub(crate) random: fastrand::Rng,
    pub(crate) keyed: Keyed,
    pub(crate) budget: Budget,
    pub(crate) counters: Counters,

    // Connections.
    pub(crate) links: Slots<LinkKey, Link>,
    pub(crate) doors: OwnMap<DoorId, LinkKey>,
    pub(crate) door_kinds: Vec<door_kinds::KnownKind>,
    /// Byte streams whose TLS handshake waits for its next step.
    pub(crate) handshakes: VecDeque<LinkKey>,
    pub(crate) handshakes_in_flight: usize,
    /// Whose turn it is to go on with a handshake.
    pub(crate) tls_is_next: bool,
    pub(crate) door_scratch: crate::door::Scratch,
    pub(crate) streams: OwnMap<ConnId, LinkKey>,
    pub(crate) quic: Option<Quic>,
    pub(crate) draining: Option<drain::Draining>,
    pub(crate) refusals: Refusals,

    // Sessions.
    pub(crate) sessions: Slots<SessionKey, Session>,
    pub(crate) by_client: KeyedMap<Arc<str>, SessionKey>,
    pub(crate) homes: Home,

    // Routing.
    pub(crate) trie: FilterTrie<Subscriber, crate::session::Subscription>,
    pub(crate) matcher: Matcher,
    pub(crate) interest: Interest,
    pub(crate) announcements: interest::Announcements,
    pub(crate) retained: RetainedStore<Message>,
    pub(crate) retained_sweep: Option<Box<str>>,
    pub(crate) retained_sweep_at: Option<Instant>,
    /// The present pass has met a message that can expire.
    pub(crate) retained_mortal: bool,
    pub(crate) groups: Slots<GroupKey, Group>,
    pub(crate) groups_by_filter: KeyedMap<Arc<str>, GroupKey>,

    // Other shards.
    pub(crate) mailbox: ShardMailbox,
    pub(crate) peers: Vec<Peer>,
    /// Shards whose last reply was more than a turn's work.
    pub(crate) replies_left: usize,
    pub(crate) loopback: VecDeque<Control>,
    /// What that and the tickets are charged with.
    pub(crate) own_charged_bytes: usize,
    pub(crate) tickets: Tickets,
    /// Publications that were settled while another one was: at most one for each ticket.
    pub(crate) settled: VecDeque<publish::Settled>,
    pub(crate) is_settling: bool,
    /// Connections with publications that wait for the other road.
    pub(crate) crossing_links: usize,
    /// Connections whose session waits until their publications are accepted.
    pub(crate) parted_links: usize,
    /// Connections that wait until their QoS 0 publications are accepted.
    pub(crate) throttled_links: usize,
    /// Sessions that move here.
    pub(crate) sessions_arriving: usize,
    pub(crate) holds: Slots<HoldKey, Hold>,

    // Work, counted.
    pub(crate) work: u64,
    /// Where the packets of this turn end.
    pub(crate) input_until: u64,
    pub(crate) yielded_links: work::Yielded,
    pub(crate) pulls: VecDeque<Pull>,
    pub(crate) departed: VecDeque<work::Departed>,

    // Work queued for `settle` and `poll_*`.
    /// Sessions with something to send, the one that was listed first in front.
    pub(crate) ready_sessions: VecDeque<SessionKey>,
    pub(crate) ready_groups: Vec<GroupKey>,
    /// Sessions that end when this turn is settled, because their offline queue was full.
    pub(crate) doomed_sessions: Vec<SessionKey>,
    pub(crate) dirty_links: Vec<LinkKey>,
    /// Connections that may read on, because acknowledgements have left.
    pub(crate) relieved_links: Vec<LinkKey>,
    pub(crate) door_actions: VecDeque<(DoorId, DoorAction)>,
    pub(crate) requests: VecDeque<Request>,
    pub(crate) spares: Spares,
    pub(crate) timers: BinaryHeap<timers::Entry>,
    pub(crate) scratch: Vec<u8>,
    #[cfg(feature = "witness")]
    pub(crate) losses: VecDeque<crate::witness::Loss>,
}

impl Shard {
    /// A shard that serves nobody yet.
    pub fn new(settings: Settings, parts: ShardParts) -> Self {
        assert!(parts.id.index() < parts.shards, "a shard's place is below their number");
        let random = fastrand::Rng::with_seed(parts.seed);
        let keyed = Keyed::new(parts.seed, 1);
        let limits = OutboundLimits {
            messages_max: settings.queue_messages_max,
            bytes_max: settings.queue_bytes_max,
            #[cfg(feature = "mutants")]
            mutant: settings.mutant,
        };
        let peers =
            (0..parts.shards).map(|_| Peer::new(settings.deliver_window, settings.forward_window)).collect();
        let mut shard = Self {
            limits,
            id: parts.id,
            shards: parts.shards,
            node_seed: parts.node_seed,
            keyed,
            budget: Budget::new(),
            counters: Counters::default(),
            links: Slots::new(),
            doors: OwnMap::with_hasher(foldhash::fast::FixedState::with_seed(parts.seed)),
            door_kinds: vec![door_kinds::KnownKind::new(crate::door::DoorKind::PLAIN, keyed)],
            handshakes: VecDeque::new(),
            handshakes_in_flight: 0,
            tls_is_next: false,
            door_scratch: crate::door::Scratch::default(),
            streams: OwnMap::with_hasher(foldhash::fast::FixedState::with_seed(parts.seed)),
            quic: parts.quic,
            draining: None,
            refusals: Refusals::default(),
            sessions: Slots::new(),
            by_client: KeyedMap::with_hasher(keyed),
            homes: Home::new(keyed),
            trie: FilterTrie::new(parts.seed),
            matcher: Matcher::default(),
            interest: Interest::new(parts.node_seed),
            announcements: interest::Announcements::default(),
            retained: RetainedStore::new(quelea_router::RetainedLimits {
                messages_max: settings.retained_messages_max,
                bytes_max: settings.retained_bytes_max,
            }),
            retained_sweep: None,
            retained_sweep_at: None,
            retained_mortal: false,
            groups: Slots::new(),
            groups_by_filter: KeyedMap::with_hasher(keyed),
            mailbox: parts.mailbox,
            peers,
            replies_left: 0,
            loopback: VecDeque::new(),
            own_charged_bytes: 0,
            tickets: Tickets::default(),
            settled: VecDeque::new(),
            is_settling: false,
            crossing_links: 0,
            parted_links: 0,
            throttled_links: 0,
            sessions_arriving: 0,
            holds: Slots::new(),
            work: 0,
            input_until: 0,
            yielded_links: VecDeque::new(),
            pulls: VecDeque::new(),
            departed: VecDeque::new(),
            ready_sessions: VecDeque::new(),
            ready_groups: Vec::new(),
            doomed_sessions: Vec::new(),
            dirty_links: Vec::new(),
            relieved_links: Vec::new(),
            door_actions: VecDeque::new(),
            requests: VecDeque::new(),
            spares: Spares::default(),
            timers: BinaryHeap::new(),
            scratch: Vec::new(),
            #[cfg(feature = "witness")]
            losses: VecDeque::new(),
            random,
            settings,
        };
        shard.grant_input();
        shard
    }

    /// This shard's place.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Carries out what the inputs since the last call have made possible.
    pub fn settle(&mut self, now: Instant) {
        self.forget_departed(work::DEPARTED_WORK);
        self.drain_loopback(now);
        self.serve_pulls(now);
        self.quic_events(now);
        self.resume_relieved(now);
        self.resume_yielded(now);
        self.walk_to_part(now);
        self.end_doomed(now);
        self.pump_groups(now);
        self.pump_sessions(now);
        self.drain_loopback(now);
        self.announce();
        self.write_streams(now);
        self.grant_input();
        let is_full = self.is_full();
        if let Some(quic) = &mut self.quic {
            quic.set_memory_is_full(is_full);
        }
    }

    /// Carries out an operator's order.
    pub fn handle_order(&mut self, now: Instant, order: Order) {
        match order {
            Order::Drain { deadline } => self.drain(now, deadline),
            Order::Tls(tls) => {
                if let Some(quic) = &mut self.quic {
                    quic.set_tls(tls);
                }
            }
        }
    }

    /// A side thread has finished; an answer for a connection that is gone is forgotten.
    pub fn handle_completion(&mut self, now: Instant, id: RequestId, completion: Completion) {
        match completion {
            Completion::Authenticated(verdict) => self.authenticated(now, id.0, verdict),
            Completion::Authorized(verdicts) => self.authorized(now, id.0, &verdicts),
        }
    }

    /// The next piece of work for a side thread.
    pub fn poll_request(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    /// What this shard has counted; gauges are brought up to date.
    pub fn counters(&mut self) -> &Counters {
        let c = &mut self.counters;
        c.links = self.links.len() as u64;
        c.tls_handshakes_in_flight = self.handshakes_in_flight as u64;
        c.sessions = self.sessions.len() as u64;
        c.retained = self.retained.len() as u64;
        c.retained_bytes = self.retained.bytes() as u64;
        c.groups = self.groups.len() as u64;
        c.memory_bytes = self.budget.used_bytes() as u64;
        c.work_units = self.work;
        c.tickets = self.tickets.len() as u64;
        c.parked = self.holds.values().map(|hold| u64::from(hold.waiting)).sum();
        if self.draining.is_some() {
            let sessions = self.sessions.values().map(Session::held);
            let groups = self.groups.values().map(|group| group.members.queued() + group.parked.len());
            c.held_while_draining = sessions.chain(groups).sum::<usize>() as u64;
        }
        c.waiting_credit = self.peers.iter().map(|peer| peer.waiting() as u64).sum();
        c
    }

    /// A client that was refused since this was last asked until it gave `None`: the first of each half, byte streams and
    /// QUIC. How often the driver asks is how often it wants to know.
    pub fn take_refusal(&mut self) -> Option<Refusal> {
        self.refusals.take().or_else(|| self.quic.as_mut()?.take_refusal())
    }

    /// The QUIC half, for its counters.
    pub fn quic(&self) -> Option<&Quic> {
        self.quic.as_ref()
    }

    /// Whether new work is refused because memory is at its ceiling.
    pub(crate) fn is_full(&self) -> bool {
        self.budget.used_bytes() >= self.settings.memory_bytes_max
    }

    /// Every shard but this one.
    pub(crate) fn others(&self) -> impl Iterator<Item = ShardId> + use<> {
        let own = self.id;
        (0..self.shards).map(ShardId::from_index).filter(move |shard| *shard != own)
    }

    pub(crate) fn owner_of_topic(&self, topic: &str) -> ShardId {
        quelea_router::partition(topic, self.node_seed, self.shards)
    }

    pub(crate) fn home_of(&self, client_id: &str) -> ShardId {
        quelea_router::home(client_id, self.node_seed, self.shards)
    }
}
