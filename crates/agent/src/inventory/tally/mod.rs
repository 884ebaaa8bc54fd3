//! What there is and what others use, kept as sums that every change of an object adjusts. Knows no API server and no clock.
//!
//! What is counted:
//! - **Nodes** that are ready, not cordoned, and whose taints tenants tolerate ([`Options::tolerations`]): *open* nodes. Only what they can
//!   allocate is there.
//! - **Others** are all pods on open nodes outside the namespaces of the tenants counted here: DaemonSets, orphans, copies of namespaces. A
//!   pod on a node that is not open uses nothing of what is there, so that it would count twice: once because its node is missing from what
//!   there is, once as use. A tenant's pod on such a node still counts, with the placement service, which counts whole tenants: it will
//!   need room elsewhere. A pod that no node has taken uses nothing yet; one that has ended, nothing any more.
//! - **Storage** per StorageClass, see [`mod@storage`]. A volume that its tenant's class has dropped is kept, and nobody asks for it any more: it counts
//!   as others'.
//! - **Attachments**: what the nodes' drivers allow in sum, or [`UNLIMITED_ATTACHMENTS`] on a node where none sets a limit; others' are
//!   those of volumes whose claims are not tenants'.

mod apply;
pub(crate) use apply::Counted;
mod nodes;
mod sizes;
mod slots;
mod storage;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use roadstead_core::cluster::{Capacity, GrowthRoom};
use roadstead_core::constraint::{Taint, TaintEffect, Toleration};
use roadstead_core::observed::{self, ClusterDetails, GrowthGroup, NetworkPolicies, Pressure};
use roadstead_core::resources::{Bytes, MAX_QUANTITY, Millicores, PodSize, RESOURCE_COUNT, Resource, Resources};

use super::growth::{AutoscalerStatus, Group, Growth, NodePool, PoolNodes, counted, growth};
use super::slim::{Kind, Node};
use nodes::NodeSlot;
use slots::{Listed, Slots};
use storage::ClassSlot;
pub use storage::{ClassStorage, UNLIMITED_STORAGE};

/// Attachments of a node whose drivers set no limit: more than it has pods, so that they never decide.
pub const UNLIMITED_ATTACHMENTS: u64 = 1_000;

/// Sums per resource; wide enough for anything that an API server can hold.
type Sums = [u128; RESOURCE_COUNT];

/// What is to be counted how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Taints that every tenant tolerates: nodes that have no others are open.
    pub tolerations: Vec<Toleration>,
    /// Bytes that there are of a StorageClass whose driver does not say so.
    pub storage: BTreeMap<String, u64>,
}

/// A step of a list or a watch of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step<K> {
    /// A list begins: what it does not name is gone once it is done.
    Begin,
    /// There is this object, and this is how it is now.
    Is(K),
    /// This object is gone.
    Gone(K),
    /// The list is done.
    Done,
}

/// What a cluster holds beside its capacity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All nodes.
    pub nodes: u32,
    /// Ready ones.
    pub ready: u32,
    /// Open ones.
    pub open: u32,
    /// Open nodes by zone; those that name none are under the empty one.
    pub zones: BTreeMap<Box<str>, u32>,
    /// Taints by key, value and whether they keep pods away altogether, and the nodes that have them.
    pub taints: BTreeMap<(String, String, bool), u32>,
    /// Nodes short of memory, of disk, of process ids.
    pub pressure: [u32; 3],
}

impl Census {
    /// What is told of it, with what may still be added.
    pub(crate) fn details(&self, growth: &Growth) -> ClusterDetails {
        let room =
            |room: PodSize| PodSize { cpu: Millicores(room.cpu.0.min(MAX_QUANTITY)), memory: Bytes(room.memory.0.min(MAX_QUANTITY)) };
        let taint = |((key, value, hard), nodes): (&(String, String, bool), &u32)| {
            let equals = if value.is_empty() { "" } else { "=" };
            let effect = if *hard { "NoSchedule" } else { "PreferNoSchedule" };
            (format!("{key}{equals}{value}:{effect}"), *nodes)
        };
        let group = |group: &Group| GrowthGroup {
            name: group.name.to_string(),
            nodes: group.nodes,
            room: group.room.map(room),
            held_back: group.held_back,
        };
        let [memory, disk, pids] = self.pressure;
        let details = ClusterDetails {
            policies: NetworkPolicies::default(),
            growth: observed::Growth { room: room(growth.room), groups: growth.groups.iter().map(group).collect() },
            open_nodes: self.open,
            zones: self.zones.iter().map(|(name, nodes)| (name.to_string(), *nodes)).collect(),
            taints: self.taints.iter().map(taint).collect(),
            pressure: Pressure { memory, disk, pids },
        };
        details.bounded()
    }
}

