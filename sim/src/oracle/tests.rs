//! Made-up histories: what the oracle finds in them, and that it finds nothing where nothing is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quelea_client::{Message, Properties, Subscription, Text};
use quelea_mqtt::{QoS, ReasonCode, SubscriptionOptions};
use quelea_shard::counters::Counters;
use quelea_shard::witness::{Loser, Loss, Why};

use super::{Books, Oracle, PubId, Publication, payload, properties};

/// A broker and its clients, of whom nothing is there but what the oracle hears of them.
struct History {
    oracle: Oracle,
    now: Instant,
    /// As a broker without fault would have it.
    counters: Counters,
    connections: [u32; CLIENTS],
    retained: BTreeMap<Text, PubId>,
}

/// How a message comes to a client.
#[derive(Clone)]
struct Comes {
    qos: QoS,
    dup: bool,
    retain: bool,
    /// With what its publisher has written beside the payload.
    named: bool,
    ids: Vec<u32>,
}

impl Comes {
    /// To a client of MQTT 5 with one subscription.
    fn for_id(id: u32) -> Self {
        Self { qos: QoS::AtLeastOnce, dup: false, retain: false, named: true, ids: vec![id] }
    }

    /// To a client of MQTT 3.
    fn plain() -> Self {
        Self { named: false, ids: Vec::new(), ..Self::for_id(0) }
    }
}

impl History {
    /// The watcher and three clients are connected.
    #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
    fn new() -> Self {
        let mut history = Self {
            oracle: Oracle::new(CLIENTS, crate::limits::Limits::default()),
            now: Instant::now(),
            counters: Counters::default(),
            connections: [0; CLIENTS],
            retained: BTreeMap::new(),
        };
        (0..CLIENTS).for_each(|actor| history.connects(actor));
        history
    }

    fn later(&mut self) -> Instant {
        self.now += Duration::from_millis(1);
        self.now
    }

    fn connects(&mut self, actor: usize) {
        let (now, session_present) = (self.later(), self.connections[actor] > 0);
        self.oracle.on_connect(actor, now, false, true);
        self.oracle.on_connected(actor, now, session_present);
        self.connections[actor] += 1;
    }

    fn subscribes(&mut self, actor: usize, filter: &str, id: Option<u32>) {
        let asked =
            Subscription { filter: filter.into(), options: SubscriptionOptions::with_qos(QoS::ExactlyOnce) };
        let sent = self.later();
        let number = self.oracle.on_subscribe(actor, sent, asked, id);
        let now = self.later();
        self.oracle.on_suback(number, now, ReasonCode::GRANTED_QOS_2);
    }

    /// A publication with RETAIN that is not acknowledged yet.
    fn sends(&mut self, actor: usize, qos: QoS, payload_bytes: usize) -> PubId {
        self.counters.publishes_received += 1;
        let sent = self.later();
        self.oracle.on_published(Publication {
            actor,
            connection: self.connections[actor],
            session: self.oracle.session(actor),
            topic: TOPIC.into(),
            qos,
            retain: true,
            payload_bytes,
            nameless: payload_bytes == 0 && actor == V3,
            sent,
            done: None,
            repeated: false,
            expiry_s: None,
            will: None,
        })
    }

    fn is_done(&mut self, id: PubId) {
        let now = self.later();
        self.oracle.on_publish_done(id, now, ReasonCode::SUCCESS);
    }

    fn publishes(&mut self, actor: usize, payload_bytes: usize) -> PubId {
        let id = self.sends(actor, QoS::AtLeastOnce, payload_bytes);
        self.is_done(id);
        id
    }

    fn gets(&mut self, actor: usize, id: PubId, comes: &Comes) {
        self.counters.messages_matched += u64::from(!comes.dup);
        self.counters.publishes_sent += u64::from(!comes.dup);
        let bytes = self.oracle.publication(id).payload_bytes;
        let message = Message {
            topic: TOPIC.into(),
            payload: if bytes > 0 { payload(id, bytes).into() } else { Vec::new().into() },
            qos: comes.qos,
            retain: comes.retain,
            dup: comes.dup,
            packet_id: None,
            ack: None,
            subscription_ids: comes.ids.iter().copied().collect(),
            properties: comes.named.then(|| Box::new(properties(id, bytes))),
        };
        self.comes(actor, &message);
    }

