//! Any bytes, as any version and from either side: refused with a reason, or a packet that can be written and read back.
//!
//! The first byte of an input chooses version and side, the others are what was received.
//!
//! `scripts/fuzz.sh decode 30` fuzzes it for half an hour of CPU time.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use quelea_mqtt::{Limits, Packet, Sender, SubscribeFilter, TopicName, Version, connect_answer_version, decode, peek_frame};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let version = [Version::V31, Version::V311, Version::V5][usize::from(choice >> 1) % 3];
    let sender = if choice & 1 == 0 { Sender::Client } else { Sender::Server };
    let limits = Limits::default();
    let _ = connect_answer_version(bytes);
    look_at_topics(bytes);
    match peek_frame(bytes, sender, &limits) {
        Ok(Some(frame)) if frame.packet_bytes <= bytes.len() => {
            look_at_packet(&bytes[..frame.packet_bytes], version, sender, &limits);
        }
        Ok(_) => assert!(decode(bytes, version, sender, &limits).is_err(), "a part of a packet was accepted"),
        Err(error) => {
            assert!(error.reason_code().is_error());
            assert_eq!(decode(bytes, version, sender, &limits), Err(error));
        }
    }
});

fn look_at_packet(bytes: &[u8], version: Version, sender: Sender, limits: &Limits) {
    match decode(bytes, version, sender, limits) {
        Err(error) => assert!(error.reason_code().is_error() && !error.to_string().is_empty()),
        Ok(packet) => {
            let version = if let Packet::Connect(connect) = packet { connect.version } else { version };
            let mut again = BytesMut::new();
            packet.encode(version, &mut again).expect("what was accepted can be written");
            assert_eq!(decode(&again, version, sender, limits), Ok(packet));
        }
    }
}

/// The bytes before the first zero as a filter, those after it as a topic.
fn look_at_topics(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |&byte| byte == 0);
    let (Some(filter), Some(topic)) = (parts.next(), parts.next()) else { return };
    let (Ok(filter), Ok(topic)) = (core::str::from_utf8(filter), core::str::from_utf8(topic)) else { return };
    if let (Ok(filter), Ok(topic)) = (SubscribeFilter::parse(filter, 128), TopicName::new(topic, 128)) {
        let exact = filter.filter.as_str() == topic.as_str();
        assert!(!exact || filter.filter.matches(topic), "a filter without wildcards is its own topic");
    }
}
