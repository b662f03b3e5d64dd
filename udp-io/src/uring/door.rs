//! The state of one byte stream of the io_uring back end, and what it holds.

use std::io;
use std::net::TcpStream;

/// One byte stream.
pub(super) struct Door {
    pub(super) stream: TcpStream,
    pub(super) reading: Reading,
    /// A request waits for the connection to break.
    pub(super) watches_hangup: bool,
    /// The lease of the write that the kernel has.
    pub(super) write: Option<u32>,
    /// A write of nothing is done; the report is due.
    pub(super) written_due: bool,
    /// The connection failed in a call that may not report; the report is due.
    pub(super) failed: Option<io::ErrorKind>,
    /// A write has failed; what has arrived before that is being read.
    pub(super) broken: Option<io::ErrorKind>,
    pub(super) in_due_list: bool,
    pub(super) paused: bool,
    /// How the input ended; it is told when what was held has been handed over.
    pub(super) ended: Option<Ended>,
    /// The peer's FIN has been told, or taken note of by a door that is closing.
    pub(super) input_ended: bool,
    /// `close(Flush)` was called: nothing but its end is reported, and input is thrown away.
    pub(super) closing: bool,
    /// Both sides have ended; the report is due, and the door goes with it.
    pub(super) flushed: bool,
    pub(super) held: Option<Box<Held>>,
    /// The poll in which the door last handed over bytes, and how many.
    pub(super) handed_in: u32,
    pub(super) handed_bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Idle,
    Armed,
    Cancelling,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Fin,
    Broken(io::ErrorKind),
}

/// Bytes that have arrived and were not handed over.
#[derive(Default)]
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    pub(super) handed: usize,
}

impl Held {
    /// Appends. What was handed over makes room first: a door that is always a little behind must not grow.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.handed);
        self.handed = 0;
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.handed..]
    }
}

impl Door {
    pub(super) fn new(stream: TcpStream) -> Door {
        Door {
            stream,
            reading: Reading::Idle,
            watches_hangup: false,
            write: None,
            written_due: false,
            failed: None,
            broken: None,
            in_due_list: false,
            paused: false,
            ended: None,
            input_ended: false,
            closing: false,
            flushed: false,
            held: None,
            handed_in: 0,
            handed_bytes: 0,
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.rest().len())
    }

    /// Whether a report of its end waits: nothing else matters then.
    pub(super) fn is_over(&self) -> bool {
        self.failed.is_some() || self.flushed
    }

    /// A closing door always reads, or a peer that is stuck in writing would never come to read our last words.
    pub(super) fn may_hand_over(&self) -> bool {
        !self.paused || self.closing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_does_not_grow_by_what_was_handed_over() {
        let mut held = Held::default();
        held.extend(&[0; 40]);
        for _ in 0..1_000 {
            held.handed += 32;
            held.extend(&[0; 32]);
            assert_eq!((held.rest().len(), held.bytes.len()), (40, 40));
        }
    }
}
