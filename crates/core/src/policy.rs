//! Fleet-wide policy: quotas, bounds, retention of history.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{Owner, Revision};
use crate::resources::Resources;
use crate::time::Millis;

/// What one owner may hold at most; `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Tenants, waiting ones included.
    pub tenants: Option<u32>,
    /// Resources of placed tenants; a zero entry of `Some` forbids that resource.
    pub resources: [Option<u64>; crate::resources::RESOURCE_COUNT],
}

impl Quota {
    /// Whether `used` is within the quota.
    #[must_use]
    pub fn allows(&self, tenants: u32, used: Resources) -> bool {
        self.tenants.is_none_or(|max| tenants <= max)
            && self.resources.iter().zip(used.to_array()).all(|(max, used)| max.is_none_or(|max| used <= max))
    }
}

/// What an operator declares for the whole fleet. One document, named `default`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySpec {
    /// Quota of owners that are not named.
    pub default_quota: Quota,
    /// Quotas by owner.
    pub quotas: BTreeMap<Owner, Quota>,
    /// Tenants that may wait at a time; one more is refused.
    pub max_pending: u32,
    /// Waiting tenants that one batch tries to place again.
    pub pending_tries_per_batch: u32,
    /// How long an agent may be silent before its cluster takes no more tenants.
    pub silent_after: Millis,
    /// Request ids are remembered this long; older ones are refused.
    pub request_window: Millis,
    /// Request ids remembered at most.
    pub max_requests: u32,
}

impl Default for PolicySpec {
    fn default() -> Self {
        Self {
            default_quota: Quota::default(),
            quotas: BTreeMap::new(),
            max_pending: 100_000,
            pending_tries_per_batch: 256,
            silent_after: Millis::from_secs(60),
            request_window: Millis::from_secs(3600),
            max_requests: 4_000_000,
        }
    }
}

/// The policy as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What was declared.
    pub spec: PolicySpec,
    /// When it was last changed; a decision names the one it was made under.
    pub changed: Revision,
}
