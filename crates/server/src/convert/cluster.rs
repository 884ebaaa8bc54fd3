//! Clusters and pools, in both directions; agents' reports.

use std::collections::BTreeMap;

use roadstead_api::v1::{self, observed_tenant, pool_spec};
use roadstead_core::cluster::{
    Capacity, Cluster, ClusterSpec, ClusterState, DEFAULT_HIGH_WATER, DEFAULT_SHARD_CAP, DEFAULT_TENANT_CAP, GrowthRoom, MAX_NODE_SIZES,
    NodeSize,
};
use roadstead_core::constraint::limits::{MAX_LABEL_LEN, MAX_TERMS, MAX_VALUES};
use roadstead_core::id::{ClusterId, Name, TenantId};
use roadstead_core::observed::ClusterInfo;
use roadstead_core::pool::{Pool, PoolKind, PoolPolicy, PoolSpec};
use roadstead_core::request::{Observed, ObservedTenant, Report};
use roadstead_core::resources::{RESOURCE_COUNT, Resource};
use roadstead_core::state::State;

use super::check::{At, Check};
use super::{constraints, details, pod_size, resources, wire_duration, wire_pod_size, wire_resources, wire_revision, wire_timestamp};
use crate::handle::Heard;

/// The greatest cap on tenants of one cluster: ten times what Kubernetes is known to bear.
pub const MAX_TENANT_CAP: u32 = 10_000;
/// The greatest overcommit in percent.
pub const MAX_OVERCOMMIT_PERCENT: u32 = 1000;
/// Labels of one cluster.
const MAX_LABELS: usize = 128;
/// Owners that one cluster may be dedicated to.
const MAX_DEDICATED: usize = 1024;
/// The longest UID: that of a Kubernetes object is 36 characters.
pub(crate) const MAX_UID_LEN: usize = 64;
/// Tenants in one report: as many as the greatest cap, twice, for those on their way.
pub(super) const MAX_OBSERVED: usize = 2 * MAX_TENANT_CAP as usize;

/// Tenants that are named of those whose removal waits: a look at them tells whether it is meant.
const MAX_NAMED_REMOVALS: usize = 5;

/// What an operator declares of a cluster.
pub fn cluster(check: &mut Check, wire: Option<&v1::Cluster>) -> Option<ClusterSpec> {
    let top = At::Top("cluster");
    let wire = check.required(top, wire)?;
    let name = check.name(top.field("name"), &wire.name);
    let at = top.field("spec");
    let spec = check.required(at, wire.spec.as_ref())?;
    let uid = check.text(at.field("uid"), &spec.uid, MAX_UID_LEN);
    let provider = check.word(at.field("provider"), &spec.provider, MAX_LABEL_LEN);
    let region = check.word(at.field("region"), &spec.region, MAX_LABEL_LEN);
    let zones = check.words(at.field("zones"), &spec.zones, MAX_VALUES, MAX_LABEL_LEN);
    let residency = check.text(at.field("residency"), &spec.residency, MAX_LABEL_LEN);
    let labels = labels(check, at.field("labels"), &spec.labels);
    let taints = check.list(at.field("taints"), &spec.taints, MAX_TERMS, constraints::taint);
    let pool = check.name(at.field("pool"), &spec.pool);
    let dedicated_to = check.list(at.field("dedicated_to"), &spec.dedicated_to, MAX_DEDICATED, |check, at, owner| check.owner(at, owner));
    let overcommit = overcommit(check, at.field("overcommit_percent"), &spec.overcommit_percent);
    let caps = caps(check, at, spec);
    let (tenant_cap, high_water, shard_cap, max_shards) = caps?;
    Some(ClusterSpec {
        name: name?,
        uid: uid?,
        provider: provider?,
        region: region?,
        zones: zones?,
        residency: residency?,
        labels: labels?,
        taints: taints?,
        pool: pool?,
        dedicated_to: dedicated_to?,
        tenant_cap,
        high_water,
        shard_cap,
        max_shards,
        overcommit_percent: overcommit?,
        cordoned: spec.cordoned,
        draining: spec.draining,
    })
}

fn labels(check: &mut Check, at: At<'_>, wire: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    if wire.len() > MAX_LABELS {
        return check.refuse(at, format_args!("has {} entries, at most {MAX_LABELS} are allowed", wire.len()));
    }
    let mut whole = true;
    let mut labels = BTreeMap::new();
    for (key, value) in wire {
        let shown = super::excerpt(key);
        match (check.word(at.key(&shown), key, MAX_LABEL_LEN), check.text(at.key(&shown), value, MAX_LABEL_LEN)) {
            (Some(key), Some(value)) => drop(labels.insert(key, value)),
            (None, _) | (_, None) => whole = false,
        }
    }
    whole.then_some(labels)
}

