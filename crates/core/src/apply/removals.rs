//! Removals that wait for an operator, and may go on.

use super::{Applier, Fate, not_found};
use crate::agreement::{Agreement, LASTS};
use crate::command::{Kind, Rejection};
use crate::history::EventKind;
use crate::id::{ClusterId, Epoch, Name, TenantId};
use crate::intent::{self, Role};
use crate::state::State;
use crate::tenant::Tenant;

impl Applier<'_> {
    /// Those that are still to be removed, as they were when it was decided.
    pub(super) fn allow_removals(&mut self, cluster: &Name, tenants: &[(TenantId, Epoch)]) -> Fate {
        let cluster = self.state.cluster(cluster.as_str()).ok_or_else(|| not_found(Kind::Cluster, cluster.as_str()))?.id;
        let meant: Vec<(Tenant, Epoch)> =
            tenants.iter().filter_map(|(id, epoch)| Some((to_be_removed(self.state, cluster, *id, *epoch)?, *epoch))).collect();
        if meant.is_empty() {
            return Err(Rejection::Stale);
        }
        let (until, given) = (self.time().after(LASTS), self.revision());
        for (tenant, epoch) in meant {
            self.state.agreements.put(tenant.id, Agreement { epoch, until, given });
            self.keep_tenant(tenant, Some(EventKind::RemovalAllowed { until }));
        }
        Ok(self.done())
    }

    /// Ends agreements whose time has passed: what was not removed by then waits again.
    pub(super) fn end_agreements(&mut self, limit: usize) {
        let ended: Vec<TenantId> = self.state.agreements.ended(self.time()).take(limit).collect();
        for id in ended {
            self.state.agreements.forget(id);
            if let Some(tenant) = self.state.tenant_by_id(id) {
                self.keep_tenant(tenant, None);
            }
        }
    }
}

fn to_be_removed(state: &State, cluster: ClusterId, id: TenantId, epoch: Epoch) -> Option<Tenant> {
    let tenant = state.tenant_by_id(id)?;
    let binding = tenant.phase.binding()?;
    (binding.cluster == cluster && binding.epoch == epoch && intent::role(&tenant) == Some(Role::Absent)).then_some(tenant)
}
