//! Claims about deciding and counting, on small fleets with constraints of every kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::score::TERM_COUNT;
use super::{Cause, Reason, Scratch, Verdict, describe_reason, explain, group, place};
use crate::cluster::{Capacity, Cluster, ClusterSpec, GrowthRoom, NodeSize};
use crate::constraint::{
    Company, CompanyKind, CompanyTerm, Constraints, Operator, OwnerLimit, OwnerLimitScope, Preference, Requirement, Taint, TaintEffect,
    Toleration, TopologyKey, Wish,
};
use crate::id::{ClusterId, Name, Owner, Revision, ShardId};
use crate::ledger::{Arrivals, Ledger, Share};
use crate::pool::{Pool, PoolKind, PoolPolicy, PoolSpec};
use crate::resources::{Bytes, Millicores, PodSize, Requests, Resources};
use crate::tenant::{Desired, MAX_REASON_BYTES, TenantSpec};

const GIB: u64 = 1 << 30;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn owner(number: u8) -> Owner {
    Owner::new(&format!("owner-{number}")).unwrap()
}

fn pool(number: u8) -> Pool {
    let policy = if number == 0 { PoolPolicy::Pack } else { PoolPolicy::Spread };
    let spec =
        PoolSpec { name: name(&format!("pool-{number}")), kind: PoolKind::Home, order: u32::from(number / 2), price_micros: 1, policy };
    Pool { spec, created: Revision::default(), changed: Revision::default() }
}

fn cluster(number: u32, cpu: u64, tenant_cap: u32, traits: u8) -> Cluster {
    let taint = |effect| vec![Taint { key: "tier".into(), value: "special".into(), effect }];
    let node = PodSize { cpu: Millicores(cpu / 2), memory: Bytes(8 * GIB) };
    let free = PodSize { cpu: Millicores(if traits & 1 == 0 { cpu / 2 } else { 100 }), memory: Bytes(8 * GIB) };
    Cluster {
        id: ClusterId(number),
        spec: ClusterSpec {
            name: name(&format!("cluster-{number}")),
            uid: String::new(),
            provider: if number.is_multiple_of(2) { "own" } else { "aws" }.to_owned(),
            region: format!("region-{}", number % 3),
            zones: vec![format!("zone-{}", number % 4)],
            residency: if number.is_multiple_of(2) { "eu" } else { "" }.to_owned(),
            labels: if traits & 2 == 0 { BTreeMap::new() } else { BTreeMap::from([("size".into(), (number % 3).to_string())]) },
            taints: match traits % 5 {
                3 => taint(TaintEffect::NoSchedule),
                4 => taint(TaintEffect::PreferNoSchedule),
                _ => Vec::new(),
            },
            pool: name(&format!("pool-{}", number % 3)),
            dedicated_to: if traits == 7 { vec![owner(0)] } else { Vec::new() },
            tenant_cap,
            high_water: tenant_cap,
            shard_cap: 2,
            max_shards: 3,
            overcommit_percent: [100, 150, 100, 100, 100],
            cordoned: traits == 11,
            draining: traits == 13,
        },
        capacity: Capacity {
            allocatable: Resources { cpu: Millicores(cpu), memory: Bytes(16 * GIB), pods: 20, storage: Bytes(100 * GIB), attachments: 8 },
            used_by_others: Resources { pods: 3, ..Resources::default() },
            nodes: if traits & 4 == 0 { Vec::new() } else { vec![NodeSize { allocatable: node, largest_free: free, count: 2 }] },
        },
        reported_at: None,
        silent: traits == 14,
        growth: GrowthRoom::default(),
        has_agent: true,
        fenced: traits == 15,
        shards: 0,
        created: Revision::default(),
        changed: Revision::default(),
    }
}

fn spec(number: usize, owner_number: u8, cpu: u64, constraints: Constraints) -> TenantSpec {
    TenantSpec {
        name: name(&format!("tenant-{number}")),
        owner: owner(owner_number),
        class: name("shop"),
        version: "1".to_owned(),
        values: "{}".to_owned(),
        hostnames: Vec::new(),
        volumes: Vec::new(),
        desired: Desired::Running,
        priority: 0,
        deletion_protection: false,
        deadline: None,
        constraints: Arc::new(constraints),
        requests: Requests {
            total: Resources { cpu: Millicores(cpu), memory: Bytes(GIB), pods: 2, storage: Bytes(cpu << 24), attachments: 1 },
            largest_pod: PodSize { cpu: Millicores(cpu / 2), memory: Bytes(GIB / 2) },
        },
    }
}