fn caps(check: &mut Check, at: At<'_>, spec: &v1::ClusterSpec) -> Option<(u32, u32, u32, u16)> {
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    let tenant_cap = check.within(at.field("tenant_cap"), or(spec.tenant_cap, DEFAULT_TENANT_CAP), 1, MAX_TENANT_CAP);
    let shard_cap = check.within(at.field("shard_cap"), or(spec.shard_cap, DEFAULT_SHARD_CAP), 1, MAX_TENANT_CAP);
    let (tenant_cap, shard_cap) = (tenant_cap?, shard_cap?);
    let nine_tenths = (u64::from(tenant_cap) * u64::from(DEFAULT_HIGH_WATER) / u64::from(DEFAULT_TENANT_CAP)) as u32;
    let high_water = check.within(at.field("high_water"), or(spec.high_water, nine_tenths.max(1)), 1, tenant_cap);
    let needed = tenant_cap.div_ceil(shard_cap);
    let max_shards = check.within(at.field("max_shards"), or(spec.max_shards, needed), needed, u32::from(u16::MAX));
    let max_shards = u16::try_from(max_shards?).expect("it was checked to be at most u16::MAX");
    Some((tenant_cap, high_water?, shard_cap, max_shards))
}

fn overcommit(check: &mut Check, at: At<'_>, wire: &BTreeMap<String, u32>) -> Option<[u32; RESOURCE_COUNT]> {
    let mut percent = [100; RESOURCE_COUNT];
    let mut whole = true;
    for (name, value) in wire {
        let shown = super::excerpt(name);
        let resource = resource(check, at.key(&shown), name);
        let value = check.within(at.key(&shown), *value, 1, MAX_OVERCOMMIT_PERCENT);
        match (resource, value) {
            (Some(resource), Some(value)) => percent[resource as usize] = value,
            (None, _) | (_, None) => whole = false,
        }
    }
    whole.then_some(percent)
}

/// A resource by its name.
pub fn resource(check: &mut Check, at: At<'_>, name: &str) -> Option<Resource> {
    match Resource::ALL.into_iter().find(|resource| resource.name() == name) {
        Some(resource) => Some(resource),
        None => check.refuse(at, "is no resource; known are cpu, memory, pods, storage, attachments"),
    }
}

/// What is said of a cluster, by its agent or by an operator.
pub fn report(check: &mut Check, wire: &v1::ReportCapacityRequest, by_agent: bool) -> Option<Report> {
    let cluster = check.name(At::Top("cluster"), &wire.cluster);
    let uid = check.word(At::Top("uid"), &wire.uid, MAX_UID_LEN);
    let capacity = check.optional(At::Top("capacity"), wire.capacity.as_ref(), capacity);
    let tenants = observed(check, At::Top("tenants"), &wire.tenants);
    let complete = check.optional_revision(At::Top("complete_at"), wire.complete_at.as_ref());
    let complete = complete.map(|at| at.map(|at| at.incarnation));
    Some(Report { cluster: cluster?, uid: uid?, capacity: capacity?, tenants: tenants?, by_agent, complete: complete? })
}

pub(super) fn capacity(check: &mut Check, at: At<'_>, wire: &v1::Capacity) -> Option<Capacity> {
    let allocatable = resources(check, at.field("allocatable"), wire.allocatable.as_ref());
    let used_by_others = resources(check, at.field("used_by_others"), wire.used_by_others.as_ref());
    let nodes = nodes(check, at.field("nodes"), &wire.nodes);
    Some(Capacity { allocatable: allocatable?, used_by_others: used_by_others?, nodes: nodes? })
}

/// What may still be added to a cluster, as its agent counts it.
pub fn growth(check: &mut Check, at: At<'_>, wire: &v1::GrowthRoom) -> Option<GrowthRoom> {
    let total = resources(check, at.field("total"), wire.total.as_ref());
    let nodes = nodes(check, at.field("nodes"), &wire.nodes);
    Some(GrowthRoom { total: total?, nodes: nodes? })
}

fn nodes(check: &mut Check, at: At<'_>, wire: &[v1::NodeSize]) -> Option<Vec<NodeSize>> {
    check.list(at, wire, MAX_NODE_SIZES, |check, at, node| {
        let allocatable = pod_size(check, at.field("allocatable"), node.allocatable.as_ref());
        let largest_free = pod_size(check, at.field("largest_free"), node.largest_free.as_ref());
        let count = check.within(at.field("count"), node.count, 1, u32::MAX);
        let (allocatable, largest_free) = (allocatable?, largest_free?);
        if !largest_free.fits(allocatable) {
            return check.refuse(at.field("largest_free"), "is larger than what the node can allocate");
        }
        Some(NodeSize { allocatable, largest_free, count: count? })
    })
}

