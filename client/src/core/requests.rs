//! SUBSCRIBE and UNSUBSCRIBE packets that wait for their answer. They belong to a connection, not to the session.

use quelea_mqtt::PacketId;
use smallvec::SmallVec;

use super::message::Token;

/// Which packet waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    Subscribe,
    Unsubscribe,
}

/// One packet that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) packet_id: PacketId,
    pub(super) token: Token,
    pub(super) kind: RequestKind,
    /// How many reasons the answer must have.
    pub(super) filters: usize,
}

/// All that wait; at most `Bounds::requests_max`, usually one, so a list is quicker than a map.
#[derive(Default)]
pub(super) struct Requests {
    waiting: SmallVec<[Request; 2]>,
}

impl Requests {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn contains(&self, packet_id: PacketId) -> bool {
        self.waiting.iter().any(|request| request.packet_id == packet_id)
    }

    pub(super) fn insert(&mut self, request: Request) {
        self.waiting.push(request);
    }

    /// Takes out what this answer belongs to, if such a request waits.
    pub(super) fn take(&mut self, packet_id: PacketId, kind: RequestKind) -> Option<Request> {
        let found =
            self.waiting.iter().position(|request| request.packet_id == packet_id && request.kind == kind)?;
        Some(self.waiting.remove(found))
    }

    /// Takes out everything: the connection is over.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Token> + use<> {
        std::mem::take(&mut self.waiting).into_iter().map(|request| request.token)
    }
}