fn term() -> impl Strategy<Value = CompanyTerm> {
    let company = prop_oneof![
        (0_usize..20).prop_map(|number| Company::Tenant(name(&format!("tenant-{number}")))),
        (0_u8..3).prop_map(|number| Company::Owner(owner(number))),
    ];
    let topology = prop_oneof![
        Just(TopologyKey::Shard),
        Just(TopologyKey::Cluster),
        Just(TopologyKey::Region),
        Just(TopologyKey::Provider),
        Just(TopologyKey::Label("size".to_owned())),
    ];
    let kind = prop_oneof![Just(CompanyKind::Together), Just(CompanyKind::Apart)];
    (kind, company, topology).prop_map(|(kind, company, topology)| CompanyTerm { kind, company, topology })
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let operator = prop::sample::select(vec![
        (Operator::In, 1),
        (Operator::NotIn, 1),
        (Operator::Exists, 0),
        (Operator::DoesNotExist, 0),
        (Operator::Gt, 1),
        (Operator::Lt, 1),
    ]);
    (operator, 0_u8..3).prop_map(|((operator, operands), value)| Requirement {
        key: "size".to_owned(),
        operator,
        values: vec![value.to_string(); operands],
    })
}

fn constraints() -> impl Strategy<Value = Constraints> {
    let some = |strategy: BoxedStrategy<Constraints>| strategy;
    let wish = prop_oneof![
        requirement().prop_map(Wish::Label),
        (0_u8..3).prop_map(|number| Wish::Region(format!("region-{number}"))),
        (0_u8..4).prop_map(|number| Wish::Zone(format!("zone-{number}"))),
        Just(Wish::Provider("aws".to_owned())),
        term().prop_map(Wish::Company),
    ];
    let with = |change: fn(&mut Constraints, u8)| {
        (0_u8..4).prop_map(move |number| {
            let mut constraints = Constraints::default();
            change(&mut constraints, number);
            constraints
        })
    };
    prop_oneof![
        4 => Just(Constraints::default()),
        1 => some(with(|c, n| c.regions = vec![format!("region-{n}")]).boxed()),
        1 => some(with(|c, n| c.zones = vec![format!("zone-{n}")]).boxed()),
        1 => some(with(|c, _| c.providers = vec!["own".to_owned()]).boxed()),
        1 => some(with(|c, _| c.residency = Some("eu".to_owned())).boxed()),
        1 => some(with(|c, n| c.pool = Some(name(&format!("pool-{n}")))).boxed()),
        1 => some(with(|c, n| c.cluster = Some(name(&format!("cluster-{n}")))).boxed()),
        1 => some(with(|c, _| c.dedicated = true).boxed()),
        2 => some(with(|c, _| c.tolerations = vec![Toleration { key: Some("tier".into()), value: None, effect: None }]).boxed()),
        2 => some(with(|c, n| {
            let scope = if n % 2 == 0 { OwnerLimitScope::Shard } else { OwnerLimitScope::Cluster };
            c.owner_limits = vec![OwnerLimit { scope, max: u32::from(n / 2) + 1 }];
        }).boxed()),
        1 => requirement().prop_map(|label| Constraints { labels: vec![label], ..Constraints::default() }),
        4 => prop::collection::vec(term(), 1..3).prop_map(|company| Constraints { company, ..Constraints::default() }),
        3 => prop::collection::vec((1_u32..100, wish).prop_map(|(weight, wish)| Preference { weight, wish }), 1..3)
            .prop_map(|preferences| Constraints { preferences, ..Constraints::default() }),
    ]
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few hundred of them in a test")]
enum Step {
    Place { owner: u8, cpu: u64, constraints: Constraints },
    Give(usize),
    Report { cluster: usize, cpu: u64, traits: u8 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0_u8..3, 1_u64..40, constraints()).prop_map(|(owner, cpu, constraints)| Step::Place { owner, cpu: cpu * 50, constraints }),
        3 => any::<prop::sample::Index>().prop_map(|index| Step::Give(index.index(1 << 16))),
        1 => (0_usize..6, 2_u64..20, 0_u8..16).prop_map(|(cluster, cpu, traits)| Step::Report { cluster, cpu: cpu * 500, traits }),
    ];
    prop::collection::vec(step, 1..60)
}

