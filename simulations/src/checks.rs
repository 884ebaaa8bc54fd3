//! What must hold after an entry was applied, counted anew from the tenants' records, apart from the ledger that the product counts with.

use std::collections::{BTreeMap, BTreeSet};

use roadstead_core::apply::{Applied, Change};
use roadstead_core::cluster::Cluster;
use roadstead_core::command::{Batch, Command, Envelope};
use roadstead_core::history::{EventKind, TenantEvent};
use roadstead_core::id::{ClusterId, Incarnation, Name, ShardId};
use roadstead_core::request::{Principal, Report};
use roadstead_core::resources::{Requests, Resources};
use roadstead_core::state::State;
use roadstead_core::tenant::{Desired, Phase, Tenant};
use roadstead_core::time::Timestamp;

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

/// Checks what an entry takes from tenants against its commands. Only people let tenants go, stop them, or say that a cluster is gone; what they
/// have begun goes on at the word of the tenant's own cluster, or when its time has passed. That somebody is silent is no word.
///
/// # Errors
/// From whom something was taken that nobody had asked for.
pub fn asked_for(index: u64, state: &State, batch: &Batch, applied: &Applied) -> Result<(), String> {
    for change in &applied.changes {
        let Change::Tenant { before: Some(before), after, .. } = change else { continue };
        let Some(binding) = before.phase.binding().filter(|_| loses(before, after.as_deref())) else { continue };
        // One that is gone is known only from the entry that took it away.
        let gone = applied.changes.iter().filter_map(|change| match change {
            Change::Cluster { before, after: None } => before.as_deref(),
            Change::Cluster { .. } | Change::Tenant { .. } | Change::Pool { .. } | Change::Class { .. } | Change::Policy { .. } => None,
        });
        let mut known = state.cluster_by_id(binding.cluster).map(AsRef::as_ref).into_iter().chain(gone);
        let its_cluster = known.find(|cluster| cluster.id == binding.cluster).map(|cluster| &cluster.spec.name);
        let is_its_cluster = |name: &Name| its_cluster == Some(name);
        if !batch.commands.iter().any(|envelope| may_take(envelope, before, is_its_cluster, state.time())) {
            let by: Vec<&Principal> = batch.commands.iter().map(|envelope| &envelope.principal).collect();
            let (name, was, is) = (&before.spec.name, before.phase, after.as_ref().map(|after| after.phase));
            return Err(format!("entry {index} of {by:?} takes tenant {name} from {was:?} to {is:?}, and nobody had asked for that"));
        }
    }
    Ok(())
}

/// Whether a tenant has less after a change than before: it runs no more, is nearer to its end, or is not where it was.
fn loses(before: &Tenant, after: Option<&Tenant>) -> bool {
    let Some(after) = after else { return true };
    let place = |tenant: &Tenant| tenant.phase.binding().map(|binding| binding.cluster);
    let stops = before.spec.desired == Desired::Running && after.spec.desired != Desired::Running;
    stops || place(before) != place(after) || left(after.phase) < left(before.phase)
}

/// How much of a tenant is to be left, as a rank.
fn left(phase: Phase) -> u8 {
    match phase {
        Phase::Pending { .. } | Phase::Purging { .. } => 0,
        Phase::Releasing { purge: true, .. } => 1,
        Phase::Retained { .. } => 2,
        Phase::Releasing { purge: false, .. } => 3,
        Phase::Bound { .. } => 4,
    }
}

/// Whether a command, asked by whom it was, may take something from a tenant.
fn may_take(envelope: &Envelope, before: &Tenant, is_its_cluster: impl Fn(&Name) -> bool, now: Timestamp) -> bool {
    let by = envelope.principal.as_str();
    let by_a_person = !by.starts_with("replica:") && !by.starts_with("agent:");
    match &envelope.command {
        Command::ReleaseTenant { name, .. } => by_a_person && *name == before.spec.name,
        Command::UpdateTenant { spec, .. } => by_a_person && spec.name == before.spec.name,
        Command::DeleteCluster { name, .. } => by_a_person && is_its_cluster(name),
        Command::Report(_) | Command::Observe(_) => {
            let tells = |report: &Report| is_its_cluster(&report.cluster) && report.tenants.iter().any(|seen| seen.id == before.id);
            !matches!(before.phase, Phase::Bound { .. }) && envelope.command.report().is_some_and(tells)
        }
        Command::Expire { .. } => matches!(before.phase, Phase::Retained { until, .. } if until <= now),
        Command::CreateTenant { .. }
        | Command::BindTenant { .. }
        | Command::NoteUnplaced { .. }
        | Command::UndeleteTenant { .. }
        | Command::AdoptTenant { .. }
        | Command::PutCluster { .. }
        | Command::CordonCluster { .. }
        | Command::MarkSilent { .. }
        | Command::PutPool { .. }
        | Command::DeletePool { .. }
        | Command::PutClass { .. }
        | Command::DeleteClass { .. }
        | Command::PutPolicy { .. }
        | Command::RaiseLevel { .. }
        | Command::Incarnate { .. }
        | Command::WaiveFence { .. }
        | Command::PutToken { .. }
        | Command::SpendToken(_)
        | Command::AllowRemovals { .. }
        | Command::NoteCluster(_)
        | Command::NoteGrowth(_) => false,
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
    let (mut entered, mut placed) = (BTreeSet::new(), BTreeSet::new());
    let mut changed = BTreeSet::new();
    for change in &applied.changes {
        match change {
            Change::Tenant { before, after: Some(after), .. } => {
                let cluster = enters(index, state, before.as_deref(), after);
                let is_placed = before.as_deref().is_none_or(|before| before.phase.binding().is_none());
                entered.extend(cluster);
                placed.extend(cluster.filter(|_| is_placed));
            }
            Change::Cluster { before, after } => changed.extend(before.iter().chain(after).map(|cluster| cluster.id)),
            Change::Tenant { after: None, .. } | Change::Pool { .. } | Change::Class { .. } | Change::Policy { .. } => {}
        }
    }
    // A fact that came with the same entry may have made the cluster smaller after the tenant had entered.
    for id in entered.difference(&changed) {
        let cluster =
            state.cluster_by_id(*id).ok_or_else(|| format!("entry {index} placed a tenant in cluster {}, which does not exist", id.0))?;
        if cluster.silent && placed.contains(id) {
            return Err(format!("entry {index} placed a tenant in cluster {}, which is silent", cluster.spec.name));
        }
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
        let there = cluster.capacity.allocatable.saturating_add(cluster.growth.total).to_array();
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
