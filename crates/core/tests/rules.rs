//! Each rule of what becomes of a request, as a claim.

mod common;

use std::sync::Arc;

use common::*;
use roadstead_core::agreement::LASTS;
use roadstead_core::apply::{RETURNS_TO_ANY_SHARD, supported};
use roadstead_core::class::{ClassVersion, VolumeSpec};
use roadstead_core::cluster::{ClusterSpec, ClusterState};
use roadstead_core::codec::{SnapshotReader, decode_batch, encode_batch, snapshot};
use roadstead_core::command::{Batch, Command, Done, Envelope, FeatureLevel, Outcome, Rejection, SUPPORTED_LEVEL};
use roadstead_core::constraint::Constraints;
use roadstead_core::decide::{Decision, WhatIf};
use roadstead_core::history::EventKind;
use roadstead_core::id::{Epoch, Incarnation, VolumeUid};
use roadstead_core::intent::{Role, for_cluster};
use roadstead_core::observed::TroubleKind;
use roadstead_core::request::{Ask, Observed, ObservedTenant, Report};
use roadstead_core::resources::{Bytes, Resources};
use roadstead_core::schedule::describe_reason;
use roadstead_core::tenant::{Desired, Phase, TenantSpec};
use roadstead_core::time::{Millis, Timestamp};

fn round_trip(fleet: &Fleet) -> roadstead_core::state::State {
    let mut reader = SnapshotReader::default();
    for chunk in snapshot(&fleet.state) {
        reader.push(&chunk).expect("our own chunk");
    }
    reader.finish().expect("our own snapshot")
}

#[test]
fn a_tenant_is_placed_runs_is_deleted_kept_and_brought_back() {
    let mut fleet = Fleet::with_clusters(2, 10, 1000);
    assert!(matches!(fleet.place("a"), Done::Placed { .. }));
    fleet.observe("a", Observed::Running);
    assert!(matches!(fleet.tenant("a").phase, Phase::Bound { running: true, .. }));
    fleet.release("a");
    fleet.observe("a", Observed::Stopped);
    assert!(matches!(fleet.tenant("a").phase, Phase::Retained { .. }));
    fleet.check();
    fleet.must(Ask::UndeleteTenant { name: name("a") });
    assert!(matches!(fleet.tenant("a").phase, Phase::Bound { running: false, .. }));
    fleet.check();
    let (events, dropped) = fleet.state.events_of(fleet.tenant("a").id);
    assert_eq!((events.len(), dropped), (5, false));
}

/// A fleet in which agents tell all that they see.
fn observing_fleet() -> Fleet {
    let mut fleet = Fleet::with_clusters(2, 10, 1000);
    fleet.command(Command::RaiseLevel { level: SUPPORTED_LEVEL });
    fleet
}

#[test]
fn what_was_kept_of_a_deleted_tenant_counts_until_its_agent_says_that_it_is_gone() {
    let mut fleet = observing_fleet();
    fleet.place("a");
    let cluster = fleet.tenant("a").phase.binding().expect("placed").cluster;
    fleet.release("a");
    fleet.observe("a", Observed::Stopped);
    let generation = fleet.state.generation(cluster);
    fleet.time = Timestamp(fleet.time.0 + 5000);
    fleet.command(Command::Expire { limit: 10 });
    assert!(matches!(fleet.tenant("a").phase, Phase::Purging { .. }), "its retention has passed");
    assert!(fleet.state.generation(cluster) > generation, "its agent hears of it");
    let wanted = for_cluster(&fleet.state, cluster);
    assert_eq!(wanted.tenants.iter().map(|tenant| tenant.role).collect::<Vec<_>>(), [Role::Absent]);
    let refused = fleet.refused(Ask::UndeleteTenant { name: name("a") });
    assert!(refused.to_string().contains("it cannot come back"), "{refused}");
    fleet.observe("a", Observed::Stopped);
    assert!(fleet.state.tenant("a").is_some());
    fleet.check();
    fleet.observe("a", Observed::Absent);
    assert!(fleet.state.tenant("a").is_none());
    fleet.check();
}

#[test]
fn a_purge_of_what_is_kept_is_carried_out_by_its_agent_and_where_there_is_none_at_once() {
    for has_agent in [true, false] {
        let mut fleet = observing_fleet();
        fleet.must(Ask::PutCluster { spec: Box::new(cluster("c9", 5)), expected: None });
        fleet.must(Ask::AdoptTenant { spec: Box::new(spec("a")), cluster: name("c9"), shard: None });
        let binding = fleet.tenant("a").phase.binding().expect("placed");
        fleet.release("a");
        let seen = ObservedTenant { id: fleet.tenant("a").id, epoch: binding.epoch, observed: Observed::Stopped };
        fleet.ask(Ask::Report(Box::new(Report { by_agent: has_agent, ..report("c9", None, vec![seen]) })));
        fleet.must(Ask::ReleaseTenant { name: name("a"), purge: true, expected: None });
        let left = fleet.state.tenant("a").map(|tenant| tenant.phase);
        assert_eq!(matches!(left, Some(Phase::Purging { .. })), has_agent, "{left:?}");
        fleet.check();
    }
}

