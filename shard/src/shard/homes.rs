//! The home shard of a client identifier: it orders the CONNECTs of one client, whichever shards they come to.
//!
//! ```text
//!   nobody ──Claim──► owned ──Claim (same shard)──► owned, next life
//!                       │ Claim, clean start            ┌────────────► nobody
//!                       ├──────────► Release ──Released─┤
//!                       │ Claim, another shard          └─► owned by the one that asked
//!                       └──────────► Yield ────Settled────► owned by the one that asked
//! ```
//! While a Release or Yield is on its way the client is busy, and further claims wait, at most
//! [`crate::Settings::claims_max`].

use std::collections::VecDeque;
use std::sync::Arc;

use quelea_router::ShardId;

use crate::envelope::{Claim, Control, Identity};
use crate::hash::{Keyed, KeyedMap};
use crate::publication::Charge;

use super::Shard;

/// Which shard has the session of which client.
pub(crate) struct Home {
    clients: KeyedMap<Arc<str>, Resident>,
    lives: u64,
}

struct Resident {
    owner: ShardId,
    identity: Arc<Identity>,
    /// The claim being served, while it takes more than one message.
    serving: Option<(ShardId, Claim)>,
    waiting: VecDeque<(ShardId, Claim)>,
    /// What the entry is charged with.
    _charge: Charge,
}

impl Home {
    pub(super) fn new(keyed: Keyed) -> Self {
        Self { clients: KeyedMap::with_hasher(keyed), lives: 0 }
    }

    fn next_life(&mut self, client_id: &Arc<str>) -> Arc<Identity> {
        self.lives += 1;
        Arc::new(Identity { client_id: Arc::clone(client_id), epoch: self.lives })
    }
}

impl Shard {
    pub(super) fn on_claim(&mut self, from: ShardId, claim: Claim) {
        let Some(resident) = self.homes.clients.get_mut(&claim.client_id) else {
            return self.grant_new(from, claim);
        };
        if resident.serving.is_none() {
            return self.serve_claim(from, claim);
        }
        if resident.waiting.len() >= self.settings.claims_max {
            return self.send_control(from, Control::ClaimRefused { link: claim.link });
        }
        resident.waiting.push_back((from, claim));
    }

    fn grant_new(&mut self, from: ShardId, claim: Claim) {
        let identity = self.homes.next_life(&claim.client_id);
        let resident = Resident {
            owner: from,
            identity: Arc::clone(&identity),
            serving: None,
            waiting: VecDeque::new(),
            _charge: self.budget.charge(RESIDENT_BYTES + claim.client_id.len()),
        };
        self.homes.clients.insert(claim.client_id, resident);
        self.send_control(from, Control::Granted { link: claim.link, identity, resume: false });
    }

    fn serve_claim(&mut self, from: ShardId, claim: Claim) {
        let next = self.homes.next_life(&claim.client_id);
        let resident = self.homes.clients.get_mut(&claim.client_id).expect("the caller has seen it");
        let (owner, identity, link) = (resident.owner, Arc::clone(&resident.identity), claim.link);
        if !claim.clean_start && owner == from {
            resident.identity = Arc::clone(&next);
            return self.send_control(from, Control::Granted { link, identity: next, resume: true });
        }
        let clean_start = claim.clean_start;
        resident.serving = Some((from, claim));
        let order = match clean_start {
            true => Control::Release { identity },
            false => Control::Yield { identity, next, to: from, link },
        };
        self.send_control(owner, order);
    }

    /// The owner has no session any more: the one that asked begins anew.
    pub(super) fn on_released(&mut self, identity: &Arc<Identity>) {
        let Some(resident) = self.homes.clients.get_mut(&identity.client_id) else { return };
        let Some((from, claim)) = resident.serving.take() else { return };
        let waiting = core::mem::take(&mut resident.waiting);
        self.grant_new(from, claim);
        self.requeue(&identity.client_id, waiting);
    }

    /// The session has arrived where it was asked for.
    pub(super) fn on_settled(&mut self, identity: &Arc<Identity>) {
        let Some(resident) = self.homes.clients.get_mut(&identity.client_id) else { return };
        let Some((from, _)) = resident.serving.take() else { return };
        resident.owner = from;
        resident.identity = Arc::clone(identity);
        let waiting = core::mem::take(&mut resident.waiting);
        self.requeue(&identity.client_id, waiting);
    }

    /// Claims that waited are served in their order: the first now, the others behind it if it takes a while.
    fn requeue(&mut self, client_id: &Arc<str>, waiting: VecDeque<(ShardId, Claim)>) {
        debug_assert!(waiting.iter().all(|(_, claim)| claim.client_id == *client_id));
        for (from, claim) in waiting {
            self.on_claim(from, claim);
        }
    }

    /// A session has ended by itself. If its life is not the present one, another claim was quicker.
    pub(super) fn on_ended(&mut self, identity: &Arc<Identity>) {
        if let Some(resident) = self.homes.clients.get(&identity.client_id)
            && resident.identity.epoch == identity.epoch
            && resident.serving.is_none()
        {
            self.homes.clients.remove(&identity.client_id);
        }
    }
}

/// An entry beside the client identifier, in a table that has room to grow, and its life.
const RESIDENT_BYTES: usize = 2 * size_of::<Resident>() + 96;
