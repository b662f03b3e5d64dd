//! Sessions that outlive their connection: here and on another shard.

use core::num::NonZeroU16;
use std::time::Duration;

use quelea_mqtt::{AckKind, Connect, Disconnect, QoS, ReasonCode};

use crate::bed::{Bed, Client, publication, v5, v311};

pub(crate) fn persistent(id: &str) -> Connect<'_> {
    Connect { session_expiry_s: Some(3600), ..v5(id) }
}

pub(crate) fn resumed(id: &str) -> Connect<'_> {
    Connect { clean_start: false, ..persistent(id) }
}

fn publish_three(bed: &mut Bed, publisher: Client, qos: QoS) {
    for n in 1..=3 {
        bed.publish(publisher, &publication("t", &n.to_string(), qos, n));
    }
}

// Covers 5.0: 4.5.0-1 3.1.2-23
#[test]
fn messages_wait_for_an_offline_session_wherever_its_client_returns() {
    for (shards, back_on) in [(1, 0), (2, 0), (2, 1), (3, 2)] {
        let mut bed = Bed::new(shards);
        let client = bed.connect(0, &persistent("s"));
        bed.sub(client, 1, "t", QoS::ExactlyOnce);
        bed.reset(client);
        let publisher = bed.client(shards - 1, "p");
        publish_three(&mut bed, publisher, QoS::AtLeastOnce);
        assert_eq!(bed.take(publisher), ["PUBACK 1 0x00", "PUBACK 2 0x00", "PUBACK 3 0x00"]);
        let back = bed.connect(back_on, &resumed("s"));
        let expected = [
            "CONNACK 0x00 present=1",
            "PUBLISH t q1 id1 '1'",
            "PUBLISH t q1 id2 '2'",
            "PUBLISH t q1 id3 '3'",
        ];
        assert_eq!(bed.take(back), expected, "{shards} shards, back on {back_on}");
        bed.publish(publisher, &publication("t", "4", QoS::AtLeastOnce, 4));
        assert_eq!(bed.take(back), ["PUBLISH t q1 id4 '4'"]);
        assert_eq!(bed.counter("sessions"), 2);
        assert_eq!(bed.counter("subscriptions"), 1);
    }
}

// Covers 5.0: 4.4.0-1 4.6.0-1 4.9.0-2
#[test]
fn unacknowledged_messages_are_sent_again_in_order_and_only_as_fast_as_allowed() {
    for back_on in [0, 1] {
        let mut bed = Bed::new(2);
        let client = bed.connect(0, &persistent("s"));
        bed.sub(client, 1, "t", QoS::ExactlyOnce);
        bed.take(client);
        let publisher = bed.client(1, "p");
        bed.publish(publisher, &publication("t", "2", QoS::ExactlyOnce, 1));
        bed.publish(publisher, &publication("t", "1", QoS::AtLeastOnce, 2));
        bed.publish(publisher, &publication("t", "2", QoS::ExactlyOnce, 3));
        bed.ack(client, AckKind::PubRec, 1);
        assert_eq!(bed.take(client).len(), 4);
        bed.reset(client);
        let back = bed.connect(back_on, &Connect { receive_max: NonZeroU16::new(1), ..resumed("s") });
        assert_eq!(bed.take(back), ["CONNACK 0x00 present=1", "PUBREL 1 0x00", "PUBLISH t q1 id2 dup '1'"]);
        bed.ack(back, AckKind::PubComp, 1);
        assert_eq!(bed.take(back), Vec::<String>::new(), "what was not counted gives nothing back");
        bed.ack(back, AckKind::PubAck, 2);
        assert_eq!(bed.take(back), ["PUBLISH t q2 id3 dup '2'"]);
        bed.ack(back, AckKind::PubRec, 3);
        bed.ack(back, AckKind::PubComp, 3);
        assert_eq!(bed.take(back), ["PUBREL 3 0x00"]);
        bed.reset(publisher);
        bed.disconnect(back, &Disconnect { session_expiry_s: Some(0), ..Disconnect::default() });
        assert_eq!(bed.counter("memory_bytes"), 0);
    }
}

// Covers 5.0: 4.3.3-10
#[test]
fn qos_2_received_before_the_loss_is_not_published_twice() {
    for back_on in [0, 1] {
        let mut bed = Bed::new(2);
        let watcher = bed.client(1, "w");
        bed.sub(watcher, 1, "t", QoS::AtMostOnce);
        bed.take(watcher);
        let client = bed.connect(0, &persistent("p"));
        bed.publish(client, &publication("t", "once", QoS::ExactlyOnce, 5));
        bed.reset(client);
        let back = bed.connect(back_on, &resumed("p"));
        bed.publish(
            back,
            &quelea_mqtt::Publish { dup: true, ..publication("t", "once", QoS::ExactlyOnce, 5) },
        );
        bed.ack(back, AckKind::PubRel, 5);
        assert_eq!(bed.take(back), ["CONNACK 0x00 present=1", "PUBREC 5 0x00", "PUBCOMP 5 0x00"]);
        assert_eq!(bed.take(watcher), ["PUBLISH t q0 'once'"]);
    }
}