    fn comes(&mut self, actor: usize, message: &Message) {
        let now = self.later();
        self.oracle.on_message(actor, now, message);
    }

    fn is_lost(&mut self, actor: usize, name: Option<PubId>) {
        self.counters.messages_matched += 1;
        self.counters.dropped_slow += 1;
        let whose = Loser::Session(Arc::from(format!("client-{actor}")));
        let payload = name.map(|id| id.0.to_be_bytes());
        self.oracle.on_loss(&Loss { whose, why: Why::Slow, payload });
    }

    fn settles(&mut self) -> Option<&str> {
        let books = Books { counters: self.counters.clone() };
        self.oracle.settle(0, &books, &self.retained);
        self.oracle.verdict()
    }

    #[track_caller]
    fn finds_nothing(mut self) {
        assert_eq!(self.settles(), None);
    }

    #[track_caller]
    fn finds(mut self, what: &str) {
        let verdict = self.settles().unwrap_or("nothing is wrong");
        assert!(verdict.contains(what), "{verdict}");
    }
}

// ---- What has no payload.

/// A subscriber of MQTT 5, one of MQTT 3, and something to clear; whose clear it is depends on the publisher.
fn before_a_clear() -> History {
    let mut history = History::new();
    history.subscribes(V5, TOPIC, Some(7));
    history.subscribes(V3, TOPIC, None);
    history
}

#[test]
fn empty_publications_that_come_as_they_must_are_right() {
    let mut history = before_a_clear();
    for publisher in [PUBLISHER, V3] {
        let id = history.publishes(publisher, 0);
        history.gets(V5, id, &Comes { named: publisher == PUBLISHER, ..Comes::for_id(7) });
        history.gets(V3, id, &Comes::plain());
        history.gets(V3, id, &Comes { dup: true, ..Comes::plain() });
    }
    history.finds_nothing();
}

#[test]
fn an_empty_publication_that_never_comes_is_missed_by_name() {
    let mut history = before_a_clear();
    let id = history.publishes(PUBLISHER, 0);
    history.gets(V3, id, &Comes::plain());
    history.finds("publication 0 by client 3 never came to client 1");
}

#[test]
fn an_empty_publication_that_never_comes_is_missed_by_number() {
    let mut history = before_a_clear();
    for _ in 0..2 {
        let id = history.publishes(PUBLISHER, 0);
        history.gets(V5, id, &Comes::for_id(7));
    }
    history.gets(V3, PubId(0), &Comes::plain());
    history.finds("empty publications never came");
}

#[test]
fn an_empty_publication_that_the_broker_tells_as_lost_is_not_missed() {
    let mut history = before_a_clear();
    history.publishes(PUBLISHER, 0);
    history.is_lost(V5, Some(PubId(0)));
    history.is_lost(V3, Some(PubId(0)));
    history.publishes(V3, 0);
    history.is_lost(V5, None);
    history.is_lost(V3, None);
    history.finds_nothing();
}

#[test]
fn an_empty_publication_that_comes_twice_is_found_with_and_without_its_name() {
    for (receiver, comes, what) in
        [(V5, Comes::for_id(7), "time 2"), (V3, Comes::plain(), "2 of at least AtLeastOnce came, and 1 may")]
    {
        let mut history = before_a_clear();
        let id = history.publishes(PUBLISHER, 0);
        history.gets(receiver, id, &comes);
        history.gets(receiver, id, &comes);
        history.finds(what);
    }
}

#[test]
fn an_empty_publication_comes_to_nobody_who_did_not_ask_for_it() {
    let mut history = History::new();
    history.subscribes(V3, "another/topic", None);
    let id = history.publishes(PUBLISHER, 0);
    history.gets(V3, id, &Comes::plain());
    history.finds("no subscription asked for it");

    let mut history = before_a_clear();
    let id = history.publishes(PUBLISHER, 0);
    history.gets(V5, id, &Comes::for_id(8));
    history.finds("no subscription asked for it");
}

#[test]
fn an_empty_publication_comes_at_no_higher_qos() {
    let mut history = before_a_clear();
    let id = history.publishes(PUBLISHER, 0);
    history.gets(V3, id, &Comes { qos: QoS::ExactlyOnce, ..Comes::plain() });
    history.finds("ExactlyOnce where AtLeastOnce was due");
}

