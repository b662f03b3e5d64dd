//! What packets look like on the wire, and what is refused before it gets there.

use bytes::BytesMut;
use quelea_mqtt::*;

fn id(number: u16) -> PacketId {
    PacketId::new(number).expect("not zero")
}

fn topic(text: &str) -> TopicName<'_> {
    TopicName::new(text, 128).expect("a topic name")
}

#[track_caller]
fn assert_bytes(packet: Packet<'_>, version: Version, bytes: &[u8]) {
    let mut out = BytesMut::new();
    packet.encode(version, &mut out).expect("legal");
    assert_eq!(&out[..], bytes, "{version}");
}

#[track_caller]
fn assert_refused(packet: Packet<'_>, version: Version, expected: EncodeError) {
    let mut out = BytesMut::from(&b"before"[..]);
    assert_eq!(packet.encode(version, &mut out), Err(expected));
    assert_eq!(&out[..], b"before", "nothing is written of a refused packet");
    assert!(!expected.to_string().is_empty());
}

// Covers 5.0: 2.2.2-1
#[test]
fn connack_has_a_property_length_even_without_properties() {
    let connack = Packet::ConnAck(ConnAck::default());
    assert_bytes(connack, Version::V5, b"\x20\x03\0\0\0");
    assert_bytes(connack, Version::V311, b"\x20\x02\0\0");
}

#[test]
fn a_refusal_speaks_the_language_of_its_version() {
    let refusal = Packet::ConnAck(ConnAck::refusal(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID));
    assert_bytes(refusal, Version::V5, b"\x20\x03\0\x85\0");
    assert_bytes(refusal, Version::V311, b"\x20\x02\0\x02");
    assert_bytes(refusal, Version::V31, b"\x20\x02\0\x02");
    for (reason, code) in [
        (ReasonCode::SERVER_BUSY, 3),
        (ReasonCode::QUOTA_EXCEEDED, 3),
        (ReasonCode::NOT_AUTHORIZED, 5),
        (ReasonCode::BANNED, 5),
        (ReasonCode::BAD_AUTHENTICATION_METHOD, 5),
    ] {
        assert_bytes(Packet::ConnAck(ConnAck::refusal(reason)), Version::V311, &[0x20, 2, 0, code]);
    }
}

#[test]
fn a_refusal_can_be_said_whatever_the_reason() {
    for code in 0..=255 {
        let refusal = ConnAck::refusal(ReasonCode::from_u8(code));
        assert!(refusal.reason.is_error(), "{code:#04x}");
        for version in [Version::V31, Version::V311, Version::V5] {
            let mut out = BytesMut::new();
            assert_eq!(refusal.encode(version, &mut out), Ok(()), "{code:#04x}");
        }
    }
    assert_eq!(ConnAck::refusal(ReasonCode::TOPIC_ALIAS_INVALID).reason, ReasonCode::UNSPECIFIED_ERROR);
    assert_eq!(ConnAck::refusal(ReasonCode::SERVER_SHUTTING_DOWN).reason, ReasonCode::SERVER_UNAVAILABLE);
}

#[test]
fn session_present_is_not_for_3_1() {
    let present = ConnAck { session_present: true, ..ConnAck::default() };
    assert_bytes(Packet::ConnAck(present), Version::V311, b"\x20\x02\x01\0");
    assert_bytes(Packet::ConnAck(present), Version::V31, b"\x20\x02\0\0");
    let refused = ConnAck { reason: ReasonCode::BANNED, ..present };
    assert_refused(Packet::ConnAck(refused), Version::V5, EncodeError::Invalid("session present"));
}

#[test]
fn acknowledgements_are_as_short_as_they_can_be() {
    assert_bytes(Packet::PubAck(Ack::new(id(7), ReasonCode::SUCCESS)), Version::V5, b"\x40\x02\0\x07");
    let refused = Ack::new(id(7), ReasonCode::QUOTA_EXCEEDED);
    assert_bytes(Packet::PubRec(refused), Version::V5, b"\x50\x03\0\x07\x97");
    assert_bytes(Packet::PubRec(refused), Version::V311, b"\x50\x02\0\x07");
    let with_text = Ack { reason_string: Some("no"), ..refused };
    assert_bytes(Packet::PubComp(with_text), Version::V5, b"\x70\x09\0\x07\x97\x05\x1F\0\x02no");
    assert_bytes(Packet::PubRel(Ack::new(id(7), ReasonCode::SUCCESS)), Version::V31, b"\x62\x02\0\x07");
    assert_eq!(refused.encoded_bytes(Version::V5), 5);
    assert_eq!(with_text.encoded_bytes(Version::V5), 11);
}

