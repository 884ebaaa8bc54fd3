//! A model cluster: namespaces, volumes with an identity, pods that take their time. It is an interpreter of [`Action`] and decides nothing.
//!
//! Every call names the generation that it was decided on; one that is older than what was kept here is refused, whoever sent it and however
//! long it was on its way.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use roadstead_core::id::{Epoch, Name, Revision, TenantId, VolumeUid};
use roadstead_core::intent::TenantIntent;
use roadstead_core::reconcile::{Action, Home, Part, PartSeen, TenantSeen, VolumeSeen};
use roadstead_core::time::Timestamp;

use crate::chance::Chance;
use crate::fleet;
use crate::net::Micros;

/// Whether a tenant's pods are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pods {
    /// None.
    None,
    /// They run, or start.
    Run,
    /// They terminate until then, and still write.
    End(Micros),
}

/// One volume that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Which one it is.
    pub uid: VolumeUid,
    /// How large.
    pub bytes: u64,
    /// Whether it is still there: somebody may have deleted it by hand.
    pub there: bool,
}

/// A part that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Made {
    rendered: u64,
    ready: Micros,
}

/// One tenant's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// In which it was last acted on.
    pub epoch: Epoch,
    /// All that were ever made in it.
    pub volumes: BTreeMap<Name, Volume>,
    /// Its pods.
    pub pods: Pods,
    /// When it is gone, if it was deleted.
    pub ends: Option<Micros>,
    parts: BTreeMap<Part, Made>,
}

/// One thing to be done, on its way to the cluster.
#[derive(Clone, Debug)]
pub struct Call {
    /// The intent that it was decided on.
    pub generation: Revision,
    /// What is wanted of its tenant there.
    pub wanted: TenantIntent,
    /// What is to be done.
    pub action: Action,
}

/// Why something was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// A newer generation was kept here: nothing of an older one is done any more.
    Stale,
    /// It may work later.
    Later,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name.
    pub name: Name,
    /// What it calls itself.
    pub uid: String,
    /// The newest generation that anybody acted on here.
    pub generation: Revision,
    /// Removals that were begun here of late, and when.
    pub removals: BTreeMap<TenantId, Timestamp>,
    /// By tenant.
    pub namespaces: BTreeMap<TenantId, Namespace>,
    /// Nobody in here reaches the placement service before then.
    pub silent_until: Micros,
    number: usize,
    volumes: u64,
    chance: Chance,
}

impl Cluster {
    /// A cluster in which nothing is.
    #[must_use]
    pub fn new(number: usize, chance: Chance) -> Self {
        Self {
            name: fleet::cluster_name(number),
            uid: fleet::uid(number),
            generation: Revision::default(),
            removals: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            silent_until: 0,
            number,
            volumes: 0,
            chance,
        }
    }

    /// Time passes: pods end, namespaces go.
    pub fn advance(&mut self, now: Micros) {
        self.namespaces.retain(|_, namespace| namespace.ends.is_none_or(|at| at > now));
        for namespace in self.namespaces.values_mut() {
            if matches!(namespace.pods, Pods::End(at) if at <= now) {
                namespace.pods = Pods::None;
            }
        }
    }

    /// Keeps a generation before anything of it is acted on.
    ///
    /// # Errors
    /// The newer one that was kept here.
    pub fn keep_generation(&mut self, generation: Revision) -> Result<(), Revision> {
        if generation < self.generation {
            return Err(self.generation);
        }
        self.generation = generation;
        Ok(())
    }

    /// Keeps removals before they are begun, by somebody who knows of these. What is kept now: others, where somebody else has begun some since.
    pub fn keep_removals(
        &mut self,
        known: &BTreeMap<TenantId, Timestamp>,
        removals: &BTreeMap<TenantId, Timestamp>,
    ) -> BTreeMap<TenantId, Timestamp> {
        if self.removals == *known {
            self.removals.clone_from(removals);
        }
        self.removals.clone()
    }

    /// What is there of a tenant, compared with what there is to be, if anything is wanted of it.
    #[must_use]
    pub fn seen(&self, id: TenantId, wanted: Option<&TenantIntent>, now: Micros) -> TenantSeen {
        let Some(namespace) = self.namespaces.get(&id) else { return TenantSeen { at_rest: true, ..TenantSeen::default() } };
        if namespace.ends.is_some() {
            return TenantSeen { home: Home::Terminating(None), ..TenantSeen::default() };
        }
        let part = |wanted: &TenantIntent, part: Part| match namespace.parts.get(&part) {
            None => PartSeen::Missing,
            Some(made) if made.rendered != rendered(wanted, part) => PartSeen::Differs,
            Some(made) if made.ready > now => PartSeen::Waits("a pod starts".to_owned()),
            Some(_) => PartSeen::Ready,
        };
        let volume = |volume: &Volume| {
            if volume.there { VolumeSeen::There { bytes: volume.bytes, uid: volume.uid } } else { VolumeSeen::Lost }
        };
        TenantSeen {
            home: Home::Ours(namespace.epoch),
            parts: wanted.map(|wanted| Part::ALL.into_iter().map(|which| (which, part(wanted, which))).collect()).unwrap_or_default(),
            volumes: namespace.volumes.iter().map(|(name, is)| (name.clone(), volume(is))).collect(),
            at_rest: namespace.pods == Pods::None,
            ..TenantSeen::default()
        }
    }

