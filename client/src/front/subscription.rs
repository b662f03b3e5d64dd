//! Where messages wait for the application.
//!
//! The queue of a subscription is bounded. A QoS 1 or 2 message is acknowledged when the application takes it, so a slow reader is
//! back-pressure: the server stops at our Receive Maximum (MQTT 5), or the transport is no longer read (MQTT 3.x). A QoS 0 message
//! that finds the queue full is dropped and counted.
//!
//! While the transport is not read, answers are not read either: with a server that has more in flight than
//! `queue_messages_max` plus the Receive Maximum, a task that takes messages must not wait for a publication in between. MQTT 5
//! servers that honour the Receive Maximum never get there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quelea_mqtt::ReasonCode;
use smallvec::SmallVec;
use tokio::sync::mpsc;

use super::client::{Client, Control};
use super::error::Error;
use crate::core::{AckToken, Message, Text};

/// A subscription, or an inbox: a bounded queue of messages. Dropping it unsubscribes.
#[derive(Debug)]
pub struct Subscription {
    pub(super) queue: mpsc::Receiver<Delivery>,
    pub(super) dropped: Arc<AtomicU64>,
    pub(super) filters: Vec<Text>,
    pub(super) reasons: SmallVec<[ReasonCode; 8]>,
    /// `None` for an inbox, which has nothing to unsubscribe.
    pub(super) owner: Option<Owner>,
}

/// Which subscription of which client.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) client: Client,
    pub(super) id: u32,
}

impl Subscription {
    /// The next message; `None` when the client is closed or the server no longer grants the subscription. Cancel safe.
    ///
    /// Taking a message acknowledges it, unless the options say [`Acks::Manual`](crate::Acks::Manual).
    pub async fn recv(&mut self) -> Option<Message> {
        let delivery = self.queue.recv().await?;
        if let Some(ack) = &delivery.ack {
            ack.on_taken();
        }
        Some(delivery.message)
    }

    /// What the server granted, filter by filter.
    pub fn reasons(&self) -> &[ReasonCode] {
        &self.reasons
    }

    /// The filters; none for an inbox.
    pub fn filters(&self) -> &[Text] {
        &self.filters
    }

    /// QoS 0 messages dropped because nobody took the ones before.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Unsubscribes and waits for the answer; what waits in the queue is dropped.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn unsubscribe(mut self) -> Result<(), Error> {
        let Some(owner) = self.owner.take() else { return Ok(()) };
        owner.client.unsubscribe(owner.id).await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(owner) = &self.owner {
            // Where there is no room the next message for this subscription finds its queue closed, which does the same.
            let _ = owner.client.controls.try_send(Control::Forget { id: owner.id });
        }
    }
}

/// A message on its way to the application.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) message: Message,
    pub(super) ack: Option<Arc<PendingAck>>,
}

impl Delivery {
    /// It is dropped, but not because the application wanted that: the server keeps it.
    pub(super) fn disarm(&self) {
        if let Some(ack) = &self.ack {
            ack.armed.store(false, Ordering::Relaxed);
        }
    }
}

/// Acknowledges when the last subscription that has the message has taken or dropped it.
#[derive(Debug)]
pub(super) struct PendingAck {
    token: AckToken,
    acks: mpsc::Sender<AckToken>,
    /// The application acknowledges what it has taken.
    manual: bool,
    armed: AtomicBool,
}

impl PendingAck {
    pub(super) fn new(token: AckToken, acks: mpsc::Sender<AckToken>, manual: bool) -> Self {
        Self { token, acks, manual, armed: AtomicBool::new(true) }
    }

    fn on_taken(&self) {
        if self.manual {
            self.armed.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for PendingAck {
    fn drop(&mut self) {
        if *self.armed.get_mut() {
            // The queue has a place for every packet identifier; an error means that the client is gone, and with it the debt.
            let _ = self.acks.try_send(self.token);
        }
    }
}
