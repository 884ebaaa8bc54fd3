//! Company: who must be together, who must be apart, and how many of one owner may share a place.
//!
//! A term binds whichever of the two comes later. For a newcomer and one place:
//!
//! - its own `Apart`: none of the company is in the place's domain;
//! - its own `Together`: some of the company is in the place's domain, or none of it is anywhere;
//! - a resident's `Apart` that means the newcomer: the resident is not in the place's domain;
//! - residents' `Together` that mean the newcomer: while some of them wait for that company in a domain where none of it is,
//!   the newcomer goes to one of these domains. With several such domains any of them will do: a tenant is in one place only.
//!
//! An owner limit binds the tenant that states it when it comes. It does not bind later tenants of the same owner that
//! state none: their owner has not asked for it there.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeSet;

use crate::constraint::{Company, CompanyKind, CompanyTerm, OwnerLimit, OwnerLimitScope, TopologyKey, Wish};
use crate::id::{ClusterId, ShardId};
use crate::ledger::places::Places;
use crate::ledger::site::Site;
use crate::ledger::{Ledger, Refusal, Residents};
use crate::tenant::TenantSpec;

/// Terms of residents that mean the same tenant or owner: where those are that have stated them. In the order of the terms.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seekers(Vec<(CompanyKind, TopologyKey, Places)>);

impl Seekers {
    /// Whether nobody has stated any.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Somebody in this place has stated one.
    pub(super) fn add(&mut self, (kind, topology): (CompanyKind, &TopologyKey), cluster: ClusterId, shard: ShardId) {
        match self.find(kind, topology) {
            Ok(found) => self.0[found].2.add(cluster, shard),
            Err(position) => self.0.insert(position, (kind, topology.clone(), Places::one(cluster, shard))),
        }
    }

    /// The opposite of `add`.
    pub(super) fn remove(&mut self, (kind, topology): (CompanyKind, &TopologyKey), cluster: ClusterId, shard: ShardId) {
        let found = self.find(kind, topology).expect("the terms of what is given back were taken before");
        self.0[found].2.remove(cluster, shard);
        if self.0[found].2.is_empty() {
            self.0.remove(found);
        }
    }

    fn find(&self, kind: CompanyKind, topology: &TopologyKey) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, at, _)| (*other, at).cmp(&(kind, topology)))
    }
}

/// A part of the fleet that a topology key sets apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Domain<'a> {
    Shard(ClusterId, ShardId),
    Cluster(ClusterId),
    Region(&'a str, &'a str),
    Provider(&'a str),
    Label(&'a str),
}

fn domain<'a>(topology: &TopologyKey, site: Option<&'a Site>, cluster: ClusterId, shard: ShardId) -> Domain<'a> {
    let of_site = site.and_then(|site| match topology {
        TopologyKey::Shard | TopologyKey::Cluster => None,
        TopologyKey::Region => Some(Domain::Region(&site.spec.provider, &site.spec.region)),
        TopologyKey::Provider => Some(Domain::Provider(&site.spec.provider)),
        TopologyKey::Label(key) => site.spec.labels.get(key).map(|value| Domain::Label(value)),
    });
    match (of_site, topology) {
        (Some(domain), _) => domain,
        (None, TopologyKey::Shard) => Domain::Shard(cluster, shard),
        (None, _) => Domain::Cluster(cluster),
    }
}

/// The domains that a set of places touches, less some of them.
#[derive(Debug)]
struct Domains<'a> {
    topology: &'a TopologyKey,
    ledger: &'a Ledger,
    places: Cow<'a, Places>,
    /// Worked out when it is first asked for, and then only where the places cannot answer by themselves.
    touched: OnceCell<BTreeSet<Domain<'a>>>,
}

impl<'a> Domains<'a> {
    fn of(ledger: &'a Ledger, topology: &'a TopologyKey, places: Cow<'a, Places>) -> Self {
        Self { topology, ledger, places, touched: OnceCell::new() }
    }

    /// Those that `other` does not touch.
    fn without(self, other: &Self) -> Self {
        let mut touched = self.touched().clone();
        touched.retain(|domain| !other.touched().contains(domain));
        Self { touched: OnceCell::from(touched), ..self }
    }

    fn touched(&self) -> &BTreeSet<Domain<'a>> {
        self.touched.get_or_init(|| {
            let domains = self.places.iter().map(|(cluster, shard, _)| domain(self.topology, self.ledger.site(cluster), cluster, shard));
            domains.collect()
        })
    }

    fn contains(&self, site: &Site, cluster: ClusterId, shard: ShardId) -> bool {
        match (self.touched.get(), self.topology) {
            (None, TopologyKey::Shard) => self.places.in_shard(cluster, shard) > 0,
            (None, TopologyKey::Cluster) => self.ledger.in_cluster(&self.places, cluster) > 0,
            (_, topology) => self.touched().contains(&domain(topology, Some(site), cluster, shard)),
        }
    }
}

