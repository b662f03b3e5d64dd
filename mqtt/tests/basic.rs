//! The shortest road through the crate: one packet of each kind, there and back.

use bytes::BytesMut;
use quelea_mqtt::*;

fn topic(text: &str) -> TopicName<'_> {
    TopicName::new(text, 128).expect("a topic name")
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).expect("not zero")
}

/// Encodes, measures, decodes; returns whether what came back is the same.
fn there_and_back(packet: &Packet<'_>, version: Version, sender: Sender) {
    let limits = Limits::default();
    let mut out = BytesMut::new();
    packet.encode(version, &mut out).expect("legal");
    let frame = peek_frame(&out, sender, &limits).expect("legal").expect("whole");
    assert_eq!((frame.packet_bytes, frame.packet_type()), (out.len(), Some(packet.packet_type())));
    assert_eq!(decode(&out, version, sender, &limits).as_ref(), Ok(packet), "{version}");
}

#[test]
fn a_full_connect_of_5_0() {
    let pairs = [("a", "1"), ("a", "2")];
    let mut will = Will::new(topic("gone"), b"bye\0", QoS::ExactlyOnce, true);
    will.delay_s = 5;
    will.payload_is_utf8 = Some(true);
    will.message_expiry_s = Some(60);
    will.content_type = Some("text/plain");
    will.response_topic = Some(topic("back"));
    will.correlation_data = Some(&[0, 255]);
    will.user_properties = UserProperties::from(&pairs[..]);
    let mut connect = Connect::new(Version::V5, "quelea");
    connect.clean_start = false;
    connect.keep_alive_s = 30;
    connect.will = Some(will);
    connect.password = Some(&[0xFF, 0]);
    connect.session_expiry_s = Some(u32::MAX);
    connect.receive_max = core::num::NonZeroU16::new(20);
    connect.packet_bytes_max = core::num::NonZeroU32::new(4096);
    connect.topic_alias_max = Some(10);
    connect.request_response_information = Some(true);
    connect.request_problem_information = Some(false);
    connect.user_properties = UserProperties::from(&pairs[..]);
    connect.authentication_method = Some("SCRAM-SHA-256");
    connect.authentication_data = Some(b"n,,n=user");
    // The version given to `decode` does not matter to CONNECT, so that the packet comes back as it is for any.
    there_and_back(&Packet::Connect(connect), Version::V5, Sender::Client);
}

#[test]
fn publish_in_every_version() {
    for version in [Version::V31, Version::V311, Version::V5] {
        for sender in [Sender::Client, Sender::Server] {
            let mut publish = Publish::new(topic("a/b"), b"payload");
            there_and_back(&Packet::Publish(publish), version, sender);
            (publish.qos, publish.packet_id, publish.dup, publish.retain) =
                (QoS::AtLeastOnce, Some(id(7)), true, true);
            there_and_back(&Packet::Publish(publish), version, sender);
        }
    }
}

#[test]
fn subscribe_and_its_answer() {
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
    };
    let filters = [
        RequestedSubscription::new(SubscribeFilter::parse("a/+/#", 128).expect("a filter"), options),
        RequestedSubscription::new(
            SubscribeFilter::parse("$share/g/a", 128).expect("a filter"),
            SubscriptionOptions::default(),
        ),
    ];
    let mut subscribe = Subscribe::new(id(9), &filters);
    subscribe.subscription_id = core::num::NonZeroU32::new(SUBSCRIPTION_ID_MAX);
    there_and_back(&Packet::Subscribe(subscribe), Version::V5, Sender::Client);
    let mut suback = SubAck::new(id(9), &[1, 0x8F]);
    suback.reason_string = Some("no");
    there_and_back(&Packet::SubAck(suback), Version::V5, Sender::Server);
    there_and_back(&Packet::SubAck(SubAck::new(id(9), &[1, 0x80])), Version::V311, Sender::Server);
    there_and_back(&Packet::UnsubAck(SubAck::new(id(9), &[])), Version::V311, Sender::Server);
}

#[test]
fn a_bad_filter_spoils_only_itself() {
    let packet = b"\x82\x0C\0\x01\0\0\x03a/#\0\0\0\x00"; // v5: id 1, no properties, "a/#" QoS 0, "" QoS 0
    let decoded = decode(packet, Version::V5, Sender::Client, &Limits::default());
    let Ok(Packet::Subscribe(subscribe)) = decoded else { panic!("{decoded:?}") };
    let topics: Vec<_> = subscribe.filters().map(|entry| entry.topic.map(|topic| topic.as_str())).collect();
    assert_eq!(topics, [Ok("a/#"), Err(TopicError::Empty)]);
}

#[test]
fn an_image_goes_to_each_receiver_in_his_own_way() {
    let ids = [1_u32, 300];
    let pairs = [("k", "v")];
    let mut publish = Publish::new(topic("home/door"), b"open");
    publish.properties.message_expiry_s = Some(100);
    publish.properties.content_type = Some("text/plain");
    publish.properties.user_properties = UserProperties::from(&pairs[..]);
    let image = PublishImage::from_publish(&publish, topic("home/door"));
    assert_eq!((image.topic().as_str(), &image.payload()[..]), ("home/door", &b"open"[..]));

    let alias = core::num::NonZeroU16::new(3).expect("not zero");
    let to = Delivery {
        packet_id: Some(id(5)),
        message_expiry_s: Some(40),
        subscription_ids: &ids,
        topic_alias: Some(AliasUse::Use(alias)),
        ..Delivery::new(Version::V5, QoS::AtLeastOnce)
    };
    let mut out = BytesMut::new();
    image.encode(&to, &mut out);
    assert_eq!(out.len(), image.encoded_bytes(&to));
    let mut expected = publish;
    (expected.topic, expected.qos, expected.packet_id) = (None, QoS::AtLeastOnce, Some(id(5)));
    expected.properties.message_expiry_s = Some(40);
    expected.properties.topic_alias = Some(alias);
    expected.properties.subscription_ids = SubscriptionIds::from(&ids[..]);
    let limits = Limits::default();
    assert_eq!(decode(&out, Version::V5, Sender::Server, &limits), Ok(Packet::Publish(expected)));

    out.clear();
    let to = Delivery::new(Version::V311, QoS::AtMostOnce);
    image.encode_head(&to, &mut out);
    out.extend_from_slice(&image.payload());
    assert_eq!(out.len(), image.encoded_bytes(&to));
    let expected = Packet::Publish(Publish::new(topic("home/door"), b"open"));
    assert_eq!(decode(&out, Version::V311, Sender::Server, &limits), Ok(expected));
}
