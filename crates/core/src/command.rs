//! What was decided: the log's content, and the answers it gives.
//!
//! Encoded by [`crate::codec`]. Variants and fields are only ever added at the end, and only behind a
//! [`FeatureLevel`]: a replica refuses an entry above its own.

use serde::{Deserialize, Serialize};

use crate::class::ClassVersion;
use crate::cluster::ClusterSpec;
use crate::id::{ClusterId, Epoch, Incarnation, Name, Revision, ShardId, TenantId};
use crate::join::{JoinToken, Spending};
use crate::policy::PolicySpec;
use crate::pool::PoolSpec;
use crate::request::{ClusterFound, GrowthFound, Observation, Principal, Report, Retry};
use crate::resources::{Resource, amount};
use crate::tenant::TenantSpec;
use crate::time::Timestamp;

/// What all members understand; raised when every one supports it, never lowered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FeatureLevel(pub u16);

/// The level of the first release.
pub const FIRST_LEVEL: FeatureLevel = FeatureLevel(1);
/// The highest level that this build understands.
pub const SUPPORTED_LEVEL: FeatureLevel = FeatureLevel(8);

/// The content of one Raft entry: everything that was waiting, decided together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The level that it was written under.
    pub level: FeatureLevel,
    /// Replicated time: never less than the previous entry's.
    pub time: Timestamp,
    /// Each succeeds or is rejected alone, in this order.
    pub commands: Vec<Envelope>,
}

/// One command with who asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Who asked; the replica itself for its own initiative.
    pub principal: Principal,
    /// Retry id, if any.
    pub retry: Option<Retry>,
    /// What was decided.
    pub command: Command,
}

/// Where a decision puts a tenant, and under which policy it was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Cluster.
    pub cluster: ClusterId,
    /// Shard; one past the last opens a new one.
    pub shard: ShardId,
    /// Encoded reason, at most [`crate::tenant::MAX_REASON_BYTES`].
    pub reason: Vec<u8>,
    /// `changed` of the policy, and of the cluster's spec, that the decision was taken under: `Rejected(Stale)` if either has moved.
    pub policy: Revision,
    /// See `policy`.
    pub cluster_changed: Revision,
}