#[test]
fn a_volume_is_known_by_the_uid_that_was_told_first_and_a_trouble_since_it_began() {
    let mut fleet = observing_fleet();
    fleet.place("a");
    fleet.tell("a", &[("data", 7)], Some((TroubleKind::Waits, "an image is pulled")));
    let (id, began) = (fleet.tenant("a").id, fleet.time);
    fleet.time = Timestamp(fleet.time.0 + 50);
    fleet.tell("a", &[("data", 8), ("logs", 9)], Some((TroubleKind::Waits, "an image cannot be pulled")));
    let facts = fleet.state.facts_of(id).expect("told").clone();
    assert_eq!(facts.volumes, [(name("data"), VolumeUid(7)), (name("logs"), VolumeUid(9))]);
    let trouble = facts.trouble.expect("told");
    assert_eq!((trouble.why.as_str(), trouble.since), ("an image cannot be pulled", began));
    let cluster = fleet.tenant("a").phase.binding().expect("placed").cluster;
    assert_eq!(for_cluster(&fleet.state, cluster).tenants[0].volumes[0].uid, Some(VolumeUid(7)));
    assert_eq!(fleet.state.info_of(cluster).expect("told").nodes, 3);
    let before = fleet.state.revision();
    assert!(matches!(fleet.tell("a", &[("data", 7)], Some((TroubleKind::Waits, "an image cannot be pulled"))), Outcome::Done(_)));
    assert_eq!(fleet.state.revision(), before, "what is known already is not written again");
    assert_eq!(round_trip(&fleet).digest(), fleet.state.digest());
    fleet.tell("a", &[], None);
    assert_eq!(fleet.state.facts_of(id).expect("its volumes").trouble, None);
    fleet.check();
}

#[test]
fn nothing_is_removed_while_a_cluster_has_yet_to_report_since_a_restore() {
    let mut fleet = observing_fleet();
    fleet.place("a");
    let cluster = fleet.tenant("a").phase.binding().expect("placed").cluster;
    fleet.must(Ask::ReleaseTenant { name: name("a"), purge: true, expected: None });
    let roles = |fleet: &Fleet| for_cluster(&fleet.state, cluster).tenants.iter().map(|tenant| tenant.role).collect::<Vec<_>>();
    assert_eq!(roles(&fleet), [Role::Absent]);
    fleet.command(Command::Incarnate { incarnation: Incarnation(1) });
    assert_eq!(roles(&fleet), [Role::Stopped]);
    let generation = fleet.state.generation(cluster);
    fleet.must(Ask::WaiveFence { cluster: None });
    assert_eq!(roles(&fleet), [Role::Absent]);
    assert!(fleet.state.generation(cluster) > generation, "its agent hears of it");
}

#[test]
fn a_snapshot_holds_everything() {
    let mut fleet = Fleet::with_clusters(2, 10, 1000);
    for number in 0..30 {
        let mut request = fleet.request(place(spec(&format!("t{number}"))));
        request.retry = Some(retry(number, fleet.time));
        fleet.batch(vec![request]);
    }
    fleet.release("t1");
    let copy = round_trip(&fleet);
    assert_eq!(copy.digest(), fleet.state.digest());
    assert!(copy.check_invariants().is_empty());
    assert_eq!(copy.pending_count(), 10);
}

#[test]
fn a_retried_id_gets_the_first_answer_and_has_no_second_effect() {
    let mut fleet = Fleet::with_clusters(1, 10, 1000);
    let mut request = fleet.request(place(spec("a")));
    request.retry = Some(retry(1, fleet.time));
    // Both in one entry: the second is found by apply; then one that is found before the log.
    let outcomes = fleet.batch(vec![request.clone(), request.clone()]);
    assert_eq!(outcomes[0], outcomes[1]);
    fleet.check();
    assert_eq!(fleet.batch(vec![request.clone()])[0], outcomes[0]);
    assert_eq!(fleet.state.tenant_count(), 1);
    let mut other = request.clone();
    other.retry = Some(roadstead_core::request::Retry { fingerprint: 99, ..other.retry.expect("set") });
    assert_eq!(fleet.batch(vec![other])[0], Outcome::Rejected(Rejection::RequestIdReused));
    fleet.time = Timestamp(fleet.time.0 + 3_600_001);
    let mut old = fleet.request(place(spec("b")));
    old.retry = Some(retry(2, Timestamp(1000)));
    assert!(matches!(fleet.batch(vec![old])[0], Outcome::Rejected(Rejection::RequestIdExpired { .. })));
    fleet.check();
}

#[test]
fn a_waiting_tenant_is_placed_as_soon_as_there_is_room() {
    let mut fleet = Fleet::with_clusters(1, 2, 1000);
    fleet.place("a");
    fleet.place("b");
    assert!(matches!(fleet.place("c"), Done::Pending { .. }));
    fleet.settle();
    fleet.release("a");
    fleet.settle();
    assert!(matches!(fleet.tenant("c").phase, Phase::Pending { .. }), "what is on its way out still counts");
    fleet.observe("a", Observed::Stopped);
    fleet.settle();
    assert!(matches!(fleet.tenant("c").phase, Phase::Bound { .. }));
    fleet.check();
}

