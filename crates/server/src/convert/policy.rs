//! The fleet's policy, in both directions.

use std::collections::BTreeMap;

use roadstead_api::v1;
use roadstead_core::policy::{Policy, PolicySpec, Quota};
use roadstead_core::resources::{RESOURCE_COUNT, Resource};
use roadstead_core::time::Millis;

use super::check::{At, Check};
use super::{wire_duration, wire_revision};

/// Owners that may have a quota of their own.
const MAX_QUOTAS: usize = 100_000;
/// The most tenants that a policy lets wait: each costs memory on every replica.
const MAX_PENDING: u32 = 1_000_000;
/// The most waiting tenants that one batch tries: each costs some microseconds before the batch is answered.
const MAX_TRIES: u32 = 65_536;
/// The longest silence before a cluster takes no more tenants.
const MAX_SILENCE: Millis = Millis::from_secs(24 * 3600);
/// The longest time for which request ids are remembered.
const MAX_WINDOW: Millis = Millis::from_secs(24 * 3600);
/// The most request ids that are remembered: each costs some 100 bytes on every replica.
const MAX_REQUESTS: u32 = 20_000_000;

/// What an operator declares for the whole fleet; what is left out has its default.
pub fn policy(check: &mut Check, wire: Option<&v1::Policy>) -> Option<PolicySpec> {
    let top = At::Top("policy");
    let wire = check.required(top, wire)?;
    let at = top.field("spec");
    let spec = check.required(at, wire.spec.as_ref())?;
    let default = PolicySpec::default();
    let default_quota = match &spec.default_quota {
        None => Some(Quota::default()),
        Some(wire) => quota(check, at.field("default_quota"), wire),
    };
    let quotas = quotas(check, at.field("quotas"), &spec.quotas);
    let max_pending = check.within(at.field("max_pending"), spec.max_pending.unwrap_or(default.max_pending), 0, MAX_PENDING);
    let tries = spec.pending_tries_per_batch.unwrap_or(default.pending_tries_per_batch);
    let tries = check.within(at.field("pending_tries_per_batch"), tries, 1, MAX_TRIES);
    let silent_after = match &spec.silent_after {
        None => Some(default.silent_after),
        Some(length) => check.duration(at.field("silent_after"), length, MAX_SILENCE),
    };
    let request_window = match &spec.request_window {
        None => Some(default.request_window),
        Some(length) => check.duration(at.field("request_window"), length, MAX_WINDOW),
    };
    let max_requests = check.within(at.field("max_requests"), spec.max_requests.unwrap_or(default.max_requests), 1, MAX_REQUESTS);
    let (silent_after, request_window) = (silent_after?, request_window?);
    if silent_after < Millis::from_secs(1) {
        return check.refuse(at.field("silent_after"), "must be at least 1 s, else every cluster is silent between two reports");
    }
    if request_window < Millis::from_secs(1) {
        return check.refuse(at.field("request_window"), "must be at least 1 s, else no retry is recognised");
    }
    Some(PolicySpec {
        default_quota: default_quota?,
        quotas: quotas?,
        max_pending: max_pending?,
        pending_tries_per_batch: tries?,
        silent_after,
        request_window,
        max_requests: max_requests?,
    })
}

fn quotas(check: &mut Check, at: At<'_>, wire: &BTreeMap<String, v1::Quota>) -> Option<BTreeMap<roadstead_core::id::Owner, Quota>> {
    if wire.len() > MAX_QUOTAS {
        return check.refuse(at, format_args!("has {} entries, at most {MAX_QUOTAS} are allowed", wire.len()));
    }
    let mut whole = true;
    let mut quotas = BTreeMap::new();
    for (owner, wire) in wire {
        let shown = super::excerpt(owner);
        match (check.owner(at.key(&shown), owner), quota(check, at.key(&shown), wire)) {
            (Some(owner), Some(quota)) => drop(quotas.insert(owner, quota)),
            (None, _) | (_, None) => whole = false,
        }
    }
    whole.then_some(quotas)
}

fn quota(check: &mut Check, at: At<'_>, wire: &v1::Quota) -> Option<Quota> {
    let mut resources = [None; RESOURCE_COUNT];
    let mut whole = true;
    let map = at.field("resources");
    for (name, amount) in &wire.resources {
        let shown = super::excerpt(name);
        let resource = super::cluster::resource(check, map.key(&shown), name);
        match (resource, check.quantity(map.key(&shown), *amount)) {
            (Some(resource), Some(amount)) => resources[resource as usize] = Some(amount),
            (None, _) | (_, None) => whole = false,
        }
    }
    whole.then_some(Quota { tenants: wire.tenants, resources })
}

/// What a caller reads of the policy.
#[must_use]
pub fn wire(policy: &Policy) -> v1::Policy {
    v1::Policy { revision: Some(wire_revision(policy.changed)), ..wire_spec(&policy.spec) }
}

/// A policy as it was declared, without a revision.
#[must_use]
pub fn wire_spec(spec: &PolicySpec) -> v1::Policy {
    let spec = v1::PolicySpec {
        default_quota: (spec.default_quota != Quota::default()).then(|| wire_quota(&spec.default_quota)),
        quotas: spec.quotas.iter().map(|(owner, quota)| (owner.to_string(), wire_quota(quota))).collect(),
        max_pending: Some(spec.max_pending),
        pending_tries_per_batch: Some(spec.pending_tries_per_batch),
        silent_after: Some(wire_duration(spec.silent_after)),
        request_window: Some(wire_duration(spec.request_window)),
        max_requests: Some(spec.max_requests),
    };
    v1::Policy { spec: Some(spec), revision: None }
}

fn wire_quota(quota: &Quota) -> v1::Quota {
    let resources = Resource::ALL.into_iter().zip(quota.resources);
    v1::Quota {
        tenants: quota.tenants,
        resources: resources.filter_map(|(resource, amount)| Some((resource.name().to_owned(), amount?))).collect(),
    }
}
