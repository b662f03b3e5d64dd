//! Publications as the application sees them: owned, shared by reference, independent of packets.

use bytes::Bytes;
use quelea_mqtt::{self as mqtt, PacketId, QoS};
use smallvec::SmallVec;

use super::text::Text;

/// A message to publish. A clone costs reference counts, not copies (unless it has properties).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The topic name; checked when it is published.
    pub topic: Text,
    /// The payload.
    pub payload: Bytes,
    /// The promise of delivery.
    pub qos: QoS,
    /// Keep as the topic's retained message.
    pub retain: bool,
    /// MQTT 5 properties, boxed because most messages have none.
    pub properties: Option<Box<Properties>>,
}

impl Publish {
    /// A QoS 0 message that is not retained.
    pub fn new(topic: impl Into<Text>, payload: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            qos: QoS::AtMostOnce,
            retain: false,
            properties: None,
        }
    }

    /// The same message with this QoS.
    #[must_use]
    pub fn with_qos(mut self, qos: QoS) -> Self {
        self.qos = qos;
        self
    }

    /// The same message, retained.
    #[must_use]
    pub fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    /// The same message with MQTT 5 properties.
    #[must_use]
    pub fn with_properties(mut self, properties: Properties) -> Self {
        self.properties = Some(Box::new(properties));
        self
    }

    /// Its properties; all absent if it has none.
    pub fn properties(&self) -> &Properties {
        self.properties.as_deref().unwrap_or(&NO_PROPERTIES)
    }

    /// What it weighs while kept for retransmission.
    pub(super) fn kept_bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + self.properties().text_bytes()
    }
}

/// The MQTT 5 properties of a message that travel from publisher to subscriber.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Payload Format Indicator: true for UTF-8 text.
    pub payload_is_utf8: Option<bool>,
    /// Message Expiry Interval in seconds.
    pub message_expiry_s: Option<u32>,
    /// Where the answer is to be published.
    pub response_topic: Option<Text>,
    /// What tells the asker which question is answered.
    pub correlation_data: Option<Bytes>,
    /// The content type.
    pub content_type: Option<Text>,
    /// User properties in their order.
    pub user_properties: Vec<(Text, Text)>,
}

impl Properties {
    fn text_bytes(&self) -> usize {
        let one = |text: &Option<Text>| text.as_ref().map_or(0, |text| text.len());
        let pairs: usize = self.user_properties.iter().map(|(name, value)| name.len() + value.len()).sum();
        one(&self.response_topic)
            + one(&self.content_type)
            + self.correlation_data.as_ref().map_or(0, Bytes::len)
            + pairs
    }
}

/// Stands for the properties of a message that has none.
static NO_PROPERTIES: Properties = Properties {
    payload_is_utf8: None,
    message_expiry_s: None,
    response_topic: None,
    correlation_data: None,
    content_type: None,
    user_properties: Vec::new(),
};

/// A received message. Topic, payload and properties are slices of the packet that brought them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The topic name, also where the packet gave only an alias.
    pub topic: Text,
    /// The payload.
    pub payload: Bytes,
    /// The QoS of this delivery.
    pub qos: QoS,
    /// Sent because it was retained (or as published, if the subscription asked for that).
    pub retain: bool,
    /// The server says that it may have sent this message before.
    pub dup: bool,
    /// The packet identifier; `None` for QoS 0.
    pub packet_id: Option<PacketId>,
    /// What to hand to [`Core::ack`](super::Core::ack); `None` where nothing is left to acknowledge.
    pub ack: Option<AckToken>,
    /// MQTT 5: the identifiers of the subscriptions that matched.
    pub subscription_ids: SmallVec<[u32; 2]>,
    /// MQTT 5 properties; `None` if there were none.
    pub properties: Option<Box<Properties>>,
}

impl Message {
    /// Its properties; all absent if it has none.
    pub fn properties(&self) -> &Properties {
        self.properties.as_deref().unwrap_or(&NO_PROPERTIES)
    }
}

/// One message that waits for the application's acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckToken {
    pub(super) packet_id: PacketId,
    /// Tells two messages apart that used the same packet identifier.
    pub(super) serial: u64,
}

/// One publication, subscription or unsubscription of ours, from its call to its event. Unique for the life of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub(super) u64);

/// Properties of a decoded PUBLISH, by reference to its packet.
pub(super) fn properties_of(packet: &Bytes, publish: &mqtt::Publish<'_>) -> Option<Box<Properties>> {
    let from = &publish.properties;
    let properties = Properties {
        payload_is_utf8: from.payload_is_utf8,
        message_expiry_s: from.message_expiry_s,
        response_topic: from.response_topic.map(|topic| Text::part_of(packet, topic.as_str())),
        correlation_data: from.correlation_data.map(|data| packet.slice_ref(data)),
        content_type: from.content_type.map(|text| Text::part_of(packet, text)),
        user_properties: pairs_of(packet, &from.user_properties),
    };
    (properties != NO_PROPERTIES).then(|| Box::new(properties))
}

fn pairs_of(packet: &Bytes, from: &mqtt::UserProperties<'_>) -> Vec<(Text, Text)> {
    from.iter().map(|(name, value)| (Text::part_of(packet, name), Text::part_of(packet, value))).collect()
}
