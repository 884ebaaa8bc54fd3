//! ClusterProfiles: their form as far as we read it, and what one says of a cluster of ours.

use kube::CustomResource;
use roadstead_api::v1;
use serde::{Deserialize, Serialize};

use super::Owner;

/// The label that names who manages a cluster; the same as in the spec.
pub const MANAGER_LABEL: &str = "x-k8s.io/cluster-manager";
/// The label with the placement service's group: two services in one namespace leave each other's profiles alone.
pub const GROUP_LABEL: &str = "roadstead.dev/group";
/// The condition that says whether a cluster's API server can be relied on.
pub const HEALTHY: &str = "ControlPlaneHealthy";
/// The property with the UID of `kube-system`, as the standard for identities names it.
pub const UID: &str = "cluster.clusterset.k8s.io";
/// The property with the region.
pub const REGION: &str = "topology.kubernetes.io/region";

/// What a profile is for.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "multicluster.x-k8s.io",
    version = "v1alpha1",
    kind = "ClusterProfile",
    namespaced,
    status = "ClusterProfileStatus",
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterProfileSpec {
    /// For people.
    #[serde(default)]
    pub display_name: String,
    /// Who owns it; never changes.
    #[serde(default)]
    pub cluster_manager: ClusterManager,
}

/// Who looks after a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterManager {
    /// Name; other ones of the same kind have another.
    #[serde(default)]
    pub name: String,
}

/// How a cluster is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterProfileStatus {
    /// Ours is [`HEALTHY`]; others may add theirs.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Versions.
    #[serde(default)]
    pub version: Version,
    /// What it is like.
    #[serde(default)]
    pub properties: Vec<Property>,
}

/// One thing that is so, is not so, or is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default)]
    pub status: String,
    /// One word.
    #[serde(default)]
    pub reason: String,
    /// A sentence.
    #[serde(default)]
    pub message: String,
    /// When its status became what it is (RFC 3339).
    #[serde(default)]
    pub last_transition_time: String,
    /// The generation of the spec that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Versions of what a cluster runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Of Kubernetes, as in `v1.34.4`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kubernetes: String,
}

/// A name and a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Property {
    /// At most 253 characters.
    pub name: String,
    /// At most 128 characters in the oldest form of the standard, never empty.
    pub value: String,
}

/// A cluster that takes no tenants counts as silent after so long, as a policy has it that says nothing else.
const SILENT_AFTER_SECONDS: i64 = 60;
/// The longest value that every form of the standard takes.
const MAX_VALUE: usize = 128;

impl ClusterProfile {
    /// A property's value.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        let properties = self.status.iter().flat_map(|status| &status.properties);
        properties.into_iter().find(|property| property.name == name).map(|property| property.value.as_str())
    }

    /// What it says of the control plane: `True`, `False` or `Unknown`.
    #[must_use]
    pub fn healthy(&self) -> &str {
        let conditions = self.status.iter().flat_map(|status| &status.conditions);
        conditions.into_iter().find(|condition| condition.kind == HEALTHY).map_or("Unknown", |condition| condition.status.as_str())
    }

    /// The value of a label, empty without one.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map_or("", String::as_str)
    }
}

/// The profile of a cluster, without a status.
#[must_use]
pub fn profile(cluster: &v1::Cluster, namespace: &str, owner: &Owner) -> ClusterProfile {
    let manager = ClusterManager { name: owner.manager.clone() };
    let mut profile =
        ClusterProfile::new(&cluster.name, ClusterProfileSpec { display_name: cluster.name.clone(), cluster_manager: manager });
    let labels = [(MANAGER_LABEL, &owner.manager), (GROUP_LABEL, &owner.group)];
    profile.metadata.namespace = Some(namespace.to_owned());
    profile.metadata.labels = Some(labels.map(|(name, value)| (name.to_owned(), value.clone())).into());
    profile
}

