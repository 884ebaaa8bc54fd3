//! How long to wait before a watch that failed is tried again.

use std::time::Duration;

use kube::runtime::utils::Backoff;
use tokio::time::Instant;

/// First pause after a watch failed; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// A watch that went well for so long starts again with the first pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Pauses between tries: each twice as long as the one before.
#[derive(Debug)]
pub(crate) struct Pauses {
    tries: u32,
    longest: Duration,
    last: Option<Instant>,
}

impl Pauses {
    /// None is longer than this.
    pub(crate) fn up_to(longest: Duration) -> Self {
        Self { tries: 0, longest, last: None }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let pause = |tries: u32| FIRST_PAUSE.saturating_mul(2u32.saturating_pow(tries));
        if self.last.replace(now).is_some_and(|last| now - last > self.longest.min(pause(self.tries)) + HEALTHY_AFTER) {
            self.tries = 0;
        }
        let pause = pause(self.tries).min(self.longest);
        self.tries += 1;
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        // Only time resets it: a list that begins is no success yet, and a watcher says that it begins before each try.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_although_every_try_says_that_it_begins() {
        let mut pauses = Pauses::up_to(Duration::from_secs(10));
        let taken: Vec<u128> = (0..7)
            .filter_map(|_| {
                pauses.reset();
                pauses.next().map(|pause| pause.as_millis())
            })
            .collect();
        assert_eq!(taken, [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    }
}