#[test]
fn entries_survive_being_written() {
    let mut fleet = Fleet::with_clusters(1, 2, 1000);
    fleet.place("a");
    for (_, batch) in &fleet.log {
        assert_eq!(decode_batch(&encode_batch(batch)).as_ref(), Ok(batch));
    }
}

#[test]
fn growth_that_does_not_fit_changes_nothing_and_says_so_with_numbers() {
    let mut fleet = Fleet::with_clusters(1, 10, 250);
    fleet.must(Ask::PutClass { class: Box::new(class("2", 200)) });
    fleet.place("a");
    fleet.place("b");
    let before = fleet.tenant("a");
    let wanted = TenantSpec { version: "2".to_owned(), ..spec("a") };
    let Rejection::Unplaceable { reason } = fleet.refused(Ask::UpdateTenant { spec: Box::new(wanted), expected: None }) else {
        panic!("refused for another reason");
    };
    let text = describe_reason(&reason, &|id| format!("c{}", id.0));
    assert!(text.contains("200") && text.contains("150"), "{text}");
    assert_eq!(fleet.tenant("a"), before);
    fleet.check();
}

#[test]
fn a_new_class_version_touches_nobody_and_one_in_use_cannot_be_deleted() {
    let mut fleet = Fleet::with_clusters(1, 10, 1000);
    fleet.place("a");
    let before = fleet.tenant("a");
    fleet.must(Ask::PutClass { class: Box::new(class("2", 500)) });
    assert_eq!(fleet.tenant("a"), before);
    let used = Ask::DeleteClass { name: name("shop"), version: "1".to_owned() };
    assert!(matches!(fleet.refused(used), Rejection::InUse { .. }));
    fleet.must(Ask::DeleteClass { name: name("shop"), version: "2".to_owned() });
}

#[test]
fn a_class_version_is_immutable_and_the_same_again_is_no_change() {
    let mut fleet = Fleet::new();
    let created = fleet.state.class("shop", "1").expect("there").created;
    let again = fleet.must(Ask::PutClass { class: Box::new(class("1", 100)) });
    assert_eq!(again, Done::Changed { revision: created });
    assert!(matches!(fleet.refused(Ask::PutClass { class: Box::new(class("1", 101)) }), Rejection::InUse { .. }));
}

#[test]
fn constraints_that_no_longer_hold_are_told_and_move_nobody() {
    let mut fleet = Fleet::with_clusters(1, 10, 1000);
    fleet.command(Command::RaiseLevel { level: FeatureLevel(2) });
    let mut wanted = spec("a");
    wanted.constraints = Constraints { regions: vec!["eu-1".to_owned()], ..Constraints::default() }.into();
    fleet.must(place(wanted));
    let phase = fleet.tenant("a").phase;
    let moved = ClusterSpec { region: "us-1".to_owned(), ..cluster("c0", 10) };
    fleet.must(Ask::PutCluster { spec: Box::new(moved), expected: None });
    assert!(fleet.tenant("a").misplaced);
    assert_eq!(fleet.tenant("a").phase, phase);
    fleet.must(Ask::PutCluster { spec: Box::new(cluster("c0", 10)), expected: None });
    assert!(!fleet.tenant("a").misplaced);
    let (events, _) = fleet.state.events_of(fleet.tenant("a").id);
    let told = events.iter().filter(|event| matches!(event.kind, EventKind::Misplaced { .. })).count();
    assert_eq!(told, 2, "from level 2 on, the history tells it");
    fleet.check();
}

#[test]
fn a_protected_tenant_is_not_released() {
    let mut fleet = Fleet::with_clusters(1, 10, 1000);
    fleet.must(place(TenantSpec { deletion_protection: true, ..spec("a") }));
    let release = Ask::ReleaseTenant { name: name("a"), purge: false, expected: None };
    assert!(matches!(fleet.refused(release), Rejection::InUse { .. }));
}

#[test]
fn who_waits_past_its_deadline_is_dropped() {
    let mut fleet = Fleet::new();
    fleet.must(place(TenantSpec { deadline: Some(Timestamp(fleet.time.0 + 10)), ..spec("a") }));
    fleet.settle();
    assert_eq!(fleet.state.pending_count(), 1);
    fleet.time = Timestamp(fleet.time.0 + 10);
    fleet.settle();
    assert!(fleet.state.tenant("a").is_none());
    fleet.check();
}

#[test]
fn a_quota_bounds_what_an_owner_holds_waiting_included() {
    let mut fleet = Fleet::with_clusters(1, 1, 1000);
    let mut policy = fleet.state.policy().spec.clone();
    policy.default_quota.tenants = Some(2);
    fleet.must(Ask::PutPolicy { spec: Box::new(policy), expected: None });
    fleet.place("a");
    assert!(matches!(fleet.place("b"), Done::Pending { .. }));
    assert!(matches!(fleet.refused(place(spec("c"))), Rejection::QuotaExceeded { limit: 2, wanted: 3, .. }));
}

