//! Groups an explanation so that a report on a thousand clusters is readable.

use std::collections::BTreeMap;

use crate::id::ClusterId;
use crate::ledger::Refusal;
use crate::resources::amount;
use crate::schedule::reason::Cause;
use crate::schedule::{Explanation, Verdict};

/// Clusters that a group names as examples.
pub const MAX_EXAMPLES: usize = 3;

/// The clusters that were refused for one cause. A cluster with several causes is in several groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalGroup {
    /// Why.
    pub cause: Cause,
    /// How many clusters.
    pub count: u32,
    /// How many of them were refused for this cause alone.
    pub alone: u32,
    /// Some of them: the lowest numbers.
    pub examples: Vec<ClusterId>,
    /// The one that came closest, if the cause has numbers, else the first.
    pub closest: (ClusterId, Refusal),
}

/// The refusals of an explanation by cause, the most frequent first.
#[must_use]
pub fn group(explanation: &Explanation) -> Vec<RefusalGroup> {
    let mut groups = BTreeMap::<Cause, RefusalGroup>::new();
    for (cluster, verdict) in &explanation.clusters {
        let Verdict::Refuses(refusals) = verdict else { continue };
        let mut causes: Vec<_> = refusals.iter().map(|refusal| (Cause::of(refusal), refusal)).collect();
        causes.dedup_by_key(|(cause, _)| *cause);
        for (cause, refusal) in &causes {
            let group = groups.entry(*cause).or_insert_with(|| RefusalGroup {
                cause: *cause,
                count: 0,
                alone: 0,
                examples: Vec::new(),
                closest: (*cluster, (*refusal).clone()),
            });
            group.count += 1;
            group.alone += u32::from(causes.len() == 1);
            if group.examples.len() < MAX_EXAMPLES {
                group.examples.push(*cluster);
            }
            if missing(refusal) < missing(&group.closest.1) {
                group.closest = (*cluster, (*refusal).clone());
            }
        }
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|group| (std::cmp::Reverse(group.count), group.cause));
    groups
}

/// How much is missing, where that can be counted.
fn missing(refusal: &Refusal) -> u64 {
    match refusal {
        Refusal::Resource { wanted, free, .. } => wanted.saturating_sub(*free),
        Refusal::LargestPod { wanted, largest } => {
            wanted.cpu.0.saturating_sub(largest.cpu.0).saturating_add(wanted.memory.0.saturating_sub(largest.memory.0))
        }
        Refusal::State(_)
        | Refusal::Fenced
        | Refusal::TenantCap { .. }
        | Refusal::Shards { .. }
        | Refusal::Shard { .. }
        | Refusal::Constraint { .. } => 0,
    }
}

/// One refusal in plain words, with its numbers.
#[must_use]
pub fn describe_refusal(refusal: &Refusal) -> String {
    use crate::resources::Resource::{Cpu, Memory};
    match refusal {
        Refusal::State(_) | Refusal::Fenced => Cause::of(refusal).words().to_owned(),
        Refusal::TenantCap { limit } => format!("tenant cap of {limit} reached"),
        Refusal::Shards { limit } => format!("all shards are full and there may be {limit} at most"),
        Refusal::Shard { shard, limit } => format!("shard {} may hold {limit} tenants and has no room", shard.0),
        Refusal::Resource { resource, wanted, free, limit } => {
            let [wanted, free, limit] = [wanted, free, limit].map(|value| amount(*resource, *value));
            format!("{resource}: {wanted} wanted, {free} of {limit} free")
        }
        Refusal::LargestPod { wanted, largest } => format!(
            "largest pod: cpu {} and memory {} wanted on one node, the closest has {} and {}",
            amount(Cpu, wanted.cpu.0),
            amount(Memory, wanted.memory.0),
            amount(Cpu, largest.cpu.0),
            amount(Memory, largest.memory.0)
        ),
        Refusal::Constraint { which, detail } => format!("{which}: {detail}"),
    }
}
