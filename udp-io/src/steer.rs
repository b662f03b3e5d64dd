//! Which shard a connection ID belongs to: the arithmetic alone.
//!
//! The same rule runs three times: in the kernel (`filter.rs` turns it into classic BPF), here, and in the
//! `shard` crate, which draws its connection IDs until the rule names it. They are kept equal by
//! `tests/steering_vectors.txt`.
//!
//! ```text
//! key (16 bytes, big-endian words)   k1 | 1 · k2 | 1 · k3 | 1 · seed
//! first 8 bytes of the DCID          w0 · w1, big-endian words
//!
//!   a = (w0 ^ seed) * k1      a ^= a >> 15      first round
//!   a = (a ^ w1) * k2         a ^= a >> 13      second round
//!   a = a * k3                shard = (a >> 16) mod N
//! ```
//!
//! Multiplication carries only upwards, so the low bits of a product are weak: the shifts bring high bits
//! down between the rounds and the result is taken from the high half. The rule hides which shard serves a
//! connection from an observer without the key; it is not a cryptographic hash, and nothing but the spread of
//! load depends on it.

/// The steering rule of one group of shards: a key and the number of shards. Cheap to copy; the same in every
/// shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steering {
    pub(crate) k1: u32,
    pub(crate) k2: u32,
    pub(crate) k3: u32,
    pub(crate) seed: u32,
    pub(crate) shards: u32,
}

impl Steering {
    /// A rule from 16 random bytes, for `shards` shards (1 to 1,024).
    ///
    /// # Panics
    /// If `shards` is 0 or greater than 1,024: the hash yields 16 bits, and with more its remainder would favour
    /// the first shards by over 1 %.
    #[must_use]
    pub fn new(key: [u8; 16], shards: usize) -> Steering {
        assert!((1..=SHARDS_MAX).contains(&shards), "between 1 and {SHARDS_MAX} shards, not {shards}");
        let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3] = key;
        Steering {
            // An even factor would lose the top bit of its operand in every product.
            k1: u32::from_be_bytes([a0, a1, a2, a3]) | 1,
            k2: u32::from_be_bytes([b0, b1, b2, b3]) | 1,
            k3: u32::from_be_bytes([c0, c1, c2, c3]) | 1,
            seed: u32::from_be_bytes([d0, d1, d2, d3]),
            shards: shards as u32,
        }
    }

    /// The number of shards this rule spreads over.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards as usize
    }

    /// The shard that owns a connection ID, from its first 8 bytes.
    #[must_use]
    pub fn shard_of_cid(&self, first8: [u8; 8]) -> usize {
        let [a0, a1, a2, a3, b0, b1, b2, b3] = first8;
        let mut a = (u32::from_be_bytes([a0, a1, a2, a3]) ^ self.seed).wrapping_mul(self.k1);
        a ^= a >> ROUND1_SHIFT;
        a = (a ^ u32::from_be_bytes([b0, b1, b2, b3])).wrapping_mul(self.k2);
        a ^= a >> ROUND2_SHIFT;
        a = a.wrapping_mul(self.k3) >> RESULT_SHIFT;
        (a % self.shards) as usize
    }

    /// The shard that a UDP payload belongs to: its destination connection ID lies at offset 6 of a long
    /// header and 1 of a short one (RFC 9000 §17.2, §17.3). `None` if it is shorter than
    /// [`DATAGRAM_BYTES_MIN`]: the kernel then spreads by address.
    #[must_use]
    pub fn shard_of_datagram(&self, bytes: &[u8]) -> Option<usize> {
        if bytes.len() < DATAGRAM_BYTES_MIN {
            return None;
        }
        let offset = if bytes[0] & LONG_HEADER_BIT == 0 { DCID_OFFSET_SHORT } else { DCID_OFFSET_LONG };
        let first8 = bytes[offset..].first_chunk::<8>()?;
        Some(self.shard_of_cid(*first8))
    }
}

/// Shorter datagrams cannot hold 8 bytes of connection ID behind a long header; one bound for both headers
/// keeps the kernel program to a single comparison, and no valid QUIC packet is this short (RFC 9000 §10.3:
/// at least 21 bytes).
pub const DATAGRAM_BYTES_MIN: usize = DCID_OFFSET_LONG + 8;
pub(crate) const DCID_OFFSET_LONG: usize = 6;
pub(crate) const DCID_OFFSET_SHORT: usize = 1;
pub(crate) const LONG_HEADER_BIT: u8 = 0x80;
pub(crate) const ROUND1_SHIFT: u32 = 15;
pub(crate) const ROUND2_SHIFT: u32 = 13;
pub(crate) const RESULT_SHIFT: u32 = 16;
/// As in the `shard` crate.
const SHARDS_MAX: usize = 1024;