#[test]
fn waiting_is_bounded_and_can_be_declined() {
    let mut fleet = Fleet::new();
    let mut policy = fleet.state.policy().spec.clone();
    policy.max_pending = 1;
    fleet.must(Ask::PutPolicy { spec: Box::new(policy), expected: None });
    assert!(matches!(fleet.refused(Ask::PlaceTenant { spec: Box::new(spec("a")), wait: false }), Rejection::Unplaceable { .. }));
    fleet.place("a");
    assert!(matches!(fleet.refused(place(spec("b"))), Rejection::PendingFull { max: 1 }));
}

#[test]
fn a_newcomer_never_takes_room_that_an_equal_or_higher_one_waits_for() {
    let mut fleet = Fleet::with_clusters(1, 1, 1000);
    fleet.place("a");
    fleet.must(place(TenantSpec { priority: 5, ..spec("first") }));
    fleet.settle();
    fleet.release("a");
    fleet.observe("a", Observed::Stopped);
    assert!(matches!(fleet.must(place(TenantSpec { priority: 5, ..spec("later") })), Done::Pending { .. }));
    assert!(matches!(fleet.must(place(TenantSpec { priority: 6, ..spec("urgent") })), Done::Placed { .. }));
    fleet.settle();
    assert!(matches!(fleet.tenant("first").phase, Phase::Pending { .. }));
    fleet.release("urgent");
    fleet.observe("urgent", Observed::Stopped);
    fleet.settle();
    assert!(matches!(fleet.tenant("first").phase, Phase::Bound { .. }));
    assert!(matches!(fleet.tenant("later").phase, Phase::Pending { .. }));
    fleet.check();
}

fn in_region(region: &str) -> Arc<Constraints> {
    Arc::new(Constraints { regions: vec![region.to_owned()], ..Constraints::default() })
}

#[test]
fn who_waits_is_tried_when_what_refuses_it_has_changed_on_the_way() {
    // Cordoned and full; then only full; then neither.
    let mut fleet = Fleet::with_clusters(1, 1, 1000);
    fleet.place("a");
    fleet.must(Ask::CordonCluster { name: name("c0"), cordoned: true });
    fleet.place("waits");
    fleet.settle();
    fleet.must(Ask::CordonCluster { name: name("c0"), cordoned: false });
    fleet.settle();
    assert!(matches!(fleet.tenant("waits").phase, Phase::Pending { .. }));
    fleet.release("a");
    fleet.observe("a", Observed::Stopped);
    fleet.settle();
    assert!(matches!(fleet.tenant("waits").phase, Phase::Bound { .. }));
    // A region that no cluster has; then one has it, without any room; then there is room.
    fleet.must(place(TenantSpec { constraints: in_region("north"), ..spec("northerly") }));
    fleet.settle();
    let spec = ClusterSpec { region: "north".to_owned(), uid: "uid-n".to_owned(), ..cluster("n", 5) };
    fleet.must(Ask::PutCluster { spec: Box::new(spec), expected: None });
    fleet.settle();
    assert!(matches!(fleet.tenant("northerly").phase, Phase::Pending { .. }));
    fleet.must(Ask::Report(Box::new(report("n", Some(capacity(1000)), Vec::new()))));
    fleet.settle();
    assert!(matches!(fleet.tenant("northerly").phase, Phase::Bound { .. }));
    fleet.check();
}

#[test]
fn who_is_updated_while_its_refusal_is_noted_is_tried_again() {
    let mut fleet = Fleet::with_clusters(1, 1, 1000);
    fleet.place("a");
    fleet.must(place(TenantSpec { constraints: in_region("nowhere"), ..spec("waits") }));
    fleet.settle();
    fleet.must(Ask::CordonCluster { name: name("c0"), cordoned: true });
    let id = fleet.tenant("waits").id;
    let update = fleet.proposed(Ask::UpdateTenant { spec: Box::new(spec("waits")), expected: None });
    fleet.entry(vec![update], true);
    // It was tried on the state before the update, and what refused it then is noted after it.
    let note = Command::NoteUnplaced { id, reason: vec![1, 2, 3] };
    fleet.entry(vec![Envelope { principal: roadstead_core::decide::leader(), retry: None, command: note }], true);
    fleet.release("a");
    fleet.observe("a", Observed::Stopped);
    fleet.must(Ask::CordonCluster { name: name("c0"), cordoned: false });
    fleet.settle();
    assert!(matches!(fleet.tenant("waits").phase, Phase::Bound { .. }));
    fleet.check();
}

