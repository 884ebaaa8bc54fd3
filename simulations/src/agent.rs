//! The agent of a model cluster: hears what is wanted, looks, asks [`reconcile()`] what comes next, tells. It decides nothing itself.
//!
//! What it has in memory is lost whenever it is started again; only the generation and what was removed of late are kept, by its cluster. It is one of
//! perhaps several for its cluster, and does not know of the others.

use std::collections::BTreeMap;

use roadstead_core::cluster::{Capacity, GrowthRoom};
use roadstead_core::id::{Incarnation, Name, Owner, Revision, ShardId, TenantId, VolumeUid};
use roadstead_core::intent::{ClusterIntent, Role, TenantIntent};
use roadstead_core::observed::{ClusterInfo, SeenTenant, TroubleKind};
use roadstead_core::reconcile::{
    self, Action, ClusterSeen, Condition, Home, Limits, Memory, Round, Step, TenantSeen, VolumeSeen, reconcile,
};
use roadstead_core::request::{Ask, GrowthFound, Observation, Observed, ObservedTenant, Report};
use roadstead_core::resources::Requests;
use roadstead_core::time::{Millis, Timestamp};

use crate::chance::Chance;
use crate::cluster::Cluster;
use crate::fleet;
use crate::net::Micros;
use crate::world::Planted;

/// How often everything is told anew. What was told may have moved nothing then, and move something now: that a tenant is stopped which only
/// rested, and was deleted since.
const TELL_ALL_EVERY_US: Micros = 3_000_000;

/// What is told of one tenant.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    seen: SeenTenant,
    observed: Option<Observed>,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Which cluster.
    pub cluster: usize,
    /// Counts starts; what an earlier one waited for does not concern it.
    pub boot: u64,
    /// Whether it is running.
    pub runs: bool,
    /// It does nothing before then.
    pub paused_until: Micros,
    /// What it heard last.
    pub intent: ClusterIntent,
    /// Who failed, and the like.
    pub memory: Memory,
    /// How much at a time.
    pub limits: Limits,
    /// Removals of late, as it knows its cluster to have kept them.
    kept: BTreeMap<TenantId, Timestamp>,
    seen: ClusterSeen,
    /// The intent that it looked with last.
    looked_with: Revision,
    /// Worked on, with what was wanted then.
    busy: BTreeMap<TenantId, TenantIntent>,
    /// What the placement service took in.
    said: BTreeMap<TenantId, Said>,
    sent: BTreeMap<TenantId, Said>,
    /// When everything is told anew.
    next_all: Micros,
    /// All that is here is to be told, to whoever is in this incarnation.
    complete: Option<Incarnation>,
    cpu: u64,
}

impl Agent {
    /// An agent that is not running.
    #[must_use]
    pub fn new(cluster: usize, chance: &mut Chance) -> Self {
        let limits = Limits {
            in_work: chance.between(1, 6) as usize,
            patience: Millis(chance.between(1_000, 4_000)),
            removals: chance.between(1, 5) as usize,
            removals_per_mille: 10,
            removal_window: Millis(chance.between(500, 3_000)),
        };
        Self {
            cluster,
            boot: 0,
            runs: false,
            paused_until: 0,
            intent: ClusterIntent::default(),
            memory: Memory::default(),
            limits,
            kept: BTreeMap::new(),
            seen: ClusterSeen::default(),
            looked_with: Revision::default(),
            busy: BTreeMap::new(),
            said: BTreeMap::new(),
            sent: BTreeMap::new(),
            next_all: 0,
            complete: None,
            cpu: fleet::SMALLS * 100,
        }
    }

    /// Starts: with nothing but what its cluster has kept.
    pub fn start(&mut self, cluster: &Cluster, now: Micros, planted: Option<Planted>) {
        let mut memory = Memory::default();
        if planted != Some(Planted::CountRemovalsAnew) {
            memory.removals_are(cluster.removals.clone(), Timestamp(now / 1000));
        }
        let fresh = Self {
            cluster: self.cluster,
            boot: self.boot + 1,
            runs: true,
            paused_until: 0,
            intent: ClusterIntent::default(),
            memory,
            limits: self.limits,
            kept: cluster.removals.clone(),
            seen: ClusterSeen { generation: cluster.generation, tenants: BTreeMap::new() },
            looked_with: Revision::default(),
            busy: BTreeMap::new(),
            said: BTreeMap::new(),
            sent: BTreeMap::new(),
            next_all: 0,
            complete: None,
            cpu: self.cpu,
        };
        *self = fresh;
    }

