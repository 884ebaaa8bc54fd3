//! The facts about one cluster, and what they alone answer to a tenant.
//!
//! Nothing here counts: a site changes only when its cluster's spec, capacity, pool or state does.

use crate::cluster::{Cluster, ClusterSpec, ClusterState, NodeSize};
use crate::constraint::{Operator, Requirement, Taint, TaintEffect, Wish};
use crate::id::{Name, Revision};
use crate::ledger::Refusal;
use crate::ledger::fit::Gauge;
use crate::pool::{Pool, PoolPolicy};
use crate::resources::{PodSize, RESOURCE_COUNT};
use crate::tenant::TenantSpec;

/// Where a cluster's pool stands among the pools: ascending order, then price, then name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PoolRank {
    /// Declared order; a cluster whose pool is unknown comes last.
    pub(crate) order: u32,
    /// Price of a tenant-hour.
    pub(crate) price_micros: u64,
    /// Name.
    pub(crate) name: Name,
}

/// One cluster's facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    /// What its operator declared.
    pub(crate) spec: ClusterSpec,
    /// When the record last changed.
    pub(crate) changed: Revision,
    /// Its agent is not heard of.
    pub(crate) silent: bool,
    /// Its agent has yet to report since a restore.
    pub(crate) fenced: bool,
    /// What may be promised of each resource: allocatable, and what may still be added, with overcommit, less what others use.
    pub(crate) limit: [u64; RESOURCE_COUNT],
    /// Sizes of nodes that exist; empty is unknown.
    pub(crate) nodes: Vec<NodeSize>,
    /// Sizes of nodes that may still be added: they take a pod, and have no room for it now.
    pub(crate) addable: Vec<NodeSize>,
    /// How what a pod leaves over on one of them is counted.
    pub(crate) gauge: Gauge,
    /// Its pool's rank.
    pub(crate) pool: PoolRank,
    /// How its pool is filled.
    pub(crate) policy: PoolPolicy,
}

impl Site {
    /// The facts of a cluster; without its pool it comes after all others and is spread over.
    pub(crate) fn new(cluster: &Cluster, pool: Option<&Pool>) -> Self {
        let allocatable = cluster.capacity.allocatable.saturating_add(cluster.growth.total).to_array();
        let others = cluster.capacity.used_by_others.to_array();
        let limit = std::array::from_fn(|resource| {
            let promised = u128::from(allocatable[resource]) * u128::from(cluster.spec.overcommit_percent[resource]) / 100;
            u64::try_from(promised).unwrap_or(u64::MAX).saturating_sub(others[resource])
        });
        let (order, price_micros, policy) =
            pool.map_or((u32::MAX, u64::MAX, PoolPolicy::Spread), |pool| (pool.spec.order, pool.spec.price_micros, pool.spec.policy));
        let nodes: Vec<_> = cluster.capacity.nodes.iter().filter(|node| node.count > 0).copied().collect();
        Self {
            changed: cluster.changed,
            silent: cluster.silent,
            fenced: cluster.fenced,
            limit,
            gauge: Gauge::of(&nodes),
            nodes,
            addable: cluster.growth.nodes.iter().filter(|node| node.count > 0).copied().collect(),
            pool: PoolRank { order, price_micros, name: cluster.spec.pool.clone() },
            policy,
            spec: cluster.spec.clone(),
        }
    }

    /// What the cluster is, as far as it does not depend on what is counted: never `Overfull`.
    pub(crate) fn state(&self) -> ClusterState {
        if self.spec.draining {
            ClusterState::Draining
        } else if self.spec.cordoned {
            ClusterState::Cordoned
        } else if self.silent {
            ClusterState::Silent
        } else {
            ClusterState::Active
        }
    }

    /// Whether some node could take a pod of this size if it were empty; unknown nodes refuse nothing.
    pub(crate) fn takes_pod(&self, pod: PodSize) -> bool {
        self.nodes.is_empty() || self.all_nodes().any(|node| pod.fits(node.allocatable))
    }

