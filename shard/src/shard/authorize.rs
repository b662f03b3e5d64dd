//! Permission for single packets: asked of a side thread, with the connection's later packets held until the answer.
//!
//! Only clients whose [`Permissions`] are `Ask` come here; for the others the question costs one comparison.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quelea_mqtt::{Packet, Publish, QoS, ReasonCode, Sender};

use crate::envelope::{LinkKey, SessionKey};
use crate::link::Asked;

use super::{Action, Request, RequestId, Shard, Work};

impl Shard {
    /// Asks whether a client may do what a packet says. `false` if the packet needs no permission.
    ///
    /// # Errors
    /// A publication beyond our Receive Maximum: it counts whether it is allowed or not.
    pub(super) fn ask_permission(
        &mut self,
        key: LinkKey,
        session: SessionKey,
        packet: &Packet<'_>,
        bytes: &[u8],
    ) -> Result<bool, ReasonCode> {
        let mut counts = false;
        let action = match packet {
            Packet::Publish(publish) => match self.published_topic(key, publish) {
                Some(topic) => {
                    counts = self.count_in_flight(key, session, publish)?;
                    Action::Publish { topic, retain: publish.retain }
                }
                // An alias that means nothing: refused on its own account.
                None => return Ok(false),
            },
            Packet::Subscribe(subscribe) => {
                Action::Subscribe { filters: subscribe.filters().map(|filter| filter.raw.into()).collect() }
            }
            _ => return Ok(false),
        };
        let client_id = Arc::clone(&self.sessions[session].identity.client_id);
        self.links[key].asked = Some(Asked { packet: Bytes::copy_from_slice(bytes), counts });
        self.requests.push_back(Request { id: RequestId(key), work: Work::Authorize { client_id, action } });
        Ok(true)
    }

    /// QoS 2 that is in progress already was allowed when it came first.
    fn is_repeated(&self, session: SessionKey, publish: &Publish<'_>) -> bool {
        publish.qos == QoS::ExactlyOnce
            && publish.packet_id.is_some_and(|id| self.sessions[session].inbound.contains(id))
    }

    fn published_topic(&mut self, key: LinkKey, publish: &Publish<'_>) -> Option<Box<str>> {
        if let Some(topic) = publish.topic {
            if let Some(alias) = publish.properties.topic_alias {
                // Denied or not, the alias is set.
                let limits = self.settings.aliases_in();
                self.links[key].aliases_in.learn(alias.get(), topic.as_str(), limits).ok()?;
            }
            return Some(topic.as_str().into());
        }
        let alias = publish.properties.topic_alias?;
        self.links[key].aliases_in.topic(alias.get()).map(Into::into)
    }

    /// The answer: the packet is carried out, as far as it is allowed; then those behind it.
    pub(super) fn authorized(&mut self, now: Instant, key: LinkKey, verdicts: &[bool]) {
        let Some(link) = self.links.get_mut(key) else { return };
        let Some(Asked { packet, counts }) = link.asked.take() else { return };
        let Some(session) = link.session() else { return };
        let packet = quelea_mqtt::decode(&packet, link.version, Sender::Client, &self.settings.packet);
        let outcome = match packet.expect("decoded before it was asked for") {
            Packet::Subscribe(subscribe) => {
                self.on_subscribe(now, key, session, &subscribe, verdicts);
                Ok(())
            }
            Packet::Publish(publish)
                if !verdicts.first().copied().unwrap_or(false) && !self.is_repeated(session, &publish) =>
            {
                self.deny_publish(now, key, &publish, counts);
                Ok(())
            }
            Packet::Publish(publish) => self.on_publish(now, key, session, &publish, counts),
            packet => self.on_packet(now, key, session, packet),
        };
        if let Err(reason) = outcome {
            self.refuse_packet(now, key, reason);
        }
        self.resume_input(now, key);
    }

    /// A publication that is not allowed: QoS 1 and 2 hear so in MQTT 5; it is counted in any case. `counts` says whether
    /// it counts against our Receive Maximum already.
    pub(super) fn deny_publish(&mut self, now: Instant, key: LinkKey, publish: &Publish<'_>, counts: bool) {
        self.counters.denied += 1;
        let Some(id) = publish.packet_id else { return };
        let link = &mut self.links[key];
        link.received_in_flight = link.received_in_flight.saturating_add(u16::from(!counts));
        let number = link.acks.push(id, publish.qos);
        self.settle_ack(key, number, ReasonCode::NOT_AUTHORIZED);
        self.send_acks(now, key);
    }
}
