//! What `core-place` is compared with: the rules in their plainest form, over its own books, sharing no code with the scheduler.

use std::collections::BTreeMap;

use roadstead_core::cluster::{Cluster, NodeSize};
use roadstead_core::constraint::{Company, CompanyKind, CompanyTerm, OwnerLimitScope, TaintEffect, TopologyKey, Wish};
use roadstead_core::pool::{Pool, PoolPolicy};
use roadstead_core::resources::PodSize;
use roadstead_core::tenant::TenantSpec;

/// One cluster as the reference keeps it.
pub(crate) struct Books {
    clusters: Vec<Cluster>,
    pools: Vec<Pool>,
    limits: Vec<[u64; 5]>,
    used: Vec<[u64; 5]>,
    shards: Vec<BTreeMap<u16, u32>>,
    /// Who is where, by owner and by name, and who wants to be apart from whom.
    owners: BTreeMap<String, BTreeMap<(usize, u16), u32>>,
    names: BTreeMap<String, (usize, u16)>,
    apart_from: BTreeMap<Company, BTreeMap<(TopologyKey, usize, u16), u32>>,
}

/// A decision as the reference sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) cluster: usize,
    pub(crate) shard: u16,
    /// Order of the pool, price, disliked taints, missed wishes, node, share in steps: the lower the better.
    pub(crate) cost: [i64; 6],
}

impl Books {
    pub(crate) fn new(clusters: Vec<Cluster>, pools: Vec<Pool>) -> Self {
        let count = clusters.len();
        let limits = clusters
            .iter()
            .map(|cluster| {
                let (has, others) = (cluster.capacity.allocatable.to_array(), cluster.capacity.used_by_others.to_array());
                std::array::from_fn(|resource| {
                    has[resource] * u64::from(cluster.spec.overcommit_percent[resource]) / 100 - others[resource]
                })
            })
            .collect();
        Self {
            clusters,
            pools,
            limits,
            used: vec![[0; 5]; count],
            shards: vec![BTreeMap::new(); count],
            owners: BTreeMap::new(),
            names: BTreeMap::new(),
            apart_from: BTreeMap::new(),
        }
    }

    pub(crate) fn enter(&mut self, spec: &TenantSpec, cluster: usize, shard: u16) {
        for (used, wanted) in self.used[cluster].iter_mut().zip(spec.requests.total.to_array()) {
            *used += wanted;
        }
        *self.shards[cluster].entry(shard).or_default() += 1;
        *self.owners.entry(spec.owner.to_string()).or_default().entry((cluster, shard)).or_default() += 1;
        self.names.insert(spec.name.to_string(), (cluster, shard));
        for term in &spec.constraints.company {
            let places = self.apart_from.entry(term.company.clone()).or_default();
            *places.entry((term.topology.clone(), cluster, shard)).or_default() += 1;
        }
    }

    pub(crate) fn leave(&mut self, spec: &TenantSpec, cluster: usize, shard: u16) {
        for (used, wanted) in self.used[cluster].iter_mut().zip(spec.requests.total.to_array()) {
            *used -= wanted;
        }
        less(&mut self.shards[cluster], shard);
        less(self.owners.get_mut(spec.owner.as_str()).expect("was entered"), (cluster, shard));
        self.names.remove(spec.name.as_str());
        for term in &spec.constraints.company {
            let places = self.apart_from.get_mut(&term.company).expect("was entered");
            less(places, (term.topology.clone(), cluster, shard));
        }
    }

    /// How full the clusters are: of each the greatest part of its tenant cap or of a resource that is used, and the mean of these.
    /// (A sum over the fleet would count what nobody can use: memory that is left where there is no cpu.)
    pub(crate) fn fill(&self) -> f64 {
        let of = |row: usize| {
            let tenants = f64::from(self.shards[row].values().sum::<u32>()) / f64::from(self.clusters[row].spec.tenant_cap);
            self.used[row].iter().zip(self.limits[row]).map(|(used, limit)| *used as f64 / limit as f64).fold(tenants, f64::max)
        };
        (0..self.clusters.len()).map(of).sum::<f64>() / self.clusters.len() as f64
    }