fn observed(check: &mut Check, at: At<'_>, wire: &[v1::ObservedTenant]) -> Option<Vec<ObservedTenant>> {
    if wire.len() > MAX_OBSERVED {
        return check.refuse(at, format_args!("has {} items, at most {MAX_OBSERVED} are allowed", wire.len()));
    }
    let mut all = Vec::with_capacity(wire.len());
    for (index, tenant) in wire.iter().enumerate() {
        all.extend(observed_one(check, at.item(index), tenant));
    }
    (all.len() == wire.len()).then_some(all)
}

fn observed_one(check: &mut Check, at: At<'_>, wire: &v1::ObservedTenant) -> Option<ObservedTenant> {
    let id = tenant_uid(check, at.field("uid"), &wire.uid);
    let epoch = match check.required(at.field("epoch"), wire.epoch.as_ref()) {
        Some(epoch) => check.revision(at.field("epoch"), epoch),
        None => None,
    };
    let observed = match check.known::<observed_tenant::Observed>(at.field("observed"), wire.observed)? {
        observed_tenant::Observed::Unspecified => return check.refuse(at.field("observed"), "must be RUNNING, STOPPED or ABSENT"),
        observed_tenant::Observed::Running => Observed::Running,
        observed_tenant::Observed::Stopped => Observed::Stopped,
        observed_tenant::Observed::Absent => Observed::Absent,
    };
    Some(ObservedTenant { id: id?, epoch: epoch?, observed })
}

/// A tenant's uid as text.
pub(super) fn tenant_uid(check: &mut Check, at: At<'_>, text: &str) -> Option<TenantId> {
    let strict = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match u64::from_str_radix(text, 16) {
        Ok(number) if strict => Some(TenantId(number)),
        Ok(_) | Err(_) => check.refuse(at, format_args!("{:?} is no tenant's uid: 16 of 0-9 a-f", super::excerpt(text))),
    }
}

/// What a caller reads of a cluster.
#[must_use]
pub fn wire(state: &State, cluster: &Cluster) -> v1::Cluster {
    let ledger = state.ledger();
    let used = ledger.used(cluster.id);
    let cluster_state = state.cluster_state(cluster.id).map_or(v1::ClusterState::Unspecified, wire_state);
    v1::Cluster {
        name: cluster.spec.name.to_string(),
        spec: Some(wire_spec(&cluster.spec)),
        status: Some(v1::ClusterStatus {
            state: cluster_state.into(),
            capacity: cluster.reported_at.map(|_| wire_capacity(&cluster.capacity)),
            report_time: cluster.reported_at.map(wire_timestamp),
            tenants: ledger.tenants(cluster.id),
            used: Some(wire_resources(&used)),
            free: Some(wire_resources(&ledger.limit(cluster.id).saturating_sub(used))),
            shards: u32::from(cluster.shards),
            dominant_share_ppm: ledger.dominant_share_ppm(cluster.id),
            fenced: cluster.fenced,
            info: state.info_of(cluster.id).map(wire_info),
            has_agent: cluster.has_agent,
            last_contact: None,
            removals: wire_removals(state, cluster.id),
            details: state.details_of(cluster.id).map(details::wire),
            growth: (!cluster.growth.is_nothing()).then(|| wire_growth(&cluster.growth)),
        }),
        revision: Some(wire_revision(cluster.changed)),
    }
}

/// When a cluster's agent was last heard of, if that is known.
#[must_use]
pub fn wire_contact(heard: &Heard, cluster: ClusterId) -> Option<v1::Contact> {
    let at = *heard.last.get(&cluster)?;
    Some(v1::Contact { time: Some(wire_timestamp(at)), age: Some(wire_duration(heard.now.since(at))) })
}

/// Removals of a cluster that wait for an operator, or to which one has agreed.
fn wire_removals(state: &State, cluster: ClusterId) -> Option<v1::WaitingRemovals> {
    // Looked for only where its agent says that there are some: it goes through all tenants of the cluster.
    let held_back = state.info_of(cluster).is_some_and(|info| info.held_back > 0);
    let waiting = if held_back { state.held_back(cluster) } else { Vec::new() };
    let ends: Vec<_> = state.agreed(cluster).map(|(_, agreement)| agreement.until).collect();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    (!waiting.is_empty() || !ends.is_empty()).then(|| v1::WaitingRemovals {
        waiting: count(waiting.len()),
        first: waiting.iter().take(MAX_NAMED_REMOVALS).map(|tenant| tenant.spec.name.to_string()).collect(),
        agreed: count(ends.len()),
        agreed_until: ends.into_iter().min().map(wire_timestamp),
    })
}

fn wire_info(info: &ClusterInfo) -> v1::ClusterInfo {
    v1::ClusterInfo {
        version: info.version.clone(),
        agent_version: info.agent.clone(),
        nodes: info.nodes,
        ready_nodes: info.ready_nodes,
        orphans: info.orphans,
        held_back: info.held_back,
    }
}

