//! A tenant: what is wanted of it, where it is bound, and why there.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::class::VolumeSpec;
use crate::constraint::Constraints;
use crate::id::{ClusterId, Epoch, Name, Owner, Revision, ShardId, TenantId};
use crate::resources::{Bytes, Requests};
use crate::time::Timestamp;

/// The largest `values` text of one tenant in bytes.
pub const MAX_VALUES_BYTES: usize = 16 << 10;
/// Hostnames of one tenant.
pub const MAX_HOSTNAMES: usize = 32;
/// The longest reason that is kept with a binding, encoded.
pub const MAX_REASON_BYTES: usize = 256;

/// Whether a tenant should run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Desired {
    /// Runs.
    #[default]
    Running,
    /// Stopped, keeps its place and volumes.
    Hibernated,
    /// As [`Desired::Hibernated`] for now: whoever says so means that it will rest for long.
    Archived,
}

/// What a client wants of a tenant. `requests` are resolved from the class and stored at admission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantSpec {
    /// Name, unique among tenants that are not gone.
    pub name: Name,
    /// Organisation it belongs to.
    pub owner: Owner,
    /// Class.
    pub class: Name,
    /// Class version.
    pub version: String,
    /// Values of the class's template, canonical JSON text; never secret.
    pub values: String,
    /// Hostnames.
    pub hostnames: Vec<String>,
    /// Sizes of volumes that differ from the class's, by volume name.
    pub volumes: Vec<(Name, Bytes)>,
    /// Whether it should run.
    pub desired: Desired,
    /// The greater is served first among those that wait.
    pub priority: i32,
    /// Release is refused while true.
    pub deletion_protection: bool,
    /// Waits for room no longer than this; then it is released with the reason.
    pub deadline: Option<Timestamp>,
    /// Where it may go.
    pub constraints: Arc<Constraints>,
    /// What it asks for, resolved at admission.
    pub requests: Requests,
}

impl TenantSpec {
    /// How large one of its class's volumes is: its own size for it, or the class's.
    #[must_use]
    pub fn size_of(&self, volume: &VolumeSpec) -> Bytes {
        self.volumes.iter().find(|(name, _)| *name == volume.name).map_or(volume.size, |(_, size)| *size)
    }
}

/// Where a tenant lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Cluster.
    pub cluster: ClusterId,
    /// Shard of that cluster.
    pub shard: ShardId,
    /// Fences everything older.
    pub epoch: Epoch,
}

/// How far a tenant is. The ledger counts it in full in `Bound` and `Releasing`, its storage only in `Retained` and `Purging`, not at all in `Pending`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Fits nowhere yet.
    Pending {
        /// When it began to wait.
        since: Timestamp,
    },
    /// Has a place; `running` once its agent has confirmed it.
    Bound {
        /// Where.
        binding: Binding,
        /// Whether the agent has reported it as running in this epoch.
        running: bool,
    },
    /// Deleted by somebody; still counts until its agent reports it stopped or absent.
    Releasing {
        /// Where.
        binding: Binding,
        /// When the deletion was asked for.
        since: Timestamp,
        /// Volumes go as soon as it is absent, without retention.
        purge: bool,
    },
    /// Stopped; its volumes are kept until `until`, and `undelete` brings it back.
    Retained {
        /// Where its volumes are.
        binding: Binding,
        /// When they go.
        until: Timestamp,
    },
    /// Its volumes are being deleted; they count until its agent reports it absent. From feature level [`crate::apply::OBSERVES`] on.
    Purging {
        /// Where its volumes are.
        binding: Binding,
        /// When its retention had passed, or somebody asked for it.
        since: Timestamp,
    },
}

impl Phase {
    /// The binding, in every phase but `Pending`.
    #[must_use]
    pub fn binding(&self) -> Option<Binding> {
        match *self {
            Self::Pending { .. } => None,
            Self::Bound { binding, .. }
            | Self::Releasing { binding, .. }
            | Self::Retained { binding, .. }
            | Self::Purging { binding, .. } => Some(binding),
        }
    }
}

/// A tenant as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its number.
    pub id: TenantId,
    /// What is wanted.
    pub spec: TenantSpec,
    /// How far it is.
    pub phase: Phase,
    /// Encoded [`crate::schedule::Reason`] for its place, or for having none: at most [`MAX_REASON_BYTES`].
    pub reason: Vec<u8>,
    /// Whether its constraints no longer hold where it is. Moves nobody by itself.
    pub misplaced: bool,
    /// When it was created.
    pub created: Revision,
    /// Replicated time of its creation.
    pub created_at: Timestamp,
    /// When it was last changed; what `expected_revision` is compared with.
    pub changed: Revision,
}
