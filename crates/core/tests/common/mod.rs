//! A small fleet to try things on: a leader's working copy and one replica's state, driven entry by entry.
#![allow(dead_code, missing_docs, unreachable_pub)] // a part of each test binary

use std::collections::BTreeMap;

use roadstead_core::apply::{Applied, apply};
use roadstead_core::class::{ClassVersion, VolumeSpec};
use roadstead_core::cluster::{Capacity, ClusterSpec, GrowthRoom, NodeSize};
use roadstead_core::command::{Batch, Command, Done, Envelope, FIRST_LEVEL, FeatureLevel, Outcome, Rejection};
use roadstead_core::decide::{Contacts, Decision, Working};
use roadstead_core::id::{Name, Owner, RequestId, Revision, VolumeUid};
use roadstead_core::join::{Digest, Spending, Spent};
use roadstead_core::observed::{ClusterDetails, ClusterInfo, Growth, GrowthGroup, NetworkPolicies, SeenTenant, TroubleKind, Upheld};
use roadstead_core::pool::{PoolKind, PoolPolicy, PoolSpec};
use roadstead_core::request::{Ask, ClusterFound, GrowthFound, Observation, Observed, ObservedTenant, Principal, Report, Request, Retry};
use roadstead_core::resources::{Bytes, Millicores, PodSize, Requests, Resources};
use roadstead_core::state::State;
use roadstead_core::tenant::{Desired, Tenant, TenantSpec};
use roadstead_core::time::{Millis, Timestamp};

pub fn name(text: &str) -> Name {
    Name::new(text).expect("a legal name")
}

pub fn owner(text: &str) -> Owner {
    Owner::new(text).expect("a legal owner")
}

pub fn resources(cpu: u64) -> Resources {
    Resources { cpu: Millicores(cpu), memory: Bytes(cpu), pods: 1, storage: Bytes(0), attachments: 0 }
}

pub fn class(version: &str, cpu: u64) -> ClassVersion {
    ClassVersion {
        name: name("shop"),
        version: version.to_owned(),
        requests: Requests { total: resources(cpu), largest_pod: PodSize { cpu: Millicores(cpu), memory: Bytes(cpu) } },
        volumes: vec![VolumeSpec { name: name("data"), size: Bytes(10), storage: "fast".to_owned(), grow: true }],
        retain: Millis(1000),
        values_schema: String::new(),
        template: String::new(),
        created: Revision::default(),
    }
}

pub fn pool(text: &str) -> PoolSpec {
    PoolSpec { name: name(text), kind: PoolKind::Home, order: 0, price_micros: 0, policy: PoolPolicy::Spread }
}