    /// Limits that are crossed.
    pub(crate) fn crossed(&self) -> usize {
        let mut crossed = 0;
        for (row, cluster) in self.clusters.iter().enumerate() {
            crossed += self.used[row].iter().zip(self.limits[row]).filter(|(used, limit)| **used > *limit).count();
            crossed += usize::from(self.shards[row].values().sum::<u32>() > cluster.spec.tenant_cap);
            crossed += self.shards[row]
                .iter()
                .filter(|(shard, count)| **count > cluster.spec.shard_cap || **shard >= cluster.spec.max_shards)
                .count();
        }
        crossed
    }

    /// Looks at every cluster and every shard.
    pub(crate) fn choose(&self, spec: &TenantSpec) -> Option<Choice> {
        let choice = |row: usize| {
            let cluster = &self.clusters[row];
            if !self.allows(spec, row) {
                return None;
            }
            let shards = (0..cluster.spec.max_shards).filter_map(|shard| {
                let count = self.shards[row].get(&shard).copied().unwrap_or(0);
                (count < cluster.spec.shard_cap && self.company_allows(spec, row, shard)).then_some((std::cmp::Reverse(count), shard))
            });
            let (_, shard) = shards.min()?;
            Some(Choice { cluster: row, shard, cost: self.cost(spec, row) })
        };
        (0..self.clusters.len()).filter_map(choice).min_by_key(|choice| (choice.cost, choice.cluster))
    }

    fn allows(&self, spec: &TenantSpec, row: usize) -> bool {
        let (cluster, constraints) = (&self.clusters[row], &spec.constraints);
        let room = spec
            .requests
            .total
            .to_array()
            .iter()
            .enumerate()
            .all(|(resource, wanted)| self.used[row][resource] + wanted <= self.limits[row][resource]);
        let region = constraints.regions.is_empty() || constraints.regions.contains(&cluster.spec.region);
        let taints = cluster.spec.taints.iter().filter(|taint| taint.effect == TaintEffect::NoSchedule);
        let tolerated =
            taints.into_iter().all(|taint| constraints.tolerations.iter().any(|toleration| toleration.key.as_ref() == Some(&taint.key)));
        let node = cluster.capacity.nodes.iter().any(|node| spec.requests.largest_pod.fits(node.allocatable));
        room && region && tolerated && node && self.shards[row].values().sum::<u32>() < cluster.spec.tenant_cap
    }

    fn company_allows(&self, spec: &TenantSpec, row: usize, shard: u16) -> bool {
        let none = BTreeMap::new();
        let of_owner = self.owners.get(spec.owner.as_str()).unwrap_or(&none);
        let limits = spec.constraints.owner_limits.iter().all(|limit| {
            let here =
                of_owner.iter().filter(|((at, in_shard), _)| *at == row && (limit.scope == OwnerLimitScope::Cluster || *in_shard == shard));
            here.map(|(_, count)| count).sum::<u32>() < limit.max
        });
        let own = spec.constraints.company.iter().all(|term: &CompanyTerm| {
            assert_eq!(term.kind, CompanyKind::Apart, "this benchmark has no other");
            match &term.company {
                Company::Tenant(name) => {
                    self.names.get(name.as_str()).is_none_or(|(at, in_shard)| !self.same(&term.topology, (*at, *in_shard), (row, shard)))
                }
                Company::Owner(owner) => {
                    let places = self.owners.get(owner.as_str()).unwrap_or(&none);
                    !places.keys().any(|place| self.same(&term.topology, *place, (row, shard)))
                }
            }
        });
        let residents = [Company::Tenant(spec.name.clone()), Company::Owner(spec.owner.clone())].into_iter().all(|company| {
            let places = self.apart_from.get(&company);
            !places.into_iter().flatten().any(|((topology, at, in_shard), _)| self.same(topology, (*at, *in_shard), (row, shard)))
        });
        limits && own && residents
    }

