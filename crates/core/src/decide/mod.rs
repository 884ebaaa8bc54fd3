//! From what a caller wants to a command in the log: on the leader only, on a working copy.
//!
//! [`Working`] counts what its own proposals in flight will take, never what they will give. It decides; [`crate::apply`] verifies
//! everything again, so that nothing here has to be trusted. `resolve` checks what needs no other tenant; `request` turns each kind
//! of request into a command; `waiting` keeps who waits and is tried again, `refused` what refused them.

mod resolve;
mod request;
mod waiting;
mod refused;
mod what_if;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::apply::{Applied, Change};
use crate::command::{Batch, Command, Done, Envelope, Outcome, Placement, Rejection};
use crate::id::{ClusterId, Owner, ShardId, TenantId};
use crate::ledger::{Arrivals, Ledger, Share};
use crate::request::{Principal, Request};
use crate::schedule::Scratch;
use crate::state::{State, Verdict, counted, recount};
use crate::tenant::{Binding, Tenant, TenantSpec};
use crate::time::Timestamp;

pub use request::report_matters;
pub use resolve::resolve;
pub use what_if::WhatIf;

use self::refused::Changed;
use self::waiting::Waiting;

/// Tenants that one entry drops at most because their time has passed: some milliseconds of work.
const MAX_EXPIRED_PER_BATCH: u32 = 1000;

/// The leader's working copy: the applied ledger plus what its own proposals in flight take. They take room, never give it.
#[derive(Clone, Debug, Default)]
pub struct Working {
    /// Applied, plus in flight.
    pub ledger: Ledger,
    /// Buffers.
    pub scratch: Scratch,
    /// Who counts in full by proposals in flight alone, and where.
    arrivals: Arrivals,
    /// What proposals in flight hold for tenants that exist, oldest first.
    holds: BTreeMap<TenantId, VecDeque<Hold>>,
    waiting: Waiting,
    /// Clusters whose silence is proposed.
    falling_silent: BTreeSet<ClusterId>,
    /// An `Expire` is in flight.
    expiring: bool,
}

/// A request's fate before it reaches the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// To be proposed.
    Propose(Command),
    /// Answered without the log: a retry's first answer, or nothing to change.
    Answer(Outcome),
}

/// What one proposal in flight counts in the working ledger instead of what the tenant counts by itself.
#[derive(Clone, Debug)]
struct Hold {
    instead_of: Option<Counted>,
    took: Counted,
}

impl Hold {
    /// Whether the tenant did not count in full before.
    fn arrives(&self) -> bool {
        let full = |counted: &Counted| counted.share == Share::Full;
        full(&self.took) && !self.instead_of.as_ref().is_some_and(full)
    }
}

#[derive(Clone, Debug)]
struct Counted {
    spec: TenantSpec,
    share: Share,
    cluster: ClusterId,
    shard: ShardId,
}

impl Counted {
    fn take(&self, ledger: &mut Ledger) {
        ledger.take(&self.spec, self.share, self.cluster, self.shard);
    }

    fn give(&self, ledger: &mut Ledger) {
        ledger.give(&self.spec, self.share, self.cluster, self.shard);
    }
}

impl Working {
    /// Starts over from the applied state: at the start of a leadership and whenever proposals were dropped.
    #[must_use]
    pub fn new(state: &State) -> Self {
        Self { ledger: state.ledger().clone(), waiting: Waiting::new(), ..Self::default() }
    }

    /// Decides one request, counting what it takes. The order of calls is the order of the batch. `now` is the time that the entry will carry.
    ///
    /// # Errors
    /// A rejection that needs no entry.
    pub fn decide(&mut self, state: &State, request: &Request, now: Timestamp) -> Result<Decision, Rejection> {
        if let Some(retry) = &request.retry {
            let window = state.policy().spec.request_window;
            let number = state.principals.number(&request.principal);
            match state.requests.check(retry, number, now, window) {
                Verdict::New => {}
                verdict => return Ok(Decision::Answer(verdict.outcome(window))),
            }
        }
        self.decide_new(state, &request.ask, now)
    }

