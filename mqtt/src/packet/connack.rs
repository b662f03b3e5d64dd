//! CONNACK: the server's answer to CONNECT (MQTT 5.0 §3.2, 3.1.1 §3.2).

use core::num::{NonZeroU16, NonZeroU32};

use bytes::BytesMut;

use crate::ReasonCode;
use crate::error::{DecodeError, DecodeErrorKind, EncodeError};
use crate::frame::PacketType;
use crate::packet::Context;
use crate::property::{PropertyId, Section, UserProperties};
use crate::reader::Reader;
use crate::version::{QoS, Version};
use crate::writer::{self, Body, Properties, Sink};

/// The answer to CONNECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// The server still has the session; only with success.
    pub session_present: bool,
    /// The outcome. The return codes of 3.x are translated both ways (see [`ReasonCode::to_connack_v3`]).
    pub reason: ReasonCode,
    /// What the server grants and limits, MQTT 5.0 only.
    pub properties: ConnAckProperties<'a>,
}

/// The properties of CONNACK; `None` means what the standard's default says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnAckProperties<'a> {
    /// Seconds for which the session outlives the connection; `None` = as the client asked.
    pub session_expiry_s: Option<u32>,
    /// QoS 1 and 2 messages that the server takes at once; `None` = 65,535.
    pub receive_max: Option<NonZeroU16>,
    /// The highest QoS that the server takes, 0 or 1; `None` = 2.
    pub maximum_qos: Option<QoS>,
    /// Whether the server retains messages; `None` = yes.
    pub retain_available: Option<bool>,
    /// Bytes of a packet that the server takes; `None` = no limit.
    pub packet_bytes_max: Option<NonZeroU32>,
    /// The client identifier that the server chose for a client without one.
    pub assigned_client_id: Option<&'a str>,
    /// The highest topic alias that the server takes; `None` = 0.
    pub topic_alias_max: Option<u16>,
    /// Text for people, for diagnosis only.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Whether filters may have wildcards; `None` = yes.
    pub wildcard_subscription_available: Option<bool>,
    /// Whether subscription identifiers are known; `None` = yes.
    pub subscription_ids_available: Option<bool>,
    /// Whether shared subscriptions are known; `None` = yes.
    pub shared_subscription_available: Option<bool>,
    /// The keep alive in seconds that the client must use instead of its own.
    pub server_keep_alive_s: Option<u16>,
    /// From which the client may build response topics.
    pub response_information: Option<&'a str>,
    /// Where to go instead.
    pub server_reference: Option<&'a str>,
    /// The method of enhanced authentication, as in CONNECT.
    pub authentication_method: Option<&'a str>,
    /// What the method has to say.
    pub authentication_data: Option<&'a [u8]>,
}

impl<'a> ConnAck<'a> {
    /// A CONNACK that refuses, without properties. A reason that no CONNACK may carry, or that is no refusal, becomes
    /// 0x80 (unspecified error); one that says that the server shuts down becomes 0x88 (server unavailable).
    pub fn refusal(reason: ReasonCode) -> Self {
        let reason = match reason {
            ReasonCode::SERVER_SHUTTING_DOWN => ReasonCode::SERVER_UNAVAILABLE,
            reason if reason.is_error() && reason_is_allowed(reason) => reason,
            _ => ReasonCode::UNSPECIFIED_ERROR,
        };
        Self { session_present: false, reason, properties: ConnAckProperties::default() }
    }

    /// Appends the packet to `out`. In 3.x the reason becomes a return code, and 3.1 has no "session present".
    ///
    /// # Errors
    /// [`EncodeError`]; nothing is written then. A session cannot be present with a refusal (`[MQTT-3.2.2-6]`).
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        writer::encode(PacketType::ConnAck.first_byte(), self, version, out)
    }

    /// The bytes that [`encode`](Self::encode) would append.
    pub fn encoded_bytes(&self, version: Version) -> usize {
        writer::encoded_bytes(self, version)
    }

    pub(crate) fn decode(mut body: Reader<'a>, context: Context<'_>) -> Result<Self, DecodeError> {
        const FLAGS: &str = "connect acknowledge flags";
        let flags = body.u8(FLAGS)?;
        let code = body.u8("reason code")?;
        let flags_legal = if context.version == Version::V31 { 0 } else { 1 };
        if flags & !flags_legal != 0 {
            return Err(body.error(DecodeErrorKind::ReservedBits, FLAGS));
        }
        let reason = if context.version == Version::V5 {
            Some(ReasonCode::from_u8(code)).filter(|&reason| reason_is_allowed(reason))
        } else {
            ReasonCode::from_connack_v3(code)
        };
        let reason = reason.ok_or_else(|| body.error(DecodeErrorKind::ReasonNotAllowed, "reason code"))?;
        let session_present = flags == 1;
        if session_present && reason != ReasonCode::SUCCESS {
            return Err(body.error(DecodeErrorKind::Forbidden, "session present"));
        }
        let mut connack = Self { session_present, reason, properties: ConnAckProperties::default() };
        if context.version == Version::V5 {
            connack.properties.read(Section::new(&mut body, context.limits)?)?;
        }
        body.finish()?;
        Ok(connack)
    }
}

