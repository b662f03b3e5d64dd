//! CONNECT to CONNACK: what was asked, who it is, whose session it is, and the answer.

use core::num::NonZeroU32;
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use quelea_mqtt::{ConnAck, ConnAckProperties, Connect, QoS, ReasonCode, TopicName, Version};

use crate::envelope::{Claim, Control, Identity, LinkKey, SessionKey};
use crate::link::{AliasLimits, Connecting, LinkState};
use crate::publication::Publication;
use crate::session::{PendingWill, Presence};

use super::{Permissions, Request, RequestId, Shard, Work};

impl Shard {
    /// The first packet of a connection.
    pub(super) fn on_connect(&mut self, now: Instant, key: LinkKey, connect: &Connect<'_>) {
        let link = &mut self.links[key];
        link.version = connect.version;
        link.version_known = true;
        link.packet_bytes_max = connect.packet_bytes_max.map_or(u32::MAX, NonZeroU32::get);
        link.problem_information = connect.request_problem_information.unwrap_or(true);
        let aliases = connect.topic_alias_max.unwrap_or(0).min(self.settings.topic_alias_out_max);
        let bytes_max = self.settings.topic_alias_bytes_max;
        link.aliases_out.allow(AliasLimits { max: aliases, bytes_max });
        if let Err(reason) = self.may_connect(connect) {
            return self.refuse_connect(now, key, reason);
        }
        let mut connecting = self.connecting(connect);
        if let Err(reason) = self.fit_connack(key, &mut connecting) {
            return self.refuse_connect(now, key, reason);
        }
        let request = Request {
            id: RequestId(key),
            work: Work::Authenticate {
                client_id: Arc::clone(&connecting.client_id),
                user_name: connect.user_name.map(Into::into),
                password: connect.password.map(Into::into),
                will_topic: connect.will.as_ref().map(|will| will.topic.as_str().into()),
                peer: self.links[key].peer,
            },
        };
        self.links[key].state = LinkState::Authenticating(Box::new(connecting));
        self.requests.push_back(request);
    }