/// A cluster that is gone, or not yet there: what it was declared as, without a status.
#[must_use]
pub fn wire_without_status(spec: &ClusterSpec) -> v1::Cluster {
    v1::Cluster { name: spec.name.to_string(), spec: Some(wire_spec(spec)), status: None, revision: None }
}

fn wire_spec(spec: &ClusterSpec) -> v1::ClusterSpec {
    let overcommit = Resource::ALL.into_iter().zip(spec.overcommit_percent).filter(|(_, percent)| *percent != 100);
    v1::ClusterSpec {
        uid: spec.uid.clone(),
        provider: spec.provider.clone(),
        region: spec.region.clone(),
        zones: spec.zones.clone(),
        residency: spec.residency.clone(),
        labels: spec.labels.clone(),
        taints: spec.taints.iter().map(constraints::wire_taint).collect(),
        pool: spec.pool.to_string(),
        dedicated_to: spec.dedicated_to.iter().map(ToString::to_string).collect(),
        tenant_cap: spec.tenant_cap,
        high_water: spec.high_water,
        shard_cap: spec.shard_cap,
        max_shards: u32::from(spec.max_shards),
        overcommit_percent: overcommit.map(|(resource, percent)| (resource.name().to_owned(), percent)).collect(),
        cordoned: spec.cordoned,
        draining: spec.draining,
    }
}

fn wire_state(state: ClusterState) -> v1::ClusterState {
    match state {
        ClusterState::Active => v1::ClusterState::Active,
        ClusterState::Cordoned => v1::ClusterState::Cordoned,
        ClusterState::Draining => v1::ClusterState::Draining,
        ClusterState::Silent => v1::ClusterState::Silent,
        ClusterState::Overfull => v1::ClusterState::Overfull,
    }
}

fn wire_capacity(capacity: &Capacity) -> v1::Capacity {
    v1::Capacity {
        allocatable: Some(wire_resources(&capacity.allocatable)),
        used_by_others: Some(wire_resources(&capacity.used_by_others)),
        nodes: capacity.nodes.iter().map(wire_node).collect(),
    }
}

fn wire_growth(room: &GrowthRoom) -> v1::GrowthRoom {
    v1::GrowthRoom { total: Some(wire_resources(&room.total)), nodes: room.nodes.iter().map(wire_node).collect() }
}

fn wire_node(node: &NodeSize) -> v1::NodeSize {
    v1::NodeSize {
        allocatable: Some(wire_pod_size(&node.allocatable)),
        largest_free: Some(wire_pod_size(&node.largest_free)),
        count: node.count,
    }
}

/// What an operator declares of a pool.
pub fn pool(check: &mut Check, wire: Option<&v1::Pool>) -> Option<PoolSpec> {
    let top = At::Top("pool");
    let wire = check.required(top, wire)?;
    let name: Option<Name> = check.name(top.field("name"), &wire.name);
    let at = top.field("spec");
    let spec = check.required(at, wire.spec.as_ref())?;
    let kind = match check.known::<pool_spec::Kind>(at.field("kind"), spec.kind)? {
        pool_spec::Kind::Unspecified | pool_spec::Kind::Home => PoolKind::Home,
        pool_spec::Kind::Burst => PoolKind::Burst,
    };
    let policy = match check.known::<pool_spec::Policy>(at.field("policy"), spec.policy)? {
        pool_spec::Policy::Unspecified | pool_spec::Policy::Spread => PoolPolicy::Spread,
        pool_spec::Policy::Pack => PoolPolicy::Pack,
    };
    let price_micros = check.quantity(at.field("price_micros"), spec.price_micros);
    Some(PoolSpec { name: name?, kind, order: spec.order, price_micros: price_micros?, policy })
}

/// What a caller reads of a pool.
#[must_use]
pub fn wire_pool(pool: &Pool) -> v1::Pool {
    v1::Pool { revision: Some(wire_revision(pool.changed)), ..wire_pool_spec(&pool.spec) }
}

/// A pool as it was declared, without a revision.
#[must_use]
pub fn wire_pool_spec(spec: &PoolSpec) -> v1::Pool {
    let kind = match spec.kind {
        PoolKind::Home => pool_spec::Kind::Home,
        PoolKind::Burst => pool_spec::Kind::Burst,
    };
    let policy = match spec.policy {
        PoolPolicy::Spread => pool_spec::Policy::Spread,
        PoolPolicy::Pack => pool_spec::Policy::Pack,
    };
    v1::Pool {
        name: spec.name.to_string(),
        spec: Some(v1::PoolSpec { kind: kind.into(), order: spec.order, price_micros: spec.price_micros, policy: policy.into() }),
        revision: None,
    }
}
