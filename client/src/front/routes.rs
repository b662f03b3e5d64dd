//! Which subscription gets a message.
//!
//! A message with subscription identifiers (MQTT 5) goes to exactly those subscriptions, one without to all whose filters match,
//! and one that nobody wants to the inbox, if there is one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quelea_mqtt::{QoS, SUBSCRIPTION_ID_MAX, SubscribeFilter, TopicName};
use smallvec::SmallVec;
use tokio::sync::mpsc;

use super::error::Error;
use super::subscription::Delivery;
use crate::core::{Message, Refusal, Subscribe, Text};

/// The subscriptions of one client, by number; at most `SUBSCRIPTIONS_MAX`.
pub(super) struct Routes {
    routes: BTreeMap<u32, Route>,
    inbox: Option<Queue>,
    next_id: u32,
    levels_max: usize,
}

/// One subscription.
pub(super) struct Route {
    /// The packet, to be sent again when the server has lost the session.
    pub(super) subscribe: Subscribe,
    pub(super) queue: Queue,
    /// The server has granted it.
    pub(super) granted: bool,
}

/// The sending end of a subscription.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub(super) sender: mpsc::Sender<Delivery>,
    pub(super) dropped: Arc<AtomicU64>,
    /// Places that QoS 0 leaves free for QoS 1 and 2.
    pub(super) reserved: usize,
}

/// What became of a message at one queue.
pub(super) enum Offered {
    Taken,
    /// It has to wait for room.
    Waits(Delivery),
    /// Nobody reads any more.
    Gone,
}

impl Queue {
    pub(super) fn new(bounds: QueueBounds) -> (Self, mpsc::Receiver<Delivery>) {
        let (sender, receiver) = mpsc::channel(bounds.messages_max.max(1) + bounds.reserved);
        (Self { sender, dropped: Arc::new(AtomicU64::new(0)), reserved: bounds.reserved }, receiver)
    }

    pub(super) fn offer(&self, delivery: Delivery) -> Offered {
        if delivery.message.qos == QoS::AtMostOnce && self.sender.capacity() <= self.reserved {
            if self.sender.is_closed() {
                return Offered::Gone;
            }
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return Offered::Taken;
        }
        match self.sender.try_send(delivery) {
            Ok(()) => Offered::Taken,
            Err(mpsc::error::TrySendError::Full(delivery)) => Offered::Waits(delivery),
            Err(mpsc::error::TrySendError::Closed(_)) => Offered::Gone,
        }
    }
}

/// How long a queue may get.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueBounds {
    pub(super) messages_max: usize,
    pub(super) reserved: usize,
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Receiver {
    Route(u32),
    Inbox,
}

impl Routes {
    pub(super) fn new(levels_max: usize, inbox: Option<Queue>) -> Self {
        Self { routes: BTreeMap::new(), inbox, next_id: 1, levels_max }
    }

    /// The number that the next subscription gets.
    pub(super) fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Another subscription.
    pub(super) fn insert(&mut self, subscribe: Subscribe, queue: Queue) -> Result<u32, Error> {
        let is_known = |filter: &Text| self.routes.values().any(|route| route.has_filter(filter));
        if subscribe.subscriptions.iter().any(|one| is_known(&one.filter)) {
            // The server would replace the first by the second.
            return Err(Error::AlreadySubscribed);
        }
        if self.routes.len() >= SUBSCRIPTIONS_MAX || self.next_id > SUBSCRIPTION_ID_MAX {
            return Err(Error::Client(Refusal::Full));
        }
        let id = self.next_id;
        self.next_id += 1;
        self.routes.insert(id, Route { subscribe, queue, granted: false });
        Ok(id)
    }

    pub(super) fn get(&self, id: u32) -> Option<&Route> {
        self.routes.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Route> {
        self.routes.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Route> {
        self.routes.remove(&id)
    }

    pub(super) fn queue(&self, receiver: Receiver) -> Option<&Queue> {
        match receiver {
            Receiver::Route(id) => self.routes.get(&id).map(|route| &route.queue),
            Receiver::Inbox => self.inbox.as_ref(),
        }
    }

    /// All subscriptions that were granted.
    pub(super) fn granted(&self) -> impl Iterator<Item = u32> + '_ {
        self.routes.iter().filter(|(_, route)| route.granted).map(|(id, _)| *id)
    }

    /// Who gets this message, each once, however often a server names it; empty if nobody wants it.
    pub(super) fn receivers(&self, message: &Message) -> SmallVec<[Receiver; 2]> {
        let named = message.subscription_ids.iter().filter(|id| self.routes.contains_key(id));
        let mut receivers: SmallVec<[Receiver; 2]> = named.map(|id| Receiver::Route(*id)).collect();
        receivers.sort_unstable();
        receivers.dedup();
        if receivers.is_empty()
            && let Ok(topic) = TopicName::new(&message.topic, self.levels_max)
        {
            let matching = self.routes.iter().filter(|(_, route)| route.matches(topic, self.levels_max));
            receivers.extend(matching.map(|(id, _)| Receiver::Route(*id)));
        }
        if receivers.is_empty() && self.inbox.is_some() {
            receivers.push(Receiver::Inbox);
        }
        receivers
    }
}

impl Route {
    fn has_filter(&self, filter: &Text) -> bool {
        self.subscribe.subscriptions.iter().any(|one| one.filter == *filter)
    }

    fn matches(&self, topic: TopicName<'_>, levels_max: usize) -> bool {
        self.subscribe.subscriptions.iter().any(|one| {
            SubscribeFilter::parse(&one.filter, levels_max).is_ok_and(|parsed| parsed.filter.matches(topic))
        })
    }
}

/// Subscriptions of one client.
const SUBSCRIPTIONS_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subscription_ids: &[u32]) -> Message {
        Message {
            topic: "t".into(),
            payload: bytes::Bytes::new(),
            qos: QoS::AtMostOnce,
            retain: false,
            dup: false,
            packet_id: None,
            ack: None,
            subscription_ids: subscription_ids.into(),
            properties: None,
        }
    }

    #[test]
    fn a_subscription_that_is_named_twice_gets_a_message_once() {
        let mut routes = Routes::new(128, None);
        let mut readers = Vec::new();
        let ids = ["t", "+"].map(|filter| {
            let (queue, reader) = Queue::new(QueueBounds { messages_max: 1, reserved: 0 });
            readers.push(reader);
            routes.insert(Subscribe::new(filter, QoS::AtMostOnce), queue).expect("room")
        });
        let (first, second) = (Receiver::Route(ids[0]), Receiver::Route(ids[1]));
        for (named, receivers) in [
            (vec![ids[0], ids[0]], vec![first]),
            (vec![ids[1], ids[0], ids[1], ids[0]], vec![first, second]),
            (vec![ids[1]; 500_000], vec![second]),
            (vec![77, 77], vec![first, second]),
            (vec![], vec![first, second]),
        ] {
            assert_eq!(routes.receivers(&message(&named)).to_vec(), receivers);
        }
    }
}
