//! Who waits for room, and who is worth another try.
//!
//! Whoever waits was refused everywhere when it was last tried, so only clusters that have changed since can take it. The queue is
//! gone through in passes: a pass takes the clusters that were freed before it began and looks, in the order of priority, at those whom
//! the change may help (`refused`) and for whom one of them has room. What is freed while a pass is on its way belongs to the next pass. A newcomer is held back if somebody
//! of equal or higher priority, who has not been tried since, could use the cluster that it would get.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::Bound;
use std::sync::Arc;

use super::refused::{Changed, Refused};
use super::{Counted, Working};
use crate::command::Command;
use crate::id::{ClusterId, Name, ShardId, TenantId};
use crate::ledger::{Ledger, Residents, Share};
use crate::schedule::{self, Cause, Reason};
use crate::state::{PendingKey, State, pending_key};
use crate::tenant::{Phase, Tenant, TenantSpec};
use crate::time::Timestamp;

/// Waiting tenants that one call looks at, cheaply, beside the policy's number that it really tries: about a millisecond.
const MAX_LOOKED_AT: usize = 4096;
/// Waiting tenants that are looked at before a newcomer is held back unseen: some 16 us.
const MAX_LOOKED_AT_FOR_NEWCOMER: usize = 16;
/// Freed clusters that are told apart; with more of them everybody is tried.
const MAX_FREED: usize = 64;
/// Changed reasons that one call writes down at most: they are for people.
const MAX_NOTES: usize = 16;

/// Clusters that may have more room than before, and what has changed in them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Freed {
    All,
    These(BTreeSet<ClusterId>, Changed),
}

impl Default for Freed {
    fn default() -> Self {
        Self::These(BTreeSet::new(), Changed::default())
    }
}

impl Freed {
    fn is_empty(&self) -> bool {
        matches!(self, Self::These(clusters, _) if clusters.is_empty())
    }

    fn contains(&self, cluster: ClusterId) -> bool {
        match self {
            Self::All => true,
            Self::These(clusters, _) => clusters.contains(&cluster),
        }
    }

    fn insert(&mut self, cluster: ClusterId, changed: Changed) {
        let Self::These(clusters, most) = self else { return };
        clusters.insert(cluster);
        *most = changed.max(*most);
        if clusters.len() > MAX_FREED {
            *self = Self::All;
        }
    }

    /// Those that wait and may be helped, in their order.
    fn queue<'a>(&self, refused: &'a Refused, state: &'a State, from: Bound<PendingKey>) -> Box<dyn Iterator<Item = PendingKey> + 'a> {
        match self {
            Self::All => Box::new(state.tenants.pending().range((from, Bound::Unbounded)).map(|(key, _)| *key)),
            Self::These(_, changed) => Box::new(refused.whom_it_may_help(*changed, from)),
        }
    }

    /// Whether one of them has room for a waiting tenant; else what refuses it now, where that may be something new.
    fn suits(&self, ledger: &Ledger, residents: &dyn Residents, spec: &TenantSpec) -> Result<(), Vec<Cause>> {
        match self {
            Self::All => Ok(()),
            // Its company's places matter, and they may have moved anywhere.
            Self::These(..) if !spec.constraints.company.is_empty() => Ok(()),
            Self::These(clusters, Changed::Room) => {
                let any = clusters.iter().any(|cluster| has_room(ledger, residents, spec, *cluster));
                if any { Ok(()) } else { Err(Vec::new()) }
            }
            Self::These(clusters, Changed::Report | Changed::Facts) => {
                let mut causes = Vec::new();
                for cluster in clusters {
                    match would_take(ledger, residents, spec, *cluster) {
                        Ok(()) => return Ok(()),
                        Err(cause) => causes.push(cause),
                    }
                }
                Err(causes)
            }
        }
    }
}

/// One way through the queue.
#[derive(Clone, Debug)]
struct Pass {
    clusters: Freed,
    /// The last one that was looked at.
    after: Option<PendingKey>,
}

