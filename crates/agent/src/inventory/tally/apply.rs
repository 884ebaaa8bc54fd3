//! What each kind of object does to the sums when it comes, changes and goes.

use std::hash::Hash;

use roadstead_core::resources::Resource;

use super::nodes::NodeSlot;
use super::slots::Listed;
use super::{NOWHERE, PodKept, Step, Tally, VolumeKept, share};
use crate::inventory::growth::{AutoscalerStatus, NodePool};
use crate::inventory::slim::{Attachment, Namespace, Node, NodeDrivers, Pod, StorageClass, StorageLeft, Volume};

/// A kind of object that is counted. `enter` and `leave` are exact inverses.
pub(crate) trait Counted: Sized {
    /// By what it is known.
    type Key: Hash + Eq + Clone;
    /// What is kept of it.
    type Kept;
    fn key(&self) -> Self::Key;
    fn listed(tally: &mut Tally) -> &mut Listed<Self::Key, Self::Kept>;
    /// Puts it into the sums.
    fn enter(self, tally: &mut Tally) -> Self::Kept;
    /// Takes it out again.
    fn leave(kept: Self::Kept, tally: &mut Tally);
    /// Puts it in instead of what it was before.
    fn change(self, before: Self::Kept, tally: &mut Tally) -> Self::Kept {
        Self::leave(before, tally);
        self.enter(tally)
    }
}

impl Tally {
    /// Takes one step of a list or a watch.
    pub(crate) fn take<K: Counted>(&mut self, step: Step<K>) {
        match step {
            Step::Begin => K::listed(self).begin(),
            Step::Is(object) => {
                let key = object.key();
                let kept = match K::listed(self).remove(&key) {
                    Some(before) => object.change(before, self),
                    None => object.enter(self),
                };
                K::listed(self).insert(key, kept);
            }
            Step::Gone(object) => self.lose::<K>(&object.key()),
            Step::Done => {
                for key in K::listed(self).done() {
                    self.lose::<K>(&key);
                }
            }
        }
    }

    /// A kind is not served here, or may not be read: there is nothing of it.
    pub(crate) fn unavailable<K: Counted>(&mut self) {
        K::listed(self).set_complete();
    }

    fn lose<K: Counted>(&mut self, key: &K::Key) {
        if let Some(kept) = K::listed(self).remove(key) {
            K::leave(kept, self);
        }
    }

    /// Changes a node, and the sums by as much as that changes its part of them.
    fn adjust(&mut self, node: u32, change: impl FnOnce(&mut NodeSlot)) {
        let slot = &mut self.nodes[node];
        let (there_before, others_before) = slot.part();
        change(slot);
        let (there, others) = slot.part();
        for resource in Resource::ALL.map(|resource| resource as usize) {
            self.allocatable[resource] = self.allocatable[resource] + there[resource] - there_before[resource];
            self.others[resource] = self.others[resource] + others[resource] - others_before[resource];
        }
    }

    /// Adds to, or takes from, what is on a node.
    fn load(&mut self, node: u32, load: super::Sums, outsider: bool, adds: bool) {
        self.adjust(node, |slot| {
            for (resource, amount) in load.into_iter().enumerate() {
                let shift = |sum: &mut u128| *sum = if adds { *sum + amount } else { *sum - amount };
                shift(&mut slot.all[resource]);
                if outsider {
                    shift(&mut slot.others[resource]);
                }
            }
        });
    }

    pub(super) fn count_pod(&mut self, pod: &PodKept, adds: bool) {
        if pod.node != NOWHERE {
            self.load(pod.node, share(pod.size), pod.outsider, adds);
        }
    }

    /// Adds a volume to its class's sums if it can be used, or takes it out if it is in them; and tells its attachments whose they are.
    pub(super) fn count_volume(&mut self, volume: &mut VolumeKept, adds: bool) {
        let usable = volume.host.is_none_or(|host| self.nodes[host].is_open());
        if let Some(class) = volume.class.filter(|_| if adds { usable } else { volume.counted }) {
            let slot = &mut self.classes[class];
            let size = u128::from(volume.size);
            slot.volumes = if adds { slot.volumes + size } else { slot.volumes - size };
            if volume.outsider {
                slot.others = if adds { slot.others + size } else { slot.others - size };
            }
            volume.counted = adds;
        }
        let tenants = adds && !volume.outsider && volume.namespace.is_some();
        if self.volumes[volume.number].tenants != tenants {
            self.volumes[volume.number].tenants = tenants;
            let attached = std::mem::take(&mut self.volumes[volume.number].attached_to);
            for node in &attached {
                self.load(*node, ATTACHMENT, tenants, false);
                self.load(*node, ATTACHMENT, !tenants, true);
            }
            self.volumes[volume.number].attached_to = attached;
        }
    }

