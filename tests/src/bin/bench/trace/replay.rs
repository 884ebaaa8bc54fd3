//! One replay: the whole load against one fleet, every decision by the real core.
//!
//! An arrival is what a leader and an agent make of it: `schedule::place` over the state, the decision applied, the pod put on a
//! node by the model cluster, its report applied. A departure: release, the node freed, the report that nothing is left and what is
//! free now. So every report is fresh; how stale ones do is not what is measured.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use roadstead_core::apply::apply;
use roadstead_core::class::ClassVersion;
use roadstead_core::cluster::{ClusterSpec, DEFAULT_HIGH_WATER, DEFAULT_SHARD_CAP, DEFAULT_TENANT_CAP};
use roadstead_core::command::{Batch, Command, Done, Envelope, FIRST_LEVEL, Outcome as Applied, Placement};
use roadstead_core::constraint::Constraints;
use roadstead_core::id::{ClusterId, Epoch, Name, Owner, Revision, TenantId};
use roadstead_core::pool::{PoolKind, PoolPolicy, PoolSpec};
use roadstead_core::request::{Observed, ObservedTenant, Report};
use roadstead_core::resources::{PodSize, Requests, Resources};
use roadstead_core::schedule::{self, Scratch, describe_reason};
use roadstead_core::state::State;
use roadstead_core::tenant::{Desired, TenantSpec};
use roadstead_core::time::{Millis, Timestamp};

use super::data::{Event, Load};
use super::kube::{Cluster, Strategy};
use crate::chance::Chance;

/// Seed of what model clusters draw among equal nodes.
const KUBE_SEED: u64 = 1;
const VERSION: &str = "1.0.0";

/// What became of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Every pod was put on a node at once.
    NobodyWaits {
        /// The greatest part of the cpu or the memory of all clusters that was used at a time.
        fullest_ppm: u32,
    },
    /// A pod found none; the replay ends there.
    Waits { second: i64, pod: PodSize, why: String, full_ppm: u32 },
}

/// Where a tenant is.
struct Place {
    id: TenantId,
    epoch: Epoch,
    cluster: ClusterId,
    node: usize,
}

struct Fleet {
    state: State,
    scratch: Scratch,
    index: u64,
    clusters: Vec<(Name, Cluster)>,
    /// Where the tenants are that there are, by number.
    places: BTreeMap<usize, Place>,
    /// What all nodes offer, and what is used of it.
    offered: PodSize,
    used: PodSize,
    /// What tenants have in common.
    pattern: TenantSpec,
}

/// Lets the whole load come and go.
///
/// # Errors
/// If the core rejects what it must not, or its books and the clusters' differ in the end.
pub(crate) fn replay(load: &Load, clusters: &[Vec<PodSize>], strategy: Strategy) -> Result<Outcome> {
    let mut fleet = Fleet::new(clusters, strategy)?;
    let start = load.events.first().map_or(0, |event| event.second);
    let mut fullest_ppm = 0;
    for event in &load.events {
        let time = Timestamp(event.second.abs_diff(start) * 1000);
        let size = load.sizes[event.tenant];
        if !event.arrives {
            fleet.depart(*event, size, time)?;
        } else if let Err(why) = fleet.arrive(*event, size, time)? {
            return Ok(Outcome::Waits { second: event.second, pod: size, why, full_ppm: fleet.full_ppm() });
        }
        fullest_ppm = fullest_ppm.max(fleet.full_ppm());
    }
    fleet.check()?;
    Ok(Outcome::NobodyWaits { fullest_ppm })
}

impl Fleet {
    fn new(clusters: &[Vec<PodSize>], strategy: Strategy) -> Result<Self> {
        let owner = Owner::new("trace").context("a legal owner")?;
        let pattern = TenantSpec {
            name: name("pod")?,
            owner,
            class: name("pod")?,
            version: VERSION.to_owned(),
            values: "{}".to_owned(),
            hostnames: Vec::new(),
            volumes: Vec::new(),
            desired: Desired::Running,
            priority: 0,
            deletion_protection: false,
            deadline: None,
            constraints: Arc::new(Constraints::default()),
            requests: Requests::default(),
        };
        let offered = clusters.iter().flatten().fold(PodSize::default(), |sum, node| plus(sum, *node));
        let models = clusters.iter().enumerate().map(|(number, nodes)| {
            let chance = Chance::new(KUBE_SEED + number as u64);
            Ok((name(&format!("cluster-{number}"))?, Cluster::new(nodes, strategy, chance)))
        });
        let mut fleet = Self {
            state: State::default(),
            scratch: Scratch::default(),
            index: 0,
            clusters: models.collect::<Result<_>>()?,
            places: BTreeMap::new(),
            offered,
            used: PodSize::default(),
            pattern,
        };
        fleet.declare()?;
        Ok(fleet)
    }

