//! A sorted map whose copy is frozen: a B+ tree of shared nodes, copied along the path of a change.
//!
//! Unlike the persistent maps that are to be had as a library it is built from sorted entries at once, and a node is one piece
//! of memory: with a million tenants, waiting for memory is what an index costs (decision 0008). It is for
//! what there are millions of: [`super::tenants`] and [`super::requests`].

use std::borrow::Borrow;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use arrayvec::ArrayVec;

/// Entries of a leaf and children of a branch, at most; few in tests, so that trees are deep there.
const WIDTH: usize = if cfg!(test) { 8 } else { 64 };
/// As many are put into a node that is built at once: room for some that come later.
const BUILT: usize = WIDTH * 7 / 8;
/// A node with fewer joins its neighbour if both fit into one.
const NARROW: usize = WIDTH / 4;

/// A sorted map.
pub(super) struct Sorted<K, V> {
    root: Option<Arc<Node<K, V>>>,
    len: usize,
}

#[derive(Clone)]
enum Node<K, V> {
    Leaf(ArrayVec<(K, V), WIDTH>),
    Branch(ArrayVec<Child<K, V>, WIDTH>),
}

/// A part of a branch: no key in it is below `from`. What is written there for the first child does not matter: it gets all that is
/// below the second.
#[derive(Clone)]
struct Child<K, V> {
    from: K,
    node: Arc<Node<K, V>>,
}

impl<K, V> Sorted<K, V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl<K: Ord + Clone, V: Clone> Sorted<K, V> {
    /// Builds it from entries whose keys ascend.
    ///
    /// # Errors
    /// The first key that does not come after the one before it.
    pub(super) fn build(entries: Vec<(K, V)>) -> Result<Self, K> {
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            return Err(pair[1].0.clone());
        }
        let len = entries.len();
        let mut entries = entries.into_iter();
        let mut level = Vec::with_capacity(len.div_ceil(BUILT));
        loop {
            let leaf: ArrayVec<_, WIDTH> = entries.by_ref().take(BUILT).collect();
            let Some((from, _)) = leaf.first() else { break };
            level.push(Child { from: from.clone(), node: Arc::new(Node::Leaf(leaf)) });
        }
        while level.len() > 1 {
            let mut children = level.into_iter();
            let mut above = Vec::with_capacity(children.len().div_ceil(BUILT));
            loop {
                let branch: ArrayVec<_, WIDTH> = children.by_ref().take(BUILT).collect();
                let Some(first) = branch.first() else { break };
                above.push(Child { from: first.from.clone(), node: Arc::new(Node::Branch(branch)) });
            }
            level = above;
        }
        Ok(Self { root: level.pop().map(|child| child.node), len })
    }

    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let mut node = self.root.as_ref()?;
        loop {
            match &**node {
                Node::Leaf(entries) => {
                    let found = entries.binary_search_by(|entry| entry.0.borrow().cmp(key)).ok()?;
                    return Some(&entries[found].1);
                }
                Node::Branch(children) => node = &children[child_of(children, key)].node,
            }
        }
    }

    /// The entry with the least key.
    pub(super) fn first(&self) -> Option<&(K, V)> {
        let mut node = self.root.as_deref()?;
        loop {
            match node {
                Node::Leaf(entries) => return entries.first(),
                Node::Branch(children) => node = &children.first()?.node,
            }
        }
    }

    /// Adds an entry, or replaces the value of its key; the value that was there.
    pub(super) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let Some(root) = &mut self.root else {
            self.root = Some(Arc::new(Node::Leaf(ArrayVec::from_iter([(key, value)]))));
            self.len = 1;
            return None;
        };
        match insert(root, key, value) {
            Inserted::Replaced(before) => return Some(before),
            Inserted::Added => {}
            Inserted::Split(right) => {
                let left = Child { from: right.from.clone(), node: Arc::clone(root) };
                *root = Arc::new(Node::Branch(ArrayVec::from_iter([left, right])));
            }
        }
        self.len += 1;
        None
    }

    /// Removes an entry; its value.
    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let root = self.root.as_mut()?;
        let removed = remove(root, key)?;
        self.len -= 1;
        while let Node::Branch(children) = &**root
            && let [only] = &children[..]
        {
            *root = Arc::clone(&only.node);
        }
        if self.len == 0 {
            self.root = None;
        }
        Some(removed)
    }

    pub(super) fn iter(&self) -> Iter<'_, K, V> {
        self.from::<K>(Bound::Unbounded)
    }

    /// In ascending order, beginning with a key or after it.
    pub(super) fn from<Q: Ord + ?Sized>(&self, start: Bound<&Q>) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let mut iter = Iter { branches: Vec::new(), leaf: [].iter() };
        let Some(mut node) = self.root.as_deref() else { return iter };
        loop {
            match node {
                Node::Leaf(entries) => {
                    let before = match start {
                        Bound::Unbounded => 0,
                        Bound::Included(key) => entries.partition_point(|entry| entry.0.borrow() < key),
                        Bound::Excluded(key) => entries.partition_point(|entry| entry.0.borrow() <= key),
                    };
                    iter.leaf = entries[before..].iter();
                    return iter;
                }
                Node::Branch(children) => {
                    let child = match start {
                        Bound::Unbounded => 0,
                        Bound::Included(key) | Bound::Excluded(key) => child_of(children, key),
                    };
                    iter.branches.push(children[child + 1..].iter());
                    node = &children[child].node;
                }
            }
        }
    }
}

