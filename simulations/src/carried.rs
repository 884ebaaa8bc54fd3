//! What must hold of what clusters carry: each thing that is done in one is compared with what the log had decided by then.
//!
//! The log is followed apart from intents: what may be stopped or deleted is taken from the phases of tenants, not from roles.

use std::collections::{BTreeMap, BTreeSet};

use roadstead_core::apply::{Applied, Change, OBSERVES};
use roadstead_core::id::{Epoch, Incarnation, Name, Revision, TenantId, VolumeUid};
use roadstead_core::intent::{ClusterIntent, Role};
use roadstead_core::observed::TroubleKind;
use roadstead_core::reconcile::Limits;
use roadstead_core::state::State;
use roadstead_core::tenant::{Desired, Phase, Tenant};
use roadstead_core::time::Timestamp;

use crate::cluster::{Call, Cluster, Namespace, Pods};

/// What one incarnation has decided so far.
#[derive(Clone, Debug, Default)]
struct Decided {
    /// Tenants that were not to run any more, in an epoch.
    rest: BTreeSet<(TenantId, Epoch)>,
    /// Tenants of which nothing was to be left.
    go: BTreeSet<(TenantId, Epoch)>,
    /// Tenants that were gone for good, told so by their agents.
    gone: BTreeSet<TenantId>,
    /// Volumes that were known, and since when.
    volumes: BTreeMap<(TenantId, Name), (VolumeUid, Revision)>,
    /// Tenants to whose removal an operator has agreed, in an epoch.
    agreed: BTreeSet<(TenantId, Epoch)>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Carried {
    decided: BTreeMap<Incarnation, Decided>,
    /// Clusters whose agents have told all that is there, by incarnation.
    told: BTreeSet<(Incarnation, Name)>,
    /// Volumes that were made and not deleted by an intent.
    volumes: BTreeMap<(usize, TenantId, Name), VolumeUid>,
    /// Namespaces that were made and not deleted by an intent.
    there: BTreeSet<(usize, TenantId)>,
    /// Tenants of which somebody deleted something by hand.
    harmed: BTreeSet<TenantId>,
    /// What was begun to be removed unasked in each cluster, by whichever start of whichever agent, and when.
    unasked: BTreeMap<usize, BTreeMap<TenantId, Timestamp>>,
}

impl Carried {
    /// A new incarnation begins with this.
    pub fn begins(&mut self, state: &State) {
        let incarnation = state.incarnation();
        if self.decided.contains_key(&incarnation) {
            return;
        }
        self.decided.insert(incarnation, Decided::default());
        for tenant in state.clusters().flat_map(|cluster| state.tenants_of_cluster(cluster.id)) {
            self.is(state.revision(), &tenant, state.facts_of(tenant.id).map_or(&[], |facts| &facts.volumes));
        }
    }

    /// An agent of a cluster has decided to delete tenants; how many of them an operator has agreed to.
    ///
    /// # Errors
    /// More than may go within the time, and no operator has agreed to them.
    pub fn removes(
        &mut self,
        cluster: usize,
        intent: &ClusterIntent,
        deleted: &[TenantId],
        limits: &Limits,
        now: Timestamp,
    ) -> Result<u64, String> {
        let agreed = self.decided.get(&intent.generation.incarnation).map(|decided| &decided.agreed);
        let unasked = self.unasked.entry(cluster).or_default();
        unasked.retain(|_, begun| now.since(*begun) < limits.removal_window);
        let mut asked = 0;
        for wanted in intent.tenants.iter().filter(|wanted| deleted.contains(&wanted.id)) {
            if agreed.is_some_and(|agreed| agreed.contains(&(wanted.id, wanted.epoch))) {
                asked += 1;
            } else {
                unasked.entry(wanted.id).or_insert(now);
            }
        }
        // The clusters here have far fewer tenants than those of which the share counts.
        if unasked.len() > limits.removals {
            return Err(format!(
                "{unasked:?} are removed in cluster {cluster} within {} ms, and no operator has agreed",
                limits.removal_window.0
            ));
        }
        Ok(asked)
    }

    /// An entry was applied for the first time anywhere; `state` has it, and perhaps more.
    ///
    /// # Errors
    /// What was taken for known and is not.
    pub fn applied(&mut self, state: &State, applied: &Applied) -> Result<(), String> {
        let agreed = state.clusters().flat_map(|cluster| state.agreed(cluster.id)).map(|(tenant, agreement)| (tenant.id, agreement.epoch));
        self.decided.entry(state.incarnation()).or_default().agreed.extend(agreed);
        for change in &applied.changes {
            match change {
                Change::Tenant { after: Some(after), facts, .. } => {
                    self.is(applied.revision, after, facts.as_ref().map_or(&[], |facts| &facts.volumes));
                }
                Change::Tenant { before: Some(before), after: None, .. } => {
                    if let Phase::Releasing { .. } | Phase::Purging { .. } = before.phase {
                        self.decided.entry(applied.revision.incarnation).or_default().gone.insert(before.id);
                    }
                }
                Change::Cluster { before: Some(before), after: Some(after) } if before.fenced && !after.fenced => {
                    let (at, name) = (applied.revision, &after.spec.name);
                    if !self.told.contains(&(at.incarnation, name.clone())) {
                        return Err(format!(
                            "entry {} ends the wait for cluster {name}, which has not told what is there since the restore",
                            at.index
                        ));
                    }
                }
                Change::Tenant { before: None, after: None, .. }
                | Change::Cluster { .. }
                | Change::Pool { .. }
                | Change::Class { .. }
                | Change::Policy { .. } => {}
            }
        }
        Ok(())
    }

