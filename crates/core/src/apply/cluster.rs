//! Clusters: declared, cordoned, removed, forgotten.

use super::{Applier, Fate, expect, in_use, invalid, not_found};
use crate::cluster::{Capacity, Cluster, ClusterSpec, GrowthRoom};
use crate::command::{Done, Kind, Rejection};
use crate::history::EventKind;
use crate::id::{ClusterId, Name, Revision, TenantId};
use crate::state::State;
use crate::tenant::{Phase, Tenant};

/// The largest overcommit in percent: past it a mistake is more likely than a wish.
const MAX_OVERCOMMIT_PERCENT: u32 = 10_000;

impl Applier<'_> {
    pub(super) fn put_cluster(&mut self, spec: &ClusterSpec, expected: Option<Revision>) -> Fate {
        check_cluster_spec(self.state, spec)?;
        let name = spec.name.as_str();
        let Some(before) = self.state.cluster(name).cloned() else {
            expect(expected, Revision::default(), Kind::Cluster, name)?;
            self.create_cluster(spec);
            return Ok(self.done());
        };
        expect(expected, before.changed, Kind::Cluster, name)?;
        let mut after = Cluster { spec: spec.clone(), ..Cluster::clone(&before) };
        if spec.uid.is_empty() {
            after.spec.uid.clone_from(&before.spec.uid);
        }
        if after.spec == before.spec {
            return Ok(Done::Changed { revision: before.changed });
        }
        after.changed = self.revision();
        self.state.touch_generation(before.id);
        self.keep_cluster(after);
        self.recheck_constraints(before.id);
        Ok(self.done())
    }

    fn create_cluster(&mut self, spec: &ClusterSpec) {
        let id = ClusterId(self.state.next_cluster);
        self.state.next_cluster += 1;
        let revision = self.revision();
        self.state.set_generation(id, revision);
        self.keep_cluster(Cluster {
            id,
            spec: spec.clone(),
            capacity: Capacity::default(),
            reported_at: None,
            growth: GrowthRoom::default(),
            has_agent: false,
            silent: false,
            fenced: false,
            shards: 0,
            created: revision,
            changed: revision,
        });
    }

    pub(super) fn cordon_cluster(&mut self, name: &Name, cordoned: bool) -> Fate {
        let before = self.state.cluster(name.as_str()).ok_or_else(|| not_found(Kind::Cluster, name.as_str()))?;
        if before.spec.cordoned == cordoned {
            return Ok(Done::Changed { revision: before.changed });
        }
        let mut after = Cluster::clone(before);
        after.spec.cordoned = cordoned;
        after.changed = self.revision();
        self.keep_cluster(after);
        Ok(self.done())
    }

    pub(super) fn delete_cluster(&mut self, name: &Name, forget: bool) -> Fate {
        let cluster = self.state.cluster(name.as_str()).ok_or_else(|| not_found(Kind::Cluster, name.as_str()))?.clone();
        let tenants: Vec<TenantId> = self.state.tenants.of_cluster(cluster.id).collect();
        check_delete(name, tenants.len(), forget)?;
        for id in tenants {
            self.forget_tenant(cluster.id, id);
        }
        self.state.remove_cluster(cluster.id);
        self.changes.push(super::Change::Cluster { before: Some(cluster), after: None });
        Ok(self.done())
    }

    /// Its cluster is gone for good: it waits for another, or is gone too if it was on its way out.
    fn forget_tenant(&mut self, cluster: ClusterId, id: TenantId) {
        let Some(tenant) = self.state.tenant_by_id(id) else { return };
        match tenant.phase {
            Phase::Bound { .. } => {
                let phase = Phase::Pending { since: self.time() };
                let after = Tenant { phase, reason: Vec::new(), misplaced: false, ..Tenant::clone(&tenant) };
                self.state.observed.forget_tenant(id);
                self.keep_tenant(after, Some(EventKind::Forgotten { cluster }));
            }
            Phase::Releasing { .. } | Phase::Retained { .. } | Phase::Purging { .. } => self.drop_tenant(id),
            Phase::Pending { .. } => {}
        }
    }
}

/// A cluster with tenants is only removed by somebody who says that it is gone for good.
pub(crate) fn check_delete(name: &Name, tenants: usize, forget: bool) -> Result<(), Rejection> {
    if tenants == 0 || forget {
        return Ok(());
    }
    let problem = format!("{tenants} tenants are bound to it; delete them or let them go first, or forget it if it is gone for good");
    Err(in_use(Kind::Cluster, name.as_str(), problem))
}

/// Checks a cluster's spec against itself, its pool and the other clusters.
pub(crate) fn check_cluster_spec(state: &State, spec: &ClusterSpec) -> Result<(), Rejection> {
    if state.pool(spec.pool.as_str()).is_none() {
        return Err(not_found(Kind::Pool, spec.pool.as_str()));
    }
    if spec.tenant_cap == 0 || spec.shard_cap == 0 || spec.max_shards == 0 {
        return Err(invalid("spec.tenant_cap", "tenant_cap, shard_cap and max_shards must be at least 1"));
    }
    if spec.high_water > spec.tenant_cap {
        return Err(invalid("spec.high_water", format!("must be at most the tenant cap of {}", spec.tenant_cap)));
    }
    let room = u64::from(spec.shard_cap) * u64::from(spec.max_shards);
    if room < u64::from(spec.tenant_cap) {
        let problem =
            format!("{} shards of {} hold {room}, less than the tenant cap of {}", spec.max_shards, spec.shard_cap, spec.tenant_cap);
        return Err(invalid("spec.max_shards", problem));
    }
    if spec.overcommit_percent.iter().any(|percent| *percent == 0 || *percent > MAX_OVERCOMMIT_PERCENT) {
        return Err(invalid("spec.overcommit_percent", format!("must be from 1 to {MAX_OVERCOMMIT_PERCENT}")));
    }
    check_identity(state, spec)
}

/// The UID is fixed once set, and no two clusters have the same.
fn check_identity(state: &State, spec: &ClusterSpec) -> Result<(), Rejection> {
    if spec.uid.is_empty() {
        return Ok(());
    }
    if let Some(known) = state.cluster(spec.name.as_str()) {
        super::report::check_uid(known, &spec.uid)?;
    }
    let twin = state.clusters().find(|other| other.spec.uid == spec.uid && other.spec.name != spec.name);
    match twin {
        None => Ok(()),
        Some(twin) => Err(invalid("spec.uid", format!("{:?} is the uid of cluster {:?}", spec.uid, twin.spec.name.as_str()))),
    }
}
