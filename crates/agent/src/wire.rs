//! Between the wire and the core, on the agent's side. What a newer service says in words that this agent does not know is left out, and
//! what is left out is left as it is.

use roadstead_api::v1;
use roadstead_api::v1::network_policies::Upheld as WireUpheld;
use roadstead_api::v1::tenant_intent::Role as WireRole;
use roadstead_core::class::{ClassVersion, VolumeSpec};
use roadstead_core::cluster::{Capacity, GrowthRoom, NodeSize};
use roadstead_core::id::{Epoch, Incarnation, Name, Owner, Revision, ShardId, TenantId};
use roadstead_core::intent::{Role, TenantIntent, VolumeIntent};
use roadstead_core::observed::{
    ClusterDetails, ClusterInfo, GrowthGroup, MAX_VERSION_BYTES, MAX_VOLUMES, MAX_WHY_BYTES, SeenTenant, TroubleKind, Upheld, beginning,
};
use roadstead_core::request::Observed;
use roadstead_core::resources::{Bytes, MAX_QUANTITY, Millicores, PodSize, Requests, Resources};
use roadstead_core::time::Millis;

/// Something that this agent does not understand: which field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing, or in words that this agent does not know: upgrade it")]
pub(crate) struct Unknown(&'static str);

pub(crate) fn revision(wire: &v1::Revision) -> Option<Revision> {
    Some(Revision { incarnation: Incarnation(u16::try_from(wire.incarnation).ok()?), index: wire.index })
}

pub(crate) fn wire_revision(revision: Revision) -> v1::Revision {
    v1::Revision { incarnation: u32::from(revision.incarnation.0), index: revision.index }
}

pub(crate) fn tenant_id(text: &str) -> Option<TenantId> {
    u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16).map(TenantId)
}

/// What is wanted of a tenant.
pub(crate) fn intent(wire: &v1::TenantIntent) -> Result<TenantIntent, Unknown> {
    let volumes = wire.volumes.iter().map(volume).collect::<Result<_, _>>()?;
    Ok(TenantIntent {
        id: tenant_id(&wire.uid).ok_or(Unknown("uid"))?,
        epoch: wire.epoch.as_ref().and_then(revision).ok_or(Unknown("epoch"))?,
        shard: u16::try_from(wire.shard).map(ShardId).map_err(|_| Unknown("shard"))?,
        role: role(wire)?,
        name: Name::new(&wire.name).map_err(|_| Unknown("name"))?,
        owner: Owner::new(&wire.owner).map_err(|_| Unknown("owner"))?,
        class: Name::new(&wire.class).map_err(|_| Unknown("class"))?,
        version: wire.version.clone(),
        values: wire.values_json.clone(),
        hostnames: wire.hostnames.clone(),
        volumes,
        requests: requests(wire.requests.as_ref()),
        removal_agreed: wire.removal_agreed,
    })
}

fn role(wire: &v1::TenantIntent) -> Result<Role, Unknown> {
    match WireRole::try_from(wire.role) {
        Ok(WireRole::Run) => Ok(Role::Run),
        Ok(WireRole::Hold) => Ok(Role::Hold),
        Ok(WireRole::Receive) => Ok(Role::Receive),
        Ok(WireRole::Stopped) => Ok(Role::Stopped),
        Ok(WireRole::Absent) => Ok(Role::Absent),
        Ok(WireRole::Unspecified) | Err(_) => Err(Unknown("role")),
    }
}

fn volume(wire: &v1::VolumeIntent) -> Result<VolumeIntent, Unknown> {
    let uid = match wire.uid.as_str() {
        "" => None,
        uid => Some(uid.parse().map_err(|_| Unknown("volumes.uid"))?),
    };
    let name = Name::new(&wire.name).map_err(|_| Unknown("volumes.name"))?;
    Ok(VolumeIntent { name, size: Bytes(wire.size_bytes), storage: wire.storage.clone(), uid })
}

fn requests(wire: Option<&v1::Requests>) -> Requests {
    let Some(wire) = wire else { return Requests::default() };
    Requests { total: wire.total.as_ref().map(resources).unwrap_or_default(), largest_pod: pod_size(wire.largest_pod.as_ref()) }
}

fn resources(wire: &v1::Resources) -> Resources {
    Resources {
        cpu: Millicores(wire.cpu_millicores),
        memory: Bytes(wire.memory_bytes),
        pods: wire.pods,
        storage: Bytes(wire.storage_bytes),
        attachments: wire.attachments,
    }
}

