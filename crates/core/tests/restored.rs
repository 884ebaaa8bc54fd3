//! What clusters carry that a restored backup does not know of.

mod common;

use common::*;
use roadstead_core::apply::FINDS_WHERE_AWAITED;
use roadstead_core::cluster::{ClusterSpec, ClusterState};
use roadstead_core::command::{Command, Done, Rejection};
use roadstead_core::id::{Epoch, Incarnation};
use roadstead_core::request::{Ask, Observed, ObservedTenant, Report};
use roadstead_core::tenant::Phase;

#[test]
fn a_waiting_tenant_that_a_cluster_carries_is_bound_there_over_its_limits_too() {
    let mut fleet = Fleet::new();
    assert!(matches!(fleet.place("a"), Done::Pending { .. }));
    fleet.add_cluster(cluster("roomy", 5), 1000);
    fleet.add_cluster(cluster("small", 5), 1);
    let (a, small) = (fleet.tenant("a").id, fleet.state.cluster("small").expect("declared").id);
    let before = Epoch { incarnation: Incarnation(0), index: 1 };
    let seen = |observed| Ask::Report(Box::new(report("small", None, vec![ObservedTenant { id: a, epoch: before, observed }])));
    fleet.must(seen(Observed::Absent));
    assert!(matches!(fleet.tenant("a").phase, Phase::Pending { .. }));
    fleet.must(seen(Observed::Running));
    let binding = fleet.tenant("a").phase.binding().expect("bound");
    assert_eq!(binding.cluster, small);
    assert!(binding.epoch > before, "whatever was said of it before is over");
    assert_eq!(fleet.state.cluster_state(small), Some(ClusterState::Overfull));
    fleet.settle();
    assert_eq!(fleet.tenant("a").phase.binding().expect("bound").cluster, small);
    fleet.check();
}

#[test]
fn a_waiting_tenant_is_found_only_while_a_restore_waits() {
    let mut fleet = Fleet::new();
    fleet.command(Command::RaiseLevel { level: FINDS_WHERE_AWAITED });
    ["a", "b"].into_iter().for_each(|tenant| assert!(matches!(fleet.place(tenant), Done::Pending { .. })));
    ["c0", "c1"].into_iter().for_each(|cluster| fleet.add_cluster(self::cluster(cluster, 5), 1));
    let epoch = Epoch { incarnation: Incarnation(0), index: 1 };
    let seen = |fleet: &Fleet, tenant: &str, cluster: &str, complete: Option<u16>| {
        let tenants = vec![ObservedTenant { id: fleet.tenant(tenant).id, epoch, observed: Observed::Running }];
        Ask::Report(Box::new(Report { complete: complete.map(Incarnation), ..report(cluster, None, tenants) }))
    };
    let entries = fleet.log.len();
    fleet.must(seen(&fleet, "a", "c0", None));
    assert!(matches!(fleet.tenant("a").phase, Phase::Pending { .. }), "nobody takes a tenant by saying that it is there");
    assert_eq!(fleet.log.len(), entries);
    fleet.command(Command::Incarnate { incarnation: Incarnation(1) });
    fleet.must(Ask::WaiveFence { cluster: Some(name("c1")) });
    fleet.must(seen(&fleet, "a", "c0", Some(1)));
    let binding = fleet.tenant("a").phase.binding().expect("bound");
    assert_eq!(fleet.state.cluster_by_id(binding.cluster).expect("declared").spec.name, name("c0"));
    fleet.must(seen(&fleet, "b", "c1", None));
    assert!(matches!(fleet.tenant("b").phase, Phase::Pending { .. }), "nothing is awaited any more");
    fleet.check();
}

#[test]
fn a_restored_backup_keeps_the_clusters_that_it_does_not_know_and_waits_for_them() {
    let backup = Fleet::with_clusters(1, 5, 1000).state;
    let mut now = Fleet::with_clusters(1, 5, 1000);
    now.must(Ask::PutPool { spec: pool("away"), expected: None });
    now.add_cluster(ClusterSpec { pool: name("away"), ..cluster("new", 5) }, 1000);
    let mut restored = Fleet { state: backup, ..now.clone() };
    restored.state.rebase(now.state.revision().index);
    restored.state.keep_clusters_of(&now.state);
    restored.command(Command::Incarnate { incarnation: Incarnation(1) });
    assert_eq!(restored.state.clusters().map(|cluster| cluster.spec.name.to_string()).collect::<Vec<_>>(), ["c0", "new"]);
    assert!(restored.state.pool("away").is_some());
    assert!(matches!(restored.refused(place(spec("b"))), Rejection::Fenced { waiting: 2 }));
    restored.check();
}
