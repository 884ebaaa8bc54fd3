//! The kept reason of a decision: what it was decided by, in at most [`MAX_REASON_BYTES`](crate::tenant::MAX_REASON_BYTES) bytes.
//!
//! The first byte is the version; the rest is postcard. Bytes of another version are described as such, never misread.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::cluster::ClusterState;
use crate::id::ClusterId;
use crate::ledger::Refusal;
use crate::resources::{Resource, amount};
use crate::schedule::score::{Candidate, Score, TERM_COUNT};

/// The version of the format below.
const VERSION: u8 = 1;

/// Why a cluster refused, without the numbers. Written into reasons: variants are only ever added at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Cause {
    /// Dedicated to others, or not dedicated.
    Dedicated,
    /// Pinned to another cluster.
    Cluster,
    /// Another pool is wanted.
    Pool,
    /// Another provider is wanted.
    Provider,
    /// Another region is wanted.
    Region,
    /// Another zone is wanted.
    Zone,
    /// Another residency is wanted.
    Residency,
    /// A label expression does not hold.
    Label,
    /// A taint is not tolerated.
    Taint,
    /// A constraint of a kind that this build does not know.
    OtherConstraint,
    /// No node is large enough.
    LargestPod,
    /// Waits for its agent since a restore.
    Fenced,
    /// Cordoned.
    Cordoned,
    /// Being emptied.
    Draining,
    /// Its agent is silent.
    Silent,
    /// Over a hard limit.
    Overfull,
    /// The company is elsewhere.
    Together,
    /// The company is here.
    Apart,
    /// Too many of the owner.
    OwnerLimit,
    /// The tenant cap.
    TenantCap,
    /// No shard has room.
    Shards,
    /// CPU.
    Cpu,
    /// Memory.
    Memory,
    /// Pods.
    Pods,
    /// Storage.
    Storage,
    /// Volume attachments.
    Attachments,
}

impl Cause {
    /// The cause of a refusal.
    #[must_use]
    pub fn of(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::State(ClusterState::Cordoned) => Self::Cordoned,
            Refusal::State(ClusterState::Draining) => Self::Draining,
            Refusal::State(ClusterState::Silent) => Self::Silent,
            Refusal::State(ClusterState::Overfull | ClusterState::Active) => Self::Overfull,
            Refusal::Fenced => Self::Fenced,
            Refusal::TenantCap { .. } => Self::TenantCap,
            Refusal::Shards { .. } | Refusal::Shard { .. } => Self::Shards,
            Refusal::Resource { resource, .. } => match resource {
                Resource::Cpu => Self::Cpu,
                Resource::Memory => Self::Memory,
                Resource::Pods => Self::Pods,
                Resource::Storage => Self::Storage,
                Resource::Attachments => Self::Attachments,
            },
            Refusal::LargestPod { .. } => Self::LargestPod,
            Refusal::Constraint { which, .. } => Self::of_constraint(which),
        }
    }

    /// The cause that a kind of constraint is.
    pub(crate) fn of_constraint(which: &str) -> Self {
        match which {
            "dedicated" => Self::Dedicated,
            "cluster" => Self::Cluster,
            "pool" => Self::Pool,
            "provider" => Self::Provider,
            "region" => Self::Region,
            "zone" => Self::Zone,
            "residency" => Self::Residency,
            "label" => Self::Label,
            "taint" => Self::Taint,
            "together" => Self::Together,
            "apart" => Self::Apart,
            "owner limit" => Self::OwnerLimit,
            _ => Self::OtherConstraint,
        }
    }

    /// The cause in plain words, to follow a number of clusters.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Dedicated => "dedicated to other owners, or to none",
            Self::Cluster => "not the cluster that it is pinned to",
            Self::Pool => "in another pool",
            Self::Provider => "of another provider",
            Self::Region => "in another region",
            Self::Zone => "without the wanted zone",
            Self::Residency => "with another residency",
            Self::Label => "without the wanted labels",
            Self::Taint => "with a taint that is not tolerated",
            Self::OtherConstraint => "against a constraint",
            Self::LargestPod => "without a node large enough for the largest pod",
            Self::Fenced => "not heard of since the restore",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
            Self::Silent => "silent",
            Self::Overfull => "overfull",
            Self::Together => "without the company that is wanted",
            Self::Apart => "with company that is to be kept apart",
            Self::OwnerLimit => "at the limit for this owner",
            Self::TenantCap => "at the tenant cap",
            Self::Shards => "without room in a shard",
            Self::Cpu => "short of cpu",
            Self::Memory => "short of memory",
            Self::Pods => "short of pods",
            Self::Storage => "short of storage",
            Self::Attachments => "short of volume attachments",
        }
    }
}

/// What is kept of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// It was placed.
    Placed {
        /// Clusters of the fleet.
        clusters: u32,
        /// The winner's terms, in the order of the score.
        terms: [i64; TERM_COUNT],
        /// The next best and its terms; `None` if no other fits.
        runner_up: Option<(ClusterId, [i64; TERM_COUNT])>,
    },
    /// Nothing fitted.
    Unplaceable {
        /// Clusters of the fleet.
        clusters: u32,
        /// Clusters by their first cause, in the order of checks: constraints, state, company, caps, resources.
        causes: Vec<(Cause, u32)>,
        /// Of the clusters that lack nothing but one resource, the one that lacks the least of it.
        closest: Option<Shortfall>,
    },
}

/// What a cluster lacks of one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortfall {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Which resource.
    pub resource: Resource,
    /// What is asked for.
    pub wanted: u64,
    /// What is free.
    pub free: u64,
    /// What may be promised.
    pub limit: u64,
}

