//! PUBACK, PUBREC, PUBREL and PUBCOMP: one shape, four meanings (MQTT 5.0 §3.4 to §3.7).

use bytes::BytesMut;

use crate::ReasonCode;
use crate::error::{DecodeError, DecodeErrorKind, EncodeError};
use crate::frame::{PacketType, Sender};
use crate::packet::Context;
use crate::property::{PropertyId, Section, UserProperties};
use crate::reader::Reader;
use crate::version::{PacketId, Version};
use crate::writer::{self, Body, Properties, Sink};

/// Which of the four acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is the packet of its name")]
pub enum AckKind {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
}

impl AckKind {
    const fn packet_type(self) -> PacketType {
        match self {
            Self::PubAck => PacketType::PubAck,
            Self::PubRec => PacketType::PubRec,
            Self::PubRel => PacketType::PubRel,
            Self::PubComp => PacketType::PubComp,
        }
    }
}

/// An acknowledgement in a QoS 1 or QoS 2 flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The message that is acknowledged.
    pub packet_id: PacketId,
    /// The outcome; always success in 3.x.
    pub reason: ReasonCode,
    /// Text for people, for diagnosis only.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Ack<'a> {
    /// An acknowledgement without properties.
    pub fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self { packet_id, reason, reason_string: None, user_properties: UserProperties::default() }
    }

    /// Appends the packet to `out`. In 3.x only the packet identifier is sent: those versions have no way to refuse a
    /// message, and a receiver that does not take it acknowledges it all the same (`[MQTT-3.3.5-2]` of 3.1.1).
    ///
    /// # Errors
    /// [`EncodeError`]; nothing is written then.
    pub fn encode(&self, kind: AckKind, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        writer::encode(kind.packet_type().first_byte(), self, version, out)
    }

    /// The bytes that [`encode`](Self::encode) would append.
    pub fn encoded_bytes(&self, version: Version) -> usize {
        writer::encoded_bytes(self, version)
    }

    pub(crate) fn decode(mut body: Reader<'a>, context: Context<'_>) -> Result<Self, DecodeError> {
        let mut ack = Self::new(body.packet_id()?, ReasonCode::SUCCESS);
        if context.version < Version::V5 || body.is_empty() {
            body.finish()?;
            return Ok(ack);
        }
        ack.reason = ReasonCode::from_u8(body.u8("reason code")?);
        if !reason_is_allowed(ack.reason, body.packet_type(), context.sender) {
            return Err(body.error(DecodeErrorKind::ReasonNotAllowed, "reason code"));
        }
        // §3.4.2.2.1: a packet that ends here has no properties.
        if body.is_empty() {
            return Ok(ack);
        }
        let mut section = Section::new(&mut body, context.limits)?;
        while let Some(id) = section.next()? {
            match id {
                PropertyId::ReasonString => ack.reason_string = Some(section.text()?),
                _ => return Err(section.not_allowed()),
            }
        }
        ack.user_properties = section.user_properties();
        body.finish()?;
        Ok(ack)
    }
}

/// `[MQTT-3.4.2-1]`, `[MQTT-3.5.2-1]`, `[MQTT-3.6.2-1]`, `[MQTT-3.7.2-1]`.
fn reason_is_allowed(reason: ReasonCode, packet: PacketType, sender: Sender) -> bool {
    if matches!(packet, PacketType::PubRel | PacketType::PubComp) {
        return matches!(reason, ReasonCode::SUCCESS | ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
    }
    match reason {
        // "Sent only by the Server": a client has no subscribers.
        ReasonCode::NO_MATCHING_SUBSCRIBERS => sender == Sender::Server,
        ReasonCode::SUCCESS
        | ReasonCode::UNSPECIFIED_ERROR
        | ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR
        | ReasonCode::NOT_AUTHORIZED
        | ReasonCode::TOPIC_NAME_INVALID
        | ReasonCode::PACKET_IDENTIFIER_IN_USE
        | ReasonCode::QUOTA_EXCEEDED
        | ReasonCode::PAYLOAD_FORMAT_INVALID => true,
        _ => false,
    }
}

impl Body for Ack<'_> {
    fn write<S: Sink>(&self, version: Version, out: &mut S) {
        out.u16(self.packet_id.get());
        if version < Version::V5 {
            return;
        }
        let bare = self.reason_string.is_none() && self.user_properties.is_empty();
        if bare && self.reason == ReasonCode::SUCCESS {
            return;
        }
        out.u8(self.reason.as_u8());
        if !bare {
            writer::write_section(self, out);
        }
    }
}

impl Properties for Ack<'_> {
    fn write<S: Sink>(&self, out: &mut S) {
        out.text_property(PropertyId::ReasonString, self.reason_string);
        self.user_properties.write(out);
    }
}
