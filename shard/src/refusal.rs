//! Why clients were not let in, for the log: counters say how many there were, this says whom it met and why.
//!
//! A flood of refusals must not become a flood of lines, and the shard has no clock to count them by. So it keeps one,
//! the first since somebody last asked, and the number of those behind it; how often is asked is how often is written.

use std::borrow::Cow;
use std::net::SocketAddr;

use crate::door::DoorKindId;
use crate::quic::QuicListenerId;

/// A client that was refused before it came to MQTT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where it wanted to come in.
    pub entrance: Entrance,
    /// Who it was: the one that a PROXY header has named, else the other end.
    pub peer: SocketAddr,
    /// A sentence without a full stop. Where the client has said why, the words are its own.
    pub why: Cow<'static, str>,
    /// Others that were refused behind it, of which nothing is known but their number.
    pub others: u64,
}

/// A listener, as the shard knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// For byte streams.
    Door(DoorKindId),
    /// For QUIC.
    Quic(QuicListenerId),
}

/// The first refusal since the last was taken.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    first: Option<Refusal>,
}

impl Refusals {
    /// Remembers a refusal, or its number; `why` is put into words only in the first case.
    pub(crate) fn note(
        &mut self,
        entrance: Entrance,
        peer: SocketAddr,
        why: impl FnOnce() -> Cow<'static, str>,
    ) {
        match &mut self.first {
            Some(first) => first.others += 1,
            None => self.first = Some(Refusal { entrance, peer, why: why(), others: 0 }),
        }
    }

    pub(crate) fn take(&mut self) -> Option<Refusal> {
        self.first.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_kept_and_the_others_are_counted() {
        let mut refusals = Refusals::default();
        assert_eq!(refusals.take(), None);
        let entrance = Entrance::Quic(QuicListenerId::FIRST);
        for port in 1..=3 {
            let peer = SocketAddr::from(([192, 0, 2, 1], port));
            refusals.note(entrance, peer, || format!("reason {port}").into());
        }
        let first = refusals.take().expect("three were noted");
        assert_eq!((first.peer.port(), &*first.why, first.others), (1, "reason 1", 2));
        assert_eq!(refusals.take(), None, "until there is another");
    }
}
