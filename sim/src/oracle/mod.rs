//! The model broker: it hears what clients send and see, and judges whether every promise was kept.
//!
//! It knows nothing of shards. What it holds the broker to, at once:
//! * nobody gets what it did not subscribe to, or its own message against No Local; QoS and subscription identifiers are
//!   those of its subscriptions;
//! * QoS 0 at most once, QoS 2 once; a QoS 1 message comes again only marked as a duplicate (or because its publisher
//!   repeated it);
//! * one publisher's messages on one topic come in their order, and no older retained value after a newer one;
//! * a session that was to be kept is there.
//!
//! Most messages carry the name of their publication; what can be said of those that have none stands in `nameless.rs`.
//!
//! And when all is quiet ([`Oracle::settle`]): every acknowledged publication has reached everyone whose SUBACK was seen
//! before it was sent; Wills have fired exactly when they must; what is retained is the last acknowledged value.
//! A message that is missing was lost: the broker must have said so, for this message and this receiver, with the reason.

mod books;
mod deliveries;
mod limits;
mod losses;
mod nameless;
mod settle;
#[cfg(test)]
mod tests;
mod wills;

use std::collections::BTreeMap;
use std::time::Instant;

use quelea_client::{Subscription as Asked, Text};
use quelea_mqtt::{QoS, ReasonCode, SubscribeFilter, TopicFilter, TopicName};

pub(crate) use books::Books;
pub(crate) use deliveries::{payload, properties};
pub(crate) use wills::{Delayed, Firings};

use losses::Losses;
use nameless::Nameless;

use crate::limits::Limits;

/// One publication: a client's, or a Will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PubId(pub(crate) u64);

/// What a client sends.
#[derive(Clone, Debug)]
pub(crate) struct Publication {
    pub(crate) actor: usize,
    /// The connection of its publisher on which it was sent first.
    pub(crate) connection: u32,
    /// The session of its publisher then, counted.
    pub(crate) session: u32,
    pub(crate) topic: Text,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) payload_bytes: usize,
    /// It has no payload, which would carry its name, and its publisher speaks MQTT 3, which has no other place for one.
    pub(crate) nameless: bool,
    pub(crate) sent: Instant,
    /// Acknowledged to the end, with this reason.
    pub(crate) done: Option<(Instant, ReasonCode)>,
    /// Its publisher lost its connection before it was acknowledged, and has sent it again if it could.
    pub(crate) repeated: bool,
    /// Its Message Expiry Interval: it may be dropped because of its age.
    pub(crate) expiry_s: Option<u32>,
    pub(crate) will: Option<Firings>,
}

impl Publication {
    /// The broker said that it has it.
    pub(crate) fn is_accepted(&self) -> bool {
        self.done.is_some_and(|(_, reason)| !reason.is_error())
    }
}

/// One SUBSCRIBE of one filter.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(crate) actor: usize,
    pub(crate) session: u32,
    pub(crate) asked: Asked,
    /// Its Subscription Identifier; clients of MQTT 3 have none.
    pub(crate) id: Option<u32>,
    /// SUBSCRIBE was sent.
    pub(crate) sent: Instant,
    /// SUBACK was seen.
    pub(crate) granted: Option<Instant>,
    /// UNSUBSCRIBE, or another SUBSCRIBE of the same filter, was sent.
    pub(crate) closing: bool,
    /// Its answer was seen, or the session has ended.
    pub(crate) closed: Option<Instant>,
    /// Filters that may have counted beside it when it came to the broker.
    rivals: usize,
    /// For each of the oracle's topics, whether the filter matches it.
    matches: Vec<bool>,
    shared: bool,
}

impl Subscription {
    fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whether it can tell which publication a message is.
    fn names(&self, published: &Publication) -> bool {
        published.payload_bytes > 0 || self.id.is_some() && !published.nameless
    }

    /// Whether it was there when this was published, and is there unchanged.
    fn surely_matched(&self, published: &Publication) -> bool {
        let own = self.asked.options.no_local && published.actor == self.actor;
        let since = self.granted.is_some_and(|granted| granted < published.sent);
        since && published.will.is_none() && !self.closing && self.closed.is_none() && !own
    }
}

fn parsed(filter: &Text) -> SubscribeFilter<'_> {
    SubscribeFilter::parse(filter, usize::MAX).expect("filters of the profile are filters")
}

fn matches(filter: &Text, topic: &Text) -> bool {
    let topic = TopicName::new(topic, usize::MAX).expect("topics of the profile are topics");
    TopicFilter::matches(parsed(filter).filter, topic)
}

