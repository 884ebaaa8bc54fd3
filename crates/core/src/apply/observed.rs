//! What agents tell beyond phases: tenants' volumes and troubles, what a cluster is made of, and its details. About another epoch it is
//! ignored.

use super::{Applier, Change, Fate, check_uid, invalid, not_found};
use crate::cluster::{Cluster, GrowthRoom, MAX_NODE_SIZES};
use crate::command::{Done, Kind, Rejection};
use crate::id::ClusterId;
use crate::observed::{
    ClusterDetails, KnownDetails, MAX_DETAIL_BYTES, MAX_DETAILS, MAX_VERSION_BYTES, MAX_VOLUMES, MAX_WHY_BYTES, SeenTenant, TenantFacts,
    Trouble,
};
use crate::request::{ClusterFound, GrowthFound, Observation};
use crate::state::State;

impl Applier<'_> {
    pub(super) fn observe_all(&mut self, observation: &Observation) -> Fate {
        check_observation(observation)?;
        let done = self.report(&observation.report)?;
        let name = observation.report.cluster.as_str();
        let cluster = self.state.cluster(name).ok_or_else(|| not_found(Kind::Cluster, name))?.clone();
        for seen in &observation.tenants {
            let Some(facts) = facts_after(self.state, cluster.id, seen) else { continue };
            self.state.put_facts(cluster.id, seen.id, facts);
            let tenant = self.state.tenant_by_id(seen.id).map(std::sync::Arc::new);
            let facts = self.state.observed.tenant(seen.id).cloned();
            self.changes.push(Change::Tenant { before: tenant.clone(), after: tenant, facts });
        }
        if let Some(info) = &observation.info
            && self.state.info_of(cluster.id) != Some(info)
        {
            self.state.observed.put_cluster(cluster.id, info.clone());
            self.changes.push(Change::Cluster { before: Some(cluster.clone()), after: Some(cluster) });
        }
        Ok(if self.changes.is_empty() { done } else { self.done() })
    }

    pub(super) fn note_cluster(&mut self, found: &ClusterFound) -> Fate {
        check_details(&found.details)?;
        let name = found.cluster.as_str();
        let cluster = self.state.cluster(name).ok_or_else(|| not_found(Kind::Cluster, name))?.clone();
        check_uid(&cluster, &found.uid)?;
        let known = self.state.details_of(cluster.id);
        if known.is_some_and(|known| known.details == found.details) {
            return Ok(Done::Changed { revision: cluster.changed });
        }
        let same = known.filter(|known| known.details.policies == found.details.policies);
        let policies_since = same.map_or(self.time(), |known| known.policies_since);
        let known = KnownDetails { details: found.details.clone(), policies_since };
        self.state.observed.put_details(cluster.id, known);
        self.changes.push(Change::Cluster { before: Some(cluster.clone()), after: Some(cluster) });
        Ok(self.done())
    }

    pub(super) fn note_growth(&mut self, found: &GrowthFound) -> Fate {
        check_growth(&found.room)?;
        let name = found.cluster.as_str();
        let cluster = self.state.cluster(name).ok_or_else(|| not_found(Kind::Cluster, name))?.clone();
        check_uid(&cluster, &found.uid)?;
        if cluster.growth == found.room {
            return Ok(Done::Changed { revision: cluster.changed });
        }
        self.keep_cluster(Cluster { growth: found.room.clone(), ..Cluster::clone(&cluster) });
        Ok(self.done())
    }
}

/// What is kept about a tenant after this was told; `None` if that is what is kept already, or if it is about another epoch or place.
pub(crate) fn facts_after(state: &State, cluster: ClusterId, seen: &SeenTenant) -> Option<TenantFacts> {
    let binding = state.tenant_by_id(seen.id)?.phase.binding()?;
    if binding.cluster != cluster || binding.epoch != seen.epoch {
        return None;
    }
    let before = state.facts_of(seen.id).cloned().unwrap_or_default();
    let mut after = before.clone();
    for (name, uid) in &seen.volumes {
        // Set once: a volume with another identity is another volume, which its agent reports as lost.
        if after.volume(name).is_none() && after.volumes.len() < MAX_VOLUMES {
            after.volumes.push((name.clone(), *uid));
        }
    }
    after.trouble = seen.trouble.as_ref().map(|(kind, why)| {
        let since = before.trouble.as_ref().filter(|known| known.kind == *kind).map_or(state.time(), |known| known.since);
        Trouble { kind: *kind, why: why.clone(), since }
    });
    (after != before).then_some(after)
}

/// Whether an observation keeps its bounds.
pub(crate) fn check_observation(observation: &Observation) -> Result<(), Rejection> {
    let long = |text: &str, most| text.len() > most;
    for (index, seen) in observation.tenants.iter().enumerate() {
        if seen.volumes.len() > MAX_VOLUMES {
            return Err(invalid(&format!("tenants[{index}].volumes"), format!("names {}, at most {MAX_VOLUMES}", seen.volumes.len())));
        }
        if seen.trouble.as_ref().is_some_and(|(_, why)| long(why, MAX_WHY_BYTES)) {
            return Err(invalid(&format!("tenants[{index}].trouble.why"), format!("is longer than {MAX_WHY_BYTES} bytes")));
        }
    }
    let versions = observation.info.iter().flat_map(|info| [("info.version", &info.version), ("info.agent", &info.agent)]);
    match versions.into_iter().find(|(_, text)| long(text, MAX_VERSION_BYTES)) {
        Some((field, _)) => Err(invalid(field, format!("is longer than {MAX_VERSION_BYTES} bytes"))),
        None => Ok(()),
    }
}

/// Whether what may be added keeps its bounds.
pub(crate) fn check_growth(room: &GrowthRoom) -> Result<(), Rejection> {
    match room.nodes.len() {
        0..=MAX_NODE_SIZES => Ok(()),
        many => Err(invalid("growth.nodes", format!("lists {many} sizes, at most {MAX_NODE_SIZES}"))),
    }
}

/// Whether details keep their bounds.
pub(crate) fn check_details(details: &ClusterDetails) -> Result<(), Rejection> {
    let ClusterDetails { policies, growth, open_nodes: _, zones, taints, pressure: _ } = details;
    if policies.why.len() > MAX_WHY_BYTES {
        return Err(invalid("details.network_policies.why", format!("is longer than {MAX_WHY_BYTES} bytes")));
    }
    let groups = growth.groups.iter().map(|group| &group.name);
    let lists: [(&str, Vec<&String>); 3] = [
        ("details.growth.groups", groups.collect()),
        ("details.zones", zones.iter().map(|(name, _)| name).collect()),
        ("details.taints", taints.iter().map(|(name, _)| name).collect()),
    ];
    for (field, names) in lists {
        if names.len() > MAX_DETAILS {
            return Err(invalid(field, format!("names {}, at most {MAX_DETAILS}", names.len())));
        }
        if names.iter().any(|name| name.len() > MAX_DETAIL_BYTES) {
            return Err(invalid(field, format!("has a name that is longer than {MAX_DETAIL_BYTES} bytes")));
        }
    }
    Ok(())
}
