//! The turn with a driver whose writes are complete as soon as they are submitted, as those of a socket with room are:
//! a shard goes to sleep after one turn, and leaves nothing behind that only another input would bring out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use quelea_mqtt::{
    Connect, Publish, PublishProperties, QoS, RequestedSubscription, Subscribe, SubscribeFilter,
    SubscriptionOptions, TopicName, Version,
};
use quelea_router::{MeshConfig, ShardId, ShardSet, SleepFlags};
use quelea_shard::door::DoorKindId;
use quelea_shard::quic::Transmit;
use quelea_shard::turn::{Driver, Turn};
use quelea_shard::{
    Completion, DoorAction, DoorId, Permissions, Request, RequestId, Settings, Shard, ShardParts,
};

/// A driver that has no input of its own: tests hand bytes to the shard themselves.
struct AtOnce {
    now: Instant,
    /// Bytes written, by door.
    written: BTreeMap<u64, Vec<u8>>,
    /// Doors whose socket has room; writes to others stay incomplete.
    roomy: BTreeSet<u64>,
    in_flight: Vec<DoorId>,
    requests: Vec<RequestId>,
    woken: ShardSet,
}

impl Driver for AtOnce {
    fn now(&mut self) -> Instant {
        self.now
    }

    fn receive(&mut self, shard: &mut Shard, _until: Option<Instant>) {
        for request in std::mem::take(&mut self.requests) {
            let answer = Completion::Authenticated(Ok(Permissions::Everything));
            shard.handle_completion(self.now, request, answer);
        }
    }

    fn transmit(&mut self, _: &Transmit, _: &[u8]) {
        unreachable!("there is no QUIC half");
    }

    fn door(&mut self, door: DoorId, action: DoorAction) {
        if let DoorAction::Write(batch) = action {
            batch.iter().for_each(|bytes| self.written.entry(door.0).or_default().extend_from_slice(bytes));
            self.in_flight.push(door);
        }
    }

    fn request(&mut self, request: Request) {
        self.requests.push(request.id);
    }

    fn submit(&mut self, shard: &mut Shard) {
        let in_flight = std::mem::take(&mut self.in_flight).into_iter();
        let (complete, stuck): (Vec<_>, Vec<_>) = in_flight.partition(|door| self.roomy.contains(&door.0));
        self.in_flight = stuck;
        complete.into_iter().for_each(|door| shard.handle_door_written(self.now, door));
    }

    fn wake(&mut self, shards: ShardSet) {
        shards.iter().for_each(|shard| {
            self.woken.insert(shard);
        });
    }
}

/// One shard, its turn and its driver.
struct Stage {
    shard: Shard,
    turn: Turn,
    driver: AtOnce,
}

/// Some shards that know each other.
struct House {
    stages: Vec<Stage>,
    sleep: SleepFlags,
}

impl House {
    fn new(shards: usize) -> Self {
        let mesh = MeshConfig { replies: 4, control: 64, forward: 64, deliver: 256 };
        let stages = quelea_router::mesh(shards, mesh).into_iter().enumerate().map(|(index, mailbox)| {
            let id = ShardId::from_index(index);
            let parts = ShardParts { id, shards, node_seed: 7, seed: index as u64, mailbox, quic: None };
            let driver = AtOnce {
                now: start(),
                written: BTreeMap::new(),
                roomy: BTreeSet::new(),
                in_flight: Vec::new(),
                requests: Vec::new(),
                woken: ShardSet::new(),
            };
            Stage { shard: Shard::new(Settings::default(), parts), turn: Turn::new(), driver }
        });
        let mut house = Self { stages: stages.collect(), sleep: SleepFlags::new(shards) };
        // Until it has turned once, a shard counts as awake.
        (0..shards).for_each(|index| {
            house.run(index);
        });
        house
    }

