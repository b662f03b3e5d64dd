//! Messages that do not say which publication they are.
//!
//! Who clears a retained message sends nothing as its payload, and a name has no place there. A publisher of MQTT 5 writes it
//! into properties, and subscribers of MQTT 5 read it there; of all others only kind and number can be judged:
//!
//! ```text
//!                    to MQTT 5      to MQTT 3
//!   from MQTT 5      by name        by number: all empty ones of the topic
//!   from MQTT 3      by number: those of MQTT 3 publishers
//! ```
//!
//! * Each must be able to be one of the publications in question: topic, subscription, No Local, QoS, identifiers, expiry.
//! * There are no more of them than publications in question, each as often as its publisher may have sent it.
//! * When all is quiet, there are no fewer than publications that must have come and that were not told as lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use quelea_client::{Message, Properties, Text};
use quelea_mqtt::QoS;
use quelea_shard::witness::{Loser, Loss, Why};

use super::losses::{actor, is_transient};
use super::{Oracle, PubId, Subscription};

/// Whose messages are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    /// A client, and the number of its session.
    Session(usize, u32),
    /// A shared group.
    Group(Text),
}

/// What came and what was lost without a name.
#[derive(Debug, Default)]
pub(super) struct Nameless {
    /// By topic, and then by QoS.
    came: BTreeMap<(Whose, usize), [Came; 3]>,
    lost_by_client: BTreeMap<usize, Vec<Why>>,
    lost_by_group: BTreeMap<Text, u32>,
    lost_by_everybody: u32,
}

/// How many came.
#[derive(Clone, Copy, Debug, Default)]
struct Came {
    any: u32,
    /// Without DUP.
    first: u32,
}

/// The publications on one topic that somebody must have seen, and could not name.
#[derive(Debug, Default)]
struct Due {
    at_any_qos: BTreeSet<usize>,
    at_qos_1_or_2: BTreeSet<usize>,
}

impl Oracle {
    /// A message without a name came to a client.
    pub(super) fn judge_nameless(
        &mut self,
        actor: usize,
        now: Instant,
        message: &Message,
    ) -> Result<(), String> {
        self.first_deliveries += u64::from(!message.dup);
        let came = Properties { message_expiry_s: None, ..message.properties().clone() };
        if came != Properties::default() {
            return Err(format!("it has no name, and comes with {came:?}"));
        }
        let v5 = self.present[actor].iter().any(|number| self.subscriptions[*number].id.is_some());
        let in_question: Vec<usize> = (0..self.publications.len())
            .filter(|index| {
                let published = &self.publications[*index];
                let is_empty = published.payload_bytes == 0 && published.topic == message.topic;
                is_empty && (published.nameless || !v5)
            })
            .collect();
        let mut whose = Err("nobody has sent anything to this topic that has no name".to_owned());
        for index in &in_question {
            let claimed = self.judge_claim(actor, now, message, PubId(*index as u64));
            whose = claimed.map(|claimed| match claimed.iter().find(|sub| sub.is_shared()) {
                Some(shared) => Whose::Group(shared.asked.filter.clone()),
                None => Whose::Session(actor, self.clients[actor].session),
            });
            if whose.is_ok() {
                break;
            }
        }
        let key = (whose?, self.topic_of[in_question[0]]);
        let came = &mut self.nameless.came.entry(key.clone()).or_default()[message.qos as usize];
        came.any += 1;
        came.first += u32::from(!message.dup);
        self.judge_nameless_number(&key, &in_question)
    }

    /// What came at a QoS was published at this one or a higher one.
    fn judge_nameless_number(&self, key: &(Whose, usize), in_question: &[usize]) -> Result<(), String> {
        let (whose, topic) = key;
        let came = &self.nameless.came[key];
        for least in [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtMostOnce] {
            let counts = |qos: QoS| match (qos, whose) {
                (QoS::AtLeastOnce, Whose::Session(..)) => came[1].first,
                // A member may leave it to the next one.
                (QoS::AtLeastOnce, Whose::Group(_)) => 0,
                _ => came[qos as usize].any,
            };
            let came: u32 = ALL_QOS.into_iter().filter(|qos| *qos >= least).map(counts).sum();
            let possible = in_question.iter().filter(|index| {
                let is_possible = self.publications[**index].qos >= least;
                is_possible && self.may_have_matched(whose, *topic, **index)
            });
            let copies: u32 = possible.map(|index| self.copies(*index)).sum();
            if came > copies {
                return Err(format!(
                    "{came} of at least {least:?} came, and {copies} may have been published: {in_question:?}"
                ));
            }
        }
        Ok(())
    }

    /// How often the broker may have taken a publication for a new one.
    pub(super) fn copies(&self, index: usize) -> u32 {
        match self.publications[index].qos {
            QoS::AtLeastOnce => 1 + self.repeats[index],
            QoS::AtMostOnce | QoS::ExactlyOnce => 1,
        }
    }

