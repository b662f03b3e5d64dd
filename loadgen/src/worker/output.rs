//! What clients have to say, on its way to their transports.
//!
//! One write at a time is under way on each door, and everything that a client has said since the last one leaves in the next:
//! what waits, waits joined. A client whose answers cannot leave reads no more until they have.

use std::time::Instant;

use quelea_udp_io::{Close, Ring, WriteBatch};

use super::carrier::Carrier;
use super::floor::Floor;

impl Floor {
    pub(super) fn mark_dirty(&mut self, local: usize) {
        if !std::mem::replace(&mut self.clients[local].dirty, true) {
            self.dirty.push(local);
        }
    }

    /// Writes what clients have to say, and closes those that have said all.
    pub(super) fn write_dirty(&mut self, ring: &mut Ring) {
        for place in 0..self.dirty.len() {
            let local = self.dirty[place];
            self.clients[local].dirty = false;
            self.write(local, ring);
        }
        self.dirty.clear();
    }

    fn write(&mut self, local: usize, ring: &mut Ring) {
        self.feed_held(local, ring);
        let wrote = match self.clients[local].carrier {
            Carrier::None => return,
            Carrier::Stream(_) => self.write_stream(local, ring),
            Carrier::Quic(_) => self.write_quic(local),
        };
        if wrote {
            // What was published at QoS 0 is on its way, and there is room for more.
            let instant = Instant::now();
            self.drain_events(local, instant, self.clock.nanos_at(instant));
            self.free(local);
        }
    }

    /// Returns whether the core had something to say.
    fn write_stream(&mut self, local: usize, ring: &mut Ring) -> bool {
        let client = &mut self.clients[local];
        let Carrier::Stream(stream) = &mut client.carrier else { return false };
        if stream.writing {
            return false;
        }
        let mut batch = WriteBatch::new();
        let output = client.core.poll_output();
        let wrote = output.is_some();
        stream.layers.write(output, &mut batch);
        if batch.is_empty() && !client.core.is_attached() && !std::mem::replace(&mut stream.finished, true) {
            stream.layers.finish(&mut batch);
        }
        if !batch.is_empty() {
            stream.writing = true;
            ring.write(stream.door, batch);
        } else if stream.finished {
            ring.close(stream.door, Close::Flush);
            client.carrier = Carrier::None;
        }
        wrote
    }

    /// Gives the core what it could not take before, now that its answers have been written.
    fn feed_held(&mut self, local: usize, ring: &mut Ring) {
        if !self.clients[local].held.is_empty() {
            let held = std::mem::take(&mut self.clients[local].held);
            let taken = self.feed(local, Instant::now(), &held);
            self.clients[local].held.extend_from_slice(&held[taken..]);
            if let Carrier::Quic(quic) = &self.clients[local].carrier {
                let conn = quic.conn;
                self.read_quic(local, conn);
            }
        }
        let client = &mut self.clients[local];
        let pause = !client.held.is_empty();
        if let Carrier::Stream(stream) = &client.carrier
            && pause != std::mem::replace(&mut client.paused, pause)
        {
            if pause {
                ring.pause_read(stream.door);
            } else {
                ring.resume_read(stream.door);
            }
        }
    }
}
