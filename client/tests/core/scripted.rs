//! A core against a peer whose packets are written out, on virtual time.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quelea_client::{Core, Event, Options, Text};
use quelea_mqtt::{Limits, Packet, Sender, Version, decode, peek_frame};

/// CONNACK of MQTT 3.1.1: accepted, no session.
pub(crate) const CONNACK_V3: &[u8] = &[0x20, 0x02, 0x00, 0x00];
/// CONNACK of MQTT 3.1.1: accepted, session present.
pub(crate) const CONNACK_V3_PRESENT: &[u8] = &[0x20, 0x02, 0x01, 0x00];
/// CONNACK of MQTT 5: accepted, no session, no properties.
pub(crate) const CONNACK_V5: &[u8] = &[0x20, 0x03, 0x00, 0x00, 0x00];
/// CONNACK of MQTT 5: accepted, session present, no properties.
pub(crate) const CONNACK_V5_PRESENT: &[u8] = &[0x20, 0x03, 0x01, 0x00, 0x00];

/// A core and its time.
pub(crate) struct Scripted {
    pub(crate) core: Core,
    pub(crate) now: Instant,
}

impl Scripted {
    pub(crate) fn new(options: Options) -> Self {
        Self { core: Core::new(options, 7), now: beginning() }
    }

    /// Connected with this CONNACK; CONNECT and the event are taken out.
    pub(crate) fn connected(options: Options, connack: &[u8]) -> Self {
        let mut scripted = Self::new(options);
        scripted.reconnect(connack);
        scripted
    }

    pub(crate) fn reconnect(&mut self, connack: &[u8]) {
        self.core.connect(self.now).expect("detached");
        let connect = self.sent();
        assert_eq!(connect.first(), Some(&0x10), "CONNECT comes first");
        self.receive(connack);
        match self.core.poll_event() {
            Some(Event::Connected { .. }) => {}
            other => panic!("connected was expected, not {other:?}"),
        }
    }

    /// The server sends `bytes`, and all of them are taken.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        assert_eq!(self.core.handle_bytes(self.now, bytes), bytes.len());
    }

    /// All that the core wants written.
    pub(crate) fn sent(&mut self) -> Bytes {
        let mut all = BytesMut::new();
        while let Some(bytes) = self.core.poll_output() {
            all.extend_from_slice(&bytes);
        }
        all.freeze()
    }

    pub(crate) fn event(&mut self) -> Event {
        self.core.poll_event().expect("an event")
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.core.poll_event()).collect()
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    /// Time goes on to the core's timer.
    pub(crate) fn advance_to_timer(&mut self) {
        self.now = self.core.poll_timeout().expect("an armed timer");
        self.core.handle_timeout(self.now);
    }
}

/// Where virtual time begins; the only look at a clock.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be made from nothing; every later time is computed"
)]
pub(crate) fn beginning() -> Instant {
    Instant::now()
}

/// Options of the shortest client: id "c", keep alive 60 s.
pub(crate) fn options(version: Version) -> Options {
    Options { version, ..Options::new(Text::from_static("c")) }
}

/// The packets in `bytes`, as a server reads them.
pub(crate) fn packets(bytes: &Bytes, version: Version) -> Vec<Packet<'_>> {
    let limits = Limits::default();
    let mut rest = &bytes[..];
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let frame = peek_frame(rest, Sender::Client, &limits).expect("legal").expect("whole");
        let (packet, after) = rest.split_at(frame.packet_bytes);
        packets.push(decode(packet, version, Sender::Client, &limits).expect("what a client may send"));
        rest = after;
    }
    packets
}