    /// Takes over an applied entry. `mine` says that this working copy decided it (its takes are counted already; those that were
    /// rejected are given back).
    pub fn applied(&mut self, state: &State, batch: &Batch, applied: &Applied, mine: bool) {
        let taken = if mine { self.settle(state, batch, applied) } else { BTreeSet::new() };
        for change in &applied.changes {
            self.follow(state, change, &taken);
        }
    }

    /// Gives back what the batch's commands held, except for new tenants, whose numbers it returns: they stay counted.
    fn settle(&mut self, state: &State, batch: &Batch, applied: &Applied) -> BTreeSet<TenantId> {
        let mut created: BTreeSet<TenantId> = applied
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::Tenant { before: None, after: Some(after), .. } => Some(after.id),
                Change::Tenant { .. } | Change::Cluster { .. } | Change::Pool { .. } | Change::Class { .. } | Change::Policy { .. } => None,
            })
            .collect();
        let mut counted = BTreeSet::new();
        for (envelope, outcome) in batch.commands.iter().zip(&applied.outcomes) {
            let new = match outcome {
                Outcome::Done(Done::Placed { id, .. }) => created.remove(id).then_some(*id),
                Outcome::Done(Done::Pending { .. } | Done::Changed { .. }) | Outcome::Rejected(_) => None,
            };
            match (&envelope.command, new) {
                (Command::CreateTenant { spec, placement: Ok(Placement { cluster, shard, .. }) }, new)
                | (Command::AdoptTenant { spec, cluster, shard }, new) => {
                    self.arrivals.remove(&spec.name, *cluster, *shard);
                    match new {
                        Some(id) => {
                            counted.insert(id);
                        }
                        None => {
                            self.ledger.give(spec, Share::Full, *cluster, *shard);
                            self.waiting.freed(*cluster);
                        }
                    }
                }
                (Command::BindTenant { id, .. }, _) => {
                    self.undo_hold(*id);
                    self.waiting.landed(state, *id);
                }
                (Command::NoteUnplaced { id, .. }, _) => self.waiting.noted(*id),
                (Command::CreateTenant { spec, placement: Err(_) }, _) => {
                    if !matches!(outcome, Outcome::Done(Done::Pending { .. })) {
                        self.waiting.not_waiting(&spec.name);
                    }
                }
                (Command::UpdateTenant { spec, .. }, _) => self.undo_named(spec.name.as_str()),
                (Command::UndeleteTenant { name }, _) => self.undo_named(name.as_str()),
                (Command::Expire { .. }, _) => self.expiring = false,
                (Command::MarkSilent { cluster }, _) => {
                    self.falling_silent.remove(cluster);
                }
                (
                    Command::ReleaseTenant { .. }
                    | Command::PutCluster { .. }
                    | Command::CordonCluster { .. }
                    | Command::DeleteCluster { .. }
                    | Command::Report(_)
                    | Command::Observe(_)
                    | Command::PutPool { .. }
                    | Command::DeletePool { .. }
                    | Command::PutClass { .. }
                    | Command::DeleteClass { .. }
                    | Command::PutPolicy { .. }
                    | Command::RaiseLevel { .. }
                    | Command::Incarnate { .. }
                    | Command::WaiveFence { .. }
                    | Command::PutToken { .. }
                    | Command::SpendToken(_)
                    | Command::AllowRemovals { .. }
                    | Command::NoteCluster(_)
                    | Command::NoteGrowth(_),
                    _,
                ) => {}
            }
        }
        counted
    }

    fn undo_hold(&mut self, id: TenantId) {
        let Some(holds) = self.holds.get_mut(&id) else { return };
        let hold = holds.pop_front();
        if holds.is_empty() {
            self.holds.remove(&id);
        }
        let Some(hold) = hold else { return };
        self.let_go(&hold);
        self.waiting.freed(hold.took.cluster);
    }

    /// Counts what a proposal holds.
    fn keep_hold(&mut self, hold: &Hold) {
        if let Some(before) = &hold.instead_of {
            before.give(&mut self.ledger);
        }
        hold.took.take(&mut self.ledger);
        if hold.arrives() {
            self.arrivals.add(&hold.took.spec.name, hold.took.cluster, hold.took.shard);
        }
    }

    /// The opposite.
    fn let_go(&mut self, hold: &Hold) {
        hold.took.give(&mut self.ledger);
        if hold.arrives() {
            self.arrivals.remove(&hold.took.spec.name, hold.took.cluster, hold.took.shard);
        }
        if let Some(before) = &hold.instead_of {
            before.take(&mut self.ledger);
        }
    }

    /// Undoes the oldest hold of the tenant with this name.
    fn undo_named(&mut self, name: &str) {
        let held = self.holds.iter().find(|(_, holds)| holds.front().is_some_and(|hold| hold.took.spec.name.as_str() == name));
        if let Some(id) = held.map(|(id, _)| *id) {
            self.undo_hold(id);
        }
    }

    /// Counts a tenant that does not exist yet.
    fn arrive(&mut self, spec: &TenantSpec, cluster: ClusterId, shard: ShardId) {
        self.ledger.take(spec, Share::Full, cluster, shard);
        self.arrivals.add(&spec.name, cluster, shard);
    }

    /// Moves the working copy as the state has moved.
    fn follow(&mut self, state: &State, change: &Change, counted: &BTreeSet<TenantId>) {
        match change {
            Change::Tenant { before, after, .. } => {
                let new = before.is_none() && after.as_ref().is_some_and(|after| counted.contains(&after.id));
                if !new {
                    let id = before.as_ref().or(after.as_ref()).map(|tenant| tenant.id);
                    let holds = id.and_then(|id| self.holds.remove(&id)).unwrap_or_default();
                    holds.iter().rev().for_each(|hold| self.let_go(hold));
                    self.settle_place(before.as_deref(), after.as_deref());
                    self.hold_again(after.as_deref(), holds);
                    self.settle_quota(state, before.as_deref());
                }
                self.waiting.follow(before.as_deref(), after.as_deref());
            }
            Change::Cluster { before, after: Some(after) } => {
                self.ledger.put_cluster(after, state.pool(after.spec.pool.as_str()).map(|pool| &**pool));
                let same_facts = before.as_ref().is_some_and(|before| before.spec == after.spec);
                self.waiting.changed(after.id, if same_facts { Changed::Report } else { Changed::Facts });
            }
            Change::Cluster { before, after: None } => {
                if let Some(before) = before {
                    self.ledger.remove_cluster(before.id);
                }
                self.waiting.everything_moved();
            }
            Change::Pool { after, .. } => {
                let Some(pool) = after else { return };
                self.waiting.everything_moved();
                for cluster in state.clusters().filter(|cluster| cluster.spec.pool == pool.spec.name) {
                    self.ledger.put_cluster(cluster, Some(pool));
                }
            }
            Change::Policy { .. } => self.waiting.everything_moved(),
            Change::Class { .. } => {}
        }
    }

    /// Holds of a tenant that another entry has changed: they take the same as before, instead of what the tenant counts now. Those of one
    /// that is gone will be rejected.
    fn hold_again(&mut self, after: Option<&Tenant>, holds: VecDeque<Hold>) {
        let (Some(after), false) = (after, holds.is_empty()) else {
            return holds.iter().for_each(|hold| self.waiting.freed(hold.took.cluster));
        };
        let count = |(share, at): (Share, Binding)| Counted { spec: after.spec.clone(), share, cluster: at.cluster, shard: at.shard };
        let mut counts = counted(&after.phase).map(count);
        let mut kept = VecDeque::with_capacity(holds.len());
        for Hold { took, .. } in holds {
            // What it counts elsewhere stays counted; storage is of no shard.
            let same_shard = |counts: &Counted| counts.shard == took.shard || counts.share == Share::StorageOnly;
            let instead_of = counts.take_if(|counts| counts.cluster == took.cluster && same_shard(counts));
            counts = Some(took.clone());
            let hold = Hold { instead_of, took };
            self.keep_hold(&hold);
            kept.push_back(hold);
        }
        self.holds.insert(after.id, kept);
    }

    fn settle_place(&mut self, before: Option<&Tenant>, after: Option<&Tenant>) {
        recount(&mut self.ledger, before, after);
        let place = |tenant: Option<&Tenant>| tenant.and_then(|tenant| counted(&tenant.phase));
        let (was, is) = (place(before), place(after));
        let Some((before, (_, binding))) = before.zip(was) else { return };
        let smaller =
            after.is_some_and(|after| after.spec.requests != before.spec.requests || after.spec.constraints != before.spec.constraints);
        let elsewhere = was.map(|(share, at)| (share, at.cluster, at.shard)) != is.map(|(share, at)| (share, at.cluster, at.shard));
        if !smaller && !elsewhere {
            return;
        }
        self.waiting.freed(binding.cluster);
        // Whoever was kept away by its company may be welcome anywhere now.
        if !before.spec.constraints.company.is_empty() {
            self.waiting.everything_moved();
        }
    }

    /// Where quotas are set, an owner that holds less may let its waiting tenants in, wherever there is room.
    fn settle_quota(&mut self, state: &State, before: Option<&Tenant>) {
        let policy = &state.policy().spec;
        let Some(before) = before else { return };
        let quota = policy.quotas.get(&before.spec.owner).unwrap_or(&policy.default_quota);
        if *quota != crate::policy::Quota::default() && state.tenants.pending_of_owner(&before.spec.owner) > 0 {
            self.waiting.everything_moved();
        }
    }

    /// The leader's own initiative: waiting tenants that may fit now (bounded per batch), expiries, clusters fallen silent.
    pub fn advance(&mut self, state: &State, contacts: &Contacts, now: Timestamp) -> Vec<Envelope> {
        let mut commands = self.silent_clusters(state, contacts, now);
        if state.fenced_count() == 0 {
            commands.extend(self.due(state, now));
            commands.extend(self.try_waiting(state, now));
        }
        let principal = leader();
        commands.into_iter().map(|command| Envelope { principal: principal.clone(), retry: None, command }).collect()
    }

    fn silent_clusters(&mut self, state: &State, contacts: &Contacts, now: Timestamp) -> Vec<Command> {
        let after = state.policy().spec.silent_after;
        let mut commands = Vec::new();
        for cluster in state.clusters().filter(|cluster| !cluster.silent && cluster.has_agent) {
            let heard = contacts.last_heard.get(&cluster.id).copied().unwrap_or(contacts.since);
            if now.since(heard) > after && self.falling_silent.insert(cluster.id) {
                commands.push(Command::MarkSilent { cluster: cluster.id });
            }
        }
        commands
    }

    fn due(&mut self, state: &State, now: Timestamp) -> Option<Command> {
        let tenant = state.tenants.expiries().get_min().is_some_and(|(time, _)| *time <= now);
        let agreement = state.agreements.ended(now).next().is_some();
        if !(tenant || agreement) || self.expiring {
            return None;
        }
        self.expiring = true;
        Some(Command::Expire { limit: MAX_EXPIRED_PER_BATCH })
    }
}

/// Who asks when the leader acts by itself.
#[must_use]
pub fn leader() -> Principal {
    Owner::new("replica:leader").expect("a legal name")
}

/// When the leader last heard of each cluster's agent; not replicated.
#[derive(Clone, Debug, Default)]
pub struct Contacts {
    /// When its term began: whoever has not been heard of since then counts as heard of at that time before it is called silent.
    pub since: Timestamp,
    /// Whose agents were heard of in this term, and when last.
    pub last_heard: std::collections::BTreeMap<crate::id::ClusterId, Timestamp>,
}
