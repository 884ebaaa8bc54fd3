//! The model fleet: pools, classes and clusters small enough to be full, and agents that carry out intents and report what they see.

use std::collections::BTreeMap;

use roadstead_core::class::ClassVersion;
use roadstead_core::cluster::{Capacity, ClusterSpec};
use roadstead_core::id::{Epoch, Name, Revision, TenantId};
use roadstead_core::policy::PolicySpec;
use roadstead_core::pool::{PoolKind, PoolPolicy, PoolSpec};
use roadstead_core::request::{Ask, Observed, ObservedTenant, Report};
use roadstead_core::resources::{Bytes, Millicores, PodSize, Requests, Resources};
use roadstead_core::tenant::Phase;
use roadstead_core::time::Millis;

use crate::caller::{Intent, What, register_name, tenant};
use crate::chance::Chance;
use crate::linearizable::{Effect, Operation};

/// Tenants of class `small` that a cluster has room for by its cpu.
const SMALLS: u64 = 12;

fn name(text: &str) -> Name {
    Name::new(text).expect("a short name")
}

/// The name of a cluster.
#[must_use]
pub fn cluster_name(number: usize) -> Name {
    name(&format!("c{number}"))
}

/// What a cluster calls itself.
#[must_use]
pub fn uid(number: usize) -> String {
    format!("uid-{number}")
}

/// What the operator declares before anything else.
#[must_use]
pub fn set_up(clusters: usize, chance: &mut Chance, tokens: &mut u64) -> Vec<What> {
    let mut asks = Vec::new();
    let policy = if chance.percent(50) { PoolPolicy::Spread } else { PoolPolicy::Pack };
    let pool = PoolSpec { name: name("home"), kind: PoolKind::Home, order: 0, price_micros: 0, policy };
    asks.push(Ask::PutPool { spec: pool, expected: None });
    let policy = PolicySpec {
        silent_after: Millis::from_secs(chance.between(5, 60)),
        max_pending: 40,
        pending_tries_per_batch: 8,
        ..PolicySpec::default()
    };
    asks.push(Ask::PutPolicy { spec: Box::new(policy), expected: None });
    for (class, cpu) in [("small", 100), ("large", 300)] {
        asks.push(Ask::PutClass { class: Box::new(self::class(class, cpu)) });
    }
    for number in 0..clusters {
        asks.push(Ask::PutCluster { spec: Box::new(cluster(number, chance.between(6, 14) as u32)), expected: None });
    }
    for number in 0..crate::caller::REGISTERS {
        *tokens += 1;
        asks.push(Ask::PlaceTenant { spec: Box::new(tenant(&register_name(number), number, "small", *tokens)), wait: true });
    }
    asks.into_iter().map(What::Ask).collect()
}

/// What the set-up writes to a register, before anybody else asks for anything.
#[must_use]
pub fn first_write(number: u64) -> Operation {
    Operation { called: 0, answered: Some(1), effect: Effect::Write(number + 1) }
}

/// A class whose tenants want so much cpu.
fn class(class: &str, cpu: u64) -> ClassVersion {
    let total = Resources { cpu: Millicores(cpu), memory: Bytes(1 << 28), pods: 3, storage: Bytes(1 << 30), attachments: 1 };
    let largest_pod = PodSize { cpu: Millicores(cpu / 2), memory: Bytes(1 << 26) };
    ClassVersion {
        name: name(class),
        version: "1.0.0".to_owned(),
        requests: Requests { total, largest_pod },
        volumes: Vec::new(),
        retain: Millis::from_secs(5),
        values_schema: String::new(),
        template: String::new(),
        created: Revision::default(),
    }
}

/// A cluster's document.
#[must_use]
pub fn cluster(number: usize, tenant_cap: u32) -> ClusterSpec {
    ClusterSpec {
        name: cluster_name(number),
        uid: String::new(),
        provider: "own".to_owned(),
        region: format!("region{}", number % 2),
        zones: Vec::new(),
        residency: String::new(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        pool: name("home"),
        dedicated_to: Vec::new(),
        tenant_cap,
        high_water: tenant_cap.saturating_sub(1),
        shard_cap: 4,
        max_shards: 4,
        overcommit_percent: [100; 5],
        cordoned: false,
        draining: false,
    }
}

/// One cluster's agent, and what runs there.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Which cluster.
    pub cluster: Name,
    uid: String,
    cpu: u64,
    generation: Revision,
    running: BTreeMap<TenantId, Epoch>,
    /// Seen stopped or gone since the last report.
    gone: Vec<ObservedTenant>,
}

impl Agent {
    /// The agent of a cluster in which nothing runs.
    #[must_use]
    pub fn new(number: usize) -> Self {
        Self {
            cluster: cluster_name(number),
            uid: uid(number),
            cpu: SMALLS * 100,
            generation: Revision::default(),
            running: BTreeMap::new(),
            gone: Vec::new(),
        }
    }

    /// Carries an intent out, unless it is older than one that was carried out before. What the intent does not name goes on running.
    pub fn carry_out(&mut self, intent: &Intent) {
        if intent.generation < self.generation {
            return;
        }
        self.generation = intent.generation;
        self.gone.clear();
        for (id, epoch, phase) in &intent.tenants {
            match phase {
                Phase::Bound { .. } => {
                    self.running.insert(*id, *epoch);
                }
                Phase::Releasing { purge, .. } => {
                    self.running.remove(id);
                    let observed = if *purge { Observed::Absent } else { Observed::Stopped };
                    self.gone.push(ObservedTenant { id: *id, epoch: *epoch, observed });
                }
                Phase::Purging { .. } => {
                    self.running.remove(id);
                    self.gone.push(ObservedTenant { id: *id, epoch: *epoch, observed: Observed::Absent });
                }
                Phase::Retained { .. } | Phase::Pending { .. } => {
                    self.running.remove(id);
                }
            }
        }
    }

    /// Tenants that run here.
    pub fn running(&self) -> impl Iterator<Item = TenantId> + '_ {
        self.running.keys().copied()
    }

    /// What it reports; now and then nodes have come or gone.
    pub fn report(&mut self, chance: &mut Chance) -> Ask {
        if chance.percent(10) {
            self.cpu = chance.between(SMALLS / 2, SMALLS * 2) * 100;
        }
        let running = self.running.iter().map(|(id, epoch)| ObservedTenant { id: *id, epoch: *epoch, observed: Observed::Running });
        let allocatable =
            Resources { cpu: Millicores(self.cpu), memory: Bytes(1 << 40), pods: 1000, storage: Bytes(1 << 45), attachments: 1000 };
        Ask::Report(Box::new(Report {
            cluster: self.cluster.clone(),
            uid: self.uid.clone(),
            capacity: Some(Capacity { allocatable, ..Capacity::default() }),
            tenants: running.chain(self.gone.iter().copied()).collect(),
            by_agent: true,
            complete: Some(self.generation.incarnation),
        }))
    }
}