fn pod_size(wire: Option<&v1::PodSize>) -> PodSize {
    wire.map_or_else(PodSize::default, |wire| PodSize { cpu: Millicores(wire.cpu_millicores), memory: Bytes(wire.memory_bytes) })
}

/// A class version.
pub(crate) fn class(wire: &v1::Class) -> Result<ClassVersion, Unknown> {
    let volume = |volume: &v1::VolumeSpec| {
        let name = Name::new(&volume.name).map_err(|_| Unknown("class.volumes.name"))?;
        Ok(VolumeSpec { name, size: Bytes(volume.size_bytes), storage: volume.storage.clone(), grow: volume.grow })
    };
    let retain = wire.retain.as_ref().map_or(0, |retain| u64::try_from(retain.seconds).unwrap_or(0) * 1000);
    Ok(ClassVersion {
        name: Name::new(&wire.name).map_err(|_| Unknown("class.name"))?,
        version: wire.version.clone(),
        requests: requests(wire.requests.as_ref()),
        volumes: wire.volumes.iter().map(volume).collect::<Result<_, _>>()?,
        retain: Millis(retain),
        values_schema: wire.values_schema_json.clone(),
        template: wire.template_json.clone(),
        created: wire.revision.as_ref().and_then(revision).unwrap_or_default(),
    })
}

/// Words as the placement service keeps them: it refuses a message for anything that it cannot keep, and with it all that is told beside.
pub(crate) fn shortened(why: &str) -> String {
    beginning(why, MAX_WHY_BYTES)
}

/// What is told of a tenant.
pub(crate) fn seen(seen: &SeenTenant, observed: Option<Observed>, class_digest: &str) -> v1::SeenTenant {
    let observed = match observed {
        None => v1::observed_tenant::Observed::Unspecified,
        Some(Observed::Running) => v1::observed_tenant::Observed::Running,
        Some(Observed::Stopped) => v1::observed_tenant::Observed::Stopped,
        Some(Observed::Absent) => v1::observed_tenant::Observed::Absent,
    };
    let trouble = seen.trouble.as_ref().map(|(kind, why)| {
        let kind = match kind {
            TroubleKind::Waits => v1::trouble::Kind::Waits,
            TroubleKind::Blocked => v1::trouble::Kind::Blocked,
            TroubleKind::VolumeLost => v1::trouble::Kind::VolumeLost,
            TroubleKind::SecretLost => v1::trouble::Kind::SecretLost,
            TroubleKind::HeldBack => v1::trouble::Kind::HeldBack,
        };
        v1::Trouble { kind: kind.into(), why: shortened(why), since: None }
    });
    let epoch: Epoch = seen.epoch;
    let volumes = seen.volumes.iter().take(MAX_VOLUMES);
    v1::SeenTenant {
        uid: seen.id.to_string(),
        epoch: Some(wire_revision(epoch)),
        observed: observed.into(),
        volumes: volumes.map(|(name, uid)| v1::TenantVolume { name: name.to_string(), uid: uid.to_string() }).collect(),
        trouble,
        class_digest: class_digest.to_owned(),
    }
}

fn wire_pod_size(size: PodSize) -> v1::PodSize {
    v1::PodSize { cpu_millicores: size.cpu.0, memory_bytes: size.memory.0 }
}

/// What a cluster has.
pub(crate) fn wire_capacity(capacity: &Capacity) -> v1::Capacity {
    v1::Capacity {
        allocatable: Some(wire_resources(&capacity.allocatable)),
        used_by_others: Some(wire_resources(&capacity.used_by_others)),
        nodes: capacity.nodes.iter().map(wire_node).collect(),
    }
}

/// What a cluster may be given.
pub(crate) fn wire_growth(room: &GrowthRoom) -> v1::GrowthRoom {
    let most = |amount: u64| amount.min(MAX_QUANTITY);
    let total = Resources::from_array(room.total.to_array().map(most));
    v1::GrowthRoom { total: Some(wire_resources(&total)), nodes: room.nodes.iter().map(wire_node).collect() }
}

fn wire_resources(resources: &Resources) -> v1::Resources {
    v1::Resources {
        cpu_millicores: resources.cpu.0,
        memory_bytes: resources.memory.0,
        pods: resources.pods,
        storage_bytes: resources.storage.0,
        attachments: resources.attachments,
    }
}

