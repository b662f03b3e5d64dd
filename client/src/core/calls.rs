//! What an application asks of its client: publish, subscribe, unsubscribe, acknowledge, ping, authenticate, disconnect.
//!
//! Each call either writes its packet to the output and returns, or refuses and changes nothing.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use quelea_mqtt::{
    Auth, Disconnect, PacketId, QoS, ReasonCode, SubscribeFilter, SubscriptionOptions, Version,
};

use super::event::{Closed, Refusal};
use super::message::{AckToken, Publish, Token};
use super::requests::{Request, RequestKind};
use super::text::Text;
use super::{Core, Link, wire};

/// One filter of a SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The topic filter; `$share/group/filter` for a shared subscription.
    pub filter: Text,
    /// Highest QoS, and the options of MQTT 5.
    pub options: SubscriptionOptions,
}

impl Subscription {
    /// A subscription with every MQTT 5 option at its default.
    pub fn new(filter: impl Into<Text>, qos: QoS) -> Self {
        Self { filter: filter.into(), options: SubscriptionOptions::with_qos(qos) }
    }
}

/// A SUBSCRIBE packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscribe {
    /// The filters, at least one.
    pub subscriptions: Vec<Subscription>,
    /// MQTT 5: comes back with each message that matches.
    pub subscription_id: Option<NonZeroU32>,
    /// MQTT 5 user properties.
    pub user_properties: Vec<(Text, Text)>,
}

impl Subscribe {
    /// One filter.
    pub fn new(filter: impl Into<Text>, qos: QoS) -> Self {
        Self { subscriptions: vec![Subscription::new(filter, qos)], ..Self::default() }
    }
}

/// How to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// `NORMAL_DISCONNECTION` drops the will; every other reason keeps it. MQTT 3.x has only the first: for the others the
    /// transport is closed without a DISCONNECT.
    pub reason: ReasonCode,
    /// MQTT 5: a new session expiry in seconds.
    pub session_expiry_s: Option<u32>,
}

impl From<ReasonCode> for Farewell {
    fn from(reason: ReasonCode) -> Self {
        Self { reason, session_expiry_s: None }
    }
}

impl Core {
    /// Publishes a message. QoS 1 and 2 are kept until acknowledged, over reconnects too.
    ///
    /// # Errors
    /// [`Refusal::Full`] is back-pressure: the window, the output or the events are at their bound. Others tell what this
    /// server or this version of MQTT does not take.
    pub fn publish(&mut self, now: Instant, publish: &Publish) -> Result<Token, Refusal> {
        self.check_connected()?;
        let acknowledged = publish.qos != QoS::AtMostOnce;
        if !self.has_output_room() || acknowledged && !self.has_window(publish.kept_bytes()) {
            return Err(Refusal::Full);
        }
        let packet_id = if acknowledged { Some(self.take_packet_id()?) } else { None };
        self.encode_publish(publish, wire::How { packet_id, dup: false, waited: Duration::ZERO })?;
        self.note_sent(now);
        let token = self.take_token();
        match packet_id {
            Some(packet_id) => self.in_flight.insert(now, packet_id, token, publish.clone()),
            None => self.unsent.push_back(token),
        }
        Ok(token)
    }

    /// Subscribes. The answer is [`Event::Subscribed`](super::Event::Subscribed).
    ///
    /// # Errors
    /// As [`publish`](Self::publish); [`Refusal::Empty`] without a filter.
    pub fn subscribe(&mut self, now: Instant, subscribe: &Subscribe) -> Result<Token, Refusal> {
        self.check_request(subscribe.subscriptions.len())?;
        if subscribe.subscription_id.is_some() && !self.server.subscription_ids_available {
            return Err(Refusal::NotAllowed(ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED));
        }
        for subscription in &subscribe.subscriptions {
            self.check_filter(&subscription.filter)?;
        }
        let packet_id = self.take_packet_id()?;
        let written = self.output.len();
        wire::encode_subscribe(subscribe, packet_id, (&self.limits, self.options.version), &mut self.output)?;
        self.check_written(written)?;
        Ok(self.note_request(now, packet_id, RequestKind::Subscribe, subscribe.subscriptions.len()))
    }