pub fn cluster(text: &str, cap: u32) -> ClusterSpec {
    ClusterSpec {
        name: name(text),
        uid: String::new(),
        provider: "own".to_owned(),
        region: "eu-1".to_owned(),
        zones: vec!["a".to_owned()],
        residency: "eu".to_owned(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        pool: name("home"),
        dedicated_to: Vec::new(),
        tenant_cap: cap,
        high_water: cap,
        shard_cap: cap.div_ceil(2),
        max_shards: 2,
        overcommit_percent: [100; 5],
        cordoned: false,
        draining: false,
    }
}

pub fn capacity(cpu: u64) -> Capacity {
    let allocatable = Resources { cpu: Millicores(cpu), memory: Bytes(cpu), pods: 10_000, storage: Bytes(100_000), attachments: 10_000 };
    Capacity { allocatable, used_by_others: Resources::default(), nodes: Vec::new() }
}

pub fn report(cluster: &str, capacity: Option<Capacity>, tenants: Vec<ObservedTenant>) -> Report {
    Report { cluster: name(cluster), uid: format!("uid-{cluster}"), capacity, tenants, by_agent: true, complete: None }
}

pub fn spec(text: &str) -> TenantSpec {
    TenantSpec {
        name: name(text),
        owner: owner("acme"),
        class: name("shop"),
        version: "1".to_owned(),
        values: "{}".to_owned(),
        hostnames: Vec::new(),
        volumes: Vec::new(),
        desired: Desired::Running,
        priority: 0,
        deletion_protection: false,
        deadline: None,
        constraints: Default::default(),
        requests: Requests::default(),
    }
}

pub fn place(spec: TenantSpec) -> Ask {
    Ask::PlaceTenant { spec: Box::new(spec), wait: true }
}

pub fn put_token(cluster: &str, digest: Digest, uid: &str) -> Ask {
    Ask::PutToken { cluster: name(cluster), digest, uid: uid.to_owned(), life: Millis(10_000) }
}

/// An agent tells details of its cluster: whether policies hold, first of all.
pub fn found(cluster: &str, ingress: Upheld, egress: Upheld) -> Ask {
    let policies = NetworkPolicies { ingress, egress, why: String::new() };
    let growth = GrowthGroup { name: "spare".to_owned(), nodes: Some(3), room: None, held_back: false };
    let growth = Growth { room: PodSize::default(), groups: vec![growth] };
    let details = ClusterDetails { policies, growth, open_nodes: 3, zones: vec![("a".to_owned(), 3)], ..ClusterDetails::default() };
    Ask::NoteCluster(Box::new(ClusterFound { cluster: name(cluster), uid: format!("uid-{cluster}"), details }))
}

/// An agent tells how many nodes may still be added to its cluster, of 500 millicores each.
pub fn growing(cluster: &str, nodes: u32) -> Ask {
    let size = PodSize { cpu: Millicores(500), memory: Bytes(1 << 30) };
    let (many, count) = (u64::from(nodes), (nodes > 0).then_some(NodeSize { allocatable: size, largest_free: size, count: nodes }));
    let total =
        Resources { cpu: Millicores(500 * many), memory: Bytes(many << 30), pods: 110 * many, storage: Bytes(0), attachments: 25 * many };
    let room = GrowthRoom { total, nodes: count.into_iter().collect() };
    Ask::NoteGrowth(Box::new(GrowthFound { cluster: name(cluster), uid: format!("uid-{cluster}"), room }))
}

pub fn spend_token(cluster: &str, token: Digest, uid: &str, key: u8) -> Ask {
    let by = Spent { uid: uid.to_owned(), key: Digest([key; 32]) };
    Ask::SpendToken(Box::new(Spending { cluster: name(cluster), token, by }))
}

pub fn retry(number: u128, time: Timestamp) -> Retry {
    Retry { id: RequestId(u128::from(time.0) << 80 | number), fingerprint: number as u64 }
}

/// One replica and, if it leads, its working copy.
#[derive(Clone, Default)]
pub struct Fleet {
    pub state: State,
    pub working: Working,
    pub contacts: Contacts,
    pub time: Timestamp,
    pub log: Vec<(u64, Batch)>,
    pub alarms: Vec<String>,
}

impl Fleet {
    /// A pool `home` and a class `shop@1` that asks for 100 of cpu and memory and 10 of storage.
    pub fn new() -> Self {
        // Nobody falls silent unless a test says when it was heard of.
        let contacts = Contacts { since: Timestamp(u64::MAX), ..Contacts::default() };
        let mut fleet = Self { time: Timestamp(1_000_000), contacts, ..Self::default() };
        fleet.must(Ask::PutPool { spec: pool("home"), expected: None });
        fleet.must(Ask::PutClass { class: Box::new(class("1", 100)) });
        fleet
    }

    /// Clusters `c0` and so on, each with a tenant cap and an amount of cpu and memory.
    pub fn with_clusters(count: usize, cap: u32, cpu: u64) -> Self {
        let mut fleet = Self::new();
        for number in 0..count {
            fleet.add_cluster(cluster(&format!("c{number}"), cap), cpu);
        }
        fleet
    }

    pub fn add_cluster(&mut self, spec: ClusterSpec, cpu: u64) {
        let name = spec.name.to_string();
        self.must(Ask::PutCluster { spec: Box::new(spec), expected: None });
        self.must(Ask::Report(Box::new(report(&name, Some(capacity(cpu)), Vec::new()))));
    }

    pub fn request(&self, ask: Ask) -> Request {
        Request { principal: owner("client:test"), retry: None, ask }
    }

    /// Decides and applies requests as one entry; their outcomes in order.
    pub fn batch(&mut self, requests: Vec<Request>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut commands = Vec::new();
        for request in requests {
            match self.working.decide(&self.state, &request, self.time) {
                Ok(Decision::Propose(command)) => {
                    outcomes.push(None);
                    commands.push(Envelope { principal: request.principal, retry: request.retry, command });
                }
                Ok(Decision::Answer(outcome)) => outcomes.push(Some(outcome)),
                Err(rejection) => outcomes.push(Some(Outcome::Rejected(rejection))),
            }
        }
        let mut applied = if commands.is_empty() { Vec::new() } else { self.entry(commands, true).outcomes }.into_iter();
        outcomes.into_iter().map(|known| known.or_else(|| applied.next()).expect("one outcome a command")).collect()
    }

    pub fn ask(&mut self, ask: Ask) -> Outcome {
        let request = self.request(ask);
        self.batch(vec![request]).remove(0)
    }

    /// What the leader would propose; it is in flight until it is applied.
    pub fn proposed(&mut self, ask: Ask) -> Envelope {
        let request = self.request(ask);
        match self.working.decide(&self.state, &request, self.time) {
            Ok(Decision::Propose(command)) => Envelope { principal: request.principal, retry: None, command },
            other => panic!("{other:?} where a command was expected"),
        }
    }

    pub fn must(&mut self, ask: Ask) -> Done {
        match self.ask(ask.clone()) {
            Outcome::Done(done) => done,
            Outcome::Rejected(rejection) => panic!("{ask:?} was rejected: {rejection:?}"),
        }
    }

    pub fn refused(&mut self, ask: Ask) -> Rejection {
        match self.ask(ask.clone()) {
            Outcome::Rejected(rejection) => rejection,
            Outcome::Done(done) => panic!("{ask:?} was done: {done:?}"),
        }
    }

    /// One command by the leader itself.
    pub fn command(&mut self, command: Command) -> Outcome {
        let envelope = Envelope { principal: roadstead_core::decide::leader(), retry: None, command };
        self.entry(vec![envelope], false).outcomes.remove(0)
    }

    /// The leader's own initiative, applied; whether there was any.
    pub fn advance(&mut self) -> Vec<Outcome> {
        let commands = self.working.advance(&self.state, &self.contacts, self.time);
        if commands.is_empty() { Vec::new() } else { self.entry(commands, true).outcomes }
    }

    pub fn settle(&mut self) {
        for _ in 0..1000 {
            if self.advance().is_empty() {
                return;
            }
        }
        panic!("the leader never comes to rest");
    }

    pub fn entry(&mut self, commands: Vec<Envelope>, mine: bool) -> Applied {
        let level: FeatureLevel = self.state.level().max(FIRST_LEVEL);
        let batch = Batch { level, time: self.time, commands };
        let index = self.state.revision().index + 1;
        let applied = apply(&mut self.state, index, &batch);
        self.working.applied(&self.state, &batch, &applied, mine);
        self.alarms.extend(applied.alarms.iter().cloned());
        self.log.push((index, batch));
        applied
    }

    pub fn check(&self) {
        let problems = self.state.check_invariants();
        assert!(problems.is_empty(), "{problems:?}");
        assert!(self.alarms.is_empty(), "{:?}", self.alarms);
        assert_eq!(self.working.ledger.digest(), self.state.ledger().digest(), "the working copy with nothing in flight is the state's");
        assert_eq!(self.working.forgotten(&self.state), [], "somebody waits and would never be tried again");
    }

    pub fn tenant(&self, name: &str) -> Tenant {
        self.state.tenant(name).expect("there is such a tenant")
    }

    pub fn place(&mut self, name: &str) -> Done {
        self.must(place(spec(name)))
    }

    pub fn release(&mut self, text: &str) -> Done {
        self.must(Ask::ReleaseTenant { name: name(text), purge: false, expected: None })
    }

    /// Its agent says what it saw of a tenant.
    pub fn observe(&mut self, tenant: &str, observed: Observed) -> Outcome {
        let found = self.tenant(tenant);
        let binding = found.phase.binding().expect("it is bound somewhere");
        let cluster = self.state.cluster_by_id(binding.cluster).expect("it is there").spec.name.to_string();
        let seen = ObservedTenant { id: found.id, epoch: binding.epoch, observed };
        self.ask(Ask::Report(Box::new(report(&cluster, None, vec![seen]))))
    }

    /// What its agent tells of a tenant's volumes and of what is wrong with it.
    pub fn tell(&mut self, tenant: &str, volumes: &[(&str, u128)], trouble: Option<(TroubleKind, &str)>) -> Outcome {
        let found = self.tenant(tenant);
        let binding = found.phase.binding().expect("it is bound somewhere");
        let cluster = self.state.cluster_by_id(binding.cluster).expect("it is there").spec.name.to_string();
        let volumes = volumes.iter().map(|(text, uid)| (name(text), VolumeUid(*uid))).collect();
        let trouble = trouble.map(|(kind, why)| (kind, why.to_owned()));
        let seen = SeenTenant { id: found.id, epoch: binding.epoch, volumes, trouble };
        let info = Some(ClusterInfo { version: "v1.34.4".to_owned(), nodes: 3, ready_nodes: 3, ..ClusterInfo::default() });
        let observation = Observation { report: report(&cluster, None, Vec::new()), tenants: vec![seen], info };
        self.ask(Ask::Observe(Box::new(observation)))
    }

    pub fn principal(&self) -> Principal {
        owner("client:test")
    }
}
