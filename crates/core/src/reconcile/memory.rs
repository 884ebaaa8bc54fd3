//! What an agent remembers between two rounds: who failed and rests, whose change is under way, who was complete, what was removed lately.
//!
//! All of it may be lost but for the removals, which agents keep in their cluster. A new one begins with those; it tries all that failed at once, and
//! takes whoever it finds on its way for one whose change is under way.

use std::collections::{BTreeMap, BTreeSet};

use super::{Condition, Home, Limits, PartSeen, Step, TenantSeen};
use crate::id::{ShardId, TenantId};
use crate::intent::{Role, TenantIntent};
use crate::time::{Millis, Timestamp};

/// The first rest after a failure; each further one doubles it.
const FIRST_REST: Millis = Millis(1000);
/// The longest rest: soon enough after somebody has mended what was wrong.
const LONGEST_REST: Millis = Millis(300_000);

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// When each recent deletion was begun unasked, and of whom; by whichever agent of the cluster.
    removals: BTreeMap<TenantId, Timestamp>,
    /// Whose running objects were changed and are not seen complete yet, and since when.
    changing: BTreeMap<TenantId, Timestamp>,
    /// Of whom it has been seen what is there.
    met: BTreeSet<TenantId>,
    /// As what each that runs was seen complete last.
    complete: BTreeMap<TenantId, u64>,
    /// Who failed.
    failures: BTreeMap<TenantId, Failure>,
    /// Shards that rest, and until when.
    shards: BTreeMap<ShardId, Timestamp>,
    /// Since when each that is to run is on its way.
    unready: BTreeMap<TenantId, Timestamp>,
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
    /// The removals of late, and when each was begun: to be kept in the cluster before any of them is, so that those who come after count them.
    #[must_use]
    pub fn removals(&self) -> &BTreeMap<TenantId, Timestamp> {
        &self.removals
    }

    /// These are the removals of late, as they are kept in the cluster, and no others. One that another clock says is still to come counts from now
    /// on: it is not counted for longer than the window.
    pub fn removals_are(&mut self, kept: BTreeMap<TenantId, Timestamp>, now: Timestamp) {
        self.removals = kept.into_iter().map(|(id, begun)| (id, begun.min(now))).collect();
    }

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

    /// Whoever carries actions out has too much to do, and said so about a tenant of this shard: nothing more is begun in the shard until it is time
    /// to come again, whatever moves there. That is no failure of the tenant: it keeps its place, and is tried again as soon as all others are.
    ///
    /// An API server queues requests by namespace (API Priority and Fairness), so that each tenant hears of its own queue only. Those of others
    /// are before the same doors: were only the one to rest, fifteen more of its shard would go on asking. Not all shards rest: what one brings
    /// about, a class whose tenants all ask for much, say, does not hold others up; and one that asks in vain rests, too.
    pub fn shard_rests(&mut self, shard: ShardId, now: Timestamp, after: Millis) {
        let until = now.after(after.min(LONGEST_REST));
        self.shards.entry(shard).and_modify(|known| *known = until.max(*known)).or_insert(until);
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

    /// When the next one, or the next shard, has rested.
    #[must_use]
    pub fn next_try(&self) -> Option<Timestamp> {
        self.failures.values().map(|failure| failure.until).chain(self.shards.values().copied()).min()
    }

    /// How often in a row a tenant has failed.
    #[must_use]
    pub fn failures(&self, id: TenantId) -> u32 {
        self.failures.get(&id).map_or(0, |failure| failure.times)
    }

    /// How a tenant is by now, that was found so last: while its class gives it time to become ready it is on its way, after that it is late. An agent
    /// that begins anew gives it that time anew.
    #[must_use]
    pub fn judged(&self, id: TenantId, condition: Condition, within: Millis, now: Timestamp) -> Condition {
        match (condition, self.unready_since(id)) {
            (Condition::Progressing(why), Some(since)) if now.since(since) >= within => {
                Condition::Late(format!("not ready within {within}: {why}"))
            }
            (condition, _) => condition,
        }
    }

    pub(super) fn unready_since(&self, id: TenantId) -> Option<Timestamp> {
        self.unready.get(&id).copied()
    }

    pub(super) fn are_unready(&mut self, unready: BTreeMap<TenantId, Timestamp>) {
        self.unready = unready;
    }

    pub(super) fn is_at_rest(&self, shard: ShardId, now: Timestamp) -> bool {
        self.shards.get(&shard).is_some_and(|until| *until > now)
    }

    pub(super) fn rests(&self, id: TenantId, now: Timestamp) -> bool {
        self.failures.get(&id).is_some_and(|failure| failure.until > now)
    }

    /// What is there of a tenant is seen. Whoever is found as it is to be and not ready yet, when it is seen for the first time, was most likely being
    /// changed by the agent before: it has its place as if this one had begun. One that is new takes none away for longer than it takes to be ready.
    pub(super) fn meets(&mut self, wanted: &TenantIntent, seen: &TenantSeen, now: Timestamp) {
        if !self.met.insert(wanted.id) || wanted.role != Role::Run || !matches!(seen.home, Home::Ours(_)) {
            return;
        }
        if seen.parts.values().any(|part| matches!(part, PartSeen::Waits(_))) {
            self.changing.insert(wanted.id, now);
        }
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

    /// Drops what is over: removals past their window, shards that have rested, changes that are complete or take too long, failures of whom nobody
    /// names, what those were seen and complete as.
    pub(super) fn forget_all_but(&mut self, steps: &[(&TenantIntent, Step)], now: Timestamp, limits: &Limits) {
        self.removals.retain(|_, begun| now.since(*begun) < limits.removal_window);
        self.shards.retain(|_, until| *until > now);
        if self.complete.len() > steps.len() || self.met.len() > steps.len() {
            let named: BTreeSet<TenantId> = steps.iter().map(|(wanted, _)| wanted.id).collect();
            self.complete.retain(|id, _| named.contains(id));
            self.met.retain(|id| named.contains(id));
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
