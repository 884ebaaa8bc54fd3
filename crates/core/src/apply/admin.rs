//! What is about the service itself: expiry, feature levels, incarnations, fences.

use super::{Applier, Fate, not_found};
use crate::cluster::Cluster;
use crate::command::{Done, FeatureLevel, Kind, Rejection};
use crate::id::{ClusterId, Incarnation, Name, TenantId};
use crate::state::Tokens;
use crate::tenant::Phase;

impl Applier<'_> {
    /// Lets go of retained tenants whose retention has passed, and drops waiting ones whose deadline has.
    pub(super) fn expire(&mut self, limit: u32) -> Fate {
        let now = self.time();
        let due = self.state.tenants.expiries().iter().take_while(|(time, _)| *time <= now).take(limit as usize);
        let due: Vec<TenantId> = due.map(|(_, id)| *id).collect();
        for id in due {
            match self.state.tenant_by_id(id) {
                Some(tenant) if let Phase::Retained { binding, .. } = tenant.phase => self.purge_tenant(tenant, binding),
                Some(_) | None => self.drop_tenant(id),
            }
        }
        self.end_agreements(limit as usize);
        Ok(self.done())
    }

    pub(super) fn raise_level(&mut self, level: FeatureLevel) -> Fate {
        self.state.level = self.state.level.max(level);
        Ok(self.done())
    }

    /// Begins a new incarnation: whatever happened since the backup is unknown until every cluster's agent has told.
    pub(super) fn incarnate(&mut self, incarnation: Incarnation) -> Fate {
        if incarnation <= self.state.incarnation() {
            let what = format!("incarnation {} follows {}", incarnation.0, self.state.incarnation().0);
            return Err(Rejection::Broken { what });
        }
        self.state.revision.incarnation = incarnation;
        // Which of them were used since the backup is unknown, too.
        self.state.tokens = Tokens::default();
        // What was agreed to was agreed to knowing what has been undone.
        self.state.agreements = Default::default();
        // Every cluster, also one that held nothing when the backup was taken: tenants may have been bound to it since.
        let all: Vec<ClusterId> = self.state.clusters().map(|cluster| cluster.id).collect();
        for id in all {
            let Some(cluster) = self.state.cluster_by_id(id) else { continue };
            let after = Cluster { fenced: true, ..Cluster::clone(cluster) };
            self.state.touch_generation(id);
            self.keep_cluster(after);
        }
        Ok(self.done())
    }

    pub(super) fn waive_fence(&mut self, name: Option<&Name>) -> Fate {
        let fenced: Vec<ClusterId> = match name {
            Some(name) => {
                let cluster = self.state.cluster(name.as_str()).ok_or_else(|| not_found(Kind::Cluster, name.as_str()))?;
                if !cluster.fenced {
                    return Ok(Done::Changed { revision: cluster.changed });
                }
                vec![cluster.id]
            }
            None => self.state.fenced_clusters().map(|cluster| cluster.id).collect(),
        };
        for id in fenced {
            let Some(cluster) = self.state.cluster_by_id(id) else { continue };
            let after = Cluster { fenced: false, ..Cluster::clone(cluster) };
            self.keep_cluster(after);
        }
        self.removals_go_on();
        Ok(self.done())
    }

    /// Nothing is removed while a cluster is fenced (see [`crate::intent::role`]); after the last of them, every intent may name something.
    pub(super) fn removals_go_on(&mut self) {
        if self.state.fenced_count() > 0 || self.state.level() < super::OBSERVES {
            return;
        }
        let all: Vec<ClusterId> = self.state.clusters().map(|cluster| cluster.id).collect();
        for id in all {
            self.state.touch_generation(id);
        }
    }
}
