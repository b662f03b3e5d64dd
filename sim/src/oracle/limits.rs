//! What follows from limits that are reached: who is refused and with which reason, and that what was refused went nowhere.

use quelea_client::Text;
use quelea_mqtt::ReasonCode;

use super::{Oracle, PubId, Publication, Subscription};

impl Oracle {
    /// How many filters of a session may count when a SUBSCRIBE of this one comes to the broker: all that were sent before and
    /// are not known to be gone.
    pub(super) fn rivals(&self, actor: usize, filter: &Text) -> usize {
        let open = |sub: &&Subscription| sub.closed.is_none() && sub.asked.filter != *filter;
        let mut others: Vec<&Text> = self.present[actor]
            .iter()
            .map(|number| &self.subscriptions[*number])
            .filter(open)
            .map(|sub| &sub.asked.filter)
            .collect();
        others.sort_unstable();
        others.dedup();
        others.len()
    }

    /// SUBACK refuses: because there are too many subscriptions, too many groups, or too much in memory.
    pub(super) fn judge_refused_subscription(&mut self, number: usize, reason: ReasonCode) {
        let sub = &self.subscriptions[number];
        let too_many = self.limits.subscriptions.is_some_and(|most| sub.rivals >= most)
            || sub.is_shared() && self.limits.groups.is_some()
            || self.limits.memory_bytes.is_some();
        let right = match sub.id {
            Some(_) => reason == ReasonCode::QUOTA_EXCEEDED,
            // Before MQTT 5 there is one failure.
            None => reason == ReasonCode::UNSPECIFIED_ERROR,
        };
        if !too_many || !right {
            let (actor, filter, rivals) = (sub.actor, &sub.asked.filter, sub.rivals);
            self.accuse(format!(
                "client {actor} asked for {filter} beside {rivals} filters and is refused for no reason: {reason}"
            ));
        }
    }

    /// A publication is done: it was refused only for lack of room.
    pub(crate) fn judge_publish_reason(&mut self, id: PubId, reason: ReasonCode) {
        let publication = &self.publications[id.0 as usize];
        let full = self.limits.may_refuse(publication.retain);
        let right = match reason {
            ReasonCode::QUOTA_EXCEEDED => full,
            // The PUBCOMP before was lost with its connection.
            ReasonCode::PACKET_IDENTIFIER_NOT_FOUND => publication.repeated,
            _ => !reason.is_error(),
        };
        if !right {
            self.accuse(format!("publication {} is refused for no reason: {reason}", id.0));
        }
    }

    /// What was refused went to nobody.
    pub(super) fn judge_refused(&mut self) {
        let refused = |publication: &Publication| {
            let refused = publication.done.is_some_and(|(_, reason)| reason == ReasonCode::QUOTA_EXCEEDED);
            refused && !publication.repeated
        };
        let seen = |index: usize| {
            let to_client = self.seen.values().any(|seen| seen.get(index).is_some_and(|seen| seen.any > 0));
            to_client || self.seen_by_group.keys().any(|(_, id)| id.0 as usize == index)
        };
        let wrong =
            (0..self.publications.len()).find(|index| refused(&self.publications[*index]) && seen(*index));
        if let Some(index) = wrong {
            self.accuse(format!("publication {index} was refused, and came to somebody"));
        }
    }

    /// Of a message that is too large for a client, its packet is.
    pub(crate) fn judge_too_large(&mut self, id: PubId, packet_bytes_max: Option<u32>) {
        let publication = &self.publications[id.0 as usize];
        let most = publication.payload_bytes + publication.topic.len() + PUBLISH_REST_BYTES_MAX;
        if packet_bytes_max.is_none_or(|max| most <= max as usize) {
            self.accuse(format!(
                "publication {} was too large for a client that takes {packet_bytes_max:?}",
                id.0
            ));
        }
    }
}

/// A PUBLISH beside topic and payload: header, lengths, identifier, expiry, the properties in which an empty one has its name
/// (90 bytes), and the identifiers of thirty subscriptions.
const PUBLISH_REST_BYTES_MAX: usize = 220;
