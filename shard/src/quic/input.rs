//! What comes in: datagrams, time for handshakes, timeouts.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{Connection, ConnectionHandle, DatagramEvent, EcnCodepoint, Incoming};

use super::admission::{Guest, Verdict, Waiting};
use super::event::{Handled, Path, words_of};
use super::listener::QuicListenerId;
use super::table::{Entry, Moving, Stage};
use super::window::Window;
use super::{Quic, handle_of, slot_of};
use crate::refusal::Entrance;

impl Quic {
    /// Takes one UDP payload. A connection's events and answers follow from [`poll_event`](Self::poll_event) and
    /// [`poll_transmit`](Self::poll_transmit).
    ///
    /// The hash of its connection ID is looked at first: every ID in use here names this shard, those that clients
    /// choose included, so what names another shard cannot be ours. (A peer's stateless reset names a shard at random;
    /// one that goes astray leaves its connection to the idle timeout.)
    pub fn handle_datagram(&mut self, now: Instant, from: Path, bytes: BytesMut) -> Handled {
        self.counters.datagrams_in += 1;
        self.counters.bytes_in += bytes.len() as u64;
        if self.steering.shards() > 1
            && let Some(owner) = self.steering.shard_of_datagram(&bytes)
            && owner != self.shard
        {
            self.counters.datagrams_foreign += 1;
            return Handled::Foreign(owner, bytes);
        }
        self.clock.set(now);
        self.scratch.clear();
        let ecn = from.ecn.and_then(EcnCodepoint::from_bits);
        match self.endpoint.handle(now, from.peer, from.local, ecn, bytes, &mut self.scratch) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let slot = slot_of(handle);
                let entry =
                    self.table.get_mut(slot).expect("the endpoint knows connections of the table only");
                if entry.guest.listener != from.listener {
                    self.counters.datagrams_misplaced += 1;
                    return Handled::Here;
                }
                entry.connection.handle_event(event);
                self.on_input(slot, Some(from.peer));
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.on_initial(now, incoming, from.listener),
            Some(DatagramEvent::Response(answer)) => self.push_stateless(from.listener, &answer),
            None => {}
        }
        Handled::Here
    }

    /// Begins the handshakes that wait, the oldest first, until `out_of_time` says stop; it is asked before each.
    pub fn accept_handshakes(&mut self, now: Instant, mut out_of_time: impl FnMut() -> bool) {
        self.clock.set(now);
        while self.admission.waiting() > 0 && !out_of_time() {
            let Some(Waiting { incoming, arrived, guest }) = self.admission.pop() else { return };
            let until = arrived + self.settings.handshake_timeout;
            let peer = incoming.remote_address();
            if until <= now {
                self.counters.initials_expired += 1;
                self.note_refusal(guest.listener, peer, || OUT_OF_TIME.into());
                self.endpoint.ignore(incoming);
                self.admission.on_handshake_failed(guest);
                continue;
            }
            self.scratch.clear();
            self.counters.handshakes_begun += 1;
            let config = Arc::clone(&self.listeners[guest.listener.index()]);
            match self.endpoint.accept(incoming, now, &mut self.scratch, Some(config)) {
                Ok((handle, connection)) => self.on_accepted(handle, connection, guest, until),
                Err(refused) => {
                    self.counters.handshakes_failed += 1;
                    self.admission.on_handshake_failed(guest);
                    self.note_refusal(guest.listener, peer, || words_of(&refused.cause).into());
                    if let Some(answer) = refused.response {
                        self.push_stateless(guest.listener, &answer);
                    }
                }
            }
        }
    }

    /// Lets every deadline up to `now` pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.clock.set(now);
        while let Some(slot) = self.wheel.pop_expired(now) {
            let Some(entry) = self.table.get_mut(slot) else { continue };
            if matches!(entry.stage, Stage::Handshaking { until } if until <= now)
                && entry.connection.is_handshaking()
            {
                self.on_handshake_expired(slot);
            } else if entry.connection.poll_timeout().is_some_and(|deadline| deadline <= now) {
                entry.connection.handle_timeout(now);
                self.on_input(slot, None);
            } else {
                // The wheel is lazy: the true deadline has moved on.
                self.arm_timer(now, slot);
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due, or a little earlier; `None` if nothing is armed.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        self.wheel.next_deadline()
    }

    fn on_initial(&mut self, now: Instant, incoming: Incoming, listener: QuicListenerId) {
        self.counters.initials += 1;
        let guest = Guest::of(&incoming, listener);
        let counters = &mut self.counters;
        match self.admission.judge(&self.settings, self.table.live(), guest) {
            Verdict::Wait => self.admission.push(Waiting { incoming, arrived: now, guest }),
            Verdict::RefuseDraining => {
                counters.refused_draining += 1;
                self.refuse(incoming, listener, None);
            }
            Verdict::RefuseMemory => {
                counters.refused_memory += 1;
                self.refuse(incoming, listener, Some("memory is at its ceiling"));
            }
            Verdict::RefuseConnections => {
                counters.refused_connections += 1;
                self.refuse(incoming, listener, Some("the shard has its maximum of connections"));
            }
            Verdict::RefuseListener => {
                counters.refused_listener += 1;
                self.refuse(incoming, listener, Some("the listener has its maximum of connections"));
            }
            Verdict::RefusePrefix => {
                counters.refused_prefix += 1;
                self.refuse(incoming, listener, Some("its network has its maximum of connections"));
            }
            Verdict::RetryBacklog => {
                counters.retries_backlog += 1;
                self.retry(incoming, listener);
            }
            Verdict::RetryPrefix => {
                counters.retries_prefix += 1;
                self.retry(incoming, listener);
            }
            Verdict::IgnoreQueueFull => {
                counters.initials_queue_full += 1;
                self.endpoint.ignore(incoming);
            }
            Verdict::IgnoreHandshakesFull => {
                counters.initials_handshakes_full += 1;
                self.endpoint.ignore(incoming);
            }
            Verdict::IgnorePrefixFull => {
                counters.initials_prefix_full += 1;
                self.endpoint.ignore(incoming);
            }
            Verdict::IgnoreSiteFull => {
                counters.initials_site_full += 1;
                self.endpoint.ignore(incoming);
            }
        }
    }

    /// Tells a client that there is no room for it. While the broker drains, that is no news for the log.
    fn refuse(&mut self, incoming: Incoming, listener: QuicListenerId, why: Option<&'static str>) {
        if let Some(why) = why {
            self.note_refusal(listener, incoming.remote_address(), || why.into());
        }
        let answer = self.endpoint.refuse(incoming, &mut self.scratch);
        self.push_stateless(listener, &answer);
    }

    fn retry(&mut self, incoming: Incoming, listener: QuicListenerId) {
        match self.endpoint.retry(incoming, &mut self.scratch) {
            Ok(answer) => self.push_stateless(listener, &answer),
            // Only a client that has been through a Retry may not be sent another; its address would be proven.
            Err(refused) => self.endpoint.ignore(refused.into_incoming()),
        }
    }

    fn on_accepted(
        &mut self,
        handle: ConnectionHandle,
        connection: Connection,
        guest: Guest,
        until: Instant,
    ) {
        let slot = slot_of(handle);
        let peer = connection.remote_address();
        let entry = Entry {
            connection,
            peer,
            moving: None,
            guest,
            stage: Stage::Handshaking { until },
            closed_here: false,
            moved: false,
            readable: None,
            window: Window::new(&self.windows),
            blocked: false,
            opened: [false; 2],
            accepted: [0; 2],
            ready: false,
            dirty: false,
            drained: false,
        };
        self.table.insert(slot, entry);
        self.on_input(slot, None);
    }

    /// A client that fell silent in its handshake gets no further answer: there may be nobody at that address.
    fn on_handshake_expired(&mut self, slot: u32) {
        let Some(entry) = self.table.get_mut(slot) else { return };
        entry.drained = true;
        entry.stage = Stage::Lingering;
        let guest = entry.guest;
        let peer = entry.connection.remote_address();
        self.counters.handshakes_expired += 1;
        self.note_refusal(guest.listener, peer, || OUT_OF_TIME.into());
        #[cfg(feature = "mutants")]
        if self.settings.mutant == Some(crate::mutants::Mutant::HandshakesNotGivenBack) {
            return self.mark_ready(slot);
        }
        self.admission.on_handshake_failed(guest);
        self.mark_ready(slot);
    }

    /// After a connection was given anything: settles its dealings with the endpoint and puts it on both lists.
    /// `from` is where a datagram came from, if it was one.
    fn on_input(&mut self, slot: u32, from: Option<SocketAddr>) {
        self.settle(slot);
        if let Some(entry) = self.table.get_mut(slot) {
            entry.follow_peer(from);
        }
        self.mark_ready(slot);
        self.mark_dirty(slot);
    }

    pub(super) fn note_refusal(
        &mut self,
        listener: QuicListenerId,
        peer: SocketAddr,
        why: impl FnOnce() -> Cow<'static, str>,
    ) {
        self.refusals.note(Entrance::Quic(listener), peer, why);
    }

    /// Exchanges what a connection and the endpoint have to tell each other: IDs, reset tokens, the end.
    pub(super) fn settle(&mut self, slot: u32) {
        let Some(entry) = self.table.get_mut(slot) else { return };
        while let Some(event) = entry.connection.poll_endpoint_events() {
            if event.is_drained() {
                // The endpoint hears of it when the slot is freed: until then the handle must not be given out again.
                entry.drained = true;
            } else if let Some(answer) = self.endpoint.handle_event(handle_of(slot), event) {
                entry.connection.handle_event(answer);
            }
        }
    }
}

impl Entry {
    /// Notices a peer that sends from another address, and believes it when a challenge is answered from there.
    ///
    /// quinn-proto moves to a new address at once, challenges it and returns to the old one if there is no answer, but
    /// has no event for any of this. So: its address differs from the proven one, and a datagram from there has
    /// brought a PATH_RESPONSE. (A response with a wrong token counts too; only the peer itself could send one, and the
    /// return to the old address is announced like any move.)
    fn follow_peer(&mut self, from: Option<SocketAddr>) {
        let to = self.connection.remote_address();
        if to == self.peer {
            self.moving = None;
            return;
        }
        if !matches!(self.stage, Stage::Open(_)) {
            return;
        }
        let answers = self.connection.stats().frame_rx.path_response;
        match self.moving {
            Some(moving) if moving.to == to && from == Some(to) => {
                if answers > moving.answers_before {
                    self.peer = to;
                    self.moving = None;
                    self.moved = true;
                }
            }
            _ => self.moving = Some(Moving { to, answers_before: answers }),
        }
    }
}

/// What the log says of a handshake that was not complete in time.
const OUT_OF_TIME: &str = "its handshake was not complete in time";
