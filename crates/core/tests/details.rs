//! Details of a cluster: told by its agent, kept with the cluster, gone with it.

mod common;

use common::*;
use roadstead_core::apply::DETAILS;
use roadstead_core::codec::{SnapshotReader, snapshot};
use roadstead_core::command::{Command, FeatureLevel, Rejection};
use roadstead_core::observed::{MAX_DETAILS, MAX_WHY_BYTES, Upheld};
use roadstead_core::request::Ask;
use roadstead_core::time::Timestamp;

/// A fleet whose replicas all know of details.
fn fleet(clusters: usize) -> Fleet {
    let mut fleet = Fleet::with_clusters(clusters, 5, 1000);
    fleet.command(Command::RaiseLevel { level: DETAILS });
    fleet
}

fn known(fleet: &Fleet, cluster: &str) -> Option<(Upheld, Upheld, Timestamp)> {
    let id = fleet.state.cluster(cluster).expect("there").id;
    fleet.state.details_of(id).map(|known| (known.details.policies.ingress, known.details.policies.egress, known.policies_since))
}

#[test]
fn what_is_found_is_kept_since_it_was_news_and_goes_with_its_cluster() {
    let mut fleet = fleet(2);
    assert_eq!(known(&fleet, "c0"), None, "nobody has tried");
    fleet.must(found("c0", Upheld::Yes, Upheld::No));
    let first = known(&fleet, "c0").expect("it was told");
    assert_eq!((first.0, first.1), (Upheld::Yes, Upheld::No));
    fleet.time = Timestamp(fleet.time.0 + 5000);
    let entries = fleet.log.len();
    fleet.must(found("c0", Upheld::Yes, Upheld::No));
    assert_eq!((known(&fleet, "c0"), fleet.log.len()), (Some(first), entries), "told again it is no entry");
    fleet.must(found("c0", Upheld::Yes, Upheld::Yes));
    assert!(known(&fleet, "c0").is_some_and(|known| known.1 == Upheld::Yes && known.2 > first.2));
    let mut reader = SnapshotReader::default();
    snapshot(&fleet.state).for_each(|chunk| reader.push(&chunk).expect("our own chunk"));
    let copy = reader.finish().expect("our own snapshot");
    assert_eq!(
        copy.details_of(copy.cluster("c0").expect("there").id),
        fleet.state.details_of(fleet.state.cluster("c0").expect("there").id)
    );
    fleet.must(Ask::DeleteCluster { name: name("c0"), forget: false });
    fleet.check();
}

#[test]
fn a_copy_of_a_cluster_and_too_many_words_are_refused() {
    let mut fleet = fleet(1);
    fleet.must(found("c0", Upheld::Yes, Upheld::Yes));
    let Ask::NoteCluster(mut wrong) = found("c0", Upheld::No, Upheld::No) else { panic!("it is one") };
    wrong.details.policies.why = "x".repeat(MAX_WHY_BYTES + 1);
    let refused = |rejection: Rejection| if let Rejection::Invalid { field, .. } = rejection { field } else { panic!("{rejection:?}") };
    assert_eq!(refused(fleet.refused(Ask::NoteCluster(wrong.clone()))), "details.network_policies.why");
    wrong.details.policies.why.clear();
    wrong.details.zones = vec![(String::new(), 1); MAX_DETAILS + 1];
    assert_eq!(refused(fleet.refused(Ask::NoteCluster(wrong.clone()))), "details.zones");
    wrong.details.zones.clear();
    wrong.uid = "a copy's".to_owned();
    fleet.must(put_token("c0", roadstead_core::join::Digest([1; 32]), "uid-c0"));
    fleet.must(spend_token("c0", roadstead_core::join::Digest([1; 32]), "uid-c0", 1));
    assert_eq!(refused(fleet.refused(Ask::NoteCluster(wrong))), "uid");
    assert!(known(&fleet, "c0").is_some_and(|known| known.0 == Upheld::Yes));
}

#[test]
fn below_its_level_it_is_taken_and_not_kept() {
    let mut fleet = Fleet::with_clusters(1, 5, 1000);
    fleet.command(Command::RaiseLevel { level: FeatureLevel(DETAILS.0 - 1) });
    fleet.must(found("c0", Upheld::No, Upheld::No));
    assert_eq!(known(&fleet, "c0"), None);
}
