//! The floor of a thread: its clients, and all that has a time. `opening`, `input`, `load`, `output` and `quic` are what is done on it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use quelea_mqtt::ReasonCode;
use quelea_udp_io::{Backend, DoorId};

use super::client::{Client, Part, Stage};
use super::publisher::{Hold, Publisher};
use super::quic::QuicSide;
use super::receiver::Receiver;
use super::{Links, Outcome, Second};
use crate::clock::{Clock, Nanos, SECOND};
use crate::payload::Payloads;
use crate::plan::{Plan, Role};
use crate::record::{Latencies, Record, latencies};
use crate::shared::{Phase, Shared};

/// The measured window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) from: Nanos,
    pub(super) to: Nanos,
}

impl Window {
    pub(super) fn contains(self, time: Nanos) -> bool {
        self.from <= time && time < self.to
    }
}

/// Something of number `usize` at a time; the earliest first.
pub(super) type Agenda = BinaryHeap<Reverse<(Nanos, usize)>>;

pub(super) struct Floor {
    pub(super) plan: Arc<Plan>,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Clock,
    index: usize,
    pub(super) clients: Vec<Client>,
    /// Made if the URL says so.
    pub(super) quic: Option<QuicSide>,
    /// Scratch: bytes of MQTT, and bytes between two layers.
    pub(super) plain: Vec<u8>,
    pub(super) between: Vec<u8>,
    pub(super) by_door: HashMap<u64, usize, FixedState>,
    pub(super) publishers: Vec<Publisher>,
    pub(super) receivers: Vec<Receiver>,
    pub(super) payloads: Payloads,
    /// Clients to be connected.
    pub(super) opens: Agenda,
    /// Clients whose core has a time; one entry each, which may be too early.
    timers: Agenda,
    /// Publishers whose next message has a time.
    pub(super) due: Agenda,
    /// Publishers that may go on.
    pub(super) freed: Vec<usize>,
    /// Publishers that wait for a subscriber.
    pub(super) waiting: Vec<usize>,
    pub(super) dirty: Vec<usize>,
    /// Intended times of what was published in this turn.
    pub(super) written: Vec<Nanos>,
    pub(super) phase: Phase,
    pub(super) window: Window,
    start: Nanos,
    /// The first input of this turn came at, or may have come at.
    pub(super) input_at: Option<Nanos>,
    /// Messages that had arrived when this turn began.
    arrived_before: u64,
    /// Turns so far.
    pub(super) turn: u64,
    pub(super) reads: Reads,
    pub(super) record: Record,
    pub(super) second: RunningSecond,
    pub(super) links: Links,
    pub(super) totals: Totals,
}

/// What this thread shows on its board.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) published: u64,
    pub(super) confirmed: u64,
    pub(super) arrived: u64,
    pub(super) received: u64,
}

/// What has been read: a door counts once in a turn, and so does a datagram.
#[derive(Clone, Copy, Default)]
pub(super) struct Reads {
    pub(super) in_turn: u64,
    pub(super) all: u64,
    /// Doors that had at least a whole share of bytes for a turn: more may have been waiting.
    pub(super) full: u64,
}

/// The second under way.
pub(super) struct RunningSecond {
    number: u64,
    published: u64,
    confirmed: u64,
    received: u64,
    pub(super) delivery: Latencies,
}

impl Floor {
    pub(super) fn new(plan: &Arc<Plan>, shared: &Arc<Shared>, clock: Clock, index: usize) -> Self {
        let mut floor = Self {
            plan: Arc::clone(plan),
            shared: Arc::clone(shared),
            clock,
            index,
            clients: Vec::new(),
            quic: None,
            plain: Vec::new(),
            between: Vec::new(),
            by_door: HashMap::with_hasher(FixedState::with_seed(plan.reach.seed)),
            publishers: Vec::new(),
            receivers: Vec::new(),
            payloads: Payloads::new(plan.load.payload_bytes),
            opens: Agenda::new(),
            timers: Agenda::new(),
            due: Agenda::new(),
            freed: Vec::new(),
            waiting: Vec::new(),
            dirty: Vec::new(),
            written: Vec::new(),
            phase: Phase::Ramp,
            window: Window { from: u64::MAX, to: u64::MAX },
            start: 0,
            input_at: None,
            arrived_before: 0,
            turn: 0,
            reads: Reads::default(),
            record: Record::new(),
            second: RunningSecond {
                number: 0,
                published: 0,
                confirmed: 0,
                received: 0,
                delivery: latencies(),
            },
            links: Links::default(),
            totals: Totals::default(),
        };
        (0..plan.clients())
            .filter(|client| plan.thread_of(*client) == index)
            .for_each(|client| floor.add(client));
        floor
    }