#[test]
fn disconnect_is_as_short_as_it_can_be() {
    assert_bytes(Packet::Disconnect(Disconnect::default()), Version::V5, b"\xE0\0");
    let moved = Disconnect::new(ReasonCode::SERVER_MOVED);
    assert_bytes(Packet::Disconnect(moved), Version::V5, b"\xE0\x01\x9D");
    assert_bytes(Packet::Disconnect(moved), Version::V311, b"\xE0\0");
    let with_will = Disconnect::new(ReasonCode::DISCONNECT_WITH_WILL);
    assert_refused(Packet::Disconnect(with_will), Version::V311, EncodeError::NotInVersion("reason code"));
}

#[test]
fn pings() {
    assert_bytes(Packet::PingReq, Version::V31, b"\xC0\0");
    assert_bytes(Packet::PingResp, Version::V5, b"\xD0\0");
}

// Covers 5.0: 3.9.3-2 3.11.3-2
// Covers 3.1.1: 3.9.3-2
#[test]
fn the_reasons_of_suback() {
    let suback = Packet::SubAck(SubAck::new(id(1), &[0, 2, 0x8F, 0xA2]));
    assert_bytes(suback, Version::V5, b"\x90\x07\0\x01\0\0\x02\x8F\xA2");
    assert_bytes(suback, Version::V311, b"\x90\x06\0\x01\0\x02\x80\x80");
    let unsuback = Packet::UnsubAck(SubAck::new(id(1), &[0, 0x11]));
    assert_bytes(unsuback, Version::V5, b"\xB0\x05\0\x01\0\0\x11");
    assert_bytes(unsuback, Version::V311, b"\xB0\x02\0\x01");
    assert_refused(Packet::SubAck(SubAck::new(id(1), &[])), Version::V5, EncodeError::Invalid("reason code"));
    assert_refused(
        Packet::SubAck(SubAck::new(id(1), &[3])),
        Version::V5,
        EncodeError::Invalid("reason code"),
    );
    assert_refused(
        Packet::UnsubAck(SubAck::new(id(1), &[1])),
        Version::V5,
        EncodeError::Invalid("reason code"),
    );
}

// Covers 5.0: 2.2.1-2 3.3.1-2
// Covers 3.1.1: 2.3.1-5 3.3.1-2
#[test]
fn a_publish_that_contradicts_itself() {
    let plain = Publish::new(topic("t"), b"");
    let no_id = Publish { qos: QoS::AtLeastOnce, ..plain };
    assert_refused(Packet::Publish(no_id), Version::V311, EncodeError::Invalid("packet identifier"));
    let id_at_0 = Publish { packet_id: Some(id(1)), ..plain };
    assert_refused(Packet::Publish(id_at_0), Version::V5, EncodeError::Invalid("packet identifier"));
    let dup_at_0 = Publish { dup: true, ..plain };
    assert_refused(Packet::Publish(dup_at_0), Version::V5, EncodeError::Invalid("DUP"));
    let no_topic = Publish { topic: None, ..plain };
    assert_refused(Packet::Publish(no_topic), Version::V5, EncodeError::Invalid("topic name"));
    assert_refused(Packet::Publish(no_topic), Version::V311, EncodeError::NotInVersion("topic alias"));
    let ids = [SUBSCRIPTION_ID_MAX + 1];
    let mut bad_id = plain;
    bad_id.properties.subscription_ids = SubscriptionIds::from(&ids[..]);
    assert_refused(Packet::Publish(bad_id), Version::V5, EncodeError::Invalid("subscription identifier"));
    assert_bytes(Packet::Publish(bad_id), Version::V311, b"\x30\x03\0\x01t");
}