/// Which child a key belongs to.
fn child_of<K: Borrow<Q>, V, Q: Ord + ?Sized>(children: &[Child<K, V>], key: &Q) -> usize {
    children[1..].partition_point(|child| child.from.borrow() <= key)
}

enum Inserted<K, V> {
    Replaced(V),
    Added,
    /// And the node became two: this is the right one.
    Split(Child<K, V>),
}

fn insert<K: Ord + Clone, V: Clone>(node: &mut Arc<Node<K, V>>, key: K, value: V) -> Inserted<K, V> {
    match Arc::make_mut(node) {
        Node::Leaf(entries) => match entries.binary_search_by(|entry| entry.0.cmp(&key)) {
            Ok(found) => Inserted::Replaced(std::mem::replace(&mut entries[found].1, value)),
            Err(place) => {
                let Some(right) = put(entries, place, (key, value)) else { return Inserted::Added };
                Inserted::Split(Child { from: right[0].0.clone(), node: Arc::new(Node::Leaf(right)) })
            }
        },
        Node::Branch(children) => {
            let child = child_of(children, &key);
            match insert(&mut children[child].node, key, value) {
                Inserted::Split(new) => {
                    let Some(right) = put(children, child + 1, new) else { return Inserted::Added };
                    Inserted::Split(Child { from: right[0].from.clone(), node: Arc::new(Node::Branch(right)) })
                }
                done @ (Inserted::Replaced(_) | Inserted::Added) => done,
            }
        }
    }
}

/// Puts a thing into a node; if it is full, what is right of the middle goes into another. (At the end of a full node the thing goes
/// into the other alone: what comes in ascending order fills every node.)
fn put<T>(things: &mut ArrayVec<T, WIDTH>, place: usize, thing: T) -> Option<ArrayVec<T, WIDTH>> {
    if !things.is_full() {
        things.insert(place, thing);
        return None;
    }
    let middle = if place == WIDTH { WIDTH } else { WIDTH / 2 };
    let mut right: ArrayVec<T, WIDTH> = things.drain(middle..).collect();
    if place > middle || right.is_empty() {
        right.insert(place - middle, thing);
    } else {
        things.insert(place, thing);
    }
    Some(right)
}

