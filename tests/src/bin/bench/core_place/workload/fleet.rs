//! The fleet and the tenants of `core-place`: 1,000 clusters in 48 regions, 200 shapes, 1,000 owners.

use std::collections::BTreeMap;
use std::sync::Arc;

use roadstead_core::cluster::{Capacity, Cluster, ClusterSpec, GrowthRoom, NodeSize};
use roadstead_core::constraint::{
    Company, CompanyKind, CompanyTerm, Constraints, OwnerLimit, OwnerLimitScope, Preference, Taint, TaintEffect, Toleration, TopologyKey,
    Wish,
};
use roadstead_core::id::{ClusterId, Name, Owner, Revision};
use roadstead_core::pool::{Pool, PoolKind, PoolPolicy, PoolSpec};
use roadstead_core::resources::{Bytes, Millicores, PodSize, Requests, Resources};
use roadstead_core::tenant::{Desired, TenantSpec};

use crate::chance::Chance;

pub(crate) const CLUSTERS: usize = 1000;
const REGIONS: usize = 48;
const SHAPES: usize = 200;
const OWNERS: usize = 1000;
const GIB: u64 = 1 << 30;

const PROVIDERS: [&str; 4] = ["own", "aws", "gcp", "azure"];

fn name(text: &str) -> Name {
    Name::new(text).expect("names of this benchmark are labels")
}

/// Own machines first, packed; then the three clouds by price, spread.
pub(crate) fn pools() -> Vec<Pool> {
    let pool = |(order, provider): (usize, &&str)| Pool {
        spec: PoolSpec {
            name: name(provider),
            kind: if order == 0 { PoolKind::Home } else { PoolKind::Burst },
            order: u32::from(order > 0),
            price_micros: 1000 * order as u64,
            policy: if order == 0 { PoolPolicy::Pack } else { PoolPolicy::Spread },
        },
        created: Revision::default(),
        changed: Revision::default(),
    };
    PROVIDERS.iter().enumerate().map(pool).collect()
}

/// Every tenth cluster has a taint: by turns one that refuses and one that is only disliked.
pub(crate) fn clusters(chance: &mut Chance) -> Vec<Cluster> {
    (0..CLUSTERS).map(|number| cluster(chance, number)).collect()
}

fn cluster(chance: &mut Chance, number: usize) -> Cluster {
    let region = number % REGIONS;
    let provider = PROVIDERS[region % PROVIDERS.len()];
    let taint = |effect| vec![Taint { key: "tier".into(), value: "special".into(), effect }];
    let nodes = 40 + chance.below(41) as u64;
    let (cpu, memory) = *chance.pick(&[(32_000, 128 * GIB), (64_000, 256 * GIB)]);
    let node = PodSize { cpu: Millicores(cpu), memory: Bytes(memory) };
    let labels = BTreeMap::from([("disk".to_owned(), (*chance.pick(&["fast", "slow"])).to_owned())]);
    Cluster {
        id: ClusterId(number as u32),
        spec: ClusterSpec {
            name: name(&format!("{provider}-{number}")),
            uid: format!("uid-{number}"),
            provider: provider.to_owned(),
            region: format!("region-{region}"),
            zones: vec![format!("region-{region}-a"), format!("region-{region}-b")],
            residency: if region.is_multiple_of(3) { "eu" } else { "us" }.to_owned(),
            labels,
            taints: match number % 20 {
                3 => taint(TaintEffect::NoSchedule),
                13 => taint(TaintEffect::PreferNoSchedule),
                _ => Vec::new(),
            },
            pool: name(provider),
            dedicated_to: Vec::new(),
            tenant_cap: 1000,
            high_water: 900,
            shard_cap: 100,
            max_shards: 10,
            overcommit_percent: [100; 5],
            cordoned: false,
            draining: false,
        },
        growth: GrowthRoom::default(),
        capacity: Capacity {
            allocatable: Resources {
                cpu: Millicores(cpu * nodes),
                memory: Bytes(memory * nodes),
                pods: 110 * nodes,
                storage: Bytes(2048 * GIB * nodes),
                attachments: 25 * nodes,
            },
            used_by_others: Resources { cpu: Millicores(300 * nodes), memory: Bytes(GIB * nodes), pods: 6 * nodes, ..Resources::default() },
            nodes: vec![NodeSize { allocatable: node, largest_free: node, count: nodes as u32 }],
        },
        reported_at: None,
        silent: false,
        has_agent: true,
        fenced: false,
        shards: 0,
        created: Revision::default(),
        changed: Revision::default(),
    }
}

