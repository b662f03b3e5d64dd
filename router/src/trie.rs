//! The trie of wildcard filters: filter → one `u32` of the owner.
//!
//! ```text
//!  filters        a/+ = 1   a/+/c = 2   a/# = 3   + = 4
//!
//!  root ── "a" (rest = 3) ── + (here = 1) ── "c" (here = 2)
//!     └─── +   (here = 4)
//! ```
//!
//! A node is 56 bytes in a slab and holds its level's text in place up to 22 bytes. `#` has no node: it is the
//! `rest` of its parent, which also makes `a/#` match `a` as it must. `+` is a field of its parent. Literal
//! children are a linked list of siblings up to [`LISTED_MAX`], then all of them move to one hash table of
//! edges shared by the whole trie, keyed by (parent, level), so that a node with a million children costs no
//! more per child than one with ten.
//!
//! Matching walks with its own stack, as deep as the topic has levels, and allocates nothing for topics of up
//! to [`LEVELS_INLINE`] levels.

use smallvec::SmallVec;

use crate::hash::{KeyedHash, fold};
use crate::id_table::IdTable;
use crate::slab::Slab;

/// No value, no node.
pub(crate) const NONE: u32 = u32::MAX;

pub(crate) struct Trie {
    hash: KeyedHash,
    /// Slot 0 is the root, which lives as long as there is a filter.
    nodes: Slab<Node>,
    edges: IdTable,
    filters: usize,
    label_bytes: usize,
}

struct Node {
    label: Label,
    label_hash: u32,
    parent: u32,
    plus: u32,
    /// First literal child, or [`INDEXED`] when the children are in the table of edges.
    first_child: u32,
    next_sibling: u32,
    literal_children: u32,
    /// The value of the filter that ends with this level.
    here: u32,
    /// The value of the filter that ends with `#` below this level.
    rest: u32,
}

/// The text of one level.
enum Label {
    Inline { length: u8, bytes: [u8; LABEL_INLINE] },
    Heap(Box<[u8]>),
}

/// The value's place in its node.
#[derive(Clone, Copy)]
enum Place {
    Here,
    Rest,
}

