//! Clusters, pools and the policy as documents, and their form on the wire.

use std::collections::BTreeMap;

use roadstead_api::v1;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Findings;
use super::constraint::Taint;
use super::quantity::{Bytes, Cpu, Label, OwnerName, Price, Span};
use super::resources::Capacity;

/// Tenants in a cluster unless its document says otherwise.
pub const DEFAULT_TENANT_CAP: u32 = 1000;
/// Tenants in a shard unless the cluster's document says otherwise.
pub const DEFAULT_SHARD_CAP: u32 = 100;

/// One Kubernetes cluster, as its operator declares it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterSpec {
    /// UID of `kube-system`; left as it is if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// `aws`, `gcp`, `azure`, `own` or any other word.
    pub provider: String,
    /// Region of the provider.
    pub region: String,
    /// Zones that its nodes are in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Jurisdiction that its volumes stay in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residency: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Taints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// The pool that it belongs to.
    pub pool: Label,
    /// Owners that it is dedicated to; nobody else may enter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dedicated_to: Vec<OwnerName>,
    /// Hard limit on tenants; 1000 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_cap: Option<u32>,
    /// Soft mark on tenants; nine tenths of the cap if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_water: Option<u32>,
    /// Hard limit on tenants of one shard; 100 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard_cap: Option<u32>,
    /// Hard limit on shards; as many as the cap needs if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_shards: Option<u32>,
    /// What may be promised of each resource, in percent of what is there.
    #[serde(default, skip_serializing_if = "Overcommit::is_empty")]
    pub overcommit_percent: Overcommit,
    /// No new tenants; left as it is if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordoned: Option<bool>,
    /// Its tenants are to leave; left as it is if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<bool>,
    /// Facts to report for a model cluster; a real cluster's agent reports its own. Shown under `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
}

/// Percent of what is there that may be promised; what is left out is 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Overcommit {
    /// CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u32>,
    /// Pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<u32>,
    /// Storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<u32>,
    /// Attachments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachments: Option<u32>,
}

impl Overcommit {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn entries(&self) -> [(&'static str, Option<u32>); 5] {
        [("cpu", self.cpu), ("memory", self.memory), ("pods", self.pods), ("storage", self.storage), ("attachments", self.attachments)]
    }
}

impl ClusterSpec {
    /// Combinations that no single field's type can refuse.
    pub fn check(&self, findings: &mut Findings) {
        for (field, value) in [("tenantCap", self.tenant_cap), ("shardCap", self.shard_cap), ("maxShards", self.max_shards)] {
            if value == Some(0) {
                findings.add(format!("spec.{field}"), "must be at least 1");
            }
        }
        let cap = self.tenant_cap.unwrap_or(DEFAULT_TENANT_CAP);
        if let Some(mark) = self.high_water.filter(|mark| *mark > cap) {
            findings.add("spec.highWater", format!("{mark} is above the tenant cap, {cap}"));
        }
        if let Some(shards) = self.max_shards {
            let shard_cap = self.shard_cap.unwrap_or(DEFAULT_SHARD_CAP);
            if u64::from(shards) * u64::from(shard_cap) < u64::from(cap) {
                let message = format!("{shards} shards of {shard_cap} tenants hold fewer than the tenant cap, {cap}");
                findings.add("spec.maxShards", message);
            }
        }
        for (name, percent) in self.overcommit_percent.entries() {
            if percent == Some(0) {
                findings.add(format!("spec.overcommitPercent.{name}"), "must be at least 1");
            }
        }
    }
}

impl From<&ClusterSpec> for v1::ClusterSpec {
    fn from(doc: &ClusterSpec) -> Self {
        let percents = doc.overcommit_percent.entries().into_iter();
        Self {
            uid: doc.uid.clone().unwrap_or_default(),
            provider: doc.provider.clone(),
            region: doc.region.clone(),
            zones: doc.zones.clone(),
            residency: doc.residency.clone().unwrap_or_default(),
            labels: doc.labels.clone().into_iter().collect(),
            taints: doc.taints.iter().map(Into::into).collect(),
            pool: doc.pool.0.clone(),
            dedicated_to: doc.dedicated_to.iter().map(|owner| owner.0.clone()).collect(),
            tenant_cap: doc.tenant_cap.unwrap_or(0),
            high_water: doc.high_water.unwrap_or(0),
            shard_cap: doc.shard_cap.unwrap_or(0),
            max_shards: doc.max_shards.unwrap_or(0),
            overcommit_percent: percents.filter_map(|(name, percent)| Some((name.to_owned(), percent?))).collect(),
            cordoned: doc.cordoned.unwrap_or(false),
            draining: doc.draining.unwrap_or(false),
        }
    }
}

impl From<&v1::ClusterSpec> for ClusterSpec {
    fn from(wire: &v1::ClusterSpec) -> Self {
        let some = |number: u32| (number != 0).then_some(number);
        let percent = |name: &str| wire.overcommit_percent.get(name).copied().filter(|percent| *percent != 100);
        Self {
            uid: Some(wire.uid.clone()).filter(|uid| !uid.is_empty()),
            provider: wire.provider.clone(),
            region: wire.region.clone(),
            zones: wire.zones.clone(),
            residency: Some(wire.residency.clone()).filter(|residency| !residency.is_empty()),
            labels: wire.labels.clone().into_iter().collect(),
            taints: wire.taints.iter().map(Into::into).collect(),
            pool: Label(wire.pool.clone()),
            dedicated_to: wire.dedicated_to.iter().cloned().map(OwnerName).collect(),
            tenant_cap: some(wire.tenant_cap),
            high_water: some(wire.high_water),
            shard_cap: some(wire.shard_cap),
            max_shards: some(wire.max_shards),
            overcommit_percent: Overcommit {
                cpu: percent("cpu"),
                memory: percent("memory"),
                pods: percent("pods"),
                storage: percent("storage"),
                attachments: percent("attachments"),
            },
            cordoned: Some(wire.cordoned),
            draining: Some(wire.draining),
            capacity: None,
        }
    }
}

/// Clusters that are interchangeable for policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolSpec {
    /// Owned machines or public cloud.
    pub kind: PoolKind,
    /// Pools are filled in ascending order.
    #[serde(default)]
    pub order: u32,
    /// Price of a tenant for an hour in the fleet's currency, to the millionth.
    #[serde(default)]
    pub price: Price,
    /// How tenants are laid over its clusters.
    #[serde(default)]
    pub policy: PoolPolicy,
}

