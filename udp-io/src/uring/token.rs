//! What a completion says, and of which request: the 64 bits that travel with every request.
//!
//! ```text
//!   | generation: 32 | kind: 8 | slot: 24 |
//! ```
//!
//! For a door, slot and generation are those of its name, so a completion that comes after the door has gone finds no
//! one; otherwise the slot is an index and the generation 0.

use io_uring::cqueue;

use crate::sink::DoorId;

/// Requests, and what is told by another ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Multishot receive of datagrams; the slot is the socket's index.
    Receive,
    /// A UDP socket has room to send again.
    Room,
    /// A datagram of the batch being sent; told only if it was refused.
    Datagram,
    /// Multishot accept; the slot is the listener's index.
    Accept,
    /// The eventfd of the doorbell.
    Counter,
    /// Another ring has rung.
    Rung,
    /// A bell that we rang; told only if it did not sound.
    Bell,
    /// Receive from a door.
    Read,
    /// A door that is not being read has broken.
    Hangup,
    /// A write to a door; the slot is the lease's.
    Write,
    /// The cancellation of another request; what matters is that request's own end.
    Cancel,
}

/// One request's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl Token {
    pub(super) const fn new(kind: Kind, slot: u32) -> Token {
        Token { kind, slot, generation: 0 }
    }

    pub(super) fn of_door(kind: Kind, door: DoorId) -> Token {
        Token { kind, slot: door.slot() as u32, generation: door.generation() }
    }

    pub(super) fn door(self) -> DoorId {
        DoorId::new(self.slot, self.generation)
    }

    pub(super) const fn encode(self) -> u64 {
        assert!(self.slot <= SLOT_MASK, "a slot has 24 bits");
        (self.generation as u64) << 32 | (self.kind as u64) << KIND_SHIFT | self.slot as u64
    }

    pub(super) fn decode(number: u64) -> Token {
        let low = number as u32;
        let kind = KINDS[(low >> KIND_SHIFT) as usize];
        Token { kind, slot: low & SLOT_MASK, generation: (number >> 32) as u32 }
    }

    /// Whether a request of this kind stays with the kernel until a completion says that it is over.
    pub(super) fn owes_an_end(self) -> bool {
        match self.kind {
            Kind::Receive
            | Kind::Room
            | Kind::Accept
            | Kind::Counter
            | Kind::Read
            | Kind::Hangup
            | Kind::Write => true,
            Kind::Datagram | Kind::Rung | Kind::Bell | Kind::Cancel => false,
        }
    }
}

/// The answer to a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) token: Token,
    /// What the system call would have returned; below zero an error.
    pub(super) result: i32,
    flags: u32,
}

impl Completion {
    pub(super) fn new(token: Token, result: i32, flags: u32) -> Completion {
        Completion { token, result, flags }
    }

    /// The buffer that was filled.
    pub(super) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }

    /// Whether the request goes on.
    pub(super) fn has_more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// Whether a watched stream has broken or is shut in both directions.
    pub(super) fn is_hangup(&self) -> bool {
        self.result > 0 && self.result & i32::from(libc::POLLERR | libc::POLLHUP) != 0
    }

    /// The error number, if it failed.
    pub(super) fn error(&self) -> Option<i32> {
        (self.result < 0).then_some(-self.result)
    }
}

const KINDS: [Kind; 11] = [
    Kind::Receive,
    Kind::Room,
    Kind::Datagram,
    Kind::Accept,
    Kind::Counter,
    Kind::Rung,
    Kind::Bell,
    Kind::Read,
    Kind::Hangup,
    Kind::Write,
    Kind::Cancel,
];
const KIND_SHIFT: u32 = 24;
const SLOT_MASK: u32 = (1 << KIND_SHIFT) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_survives_its_journey() {
        for (index, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
            for (slot, generation) in [(0, 0), (SLOT_MASK, u32::MAX), (7, 9)] {
                let token = Token { kind, slot, generation };
                assert_eq!(Token::decode(token.encode()), token);
            }
        }
        let door = DoorId::new(5, 6);
        assert_eq!(Token::of_door(Kind::Read, door).door(), door);
    }
}