/// One thing that must hold of a place, or is wished for.
#[derive(Debug)]
struct Condition<'a> {
    kind: CompanyKind,
    domains: Domains<'a>,
    /// Who it is about, for people.
    about: About<'a>,
    /// Zero for what must hold, else what it is worth.
    weight: u32,
}

#[derive(Clone, Copy, Debug)]
enum About<'a> {
    Own(&'a Company),
    Resident,
}

impl Condition<'_> {
    fn holds(&self, site: &Site, cluster: ClusterId, shard: ShardId) -> bool {
        match self.kind {
            CompanyKind::Together => self.domains.contains(site, cluster, shard),
            CompanyKind::Apart => !self.domains.contains(site, cluster, shard),
        }
    }

    fn is_of_shard(&self) -> bool {
        *self.domains.topology == TopologyKey::Shard
    }

    fn refusal(&self) -> Refusal {
        let topology = match self.domains.topology {
            TopologyKey::Shard => "shard".to_owned(),
            TopologyKey::Cluster => "cluster".to_owned(),
            TopologyKey::Region => "region".to_owned(),
            TopologyKey::Provider => "provider".to_owned(),
            TopologyKey::Label(key) => format!("label {key}"),
        };
        let who = |company: &Company| match company {
            Company::Tenant(name) => format!("tenant {name}"),
            Company::Owner(owner) => format!("owner {owner}"),
        };
        let with = match self.kind {
            CompanyKind::Together => "together with",
            CompanyKind::Apart => "apart from",
        };
        let detail = match self.about {
            About::Own(company) => format!("wants to be {with} {} by {topology}", who(company)),
            About::Resident => format!("residents want to be {with} this tenant or its owner by {topology}"),
        };
        Refusal::Constraint { which: self.which(), detail }
    }

    fn which(&self) -> &'static str {
        match self.kind {
            CompanyKind::Together => "together",
            CompanyKind::Apart => "apart",
        }
    }
}

/// The kind of constraint that an owner limit is.
const OWNER_LIMIT: &str = "owner limit";

/// Everything about other tenants that matters for placing one tenant, gathered once per decision.
#[derive(Debug)]
pub(crate) struct Neighbours<'a> {
    ledger: &'a Ledger,
    conditions: Vec<Condition<'a>>,
    wishes: Vec<Condition<'a>>,
    limits: &'a [OwnerLimit],
    owner: Option<&'a Places>,
}

impl<'a> Neighbours<'a> {
    /// Gathers what the ledger and the residents know. The tenant itself is nobody's company, its own least of all.
    pub(crate) fn of(ledger: &'a Ledger, residents: &dyn Residents, spec: &'a TenantSpec) -> Self {
        let limits = &spec.constraints.owner_limits;
        let mut found = Self { ledger, conditions: Vec::new(), wishes: Vec::new(), limits, owner: None };
        for term in &spec.constraints.company {
            found.conditions.extend(own(ledger, residents, spec, term, 0));
        }
        for preference in &spec.constraints.preferences {
            if let Wish::Company(term) = &preference.wish {
                found.wishes.extend(own(ledger, residents, spec, term, preference.weight));
            }
        }
        if let Some(seekers) = ledger.seekers_of_tenant(&spec.name) {
            found.residents(ledger, seekers, None);
        }
        if let Some((seekers, places)) = ledger.seekers_of_owner(&spec.owner) {
            found.owner = places;
            found.residents(ledger, seekers, places);
        }
        found
    }

    fn residents(&mut self, ledger: &'a Ledger, seekers: &'a Seekers, present: Option<&'a Places>) {
        for (kind, topology, places) in &seekers.0 {
            let mut domains = Domains::of(ledger, topology, Cow::Borrowed(places));
            if *kind == CompanyKind::Together {
                if let Some(present) = present {
                    domains = domains.without(&Domains::of(ledger, topology, Cow::Borrowed(present)));
                }
                if domains.touched().is_empty() {
                    continue;
                }
            }
            self.conditions.push(Condition { kind: *kind, domains, about: About::Resident, weight: 0 });
        }
    }

    /// Whether the tenant wishes for company, so that its preferences depend on where others are.
    pub(crate) fn are_wished_for(&self) -> bool {
        !self.wishes.is_empty()
    }

    /// Whether there is anything that may refuse a cluster whatever the shard.
    pub(crate) fn bind_clusters(&self) -> bool {
        self.conditions.iter().any(|condition| !condition.is_of_shard())
            || self.limits.iter().any(|limit| limit.scope == OwnerLimitScope::Cluster)
    }

