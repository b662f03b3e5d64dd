//! Decodes a number of 64-byte PUBLISH packets with one codec, to be run under callgrind: instructions do not depend on
//! what else the machine does.
//!
//! `codec_instructions CODEC VERSION PACKETS`, where CODEC is `quelea`, `mqttbytes`, `rumqttc`, `rmqtt` or `none` (only
//! what is around the decoding), VERSION 4 or 5. The difference to `none`, by the number of packets, is the cost of one.

use std::hint::black_box;
use std::process::ExitCode;

use bytes::BytesMut;
use quelea_mqtt::{Limits, PacketId, Publish, QoS, Sender, TopicName, Version, decode, peek_frame};
use tokio_util::codec::Decoder;

const PACKETS_PER_BUFFER: usize = 100;
const PACKET_BYTES_MAX: usize = 1 << 20;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [codec, version, packets] = &words[..] else { return usage() };
    let (version, payload_bytes) = match version.as_str() {
        "4" => (Version::V311, 36),
        "5" => (Version::V5, 35),
        _ => return usage(),
    };
    let Ok(packets) = packets.parse::<usize>() else { return usage() };
    let Some(mut drain) = drain_of(codec, version) else { return usage() };
    let wire = wire(version, &vec![b'x'; payload_bytes]);
    for _ in 0..packets / PACKETS_PER_BUFFER {
        let mut buffer = BytesMut::from(&wire[..]);
        drain(&mut buffer);
        black_box(&buffer);
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("codec_instructions quelea|mqttbytes|rumqttc|rmqtt|none 4|5 PACKETS");
    ExitCode::from(2)
}

/// What takes all packets out of a buffer, as the codec's own connections would.
fn drain_of(codec: &str, version: Version) -> Option<Box<dyn FnMut(&mut BytesMut)>> {
    let v5 = version == Version::V5;
    Some(match codec {
        "quelea" => Box::new(move |buffer| drain_quelea(version, buffer)),
        "mqttbytes" if v5 => Box::new(|buffer| {
            while !buffer.is_empty() {
                accepted(mqttbytes::v5::read(buffer, PACKET_BYTES_MAX));
            }
        }),
        "mqttbytes" => Box::new(|buffer| {
            while !buffer.is_empty() {
                accepted(mqttbytes::v4::read(buffer, PACKET_BYTES_MAX));
            }
        }),
        "rumqttc" if v5 => Box::new(|buffer| {
            while !buffer.is_empty() {
                let max = Some(PACKET_BYTES_MAX as u32);
                accepted(rumqttc::v5::mqttbytes::v5::Packet::read(buffer, max));
            }
        }),
        "rumqttc" => Box::new(|buffer| {
            while !buffer.is_empty() {
                accepted(rumqttc::mqttbytes::v4::Packet::read(buffer, PACKET_BYTES_MAX));
            }
        }),
        "rmqtt" if v5 => {
            let mut codec = rmqtt_codec::v5::Codec::new(PACKET_BYTES_MAX as u32, 0);
            Box::new(move |buffer| {
                while !buffer.is_empty() {
                    accepted(codec.decode(buffer));
                }
            })
        }
        "rmqtt" => {
            let mut codec = rmqtt_codec::v3::Codec::new(PACKET_BYTES_MAX as u32);
            Box::new(move |buffer| {
                while !buffer.is_empty() {
                    accepted(codec.decode(buffer));
                }
            })
        }
        "none" => Box::new(|buffer| buffer.clear()),
        _ => return None,
    })
}

/// What is decoded is looked at where it lies: moving it out of its `Result` is no part of decoding.
#[inline(always)]
fn accepted<T, E>(result: Result<T, E>) {
    assert!(black_box(&result).is_ok());
}

fn drain_quelea(version: Version, buffer: &mut BytesMut) {
    let limits = Limits::default();
    let mut rest = &buffer[..];
    while let Some(frame) = peek_frame(rest, Sender::Client, &limits).expect("legal") {
        let (packet, after) = rest.split_at(frame.packet_bytes);
        accepted(decode(packet, version, Sender::Client, &limits));
        rest = after;
    }
    buffer.clear();
}

fn wire(version: Version, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    for number in 1..=PACKETS_PER_BUFFER as u16 {
        let mut publish =
            Publish::new(TopicName::new("sensors/berlin/42/temp", 128).expect("a topic"), payload);
        (publish.qos, publish.packet_id) = (QoS::AtLeastOnce, PacketId::new(number));
        publish.encode(version, &mut out).expect("legal");
    }
    assert_eq!(out.len(), 64 * PACKETS_PER_BUFFER);
    out
}
