//! Tenants: from what a caller writes to the core's spec, and from what is kept to what a caller reads.

use std::collections::BTreeSet;
use std::sync::Arc;

use roadstead_api::v1;
use roadstead_core::id::{ClusterId, Name, VolumeUid};
use roadstead_core::observed::{TenantFacts, Trouble, TroubleKind};
use roadstead_core::resources::{Bytes, Requests};
use roadstead_core::schedule;
use roadstead_core::tenant::{Binding, Desired, MAX_HOSTNAMES, MAX_VALUES_BYTES, Phase, Tenant, TenantSpec};

use super::check::{At, Check};
use super::class::MAX_VOLUMES;
use super::{constraints, wire_requests, wire_revision, wire_timestamp};

/// The longest hostname (RFC 1035).
const MAX_HOSTNAME_LEN: usize = 253;

/// What is wanted of a tenant. Its requests are resolved from the class when the request is decided.
pub fn spec(check: &mut Check, name: &str, wire: Option<&v1::TenantSpec>) -> Option<TenantSpec> {
    let name = check.name(At::Top("name"), name);
    let at = At::Top("spec");
    let wire = check.required(at, wire)?;
    spec_at(check, at, name, wire)
}

/// The same for a spec that is somewhere else in its request.
pub fn spec_at(check: &mut Check, at: At<'_>, name: Option<Name>, wire: &v1::TenantSpec) -> Option<TenantSpec> {
    let owner = check.owner(at.field("owner"), &wire.owner);
    let class = check.name(at.field("class"), &wire.class);
    let version = super::class::version(check, at.field("version"), &wire.version);
    let values = values(check, at.field("values_json"), &wire.values_json);
    let hostnames = hostnames(check, at.field("hostnames"), &wire.hostnames);
    let volumes = volumes(check, at.field("volumes"), &wire.volumes);
    let desired = desired(check, at.field("desired"), wire.desired);
    let deadline = check.optional(at.field("deadline"), wire.deadline.as_ref(), Check::timestamp);
    let constraints = constraints::constraints(check, at.field("constraints"), wire.constraints.as_ref());
    Some(TenantSpec {
        name: name?,
        owner: owner?,
        class: class?,
        version: version?,
        values: values?,
        hostnames: hostnames?,
        volumes: volumes?,
        desired: desired?,
        priority: wire.priority,
        deletion_protection: wire.deletion_protection,
        deadline: deadline?,
        constraints: Arc::new(constraints?),
        requests: Requests::default(),
    })
}

/// Values as canonical JSON text: an object with its keys in order, nothing when there are none.
fn values(check: &mut Check, at: At<'_>, text: &str) -> Option<String> {
    if text.is_empty() {
        return Some(String::new());
    }
    if text.len() > MAX_VALUES_BYTES {
        return check.refuse(at, format_args!("has {} bytes, at most {MAX_VALUES_BYTES} are allowed", text.len()));
    }
    match serde_json::from_str::<serde_json::Value>(text) {
        Err(error) => check.refuse(at, format_args!("is not JSON: {error}")),
        Ok(serde_json::Value::Object(object)) if object.is_empty() => Some(String::new()),
        Ok(value @ serde_json::Value::Object(_)) => Some(value.to_string()),
        Ok(_) => check.refuse(at, "must be a JSON object, as in {\"plan\": \"small\"}"),
    }
}

fn hostnames(check: &mut Check, at: At<'_>, texts: &[String]) -> Option<Vec<String>> {
    check.list(at, texts, MAX_HOSTNAMES, |check, at, text| {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        let name = text.strip_prefix("*.").unwrap_or(text);
        if text.len() > MAX_HOSTNAME_LEN || !name.split('.').all(label) {
            return check.refuse(at, format_args!("{:?} is no hostname: use lower-case DNS labels joined by dots", super::excerpt(text)));
        }
        Some(text.clone())
    })
}

fn volumes(check: &mut Check, at: At<'_>, wire: &[v1::VolumeSize]) -> Option<Vec<(Name, Bytes)>> {
    let mut names = BTreeSet::new();
    check.list(at, wire, MAX_VOLUMES, |check, at, volume| {
        let name = check.name(at.field("name"), &volume.name);
        let size = check.quantity(at.field("size_bytes"), volume.size_bytes);
        let name = name?;
        if !names.insert(name.clone()) {
            return check.refuse(at.field("name"), format_args!("volume {name} is listed twice"));
        }
        Some((name, Bytes(size?)))
    })
}

fn desired(check: &mut Check, at: At<'_>, number: i32) -> Option<Desired> {
    Some(match check.known::<v1::Desired>(at, number)? {
        v1::Desired::Unspecified | v1::Desired::Running => Desired::Running,
        v1::Desired::Hibernated => Desired::Hibernated,
        v1::Desired::Archived => Desired::Archived,
    })
}

