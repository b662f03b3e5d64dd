//! Up to four clients of all versions, on one to three shards, say whatever the input makes them say: nobody panics,
//! every shard comes to rest, what is sent can be read and keeps to the client's limits, and when all have gone and their
//! sessions have expired nothing is left.
//!
//! The first byte of an input chooses the number of shards and the size of their queues; then come steps of two bytes
//! and, where they are said to have some, data:
//!
//! ```text
//!   step:   kkkk..cc  nnnnnnnn  data      kkkk: what happens   cc: which client
//!   0 to 4  a packet: type and flags from the first byte of n bytes of data, the others behind a correct length; on a new
//!           connection if there is none, before any CONNECT
//!   5, 6    n bytes as they are; likewise
//!   7 to 9  CONNECT of MQTT 5, 3.1.1, 3.1: identifier, flags and limits drawn from n; a new connection if there is one
//!   10      the connection is reset      11  the client ends its side      12, 13  it stops reading, or reads again
//!   14      n seconds pass               15  n² minutes pass
//! ```
//!
//! The fuzz target in `shard/fuzz` plays what its fuzzer finds; the tests here play what chance finds, and the seeds that
//! the fuzzer begins with.

use std::time::Duration;

use quelea_mqtt::{Limits, Packet, Sender, Version};
use quelea_router::MeshConfig;
use quelea_shard::Settings;

use crate::bed::{Bed, Client};

/// What a client has said of itself, as far as it is held to it.
#[derive(Clone, Copy)]
struct Said {
    client: Client,
    /// None: its CONNECT came out of the input as it is.
    limits: Option<(Version, usize)>,
    stalled: bool,
}

/// Plays one input.
pub(crate) fn play(input: &[u8]) {
    let Some((&choice, mut rest)) = input.split_first() else { return };
    let shards = 1 + usize::from(choice & 3) % 3;
    let mut bed = world(shards, choice);
    let mut clients: [Option<Said>; 4] = [None; 4];
    while let [kind, n, behind @ ..] = rest {
        let at = usize::from(kind & 3);
        let len = if kind >> 4 <= 6 { usize::from(*n).min(behind.len()) } else { 0 };
        let (bytes, behind) = behind.split_at(len);
        step(&mut bed, shards, &mut clients, (kind >> 4, at), *n, bytes);
        clients.iter_mut().for_each(|said| look(&mut bed, said));
        rest = behind;
    }
    at_the_end(&mut bed, &clients);
}

/// Queues, windows and mailboxes small enough to be full.
fn world(shards: usize, choice: u8) -> Bed {
    let small = choice & 4 != 0;
    let settings = Settings {
        packet: Limits { packet_bytes_max: 100_000, ..Limits::default() },
        queue_messages_max: if small { 2 } else { 20 },
        queue_bytes_max: 2_000,
        receive_max: 4,
        unacked_max: 5,
        inflight_max: 3,
        subscriptions_max: 10,
        group_messages_max: 3,
        groups_max: 3,
        retained_messages_max: 5,
        memory_bytes_max: if choice & 8 != 0 { 14_000 } else { 1 << 20 },
        response_root: Some("answers".into()),
        deliver_window: if small { 1 } else { 8 },
        forward_window: if small { 1 } else { 8 },
        ..Settings::default()
    };
    let window = settings.deliver_window as usize;
    let mesh = MeshConfig { replies: 1, control: 2, forward: window, deliver: window };
    Bed::with_mesh(shards, &settings, mesh)
}

fn step(
    bed: &mut Bed,
    shards: usize,
    clients: &mut [Option<Said>; 4],
    (kind, at): (u8, usize),
    n: u8,
    bytes: &[u8],
) {
    match (kind, clients[at]) {
        (0..=6, said) => {
            let client = said.map_or_else(|| bed.open(at % shards), |said| said.client);
            clients[at] = said.or(Some(Said { client, limits: None, stalled: false }));
            match bytes.split_first() {
                Some((first, body)) if kind <= 4 => bed.send(client, &framed(*first, body)),
                _ => bed.send(client, bytes),
            }
        }
        (7..=9, said) => {
            if let Some(said) = said {
                bed.reset(said.client);
            }
            let client = bed.open(usize::from(n >> 2) % shards);
            let (packet, limits) = connect(kind - 7, n);
            clients[at] = Some(Said { client, limits: Some(limits), stalled: false });
            bed.send(client, &packet);
        }
        (10, Some(said)) => {
            bed.reset(said.client);
            clients[at] = None;
        }
        (11, Some(said)) => bed.send_and_end(said.client, &[]),
        (12 | 13, Some(said)) => {
            let stalled = kind == 12;
            if stalled != said.stalled {
                bed.stall(said.client, stalled);
                clients[at] = Some(Said { stalled, ..said });
            }
        }
        (14, _) => bed.pass(Duration::from_secs(u64::from(n))),
        (15, _) => bed.pass(Duration::from_secs(60 * u64::from(n) * u64::from(n))),
        _ => {}
    }
}

