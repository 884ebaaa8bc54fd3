//! What an agent remembers between two rounds: who failed and rests, whose change is under way, who was complete, what was removed lately.
//!
//! All of it may be lost: a new agent begins with nothing, tries all that failed at once, and counts removals anew.

use std::collections::{BTreeMap, BTreeSet};

use super::{Condition, Limits, Step, TenantSeen};
use crate::id::TenantId;
use crate::intent::{Role, TenantIntent};
use crate::time::{Millis, Timestamp};

/// The first rest after a failure; each further one doubles it.
const FIRST_REST: Millis = Millis(1000);
/// The longest rest: soon enough after somebody has mended what was wrong.
const LONGEST_REST: Millis = Millis(300_000);

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// When each recent deletion was begun, and of whom.
    removals: BTreeMap<TenantId, Timestamp>,
    /// Whose running objects were changed and are not seen complete yet, and since when.
    changing: BTreeMap<TenantId, Timestamp>,
    /// As what each that runs was seen complete last.
    complete: BTreeMap<TenantId, u64>,
    /// Who failed.
    failures: BTreeMap<TenantId, Failure>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    /// In a row.
    times: u32,
    /// It rests until then, unless something moves there.
    until: Timestamp,
    /// It was told not to come again before.
    asked: Timestamp,
}

impl Memory {
    /// An action for a tenant failed: it rests, longer each time, and gives its place to another. With `after`, it was told how long.
    pub fn failed(&mut self, id: TenantId, now: Timestamp, after: Option<Millis>) {
        self.changing.remove(&id);
        let failure = self.failures.entry(id).or_insert(Failure { times: 0, until: now, asked: Timestamp::default() });
        let doubled = FIRST_REST.0.saturating_mul(1 << failure.times.min(20));
        // Up to a quarter more, by its number: not all that failed together come back together.
        let spread = doubled / 4 * (id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) / 256;
        let rest = Millis((doubled + spread).min(LONGEST_REST.0));
        failure.times = failure.times.saturating_add(1);
        failure.asked = after.map_or(Timestamp::default(), |after| now.after(after));
        failure.until = now.after(rest).max(failure.asked);
    }

    /// All actions for a tenant were carried out.
    pub fn succeeded(&mut self, id: TenantId) {
        self.failures.remove(&id);
    }

    /// Something else is wanted of a tenant, or something moved there: it is worth another try now, or when it was told to come again. What moves
    /// there may be what it has just done itself.
    pub fn try_again(&mut self, id: TenantId) {
        if let Some(failure) = self.failures.get_mut(&id) {
            failure.until = failure.asked;
        }
    }

    /// When the next one has rested.
    #[must_use]
    pub fn next_try(&self) -> Option<Timestamp> {
        self.failures.values().map(|failure| failure.until).min()
    }

    /// How often in a row a tenant has failed.
    #[must_use]
    pub fn failures(&self, id: TenantId) -> u32 {
        self.failures.get(&id).map_or(0, |failure| failure.times)
    }

    pub(super) fn rests(&self, id: TenantId, now: Timestamp) -> bool {
        self.failures.get(&id).is_some_and(|failure| failure.until > now)
    }

    /// Notes who is complete, and as what; whether it was complete as what it is to be now, so that to put it right is to put it back.
    pub(super) fn notes(&mut self, wanted: &TenantIntent, seen: &TenantSeen, step: &Step) -> bool {
        let Some(rendering) = seen.rendering.filter(|_| wanted.role == Role::Run) else {
            self.complete.remove(&wanted.id);
            return false;
        };
        let known = self.complete.get(&wanted.id) == Some(&rendering);
        if step.condition == Condition::Running && !known {
            self.complete.insert(wanted.id, rendering);
        }
        known
    }

    /// Whether a deletion would be one of those that are carried out unasked.
    pub(super) fn has_room(&self, id: TenantId, at_most: usize) -> bool {
        self.removals.contains_key(&id) || self.removals.len() < at_most
    }

    pub(super) fn may_delete(&mut self, id: TenantId, at_most: usize, now: Timestamp) -> bool {
        if !self.has_room(id, at_most) {
            return false;
        }
        self.removals.entry(id).or_insert(now);
        true
    }

    pub(super) fn may_change(&mut self, id: TenantId, limits: &Limits, now: Timestamp) -> bool {
        if !self.changing.contains_key(&id) && self.changing.len() >= limits.in_work {
            return false;
        }
        self.changing.entry(id).or_insert(now);
        true
    }

    /// Drops what is over: removals past their window, changes that are complete or take too long, failures of whom nobody names, what those
    /// were complete as.
    pub(super) fn forget_all_but(&mut self, steps: &[(&TenantIntent, Step)], now: Timestamp, limits: &Limits) {
        self.removals.retain(|_, begun| now.since(*begun) < limits.removal_window);
        if self.complete.len() > steps.len() {
            let named: BTreeSet<TenantId> = steps.iter().map(|(wanted, _)| wanted.id).collect();
            self.complete.retain(|id, _| named.contains(id));
        }
        if self.changing.is_empty() && self.failures.is_empty() {
            return;
        }
        let conditions: BTreeMap<TenantId, &Condition> = steps.iter().map(|(wanted, step)| (wanted.id, &step.condition)).collect();
        self.failures.retain(|id, _| conditions.contains_key(id));
        self.changing
            .retain(|id, begun| now.since(*begun) < limits.patience && matches!(conditions.get(id), Some(Condition::Progressing(_))));
    }
}
