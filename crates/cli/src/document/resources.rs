//! Amounts of resources and sizes of pods and nodes as documents write them.

use roadstead_api::v1;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::{Bytes, Cpu};

fn is_zero(count: &u64) -> bool {
    *count == 0
}
fn no_bytes(bytes: &Bytes) -> bool {
    bytes.0 == 0
}

/// An amount of every counted resource; what is left out is zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    /// CPUs.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Bytes,
    /// Number of pods.
    #[serde(skip_serializing_if = "is_zero")]
    pub pods: u64,
    /// Bytes of volumes.
    #[serde(skip_serializing_if = "no_bytes")]
    pub storage: Bytes,
    /// Volume attachments.
    #[serde(skip_serializing_if = "is_zero")]
    pub attachments: u64,
}

/// CPU and memory of one pod or node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSize {
    /// CPUs.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Bytes,
}

/// What one tenant asks for, surge included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requests {
    /// CPUs of all pods.
    pub cpu: Cpu,
    /// Memory of all pods.
    pub memory: Bytes,
    /// Number of pods.
    pub pods: u64,
    /// Bytes of volumes beside those listed under `volumes`.
    #[serde(default, skip_serializing_if = "no_bytes")]
    pub storage: Bytes,
    /// Attachments beside those of `volumes`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attachments: u64,
    /// The largest single pod.
    pub largest_pod: PodSize,
}

/// Facts about a cluster. What a model cluster of `roadstead dev` reports; a real cluster's agent reports its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capacity {
    /// What ready nodes and the storage can allocate.
    pub allocatable: Resources,
    /// What others than the tenants use.
    #[serde(default, skip_serializing_if = "unused")]
    pub used_by_others: Resources,
    /// Nodes by size; none is unknown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeSize>,
}

fn unused(resources: &Resources) -> bool {
    *resources == Resources::default()
}

/// Some equal nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSize {
    /// How many.
    pub count: u32,
    /// CPUs that one can allocate.
    pub cpu: Cpu,
    /// Memory that one can allocate.
    pub memory: Bytes,
    /// The largest pod that one could take now; the whole node if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub largest_free: Option<PodSize>,
}

impl From<&Resources> for v1::Resources {
    fn from(doc: &Resources) -> Self {
        Self {
            cpu_millicores: doc.cpu.0,
            memory_bytes: doc.memory.0,
            pods: doc.pods,
            storage_bytes: doc.storage.0,
            attachments: doc.attachments,
        }
    }
}

impl From<&v1::Resources> for Resources {
    fn from(wire: &v1::Resources) -> Self {
        Self {
            cpu: Cpu(wire.cpu_millicores),
            memory: Bytes(wire.memory_bytes),
            pods: wire.pods,
            storage: Bytes(wire.storage_bytes),
            attachments: wire.attachments,
        }
    }
}

impl From<PodSize> for v1::PodSize {
    fn from(doc: PodSize) -> Self {
        Self { cpu_millicores: doc.cpu.0, memory_bytes: doc.memory.0 }
    }
}

impl From<v1::PodSize> for PodSize {
    fn from(wire: v1::PodSize) -> Self {
        Self { cpu: Cpu(wire.cpu_millicores), memory: Bytes(wire.memory_bytes) }
    }
}

impl From<&Requests> for v1::Requests {
    fn from(doc: &Requests) -> Self {
        let total = v1::Resources {
            cpu_millicores: doc.cpu.0,
            memory_bytes: doc.memory.0,
            pods: doc.pods,
            storage_bytes: doc.storage.0,
            attachments: doc.attachments,
        };
        Self { total: Some(total), largest_pod: Some(doc.largest_pod.into()) }
    }
}

impl From<&v1::Requests> for Requests {
    fn from(wire: &v1::Requests) -> Self {
        let total: Resources = wire.total.as_ref().map(Into::into).unwrap_or_default();
        Self {
            cpu: total.cpu,
            memory: total.memory,
            pods: total.pods,
            storage: total.storage,
            attachments: total.attachments,
            largest_pod: wire.largest_pod.map(Into::into).unwrap_or_default(),
        }
    }
}

impl From<&Capacity> for v1::Capacity {
    fn from(doc: &Capacity) -> Self {
        let nodes = doc.nodes.iter().map(|node| {
            let whole = PodSize { cpu: node.cpu, memory: node.memory };
            v1::NodeSize {
                allocatable: Some(whole.into()),
                largest_free: Some(node.largest_free.unwrap_or(whole).into()),
                count: node.count,
            }
        });
        Self { allocatable: Some((&doc.allocatable).into()), used_by_others: Some((&doc.used_by_others).into()), nodes: nodes.collect() }
    }
}

impl From<&v1::Capacity> for Capacity {
    fn from(wire: &v1::Capacity) -> Self {
        let nodes = wire.nodes.iter().map(|node| {
            let whole: PodSize = node.allocatable.map(Into::into).unwrap_or_default();
            let free: Option<PodSize> = node.largest_free.map(Into::into);
            NodeSize { count: node.count, cpu: whole.cpu, memory: whole.memory, largest_free: free.filter(|free| *free != whole) }
        });
        Self {
            allocatable: wire.allocatable.as_ref().map(Into::into).unwrap_or_default(),
            used_by_others: wire.used_by_others.as_ref().map(Into::into).unwrap_or_default(),
            nodes: nodes.collect(),
        }
    }
}
