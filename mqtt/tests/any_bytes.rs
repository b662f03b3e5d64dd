//! Any bytes, as any version and from either side: refused with a reason, or a packet that can be written and read back.
//!
//! The first byte of an input chooses version and side, the others are what was received. The fuzz target in `mqtt/fuzz`
//! plays what its fuzzer finds; the test here plays the seeds that the fuzzer begins with.

use bytes::BytesMut;
use quelea_mqtt::{
    Limits, Packet, Sender, SubscribeFilter, TopicName, Version, connect_answer_version, decode, peek_frame,
};

/// Plays one input.
pub(crate) fn play(input: &[u8]) {
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
}

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

#[cfg(test)]
mod tests {
    #[test]
    fn every_seed_of_the_fuzzer_is_refused_or_comes_back() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/decode");
        let mut played = 0;
        for entry in std::fs::read_dir(folder).expect("the seeds") {
            let path = entry.expect("a folder that can be read").path();
            let input = std::fs::read(&path).expect("a seed");
            // A failure names its seed.
            let outcome = std::panic::catch_unwind(|| super::play(&input));
            assert!(outcome.is_ok(), "{}: {input:02x?}", path.display());
            played += 1;
        }
        assert!(played > 0, "{folder} is empty");
    }
}