impl Shortfall {
    /// The missing part of what is wanted, in millionths, and the cluster: the least is the closest.
    fn key(&self) -> (u64, ClusterId) {
        let (missing, wanted) = (self.wanted.saturating_sub(self.free), self.wanted.max(1));
        let part = match missing.checked_mul(1_000_000) {
            Some(millionfold) => millionfold / wanted,
            None => (u128::from(missing) * 1_000_000 / u128::from(wanted)) as u64,
        };
        (part, self.cluster)
    }
}

/// Counts why nothing fits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    clusters: u32,
    causes: BTreeMap<Cause, u32>,
    closest: Option<Shortfall>,
}

impl Tally {
    /// Some clusters that refuse first of all for this cause.
    pub(crate) fn add(&mut self, cause: Cause, clusters: u32) {
        if clusters > 0 {
            self.clusters += clusters;
            *self.causes.entry(cause).or_default() += clusters;
        }
    }

    /// One cluster with all of its refusals.
    pub(crate) fn add_cluster(&mut self, cluster: ClusterId, refusals: &[Refusal]) {
        if let Some(first) = refusals.first() {
            self.add(Cause::of(first), 1);
        }
        if let [Refusal::Resource { resource, wanted, free, limit }] = *refusals {
            self.near(Shortfall { cluster, resource, wanted, free, limit });
        }
    }

    /// A cluster that lacks nothing but one resource.
    pub(crate) fn near(&mut self, shortfall: Shortfall) {
        if self.is_closer(&shortfall) {
            self.closest = Some(shortfall);
        }
    }

    /// Whether this is closer than the closest so far.
    pub(crate) fn is_closer(&self, shortfall: &Shortfall) -> bool {
        self.closest.is_none_or(|than| shortfall.key() < than.key())
    }

    /// The sum as a reason.
    pub(crate) fn into_reason(self) -> Reason {
        Reason::Unplaceable { clusters: self.clusters, causes: self.causes.into_iter().collect(), closest: self.closest }
    }
}

impl Reason {
    /// Why the winner was chosen.
    pub(crate) fn placed(clusters: u32, winner: &Candidate, runner_up: Option<&Candidate>) -> Self {
        Self::Placed { clusters, terms: winner.score.0, runner_up: runner_up.map(|next| (next.cluster, next.score.0)) }
    }

    /// The reason as it is kept.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.push(VERSION);
        postcard::to_extend(self, bytes).expect("numbers and enums always encode")
    }

    /// The reason from what was kept; `None` if this build cannot read it.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first() {
            Some((&VERSION, body)) => postcard::from_bytes(body).ok(),
            _ => None,
        }
    }

    /// The reason in plain words.
    #[must_use]
    pub fn describe(&self, cluster_name: &dyn Fn(ClusterId) -> String) -> String {
        match self {
            Self::Placed { clusters, terms, runner_up } => describe_placed(*clusters, *terms, *runner_up, cluster_name),
            Self::Unplaceable { clusters, causes, closest } => describe_unplaceable(*clusters, causes, *closest, cluster_name),
        }
    }
}

/// Puts an encoded reason into plain words; `cluster_name` resolves ids. Never fails: unknown bytes are described as such.
#[must_use]
pub fn describe_reason(reason: &[u8], cluster_name: &dyn Fn(ClusterId) -> String) -> String {
    match (Reason::decode(reason), reason.first()) {
        (Some(reason), _) => reason.describe(cluster_name),
        (None, None) => "no reason was kept".to_owned(),
        (None, Some(&VERSION)) => format!("the kept reason ({} bytes) is damaged", reason.len()),
        (None, Some(version)) => {
            format!("the kept reason is of format {version}; this build reads format {VERSION}")
        }
    }
}

fn describe_placed(
    clusters: u32,
    terms: [i64; TERM_COUNT],
    runner_up: Option<(ClusterId, [i64; TERM_COUNT])>,
    cluster_name: &dyn Fn(ClusterId) -> String,
) -> String {
    let mut text = match runner_up {
        Some(_) => format!("best of those that fitted, of {clusters} clusters ("),
        None => format!("the only one of {clusters} clusters that fitted ("),
    };
    for (position, (name, value)) in Score::NAMES.iter().zip(terms).enumerate() {
        let _ = write!(text, "{}{name} {value}", if position == 0 { "" } else { ", " });
    }
    text.push(')');
    match runner_up {
        None => {}
        Some((cluster, other)) => {
            let name = cluster_name(cluster);
            let decided = terms.iter().zip(other).position(|(own, other)| *own != other);
            let _ = match decided {
                Some(term) => write!(text, "; next was {name}, with {} {} against {}", Score::NAMES[term], other[term], terms[term]),
                None => write!(text, "; next was {name}, equal in every term, with a higher number"),
            };
        }
    }
    text
}

fn describe_unplaceable(
    clusters: u32,
    causes: &[(Cause, u32)],
    closest: Option<Shortfall>,
    cluster_name: &dyn Fn(ClusterId) -> String,
) -> String {
    if clusters == 0 {
        return "there are no clusters".to_owned();
    }
    let mut causes = causes.to_vec();
    causes.sort_by_key(|(cause, count)| (std::cmp::Reverse(*count), *cause));
    let listed = causes.iter().map(|(cause, count)| format!("{count} {}", cause.words())).collect::<Vec<_>>().join(", ");
    let mut text = format!("none of {clusters} clusters fits: {listed}");
    if let Some(Shortfall { cluster, resource, wanted, free, limit }) = closest {
        let name = cluster_name(cluster);
        let _ = write!(
            text,
            "; closest is {name}: {} of {resource} wanted, {} of {} free",
            amount(resource, wanted),
            amount(resource, free),
            amount(resource, limit)
        );
    }
    text
}
