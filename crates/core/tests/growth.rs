//! What may still be added to a cluster: it counts, apart from what is there.

mod common;

use common::*;
use roadstead_core::apply::COUNTS_GROWTH;
use roadstead_core::cluster::{Capacity, ClusterState, MAX_NODE_SIZES, NodeSize};
use roadstead_core::codec::{SnapshotReader, snapshot};
use roadstead_core::command::{Command, Done, FeatureLevel, Rejection};
use roadstead_core::request::Ask;
use roadstead_core::resources::{Bytes, Millicores, PodSize};
use roadstead_core::tenant::TenantSpec;

/// A cluster of one node of 200 millicores, of which each tenant takes 100.
fn fleet() -> Fleet {
    let mut fleet = Fleet::with_clusters(1, 50, 200);
    fleet.command(Command::RaiseLevel { level: COUNTS_GROWTH });
    let size = PodSize { cpu: Millicores(200), memory: Bytes(1 << 30) };
    let nodes = vec![NodeSize { allocatable: size, largest_free: size, count: 1 }];
    fleet.must(Ask::Report(Box::new(report("c0", Some(Capacity { nodes, ..capacity(200) }), Vec::new()))));
    fleet
}

fn state(fleet: &Fleet) -> Option<ClusterState> {
    fleet.state.cluster_state(fleet.state.cluster("c0").expect("declared").id)
}

#[test]
fn a_cluster_takes_what_may_be_added_to_it_and_no_more() {
    let mut fleet = fleet();
    for tenant in ["a", "b"] {
        fleet.place(tenant);
    }
    assert!(matches!(fleet.place("c"), Done::Pending { .. }), "its node is full");
    let entries = fleet.log.len();
    fleet.must(growing("c0", 1));
    assert_eq!(fleet.log.len(), entries + 1);
    fleet.must(growing("c0", 1));
    assert_eq!(fleet.log.len(), entries + 1, "told again it is no entry");
    fleet.settle();
    assert!(fleet.tenant("c").phase.binding().is_some(), "who waits is placed when something may be added");
    for tenant in ["d", "e", "f", "g"] {
        fleet.place(tenant);
    }
    assert!(matches!(fleet.place("h"), Done::Pending { .. }), "200 are there and 500 may be added");
    assert_eq!(state(&fleet), Some(ClusterState::Active));

    // A node has come, and is there now.
    fleet.must(growing("c0", 0));
    assert_eq!(state(&fleet), Some(ClusterState::Overfull));
    fleet.must(Ask::Report(Box::new(report("c0", Some(capacity(700)), Vec::new()))));
    assert_eq!(state(&fleet), Some(ClusterState::Active));
    fleet.check();
}

#[test]
fn the_largest_pod_may_need_a_node_that_is_still_to_come() {
    let mut fleet = fleet();
    fleet.must(Ask::PutClass { class: Box::new(class("big", 400)) });
    assert!(matches!(fleet.must(place(TenantSpec { version: "big".to_owned(), ..spec("a") })), Done::Pending { .. }), "no node takes it");
    fleet.must(growing("c0", 1));
    fleet.settle();
    assert!(fleet.tenant("a").phase.binding().is_some());
    fleet.check();
}

#[test]
fn it_is_in_snapshots_and_goes_with_its_cluster() {
    let mut fleet = fleet();
    fleet.must(growing("c0", 2));
    let mut reader = SnapshotReader::default();
    snapshot(&fleet.state).for_each(|chunk| reader.push(&chunk).expect("our own chunk"));
    let copy = reader.finish().expect("our own snapshot");
    let of = |state: &roadstead_core::state::State| state.cluster("c0").expect("declared").growth.clone();
    assert_eq!(of(&copy), of(&fleet.state));
    assert!(copy.check_invariants().is_empty(), "{:?}", copy.check_invariants());
    fleet.must(Ask::DeleteCluster { name: name("c0"), forget: false });
    fleet.check();
}

#[test]
fn a_copy_of_a_cluster_and_too_many_sizes_are_refused() {
    let mut fleet = fleet();
    let Ask::NoteGrowth(mut wrong) = growing("c0", 1) else { panic!("it is one") };
    wrong.room.nodes = vec![wrong.room.nodes[0]; MAX_NODE_SIZES + 1];
    let refused = |rejection: Rejection| if let Rejection::Invalid { field, .. } = rejection { field } else { panic!("{rejection:?}") };
    assert_eq!(refused(fleet.refused(Ask::NoteGrowth(wrong.clone()))), "growth.nodes");
    wrong.room.nodes.truncate(1);
    wrong.uid = "a copy's".to_owned();
    fleet.must(put_token("c0", roadstead_core::join::Digest([1; 32]), "uid-c0"));
    fleet.must(spend_token("c0", roadstead_core::join::Digest([1; 32]), "uid-c0", 1));
    assert_eq!(refused(fleet.refused(Ask::NoteGrowth(wrong))), "uid");
}

#[test]
fn below_its_level_it_is_taken_and_not_kept() {
    let mut fleet = Fleet::with_clusters(1, 50, 200);
    fleet.command(Command::RaiseLevel { level: FeatureLevel(COUNTS_GROWTH.0 - 1) });
    fleet.must(growing("c0", 9));
    assert!(fleet.state.cluster("c0").expect("declared").growth.nodes.is_empty());
}
