//! How each kind is written, as far as it is read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use roadstead_class::may_be_namespace_of;
use roadstead_core::constraint::{Taint, TaintEffect};
use roadstead_core::resources::{Bytes, MAX_QUANTITY, Millicores, PodSize};
use serde::{Deserialize, Deserializer};

use super::{Attachment, Kind, Namespace, Node, NodeDrivers, Pod, StorageClass, StorageLeft, Volume};
use crate::inventory::quantity::Quantity;
use crate::inventory::requests::{Amounts, Asked, WireContainer, WireContainerStatus};

/// The label that makes a namespace a tenant's; its value is the tenant's.
pub(crate) const TENANT_LABEL: &str = "roadstead.dev/tenant";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
/// Labels that name the group which a provider's autoscaler made a node for.
const POOL_LABELS: [&str; 5] = [
    "eks.amazonaws.com/nodegroup",
    "cloud.google.com/gke-nodepool",
    "kubernetes.azure.com/agentpool",
    "karpenter.sh/nodepool",
    "node.cluster.x-k8s.io/node-pool",
];

/// A text that is borrowed from the JSON where that is possible.
type Text<'a> = Cow<'a, str>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Meta<'a> {
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow, default)]
    namespace: Text<'a>,
    #[serde(borrow, default)]
    uid: Text<'a>,
    #[serde(default)]
    resource_version: String,
}

/// Of labels only those that matter here.
#[derive(Debug, Default)]
struct Labels {
    tenant: Option<Box<str>>,
    zone: Option<Box<str>>,
    pool: Option<Box<str>>,
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Labels;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("labels")
            }

            fn visit_unit<E>(self) -> Result<Labels, E> {
                Ok(Labels::default())
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut labels = Labels::default();
                while let Some(key) = map.next_key::<String>()? {
                    let slot = match key.as_str() {
                        TENANT_LABEL => &mut labels.tenant,
                        ZONE_LABEL => &mut labels.zone,
                        name if POOL_LABELS.contains(&name) => &mut labels.pool,
                        _ => {
                            map.next_value::<serde::de::IgnoredAny>()?;
                            continue;
                        }
                    };
                    *slot = Some(map.next_value()?);
                }
                Ok(labels)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A UID as a number; one that is not of the usual form is hashed.
fn uid(text: &str) -> u128 {
    let digits: String = text.chars().filter(|letter| *letter != '-').collect();
    u128::from_str_radix(&digits, 16).unwrap_or_else(|_| u128::from(hash(&text)))
}

fn hash(value: &impl std::hash::Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::new().hash_one(value)
}

#[derive(Debug, Deserialize)]
pub(crate) struct WireNamespace<'a> {
    #[serde(borrow)]
    metadata: LabelledMeta<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LabelledMeta<'a> {
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow, default)]
    uid: Text<'a>,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    labels: Labels,
}

impl Kind for Namespace {
    const NAMES: [&'static str; 4] = ["", "v1", "Namespace", "namespaces"];
    type Wire<'de> = WireNamespace<'de>;

    fn read(WireNamespace { metadata }: WireNamespace<'_>) -> (String, Self) {
        let name: Box<str> = metadata.name.into();
        let tenant = metadata.labels.tenant.filter(|tenant| may_be_namespace_of(&name, tenant));
        let namespace = Self { name, uid: metadata.uid.into(), tenant };
        (metadata.resource_version, namespace)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct WireNode<'a> {
    #[serde(borrow)]
    metadata: LabelledMeta<'a>,
    #[serde(borrow, default)]
    spec: NodeSpec<'a>,
    #[serde(borrow, default)]
    status: NodeStatus<'a>,
}

#[derive(Debug, Default, Deserialize)]
struct NodeSpec<'a> {
    #[serde(default)]
    unschedulable: bool,
    #[serde(borrow, default, deserialize_with = "or_default")]
    taints: Vec<WireTaint<'a>>,
}

#[derive(Debug, Deserialize)]
struct WireTaint<'a> {
    key: String,
    #[serde(default)]
    value: String,
    #[serde(borrow)]
    effect: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
struct NodeStatus<'a> {
    #[serde(default, deserialize_with = "or_default")]
    allocatable: BTreeMap<String, Quantity>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    conditions: Vec<Condition<'a>>,
}

#[derive(Debug, Deserialize)]
struct Condition<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    status: Text<'a>,
    #[serde(borrow, default)]
    reason: Text<'a>,
}

