//! `apply`: the only way the state changes. Deterministic; re-checks every hard limit; may reject; never dies, never half-does.
//!
//! One file per kind of thing: `tenant`, `misplaced`, `report` and `observed` (what agents say), `join` (how they are let in), `cluster`, `fleet` (pools, classes, policy), `admin` (expiry,
//! levels, incarnations), `removals` (what an operator has agreed to). Each command checks first and changes afterwards. It schedules nothing: a scheduler in here would make
//! replicas of different versions come apart.

mod tenant;
mod misplaced;
mod report;
mod observed;
mod join;
mod cluster;
mod fleet;
mod admin;
mod removals;

use std::sync::Arc;

use crate::class::ClassVersion;
use crate::cluster::Cluster;
use crate::command::{Batch, Command, Done, Envelope, FeatureLevel, Kind, Outcome, Rejection, SUPPORTED_LEVEL};
use crate::history::{EventKind, KeptEvent};
use crate::id::{Revision, TenantId};
use crate::observed::TenantFacts;
use crate::policy::Policy;
use crate::pool::Pool;
use crate::request::Principal;
use crate::state::{Packed, State, Verdict};
use crate::tenant::{Binding, Phase, Tenant};
use crate::time::Timestamp;

pub(crate) use cluster::{check_cluster_spec, check_delete};
pub(crate) use fleet::{check_class_version, check_policy, check_pool};
pub(crate) use join::{check_spending, check_token};
pub(crate) use observed::{check_details, check_growth, check_observation, facts_after};
pub(crate) use report::{check_uid, comes_from_later, may_be_found};
pub(crate) use tenant::{check_adopt, check_quota_with, check_undelete, check_update, find_tenant};

/// From this level on a tenant's history also tells when its constraints ceased to hold, or held again.
pub const MISPLACED_IN_HISTORY: FeatureLevel = FeatureLevel(2);

/// From this level on a tenant that comes back goes to another shard of its cluster if its own is full.
pub const RETURNS_TO_ANY_SHARD: FeatureLevel = FeatureLevel(3);

/// From this level on agents tell of volumes and troubles, and what was kept of a deleted tenant counts until its agent reports it gone.
pub const OBSERVES: FeatureLevel = FeatureLevel(4);

/// From this level on clusters have tokens by which their agents are let in.
pub const ENROLS: FeatureLevel = FeatureLevel(5);

/// From this level on removals that wait for an operator are a trouble of their own, and operators agree to them.
pub const AGREES: FeatureLevel = FeatureLevel(6);

/// From this level on clusters have details: what may still be added to them, how their nodes are, whether network policies hold.
pub const DETAILS: FeatureLevel = FeatureLevel(7);

/// From this level on a tenant that waits is bound to a cluster that tells of it only while clusters are waited for since a restore.
pub const FINDS_WHERE_AWAITED: FeatureLevel = FeatureLevel(8);

/// From this level on what autoscaled groups may still add to a cluster counts.
pub const COUNTS_GROWTH: FeatureLevel = FeatureLevel(8);

/// What applying one entry did.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// The state's revision now.
    pub revision: Revision,
    /// One for each command, in order.
    pub outcomes: Vec<Outcome>,
    /// Every changed thing, in order: what watchers see. Ordinals count from 1 in this order.
    pub changes: Vec<Change>,
    /// Broken invariants that were averted; ERROR for whoever logs them.
    pub alarms: Vec<String>,
}

/// One changed thing, before and after.
#[derive(Clone, Debug)]
pub enum Change {
    /// A tenant; `after` is `None` when it is gone for good.
    Tenant {
        /// As it was; `None` when it is new.
        before: Option<Arc<Tenant>>,
        /// As it is.
        after: Option<Arc<Tenant>>,
        /// What is known of it beyond that, as it is.
        facts: Option<Arc<TenantFacts>>,
    },
    /// A cluster.
    Cluster {
        /// As it was; `None` when it is new.
        before: Option<Arc<Cluster>>,
        /// As it is; `None` when it is gone.
        after: Option<Arc<Cluster>>,
    },
    /// A pool.
    Pool {
        /// As it was; `None` when it is new.
        before: Option<Arc<Pool>>,
        /// As it is; `None` when it is gone.
        after: Option<Arc<Pool>>,
    },
    /// A class version.
    Class {
        /// As it was; `None` when it is new.
        before: Option<Arc<ClassVersion>>,
        /// As it is; `None` when it is gone.
        after: Option<Arc<ClassVersion>>,
    },
    /// The policy.
    Policy {
        /// As it is.
        after: Arc<Policy>,
    },
}

/// Whether this build understands a batch: a replica stops at one above its own level and asks to be upgraded.
#[must_use]
pub fn supported(batch: &Batch) -> bool {
    batch.level <= SUPPORTED_LEVEL
}

