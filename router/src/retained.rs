//! One shard's partition of the retained messages: topic → last message.
//!
//! Topics stand in one ordered map, level by level: `a`, then all of `a/…`, then `a!`. Bytes alone would put
//! `a!` between `a` and `a/…`, so a key is the topic with every `/` written as a zero byte, which no topic
//! holds. What a filter matches is then a few ranges, and a walk jumps from one to the next:
//!
//! ```text
//!  filter +/x     a   a/b   a/x   a/y   a/y/z   b   b/x
//!                 └────────► ● ─────────────────────► ●      5 looked at, 2 visited
//! ```
//!
//! The state of a walk is one topic, the last that was looked at, so it may rest between two calls while the
//! store changes beneath it: what stands behind the resume point when the walk comes by is visited.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use quelea_mqtt::{TopicFilter, TopicName};
use smallvec::SmallVec;

/// Retained messages by topic, within limits.
pub struct RetainedStore<M> {
    messages: BTreeMap<Box<[u8]>, Retained<M>>,
    limits: RetainedLimits,
    bytes: usize,
}

struct Retained<M> {
    message: M,
    /// As given with it.
    bytes: usize,
}

/// What a [`RetainedStore`] may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedLimits {
    /// Messages, one per topic.
    pub messages_max: usize,
    /// Sum of what is charged: for each message the bytes given with it, its topic and [`ENTRY_BYTES`].
    pub bytes_max: usize,
}

/// How far a walk may go: it ends with the topic that uses up either. What is left can be read after it.
///
/// Bytes are those of the topics looked at. Each is compared, and copied once or twice, so a thousand topics of 64 KB
/// are a thousand times the work of a thousand short ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkBudget {
    /// Topics to look at, matching or not; above 0 at the start.
    pub steps: usize,
    /// Bytes of these topics. The first topic is looked at, however long it is.
    pub bytes: usize,
}

impl WalkBudget {
    /// As many topics as this, however long.
    pub const fn steps(steps: usize) -> Self {
        Self { steps, bytes: usize::MAX }
    }

    /// Takes one topic off; whether another may be looked at.
    fn spend(&mut self, topic_bytes: usize) -> bool {
        self.steps -= 1;
        self.bytes = self.bytes.saturating_sub(topic_bytes);
        self.steps > 0 && self.bytes > 0
    }
}

/// Why a message was not retained; the store is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainedFull {
    /// There are `messages_max` messages, and this topic has none.
    Messages,
    /// The charge would exceed `bytes_max`.
    Bytes,
}

impl fmt::Display for RetainedFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Messages => "the limit on the number of retained messages is reached",
            Self::Bytes => "the limit on the bytes of retained messages is reached",
        })
    }
}

impl std::error::Error for RetainedFull {}

impl<M> RetainedStore<M> {
    /// An empty store.
    pub const fn new(limits: RetainedLimits) -> Self {
        Self { messages: BTreeMap::new(), limits, bytes: 0 }
    }

    /// Retains `message` for `topic` and returns the one it replaces. `bytes` is what the message costs
    /// beside topic and entry.
    ///
    /// # Errors
    /// [`RetainedFull`] if a limit would be exceeded; the old message stays.
    pub fn set(&mut self, topic: TopicName<'_>, message: M, bytes: usize) -> Result<Option<M>, RetainedFull> {
        let key = Key::of(topic.as_str());
        let is_full = self.messages.len() >= self.limits.messages_max;
        let old = self.messages.get_mut(key.as_slice());
        let bytes_before = old.as_ref().map_or(0, |old| charge(&key, old.bytes));
        let bytes_after = self.bytes - bytes_before + charge(&key, bytes);
        if old.is_none() && is_full {
            return Err(RetainedFull::Messages);
        }
        if bytes_after > self.limits.bytes_max {
            return Err(RetainedFull::Bytes);
        }
        self.bytes = bytes_after;
        let new = Retained { message, bytes };
        match old {
            Some(old) => Ok(Some(std::mem::replace(old, new).message)),
            None => {
                self.messages.insert(key.as_slice().into(), new);
                Ok(None)
            }
        }
    }

