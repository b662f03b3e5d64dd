//! Cuts the byte stream into packets: the first step of every byte that comes in.
//!
//! A packet that lies whole in what the transport delivered is handed on where it lies; only the rest of a read is copied, and
//! never more than the one packet that it begins.

use bytes::{Bytes, BytesMut};
use quelea_mqtt::{DecodeError, Limits, Sender, peek_frame};

/// The beginning of a packet whose end has not arrived: shorter than `Limits::packet_bytes_max`.
#[derive(Default)]
pub(super) struct Frames {
    partial: BytesMut,
}

/// One whole packet.
pub(super) enum Frame<'a> {
    /// Still in the caller's buffer.
    Lent(&'a [u8]),
    /// Put together from several reads.
    Owned(Bytes),
}

impl Frame<'_> {
    /// The packet's bytes.
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Lent(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }

    /// The packet as shared bytes of exactly its size.
    pub(super) fn into_bytes(self) -> Bytes {
        match self {
            Self::Lent(bytes) => Bytes::copy_from_slice(bytes),
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Frames {
    /// Forgets the partial packet of an earlier connection.
    pub(super) fn clear(&mut self) {
        self.partial = BytesMut::new();
    }

    /// Takes the next packet from the front of `bytes` and moves `bytes` past it; `None` when all was taken and more is needed.
    pub(super) fn next<'a>(
        &mut self,
        bytes: &mut &'a [u8],
        limits: &Limits,
    ) -> Result<Option<Frame<'a>>, DecodeError> {
        if !self.partial.is_empty() {
            return self.complete(bytes, limits);
        }
        match peek_frame(bytes, Sender::Server, limits)? {
            Some(frame) if frame.packet_bytes <= bytes.len() => {
                let (packet, rest) = bytes.split_at(frame.packet_bytes);
                *bytes = rest;
                return Ok(Some(Frame::Lent(packet)));
            }
            // The size is within the limit, or `peek_frame` would have refused it.
            Some(frame) => self.partial.reserve(frame.packet_bytes),
            None => {}
        }
        self.partial.extend_from_slice(bytes);
        *bytes = &[];
        Ok(None)
    }

    fn complete<'a>(
        &mut self,
        bytes: &mut &'a [u8],
        limits: &Limits,
    ) -> Result<Option<Frame<'a>>, DecodeError> {
        loop {
            // While the length is unknown one byte at a time: at most four.
            let missing = match peek_frame(&self.partial, Sender::Server, limits)? {
                Some(frame) => frame.packet_bytes - self.partial.len(),
                None => 1,
            };
            if missing == 0 {
                return Ok(Some(Frame::Owned(std::mem::take(&mut self.partial).freeze())));
            }
            if bytes.is_empty() {
                return Ok(None);
            }
            let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
            self.partial.reserve(missing);
            self.partial.extend_from_slice(taken);
            *bytes = rest;
        }
    }
}