#[test]
fn what_is_held_for_a_tenant_survives_what_another_entry_does_to_it() {
    // Its retention passes while it is being brought back.
    let mut fleet = Fleet::with_clusters(1, 5, 1000);
    fleet.place("a");
    fleet.release("a");
    fleet.observe("a", Observed::Stopped);
    let undelete = fleet.proposed(Ask::UndeleteTenant { name: name("a") });
    fleet.time = Timestamp(fleet.time.0 + 1000);
    assert!(matches!(fleet.command(Command::Expire { limit: 10 }), Outcome::Done(_)));
    assert!(matches!(fleet.entry(vec![undelete], true).outcomes[..], [Outcome::Rejected(_)]));
    fleet.check();
    // It stops for good while it is growing.
    fleet.place("b");
    fleet.must(Ask::PutClass { class: Box::new(class("2", 300)) });
    let grow = fleet.proposed(Ask::UpdateTenant { spec: Box::new(TenantSpec { version: "2".to_owned(), ..spec("b") }), expected: None });
    fleet.release("b");
    fleet.observe("b", Observed::Stopped);
    assert!(matches!(fleet.entry(vec![grow], true).outcomes[..], [Outcome::Rejected(_)]));
    fleet.check();
}

#[test]
fn what_if_counts_each_for_the_next_and_keeps_to_quotas() {
    let mut fleet = Fleet::with_clusters(1, 3, 1000);
    let mut policy = fleet.state.policy().spec.clone();
    policy.default_quota.tenants = Some(2);
    fleet.must(Ask::PutPolicy { spec: Box::new(policy), expected: None });
    let mut what_if = WhatIf::new(&fleet.state);
    let mut place = |spec: TenantSpec| {
        let (explanation, quota) = what_if.place(spec).expect("a sound spec");
        (explanation.decision.is_ok(), matches!(quota, Some(Rejection::QuotaExceeded { .. })))
    };
    assert_eq!(["a", "b", "c"].map(|name| place(spec(name))), [(true, false), (true, false), (true, true)]);
    let of_others = |name| TenantSpec { owner: owner("others"), ..spec(name) };
    assert_eq!(["d", "e"].map(|name| place(of_others(name))), [(true, false), (false, false)], "there is room for three");
    fleet.check();
}

#[test]
fn adopting_and_lowering_a_cap_make_a_cluster_overfull_and_evict_nobody() {
    let mut fleet = Fleet::with_clusters(1, 2, 1000);
    for tenant in ["a", "b", "c"] {
        fleet.must(Ask::AdoptTenant { spec: Box::new(spec(tenant)), cluster: name("c0"), shard: None });
    }
    let id = fleet.state.cluster("c0").expect("there").id;
    assert_eq!(fleet.state.cluster_state(id), Some(ClusterState::Overfull));
    assert_eq!(fleet.state.tenants_of_cluster(id).count(), 3);
    assert!(matches!(fleet.place("d"), Done::Pending { .. }));
    fleet.check();
}

#[test]
fn retained_tenants_count_their_storage_only_and_undelete_checks_for_room_again() {
    let mut fleet = Fleet::with_clusters(1, 1, 1000);
    fleet.place("a");
    fleet.release("a");
    fleet.observe("a", Observed::Stopped);
    let id = fleet.state.cluster("c0").expect("there").id;
    assert_eq!(fleet.state.ledger().used(id), Resources { storage: Bytes(10), ..Resources::default() });
    fleet.settle();
    fleet.place("b");
    assert!(matches!(fleet.refused(Ask::UndeleteTenant { name: name("a") }), Rejection::Unplaceable { .. }));
    fleet.time = Timestamp(fleet.time.0 + 1000);
    fleet.settle();
    assert!(fleet.state.tenant("a").is_none(), "its retention has passed");
    fleet.check();
}

#[test]
fn a_tenant_comes_back_to_another_shard_if_its_own_is_full() {
    // Two shards of one tenant each.
    let mut fleet = Fleet::with_clusters(1, 2, 1000);
    fleet.place("a");
    fleet.release("a");
    fleet.observe("a", Observed::Stopped);
    fleet.place("b");
    let mut older = fleet.clone();
    assert!(matches!(older.refused(Ask::UndeleteTenant { name: name("a") }), Rejection::Unplaceable { .. }), "as builds before did");
    fleet.command(Command::RaiseLevel { level: RETURNS_TO_ANY_SHARD });
    fleet.must(Ask::UndeleteTenant { name: name("a") });
    let shard = |name: &str| fleet.tenant(name).phase.binding().expect("bound").shard.0;
    assert_eq!((shard("a"), shard("b")), (1, 0));
    fleet.check();
    older.check();
}

#[test]
fn a_purged_tenant_is_gone_only_when_nothing_of_it_is_left() {
    let mut fleet = Fleet::with_clusters(1, 1, 1000);
    fleet.place("a");
    fleet.must(Ask::ReleaseTenant { name: name("a"), purge: true, expected: None });
    fleet.observe("a", Observed::Stopped);
    assert!(matches!(fleet.tenant("a").phase, Phase::Releasing { purge: true, .. }));
    assert!(matches!(fleet.refused(Ask::UndeleteTenant { name: name("a") }), Rejection::InUse { .. }));
    fleet.observe("a", Observed::Absent);
    assert!(fleet.state.tenant("a").is_none());
    fleet.check();
}