    /// Takes out the message of `topic`.
    pub fn remove(&mut self, topic: TopicName<'_>) -> Option<M> {
        let key = Key::of(topic.as_str());
        let old = self.messages.remove(key.as_slice())?;
        self.bytes -= charge(&key, old.bytes);
        Some(old.message)
    }

    /// The message of `topic`.
    pub fn get(&self, topic: TopicName<'_>) -> Option<&M> {
        self.messages.get(Key::of(topic.as_str()).as_slice()).map(|retained| &retained.message)
    }

    /// Messages in the store.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// What is charged against `bytes_max`.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Visits messages whose topic matches `filter`, in the order of topics, strictly after `after` (`None`:
    /// from the start), and looks at no more topics than `budget` has, matching or not.
    ///
    /// `visit` returns false to end the call; the message it was given counts as visited. Returned is the
    /// topic to give as `after` next time, or `None` when nothing is left to look at. `after` need not be in
    /// the store any more. The budget must have a step.
    pub fn walk(
        &self,
        filter: TopicFilter<'_>,
        after: Option<&str>,
        budget: &mut WalkBudget,
        mut visit: impl FnMut(TopicName<'_>, &M) -> bool,
    ) -> Option<Box<str>> {
        assert!(budget.steps > 0, "a walk without steps does not end");
        let filter = Pattern::new(filter);
        let mut text = String::new();
        let mut next = match after {
            Some(after) => filter.next_after(Key::of(after)),
            None => filter.first(),
        };
        loop {
            let bounds = match &next {
                Next::Nothing => return None,
                Next::From(key) => (Bound::Included(key.as_slice()), Bound::Unbounded),
                Next::After(key) => (Bound::Excluded(key.as_slice()), Bound::Unbounded),
            };
            let mut jump = None;
            // As long as topics match, the iterator goes on by itself; a jump begins a new range.
            for (key, retained) in self.messages.range::<[u8], _>(bounds) {
                let may_go_on = budget.spend(key.len());
                let wants_more = match filter.judge(key) {
                    Judgement::Match => visit(topic(key, &mut text), &retained.message),
                    Judgement::Jump(Next::Nothing) => return None,
                    Judgement::Jump(next) => {
                        jump = Some(next);
                        true
                    }
                };
                if !may_go_on || !wants_more {
                    return Some(topic(key, &mut text).as_str().into());
                }
                if jump.is_some() {
                    break;
                }
            }
            next = jump?;
        }
    }

    /// Visits every message, whatever its topic, in the order of topics, strictly after `after` (`None`: from the
    /// start), as many as `budget` has steps and bytes for. Returned is the topic to give as `after` next time, or `None` when nothing
    /// is left.
    pub fn walk_all(
        &self,
        after: Option<&str>,
        mut budget: WalkBudget,
        mut visit: impl FnMut(TopicName<'_>, &M),
    ) -> Option<Box<str>> {
        assert!(budget.steps > 0, "a walk without steps does not end");
        let mut text = String::new();
        let after = after.map(Key::of);
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        for (key, retained) in self.messages.range::<[u8], _>((from, Bound::Unbounded)) {
            let topic = topic(key, &mut text);
            visit(topic, &retained.message);
            if !budget.spend(key.len()) {
                return Some(topic.as_str().into());
            }
        }
        None
    }
}

/// A topic as it stands in the map.
struct Key(SmallVec<[u8; KEY_INLINE]>);

impl Key {
    fn of(topic: &str) -> Self {
        Self(topic.bytes().map(|byte| if byte == b'/' { SEPARATOR } else { byte }).collect())
    }

    /// The first key behind `prefix` and everything below it, at the same or a higher level.
    fn behind(prefix: &[u8]) -> Self {
        let mut key = SmallVec::from_slice(prefix);
        key.push(SEPARATOR + 1);
        Self(key)
    }

    fn join(prefix: &[u8], level: &[u8]) -> Self {
        let mut key = SmallVec::from_slice(prefix);
        key.extend_from_slice(level);
        Self(key)
    }

    fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl std::ops::Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Where a walk looks next.
enum Next {
    Nothing,
    From(Key),
    After(Key),
}

enum Judgement {
    Match,
    /// Not this topic; the given place is behind it and nothing up to there matches either.
    Jump(Next),
}

/// A filter, taken apart for a walk.
struct Pattern<'a> {
    filter: TopicFilter<'a>,
    wild_first: bool,
}

impl<'a> Pattern<'a> {
    fn new(filter: TopicFilter<'a>) -> Self {
        Self { filter, wild_first: filter.as_str().starts_with(['+', '#']) }
    }

    /// Where the first match may be: at the levels before the first wildcard.
    fn first(&self) -> Next {
        let text = self.filter.as_str();
        let literal = &text[..text.find(['+', '#']).unwrap_or(text.len())];
        // `a/#` matches `a` as well, so the slash before the wildcard is not part of the start.
        Next::From(Key::of(if self.filter.has_wildcard() {
            literal.strip_suffix('/').unwrap_or(literal)
        } else {
            literal
        }))
    }

    fn next_after(&self, key: Key) -> Next {
        match self.judge(&key) {
            Judgement::Match => Next::After(key),
            Judgement::Jump(next) => next,
        }
    }

    /// Compares a key with the filter level by level; at the first difference, where to go on.
    fn judge(&self, key: &[u8]) -> Judgement {
        if self.wild_first && key.first() == Some(&b'$') {
            // `[MQTT-4.7.2-1]`; all topics that begin with `$` are neighbours.
            return Judgement::Jump(Next::From(Key::join(&[], &[b'$' + 1])));
        }
        // The end of the key's levels up to and with the last one that a `+` took: what follows is fixed by
        // the filter, so that this is where the next candidate may differ.
        let mut free_end = None;
        // Where the key's current level begins; behind the end when it has no more levels.
        let mut start = 0;
        for wanted in self.filter.levels() {
            if wanted == "#" {
                return Judgement::Match;
            }
            if start > key.len() {
                // The key is a parent of what may match.
                let below = Key::join(key, &[SEPARATOR]);
                let level = if wanted == "+" { "" } else { wanted };
                return Judgement::Jump(Next::From(Key::join(&below, level.as_bytes())));
            }
            let end =
                key[start..].iter().position(|byte| *byte == SEPARATOR).map_or(key.len(), |at| start + at);
            if wanted == "+" {
                free_end = Some(end);
            } else {
                match key[start..end].cmp(wanted.as_bytes()) {
                    std::cmp::Ordering::Equal => {}
                    std::cmp::Ordering::Less => {
                        return Judgement::Jump(Next::From(Key::join(&key[..start], wanted.as_bytes())));
                    }
                    std::cmp::Ordering::Greater => return Judgement::Jump(next_free(key, free_end)),
                }
            }
            start = end + 1;
        }
        if start > key.len() {
            return Judgement::Match;
        }
        Judgement::Jump(next_free(key, free_end))
    }
}

/// Behind the subtree of the last level that was free.
fn next_free(key: &[u8], free_end: Option<usize>) -> Next {
    match free_end {
        Some(end) => Next::From(Key::behind(&key[..end])),
        None => Next::Nothing,
    }
}

/// The topic of a key, written into `text`.
fn topic<'a>(key: &[u8], text: &'a mut String) -> TopicName<'a> {
    text.clear();
    for level in key.split(|byte| *byte == SEPARATOR) {
        let Ok(level) = std::str::from_utf8(level) else { unreachable!("keys are made of text") };
        text.push_str(level);
        text.push('/');
    }
    text.pop();
    let Ok(topic) = TopicName::new(text, usize::MAX) else { unreachable!("keys are made of topics") };
    topic
}

fn charge(key: &[u8], bytes: usize) -> usize {
    key.len() + bytes + ENTRY_BYTES
}

/// Charged for each retained message on top of its bytes and its topic: the entry in the map at its usual
/// fill, and the allocator's part in the key.
pub const ENTRY_BYTES: usize = 64;
/// Sorts before every byte of a topic, so that order is by level.
const SEPARATOR: u8 = 0;
/// Topics up to this length are looked up without an allocation.
const KEY_INLINE: usize = 128;
