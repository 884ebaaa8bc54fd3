//! Clusters that other managers tell of and that have not joined.

use std::collections::BTreeMap;

use roadstead_api::v1;
use serde::Serialize;

use super::profile::{ClusterProfile, GROUP_LABEL, REGION};
use crate::output::dash_or;
use crate::output::table::Cells;

/// Headings of their table.
pub const HEADINGS: [&str; 5] = ["NAME", "MANAGER", "NAMESPACE", "VERSION", "HEALTHY"];
/// What a wide table has besides.
pub const MORE_HEADINGS: [&str; 2] = ["REGION", "DISPLAY NAME"];

/// One of them, as its profile tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// The profile's name.
    pub name: String,
    /// The profile's namespace.
    pub namespace: String,
    /// Who looks after it.
    pub manager: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub display_name: String,
    /// Version of Kubernetes; empty if it is not told.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// `True`, `False` or `Unknown`.
    pub control_plane_healthy: String,
    /// Whatever else its manager tells.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

impl Candidate {
    /// Cells of their table.
    #[must_use]
    pub fn cells(&self, wide: bool) -> Cells {
        let region = self.properties.get(REGION).map_or("", String::as_str);
        let narrow = [&self.name, dash_or(&self.manager), &self.namespace, dash_or(&self.version), &self.control_plane_healthy];
        let more = [dash_or(region), dash_or(&self.display_name)];
        narrow.into_iter().chain(more.into_iter().filter(|_| wide)).map(str::to_owned).collect()
    }
}

/// Profiles of other managers whose clusters have not joined, in the order of the profiles. A cluster has joined if one of ours has the
/// profile's name, or a UID that is among its properties: managers call that property differently.
#[must_use]
pub fn candidates(profiles: &[ClusterProfile], clusters: &[v1::Cluster]) -> Vec<Candidate> {
    let joined = |profile: &ClusterProfile| {
        let names = [profile.metadata.name.as_deref().unwrap_or_default(), &profile.spec.display_name];
        clusters.iter().any(|cluster| {
            let uid = cluster.spec.as_ref().map_or("", |spec| spec.uid.as_str());
            let properties = profile.status.iter().flat_map(|status| &status.properties);
            names.contains(&cluster.name.as_str()) || (!uid.is_empty() && properties.into_iter().any(|property| property.value == uid))
        })
    };
    // What any placement service exported is in its fleet already.
    let foreign = profiles.iter().filter(|profile| profile.label(GROUP_LABEL).is_empty());
    foreign.filter(|profile| !joined(profile)).map(candidate).collect()
}

fn candidate(profile: &ClusterProfile) -> Candidate {
    let status = profile.status.clone().unwrap_or_default();
    Candidate {
        name: profile.metadata.name.clone().unwrap_or_default(),
        namespace: profile.metadata.namespace.clone().unwrap_or_default(),
        manager: profile.spec.cluster_manager.name.clone(),
        display_name: profile.spec.display_name.clone(),
        version: status.version.kubernetes,
        control_plane_healthy: profile.healthy().to_owned(),
        properties: status.properties.into_iter().map(|property| (property.name, property.value)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::profile::Property;
    use super::super::profile::tests::{cluster, written};
    use super::*;

    fn foreign(name: &str, uid: &str) -> ClusterProfile {
        let mut profile = written(name);
        profile.metadata.labels = None;
        profile.spec.cluster_manager.name = "fleet".into();
        profile.spec.display_name = String::new();
        let status = profile.status.get_or_insert_default();
        status.properties = vec![Property { name: "id.example.com".into(), value: uid.into() }];
        profile
    }

    #[test]
    fn candidates_are_others_clusters_that_have_not_joined() {
        let profiles = [
            written("eu-1"),
            // Of another placement service.
            written("eu-2"),
            foreign("eu-3", "uid-of-eu-3"),
            // Has joined, under another name or by its name.
            foreign("production", "uid-of-eu-1"),
            foreign("eu-1", "another"),
        ];
        let found = candidates(&profiles, &[cluster("eu-1")]);
        assert_eq!(found.iter().map(|candidate| candidate.name.as_str()).collect::<Vec<_>>(), ["eu-3"]);
        assert_eq!(found[0].cells(false), ["eu-3", "fleet", "clusters", "v1.34.4", "True"]);
        assert_eq!(found[0].cells(true).len(), HEADINGS.len() + MORE_HEADINGS.len());
    }
}
