//! What happened: a hash over every byte, time and door action, and, if somebody listens, a story in sentences.

use std::fmt;
use std::time::Duration;

/// Hashes everything; tells some of it.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    story: Option<Vec<String>>,
}

/// What kind of thing is hashed, so that equal bytes in different places differ.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    ToServer = 1,
    ToClient = 2,
    Door = 3,
    Turn = 4,
    Up = 5,
    Down = 6,
}

impl Trace {
    pub(crate) fn new(tells: bool) -> Self {
        Self { hash: 0x9E37_79B9_7F4A_7C15, story: tells.then(Vec::new) }
    }

    /// Bytes that went somewhere.
    pub(crate) fn bytes(&mut self, at: Duration, kind: Kind, place: u64, bytes: &[u8]) {
        self.mark(at, kind, place, bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    /// Something without bytes.
    pub(crate) fn mark(&mut self, at: Duration, kind: Kind, place: u64, what: u64) {
        self.mix(at.as_nanos() as u64);
        self.mix((kind as u64) << 56 | place);
        self.mix(what);
    }

    /// One line of the story.
    pub(crate) fn tell(&mut self, at: Duration, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{} {}", Clock(at), line()));
        }
    }

    /// The hash so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// The story so far.
    pub(crate) fn take_story(&mut self) -> Vec<String> {
        self.story.take().unwrap_or_default()
    }

    fn mix(&mut self, word: u64) {
        let mixed = (self.hash ^ word).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        self.hash = mixed ^ mixed >> 32;
    }
}

/// Virtual time as it stands in a story: seconds and microseconds.
pub(crate) struct Clock(pub(crate) Duration);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:4}.{:06}", self.0.as_secs(), self.0.subsec_micros())
    }
}
