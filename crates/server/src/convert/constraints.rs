//! Constraints, in both directions.

use roadstead_api::v1::{self, company_term, owner_limit, preference};
use roadstead_core::constraint::limits::{MAX_LABEL_LEN, MAX_TERMS, MAX_VALUES, MAX_WEIGHT};
use roadstead_core::constraint::{
    Company, CompanyKind, CompanyTerm, Constraints, Operator, OwnerLimit, OwnerLimitScope, Preference, Requirement, Taint, TaintEffect,
    Toleration, TopologyKey, Wish,
};

use super::check::{At, Check};

/// Where a tenant may go.
pub fn constraints(check: &mut Check, at: At<'_>, wire: Option<&v1::Constraints>) -> Option<Constraints> {
    let Some(wire) = wire else { return Some(Constraints::default()) };
    let providers = check.words(at.field("providers"), &wire.providers, MAX_VALUES, MAX_LABEL_LEN);
    let regions = check.words(at.field("regions"), &wire.regions, MAX_VALUES, MAX_LABEL_LEN);
    let zones = check.words(at.field("zones"), &wire.zones, MAX_VALUES, MAX_LABEL_LEN);
    let residency = check.text(at.field("residency"), &wire.residency, MAX_LABEL_LEN);
    let pool = check.optional_name(at.field("pool"), &wire.pool);
    let cluster = check.optional_name(at.field("cluster"), &wire.cluster);
    let labels = check.list(at.field("labels"), &wire.labels, MAX_TERMS, requirement);
    let tolerations = check.list(at.field("tolerations"), &wire.tolerations, MAX_TERMS, toleration);
    let company = check.list(at.field("company"), &wire.company, MAX_TERMS, company);
    let owner_limits = check.list(at.field("owner_limits"), &wire.owner_limits, MAX_TERMS, owner_limit);
    let preferences = check.list(at.field("preferences"), &wire.preferences, MAX_TERMS, preference);
    Some(Constraints {
        providers: providers?,
        regions: regions?,
        zones: zones?,
        residency: residency.map(|text| (!text.is_empty()).then_some(text))?,
        pool: pool?,
        cluster: cluster?,
        labels: labels?,
        tolerations: tolerations?,
        dedicated: wire.dedicated,
        company: company?,
        owner_limits: owner_limits?,
        preferences: preferences?,
    })
}

fn requirement(check: &mut Check, at: At<'_>, wire: &v1::Requirement) -> Option<Requirement> {
    let key = check.word(at.field("key"), &wire.key, MAX_LABEL_LEN);
    let values = check.list(at.field("values"), &wire.values, MAX_VALUES, |check, at, text| check.text(at, text, MAX_LABEL_LEN));
    let operator = match check.known::<v1::Operator>(at.field("operator"), wire.operator)? {
        v1::Operator::Unspecified => {
            return check.refuse(at.field("operator"), "must be one of IN, NOT_IN, EXISTS, DOES_NOT_EXIST, GT, LT");
        }
        v1::Operator::In => Operator::In,
        v1::Operator::NotIn => Operator::NotIn,
        v1::Operator::Exists => Operator::Exists,
        v1::Operator::DoesNotExist => Operator::DoesNotExist,
        v1::Operator::Gt => Operator::Gt,
        v1::Operator::Lt => Operator::Lt,
    };
    let values = values?;
    let problem = match (operator, &values[..]) {
        (Operator::In | Operator::NotIn, []) => Some("IN and NOT_IN need at least one value"),
        (Operator::Exists | Operator::DoesNotExist, [_, ..]) => Some("EXISTS and DOES_NOT_EXIST take no value"),
        (Operator::Gt | Operator::Lt, [one]) if one.parse::<i64>().is_err() => Some("GT and LT compare with an integer"),
        (Operator::Gt | Operator::Lt, [] | [_, _, ..]) => Some("GT and LT need exactly one integer"),
        (Operator::In | Operator::NotIn, [_, ..])
        | (Operator::Exists | Operator::DoesNotExist, [])
        | (Operator::Gt | Operator::Lt, [_]) => None,
    };
    match problem {
        Some(problem) => check.refuse(at.field("values"), problem),
        None => Some(Requirement { key: key?, operator, values }),
    }
}

fn toleration(check: &mut Check, at: At<'_>, wire: &v1::Toleration) -> Option<Toleration> {
    let key = check.optional(at.field("key"), wire.key.as_deref(), |check, at, key| check.word(at, key, MAX_LABEL_LEN));
    let value = check.optional(at.field("value"), wire.value.as_deref(), |check, at, value| check.text(at, value, MAX_LABEL_LEN));
    if wire.key.is_none() && wire.value.is_some() {
        return check.refuse(at.field("value"), "needs a key; without one every taint is tolerated");
    }
    let effect = match check.known::<v1::TaintEffect>(at.field("effect"), wire.effect)? {
        v1::TaintEffect::Unspecified => None,
        v1::TaintEffect::NoSchedule => Some(TaintEffect::NoSchedule),
        v1::TaintEffect::PreferNoSchedule => Some(TaintEffect::PreferNoSchedule),
    };
    Some(Toleration { key: key?, value: value?, effect })
}

