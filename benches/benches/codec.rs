//! The codec beside mqttbytes, rumqttc and rmqtt-codec: decode of a PUBLISH, and one message to a hundred receivers.
//!
//! Each codec reads the same bytes by the interface that its own connections use: ours from a slice, the others by
//! splitting a `BytesMut`. The buffer's copy is made outside of what is timed.
//!
//! `cargo bench -p quelea-benches --bench codec`

use std::hint::black_box;
use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use quelea_mqtt::{
    Delivery, Limits, Packet, PacketId, Publish, PublishImage, QoS, Sender, TopicName, Version, decode,
    peek_frame,
};
use rumqttc::mqttbytes::v4 as rumqttc_v4;
use rumqttc::v5::mqttbytes::v5 as rumqttc_v5;
use tokio_util::codec::{Decoder, Encoder};

/// Packets in one buffer, receivers of one message.
const PACKETS: usize = 100;
const TOPIC: &str = "sensors/berlin/42/temp";
const PACKET_BYTES_MAX: usize = 1 << 20;

/// `PACKETS` times a PUBLISH of QoS 1 to `TOPIC`, without properties.
fn wire(version: Version, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    for number in 1..=PACKETS as u16 {
        let mut publish = Publish::new(TopicName::new(TOPIC, 128).expect("a topic"), payload);
        (publish.qos, publish.packet_id) = (QoS::AtLeastOnce, PacketId::new(number));
        publish.encode(version, &mut out).expect("legal");
    }
    out
}

/// Times `drain`, which must take every packet out of the buffer.
fn drained(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    wire: &[u8],
    mut drain: impl FnMut(&mut BytesMut),
) {
    group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
        bencher.iter_batched_ref(
            || BytesMut::from(wire),
            |buffer| {
                drain(buffer);
                assert!(buffer.is_empty());
            },
            // One buffer at a time, so that the bytes lie in the cache as those do that have just been received.
            BatchSize::PerIteration,
        );
    });
}

/// Ours, packet by packet from a slice.
fn drain_quelea(version: Version, buffer: &mut BytesMut) {
    let limits = Limits::default();
    let mut rest = &buffer[..];
    while let Some(frame) = peek_frame(rest, Sender::Client, &limits).expect("legal") {
        let (packet, after) = rest.split_at(frame.packet_bytes);
        match decode(packet, version, Sender::Client, &limits) {
            Ok(Packet::Publish(publish)) => _ = black_box(&publish),
            other => panic!("{other:?}"),
        }
        rest = after;
    }
    buffer.clear();
}

fn decode_publish(criterion: &mut Criterion) {
    let payload_of_64_byte_packet = 64 - 2 - 2 - TOPIC.len() - 2;
    for (size, payload_bytes) in [("64-byte packet", payload_of_64_byte_packet), ("64-byte payload", 64)] {
        let payload = vec![b'x'; payload_bytes];
        decode_v4(criterion, size, &payload);
        // One byte less of payload: the property length.
        decode_v5(criterion, size, &payload[1..]);
    }
}

fn decode_v4(criterion: &mut Criterion, size: &str, payload: &[u8]) {
    let mut group = criterion.benchmark_group(format!("decode PUBLISH v4, {size}"));
    group.throughput(Throughput::Elements(PACKETS as u64));
    let bytes = wire(Version::V311, payload);
    drained(&mut group, "quelea-mqtt", &bytes, |buffer| drain_quelea(Version::V311, buffer));
    drained(&mut group, "mqttbytes", &bytes, |buffer| {
        while !buffer.is_empty() {
            black_box(&mqttbytes::v4::read(buffer, PACKET_BYTES_MAX).expect("legal"));
        }
    });
    drained(&mut group, "rumqttc", &bytes, |buffer| {
        while !buffer.is_empty() {
            black_box(&rumqttc_v4::Packet::read(buffer, PACKET_BYTES_MAX).expect("legal"));
        }
    });
    let mut codec = rmqtt_codec::v3::Codec::new(PACKET_BYTES_MAX as u32);
    drained(&mut group, "rmqtt-codec", &bytes, |buffer| {
        while !buffer.is_empty() {
            black_box(&codec.decode(buffer).expect("legal"));
        }
    });
    group.finish();
}

fn decode_v5(criterion: &mut Criterion, size: &str, payload: &[u8]) {
    let mut group = criterion.benchmark_group(format!("decode PUBLISH v5, {size}"));
    group.throughput(Throughput::Elements(PACKETS as u64));
    let bytes = wire(Version::V5, payload);
    drained(&mut group, "quelea-mqtt", &bytes, |buffer| drain_quelea(Version::V5, buffer));
    drained(&mut group, "mqttbytes", &bytes, |buffer| {
        while !buffer.is_empty() {
            black_box(&mqttbytes::v5::read(buffer, PACKET_BYTES_MAX).expect("legal"));
        }
    });
    drained(&mut group, "rumqttc", &bytes, |buffer| {
        while !buffer.is_empty() {
            black_box(&rumqttc_v5::Packet::read(buffer, Some(PACKET_BYTES_MAX as u32)).expect("legal"));
        }
    });
    let mut codec = rmqtt_codec::v5::Codec::new(PACKET_BYTES_MAX as u32, 0);
    drained(&mut group, "rmqtt-codec", &bytes, |buffer| {
        while !buffer.is_empty() {
            black_box(&codec.decode(buffer).expect("legal"));
        }
    });
    group.finish();
}

