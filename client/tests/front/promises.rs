//! What MQTT promises, through the front and mosquitto, in 3.1.1 and in 5.0.

use quelea_client::front::{Client, ClientOptions, State};
use quelea_client::{Acks, Bounds, Options, Publish, Subscribe, Will};
use quelea_mqtt::{QoS, ReasonCode, Version};

use crate::broker::{Broker, options, within};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];
const EVERY_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[tokio::test]
async fn messages_arrive_with_every_qos() {
    let Some(broker) = Broker::start().await else { return };
    for version in VERSIONS {
        within(async {
            let client = broker.client(options(version, "every-qos")).await;
            let mut inbox = client.subscribe("q/+", QoS::ExactlyOnce).await.expect("granted");
            assert_eq!(inbox.reasons(), [ReasonCode::GRANTED_QOS_2]);
            for qos in EVERY_QOS {
                let topic = format!("q/{}", qos.as_u8());
                client.publish(Publish::new(topic.clone(), "hello").with_qos(qos)).await.expect("taken");
                let message = inbox.recv().await.expect("delivered");
                assert_eq!(
                    (message.topic.as_str(), &message.payload[..], message.qos),
                    (&topic[..], &b"hello"[..], qos)
                );
                assert!(!message.retain && !message.dup && message.ack.is_none());
            }
            inbox.unsubscribe().await.expect("answered");
            client.disconnect().await.expect("connected");
            assert!(client.publish(Publish::new("q/0", "late")).await.is_err());
        })
        .await;
    }
}

#[tokio::test]
async fn many_publications_may_wait_at_a_time_and_arrive_in_order() {
    let Some(broker) = Broker::start().await else { return };
    for version in [Version::V311, Version::V5] {
        within(async {
            let client = broker.client(options(version, "many")).await;
            let mut inbox = client.subscribe("m", QoS::ExactlyOnce).await.expect("granted");
            let publisher = client.clone();
            let sending = tokio::spawn(async move {
                let mut waiting = Vec::new();
                for number in 0..500_u32 {
                    let client = publisher.clone();
                    let message = Publish::new("m", number.to_be_bytes().to_vec()).with_qos(QoS::AtLeastOnce);
                    let mut publishing = Box::pin(async move { client.publish(message).await });
                    // The first poll sends the order, so the order of the calls is that of the messages.
                    assert!(
                        std::future::poll_fn(|cx| std::task::Poll::Ready(publishing.as_mut().poll(cx)))
                            .await
                            .is_pending()
                    );
                    waiting.push(tokio::spawn(publishing));
                    if waiting.len() == 32 {
                        for one in waiting.drain(..) {
                            one.await.expect("no panic").expect("taken");
                        }
                    }
                }
                for one in waiting {
                    one.await.expect("no panic").expect("taken");
                }
            });
            for number in 0..500_u32 {
                let message = inbox.recv().await.expect("delivered");
                assert_eq!(message.payload[..], number.to_be_bytes());
            }
            sending.await.expect("no panic");
        })
        .await;
    }
}

#[tokio::test]
async fn a_retained_message_meets_who_comes_later() {
    let Some(broker) = Broker::start().await else { return };
    for version in VERSIONS {
        within(async {
            let client = broker.client(options(version, "retained")).await;
            let retained = Publish::new("r/a", "kept").with_qos(QoS::AtLeastOnce).retained();
            client.publish(retained).await.expect("taken");
            let mut inbox = client.subscribe("r/#", QoS::AtLeastOnce).await.expect("granted");
            let message = inbox.recv().await.expect("delivered");
            assert!(message.retain);
            assert_eq!(&message.payload[..], b"kept");
            let cleared = Publish::new("r/a", "").with_qos(QoS::AtLeastOnce).retained();
            client.publish(cleared).await.expect("taken");
        })
        .await;
    }
}

#[tokio::test]
async fn the_will_is_published_unless_the_client_leaves_normally() {
    let Some(broker) = Broker::start().await else { return };
    for version in VERSIONS {
        within(async {
            let watcher = broker.client(options(version, "watcher")).await;
            let mut wills = watcher.subscribe("will/+", QoS::AtLeastOnce).await.expect("granted");
            let mortal = |name: &str| {
                let will = Will::new(Publish::new(format!("will/{name}"), "gone").with_qos(QoS::AtLeastOnce));
                Options { will: Some(will), ..options(version, name) }
            };
            let normal = broker.client(mortal("normal")).await;
            normal.disconnect().await.expect("connected");
            let other = broker.client(mortal("other")).await;
            other.disconnect_with(ReasonCode::DISCONNECT_WITH_WILL).await.expect("connected");
            // The will of the one who left normally would have come first.
            assert_eq!(wills.recv().await.expect("delivered").topic, "will/other");
        })
        .await;
    }
}