/// A cluster's taint.
pub fn taint(check: &mut Check, at: At<'_>, wire: &v1::Taint) -> Option<Taint> {
    let key = check.word(at.field("key"), &wire.key, MAX_LABEL_LEN);
    let value = check.text(at.field("value"), &wire.value, MAX_LABEL_LEN);
    let effect = match check.known::<v1::TaintEffect>(at.field("effect"), wire.effect)? {
        v1::TaintEffect::Unspecified => return check.refuse(at.field("effect"), "must be NO_SCHEDULE or PREFER_NO_SCHEDULE"),
        v1::TaintEffect::NoSchedule => TaintEffect::NoSchedule,
        v1::TaintEffect::PreferNoSchedule => TaintEffect::PreferNoSchedule,
    };
    Some(Taint { key: key?, value: value?, effect })
}

fn company(check: &mut Check, at: At<'_>, wire: &v1::CompanyTerm) -> Option<CompanyTerm> {
    let kind = match check.known::<company_term::Kind>(at.field("kind"), wire.kind)? {
        company_term::Kind::Unspecified => return check.refuse(at.field("kind"), "must be TOGETHER or APART"),
        company_term::Kind::Together => CompanyKind::Together,
        company_term::Kind::Apart => CompanyKind::Apart,
    };
    let company = match &wire.company {
        None => check.refuse(at.field("company"), "must be given: a tenant or an owner"),
        Some(company_term::Company::Tenant(name)) => check.name(at.field("tenant"), name).map(Company::Tenant),
        Some(company_term::Company::Owner(owner)) => check.owner(at.field("owner"), owner).map(Company::Owner),
    };
    let topology = match wire.topology_key.as_str() {
        "shard" => Some(TopologyKey::Shard),
        "cluster" => Some(TopologyKey::Cluster),
        "region" => Some(TopologyKey::Region),
        "provider" => Some(TopologyKey::Provider),
        "" => check.refuse(at.field("topology_key"), "must be shard, cluster, region, provider or a label key of clusters"),
        label => check.word(at.field("topology_key"), label, MAX_LABEL_LEN).map(TopologyKey::Label),
    };
    Some(CompanyTerm { kind, company: company?, topology: topology? })
}

fn owner_limit(check: &mut Check, at: At<'_>, wire: &v1::OwnerLimit) -> Option<OwnerLimit> {
    let scope = match check.known::<owner_limit::Scope>(at.field("scope"), wire.scope)? {
        owner_limit::Scope::Unspecified => return check.refuse(at.field("scope"), "must be SHARD or CLUSTER"),
        owner_limit::Scope::Shard => OwnerLimitScope::Shard,
        owner_limit::Scope::Cluster => OwnerLimitScope::Cluster,
    };
    let max = check.within(at.field("max"), wire.max, 1, u32::MAX)?;
    Some(OwnerLimit { scope, max })
}

fn preference(check: &mut Check, at: At<'_>, wire: &v1::Preference) -> Option<Preference> {
    let weight = check.within(at.field("weight"), wire.weight, 1, MAX_WEIGHT);
    let wish = match &wire.wish {
        None => check.refuse(at.field("wish"), "must be given: a label, region, zone, provider or company"),
        Some(preference::Wish::Label(label)) => requirement(check, at.field("label"), label).map(Wish::Label),
        Some(preference::Wish::Region(text)) => check.word(at.field("region"), text, MAX_LABEL_LEN).map(Wish::Region),
        Some(preference::Wish::Zone(text)) => check.word(at.field("zone"), text, MAX_LABEL_LEN).map(Wish::Zone),
        Some(preference::Wish::Provider(text)) => check.word(at.field("provider"), text, MAX_LABEL_LEN).map(Wish::Provider),
        Some(preference::Wish::Company(term)) => company(check, at.field("company"), term).map(Wish::Company),
    };
    Some(Preference { weight: weight?, wish: wish? })
}

