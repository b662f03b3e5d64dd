//! A test bed: a few shards in one thread, byte streams in memory, a clock that only the test moves.

use core::num::NonZeroU32;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quelea_mqtt::{
    Ack, AckKind, Connect, Disconnect, Limits, Packet, PacketId, Publish, QoS, RequestedSubscription, Sender,
    Subscribe, SubscribeFilter, SubscriptionOptions, Unsubscribe, Version,
};
use quelea_router::{MeshConfig, ShardId};
use quelea_shard::door::DoorKindId;
use quelea_shard::{Completion, DoorAction, DoorEnd, DoorId, Permissions, Settings, Shard, ShardParts, Work};

/// A client's end of a byte stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Client {
    pub(crate) shard: usize,
    pub(crate) door: u64,
}

/// What the bed knows of one byte stream.
#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) received: BytesMut,
    pub(crate) unwritten: VecDeque<usize>,
    pub(crate) stalled: bool,
    pub(crate) finished: bool,
    pub(crate) aborted: bool,
    /// The shard wants no more input from it for now.
    pub(crate) paused: bool,
    pub(crate) version: Option<Version>,
}

pub(crate) struct Bed {
    pub(crate) now: Instant,
    pub(crate) shards: Vec<Shard>,
    pub(crate) wires: BTreeMap<Client, Wire>,
    /// Answers what a side thread would.
    pub(crate) policy: fn(&Work) -> Completion,
    next_door: u64,
}

impl Bed {
    pub(crate) fn new(shards: usize) -> Self {
        Self::with(shards, &Settings::default())
    }

    pub(crate) fn with(shards: usize, settings: &Settings) -> Self {
        let mesh = MeshConfig {
            replies: 4,
            control: 8,
            forward: settings.forward_window as usize,
            deliver: settings.deliver_window as usize,
        };
        Self::with_mesh(shards, settings, mesh)
    }

    pub(crate) fn with_mesh(shards: usize, settings: &Settings, mesh: MeshConfig) -> Self {
        let shards = quelea_router::mesh(shards, mesh)
            .into_iter()
            .enumerate()
            .map(|(index, mailbox)| {
                let parts = ShardParts {
                    id: ShardId::from_index(index),
                    shards: mailbox.shards(),
                    node_seed: 7,
                    seed: index as u64,
                    mailbox,
                    quic: None,
                };
                Shard::new(settings.clone(), parts)
            })
            .collect();
        Self { now: start(), shards, wires: BTreeMap::new(), policy: anonymous, next_door: 0 }
    }

    /// Opens a byte stream.
    pub(crate) fn open(&mut self, shard: usize) -> Client {
        self.next_door += 1;
        let client = Client { shard, door: self.next_door };
        self.wires.insert(client, Wire::default());
        let peer = SocketAddr::from(([127, 0, 0, 1], 40_000));
        self.shards[shard].handle_door_opened(self.now, DoorId(client.door), peer, DoorKindId::PLAIN);
        client
    }

    /// Opens a byte stream and sends a CONNECT; what comes back is left to the test.
    pub(crate) fn connect(&mut self, shard: usize, connect: &Connect<'_>) -> Client {
        let client = self.open(shard);
        self.wires.get_mut(&client).expect("just opened").version = Some(connect.version);
        let mut bytes = BytesMut::new();
        connect.encode(connect.version, &mut bytes).expect("encodes");
        self.send(client, &bytes);
        client
    }

    /// Connects an MQTT 5 client, clean start, and takes its CONNACK.
    pub(crate) fn client(&mut self, shard: usize, id: &str) -> Client {
        let client = self.connect(shard, &v5(id));
        let said = self.take(client);
        assert!(said[0].starts_with("CONNACK 0x00"), "{said:?}");
        client
    }

    pub(crate) fn version(&self, client: Client) -> Version {
        self.wires[&client].version.unwrap_or(Version::V5)
    }

    /// Sends bytes, and lets everything that follows from them happen.
    pub(crate) fn send(&mut self, client: Client, bytes: &[u8]) {
        self.shards[client.shard].handle_door_bytes(self.now, DoorId(client.door), bytes);
        self.run();
    }

    /// Sends bytes and ends the client's side of the stream in one go.
    pub(crate) fn send_and_end(&mut self, client: Client, bytes: &[u8]) {
        let shard = &mut self.shards[client.shard];
        shard.handle_door_bytes(self.now, DoorId(client.door), bytes);
        shard.handle_door_closed(self.now, DoorId(client.door), DoorEnd::EndOfStream);
        self.run();
    }

    pub(crate) fn publish(&mut self, client: Client, publish: &Publish<'_>) {
        let mut bytes = BytesMut::new();
        publish.encode(self.version(client), &mut bytes).expect("encodes");
        self.send(client, &bytes);
    }

    pub(crate) fn subscribe(&mut self, client: Client, subscribe: &Subscribe<'_>) {
        let mut bytes = BytesMut::new();
        subscribe.encode(self.version(client), &mut bytes).expect("encodes");
        self.send(client, &bytes);
    }

