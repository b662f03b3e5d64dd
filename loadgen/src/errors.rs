//! What went wrong, counted by its words.

use std::collections::BTreeMap;

/// Kinds of errors kept apart; further ones are counted together.
const KINDS_MAX: usize = 32;
const OTHERS: &str = "other errors";

/// Counts by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Errors(BTreeMap<String, u64>);

impl Errors {
    pub(crate) fn note(&mut self, reason: &str) {
        self.note_many(reason, 1);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(reason, count)| self.note_many(reason, *count));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(reason, count)| (reason.as_str(), *count))
    }

    fn note_many(&mut self, reason: &str, count: u64) {
        if let Some(known) = self.0.get_mut(reason) {
            *known += count;
        } else if self.0.len() < KINDS_MAX {
            self.0.insert(reason.to_owned(), count);
        } else {
            *self.0.entry(OTHERS.to_owned()).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_limit_to_the_kinds() {
        let mut errors = Errors::default();
        (0..100).for_each(|number| errors.note(&format!("error {number}")));
        errors.note("error 1");
        assert_eq!(errors.iter().count(), KINDS_MAX + 1);
        assert_eq!(errors.iter().map(|(_, count)| count).sum::<u64>(), 101);
        assert!(errors.iter().any(|(reason, count)| reason == OTHERS && count == 100 - KINDS_MAX as u64));
    }
}
