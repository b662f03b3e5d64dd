//! The trie of wildcard filters without their text: filter → one `u32` of the owner.
//!
//! For [`Interest`](crate::Interest), of which every shard holds a copy, and which may name a filter too many
//! but never one too few. A node is known by the keyed fingerprint of its path, folded level by level, and the
//! nodes of all paths stand in one hash table: 20 bytes each, where a node with its text and its edge take 75.
//!
//! ```text
//!  filter a/+/#   root ─fold("a")─► path 1 ─fold("+")─► path 2: rest = value
//!  table          { root: below 1 }  { path 1: below plus }  { path 2: rest }
//! ```
//!
//! Two paths with one fingerprint are one node. Filters that end there share their value, and
//! [`Paths::fingerprint`] tells the owner which do. If two *inner* nodes meet, the second parent does not count
//! the child, and what lies below it can be missed: the one case that is accepted, because 64 keyed bits that
//! nobody can aim at make it a chance of one in thirty million for a whole trie of a million nodes.

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::hash::{KeyedHash, fold};
use crate::trie::{LEVELS_INLINE, NONE, level_of};

pub(crate) struct Paths {
    hash: KeyedHash,
    nodes: HashTable<Node>,
    /// The hash of the level `+`, which no literal level has for its text.
    plus: u64,
    filters: usize,
}

#[derive(Clone, Copy)]
struct Node {
    /// In two halves, so that the node is not padded to 24 bytes.
    path: [u32; 2],
    /// The value of the filter that ends here.
    here: u32,
    /// The value of the filter that ends with `#` below this level.
    rest: u32,
    /// The number of literal children, and [`PLUS`].
    below: u32,
}

impl Paths {
    pub(crate) fn new(seed: u64) -> Self {
        let hash = KeyedHash::new(seed);
        let plus = hash.text(b"+");
        Self { hash, nodes: HashTable::new(), plus, filters: 0 }
    }

    /// Filters of one fingerprint share their value.
    pub(crate) fn fingerprint(&self, filter: &str) -> u64 {
        filter.split('/').fold(ROOT, |path, level| fold(path, self.hash.text(level.as_bytes())))
    }

    /// The value of `filter`.
    pub(crate) fn get(&self, filter: &str) -> Option<u32> {
        let (path, is_rest) = self.end_of(filter);
        let node = self.find(path)?;
        Some(if is_rest { node.rest } else { node.here }).filter(|value| *value != NONE)
    }

    /// Sets the value of `filter`, making its nodes as needed.
    pub(crate) fn set(&mut self, filter: &str, value: u32) {
        assert_ne!(value, NONE);
        let mut path = ROOT;
        if self.filters == 0 {
            self.insert_node(ROOT);
        }
        let mut is_rest = false;
        for level in filter.split('/') {
            if level == "#" {
                is_rest = true;
                break;
            }
            let parent = path;
            path = fold(parent, self.hash.text(level.as_bytes()));
            if self.find(path).is_none() {
                self.insert_node(path);
                self.node_mut(parent).gain_child(level == "+");
            }
        }
        let node = self.node_mut(path);
        let slot = if is_rest { &mut node.rest } else { &mut node.here };
        if std::mem::replace(slot, value) == NONE {
            self.filters += 1;
        }
    }

    /// Removes `filter` and the nodes that only it needed; its value.
    pub(crate) fn remove(&mut self, filter: &str) -> Option<u32> {
        let value = self.get(filter)?;
        // The paths from the root to the node, each with whether its last level is `+`.
        let mut paths: SmallVec<[(u64, bool); LEVELS_INLINE]> = SmallVec::new();
        let mut path = ROOT;
        for level in filter.split('/').filter(|level| *level != "#") {
            path = fold(path, self.hash.text(level.as_bytes()));
            paths.push((path, level == "+"));
        }
        let node = self.node_mut(path);
        *(if filter.ends_with('#') { &mut node.rest } else { &mut node.here }) = NONE;
        self.filters -= 1;
        while let Some((path, is_plus)) = paths.pop() {
            if !self.node_mut(path).is_bare() {
                break;
            }
            self.remove_node(path);
            let parent = paths.last().map_or(ROOT, |(path, _)| *path);
            self.node_mut(parent).lose_child(is_plus);
        }
        self.shrink();
        Some(value)
    }