    /// What refuses the cluster first, whatever the shard: the kind of constraint.
    pub(crate) fn cause_of_cluster(&self, site: &Site, cluster: ClusterId) -> Option<&'static str> {
        let refuses = |condition: &&Condition<'_>| !condition.is_of_shard() && !condition.holds(site, cluster, ShardId(0));
        let limited = || {
            let over = |limit: &OwnerLimit| limit.scope == OwnerLimitScope::Cluster && self.owner_in_cluster(cluster) >= limit.max;
            self.limits.iter().any(over).then_some(OWNER_LIMIT)
        };
        self.conditions.iter().find(refuses).map(Condition::which).or_else(limited)
    }

    /// Whether some shard of the cluster may be entered, as far as that does not depend on the shard.
    pub(crate) fn admits_cluster(&self, site: &Site, cluster: ClusterId) -> bool {
        self.conditions.iter().all(|condition| condition.is_of_shard() || condition.holds(site, cluster, ShardId(0)))
            && self.limits.iter().all(|limit| limit.scope != OwnerLimitScope::Cluster || self.owner_in_cluster(cluster) < limit.max)
    }

    /// Whether the shard may be entered, of a cluster that may.
    pub(crate) fn admits_shard(&self, site: &Site, cluster: ClusterId, shard: ShardId) -> bool {
        self.conditions.iter().all(|condition| !condition.is_of_shard() || condition.holds(site, cluster, shard))
            && self.limits.iter().all(|limit| limit.scope != OwnerLimitScope::Shard || self.owner_in_shard(cluster, shard) < limit.max)
    }

    /// The weight of the wishes for company that hold in the place.
    pub(crate) fn wish_weight(&self, site: &Site, cluster: ClusterId, shard: ShardId) -> u32 {
        self.wishes.iter().filter(|wish| wish.holds(site, cluster, shard)).map(|wish| wish.weight).sum()
    }

    /// Everything that refuses the cluster whatever the shard, in a fixed order.
    pub(crate) fn cluster_refusals(&self, site: &Site, cluster: ClusterId, refusals: &mut Vec<Refusal>) {
        for condition in &self.conditions {
            if !condition.is_of_shard() && !condition.holds(site, cluster, ShardId(0)) {
                refusals.push(condition.refusal());
            }
        }
        for limit in self.limits {
            let count = self.owner_in_cluster(cluster);
            if limit.scope == OwnerLimitScope::Cluster && count >= limit.max {
                refusals.push(owner_limit("cluster", count, limit.max));
            }
        }
    }

    /// Everything that refuses the shard, in a fixed order.
    pub(crate) fn shard_refusals(&self, site: &Site, cluster: ClusterId, shard: ShardId, refusals: &mut Vec<Refusal>) {
        for condition in &self.conditions {
            if condition.is_of_shard() && !condition.holds(site, cluster, shard) {
                refusals.push(condition.refusal());
            }
        }
        for limit in self.limits {
            let count = self.owner_in_shard(cluster, shard);
            if limit.scope == OwnerLimitScope::Shard && count >= limit.max {
                refusals.push(owner_limit("shard", count, limit.max));
            }
        }
    }

    fn owner_in_cluster(&self, cluster: ClusterId) -> u32 {
        self.owner.map_or(0, |places| self.ledger.in_cluster(places, cluster))
    }

    fn owner_in_shard(&self, cluster: ClusterId, shard: ShardId) -> u32 {
        self.owner.map_or(0, |places| places.in_shard(cluster, shard))
    }
}

/// A tenant's own term; nothing while the company it seeks is nowhere.
fn own<'a>(ledger: &'a Ledger, residents: &dyn Residents, spec: &TenantSpec, term: &'a CompanyTerm, weight: u32) -> Option<Condition<'a>> {
    let places = match &term.company {
        Company::Owner(owner) => Cow::Borrowed(ledger.owner_places(owner)?),
        Company::Tenant(name) if *name == spec.name => return None,
        Company::Tenant(name) => {
            let mut places = Places::default();
            residents.where_is(name, &mut |cluster, shard| places.add(cluster, shard));
            (!places.is_empty()).then_some(Cow::Owned(places))?
        }
    };
    let domains = Domains::of(ledger, &term.topology, places);
    Some(Condition { kind: term.kind, domains, about: About::Own(&term.company), weight })
}

fn owner_limit(place: &str, count: u32, max: u32) -> Refusal {
    Refusal::Constraint { which: OWNER_LIMIT, detail: format!("at most {max} of the owner in one {place}, {count} are there") }
}
