//! Whatever a server sends and an application calls, in any order: nothing panics, nothing grows past its bound, and each token and
//! each connection ends once.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use quelea_client::{AckToken, Acks, Bounds, Core, Event, Options, Publish, Subscribe, Text, Token};
use quelea_mqtt::{QoS, ReasonCode, Version};

use crate::scripted::{CONNACK_V3, CONNACK_V3_PRESENT, CONNACK_V5, CONNACK_V5_PRESENT, beginning, options};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// The server sends an acknowledgement of this type for this identifier.
    Ack {
        first: u8,
        id: u8,
    },
    /// The server publishes.
    Message {
        qos: u8,
        dup: bool,
        id: u8,
        payload_bytes: u8,
    },
    SubAck {
        id: u8,
        reasons: Vec<u8>,
    },
    Pong,
    Bytes(Vec<u8>),
    ConnAck {
        present: bool,
    },
    Publish {
        qos: u8,
        payload_bytes: u16,
    },
    Subscribe,
    Unsubscribe,
    AckOldest,
    Ping,
    Connect,
    Closed,
    Disconnect,
    Wait(u16),
    /// The driver drains; between two of these it does not.
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (prop_oneof![Just(0x40), Just(0x50), Just(0x62), Just(0x70)], 1..6_u8).prop_map(|(first, id)| Step::Ack { first, id }),
        4 => (0..3_u8, any::<bool>(), 1..6_u8, any::<u8>())
            .prop_map(|(qos, dup, id, payload_bytes)| Step::Message { qos, dup: dup && qos > 0, id, payload_bytes }),
        1 => (1..6_u8, vec(prop_oneof![Just(0), Just(1), Just(0x80)], 1..3)).prop_map(|(id, reasons)| Step::SubAck { id, reasons }),
        1 => Just(Step::Pong),
        1 => vec(any::<u8>(), 0..40).prop_map(Step::Bytes),
        3 => any::<bool>().prop_map(|present| Step::ConnAck { present }),
        4 => (0..3_u8, 0..300_u16).prop_map(|(qos, payload_bytes)| Step::Publish { qos, payload_bytes }),
        1 => Just(Step::Subscribe),
        1 => Just(Step::Unsubscribe),
        2 => Just(Step::AckOldest),
        1 => Just(Step::Ping),
        4 => Just(Step::Connect),
        1 => Just(Step::Closed),
        1 => Just(Step::Disconnect),
        1 => (0..20_u16).prop_map(Step::Wait),
        4 => Just(Step::Drain),
    ]
}

const BOUNDS: Bounds = Bounds {
    packet_bytes_max: 400,
    receive_max: NonZeroU16::new(3).unwrap(),
    topic_alias_max: 2,
    topic_levels_max: 4,
    in_flight_max: NonZeroU16::new(4).unwrap(),
    in_flight_bytes_max: 500,
    requests_max: 2,
    events_max: 8,
    output_bytes_max: 600,
};

/// A core, and what its driver has seen.
struct Watched {
    core: Core,
    version: Version,
    now: std::time::Instant,
    /// Tokens given and not yet answered.
    open: BTreeMap<Token, &'static str>,
    acks: Vec<AckToken>,
    /// A connection was begun and its end not yet seen.
    attempt: bool,
}

