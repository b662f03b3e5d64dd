//! A message on its way: immutable, shared by reference between sessions and shards, charged to memory once.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;

use quelea_mqtt::{Publish, PublishImage, QoS, TopicName, Will};

/// A publication behind its reference count: what queues and envelopes hold.
pub type Message = Arc<Publication>;

/// Who published: used only for No Local, so equality is all that it offers.
///
/// A hash of the client identifier under the node's secret: two clients would have to collide in 64 bits
/// that they cannot compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublisherId(pub u64);

/// One PUBLISH or Will, as every subscriber of every shard will see it.
#[derive(Debug)]
pub struct Publication {
    /// Topic, forwardable properties and payload in wire form, in one allocation.
    pub image: PublishImage,
    /// The QoS it was published with; each subscriber gets the lower of this and its own.
    pub qos: QoS,
    /// The RETAIN flag it was published with.
    pub retain: bool,
    /// When the Message Expiry Interval has passed `[MQTT-3.3.2-5]`.
    pub expires: Option<Instant>,
    /// Who published it.
    pub publisher: PublisherId,
    charge: Charge,
}

impl Publication {
    /// Copies a PUBLISH out of the receive buffer; `topic` is given apart because an alias may stand for it.
    pub fn from_publish(
        now: Instant,
        publish: &Publish<'_>,
        topic: TopicName<'_>,
        publisher: PublisherId,
        budget: &Budget,
    ) -> Message {
        let image = PublishImage::from_publish(publish, topic);
        let expires = expiry(now, publish.properties.message_expiry_s);
        let charge = budget.charge(image.charged_bytes() + ENTRY_BYTES);
        Arc::new(Self { image, qos: publish.qos, retain: publish.retain, expires, publisher, charge })
    }

    /// Becomes another publication; nobody else may hold this one.
    fn rewrite(&mut self, now: Instant, publish: &Publish<'_>, topic: TopicName<'_>, publisher: PublisherId) {
        self.image.rewrite_from_publish(publish, topic);
        self.qos = publish.qos;
        self.retain = publish.retain;
        self.expires = expiry(now, publish.properties.message_expiry_s);
        self.publisher = publisher;
        self.charge.recharge(self.image.charged_bytes() + ENTRY_BYTES);
    }

    /// Copies a Will out of a CONNECT. Its expiry starts when the Will is published, so it is kept apart.
    pub fn from_will(will: &Will<'_>, publisher: PublisherId, budget: &Budget) -> Self {
        let image = PublishImage::from_will(will);
        let charge = budget.charge(image.charged_bytes() + ENTRY_BYTES);
        Self { image, qos: will.qos, retain: will.retain, expires: None, publisher, charge }
    }

    /// Starts the Will's Message Expiry Interval at its publication `[MQTT-3.1.3.2.4]`.
    pub fn published_at(mut self, now: Instant, message_expiry_s: Option<u32>) -> Message {
        self.expires = expiry(now, message_expiry_s);
        Arc::new(self)
    }

    /// Whether the message may no longer be delivered.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// Seconds left of the Message Expiry Interval, as it is forwarded `[MQTT-3.3.2-6]`.
    pub fn expiry_left_s(&self, now: Instant) -> Option<u32> {
        let left = self.expires?.saturating_duration_since(now);
        // Rounded up: nothing leaves with an interval of zero, not even what is sent again after its time.
        Some(left.as_millis().div_ceil(1000).clamp(1, u128::from(u32::MAX)) as u32)
    }

    /// Bytes that one queue entry of this message stands for.
    pub fn bytes(&self) -> usize {
        self.charge.bytes
    }
}

/// Publications that everybody has, for the next ones to be written into.
///
/// Only QoS 0, which is mostly written to all its receivers before the next packet is read: what waits somewhere is not
/// given back here, and is freed by whoever holds it last. Nothing is charged for those that lie here; they are few and
/// small.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    free: Vec<Message>,
}

impl Spares {
    /// Copies a PUBLISH out of the receive buffer, into a spare if there is one.
    pub(crate) fn publication(
        &mut self,
        now: Instant,
        publish: &Publish<'_>,
        topic: TopicName<'_>,
        publisher: PublisherId,
        budget: &Budget,
    ) -> Message {
        let fits = publish.qos == QoS::AtMostOnce
            && !publish.retain
            && topic.as_str().len() + publish.payload.len() <= SPARE_IMAGE_BYTES_MAX;
        if fits && let Some(mut spare) = self.free.pop() {
            let publication = Arc::get_mut(&mut spare).expect("a spare is held by nobody else");
            publication.rewrite(now, publish, topic, publisher);
            return spare;
        }
        Publication::from_publish(now, publish, topic, publisher, budget)
    }

    /// Takes back a publication of this shard, if it is worth keeping and nobody else holds it.
    pub(crate) fn give(&mut self, mut message: Message) {
        let wanted = message.qos == QoS::AtMostOnce && self.free.len() < SPARES_MAX;
        if wanted
            && let Some(publication) = Arc::get_mut(&mut message)
            && publication.image.charged_bytes() <= SPARE_IMAGE_BYTES_MAX
        {
            publication.charge.recharge(0);
            self.free.push(message);
        }
    }
}

fn expiry(now: Instant, seconds: Option<u32>) -> Option<Instant> {
    seconds.and_then(|s| now.checked_add(core::time::Duration::from_secs(u64::from(s))))
}

/// Bytes held on behalf of peers, counted by the shard that caused them and released by whoever drops last.
///
/// One counter per shard on a cache line of its own; relaxed, because it bounds memory and orders nothing.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    used: Arc<AtomicUsize>,
}

impl Budget {
    /// A budget with nothing charged.
    pub fn new() -> Self {
        Self::default()
    }

    /// Charges `bytes` until the guard is dropped.
    pub fn charge(&self, bytes: usize) -> Charge {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Charge { bytes, used: Arc::clone(&self.used) }
    }

    /// Changes what one buffer is charged with, from `before` to `after` bytes.
    pub fn recharge(&self, before: usize, after: usize) {
        if after >= before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Bytes charged now.
    pub fn used_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// Bytes charged to a [`Budget`], given back on drop.
#[derive(Debug)]
pub struct Charge {
    bytes: usize,
    used: Arc<AtomicUsize>,
}

impl Charge {
    /// Bytes charged now.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Charges so many bytes from now on.
    pub(crate) fn recharge(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            self.used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What a publication costs beside its image: the `Arc` and the queue entry that points to it.
const ENTRY_BYTES: usize = 160;

/// Spares of a shard. One is enough for what is delivered at once; more for what waits for the end of a turn.
const SPARES_MAX: usize = 32;

/// The largest image that is kept as a spare.
const SPARE_IMAGE_BYTES_MAX: usize = 1024;