    /// Carries a call out. Done again it does no harm.
    ///
    /// # Errors
    /// Why not.
    pub fn act(&mut self, call: &Call, now: Micros, checks_generation: bool) -> Result<(), Failed> {
        self.advance(now);
        if checks_generation && call.generation < self.generation {
            return Err(Failed::Stale);
        }
        let (wanted, number) = (&call.wanted, self.number);
        if call.action == Action::Claim {
            let namespace = self.namespaces.entry(wanted.id).or_insert_with(|| Namespace::new(wanted.epoch));
            return namespace.may(wanted).map(|()| namespace.epoch = wanted.epoch);
        }
        let namespace = self.namespaces.get_mut(&wanted.id).ok_or(Failed::Later)?;
        namespace.may(wanted)?;
        let takes = |chance: &mut Chance, longest: Micros| now + chance.between(1_000, longest);
        match &call.action {
            Action::Claim => {}
            Action::Put(part) => {
                let slow = if *part == Part::Workloads { 900_000 } else { 20_000 };
                let made = Made { rendered: rendered(wanted, *part), ready: takes(&mut self.chance, slow) };
                if *part == Part::Workloads {
                    namespace.pods = Pods::Run;
                }
                if namespace.parts.get(part).is_none_or(|before| before.rendered != made.rendered) {
                    namespace.parts.insert(*part, made);
                }
            }
            Action::MakeVolume(name) => {
                let bytes = size(wanted, name);
                let (count, uid) = (self.volumes + 1, VolumeUid((number as u128 + 1) << 64 | u128::from(self.volumes + 1)));
                namespace.volumes.entry(name.clone()).or_insert_with(|| {
                    self.volumes = count;
                    Volume { uid, bytes, there: true }
                });
            }
            Action::GrowVolume(name) => {
                let volume = namespace.volumes.get_mut(name).ok_or(Failed::Later)?;
                volume.bytes = volume.bytes.max(size(wanted, name));
            }
            Action::Unroute => drop(namespace.parts.remove(&Part::Routes)),
            Action::Stop => {
                namespace.parts.remove(&Part::Workloads);
                if namespace.pods == Pods::Run {
                    namespace.pods = Pods::End(takes(&mut self.chance, 700_000));
                }
            }
            Action::Delete => {
                // Looked at once more: what was decided on may have been seen a while ago.
                if namespace.pods != Pods::None {
                    return Err(Failed::Later);
                }
                namespace.ends = Some(takes(&mut self.chance, 1_500_000));
            }
        }
        Ok(())
    }

    /// Somebody deletes a volume by hand, or all of a tenant.
    pub fn lose_something(&mut self, chance: &mut Chance, all: bool) -> Option<TenantId> {
        let ids: Vec<TenantId> = self.namespaces.iter().filter(|(_, namespace)| namespace.ends.is_none()).map(|(id, _)| *id).collect();
        let id = *chance.pick(&ids)?;
        if all {
            self.namespaces.remove(&id);
        } else {
            self.namespaces.get_mut(&id)?.volumes.values_mut().next()?.there = false;
        }
        Some(id)
    }
}

impl Namespace {
    fn new(epoch: Epoch) -> Self {
        Self { epoch, volumes: BTreeMap::new(), pods: Pods::None, ends: None, parts: BTreeMap::new() }
    }

    /// Whether anything may be done in it under this intent.
    fn may(&self, wanted: &TenantIntent) -> Result<(), Failed> {
        if self.epoch <= wanted.epoch && self.ends.is_none() { Ok(()) } else { Err(Failed::Later) }
    }
}

fn size(wanted: &TenantIntent, name: &Name) -> u64 {
    wanted.volumes.iter().find(|volume| volume.name == *name).map_or(0, |volume| volume.size.0)
}

/// Of what a part is rendered to.
fn rendered(wanted: &TenantIntent, part: Part) -> u64 {
    let mut hasher = DefaultHasher::new();
    match part {
        Part::Bounds => (wanted.shard, wanted.requests.total.to_array()).hash(&mut hasher),
        Part::Secrets => wanted.class.hash(&mut hasher),
        Part::Workloads => (&wanted.class, &wanted.version, &wanted.values).hash(&mut hasher),
        Part::Routes => wanted.hostnames.hash(&mut hasher),
    }
    hasher.finish()
}
