//! `reconcile`: from what is wanted of a cluster and what is seen there to what is done next.
//!
//! The same code decides for all interpreters of [`Action`]: a Kubernetes cluster, folders and processes, the simulator's model. An
//! interpreter compares what it has rendered with what is there ([`Part`] by part) and carries actions out; it decides nothing. Modules in
//! reading order: `tenant` (one tenant), `memory` (who rests, who is in work, what was removed lately), this one (a cluster: what is older than known, what nobody named, how much at a time).
//!
//! Rules that hold whatever is seen (each has a property test):
//! - an intent that is older than one that was acted on does nothing, and neither does one whose epoch for a tenant is older than what is there;
//! - what no intent names is left as it is;
//! - only [`Role::Absent`] deletes;
//! - a volume that has ever been there is never made again;
//! - of a tenant that is only to be stopped nothing is made where nothing of it is;
//! - nothing runs but under [`Role::Run`].

mod tenant;
mod memory;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Epoch, Name, Revision, TenantId, VolumeUid};
use crate::intent::{ClusterIntent, Role, TenantIntent, VolumeIntent};
use crate::request::Observed;
use crate::time::{Millis, Timestamp};

pub use memory::Memory;

/// Groups of a tenant's objects, in the order in which they are made. Volumes come before the workloads, one by one ([`VolumeSeen`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// What bounds it: labels of its namespace, quota, limits, network policy, account.
    Bounds,
    /// Its secrets.
    Secrets,
    /// What runs, and what makes it reachable within the cluster.
    Workloads,
    /// Its hostnames' way in.
    Routes,
}

impl Part {
    /// In the order in which they are made.
    pub const ALL: [Self; 4] = [Self::Bounds, Self::Secrets, Self::Workloads, Self::Routes];
}

/// How a part is, compared with what was rendered for the tenant's intent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PartSeen {
    /// None of it is there.
    #[default]
    Missing,
    /// Some is missing, or not as rendered.
    Differs,
    /// As rendered; not yet ready, in plain words why.
    Waits(String),
    /// As rendered, and ready.
    Ready,
    /// It cannot be made as rendered, in plain words why.
    Blocked(String),
    /// Something of it that was generated once is not there any more: which.
    Lost(Name),
}

/// A tenant's namespace (or folder).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Home {
    /// There is none.
    #[default]
    None,
    /// It is this tenant's, and was last acted on in this epoch.
    Ours(Epoch),
    /// It is on its way out: it still counts, and nothing can be made in it. In plain words what holds it, where that is known.
    Terminating(Option<String>),
    /// Something of the name is there that is not this tenant's.
    Foreign(String),
}

/// One volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeSeen {
    /// It has never been made.
    Never,
    /// It is there.
    There {
        /// How large.
        bytes: u64,
        /// Which one it is.
        uid: VolumeUid,
    },
    /// It is there, and its deletion has been accepted, which nothing takes back: it lasts for as long as something still uses it.
    Going {
        /// Which one it is.
        uid: VolumeUid,
    },
    /// It has been made, and is not there any more, or is another one.
    Lost,
}

/// What is there of one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantSeen {
    /// Where its objects are.
    pub home: Home,
    /// By part; what is not in here is missing.
    pub parts: BTreeMap<Part, PartSeen>,
    /// By name; what is not in here has never been made.
    pub volumes: BTreeMap<Name, VolumeSeen>,
    /// Whether nothing of it can write any more: controllers at zero, no pod left (one that terminates is), no volume attached. Unknown is `false`.
    pub at_rest: bool,
    /// What keeps it from being at rest, in plain words, where that is known.
    pub holds: Option<String>,
    /// Everything that it was compared with, as a hash, where that is known: with the same one, what differs now was changed by somebody else.
    pub rendering: Option<u64>,
}

/// What is there in a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSeen {
    /// The newest intent that was ever acted on here.
    pub generation: Revision,
    /// Whatever is labelled as a tenant.
    pub tenants: BTreeMap<TenantId, TenantSeen>,
}

