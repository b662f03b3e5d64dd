//! SUBSCRIBE: filters that a client wants messages for (MQTT 5.0 §3.8, 3.1.1 §3.8).

use core::num::NonZeroU32;

use bytes::BytesMut;

use crate::error::{DecodeError, DecodeErrorKind, EncodeError};
use crate::frame::{Limits, PacketType};
use crate::packet::Context;
use crate::property::{PropertyId, SUBSCRIPTION_ID_MAX, Section, UserProperties};
use crate::reader::Reader;
use crate::topic::{SubscribeFilter, TopicError, asks_to_share};
use crate::version::{PacketId, QoS, Version};
use crate::writer::{self, Body, Properties, Sink};

/// A client asks for subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Comes back in SUBACK.
    pub packet_id: PacketId,
    /// Comes back in every PUBLISH for these subscriptions; 1 to 268,435,455.
    pub subscription_id: Option<NonZeroU32>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    filters: Filters<'a>,
}

/// One filter of a SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestedSubscription<'a> {
    /// The text as it came.
    pub raw: &'a str,
    /// The filter, or why the text is none: that is answered in SUBACK (0x8F, in 3.1.1 0x80), the packet stands.
    pub topic: Result<SubscribeFilter<'a>, TopicError>,
    /// How the messages shall come.
    pub options: SubscriptionOptions,
}

impl<'a> RequestedSubscription<'a> {
    /// A subscription to ask for.
    pub const fn new(topic: SubscribeFilter<'a>, options: SubscriptionOptions) -> Self {
        Self { raw: topic.as_str(), topic: Ok(topic), options }
    }
}

/// How the messages of a subscription come. 3.x has only the QoS; the others are at their defaults there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SubscriptionOptions {
    /// The highest QoS at which messages are sent.
    pub qos: QoS,
    /// Do not send back what this client has published; never with a shared subscription (`[MQTT-3.8.3-4]`).
    pub no_local: bool,
    /// Keep the retain flag as it was published.
    pub retain_as_published: bool,
    /// Whether retained messages are sent.
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent (MQTT 5.0 §3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// At every SUBSCRIBE, as in 3.x.
    #[default]
    SendAtSubscribe = 0,
    /// Only if the subscription did not exist.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

impl SubscriptionOptions {
    /// The options of 3.x: a QoS, and nothing else.
    pub fn with_qos(qos: QoS) -> Self {
        Self { qos, ..Self::default() }
    }

    /// The byte on the wire (MQTT 5.0 §3.8.3.1).
    pub const fn as_u8(self) -> u8 {
        self.qos.as_u8()
            | (self.no_local as u8) << 2
            | (self.retain_as_published as u8) << 3
            | (self.retain_handling as u8) << 4
    }

    fn from_u8(byte: u8, version: Version) -> Result<Self, (DecodeErrorKind, &'static str)> {
        let reserved = if version == Version::V5 { 0xC0 } else { 0xFC };
        if byte & reserved != 0 {
            return Err((DecodeErrorKind::ReservedBits, "subscription options"));
        }
        let retain_handling = match byte >> 4 {
            0 => RetainHandling::SendAtSubscribe,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return Err((DecodeErrorKind::Forbidden, "retain handling")),
        };
        let qos = QoS::from_u8(byte & 3).ok_or((DecodeErrorKind::Forbidden, "maximum QoS"))?;
        Ok(Self { qos, no_local: byte & 4 != 0, retain_as_published: byte & 8 != 0, retain_handling })
    }
}

/// The filters: bytes that have been checked, or a list to be sent.
#[derive(Clone, Copy)]
enum Filters<'a> {
    Wire { bytes: &'a [u8], count: usize, version: Version, levels_max: usize },
    List(&'a [RequestedSubscription<'a>]),
}