/// A CONNECT of one of three identifiers, with a Will, an expiry and limits as `n` has it.
fn connect(version: u8, n: u8) -> (Vec<u8>, (Version, usize)) {
    let (version, start, clean): (Version, &[u8], u8) = match version {
        0 => (Version::V5, b"\0\x04MQTT\x05", n & 1),
        1 => (Version::V311, b"\0\x04MQTT\x04", n & 1),
        _ => (Version::V31, b"\0\x06MQIsdp\x03", n & 1),
    };
    let will = n >> 5 & 1;
    // As long as an identifier can be, of a client that asks for a response topic.
    let is_long = n >= 0xFC;
    let mut body = start.to_vec();
    body.push(clean << 1 | will << 2 | (will & n >> 4) << 5);
    body.extend_from_slice(&[0, if n & 0x40 != 0 { 30 } else { 0 }]);
    let mut packet_max = usize::MAX;
    if version == Version::V5 {
        let mut properties = vec![0x11, 0, 0, n, 0];
        if is_long && n & 2 == 0 {
            properties.extend_from_slice(&[0x19, 1]);
        }
        if n & 2 != 0 {
            packet_max = 40;
            properties.extend_from_slice(&[0x27, 0, 0, 0, 40, 0x21, 0, 1, 0x19, 1]);
        }
        if n & 8 != 0 {
            properties.extend_from_slice(&[0x22, 0, 2]);
        }
        body.push(properties.len() as u8);
        body.extend_from_slice(&properties);
    }
    if is_long {
        body.extend_from_slice(&[0xFF, 0xFF]);
        body.resize(body.len() + 0xFFFF, b'a' + n % 3);
    } else {
        body.extend_from_slice(&[0, 1, b'a' + n % 3]);
    }
    if will == 1 {
        let properties: &[u8] = if version == Version::V5 { &[5, 0x18, 0, 0, 0, 20] } else { &[] };
        body.extend_from_slice(properties);
        body.extend_from_slice(b"\0\x01w\0\x01x");
    }
    (framed(0x10, &body), (version, packet_max))
}

fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut left = body.len();
    while left > 0x7F {
        packet.push(left as u8 | 0x80);
        left >>= 7;
    }
    packet.push(left as u8);
    packet.extend_from_slice(body);
    packet
}

/// Reads what a client has received: whole packets, legal ones, none too large for it.
fn look(bed: &mut Bed, said: &mut Option<Said>) {
    let Some(Said { client, limits, .. }) = *said else { return };
    let heard = bed.take_bytes(client);
    if let Some((version, packet_max)) = limits {
        let any = Limits { packet_bytes_max: u32::MAX, ..Limits::default() };
        let mut rest = &heard[..];
        while !rest.is_empty() {
            let frame =
                quelea_mqtt::peek_frame(rest, Sender::Server, &any).expect("a packet").expect("a whole one");
            assert!(frame.packet_bytes <= packet_max, "{} bytes", frame.packet_bytes);
            let packet = quelea_mqtt::decode(&rest[..frame.packet_bytes], version, Sender::Server, &any);
            if let Packet::Publish(publish) = packet.expect("a legal packet") {
                assert!(publish.properties.topic_alias.is_none_or(|alias| alias.get() <= 2));
            }
            rest = &rest[frame.packet_bytes..];
        }
    }
    if bed.is_closed(client) {
        *said = None;
    }
}

/// Everybody goes, and every session expires: retained messages are all that may be left.
fn at_the_end(bed: &mut Bed, clients: &[Option<Said>; 4]) {
    for said in clients.iter().flatten() {
        if said.stalled {
            bed.stall(said.client, false);
        }
        bed.reset(said.client);
    }
    bed.pass(Duration::from_secs(8 * 24 * 3600));
    for name in [
        "links",
        "sessions",
        "sessions_connected",
        "subscriptions",
        "groups",
        "parked",
        "tickets",
        "waiting_credit",
    ] {
        assert_eq!(bed.counter(name), 0, "{name}");
    }
    if bed.counter("retained") == 0 {
        assert_eq!(bed.counter("memory_bytes"), 0);
    }
}

#[cfg(test)]
mod tests {
    /// Steps that lead somewhere, more often than chance would have them.
    struct Author {
        random: fastrand::Rng,
        input: Vec<u8>,
        /// Whether each client speaks MQTT 5.
        five: [bool; 4],
    }

