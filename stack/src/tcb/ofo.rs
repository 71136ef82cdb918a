//! The out-of-order queue.
//!
//! Segments are kept by sequence number; that alone would be a map. But where segments overlap, what Linux reports and
//! keeps depends on *which of its neighbours a new segment meets first*, and that is the order in which a search from
//! the root of its red-black tree passes them. So the tree's shape is kept beside the map: the textbook algorithm
//! (Cormen et al., *Introduction to Algorithms*, chapter 13), which Linux's `lib/rbtree.c` follows as well, applied in
//! the order in which Linux links and unlinks.

use std::collections::BTreeMap;

use arrayvec::ArrayVec;

use crate::skb::Skb;

/// A red-black tree of 2³¹ nodes is not higher than this.
const HEIGHT: usize = 64;

/// Keys that a search passes, the root first.
pub(crate) type Path = ArrayVec<u64, HEIGHT>;

/// Bits of a key that tell buffers with the same first byte apart. Only a collapse makes such: what it copied from a longer
/// buffer may begin where a shorter one, which it had no need of, stays.
pub(crate) const OFO_TIES: u32 = 8;

/// Out-of-order segments by the 64-bit position of their first byte.
#[derive(Debug, Default)]
pub(crate) struct OfoQueue {
    map: BTreeMap<u64, Skb>,
    shape: Shape,
}

impl OfoQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Skb)> {
        self.map.iter().map(|(k, s)| (*k, s))
    }

    pub(crate) fn keys(&self, range: core::ops::RangeInclusive<u64>) -> impl Iterator<Item = u64> {
        self.map.range(range).map(|(k, _)| *k)
    }

    pub(crate) fn from(&self, key: u64) -> impl Iterator<Item = (u64, &Skb)> {
        self.map.range(key..).map(|(k, s)| (*k, s))
    }

    pub(crate) fn first(&self) -> Option<(u64, &Skb)> {
        self.map.first_key_value().map(|(k, s)| (*k, s))
    }

    pub(crate) fn last(&self) -> Option<(u64, &Skb)> {
        self.map.last_key_value().map(|(k, s)| (*k, s))
    }

    pub(crate) fn get(&self, key: u64) -> Option<&Skb> {
        self.map.get(&key)
    }

    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut Skb> {
        self.map.get_mut(&key)
    }

    /// The first segment at or above `key`.
    pub(crate) fn at_or_above(&self, key: u64) -> Option<(u64, &Skb)> {
        self.map.range(key..).next().map(|(k, s)| (*k, s))
    }

    /// The keys that a search for `key` passes, the root first.
    pub(crate) fn path(&self, key: u64) -> Path {
        self.shape.path(key)
    }

    /// Gives a segment its place in the tree before it is inserted: what it covers is taken out afterwards.
    pub(crate) fn place(&mut self, key: u64) {
        self.shape.insert(key);
    }

    /// A key for a buffer that begins where `key` says, to the right of those that do too.
    pub(crate) fn free_key(&self, key: u64) -> u64 {
        let ties = (1 << OFO_TIES) - 1;
        self.map.range(key..=key | ties).next_back().map_or(key, |(k, _)| (k + 1).min(key | ties))
    }

    pub(crate) fn insert(&mut self, key: u64, skb: Skb) {
        self.shape.insert(key);
        self.map.insert(key, skb);
    }

    pub(crate) fn remove(&mut self, key: u64) -> Option<Skb> {
        self.shape.remove(key);
        self.map.remove(&key)
    }

    /// Takes a segment out whose place another one takes over.
    pub(crate) fn vacate(&mut self, key: u64) -> Option<Skb> {
        self.map.remove(&key)
    }

    /// Takes a key out of the tree whose segment is gone already.
    pub(crate) fn forget(&mut self, key: u64) {
        self.shape.remove(key);
    }

    pub(crate) fn take_all(&mut self) -> BTreeMap<u64, Skb> {
        self.shape = Shape::default();
        core::mem::take(&mut self.map)
    }
}

type Link = u32;
const NIL: Link = 0;
const LEFT: usize = 0;
const RIGHT: usize = 1;

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    key: u64,
    child: [Link; 2],
    parent: Link,
    red: bool,
}

/// The shape of a red-black tree: its keys and nothing else. Node 0 stands for every leaf; it is black.
#[derive(Debug)]
struct Shape {
    nodes: Vec<Node>,
    free: Vec<Link>,
    root: Link,
    len: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { nodes: vec![Node::default()], free: Vec::new(), root: NIL, len: 0 }
    }
}