    /// Calls `f` with the value of every filter that matches `topic`, once each, and perhaps with others.
    ///
    /// Filters that begin with a wildcard do not match topics that begin with `$` `[MQTT-4.7.2-1]`. Returned is how
    /// many nodes were looked for.
    pub(crate) fn for_each_match(&self, topic: &str, mut f: impl FnMut(u32)) -> usize {
        if self.filters == 0 {
            return 0;
        }
        let topic = topic.as_bytes();
        let dollar = topic.first() == Some(&b'$');
        // As in the trie with text: the literal child at once, `+` later, one place per level.
        let mut later: SmallVec<[(u64, u32); LEVELS_INLINE]> = SmallVec::new();
        let mut next = Some((ROOT, 0));
        let mut visited = 0;
        while let Some((path, begin)) = next.take().or_else(|| later.pop()) {
            visited += 1;
            let Some(node) = self.find(path) else { continue };
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
            if node.below & PLUS != 0 && wild {
                later.push((fold(path, self.plus), begin_next));
            }
            if node.below & !PLUS != 0 {
                next = Some((fold(path, self.hash.text(level)), begin_next));
            }
        }
        visited
    }

    pub(crate) fn len(&self) -> usize {
        self.filters
    }

    pub(crate) fn bytes(&self) -> usize {
        self.nodes.allocation_size()
    }

    /// Where `filter` has its value: the node, and whether it is the node's `rest`.
    fn end_of(&self, filter: &str) -> (u64, bool) {
        let mut path = ROOT;
        for level in filter.split('/') {
            if level == "#" {
                return (path, true);
            }
            path = fold(path, self.hash.text(level.as_bytes()));
        }
        (path, false)
    }

    #[inline]
    fn find(&self, path: u64) -> Option<&Node> {
        self.nodes.find(path, |node| node.path() == path)
    }

    fn node_mut(&mut self, path: u64) -> &mut Node {
        let node = self.nodes.find_mut(path, |node| node.path() == path);
        let Some(node) = node else { unreachable!("the path has its nodes") };
        node
    }

    fn insert_node(&mut self, path: u64) {
        let halves = [path as u32, (path >> 32) as u32];
        let node = Node { path: halves, here: NONE, rest: NONE, below: 0 };
        self.nodes.insert_unique(path, node, Node::path);
    }

    fn remove_node(&mut self, path: u64) {
        let found = self.nodes.find_entry(path, |node| node.path() == path);
        let Ok(entry) = found else { unreachable!("the path has its nodes") };
        entry.remove();
    }

    fn shrink(&mut self) {
        if self.filters == 0 {
            self.nodes = HashTable::new();
        } else if self.nodes.capacity() > SHRINK_ABOVE && self.nodes.len() * 8 < self.nodes.capacity() {
            self.nodes.shrink_to(self.nodes.len() * 2, Node::path);
        }
    }
}

impl Node {
    #[inline]
    fn path(&self) -> u64 {
        u64::from(self.path[0]) | u64::from(self.path[1]) << 32
    }

    fn gain_child(&mut self, is_plus: bool) {
        if is_plus {
            self.below |= PLUS;
        } else {
            self.below += 1;
        }
    }

    fn lose_child(&mut self, is_plus: bool) {
        if is_plus {
            self.below &= !PLUS;
        } else if self.below & !PLUS != 0 {
            // It is zero for the second parent of a node, see the module's head.
            self.below -= 1;
        }
    }

    fn is_bare(&self) -> bool {
        self.here == NONE && self.rest == NONE && self.below == 0
    }
}

/// The path of no levels.
const ROOT: u64 = 0;
/// In `below`: there is a child for `+`.
const PLUS: u32 = 1 << 31;
/// Below this many nodes shrinking is not worth the copy.
const SHRINK_ABOVE: usize = 64;

const _: () = assert!(size_of::<Node>() == 20);