/// What the oracle knows of one client.
#[derive(Clone, Debug, Default)]
struct Client {
    /// Counts sessions: everything a client has received counts for one of them.
    session: u32,
    /// Whether the session outlives connections.
    persistent: bool,
    /// Whether CONNACK was seen in this session.
    known: bool,
    /// Whether the session may have expired by now.
    may_expire: bool,
    /// Connections so far.
    connections: u32,
    /// When the present connection's CONNECT was sent.
    connecting: Option<Instant>,
    /// When its CONNACK was seen.
    connected: Option<Instant>,
    /// The Will of a connection that was lost, while its delay may still pass.
    delayed: Option<Delayed>,
    /// Subscriptions of sessions that the client has ended, and the broker may not have heard of it.
    ending: Vec<usize>,
}

/// How often a publication came to one session, or to one shared group.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    any: u32,
    live: u32,
    live_first: u32,
}

/// The model.
pub(crate) struct Oracle {
    publications: Vec<Publication>,
    subscriptions: Vec<Subscription>,
    clients: Vec<Client>,
    /// The number of each publication's topic among `topics`.
    topic_of: Vec<usize>,
    /// How often the publisher of each publication may have sent it again.
    repeats: Vec<u32>,
    /// When a client saw each publication first.
    first_seen: Vec<Option<Instant>>,
    topics: Vec<Text>,
    /// By client: the subscriptions of its present session.
    present: Vec<Vec<usize>>,
    /// By client and session, then by publication.
    seen: BTreeMap<(usize, u32), Vec<Seen>>,
    seen_by_group: BTreeMap<(Text, PubId), Seen>,
    last_in_order: BTreeMap<OrderOf, PubId>,
    last_retained: BTreeMap<(usize, u32, Text, QoS), PubId>,
    /// What came without a name.
    nameless: Nameless,
    losses: Losses,
    /// Messages that clients have seen, without those that were marked as duplicates.
    first_deliveries: u64,
    /// Limits that may be reached.
    limits: Limits,
    verdict: Option<String>,
}

/// Within one of these, messages come as they were sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct OrderOf {
    receiver: usize,
    session: u32,
    sender: usize,
    topic: Text,
    sent_as: QoS,
    received_as: QoS,
}

impl Oracle {
    pub(crate) fn new(clients: usize, limits: Limits) -> Self {
        Self {
            publications: Vec::new(),
            subscriptions: Vec::new(),
            clients: vec![Client::default(); clients],
            topic_of: Vec::new(),
            repeats: Vec::new(),
            first_seen: Vec::new(),
            topics: Vec::new(),
            present: vec![Vec::new(); clients],
            seen: BTreeMap::new(),
            seen_by_group: BTreeMap::new(),
            last_in_order: BTreeMap::new(),
            last_retained: BTreeMap::new(),
            nameless: Nameless::default(),
            losses: Losses::default(),
            first_deliveries: 0,
            limits,
            verdict: None,
        }
    }

    /// What the broker did wrong first.
    pub(crate) fn verdict(&self) -> Option<&str> {
        self.verdict.as_deref()
    }

    /// The broker has done wrong.
    pub(crate) fn accuse(&mut self, what: impl Into<String>) {
        self.verdict.get_or_insert(what.into());
    }

    /// The number of the next publication, to be written into its payload.
    pub(crate) fn next_publication(&self) -> PubId {
        PubId(self.publications.len() as u64)
    }

    /// A publication was handed to a client core, or a Will to a CONNECT.
    pub(crate) fn on_published(&mut self, publication: Publication) -> PubId {
        let id = self.next_publication();
        let known = self.topics.iter().position(|topic| *topic == publication.topic);
        let number = known.unwrap_or_else(|| {
            for subscription in &mut self.subscriptions {
                subscription.matches.push(matches(&subscription.asked.filter, &publication.topic));
            }
            self.topics.push(publication.topic.clone());
            self.topics.len() - 1
        });
        self.topic_of.push(number);
        self.repeats.push(0);
        self.first_seen.push(None);
        self.publications.push(publication);
        id
    }

    /// The number of a client's present session.
    pub(crate) fn session(&self, actor: usize) -> u32 {
        self.clients[actor].session
    }

    pub(crate) fn on_publish_done(&mut self, id: PubId, now: Instant, reason: ReasonCode) {
        self.publications[id.0 as usize].done = Some((now, reason));
    }

    /// Its publisher's connection ended before its acknowledgement.
    pub(crate) fn on_repeated(&mut self, id: PubId) {
        self.publications[id.0 as usize].repeated = true;
        self.repeats[id.0 as usize] += 1;
    }

    /// What a publication was.
    pub(crate) fn publication(&self, id: PubId) -> &Publication {
        &self.publications[id.0 as usize]
    }

    /// A CONNECT is sent.
    pub(crate) fn on_connect(&mut self, actor: usize, now: Instant, clean: bool, persistent: bool) {
        self.will_at_connect(actor, now, clean);
        if clean {
            self.end_session(actor);
        }
        let client = &mut self.clients[actor];
        client.persistent = persistent;
        client.connections += 1;
        client.connecting = Some(now);
        client.connected = None;
    }