impl Shape {
    fn node(&self, n: Link) -> Node {
        self.nodes.get(n as usize).copied().unwrap_or_default()
    }

    fn child(&self, n: Link, side: usize) -> Link {
        self.node(n).child.get(side).copied().unwrap_or(NIL)
    }

    fn edit(&mut self, n: Link, f: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(n as usize) {
            f(node);
        }
    }

    fn paint(&mut self, n: Link, red: bool) {
        self.edit(n, |x| x.red = red);
    }

    fn set_child(&mut self, n: Link, side: usize, to: Link) {
        self.edit(n, |x| {
            if let Some(slot) = x.child.get_mut(side) {
                *slot = to;
            }
        });
    }

    /// On which side of its parent a node hangs.
    fn side(&self, n: Link) -> usize {
        usize::from(self.child(self.node(n).parent, RIGHT) == n)
    }

    fn turn(at: u64, key: u64) -> usize {
        usize::from(key > at)
    }

    fn path(&self, key: u64) -> Path {
        let mut path = Path::new();
        let mut n = self.root;
        while n != NIL && !path.is_full() {
            let at = self.node(n).key;
            path.push(at);
            if at == key {
                break;
            }
            n = self.child(n, Self::turn(at, key));
        }
        path
    }

    fn find(&self, key: u64) -> Link {
        let mut n = self.root;
        while n != NIL && self.node(n).key != key {
            n = self.child(n, Self::turn(self.node(n).key, key));
        }
        n
    }

    /// Hangs `new` where `old` hangs.
    fn transplant(&mut self, old: Link, new: Link) {
        let parent = self.node(old).parent;
        if parent == NIL {
            self.root = new;
        } else {
            let side = self.side(old);
            self.set_child(parent, side, new);
        }
        // Also for the leaf: removal looks at where it hangs.
        self.edit(new, |x| x.parent = parent);
    }

    /// Turns the tree around `n`: its child on the other side comes up, `n` goes down on `side`.
    fn rotate(&mut self, n: Link, side: usize) {
        let up = self.child(n, 1 - side);
        let inner = self.child(up, side);
        self.transplant(n, up);
        self.set_child(n, 1 - side, inner);
        if inner != NIL {
            self.edit(inner, |x| x.parent = n);
        }
        self.set_child(up, side, n);
        self.edit(n, |x| x.parent = up);
    }

    fn insert(&mut self, key: u64) {
        let (mut parent, mut n) = (NIL, self.root);
        while n != NIL {
            let at = self.node(n).key;
            if at == key {
                return;
            }
            parent = n;
            n = self.child(n, Self::turn(at, key));
        }
        let fresh = Node { key, child: [NIL; 2], parent, red: true };
        let n = match self.free.pop() {
            Some(n) => {
                self.edit(n, |x| *x = fresh);
                n
            }
            None => {
                self.nodes.push(fresh);
                (self.nodes.len() - 1) as Link
            }
        };
        if parent == NIL {
            self.root = n;
        } else {
            self.set_child(parent, Self::turn(self.node(parent).key, key), n);
        }
        self.len += 1;
        self.mend_insert(n);
    }

    /// No red node may have a red child.
    fn mend_insert(&mut self, mut n: Link) {
        while self.node(self.node(n).parent).red {
            let parent = self.node(n).parent;
            let grand = self.node(parent).parent;
            let side = self.side(parent);
            let uncle = self.child(grand, 1 - side);
            if self.node(uncle).red {
                self.paint(parent, false);
                self.paint(uncle, false);
                self.paint(grand, true);
                n = grand;
                continue;
            }
            if self.side(n) != side {
                n = parent;
                self.rotate(n, side);
            }
            let parent = self.node(n).parent;
            let grand = self.node(parent).parent;
            self.paint(parent, false);
            self.paint(grand, true);
            self.rotate(grand, 1 - side);
        }
        self.paint(self.root, false);
    }

