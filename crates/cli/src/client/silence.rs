//! Who has not answered so far, and why: told while a call is still tried, and when it is given up.
//!
//! It knows no connections; [`super::Client`] notes what becomes of each attempt.

use std::time::Duration;

/// After so long people want to know what is waited for.
pub const NOTICE_AFTER: Duration = Duration::from_secs(2);

/// What became of the attempts at one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    server: String,
    /// Absent while the first attempt is under way.
    reason: Option<String>,
    /// Whether it said something itself, be it only that it cannot answer now.
    answered: bool,
}

/// The endpoints that were tried, in the order of their first attempts, each with its last reason.
#[derive(Clone, Debug, Default)]
pub struct Silence(Vec<Entry>);

impl Silence {
    /// An attempt begins.
    pub fn asking(&mut self, server: &str) {
        if !self.0.iter().any(|entry| entry.server == server) {
            self.0.push(Entry { server: server.to_owned(), reason: None, answered: false });
        }
    }

    /// An attempt has failed; `answered` says whether the endpoint itself said so.
    pub fn failed(&mut self, server: &str, reason: String, answered: bool) {
        self.asking(server);
        for entry in self.0.iter_mut().filter(|entry| entry.server == server) {
            (entry.reason, entry.answered) = (Some(reason.clone()), answered);
        }
    }

    /// An attempt was given up. What the endpoint said itself before is worth more than why.
    pub fn cut_off(&mut self, server: &str, reason: String) {
        if !self.0.iter().any(|entry| entry.server == server && entry.answered) {
            self.failed(server, reason, false);
        }
    }

    /// Names of the endpoints that were tried.
    #[must_use]
    pub fn servers(&self) -> Vec<String> {
        self.0.iter().map(|entry| entry.server.clone()).collect()
    }

    /// Whether any endpoint said anything itself.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.iter().any(|entry| entry.answered)
    }

    /// How many endpoints were tried.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was tried.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A line for each endpoint with its reason.
    #[must_use]
    pub fn lines(&self) -> String {
        let line = |entry: &Entry| format!("\n  {}: {}", entry.server, entry.reason.as_deref().unwrap_or("no answer yet"));
        self.0.iter().map(line).collect()
    }

    /// What people are told while it goes on. `until` is the wall clock's time at which it is given up.
    #[must_use]
    pub fn notice(&self, until: &str, left: Duration) -> String {
        let none = if self.is_broken() { "no result yet" } else { "no replica has answered yet" };
        format!("{none}:{}\nstill trying, until {until} ({} s more; --timeout sets how long)", self.lines(), left.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_is_named_once_with_its_last_reason() {
        let mut silence = Silence::default();
        silence.asking("r1:7420");
        silence.failed("r1:7420", "refused".to_owned(), false);
        silence.failed("r2:7420", "reset".to_owned(), false);
        silence.failed("r1:7420", "timed out".to_owned(), false);
        silence.asking("r3:7420");
        let notice = silence.notice("2026-01-31T12:00:30Z", Duration::from_secs(28));
        assert_eq!(
            notice,
            "no replica has answered yet:\n  r1:7420: timed out\n  r2:7420: reset\n  r3:7420: no answer yet\n\
             still trying, until 2026-01-31T12:00:30Z (28 s more; --timeout sets how long)"
        );
        silence.failed("r3:7420", "no leader".to_owned(), true);
        assert!(silence.notice("", Duration::ZERO).starts_with("no result yet:"));
    }

    #[test]
    fn what_an_endpoint_said_is_worth_more_than_that_the_time_was_over() {
        let mut silence = Silence::default();
        silence.failed("r1:7420", "no leader".to_owned(), true);
        silence.cut_off("r1:7420", "no answer within 0.7 s".to_owned());
        silence.cut_off("r2:7420", "no answer within 0.7 s".to_owned());
        assert_eq!(silence.lines(), "\n  r1:7420: no leader\n  r2:7420: no answer within 0.7 s");
        assert!(silence.is_broken());
    }
}