#[test]
fn fields_that_do_not_fit() {
    let long = "x".repeat(65_536);
    let mut connect = Connect::new(Version::V5, &long);
    assert_refused(Packet::Connect(connect), Version::V5, EncodeError::FieldTooLong("client identifier"));
    connect.client_id = "a\0b";
    assert_refused(Packet::Connect(connect), Version::V5, EncodeError::Invalid("client identifier"));
    connect.client_id = &long[1..];
    connect.password = Some(long.as_bytes());
    assert_refused(Packet::Connect(connect), Version::V5, EncodeError::FieldTooLong("password"));
    let pairs = [("key", long.as_str())];
    let mut publish = Publish::new(topic("t"), b"");
    publish.properties.user_properties = UserProperties::from(&pairs[..]);
    assert_refused(Packet::Publish(publish), Version::V5, EncodeError::FieldTooLong("user property"));
}

#[test]
fn a_packet_that_does_not_fit() {
    // The topic and its length make 3 bytes, the property section one.
    let payload = vec![0; PACKET_BYTES_MAX as usize - 3];
    let publish = Publish::new(topic("t"), &payload);
    assert_refused(Packet::Publish(publish), Version::V5, EncodeError::PacketTooLarge);
    assert_eq!(publish.encoded_bytes(Version::V311), 5 + PACKET_BYTES_MAX as usize);
}

#[test]
fn what_3_x_has_no_words_for() {
    let method = EncodeError::NotInVersion("authentication method");
    let connect = Connect { authentication_method: Some("m"), ..Connect::new(Version::V311, "a") };
    assert_refused(Packet::Connect(connect), Version::V311, method);
    let connect = Connect { password: Some(b"p"), ..Connect::new(Version::V311, "a") };
    assert_refused(
        Packet::Connect(connect),
        Version::V311,
        EncodeError::NotInVersion("password without user name"),
    );
    let auth = Auth { reason: ReasonCode::CONTINUE_AUTHENTICATION, method: Some("m"), ..Auth::default() };
    assert_refused(Packet::Auth(auth), Version::V311, EncodeError::NotInVersion("AUTH"));
    assert_bytes(Packet::Auth(auth), Version::V5, b"\xF0\x06\x18\x04\x15\0\x01m");

    let filter = SubscribeFilter::parse("a", 128).expect("a filter");
    let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    let filters = [RequestedSubscription::new(filter, options)];
    let subscribe = Subscribe::new(id(1), &filters);
    assert_refused(
        Packet::Subscribe(subscribe),
        Version::V311,
        EncodeError::NotInVersion("subscription options"),
    );
    assert_bytes(Packet::Subscribe(subscribe), Version::V5, b"\x82\x07\0\x01\0\0\x01a\x04");
    let filters = [RequestedSubscription::new(filter, SubscriptionOptions::with_qos(QoS::AtLeastOnce))];
    let mut subscribe = Subscribe::new(id(1), &filters);
    assert_bytes(Packet::Subscribe(subscribe), Version::V31, b"\x82\x06\0\x01\0\x01a\x01");
    subscribe.subscription_id = core::num::NonZeroU32::new(1);
    let identifier = EncodeError::NotInVersion("subscription identifier");
    assert_refused(Packet::Subscribe(subscribe), Version::V311, identifier);
}

#[test]
fn requests_that_the_protocol_forbids() {
    let none = EncodeError::Invalid("topic filter");
    assert_refused(Packet::Subscribe(Subscribe::new(id(1), &[])), Version::V5, none);
    assert_refused(Packet::Unsubscribe(Unsubscribe::new(id(1), &[])), Version::V311, none);
    let shared = SubscribeFilter::parse("$share/g/a", 128).expect("a filter");
    let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    let filters = [RequestedSubscription::new(shared, options)];
    let no_local = EncodeError::Invalid("no local on a shared subscription");
    assert_refused(Packet::Subscribe(Subscribe::new(id(1), &filters)), Version::V5, no_local);
    let method = EncodeError::Invalid("authentication method");
    let connect = Connect { authentication_data: Some(b"d"), ..Connect::new(Version::V5, "a") };
    assert_refused(Packet::Connect(connect), Version::V5, method);
    let auth = Auth { reason: ReasonCode::CONTINUE_AUTHENTICATION, ..Auth::default() };
    assert_refused(Packet::Auth(auth), Version::V5, method);
    let connect = Connect::new(Version::V5, "a");
    let mut out = BytesMut::new();
    assert_eq!(connect.encode(Version::V311, &mut out), Err(EncodeError::Invalid("protocol version")));
}

