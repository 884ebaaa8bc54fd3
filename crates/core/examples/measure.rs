//! Measures what a big state costs: memory per tenant, snapshot and load times, and each step of a placement's way.
//!
//! `cargo run --release -p roadstead-core --example measure -- [tenants] [clusters]`; prints one line per figure.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use roadstead_core::apply::apply;
use roadstead_core::class::{ClassVersion, VolumeSpec};
use roadstead_core::cluster::{Capacity, ClusterSpec};
use roadstead_core::codec::{SnapshotReader, decode_batch, encode_batch, snapshot};
use roadstead_core::command::{Batch, Command, Envelope, FIRST_LEVEL, Outcome, Placement};
use roadstead_core::constraint::Constraints;
use roadstead_core::decide::{Decision, Working};
use roadstead_core::id::{ClusterId, Name, Owner, RequestId, Revision, ShardId};
use roadstead_core::pool::{PoolKind, PoolPolicy, PoolSpec};
use roadstead_core::request::{Ask, Report, Request, Retry};
use roadstead_core::resources::{Bytes, Millicores, PodSize, Requests, Resources};
use roadstead_core::state::State;
use roadstead_core::tenant::{Desired, TenantSpec};
use roadstead_core::time::{Millis, Timestamp};

/// Time that this thread has run, so that a busy machine changes nothing.
#[derive(Clone, Copy)]
struct Instant(Duration);

impl Instant {
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Self(Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap()))
    }

    fn elapsed(self) -> Duration {
        Self::now().0 - self.0
    }
}

const BATCH: usize = 500;
const OWNERS: usize = 1000;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn spec(number: usize) -> TenantSpec {
    let mut constraints = Constraints { residency: Some("eu".to_owned()), ..Constraints::default() };
    if number.is_multiple_of(5) {
        constraints.regions = vec![format!("region-{}", number % 48)];
    }
    TenantSpec {
        name: name(&format!("shop-{:07}", number * 7_919 % 10_000_019)),
        owner: Owner::new(&format!("organisation-{:04}", number % OWNERS)).unwrap(),
        class: name("shop"),
        version: "3.2.0".to_owned(),
        values: r#"{"plan":"large","web":4}"#.to_owned(),
        hostnames: vec![format!("shop-{number}.customers.example")],
        volumes: Vec::new(),
        desired: Desired::Running,
        priority: 0,
        deletion_protection: false,
        deadline: None,
        constraints: Arc::new(constraints),
        requests: Requests::default(),
    }
}

fn fleet(clusters: usize) -> (State, u64) {
    let mut state = State::default();
    let mut index = 0;
    let mut run = |command: Command| {
        index += 1;
        let envelope = Envelope { principal: Owner::new("operator:o").unwrap(), retry: None, command };
        let batch = Batch { level: FIRST_LEVEL, time: Timestamp(1_000_000), commands: vec![envelope] };
        let applied = apply(&mut state, index, &batch);
        assert!(matches!(applied.outcomes[0], Outcome::Done(_)), "{:?}", applied.outcomes[0]);
    };
    let pool = PoolSpec { name: name("home"), kind: PoolKind::Home, order: 0, price_micros: 0, policy: PoolPolicy::Spread };
    run(Command::PutPool { spec: pool, expected: None });
    let total = Resources { cpu: Millicores(2500), memory: Bytes(3 << 30), pods: 9, storage: Bytes(0), attachments: 0 };
    run(Command::PutClass {
        class: Box::new(ClassVersion {
            name: name("shop"),
            version: "3.2.0".to_owned(),
            requests: Requests { total, largest_pod: PodSize { cpu: Millicores(500), memory: Bytes(1 << 30) } },
            volumes: vec![VolumeSpec { name: name("data"), size: Bytes(10 << 30), storage: "fast".to_owned(), grow: true }],
            retain: Millis(1000),
            values_schema: String::new(),
            template: String::new(),
            created: Revision::default(),
        }),
    });
    for number in 0..clusters {
        let text = format!("cluster-{number:04}");
        run(Command::PutCluster {
            spec: Box::new(ClusterSpec {
                name: name(&text),
                uid: String::new(),
                provider: "own".to_owned(),
                region: format!("region-{}", number % 48),
                zones: vec!["a".to_owned(), "b".to_owned()],
                residency: "eu".to_owned(),
                labels: BTreeMap::new(),
                taints: Vec::new(),
                pool: name("home"),
                dedicated_to: Vec::new(),
                tenant_cap: 1500,
                high_water: 900,
                shard_cap: 100,
                max_shards: 15,
                overcommit_percent: [100; 5],
                cordoned: false,
                draining: false,
            }),
            expected: None,
        });
        let allocatable = Resources {
            cpu: Millicores(10_000_000),
            memory: Bytes(10_000 << 30),
            pods: 150_000,
            storage: Bytes(100_000 << 30),
            attachments: 20_000,
        };
        let capacity = Capacity { allocatable, used_by_others: Resources::default(), nodes: Vec::new() };
        run(Command::Report(Box::new(Report {
            cluster: name(&text),
            uid: text,
            capacity: Some(capacity),
            tenants: Vec::new(),
            by_agent: true,
            complete: None,
        })));
    }
    (state, index)
}

