//! A cluster: what its operator declares, what its agent reports, and the state that follows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::constraint::Taint;
use crate::id::{ClusterId, Name, Owner, Revision};
use crate::resources::{PodSize, RESOURCE_COUNT, Resources};
use crate::time::Timestamp;

/// Tenants in a cluster unless its spec says otherwise: past 750 to 1000 a Kubernetes cluster stops scaling.
pub const DEFAULT_TENANT_CAP: u32 = 1000;
/// The soft mark below the cap, where spillover begins.
pub const DEFAULT_HIGH_WATER: u32 = 900;
/// Tenants in a shard unless the cluster's spec says otherwise.
pub const DEFAULT_SHARD_CAP: u32 = 100;
/// Node sizes that one report may list; equal nodes are one entry with a count.
pub const MAX_NODE_SIZES: usize = 256;

/// What an operator declares of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// Name, unique in the fleet.
    pub name: Name,
    /// UID of `kube-system`; empty until an agent has joined. Fixed once set.
    pub uid: String,
    /// `aws`, `gcp`, `azure`, `own` or any other word.
    pub provider: String,
    /// Region of the provider.
    pub region: String,
    /// Zones that its nodes are in.
    pub zones: Vec<String>,
    /// Jurisdiction that its volumes stay in, as in `eu`; empty means unknown, which satisfies no residency.
    pub residency: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// The pool it belongs to.
    pub pool: Name,
    /// Owners it is dedicated to; nobody else may enter. Empty: anybody.
    pub dedicated_to: Vec<Owner>,
    /// Hard limit on tenants.
    pub tenant_cap: u32,
    /// Soft mark, at most `tenant_cap`.
    pub high_water: u32,
    /// Hard limit on tenants of one shard.
    pub shard_cap: u32,
    /// Hard limit on shards; `tenant_cap` tenants must fit: `shard_cap * max_shards >= tenant_cap`.
    pub max_shards: u16,
    /// What may be promised of each resource, in percent of what is there; 100 means no overcommit.
    pub overcommit_percent: [u32; RESOURCE_COUNT],
    /// No new tenants while true.
    pub cordoned: bool,
    /// Its tenants are to leave; implies no new ones.
    pub draining: bool,
}

/// Some equal nodes. Listed apart where their free room differs, they show a pool that packs which holes there are to be filled; listed
/// as one, only the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSize {
    /// What one of them can allocate to pods.
    pub allocatable: PodSize,
    /// The largest pod that one of them could take now: the room on the emptiest.
    pub largest_free: PodSize,
    /// How many there are, ready and schedulable.
    pub count: u32,
}

/// Facts about a cluster, as its agent (or its operator) reports them. Never "free": free is what there is, less what
/// others use, less what is counted here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// What ready and schedulable nodes and the storage can allocate.
    pub allocatable: Resources,
    /// What pods and volumes outside the tenants counted here use.
    pub used_by_others: Resources,
    /// Node sizes; empty means unknown, which refuses no pod.
    pub nodes: Vec<NodeSize>,
}

/// What autoscaled groups of nodes may still add to a cluster. It is not there yet and counts all the same: where idle nodes are removed, a cluster that is
/// counted by what it has would never be given anything to grow for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrowthRoom {
    /// What those nodes can allocate together.
    pub total: Resources,
    /// Their sizes.
    pub nodes: Vec<NodeSize>,
}

impl GrowthRoom {
    /// Whether nothing may be added.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is to be written before the capacity that was counted together with it: unless it became more than what is known. A node
    /// that has come, or is gone, then counts at most once in between.
    #[must_use]
    pub fn goes_first(&self, known: &Self) -> bool {
        !self.total.exceeds(known.total)
    }
}

/// What a cluster is at the moment; derived, never set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ClusterState {
    /// Takes tenants.
    Active,
    /// Cordoned by an operator.
    Cordoned,
    /// Being emptied.
    Draining,
    /// Its agent is not heard of; its tenants still count and nothing is moved.
    Silent,
    /// Holds more than a hard limit allows; takes nothing, evicts nobody.
    Overfull,
}

/// A cluster as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its number.
    pub id: ClusterId,
    /// What its operator declared.
    pub spec: ClusterSpec,
    /// What was last reported; all zero until then.
    pub capacity: Capacity,
    /// What may still be added to it, as its agent told last. Written apart from the rest, since it came later. From feature level
    /// [`crate::apply::COUNTS_GROWTH`] on.
    #[serde(skip)]
    pub growth: GrowthRoom,
    /// When `capacity` was last reported; `None` before the first report.
    pub reported_at: Option<Timestamp>,
    /// Whether an agent has reported: only then does silence mean something. What an operator reports holds until it is reported anew.
    pub has_agent: bool,
    /// Whether its agent has fallen silent (a replicated fact; proposed by the leader, ended by a report).
    pub silent: bool,
    /// Whether its agent has yet to report since a restore from backup: nothing is decided for it, nor anywhere, till then.
    pub fenced: bool,
    /// Shards opened so far; their numbers are `0..shards`.
    pub shards: u16,
    /// When it was created.
    pub created: Revision,
    /// When what its operator declared last changed: what `expected_revision` is compared with. Reports do not move it. When its
    /// intent last changed, which every binding does, is told by [`crate::state::State::generation`].
    pub changed: Revision,
}
