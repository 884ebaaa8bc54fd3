//! Constraints as documents write them, and their form on the wire.

use roadstead_api::v1;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Findings;
use super::quantity::{Label, OwnerName};

/// Where a tenant may go. What is left out allows everything; all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Constraints {
    /// One of these providers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<String>,
    /// One of these regions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// A cluster with one of these zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Jurisdiction of its data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residency: Option<String>,
    /// This pool only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<Label>,
    /// This cluster only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Label>,
    /// Expressions over cluster labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Requirement>,
    /// Tolerated taints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Only clusters dedicated to the owner.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dedicated: bool,
    /// In the same place as these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub together: Vec<Company>,
    /// In another place than these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<Company>,
    /// At most so many of the owner in one place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owner_limits: Vec<OwnerLimit>,
    /// Wishes, weighted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preferences: Vec<Preference>,
}

/// One expression over labels, as in Kubernetes' node affinity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// Comparison.
    pub operator: Operator,
    /// Operands: any number for In and NotIn, none for Exists and DoesNotExist, one integer for Gt and Lt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// The value is listed.
    In,
    /// The label is absent or its value is not listed.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// An integer greater than the operand.
    Gt,
    /// An integer less than the operand.
    Lt,
}

/// What a taint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// Nothing new comes.
    NoSchedule,
    /// Nothing new comes if there is another place.
    PreferNoSchedule,
}

/// A cluster's taint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// What it does.
    pub effect: TaintEffect,
}

/// What a tenant tolerates; what is left out matches anything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Toleration {
    /// Taint key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Taint value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Taint effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
}

/// Whose company: one tenant's or an owner's, counted within a topology.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Company {
    /// A tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Label>,
    /// All tenants of an owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerName>,
    /// `shard`, `cluster`, `region`, `provider`, or a label key of clusters.
    pub topology_key: String,
}

/// At most `max` tenants of the owner in one shard or cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OwnerLimit {
    /// In what they are counted.
    pub scope: LimitScope,
    /// At least 1.
    pub max: u32,
}

/// In what tenants of an owner are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LimitScope {
    /// One shard.
    Shard,
    /// One cluster.
    Cluster,
}

/// A wish with a weight; exactly one wish.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Preference {
    /// 1 to 100.
    pub weight: u32,
    /// A label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Requirement>,
    /// A region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// A zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// A provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Company that is sought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<Company>,
    /// Company that is shunned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart: Option<Company>,
}

impl Constraints {
    /// Says what no single field's type can: combinations that mean nothing.
    pub fn check(&self, path: &str, findings: &mut Findings) {
        for (index, requirement) in self.labels.iter().enumerate() {
            requirement.check(&format!("{path}.labels[{index}]"), findings);
        }
        for (list, terms) in [("together", &self.together), ("apart", &self.apart)] {
            for (index, term) in terms.iter().enumerate() {
                term.check(&format!("{path}.{list}[{index}]"), findings);
            }
        }
        for (index, limit) in self.owner_limits.iter().enumerate() {
            if limit.max == 0 {
                findings.add(format!("{path}.ownerLimits[{index}].max"), "must be at least 1");
            }
        }
        for (index, preference) in self.preferences.iter().enumerate() {
            preference.check(&format!("{path}.preferences[{index}]"), findings);
        }
    }
}

impl Requirement {
    fn check(&self, path: &str, findings: &mut Findings) {
        let integer = |values: &[String]| values.len() == 1 && values[0].parse::<i64>().is_ok();
        let (ok, rule) = match self.operator {
            Operator::In | Operator::NotIn => (!self.values.is_empty(), "In and NotIn need at least one value"),
            Operator::Exists | Operator::DoesNotExist => (self.values.is_empty(), "Exists and DoesNotExist take no values"),
            Operator::Gt | Operator::Lt => (integer(&self.values), "Gt and Lt take exactly one integer"),
        };
        if !ok {
            findings.add(format!("{path}.values"), rule);
        }
    }
}

impl Company {
    fn check(&self, path: &str, findings: &mut Findings) {
        if self.tenant.is_some() == self.owner.is_some() {
            findings.add(path.to_owned(), "name either a `tenant` or an `owner`");
        }
    }