#[test]
fn a_cluster_with_tenants_is_only_forgotten_and_its_tenants_wait() {
    let mut fleet = Fleet::with_clusters(1, 5, 1000);
    fleet.place("a");
    assert!(matches!(fleet.refused(Ask::DeleteCluster { name: name("c0"), forget: false }), Rejection::InUse { .. }));
    fleet.must(Ask::DeleteCluster { name: name("c0"), forget: true });
    assert!(matches!(fleet.tenant("a").phase, Phase::Pending { .. }));
    let (events, _) = fleet.state.events_of(fleet.tenant("a").id);
    assert!(matches!(events.last().expect("some").kind, EventKind::Forgotten { .. }));
    fleet.check();
}

#[test]
fn a_clusters_identity_is_fixed_once_set() {
    let mut fleet = Fleet::with_clusters(2, 5, 1000);
    let mut clone = report("c0", Some(capacity(1)), Vec::new());
    clone.uid = "another".to_owned();
    assert!(matches!(fleet.refused(Ask::Report(Box::new(clone))), Rejection::Invalid { .. }));
    let stolen = ClusterSpec { uid: "uid-c1".to_owned(), ..cluster("c0", 5) };
    assert!(matches!(fleet.refused(Ask::PutCluster { spec: Box::new(stolen), expected: None }), Rejection::Invalid { .. }));
}

#[test]
fn a_cluster_of_which_only_an_operator_has_told_does_not_fall_silent() {
    let mut fleet = Fleet::new();
    fleet.must(Ask::PutCluster { spec: Box::new(cluster("c0", 5)), expected: None });
    let told = Report { by_agent: false, ..report("c0", Some(capacity(1000)), Vec::new()) };
    fleet.must(Ask::Report(Box::new(told.clone())));
    let id = fleet.state.cluster("c0").expect("there").id;
    fleet.contacts.last_heard.insert(id, fleet.time);
    fleet.time = Timestamp(fleet.time.0 + 3_600_000);
    fleet.settle();
    assert_eq!(fleet.state.cluster_state(id), Some(ClusterState::Active));
    fleet.must(Ask::Report(Box::new(report("c0", None, Vec::new()))));
    fleet.contacts.last_heard.insert(id, fleet.time);
    fleet.time = Timestamp(fleet.time.0 + 60_001);
    fleet.settle();
    assert_eq!(fleet.state.cluster_state(id), Some(ClusterState::Silent), "it has an agent now");
    fleet.must(Ask::Report(Box::new(told)));
    assert_eq!(fleet.state.cluster_state(id), Some(ClusterState::Silent), "an operator does not speak for it");
}

#[test]
fn volumes_that_are_there_never_shrink_and_grow_only_if_their_class_says_so() {
    let mut fleet = Fleet::with_clusters(1, 5, 1000);
    let volume = |text: &str, grow| VolumeSpec { name: name(text), size: Bytes(10), storage: "fast".to_owned(), grow };
    let class = ClassVersion { volumes: vec![volume("grows", true), volume("fixed", false)], ..class("2", 100) };
    fleet.must(Ask::PutClass { class: Box::new(class) });
    let sized = |grows, fixed| TenantSpec {
        version: "2".to_owned(),
        volumes: vec![(name("grows"), Bytes(grows)), (name("fixed"), Bytes(fixed))],
        ..spec("a")
    };
    fleet.must(place(sized(20, 10)));
    let update = |spec| Ask::UpdateTenant { spec: Box::new(spec), expected: None };
    let before = fleet.tenant("a").clone();
    for (bad, why) in [(sized(19, 10), "cannot shrink"), (sized(20, 11), "does not let it grow")] {
        let Rejection::Invalid { field, problem } = fleet.refused(update(bad)) else { panic!("{why}") };
        assert_eq!(field, "spec.volumes");
        assert!(problem.contains(why), "{problem}");
    }
    assert_eq!(fleet.tenant("a"), before, "nothing of it was taken");
    fleet.must(update(sized(30, 10)));
    assert_eq!(fleet.tenant("a").spec.requests.total.storage.0 - before.spec.requests.total.storage.0, 10);
}

#[test]
fn a_silent_cluster_takes_nothing_until_it_reports() {
    let mut fleet = Fleet::with_clusters(1, 5, 1000);
    let id = fleet.state.cluster("c0").expect("there").id;
    fleet.contacts.last_heard.insert(id, fleet.time);
    fleet.time = Timestamp(fleet.time.0 + 60_001);
    fleet.settle();
    assert_eq!(fleet.state.cluster_state(id), Some(ClusterState::Silent));
    fleet.contacts.last_heard.insert(id, fleet.time);
    assert!(matches!(fleet.place("a"), Done::Pending { .. }));
    fleet.must(Ask::Report(Box::new(report("c0", None, Vec::new()))));
    fleet.settle();
    assert!(matches!(fleet.tenant("a").phase, Phase::Bound { .. }));
}

