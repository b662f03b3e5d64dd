//! Publishing what is due.
//!
//! ```text
//!            its time comes          room for it
//!   Schedule ──────────────▶ pump ──────────────▶ Core::publish ─▶ next time ─▶ Schedule
//!                             ▲ │ the window or the connection is full
//!                   room again │ ▼
//!                             Client, Window
//! ```

use std::cmp::Reverse;
use std::sync::atomic::Ordering;
use std::time::Instant;

use quelea_client::Refusal;
use quelea_mqtt::QoS;

use super::client::Part;
use super::floor::Floor;
use super::publisher::Hold;
use crate::clock::{Nanos, SECOND};
use crate::payload::Stamp;
use crate::schedule::{Place, Schedule};
use crate::shared::Phase;

/// What came of an attempt to publish one message.
enum Step {
    Published,
    Held(Hold),
}

impl Floor {
    /// Every publisher gets its schedule.
    pub(super) fn begin_load(&mut self, start: Nanos) {
        let load = &self.plan.load;
        for (index, publisher) in self.publishers.iter_mut().enumerate() {
            let place = Place { index: publisher.number, of: self.plan.publishers };
            let schedule = Schedule::new(load.rate, load.spacing, place, self.plan.reach.seed, start);
            if publisher.hold != Hold::Done {
                self.due.push(Reverse((schedule.next(start), index)));
            }
            publisher.schedule = Some(schedule);
        }
    }

    pub(super) fn publish_due(&mut self, now: Nanos) {
        self.look_at_windows(now);
        let mut freed = std::mem::take(&mut self.freed);
        for place in freed.drain(..) {
            self.pump(place, now);
        }
        self.freed = freed;
        while let Some(Reverse((at, place))) = self.due.peek().copied() {
            if at > now {
                return;
            }
            self.due.pop();
            self.pump(place, now);
        }
    }

    /// There may be room on a client again.
    pub(super) fn free(&mut self, local: usize) {
        if let Part::Publisher(place) = self.clients[local].part
            && self.publishers[place].hold == Hold::Client
            && self.clients[local].has_room(self.publishers[place].qos)
        {
            // Not again before `pump` has found it full again.
            self.publishers[place].hold = Hold::Schedule;
            self.freed.push(place);
        }
    }

    /// A client is gone for good, and so are the messages that its publisher had not sent.
    pub(super) fn give_up(&mut self, local: usize) {
        if let Part::Publisher(place) = self.clients[local].part {
            self.publishers[place].hold = Hold::Done;
            self.publishers[place].unacknowledged.clear();
        }
    }

    /// Publishes all that is due of one publisher, as far as there is room.
    fn pump(&mut self, place: usize, now: Nanos) {
        if self.publishers[place].hold == Hold::Done {
            return;
        }
        self.publishers[place].end_hold(now);
        let instant = Instant::now();
        loop {
            let Some(schedule) = &self.publishers[place].schedule else { return };
            let at = schedule.next(now);
            if at >= self.window.to || self.phase == Phase::Leave {
                self.publishers[place].hold = Hold::Done;
                return;
            }
            if at > now {
                self.publishers[place].hold = Hold::Schedule;
                self.due.push(Reverse((at, place)));
                return;
            }
            match self.publish_one(place, instant, at, now) {
                Step::Published => {}
                Step::Held(hold) => {
                    self.hold(place, hold);
                    return;
                }
            }
        }
    }

    fn hold(&mut self, place: usize, hold: Hold) {
        self.publishers[place].hold = hold;
        if let Hold::Window { .. } = hold {
            self.waiting.push(place);
        }
    }

    /// One attempt; what is refused for good is counted and passed over.
    fn publish_one(&mut self, place: usize, instant: Instant, at: Nanos, now: Nanos) -> Step {
        if !self.has_window(place) {
            return Step::Held(Hold::Window { since: now });
        }
        let publisher = &mut self.publishers[place];
        let stamp = Stamp {
            run: self.plan.run,
            publisher: publisher.number,
            sequence: publisher.sequence,
            intended: at,
        };
        publisher.template.payload = self.payloads.write(&stamp);
        let result = self.clients[publisher.client].core.publish(instant, &publisher.template);
        match result {
            Ok(token) => {
                publisher.sequence += 1;
                publisher.counts.published += 1;
                self.totals.published += 1;
                publisher.counts.published_in_window += u64::from(self.window.contains(at));
                publisher.counts.left_in_window += u64::from(self.window.contains(now));
                if publisher.qos != QoS::AtMostOnce {
                    publisher.unacknowledged.push_back((token, at));
                }
                match self.plan.is_open_loop() {
                    true if at <= publisher.held_until => {
                        publisher.counts.held_back += 1;
                        if let Some(late) = publisher.late_before_hold(at)
                            && self.window.contains(at)
                        {
                            self.record.lag.saturating_record(late);
                        }
                    }
                    true => self.written.push(at),
                    // Without a schedule nothing is late.
                    false => {}
                }
                let client = publisher.client;
                self.mark_dirty(client);
            }
            Err(Refusal::Full | Refusal::NotConnected) => {
                publisher.begin_hold(at, now);
                return Step::Held(Hold::Client);
            }
            Err(refusal) => {
                publisher.counts.refused += 1;
                self.links.errors.note(&format!("publication refused: {refusal}"));
            }
        }
        if let Some(schedule) = &mut self.publishers[place].schedule {
            schedule.advance();
        }
        Step::Published
    }

    /// Whether the window of `--rate max` at QoS 0 lets one more message out.
    fn has_window(&self, place: usize) -> bool {
        let publisher = &self.publishers[place];
        let Some(seen) = self.shared.seen.get(publisher.number as usize) else { return true };
        if publisher.qos != QoS::AtMostOnce {
            return true;
        }
        let settled = seen.load(Ordering::Acquire).max(publisher.forgiven);
        publisher.sequence.saturating_sub(settled) < self.plan.load.window.into()
    }

    /// Frees the publishers whose messages have been seen, and those that have waited for a second: what they wait for is
    /// lost.
    fn look_at_windows(&mut self, now: Nanos) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|place| {
            let Hold::Window { since } = self.publishers[*place].hold else { return false };
            if self.has_window(*place) {
                self.publishers[*place].hold = Hold::Schedule;
                self.freed.push(*place);
                return false;
            }
            if now.saturating_sub(since) >= WINDOW_PATIENCE || now >= self.window.to {
                self.forgive(*place);
                return false;
            }
            true
        });
        self.waiting = waiting;
    }

    fn forgive(&mut self, place: usize) {
        let publisher = &mut self.publishers[place];
        publisher.forgiven = publisher.sequence;
        publisher.hold = Hold::Schedule;
        self.links.windows_forgiven += 1;
        self.freed.push(place);
    }
}

/// A window that nothing has moved for this long waits for messages that are lost.
const WINDOW_PATIENCE: Nanos = SECOND;