    fn remove(&mut self, key: u64) {
        let n = self.find(key);
        if n == NIL {
            return;
        }
        let [left, right] = self.node(n).child;
        let (filler, lost_red);
        if left == NIL || right == NIL {
            filler = if left == NIL { right } else { left };
            lost_red = self.node(n).red;
            self.transplant(n, filler);
        } else {
            // The next larger one moves up into the place.
            let mut next = right;
            while self.child(next, LEFT) != NIL {
                next = self.child(next, LEFT);
            }
            filler = self.child(next, RIGHT);
            lost_red = self.node(next).red;
            if next == right {
                self.edit(filler, |x| x.parent = next);
            } else {
                self.transplant(next, filler);
                self.set_child(next, RIGHT, right);
                self.edit(right, |x| x.parent = next);
            }
            self.transplant(n, next);
            self.set_child(next, LEFT, left);
            self.edit(left, |x| x.parent = next);
            let red = self.node(n).red;
            self.paint(next, red);
        }
        if !lost_red {
            self.mend_remove(filler);
        }
        self.edit(NIL, |x| *x = Node::default());
        self.free.push(n);
        self.len -= 1;
    }

    /// Every way down must pass as many black nodes as before: `n` is short of one.
    fn mend_remove(&mut self, mut n: Link) {
        while n != self.root && !self.node(n).red {
            let parent = self.node(n).parent;
            let side = self.side_of_short(parent, n);
            let mut sibling = self.child(parent, 1 - side);
            if self.node(sibling).red {
                self.paint(sibling, false);
                self.paint(parent, true);
                self.rotate(parent, side);
                sibling = self.child(parent, 1 - side);
            }
            let (near, far) = (self.child(sibling, side), self.child(sibling, 1 - side));
            if !self.node(near).red && !self.node(far).red {
                self.paint(sibling, true);
                n = parent;
                continue;
            }
            if !self.node(far).red {
                self.paint(near, false);
                self.paint(sibling, true);
                self.rotate(sibling, 1 - side);
                sibling = self.child(parent, 1 - side);
            }
            let red = self.node(parent).red;
            self.paint(sibling, red);
            self.paint(parent, false);
            self.paint(self.child(sibling, 1 - side), false);
            self.rotate(parent, side);
            n = self.root;
        }
        self.paint(n, false);
    }

    /// As [`Shape::side`], but `n` may be the leaf that stands for all: the other child then tells.
    fn side_of_short(&self, parent: Link, n: Link) -> usize {
        usize::from(self.child(parent, LEFT) != n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Shape {
        /// Black height; panics if the tree is not red-black or not in order.
        fn check(&self, n: Link, low: u64, high: u64) -> usize {
            if n == NIL {
                return 1;
            }
            let x = self.node(n);
            assert!((low..=high).contains(&x.key));
            for c in x.child {
                assert!(c == NIL || self.node(c).parent == n);
                assert!(!(x.red && self.node(c).red), "two red nodes in a row");
            }
            let left = self.check(x.child[LEFT], low, x.key.saturating_sub(1));
            let right = self.check(x.child[RIGHT], x.key + 1, high);
            assert_eq!(left, right, "black heights differ");
            left + usize::from(!x.red)
        }

        fn keys(&self, n: Link, out: &mut Vec<u64>) {
            if n != NIL {
                self.keys(self.child(n, LEFT), out);
                out.push(self.node(n).key);
                self.keys(self.child(n, RIGHT), out);
            }
        }
    }

    #[test]
    fn stays_red_black_and_sorted() {
        let (mut t, mut m) = (Shape::default(), std::collections::BTreeSet::new());
        let mut x = 1u64;
        for i in 0..6000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = (x >> 40) % 300 + 1;
            if (x >> 33) % 5 < 2 + u64::from(i < 3000) {
                t.insert(key);
                m.insert(key);
            } else {
                t.remove(key);
                m.remove(&key);
            }
            assert!(!t.node(t.root).red);
            t.check(t.root, 0, u64::MAX);
            assert_eq!(t.len, m.len());
        }
        let mut keys = Vec::new();
        t.keys(t.root, &mut keys);
        assert_eq!(keys, m.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_search_starts_at_the_root_of_a_balanced_tree() {
        let mut t = Shape::default();
        for key in [10, 20, 30, 40, 50, 60, 70] {
            t.insert(key);
        }
        assert_eq!(t.path(65).as_slice(), [20, 40, 60, 70]);
        // 30 takes the place of 20; below it, 40 is short of a black node on its left and goes down under 60.
        t.remove(20);
        assert_eq!(t.path(15).as_slice(), [30, 10]);
        assert_eq!(t.path(45).as_slice(), [30, 60, 40, 50]);
        assert_eq!(t.path(60).as_slice(), [30, 60]);
    }
}
