//! What the placement service wants of a cluster: for each tenant that is bound there, the role that the cluster plays for it.
//!
//! An intent is derived from the state and never kept. It names every tenant that concerns the cluster; a tenant that it does not name
//! concerns nobody here, and nothing is done about it. Its agent carries it out with [`crate::reconcile`].

use crate::id::{ClusterId, Epoch, Name, Owner, Revision, ShardId, TenantId, VolumeUid};
use crate::resources::{Bytes, Requests};
use crate::state::State;
use crate::tenant::{Desired, Phase, Tenant};

/// What a cluster is to do for a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Everything is there and runs.
    Run,
    /// Room is held for it: its namespace, its bounds and its secrets, generated ones included; nothing that runs, and no volume is made.
    Hold,
    /// Its volumes are there and take in data; nothing of its own runs.
    Receive,
    /// Nothing runs, its volumes are kept.
    Stopped,
    /// Nothing is left. The only role under which anything of a tenant is deleted.
    Absent,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Run, Self::Hold, Self::Receive, Self::Stopped, Self::Absent];
}

/// One of a tenant's volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeIntent {
    /// Name within the tenant.
    pub name: Name,
    /// How large it is to be.
    pub size: Bytes,
    /// Kind of storage, mapped by the cluster.
    pub storage: String,
    /// What the cluster calls it, once it has been made there: another one is not this volume.
    pub uid: Option<VolumeUid>,
}

/// What is wanted of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantIntent {
    /// Which.
    pub id: TenantId,
    /// Whoever acts on an older one for this tenant stops doing so.
    pub epoch: Epoch,
    /// The shard whose label its namespace carries.
    pub shard: ShardId,
    /// What is to be done.
    pub role: Role,
    /// Name.
    pub name: Name,
    /// Organisation.
    pub owner: Owner,
    /// Class.
    pub class: Name,
    /// Its version.
    pub version: String,
    /// Values of the class's template, canonical JSON text.
    pub values: String,
    /// Hostnames.
    pub hostnames: Vec<String>,
    /// Volumes, those of the class in its order.
    pub volumes: Vec<VolumeIntent>,
    /// What it may use.
    pub requests: Requests,
    /// An operator has agreed to its removal, beyond what the cluster's agent removes by itself.
    pub removal_agreed: bool,
}

/// What is wanted of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterIntent {
    /// When it last changed. Revisions of a later incarnation come after all earlier ones; an agent acts on none that is older than what it has seen.
    pub generation: Revision,
    /// By number.
    pub tenants: Vec<TenantIntent>,
}

/// The role of the cluster that a tenant is bound to; `None` while it is bound nowhere.
#[must_use]
pub fn role(tenant: &Tenant) -> Option<Role> {
    Some(match (tenant.phase, tenant.spec.desired) {
        (Phase::Pending { .. }, _) => return None,
        (Phase::Bound { .. }, Desired::Running) => Role::Run,
        (Phase::Bound { .. }, Desired::Hibernated | Desired::Archived) => Role::Stopped,
        (Phase::Releasing { purge: true, .. } | Phase::Purging { .. }, _) => Role::Absent,
        // Deleted, but until its retention has passed it can be brought back with its data.
        (Phase::Releasing { purge: false, .. } | Phase::Retained { .. }, _) => Role::Stopped,
    })
}

/// What is wanted of a tenant where it is bound.
#[must_use]
pub fn of_tenant(state: &State, tenant: &Tenant) -> Option<TenantIntent> {
    let binding = tenant.phase.binding()?;
    let role = match role(tenant)? {
        // What happened since the backup is not known yet: nothing is removed.
        Role::Absent if state.fenced_count() > 0 => Role::Stopped,
        role => role,
    };
    let spec = &tenant.spec;
    let class = state.class(spec.class.as_str(), &spec.version);
    let volumes = class.map_or(&[][..], |class| &class.volumes);
    let facts = state.facts_of(tenant.id);
    let volume = |volume: &crate::class::VolumeSpec| VolumeIntent {
        name: volume.name.clone(),
        size: spec.size_of(volume),
        storage: volume.storage.clone(),
        uid: facts.and_then(|facts| facts.volume(&volume.name)),
    };
    Some(TenantIntent {
        id: tenant.id,
        epoch: binding.epoch,
        shard: binding.shard,
        role,
        name: spec.name.clone(),
        owner: spec.owner.clone(),
        class: spec.class.clone(),
        version: spec.version.clone(),
        values: spec.values.clone(),
        hostnames: spec.hostnames.clone(),
        volumes: volumes.iter().map(volume).collect(),
        requests: spec.requests,
        removal_agreed: role == Role::Absent && state.agreement_to(tenant).is_some(),
    })
}

/// What is wanted of a cluster.
#[must_use]
pub fn for_cluster(state: &State, cluster: ClusterId) -> ClusterIntent {
    let tenants = state.tenants_of_cluster(cluster).filter_map(|tenant| of_tenant(state, &tenant)).collect();
    ClusterIntent { generation: state.generation(cluster), tenants }
}