    fn add(&mut self, number: u32) {
        let plan = Arc::clone(&self.plan);
        let local = self.clients.len();
        let part = match plan.role(number) {
            Role::Idle => Part::Idle,
            Role::Subscriber(subscriber) => Part::Receiver(self.receiver(plan.receiver_of(subscriber))),
            Role::Publisher(publisher) => {
                let topic = plan.topic_of(publisher);
                self.publishers.push(Publisher::new(publisher, local, topic, plan.qos_of(publisher)));
                Part::Publisher(self.publishers.len() - 1)
            }
        };
        self.clients.push(Client::new(&plan, number, part));
    }

    /// The place of a receiver, whose members come one after the other.
    fn receiver(&mut self, number: u32) -> usize {
        if self.receivers.last().is_none_or(|last| last.number != number) {
            let publishers = self.plan.publishers_of(number);
            self.receivers.push(Receiver::new(number, self.plan.run, publishers));
        }
        self.receivers.len() - 1
    }

    /// The earliest of all that has a time.
    pub(super) fn next_wake(&self, now: Nanos) -> Nanos {
        if !self.freed.is_empty() {
            return now;
        }
        let first = |agenda: &Agenda| agenda.peek().map(|Reverse((at, _))| *at);
        let mut wake = now + WAIT_MAX;
        for at in [first(&self.opens), first(&self.timers), first(&self.due), self.quic_wake()]
            .into_iter()
            .flatten()
        {
            wake = wake.min(at);
        }
        if !self.waiting.is_empty() {
            wake = wake.min(now + WINDOW_LOOK);
        }
        if self.phase >= Phase::Run {
            let ends = [self.window.from, self.window.to, self.start + (self.second.number + 1) * SECOND];
            wake = ends.into_iter().filter(|end| *end > now).fold(wake, Nanos::min);
        }
        wake
    }

    /// Sees what the coordinator has decided.
    pub(super) fn follow_phase(&mut self, now: Nanos) {
        let phase = self.shared.phase();
        if phase == Phase::Ramp {
            return;
        }
        self.window = Window { from: self.shared.measure_from(), to: self.shared.measure_to() };
        // A run that was cut short in its ramp has no start.
        if self.start == 0 && self.shared.start() != 0 {
            self.start = self.shared.start();
            self.begin_load(self.start);
        }
        if phase == Phase::Leave && self.phase != Phase::Leave {
            self.leave(now);
        }
        self.phase = phase;
    }

    /// Everyone says goodbye; who is not connected is given up.
    fn leave(&mut self, now: Nanos) {
        self.opens.clear();
        for publisher in &mut self.publishers {
            // Who is lost without a connection has been taken out of it.
            publisher.counts.unanswered = publisher.unacknowledged.len() as u64;
        }
        let instant = Instant::now();
        for local in 0..self.clients.len() {
            let client = &mut self.clients[local];
            if client.core.is_attached() {
                // Refused only without a connection.
                let _ = client.core.disconnect(instant, ReasonCode::NORMAL_DISCONNECTION);
                self.mark_dirty(local);
            } else {
                client.stage = Stage::Ended;
            }
        }
        self.phase = Phase::Leave;
        (0..self.clients.len()).for_each(|local| self.drain_events(local, instant, now));
    }

    pub(super) fn has_left(&self) -> bool {
        self.by_door.is_empty() && self.quic.as_ref().is_none_or(|quic| quic.endpoint.connections() == 0)
    }

    pub(super) fn arm_timer(&mut self, local: usize) {
        if let Some(at) = self.clients[local].core.poll_timeout() {
            self.timers.push(Reverse((self.clock.nanos_at(at), local)));
        }
    }

    pub(super) fn fire_timers(&mut self, now: Nanos) {
        if let Some(quic) = &mut self.quic {
            quic.endpoint.handle_timeout(Instant::now());
        }
        while let Some(Reverse((at, local))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            let instant = Instant::now();
            self.clients[local].core.handle_timeout(instant);
            self.drain_events(local, instant, now);
            self.mark_dirty(local);
            self.arm_timer(local);
        }
    }

    pub(super) fn client_of(&self, door: DoorId) -> Option<usize> {
        self.by_door.get(&u64::from(door)).copied()
    }