/// What the leader knows of those that wait beside the state's own order.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    /// Tried, and the answer is in flight.
    in_flight: BTreeSet<TenantId>,
    pass: Option<Pass>,
    /// Freed since the pass began.
    next: Freed,
    /// Came to wait, and have not been tried since something was freed.
    untried: BTreeSet<PendingKey>,
    /// All others, but those in flight and those that a pass through everybody has yet to come to.
    refused: Refused,
    /// New ones on their way into the log to wait: what `freed_count` was when they were refused, `None` if held back unrefused.
    refused_at: BTreeMap<Name, Option<u64>>,
    /// How often something was freed.
    freed_count: u64,
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self { next: Freed::All, ..Self::default() }
    }

    /// A cluster has more room than before.
    pub(super) fn freed(&mut self, cluster: ClusterId) {
        self.changed(cluster, Changed::Room);
    }

    /// Something has changed in a cluster, so that it may have room for more than before.
    pub(super) fn changed(&mut self, cluster: ClusterId, changed: Changed) {
        self.freed_count += 1;
        self.next.insert(cluster, changed);
    }

    /// Whatever refused may refuse no more: begin again.
    pub(super) fn everything_moved(&mut self) {
        self.freed_count += 1;
        self.next = Freed::All;
        self.pass = None;
    }

    /// A newcomer is about to be proposed as waiting.
    pub(super) fn refused(&mut self, name: &Name, held_back: bool) {
        self.refused_at.insert(name.clone(), (!held_back).then_some(self.freed_count));
    }

    /// A newcomer's proposal was applied, and it does not wait.
    pub(super) fn not_waiting(&mut self, name: &Name) {
        self.refused_at.remove(name);
    }

    /// The entry about a waiting tenant was applied. If it still waits it is due again.
    pub(super) fn landed(&mut self, state: &State, id: TenantId) {
        if self.in_flight.remove(&id)
            && let Some(key) = state.tenant_by_id(id).and_then(|tenant| pending_key(&tenant))
        {
            self.untried.insert(key);
        }
    }

    /// A note of why somebody waits was applied: it was tried just before.
    pub(super) fn noted(&mut self, id: TenantId) {
        self.in_flight.remove(&id);
    }

    pub(super) fn follow(&mut self, before: Option<&Tenant>, after: Option<&Tenant>) {
        let was = before.and_then(pending_key);
        let is = after.and_then(|after| Some((after, pending_key(after)?)));
        let unchanged = before.zip(is).is_some_and(|(before, (after, key))| was == Some(key) && before.spec == after.spec);
        if unchanged {
            return;
        }
        if let Some(key) = was {
            self.untried.remove(&key);
            self.refused.forget(key);
        }
        let Some((after, key)) = is else { return };
        let refused_since = self.refused_at.remove(&after.spec.name).flatten() == Some(self.freed_count);
        match before {
            None if refused_since => self.refused.file(key, &after.reason),
            Some(_) | None => {
                self.untried.insert(key);
            }
        }
    }

    /// Those that wait and that nothing would ever try again: there are none.
    fn forgotten<'a>(&'a self, state: &'a State) -> impl Iterator<Item = TenantId> + 'a {
        let comes = |key: &PendingKey| match &self.pass {
            _ if self.next == Freed::All => true,
            Some(Pass { clusters: Freed::All, after }) => after.is_none_or(|after| after < *key),
            Some(_) | None => false,
        };
        let known =
            move |key: &PendingKey| self.untried.contains(key) || self.in_flight.contains(&key.2) || self.refused.knows(*key) || comes(key);
        state.tenants.pending().keys().filter(move |key| !known(key)).map(|key| key.2)
    }

    fn idle(&self) -> bool {
        self.pass.is_none() && self.next.is_empty() && self.untried.is_empty()
    }
}

/// Whether a cluster would take a waiting tenant now, in the shard that has room.
fn has_room(ledger: &Ledger, residents: &dyn Residents, spec: &TenantSpec, cluster: ClusterId) -> bool {
    let wanted = spec.requests.total.to_array();
    let (used, limit) = (ledger.used(cluster).to_array(), ledger.limit(cluster).to_array());
    (0..wanted.len()).all(|row| used[row].saturating_add(wanted[row]) <= limit[row]) && would_take(ledger, residents, spec, cluster).is_ok()
}

