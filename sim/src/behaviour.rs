//! What clients do of their own accord.

use std::time::{Duration, Instant};

use quelea_client::{Farewell, Properties, Publish, Refusal, Subscription, Text};
use quelea_mqtt::{QoS, ReasonCode, RetainHandling, SubscriptionOptions, Version};

use crate::actor::{Role, new_core, will_publish};
use crate::event::Event;
use crate::oracle::{Firings, PubId, Publication, payload, properties};
use crate::world::{Act, Cut, World};

impl World {
    /// A client does the next thing.
    pub(crate) fn act(&mut self, actor: usize) {
        let mut pause = self.plan.habits.act_us.clone();
        if self.actors[actor].character.role == Role::Probe || self.phase == Act::Curtain {
            return;
        }
        if !self.actors[actor].core.is_attached() {
            self.come_back(actor);
        } else if self.actors[actor].core.is_connected() && self.phase == Act::Storm {
            if self.actors[actor].character.role == Role::Player {
                self.misbehave(actor);
            }
            if !self.actors[actor].core.is_attached() {
                pause = self.plan.habits.away_us.clone();
            }
        }
        let pause = Duration::from_micros(self.random.u64(pause) + 1);
        self.events.push(self.now + pause, Event::Act { actor });
    }

    fn come_back(&mut self, actor: usize) {
        self.learn_from_refusal(actor);
        let habits = &self.plan.habits;
        let (clean_percent, wander_percent) = (habits.clean_percent, habits.wander_percent);
        let player = &self.actors[actor];
        let character = player.character.clone();
        let again = player.connections > 0;
        let storm = self.phase == Act::Storm;
        let v5 = character.version == Version::V5;
        let clean = !character.persistent
            || player.fresh && v5
            || v5 && self.has_outlived_its_session(actor)
            || storm && v5 && again && self.percent(clean_percent) && character.role == Role::Player;
        if clean && !self.actors[actor].fresh {
            self.renew(actor, true);
        }
        if !again || storm && self.percent(wander_percent) {
            self.actors[actor].shard = self.random.usize(0..self.nodes.len());
        }
        self.look_for_room(actor);
        if self.sessions_are_mortal() {
            self.oracle.on_may_expire(actor);
        }
        let shard = self.actors[actor].shard;
        self.open(actor, shard);
    }

    /// Whether a client has asked for its session in vain until that had expired. A CONNECT that was not answered may have
    /// begun another then, which the next CONNECT would find: neither side could tell that it is not the one that the
    /// client remembers.
    fn has_outlived_its_session(&self, actor: usize) -> bool {
        let player = &self.actors[actor];
        let lasts = Duration::from_secs(player.character.session_expiry_s.into());
        let is_over = |parted: Instant| self.broker_now().saturating_duration_since(parted) > lasts;
        !player.was_connected && player.parted_at.is_some_and(is_over)
    }

    /// A new core for a client: it remembers nothing.
    pub(crate) fn renew(&mut self, actor: usize, clean: bool) {
        let character = self.actors[actor].character.clone();
        for id in std::mem::take(&mut self.actors[actor].publishing).into_values() {
            self.oracle.on_repeated(id);
        }
        let will = character.wants_will.then(|| self.new_will(actor));
        let publish = will.map(|id| will_publish(&will_topic(actor), payload(id, 24)));
        let seed = self.random.u64(..);
        // MQTT 3 has one flag for clean start and for a session that ends with its connection.
        let clean_start = if character.version == Version::V5 { clean } else { !character.persistent };
        let player = &mut self.actors[actor];
        player.core = new_core(&character, clean_start, publish, seed);
        player.will = will;
        player.fresh = true;
        player.requests.clear();
        player.acks.clear();
        player.armed = None;
    }

    fn new_will(&mut self, actor: usize) -> PubId {
        self.oracle.on_published(Publication {
            actor,
            connection: self.actors[actor].connections,
            session: self.oracle.session(actor),
            topic: will_topic(actor).as_str().into(),
            qos: QoS::ExactlyOnce,
            retain: false,
            payload_bytes: 24,
            nameless: false,
            sent: self.broker_now(),
            done: None,
            repeated: false,
            expiry_s: None,
            will: Some(Firings::default()),
        })
    }

    fn misbehave(&mut self, actor: usize) {
        let habits = &self.plan.habits;
        let weights = [
            habits.publish,
            habits.subscribe,
            habits.unsubscribe,
            habits.leave,
            habits.crash,
            habits.vanish,
            habits.supplant,
            habits.stall,
        ];
        match self.weighted(&weights) {
            0 => {
                let burst = self.random.usize(1..=self.plan.habits.burst);
                for _ in 0..burst {
                    if !self.publish(actor) {
                        break;
                    }
                }
            }
            1 => self.subscribe(actor),
            2 => self.unsubscribe(actor),
            3 => self.leave(actor),
            4 => self.cut(actor, Cut::Reset),
            5 => self.cut(actor, Cut::Vanish),
            6 => {
                self.cut(actor, Cut::Vanish);
                self.come_back(actor);
            }
            _ => self.stall(actor),
        }
        self.drain_client(actor);
    }