impl<'a> Subscribe<'a> {
    /// A SUBSCRIBE without properties; `filters` must not be empty when it is encoded.
    pub fn new(packet_id: PacketId, filters: &'a [RequestedSubscription<'a>]) -> Self {
        let user_properties = UserProperties::default();
        Self { packet_id, subscription_id: None, user_properties, filters: Filters::List(filters) }
    }

    /// The filters, in order; SUBACK answers them in this order.
    pub fn filters(&self) -> impl Iterator<Item = RequestedSubscription<'a>> + use<'a> {
        let (wire, list) = match self.filters {
            Filters::Wire { bytes, version, levels_max, .. } => {
                let reader = Reader::new(bytes, PacketType::Subscribe);
                (Some(Entries { reader, version, levels_max }), &[][..])
            }
            Filters::List(list) => (None, list),
        };
        // The bytes were checked by `decode`, so that `ok` only ends the walk at their end.
        wire.into_iter().flat_map(|entries| entries.map_while(Result::ok)).chain(list.iter().copied())
    }

    /// The number of filters; at least 1 in a decoded packet.
    pub const fn filters_len(&self) -> usize {
        match self.filters {
            Filters::Wire { count, .. } => count,
            Filters::List(list) => list.len(),
        }
    }

    /// Appends the packet to `out`.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing is written then. 3.x has neither a subscription identifier nor options but the QoS.
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        writer::encode(PacketType::Subscribe.first_byte(), self, version, out)
    }

    /// The bytes that [`encode`](Self::encode) would append.
    pub fn encoded_bytes(&self, version: Version) -> usize {
        writer::encoded_bytes(self, version)
    }

    pub(crate) fn decode(mut body: Reader<'a>, context: Context<'_>) -> Result<Self, DecodeError> {
        let mut subscribe = Self::new(body.packet_id()?, &[]);
        if context.version == Version::V5 {
            subscribe.read_properties(Section::new(&mut body, context.limits)?)?;
        }
        let count = check_entries(body, context)?;
        let levels_max = context.limits.topic_levels_max;
        subscribe.filters = Filters::Wire { bytes: body.rest(), count, version: context.version, levels_max };
        Ok(subscribe)
    }

    fn read_properties(&mut self, mut section: Section<'a>) -> Result<(), DecodeError> {
        while let Some(id) = section.next()? {
            match id {
                PropertyId::SubscriptionId if self.subscription_id.is_some() => {
                    return Err(section.refusal(DecodeErrorKind::DuplicateProperty));
                }
                PropertyId::SubscriptionId => self.subscription_id = Some(section.subscription_id()?),
                _ => return Err(section.not_allowed()),
            }
        }
        self.user_properties = section.user_properties();
        Ok(())
    }
}

/// Walks all entries once; returns their number.
fn check_entries(body: Reader<'_>, context: Context<'_>) -> Result<usize, DecodeError> {
    let Limits { topic_levels_max: levels_max, filters_max, .. } = *context.limits;
    let mut count = 0;
    for entry in (Entries { reader: body, version: context.version, levels_max }) {
        let entry = entry?;
        if entry.options.no_local && asks_to_share(entry.raw) {
            return Err(body.error(DecodeErrorKind::Forbidden, "no local on a shared subscription"));
        }
        count += 1;
        if count > filters_max {
            return Err(body.error(DecodeErrorKind::TooMany, "topic filter"));
        }
    }
    // `[MQTT-3.8.3-2]`.
    if count == 0 { Err(body.error(DecodeErrorKind::Missing, "topic filter")) } else { Ok(count) }
}

/// The entries of a payload, each checked as it is read.
struct Entries<'a> {
    reader: Reader<'a>,
    version: Version,
    levels_max: usize,
}

impl<'a> Entries<'a> {
    fn read(&mut self) -> Result<RequestedSubscription<'a>, DecodeError> {
        let raw = self.reader.text("topic filter")?;
        let byte = self.reader.u8("subscription options")?;
        let options = SubscriptionOptions::from_u8(byte, self.version)
            .map_err(|(kind, field)| self.reader.error(kind, field))?;
        Ok(RequestedSubscription { raw, topic: SubscribeFilter::parse(raw, self.levels_max), options })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<RequestedSubscription<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() { None } else { Some(self.read()) }
    }
}

impl PartialEq for Filters<'_> {
    fn eq(&self, other: &Self) -> bool {
        let packet = |filters| Subscribe { filters, ..Subscribe::new(PacketId::MIN, &[]) };
        packet(*self).filters().eq(packet(*other).filters())
    }
}

impl Eq for Filters<'_> {}

impl core::fmt::Debug for Filters<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let packet = Subscribe { filters: *self, ..Subscribe::new(PacketId::MIN, &[]) };
        f.debug_list().entries(packet.filters()).finish()
    }
}

impl Body for Subscribe<'_> {
    fn write<S: Sink>(&self, version: Version, out: &mut S) {
        out.u16(self.packet_id.get());
        if version == Version::V5 {
            writer::write_section(self, out);
        } else if self.subscription_id.is_some() {
            out.refuse(EncodeError::NotInVersion(PropertyId::SubscriptionId.name()));
        }
        if self.filters_len() == 0 {
            out.refuse(EncodeError::Invalid("topic filter"));
        }
        for entry in self.filters() {
            if version < Version::V5 && entry.options.as_u8() > 2 {
                out.refuse(EncodeError::NotInVersion("subscription options"));
            }
            if entry.options.no_local && asks_to_share(entry.raw) {
                out.refuse(EncodeError::Invalid("no local on a shared subscription"));
            }
            out.text("topic filter", entry.raw);
            out.u8(entry.options.as_u8());
        }
    }
}

impl Properties for Subscribe<'_> {
    fn write<S: Sink>(&self, out: &mut S) {
        if let Some(id) = self.subscription_id {
            out.subscription_id(id.get());
        }
        self.user_properties.write(out);
    }
}

const _: () =
    assert!(SUBSCRIPTION_ID_MAX == crate::PACKET_BYTES_MAX, "a variable byte integer cannot exceed it");
