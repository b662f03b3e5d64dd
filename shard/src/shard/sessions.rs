//! The life of a session on this shard: a client comes, goes, and one day does not come back.

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use quelea_mqtt::ReasonCode;

use crate::envelope::{Control, Identity, LinkKey, SessionKey};
use crate::publication::PublisherId;
use crate::session::{PendingWill, Presence, Session};
use crate::witness::{Subject, Why};

use super::accept::OFFER_WORK;
use super::{Origin, Shard};

/// What a connection's end means for its Will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WillAt {
    /// DISCONNECT with 0x00: the Will is forgotten `[MQTT-3.14.4-3]`.
    Never,
    /// Anything else: it is published after its delay `[MQTT-3.1.2-8]`.
    AfterDelay,
}

impl Shard {
    /// A session that nobody has connected to yet.
    pub(super) fn open_session(&mut self, identity: &Arc<Identity>, presence: Presence) -> SessionKey {
        let publisher = self.publisher_id(&identity.client_id);
        let mut session = Session::new(Arc::clone(identity), publisher, quelea_mqtt::Version::V5, presence);
        session.charge_to(&self.budget);
        let key = self.sessions.insert(session);
        let older = self.by_client.insert(Arc::clone(&identity.client_id), key);
        assert!(older.is_none(), "the home shard lets one session of a client live at a time");
        key
    }

    /// Equal on all shards, so that No Local holds wherever a message was published.
    pub(super) fn publisher_id(&self, client_id: &str) -> PublisherId {
        PublisherId(crate::hash::Keyed::new(self.node_seed, 2).hash_str(client_id))
    }

    pub(super) fn session_of(&self, client_id: &str) -> Option<SessionKey> {
        self.by_client.get(client_id).copied()
    }

    /// Cuts a session's connection with a DISCONNECT; the session goes on as its expiry says.
    pub(super) fn disconnect_session(&mut self, now: Instant, key: SessionKey, reason: ReasonCode) {
        if let Some(link) = self.sessions[key].link() {
            self.disconnect(now, link, reason);
        }
    }

    /// The session's connection is gone.
    pub(super) fn detach(&mut self, now: Instant, key: SessionKey, will: WillAt) {
        let session = &mut self.sessions[key];
        debug_assert!(session.link().is_some());
        session.presence = Presence::Offline { expires: expiry(now, session.expiry_s) };
        self.counters.sessions_connected -= 1;
        self.counters.dropped_qos0_offline += session.outbound.on_disconnected() as u64;
        match will {
            WillAt::Never => session.will = None,
            WillAt::AfterDelay => {
                if let Some(will) = &mut session.will {
                    let delay_s = will.delay_s;
                    #[cfg(feature = "mutants")]
                    let delay_s = match self.settings.mutant {
                        Some(crate::mutants::Mutant::WillDelayForgotten) => 0,
                        _ => delay_s,
                    };
                    will.due = Some(now + Duration::from_secs(u64::from(delay_s)));
                }
            }
        }
        self.leave_groups_for_now(key);
        self.resolve_parked(now, key);
        if !self.sessions.contains_key(key) {
            return;
        }
        self.publish_due_will(now, key);
        if self.sessions[key].is_persistent() {
            self.arm_session(key);
        } else {
            self.end_session(now, key);
        }
    }

    /// Nobody will read what waits for room: it is queued as for an offline session, or goes with the session.
    pub(super) fn resolve_parked(&mut self, now: Instant, key: SessionKey) {
        while let Some(session) = self.sessions.get_mut(key)
            && let Some(parked) = session.parked.pop_front()
        {
            self.work += OFFER_WORK as u64;
            if parked.is_transient() {
                self.counters.dropped_qos0_offline += 1;
                self.tell_loss(Subject::Session(key), Why::Qos0Offline, &parked.queued.message);
            } else if session.is_persistent() {
                self.offer_offline(key, parked.queued);
            } else {
                self.counters.dropped_session_end += 1;
            }
            self.release_parked(now, parked.hold);
        }
    }

    /// Publishes the Will if its time has come.
    pub(super) fn publish_due_will(&mut self, now: Instant, key: SessionKey) {
        let session = &mut self.sessions[key];
        if session.will.as_ref().is_some_and(|will| will.due.is_some_and(|due| due <= now)) {
            let will = session.will.take().expect("just seen");
            self.publish_will(now, will);
        }
    }

    fn publish_will(&mut self, now: Instant, will: PendingWill) {
        self.counters.wills_published += 1;
        let message = will.publication.published_at(now, will.message_expiry_s);
        // Nobody waits for it: the ticket, if one is needed, closes by itself.
        self.publish(now, &message, Origin::Nobody);
    }

    /// The session ends: by its expiry, by a clean start elsewhere, or because it was not to outlive its connection.
    pub(super) fn end_session(&mut self, now: Instant, key: SessionKey) {
        let Some(link) = self.sessions.get(key).map(Session::link) else { return };
        if let Some(link) = link {
            // Not through `detach`: that would come back here.
            self.sessions[key].presence = Presence::Offline { expires: None };
            self.counters.sessions_connected -= 1;
            self.forget_session_of(now, link);
        }
        self.unsubscribe_all(key);
        let mut session = self.sessions.remove(key).expect("just seen");
        self.by_client.remove(&session.identity.client_id);
        let home = self.home_of(&session.identity.client_id);
        self.send_control(home, Control::Ended { identity: session.identity });
        self.counters.dropped_session_end += (session.parked.len() + session.outbound.waiting()) as u64;
        self.counters.unacknowledged_session_end += session.outbound.unacknowledged() as u64;
        while let Some(parked) = session.parked.pop_front() {
            self.release_parked(now, parked.hold);
        }
        // The Will goes out when the session ends, if its delay has not passed yet `[MQTT-3.1.3-9]`.
        if let Some(will) = session.will.filter(|will| will.due.is_some()) {
            self.publish_will(now, will);
        }
    }

    /// Ends the sessions whose offline queue was full, where the operator wants that.
    pub(super) fn end_doomed(&mut self, now: Instant) {
        for key in core::mem::take(&mut self.doomed_sessions) {
            let offline = |session: &Session| matches!(session.presence, Presence::Offline { .. });
            if self.sessions.get(key).is_some_and(offline) {
                self.end_session(now, key);
            }
        }
    }

    /// A client takes the session over, or opens it.
    pub(super) fn attach(&mut self, key: SessionKey, link: LinkKey) {
        let session = &mut self.sessions[key];
        session.presence = Presence::Online { link };
        session.waited_for = false;
        self.counters.sessions_connected += 1;
        self.list_session(key);
        self.return_to_groups(key);
        self.advance_replay(key);
    }
}

/// When a session that is left now ends; `None` = never.
pub(super) fn expiry(now: Instant, expiry_s: Option<u32>) -> Option<Instant> {
    expiry_s.map(|seconds| now + Duration::from_secs(u64::from(seconds)))
}