    /// Unsubscribes. The answer is [`Event::Unsubscribed`](super::Event::Unsubscribed).
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    pub fn unsubscribe(&mut self, now: Instant, filters: &[Text]) -> Result<Token, Refusal> {
        self.check_request(filters.len())?;
        let packet_id = self.take_packet_id()?;
        let written = self.output.len();
        wire::encode_unsubscribe(filters, packet_id, (&self.limits, self.options.version), &mut self.output)?;
        self.check_written(written)?;
        Ok(self.note_request(now, packet_id, RequestKind::Unsubscribe, filters.len()))
    }

    /// Acknowledges a message received with [`Acks::Manual`](super::Acks::Manual). PUBACK or PUBREC leaves when its turn has come.
    ///
    /// # Errors
    /// [`Refusal::Stale`] if the message no longer waits: it was acknowledged before, or its connection ended (then the server
    /// delivers it again). A QoS 2 message may be acknowledged between two connections of one session.
    pub fn ack(&mut self, now: Instant, token: AckToken) -> Result<(), Refusal> {
        if !self.inbound.ack(token) {
            return Err(Refusal::Stale);
        }
        if self.is_connected() {
            self.send_due_acks(now);
        }
        Ok(())
    }

    /// Sends a PINGREQ; the answer is [`Event::Pong`](super::Event::Pong). Keep alive needs no call.
    ///
    /// # Errors
    /// [`Refusal::Full`] while one is unanswered.
    pub fn ping(&mut self, now: Instant) -> Result<(), Refusal> {
        let Link::Connected(pulse) = &self.link else { return Err(Refusal::NotConnected) };
        if pulse.pong_since.is_some() {
            return Err(Refusal::Full);
        }
        self.send_ping(now);
        Ok(())
    }

    /// MQTT 5: answers [`Event::Auth`](super::Event::Auth) while connecting, or begins to authenticate again when connected
    /// (§4.12.1).
    ///
    /// # Errors
    /// [`Refusal::NotAllowed`] unless the options name an authentication method.
    pub fn authenticate(&mut self, now: Instant, step: AuthStep, data: Option<&[u8]>) -> Result<(), Refusal> {
        if !self.is_attached() {
            return Err(Refusal::NotConnected);
        }
        let Some(authentication) = &self.options.authentication else {
            return Err(Refusal::NotAllowed(ReasonCode::BAD_AUTHENTICATION_METHOD));
        };
        let reason = match step {
            AuthStep::Continue => ReasonCode::CONTINUE_AUTHENTICATION,
            AuthStep::Again if self.is_connected() => ReasonCode::REAUTHENTICATE,
            AuthStep::Again => return Err(Refusal::NotConnected),
        };
        if self.output.len() >= self.options.bounds.output_bytes_max {
            return Err(Refusal::Full);
        }
        let auth = Auth { reason, method: Some(&authentication.method), data, ..Auth::default() };
        auth.encode(self.options.version, &mut self.output)?;
        self.note_sent(now);
        Ok(())
    }

    /// Leaves. What is in the output is still to be written, then the transport closed.
    ///
    /// # Errors
    /// [`Refusal::NotAllowed`] for a session expiry that the standard forbids (from 0 to another value, `[MQTT-3.14.2-2]`), or
    /// a reason that is none for a DISCONNECT of a client.
    pub fn disconnect(&mut self, now: Instant, farewell: impl Into<Farewell>) -> Result<(), Refusal> {
        let farewell = farewell.into();
        let closed = Closed::ByUs { reason: farewell.reason };
        match self.link {
            Link::Detached => return Err(Refusal::NotConnected),
            // Without a session there is nothing to leave: the end of the transport says it all.
            Link::Connecting { .. } => {
                self.drop_output();
                self.close(now, closed, None);
                return Ok(());
            }
            Link::Connected(_) => {}
        }
        let (reason, version) = (farewell.reason, self.options.version);
        if version != Version::V5 {
            let packet = Disconnect::default();
            self.close(now, closed, (reason == ReasonCode::NORMAL_DISCONNECTION).then_some(&packet));
            return Ok(());
        }
        let expiry_was_zero = self.options.session_expiry_s.unwrap_or(0) == 0;
        if expiry_was_zero && farewell.session_expiry_s.is_some_and(|seconds| seconds > 0) {
            return Err(Refusal::NotAllowed(ReasonCode::PROTOCOL_ERROR));
        }
        if !is_farewell(reason) {
            return Err(Refusal::NotAllowed(reason));
        }
        let packet =
            Disconnect { reason, session_expiry_s: farewell.session_expiry_s, ..Disconnect::default() };
        self.close(now, closed, Some(&packet));
        Ok(())
    }

