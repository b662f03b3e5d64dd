//! Loss, duplicates and disorder by QoS: what each receiver must have got from each publisher, against its book.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::book::Counts;
use crate::plan::Shape;
use crate::run::Findings;
use crate::worker::PublisherCounts;

/// One QoS. All figures count the whole run, warm-up and drain included.
#[derive(Debug, Default, Serialize)]
pub(crate) struct QosCounts {
    pub(crate) qos: u8,
    /// Messages handed to publishing clients.
    pub(crate) published: u64,
    /// Messages written to the transport (QoS 0) or acknowledged (QoS 1 and 2).
    pub(crate) confirmed: u64,
    /// Messages refused with a reason.
    pub(crate) refused: u64,
    /// Messages that left late because the broker held their publisher back.
    pub(crate) held_back: u64,
    /// Messages that were due and never left.
    pub(crate) unsent: u64,
    /// Messages of QoS 1 and 2 that were neither acknowledged nor refused, by a broker that was connected.
    pub(crate) unanswered: u64,
    /// Deliveries that must happen: one per receiver for each confirmed message.
    pub(crate) expected: u64,
    /// Different messages received.
    pub(crate) received: u64,
    /// Expected and not received.
    pub(crate) lost: u64,
    /// Received again.
    pub(crate) duplicated: u64,
    /// Received after a later one of the same publisher; null where there is no order (`share`).
    pub(crate) disordered: Option<u64>,
    /// Too late to be told from duplicates.
    pub(crate) unplaced: u64,
}

pub(super) fn by_qos(findings: &Findings) -> Vec<QosCounts> {
    let mut levels: BTreeMap<u8, QosCounts> = BTreeMap::new();
    let mut of = |qos: u8, change: &dyn Fn(&mut QosCounts)| {
        change(levels.entry(qos).or_insert_with(|| QosCounts { qos, ..QosCounts::default() }));
    };
    let mut publishers: BTreeMap<u32, PublisherCounts> = BTreeMap::new();
    for (number, qos, counts) in &findings.publishers {
        publishers.insert(*number, *counts);
        of(*qos as u8, &|level| {
            level.published += counts.published;
            level.confirmed += counts.confirmed;
            level.refused += counts.refused;
            level.held_back += counts.held_back;
            level.unsent += counts.unsent;
            level.unanswered += counts.unanswered;
        });
    }
    let is_ordered = findings.plan.is_ordered();
    for (_, paths) in &findings.receivers {
        for path in paths {
            // Of a publisher of this run everything is known; of others, what lies between their first and last message.
            let (qos, expected) = match findings.plan.shape {
                Shape::Sub => (path.qos as u8, path.span),
                _ => (
                    findings.plan.qos_of(path.publisher) as u8,
                    publishers.get(&path.publisher).map_or(0, |counts| counts.confirmed),
                ),
            };
            let Counts { received, duplicated, disordered, unplaced } = path.counts;
            of(qos, &|level| {
                level.expected += expected;
                level.received += received;
                level.lost += expected.saturating_sub(received);
                level.duplicated += duplicated;
                level.unplaced += unplaced;
                if is_ordered {
                    *level.disordered.get_or_insert(0) += disordered;
                }
            });
        }
    }
    levels.into_values().collect()
}