impl Watched {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Ack { first, id } => self.receive(&[*first, 2, 0, *id]),
            Step::Message { qos, dup, id, payload_bytes } => {
                self.receive_message(*qos, *dup, *id, *payload_bytes);
            }
            Step::SubAck { id, reasons } => {
                let properties: &[u8] = if self.version == Version::V5 { &[0] } else { &[] };
                let body = [&[0, *id], properties, reasons].concat();
                self.receive(&[&[0x90, body.len() as u8], &body[..]].concat());
            }
            Step::Pong => self.receive(&[0xD0, 0]),
            Step::Bytes(bytes) => self.receive(bytes),
            Step::ConnAck { present } => self.receive(match (self.version, present) {
                (Version::V5, false) => CONNACK_V5,
                (Version::V5, true) => CONNACK_V5_PRESENT,
                (_, false) => CONNACK_V3,
                (_, true) => CONNACK_V3_PRESENT,
            }),
            Step::Publish { qos, payload_bytes } => {
                let message = Publish::new("t", vec![0; usize::from(*payload_bytes)])
                    .with_qos(QoS::from_u8(*qos).expect("0 to 2"));
                if let Ok(token) = self.core.publish(self.now, &message) {
                    assert!(self.open.insert(token, "publish").is_none());
                }
            }
            Step::Subscribe => {
                if let Ok(token) = self.core.subscribe(self.now, &Subscribe::new("t/#", QoS::ExactlyOnce)) {
                    assert!(self.open.insert(token, "subscribe").is_none());
                }
            }
            Step::Unsubscribe => {
                if let Ok(token) = self.core.unsubscribe(self.now, &[Text::from("t/#")]) {
                    assert!(self.open.insert(token, "unsubscribe").is_none());
                }
            }
            Step::AckOldest => {
                if !self.acks.is_empty() {
                    let token = self.acks.remove(0);
                    // Stale or not: never twice.
                    if self.core.ack(self.now, token).is_ok() {
                        assert!(self.core.ack(self.now, token).is_err());
                    }
                }
            }
            Step::Ping => drop(self.core.ping(self.now)),
            Step::Connect => {
                // The driver's contract: the last connection is drained before the next begins.
                self.drain();
                if self.core.connect(self.now).is_ok() {
                    assert!(!self.attempt);
                    self.attempt = true;
                }
            }
            Step::Closed => self.core.handle_closed(self.now),
            Step::Disconnect => drop(self.core.disconnect(self.now, ReasonCode::NORMAL_DISCONNECTION)),
            Step::Wait(seconds) => {
                self.now += Duration::from_secs((*seconds).into());
                self.core.handle_timeout(self.now);
            }
            Step::Drain => self.drain(),
        }
        self.check();
    }

    fn receive_message(&mut self, qos: u8, dup: bool, id: u8, payload_bytes: u8) {
        let mut body = vec![0, 1, b't'];
        if qos > 0 {
            body.extend_from_slice(&[0, id]);
        }
        if self.version == Version::V5 {
            body.push(0);
        }
        body.resize(body.len() + usize::from(payload_bytes), 7);
        let first = 0x30 | u8::from(dup) << 3 | qos << 1;
        let length = [body.len() as u8 | 0x80, (body.len() >> 7) as u8];
        let length: &[u8] = if body.len() < 128 { &[body.len() as u8] } else { &length };
        self.receive(&[&[first], length, &body[..]].concat());
    }

    fn receive(&mut self, bytes: &[u8]) {
        let taken = self.core.handle_bytes(self.now, bytes);
        assert!(taken <= bytes.len());
        if taken < bytes.len() {
            // Full: what was not taken is handed in again after draining, as the contract says.
            self.drain();
            let rest = &bytes[taken..];
            assert!(self.core.handle_bytes(self.now, rest) > 0, "room after draining");
        }
    }

    fn check(&self) {
        assert!(self.core.in_flight() <= usize::from(BOUNDS.in_flight_max.get()));
        // One packet beyond the bound, the largest of which is a PUBLISH of ours; a DISCONNECT on top.
        assert!(self.core.output_bytes() < BOUNDS.output_bytes_max + 320, "{}", self.core.output_bytes());
        assert_eq!(self.core.is_attached(), self.core.poll_timeout().is_some());
    }

    fn drain(&mut self) {
        let mut events = 0;
        while self.core.poll_output().is_some() {}
        while let Some(event) = self.core.poll_event() {
            events += 1;
            match event {
                Event::Message(message) => self.acks.extend(message.ack),
                Event::PublishDone { token, .. } => self.close(token, "publish"),
                Event::Subscribed { token, .. } => self.close(token, "subscribe"),
                Event::Unsubscribed { token, .. } => self.close(token, "unsubscribe"),
                Event::Lost { token } => assert!(self.open.remove(&token).is_some(), "lost twice"),
                Event::Refused { .. } | Event::Disconnected(_) => {
                    assert!(self.attempt, "an end without a beginning");
                    self.attempt = false;
                }
                Event::Connected { .. } => assert!(self.attempt),
                Event::Pong | Event::Auth { .. } => {}
            }
        }
        // Beyond the bound only what one packet or one end can cause: the window, the requests, two events of the connection.
        let extra = usize::from(BOUNDS.in_flight_max.get()) + BOUNDS.requests_max + 2;
        assert!(events <= BOUNDS.events_max + extra, "{events} events");
    }

    fn close(&mut self, token: Token, kind: &str) {
        assert_eq!(self.open.remove(&token), Some(kind));
    }
}

fn watched(version: Version, acks: Acks) -> Watched {
    let options = Options {
        clean_start: false,
        session_expiry_s: (version == Version::V5).then_some(60),
        keep_alive_s: 30,
        acks,
        bounds: BOUNDS,
        ..options(version)
    };
    Watched {
        core: Core::new(options, 1),
        version,
        now: beginning(),
        open: BTreeMap::new(),
        acks: Vec::new(),
        attempt: false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_things_keeps_the_invariants(
        version in prop_oneof![Just(Version::V31), Just(Version::V311), Just(Version::V5)],
        manual in any::<bool>(),
        steps in vec(step(), 1..120),
    ) {
        let mut watched = watched(version, if manual { Acks::Manual } else { Acks::Automatic });
        for step in &steps {
            watched.take(step);
        }
        watched.core.handle_closed(watched.now);
        watched.drain();
        assert!(!watched.attempt, "each connection ends");
        // What is still open is in flight, and nothing else.
        assert!(watched.open.values().all(|kind| *kind == "publish"));
        assert_eq!(watched.open.len(), watched.core.in_flight());
    }

    #[test]
    fn any_bytes_after_connack_are_taken_or_end_the_connection(bytes in vec(any::<u8>(), 0..300), piece in 1..50_usize) {
        let mut watched = watched(Version::V5, Acks::Automatic);
        watched.take(&Step::Connect);
        watched.take(&Step::ConnAck { present: false });
        for piece in bytes.chunks(piece) {
            watched.receive(piece);
            watched.drain();
        }
    }
}
