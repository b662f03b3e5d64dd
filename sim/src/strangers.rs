//! Strangers: who sends datagrams to the broker and is no client of it. They cost it what they cost, and may cost its
//! clients nothing.

use bytes::BytesMut;

use crate::event::Event;
use crate::line::Way;
use crate::network::{BROKER, Flying};
use crate::world::{Act, World};

impl World {
    /// The first one is due.
    pub(crate) fn expect_strangers(&mut self) {
        let pause = self.plan.quic.as_ref().and_then(|plan| plan.weather.stranger_us.clone());
        if let Some(pause) = pause {
            let at = self.now + self.micros(pause);
            self.events.push(at, Event::Stranger);
        }
    }

    /// A stranger comes, and the next one is due.
    pub(crate) fn stranger(&mut self) {
        if self.phase != Act::Storm {
            return;
        }
        match self.random.u8(0..6) {
            0..3 => self.silent_client(),
            3 => self.noise(),
            4 => self.unknown_version(),
            _ => self.replay(),
        }
        self.expect_strangers();
    }

    /// Begins a handshake and falls silent: at once, after a Retry, or when it is connected.
    fn silent_client(&mut self) {
        let shard = self.random.usize(0..self.nodes.len());
        let prefix = 200 + self.random.u8(0..4);
        let id = self.new_line(None, shard, prefix);
        self.lines[id.0].patience = Some(self.random.u32(0..12));
    }

    fn noise(&mut self) {
        let mut bytes = vec![0; self.random.usize(1..1_400)];
        self.random.fill(&mut bytes);
        self.send_unasked(&bytes);
    }

    /// A first packet of a version that nobody speaks, long enough to deserve an answer (RFC 9000 §6.1).
    fn unknown_version(&mut self) {
        let mut bytes = vec![0; 1_200];
        self.random.fill(&mut bytes);
        bytes[..6].copy_from_slice(&[0xC0, 0x0B, 0xAD, 0xCA, 0xFE, 8]);
        bytes[14] = 8;
        self.send_unasked(&bytes);
    }

    /// Sends again, from elsewhere, what a client has sent.
    fn replay(&mut self) {
        let overheard = self.network().overheard.len();
        if overheard > 0 {
            let one = self.random.usize(0..overheard);
            let bytes = self.network().overheard[one].to_vec();
            self.send_unasked(&bytes);
        }
    }

    fn send_unasked(&mut self, bytes: &[u8]) {
        let prefix = 200 + self.random.u8(0..4);
        let from = self.new_address(prefix);
        let flying = Flying { from, to: BROKER, ecn: None, bytes: BytesMut::from(bytes) };
        self.launch(Way::Up, None, flying);
    }
}