#[derive(Debug)]
pub(crate) struct PodKept {
    size: PodSize,
    namespace: u32,
    /// `NOWHERE` before it is bound and once it has ended.
    node: u32,
    outsider: bool,
}

const NOWHERE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct VolumeKept {
    size: u64,
    /// Its own number, which its attachments hold, too.
    number: u32,
    class: Option<u32>,
    namespace: Option<u32>,
    host: Option<u32>,
    /// Whether somebody who is no tenant claims it.
    outsider: bool,
    /// Whether it is in its class's sums.
    counted: bool,
}

#[derive(Debug, Default)]
struct VolumeSlot {
    /// Whether it is known and a tenant's.
    tenants: bool,
    attached_to: Vec<u32>,
}

#[derive(Debug, Default)]
struct NamespaceSlot {
    tenant: Option<Box<str>>,
}

/// The sums, and as much of each object as is needed to take it out of them again.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    options: Options,
    orphans: BTreeSet<Box<str>>,
    /// Volumes of tenants that nobody asks for any more.
    detached: BTreeSet<Box<str>>,
    uid: Box<str>,
    namespaces: Slots<NamespaceSlot>,
    nodes: Slots<NodeSlot>,
    volumes: Slots<VolumeSlot>,
    classes: Slots<ClassSlot>,
    listed_namespaces: Listed<Box<str>, u32>,
    listed_nodes: Listed<Box<str>, u32>,
    listed_drivers: Listed<Box<str>, u32>,
    listed_pods: Listed<u128, PodKept>,
    listed_volumes: Listed<Box<str>, VolumeKept>,
    listed_classes: Listed<Box<str>, u32>,
    listed_left: Listed<u128, (u32, u64)>,
    listed_attachments: Listed<Box<str>, (u32, u32)>,
    listed_pools: Listed<Box<str>, NodePool>,
    listed_status: Listed<Box<str>, AutoscalerStatus>,
    allocatable: Sums,
    others: Sums,
    census: Census,
}

impl Tally {
    /// Nothing yet.
    #[must_use]
    pub(crate) fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// Which tenants, by the value of their namespaces' label, are labelled as tenants but counted by nobody: others, here.
    pub(crate) fn set_orphans(&mut self, orphans: BTreeSet<Box<str>>) {
        if self.orphans != orphans {
            self.orphans = orphans;
            self.recount();
        }
    }

    /// Which volumes, by name, tenants keep without asking for them: others', here.
    pub(crate) fn set_detached(&mut self, detached: BTreeSet<Box<str>>) {
        if self.detached != detached {
            self.detached = detached;
            self.recount();
        }
    }

    /// UID of `kube-system`; empty until it was seen.
    #[must_use]
    pub(crate) fn uid(&self) -> &str {
        &self.uid
    }

    /// Whether every kind that says what there is was listed at least once, or is not there to be listed.
    #[must_use]
    pub(crate) fn complete(&self) -> bool {
        self.listed_namespaces.complete()
            && self.listed_nodes.complete()
            && self.listed_drivers.complete()
            && self.listed_pods.complete()
            && self.listed_volumes.complete()
            && self.listed_classes.complete()
            && self.listed_left.complete()
            && self.listed_attachments.complete()
    }

