//! SUBACK and UNSUBACK: one reason per filter (MQTT 5.0 §3.9, §3.11).

use bytes::BytesMut;

use crate::ReasonCode;
use crate::error::{DecodeError, DecodeErrorKind, EncodeError};
use crate::frame::PacketType;
use crate::packet::Context;
use crate::property::{PropertyId, Section, UserProperties};
use crate::reader::Reader;
use crate::version::{PacketId, Version};
use crate::writer::{self, Body, Properties, Sink};

/// Which of the two answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is the packet of its name")]
pub enum SubAckKind {
    SubAck,
    UnsubAck,
}

impl SubAckKind {
    const fn packet_type(self) -> PacketType {
        match self {
            Self::SubAck => PacketType::SubAck,
            Self::UnsubAck => PacketType::UnsubAck,
        }
    }
}

/// The answer to SUBSCRIBE or UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// The packet that is answered.
    pub packet_id: PacketId,
    /// The bytes of the reasons, one per filter, in their order. A 3.x UNSUBACK has none; a 3.x SUBACK has the granted
    /// QoS or 0x80.
    pub reasons: &'a [u8],
    /// Text for people, for diagnosis only.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> SubAck<'a> {
    /// An answer without properties.
    pub fn new(packet_id: PacketId, reasons: &'a [u8]) -> Self {
        Self { packet_id, reasons, reason_string: None, user_properties: UserProperties::default() }
    }

    /// The reasons, one per filter.
    pub fn reason_codes(&self) -> impl ExactSizeIterator<Item = ReasonCode> + use<'a> {
        self.reasons.iter().map(|&code| ReasonCode::from_u8(code))
    }

    /// Appends the packet to `out`. In 3.x every failure of a SUBACK becomes 0x80, and an UNSUBACK has no reasons.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing is written then.
    pub fn encode(&self, kind: SubAckKind, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        writer::encode(kind.packet_type().first_byte(), &Answer { suback: self, kind }, version, out)
    }

    /// The bytes that [`encode`](Self::encode) would append.
    pub fn encoded_bytes(&self, kind: SubAckKind, version: Version) -> usize {
        writer::encoded_bytes(&Answer { suback: self, kind }, version)
    }

    pub(crate) fn decode(mut body: Reader<'a>, context: Context<'_>) -> Result<Self, DecodeError> {
        const FIELD: &str = "reason code";
        let mut suback = Self::new(body.packet_id()?, &[]);
        if context.version == Version::V5 {
            suback.read_properties(Section::new(&mut body, context.limits)?)?;
        } else if body.packet_type() == PacketType::UnsubAck {
            body.finish()?;
            return Ok(suback);
        }
        suback.reasons = body.take_rest();
        if suback.reasons.is_empty() {
            return Err(body.error(DecodeErrorKind::Missing, FIELD));
        }
        let legal = |code| reason_is_allowed(code, body.packet_type(), context.version);
        if suback.reason_codes().all(legal) {
            Ok(suback)
        } else {
            Err(body.error(DecodeErrorKind::ReasonNotAllowed, FIELD))
        }
    }

    fn read_properties(&mut self, mut section: Section<'a>) -> Result<(), DecodeError> {
        while let Some(id) = section.next()? {
            match id {
                PropertyId::ReasonString => self.reason_string = Some(section.text()?),
                _ => return Err(section.not_allowed()),
            }
        }
        self.user_properties = section.user_properties();
        Ok(())
    }
}

/// `[MQTT-3.9.3-2]`, `[MQTT-3.11.3-2]`. 0x80 is taken in 3.1 too, which does not list it: brokers send it there.
fn reason_is_allowed(reason: ReasonCode, packet: PacketType, version: Version) -> bool {
    match reason {
        ReasonCode::GRANTED_QOS_1 | ReasonCode::GRANTED_QOS_2 => packet == PacketType::SubAck,
        ReasonCode::SUCCESS | ReasonCode::UNSPECIFIED_ERROR => true,
        _ if version < Version::V5 => false,
        ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR
        | ReasonCode::NOT_AUTHORIZED
        | ReasonCode::TOPIC_FILTER_INVALID
        | ReasonCode::PACKET_IDENTIFIER_IN_USE => true,
        ReasonCode::NO_SUBSCRIPTION_EXISTED => packet == PacketType::UnsubAck,
        ReasonCode::QUOTA_EXCEEDED
        | ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED
        | ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED
        | ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED => packet == PacketType::SubAck,
        _ => false,
    }
}

/// A [`SubAck`] that knows which packet it is.
struct Answer<'s, 'a> {
    suback: &'s SubAck<'a>,
    kind: SubAckKind,
}

impl Body for Answer<'_, '_> {
    fn write<S: Sink>(&self, version: Version, out: &mut S) {
        out.u16(self.suback.packet_id.get());
        if version < Version::V5 && self.kind == SubAckKind::UnsubAck {
            return;
        }
        if version == Version::V5 {
            writer::write_section(self.suback, out);
        }
        if self.suback.reasons.is_empty() {
            out.refuse(EncodeError::Invalid("reason code"));
        }
        for reason in self.suback.reason_codes() {
            let reason = if version < Version::V5 && reason.is_error() {
                ReasonCode::UNSPECIFIED_ERROR
            } else {
                reason
            };
            if !reason_is_allowed(reason, self.kind.packet_type(), version) {
                out.refuse(EncodeError::Invalid("reason code"));
            }
            out.u8(reason.as_u8());
        }
    }
}

impl Properties for SubAck<'_> {
    fn write<S: Sink>(&self, out: &mut S) {
        out.text_property(PropertyId::ReasonString, self.reason_string);
        self.user_properties.write(out);
    }
}
