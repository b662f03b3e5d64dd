//! Deadlines: connections (CONNECT, keep alive, close), sessions (Will, expiry), full subscribers, expired retained
//! messages.
//!
//! Lazy: an entry says when to look, not what is due. A connection that is heard from does not touch its entry; when the
//! entry comes up, the true deadline is computed and the entry moves there. A deadline that moves *earlier* gets a new
//! entry, and the old one is recognised as void because it is not the one in force.

use core::cmp::Ordering;
use std::time::Instant;

use quelea_mqtt::ReasonCode;

use crate::envelope::{GroupKey, LinkKey, SessionKey};
use crate::link::{Carrier, CloseHow, LinkState};
use crate::quic::Quic;
use crate::session::Presence;

use super::drain::Draining;
use super::{DoorAction, Shard};

/// When to look at what; the earliest is the greatest, for the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    at: Instant,
    of: TimerOf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TimerOf {
    Link(LinkKey),
    Session(SessionKey),
    /// Publications that wait for room in a session.
    Parked(SessionKey),
    /// Publications that wait for room in a shared group.
    ParkedGroup(GroupKey),
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at).then_with(|| other.of.cmp(&self.of))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Shard {
    /// The next time at which `handle_timeout` has something to do.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let own = self.timers.peek().map(|entry| entry.at);
        let quic = self.quic.as_mut().and_then(Quic::poll_timeout);
        let drain = self.draining.as_ref().and_then(Draining::due);
        [own, quic, self.retained_sweep_at, drain].into_iter().flatten().min()
    }

    /// Time has passed. What is more than a turn's work is due again at once: input comes in between.
    pub fn handle_timeout(&mut self, now: Instant) {
        let until = self.work + TIMERS_WORK;
        while self.work < until
            && let Some(entry) = self.timers.peek()
            && entry.at <= now
        {
            self.work += TIMER_WORK;
            let entry = self.timers.pop().expect("just seen");
            match entry.of {
                TimerOf::Link(key) => self.on_link_timer(now, key, entry.at),
                TimerOf::Session(key) => self.on_session_timer(now, key, entry.at),
                TimerOf::Parked(key) => self.on_park_deadline(now, key),
                TimerOf::ParkedGroup(key) => self.on_group_deadline(now, key),
            }
        }
        if self.retained_sweep_at.is_some_and(|at| at <= now) {
            self.sweep_retained(now);
        }
        self.on_drain_timer(now);
        if let Some(quic) = &mut self.quic {
            quic.handle_timeout(now);
        }
    }

    /// Entries outlive what they were for; when those are the most, they are thrown out.
    fn push_timer(&mut self, entry: Entry) {
        let alive = self.links.len() + 2 * self.sessions.len() + self.groups.len();
        if self.timers.len() > 2 * alive + TIMERS_SPARE {
            let mut timers = core::mem::take(&mut self.timers);
            timers.retain(|entry| self.is_in_force(entry));
            self.timers = timers;
        }
        self.timers.push(entry);
    }

    fn is_in_force(&self, entry: &Entry) -> bool {
        match entry.of {
            TimerOf::Link(key) => self.links.get(key).is_some_and(|link| link.armed == Some(entry.at)),
            TimerOf::Session(key) => {
                self.sessions.get(key).is_some_and(|session| session.armed == Some(entry.at))
            }
            TimerOf::Parked(key) => self.sessions.get(key).is_some_and(|session| session.parked_armed),
            TimerOf::ParkedGroup(key) => self.groups.get(key).is_some_and(|group| group.parked_armed),
        }
    }

    /// Has the connection looked at when its deadline comes, unless that is arranged already.
    pub(super) fn arm_link(&mut self, key: LinkKey) {
        let link = &mut self.links[key];
        let Some(at) = link.deadline(self.settings.connect_timeout) else { return };
        if link.armed.is_none_or(|armed| at < armed) {
            link.armed = Some(at);
            self.push_timer(Entry { at, of: TimerOf::Link(key) });
        }
    }

    fn on_link_timer(&mut self, now: Instant, key: LinkKey, at: Instant) {
        let Some(link) = self.links.get_mut(key).filter(|link| link.armed == Some(at)) else { return };
        link.armed = None;
        match link.deadline(self.settings.connect_timeout) {
            None => {}
            Some(due) if due > now => self.arm_link(key),
            Some(_) => self.on_link_deadline(now, key),
        }
    }

    fn on_link_deadline(&mut self, now: Instant, key: LinkKey) {
        match self.links[key].state {
            LinkState::Closing(closing) => self.abort_link(now, key, closing.how),
            // It is we who do not read: the client may be as lively as ever.
            LinkState::Online(_) if self.links[key].is_held() => {
                self.links[key].last_packet = now;
                self.arm_link(key);
            }
            LinkState::Online(_) => {
                self.counters.keep_alive_timeouts += 1;
                self.disconnect(now, key, ReasonCode::KEEP_ALIVE_TIMEOUT);
            }
            _ => {
                self.counters.connect_timeouts += 1;
                self.count_layer_timeout(key);
                self.close_link(now, key, CloseHow::Finish);
            }
        }
    }

    /// The last bytes were not taken in time, or there is no time for them.
    pub(super) fn abort_link(&mut self, now: Instant, key: LinkKey, how: CloseHow) {
        let carrier = self.links[key].carrier;
        self.drop_link(key);
        match carrier {
            Carrier::Door(door) => {
                self.doors.remove(&door);
                self.door_actions.push_back((door, DoorAction::Abort));
            }
            Carrier::Stream(conn, _) => {
                self.streams.remove(&conn);
                let code = match how {
                    CloseHow::Finish => 0,
                    CloseHow::Reset(code) => code,
                };
                self.quic.as_mut().expect("it has a stream").close(now, conn, code, b"");
            }
        }
    }

    /// Has a session's parked publications looked at when the first of them has waited too long: one entry per
    /// session, however many wait.
    pub(super) fn arm_parked(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Some(first) = session.parked.front()
            && !core::mem::replace(&mut session.parked_armed, true)
        {
            let at = first.deadline;
            self.push_timer(Entry { at, of: TimerOf::Parked(key) });
        }
    }

    /// The same for a shared group.
    pub(super) fn arm_parked_group(&mut self, key: GroupKey) {
        let Some(group) = self.groups.get_mut(key) else { return };
        if let Some((_, _, deadline)) = group.parked.front()
            && !core::mem::replace(&mut group.parked_armed, true)
        {
            let at = *deadline;
            self.push_timer(Entry { at, of: TimerOf::ParkedGroup(key) });
        }
    }

    /// Has the session looked at when its Will or its end is due.
    pub(super) fn arm_session(&mut self, key: SessionKey) {
        let Some(at) = self.session_deadline(key) else { return };
        let session = &mut self.sessions[key];
        if session.armed.is_none_or(|armed| at < armed) {
            session.armed = Some(at);
            self.push_timer(Entry { at, of: TimerOf::Session(key) });
        }
    }

    fn session_deadline(&self, key: SessionKey) -> Option<Instant> {
        let session = &self.sessions[key];
        let Presence::Offline { expires } = session.presence else { return None };
        let will = session.will.as_ref().and_then(|will| will.due);
        [will, expires].into_iter().flatten().min()
    }

    fn on_session_timer(&mut self, now: Instant, key: SessionKey, at: Instant) {
        let Some(session) = self.sessions.get_mut(key).filter(|session| session.armed == Some(at)) else {
            return;
        };
        session.armed = None;
        let Presence::Offline { expires } = session.presence else { return };
        self.publish_due_will(now, key);
        if expires.is_some_and(|at| at <= now) {
            self.counters.sessions_expired += 1;
            self.end_session(now, key);
        } else {
            self.arm_session(key);
        }
    }
}

/// Entries that may be void before it is worth a look.
const TIMERS_SPARE: usize = 1_024;

/// Deadlines of one turn.
const TIMERS_WORK: u64 = 16_384;

/// One deadline, beside what it brings about: as much work as so many nodes of the trie visited.
const TIMER_WORK: u64 = 8;
