//! Where a tenant may go: constraints, tolerations, company, preferences.

use serde::{Deserialize, Serialize};

use crate::id::{Name, Owner};

/// The limits on constraints' sizes, so that one request cannot make every decision slow.
pub mod limits {
    /// Values in one requirement, regions in one list, and the like.
    pub const MAX_VALUES: usize = 64;
    /// Requirements, tolerations, company terms or preferences of one tenant, each.
    pub const MAX_TERMS: usize = 32;
    /// Length of a label's key or value.
    pub const MAX_LABEL_LEN: usize = 317;
    /// The greatest weight of a preference, as in Kubernetes.
    pub const MAX_WEIGHT: u32 = 100;
}

/// How a label is compared (as in Kubernetes' node affinity).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Operator {
    /// The value is one of those listed.
    In,
    /// The label is absent or its value is none of those listed.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The value is an integer greater than the one listed.
    Gt,
    /// The value is an integer less than the one listed.
    Lt,
}

/// One expression over a cluster's labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// Comparison.
    pub operator: Operator,
    /// Operands: one or more for `In` and `NotIn`, none for `Exists` and `DoesNotExist`, one integer for `Gt` and `Lt`.
    pub values: Vec<String>,
}

/// What a taint does to those that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TaintEffect {
    /// Nothing new comes.
    NoSchedule,
    /// Nothing new comes if there is another place.
    PreferNoSchedule,
}

/// A cluster's taint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, may be empty.
    pub value: String,
    /// Effect.
    pub effect: TaintEffect,
}

/// What a tenant tolerates. An absent key tolerates every taint, an absent value every value of the key, an absent effect both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Toleration {
    /// Taint key.
    pub key: Option<String>,
    /// Taint value.
    pub value: Option<String>,
    /// Taint effect.
    pub effect: Option<TaintEffect>,
}

impl Toleration {
    /// Whether this tolerates `taint`.
    #[must_use]
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self.value.as_ref().is_none_or(|value| *value == taint.value)
            && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}

/// What divides the fleet into domains.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TopologyKey {
    /// Every shard is a domain.
    Shard,
    /// Every cluster is a domain.
    Cluster,
    /// Clusters of one region (of one provider).
    Region,
    /// Clusters of one provider.
    Provider,
    /// Clusters with the same value of this label; a cluster without it is a domain of its own.
    Label(String),
}

/// Whose company is sought or shunned.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Company {
    /// One tenant.
    Tenant(Name),
    /// Every tenant of an owner.
    Owner(Owner),
}

/// Sought or shunned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CompanyKind {
    /// In the same domain. While the company is nowhere there is nothing to be together with, and the tenant goes anywhere; the
    /// company then has to come to it.
    Together,
    /// In different domains.
    Apart,
}

/// Together with, or apart from, other tenants. Symmetric: it binds whichever of the two comes later.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CompanyTerm {
    /// Sought or shunned.
    pub kind: CompanyKind,
    /// Whose.
    pub company: Company,
    /// What "same place" means.
    pub topology: TopologyKey,
}

/// At most `max` tenants of this tenant's owner in one shard or cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OwnerLimit {
    /// Shard or cluster.
    pub scope: OwnerLimitScope,
    /// The limit, at least 1; this tenant included.
    pub max: u32,
}

/// What an [`OwnerLimit`] counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OwnerLimitScope {
    /// One shard.
    Shard,
    /// One cluster.
    Cluster,
}

/// Something wished for: clusters that match are preferred by `weight`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Preference {
    /// 1 to 100.
    pub weight: u32,
    /// What is preferred.
    pub wish: Wish,
}

/// What a preference is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Wish {
    /// Labels.
    Label(Requirement),
    /// A region.
    Region(String),
    /// A zone.
    Zone(String),
    /// A provider.
    Provider(String),
    /// Company.
    Company(CompanyTerm),
}

/// Everything that limits where a tenant may go. Empty lists allow everything; all fields must hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Constraints {
    /// One of these providers.
    pub providers: Vec<String>,
    /// One of these regions.
    pub regions: Vec<String>,
    /// A cluster that has one of these zones.
    pub zones: Vec<String>,
    /// The cluster's residency must be this.
    pub residency: Option<String>,
    /// Clusters of this pool only.
    pub pool: Option<Name>,
    /// This cluster only.
    pub cluster: Option<Name>,
    /// All of these must hold for the cluster's labels.
    pub labels: Vec<Requirement>,
    /// Taints that do not matter.
    pub tolerations: Vec<Toleration>,
    /// Only clusters that are dedicated to this tenant's owner.
    pub dedicated: bool,
    /// Together with or apart from others.
    pub company: Vec<CompanyTerm>,
    /// At most N of this owner.
    pub owner_limits: Vec<OwnerLimit>,
    /// Wishes.
    pub preferences: Vec<Preference>,
}
