//! What holds for every packet and every input.

mod maker;

use bytes::BytesMut;
use maker::{Choices, Lists, PACKET_TYPES, is_sent, mutate};
use proptest::collection::vec;
use proptest::prelude::*;
use quelea_mqtt::*;

fn versions() -> impl Strategy<Value = Version> {
    prop::sample::select(&[Version::V31, Version::V311, Version::V5][..])
}

fn senders() -> impl Strategy<Value = Sender> {
    prop::sample::select(&[Sender::Client, Sender::Server][..])
}

/// Type, version and sender that go together.
fn kinds() -> impl Strategy<Value = (PacketType, Version, Sender)> {
    (prop::sample::select(&PACKET_TYPES[..]), versions(), senders())
        .prop_filter("nobody sends it", |&(packet, version, sender)| is_sent(packet, version, sender))
}

fn entropy() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..400)
}

fn encoded(packet: &Packet<'_>, version: Version) -> BytesMut {
    let mut out = BytesMut::new();
    packet.encode(version, &mut out).unwrap_or_else(|error| panic!("{packet:?}: {error}"));
    out
}

/// An accepted packet can be written, and what is written means the same.
fn assert_stable(packet: &Packet<'_>, version: Version, sender: Sender, limits: &Limits) {
    let again = encoded(packet, version);
    assert_eq!(decode(&again, version, sender, limits).as_ref(), Ok(packet), "{again:02x?}");
}

