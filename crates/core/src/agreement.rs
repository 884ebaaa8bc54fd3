//! An operator's agreement to removals that wait, because more were asked for than an agent carries out by itself.
//!
//! It names tenants, each in one epoch, not a number: told again, or to an agent that was restarted, it allows nothing more than it did.

use serde::{Deserialize, Serialize};

use crate::id::{Epoch, Revision};
use crate::time::{Millis, Timestamp};

/// How long an agreement holds: whoever gave it is still looking on.
pub const LASTS: Millis = Millis::from_secs(3600);
/// Tenants that one agreement names at most: as many as a whole cluster is meant to hold, and an entry of some tens of KiB.
pub const MAX_TENANTS: usize = 1000;

/// That one tenant may be removed beyond the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// In which epoch of its binding.
    pub epoch: Epoch,
    /// Until then.
    pub until: Timestamp,
    /// When it was given.
    pub given: Revision,
}
