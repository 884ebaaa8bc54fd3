//! Those that wait, indexed by what refused them when they were last tried: when something changes, only they are looked at whom that
//! may help. It is the leader's own, made from its own tries; the reasons that are kept with the tenants are for people, and may be older.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::ops::Bound;

use crate::id::TenantId;
use crate::schedule::{Cause, Reason};
use crate::state::PendingKey;

/// What has changed in a cluster, and so which refusals may hold no more; each includes the ones before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Changed {
    /// Somebody left, or takes less.
    #[default]
    Room,
    /// What its agent reports: capacity, nodes, that it is there at all.
    Report,
    /// What it is: labels, region, taints, limits.
    Facts,
}

impl Changed {
    /// The least that must have changed before a refusal for this cause is worth another try.
    fn needed_for(cause: Cause) -> Self {
        match cause {
            Cause::Overfull
            | Cause::Together
            | Cause::Apart
            | Cause::OwnerLimit
            | Cause::TenantCap
            | Cause::Shards
            | Cause::Cpu
            | Cause::Memory
            | Cause::Pods
            | Cause::Storage
            | Cause::Attachments => Self::Room,
            Cause::LargestPod | Cause::Fenced | Cause::Silent => Self::Report,
            Cause::Dedicated
            | Cause::Cluster
            | Cause::Pool
            | Cause::Provider
            | Cause::Region
            | Cause::Zone
            | Cause::Residency
            | Cause::Label
            | Cause::Taint
            | Cause::OtherConstraint
            | Cause::Cordoned
            | Cause::Draining => Self::Facts,
        }
    }
}

/// The index.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused {
    by_cause: BTreeMap<Cause, BTreeSet<PendingKey>>,
    /// Tried, and not refused by any cluster: held back, or over a quota.
    otherwise: BTreeSet<PendingKey>,
    causes: BTreeMap<TenantId, Vec<Cause>>,
}

impl Refused {
    /// Files one that was tried under what refused it; under nothing if no cluster did.
    pub(super) fn file(&mut self, key: PendingKey, reason: &[u8]) {
        self.forget(key);
        let causes: Vec<Cause> = match Reason::decode(reason) {
            Some(Reason::Unplaceable { causes, .. }) => causes.into_iter().map(|(cause, _)| cause).collect(),
            Some(Reason::Placed { .. }) | None => Vec::new(),
        };
        if causes.is_empty() {
            self.otherwise.insert(key);
        }
        for cause in &causes {
            self.by_cause.entry(*cause).or_default().insert(key);
        }
        self.causes.insert(key.2, causes);
    }

    /// Files one that was looked at, and not tried, under more: what has changed refuses it still, for another cause.
    pub(super) fn add(&mut self, key: PendingKey, causes: Vec<Cause>) {
        let known = self.causes.entry(key.2).or_default();
        for cause in causes.into_iter().filter(|cause| !known.contains(cause)).collect::<BTreeSet<_>>() {
            known.push(cause);
            self.by_cause.entry(cause).or_default().insert(key);
        }
    }

    /// Whether it is filed.
    pub(super) fn knows(&self, key: PendingKey) -> bool {
        self.causes.contains_key(&key.2)
    }

    /// Forgets one that waits no longer, or in another way.
    pub(super) fn forget(&mut self, key: PendingKey) {
        for cause in self.causes.remove(&key.2).unwrap_or_default() {
            if let Some(keys) = self.by_cause.get_mut(&cause) {
                keys.remove(&key);
            }
        }
        self.otherwise.remove(&key);
    }

    /// Those whom a change may help, in the order in which they are tried, each once.
    pub(super) fn whom_it_may_help(&self, changed: Changed, from: Bound<PendingKey>) -> impl Iterator<Item = PendingKey> {
        let helped = self.by_cause.iter().filter(move |(cause, _)| Changed::needed_for(**cause) <= changed).map(|(_, keys)| keys);
        let range = (from, Bound::Unbounded);
        let lists: Vec<_> = helped.chain([&self.otherwise]).map(|keys| keys.range(range).copied().peekable()).collect();
        Merged { lists }
    }
}

/// Ascending lists as one.
struct Merged<I: Iterator<Item = PendingKey>> {
    lists: Vec<Peekable<I>>,
}

impl<I: Iterator<Item = PendingKey>> Iterator for Merged<I> {
    type Item = PendingKey;

    fn next(&mut self) -> Option<PendingKey> {
        let first = self.lists.iter_mut().filter_map(|list| list.peek().copied()).min()?;
        for list in &mut self.lists {
            list.next_if_eq(&first);
        }
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;
    use crate::time::Timestamp;

    fn key(priority: i32, id: u64) -> PendingKey {
        (Reverse(priority), Timestamp(id), TenantId(id))
    }

    fn reason(causes: &[Cause]) -> Vec<u8> {
        Reason::Unplaceable { clusters: 3, causes: causes.iter().map(|cause| (*cause, 1)).collect(), closest: None }.encode()
    }

    fn helped(refused: &Refused, changed: Changed) -> Vec<u64> {
        refused.whom_it_may_help(changed, Bound::Unbounded).map(|key| key.2.0).collect()
    }

    #[test]
    fn a_change_helps_those_whom_it_concerns_in_order_and_once() {
        let mut refused = Refused::default();
        refused.file(key(0, 1), &reason(&[Cause::Region, Cause::Cpu, Cause::Memory]));
        refused.file(key(0, 2), &reason(&[Cause::Region]));
        refused.file(key(9, 3), &reason(&[Cause::Silent, Cause::Shards]));
        refused.file(key(0, 4), &reason(&[Cause::LargestPod, Cause::Taint]));
        refused.file(key(0, 5), &reason(&[]));
        assert_eq!(helped(&refused, Changed::Room), [3, 1, 5]);
        assert_eq!(helped(&refused, Changed::Report), [3, 1, 4, 5]);
        assert_eq!(helped(&refused, Changed::Facts), [3, 1, 2, 4, 5]);
        let after = refused.whom_it_may_help(Changed::Room, Bound::Excluded(key(9, 3)));
        assert_eq!(after.map(|key| key.2.0).collect::<Vec<_>>(), [1, 5]);
        refused.file(key(0, 1), &reason(&[Cause::Region]));
        refused.forget(key(0, 5));
        assert_eq!(helped(&refused, Changed::Room), [3]);
        refused.file(key(0, 2), &reason(&[Cause::Cpu]));
        assert_eq!(helped(&refused, Changed::Room), [3, 2]);
    }
}
