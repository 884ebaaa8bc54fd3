//! Whether the constraints of a tenant still hold where it is. They are only told: nobody is moved by it.

use super::Applier;
use crate::history::EventKind;
use crate::id::{ClusterId, ShardId};
use crate::ledger::{Ledger, Neighbours, Refusal, Residents};
use crate::state::counted;
use crate::tenant::{Phase, Tenant, TenantSpec};

impl Applier<'_> {
    /// Whether a tenant with this spec and place, which replaces `before` (if any), is misplaced.
    pub(super) fn misplaced(&self, before: Option<&Tenant>, after: &Tenant) -> bool {
        let Phase::Bound { binding, .. } = after.phase else { return after.misplaced };
        let mut ledger = self.state.ledger().clone();
        if let Some((before, (share, place))) = before.and_then(|before| Some((before, counted(&before.phase)?))) {
            ledger.give(&before.spec, share, place.cluster, place.shard);
        }
        !constraints_hold(&ledger, self.state, &after.spec, binding.cluster, binding.shard)
    }

    /// Flags the tenants of a changed cluster whose constraints no longer hold, and unflags those whose hold again.
    pub(super) fn recheck_constraints(&mut self, cluster: ClusterId) {
        let mut ledger = self.state.ledger().clone();
        let mut turned = Vec::new();
        for tenant in self.state.tenants_of_cluster(cluster) {
            let Phase::Bound { binding, .. } = tenant.phase else { continue };
            let Some((share, _)) = counted(&tenant.phase) else { continue };
            ledger.give(&tenant.spec, share, cluster, binding.shard);
            let hold = constraints_hold(&ledger, self.state, &tenant.spec, cluster, binding.shard);
            ledger.take(&tenant.spec, share, cluster, binding.shard);
            if hold == tenant.misplaced {
                turned.push(tenant);
            }
        }
        for tenant in turned {
            let misplaced = !tenant.misplaced;
            self.keep_tenant(Tenant { misplaced, ..tenant }, self.misplaced_event(misplaced));
        }
    }

    /// What a tenant's history tells of it.
    pub(super) fn misplaced_event(&self, misplaced: bool) -> Option<EventKind> {
        (self.state.level() >= super::MISPLACED_IN_HISTORY).then_some(EventKind::Misplaced { misplaced })
    }
}

/// Whether every constraint of a tenant holds in one place; the ledger must not count the tenant. Taints only keep newcomers out, and
/// the size of nodes is a limit, no constraint: neither makes a resident misplaced.
fn constraints_hold(ledger: &Ledger, residents: &dyn Residents, spec: &TenantSpec, cluster: ClusterId, shard: ShardId) -> bool {
    let Some(site) = ledger.site(cluster) else { return true };
    let neighbours = Neighbours::of(ledger, residents, spec);
    let mut refusals = Vec::new();
    site.refusals(spec, &mut refusals);
    neighbours.cluster_refusals(site, cluster, &mut refusals);
    neighbours.shard_refusals(site, cluster, shard, &mut refusals);
    !refusals.iter().any(|refusal| matches!(refusal, Refusal::Constraint { which, .. } if *which != "taint"))
}