    fn to_wire(&self, kind: v1::company_term::Kind) -> v1::CompanyTerm {
        use v1::company_term::Company as Wire;
        let company = match (&self.tenant, &self.owner) {
            (Some(tenant), _) => Some(Wire::Tenant(tenant.0.clone())),
            (None, Some(owner)) => Some(Wire::Owner(owner.0.clone())),
            (None, None) => None,
        };
        v1::CompanyTerm { kind: kind.into(), company, topology_key: self.topology_key.clone() }
    }

    fn from_wire(term: &v1::CompanyTerm) -> Self {
        use v1::company_term::Company as Wire;
        let (tenant, owner) = match &term.company {
            Some(Wire::Tenant(tenant)) => (Some(Label(tenant.clone())), None),
            Some(Wire::Owner(owner)) => (None, Some(OwnerName(owner.clone()))),
            None => (None, None),
        };
        Self { tenant, owner, topology_key: term.topology_key.clone() }
    }
}

impl Preference {
    fn check(&self, path: &str, findings: &mut Findings) {
        if !(1..=100).contains(&self.weight) {
            findings.add(format!("{path}.weight"), "must be 1 to 100");
        }
        let given = [
            self.label.is_some(),
            self.region.is_some(),
            self.zone.is_some(),
            self.provider.is_some(),
            self.together.is_some(),
            self.apart.is_some(),
        ];
        if given.into_iter().filter(|given| *given).count() != 1 {
            findings.add(path.to_owned(), "needs exactly one of label, region, zone, provider, together, apart");
        }
        if let Some(label) = &self.label {
            label.check(&format!("{path}.label"), findings);
        }
        for (name, company) in [("together", &self.together), ("apart", &self.apart)] {
            if let Some(company) = company {
                company.check(&format!("{path}.{name}"), findings);
            }
        }
    }
}

impl From<&Requirement> for v1::Requirement {
    fn from(doc: &Requirement) -> Self {
        let operator = match doc.operator {
            Operator::In => v1::Operator::In,
            Operator::NotIn => v1::Operator::NotIn,
            Operator::Exists => v1::Operator::Exists,
            Operator::DoesNotExist => v1::Operator::DoesNotExist,
            Operator::Gt => v1::Operator::Gt,
            Operator::Lt => v1::Operator::Lt,
        };
        Self { key: doc.key.clone(), operator: operator.into(), values: doc.values.clone() }
    }
}

impl From<&v1::Requirement> for Requirement {
    fn from(wire: &v1::Requirement) -> Self {
        let operator = match wire.operator() {
            v1::Operator::Unspecified | v1::Operator::In => Operator::In,
            v1::Operator::NotIn => Operator::NotIn,
            v1::Operator::Exists => Operator::Exists,
            v1::Operator::DoesNotExist => Operator::DoesNotExist,
            v1::Operator::Gt => Operator::Gt,
            v1::Operator::Lt => Operator::Lt,
        };
        Self { key: wire.key.clone(), operator, values: wire.values.clone() }
    }
}

fn effect_to_wire(effect: Option<TaintEffect>) -> i32 {
    match effect {
        None => v1::TaintEffect::Unspecified,
        Some(TaintEffect::NoSchedule) => v1::TaintEffect::NoSchedule,
        Some(TaintEffect::PreferNoSchedule) => v1::TaintEffect::PreferNoSchedule,
    }
    .into()
}

fn effect_from_wire(effect: v1::TaintEffect) -> Option<TaintEffect> {
    match effect {
        v1::TaintEffect::Unspecified => None,
        v1::TaintEffect::NoSchedule => Some(TaintEffect::NoSchedule),
        v1::TaintEffect::PreferNoSchedule => Some(TaintEffect::PreferNoSchedule),
    }
}

impl From<&Taint> for v1::Taint {
    fn from(doc: &Taint) -> Self {
        Self { key: doc.key.clone(), value: doc.value.clone(), effect: effect_to_wire(Some(doc.effect)) }
    }
}

impl From<&v1::Taint> for Taint {
    fn from(wire: &v1::Taint) -> Self {
        let effect = effect_from_wire(wire.effect()).unwrap_or(TaintEffect::NoSchedule);
        Self { key: wire.key.clone(), value: wire.value.clone(), effect }
    }
}

impl From<&Toleration> for v1::Toleration {
    fn from(doc: &Toleration) -> Self {
        Self { key: doc.key.clone(), value: doc.value.clone(), effect: effect_to_wire(doc.effect) }
    }
}

impl From<&v1::Toleration> for Toleration {
    fn from(wire: &v1::Toleration) -> Self {
        Self { key: wire.key.clone(), value: wire.value.clone(), effect: effect_from_wire(wire.effect()) }
    }
}

