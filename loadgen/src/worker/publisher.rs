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
    /// Messages meant up to this time were held back by the broker.
    pub(super) held_until: Nanos,
    /// Since when: what was due before had been late by our own doing.
    held_since: Nanos,
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
    /// Given to the client within the measured window, whenever they were meant to be.
    pub(crate) left_in_window: u64,
    /// Written to the transport (QoS 0) or acknowledged (QoS 1 and 2): these must arrive.
    pub(crate) confirmed: u64,
    /// Refused by the broker with a reason code, or by the limits that it announced.
    pub(crate) refused: u64,
    /// Held back by the broker: the connection or its window was full at the intended time.
    pub(crate) held_back: u64,
    /// Meant to be sent in the run and never sent.
    pub(crate) unsent: u64,
    /// Of these, meant within the measured window.
    pub(crate) unsent_in_window: u64,
    /// Of QoS 1 and 2: neither acknowledged nor refused when the run was over, on a connection that was there.
    pub(crate) unanswered: u64,
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
            held_since: 0,
            forgiven: 0,
            counts: PublisherCounts::default(),
        }
    }

    /// The client has no room at `now` for the message that was due at `at`.
    pub(super) fn begin_hold(&mut self, at: Nanos, now: Nanos) {
        if at > self.held_until {
            self.held_since = now;
        }
        self.held = true;
    }

    /// The client may have room again: whatever is due by `now` was held back.
    pub(super) fn end_hold(&mut self, now: Nanos) {
        if std::mem::take(&mut self.held) {
            self.held_until = now;
        }
    }

    /// How late a message that was held back had been before, by our own doing; `None` if it was not late then.
    pub(super) fn late_before_hold(&self, at: Nanos) -> Option<Nanos> {
        self.held_since.checked_sub(at).filter(|late| *late > 0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_before_a_hold_is_ours_and_after_its_beginning_the_brokers() {
        let mut publisher = Publisher::new(0, 0, "t".to_owned(), QoS::AtLeastOnce);
        // We stood still until 600; the window was found full then, and is free at 700.
        publisher.begin_hold(100, 600);
        publisher.end_hold(700);
        assert_eq!(
            [100, 599, 600, 650].map(|at| publisher.late_before_hold(at)),
            [Some(500), Some(1), None, None]
        );
        // It is full again at once: the same hold, for what was due in it.
        publisher.begin_hold(650, 700);
        publisher.end_hold(800);
        assert_eq!(publisher.late_before_hold(650), None);
        // A new one, in which we come too late again.
        publisher.begin_hold(810, 900);
        assert_eq!((publisher.late_before_hold(810), publisher.held_until), (Some(90), 800));
    }
}