    fn is(&mut self, at: Revision, tenant: &Tenant, volumes: &[(Name, VolumeUid)]) {
        let decided = self.decided.entry(at.incarnation).or_default();
        for (name, uid) in volumes {
            decided.volumes.entry((tenant.id, name.clone())).or_insert((*uid, at));
        }
        let Some(binding) = tenant.phase.binding() else { return };
        let (rest, go) = match tenant.phase {
            Phase::Pending { .. } => (false, false),
            Phase::Bound { .. } => (tenant.spec.desired != Desired::Running, false),
            Phase::Releasing { purge, .. } => (true, purge),
            Phase::Retained { .. } => (true, false),
            Phase::Purging { .. } => (true, true),
        };
        if rest {
            decided.rest.insert((tenant.id, binding.epoch));
        }
        if go {
            decided.go.insert((tenant.id, binding.epoch));
        }
    }

    /// A cluster's agent tells all that is there, as of an incarnation. That is only true once nothing of an earlier one can begin there.
    pub fn told(&mut self, incarnation: Incarnation, cluster: &Cluster) {
        if cluster.generation.incarnation >= incarnation {
            self.told.insert((incarnation, cluster.name.clone()));
        }
    }

    /// Somebody deleted something of a tenant by hand, or all of it.
    pub fn harmed(&mut self, number: usize, tenant: TenantId, all: bool) {
        self.harmed.insert(tenant);
        if all {
            self.there.remove(&(number, tenant));
        }
    }

    /// A tenant of which there is nothing in a cluster any more, although no intent has deleted what was made.
    fn vanished(&self, number: usize, cluster: &Cluster) -> Option<TenantId> {
        let mut made = self.there.range((number, TenantId(0))..=(number, TenantId(u64::MAX)));
        made.find(|(_, id)| !cluster.namespaces.contains_key(id)).map(|(_, id)| *id)
    }

    /// Something was done in a cluster.
    ///
    /// # Errors
    /// What must not be.
    pub fn acted(&mut self, number: usize, before: Option<&Namespace>, call: &Call, clusters: &[Cluster]) -> Result<(), String> {
        let (id, cluster) = (call.wanted.id, &clusters[number]);
        let wrong = |what: &str| {
            Err(format!(
                "tenant {id} in cluster {}: {what} ({:?} of {} in epoch {})",
                cluster.name, call.action, call.generation, call.wanted.epoch
            ))
        };
        let after = cluster.namespaces.get(&id);
        if let Some(id) = self.vanished(number, cluster) {
            return Err(format!("nothing of tenant {id} is left in cluster {}, and nobody wanted that", cluster.name));
        }
        let pods = |namespace: Option<&Namespace>| namespace.map_or(Pods::None, |namespace| namespace.pods);
        if before == after {
            return Ok(());
        }
        if call.generation < cluster.generation {
            return wrong("something is done for an intent that is older than one that was acted on");
        }
        if before.zip(after).is_some_and(|(before, after)| after.epoch < before.epoch) {
            return wrong("an older epoch claims it");
        }
        let elsewhere = |other: &Cluster| other.name != cluster.name && pods(other.namespaces.get(&id)) != Pods::None;
        if pods(after) != Pods::None
            && let Some(other) = clusters.iter().find(|other| elsewhere(other))
        {
            return wrong(&format!("it runs here, and in cluster {}", other.name));
        }
        let nothing = Decided::default();
        let (generation, key) = (call.generation, (id, call.wanted.epoch));
        let decided = self.decided.get(&generation.incarnation).unwrap_or(&nothing);
        let harmed = before.is_some_and(|before| before.volumes.values().any(|volume| !volume.there)) || self.harmed.contains(&id);
        if pods(before) == Pods::Run && pods(after) != Pods::Run && !harmed && !decided.rest.contains(&key) {
            return wrong("it is stopped, and nobody wanted that");
        }
        if before.is_some_and(|before| before.ends.is_none()) && after.is_none_or(|after| after.ends.is_some()) {
            if call.wanted.role != Role::Absent || !decided.go.contains(&key) {
                return wrong("it is deleted, and nobody wanted that in this epoch");
            }
            if pods(before) != Pods::None {
                return wrong("it is deleted while it can still write");
            }
            if let Some(other) = self.untold(generation.incarnation, clusters) {
                return wrong(&format!("it is deleted after a restore, before cluster {other} has told what is there"));
            }
            self.volumes.retain(|(cluster, tenant, _), _| (*cluster, *tenant) != (number, id));
            self.there.remove(&(number, id));
        } else if after.is_some_and(|after| after.ends.is_none()) {
            self.there.insert((number, id));
        }
        for (name, volume) in after.iter().flat_map(|after| &after.volumes) {
            let known = decided.volumes.get(&(id, name.clone()));
            if before.is_some_and(|before| before.volumes.contains_key(name)) {
                continue;
            }
            if known.is_some_and(|(_, since)| *since <= generation) {
                return wrong(&format!("volume {name} is made although it was made before, and known"));
            }
            if self.volumes.insert((number, id, name.clone()), volume.uid).is_some() && !self.harmed.contains(&id) {
                return wrong(&format!("volume {name} is made twice"));
            }
        }
        Ok(())
    }