#[test]
fn nothing_empty_comes_as_if_it_were_retained() {
    let mut history = before_a_clear();
    let id = history.publishes(PUBLISHER, 0);
    history.gets(V3, id, &Comes { retain: true, ..Comes::plain() });
    history.finds("it is empty, and comes as if it were retained");
}

#[test]
fn nothing_empty_comes_to_who_asks_later() {
    let mut history = History::new();
    let id = history.publishes(PUBLISHER, 0);
    history.subscribes(V5, TOPIC, Some(7));
    history.gets(V5, id, &Comes::for_id(7));
    history.finds("it is empty, and was acknowledged before anybody asked for it");
}

#[test]
fn empty_publications_come_in_their_order() {
    let mut history = before_a_clear();
    let [first, second] = [0, 20].map(|bytes| history.publishes(PUBLISHER, bytes));
    history.gets(V5, second, &Comes::for_id(7));
    history.gets(V5, first, &Comes::for_id(7));
    history.finds("after publication 1, which was sent later");
}

#[test]
fn properties_come_as_they_were_sent() {
    let mut history = before_a_clear();
    let id = history.publishes(PUBLISHER, 0);
    let mut changed = properties(id, 0);
    changed.user_properties.reverse();
    let message = Message {
        topic: TOPIC.into(),
        payload: Vec::new().into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        dup: false,
        packet_id: None,
        ack: None,
        subscription_ids: [7].into_iter().collect(),
        properties: Some(Box::new(changed)),
    };
    history.comes(V5, &message);
    history.finds("and was sent with");

    let mut history = before_a_clear();
    let id = history.publishes(PUBLISHER, 0);
    let changed = Properties { content_type: Some("text".into()), ..Properties::default() };
    let message =
        Message { subscription_ids: Vec::new().into(), properties: Some(Box::new(changed)), ..message };
    history.comes(V3, &message);
    assert_eq!(id, PubId(0));
    history.finds("it has no name, and comes with");
}

// ---- What is retained.

impl History {
    /// The broker retains it when all is quiet.
    fn retains(&mut self, id: PubId) {
        self.retained.insert(TOPIC.into(), id);
    }
}

#[test]
fn the_last_acknowledged_value_is_retained() {
    let mut history = History::new();
    history.publishes(PUBLISHER, 20);
    let last = history.publishes(V5, 20);
    history.retains(last);
    history.finds_nothing();
}

#[test]
fn a_value_without_acknowledgement_may_have_come_last() {
    let mut history = History::new();
    let unsure = history.sends(PUBLISHER, QoS::AtMostOnce, 20);
    history.publishes(V5, 20);
    history.retains(unsure);
    history.finds_nothing();
}

#[test]
fn a_value_of_qos_0_does_not_stand_over_what_came_behind_it() {
    let mut history = History::new();
    let stale = history.sends(PUBLISHER, QoS::AtMostOnce, 20);
    history.publishes(PUBLISHER, 20);
    history.retains(stale);
    history.finds("which was replaced; the newest acknowledged is publication 1");
}

#[test]
fn a_value_of_qos_0_that_was_seen_does_not_stand_over_what_was_sent_later() {
    let mut history = History::new();
    history.subscribes(V3, TOPIC, None);
    let stale = history.sends(PUBLISHER, QoS::AtMostOnce, 20);
    history.gets(V3, stale, &Comes { qos: QoS::AtMostOnce, ..Comes::plain() });
    let last = history.publishes(V5, 20);
    history.gets(V3, last, &Comes::plain());
    history.retains(stale);
    history.finds("which was replaced; the newest acknowledged is publication 1");
}

#[test]
fn a_repeated_value_does_not_stand_over_what_was_sent_after_its_acknowledgement() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut history = History::new();
        let stale = history.sends(PUBLISHER, qos, 20);
        history.connects(PUBLISHER);
        history.oracle.on_repeated(stale);
        history.is_done(stale);
        history.publishes(V5, 20);
        history.retains(stale);
        history.finds("which was replaced; the newest acknowledged is publication 1");
    }
}

#[test]
fn what_was_cleared_at_qos_0_before_is_no_excuse() {
    let mut history = History::new();
    history.sends(PUBLISHER, QoS::AtMostOnce, 0);
    history.publishes(PUBLISHER, 20);
    history.finds("nothing is retained on t/1, where publication 1 was acknowledged");
}

