//! What the sessions do with streams. A name that is stale, or a stream that is gone, is no error: both ends of a
//! connection move on their own, and the event that says so is on its way.

use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{Dir, ReadError, VarInt, WriteError};

use super::event::{ConnId, ReadEnd, StreamId, WriteEnd};
use super::{Quic, code_of};

impl Quic {
    /// Hands what has arrived on a stream, in order, to `sink`, up to `bytes_max`, and returns the room to the peer; more
    /// of it if the connection is fast.
    pub fn read(
        &mut self,
        now: Instant,
        conn: ConnId,
        stream: StreamId,
        bytes_max: usize,
        mut sink: impl FnMut(&[u8]),
    ) -> ReadEnd {
        let Some(entry) = self.table.open_mut(conn).filter(|_| stream.server_receives()) else {
            return ReadEnd::Gone;
        };
        let mut receiving = entry.connection.recv_stream(stream.to_proto());
        let Ok(mut chunks) = receiving.read(true) else { return ReadEnd::Gone };
        let mut left = bytes_max;
        let end = loop {
            if left == 0 {
                break ReadEnd::More;
            }
            match chunks.next(left) {
                Ok(Some(chunk)) => {
                    left -= chunk.bytes.len();
                    sink(&chunk.bytes);
                }
                Ok(None) => break ReadEnd::Finished,
                Err(ReadError::Blocked) => break ReadEnd::Blocked,
                Err(ReadError::Reset(code)) => break ReadEnd::Reset(code.into_inner()),
            }
        };
        let mut transmit = chunks.finalize().should_transmit();
        let (rtt, read) = (entry.connection.rtt(), bytes_max - left);
        if let Some(window) = entry.window.on_read(now, rtt, read, &self.windows, &mut self.widened) {
            entry.connection.set_receive_window(window.into());
            transmit = true;
        }
        if transmit {
            self.mark_dirty(conn.slot);
        }
        end
    }

    /// Takes as much of `data` as the windows allow and advances it. Join small packets first: many chunks under way
    /// make quinn-proto slow.
    pub fn write(&mut self, conn: ConnId, stream: StreamId, data: &mut Bytes) -> WriteEnd {
        let Some(entry) = self.table.open_mut(conn).filter(|_| stream.server_sends()) else {
            return WriteEnd::Gone;
        };
        let mut sending = entry.connection.send_stream(stream.to_proto());
        let end = loop {
            if data.is_empty() {
                break WriteEnd::All;
            }
            match sending.write_chunks(std::slice::from_mut(data)) {
                // A part may have been taken; only the refusal of the next one makes quinn-proto announce room.
                Ok(_) => {}
                Err(WriteError::Blocked) => break WriteEnd::Blocked,
                Err(WriteError::Stopped(code)) => break WriteEnd::Stopped(code.into_inner()),
                Err(WriteError::ClosedStream) => break WriteEnd::Gone,
            }
        };
        entry.blocked = matches!(end, WriteEnd::Blocked);
        self.mark_dirty(conn.slot);
        end
    }

    /// The most that a write could take now: 0 if it would be refused, in which case `Writable` follows as after a
    /// refused write. An upper bound: quinn-proto does not tell how much of a window is used.
    pub fn writable_bytes(&mut self, conn: ConnId, stream: StreamId) -> usize {
        let Some(entry) = self.table.open_mut(conn).filter(|_| stream.server_sends()) else { return 0 };
        match entry.connection.send_stream(stream.to_proto()).write_chunks(&mut []) {
            Ok(_) => self.settings.send_window as usize,
            Err(WriteError::Blocked) => {
                // The peer is told that its window holds us back.
                self.mark_dirty(conn.slot);
                0
            }
            Err(WriteError::Stopped(_) | WriteError::ClosedStream) => 0,
        }
    }

    /// Whether the client has opened this stream of its own: before that, nothing may be said on it (RFC 9000 §19.8).
    pub fn is_opened(&self, conn: ConnId, stream: StreamId) -> bool {
        let dir = if stream.is_bidirectional() { Dir::Bi } else { Dir::Uni };
        let entry = self.table.open(conn).filter(|_| stream.is_from_client());
        entry.is_some_and(|entry| stream.index() < entry.accepted[dir as usize])
    }

    /// Ends our half of a stream after what was written; `Finished` follows when the peer has all of it.
    pub fn finish(&mut self, conn: ConnId, stream: StreamId) {
        let Some(entry) = self.table.open_mut(conn).filter(|_| stream.server_sends()) else { return };
        // Fails on a stream that the peer has stopped or that has ended, whose event is on its way.
        let _ = entry.connection.send_stream(stream.to_proto()).finish();
        self.mark_dirty(conn.slot);
    }

    /// Abandons our half of a stream: what is unsent is dropped and the peer is told `code` (RESET_STREAM).
    ///
    /// # Panics
    /// If `code` is 2^62 or above.
    pub fn reset(&mut self, conn: ConnId, stream: StreamId, code: u64) {
        let Some(entry) = self.table.open_mut(conn).filter(|_| stream.server_sends()) else { return };
        // Fails on a stream that has been reset already.
        let _ = entry.connection.send_stream(stream.to_proto()).reset(code_of(code));
        self.mark_dirty(conn.slot);
    }

    /// Asks the peer to send no more on a stream, and drops what is unread (STOP_SENDING).
    ///
    /// # Panics
    /// If `code` is 2^62 or above.
    pub fn stop(&mut self, conn: ConnId, stream: StreamId, code: u64) {
        let Some(entry) = self.table.open_mut(conn).filter(|_| stream.server_receives()) else { return };
        // Fails on a stream that has been stopped already or has ended.
        let _ = entry.connection.recv_stream(stream.to_proto()).stop(code_of(code));
        self.mark_dirty(conn.slot);
    }

    /// Lets the peer have `count` bidirectional streams open at once from now on, at most
    /// [`STREAMS_MAX`](super::STREAMS_MAX).
    pub fn set_streams_bidi(&mut self, conn: ConnId, count: u32) {
        let Some(entry) = self.table.open_mut(conn) else { return };
        let count = VarInt::from_u32(count.min(super::STREAMS_MAX));
        entry.connection.set_max_concurrent_streams(Dir::Bi, count);
        self.mark_dirty(conn.slot);
    }
}