// Covers 5.0: 3.1.4-3
#[test]
fn the_last_connect_takes_the_session_over() {
    for other in [0, 1] {
        let mut bed = Bed::new(2);
        let first = bed.connect(0, &persistent("c"));
        bed.sub(first, 1, "t", QoS::AtLeastOnce);
        bed.take(first);
        let second = bed.connect(other, &resumed("c"));
        assert_eq!(bed.take(first), ["DISCONNECT 0x8e"]);
        assert!(bed.is_closed(first));
        assert_eq!(bed.take(second), ["CONNACK 0x00 present=1"]);
        let clean = bed.connect(other, &persistent("c"));
        assert_eq!(bed.take(second), ["DISCONNECT 0x8e"]);
        assert_eq!(bed.take(clean), ["CONNACK 0x00 present=0"]);
        assert_eq!(bed.counter("sessions"), 1);
        assert_eq!(bed.counter("subscriptions"), 0);
    }
}

#[test]
fn a_session_moves_back_and_forth_and_between_versions() {
    let mut bed = Bed::new(3);
    let first = bed.connect(0, &v311("c", false));
    bed.sub(first, 1, "t", QoS::AtLeastOnce);
    bed.take(first);
    let publisher = bed.client(2, "p");
    for round in 0..6 {
        let connect = if round % 2 == 0 { resumed("c") } else { v311("c", false) };
        let client = bed.connect(round % 3, &connect);
        assert_eq!(bed.take(client)[0], "CONNACK 0x00 present=1");
        bed.publish(publisher, &publication("t", "x", QoS::AtLeastOnce, 1));
        let got = bed.take(client);
        assert_eq!(got.len(), 1, "round {round}: {got:?}");
        bed.ack(
            client,
            AckKind::PubAck,
            got[0].split("id").nth(1).expect("an id")[..1].parse().expect("a number"),
        );
    }
    assert_eq!(bed.counter("sessions"), 2);
}

// Covers 5.0: 4.1.0-2
#[test]
fn sessions_end_when_they_expire_or_were_never_to_last() {
    let mut bed = Bed::new(2);
    let short = bed.connect(0, &Connect { session_expiry_s: Some(5), ..v5("short") });
    bed.sub(short, 1, "t", QoS::AtLeastOnce);
    let none = bed.client(1, "none");
    bed.sub(none, 1, "t", QoS::AtLeastOnce);
    bed.reset(short);
    bed.reset(none);
    assert_eq!(bed.counter("sessions"), 1);
    bed.pass(Duration::from_secs(6));
    assert_eq!(bed.counter("sessions"), 0);
    assert_eq!(bed.counter("subscriptions"), 0);
    let back = bed.connect(1, &Connect { clean_start: false, session_expiry_s: Some(5), ..v5("short") });
    assert_eq!(bed.take(back), ["CONNACK 0x00 present=0"]);
}

#[test]
fn disconnect_may_change_the_expiry_but_not_from_zero() {
    let mut bed = Bed::new(1);
    let client = bed.connect(0, &persistent("a"));
    bed.disconnect(
        client,
        &Disconnect { session_expiry_s: Some(0), ..Disconnect::new(ReasonCode::NORMAL_DISCONNECTION) },
    );
    assert_eq!(bed.counter("sessions"), 0);
    let client = bed.client(0, "b");
    bed.disconnect(
        client,
        &Disconnect { session_expiry_s: Some(9), ..Disconnect::new(ReasonCode::NORMAL_DISCONNECTION) },
    );
    assert_eq!(bed.take(client), ["DISCONNECT 0x82"]);
}

#[test]
fn an_offline_queue_is_bounded_and_its_losses_are_counted() {
    for (on_full, kept) in
        [(quelea_shard::OnFull::DropOldest, ["3", "4"]), (quelea_shard::OnFull::DropNew, ["1", "2"])]
    {
        let settings = quelea_shard::Settings { queue_messages_max: 2, on_full, ..Default::default() };
        let mut bed = Bed::with(1, &settings);
        let client = bed.connect(0, &persistent("s"));
        bed.sub(client, 1, "t", QoS::AtLeastOnce);
        bed.reset(client);
        let publisher = bed.client(0, "p");
        for n in 1..=4 {
            bed.publish(publisher, &publication("t", &n.to_string(), QoS::AtLeastOnce, n));
        }
        assert_eq!(bed.counter("dropped_offline_full"), 2);
        let back = bed.connect(0, &resumed("s"));
        let got = bed.take(back);
        assert!(
            got[1].ends_with(&format!("'{}'", kept[0])) && got[2].ends_with(&format!("'{}'", kept[1])),
            "{got:?}"
        );
    }
}