fn fleet() -> impl Strategy<Value = Vec<Cluster>> {
    prop::collection::vec((2_u64..20, 2_u32..7, 0_u8..16), 1..6).prop_map(|clusters| {
        clusters.into_iter().zip(0..).map(|((cpu, cap, traits), number)| cluster(number, cpu * 500, cap, traits)).collect()
    })
}

fn put(ledger: &mut Ledger, cluster: &Cluster) {
    let pools = [pool(0), pool(1), pool(2)];
    ledger.put_cluster(cluster, pools.iter().find(|pool| pool.spec.name == cluster.spec.pool));
}

fn within_limits(ledger: &Ledger, cluster: &Cluster) -> bool {
    let (used, limit) = (ledger.used(cluster.id).to_array(), ledger.limit(cluster.id).to_array());
    used.iter().zip(limit).all(|(used, limit)| *used <= limit)
        && ledger.tenants(cluster.id) <= cluster.spec.tenant_cap
        && (0..8).all(|shard| ledger.shard_tenants(cluster.id, ShardId(shard)) <= if shard < 3 { cluster.spec.shard_cap } else { 0 })
}

/// What [`place`] must answer, found by asking about every shard of every cluster through `check` alone.
fn allowed_places(ledger: &Ledger, present: &Arrivals, clusters: &[Cluster], spec: &TenantSpec) -> Vec<(ClusterId, ShardId)> {
    let places = clusters.iter().flat_map(|cluster| (0..cluster.spec.max_shards).map(|shard| (cluster.id, ShardId(shard))));
    places.filter(|(cluster, shard)| ledger.check(present, spec, *cluster, *shard).is_ok()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn place_and_explain_agree_and_no_limit_is_crossed(mut clusters in fleet(), steps in steps()) {
        let (mut ledger, mut scratch) = (Ledger::default(), Scratch::default());
        clusters.iter().for_each(|cluster| put(&mut ledger, cluster));
        let (mut residents, mut present) = (Vec::new(), Arrivals::default());
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Report { cluster: row, cpu, traits } => {
                    if let Some(old) = clusters.get_mut(row) {
                        *old = cluster(old.id.0, cpu, old.spec.tenant_cap, traits);
                        put(&mut ledger, old);
                    }
                }
                Step::Give(index) if !residents.is_empty() => {
                    let (spec, cluster, shard): (TenantSpec, _, _) = residents.swap_remove(index % residents.len());
                    ledger.give(&spec, Share::Full, cluster, shard);
                    present.remove(&spec.name, cluster, shard);
                }
                Step::Give(_) => {}
                Step::Place { owner, cpu, constraints } => {
                    let spec = spec(number, owner, cpu, constraints);
                    let before: Vec<_> = clusters.iter().map(|cluster| within_limits(&ledger, cluster)).collect();
                    let decision = place(&mut scratch, &ledger, &present, &spec);
                    let told = explain(&ledger, &present, &spec);
                    prop_assert_eq!(&told.decision, &decision);
                    let allowed = allowed_places(&ledger, &present, &clusters, &spec);
                    match decision {
                        Ok(placement) => {
                            prop_assert!(placement.reason.len() <= MAX_REASON_BYTES);
                            prop_assert!(allowed.contains(&(placement.cluster, placement.shard)));
                            prop_assert_eq!(told.clusters[0].0, placement.cluster);
                            ledger.take(&spec, Share::Full, placement.cluster, placement.shard);
                            present.add(&spec.name, placement.cluster, placement.shard);
                            prop_assert!(within_limits(&ledger, &clusters[placement.cluster.row()]));
                            residents.push((spec, placement.cluster, placement.shard));
                        }
                        Err(unplaceable) => {
                            prop_assert!(unplaceable.reason.len() <= MAX_REASON_BYTES);
                            prop_assert!(allowed.is_empty(), "unplaceable, but {allowed:?} would do");
                        }
                    }
                    for (before, cluster) in before.into_iter().zip(&clusters) {
                        prop_assert!(!before || within_limits(&ledger, cluster));
                    }
                }
            }
        }
        // Everything given back, in another order: nothing is left.
        residents.reverse();
        for (spec, cluster, shard) in residents {
            ledger.give(&spec, Share::Full, cluster, shard);
        }
        prop_assert_eq!(ledger.digest(), Ledger::default().digest());
    }

    #[test]
    fn takes_and_gives_count_the_same_in_any_order(
        takes in prop::collection::vec((0_u8..3, 1_u64..40, constraints(), 0_u32..4, 0_u16..5, any::<bool>(), any::<bool>()), 1..40),
        order in any::<u64>(),
    ) {
        let takes: Vec<_> = takes
            .into_iter()
            .enumerate()
            .map(|(number, (owner, cpu, constraints, cluster, shard, full, stays))| {
                let share = if full { Share::Full } else { Share::StorageOnly };
                (spec(number, owner, cpu, constraints), share, ClusterId(cluster), ShardId(shard), stays)
            })
            .collect();
        let mut straight = Ledger::default();
        for (spec, share, cluster, shard, stays) in &takes {
            if *stays {
                straight.take(spec, *share, *cluster, *shard);
            }
        }
        let mut shuffled = takes.clone();
        shuffled.sort_by_key(|(spec, ..)| (spec.name.as_str().bytes().fold(order, |hash, byte| hash.rotate_left(7) ^ u64::from(byte)), spec.name.clone()));
        let mut roundabout = Ledger::default();
        (0..4).for_each(|number| put(&mut roundabout, &cluster(number, 1000, 3, 0)));
        for (spec, share, cluster, shard, _) in &shuffled {
            roundabout.take(spec, *share, *cluster, *shard);
        }
        for (spec, share, cluster, shard, stays) in &takes {
            if !stays {
                roundabout.give(spec, *share, *cluster, *shard);
            }
        }
        prop_assert_eq!(roundabout.digest(), straight.digest());
        for number in 0..3 {
            prop_assert_eq!(roundabout.owner_use(&owner(number)), straight.owner_use(&owner(number)));
        }
    }

    #[test]
    fn equal_requests_count_the_same_in_any_order(clusters in fleet(), sizes in prop::collection::vec((0_u8..2, 1_u64..4), 1..30), turn in 0_usize..30) {
        let run = |sizes: &[(u8, u64)]| {
            let mut ledger = Ledger::default();
            clusters.iter().for_each(|cluster| put(&mut ledger, cluster));
            for (number, (owner, _)) in sizes.iter().enumerate() {
                let spec = spec(number, *owner, 300, Constraints::default());
                if let Ok(placement) = place(&mut Scratch::default(), &ledger, &Arrivals::default(), &spec) {
                    ledger.take(&spec, Share::Full, placement.cluster, placement.shard);
                }
            }
            clusters.iter().map(|cluster| (ledger.tenants(cluster.id), ledger.used(cluster.id))).collect::<Vec<_>>()
        };
        let open: Vec<_> = sizes.iter().map(|(_, size)| (1, *size)).collect();
        let mut turned = open.clone();
        turned.rotate_left(turn % open.len());
        prop_assert_eq!(run(&open), run(&turned));
    }
}

