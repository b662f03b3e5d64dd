//! What must be true when all is quiet.

use std::collections::BTreeMap;
use std::time::Instant;

use quelea_client::Text;
use quelea_mqtt::QoS;

use super::{Oracle, PubId, Publication, Subscription};

/// Losses that the broker's counters admit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowance {
    /// Of messages for sessions.
    pub(crate) sessions: u64,
    /// Of messages for shared groups.
    pub(crate) groups: u64,
}

impl Oracle {
    /// All is quiet: were all promises kept? `retained` is what a probe has found.
    pub(crate) fn settle(&mut self, watcher: usize, allowance: Allowance, retained: &BTreeMap<Text, PubId>) {
        self.judge_unfinished();
        self.judge_missing(allowance);
        self.judge_groups(allowance);
        self.judge_wills(watcher);
        self.judge_store(retained);
    }

    /// Publications whose client is still there and waits.
    fn judge_unfinished(&mut self) {
        let waits = |publication: &Publication| {
            publication.qos > QoS::AtMostOnce && publication.will.is_none() && publication.done.is_none()
        };
        let lost = |publication: &Publication| publication.repeated;
        let first = self.publications.iter().position(|publication| waits(publication) && !lost(publication));
        if let Some(id) = first {
            self.accuse(format!("publication {id} was never acknowledged: {:?}", self.publications[id]));
        }
    }

    fn promised(&self, subscription: &Subscription, publication: &Publication) -> bool {
        let options = subscription.asked.options;
        let since = |granted: Instant| granted < publication.sent;
        publication.qos > QoS::AtMostOnce
            && publication.will.is_none()
            && publication.payload_bytes > 0
            && !publication.mortal
            && publication.is_accepted()
            && options.qos > QoS::AtMostOnce
            && subscription.granted.is_some_and(since)
            && !(options.no_local && publication.actor == subscription.actor)
    }

    /// The publications that a subscription must have seen.
    fn promised_to<'a>(&'a self, subscription: &'a Subscription) -> impl Iterator<Item = usize> + 'a {
        let wanted: Vec<bool> = self.topics.iter().map(|topic| subscription.matches(topic)).collect();
        let all = self.publications.iter().enumerate();
        all.filter(move |(index, publication)| {
            wanted[self.topic_of[*index]] && self.promised(subscription, publication)
        })
        .map(|(index, _)| index)
    }

    /// Subscriptions of sessions that live.
    fn living(&self, shared: bool) -> impl Iterator<Item = &Subscription> {
        self.subscriptions.iter().filter(move |sub| {
            let alive = sub.session == self.clients[sub.actor].session;
            alive && !sub.closing && sub.closed.is_none() && sub.is_shared() == shared
        })
    }

    fn judge_missing(&mut self, allowance: Allowance) {
        let mut missing: BTreeMap<(usize, PubId), &Subscription> = BTreeMap::new();
        for subscription in self.living(false) {
            for index in self.promised_to(subscription) {
                if self.seen(subscription.actor, subscription.session, index).any == 0 {
                    missing.insert((subscription.actor, PubId(index as u64)), subscription);
                }
            }
        }
        if missing.len() as u64 <= allowance.sessions {
            return;
        }
        let ((actor, id), subscription) = missing.iter().next().expect("more than allowed");
        let what = format!(
            "{} deliveries are missing, the counters admit {}: the first is publication {} by client {} \
             to client {actor}, who subscribed to {}",
            missing.len(),
            allowance.sessions,
            id.0,
            self.publications[id.0 as usize].actor,
            subscription.asked.filter,
        );
        self.accuse(what);
    }

    fn judge_groups(&mut self, allowance: Allowance) {
        let mut missing: BTreeMap<(Text, PubId), usize> = BTreeMap::new();
        for subscription in self.living(true) {
            for index in self.promised_to(subscription) {
                let key = (subscription.asked.filter.clone(), PubId(index as u64));
                if !self.seen_by_group.contains_key(&key) && !self.may_be_pinned(subscription, index) {
                    missing.insert(key, subscription.actor);
                }
            }
        }
        if missing.len() as u64 <= allowance.groups {
            return;
        }
        let ((filter, id), actor) = missing.iter().next().expect("more than allowed");
        let what = format!(
            "{} deliveries to shared groups are missing, the counters admit {}: the first is publication {} to {filter}, \
             of which client {actor} was a member all the time",
            missing.len(),
            allowance.groups,
            id.0,
        );
        self.accuse(what);
    }

    /// A QoS 2 message goes to no other member once it was sent to one, also if that one's session ends before the message
    /// has arrived `[MQTT-4.8.2-5]`: it may be lost with any session that was in the group since it was published.
    fn may_be_pinned(&self, subscription: &Subscription, index: usize) -> bool {
        let publication = &self.publications[index];
        publication.qos == QoS::ExactlyOnce
            && self.subscriptions.iter().any(|other| {
                other.asked.filter == subscription.asked.filter
                    && other.session != self.clients[other.actor].session
                    && other.closed.is_some_and(|closed| closed > publication.sent)
            })
    }

    /// What is retained on each topic was not replaced by anything that was sent after it was acknowledged.
    fn judge_store(&mut self, retained: &BTreeMap<Text, PubId>) {
        let mut wrong = Vec::new();
        let mut by_topic: BTreeMap<&Text, Vec<usize>> = BTreeMap::new();
        for (index, publication) in self.publications.iter().enumerate() {
            if publication.retain {
                by_topic.entry(&publication.topic).or_default().push(index);
            }
        }
        for (topic, all) in by_topic {
            let Some(last) = all.iter().rev().find(|index| self.publications[**index].is_accepted()) else {
                continue;
            };
            let kept = retained.get(topic).map(|id| &self.publications[id.0 as usize]);
            let newest = &self.publications[*last];
            match kept {
                Some(kept) if self.is_replaced(kept, &all) => wrong.push(format!(
                    "{topic} retains {:?}, which was replaced; the newest acknowledged is publication {last}",
                    retained.get(topic)
                )),
                None if newest.payload_bytes > 0 && !self.may_be_cleared(*last, &all) => {
                    wrong.push(format!(
                        "nothing is retained on {topic}, where publication {last} was acknowledged"
                    ));
                }
                _ => {}
            }
        }
        if let Some(first) = wrong.into_iter().next() {
            self.accuse(first);
        }
    }

    fn is_replaced(&self, kept: &Publication, all: &[usize]) -> bool {
        let Some((done, _)) = kept.done.filter(|_| !kept.repeated) else { return false };
        all.iter().any(|index| {
            let newer = &self.publications[*index];
            newer.is_accepted() && newer.sent > done
        })
    }

    /// Somebody has cleared the topic at a time that is not certainly before the last value.
    fn may_be_cleared(&self, last: usize, all: &[usize]) -> bool {
        let sent = self.publications[last].sent;
        all.iter().any(|index| {
            let other = &self.publications[*index];
            let surely_before = other.done.is_some_and(|(done, _)| done < sent) && !other.repeated;
            (other.payload_bytes == 0 || other.mortal) && !surely_before
        })
    }
}
