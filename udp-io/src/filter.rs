//! The steering rule as a classic BPF program, which the kernel runs for every datagram to pick a socket of
//! the group.
//!
//! It sits below the ring: by the time a shard's socket is readable, the choice has been made. The program
//! reads the UDP payload (offset 0 is its first byte), needs no privilege, and returns the index of a socket
//! in the order in which they were bound. A result outside the group makes the kernel choose by the hash of
//! the addresses.

use std::io;
use std::os::fd::AsFd;

use libc::{
    BPF_A, BPF_ABS, BPF_ALU, BPF_B, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LDX, BPF_LEN, BPF_MEM,
    BPF_MISC, BPF_MOD, BPF_MUL, BPF_RET, BPF_RSH, BPF_ST, BPF_TAX, BPF_W, BPF_X, BPF_XOR, sock_filter,
};

use crate::steer::{
    DATAGRAM_BYTES_MIN, DCID_OFFSET_LONG, DCID_OFFSET_SHORT, LONG_HEADER_BIT, RESULT_SHIFT, ROUND1_SHIFT,
    ROUND2_SHIFT, Steering,
};
use crate::sys;

impl Steering {
    /// Attaches the rule to a UDP socket that has `SO_REUSEPORT` set. Done to the first socket of a group
    /// before it is bound, so that no datagram is ever placed without it; the sockets that join later share
    /// it.
    ///
    /// # Errors
    /// What the kernel says: `EINVAL` without `SO_REUSEPORT`.
    pub fn attach(&self, socket: &impl AsFd) -> io::Result<()> {
        sys::attach_reuseport_filter(socket.as_fd(), &self.program())
    }

    fn program(&self) -> Vec<sock_filter> {
        let long = self.hash_at(DCID_OFFSET_LONG as u32);
        let short = self.hash_at(DCID_OFFSET_SHORT as u32);
        let over_long = u8::try_from(long.len()).expect("the hash takes a few dozen instructions");
        let mut program = vec![
            instruction(BPF_LD | BPF_W | BPF_LEN, 0),
            jump(BPF_JGE, DATAGRAM_BYTES_MIN as u32, 1, 0),
            instruction(BPF_RET | BPF_K, NO_SHARD),
            instruction(BPF_LD | BPF_B | BPF_ABS, 0),
            jump(BPF_JSET, u32::from(LONG_HEADER_BIT), 0, over_long),
        ];
        program.extend(long);
        program.extend(short);
        program
    }

    /// The arithmetic of [`Steering::shard_of_cid`] over the 8 payload bytes at `offset`. Word loads are
    /// big-endian. The program has one accumulator, one index register and a scratch word, which holds the
    /// value while its shifted copy is made.
    fn hash_at(&self, offset: u32) -> Vec<sock_filter> {
        let alu = |operation: u32, operand: u32| instruction(BPF_ALU | operation | BPF_K, operand);
        let fold = |shift: u32| {
            [
                instruction(BPF_ST, 0),
                alu(BPF_RSH, shift),
                instruction(BPF_MISC | BPF_TAX, 0),
                instruction(BPF_LD | BPF_MEM, 0),
                instruction(BPF_ALU | BPF_XOR | BPF_X, 0),
            ]
        };
        let mut body = vec![
            instruction(BPF_LD | BPF_W | BPF_ABS, offset),
            alu(BPF_XOR, self.seed),
            alu(BPF_MUL, self.k1),
        ];
        body.extend(fold(ROUND1_SHIFT));
        body.extend([
            instruction(BPF_ST, 0),
            instruction(BPF_LD | BPF_W | BPF_ABS, offset + 4),
            instruction(BPF_LDX | BPF_MEM, 0),
            instruction(BPF_ALU | BPF_XOR | BPF_X, 0),
            alu(BPF_MUL, self.k2),
        ]);
        body.extend(fold(ROUND2_SHIFT));
        body.extend([
            alu(BPF_MUL, self.k3),
            alu(BPF_RSH, RESULT_SHIFT),
            alu(BPF_MOD, self.shards),
            instruction(BPF_RET | BPF_A, 0),
        ]);
        body
    }
}

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn jump(condition: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | condition | BPF_K) as u16, jt, jf, k }
}

/// Larger than any group: the kernel falls back to the hash of the addresses.
const NO_SHARD: u32 = u32::MAX;
