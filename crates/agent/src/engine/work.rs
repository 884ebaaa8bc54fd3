//! Work on tenants, beside the loop: of each its actions, one after the other; and how many are worked on at a time. It does not know what comes next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use roadstead_core::id::{ShardId, TenantId};
use roadstead_core::reconcile::{Action, Part, PartSeen, Step, TenantSeen};
use tracing::{debug, info};

use crate::interpreter::{Failed, Interpreter, Job};

/// A tenant that is worked on; its worker has a copy.
#[derive(Clone, Debug)]
pub(crate) struct Busy {
    pub(crate) shard: ShardId,
    /// See [`changes_what_is_used`].
    in_use: bool,
    outdated: Arc<AtomicBool>,
}

/// How work on a tenant ended, where nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All was carried out.
    Whole,
    /// Something else was wanted: the rest was left.
    Outdated,
}

impl Busy {
    /// Something else is wanted of it: what was begun is carried to its end, and nothing more is begun.
    pub(crate) fn outdate(&self) {
        self.outdated.store(true, Ordering::Relaxed);
    }
}

/// Places that are left for tenants to be worked on. No shard has more than half of them: one whose tenants all hang leaves room for the others.
#[derive(Debug)]
pub(crate) struct Places {
    all: usize,
    in_use: usize,
    taken: BTreeMap<ShardId, Taken>,
}

/// Places that a shard has: all, and those of them for tenants in use.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    all: usize,
    in_use: usize,
}

impl Places {
    /// Of `all`, and of the `in_use` of them in which what is used may be changed, those that `busy` leaves.
    pub(crate) fn left<'a>(all: usize, in_use: usize, busy: impl Iterator<Item = &'a Busy>) -> Self {
        let mut taken = BTreeMap::<ShardId, Taken>::new();
        for busy in busy {
            taken.entry(busy.shard).or_default().add(busy.in_use);
        }
        Self { all, in_use, taken }
    }

    /// Whether nobody gets one.
    pub(crate) fn is_none(&self) -> bool {
        self.taken().all >= self.all
    }

    /// Takes one for a tenant of that shard, if there is one.
    pub(crate) fn take(&mut self, shard: ShardId, in_use: bool) -> Option<Busy> {
        let (all, shards) = (self.taken(), self.taken.entry(shard).or_default());
        let is_one = all.all < self.all && shards.all < self.all.div_ceil(2);
        let may_change = all.in_use < self.in_use && shards.in_use < self.in_use.div_ceil(2);
        if !is_one || (in_use && !may_change) {
            return None;
        }
        shards.add(in_use);
        Some(Busy { shard, in_use, outdated: Arc::default() })
    }

    fn taken(&self) -> Taken {
        self.taken.values().fold(Taken::default(), |sum, taken| Taken { all: sum.all + taken.all, in_use: sum.in_use + taken.in_use })
    }
}

impl Taken {
    fn add(&mut self, in_use: bool) {
        self.all += 1;
        self.in_use += usize::from(in_use);
    }
}

/// What was begun last of each tenant. A stop is begun again until all is at rest, which is no news each time; all else that is begun again is.
#[derive(Debug, Default)]
pub(crate) struct Begun(BTreeMap<TenantId, Vec<Action>>);

impl Begun {
    /// Takes in what is begun; whether that is something else than the last time.
    pub(crate) fn is_new(&mut self, id: TenantId, actions: &[Action]) -> bool {
        let stops = actions.iter().all(|action| matches!(action, Action::Unroute | Action::Stop));
        let before = self.0.insert(id, actions.to_vec());
        !stops || before.is_none_or(|before| before != actions)
    }

    /// Nothing is to be done about it, or something else is wanted of it: whatever is begun next is news.
    pub(crate) fn forget(&mut self, id: TenantId) {
        self.0.remove(&id);
    }

    /// Forgets those whom no intent names any more.
    pub(crate) fn keep(&mut self, is_named: impl Fn(TenantId) -> bool) {
        self.0.retain(|id, _| is_named(*id));
    }
}

/// Whether objects of a tenant are put right, or changed, that is there already. A new one that is only being made has nobody yet who would notice; and
/// what is being stopped may wait for its own commands for long.
pub(crate) fn changes_what_is_used(seen: &TenantSeen, step: &Step) -> bool {
    let is_there = !matches!(seen.parts.get(&Part::Workloads), None | Some(PartSeen::Missing));
    is_there && !step.actions.contains(&Action::Stop) && step.actions.iter().any(|action| matches!(action, Action::Put(_)))
}

/// Carries actions out, one after the other, for as long as they are what is wanted. The log has them where they are new.
pub(crate) async fn carry_out<I: Interpreter>(
    interpreter: I,
    job: Job,
    actions: Vec<Action>,
    busy: Busy,
    is_new: bool,
) -> (TenantId, Result<Ended, Failed>) {
    for action in actions {
        if busy.outdated.load(Ordering::Relaxed) {
            return (job.intent.id, Ok(Ended::Outdated));
        }
        if is_new {
            info!(tenant = %job.intent.name, id = %job.intent.id, ?action, "carried out");
        } else {
            debug!(tenant = %job.intent.name, id = %job.intent.id, ?action, "carried out again");
        }
        if let Err(failed) = interpreter.act(&job, &action).await {
            return (job.intent.id, Err(failed));
        }
    }
    (job.intent.id, Ok(Ended::Whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_that_is_begun_again_and_again_is_news_once() {
        let (id, mut begun) = (TenantId(7), Begun::default());
        let (ends, stops, puts) = ([Action::Unroute, Action::Stop], [Action::Stop], [Action::Put(Part::Workloads)]);
        let mut news = |actions: &[Action]| begun.is_new(id, actions);
        assert_eq!([news(&ends), news(&stops), news(&stops), news(&stops)], [true, true, false, false]);
        assert_eq!([news(&puts), news(&puts), news(&stops)], [true, true, true], "somebody changes it again and again");
        begun.forget(id);
        assert!(begun.is_new(id, &stops) && !begun.is_new(id, &stops) && begun.is_new(TenantId(8), &stops));
        begun.keep(|named| named != id);
        assert!(begun.is_new(id, &stops) && !begun.is_new(TenantId(8), &stops));
    }

    #[test]
    fn no_shard_takes_more_than_half_of_all_places_nor_of_those_for_changes() {
        let mut places = Places::left(8, 4, [].iter());
        let of_one: Vec<bool> =
            [true, true, true, false, false, false].into_iter().map(|in_use| places.take(ShardId(0), in_use).is_some()).collect();
        assert_eq!(of_one, [true, true, false, true, true, false]);
        let of_others: Vec<bool> =
            [true, true, true].into_iter().zip(1..).map(|(in_use, shard)| places.take(ShardId(shard), in_use).is_some()).collect();
        assert_eq!(of_others, [true, true, false], "four are in use");
        assert!(!places.is_none());
        let busy: Vec<Busy> = (3..5).filter_map(|shard| places.take(ShardId(shard), false)).collect();
        assert_eq!((busy.len(), places.is_none()), (2, true));
        assert!(places.take(ShardId(9), false).is_none());
        assert!(!Places::left(8, 4, busy.iter()).is_none(), "those that are done leave theirs");
    }
}