/// A decided change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Create a tenant: bound if there is a placement, else waiting (with the reason why).
    CreateTenant {
        /// Spec with resolved requests.
        spec: Box<TenantSpec>,
        /// Where to, or why nowhere.
        placement: Result<Placement, Vec<u8>>,
    },
    /// Bind a waiting tenant.
    BindTenant {
        /// Which.
        id: TenantId,
        /// Where to.
        placement: Placement,
    },
    /// Keep why a waiting tenant still waits (only when the reason has changed).
    NoteUnplaced {
        /// Which.
        id: TenantId,
        /// Encoded reason.
        reason: Vec<u8>,
    },
    /// Replace a tenant's spec where it is.
    UpdateTenant {
        /// New spec with resolved requests.
        spec: Box<TenantSpec>,
        /// Precondition.
        expected: Option<Revision>,
    },
    /// Delete a tenant.
    ReleaseTenant {
        /// Which.
        name: Name,
        /// Without retention.
        purge: bool,
        /// Precondition.
        expected: Option<Revision>,
    },
    /// Bring a deleted tenant back where its volumes are.
    UndeleteTenant {
        /// Which.
        name: Name,
    },
    /// Record a tenant that runs somewhere already.
    AdoptTenant {
        /// Spec with resolved requests.
        spec: Box<TenantSpec>,
        /// Where.
        cluster: ClusterId,
        /// Shard.
        shard: ShardId,
    },
    /// Create or replace a cluster's spec.
    PutCluster {
        /// Spec.
        spec: Box<ClusterSpec>,
        /// Precondition.
        expected: Option<Revision>,
    },
    /// Set or lift the cordon.
    CordonCluster {
        /// Which.
        name: Name,
        /// On or off.
        cordoned: bool,
    },
    /// Remove a cluster; with `forget`, its tenants' records too: they become waiting again, and are listed in the event.
    DeleteCluster {
        /// Which.
        name: Name,
        /// Although tenants are bound to it.
        forget: bool,
    },
    /// Facts from an agent. Always accepted.
    Report(Box<Report>),
    /// The leader has not heard of a cluster's agent for the policy's time.
    MarkSilent {
        /// Which.
        cluster: ClusterId,
    },
    /// Create or replace a pool.
    PutPool {
        /// Spec.
        spec: PoolSpec,
        /// Precondition.
        expected: Option<Revision>,
    },
    /// Remove a pool.
    DeletePool {
        /// Which.
        name: Name,
    },
    /// Create a class version.
    PutClass {
        /// The version.
        class: Box<ClassVersion>,
    },
    /// Delete a class version.
    DeleteClass {
        /// Class.
        name: Name,
        /// Version.
        version: String,
    },
    /// Replace the policy.
    PutPolicy {
        /// Spec.
        spec: Box<PolicySpec>,
        /// Precondition.
        expected: Option<Revision>,
    },
    /// Drop what has expired by replicated time (retention, deadlines), at most so many: the leader's initiative.
    Expire {
        /// At most so many.
        limit: u32,
    },
    /// Raise the feature level.
    RaiseLevel {
        /// To this one.
        level: FeatureLevel,
    },
    /// Begin a new incarnation: after a restore or a recovery. Fences every cluster until its agent reports.
    Incarnate {
        /// The new one, greater than any before.
        incarnation: Incarnation,
    },
    /// End the fence of one cluster, or of all.
    WaiveFence {
        /// Which.
        cluster: Option<Name>,
    },
    /// Facts from an agent, tenants' volumes and troubles among them. Always accepted. From [`crate::apply::OBSERVES`] on.
    Observe(Box<Observation>),
    /// Give a cluster a token by which its agent is let in, in place of the one before. From [`crate::apply::ENROLS`] on.
    PutToken {
        /// Which.
        cluster: Name,
        /// The token, not spent.
        token: Box<JoinToken>,
    },
    /// Exchange a token. From [`crate::apply::ENROLS`] on.
    SpendToken(Box<Spending>),
    /// An operator agrees to removals that wait in a cluster. From [`crate::apply::AGREES`] on.
    AllowRemovals {
        /// Where.
        cluster: Name,
        /// Of whom, each as it was bound when that was decided.
        tenants: Vec<(TenantId, Epoch)>,
    },
    /// An agent tells details of its cluster. From [`crate::apply::DETAILS`] on.
    NoteCluster(Box<ClusterFound>),
    /// An agent tells what may still be added to its cluster. From [`crate::apply::COUNTS_GROWTH`] on.
    NoteGrowth(Box<GrowthFound>),
}

impl Command {
    /// What a cluster's agent, or an operator in its stead, says with it.
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        if let Self::Observe(observation) = self {
            return Some(&observation.report);
        }
        if let Self::Report(report) = self { Some(report) } else { None }
    }
}

/// What became of one command, the same on every replica and for every retry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done.
    Done(Done),
    /// Nothing changed; here is why.
    Rejected(Rejection),
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// The tenant is bound.
    Placed {
        /// Its uid.
        id: TenantId,
        /// Cluster's number.
        cluster: ClusterId,
        /// Shard.
        shard: ShardId,
        /// Epoch.
        epoch: Epoch,
    },
    /// The tenant waits.
    Pending {
        /// Its uid.
        id: TenantId,
    },
    /// Changed (or already as wanted); the revision is the thing's own.
    Changed {
        /// `changed` of the thing.
        revision: Revision,
    },
}

