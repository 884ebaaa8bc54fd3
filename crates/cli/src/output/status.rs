//! Status sections: how things are, in the words and units of documents. Ignored on the way in.

use std::collections::BTreeMap;

use roadstead_api::v1;
use roadstead_class::namespace_of;
use roadstead_core::id::{Name, TenantId};
use serde::Serialize;

use super::dash_or;
use super::details::ClusterDetails;
use super::table::MISPLACED;
use crate::document::quantity::Span;
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
        v1::Phase::Running => RUNNING,
        v1::Phase::Releasing => "Releasing",
        v1::Phase::Retained => "Retained",
        v1::Phase::Purging => "Purging",
    }
}

/// The phase of a tenant that was seen running.
pub const RUNNING: &str = "Running";
/// What stands in the place of the phase of a tenant that is to be at rest and is not yet.
pub const STOPPING: &str = "Stopping";

/// How far a tenant is, for people: its phase, but for one that is to be at rest whether it is. Its phase says only that it has a place and
/// was not seen running there.
#[must_use]
pub fn stage(tenant: &v1::Tenant) -> &'static str {
    let status = tenant.status.clone().unwrap_or_default();
    let at_rest = match tenant.spec.as_ref().map(v1::TenantSpec::desired).unwrap_or_default() {
        v1::Desired::Unspecified | v1::Desired::Running => return phase(status.phase()),
        v1::Desired::Hibernated => "Hibernated",
        v1::Desired::Archived => "Archived",
    };
    let trouble = status.trouble.as_ref().map(v1::Trouble::kind);
    match (status.phase(), trouble) {
        (v1::Phase::Running, _) => STOPPING,
        // What has been lost keeps nobody from resting.
        (v1::Phase::Placed, None | Some(v1::trouble::Kind::VolumeLost | v1::trouble::Kind::SecretLost)) => at_rest,
        (v1::Phase::Placed, Some(_)) => STOPPING,
        (other, _) => phase(other),
    }
}

/// Whether a tenant is as it is to be: it runs and nothing is wrong with it, or is at rest.
#[must_use]
pub fn is_as_wanted(tenant: &v1::Tenant) -> bool {
    let is_well = tenant.status.as_ref().is_some_and(|status| status.trouble.is_none());
    match stage(tenant) {
        RUNNING => is_well,
        stage => ["Hibernated", "Archived"].contains(&stage),
    }
}

/// What has become of a tenant that was deleted, in words that follow its name; `None` of one that was not.
#[must_use]
pub fn deletion(tenant: &v1::Tenant) -> Option<String> {
    let status = tenant.status.as_ref()?;
    match (status.phase(), &status.retained_until) {
        (v1::Phase::Retained, Some(until)) => Some(format!("is deleted, its volumes are kept until {}", timestamp_from_wire(until))),
        (v1::Phase::Retained, None) => Some("is deleted, its volumes are kept".to_owned()),
        (v1::Phase::Releasing, _) => Some("is deleted, and is being stopped".to_owned()),
        (v1::Phase::Purging, _) => Some("is deleted, and its volumes are going".to_owned()),
        (v1::Phase::Unspecified | v1::Phase::Pending | v1::Phase::Placed | v1::Phase::Running, _) => None,
    }
}

/// The namespace of a tenant in its cluster; `None` while it is in none.
#[must_use]
pub fn namespace(tenant: &v1::Tenant) -> Option<String> {
    tenant.status.as_ref()?.binding.as_ref()?;
    let id = u64::from_str_radix(&tenant.uid, 16).ok()?;
    Some(namespace_of(&Name::new(&tenant.name).ok()?, TenantId(id)))
}

/// How a tenant is, for people: how far it is, and behind it that it is misplaced, and what kind of trouble it has. Phase and trouble stand by
/// themselves in its document's status.
#[must_use]
pub fn standing(tenant: &v1::Tenant) -> String {
    let status = tenant.status.clone().unwrap_or_default();
    let trouble = status.trouble.as_ref().map(|trouble| trouble_kind(trouble.kind()));
    let words = [Some(stage(tenant)), status.misplaced.then_some(MISPLACED), trouble];
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
        v1::trouble::Kind::HeldBack => "HeldBack",
    }
}

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
    namespace: Option<String>,
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