impl Kind for Node {
    const NAMES: [&'static str; 4] = ["", "v1", "Node", "nodes"];
    type Wire<'de> = WireNode<'de>;

    fn read(WireNode { metadata, spec, status }: WireNode<'_>) -> (String, Self) {
        let amount = |name: &str| status.allocatable.get(name).copied().unwrap_or_default();
        let holds = |kind: &str| status.conditions.iter().any(|condition| condition.kind == kind && condition.status == "True");
        let attachable = status.allocatable.iter().filter(|(name, _)| name.starts_with("attachable-volumes-"));
        let node = Self {
            name: metadata.name.into(),
            ready: holds("Ready"),
            schedulable: !spec.unschedulable,
            allocatable: PodSize { cpu: Millicores(amount("cpu").millicores()), memory: Bytes(amount("memory").whole()) },
            pods: amount("pods").whole(),
            attachable: sum(attachable.map(|(_, amount)| amount.whole())),
            zone: metadata.labels.zone,
            pool: metadata.labels.pool,
            pressure: ["MemoryPressure", "DiskPressure", "PIDPressure"].map(holds),
            // To what may still come, NoExecute is as NoSchedule.
            taints: spec
                .taints
                .into_iter()
                .map(|WireTaint { key, value, effect }| {
                    let prefer = effect == "PreferNoSchedule";
                    Taint { key, value, effect: if prefer { TaintEffect::PreferNoSchedule } else { TaintEffect::NoSchedule } }
                })
                .collect(),
        };
        (metadata.resource_version, node)
    }
}

/// The sum of some amounts; `None` of none.
/// What is there, or nothing: Go writes an empty list as `null`.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn sum(amounts: impl Iterator<Item = u64>) -> Option<u64> {
    amounts.fold(None, |sum, amount| Some(sum.unwrap_or(0).saturating_add(amount).min(MAX_QUANTITY)))
}

#[derive(Debug, Deserialize)]
pub(crate) struct WirePod<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow, default)]
    spec: PodSpec<'a>,
    #[serde(borrow, default)]
    status: PodStatus<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec<'a> {
    #[serde(borrow, default)]
    node_name: Text<'a>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    containers: Vec<WireContainer<'a>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    init_containers: Vec<WireContainer<'a>>,
    resources: Option<PodResources>,
    overhead: Option<Amounts>,
}

#[derive(Debug, Default, Deserialize)]
struct PodResources {
    requests: Option<Amounts>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus<'a> {
    #[serde(borrow, default)]
    phase: Text<'a>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    conditions: Vec<Condition<'a>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    container_statuses: Vec<WireContainerStatus<'a>>,
    #[serde(borrow, default, deserialize_with = "or_default")]
    init_container_statuses: Vec<WireContainerStatus<'a>>,
}

impl Kind for Pod {
    const NAMES: [&'static str; 4] = ["", "v1", "Pod", "pods"];
    type Wire<'de> = WirePod<'de>;

    fn read(WirePod { metadata, spec, status }: WirePod<'_>) -> (String, Self) {
        let resize_infeasible = |condition: &Condition<'_>| condition.kind == "PodResizePending" && condition.reason == "Infeasible";
        let asked = Asked {
            containers: spec.containers,
            init_containers: spec.init_containers,
            statuses: status.container_statuses.into_iter().chain(status.init_container_statuses).collect(),
            whole: spec.resources.and_then(|resources| resources.requests),
            overhead: spec.overhead,
            resize_infeasible: status.conditions.iter().any(resize_infeasible),
        };
        let pod = Self {
            uid: uid(&metadata.uid),
            namespace: metadata.namespace.into(),
            node: (!spec.node_name.is_empty()).then(|| spec.node_name.into()),
            size: asked.effective(),
            ended: status.phase == "Succeeded" || status.phase == "Failed",
        };
        (metadata.resource_version, pod)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct WireVolume<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow, default)]
    spec: VolumeSpec<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeSpec<'a> {
    #[serde(default)]
    capacity: Storage,
    #[serde(borrow, default)]
    storage_class_name: Text<'a>,
    #[serde(borrow)]
    claim_ref: Option<ClaimRef<'a>>,
    node_affinity: Option<NodeAffinity>,
}

#[derive(Debug, Default, Deserialize)]
struct Storage {
    #[serde(default)]
    storage: Quantity,
}

#[derive(Debug, Deserialize)]
struct ClaimRef<'a> {
    #[serde(borrow, default)]
    namespace: Text<'a>,
}

