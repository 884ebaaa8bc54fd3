//! Random sequences of requests, facts and time: whatever comes, the invariants hold.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::*;
use proptest::prelude::*;
use roadstead_core::apply::apply;
use roadstead_core::codec::{SnapshotReader, decode_batch, decode_outcome, decode_request, encode_batch, snapshot};
use roadstead_core::command::{Command, Outcome, SUPPORTED_LEVEL};
use roadstead_core::constraint::{Company, CompanyKind, CompanyTerm, Constraints, TopologyKey};
use roadstead_core::id::{ClusterId, Incarnation, TenantId};
use roadstead_core::intent::{ClusterIntent, for_cluster};
use roadstead_core::join::Digest;
use roadstead_core::observed::TroubleKind;
use roadstead_core::request::{Ask, Observed};
use roadstead_core::state::State;
use roadstead_core::tenant::{Phase, TenantSpec};
use roadstead_core::time::Timestamp;

/// What a step does; numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    Place { tenant: u8, priority: i8, version: bool, flavour: u8, deadline: bool },
    Update { tenant: u8, version: bool, flavour: u8 },
    Release { tenant: u8, purge: bool },
    Undelete { tenant: u8 },
    Adopt { tenant: u8, cluster: u8 },
    Observe { tenant: u8, observed: u8 },
    Tell { tenant: u8, volume: u8, trouble: bool },
    Capacity { cluster: u8, cpu: u16 },
    Cap { cluster: u8, cap: u8, region: bool },
    Cordon { cluster: u8, cordoned: bool },
    Delete { cluster: u8, forget: bool },
    Quota { tenants: u8 },
    Pass { ms: u16 },
    Advance,
    Incarnate,
    Level,
    NewLeader,
    Token { cluster: u8, token: u8 },
    Spend { cluster: u8, token: u8, key: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..24u8, any::<i8>(), any::<bool>(), 0..8u8, any::<bool>())
            .prop_map(|(tenant, priority, version, flavour, deadline)| Step::Place { tenant, priority: priority % 3, version, flavour, deadline }),
        3 => (0..24u8, any::<bool>(), 0..8u8).prop_map(|(tenant, version, flavour)| Step::Update { tenant, version, flavour }),
        3 => (0..24u8, any::<bool>()).prop_map(|(tenant, purge)| Step::Release { tenant, purge }),
        2 => (0..24u8).prop_map(|tenant| Step::Undelete { tenant }),
        1 => (0..24u8, 0..4u8).prop_map(|(tenant, cluster)| Step::Adopt { tenant, cluster }),
        6 => (0..24u8, 0..3u8).prop_map(|(tenant, observed)| Step::Observe { tenant, observed }),
        3 => (0..24u8, 0..3u8, any::<bool>()).prop_map(|(tenant, volume, trouble)| Step::Tell { tenant, volume, trouble }),
        2 => (0..4u8, 0..1500u16).prop_map(|(cluster, cpu)| Step::Capacity { cluster, cpu }),
        1 => (0..4u8, 1..8u8, any::<bool>()).prop_map(|(cluster, cap, region)| Step::Cap { cluster, cap, region }),
        1 => (0..4u8, any::<bool>()).prop_map(|(cluster, cordoned)| Step::Cordon { cluster, cordoned }),
        1 => (0..4u8, any::<bool>()).prop_map(|(cluster, forget)| Step::Delete { cluster, forget }),
        1 => (1..20u8).prop_map(|tenants| Step::Quota { tenants }),
        2 => (0..2000u16).prop_map(|ms| Step::Pass { ms }),
        4 => Just(Step::Advance),
        1 => Just(Step::Incarnate),
        1 => Just(Step::Level),
        1 => Just(Step::NewLeader),
        1 => (0..4u8, 0..3u8).prop_map(|(cluster, token)| Step::Token { cluster, token }),
        1 => (0..4u8, 0..3u8, 0..2u8).prop_map(|(cluster, token, key)| Step::Spend { cluster, token, key }),
    ]
}