    /// The door's name is no longer good.
    pub(super) fn forget_door(&mut self, door: DoorId) -> Option<usize> {
        self.by_door.remove(&u64::from(door))
    }

    /// The second that is over by now, if there is one.
    pub(super) fn second_over(&mut self, now: Nanos) -> Option<u64> {
        if self.start == 0 || now < self.start {
            return None;
        }
        let number = (now - self.start) / SECOND;
        (number > self.second.number).then_some(number)
    }

    /// Ends the second under way; the next is `number`.
    pub(super) fn take_second(&mut self, number: u64, empty: Latencies) -> Second {
        let second = &mut self.second;
        let over = Second {
            number: second.number,
            published: self.totals.published - second.published,
            confirmed: self.totals.confirmed - second.confirmed,
            received: self.totals.received - second.received,
            delivery: std::mem::replace(&mut second.delivery, empty),
        };
        (second.published, second.confirmed, second.received) =
            (self.totals.published, self.totals.confirmed, self.totals.received);
        second.number = number;
        over
    }

    /// The thread was to wake at `wake` at the latest. If its first input of this turn was read after that, it may have waited since then:
    /// who is not given a core cannot know when it came.
    pub(super) fn note_wake(&mut self, wake: Nanos) {
        self.input_at = self.input_at.map(|at| at.min(wake));
    }

    /// The writes of this turn are done.
    pub(super) fn note_turn(&mut self, done: Nanos) {
        for intended in self.written.drain(..) {
            if self.window.contains(intended) {
                self.record.lag.saturating_record(done.saturating_sub(intended).max(1));
            }
        }
        if let Some(input_at) = self.input_at
            && self.window.contains(input_at)
        {
            // A long turn delays all that is read in it: many messages in a few long turns are many delayed messages.
            let delayed = self.reads.in_turn.max(self.totals.arrived - self.arrived_before);
            self.record.turn.saturating_record_n(done.saturating_sub(input_at).max(1), delayed.max(1));
        }
        self.arrived_before = self.totals.arrived;
        self.reads.in_turn = 0;
        self.turn += 1;
    }

    pub(super) fn publish_board(&self) {
        let board = &self.shared.boards[self.index];
        let busy = if self.phase == Phase::Ramp {
            0
        } else {
            self.publishers.iter().filter(|one| one.is_busy()).count()
        };
        for (figure, value) in [
            (&board.ready, self.links.ready),
            (&board.failed, self.links.failed),
            (&board.lost, self.links.lost),
            (&board.published, self.totals.published),
            (&board.confirmed, self.totals.confirmed),
            (&board.arrived, self.totals.arrived),
            (&board.received, self.totals.received),
            (&board.busy, busy as u64),
        ] {
            figure.store(value, Ordering::Relaxed);
        }
    }

    pub(super) fn finish(mut self, io: Backend) -> Outcome {
        for publisher in &mut self.publishers {
            count_unsent(publisher, self.window);
        }
        let mut links = self.links;
        for client in &self.clients {
            links.excess += client.core.counters().excess_in;
        }
        links.foreign += self.receivers.iter().map(|receiver| receiver.foreign).sum::<u64>();
        Outcome {
            record: self.record,
            publishers: self.publishers.iter().map(|one| (one.number, one.qos, one.counts)).collect(),
            receivers: self.receivers.iter().map(|one| (one.number, one.results())).collect(),
            links,
            io,
            effort: super::Effort::default(),
        }
    }
}

/// Messages that were due before the end of the window and never left.
fn count_unsent(publisher: &mut Publisher, window: Window) {
    let Some(schedule) = publisher.schedule.as_mut() else { return };
    // At the maximum rate nothing was promised.
    while schedule.next(u64::MAX) < window.to && publisher.counts.unsent < UNSENT_MAX {
        publisher.counts.unsent_in_window += u64::from(window.contains(schedule.next(u64::MAX)));
        publisher.counts.unsent += 1;
        schedule.advance();
    }
    publisher.hold = Hold::Done;
}

/// The longest wait: the coordinator's orders come with a bell, this is the belt to that brace.
const WAIT_MAX: Nanos = SECOND / 10;
/// How often a publisher looks whether a subscriber of another thread has seen its messages.
const WINDOW_LOOK: Nanos = 200_000;
/// Counting stops here: a publisher that is so far behind has failed in any case.
const UNSENT_MAX: u64 = 100_000_000;
