//! What a driver does with the stream of a connection. A stale name, or a stream that is gone, is no error: the event that
//! says so is on its way.

use quinn_proto::{ReadError, StreamId};

use super::event::{ConnId, ReadEnd};
use super::table::{Entry, Stage};
use super::{Endpoint, code_of};

impl Endpoint {
    /// Writes as much as the windows allow and returns how many bytes that was; if not all of them, `Writable` follows when
    /// there is room. Join small packets first: many small writes under way make quinn-proto slow.
    pub fn write(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        let Some((entry, stream)) = self.stream(conn) else { return 0 };
        let mut sending = entry.connection.send_stream(stream);
        let mut taken = 0;
        while taken < bytes.len() {
            // A part may be taken; only the refusal of the next one makes quinn-proto announce room.
            match sending.write(&bytes[taken..]) {
                Ok(count) => taken += count,
                // Room, an end or a stop is told by an event.
                Err(_) => break,
            }
        }
        self.mark_dirty(conn.slot);
        taken
    }

    /// Hands what has arrived, in order, to `sink`, up to `bytes_max`, and returns the room to the server.
    pub fn read(&mut self, conn: ConnId, bytes_max: usize, mut sink: impl FnMut(&[u8])) -> ReadEnd {
        let Some((entry, stream)) = self.stream(conn) else { return ReadEnd::Gone };
        let mut receiving = entry.connection.recv_stream(stream);
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
        if chunks.finalize().should_transmit() {
            self.mark_dirty(conn.slot);
        }
        end
    }

    /// Ends our half after what was written; `Finished` follows when the server has all of it.
    pub fn finish(&mut self, conn: ConnId) {
        let Some((entry, stream)) = self.stream(conn) else { return };
        // Fails on a half that the server has stopped or that has ended, whose event is on its way.
        let _ = entry.connection.send_stream(stream).finish();
        self.mark_dirty(conn.slot);
    }

    /// Abandons our half: what is unsent is dropped and the server is told `code` (RESET_STREAM).
    ///
    /// # Panics
    /// If `code` is 2^62 or above.
    pub fn reset(&mut self, conn: ConnId, code: u64) {
        let Some((entry, stream)) = self.stream(conn) else { return };
        // Fails on a half that has been reset already.
        let _ = entry.connection.send_stream(stream).reset(code_of(code));
        self.mark_dirty(conn.slot);
    }

    /// Asks the server to send no more, and drops what is unread (STOP_SENDING).
    ///
    /// # Panics
    /// If `code` is 2^62 or above.
    pub fn stop(&mut self, conn: ConnId, code: u64) {
        let Some((entry, stream)) = self.stream(conn) else { return };
        // Fails on a half that has been stopped already or has ended.
        let _ = entry.connection.recv_stream(stream).stop(code_of(code));
        self.mark_dirty(conn.slot);
    }

    fn stream(&mut self, conn: ConnId) -> Option<(&mut Entry, StreamId)> {
        let entry = self.table.open_mut(conn)?;
        match entry.stage {
            Stage::Open(stream) => Some((entry, stream)),
            Stage::Handshaking { .. } | Stage::Lingering => None,
        }
    }
}
