//! PUBLISH: a message (MQTT 5.0 §3.3). The hot path: everything here is measured by the bench `codec`.

use core::num::NonZeroU16;

use bytes::BytesMut;

use crate::error::{DecodeError, DecodeErrorKind, EncodeError};
use crate::frame::{Limits, PacketType, Sender};
use crate::packet::{Context, Packet};
use crate::property::{OpenStretch, PropertyId, Section, SubscriptionIds, UserProperties};
use crate::reader::Reader;
use crate::topic::{TopicError, TopicName};
use crate::version::{PacketId, QoS, Version};
use crate::writer::{self, Body, Properties, Sink};

/// A message on its way to the server or from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Sent before, perhaps; never with QoS 0 (`[MQTT-3.3.1-2]`).
    pub dup: bool,
    /// The quality of service.
    pub qos: QoS,
    /// To the server: retain it. From the server: it was retained (or is shown as it was published).
    pub retain: bool,
    /// The topic; `None` if the packet has only a topic alias (5.0).
    pub topic: Option<TopicName<'a>>,
    /// With QoS 1 and 2, and only then (`[MQTT-2.2.1-2]`).
    pub packet_id: Option<PacketId>,
    /// What is said, of any content.
    pub payload: &'a [u8],
    /// The properties; all default in 3.x.
    pub properties: PublishProperties<'a>,
}

/// The properties of PUBLISH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties<'a> {
    /// Whether the payload claims to be UTF-8; `None` if the property is not there. Nobody has checked it.
    pub payload_is_utf8: Option<bool>,
    /// What is left of the message's lifetime, in seconds.
    pub message_expiry_s: Option<u32>,
    /// A number that stands for the topic on this connection, or shall stand for it.
    pub topic_alias: Option<NonZeroU16>,
    /// Where a response is expected.
    pub response_topic: Option<TopicName<'a>>,
    /// What a response should carry back.
    pub correlation_data: Option<&'a [u8]>,
    /// The content type, usually a MIME type.
    pub content_type: Option<&'a str>,
    /// User properties, handed on in this order (`[MQTT-3.3.2-18]`).
    pub user_properties: UserProperties<'a>,
    /// The identifiers of the subscriptions that the message is for; only from a server.
    pub subscription_ids: SubscriptionIds<'a>,
}

impl<'a> Publish<'a> {
    /// A message without properties, QoS 0.
    pub fn new(topic: TopicName<'a>, payload: &'a [u8]) -> Self {
        Self {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: Some(topic),
            packet_id: None,
            payload,
            properties: PublishProperties::default(),
        }
    }

    /// Appends the packet to `out`. 3.x has no properties: they are left out there. Who sends one message to many
    /// encodes a [`PublishImage`](crate::PublishImage) instead.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing is written then. Among them: a packet identifier where none may stand or none where one
    /// must, DUP with QoS 0, neither topic nor alias.
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        writer::encode(first_byte(self.qos, self.dup, self.retain), self, version, out)
    }

    /// The bytes that [`encode`](Self::encode) would append.
    pub fn encoded_bytes(&self, version: Version) -> usize {
        writer::encoded_bytes(self, version)
    }

    /// The usual message, without properties, is built in the place where it is returned; any other takes a detour.
    #[inline]
    pub(crate) fn decode(
        first: u8,
        mut body: Reader<'a>,
        context: Context<'_>,
    ) -> Result<Packet<'a>, DecodeError> {
        let Some(qos) = QoS::from_u8(first >> 1 & 3) else {
            return Err(body.error(DecodeErrorKind::Flags, "fixed header"));
        };
        let text = body.text_with_nul("topic name")?;
        let packet_id = if qos == QoS::AtMostOnce { None } else { Some(body.packet_id()?) };
        let (dup, retain) = (first & 8 != 0, first & 1 != 0);
        if context.version == Version::V5 && !body.skip_zero() {
            let head = Publish {
                dup,
                qos,
                retain,
                topic: None,
                packet_id,
                payload: &[],
                properties: Default::default(),
            };
            return head.decode_properties(text, body, context);
        }
        match TopicName::new(text, context.limits.topic_levels_max) {
            Ok(topic) => Ok(Packet::Publish(Publish {
                dup,
                qos,
                retain,
                topic: Some(topic),
                packet_id,
                payload: body.rest(),
                properties: PublishProperties::default(),
            })),
            Err(error) => Err(topic_refusal(&body, error, context)),
        }
    }

    /// What follows the packet identifier if the property section is not empty.
    #[inline(never)]
    fn decode_properties(
        mut self,
        text: &'a str,
        mut body: Reader<'a>,
        context: Context<'_>,
    ) -> Result<Packet<'a>, DecodeError> {
        self.properties.read(Section::new(&mut body, context.limits)?, context)?;
        self.topic = match TopicName::new(text, context.limits.topic_levels_max) {
            Ok(topic) => Some(topic),
            Err(TopicError::Empty) if self.properties.topic_alias.is_some() => None,
            Err(error) => return Err(topic_refusal(&body, error, context)),
        };
        self.payload = body.rest();
        Ok(Packet::Publish(self))
    }
}

