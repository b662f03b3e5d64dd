//! UNSUBSCRIBE: filters that a client no longer wants messages for (MQTT 5.0 §3.10).

use bytes::BytesMut;

use crate::error::{DecodeError, DecodeErrorKind, EncodeError};
use crate::frame::PacketType;
use crate::packet::Context;
use crate::property::{Section, UserProperties};
use crate::reader::Reader;
use crate::topic::{SubscribeFilter, TopicError};
use crate::version::{PacketId, Version};
use crate::writer::{self, Body, Properties, Sink};

/// A client ends subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Comes back in UNSUBACK.
    pub packet_id: PacketId,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    filters: Filters<'a>,
}

/// The filters: bytes that have been checked, or a list to be sent.
#[derive(Clone, Copy)]
enum Filters<'a> {
    Wire { bytes: &'a [u8], count: usize, levels_max: usize },
    List(&'a [SubscribeFilter<'a>]),
}

impl<'a> Unsubscribe<'a> {
    /// An UNSUBSCRIBE without properties; `filters` must not be empty when it is encoded.
    pub fn new(packet_id: PacketId, filters: &'a [SubscribeFilter<'a>]) -> Self {
        Self { packet_id, user_properties: UserProperties::default(), filters: Filters::List(filters) }
    }

    /// The filters, in order, each as the text that came and as the filter it is or the reason why it is none; UNSUBACK
    /// answers them in this order.
    pub fn filters(
        &self,
    ) -> impl Iterator<Item = (&'a str, Result<SubscribeFilter<'a>, TopicError>)> + use<'a> {
        let (bytes, levels_max, list) = match self.filters {
            Filters::Wire { bytes, levels_max, .. } => (bytes, levels_max, &[][..]),
            Filters::List(list) => (&[][..], 0, list),
        };
        let mut reader = Reader::new(bytes, PacketType::Unsubscribe);
        // The bytes were checked by `decode`, so that `ok` only ends the walk at their end.
        core::iter::from_fn(move || reader.text("topic filter").ok())
            .map(move |raw| (raw, SubscribeFilter::parse(raw, levels_max)))
            .chain(list.iter().map(|&filter| (filter.as_str(), Ok(filter))))
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
    /// [`EncodeError`]; nothing is written then.
    pub fn encode(&self, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
        writer::encode(PacketType::Unsubscribe.first_byte(), self, version, out)
    }

    /// The bytes that [`encode`](Self::encode) would append.
    pub fn encoded_bytes(&self, version: Version) -> usize {
        writer::encoded_bytes(self, version)
    }

    pub(crate) fn decode(mut body: Reader<'a>, context: Context<'_>) -> Result<Self, DecodeError> {
        let mut unsubscribe = Self::new(body.packet_id()?, &[]);
        if context.version == Version::V5 {
            let mut section = Section::new(&mut body, context.limits)?;
            if section.next()?.is_some() {
                return Err(section.not_allowed());
            }
            unsubscribe.user_properties = section.user_properties();
        }
        let bytes = body.rest();
        let mut count = 0;
        while !body.is_empty() {
            body.text("topic filter")?;
            count += 1;
            if count > context.limits.filters_max {
                return Err(body.error(DecodeErrorKind::TooMany, "topic filter"));
            }
        }
        if count == 0 {
            // `[MQTT-3.10.3-2]`.
            return Err(body.error(DecodeErrorKind::Missing, "topic filter"));
        }
        unsubscribe.filters = Filters::Wire { bytes, count, levels_max: context.limits.topic_levels_max };
        Ok(unsubscribe)
    }
}

impl PartialEq for Filters<'_> {
    fn eq(&self, other: &Self) -> bool {
        let packet = |filters| Unsubscribe { filters, ..Unsubscribe::new(PacketId::MIN, &[]) };
        packet(*self).filters().eq(packet(*other).filters())
    }
}

impl Eq for Filters<'_> {}

impl core::fmt::Debug for Filters<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let packet = Unsubscribe { filters: *self, ..Unsubscribe::new(PacketId::MIN, &[]) };
        f.debug_list().entries(packet.filters()).finish()
    }
}

impl Body for Unsubscribe<'_> {
    fn write<S: Sink>(&self, version: Version, out: &mut S) {
        out.u16(self.packet_id.get());
        if version == Version::V5 {
            writer::write_section(self, out);
        }
        if self.filters_len() == 0 {
            out.refuse(EncodeError::Invalid("topic filter"));
        }
        for (raw, _) in self.filters() {
            out.text("topic filter", raw);
        }
    }
}

impl Properties for Unsubscribe<'_> {
    fn write<S: Sink>(&self, out: &mut S) {
        self.user_properties.write(out);
    }
}