    /// Kinds that say what may still be added, and that were neither listed nor are known to be missing.
    #[must_use]
    pub(crate) fn unlisted(&self) -> Vec<&'static str> {
        let [_, _, pool, _] = NodePool::NAMES;
        let [_, _, status, _] = AutoscalerStatus::NAMES;
        let kinds = [(pool, self.listed_pools.complete()), (status, self.listed_status.complete())];
        kinds.into_iter().filter(|(_, is_listed)| !is_listed).map(|(kind, _)| kind).collect()
    }

    /// How many nodes there are, and of which kinds.
    #[must_use]
    pub(crate) fn census(&self) -> &Census {
        &self.census
    }

    /// What there is and what others use, without the sizes of nodes.
    #[must_use]
    pub(crate) fn sums(&self) -> Capacity {
        let (mut allocatable, mut others) = (self.allocatable, self.others);
        let (there, used) = storage::total(&self.options, &self.classes);
        allocatable[Resource::Storage as usize] = there;
        others[Resource::Storage as usize] = used;
        Capacity { allocatable: narrowed(allocatable), used_by_others: narrowed(others), nodes: Vec::new() }
    }

    /// What there is and what others use. Looks at every node once.
    #[must_use]
    pub(crate) fn capacity(&self) -> Capacity {
        Capacity { nodes: sizes::sizes(self.nodes.iter().filter_map(|(_, node)| node.open_room())), ..self.sums() }
    }

    /// Storage by class.
    #[must_use]
    pub(crate) fn storage(&self) -> BTreeMap<Box<str>, ClassStorage> {
        storage::by_class(&self.options, &self.classes)
    }

    /// What autoscaled groups may still add, and what of that counts. Looks at every node once.
    #[must_use]
    pub(crate) fn growth(&self) -> (Growth, GrowthRoom) {
        let mut there = BTreeMap::<&str, PoolNodes>::new();
        for (_, slot) in self.nodes.iter() {
            if let Some(node @ Node { pool: Some(pool), .. }) = slot.facts() {
                there.entry(pool).or_default().add(node, slot.open_size());
            }
        }
        let (statuses, pools) = (|| self.listed_status.values(), || self.listed_pools.values());
        (growth(statuses(), pools(), &there), counted(statuses(), pools(), &there))
    }

    fn is_outsider(&self, namespace: u32) -> bool {
        self.namespaces[namespace].tenant.as_ref().is_none_or(|tenant| self.orphans.contains(tenant))
    }

    /// Whether a volume that is claimed in a namespace is none that a tenant counted here asks for.
    fn is_outsiders(&self, name: &str, namespace: Option<u32>) -> bool {
        namespace.is_some_and(|namespace| self.is_outsider(namespace) || self.detached.contains(name))
    }

    /// Moves pods and volumes whose namespaces have become, or have ceased to be, tenants'. Looks at all of them: this is rare, since a
    /// namespace is labelled before anything is in it.
    fn recount(&mut self) {
        let mut pods = std::mem::take(&mut self.listed_pods);
        for pod in pods.values_mut() {
            let outsider = self.is_outsider(pod.namespace);
            if outsider != pod.outsider {
                self.count_pod(pod, false);
                pod.outsider = outsider;
                self.count_pod(pod, true);
            }
        }
        self.listed_pods = pods;
        let mut volumes = std::mem::take(&mut self.listed_volumes);
        for (name, volume) in volumes.iter_mut() {
            let outsider = self.is_outsiders(name, volume.namespace);
            if outsider != volume.outsider {
                self.count_volume(volume, false);
                volume.outsider = outsider;
                self.count_volume(volume, true);
            }
        }
        self.listed_volumes = volumes;
    }
}

/// The key under which a taint is counted.
fn taint_key(taint: &Taint) -> (String, String, bool) {
    (taint.key.clone(), taint.value.clone(), taint.effect == TaintEffect::NoSchedule)
}

fn narrowed(sums: Sums) -> Resources {
    Resources::from_array(sums.map(|sum| u64::try_from(sum).unwrap_or(MAX_QUANTITY).min(MAX_QUANTITY)))
}

/// A pod's share of the sums.
fn share(size: PodSize) -> Sums {
    let PodSize { cpu: Millicores(cpu), memory: Bytes(memory) } = size;
    [cpu.into(), memory.into(), 1, 0, 0]
}
