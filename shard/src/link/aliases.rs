//! Topic aliases of one connection, in both directions. They live as long as the connection, and what they remember is
//! limited in number, by the Topic Alias Maximum of either side, and in bytes.

use core::num::NonZeroU16;

use bytes::Bytes;
use quelea_mqtt::ReasonCode;

use crate::hash::KeyedMap;

/// What a connection may remember of topics with an alias, in one direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AliasLimits {
    /// Aliases from 1 to this.
    pub(crate) max: u16,
    /// Bytes of their topics.
    pub(crate) bytes_max: usize,
}

/// Aliases that the client has set.
#[derive(Debug, Default)]
pub(crate) struct AliasesIn {
    topics: Vec<Option<Box<str>>>,
    topics_bytes: usize,
}

impl AliasesIn {
    /// A topic with an alias: remembered for this connection `[MQTT-3.3.2-12]`.
    ///
    /// # Errors
    /// The alias is larger than what was announced, or the topics are longer than what one connection may remember.
    pub(crate) fn learn(&mut self, alias: u16, topic: &str, limits: AliasLimits) -> Result<(), ReasonCode> {
        if alias > limits.max {
            return Err(ReasonCode::TOPIC_ALIAS_INVALID);
        }
        let at = usize::from(alias) - 1;
        let before = self.topics.get(at).and_then(Option::as_deref).map_or(0, str::len);
        let topics_bytes = self.topics_bytes - before + topic.len();
        if topics_bytes > limits.bytes_max {
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        self.topics_bytes = topics_bytes;
        if self.topics.len() <= at {
            self.topics.resize_with(at + 1, || None);
        }
        self.topics[at] = Some(topic.into());
        Ok(())
    }

    /// The topic of an alias that this connection has set.
    pub(crate) fn topic(&self, alias: u16) -> Option<&str> {
        self.topics.get(usize::from(alias) - 1)?.as_deref()
    }

    /// Memory that it holds.
    pub(crate) fn held_bytes(&self) -> usize {
        self.topics_bytes + self.topics.capacity() * size_of::<Option<Box<str>>>()
    }
}

/// Aliases towards the client: the first topics that come get them.
#[derive(Debug)]
pub(crate) struct AliasesOut {
    limits: AliasLimits,
    topics: Option<KeyedMap<Bytes, NonZeroU16>>,
    topics_bytes: usize,
    keyed: crate::hash::Keyed,
}

impl AliasesOut {
    pub(crate) fn new(keyed: crate::hash::Keyed) -> Self {
        Self { limits: AliasLimits { max: 0, bytes_max: 0 }, topics: None, topics_bytes: 0, keyed }
    }

    /// Aliases from 1 to the client's Topic Alias Maximum, or ours if that is smaller.
    pub(crate) fn allow(&mut self, limits: AliasLimits) {
        self.limits = limits;
    }

    /// The alias of a topic: `(alias, is new)`.
    pub(crate) fn alias(&mut self, topic: &[u8]) -> Option<(NonZeroU16, bool)> {
        if self.limits.max == 0 {
            return None;
        }
        let topics = self.topics.get_or_insert_with(|| KeyedMap::with_hasher(self.keyed));
        if let Some(alias) = topics.get(topic) {
            return Some((*alias, false));
        }
        let topics_bytes = self.topics_bytes + topic.len();
        if topics.len() >= usize::from(self.limits.max) || topics_bytes > self.limits.bytes_max {
            return None;
        }
        let alias = NonZeroU16::new(topics.len() as u16 + 1)?;
        self.topics_bytes = topics_bytes;
        // A copy: the publication's own allocation must not live as long as the connection.
        topics.insert(Bytes::copy_from_slice(topic), alias);
        Some((alias, true))
    }

    /// Memory that it holds.
    pub(crate) fn held_bytes(&self) -> usize {
        let table = self.topics.as_ref().map_or(0, |topics| topics.capacity() * ENTRY_BYTES);
        self.topics_bytes + table
    }
}

/// An entry of the table, which is never quite full.
const ENTRY_BYTES: usize = 48;