    /// Turns one shard until it would sleep; returns how many turns that took.
    fn run(&mut self, index: usize) -> usize {
        let Stage { shard, turn, driver } = &mut self.stages[index];
        for turns in 1..10_000 {
            driver.receive(shard, None);
            turn.after_wait(shard, driver, &self.sleep);
            let until = turn.before_wait(shard, driver.now, &self.sleep);
            if driver.requests.is_empty() && until.is_none_or(|until| until > driver.now) {
                return turns;
            }
        }
        panic!("it never sleeps");
    }

    /// Turns all shards whose bell has been rung until all sleep; returns how many were woken.
    fn run_woken(&mut self) -> usize {
        let mut wakes = 0;
        loop {
            let woken = self.stages.iter_mut().map(|stage| std::mem::take(&mut stage.driver.woken));
            let woken: Vec<usize> =
                woken.flat_map(|set| set.iter().collect::<Vec<_>>()).map(ShardId::index).collect();
            if woken.is_empty() {
                return wakes;
            }
            wakes += woken.len();
            woken.into_iter().for_each(|index| {
                self.run(index);
            });
        }
    }

    /// A byte stream to a shard whose socket has room; returns once CONNECT is answered.
    fn connect(&mut self, index: usize, door: u64, client_id: &str) -> DoorId {
        let door = DoorId(door);
        let connect =
            Connect { keep_alive_s: 0, clean_start: true, ..Connect::new(Version::V311, client_id) };
        let mut bytes = BytesMut::new();
        connect.encode(Version::V311, &mut bytes).expect("encodes");
        let Stage { shard, driver, .. } = &mut self.stages[index];
        driver.roomy.insert(door.0);
        shard.handle_door_opened(driver.now, door, SocketAddr::from(([127, 0, 0, 1], 1)), DoorKindId::PLAIN);
        shard.handle_door_bytes(driver.now, door, &bytes);
        self.run(index);
        self.run_woken();
        assert_eq!(self.taken(index, door), [0x20, 2, 0, 0], "CONNACK");
        door
    }

    fn subscribe(&mut self, index: usize, door: DoorId, filter: &str) {
        let filter = SubscribeFilter::parse(filter, 8).expect("a filter");
        let wanted = [RequestedSubscription::new(filter, SubscriptionOptions::with_qos(QoS::AtLeastOnce))];
        let mut bytes = BytesMut::new();
        let id = quelea_mqtt::PacketId::MIN;
        Subscribe::new(id, &wanted).encode(Version::V311, &mut bytes).expect("encodes");
        self.bytes(index, door, &bytes);
        self.run(index);
        self.run_woken();
        assert_eq!(self.taken(index, door), [0x90, 3, 0, 1, 1], "SUBACK");
    }

    fn bytes(&mut self, index: usize, door: DoorId, bytes: &[u8]) {
        let Stage { shard, driver, .. } = &mut self.stages[index];
        shard.handle_door_bytes(driver.now, door, bytes);
    }

    /// What was written to a door since the last look.
    fn taken(&mut self, index: usize, door: DoorId) -> Vec<u8> {
        self.stages[index].driver.written.remove(&door.0).unwrap_or_default()
    }
}

/// The one place where these tests read a clock: a base to count from.
#[allow(clippy::disallowed_methods)]
fn start() -> Instant {
    Instant::now()
}

fn publication(qos: QoS, payload: &[u8]) -> BytesMut {
    let publish = Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(TopicName::new("a", 8).expect("a topic")),
        packet_id: (qos > QoS::AtMostOnce).then_some(quelea_mqtt::PacketId::MIN),
        payload,
        properties: PublishProperties::default(),
    };
    let mut bytes = BytesMut::new();
    publish.encode(Version::V311, &mut bytes).expect("encodes");
    bytes
}

#[test]
fn a_message_from_socket_to_socket_takes_one_turn() {
    let mut house = House::new(1);
    let subscriber = house.connect(0, 1, "subscriber");
    house.subscribe(0, subscriber, "a");
    let publisher = house.connect(0, 2, "publisher");
    house.bytes(0, publisher, &publication(QoS::AtLeastOnce, b"payload"));
    assert_eq!(house.run(0), 1, "one turn, then sleep");
    assert_eq!(house.taken(0, publisher), [0x40, 2, 0, 1], "PUBACK");
    assert_eq!(house.taken(0, subscriber), publication(QoS::AtLeastOnce, b"payload"));
}