    fn may_connect(&self, connect: &Connect<'_>) -> Result<(), ReasonCode> {
        if self.draining.is_some() {
            return Err(ReasonCode::SERVER_UNAVAILABLE);
        }
        if let Some(will) = &connect.will {
            if will.qos > self.settings.qos_max {
                return Err(ReasonCode::QOS_NOT_SUPPORTED);
            }
            if is_brokers_own(will.topic.as_str()) {
                return Err(ReasonCode::NOT_AUTHORIZED);
            }
        }
        // A server takes up to 23 bytes, and more as it likes `[MQTT-3.1.3-5]`.
        if connect.client_id.len() > self.settings.client_id_bytes_max {
            return Err(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
        }
        // MQTT 3.1.1 lets the server name only sessions that end with their connection `[MQTT-3.1.3-8]`.
        if connect.client_id.is_empty() && connect.version != Version::V5 && !connect.clean_start {
            return Err(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
        }
        if connect.authentication_method.is_some() {
            return Err(ReasonCode::BAD_AUTHENTICATION_METHOD);
        }
        // Who has a session here takes no place.
        let takes_place = self.session_of(connect.client_id).is_none();
        if self.is_full() || takes_place && self.has_all_sessions() {
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        Ok(())
    }

    fn has_all_sessions(&self) -> bool {
        self.sessions.len() >= self.settings.sessions_max
    }

    fn connecting(&mut self, connect: &Connect<'_>) -> Connecting {
        let assigned = connect.client_id.is_empty();
        let client_id: Arc<str> = match assigned {
            true => self.assigned_client_id(),
            false => connect.client_id.into(),
        };
        let publisher = self.publisher_id(&client_id);
        let will = connect.will.as_ref().map(|will| PendingWill {
            publication: Publication::from_will(will, publisher, &self.budget),
            delay_s: will.delay_s,
            message_expiry_s: will.message_expiry_s,
            due: None,
        });
        let asked_s = match connect.version {
            Version::V5 => connect.session_expiry_s.unwrap_or(0),
            // Clean Session 0: for ever, as far as this broker goes.
            _ if connect.clean_start => 0,
            _ => u32::MAX,
        };
        let expiry_s = self.granted_expiry_s(asked_s);
        let keep_alive_s = match self.settings.keep_alive_max_s {
            Some(max) if connect.keep_alive_s == 0 || connect.keep_alive_s > max => max,
            _ => connect.keep_alive_s,
        };
        Connecting {
            client_id,
            assigned,
            clean_start: connect.clean_start,
            expiry_s: Some(expiry_s),
            expiry_capped: expiry_s != asked_s,
            will,
            keep_alive_s,
            keep_alive_imposed: keep_alive_s != connect.keep_alive_s,
            wants_response_topic: connect.request_response_information.unwrap_or(false),
            receive_max: connect.receive_max.map_or(u16::MAX, core::num::NonZeroU16::get),
        }
    }

    /// The Session Expiry Interval granted for one that was asked for, in seconds.
    pub(super) fn granted_expiry_s(&self, asked_s: u32) -> u32 {
        let max_s = self.settings.session_expiry_max.as_secs().min(u64::from(u32::MAX - 1)) as u32;
        asked_s.min(max_s)
    }

    fn assigned_client_id(&mut self) -> Arc<str> {
        format!("quelea-{:016x}{:016x}", self.random.u64(..), self.random.u64(..)).into()
    }

    /// The authenticator has answered.
    pub(super) fn authenticated(
        &mut self,
        now: Instant,
        key: LinkKey,
        verdict: Result<Permissions, ReasonCode>,
    ) {
        let Some(link) = self.links.get_mut(key) else { return };
        let LinkState::Authenticating(_) = link.state else { return };
        match verdict {
            Ok(permissions) => link.permissions = permissions,
            Err(reason) => return self.refuse_connect(now, key, reason),
        }
        let LinkState::Authenticating(connecting) =
            core::mem::replace(&mut link.state, LinkState::AwaitConnect)
        else {
            unreachable!("just seen");
        };
        let claim = Claim {
            client_id: Arc::clone(&connecting.client_id),
            clean_start: connecting.clean_start,
            link: key,
        };
        link.state = LinkState::Claiming(connecting);
        self.send_control(self.home_of(&claim.client_id), Control::Claim(claim));
    }

    pub(super) fn is_claiming(&self, key: LinkKey) -> bool {
        self.links.get(key).is_some_and(|link| matches!(link.state, LinkState::Claiming(_)))
    }

    /// The home shard says: the session is ours.
    pub(super) fn on_granted(&mut self, now: Instant, key: LinkKey, identity: Arc<Identity>, resume: bool) {
        debug_assert!(
            resume || self.session_of(&identity.client_id).is_none(),
            "a session that is not resumed was released"
        );
        let claiming = self.is_claiming(key);
        if claiming
            && let Some(session) = self.session_of(&identity.client_id)
            && let Some(older) = self.sessions[session].link()
        {
            self.counters.takeovers += 1;
            self.disconnect(now, older, ReasonCode::SESSION_TAKEN_OVER);
        }
        // With its connection, a session that was not persistent has ended: in its old life, so that the home shard
        // does not take it for the end of the new one.
        let existing = self.session_of(&identity.client_id);
        if let Some(session) = existing {
            self.sessions[session].identity = Arc::clone(&identity);
        }
        match existing {
            // Its client comes and goes faster than what it publishes is accepted.
            Some(session) if claiming && self.sessions[session].formers >= self.settings.formers_max => {
                self.refuse_connect(now, key, ReasonCode::SERVER_BUSY);
            }
            Some(session) if claiming => self.connected(now, key, session, true),
            // Its place was free when CONNECT came, and others were quicker.
            None if claiming && self.has_all_sessions() => {
                self.refuse_connect(now, key, ReasonCode::QUOTA_EXCEEDED);
                let home = self.home_of(&identity.client_id);
                self.send_control(home, Control::Ended { identity });
            }
            None if claiming => {
                let session = self.open_session(&identity, Presence::Offline { expires: None });
                self.connected(now, key, session, false);
            }
            Some(_) => {}
            None => {
                let home = self.home_of(&identity.client_id);
                self.send_control(home, Control::Ended { identity });
            }
        }
    }

    pub(super) fn on_claim_refused(&mut self, now: Instant, key: LinkKey) {
        if self.is_claiming(key) {
            self.refuse_connect(now, key, ReasonCode::SERVER_BUSY);
        }
    }

    /// Connection and session come together: CONNACK, then whatever waits.
    pub(super) fn connected(
        &mut self,
        now: Instant,
        key: LinkKey,
        session_key: SessionKey,
        session_present: bool,
    ) {
        let link = &mut self.links[key];
        let LinkState::Claiming(connecting) =
            core::mem::replace(&mut link.state, LinkState::Online(session_key))
        else {
            unreachable!("the caller has seen that it is claiming");
        };
        link.silence_max = match connecting.keep_alive_s {
            0 => None,
            seconds => Some(Duration::from_millis(u64::from(seconds) * 1_500)),
        };
        link.last_packet = now;
        if link.version < Version::V5 {
            link.acks_max = self.settings.unacked_max;
        }
        let session = &mut self.sessions[session_key];
        link.behind_former = session.former.is_some();
        let former = session.former;
        session.version = link.version;
        session.expiry_s = connecting.expiry_s;
        let quota = connecting.receive_max.min(self.settings.inflight_max);
        #[cfg(feature = "mutants")]
        let quota = match self.settings.mutant {
            Some(crate::mutants::Mutant::QuotaForgotten) if session_present => u16::MAX,
            _ => quota,
        };
        session.outbound.on_connected(quota);
        if let Some(former) = former {
            self.links[former].next = Some(key);
        }
        session.inbound.on_connected();
        self.send_connack(key, &connecting, session_present);
        // A Will still pending from an earlier connection is deleted by this one `[MQTT-3.1.3-9]`.
        self.sessions[session_key].will = connecting.will;
        self.counters.connects += 1;
        self.attach(session_key, key);
        self.unpark(now, session_key);
        self.arm_link(key);
        self.resume_input(now, key);
    }

    /// The client must have room for CONNACK `[MQTT-3.1.2-24]`; what it only asked for is left out first. Every other
    /// packet of ours is shorter, or is looked at again before it is written.
    fn fit_connack(&self, key: LinkKey, connecting: &mut Connecting) -> Result<(), ReasonCode> {
        let link = &self.links[key];
        while self.connack(connecting, false, &self.response_topic(connecting)).encoded_bytes(link.version)
            > link.packet_bytes_max as usize
        {
            if !core::mem::take(&mut connecting.wants_response_topic) {
                return Err(ReasonCode::PACKET_TOO_LARGE);
            }
        }
        Ok(())
    }

    /// Left out as well for an identifier that makes no topic: one with a wildcard, or one that is too long for it.
    fn response_topic(&self, connecting: &Connecting) -> Option<String> {
        let root = self.settings.response_root.as_deref().filter(|_| connecting.wants_response_topic)?;
        let topic = format!("{root}/{}", connecting.client_id);
        TopicName::new(&topic, usize::MAX).is_ok().then_some(topic)
    }

    fn connack<'a>(
        &self,
        connecting: &'a Connecting,
        session_present: bool,
        response_topic: &'a Option<String>,
    ) -> ConnAck<'a> {
        let settings = &self.settings;
        let imposed = connecting.keep_alive_imposed.then_some(connecting.keep_alive_s);
        let properties = ConnAckProperties {
            response_information: response_topic.as_deref(),
            session_expiry_s: connecting.expiry_s.filter(|_| connecting.expiry_capped),
            receive_max: core::num::NonZeroU16::new(settings.receive_max),
            maximum_qos: (settings.qos_max < QoS::ExactlyOnce).then_some(settings.qos_max),
            packet_bytes_max: NonZeroU32::new(settings.packet.packet_bytes_max),
            assigned_client_id: connecting.assigned.then_some(&*connecting.client_id),
            topic_alias_max: Some(settings.topic_alias_max),
            server_keep_alive_s: imposed,
            ..ConnAckProperties::default()
        };
        ConnAck { session_present, reason: ReasonCode::SUCCESS, properties }
    }

    fn send_connack(&mut self, key: LinkKey, connecting: &Connecting, session_present: bool) {
        let response_topic = self.response_topic(connecting);
        let packet = self.connack(connecting, session_present, &response_topic);
        let link = &mut self.links[key];
        packet.encode(link.version, link.output.buffer()).expect("a CONNACK of known size");
        self.sent_packet(key);
    }

    /// CONNACK with a reason, if the client has room for it, then the end `[MQTT-3.1.4-6]`.
    pub(super) fn refuse_connect(&mut self, now: Instant, key: LinkKey, reason: ReasonCode) {
        self.counters.connects_refused += 1;
        let packet = ConnAck::refusal(reason);
        let link = &mut self.links[key];
        let has_room = packet.encoded_bytes(link.version) <= link.packet_bytes_max as usize;
        if has_room && packet.encode(link.version, link.output.buffer()).is_ok() {
            self.sent_packet(key);
        }
        self.close_link(now, key, crate::link::CloseHow::Finish);
    }

    /// DISCONNECT of an MQTT 5 client may change the session's expiry, but not from zero `[MQTT-3.14.2-2]`.
    pub(super) fn change_expiry(&mut self, key: SessionKey, asked_s: u32) -> Result<(), ReasonCode> {
        let granted = self.granted_expiry_s(asked_s);
        let session = &mut self.sessions[key];
        if session.expiry_s == Some(0) && asked_s != 0 {
            return Err(ReasonCode::PROTOCOL_ERROR);
        }
        session.expiry_s = Some(granted);
        Ok(())
    }
}

/// Topics that the broker speaks on itself: not for clients, neither by PUBLISH nor by Will.
pub(super) fn is_brokers_own(topic: &str) -> bool {
    topic == "$SYS" || topic.starts_with("$SYS/")
}