/// The version that `decode` reports for a CONNECT is the packet's own.
fn own_version(packet: &Packet<'_>, version: Version) -> Version {
    if let Packet::Connect(connect) = packet { connect.version } else { version }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_encoded_decodes_to_the_same((packet_type, version, sender) in kinds(), bytes in entropy()) {
        let mut choices = Choices::new(&bytes);
        let lists = Lists::draw(&mut choices, packet_type, version, sender);
        let packet = maker::packet(&mut choices, &lists, packet_type, version, sender);
        let out = encoded(&packet, version);
        let limits = Limits::default();
        prop_assert_eq!(decode(&out, version, sender, &limits), Ok(packet));
        let frame = peek_frame(&out, sender, &limits).expect("legal").expect("whole");
        prop_assert_eq!(frame.packet_bytes, out.len());
        prop_assert_eq!(frame.packet_type(), Some(packet_type));
    }

    #[test]
    fn a_part_of_a_packet_is_never_a_packet((packet_type, version, sender) in kinds(), bytes in entropy()) {
        let mut choices = Choices::new(&bytes);
        let lists = Lists::draw(&mut choices, packet_type, version, sender);
        let out = encoded(&maker::packet(&mut choices, &lists, packet_type, version, sender), version);
        let limits = Limits::default();
        let whole = peek_frame(&out, sender, &limits).expect("legal").expect("whole");
        for len in 0..out.len() {
            let part = &out[..len];
            prop_assert!(decode(part, version, sender, &limits).is_err());
            let seen = peek_frame(part, sender, &limits).expect("the start of a legal packet is legal");
            prop_assert_eq!(seen, (len >= whole.header_bytes).then_some(whole));
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_mean_something(
        version in versions(), sender in senders(), bytes in vec(any::<u8>(), 0..200)
    ) {
        let limits = Limits::default();
        let _ = peek_frame(&bytes, sender, &limits);
        let _ = connect_answer_version(&bytes);
        if let Ok(packet) = decode(&bytes, version, sender, &limits) {
            assert_stable(&packet, own_version(&packet, version), sender, &limits);
        }
    }

    #[test]
    fn changed_packets_are_refused_or_mean_something(
        (packet_type, version, sender) in kinds(), bytes in entropy(), changes in vec(any::<u8>(), 24)
    ) {
        let mut choices = Choices::new(&bytes);
        let lists = Lists::draw(&mut choices, packet_type, version, sender);
        let mut out = encoded(&maker::packet(&mut choices, &lists, packet_type, version, sender), version).to_vec();
        mutate(&mut Choices::new(&changes), &mut out);
        let limits = Limits::default();
        let _ = connect_answer_version(&out);
        match decode(&out, version, sender, &limits) {
            Ok(packet) => assert_stable(&packet, own_version(&packet, version), sender, &limits),
            Err(error) => {
                prop_assert!(error.reason_code().is_error());
                prop_assert!(error.to_string().contains(error.field()));
            }
        }
    }

    #[test]
    fn a_smaller_limit_only_refuses((packet_type, version, sender) in kinds(), bytes in entropy(), max in 0_u32..300) {
        let mut choices = Choices::new(&bytes);
        let lists = Lists::draw(&mut choices, packet_type, version, sender);
        let out = encoded(&maker::packet(&mut choices, &lists, packet_type, version, sender), version);
        let limits = Limits { packet_bytes_max: max, ..Limits::default() };
        match peek_frame(&out, sender, &limits) {
            Ok(_) => prop_assert!(out.len() <= max as usize),
            Err(error) => {
                prop_assert!(out.len() > max as usize);
                prop_assert_eq!(error.kind(), DecodeErrorKind::PacketTooLarge);
            }
        }
    }

    #[test]
    fn an_image_says_what_was_published(
        version in versions(), published in versions(), bytes in entropy(), delivery in vec(any::<u8>(), 32)
    ) {
        let mut choices = Choices::new(&bytes);
        let lists = Lists::draw(&mut choices, PacketType::Publish, published, Sender::Client);
        let packet = maker::packet(&mut choices, &lists, PacketType::Publish, published, Sender::Client);
        let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
        let topic = publish.topic.unwrap_or(choices.topic());
        let image = PublishImage::from_publish(&publish, topic);

        let mut choices = Choices::new(&delivery);
        let ids: Vec<u32> = (0..choices.u8() % 4).map(|_| choices.subscription_id()).collect();
        let mut to = Delivery::new(version, choices.qos());
        to.retain = choices.bool();
        if to.qos > QoS::AtMostOnce {
            (to.packet_id, to.dup) = (Some(choices.packet_id()), choices.bool());
        }
        to.message_expiry_s = choices.maybe(Choices::u32);
        to.subscription_ids = &ids;
        to.topic_alias = choices.maybe(|choices| match choices.bool() {
            true => AliasUse::Define(choices.non_zero_u16()),
            false => AliasUse::Use(choices.non_zero_u16()),
        });

        let mut out = BytesMut::new();
        image.encode(&to, &mut out);
        prop_assert_eq!(out.len(), image.encoded_bytes(&to));
        let mut head = BytesMut::new();
        image.encode_head(&to, &mut head);
        head.extend_from_slice(&image.payload());
        prop_assert_eq!(&head, &out);
        prop_assert!(image.charged_bytes() >= topic.as_str().len() + publish.payload.len());

        let mut expected = Publish { dup: to.dup, qos: to.qos, retain: to.retain, packet_id: to.packet_id, ..publish };
        expected.topic = Some(topic);
        if version == Version::V5 {
            expected.properties.message_expiry_s = to.message_expiry_s;
            expected.properties.topic_alias = to.topic_alias.map(AliasUse::alias);
            expected.properties.subscription_ids = SubscriptionIds::from(&ids[..]);
            if let Some(AliasUse::Use(_)) = to.topic_alias {
                expected.topic = None;
            }
        } else {
            expected.properties = PublishProperties::default();
        }
        prop_assert_eq!(decode(&out, version, Sender::Server, &Limits::default()), Ok(Packet::Publish(expected)));
    }

    #[test]
    fn properties_may_come_in_any_order(order in Just((0..8_usize).collect::<Vec<_>>()).prop_shuffle()) {
        let parts: [&[u8]; 8] = [
            b"\x01\x01", b"\x02\0\0\0\x09", b"\x08\0\x01r", b"\x26\0\x01a\0\x011", b"\x26\0\x01b\0\x012",
            b"\x0B\x01", b"\x0B\x80\x01", b"\x03\0\x01c",
        ];
        let section: Vec<u8> = order.iter().flat_map(|&part| parts[part]).copied().collect();
        let mut packet = vec![0x30, (3 + 1 + section.len() + 2) as u8, 0, 1, b't', section.len() as u8];
        packet.extend_from_slice(&section);
        packet.extend_from_slice(b"hi");
        let decoded = decode(&packet, Version::V5, Sender::Server, &Limits::default());
        let Ok(Packet::Publish(publish)) = decoded else { panic!("{decoded:?}") };
        prop_assert_eq!(publish.payload, b"hi");
        let rank = |part: usize| order.iter().position(|&at| at == part);
        let pairs = if rank(3) < rank(4) { [("a", "1"), ("b", "2")] } else { [("b", "2"), ("a", "1")] };
        let ids = if rank(5) < rank(6) { [1, 128] } else { [128, 1] };
        let expected = PublishProperties {
            payload_is_utf8: Some(true),
            message_expiry_s: Some(9),
            response_topic: TopicName::new("r", 1).ok(),
            content_type: Some("c"),
            user_properties: UserProperties::from(&pairs[..]),
            subscription_ids: SubscriptionIds::from(&ids[..]),
            ..PublishProperties::default()
        };
        prop_assert_eq!(publish.properties, expected);
    }
}

/// Levels that make matching and checking interesting.
fn level() -> impl Strategy<Value = &'static str> {
    prop::sample::select(
        &["", "a", "b", "ü", "+", "#", "$SYS", "$", "a+", "#b", "longer than eight bytes", "\0"][..],
    )
}

fn topic_text() -> impl Strategy<Value = String> {
    vec(level(), 0..5).prop_map(|levels| levels.join("/"))
}

/// Matching by its definition: level by level, over collected levels.
fn naive_match(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        ([wanted, filter @ ..], [name, topic @ ..]) => {
            (*wanted == "+" || wanted == name) && naive_match(filter, topic)
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    // Covers 5.0: 4.7.2-1
    // Covers 3.1.1: 4.7.2-1
    #[test]
    fn matches_agrees_with_the_definition(filter in topic_text(), topic in topic_text()) {
        let (Ok(filter), Ok(topic)) = (TopicFilter::new(&filter, 128), TopicName::new(&topic, 128)) else {
            return Ok(());
        };
        let filter_levels: Vec<_> = filter.as_str().split('/').collect();
        let topic_levels: Vec<_> = topic.as_str().split('/').collect();
        let hidden = topic.as_str().starts_with('$') && ["+", "#"].contains(&filter_levels[0]);
        prop_assert_eq!(filter.matches(topic), !hidden && naive_match(&filter_levels, &topic_levels));
    }

    // Covers 5.0: 4.7.0-1 4.7.3-1
    // Covers 3.1.1: 4.7.1-1 4.7.3-1
    #[test]
    fn names_are_valid_by_their_definition(text in topic_text(), levels_max in 1_usize..6) {
        let valid = !text.is_empty() && !text.contains(['\0', '+', '#']) && text.split('/').count() <= levels_max;
        prop_assert_eq!(TopicName::new(&text, levels_max).is_ok(), valid);
    }

    // Covers 5.0: 4.7.1-1 4.7.1-2 4.7.3-1
    // Covers 3.1.1: 4.7.1-2 4.7.1-3 4.7.3-1
    #[test]
    fn filters_are_valid_by_their_definition(text in topic_text(), levels_max in 1_usize..6) {
        let levels: Vec<_> = text.split('/').collect();
        let (last, others) = levels.split_last().expect("one level at least");
        let valid = !text.is_empty()
            && !text.contains('\0')
            && levels.len() <= levels_max
            && levels.iter().all(|level| *level == "+" || !level.contains('+'))
            && others.iter().all(|level| !level.contains('#'))
            && (*last == "#" || !last.contains('#'));
        prop_assert_eq!(TopicFilter::new(&text, levels_max).is_ok(), valid);
        prop_assert_eq!(SubscribeFilter::parse(&text, levels_max).is_ok(), valid);
        let shared = format!("$share/group/{text}");
        prop_assert_eq!(SubscribeFilter::parse(&shared, levels_max).is_ok(), valid);
    }

    #[test]
    fn a_wildcard_is_seen_wherever_it_stands(
        before in "[a-zü/]{0,20}", middle in prop::sample::select(&["+", "#", "\0", "ü"][..]), after in "[a-zü/]{0,20}"
    ) {
        let text = format!("{before}{middle}{after}");
        prop_assert_eq!(TopicName::new(&text, 128).is_ok(), middle == "ü");
    }
}