/// The same, with what refuses.
fn would_take(ledger: &Ledger, residents: &dyn Residents, spec: &TenantSpec, cluster: ClusterId) -> Result<(), Cause> {
    // Where no shard has room, the first one says what refuses before that.
    let shard = shard_with_room(ledger, cluster);
    ledger.check(residents, spec, cluster, shard.unwrap_or(ShardId(0))).map_err(|refusal| Cause::of(&refusal))?;
    shard.map(|_| ()).ok_or(Cause::Shards)
}

fn shard_with_room(ledger: &Ledger, cluster: ClusterId) -> Option<ShardId> {
    let site = ledger.site(cluster)?;
    let open = ledger.shards(cluster);
    let with_room = open.iter().position(|tenants| *tenants < site.spec.shard_cap);
    let shard = u16::try_from(with_room.unwrap_or(open.len())).ok()?;
    (shard < site.spec.max_shards).then_some(ShardId(shard))
}

/// A candidate's place in line: priority, its owner's share, arrival.
type Turn = (Reverse<i32>, u32, Timestamp, TenantId);

impl Working {
    /// Those that wait and that nothing would ever try again: there are none. For tests and simulations.
    #[must_use]
    pub fn forgotten(&self, state: &State) -> Vec<TenantId> {
        self.waiting.forgotten(state).collect()
    }

    /// Tries those that wait and may fit, in order, at most the policy's number.
    pub(super) fn try_waiting(&mut self, state: &State, now: Timestamp) -> Vec<Command> {
        if self.waiting.idle() {
            return Vec::new();
        }
        if self.waiting.pass.is_none() && !self.waiting.next.is_empty() {
            self.waiting.pass = Some(Pass { clusters: std::mem::take(&mut self.waiting.next), after: None });
        }
        let candidates = self.candidates(state, now);
        let mut line: BinaryHeap<Reverse<Turn>> = candidates.iter().map(|tenant| Reverse(self.turn(tenant))).collect();
        let mut commands = Vec::new();
        let mut notes = 0;
        while let Some(Reverse(turn)) = line.pop() {
            let Some(tenant) = state.tenants.pending().get(&(turn.0, turn.2, turn.3)) else { continue };
            let now_turn = self.turn(tenant);
            if now_turn > turn && line.peek().is_some_and(|Reverse(next)| *next < now_turn) {
                line.push(Reverse(now_turn));
                continue;
            }
            commands.extend(self.try_one(state, tenant, &mut notes));
        }
        commands
    }

    fn turn(&self, tenant: &Tenant) -> Turn {
        let since = match tenant.phase {
            Phase::Pending { since } => since,
            Phase::Bound { .. } | Phase::Releasing { .. } | Phase::Retained { .. } | Phase::Purging { .. } => Timestamp::default(),
        };
        (Reverse(tenant.spec.priority), self.ledger.owner_use(&tenant.spec.owner).0, since, tenant.id)
    }

    /// Those that are tried in this call: who has never been tried, and the next of the pass for whom there may be room.
    fn candidates(&mut self, state: &State, now: Timestamp) -> Vec<Arc<Tenant>> {
        let tries = state.policy().spec.pending_tries_per_batch as usize;
        let waits = |waiting: &Waiting, tenant: &Tenant| {
            !waiting.in_flight.contains(&tenant.id) && tenant.spec.deadline.is_none_or(|deadline| deadline > now)
        };
        let mut candidates: Vec<Arc<Tenant>> = Vec::new();
        while candidates.len() < tries
            && let Some(key) = self.waiting.untried.pop_first()
        {
            candidates.extend(state.tenants.pending().get(&key).filter(|tenant| waits(&self.waiting, tenant)).cloned());
        }
        let Some(mut pass) = self.waiting.pass.take() else { return candidates };
        let new: BTreeSet<TenantId> = candidates.iter().map(|tenant| tenant.id).collect();
        let from = pass.after.map_or(Bound::Unbounded, Bound::Excluded);
        let residents = self.arrivals.beside(state);
        let (mut done, mut refused_anew) = (true, Vec::new());
        for (looked_at, key) in pass.clusters.queue(&self.waiting.refused, state, from).enumerate() {
            if candidates.len() >= tries || looked_at >= MAX_LOOKED_AT {
                done = false;
                break;
            }
            pass.after = Some(key);
            let Some(tenant) = state.tenants.pending().get(&key) else { continue };
            if !waits(&self.waiting, tenant) || new.contains(&key.2) {
                continue;
            }
            match pass.clusters.suits(&self.ledger, &residents, &tenant.spec) {
                Ok(()) => candidates.push(tenant.clone()),
                Err(causes) => refused_anew.push((key, causes)),
            }
        }
        for (key, causes) in refused_anew {
            self.waiting.refused.add(key, causes);
        }
        if !done {
            self.waiting.pass = Some(pass);
        }
        candidates
    }