    /// One pool that packs, one class, and the clusters with their first reports. A cluster's number is its place.
    fn declare(&mut self) -> Result<()> {
        let pool = PoolSpec { name: name("home")?, kind: PoolKind::Home, order: 0, price_micros: 0, policy: PoolPolicy::Pack };
        let class = ClassVersion {
            name: name("pod")?,
            version: VERSION.to_owned(),
            requests: Requests::default(),
            volumes: Vec::new(),
            retain: Millis(0),
            values_schema: String::new(),
            template: String::new(),
            created: Revision::default(),
        };
        let mut commands = vec![Command::PutPool { spec: pool, expected: None }, Command::PutClass { class: Box::new(class) }];
        for (number, (cluster, _)) in self.clusters.iter().enumerate() {
            commands.push(Command::PutCluster { spec: Box::new(cluster_spec(cluster)?), expected: None });
            commands.push(self.report(ClusterId(number as u32), Vec::new()));
        }
        self.apply(Timestamp(0), commands)?;
        for (number, (cluster, _)) in self.clusters.iter().enumerate() {
            let known = self.state.cluster(cluster.as_str()).context("a cluster that was put is there")?;
            ensure!(known.id == ClusterId(number as u32), "clusters are numbered as they are put");
        }
        Ok(())
    }

    /// A tenant comes. `Err` says why it waits.
    fn arrive(&mut self, event: Event, size: PodSize, time: Timestamp) -> Result<Result<(), String>> {
        let total = Resources { cpu: size.cpu, memory: size.memory, pods: 1, ..Resources::default() };
        let spec = TenantSpec {
            name: name(&format!("pod-{}", event.tenant))?,
            requests: Requests { total, largest_pod: size },
            ..self.pattern.clone()
        };
        let placement = match schedule::place(&mut self.scratch, self.state.ledger(), &self.state, &spec) {
            Ok(placement) => placement,
            Err(unplaceable) => return Ok(Err(describe_reason(&unplaceable.reason, &|cluster| self.name_of(cluster)))),
        };
        let cluster = placement.cluster;
        let Some(node) = self.model(cluster)?.bind(size) else {
            return Ok(Err(format!("{} took it and has no node with room", self.name_of(cluster))));
        };
        let placement = Placement { policy: self.state.policy().changed, ..placement };
        let create = Command::CreateTenant { spec: Box::new(spec), placement: Ok(placement) };
        let report = self.report(cluster, Vec::new());
        let done = self.apply(time, vec![create, report])?;
        let Some(Done::Placed { id, epoch, .. }) = done.into_iter().next() else { bail!("a tenant with a placement was not placed") };
        self.places.insert(event.tenant, Place { id, epoch, cluster, node });
        self.used = plus(self.used, size);
        Ok(Ok(()))
    }

    /// A tenant goes.
    fn depart(&mut self, event: Event, size: PodSize, time: Timestamp) -> Result<()> {
        let place = self.places.remove(&event.tenant).context("who goes has come before")?;
        self.model(place.cluster)?.unbind(place.node, size);
        let release = Command::ReleaseTenant { name: name(&format!("pod-{}", event.tenant))?, purge: true, expected: None };
        let gone = ObservedTenant { id: place.id, epoch: place.epoch, observed: Observed::Absent };
        let report = self.report(place.cluster, vec![gone]);
        self.apply(time, vec![release, report])?;
        self.used.cpu.0 -= size.cpu.0;
        self.used.memory.0 -= size.memory.0;
        Ok(())
    }

    fn model(&mut self, cluster: ClusterId) -> Result<&mut Cluster> {
        Ok(&mut self.clusters.get_mut(cluster.row()).context("the core knows the clusters that were put only")?.1)
    }

    fn name_of(&self, cluster: ClusterId) -> String {
        self.clusters.get(cluster.row()).map_or_else(String::new, |(name, _)| name.to_string())
    }

    /// What a cluster's agent says now.
    fn report(&self, cluster: ClusterId, tenants: Vec<ObservedTenant>) -> Command {
        let (name, model) = &self.clusters[cluster.row()];
        let (uid, capacity) = (name.to_string(), Some(model.capacity()));
        Command::Report(Box::new(Report { cluster: name.clone(), uid, capacity, tenants, by_agent: true, complete: None }))
    }

    /// Applies one entry; nothing in it may be rejected.
    fn apply(&mut self, time: Timestamp, commands: Vec<Command>) -> Result<Vec<Done>> {
        self.index += 1;
        let principal = self.pattern.owner.clone();
        let commands = commands.into_iter().map(|command| Envelope { principal: principal.clone(), retry: None, command }).collect();
        let applied = apply(&mut self.state, self.index, &Batch { level: FIRST_LEVEL, time, commands });
        ensure!(applied.alarms.is_empty(), "broken invariants: {:?}", applied.alarms);
        let done = applied.outcomes.into_iter().map(|outcome| match outcome {
            Applied::Done(done) => Ok(done),
            Applied::Rejected(rejection) => bail!("entry {} was rejected: {rejection:?}", self.index),
        });
        done.collect()
    }

