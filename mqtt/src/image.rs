//! Encode once, fan out by reference.
//!
//! A [`PublishImage`] is a message as it lies on the wire, without anything that differs between receivers:
//!
//! ```text
//!   ┌──────────────┬─────────────────────────────────────────────────┬─────────┐
//!   │ length topic │ payload format, response topic, correlation     │ payload │   one allocation, shared
//!   │              │ data, content type, user properties (5.0 form)  │         │
//!   └──────────────┴─────────────────────────────────────────────────┴─────────┘
//!   0              topic_end                                   properties_end
//! ```
//!
//! For one receiver, [`PublishImage::encode_head`] writes what is his own (fixed header, packet identifier, what is left
//! of the message's lifetime, subscription identifiers, topic alias) around copies of the two short parts; the payload
//! follows by reference.

use core::num::NonZeroU16;

use bytes::{Bytes, BytesMut};

use crate::frame::PACKET_BYTES_MAX;
use crate::packet::connect::Will;
use crate::packet::publish::{Forwarded, Publish, first_byte};
use crate::property::{PropertyId, SUBSCRIPTION_ID_MAX};
use crate::topic::TopicName;
use crate::version::{PacketId, QoS, Version};
use crate::writer::{Properties, Sink, packet_bytes, put_var_int, var_int_bytes};

/// A message's wire image, shared by all its receivers.
///
/// There is no alias, no subscription identifier and no lifetime in it: those belong to a [`Delivery`].
///
/// ```
/// use bytes::BytesMut;
/// use quelea_mqtt::{Delivery, PacketId, Publish, PublishImage, QoS, TopicName, Version};
///
/// let topic = TopicName::new("home/door", 128)?;
/// let image = PublishImage::from_publish(&Publish::new(topic, b"open"), topic);
/// let mut out = BytesMut::new();
/// for packet_id in [1, 2] {
///     let to = Delivery { packet_id: PacketId::new(packet_id), ..Delivery::new(Version::V5, QoS::AtLeastOnce) };
///     image.encode(&to, &mut out);
/// }
/// assert_eq!(out, b"\x32\x12\0\x09home/door\0\x01\0open\x32\x12\0\x09home/door\0\x02\0open"[..]);
/// # Ok::<(), quelea_mqtt::TopicError>(())
/// ```
#[derive(Clone, Debug)]
pub struct PublishImage {
    wire: Wire,
    topic_end: u32,
    properties_end: u32,
}

/// Where the bytes of an image lie.
#[derive(Clone, Debug)]
enum Wire {
    /// With a small payload: it is copied to each receiver, and the memory can take another message afterwards.
    Own(Vec<u8>),
    /// With a large one, which is handed on by reference.
    Shared(Bytes),
}

impl core::ops::Deref for Wire {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// How one receiver gets a message.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// What the receiver speaks. 3.x gets neither properties nor an alias.
    pub version: Version,
    /// At which quality of service.
    pub qos: QoS,
    /// Sent before, perhaps.
    pub dup: bool,
    /// The retain flag for this receiver.
    pub retain: bool,
    /// With QoS 1 and 2, and only then.
    pub packet_id: Option<PacketId>,
    /// What is left of the message's lifetime, in seconds.
    pub message_expiry_s: Option<u32>,
    /// The identifiers of the receiver's subscriptions that match; each 1 to 268,435,455.
    pub subscription_ids: &'a [u32],
    /// A topic alias of this connection.
    pub topic_alias: Option<AliasUse>,
}

impl Delivery<'_> {
    /// A first delivery without anything that is optional; QoS 1 and 2 still need a packet identifier.
    pub const fn new(version: Version, qos: QoS) -> Self {
        Self {
            version,
            qos,
            dup: false,
            retain: false,
            packet_id: None,
            message_expiry_s: None,
            subscription_ids: &[],
            topic_alias: None,
        }
    }
}

/// What a topic alias is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AliasUse {
    /// Send the topic, and let the alias stand for it from now on.
    Define(NonZeroU16),
    /// Send the alias instead of the topic.
    Use(NonZeroU16),
}

impl AliasUse {
    /// The alias.
    pub const fn alias(self) -> NonZeroU16 {
        match self {
            Self::Define(alias) | Self::Use(alias) => alias,
        }
    }
}

impl PublishImage {
    /// The image of a message that was published. The topic is given apart, as it may have come as an alias; the user
    /// properties keep their order (`[MQTT-3.3.2-18]`).
    ///
    /// # Panics
    /// If `publish` was built by hand with a text or binary property over 65,535 bytes or with U+0000 in a text; none
    /// that [`decode`](crate::decode) returned has them.
    pub fn from_publish(publish: &Publish<'_>, topic: TopicName<'_>) -> Self {
        Self::new(Vec::new(), topic, &Forwarded::of(&publish.properties), publish.payload)
    }

