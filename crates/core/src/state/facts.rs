//! What the ledger and the indexes need of a packed tenant, read without copying the rest: most of what loading a snapshot costs is
//! making room for texts that nobody looks at.
//!
//! The structs have the fields of [`Tenant`], [`TenantSpec`] and [`Constraints`], in the same order.

use std::marker::PhantomData;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::constraint::{CompanyTerm, OwnerLimit, Preference, Requirement, Toleration};
use crate::id::{Name, Owner, Revision, TenantId};
use crate::resources::{Bytes, Requests};
use crate::tenant::{Desired, Phase};
use crate::time::Timestamp;

#[cfg(doc)]
use crate::{constraint::Constraints, tenant::Tenant, tenant::TenantSpec};

/// Of a tenant.
#[derive(Deserialize)]
#[allow(dead_code, reason = "what is not needed has to be read over")]
pub(super) struct Facts<'a> {
    pub(super) id: TenantId,
    #[serde(borrow)]
    pub(super) spec: SpecFacts<'a>,
    pub(super) phase: Phase,
    reason: &'a [u8],
    misplaced: bool,
    created: Revision,
    created_at: Timestamp,
    changed: Revision,
}

/// Of its spec.
#[derive(Deserialize)]
#[expect(dead_code, reason = "what is not needed has to be read over")]
pub(super) struct SpecFacts<'a> {
    pub(super) name: Name,
    pub(super) owner: Owner,
    pub(super) class: Name,
    pub(super) version: &'a str,
    values: &'a str,
    #[serde(borrow)]
    hostnames: Passed<&'a str>,
    volumes: Passed<(Name, Bytes)>,
    desired: Desired,
    priority: i32,
    deletion_protection: bool,
    pub(super) deadline: Option<Timestamp>,
    #[serde(borrow)]
    pub(super) constraints: ConstraintFacts<'a>,
    pub(super) requests: Requests,
}

/// Of its constraints.
#[derive(Deserialize)]
#[expect(dead_code, reason = "what is not needed has to be read over")]
pub(super) struct ConstraintFacts<'a> {
    #[serde(borrow)]
    providers: Passed<&'a str>,
    #[serde(borrow)]
    regions: Passed<&'a str>,
    #[serde(borrow)]
    zones: Passed<&'a str>,
    residency: Option<&'a str>,
    pool: Option<Name>,
    cluster: Option<Name>,
    labels: Passed<Requirement>,
    tolerations: Passed<Toleration>,
    dedicated: bool,
    pub(super) company: Vec<CompanyTerm>,
    owner_limits: Passed<OwnerLimit>,
    preferences: Passed<Preference>,
}

/// A list that was read and not kept.
struct Passed<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Passed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pass<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Pass<T> {
            type Value = ();
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
                while list.next_element::<T>()?.is_some() {}
                Ok(())
            }
        }
        deserializer.deserialize_seq(Pass(PhantomData::<T>)).map(|()| Self(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::codec;
    use crate::constraint::{Company, CompanyKind, Constraints, Operator, OwnerLimitScope, TaintEffect, TopologyKey, Wish};
    use crate::id::{ClusterId, Incarnation, ShardId};
    use crate::resources::{Millicores, PodSize, Resources};
    use crate::tenant::{Binding, Tenant, TenantSpec};

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    #[test]
    fn facts_are_those_of_the_tenant() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let term = CompanyTerm { kind: CompanyKind::Apart, company: Company::Tenant(name("other")), topology: TopologyKey::Region };
        let requirement = Requirement { key: "disk".to_owned(), operator: Operator::In, values: texts(&["ssd", "nvme"]) };
        let constraints = Constraints {
            providers: texts(&["own"]),
            regions: texts(&["north", "south"]),
            zones: texts(&["a"]),
            residency: Some("eu".to_owned()),
            pool: Some(name("home")),
            cluster: Some(name("alpha")),
            labels: vec![requirement.clone()],
            tolerations: vec![Toleration { key: Some("gpu".to_owned()), value: None, effect: Some(TaintEffect::NoSchedule) }],
            dedicated: true,
            company: vec![term.clone()],
            owner_limits: vec![OwnerLimit { scope: OwnerLimitScope::Shard, max: 3 }],
            preferences: vec![
                Preference { weight: 7, wish: Wish::Label(requirement) },
                Preference { weight: 9, wish: Wish::Company(term) },
            ],
        };
        let total = Resources { cpu: Millicores(1), memory: Bytes(2), pods: 3, storage: Bytes(4), attachments: 5 };
        let revision = |index| Revision { incarnation: Incarnation(2), index };
        let binding = Binding { cluster: ClusterId(300), shard: ShardId(4), epoch: revision(70) };
        let tenant = Tenant {
            id: TenantId(1 << 40),
            spec: TenantSpec {
                name: name("shop"),
                owner: Owner::new("acme").expect("an owner"),
                class: name("small"),
                version: "1.2.3".to_owned(),
                values: r#"{"a":1}"#.to_owned(),
                hostnames: texts(&["a.example", "b.example"]),
                volumes: vec![(name("data"), Bytes(1 << 40))],
                desired: Desired::Hibernated,
                priority: -5,
                deletion_protection: true,
                deadline: Some(Timestamp(99)),
                constraints: Arc::new(constraints),
                requests: Requests { total, largest_pod: PodSize { cpu: Millicores(6), memory: Bytes(7) } },
            },
            phase: Phase::Bound { binding, running: true },
            reason: vec![1, 2, 3],
            misplaced: true,
            created: revision(60),
            created_at: Timestamp(88),
            changed: revision(90),
        };
        let mut bytes = Vec::new();
        codec::write(&tenant, &mut bytes);
        bytes.push(42);
        let (facts, rest) = codec::read_prefix_borrowed::<Facts<'_>>(&bytes).expect("what was written is read");
        assert_eq!(rest, [42]);
        assert_eq!((facts.id, facts.phase, facts.reason), (tenant.id, tenant.phase, &tenant.reason[..]));
        assert_eq!((facts.misplaced, facts.created, facts.created_at, facts.changed), (true, revision(60), Timestamp(88), revision(90)));
        let (spec, expected) = (facts.spec, tenant.spec);
        assert_eq!((spec.name, spec.owner, spec.class), (expected.name, expected.owner, expected.class));
        assert_eq!((spec.version, spec.values), (&expected.version[..], &expected.values[..]));
        assert_eq!((spec.deadline, spec.requests, spec.priority), (expected.deadline, expected.requests, -5));
        assert_eq!(spec.constraints.company, expected.constraints.company);
        assert_eq!((spec.constraints.residency, spec.constraints.cluster), (Some("eu"), Some(name("alpha"))));
    }
}