    fn leave(&mut self, actor: usize) {
        let left =
            self.actors[actor].core.disconnect(self.now, Farewell::from(ReasonCode::NORMAL_DISCONNECTION));
        assert!(left.is_ok(), "a connected client may leave");
    }

    fn stall(&mut self, actor: usize) {
        self.actors[actor].stalled = true;
        let stall = Duration::from_micros(self.random.u64(self.plan.habits.stall_us.clone()));
        self.events.push(self.now + stall, Event::Unstall { actor });
    }

    /// Publishes something. Returns whether the core has room for more.
    fn publish(&mut self, actor: usize) -> bool {
        let habits = self.plan.habits.clone();
        let v5 = self.actors[actor].character.version == Version::V5;
        let topic: Text = format!("t/{}", self.random.usize(0..habits.topics)).into();
        let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][self.weighted(&habits.qos_weights)];
        let qos = qos.min(self.qos_max());
        let retain = self.percent(habits.retain_percent);
        let clear = retain && self.percent(habits.clear_percent);
        let mortal = v5 && self.percent(if retain { self.mortal_percent() } else { habits.expiry_percent });
        let bytes = match self.percent(habits.large_percent) {
            _ if clear => 0,
            true => self.random.usize(1_000..20_000),
            false => self.random.usize(8..64),
        };
        let id = self.oracle.next_publication();
        let contents = if clear { Vec::new() } else { payload(id, bytes) };
        let mut publish = Publish::new(topic.clone(), contents).with_qos(qos);
        publish.retain = retain;
        let expiry_s = mortal.then(|| self.random.u32(1..4));
        if v5 {
            publish =
                publish.with_properties(Properties { message_expiry_s: expiry_s, ..properties(id, bytes) });
        }
        let now = self.now;
        match self.actors[actor].core.publish(now, &publish) {
            Ok(token) => {
                let publication = Publication {
                    actor,
                    connection: self.actors[actor].connections,
                    session: self.oracle.session(actor),
                    topic: topic.clone(),
                    qos,
                    retain,
                    payload_bytes: bytes,
                    nameless: clear && !v5,
                    sent: self.broker_now(),
                    done: None,
                    repeated: false,
                    expiry_s,
                    will: None,
                };
                let id = self.oracle.on_published(publication);
                self.actors[actor].publishing.insert(token, id);
                self.tell(|| {
                    let retained = if retain { ", RETAIN" } else { "" };
                    let retained = if clear { ", RETAIN, empty" } else { retained };
                    let expires = expiry_s.map(|s| format!(", expires in {s} s")).unwrap_or_default();
                    let (id, qos) = (id.0, qos.as_u8());
                    format!(
                        "client {actor} sends publication {id} to {topic} at QoS {qos}{retained}{expires}"
                    )
                });
                true
            }
            Err(Refusal::Full) => false,
            Err(refusal) => {
                self.oracle.accuse(format!("client {actor} may not publish: {refusal}"));
                false
            }
        }
    }

    fn draw_filter(&mut self, actor: usize) -> Text {
        let habits = self.plan.habits.clone();
        let topic = self.random.usize(0..habits.topics);
        let filter = match self.percent(habits.wildcard_percent) {
            true => match self.random.u8(0..4) {
                0 => "t/+".to_owned(),
                1 => "t/#".to_owned(),
                2 => "#".to_owned(),
                _ => format!("+/{topic}"),
            },
            false => format!("t/{topic}"),
        };
        let v5 = self.actors[actor].character.version == Version::V5;
        if v5 && filter != "#" && self.percent(habits.share_percent) {
            return format!("$share/g{}/{filter}", self.random.u8(0..2)).into();
        }
        filter.into()
    }

    fn subscribe(&mut self, actor: usize) {
        let first = self.draw_subscription(actor);
        let packet = match self.plan.habits.filters_max {
            1 => vec![first],
            _ => self.fill_packet(actor, first),
        };
        self.subscribe_to(actor, packet);
    }

    pub(crate) fn draw_subscription(&mut self, actor: usize) -> Subscription {
        let filter = self.draw_filter(actor);
        let v5 = self.actors[actor].character.version == Version::V5;
        let shared = filter.starts_with("$share/");
        let qos = match shared {
            // Equal for all members, so that the group's promise does not depend on who is chosen.
            true => QoS::ExactlyOnce,
            false => [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][self.weighted(&[1, 4, 4])],
        };
        let mut options = SubscriptionOptions::with_qos(qos);
        if v5 {
            options.no_local = !shared && self.percent(25);
            options.retain_as_published = self.percent(15);
            options.retain_handling = match self.random.u8(0..4) {
                0 => RetainHandling::SendIfNew,
                1 => RetainHandling::DoNotSend,
                _ => RetainHandling::SendAtSubscribe,
            };
        }
        Subscription { filter, options }
    }

    pub(crate) fn percent(&mut self, percent: u32) -> bool {
        percent > 0 && self.random.u32(0..100) < percent
    }

    fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut left = self.random.u32(0..weights.iter().sum());
        for (index, weight) in weights.iter().enumerate() {
            if left < *weight {
                return index;
            }
            left -= weight;
        }
        unreachable!("drawn below the sum")
    }
}

fn will_topic(actor: usize) -> String {
    format!("will/{actor}")
}
