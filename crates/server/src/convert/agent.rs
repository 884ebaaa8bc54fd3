//! What agents hear and tell.

use roadstead_api::v1::observed_tenant::Observed as Wire;
use roadstead_api::v1::tenant_intent::Role as WireRole;
use roadstead_api::v1::{self, trouble};
use roadstead_core::id::{Name, VolumeUid};
use roadstead_core::intent::{Role, TenantIntent, VolumeIntent};
use roadstead_core::observed::{ClusterInfo, MAX_VERSION_BYTES, MAX_VOLUMES, MAX_WHY_BYTES, SeenTenant, TroubleKind};
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
    let info = check.optional(At::Top("info"), wire.info.as_ref(), info);
    let complete = check.optional_revision(At::Top("complete_at"), wire.complete_at.as_ref());
    let complete = complete.map(|at| at.map(|at| at.incarnation));
    let seen = check.list(At::Top("tenants"), &wire.tenants, cluster::MAX_OBSERVED, seen_tenant)?;
    let (observed, tenants): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
    let tenants_observed = observed.into_iter().flatten().collect();
    let report =
        Report { cluster: own.clone(), uid: uid?, capacity: capacity?, tenants: tenants_observed, by_agent: true, complete: complete? };
    Some(Observation { report, tenants, info: info? })
}

fn info(check: &mut Check, at: At<'_>, wire: &v1::ClusterInfo) -> Option<ClusterInfo> {
    let version = check.text(at.field("version"), &wire.version, MAX_VERSION_BYTES);
    let agent = check.text(at.field("agent_version"), &wire.agent_version, MAX_VERSION_BYTES);
    Some(ClusterInfo {
        version: version?,
        agent: agent?,
        nodes: wire.nodes,
        ready_nodes: wire.ready_nodes,
        orphans: wire.orphans,
        held_back: wire.held_back,
    })
}

fn seen_tenant(check: &mut Check, at: At<'_>, wire: &v1::SeenTenant) -> Option<(Option<ObservedTenant>, SeenTenant)> {
    let id = cluster::tenant_uid(check, at.field("uid"), &wire.uid);
    let epoch = match check.required(at.field("epoch"), wire.epoch.as_ref()) {
        Some(epoch) => check.revision(at.field("epoch"), epoch),
        None => None,
    };
    let observed = check.known::<Wire>(at.field("observed"), wire.observed).map(|observed| match observed {
        Wire::Unspecified => None,
        Wire::Running => Some(Observed::Running),
        Wire::Stopped => Some(Observed::Stopped),
        Wire::Absent => Some(Observed::Absent),
    });
    let volumes = check.list(at.field("volumes"), &wire.volumes, MAX_VOLUMES, |check, at, volume| {
        let name: Option<Name> = check.name(at.field("name"), &volume.name);
        let uid = match volume.uid.parse::<VolumeUid>() {
            Ok(uid) => Some(uid),
            Err(problem) => check.refuse(at.field("uid"), problem),
        };
        Some((name?, uid?))
    });
    let trouble = check.optional(at.field("trouble"), wire.trouble.as_ref(), trouble);
    let (id, epoch) = (id?, epoch?);
    let observed = observed?.map(|observed| ObservedTenant { id, epoch, observed });
    Some((observed, SeenTenant { id, epoch, volumes: volumes?, trouble: trouble? }))
}

fn trouble(check: &mut Check, at: At<'_>, wire: &v1::Trouble) -> Option<(TroubleKind, String)> {
    let kind = match check.known::<trouble::Kind>(at.field("kind"), wire.kind)? {
        trouble::Kind::Unspecified => check.refuse(at.field("kind"), "must be WAITS, BLOCKED, VOLUME_LOST, SECRET_LOST or HELD_BACK"),
        trouble::Kind::Waits => Some(TroubleKind::Waits),
        trouble::Kind::Blocked => Some(TroubleKind::Blocked),
        trouble::Kind::VolumeLost => Some(TroubleKind::VolumeLost),
        trouble::Kind::SecretLost => Some(TroubleKind::SecretLost),
        trouble::Kind::HeldBack => Some(TroubleKind::HeldBack),
    };
    let why = check.text(at.field("why"), &wire.why, MAX_WHY_BYTES);
    Some((kind?, why?))
}