/// Draws tenants: of one of 200 shapes, of one of 1,000 owners; one in five is pinned to a region, one in ten has company, an owner
/// limit or preferences; one in four tolerates the taint.
pub(crate) struct Tenants {
    chance: Chance,
    shapes: Vec<Requests>,
    owners: Vec<Owner>,
    plain: [Arc<Constraints>; 2],
    pinned: Vec<[Arc<Constraints>; 2]>,
    preferring: Vec<Arc<Constraints>>,
    limited: [Arc<Constraints>; 2],
    drawn: usize,
}

impl Tenants {
    pub(crate) fn new(mut chance: Chance) -> Self {
        let shapes = (0..SHAPES).map(|_| shape(&mut chance)).collect();
        let owners = (0..OWNERS).map(|number| Owner::new(&format!("owner-{number}")).expect("a legal owner")).collect();
        let tolerant =
            Constraints { tolerations: vec![Toleration { key: Some("tier".into()), value: None, effect: None }], ..Constraints::default() };
        let both = |constraints: Constraints| {
            let tolerant = Constraints { tolerations: tolerant.tolerations.clone(), ..constraints.clone() };
            [Arc::new(constraints), Arc::new(tolerant)]
        };
        let region = |number: usize| Constraints { regions: vec![format!("region-{number}")], ..Constraints::default() };
        let limit = |scope, max| Constraints { owner_limits: vec![OwnerLimit { scope, max }], ..Constraints::default() };
        let wishing = |number: usize| {
            let region = Preference { weight: 50, wish: Wish::Region(format!("region-{number}")) };
            let provider = Preference { weight: 10, wish: Wish::Provider(PROVIDERS[number % 4].to_owned()) };
            Arc::new(Constraints { preferences: vec![region, provider], ..Constraints::default() })
        };
        Self {
            shapes,
            owners,
            plain: both(Constraints::default()),
            pinned: (0..REGIONS).map(|number| both(region(number))).collect(),
            preferring: (0..REGIONS).map(wishing).collect(),
            limited: [Arc::new(limit(OwnerLimitScope::Cluster, 3)), Arc::new(limit(OwnerLimitScope::Shard, 1))],
            chance,
            drawn: 0,
        }
    }

    pub(crate) fn draw(&mut self) -> TenantSpec {
        self.drawn += 1;
        let owner = self.chance.pick(&self.owners).clone();
        let tolerant = usize::from(self.chance.percent(25));
        let constraints = match self.chance.below(100) {
            0..20 => self.chance.pick(&self.pinned)[tolerant].clone(),
            20..24 => self.chance.pick(&self.preferring).clone(),
            24..27 => self.chance.pick(&self.limited).clone(),
            27..30 => Arc::new(Constraints { company: vec![self.apart()], ..Constraints::default() }),
            _ => self.plain[tolerant].clone(),
        };
        TenantSpec {
            name: name(&format!("tenant-{}", self.drawn)),
            owner,
            class: name("shop"),
            version: "1.0.0".to_owned(),
            values: "{}".to_owned(),
            hostnames: Vec::new(),
            volumes: Vec::new(),
            desired: Desired::Running,
            priority: 0,
            deletion_protection: false,
            deadline: None,
            constraints,
            requests: *self.chance.pick(&self.shapes),
        }
    }

    /// Apart from a tenant that came before, or from an owner.
    fn apart(&mut self) -> CompanyTerm {
        let (company, topology) = if self.chance.percent(50) {
            let other = 1 + self.chance.below(self.drawn);
            (
                Company::Tenant(name(&format!("tenant-{other}"))),
                if self.chance.percent(50) { TopologyKey::Region } else { TopologyKey::Cluster },
            )
        } else {
            (Company::Owner(self.chance.pick(&self.owners).clone()), TopologyKey::Shard)
        };
        CompanyTerm { kind: CompanyKind::Apart, company, topology }
    }
}

/// A tenant of 2 to 20 pods with 0.5 to 8 cores.
fn shape(chance: &mut Chance) -> Requests {
    let cpu = 500 + 50 * chance.below(150) as u64;
    let memory = (1 + chance.below(30) as u64) * GIB;
    let pods = 2 + chance.below(19) as u64;
    let volumes = chance.below(4) as u64;
    Requests {
        total: Resources {
            cpu: Millicores(cpu),
            memory: Bytes(memory),
            pods,
            storage: Bytes(volumes * (5 + chance.below(40) as u64) * GIB),
            attachments: volumes,
        },
        largest_pod: PodSize { cpu: Millicores(cpu / 2), memory: Bytes(memory / 2) },
    }
}
