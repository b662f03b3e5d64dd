//! What must be true when all is quiet.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Instant;

use quelea_client::Text;
use quelea_mqtt::QoS;

use super::{Books, Oracle, PubId, Publication, Subscription};

impl Oracle {
    /// All is quiet: were all promises kept? `retained` is what a probe has found.
    pub(crate) fn settle(&mut self, watcher: usize, books: &Books, retained: &BTreeMap<Text, PubId>) {
        self.judge_unfinished();
        self.judge_missing();
        self.judge_transient();
        self.judge_groups();
        self.judge_missing_nameless();
        self.judge_refused();
        self.judge_lost_and_found();
        self.judge_wills(watcher);
        self.judge_books(watcher, books);
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

    pub(super) fn promised(&self, subscription: &Subscription, publication: &Publication) -> bool {
        let options = subscription.asked.options;
        let since = |granted: Instant| granted < publication.sent;
        publication.qos > QoS::AtMostOnce
            && publication.will.is_none()
            && publication.is_accepted()
            && options.qos > QoS::AtMostOnce
            && subscription.granted.is_some_and(since)
            && !(options.no_local && publication.actor == subscription.actor)
    }

    /// The publications that a subscription must have seen.
    pub(super) fn promised_to<'a>(
        &'a self,
        subscription: &'a Subscription,
    ) -> impl Iterator<Item = usize> + 'a {
        let all = self.publications.iter().enumerate();
        all.filter(move |(index, publication)| {
            subscription.matches[self.topic_of[*index]] && self.promised(subscription, publication)
        })
        .map(|(index, _)| index)
    }

    /// Subscriptions of sessions that live.
    pub(super) fn living(&self, shared: bool) -> impl Iterator<Item = &Subscription> {
        self.subscriptions.iter().filter(move |sub| {
            let alive = sub.session == self.clients[sub.actor].session;
            alive && !sub.closing && sub.closed.is_none() && sub.is_shared() == shared
        })
    }

    /// Each acknowledged publication has reached each subscriber, or the broker has said why not.
    fn judge_missing(&mut self) {
        let missing = self.living(false).find_map(|subscription| {
            let Subscription { actor, session, .. } = *subscription;
            let unseen = |index: &usize| {
                subscription.names(&self.publications[*index])
                    && self.seen(actor, session, *index).any == 0
                    && !self.losses.explain(actor, PubId(*index as u64))
            };
            let index = self.promised_to(subscription).find(unseen)?;
            Some(format!(
                "publication {index} by client {} never came to client {actor}, who subscribed to {}; nothing says why",
                self.publications[index].actor, subscription.asked.filter,
            ))
        });
        if let Some(missing) = missing {
            self.accuse(missing);
        }
    }

    /// QoS 0 may be lost with a connection, or where the broker says so, and nowhere else.
    fn judge_transient(&mut self) {
        let missing = self.living(false).find_map(|subscription| {
            let Subscription { actor, session, .. } = *subscription;
            let index = self.transient_to(subscription).find(|index| {
                let explained = self.losses.explain_transient(actor, PubId(*index as u64));
                let named = subscription.names(&self.publications[*index]);
                named && self.seen(actor, session, *index).any == 0 && !explained
            })?;
            Some(format!(
                "publication {index} at QoS 0 by client {} never came to client {actor}, who subscribed to {}, \
                 although neither lost its connection; nothing says why",
                self.publications[index].actor, subscription.asked.filter,
            ))
        });
        if let Some(missing) = missing {
            self.accuse(missing);
        }
    }

    /// The publications at QoS 0 that a subscriber must have seen: both connections have stood ever since.
    pub(super) fn transient_to<'a>(
        &'a self,
        subscription: &'a Subscription,
    ) -> impl Iterator<Item = usize> + 'a {
        let connected = self.clients[subscription.actor].connected;
        let options = subscription.asked.options;
        let due = move |index: &usize| {
            let publication = &self.publications[*index];
            let sender = &self.clients[publication.actor];
            subscription.matches[self.topic_of[*index]]
                && publication.qos == QoS::AtMostOnce
                && publication.will.is_none()
                && subscription.granted.is_some_and(|granted| granted < publication.sent)
                && connected.is_some_and(|connected| connected < publication.sent)
                && sender.connections == publication.connection
                && sender.connected.is_some()
                && !(options.no_local && publication.actor == subscription.actor)
        };
        (0..self.publications.len()).filter(due)
    }

    fn judge_groups(&mut self) {
        let missing = self.living(true).find_map(|subscription| {
            let filter = &subscription.asked.filter;
            let index = self.promised_to(subscription).find(|index| {
                let id = PubId(*index as u64);
                let named = subscription.names(&self.publications[*index]);
                let seen = self.seen_by_group.contains_key(&(filter.clone(), id));
                named && !seen && !self.may_be_pinned(subscription, *index) && !self.lost_by_group(filter, id)
            })?;
            Some(format!(
                "publication {index} never came to {filter}, of which client {} was a member all the time; \
                 nothing says why",
                subscription.actor,
            ))
        });
        if let Some(missing) = missing {
            self.accuse(missing);
        }
    }

    /// The group has lost it, or a member to whom it was given.
    fn lost_by_group(&self, filter: &Text, id: PubId) -> bool {
        let mut members = self.subscriptions.iter().filter(|sub| sub.asked.filter == *filter);
        self.losses.explain_group(filter, id) || members.any(|member| self.losses.explain(member.actor, id))
    }

    /// What was lost did not come. A publication that its publisher repeated may do both, and so may one of a group.
    fn judge_lost_and_found(&mut self) {
        let found = self.losses.of_certain_sessions().find(|(actor, session, id)| {
            let publication = &self.publications[id.0 as usize];
            let mut shared = self.subscriptions.iter().filter(|sub| sub.actor == *actor && sub.is_shared());
            // Of what is retained there may be another copy, for who subscribes.
            let retained = publication.retain && publication.payload_bytes > 0;
            let once = !publication.repeated && !retained && publication.will.is_none();
            once && self.seen(*actor, *session, id.0 as usize).any > 0 && shared.next().is_none()
        });
        if let Some((actor, _, id)) = found {
            self.accuse(format!("publication {} was lost for client {actor}, and came to it", id.0));
        }
    }

    /// A QoS 2 message goes to no other member once it was sent to one, also if that one's session ends before the message
    /// has arrived `[MQTT-4.8.2-5]`: it may be lost with any session that was in the group since it was published.
    pub(super) fn may_be_pinned(&self, subscription: &Subscription, index: usize) -> bool {
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
            let newest = &self.publications[*last];
            match retained.get(topic) {
                Some(kept) if self.is_replaced(*kept, &all) => wrong.push(format!(
                    "{topic} retains {kept:?}, which was replaced; the newest acknowledged is publication {last}",
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

    fn is_replaced(&self, kept: PubId, all: &[usize]) -> bool {
        all.iter().any(|index| {
            self.publications[*index].is_accepted() && self.is_surely_before(kept, PubId(*index as u64))
        })
    }

    /// Somebody has cleared the topic at a time that is not certainly before the last value.
    fn may_be_cleared(&self, last: usize, all: &[usize]) -> bool {
        all.iter().any(|index| {
            let other = &self.publications[*index];
            let surely_before = self.is_surely_before(PubId(*index as u64), PubId(last as u64));
            (other.payload_bytes == 0 || other.expiry_s.is_some()) && !surely_before
        })
    }

    /// Whether the broker had one publication, each time that it was sent, before it can have had the other one. It had
    /// * what it has acknowledged: nothing is sent again after that;
    /// * what is sent once and was seen by a client, which is all that is ever known of QoS 0;
    /// * what is sent once, when it reads what came behind that on the same connection: a server replaces what is retained
    ///   in the order in which it receives `[MQTT-3.3.1-5]`.
    pub(super) fn is_surely_before(&self, one: PubId, other: PubId) -> bool {
        let (earlier, later) = (&self.publications[one.0 as usize], &self.publications[other.0 as usize]);
        let had = match earlier.qos {
            QoS::AtMostOnce => self.first_seen[one.0 as usize],
            QoS::AtLeastOnce | QoS::ExactlyOnce => earlier.done.map(|(done, _)| done),
        };
        let one_stream = earlier.actor == later.actor && earlier.connection == later.connection;
        had.is_some_and(|had| had < later.sent) || one_stream && !earlier.repeated && one < other
    }

    /// Bytes for which the broker may charge what a probe has found: topic and payload, and something beside them.
    pub(crate) fn bytes_retained(&self, found: &BTreeMap<Text, PubId>) -> RangeInclusive<u64> {
        let one = |(topic, id): (&Text, &PubId)| topic.len() + self.publication(*id).payload_bytes;
        let least: usize = found.iter().map(one).sum();
        least as u64..=(least + found.len() * RETAINED_BESIDE_BYTES_MAX) as u64
    }
}

/// What a retained message may cost beside its topic and its payload.
const RETAINED_BESIDE_BYTES_MAX: usize = 256;
