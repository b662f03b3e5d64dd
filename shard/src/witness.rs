//! Messages that go no further, one by one: which, to whom, and why; for a judge who wants to know more than the counters
//! say. Only with the feature `witness`: a normal build has the counters alone, and nothing here costs it anything.
//!
//! Told where each is counted ([`crate::counters`]), if `Settings::witness` asks for it, and taken with
//! `Shard::poll_loss`. Whoever asks takes all of them after each turn: nothing here bounds their number.
//! Not told: QoS 0 of a connection that has ended, what a session or a group held that ends, and what a publisher at QoS 1
//! or 2 is refused because of memory.

#[cfg(feature = "witness")]
use std::sync::Arc;

#[cfg(feature = "witness")]
use bytes::BytesMut;
use quelea_mqtt::Publish;
#[cfg(feature = "witness")]
use quelea_mqtt::{Delivery, Limits, Packet, QoS, Sender, Version, decode};

use crate::envelope::{GroupKey, LinkKey, SessionKey};
use crate::publication::Publication;
use crate::shard::Shard;

/// One message that went no further.
#[cfg(feature = "witness")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Whom it does not reach.
    pub whose: Loser,
    /// Why not.
    pub why: Why,
    /// The first bytes of its payload; without a payload, those of its Correlation Data. `None` if there are not so many.
    pub payload: Option<[u8; 8]>,
}

/// Whom a message does not reach.
#[cfg(feature = "witness")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loser {
    /// The session of this client.
    Session(Arc<str>),
    /// The shared group with this filter.
    Group(Arc<str>),
    /// All whom it was for on one shard, or on all of them.
    Everybody,
}

/// Why a message goes no further: the counter without `dropped_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// QoS 0 to a session with a full queue.
    Qos0Full,
    /// QoS 0 behind a retained one on its way to another shard.
    Qos0Deferred,
    /// QoS 0 to a session without a client.
    Qos0Offline,
    /// QoS 0 without credit of the other shard.
    Qos0Credit,
    /// QoS 0 while memory is at its ceiling: to one session.
    Qos0Memory,
    /// QoS 0 that came while memory was at its ceiling: to nobody.
    Qos0Refused,
    /// QoS 0 to a shared group without room.
    Qos0Group,
    /// The queue of an offline session is full.
    OfflineFull,
    /// A connected subscriber stayed full until the deadline.
    Slow,
    /// A shared group is full.
    GroupFull,
    /// Larger than the subscriber's Maximum Packet Size.
    TooLarge,
    /// Expired before it was sent.
    Expired,
    /// The subscriber has refused it.
    Refused,
    /// There is no room for another retained message: it is neither kept nor handed to anybody. At QoS 1 and 2 its publisher
    /// hears so.
    RetainedFull,
}

#[cfg(feature = "witness")]
impl core::fmt::Display for Why {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Qos0Full => "at QoS 0, and the queue is full",
            Self::Qos0Deferred => "at QoS 0, and too much waits for another road",
            Self::Qos0Offline => "at QoS 0, and the client is away",
            Self::Qos0Credit => "at QoS 0, and another shard grants no credit",
            Self::Qos0Memory => "at QoS 0, and memory is at its ceiling",
            Self::Qos0Refused => "at QoS 0, and memory was at its ceiling when it came",
            Self::Qos0Group => "at QoS 0, and the group has no room",
            Self::OfflineFull => "the queue is full, and the client is away",
            Self::Slow => "the queue stayed full until the deadline",
            Self::GroupFull => "the group is full",
            Self::TooLarge => "larger than the client's Maximum Packet Size",
            Self::Expired => "expired",
            Self::Refused => "refused by the client",
            Self::RetainedFull => "to be retained, and there is no room",
        })
    }
}

/// How full what has a limit of its own is, at its fullest: the counters have sums.
#[cfg(feature = "witness")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Messages that wait in one session.
    pub queue_messages: usize,
    /// Bytes that wait in one session where more than one message does: one is always taken.
    pub queue_bytes: usize,
    /// Subscriptions of one session.
    pub subscriptions: usize,
    /// Messages that wait in one shared group.
    pub group_messages: usize,
    /// Bytes that wait in one shared group where more than one message does.
    pub group_bytes: usize,
}