    impl Author {
        fn write(seed: u64) -> Vec<u8> {
            let mut random = fastrand::Rng::with_seed(seed);
            // The memory ceiling and the smallest queues now and then.
            let choice = random.u8(..) & if random.u8(0..4) == 0 { 0x0F } else { 0x03 };
            let mut author = Self { random, input: vec![choice], five: [true; 4] };
            for client in 0..4 {
                author.connect(client);
                author.subscribe(client);
            }
            for _ in 0..author.random.usize(4..60) {
                let client = author.random.u8(0..4);
                match author.random.u8(0..41) {
                    0 => author.connect(client),
                    1..=3 => author.subscribe(client),
                    4..=16 => author.publish(client),
                    17..=34 => author.acknowledge(client),
                    35..=37 => {
                        let step = [author.random.u8(10..16) << 4 | client, author.random.u8(0..40)];
                        author.input.extend_from_slice(&step);
                    }
                    38 => author.packet(client, 0xC0, &[]),
                    39 => author.stranger(client),
                    _ => {
                        let noise = [
                            author.random.u8(..) << 4 | client,
                            2,
                            author.random.u8(..),
                            author.random.u8(..),
                        ];
                        author.input.extend_from_slice(&noise);
                    }
                }
            }
            author.input
        }

        fn connect(&mut self, client: u8) {
            let version = self.random.u8(0..3);
            self.five[usize::from(client)] = version == 0;
            let limits = if self.random.u8(0..3) == 0 { 0xFF } else { 0xFD };
            self.input.extend_from_slice(&[(7 + version) << 4 | client, self.random.u8(..) & limits]);
        }

        fn packet(&mut self, client: u8, first: u8, parts: &[&[u8]]) {
            let body = parts.concat();
            self.input.extend_from_slice(&[client, body.len() as u8 + 1, first]);
            self.input.extend_from_slice(&body);
        }

        fn id(&mut self) -> [u8; 2] {
            [0, self.random.u8(1..6)]
        }

        /// Where MQTT 5 has properties: none.
        fn none(&self, client: u8) -> &'static [u8] {
            if self.five[usize::from(client)] { &[0] } else { &[] }
        }

        /// A new connection whose first packet begins as a CONNECT does, and is of any type.
        fn stranger(&mut self, client: u8) {
            self.input.extend_from_slice(&[10 << 4 | client, 0]);
            let first = self.random.choice([0x10, 0x30, 0x32, 0x62, 0x82, 0xA2, 0xE0, 0xF0]).expect("some");
            let id = self.random.choice([0x11, 0x17, 0x19, 0x21, 0x22, 0x23, 0x27]).expect("some");
            let behind = [id, 0, self.random.u8(0..2), self.random.u8(0..2), self.random.u8(0..2)];
            let level = [self.random.u8(3..7)];
            self.packet(client, first, &[b"\0\x04MQTT", &level, &behind]);
        }

        fn subscribe(&mut self, client: u8) {
            let filters = [
                &b"\0\x01t"[..],
                b"\0\x01#",
                b"\0\x03t/+",
                b"\0\x0A$share/g/t",
                b"\0\x0A$share/h/t",
                b"\0\x01w",
            ];
            let (filter, id) = (self.random.choice(filters).expect("some"), self.id());
            let more = if self.five[usize::from(client)] { self.random.u8(..) & 0x18 } else { 0 };
            let options = [self.random.u8(0..3) | more];
            let none = self.none(client);
            match self.random.u8(0..5) {
                0 => self.packet(client, 0xA2, &[&id, none, filter]),
                _ => self.packet(client, 0x82, &[&id, none, filter, &options]),
            }
        }

        fn publish(&mut self, client: u8) {
            let topic =
                self.random.choice([&b"\0\x01t"[..], b"\0\x01t", b"\0\x03t/a", b"\0\x01w"]).expect("some");
            let payload = vec![b'x'; self.random.choice([0, 5, 20, 50]).expect("some")];
            let (retain, none, id) = (self.random.u8(0..8) / 7, self.none(client), self.id());
            match self.random.u8(0..5) {
                0 => self.packet(client, 0x30 | retain, &[topic, none, &payload]),
                1 | 2 => self.packet(client, 0x32 | retain, &[topic, &id, none, &payload]),
                _ => self.packet(client, 0x34 | retain, &[topic, &id, none, &payload]),
            }
        }

        fn acknowledge(&mut self, client: u8) {
            let first = self.random.choice([0x40, 0x50, 0x62, 0x70]).expect("some");
            let id = self.id();
            self.packet(client, first, &[&id]);
        }
    }

    #[test]
    fn whatever_clients_say_nothing_breaks_and_nothing_is_left() {
        for seed in 0..3_000 {
            let input = Author::write(seed);
            // A failure names its input by the seed.
            let outcome = std::panic::catch_unwind(|| super::play(&input));
            assert!(outcome.is_ok(), "seed {seed}: {input:02x?}");
        }
    }

    #[test]
    fn every_seed_of_the_fuzzer_is_played() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/session");
        let mut played = 0;
        for entry in std::fs::read_dir(folder).expect("the seeds") {
            let path = entry.expect("a folder that can be read").path();
            let input = std::fs::read(&path).expect("a seed");
            // A failure names its seed.
            let outcome = std::panic::catch_unwind(|| super::play(&input));
            assert!(outcome.is_ok(), "{}: {input:02x?}", path.display());
            played += 1;
        }
        assert!(played > 0, "{folder} is empty");
    }
}
