//! Details of a cluster: as a value, and what to do about them.

use std::collections::BTreeMap;

use roadstead_api::v1;
use roadstead_api::v1::network_policies::Upheld;
use serde::Serialize;

use crate::document::resources::PodSize;
use crate::document::tenant::timestamp_from_wire;

/// Details of a cluster as a value.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClusterDetails {
    network_policies: Policies,
    growth: Growth,
    open_nodes: u32,
    zones: BTreeMap<String, u32>,
    taints: BTreeMap<String, u32>,
    pressure: Pressure,
}

/// Whether network policies hold.
#[derive(Serialize)]
struct Policies {
    ingress: &'static str,
    egress: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

/// What autoscaled groups of nodes may still add.
#[derive(Serialize)]
struct Growth {
    room: PodSize,
    groups: Vec<Group>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<PodSize>,
    held_back: bool,
}

/// Nodes that are short of something.
#[derive(Serialize)]
struct Pressure {
    memory: u32,
    disk: u32,
    pids: u32,
}

impl ClusterDetails {
    pub(super) fn of(details: &v1::ClusterDetails) -> Self {
        let policies = details.network_policies.clone().unwrap_or_default();
        let growth = details.growth.clone().unwrap_or_default();
        let counts = |counts: &[v1::NodeCount]| counts.iter().map(|count| (count.name.clone(), count.nodes)).collect();
        let group = |group: v1::GrowthGroup| Group {
            name: group.name,
            nodes: group.nodes,
            room: group.room.map(Into::into),
            held_back: group.held_back,
        };
        Self {
            network_policies: Policies {
                ingress: upheld(policies.ingress()),
                egress: upheld(policies.egress()),
                since: policies.since.as_ref().map(timestamp_from_wire),
                why: policies.why,
            },
            growth: Growth { room: growth.room.unwrap_or_default().into(), groups: growth.groups.into_iter().map(group).collect() },
            open_nodes: details.open_nodes,
            zones: counts(&details.zones),
            taints: counts(&details.taints),
            pressure: Pressure { memory: details.memory_pressure, disk: details.disk_pressure, pids: details.pid_pressure },
        }
    }
}

fn upheld(upheld: Upheld) -> &'static str {
    match upheld {
        Upheld::Unspecified => "Unknown",
        Upheld::Yes => "Enforced",
        Upheld::No => "NotEnforced",
    }
}

/// What to know, and to do, where network policies do not hold; empty where they do, and where nobody knows why not.
#[must_use]
pub fn about_policies(cluster: &v1::Cluster) -> String {
    let details = cluster.status.as_ref().and_then(|status| status.details.as_ref());
    let Some(policies) = details.and_then(|details| details.network_policies.as_ref()) else { return String::new() };
    let found = match (policies.ingress(), policies.egress()) {
        (Upheld::No, Upheld::No) => "tenants reach each other, and whatever the cluster reaches",
        (Upheld::No, Upheld::Yes | Upheld::Unspecified) => "tenants are reached by anybody",
        (Upheld::Yes | Upheld::Unspecified, Upheld::No) => "tenants reach anything",
        (Upheld::Unspecified, Upheld::Unspecified | Upheld::Yes) | (Upheld::Yes, Upheld::Unspecified) if policies.why.is_empty() => {
            return String::new();
        }
        (Upheld::Unspecified, Upheld::Unspecified | Upheld::Yes) | (Upheld::Yes, Upheld::Unspecified) => {
            return format!("\nit is not known whether network policies hold: {}\n", policies.why);
        }
        (Upheld::Yes, Upheld::Yes) => return String::new(),
    };
    format!(
        "\nNETWORK POLICIES DO NOT HOLD: {found}\n\nNext: take a network plugin that enforces policies, or keep tenants that do not trust each \
         other in different clusters\n      kubectl -n roadstead-system rollout restart deployment/roadstead-agent    # then it is tried anew\n"
    )
}
