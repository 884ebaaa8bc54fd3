//! What autoscaled groups of nodes may still add. Kept apart from what there is: where idle nodes are removed, a cluster that counts only
//! what it has would never be given anything to grow for.
//!
//! cluster-autoscaler tells how many nodes each group may still get (its status in `kube-system/cluster-autoscaler-status`, written as YAML
//! since 1.30), but not how large they are: that is taken from the nodes of the group, known by their provider's label, whose value is part
//! of the group's name. A group without any node has no known size. Karpenter's NodePools have limits; one without may grow without end.
//!
//! Two things are told of it. For people, what each group says of itself ([`Growth`]). And what counts ([`counted`]): of groups whose nodes tenants may
//! use, beside the nodes that are ready. The ready ones are counted here and not taken from the group's status, which lags behind: the same node is never
//! counted twice.

use std::collections::BTreeMap;

use roadstead_core::cluster::{GrowthRoom, MAX_NODE_SIZES, NodeSize};
use roadstead_core::resources::{Bytes, Millicores, PodSize, Resources};
use serde::Deserialize;

use super::quantity::Quantity;
use super::slim::{Kind, Node};

/// What autoscaled groups may still add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Sum over the groups whose room is known.
    pub room: PodSize,
    /// Each group, by name.
    pub groups: Vec<Group>,
}

/// One autoscaled group of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: Box<str>,
    /// How many nodes it may still get, where it counts nodes.
    pub nodes: Option<u32>,
    /// What they may have together, where that is known.
    pub room: Option<PodSize>,
    /// Whether it cannot grow at the moment: its provider has none left, or it is not healthy.
    pub held_back: bool,
}

/// What cluster-autoscaler says of its groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AutoscalerStatus {
    /// Name of the ConfigMap.
    pub(crate) name: Box<str>,
    /// Its groups.
    pub(crate) groups: Vec<NodeGroup>,
}

/// A group of nodes, as cluster-autoscaler tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeGroup {
    /// Its name.
    pub(crate) name: Box<str>,
    /// How many nodes it is to have now.
    pub(crate) target: u32,
    /// How many it may have.
    pub(crate) max: u32,
    /// See [`Group::held_back`].
    pub(crate) held_back: bool,
}

/// The nodes of one pool that are there, by the provider's label.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PoolNodes {
    /// What the least of all can allocate; `None` before the first.
    least: Option<PodSize>,
    /// Ready ones.
    ready: u32,
    /// What those can allocate together.
    sum: PodSize,
    /// What the least of those that tenants may use can allocate, per resource; `None` if they may use none.
    open: Option<Resources>,
}

impl PoolNodes {
    /// Counts a node, with what it can allocate if tenants may use it.
    pub(super) fn add(&mut self, node: &Node, open: Option<Resources>) {
        let PodSize { cpu, memory } = node.allocatable;
        let least = self.least.get_or_insert(node.allocatable);
        *least = PodSize { cpu: least.cpu.min(cpu), memory: least.memory.min(memory) };
        if node.ready {
            self.ready += 1;
            self.sum.cpu.0 = self.sum.cpu.0.saturating_add(cpu.0);
            self.sum.memory.0 = self.sum.memory.0.saturating_add(memory.0);
        }
        if let Some(size) = open {
            self.open = Some(self.open.map_or(size, |least| least.least(size)));
        }
    }
}

/// One of Karpenter's pools of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodePool {
    /// Its name.
    pub(crate) name: Box<str>,
    /// Its limits less what it has; `None` where it is not limited in both.
    pub(crate) room: Option<PodSize>,
    /// Its limits.
    pub(crate) limit: Option<PodSize>,
}