    /// Nodes that are there, and those that may be.
    fn all_nodes(&self) -> impl Iterator<Item = &NodeSize> {
        self.nodes.iter().chain(&self.addable)
    }

    /// Whether some node has room for a pod of this size now; unknown nodes refuse nothing.
    pub(crate) fn has_room_for_pod(&self, pod: PodSize) -> bool {
        self.nodes.is_empty() || self.nodes.iter().any(|node| pod.fits(node.largest_free))
    }

    /// Untolerated taints with this effect.
    pub(crate) fn untolerated<'a>(&'a self, spec: &'a TenantSpec, effect: TaintEffect) -> impl Iterator<Item = &'a Taint> {
        let tolerations = &spec.constraints.tolerations;
        self.spec
            .taints
            .iter()
            .filter(move |taint| taint.effect == effect && !tolerations.iter().any(|toleration| toleration.tolerates(taint)))
    }

    /// Every constraint over this cluster's own facts that does not hold, in a fixed order.
    pub(crate) fn refusals(&self, spec: &TenantSpec, refusals: &mut Vec<Refusal>) {
        self.each_refusal(spec, &mut |which, detail| refusals.push(Refusal::Constraint { which, detail: detail() }));
        self.pod_refusal(spec, refusals);
    }

    /// Refuses a largest pod that no node could take.
    pub(crate) fn pod_refusal(&self, spec: &TenantSpec, refusals: &mut Vec<Refusal>) {
        let pod = spec.requests.largest_pod;
        if !self.takes_pod(pod) {
            refusals.push(Refusal::LargestPod { wanted: pod, largest: self.largest_node(pod) });
        }
    }

