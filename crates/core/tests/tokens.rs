//! Tokens by which clusters' agents are let in: good once, in time, for the cluster they were made for.

mod common;

use common::*;
use roadstead_core::apply::ENROLS;
use roadstead_core::command::{Command, FeatureLevel, Outcome, Rejection, SUPPORTED_LEVEL};
use roadstead_core::id::Incarnation;
use roadstead_core::join::Digest;
use roadstead_core::request::Ask;
use roadstead_core::time::Timestamp;

/// A fleet of clusters `c0` (known as `uid-c0`) and `new` (not known yet), at the newest level.
fn joining() -> Fleet {
    let mut fleet = Fleet::with_clusters(1, 5, 1000);
    fleet.command(Command::RaiseLevel { level: SUPPORTED_LEVEL });
    fleet.must(Ask::PutCluster { spec: Box::new(cluster("new", 5)), expected: None });
    fleet
}

/// Which field a refusal is about, and its words.
fn field(rejection: Rejection) -> (String, String) {
    match rejection {
        Rejection::Invalid { field, problem } => (field, problem),
        other => panic!("{other:?}"),
    }
}

const TOKEN: Digest = Digest([7; 32]);

#[test]
fn a_token_is_exchanged_once_and_again_only_by_the_same_key() {
    let mut fleet = joining();
    fleet.must(put_token("new", TOKEN, ""));
    fleet.must(spend_token("new", TOKEN, "uid-new", 1));
    let uid = |fleet: &Fleet| fleet.state.cluster("new").expect("declared").spec.uid.clone();
    assert_eq!(uid(&fleet), "uid-new", "the first to come is the cluster");
    let revision = fleet.state.revision();
    fleet.must(spend_token("new", TOKEN, "uid-new", 1));
    assert_eq!(fleet.state.revision(), revision, "an answer that was lost is given again, without the log");
    for (uid, key) in [("uid-new", 2), ("uid-other", 1)] {
        let (about, words) = field(fleet.refused(spend_token("new", TOKEN, uid, key)));
        assert_eq!(about, "token");
        assert!(words.contains("was used already") && words.contains("roadstead join new"), "{words}");
    }
    // Told again, as a retry does, it is as used as before.
    fleet.must(put_token("new", TOKEN, ""));
    assert_eq!(field(fleet.refused(spend_token("new", TOKEN, "uid-new", 2))).0, "token");
    fleet.check();
}

#[test]
fn of_two_exchanges_in_flight_one_wins_on_every_replica() {
    let mut fleet = joining();
    fleet.must(put_token("new", TOKEN, ""));
    let both = vec![fleet.proposed(spend_token("new", TOKEN, "uid-a", 1)), fleet.proposed(spend_token("new", TOKEN, "uid-b", 2))];
    let outcomes = fleet.entry(both, true).outcomes;
    assert!(matches!(outcomes[0], Outcome::Done(_)), "{outcomes:?}");
    let Outcome::Rejected(refused) = outcomes[1].clone() else { panic!("both were exchanged") };
    assert_eq!(field(refused).0, "token");
    assert_eq!(fleet.state.cluster("new").expect("declared").spec.uid, "uid-a");
    fleet.check();
}

#[test]
fn a_token_ends_with_its_time_with_a_newer_one_and_with_a_restore() {
    let mut fleet = joining();
    fleet.must(put_token("new", TOKEN, ""));
    fleet.time = Timestamp(fleet.time.0 + 9_999);
    let in_time = fleet.proposed(spend_token("new", TOKEN, "uid-new", 1));
    fleet.time = Timestamp(fleet.time.0 + 1);
    assert!(field(fleet.refused(spend_token("new", TOKEN, "uid-new", 1))).1.contains("has expired"));
    let outcome = fleet.entry(vec![in_time], true).outcomes.remove(0);
    assert!(matches!(outcome, Outcome::Rejected(_)), "what was decided in time is judged by the entry's time");

    fleet.must(put_token("new", TOKEN, ""));
    assert!(field(fleet.refused(spend_token("new", TOKEN, "uid-new", 1))).1.contains("has expired"), "the same one is not made good again");
    let newer = Digest([8; 32]);
    fleet.must(put_token("new", newer, ""));
    assert!(field(fleet.refused(spend_token("new", TOKEN, "uid-new", 1))).1.contains("newer one"));
    fleet.command(Command::Incarnate { incarnation: Incarnation(1) });
    assert_eq!(field(fleet.refused(spend_token("new", newer, "uid-new", 1))).0, "token");
    fleet.check();
}

#[test]
fn a_token_is_for_its_cluster_and_a_cluster_comes_back_as_itself() {
    let mut fleet = joining();
    fleet.must(put_token("c0", TOKEN, ""));
    assert_eq!(field(fleet.refused(spend_token("new", TOKEN, "uid-new", 1))).0, "token", "another cluster's");
    assert_eq!(field(fleet.refused(spend_token("none", TOKEN, "uid-new", 1))).0, "token", "none is told from one that has no token");
    let (about, words) = field(fleet.refused(spend_token("c0", TOKEN, "uid-of-a-copy", 1)));
    assert_eq!(about, "uid");
    assert!(words.contains("takes another name") && words.contains("roadstead forget c0"), "{words}");
    assert_eq!(field(fleet.refused(spend_token("c0", TOKEN, "", 1))).0, "uid");
    fleet.must(spend_token("c0", TOKEN, "uid-c0", 1));
    assert_eq!(field(fleet.refused(put_token("c0", Digest([9; 32]), "uid-of-a-copy"))).0, "uid");
    let (about, words) = field(fleet.refused(put_token("new", TOKEN, "uid-c0")));
    assert_eq!(about, "uid");
    assert!(words.contains("\"c0\""), "{words}");
    fleet.must(put_token("new", Digest([9; 32]), "uid-new"));
    assert_eq!(field(fleet.refused(spend_token("new", Digest([9; 32]), "uid-other", 1))).0, "uid");
    fleet.must(spend_token("new", Digest([9; 32]), "uid-new", 1));
    fleet.must(Ask::DeleteCluster { name: name("new"), forget: false });
    fleet.check();
}

#[test]
fn below_its_level_no_token_is_made() {
    let mut fleet = Fleet::with_clusters(1, 5, 1000);
    fleet.command(Command::RaiseLevel { level: FeatureLevel(ENROLS.0 - 1) });
    assert!(field(fleet.refused(put_token("c0", TOKEN, ""))).1.contains("upgrade all of them"));
}