    /// Whether there was a subscription for which it may have come.
    fn may_have_matched(&self, whose: &Whose, topic: usize, index: usize) -> bool {
        let is_one = |sub: &&Subscription| match whose {
            Whose::Session(actor, session) => {
                sub.actor == *actor && sub.session == *session && !sub.is_shared()
            }
            Whose::Group(filter) => sub.asked.filter == *filter,
        };
        let mut subscriptions = self.subscriptions.iter().filter(is_one);
        subscriptions.any(|sub| self.may_have_matched_one(sub, topic, index))
    }

    /// Whether it may have come for this subscription, as it is sent.
    pub(super) fn may_have_matched_one(&self, sub: &Subscription, topic: usize, index: usize) -> bool {
        let published = &self.publications[index];
        let own = sub.asked.options.no_local && published.actor == sub.actor;
        let too_early = published.will.is_none() && sub.closed.is_some_and(|closed| closed < published.sent);
        let too_late = !published.repeated && published.done.is_some_and(|(done, _)| done < sub.sent);
        sub.matches[topic] && !own && !too_early && !too_late
    }

    /// The broker says that a message without a name went no further.
    pub(super) fn on_nameless_loss(&mut self, loss: &Loss) {
        match &loss.whose {
            Loser::Session(client) => match actor(client) {
                Some(actor) => self.nameless.lost_by_client.entry(actor).or_default().push(loss.why),
                None => self.accuse(format!("the broker lost a message of an unknown client: {loss:?}")),
            },
            Loser::Group(filter) => {
                *self.nameless.lost_by_group.entry(Text::from(&**filter)).or_default() += 1;
            }
            Loser::Everybody => self.nameless.lost_by_everybody += 1,
        }
    }

    /// As many came as must have come.
    pub(super) fn judge_missing_nameless(&mut self) {
        let wrong = self.due_nameless().into_iter().find_map(|(key, due)| {
            let came = self.nameless.came.get(&key).copied().unwrap_or_default();
            let (whose, topic) = key;
            let (lost, transient) = self.lost_nameless(&whose);
            let reliable = came[1].any + came[2].any;
            let missing = (due.at_qos_1_or_2.len() as u32).saturating_sub(reliable + lost)
                + (due.at_any_qos.len() as u32).saturating_sub(came[0].any + reliable + lost + transient);
            (missing > 0).then(|| {
                format!(
                    "empty publications never came to {whose:?} on {}: {due:?} were due, {came:?} came, {lost} were lost \
                     and {transient} at QoS 0",
                    self.topics[topic]
                )
            })
        });
        if let Some(wrong) = wrong {
            self.accuse(wrong);
        }
    }

    /// What must have come, by who could not name it and topic, without what was told as lost by name.
    fn due_nameless(&self) -> BTreeMap<(Whose, usize), Due> {
        let mut all: BTreeMap<_, Due> = BTreeMap::new();
        let nameless = |sub: &Subscription, index: &usize| !sub.names(&self.publications[*index]);
        for sub in self.living(false) {
            let whose = Whose::Session(sub.actor, sub.session);
            let reliable = self.promised_to(sub).filter(|index| nameless(sub, index));
            for index in reliable.filter(|index| !self.losses.explain(sub.actor, PubId(*index as u64))) {
                let due = all.entry((whose.clone(), self.topic_of[index])).or_default();
                due.at_qos_1_or_2.insert(index);
                due.at_any_qos.insert(index);
            }
            let transient = self.transient_to(sub).filter(|index| nameless(sub, index));
            let told = |index: &usize| self.losses.explain_transient(sub.actor, PubId(*index as u64));
            for index in transient.filter(|index| !told(index)) {
                all.entry((whose.clone(), self.topic_of[index])).or_default().at_any_qos.insert(index);
            }
        }
        for sub in self.living(true) {
            let due = self.promised_to(sub).filter(|index| nameless(sub, index));
            for index in due.filter(|index| !self.may_be_pinned(sub, *index)) {
                let whose = Whose::Group(sub.asked.filter.clone());
                all.entry((whose, self.topic_of[index])).or_default().at_qos_1_or_2.insert(index);
            }
        }
        all
    }

    /// How many messages without a name were lost for somebody: for a reason that holds at QoS 1 and 2, and for the others.
    fn lost_nameless(&self, whose: &Whose) -> (u32, u32) {
        let of_client = |actor: &usize| {
            let lost = self.nameless.lost_by_client.get(actor).map_or(&[][..], Vec::as_slice);
            let transient = lost.iter().filter(|why| is_transient(**why)).count();
            ((lost.len() - transient) as u32, transient as u32)
        };
        let by_all = self.nameless.lost_by_everybody;
        let filter = match whose {
            Whose::Session(actor, _) => {
                let (lost, transient) = of_client(actor);
                return (lost, transient + by_all);
            }
            Whose::Group(filter) => filter,
        };
        let members: BTreeSet<usize> = self
            .subscriptions
            .iter()
            .filter(|sub| sub.asked.filter == *filter)
            .map(|sub| sub.actor)
            .collect();
        let own = self.nameless.lost_by_group.get(filter).copied().unwrap_or_default();
        members.iter().map(of_client).fold((own, by_all), |sum, lost| (sum.0 + lost.0, sum.1 + lost.1))
    }
}

const ALL_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