#[test]
fn a_large_payload_is_shared_and_not_copied() {
    let payload = vec![7; 8_192];
    let image = PublishImage::from_publish(&Publish::new(topic("t"), &payload), topic("alias/came"));
    let (first, second) = (image.payload(), image.clone().payload());
    assert_eq!(first.as_ptr(), second.as_ptr());
    assert_eq!((image.payload_bytes(), image.topic_bytes()), (8_192, &b"alias/came"[..]));
    assert!(image.charged_bytes() > 8_192 && image.charged_bytes() < 8_300);
}

#[test]
fn an_image_becomes_another_in_the_same_memory() {
    let mut image = PublishImage::from_publish(&Publish::new(topic("a/longer/topic"), &[7; 100]), topic("t"));
    let bytes = image.charged_bytes();
    image.rewrite_from_publish(&Publish::new(topic("t"), b"short"), topic("alias/came"));
    assert_eq!((image.topic().as_str(), &image.payload()[..]), ("alias/came", &b"short"[..]));
    assert_eq!(image.charged_bytes(), bytes, "no other allocation");

    // Room is made where there is too little, and for what is shared.
    image.rewrite_from_publish(&Publish::new(topic("t"), &[8; 200]), topic("t"));
    assert_eq!((image.payload_bytes(), image.charged_bytes()), (200, 203));
    image.rewrite_from_publish(&Publish::new(topic("t"), &[9; 5_000]), topic("t"));
    assert_eq!(&image.payload()[..], [9; 5_000]);
    image.rewrite_from_publish(&Publish::new(topic("t"), b"small"), topic("t"));
    assert_eq!((image.topic().as_str(), &image.payload()[..]), ("t", &b"small"[..]));
}

#[test]
fn the_image_of_a_will() {
    let mut will = Will::new(topic("gone"), b"bye", QoS::AtLeastOnce, true);
    will.content_type = Some("text/plain");
    will.delay_s = 10;
    let mut out = BytesMut::new();
    PublishImage::from_will(&will).encode(&Delivery::new(Version::V5, QoS::AtMostOnce), &mut out);
    assert_eq!(&out[..], b"\x30\x17\0\x04gone\x0D\x03\0\x0Atext/plainbye");
}

#[test]
fn errors_say_what_was_wrong_and_what_was_expected() {
    let error = decode(b"\x32\x05\0\x01t\0\0", Version::V311, Sender::Client, &Limits::default());
    assert_eq!(
        error.expect_err("packet identifier 0").to_string(),
        "PUBLISH, packet identifier: must not be 0 (0x82 protocol error)"
    );
    let error = decode(b"\x30\x03\0\x01#", Version::V311, Sender::Client, &Limits::default());
    assert_eq!(
        error.expect_err("a wildcard").to_string(),
        "PUBLISH, topic name: must not contain `+` or `#` (0x90 topic name invalid)"
    );
    let error = peek_frame(b"\0", Sender::Client, &Limits::default()).expect_err("type 0");
    assert_eq!(error.to_string(), "packet type: packet type 0 is reserved (0x81 malformed packet)");
    assert_eq!((error.packet_type(), error.field()), (None, "packet type"));
}

#[test]
fn reasons_have_names() {
    assert_eq!(ReasonCode::PACKET_TOO_LARGE.to_string(), "0x95 packet too large");
    assert_eq!(ReasonCode::from_u8(0x7E).name(), "unknown reason");
    assert!(!ReasonCode::NO_MATCHING_SUBSCRIBERS.is_error());
    let named = (0..=255).filter(|&code| ReasonCode::from_u8(code).name() != "unknown reason").count();
    assert_eq!(named, 43, "the codes of MQTT 5.0 §2.4, success counted once");
}