fn wanted(fleet: &Fleet, tenant: u8, version: bool, flavour: u8) -> TenantSpec {
    let mut wanted = spec(&format!("t{tenant}"));
    wanted.owner = owner(&format!("o{}", tenant % 4));
    wanted.version = if version { "2" } else { "1" }.to_owned();
    let mut constraints = Constraints::default();
    match flavour {
        1 => constraints.regions = vec!["eu-1".to_owned()],
        2 => constraints.cluster = Some(name("c1")),
        3 | 4 => constraints.company.push(CompanyTerm {
            kind: if flavour == 3 { CompanyKind::Apart } else { CompanyKind::Together },
            company: Company::Owner(wanted.owner.clone()),
            topology: TopologyKey::Cluster,
        }),
        _ => {}
    }
    wanted.constraints = constraints.into();
    wanted.deletion_protection = flavour == 7;
    let _ = fleet;
    wanted
}

fn cluster_name(cluster: u8) -> roadstead_core::id::Name {
    name(&format!("c{cluster}"))
}

fn run(fleet: &mut Fleet, step: &Step) {
    match *step {
        Step::Place { tenant, priority, version, flavour, deadline } => {
            let mut wanted = wanted(fleet, tenant, version, flavour);
            wanted.priority = priority.into();
            wanted.deadline = deadline.then_some(Timestamp(fleet.time.0 + 500));
            fleet.ask(place(wanted));
        }
        Step::Update { tenant, version, flavour } => {
            let wanted = wanted(fleet, tenant, version, flavour);
            fleet.ask(Ask::UpdateTenant { spec: Box::new(wanted), expected: None });
        }
        Step::Release { tenant, purge } => {
            fleet.ask(Ask::ReleaseTenant { name: name(&format!("t{tenant}")), purge, expected: None });
        }
        Step::Undelete { tenant } => {
            fleet.ask(Ask::UndeleteTenant { name: name(&format!("t{tenant}")) });
        }
        Step::Adopt { tenant, cluster } => {
            let wanted = wanted(fleet, tenant, false, 0);
            fleet.ask(Ask::AdoptTenant { spec: Box::new(wanted), cluster: cluster_name(cluster), shard: None });
        }
        Step::Observe { tenant, observed } => {
            let observed = [Observed::Running, Observed::Stopped, Observed::Absent][usize::from(observed)];
            let bound = fleet.state.tenant(&format!("t{tenant}")).is_some_and(|tenant| tenant.phase.binding().is_some());
            if bound {
                fleet.observe(&format!("t{tenant}"), observed);
            }
        }
        Step::Tell { tenant, volume, trouble } => {
            let name = format!("t{tenant}");
            if fleet.state.tenant(&name).is_some_and(|tenant| tenant.phase.binding().is_some()) {
                let volumes = [("data", u128::from(volume) + 1)];
                let volumes = if volume == 0 { &[][..] } else { &volumes };
                fleet.tell(&name, volumes, trouble.then_some((TroubleKind::Waits, "a pod")));
            }
        }
        Step::Capacity { cluster, cpu } => {
            fleet.ask(Ask::Report(Box::new(report(&format!("c{cluster}"), Some(capacity(cpu.into())), Vec::new()))));
        }
        Step::Cap { cluster: number, cap, region } => {
            let mut wanted = cluster(&format!("c{number}"), cap.into());
            wanted.region = if region { "eu-1" } else { "us-1" }.to_owned();
            fleet.ask(Ask::PutCluster { spec: Box::new(wanted), expected: None });
        }
        Step::Cordon { cluster, cordoned } => {
            fleet.ask(Ask::CordonCluster { name: cluster_name(cluster), cordoned });
        }
        Step::Delete { cluster, forget } => {
            fleet.ask(Ask::DeleteCluster { name: cluster_name(cluster), forget });
        }
        Step::Quota { tenants } => {
            let mut policy = fleet.state.policy().spec.clone();
            policy.default_quota.tenants = Some(tenants.into());
            policy.max_pending = 10;
            fleet.ask(Ask::PutPolicy { spec: Box::new(policy), expected: None });
        }
        Step::Pass { ms } => fleet.time = Timestamp(fleet.time.0 + u64::from(ms)),
        Step::Advance => drop(fleet.advance()),
        Step::Incarnate => {
            let next = Incarnation(fleet.state.incarnation().0 + 1);
            fleet.command(Command::Incarnate { incarnation: next });
            fleet.ask(Ask::WaiveFence { cluster: None });
        }
        Step::Level => drop(fleet.command(Command::RaiseLevel { level: SUPPORTED_LEVEL })),
        Step::Token { cluster, token } => {
            fleet.ask(put_token(&format!("c{cluster}"), Digest([token; 32]), ""));
        }
        Step::Spend { cluster, token, key } => {
            fleet.ask(spend_token(&format!("c{cluster}"), Digest([token; 32]), &format!("uid-c{cluster}"), key));
        }
        Step::NewLeader => fleet.working = roadstead_core::decide::Working::new(&fleet.state),
    }
}