/// What an interpreter can do for a tenant. All may be done again without harm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Makes the namespace, or stamps it with the intent's epoch.
    Claim,
    /// Makes a part as rendered, and prunes from it what was recorded and is no longer rendered.
    Put(Part),
    /// Makes a volume that has never been there.
    MakeVolume(Name),
    /// Lets a volume grow to the size of the intent.
    GrowVolume(Name),
    /// Takes the hostnames' way in away.
    Unroute,
    /// Ends everything that runs, in the class's order, and waits for the last of it.
    Stop,
    /// Deletes the namespace and all that is in it.
    Delete,
}

/// How a tenant is, in a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// All is there and ready.
    Running,
    /// On its way; in plain words what is waited for.
    Progressing(String),
    /// On its way for longer than its class gives it ([`Memory::judged`]); in plain words for how long, and what is waited for.
    Late(String),
    /// Nothing runs, and all volumes that were made are there.
    Stopped,
    /// Nothing is left.
    Absent,
    /// A volume that was there is not: it stays stopped until somebody decides.
    VolumeLost(Name),
    /// A secret that was generated is not there any more, and what it protects is: nothing is made in its place.
    SecretLost(Name),
    /// It is removed only once an operator agrees.
    HeldBack,
    /// It cannot go on; in plain words why.
    Blocked(String),
}

/// What comes next for a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// In this order; what comes after a failed one is not tried.
    pub actions: Vec<Action>,
    /// How it is before them.
    pub condition: Condition,
}

/// How much at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tenants whose running objects are being changed at a time, until each is seen complete, whichever agent began. New ones do not count: nobody
    /// uses them yet. Nor does one that is put back as it was complete before: that is no risk, and leaving it broken is.
    pub in_work: usize,
    /// How long a changed tenant may take to be complete before it gives its place to the next.
    pub patience: Millis,
    /// Deletions within `removal_window` of which an operator need not know: the greater of this and `removals_per_mille` of the tenants there.
    pub removals: usize,
    /// See `removals`.
    pub removals_per_mille: usize,
    /// See `removals`.
    pub removal_window: Millis,
}

impl Default for Limits {
    /// 20 in work, ten minutes each; more than max(5, 1 %) removals within ten minutes wait for an operator.
    fn default() -> Self {
        let minutes = Millis::from_secs(600);
        Self { in_work: 20, patience: minutes, removals: 5, removals_per_mille: 10, removal_window: minutes }
    }
}

/// What comes next for a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// By tenant, in the order in which they are worked on.
    pub steps: Vec<(TenantId, Step)>,
    /// Labelled as tenants, and named by no intent: left as they are.
    pub orphans: Vec<TenantId>,
    /// Deletions that wait for an operator.
    pub held_back: Vec<TenantId>,
    /// The intent is older than one that was acted on: nothing was looked at.
    pub stale: bool,
}

/// What is said of a tenant that is stopped before its removal, while no more removals are carried out unasked.
const WILL_WAIT: &str = "it is being stopped; then its removal waits for an operator, because more are to be removed than go unasked";

/// A volume that its tenant still has and is about to lose. It is named at once, and the tenant is left as it is: to stop it would end the last use
/// that keeps the volume. Where the whole namespace goes, that is what is named.
pub fn going<'a>(wanted: &'a TenantIntent, seen: &TenantSeen) -> Option<&'a Name> {
    let goes = |volume: &&VolumeIntent| matches!(seen.volumes.get(&volume.name), Some(VolumeSeen::Going { .. }));
    let stays = wanted.role != Role::Absent && matches!(seen.home, Home::Ours(_));
    wanted.volumes.iter().find(goes).filter(|_| stays).map(|volume| &volume.name)
}

