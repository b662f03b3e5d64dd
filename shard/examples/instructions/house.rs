//! Shards with their turns, in one thread, and a driver without a world: see `main.rs`.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::BytesMut;
use quelea_mqtt::{
    Connect, PacketId, Publish, PublishProperties, QoS, RequestedSubscription, Subscribe, SubscribeFilter,
    SubscriptionOptions, TopicName, Version,
};
use quelea_router::{MeshConfig, ShardId, ShardSet, SleepFlags};
use quelea_shard::door::DoorKindId;
use quelea_shard::quic::Transmit;
use quelea_shard::turn::{Driver, Turn};
use quelea_shard::{
    Completion, DoorAction, DoorEnd, DoorId, Permissions, Request, RequestId, Settings, Shard, ShardParts,
};

/// All shards of a broker.
pub(crate) struct House {
    stages: Vec<Stage>,
    sleep: SleepFlags,
}

struct Stage {
    shard: Shard,
    turn: Turn,
    driver: AtOnce,
}

/// Completes at once what a shard wants done.
struct AtOnce {
    now: Instant,
    written_bytes: usize,
    written: Vec<DoorId>,
    finished: Vec<DoorId>,
    requests: Vec<RequestId>,
    woken: ShardSet,
}

impl Driver for AtOnce {
    fn now(&mut self) -> Instant {
        self.now
    }

    fn receive(&mut self, shard: &mut Shard, _until: Option<Instant>) {
        while let Some(request) = self.requests.pop() {
            let answer = Completion::Authenticated(Ok(Permissions::Everything));
            shard.handle_completion(self.now, request, answer);
        }
        while let Some(door) = self.finished.pop() {
            shard.handle_door_closed(self.now, door, DoorEnd::EndOfStream);
        }
    }

    fn transmit(&mut self, _: &Transmit, _: &[u8]) {
        unreachable!("there is no QUIC half");
    }

    fn door(&mut self, door: DoorId, action: DoorAction) {
        match action {
            DoorAction::Write(batch) => {
                self.written_bytes += batch.iter().map(|bytes| bytes.len()).sum::<usize>();
                self.written.push(door);
            }
            DoorAction::Finish => self.finished.push(door),
            DoorAction::Pause | DoorAction::Resume | DoorAction::Abort => {}
        }
    }

    fn request(&mut self, request: Request) {
        self.requests.push(request.id);
    }

    fn submit(&mut self, shard: &mut Shard) {
        while let Some(door) = self.written.pop() {
            shard.handle_door_written(self.now, door);
        }
    }

    fn wake(&mut self, shards: ShardSet) {
        shards.iter().for_each(|shard| {
            self.woken.insert(shard);
        });
    }
}

impl House {
    pub(crate) fn new(shards: usize) -> Self {
        let mesh = MeshConfig { replies: 4, control: 64, forward: 256, deliver: 1_024 };
        let now = start();
        let stages = quelea_router::mesh(shards, mesh).into_iter().enumerate().map(|(index, mailbox)| {
            let id = ShardId::from_index(index);
            let parts = ShardParts { id, shards, node_seed: 7, seed: index as u64, mailbox, quic: None };
            let driver = AtOnce {
                now,
                written_bytes: 0,
                written: Vec::new(),
                finished: Vec::new(),
                requests: Vec::new(),
                woken: ShardSet::new(),
            };
            Stage { shard: Shard::new(Settings::default(), parts), turn: Turn::new(), driver }
        });
        let mut house = Self { stages: stages.collect(), sleep: SleepFlags::new(shards) };
        house.run();
        house
    }

    /// Turns every shard until it would sleep, and then those that are woken, until all sleep.
    pub(crate) fn run(&mut self) {
        (0..self.stages.len()).for_each(|index| self.run_one(index));
        loop {
            let woken = self.stages.iter_mut().map(|stage| core::mem::take(&mut stage.driver.woken));
            let woken = woken.fold(ShardSet::new(), |all, some| all.iter().chain(some.iter()).collect());
            if woken.is_empty() {
                return;
            }
            woken.iter().for_each(|shard| self.run_one(shard.index()));
        }
    }

    fn run_one(&mut self, index: usize) {
        let Stage { shard, turn, driver } = &mut self.stages[index];
        loop {
            driver.receive(shard, None);
            turn.after_wait(shard, driver, &self.sleep);
            let until = turn.before_wait(shard, driver.now, &self.sleep);
            let idle = driver.requests.is_empty() && driver.finished.is_empty();
            if idle && until.is_none_or(|until| until > driver.now) {
                return;
            }
        }
    }

    pub(crate) fn bytes(&mut self, index: usize, door: u64, bytes: &[u8]) {
        let Stage { shard, driver, .. } = &mut self.stages[index];
        shard.handle_door_bytes(driver.now, DoorId(door), bytes);
    }

    /// A client whose name is its door's number.
    pub(crate) fn connect(&mut self, index: usize, door: u64) {
        let name = format!("client-{door}");
        let connect = Connect { keep_alive_s: 0, clean_start: true, ..Connect::new(Version::V311, &name) };
        let mut bytes = BytesMut::new();
        connect.encode(Version::V311, &mut bytes).expect("encodes");
        let Stage { shard, driver, .. } = &mut self.stages[index];
        shard.handle_door_opened(
            driver.now,
            DoorId(door),
            SocketAddr::from(([127, 0, 0, 1], 1)),
            DoorKindId::PLAIN,
        );
        self.bytes(index, door, &bytes);
        self.run();
        assert!(self.stages[index].shard.is_serving(DoorId(door)), "it has its CONNACK");
    }

    pub(crate) fn disconnect(&mut self, index: usize, door: u64) {
        self.bytes(index, door, &[0xe0, 0]);
        self.run();
        assert!(!self.stages[index].shard.is_serving(DoorId(door)), "it is gone");
    }

    pub(crate) fn subscribe(&mut self, index: usize, door: u64, filter: &str, qos: QoS) {
        let filter = SubscribeFilter::parse(filter, 8).expect("a filter");
        let wanted = [RequestedSubscription::new(filter, SubscriptionOptions::with_qos(qos))];
        let mut bytes = BytesMut::new();
        Subscribe::new(PacketId::MIN, &wanted).encode(Version::V311, &mut bytes).expect("encodes");
        self.bytes(index, door, &bytes);
        self.run();
    }

    /// A subscriber's PUBACK. Identifiers count up on each connection: `number` is that of the message.
    pub(crate) fn acknowledge(&mut self, index: usize, door: u64, number: u16) {
        let [high, low] = number.to_be_bytes();
        self.bytes(index, door, &[0x40, 2, high, low]);
    }
}

/// The one look at a clock: a base to count from.
#[allow(clippy::disallowed_methods)]
fn start() -> Instant {
    Instant::now()
}

/// A PUBLISH packet.
pub(crate) fn publication(version: Version, topic: &str, qos: QoS, payload: &[u8]) -> BytesMut {
    let publish = Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(TopicName::new(topic, 8).expect("a topic")),
        packet_id: (qos > QoS::AtMostOnce).then_some(PacketId::MIN),
        payload,
        properties: PublishProperties::default(),
    };
    let mut bytes = BytesMut::new();
    publish.encode(version, &mut bytes).expect("encodes");
    bytes
}