    /// The first constraint over this cluster's own facts that does not hold.
    pub(crate) fn first_refusal(&self, spec: &TenantSpec) -> Option<&'static str> {
        let mut first = None;
        self.each_refusal(spec, &mut |which, _| first = first.or(Some(which)));
        first
    }

    /// The node that comes closest to taking the pod: the one with most of what the largest of all lacks.
    pub(crate) fn largest_node(&self, pod: PodSize) -> PodSize {
        let missing = |node: &NodeSize| {
            let share = |wanted: u64, has: u64| u128::from(wanted.saturating_sub(has)) * 1_000_000 / u128::from(wanted.max(1));
            share(pod.cpu.0, node.allocatable.cpu.0).max(share(pod.memory.0, node.allocatable.memory.0))
        };
        self.all_nodes().min_by_key(|node| missing(node)).map(|node| node.allocatable).unwrap_or_default()
    }

    fn each_refusal(&self, spec: &TenantSpec, refuse: &mut dyn FnMut(&'static str, &dyn Fn() -> String)) {
        let (cluster, constraints) = (&self.spec, &spec.constraints);
        if !cluster.dedicated_to.is_empty() && !cluster.dedicated_to.contains(&spec.owner) {
            refuse("dedicated", &|| format!("the cluster is dedicated to other owners than {}", spec.owner));
        }
        if constraints.dedicated && cluster.dedicated_to.is_empty() {
            refuse("dedicated", &|| format!("the cluster is not dedicated to {}", spec.owner));
        }
        if constraints.cluster.as_ref().is_some_and(|pinned| *pinned != cluster.name) {
            refuse("cluster", &|| format!("pinned to {}", constraints.cluster.as_ref().map_or("", Name::as_str)));
        }
        if constraints.pool.as_ref().is_some_and(|pool| *pool != cluster.pool) {
            refuse("pool", &|| {
                format!("wants pool {}, the cluster is in {}", constraints.pool.as_ref().map_or("", Name::as_str), cluster.pool)
            });
        }
        for (which, wanted, is) in
            [("provider", &constraints.providers, &cluster.provider), ("region", &constraints.regions, &cluster.region)]
        {
            if !wanted.is_empty() && !wanted.contains(is) {
                refuse(which, &|| format!("wants {}, the cluster is in {is:?}", listed(wanted)));
            }
        }
        if !constraints.zones.is_empty() && !constraints.zones.iter().any(|zone| cluster.zones.contains(zone)) {
            refuse("zone", &|| format!("wants {}, the cluster has {}", listed(&constraints.zones), listed(&cluster.zones)));
        }
        if let Some(residency) = &constraints.residency
            && (cluster.residency != *residency || residency.is_empty())
        {
            refuse("residency", &|| format!("wants {residency:?}, the cluster's is {:?}", cluster.residency));
        }
        for requirement in &constraints.labels {
            if !self.satisfies(requirement) {
                refuse("label", &|| {
                    let value = cluster.labels.get(&requirement.key).map_or("absent".to_owned(), |value| format!("{value:?}"));
                    format!("wants {}, it is {value}", expression(requirement))
                });
            }
        }
        for taint in self.untolerated(spec, TaintEffect::NoSchedule) {
            refuse("taint", &|| format!("does not tolerate {}", taint_text(taint)));
        }
    }

    /// Whether a label expression holds, exactly as in Kubernetes.
    pub(crate) fn satisfies(&self, requirement: &Requirement) -> bool {
        let value = self.spec.labels.get(&requirement.key);
        let integers = || {
            let operand = requirement.values.first()?.parse::<i64>().ok()?;
            Some((value?.parse::<i64>().ok()?, operand))
        };
        match requirement.operator {
            Operator::In => value.is_some_and(|value| requirement.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !requirement.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => integers().is_some_and(|(is, than)| is > than),
            Operator::Lt => integers().is_some_and(|(is, than)| is < than),
        }
    }

    /// The sum of the weights of wishes that this cluster's own facts fulfil; wishes for company are not among them.
    pub(crate) fn wish_weight(&self, spec: &TenantSpec) -> u32 {
        let holds = |wish: &Wish| match wish {
            Wish::Label(requirement) => self.satisfies(requirement),
            Wish::Region(region) => self.spec.region == *region,
            Wish::Zone(zone) => self.spec.zones.contains(zone),
            Wish::Provider(provider) => self.spec.provider == *provider,
            Wish::Company(_) => false,
        };
        spec.constraints.preferences.iter().filter(|preference| holds(&preference.wish)).map(|preference| preference.weight).sum()
    }
}

/// A taint as kubectl writes it.
pub(crate) fn taint_text(taint: &Taint) -> String {
    let effect = match taint.effect {
        TaintEffect::NoSchedule => "NoSchedule",
        TaintEffect::PreferNoSchedule => "PreferNoSchedule",
    };
    if taint.value.is_empty() { format!("{}:{effect}", taint.key) } else { format!("{}={}:{effect}", taint.key, taint.value) }
}

/// A label expression as kubectl writes it.
fn expression(requirement: &Requirement) -> String {
    let (key, values) = (&requirement.key, requirement.values.join(", "));
    match requirement.operator {
        Operator::In => format!("{key} in ({values})"),
        Operator::NotIn => format!("{key} notin ({values})"),
        Operator::Exists => format!("{key} to exist"),
        Operator::DoesNotExist => format!("{key} not to exist"),
        Operator::Gt => format!("{key} > {values}"),
        Operator::Lt => format!("{key} < {values}"),
    }
}

/// Texts that a refusal lists at most; the rest is counted.
const MAX_LISTED: usize = 4;

fn listed(texts: &[String]) -> String {
    let shown = texts.iter().take(MAX_LISTED).map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ");
    match texts.len() {
        0 => "none".to_owned(),
        count if count > MAX_LISTED => format!("one of {shown} and {} more", count - MAX_LISTED),
        1 => shown,
        _ => format!("one of {shown}"),
    }
}
