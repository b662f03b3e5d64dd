//! MQTT over QUIC, one stream: a QUIC door in front of mosquitto.

use quelea_client::front::{Client, ClientOptions, Error, Fingerprint, Trust};
use quelea_client::{Bounds, Options, Publish};
use quelea_mqtt::{QoS, Version};

use crate::broker::{Broker, options, within};
use crate::door::QuicDoor;

fn trusting(options: Options, trust: Trust) -> ClientOptions {
    ClientOptions { trust, ..ClientOptions::from(options) }
}

#[tokio::test]
async fn messages_arrive_over_quic() {
    let Some(broker) = Broker::start().await else { return };
    let door = QuicDoor::open(broker.port, b"mqtt");
    for version in [Version::V311, Version::V5] {
        within(async {
            let bounds = Bounds { packet_bytes_max: 2 << 20, ..Bounds::default() };
            let mqtt = Options { bounds, ..options(version, "over-quic") };
            let client = Client::connect(&door.url(), trusting(mqtt, Trust::Fingerprint(door.fingerprint)))
                .await
                .expect("connected");
            let mut inbox = client.subscribe("quic/#", QoS::ExactlyOnce).await.expect("granted");
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                let message = Publish::new("quic/large", vec![7; 1 << 20]).with_qos(qos);
                client.publish(message).await.expect("taken");
                let message = inbox.recv().await.expect("delivered");
                assert_eq!((message.qos, message.payload.len()), (qos, 1 << 20));
            }
            client.disconnect().await.expect("connected");
        })
        .await;
    }
}

#[tokio::test]
async fn what_was_published_before_leaving_is_delivered() {
    let Some(broker) = Broker::start().await else { return };
    let door = QuicDoor::open(broker.port, b"mqtt");
    within(async {
        let watcher = broker.client(options(Version::V5, "watcher")).await;
        let mut inbox = watcher.subscribe("last", QoS::AtLeastOnce).await.expect("granted");
        let client = Client::connect(
            &door.url(),
            trusting(options(Version::V5, "leaver"), Trust::Fingerprint(door.fingerprint)),
        )
        .await
        .expect("connected");
        client.publish(Publish::new("last", vec![1; 300_000])).await.expect("handed out");
        client.disconnect().await.expect("connected");
        assert_eq!(inbox.recv().await.expect("delivered").payload.len(), 300_000);
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_believed_by_its_ca_file_and_name() {
    let Some(broker) = Broker::start().await else { return };
    let door = QuicDoor::open(broker.port, b"mqtt");
    let path = std::env::temp_dir().join(format!("quelea-client-{}.pem", door.address.port()));
    std::fs::write(&path, &door.certificate_pem).expect("written");
    within(async {
        let by_file = || trusting(options(Version::V5, "by-file"), Trust::CaFile(path.clone()));
        let client = Client::connect(&door.url(), by_file()).await.expect("connected");
        client.disconnect().await.expect("connected");
        // The certificate is for localhost, not for its address.
        let by_address = format!("quic://{}", door.address);
        let error = Client::connect(&by_address, by_file()).await.expect_err("another name");
        assert!(matches!(&error, Error::Quic(_)), "{error}");
        let named = ClientOptions { server_name: Some("localhost".into()), ..by_file() };
        Client::connect(&by_address, named).await.expect("connected");
    })
    .await;
    std::fs::remove_file(&path).expect("removed");
}

#[tokio::test]
async fn another_certificate_is_not_believed() {
    within(async {
        let door = QuicDoor::open(1, b"mqtt");
        for trust in [Trust::Fingerprint(Fingerprint::new([0; 32])), Trust::System] {
            let result = Client::connect(&door.url(), trusting(options(Version::V5, "wary"), trust)).await;
            match result.expect_err("not believed") {
                Error::Quic(what) => assert!(what.contains("certificate"), "{what}"),
                // A machine without roots.
                Error::Tls(what) => assert!(what.contains("root certificates"), "{what}"),
                other => panic!("{other}"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_of_another_protocol_is_refused() {
    within(async {
        let door = QuicDoor::open(1, b"h3");
        let trust = Trust::Fingerprint(door.fingerprint);
        let error = Client::connect(&door.url(), trusting(options(Version::V5, "mqtt-only"), trust)).await;
        let error = error.expect_err("no protocol in common");
        assert!(matches!(&error, Error::Quic(_)), "{error}");
    })
    .await;
}
