//! What the demo claims, checked from the outside: with what was sent, what was acknowledged, what was watched and what is there now.
//!
//! Nothing of the service's own counting is trusted: the sums are made here from the documents.

use std::collections::{BTreeMap, BTreeSet};

use roadstead_api::v1;

use super::load::Acknowledged;
use super::mix::Wanted;
use super::witness::Seen;
use crate::document::Spec;
use crate::document::class::ClassSpec;
use crate::document::files::Loaded;
use crate::document::fleet::{ClusterSpec, DEFAULT_SHARD_CAP, DEFAULT_TENANT_CAP};
use crate::document::tenant::TenantSpec;

/// Names that a failed check lists.
const MAX_NAMED: usize = 3;
/// Resources that are counted, in the order of the sums below.
const RESOURCES: [&str; 5] = ["cpu", "memory", "pods", "storage", "attachments"];

/// One claim and whether it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The claim.
    pub claim: String,
    /// What contradicts it; none if it holds.
    pub broken: Vec<String>,
}

impl Check {
    fn new(claim: impl Into<String>, broken: Vec<String>) -> Self {
        Self { claim: claim.into(), broken }
    }

    /// The claim with a mark, and some of what contradicts it.
    #[must_use]
    pub fn line(&self) -> String {
        if self.broken.is_empty() {
            return format!("  ok    {}\n", self.claim);
        }
        let shown = self.broken.iter().take(MAX_NAMED).map(|broken| format!("        {broken}\n")).collect::<String>();
        format!("  FALSE {} ({} times)\n{shown}", self.claim, self.broken.len())
    }
}

/// All that the claims are judged by.
pub struct Evidence<'a> {
    /// What was sent.
    pub wanted: &'a [Wanted],
    /// What was answered.
    pub acknowledged: &'a [Acknowledged],
    /// What is there now.
    pub found: &'a [v1::Tenant],
    /// Those that belong to the tour itself, and not to what was sent.
    pub extra: &'a BTreeSet<String>,
    /// What was watched.
    pub seen: &'a BTreeMap<String, Seen>,
    /// The documents that declared the fleet.
    pub documents: &'a [Loaded],
}

type Key<'a> = (&'a str, Option<(&'a str, u32, Option<v1::Revision>)>);

fn key(tenant: &v1::Tenant) -> Key<'_> {
    let binding = tenant.status.as_ref().and_then(|status| status.binding.as_ref());
    (&tenant.uid, binding.map(|binding| (binding.cluster.as_str(), binding.shard, binding.epoch)))
}

/// Judges every claim.
#[must_use]
pub fn judge(evidence: &Evidence<'_>) -> Vec<Check> {
    vec![
        all_acknowledged(evidence),
        nothing_lost(evidence),
        nothing_twice(evidence),
        nothing_else(evidence),
        no_limit_crossed(evidence),
        watched_once(evidence),
    ]
}

fn all_acknowledged(evidence: &Evidence<'_>) -> Check {
    let answered: BTreeSet<usize> = evidence.acknowledged.iter().map(|done| done.index).collect();
    let missing = evidence.wanted.iter().enumerate().filter(|(index, _)| !answered.contains(index));
    let claim = format!("all {} tenants were acknowledged", evidence.wanted.len());
    Check::new(claim, missing.map(|(_, wanted)| format!("{} was not", wanted.name)).collect())
}

fn nothing_lost(evidence: &Evidence<'_>) -> Check {
    let found: BTreeMap<&str, &v1::Tenant> = evidence.found.iter().map(|tenant| (tenant.name.as_str(), tenant)).collect();
    let broken = evidence.acknowledged.iter().filter_map(|done| {
        let name = done.tenant.name.as_str();
        let Some(now) = found.get(name) else { return Some(format!("{name} is gone")) };
        // Who had to wait may have got a place since.
        let same = key(&done.tenant) == key(now) || (key(&done.tenant).1.is_none() && done.tenant.uid == now.uid);
        (!same).then(|| format!("{name}: acknowledged as {:?}, is {:?}", key(&done.tenant), key(now)))
    });
    let claim = "every acknowledged placement is there: same uid, cluster, shard and epoch";
    Check::new(claim, broken.collect())
}

fn nothing_twice(evidence: &Evidence<'_>) -> Check {
    let mut broken = Vec::new();
    let (mut uids, mut epochs) = (BTreeMap::new(), BTreeMap::new());
    for tenant in evidence.found {
        if let Some(other) = uids.insert(tenant.uid.as_str(), tenant.name.as_str()) {
            broken.push(format!("{} and {other} have the uid {}", tenant.name, tenant.uid));
        }
        *epochs.entry(tenant.name.as_str()).or_insert(0) += 1;
    }
    broken.extend(epochs.iter().filter(|(_, count)| **count > 1).map(|(name, count)| format!("{name} is listed {count} times")));
    let moved = evidence.seen.iter().filter(|(_, seen)| seen.bindings.len() > 1 || seen.deleted > 0);
    broken.extend(moved.map(|(name, seen)| format!("{name} was seen at {:?}", seen.bindings)));
    Check::new("nothing was placed twice, no uid was used twice", broken)
}

