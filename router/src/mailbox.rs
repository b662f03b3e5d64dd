//! The mesh: between each ordered pair of shards four rings, one per lane.
//!
//! ```text
//!  shard 0                                     shard 1
//!  Mailbox ── replies, control, ────────────►  Mailbox
//!             forward, deliver (SPSC each)
//!          ◄────────── replies, control, ────
//!                      forward, deliver
//! ```
//!
//! A ring has one writer and one reader, so order within a lane is that of sending, by construction, and
//! nothing is locked. Lanes are apart so that one cannot block another:
//!
//! * `reply`: answers; the sender of a request reserves their slots, so a send never fails in normal running;
//! * `control`: subscriptions' announcements, sessions on the move, group membership;
//! * `forward`: publications, on credit that the receiver grants;
//! * `deliver`: group and retained messages for sessions of the other shard, on their own credit.
//!
//! A full lane gives the message back; nothing waits. A shard has no ring to itself.

use rtrb::{Consumer, Producer, RingBuffer};

use crate::shards::{SHARDS_MAX, ShardId, ShardSet};
use crate::sleep::{Mail, SleepFlags};

/// Messages that fit in each lane of each ordered pair of shards; all above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeshConfig {
    /// Of the lane of replies.
    pub replies: usize,
    /// Of the lane of control messages.
    pub control: usize,
    /// Of the lane of publications.
    pub forward: usize,
    /// Of the lane of deliveries.
    pub deliver: usize,
}

/// One shard's ends of the mesh.
pub struct Mailbox<R, C, F, D> {
    shard: ShardId,
    shards: usize,
    replies: Lane<R>,
    control: Lane<C>,
    forward: Lane<F>,
    deliver: Lane<D>,
    doorbells: Doorbells,
}

/// To whom something was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doorbells {
    /// Who got replies.
    pub replies: ShardSet,
    /// Who got anything else.
    pub requests: ShardSet,
}

impl Doorbells {
    /// Whether nothing was sent to anyone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty() && self.requests.is_empty()
    }

    /// Those whose bells must be rung, by what their flags ask for.
    pub fn to_ring(&self, sleep: &SleepFlags) -> ShardSet {
        let requests = self.requests.iter().filter(|peer| sleep.must_wake(*peer, Mail::Requests));
        let replies = self.replies.iter().filter(|peer| sleep.must_wake(*peer, Mail::Replies));
        requests.chain(replies).collect()
    }
}

/// One lane's ends, by peer; `None` at the shard itself.
struct Lane<T> {
    to: Vec<Option<Producer<T>>>,
    from: Vec<Option<Consumer<T>>>,
}

/// The mailboxes of `shards` shards, by index: 1 to [`SHARDS_MAX`].
pub fn mesh<R, C, F, D>(shards: usize, config: MeshConfig) -> Vec<Mailbox<R, C, F, D>> {
    assert!((1..=SHARDS_MAX).contains(&shards), "{shards} shards, 1 to {SHARDS_MAX} are possible");
    let mut replies = lanes(shards, config.replies).into_iter();
    let mut control = lanes(shards, config.control).into_iter();
    let mut forward = lanes(shards, config.forward).into_iter();
    let mut deliver = lanes(shards, config.deliver).into_iter();
    let mut mailboxes = Vec::with_capacity(shards);
    while let (Some(replies), Some(control), Some(forward), Some(deliver)) =
        (replies.next(), control.next(), forward.next(), deliver.next())
    {
        let shard = ShardId::from_index(mailboxes.len());
        let doorbells = Doorbells::default();
        mailboxes.push(Mailbox { shard, shards, replies, control, forward, deliver, doorbells });
    }
    mailboxes
}

/// One lane of the whole mesh, by shard.
fn lanes<T>(shards: usize, capacity: usize) -> Vec<Lane<T>> {
    assert!(capacity > 0, "a lane without room moves nothing");
    let mut lanes: Vec<Lane<T>> = (0..shards).map(|_| Lane { to: Vec::new(), from: Vec::new() }).collect();
    // Row by row: after the outer step `a`, shard `a` can send to all, and all have their end from `a`.
    for a in 0..shards {
        for b in 0..shards {
            let ring = (a != b).then(|| RingBuffer::new(capacity));
            let (producer, consumer) = ring.unzip();
            lanes[a].to.push(producer);
            lanes[b].from.push(consumer);
        }
    }
    lanes
}

impl<T> Lane<T> {
    #[inline]
    fn try_send(&mut self, to: ShardId, message: T) -> Result<(), T> {
        let Some(Some(producer)) = self.to.get_mut(to.index()) else { unreachable!("no ring to {to}") };
        producer.push(message).map_err(|rtrb::PushError::Full(message)| message)
    }

    #[inline]
    fn recv(&mut self, from: ShardId) -> Option<T> {
        self.from.get_mut(from.index())?.as_mut()?.pop().ok()
    }

    fn peek(&self, from: ShardId) -> Option<&T> {
        self.from.get(from.index())?.as_ref()?.peek().ok()
    }

    fn slots_free(&self, to: ShardId) -> usize {
        let Some(Some(producer)) = self.to.get(to.index()) else { unreachable!("no ring to {to}") };
        producer.slots()
    }

    fn slots_used(&self, from: ShardId) -> usize {
        self.from.get(from.index()).and_then(Option::as_ref).map_or(0, Consumer::slots)
    }

    fn has_incoming(&self) -> bool {
        self.from.iter().flatten().any(|consumer| !consumer.is_empty())
    }
}

impl<R, C, F, D> Mailbox<R, C, F, D> {
    /// Whose mailbox this is.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// How many shards the mesh joins, this one counted.
    pub fn shards(&self) -> usize {
        self.shards
    }