impl Trie {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            hash: KeyedHash::new(seed),
            nodes: Slab::new(),
            edges: IdTable::new(),
            filters: 0,
            label_bytes: 0,
        }
    }

    /// The value of `filter`.
    pub(crate) fn get(&self, filter: &str) -> Option<u32> {
        let (node, place) = self.find(filter)?;
        Some(self.nodes[node].value(place)).filter(|value| *value != NONE)
    }

    /// Sets the value of `filter`, making its nodes as needed.
    pub(crate) fn set(&mut self, filter: &str, value: u32) {
        assert_ne!(value, NONE);
        let mut at = ROOT;
        let mut place = Place::Here;
        if self.filters == 0 {
            let root = self.nodes.insert(Node::new(Label::new(&[]), 0, NONE));
            assert_eq!(root, ROOT);
        }
        for level in filter.split('/') {
            match level {
                "#" => place = Place::Rest,
                "+" => at = self.plus_or_new(at),
                literal => at = self.child_or_new(at, literal.as_bytes()),
            }
        }
        let slot = self.nodes[at].value_mut(place);
        if std::mem::replace(slot, value) == NONE {
            self.filters += 1;
        }
    }

    /// Removes `filter` and the nodes that only it needed; its value.
    pub(crate) fn remove(&mut self, filter: &str) -> Option<u32> {
        let (node, place) = self.find(filter)?;
        let value = std::mem::replace(self.nodes[node].value_mut(place), NONE);
        if value == NONE {
            return None;
        }
        self.forget_filter(node);
        Some(value)
    }

    /// Calls `f` with the value of every filter that matches `topic`, once each.
    ///
    /// Filters that begin with a wildcard do not match topics that begin with `$` `[MQTT-4.7.2-1]`. Returned is how
    /// many nodes were visited.
    pub(crate) fn for_each_match(&self, topic: &str, mut f: impl FnMut(u32)) -> usize {
        if self.filters == 0 {
            return 0;
        }
        let topic = topic.as_bytes();
        let dollar = topic.first() == Some(&b'$');
        // The literal child is followed at once and `+` left for later: one place per level is enough. A
        // level is named by where it begins in the topic; behind the end there is none.
        let mut later: SmallVec<[(u32, u32); LEVELS_INLINE]> = SmallVec::new();
        let mut next = Some((ROOT, 0));
        let mut visited = 0;
        while let Some((id, begin)) = next.take().or_else(|| later.pop()) {
            visited += 1;
            let node = &self.nodes[id];
            let wild = begin > 0 || !dollar;
            if node.rest != NONE && wild {
                f(node.rest);
            }
            let Some(left) = topic.get(begin as usize..) else {
                if node.here != NONE {
                    f(node.here);
                }
                continue;
            };
            let level = level_of(left);
            let begin_next = begin + level.len() as u32 + 1;
            if node.plus != NONE && wild {
                later.push((node.plus, begin_next));
            }
            next = self.child(node, id, level).map(|child| (child, begin_next));
        }
        visited
    }

    pub(crate) fn bytes(&self) -> usize {
        self.nodes.bytes() + self.edges.bytes() + self.label_bytes
    }

    fn find(&self, filter: &str) -> Option<(u32, Place)> {
        if self.filters == 0 {
            return None;
        }
        let mut at = ROOT;
        for level in filter.split('/') {
            match level {
                "#" => return Some((at, Place::Rest)),
                "+" => at = Some(self.nodes[at].plus).filter(|plus| *plus != NONE)?,
                literal => at = self.child(&self.nodes[at], at, literal.as_bytes())?,
            }
        }
        Some((at, Place::Here))
    }

    /// The literal child `level` of `node`, whose handle is `parent`.
    #[inline]
    fn child(&self, node: &Node, parent: u32, level: &[u8]) -> Option<u32> {
        let mut child = node.first_child;
        if child == INDEXED {
            let hash = edge_hash(parent, self.hash.text(level) as u32);
            return self.edges.find(hash, |id| {
                let node = &self.nodes[id];
                node.parent == parent && node.label.is(level)
            });
        }
        while child != NONE {
            let node = &self.nodes[child];
            if node.label.is(level) {
                return Some(child);
            }
            child = node.next_sibling;
        }
        None
    }

    fn plus_or_new(&mut self, parent: u32) -> u32 {
        let plus = self.nodes[parent].plus;
        if plus != NONE {
            return plus;
        }
        let plus = self.nodes.insert(Node::new(Label::new(&[]), 0, parent));
        self.nodes[parent].plus = plus;
        plus
    }

    fn child_or_new(&mut self, parent: u32, level: &[u8]) -> u32 {
        if let Some(child) = self.child(&self.nodes[parent], parent, level) {
            return child;
        }
        let label = Label::new(level);
        self.label_bytes += label.heap_bytes();
        let child = self.nodes.insert(Node::new(label, self.hash.text(level) as u32, parent));
        self.nodes[parent].literal_children += 1;
        if self.nodes[parent].literal_children as usize == LISTED_MAX + 1 {
            self.index_children(parent);
        }
        self.link(parent, child);
        child
    }

    fn link(&mut self, parent: u32, child: u32) {
        let first = self.nodes[parent].first_child;
        if first == INDEXED {
            let hash = edge_hash(parent, self.nodes[child].label_hash);
            self.edges.insert(hash, child);
        } else {
            self.nodes[child].next_sibling = first;
            self.nodes[parent].first_child = child;
        }
    }

    /// Moves the listed children of `parent` to the table of edges, where they stay until the last is gone.
    fn index_children(&mut self, parent: u32) {
        let mut child = std::mem::replace(&mut self.nodes[parent].first_child, INDEXED);
        while child != NONE && child != INDEXED {
            let next = std::mem::replace(&mut self.nodes[child].next_sibling, NONE);
            self.link(parent, child);
            child = next;
        }
    }

    /// Counts a filter less, whose value was at `node`, and frees what only it needed.
    fn forget_filter(&mut self, node: u32) {
        self.filters -= 1;
        self.prune(node);
        if self.filters == 0 {
            self.nodes.remove(ROOT);
        }
    }

    /// Frees `id` and its ancestors below the root as far as they hold nothing.
    fn prune(&mut self, mut id: u32) {
        while id != ROOT && self.nodes[id].is_bare() {
            let parent = self.nodes[id].parent;
            self.unlink(parent, id);
            let node = self.nodes.remove(id);
            self.label_bytes -= node.label.heap_bytes();
            id = parent;
        }
    }

    fn unlink(&mut self, parent: u32, child: u32) {
        if self.nodes[parent].plus == child {
            self.nodes[parent].plus = NONE;
            return;
        }
        let next = self.nodes[child].next_sibling;
        let first = self.nodes[parent].first_child;
        if first == INDEXED {
            self.edges.remove(edge_hash(parent, self.nodes[child].label_hash), child);
        } else if first == child {
            self.nodes[parent].first_child = next;
        } else {
            let mut before = first;
            while self.nodes[before].next_sibling != child {
                before = self.nodes[before].next_sibling;
            }
            self.nodes[before].next_sibling = next;
        }
        self.nodes[parent].literal_children -= 1;
        if self.nodes[parent].literal_children == 0 {
            self.nodes[parent].first_child = NONE;
        }
    }
}

