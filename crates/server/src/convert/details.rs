//! Details of a cluster, in both directions.

use roadstead_api::v1;
use roadstead_api::v1::network_policies::Upheld as WireUpheld;
use roadstead_core::observed::{ClusterDetails, Growth, GrowthGroup, KnownDetails, NetworkPolicies, Pressure, Upheld};

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

/// As an agent tells them. They are for people: of names and words is kept what can be, and only an amount is refused.
pub fn details(check: &mut Check, at: At<'_>, wire: &v1::ClusterDetails) -> Option<ClusterDetails> {
    let growth = match &wire.growth {
        None => Some(Growth::default()),
        Some(wire) => growth(check, at.field("growth"), wire),
    };
    let count = |count: &v1::NodeCount| (count.name.clone(), count.nodes);
    let details = ClusterDetails {
        policies: wire.network_policies.as_ref().map(policies).unwrap_or_default(),
        growth: growth?,
        open_nodes: wire.open_nodes,
        zones: wire.zones.iter().map(count).collect(),
        taints: wire.taints.iter().map(count).collect(),
        pressure: Pressure { memory: wire.memory_pressure, disk: wire.disk_pressure, pids: wire.pid_pressure },
    };
    Some(details.bounded())
}

fn policies(wire: &v1::NetworkPolicies) -> NetworkPolicies {
    let upheld = |upheld| match upheld {
        WireUpheld::Unspecified => Upheld::Unknown,
        WireUpheld::Yes => Upheld::Yes,
        WireUpheld::No => Upheld::No,
    };
    NetworkPolicies { ingress: upheld(wire.ingress()), egress: upheld(wire.egress()), why: wire.why.clone() }
}

fn growth(check: &mut Check, at: At<'_>, wire: &v1::Growth) -> Option<Growth> {
    let room = pod_size(check, at.field("room"), wire.room.as_ref());
    let mut groups = Vec::with_capacity(wire.groups.len());
    for (index, group) in wire.groups.iter().enumerate() {
        let list = at.field("groups");
        let room = check.optional(list.item(index).field("room"), group.room.as_ref(), |check, at, room| pod_size(check, at, Some(room)));
        groups.push(GrowthGroup { name: group.name.clone(), nodes: group.nodes, room: room?, held_back: group.held_back });
    }
    Some(Growth { room: room?, groups })
}

#[cfg(test)]
mod tests {
    use roadstead_core::observed::{MAX_DETAIL_BYTES, MAX_DETAILS};

    use super::*;

    fn read(wire: &v1::ClusterDetails) -> ClusterDetails {
        let mut check = Check::default();
        let details = details(&mut check, At::Top("details"), wire);
        check.finish(details).expect("nothing is refused")
    }

    #[test]
    fn details_are_taken_whatever_the_names_in_them() {
        let group = |name: &str| v1::GrowthGroup { name: name.to_owned(), nodes: Some(2), room: None, held_back: false };
        let count = |name: &str| v1::NodeCount { name: name.to_owned(), nodes: 1 };
        let long = |start: &str| format!("{start}{}", "x".repeat(300));
        let policies = v1::NetworkPolicies { ingress: WireUpheld::Yes.into(), egress: 99, why: "two\nlines".to_owned(), since: None };
        let kept = read(&v1::ClusterDetails {
            network_policies: Some(policies),
            growth: Some(v1::Growth { room: None, groups: vec![group("apps"), group("apps"), group("a\nb")] }),
            zones: (0..=MAX_DETAILS).map(|number| count(&number.to_string())).collect(),
            taints: vec![count(&long("a")), count(&long("b"))],
            ..Default::default()
        });
        let NetworkPolicies { ingress, egress, why } = kept.policies;
        assert_eq!((ingress, egress, why.as_str()), (Upheld::Yes, Upheld::Unknown, "two lines"));
        let groups: Vec<_> = kept.growth.groups.iter().map(|group| (group.name.as_str(), group.nodes)).collect();
        assert_eq!(groups, [("apps", Some(4)), ("a b", Some(2))]);
        assert_eq!(kept.zones.len(), MAX_DETAILS);
        assert_eq!(kept.taints.iter().map(|(name, nodes)| (name.len(), *nodes)).collect::<Vec<_>>(), [(MAX_DETAIL_BYTES, 2)]);
    }

    #[test]
    fn an_amount_that_is_none_is_refused_by_its_field() {
        let room = Some(v1::PodSize { cpu_millicores: u64::MAX, memory_bytes: 0 });
        let groups = vec![v1::GrowthGroup { room, ..Default::default() }];
        let wire = v1::ClusterDetails { growth: Some(v1::Growth { room: None, groups }), ..Default::default() };
        let mut check = Check::default();
        assert_eq!(details(&mut check, At::Top("details"), &wire), None);
        let refused = format!("{:?}", check.finish(None::<()>).expect_err("it is refused"));
        assert!(refused.contains("details.growth.groups[0].room.cpu_millicores"), "{refused}");
    }
}