    /// All other shards, by index.
    pub fn peers(&self) -> impl Iterator<Item = ShardId> + use<R, C, F, D> {
        let own = self.shard;
        (0..self.shards).map(ShardId::from_index).filter(move |shard| *shard != own)
    }

    /// Sends a reply. `to` is another shard of the mesh.
    ///
    /// # Errors
    /// The lane is full; the message comes back.
    #[inline]
    pub fn try_send_reply(&mut self, to: ShardId, message: R) -> Result<(), R> {
        self.replies.try_send(to, message)?;
        self.doorbells.replies.insert(to);
        Ok(())
    }

    /// Sends a control message. `to` is another shard of the mesh.
    ///
    /// # Errors
    /// The lane is full; the message comes back.
    #[inline]
    pub fn try_send_control(&mut self, to: ShardId, message: C) -> Result<(), C> {
        self.control.try_send(to, message)?;
        self.doorbells.requests.insert(to);
        Ok(())
    }

    /// Sends a publication. `to` is another shard of the mesh.
    ///
    /// # Errors
    /// The lane is full; the message comes back.
    #[inline]
    pub fn try_send_forward(&mut self, to: ShardId, message: F) -> Result<(), F> {
        self.forward.try_send(to, message)?;
        self.doorbells.requests.insert(to);
        Ok(())
    }

    /// Sends a delivery. `to` is another shard of the mesh.
    ///
    /// # Errors
    /// The lane is full; the message comes back.
    #[inline]
    pub fn try_send_deliver(&mut self, to: ShardId, message: D) -> Result<(), D> {
        self.deliver.try_send(to, message)?;
        self.doorbells.requests.insert(to);
        Ok(())
    }

    /// Takes a reply from `from`, in the order of sending.
    #[inline]
    pub fn recv_reply(&mut self, from: ShardId) -> Option<R> {
        self.replies.recv(from)
    }

    /// Takes a control message from `from`, in the order of sending.
    #[inline]
    pub fn recv_control(&mut self, from: ShardId) -> Option<C> {
        self.control.recv(from)
    }

    /// Takes a publication from `from`, in the order of sending.
    #[inline]
    pub fn recv_forward(&mut self, from: ShardId) -> Option<F> {
        self.forward.recv(from)
    }

    /// Takes a delivery from `from`, in the order of sending.
    #[inline]
    pub fn recv_deliver(&mut self, from: ShardId) -> Option<D> {
        self.deliver.recv(from)
    }

    /// What [`recv_reply`](Self::recv_reply) would take.
    pub fn peek_reply(&self, from: ShardId) -> Option<&R> {
        self.replies.peek(from)
    }

    /// What [`recv_control`](Self::recv_control) would take.
    pub fn peek_control(&self, from: ShardId) -> Option<&C> {
        self.control.peek(from)
    }

    /// What [`recv_forward`](Self::recv_forward) would take.
    pub fn peek_forward(&self, from: ShardId) -> Option<&F> {
        self.forward.peek(from)
    }

    /// What [`recv_deliver`](Self::recv_deliver) would take.
    pub fn peek_deliver(&self, from: ShardId) -> Option<&D> {
        self.deliver.peek(from)
    }

    /// How many replies can be sent to `to` before the lane is full; it may be more by then.
    pub fn slots_free_reply(&self, to: ShardId) -> usize {
        self.replies.slots_free(to)
    }

    /// How many control messages can be sent to `to` before the lane is full; it may be more by then.
    pub fn slots_free_control(&self, to: ShardId) -> usize {
        self.control.slots_free(to)
    }

    /// How many publications can be sent to `to` before the lane is full; it may be more by then.
    pub fn slots_free_forward(&self, to: ShardId) -> usize {
        self.forward.slots_free(to)
    }

    /// How many deliveries can be sent to `to` before the lane is full; it may be more by then.
    pub fn slots_free_deliver(&self, to: ShardId) -> usize {
        self.deliver.slots_free(to)
    }

    /// How many replies from `from` wait here; it may be more by then.
    pub fn slots_used_reply(&self, from: ShardId) -> usize {
        self.replies.slots_used(from)
    }

    /// How many control messages from `from` wait here; it may be more by then.
    pub fn slots_used_control(&self, from: ShardId) -> usize {
        self.control.slots_used(from)
    }

    /// How many publications from `from` wait here; it may be more by then.
    pub fn slots_used_forward(&self, from: ShardId) -> usize {
        self.forward.slots_used(from)
    }

    /// How many deliveries from `from` wait here; it may be more by then.
    pub fn slots_used_deliver(&self, from: ShardId) -> usize {
        self.deliver.slots_used(from)
    }

    /// The peers to whom something was sent since the last call. [`Doorbells::to_ring`] says who of them sleeps.
    pub fn take_doorbells(&mut self) -> Doorbells {
        std::mem::take(&mut self.doorbells)
    }

    /// A full lane: its reader must come, whatever it sleeps for.
    pub fn urge(&mut self, to: ShardId) {
        self.doorbells.requests.insert(to);
    }

    /// Whether a message waits in any lane from any peer.
    pub fn has_incoming(&self) -> bool {
        self.replies.has_incoming()
            || self.control.has_incoming()
            || self.forward.has_incoming()
            || self.deliver.has_incoming()
    }
}

impl<R, C, F, D> std::fmt::Debug for Mailbox<R, C, F, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox")
            .field("shard", &self.shard)
            .field("shards", &self.shards)
            .field("doorbells", &self.doorbells)
            .finish_non_exhaustive()
    }
}