/// Applies one entry at `index`. An empty entry (a new leader's first) is a batch without commands.
pub fn apply(state: &mut State, index: u64, batch: &Batch) -> Applied {
    let mut alarms = Vec::new();
    if index <= state.revision.index {
        alarms.push(format!("entry {index} was applied after {}; it is ignored", state.revision));
        let what = "entries are applied in ascending order".to_owned();
        let outcomes = batch.commands.iter().map(|_| Outcome::Rejected(Rejection::Broken { what: what.clone() })).collect();
        return Applied { revision: state.revision, outcomes, changes: Vec::new(), alarms };
    }
    state.revision.index = index;
    state.time = state.time.max(batch.time);
    let mut applier = Applier { state, principal: None, changes: Vec::with_capacity(batch.commands.len()), alarms };
    let outcomes = batch.commands.iter().map(|envelope| applier.envelope(envelope)).collect();
    let Applier { changes, alarms, .. } = applier;
    let policy = state.policy().clone();
    state.requests.trim(batch.commands.len(), state.time, policy.spec.request_window, policy.spec.max_requests);
    Applied { revision: state.revision, outcomes, changes, alarms }
}

/// What a command does, or why not.
type Fate = Result<Done, Rejection>;

/// One entry on its way into the state.
struct Applier<'a> {
    state: &'a mut State,
    /// Of the command that is being applied.
    principal: Option<&'a Principal>,
    changes: Vec<Change>,
    alarms: Vec<String>,
}

impl<'a> Applier<'a> {
    fn revision(&self) -> Revision {
        self.state.revision
    }

    fn time(&self) -> Timestamp {
        self.state.time
    }

    /// Deduplicates, applies, remembers.
    fn envelope(&mut self, envelope: &'a Envelope) -> Outcome {
        self.principal = Some(&envelope.principal);
        let Some(retry) = &envelope.retry else {
            return self.outcome(&envelope.command);
        };
        let window = self.state.policy().spec.request_window;
        let number = self.state.principals.number(&envelope.principal);
        match self.state.requests.check(retry, number, self.time(), window) {
            Verdict::New => {}
            verdict => return verdict.outcome(window),
        }
        let outcome = self.outcome(&envelope.command);
        if !matches!(outcome, Outcome::Rejected(Rejection::Stale)) {
            let number = self.state.principals.enter(&envelope.principal);
            self.state.requests.remember(retry, number, &outcome);
        }
        outcome
    }

    fn outcome(&mut self, command: &'a Command) -> Outcome {
        match self.command(command) {
            Ok(done) => Outcome::Done(done),
            Err(rejection) => {
                if let Rejection::Broken { what } = &rejection {
                    self.alarms.push(format!("broken invariant at {}: {what}", self.revision()));
                }
                Outcome::Rejected(rejection)
            }
        }
    }

    fn command(&mut self, command: &'a Command) -> Fate {
        if acts_on_knowledge(command) {
            check_fence(self.state)?;
        }
        match command {
            Command::CreateTenant { spec, placement } => self.create_tenant(spec, placement),
            Command::BindTenant { id, placement } => self.bind_tenant(*id, placement),
            Command::NoteUnplaced { id, reason } => self.note_unplaced(*id, reason),
            Command::UpdateTenant { spec, expected } => self.update_tenant(spec, *expected),
            Command::ReleaseTenant { name, purge, expected } => self.release_tenant(name, *purge, *expected),
            Command::UndeleteTenant { name } => self.undelete_tenant(name),
            Command::AdoptTenant { spec, cluster, shard } => self.adopt_tenant(spec, *cluster, *shard),
            Command::PutCluster { spec, expected } => self.put_cluster(spec, *expected),
            Command::CordonCluster { name, cordoned } => self.cordon_cluster(name, *cordoned),
            Command::DeleteCluster { name, forget } => self.delete_cluster(name, *forget),
            Command::Report(report) => self.report(report),
            Command::Observe(observation) => self.observe_all(observation),
            Command::MarkSilent { cluster } => self.mark_silent(*cluster),
            Command::PutPool { spec, expected } => self.put_pool(spec, *expected),
            Command::DeletePool { name } => self.delete_pool(name),
            Command::PutClass { class } => self.put_class(class),
            Command::DeleteClass { name, version } => self.delete_class(name, version),
            Command::PutPolicy { spec, expected } => self.put_policy(spec, *expected),
            Command::Expire { limit } => self.expire(*limit),
            Command::RaiseLevel { level } => self.raise_level(*level),
            Command::Incarnate { incarnation } => self.incarnate(*incarnation),
            Command::WaiveFence { cluster } => self.waive_fence(cluster.as_ref()),
            Command::PutToken { cluster, token } => self.put_token(cluster, token),
            Command::SpendToken(spending) => self.spend_token(spending),
            Command::AllowRemovals { cluster, tenants } => self.allow_removals(cluster, tenants),
            Command::NoteCluster(found) => self.note_cluster(found),
            Command::NoteGrowth(found) => self.note_growth(found),
        }
    }

