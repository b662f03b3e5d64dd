//! What comes in on byte streams: handed over, held, ended.

use std::io;

use super::super::door::{Ended, Reading};
use super::super::kernel::Kernel;
use super::super::token::Completion;
use super::Streams;
use crate::counters::Counters;
use crate::sink::{Closed, DoorId, Sink};

impl Streams {
    pub(super) fn on_read(
        &mut self,
        kernel: &mut Kernel,
        completion: &Completion,
        counters: &mut Counters,
        sink: &mut impl Sink,
    ) -> usize {
        let id = completion.token.door();
        if let Some(door) = self.doors.get(id)
            && !completion.has_more()
        {
            door.reading = Reading::Idle;
        }
        let mut handed = 0;
        if let Some(buffer) = completion.buffer() {
            let length = usize::try_from(completion.result).unwrap_or(0);
            handed += kernel.take_bytes(buffer, length, |bytes| self.on_bytes(id, bytes, counters, sink));
        }
        let Some(door) = self.doors.get(id).filter(|door| !door.is_over()) else { return handed };
        match completion.error() {
            None if completion.result == 0 => {
                door.ended = Some(door.broken.map_or(Ended::Fin, Ended::Broken));
            }
            None | Some(libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {}
            Some(libc::ENOBUFS) => counters.stream_buffers_exhausted += 1,
            Some(error) => {
                door.ended = Some(Ended::Broken(io::Error::from_raw_os_error(error).kind()));
            }
        }
        handed += self.report_end(kernel, id, counters, sink);
        self.arm(kernel, id);
        handed
    }

    /// Hands bytes over, or holds what is beyond the door's share of this poll.
    fn on_bytes(&mut self, id: DoorId, bytes: &[u8], counters: &mut Counters, sink: &mut impl Sink) -> usize {
        let Some(door) = self.doors.get(id).filter(|door| !door.is_over()) else { return 0 };
        if bytes.is_empty() {
            return 0;
        }
        if door.closing {
            counters.door_bytes_discarded += bytes.len() as u64;
            return 0;
        }
        if door.handed_in != self.poll {
            (door.handed_in, door.handed_bytes) = (self.poll, 0);
        }
        let fits = door.handed_bytes as usize + bytes.len() <= self.share_bytes;
        if door.may_hand_over() && door.held.is_none() && fits {
            door.handed_bytes += bytes.len() as u32;
            counters.door_bytes_in += bytes.len() as u64;
            sink.bytes(id, bytes);
            return 1;
        }
        counters.door_bytes_held += bytes.len() as u64;
        self.held_bytes += bytes.len();
        door.held.get_or_insert_default().extend(bytes);
        self.make_due(id);
        0
    }

    /// Hands over a poll's share of what is held.
    pub(super) fn hand_over_held(
        &mut self,
        id: DoorId,
        counters: &mut Counters,
        sink: &mut impl Sink,
    ) -> usize {
        let Some(door) = self.doors.get(id).filter(|door| door.may_hand_over()) else { return 0 };
        let Some(mut held) = door.held.take() else { return 0 };
        if door.closing {
            counters.door_bytes_discarded += held.rest().len() as u64;
            self.held_bytes -= held.rest().len();
            return 0;
        }
        let rest = held.rest();
        let share = rest.len().min(self.share_bytes);
        (door.handed_in, door.handed_bytes) = (self.poll, share as u32);
        counters.door_bytes_in += share as u64;
        self.held_bytes -= share;
        sink.bytes(id, &rest[..share]);
        held.handed += share;
        if !held.rest().is_empty() {
            door.held = Some(held);
            self.make_due(id);
        }
        1
    }

    /// Tells how the input has ended, once all that came before has been handed over.
    pub(super) fn report_end(
        &mut self,
        kernel: &mut Kernel,
        id: DoorId,
        counters: &mut Counters,
        sink: &mut impl Sink,
    ) -> usize {
        let Some(door) = self.doors.get(id) else { return 0 };
        let Some(ended) = door.ended else { return 0 };
        if let Ended::Broken(kind) = ended
            && (door.held.is_none() || !door.may_hand_over())
        {
            return self.fail(kernel, id, kind, counters, sink);
        }
        if door.held.is_some() || !door.may_hand_over() {
            return 0;
        }
        door.ended = None;
        door.input_ended = true;
        if door.closing {
            self.end_flush(id);
            return 0;
        }
        sink.closed(id, Closed::EndOfStream);
        1
    }

    /// The connection has broken, or is shut in both directions.
    pub(super) fn on_hangup(
        &mut self,
        kernel: &mut Kernel,
        completion: &Completion,
        counters: &mut Counters,
        sink: &mut impl Sink,
    ) -> usize {
        let id = completion.token.door();
        let Some(door) = self.doors.get(id) else { return 0 };
        door.watches_hangup = completion.has_more();
        // Who reads, or is about to, learns of it behind what has arrived before.
        if !completion.is_hangup() || door.is_over() || (door.may_hand_over() && !door.input_ended) {
            if !completion.has_more() {
                self.arm(kernel, id);
            }
            return 0;
        }
        let error = door.stream.take_error().ok().flatten();
        let kind = error.map_or(io::ErrorKind::ConnectionReset, |error| error.kind());
        self.fail(kernel, id, kind, counters, sink)
    }
}