    /// Sets what a node is, and what follows for volumes that can be used on it only.
    fn set_node(&mut self, number: u32, facts: Option<Node>) {
        let was_open = self.nodes[number].is_open();
        let tolerations = std::mem::take(&mut self.options.tolerations);
        self.nodes[number].enter(&mut self.census, false);
        self.adjust(number, |slot| slot.set(facts, &tolerations));
        self.nodes[number].enter(&mut self.census, true);
        self.options.tolerations = tolerations;
        if self.nodes[number].is_open() != was_open {
            let mut volumes = std::mem::take(&mut self.listed_volumes);
            for volume in volumes.values_mut().filter(|volume| volume.host == Some(number)) {
                self.count_volume(volume, false);
                self.count_volume(volume, true);
            }
            self.listed_volumes = volumes;
        }
    }

    /// Sets whose a namespace is, and moves what is in it if that makes a difference.
    fn set_tenant(&mut self, number: u32, tenant: Option<Box<str>>) {
        let before = self.is_outsider(number);
        self.namespaces[number].tenant = tenant;
        // Held by itself, and by each pod and volume of it.
        if before != self.is_outsider(number) && self.namespaces.holders(number) > 1 {
            self.recount();
        }
    }
}

/// One attachment's share of the sums.
const ATTACHMENT: super::Sums = [0, 0, 0, 0, 1];

impl Counted for Namespace {
    type Key = Box<str>;
    type Kept = u32;

    fn key(&self) -> Box<str> {
        self.name.clone()
    }

    fn listed(tally: &mut Tally) -> &mut Listed<Box<str>, u32> {
        &mut tally.listed_namespaces
    }

    fn enter(self, tally: &mut Tally) -> u32 {
        let number = tally.namespaces.hold(&self.name);
        self.change(number, tally)
    }

    fn leave(number: u32, tally: &mut Tally) {
        tally.set_tenant(number, None);
        tally.namespaces.let_go(number);
    }

    fn change(self, number: u32, tally: &mut Tally) -> u32 {
        if &*self.name == "kube-system" {
            tally.uid = self.uid;
        }
        tally.set_tenant(number, self.tenant);
        number
    }
}

impl Counted for Node {
    type Key = Box<str>;
    type Kept = u32;

    fn key(&self) -> Box<str> {
        self.name.clone()
    }

    fn listed(tally: &mut Tally) -> &mut Listed<Box<str>, u32> {
        &mut tally.listed_nodes
    }

    fn enter(self, tally: &mut Tally) -> u32 {
        let number = tally.nodes.hold(&self.name);
        self.change(number, tally)
    }

    fn leave(number: u32, tally: &mut Tally) {
        tally.set_node(number, None);
        tally.nodes.let_go(number);
    }

    fn change(self, number: u32, tally: &mut Tally) -> u32 {
        if tally.nodes[number].facts() != Some(&self) {
            tally.set_node(number, Some(self));
        }
        number
    }
}

impl Counted for NodeDrivers {
    type Key = Box<str>;
    type Kept = u32;

    fn key(&self) -> Box<str> {
        self.node.clone()
    }

    fn listed(tally: &mut Tally) -> &mut Listed<Box<str>, u32> {
        &mut tally.listed_drivers
    }

    fn enter(self, tally: &mut Tally) -> u32 {
        let number = tally.nodes.hold(&self.node);
        tally.adjust(number, |slot| slot.drivers = self.attachable);
        number
    }

    fn leave(number: u32, tally: &mut Tally) {
        tally.adjust(number, |slot| slot.drivers = None);
        tally.nodes.let_go(number);
    }
}

impl Counted for Pod {
    type Key = u128;
    type Kept = PodKept;

    fn key(&self) -> u128 {
        self.uid
    }

    fn listed(tally: &mut Tally) -> &mut Listed<u128, PodKept> {
        &mut tally.listed_pods
    }

    fn enter(self, tally: &mut Tally) -> PodKept {
        let namespace = tally.namespaces.hold(&self.namespace);
        let node = self.node.filter(|_| !self.ended).map_or(NOWHERE, |node| tally.nodes.hold(&node));
        let pod = PodKept { size: self.size, namespace, node, outsider: tally.is_outsider(namespace) };
        tally.count_pod(&pod, true);
        pod
    }

    fn leave(pod: PodKept, tally: &mut Tally) {
        tally.count_pod(&pod, false);
        tally.namespaces.let_go(pod.namespace);
        if pod.node != NOWHERE {
            tally.nodes.let_go(pod.node);
        }
    }
}