impl<'a> ConnAckProperties<'a> {
    fn read(&mut self, mut section: Section<'a>) -> Result<(), DecodeError> {
        while let Some(id) = section.next()? {
            match id {
                PropertyId::SessionExpiry => self.session_expiry_s = Some(section.u32()?),
                PropertyId::ReceiveMax => self.receive_max = Some(section.non_zero_u16()?),
                PropertyId::MaximumQos => {
                    // §3.2.2.3.4: 0 or 1; 2 is said by leaving the property out.
                    let level = section.flag()?;
                    self.maximum_qos = Some(if level { QoS::AtLeastOnce } else { QoS::AtMostOnce });
                }
                PropertyId::RetainAvailable => self.retain_available = Some(section.flag()?),
                PropertyId::PacketBytesMax => self.packet_bytes_max = Some(section.non_zero_u32()?),
                PropertyId::AssignedClientId => self.assigned_client_id = Some(section.text()?),
                PropertyId::TopicAliasMax => self.topic_alias_max = Some(section.u16()?),
                PropertyId::ReasonString => self.reason_string = Some(section.text()?),
                PropertyId::WildcardAvailable => self.wildcard_subscription_available = Some(section.flag()?),
                PropertyId::SubscriptionIdsAvailable => {
                    self.subscription_ids_available = Some(section.flag()?);
                }
                PropertyId::SharedAvailable => self.shared_subscription_available = Some(section.flag()?),
                PropertyId::ServerKeepAlive => self.server_keep_alive_s = Some(section.u16()?),
                PropertyId::ResponseInformation => self.response_information = Some(section.text()?),
                PropertyId::ServerReference => self.server_reference = Some(section.text()?),
                PropertyId::AuthenticationMethod => self.authentication_method = Some(section.text()?),
                PropertyId::AuthenticationData => self.authentication_data = Some(section.binary()?),
                _ => return Err(section.not_allowed()),
            }
        }
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(section.refusal_of(PropertyId::AuthenticationMethod, DecodeErrorKind::Missing));
        }
        self.user_properties = section.user_properties();
        Ok(())
    }
}

/// `[MQTT-3.2.2-8]`.
fn reason_is_allowed(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::SUCCESS
            | ReasonCode::UNSPECIFIED_ERROR
            | ReasonCode::MALFORMED_PACKET
            | ReasonCode::PROTOCOL_ERROR
            | ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR
            | ReasonCode::UNSUPPORTED_PROTOCOL_VERSION
            | ReasonCode::CLIENT_IDENTIFIER_NOT_VALID
            | ReasonCode::BAD_USER_NAME_OR_PASSWORD
            | ReasonCode::NOT_AUTHORIZED
            | ReasonCode::SERVER_UNAVAILABLE
            | ReasonCode::SERVER_BUSY
            | ReasonCode::BANNED
            | ReasonCode::BAD_AUTHENTICATION_METHOD
            | ReasonCode::TOPIC_NAME_INVALID
            | ReasonCode::PACKET_TOO_LARGE
            | ReasonCode::QUOTA_EXCEEDED
            | ReasonCode::PAYLOAD_FORMAT_INVALID
            | ReasonCode::RETAIN_NOT_SUPPORTED
            | ReasonCode::QOS_NOT_SUPPORTED
            | ReasonCode::USE_ANOTHER_SERVER
            | ReasonCode::SERVER_MOVED
            | ReasonCode::CONNECTION_RATE_EXCEEDED
    )
}

impl Body for ConnAck<'_> {
    fn write<S: Sink>(&self, version: Version, out: &mut S) {
        if self.session_present && self.reason != ReasonCode::SUCCESS {
            out.refuse(EncodeError::Invalid("session present"));
        }
        out.u8(u8::from(self.session_present && version > Version::V31));
        if version < Version::V5 {
            out.u8(self.reason.to_connack_v3());
            return;
        }
        if !reason_is_allowed(self.reason) {
            out.refuse(EncodeError::Invalid("reason code"));
        }
        out.u8(self.reason.as_u8());
        writer::write_section(&self.properties, out);
    }
}

impl Properties for ConnAckProperties<'_> {
    fn write<S: Sink>(&self, out: &mut S) {
        let maximum_qos = match self.maximum_qos {
            None => None,
            Some(QoS::AtMostOnce) => Some(false),
            Some(QoS::AtLeastOnce) => Some(true),
            Some(QoS::ExactlyOnce) => {
                out.refuse(EncodeError::Invalid(PropertyId::MaximumQos.name()));
                None
            }
        };
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            out.refuse(EncodeError::Invalid(PropertyId::AuthenticationMethod.name()));
        }
        out.u32_property(PropertyId::SessionExpiry, self.session_expiry_s);
        out.u16_property(PropertyId::ReceiveMax, self.receive_max.map(NonZeroU16::get));
        out.flag_property(PropertyId::MaximumQos, maximum_qos);
        out.flag_property(PropertyId::RetainAvailable, self.retain_available);
        out.u32_property(PropertyId::PacketBytesMax, self.packet_bytes_max.map(NonZeroU32::get));
        out.text_property(PropertyId::AssignedClientId, self.assigned_client_id);
        out.u16_property(PropertyId::TopicAliasMax, self.topic_alias_max);
        out.text_property(PropertyId::ReasonString, self.reason_string);
        out.flag_property(PropertyId::WildcardAvailable, self.wildcard_subscription_available);
        out.flag_property(PropertyId::SubscriptionIdsAvailable, self.subscription_ids_available);
        out.flag_property(PropertyId::SharedAvailable, self.shared_subscription_available);
        out.u16_property(PropertyId::ServerKeepAlive, self.server_keep_alive_s);
        out.text_property(PropertyId::ResponseInformation, self.response_information);
        out.text_property(PropertyId::ServerReference, self.server_reference);
        out.text_property(PropertyId::AuthenticationMethod, self.authentication_method);
        out.binary_property(PropertyId::AuthenticationData, self.authentication_data);
        self.user_properties.write(out);
    }
}