#[test]
fn after_a_restore_nothing_is_decided_or_deleted_until_every_cluster_has_reported() {
    let mut fleet = Fleet::with_clusters(2, 5, 1000);
    fleet.place("a");
    let epoch = fleet.tenant("a").phase.binding().expect("bound").epoch;
    fleet.command(Command::Incarnate { incarnation: Incarnation(1) });
    assert!(matches!(fleet.refused(place(spec("b"))), Rejection::Fenced { waiting: 2 }));
    let release = Ask::ReleaseTenant { name: name("a"), purge: true, expected: None };
    assert!(matches!(fleet.refused(release.clone()), Rejection::Fenced { .. }));
    assert!(matches!(fleet.command(Command::Expire { limit: 1 }), Outcome::Rejected(Rejection::Fenced { .. })));
    // One that was on its way since before the restore proves nothing.
    fleet.must(Ask::Report(Box::new(Report { complete: Some(Incarnation(0)), ..report("c0", None, Vec::new()) })));
    assert!(matches!(fleet.refused(release.clone()), Rejection::Fenced { waiting: 2 }));
    fleet.must(Ask::Report(Box::new(Report { complete: Some(Incarnation(1)), ..report("c0", None, Vec::new()) })));
    assert!(matches!(fleet.refused(release), Rejection::Fenced { waiting: 1 }));
    fleet.must(Ask::WaiveFence { cluster: Some(name("c1")) });
    fleet.place("b");
    assert!(fleet.tenant("b").phase.binding().expect("bound").epoch > epoch);
    assert!(fleet.tenant("b").id > fleet.tenant("a").id);
    fleet.check();
}

#[test]
fn a_tenant_that_came_back_after_the_backup_is_bound_in_an_epoch_that_is_acted_on() {
    let mut fleet = observing_fleet();
    fleet.place("a");
    let (id, before) = (fleet.tenant("a").id, fleet.tenant("a").phase.binding().expect("placed"));
    let cluster = fleet.state.cluster_by_id(before.cluster).expect("declared").spec.name.to_string();
    fleet.command(Command::Incarnate { incarnation: Incarnation(1) });
    // Undeleted at an entry that the backup does not know.
    let later = Epoch { incarnation: Incarnation(0), index: before.epoch.index + 1000 };
    let seen = |observed| Ask::Report(Box::new(report(&cluster, None, vec![ObservedTenant { id, epoch: later, observed }])));
    fleet.must(seen(Observed::Absent));
    assert_eq!(fleet.tenant("a").phase.binding(), Some(before));
    fleet.must(seen(Observed::Running));
    let binding = fleet.tenant("a").phase.binding().expect("bound");
    assert_eq!((binding.cluster, binding.shard), (before.cluster, before.shard));
    assert!(binding.epoch > later, "older ones are not acted on in its cluster");
    fleet.must(seen(Observed::Running));
    assert_eq!(fleet.tenant("a").phase.binding(), Some(binding), "told again it changes nothing");
    fleet.check();
}

#[test]
fn the_feature_level_is_never_lowered_and_a_batch_above_it_can_be_told() {
    let mut fleet = Fleet::new();
    fleet.command(Command::RaiseLevel { level: FeatureLevel(2) });
    fleet.command(Command::RaiseLevel { level: FeatureLevel(1) });
    assert_eq!(fleet.state.level(), FeatureLevel(2));
    let batch = |level| Batch { level, time: Timestamp(0), commands: Vec::new() };
    assert!(supported(&batch(SUPPORTED_LEVEL)));
    assert!(!supported(&batch(FeatureLevel(SUPPORTED_LEVEL.0 + 1))));
}

#[test]
fn a_stale_decision_is_told_and_never_remembered() {
    let mut fleet = Fleet::with_clusters(1, 5, 1000);
    let mut request = fleet.request(place(spec("a")));
    request.retry = Some(retry(1, fleet.time));
    let Ok(Decision::Propose(command)) = fleet.working.decide(&fleet.state, &request, fleet.time) else { panic!("not proposed") };
    fleet.command(Command::CordonCluster { name: name("c0"), cordoned: true });
    let envelope = Envelope { principal: request.principal.clone(), retry: request.retry, command };
    let outcome = fleet.entry(vec![envelope], true).outcomes.remove(0);
    assert_eq!(outcome, Outcome::Rejected(Rejection::Stale));
    fleet.check();
    assert!(matches!(fleet.batch(vec![request])[0], Outcome::Done(Done::Pending { .. })));
}

#[test]
fn an_update_in_flight_holds_the_greater_of_both() {
    let mut fleet = Fleet::with_clusters(1, 10, 500);
    fleet.must(Ask::PutClass { class: Box::new(class("2", 400)) });
    fleet.place("a");
    let grown = Ask::UpdateTenant { spec: Box::new(TenantSpec { version: "2".to_owned(), ..spec("a") }), expected: None };
    let requests = [grown, place(spec("b")), place(spec("c"))].map(|ask| fleet.request(ask)).to_vec();
    let outcomes = fleet.batch(requests);
    assert!(matches!(outcomes[0], Outcome::Done(Done::Changed { .. })));
    assert!(matches!(outcomes[1], Outcome::Done(Done::Placed { .. })));
    assert!(matches!(outcomes[2], Outcome::Done(Done::Pending { .. })));
    fleet.check();
}

