//! Details of a cluster, in both directions.

use roadstead_api::v1;
use roadstead_api::v1::network_policies::Upheld as WireUpheld;
use roadstead_core::observed::{
    ClusterDetails, Growth, GrowthGroup, KnownDetails, MAX_DETAIL_BYTES, MAX_DETAILS, MAX_WHY_BYTES, NetworkPolicies, Pressure, Upheld,
};

use super::check::{At, Check};
use super::{pod_size, wire_pod_size, wire_timestamp};

/// As they are read.
#[must_use]
pub fn wire(known: &KnownDetails) -> v1::ClusterDetails {
    let ClusterDetails { policies, growth, open_nodes, zones, taints, pressure } = &known.details;
    let group = |group: &GrowthGroup| v1::GrowthGroup {
        name: group.name.clone(),
        nodes: group.nodes,
        room: group.room.as_ref().map(wire_pod_size),
        held_back: group.held_back,
    };
    let count = |(name, nodes): &(String, u32)| v1::NodeCount { name: name.clone(), nodes: *nodes };
    v1::ClusterDetails {
        network_policies: Some(v1::NetworkPolicies {
            ingress: wire_upheld(policies.ingress).into(),
            egress: wire_upheld(policies.egress).into(),
            why: policies.why.clone(),
            since: Some(wire_timestamp(known.policies_since)),
        }),
        growth: Some(v1::Growth { room: Some(wire_pod_size(&growth.room)), groups: growth.groups.iter().map(group).collect() }),
        open_nodes: *open_nodes,
        zones: zones.iter().map(count).collect(),
        taints: taints.iter().map(count).collect(),
        memory_pressure: pressure.memory,
        disk_pressure: pressure.disk,
        pid_pressure: pressure.pids,
    }
}

fn wire_upheld(upheld: Upheld) -> WireUpheld {
    match upheld {
        Upheld::Unknown => WireUpheld::Unspecified,
        Upheld::Yes => WireUpheld::Yes,
        Upheld::No => WireUpheld::No,
    }
}

/// As an agent tells them.
pub fn details(check: &mut Check, at: At<'_>, wire: &v1::ClusterDetails) -> Option<ClusterDetails> {
    let policies = match &wire.network_policies {
        None => Some(NetworkPolicies::default()),
        Some(wire) => policies(check, at.field("network_policies"), wire),
    };
    let growth = match &wire.growth {
        None => Some(Growth::default()),
        Some(wire) => growth(check, at.field("growth"), wire),
    };
    let zones = check.list(at.field("zones"), &wire.zones, MAX_DETAILS, node_count);
    let taints = check.list(at.field("taints"), &wire.taints, MAX_DETAILS, node_count);
    let pressure = Pressure { memory: wire.memory_pressure, disk: wire.disk_pressure, pids: wire.pid_pressure };
    Some(ClusterDetails { policies: policies?, growth: growth?, open_nodes: wire.open_nodes, zones: zones?, taints: taints?, pressure })
}

fn policies(check: &mut Check, at: At<'_>, wire: &v1::NetworkPolicies) -> Option<NetworkPolicies> {
    let upheld = |check: &mut Check, field, wire| {
        check.known::<WireUpheld>(at.field(field), wire).map(|upheld| match upheld {
            WireUpheld::Unspecified => Upheld::Unknown,
            WireUpheld::Yes => Upheld::Yes,
            WireUpheld::No => Upheld::No,
        })
    };
    let (ingress, egress) = (upheld(check, "ingress", wire.ingress), upheld(check, "egress", wire.egress));
    let why = check.text(at.field("why"), &wire.why, MAX_WHY_BYTES);
    Some(NetworkPolicies { ingress: ingress?, egress: egress?, why: why? })
}

fn growth(check: &mut Check, at: At<'_>, wire: &v1::Growth) -> Option<Growth> {
    let room = pod_size(check, at.field("room"), wire.room.as_ref());
    let groups = check.list(at.field("groups"), &wire.groups, MAX_DETAILS, |check, at, group| {
        let name = check.text(at.field("name"), &group.name, MAX_DETAIL_BYTES);
        let room = check.optional(at.field("room"), group.room.as_ref(), |check, at, room| pod_size(check, at, Some(room)));
        Some(GrowthGroup { name: name?, nodes: group.nodes, room: room?, held_back: group.held_back })
    });
    Some(Growth { room: room?, groups: groups? })
}

fn node_count(check: &mut Check, at: At<'_>, wire: &v1::NodeCount) -> Option<(String, u32)> {
    check.text(at.field("name"), &wire.name, MAX_DETAIL_BYTES).map(|name| (name, wire.nodes))
}