/// What comes next. It changes nothing but `memory`.
pub fn reconcile(intent: &ClusterIntent, seen: &ClusterSeen, limits: &Limits, memory: &mut Memory, now: Timestamp) -> Round {
    if intent.generation < seen.generation {
        return Round { stale: true, ..Round::default() };
    }
    let nothing = TenantSeen::default();
    let seen_of = |wanted: &TenantIntent| seen.tenants.get(&wanted.id).unwrap_or(&nothing);
    let mut all = Vec::with_capacity(intent.tenants.len());
    for wanted in &intent.tenants {
        let there = seen.tenants.get(&wanted.id);
        // Of one that is not among them it is not known yet what is there.
        if let Some(there) = there {
            memory.meets(wanted, there, now);
        }
        all.push((wanted, tenant::step(wanted, there.unwrap_or(&nothing))));
    }
    // Shard by shard: what a change breaks, it breaks in one shard first.
    all.sort_by_key(|(wanted, _)| (wanted.shard, wanted.id));
    memory.forget_all_but(&all, now, limits);
    let may_remove = limits.removals.max(seen.tenants.len() * limits.removals_per_mille / 1000);
    let mut round = Round::default();
    let mut unready = BTreeMap::new();
    for (wanted, mut step) in all {
        let id = wanted.id;
        if will_be_held_back(wanted, seen_of(wanted), &step) && !memory.has_room(id, may_remove) {
            step.condition = Condition::Progressing(tenant::with_holder(WILL_WAIT, seen_of(wanted)));
        }
        if memory.rests(id, now) || memory.is_at_rest(wanted.shard, now) {
            step.actions.clear();
        }
        if step.actions.contains(&Action::Delete) && !wanted.removal_agreed && !memory.may_delete(id, may_remove, now) {
            step.actions.retain(|action| *action != Action::Delete);
            step.condition = Condition::HeldBack;
            round.held_back.push(id);
        }
        if wanted.role == Role::Run && matches!(step.condition, Condition::Progressing(_)) {
            unready.insert(id, memory.unready_since(id).unwrap_or(now));
        }
        let seen = seen_of(wanted);
        let is_repair = memory.notes(wanted, seen, &step);
        if is_change(seen, &step) && !is_repair && !memory.may_change(id, limits, now) {
            step.actions.clear();
        }
        round.steps.push((id, step));
    }
    memory.are_unready(unready);
    let named: BTreeSet<TenantId> = intent.tenants.iter().map(|wanted| wanted.id).collect();
    round.orphans = seen.tenants.keys().filter(|id| !named.contains(id)).copied().collect();
    round
}

/// What there is to be told of a tenant's phase; `None` while it is neither running nor stopped nor gone.
#[must_use]
pub fn observed(wanted: &TenantIntent, seen: &TenantSeen, condition: &Condition) -> Option<Observed> {
    // What else a tenant that is to be stopped is to have, a quota say, concerns nobody who waits for it to be stopped.
    let is_stopped = || wanted.role == Role::Stopped && seen.at_rest && seen.home == Home::Ours(wanted.epoch);
    match condition {
        Condition::Running => Some(Observed::Running),
        Condition::Stopped => Some(Observed::Stopped),
        Condition::Absent => Some(Observed::Absent),
        Condition::VolumeLost(_) | Condition::SecretLost(_) => seen.at_rest.then_some(Observed::Stopped),
        Condition::Blocked(_) | Condition::Progressing(_) | Condition::Late(_) => is_stopped().then_some(Observed::Stopped),
        Condition::HeldBack => None,
    }
}

/// Whether a tenant is on its way to a removal that has to be agreed to unless there is room for it.
fn will_be_held_back(wanted: &TenantIntent, seen: &TenantSeen, step: &Step) -> bool {
    let is_there = matches!(seen.home, Home::Ours(_)) && matches!(step.condition, Condition::Progressing(_));
    wanted.role == Role::Absent && !wanted.removal_agreed && is_there && !step.actions.contains(&Action::Delete)
}

/// Whether something that runs is changed: what is new, or goes, is nobody's risk but its own.
fn is_change(seen: &TenantSeen, step: &Step) -> bool {
    step.actions.iter().any(|action| matches!(action, Action::Put(part) if seen.parts.get(part) == Some(&PartSeen::Differs)))
}
