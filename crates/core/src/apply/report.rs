//! What agents say of their clusters. Facts are always accepted; what is about another epoch, or another cluster, is ignored.

use super::tenant::first_shard_with_room;
use super::{Applier, Fate, invalid, not_found};
use crate::cluster::Cluster;
use crate::command::{Done, Kind, Rejection};
use crate::history::EventKind;
use crate::id::{ClusterId, ShardId};
use crate::request::{Observed, ObservedTenant, Report};
use crate::state::State;
use crate::tenant::{Binding, Phase, Tenant};

impl Applier<'_> {
    pub(super) fn report(&mut self, report: &Report) -> Fate {
        let name = report.cluster.as_str();
        let cluster = self.state.cluster(name).ok_or_else(|| not_found(Kind::Cluster, name))?.clone();
        check_uid(&cluster, &report.uid)?;
        let changes = self.changes.len();
        let mut after = Cluster::clone(&cluster);
        if cluster.spec.uid.is_empty() && !report.uid.is_empty() {
            after.spec.uid.clone_from(&report.uid);
            after.changed = self.revision();
        }
        if let Some(capacity) = &report.capacity {
            after.capacity = capacity.clone();
            after.reported_at = Some(self.time());
        }
        after.has_agent |= report.by_agent;
        after.silent &= !report.by_agent;
        let awaited = cluster.fenced && report.complete == Some(self.state.incarnation());
        after.fenced &= !awaited;
        if after != *cluster {
            self.keep_cluster(after);
        }
        if awaited {
            self.removals_go_on();
        }
        for observed in &report.tenants {
            self.observe(&cluster, *observed);
        }
        let nothing = self.changes.len() == changes;
        Ok(if nothing { Done::Changed { revision: cluster.changed } } else { self.done() })
    }

    /// What the cluster is that tells of it: as it was before the report.
    fn observe(&mut self, cluster: &Cluster, seen: ObservedTenant) {
        let Some(tenant) = self.state.tenant_by_id(seen.id) else { return };
        let Some(binding) = tenant.phase.binding() else {
            if may_be_found(self.state, cluster) {
                self.found(cluster.id, &tenant, seen.observed);
            }
            return;
        };
        let cluster = cluster.id;
        if comes_from_later(self.state, &tenant, cluster, &seen) {
            return self.take_back(&tenant, binding);
        }
        if binding.cluster != cluster || binding.epoch != seen.epoch {
            return;
        }
        let (phase, event) = match (tenant.phase, seen.observed) {
            (Phase::Bound { running: false, .. }, Observed::Running) => {
                (Some(Phase::Bound { binding, running: true }), Some(EventKind::Running))
            }
            (Phase::Bound { running: true, .. }, Observed::Stopped | Observed::Absent) => {
                (Some(Phase::Bound { binding, running: false }), None)
            }
            (Phase::Releasing { purge: false, .. }, Observed::Stopped) => {
                let until = self.time().after(self.retention(&tenant));
                (Some(Phase::Retained { binding, until }), Some(EventKind::Retained { until }))
            }
            (Phase::Releasing { .. } | Phase::Retained { .. } | Phase::Purging { .. }, Observed::Absent) => (None, None),
            (Phase::Bound { .. }, _) | (Phase::Releasing { .. }, Observed::Running | Observed::Stopped) => return,
            (Phase::Retained { .. } | Phase::Purging { .. }, Observed::Running | Observed::Stopped) | (Phase::Pending { .. }, _) => return,
        };
        match phase {
            Some(phase) => self.keep_tenant(Tenant { phase, ..tenant }, event),
            None => self.drop_tenant(tenant.id),
        }
    }

    /// A tenant that waits is in a cluster: it was placed there after the backup that was restored. It is where its volumes are, over a limit
    /// too; bound anywhere else it would run twice.
    fn found(&mut self, cluster: ClusterId, tenant: &Tenant, observed: Observed) {
        match observed {
            Observed::Running | Observed::Stopped => {}
            Observed::Absent => return,
        }
        let Some(shard) = self.shard_for_a_fact(cluster) else { return };
        let binding = Binding { cluster, shard, epoch: self.revision() };
        let mut after = Tenant { phase: Phase::Bound { binding, running: false }, reason: Vec::new(), ..Tenant::clone(tenant) };
        after.misplaced = self.misplaced(Some(tenant), &after);
        self.keep_tenant(after, Some(EventKind::Adopted { cluster, shard }));
    }

    /// Its namespace carries a newer epoch than its binding: it was brought back after the backup that was restored. Only a newer one still is
    /// acted on there; without it the tenant could be neither run nor removed any more.
    fn take_back(&mut self, tenant: &Tenant, binding: Binding) {
        let Binding { cluster, shard, .. } = binding;
        let binding = Binding { epoch: self.revision(), ..binding };
        let after = Tenant { phase: Phase::Bound { binding, running: false }, ..Tenant::clone(tenant) };
        self.keep_tenant(after, Some(EventKind::Adopted { cluster, shard }));
    }

    /// The first shard below its cap, else a new one, else the first: what is there is counted somewhere.
    fn shard_for_a_fact(&mut self, id: ClusterId) -> Option<ShardId> {
        let cluster = self.state.cluster_by_id(id)?;
        let shard = first_shard_with_room(self.state.ledger(), cluster).unwrap_or(ShardId(0));
        self.open_shard(id, shard).ok()?;
        Some(shard)
    }

    fn retention(&self, tenant: &Tenant) -> crate::time::Millis {
        self.state.class(tenant.spec.class.as_str(), &tenant.spec.version).map_or_else(Default::default, |class| class.retain)
    }

    pub(super) fn mark_silent(&mut self, cluster: ClusterId) -> Fate {
        let cluster = self.state.cluster_by_id(cluster).ok_or(Rejection::Stale)?;
        if cluster.silent {
            return Ok(Done::Changed { revision: cluster.changed });
        }
        let after = Cluster { silent: true, ..Cluster::clone(cluster) };
        self.keep_cluster(after);
        Ok(self.done())
    }
}