/// Owned machines or public cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolKind {
    /// Owned machines.
    Home,
    /// Public cloud, billed.
    Burst,
}

/// How tenants are laid over clusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolPolicy {
    /// Emptiest first.
    #[default]
    Spread,
    /// Where the largest pod leaves least over on its node, of equal ones the fullest.
    Pack,
}

impl From<&PoolSpec> for v1::PoolSpec {
    fn from(doc: &PoolSpec) -> Self {
        let kind = match doc.kind {
            PoolKind::Home => v1::pool_spec::Kind::Home,
            PoolKind::Burst => v1::pool_spec::Kind::Burst,
        };
        let policy = match doc.policy {
            PoolPolicy::Spread => v1::pool_spec::Policy::Spread,
            PoolPolicy::Pack => v1::pool_spec::Policy::Pack,
        };
        Self { kind: kind.into(), order: doc.order, price_micros: doc.price.0, policy: policy.into() }
    }
}

impl From<&v1::PoolSpec> for PoolSpec {
    fn from(wire: &v1::PoolSpec) -> Self {
        let kind = match wire.kind() {
            v1::pool_spec::Kind::Unspecified | v1::pool_spec::Kind::Home => PoolKind::Home,
            v1::pool_spec::Kind::Burst => PoolKind::Burst,
        };
        let policy = match wire.policy() {
            v1::pool_spec::Policy::Unspecified | v1::pool_spec::Policy::Spread => PoolPolicy::Spread,
            v1::pool_spec::Policy::Pack => PoolPolicy::Pack,
        };
        Self { kind, order: wire.order, price: Price(wire.price_micros), policy }
    }
}

/// What holds for the whole fleet. What is left out stays at its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PolicySpec {
    /// Quota of owners that are not named.
    #[serde(skip_serializing_if = "Quota::is_empty")]
    pub default_quota: Quota,
    /// Quotas by owner.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub quotas: BTreeMap<OwnerName, Quota>,
    /// Tenants that may wait at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pending: Option<u32>,
    /// Waiting tenants tried again per batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_tries_per_batch: Option<u32>,
    /// Silence after which a cluster takes nothing new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent_after: Option<Span>,
    /// How long request ids are remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_window: Option<Span>,
    /// How many are remembered at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
}

/// What an owner may hold at most; what is left out is unlimited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Quota {
    /// Tenants, waiting ones included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenants: Option<u32>,
    /// CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<u64>,
    /// Bytes of volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Bytes>,
    /// Volume attachments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachments: Option<u64>,
}

impl Quota {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl From<&Quota> for v1::Quota {
    fn from(doc: &Quota) -> Self {
        let resources = [
            ("cpu", doc.cpu.map(|cpu| cpu.0)),
            ("memory", doc.memory.map(|memory| memory.0)),
            ("pods", doc.pods),
            ("storage", doc.storage.map(|storage| storage.0)),
            ("attachments", doc.attachments),
        ];
        let resources = resources.into_iter().filter_map(|(name, amount)| Some((name.to_owned(), amount?))).collect();
        Self { tenants: doc.tenants, resources }
    }
}

impl From<&v1::Quota> for Quota {
    fn from(wire: &v1::Quota) -> Self {
        let amount = |name: &str| wire.resources.get(name).copied();
        Self {
            tenants: wire.tenants,
            cpu: amount("cpu").map(Cpu),
            memory: amount("memory").map(Bytes),
            pods: amount("pods"),
            storage: amount("storage").map(Bytes),
            attachments: amount("attachments"),
        }
    }
}

impl From<&PolicySpec> for v1::PolicySpec {
    fn from(doc: &PolicySpec) -> Self {
        Self {
            default_quota: Some((&doc.default_quota).into()),
            quotas: doc.quotas.iter().map(|(owner, quota)| (owner.0.clone(), quota.into())).collect(),
            max_pending: doc.max_pending,
            pending_tries_per_batch: doc.pending_tries_per_batch,
            silent_after: doc.silent_after.map(super::duration_to_wire),
            request_window: doc.request_window.map(super::duration_to_wire),
            max_requests: doc.max_requests,
        }
    }
}

impl From<&v1::PolicySpec> for PolicySpec {
    fn from(wire: &v1::PolicySpec) -> Self {
        Self {
            default_quota: wire.default_quota.as_ref().map(Into::into).unwrap_or_default(),
            quotas: wire.quotas.iter().map(|(owner, quota)| (OwnerName(owner.clone()), quota.into())).collect(),
            max_pending: wire.max_pending,
            pending_tries_per_batch: wire.pending_tries_per_batch,
            silent_after: wire.silent_after.as_ref().map(super::duration_from_wire),
            request_window: wire.request_window.as_ref().map(super::duration_from_wire),
            max_requests: wire.max_requests,
        }
    }
}