fn wire_node(node: &NodeSize) -> v1::NodeSize {
    v1::NodeSize {
        allocatable: Some(wire_pod_size(node.allocatable)),
        largest_free: Some(wire_pod_size(node.largest_free)),
        count: node.count,
    }
}

/// What a cluster has, as somebody declared it.
pub fn capacity(wire: &v1::Capacity) -> Capacity {
    let node = |node: &v1::NodeSize| NodeSize {
        allocatable: pod_size(node.allocatable.as_ref()),
        largest_free: pod_size(node.largest_free.as_ref()),
        count: node.count,
    };
    Capacity {
        allocatable: wire.allocatable.as_ref().map(resources).unwrap_or_default(),
        used_by_others: wire.used_by_others.as_ref().map(resources).unwrap_or_default(),
        nodes: wire.nodes.iter().map(node).collect(),
    }
}

/// What a cluster is made of.
pub(crate) fn wire_info(info: &ClusterInfo) -> v1::ClusterInfo {
    v1::ClusterInfo {
        version: beginning(&info.version, MAX_VERSION_BYTES),
        agent_version: beginning(&info.agent, MAX_VERSION_BYTES),
        nodes: info.nodes,
        ready_nodes: info.ready_nodes,
        orphans: info.orphans,
        held_back: info.held_back,
    }
}

/// Details of a cluster.
pub(crate) fn wire_details(details: &ClusterDetails) -> v1::ClusterDetails {
    let upheld = |upheld| match upheld {
        Upheld::Unknown => WireUpheld::Unspecified.into(),
        Upheld::Yes => WireUpheld::Yes.into(),
        Upheld::No => WireUpheld::No.into(),
    };
    let ClusterDetails { policies, growth, open_nodes, zones, taints, pressure } = details;
    let group = |group: &GrowthGroup| v1::GrowthGroup {
        name: group.name.clone(),
        nodes: group.nodes,
        room: group.room.map(wire_pod_size),
        held_back: group.held_back,
    };
    let count = |(name, nodes): &(String, u32)| v1::NodeCount { name: name.clone(), nodes: *nodes };
    v1::ClusterDetails {
        network_policies: Some(v1::NetworkPolicies {
            ingress: upheld(policies.ingress),
            egress: upheld(policies.egress),
            why: shortened(&policies.why),
            since: None,
        }),
        growth: Some(v1::Growth { room: Some(wire_pod_size(growth.room)), groups: growth.groups.iter().map(group).collect() }),
        open_nodes: *open_nodes,
        zones: zones.iter().map(count).collect(),
        taints: taints.iter().map(count).collect(),
        memory_pressure: pressure.memory,
        disk_pressure: pressure.disk,
        pid_pressure: pressure.pids,
    }
}

#[cfg(test)]
mod tests {
    use roadstead_core::id::VolumeUid;
    use roadstead_core::observed::NetworkPolicies;

    use super::*;

    /// What the placement service refuses in a text.
    fn is_kept(text: &str, most: usize) -> bool {
        text.len() <= most && !text.contains(char::is_control)
    }

    #[test]
    fn whatever_others_write_is_told_as_the_placement_service_keeps_it() {
        let texts = ["a\nb", "\u{1b}[31mno\u{7f}", &"line\r\n".repeat(1000), &"ü".repeat(300), &"\0".repeat(500)];
        for text in texts {
            let why = shortened(text);
            assert!(is_kept(&why, MAX_WHY_BYTES) && shortened(&why) == why, "{why:?}");
            let volumes = (0..100).map(|number| (Name::new(&format!("v{number}")).expect("it is a name"), VolumeUid(number))).collect();
            let trouble = Some((TroubleKind::Blocked, text.to_owned()));
            let told = seen(&SeenTenant { id: TenantId(1), epoch: Epoch::default(), volumes, trouble }, None, "");
            assert!(is_kept(&told.trouble.expect("it is told").why, MAX_WHY_BYTES));
            assert_eq!(told.volumes.len(), MAX_VOLUMES);
            let info = wire_info(&ClusterInfo { version: text.to_owned(), agent: text.to_owned(), ..ClusterInfo::default() });
            assert!(is_kept(&info.version, MAX_VERSION_BYTES) && is_kept(&info.agent_version, MAX_VERSION_BYTES));
            let policies = NetworkPolicies { why: text.to_owned(), ..NetworkPolicies::default() };
            let details = wire_details(&ClusterDetails { policies, ..ClusterDetails::default() });
            assert!(is_kept(&details.network_policies.expect("it is told").why, MAX_WHY_BYTES));
        }
    }
}