fn remove<K: Ord + Clone + Borrow<Q>, V: Clone, Q: Ord + ?Sized>(node: &mut Arc<Node<K, V>>, key: &Q) -> Option<V> {
    match Arc::make_mut(node) {
        Node::Leaf(entries) => {
            let found = entries.binary_search_by(|entry| entry.0.borrow().cmp(key)).ok()?;
            Some(entries.remove(found).1)
        }
        Node::Branch(children) => {
            let child = child_of(children, key);
            let removed = remove(&mut children[child].node, key)?;
            if children[child].node.width() < NARROW {
                tidy(children, child);
            }
            Some(removed)
        }
    }
}

/// Drops a child that holds nothing any more; joins one that holds little with a neighbour if they fit into one node.
fn tidy<K: Ord + Clone, V: Clone>(children: &mut ArrayVec<Child<K, V>, WIDTH>, child: usize) {
    if children[child].node.width() == 0 {
        children.remove(child);
        return;
    }
    let fits = |left: usize| left + 1 < children.len() && children[left].node.width() + children[left + 1].node.width() <= WIDTH * 3 / 4;
    let Some(left) = [child.wrapping_sub(1), child].into_iter().find(|left| *left < children.len() && fits(*left)) else { return };
    let Child { from, node } = children.remove(left + 1);
    match (Arc::make_mut(&mut children[left].node), Arc::unwrap_or_clone(node)) {
        (Node::Leaf(entries), Node::Leaf(more)) => entries.extend(more),
        (Node::Branch(entries), Node::Branch(mut more)) => {
            more[0].from = from;
            entries.extend(more);
        }
        (Node::Leaf(_), Node::Branch(_)) | (Node::Branch(_), Node::Leaf(_)) => unreachable!("all leaves lie equally deep"),
    }
}

impl<K, V> Node<K, V> {
    fn width(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Branch(children) => children.len(),
        }
    }
}

/// Entries in ascending order.
pub(super) struct Iter<'a, K, V> {
    /// What is left of each branch on the way to the leaf, the root's first.
    branches: Vec<std::slice::Iter<'a, Child<K, V>>>,
    leaf: std::slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = &'a (K, V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.leaf.next() {
                return Some(entry);
            }
            while self.branches.last()?.len() == 0 {
                self.branches.pop();
            }
            let mut node = &*self.branches.last_mut()?.next()?.node;
            loop {
                match node {
                    Node::Leaf(entries) => {
                        self.leaf = entries.iter();
                        break;
                    }
                    Node::Branch(children) => {
                        let mut children = children.iter();
                        node = &*children.next()?.node;
                        self.branches.push(children);
                    }
                }
            }
        }
    }
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

