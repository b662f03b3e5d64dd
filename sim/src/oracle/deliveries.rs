//! Each message that a client sees, judged when it comes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quelea_client::{Message, Properties, Text};
use quelea_mqtt::QoS;

use super::{Oracle, OrderOf, PubId, Publication, Seen, Subscription};

/// The first bytes of a payload name its publication; the rest repeats them.
pub(crate) fn payload(id: PubId, bytes: usize) -> Vec<u8> {
    let name = id.0.to_be_bytes();
    name.iter().copied().cycle().take(bytes.max(name.len())).collect()
}

/// What a publication of MQTT 5 carries beside its payload. One without payload has its name here, more than once: in
/// Correlation Data and in User Properties, whose order counts.
pub(crate) fn properties(id: PubId, bytes: usize) -> Properties {
    if bytes > 0 {
        return Properties::default();
    }
    let name = id.0.to_be_bytes();
    let half =
        |(at, half): (usize, &[u8])| (Text::from("publication"), Text::from(format!("{at}: {half:?}")));
    Properties {
        correlation_data: Some(Bytes::copy_from_slice(&name)),
        user_properties: name.chunks(4).enumerate().map(half).collect(),
        ..Properties::default()
    }
}

/// Who a message says that it is.
enum Name {
    Is(PubId),
    Nobody,
    Nonsense,
}

fn named(message: &Message) -> Name {
    let name = match &message.properties().correlation_data {
        _ if !message.payload.is_empty() => {
            let name = message.payload.first_chunk::<8>();
            name.filter(|name| message.payload.chunks(8).all(|chunk| name.starts_with(chunk)))
        }
        Some(data) => data.first_chunk::<8>(),
        None => return Name::Nobody,
    };
    name.map_or(Name::Nonsense, |name| Name::Is(PubId(u64::from_be_bytes(*name))))
}

impl Oracle {
    /// A message came to a client.
    pub(crate) fn on_message(&mut self, actor: usize, now: Instant, message: &Message) -> Option<PubId> {
        let judged = match named(message) {
            Name::Is(id) => self.judge(actor, now, message, id).map(|()| Some(id)),
            Name::Nobody => self.judge_nameless(actor, now, message).map(|()| None),
            Name::Nonsense => Err("a payload that nobody has sent".into()),
        };
        match judged {
            Ok(id) => id,
            Err(what) => {
                self.accuse(format!("client {actor}, {} on {}: {what}", Shown(message), message.topic));
                None
            }
        }
    }

    fn judge(&mut self, actor: usize, now: Instant, message: &Message, id: PubId) -> Result<(), String> {
        let published = self.publications.get(id.0 as usize).ok_or("a payload that nobody has sent")?.clone();
        if published.topic != message.topic || published.payload_bytes != message.payload.len() {
            return Err(format!("topic or payload differs from what was sent: {published:?}"));
        }
        self.first_deliveries += u64::from(!message.dup);
        let claimed = self.judge_claim(actor, now, message, id)?;
        judge_properties(message, &published, id, &claimed)?;
        let group = claimed.iter().find(|sub| sub.is_shared()).map(|sub| sub.asked.filter.clone());
        let as_published = claimed.iter().any(|sub| sub.asked.options.retain_as_published);
        self.first_seen[id.0 as usize].get_or_insert(now);
        if let Some(group) = group {
            return self.judge_shared(id, message, &published, group);
        }
        // Nothing empty is retained, so nothing empty is sent for that.
        let live = published.payload_bytes == 0 || !(message.retain || as_published && published.retain);
        if message.retain && !published.retain {
            return Err("it has RETAIN and was published without".into());
        }
        self.judge_number(actor, id, message, &published, live)?;
        if published.retain && !message.dup {
            self.judge_retained(actor, id, message, &published)?;
        }
        Ok(())
    }

    /// Whether it may come to this client as it comes, and for which subscriptions.
    pub(super) fn judge_claim(
        &self,
        actor: usize,
        now: Instant,
        message: &Message,
        id: PubId,
    ) -> Result<Vec<&Subscription>, String> {
        let published = &self.publications[id.0 as usize];
        let claimed = self.claimed(actor, now, message, id)?;
        self.judge_expiry(actor, now, message, published, &claimed)?;
        self.judge_options(actor, message, published, &claimed)?;
        let as_published = claimed.iter().any(|sub| sub.asked.options.retain_as_published);
        if published.payload_bytes > 0 {
            return Ok(claimed);
        }
        if message.retain && !as_published {
            return Err("it is empty, and comes as if it were retained".into());
        }
        // A group may have kept it for its next member.
        let before = |(done, _)| claimed.iter().all(|sub| sub.sent > done && !sub.is_shared());
        if published.will.is_none() && !published.repeated && published.done.is_some_and(before) {
            return Err("it is empty, and was acknowledged before anybody asked for it".into());
        }
        Ok(claimed)
    }

