//! SUBSCRIBE and UNSUBSCRIBE.

use crate::scripted::{CONNACK_V3, CONNACK_V5, Scripted, options, packets};
use quelea_client::{Bounds, Closed, Event, Options, Refusal, Subscribe, Subscription, Text};
use quelea_mqtt::{Packet, QoS, ReasonCode, RetainHandling, Version};

#[test]
fn a_subscription_is_answered_filter_by_filter() {
    let mut client = Scripted::connected(options(Version::V311), CONNACK_V3);
    let subscriptions =
        vec![Subscription::new("a/+", QoS::AtLeastOnce), Subscription::new("b/#", QoS::ExactlyOnce)];
    let subscribe = Subscribe { subscriptions, ..Subscribe::default() };
    let token = client.core.subscribe(client.now, &subscribe).expect("room");
    assert_eq!(&client.sent()[..], b"\x82\x0E\x00\x01\x00\x03a/+\x01\x00\x03b/#\x02");
    client.receive(b"\x90\x04\x00\x01\x01\x80");
    let events = client.events();
    let [Event::Subscribed { token: answered, reasons }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(*answered, token);
    assert_eq!(reasons[..], [ReasonCode::GRANTED_QOS_1, ReasonCode::UNSPECIFIED_ERROR]);
}

#[test]
fn options_and_identifier_of_version_5_are_written() {
    let mut client = Scripted::connected(options(Version::V5), CONNACK_V5);
    let mut subscription = Subscription::new("a", QoS::AtMostOnce);
    subscription.options.no_local = true;
    subscription.options.retain_as_published = true;
    subscription.options.retain_handling = RetainHandling::DoNotSend;
    let subscribe = Subscribe {
        subscriptions: vec![subscription.clone()],
        subscription_id: std::num::NonZeroU32::new(300),
        user_properties: vec![("k".into(), "v".into())],
    };
    client.core.subscribe(client.now, &subscribe).expect("room");
    let sent = client.sent();
    let [Packet::Subscribe(read)] = packets(&sent, Version::V5)[..] else { panic!("one SUBSCRIBE") };
    assert_eq!(read.subscription_id.map(|id| id.get()), Some(300));
    assert_eq!(read.user_properties.iter().collect::<Vec<_>>(), [("k", "v")]);
    assert_eq!(read.filters().next().expect("a filter").options, subscription.options);
}

#[test]
fn unsuback_of_version_3_means_success_for_each() {
    let mut client = Scripted::connected(options(Version::V311), CONNACK_V3);
    let token = client.core.unsubscribe(client.now, &[Text::from("a"), Text::from("b")]).expect("room");
    assert_eq!(&client.sent()[..], b"\xA2\x08\x00\x01\x00\x01a\x00\x01b");
    client.receive(b"\xB0\x02\x00\x01");
    let reasons = [ReasonCode::SUCCESS; 2].into_iter().collect();
    assert_eq!(client.events(), [Event::Unsubscribed { token, reasons }]);
}

#[test]
fn unsuback_of_version_5_has_reasons() {
    let mut client = Scripted::connected(options(Version::V5), CONNACK_V5);
    let token = client.core.unsubscribe(client.now, &[Text::from("a")]).expect("room");
    client.receive(b"\xB0\x04\x00\x01\x00\x11");
    let reasons = [ReasonCode::NO_SUBSCRIPTION_EXISTED].into_iter().collect();
    assert_eq!(client.events(), [Event::Unsubscribed { token, reasons }]);
}

#[test]
fn an_answer_with_too_few_reasons_is_a_violation() {
    let mut client = Scripted::connected(options(Version::V5), CONNACK_V5);
    let subscriptions =
        vec![Subscription::new("a", QoS::AtMostOnce), Subscription::new("b", QoS::AtMostOnce)];
    let subscribe = Subscribe { subscriptions, ..Subscribe::default() };
    let token = client.core.subscribe(client.now, &subscribe).expect("room");
    client.receive(b"\x90\x04\x00\x01\x00\x00");
    let events = client.events();
    assert!(
        matches!(&events[..], [Event::Lost { token: lost }, Event::Disconnected(Closed::Violation(_))] if *lost == token),
        "{events:?}"
    );
}

#[test]
fn what_waits_when_the_connection_ends_is_lost() {
    let mut client = Scripted::connected(options(Version::V311), CONNACK_V3);
    let token = client.core.subscribe(client.now, &Subscribe::new("a", QoS::AtMostOnce)).expect("room");
    client.core.handle_closed(client.now);
    assert_eq!(client.events(), [Event::Lost { token }, Event::Disconnected(Closed::Transport)]);
}

#[test]
fn what_the_server_does_not_support_is_refused_here() {
    // Wildcards, subscription identifiers and shared subscriptions: not available.
    let mut client =
        Scripted::connected(options(Version::V5), b"\x20\x09\x00\x00\x06\x28\x00\x29\x00\x2A\x00");
    let mut refused =
        |subscribe: &Subscribe| client.core.subscribe(client.now, subscribe).expect_err("refused");
    let wildcard = ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED;
    assert_eq!(refused(&Subscribe::new("a/#", QoS::AtMostOnce)), Refusal::NotAllowed(wildcard));
    let shared = ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED;
    assert_eq!(refused(&Subscribe::new("$share/g/a", QoS::AtMostOnce)), Refusal::NotAllowed(shared));
    let identified =
        Subscribe { subscription_id: std::num::NonZeroU32::new(1), ..Subscribe::new("a", QoS::AtMostOnce) };
    let identifiers = ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED;
    assert_eq!(refused(&identified), Refusal::NotAllowed(identifiers));
    assert!(matches!(refused(&Subscribe::new("a/#/b", QoS::AtMostOnce)), Refusal::Topic(_)));
    assert_eq!(refused(&Subscribe::default()), Refusal::Empty);
    assert!(client.sent().is_empty());
}

#[test]
fn requests_are_bounded() {
    let bounds = Bounds { requests_max: 2, ..Bounds::default() };
    let mut client = Scripted::connected(Options { bounds, ..options(Version::V311) }, CONNACK_V3);
    let subscribe = Subscribe::new("a", QoS::AtMostOnce);
    for _ in 0..2 {
        client.core.subscribe(client.now, &subscribe).expect("room");
    }
    assert_eq!(client.core.subscribe(client.now, &subscribe), Err(Refusal::Full));
    client.receive(b"\x90\x03\x00\x01\x00");
    client.core.subscribe(client.now, &subscribe).expect("room again");
}