#[derive(Debug, Deserialize)]
struct NodeAffinity {
    required: Option<Terms>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Terms {
    #[serde(default, deserialize_with = "or_default")]
    node_selector_terms: Vec<Term>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Term {
    #[serde(default, deserialize_with = "or_default")]
    match_expressions: Vec<Expression>,
}

#[derive(Debug, Deserialize)]
struct Expression {
    key: String,
    operator: String,
    #[serde(default, deserialize_with = "or_default")]
    values: Vec<Box<str>>,
}

impl NodeAffinity {
    /// The one host that is named, if it is one.
    fn host(self) -> Option<Box<str>> {
        let [term] = <[Term; 1]>::try_from(self.required?.node_selector_terms).ok()?;
        let mut by_host = term.match_expressions.into_iter().filter(|one| one.key == HOSTNAME_LABEL && one.operator == "In");
        let [host] = <[Box<str>; 1]>::try_from(by_host.next()?.values).ok()?;
        Some(host)
    }
}

impl Kind for Volume {
    const NAMES: [&'static str; 4] = ["", "v1", "PersistentVolume", "persistentvolumes"];
    type Wire<'de> = WireVolume<'de>;

    fn read(WireVolume { metadata, spec }: WireVolume<'_>) -> (String, Self) {
        let volume = Self {
            name: metadata.name.into(),
            size: spec.capacity.storage.whole(),
            class: spec.storage_class_name.into(),
            claimed_in: spec.claim_ref.map(|claim| claim.namespace.into()),
            host: spec.node_affinity.and_then(NodeAffinity::host),
        };
        (metadata.resource_version, volume)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct WireClass<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow, default)]
    provisioner: Text<'a>,
    #[serde(default, deserialize_with = "or_default")]
    parameters: BTreeMap<String, String>,
}

impl Kind for StorageClass {
    const NAMES: [&'static str; 4] = ["storage.k8s.io", "v1", "StorageClass", "storageclasses"];
    type Wire<'de> = WireClass<'de>;

    fn read(WireClass { metadata, provisioner, parameters }: WireClass<'_>) -> (String, Self) {
        let provisioned = provisioner != "kubernetes.io/no-provisioner";
        let class = Self { name: metadata.name.into(), provisioned, pool: hash(&(&provisioner, &parameters)) };
        (metadata.resource_version, class)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireLeft<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow, default)]
    storage_class_name: Text<'a>,
    #[serde(default)]
    capacity: Quantity,
}

impl Kind for StorageLeft {
    const NAMES: [&'static str; 4] = ["storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities"];
    type Wire<'de> = WireLeft<'de>;

    fn read(WireLeft { metadata, storage_class_name, capacity }: WireLeft<'_>) -> (String, Self) {
        (metadata.resource_version, Self { uid: uid(&metadata.uid), class: storage_class_name.into(), left: capacity.whole() })
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct WireDrivers<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(default)]
    spec: DriversSpec,
}

#[derive(Debug, Default, Deserialize)]
struct DriversSpec {
    #[serde(default, deserialize_with = "or_default")]
    drivers: Vec<Driver>,
}

#[derive(Debug, Deserialize)]
struct Driver {
    allocatable: Option<DriverAllocatable>,
}

#[derive(Debug, Deserialize)]
struct DriverAllocatable {
    count: Option<u64>,
}

impl Kind for NodeDrivers {
    const NAMES: [&'static str; 4] = ["storage.k8s.io", "v1", "CSINode", "csinodes"];
    type Wire<'de> = WireDrivers<'de>;

    fn read(WireDrivers { metadata, spec }: WireDrivers<'_>) -> (String, Self) {
        let attachable = sum(spec.drivers.into_iter().filter_map(|driver| driver.allocatable?.count));
        (metadata.resource_version, Self { node: metadata.name.into(), attachable })
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct WireAttachment<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow, default)]
    spec: AttachmentSpec<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AttachmentSpec<'a> {
    #[serde(borrow, default)]
    node_name: Text<'a>,
    #[serde(borrow, default)]
    source: AttachmentSource<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AttachmentSource<'a> {
    #[serde(borrow, default)]
    persistent_volume_name: Text<'a>,
}

impl Kind for Attachment {
    const NAMES: [&'static str; 4] = ["storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments"];
    type Wire<'de> = WireAttachment<'de>;

    fn read(WireAttachment { metadata, spec }: WireAttachment<'_>) -> (String, Self) {
        let attachment =
            Self { name: metadata.name.into(), node: spec.node_name.into(), volume: spec.source.persistent_volume_name.into() };
        (metadata.resource_version, attachment)
    }
}

#[cfg(test)]
mod tests;