    /// Hears what is wanted: perhaps late, twice, or from a replica that lags.
    pub fn hear(&mut self, intent: ClusterIntent) {
        for wanted in &intent.tenants {
            if self.wanted(wanted.id) != Some(wanted) {
                self.memory.try_again(wanted.id);
            }
        }
        self.intent = intent;
    }

    fn wanted(&self, id: TenantId) -> Option<&TenantIntent> {
        self.intent.tenants.iter().find(|wanted| wanted.id == id)
    }

    /// Keeps the generation of what it heard, before anything of it is acted on; `false` if nothing may be acted on.
    pub fn keep_generation(&mut self, cluster: &mut Cluster, planted: Option<Planted>) -> bool {
        if planted == Some(Planted::ActOnOlderIntents) {
            self.seen.generation = self.intent.generation;
            cluster.generation = cluster.generation.max(self.intent.generation);
            return true;
        }
        if self.intent.generation > self.seen.generation {
            match cluster.keep_generation(self.intent.generation) {
                Ok(()) => self.seen.generation = self.intent.generation,
                Err(newer) => self.seen.generation = newer,
            }
        }
        self.intent.generation == self.seen.generation
    }

    /// Whether it has looked since it heard what is wanted: an intent may know more than an earlier look shows.
    #[must_use]
    pub fn has_looked(&self) -> bool {
        self.looked_with == self.intent.generation
    }

    /// Looks at everything.
    pub fn look(&mut self, cluster: &Cluster, now: Micros, planted: Option<Planted>) {
        let named = self.intent.tenants.iter().map(|wanted| (wanted.id, cluster.seen(wanted.id, Some(wanted), now)));
        let labelled = cluster.namespaces.keys().filter(|id| self.wanted(**id).is_none());
        let mut tenants: BTreeMap<TenantId, TenantSeen> = labelled.map(|id| (*id, cluster.seen(*id, None, now))).collect();
        tenants.extend(named);
        if planted == Some(Planted::MakeLostVolumes) {
            self.intent.tenants.iter_mut().flat_map(|wanted| &mut wanted.volumes).for_each(|volume| volume.uid = None);
        }
        if planted == Some(Planted::AgreeUnasked) {
            self.intent.tenants.iter_mut().for_each(|wanted| wanted.removal_agreed = true);
        }
        if planted == Some(Planted::DeleteOrphans) {
            let orphans = tenants.iter().filter(|(id, _)| self.wanted(**id).is_none());
            let gone: Vec<TenantIntent> = orphans.filter_map(|(id, seen)| unwanted(*id, &seen.home)).collect();
            self.intent.tenants.extend(gone);
        }
        self.seen.tenants = tenants;
        self.looked_with = self.intent.generation;
    }

    /// What comes next.
    fn round(&mut self, now: Micros) -> Round {
        reconcile(&self.intent, &self.seen, &self.limits, &mut self.memory, Timestamp(now / 1000))
    }

    /// Keeps new removals before they are begun; those that are not kept are not begun.
    fn keep_removals(&mut self, round: &mut Round, cluster: &mut Cluster, now: Micros) {
        let begun = self.memory.removals().clone();
        if begun.iter().all(|(id, at)| self.kept.get(id) == Some(at)) {
            return;
        }
        self.kept = cluster.keep_removals(&self.kept, &begun);
        for (id, step) in &mut round.steps {
            if begun.contains_key(id) && self.kept.get(id) != begun.get(id) {
                step.actions.retain(|action| *action != Action::Delete);
            }
        }
        self.memory.removals_are(self.kept.clone(), Timestamp(now / 1000));
    }