#[test]
fn an_older_value_of_qos_0_does_not_come_after_a_newer_one() {
    let mut history = History::new();
    history.subscribes(V5, TOPIC, Some(7));
    history.subscribes(V3, TOPIC, None);
    let older = history.sends(PUBLISHER, QoS::AtMostOnce, 20);
    history.gets(V3, older, &Comes { qos: QoS::AtMostOnce, ..Comes::plain() });
    let newer = history.sends(V5, QoS::AtMostOnce, 20);
    let comes = Comes { qos: QoS::AtMostOnce, ..Comes::for_id(7) };
    history.gets(V5, newer, &comes);
    history.gets(V5, older, &comes);
    history.finds("an older retained value after the newer publication 1");
}

#[test]
fn retained_bytes_are_those_of_the_values_and_little_more() {
    let mut history = History::new();
    let id = history.publishes(PUBLISHER, 1_000);
    let found = BTreeMap::from([(Text::from(TOPIC), id)]);
    let possible = history.oracle.bytes_retained(&found);
    assert!(!possible.contains(&1_002), "topic and payload alone are {possible:?}");
    assert!(possible.contains(&1_003));
    assert!(!possible.contains(&(2 * 1_003)), "two values are charged for one: {possible:?}");
    assert!(!history.oracle.bytes_retained(&BTreeMap::new()).contains(&1));
}

// ---- The books.

/// Two publications that came to their subscriber, and a shared subscription that nothing came for.
fn with_a_group() -> History {
    let mut history = History::new();
    history.subscribes(V3, TOPIC, None);
    history.subscribes(V5, "$share/group/another/topic", Some(7));
    for _ in 0..2 {
        let id = history.publishes(PUBLISHER, 20);
        history.gets(V3, id, &Comes::plain());
        history.retains(id);
    }
    history
}

#[test]
fn what_a_member_gives_back_may_go_twice_and_nothing_else() {
    with_a_group().finds_nothing();

    let mut history = with_a_group();
    history.counters.messages_matched -= 1;
    history.finds("the books: 1 messages matched, 2 sent, dropped or expired");

    let mut history = with_a_group();
    history.counters.messages_matched -= 1;
    history.counters.group_given_back += 1;
    history.finds_nothing();

    let mut history = with_a_group();
    history.counters.dropped_session_end += 1;
    history.counters.messages_matched += 2;
    history.finds("the books: 4 messages matched, 3 sent, dropped or expired");
}

#[test]
fn nothing_is_received_more_often_than_it_was_sent() {
    let mut history = History::new();
    let id = history.sends(PUBLISHER, QoS::AtLeastOnce, 20);
    history.connects(PUBLISHER);
    history.oracle.on_repeated(id);
    history.is_done(id);
    history.retains(id);
    history.counters.publishes_received = 2;
    assert_eq!(history.settles(), None);
    history.counters.publishes_received = 3;
    history.finds("the books: 1 to 2 publications were received");
}

#[test]
fn what_a_client_has_seen_was_received() {
    let mut history = History::new();
    history.subscribes(V3, TOPIC, None);
    let id = history.sends(PUBLISHER, QoS::AtMostOnce, 20);
    history.gets(V3, id, &Comes { qos: QoS::AtMostOnce, ..Comes::plain() });
    history.counters.publishes_received = 0;
    history.finds("the books: 1 to 1 publications were received");
}

#[test]
fn what_was_sent_came_or_was_lost_with_a_connection() {
    let mut history = History::new();
    history.subscribes(V3, TOPIC, None);
    let id = history.publishes(PUBLISHER, 20);
    history.gets(V3, id, &Comes::plain());
    history.retains(id);
    history.counters.publishes_sent += 1;
    history.counters.messages_matched += 1;
    history.finds("the books: 1 to 1 messages came to clients for the first time");

    let mut history = History::new();
    history.subscribes(V3, TOPIC, None);
    let id = history.publishes(PUBLISHER, 20);
    history.counters.publishes_sent += 1;
    history.counters.messages_matched += 1;
    history.connects(V3);
    history.gets(V3, id, &Comes { dup: true, ..Comes::plain() });
    history.retains(id);
    history.finds_nothing();
}

const CLIENTS: usize = 4;

/// Who subscribes with MQTT 5, and who with MQTT 3.
const V5: usize = 1;
const V3: usize = 2;

/// Who publishes, with MQTT 5.
const PUBLISHER: usize = 3;

const TOPIC: &str = "t/1";