    /// Time enough may have passed for a session to expire.
    pub(crate) fn on_may_expire(&mut self, actor: usize) {
        self.clients[actor].may_expire = true;
    }

    /// CONNACK.
    pub(crate) fn on_connected(&mut self, actor: usize, now: Instant, session_present: bool) {
        self.clients[actor].connected = Some(now);
        self.will_at_connack(actor, now, session_present);
        self.open_session(actor, session_present);
        for number in core::mem::take(&mut self.clients[actor].ending) {
            self.subscriptions[number].closed.get_or_insert(now);
        }
    }

    fn open_session(&mut self, actor: usize, session_present: bool) {
        let client = &mut self.clients[actor];
        let expected = client.known && client.persistent && !client.may_expire;
        client.may_expire = false;
        if session_present {
            client.known = true;
            return;
        }
        if expected {
            self.accuse(format!("the session of client {actor} is gone"));
        }
        if self.clients[actor].known {
            self.end_session(actor);
        }
        self.clients[actor].known = true;
    }

    fn end_session(&mut self, actor: usize) {
        let client = &mut self.clients[actor];
        let session = client.session;
        client.session += 1;
        client.known = false;
        for number in self.present[actor].drain(..) {
            debug_assert_eq!(self.subscriptions[number].session, session);
            client.ending.push(number);
        }
    }

    /// The number of a client's present session, if the client has seen that it is there.
    fn known_session(&self, actor: usize) -> Option<u32> {
        self.clients.get(actor).filter(|client| client.known).map(|client| client.session)
    }

    /// How often a publication came to a session.
    fn seen(&self, actor: usize, session: u32, id: usize) -> Seen {
        self.seen.get(&(actor, session)).and_then(|seen| seen.get(id)).copied().unwrap_or_default()
    }

    /// SUBSCRIBE is sent: its number.
    pub(crate) fn on_subscribe(
        &mut self,
        actor: usize,
        now: Instant,
        asked: Asked,
        id: Option<u32>,
    ) -> usize {
        self.close_filter(actor, &asked.filter);
        let session = self.clients[actor].session;
        let rivals = self.rivals(actor, &asked.filter);
        self.present[actor].push(self.subscriptions.len());
        let matches = self.topics.iter().map(|topic| matches(&asked.filter, topic)).collect();
        self.subscriptions.push(Subscription {
            actor,
            session,
            shared: parsed(&asked.filter).is_shared(),
            asked,
            id,
            sent: now,
            granted: None,
            closing: false,
            closed: None,
            rivals,
            matches,
        });
        self.subscriptions.len() - 1
    }

    /// SUBACK.
    pub(crate) fn on_suback(&mut self, number: usize, now: Instant, reason: ReasonCode) {
        let subscription = &mut self.subscriptions[number];
        if reason.is_error() {
            subscription.closed.get_or_insert(now);
            return self.judge_refused_subscription(number, reason);
        }
        let asked = subscription.asked.options.qos.min(self.limits.qos.unwrap_or(QoS::ExactlyOnce));
        subscription.granted = Some(now);
        let (actor, filter) = (subscription.actor, subscription.asked.filter.clone());
        if reason.as_u8() != asked.as_u8() {
            self.accuse(format!("client {actor} asked for {filter} with {asked:?} and got {reason}"));
        }
        self.answered(actor, &filter, number, now);
    }

    /// UNSUBSCRIBE is sent: filters asked for so far are closing.
    pub(crate) fn on_unsubscribe(&mut self, actor: usize, filter: &Text) -> usize {
        self.close_filter(actor, filter);
        self.subscriptions.len()
    }

    /// UNSUBACK of what [`Self::on_unsubscribe`] numbered.
    pub(crate) fn on_unsuback(&mut self, actor: usize, filter: &Text, number: usize, now: Instant) {
        self.answered(actor, filter, number, now);
    }

    fn close_filter(&mut self, actor: usize, filter: &Text) {
        let session = self.clients[actor].session;
        for older in &mut self.subscriptions {
            if older.actor == actor && older.session == session && older.asked.filter == *filter {
                older.closing = true;
            }
        }
    }

    fn answered(&mut self, actor: usize, filter: &Text, number: usize, now: Instant) {
        let session = self.clients[actor].session;
        for older in &mut self.subscriptions[..number] {
            if older.actor == actor && older.session == session && older.asked.filter == *filter {
                older.closed.get_or_insert(now);
            }
        }
    }

    /// Filters that a client has asked for and not given up, in its present session.
    pub(crate) fn open_filters(&self, actor: usize) -> Vec<Text> {
        let session = self.clients[actor].session;
        self.subscriptions
            .iter()
            .filter(|sub| {
                sub.actor == actor && sub.session == session && !sub.closing && sub.closed.is_none()
            })
            .map(|sub| sub.asked.filter.clone())
            .collect()
    }
}
