//! Connections that break, servers that refuse, and clients that come back.

use std::time::Duration;

use quelea_client::front::{Backoff, Client, ClientOptions, Error, State, UrlError};
use quelea_client::{Closed, Options, Publish, Refusal};
use quelea_mqtt::{QoS, ReasonCode, Version};
use tokio::io::AsyncWriteExt;

use crate::broker::{Broker, options, within};
use crate::door::{TcpDoor, accept, listen, packet};

const CONNACK: &[u8] = &[0x20, 0x02, 0x00, 0x00];
const CONNACK_PRESENT: &[u8] = &[0x20, 0x02, 0x01, 0x00];

fn returning(mqtt: Options) -> ClientOptions {
    let reconnect = Some(Backoff { first: Duration::from_millis(1), max: Duration::from_millis(20) });
    ClientOptions { reconnect, ..ClientOptions::from(mqtt) }
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_refused() {
    let error = Client::connect("http://localhost", Options::new("c")).await.expect_err("no MQTT");
    assert!(matches!(error, Error::Url(UrlError::Scheme)));
}

#[tokio::test]
async fn nobody_listens() {
    let (listener, url) = listen().await;
    drop(listener);
    let error = Client::connect(&url, returning(Options::new("c"))).await.expect_err("refused");
    assert!(matches!(error, Error::Io(_)), "{error}");
}

#[tokio::test]
async fn a_refusal_is_told_with_its_reason() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move { accept(&listener, b"\x20\x02\x00\x05").await });
    let error = Client::connect(&url, options(Version::V311, "c")).await.expect_err("refused");
    assert!(matches!(error, Error::Refused { reason: ReasonCode::NOT_AUTHORIZED, .. }), "{error}");
    server.await.expect("no panic");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move { accept(&listener, b"").await });
    let impatient = Options { connect_timeout: Duration::from_millis(50), ..options(Version::V311, "c") };
    let error = Client::connect(&url, impatient).await.expect_err("silence");
    assert!(matches!(error, Error::Closed(Closed::ConnectTimeout)), "{error}");
    server.await.expect("no panic");
}

#[tokio::test]
async fn without_reconnect_the_end_of_the_connection_is_the_end_of_the_client() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move {
        let mut stream = accept(&listener, CONNACK).await;
        assert_eq!(packet(&mut stream).await[0], 0x82);
        stream.write_all(b"\x90\x03\x00\x01\x00").await.expect("open");
        // PUBLISH is never acknowledged.
        assert_eq!(packet(&mut stream).await[0], 0x32);
    });
    within(async {
        let client = Client::connect(&url, options(Version::V311, "c")).await.expect("connected");
        let mut inbox = client.subscribe("t", QoS::AtMostOnce).await.expect("granted");
        let open = client.publish(Publish::new("t", "m").with_qos(QoS::AtLeastOnce)).await;
        assert!(matches!(open, Err(Error::Closed(_) | Error::Io(_))), "{open:?}");
        assert!(inbox.recv().await.is_none());
        assert!(matches!(&*client.state().borrow(), State::Closed(_)));
        let late = client.publish(Publish::new("t", "m")).await;
        assert!(late.is_err());
    })
    .await;
    server.await.expect("no panic");
}

#[tokio::test]
async fn what_was_taken_is_acknowledged_before_leaving() {
    // The task looks at its inputs in a random order: once is not enough.
    for _ in 0..20 {
        let (listener, url) = listen().await;
        let server = tokio::spawn(async move {
            let mut stream = accept(&listener, CONNACK_PRESENT).await;
            stream.write_all(b"\x32\x06\x00\x01t\x00\x01a\x34\x06\x00\x01t\x00\x02b").await.expect("open");
            assert_eq!(packet(&mut stream).await, b"\x40\x02\x00\x01");
            assert_eq!(packet(&mut stream).await, b"\x50\x02\x00\x02");
            assert_eq!(packet(&mut stream).await, b"\xE0\x00");
        });
        within(async {
            let persistent = Options { clean_start: false, ..options(Version::V311, "c") };
            let (client, mut inbox) = Client::connect_with_inbox(&url, persistent).await.expect("connected");
            for payload in [b"a", b"b"] {
                assert_eq!(inbox.recv().await.expect("delivered").payload[..], payload[..]);
            }
            client.disconnect().await.expect("connected");
        })
        .await;
        server.await.expect("no panic");
    }
}

#[tokio::test]
async fn an_open_publication_is_repeated_after_a_reconnect() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move {
        let mut first = accept(&listener, CONNACK).await;
        assert_eq!(packet(&mut first).await, b"\x32\x06\x00\x01t\x00\x01m");
        drop(first);
        let mut second = accept(&listener, CONNACK_PRESENT).await;
        assert_eq!(packet(&mut second).await, b"\x3A\x06\x00\x01t\x00\x01m");
        second.write_all(b"\x40\x02\x00\x01").await.expect("open");
        assert_eq!(packet(&mut second).await, b"\xE0\x00");
    });
    within(async {
        let options = Options { clean_start: false, ..options(Version::V311, "c") };
        let client = Client::connect(&url, returning(options)).await.expect("connected");
        let done = client.publish(Publish::new("t", "m").with_qos(QoS::AtLeastOnce)).await;
        assert_eq!(done.expect("taken in the end"), ReasonCode::SUCCESS);
        client.disconnect().await.expect("connected");
    })
    .await;
    server.await.expect("no panic");
}

