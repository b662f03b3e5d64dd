//! In steady state a QoS 0 publication asks the allocator for nothing, from the bytes that came to the bytes that go.
#![allow(dead_code)]

mod heap;
#[path = "../examples/instructions/house.rs"]
mod house;

use quelea_mqtt::{QoS, Version};

use house::{House, publication};

/// Allocations of a hundred rounds, after a hundred in which buffers and tables have got their size.
fn allocations(mut round: impl FnMut()) -> u64 {
    (0..100).for_each(|_| round());
    let before = heap::calls();
    assert!(before > 0, "the counter counts");
    (0..100).for_each(|_| round());
    heap::calls() - before
}

#[test]
fn fan_out_at_qos_0_allocates_nothing() {
    let mut house = House::new(1);
    for door in 0..50 {
        house.connect(0, door);
        house.subscribe(0, door, "news", QoS::AtMostOnce);
    }
    house.connect(0, 1_000);
    let packet = publication(Version::V311, "news", QoS::AtMostOnce, &[7; 64]);
    let count = allocations(|| {
        house.bytes(0, 1_000, &packet);
        house.run();
    });
    assert_eq!(count, 0);
}

#[test]
fn a_flood_at_qos_0_allocates_nothing() {
    let mut house = House::new(1);
    house.connect(0, 1);
    house.subscribe(0, 1, "flood", QoS::AtMostOnce);
    house.connect(0, 2);
    let packets = publication(Version::V311, "flood", QoS::AtMostOnce, &[7; 64]).repeat(100);
    let count = allocations(|| {
        house.bytes(0, 2, &packets);
        house.run();
    });
    assert_eq!(count, 0);
}

/// Across shards a publication is made on one and let go on the other, so its memory does not come back: three blocks
/// (publication, image, the list in the reply), each once.
#[test]
fn a_publication_to_another_shard_allocates_three_blocks() {
    let mut house = House::new(2);
    house.connect(0, 1);
    house.subscribe(0, 1, "across", QoS::AtMostOnce);
    house.connect(1, 2);
    let packet = publication(Version::V311, "across", QoS::AtMostOnce, &[7; 64]);
    let count = allocations(|| {
        house.bytes(1, 2, &packet);
        house.run();
    });
    assert_eq!(count, 300, "in a hundred rounds");
}