    /// Begins to work on tenants: what is wanted of each, and what is to be done in this order; and whom it decided to delete.
    pub fn work(&mut self, cluster: &mut Cluster, now: Micros) -> (Vec<(TenantIntent, Vec<Action>)>, Vec<TenantId>) {
        let mut round = self.round(now);
        self.keep_removals(&mut round, cluster, now);
        let mut work = Vec::new();
        let deletes = |(id, step): &(TenantId, Step)| step.actions.contains(&Action::Delete).then_some(*id);
        let deleted = round.steps.iter().filter_map(deletes).collect();
        for (id, step) in round.steps {
            if step.actions.is_empty() || self.busy.contains_key(&id) {
                continue;
            }
            if let Some(wanted) = self.wanted(id).cloned() {
                self.busy.insert(id, wanted.clone());
                work.push((wanted, step.actions));
            }
        }
        (work, deleted)
    }

    /// Whether what is worked on for a tenant is still what is wanted.
    #[must_use]
    pub fn goes_on(&self, wanted: &TenantIntent) -> bool {
        self.intent.generation == self.seen.generation && self.wanted(wanted.id) == Some(wanted)
    }

    /// Work on a tenant is over.
    pub fn done(&mut self, id: TenantId) {
        self.busy.remove(&id);
    }

    /// Whether it is working on any tenant.
    #[must_use]
    pub fn is_at_work(&self) -> bool {
        self.runs && !self.busy.is_empty()
    }

    /// Somebody acted on a newer intent here.
    pub fn outdated(&mut self, cluster: &Cluster) {
        self.seen.generation = self.seen.generation.max(cluster.generation);
    }

    /// What was told was taken in; all that is here is to be told if `complete` says so.
    pub fn taken(&mut self, complete: Option<Incarnation>) {
        self.said.append(&mut self.sent);
        self.complete = complete;
    }

    /// Another replica is asked from now on: what it knows is not known.
    pub fn forget_said(&mut self) {
        self.said.clear();
        self.sent.clear();
    }

    /// What there is to be told, after a look at everything; and whether that is all that is here. Nothing while what it heard is outdated.
    pub fn tell(
        &mut self,
        cluster: &Cluster,
        now: Micros,
        planted: Option<Planted>,
        chance: &mut Chance,
    ) -> Option<(Ask, Option<Incarnation>)> {
        if now >= self.next_all && planted != Some(Planted::TellOnlyNews) {
            self.next_all = now + TELL_ALL_EVERY_US;
            self.forget_said();
        }
        let before = (planted == Some(Planted::TellWhileWorking)).then(|| self.seen.tenants.clone());
        self.look(cluster, now, planted);
        for (id, seen) in before.into_iter().flatten().filter(|(id, _)| self.busy.contains_key(id)) {
            self.seen.tenants.insert(id, seen);
        }
        let complete = self.complete.filter(|incarnation| planted == Some(Planted::CompleteTooSoon) || self.knows(*incarnation, cluster));
        let round = reconcile(&self.intent, &self.seen, &self.limits, &mut self.memory.clone(), Timestamp(now / 1000));
        if round.stale {
            return None;
        }
        let mut all: BTreeMap<TenantId, Said> = BTreeMap::new();
        for (id, step) in &round.steps {
            let (Some(wanted), Some(seen)) = (self.wanted(*id), self.seen.tenants.get(id)) else { continue };
            let rests = planted == Some(Planted::TellWhileWorking) || !self.busy.contains_key(id);
            all.insert(*id, say(wanted, seen, &step.condition, rests));
        }
        let news: BTreeMap<_, _> = if complete.is_some() {
            let orphans = round.orphans.iter().filter_map(|id| Some((*id, found(*id, self.seen.tenants.get(id)?)?)));
            all.into_iter().chain(orphans).collect()
        } else {
            all.into_iter().filter(|(id, said)| self.said.get(id) != Some(said)).collect()
        };
        self.said.retain(|id, _| round.steps.iter().any(|(named, _)| named == id));
        let observed = news
            .values()
            .filter_map(|Said { seen, observed }| Some(ObservedTenant { id: seen.id, epoch: seen.epoch, observed: (*observed)? }));
        if chance.percent(10) {
            self.cpu = chance.between(fleet::SMALLS / 2, fleet::SMALLS * 2) * 100;
        }
        let report = Report {
            cluster: cluster.name.clone(),
            uid: cluster.uid.clone(),
            capacity: Some(Capacity { allocatable: fleet::allocatable(self.cpu), ..Capacity::default() }),
            tenants: observed.collect(),
            by_agent: true,
            complete,
        };
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let info = ClusterInfo { orphans: count(round.orphans.len()), held_back: count(round.held_back.len()), ..ClusterInfo::default() };
        let tenants = news.values().map(|said| said.seen.clone()).collect();
        self.sent = news;
        Some((Ask::Observe(Box::new(Observation { report, tenants, info: Some(info) })), complete))
    }

