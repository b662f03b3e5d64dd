//! What the broker says of messages that went no further.

use std::collections::{BTreeMap, BTreeSet};

use quelea_client::Text;
use quelea_shard::witness::{Loser, Loss, Why};

use super::{Oracle, PubId};

/// Each loss that was told, by receiver and publication.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// A Will is the same publication each time that it fires: it may be lost several times.
    sessions: BTreeMap<(usize, PubId), Vec<Told>>,
    groups: BTreeSet<(Text, PubId)>,
    everybody: BTreeSet<PubId>,
    /// How many were told of each kind.
    told: BTreeMap<Why, u64>,
}

/// One loss for a client's session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    why: Why,
    /// The number of the session; `None` while the client begins another, and the one before may be meant.
    session: Option<u32>,
}

impl Losses {
    /// Whether a message at QoS 1 or 2 was lost for a client's session.
    pub(super) fn explain(&self, actor: usize, id: PubId) -> bool {
        self.sessions
            .get(&(actor, id))
            .is_some_and(|losses| losses.iter().any(|told| !is_transient(told.why)))
    }

    /// Whether a message at QoS 0 was.
    pub(super) fn explain_transient(&self, actor: usize, id: PubId) -> bool {
        self.sessions.contains_key(&(actor, id)) || self.everybody.contains(&id)
    }

    /// Whether a group has lost it.
    pub(super) fn explain_group(&self, filter: &Text, id: PubId) -> bool {
        self.groups.contains(&(filter.clone(), id))
    }

    /// How often a message was lost for a client's session.
    pub(super) fn of_session(&self, actor: usize, id: PubId) -> usize {
        self.sessions.get(&(actor, id)).map_or(0, Vec::len)
    }

    /// Clients, and what was lost for them, once for each time.
    pub(super) fn of_sessions(&self) -> impl Iterator<Item = (usize, PubId)> {
        self.sessions.iter().flat_map(|(whose, losses)| losses.iter().map(|_| *whose))
    }

    /// The same of messages that were not sent, with the number of the session, where that is certain.
    pub(super) fn of_certain_sessions(&self) -> impl Iterator<Item = (usize, u32, PubId)> {
        // What a client refuses has come to it.
        let one = |(actor, id), told: &Told| {
            let session = told.session.filter(|_| told.why != Why::Refused)?;
            Some((actor, session, id))
        };
        self.sessions
            .iter()
            .flat_map(move |(whose, losses)| losses.iter().filter_map(move |told| one(*whose, told)))
    }

    /// How many were told of this kind.
    pub(super) fn told(&self, why: Why) -> u64 {
        self.told.get(&why).copied().unwrap_or_default()
    }
}

impl Oracle {
    /// The broker says that a message went no further. Returns which publication it was, if its payload says so.
    pub(crate) fn on_loss(&mut self, loss: &Loss) -> Option<PubId> {
        *self.losses.told.entry(loss.why).or_default() += 1;
        let Some(name) = loss.payload else {
            self.on_nameless_loss(loss);
            return None;
        };
        let id = PubId(u64::from_be_bytes(name));
        let known = (id.0 as usize) < self.publications.len();
        match &loss.whose {
            _ if !known => self.accuse(format!("the broker lost a message that nobody has sent: {loss:?}")),
            Loser::Session(client) => match actor(client) {
                Some(actor) => {
                    let session = self.known_session(actor);
                    let told = Told { why: loss.why, session };
                    self.losses.sessions.entry((actor, id)).or_default().push(told);
                }
                None => self.accuse(format!("the broker lost a message of an unknown client: {loss:?}")),
            },
            Loser::Group(filter) => {
                self.losses.groups.insert((Text::from(&**filter), id));
            }
            Loser::Everybody => {
                self.losses.everybody.insert(id);
            }
        }
        known.then_some(id)
    }
}

/// Which client it is.
pub(super) fn actor(client: &str) -> Option<usize> {
    client.strip_prefix("client-").and_then(|number| number.parse().ok())
}

/// Reasons that are none for QoS 1 and 2.
pub(super) fn is_transient(why: Why) -> bool {
    match why {
        Why::Qos0Full
        | Why::Qos0Deferred
        | Why::Qos0Offline
        | Why::Qos0Credit
        | Why::Qos0Memory
        | Why::Qos0Refused
        | Why::Qos0Group => true,
        Why::OfflineFull
        | Why::Slow
        | Why::GroupFull
        | Why::TooLarge
        | Why::Expired
        | Why::Refused
        | Why::RetainedFull => false,
    }
}
