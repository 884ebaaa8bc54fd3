//! Explanations and histories, as people read them.

use roadstead_api::v1;
use roadstead_core::history::{EventKind, TenantEvent};
use roadstead_core::id::ClusterId;
use roadstead_core::ledger::Refusal;
use roadstead_core::schedule::{self, Cause, Explanation, Verdict};

use super::{wire_revision, wire_timestamp};

/// Candidates that are named unless every cluster was asked for.
const MAX_CANDIDATES: usize = 10;

/// The whole story of one decision; refusals of one cause together unless every cluster was asked for.
#[must_use]
pub fn wire(explanation: &Explanation, every_cluster: bool, name: &dyn Fn(ClusterId) -> String) -> v1::Explanation {
    let most = if every_cluster { usize::MAX } else { MAX_CANDIDATES };
    let mut candidates = Vec::new();
    let mut candidate_count = 0;
    for (cluster, verdict) in &explanation.clusters {
        let Verdict::Fits { terms, warnings, .. } = verdict else { continue };
        candidate_count += 1;
        if candidates.len() < most {
            let terms = terms.iter().map(|(name, value)| v1::ScoreTerm { name: (*name).to_owned(), value: *value }).collect();
            candidates.push(v1::Candidate { cluster: name(*cluster), rank: candidate_count, terms, warnings: warnings.clone() });
        }
    }
    v1::Explanation {
        summary: summary(explanation, candidate_count, name),
        candidates,
        candidate_count,
        refusals: if every_cluster { every_refusal(explanation, name) } else { grouped_refusals(explanation, name) },
        would_bind: explanation.decision.as_ref().ok().map(|placement| v1::Binding {
            cluster: name(placement.cluster),
            shard: u32::from(placement.shard.0),
            epoch: None,
        }),
    }
}

fn summary(explanation: &Explanation, candidates: u32, name: &dyn Fn(ClusterId) -> String) -> String {
    let all = explanation.clusters.len();
    match &explanation.decision {
        Ok(placement) => {
            let why = schedule::describe_reason(&placement.reason, name);
            format!(
                "would go to {} shard {}: {candidates} of {all} clusters would take it; {why}",
                name(placement.cluster),
                placement.shard.0
            )
        }
        Err(unplaceable) => schedule::describe_reason(&unplaceable.reason, name),
    }
}

fn grouped_refusals(explanation: &Explanation, name: &dyn Fn(ClusterId) -> String) -> Vec<v1::Refusal> {
    let groups = schedule::group(explanation).into_iter();
    groups
        .map(|group| {
            let (closest, refusal) = &group.closest;
            let examples: Vec<String> = group.examples.iter().map(|cluster| name(*cluster)).collect();
            let message = format!("{}; closest is {}: {}", group.cause.words(), name(*closest), schedule::describe_refusal(refusal));
            one_refusal(refusal, message, group.count, examples)
        })
        .collect()
}

fn every_refusal(explanation: &Explanation, name: &dyn Fn(ClusterId) -> String) -> Vec<v1::Refusal> {
    let mut all = Vec::new();
    for (cluster, verdict) in &explanation.clusters {
        let Verdict::Refuses(refusals) = verdict else { continue };
        for refusal in refusals {
            let message = format!("{}: {}", name(*cluster), schedule::describe_refusal(refusal));
            all.push(one_refusal(refusal, message, 1, vec![name(*cluster)]));
        }
    }
    all
}

fn one_refusal(refusal: &Refusal, message: String, count: u32, clusters: Vec<String>) -> v1::Refusal {
    let (wanted, free, limit) = numbers(refusal);
    v1::Refusal { cause: cause_name(Cause::of(refusal)).to_owned(), message, count, clusters, wanted, free, limit }
}

fn numbers(refusal: &Refusal) -> (Option<u64>, Option<u64>, Option<u64>) {
    match refusal {
        Refusal::Resource { wanted, free, limit, .. } => (Some(*wanted), Some(*free), Some(*limit)),
        Refusal::TenantCap { limit } | Refusal::Shards { limit } => (Some(1), Some(0), Some(u64::from(*limit))),
        Refusal::Shard { limit, .. } => (Some(1), Some(0), Some(u64::from(*limit))),
        Refusal::State(_) | Refusal::Fenced | Refusal::LargestPod { .. } | Refusal::Constraint { .. } => (None, None, None),
    }
}

/// The machine-readable name of a cause.
fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Dedicated => "dedicated",
        Cause::Cluster => "cluster",
        Cause::Pool => "pool",
        Cause::Provider => "provider",
        Cause::Region => "region",
        Cause::Zone => "zone",
        Cause::Residency => "residency",
        Cause::Label => "label",
        Cause::Taint => "taint",
        Cause::OtherConstraint => "constraint",
        Cause::LargestPod => "largest_pod",
        Cause::Fenced => "fenced",
        Cause::Cordoned => "cordoned",
        Cause::Draining => "draining",
        Cause::Silent => "silent",
        Cause::Overfull => "overfull",
        Cause::Together => "together",
        Cause::Apart => "apart",
        Cause::OwnerLimit => "owner_limit",
        Cause::TenantCap => "tenant_cap",
        Cause::Shards => "shards",
        Cause::Cpu => "cpu",
        Cause::Memory => "memory",
        Cause::Pods => "pods",
        Cause::Storage => "storage",
        Cause::Attachments => "attachments",
    }
}

/// One event of a tenant's history.
#[must_use]
pub fn wire_event(event: &TenantEvent, name: &dyn Fn(ClusterId) -> String) -> v1::TenantEvent {
    let (kind, message) = match &event.kind {
        EventKind::Placed { cluster, shard } => ("placed", format!("placed in {} shard {}", name(*cluster), shard.0)),
        EventKind::Pending => ("pending", "fits nowhere, waits for room".to_owned()),
        EventKind::Running => ("running", "seen running by its cluster's agent".to_owned()),
        EventKind::Updated => ("updated", "its spec was changed".to_owned()),
        EventKind::Released { purge: false } => ("released", "deleted; its volumes are kept for the class's retention".to_owned()),
        EventKind::Released { purge: true } => ("released", "deleted with its volumes".to_owned()),
        EventKind::Retained { until } => {
            let until = wire_timestamp(*until);
            ("retained", format!("stopped; its volumes are kept until {until}"))
        }
        EventKind::Undeleted => ("undeleted", "brought back".to_owned()),
        EventKind::Adopted { cluster, shard } => {
            ("adopted", format!("recorded where it ran already, in {} shard {}", name(*cluster), shard.0))
        }
        EventKind::Forgotten { cluster } => ("forgotten", format!("its cluster {} was declared gone for good", name(*cluster))),
        EventKind::Misplaced { misplaced: true } => ("misplaced", "its constraints no longer hold where it is".to_owned()),
        EventKind::Misplaced { misplaced: false } => ("in-place", "its constraints hold again where it is".to_owned()),
        EventKind::RemovalAllowed { until } => {
            let until = wire_timestamp(*until);
            ("removal-allowed", format!("an operator agreed to its removal beyond what is removed unasked, until {until}"))
        }
    };
    v1::TenantEvent {
        time: Some(wire_timestamp(event.time)),
        revision: Some(wire_revision(event.revision)),
        principal: event.principal.to_string(),
        kind: kind.to_owned(),
        message,
    }
}