/// Credit that a session lends a group at a time.
#[cfg(feature = "witness")]
pub const LENT_MAX: usize = crate::session::LEND_MAX as usize;

/// Retained messages that a session asks for at a time.
#[cfg(feature = "witness")]
pub const PULLED_MAX: usize = crate::shard::PULL_MESSAGES_MAX;

/// Whose message it is that goes no further.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "witness"), expect(dead_code, reason = "nobody asks"))]
pub(crate) enum Subject {
    Session(SessionKey),
    Group(GroupKey),
    Everybody,
}

#[cfg(feature = "witness")]
impl Shard {
    /// The next message that went no further.
    pub fn poll_loss(&mut self) -> Option<Loss> {
        self.losses.pop_front()
    }

    /// How full the fullest session and the fullest group are.
    pub fn fill(&self) -> Fill {
        let mut fill = Fill::default();
        for session in self.sessions.values() {
            fill.queue_messages = fill.queue_messages.max(session.outbound.waiting());
            if session.outbound.waiting() > 1 {
                fill.queue_bytes = fill.queue_bytes.max(session.outbound.waiting_bytes());
            }
            fill.subscriptions = fill.subscriptions.max(session.subscriptions.len());
        }
        for group in self.groups.values() {
            fill.group_messages = fill.group_messages.max(group.members.queued());
            if group.members.queued() > 1 {
                fill.group_bytes = fill.group_bytes.max(group.members.bytes());
            }
        }
        fill
    }

    pub(crate) fn tell_loss(&mut self, subject: Subject, why: Why, message: &Publication) {
        if !self.settings.witness {
            return;
        }
        let whose = match subject {
            Subject::Session(key) => Loser::Session(Arc::clone(&self.sessions[key].identity.client_id)),
            Subject::Group(key) => Loser::Group(Arc::clone(&self.groups[key].filter)),
            Subject::Everybody => Loser::Everybody,
        };
        let payload = first_bytes(message);
        self.losses.push_back(Loss { whose, why, payload });
    }

    /// Before it became a publication.
    pub(crate) fn tell_refused(&mut self, why: Why, publish: &Publish<'_>) {
        if self.settings.witness {
            let payload = name_in(publish);
            self.losses.push_back(Loss { whose: Loser::Everybody, why, payload });
        }
    }

    /// To the session of a connection.
    pub(crate) fn tell_loss_on(&mut self, link: LinkKey, why: Why, message: &Publication) {
        if let Some(session) = self.links[link].session() {
            self.tell_loss(Subject::Session(session), why, message);
        }
    }
}

/// What tells one message from others, if its publisher writes it there.
#[cfg(feature = "witness")]
fn first_bytes(message: &Publication) -> Option<[u8; 8]> {
    if message.image.payload_bytes() > 0 {
        return message.image.payload().first_chunk().copied();
    }
    let mut packet = BytesMut::new();
    message.image.encode(&Delivery::new(Version::V5, QoS::AtMostOnce), &mut packet);
    let decoded = decode(&packet, Version::V5, Sender::Server, &Limits::default());
    let Ok(Packet::Publish(publish)) = decoded else { return None };
    name_in(&publish)
}

/// An empty one has it in its Correlation Data.
#[cfg(feature = "witness")]
fn name_in(publish: &Publish<'_>) -> Option<[u8; 8]> {
    match publish.payload {
        [] => publish.properties.correlation_data?.first_chunk().copied(),
        payload => payload.first_chunk().copied(),
    }
}

#[cfg(not(feature = "witness"))]
#[expect(clippy::unused_self, reason = "nobody asks")]
impl Shard {
    #[inline(always)]
    pub(crate) fn tell_loss(&mut self, _subject: Subject, _why: Why, _message: &Publication) {}

    #[inline(always)]
    pub(crate) fn tell_refused(&mut self, _why: Why, _publish: &Publish<'_>) {}

    #[inline(always)]
    pub(crate) fn tell_loss_on(&mut self, _link: LinkKey, _why: Why, _message: &Publication) {}
}

#[cfg(feature = "witness")]
impl From<crate::session::Discard> for Why {
    fn from(discard: crate::session::Discard) -> Self {
        match discard {
            crate::session::Discard::Expired => Self::Expired,
            crate::session::Discard::TooLarge => Self::TooLarge,
        }
    }
}
