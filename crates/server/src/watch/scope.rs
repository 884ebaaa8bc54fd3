//! What a watcher wants to see, and how a change concerns it: also when something enters or leaves its scope.

use std::collections::HashMap;
use std::sync::Arc;

use roadstead_core::apply::Change;
use roadstead_core::cluster::Cluster;
use roadstead_core::id::{ClusterId, Name, Owner};
use roadstead_core::tenant::Tenant;

use super::event::{Concern, Entry};

/// Kinds of things, as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds {
    /// Tenants.
    pub tenants: bool,
    /// Clusters.
    pub clusters: bool,
    /// Pools.
    pub pools: bool,
    /// Class versions.
    pub classes: bool,
    /// The policy.
    pub policy: bool,
}

impl Kinds {
    /// Everything.
    pub const ALL: Self = Self { tenants: true, clusters: true, pools: true, classes: true, policy: true };
    /// Nothing.
    pub const NONE: Self = Self { tenants: false, clusters: false, pools: false, classes: false, policy: false };
}

/// What a watcher wants to see.
#[derive(Clone, Debug)]
pub struct Scope {
    kinds: Kinds,
    cluster: Option<Name>,
    owners: Option<Arc<[Owner]>>,
}

impl Scope {
    /// A scope. With a cluster: only tenants bound to it, and that cluster. With owners: only tenants of these.
    #[must_use]
    pub fn new(kinds: Kinds, cluster: Option<Name>, owners: Option<Arc<[Owner]>>) -> Self {
        let kinds = match (&cluster, &owners) {
            (_, Some(_)) => Kinds { tenants: kinds.tenants, ..Kinds::NONE },
            (Some(_), None) => Kinds { tenants: kinds.tenants, clusters: kinds.clusters, ..Kinds::NONE },
            (None, None) => kinds,
        };
        Self { kinds, cluster, owners }
    }

    /// The kinds that can be seen at all.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        self.kinds
    }

    /// The cluster, if there is only one.
    #[must_use]
    pub fn cluster(&self) -> Option<&Name> {
        self.cluster.as_ref()
    }

    /// The owners, if they are limited.
    #[must_use]
    pub fn owners(&self) -> Option<&[Owner]> {
        self.owners.as_deref()
    }

    /// Whether everything is seen.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.kinds == Kinds::ALL && self.cluster.is_none() && self.owners.is_none()
    }

    /// The positions of an entry that can concern this scope, by the narrowest index there is; `None` is all of them.
    #[must_use]
    pub fn keys<'e>(&self, entry: &'e Entry) -> Option<Option<&'e Vec<usize>>> {
        match (&self.owners, &self.cluster) {
            (Some(owners), _) if owners.len() == 1 => Some(entry.by_owner.get(&owners[0])),
            (_, Some(cluster)) => Some(entry.by_cluster.get(cluster)),
            (Some(_) | None, None) => None,
        }
    }

    /// How a change concerns this scope, if it does.
    #[must_use]
    pub fn concern(&self, change: &Change, names: &HashMap<ClusterId, Name>) -> Option<Concern> {
        match change {
            Change::Tenant { before, after, .. } => {
                let seen = |tenant: &Option<Arc<Tenant>>| tenant.as_deref().is_some_and(|tenant| self.sees_tenant(tenant, names));
                if self.kinds.tenants { crossing(seen(before), seen(after)) } else { None }
            }
            Change::Cluster { before, after } => {
                let seen = |cluster: &Option<Arc<Cluster>>| cluster.as_deref().is_some_and(|cluster| self.sees_cluster(cluster));
                crossing(seen(before), seen(after))
            }
            Change::Pool { before, after } if self.kinds.pools => crossing(before.is_some(), after.is_some()),
            Change::Class { before, after } if self.kinds.classes => crossing(before.is_some(), after.is_some()),
            Change::Policy { .. } if self.kinds.policy => Some(Concern::Modified),
            Change::Pool { .. } | Change::Class { .. } | Change::Policy { .. } => None,
        }
    }

    /// Whether a tenant is in the scope.
    #[must_use]
    pub fn sees_tenant(&self, tenant: &Tenant, names: &HashMap<ClusterId, Name>) -> bool {
        let owner = self.owners.as_ref().is_none_or(|owners| owners.contains(&tenant.spec.owner));
        let cluster = self.cluster.as_ref().is_none_or(|wanted| {
            let bound = tenant.phase.binding().and_then(|binding| names.get(&binding.cluster));
            bound == Some(wanted)
        });
        owner && cluster
    }

    /// Whether a cluster is in the scope.
    #[must_use]
    pub fn sees_cluster(&self, cluster: &Cluster) -> bool {
        self.kinds.clusters && self.cluster.as_ref().is_none_or(|wanted| *wanted == cluster.spec.name)
    }
}

fn crossing(before: bool, after: bool) -> Option<Concern> {
    match (before, after) {
        (false, true) => Some(Concern::Added),
        (true, true) => Some(Concern::Modified),
        (true, false) => Some(Concern::Deleted),
        (false, false) => None,
    }
}