/// What a profile's status is to be. What others have set stays, and the condition keeps its time while it is as it was.
///
/// Nothing in it moves with use: a profile changes when a cluster does.
#[must_use]
pub fn status(cluster: &v1::Cluster, before: Option<&ClusterProfileStatus>, now: &str) -> ClusterProfileStatus {
    let mut conditions = before.map(|before| before.conditions.clone()).unwrap_or_default();
    let (status, reason, message) = health(cluster);
    let at = conditions.iter().position(|condition| condition.kind == HEALTHY);
    let since =
        at.map(|at| &conditions[at]).filter(|condition| condition.status == status).map(|condition| &condition.last_transition_time);
    let condition = Condition {
        kind: HEALTHY.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since.map_or_else(|| now.to_owned(), Clone::clone),
        observed_generation: None,
    };
    match at {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
    let kubernetes = cluster.status.as_ref().and_then(|status| status.info.as_ref()).map(|info| info.version.clone());
    ClusterProfileStatus { conditions, version: Version { kubernetes: kubernetes.unwrap_or_default() }, properties: properties(cluster) }
}

/// Whether a cluster's control plane is well, as far as its agent's contact tells. Silence says nothing: it is never `False`.
fn health(cluster: &v1::Cluster) -> (&'static str, &'static str, &'static str) {
    let status = cluster.status.clone().unwrap_or_default();
    if !status.has_agent {
        return ("Unknown", "NoAgent", "No agent has told of this cluster yet.");
    }
    if status.fenced {
        return ("Unknown", "NotHeardSinceRestore", "Its agent has not told of it since the placement service was restored from a backup.");
    }
    let silent = ("Unknown", "AgentSilent", "Its agent is not heard of; its tenants may run as before.");
    let well = ("True", "AgentInContact", "Its agent watches its API server and is in contact with the placement service.");
    let age = status.last_contact.and_then(|contact| contact.age);
    match status.state() {
        v1::ClusterState::Active | v1::ClusterState::Overfull => well,
        v1::ClusterState::Silent => silent,
        // The state of such a cluster does not tell whether it is silent, too.
        v1::ClusterState::Cordoned | v1::ClusterState::Draining | v1::ClusterState::Unspecified => match age {
            Some(age) if age.seconds <= SILENT_AFTER_SECONDS => well,
            Some(_) => silent,
            None => ("Unknown", "ContactNotTold", "When its agent was last heard of is not known at the moment."),
        },
    }
}

fn properties(cluster: &v1::Cluster) -> Vec<Property> {
    let spec = cluster.spec.clone().unwrap_or_default();
    let nodes = cluster.status.as_ref().and_then(|status| status.info.as_ref()).map(|info| info.nodes.to_string());
    let all = [
        (UID, spec.uid),
        ("topology.kubernetes.io/zone", spec.zones.join(",")),
        (REGION, spec.region),
        ("roadstead.dev/nodes", nodes.unwrap_or_default()),
        ("roadstead.dev/pool", spec.pool),
        ("roadstead.dev/provider", spec.provider),
        ("roadstead.dev/residency", spec.residency),
        ("roadstead.dev/tenant-cap", spec.tenant_cap.to_string()),
    ];
    let told = all.into_iter().filter(|(_, value)| !value.is_empty());
    told.map(|(name, value)| Property { name: name.to_owned(), value: value.chars().take(MAX_VALUE).collect() }).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn cluster(name: &str) -> v1::Cluster {
        let spec = v1::ClusterSpec {
            uid: format!("uid-of-{name}"),
            provider: "own".into(),
            region: "eu-central".into(),
            zones: vec!["a".into(), "b".into()],
            pool: "home".into(),
            tenant_cap: 1000,
            ..Default::default()
        };
        let info = v1::ClusterInfo { version: "v1.34.4".into(), nodes: 5, ready_nodes: 4, ..Default::default() };
        let mut status =
            v1::ClusterStatus { has_agent: true, info: Some(info), tenants: 17, dominant_share_ppm: 420_000, ..Default::default() };
        status.set_state(v1::ClusterState::Active);
        v1::Cluster { name: name.into(), spec: Some(spec), status: Some(status), ..Default::default() }
    }

    pub(crate) fn owner() -> Owner {
        Owner { manager: "roadstead".into(), group: "0a0b".into() }
    }

    /// The profile of [`cluster`], as it comes back from the API server.
    pub(crate) fn written(name: &str) -> ClusterProfile {
        let mut profile = profile(&cluster(name), "clusters", &owner());
        profile.status = Some(status(&cluster(name), None, "2026-01-01T00:00:00Z"));
        profile.metadata.uid = Some(format!("profile-{name}"));
        profile.metadata.resource_version = Some("7".into());
        profile
    }

    #[test]
    fn use_moves_nothing_in_a_profile() {
        let (mut busy, before) = (cluster("eu-1"), written("eu-1").status.unwrap());
        let status_of_busy = busy.status.as_mut().unwrap();
        (status_of_busy.tenants, status_of_busy.dominant_share_ppm, status_of_busy.shards) = (900, 990_000, 9);
        status_of_busy.info.as_mut().unwrap().ready_nodes = 3;
        assert_eq!(status(&busy, Some(&before), "2027-01-01T00:00:00Z"), before);
    }

    #[test]
    fn silence_is_unknown_and_the_time_of_the_change_is_kept() {
        let (mut cluster, before) = (cluster("eu-1"), written("eu-1").status.unwrap());
        assert_eq!((before.conditions[0].status.as_str(), before.version.kubernetes.as_str()), ("True", "v1.34.4"));
        cluster.status.as_mut().unwrap().set_state(v1::ClusterState::Silent);
        let silent = status(&cluster, Some(&before), "2026-02-02T00:00:00Z");
        assert_eq!(silent.conditions[0].status, "Unknown");
        assert_eq!(silent.conditions[0].last_transition_time, "2026-02-02T00:00:00Z");
        assert_eq!(status(&cluster, Some(&silent), "2026-03-03T00:00:00Z"), silent);
        let told = cluster.status.as_mut().unwrap();
        (told.has_agent, told.info) = (false, None);
        let never = status(&cluster, Some(&silent), "2026-03-03T00:00:00Z");
        assert_eq!((never.conditions[0].reason.as_str(), never.version.kubernetes.as_str()), ("NoAgent", ""));
        // From one unknown to the other is no transition.
        assert_eq!(never.conditions[0].last_transition_time, "2026-02-02T00:00:00Z");
    }

    #[test]
    fn a_cordoned_cluster_is_as_well_as_its_last_contact_is_recent() {
        let mut cordoned = cluster("eu-1");
        let told = cordoned.status.as_mut().unwrap();
        told.set_state(v1::ClusterState::Cordoned);
        let found = [Some(3), Some(600), None].map(|seconds| {
            let age = seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
            cordoned.status.as_mut().unwrap().last_contact = age.map(|age| v1::Contact { time: None, age: Some(age) });
            health(&cordoned).1
        });
        assert_eq!(found, ["AgentInContact", "AgentSilent", "ContactNotTold"]);
    }

    #[test]
    fn what_others_found_out_stays() {
        let mut before = written("eu-1").status.unwrap();
        before.conditions.insert(0, Condition { kind: "Joined".into(), status: "True".into(), ..Default::default() });
        let after = status(&cluster("eu-1"), Some(&before), "2027-01-01T00:00:00Z");
        assert_eq!(after, before);
    }

    #[test]
    fn every_property_is_one_that_the_standard_takes() {
        let mut wide = cluster("eu-1");
        wide.spec.as_mut().unwrap().zones = (0..99).map(|zone| format!("zone-{zone}")).collect();
        for property in properties(&wide) {
            assert!((1..=MAX_VALUE).contains(&property.value.chars().count()), "{property:?}");
        }
        let bare = v1::Cluster {
            name: "eu-2".into(),
            spec: Some(v1::ClusterSpec { region: "eu".into(), ..Default::default() }),
            ..Default::default()
        };
        assert!(properties(&bare).iter().all(|property| !property.value.is_empty()));
    }
}
