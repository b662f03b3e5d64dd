//! What the application orders, on its way into the core. An order that finds no room waits, and no other is taken meanwhile.

use quelea_mqtt::{ReasonCode, Version};
use tokio::sync::oneshot;

use super::{Driver, Reply, answer, now};
use crate::core::{AckToken, Farewell, Refusal, Subscribe, Text};
use crate::front::client::{Control, Goodbye, Granted, PublishOrder};
use crate::front::error::Error;
use crate::front::routes::Queue;

impl Driver {
    pub(super) fn on_publish(&mut self, order: PublishOrder) {
        match self.core.publish(now(), &order.publish) {
            Ok(token) => {
                self.replies.insert(token, Reply::Publish(order.reply));
            }
            Err(Refusal::Full | Refusal::NotConnected) => self.waiting_publish = Some(order),
            Err(refusal) => answer(order.reply, Err(refusal.into())),
        }
    }

    pub(super) fn on_control(&mut self, control: Control) {
        match control {
            Control::Subscribe { subscribe, queue, reply } => self.on_subscribe(subscribe, queue, reply),
            Control::Unsubscribe { id, reply } => self.on_unsubscribe(id, reply),
            Control::Forget { id } => self.forget(id),
        }
    }

    pub(super) fn on_subscribe(
        &mut self,
        mut subscribe: Subscribe,
        queue: Queue,
        reply: oneshot::Sender<Result<Granted, Error>>,
    ) {
        let has_ids =
            self.core.options().version == Version::V5 && self.core.server().subscription_ids_available;
        let id = has_ids.then_some(self.routes.next_id());
        subscribe.subscription_id = id.and_then(std::num::NonZeroU32::new);
        // Registered before it is sent: messages may come before the answer.
        let id = match self.routes.insert(subscribe.clone(), queue.clone()) {
            Ok(id) => id,
            Err(error) => return answer(reply, Err(error)),
        };
        match self.core.subscribe(now(), &subscribe) {
            Ok(token) => {
                self.replies.insert(token, Reply::Subscribe { id, reply });
            }
            Err(refusal) => {
                self.routes.remove(id);
                if matches!(refusal, Refusal::Full | Refusal::NotConnected) {
                    self.waiting_control = Some(Control::Subscribe { subscribe, queue, reply });
                } else {
                    answer(reply, Err(refusal.into()));
                }
            }
        }
    }

    /// False: the core has no room.
    pub(super) fn resubscribe(&mut self, id: u32) -> bool {
        let Some(route) = self.routes.get(id) else { return true };
        match self.core.subscribe(now(), &route.subscribe) {
            Ok(token) => {
                self.replies.insert(token, Reply::Resubscribe { id });
                true
            }
            Err(Refusal::Full | Refusal::NotConnected) => false,
            // This server does not support what the last one did: the subscription ends.
            Err(_) => {
                self.routes.remove(id);
                true
            }
        }
    }

    pub(super) fn on_unsubscribe(&mut self, id: u32, reply: oneshot::Sender<Result<(), Error>>) {
        let Some(route) = self.routes.get(id) else { return answer(reply, Ok(())) };
        match self.core.unsubscribe(now(), &filters_of(&route.subscribe)) {
            Ok(token) => {
                self.routes.remove(id);
                self.replies.insert(token, Reply::Unsubscribe(reply));
            }
            Err(Refusal::Full | Refusal::NotConnected) => {
                self.waiting_control = Some(Control::Unsubscribe { id, reply });
            }
            Err(refusal) => answer(reply, Err(refusal.into())),
        }
    }

    /// The application has taken a message, or has said so itself.
    pub(super) fn on_ack(&mut self, token: AckToken) {
        match self.core.ack(now(), token) {
            // Stale: its connection ended meanwhile, and the server delivers it again.
            Ok(()) | Err(_) => {}
        }
    }

    /// Nobody reads this subscription any more.
    pub(super) fn forget(&mut self, id: u32) {
        if let Some(route) = self.routes.remove(id) {
            self.to_unsubscribe.push_back(filters_of(&route.subscribe));
        }
    }

    pub(super) fn on_goodbye(&mut self, goodbye: Option<Goodbye>) {
        let (farewell, reply) = match goodbye {
            Some(goodbye) => (goodbye.farewell, Some(goodbye.reply)),
            None => (Farewell::from(ReasonCode::NORMAL_DISCONNECTION), None),
        };
        // What the application has taken is acknowledged before it leaves.
        while let Ok(token) = self.orders.acks.try_recv() {
            self.on_ack(token);
        }
        match self.core.disconnect(now(), farewell) {
            Ok(()) => {
                self.leaving = Some(reply);
                self.drop_stalled();
            }
            Err(refusal) => {
                if let Some(reply) = reply {
                    answer(reply, Err(refusal.into()));
                }
            }
        }
    }
}

fn filters_of(subscribe: &Subscribe) -> Vec<Text> {
    subscribe.subscriptions.iter().map(|one| one.filter.clone()).collect()
}