impl<K, V> Clone for Sorted<K, V> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone(), len: self.len }
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> PartialEq for Sorted<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: fmt::Debug + Ord + Clone, V: fmt::Debug + Clone> fmt::Debug for Sorted<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(key, value)| (key, value))).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    /// All leaves lie equally deep, no node but the root is empty, and every key is where it is looked for.
    fn check(tree: &Sorted<u16, u32>) {
        fn depth(node: &Node<u16, u32>, low: Option<u16>, high: Option<u16>) -> usize {
            assert!(node.width() > 0);
            let within = |key: u16| low.is_none_or(|low| low <= key) && high.is_none_or(|high| key < high);
            match node {
                Node::Leaf(entries) => {
                    assert!(entries.is_sorted_by(|one, other| one.0 < other.0) && entries.iter().all(|entry| within(entry.0)));
                    1
                }
                Node::Branch(children) => {
                    let bounds = |child: usize| {
                        let from = (child > 0).then(|| children[child].from).or(low);
                        (from, children.get(child + 1).map(|next| next.from).or(high))
                    };
                    assert!(children[1..].is_sorted_by(|one, other| one.from < other.from));
                    let depths: Vec<_> =
                        (0..children.len()).map(|child| depth(&children[child].node, bounds(child).0, bounds(child).1)).collect();
                    assert!(depths.iter().all(|depth| *depth == depths[0]), "{depths:?}");
                    depths[0] + 1
                }
            }
        }
        if let Some(root) = &tree.root {
            depth(root, None, None);
        }
        assert_eq!(tree.root.is_none(), tree.len == 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16, u32),
        Remove(u16),
        /// All from a key on, so many.
        RemoveRun(u16, u16),
        InsertRun(u16, u16),
        Freeze,
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0..4_000_u16;
        prop_oneof![
            4 => (key.clone(), any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
            4 => key.clone().prop_map(Step::Remove),
            1 => (key.clone(), 0..900_u16).prop_map(|(key, many)| Step::RemoveRun(key, many)),
            1 => (key, 0..900_u16).prop_map(|(key, many)| Step::InsertRun(key, many)),
            1 => Just(Step::Freeze),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_is_a_sorted_map_and_a_copy_stays_as_it_was(built in proptest::collection::btree_map(0..4_000_u16, any::<u32>(), 0..2_000), steps in proptest::collection::vec(step(), 1..60)) {
            let mut model = built.clone();
            let mut tree = Sorted::build(built.into_iter().collect()).expect("ascending");
            let mut frozen: Vec<(Sorted<u16, u32>, BTreeMap<u16, u32>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(key, value) => prop_assert_eq!(tree.insert(key, value), model.insert(key, value)),
                    Step::Remove(key) => prop_assert_eq!(tree.remove(&key), model.remove(&key)),
                    Step::RemoveRun(key, many) => (key..key + many).for_each(|key| assert_eq!(tree.remove(&key), model.remove(&key))),
                    Step::InsertRun(key, many) => (key..key + many).for_each(|key| assert_eq!(tree.insert(key, 7), model.insert(key, 7))),
                    Step::Freeze => frozen.push((tree.clone(), model.clone())),
                }
                check(&tree);
                prop_assert_eq!(tree.len(), model.len());
                prop_assert_eq!(tree.first().map(|entry| entry.0), model.keys().next().copied());
            }
            frozen.push((tree, model));
            for (tree, model) in frozen {
                check(&tree);
                prop_assert!(tree.iter().map(|(key, value)| (key, value)).eq(model.iter()));
                for key in (0..4_100).step_by(37) {
                    prop_assert_eq!(tree.get(&key), model.get(&key));
                    prop_assert!(tree.from(Bound::Included(&key)).map(|entry| entry.0).eq(model.range(key..).map(|entry| *entry.0)));
                    let after = (Bound::Excluded(key), Bound::Unbounded);
                    prop_assert!(tree.from(Bound::Excluded(&key)).map(|entry| entry.0).eq(model.range(after).map(|entry| *entry.0)));
                }
            }
        }
    }

    #[test]
    fn every_size_can_be_built() {
        for len in [0, 1, BUILT, BUILT + 1, WIDTH, WIDTH + 1, BUILT * BUILT, BUILT * BUILT + 1, 1000] {
            let tree = Sorted::build((0..len as u16).map(|key| (key, 7)).collect()).expect("ascending");
            check(&tree);
            assert_eq!(tree.len(), len);
            assert!((0..len as u16).all(|key| tree.get(&key) == Some(&7)), "{len}");
        }
    }

    #[test]
    fn what_does_not_ascend_is_refused() {
        assert_eq!(Sorted::build(vec![(1, ()), (3, ()), (2, ())]).err(), Some(2));
        assert_eq!(Sorted::build(vec![(1, ()), (1, ())]).err(), Some(1));
        assert!(Sorted::<u8, ()>::build(Vec::new()).is_ok_and(|tree| tree.len() == 0));
    }

    #[test]
    fn what_comes_in_ascending_order_fills_every_leaf() {
        let mut tree = Sorted::default();
        (0..10_000_u32).for_each(|key| assert_eq!(tree.insert(key, ()), None));
        let mut widths = Vec::new();
        let mut nodes = vec![tree.root.as_deref().expect("not empty")];
        while let Some(node) = nodes.pop() {
            match node {
                Node::Leaf(entries) => widths.push(entries.len()),
                Node::Branch(children) => nodes.extend(children.iter().rev().map(|child| &*child.node)),
            }
        }
        assert!(widths[..widths.len() - 1].iter().all(|width| *width == WIDTH), "{widths:?}");
    }
}