    /// Writes a PUBLISH, or nothing.
    pub(super) fn encode_publish(&mut self, publish: &Publish, how: wire::How) -> Result<(), Refusal> {
        if publish.qos > self.server.qos_max {
            return Err(Refusal::NotAllowed(ReasonCode::QOS_NOT_SUPPORTED));
        }
        if publish.retain && !self.server.retain_available {
            return Err(Refusal::NotAllowed(ReasonCode::RETAIN_NOT_SUPPORTED));
        }
        let written = self.output.len();
        wire::encode_publish(publish, how, &self.limits, self.options.version, &mut self.output)?;
        self.check_written(written)
    }

    fn check_connected(&self) -> Result<(), Refusal> {
        if self.is_connected() { Ok(()) } else { Err(Refusal::NotConnected) }
    }

    fn check_request(&self, filters: usize) -> Result<(), Refusal> {
        self.check_connected()?;
        if filters == 0 {
            return Err(Refusal::Empty);
        }
        if self.requests.len() >= self.options.bounds.requests_max || !self.has_output_room() {
            return Err(Refusal::Full);
        }
        Ok(())
    }

    fn check_filter(&self, filter: &Text) -> Result<(), Refusal> {
        let parsed = SubscribeFilter::parse(filter, self.options.bounds.topic_levels_max)?;
        if parsed.group.is_some() && !self.server.shared_available {
            return Err(Refusal::NotAllowed(ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED));
        }
        if parsed.filter.has_wildcard() && !self.server.wildcard_available {
            return Err(Refusal::NotAllowed(ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED));
        }
        Ok(())
    }

    /// Takes back what was written since the output had `before` bytes if the server does not accept a packet of this size
    /// `[MQTT-3.2.2-15]`.
    fn check_written(&mut self, before: usize) -> Result<(), Refusal> {
        let packet_bytes = self.output.len() - before;
        match self.server.packet_bytes_max {
            Some(packet_bytes_max) if packet_bytes > packet_bytes_max as usize => {
                self.output.truncate(before);
                Err(Refusal::TooLarge { packet_bytes, packet_bytes_max })
            }
            _ => Ok(()),
        }
    }

    fn take_packet_id(&mut self) -> Result<PacketId, Refusal> {
        let Self { in_flight, requests, .. } = self;
        in_flight.free_id(|id| requests.contains(id)).ok_or(Refusal::Full)
    }

    fn note_request(
        &mut self,
        now: Instant,
        packet_id: PacketId,
        kind: RequestKind,
        filters: usize,
    ) -> Token {
        let token = self.take_token();
        self.requests.insert(Request { packet_id, token, kind, filters });
        self.note_sent(now);
        token
    }
}

/// Which AUTH packet to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthStep {
    /// Go on with what the server answered.
    Continue,
    /// Begin to authenticate again.
    Again,
}

/// The reasons that a client may give (MQTT 5, table 3-10).
fn is_farewell(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::NORMAL_DISCONNECTION
            | ReasonCode::DISCONNECT_WITH_WILL
            | ReasonCode::UNSPECIFIED_ERROR
            | ReasonCode::MALFORMED_PACKET
            | ReasonCode::PROTOCOL_ERROR
            | ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR
            | ReasonCode::TOPIC_NAME_INVALID
            | ReasonCode::RECEIVE_MAXIMUM_EXCEEDED
            | ReasonCode::TOPIC_ALIAS_INVALID
            | ReasonCode::PACKET_TOO_LARGE
            | ReasonCode::MESSAGE_RATE_TOO_HIGH
            | ReasonCode::QUOTA_EXCEEDED
            | ReasonCode::ADMINISTRATIVE_ACTION
            | ReasonCode::PAYLOAD_FORMAT_INVALID
    )
}
