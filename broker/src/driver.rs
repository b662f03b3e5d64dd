//! The driver of one shard: the turn's clock, sockets and waiting, over a [`Ring`].
//!
//! ```text
//!            Ring ──Sink──► Input ──handle_*──► Shard
//!   doorbell ┘                                    │ poll_*
//!            Ring ◄── send, write, close ◄── RingDriver ◄── Turn
//!   orders ─────────────────────────────────► RingDriver   (taken when the bell has rung)
//! ```
//! Invariants: no wait is longer than the time to the next publication of counters, so a shard's heartbeat never stops;
//! an order is sent before the bell is rung for it, so it is seen at the next wake.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use crossbeam_channel::{Receiver, Sender};
use quelea_router::ShardSet;
use quelea_shard::door::DoorKindId;
use quelea_shard::quic::{Path, QuicListenerId, Transmit};
use quelea_shard::turn::Driver;
use quelea_shard::{
    Action, Completion, DoorAction, DoorEnd, DoorId as ShardDoor, Order, Permissions, Request, RequestId,
    Shard, Work,
};
use quelea_udp_io::{Close, Closed, Datagram, DoorId, Doorbell, ListenerId, Outgoing, Ring, Sink, UdpId};

/// What a shard's thread is told from outside.
pub(crate) enum ShardOrder {
    /// Send the clients away; say so when they have gone.
    Drain {
        /// Clients that are still there then are cut off.
        deadline: Instant,
        /// Told once.
        done: Sender<()>,
    },
    /// Publish the counters now.
    Publish(Sender<()>),
    /// End the thread.
    Stop,
}

/// One shard's side of the world.
pub(crate) struct RingDriver {
    ring: Ring,
    /// The sockets of the QUIC listeners, in their order.
    udp: Vec<UdpId>,
    /// With what is spoken on each.
    listeners: Vec<(ListenerId, DoorKindId)>,
    bells: Arc<[Doorbell]>,
    orders: Receiver<ShardOrder>,
    /// What the policy has answered, handed over before the next wait.
    answers: Vec<(RequestId, Completion)>,
    /// The end of the longest wait.
    pub(crate) awake_by: Instant,
    /// What [`ShardThread`](crate::shard_thread::ShardThread) is to do after the turn.
    pub(crate) asked: Asked,
}

/// Orders that concern more than the driver.
#[derive(Default)]
pub(crate) struct Asked {
    /// Who wants to know when the shard is drained.
    pub(crate) drained: Option<Sender<()>>,
    /// Who wants to know when the counters have been published.
    pub(crate) published: Vec<Sender<()>>,
    /// Whether to end.
    pub(crate) stop: bool,
}

/// A ring with its sockets, and what its driver shares with others.
pub(crate) struct DriverParts {
    pub(crate) ring: Ring,
    /// The sockets of the QUIC listeners, in their order.
    pub(crate) udp: Vec<UdpId>,
    pub(crate) listeners: Vec<ListenerId>,
    /// The bells of all shards, by index.
    pub(crate) bells: Arc<[Doorbell]>,
    pub(crate) orders: Receiver<ShardOrder>,
}

impl RingDriver {
    /// `kinds` says what is spoken on the listeners, in their order.
    pub(crate) fn new(parts: DriverParts, kinds: Vec<DoorKindId>, now: Instant) -> Self {
        let DriverParts { ring, udp, listeners, bells, orders } = parts;
        let listeners = listeners.into_iter().zip(kinds).collect();
        let (answers, asked) = (Vec::new(), Asked::default());
        Self { ring, udp, listeners, bells, orders, answers, awake_by: now, asked }
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    fn take_orders(&mut self, shard: &mut Shard) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                ShardOrder::Drain { deadline, done } => {
                    for (listener, _) in self.listeners.drain(..) {
                        self.ring.remove_listener(listener);
                    }
                    self.asked.drained = Some(done);
                    shard.handle_order(Instant::now(), Order::Drain { deadline });
                }
                ShardOrder::Publish(done) => self.asked.published.push(done),
                ShardOrder::Stop => self.asked.stop = true,
            }
        }
    }
}

impl Driver for RingDriver {
    fn now(&mut self) -> Instant {
        Instant::now()
    }

