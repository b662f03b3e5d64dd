//! One publisher: its schedule, its numbers, and what is still to be acknowledged.
//!
//! Nothing is queued when the broker holds a publisher back: the schedule simply falls behind, and each message that leaves
//! late carries the time at which it was meant to leave.

use std::collections::VecDeque;

use quelea_client::{Publish, Text, Token};
use quelea_mqtt::QoS;

use crate::clock::Nanos;
use crate::schedule::Schedule;

pub(super) struct Publisher {
    /// Its number in the run.
    pub(super) number: u32,
    /// Its client on this thread.
    pub(super) client: usize,
    pub(super) template: Publish,
    pub(super) qos: QoS,
    /// `None` until the run begins.
    pub(super) schedule: Option<Schedule>,
    /// Number of the next message.
    pub(super) sequence: u64,
    /// Intended times of what is not acknowledged, at most the in-flight window.
    pub(super) unacknowledged: VecDeque<(Token, Nanos)>,
    pub(super) hold: Hold,
    /// The client had no room when it was last asked.
    pub(super) held: bool,
    /// Messages meant up to this time were held back by the broker, not by us.
    pub(super) held_until: Nanos,
    /// Messages that a stalled window has given up (see `Floor::forgive`).
    pub(super) forgiven: u64,
    pub(super) counts: PublisherCounts,
}

/// Why a publisher does not publish now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Its next message is in the list of due times, or it has not begun.
    Schedule,
    /// The client's window or output is full, or there is no connection.
    Client,
    /// Its last messages have not been seen by a subscriber, since this time.
    Window { since: Nanos },
    /// All its messages have been sent, or can never be.
    Done,
}

/// What became of a publisher's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PublisherCounts {
    /// Given to the client.
    pub(crate) published: u64,
    /// Of these, meant within the measured window.
    pub(crate) published_in_window: u64,
    /// Written to the transport (QoS 0) or acknowledged (QoS 1 and 2): these must arrive.
    pub(crate) confirmed: u64,
    /// Refused by the broker with a reason code, or by the limits that it announced.
    pub(crate) refused: u64,
    /// Held back by the broker: the connection or its window was full at the intended time.
    pub(crate) held_back: u64,
    /// Meant to be sent in the run and never sent.
    pub(crate) unsent: u64,
}

impl Publisher {
    pub(super) fn new(number: u32, client: usize, topic: String, qos: QoS) -> Self {
        Self {
            number,
            client,
            template: Publish::new(Text::from(topic), bytes::Bytes::new()).with_qos(qos),
            qos,
            schedule: None,
            sequence: 0,
            unacknowledged: VecDeque::new(),
            hold: Hold::Schedule,
            held: false,
            held_until: 0,
            forgiven: 0,
            counts: PublisherCounts::default(),
        }
    }

    /// Takes the intended time of an acknowledged message. They mostly come in order.
    pub(super) fn take(&mut self, token: Token) -> Option<Nanos> {
        let index = self.unacknowledged.iter().position(|(waiting, _)| *waiting == token)?;
        self.unacknowledged.remove(index).map(|(_, intended)| intended)
    }

    /// Still has something to send or to hear.
    pub(super) fn is_busy(&self) -> bool {
        self.hold != Hold::Done || !self.unacknowledged.is_empty()
    }
}