#[test]
fn a_clone_keeps_its_counts_while_the_original_goes_on() {
    let mut ledger = Ledger::default();
    put(&mut ledger, &cluster(0, 8000, 6, 0));
    let frozen = ledger.clone();
    let spec = spec(1, 1, 500, Constraints::default());
    ledger.take(&spec, Share::Full, ClusterId(0), ShardId(0));
    assert_eq!((frozen.tenants(ClusterId(0)), ledger.tenants(ClusterId(0))), (0, 1));
    ledger.give(&spec, Share::Full, ClusterId(0), ShardId(0));
    assert_eq!(frozen.digest(), ledger.digest());
}

/// A cluster of two nodes of 32 cores, of which this much cpu is free, and all of the memory.
fn with_free(number: u32, free: [u64; 2]) -> Cluster {
    let room = |cpu: u64| PodSize { cpu: Millicores(cpu), memory: Bytes(8 * GIB) };
    let mut cluster = cluster(number, 64_000, 6, 0);
    cluster.capacity.allocatable.storage = Bytes(1000 * GIB);
    cluster.capacity.nodes = free.map(|free| NodeSize { allocatable: room(32_000), largest_free: room(free), count: 1 }).to_vec();
    cluster
}

#[test]
fn a_pool_that_packs_takes_the_cluster_where_the_pod_leaves_least_over() {
    let (mut ledger, mut scratch) = (Ledger::default(), Scratch::default());
    for cluster in [with_free(0, [16_000, 0]), with_free(3, [4000, 0]), with_free(6, [3000, 3000])] {
        put(&mut ledger, &cluster);
    }
    ledger.take(&spec(1, 1, 500, Constraints::default()), Share::Full, ClusterId(6), ShardId(0));
    let wanting = spec(2, 1, 8000, Constraints::default());
    assert_eq!(wanting.requests.largest_pod.cpu, Millicores(4000));
    let placed = |scratch: &mut Scratch, ledger: &Ledger| place(scratch, ledger, &Arrivals::default(), &wanting).unwrap().cluster;
    assert_eq!(placed(&mut scratch, &ledger), ClusterId(3), "though cluster 6 is the fullest");
    let node_terms: Vec<_> = explain(&ledger, &Arrivals::default(), &wanting)
        .clusters
        .into_iter()
        .map(|(cluster, verdict)| match verdict {
            Verdict::Fits { terms, .. } => (cluster.0, terms[3]),
            Verdict::Refuses(refusals) => panic!("{refusals:?}"),
        })
        .collect();
    assert_eq!(node_terms, [(3, ("node", 127)), (0, ("node", 127 - 2 * 18)), (6, ("node", 0))]);
    put(&mut ledger, &with_free(3, [0, 0]));
    assert_eq!(placed(&mut scratch, &ledger), ClusterId(0), "the new report is taken notice of");
}

