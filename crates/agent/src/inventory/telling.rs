//! When something is told: at once when it moves a decision, else when it has settled. Pure: time is an argument.
//!
//! A report becomes an entry in a replicated log, and pods come and go hundreds of times a second. What moves a decision: a node is ready
//! or open that was not, or the reverse; a sum has moved by more than [`MOVED`] of what there is. Everything else waits for [`SETTLE`] after
//! the first change that was not told. Two reports are never closer than [`GAP`], so that a burst is a few reports. What may still be added is
//! waited for before the first one only, and for [`GRACE`] at most: without it less is told than there may be, and never more.

use std::time::Duration;

use roadstead_core::cluster::Capacity;
use roadstead_core::resources::Resource;

use super::tally::Census;

/// A sum moves a decision when it has moved by more than one part in so many of what there is: half a percent.
const MOVED: u64 = 200;
/// After so long even the smallest change is told.
pub const SETTLE: Duration = Duration::from_secs(10);
/// At least so long between two reports.
pub const GAP: Duration = Duration::from_millis(200);
/// How long what may still be added is waited for once everything else is known: a list that fails is tried five times until then.
pub(crate) const GRACE: Duration = Duration::from_secs(20);

/// As much of what was told as decides when to tell anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gist {
    /// Sums, without the sizes of nodes.
    pub(crate) sums: Capacity,
    /// Nodes.
    pub(crate) census: Census,
    /// UID and version of the cluster.
    pub(crate) identity: (String, String),
}

impl Gist {
    /// Whether a decision may be another with `self` than it was with what was told before.
    fn moves_a_decision(&self, told: &Self) -> bool {
        let nodes = |census: &Census| (census.nodes, census.ready, census.open);
        let moved = |resource: &Resource| {
            let there = self.sums.allocatable.get(*resource);
            let by = |get: fn(&Capacity) -> u64| get(&self.sums).abs_diff(get(&told.sums));
            let moved = match resource {
                Resource::Cpu => [by(|sums| sums.allocatable.cpu.0), by(|sums| sums.used_by_others.cpu.0)],
                Resource::Memory => [by(|sums| sums.allocatable.memory.0), by(|sums| sums.used_by_others.memory.0)],
                Resource::Pods => [by(|sums| sums.allocatable.pods), by(|sums| sums.used_by_others.pods)],
                Resource::Storage => [by(|sums| sums.allocatable.storage.0), by(|sums| sums.used_by_others.storage.0)],
                Resource::Attachments => [by(|sums| sums.allocatable.attachments), by(|sums| sums.used_by_others.attachments)],
            };
            moved.into_iter().any(|moved| moved > there / MOVED)
        };
        nodes(&self.census) != nodes(&told.census) || self.identity != told.identity || Resource::ALL.iter().any(moved)
    }
}

/// From when on something is told. Times are since any fixed moment.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Since when it is known what there is.
    since: Option<Duration>,
}

impl Patience {
    /// When it ends, given whether it is known what there is, and what may still be added; `None` while nothing can be told.
    pub(crate) fn ends(&mut self, knows_capacity: bool, knows_growth: bool, now: Duration) -> Option<Duration> {
        if !knows_capacity {
            return None;
        }
        let since = *self.since.get_or_insert(now);
        Some(if knows_growth { since } else { since + GRACE })
    }
}

/// When the next report is due. Times are since any fixed moment.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    told: Option<(Gist, Duration)>,
    /// Since when there is something that was not told, and when it is due.
    due: Option<Duration>,
}

impl Telling {
    /// Something may have changed: when it is to be told, if it is.
    pub(crate) fn changed(&mut self, gist: &Gist, now: Duration) -> Option<Duration> {
        let due = match &self.told {
            None => now,
            Some((told, at)) if gist.moves_a_decision(told) => now.max(*at + GAP),
            Some(_) => now + SETTLE,
        };
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        self.due
    }

    /// It is told.
    pub(crate) fn told(&mut self, gist: Gist, now: Duration) {
        *self = Self { told: Some((gist, now)), due: None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roadstead_core::resources::{Bytes, Millicores, Resources};

    const START: Duration = Duration::from_secs(100);

    fn gist(others_cpu: u64, open: u32) -> Gist {
        let all = |cpu| Resources { cpu: Millicores(cpu), memory: Bytes(1 << 40), pods: 10_000, ..Resources::default() };
        let used = Resources { cpu: Millicores(others_cpu), ..Resources::default() };
        let sums = Capacity { allocatable: all(1_000_000), used_by_others: used, nodes: Vec::new() };
        Gist { sums, census: Census { nodes: 9, ready: 9, open, ..Census::default() }, ..Gist::default() }
    }

    fn told() -> Telling {
        let mut telling = Telling::default();
        assert_eq!(telling.changed(&gist(0, 9), START), Some(START));
        telling.told(gist(0, 9), START);
        telling
    }

    #[test]
    fn what_moves_a_decision_is_told_at_once() {
        let now = START + Duration::from_secs(3);
        assert_eq!(told().changed(&gist(5_001, 9), now), Some(now));
        assert_eq!(told().changed(&gist(0, 8), now), Some(now));
    }

    #[test]
    fn a_small_change_is_told_when_it_has_settled_however_many_follow() {
        let (mut telling, now) = (told(), START + Duration::from_secs(3));
        assert_eq!(telling.changed(&gist(1, 9), now), Some(now + SETTLE));
        assert_eq!(telling.changed(&gist(5_000, 9), now + SETTLE / 2), Some(now + SETTLE));
        let later = now + SETTLE / 2;
        assert_eq!(telling.changed(&gist(5_001, 9), later), Some(later));
    }

    #[test]
    fn small_changes_add_up() {
        let (mut telling, mut now) = (told(), START + GAP);
        let first = (1..=5_001).find(|cpu| {
            now += Duration::from_micros(1);
            telling.changed(&gist(*cpu, 9), now) == Some(now)
        });
        assert_eq!(first, Some(5_001));
    }

    #[test]
    fn reports_keep_their_distance() {
        let mut telling = told();
        let soon = START + GAP / 4;
        assert_eq!(telling.changed(&gist(500_000, 9), soon), Some(START + GAP));
        telling.told(gist(500_000, 9), START + GAP);
        assert_eq!(telling.changed(&gist(0, 9), START + GAP + soon - START), Some(START + 2 * GAP));
    }

    #[test]
    fn what_may_be_added_is_waited_for_and_what_there_is_for_ever() {
        let mut patience = Patience::default();
        let later = START + 100 * GRACE;
        assert_eq!(patience.ends(false, true, START), None);
        assert_eq!(patience.ends(false, false, later), None);
        assert_eq!(patience.ends(true, false, later), Some(later + GRACE));
        assert_eq!(patience.ends(true, false, later + GRACE), Some(later + GRACE));
        assert_eq!(patience.ends(true, true, later + GRACE / 2), Some(later), "at once");
    }
}