/// Whether a tenant that waits may be in a cluster, as that was before it told: since a restore what clusters carry is waited for, and some may have been
/// declared only after the backup. At any other time nobody takes a tenant by saying that it is there: it would be told the tenant's values.
pub(crate) fn may_be_found(state: &State, cluster: &Cluster) -> bool {
    cluster.fenced || state.fenced_count() > 0 || state.level() < super::FINDS_WHERE_AWAITED
}

/// Whether a tenant is where it is bound, in an epoch that comes after its binding's: one that a restore has undone.
pub(crate) fn comes_from_later(state: &State, tenant: &Tenant, cluster: ClusterId, seen: &ObservedTenant) -> bool {
    let binding = match tenant.phase {
        Phase::Bound { binding, .. } | Phase::Releasing { binding, purge: false, .. } | Phase::Retained { binding, .. } => binding,
        // What was being purged never came back.
        Phase::Releasing { purge: true, .. } | Phase::Purging { .. } | Phase::Pending { .. } => return false,
    };
    let there = match seen.observed {
        Observed::Running | Observed::Stopped => true,
        Observed::Absent => false,
    };
    there && state.level() >= super::OBSERVES && binding.cluster == cluster && seen.epoch > binding.epoch
}

/// A cluster's identity is fixed once set: another one that calls itself the same is a clone.
pub(crate) fn check_uid(cluster: &Cluster, uid: &str) -> Result<(), Rejection> {
    if cluster.spec.uid.is_empty() || cluster.spec.uid == uid {
        return Ok(());
    }
    let known = &cluster.spec.uid;
    Err(invalid("uid", format!("{uid:?} is not the known {known:?} of this cluster: is it a copy?")))
}