#[test]
fn a_pool_that_spreads_asks_only_whether_a_node_has_room() {
    let mut ledger = Ledger::default();
    for cluster in [with_free(1, [16_000, 0]), with_free(4, [4000, 0]), with_free(7, [3000, 0])] {
        put(&mut ledger, &cluster);
    }
    ledger.take(&spec(1, 1, 500, Constraints::default()), Share::Full, ClusterId(4), ShardId(0));
    let placed = place(&mut Scratch::default(), &ledger, &Arrivals::default(), &spec(2, 1, 8000, Constraints::default())).unwrap();
    assert_eq!(placed.cluster, ClusterId(1));
}

#[test]
fn a_refusal_tells_the_closest_shortfall_with_numbers() {
    let mut ledger = Ledger::default();
    put(&mut ledger, &cluster(0, 2000, 6, 0));
    put(&mut ledger, &cluster(1, 1000, 6, 0));
    let wanting = spec(1, 1, 3000, Constraints::default());
    let Err(unplaceable) = place(&mut Scratch::default(), &ledger, &Arrivals::default(), &wanting) else {
        panic!("nothing is large enough")
    };
    let text = describe_reason(&unplaceable.reason, &|id| format!("cluster-{}", id.0));
    assert_eq!(text, "none of 2 clusters fits: 2 short of cpu; closest is cluster-0: 3 of cpu wanted, 2 of 2 free");
    let story = explain(&ledger, &Arrivals::default(), &wanting);
    let groups = group(&story);
    assert_eq!((groups[0].cause, groups[0].count, groups[0].closest.0), (Cause::Cpu, 2, ClusterId(0)));
    assert!(story.clusters.iter().all(|(_, verdict)| matches!(verdict, Verdict::Refuses(_))));
}

#[test]
fn unknown_reasons_are_described_and_not_misread() {
    let nameless = |_: ClusterId| String::new();
    assert_eq!(describe_reason(&[], &nameless), "no reason was kept");
    assert_eq!(describe_reason(&[200, 1], &nameless), "the kept reason is of format 200; this build reads format 1");
    assert_eq!(describe_reason(&[1], &nameless), "the kept reason (1 bytes) is damaged");
}

#[test]
fn the_longest_reasons_fit() {
    let terms = [i64::MIN; super::score::TERM_COUNT];
    let placed = Reason::Placed { clusters: u32::MAX, terms, runner_up: Some((ClusterId(u32::MAX), terms)) };
    assert!(placed.encode().len() <= MAX_REASON_BYTES);
}

#[test]
fn a_kept_reason_does_not_say_that_it_was_the_best_of_clusters_that_did_not_fit() {
    let named = |id: ClusterId| format!("cluster-{}", id.0);
    let mut reason = Reason::Placed { clusters: 20, terms: [1; TERM_COUNT], runner_up: Some((ClusterId(3), [0; TERM_COUNT])) };
    let text = reason.describe(&named);
    assert!(text.starts_with("best of those that fitted, of 20 clusters (") && text.contains("next was cluster-3"), "{text}");
    reason = Reason::Placed { clusters: 20, terms: [1; TERM_COUNT], runner_up: None };
    assert!(reason.describe(&named).starts_with("the only one of 20 clusters that fitted ("));
}
