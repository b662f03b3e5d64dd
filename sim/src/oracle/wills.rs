//! Wills: how often each must and may have fired. A client core has one Will for its life, so a Will can fire once for
//! each of its connections.
//!
//! A Will with a delay fires when the delay has passed or the session ends, whichever comes first, unless its client has
//! resumed the session before `[MQTT-3.1.3-9]`. The oracle knows when the client lost its connection and when it came
//! back, and bounds when the broker heard of either; only between the bounds it may fire or not.
//!
//! ```text
//!   lost        heard at the latest          CONNECT sent     CONNACK seen
//!    │◄──── the delay begins ────►│              │◄── resumed ──►│
//!    ├── delay ──►                ├── delay ──►  │               │    must: the later end lies before CONNECT
//!    ├─────────────────────────── delay ─────────────────────────┼─►  must not: the earlier end lies after CONNACK
//! ```

use std::time::{Duration, Instant};

use super::{Oracle, PubId};

/// How often a Will fires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Firings {
    /// Connections that ended without a word, and whose delay has passed.
    pub(crate) must: u32,
    /// Connections that left it open: a CONNECT that was never answered, a farewell that was not heard, a delay that may
    /// or may not have passed in time.
    pub(crate) may: u32,
}

/// A Will whose delay may still pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delayed {
    pub(crate) will: PubId,
    /// When the client lost its connection.
    pub(crate) lost: Instant,
    /// When the broker has heard of it at the latest, if the client does not come back.
    pub(crate) heard_by: Instant,
    /// The delay, or the time until the session expires if that is shorter.
    pub(crate) delay: Duration,
    /// When the client first tried to come back.
    pub(crate) tried: Option<Instant>,
}

impl Oracle {
    /// A connection with this Will has ended (or, with a negative number, was found not to count).
    pub(crate) fn on_will(&mut self, id: PubId, must: bool, times: i32) {
        let Some(firings) = &mut self.publications[id.0 as usize].will else { return };
        let count = if must { &mut firings.must } else { &mut firings.may };
        *count = count.saturating_add_signed(times);
    }

    /// A connection whose Will has a delay was lost.
    pub(crate) fn on_delayed_will(&mut self, actor: usize, delayed: Delayed) {
        let before = self.clients[actor].delayed.replace(delayed);
        debug_assert!(before.is_none(), "a connection begins with a CONNECT, and lasts from its CONNACK on");
    }

    /// The client tries to come back: with a clean start, the session ends and its Will fires.
    pub(super) fn will_at_connect(&mut self, actor: usize, now: Instant, clean: bool) {
        let Some(delayed) = &mut self.clients[actor].delayed else { return };
        if !clean {
            delayed.tried.get_or_insert(now);
            return;
        }
        let will = delayed.will;
        self.clients[actor].delayed = None;
        self.on_will(will, true, 1);
    }

    /// The client is back.
    pub(super) fn will_at_connack(&mut self, actor: usize, now: Instant, session_present: bool) {
        let Some(Delayed { will, lost, heard_by, delay, tried }) = self.clients[actor].delayed.take() else {
            return;
        };
        let tried = tried.expect("no CONNACK without a CONNECT");
        if !session_present || heard_by + delay < tried {
            self.on_will(will, true, 1);
        } else if lost + delay < now + SLACK {
            self.on_will(will, false, 1);
        }
    }

    /// Compares with what the watcher has seen, which subscribed to all of them before there were any.
    pub(super) fn judge_wills(&mut self, watcher: usize) {
        let session = self.clients[watcher].session;
        let wrong = self.publications.iter().enumerate().find_map(|(index, publication)| {
            let Firings { must, may } = publication.will?;
            let came = self.seen(watcher, session, index).live;
            let lost = self.losses.of_session(watcher, PubId(index as u64)) as u32;
            let right = (must.saturating_sub(lost)..=must + may).contains(&came);
            (!right).then(|| {
                format!(
                    "Will {index} of client {} came {came} times: {must} were due, {may} more were possible, {lost} were lost",
                    publication.actor
                )
            })
        });
        if let Some(wrong) = wrong {
            self.accuse(wrong);
        }
    }
}

/// So much earlier than its client the broker may know that a connection has ended: it may have ended it itself.
const SLACK: Duration = Duration::from_millis(250);