    /// What may still be added to its cluster, which is another now and then.
    pub fn tell_growth(&mut self, cluster: &Cluster, chance: &mut Chance) -> Ask {
        // Whatever was told before has not arrived.
        self.sent.clear();
        let total = fleet::allocatable(chance.below(fleet::SMALLS) * 100);
        let room = GrowthRoom { total, nodes: Vec::new() };
        Ask::NoteGrowth(Box::new(GrowthFound { cluster: cluster.name.clone(), uid: cluster.uid.clone(), room }))
    }

    /// Whether all that is here is known as of an incarnation: nothing of an earlier one can be begun any more.
    fn knows(&self, incarnation: Incarnation, cluster: &Cluster) -> bool {
        self.intent.generation.incarnation >= incarnation && cluster.generation == self.intent.generation
    }
}

/// What is told of a tenant that is named. One that is worked on is neither at rest nor gone, whatever was seen.
fn say(wanted: &TenantIntent, seen: &TenantSeen, condition: &Condition, rests: bool) -> Said {
    if let Home::Ours(epoch) = seen.home
        && epoch > wanted.epoch
        && let Some(found) = found(wanted.id, seen)
    {
        return found;
    }
    let observed = reconcile::observed(wanted, seen, condition).filter(|observed| rests || *observed == Observed::Running);
    let uid = |volume: &VolumeSeen| match volume {
        VolumeSeen::There { uid, .. } | VolumeSeen::Going { uid } => Some(*uid),
        VolumeSeen::Never | VolumeSeen::Lost => None,
    };
    let volumes: Vec<(Name, VolumeUid)> = seen.volumes.iter().filter_map(|(name, volume)| Some((name.clone(), uid(volume)?))).collect();
    let trouble = match condition {
        Condition::Running | Condition::Stopped | Condition::Absent | Condition::Progressing(_) | Condition::Late(_) => None,
        Condition::VolumeLost(name) => Some((TroubleKind::VolumeLost, name.to_string())),
        Condition::SecretLost(name) => Some((TroubleKind::SecretLost, name.to_string())),
        Condition::HeldBack => Some((TroubleKind::HeldBack, String::new())),
        Condition::Blocked(why) => Some((TroubleKind::Blocked, why.clone())),
    };
    Said { seen: SeenTenant { id: wanted.id, epoch: wanted.epoch, volumes, trouble }, observed }
}

/// What is told of something that is here, and that no intent names in this epoch.
fn found(id: TenantId, seen: &TenantSeen) -> Option<Said> {
    let Home::Ours(epoch) = seen.home else { return None };
    let observed = if seen.at_rest { Observed::Stopped } else { Observed::Running };
    Some(Said { seen: SeenTenant { id, epoch, volumes: Vec::new(), trouble: None }, observed: Some(observed) })
}

/// What an agent would make of something that no intent names, if that were to go.
fn unwanted(id: TenantId, home: &Home) -> Option<TenantIntent> {
    let Home::Ours(epoch) = *home else { return None };
    let name = Name::new("orphan").expect("a short name");
    Some(TenantIntent {
        id,
        epoch,
        shard: ShardId(0),
        role: Role::Absent,
        name: name.clone(),
        owner: Owner::new("nobody").expect("a short owner"),
        class: name,
        version: String::new(),
        values: String::new(),
        hostnames: Vec::new(),
        volumes: Vec::new(),
        requests: Requests::default(),
        removal_agreed: false,
    })
}