#[tokio::test]
async fn a_persistent_session_keeps_what_is_published_meanwhile() {
    let Some(broker) = Broker::start().await else { return };
    for version in VERSIONS {
        within(async {
            let persistent = || Options {
                clean_start: false,
                session_expiry_s: (version == Version::V5).then_some(600),
                ..options(version, &format!("persistent-{version}"))
            };
            let first = broker.client(persistent()).await;
            let inbox = first.subscribe("p", QoS::ExactlyOnce).await.expect("granted");
            first.disconnect().await.expect("connected");
            drop(inbox);

            let other = broker.client(options(version, "other")).await;
            for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
                other.publish(Publish::new("p", "meanwhile").with_qos(qos)).await.expect("taken");
            }
            let (again, mut inbox) =
                Client::connect_with_inbox(&broker.url(), persistent()).await.expect("connected");
            if version != Version::V31 {
                // MQTT 3.1 has no such flag.
                assert!(matches!(&*again.state().borrow(), State::Connected { session_present: true, .. }));
            }
            for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
                assert_eq!(inbox.recv().await.expect("delivered").qos, qos);
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_payload_of_1_mib_goes_there_and_back() {
    let Some(broker) = Broker::start().await else { return };
    for version in [Version::V311, Version::V5] {
        within(async {
            let bounds = Bounds { packet_bytes_max: 2 << 20, ..Bounds::default() };
            let client = broker.client(Options { bounds, ..options(version, "large") }).await;
            let mut inbox = client.subscribe("large", QoS::ExactlyOnce).await.expect("granted");
            let payload: Vec<u8> =
                (0..1 << 20).map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            for qos in EVERY_QOS {
                client.publish(Publish::new("large", payload.clone()).with_qos(qos)).await.expect("taken");
                assert!(inbox.recv().await.expect("delivered").payload == payload);
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_slow_reader_loses_no_acknowledged_message() {
    let Some(broker) = Broker::start().await else { return };
    for version in [Version::V311, Version::V5] {
        within(async {
            // Queues of 4 + 2 places: the rest waits at the server, or in the transport.
            let bounds =
                Bounds { receive_max: std::num::NonZeroU16::new(2).expect("not zero"), ..Bounds::default() };
            let slow = ClientOptions {
                queue_messages_max: 4,
                ..ClientOptions::from(Options { bounds, ..options(version, "slow") })
            };
            let slow = broker.client(slow).await;
            let mut inbox = slow.subscribe("s", QoS::AtLeastOnce).await.expect("granted");
            let fast = broker.client(options(version, "fast")).await;
            for number in 0..100_u8 {
                fast.publish(Publish::new("s", vec![number]).with_qos(QoS::AtLeastOnce))
                    .await
                    .expect("taken");
            }
            for number in 0..100_u8 {
                let Some(message) = inbox.recv().await else {
                    panic!("the client ended at {number}: {:?}", slow.state().borrow())
                };
                assert_eq!(message.payload[..], [number]);
            }
            assert_eq!(inbox.dropped(), 0);
        })
        .await;
    }
}

#[tokio::test]
async fn qos_0_that_nobody_takes_is_dropped_and_counted() {
    let Some(broker) = Broker::start().await else { return };
    within(async {
        let slow = ClientOptions { queue_messages_max: 4, ..options(Version::V5, "slow").into() };
        let client = broker.client(slow).await;
        let mut inbox = client.subscribe("z", QoS::AtLeastOnce).await.expect("granted");
        for number in 0..10_u8 {
            client.publish(Publish::new("z", vec![number])).await.expect("handed out");
        }
        // What is acknowledged finds its reserved place behind them.
        client.publish(Publish::new("z", "last").with_qos(QoS::AtLeastOnce)).await.expect("taken");
        let mut seen = Vec::new();
        loop {
            let message = inbox.recv().await.expect("delivered");
            if message.qos == QoS::AtLeastOnce {
                break;
            }
            seen.push(message.payload[0]);
        }
        // How many were dropped depends on who was faster; each was delivered or counted.
        assert_eq!(seen.len() as u64 + inbox.dropped(), 10);
        assert!(seen.is_sorted());
    })
    .await;
}

#[tokio::test]
async fn manual_acknowledgement_is_the_applications_word() {
    let Some(broker) = Broker::start().await else { return };
    within(async {
        let manual = || Options {
            acks: Acks::Manual,
            clean_start: false,
            session_expiry_s: Some(600),
            ..options(Version::V5, "manual")
        };
        let first = broker.client(manual()).await;
        let mut inbox = first.subscribe("a", QoS::AtLeastOnce).await.expect("granted");
        for payload in ["one", "two"] {
            first.publish(Publish::new("a", payload).with_qos(QoS::AtLeastOnce)).await.expect("taken");
        }
        let one = inbox.recv().await.expect("delivered");
        first.ack(one.ack.expect("to be acknowledged")).await.expect("connected");
        let two = inbox.recv().await.expect("delivered");
        assert!(two.ack.is_some());
        // An answer from the server shows that the acknowledgement before it was written.
        first.publish(Publish::new("other", "").with_qos(QoS::AtLeastOnce)).await.expect("taken");
        first.disconnect().await.expect("connected");

        let (_again, mut inbox) =
            Client::connect_with_inbox(&broker.url(), manual()).await.expect("connected");
        let redelivered = inbox.recv().await.expect("delivered");
        assert_eq!(&redelivered.payload[..], b"two");
        assert!(redelivered.dup);
    })
    .await;
}

#[tokio::test]
async fn each_subscription_gets_its_own_messages() {
    let Some(broker) = Broker::start().await else { return };
    for version in [Version::V311, Version::V5] {
        within(async {
            let client = broker.client(options(version, "own")).await;
            let mut a = client.subscribe("o/a", QoS::AtLeastOnce).await.expect("granted");
            let mut b = client.subscribe("o/b", QoS::AtLeastOnce).await.expect("granted");
            let twice = client.subscribe("o/a", QoS::AtMostOnce).await.expect_err("known");
            assert!(matches!(twice, quelea_client::front::Error::AlreadySubscribed));
            for topic in ["o/a", "o/b"] {
                client.publish(Publish::new(topic, topic).with_qos(QoS::AtLeastOnce)).await.expect("taken");
            }
            assert_eq!(a.recv().await.expect("delivered").topic, "o/a");
            assert_eq!(b.recv().await.expect("delivered").topic, "o/b");
            // Dropped, the filter is free again.
            drop(a);
            let mut a = client.subscribe("o/a", QoS::AtLeastOnce).await.expect("granted again");
            client.publish(Publish::new("o/a", "again").with_qos(QoS::AtLeastOnce)).await.expect("taken");
            assert_eq!(&a.recv().await.expect("delivered").payload[..], b"again");
        })
        .await;
    }
}

#[tokio::test]
async fn several_filters_share_a_queue_and_are_granted_one_by_one() {
    let Some(broker) = Broker::start().await else { return };
    within(async {
        let client = broker.client(options(Version::V5, "several")).await;
        let subscriptions =
            ["f/1", "f/2"].map(|filter| quelea_client::Subscription::new(filter, QoS::AtLeastOnce));
        let subscribe = Subscribe { subscriptions: subscriptions.into(), ..Subscribe::default() };
        let mut inbox = client.subscribe_with(subscribe).await.expect("granted");
        assert_eq!(inbox.reasons(), [ReasonCode::GRANTED_QOS_1; 2]);
        for topic in ["f/2", "f/1"] {
            client.publish(Publish::new(topic, "").with_qos(QoS::AtLeastOnce)).await.expect("taken");
            assert_eq!(inbox.recv().await.expect("delivered").topic, topic);
        }
    })
    .await;
}

#[tokio::test]
async fn the_last_handle_dropped_is_a_normal_end() {
    let Some(broker) = Broker::start().await else { return };
    within(async {
        let watcher = broker.client(options(Version::V5, "watcher")).await;
        let mut wills = watcher.subscribe("will", QoS::AtLeastOnce).await.expect("granted");
        let will = Some(Will::new(Publish::new("will", "gone").with_qos(QoS::AtLeastOnce)));
        let client = broker.client(Options { will, ..options(Version::V5, "mortal") }).await;
        let mut state = client.state();
        drop(client);
        while state.changed().await.is_ok() {}
        assert!(matches!(&*state.borrow(), State::Closed(_)));
        watcher.publish(Publish::new("will", "none").with_qos(QoS::AtLeastOnce)).await.expect("taken");
        assert_eq!(&wills.recv().await.expect("delivered").payload[..], b"none");
    })
    .await;
}