#[tokio::test]
async fn subscriptions_are_made_again_when_the_session_is_lost() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move {
        for round in 1..=3_u8 {
            let mut stream = accept(&listener, CONNACK).await;
            let subscribe = packet(&mut stream).await;
            assert_eq!((subscribe[0], &subscribe[4..]), (0x82, &b"\x00\x01t\x01"[..]));
            stream.write_all(&[0x90, 0x03, subscribe[2], subscribe[3], 0x01]).await.expect("open");
            stream.write_all(&[0x30, 0x04, 0x00, 0x01, b't', round]).await.expect("open");
            // Read to the end so that nothing is cut before it arrived.
            if round < 3 {
                stream.shutdown().await.expect("open");
            } else {
                assert_eq!(packet(&mut stream).await, b"\xE0\x00");
            }
        }
    });
    within(async {
        let client = Client::connect(&url, returning(options(Version::V311, "c"))).await.expect("connected");
        let mut inbox = client.subscribe("t", QoS::AtLeastOnce).await.expect("granted");
        for round in 1..=3_u8 {
            assert_eq!(inbox.recv().await.expect("delivered").payload[..], [round]);
        }
        client.disconnect().await.expect("connected");
    })
    .await;
    server.await.expect("no panic");
}

#[tokio::test]
async fn a_refusal_that_will_not_change_ends_the_attempts() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move {
        drop(accept(&listener, CONNACK).await);
        accept(&listener, b"\x20\x02\x00\x04").await;
    });
    within(async {
        let client = Client::connect(&url, returning(options(Version::V311, "c"))).await.expect("connected");
        let mut state = client.state();
        while state.changed().await.is_ok() {}
        let last = state.borrow().clone();
        let State::Closed(Error::Refused { reason, .. }) = last else { panic!("{last:?}") };
        assert_eq!(reason, ReasonCode::BAD_USER_NAME_OR_PASSWORD);
    })
    .await;
    server.await.expect("no panic");
}

#[tokio::test]
async fn who_leaves_while_nobody_answers_does_not_wait() {
    let (listener, url) = listen().await;
    within(async {
        let patient = Backoff { first: Duration::from_secs(3600), max: Duration::from_secs(3600) };
        let options = ClientOptions { reconnect: Some(patient), ..options(Version::V311, "c").into() };
        let connecting = tokio::spawn(async move { Client::connect(&url, options).await });
        drop(accept(&listener, CONNACK).await);
        drop(listener);
        let client = connecting.await.expect("no panic").expect("connected");
        let mut state = client.state();
        while !matches!(&*state.borrow_and_update(), State::Reconnecting) {
            state.changed().await.expect("the client lives");
        }
        client.disconnect().await.expect("left");
        assert!(matches!(&*client.state().borrow(), State::Closed(_)));
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_and_the_client_lives() {
    let (listener, url) = listen().await;
    let server = tokio::spawn(async move { accept(&listener, CONNACK).await });
    within(async {
        let client = Client::connect(&url, options(Version::V311, "c")).await.expect("connected");
        let refused = client.publish(Publish::new("a/#", "m")).await;
        assert!(matches!(refused, Err(Error::Client(Refusal::Topic(_)))), "{refused:?}");
        client.publish(Publish::new("a", "m")).await.expect("handed out");
    })
    .await;
    server.await.expect("no panic");
}

#[tokio::test]
async fn exactly_once_and_in_order_over_a_connection_that_is_cut_again_and_again() {
    let Some(broker) = Broker::start().await else { return };
    for version in [Version::V311, Version::V5] {
        within(async {
            let door = TcpDoor::open(broker.port).await;
            // An identifier per version: a session outlives the client that forgets it.
            let persistent = |role| Options {
                clean_start: false,
                session_expiry_s: (version == Version::V5).then_some(600),
                ..options(version, &format!("cut-{role}-{version}"))
            };
            let sender =
                Client::connect(&door.url, returning(persistent("sender"))).await.expect("connected");
            let reader =
                Client::connect(&door.url, returning(persistent("reader"))).await.expect("connected");
            let mut inbox = reader.subscribe("cut", QoS::ExactlyOnce).await.expect("granted");
            let sending = tokio::spawn(async move {
                for number in 0..200_u8 {
                    if number % 20 == 10 {
                        door.cut();
                    }
                    let message = Publish::new("cut", vec![number]).with_qos(QoS::ExactlyOnce);
                    sender.publish(message).await.expect("taken in the end");
                }
                door
            });
            for number in 0..200_u8 {
                assert_eq!(inbox.recv().await.expect("delivered").payload[..], [number]);
            }
            sending.await.expect("no panic");
        })
        .await;
    }
}
