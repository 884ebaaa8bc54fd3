//! What agents hear and tell.
//!
//! A message that is refused is told again as it is, and the cluster is not heard of until somebody mends it. So only identities and amounts are refused:
//! what is for people is kept as far as it can be, and what a newer agent says in words that are not known here is left out.

use roadstead_api::v1;
use roadstead_api::v1::observed_tenant::Observed as Wire;
use roadstead_api::v1::tenant_intent::Role as WireRole;
use roadstead_api::v1::trouble::Kind as WireKind;
use roadstead_core::id::{Name, VolumeUid};
use roadstead_core::intent::{Role, TenantIntent, VolumeIntent};
use roadstead_core::observed::{ClusterInfo, MAX_VERSION_BYTES, MAX_VOLUMES, MAX_WHY_BYTES, SeenTenant, TroubleKind, beginning};
use roadstead_core::request::{Observation, Observed, ObservedTenant, Report};

use super::check::{At, Check};
use super::{cluster, wire_requests, wire_revision};

/// What is wanted of a tenant, as its agent reads it.
#[must_use]
pub fn wire_intent(intent: &TenantIntent) -> v1::TenantIntent {
    let volume = |volume: &VolumeIntent| v1::VolumeIntent {
        name: volume.name.to_string(),
        size_bytes: volume.size.0,
        storage: volume.storage.clone(),
        uid: volume.uid.map(|uid| uid.to_string()).unwrap_or_default(),
    };
    v1::TenantIntent {
        uid: intent.id.to_string(),
        epoch: Some(wire_revision(intent.epoch)),
        shard: u32::from(intent.shard.0),
        role: wire_role(intent.role).into(),
        name: intent.name.to_string(),
        owner: intent.owner.to_string(),
        class: intent.class.to_string(),
        version: intent.version.clone(),
        values_json: intent.values.clone(),
        hostnames: intent.hostnames.clone(),
        volumes: intent.volumes.iter().map(volume).collect(),
        requests: Some(wire_requests(&intent.requests)),
        removal_agreed: intent.removal_agreed,
    }
}

fn wire_role(role: Role) -> WireRole {
    match role {
        Role::Run => WireRole::Run,
        Role::Hold => WireRole::Hold,
        Role::Receive => WireRole::Receive,
        Role::Stopped => WireRole::Stopped,
        Role::Absent => WireRole::Absent,
    }
}

/// What an agent tells of its cluster, which its certificate names.
pub fn observation(check: &mut Check, own: &Name, wire: &v1::ObserveRequest) -> Option<Observation> {
    let uid = match wire.uid.as_str() {
        "" => check.refuse(At::Top("uid"), "is missing: the UID of the cluster's kube-system"),
        uid => check.word(At::Top("uid"), uid, cluster::MAX_UID_LEN),
    };
    let capacity = check.optional(At::Top("capacity"), wire.capacity.as_ref(), cluster::capacity);
    let complete = check.optional_revision(At::Top("complete_at"), wire.complete_at.as_ref());
    let complete = complete.map(|at| at.map(|at| at.incarnation));
    let seen = check.list(At::Top("tenants"), &wire.tenants, cluster::MAX_OBSERVED, seen_tenant)?;
    let (observed, tenants): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
    let tenants_observed = observed.into_iter().flatten().collect();
    let report =
        Report { cluster: own.clone(), uid: uid?, capacity: capacity?, tenants: tenants_observed, by_agent: true, complete: complete? };
    Some(Observation { report, tenants, info: wire.info.as_ref().map(info) })
}

fn info(wire: &v1::ClusterInfo) -> ClusterInfo {
    ClusterInfo {
        version: beginning(&wire.version, MAX_VERSION_BYTES),
        agent: beginning(&wire.agent_version, MAX_VERSION_BYTES),
        nodes: wire.nodes,
        ready_nodes: wire.ready_nodes,
        orphans: wire.orphans,
        held_back: wire.held_back,
    }
}

