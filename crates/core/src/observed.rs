//! What agents tell beyond a phase: which volumes a tenant has, what keeps it from running, what a cluster is made of.
//!
//! Kept apart from tenants and clusters: it is told by agents, decides no placement, and most tenants have none. From feature level
//! [`crate::apply::OBSERVES`] on.

use serde::{Deserialize, Serialize};

use crate::id::{Epoch, Name, TenantId, VolumeUid};
use crate::resources::PodSize;
use crate::time::Timestamp;

/// The longest text about what keeps a tenant from running, in bytes.
pub const MAX_WHY_BYTES: usize = 240;
/// Volumes of a tenant whose identity is kept.
pub const MAX_VOLUMES: usize = 64;
/// The longest version text of a cluster or an agent, in bytes.
pub const MAX_VERSION_BYTES: usize = 64;

/// Groups, zones and taints of a cluster that are told: those that come first by name.
pub const MAX_DETAILS: usize = 64;
/// The longest name among them, in bytes.
pub const MAX_DETAIL_BYTES: usize = 256;

/// What kind of thing keeps a tenant from being as it is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TroubleKind {
    /// It may come by itself: a pod that is not ready yet.
    Waits,
    /// It does not go on until something is changed.
    Blocked,
    /// A volume that was there is not: it stays stopped until somebody decides.
    VolumeLost,
    /// A secret that was generated is not there any more.
    SecretLost,
    /// It is removed only once an operator agrees: there are more removals than an agent carries out by itself. From feature level
    /// [`crate::apply::AGREES`] on.
    HeldBack,
}

/// What keeps a tenant from being as it is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What kind of thing.
    pub kind: TroubleKind,
    /// In plain words, at most [`MAX_WHY_BYTES`].
    pub why: String,
    /// Since when it has been of this kind.
    pub since: Timestamp,
}

/// What is kept of what was told about a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantFacts {
    /// Its volumes as its cluster knows them; each is set once.
    pub volumes: Vec<(Name, VolumeUid)>,
    /// What is wrong, if anything.
    pub trouble: Option<Trouble>,
}

impl TenantFacts {
    /// Which volume of its cluster is the one of this name, once that is known.
    #[must_use]
    pub fn volume(&self, name: &Name) -> Option<VolumeUid> {
        self.volumes.iter().find(|(known, _)| known == name).map(|(_, uid)| *uid)
    }
}

/// What a cluster is made of, as its agent last told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// Version of Kubernetes, as in `v1.34.4`; `local` where processes run on one machine.
    pub version: String,
    /// Version of the agent.
    pub agent: String,
    /// All nodes.
    pub nodes: u32,
    /// Those that are ready.
    pub ready_nodes: u32,
    /// What is labelled as a tenant there and named by no intent: left as it is.
    pub orphans: u32,
    /// Tenants that are not removed until an operator agrees.
    pub held_back: u32,
}

/// Whether NetworkPolicies hold in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Upheld {
    /// Nobody has found out.
    #[default]
    Unknown,
    /// What a policy denies does not get through.
    Yes,
    /// What a policy denies gets through: nothing in the cluster enforces policies.
    No,
}

/// Whether a cluster's network keeps to NetworkPolicies, as its agent found by trying.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicies {
    /// What comes to pods.
    pub ingress: Upheld,
    /// What pods send.
    pub egress: Upheld,
    /// Why something is unknown, in plain words, at most [`MAX_WHY_BYTES`]; else empty.
    pub why: String,
}

/// One autoscaled group of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrowthGroup {
    /// Its name.
    pub name: String,
    /// How many nodes it may still get, where it counts nodes.
    pub nodes: Option<u32>,
    /// What they may have together, where that is known.
    pub room: Option<PodSize>,
    /// Whether it cannot grow at the moment.
    pub held_back: bool,
}

/// What autoscaled groups of nodes may still add: it is not there yet, and is no part of the capacity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// Sum over the groups whose room is known and that can grow.
    pub room: PodSize,
    /// By name, at most [`MAX_DETAILS`].
    pub groups: Vec<GrowthGroup>,
}

/// Nodes that are short of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    /// Of memory.
    pub memory: u32,
    /// Of disk.
    pub disk: u32,
    /// Of process ids.
    pub pids: u32,
}

/// Details of a cluster that decide no placement: for people, and for what buys capacity. From feature level
/// [`crate::apply::DETAILS`] on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterDetails {
    /// Whether its network keeps to NetworkPolicies.
    pub policies: NetworkPolicies,
    /// What may still be added to it.
    pub growth: Growth,
    /// Nodes that take tenants' pods: ready, not cordoned, without taints that tenants do not tolerate.
    pub open_nodes: u32,
    /// Open nodes by zone, at most [`MAX_DETAILS`]; empty for those that name none.
    pub zones: Vec<(String, u32)>,
    /// Taints as `key=value:Effect`, and how many nodes have each, at most [`MAX_DETAILS`].
    pub taints: Vec<(String, u32)>,
    /// Nodes that are short of something.
    pub pressure: Pressure,
}

/// What is kept of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownDetails {
    /// As last told.
    pub details: ClusterDetails,
    /// Since when the same has been told of NetworkPolicies.
    pub policies_since: Timestamp,
}

/// What an agent tells of one tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenTenant {
    /// Which.
    pub id: TenantId,
    /// The epoch that the agent acts on; another one than the binding's is ignored.
    pub epoch: Epoch,
    /// Its volumes.
    pub volumes: Vec<(Name, VolumeUid)>,
    /// What is wrong, if anything.
    pub trouble: Option<(TroubleKind, String)>,
}
