//! Names kept once and known by a number; and what was listed of a kind, so that a new list tells what is gone.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::{Index, IndexMut};

/// Things by name. Each lives while somebody holds it; its number is then given to another.
#[derive(Debug)]
pub(super) struct Slots<T> {
    by_name: HashMap<Box<str>, u32>,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    name: Box<str>,
    holders: u32,
    value: T,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { by_name: HashMap::new(), slots: Vec::new(), free: Vec::new() }
    }
}

impl<T: Default> Slots<T> {
    /// The number of a name, made if need be; to be let go of once for each time that it was held.
    pub(super) fn hold(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.by_name.get(name) {
            self.slots[number as usize].holders += 1;
            return number;
        }
        let slot = Slot { name: name.into(), holders: 1, value: T::default() };
        let number = if let Some(number) = self.free.pop() {
            self.slots[number as usize] = slot;
            number
        } else {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).expect("etcd holds fewer than 2^32 objects")
        };
        self.by_name.insert(name.into(), number);
        number
    }

    /// Ends one hold.
    pub(super) fn let_go(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        slot.holders -= 1;
        if slot.holders == 0 {
            self.by_name.remove(&slot.name);
            slot.name = Box::default();
            slot.value = T::default();
            self.free.push(number);
        }
    }

    /// How many hold it.
    pub(super) fn holders(&self, number: u32) -> u32 {
        self.slots[number as usize].holders
    }

    /// Everything that somebody holds.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.slots.iter().filter(|slot| slot.holders > 0).map(|slot| (&*slot.name, &slot.value))
    }
}

impl<T> Index<u32> for Slots<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.slots[number as usize].value
    }
}

impl<T> IndexMut<u32> for Slots<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.slots[number as usize].value
    }
}

/// What was listed of a kind, and in which round of listing it was last seen.
#[derive(Debug)]
pub(crate) struct Listed<K, V> {
    kept: HashMap<K, (V, u32)>,
    round: u32,
    complete: bool,
}

impl<K, V> Default for Listed<K, V> {
    fn default() -> Self {
        Self { kept: HashMap::new(), round: 0, complete: false }
    }
}

impl<K: Hash + Eq + Clone, V> Listed<K, V> {
    /// A new list begins: what it does not name is gone once it is done.
    pub(super) fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
    }

    /// The list is done; what it did not name.
    pub(super) fn done(&mut self) -> Vec<K> {
        self.complete = true;
        self.kept.iter().filter(|(_, (_, seen))| *seen != self.round).map(|(key, _)| key.clone()).collect()
    }

    /// Whether a list was done ever.
    pub(super) fn complete(&self) -> bool {
        self.complete
    }

    /// There is nothing to list.
    pub(super) fn set_complete(&mut self) {
        self.complete = true;
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.kept.insert(key, (value, self.round));
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.kept.remove(key).map(|(value, _)| value)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.kept.values().map(|(value, _)| value)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.kept.iter_mut().map(|(key, (value, _))| (key, value))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.kept.values_mut().map(|(value, _)| value)
    }
}
