//! Which shard a datagram belongs to: a keyed hash over the first eight bytes of its destination connection ID.
//!
//! The kernel computes the same arithmetic in a classic BPF program before a datagram reaches a socket, so a client
//! whose address changes stays with its shard. This module is the reference: the shard uses it to draw connection IDs
//! that name itself and to find the owner of a stray.
//!
//! ```text
//! long header   1... ....  version(4)  len(1)  DCID ...     first eight bytes at offset 6
//! short header  0... ....  DCID ...                         first eight bytes at offset 1
//!
//! a = (word0 ^ seed) * k1;  a ^= a >> 15;  a ^= word1       words are big-endian,
//! a = a * k2;               a ^= a >> 13;                   all arithmetic is modulo 2^32
//! a = a * k3;               shard = (a >> 16) % shards
//! ```
//!
//! The hash is an even spread that a stranger cannot aim without the key, not a cryptographic one: all it protects is
//! the balance between shards.

/// The keyed hash of one process: the same in every shard and in the kernel's program.
#[derive(Clone, Copy)]
pub struct Steering {
    k1: u32,
    k2: u32,
    k3: u32,
    seed: u32,
    shards: u32,
}

impl Steering {
    /// Reads `key` as four big-endian words, `k1 k2 k3 seed`; the three multipliers are forced odd.
    ///
    /// # Panics
    /// If `shards` is 0 or above [`SHARDS_MAX`].
    pub fn new(key: [u8; 16], shards: usize) -> Self {
        assert!((1..=SHARDS_MAX).contains(&shards), "between 1 and {SHARDS_MAX} shards, not {shards}");
        let word = |at: usize| u32::from_be_bytes([key[at], key[at + 1], key[at + 2], key[at + 3]]);
        Self { k1: word(0) | 1, k2: word(4) | 1, k3: word(8) | 1, seed: word(12), shards: shards as u32 }
    }

    /// The shard that owns a connection ID which begins with `cid`, below the number of shards.
    pub fn shard_of_cid(&self, cid: [u8; 8]) -> usize {
        let [b0, b1, b2, b3, b4, b5, b6, b7] = cid;
        let mut a = (u32::from_be_bytes([b0, b1, b2, b3]) ^ self.seed).wrapping_mul(self.k1);
        a ^= a >> 15;
        a ^= u32::from_be_bytes([b4, b5, b6, b7]);
        a = a.wrapping_mul(self.k2);
        a ^= a >> 13;
        a = a.wrapping_mul(self.k3);
        ((a >> 16) % self.shards) as usize
    }

    /// The shard that owns a UDP payload, or `None` for one too short to carry a connection ID of eight bytes in
    /// either header form ([`DATAGRAM_BYTES_MIN`]); the kernel spreads those by address.
    pub fn shard_of_datagram(&self, datagram: &[u8]) -> Option<usize> {
        if datagram.len() < DATAGRAM_BYTES_MIN {
            return None;
        }
        let offset = if datagram[0] & LONG_HEADER != 0 { 6 } else { 1 };
        let cid = datagram[offset..].first_chunk::<8>()?;
        Some(self.shard_of_cid(*cid))
    }

    /// How many shards share the port.
    pub fn shards(&self) -> usize {
        self.shards as usize
    }
}

/// Shortest datagram that is steered: a long header's eight connection ID bytes end at byte 14.
pub const DATAGRAM_BYTES_MIN: usize = 14;

/// Most shards of one process: the hash yields 16 bits.
pub const SHARDS_MAX: usize = 1 << 16;

/// The header form bit (RFC 9000 §17.2).
const LONG_HEADER: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by hand from the formula in the module's head.
    #[test]
    fn the_arithmetic_is_the_kernels() {
        let key = *b"\x00\x00\x00\x02\x00\x00\x00\x04\x00\x00\x00\x06\x00\x00\x00\x00";
        // Multipliers 3, 5 and 7 after the low bit is forced.
        let steering = Steering::new(key, 7);
        let mut a: u32 = 0x0102_0304u32.wrapping_mul(3);
        a ^= a >> 15;
        a ^= 0x0506_0708;
        a = a.wrapping_mul(5);
        a ^= a >> 13;
        a = a.wrapping_mul(7);
        assert_eq!(steering.shard_of_cid([1, 2, 3, 4, 5, 6, 7, 8]), ((a >> 16) % 7) as usize);
    }

    #[test]
    fn both_header_forms_find_the_same_shard() {
        let steering = Steering::new([0x5a; 16], 5);
        for i in 0..=255u8 {
            let cid = [i, 2, 3, 4, 5, 6, 7, i];
            let mut short = vec![0x40];
            short.extend_from_slice(&cid);
            short.resize(40, 0);
            let mut long = vec![0xc0, 0, 0, 0, 1, 8];
            long.extend_from_slice(&cid);
            let want = Some(steering.shard_of_cid(cid));
            assert_eq!((steering.shard_of_datagram(&short), steering.shard_of_datagram(&long)), (want, want));
        }
    }

    #[test]
    fn short_datagrams_name_no_shard() {
        let steering = Steering::new([7; 16], 4);
        for length in 0..DATAGRAM_BYTES_MIN {
            assert_eq!(steering.shard_of_datagram(&vec![0xc0; length]), None);
        }
        assert!(steering.shard_of_datagram(&[0xc0; DATAGRAM_BYTES_MIN]).is_some());
    }

    #[test]
    fn random_ids_spread_evenly() {
        let steering = Steering::new(*b"steering-key-16b", 4);
        let mut counts = [0u32; 4];
        let mut state = 1u64;
        for _ in 0..40_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            counts[steering.shard_of_cid(state.to_be_bytes())] += 1;
        }
        assert!(counts.iter().all(|&n| (9_500..10_500).contains(&n)), "{counts:?}");
    }
}