impl Counted for Volume {
    type Key = Box<str>;
    type Kept = VolumeKept;

    fn key(&self) -> Box<str> {
        self.name.clone()
    }

    fn listed(tally: &mut Tally) -> &mut Listed<Box<str>, VolumeKept> {
        &mut tally.listed_volumes
    }

    fn enter(self, tally: &mut Tally) -> VolumeKept {
        let namespace = self.claimed_in.map(|namespace| tally.namespaces.hold(&namespace));
        let mut volume = VolumeKept {
            size: self.size,
            number: tally.volumes.hold(&self.name),
            class: (!self.class.is_empty()).then(|| tally.classes.hold(&self.class)),
            namespace,
            host: self.host.map(|host| tally.nodes.hold(&host)),
            outsider: tally.is_outsiders(&self.name, namespace),
            counted: false,
        };
        tally.count_volume(&mut volume, true);
        volume
    }

    fn leave(mut volume: VolumeKept, tally: &mut Tally) {
        tally.count_volume(&mut volume, false);
        tally.volumes.let_go(volume.number);
        if let Some(class) = volume.class {
            tally.classes.let_go(class);
        }
        if let Some(namespace) = volume.namespace {
            tally.namespaces.let_go(namespace);
        }
        if let Some(host) = volume.host {
            tally.nodes.let_go(host);
        }
    }
}

impl Counted for Attachment {
    type Key = Box<str>;
    type Kept = (u32, u32);

    fn key(&self) -> Box<str> {
        self.name.clone()
    }

    fn listed(tally: &mut Tally) -> &mut Listed<Box<str>, (u32, u32)> {
        &mut tally.listed_attachments
    }

    fn enter(self, tally: &mut Tally) -> (u32, u32) {
        let (node, volume) = (tally.nodes.hold(&self.node), tally.volumes.hold(&self.volume));
        tally.volumes[volume].attached_to.push(node);
        tally.load(node, ATTACHMENT, !tally.volumes[volume].tenants, true);
        (node, volume)
    }

    fn leave((node, volume): (u32, u32), tally: &mut Tally) {
        tally.load(node, ATTACHMENT, !tally.volumes[volume].tenants, false);
        let attached = &mut tally.volumes[volume].attached_to;
        if let Some(at) = attached.iter().position(|one| *one == node) {
            attached.swap_remove(at);
        }
        tally.volumes.let_go(volume);
        tally.nodes.let_go(node);
    }
}

impl Counted for StorageClass {
    type Key = Box<str>;
    type Kept = u32;

    fn key(&self) -> Box<str> {
        self.name.clone()
    }

    fn listed(tally: &mut Tally) -> &mut Listed<Box<str>, u32> {
        &mut tally.listed_classes
    }

    fn enter(self, tally: &mut Tally) -> u32 {
        let number = tally.classes.hold(&self.name);
        tally.classes[number].class = Some(self);
        number
    }

    fn leave(number: u32, tally: &mut Tally) {
        tally.classes[number].class = None;
        tally.classes.let_go(number);
    }
}

impl Counted for StorageLeft {
    type Key = u128;
    type Kept = (u32, u64);

    fn key(&self) -> u128 {
        self.uid
    }

    fn listed(tally: &mut Tally) -> &mut Listed<u128, (u32, u64)> {
        &mut tally.listed_left
    }

    fn enter(self, tally: &mut Tally) -> (u32, u64) {
        let number = tally.classes.hold(&self.class);
        tally.classes[number].left += u128::from(self.left);
        tally.classes[number].parts += 1;
        (number, self.left)
    }

    fn leave((number, left): (u32, u64), tally: &mut Tally) {
        tally.classes[number].left -= u128::from(left);
        tally.classes[number].parts -= 1;
        tally.classes.let_go(number);
    }
}

impl Counted for NodePool {
    type Key = Box<str>;
    type Kept = Self;

    fn key(&self) -> Box<str> {
        self.name.clone()
    }

    fn listed(tally: &mut Tally) -> &mut Listed<Box<str>, Self> {
        &mut tally.listed_pools
    }

    fn enter(self, _tally: &mut Tally) -> Self {
        self
    }

    fn leave(_kept: Self, _tally: &mut Tally) {}
}

impl Counted for AutoscalerStatus {
    type Key = Box<str>;
    type Kept = Self;

    fn key(&self) -> Box<str> {
        self.name.clone()
    }

    fn listed(tally: &mut Tally) -> &mut Listed<Box<str>, Self> {
        &mut tally.listed_status
    }

    fn enter(self, _tally: &mut Tally) -> Self {
        self
    }

    fn leave(_kept: Self, _tally: &mut Tally) {}
}