/// Use of every cluster, and whether it is over a limit.
fn over(state: &State) -> Vec<bool> {
    state.clusters().map(|cluster| state.ledger().overfull(cluster.id)).collect()
}

fn intents(state: &State) -> BTreeMap<ClusterId, ClusterIntent> {
    state.clusters().map(|cluster| (cluster.id, for_cluster(state, cluster.id))).collect()
}

fn may_overfill(step: &Step) -> bool {
    matches!(step, Step::Adopt { .. } | Step::Capacity { .. } | Step::Cap { .. } | Step::Delete { .. })
}

fn copy_of(state: &State) -> State {
    let mut reader = SnapshotReader::default();
    for chunk in snapshot(state) {
        reader.push(&chunk).expect("our own chunk");
    }
    reader.finish().expect("our own snapshot")
}

fn fleet() -> Fleet {
    let mut fleet = Fleet::with_clusters(3, 4, 600);
    fleet.must(Ask::PutClass { class: Box::new(class("2", 200)) });
    fleet
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn no_command_crosses_a_limit_and_everything_derived_stays_in_step(steps in proptest::collection::vec(step(), 1..80)) {
        let mut fleet = fleet();
        for step in &steps {
            let before = over(&fleet.state);
            run(&mut fleet, step);
            fleet.check();
            if !may_overfill(step) {
                let crossed = before.iter().zip(over(&fleet.state)).any(|(was, is)| is && !was);
                prop_assert!(!crossed, "{:?} crossed a limit", step);
            }
        }
    }

    #[test]
    fn an_intent_that_changes_is_newer_and_names_each_tenant_once(steps in proptest::collection::vec(step(), 1..60)) {
        let mut fleet = fleet();
        let mut before = intents(&fleet.state);
        for step in &steps {
            run(&mut fleet, step);
            let after = intents(&fleet.state);
            let named: Vec<TenantId> = after.values().flat_map(|intent| intent.tenants.iter().map(|tenant| tenant.id)).collect();
            let bound = fleet.state.tenants_after(None).filter(|tenant| tenant.phase.binding().is_some());
            prop_assert_eq!(named.iter().copied().collect::<BTreeSet<_>>(), bound.map(|tenant| tenant.id).collect::<BTreeSet<_>>());
            prop_assert_eq!(named.iter().collect::<BTreeSet<_>>().len(), named.len(), "a tenant is wanted in two clusters");
            for (cluster, intent) in &after {
                if let Some(known) = before.get(cluster) && known.tenants != intent.tenants {
                    prop_assert!(intent.generation > known.generation, "{:?} changed what {:?} is to do, not its generation", step, cluster);
                }
            }
            before = after;
        }
    }

    #[test]
    fn the_log_gives_the_same_state_from_any_snapshot_on(steps in proptest::collection::vec(step(), 1..40), at in any::<prop::sample::Index>()) {
        let mut fleet = fleet();
        for step in &steps {
            run(&mut fleet, step);
        }
        let cut = at.index(fleet.log.len());
        let mut replica = State::default();
        for (number, (index, batch)) in fleet.log.iter().enumerate() {
            let written = decode_batch(&encode_batch(batch)).expect("our own entry");
            apply(&mut replica, *index, &written);
            if number == cut {
                replica = copy_of(&replica);
            }
        }
        prop_assert_eq!(replica.digest(), fleet.state.digest());
        prop_assert!(replica.check_invariants().is_empty());
    }

    #[test]
    fn the_order_of_equal_requests_does_not_matter_for_what_is_counted(order in Just((0..20u8).collect::<Vec<_>>()).prop_shuffle()) {
        let counts = |order: &[u8]| {
            let mut fleet = fleet();
            let requests = order.iter().map(|tenant| fleet.request(place(wanted(&fleet, *tenant, false, 0)))).collect();
            fleet.batch(requests);
            let used: Vec<_> = fleet.state.clusters().map(|cluster| fleet.state.ledger().used(cluster.id)).collect();
            (used, fleet.state.pending_count())
        };
        let sorted: Vec<u8> = (0..20).collect();
        prop_assert_eq!(counts(&order), counts(&sorted));
    }

    #[test]
    fn a_retry_has_no_second_effect(steps in proptest::collection::vec(0..6u8, 1..20)) {
        let mut fleet = fleet();
        let mut first = std::collections::BTreeMap::new();
        for tenant in steps {
            let mut request = fleet.request(place(wanted(&fleet, tenant, false, 0)));
            request.retry = Some(retry(u128::from(tenant) + 1, Timestamp(1_000_000)));
            let digest = fleet.state.digest();
            let outcome = fleet.batch(vec![request]).remove(0);
            match first.get(&tenant) {
                None => drop(first.insert(tenant, outcome)),
                Some(first) => {
                    prop_assert_eq!(first, &outcome);
                    prop_assert_eq!(digest, fleet.state.digest());
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), body in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut sealed = vec![1, 0];
        sealed.extend(crc32fast::hash(&body).to_le_bytes());
        sealed.extend(&body);
        for bytes in [&bytes, &sealed] {
            let _ = (decode_batch(bytes), decode_request(bytes), decode_outcome(bytes));
            let mut reader = SnapshotReader::default();
            if reader.push(bytes).is_ok() {
                prop_assert!(reader.finish().is_err());
            }
        }
    }

    #[test]
    fn a_damaged_or_cut_snapshot_is_refused(flip in any::<prop::sample::Index>(), bit in 0..8u8, missing in any::<prop::sample::Index>()) {
        let mut fleet = fleet();
        for tenant in 0..6 {
            fleet.ask(place(wanted(&fleet, tenant, false, 0)));
        }
        let chunks: Vec<Vec<u8>> = snapshot(&fleet.state).collect();
        let read = |chunks: &[Vec<u8>]| {
            let mut reader = SnapshotReader::default();
            chunks.iter().try_for_each(|chunk| reader.push(chunk)).and_then(|()| reader.finish())
        };
        prop_assert!(read(&chunks).is_ok());
        let mut cut = chunks.clone();
        cut.remove(missing.index(cut.len()));
        prop_assert!(read(&cut).is_err());
        let mut damaged = chunks;
        let chunk = flip.index(damaged.len());
        let byte = flip.index(damaged[chunk].len());
        damaged[chunk][byte] ^= 1 << bit;
        prop_assert!(read(&damaged).is_err());
    }
}

#[test]
fn everybody_who_fits_is_placed_once_the_leader_comes_to_rest() {
    let mut fleet = fleet();
    for tenant in 0..24 {
        fleet.ask(place(wanted(&fleet, tenant, false, 0)));
    }
    fleet.settle();
    let waiting = fleet.state.pending_count();
    assert!(waiting > 0, "the fleet is too small for all");
    fleet.add_cluster(cluster("c9", 100), 100_000);
    fleet.settle();
    assert_eq!(fleet.state.pending_count(), 0);
    assert!(fleet.state.tenants_after(None).all(|tenant| matches!(tenant.phase, Phase::Bound { .. })));
    assert!(matches!(fleet.ask(place(wanted(&fleet, 24, false, 0))), Outcome::Done(_)));
    fleet.check();
}