/// Times one message to `PACKETS` receivers of QoS 1, written into one buffer that is used again.
fn to_all(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut send: impl FnMut(u16, &mut BytesMut)) {
    let mut out = BytesMut::with_capacity(PACKETS * 2048);
    group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
        bencher.iter(|| {
            out.clear();
            for packet_id in 1..=PACKETS as u16 {
                send(packet_id, &mut out);
            }
            black_box(&out);
        });
    });
}

/// Ours: the payload copied behind each head, and the payload by reference.
fn to_all_quelea(group: &mut BenchmarkGroup<'_, WallTime>, version: Version, payload: &Bytes) {
    let topic = TopicName::new(TOPIC, 128).expect("a topic");
    let image = PublishImage::from_publish(&Publish::new(topic, payload), topic);
    let to = |packet_id| Delivery {
        packet_id: PacketId::new(packet_id),
        ..Delivery::new(version, QoS::AtLeastOnce)
    };
    to_all(group, "quelea-mqtt, copied", |packet_id, out| image.encode(&to(packet_id), out));
    let mut by_reference = Vec::with_capacity(PACKETS);
    to_all(group, "quelea-mqtt, payload by reference", |packet_id, out| {
        if packet_id == 1 {
            by_reference.clear();
        }
        image.encode_head(&to(packet_id), out);
        by_reference.push(image.payload());
    });
}

fn fan_out(criterion: &mut Criterion) {
    for payload_bytes in [64, 1024] {
        let payload = Bytes::from(vec![b'x'; payload_bytes]);
        fan_out_v4(criterion, &payload);
        fan_out_v5(criterion, &payload);
    }
}

fn fan_out_v4(criterion: &mut Criterion, payload: &Bytes) {
    let mut group =
        criterion.benchmark_group(format!("one message to 100, v4, {}-byte payload", payload.len()));
    group.throughput(Throughput::Elements(PACKETS as u64));
    to_all_quelea(&mut group, Version::V311, payload);
    let mut publish = mqttbytes::v4::Publish::from_bytes(TOPIC, mqttbytes::QoS::AtLeastOnce, payload.clone());
    to_all(&mut group, "mqttbytes", |packet_id, out| {
        publish.pkid = packet_id;
        publish.write(out).expect("legal");
    });
    let mut publish =
        rumqttc_v4::Publish::from_bytes(TOPIC, rumqttc::mqttbytes::QoS::AtLeastOnce, payload.clone());
    to_all(&mut group, "rumqttc", |packet_id, out| {
        publish.pkid = packet_id;
        publish.write(out).expect("legal");
    });
    let publish = rmqtt_publish(payload);
    let mut codec = rmqtt_codec::v3::Codec::new(0);
    to_all(&mut group, "rmqtt-codec", |packet_id, out| {
        let mut publish = publish.clone();
        publish.packet_id = NonZeroU16::new(packet_id);
        codec.encode(rmqtt_codec::v3::Packet::Publish(publish), out).expect("legal");
    });
    group.finish();
}

fn fan_out_v5(criterion: &mut Criterion, payload: &Bytes) {
    let mut group =
        criterion.benchmark_group(format!("one message to 100, v5, {}-byte payload", payload.len()));
    group.throughput(Throughput::Elements(PACKETS as u64));
    to_all_quelea(&mut group, Version::V5, payload);
    let mut publish = mqttbytes::v5::Publish::from_bytes(TOPIC, mqttbytes::QoS::AtLeastOnce, payload.clone());
    to_all(&mut group, "mqttbytes", |packet_id, out| {
        publish.pkid = packet_id;
        publish.write(out).expect("legal");
    });
    let qos = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
    let mut publish = rumqttc_v5::Publish::new(TOPIC, qos, payload.clone(), None);
    to_all(&mut group, "rumqttc", |packet_id, out| {
        publish.pkid = packet_id;
        publish.write(out).expect("legal");
    });
    let publish = rmqtt_publish(payload);
    let mut codec = rmqtt_codec::v5::Codec::new(0, 0);
    to_all(&mut group, "rmqtt-codec", |packet_id, out| {
        let mut publish = publish.clone();
        publish.packet_id = NonZeroU16::new(packet_id);
        codec.encode(rmqtt_codec::v5::Packet::Publish(publish), out).expect("legal");
    });
    group.finish();
}

fn rmqtt_publish(payload: &Bytes) -> Box<rmqtt_codec::types::Publish> {
    Box::new(rmqtt_codec::types::Publish {
        dup: false,
        retain: false,
        qos: rmqtt_codec::types::QoS::AtLeastOnce,
        topic: ByteString::from_static(TOPIC),
        packet_id: None,
        payload: payload.clone(),
        properties: None,
    })
}

criterion_group!(benches, decode_publish, fan_out);
criterion_main!(benches);