    fn same(&self, topology: &TopologyKey, (a, a_shard): (usize, u16), (b, b_shard): (usize, u16)) -> bool {
        match topology {
            TopologyKey::Shard => a == b && a_shard == b_shard,
            TopologyKey::Cluster => a == b,
            TopologyKey::Region => {
                let (a, b) = (&self.clusters[a].spec, &self.clusters[b].spec);
                a.provider == b.provider && a.region == b.region
            }
            TopologyKey::Provider | TopologyKey::Label(_) => unreachable!("this benchmark has no such term"),
        }
    }

    fn cost(&self, spec: &TenantSpec, row: usize) -> [i64; 6] {
        let cluster = &self.clusters[row];
        let pool = self.pools.iter().find(|pool| pool.spec.name == cluster.spec.pool).expect("every cluster has a pool");
        let tolerated = |key: &String| spec.constraints.tolerations.iter().any(|toleration| toleration.key.as_ref() == Some(key));
        let disliked = cluster.spec.taints.iter().filter(|taint| taint.effect == TaintEffect::PreferNoSchedule && !tolerated(&taint.key));
        let wishes = spec.constraints.preferences.iter().map(|preference| match &preference.wish {
            Wish::Region(region) if *region == cluster.spec.region => i64::from(preference.weight),
            Wish::Provider(provider) if *provider == cluster.spec.provider => i64::from(preference.weight),
            _ => 0,
        });
        let node = node_cost(&cluster.capacity.nodes, spec.requests.largest_pod, pool.spec.policy);
        let tenants = u64::from(self.shards[row].values().sum::<u32>()) * 1_000_000 / u64::from(cluster.spec.tenant_cap);
        let share =
            self.used[row].iter().zip(self.limits[row]).map(|(used, limit)| (u128::from(*used) * 1_000_000 / u128::from(limit)) as u64);
        let steps = (share.fold(tenants, u64::max) / 16) as i64;
        let share = if pool.spec.policy == PoolPolicy::Pack { -steps } else { steps };
        [i64::from(pool.spec.order), pool.spec.price_micros as i64, disliked.count() as i64, -wishes.sum::<i64>(), node, share]
    }
}

/// 127 if no node has room for the pod, else 0 in a pool that spreads; in one that packs, what would be left over on the tightest node and
/// on the roomiest, in steps of a quarter of a doubling, counted in that of cpu and memory of which a smaller part is free.
fn node_cost(nodes: &[NodeSize], pod: PodSize, policy: PoolPolicy) -> i64 {
    let sum = |of: &dyn Fn(&NodeSize) -> u64| nodes.iter().map(|node| u128::from(of(node)) * u128::from(node.count)).sum::<u128>();
    let (cpu, memory) = (sum(&|node| node.allocatable.cpu.0), sum(&|node| node.allocatable.memory.0));
    let free_cpu = sum(&|node| node.largest_free.cpu.0) * (1 << 20) / cpu;
    let free_memory = sum(&|node| node.largest_free.memory.0) * (1 << 20) / memory;
    let with_room = nodes.iter().filter(|node| pod.fits(node.largest_free));
    let left: Vec<u128> = with_room
        .map(|node| match free_cpu <= free_memory {
            true => u128::from(node.largest_free.cpu.0 - pod.cpu.0),
            false => u128::from(node.largest_free.memory.0 - pod.memory.0) / (memory / cpu).max(1),
        })
        .collect();
    match (left.iter().min(), left.iter().max(), policy) {
        (Some(tightest), Some(roomiest), PoolPolicy::Pack) => (steps(*tightest) + steps(*roomiest)).min(126),
        (Some(_), Some(_), PoolPolicy::Spread) => 0,
        _ => 127,
    }
}

/// Steps of a quarter of a core up to two cores, then four for each doubling.
fn steps(left_millicores: u128) -> i64 {
    let (mut steps, mut edge, mut width) = (0, 250, 250);
    while edge <= left_millicores {
        steps += 1;
        if steps >= 8 && steps % 4 == 0 {
            width *= 2;
        }
        edge += width;
    }
    steps
}

fn less<K: Ord + Clone>(counts: &mut BTreeMap<K, u32>, key: K) {
    let count = counts.get_mut(&key).expect("was entered");
    *count -= 1;
    if *count == 0 {
        counts.remove(&key);
    }
}
