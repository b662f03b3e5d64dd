//! From what the application owns to what the codec encodes: the borrowing, in one place.
//!
//! Each function writes one whole packet to `out`, or nothing.

use std::time::Duration;

use bytes::BytesMut;
use quelea_mqtt::{
    self as mqtt, Connect, Limits, PacketId, PublishProperties, RequestedSubscription, SubscribeFilter,
    TopicName, UserProperties, Version,
};
use smallvec::SmallVec;

use super::calls::Subscribe;
use super::event::Refusal;
use super::message::{Properties, Publish};
use super::options::{Options, Will};
use super::text::Text;

/// How a publication goes out this time.
#[derive(Clone, Copy)]
pub(super) struct How {
    pub(super) packet_id: Option<PacketId>,
    pub(super) dup: bool,
    /// How long it has been with us: taken off its expiry.
    pub(super) waited: Duration,
}

type Pairs<'a> = SmallVec<[(&'a str, &'a str); 4]>;

fn pairs(owned: &[(Text, Text)]) -> Pairs<'_> {
    owned.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn topic_name<'a>(topic: &'a Text, limits: &Limits) -> Result<TopicName<'a>, Refusal> {
    Ok(TopicName::new(topic.as_str(), limits.topic_levels_max)?)
}

fn response_topic<'a>(properties: &'a Properties, limits: &Limits) -> Result<Option<TopicName<'a>>, Refusal> {
    properties.response_topic.as_ref().map(|topic| topic_name(topic, limits)).transpose()
}

pub(super) fn encode_publish(
    publish: &Publish,
    how: How,
    limits: &Limits,
    version: Version,
    out: &mut BytesMut,
) -> Result<(), Refusal> {
    let from = publish.properties();
    let user = pairs(&from.user_properties);
    let waited_s = u32::try_from(how.waited.as_secs()).unwrap_or(u32::MAX);
    let properties = PublishProperties {
        payload_is_utf8: from.payload_is_utf8,
        // Sent once already, it is sent until acknowledged: the server then drops it.
        message_expiry_s: from.message_expiry_s.map(|seconds| seconds.saturating_sub(waited_s)),
        response_topic: response_topic(from, limits)?,
        correlation_data: from.correlation_data.as_deref(),
        content_type: from.content_type.as_deref(),
        user_properties: UserProperties::from(&user[..]),
        ..PublishProperties::default()
    };
    let packet = mqtt::Publish {
        dup: how.dup,
        qos: publish.qos,
        retain: publish.retain,
        topic: Some(topic_name(&publish.topic, limits)?),
        packet_id: how.packet_id,
        payload: &publish.payload,
        properties,
    };
    Ok(packet.encode(version, out)?)
}

pub(super) fn encode_connect(
    options: &Options,
    client_id: &Text,
    limits: &Limits,
    out: &mut BytesMut,
) -> Result<(), Refusal> {
    let user = pairs(&options.user_properties);
    let will_user =
        options.will.as_ref().map(|will| pairs(&will.properties().user_properties)).unwrap_or_default();
    let will = options.will.as_ref().map(|will| wire_will(will, &will_user, limits)).transpose()?;
    let bounds = &options.bounds;
    let is_v5 = options.version == Version::V5;
    let connect = Connect {
        version: options.version,
        clean_start: options.clean_start,
        keep_alive_s: options.keep_alive_s,
        client_id: client_id.as_str(),
        will,
        user_name: options.user_name.as_deref(),
        password: options.password.as_ref().map(|password| password.as_bytes()),
        session_expiry_s: options.session_expiry_s,
        receive_max: is_v5.then_some(bounds.receive_max),
        packet_bytes_max: std::num::NonZeroU32::new(bounds.packet_bytes_max).filter(|_| is_v5),
        topic_alias_max: is_v5.then_some(bounds.topic_alias_max),
        request_response_information: options.request_response_information,
        request_problem_information: options.request_problem_information,
        user_properties: UserProperties::from(&user[..]),
        authentication_method: options.authentication.as_ref().map(|ours| ours.method.as_str()),
        authentication_data: options.authentication.as_ref().and_then(|ours| ours.data.as_deref()),
    };
    Ok(connect.encode(options.version, out)?)
}

fn wire_will<'a>(
    will: &'a Will,
    user: &'a [(&'a str, &'a str)],
    limits: &Limits,
) -> Result<mqtt::Will<'a>, Refusal> {
    let (publish, from) = (&will.publish, will.properties());
    Ok(mqtt::Will {
        topic: topic_name(&publish.topic, limits)?,
        payload: &publish.payload,
        qos: publish.qos,
        retain: publish.retain,
        delay_s: will.delay_s,
        payload_is_utf8: from.payload_is_utf8,
        message_expiry_s: from.message_expiry_s,
        content_type: from.content_type.as_deref(),
        response_topic: response_topic(from, limits)?,
        correlation_data: from.correlation_data.as_deref(),
        user_properties: UserProperties::from(user),
    })
}

pub(super) fn encode_subscribe(
    subscribe: &Subscribe,
    packet_id: PacketId,
    how: (&Limits, Version),
    out: &mut BytesMut,
) -> Result<(), Refusal> {
    let (limits, version) = how;
    let mut filters = Vec::with_capacity(subscribe.subscriptions.len());
    for subscription in &subscribe.subscriptions {
        let topic = SubscribeFilter::parse(&subscription.filter, limits.topic_levels_max)?;
        filters.push(RequestedSubscription::new(topic, subscription.options));
    }
    let user = pairs(&subscribe.user_properties);
    let mut packet = mqtt::Subscribe::new(packet_id, &filters);
    packet.subscription_id = subscribe.subscription_id;
    packet.user_properties = UserProperties::from(&user[..]);
    Ok(packet.encode(version, out)?)
}

pub(super) fn encode_unsubscribe(
    filters: &[Text],
    packet_id: PacketId,
    how: (&Limits, Version),
    out: &mut BytesMut,
) -> Result<(), Refusal> {
    let (limits, version) = how;
    let parse = |filter| SubscribeFilter::parse(filter, limits.topic_levels_max);
    let parsed: Vec<SubscribeFilter<'_>> =
        filters.iter().map(|filter| parse(filter)).collect::<Result<_, _>>()?;
    Ok(mqtt::Unsubscribe::new(packet_id, &parsed).encode(version, out)?)
}