    fn try_one(&mut self, state: &State, tenant: &Tenant, notes: &mut usize) -> Option<Command> {
        let decision = schedule::place(&mut self.scratch, &self.ledger, &self.arrivals.beside(state), &tenant.spec);
        if let Some(key) = pending_key(tenant) {
            self.waiting.refused.file(key, decision.as_ref().err().map_or(&[], |unplaceable| &unplaceable.reason));
        }
        match decision {
            // Freed since the pass began: whoever stands before this one comes first, in the next pass.
            Ok(placement) if self.waiting.next.contains(placement.cluster) => None,
            Ok(mut placement) => {
                let used = self.ledger.owner_use(&tenant.spec.owner);
                let wanted = Some(tenant.spec.requests.total);
                if crate::apply::check_quota_with(state, used, &tenant.spec.owner, Some(tenant), wanted).is_err() {
                    return None;
                }
                placement.policy = state.policy().changed;
                let (cluster, shard) = (placement.cluster, placement.shard);
                self.hold(tenant, None, Counted { spec: tenant.spec.clone(), share: Share::Full, cluster, shard });
                self.waiting.in_flight.insert(tenant.id);
                Some(Command::BindTenant { id: tenant.id, placement })
            }
            Err(unplaceable) => {
                if *notes >= MAX_NOTES || same_causes(&unplaceable.reason, &tenant.reason) {
                    return None;
                }
                *notes += 1;
                self.waiting.in_flight.insert(tenant.id);
                Some(Command::NoteUnplaced { id: tenant.id, reason: unplaceable.reason })
            }
        }
    }

    /// Whether a waiting tenant of at least this priority, that has not been tried since, could use room in `cluster`. Errs on the
    /// side of those that wait.
    pub(super) fn waiting_could_use(&self, state: &State, priority: i32, cluster: ClusterId) -> bool {
        let waiting = &self.waiting;
        if waiting.idle() {
            return false;
        }
        let residents = self.arrivals.beside(state);
        let mut looked_at = 0;
        let mut could = |key: &PendingKey| {
            if waiting.in_flight.contains(&key.2) {
                return false;
            }
            looked_at += 1;
            let tenant = state.tenants.pending().get(key);
            looked_at > MAX_LOOKED_AT_FOR_NEWCOMER || tenant.is_some_and(|tenant| has_room(&self.ledger, &residents, &tenant.spec, cluster))
        };
        let before_it = |key: &&PendingKey| key.0.0 >= priority;
        if waiting.untried.iter().take_while(before_it).any(&mut could) {
            return true;
        }
        let mut any = |freed: &Freed, from: Bound<PendingKey>| {
            freed.contains(cluster) && freed.queue(&waiting.refused, state, from).take_while(|key| before_it(&key)).any(|key| could(&key))
        };
        let rest = |pass: &Pass| pass.after.map_or(Bound::Unbounded, Bound::Excluded);
        any(&waiting.next, Bound::Unbounded) || waiting.pass.as_ref().is_some_and(|pass| any(&pass.clusters, rest(pass)))
    }
}

/// Whether two reasons name the same causes, whatever their numbers.
fn same_causes(a: &[u8], b: &[u8]) -> bool {
    let causes = |bytes: &[u8]| match Reason::decode(bytes) {
        Some(Reason::Unplaceable { causes, .. }) => Some(causes.into_iter().map(|(cause, _)| cause).collect::<Vec<_>>()),
        Some(Reason::Placed { .. }) | None => None,
    };
    a == b || (causes(a).is_some() && causes(a) == causes(b))
}
