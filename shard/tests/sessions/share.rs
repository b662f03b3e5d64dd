//! Shared subscriptions.

use quelea_mqtt::{AckKind, Connect, QoS};

use crate::bed::{Bed, Client, publication, v5};

fn payloads(bed: &mut Bed, client: Client) -> Vec<String> {
    bed.take(client).iter().filter_map(|line| line.split('\'').nth(1)).map(str::to_owned).collect()
}

#[test]
fn each_message_goes_to_one_member_and_members_share() {
    let mut bed = Bed::new(3);
    let members: Vec<_> = (0..3).map(|n| bed.client(n, &format!("m{n}"))).collect();
    for member in &members {
        bed.sub(*member, 1, "$share/g/t/#", QoS::AtLeastOnce);
        assert_eq!(bed.take(*member), ["SUBACK 1 [01]"]);
    }
    let outsider = bed.client(0, "o");
    bed.sub(outsider, 1, "t/#", QoS::AtMostOnce);
    bed.take(outsider);
    let publisher = bed.client(1, "p");
    for n in 0..30 {
        bed.publish(publisher, &publication("t/x", &n.to_string(), QoS::AtLeastOnce, 1));
    }
    let mut all = Vec::new();
    for member in members {
        let got = payloads(&mut bed, member);
        assert!(got.len() >= 5, "{got:?}");
        all.extend(got);
    }
    all.sort_by_key(|n| n.parse::<u32>().expect("a number"));
    assert_eq!(all, (0..30).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(bed.take(outsider).len(), 30);
}

#[test]
fn what_a_member_has_not_acknowledged_goes_to_another_when_it_leaves() {
    let mut bed = Bed::new(2);
    let first = bed.client(0, "a");
    bed.sub(first, 1, "$share/g/t", QoS::AtLeastOnce);
    bed.take(first);
    let publisher = bed.client(1, "p");
    for n in 1..=5 {
        bed.publish(publisher, &publication("t", &n.to_string(), QoS::AtLeastOnce, n));
    }
    assert_eq!(payloads(&mut bed, first).len(), 5);
    bed.ack(first, AckKind::PubAck, 1);
    let second = bed.client(1, "b");
    bed.sub(second, 1, "$share/g/t", QoS::AtLeastOnce);
    bed.take(second);
    bed.reset(first);
    assert_eq!(payloads(&mut bed, second), ["2", "3", "4", "5"]);
    assert_eq!(bed.counter("group_given_back"), 4);
}

#[test]
fn a_qos_2_message_that_a_client_has_seen_stays_with_it() {
    let mut bed = Bed::new(2);
    let connect = Connect { session_expiry_s: Some(100), ..v5("a") };
    let first = bed.connect(0, &connect);
    bed.sub(first, 1, "$share/g/t", QoS::ExactlyOnce);
    let publisher = bed.client(1, "p");
    bed.publish(publisher, &publication("t", "x", QoS::ExactlyOnce, 1));
    assert_eq!(bed.take(first).last().expect("a message"), "PUBLISH t q2 id1 'x'");
    let second = bed.client(1, "b");
    bed.sub(second, 1, "$share/g/t", QoS::ExactlyOnce);
    bed.take(second);
    bed.reset(first);
    assert_eq!(payloads(&mut bed, second), Vec::<String>::new());
    let back = bed.connect(1, &Connect { clean_start: false, ..connect });
    assert_eq!(bed.take(back), ["CONNACK 0x00 present=1", "PUBLISH t q2 id1 dup 'x'"]);
}

#[test]
fn a_group_without_a_member_online_waits_for_one() {
    let mut bed = Bed::new(2);
    let connect = Connect { session_expiry_s: Some(100), ..v5("a") };
    let client = bed.connect(0, &connect);
    bed.sub(client, 1, "$share/g/t", QoS::AtLeastOnce);
    bed.reset(client);
    let publisher = bed.client(1, "p");
    bed.publish(publisher, &publication("t", "x", QoS::AtLeastOnce, 1));
    assert_eq!(bed.take(publisher), ["PUBACK 1 0x00"]);
    let back = bed.connect(0, &Connect { clean_start: false, ..connect });
    assert_eq!(payloads(&mut bed, back), ["x"]);
}

#[test]
fn the_last_member_takes_the_group_with_it() {
    let mut bed = Bed::new(2);
    let client = bed.client(0, "a");
    bed.sub(client, 1, "$share/g/t", QoS::AtLeastOnce);
    assert_eq!(bed.counter("groups"), 1);
    bed.unsub(client, 2, "$share/g/t");
    assert_eq!(bed.take(client), ["SUBACK 1 [01]", "UNSUBACK 2 [00]"]);
    assert_eq!(bed.counter("groups"), 0);
    assert_eq!(bed.counter("subscriptions"), 0);
    let publisher = bed.client(1, "p");
    bed.publish(publisher, &publication("t", "x", QoS::AtLeastOnce, 1));
    assert_eq!(bed.take(publisher), ["PUBACK 1 0x10"]);
}

#[test]
fn a_group_takes_one_message_however_large() {
    let settings = quelea_shard::Settings { queue_bytes_max: 1_000, ..Default::default() };
    let mut bed = Bed::with(2, &settings);
    let member = bed.connect(0, &Connect { receive_max: core::num::NonZeroU16::new(1), ..v5("m") });
    bed.sub(member, 1, "$share/g/t", QoS::AtLeastOnce);
    bed.take(member);
    let publisher = bed.client(1, "p");
    let payload = "x".repeat(5_000);
    for n in 1..=4 {
        bed.publish(publisher, &publication("t", &payload, QoS::AtLeastOnce, n));
    }
    bed.pass(std::time::Duration::from_secs(30));
    assert_eq!(bed.take(publisher).len(), 4, "every publication is answered in the end");
}