/// Groups with their room, given the nodes of each pool.
pub(super) fn growth<'a>(
    statuses: impl Iterator<Item = &'a AutoscalerStatus>,
    pools: impl Iterator<Item = &'a NodePool>,
    there: &BTreeMap<&str, PoolNodes>,
) -> Growth {
    let counted = statuses.flat_map(|status| &status.groups).map(|group| {
        let nodes = group.max.saturating_sub(group.target);
        let room = of_group(&group.name, there).and_then(|(_, of_it)| of_it.least).map(|size| PodSize {
            cpu: Millicores(size.cpu.0.saturating_mul(u64::from(nodes))),
            memory: Bytes(size.memory.0.saturating_mul(u64::from(nodes))),
        });
        Group { name: group.name.clone(), nodes: Some(nodes), room, held_back: group.held_back }
    });
    let limited = pools.map(|pool| Group { name: pool.name.clone(), nodes: None, room: pool.room, held_back: false });
    let mut groups: Vec<Group> = counted.chain(limited).collect();
    groups.sort_by(|a, b| a.name.cmp(&b.name));
    let able = groups.iter().filter(|group| !group.held_back).filter_map(|group| group.room);
    let room = able.fold(PodSize::default(), |sum, room| PodSize {
        cpu: Millicores(sum.cpu.0.saturating_add(room.cpu.0)),
        memory: Bytes(sum.memory.0.saturating_add(room.memory.0)),
    });
    Growth { room, groups }
}

/// What counts as if it were there.
pub(super) fn counted<'a>(
    statuses: impl Iterator<Item = &'a AutoscalerStatus>,
    pools: impl Iterator<Item = &'a NodePool>,
    there: &BTreeMap<&str, PoolNodes>,
) -> GrowthRoom {
    let mut more = BTreeMap::<&str, u32>::new();
    // Several groups may have the nodes of one label, as those of one pool in several zones.
    for group in statuses.flat_map(|status| &status.groups) {
        let Some((pool, _)) = of_group(&group.name, there) else { continue };
        let most = if group.held_back { group.target } else { group.max };
        let sum = more.entry(pool).or_default();
        *sum = sum.saturating_add(most);
    }
    for (pool, most) in &mut more {
        *most = most.saturating_sub(there.get(pool).map_or(0, |nodes| nodes.ready));
    }
    for pool in pools {
        let Some((name, nodes)) = there.get_key_value(&*pool.name) else { continue };
        let (Some(limit), Some(least)) = (pool.limit, nodes.open) else { continue };
        let fit = |limit: u64, used: u64, one: u64| u32::try_from(limit.saturating_sub(used) / one.max(1)).unwrap_or(u32::MAX);
        let (cpu, memory) = (fit(limit.cpu.0, nodes.sum.cpu.0, least.cpu.0), fit(limit.memory.0, nodes.sum.memory.0, least.memory.0));
        more.insert(name, cpu.min(memory));
    }
    let mut room = GrowthRoom::default();
    for (pool, more) in more {
        let (Some(least), 1..) = (there.get(pool).and_then(|nodes| nodes.open), more) else { continue };
        let all = least.to_array().map(|one| one.saturating_mul(u64::from(more)));
        room.total = room.total.saturating_add(Resources::from_array(all));
        let size = PodSize { cpu: least.cpu, memory: least.memory };
        let one = NodeSize { allocatable: size, largest_free: size, count: more };
        if let Some(known) = room.nodes.iter_mut().find(|node| node.allocatable == size) {
            known.count = known.count.saturating_add(more);
        } else if room.nodes.len() < MAX_NODE_SIZES {
            room.nodes.push(one);
        }
    }
    room
}