    /// The subscriptions for which a message may have come.
    fn claimed(
        &self,
        actor: usize,
        now: Instant,
        message: &Message,
        id: PubId,
    ) -> Result<Vec<&Subscription>, String> {
        let published = &self.publications[id.0 as usize];
        let topic = self.topic_of[id.0 as usize];
        let sent = published.sent;
        let open = |sub: &&Subscription| {
            let gone = sub.closed.is_some_and(|closed| closed < sent && published.will.is_none());
            !gone && sub.matches[topic]
        };
        let present = self.present[actor].iter().map(|number| &self.subscriptions[*number]);
        let mut claimed: Vec<&Subscription> = present.filter(open).collect();
        debug_assert!(published.will.is_some() || published.sent <= now);
        let with_ids = claimed.iter().any(|sub| sub.id.is_some());
        if with_ids {
            claimed.retain(|sub| sub.id.is_some_and(|id| message.subscription_ids.contains(&id)));
        }
        if claimed.is_empty() {
            return Err(format!("no subscription asked for it (sent by client {})", published.actor));
        }
        if with_ids && !ids_fit(message, published, &claimed) {
            return Err(format!(
                "subscription identifiers {:?} are not all its own",
                message.subscription_ids
            ));
        }
        Ok(claimed)
    }

    fn judge_options(
        &self,
        actor: usize,
        message: &Message,
        published: &Publication,
        claimed: &[&Subscription],
    ) -> Result<(), String> {
        let own = published.actor == actor;
        if own && claimed.iter().all(|sub| sub.asked.options.no_local) {
            return Err("its own message came back against No Local".into());
        }
        let highest = claimed.iter().map(|sub| sub.asked.options.qos).max().expect("not empty");
        let due = published.qos.min(highest);
        // Filters of one packet share an identifier: then it does not say for which of them a message came, but if it must
        // have come for all of them. A retained one comes for one.
        let alone = |sub: &&Subscription| claimed.iter().filter(|other| other.id == sub.id).count() == 1;
        let told_apart = |sub: &&Subscription| {
            sub.id.is_some() && (alone(sub) || !message.retain && sub.surely_matched(published))
        };
        let exact = claimed.iter().all(told_apart);
        if message.qos > due || exact && message.qos != due {
            return Err(format!("{:?} where {due:?} was due", message.qos));
        }
        Ok(())
    }

    /// What has run out is not sent, and the interval that is sent is what is left of it `[MQTT-3.3.2-5]`,
    /// `[MQTT-3.3.2-6]`. How long a message has lain with the broker is known where its receiver came back later than it
    /// was acknowledged.
    fn judge_expiry(
        &self,
        actor: usize,
        now: Instant,
        message: &Message,
        published: &Publication,
        claimed: &[&Subscription],
    ) -> Result<(), String> {
        let Some(expiry_s) = published.expiry_s else { return Ok(()) };
        let expiry = Duration::from_secs(expiry_s.into());
        let accepted = published.done.filter(|_| !published.repeated);
        let came_back = self.clients[actor].connecting.expect("who sees a message has connected");
        let lain = accepted.map_or(Duration::ZERO, |(done, _)| came_back.saturating_duration_since(done));
        if !message.dup && lain >= expiry {
            return Err(format!("it had {expiry_s} s, and lay for {lain:?} before its receiver came back"));
        }
        // Clients of MQTT 3 are not told.
        if claimed.iter().all(|sub| sub.id.is_none()) {
            return Ok(());
        }
        let Some(left_s) = message.properties().message_expiry_s else {
            return Err(format!("it had {expiry_s} s, and comes without an interval"));
        };
        let (most, least) = (expiry.saturating_sub(lain), expiry.saturating_sub(now - published.sent));
        // Whole seconds, rounded up, and never none.
        let most_s = most.as_millis().div_ceil(1_000).max(1);
        let least_s = least.as_millis().div_ceil(1_000);
        match (least_s..=most_s).contains(&left_s.into()) {
            true => Ok(()),
            false => Err(format!("of its {expiry_s} s, {left_s} are left, and not {least_s} to {most_s}")),
        }
    }

    fn judge_shared(
        &mut self,
        id: PubId,
        message: &Message,
        published: &Publication,
        group: Text,
    ) -> Result<(), String> {
        let seen = self.seen_by_group.entry((group, id)).or_default();
        seen.any += 1;
        let once =
            published.will.is_none() && published.qos != QoS::AtLeastOnce && message.qos != QoS::AtLeastOnce;
        if once && seen.any > 1 {
            return Err(format!("time {} for its group", seen.any));
        }
        Ok(())
    }