    fn event(&mut self, kind: EventKind) -> KeptEvent {
        let principal = self.principal.expect("set before a command is applied");
        let principal = self.state.principals.enter(principal);
        KeptEvent { time: self.time(), revision: self.revision(), principal, kind }
    }

    /// Adds or replaces a tenant, with events in its history.
    fn keep_tenant(&mut self, mut tenant: Tenant, events: impl IntoIterator<Item = EventKind>) {
        tenant.changed = self.revision();
        let packed = self.state.tenants.get(tenant.id);
        let before = packed.map(|packed| Arc::new(packed.tenant()));
        let mut history = packed.map(Packed::history).unwrap_or_default();
        for kind in events {
            history.push(&self.event(kind));
        }
        let after = Arc::new(tenant);
        self.state.put_tenant(before.as_deref(), &after, &history);
        let facts = self.state.observed.tenant(after.id).cloned();
        self.changes.push(Change::Tenant { before, after: Some(after), facts });
    }

    fn drop_tenant(&mut self, id: TenantId) {
        let before = self.state.remove_tenant(id).map(Arc::new);
        self.changes.push(Change::Tenant { before, after: None, facts: None });
    }

    /// What is kept of a deleted tenant goes: its agent removes it and says so; where there is no agent, there is nobody to say it.
    fn purge_tenant(&mut self, tenant: Tenant, binding: Binding) {
        let has_agent = self.state.cluster_by_id(binding.cluster).is_some_and(|cluster| cluster.has_agent);
        if self.state.level() < OBSERVES || !has_agent {
            return self.drop_tenant(tenant.id);
        }
        let phase = Phase::Purging { binding, since: self.time() };
        self.keep_tenant(Tenant { phase, ..tenant }, Some(EventKind::Released { purge: true }));
    }

    fn keep_cluster(&mut self, cluster: Cluster) {
        let before = self.state.cluster_by_id(cluster.id).cloned();
        let after = Arc::new(cluster);
        self.state.put_cluster(after.clone());
        self.changes.push(Change::Cluster { before, after: Some(after) });
    }

    fn done(&self) -> Done {
        Done::Changed { revision: self.revision() }
    }
}

/// Whether a command must wait until every cluster has reported since a restore: everything that decides or deletes. Facts,
/// declarations and what lifts the fence go on.
fn acts_on_knowledge(command: &Command) -> bool {
    match command {
        Command::CreateTenant { .. }
        | Command::BindTenant { .. }
        | Command::UpdateTenant { .. }
        | Command::ReleaseTenant { .. }
        | Command::UndeleteTenant { .. }
        | Command::DeleteCluster { .. }
        | Command::DeletePool { .. }
        | Command::DeleteClass { .. }
        | Command::Expire { .. }
        | Command::AllowRemovals { .. } => true,
        Command::NoteUnplaced { .. }
        | Command::AdoptTenant { .. }
        | Command::PutCluster { .. }
        | Command::CordonCluster { .. }
        | Command::Report(_)
        | Command::Observe(_)
        | Command::MarkSilent { .. }
        | Command::PutPool { .. }
        | Command::PutClass { .. }
        | Command::PutPolicy { .. }
        | Command::RaiseLevel { .. }
        | Command::Incarnate { .. }
        | Command::WaiveFence { .. }
        | Command::PutToken { .. }
        | Command::SpendToken(_)
        | Command::NoteCluster(_)
        | Command::NoteGrowth(_) => false,
    }
}

/// Nothing is decided or deleted while a cluster has not reported since a restore.
pub(crate) fn check_fence(state: &State) -> Result<(), Rejection> {
    match state.fenced_count() {
        0 => Ok(()),
        waiting => Err(Rejection::Fenced { waiting }),
    }
}

/// Compares what the caller expected with what is.
pub(crate) fn expect(expected: Option<Revision>, actual: Revision, kind: Kind, name: &str) -> Result<(), Rejection> {
    match expected {
        Some(expected) if expected != actual => Err(Rejection::Conflict { kind, name: name.to_owned(), expected, actual }),
        _ => Ok(()),
    }
}

fn not_found(kind: Kind, name: &str) -> Rejection {
    Rejection::NotFound { kind, name: name.to_owned() }
}

fn invalid(field: &str, problem: impl Into<String>) -> Rejection {
    Rejection::Invalid { field: field.to_owned(), problem: problem.into() }
}

fn in_use(kind: Kind, name: &str, problem: impl Into<String>) -> Rejection {
    Rejection::InUse { kind, name: name.to_owned(), problem: problem.into() }
}