    fn receive(&mut self, shard: &mut Shard, until: Option<Instant>) {
        let now = Instant::now();
        let mut wait =
            until.map_or(self.awake_by, |until| until.min(self.awake_by)).saturating_duration_since(now);
        for (id, answer) in self.answers.drain(..) {
            shard.handle_completion(now, id, answer);
            wait = Duration::ZERO;
        }
        let mut input = Input { shard, udp: &self.udp, listeners: &self.listeners, now: None, rung: false };
        self.ring.poll(Some(wait), &mut input).expect("waiting on our own descriptors");
        if input.rung {
            self.take_orders(shard);
        }
    }

    fn transmit(&mut self, transmit: &Transmit, contents: &[u8]) {
        self.ring.send(&Outgoing {
            udp: self.udp[transmit.listener.index()],
            destination: transmit.destination,
            source: transmit.source,
            ecn: transmit.ecn,
            segment_bytes: transmit.segment_bytes,
            contents,
        });
    }

    fn door(&mut self, door: ShardDoor, action: DoorAction) {
        let door = DoorId::from(door.0);
        match action {
            DoorAction::Write(batch) => self.ring.write(door, batch),
            DoorAction::Pause => self.ring.pause_read(door),
            DoorAction::Resume => self.ring.resume_read(door),
            DoorAction::Finish => self.ring.close(door, Close::Flush),
            DoorAction::Abort => self.ring.close(door, Close::Abort),
        }
    }

    fn request(&mut self, request: Request) {
        let answer = match request.work {
            // The only policy there is: whoever can reach the broker may use it. The configuration has made sure that
            // this is meant.
            Work::Authenticate { .. } => Completion::Authenticated(Ok(Permissions::Everything)),
            Work::Authorize { action: Action::Publish { .. }, .. } => Completion::Authorized(vec![true]),
            Work::Authorize { action: Action::Subscribe { filters }, .. } => {
                Completion::Authorized(vec![true; filters.len()])
            }
        };
        self.answers.push((request.id, answer));
    }

    fn submit(&mut self, shard: &mut Shard) {
        self.ring.submit().expect("watching our own sockets");
        let (udp, listeners) = (&self.udp, &self.listeners);
        self.ring.reap(&mut Input { shard, udp, listeners, now: None, rung: false });
    }

    fn wake(&mut self, shards: ShardSet) {
        for shard in shards.iter() {
            self.ring.ring_bell(&self.bells[shard.index()]);
        }
    }
}

/// Hands one batch of input to the shard. The clock is read once per batch, after the wait.
struct Input<'a> {
    shard: &'a mut Shard,
    udp: &'a [UdpId],
    listeners: &'a [(ListenerId, DoorKindId)],
    now: Option<Instant>,
    rung: bool,
}

impl Input<'_> {
    fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(Instant::now)
    }
}

impl Sink for Input<'_> {
    fn datagram(&mut self, datagram: Datagram<'_>) {
        let known = self.udp.iter().position(|known| *known == datagram.udp);
        let listener = QuicListenerId::from_index(known.expect("every UDP socket is a listener's"));
        let from = Path { listener, peer: datagram.peer, local: datagram.local, ecn: datagram.ecn };
        let now = self.now();
        self.shard.handle_datagram(now, from, BytesMut::from(datagram.bytes));
    }

    fn opened(&mut self, door: DoorId, listener: ListenerId, peer: SocketAddr, _local: SocketAddr) {
        let now = self.now();
        let known = self.listeners.iter().find(|(known, _)| *known == listener);
        let (_, kind) = known.expect("nothing is accepted on a listener that was removed");
        self.shard.handle_door_opened(now, shard_door(door), peer, *kind);
    }

    fn bytes(&mut self, door: DoorId, bytes: &[u8]) {
        let now = self.now();
        self.shard.handle_door_bytes(now, shard_door(door), bytes);
    }

    fn closed(&mut self, door: DoorId, why: Closed) {
        let end = match why {
            Closed::EndOfStream | Closed::Flushed => DoorEnd::EndOfStream,
            Closed::Reset(_) => DoorEnd::Reset,
        };
        let now = self.now();
        self.shard.handle_door_closed(now, shard_door(door), end);
    }

    fn written(&mut self, door: DoorId) {
        let now = self.now();
        self.shard.handle_door_written(now, shard_door(door));
    }

    fn doorbell(&mut self) {
        self.rung = true;
    }
}

fn shard_door(door: DoorId) -> ShardDoor {
    ShardDoor(door.into())
}
