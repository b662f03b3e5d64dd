//! Who may connect, and what each may do: requests with completions.

use quelea_mqtt::{QoS, ReasonCode};
use quelea_shard::{Action, Completion, Permissions, Work};

use crate::bed::{Bed, publication, v5};

/// Denies the client `mallory`, and everything under `secret/`.
fn policy(work: &Work) -> Completion {
    match work {
        Work::Authenticate { client_id, .. } if &**client_id == "mallory" => {
            Completion::Authenticated(Err(ReasonCode::NOT_AUTHORIZED))
        }
        Work::Authenticate { .. } => Completion::Authenticated(Ok(Permissions::Ask)),
        Work::Authorize { action: Action::Publish { topic, .. }, .. } => {
            Completion::Authorized(vec![!topic.starts_with("secret/")])
        }
        Work::Authorize { action: Action::Subscribe { filters }, .. } => {
            Completion::Authorized(filters.iter().map(|filter| !filter.starts_with("secret/")).collect())
        }
    }
}

#[test]
fn a_client_that_may_not_connect_is_told_so() {
    let mut bed = Bed::new(1);
    bed.policy = policy;
    let client = bed.connect(0, &v5("mallory"));
    assert_eq!(bed.take(client), ["CONNACK 0x87 present=0"]);
    assert!(bed.is_closed(client));
}

#[test]
fn each_publication_and_each_filter_is_asked_for_and_order_is_kept() {
    let mut bed = Bed::new(2);
    bed.policy = policy;
    let client = bed.client(0, "a");
    bed.sub(client, 1, "secret/#", QoS::AtMostOnce);
    bed.sub(client, 2, "open/#", QoS::AtMostOnce);
    assert_eq!(bed.take(client), ["SUBACK 1 [87]", "SUBACK 2 [00]"]);
    let mut bytes = bytes::BytesMut::new();
    for (n, topic) in ["open/1", "secret/2", "open/3"].into_iter().enumerate() {
        let publish = publication(topic, "x", QoS::ExactlyOnce, n as u16 + 1);
        publish.encode(quelea_mqtt::Version::V5, &mut bytes).expect("encodes");
    }
    bytes.extend_from_slice(&[0xC0, 0x00]);
    bed.send(client, &bytes);
    let said = bed.take(client);
    let acks: Vec<_> = said.iter().filter(|line| !line.starts_with("PUBLISH")).collect();
    assert_eq!(acks, ["PUBREC 1 0x00", "PUBREC 2 0x87", "PUBREC 3 0x00", "PINGRESP"]);
    assert_eq!(said.iter().filter(|line| line.starts_with("PUBLISH")).count(), 2);
    assert_eq!(bed.counter("denied"), 2);
}

#[test]
fn what_is_denied_counts_against_receive_maximum() {
    let settings = quelea_shard::Settings { queue_messages_max: 1, receive_max: 3, ..Default::default() };
    let mut bed = Bed::with(1, &settings);
    bed.policy = policy;
    let slow = quelea_mqtt::Connect { receive_max: core::num::NonZeroU16::new(1), ..v5("slow") };
    let slow = bed.connect(0, &slow);
    bed.sub(slow, 1, "t", QoS::AtLeastOnce);
    let client = bed.client(0, "a");
    for n in 1..=3 {
        bed.publish(client, &publication("t", "x", QoS::AtLeastOnce, n));
    }
    assert_eq!(bed.take(client).len(), 2, "the third waits");
    for n in 4..=5 {
        bed.publish(client, &publication("secret/a", "x", QoS::ExactlyOnce, n));
    }
    assert_eq!(bed.take(client), [""; 0], "two refusals wait behind it");
    bed.publish(client, &publication("secret/a", "x", QoS::AtLeastOnce, 6));
    assert_eq!(bed.take(client), ["DISCONNECT 0x93"]);
    // Told one by one, they count no more.
    let other = bed.client(0, "b");
    for n in 1..=10 {
        bed.publish(other, &publication("secret/a", "x", QoS::ExactlyOnce, n));
        assert_eq!(bed.take(other), [format!("PUBREC {n} 0x87")]);
    }
}
