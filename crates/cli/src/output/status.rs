//! Status sections: how things are, in the words and units of documents. Ignored on the way in.

use std::collections::BTreeMap;

use roadstead_api::v1;
use serde::Serialize;

use crate::document::resources::{Capacity, Requests, Resources};
use crate::document::tenant::timestamp_from_wire;

/// A revision as text: incarnation and index.
#[must_use]
pub fn revision(revision: Option<&v1::Revision>) -> String {
    revision.map_or_else(|| "-".to_owned(), |revision| format!("{}.{}", revision.incarnation, revision.index))
}

/// A phase as text.
#[must_use]
pub fn phase(phase: v1::Phase) -> &'static str {
    match phase {
        v1::Phase::Unspecified => "Unknown",
        v1::Phase::Pending => "Pending",
        v1::Phase::Placed => "Placed",
        v1::Phase::Running => "Running",
        v1::Phase::Releasing => "Releasing",
        v1::Phase::Retained => "Retained",
        v1::Phase::Purging => "Purging",
    }
}

/// How a tenant is, for people: its phase, and behind it that it is misplaced, and what kind of trouble it has. Each stands by itself in its
/// document's status.
#[must_use]
pub fn standing(status: &v1::TenantStatus) -> String {
    let trouble = status.trouble.as_ref().map(|trouble| trouble_kind(trouble.kind()));
    let words = [Some(phase(status.phase())), status.misplaced.then_some(MISPLACED), trouble];
    words.into_iter().flatten().collect::<Vec<_>>().join(",")
}

/// What kind of thing keeps a tenant from being as it is to be.
#[must_use]
pub fn trouble_kind(kind: v1::trouble::Kind) -> &'static str {
    match kind {
        v1::trouble::Kind::Unspecified => "Unknown",
        v1::trouble::Kind::Waits => "Waits",
        v1::trouble::Kind::Blocked => "Blocked",
        v1::trouble::Kind::VolumeLost => "VolumeLost",
        v1::trouble::Kind::SecretLost => "SecretLost",
    }
}

/// What stands behind the phase of a tenant whose constraints no longer hold where it is.
pub const MISPLACED: &str = "Misplaced";

/// A cluster's state as text.
#[must_use]
pub fn cluster_state(state: v1::ClusterState) -> &'static str {
    match state {
        v1::ClusterState::Unspecified => "Unknown",
        v1::ClusterState::Active => "Active",
        v1::ClusterState::Cordoned => "Cordoned",
        v1::ClusterState::Draining => "Draining",
        v1::ClusterState::Silent => "Silent",
        v1::ClusterState::Overfull => "Overfull",
    }
}

/// A tenant's status.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TenantStatus {
    phase: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    reason: String,
    misplaced: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<Requests>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retained_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<Trouble>,
    /// UIDs by the volumes' names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    volumes: BTreeMap<String, String>,
}

/// What keeps a tenant from being as it is to be.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Trouble {
    kind: &'static str,
    why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

/// A tenant's status as a value.
#[must_use]
pub fn tenant(status: &v1::TenantStatus) -> serde_json::Value {
    let binding = status.binding.as_ref();
    value(&TenantStatus {
        phase: phase(status.phase()),
        cluster: binding.map(|binding| binding.cluster.clone()),
        shard: binding.map(|binding| binding.shard),
        epoch: binding.map(|binding| revision(binding.epoch.as_ref())),
        reason: status.reason.clone(),
        misplaced: status.misplaced,
        requests: status.requests.as_ref().map(Into::into),
        retained_until: status.retained_until.as_ref().map(timestamp_from_wire),
        trouble: status.trouble.as_ref().map(|trouble| Trouble {
            kind: trouble_kind(trouble.kind()),
            why: trouble.why.clone(),
            since: trouble.since.as_ref().map(timestamp_from_wire),
        }),
        volumes: status.volumes.iter().map(|volume| (volume.name.clone(), volume.uid.clone())).collect(),
    })
}

/// A cluster's status.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterStatus {
    state: &'static str,
    tenants: u32,
    shards: u32,
    dominant_share_ppm: u32,
    fenced: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reported: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity: Option<Capacity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<Resources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    free: Option<Resources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<ClusterInfo>,
}

/// What a cluster is made of, as its agent told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterInfo {
    version: String,
    agent: String,
    nodes: u32,
    ready_nodes: u32,
    /// Labelled as tenants, named by no intent, left as they are.
    orphans: u32,
    /// Removals that wait for an operator.
    held_back: u32,
}

/// A cluster's status as a value.
#[must_use]
pub fn cluster(status: &v1::ClusterStatus) -> serde_json::Value {
    value(&ClusterStatus {
        state: cluster_state(status.state()),
        tenants: status.tenants,
        shards: status.shards,
        dominant_share_ppm: status.dominant_share_ppm,
        fenced: status.fenced,
        reported: status.report_time.as_ref().map(timestamp_from_wire),
        capacity: status.capacity.as_ref().map(Into::into),
        used: status.used.as_ref().map(Into::into),
        free: status.free.as_ref().map(Into::into),
        info: status.info.as_ref().map(|info| ClusterInfo {
            version: info.version.clone(),
            agent: info.agent_version.clone(),
            nodes: info.nodes,
            ready_nodes: info.ready_nodes,
            orphans: info.orphans,
            held_back: info.held_back,
        }),
    })
}

/// A class's status as a value.
#[must_use]
pub fn class(class: &v1::Class) -> serde_json::Value {
    serde_json::json!({ "tenants": class.tenants })
}

fn value<T: Serialize>(status: &T) -> serde_json::Value {
    serde_json::to_value(status).expect("a status of text and numbers is JSON")
}