    fn judge_number(
        &mut self,
        actor: usize,
        id: PubId,
        message: &Message,
        published: &Publication,
        live: bool,
    ) -> Result<(), String> {
        let session = self.clients[actor].session;
        let all = self.seen.entry((actor, session)).or_default();
        all.resize(all.len().max(id.0 as usize + 1), Seen::default());
        let seen = &mut all[id.0 as usize];
        seen.any += 1;
        if !live {
            return Ok(());
        }
        seen.live += 1;
        seen.live_first += u32::from(!message.dup);
        if published.will.is_some() {
            return Ok(());
        }
        let repeated = published.qos == QoS::AtLeastOnce && published.repeated;
        let too_often = match message.qos {
            QoS::AtLeastOnce => seen.live_first > 1,
            _ => seen.live > 1,
        };
        if too_often && !repeated {
            return Err(format!("time {}", seen.live));
        }
        if seen.live > 1 {
            return Ok(());
        }
        let order = OrderOf {
            receiver: actor,
            session,
            sender: published.actor,
            topic: published.topic.clone(),
            sent_as: published.qos,
            received_as: message.qos,
        };
        let last = self.last_in_order.get(&order).copied();
        if let Some(last) = last.filter(|last| *last > id) {
            let other = &self.publications[last.0 as usize];
            let bound = match published.qos {
                QoS::AtMostOnce => published.connection == other.connection,
                _ => published.session == other.session,
            };
            // A repeated QoS 1 publication may have come before, from the first time that it was sent.
            // So may one that was refused then, without its publisher's hearing of it.
            let once = |publication: &Publication| {
                !publication.repeated
                    || publication.qos != QoS::AtLeastOnce && !self.limits.may_refuse(publication.retain)
            };
            if bound && once(published) && once(other) {
                return Err(format!("after publication {}, which was sent later", last.0));
            }
        }
        self.last_in_order.insert(order, last.map_or(id, |last| last.max(id)));
        Ok(())
    }

    /// No older retained value after a newer one.
    fn judge_retained(
        &mut self,
        actor: usize,
        id: PubId,
        message: &Message,
        published: &Publication,
    ) -> Result<(), String> {
        let session = self.clients[actor].session;
        let class = message.qos.min(QoS::AtLeastOnce);
        let key = (actor, session, published.topic.clone(), class);
        if let Some(last) = self.last_retained.insert(key, id).filter(|last| *last != id) {
            let accepted = published.qos == QoS::AtMostOnce || published.is_accepted();
            if accepted && self.is_surely_before(id, last) {
                return Err(format!("an older retained value after the newer publication {}", last.0));
            }
        }
        Ok(())
    }
}

/// What a publisher of MQTT 5 has written beside the payload comes to subscribers of MQTT 5 as it was `[MQTT-3.3.2-16]`,
/// `[MQTT-3.3.2-17]`, `[MQTT-3.3.2-18]`, and to others not at all.
fn judge_properties(
    message: &Message,
    published: &Publication,
    id: PubId,
    claimed: &[&Subscription],
) -> Result<(), String> {
    let v5 = claimed.iter().any(|sub| sub.id.is_some());
    let sent = if v5 { properties(id, published.payload_bytes) } else { Properties::default() };
    let came = Properties { message_expiry_s: None, ..message.properties().clone() };
    if came != sent {
        return Err(format!("it comes with {came:?}, and was sent with {sent:?}"));
    }
    Ok(())
}

/// A message names the identifier of each subscription that it came for, as often as there are such
/// (MQTT 5.0 §3.3.2.3.8); a retained one comes for one of them.
fn ids_fit(message: &Message, published: &Publication, claimed: &[&Subscription]) -> bool {
    message.subscription_ids.iter().all(|id| {
        let named = message.subscription_ids.iter().filter(|other| *other == id).count();
        let with_id = || claimed.iter().filter(|sub| sub.id == Some(*id));
        let sure = with_id().filter(|sub| sub.surely_matched(published)).count();
        let least = if message.retain { 1 } else { sure.max(1) };
        (least..=with_id().count().max(least)).contains(&named)
    })
}

/// A message in a sentence.
struct Shown<'a>(&'a Message);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match named(self.0) {
            Name::Is(id) => write!(f, "publication {}", id.0)?,
            Name::Nobody => f.write_str("an empty publication")?,
            Name::Nonsense => f.write_str("a publication")?,
        }
        write!(f, " at {:?}", self.0.qos)?;
        for (flag, name) in [(self.0.dup, "DUP"), (self.0.retain, "RETAIN")] {
            if flag {
                write!(f, ", {name}")?;
            }
        }
        Ok(())
    }
}