    /// Becomes the image of another message, in the same memory if that has room.
    ///
    /// # Panics
    /// As [`from_publish`](Self::from_publish).
    pub fn rewrite_from_publish(&mut self, publish: &Publish<'_>, topic: TopicName<'_>) {
        let memory = match &mut self.wire {
            Wire::Own(bytes) => core::mem::take(bytes),
            Wire::Shared(_) => Vec::new(),
        };
        *self = Self::new(memory, topic, &Forwarded::of(&publish.properties), publish.payload);
    }

    /// The image of a will.
    pub fn from_will(will: &Will<'_>) -> Self {
        let forwarded = Forwarded {
            payload_is_utf8: will.payload_is_utf8,
            response_topic: will.response_topic,
            correlation_data: will.correlation_data,
            content_type: will.content_type,
            user_properties: will.user_properties,
        };
        Self::new(Vec::new(), will.topic, &forwarded, will.payload)
    }

    fn new(memory: Vec<u8>, topic: TopicName<'_>, properties: &Forwarded<'_>, payload: &[u8]) -> Self {
        let topic_end = 2 + topic.as_str().len();
        let properties_end = topic_end + properties.measure();
        let (mut wire, bytes) = (memory, properties_end + payload.len());
        wire.clear();
        wire.reserve_exact(bytes);
        wire.binary("topic name", topic.as_str().as_bytes());
        properties.write(&mut wire);
        wire.extend_from_slice(payload);
        let offset = |at: usize| u32::try_from(at).expect("a packet's head is shorter than 4 GiB");
        let wire = match payload.len() <= OWN_PAYLOAD_BYTES_MAX {
            true => Wire::Own(wire),
            false => Wire::Shared(wire.into()),
        };
        Self { topic_end: offset(topic_end), properties_end: offset(properties_end), wire }
    }