    /// Subscribes to one filter with a QoS; the packet identifier is `n`.
    pub(crate) fn sub(&mut self, client: Client, n: u16, filter: &str, qos: QoS) {
        self.sub_with(client, n, filter, SubscriptionOptions::with_qos(qos), None);
    }

    pub(crate) fn sub_with(
        &mut self,
        client: Client,
        n: u16,
        filter: &str,
        options: SubscriptionOptions,
        sub_id: Option<u32>,
    ) {
        let topic = SubscribeFilter::parse(filter, 128).expect("a filter");
        let wanted = [RequestedSubscription::new(topic, options)];
        let subscription_id = sub_id.and_then(NonZeroU32::new);
        let mut packet = Subscribe::new(id(n), &wanted);
        packet.subscription_id = subscription_id;
        self.subscribe(client, &packet);
    }

    pub(crate) fn unsub(&mut self, client: Client, n: u16, filter: &str) {
        let filters = [SubscribeFilter::parse(filter, 128).expect("a filter")];
        let mut bytes = BytesMut::new();
        Unsubscribe::new(id(n), &filters).encode(self.version(client), &mut bytes).expect("encodes");
        self.send(client, &bytes);
    }

    pub(crate) fn ack(&mut self, client: Client, kind: AckKind, id: u16) {
        let mut bytes = BytesMut::new();
        ack(id).encode(kind, self.version(client), &mut bytes).expect("encodes");
        self.send(client, &bytes);
    }

    pub(crate) fn disconnect(&mut self, client: Client, disconnect: &Disconnect<'_>) {
        let mut bytes = BytesMut::new();
        disconnect.encode(self.version(client), &mut bytes).expect("encodes");
        self.send(client, &bytes);
    }

    /// The client's machine dies.
    pub(crate) fn reset(&mut self, client: Client) {
        self.shards[client.shard].handle_door_closed(self.now, DoorId(client.door), DoorEnd::Reset);
        self.run();
    }

    /// The client stops reading, or reads again.
    pub(crate) fn stall(&mut self, client: Client, stalled: bool) {
        let wire = self.wires.get_mut(&client).expect("an open stream");
        wire.stalled = stalled;
        let writes = if stalled { 0 } else { std::mem::take(&mut wire.unwritten).len() };
        for _ in 0..writes {
            self.shards[client.shard].handle_door_written(self.now, DoorId(client.door));
        }
        self.run();
    }

    /// A client that has stopped reading takes one write after all.
    pub(crate) fn take_one_write(&mut self, client: Client) {
        let wire = self.wires.get_mut(&client).expect("an open stream");
        if wire.unwritten.pop_front().is_some() {
            self.shards[client.shard].handle_door_written(self.now, DoorId(client.door));
        }
        self.run();
    }

    /// Lets time pass, with every timer on its way.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let due = self.shards.iter_mut().filter_map(Shard::poll_timeout).min();
            match due {
                Some(due) if due <= end => {
                    self.now = self.now.max(due);
                    for shard in &mut self.shards {
                        shard.handle_timeout(self.now);
                    }
                    self.run();
                }
                _ => break,
            }
        }
        self.now = end;
        self.run();
    }

    /// Turns all shards until nothing moves.
    pub(crate) fn run(&mut self) {
        for _ in 0..100_000 {
            let mut moved = false;
            for index in 0..self.shards.len() {
                moved |= self.turn(index);
            }
            if !moved {
                return;
            }
        }
        panic!("the shards do not come to rest");
    }

    pub(crate) fn turn(&mut self, index: usize) -> bool {
        let mut moved = self.shards[index].handle_envelopes(self.now, 3);
        self.shards[index].settle(self.now);
        while let Some(request) = self.shards[index].poll_request() {
            moved = true;
            let answer = (self.policy)(&request.work);
            self.shards[index].handle_completion(self.now, request.id, answer);
        }
        while let Some((door, action)) = self.shards[index].poll_door() {
            moved = true;
            self.door(index, door, action);
        }
        let (touched, _stuck) = self.shards[index].flush_envelopes();
        moved | !touched.is_empty() | self.shards[index].has_unfinished()
    }

    fn door(&mut self, shard: usize, door: DoorId, action: DoorAction) {
        let client = Client { shard, door: door.0 };
        let wire = self.wires.get_mut(&client).expect("an action for an open stream");
        match action {
            DoorAction::Write(batch) => {
                let bytes: usize = batch.iter().map(|chunk| chunk.len()).sum();
                batch.iter().for_each(|chunk| wire.received.extend_from_slice(chunk));
                if wire.stalled {
                    wire.unwritten.push_back(bytes);
                } else {
                    self.shards[shard].handle_door_written(self.now, door);
                }
            }
            DoorAction::Finish => {
                wire.finished = true;
                self.shards[shard].handle_door_closed(self.now, door, DoorEnd::EndOfStream);
            }
            DoorAction::Abort => wire.aborted = true,
            DoorAction::Pause => wire.paused = true,
            DoorAction::Resume => wire.paused = false,
        }
    }

    /// Everything that the client has received since the last call, a line per packet.
    pub(crate) fn take(&mut self, client: Client) -> Vec<String> {
        let version = self.version(client);
        let limits = Limits { packet_bytes_max: 268_435_455, ..Limits::default() };
        let wire = self.wires.get_mut(&client).expect("an open stream");
        let bytes = wire.received.split();
        let mut rest = &bytes[..];
        let mut lines = Vec::new();
        while !rest.is_empty() {
            let frame = quelea_mqtt::peek_frame(rest, Sender::Server, &limits)
                .expect("frames")
                .expect("whole packets");
            let packet = quelea_mqtt::decode(&rest[..frame.packet_bytes], version, Sender::Server, &limits);
            lines.push(describe(&packet.expect("decodes")));
            rest = &rest[frame.packet_bytes..];
        }
        lines
    }

    /// The same as it came.
    pub(crate) fn take_bytes(&mut self, client: Client) -> BytesMut {
        self.wires.get_mut(&client).expect("an open stream").received.split()
    }

    pub(crate) fn is_closed(&self, client: Client) -> bool {
        self.wires[&client].finished || self.wires[&client].aborted
    }

    /// A counter, summed over the shards.
    pub(crate) fn counter(&mut self, name: &str) -> u64 {
        let mut sum = 0;
        for shard in &mut self.shards {
            shard.counters().for_each(|figure| {
                if figure.name == name {
                    sum += figure.value;
                }
            });
        }
        sum
    }
}

