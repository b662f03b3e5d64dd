//! Wills: how often each must and may have fired. A client core has one Will for its life, so a Will can fire once for
//! each of its connections.

use super::{Oracle, PubId};

/// How often a Will fires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Firings {
    /// Connections that ended without a word.
    pub(crate) must: u32,
    /// Connections that left it open: a CONNECT that was never answered, a farewell that was not heard, a delay that may
    /// have been cut short.
    pub(crate) may: u32,
}

impl Oracle {
    /// A connection with this Will has ended (or, with a negative number, was found not to count).
    pub(crate) fn on_will(&mut self, id: PubId, must: bool, times: i32) {
        let Some(firings) = &mut self.publications[id.0 as usize].will else { return };
        let count = if must { &mut firings.must } else { &mut firings.may };
        *count = count.saturating_add_signed(times);
    }

    /// Compares with what the watcher has seen, which subscribed to all of them before there were any.
    pub(super) fn judge_wills(&mut self, watcher: usize) {
        let session = self.clients[watcher].session;
        let wrong = self.publications.iter().enumerate().find_map(|(index, publication)| {
            let Firings { must, may } = publication.will?;
            let came = self.seen(watcher, session, index).live;
            let right = (must..=must + may).contains(&came);
            (!right).then(|| {
                format!(
                    "Will {index} of client {} came {came} times: {must} were due, {may} more were possible",
                    publication.actor
                )
            })
        });
        if let Some(wrong) = wrong {
            self.accuse(wrong);
        }
    }
}