#[cold]
fn topic_refusal(body: &Reader<'_>, error: TopicError, context: Context<'_>) -> DecodeError {
    let kind = match error {
        // §3.3.2.3.4: neither topic nor alias is a protocol error.
        TopicError::Empty if context.version == Version::V5 => DecodeErrorKind::Missing,
        error => DecodeErrorKind::Topic(error),
    };
    body.error(kind, "topic name")
}

impl<'a> PublishProperties<'a> {
    fn read(&mut self, mut section: Section<'a>, context: Context<'_>) -> Result<(), DecodeError> {
        let limits: &Limits = context.limits;
        let mut subscription_ids = OpenStretch::default();
        while let Some(id) = section.next()? {
            match id {
                PropertyId::PayloadFormat => self.payload_is_utf8 = Some(section.flag()?),
                PropertyId::MessageExpiry => self.message_expiry_s = Some(section.u32()?),
                PropertyId::TopicAlias => {
                    let alias = NonZeroU16::new(section.u16()?);
                    self.topic_alias =
                        Some(alias.ok_or_else(|| section.refusal(DecodeErrorKind::TopicAliasZero))?);
                }
                PropertyId::ResponseTopic => self.response_topic = Some(section.response_topic(limits)?),
                PropertyId::CorrelationData => self.correlation_data = Some(section.binary()?),
                PropertyId::ContentType => self.content_type = Some(section.text()?),
                // `[MQTT-3.3.4-6]`: never from a client.
                PropertyId::SubscriptionId if context.sender == Sender::Client => {
                    return Err(section.refusal(DecodeErrorKind::Forbidden));
                }
                PropertyId::SubscriptionId => {
                    let start = section.current_property();
                    section.subscription_id()?;
                    subscription_ids.extend(start, section.rest());
                }
                _ => return Err(section.not_allowed()),
            }
        }
        self.user_properties = section.user_properties();
        self.subscription_ids = SubscriptionIds::from_stretch(subscription_ids.close());
        Ok(())
    }
}

/// The first byte of a PUBLISH (§3.3.1).
pub(crate) const fn first_byte(qos: QoS, dup: bool, retain: bool) -> u8 {
    PacketType::Publish.first_byte() | (dup as u8) << 3 | qos.as_u8() << 1 | retain as u8
}

impl Body for Publish<'_> {
    fn write<S: Sink>(&self, version: Version, out: &mut S) {
        if self.packet_id.is_some() != (self.qos > QoS::AtMostOnce) {
            out.refuse(EncodeError::Invalid("packet identifier"));
        }
        if self.dup && self.qos == QoS::AtMostOnce {
            out.refuse(EncodeError::Invalid("DUP"));
        }
        match self.topic {
            Some(_) => {}
            None if version < Version::V5 => out.refuse(EncodeError::NotInVersion("topic alias")),
            None if self.properties.topic_alias.is_none() => out.refuse(EncodeError::Invalid("topic name")),
            None => {}
        }
        out.text("topic name", self.topic.map_or("", TopicName::as_str));
        if let Some(packet_id) = self.packet_id {
            out.u16(packet_id.get());
        }
        if version == Version::V5 {
            writer::write_section(&self.properties, out);
        }
        out.bytes(self.payload);
    }
}

impl Properties for PublishProperties<'_> {
    fn write<S: Sink>(&self, out: &mut S) {
        out.u32_property(PropertyId::MessageExpiry, self.message_expiry_s);
        out.u16_property(PropertyId::TopicAlias, self.topic_alias.map(NonZeroU16::get));
        self.subscription_ids.write(out);
        Forwarded::of(self).write(out);
    }
}

/// The properties of a message that a server hands on as they are (`[MQTT-3.3.2-4]`, `-15` to `-20`).
pub(crate) struct Forwarded<'a> {
    pub(crate) payload_is_utf8: Option<bool>,
    pub(crate) response_topic: Option<TopicName<'a>>,
    pub(crate) correlation_data: Option<&'a [u8]>,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) user_properties: UserProperties<'a>,
}

impl<'a> Forwarded<'a> {
    pub(crate) const fn of(properties: &PublishProperties<'a>) -> Self {
        Self {
            payload_is_utf8: properties.payload_is_utf8,
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data,
            content_type: properties.content_type,
            user_properties: properties.user_properties,
        }
    }
}

impl Properties for Forwarded<'_> {
    fn write<S: Sink>(&self, out: &mut S) {
        out.flag_property(PropertyId::PayloadFormat, self.payload_is_utf8);
        out.text_property(PropertyId::ResponseTopic, self.response_topic.map(TopicName::as_str));
        out.binary_property(PropertyId::CorrelationData, self.correlation_data);
        out.text_property(PropertyId::ContentType, self.content_type);
        self.user_properties.write(out);
    }
}