fn anonymous(_: &Work) -> Completion {
    Completion::Authenticated(Ok(Permissions::Everything))
}

/// The one place where these tests read a clock: a base to count from.
#[allow(clippy::disallowed_methods)]
fn start() -> Instant {
    Instant::now()
}

/// An MQTT 5 CONNECT, clean start, no expiry, no keep alive.
pub(crate) fn v5(id: &str) -> Connect<'_> {
    Connect { clean_start: true, keep_alive_s: 0, ..Connect::new(Version::V5, id) }
}

/// An MQTT 3.1.1 CONNECT.
pub(crate) fn v311(id: &str, clean: bool) -> Connect<'_> {
    Connect { clean_start: clean, keep_alive_s: 0, ..Connect::new(Version::V311, id) }
}

pub(crate) fn id(n: u16) -> PacketId {
    PacketId::new(n).expect("not zero")
}

pub(crate) fn ack(n: u16) -> Ack<'static> {
    Ack {
        packet_id: id(n),
        reason: quelea_mqtt::ReasonCode::SUCCESS,
        reason_string: None,
        user_properties: quelea_mqtt::UserProperties::default(),
    }
}

/// A PUBLISH; QoS 1 and 2 take the packet identifier.
pub(crate) fn publication<'a>(topic: &'a str, payload: &'a str, qos: QoS, n: u16) -> Publish<'a> {
    Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(quelea_mqtt::TopicName::new(topic, 128).expect("a topic")),
        packet_id: (qos > QoS::AtMostOnce).then(|| id(n)),
        payload: payload.as_bytes(),
        properties: quelea_mqtt::PublishProperties::default(),
    }
}

fn describe(packet: &Packet<'_>) -> String {
    match packet {
        Packet::ConnAck(p) => {
            format!("CONNACK {:#04x} present={}", p.reason.as_u8(), u8::from(p.session_present))
        }
        Packet::Publish(p) => describe_publish(p),
        Packet::PubAck(p) => format!("PUBACK {} {:#04x}", p.packet_id, p.reason.as_u8()),
        Packet::PubRec(p) => format!("PUBREC {} {:#04x}", p.packet_id, p.reason.as_u8()),
        Packet::PubRel(p) => format!("PUBREL {} {:#04x}", p.packet_id, p.reason.as_u8()),
        Packet::PubComp(p) => format!("PUBCOMP {} {:#04x}", p.packet_id, p.reason.as_u8()),
        Packet::SubAck(p) => format!("SUBACK {} {:02x?}", p.packet_id, p.reasons),
        Packet::UnsubAck(p) => format!("UNSUBACK {} {:02x?}", p.packet_id, p.reasons),
        Packet::PingResp => "PINGRESP".into(),
        Packet::Disconnect(p) => format!("DISCONNECT {:#04x}", p.reason.as_u8()),
        other => format!("{other:?}"),
    }
}

fn describe_publish(p: &Publish<'_>) -> String {
    let mut line = format!("PUBLISH {} q{}", p.topic.map_or("", |t| t.as_str()), p.qos as u8);
    if let Some(id) = p.packet_id {
        line += &format!(" id{id}");
    }
    if p.dup {
        line += " dup";
    }
    if p.retain {
        line += " retain";
    }
    for id in p.properties.subscription_ids.iter() {
        line += &format!(" sub{id}");
    }
    if let Some(alias) = p.properties.topic_alias {
        line += &format!(" alias{alias}");
    }
    if let Some(expiry) = p.properties.message_expiry_s {
        line += &format!(" expiry{expiry}");
    }
    let payload = String::from_utf8_lossy(p.payload);
    if payload.len() > 40 {
        line + &format!(" {} bytes", p.payload.len())
    } else {
        line + " '" + &payload + "'"
    }
}