/// The pool whose label is part of a group's name; of several the longest.
fn of_group<'a, T: Copy>(group: &str, pools: &BTreeMap<&'a str, T>) -> Option<(&'a str, T)> {
    let parts = |pool: &&str| {
        let ends = |text: &str, at: Option<char>| text.is_empty() || at.is_some_and(|letter| !letter.is_ascii_alphanumeric());
        group.match_indices(*pool).any(|(start, found)| {
            let (before, after) = (&group[..start], &group[start + found.len()..]);
            !pool.is_empty() && ends(before, before.chars().next_back()) && ends(after, after.chars().next())
        })
    };
    pools.iter().filter(|(pool, _)| parts(pool)).max_by_key(|(pool, _)| pool.len()).map(|(pool, of_it)| (*pool, *of_it))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    name: Box<str>,
    #[serde(default)]
    resource_version: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct WireConfigMap {
    metadata: Meta,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireStatus {
    #[serde(default)]
    node_groups: Vec<WireGroup>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireGroup {
    #[serde(default)]
    name: Box<str>,
    #[serde(default)]
    health: WireHealth,
    #[serde(default)]
    scale_up: WireScaleUp,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireHealth {
    #[serde(default)]
    status: String,
    #[serde(default)]
    cloud_provider_target: u32,
    #[serde(default)]
    max_size: u32,
}

#[derive(Debug, Default, Deserialize)]
struct WireScaleUp {
    #[serde(default)]
    status: String,
}

impl Kind for AutoscalerStatus {
    const NAMES: [&'static str; 4] = ["", "v1", "ConfigMap", "configmaps"];
    type Wire<'de> = WireConfigMap;

    fn read(wire: WireConfigMap) -> (String, Self) {
        let status = wire.data.get("status").and_then(|text| serde_saphyr::from_str::<WireStatus>(text).ok());
        let groups = status.unwrap_or_default().node_groups.into_iter().map(|group| NodeGroup {
            name: group.name,
            target: group.health.cloud_provider_target,
            max: group.health.max_size,
            held_back: group.health.status != "Healthy" || group.scale_up.status == "Backoff",
        });
        (wire.metadata.resource_version, Self { name: wire.metadata.name, groups: groups.collect() })
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct WirePool {
    metadata: Meta,
    #[serde(default)]
    spec: WirePoolSpec,
    #[serde(default)]
    status: WirePoolStatus,
}

#[derive(Debug, Default, Deserialize)]
struct WirePoolSpec {
    #[serde(default)]
    limits: WireAmounts,
}

#[derive(Debug, Default, Deserialize)]
struct WirePoolStatus {
    #[serde(default)]
    resources: WireAmounts,
}

#[derive(Debug, Default, Deserialize)]
struct WireAmounts {
    cpu: Option<Quantity>,
    memory: Option<Quantity>,
}

impl Kind for NodePool {
    const NAMES: [&'static str; 4] = ["karpenter.sh", "v1", "NodePool", "nodepools"];
    type Wire<'de> = WirePool;

    fn read(WirePool { metadata, spec, status }: WirePool) -> (String, Self) {
        let left = |limit: Option<Quantity>, used: Option<Quantity>, read: fn(Quantity) -> u64| {
            Some(read(limit?).saturating_sub(read(used.unwrap_or_default())))
        };
        let cpu = left(spec.limits.cpu, status.resources.cpu, Quantity::millicores);
        let memory = left(spec.limits.memory, status.resources.memory, Quantity::whole);
        let size = |(cpu, memory)| PodSize { cpu: Millicores(cpu), memory: Bytes(memory) };
        let limit = spec.limits.cpu.map(Quantity::millicores).zip(spec.limits.memory.map(Quantity::whole)).map(size);
        (metadata.resource_version, Self { name: metadata.name, room: cpu.zip(memory).map(size), limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = r"
time: 2026-01-05 10:11:12.131415161 +0000 UTC
autoscalerStatus: Running
clusterWide:
  health: {status: Healthy}
nodeGroups:
- name: eks-apps-0ec2-11
  health:
    status: Healthy
    nodeCounts: {registered: {total: 3, ready: 3, notStarted: 0}}
    cloudProviderTarget: 3
    minSize: 1
    maxSize: 10
  scaleUp: {status: NoActivity}
- name: eks-gpu-77ab-22
  health: {status: Healthy, cloudProviderTarget: 0, minSize: 0, maxSize: 4}
  scaleUp: {status: Backoff}
";

    fn size(cpu: u64, memory: u64) -> PodSize {
        PodSize { cpu: Millicores(cpu), memory: Bytes(memory) }
    }

    #[test]
    fn a_group_may_grow_by_the_nodes_that_it_lacks_to_its_largest_size() {
        let map = serde_json::json!({"metadata": {"name": "s", "resourceVersion": "5"}, "data": {"status": STATUS}});
        let (version, status) = AutoscalerStatus::read(serde_json::from_value(map).unwrap());
        assert_eq!(version, "5");
        let group = |name: &str, target, max, held_back| NodeGroup { name: name.into(), target, max, held_back };
        assert_eq!(status.groups, [group("eks-apps-0ec2-11", 3, 10, false), group("eks-gpu-77ab-22", 0, 4, true)]);
        let of = |least| PoolNodes { least: Some(least), ..PoolNodes::default() };
        let there = [("apps", of(size(4_000, 16 << 30))), ("app", of(size(1, 1))), ("gpu", of(size(64_000, 1 << 40)))].into();
        let growth = growth([&status].into_iter(), [].into_iter(), &there);
        assert_eq!(growth.room, size(28_000, 112 << 30));
        assert!(growth.groups[1].held_back);
    }

    #[test]
    fn what_counts_is_what_groups_may_have_beside_the_nodes_that_are_ready() {
        let least = Resources { cpu: Millicores(4_000), memory: Bytes(16 << 30), pods: 110, attachments: 25, ..Resources::default() };
        let group = |name: &str, target, max, held_back| NodeGroup { name: name.into(), target, max, held_back };
        let status = |groups: &[NodeGroup]| AutoscalerStatus { name: "s".into(), groups: groups.to_vec() };
        let nodes = |ready: u32, least| {
            let many = u64::from(ready);
            PoolNodes { least: Some(size(4_000, 16 << 30)), ready, sum: size(4_000 * many, many << 34), open: least }
        };
        let of = |groups: &[NodeGroup], ready| {
            let there = [("apps", nodes(ready, Some(least))), ("gpu", nodes(2, None))].into();
            counted([&status(groups)].into_iter(), [].into_iter(), &there)
        };
        let two_zones = [group("apps-a", 2, 5, false), group("apps-b", 1, 5, false), group("gpu", 2, 9, false), group("cold", 0, 9, false)];
        let room = of(&two_zones, 3);
        assert_eq!(
            (room.total.cpu, room.total.pods, room.total.attachments),
            (Millicores(28_000), 770, 175),
            "tenants may use no gpu node"
        );
        assert_eq!(room.nodes, [NodeSize { allocatable: size(4_000, 16 << 30), largest_free: size(4_000, 16 << 30), count: 7 }]);
        // As soon as a node is ready it is counted as one that is there, whatever the group's status says.
        assert_eq!(of(&two_zones, 4).nodes[0].count, 6);
        // A group that is held back gets at most what it is to have.
        assert_eq!(of(&[group("apps-a", 2, 5, false), group("apps-b", 2, 5, true)], 3).nodes[0].count, 4);
        assert_eq!(of(&[group("apps-a", 2, 5, false)], 7), GrowthRoom::default());

        let pool = NodePool { name: "apps".into(), limit: Some(size(30_000, 160 << 30)), ..NodePool::default() };
        let there = [("apps", nodes(3, Some(least)))].into();
        assert_eq!(counted([].into_iter(), [&pool].into_iter(), &there).nodes[0].count, 4, "seven fit into its limits");
        let mixed = [("apps", PoolNodes { sum: size(20_000, 80 << 30), ..nodes(2, Some(least)) })].into();
        assert_eq!(counted([].into_iter(), [&pool].into_iter(), &mixed).nodes[0].count, 2, "one of its nodes is four times as large");
        let endless = NodePool { limit: None, ..pool };
        assert_eq!(counted([].into_iter(), [&endless].into_iter(), &there), GrowthRoom::default());
    }

    #[test]
    fn a_pool_may_grow_to_its_limits_and_one_without_is_not_summed() {
        let pool = |limits: serde_json::Value| {
            let resources = serde_json::json!({"cpu": "12", "memory": "48Gi", "nodes": "3"});
            let pool = serde_json::json!({"metadata": {"name": "p"}, "spec": {"limits": limits}, "status": {"resources": resources}});
            NodePool::read(serde_json::from_value(pool).unwrap()).1
        };
        let limited = pool(serde_json::json!({"cpu": 100, "memory": "400Gi"}));
        assert_eq!(limited.room, Some(size(88_000, 352 << 30)));
        let endless = pool(serde_json::json!({"cpu": 100}));
        assert_eq!(endless.room, None);
        let growth = growth([].into_iter(), [&limited, &endless].into_iter(), &BTreeMap::new());
        assert_eq!((growth.room, growth.groups.len()), (size(88_000, 352 << 30), 2));
    }

    #[test]
    fn a_status_that_cannot_be_read_has_no_groups() {
        for text in ["Cluster-autoscaler status at 2019:\nCluster-wide:\n  Health: Healthy", "nodeGroups: 7", ":"] {
            let map = serde_json::json!({"metadata": {"name": "s"}, "data": {"status": text}});
            assert!(AutoscalerStatus::read(serde_json::from_value(map).unwrap()).1.groups.is_empty());
        }
    }
}
