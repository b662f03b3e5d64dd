//! What a client can make the broker hold is charged as what it takes, and given back when it is not needed any more.

use quelea_mqtt::QoS;

use crate::bed::{Bed, Client, publication};

/// Bytes charged on all shards.
fn charged(bed: &mut Bed) -> u64 {
    bed.counter("memory_bytes")
}

/// Sends a PUBLISH of QoS 0 in pieces, as a socket brings it, with one byte of the next packet behind it.
fn send_in_pieces(bed: &mut Bed, client: Client, payload_bytes: usize) {
    let mut bytes = bytes::BytesMut::new();
    publication("nobody", &"x".repeat(payload_bytes), QoS::AtMostOnce, 0)
        .encode(bed.version(client), &mut bytes)
        .expect("encodes");
    bytes.extend_from_slice(&[0x30]);
    for piece in bytes.chunks(4_096) {
        bed.send(client, piece);
    }
}

#[test]
fn the_first_byte_of_a_packet_does_not_keep_the_buffer_of_the_one_before() {
    let mut bed = Bed::new(1);
    let client = bed.client(0, "c");
    let before = charged(&mut bed);
    send_in_pieces(&mut bed, client, 500_000);
    let after = charged(&mut bed);
    assert!(after < before + 1_000, "{before} bytes, then {after}");
    // The byte is not lost: the rest of its packet comes.
    bed.send(client, &[0x04, 0x00, 0x01, b't', 0x00]);
    bed.send(client, &[0xC0, 0x00]);
    assert_eq!(bed.take(client), ["PINGRESP"]);
}

#[test]
fn a_receive_buffer_is_charged_as_it_was_allocated() {
    let mut bed = Bed::new(1);
    let client = bed.client(0, "c");
    let before = charged(&mut bed);
    // The beginning of a PUBLISH of 1,000,000 bytes: a buffer that grows by doubling.
    bed.send(client, &[0x30, 0xC0, 0x84, 0x3D, 0x00, 0x01, b't', 0x00]);
    for _ in 0..130 {
        bed.send(client, &[b'x'; 1_000]);
    }
    let held = charged(&mut bed) - before;
    assert!((130_000..=270_000).contains(&held), "{held}");
    bed.reset(client);
    assert_eq!(charged(&mut bed), 0);
}

#[test]
fn an_output_buffer_that_has_grown_is_charged_and_given_back_when_it_is_empty() {
    let mut bed = Bed::new(1);
    let client = bed.client(0, "c");
    let before = charged(&mut bed);
    bed.stall(client, true);
    for _ in 0..20 {
        bed.send(client, &[0xC0, 0x00].repeat(5_000));
    }
    let grown = charged(&mut bed);
    assert!(grown >= before + 200_000, "{before} bytes, then {grown}");
    bed.stall(client, false);
    assert_eq!(bed.take(client).len(), 100_000);
    let after = charged(&mut bed);
    assert!(after <= before + 16 * 1024, "{before} bytes, then {after}");
}
