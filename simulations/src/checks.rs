//! What must hold after an entry was applied, counted anew from the tenants' records, apart from the ledger that the product counts with.

use std::collections::{BTreeMap, BTreeSet};

use roadstead_core::apply::{Applied, Change};
use roadstead_core::cluster::Cluster;
use roadstead_core::history::{EventKind, TenantEvent};
use roadstead_core::id::{ClusterId, Incarnation, ShardId};
use roadstead_core::resources::{Requests, Resources};
use roadstead_core::state::State;
use roadstead_core::tenant::{Phase, Tenant};

/// What is remembered between entries.
#[derive(Debug, Default)]
pub struct Checks {
    incarnation: Incarnation,
    /// Clusters whose agents have not reported since the last restore, and were not waived.
    unheard: BTreeSet<ClusterId>,
    /// Entries whose state was counted.
    counted: BTreeSet<u64>,
}

impl Checks {
    /// Checks the state right after an entry, once for each entry: not every replica stops after each.
    ///
    /// # Errors
    /// What does not hold.
    pub fn applied(&mut self, index: u64, state: &State, applied: &Applied) -> Result<(), String> {
        if !self.counted.insert(index) {
            return Ok(());
        }
        if let Some(alarm) = applied.alarms.first() {
            return Err(format!("entry {index} raised an alarm: {alarm}"));
        }
        if let Some(broken) = state.check_invariants().first() {
            return Err(format!("after entry {index}: {broken}"));
        }
        limits(index, state, applied)
    }

    /// Checks an entry that was applied for the first time anywhere; the state may be a later one.
    ///
    /// # Errors
    /// What was decided too early.
    pub fn fence(&mut self, index: u64, state: &State, applied: &Applied) -> Result<(), String> {
        if applied.revision.incarnation != self.incarnation {
            self.incarnation = applied.revision.incarnation;
            self.unheard = state.clusters().map(|cluster| cluster.id).collect();
        }
        for change in &applied.changes {
            match change {
                Change::Cluster { before: Some(before), after } => {
                    let waived = before.fenced && after.as_ref().is_some_and(|after| !after.fenced);
                    let reported = after.as_ref().is_none_or(|after| after.reported_at != before.reported_at);
                    if waived || reported {
                        self.unheard.remove(&before.id);
                    }
                }
                Change::Tenant { before, after: Some(after), .. }
                    if enters(index, state, before.as_deref(), after).is_some() && !self.unheard.is_empty() =>
                {
                    return Err(format!(
                        "entry {index} placed tenant {} after a restore, before {} clusters had reported",
                        after.spec.name,
                        self.unheard.len()
                    ));
                }
                Change::Tenant { .. } | Change::Cluster { .. } | Change::Pool { .. } | Change::Class { .. } | Change::Policy { .. } => {}
            }
        }
        Ok(())
    }
}

/// The cluster in which a change takes more room than before. That a tenant was found where it is, is a fact and takes nothing.
fn enters(index: u64, state: &State, before: Option<&Tenant>, after: &Tenant) -> Option<ClusterId> {
    let (Phase::Bound { binding, .. }, requests) = (after.phase, after.spec.requests) else { return None };
    let found = |event: &TenantEvent| event.revision.index == index && matches!(event.kind, EventKind::Adopted { .. });
    if state.events_of(after.id).0.iter().any(found) {
        return None;
    }
    let Some(before) = before else { return Some(binding.cluster) };
    match before.phase {
        Phase::Bound { binding: old, .. } | Phase::Releasing { binding: old, .. } if old.cluster == binding.cluster => {
            grows(before.spec.requests, requests).then_some(binding.cluster)
        }
        Phase::Bound { .. } | Phase::Releasing { .. } | Phase::Retained { .. } | Phase::Purging { .. } | Phase::Pending { .. } => {
            Some(binding.cluster)
        }
    }
}

fn grows(before: Requests, after: Requests) -> bool {
    before.total.to_array().iter().zip(after.total.to_array()).any(|(before, after)| after > *before)
}

fn limits(index: u64, state: &State, applied: &Applied) -> Result<(), String> {
    let mut entered = BTreeSet::new();
    let mut changed = BTreeSet::new();
    for change in &applied.changes {
        match change {
            Change::Tenant { before, after: Some(after), .. } => entered.extend(enters(index, state, before.as_deref(), after)),
            Change::Cluster { before, after } => changed.extend(before.iter().chain(after).map(|cluster| cluster.id)),
            Change::Tenant { after: None, .. } | Change::Pool { .. } | Change::Class { .. } | Change::Policy { .. } => {}
        }
    }
    // A fact that came with the same entry may have made the cluster smaller after the tenant had entered.
    for id in entered.difference(&changed) {
        let cluster =
            state.cluster_by_id(*id).ok_or_else(|| format!("entry {index} placed a tenant in cluster {}, which does not exist", id.0))?;
        let used = Use::count(state, *id)?;
        used.within(cluster).map_err(|what| format!("entry {index} crosses a limit of cluster {}: {what}", cluster.spec.name))?;
    }
    Ok(())
}

/// What is used of a cluster.
#[derive(Default)]
struct Use {
    tenants: u32,
    shards: BTreeMap<ShardId, u32>,
    resources: Resources,
}

impl Use {
    fn count(state: &State, cluster: ClusterId) -> Result<Self, String> {
        let mut used = Self::default();
        for tenant in state.tenants_of_cluster(cluster) {
            let total = tenant.spec.requests.total;
            let (full, counted) = match tenant.phase {
                Phase::Bound { .. } | Phase::Releasing { .. } => (true, total),
                Phase::Retained { .. } | Phase::Purging { .. } => (false, Resources { storage: total.storage, ..Resources::default() }),
                Phase::Pending { .. } => return Err(format!("tenant {} waits, and is listed in a cluster", tenant.spec.name)),
            };
            used.resources = used.resources.checked_add(counted).ok_or("the use of a cluster is out of range")?;
            if let (true, Some(binding)) = (full, tenant.phase.binding()) {
                used.tenants += 1;
                *used.shards.entry(binding.shard).or_default() += 1;
            }
        }
        Ok(used)
    }

    fn within(&self, cluster: &Cluster) -> Result<(), String> {
        if self.tenants > cluster.spec.tenant_cap {
            return Err(format!("{} tenants, its cap is {}", self.tenants, cluster.spec.tenant_cap));
        }
        if let Some((shard, count)) = self.shards.iter().find(|(_, count)| **count > cluster.spec.shard_cap) {
            return Err(format!("{count} tenants in shard {}, its cap is {}", shard.0, cluster.spec.shard_cap));
        }
        let there = cluster.capacity.allocatable.to_array();
        let others = cluster.capacity.used_by_others.to_array();
        for (number, used) in self.resources.to_array().into_iter().enumerate() {
            let limit = (there[number] * u64::from(cluster.spec.overcommit_percent[number]) / 100).saturating_sub(others[number]);
            if used > limit {
                return Err(format!("{used} of resource {number}, there is {limit}"));
            }
        }
        Ok(())
    }
}