    /// The greater part of all clusters' cpu or memory that is used.
    fn full_ppm(&self) -> u32 {
        let part = |used: u64, offered: u64| (u128::from(used) * 1_000_000).checked_div(u128::from(offered)).unwrap_or(0) as u32;
        part(self.used.cpu.0, self.offered.cpu.0).max(part(self.used.memory.0, self.offered.memory.0))
    }

    /// The core's books hold, and are those of the clusters.
    fn check(&self) -> Result<()> {
        let broken = self.state.check_invariants();
        ensure!(broken.is_empty(), "broken invariants: {broken:?}");
        for (number, (name, model)) in self.clusters.iter().enumerate() {
            let (counted, used) = (self.state.ledger().used(ClusterId(number as u32)), model.used());
            ensure!((counted.cpu, counted.memory) == (used.cpu, used.memory), "{name}: {counted:?} is counted, {used:?} is used");
        }
        Ok(())
    }
}

fn plus(a: PodSize, b: PodSize) -> PodSize {
    let mut sum = a;
    sum.cpu.0 += b.cpu.0;
    sum.memory.0 += b.memory.0;
    sum
}

fn name(text: &str) -> Result<Name> {
    Name::new(text).with_context(|| format!("{text} is not a name"))
}

fn cluster_spec(cluster: &Name) -> Result<ClusterSpec> {
    Ok(ClusterSpec {
        name: cluster.clone(),
        uid: cluster.to_string(),
        provider: "own".to_owned(),
        region: "home".to_owned(),
        zones: Vec::new(),
        residency: String::new(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        pool: name("home")?,
        dedicated_to: Vec::new(),
        tenant_cap: DEFAULT_TENANT_CAP,
        high_water: DEFAULT_HIGH_WATER,
        shard_cap: DEFAULT_SHARD_CAP,
        max_shards: (DEFAULT_TENANT_CAP / DEFAULT_SHARD_CAP) as u16,
        overcommit_percent: [100; 5],
        cordoned: false,
        draining: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use roadstead_core::resources::{Bytes, Millicores};

    fn size(cores: u64) -> PodSize {
        PodSize { cpu: Millicores(1000 * cores), memory: Bytes(cores << 30) }
    }

    /// Pods by cores, seconds from and until.
    fn load(pods: &[(u64, i64, i64)]) -> Load {
        let sizes: Vec<_> = pods.iter().map(|(cores, ..)| size(*cores)).collect();
        let event = |(tenant, (_, from, until)): (usize, &(u64, i64, i64))| {
            [Event { second: *from, arrives: true, tenant }, Event { second: *until, arrives: false, tenant }]
        };
        let mut events: Vec<_> = pods.iter().enumerate().flat_map(event).collect();
        events.sort_unstable();
        Load { events, sizes, peak: PodSize::default(), peak_tenants: 0 }
    }

    fn run(pods: &[(u64, i64, i64)], clusters: &[Vec<PodSize>], strategy: Strategy) -> Outcome {
        replay(&load(pods), clusters, strategy).expect("the core goes along")
    }

    #[test]
    fn who_fits_the_sums_but_no_node_waits() {
        let clusters = vec![vec![size(4), size(4)], vec![size(4)]];
        for strategy in [Strategy::MostAllocated, Strategy::LeastAllocated] {
            let outcome = run(&[(3, -3, 50), (3, -2, 50), (3, -1, 50), (2, 1, 50)], &clusters, strategy);
            let Outcome::Waits { second, pod, why, .. } = outcome else { panic!("{outcome:?}") };
            assert_eq!((second, pod, why.as_str()), (1, size(2), "cluster-0 took it and has no node with room"));
        }
    }

    #[test]
    fn holes_are_filled_before_an_empty_node_is_broken_up() {
        let clusters = vec![vec![size(8)], vec![size(8)], vec![size(8)]];
        let outcome = run(&[(5, 0, 9), (3, 1, 9), (5, 2, 9), (3, 3, 9), (8, 4, 9)], &clusters, Strategy::MostAllocated);
        let Outcome::NobodyWaits { fullest_ppm } = outcome else { panic!("{outcome:?}") };
        assert_eq!(fullest_ppm, 1_000_000);
    }

    #[test]
    fn what_a_departure_leaves_is_used_in_the_same_second() {
        let outcome = run(&[(4, 0, 5), (4, 5, 9), (4, 9, 10)], &[vec![size(4)]], Strategy::LeastAllocated);
        assert!(matches!(outcome, Outcome::NobodyWaits { fullest_ppm: 1_000_000 }), "{outcome:?}");
    }
}
