//! Replicated time: the newest that the log has shown, plus what has passed here since.
//!
//! It knows no clock: `now` is the driver's monotonic time. A new leader goes on from the last applied entry, counting what has passed
//! since it saw that entry, so that time neither jumps back nor stands still over a change of leaders.

use roadstead_core::time::{Millis, Timestamp};

use crate::door::Monotonic;

/// The newest time of the log, and when it was seen here.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    time: Timestamp,
    seen: Monotonic,
}

impl Clock {
    /// An entry (applied, or proposed by this leader) carries this time.
    pub(crate) fn saw(&mut self, time: Timestamp, now: Monotonic) {
        if time > self.time {
            *self = Self { time, seen: now };
        }
    }

    /// The time that an entry proposed now carries.
    pub(crate) fn at(&self, now: Monotonic) -> Timestamp {
        self.time.after(Millis(now.0.saturating_sub(self.seen.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_between_entries_and_over_a_change_of_leaders() {
        let mut clock = Clock::default();
        clock.saw(Timestamp(1_000), Monotonic(50));
        assert_eq!(clock.at(Monotonic(80)), Timestamp(1_030));
        clock.saw(Timestamp(1_000), Monotonic(90));
        assert_eq!(clock.at(Monotonic(90)), Timestamp(1_040), "an empty entry repeats the time and does not stop it");
    }

    #[test]
    fn time_never_runs_backwards() {
        let mut clock = Clock::default();
        clock.saw(Timestamp(1_000), Monotonic(50));
        clock.saw(Timestamp(900), Monotonic(60));
        assert_eq!(clock.at(Monotonic(40)), Timestamp(1_000), "a driver's time that stumbles adds nothing");
    }
}
