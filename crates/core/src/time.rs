//! Time as the log carries it: an argument, never a clock.

use std::fmt;

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

impl fmt::Display for Millis {
    /// As people write it: `1h30m`, `5m`, `20s`; what is left below a second is in milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0 / 1000, self.0 % 1000);
        let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s"), (millis, "ms")];
        let mut parts = parts.into_iter().filter(|(number, _)| *number > 0).peekable();
        if parts.peek().is_none() {
            return f.write_str("0s");
        }
        parts.try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_reads_as_it_is_written() {
        let said = [0, 250, 20_000, 300_000, 5_400_000, 3_661_001].map(|millis| Millis(millis).to_string());
        assert_eq!(said, ["0s", "250ms", "20s", "5m", "1h30m", "1h1m1s1ms"]);
    }
}