impl Node {
    fn new(label: Label, label_hash: u32, parent: u32) -> Self {
        Self {
            label,
            label_hash,
            parent,
            plus: NONE,
            first_child: NONE,
            next_sibling: NONE,
            literal_children: 0,
            here: NONE,
            rest: NONE,
        }
    }

    fn is_bare(&self) -> bool {
        self.here == NONE && self.rest == NONE && self.plus == NONE && self.literal_children == 0
    }

    fn value(&self, place: Place) -> u32 {
        match place {
            Place::Here => self.here,
            Place::Rest => self.rest,
        }
    }

    fn value_mut(&mut self, place: Place) -> &mut u32 {
        match place {
            Place::Here => &mut self.here,
            Place::Rest => &mut self.rest,
        }
    }
}

impl Label {
    fn new(text: &[u8]) -> Self {
        if text.len() > LABEL_INLINE {
            return Self::Heap(text.into());
        }
        let mut bytes = [0; LABEL_INLINE];
        bytes[..text.len()].copy_from_slice(text);
        Self::Inline { length: text.len() as u8, bytes }
    }

    #[inline]
    fn is(&self, text: &[u8]) -> bool {
        match self {
            Self::Inline { length, bytes } => bytes[..usize::from(*length)] == *text,
            Self::Heap(own) => **own == *text,
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Self::Inline { .. } => 0,
            Self::Heap(text) => text.len(),
        }
    }
}

/// The first level of what is left of a topic.
#[inline]
pub(crate) fn level_of(left: &[u8]) -> &[u8] {
    &left[..left.iter().position(|byte| *byte == b'/').unwrap_or(left.len())]
}

/// The hash of the edge from `parent` to the level whose hash is `label_hash`.
#[inline]
fn edge_hash(parent: u32, label_hash: u32) -> u64 {
    fold(u64::from(parent) << 32, u64::from(label_hash))
}

const ROOT: u32 = 0;
/// In `first_child`: the children are in the table of edges.
const INDEXED: u32 = NONE - 1;
/// Siblings are found by walking up to this many; each step may be a cache miss, as the table costs two.
const LISTED_MAX: usize = 4;
/// What fits beside the tag in 24 bytes.
const LABEL_INLINE: usize = 22;
/// Topics of more levels are matched all the same, with an allocation.
pub(crate) const LEVELS_INLINE: usize = 128;

const _: () = assert!(size_of::<Node>() == 56 && size_of::<Option<Node>>() == 56);
