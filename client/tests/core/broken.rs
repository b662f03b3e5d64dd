//! Two cores with a small broker between them, over connections that deliver in pieces and break: the promise of each QoS holds.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quelea_client::{Acks, Core, Event, Message, Options, Publish, Refusal, Subscribe, Token};
use quelea_mqtt::{
    self as mqtt, Ack, AckKind, ConnAck, Limits, Packet, PacketId, QoS, ReasonCode, Sender, SubAck,
    SubAckKind, TopicName, Version, decode, peek_frame,
};

use crate::scripted::{beginning, options};

/// What a broker keeps of one client: both directions of QoS 1 and 2, and what waits for the connection.
#[derive(Default)]
struct Session {
    /// QoS 2 identifiers received and not released.
    received: BTreeSet<PacketId>,
    /// Sent and not finished, in order; `None` once released.
    sent: Vec<(PacketId, Option<Stored>)>,
    queue: VecDeque<Stored>,
    next_id: u16,
    exists: bool,
}

#[derive(Clone)]
struct Stored {
    qos: QoS,
    payload: Vec<u8>,
}

/// One client, its connection and its session at the broker.
struct Side {
    core: Core,
    session: Session,
    to_broker: Vec<u8>,
    to_client: BytesMut,
    events: Vec<Event>,
}

impl Side {
    fn new(options: Options, seed: u64) -> Self {
        let (to_broker, to_client) = (Vec::new(), BytesMut::new());
        Self {
            core: Core::new(options, seed),
            session: Session::default(),
            to_broker,
            to_client,
            events: Vec::new(),
        }
    }

    /// The connection breaks; what was under way in either direction is lost.
    fn cut(&mut self, now: Instant) {
        self.core.handle_closed(now);
        self.to_broker.clear();
        self.to_client.clear();
        self.drain();
    }

    fn connect(&mut self, now: Instant) {
        self.core.connect(now).expect("detached");
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(bytes) = self.core.poll_output() {
            self.to_broker.extend_from_slice(&bytes);
        }
        self.events.extend(std::iter::from_fn(|| self.core.poll_event()));
    }

    /// A piece of what the broker sent arrives.
    fn deliver(&mut self, now: Instant, rng: &mut fastrand::Rng) {
        let piece = rng.usize(0..=self.to_client.len());
        let bytes = self.to_client.split_to(piece);
        assert_eq!(self.core.handle_bytes(now, &bytes), piece, "the queues are drained after each step");
        self.drain();
    }

    /// A piece of what the client sent arrives; returns what it publishes.
    fn broker_reads(&mut self, version: Version, piece: usize) -> Vec<Stored> {
        let limits = Limits::default();
        let mut published = Vec::new();
        let mut at = 0;
        while let Some(frame) =
            peek_frame(&self.to_broker[at..piece], Sender::Client, &limits).expect("legal")
            && at + frame.packet_bytes <= piece
        {
            let packet = self.to_broker[at..at + frame.packet_bytes].to_vec();
            let packet = decode(&packet, version, Sender::Client, &limits).expect("what a client may send");
            self.broker_takes(version, &packet, &mut published);
            at += frame.packet_bytes;
        }
        self.to_broker.drain(..at);
        published
    }

    fn broker_takes(&mut self, version: Version, packet: &Packet<'_>, published: &mut Vec<Stored>) {
        let (session, out) = (&mut self.session, &mut self.to_client);
        let ack = |kind, id, out: &mut BytesMut| {
            Ack::new(id, ReasonCode::SUCCESS).encode(kind, version, out).expect("expressible");
        };
        match packet {
            Packet::Connect(_) => {
                let connack = ConnAck { session_present: session.exists, ..ConnAck::default() };
                connack.encode(version, out).expect("expressible");
                session.exists = true;
                for (id, stored) in session.sent.clone() {
                    match stored {
                        Some(stored) => send(&stored, id, true, version, out),
                        None => ack(AckKind::PubRel, id, out),
                    }
                }
            }
            Packet::Publish(publish) => {
                let stored = Stored { qos: publish.qos, payload: publish.payload.to_vec() };
                match publish.packet_id {
                    None => published.push(stored),
                    Some(id) if publish.qos == QoS::AtLeastOnce => {
                        published.push(stored);
                        ack(AckKind::PubAck, id, out);
                    }
                    Some(id) => {
                        if session.received.insert(id) {
                            published.push(stored);
                        }
                        ack(AckKind::PubRec, id, out);
                    }
                }
            }
            Packet::PubRel(pubrel) => {
                session.received.remove(&pubrel.packet_id);
                ack(AckKind::PubComp, pubrel.packet_id, out);
            }
            Packet::PubAck(done) | Packet::PubComp(done) => {
                session.sent.retain(|(id, _)| *id != done.packet_id);
            }
            Packet::PubRec(pubrec) => {
                let sent = session.sent.iter_mut().find(|(id, _)| *id == pubrec.packet_id);
                sent.expect("an identifier in flight").1 = None;
                ack(AckKind::PubRel, pubrec.packet_id, out);
            }
            Packet::Subscribe(subscribe) => {
                let granted = [ReasonCode::GRANTED_QOS_2.as_u8()];
                SubAck::new(subscribe.packet_id, &granted)
                    .encode(SubAckKind::SubAck, version, out)
                    .expect("expressible");
            }
            other => panic!("{other:?}"),
        }
    }

    /// The broker sends what waits, at most 8 at a time.
    fn broker_sends(&mut self, version: Version) {
        while self.core.is_connected() && self.session.sent.len() < 8 {
            let Some(stored) = self.session.queue.pop_front() else { return };
            let session = &mut self.session;
            let id = loop {
                session.next_id = session.next_id % 20 + 1;
                let id = PacketId::new(session.next_id).expect("not zero");
                if session.sent.iter().all(|(used, _)| *used != id) {
                    break id;
                }
            };
            send(&stored, id, false, version, &mut self.to_client);
            session.sent.push((id, Some(stored)));
        }
    }
}