/// Constraints as they were written; nothing if there are none.
#[must_use]
pub fn wire(constraints: &Constraints) -> Option<v1::Constraints> {
    if *constraints == Constraints::default() {
        return None;
    }
    Some(v1::Constraints {
        providers: constraints.providers.clone(),
        regions: constraints.regions.clone(),
        zones: constraints.zones.clone(),
        residency: constraints.residency.clone().unwrap_or_default(),
        pool: constraints.pool.as_ref().map(ToString::to_string).unwrap_or_default(),
        cluster: constraints.cluster.as_ref().map(ToString::to_string).unwrap_or_default(),
        labels: constraints.labels.iter().map(wire_requirement).collect(),
        tolerations: constraints.tolerations.iter().map(wire_toleration).collect(),
        dedicated: constraints.dedicated,
        company: constraints.company.iter().map(wire_company).collect(),
        owner_limits: constraints.owner_limits.iter().map(wire_owner_limit).collect(),
        preferences: constraints.preferences.iter().map(wire_preference).collect(),
    })
}

fn wire_requirement(requirement: &Requirement) -> v1::Requirement {
    let operator = match requirement.operator {
        Operator::In => v1::Operator::In,
        Operator::NotIn => v1::Operator::NotIn,
        Operator::Exists => v1::Operator::Exists,
        Operator::DoesNotExist => v1::Operator::DoesNotExist,
        Operator::Gt => v1::Operator::Gt,
        Operator::Lt => v1::Operator::Lt,
    };
    v1::Requirement { key: requirement.key.clone(), operator: operator.into(), values: requirement.values.clone() }
}

fn wire_effect(effect: TaintEffect) -> v1::TaintEffect {
    match effect {
        TaintEffect::NoSchedule => v1::TaintEffect::NoSchedule,
        TaintEffect::PreferNoSchedule => v1::TaintEffect::PreferNoSchedule,
    }
}

fn wire_toleration(toleration: &Toleration) -> v1::Toleration {
    v1::Toleration {
        key: toleration.key.clone(),
        value: toleration.value.clone(),
        effect: toleration.effect.map_or(v1::TaintEffect::Unspecified, wire_effect).into(),
    }
}

/// A cluster's taint as it was written.
#[must_use]
pub fn wire_taint(taint: &Taint) -> v1::Taint {
    v1::Taint { key: taint.key.clone(), value: taint.value.clone(), effect: wire_effect(taint.effect).into() }
}

fn wire_company(term: &CompanyTerm) -> v1::CompanyTerm {
    v1::CompanyTerm {
        kind: match term.kind {
            CompanyKind::Together => company_term::Kind::Together,
            CompanyKind::Apart => company_term::Kind::Apart,
        }
        .into(),
        company: Some(match &term.company {
            Company::Tenant(name) => company_term::Company::Tenant(name.to_string()),
            Company::Owner(owner) => company_term::Company::Owner(owner.to_string()),
        }),
        topology_key: match &term.topology {
            TopologyKey::Shard => "shard",
            TopologyKey::Cluster => "cluster",
            TopologyKey::Region => "region",
            TopologyKey::Provider => "provider",
            TopologyKey::Label(key) => key,
        }
        .to_owned(),
    }
}

fn wire_owner_limit(limit: &OwnerLimit) -> v1::OwnerLimit {
    let scope = match limit.scope {
        OwnerLimitScope::Shard => owner_limit::Scope::Shard,
        OwnerLimitScope::Cluster => owner_limit::Scope::Cluster,
    };
    v1::OwnerLimit { scope: scope.into(), max: limit.max }
}

fn wire_preference(preference: &Preference) -> v1::Preference {
    let wish = match &preference.wish {
        Wish::Label(label) => preference::Wish::Label(wire_requirement(label)),
        Wish::Region(text) => preference::Wish::Region(text.clone()),
        Wish::Zone(text) => preference::Wish::Zone(text.clone()),
        Wish::Provider(text) => preference::Wish::Provider(text.clone()),
        Wish::Company(term) => preference::Wish::Company(wire_company(term)),
    };
    v1::Preference { weight: preference.weight, wish: Some(wish) }
}

/// Takes over one field; `None` if there is no such field.
pub fn merge_field(into: &mut v1::Constraints, from: &v1::Constraints, field: &str) -> Option<()> {
    match field {
        "providers" => into.providers.clone_from(&from.providers),
        "regions" => into.regions.clone_from(&from.regions),
        "zones" => into.zones.clone_from(&from.zones),
        "residency" => into.residency.clone_from(&from.residency),
        "pool" => into.pool.clone_from(&from.pool),
        "cluster" => into.cluster.clone_from(&from.cluster),
        "labels" => into.labels.clone_from(&from.labels),
        "tolerations" => into.tolerations.clone_from(&from.tolerations),
        "dedicated" => into.dedicated = from.dedicated,
        "company" => into.company.clone_from(&from.company),
        "owner_limits" => into.owner_limits.clone_from(&from.owner_limits),
        "preferences" => into.preferences.clone_from(&from.preferences),
        _ => return None,
    }
    Some(())
}