    /// A cluster that has not told all that is there since the restore that began an incarnation.
    fn untold<'a>(&self, incarnation: Incarnation, clusters: &'a [Cluster]) -> Option<&'a Name> {
        if incarnation == Incarnation::default() {
            return None;
        }
        clusters.iter().map(|cluster| &cluster.name).find(|name| !self.told.contains(&(incarnation, (*name).clone())))
    }

    /// What is not as the last word of the log says, once nothing is in the way any more.
    #[must_use]
    pub fn unsettled(&self, state: &State, clusters: &[Cluster]) -> Option<String> {
        for cluster in clusters {
            let Some(bound) = state.cluster(cluster.name.as_str()) else { continue };
            if bound.silent {
                return Some(format!("cluster {} is heard of, and still marked as silent", cluster.name));
            }
            for tenant in state.tenants_of_cluster(bound.id) {
                let namespace = cluster.namespaces.get(&tenant.id);
                if let Some(what) = tenant_unsettled(state, &tenant, namespace) {
                    let (id, name, phase) = (tenant.id, &tenant.spec.name, tenant.phase);
                    return Some(format!("tenant {id} ({name}) in cluster {}: {what}: {phase:?}, {namespace:?}", cluster.name));
                }
            }
        }
        let decided = self.decided.get(&state.incarnation())?;
        let left = |cluster: &Cluster| cluster.namespaces.keys().find(|id| decided.gone.contains(id)).map(|id| (cluster.name.clone(), *id));
        clusters.iter().find_map(left).map(|(cluster, id)| format!("tenant {id} is gone, and something of it is left in cluster {cluster}"))
    }
}

/// How many namespaces there are that no intent names, and in how many of those something runs.
#[must_use]
pub fn orphans(state: &State, clusters: &[Cluster]) -> (u64, u64) {
    let (mut all, mut running) = (0, 0);
    for cluster in clusters {
        let bound = state.cluster(cluster.name.as_str()).map(|bound| bound.id);
        let named: BTreeSet<TenantId> = bound.into_iter().flat_map(|id| state.tenants_of_cluster(id)).map(|tenant| tenant.id).collect();
        for (_, namespace) in cluster.namespaces.iter().filter(|(id, namespace)| namespace.ends.is_none() && !named.contains(id)) {
            all += 1;
            running += u64::from(namespace.pods == Pods::Run);
        }
    }
    (all, running)
}

fn tenant_unsettled(state: &State, tenant: &Tenant, namespace: Option<&Namespace>) -> Option<String> {
    let trouble = state.facts_of(tenant.id).and_then(|facts| facts.trouble.as_ref()).map(|trouble| trouble.kind);
    let later = namespace.zip(tenant.phase.binding()).is_some_and(|(namespace, binding)| namespace.epoch > binding.epoch);
    if later && state.level() < OBSERVES {
        // A restore has undone its epoch, and not every replica understands yet how it is taken back.
        return None;
    }
    let pods = namespace.map_or(Pods::None, |namespace| namespace.pods);
    let is_lost = namespace.is_some_and(|namespace| namespace.volumes.values().any(|volume| !volume.there));
    let lost = trouble == Some(TroubleKind::VolumeLost);
    if is_lost && !lost && state.level() >= OBSERVES && matches!(tenant.phase, Phase::Bound { .. }) {
        return Some("a volume is lost, and that is not known".to_owned());
    }
    let lost = lost || is_lost;
    match (tenant.phase, tenant.spec.desired) {
        (Phase::Bound { running, .. }, Desired::Running) if !lost => {
            if pods != Pods::Run {
                return Some("it is to run, and does not".to_owned());
            }
            (!running).then(|| "it runs, and that is not known".to_owned())
        }
        (Phase::Bound { running, .. }, _) => {
            if pods != Pods::None {
                return Some("it is to rest, and does not".to_owned());
            }
            running.then(|| "it rests, and that is not known".to_owned())
        }
        (Phase::Retained { .. }, _) => (pods != Pods::None).then(|| "it is deleted, and runs".to_owned()),
        (Phase::Releasing { .. } | Phase::Purging { .. }, _) => Some("it does not go".to_owned()),
        (Phase::Pending { .. }, _) => None,
    }
}