fn send(stored: &Stored, id: PacketId, dup: bool, version: Version, out: &mut BytesMut) {
    let topic = TopicName::new("t", 8).expect("legal");
    let packet_id = (stored.qos != QoS::AtMostOnce).then_some(id);
    let publish =
        mqtt::Publish { dup, qos: stored.qos, packet_id, ..mqtt::Publish::new(topic, &stored.payload) };
    publish.encode(version, out).expect("expressible");
}

/// Everything random comes from the seed: a failure is a number.
fn run(seed: u64, version: Version, qos: QoS, acks: Acks) {
    const MESSAGES: u16 = 40;
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut now = beginning();
    let persistent = || Options {
        clean_start: false,
        session_expiry_s: (version == Version::V5).then_some(600),
        keep_alive_s: 0,
        connect_timeout: Duration::from_secs(3600),
        acks,
        ..options(version)
    };
    let mut sender = Side::new(persistent(), seed);
    let mut reader = Side::new(persistent(), seed ^ 1);
    let (mut published, mut seen, mut waiting) = (0_u16, Vec::new(), Vec::<Message>::new());
    let (mut tokens, mut done) = (Vec::<Token>::new(), Vec::<Token>::new());
    for step in 0.. {
        assert!(step < 200_000, "seed {seed}: no progress");
        now += Duration::from_millis(1);
        for side in [&mut sender, &mut reader] {
            if !side.core.is_attached() {
                side.connect(now);
            } else if rng.u32(0..60) == 0 && published < MESSAGES {
                side.cut(now);
            }
            side.deliver(now, &mut rng);
        }
        if published < MESSAGES && sender.core.is_connected() {
            let message = Publish::new("t", published.to_be_bytes().to_vec()).with_qos(qos);
            match sender.core.publish(now, &message) {
                Ok(token) => {
                    tokens.push(token);
                    published += 1;
                }
                Err(refusal) => assert_eq!(refusal, Refusal::Full),
            }
        }
        sender.drain();
        let piece = rng.usize(0..=sender.to_broker.len());
        let arrived = sender.broker_reads(version, piece);
        reader.session.queue.extend(arrived);
        let piece = rng.usize(0..=reader.to_broker.len());
        reader.broker_reads(version, piece);
        reader.broker_sends(version);

        for event in reader.events.drain(..) {
            match event {
                Event::Message(message) if message.ack.is_some() => waiting.push(message),
                Event::Message(message) => seen.push(message),
                Event::Connected { .. } | Event::Disconnected(quelea_client::Closed::Transport) => {}
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        if !waiting.is_empty() && rng.bool() {
            let message = waiting.remove(0);
            // A message whose connection has ended comes again, if it is QoS 1.
            if reader.core.ack(now, message.ack.expect("manual")).is_ok() || qos == QoS::AtLeastOnce {
                seen.push(message);
            }
            reader.drain();
        }
        for event in sender.events.drain(..) {
            match event {
                Event::PublishDone { token, reason: ReasonCode::SUCCESS } => done.push(token),
                Event::Connected { .. } | Event::Disconnected(quelea_client::Closed::Transport) => {}
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        let is_quiet = reader.session.queue.is_empty() && reader.session.sent.is_empty();
        if published == MESSAGES && done.len() == tokens.len() && is_quiet && waiting.is_empty() {
            break;
        }
    }
    done.sort_unstable();
    assert_eq!(done, tokens, "seed {seed}: each publication is done once");
    let mut numbers: Vec<u16> =
        seen.iter().map(|message| u16::from_be_bytes([message.payload[0], message.payload[1]])).collect();
    if qos == QoS::AtLeastOnce {
        // First appearances: in order as well, repetitions aside.
        let mut known = BTreeSet::new();
        numbers.retain(|number| known.insert(*number));
    }
    assert_eq!(numbers, (0..MESSAGES).collect::<Vec<_>>(), "seed {seed}");
}

#[test]
fn qos_2_arrives_exactly_once_and_in_order() {
    for seed in 0..150 {
        for version in [Version::V311, Version::V5] {
            run(seed, version, QoS::ExactlyOnce, Acks::Automatic);
            run(seed, version, QoS::ExactlyOnce, Acks::Manual);
        }
    }
}

#[test]
fn qos_1_arrives_at_least_once_and_in_order() {
    for seed in 0..150 {
        for version in [Version::V311, Version::V5] {
            run(seed, version, QoS::AtLeastOnce, Acks::Automatic);
            run(seed, version, QoS::AtLeastOnce, Acks::Manual);
        }
    }
}

#[test]
fn a_subscription_that_is_cut_off_is_reported_lost() {
    for seed in 0..50 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let now = beginning();
        let mut side = Side::new(options(Version::V311), seed);
        side.connect(now);
        while !side.core.is_connected() {
            let all = side.to_broker.len();
            side.broker_reads(Version::V311, all);
            side.deliver(now, &mut rng);
        }
        let token = side.core.subscribe(now, &Subscribe::new("t", QoS::AtMostOnce)).expect("room");
        side.drain();
        let piece = rng.usize(0..=side.to_broker.len());
        side.broker_reads(Version::V311, piece);
        side.deliver(now, &mut rng);
        side.cut(now);
        let ends = side.events.iter().filter(|event| match event {
            Event::Lost { token: lost } => *lost == token,
            Event::Subscribed { token: answered, .. } => *answered == token,
            _ => false,
        });
        assert_eq!(ends.count(), 1, "seed {seed}");
    }
}
