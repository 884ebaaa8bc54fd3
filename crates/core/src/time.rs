//! Time as the log carries it: an argument, never a clock.

use serde::{Deserialize, Serialize};

/// Replicated time in milliseconds: the previous entry's plus the leader's monotonic elapsed time.
///
/// It starts at the wall time of the fleet's first leader and never runs backwards. All expiries use it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl Millis {
    /// Whole seconds as milliseconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds * 1000)
    }
}

impl Timestamp {
    /// This time plus a length, saturating.
    #[must_use]
    pub fn after(self, length: Millis) -> Self {
        Self(self.0.saturating_add(length.0))
    }

    /// How long before `self` the `earlier` time was; zero when it was not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}