impl From<&OwnerLimit> for v1::OwnerLimit {
    fn from(doc: &OwnerLimit) -> Self {
        let scope = match doc.scope {
            LimitScope::Shard => v1::owner_limit::Scope::Shard,
            LimitScope::Cluster => v1::owner_limit::Scope::Cluster,
        };
        Self { scope: scope.into(), max: doc.max }
    }
}

impl From<&v1::OwnerLimit> for OwnerLimit {
    fn from(wire: &v1::OwnerLimit) -> Self {
        let scope = match wire.scope() {
            v1::owner_limit::Scope::Unspecified | v1::owner_limit::Scope::Cluster => LimitScope::Cluster,
            v1::owner_limit::Scope::Shard => LimitScope::Shard,
        };
        Self { scope, max: wire.max }
    }
}

impl From<&Preference> for v1::Preference {
    fn from(doc: &Preference) -> Self {
        use v1::company_term::Kind;
        use v1::preference::Wish;
        let wish = None
            .or_else(|| doc.label.as_ref().map(|label| Wish::Label(label.into())))
            .or_else(|| doc.region.clone().map(Wish::Region))
            .or_else(|| doc.zone.clone().map(Wish::Zone))
            .or_else(|| doc.provider.clone().map(Wish::Provider))
            .or_else(|| doc.together.as_ref().map(|company| Wish::Company(company.to_wire(Kind::Together))))
            .or_else(|| doc.apart.as_ref().map(|company| Wish::Company(company.to_wire(Kind::Apart))));
        Self { weight: doc.weight, wish }
    }
}

impl From<&v1::Preference> for Preference {
    fn from(wire: &v1::Preference) -> Self {
        use v1::preference::Wish;
        let mut doc = Self { weight: wire.weight, ..Self::default() };
        match &wire.wish {
            None => {}
            Some(Wish::Label(label)) => doc.label = Some(label.into()),
            Some(Wish::Region(region)) => doc.region = Some(region.clone()),
            Some(Wish::Zone(zone)) => doc.zone = Some(zone.clone()),
            Some(Wish::Provider(provider)) => doc.provider = Some(provider.clone()),
            Some(Wish::Company(term)) if term.kind() == v1::company_term::Kind::Apart => doc.apart = Some(Company::from_wire(term)),
            Some(Wish::Company(term)) => doc.together = Some(Company::from_wire(term)),
        }
        doc
    }
}

impl From<&Constraints> for v1::Constraints {
    fn from(doc: &Constraints) -> Self {
        use v1::company_term::Kind;
        let together = doc.together.iter().map(|company| company.to_wire(Kind::Together));
        let apart = doc.apart.iter().map(|company| company.to_wire(Kind::Apart));
        Self {
            providers: doc.providers.clone(),
            regions: doc.regions.clone(),
            zones: doc.zones.clone(),
            residency: doc.residency.clone().unwrap_or_default(),
            pool: doc.pool.clone().unwrap_or_default().0,
            cluster: doc.cluster.clone().unwrap_or_default().0,
            labels: doc.labels.iter().map(Into::into).collect(),
            tolerations: doc.tolerations.iter().map(Into::into).collect(),
            dedicated: doc.dedicated,
            company: together.chain(apart).collect(),
            owner_limits: doc.owner_limits.iter().map(Into::into).collect(),
            preferences: doc.preferences.iter().map(Into::into).collect(),
        }
    }
}

impl From<&v1::Constraints> for Constraints {
    fn from(wire: &v1::Constraints) -> Self {
        let (apart, together): (Vec<_>, Vec<_>) = wire.company.iter().partition(|term| term.kind() == v1::company_term::Kind::Apart);
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        Self {
            providers: wire.providers.clone(),
            regions: wire.regions.clone(),
            zones: wire.zones.clone(),
            residency: given(&wire.residency),
            pool: given(&wire.pool).map(Label),
            cluster: given(&wire.cluster).map(Label),
            labels: wire.labels.iter().map(Into::into).collect(),
            tolerations: wire.tolerations.iter().map(Into::into).collect(),
            dedicated: wire.dedicated,
            together: together.into_iter().map(Company::from_wire).collect(),
            apart: apart.into_iter().map(Company::from_wire).collect(),
            owner_limits: wire.owner_limits.iter().map(Into::into).collect(),
            preferences: wire.preferences.iter().map(Into::into).collect(),
        }
    }
}