    /// The topic.
    pub fn topic(&self) -> TopicName<'_> {
        let text = core::str::from_utf8(&self.wire[2..self.topic_end as usize]);
        TopicName::from_checked(text.expect("the image was made from a topic name"))
    }

    /// The topic's text.
    pub fn topic_bytes(&self) -> &[u8] {
        &self.wire[2..self.topic_end as usize]
    }

    /// The payload: by reference over 4 KiB, a copy below.
    pub fn payload(&self) -> Bytes {
        let start = self.properties_end as usize;
        match &self.wire {
            Wire::Own(bytes) => Bytes::copy_from_slice(&bytes[start..]),
            Wire::Shared(bytes) => bytes.slice(start..),
        }
    }

    /// The length of the payload.
    pub fn payload_bytes(&self) -> usize {
        self.wire.len() - self.properties_end as usize
    }

    /// What the image holds in memory: its allocation, and the shared count beside it if there is one.
    pub fn charged_bytes(&self) -> usize {
        match &self.wire {
            Wire::Own(bytes) => bytes.capacity(),
            Wire::Shared(bytes) => bytes.len() + SHARED_COUNT_BYTES,
        }
    }

    /// The length of the whole packet for a receiver, to be held against his maximum packet size.
    pub fn encoded_bytes(&self, to: &Delivery<'_>) -> usize {
        packet_bytes(self.layout(to).remaining)
    }

    /// Writes everything but the payload: fixed header, topic or alias, packet identifier, properties. The caller
    /// appends [`payload`](Self::payload), by copy or by reference.
    ///
    /// # Panics
    /// If the packet would be longer than MQTT allows (callers hold [`encoded_bytes`](Self::encoded_bytes) against the
    /// receiver's limit first), a packet identifier is there with QoS 0 or is not with QoS 1 and 2, DUP is set with QoS
    /// 0, or a subscription identifier is out of range: faults of the caller, never of a peer.
    #[inline]
    pub fn encode_head(&self, to: &Delivery<'_>, out: &mut BytesMut) {
        let layout = self.layout(to);
        out.reserve(layout.head_bytes);
        self.write_head(to, &layout, out);
    }

    /// Writes the whole packet, the payload copied.
    ///
    /// # Panics
    /// As [`encode_head`](Self::encode_head).
    #[inline]
    pub fn encode(&self, to: &Delivery<'_>, out: &mut BytesMut) {
        let layout = self.layout(to);
        out.reserve(layout.head_bytes + self.payload_bytes());
        self.write_head(to, &layout, out);
        out.extend_from_slice(&self.wire[self.properties_end as usize..]);
    }

    #[inline]
    fn layout(&self, to: &Delivery<'_>) -> Layout {
        let v5 = to.version == Version::V5;
        let topic_end = self.topic_end as usize;
        let with_topic = !(v5 && matches!(to.topic_alias, Some(AliasUse::Use(_))));
        let mut variable_bytes = if with_topic { topic_end } else { EMPTY_TOPIC.len() };
        variable_bytes += if to.packet_id.is_some() { 2 } else { 0 };
        let mut properties = 0;
        if v5 {
            properties = self.properties_end as usize - topic_end;
            properties += if to.message_expiry_s.is_some() { 5 } else { 0 };
            properties += if to.topic_alias.is_some() { 3 } else { 0 };
            for &id in to.subscription_ids {
                properties += 1 + var_int_bytes(id as usize);
            }
            variable_bytes += var_int_bytes(properties) + properties;
        }
        let remaining = variable_bytes + self.payload_bytes();
        Layout {
            with_topic,
            properties,
            remaining,
            head_bytes: 1 + var_int_bytes(remaining) + variable_bytes,
        }
    }

    /// The head's place is made first and then filled, so that `out` checks its capacity once and not once per part.
    #[inline]
    fn write_head(&self, to: &Delivery<'_>, layout: &Layout, out: &mut BytesMut) {
        assert_eq!(
            to.packet_id.is_some(),
            to.qos > QoS::AtMostOnce,
            "a packet identifier goes with QoS 1 and 2"
        );
        assert!(!to.dup || to.qos > QoS::AtMostOnce, "DUP never goes with QoS 0");
        assert!(layout.remaining <= PACKET_BYTES_MAX as usize, "the packet is longer than MQTT allows");
        let start = out.len();
        out.resize(start + layout.head_bytes, 0);
        let mut head = Head { rest: &mut out[start..] };
        let topic_end = self.topic_end as usize;
        head.put(&[first_byte(to.qos, to.dup, to.retain)]);
        head.put_var_int(layout.remaining);
        head.put(if layout.with_topic { &self.wire[..topic_end] } else { &EMPTY_TOPIC });
        if let Some(packet_id) = to.packet_id {
            head.put(&packet_id.get().to_be_bytes());
        }
        if to.version == Version::V5 {
            head.put_var_int(layout.properties);
            head.put_own_properties(to);
            head.put(&self.wire[topic_end..self.properties_end as usize]);
        }
        assert!(head.rest.is_empty(), "the head has the length that was laid out for it");
    }
}

/// What the parts of a packet come to.
struct Layout {
    with_topic: bool,
    /// The property section without its length field.
    properties: usize,
    /// Everything after the fixed header, the payload included.
    remaining: usize,
    /// Everything before the payload.
    head_bytes: usize,
}

/// The part of a head that is still to be filled.
struct Head<'a> {
    rest: &'a mut [u8],
}

impl Head<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let (place, rest) = core::mem::take(&mut self.rest).split_at_mut(bytes.len());
        place.copy_from_slice(bytes);
        self.rest = rest;
    }

    #[inline]
    fn put_var_int(&mut self, value: usize) {
        let len = put_var_int(self.rest, value as u32);
        self.rest = &mut core::mem::take(&mut self.rest)[len..];
    }

    /// The properties that only this receiver gets.
    #[inline]
    fn put_own_properties(&mut self, to: &Delivery<'_>) {
        if let Some(expiry_s) = to.message_expiry_s {
            self.put(&[PropertyId::MessageExpiry as u8]);
            self.put(&expiry_s.to_be_bytes());
        }
        if let Some(alias) = to.topic_alias {
            self.put(&[PropertyId::TopicAlias as u8]);
            self.put(&alias.alias().get().to_be_bytes());
        }
        for &id in to.subscription_ids {
            assert!((1..=SUBSCRIPTION_ID_MAX).contains(&id), "{id} is no subscription identifier");
            self.put(&[PropertyId::SubscriptionId as u8]);
            self.put_var_int(id as usize);
        }
    }
}

/// The topic of a packet that has only an alias.
const EMPTY_TOPIC: [u8; 2] = [0, 0];

/// Payloads up to this size are copied to each receiver. Below it a copy costs less than another chunk in a write.
const OWN_PAYLOAD_BYTES_MAX: usize = 4 * 1024;

/// `bytes` keeps pointer, capacity and count of shared memory in an allocation of its own, made at the first clone.
const SHARED_COUNT_BYTES: usize = 3 * size_of::<usize>();