/// A tenant's status as a value, if it has one.
#[must_use]
pub fn tenant(tenant: &v1::Tenant) -> Option<serde_json::Value> {
    let status = tenant.status.as_ref()?;
    let binding = status.binding.as_ref();
    Some(value(&TenantStatus {
        phase: phase(status.phase()),
        cluster: binding.map(|binding| binding.cluster.clone()),
        namespace: namespace(tenant),
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
    }))
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
    /// When its agent was last heard of, or that this is not known; left out where there is no agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_contact: Option<String>,
    /// How long before the answer that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_contact_age: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removals: Option<WaitingRemovals>,
    /// What autoscaled groups may still add; `free` counts it.
    #[serde(skip_serializing_if = "Option::is_none")]
    growth: Option<GrowthRoom>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<ClusterDetails>,
}

/// What may still be added to a cluster.
#[derive(Serialize)]
struct GrowthRoom {
    total: Resources,
    nodes: u32,
}

/// Removals that wait for an operator, or to which one has agreed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WaitingRemovals {
    waiting: u32,
    /// The first of those that wait.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    first: Vec<String>,
    agreed: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    agreed_until: Option<String>,
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
        last_contact: status.has_agent.then(|| contact_time(status)),
        last_contact_age: contact_age(status),
        growth: status.growth.as_ref().map(|growth| GrowthRoom {
            total: growth.total.as_ref().map(Into::into).unwrap_or_default(),
            nodes: growth.nodes.iter().map(|node| node.count).sum(),
        }),
        details: status.details.as_ref().map(ClusterDetails::of),
        removals: status.removals.as_ref().map(|removals| WaitingRemovals {
            waiting: removals.waiting,
            first: removals.first.clone(),
            agreed: removals.agreed,
            agreed_until: removals.agreed_until.as_ref().map(timestamp_from_wire),
        }),
    })
}

/// What stands for a last contact that is not known. It does not mean that there was none.
const UNKNOWN: &str = "unknown";

fn contact_time(status: &v1::ClusterStatus) -> String {
    let time = status.last_contact.as_ref().and_then(|contact| contact.time.as_ref());
    time.map_or_else(|| UNKNOWN.to_owned(), timestamp_from_wire)
}

fn contact_age(status: &v1::ClusterStatus) -> Option<String> {
    let age = status.last_contact.as_ref()?.age.as_ref()?;
    Some(Span(u64::try_from(age.seconds).unwrap_or(0) * 1000).to_string())
}

/// How long ago a cluster's agent was last heard of, for people.
#[must_use]
pub fn contact(status: &v1::ClusterStatus) -> String {
    if !status.has_agent {
        return "no agent".to_owned();
    }
    contact_age(status).map_or_else(|| UNKNOWN.to_owned(), |age| format!("{age} ago"))
}

/// How a cluster is, for people: its state, and behind it that removals wait there for an operator.
#[must_use]
pub fn cluster_standing(status: &v1::ClusterStatus) -> String {
    let state = if status.fenced { "Fenced" } else { cluster_state(status.state()) };
    let waits = status.removals.as_ref().is_some_and(|removals| removals.waiting > 0);
    if waits { format!("{state},{REMOVALS_WAIT}") } else { state.to_owned() }
}

/// What stands behind the state of a cluster in which removals wait for an operator.
pub const REMOVALS_WAIT: &str = "RemovalsWait";

/// What a cluster is made of and by whom it is told, for people: its version, nodes that are ready of all, and the agent's version.
#[must_use]
pub fn made_of(status: &v1::ClusterStatus) -> [String; 3] {
    match &status.info {
        Some(info) => {
            [dash_or(&info.version).to_owned(), format!("{}/{}", info.ready_nodes, info.nodes), dash_or(&info.agent_version).to_owned()]
        }
        None => ["-", "-", "-"].map(str::to_owned),
    }
}

/// A class's status as a value.
#[must_use]
pub fn class(class: &v1::Class) -> serde_json::Value {
    serde_json::json!({ "tenants": class.tenants, "digest": class.digest })
}

fn value<T: Serialize>(status: &T) -> serde_json::Value {
    serde_json::to_value(status).expect("a status of text and numbers is JSON")
}