/// Fills the fleet round-robin within the region, without the scheduler.
fn fill(state: &mut State, index: &mut u64, tenants: usize, clusters: usize, with_ids: bool) {
    let changed: Vec<Revision> = (0..clusters).map(|id| state.cluster_by_id(ClusterId(id as u32)).unwrap().changed).collect();
    let class = state.class("shop", "3.2.0").unwrap().clone();
    let (mut decode, mut encode, mut applying) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut bytes_written = 0;
    let per_region = clusters / 48;
    let mut counts = vec![0u32; clusters];
    for first in (0..tenants).step_by(BATCH) {
        let commands = (first..(first + BATCH).min(tenants))
            .map(|number| {
                let mut spec = spec(number);
                spec.requests = class.requests;
                spec.requests.total.storage = Bytes(10 << 30);
                spec.requests.total.attachments = 1;
                let row = number % 48 + 48 * (number / 48 % per_region);
                let shard = ShardId((counts[row] / 100) as u16);
                counts[row] += 1;
                let placement = Placement {
                    cluster: ClusterId(row as u32),
                    shard,
                    reason: vec![7; 24],
                    policy: state.policy().changed,
                    cluster_changed: changed[row],
                };
                let id = RequestId((1_000_000 << 80) + number as u128);
                let retry = with_ids.then_some(Retry { id, fingerprint: number as u64 });
                Envelope {
                    principal: Owner::new("client:shop-portal").unwrap(),
                    retry,
                    command: Command::CreateTenant { spec: Box::new(spec), placement: Ok(placement) },
                }
            })
            .collect();
        let batch = Batch { level: FIRST_LEVEL, time: Timestamp(1_000_000), commands };
        let start = Instant::now();
        let bytes = encode_batch(&batch);
        encode += start.elapsed();
        bytes_written += bytes.len();
        let start = Instant::now();
        let batch = decode_batch(&bytes).unwrap();
        decode += start.elapsed();
        *index += 1;
        let start = Instant::now();
        let applied = apply(state, *index, &batch);
        applying += start.elapsed();
        assert!(applied.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done(_))), "{:?}", applied.outcomes[0]);
    }
    let each = |time: Duration| time.as_nanos() as usize / tenants.max(1);
    println!(
        "encode {} ns, decode {} ns, apply {} ns per placement, {} bytes",
        each(encode),
        each(decode),
        each(applying),
        bytes_written / tenants.max(1)
    );
}

fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let find =
        |key: &str| status.lines().find(|line| line.starts_with(key)).unwrap().split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
    println!("{what}: {} MiB now, {} MiB at most", find("VmRSS") >> 10, find("VmHWM") >> 10);
    find("VmRSS") << 10
}

fn pipeline(state: &State, index: u64, count: usize) {
    let mut state = state.clone();
    let mut index = index;
    let mut working = Working::new(&state);
    let (mut deciding, mut applying, mut following) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let start_number = state.tenant_count();
    for first in (0..count).step_by(BATCH) {
        let requests: Vec<Request> = (first..first + BATCH)
            .map(|number| Request {
                principal: Owner::new("client:shop-portal").unwrap(),
                retry: Some(Retry { id: RequestId((1_000_000 << 80) + (1 << 40) + number as u128), fingerprint: 1 }),
                ask: Ask::PlaceTenant { spec: Box::new(spec(start_number + number)), wait: true },
            })
            .collect();
        let start = Instant::now();
        let commands = requests
            .into_iter()
            .map(|request| match working.decide(&state, &request, Timestamp(1_000_000)) {
                Ok(Decision::Propose(command)) => Envelope { principal: request.principal, retry: request.retry, command },
                other => panic!("{other:?}"),
            })
            .collect();
        deciding += start.elapsed();
        let batch = Batch { level: FIRST_LEVEL, time: Timestamp(1_000_000), commands };
        index += 1;
        let start = Instant::now();
        let applied = apply(&mut state, index, &batch);
        applying += start.elapsed();
        let start = Instant::now();
        working.applied(&state, &batch, &applied, true);
        following += start.elapsed();
    }
    let each = |time: Duration| time.as_nanos() as usize / count;
    println!(
        "with a frozen copy alive: decide {} ns, apply {} ns, follow {} ns per placement",
        each(deciding),
        each(applying),
        each(following)
    );
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().unwrap());
    let (tenants, clusters) = (arguments.next().unwrap_or(1_000_000), arguments.next().unwrap_or(1008));
    let before = memory("empty");
    let (mut state, mut index) = fleet(clusters);
    fill(&mut state, &mut index, tenants, clusters, false);
    let chunks: Vec<Vec<u8>>;
    {
        let after = memory("full, without request ids");
        println!("{} bytes per tenant", (after - before) / tenants.max(1) as u64);
        let start = Instant::now();
        let frozen = state.clone();
        println!("frozen copy: {:?}", start.elapsed());
        let start = Instant::now();
        let (count, bytes) = snapshot(&frozen).fold((0, 0), |(count, bytes), chunk| (count + 1, bytes + chunk.len()));
        println!("snapshot: {:?}, {count} chunks, {} MiB", start.elapsed(), bytes >> 20);
        memory("after a snapshot");
        chunks = snapshot(&frozen).collect();
    }
    let start = Instant::now();
    let mut reader = SnapshotReader::default();
    for chunk in &chunks {
        reader.push(chunk).unwrap();
    }
    println!("read: {:?}", start.elapsed());
    let loaded = reader.finish().unwrap();
    println!("loaded: {:?}", start.elapsed());
    assert_eq!(loaded.digest(), state.digest());
    drop(chunks);
    drop(loaded);
    pipeline(&state, index, 20_000.min(tenants));
    let start = Instant::now();
    let problems = state.check_invariants();
    println!("invariants: {:?} {problems:?}", start.elapsed());
}