fn nothing_else(evidence: &Evidence<'_>) -> Check {
    let wanted: BTreeSet<&str> = evidence.wanted.iter().map(|wanted| wanted.name.as_str()).collect();
    let strangers = evidence.found.iter().filter(|tenant| !wanted.contains(tenant.name.as_str()) && !evidence.extra.contains(&tenant.name));
    Check::new("nothing is there that nobody asked for", strangers.map(|tenant| format!("{} is", tenant.name)).collect())
}

fn watched_once(evidence: &Evidence<'_>) -> Check {
    let broken = evidence.wanted.iter().filter_map(|wanted| match evidence.seen.get(&wanted.name) {
        None => Some(format!("{} was not seen", wanted.name)),
        Some(seen) if seen.added != 1 => Some(format!("{} was seen to come {} times", wanted.name, seen.added)),
        Some(_) => None,
    });
    Check::new("a watch over the death of the leader saw every tenant come, once", broken.collect())
}

/// What one cluster holds of what was sent.
#[derive(Default)]
struct Sum {
    used: [u64; 5],
    tenants: u64,
    shards: BTreeMap<u32, u64>,
}

fn no_limit_crossed(evidence: &Evidence<'_>) -> Check {
    let classes: BTreeMap<String, &ClassSpec> = evidence
        .documents
        .iter()
        .filter_map(|item| match &item.document.spec {
            Spec::Class(class) => Some((format!("{}@{}", item.document.name, class.version), &**class)),
            Spec::Policy(_) | Spec::Pool(_) | Spec::Cluster(_) | Spec::Tenant(_) => None,
        })
        .collect();
    let sent: BTreeMap<&str, &TenantSpec> = evidence.wanted.iter().map(|wanted| (wanted.name.as_str(), &wanted.spec)).collect();
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    let mut broken = Vec::new();
    for tenant in evidence.found {
        let Some(binding) = tenant.status.as_ref().and_then(|status| status.binding.as_ref()) else { continue };
        let Some((spec, class)) = sent.get(tenant.name.as_str()).and_then(|spec| Some((spec, classes.get(&spec.class)?))) else { continue };
        let sum = sums.entry(binding.cluster.as_str()).or_default();
        for (total, amount) in sum.used.iter_mut().zip(requests(class, spec)) {
            *total += amount;
        }
        sum.tenants += 1;
        *sum.shards.entry(binding.shard).or_default() += 1;
    }
    for item in evidence.documents {
        let Spec::Cluster(cluster) = &item.document.spec else { continue };
        if let Some(sum) = sums.remove(item.document.name.as_str()) {
            broken.extend(crossed(&item.document.name, cluster, &sum));
        }
    }
    broken.extend(sums.keys().map(|name| format!("{name} is no cluster of this fleet")));
    Check::new("no cap and no resource of any cluster or shard was crossed (summed up here from what was sent)", broken)
}

/// What a tenant asks for, volumes included, in the order of [`RESOURCES`].
fn requests(class: &ClassSpec, spec: &TenantSpec) -> [u64; 5] {
    let requests = &class.requests;
    let volumes: u64 = class.volumes.iter().map(|volume| spec.volumes.get(&volume.name.0).map_or(volume.size.0, |size| size.0)).sum();
    let attachments = class.volumes.len() as u64;
    [requests.cpu.0, requests.memory.0, requests.pods, requests.storage.0 + volumes, requests.attachments + attachments]
}

fn crossed(name: &str, cluster: &ClusterSpec, sum: &Sum) -> Vec<String> {
    let Sum { used, tenants, shards } = sum;
    let mut broken = Vec::new();
    let cap = u64::from(cluster.tenant_cap.unwrap_or(DEFAULT_TENANT_CAP));
    if *tenants > cap {
        broken.push(format!("{name} has {tenants} tenants, its cap is {cap}"));
    }
    let shard_cap = u64::from(cluster.shard_cap.unwrap_or(DEFAULT_SHARD_CAP));
    broken.extend(
        shards
            .iter()
            .filter(|(_, count)| **count > shard_cap)
            .map(|(shard, count)| format!("shard {shard} of {name} has {count} tenants, its cap is {shard_cap}")),
    );
    let Some(capacity) = &cluster.capacity else { return broken };
    let overcommit = cluster.overcommit_percent;
    let percents = [overcommit.cpu, overcommit.memory, overcommit.pods, overcommit.storage, overcommit.attachments];
    let amounts = |of: &crate::document::resources::Resources| [of.cpu.0, of.memory.0, of.pods, of.storage.0, of.attachments];
    let (there, others) = (amounts(&capacity.allocatable), amounts(&capacity.used_by_others));
    for (index, resource) in RESOURCES.iter().enumerate() {
        let limit = u128::from(there[index]) * u128::from(percents[index].unwrap_or(100)) / 100;
        if u128::from(used[index]) + u128::from(others[index]) > limit {
            broken.push(format!("{name}: {} of {resource} beside {} of others, the limit is {limit}", used[index], others[index]));
        }
    }
    broken
}