/// What a caller reads of a tenant.
#[must_use]
pub fn wire(tenant: &Tenant, facts: Option<&TenantFacts>, cluster_name: &dyn Fn(ClusterId) -> String) -> v1::Tenant {
    v1::Tenant {
        name: tenant.spec.name.to_string(),
        uid: tenant.id.to_string(),
        spec: Some(wire_spec(&tenant.spec)),
        status: Some(v1::TenantStatus {
            phase: wire_phase(&tenant.phase).into(),
            binding: tenant.phase.binding().map(|binding| wire_binding(&binding, cluster_name)),
            reason: schedule::describe_reason(&tenant.reason, cluster_name),
            misplaced: tenant.misplaced,
            requests: Some(wire_requests(&tenant.spec.requests)),
            retained_until: match tenant.phase {
                Phase::Retained { until, .. } => Some(wire_timestamp(until)),
                Phase::Pending { .. } | Phase::Bound { .. } | Phase::Releasing { .. } | Phase::Purging { .. } => None,
            },
            trouble: facts.and_then(|facts| facts.trouble.as_ref()).map(wire_trouble),
            volumes: facts.into_iter().flat_map(|facts| &facts.volumes).map(|(name, uid)| wire_volume(name, *uid)).collect(),
        }),
        revision: Some(wire_revision(tenant.changed)),
        create_time: Some(wire_timestamp(tenant.created_at)),
    }
}

/// What keeps a tenant from being as it is to be.
fn wire_trouble(trouble: &Trouble) -> v1::Trouble {
    let kind = match trouble.kind {
        TroubleKind::Waits => v1::trouble::Kind::Waits,
        TroubleKind::Blocked => v1::trouble::Kind::Blocked,
        TroubleKind::VolumeLost => v1::trouble::Kind::VolumeLost,
        TroubleKind::SecretLost => v1::trouble::Kind::SecretLost,
        TroubleKind::HeldBack => v1::trouble::Kind::HeldBack,
    };
    v1::Trouble { kind: kind.into(), why: trouble.why.clone(), since: Some(wire_timestamp(trouble.since)) }
}

/// A volume as its cluster knows it.
#[must_use]
pub fn wire_volume(name: &Name, uid: VolumeUid) -> v1::TenantVolume {
    v1::TenantVolume { name: name.to_string(), uid: uid.to_string() }
}

/// A spec as it was written.
#[must_use]
pub fn wire_spec(spec: &TenantSpec) -> v1::TenantSpec {
    v1::TenantSpec {
        owner: spec.owner.to_string(),
        class: spec.class.to_string(),
        version: spec.version.clone(),
        values_json: spec.values.clone(),
        hostnames: spec.hostnames.clone(),
        volumes: spec.volumes.iter().map(|(name, size)| v1::VolumeSize { name: name.to_string(), size_bytes: size.0 }).collect(),
        desired: match spec.desired {
            Desired::Running => v1::Desired::Running,
            Desired::Hibernated => v1::Desired::Hibernated,
            Desired::Archived => v1::Desired::Archived,
        }
        .into(),
        priority: spec.priority,
        deletion_protection: spec.deletion_protection,
        deadline: spec.deadline.map(wire_timestamp),
        constraints: constraints::wire(&spec.constraints),
    }
}

/// How far a tenant is.
#[must_use]
pub fn wire_phase(phase: &Phase) -> v1::Phase {
    match phase {
        Phase::Pending { .. } => v1::Phase::Pending,
        Phase::Bound { running: false, .. } => v1::Phase::Placed,
        Phase::Bound { running: true, .. } => v1::Phase::Running,
        Phase::Releasing { .. } => v1::Phase::Releasing,
        Phase::Retained { .. } => v1::Phase::Retained,
        Phase::Purging { .. } => v1::Phase::Purging,
    }
}

/// Where a tenant lives.
#[must_use]
pub fn wire_binding(binding: &Binding, cluster_name: &dyn Fn(ClusterId) -> String) -> v1::Binding {
    v1::Binding { cluster: cluster_name(binding.cluster), shard: u32::from(binding.shard.0), epoch: Some(wire_revision(binding.epoch)) }
}

/// Takes over the named fields of `from` into `into`. Paths are those of `TenantSpec`, with or without a leading `spec.`.
pub fn merge(check: &mut Check, into: &mut v1::TenantSpec, from: &v1::TenantSpec, paths: &[String]) -> Option<()> {
    let at = At::Top("update_mask");
    let mut whole = true;
    for (index, path) in paths.iter().enumerate() {
        if merge_field(into, from, path.strip_prefix("spec.").unwrap_or(path)).is_none() {
            whole = false;
            let _: Option<()> = check.refuse(
                at.field("paths").item(index),
                format_args!("{:?} is no field of a tenant's spec that can be taken over by itself", super::excerpt(path)),
            );
        }
    }
    whole.then_some(())
}

fn merge_field(into: &mut v1::TenantSpec, from: &v1::TenantSpec, path: &str) -> Option<()> {
    match path {
        "owner" => into.owner.clone_from(&from.owner),
        "class" => into.class.clone_from(&from.class),
        "version" => into.version.clone_from(&from.version),
        "values_json" => into.values_json.clone_from(&from.values_json),
        "hostnames" => into.hostnames.clone_from(&from.hostnames),
        "volumes" => into.volumes.clone_from(&from.volumes),
        "desired" => into.desired = from.desired,
        "priority" => into.priority = from.priority,
        "deletion_protection" => into.deletion_protection = from.deletion_protection,
        "deadline" => into.deadline = from.deadline,
        "constraints" => into.constraints.clone_from(&from.constraints),
        _ => {
            let field = path.strip_prefix("constraints.")?;
            let empty = v1::Constraints::default();
            let from = from.constraints.as_ref().unwrap_or(&empty);
            constraints::merge_field(into.constraints.get_or_insert_default(), from, field)?;
        }
    }
    Some(())
}
