//! What the core reports, on its way to whoever waits for it.

use std::sync::Arc;

use quelea_mqtt::ReasonCode;
use smallvec::SmallVec;

use super::{Driver, Reply, answer};
use crate::core::{Closed, Event, Message, Token};
use crate::front::client::{Granted, State};
use crate::front::error::Error;
use crate::front::routes::{Offered, Receiver};
use crate::front::subscription::{Delivery, PendingAck};

impl Driver {
    pub(super) fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected { session_present, server, .. } => {
                if !session_present {
                    self.to_subscribe = self.routes.granted().collect();
                }
                self.state.send_replace(State::Connected { session_present, server: Arc::from(server) });
            }
            Event::Refused { reason, detail } => self.end = Some(Error::Refused { reason, detail }),
            Event::Message(message) => self.deliver(message),
            Event::PublishDone { token, reason } => {
                if let Some(Reply::Publish(reply)) = self.replies.remove(&token) {
                    answer(
                        reply,
                        if reason.is_error() { Err(Error::NotGranted(reason)) } else { Ok(reason) },
                    );
                }
            }
            Event::Subscribed { token, reasons } => self.on_subscribed(token, reasons),
            Event::Unsubscribed { token, .. } => {
                if let Some(Reply::Unsubscribe(reply)) = self.replies.remove(&token) {
                    answer(reply, Ok(()));
                }
            }
            Event::Lost { token } => self.on_lost(token),
            // Without an authentication method in the options the core lets no AUTH through.
            Event::Pong | Event::Auth { .. } => {}
            Event::Disconnected(closed) => {
                let broken = self.broken.take().filter(|_| closed == Closed::Transport);
                self.end = Some(broken.unwrap_or(Error::Closed(closed)));
            }
        }
    }

    pub(super) fn on_subscribed(&mut self, token: Token, reasons: SmallVec<[ReasonCode; 8]>) {
        let refused = reasons.iter().all(|reason| reason.is_error());
        let first = reasons.first().copied().unwrap_or(ReasonCode::UNSPECIFIED_ERROR);
        match self.replies.remove(&token) {
            Some(Reply::Subscribe { id, reply }) if refused => {
                self.routes.remove(id);
                answer(reply, Err(Error::NotGranted(first)));
            }
            Some(Reply::Subscribe { id, reply }) => {
                if let Some(route) = self.routes.get_mut(id) {
                    route.granted = true;
                }
                if reply.send(Ok(Granted { id, reasons })).is_err() {
                    self.forget(id);
                }
            }
            // The subscription ends: its queue is closed from this side.
            Some(Reply::Resubscribe { id }) if refused => drop(self.routes.remove(id)),
            _ => {}
        }
    }

    pub(super) fn on_lost(&mut self, token: Token) {
        match self.replies.remove(&token) {
            Some(Reply::Publish(reply)) => answer(reply, Err(Error::Lost)),
            Some(Reply::Subscribe { id, reply }) => {
                // The server may have it: if the session lives on, it is taken back.
                self.forget(id);
                answer(reply, Err(Error::Lost));
            }
            Some(Reply::Resubscribe { id }) => self.to_subscribe.push_back(id),
            Some(Reply::Unsubscribe(reply)) => answer(reply, Err(Error::Lost)),
            Some(Reply::Forget(filters)) => self.to_unsubscribe.push_back(filters),
            None => {}
        }
    }

    pub(super) fn deliver(&mut self, mut message: Message) {
        let receivers = self.routes.receivers(&message);
        let token = if self.manual { message.ack } else { message.ack.take() };
        let ack = token.map(|token| Arc::new(PendingAck::new(token, self.acks.clone(), self.manual)));
        for receiver in receivers {
            self.offer(receiver, Delivery { message: message.clone(), ack: ack.clone() });
        }
    }

    pub(super) fn deliver_stalled(&mut self) {
        for (receiver, delivery) in std::mem::take(&mut self.stalled) {
            self.offer(receiver, delivery);
        }
    }

    pub(super) fn offer(&mut self, receiver: Receiver, delivery: Delivery) {
        let Some(queue) = self.routes.queue(receiver) else { return };
        // Behind those that wait already, or their order would be lost.
        let is_behind = self.stalled.iter().any(|(waiting, _)| *waiting == receiver);
        let offered = if is_behind { Offered::Waits(delivery) } else { queue.offer(delivery) };
        match offered {
            Offered::Taken => {}
            Offered::Waits(delivery) => self.stalled.push_back((receiver, delivery)),
            Offered::Gone => {
                if let Receiver::Route(id) = receiver {
                    self.forget(id);
                }
            }
        }
    }

    /// The application leaves: what it could not take is not acknowledged, so that a session that lives on delivers it again.
    pub(super) fn drop_stalled(&mut self) {
        for (_, delivery) in self.stalled.drain(..) {
            delivery.disarm();
        }
    }
}
