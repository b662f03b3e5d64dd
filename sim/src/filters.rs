//! SUBSCRIBE and UNSUBSCRIBE with several filters in one packet: mixed QoS, filters that overlap, the same one twice,
//! shared ones among them, and some that nobody has asked for.

use quelea_client::{Refusal, Subscribe, Subscription, Text};
use quelea_mqtt::{ReasonCode, SubscribeFilter, TopicFilter, TopicName, Version};

use crate::actor::Asked;
use crate::world::World;

impl World {
    /// More filters for a packet that begins with this one.
    pub(crate) fn fill_packet(&mut self, actor: usize, first: Subscription) -> Vec<Subscription> {
        let mut packet = vec![first];
        for _ in 1..self.random.usize(1..=self.plan.habits.filters_max) {
            let next = match self.percent(AGAIN_PERCENT) {
                // With other options: the last one counts.
                true => {
                    let filter = packet[self.random.usize(0..packet.len())].filter.clone();
                    let mut again = self.draw_subscription(actor);
                    if filter.starts_with("$share/") != again.filter.starts_with("$share/") {
                        continue;
                    }
                    again.filter = filter;
                    again
                }
                false => self.draw_subscription(actor),
            };
            if packet.iter().all(|other| self.can_be_told_apart(other, &next)) {
                packet.push(next);
            }
        }
        packet
    }

    /// All filters of a packet have one identifier, so nothing tells whether a message that comes for it comes for a
    /// shared filter or for another one: they may not match the same.
    fn can_be_told_apart(&self, one: &Subscription, other: &Subscription) -> bool {
        let parse =
            |filter| SubscribeFilter::parse(filter, usize::MAX).expect("filters of the profile are filters");
        let (a, b) = (parse(&one.filter), parse(&other.filter));
        if one.filter == other.filter || !a.is_shared() && !b.is_shared() {
            return true;
        }
        let topics = (0..self.plan.habits.topics).map(|topic| format!("t/{topic}"));
        !topics.into_iter().any(|topic| {
            let topic = TopicName::new(&topic, usize::MAX).expect("topics of the profile are topics");
            TopicFilter::matches(a.filter, topic) && TopicFilter::matches(b.filter, topic)
        })
    }

    /// Sends a SUBSCRIBE.
    pub(crate) fn subscribe_to(&mut self, actor: usize, packet: Vec<Subscription>) {
        let player = &mut self.actors[actor];
        let id = (player.character.version == Version::V5).then_some(player.next_subscription_id);
        let subscribe = Subscribe {
            subscriptions: packet.clone(),
            subscription_id: id.and_then(std::num::NonZeroU32::new),
            user_properties: Vec::new(),
        };
        match player.core.subscribe(self.now, &subscribe) {
            Ok(token) => {
                player.next_subscription_id += 1;
                let mut numbers = Vec::new();
                for asked in packet {
                    self.tell(|| {
                        format!("client {actor} subscribes to {} ({:?})", asked.filter, asked.options)
                    });
                    numbers.push(self.oracle.on_subscribe(actor, self.broker_now(), asked, id));
                }
                self.actors[actor].requests.insert(token, Asked::Subscribe(numbers));
            }
            Err(Refusal::Full) => {}
            Err(refusal) => self.oracle.accuse(format!("client {actor} may not subscribe: {refusal}")),
        }
    }

    /// Gives filters up.
    pub(crate) fn unsubscribe(&mut self, actor: usize) {
        let open = self.oracle.open_filters(actor);
        if open.is_empty() {
            return;
        }
        let mut filters = vec![open[self.random.usize(0..open.len())].clone()];
        let most = self.plan.habits.filters_max;
        if most > 1 {
            for _ in 1..self.random.usize(1..=most) {
                filters.push(match self.percent(UNKNOWN_PERCENT) {
                    true => format!("{UNKNOWN}{}", self.random.u8(..)).into(),
                    false => open[self.random.usize(0..open.len())].clone(),
                });
            }
        }
        match self.actors[actor].core.unsubscribe(self.now, &filters) {
            Ok(token) => {
                self.tell(|| format!("client {actor} unsubscribes from {}", filters.join(", ")));
                let numbered = filters.into_iter().map(|filter| {
                    let number = self.oracle.on_unsubscribe(actor, &filter);
                    (filter, number)
                });
                let asked = Asked::Unsubscribe(numbered.collect());
                self.actors[actor].requests.insert(token, asked);
            }
            Err(Refusal::Full) => {}
            Err(refusal) => self.oracle.accuse(format!("client {actor} may not unsubscribe: {refusal}")),
        }
    }

    /// UNSUBACK: before MQTT 5 it says nothing of single filters.
    pub(crate) fn on_unsubscribed(
        &mut self,
        actor: usize,
        filters: &[(Text, usize)],
        reasons: &[ReasonCode],
    ) {
        let v5 = self.actors[actor].character.version == Version::V5;
        if v5 && reasons.len() != filters.len() {
            self.oracle.accuse(format!("UNSUBACK says {reasons:?} to {} filters", filters.len()));
        }
        for (at, (filter, number)) in filters.iter().enumerate() {
            self.tell(|| format!("client {actor} is unsubscribed from {filter}"));
            let reason = reasons.get(at).copied().filter(|_| v5);
            let is_unknown = filter.starts_with(UNKNOWN);
            let right = match reason {
                Some(reason) if is_unknown => reason == ReasonCode::NO_SUBSCRIPTION_EXISTED,
                Some(reason) => !reason.is_error(),
                None => true,
            };
            if !right {
                self.oracle.accuse(format!("client {actor} gave up {filter}, and UNSUBACK says {reason:?}"));
            }
            self.oracle.on_unsuback(actor, filter, *number, self.broker_now());
        }
    }
}

/// Percent of filters that stand in the packet already.
const AGAIN_PERCENT: u32 = 15;

/// Percent of filters given up that nobody has asked for, and how they begin.
const UNKNOWN_PERCENT: u32 = 10;
const UNKNOWN: &str = "never/";