/// Tenants `a` to `h` in one cluster, all to be removed, and the last six of them held back by its agent.
fn held_back_fleet() -> Fleet {
    let mut fleet = Fleet::with_clusters(1, 10, 10_000);
    fleet.command(Command::RaiseLevel { level: SUPPORTED_LEVEL });
    for tenant in HELD_BACK {
        fleet.place(tenant);
        fleet.must(Ask::ReleaseTenant { name: name(tenant), purge: true, expected: None });
    }
    for tenant in &HELD_BACK[2..] {
        fleet.tell(tenant, &[], Some((TroubleKind::HeldBack, "too many at once")));
    }
    fleet
}

const HELD_BACK: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

#[test]
fn archived_is_to_a_cluster_what_hibernated_is() {
    let mut fleet = Fleet::with_clusters(1, 10, 1000);
    for (tenant, desired) in [("a", Desired::Running), ("b", Desired::Hibernated), ("c", Desired::Archived)] {
        assert!(matches!(fleet.must(place(TenantSpec { desired, ..spec(tenant) })), Done::Placed { .. }));
    }
    let cluster = fleet.state.cluster("c0").expect("there").id;
    let roles: Vec<Role> = for_cluster(&fleet.state, cluster).tenants.iter().map(|wanted| wanted.role).collect();
    assert_eq!(roles, [Role::Run, Role::Stopped, Role::Stopped]);
}

/// The tenants to whose removal the intent of `c0` says that an operator has agreed.
fn agreed(fleet: &Fleet) -> Vec<String> {
    let intent = for_cluster(&fleet.state, fleet.state.cluster("c0").expect("there").id);
    intent.tenants.iter().filter(|wanted| wanted.removal_agreed).map(|wanted| wanted.name.to_string()).collect()
}

fn allow(count: u32) -> Ask {
    Ask::AllowRemovals { cluster: name("c0"), count }
}

#[test]
fn an_operator_agrees_to_removals_that_wait_one_by_one_and_to_no_other() {
    let mut fleet = held_back_fleet();
    let cluster = fleet.state.cluster("c0").expect("there").id;
    let generation = fleet.state.generation(cluster);
    fleet.must(allow(4));
    assert_eq!(agreed(&fleet), ["c", "d", "e", "f"], "those that wait, in the order in which they go");
    assert!(fleet.state.generation(cluster) > generation, "it is another intent");
    let event = fleet.state.events_of(fleet.tenant("c").id).0.pop().expect("an event");
    let until = fleet.state.time().after(LASTS);
    assert_eq!((event.principal, event.kind), (owner("client:test"), EventKind::RemovalAllowed { until }));

    fleet.must(allow(1000));
    assert_eq!(agreed(&fleet), ["c", "d", "e", "f", "g", "h"], "what its agent carries out by itself needs no agreement");
    assert!(matches!(fleet.refused(allow(1)), Rejection::InUse { .. }), "nothing waits that was not agreed to");
    assert_eq!(round_trip(&fleet).digest(), fleet.state.digest());
    fleet.observe("c", Observed::Absent);
    assert_eq!(agreed(&fleet), ["d", "e", "f", "g", "h"]);
    fleet.check();
}

#[test]
fn an_agreement_to_removals_ends_with_its_time_and_with_a_restore() {
    let mut fleet = held_back_fleet();
    fleet.must(allow(2));
    fleet.time = fleet.time.after(Millis(LASTS.0 - 1));
    fleet.settle();
    assert_eq!(agreed(&fleet), ["c", "d"]);
    let generation = fleet.state.generation(fleet.state.cluster("c0").expect("there").id);
    fleet.time = fleet.time.after(Millis(1));
    fleet.settle();
    assert!(agreed(&fleet).is_empty());
    assert!(fleet.state.generation(fleet.state.cluster("c0").expect("there").id) > generation, "its agent hears of the end");
    fleet.must(allow(1));
    assert_eq!(agreed(&fleet), ["c"], "what was not removed in time waits again");
    fleet.check();

    fleet.command(Command::Incarnate { incarnation: Incarnation(1) });
    assert!(matches!(fleet.refused(allow(1)), Rejection::Fenced { .. }));
    fleet.must(Ask::WaiveFence { cluster: None });
    assert!(agreed(&fleet).is_empty(), "it was given knowing what has been undone");
    fleet.check();
}

#[test]
fn agreements_wait_until_every_replica_knows_of_them() {
    let mut fleet = Fleet::with_clusters(1, 10, 10_000);
    fleet.command(Command::RaiseLevel { level: FeatureLevel(4) });
    fleet.place("a");
    fleet.must(Ask::ReleaseTenant { name: name("a"), purge: true, expected: None });
    fleet.tell("a", &[], Some((TroubleKind::HeldBack, "too many at once")));
    let trouble = fleet.state.facts_of(fleet.tenant("a").id).and_then(|facts| facts.trouble.clone()).expect("told");
    assert_eq!(trouble.kind, TroubleKind::Blocked, "a kind that every replica can read");
    assert!(matches!(fleet.refused(allow(1)), Rejection::InUse { .. }));
    fleet.command(Command::RaiseLevel { level: SUPPORTED_LEVEL });
    fleet.tell("a", &[], Some((TroubleKind::HeldBack, "too many at once")));
    fleet.must(allow(1));
    assert_eq!(agreed(&fleet), ["a"]);
}