fn seen_tenant(check: &mut Check, at: At<'_>, wire: &v1::SeenTenant) -> Option<(Option<ObservedTenant>, SeenTenant)> {
    let id = cluster::tenant_uid(check, at.field("uid"), &wire.uid);
    let epoch = match check.required(at.field("epoch"), wire.epoch.as_ref()) {
        Some(epoch) => check.revision(at.field("epoch"), epoch),
        None => None,
    };
    let observed = match wire.observed() {
        Wire::Unspecified => None,
        Wire::Running => Some(Observed::Running),
        Wire::Stopped => Some(Observed::Stopped),
        Wire::Absent => Some(Observed::Absent),
    };
    let first = &wire.volumes[..wire.volumes.len().min(MAX_VOLUMES)];
    let volumes = check.list(at.field("volumes"), first, MAX_VOLUMES, |check, at, volume| {
        let name: Option<Name> = check.name(at.field("name"), &volume.name);
        let uid = match volume.uid.parse::<VolumeUid>() {
            Ok(uid) => Some(uid),
            Err(problem) => check.refuse(at.field("uid"), problem),
        };
        Some((name?, uid?))
    });
    let (id, epoch) = (id?, epoch?);
    let observed = observed.map(|observed| ObservedTenant { id, epoch, observed });
    Some((observed, SeenTenant { id, epoch, volumes: volumes?, trouble: wire.trouble.as_ref().map(trouble) }))
}

/// A kind that is not known here is a newer agent's: something is in the tenant's way, and the words say what.
fn trouble(wire: &v1::Trouble) -> (TroubleKind, String) {
    let kind = match wire.kind() {
        WireKind::Waits => TroubleKind::Waits,
        WireKind::Unspecified | WireKind::Blocked => TroubleKind::Blocked,
        WireKind::VolumeLost => TroubleKind::VolumeLost,
        WireKind::SecretLost => TroubleKind::SecretLost,
        WireKind::HeldBack => TroubleKind::HeldBack,
    };
    (kind, beginning(&wire.why, MAX_WHY_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tenant: v1::SeenTenant) -> v1::ObserveRequest {
        let info = v1::ClusterInfo { version: "v1.34.4-".repeat(20), agent_version: "1\n2".to_owned(), ..Default::default() };
        v1::ObserveRequest { uid: "uid".to_owned(), info: Some(info), tenants: vec![tenant], ..Default::default() }
    }

    fn tenant(kind: i32, why: &str) -> v1::SeenTenant {
        let trouble = v1::Trouble { kind, why: why.to_owned(), since: None };
        v1::SeenTenant { uid: "0".repeat(16), epoch: Some(v1::Revision::default()), trouble: Some(trouble), ..Default::default() }
    }

    fn read(wire: &v1::ObserveRequest) -> Observation {
        let mut check = Check::default();
        let observation = observation(&mut check, &Name::new("c0").expect("it is a name"), wire);
        check.finish(observation).expect("nothing is refused")
    }

    #[test]
    fn words_of_one_tenant_never_keep_a_cluster_from_being_heard() {
        let waits = WireKind::Waits.into();
        let whys = [("two\n\tlines\u{7f}", "two lines".to_owned()), (&"w".repeat(300), format!("{} ...", "w".repeat(MAX_WHY_BYTES - 4)))];
        for (why, kept) in whys {
            let observation = read(&told(tenant(waits, why)));
            assert_eq!(observation.tenants[0].trouble, Some((TroubleKind::Waits, kept)));
            let info = observation.info.expect("it was told");
            assert_eq!((info.version.len(), info.agent.as_str()), (MAX_VERSION_BYTES, "1 2"));
        }
    }

    #[test]
    fn what_a_newer_agent_says_of_one_tenant_costs_no_more_than_that() {
        let uid = "0c9ee5b2-52b8-4d7c-9a5e-2f3a1b0c4d5e";
        let volumes = (0..=MAX_VOLUMES).map(|number| v1::TenantVolume { name: format!("v{number}"), uid: uid.to_owned() }).collect();
        let observation = read(&told(v1::SeenTenant { observed: 99, volumes, ..tenant(99, "something new") }));
        assert!(observation.report.tenants.is_empty());
        let seen = &observation.tenants[0];
        assert_eq!((seen.volumes.len(), seen.trouble.clone()), (MAX_VOLUMES, Some((TroubleKind::Blocked, "something new".to_owned()))));
    }
}
