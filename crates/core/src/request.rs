//! What a caller wants, before anything is decided.
//!
//! A request becomes a [`crate::command::Command`] in [`crate::decide`], on the leader only. The answer to a
//! request is an [`crate::command::Outcome`], the same for a retry with the same id.

use serde::{Deserialize, Serialize};

use crate::class::ClassVersion;
use crate::cluster::{Capacity, ClusterSpec, GrowthRoom};
use crate::id::{Epoch, Incarnation, Name, Owner, RequestId, Revision, ShardId, TenantId};
use crate::join::{Digest, Spending};
use crate::observed::{ClusterDetails, ClusterInfo, SeenTenant};
use crate::policy::PolicySpec;
use crate::pool::PoolSpec;
use crate::tenant::TenantSpec;
use crate::time::Millis;

/// Who asks, as the certificate says it: `admin:alice`, `client:shop-portal`, `agent:eu-1`.
pub type Principal = Owner;

/// One request with its envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Who asks.
    pub principal: Principal,
    /// Retry id and the fingerprint (first 8 bytes of a hash) of the request's body; `None` for what is idempotent by itself.
    pub retry: Option<Retry>,
    /// What is asked for.
    pub ask: Ask,
}

/// What makes a retry recognisable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Retry {
    /// The caller's id.
    pub id: RequestId,
    /// Fingerprint of the body: the same id with another one is an error.
    pub fingerprint: u64,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Place a new tenant. `wait` false refuses instead of letting it wait.
    PlaceTenant {
        /// The tenant; `requests` are resolved from the class when the request is decided.
        spec: Box<TenantSpec>,
        /// Whether it may wait for room.
        wait: bool,
    },
    /// Replace a tenant's spec. Growth that does not fit in place changes nothing.
    UpdateTenant {
        /// The new spec; its name says which tenant.
        spec: Box<TenantSpec>,
        /// Refused if the tenant has changed since.
        expected: Option<Revision>,
    },
    /// Delete a tenant.
    ReleaseTenant {
        /// Which.
        name: Name,
        /// Without retention of its volumes.
        purge: bool,
        /// Refused if the tenant has changed since.
        expected: Option<Revision>,
    },
    /// Bring a deleted tenant back, within its class's retention.
    UndeleteTenant {
        /// Which.
        name: Name,
    },
    /// Record a tenant that already runs somewhere; over the cap, too.
    AdoptTenant {
        /// The tenant.
        spec: Box<TenantSpec>,
        /// Where it runs.
        cluster: Name,
        /// Its shard; chosen if absent.
        shard: Option<ShardId>,
    },
    /// Create or replace a cluster's spec.
    PutCluster {
        /// The spec.
        spec: Box<ClusterSpec>,
        /// Refused if it has changed since.
        expected: Option<Revision>,
    },
    /// Set or lift the cordon.
    CordonCluster {
        /// Which.
        name: Name,
        /// On or off.
        cordoned: bool,
    },
    /// Remove an empty cluster, or (`forget`) one that is gone for good together with all of its tenants.
    DeleteCluster {
        /// Which.
        name: Name,
        /// Its tenants are gone with it; their records become `Pending`, those of deleted ones are dropped.
        forget: bool,
    },
    /// Facts from a cluster's agent.
    Report(Box<Report>),
    /// Create or replace a pool.
    PutPool {
        /// The spec.
        spec: PoolSpec,
        /// Refused if it has changed since.
        expected: Option<Revision>,
    },
    /// Remove a pool that no cluster belongs to.
    DeletePool {
        /// Which.
        name: Name,
    },
    /// Create a version of a class; the same content again is no change, other content is refused.
    PutClass {
        /// The version.
        class: Box<ClassVersion>,
    },
    /// Delete a version of a class that no tenant uses.
    DeleteClass {
        /// Class.
        name: Name,
        /// Version.
        version: String,
    },
    /// Replace the policy.
    PutPolicy {
        /// The spec.
        spec: Box<PolicySpec>,
        /// Refused if it has changed since.
        expected: Option<Revision>,
    },
    /// Let decisions go on although some clusters' agents have not reported since a restore.
    WaiveFence {
        /// One cluster, or all.
        cluster: Option<Name>,
    },
    /// Facts from a cluster's agent, with what each tenant's volumes are and what keeps it from running.
    Observe(Box<Observation>),
    /// Give a cluster a token by which its agent is let in. The same one again changes nothing.
    PutToken {
        /// Which.
        cluster: Name,
        /// Of the token.
        digest: Digest,
        /// UID of `kube-system` of the only cluster that may exchange it; empty is any, if the cluster's is not known yet.
        uid: String,
        /// How long it is good.
        life: Millis,
    },
    /// Exchange a token, which the same key may do again as long as it is good.
    SpendToken(Box<Spending>),
    /// Agree to removals that wait in a cluster.
    AllowRemovals {
        /// Where.
        cluster: Name,
        /// To so many of them at most, in the order in which its agent removes.
        count: u32,
    },
    /// Details of a cluster, as its agent found them.
    NoteCluster(Box<ClusterFound>),
    /// What may still be added to a cluster, as its agent counts it.
    NoteGrowth(Box<GrowthFound>),
}

/// What may still be added to a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrowthFound {
    /// Which cluster.
    pub cluster: Name,
    /// UID of its `kube-system`; a different one than known is refused (a clone).
    pub uid: String,
    /// What may be added.
    pub room: GrowthRoom,
}

/// What a cluster's agent found out about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFound {
    /// Which cluster.
    pub cluster: Name,
    /// UID of its `kube-system`; a different one than known is refused (a clone).
    pub uid: String,
    /// What it found.
    pub details: ClusterDetails,
}

/// What a cluster's agent says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which cluster.
    pub cluster: Name,
    /// UID of its `kube-system`; a different one than known is refused (a clone).
    pub uid: String,
    /// Capacity, if it has changed enough to matter.
    pub capacity: Option<Capacity>,
    /// Tenants seen, each with the epoch it was seen in.
    pub tenants: Vec<ObservedTenant>,
    /// Whether the cluster's agent says so, not an operator.
    pub by_agent: bool,
    /// Present when `tenants` names every tenant that the cluster carries: the incarnation that the agent had heard of before it looked.
    /// Only such a report, of the present incarnation, ends the wait after a restore: another one may have been on its way since before it.
    pub complete: Option<Incarnation>,
}

/// All that an agent tells at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Capacity and phases.
    pub report: Report,
    /// Tenants about which there is something new.
    pub tenants: Vec<SeenTenant>,
    /// What the cluster is made of, if that is new.
    pub info: Option<ClusterInfo>,
}

/// One tenant as its cluster's agent sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedTenant {
    /// Which.
    pub id: TenantId,
    /// The epoch that the agent acts on; another one than the binding's is ignored.
    pub epoch: Epoch,
    /// What it saw.
    pub observed: Observed,
}

/// How a tenant was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Observed {
    /// All of its objects are ready.
    Running,
    /// No pod and no attachment left, volumes there.
    Stopped,
    /// Nothing left.
    Absent,
}