/// Why nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// The state has moved since the decision; decided again by the leader, never seen by a client.
    #[error("the decision was overtaken by another change")]
    Stale,
    /// No such thing.
    #[error("{kind} {name:?} does not exist")]
    NotFound {
        /// Tenant, cluster, pool, class.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// The name is taken.
    #[error("{kind} {name:?} exists already")]
    AlreadyExists {
        /// Tenant, cluster, pool, class.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// `expected_revision` does not hold.
    #[error("{kind} {name:?} was changed at revision {actual}, expected {expected}")]
    Conflict {
        /// Tenant, cluster, pool, class.
        kind: Kind,
        /// Its name.
        name: String,
        /// What the caller expected.
        expected: Revision,
        /// What it is.
        actual: Revision,
    },
    /// The same request id came with another body.
    #[error("the request id was used before for a different request")]
    RequestIdReused,
    /// The request id is older than what is remembered.
    #[error("the request id is older than the {window_secs} s for which ids are remembered; make a new one after reading the state")]
    RequestIdExpired {
        /// The window.
        window_secs: u64,
    },
    /// Fits nowhere and may not wait, or does not fit where it is. The encoded reason explains.
    #[error("no cluster has room")]
    Unplaceable {
        /// Encoded [`crate::schedule::Reason`].
        reason: Vec<u8>,
    },
    /// Too many wait already.
    #[error("{max} tenants wait for room already")]
    PendingFull {
        /// The policy's bound.
        max: u32,
    },
    /// The owner's quota does not allow it.
    #[error("the quota of owner {owner:?} for {what} is {}; {} would be used", quota(.what, *.limit), quota(.what, up(.what, *.wanted)))]
    QuotaExceeded {
        /// Owner.
        owner: String,
        /// `tenants` or a resource.
        what: String,
        /// The limit.
        limit: u64,
        /// What would be used.
        wanted: u64,
    },
    /// A field has a value that is not allowed.
    #[error("{field}: {problem}")]
    Invalid {
        /// Path of the field.
        field: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// The thing is in use or protected.
    #[error("{kind} {name:?} cannot be changed this way: {problem}")]
    InUse {
        /// Tenant, cluster, pool, class.
        kind: Kind,
        /// Its name.
        name: String,
        /// By whom, and what to do.
        problem: String,
    },
    /// A restore has happened and not every agent has reported.
    #[error("{waiting} clusters have not reported since the restore; wait for their agents, or waive them")]
    Fenced {
        /// How many.
        waiting: u32,
    },
    /// A broken invariant was averted; alarmed on every replica.
    #[error("broken invariant: {what}")]
    Broken {
        /// Which.
        what: String,
    },
}

/// What a quota counts, as Kubernetes writes it: `64Gi` of memory, `1500m` of cpu, 3 tenants.
fn quota(what: &str, value: u64) -> String {
    let resource = Resource::ALL.into_iter().find(|resource| resource.name() == what);
    resource.map_or_else(|| value.to_string(), |resource| amount(resource, value))
}

/// Many bytes are written in whole mebibytes, rounded down: what is just above a limit must not read as if it were the limit.
fn up(what: &str, value: u64) -> u64 {
    let bytes = [Resource::Memory, Resource::Storage].iter().any(|resource| resource.name() == what);
    if bytes && value >> 30 > 0 { value.checked_next_multiple_of(1 << 20).unwrap_or(value) } else { value }
}

/// Kinds of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A tenant.
    Tenant,
    /// A cluster.
    Cluster,
    /// A pool.
    Pool,
    /// A class version.
    Class,
    /// The policy.
    Policy,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tenant => "tenant",
            Self::Cluster => "cluster",
            Self::Pool => "pool",
            Self::Class => "class",
            Self::Policy => "policy",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_told_in_the_quantities_of_kubernetes() {
        let told = |what: &str, limit, wanted| {
            Rejection::QuotaExceeded { owner: "acme".to_owned(), what: what.to_owned(), limit, wanted }.to_string()
        };
        assert_eq!(told("cpu", 64_000, 65_500), "the quota of owner \"acme\" for cpu is 64; 65500m would be used");
        assert_eq!(told("memory", 64 << 30, 65 << 30), "the quota of owner \"acme\" for memory is 64Gi; 65Gi would be used");
        assert_eq!(told("storage", 2 << 40, (2 << 40) + 1), "the quota of owner \"acme\" for storage is 2Ti; 2097153Mi would be used");
        assert_eq!(told("pods", 1 << 31, 1 << 32), "the quota of owner \"acme\" for pods is 2147483648; 4294967296 would be used");
        assert_eq!(told("tenants", 2, 3), "the quota of owner \"acme\" for tenants is 2; 3 would be used");
    }
}