#[test]
fn across_shards_each_step_takes_one_turn() {
    let mut house = House::new(2);
    let subscriber = house.connect(0, 1, "subscriber");
    house.subscribe(0, subscriber, "a");
    let publisher = house.connect(1, 2, "publisher");
    house.bytes(1, publisher, &publication(QoS::AtLeastOnce, b"payload"));
    assert_eq!(house.run(1), 1, "the publisher's shard sleeps until the other has accepted");
    assert_eq!(house.run_woken(), 2, "the subscriber's shard wakes, then the publisher's for the acceptance");
    assert_eq!(house.taken(1, publisher), [0x40, 2, 0, 1], "PUBACK");
    assert_eq!(house.taken(0, subscriber), publication(QoS::AtLeastOnce, b"payload"));
}

#[test]
fn qos_0_across_shards_wakes_the_other_shard_once_and_nobody_for_the_reply() {
    let mut house = House::new(2);
    let subscriber = house.connect(0, 1, "subscriber");
    house.subscribe(0, subscriber, "a");
    let publisher = house.connect(1, 2, "publisher");
    house.bytes(1, publisher, &publication(QoS::AtMostOnce, b"payload"));
    house.run(1);
    assert_eq!(
        house.run_woken(),
        1,
        "the subscriber's shard; its reply carries nothing that anybody waits for"
    );
    assert_eq!(house.taken(0, subscriber), publication(QoS::AtMostOnce, b"payload"));

    // The publisher's shard looks by itself, soon, and the ticket closes.
    assert_eq!(house.stages[1].shard.counters().tickets, 1);
    let Stage { shard, turn, driver } = &mut house.stages[1];
    let until = turn.before_wait(shard, driver.now, &house.sleep).expect("there is a reply in the mailbox");
    assert_eq!(until, driver.now, "it has come already");
    house.run(1);
    assert_eq!(house.stages[1].shard.counters().tickets, 0);
}

#[test]
fn a_reply_that_nobody_waits_for_is_read_within_its_time() {
    let mut house = House::new(2);
    let subscriber = house.connect(0, 1, "subscriber");
    house.subscribe(0, subscriber, "a");
    let publisher = house.connect(1, 2, "publisher");
    house.bytes(1, publisher, &publication(QoS::AtMostOnce, b"payload"));
    house.run(1);
    // The other shard has not turned yet: there is nothing in the mailbox, but a ticket is open.
    let Stage { shard, turn, driver } = &mut house.stages[1];
    let until = turn.before_wait(shard, driver.now, &house.sleep).expect("a ticket is open");
    assert!(until > driver.now && until <= driver.now + Duration::from_millis(20));
}

#[test]
fn a_write_that_completes_at_once_brings_out_what_waited_behind_it() {
    let mut house = House::new(1);
    let subscriber = house.connect(0, 1, "subscriber");
    house.subscribe(0, subscriber, "a");
    let publisher = house.connect(0, 2, "publisher");
    house.stages[0].driver.roomy.remove(&subscriber.0);
    // Far more than one write, and more than an output takes: the rest waits in the session's queue.
    let (packet, count) = (publication(QoS::AtMostOnce, &[7; 3_000]), 300);
    for _ in 0..count {
        house.bytes(0, publisher, &packet);
        house.run(0);
    }
    let stuck = house.taken(0, subscriber).len();
    assert!(stuck < count * packet.len() / 2, "the socket is full");

    let Stage { shard, driver, .. } = &mut house.stages[0];
    driver.roomy.insert(subscriber.0);
    driver.in_flight.clear();
    shard.handle_door_written(driver.now, subscriber);
    house.run(0);
    assert_eq!(stuck + house.taken(0, subscriber).len(), count * packet.len(), "all of it, before sleep");
}
