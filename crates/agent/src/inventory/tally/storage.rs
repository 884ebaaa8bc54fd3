//! Storage per StorageClass. There is, in this order: what the operator declares; what the class's driver says is left
//! (CSIStorageCapacity) with the volumes made of it; of a class that nobody makes volumes of, the volumes that exist; else no limit is known
//! ([`UNLIMITED_STORAGE`]). Volumes that can be used on one node only count while that node is open. A volume without a class is nobody's to
//! claim by class and does not count. Classes of one provisioner with equal parameters share what there is: the largest of them counts.
//! What a driver says is left on a node that is not open cannot be told apart, and counts.

use std::collections::BTreeMap;

use roadstead_core::resources::MAX_QUANTITY;

use super::{Options, Slots};
use crate::inventory::slim::StorageClass;

/// What there is of storage when nobody knows a limit: the largest quantity, which no sum of volumes reaches.
pub const UNLIMITED_STORAGE: u64 = MAX_QUANTITY;

/// Storage of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassStorage {
    /// Bytes that there are, used ones included; [`UNLIMITED_STORAGE`] when no limit is known.
    pub allocatable: u64,
    /// Bytes of volumes that belong to others.
    pub used_by_others: u64,
    /// Bytes of all volumes.
    pub volumes: u64,
}

#[derive(Debug, Default)]
pub(super) struct ClassSlot {
    pub(super) class: Option<StorageClass>,
    pub(super) volumes: u128,
    pub(super) others: u128,
    pub(super) left: u128,
    /// Parts of the cluster for which a driver says what is left.
    pub(super) parts: u32,
}

/// One class's share of what there is, apart: what is left besides its volumes, or that there is no limit.
enum Room {
    Whole(u128),
    Besides(u128),
    Unlimited,
}

impl ClassSlot {
    fn room(&self, name: &str, options: &Options) -> Room {
        if let Some(declared) = options.storage.get(name) {
            return Room::Whole((*declared).into());
        }
        match &self.class {
            Some(class) if class.provisioned && self.parts == 0 => Room::Unlimited,
            Some(_) => Room::Besides(self.left),
            // Volumes made by hand often name a class that is not there.
            None => Room::Besides(0),
        }
    }

    fn allocatable(&self, name: &str, options: &Options) -> u128 {
        match self.room(name, options) {
            Room::Whole(all) => all,
            Room::Besides(left) => self.volumes + left,
            Room::Unlimited => UNLIMITED_STORAGE.into(),
        }
    }
}

pub(super) fn by_class(options: &Options, classes: &Slots<ClassSlot>) -> BTreeMap<Box<str>, ClassStorage> {
    let narrow = |sum: u128| u64::try_from(sum).unwrap_or(MAX_QUANTITY).min(MAX_QUANTITY);
    let class = |(name, slot): (&str, &ClassSlot)| {
        let allocatable = narrow(slot.allocatable(name, options));
        (name.into(), ClassStorage { allocatable, used_by_others: narrow(slot.others), volumes: narrow(slot.volumes) })
    };
    classes.iter().map(class).collect()
}

/// Bytes that there are and bytes that others use, over all classes.
pub(super) fn total(options: &Options, classes: &Slots<ClassSlot>) -> (u128, u128) {
    let (mut there, mut used) = (0, 0);
    let mut shared = BTreeMap::<u64, u128>::new();
    for (name, slot) in classes.iter() {
        used += slot.others;
        match slot.room(name, options) {
            Room::Whole(all) => there += all,
            Room::Besides(left) => {
                there += slot.volumes;
                let Some(class) = &slot.class else { continue };
                let largest = shared.entry(class.pool).or_default();
                *largest = left.max(*largest);
            }
            Room::Unlimited => there += u128::from(UNLIMITED_STORAGE),
        }
    }
    (there + shared.values().sum::<u128>(), used)
}
